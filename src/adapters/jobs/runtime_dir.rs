//! The runtime folder: a short path for the guards' sockets, one for each data folder.
//!
//! Owns its making, a shared lock on it while this process uses it, and its end: the last user takes it away when no guard
//! has a socket in it any more. Folders of supervisors that were killed are found beside our own by name, and go only when
//! nobody holds their lock, none of their sockets is answered, and nothing else lies in them. Refuses to follow links, and
//! to touch what belongs to another user.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Digits at the end of a runtime folder's name, which tell one data folder from another.
const DIGITS: usize = 12;
/// How often a folder is made anew that somebody swept away at the same moment.
const TRIES: u32 = 10;

/// A folder in use.
pub(super) struct RuntimeDir {
    path: PathBuf,
    held: Mutex<File>,
}

impl RuntimeDir {
    /// Makes the folder, private to this user, and holds it.
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let held = Mutex::new(take(path)?);
        Ok(Self { path: fs::canonicalize(path)?, held })
    }

    /// Its path, with every link resolved.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it again if somebody has cleaned it away: temporary folders are tidied by age on many systems.
    pub(super) fn ensure(&self) -> io::Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_at(&held, &self.path) {
            *held = take(&self.path)?;
        }
        Ok(())
    }

    /// Folders like this one beside it that nobody uses, of supervisors that did not end by themselves.
    pub(super) fn stale(&self) -> Vec<PathBuf> {
        self.siblings().into_iter().filter(|path| claim(path).is_some_and(|_| is_deserted(path))).collect()
    }

    /// Takes those away; how many went.
    pub(super) fn clear_stale(&self) -> usize {
        self.siblings().into_iter().filter(|path| claim(path).is_some_and(|held| remove(path, &held))).count()
    }

    fn siblings(&self) -> Vec<PathBuf> {
        let Some((folder, stem)) = self.path.parent().zip(stem_of(&self.path)) else { return Vec::new() };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        found.retain(|path| *path != self.path && stem_of(path).as_ref() == Some(&stem));
        found.sort();
        found
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        if held.try_lock().is_ok() {
            remove(&self.path, held);
        }
    }
}

/// The name without the digits that tell data folders apart; `None`: no runtime folder's name.
fn stem_of(path: &Path) -> Option<String> {
    let (stem, digits) = path.file_name()?.to_str()?.rsplit_once('-')?;
    let hex = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| stem.to_owned())
}

fn take(path: &Path) -> io::Result<File> {
    for _ in 0..TRIES {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // One that is gone again was swept away between the two calls.
        let held = match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            held => held?,
        };
        held.lock_shared()?;
        if is_at(&held, path) {
            held.set_permissions(fs::Permissions::from_mode(0o700))?;
            return Ok(held);
        }
    }
    Err(io::Error::other("it goes away again each time that it is made"))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits()).open(path)
}

/// Whether the folder that is held is the one at the path.
fn is_at(held: &File, path: &Path) -> bool {
    let same = |held: fs::Metadata, there: fs::Metadata| (held.dev(), held.ino()) == (there.dev(), there.ino());
    held.metadata().ok().zip(fs::symlink_metadata(path).ok()).is_some_and(|(held, there)| same(held, there))
}

/// A folder of ours that nobody else holds, held by us alone from now on.
fn claim(path: &Path) -> Option<File> {
    let held = open(path).ok()?;
    let ours = held.metadata().ok()?.uid() == nix::unistd::geteuid().as_raw();
    (ours && held.try_lock().is_ok() && is_at(&held, path)).then_some(held)
}

/// Takes a folder away that is held alone, with the sockets that nobody answers any more.
fn remove(path: &Path, held: &File) -> bool {
    if !is_at(held, path) || !is_deserted(path) {
        return false;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::debug!(%error, "a dead socket in `{}` could not be removed", path.display());
        }
    }
    fs::remove_dir(path).is_ok()
}

/// Whether nothing is in the folder but sockets that nobody answers.
fn is_deserted(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(path) else { return false };
    entries.into_iter().all(|entry| entry.is_ok_and(|entry| is_dead_socket(&entry)))
}

fn is_dead_socket(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_socket()) && answers(&entry.path()) == Ok(false)
}

/// Whether somebody listens: without waiting, since a guard may have been stopped.
fn answers(path: &Path) -> Result<bool, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(asking.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => Ok(false),
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::Builder::new().prefix("rt").tempdir().expect("a folder");
        let own = root.path().join("orch-0-00000000000a");
        (root, own)
    }

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).expect("readable").flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_user_takes_the_folder_away() {
        let (root, own) = place();
        let first = RuntimeDir::take(&own).expect("taken");
        assert_eq!(fs::metadata(&own).expect("made").permissions().mode() & 0o777, 0o700);
        let second = RuntimeDir::take(&own).expect("taken by two");
        drop(first);
        assert_eq!(names(root.path()), ["orch-0-00000000000a"], "somebody uses it");
        // A guard that was killed left its socket.
        drop(UnixListener::bind(own.join("a.sock")).expect("bound"));
        drop(second);
        assert_eq!(names(root.path()), Vec::<String>::new());
    }

    #[test]
    fn a_folder_with_a_living_guard_or_something_unknown_stays() {
        let (root, own) = place();
        let guard = UnixListener::bind({
            fs::create_dir(&own).expect("made");
            own.join("a.sock")
        });
        drop(RuntimeDir::take(&own).expect("taken"));
        assert!(own.join("a.sock").exists(), "its supervisor's successor needs it");
        drop(guard);
        fs::write(own.join("note"), "x").expect("written");
        drop(RuntimeDir::take(&own).expect("taken"));
        assert!(own.join("note").exists() && own.join("a.sock").exists());
        drop(root);
    }

    #[test]
    fn folders_of_dead_supervisors_are_found_and_go_and_no_others() {
        let (root, own) = place();
        let at = |name: &str| root.path().join(name);
        let used = RuntimeDir::take(&at("orch-0-00000000000b")).expect("taken");
        for name in ["orch-0-0000000000e1", "orch-0-0000000000e2", "orch-0-0000000000e3", "orch-0-00000000000d"] {
            fs::create_dir(at(name)).expect("made");
        }
        for name in ["orch-0-xx00000000e1", "orch-0-1", "orch-1-0000000000e1", "other"] {
            fs::create_dir(at(name)).expect("made");
        }
        drop(UnixListener::bind(at("orch-0-0000000000e2").join("a.sock")).expect("bound"));
        fs::write(at("orch-0-0000000000e3").join("note"), "x").expect("written");
        let guard = UnixListener::bind(at("orch-0-00000000000d").join("a.sock")).expect("bound");
        std::os::unix::fs::symlink(at("other"), at("orch-0-0000000000e4")).expect("linked");

        let own = RuntimeDir::take(&own).expect("taken");
        assert_eq!(own.stale(), [at("orch-0-0000000000e1"), at("orch-0-0000000000e2")]);
        let before = names(root.path());
        assert_eq!(own.clear_stale(), 2);
        let after = names(root.path());
        let gone: Vec<&String> = before.iter().filter(|name| !after.contains(name)).collect();
        assert_eq!(gone, ["orch-0-0000000000e1", "orch-0-0000000000e2"]);
        assert_eq!((own.stale(), own.clear_stale()), (Vec::new(), 0));
        drop((guard, used));
    }

    #[test]
    fn a_folder_that_was_tidied_away_is_made_again() {
        let (root, own) = place();
        let taken = RuntimeDir::take(&own).expect("taken");
        fs::remove_dir(&own).expect("removed");
        taken.ensure().expect("made again");
        assert_eq!(names(root.path()), ["orch-0-00000000000a"]);
        drop(taken);
        assert_eq!(names(root.path()), Vec::<String>::new());
    }
}
