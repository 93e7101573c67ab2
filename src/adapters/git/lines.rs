//! Which lines differ between two commits, for whoever maps line numbers from one to the other.
//!
//! Owns the diff without context, with renames followed. Opens only our own repositories. Invariant: of what was not
//! compared (binary, too large) it is said that its lines are not known, never guessed. A name that no path of ours can be
//! is left out: nothing is measured under it either.

use std::cell::RefCell;
use std::collections::BTreeSet;

use git2::{Delta, DiffFindOptions, DiffOptions};
use orch_domain::coverage::{Change, Changes, Hunk};
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoPath;

use super::error::GitError;
use super::read::commit;
use super::rooms::RepoGit;

/// Files beyond this size are not compared line by line.
const MOST_BYTES: i64 = 4 << 20;
/// Renames are looked for among at most this many files.
const MOST_RENAMES: usize = 200;

/// The lines in which two commits differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedLines {
    /// Files of the second commit that changed, by their path there.
    pub changes: Changes,
    /// Paths that the second commit does not have any more.
    pub gone: BTreeSet<RepoPath>,
}

impl RepoGit {
    /// The lines in which the trees of two commits differ.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn changed_lines(&self, from: &CommitSha, to: &CommitSha) -> Result<ChangedLines, GitError> {
        let (from, to) = (from.clone(), to.clone());
        self.read(self.work(), move |repo| {
            let fail = || GitError::read(format!("the changed lines of {}..{}", from.short(), to.short()));
            let old = commit(repo, &from)?.tree().map_err(fail())?;
            let new = commit(repo, &to)?.tree().map_err(fail())?;
            let mut options = DiffOptions::new();
            options.context_lines(0).interhunk_lines(0).max_size(MOST_BYTES).ignore_submodules(true);
            let mut diff = repo.diff_tree_to_tree(Some(&old), Some(&new), Some(&mut options)).map_err(fail())?;
            let mut renames = DiffFindOptions::new();
            renames.renames(true).rename_limit(MOST_RENAMES);
            diff.find_similar(Some(&mut renames)).map_err(fail())?;
            let found = RefCell::new(ChangedLines::default());
            let path = |file: &git2::DiffFile<'_>| -> Option<RepoPath> {
                std::str::from_utf8(file.path_bytes()?).ok()?.parse().ok()
            };
            let mut file = |delta: git2::DiffDelta<'_>, _: f32| {
                let mut found = found.borrow_mut();
                let (before, after) = (path(&delta.old_file()), path(&delta.new_file()));
                if matches!(delta.status(), Delta::Deleted | Delta::Renamed) {
                    found.gone.extend(before.clone());
                }
                let old = before.filter(|_| delta.status() != Delta::Added);
                if let Some(after) = after.filter(|_| delta.status() != Delta::Deleted) {
                    found.changes.insert(after, Change { old, hunks: Some(Vec::new()) });
                }
                true
            };
            let mut hunk = |delta: git2::DiffDelta<'_>, hunk: git2::DiffHunk<'_>| {
                let here = Hunk {
                    old_start: hunk.old_start(),
                    old_lines: hunk.old_lines(),
                    new_start: hunk.new_start(),
                    new_lines: hunk.new_lines(),
                };
                let mut found = found.borrow_mut();
                let change = path(&delta.new_file()).and_then(|path| found.changes.get_mut(&path));
                if let Some(hunks) = change.and_then(|change| change.hunks.as_mut()) {
                    hunks.push(here);
                }
                true
            };
            let mut binary = |delta: git2::DiffDelta<'_>, _: git2::DiffBinary<'_>| {
                let mut found = found.borrow_mut();
                if let Some(change) = path(&delta.new_file()).and_then(|path| found.changes.get_mut(&path)) {
                    change.hunks = None;
                }
                true
            };
            diff.foreach(&mut file, Some(&mut binary), Some(&mut hunk), None).map_err(fail())?;
            Ok(found.into_inner())
        })
        .await
    }
}
