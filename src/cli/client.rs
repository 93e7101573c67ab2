//! The client of all verbs that talk to a supervisor, or look at data that none runs.
//!
//! Owns where the supervisor is (`--url`, `ORCH_URL`, the `http.addr` file), the token, and the translation of refusals
//! into one line. Verbs that only read get the same answers, from the same routes, where nobody runs the data folder; all
//! others are refused there. Refuses redirects: a token must not follow one elsewhere. The token is in a header, never in
//! a URL.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{Looked, Sight, StartError};
use super::output::{CliError, Output};
use super::{Context, Env};
use crate::config::Config;
use crate::http::{Inside, SETTINGS_HEADER, Token, percent_encode, read_address};

/// Why a request got no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there: not running (any more), or not reachable.
    #[error("{0}")]
    Unreachable(String),
    /// The supervisor refused.
    #[error("{message}")]
    Refused {
        /// Its status.
        status: u16,
        /// Its code.
        code: String,
        /// Its words.
        message: String,
    },
    /// Something answered, but not a supervisor of this version.
    #[error("{0}")]
    Strange(String),
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Refused { status: 400..500, code, .. } if code != "unauthorized" => {
                Self::Refused(error.to_string())
            }
            _ => Self::CouldNot(error.to_string()),
        }
    }
}

/// Who answers where nobody runs.
const THE_FOLDER: &str = "the data folder";

/// Who runs this, by the user database; by number where that has no name.
fn own_name() -> String {
    let uid = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("uid-{uid}"),
    }
}

/// A supervisor somewhere, or the data of one that does not run.
#[derive(Clone, Debug)]
pub struct Client {
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    /// Over HTTP.
    There(Remote),
    /// In this process, over data that nobody runs.
    Here { desk: Inside, _scratch: Option<Arc<tempfile::TempDir>> },
}

#[derive(Clone, Debug)]
struct Remote {
    base: String,
    token: Token,
    by: String,
    settings: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// Finds the supervisor of a command.
    ///
    /// # Errors
    /// [`CliError::CouldNot`] when nothing says where it is, or there is no token.
    pub fn find(context: &Context) -> Result<Self, CliError> {
        let config = context.config()?;
        match named(context).or_else(|| read_address(&config.addr_file())) {
            Some(url) => Self::at(&url, &config, &context.env),
            None => Err(unknown(&config)),
        }
    }

    /// The same for a verb that only reads: where no supervisor runs on the data folder, what is stored there answers, and
    /// a note says so.
    ///
    /// # Errors
    /// As [`Client::find`]; and when the data cannot be read.
    pub async fn reading(context: &Context, sight: Sight, out: &mut Output) -> Result<Self, CliError> {
        if named(context).is_some() {
            return Self::find(context);
        }
        let config = context.config()?;
        let served = match read_address(&config.addr_file()) {
            Some(url) => Some(Self::at(&url, &config, &context.env)?),
            None => None,
        };
        if let Some(client) = &served
            && !matches!(client.get::<serde_json::Value>("/healthz").await, Err(ClientError::Unreachable(_)))
        {
            return Ok(client.clone());
        }
        let looked = context.starter.look(&config, sight).await.map_err(|error| match error {
            StartError::Owned { .. } => {
                CliError::CouldNot(format!("{error}, which does not answer; ask again, or end it and look then"))
            }
            StartError::Refused(text) => CliError::CouldNot(text),
        });
        match (looked?, served) {
            (Some(Looked { control, scratch }), _) => {
                let desk = Inside::new(control).map_err(CliError::CouldNot)?;
                out.note(&format!("nobody runs {}: this is what was recorded last", config.data_dir.display()));
                Ok(Self { way: Way::Here { desk, _scratch: scratch.map(Arc::new) } })
            }
            // It says by itself that nobody answers.
            (None, Some(client)) => Ok(client),
            (None, None) => Err(unknown(&config)),
        }
    }

    /// Whether nothing that is asked here changes any more by itself.
    #[must_use]
    pub const fn is_at_rest(&self) -> bool {
        matches!(self.way, Way::Here { .. })
    }

    /// The supervisor at a URL, with the token of these settings.
    ///
    /// # Errors
    /// [`CliError::CouldNot`] when URL or token cannot be used.
    pub fn at(url: &str, config: &Config, env: &Env) -> Result<Self, CliError> {
        let could_not = |text: String| CliError::CouldNot(text);
        let parsed = reqwest::Url::parse(url).map_err(|e| could_not(format!("--url `{url}`: {e}")))?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.username().is_empty() || parsed.password().is_some()
        {
            let text = "the URL must be http://... or https://... without credentials; the token comes from ORCH_TOKEN";
            return Err(could_not(text.to_owned()));
        }
        let given = env.get("ORCH_TOKEN").map(String::as_str).filter(|t| !t.is_empty());
        let token = match given {
            Some(text) => Token::given(text, "ORCH_TOKEN"),
            None => Token::read(&config.token_file()),
        };
        let token = token.map_err(|e| could_not(format!("{e}; or set ORCH_TOKEN")))?;
        // Somebody else's choice of a provider, made earlier in this process, is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(30));
        let loopback = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if loopback {
            builder = builder.no_proxy();
        }
        if parsed.scheme() == "http" {
            // No certificates are needed, and a bare container may have none to load.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|e| could_not(format!("no HTTP client: {e}")))?;
        let user = env.get("USER").filter(|user| !user.is_empty()).cloned().unwrap_or_else(own_name);
        let by = format!("cli:{}", user.chars().filter(char::is_ascii_graphic).take(60).collect::<String>());
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self { way: Way::There(Remote { base, token, by, settings: None, http }) })
    }

    /// The same, for tasks that are to be worked on with these very settings or not at all.
    #[must_use]
    pub fn asking_for(mut self, config: &Config) -> Self {
        if let Way::There(remote) = &mut self.way {
            remote.settings = Some(config.work_digest());
        }
        self
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// [`ClientError`] by what follows from it.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    /// Posts to a path.
    ///
    /// # Errors
    /// [`ClientError`] by what follows from it.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        self.ask(Method::POST, path, body).await
    }

    /// Posts what changes nothing of what is kept, and so may be asked where nobody runs too.
    ///
    /// # Errors
    /// [`ClientError`] by what follows from it.
    pub async fn take_out<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        match &self.way {
            Way::There(_) => self.ask(Method::POST, path, Some(body)).await,
            Way::Here { desk, .. } => {
                let body = serde_json::to_string(body).map_err(|error| ClientError::Strange(error.to_string()))?;
                let (status, bytes) = desk.ask(Method::POST, path, body).await.map_err(ClientError::Strange)?;
                answered(THE_FOLDER, status, path, &bytes)
            }
        }
    }

    /// The path of a task, and of what belongs to it.
    #[must_use]
    pub fn task_path(key: &str, rest: &str) -> String {
        format!("/tasks/{}{rest}", percent_encode(key))
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let (place, status, bytes) = match &self.way {
            Way::There(remote) => {
                let (status, bytes) = remote.ask(method, path, body).await?;
                (remote.base.as_str(), status, bytes)
            }
            Way::Here { desk, .. } if method == Method::GET => {
                let (status, bytes) = desk.ask(method, path, String::new()).await.map_err(ClientError::Strange)?;
                (THE_FOLDER, status, bytes)
            }
            Way::Here { .. } => {
                let text = "nobody runs this data folder, so nothing in it can be changed; start `orch serve` on it";
                return Err(ClientError::Unreachable(text.to_owned()));
            }
        };
        answered(place, status, path, &bytes)
    }
}

impl Remote {
    async fn ask<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let unreachable = |e: reqwest::Error| {
            let cause = deepest(&e);
            ClientError::Unreachable(format!(
                "no supervisor answers at {}: {cause}; start one with `orch serve`, or name another with --url",
                self.base
            ))
        };
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = request.bearer_auth(self.token.secret()).header("x-orch-by", &self.by);
        if let Some(digest) = &self.settings {
            request = request.header(SETTINGS_HEADER, digest);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        Ok((status, bytes.to_vec()))
    }
}

/// The supervisor that the command names itself.
fn named(context: &Context) -> Option<String> {
    context.global.url.clone().or_else(|| context.env.get("ORCH_URL").cloned()).filter(|url| !url.is_empty())
}

fn unknown(config: &Config) -> CliError {
    let of_runs = match newest_run(config) {
        Some(folder) => format!(
            "; runs can be looked at with --data, the newest with --data {}, and go on or are stopped by their own command \
             with --key",
            folder.display()
        ),
        None if config.data_dir.join("orch.db").exists() => {
            "; a task of `orch run` goes on, or is stopped, by its own command with --key".to_owned()
        }
        None => String::new(),
    };
    CliError::CouldNot(format!(
        "no supervisor is known: {} is missing; start one with `orch serve`, or name one with --url or ORCH_URL{of_runs}",
        config.addr_file().display()
    ))
}

/// The folder of the `orch run` below this data folder that worked last.
fn newest_run(config: &Config) -> Option<PathBuf> {
    let folders = std::fs::read_dir(config.data_dir.join("repos")).ok()?.flatten().map(|entry| entry.path());
    // Written anew by whoever takes the folder.
    let taken = |folder: &PathBuf| std::fs::metadata(folder.join("orch.lock")).and_then(|lock| lock.modified()).ok();
    folders.filter(|folder| folder.join("orch.db").exists()).max_by_key(taken)
}

fn answered<T: DeserializeOwned>(place: &str, status: StatusCode, path: &str, bytes: &[u8]) -> Result<T, ClientError> {
    if !status.is_success() {
        return Err(refused(place, status, path, bytes));
    }
    serde_json::from_slice(bytes).map_err(|e| {
        ClientError::Strange(format!("{place} answered {path} in an unknown form ({e}); is it another version?"))
    })
}

fn refused(place: &str, status: StatusCode, path: &str, bytes: &[u8]) -> ClientError {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |name: &str| value["error"][name].as_str().map(str::to_owned);
    match (text("code"), text("message")) {
        (Some(code), Some(message)) => {
            let message = match code.as_str() {
                "unauthorized" => {
                    format!("{place} refuses the token; set ORCH_TOKEN, or name the data folder with --data")
                }
                _ => message,
            };
            ClientError::Refused { status: status.as_u16(), code, message }
        }
        _ => ClientError::Strange(format!("{place} answered {path} with {status}; that is no supervisor")),
    }
}

/// The last cause of an error: `Connection refused` says more than `error sending request`.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
