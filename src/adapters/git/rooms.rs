//! The three bare repositories that stand for one repository of the forge, and what flows in from it.
//!
//! Owns `<data>/repos/<name>/{upstream,work,vault}.git`: *upstream* holds only what the forge has and is the only one a
//! workspace may borrow from; *work* holds imports, catch-ups and landings; *vault* holds salvage. Upstream is packed
//! but never pruned, so whoever borrows from it stays whole; work and vault borrow from upstream.
//! Refuses to believe a local ref about the forge: where a branch is, is asked there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use git2::{ErrorCode, Repository, RepositoryOpenFlags};
use orch_domain::ids::{CommitSha, RunId, TaskId};
use orch_domain::names::{BranchName, RepoName};
use tokio::sync::Mutex;

use super::error::{GitError, is_refusal, words};
use super::exec::{Exec, Git, GitCommand, GitOutput, GitSettings, Owner, random_hex, utf8};
use super::handles::Handles;
use crate::ports::Remote;

/// Findings of `fsck` that old, honest histories are full of; they hurt nobody and cannot be mended.
const OLD_SINS: [&str; 9] = [
    "badDateOverflow",
    "badFilemode",
    "badTimezone",
    "missingEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "missingTaggerEntry",
    "multipleAuthors",
    "zeroPaddedFilemode",
];

/// Where all repositories live.
#[derive(Clone)]
pub struct GitRooms {
    root: PathBuf,
    exec: Arc<dyn Exec>,
    settings: Arc<GitSettings>,
}

impl GitRooms {
    /// Repositories under `root` (`<data>/repos`).
    #[must_use]
    pub fn new(root: PathBuf, exec: Arc<dyn Exec>, settings: GitSettings) -> Self {
        Self { root, exec, settings: Arc::new(settings) }
    }

    /// The three repositories for `remote`, created where they are missing. A half-made one is thrown away first.
    ///
    /// # Errors
    /// [`GitError::Io`], [`GitError::NoGit`], [`GitError::Interrupted`]: nothing is half there afterwards.
    pub async fn open(&self, name: &RepoName, remote: Remote) -> Result<RepoGit, GitError> {
        let root = self.root.join(name.as_str());
        let git = Git::new(self.exec.clone(), self.settings.clone(), root.join("home"));
        RepoGit::open(name.clone(), root, remote, git).await
    }

    /// A runner for questions about repositories that are not ours (yet).
    pub(crate) fn probe(&self) -> Git {
        Git::new(self.exec.clone(), self.settings.clone(), self.root.join(".probe"))
    }
}

/// One repository's git side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RepoGit {
    pub(crate) name: RepoName,
    pub(crate) root: PathBuf,
    pub(crate) remote: Remote,
    pub(crate) git: Git,
    pub(crate) handles: Handles,
    /// Whoever fetches: the others wait, and find what it brought.
    fetching: Arc<Mutex<()>>,
}

/// How often a fetch may find that somebody else has moved the ref under it. Only the lane and the attempts of one repository
/// can be at it at the same time, so who loses finds next time what the other has brought.
const MOST_LOST: u32 = 5;

/// Folders above which no repository is looked for: none is looked for at all.
const NOWHERE: [&str; 0] = [];

impl RepoGit {
    async fn open(name: RepoName, root: PathBuf, remote: Remote, git: Git) -> Result<Self, GitError> {
        utf8(&root)?;
        if remote.url.is_empty() || remote.url.starts_with('-') || remote.url.chars().any(char::is_control) {
            return Err(GitError::Invalid(format!("the remote `{}` is no URL or path", remote.url.escape_debug())));
        }
        std::fs::create_dir_all(&root).map_err(GitError::io("cannot create", &root))?;
        git.trust(&trusted(&remote))?;
        let repo = Self { name, root, remote, git, handles: Handles::default(), fetching: Arc::default() };
        repo.make(&repo.upstream(), None).await?;
        repo.make(&repo.work(), Some("../../upstream.git/objects")).await?;
        repo.make(&repo.vault(), Some("../../upstream.git/objects")).await?;
        Ok(repo)
    }

    /// Creates one bare repository unless it is there; complete or not at all, by a rename at the end.
    async fn make(&self, path: &Path, borrow: Option<&str>) -> Result<(), GitError> {
        let leaf = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let making = self.root.join(format!(".{leaf}.making"));
        discard(&making)?;
        if path.is_dir() {
            return Ok(());
        }
        let dir = utf8(&making)?.to_owned();
        let init = ["init", "--quiet", "--bare", "--template=", "--initial-branch=none", "--object-format=sha1", "--"];
        let args = init.into_iter().map(str::to_owned).chain([dir]);
        self.git.ok(GitCommand::inside(&self.root, args)).await?;
        let config = making.join("config");
        std::fs::write(&config, OWN_CONFIG).map_err(GitError::io("cannot write", &config))?;
        if let Some(borrow) = borrow {
            write_alternates(&making, borrow)?;
        }
        std::fs::rename(&making, path).map_err(GitError::io("cannot create", path))
    }

    /// The same repositories, with commands run for another owner.
    #[must_use]
    pub fn for_owner(&self, owner: Owner) -> Self {
        Self { git: self.git.for_owner(owner), ..self.clone() }
    }

    /// The runner of its commands.
    pub(crate) fn git(&self) -> &Git {
        &self.git
    }

    /// Our name of the repository.
    #[must_use]
    pub fn name(&self) -> &RepoName {
        &self.name
    }

    /// How git reaches the forge.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// The settings that commands run with.
    #[must_use]
    pub fn settings(&self) -> &GitSettings {
        self.git.settings()
    }

    /// What the forge has.
    #[must_use]
    pub fn upstream(&self) -> PathBuf {
        self.root.join("upstream.git")
    }

    /// Imports, catch-ups and landings.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join("work.git")
    }

    /// Salvage.
    #[must_use]
    pub fn vault(&self) -> PathBuf {
        self.root.join("vault.git")
    }

    /// Whether the forge is a repository on this machine.
    #[must_use]
    pub(crate) fn is_local(&self) -> bool {
        self.remote.url.starts_with('/') || self.remote.url.starts_with("file://")
    }

    /// The folder that workspaces and checkouts borrow from: jobs in them must be able to read it, nothing else of ours.
    #[must_use]
    pub fn borrowed_objects(&self) -> PathBuf {
        self.upstream().join("objects")
    }

    /// Where a branch of the forge is now, freshly asked; `None` when there is no such branch.
    ///
    /// # Errors
    /// [`GitError::Unreachable`] or [`GitError::Refused`] when the forge gives no answer.
    pub async fn remote_head(&self, branch: &BranchName) -> Result<Option<CommitSha>, GitError> {
        let full = format!("refs/heads/{branch}");
        if let Some(answer) = self.local_head(&full).await {
            return Ok(answer);
        }
        let args = ["ls-remote", "--refs", "--quiet", "--", self.remote.url.as_str(), full.as_str()];
        let out = self.talk(GitCommand::inside(&self.work(), args)).await?;
        Ok(parse_ls_remote(&out.stdout).into_iter().find(|(_, name)| *name == full).map(|(sha, _)| sha))
    }

    /// The same of a repository on this machine, read by the library: a look costs no process, and runs nothing of
    /// that repository's. `None`: it is none, or has a form that the library does not read, so git is asked.
    async fn local_head(&self, full: &str) -> Option<Option<CommitSha>> {
        let path = self.remote.url.strip_prefix("file://").unwrap_or(&self.remote.url);
        let (path, full) = (Some(PathBuf::from(path)).filter(|path| path.is_absolute())?, full.to_owned());
        let look = move || {
            let repo = Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, NOWHERE.as_slice()).ok()?;
            match repo.refname_to_id(&full) {
                Ok(id) => Some(Some(super::read::sha(id))),
                Err(error) if error.code() == ErrorCode::NotFound => Some(None),
                Err(_) => None,
            }
        };
        tokio::task::spawn_blocking(look).await.ok()?
    }

    /// What the remote calls its default branch.
    ///
    /// # Errors
    /// As [`Self::remote_head`].
    pub(crate) async fn remote_default(&self) -> Result<RemoteDefault, GitError> {
        let args = ["ls-remote", "--symref", "--quiet", "--", self.remote.url.as_str(), "HEAD"];
        let out = self.talk(GitCommand::inside(&self.work(), args)).await?;
        Ok(parse_default(&out.stdout))
    }

    /// The remote's branches, freshly asked; those with names that we would not use are left out.
    ///
    /// # Errors
    /// As [`Self::remote_head`].
    pub(crate) async fn remote_branches(&self) -> Result<Vec<BranchName>, GitError> {
        let args = ["ls-remote", "--refs", "--quiet", "--", self.remote.url.as_str(), "refs/heads/*"];
        let out = self.talk(GitCommand::inside(&self.work(), args)).await?;
        let name = |(_, name): (CommitSha, String)| name.strip_prefix("refs/heads/")?.parse().ok();
        Ok(parse_ls_remote(&out.stdout).into_iter().filter_map(name).collect())
    }

    /// Brings upstream's `main` to where the forge has it now and gives that commit.
    ///
    /// # Errors
    /// [`GitError::NoSuchBranch`] when the forge has no such branch; else as [`Self::remote_head`].
    pub async fn fetch_main(&self, main: &BranchName) -> Result<CommitSha, GitError> {
        self.fetch_branch(main).await
    }

    /// The same for any branch: upstream's copy follows the forge, also when it was rewritten there. What we put there
    /// ourselves is in work, and passed on from there.
    ///
    /// # Errors
    /// As [`Self::fetch_main`].
    pub async fn fetch_branch(&self, branch: &BranchName) -> Result<CommitSha, GitError> {
        let mut lost = 0;
        loop {
            match self.fetch_once(branch).await {
                // The forge is well: another fetch of ours was faster, and may have brought just this.
                Err(GitError::Unreachable { why, .. }) if why.contains("cannot lock ref") && lost < MOST_LOST => {
                    tracing::debug!(repo = %self.name, %branch, "another fetch was faster: {why}");
                    lost += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn fetch_once(&self, branch: &BranchName) -> Result<CommitSha, GitError> {
        let missing = || GitError::NoSuchBranch { branch: branch.clone(), url: self.remote.url.clone() };
        let at = self.remote_head(branch).await?.ok_or_else(missing)?;
        let full = format!("refs/heads/{branch}");
        if self.ref_at(&self.upstream(), &full).await?.as_ref() == Some(&at) {
            return Ok(at);
        }
        let _turn = self.fetching.lock().await;
        let known = self.ref_at(&self.upstream(), &full).await?;
        if known.as_ref() == Some(&at) {
            return Ok(at);
        }
        if let Some(known) = known
            && self.has_commit(&at).await?
            && self.pass_on(&self.upstream(), &at, &known).await?
            && self.move_ref(&self.upstream(), &full, &known, &at).await?
        {
            return Ok(at);
        }
        let spec = format!("+{full}:{full}");
        let args = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--no-auto-gc",
            "--",
            self.remote.url.as_str(),
            spec.as_str(),
        ];
        let mut command = GitCommand::inside(&self.upstream(), args).config("fetch.fsckObjects", "true");
        for sin in OLD_SINS {
            command = command.config(&format!("fetch.fsck.{sin}"), "warn");
        }
        self.talk(command).await?;
        // The branch may have moved since it was asked for: what was fetched is the newer answer.
        self.ref_at(&self.upstream(), &full).await?.ok_or_else(missing)
    }

    /// Runs a command that talks to the forge and has to succeed.
    pub(crate) async fn talk(&self, command: GitCommand) -> Result<GitOutput, GitError> {
        let url = self.remote.url.clone();
        match self.git.run(command.with_remote(&self.remote)).await? {
            out if out.code == 0 => Ok(out),
            out if is_refusal(&out.stderr) => Err(GitError::Refused { url, why: words(&out.stderr) }),
            out => Err(GitError::Unreachable { url, why: words(&out.stderr) }),
        }
    }

    /// Name of a ref in work that belongs to one task: kept until [`Self::drop_refs`].
    pub(crate) fn task_ref(task: &TaskId, kind: &str, leaf: &str) -> String {
        format!("refs/orch/tasks/{task}/{kind}/{leaf}")
    }

    /// Points a ref of one of our repositories at a commit, whatever it was before. By the library: one atomic file.
    pub(crate) async fn keep(&self, repo: &Path, name: &str, sha: &CommitSha) -> Result<(), GitError> {
        let (name, id) = (name.to_owned(), super::read::oid(sha)?);
        self.read(repo.to_owned(), move |repo| {
            let write = || repo.reference(&name, id, true, "").map(drop);
            let written = match write() {
                Err(error)
                    if error.code() == ErrorCode::Locked && unlock(&repo.path().join(format!("{name}.lock"))) =>
                {
                    write()
                }
                first => first,
            };
            written.map_err(GitError::read(format!("ref {name}")))
        })
        .await
    }

    /// Points a ref at a commit if it is at `from`; `false`: it is elsewhere by now.
    async fn move_ref(&self, repo: &Path, name: &str, from: &CommitSha, to: &CommitSha) -> Result<bool, GitError> {
        let (name, from, to) = (name.to_owned(), super::read::oid(from)?, super::read::oid(to)?);
        self.read(repo.to_owned(), move |repo| match repo.reference_matching(&name, to, true, from, "") {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.code(), ErrorCode::Modified | ErrorCode::NotFound | ErrorCode::Locked) => {
                Ok(false)
            }
            Err(error) => Err(GitError::read(format!("ref {name}"))(error)),
        })
        .await
    }

    /// The ref under which the import of one run is kept in work.
    #[must_use]
    pub fn import_ref(task: &TaskId, run: &RunId) -> String {
        Self::task_ref(task, "import", run.as_str())
    }

    /// What was taken in from a run, if anything was: kept until the task's refs are dropped.
    ///
    /// # Errors
    /// As any command of ours.
    pub async fn imported_head(&self, task: &TaskId, run: &RunId) -> Result<Option<CommitSha>, GitError> {
        let refs = self.refs(&self.work(), &Self::import_ref(task, run)).await?;
        Ok(refs.into_iter().next().map(|(_, sha)| sha))
    }

    /// The tasks for which work keeps anything.
    ///
    /// # Errors
    /// [`GitError::Read`].
    pub async fn tasks_with_refs(&self) -> Result<BTreeSet<TaskId>, GitError> {
        let refs = self.refs(&self.work(), "refs/orch/tasks/*").await?;
        let task = |(name, _): &(String, CommitSha)| name.split('/').nth(3)?.parse().ok();
        Ok(refs.iter().filter_map(task).collect())
    }

    /// Lets go of everything that work kept for a task that is over. Safe to repeat. Returns how many refs went.
    ///
    /// # Errors
    /// As any command of ours.
    pub async fn drop_refs(&self, task: &TaskId) -> Result<usize, GitError> {
        let names = self.refs(&self.work(), &format!("refs/orch/tasks/{task}/*")).await?;
        if names.is_empty() {
            return Ok(0);
        }
        let mut input = Vec::new();
        for (name, _) in &names {
            input.extend_from_slice(format!("delete {name}\0\0").as_bytes());
        }
        self.git.ok(GitCommand::inside(&self.work(), ["update-ref", "--stdin", "-z"]).stdin(input)).await?;
        Ok(names.len())
    }

    /// Packs all three repositories and drops from work and vault what no ref keeps and is older than two weeks.
    /// Upstream is never pruned: workspaces borrow from it. Call it while nothing is imported or landed.
    ///
    /// # Errors
    /// As any command of ours; what was done stays done.
    pub async fn gc(&self) -> Result<(), GitError> {
        let upstream = ["repack", "--quiet", "-a", "-d", "--keep-unreachable"];
        self.git.ok(GitCommand::inside(&self.upstream(), upstream)).await?;
        for repo in [self.work(), self.vault()] {
            let args = ["gc", "--quiet", "--prune=2.weeks.ago"];
            self.git.ok(GitCommand::inside(&repo, args)).await?;
        }
        Ok(())
    }
}

/// Configuration of our own bare repositories.
const OWN_CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\
    \tlogAllRefUpdates = always\n\thooksPath = /dev/null\n\tfsyncMethod = fsync\n\
    [gc]\n\tauto = 0\n\treflogExpire = 30.days\n\treflogExpireUnreachable = 14.days\n\
    [maintenance]\n\tauto = false\n\
    [uploadpack]\n\tallowAnySHA1InWant = true\n\
    [transfer]\n\tfsckObjects = false\n\
    [receive]\n\tdenyNonFastForwards = true\n\tdenyDeletes = true\n";

/// Folders of a local remote that may belong to another user than ours.
fn trusted(remote: &Remote) -> Vec<PathBuf> {
    let path = Path::new(remote.url.strip_prefix("file://").unwrap_or(&remote.url));
    if !path.is_absolute() {
        return Vec::new();
    }
    let mut all = vec![path.to_owned(), path.join(".git")];
    if let Ok(real) = path.canonicalize() {
        all.extend([real.join(".git"), real]);
    }
    if let Some(place) = find_repository(path) {
        all.extend([place.git_dir, place.common_dir]);
    }
    let trimmed: Vec<PathBuf> = all.iter().map(|path| path.components().collect()).collect();
    all.extend(trimmed);
    all.sort();
    all.dedup();
    all
}

/// Where a repository's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The folder with `HEAD`.
    pub(crate) git_dir: PathBuf,
    /// The folder with `objects` and `refs`; another one only for linked working trees.
    pub(crate) common_dir: PathBuf,
}

/// Finds the repository at exactly `path` (no search upwards), by looking at files only.
pub(crate) fn find_repository(path: &Path) -> Option<Place> {
    let dot_git = path.join(".git");
    let git_dir = match std::fs::symlink_metadata(&dot_git) {
        Ok(meta) if meta.is_file() => {
            let text = std::fs::read_to_string(&dot_git).ok()?;
            path.join(text.strip_prefix("gitdir:")?.trim())
        }
        Ok(_) => dot_git,
        Err(_) => path.to_owned(),
    };
    let common_dir = match std::fs::read_to_string(git_dir.join("commondir")) {
        Ok(text) => git_dir.join(text.trim()),
        Err(_) => git_dir.clone(),
    };
    let whole = git_dir.join("HEAD").is_file() && common_dir.join("objects").is_dir();
    let real = |dir: PathBuf| dir.canonicalize().unwrap_or(dir);
    whole.then(|| Place { git_dir: real(git_dir), common_dir: real(common_dir) })
}

/// Removes a half-made folder of ours, if there is one.
pub(crate) fn discard(dir: &Path) -> Result<(), GitError> {
    match std::fs::remove_dir_all(dir) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(GitError::io("cannot remove", dir)(err)),
        _ => Ok(()),
    }
}

/// Makes a repository borrow from an object folder.
pub(crate) fn write_alternates(git_dir: &Path, objects: &str) -> Result<(), GitError> {
    let info = git_dir.join("objects/info");
    std::fs::create_dir_all(&info).map_err(GitError::io("cannot create", &info))?;
    let file = info.join("alternates");
    std::fs::write(&file, format!("{objects}\n")).map_err(GitError::io("cannot write", &file))
}

/// A private name beside `path` for something that is being made.
pub(crate) fn making_beside(path: &Path) -> PathBuf {
    let leaf = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{leaf}.making"))
}

/// A file of our own for something on its way.
pub(crate) fn passing_file(root: &Path, what: &str) -> PathBuf {
    root.join(format!(".{what}.{}", random_hex()))
}

/// What a remote said about its `HEAD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemoteDefault {
    /// The branch it names, if it names one.
    pub(crate) default: Option<BranchName>,
    /// The format of its object ids, if that is not ours.
    pub(crate) foreign_ids: Option<&'static str>,
}

fn parse_default(stdout: &[u8]) -> RemoteDefault {
    let text = String::from_utf8_lossy(stdout);
    let mut shown = RemoteDefault::default();
    for (value, _) in text.lines().filter_map(|line| line.split_once('\t')).filter(|(_, name)| *name == "HEAD") {
        match value.strip_prefix("ref: refs/heads/") {
            Some(branch) => shown.default = branch.parse().ok(),
            None if value.len() == 64 => shown.foreign_ids = Some("sha256"),
            None => {}
        }
    }
    shown
}

fn parse_ls_remote(stdout: &[u8]) -> Vec<(CommitSha, String)> {
    let text = String::from_utf8_lossy(stdout);
    let pair = |line: &str| {
        let (sha, name) = line.split_once('\t')?;
        Some((sha.parse().ok()?, name.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// Takes away the lock of a ref whose writer was killed. Only this process writes these refs, in less than a millisecond,
/// so a lock that is a second old is nobody's.
fn unlock(lock: &Path) -> bool {
    let made = std::fs::metadata(lock).and_then(|meta| meta.modified());
    let old = made.is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= Duration::from_secs(1)));
    old && std::fs::remove_file(lock).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ls_remote_and_skips_what_is_no_ref() {
        let sha = "a".repeat(40);
        let text = format!("warning: x\n{sha}\trefs/heads/main\n{sha}\trefs/heads/x/refs/heads/main\n");
        let all = parse_ls_remote(text.as_bytes());
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].1, "refs/heads/main");
    }

    #[test]
    fn reads_what_a_remote_calls_its_head() {
        let (one, other) = ("a".repeat(40), "b".repeat(64));
        let read = |text: String| parse_default(text.as_bytes());
        let usual = read(format!("ref: refs/heads/trunk\tHEAD\n{one}\tHEAD\n{one}\trefs/remotes/o/HEAD\n"));
        assert_eq!((usual.default, usual.foreign_ids), (Some("trunk".parse().expect("a name")), None));
        assert_eq!(read(format!("{one}\tHEAD\n")), RemoteDefault::default(), "detached");
        assert_eq!(read(String::new()), RemoteDefault::default(), "empty");
        assert_eq!(read(format!("ref: refs/heads/x\tHEAD\n{other}\tHEAD\n")).foreign_ids, Some("sha256"));
    }

    #[test]
    fn the_lock_of_a_killed_writer_is_taken_away_and_a_fresh_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = folder.path().join("next.lock");
        let file = std::fs::File::create(&lock).expect("made");
        assert!(!unlock(&lock) && lock.exists(), "somebody may be writing");
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(5)).expect("older");
        assert!(unlock(&lock) && !lock.exists());
    }
}
