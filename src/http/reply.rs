//! Answers: the one error shape, JSON, and what is read from paths, queries and bodies.
//!
//! Owns `{"error":{"code","message"}}` for every refusal, whoever makes it, and the strict reading of what comes from
//! outside. Refuses to send the text of an internal error: it is logged, the client learns that it happened.

use futures::{Stream, StreamExt as _};
use orch_actors::api::ControlError;
use orch_domain::names::{RepoName, TaskKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use warp::http::{HeaderMap, StatusCode, header};
use warp::reject::Rejection;
use warp::reply::{Reply as _, Response};

/// Most bytes of a request's body.
pub(super) const BODY_LIMIT: usize = 1 << 20;

/// A refusal, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl warp::reject::Reject for ApiError {}

/// What a handler comes to.
pub(super) type Answer = Result<Response, ApiError>;

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorText<'a>,
}

#[derive(Serialize)]
struct ErrorText<'a> {
    code: &'a str,
    message: &'a str,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub(super) fn response(&self) -> Response {
        let body = ErrorBody { error: ErrorText { code: self.code, message: &self.message } };
        warp::reply::with_status(warp::reply::json(&body), self.status).into_response()
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NotFound(text) => Self::new(StatusCode::NOT_FOUND, "not_found", text),
            ControlError::Invalid(text) => Self::bad(text),
            ControlError::Conflict(text) => Self::new(StatusCode::CONFLICT, "conflict", text),
            ControlError::Unavailable(text) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text),
            ControlError::Internal(text) => {
                tracing::error!(error = %text, "a request failed inside the supervisor");
                let message = "the supervisor could not answer; its log has the cause";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
            }
        }
    }
}

/// A handler's outcome as a response.
pub(super) fn send(answer: Answer) -> Response {
    answer.unwrap_or_else(|e| e.response())
}

/// JSON with a status.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    Ok(warp::reply::with_status(warp::reply::json(value), status).into_response())
}

/// JSON, 200.
pub(super) fn ok<T: Serialize>(value: &T) -> Answer {
    json(StatusCode::OK, value)
}

/// The refusal behind a rejection of the routes.
pub(super) fn refusal(rejection: &Rejection) -> ApiError {
    if let Some(refused) = rejection.find::<ApiError>() {
        return refused.clone();
    }
    if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        return no_such_method();
    }
    if rejection.is_not_found() {
        return ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such path; docs/http.md lists them");
    }
    // What is left are the routes' own reads of headers; their words name the header.
    ApiError::bad(format!("{rejection:?}"))
}

/// The refusal of a method that a path does not take.
pub(super) fn no_such_method() -> ApiError {
    let message = "this path does not take that method; the Allow header says which";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// Reads a body up to its limit; the rest of a larger one is read and thrown away (up to a bound), so that the client
/// gets its answer instead of a broken connection.
pub(super) async fn body<S, B>(stream: S) -> Result<Vec<u8>, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: warp::Buf,
{
    let mut stream = std::pin::pin!(stream);
    let mut bytes = Vec::new();
    let mut seen = 0;
    while let Some(part) = stream.next().await {
        let mut part = part.map_err(|e| ApiError::bad(format!("the body could not be read: {e}")))?;
        while part.has_remaining() {
            let chunk = part.chunk();
            let len = chunk.len();
            seen += len;
            if seen <= BODY_LIMIT {
                bytes.extend_from_slice(chunk);
            }
            part.advance(len);
        }
        if seen > 8 * BODY_LIMIT {
            break;
        }
    }
    if seen > BODY_LIMIT {
        let message = format!("the body is larger than {BODY_LIMIT} bytes (1 MiB); send a shorter one");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
    }
    Ok(bytes)
}

/// The media type of a body, without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// A field of a body that is a form; `None`: it is none, or has no such field.
pub(super) fn form_field(headers: &HeaderMap, bytes: &[u8], name: &str) -> Option<String> {
    if media_type(headers).as_deref() != Some("application/x-www-form-urlencoded") {
        return None;
    }
    let form = std::str::from_utf8(bytes).ok()?;
    let mut fields = form.split('&').filter_map(|pair| pair.split_once('='));
    fields.find(|(field, _)| *field == name).and_then(|(_, value)| percent_decode(&value.replace('+', " ")))
}

/// Reads a JSON body.
fn from_json<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, ApiError> {
    match media_type(headers).as_deref() {
        Some("application/json") => {}
        other => {
            let found = other.unwrap_or("none");
            let message = format!("the content type is {}; send application/json", printable(found));
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
        }
    }
    // A list of the members' values in their order would be taken too, and mean something else with the next member.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::bad(
            "the JSON does not fit (line 1, column 1): a list; send an object with named members",
        ));
    }
    serde_json::from_slice(bytes).map_err(|e| {
        let words = e.to_string();
        let what = match e.classify() {
            serde_json::error::Category::Data => "the JSON does not fit",
            _ => "the body is no valid JSON",
        };
        let text = words.rfind(" at line ").map_or(words.as_str(), |at| &words[..at]);
        ApiError::bad(format!("{what} (line {}, column {}): {text}", e.line(), e.column()))
    })
}

/// A request's body, with what its headers say of it. A body that could not be had refuses whatever is asked of it.
pub(super) struct Sent {
    headers: HeaderMap,
    bytes: Result<Vec<u8>, ApiError>,
}

impl Sent {
    /// Of a request.
    pub(super) fn new(headers: HeaderMap, bytes: Result<Vec<u8>, ApiError>) -> Self {
        Self { headers, bytes }
    }

    /// The headers.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The JSON in it.
    pub(super) fn json<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        from_json(&self.headers, &self.bytes?)
    }

    /// The same where it may be left out.
    pub(super) fn json_or_default<T: DeserializeOwned + Default>(self) -> Result<T, ApiError> {
        match self.bytes.as_deref() {
            Ok([]) => Ok(T::default()),
            _ => self.json(),
        }
    }

    /// A field of it, where it is a form.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        form_field(&self.headers, self.bytes.as_deref().ok()?, name)
    }
}

/// Text from outside, cut and without control characters, for a message.
pub(super) fn printable(text: &str) -> String {
    format!("`{}`", text.escape_debug().to_string().chars().take(80).collect::<String>())
}

/// Decodes `%XX`; `None` when it is broken or no UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

/// Encodes everything but letters, digits and `-._~`, for one part of a path or a query's value.
#[must_use]
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The task of a path: a key, `KEY/GENERATION` (its `/` written as `%2F`), or a task id.
pub(super) fn task_key(part: &str) -> Result<String, ApiError> {
    let wrong = || ApiError::bad(format!("{} is no valid percent-encoding", printable(part)));
    let text = percent_decode(part).ok_or_else(wrong)?;
    let (key, generation) = match text.split_once('/') {
        Some((key, generation)) => (key, Some(generation)),
        None => (text.as_str(), None),
    };
    key.parse::<TaskKey>().map_err(|e| ApiError::bad(e.to_string()))?;
    if let Some(generation) = generation
        && generation.parse::<u32>().is_err()
    {
        return Err(ApiError::bad(format!("{} is no generation: write KEY or KEY/NUMBER", printable(generation))));
    }
    Ok(text)
}

/// A repository's name.
pub(super) fn repo_name(text: &str) -> Result<RepoName, ApiError> {
    text.parse().map_err(|e: orch_domain::names::NameError| ApiError::bad(e.to_string()))
}

/// The repository of a path.
pub(super) fn repo_of(part: &str) -> Result<RepoName, ApiError> {
    repo_name(&percent_decode(part).unwrap_or_else(|| part.to_owned()))
}

/// The repository and the salvage of a path; the `/` of a salvage's id are written as `%2F`.
pub(super) fn salvage_of(repo: &str, id: &str) -> Result<(RepoName, String), ApiError> {
    let wrong = || ApiError::bad(format!("{} is no valid percent-encoding", printable(id)));
    Ok((repo_of(repo)?, percent_decode(id).ok_or_else(wrong)?))
}

/// A query's parameters, strict: each known, each at most once.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(raw: &str, known: &[&str]) -> Result<Self, ApiError> {
        let mut found: Vec<(String, String)> = Vec::new();
        for pair in raw.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode(&value.replace('+', " ")).ok_or_else(|| {
                ApiError::bad(format!("query parameter {}: broken percent-encoding", printable(name)))
            })?;
            if !known.contains(&name) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let message = format!("there is no query parameter {} here; known: {known}", printable(name));
                return Err(ApiError::bad(message));
            }
            if found.iter().any(|(n, _)| n == name) {
                return Err(ApiError::bad(format!("query parameter `{name}` is given twice")));
            }
            found.push((name.to_owned(), value));
        }
        Ok(Self(found))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = || ApiError::bad(format!("query parameter `{name}`: {} is no whole number", printable(text)));
        text.parse().map(Some).map_err(|_| wrong())
    }

    pub(super) fn switch(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(other) => {
                Err(ApiError::bad(format!("query parameter `{name}`: {} is neither true nor false", printable(other))))
            }
        }
    }
}
