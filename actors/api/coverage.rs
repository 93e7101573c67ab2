//! Coverage for people: the baseline of each repository, what landed last, how it moved, what was refused.
//!
//! Owns the words of `GET /coverage*`, of the block `coverage` in `GET /queue`, and of the request that sets a baseline.
//! Shares stand beside their raw numbers and are rounded down. Refuses to know where they come from.

use orch_domain::coverage::{CoverageMode, Format, Step, Totals, percent};
use orch_domain::gate::InScope;
use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::time::Timestamp;
use orch_store::{Baseline, HistoryLine};
use serde::{Deserialize, Serialize};

/// Most lines of one page of history.
pub const HISTORY_PAGE: u32 = 1_000;

/// A share of covered lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Covered lines.
    pub covered: u64,
    /// Lines that count.
    pub total: u64,
    /// The share for people, rounded down.
    pub percent: String,
}

impl From<Totals> for Share {
    fn from(totals: Totals) -> Self {
        Self { covered: totals.covered(), total: totals.total(), percent: percent(totals) }
    }
}

/// What a repository is held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineView {
    /// Rises with each change.
    pub revision: u64,
    /// Its numbers.
    #[serde(flatten)]
    pub share: Share,
    /// The commit that it stands for.
    pub sha: CommitSha,
    /// How it came to be.
    pub step: Step,
    /// A task's key, or a person.
    pub set_by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// The tool that measured it, as far as that is known.
    pub tool: Option<String>,
}

impl From<Baseline> for BaselineView {
    fn from(baseline: Baseline) -> Self {
        Self {
            revision: baseline.revision,
            share: baseline.totals.into(),
            sha: baseline.sha,
            step: baseline.step,
            set_by: baseline.set_by,
            reason: baseline.reason,
            at: baseline.at,
            tool: baseline.tool,
        }
    }
}

/// One line of history: a landing that was measured, or a baseline that a person set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoveragePoint {
    /// Its number; give it as `before` to read on.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// What was measured, or set.
    #[serde(flatten)]
    pub share: Share,
    /// On which commit.
    pub sha: CommitSha,
    /// The task that landed; `None`: a person set it.
    pub task: Option<TaskId>,
    /// A task's key, or a person.
    pub by: String,
    /// What became of the baseline.
    pub step: Step,
    /// Why.
    pub reason: String,
    /// Lines that were told not to count, as far as the format tells.
    pub excluded: Option<u64>,
    /// The report's format.
    pub format: Option<Format>,
    /// The tool, as far as it says.
    pub tool: Option<String>,
    /// The baseline afterwards.
    pub baseline: Option<Share>,
}

impl From<HistoryLine> for CoveragePoint {
    fn from(line: HistoryLine) -> Self {
        Self {
            id: line.id,
            at: line.at,
            share: line.totals.into(),
            sha: line.sha,
            task: line.task,
            by: line.set_by,
            step: line.step,
            reason: line.reason,
            excluded: line.excluded,
            format: line.format,
            tool: line.tool,
            baseline: line.baseline.map(Share::from),
        }
    }
}

/// A change that the gate kept from main: refused, or not to be judged and waiting for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageFailure {
    /// The task.
    pub key: Option<TaskKey>,
    /// The commit.
    pub head: CommitSha,
    /// When.
    pub at: Timestamp,
    /// The first line of the findings.
    pub why: String,
}

/// Coverage of one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageView {
    /// The repository.
    pub repo: RepoName,
    /// Whether the gate is asked for new tasks.
    pub scope: InScope,
    /// Which rule holds.
    pub mode: CoverageMode,
    /// The least share, in basis points.
    pub min_basis_points: u32,
    /// What is let pass below the baseline, in basis points.
    pub epsilon_basis_points: u32,
    /// What it is held to; `None`: nothing yet.
    pub baseline: Option<BaselineView>,
    /// What landed last.
    pub last: Option<CoveragePoint>,
    /// What landed and was set, oldest first, at most twenty.
    pub trend: Vec<CoveragePoint>,
    /// What was refused last, newest first.
    pub failures: Vec<CoverageFailure>,
}

/// A baseline that a person sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBaseline {
    /// The repository.
    pub repo: RepoName,
    /// Covered lines; together with `total`. Left out with `last`.
    #[serde(default)]
    pub covered: Option<u64>,
    /// Lines that count.
    #[serde(default)]
    pub total: Option<u64>,
    /// Takes what the last landing measured.
    #[serde(default)]
    pub last: bool,
    /// The commit that it stands for; that of the last line of history when left out.
    #[serde(default)]
    pub sha: Option<CommitSha>,
    /// The revision that it replaces; the present one when left out.
    #[serde(default)]
    pub replaces: Option<u64>,
    /// Why; required.
    pub reason: String,
}
