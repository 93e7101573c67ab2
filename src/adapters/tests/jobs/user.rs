//! The same as an ordinary user: root's tests are run once more as one.

use std::os::unix::fs::chown;
use std::process::Command;

/// What is run again, and how many tests that are at least: a filter that meets nothing proves nothing.
const AGAIN: [&str; 5] = ["zoo::", "loss::", "confinement::", "ends::", "defence::"];
const AT_LEAST: usize = 25;
const NOBODY: u32 = 65_534;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    if !nix::unistd::geteuid().is_root() {
        // Then the tests beside this one have been run by an ordinary user.
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
        .arg(program)
        .args(AGAIN)
        .arg("--test-threads=2")
        .current_dir("/")
        .env("TMPDIR", home.path())
        .env("HOME", home.path())
        .env_remove("XDG_RUNTIME_DIR")
        .output()
        .expect("setpriv (util-linux) runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let passed = said.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(passed >= AT_LEAST, "{said}");
}
