//! Which files of a report belong to the checkout.
//!
//! Owns the way from a name in a report to a path in the repository. Invariants: every path that comes out is a plain file
//! below the checkout, reached through no link; a report of which no file is there, or that names lines which a file
//! cannot have, belongs to another checkout.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use orch_domain::coverage::{Coverage, Lines};
use orch_domain::names::RepoPath;

use super::gather::Gathered;

/// Takes over what belongs to the checkout, with remarks about the rest; or says why the report belongs elsewhere.
pub(super) fn take(gathered: Gathered, checkout: &Path) -> Result<(Coverage, Vec<String>), String> {
    let mut roots = vec![checkout.to_owned()];
    roots.extend(fs::canonicalize(checkout).ok().filter(|real| real != checkout));
    let sources: Vec<PathBuf> = gathered.sources.iter().map(PathBuf::from).collect();
    let mut look = Look { checkout, roots, sources, folders: BTreeMap::new() };
    let mut coverage = Coverage { excluded: gathered.excluded, ..Coverage::default() };
    let (mut outside, mut example) = (0_u64, None);
    for (name, lines) in gathered.files {
        match look.file(&name) {
            Some((path, size)) => {
                if let Some(last) = lines.last().filter(|last| u64::from(*last) > size.saturating_add(1)) {
                    return Err(format!("it names line {last} of {path}, which has {size} bytes"));
                }
                merge(&mut coverage, path, lines);
            }
            None => {
                outside += 1;
                example.get_or_insert(name);
            }
        }
    }
    let mut notes = gathered.notes;
    if let Some(example) = example {
        if coverage.files.is_empty() {
            return Err(format!("none of its {outside} files is in it, such as {example}"));
        }
        notes.push(format!("{outside} measured files are not in the checkout and do not count, such as {example}"));
    }
    Ok((coverage, notes))
}

fn merge(coverage: &mut Coverage, path: RepoPath, lines: Lines) {
    match coverage.files.get_mut(&path) {
        Some(known) => known.merge(&lines),
        None => drop(coverage.files.insert(path, lines)),
    }
}

struct Look<'c> {
    checkout: &'c Path,
    /// The checkout under each of its names.
    roots: Vec<PathBuf>,
    /// Where names are relative to.
    sources: Vec<PathBuf>,
    /// Folders that were looked at: whether they are in the checkout, with no link on the way.
    folders: BTreeMap<PathBuf, bool>,
}

impl Look<'_> {
    /// The path of a name and the file's size, if it is a plain file of the checkout.
    fn file(&mut self, name: &str) -> Option<(RepoPath, u64)> {
        let name = Path::new(name);
        let mut tries: Vec<PathBuf> = Vec::new();
        if name.is_absolute() {
            tries.push(name.to_owned());
        } else {
            tries.extend(self.sources.iter().map(|source| source.join(name)));
            tries.push(name.to_owned());
        }
        tries.iter().find_map(|path| {
            let relative = match path.is_absolute() {
                true => self.roots.iter().find_map(|root| path.strip_prefix(root).ok())?.to_owned(),
                false => path.clone(),
            };
            self.plain(&relative)
        })
    }

    fn plain(&mut self, relative: &Path) -> Option<(RepoPath, u64)> {
        let mut parts = Vec::new();
        for part in relative.components() {
            match part {
                Component::Normal(part) => parts.push(part.to_str()?),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
            }
        }
        let path: RepoPath = parts.join("/").parse().ok()?;
        let whole = self.checkout.join(path.as_str());
        if !self.is_ours(whole.parent()?) {
            return None;
        }
        let meta = fs::symlink_metadata(&whole).ok()?;
        meta.is_file().then_some((path, meta.len()))
    }

    /// Whether a folder is the checkout or a real folder below it.
    fn is_ours(&mut self, folder: &Path) -> bool {
        if folder == self.checkout {
            return true;
        }
        if let Some(known) = self.folders.get(folder) {
            return *known;
        }
        let real = folder.parent().is_some_and(|parent| self.is_ours(parent))
            && fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir());
        self.folders.insert(folder.to_owned(), real);
        real
    }
}
