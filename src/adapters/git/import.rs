//! Taking a bundle from an agent's hands into *work*.
//!
//! Owns the checks: a plain file of bounded size, one head, known prerequisites, every object sound (`fsck`) and linked.
//! The bundle is copied first, so what was checked is what is taken. Nothing of it can be seen by name before it is
//! whole. Refuses on the agent's account ([`ImportError::Agent`]) or on ours ([`ImportError::Git`]), never mixed up.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use orch_domain::ids::{CommitSha, RunId, TaskId};

use super::capture::{CaptureFacts, bundle_in};
use super::error::{GitError, words};
use super::exec::GitCommand;
use super::read::{between, commit, descends};
use super::rooms::{RepoGit, passing_file};

/// Longest header of a bundle that is read, in bytes.
const HEADER: u64 = 1 << 20;

/// What an import is for and measured against.
#[derive(Clone, Debug)]
pub struct ImportSpec {
    /// The task whose import it is: its refs live until the task's are dropped.
    pub task: TaskId,
    /// The run that made it.
    pub run: RunId,
    /// The base that the workspace was made with.
    pub base: CommitSha,
    /// The commit that the run started from.
    pub start: CommitSha,
}

/// What was taken in. Facts; whether they will do is for others to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The commit that the agent left.
    pub head: CommitSha,
    /// How many commits `base..head` has.
    pub commits: usize,
    /// Whether the head has anything that `start` did not have.
    pub new: bool,
    /// Whether the head comes after `base`.
    pub descends: bool,
    /// Whether the head comes after `start`: `false` when the agent rewrote earlier work.
    pub continues: bool,
}

/// Why nothing was taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// What the agent left cannot be taken: tell it why, as a finding.
    #[error("the work cannot be taken out of the workspace: {0}")]
    Agent(String),
    /// It is not the agent's fault: as the error says.
    #[error(transparent)]
    Git(#[from] GitError),
}

/// The first lines of a bundle.
struct Header {
    head: CommitSha,
    prerequisites: Vec<CommitSha>,
}

impl RepoGit {
    /// Takes in what a capture left in `out`: its bundle, or nothing when there are no commits. Repeating is safe.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub async fn import_capture(
        &self,
        facts: &CaptureFacts,
        out: &Path,
        spec: &ImportSpec,
    ) -> Result<Imported, ImportError> {
        if facts.commits == 0 {
            let known = self.has_commit(&facts.head).await?;
            let weighed = if known { Some(self.weigh(facts.head.clone(), spec).await?) } else { None };
            // A commit of another task is known here too: only base's own history needs no handing over.
            return match weighed.filter(|weighed| weighed.commits == 0) {
                Some(weighed) => Ok(weighed),
                None => Err(ImportError::Agent(format!("it names {} without handing it over", facts.head))),
            };
        }
        let imported = self.import_bundle(&bundle_in(out), spec).await?;
        match imported.head == facts.head {
            true => Ok(imported),
            false => Err(ImportError::Agent(format!("it says {} and hands over {}", facts.head, imported.head))),
        }
    }

    /// Takes in a bundle that holds one head. Repeating is safe.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub async fn import_bundle(&self, path: &Path, spec: &ImportSpec) -> Result<Imported, ImportError> {
        let pack = passing_file(&self.root, "import");
        let taken = self.import_through(path, &pack, spec).await;
        match std::fs::remove_file(&pack) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                Err(GitError::io("cannot remove", &pack)(err).into())
            }
            _ => taken,
        }
    }

    async fn import_through(&self, path: &Path, pack: &Path, spec: &ImportSpec) -> Result<Imported, ImportError> {
        let cap = self.git.settings().bundle_cap_bytes;
        let (from, to) = (path.to_owned(), pack.to_owned());
        let split = tokio::task::spawn_blocking(move || split(&from, &to, cap)).await;
        let header = split.unwrap_or_else(|err| Err(ImportError::Agent(err.to_string())))?;
        for sha in &header.prerequisites {
            let known = self.has_commit(sha).await?;
            if !known || !(self.contains(sha, &spec.base).await? || self.contains(sha, &spec.start).await?) {
                return Err(ImportError::Agent(format!("it builds on {sha}, which is not part of its base")));
            }
        }
        let args = ["index-pack", "--stdin", "--fix-thin", "--strict", &format!("--max-input-size={cap}")];
        let out = self.git.run(GitCommand::inside(&self.work(), args).stdin_file(pack)).await?;
        if out.code != 0 {
            let why = words(&out.stderr);
            return Err(match why.contains("No space left") || why.contains("unable to create") {
                true => GitError::Interrupted { command: "git index-pack".to_owned(), why }.into(),
                false => ImportError::Agent(format!("git finds its objects unsound: {why}")),
            });
        }
        if !self.has_commit(&header.head).await? {
            return Err(ImportError::Agent(format!("its head {} is no commit that it holds", header.head)));
        }
        self.keep(&self.work(), &Self::import_ref(&spec.task, &spec.run), &header.head).await?;
        Ok(self.weigh(header.head, spec).await?)
    }

    /// The facts about what was taken in of a run before, whoever did it; `None`: nothing was.
    ///
    /// # Errors
    /// As any read of our own repositories.
    pub async fn taken_in(&self, spec: &ImportSpec) -> Result<Option<Imported>, GitError> {
        match self.imported_head(&spec.task, &spec.run).await? {
            Some(head) => self.weigh(head, spec).await.map(Some),
            None => Ok(None),
        }
    }

    /// The facts about a head that is here.
    async fn weigh(&self, head: CommitSha, spec: &ImportSpec) -> Result<Imported, GitError> {
        let (base, start) = (spec.base.clone(), spec.start.clone());
        self.read(self.work(), move |repo| {
            commit(repo, &head)?;
            Ok(Imported {
                commits: between(repo, &base, &head)?.len(),
                new: !descends(repo, &head, &start)?,
                descends: descends(repo, &base, &head)?,
                continues: descends(repo, &start, &head)?,
                head,
            })
        })
        .await
    }
}

/// Copies the pack out of a bundle, after reading its header. The bundle is never followed out of its place: no links,
/// no devices, no second names.
fn split(from: &Path, to: &Path, cap: u64) -> Result<Header, ImportError> {
    let refuse = |why: String| Err(ImportError::Agent(why));
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(from) {
        Ok(file) => file,
        Err(err) => return refuse(format!("its bundle cannot be opened: {err}")),
    };
    let meta = file.metadata().map_err(GitError::io("cannot read", from))?;
    if !meta.is_file() || meta.nlink() != 1 {
        return refuse("its bundle is not a plain file".to_owned());
    }
    if meta.len() > cap {
        return refuse(format!("its bundle has {} bytes, more than the {cap} allowed", meta.len()));
    }
    let mut reader = BufReader::new(file.take(cap.saturating_add(1)));
    let header = read_header(&mut reader)?;
    let copied = copy(&mut reader, to)?;
    match copied > cap {
        true => refuse(format!("its bundle has more than the {cap} bytes allowed")),
        false => Ok(header),
    }
}

fn copy(reader: &mut impl Read, to: &Path) -> Result<u64, GitError> {
    let mut file = File::create_new(to).map_err(GitError::io("cannot create", to))?;
    let copied = std::io::copy(reader, &mut file).map_err(GitError::io("cannot write", to))?;
    file.flush().map_err(GitError::io("cannot write", to))?;
    Ok(copied)
}

/// Reads the text before the pack: gitformat-bundle(5), version 2.
fn read_header(reader: &mut impl BufRead) -> Result<Header, ImportError> {
    let bad = |why: &str| ImportError::Agent(format!("its bundle is not one: {why}"));
    let mut limited = reader.take(HEADER);
    let mut next = || -> Result<String, ImportError> {
        let mut line = Vec::new();
        limited.read_until(b'\n', &mut line).map_err(|err| bad(&err.to_string()))?;
        match line.pop() {
            Some(b'\n') => Ok(String::from_utf8_lossy(&line).into_owned()),
            _ => Err(bad("it ends within its header")),
        }
    };
    if next()? != "# v2 git bundle" {
        return Err(bad("it does not start as a bundle of version 2"));
    }
    let (mut heads, mut prerequisites) = (Vec::new(), Vec::new());
    loop {
        let line = next()?;
        if line.is_empty() {
            break;
        }
        let (list, rest) = match line.strip_prefix('-') {
            Some(rest) => (&mut prerequisites, rest),
            None => (&mut heads, line.as_str()),
        };
        let id = rest.split(' ').next().unwrap_or_default();
        list.push(id.parse::<CommitSha>().map_err(|err| bad(&err.to_string()))?);
    }
    match <[CommitSha; 1]>::try_from(heads) {
        Ok([head]) => Ok(Header { head, prerequisites }),
        Err(heads) => Err(bad(&format!("it names {} heads, not one", heads.len()))),
    }
}

/// Where imports pass through; for the sweep of what a crash left.
pub(crate) fn is_passing(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(".import."))
}

impl RepoGit {
    /// Removes what imports that were cut off by a crash left behind. Call it at start, before any import.
    ///
    /// # Errors
    /// [`GitError::Io`].
    pub fn sweep(&self) -> Result<Vec<PathBuf>, GitError> {
        let entries = std::fs::read_dir(&self.root).map_err(GitError::io("cannot read", &self.root))?;
        let all: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| is_passing(p)).collect();
        for path in &all {
            std::fs::remove_file(path).map_err(GitError::io("cannot remove", path))?;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_one_head_and_what_it_builds_on() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let text = format!("# v2 git bundle\n-{a} subject of it\n{b} HEAD\n\nPACK");
        let mut reader = text.as_bytes();
        let header = read_header(&mut reader).expect("header");
        assert_eq!((header.head.as_str(), header.prerequisites[0].as_str()), (b.as_str(), a.as_str()));
        assert_eq!(reader, b"PACK");
        for bad in ["", "# v3 git bundle\n", "# v2 git bundle\n\nPACK", "# v2 git bundle\nzz HEAD\n\n"] {
            assert!(matches!(read_header(&mut bad.as_bytes()), Err(ImportError::Agent(_))), "{bad:?}");
        }
        let two = format!("# v2 git bundle\n{a} HEAD\n{b} refs/heads/x\n\n");
        assert!(read_header(&mut two.as_bytes()).is_err());
    }
}
