//! The HTTP interface as `serve` and `run` open it over their engine: token, listener, address file; and the signals.
//!
//! Owns the order: token and listener before an engine begins, since they can be refused and an engine that has begun must
//! not be ended for that; then answers, then the address file. The file goes before the listener closes. Refuses to leave an
//! address behind that nobody answers at, unless it is killed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use orch_actors::api::Control;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Env;
use super::output::CliError;
use crate::config::Config;
use crate::http::{HttpSettings, Listening, Token, answer, listen, write_address};

/// Token and address of an interface that nobody is answered at yet.
pub(super) struct Doorway {
    listening: Listening,
    file: PathBuf,
}

impl Doorway {
    /// Takes both.
    pub(super) async fn take(config: &Config, bind: SocketAddr, env: &Env) -> Result<Self, CliError> {
        let could_not = |e: String| CliError::CouldNot(e);
        let given = env.get("ORCH_TOKEN").map(String::as_str);
        let token = Token::load_or_create(&config.token_file(), given).map_err(|e| could_not(e.to_string()))?;
        let mut settings = HttpSettings::new(bind, config.http.allowed_hosts.clone(), token);
        settings.work_digest = Some(config.work_digest());
        let listening = listen(settings).await.map_err(|e| could_not(e.to_string()))?;
        Ok(Self { listening, file: config.addr_file() })
    }

    /// Answers from now on, and says in the data folder where.
    pub(super) fn open(self, control: Arc<dyn Control>) -> Door {
        let (close, closed) = oneshot::channel();
        // A sender that is gone asks to close too.
        let shutdown = async move { drop(closed.await) };
        let (addr, serving) = answer(self.listening, control, shutdown);
        let serving = tokio::spawn(serving);
        // No reason to end: agents may be at work by now, and whoever knows the address is answered.
        if let Err(error) = write_address(&self.file, addr) {
            tracing::error!(
                "{}: {error}; commands on this machine do not find this supervisor by themselves until it is started again: \
                 give them --url http://{addr}",
                self.file.display()
            );
        }
        Door { addr, file: self.file, close, serving }
    }
}

/// An open HTTP interface.
pub(super) struct Door {
    pub(super) addr: SocketAddr,
    file: PathBuf,
    close: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Door {
    /// Closes it; open answers end first.
    pub(super) async fn close(self) {
        // Gone already is as good: the next supervisor writes its own.
        let _ = std::fs::remove_file(&self.file);
        let _ = self.close.send(());
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the HTTP interface ended badly");
        }
    }
}

/// SIGINT and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, CliError> {
        let could_not = |e: std::io::Error| CliError::CouldNot(format!("no signals: {e}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(could_not)?,
            terminate: signal(SignalKind::terminate()).map_err(could_not)?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
