//! The house rules that no compiler keeps: walls between rooms, shape of files, what documents promise about themselves.
//!
//! Each rule is a pure function over text with a test of its own that shows it bad input; the tests below hold the whole
//! repository to it. A finding names the place, the rule and the way out, all findings at once.

#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

mod packages;
mod papers;
mod secrets;
mod text;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use orch_test_support::install::workspace_root;

/// A tracked file that is text.
pub(crate) struct Page {
    /// Path from the workspace root, with forward slashes.
    pub(crate) path: String,
    /// Its content in the working tree.
    pub(crate) text: String,
}

/// All tracked text files, as they stand in the working tree. Files that are not tracked yet are nobody's promise.
pub(crate) fn tracked() -> Vec<Page> {
    let root = workspace_root();
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(&root).output().unwrap();
    assert!(output.status.success(), "the house rules are kept in a git checkout: {output:?}");
    let names = String::from_utf8(output.stdout).unwrap();
    let pages = names.split_terminator('\0').filter_map(|path| {
        let text = fs::read_to_string(root.join(path)).ok()?;
        Some(Page { path: path.to_owned(), text })
    });
    pages.collect()
}

/// Fails with every finding on its own line.
pub(crate) fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "{} place(s) against the house rules:\n  {}", findings.len(), findings.join("\n  "));
}

/// A path below the workspace root.
pub(crate) fn at(path: &str) -> PathBuf {
    workspace_root().join(path)
}
