//! A forge with fault switches, over a bare repository of its own: for tests of everything above the port.
//!
//! Owns the faults that a real forge shows now and then: an answer that is lost after the deed, a refusal, no
//! connection, a `main` that moves in between. Everything else is what [`LocalForge`] does, so both keep one contract.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use git2::{Repository, Signature, Time};
use orch_domain::ids::CommitSha;
use orch_domain::names::{BranchName, RepoName};

use super::local::{ForgeSetupError, LocalForge};
use crate::git::{GitRooms, Owner, ProtectedBranches, RepoGit};
use crate::ports::{Advance, Forge, ForgeError, LandingNote, Remote};

/// What goes wrong at the next request to move `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It moves; the answer is lost.
    ReplyLost,
    /// The request is lost; nothing moves, and nobody knows.
    RequestLost,
    /// It is refused.
    Refuses,
    /// A person pushes to `main` just before.
    MainMovesFirst,
}

/// A forge with fault switches. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct FakeForge {
    inner: LocalForge,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Default)]
struct Faults {
    unreachable: bool,
    next: VecDeque<Fault>,
    asked: usize,
}

impl FakeForge {
    /// A bare repository at `path`, made with one commit on `main` unless it is there.
    ///
    /// # Errors
    /// See [`ForgeSetupError`].
    pub async fn open(path: &Path, rooms: &GitRooms, name: &RepoName) -> Result<Self, ForgeSetupError> {
        if !path.exists() {
            let made = make(path);
            made.map_err(|err| ForgeSetupError::Unreadable { path: path.to_owned(), why: err.message().to_owned() })?;
        }
        let inner = LocalForge::open(path, None, rooms, name).await?;
        Ok(Self { inner, faults: Arc::default() })
    }

    /// Our own repositories for it.
    #[must_use]
    pub fn git(&self) -> &RepoGit {
        self.inner.git()
    }

    /// Cuts (or mends) the connection.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.faults().unreachable = unreachable;
    }

    /// Adds a fault for a coming request to move `main`; each is used once, in order.
    pub fn next_advance(&self, fault: Fault) {
        self.faults().next.push_back(fault);
    }

    /// How often it was asked to move `main`.
    #[must_use]
    pub fn advances(&self) -> usize {
        self.faults().asked
    }

    /// A person pushes a commit to `main`: one file with a text.
    ///
    /// # Errors
    /// What the repository said.
    pub fn person_pushes(&self, file: &str, text: &str) -> Result<CommitSha, String> {
        let repo = Repository::open_bare(self.inner.path()).map_err(|err| err.message().to_owned())?;
        let pushed = add_commit(&repo, file, text).map_err(|err| err.message().to_owned())?;
        pushed.to_string().parse().map_err(|err: orch_domain::ids::IdError| err.to_string())
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), ForgeError> {
        match self.faults().unreachable {
            true => Err(ForgeError::Unreachable("the fake was told to be away".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Forge for FakeForge {
    fn remote(&self) -> Remote {
        self.inner.remote()
    }

    async fn main_branch(&self) -> Result<BranchName, ForgeError> {
        self.check()?;
        self.inner.main_branch().await
    }

    async fn protected(&self) -> Result<ProtectedBranches, ForgeError> {
        self.check()?;
        self.inner.protected().await
    }

    async fn head(&self, branch: &BranchName) -> Result<Option<CommitSha>, ForgeError> {
        self.check()?;
        self.inner.head(branch).await
    }

    async fn advance_main(&self, owner: &Owner, main: &BranchName, expected: &CommitSha, to: &CommitSha) -> Advance {
        if let Err(err) = self.check() {
            return Advance::Unknown { why: err.to_string() };
        }
        let fault = {
            let mut faults = self.faults();
            faults.asked += 1;
            faults.next.pop_front()
        };
        match fault {
            None => self.inner.advance_main(owner, main, expected, to).await,
            Some(Fault::ReplyLost) => {
                let done = self.inner.advance_main(owner, main, expected, to).await;
                Advance::Unknown { why: format!("the fake lost its answer ({done:?})") }
            }
            Some(Fault::RequestLost) => Advance::Unknown { why: "the fake lost the request".to_owned() },
            Some(Fault::Refuses) => Advance::Refused { why: "the fake was told to refuse".to_owned() },
            Some(Fault::MainMovesFirst) => match self.person_pushes("person.txt", to.as_str()) {
                Ok(_) => self.inner.advance_main(owner, main, expected, to).await,
                Err(why) => Advance::Unknown { why },
            },
        }
    }

    async fn landing_note(&self, from: &CommitSha, to: &CommitSha) -> Option<LandingNote> {
        self.inner.landing_note(from, to).await
    }
}

fn make(path: &Path) -> Result<(), git2::Error> {
    let mut options = git2::RepositoryInitOptions::new();
    options.bare(true).external_template(false).initial_head("main");
    let repo = Repository::init_opts(path, &options)?;
    add_commit(&repo, "README.md", "A repository to play with.\n").map(drop)
}

/// Adds one commit with one file on `HEAD`'s branch.
fn add_commit(repo: &Repository, file: &str, text: &str) -> Result<git2::Oid, git2::Error> {
    let parent = repo.head().ok().and_then(|head| head.peel_to_commit().ok());
    let tree = parent.as_ref().map(git2::Commit::tree).transpose()?;
    let mut update = git2::build::TreeUpdateBuilder::new();
    update.upsert(file, repo.blob(text.as_bytes())?, git2::FileMode::Blob);
    let empty = repo.find_tree(repo.treebuilder(None)?.write()?)?;
    let tree = repo.find_tree(update.create_updated(repo, tree.as_ref().unwrap_or(&empty))?)?;
    let person = Signature::new("A Person", "person@example.org", &Time::new(1_700_000_000, 0))?;
    let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
    repo.commit(Some("HEAD"), &person, &person, &format!("Write {file}\n"), &tree, &parents)
}
