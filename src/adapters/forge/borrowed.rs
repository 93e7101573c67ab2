//! A repository on this machine that is only looked at: for gates that a person or a CI asks by hand.
//!
//! Owns reading revisions as the person wrote them, and the way to the objects: ours borrow from theirs, so nothing is copied.
//! Any state of the repository will do: detached, shallow, without branches. Refuses to land, push or move anything.

use std::path::Path;

use async_trait::async_trait;
use orch_domain::ids::CommitSha;
use orch_domain::names::{BranchName, RepoName};

use super::advance::forge_error;
use super::local::{ForgeSetupError, Probe, find};
use crate::git::{GitError, GitRooms, Owner, ProtectedBranches, RepoGit, utf8, write_alternates};
use crate::ports::{Advance, Forge, ForgeError, LandingNote, Remote};

/// Why nothing lands here.
const ONLY_LOOKED_AT: &str = "this repository is only looked at";

/// The repository, and ours that borrow from it.
#[derive(Clone, Debug)]
pub struct BorrowedForge {
    git: RepoGit,
}

impl BorrowedForge {
    /// Opens the repository at `path`, with our own beside it.
    ///
    /// # Errors
    /// See [`ForgeSetupError`].
    pub async fn open(path: &Path, rooms: &GitRooms, name: &RepoName) -> Result<Self, ForgeSetupError> {
        let (real, place) = find(path)?;
        Probe { git: rooms.probe(), path, place: &place }.check_format().await?;
        let remote = Remote { url: utf8(&real)?.to_owned(), env: Default::default() };
        let git = rooms.open(name, remote).await?;
        write_alternates(&git.upstream(), utf8(&place.common_dir.join("objects"))?)?;
        // Where its history is cut off, ours is, too.
        let cut = place.common_dir.join("shallow");
        if cut.is_file() {
            for ours in [git.upstream(), git.work()] {
                let to = ours.join("shallow");
                std::fs::copy(&cut, &to).map_err(GitError::io("cannot write", &to))?;
            }
        }
        Ok(Self { git })
    }

    /// Our own repositories for it.
    #[must_use]
    pub fn git(&self) -> &RepoGit {
        &self.git
    }

    /// The commit that a revision means there (`HEAD`, `origin/main`, `main~3`, a sha); `None`: it means none.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn resolve(
        &self,
        path: &Path,
        rooms: &GitRooms,
        revision: &str,
    ) -> Result<Option<CommitSha>, ForgeSetupError> {
        let (_, place) = find(path)?;
        let probe = Probe { git: rooms.probe(), path, place: &place };
        probe.commit_at(revision).await
    }

    /// The branch that a revision names there (`main`, `origin/main`: `main`); `None`: it names a commit in another way.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn branch(
        &self,
        path: &Path,
        rooms: &GitRooms,
        revision: &str,
    ) -> Result<Option<BranchName>, ForgeSetupError> {
        let (_, place) = find(path)?;
        let probe = Probe { git: rooms.probe(), path, place: &place };
        probe.branch_at(revision).await
    }
}

#[async_trait]
impl Forge for BorrowedForge {
    fn remote(&self) -> Remote {
        self.git.remote().clone()
    }

    async fn main_branch(&self) -> Result<BranchName, ForgeError> {
        Err(ForgeError::Refused(ONLY_LOOKED_AT.to_owned()))
    }

    async fn protected(&self) -> Result<ProtectedBranches, ForgeError> {
        Err(ForgeError::Refused(ONLY_LOOKED_AT.to_owned()))
    }

    async fn head(&self, branch: &BranchName) -> Result<Option<CommitSha>, ForgeError> {
        self.git.remote_head(branch).await.map_err(forge_error)
    }

    async fn advance_main(&self, _: &Owner, _: &BranchName, _: &CommitSha, _: &CommitSha) -> Advance {
        Advance::Refused { why: ONLY_LOOKED_AT.to_owned() }
    }

    async fn landing_note(&self, _: &CommitSha, _: &CommitSha) -> Option<LandingNote> {
        None
    }
}
