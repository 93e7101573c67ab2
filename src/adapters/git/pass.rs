//! Passing commits on from one repository of ours to another, without a process.
//!
//! Owns the copy of a few objects: a landing brings three or four, and a `git fetch` for them is five processes. What is
//! copied is whole: each object that the known history has not at the same place is read, checked by its id and written, what
//! it refers to before itself. Refuses much (git moves that as a pack), and whatever it cannot read: then git is asked.

use std::collections::HashSet;
use std::path::Path;

use git2::{ErrorCode, ObjectType, Odb, Oid, Repository, Sort, Tree};
use orch_domain::ids::CommitSha;

use super::error::GitError;
use super::read::{oid, open};
use super::rooms::RepoGit;

/// Most objects that are copied one by one.
const MOST: usize = 200;
/// Most bytes of them together.
const MOST_BYTES: usize = 8 << 20;

impl RepoGit {
    /// Copies `wanted` out of work into the repository at `to`, which has all of `known`. `false`: it is too much, or work
    /// does not have all of it; git can tell better.
    pub(super) async fn pass_on(&self, to: &Path, wanted: &CommitSha, known: &CommitSha) -> Result<bool, GitError> {
        let (to, wanted, known) = (to.to_owned(), oid(wanted)?, oid(known)?);
        self.read(self.work(), move |work| {
            let to = open(&to)?;
            let copied = work.odb().and_then(|from| {
                let copy = Copy { work, from, to: to.odb()?, done: HashSet::new(), bytes: 0 };
                copy.history(wanted, known)
            });
            Ok(copied
                .inspect_err(|error| tracing::debug!(%error, "{wanted} is not passed on, git is asked"))
                .unwrap_or(false))
        })
        .await
    }
}

/// One copy under way.
struct Copy<'r> {
    work: &'r Repository,
    from: Odb<'r>,
    to: Odb<'r>,
    done: HashSet<Oid>,
    bytes: usize,
}

impl Copy<'_> {
    /// The commits that `known` does not have, parents first.
    fn history(mut self, wanted: Oid, known: Oid) -> Result<bool, git2::Error> {
        let mut walk = self.work.revwalk()?;
        walk.set_sorting(Sort::TOPOLOGICAL | Sort::REVERSE)?;
        walk.push(wanted)?;
        walk.hide(known)?;
        for id in walk.take(MOST + 1) {
            let commit = self.work.find_commit(id?)?;
            // The first parent is there by now, and so is whatever stands at the same place in it.
            let before = match commit.parent(0) {
                Ok(parent) => Some(parent.tree()?),
                Err(error) if error.code() == ErrorCode::NotFound => None,
                Err(error) => return Err(error),
            };
            if !self.tree(&commit.tree()?, before.as_ref())? || !self.object(commit.id())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What stands in `tree` and not at the same place in `before`; then the tree.
    fn tree(&mut self, tree: &Tree<'_>, before: Option<&Tree<'_>>) -> Result<bool, git2::Error> {
        if before.is_some_and(|before| before.id() == tree.id()) {
            return Ok(true);
        }
        for entry in tree {
            let old = before.and_then(|before| before.get_name_bytes(entry.name_bytes()));
            if old.as_ref().is_some_and(|old| old.id() == entry.id()) {
                continue;
            }
            let copied = match entry.kind() {
                Some(ObjectType::Tree) => {
                    let old = old.filter(|old| old.kind() == Some(ObjectType::Tree));
                    let old = old.map(|old| self.work.find_tree(old.id())).transpose()?;
                    self.tree(&self.work.find_tree(entry.id())?, old.as_ref())?
                }
                Some(ObjectType::Blob) => self.object(entry.id())?,
                // A submodule's commit is in another repository.
                _ => true,
            };
            if !copied {
                return Ok(false);
            }
        }
        self.object(tree.id())
    }

    /// One object. `false`: with it there are too many.
    fn object(&mut self, id: Oid) -> Result<bool, git2::Error> {
        if !self.done.insert(id) {
            return Ok(true);
        }
        self.bytes = self.bytes.saturating_add(self.from.read_header(id)?.0);
        if self.done.len() > MOST || self.bytes > MOST_BYTES {
            return Ok(false);
        }
        let object = self.from.read(id)?;
        let written = self.to.write(object.kind(), object.data())?;
        match written == id {
            true => Ok(true),
            false => Err(git2::Error::from_str(&format!("object {id} is not what its id says"))),
        }
    }
}
