//! Events: everything that can happen to a task, in the past tense. Data going up.
//!
//! Owns the vocabulary between the world and [`decide`](crate::decide). An event carries facts (exit codes, shas, parsed
//! front matter), never a conclusion that a rule should draw.

use serde::{Deserialize, Serialize};

use crate::agent::AgentReport;
use crate::ids::{CommitSha, RunId};
use crate::job::JobEnd;
use crate::landing::WorkFault;
use crate::left::Left;
use crate::names::{BranchName, TaskKey};
use crate::task::{ApprovalOf, Landed};
use crate::time::Timestamp;

/// Something that happened to a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// Its actor began (or began again): whatever was in memory is gone.
    Resumed {
        /// Whether the recorded run is still under way and was attached to.
        run_attached: bool,
    },
    /// An agent slot was given to it.
    SlotGranted,
    /// A run of an agent is over.
    RunEnded {
        /// Which.
        run: RunId,
        /// What is known of it.
        facts: Box<RunFacts>,
    },
    /// A check, test or staging command on the task's head is over.
    CheckEnded {
        /// Which run.
        run: RunId,
        /// What it showed.
        end: CheckEnd,
    },
    /// The lane is through with it.
    LandingEnded {
        /// Which of its requests to the lane that answers: [`Task::lane_asked`](crate::task::Task::lane_asked) as it was
        /// when the turn began.
        #[serde(default)]
        asked: u32,
        /// How.
        end: LandingEnd,
    },
    /// The time it waited for has come.
    TimerFired,
    /// Its dependencies were looked at.
    DependenciesSeen {
        /// Not yet terminal.
        open: Vec<TaskKey>,
        /// Terminal by cancellation.
        cancelled: Vec<TaskKey>,
    },
    /// It is its turn in a serial repository.
    TurnCame,
    /// A person approved.
    Approved {
        /// Of what.
        what: ApprovalOf,
        /// Of which commit.
        sha: CommitSha,
        /// Who.
        by: String,
    },
    /// A person wants a blocked task to go on.
    RetryRequested {
        /// Who.
        by: String,
    },
    /// STOP was recorded.
    StopRequested {
        /// Who.
        by: String,
    },
    /// Every step of STOP has been carried out, or could not be and was recorded as such.
    StopCarriedOut {
        /// What had landed before the STOP took effect, with nothing left to stop.
        finished: Option<Landed>,
    },
    /// The restart policy gave up on its actor.
    CrashLooped {
        /// The last failure.
        why: String,
    },
}

/// What is known of one agent run when it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFacts {
    /// How its job ended; `None`: it never began, see `trouble`.
    pub end: Option<JobEnd>,
    /// What of ours could not run (workspace, launch, capture), if anything.
    pub trouble: Option<String>,
    /// What the program told.
    pub report: AgentReport,
    /// The branch that is `main` in this repository.
    #[serde(default)]
    pub main: Option<BranchName>,
    /// The commit of `main` the workspace was made from.
    pub base: Option<CommitSha>,
    /// The commit the workspace began at.
    pub start: Option<CommitSha>,
    /// The newest commit taken out of the workspace; `None`: nothing could be taken.
    pub head: Option<CommitSha>,
    /// Why its commits cannot be gone on from, by the agent's own doing: what it is told about that.
    #[serde(default)]
    pub unusable: Option<String>,
    /// What it left besides those commits.
    #[serde(default)]
    pub left: Left,
    /// Changed paths outside the artefact folder, when the role may not change code (at most 20 named).
    pub foreign_paths: Vec<String>,
    /// The artefact this run had to write.
    pub artefact: ArtefactFact,
    /// The end of its output, for findings.
    pub output_tail: String,
}

/// The state of the artefact that a run had to write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ArtefactFact {
    /// None was asked for.
    #[default]
    NotAsked,
    /// Asked for, not written by this run.
    Missing {
        /// Where it should be.
        path: String,
    },
    /// Written, but not readable as asked.
    Broken {
        /// File, line, value, way out.
        why: String,
    },
    /// Written and parsed.
    Written {
        /// The status word of its front matter.
        status: String,
        /// The head it says it is about (reviews).
        reviewed_head: Option<CommitSha>,
        /// Its text without the front matter, shortened: findings of a review.
        text: String,
    },
}

/// What a check, test or staging command showed: passed, failed, or could not be run. Never a guess in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum CheckEnd {
    /// Conclusive and good; the text says what ran (`412 tests`), or why nothing had to.
    Passed {
        /// For the journal.
        note: String,
        /// What was let pass though it could not be looked at (an advisory feed away, say): journaled, and told to people.
        #[serde(default)]
        warnings: Vec<String>,
    },
    /// Conclusive and bad.
    Failed {
        /// Verbatim, for the next prompt.
        findings: String,
    },
    /// Nothing can be concluded.
    CouldNotRun {
        /// What was missing or broke, and the way out.
        why: String,
    },
    /// The settings forbid to go on (no test command found): repeating will not help.
    NotConfigured {
        /// What to set.
        why: String,
    },
}

impl CheckEnd {
    /// Passed, and nothing to warn of.
    #[must_use]
    pub fn passed(note: impl Into<String>) -> Self {
        Self::Passed { note: note.into(), warnings: Vec::new() }
    }
}

/// How the lane ended with a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum LandingEnd {
    /// `main` holds it, verified; and the deploy that belongs to it.
    Landed {
        /// What landed.
        landed: Landed,
        /// What became of the deploy.
        deploy: DeployEnd,
    },
    /// The work must change: conflict, red combined tree, failed gate.
    SentBack {
        /// What is wrong with it.
        fault: WorkFault,
        /// Verbatim, for the next prompt.
        findings: String,
        /// The head to go on from, when the catch-up made a new one.
        head: Option<CommitSha>,
    },
    /// `main` itself fails the same tests; come back later. Costs the developer nothing.
    MainRed {
        /// Which tests, on which `main`.
        why: String,
    },
    /// Somebody else moved `main`, as often as one landing tries; come back later. Nobody is blamed.
    MainMoved {
        /// How often, and where it is.
        why: String,
    },
    /// Something was busy; come back later. Costs nothing.
    Deferred {
        /// What.
        why: String,
    },
    /// A gate or tool of ours could not run.
    CouldNotRun {
        /// What, and the way out.
        why: String,
    },
    /// Settings forbid to go on until a person acts.
    NotConfigured {
        /// What to set.
        why: String,
    },
    /// The forge refuses for good.
    Refused {
        /// Its words.
        why: String,
    },
    /// Gates have passed the caught-up head, and nobody has approved that very commit yet.
    AwaitingApproval {
        /// The head to approve now.
        head: CommitSha,
    },
    /// Gates have passed; a person merges.
    AwaitingMerge {
        /// What was judged.
        head: CommitSha,
    },
    /// Whether an irreversible step took effect cannot be known.
    OutcomeUnknown {
        /// Which, and what was looked at.
        why: String,
        /// What has landed, when that part is known.
        landed: Option<Landed>,
    },
    /// A STOP was seen at a step's border; nothing irreversible has happened.
    Stopped,
}

/// What became of the deploy of a landed change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum DeployEnd {
    /// No deploy command is configured.
    NotConfigured,
    /// Exit 0 and healthy.
    Deployed {
        /// When.
        at: Timestamp,
    },
    /// Nothing was run: what is in production holds it already.
    Held {
        /// The commit that was deployed.
        sha: CommitSha,
        /// For which task.
        by: TaskKey,
        /// When.
        at: Timestamp,
    },
    /// It failed; the rollback command, where configured, has run.
    Failed {
        /// What failed.
        why: String,
    },
    /// It waits for a person's approval.
    AwaitingApproval,
    /// Something of ours broke before it was begun, or before its end could be told; its window, where one is open, is
    /// attached to.
    CouldNotRun {
        /// What.
        why: String,
    },
}

impl Event {
    /// The event's name, as journaled and in the state table.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Resumed { .. } => "resumed",
            Self::SlotGranted => "slot-granted",
            Self::RunEnded { .. } => "run-ended",
            Self::CheckEnded { .. } => "check-ended",
            Self::LandingEnded { .. } => "landing-ended",
            Self::TimerFired => "timer-fired",
            Self::DependenciesSeen { .. } => "dependencies-seen",
            Self::TurnCame => "turn-came",
            Self::Approved { .. } => "approved",
            Self::RetryRequested { .. } => "retry-requested",
            Self::StopRequested { .. } => "stop-requested",
            Self::StopCarriedOut { .. } => "stop-carried-out",
            Self::CrashLooped { .. } => "crash-looped",
        }
    }
}
