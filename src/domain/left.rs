//! What an agent left besides the commits that were taken out of its workspace, and what that means for its run.
//!
//! Owns the facts, the rule (whatever was begun and not ended, or lies where nothing takes it from, makes the work
//! unfinished) and the words in which the agent is told what to do. Refuses to weigh: whether a part that is missing matters
//! is nobody's to guess, so the agent is asked. Texts from the workspace are handed in as plain, short lines.

use serde::{Deserialize, Serialize};

use crate::names::BranchName;

/// How many of a sort are named.
pub const NAMED: usize = 5;

/// Things of one sort, of which a few are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Several {
    /// How many there are; at least one.
    pub count: usize,
    /// The first of them, at most [`NAMED`]; fewer than `count` where the rest, or all, are not known by name.
    pub named: Vec<String>,
}

impl Several {
    /// `None` where there are none.
    #[must_use]
    pub fn of(count: usize, named: Vec<String>) -> Option<Self> {
        let count = count.max(named.len());
        (count > 0).then(|| Self { count, named: named.into_iter().take(NAMED).collect() })
    }

    /// `a`, `b` and 3 more; `unnamed` where no name is known.
    fn listed(&self, unnamed: &str) -> String {
        let named: Vec<String> = self.named.iter().map(|name| format!("`{name}`")).collect();
        match (named.len(), self.count.saturating_sub(named.len())) {
            (0, _) => unnamed.to_owned(),
            (_, 0) => named.join(", "),
            (_, more) => format!("{} and {more} more", named.join(", ")),
        }
    }
}

/// What a run left besides its commits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Left {
    /// A git operation that was begun and not ended: `rebase`, `merge`, `cherry-pick`, `revert`.
    pub operation: Option<String>,
    /// Files with conflicts that were not resolved: nothing that was not committed could be taken.
    pub unmerged: Option<Several>,
    /// Changes that git refused to commit.
    pub refused: Option<Several>,
    /// Repositories of their own inside the tree, which no commit holds.
    pub nested: Option<Several>,
    /// Commits that were checked out and are not on the task's branch, by their subjects.
    pub beside: Option<Several>,
    /// Something of which is known only that it is there: whoever looked was ended before that was recorded.
    pub unknown: bool,
}

impl Left {
    /// Whether there is nothing: the commits that were taken are all of the work.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// In one line, for the journal; `None` when there is nothing.
    #[must_use]
    pub fn in_short(&self) -> Option<String> {
        let all = [
            self.operation.as_ref().map(|what| format!("it left a {what} unfinished")),
            self.unmerged.as_ref().map(|some| format!("it left conflicts unresolved in {}", some.listed("some files"))),
            self.refused.as_ref().map(|some| format!("{} could not be committed", some.listed("some of its changes"))),
            self.nested.as_ref().map(|some| {
                let are = if some.count == 1 { "is a repository of its own" } else { "are repositories of their own" };
                format!("{} {are} inside the tree", some.listed("something"))
            }),
            self.beside.as_ref().map(|some| {
                let are = if some.count == 1 { "is" } else { "are" };
                format!("what it had checked out, {}, {are} not on the task's branch", some.listed("commits"))
            }),
            self.unknown.then(|| "it left files that are in no commit".to_owned()),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// What the agent is told: what is missing, and what to do about it; `None` when there is nothing. `kept`: the branch
    /// has commits of that run, which the next one begins with.
    #[must_use]
    pub fn findings(&self, branch: &BranchName, kept: bool) -> Option<String> {
        let mut text = format!("{UNFINISHED}{}.\n", self.in_short()?);
        for point in self.points(branch) {
            text.push_str(&format!("- {point}\n"));
        }
        text.push_str(&match kept {
            true => format!(
                "What it had committed on `{branch}` is kept: this workspace begins with it, without anything else of that \
                 run. If nothing is missing now, say so with `git commit --allow-empty`."
            ),
            false => format!("Nothing of that run is on `{branch}`: this workspace begins as that one did."),
        });
        Some(text)
    }

    fn points(&self, branch: &BranchName) -> Vec<String> {
        let mut points = Vec::new();
        if let Some(what) = &self.operation {
            points.push(format!(
                "End every {what} that you begin: `git {what} --continue` after resolving the conflicts, or `git {what} \
                 --abort` to do without."
            ));
        }
        if self.unmerged.is_some() {
            points.push(
                "Resolve conflicts, `git add` the files and commit them: while one is open, nothing else is committed."
                    .to_owned(),
            );
        }
        if let Some(some) = &self.refused {
            points.push(format!(
                "Git refuses {}: a file larger than a task may bring, or one that cannot be read. Make it smaller, make it \
                 readable, or name it in `.gitignore` if it is no part of the work.",
                some.listed("some changes")
            ));
        }
        if let Some(some) = &self.nested {
            let first = some.named.first().map_or("FOLDER", String::as_str);
            points.push(format!(
                "Files of a repository inside this one are no part of your commits. Write them again without `git init`, or \
                 remove `{first}/.git` before you end; name the folder in `.gitignore` if it is no part of the work."
            ));
        }
        if self.beside.is_some() {
            points.push(format!(
                "Only what is on `{branch}` counts. Commit there, and have it checked out when you end; what you did \
                 elsewhere is to be done again."
            ));
        }
        if self.unknown {
            points.push(
                "Commit all of your work, end every git operation, and make no repository inside this one.".to_owned(),
            );
        }
        points
    }
}

/// How the findings about unfinished work begin.
pub(crate) const UNFINISHED: &str = "The previous run ended with its work unfinished: ";

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize, named: &[&str]) -> Option<Several> {
        Several::of(count, named.iter().map(|name| (*name).to_owned()).collect())
    }

    fn branch() -> BranchName {
        "orch/orc-1/1".parse().expect("a branch")
    }

    #[test]
    fn each_thing_that_is_left_is_told_in_one_line_and_with_what_to_do() {
        let rebase = Left { operation: Some("rebase".to_owned()), ..Left::default() };
        let table = [
            (rebase, "it left a rebase unfinished", "`git rebase --abort`"),
            (
                Left { unmerged: some(1, &["c"]), ..Left::default() },
                "conflicts unresolved in `c`",
                "`git add` the files",
            ),
            (
                Left { refused: some(1, &["big.bin"]), ..Left::default() },
                "`big.bin` could not be committed",
                ".gitignore",
            ),
            (Left { refused: some(1, &[]), ..Left::default() }, "some of its changes could not be", "Git refuses some"),
            (Left { nested: some(1, &["inner"]), ..Left::default() }, "`inner` is a repository", "remove `inner/.git`"),
            (Left { nested: some(7, &["a", "b"]), ..Left::default() }, "`a`, `b` and 5 more are", "`a/.git`"),
            (Left { beside: some(1, &["q"]), ..Left::default() }, "checked out, `q`, is not on", "orch/orc-1/1"),
            (Left { unknown: true, ..Left::default() }, "files that are in no commit", "Commit all of your work"),
        ];
        for (left, short, advice) in table {
            assert!(!left.is_nothing());
            let line = left.in_short().expect("something");
            assert!(line.contains(short) && line.lines().count() == 1, "{line}");
            let told = left.findings(&branch(), true).expect("something");
            assert!(told.lines().next().is_some_and(|first| first.contains(short)), "the first line says it: {told}");
            assert!(told.contains(advice) && told.contains("--allow-empty"), "{told}");
            let lost = left.findings(&branch(), false).expect("something");
            assert!(lost.contains("Nothing of that run") && !lost.contains("--allow-empty"), "{lost}");
        }
    }

    #[test]
    fn all_of_it_is_told_at_once_and_nothing_is_nothing() {
        let all = Left {
            operation: Some("merge".to_owned()),
            unmerged: some(2, &["a", "b"]),
            nested: some(1, &["inner"]),
            beside: some(1, &["q"]),
            ..Left::default()
        };
        let told = all.findings(&branch(), true).expect("something");
        assert_eq!(told.lines().filter(|line| line.starts_with("- ")).count(), 4, "{told}");
        assert!(Left::default().is_nothing());
        assert_eq!((Left::default().in_short(), Left::default().findings(&branch(), true)), (None, None));
        assert_eq!(some(0, &[]), None);
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(Several::of(9, many).map(|some| (some.count, some.named.len())), Some((9, NAMED)));
    }
}
