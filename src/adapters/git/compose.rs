//! What a catch-up did to a branch, found out by ways that it did not take itself.
//!
//! Owns the facts that `orch_domain::landing::account` judges: patch ids before and after, what `main` brought meanwhile,
//! the tree composed once more, and the paths that nobody's change explains. Reads only, but for objects that nothing
//! keeps. Refuses to judge, and to trust that a commit was left out for the reason that the catch-up gave.

use std::collections::BTreeSet;

use git2::Repository;
use orch_domain::ids::CommitSha;
use orch_domain::landing::{Composition, Patch};
use sha2::{Digest, Sha256};

use super::catch_up::{CatchUpSpec, Merge};
use super::error::GitError;
use super::read::{ChangeKind, ChangedPath, between, line, patch_id};
use super::rooms::RepoGit;

/// How many commits of `main` are looked through for patches that are gone from the branch.
const MOST_OF_MAIN: usize = 5_000;
/// Most paths that are named.
const MOST_PATHS: usize = 50;

impl RepoGit {
    /// What became of `own`'s commits in `head`, which is caught up with `main`.
    ///
    /// # Errors
    /// As any command of ours.
    pub async fn composition(
        &self,
        own: &CommitSha,
        main: &CommitSha,
        head: &CommitSha,
        spec: &CatchUpSpec,
    ) -> Result<Composition, GitError> {
        let mut facts =
            Composition { foreign_paths: self.foreign_paths(own, main, head).await?, ..Composition::default() };
        // A commit that is still in the history was neither altered nor lost.
        if self.contains(own, head).await? {
            return Ok(facts);
        }
        facts.before = self.patches(main, own).await?;
        facts.after = self.patches(main, head).await?;
        let there: BTreeSet<&String> = facts.after.iter().filter_map(|patch| patch.id.as_ref()).collect();
        let gone: Vec<Patch> = facts
            .before
            .iter()
            .filter(|patch| patch.id.as_ref().is_some_and(|id| !there.contains(id)))
            .cloned()
            .collect();
        if gone.is_empty() {
            return Ok(facts);
        }
        let wanted: BTreeSet<String> = gone.iter().filter_map(|patch| patch.id.clone()).collect();
        facts.on_main = self.found_on_main(own, main, wanted).await?;
        let identities: BTreeSet<&String> = facts.after.iter().map(|patch| &patch.identity).collect();
        let on_main = |patch: &Patch| patch.id.as_ref().is_some_and(|id| facts.on_main.contains(id));
        let altered = |patch: &Patch| !on_main(patch) && identities.contains(&patch.identity);
        if gone.iter().any(|patch| on_main(patch) || altered(patch)) {
            facts.recomposed_same = match self.merge_trees(main, own, main).await? {
                Merge::Clean(tree) => Some(tree.to_string() == self.tree_of(head).await?),
                Merge::Conflict(_) => None,
            };
        }
        let whole = facts.recomposed_same == Some(true);
        let mut nothing = BTreeSet::new();
        for patch in gone.iter().filter(|patch| !(altered(patch) || whole && on_main(patch))) {
            for onto in [main, head] {
                if matches!(self.replay_one(&patch.sha, onto, main, spec).await?, Ok(None)) {
                    nothing.insert(patch.sha.clone());
                    break;
                }
            }
        }
        facts.brings_nothing = nothing;
        Ok(facts)
    }

    /// The commits of `base..head`, each with its patch.
    async fn patches(&self, base: &CommitSha, head: &CommitSha) -> Result<Vec<Patch>, GitError> {
        let (base, head) = (base.clone(), head.clone());
        self.read(self.work(), move |repo| between(repo, &base, &head)?.iter().map(|at| patch(repo, at)).collect())
            .await
    }

    /// Which of these patches `main` has brought since the two parted.
    async fn found_on_main(
        &self,
        own: &CommitSha,
        main: &CommitSha,
        mut wanted: BTreeSet<String>,
    ) -> Result<BTreeSet<String>, GitError> {
        let (own, main) = (own.clone(), main.clone());
        self.read(self.work(), move |repo| {
            let mut found = BTreeSet::new();
            for at in between(repo, &own, &main)?.iter().rev().filter(|at| at.parent_count() < 2).take(MOST_OF_MAIN) {
                let id = patch_id(repo, at)?;
                if wanted.remove(&id) {
                    found.insert(id);
                }
                if wanted.is_empty() {
                    break;
                }
            }
            Ok(found)
        })
        .await
    }

    /// Paths in which `head` differs from `main`, though the branch did not change them; where `main` renamed what the
    /// branch changed, the new name is the branch's, too.
    async fn foreign_paths(
        &self,
        own: &CommitSha,
        main: &CommitSha,
        head: &CommitSha,
    ) -> Result<Vec<String>, GitError> {
        let base = self.merge_base(own, main).await?;
        let base = base.ok_or_else(|| GitError::Unrelated { one: own.clone(), other: main.clone() })?;
        let names = |changes: &[ChangedPath]| changes.iter().map(|c| c.path.clone()).collect::<BTreeSet<String>>();
        let brought = names(&self.changed_paths(&base, own).await?);
        let mut foreign: Vec<String> =
            names(&self.changed_paths(main, head).await?).difference(&brought).cloned().collect();
        if !foreign.is_empty() {
            let of_main = self.changed_paths(&base, main).await?;
            let renamed = of_main.iter().any(|c| c.kind == ChangeKind::Deleted && brought.contains(&c.path));
            let added: BTreeSet<&String> =
                of_main.iter().filter(|c| renamed && c.kind == ChangeKind::Added).map(|c| &c.path).collect();
            foreign.retain(|path| !added.contains(path));
        }
        foreign.truncate(MOST_PATHS);
        Ok(foreign)
    }
}

fn patch(repo: &Repository, at: &git2::Commit<'_>) -> Result<Patch, GitError> {
    let shown = line(at);
    let changes = at.parent_count() < 2 && at.parent(0).map_or(true, |parent| parent.tree_id() != at.tree_id());
    let id = if changes { Some(patch_id(repo, at)?) } else { None };
    let author = at.raw_header_bytes().split(|b| *b == b'\n').find(|header| header.starts_with(b"author "));
    let mut identity = Sha256::new();
    identity.update(author.unwrap_or_default());
    identity.update(at.message_raw_bytes());
    Ok(Patch {
        line: format!("{} {} ({})", shown.sha.short(), shown.subject, shown.author),
        sha: shown.sha,
        id,
        identity: hex::encode(identity.finalize()),
    })
}
