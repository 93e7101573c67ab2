//! The task: the user's unit of work, one life of it, as it is stored.
//!
//! Owns the aggregate, its states and the derived status. Invariants: terminal is `done` or `cancelled`, one predicate;
//! what a waiting task waits for is part of its state; the STOP mark is monotone. Refuses to change itself: only
//! [`decide`](crate::decide) makes the next state.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::agent::Usage;
pub use crate::blocked::Blocked;
use crate::ids::{CommitSha, Generation, RunId, TaskId};
use crate::lean;
use crate::names::{BranchName, RepoName, StageName, TaskKey};
use crate::pipeline::{Pipeline, Stage};
use crate::policy::Policy;
use crate::time::{Millis, Timestamp};

/// What a task does next within its stage; the thing a wait is followed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// An agent run.
    Agent,
    /// The exit check of an agent stage, on the task's head.
    Check,
    /// The stage's command, on the task's head.
    Command,
    /// The security gate, on the task's head, before the lane is asked.
    Security,
    /// Landing by the lane.
    Land,
    /// The deploy of what has landed already.
    Deploy,
}

/// What a waiting task waits for. Each has an end: an event or a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum WaitFor {
    /// A free agent slot.
    Slot,
    /// A time.
    Until {
        /// When it goes on.
        at: Timestamp,
        /// Why, for people.
        why: String,
    },
    /// Other tasks to become terminal.
    Dependencies {
        /// Those that are not yet.
        open: Vec<TaskKey>,
    },
    /// Its turn in a serial repository.
    Turn,
    /// A person's approval of this very commit.
    Approval {
        /// What is to be approved.
        what: ApprovalOf,
        /// The commit it is bound to.
        sha: CommitSha,
    },
    /// A person to merge the reported commit (`land: pr-only`).
    PersonMerges {
        /// The commit that the gates passed.
        sha: CommitSha,
    },
}

/// What can be approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalOf {
    /// Landing on `main`.
    Land,
    /// Deploying what has landed.
    Deploy,
}

impl ApprovalOf {
    /// The word for people and the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Land => "land",
            Self::Deploy => "deploy",
        }
    }
}

/// The first line of a text, for one-line displays.
#[must_use]
pub fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("")
}

/// What a text is about, in one line: its first, and the next along with it where the first only announces it.
#[must_use]
pub fn headline(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    match lines.next().filter(|_| first.ends_with(':')) {
        Some(next) => {
            let next = next.trim_start_matches("- ");
            let short: String = next.chars().take(HEADLINE).collect();
            let more = if short.len() < next.len() { "..." } else { "" };
            format!("{first} {short}{more}")
        }
        None => first.to_owned(),
    }
}

/// Characters of the line that is taken along.
const HEADLINE: usize = 160;

/// Where a task is within its stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum State {
    /// Nothing runs; `then` follows the wait.
    Waiting {
        /// For what.
        on: WaitFor,
        /// What follows.
        then: Step,
        /// Since when.
        since: Timestamp,
    },
    /// A run is under way.
    Running {
        /// Which.
        run: RunId,
        /// What it does.
        step: Step,
        /// Since when.
        since: Timestamp,
    },
    /// The lane has it (landing or deploying).
    Landing {
        /// Landing or deploy only.
        step: Step,
        /// Since when.
        since: Timestamp,
    },
    /// A person is needed; a retry goes on with `then`.
    Blocked {
        /// Why.
        why: Blocked,
        /// What a retry begins with.
        then: Step,
        /// Since when.
        since: Timestamp,
    },
    /// Landed (and deployed): closed.
    Done {
        /// When.
        at: Timestamp,
    },
    /// Stopped: closed.
    Cancelled {
        /// When.
        at: Timestamp,
    },
}

impl State {
    /// The one terminal predicate: closed for ever.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Cancelled { .. })
    }

    /// Since when the task is in this state.
    #[must_use]
    pub const fn since(&self) -> Timestamp {
        match self {
            Self::Waiting { since, .. }
            | Self::Running { since, .. }
            | Self::Landing { since, .. }
            | Self::Blocked { since, .. } => *since,
            Self::Done { at } | Self::Cancelled { at } => *at,
        }
    }
}

/// The status people see; derived, never stored as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Waits for an agent slot.
    Queued,
    /// Waits for a time, a dependency, its turn.
    Waiting,
    /// Waits for a person's approval or merge.
    AwaitingPerson,
    /// A run is under way.
    Running,
    /// In the lane.
    Landing,
    /// STOP is recorded and being carried out.
    Stopping,
    /// A person is needed.
    Blocked,
    /// Landed.
    Done,
    /// Stopped.
    Cancelled,
}

impl Status {
    /// All, for tables and counts.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Waiting,
        Self::AwaitingPerson,
        Self::Running,
        Self::Landing,
        Self::Stopping,
        Self::Blocked,
        Self::Done,
        Self::Cancelled,
    ];

    /// Whether nothing follows any more.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }

    /// The word as shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::AwaitingPerson => "awaiting-person",
            Self::Running => "running",
            Self::Landing => "landing",
            Self::Stopping => "stopping",
            Self::Blocked => "blocked",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is counted against ceilings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Runs started, all kinds; numbers the attempts.
    pub runs: u32,
    /// Times the work was sent back for what it did wrong.
    pub developer_retries: u32,
    /// Times it was sent back since it did not go together with `main`.
    pub conflicts: u32,
    /// Agent runs interrupted and resumed.
    pub interrupted: u32,
    /// Checks, commands and gates interrupted and begun anew, in a row.
    #[serde(skip_serializing_if = "is_zero")]
    pub interrupted_checks: u32,
    /// Things of ours that could not run, in a row.
    pub infrastructure: u32,
    /// Deferrals in a row.
    pub deferrals: u32,
    /// Landings in a row that `main` was moved under.
    pub main_moved: u32,
    /// Landings in a row on a `main` that was red itself.
    pub main_red: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a task has spent, for its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Tokens and money.
    pub usage: Usage,
    /// Wall time of agent runs.
    pub wall: Millis,
}

/// A person's approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Of what.
    pub what: ApprovalOf,
    /// Of which commit; void for any other.
    pub sha: CommitSha,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// What has landed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    /// The commit that `main` was moved to.
    pub sha: CommitSha,
    /// Its tree: the one that was tested.
    pub tree: CommitSha,
    /// When it was verified.
    pub at: Timestamp,
}

/// A recorded STOP: monotone, outside the row's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopMark {
    /// When it was recorded.
    pub at: Timestamp,
    /// Who asked.
    pub by: String,
    /// Where it came from: `http`, `cli`, `tracker`.
    pub source: String,
}

/// One life of a task.
///
/// Serialised without what it is given once and keeps (its words, its pins) and without its STOP: whoever stores it keeps
/// those apart and fills them in again, so that saving the next state does not write them anew. What is absent is left out:
/// every change writes the row as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// This life's id.
    pub id: TaskId,
    /// The human key, shared by all lives.
    pub key: TaskKey,
    /// Which life.
    pub generation: Generation,
    /// The repository.
    pub repo: RepoName,
    /// One line; untrusted text.
    #[serde(skip)]
    pub title: String,
    /// The description; untrusted text.
    #[serde(skip)]
    pub body: String,
    /// The tracker's own id of the item, when it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracker_item: Option<String>,
    /// Higher goes first.
    pub priority: i32,
    /// When it was accepted.
    pub created: Timestamp,
    /// Tasks that must be terminal first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<TaskKey>,
    /// The pipeline, pinned; shared by all tasks that were pinned to the same one.
    #[serde(skip, default = "lean::unfilled_pipeline")]
    pub pipeline: Arc<Pipeline>,
    /// The policy, pinned; shared likewise.
    #[serde(skip, default = "lean::unfilled_policy")]
    pub policy: Arc<Policy>,
    /// Name of the configured agent that works on it; `None`: the repository's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The current stage.
    pub stage: StageName,
    /// Where it is within the stage.
    pub state: State,
    /// The branch that it lands on, kept from when it was accepted, or else from its first run; `None` before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<BranchName>,
    /// The settings that it was handed in with, part by part and by digest, where they bind it: whoever has others leaves
    /// it alone. `None`: those of the supervisor hold, whatever they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<String>,
    /// The commit of `main` that the work began from, as the forge told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<CommitSha>,
    /// The work's newest commit, in our own repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<CommitSha>,
    /// The head when the current stage began or the work was last sent back; a developer's work is what differs from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_head: Option<CommitSha>,
    /// Counted against ceilings.
    #[serde(serialize_with = "lean::without_zeros")]
    pub counters: Counters,
    /// Why it was last sent back, verbatim, for the next prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<String>,
    /// What the next run must know about an interruption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted_note: Option<String>,
    /// What the next prompt says about dependencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependency_note: Option<String>,
    /// Approvals given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// The commit that people were last asked to let land, or to merge: asked about again, it is no news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<CommitSha>,
    /// Whether it has its turn in a serial repository; kept until terminal.
    pub has_turn: bool,
    /// What has landed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landed: Option<Landed>,
    /// Tokens and money over all runs, as reported.
    #[serde(default, skip_serializing_if = "lean::is_default")]
    pub usage: Usage,
    /// Wall time of agent runs together.
    pub agent_wall: Millis,
    /// How often it was given to the lane: tells an answer to an earlier request from that to the present one.
    #[serde(default)]
    pub lane_asked: u32,
    /// Agent runs started, per stage: what an agent is told as the number of its attempt.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub agent_runs: BTreeMap<StageName, u32>,
    /// What had been spent when a person last let it go on after its budget was spent: a fresh budget begins there.
    #[serde(default, skip_serializing_if = "lean::is_default")]
    pub budget_from: Spent,
    /// The recorded STOP; lives in columns of its own and is filled in at load.
    #[serde(skip)]
    pub stop: Option<StopMark>,
}

/// What a life is given once and keeps: stored in rows of its own, filled in by [`Task::filled`].
#[derive(Clone, Debug)]
pub struct Given {
    /// One line.
    pub title: String,
    /// The description.
    pub body: String,
    /// The pinned pipeline.
    pub pipeline: Arc<Pipeline>,
    /// The pinned policy.
    pub policy: Arc<Policy>,
}

/// What is needed to make a new task.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// This life's id.
    pub id: TaskId,
    /// The human key.
    pub key: TaskKey,
    /// Which life.
    pub generation: Generation,
    /// The repository.
    pub repo: RepoName,
    /// One line.
    pub title: String,
    /// The description.
    pub body: String,
    /// The tracker's own id.
    pub tracker_item: Option<String>,
    /// Higher goes first.
    pub priority: i32,
    /// Tasks that must be terminal first.
    pub depends_on: Vec<TaskKey>,
    /// The pipeline to pin.
    pub pipeline: Pipeline,
    /// The policy to pin.
    pub policy: Policy,
    /// Configured agent.
    pub agent: Option<String>,
}

impl Task {
    /// A new life, before its first decision.
    #[must_use]
    pub fn new(new: NewTask, now: Timestamp) -> Self {
        let stage = new.pipeline.first().name.clone();
        let on = match new.depends_on.is_empty() {
            true => WaitFor::Slot,
            false => WaitFor::Dependencies { open: new.depends_on.clone() },
        };
        Self {
            id: new.id,
            key: new.key,
            generation: new.generation,
            repo: new.repo,
            title: new.title,
            body: new.body,
            tracker_item: new.tracker_item,
            priority: new.priority,
            created: now,
            depends_on: new.depends_on,
            pipeline: Arc::new(new.pipeline),
            policy: Arc::new(new.policy),
            agent: new.agent,
            stage,
            state: State::Waiting { on, then: Step::Agent, since: now },
            main: None,
            settings: None,
            base: None,
            head: None,
            stage_head: None,
            counters: Counters::default(),
            findings: None,
            interrupted_note: None,
            dependency_note: None,
            approvals: Vec::new(),
            asked: None,
            has_turn: false,
            landed: None,
            usage: Usage::default(),
            agent_wall: Millis(0),
            lane_asked: 0,
            agent_runs: BTreeMap::new(),
            budget_from: Spent::default(),
            stop: None,
        }
    }

    /// The same task with what is stored apart from it.
    #[must_use]
    pub fn filled(self, given: Given) -> Self {
        let Given { title, body, pipeline, policy } = given;
        Self { title, body, pipeline, policy, ..self }
    }

    /// What is stored apart from it.
    #[must_use]
    pub fn given(&self) -> Given {
        Given {
            title: self.title.clone(),
            body: self.body.clone(),
            pipeline: self.pipeline.clone(),
            policy: self.policy.clone(),
        }
    }

    /// The branch of this life.
    #[must_use]
    pub fn branch(&self) -> BranchName {
        self.key.branch(self.generation)
    }

    /// What people call the branch that it lands on.
    #[must_use]
    pub fn main_name(&self) -> &str {
        self.main.as_ref().map_or("main", BranchName::as_str)
    }

    /// The id of this life's `n`-th run: derived, so that repeating an effect never makes a second one.
    #[must_use]
    pub fn run_id(&self, n: u32) -> RunId {
        format!("{}r{n}", self.id).parse().expect("a task id of at most 28 characters and a counter make a token")
    }

    /// The current stage's definition.
    #[must_use]
    pub fn current(&self) -> &Stage {
        self.pipeline.stage(&self.stage).expect("a task's stage is one of its pinned pipeline's")
    }

    /// Whether it is closed.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.state.is_terminal()
    }

    /// Whether it is past its pipeline's first stage.
    #[must_use]
    pub fn past_first_stage(&self) -> bool {
        self.pipeline.first().name != self.stage
    }

    /// Whether this very commit was approved.
    #[must_use]
    pub fn is_approved(&self, what: ApprovalOf, sha: &CommitSha) -> bool {
        self.approvals.iter().any(|a| a.what == what && a.sha == *sha)
    }

    /// The status people see.
    #[must_use]
    pub const fn status(&self) -> Status {
        match &self.state {
            State::Done { .. } => Status::Done,
            State::Cancelled { .. } => Status::Cancelled,
            _ if self.stop.is_some() => Status::Stopping,
            State::Running { .. } => Status::Running,
            State::Landing { .. } => Status::Landing,
            State::Blocked { .. } => Status::Blocked,
            State::Waiting { on: WaitFor::Slot, .. } => Status::Queued,
            State::Waiting { on: WaitFor::Approval { .. } | WaitFor::PersonMerges { .. }, .. } => {
                Status::AwaitingPerson
            }
            State::Waiting { .. } => Status::Waiting,
        }
    }
}
