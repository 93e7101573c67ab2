//! Merging trees where there is nothing to merge: each path was touched by one side at most.
//!
//! Owns the answer that `git merge-tree` would give there, without its process: the one side's tree with the other side's
//! entries put in. Refuses whatever may need more: a path that both touched, a file where the other has a folder, and
//! anything that went away or changed its kind, since git may see a rename in it. Those are git's.

use std::collections::BTreeMap;

use git2::build::TreeUpdateBuilder;
use git2::{Commit, Delta, FileMode, Oid, Repository, Tree};

/// What one side put at a path.
type Put = (Oid, FileMode);

/// The merged tree of two commits beside the one that both are compared with; `None`: git has to say.
pub(super) fn plain_merge(
    repo: &Repository,
    [base, ours, theirs]: [&Commit<'_>; 3],
) -> Result<Option<Oid>, git2::Error> {
    let (base, ours, theirs) = (base.tree()?, ours.tree()?, theirs.tree()?);
    let (Some(here), Some(there)) = (puts(repo, &base, &ours)?, puts(repo, &base, &theirs)?) else { return Ok(None) };
    if in_the_way(&here, &there) || in_the_way(&there, &here) {
        return Ok(None);
    }
    let mut update = TreeUpdateBuilder::new();
    for (path, (id, mode)) in &there {
        update.upsert(path.as_slice(), *id, *mode);
    }
    update.create_updated(repo, &ours).map(Some)
}

/// What a side put where; `None`: it did more than that.
fn puts(repo: &Repository, base: &Tree<'_>, side: &Tree<'_>) -> Result<Option<BTreeMap<Vec<u8>, Put>>, git2::Error> {
    let diff = repo.diff_tree_to_tree(Some(base), Some(side), None)?;
    let put = |delta: git2::DiffDelta<'_>| {
        let plain = |mode| matches!(mode, FileMode::Blob | FileMode::BlobExecutable | FileMode::Link);
        let new = delta.new_file();
        match delta.status() {
            Delta::Added if plain(new.mode()) => {}
            Delta::Modified if plain(new.mode()) && plain(delta.old_file().mode()) => {}
            _ => return None,
        }
        Some((new.path_bytes()?.to_vec(), (new.id(), new.mode())))
    };
    Ok(diff.deltas().map(put).collect())
}

/// Whether one side has a path that the other touched, or put something at a folder that leads there.
fn in_the_way(here: &BTreeMap<Vec<u8>, Put>, there: &BTreeMap<Vec<u8>, Put>) -> bool {
    let leads = |path: &[u8]| path.iter().enumerate().any(|(at, byte)| *byte == b'/' && here.contains_key(&path[..at]));
    there.keys().any(|path| here.contains_key(path) || leads(path))
}
