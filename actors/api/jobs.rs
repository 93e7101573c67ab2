//! Jobs as they are shown: the live ones, and those that stand still.

use orch_domain::ids::{JobId, TaskId};
use orch_domain::job::{Containment, Enforced, JobKind, JobStatus};
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One live job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub job: JobId,
    /// What it is for.
    pub kind: JobKind,
    /// Its task.
    pub task: Option<TaskId>,
    /// One line for people.
    pub label: String,
    /// Status.
    pub status: JobStatus,
    /// The shim's process id.
    pub pid: i32,
    /// How firmly it is held.
    pub containment: Containment,
    /// What of its confinement is enforced.
    pub enforced: Enforced,
    /// Since when.
    pub since: Timestamp,
    /// Whether it stands still because the disk is full.
    #[serde(default)]
    pub stands_still: bool,
}

/// Jobs that stand still because the data folder's disk is full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandstillView {
    /// Since when.
    pub since: Timestamp,
    /// How the disk was seen to be full.
    pub why: String,
    /// How many agents and gates stand still.
    pub jobs: usize,
    /// How many were ended to make room.
    pub shed: usize,
}
