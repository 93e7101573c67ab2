//! Root's tests once more as an ordinary user: what is refused, and what holds a process, must not hang on who asks.
//!
//! Owns how a program of tests is started as a user who has nothing but a home folder. Refuses a run that proves nothing:
//! filters that meet fewer tests than the caller names fail.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::process::Command;

/// The user that owns nothing.
pub const NOBODY: u32 = 65_534;

/// Whether this process is root's.
///
/// # Panics
/// Where there is no `/proc`.
#[must_use]
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("/proc is there").uid() == 0
}

/// A command that runs a program as [`NOBODY`], without a capability and from `/`, in a home folder that is given to it.
///
/// # Panics
/// Where the folder cannot be given away: only root may.
#[must_use]
pub fn as_nobody(program: impl AsRef<OsStr>, home: &Path) -> Command {
    chown(home, Some(NOBODY), Some(NOBODY)).expect("root gives a folder away");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
        .arg(program)
        .current_dir("/")
        .env("TMPDIR", home)
        .env("HOME", home)
        .env_remove("XDG_RUNTIME_DIR");
    command
}

/// Runs tests of this very program once more as [`NOBODY`], so many at a time; at least `at_least` of them must pass, and
/// none may fail. Run by an ordinary user it does nothing: then the tests themselves have been run by one.
///
/// # Panics
/// When that is not so; the text has what the tests said.
pub fn pass_as_nobody(filters: &[&str], threads: u32, at_least: usize) {
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let program = std::env::current_exe().expect("this program");
    let output = as_nobody(program, home.path())
        .args(filters)
        .arg(format!("--test-threads={threads}"))
        .output()
        .expect("setpriv (util-linux) runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let passed = said.lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
    assert!(passed >= at_least, "{passed} of {at_least} tests were run: {said}");
}
