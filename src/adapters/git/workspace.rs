//! Making the two kinds of working trees: an agent's workspace and a gate's checkout.
//!
//! Owns their making: a repository of its own that borrows objects from *upstream* alone, complete or not there (made
//! beside its place, renamed at the end; a half-made one is thrown away). Submodules and large-file pointers stay as
//! they are. Refuses to run any git command in either after it was handed over: from then on it belongs to a job.

use std::path::{Path, PathBuf};

use orch_domain::ids::CommitSha;
use orch_domain::names::BranchName;

use super::error::GitError;
use super::exec::{GitCommand, quote_config, utf8};
use super::plain_checkout::check_out;
use super::read::open;
use super::rooms::{RepoGit, discard, making_beside, write_alternates};

/// The remote of a workspace: a path that cannot exist, and that git quotes when somebody pushes or fetches.
const NO_REMOTE: &str = "/dev/null/there is no remote here: commit your work, the supervisor takes it from there";

/// What an agent's workspace is to be.
#[derive(Clone, Debug)]
pub struct WorkspaceSpec {
    /// Where; must not exist yet, its parent is created.
    pub dir: PathBuf,
    /// The branch that is checked out in it.
    pub branch: BranchName,
    /// The commit it starts from.
    pub start: CommitSha,
    /// Name of the branch that tasks land on.
    pub main: BranchName,
    /// Where that branch is: shown to the agent as `origin/<main>`.
    pub base: CommitSha,
}

/// An agent's workspace, freshly made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its folder.
    pub dir: PathBuf,
    /// The branch checked out in it.
    pub branch: BranchName,
    /// The commit it starts from.
    pub start: CommitSha,
    /// Where main was.
    pub base: CommitSha,
}

/// A gate's clean tree of exactly one commit, freshly made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// Its folder.
    pub dir: PathBuf,
    /// The commit, checked out detached.
    pub sha: CommitSha,
    /// Its tree, as found in the checkout.
    pub tree: String,
}

/// What is made in either case.
struct Plan<'a> {
    dir: &'a Path,
    sha: &'a CommitSha,
    branch: Option<&'a BranchName>,
    base: Option<(&'a BranchName, &'a CommitSha)>,
}

/// The folders and the one file that make an empty repository: what `git init` leaves without a template.
fn make_git_dir(git_dir: &Path, head: &str) -> Result<(), GitError> {
    for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        let path = git_dir.join(folder);
        std::fs::create_dir_all(&path).map_err(GitError::io("cannot create", &path))?;
    }
    let file = git_dir.join("HEAD");
    std::fs::write(&file, format!("ref: refs/heads/{head}\n")).map_err(GitError::io("cannot write", &file))
}

impl RepoGit {
    /// Makes a workspace. Its `origin` can neither be fetched from nor pushed to.
    ///
    /// # Errors
    /// [`GitError::Exists`] when the folder is there; [`GitError::NoSuchCommit`] when start or base is not known here;
    /// nothing is left at `dir` on any error.
    pub async fn make_workspace(&self, spec: WorkspaceSpec) -> Result<Workspace, GitError> {
        let base = Some((&spec.main, &spec.base));
        let plan = Plan { dir: &spec.dir, sha: &spec.start, branch: Some(&spec.branch), base };
        self.make_tree(&plan).await?;
        Ok(Workspace { dir: spec.dir, branch: spec.branch, start: spec.start, base: spec.base })
    }

    /// Makes a clean checkout of exactly `sha`. `base`, when given, is visible in it as `origin/<main>`.
    ///
    /// # Errors
    /// As [`Self::make_workspace`].
    pub async fn checkout(
        &self,
        sha: &CommitSha,
        dir: &Path,
        base: Option<(&BranchName, &CommitSha)>,
    ) -> Result<Checkout, GitError> {
        self.make_tree(&Plan { dir, sha, branch: None, base }).await?;
        Ok(Checkout { dir: dir.to_owned(), sha: sha.clone(), tree: self.tree_of(sha).await? })
    }

    async fn make_tree(&self, plan: &Plan<'_>) -> Result<(), GitError> {
        utf8(plan.dir)?;
        if plan.dir.symlink_metadata().is_ok() {
            return Err(GitError::Exists { path: plan.dir.to_owned() });
        }
        let making = making_beside(plan.dir);
        discard(&making)?;
        let made = self.make_at(&making, plan).await;
        let placed =
            made.and_then(|()| std::fs::rename(&making, plan.dir).map_err(GitError::io("cannot create", plan.dir)));
        if placed.is_err() {
            discard(&making)?;
        }
        placed
    }

    async fn make_at(&self, dir: &Path, plan: &Plan<'_>) -> Result<(), GitError> {
        let tree = self.tree_of(plan.sha).await?;
        let parent = dir.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).map_err(GitError::io("cannot create", parent))?;
        let git_dir = dir.join(".git");
        make_git_dir(&git_dir, plan.branch.map_or("main", BranchName::as_str))?;
        write_alternates(&git_dir, utf8(&self.borrowed_objects())?)?;
        self.write_config(&git_dir)?;
        let sha = plan.sha.as_str();
        let checkout = match plan.branch {
            // The branch is born already: this only fills index and files.
            Some(_) => vec!["reset", "--quiet", "--hard"],
            None => vec!["checkout", "--quiet", "--force", "--detach", sha],
        };
        let first = self.bring(dir, plan).await?;
        if plan.branch.is_none() && first.is_none() && self.check_out_plainly(dir, plan.sha, &tree).await? {
            return Ok(());
        }
        let command = match first {
            Some(fetch) => fetch.and_then(checkout),
            None => GitCommand::inside(dir, checkout),
        };
        let found = self.git.ok(command.and_then(["write-tree"])).await?;
        let found = String::from_utf8_lossy(&found).trim().to_owned();
        match found == tree {
            true => Ok(()),
            false => Err(GitError::Read {
                what: format!("the fresh checkout of {sha}"),
                why: format!("its tree is {found}, that of the commit is {tree}"),
            }),
        }
    }

    /// Checks out a small and plain tree by the library. `false`: git has to. A gate may be asked about any commit at any
    /// time; a workspace is made once for an agent's run, and left to git.
    async fn check_out_plainly(&self, dir: &Path, sha: &CommitSha, tree: &str) -> Result<bool, GitError> {
        let to = dir.to_owned();
        let id = tree.parse::<CommitSha>().map_err(|error| GitError::Invalid(format!("the tree of {sha}: {error}")))?;
        let id = super::read::oid(&id)?;
        if !self.read(self.work(), move |work| check_out(work, id, &to)).await? {
            return Ok(false);
        }
        let head = dir.join(".git/HEAD");
        std::fs::write(&head, format!("{sha}\n")).map_err(GitError::io("cannot write", &head))?;
        Ok(true)
    }

    /// Makes the refs of a fresh repository, and brings in the commits that upstream does not have. Gives the command
    /// that does so where it may as well run together with what comes next.
    async fn bring(&self, dir: &Path, plan: &Plan<'_>) -> Result<Option<GitCommand>, GitError> {
        let mut wanted = vec![plan.sha];
        wanted.extend(plan.base.map(|(_, base)| base));
        let upstream = self.upstream();
        let (mut later, mut missing) = (None, 0);
        // Only a whole history counts: upstream's objects are whole, whatever refs it has.
        let is_whole = async |sha: &CommitSha| {
            let id = super::read::oid(sha)?;
            self.read(upstream.clone(), move |repo| Ok(repo.find_commit(id).is_ok())).await
        };
        for sha in wanted {
            let mut there = is_whole(sha).await?;
            if let Some((_, base)) = plan.base.filter(|(_, base)| !there && *base != sha)
                && is_whole(base).await?
            {
                there = self.pass_on(&dir.join(".git"), sha, base).await?;
            }
            if !there {
                missing += 1;
                let from = self.work();
                let args = [
                    "fetch",
                    "--quiet",
                    "--no-tags",
                    "--no-write-fetch-head",
                    "--no-recurse-submodules",
                    "--no-auto-gc",
                    "--",
                    utf8(&from)?,
                    sha.as_str(),
                ];
                let fetch = GitCommand::inside(dir, args);
                // A ref needs its commit: only what no ref names can come later.
                match sha == plan.sha && plan.branch.is_none() {
                    true => later = Some(fetch),
                    false => drop(self.git.ok(fetch).await?),
                }
            }
        }
        let base_comes_later = missing > 0 && plan.base.is_some_and(|(_, base)| base == plan.sha);
        if base_comes_later && let Some(fetch) = later.take() {
            self.git.ok(fetch).await?;
        }
        let mut refs = Vec::new();
        refs.extend(plan.base.map(|(main, base)| (format!("refs/remotes/origin/{main}"), base.clone())));
        refs.extend(plan.branch.map(|branch| (format!("refs/heads/{branch}"), plan.sha.clone())));
        for (name, sha) in refs {
            self.keep(&dir.join(".git"), &name, &sha).await?;
        }
        Ok(later)
    }

    /// The configuration of a working tree. Nobody else has touched the repository yet.
    fn write_config(&self, git_dir: &Path) -> Result<(), GitError> {
        let settings = self.git.settings();
        let text = format!(
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogAllRefUpdates = true\n\
             [user]\n\tname = {name}\n\temail = {email}\n\
             [remote \"origin\"]\n\turl = {none}\n\tpushurl = {none}\n\
             [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[advice]\n\tdetachedHead = false\n",
            name = quote_config(&settings.name),
            email = quote_config(&settings.email),
            none = quote_config(NO_REMOTE),
        );
        let file = git_dir.join("config");
        std::fs::write(&file, text).map_err(GitError::io("cannot write", &file))?;
        for folder in ["hooks", "info"] {
            let path = git_dir.join(folder);
            std::fs::create_dir_all(&path).map_err(GitError::io("cannot create", &path))?;
        }
        // A broken alternates line shows here, before anybody works in it.
        open(git_dir).map(drop)
    }
}
