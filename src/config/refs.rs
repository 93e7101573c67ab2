//! Which branch of a repository is meant where nobody names one, by a look at its files.
//!
//! Owns the look at `HEAD` and at the remote's. Refuses to judge: what cannot be told by a look is left to git, which says
//! what is wrong with it.

use std::path::{Path, PathBuf};

use orch_domain::names::BranchName;

/// Largest file that is looked into.
const MOST_BYTES: u64 = 64 << 10;

/// The branch that is checked out there, or that a bare repository names as its own. `None`: detached, or not to be told.
pub(super) fn checked_out(root: &Path) -> Option<BranchName> {
    branch_in(&git_dir(root)?.join("HEAD"), "refs/heads/")
}

/// The branch that a clone's origin names as its own, as it was when it was cloned.
pub(super) fn of_origin(root: &Path) -> Option<BranchName> {
    let own = git_dir(root)?;
    // A working tree beside the first one has its refs there.
    let shared = read(&own.join("commondir")).map_or_else(|| own.clone(), |path| own.join(path.trim()));
    branch_in(&shared.join("refs/remotes/origin/HEAD"), "refs/remotes/origin/")
}

fn git_dir(root: &Path) -> Option<PathBuf> {
    let git = root.join(".git");
    if git.is_file() {
        let text = read(&git)?;
        return Some(root.join(text.strip_prefix("gitdir:")?.trim()));
    }
    Some(if git.is_dir() { git } else { root.to_owned() })
}

fn branch_in(file: &Path, prefix: &str) -> Option<BranchName> {
    read(file)?.strip_prefix("ref:")?.trim().strip_prefix(prefix)?.parse().ok()
}

fn read(file: &Path) -> Option<String> {
    let size = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
    (size <= MOST_BYTES).then(|| std::fs::read_to_string(file).ok())?
}
