//! What a gate is asked about, and what it answers: the words that all gates share.
//!
//! Owns the subject of a gate run (one exact commit, for one run of one task) and the answer with a reference to the
//! report that it was read back from. Invariants: an answer that says passed or failed about a commit refers to its
//! report; what a gate said is the same words however often it is asked, so that two failures can be compared: that it was
//! found and not made stands beside it. Nothing here runs or judges anything.

use std::path::PathBuf;

use orch_domain::event::CheckEnd;
use orch_domain::gate::GateName;
use orch_domain::ids::{CommitSha, Epoch, Generation, RunId, TaskId};
use orch_domain::landing::WorkFault;
use orch_domain::names::{RepoName, TaskKey};

/// What is judged, and for whom.
#[derive(Clone, Debug)]
pub struct GateSubject {
    /// For which task.
    pub task: TaskId,
    /// Its key: names the report's folder.
    pub key: TaskKey,
    /// Its life: names the report's folder.
    pub generation: Generation,
    /// The run that asks.
    pub run: RunId,
    /// Epoch of the asker: its jobs are refused when it is stale.
    pub epoch: Epoch,
    /// In which repository.
    pub repo: RepoName,
    /// The commit that rules come from, as the forge told it; `None`: the head itself.
    pub base: Option<CommitSha>,
    /// The commit to judge.
    pub head: CommitSha,
}

impl GateSubject {
    /// The commit that rules come from: the base, or where there is none, the head itself.
    #[must_use]
    pub fn rules_at(&self) -> &CommitSha {
        self.base.as_ref().unwrap_or(&self.head)
    }
}

/// A report that was written and read back; enough to read it again and see that it is still the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRef {
    /// Whose.
    pub gate: GateName,
    /// Where.
    pub path: PathBuf,
    /// Hex SHA-256 of the file.
    pub sha256: String,
    /// The commit that it judges.
    pub head: CommitSha,
    /// The commit that its rules came from.
    pub base: Option<CommitSha>,
}

/// What else is known about why an answer is not good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// Nothing but what it says.
    #[default]
    None,
    /// The work itself, in this way.
    Work(WorkFault),
    /// `main` fails the same by itself.
    MainRed,
    /// We ended it: no failure of anybody's.
    Cancelled,
}

/// A gate's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateAnswer {
    /// What it says.
    pub end: CheckEnd,
    /// The report that says so; `None` where nothing had to run, or nothing could be written.
    pub report: Option<ReportRef>,
    /// Why it is not good, where more is known than it says.
    pub cause: Cause,
    /// The earlier run that made it, or made the tests' answer that it rests on; `None`: made just now.
    pub earlier: Option<RunId>,
}

impl GateAnswer {
    /// Nothing can be concluded, and no report was written.
    #[must_use]
    pub fn could_not_run(why: impl Into<String>) -> Self {
        CheckEnd::CouldNotRun { why: why.into() }.into()
    }

    /// We ended it before it could answer.
    #[must_use]
    pub fn cancelled(why: impl Into<String>) -> Self {
        Self::could_not_run(why).because(Cause::Cancelled)
    }

    /// The same answer with what is known about its cause.
    #[must_use]
    pub fn because(self, cause: Cause) -> Self {
        // What was read back may say something else than was meant: then nothing more is known.
        let fits = match cause {
            Cause::None => true,
            Cause::Work(_) | Cause::MainRed => matches!(self.end, CheckEnd::Failed { .. }),
            Cause::Cancelled => matches!(self.end, CheckEnd::CouldNotRun { .. }),
        };
        Self { cause: if fits { cause } else { Cause::None }, ..self }
    }

    /// The same answer, resting on what an earlier run found.
    #[must_use]
    pub fn resting_on(self, earlier: Option<RunId>) -> Self {
        Self { earlier, ..self }
    }

    /// Whether it rests on an earlier run.
    #[must_use]
    pub const fn was_known(&self) -> bool {
        self.earlier.is_some()
    }

    /// What it says, for people: with the remark that it was not made now, where that is so.
    #[must_use]
    pub fn told(self) -> CheckEnd {
        let Some(run) = self.earlier else { return self.end };
        match self.end {
            CheckEnd::Passed { note, warnings } => {
                CheckEnd::Passed { note: format!("{note} (judged before, by run {run})"), warnings }
            }
            CheckEnd::Failed { findings } => {
                CheckEnd::Failed { findings: format!("{findings}\n(judged before, by run {run})") }
            }
            other @ (CheckEnd::CouldNotRun { .. } | CheckEnd::NotConfigured { .. }) => other,
        }
    }
}

impl From<CheckEnd> for GateAnswer {
    fn from(end: CheckEnd) -> Self {
        Self { end, report: None, cause: Cause::None, earlier: None }
    }
}
