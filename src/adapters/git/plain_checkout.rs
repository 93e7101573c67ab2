//! Checking out a small and plain tree: files, folders, links, and the index that says so.
//!
//! Owns what `git checkout` would leave there, without its processes: a gate is asked about every landing, and for a small
//! tree starting git takes longer than its work. Each file is made anew and follows no link. Refuses whatever may need more,
//! before anything is written: attributes and the filters that they name, submodules, names that some file system reads
//! otherwise, and trees that are not small (a process can be ended, this cannot). Those are git's.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use git2::{FileMode, Index, IndexEntry, IndexTime, Odb, Oid, Repository, Tree};

use super::error::GitError;

/// Most files.
const MOST: usize = 400;
/// Most bytes of them together.
const MOST_BYTES: usize = 4 << 20;
/// Deepest folder.
const DEEPEST: usize = 32;

/// Names that begin like git's own folder and are none.
const KNOWN: [&str; 7] =
    [".gitignore", ".gitkeep", ".github", ".gitea", ".gitlab-ci.yml", ".gitleaks.toml", ".git-blame-ignore-revs"];

/// One thing to make.
enum Part {
    Folder(String),
    File { path: String, id: Oid, program: bool },
    Link { path: String, id: Oid },
}

/// Makes the files of `tree`, an object that `repo` has, in `dir`, whose `.git` is there without an index. `false`: nothing
/// was made, git has to.
pub(super) fn check_out(repo: &Repository, tree: Oid, dir: &Path) -> Result<bool, GitError> {
    let failed = || GitError::read(format!("the tree {tree}"));
    let odb = repo.odb().map_err(failed())?;
    let mut parts = Parts { repo, odb: &odb, all: Vec::new(), bytes: 0 };
    let root = repo.find_tree(tree).map_err(failed())?;
    if !parts.of(&root, "", 0).map_err(failed())? {
        return Ok(false);
    }
    let path = dir.join(".git/index");
    let mut index = Index::open(&path).map_err(failed())?;
    for part in &parts.all {
        if let Some(entry) = make(&odb, part, dir)? {
            index.add(&entry).map_err(failed())?;
        }
    }
    // What the index says is what was made of each object: it has to come to the very same tree.
    let made = index.write_tree_to(repo).map_err(failed())?;
    if made != tree {
        let why = format!("its files come to the tree {made}");
        return Err(GitError::Read { what: format!("the tree {tree}"), why });
    }
    index.write().map_err(failed())?;
    Ok(true)
}

/// What is to be made, folders before what is in them.
struct Parts<'r> {
    repo: &'r Repository,
    odb: &'r Odb<'r>,
    all: Vec<Part>,
    bytes: usize,
}

impl Parts<'_> {
    /// Adds what a folder holds. `false`: it is not plain, or with it there is too much.
    fn of(&mut self, tree: &Tree<'_>, at: &str, depth: usize) -> Result<bool, git2::Error> {
        for entry in tree {
            let Some(name) = plain_name(entry.name_bytes()) else { return Ok(false) };
            let path = format!("{at}{name}");
            let id = entry.id();
            let part = match entry.filemode() {
                0o100_644 => Part::File { path, id, program: false },
                0o100_755 => Part::File { path, id, program: true },
                0o120_000 => Part::Link { path, id },
                0o040_000 if depth < DEEPEST => {
                    let inside = format!("{path}/");
                    self.all.push(Part::Folder(path));
                    if !self.of(&self.repo.find_tree(id)?, &inside, depth + 1)? {
                        return Ok(false);
                    }
                    continue;
                }
                _ => return Ok(false),
            };
            self.bytes = self.bytes.saturating_add(self.odb.read_header(id)?.0);
            self.all.push(part);
            if self.all.len() > MOST || self.bytes > MOST_BYTES {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A name that every file system and every git reads as it stands, and that changes nothing about what is beside it.
fn plain_name(name: &[u8]) -> Option<&str> {
    let text = str::from_utf8(name).ok()?;
    let lower = text.to_ascii_lowercase();
    let of_git = lower.starts_with(".git") && !KNOWN.contains(&text) || lower.starts_with("git~");
    let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && !matches!(byte, b'/' | b'\\' | b':'));
    Some(text).filter(|text| plain && !of_git && !matches!(*text, "" | "." | ".."))
}

/// Makes one part and gives its line of the index.
fn make(odb: &Odb<'_>, part: &Part, dir: &Path) -> Result<Option<IndexEntry>, GitError> {
    let (name, id, mode) = match part {
        Part::Folder(name) => {
            let path = dir.join(name);
            let made = fs::create_dir(&path).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)));
            return made.map(|()| None).map_err(GitError::io("cannot create", path));
        }
        Part::File { path, id, program: false } => (path, *id, FileMode::Blob),
        Part::File { path, id, program: true } => (path, *id, FileMode::BlobExecutable),
        Part::Link { path, id } => (path, *id, FileMode::Link),
    };
    let path: PathBuf = dir.join(name);
    let object = odb.read(id).map_err(GitError::read(format!("{name} ({id})")))?;
    let made = match mode {
        FileMode::Link => put_link(&path, object.data()),
        FileMode::BlobExecutable => put_file(&path, object.data(), 0o755),
        _ => put_file(&path, object.data(), 0o644),
    };
    let found = made.map_err(GitError::io("cannot write", &path))?;
    // As git does: what is too large for its place in the index is cut.
    let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let time = |seconds: i64, nanos: i64| {
        IndexTime::new(i32::try_from(seconds).unwrap_or(i32::MAX), u32::try_from(nanos).unwrap_or(0))
    };
    Ok(Some(IndexEntry {
        ctime: time(found.ctime(), found.ctime_nsec()),
        mtime: time(found.mtime(), found.mtime_nsec()),
        dev: low(found.dev()),
        ino: low(found.ino()),
        mode: u32::try_from(i32::from(mode)).unwrap_or_default(),
        uid: found.uid(),
        gid: found.gid(),
        file_size: low(found.size()),
        id,
        flags: 0,
        flags_extended: 0,
        path: name.clone().into_bytes(),
    }))
}

fn put_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<fs::Metadata> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    // Whatever this process would keep from others by default: a job sees what git would have made.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.metadata()
}

fn put_link(path: &Path, target: &[u8]) -> io::Result<fs::Metadata> {
    use std::os::unix::ffi::OsStrExt as _;
    symlink(std::ffi::OsStr::from_bytes(target), path)?;
    path.symlink_metadata()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_mean_something_else_are_left_to_git() {
        for name in ["a", "a b.txt", ".gitignore", ".github", "git", "~", "-x", "a~1"] {
            assert_eq!(plain_name(name.as_bytes()), Some(name));
        }
        let odd = [
            "",
            ".",
            "..",
            ".git",
            ".GIT",
            ".git ",
            ".git.",
            ".git~1",
            "git~1",
            "GIT~2",
            ".gitattributes",
            ".gitmodules",
            ".GitHub",
            "a\\b",
            "a:b",
            "a\nb",
            "\u{e4}",
            ".g\u{200c}it",
            "a\u{7f}",
        ];
        for name in odd {
            assert_eq!(plain_name(name.as_bytes()), None, "{name:?}");
        }
        assert_eq!(plain_name(b"\xff"), None);
    }
}
