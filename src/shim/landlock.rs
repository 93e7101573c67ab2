//! What a confined job may touch in the file system, as landlock rules.
//!
//! Owns the list of system folders that every program needs, and how a closed folder is kept out of an opened parent.
//! Landlock can only open, never close, so a parent of a closed folder is opened entry by entry, without that folder;
//! what is created in such a parent later stays closed. The most specific wins: a workspace inside a closed data folder
//! is open. Rules are compiled before `fork`; the child only has to step under them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::spec::Confine;
use crate::sys;

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
const MAKE_BLOCK: u64 = 1 << 11;
const MAKE_SYM: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;

/// Rights that make sense on something that is not a folder.
const ON_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
const READ: u64 = EXECUTE | READ_FILE | READ_DIR;
const DEVICE: u64 = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV;
/// Device nodes are never made: a disk's node in a workspace would open the whole disk to a job of root.
const WRITE: u64 = READ
    | WRITE_FILE
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_DIR
    | MAKE_REG
    | MAKE_SOCK
    | MAKE_FIFO
    | MAKE_SYM
    | REFER
    | TRUNCATE
    | IOCTL_DEV;
const _: () = assert!(WRITE & (MAKE_CHAR | MAKE_BLOCK) == 0);

/// No signals and no abstract sockets to anybody outside the job: it cannot end its shim or the supervisor.
const SCOPE_ABSTRACT_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// Folders that programs need to run at all. `/dev` is not among them: it holds the disks.
const SYSTEM: &[&str] =
    &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/sys"];
const PROCESSES: &str = "/proc";
/// Open only where it is a folder of the job's own, seen there.
const TEMPORARY: &str = "/tmp";
/// Often a link to somewhere outside of `/etc`.
const RESOLVER: &str = "/etc/resolv.conf";
/// Shared memory is open because test suites fork workers that need semaphores.
const SHARED_MEMORY: &str = "/dev/shm";
/// The harmless devices.
const DEVICES: &[&str] =
    &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts"];

/// Compiled rules, ready to be stepped under.
pub(crate) struct Rules {
    ruleset: OwnedFd,
    abi: u32,
    closed: Vec<PathBuf>,
}

/// Rights that a landlock version knows.
const fn known(abi: u32) -> u64 {
    match abi {
        0 => 0,
        1 => REFER - 1,
        2 => TRUNCATE - 1,
        3 | 4 => IOCTL_DEV - 1,
        _ => (IOCTL_DEV << 1) - 1,
    }
}

impl Rules {
    /// Compiles the rules of a job; `None` when it is not to be confined or the kernel has no landlock.
    ///
    /// Fails when a folder to be written does not exist, or the kernel refuses.
    pub(crate) fn compile(confine: &Confine) -> io::Result<Option<Self>> {
        let abi = sys::landlock_abi();
        if !confine.enforced || abi == 0 {
            return Ok(None);
        }
        let scoped = if Self::is_scoped(abi) { SCOPE_ABSTRACT_SOCKET | SCOPE_SIGNAL } else { 0 };
        let ruleset = sys::landlock_ruleset(known(abi), scoped)?;
        for (path, access) in openings(confine)? {
            allow(&ruleset, &path, access & known(abi))?;
        }
        Ok(Some(Self { ruleset, abi, closed: closed(confine) }))
    }

    /// Opens what the job finds at these places: `/proc` and shared memory, which are mounts of its own where it has
    /// namespaces. Called there, after they are made; a rule holds for what a path led to when it was made.
    pub(crate) fn open_views(&self, own_tmp: bool) -> io::Result<()> {
        let tmp = own_tmp.then(|| (PathBuf::from(TEMPORARY), WRITE));
        for (path, access) in views(&self.closed).into_iter().chain(tmp) {
            allow(&self.ruleset, &path, access & known(self.abi))?;
        }
        Ok(())
    }

    /// Whether signals and abstract sockets to the outside are closed, too.
    pub(crate) const fn is_scoped(abi: u32) -> bool {
        abi >= 6
    }

    /// The landlock version in force.
    pub(crate) const fn abi(&self) -> u32 {
        self.abi
    }

    /// Puts the calling process under the rules, for good.
    pub(crate) fn enter(&self) -> io::Result<()> {
        sys::landlock_restrict_self(self.ruleset.as_fd())
    }
}

fn allow(ruleset: &OwnedFd, path: &Path, access: u64) -> io::Result<()> {
    let opened: io::Result<File> =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path);
    let beneath = match opened {
        Ok(beneath) => beneath,
        // Entries of /proc and temporary files come and go between the look and the opening.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(named(path, &error)),
    };
    let access = if beneath.metadata()?.is_dir() { access } else { access & ON_FILES };
    sys::landlock_allow(ruleset.as_fd(), beneath.as_fd(), access).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("confinement of `{}`: {error}", path.display()))
}

fn closed(confine: &Confine) -> Vec<PathBuf> {
    confine.deny.iter().filter_map(|path| fs::canonicalize(path).ok()).collect()
}

/// What is opened, with which rights, in canonical paths.
fn openings(confine: &Confine) -> io::Result<Vec<(PathBuf, u64)>> {
    let closed = closed(confine);
    let mut found = Vec::new();
    for path in SYSTEM.iter().chain([&RESOLVER]) {
        if let Ok(path) = fs::canonicalize(path) {
            open_around(&path, READ, &closed, &mut found);
        }
    }
    for path in DEVICES {
        if let Ok(path) = fs::canonicalize(path) {
            open_around(&path, DEVICE | if path.is_dir() { WRITE } else { 0 }, &closed, &mut found);
        }
    }
    for path in &confine.read {
        // A tool's folder that this host does not have is nothing to fail for.
        if let Ok(path) = fs::canonicalize(path) {
            open_around(&path, READ, &closed, &mut found);
        }
    }
    for path in &confine.write {
        let path = fs::canonicalize(path).map_err(|error| named(path, &error))?;
        open_around(&path, WRITE, &closed, &mut found);
    }
    Ok(found)
}

/// `/proc` and shared memory, around what is closed.
fn views(closed: &[PathBuf]) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for (path, access) in [(PROCESSES, READ), (SHARED_MEMORY, DEVICE | WRITE)] {
        if let Ok(path) = fs::canonicalize(path) {
            open_around(&path, access, closed, &mut found);
        }
    }
    found
}

/// Opens a folder, or all of it but the closed folders inside.
fn open_around(path: &Path, access: u64, closed: &[PathBuf], found: &mut Vec<(PathBuf, u64)>) {
    if closed.iter().any(|closed| closed == path) {
        return;
    }
    if !closed.iter().any(|closed| closed.starts_with(path)) {
        found.push((path.to_owned(), access));
        return;
    }
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        // A link gives no way that its target has not got by itself.
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            open_around(&entry.path(), access, closed, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(confine: &Confine, path: &Path) -> Option<u64> {
        let path = fs::canonicalize(path).expect("exists");
        openings(confine).expect("compiles").into_iter().rev().find(|(open, _)| *open == path).map(|(_, access)| access)
    }

    #[test]
    fn a_closed_folder_is_left_out_of_an_open_parent_and_a_workspace_in_it_is_open() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        for name in ["work", "data/secret", "data/spaces/one", "link-target"] {
            fs::create_dir_all(at(name)).expect("made");
        }
        std::os::unix::fs::symlink(at("data"), at("way-in")).expect("linked");
        let confine = Confine {
            enforced: true,
            read: vec![root.path().to_owned()],
            write: vec![at("data/spaces/one")],
            deny: vec![at("data")],
            uid: None,
        };
        assert_eq!(rights(&confine, root.path()), None, "the parent itself is not opened");
        assert_eq!(rights(&confine, &at("work")), Some(READ));
        assert_eq!(rights(&confine, &at("data")), None);
        assert_eq!(rights(&confine, &at("data/secret")), None);
        assert_eq!(rights(&confine, &at("data/spaces/one")), Some(WRITE));
    }

    #[test]
    fn a_folder_to_write_must_exist_and_is_named() {
        let confine = Confine { enforced: true, write: vec!["/no/such/place".into()], ..Confine::default() };
        let error = openings(&confine).expect_err("missing");
        assert!(error.to_string().contains("/no/such/place"), "{error}");
    }

    #[test]
    fn every_right_is_known_to_the_newest_version() {
        assert_eq!((WRITE | MAKE_BLOCK | MAKE_CHAR) & !known(7), 0);
        assert_eq!(known(1), 0x1fff);
        assert_eq!(known(0), 0);
    }

    #[test]
    fn disks_are_never_opened() {
        let confine = Confine { enforced: true, ..Confine::default() };
        assert!(openings(&confine).expect("compiles").iter().all(|(path, _)| path != Path::new("/dev")));
    }
}
