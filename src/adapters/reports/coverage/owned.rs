//! Which file of the commit a name in a report means.
//!
//! Owns the way from a name to a path of the commit's tree. Names are text: they are folded and looked up in the list of
//! the commit's files, and the disk is not asked, so that neither what else lies in the checkout nor how long or deep a
//! name is makes a difference. Invariants: every path that comes out is a plain file of the commit; a name that may mean
//! two of them is told apart from both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_domain::names::RepoPath;

/// Longest name that is looked up: a path can have no more bytes.
const MOST_NAME: usize = 4_096;

/// The files of a commit: what a report of its tree can be about.
#[derive(Clone, Debug, Default)]
pub struct CommitFiles {
    plain: Arc<[RepoPath]>,
    /// Links and submodules: they are no measured files, but what lies there is the commit's too.
    others: Arc<[RepoPath]>,
}

impl CommitFiles {
    /// From the paths of a commit, each with whether it is a plain file. Paths that no [`RepoPath`] can be are left out.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = (String, bool)>) -> Self {
        let (mut plain, mut others) = (Vec::new(), Vec::new());
        for (path, is_plain) in paths {
            let Ok(path) = RepoPath::try_from(path) else { continue };
            if is_plain { plain.push(path) } else { others.push(path) }
        }
        plain.sort_unstable();
        others.sort_unstable();
        Self { plain: plain.into(), others: others.into() }
    }

    /// Whether the commit has anything but a folder at a path.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        let among = |all: &[RepoPath]| all.binary_search_by(|known| known.as_str().cmp(path)).is_ok();
        among(&self.plain) || among(&self.others)
    }

    fn find(&self, path: &str) -> Option<Id> {
        self.plain.binary_search_by(|known| known.as_str().cmp(path)).ok().map(Id)
    }

    pub(super) fn path(&self, id: Id) -> &RepoPath {
        &self.plain[id.0]
    }
}

/// A plain file of the commit, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(usize);

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// This file.
    File(Id),
    /// One of these two, if not of more.
    Either(Id, Id),
    /// None of the commit.
    Nothing,
}

/// Where names are looked up.
#[derive(Clone, Debug)]
pub(super) struct Look {
    files: CommitFiles,
    checkout: PathBuf,
    /// The checkout under each of its names, folded.
    roots: Vec<String>,
}

impl Look {
    pub(super) fn new(checkout: &Path, files: &CommitFiles) -> Self {
        let mut roots: Vec<String> = folded(&checkout.to_string_lossy()).into_iter().collect();
        let real = std::fs::canonicalize(checkout).ok().and_then(|real| folded(&real.to_string_lossy()));
        roots.extend(real.filter(|real| !roots.contains(real)));
        Self { files: files.clone(), checkout: checkout.to_owned(), roots }
    }

    pub(super) fn path(&self, id: Id) -> &RepoPath {
        self.files.path(id)
    }

    /// The file that a name means. `sources`: what it may be relative to; the checkout if it is in none of them.
    pub(super) fn file(&self, name: &str, sources: &[String]) -> Means {
        if name.len() > MOST_NAME {
            return Means::Nothing;
        }
        if !name.starts_with('/') {
            let mut found = None;
            for id in sources.iter().filter_map(|source| self.one(&format!("{source}/{name}"))) {
                match found {
                    Some(first) if first != id => return Means::Either(first, id),
                    _ => found = Some(id),
                }
            }
            if let Some(id) = found {
                return Means::File(id);
            }
        }
        self.one(name).map_or(Means::Nothing, Means::File)
    }

    fn one(&self, name: &str) -> Option<Id> {
        if let Some(id) = self.files.find(name) {
            return Some(id);
        }
        let whole = folded(name)?;
        if !name.starts_with('/') {
            return self.files.find(&whole);
        }
        self.roots.iter().find_map(|root| self.files.find(whole.strip_prefix(root.as_str())?.strip_prefix('/')?))
    }

    /// The bytes of a file as it lies in the checkout now, if it does.
    pub(super) fn size(&self, id: Id) -> Option<u64> {
        let meta = std::fs::symlink_metadata(self.checkout.join(self.path(id).as_str())).ok()?;
        meta.is_file().then_some(meta.len())
    }
}

/// A path without `.`, `..` and empty parts, by its text alone; `None`: it leaves where it begins.
fn folded(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
