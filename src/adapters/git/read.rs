//! Questions to our own repositories, answered in-process by libgit2.
//!
//! Owns every read: ancestry, trees, changed paths, patch ids, files at a commit. Opens only `work` and `upstream`
//! (work borrows from upstream, so it knows both), each call its own handle on the blocking pool. Refuses to write,
//! and to open a repository that an agent can write.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use git2::{Delta, DiffOptions, ErrorCode, ObjectType, Oid, Repository, Sort};
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoPath;
use orch_domain::time::Timestamp;
use tokio::time::Instant;

use super::cut::Cut;
use super::error::GitError;
use super::rooms::RepoGit;

/// How a path differs between two commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Only the second commit has it.
    Added,
    /// Only the first commit has it.
    Deleted,
    /// Both have it, with other content or mode.
    Modified,
}

/// One path that differs between two commits. Renames show as a deletion and an addition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangedPath {
    /// The path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// How it differs.
    pub kind: ChangeKind,
    /// Whether it is (or was) a submodule link.
    pub submodule: bool,
}

/// A commit for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitLine {
    /// Which commit.
    pub sha: CommitSha,
    /// Its author's name; from outside, untrusted.
    pub author: String,
    /// The first line of its message; from outside, untrusted.
    pub subject: String,
    /// How many parents it has.
    pub parents: usize,
}

/// Most symbolic links on the way to one file.
const MOST_LINKS: u32 = 16;
/// Most bytes of a link's target.
const MOST_LINK: u64 = 4_096;

/// What is at a path of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileAt {
    /// Nothing.
    Missing,
    /// A folder, a symbolic link or a submodule.
    NotAFile,
    /// A file of more bytes than asked for.
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
    },
    /// A file.
    Bytes(Vec<u8>),
}

/// A file of a commit's tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeFile {
    /// Its path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// The id of what is in it: equal ids, equal content.
    pub id: String,
    /// Whether it is a file at all, and no symbolic link or submodule.
    pub plain: bool,
}

/// Opens one of our own bare repositories.
pub(crate) fn open(path: &Path) -> Result<Repository, GitError> {
    Repository::open_bare(path).map_err(GitError::read(format!("our repository {}", path.display())))
}

pub(crate) fn oid(sha: &CommitSha) -> Result<Oid, GitError> {
    // 64 digits: SHA-256 repositories are refused when a forge is opened.
    Oid::from_str(sha.as_str()).map_err(|_| GitError::Invalid(format!("{sha} is not a SHA-1 object id")))
}

pub(crate) fn sha(oid: Oid) -> CommitSha {
    oid.to_string().parse().expect("an object id is 40 hex digits")
}

pub(crate) fn commit<'repo>(repo: &'repo Repository, id: &CommitSha) -> Result<git2::Commit<'repo>, GitError> {
    repo.find_commit(oid(id)?).map_err(|err| match err.code() {
        ErrorCode::NotFound => GitError::NoSuchCommit { sha: id.clone() },
        _ => GitError::read(format!("commit {id}"))(err),
    })
}

/// Whether `descendant` is `ancestor` or comes after it.
pub(crate) fn descends(repo: &Repository, ancestor: &CommitSha, descendant: &CommitSha) -> Result<bool, GitError> {
    commit(repo, ancestor)?;
    commit(repo, descendant)?;
    if ancestor == descendant {
        return Ok(true);
    }
    repo.graph_descendant_of(oid(descendant)?, oid(ancestor)?).map_err(GitError::read("the history"))
}

/// The commits of `base..head`, oldest first.
pub(crate) fn between<'repo>(
    repo: &'repo Repository,
    base: &CommitSha,
    head: &CommitSha,
) -> Result<Vec<git2::Commit<'repo>>, GitError> {
    commit(repo, base)?;
    commit(repo, head)?;
    let fail = || GitError::read(format!("the commits {}..{}", base.short(), head.short()));
    let mut walk = repo.revwalk().map_err(fail())?;
    walk.set_sorting(Sort::TOPOLOGICAL | Sort::REVERSE).map_err(fail())?;
    walk.push(oid(head)?).map_err(fail())?;
    walk.hide(oid(base)?).map_err(fail())?;
    walk.map(|id| repo.find_commit(id.map_err(fail())?).map_err(fail())).collect()
}

pub(crate) fn line(commit: &git2::Commit<'_>) -> CommitLine {
    let clean = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes);
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
    };
    let message = commit.message_raw_bytes();
    let first = message.split(|b| *b == b'\n').next().unwrap_or_default();
    CommitLine {
        sha: sha(commit.id()),
        author: clean(commit.author().name_bytes()),
        subject: clean(first),
        parents: commit.parent_count(),
    }
}

/// The patch of a commit against its first parent, as an id that survives a rebase.
pub(super) fn patch_id(repo: &Repository, commit: &git2::Commit<'_>) -> Result<String, GitError> {
    let fail = || GitError::read(format!("the patch of {}", commit.id()));
    let new = commit.tree().map_err(fail())?;
    let old = match commit.parent_count() {
        0 => None,
        _ => Some(commit.parent(0).and_then(|parent| parent.tree()).map_err(fail())?),
    };
    let diff = repo.diff_tree_to_tree(old.as_ref(), Some(&new), None).map_err(fail())?;
    diff.patchid(None).map(|id| id.to_string()).map_err(fail())
}

impl RepoGit {
    /// Runs a read on the blocking pool with a handle of its own; that on one of our three is kept for the next.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        path: PathBuf,
        ask: impl FnOnce(&Repository) -> Result<T, GitError> + Send + 'static,
    ) -> Result<T, GitError> {
        let kept = Some(self.handles.clone()).filter(|_| path.parent() == Some(self.root.as_path()));
        let answer = tokio::task::spawn_blocking(move || {
            let found = kept.as_ref().and_then(|handles| handles.take(&path));
            let (repo, opened) = match found {
                Some(found) => found,
                None => (open(&path)?, Instant::now()),
            };
            let answer = ask(&repo)?;
            Ok((answer, kept.filter(|handles| handles.keep(path, repo, opened))))
        });
        let (answer, to_watch) = answer
            .await
            .unwrap_or_else(|err| Err(GitError::Read { what: "a repository".to_owned(), why: err.to_string() }))?;
        if let Some(handles) = to_watch {
            tokio::spawn(handles.watch());
        }
        Ok(answer)
    }

    /// Where a ref of one of our repositories points, if it exists.
    pub(crate) async fn ref_at(&self, repo: &Path, name: &str) -> Result<Option<CommitSha>, GitError> {
        let name = name.to_owned();
        self.read(repo.to_owned(), move |repo| match repo.refname_to_id(&name) {
            Ok(id) => Ok(Some(sha(id))),
            Err(err) if err.code() == ErrorCode::NotFound => Ok(None),
            Err(err) => Err(GitError::read(format!("ref {name}"))(err)),
        })
        .await
    }

    /// The refs of one of our repositories that match a glob, with their targets.
    pub(crate) async fn refs(&self, repo: &Path, glob: &str) -> Result<Vec<(String, CommitSha)>, GitError> {
        let glob = glob.to_owned();
        self.read(repo.to_owned(), move |repo| {
            let all = repo.references_glob(&glob).map_err(GitError::read("refs"))?;
            let pair = |found: Result<git2::Reference<'_>, git2::Error>| {
                let found = found.map_err(GitError::read("refs"))?;
                let name = String::from_utf8_lossy(found.name_bytes()).into_owned();
                Ok(found.target().map(|id| (name, sha(id))))
            };
            all.filter_map(|found| pair(found).transpose()).collect()
        })
        .await
    }

    /// Whether our repositories have a commit.
    ///
    /// # Errors
    /// [`GitError::Read`] when they cannot be read.
    pub async fn has_commit(&self, id: &CommitSha) -> Result<bool, GitError> {
        let id = id.clone();
        self.read(self.work(), move |repo| match commit(repo, &id) {
            Ok(_) => Ok(true),
            Err(GitError::NoSuchCommit { .. }) => Ok(false),
            Err(err) => Err(err),
        })
        .await
    }

    /// The id of a commit's tree: what gates judge and what lands.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn tree_of(&self, id: &CommitSha) -> Result<String, GitError> {
        let id = id.clone();
        self.read(self.work(), move |repo| Ok(commit(repo, &id)?.tree_id().to_string())).await
    }

    /// When a commit was made, as its committer says.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn committed(&self, id: &CommitSha) -> Result<Timestamp, GitError> {
        let id = id.clone();
        self.read(self.work(), move |repo| Ok(Timestamp(commit(repo, &id)?.time().seconds().saturating_mul(1_000))))
            .await
    }

    /// Whether `descendant` is `ancestor` or comes after it.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn contains(&self, ancestor: &CommitSha, descendant: &CommitSha) -> Result<bool, GitError> {
        let (ancestor, descendant) = (ancestor.clone(), descendant.clone());
        self.read(self.work(), move |repo| descends(repo, &ancestor, &descendant)).await
    }

    /// The best common ancestor of two commits, if there is one.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn merge_base(&self, one: &CommitSha, other: &CommitSha) -> Result<Option<CommitSha>, GitError> {
        let (one, other) = (one.clone(), other.clone());
        self.read(self.work(), move |repo| {
            let (one, other) = (commit(repo, &one)?.id(), commit(repo, &other)?.id());
            Ok(Cut::of(repo)?.merge_base(repo, one, other)?.map(sha))
        })
        .await
    }

    /// The commits of `base..head`, oldest first.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn commits_between(&self, base: &CommitSha, head: &CommitSha) -> Result<Vec<CommitLine>, GitError> {
        let (base, head) = (base.clone(), head.clone());
        self.read(self.work(), move |repo| Ok(between(repo, &base, &head)?.iter().map(line).collect())).await
    }

    /// The paths in which the trees of two commits differ, sorted. Give the merge base as the first to see what a
    /// branch brings.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn changed_paths(&self, base: &CommitSha, head: &CommitSha) -> Result<Vec<ChangedPath>, GitError> {
        let (base, head) = (base.clone(), head.clone());
        self.read(self.work(), move |repo| {
            let fail = || GitError::read("the changed paths");
            let old = commit(repo, &base)?.tree().map_err(fail())?;
            let new = commit(repo, &head)?.tree().map_err(fail())?;
            let mut options = DiffOptions::new();
            options.include_typechange(true).skip_binary_check(true);
            let diff = repo.diff_tree_to_tree(Some(&old), Some(&new), Some(&mut options)).map_err(fail())?;
            let mut all: Vec<ChangedPath> = diff.deltas().map(|delta| changed(&delta)).collect();
            all.sort();
            Ok(all)
        })
        .await
    }

    /// The patch ids of `base..head`'s plain commits (not merges): equal before and after a catch-up unless a patch
    /// vanished or was altered.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn patch_ids(&self, base: &CommitSha, head: &CommitSha) -> Result<BTreeSet<String>, GitError> {
        let (base, head) = (base.clone(), head.clone());
        self.read(self.work(), move |repo| {
            let commits = between(repo, &base, &head)?;
            commits.iter().filter(|commit| commit.parent_count() < 2).map(|commit| patch_id(repo, commit)).collect()
        })
        .await
    }

    /// A file as it is at a commit, if it holds at most `max_bytes`.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn read_file_at(&self, id: &CommitSha, path: &RepoPath, max_bytes: u64) -> Result<FileAt, GitError> {
        let (id, path) = (id.clone(), path.clone());
        self.read(self.work(), move |repo| {
            let fail = || GitError::read(format!("{path} at {}", id.short()));
            let tree = commit(repo, &id)?.tree().map_err(fail())?;
            let entry = match tree.get_path(Path::new(path.as_str())) {
                Ok(entry) => entry,
                Err(err) if err.code() == ErrorCode::NotFound => return Ok(FileAt::Missing),
                Err(err) => return Err(fail()(err)),
            };
            if !is_plain(&entry) {
                return Ok(FileAt::NotAFile);
            }
            blob(repo, entry.id(), max_bytes).map_err(fail())
        })
        .await
    }

    /// The same through symbolic links, where they stay inside the tree: what a program sees that opens the path in a
    /// checkout. A link that leads out of the tree, or in a circle, is [`FileAt::NotAFile`].
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn read_through_links_at(
        &self,
        id: &CommitSha,
        path: &RepoPath,
        max_bytes: u64,
    ) -> Result<FileAt, GitError> {
        let (id, path) = (id.clone(), path.clone());
        self.read(self.work(), move |repo| {
            let fail = || GitError::read(format!("{path} at {}", id.short()));
            let tree = commit(repo, &id)?.tree().map_err(fail())?;
            let parts = |text: &str| text.split('/').rev().map(str::to_owned).collect::<Vec<_>>();
            // What is still to be gone, its next part last; and the way gone so far.
            let (mut ahead, mut way, mut links) = (parts(path.as_str()), Vec::<String>::new(), 0);
            while let Some(part) = ahead.pop() {
                match part.as_str() {
                    "" | "." => continue,
                    ".." if way.pop().is_some() => continue,
                    ".." => return Ok(FileAt::NotAFile),
                    _ => way.push(part),
                }
                let entry = match tree.get_path(Path::new(&way.join("/"))) {
                    Ok(entry) => entry,
                    Err(err) if err.code() == ErrorCode::NotFound => return Ok(FileAt::Missing),
                    Err(err) => return Err(fail()(err)),
                };
                if entry.filemode() == 0o120_000 {
                    let FileAt::Bytes(target) = blob(repo, entry.id(), MOST_LINK).map_err(fail())? else {
                        return Ok(FileAt::NotAFile);
                    };
                    links += 1;
                    match String::from_utf8(target) {
                        Ok(target) if links <= MOST_LINKS && !target.starts_with('/') => ahead.extend(parts(&target)),
                        Ok(_) | Err(_) => return Ok(FileAt::NotAFile),
                    }
                    way.pop();
                } else if ahead.is_empty() && is_plain(&entry) {
                    return blob(repo, entry.id(), max_bytes).map_err(fail());
                }
            }
            Ok(FileAt::NotAFile)
        })
        .await
    }

    /// The content of a file by its id, if it holds at most `max_bytes`.
    ///
    /// # Errors
    /// [`GitError::Read`].
    pub async fn read_blob(&self, id: &str, max_bytes: u64) -> Result<FileAt, GitError> {
        let id = id.to_owned();
        self.read(self.work(), move |repo| {
            let fail = || GitError::read(format!("object {id}"));
            blob(repo, Oid::from_str(&id).map_err(fail())?, max_bytes).map_err(fail())
        })
        .await
    }

    /// The files of a commit whose path is `wanted`, sorted.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`]; [`GitError::Read`], also when there are more than `most`.
    pub async fn files_named(
        &self,
        id: &CommitSha,
        wanted: fn(&str) -> bool,
        most: usize,
    ) -> Result<Vec<TreeFile>, GitError> {
        let id = id.clone();
        self.read(self.work(), move |repo| {
            let what = format!("the tree of {}", id.short());
            let tree = commit(repo, &id)?.tree().map_err(GitError::read(what.clone()))?;
            let mut all = Vec::new();
            tree.walk(git2::TreeWalkMode::PreOrder, |root, entry| {
                let path = format!("{root}{}", String::from_utf8_lossy(entry.name_bytes()));
                if entry.kind() != Some(ObjectType::Tree) && wanted(&path) && all.len() <= most {
                    all.push(TreeFile { path, id: entry.id().to_string(), plain: is_plain(entry) });
                }
                git2::TreeWalkResult::Ok
            })
            .map_err(GitError::read(what.clone()))?;
            if all.len() > most {
                return Err(GitError::Read { what, why: format!("more than {most} files are of interest there") });
            }
            all.sort();
            Ok(all)
        })
        .await
    }

    /// The paths at which a commit links to other repositories (submodules), sorted, at most `most`; none where it has no
    /// `.gitmodules`, without which nobody could fetch them.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn submodules_at(&self, id: &CommitSha, most: usize) -> Result<Vec<String>, GitError> {
        let id = id.clone();
        self.read(self.work(), move |repo| {
            let fail = || GitError::read(format!("the tree of {}", id.short()));
            let tree = commit(repo, &id)?.tree().map_err(fail())?;
            let mut all = Vec::new();
            if tree.get_name(".gitmodules").is_none() {
                return Ok(all);
            }
            let walked = tree.walk(git2::TreeWalkMode::PreOrder, |root, entry| {
                if entry.kind() == Some(ObjectType::Commit) {
                    all.push(format!("{root}{}", String::from_utf8_lossy(entry.name_bytes())));
                }
                if all.len() < most { git2::TreeWalkResult::Ok } else { git2::TreeWalkResult::Abort }
            });
            if all.len() < most {
                walked.map_err(fail())?;
            }
            all.sort();
            Ok(all)
        })
        .await
    }

    /// The file at a path of a commit, if something other than a folder is there.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn file_named(&self, id: &CommitSha, path: &str) -> Result<Option<TreeFile>, GitError> {
        let (id, path) = (id.clone(), path.to_owned());
        self.read(self.work(), move |repo| {
            let fail = || GitError::read(format!("{} at {}", path.escape_debug(), id.short()));
            let tree = commit(repo, &id)?.tree().map_err(fail())?;
            match tree.get_path(Path::new(&path)) {
                Ok(entry) if entry.kind() == Some(ObjectType::Tree) => Ok(None),
                Ok(entry) => Ok(Some(TreeFile { path, id: entry.id().to_string(), plain: is_plain(&entry) })),
                Err(err) if err.code() == ErrorCode::NotFound => Ok(None),
                Err(err) => Err(fail()(err)),
            }
        })
        .await
    }

    /// The paths below a folder of a commit (all when `None`), sorted; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn files_at(&self, id: &CommitSha, folder: Option<&RepoPath>) -> Result<Vec<String>, GitError> {
        let (id, folder) = (id.clone(), folder.cloned());
        self.read(self.work(), move |repo| {
            let fail = || GitError::read(format!("the tree of {}", id.short()));
            let mut tree = commit(repo, &id)?.tree().map_err(fail())?;
            let mut prefix = String::new();
            if let Some(folder) = folder {
                let Ok(entry) = tree.get_path(Path::new(folder.as_str())) else { return Ok(Vec::new()) };
                let Ok(below) = repo.find_tree(entry.id()) else { return Ok(Vec::new()) };
                (tree, prefix) = (below, format!("{folder}/"));
            }
            let mut all = Vec::new();
            tree.walk(git2::TreeWalkMode::PreOrder, |root, entry| {
                if entry.kind() != Some(ObjectType::Tree) {
                    all.push(format!("{prefix}{root}{}", String::from_utf8_lossy(entry.name_bytes())));
                }
                git2::TreeWalkResult::Ok
            })
            .map_err(fail())?;
            all.sort();
            Ok(all)
        })
        .await
    }
}

/// Whether an entry of a tree is a file, and no symbolic link or submodule.
fn is_plain(entry: &git2::TreeEntry<'_>) -> bool {
    entry.kind() == Some(ObjectType::Blob) && matches!(entry.filemode(), 0o100_644 | 0o100_755 | 0o100_664)
}

fn blob(repo: &Repository, id: Oid, max_bytes: u64) -> Result<FileAt, git2::Error> {
    let odb = repo.odb()?;
    let (bytes, kind) = odb.read_header(id)?;
    let bytes = bytes as u64;
    if kind != ObjectType::Blob {
        return Ok(FileAt::NotAFile);
    }
    if bytes > max_bytes {
        return Ok(FileAt::TooLarge { bytes });
    }
    Ok(FileAt::Bytes(odb.read(id)?.data().to_vec()))
}

fn changed(delta: &git2::DiffDelta<'_>) -> ChangedPath {
    let (old, new) = (delta.old_file(), delta.new_file());
    let path = new.path_bytes().or_else(|| old.path_bytes()).unwrap_or_default();
    ChangedPath {
        path: String::from_utf8_lossy(path).into_owned(),
        kind: match delta.status() {
            Delta::Added => ChangeKind::Added,
            Delta::Deleted => ChangeKind::Deleted,
            _ => ChangeKind::Modified,
        },
        submodule: old.mode() == git2::FileMode::Commit || new.mode() == git2::FileMode::Commit,
    }
}
