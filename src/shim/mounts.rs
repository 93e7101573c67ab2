//! The job's own view of the file system, inside its mount namespace.
//!
//! Owns what is hidden and what stays visible below it: a hidden folder is empty for the job, but for the folders that it
//! works in, which are put back in their places. Hidden are the data folder, the sockets of other jobs' guards and of the
//! host's services: landlock does not keep anybody from connecting to a socket whose path he knows. Invariant: nothing of
//! the host changes; all of it ends with the namespace.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, umask};

use crate::spec::Namespaces;

const NONE: Option<&str> = None;
/// Where shared memory lives.
const SHARED_MEMORY: &str = "/dev/shm";
/// Where programs put what is temporary, whatever they are told.
const TEMPORARY: &str = "/tmp";

/// One change of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// The folder is empty from here on.
    Hide,
    /// Another folder of the job's own is seen here.
    Replace(PathBuf),
    /// Visible again, inside what was hidden.
    Keep,
}

/// The changes in the order in which they are made.
pub(crate) struct View {
    changes: Vec<(PathBuf, Change)>,
    shm_bytes: u64,
}

/// Where the making of a view failed.
pub(crate) struct ViewError {
    /// At which place.
    pub(crate) place: PathBuf,
    /// What the system said.
    pub(crate) error: io::Error,
}

fn at<E: Into<io::Error>>(place: &Path) -> impl FnOnce(E) -> ViewError {
    move |error| ViewError { place: place.to_owned(), error: error.into() }
}

impl View {
    /// Plans a view; what does not exist is left out.
    pub(crate) fn plan(wanted: &Namespaces) -> Self {
        let real = |path: &PathBuf| fs::canonicalize(path).ok();
        let hide: Vec<PathBuf> = wanted.hide.iter().filter_map(real).filter(|path| path.is_dir()).collect();
        let keep: Vec<PathBuf> = wanted.keep.iter().filter_map(real).collect();
        let tmp = wanted.tmp.as_ref().and_then(real).zip(fs::canonicalize(TEMPORARY).ok());
        Self { changes: order(&hide, &keep, tmp), shm_bytes: wanted.shm_bytes }
    }

    /// Whether the job sees a folder of its own as `/tmp`.
    pub(crate) fn has_own_tmp(&self) -> bool {
        self.changes.iter().any(|(_, change)| matches!(change, Change::Replace(_)))
    }

    /// Makes the view. Must run inside a mount namespace of its own, and be the first process of its PID namespace.
    pub(crate) fn make(&self) -> Result<(), ViewError> {
        let root = Path::new("/");
        // The places made here are ways that other users go, too.
        umask(Mode::from_bits_truncate(0o022));
        // Or what is mounted here would be mounted for everybody.
        mount(NONE, root, NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(at(root))?;
        // Opened before anything is hidden.
        let mut opened: Vec<Option<File>> = Vec::new();
        for (path, change) in &self.changes {
            let source = match change {
                Change::Hide => None,
                Change::Replace(source) => Some(source),
                Change::Keep => Some(path),
            };
            opened.push(source.map(|source| open_path(source)).transpose().map_err(at(path))?);
        }
        let proc = Path::new("/proc");
        let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), proc, Some("proc"), plain, NONE).map_err(at(proc))?;
        self.make_shared_memory()?;
        for ((path, change), source) in self.changes.iter().zip(&opened) {
            match (change, source) {
                (Change::Hide, _) => hide(path)?,
                (Change::Replace(_), Some(source)) => bind(source, path).map_err(at(path))?,
                (Change::Keep, Some(source)) => {
                    self.mount_point(path, source)?;
                    bind(source, path).map_err(at(path))?;
                }
                (Change::Replace(_) | Change::Keep, None) => {}
            }
        }
        for (path, _) in self.changes.iter().filter(|(_, change)| *change == Change::Hide) {
            let closed = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(NONE, path, NONE, closed | MsFlags::MS_NOSUID | MsFlags::MS_NODEV, NONE).map_err(at(path))?;
        }
        Ok(())
    }

    fn make_shared_memory(&self) -> Result<(), ViewError> {
        let Ok(path) = fs::canonicalize(SHARED_MEMORY) else { return Ok(()) };
        let options = format!("mode=1777,size={}", self.shm_bytes.max(1 << 20));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(options.as_str())).map_err(at(&path))
    }

    /// Makes the place to which something hidden is put back. Goes through no link: the folder that stands in for `/tmp`
    /// has been in the hands of an earlier job.
    fn mount_point(&self, path: &Path, source: &File) -> Result<(), ViewError> {
        let above = self.changes.iter().filter(|(root, change)| *change != Change::Keep && path.starts_with(root));
        let Some((root, _)) = above.max_by_key(|(root, _)| root.as_os_str().len()) else { return Ok(()) };
        let is_dir = source.metadata().map_err(at(path))?.is_dir();
        let mut place = root.clone();
        let below: Vec<_> = path.strip_prefix(root).unwrap_or(path).components().collect();
        for (number, name) in below.iter().enumerate() {
            place.push(name);
            let folder = is_dir || number + 1 < below.len();
            match fs::symlink_metadata(&place) {
                Ok(meta) if meta.is_dir() == folder && !meta.is_symlink() => {}
                Ok(_) => return Err(at(&place)(io::Error::from_raw_os_error(libc::EEXIST))),
                Err(_) if folder => DirBuilder::new().mode(0o755).create(&place).map_err(at(&place))?,
                Err(_) => drop(File::create_new(&place).map_err(at(&place))?),
            }
        }
        Ok(())
    }
}

/// The changes that are needed, parents first. What is hidden already need not be hidden, what is visible need not be
/// kept. Hiding wins over keeping the same path.
fn order(hide: &[PathBuf], keep: &[PathBuf], tmp: Option<(PathBuf, PathBuf)>) -> Vec<(PathBuf, Change)> {
    let mut wanted: BTreeMap<PathBuf, Change> = keep.iter().map(|path| (path.clone(), Change::Keep)).collect();
    wanted.extend(tmp.map(|(own, place)| (place, Change::Replace(own))));
    wanted.extend(hide.iter().map(|path| (path.clone(), Change::Hide)));
    let mut changes: Vec<(PathBuf, Change)> = Vec::new();
    // A map of paths is in the order of their components, so a parent comes before what is in it.
    for (path, change) in wanted {
        let above = changes.iter().rfind(|(over, _)| path.starts_with(over)).map(|(_, change)| change);
        let hidden = above.is_some_and(|above| *above != Change::Keep);
        if (change == Change::Keep) == hidden {
            changes.push((path, change));
        }
    }
    changes
}

fn hide(path: &Path) -> Result<(), ViewError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=755,size=1m")).map_err(at(path))
}

fn bind(source: &File, place: &Path) -> nix::Result<()> {
    let source = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    mount(Some(&source), place, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
}

fn open_path(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    fn shown(hide: &[&str], keep: &[&str], tmp: Option<&str>) -> String {
        let tmp = tmp.map(|own| (own.into(), TEMPORARY.into()));
        let changes = order(&paths(hide), &paths(keep), tmp);
        let word = |change: &Change| match change {
            Change::Hide => '-',
            Change::Replace(_) => '=',
            Change::Keep => '+',
        };
        let lines: Vec<String> =
            changes.iter().map(|(path, change)| format!("{}{}", word(change), path.display())).collect();
        lines.join(" ")
    }

    #[test]
    fn only_what_is_needed_is_changed_and_parents_come_first() {
        assert_eq!(shown(&["/data"], &["/data/w/1", "/usr"], None), "-/data +/data/w/1");
        assert_eq!(shown(&["/data/run", "/data"], &[], None), "-/data");
        assert_eq!(shown(&["/data"], &["/data"], None), "-/data", "hiding wins");
        assert_eq!(shown(&["/a-b", "/a"], &["/a-b/c", "/a/c"], None), "-/a +/a/c -/a-b +/a-b/c");
    }

    #[test]
    fn a_hidden_folder_inside_a_kept_one_stays_hidden() {
        let seen = shown(&["/tmp/w/data"], &["/tmp/w", "/tmp/w/data/one"], Some("/tmp/w/data/own"));
        assert_eq!(seen, "=/tmp +/tmp/w -/tmp/w/data +/tmp/w/data/one");
    }
}
