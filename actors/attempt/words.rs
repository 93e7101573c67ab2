//! The words in which an attempt tells what it found: what was left in a workspace, a commit's subject, an output's end.
//!
//! Owns the wording; pure but for reading the end of a log. Refuses to judge: whether leftovers matter is the caller's to say.

use orch_adapters::git::{CaptureFacts, Leftovers};
use orch_adapters::jobs::FinishedJob;

/// Bytes of the agent's output that are kept as findings.
const TAIL: u64 = 8 << 10;

/// What a capture says is in the workspace and not in the commits that were handed over; `apart`: the task's branch has
/// commits of its own.
pub(super) fn left_behind(said: &CaptureFacts, apart: bool) -> Option<String> {
    let files = match said.leftovers {
        Leftovers::None | Leftovers::Committed => None,
        Leftovers::Partly => Some("some of its changes could not be committed".to_owned()),
        Leftovers::Unmerged => Some("it left conflicts unresolved".to_owned()),
        Leftovers::Failed => Some("its changes could not be committed".to_owned()),
    };
    let unfinished = said.unfinished.as_ref().map(|what| format!("it left a {} unfinished", one_line(what)));
    let nested = (said.nested > 0).then(|| format!("it holds {} repositories inside", said.nested));
    let apart = apart.then(|| "the task's branch has commits that what is checked out has not".to_owned());
    let all: Vec<String> = [files, unfinished, nested, apart].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// A title as the subject of a commit.
pub(super) fn one_line(title: &str) -> String {
    title.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect::<String>().trim().to_owned()
}

/// The end of what a job said.
pub(super) fn tail(finished: &FinishedJob) -> String {
    finished.tail(TAIL).unwrap_or_else(|e| format!("(its output cannot be read: {e})"))
}

#[cfg(test)]
mod tests {
    use orch_domain::ids::CommitSha;

    use super::*;

    fn said(leftovers: Leftovers) -> CaptureFacts {
        let head: CommitSha = "b".repeat(40).parse().expect("a commit");
        CaptureFacts { head, on: None, task_branch: None, unfinished: None, leftovers, nested: 0, commits: 1 }
    }

    #[test]
    fn whatever_is_not_in_the_commits_is_said_to_be_left() {
        assert_eq!(left_behind(&said(Leftovers::None), false), None);
        assert_eq!(left_behind(&said(Leftovers::Committed), false), None);
        for leftovers in [Leftovers::Partly, Leftovers::Unmerged, Leftovers::Failed] {
            assert!(left_behind(&said(leftovers), false).is_some(), "{leftovers:?}");
        }
        let rebase = CaptureFacts { unfinished: Some("rebase".to_owned()), nested: 2, ..said(Leftovers::None) };
        let text = left_behind(&rebase, true).expect("left");
        for part in ["rebase unfinished", "2 repositories", "the task's branch"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
