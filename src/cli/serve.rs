//! `orch serve`: the supervisor.
//!
//! Owns the order of start (settings, logs, data folder, token and address, then the engine, then answers: what refuses a
//! start is asked before agents of the supervisor before are gone on with) and of the end: the first SIGTERM or Ctrl-C drains until the
//! deadline while reads are still answered, a handover does the same but leaves agents at work, a (further) signal cancels;
//! then HTTP closes, then what is left ends.

use std::time::Duration;

use clap::Args;
use orch_domain::stop::Level;

use super::Context;
use super::door::{Doorway, Signals};
use super::engine::{Engine, StartError};
use super::output::{CliError, Output};

/// How long the last, hard end may take.
const LAST: Duration = Duration::from_secs(15);

/// Nothing of its own: settings say it all.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {}

pub(super) async fn run(context: &Context, _args: &ServeArgs, out: &mut Output) -> Result<u8, CliError> {
    let config = context.config()?;
    crate::telemetry::init(&config.telemetry).map_err(|e| CliError::CouldNot(e.to_string()))?;
    let mut signals = Signals::new()?;
    let refused = |error| match error {
        StartError::Owned { .. } => {
            CliError::CouldNot(format!("{error}; stop it, or name another data folder with --data"))
        }
        StartError::Refused(text) => CliError::CouldNot(text),
    };
    let prepared = context.starter.prepare(config.clone()).await.map_err(refused)?;
    let doorway = Doorway::take(&config, config.http.bind, &context.env).await?;
    let engine = prepared.begin().await.map_err(refused)?;
    let door = doorway.open(engine.control());
    let told = match out.json {
        true => out.json_line(&serde_json::json!({"url": format!("http://{}", door.addr), "data": config.data_dir})),
        false => out.line(&format!("orch serves at http://{} (data in {})", door.addr, config.data_dir.display())),
    };
    // Nobody has to read that line; a supervisor does not end because its standard output was closed.
    drop(told);
    let deadline = config.limits.drain_deadline.into();
    tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "draining: no new work; what runs may end until the deadline");
            end(engine.as_ref(), &mut signals, deadline).await;
        }
        () = engine.handover_asked() => {
            tracing::info!("handing over: no new work; agents work on, what else runs may end until the deadline");
            hand_over(engine.as_ref(), &mut signals, deadline).await;
        }
    }
    door.close().await;
    engine.shutdown(Level::Kill, LAST).await;
    Ok(0)
}

/// Leaves agents at work and drains the rest; a signal cancels what is left.
pub(super) async fn hand_over(engine: &dyn Engine, signals: &mut Signals, deadline: Duration) {
    tokio::select! {
        () = engine.hand_over(deadline) => {}
        signal = signals.next() => {
            tracing::warn!(signal, "asked to end: interrupting what still runs");
            engine.shutdown(Level::Cancel, LAST).await;
        }
    }
}

/// Drains; a further signal cancels.
pub(super) async fn end(engine: &dyn Engine, signals: &mut Signals, deadline: Duration) {
    tokio::select! {
        () = engine.shutdown(Level::Drain, deadline) => {}
        signal = signals.next() => {
            tracing::warn!(signal, "asked again: interrupting what runs");
            engine.shutdown(Level::Cancel, LAST).await;
        }
    }
}
