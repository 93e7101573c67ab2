//! Which branch of a repository is meant where nobody names one, and of what it is a clone, by a look at its files.
//!
//! Owns the look at `HEAD`, at the remote's, and at the remote's address. Refuses to judge: what cannot be told by a look is left to git, which says
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
    branch_in(&shared_dir(root)?.join("refs/remotes/origin/HEAD"), "refs/remotes/origin/")
}

/// The address of a clone's origin, as it stands in the clone's own settings.
pub(super) fn origin_address(root: &Path) -> Option<String> {
    let text = read(&shared_dir(root)?.join("config"))?;
    let mut in_origin = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_origin = line.eq_ignore_ascii_case("[remote \"origin\"]");
        } else if let Some((key, value)) = line.split_once('=').filter(|_| in_origin)
            && key.trim().eq_ignore_ascii_case("url")
        {
            return Some(value.trim().trim_matches('"').to_owned()).filter(|address| !address.is_empty());
        }
    }
    None
}

/// The folder of what all working trees of a repository share.
fn shared_dir(root: &Path) -> Option<PathBuf> {
    let own = git_dir(root)?;
    Some(read(&own.join("commondir")).map_or_else(|| own.clone(), |path| own.join(path.trim())))
}

/// Whether a repository has a branch; `None`: not to be told by a look.
pub(super) fn has_branch(root: &Path, branch: &BranchName) -> Option<bool> {
    let own = git_dir(root)?;
    let shared = read(&own.join("commondir")).map_or_else(|| own.clone(), |path| own.join(path.trim()));
    if shared.join("reftable").exists() {
        return None;
    }
    let name = branch.as_ref_name();
    if shared.join(&name).is_file() {
        return Some(true);
    }
    let packed = shared.join("packed-refs");
    let listed = if packed.exists() { read(&packed)? } else { String::new() };
    Some(listed.lines().any(|line| line.split_once(' ').is_some_and(|(_, listed)| listed == name)))
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
