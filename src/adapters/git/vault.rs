//! Salvage: the files of a workspace, kept in *vault* when the workspace has to go.
//!
//! Owns the walk over a workspace that nobody works in any more, file by file: no git command opens it, no filter or
//! attribute of it applies, no link is followed. Its `.git` (and that of any repository inside) is kept too, as inert
//! files under [`DOT_GIT`], so commits that were never taken out are not lost. Ignored files stay out unless tracked.
//! Refuses to keep half: over the cap, or where something cannot be opened, nothing is kept, and the workspace has to be
//! put aside whole.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use git2::{ObjectType, Odb, Oid, Repository};
use orch_domain::ids::{CommitSha, Generation, RunId};
use orch_domain::names::TaskKey;
use orch_domain::time::Timestamp;

use super::catch_up::write_commit;
use super::error::GitError;
use super::read::{commit, open};
use super::rooms::{RepoGit, discard, making_beside};

/// What `.git` is called in a salvage: nothing takes it for a repository.
pub const DOT_GIT: &str = ".git.salvaged";
/// Deepest folder that is kept.
const DEPTH: usize = 128;
/// Most names of skipped files that are noted.
const NOTES: usize = 50;
/// Largest file of ignore rules that is read, in bytes.
const RULES: u64 = 1 << 20;
/// Files up to this size are written only if not known yet; larger ones are streamed.
const IN_MEMORY: u64 = 8 << 20;

/// What a salvage is of.
#[derive(Clone, Debug)]
pub struct SalvageSpec {
    /// The workspace; no process works in it any more.
    pub workspace: PathBuf,
    /// The task.
    pub key: TaskKey,
    /// Which life of it.
    pub generation: Generation,
    /// The run that left it.
    pub run: RunId,
    /// The commit that the workspace began with: its files are kept even where they are ignored.
    pub start: CommitSha,
    /// Now.
    pub at: Timestamp,
}

/// What was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// By which it is listed and restored: `<key>/<generation>/<run>`.
    pub id: String,
    /// The commit in vault that holds the files.
    pub commit: CommitSha,
    /// How many files.
    pub files: usize,
    /// How many bytes.
    pub bytes: u64,
    /// What has no content to keep (pipes, sockets, devices) and was left out; at most 50.
    pub skipped: Vec<String>,
    /// Files and whole folders that were left out since they are ignored.
    pub ignored: usize,
}

/// A salvage in the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvage {
    /// By which it is restored: `<key>/<generation>/<run>`.
    pub id: String,
    /// The commit that holds the files.
    pub commit: CommitSha,
    /// When it was made.
    pub at: Timestamp,
    /// What is known about it, for people.
    pub about: String,
}

impl Salvage {
    /// Bytes of its files, as noted when it was made. In the vault it may take less: files are kept once.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.about.lines().find_map(|line| line.strip_prefix("bytes: "))?.parse().ok()
    }

    /// The run that left it.
    #[must_use]
    pub fn run(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or(&self.id)
    }
}

/// Why nothing was kept, or given back.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// Too much for the vault: put the workspace aside as it is.
    #[error("the workspace holds more than the {cap} that a salvage keeps")]
    OverCap {
        /// The cap, with its unit.
        cap: String,
    },
    /// Something in it cannot be opened: put the workspace aside as it is, for a salvage without it would lose it.
    #[error("`{path}` in it cannot be kept: {why}")]
    Unreadable {
        /// The first of them, below the workspace.
        path: String,
        /// What the system said.
        why: String,
    },
    /// There is no such salvage.
    #[error("there is no salvage `{0}`; `orch salvage list` names all")]
    NoSuch(String),
    /// As the error says; the workspace is as it was.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl RepoGit {
    /// Keeps the files of a workspace. Repeating replaces the same run's salvage.
    ///
    /// # Errors
    /// See [`SalvageError`]; on any of them the workspace has to stay.
    pub async fn salvage(&self, spec: &SalvageSpec) -> Result<Salvaged, SalvageError> {
        let id = format!("{}/{}/{}", spec.key.slug(), spec.generation, spec.run);
        let (vault, work, owned) = (self.vault(), self.work(), spec.clone());
        let settings = self.git.settings();
        let caps = Caps { bytes: settings.salvage_cap_bytes, files: settings.salvage_cap_files };
        let who = format!("orch <orch@localhost> {} +0000", spec.at.0.div_euclid(1_000));
        let name = id.clone();
        let done = tokio::task::spawn_blocking(move || store(&vault, &work, &owned, caps, name, &who)).await;
        let salvaged = done.unwrap_or_else(|err| {
            Err(GitError::Read { what: "the workspace".to_owned(), why: err.to_string() }.into())
        })?;
        self.keep(&self.vault(), &format!("refs/orch/salvage/{id}"), &salvaged.commit).await?;
        Ok(salvaged)
    }

    /// Keeps commits that are only in *work*, with all that leads to them, as a salvage of their own: a commit that comes
    /// after each of `heads` and has the files of the first. Repeating replaces it.
    ///
    /// # Errors
    /// [`GitError::Invalid`] for no heads, and as any command of ours; on any of them the commits have to stay in work.
    pub async fn keep_commits(
        &self,
        (key, generation, run): (&TaskKey, Generation, &RunId),
        heads: &[CommitSha],
        at: Timestamp,
    ) -> Result<Salvaged, GitError> {
        let Some(first) = heads.first().cloned() else {
            return Err(GitError::Invalid("no commits were named to be kept".to_owned()));
        };
        let (id, work) = (format!("{}/{generation}/{run}", key.slug()), self.work());
        let known = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-gc", "--"];
        let args = ["fetch"].into_iter().chain(known).chain([super::exec::utf8(&work)?]);
        let args: Vec<&str> = args.chain(heads.iter().map(CommitSha::as_str)).collect();
        self.git.ok(super::exec::GitCommand::inside(&self.vault(), args)).await?;
        let list: String = heads.iter().map(|head| format!("head: {head}\n")).collect();
        let about = format!("Salvage of {key}, generation {generation}: its commits\n\n{list}");
        let who = format!("orch <orch@localhost> {} +0000", at.0.div_euclid(1_000));
        let (vault, parents) = (self.vault(), heads.to_vec());
        let kept = self
            .read(self.vault(), move |repo| {
                let tree = commit(repo, &first)?.tree_id();
                let kept = write_commit(repo, tree, &parents, &format!("author {who}\n"), &who, about.as_bytes())?;
                flush(&vault).map(|()| kept)
            })
            .await?;
        self.keep(&self.vault(), &format!("refs/orch/salvage/{id}"), &kept).await?;
        Ok(Salvaged { id, commit: kept, files: 0, bytes: 0, skipped: Vec::new(), ignored: 0 })
    }

    /// All salvages of this repository, newest first.
    ///
    /// # Errors
    /// [`GitError::Read`].
    pub async fn list_salvage(&self) -> Result<Vec<Salvage>, GitError> {
        let refs = self.refs(&self.vault(), "refs/orch/salvage/*").await?;
        self.read(self.vault(), move |repo| {
            let one = |(name, sha): (String, CommitSha)| {
                let held = commit(repo, &sha)?;
                let about = String::from_utf8_lossy(held.message_bytes()).into_owned();
                let at = Timestamp(held.time().seconds().saturating_mul(1_000));
                let id = name.strip_prefix("refs/orch/salvage/").unwrap_or(&name).to_owned();
                Ok(Salvage { id, commit: sha, at, about })
            };
            let mut all = refs.into_iter().map(one).collect::<Result<Vec<_>, GitError>>()?;
            all.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.id.cmp(&b.id)));
            Ok(all)
        })
        .await
    }

    /// Writes the files of a salvage into a new folder.
    ///
    /// # Errors
    /// [`SalvageError::NoSuch`], [`GitError::Exists`]; nothing is left at `into` on any error.
    pub async fn restore_salvage(&self, id: &str, into: &Path) -> Result<usize, SalvageError> {
        let found = self.list_salvage().await?.into_iter().find(|salvage| salvage.id == id);
        let found = found.ok_or_else(|| SalvageError::NoSuch(id.escape_debug().to_string()))?;
        if into.symlink_metadata().is_ok() {
            return Err(GitError::Exists { path: into.to_owned() }.into());
        }
        let (making, into) = (making_beside(into), into.to_owned());
        let written = self
            .read(self.vault(), move |repo| {
                discard(&making)?;
                // It was private before: what an agent wrote may be nobody else's to read.
                let mut folder = std::fs::DirBuilder::new();
                folder.recursive(true).mode(0o700).create(&making).map_err(GitError::io("cannot create", &making))?;
                let tree = commit(repo, &found.commit)?.tree_id();
                let written = unfold(repo, tree, &making).and_then(|count| {
                    std::fs::rename(&making, &into).map_err(GitError::io("cannot create", &into)).map(|()| count)
                });
                if written.is_err() {
                    discard(&making)?;
                }
                written
            })
            .await?;
        Ok(written)
    }

    /// Lets go of a salvage; its objects go with the next `gc`. Says whether it was there.
    ///
    /// # Errors
    /// As any command of ours.
    pub async fn forget_salvage(&self, id: &str) -> Result<bool, GitError> {
        if !self.list_salvage().await?.iter().any(|salvage| salvage.id == id) {
            return Ok(false);
        }
        let name = format!("refs/orch/salvage/{id}");
        let args = ["update-ref", "--no-deref", "-d", "--", name.as_str()];
        self.git.ok(super::exec::GitCommand::inside(&self.vault(), args)).await.map(|_| true)
    }
}

#[derive(Clone, Copy)]
struct Caps {
    bytes: u64,
    files: usize,
}

fn store(
    vault: &Path,
    work: &Path,
    spec: &SalvageSpec,
    caps: Caps,
    id: String,
    who: &str,
) -> Result<Salvaged, SalvageError> {
    let fail = || GitError::read("the vault");
    let repo = open(vault)?;
    let tracked = tracked(&open(work)?, &spec.start)?;
    // A handle of its own that knows where the files are; it is asked about ignore rules only, and they are text.
    let rules = open(vault)?;
    rules.set_workdir(&spec.workspace, false).map_err(fail())?;
    let odb = repo.odb().map_err(fail())?;
    let begin = |odb, rules, tracked| Walk {
        odb,
        rules,
        tracked,
        root: &spec.workspace,
        caps,
        files: 0,
        bytes: 0,
        skipped: Vec::new(),
        ignored: 0,
    };
    // Counted before anything is written: what is over the cap would leave the vault full of what nobody keeps.
    let mut count = begin(None, rules, tracked);
    count.folder(Path::new(""), false, true, 0)?;
    let mut walk = begin(Some(odb), count.rules, count.tracked);
    let tree = match walk.folder(Path::new(""), false, true, 0)? {
        Some(tree) => tree,
        None => walk.write(ObjectType::Tree, b"")?,
    };
    let about = format!(
        "Salvage of {}, generation {}, run {}\n\nstart: {}\nfiles: {}\nbytes: {}\n{}{}",
        spec.key,
        spec.generation,
        spec.run,
        spec.start,
        walk.files,
        walk.bytes,
        match walk.ignored {
            0 => String::new(),
            count => format!("left out: {count} ignored files or folders\n"),
        },
        walk.skipped.iter().map(|note| format!("skipped: {note}\n")).collect::<String>(),
    );
    let commit = write_commit(&repo, tree, &[], &format!("author {who}\n"), who, about.as_bytes())?;
    flush(vault)?;
    Ok(Salvaged { id, commit, files: walk.files, bytes: walk.bytes, skipped: walk.skipped, ignored: walk.ignored })
}

/// Opens something of the workspace; where its own mode forbids that, it gets one that does not. Nobody works there any
/// more, and its removal would do the same.
fn opened<T>(full: &Path, mode: u32, open: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    match open() {
        Err(err) if err.kind() == std::io::ErrorKind::PermissionDenied => {
            let meta = std::fs::symlink_metadata(full)?;
            if meta.is_symlink() {
                return Err(err);
            }
            // What could be executed still can be: it is noted with the file.
            let mode = (meta.permissions().mode() & 0o777) | mode;
            std::fs::set_permissions(full, std::fs::Permissions::from_mode(mode))?;
            open()
        }
        done => done,
    }
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> SalvageError {
    SalvageError::Unreadable { path: path.to_string_lossy().escape_debug().to_string(), why: why.to_string() }
}

/// A name that no other entry of the folder has: `.git`, `.GIT` and an old `.git.salvaged` may lie side by side.
fn unused(entries: &[(Vec<u8>, u32, Oid)], name: &[u8]) -> Vec<u8> {
    let taken = |name: &[u8]| entries.iter().any(|(other, ..)| other == name);
    let mut chosen = name.to_vec();
    let mut n = 1;
    while chosen.starts_with(DOT_GIT.as_bytes()) && taken(&chosen) {
        n += 1;
        chosen = [name, format!("-{n}").as_bytes()].concat();
    }
    chosen
}

/// What is kept is removed from its place next: it must be on disk before.
fn flush(vault: &Path) -> Result<(), GitError> {
    let objects = vault.join("objects");
    let folder = File::open(&objects).map_err(GitError::io("cannot open", &objects))?;
    nix::unistd::syncfs(&folder).map_err(|err| GitError::io("cannot flush", &objects)(err.into()))
}

/// Whether a folder's ignore rules can be read without being made to wait or being led elsewhere: a plain file of bounded
/// size, or none.
fn has_plain_rules(folder: &Path) -> bool {
    match std::fs::symlink_metadata(folder.join(".gitignore")) {
        Ok(meta) => meta.is_file() && meta.len() <= RULES,
        Err(err) => err.kind() == std::io::ErrorKind::NotFound,
    }
}

/// The paths of a commit.
fn tracked(repo: &Repository, start: &CommitSha) -> Result<BTreeSet<Vec<u8>>, GitError> {
    let tree = commit(repo, start)?.tree().map_err(GitError::read("the start of the run"))?;
    let mut index = git2::Index::new().map_err(GitError::read("the start of the run"))?;
    index.read_tree(&tree).map_err(GitError::read("the start of the run"))?;
    Ok(index.iter().map(|entry| entry.path).collect())
}

struct Walk<'a> {
    /// Where objects go; `None`: it is only counted.
    odb: Option<Odb<'a>>,
    rules: Repository,
    tracked: BTreeSet<Vec<u8>>,
    root: &'a Path,
    caps: Caps,
    files: usize,
    bytes: u64,
    skipped: Vec<String>,
    ignored: usize,
}

impl Walk<'_> {
    /// Keeps one folder: its tree, or `None` when nothing in it is kept. With `ruled`, ignore rules apply in it: they do
    /// not where the rules are no plain file (a pipe would never end), nor below; there everything is kept.
    fn folder(&mut self, at: &Path, inside_git: bool, ruled: bool, depth: usize) -> Result<Option<Oid>, SalvageError> {
        let full = self.root.join(at);
        let ruled = ruled && !inside_git && has_plain_rules(&full);
        let listed = match opened(&full, 0o700, || std::fs::read_dir(&full)) {
            Ok(listed) => listed,
            Err(err) if depth == 0 => return Err(GitError::io("cannot read", full)(err).into()),
            Err(err) => return Err(unreadable(at, &err)),
        };
        let mut entries: Vec<(Vec<u8>, u32, Oid)> = Vec::new();
        for entry in listed {
            let entry = entry.map_err(GitError::io("cannot read", &full))?;
            let name = entry.file_name();
            let path = at.join(&name);
            let is_git = name.as_bytes().eq_ignore_ascii_case(b".git");
            let kind = entry.file_type().map_err(GitError::io("cannot read", self.root.join(&path)))?;
            if ruled && !is_git && self.is_left_out(&path, kind.is_dir()) {
                self.ignored += 1;
                continue;
            }
            let name = if is_git { DOT_GIT.as_bytes() } else { name.as_bytes() };
            let name = unused(&entries, name);
            let kept = match kind {
                _ if depth >= DEPTH => {
                    return Err(unreadable(&path, &format!("it lies more than {DEPTH} folders deep")));
                }
                _ if kind.is_dir() => {
                    self.folder(&path, inside_git || is_git, ruled, depth + 1)?.map(|tree| (0o040_000, tree))
                }
                _ if kind.is_symlink() => self.link(&path)?,
                _ if kind.is_file() => self.file(&path)?,
                _ => self.skip(&path, "neither file, folder nor link"),
            };
            entries.extend(kept.map(|(mode, id)| (name, mode, id)));
        }
        self.tree(entries)
    }

    fn skip<T>(&mut self, path: &Path, why: &str) -> Option<T> {
        if self.skipped.len() < NOTES {
            self.skipped.push(format!("{} ({why})", path.to_string_lossy().escape_debug()));
        }
        None
    }

    /// Whether a path is ignored, and neither tracked nor the way to something tracked.
    fn is_left_out(&self, path: &Path, is_dir: bool) -> bool {
        let bytes = path.as_os_str().as_bytes();
        let known = match is_dir {
            false => self.tracked.contains(bytes),
            true => {
                let below = [bytes, b"/"].concat();
                self.tracked.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
            }
        };
        !known && self.rules.is_path_ignored(path).unwrap_or(false)
    }

    fn link(&mut self, path: &Path) -> Result<Option<(u32, Oid)>, SalvageError> {
        let full = self.root.join(path);
        let target = std::fs::read_link(&full).map_err(GitError::io("cannot read", &full))?;
        let id = self.blob(target.as_os_str().as_bytes())?;
        self.count(target.as_os_str().len() as u64)?;
        Ok(Some((0o120_000, id)))
    }

    fn file(&mut self, path: &Path) -> Result<Option<(u32, Oid)>, SalvageError> {
        let full = self.root.join(path);
        if self.odb.is_none() {
            // One that has gone since is skipped when it is to be kept.
            self.count(std::fs::symlink_metadata(&full).map_or(0, |meta| meta.len()))?;
            return Ok(None);
        }
        let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC;
        let file = match opened(&full, 0o600, || OpenOptions::new().read(true).custom_flags(flags.bits()).open(&full)) {
            Ok(file) => file,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(self.skip(path, "it has gone")),
            Err(err) => return Err(unreadable(path, &err)),
        };
        let meta = file.metadata().map_err(GitError::io("cannot read", &full))?;
        self.count(meta.len())?;
        let id = match meta.len() {
            0..=IN_MEMORY => {
                let mut bytes = Vec::new();
                file.take(IN_MEMORY).read_to_end(&mut bytes).map_err(GitError::io("cannot read", &full))?;
                self.blob(&bytes)?
            }
            size => self.stream(file.take(size), size, &full)?,
        };
        let mode = if meta.permissions().mode() & 0o111 == 0 { 0o100_644 } else { 0o100_755 };
        Ok(Some((mode, id)))
    }

    fn count(&mut self, bytes: u64) -> Result<(), SalvageError> {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.caps.bytes {
            return Err(SalvageError::OverCap { cap: format!("{} bytes", self.caps.bytes) });
        }
        if self.files > self.caps.files {
            return Err(SalvageError::OverCap { cap: format!("{} files", self.caps.files) });
        }
        Ok(())
    }

    fn blob(&self, bytes: &[u8]) -> Result<Oid, GitError> {
        self.write(ObjectType::Blob, bytes)
    }

    fn write(&self, kind: ObjectType, bytes: &[u8]) -> Result<Oid, GitError> {
        match &self.odb {
            Some(odb) => odb.write(kind, bytes).map_err(GitError::read("the vault")),
            None => Ok(Oid::ZERO_SHA1),
        }
    }

    fn stream(&self, mut from: impl Read, size: u64, path: &Path) -> Result<Oid, GitError> {
        let Some(odb) = &self.odb else { return Ok(Oid::ZERO_SHA1) };
        let fail = || GitError::read("the vault");
        let size = usize::try_from(size).map_err(|_| GitError::Invalid(format!("{} is too large", path.display())))?;
        let mut writer = odb.writer(size, ObjectType::Blob).map_err(fail())?;
        std::io::copy(&mut from, &mut writer).map_err(GitError::io("cannot keep", path))?;
        writer.finalize().map_err(fail())
    }

    /// Writes a tree, in git's order: a folder sorts as if its name ended with a slash.
    fn tree(&self, mut entries: Vec<(Vec<u8>, u32, Oid)>) -> Result<Option<Oid>, SalvageError> {
        if entries.is_empty() {
            return Ok(None);
        }
        let key = |(name, mode, _): &(Vec<u8>, u32, Oid)| match mode {
            0o040_000 => [name.as_slice(), b"/"].concat(),
            _ => name.clone(),
        };
        entries.sort_by_key(key);
        let mut bytes = Vec::new();
        for (name, mode, id) in entries {
            bytes.extend_from_slice(format!("{mode:o} ").as_bytes());
            bytes.extend_from_slice(&name);
            bytes.push(0);
            bytes.extend_from_slice(id.as_bytes());
        }
        Ok(Some(self.write(ObjectType::Tree, &bytes)?))
    }
}

/// Writes a tree's files into a folder of ours; returns how many.
fn unfold(repo: &Repository, tree: Oid, into: &Path) -> Result<usize, GitError> {
    let fail = || GitError::read("the vault");
    let mut count = 0;
    for entry in &repo.find_tree(tree).map_err(fail())? {
        let path = into.join(std::ffi::OsStr::from_bytes(entry.name_bytes()));
        match entry.filemode() {
            0o040_000 => {
                std::fs::create_dir(&path).map_err(GitError::io("cannot create", &path))?;
                count += unfold(repo, entry.id(), &path)?;
                continue;
            }
            0o120_000 => {
                let blob = repo.find_blob(entry.id()).map_err(fail())?;
                let target = Path::new(std::ffi::OsStr::from_bytes(blob.content()));
                std::os::unix::fs::symlink(target, &path).map_err(GitError::io("cannot create", &path))?;
            }
            mode => {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(if mode == 0o100_755 { 0o755 } else { 0o644 })
                    .open(&path)
                    .map_err(GitError::io("cannot create", &path))?;
                let blob = repo.find_blob(entry.id()).map_err(fail())?;
                std::io::copy(&mut blob.content(), &mut file).map_err(GitError::io("cannot write", &path))?;
            }
        }
        count += 1;
    }
    Ok(count)
}
