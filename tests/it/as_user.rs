//! Bad input as an ordinary user: root's tests are run once more as one.
//!
//! What is refused must not hang on who asks: root may write where a user may not, so one of the two alone proves half.

use std::os::unix::fs::chown;
use std::process::Command;

/// What is run again: the names of tests, and how many those are at least. A filter that meets nothing proves nothing.
const AGAIN: [&str; 8] = [
    "verbs::what_cannot_run",
    "verbs::settings_that_cannot_be_used",
    "verbs::serve_refuses",
    "verbs::inside_a_job",
    "verbs::run_ends_with",
    "input::what_is_no_usable_repository",
    "input::names_from_outside",
    "interrupted::what_an_interrupted_run_left",
];
const AT_LEAST: usize = 9;
const NOBODY: u32 = 65_534;

#[test]
fn bad_input_is_refused_for_an_ordinary_user_as_it_is_for_root() {
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
    let passed = said.lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
    assert!(passed >= AT_LEAST, "{said}");
}
