//! The boundary to the engine: what verbs that run one need from the composition root.
//!
//! Owns two traits and their errors; the composition root implements them. Refuses to know how an engine is built: from
//! here it is a [`Control`] that can be asked to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch_actors::api::Control;
use orch_domain::stop::Level;

use super::demo::DemoArgs;
use super::gate::{GateArgs, GateOutcome};
use super::output::{CliError, Output};
use crate::config::Config;

/// Why an engine could not be started, or its data not be worked on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Another process owns the data folder: ask it, or wait for it.
    #[error("data folder {} is in use by {by}", .data_dir.display())]
    Owned {
        /// The folder.
        data_dir: PathBuf,
        /// Who, as far as known: `process 4711`.
        by: String,
    },
    /// Cannot be done; one line with value and way out.
    #[error("{0}")]
    Refused(String),
}

/// How a probe of the host came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Ok,
    /// Works, but weaker or with something missing.
    Warn,
    /// Does not work.
    Fail,
}

/// One fact about this host, for `orch doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What was looked at: `shim`, `containment`, `landlock`.
    pub name: String,
    /// How it came out.
    pub health: Health,
    /// What was seen, and what to do about it.
    pub text: String,
}

/// How much is needed of data that nobody runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// What is recorded.
    Records,
    /// The repositories too, to compare what is recorded with what they hold.
    Repositories,
}

/// The front desk over data that no engine runs: it answers questions and takes nothing.
pub struct Looked {
    /// The desk.
    pub control: Arc<dyn Control>,
    /// What it needs as long as it is asked, and leaves nothing of.
    pub scratch: Option<tempfile::TempDir>,
}

/// Starts engines and works on data that no engine owns.
#[async_trait]
pub trait EngineStarter: Send + Sync {
    /// Takes the data folder of these settings and everything that an engine needs: store and repositories opened. Makes
    /// the folder (mode 0700) when it is missing. Nothing of its tasks and jobs is touched, and dropping the answer gives
    /// the folder back as it was. Opens no HTTP.
    async fn prepare(&self, config: Config) -> Result<Box<dyn Prepared>, StartError>;

    /// Prepares an engine and begins at once.
    async fn start(&self, config: Config) -> Result<Box<dyn Engine>, StartError> {
        self.prepare(config).await?.begin().await
    }

    /// Looks at the data folder of these settings without owning it; nothing of it is changed. `None`: it holds no store.
    async fn look(&self, config: &Config, sight: Sight) -> Result<Option<Looked>, StartError>;

    /// Writes a verified backup of a store that no engine owns; the answer says what was verified.
    async fn backup(&self, config: &Config, to: &Path) -> Result<String, StartError>;

    /// Puts a backup in the place of a store that no engine owns; the old file is kept. The answer says where.
    async fn restore(&self, config: &Config, from: &Path) -> Result<String, StartError>;

    /// Looks at what only the lower rooms know about this host: shim, containment, landlock.
    async fn probe(&self, config: &Config) -> Vec<Probe>;

    /// Asks one gate about a range of commits of a repository, on a throw-away data folder.
    async fn gate(&self, config: Config, args: &GateArgs) -> Result<GateOutcome, CliError>;

    /// `orch demo`: the exit code.
    async fn demo(&self, args: &DemoArgs, out: &mut Output) -> u8;
}

/// An engine that owns its data folder and has not begun: whatever else may refuse a start belongs between the two, since
/// an engine that has begun goes on with the agents of the one before, and its end would be theirs.
#[async_trait]
pub trait Prepared: Send {
    /// Begins: first reconcile pass done, intake open.
    async fn begin(self: Box<Self>) -> Result<Box<dyn Engine>, StartError>;
}

/// A running engine.
#[async_trait]
pub trait Engine: Send + Sync {
    /// The front desk.
    fn control(&self) -> Arc<dyn Control>;

    /// Asks to stop; returns when nothing of the asked level is left running, at the latest a little after `deadline`.
    /// May be called again, also while an earlier call still waits: levels only rise. `Drain` takes no new work, lets what
    /// runs end, and rises to `Cancel` by itself at the deadline; reads are answered until `Kill` has returned. Open
    /// windows are waited for at every level.
    async fn shutdown(&self, level: Level, deadline: Duration);

    /// Ready once somebody has asked for a handover.
    async fn handover_asked(&self);

    /// Asks to stop as `Drain` does, but leaves agents at work: the next engine on the same data goes on with their runs.
    async fn hand_over(&self, deadline: Duration);
}
