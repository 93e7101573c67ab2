//! The HTTP interface as `serve` and `run` open it over their engine: token, listener, address file; and the signals.
//!
//! Owns the order: token, then listener, then the address file; the file goes before the listener closes. Refuses to leave
//! an address behind that nobody answers at, unless it is killed.

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
use crate::http::{HttpSettings, Token, serve, write_address};

/// An open HTTP interface.
pub(super) struct Door {
    pub(super) addr: SocketAddr,
    file: PathBuf,
    close: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Door {
    /// Opens it at an address.
    pub(super) async fn open(
        control: Arc<dyn Control>,
        config: &Config,
        bind: SocketAddr,
        env: &Env,
    ) -> Result<Self, CliError> {
        let could_not = |e: String| CliError::CouldNot(e);
        let given = env.get("ORCH_TOKEN").map(String::as_str);
        let token = Token::load_or_create(&config.token_file(), given).map_err(|e| could_not(e.to_string()))?;
        let mut settings = HttpSettings::new(bind, config.http.allowed_hosts.clone(), token);
        settings.work_digest = Some(config.work_digest());
        let (close, closed) = oneshot::channel();
        // A sender that is gone asks to close too.
        let shutdown = async move { drop(closed.await) };
        let (addr, serving) = serve(control, settings, shutdown).await.map_err(|e| could_not(e.to_string()))?;
        let file = config.addr_file();
        write_address(&file, addr).map_err(|e| could_not(format!("{}: {e}", file.display())))?;
        Ok(Self { addr, file, close, serving: tokio::spawn(serving) })
    }

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
