//! The door: who may come in. Closed by default.
//!
//! Owns the Host allow-list (against DNS rebinding), the bearer token, the board's cookie and the Origin check that a
//! cookie needs (against requests that another site makes in the user's name). Invariant: a request that carries neither
//! token nor cookie learns nothing, not even which paths exist.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use warp::Filter;
use warp::http::{HeaderMap, Method, StatusCode, header};
use warp::reject::Rejection;

use super::files::{Token, same};
use super::reply::{ApiError, printable};

/// Name of the board's cookie.
pub(super) const COOKIE: &str = "orch_board";

/// What a request is judged by.
#[derive(Debug)]
pub(super) struct Guard {
    hosts: Vec<String>,
    any_host: bool,
    pub(super) token: Token,
    cookie: String,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// For the journal.
    pub(super) by: String,
    /// `http` or `cli`.
    pub(super) source: &'static str,
    /// Whether it is the board's user, who wants to see a page.
    pub(super) board: bool,
}

impl Guard {
    pub(super) fn new(bound: SocketAddr, allowed: &[String], token: Token) -> Self {
        let mut hosts: Vec<String> = allowed.iter().map(|h| h.trim().to_ascii_lowercase()).collect();
        if !bound.ip().is_unspecified() {
            hosts.push(host_of(bound.ip()));
        }
        let any_host = hosts.iter().any(|h| h == "*");
        let cookie = token.board_cookie();
        Self { hosts, any_host, token, cookie }
    }

    pub(super) fn cookie_value(&self) -> &str {
        &self.cookie
    }

    /// Whether this Host is answered to.
    pub(super) fn check_host(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let refused = |message: String| ApiError::new(StatusCode::MISDIRECTED_REQUEST, "host_not_allowed", message);
        let values: Vec<_> = headers.get_all(header::HOST).iter().collect();
        let [value] = values[..] else {
            return Err(ApiError::bad("exactly one Host header is needed"));
        };
        let text = value.to_str().map_err(|_| ApiError::bad("the Host header is not readable"))?;
        let host = without_port(text).to_ascii_lowercase();
        let loopback =
            host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if self.any_host || loopback || self.hosts.iter().any(|h| *h == host || h.eq_ignore_ascii_case(text)) {
            return Ok(());
        }
        let hint = "add it to http.allowed_hosts (ORCH_HTTP_ALLOWED_HOSTS)";
        Err(refused(format!("the host {} is not answered to; {hint}", printable(&host))))
    }

    /// Whether the request carries the board's cookie.
    pub(super) fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let pairs = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
        let mut ours = pairs.filter_map(|p| p.trim().split_once('=')).filter(|(name, _)| *name == COOKIE);
        ours.any(|(_, value)| same(value, &self.cookie))
    }

    /// Whether the request carries the token or, from the board's own pages, the cookie.
    pub(super) fn check_caller(&self, method: &Method, headers: &HeaderMap) -> Result<Caller, ApiError> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let presented = value.to_str().ok().and_then(|v| v.split_once(' '));
            let token = presented.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, t)| t.trim());
            return match token.is_some_and(|t| self.token.is(t)) {
                true => Ok(named(headers)),
                false => Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", "the token is not the right one")),
            };
        }
        if !self.has_cookie(headers) {
            let message =
                "a token is needed: `Authorization: Bearer TOKEN`; it is in the `token` file of the data folder";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message));
        }
        if *method != Method::GET {
            self.check_origin(headers, true)?;
        }
        Ok(Caller { by: "board".to_owned(), source: "http", board: true })
    }

    /// Whether a request that changes something comes from our own pages.
    pub(super) fn check_origin(&self, headers: &HeaderMap, needed: bool) -> Result<(), ApiError> {
        let refused = |m: &str| Err(ApiError::new(StatusCode::FORBIDDEN, "cross_origin", m));
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        match headers.get(header::ORIGIN).map(|o| o.to_str().unwrap_or_default()) {
            None if needed => refused("a request with the board's cookie needs an Origin header"),
            None => Ok(()),
            Some(origin) => {
                let of = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
                match of.is_some_and(|of| !of.is_empty() && of.eq_ignore_ascii_case(host)) {
                    true => Ok(()),
                    false => refused("the request comes from another site than the board"),
                }
            }
        }
    }
}

/// The name that a caller with the token gives itself: `X-Orch-By`, for the journal. Not an authority: the token is.
fn named(headers: &HeaderMap) -> Caller {
    let given = headers.get("x-orch-by").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let by: String = given.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(80).collect();
    let source = if by.starts_with("cli:") { "cli" } else { "http" };
    Caller { by: if by.trim().is_empty() { "http".to_owned() } else { by }, source, board: false }
}

fn host_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(end) => &host[..end + 2],
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// Lets a request through when its Host is answered to.
pub(super) fn host(guard: Arc<Guard>) -> impl Filter<Extract = (), Error = Rejection> + Clone {
    let check = move |headers: HeaderMap| {
        let result = guard.check_host(&headers).map_err(warp::reject::custom);
        std::future::ready(result)
    };
    warp::header::headers_cloned().and_then(check).untuple_one()
}

/// Lets a request through when its caller may come in, and says who it is.
pub(super) fn caller(guard: Arc<Guard>) -> impl Filter<Extract = (Caller,), Error = Rejection> + Clone {
    let check = move |method: Method, headers: HeaderMap| {
        let result = guard.check_host(&headers).and_then(|()| guard.check_caller(&method, &headers));
        std::future::ready(result.map_err(warp::reject::custom))
    };
    warp::method().and(warp::header::headers_cloned()).and_then(check)
}
