//! The forge that needs no server: a bare repository or a plain clone on this machine.
//!
//! Owns finding it, its main branch, and every reason why it cannot be used, each with the way out. `main` moves by a
//! plain push; hooks of the repository do run then, as they would for its owner's own push, but in the environment of our
//! git commands (a bare `PATH`, a private `HOME`). They are the owner's code, out of reach for agents, and to skip them
//! would land what the owner forbids. Refuses to touch a checked-out `main`'s files or index: what to do about them is
//! said in a note, and left to the person they belong to.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use orch_domain::ids::CommitSha;
use orch_domain::names::{BranchName, RepoName};

use super::advance::{advance_by_push, forge_error};
use super::note;
use crate::git::{
    Git, GitCommand, GitError, GitRooms, Owner, Place, ProtectedBranches, RepoGit, find_repository, utf8,
};
use crate::ports::{Advance, Forge, ForgeError, LandingNote, Remote};

/// Why a path or an address cannot be a forge. Each says the way out.
#[derive(Debug, thiserror::Error)]
pub enum ForgeSetupError {
    /// Nothing there.
    #[error("repository `{path}`: there is no such folder; check the path")]
    NoSuchPath {
        /// The path as given.
        path: PathBuf,
    },
    /// Something else there.
    #[error("repository `{path}`: this is not a git repository; {hint}")]
    NotARepository {
        /// The path as given.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// No right to read it.
    #[error("repository `{path}` cannot be read: {why}; run orch as a user who may read and write it")]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// No right to write it.
    #[error("repository `{path}` may not be written: {part}: {why}; run orch as a user who may, or name another")]
    Unwritable {
        /// The path as given.
        path: PathBuf,
        /// What of it.
        part: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Nothing to start from.
    #[error("repository `{path}` has no commit yet; make a first one (`git commit`) and start again")]
    NoCommits {
        /// The path as given.
        path: PathBuf,
    },
    /// The main branch is not there.
    #[error(
        "repository `{path}` has no branch `{wanted}`; it has: {have}; name the branch that tasks land on in the setting `main` (`--main` of `orch run`)"
    )]
    NoMain {
        /// The path as given.
        path: PathBuf,
        /// The branch looked for.
        wanted: String,
        /// The branches that are there.
        have: String,
    },
    /// `HEAD` names no branch.
    #[error(
        "repository `{path}` is on no branch (detached at {at}); check out the branch that tasks land on, or name it in the setting `main` (`--main` of `orch run`)"
    )]
    Detached {
        /// The path as given.
        path: PathBuf,
        /// Where it is.
        at: String,
    },
    /// Task branches cannot be made beside it.
    #[error(
        "repository `{path}` has a branch `orch`, so that no branch of a task (`orch/KEY/LIFE`) can be made there; give it another name: `git -C {path} branch -m orch NEW-NAME`"
    )]
    BranchInTheWay {
        /// The path as given.
        path: PathBuf,
    },
    /// Part of the history is missing.
    #[error(
        "repository `{path}` is a shallow clone; complete it with `git -C {path} fetch --unshallow` and start again"
    )]
    Shallow {
        /// The path as given.
        path: PathBuf,
    },
    /// An object format that is not supported.
    #[error("repository `{path}` uses {format} object ids; only sha1 repositories are supported")]
    Format {
        /// The path as given.
        path: PathBuf,
        /// The format.
        format: String,
    },
    /// What its server calls `HEAD` names no branch, and no branch is configured.
    #[error("repository `{url}` does not say which branch is its main one; name it in the setting `main`")]
    NoDefault {
        /// The address as given.
        url: String,
    },
    /// As the error says.
    #[error(transparent)]
    Git(#[from] GitError),
}

/// A repository on this machine as forge. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalForge {
    path: PathBuf,
    place: Place,
    main: BranchName,
    /// The branch that its `HEAD` names, if it names one.
    default: Option<BranchName>,
    git: RepoGit,
}

impl LocalForge {
    /// Opens the repository at `path` (a bare one, or a clone with files), and our own repositories beside it. `main` is
    /// the branch that tasks land on; by default the one that is checked out there.
    ///
    /// # Errors
    /// See [`ForgeSetupError`].
    pub async fn open(
        path: &Path,
        main: Option<BranchName>,
        rooms: &GitRooms,
        name: &RepoName,
    ) -> Result<Self, ForgeSetupError> {
        let (real, place) = find(path)?;
        may_write(path, &place)?;
        let probe = Probe { git: rooms.probe(), path, place: &place };
        probe.check_kind().await?;
        let (main, default) = probe.main(main).await?;
        let remote = Remote { url: utf8(&real)?.to_owned(), env: Default::default() };
        let git = rooms.open(name, remote).await?;
        Ok(Self { path: real, place, main, default, git })
    }

    /// Our own repositories for it.
    #[must_use]
    pub fn git(&self) -> &RepoGit {
        &self.git
    }

    /// The same forge, with commands run for another owner.
    #[must_use]
    pub fn for_owner(&self, owner: Owner) -> Self {
        Self { git: self.git.for_owner(owner), ..self.clone() }
    }

    /// The branch that tasks land on.
    #[must_use]
    pub fn main(&self) -> &BranchName {
        &self.main
    }

    /// The branch that its `HEAD` names: the one that is checked out, in a clone with files.
    #[must_use]
    pub fn default_branch(&self) -> Option<&BranchName> {
        self.default.as_ref()
    }

    /// The repository's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[async_trait]
impl Forge for LocalForge {
    fn remote(&self) -> Remote {
        self.git.remote().clone()
    }

    async fn main_branch(&self) -> Result<BranchName, ForgeError> {
        Ok(self.main.clone())
    }

    async fn protected(&self) -> Result<ProtectedBranches, ForgeError> {
        Ok(ProtectedBranches::new(self.main.clone(), self.default.clone()))
    }

    async fn head(&self, branch: &BranchName) -> Result<Option<CommitSha>, ForgeError> {
        self.git.remote_head(branch).await.map_err(forge_error)
    }

    async fn advance_main(&self, owner: &Owner, main: &BranchName, expected: &CommitSha, to: &CommitSha) -> Advance {
        advance_by_push(&self.git, owner, main, expected, to).await
    }

    async fn landing_note(&self, from: &CommitSha, to: &CommitSha) -> Option<LandingNote> {
        note::for_checked_out_main(&self.git, &self.place, &self.main, from, to).await
    }
}

/// Whether a push could land there: found out now, not when an agent has worked.
fn may_write(path: &Path, place: &Place) -> Result<(), ForgeSetupError> {
    for part in ["objects", "refs/heads"] {
        let part = place.common_dir.join(part);
        let allowed = nix::unistd::access(&part, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK);
        if let Err(why) = allowed.or_else(|why| if why == nix::errno::Errno::ENOENT { Ok(()) } else { Err(why) }) {
            return Err(ForgeSetupError::Unwritable { path: path.to_owned(), part, why: why.desc().to_owned() });
        }
    }
    Ok(())
}

/// Whether there is a repository at exactly this path that a supervisor could use, as far as a look at its files tells.
///
/// # Errors
/// See [`ForgeSetupError`].
pub fn look_at(path: &Path) -> Result<(), ForgeSetupError> {
    find(path).and_then(|(_, place)| may_write(path, &place))
}

/// Finds the repository at exactly this path.
pub(super) fn find(path: &Path) -> Result<(PathBuf, Place), ForgeSetupError> {
    let owned = || path.to_owned();
    let unreadable = |err: std::io::Error| ForgeSetupError::Unreadable { path: owned(), why: err.to_string() };
    let real = path.canonicalize().map_err(|err| match err.kind() {
        std::io::ErrorKind::NotFound => ForgeSetupError::NoSuchPath { path: owned() },
        _ => unreadable(err),
    })?;
    if !real.is_dir() {
        return Err(ForgeSetupError::NotARepository { path: owned(), hint: "it is a file".to_owned() });
    }
    std::fs::read_dir(&real).map_err(unreadable)?;
    if let Some(place) = find_repository(&real) {
        std::fs::read_dir(place.common_dir.join("objects")).map_err(unreadable)?;
        return Ok((real, place));
    }
    let above = real.ancestors().skip(1).find(|above| find_repository(above).is_some());
    let hint = match above {
        Some(above) => format!("it is a folder of the repository `{}`: name that", above.display()),
        None => "name one, or make one with `git init` and a first commit".to_owned(),
    };
    Err(ForgeSetupError::NotARepository { path: owned(), hint })
}

/// Questions to a repository that is not ours, before it is used.
pub(super) struct Probe<'a> {
    pub(super) git: Git,
    pub(super) path: &'a Path,
    pub(super) place: &'a Place,
}

impl Probe<'_> {
    /// Asks the repository something. It is named outright, so nothing is searched and no owner is doubted: that the
    /// operator named this path is the trust.
    async fn ask(&self, args: &[&str]) -> Result<(i32, String), ForgeSetupError> {
        let dir = utf8(&self.place.git_dir)?;
        let command = GitCommand::inside(&self.place.git_dir, args.iter().copied()).env("GIT_DIR", dir);
        let out = self.git.run(command).await?;
        if out.code > 1 {
            let why = crate::git::words(&out.stderr);
            return Err(ForgeSetupError::Unreadable { path: self.path.to_owned(), why });
        }
        Ok((out.code, String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    }

    async fn check_kind(&self) -> Result<(), ForgeSetupError> {
        let (_, shallow) = self.ask(&["rev-parse", "--is-shallow-repository"]).await?;
        match shallow == "true" {
            true => Err(ForgeSetupError::Shallow { path: self.path.to_owned() }),
            false => self.check_format().await,
        }
    }

    pub(super) async fn check_format(&self) -> Result<(), ForgeSetupError> {
        match self.ask(&["rev-parse", "--show-object-format"]).await?.1.as_str() {
            "sha1" | "" => Ok(()),
            format => Err(ForgeSetupError::Format { path: self.path.to_owned(), format: format.to_owned() }),
        }
    }

    /// The commit that a revision means; `None`: it means none.
    pub(super) async fn commit_at(&self, revision: &str) -> Result<Option<CommitSha>, ForgeSetupError> {
        let wanted = format!("{revision}^{{commit}}");
        let args = ["rev-parse", "--quiet", "--verify", "--end-of-options", wanted.as_str()];
        let dir = utf8(&self.place.git_dir)?;
        let command = GitCommand::inside(&self.place.git_dir, args).env("GIT_DIR", dir);
        let out = self.git.run(command).await?;
        Ok(match out.code {
            0 => String::from_utf8_lossy(&out.stdout).trim().parse().ok(),
            _ => None,
        })
    }

    /// The branch that a revision names, without its remote; `None`: it names a commit in another way.
    pub(super) async fn branch_at(&self, revision: &str) -> Result<Option<BranchName>, ForgeSetupError> {
        let args = ["rev-parse", "--quiet", "--verify", "--symbolic-full-name", "--end-of-options", revision];
        let dir = utf8(&self.place.git_dir)?;
        let command = GitCommand::inside(&self.place.git_dir, args).env("GIT_DIR", dir);
        let out = self.git.run(command).await?;
        let full = String::from_utf8_lossy(&out.stdout);
        let full = full.trim();
        let of_remote = || Some(full.strip_prefix("refs/remotes/")?.split_once('/')?.1);
        Ok(full.strip_prefix("refs/heads/").or_else(of_remote).and_then(|name| name.parse().ok()))
    }

    /// The branch to land on, and the one that `HEAD` names.
    async fn main(&self, configured: Option<BranchName>) -> Result<(BranchName, Option<BranchName>), ForgeSetupError> {
        let path = || self.path.to_owned();
        let (_, listed) = self.ask(&["for-each-ref", "--format=%(refname)", "refs/heads"]).await?;
        let have: Vec<&str> = listed.lines().filter_map(|name| name.strip_prefix("refs/heads/")).collect();
        if have.is_empty() {
            return Err(ForgeSetupError::NoCommits { path: path() });
        }
        if have.contains(&"orch") {
            return Err(ForgeSetupError::BranchInTheWay { path: path() });
        }
        let no_main = |wanted: &str| {
            let mut shown: Vec<&str> = have.iter().copied().take(8).collect();
            shown.extend((have.len() > 8).then_some("..."));
            ForgeSetupError::NoMain { path: path(), wanted: wanted.to_owned(), have: shown.join(", ") }
        };
        let (code, head) = self.ask(&["symbolic-ref", "--quiet", "HEAD"]).await?;
        let head = (code == 0).then(|| head.strip_prefix("refs/heads/").unwrap_or(&head).to_owned());
        let default = head.as_ref().and_then(|name| name.parse::<BranchName>().ok());
        let wanted = match (configured, &default, &head) {
            (Some(main), ..) => main,
            (None, Some(default), _) => default.clone(),
            (None, None, Some(name)) => return Err(no_main(name)),
            (None, None, None) => {
                let (_, at) = self.ask(&["rev-parse", "--short", "HEAD"]).await?;
                return Err(ForgeSetupError::Detached { path: path(), at });
            }
        };
        match have.contains(&wanted.as_str()) {
            true => Ok((wanted, default)),
            false => Err(no_main(wanted.as_str())),
        }
    }
}
