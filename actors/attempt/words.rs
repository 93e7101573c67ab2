//! The words in which an attempt tells what it found: what was left in a workspace, a commit's subject, an output's end,
//! why nothing could be taken.
//!
//! Owns the wording, and whose doing it is that nothing could be taken out; pure but for reading the end of a log. Refuses
//! to judge: whether leftovers matter is the domain's to say.

use orch_adapters::git::{CaptureFacts, Leftovers};
use orch_adapters::jobs::FinishedJob;
use orch_domain::job::JobEnd;
use orch_domain::left::{Left, Several};

use super::Untaken;

/// Bytes of the agent's output that are kept as findings.
const TAIL: u64 = 8 << 10;

/// What a capture says is in the workspace and not in the commits that were handed over; `apart`: the task's branch has
/// commits that were not.
pub(super) fn left_behind(said: &CaptureFacts, apart: bool) -> Left {
    let unnamed = || Some(Several { count: 1, named: Vec::new() });
    let some = |known: &Option<Several>| known.clone().or_else(unnamed);
    let operation = said.unfinished.as_deref().map(|what| match what {
        "merge" | "rebase" | "cherry-pick" | "revert" => what.to_owned(),
        _ => "git operation".to_owned(),
    });
    // What is checked out within a rebase is the rebase's own, and said with it.
    let rebasing = operation.as_deref() == Some("rebase");
    Left {
        unmerged: (said.leftovers == Leftovers::Unmerged).then(|| some(&said.unmerged)).flatten(),
        refused: matches!(said.leftovers, Leftovers::Partly | Leftovers::Failed).then(|| some(&said.refused)).flatten(),
        nested: said.nested.clone(),
        beside: match &said.beside {
            Some(beside) => Some(beside.clone()).filter(|_| !rebasing),
            None => apart.then(unnamed).flatten(),
        },
        operation,
        unknown: false,
    }
}

/// Why the taking out of a workspace gave nothing, by how its job ended and what that said.
pub(super) fn not_taken(end: &JobEnd, said: &str) -> Untaken {
    let complaint = complaint(said);
    // A full disk looks like a repository that cannot be read or written.
    let ours = said.contains("No space left") || said.contains("Disk quota exceeded");
    match end {
        JobEnd::Exited { code: 3 } if !ours => Untaken::Agents(format!(
            "The previous run ended with its git repository gone or damaged, so nothing of it could be taken over: {complaint}\nDo \
             the work again in this fresh workspace, and leave `.git` to git's own commands."
        )),
        JobEnd::Exited { code: 4 } if !ours => Untaken::Agents(format!(
            "The commits of the previous run could not be taken over: {complaint}\nThey are larger than a task may bring, or parts of \
             its repository are missing. Do the work again in this fresh workspace, without large files, and leave `.git` \
             to git's own commands."
        )),
        end => Untaken::Ours(format!("the work could not be taken out of the workspace ({end}): {complaint}")),
    }
}

/// The line of git's complaints that says why it gave up.
fn complaint(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let fatal = lines().rfind(|line| ["fatal:", "error:"].iter().any(|word| line.starts_with(word)));
    let line = fatal.or_else(|| lines().next_back()).unwrap_or("it said nothing");
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(COMPLAINT).collect()
}

/// Characters of a complaint.
const COMPLAINT: usize = 300;

/// A text as one short line, such as a title as the subject of a commit.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE).collect::<String>().trim().to_owned()
}

/// Characters of a line.
const LINE: usize = 100;

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
        CaptureFacts {
            head,
            on: None,
            task_branch: None,
            unfinished: None,
            leftovers,
            unmerged: None,
            refused: None,
            nested: None,
            beside: None,
            commits: 1,
        }
    }

    fn several(name: &str) -> Option<Several> {
        Several::of(1, vec![name.to_owned()])
    }

    #[test]
    fn whatever_is_not_in_the_commits_is_said_to_be_left() {
        assert!(left_behind(&said(Leftovers::None), false).is_nothing());
        assert!(left_behind(&said(Leftovers::Committed), false).is_nothing());
        let table = [
            (said(Leftovers::Partly), "some of its changes could not be committed"),
            (said(Leftovers::Failed), "some of its changes could not be committed"),
            (said(Leftovers::Unmerged), "conflicts unresolved in some files"),
            (CaptureFacts { unmerged: several("c"), ..said(Leftovers::Unmerged) }, "conflicts unresolved in `c`"),
            (CaptureFacts { nested: several("inner"), ..said(Leftovers::None) }, "`inner` is a repository of its own"),
            (CaptureFacts { beside: several("q"), ..said(Leftovers::Committed) }, "what it had checked out, `q`"),
            (CaptureFacts { unfinished: Some("merge".to_owned()), ..said(Leftovers::None) }, "a merge unfinished"),
            (
                CaptureFacts { unfinished: Some("\u{1b}x".to_owned()), ..said(Leftovers::None) },
                "a git operation unfinished",
            ),
        ];
        for (said, short) in table {
            let text = left_behind(&said, false).in_short().expect("left");
            assert!(text.contains(short), "{text}");
        }
        let rebase =
            CaptureFacts { unfinished: Some("rebase".to_owned()), beside: several("q"), ..said(Leftovers::None) };
        assert_eq!(left_behind(&rebase, false).in_short().as_deref(), Some("it left a rebase unfinished"));
        let apart = left_behind(&said(Leftovers::None), true).in_short().expect("left");
        assert!(apart.contains("not on the task's branch"), "{apart}");
    }

    #[test]
    fn a_repository_that_the_agent_damaged_is_its_own_matter_and_all_else_is_ours() {
        let code = |code| JobEnd::Exited { code };
        let table = [
            (code(3), "fatal: not a git repository (or any of the parent directories)\nmore", true),
            (code(4), "fatal: bad object HEAD", true),
            (code(3), "fatal: unable to write: No space left on device", false),
            (code(4), "error: file write error: No space left on device", false),
            (code(5), "sh: git: not found", false),
            (code(127), "sh: not found", false),
            (JobEnd::TimedOut, "", false),
            (JobEnd::Lost, "", false),
        ];
        for (end, output, agents) in table {
            let (why, whose) = match not_taken(&end, output) {
                Untaken::Agents(why) => (why, true),
                Untaken::Ours(why) => (why, false),
            };
            assert_eq!(whose, agents, "{end:?}: {why}");
            assert!(!why.contains("Exited") && !why.contains("\\n"), "{why}");
            assert!(why.contains(output.lines().next().unwrap_or_default()), "{why}");
        }
    }
}
