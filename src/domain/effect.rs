//! Effects: everything we may do about a task, in the imperative, as data. Data going down.
//!
//! Owns the vocabulary between [`decide`](crate::decide) and the actors. Two sorts: *internal* effects are derived from
//! the stored state again whenever an actor resumes, so losing one in a crash loses nothing; *outbox* effects are
//! committed with the state, each under a key, and sent until settled. Every effect is safe to repeat.

use serde::{Deserialize, Serialize};

use crate::ids::{CommitSha, RunId, TaskId};
use crate::names::{StageName, TaskKey};
use crate::task::Step;
use crate::time::Timestamp;

/// Derived from the state; repeated on every resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "effect")]
pub enum Effect {
    /// Ask the router for an agent slot. A task has one slot or none: asking twice asks once, and a repeated grant is the
    /// same slot.
    AskSlot,
    /// Give the agent slot back, and forget that one was asked for.
    GiveSlotBack,
    /// Start the agent run.
    StartRun {
        /// Its id.
        run: RunId,
        /// Its stage.
        stage: StageName,
        /// Its number among the agent runs of this stage, from 1.
        attempt: u32,
    },
    /// Run the stage's check or command on the head.
    StartCheck {
        /// Its id.
        run: RunId,
        /// Check or command.
        step: Step,
        /// On which commit.
        head: CommitSha,
    },
    /// Ask the lane to land (or deploy) it.
    AskLane {
        /// Landing, or only the deploy.
        step: Step,
    },
    /// Wake up at that time.
    SetTimer {
        /// When.
        at: Timestamp,
    },
    /// Look at the dependencies, and again whenever one ends.
    WatchDependencies {
        /// Which.
        keys: Vec<TaskKey>,
    },
    /// Ask the router for the repository's turn.
    AskTurn,
    /// Carry out the steps of STOP.
    CarryOutStop,
    /// The task is closed: free what belongs to it, end the actor.
    Close,
}

/// Committed with the state, sent until settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "effect")]
pub enum Outgoing {
    /// Make the tracker show a state.
    Show {
        /// Which.
        state: ShownState,
    },
    /// Tell the tracker's readers.
    Comment {
        /// Text without secrets.
        text: String,
    },
    /// Tell the people on duty.
    Notify {
        /// Whether somebody has to act.
        needs_you: bool,
        /// One line.
        title: String,
        /// More.
        body: String,
    },
}

/// What the tracker is asked to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShownState {
    /// Being worked on.
    InProgress,
    /// A person is needed.
    Blocked,
    /// Landed.
    Done,
    /// Stopped.
    Cancelled,
}

impl Outgoing {
    /// The lane within the task: effects of one kind are sent in order, and for `show` the latest wins.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Show { .. } => "show",
            Self::Comment { .. } => "comment",
            Self::Notify { .. } => "notify",
        }
    }

    /// The idempotency key of the `n`-th outgoing effect of the change that made the row's version `version`.
    #[must_use]
    pub fn key(&self, task: &TaskId, version: u64, n: usize) -> String {
        format!("{task}-{version}-{n}-{}", self.kind())
    }
}
