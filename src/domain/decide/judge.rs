//! Judging an agent run: from facts to one of six verdicts. What the agent says counts for nothing by itself.
//!
//! Owns the rules of DESIGN 4 for leaving an agent stage. Order matters: what of ours broke is never blamed on the work,
//! and a run that was cut off is resumed, not judged.

use crate::agent::AgentClaim;
use crate::event::{ArtefactFact, RunFacts};
use crate::job::JobEnd;
use crate::left::UNFINISHED;
use crate::pipeline::{Role, Work};
use crate::task::{Blocked, Task};

/// What an agent run amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunVerdict {
    /// It left what the stage demands.
    Accepted {
        /// For the journal.
        note: String,
    },
    /// The work must be mended.
    SendBack {
        /// Verbatim, for the next prompt.
        findings: String,
        /// To the rollback target; otherwise the same stage again.
        to_developer: bool,
        /// Whether its commits are kept as the head to go on from.
        keep_head: bool,
    },
    /// Cut off; to be resumed.
    Interrupted {
        /// By what.
        why: String,
    },
    /// A provider's limit; to be tried later.
    Later {
        /// Its words.
        why: String,
    },
    /// Something of ours broke.
    CouldNotRun {
        /// What, and the way out.
        why: String,
    },
    /// Repeating will not help.
    NeedsPerson {
        /// Why.
        blocked: Blocked,
    },
}

/// Judges a run of the task's current stage.
#[must_use]
pub fn judge_run(task: &Task, facts: &RunFacts) -> RunVerdict {
    let Work::Agent { role, .. } = &task.current().work else {
        return RunVerdict::CouldNotRun { why: format!("stage `{}` has no agent", task.stage) };
    };
    let left = || facts.left.findings(&task.branch(), has_moved(task, facts));
    if let Some(verdict) = cut_off(facts) {
        return with_left(verdict, left());
    }
    if let Some(why) = &facts.unusable {
        return RunVerdict::SendBack { findings: why.clone(), to_developer: false, keep_head: false };
    }
    if facts.head.is_none() {
        return RunVerdict::CouldNotRun { why: "its commits could not be taken out of the workspace".to_owned() };
    }
    if !role.may_change_code() && !facts.foreign_paths.is_empty() {
        let paths = facts.foreign_paths.join("\n  ");
        let findings = format!(
            "This run may write to `{}` only, but it changed:\n  {paths}\nIts commits were not taken over.",
            task.policy.artefact_dir
        );
        return RunVerdict::SendBack { findings, to_developer: false, keep_head: false };
    }
    match role {
        Role::Developer => judge_developer(task, facts),
        // What these roles are asked for is one file: where it is there, nothing of the rest is missing.
        Role::Analyst | Role::Architect => with_left(judge_note(facts), left()),
        Role::Reviewer => with_left(judge_review(facts), left()),
    }
}

/// What was left besides the commits explains why something is missing: said to whoever is to do the stage again.
fn with_left(verdict: RunVerdict, left: Option<String>) -> RunVerdict {
    match (verdict, left) {
        (RunVerdict::SendBack { findings, to_developer: false, keep_head }, Some(left)) => {
            let findings = format!("{}\n\n{left}", findings.trim_end());
            RunVerdict::SendBack { findings, to_developer: false, keep_head }
        }
        (verdict, _) => verdict,
    }
}

/// Whether the branch has commits that it had not when the stage began or the work was sent back.
fn has_moved(task: &Task, facts: &RunFacts) -> bool {
    let from = task.stage_head.as_ref().or(facts.start.as_ref());
    facts.head.as_ref().is_some_and(|head| Some(head) != from)
}

/// Whether the run was cut off, could not begin, or gave up: everything before its work is looked at.
fn cut_off(facts: &RunFacts) -> Option<RunVerdict> {
    if let Some(why) = &facts.trouble {
        return Some(RunVerdict::CouldNotRun { why: why.clone() });
    }
    let interrupted = |why: &str| Some(RunVerdict::Interrupted { why: why.to_owned() });
    match (&facts.end, &facts.report.claim) {
        (None, _) => Some(RunVerdict::CouldNotRun { why: "the agent's job was never started".to_owned() }),
        (Some(JobEnd::CouldNotStart { why }), _) => {
            let why = format!("the agent program could not be started: {why}");
            Some(RunVerdict::NeedsPerson { blocked: Blocked::Infrastructure { why } })
        }
        (Some(JobEnd::TimedOut), _) => interrupted("its time was over"),
        (Some(JobEnd::Stalled), _) => interrupted("it was silent for longer than allowed"),
        (Some(JobEnd::OverLimit { what }), _) => interrupted(&format!("it went over a limit: {what}")),
        (Some(JobEnd::Cancelled), _) => interrupted("the supervisor ended it"),
        (Some(JobEnd::Orphaned), _) => interrupted("its supervisor was gone"),
        (Some(JobEnd::Lost), _) => interrupted("its guard was lost; how it ended is not known"),
        (Some(JobEnd::Signalled { signal }), _) => interrupted(&format!("it was ended by signal {signal}")),
        (Some(JobEnd::Exited { .. }), Some(AgentClaim::RateLimited { text })) => {
            Some(RunVerdict::Later { why: format!("the agent's provider limits the rate: {text}") })
        }
        (Some(JobEnd::Exited { code: 0 }), Some(AgentClaim::Success)) => None,
        (Some(JobEnd::Exited { code }), Some(AgentClaim::Error { text })) => Some(RunVerdict::SendBack {
            findings: format!("The previous run ended with an error (exit code {code}): {text}\n{}", facts.output_tail),
            to_developer: false,
            keep_head: true,
        }),
        (Some(JobEnd::Exited { code }), Some(AgentClaim::Success)) => Some(RunVerdict::SendBack {
            findings: format!("The previous run exited with code {code}.\n{}", facts.output_tail),
            to_developer: false,
            keep_head: true,
        }),
        (Some(JobEnd::Exited { code }), None) => {
            interrupted(&format!("its stream ended without an end event (exit code {code})"))
        }
    }
}

fn judge_developer(task: &Task, facts: &RunFacts) -> RunVerdict {
    // The branch must have moved since the stage began or the work was sent back. Notes of earlier stages are no work of
    // this one; what an interrupted run left behind is.
    let Some(stage_head) = task.stage_head.as_ref().or(facts.start.as_ref()) else {
        return RunVerdict::CouldNotRun { why: "the commit that its workspace began at is not known".to_owned() };
    };
    let moved = facts.head.as_ref() != Some(stage_head);
    // Commits alone are no work where a part of it is known to lie elsewhere: only the agent can say whether that matters.
    if let Some(findings) = facts.left.findings(&task.branch(), moved) {
        let findings = still_to_mend(findings, task.findings.as_deref(), &[NO_COMMIT, UNFINISHED]);
        return RunVerdict::SendBack { findings, to_developer: false, keep_head: true };
    }
    if !moved {
        let findings = still_to_mend(NO_COMMIT.to_owned(), task.findings.as_deref(), &[NO_COMMIT]);
        return RunVerdict::SendBack { findings, to_developer: false, keep_head: false };
    }
    RunVerdict::Accepted { note: "the branch has new commits".to_owned() }
}

/// What a run is told that has left no commit.
const NO_COMMIT: &str = "The previous run ended without any commit on the branch. Commit your work.";
/// Between what a run is told about itself and what it was to mend.
pub(crate) const STILL: &str = "\nWhat was to be mended still is:\n\n";

/// New findings about a run, and below them what it had been told to mend. Earlier findings that begin with one of `over`
/// were about a run alone, which the new ones replace: of them only what that run was to mend is carried on.
fn still_to_mend(mut findings: String, earlier: Option<&str>, over: &[&str]) -> String {
    let mut open = earlier;
    while let Some(text) = open.filter(|text| over.iter().any(|heading| text.starts_with(heading))) {
        open = text.split_once(STILL).map(|(_, rest)| rest);
    }
    if let Some(open) = open {
        findings.push_str(STILL);
        findings.push_str(open);
    }
    findings
}

fn judge_note(facts: &RunFacts) -> RunVerdict {
    match &facts.artefact {
        ArtefactFact::Written { status, .. } if status == "ready" => {
            RunVerdict::Accepted { note: "its artefact is ready".to_owned() }
        }
        ArtefactFact::Written { status, text, .. } => {
            let why = format!("artefact status `{status}`: {text}");
            RunVerdict::NeedsPerson { blocked: Blocked::AgentGaveUp { why } }
        }
        other => missing_artefact(other),
    }
}

fn judge_review(facts: &RunFacts) -> RunVerdict {
    let ArtefactFact::Written { status, reviewed_head, text } = &facts.artefact else {
        return missing_artefact(&facts.artefact);
    };
    if reviewed_head.is_none() || *reviewed_head != facts.start {
        let said = reviewed_head.as_ref().map_or("no commit", |s| s.as_str());
        let asked = facts.start.as_ref().map_or("unknown", |s| s.as_str());
        return RunVerdict::SendBack {
            findings: format!("The review names {said} as `reviewed_head`, but the commit to review is {asked}."),
            to_developer: false,
            keep_head: false,
        };
    }
    match status.as_str() {
        "approved" => RunVerdict::Accepted { note: "the review approves".to_owned() },
        _ => RunVerdict::SendBack {
            findings: format!("The review asks for changes:\n\n{text}"),
            to_developer: true,
            keep_head: true,
        },
    }
}

fn missing_artefact(fact: &ArtefactFact) -> RunVerdict {
    let findings = match fact {
        ArtefactFact::Missing { path } => format!("The previous run did not write `{path}`. Write and commit it."),
        ArtefactFact::Broken { why } => format!("The artefact of the previous run cannot be read: {why}"),
        ArtefactFact::NotAsked | ArtefactFact::Written { .. } => "The previous run left no artefact.".to_owned(),
    };
    RunVerdict::SendBack { findings, to_developer: false, keep_head: true }
}
