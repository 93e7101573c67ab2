//! STOP: the levels for the whole system and the receipt of one task's STOP.
//!
//! Owns the ordered levels (they only rise), the receipt's steps in their order, and when a step that waits for the
//! outside is tried again. A receipt states facts with time and proof; a step that could not be done says why it was kept,
//! one that waits for the outside says so. Refuses to call a local step done without proof, and to try for ever.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, TaskId};
use crate::names::TaskKey;
use crate::time::{Millis, Timestamp};

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

impl Receipt {
    /// Whether every step has its line, so that nothing more comes but the end of what is pending.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        StopStep::ALL.iter().all(|step| self.lines.iter().any(|line| line.step == *step))
    }

    /// Steps that could not be proven.
    pub fn unproven(&self) -> impl Iterator<Item = &ReceiptLine> {
        self.lines.iter().filter(|line| matches!(line.result, StepResult::Unproven { .. }))
    }
}

/// Shortest pause before a pending step is tried again.
const RETRY_LEAST: Millis = Millis::from_secs(5);
/// Longest such pause.
const RETRY_MOST: Millis = Millis::from_mins(60);
/// How long after its task was closed a pending step is tried.
const RETRY_FOR: Millis = Millis::from_mins(7 * 24 * 60);

/// When a step that waits for the outside is tried again: pauses double, up to an hour, for a week. `None`: it is left.
#[must_use]
pub fn retry_at(closed: Timestamp, last: Timestamp) -> Option<Timestamp> {
    let tried_for = last.since(closed);
    let pause = Millis(tried_for.0.clamp(RETRY_LEAST.0, RETRY_MOST.0));
    (tried_for < RETRY_FOR).then(|| last.after(pause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_step_is_tried_again_ever_more_rarely_and_not_for_ever() {
        let closed = Timestamp(1_800_000_000_000);
        let (mut last, mut tries, mut pause) = (closed, 0, Millis(0));
        while let Some(next) = retry_at(closed, last) {
            let now = next.since(last);
            assert!(now >= pause && now >= RETRY_LEAST && now <= RETRY_MOST, "{now} after {pause}");
            (last, pause, tries) = (next, now, tries + 1);
        }
        assert!((100..250).contains(&tries), "{tries} tries");
        assert!(last.since(closed) >= RETRY_FOR);
        assert_eq!(retry_at(closed, Timestamp(closed.0 - 5)), Some(Timestamp(closed.0 - 5).after(RETRY_LEAST)));
    }

    #[test]
    fn levels_only_rise() {
        assert!(Level::Drain < Level::Cancel && Level::Cancel < Level::Kill);
    }
}
