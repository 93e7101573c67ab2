//! STOP: the levels for the whole system and the receipt of one task's STOP.
//!
//! Owns the ordered levels (they only rise) and the receipt's steps in their order. A receipt states facts with time and
//! proof; a step that could not be done says why it was kept, one that waits for the outside says so. Refuses to call a
//! local step done without proof.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, TaskId};
use crate::names::TaskKey;
use crate::time::Timestamp;

/// How firmly the system (or a part of it) is asked to stop. Only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// No new work; what runs may end.
    Drain,
    /// End politely.
    Cancel,
    /// End now.
    Kill,
}

/// The steps of STOP, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopStep {
    /// The request is durable.
    Recorded,
    /// No irreversible step is under way (or it was waited for).
    Window,
    /// Jobs: none left, queued ones cancelled.
    Jobs,
    /// Processes: none left.
    Processes,
    /// The lane's lease is not held for the task.
    Lease,
    /// Work that was nowhere else is kept.
    Salvage,
    /// The workspace is gone or quarantined.
    Workspace,
    /// Our branch on the forge is gone.
    RemoteBranch,
    /// TaskActor and AgentActor have ended.
    Actors,
    /// The natural keys are free again.
    Tombstone,
}

impl StopStep {
    /// All steps in order.
    pub const ALL: [Self; 10] = [
        Self::Recorded,
        Self::Window,
        Self::Jobs,
        Self::Processes,
        Self::Lease,
        Self::Salvage,
        Self::Workspace,
        Self::RemoteBranch,
        Self::Tombstone,
        Self::Actors,
    ];

    /// The step's name as shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Window => "window",
            Self::Jobs => "jobs",
            Self::Processes => "processes",
            Self::Lease => "lease",
            Self::Salvage => "salvage",
            Self::Workspace => "workspace",
            Self::RemoteBranch => "remote-branch",
            Self::Actors => "actors",
            Self::Tombstone => "tombstone",
        }
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum StepResult {
    /// Done, with the proof.
    Done {
        /// What was seen.
        proof: String,
    },
    /// Nothing was there to do.
    Nothing {
        /// What was seen.
        proof: String,
    },
    /// Left as it is, on purpose.
    Kept {
        /// Why.
        because: String,
    },
    /// Waits for a remote part that is away; tried again.
    Pending {
        /// What is away.
        why: String,
    },
    /// Could not be proven.
    Unproven {
        /// What is in doubt.
        why: String,
    },
}

/// One line of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptLine {
    /// Which step.
    pub step: StopStep,
    /// When it was settled.
    pub at: Timestamp,
    /// What came of it.
    #[serde(flatten)]
    pub result: StepResult,
}

/// The proof of a STOP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The task.
    pub task: TaskId,
    /// Its key.
    pub key: TaskKey,
    /// Its life.
    pub generation: Generation,
    /// When STOP was recorded.
    pub requested: Timestamp,
    /// Who asked.
    pub by: String,
    /// Where it came from.
    pub source: String,
    /// `cancelled`, `done`, or `stopping` while under way.
    pub outcome: String,
    /// The steps so far, in order.
    pub lines: Vec<ReceiptLine>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_only_rise() {
        assert!(Level::Drain < Level::Cancel && Level::Cancel < Level::Kill);
    }
}
