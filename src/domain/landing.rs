//! The lane's rules about one landing, pure: what a failure means, whom a red re-test is charged to, what a catch-up may
//! have done to a branch, what follows from a forge's answer, and when a commit may land.
//!
//! Owns the failure classes and their budgets. Invariants: only what the work itself did wrong counts against it; "main
//! fails too" is said only of the very same failed tests; a patch that is gone without `main` holding it now is a loss; no answer
//! of a forge but a definitive one ends an intent; nothing lands that a gate in its plan has not judged as this very tree.
//! Refuses to run, read or write anything.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::{DeployEnd, LandingEnd};
use crate::gate::{GateName, LANDING_GATES, Verdict};
use crate::ids::CommitSha;
use crate::names::BranchName;
use crate::policy::{GatePlan, LandMode};
use crate::task::{ApprovalOf, Task};
use crate::testnames::Failure;

/// What was wrong with the work itself, when the lane sends it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkFault {
    /// Caught up with `main`, it fails tests that `main` passes.
    Tests,
    /// It does not go together with what `main` brought.
    Conflict,
    /// Another gate of the landing failed.
    Gate,
}

/// Why a landing did not come to its end. Each class has a budget, a report and a next step of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The work fails tests that `main` passes.
    OwnTests,
    /// The work and `main` changed the same.
    Conflict,
    /// Another gate failed.
    Gate,
    /// `main` itself fails the same tests.
    MainRed,
    /// Something of ours could not run: a tool, a time limit, the disk, the network.
    Infrastructure,
    /// The forge refuses for good.
    RefusedByForge,
    /// Somebody else was faster, as often as one landing tries.
    MainMoved,
    /// The lease, or another part of the lane, was busy.
    Busy,
}

impl FailureClass {
    /// All, in the order of the document.
    pub const ALL: [Self; 8] = [
        Self::OwnTests,
        Self::Conflict,
        Self::Gate,
        Self::MainRed,
        Self::Infrastructure,
        Self::RefusedByForge,
        Self::MainMoved,
        Self::Busy,
    ];

    /// The word in journals, figures and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OwnTests => "own-tests",
            Self::Conflict => "conflict",
            Self::Gate => "gate",
            Self::MainRed => "main-red",
            Self::Infrastructure => "infrastructure",
            Self::RefusedByForge => "refused-by-forge",
            Self::MainMoved => "main-moved",
            Self::Busy => "busy",
        }
    }

    /// What it is counted against, by the setting's name.
    #[must_use]
    pub const fn budget(self) -> &'static str {
        match self {
            Self::OwnTests | Self::Gate => "limits.max_developer_retries",
            Self::Conflict => "limits.max_conflicts",
            Self::Infrastructure => "limits.infrastructure_retries",
            Self::RefusedByForge => "none",
            Self::MainRed | Self::MainMoved | Self::Busy => "gates.merge.defer_max",
        }
    }

    /// What follows.
    #[must_use]
    pub const fn next_step(self) -> &'static str {
        match self {
            Self::OwnTests | Self::Conflict | Self::Gate => "back to development with the findings",
            Self::MainRed => "later again; people are told that main is red",
            Self::Infrastructure | Self::MainMoved | Self::Busy => "later again",
            Self::RefusedByForge => "a person",
        }
    }

    /// Whether it counts against the work.
    #[must_use]
    pub const fn blames_the_work(self) -> bool {
        matches!(self, Self::OwnTests | Self::Conflict | Self::Gate)
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl LandingEnd {
    /// Which failure it is; `None`: none, or one whose end is a question to a person.
    #[must_use]
    pub const fn class(&self) -> Option<FailureClass> {
        Some(match self {
            Self::SentBack { fault: WorkFault::Tests, .. } => FailureClass::OwnTests,
            Self::SentBack { fault: WorkFault::Conflict, .. } => FailureClass::Conflict,
            Self::SentBack { fault: WorkFault::Gate, .. } => FailureClass::Gate,
            Self::MainRed { .. } => FailureClass::MainRed,
            Self::MainMoved { .. } => FailureClass::MainMoved,
            Self::Deferred { .. } => FailureClass::Busy,
            Self::CouldNotRun { .. }
            | Self::NotConfigured { .. }
            | Self::Landed { deploy: DeployEnd::CouldNotRun { .. }, .. } => FailureClass::Infrastructure,
            Self::Refused { .. } => FailureClass::RefusedByForge,
            Self::Landed { .. }
            | Self::AwaitingApproval { .. }
            | Self::AwaitingMerge { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Stopped => return None,
        })
    }
}

// ------------------------------------------------------------------------------------------------------- a red re-test

/// What the tests said about `main` alone, run in the same surroundings as the caught-up commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnMain {
    /// Good.
    Passed,
    /// Bad, in this way.
    Failed(Failure),
    /// There are none: `main` has no tests yet.
    NoTests,
    /// Nothing can be said.
    CouldNotRun(String),
}

/// Whom a red re-test is charged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The work: it fails what `main` does not.
    Work {
        /// Failed tests that `main` fails too: not the work's.
        also_on_main: BTreeSet<String>,
        /// What is known about `main`, for the findings.
        note: String,
    },
    /// `main`: everything that fails fails there, too.
    Main {
        /// For people.
        note: String,
    },
    /// It cannot be told now: nobody is blamed.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Compares a red caught-up commit with `main` alone. "The same" is said only when both name every failed test and the
/// work adds none, or neither names any and both say the same.
#[must_use]
pub fn blame(head: &Failure, main: &BranchName, alone: &OnMain) -> Blame {
    let failed = match alone {
        OnMain::Passed => {
            return Blame::Work { also_on_main: BTreeSet::new(), note: format!("{main} alone passes the tests.") };
        }
        OnMain::NoTests => {
            return Blame::Work { also_on_main: BTreeSet::new(), note: format!("{main} has no tests of its own.") };
        }
        OnMain::CouldNotRun(why) => {
            return Blame::Unknown { why: format!("whether {main} fails as well could not be found out: {why}") };
        }
        OnMain::Failed(failed) => failed,
    };
    let listed = |names: &BTreeSet<String>| names.iter().map(|name| format!("\n- {name}")).collect::<String>();
    match (head, failed) {
        (Failure::Named(head), Failure::Named(there)) if head.is_subset(there) => {
            Blame::Main { note: format!("{main} alone fails the same tests:{}", listed(head)) }
        }
        (Failure::Unnamed(head), Failure::Unnamed(there)) if head == there => {
            Blame::Main { note: format!("{main} alone fails in the same way; the output names no test.") }
        }
        (head, there) => {
            let also: BTreeSet<String> = head.names().intersection(&there.names()).cloned().collect();
            let note = match also.is_empty() {
                true => format!("{main} alone fails too, but not in these tests as far as their names are known."),
                false => format!("Of these, {main} alone fails too, so they are not yours:{}", listed(&also)),
            };
            Blame::Work { also_on_main: also, note }
        }
    }
}

// ------------------------------------------------------------------------------------------------------- a catch-up

/// One commit of a branch, as far as a catch-up has to account for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Which commit.
    pub sha: CommitSha,
    /// For people: short id, subject, author.
    pub line: String,
    /// Its patch, as an id that survives a rebase; `None`: it changes nothing, or is a merge.
    pub id: Option<String>,
    /// Who wrote it when and what it says: the same before and after.
    pub identity: String,
}

/// What a catch-up did, told by ways other than its own: by patch ids, by paths, and by composing the tree once more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Composition {
    /// The branch's own commits before.
    pub before: Vec<Patch>,
    /// Its commits on top of `main` after.
    pub after: Vec<Patch>,
    /// Patch ids that `main` has brought since the two parted; only looked for when something is gone. It may have taken
    /// them back since.
    pub on_main: BTreeSet<String>,
    /// Commits that bring nothing when applied to `main` or to the result: it is there already.
    pub brings_nothing: BTreeSet<CommitSha>,
    /// Whether composing the tree in another way gives the same one; `None`: it cannot be composed so, or was not needed.
    pub recomposed_same: Option<bool>,
    /// Paths in which the result differs from `main`, though neither the branch nor a rename of `main`'s explains it.
    pub foreign_paths: Vec<String>,
}

/// What became of a branch's commits in a catch-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// There, with the same patch.
    pub kept: usize,
    /// There, in other surroundings.
    pub altered: Vec<String>,
    /// On `main` already, as it is now.
    pub already_on_main: Vec<String>,
    /// Gone, and nobody can say where to.
    pub lost: Vec<String>,
    /// Paths that changed without anybody's doing.
    pub foreign_paths: Vec<String>,
    /// The tree is not what composing it in another way gives.
    pub composed_differently: bool,
}

impl Account {
    /// Whether nothing is lost and nothing was added.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.lost.is_empty() && self.foreign_paths.is_empty() && !self.composed_differently
    }

    /// For the report and the findings: a line each, none when all was kept as it was.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |what: &str, of: &[String]| {
            lines.extend((!of.is_empty()).then(|| format!("{what}:")));
            lines.extend(of.iter().map(|line| format!("- {line}")));
        };
        say("Already on the main branch, left out", &self.already_on_main);
        say("Kept, with other surroundings", &self.altered);
        say("LOST without being on the main branch", &self.lost);
        say("Changed without being changed by the branch", &self.foreign_paths);
        if self.composed_differently {
            lines.push("The tree is not the one that merging the main branch and this one gives.".to_owned());
        }
        lines
    }
}

/// Accounts for every commit of the branch.
#[must_use]
pub fn account(facts: &Composition) -> Account {
    let ids: BTreeSet<&String> = facts.after.iter().filter_map(|patch| patch.id.as_ref()).collect();
    let identities: BTreeSet<&String> = facts.after.iter().map(|patch| &patch.identity).collect();
    let mut account = Account { foreign_paths: facts.foreign_paths.clone(), ..Account::default() };
    for patch in &facts.before {
        let Some(id) = &patch.id else {
            account.kept += 1;
            continue;
        };
        if ids.contains(id) {
            account.kept += 1;
        } else if facts.on_main.contains(id)
            && (facts.recomposed_same == Some(true) || facts.brings_nothing.contains(&patch.sha))
        {
            account.already_on_main.push(patch.line.clone());
        } else if identities.contains(&patch.identity) {
            account.altered.push(patch.line.clone());
        } else if facts.brings_nothing.contains(&patch.sha) {
            account.already_on_main.push(patch.line.clone());
        } else if facts.on_main.contains(id) {
            account.lost.push(format!("{}: the main branch brought it and does not hold it any more", patch.line));
        } else {
            account.lost.push(patch.line.clone());
        }
    }
    // Patches that are the same prove themselves; altered ones are proven by the whole.
    account.composed_differently = !account.altered.is_empty() && facts.recomposed_same == Some(false);
    account
}

// ------------------------------------------------------------------------------------------------------- the window

/// What a forge said when it was asked to move `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Seen: `main` is there.
    Moved,
    /// `main` is elsewhere; whether it contains the commit by now was looked at.
    Elsewhere {
        /// Whether it does.
        contains: bool,
    },
    /// Definitely not, and never.
    Refused,
    /// This request was not sent.
    NotSent,
    /// Nobody knows.
    Unknown,
}

/// What follows from a forge's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It has landed as far as the forge says: look, and record it.
    Verify,
    /// It has definitely not landed, and nobody is to blame: catch up again.
    CatchUpAgain,
    /// It has definitely not landed: a person has to act.
    NeedsPerson,
    /// Nothing was ever sent for this intent: it is void.
    Void,
    /// Repeat the same request.
    Repeat,
}

/// What follows from an answer. `ever_sent`: whether an earlier request for the same intent may have gone out, be it by
/// somebody before us.
#[must_use]
pub const fn after_advance(said: Said, ever_sent: bool) -> Then {
    match said {
        Said::Moved | Said::Elsewhere { contains: true } => Then::Verify,
        Said::Elsewhere { contains: false } => Then::CatchUpAgain,
        Said::Refused => Then::NeedsPerson,
        // An earlier one may have come through, whatever keeps this one from being sent.
        Said::NotSent if !ever_sent => Then::Void,
        Said::NotSent | Said::Unknown => Then::Repeat,
    }
}

/// What one gate's report says, read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Whose.
    pub gate: GateName,
    /// What it says.
    pub verdict: Verdict,
    /// About which commit.
    pub head: CommitSha,
    /// About which tree.
    pub tree: CommitSha,
    /// On which `main`.
    pub base: Option<CommitSha>,
}

/// A commit that is about to land.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The commit.
    pub head: CommitSha,
    /// Its tree.
    pub tree: CommitSha,
    /// The `main` that it is caught up with.
    pub base: CommitSha,
}

/// Whether a candidate may land: every gate that its plan asks has passed this very commit, tree and base. The security
/// gate looks at a branch from where it began, so its base may be another one; each of its reports has to have passed, and
/// where anything is left to land, one of them has to be about this very commit.
///
/// # Errors
/// Which gate has not, and why.
pub fn may_land(candidate: &Candidate, plan: GatePlan, proven: &[Proven]) -> Result<(), String> {
    let passed = |found: &Proven| match found.verdict {
        Verdict::Passed => Ok(()),
        other => Err(format!("the {} gate's report says {other}", found.gate)),
    };
    if plan.security.is_asked() && candidate.head != candidate.base {
        let (gate, short) = (GateName::Security, candidate.head.short());
        let reports = || proven.iter().filter(|found| found.gate == gate);
        reports().try_for_each(passed)?;
        if !reports().any(|found| found.head == candidate.head && found.tree == candidate.tree) {
            return Err(format!("the {gate} gate has not been asked about {short}"));
        }
    }
    let others = LANDING_GATES.into_iter().filter(|gate| *gate != GateName::Security && plan.of(*gate).is_asked());
    for gate in others {
        let Some(found) = proven.iter().find(|found| found.gate == gate) else {
            return Err(format!("the {gate} gate has not been asked about {}", candidate.head.short()));
        };
        let same = found.head == candidate.head && found.tree == candidate.tree;
        if !same || found.base.as_ref() != Some(&candidate.base) {
            return Err(format!("the {gate} gate's report is about another commit, tree or base"));
        }
        passed(found)?;
    }
    Ok(())
}

/// Whether people let a judged commit go to `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// They do.
    Lands,
    /// Somebody has to approve this very commit first.
    AwaitsApproval,
    /// Somebody merges it.
    AwaitsMerge,
}

/// Whether `head`, caught up with `main` and passed by every gate, may go there now. An approval holds for the commit that
/// was seen: whenever `main` moves on, what is caught up with it is another one. Where nothing is left to land, nobody is
/// asked.
#[must_use]
pub fn permit(task: &Task, head: &CommitSha, main: &CommitSha) -> Permit {
    match task.policy.land {
        _ if head == main => Permit::Lands,
        LandMode::Auto => Permit::Lands,
        LandMode::Approval if task.is_approved(ApprovalOf::Land, head) => Permit::Lands,
        LandMode::Approval => Permit::AwaitsApproval,
        LandMode::PrOnly => Permit::AwaitsMerge,
    }
}

#[cfg(test)]
mod tests;
