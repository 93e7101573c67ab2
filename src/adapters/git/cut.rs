//! History that may be cut off: a shallow clone ends before the first commit, and the library does not know.
//!
//! Owns the list of commits whose parents are not here, and the walks that need it. Where nothing is cut off the library
//! walks, which is quicker. Refuses to fetch what is missing.

use std::collections::HashSet;

use git2::{ErrorCode, Oid, Repository};
use orch_domain::ids::CommitSha;

use super::commit_of;
use super::error::GitError;

/// Commits whose parents are not here: where the history of a shallow clone is cut off. None in our own mirrors.
pub(crate) struct Cut(HashSet<Oid>);

impl Cut {
    pub(crate) fn of(repo: &Repository) -> Result<Self, GitError> {
        let file = repo.path().join("shallow");
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Self(text.lines().filter_map(|line| Oid::from_str(line).ok()).collect())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self(HashSet::new())),
            Err(error) => Err(GitError::io("cannot read", file)(error)),
        }
    }

    pub(crate) fn parents(&self, commit: &git2::Commit<'_>) -> Vec<Oid> {
        match self.0.contains(&commit.id()) {
            true => Vec::new(),
            false => commit.parent_ids().collect(),
        }
    }

    /// The commits from `head` that are not from any tip, parents first.
    pub(crate) fn range(&self, repo: &Repository, head: &CommitSha, tips: &[&CommitSha]) -> Result<Vec<Oid>, GitError> {
        let fail = || GitError::read(format!("the commits up to {}", head.short()));
        let head = commit_of(repo, head)?.id();
        let tips = tips.iter().map(|tip| Ok(commit_of(repo, tip)?.id())).collect::<Result<Vec<Oid>, GitError>>()?;
        if !self.0.is_empty() {
            // What is left of a cut history is short, and the library would look for what was cut off.
            let mut hidden = HashSet::new();
            for tip in tips {
                self.walk(repo, tip, &mut hidden)?;
            }
            return self.walk(repo, head, &mut hidden);
        }
        let mut revisions = repo.revwalk().map_err(fail())?;
        revisions.set_sorting(git2::Sort::TOPOLOGICAL | git2::Sort::REVERSE).map_err(fail())?;
        revisions.push(head).map_err(fail())?;
        for tip in tips {
            revisions.hide(tip).map_err(fail())?;
        }
        revisions.collect::<Result<_, _>>().map_err(fail())
    }

    /// Everything from a commit that was not seen before, parents first.
    fn walk(&self, repo: &Repository, from: Oid, seen: &mut HashSet<Oid>) -> Result<Vec<Oid>, GitError> {
        let (mut order, mut open) = (Vec::new(), vec![(from, false)]);
        while let Some((id, parents_done)) = open.pop() {
            if parents_done {
                order.push(id);
                continue;
            }
            if !seen.insert(id) {
                continue;
            }
            open.push((id, true));
            let commit = repo.find_commit(id).map_err(GitError::read(format!("commit {id}")))?;
            open.extend(self.parents(&commit).into_iter().map(|parent| (parent, false)));
        }
        Ok(order)
    }

    /// A newest common ancestor of two commits, as far as the history goes.
    pub(crate) fn merge_base(&self, repo: &Repository, one: Oid, other: Oid) -> Result<Option<Oid>, GitError> {
        if self.0.is_empty() {
            return match repo.merge_base(one, other) {
                Ok(id) => Ok(Some(id)),
                Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
                Err(error) => Err(GitError::read("the history")(error)),
            };
        }
        let mut ancestors = HashSet::new();
        self.walk(repo, one, &mut ancestors)?;
        // Children come before their parents here, so that the first common one is no ancestor of another.
        let others = self.walk(repo, other, &mut HashSet::new())?;
        Ok(others.into_iter().rev().find(|id| ancestors.contains(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{commit_all, sh, sha_of, write};
    use super::*;

    #[test]
    fn a_common_ancestor_is_found_as_far_as_the_history_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let person = dir.path().join("person");
        std::fs::create_dir(&person).expect("made");
        sh(&person, &["init", "--quiet", "--initial-branch=main"]);
        for number in 0..4 {
            write(&person.join("a.txt"), format!("{number}\n"));
            commit_all(&person, "Change");
        }
        let shallow = dir.path().join("shallow");
        let url = format!("file://{}", person.display());
        sh(&person, &["clone", "--quiet", "--depth", "3", &url, &shallow.to_string_lossy()]);
        sh(&shallow, &["checkout", "--quiet", "-b", "side", "HEAD~1"]);
        write(&shallow.join("b.txt"), "b\n");
        commit_all(&shallow, "Side");
        for folder in [&person, &shallow] {
            let repo = Repository::open(folder).expect("opened");
            let id = |name: &str| Oid::from_str(sha_of(folder, name).as_str()).expect("an id");
            let base =
                |one: &str, other: &str| Cut::of(&repo).and_then(|cut| cut.merge_base(&repo, id(one), id(other)));
            assert_eq!(base("main~1", "main").expect("read"), Some(id("main~1")));
            assert_eq!(base("main", "main~2").expect("read"), Some(id("main~2")));
            if folder == &shallow {
                assert_eq!(base("main", "side").expect("read"), Some(id("main~1")));
                assert_eq!(base("side", "main~2").expect("read"), Some(id("main~2")));
            }
        }
    }
}
