//! Why a task cannot go on without a person.
//!
//! Owns the reasons, their stable codes and their words. Every reason names what it saw; what a retry does is not decided
//! here.

use serde::{Deserialize, Serialize};

use crate::decide::STILL;
use crate::names::TaskKey;
use crate::task::headline;

/// Why a task cannot go on without a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Blocked {
    /// The work was sent back as often as allowed.
    RetriesSpent {
        /// The last findings.
        findings: String,
    },
    /// It conflicted with `main` as often as allowed.
    ConflictedTooOften {
        /// The last findings.
        findings: String,
    },
    /// `main` has been red itself for as long as is waited.
    MainIsRed {
        /// Which tests, on which `main`.
        why: String,
    },
    /// Its runs were interrupted as often as allowed.
    InterruptedTooOften,
    /// Something of ours could not run, as often as allowed, or needs a person at once.
    Infrastructure {
        /// What, with the value and the way out.
        why: String,
    },
    /// Deferred as often as allowed.
    DeferredTooOften {
        /// What was busy.
        why: String,
    },
    /// The forge refuses to land it.
    ForgeRefuses {
        /// Its words.
        why: String,
    },
    /// A dependency was cancelled and the repository says to wait.
    DependencyCancelled {
        /// Which.
        key: TaskKey,
    },
    /// The budget is spent.
    BudgetSpent {
        /// Which ceiling, with both numbers.
        why: String,
    },
    /// Landed, but the deploy failed: only the deploy is retried.
    LandedDeployFailed {
        /// What failed.
        why: String,
    },
    /// Whether an irreversible step took effect cannot be known.
    OutcomeUnknown {
        /// Which step, and what was looked at.
        why: String,
    },
    /// Its actor failed again and again.
    CrashLoop {
        /// The last failure.
        why: String,
    },
    /// Its stored row cannot be read. Only ever shown, by whoever lists tasks; never stored.
    Unreadable {
        /// What of it, in the reader's words.
        why: String,
    },
    /// The agent itself said that it cannot go on.
    AgentGaveUp {
        /// Its words.
        why: String,
    },
}

impl Blocked {
    /// A short code, stable, for metrics and JSON.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::RetriesSpent { .. } => "retries-spent",
            Self::ConflictedTooOften { .. } => "conflicted-too-often",
            Self::MainIsRed { .. } => "main-is-red",
            Self::InterruptedTooOften => "interrupted-too-often",
            Self::Infrastructure { .. } => "infrastructure",
            Self::DeferredTooOften { .. } => "deferred-too-often",
            Self::ForgeRefuses { .. } => "forge-refuses",
            Self::DependencyCancelled { .. } => "dependency-cancelled",
            Self::BudgetSpent { .. } => "budget-spent",
            Self::LandedDeployFailed { .. } => "landed-deploy-failed",
            Self::OutcomeUnknown { .. } => "outcome-unknown",
            Self::CrashLoop { .. } => "crash-loop",
            Self::AgentGaveUp { .. } => "agent-gave-up",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    /// The reason in words.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::RetriesSpent { findings } => {
                format!("sent back as often as allowed; last findings: {}", in_short(findings))
            }
            Self::ConflictedTooOften { findings } => {
                format!("conflicted with the main branch as often as allowed; last findings: {}", in_short(findings))
            }
            Self::MainIsRed { why } => format!("the main branch itself is red: {}", headline(why)),
            Self::InterruptedTooOften => "its runs were interrupted as often as allowed".to_owned(),
            Self::Infrastructure { why } => format!("could not run: {why}"),
            Self::DeferredTooOften { why } => format!("deferred as often as allowed: {why}"),
            Self::ForgeRefuses { why } => format!("the forge refuses to land it: {why}"),
            Self::DependencyCancelled { key } => format!("its dependency {key} was cancelled"),
            Self::BudgetSpent { why } => format!("its budget is spent: {why}"),
            Self::LandedDeployFailed { why } => format!("landed, deploy failed: {why}"),
            Self::OutcomeUnknown { why } => format!("outcome unknown: {why}"),
            Self::CrashLoop { why } => format!("its actor failed again and again: {why}"),
            Self::AgentGaveUp { why } => format!("the agent gave up: {}", headline(why)),
            Self::Unreadable { why } => format!("its stored row cannot be read: {}", headline(why)),
        }
    }
}

/// Findings in one line. Below those about the last run stands what it was to mend, which is why it was sent back at all.
fn in_short(findings: &str) -> String {
    match findings.split_once(STILL) {
        Some((about, open)) => format!("{}; still to be mended: {}", headline(about), headline(open)),
        None => headline(findings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_says_what_was_found_and_not_only_that_something_was() {
        let table = [
            ("make test failed: exit code 2\n\nmore", "make test failed: exit code 2"),
            (
                "1 secret in what this branch brings on top of c01d96731a:\n\n- a.txt:1 aws-key",
                "1 secret in what this branch brings on top of c01d96731a: a.txt:1 aws-key",
            ),
            ("Refused, since it cannot be looked into:", "Refused, since it cannot be looked into:"),
            ("", ""),
            (
                "No commit. Commit.\nWhat was to be mended still is:\n\nmake test failed: exit code 2\nmore",
                "No commit. Commit.; still to be mended: make test failed: exit code 2",
            ),
        ];
        for (findings, shown) in table {
            let text = Blocked::RetriesSpent { findings: findings.to_owned() }.text();
            assert_eq!(text, format!("sent back as often as allowed; last findings: {shown}"));
        }
        let long = Blocked::AgentGaveUp { why: format!("because:\n{}", "x".repeat(500)) }.text();
        assert!(long.len() < 250 && long.ends_with("x..."), "{long}");
    }
}
