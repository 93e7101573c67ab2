//! The branch that a repository's tasks land on, kept from when it was first seen.
//!
//! Owns the file `main` beside our own repositories. A clone with files names by its `HEAD` what somebody works on just
//! now: asked anew at each start it would be another branch after each checkout. Settings win over what is kept.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use orch_domain::names::{BranchName, RepoName};

fn file(data_dir: &Path, name: &RepoName) -> PathBuf {
    data_dir.join("repos").join(name.as_str()).join("main")
}

/// What was seen first; `None`: nothing was seen yet.
pub(super) fn kept(data_dir: &Path, name: &RepoName) -> Option<BranchName> {
    std::fs::read_to_string(file(data_dir, name)).ok()?.trim().parse().ok()
}

/// Keeps it, complete or not at all.
///
/// # Errors
/// When the folder cannot be written.
pub(super) fn keep(data_dir: &Path, name: &RepoName, main: &BranchName) -> std::io::Result<()> {
    if kept(data_dir, name).as_ref() == Some(main) {
        return Ok(());
    }
    let file = file(data_dir, name);
    let making = file.with_file_name(".main.making");
    let mut out = std::fs::File::create(&making)?;
    writeln!(out, "{main}")?;
    out.sync_all()?;
    std::fs::rename(&making, &file)
}
