//! Jobs on this host: started under a shim, followed, ended, found again.
//!
//! [`Runner`] is what callers use: it keeps the launch handshake and the ledger. [`LocalPlacement`] starts real shims,
//! [`FakePlacement`] plays scripted ones. [`follow()`] reads a growing log line by line. [`mod@env`] makes the environment
//! of a job from nothing.

mod containment;
pub mod env;
mod fake;
mod follow;
mod group_room;
mod ledger;
mod link;
mod local;
mod orphans;
mod runner;
mod runtime_dir;
mod spawner;
mod user_room;

pub use containment::Means;
pub use fake::{FakeEnd, FakePlacement, FakeRun};
pub use follow::{LogFollower, LogLine, follow, kept_from};
pub use ledger::UnrecordedLedger;
pub use local::{LocalPlacement, LocalPlacementConfig, PlacementError};
pub use orch_shim::logs::Parsed;
pub use orphans::become_subreaper;
pub use runner::{FinishedJob, Runner, RunningJob};
pub use user_room::UserRange;
