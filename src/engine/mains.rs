//! What is kept of a repository from when it was first seen: the branch that its tasks land on, and where it is.
//!
//! Owns the files `main` and `place` beside our own repositories. A clone with files names by its `HEAD` what somebody works
//! on just now: asked anew at each start it would be another branch after each checkout. Settings win over what is kept.
//! The place is for whoever looks at the folder later, without the settings.

use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use orch_domain::names::{BranchName, RepoName};

fn folder(data_dir: &Path, name: &RepoName) -> PathBuf {
    data_dir.join("repos").join(name.as_str())
}

/// What was seen first; `None`: nothing was seen yet.
pub(super) fn kept(data_dir: &Path, name: &RepoName) -> Option<BranchName> {
    std::fs::read_to_string(folder(data_dir, name).join("main")).ok()?.trim().parse().ok()
}

/// Where the repository is on this machine; `None`: it is elsewhere, or was never seen.
pub(super) fn place(data_dir: &Path, name: &RepoName) -> Option<PathBuf> {
    let mut bytes = std::fs::read(folder(data_dir, name).join("place")).ok()?;
    bytes.pop().filter(|end| *end == b'\n')?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// The repositories that a data folder has something of.
pub(super) fn known(data_dir: &Path) -> Vec<RepoName> {
    let entries = std::fs::read_dir(data_dir.join("repos")).into_iter().flatten().flatten();
    let mut names: Vec<RepoName> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    names.sort();
    names
}

/// Keeps branch and place, each complete or not at all.
///
/// # Errors
/// When the folder cannot be written.
pub(super) fn keep(data_dir: &Path, name: &RepoName, main: &BranchName, place: &Path) -> std::io::Result<()> {
    let folder = folder(data_dir, name);
    keep_file(&folder, "main", main.as_str().as_bytes())?;
    keep_file(&folder, "place", place.as_os_str().as_bytes())
}

fn keep_file(folder: &Path, name: &str, line: &[u8]) -> std::io::Result<()> {
    let file = folder.join(name);
    let line = [line, b"\n"].concat();
    if std::fs::read(&file).is_ok_and(|kept| kept == line) {
        return Ok(());
    }
    let making = folder.join(format!(".{name}.making"));
    let mut out = std::fs::File::create(&making)?;
    out.write_all(&line)?;
    out.sync_all()?;
    std::fs::rename(&making, &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_whatever_the_place_is_called() {
        let dir = tempfile::tempdir().expect("a folder");
        let (name, main): (RepoName, BranchName) = ("shop".parse().expect("a name"), "trunk".parse().expect("a name"));
        assert_eq!((place(dir.path(), &name), known(dir.path())), (None, Vec::new()));
        std::fs::create_dir_all(dir.path().join("repos/shop")).expect("made");
        for odd in ["/a b/\u{e4}", "/line\nend\n"] {
            keep(dir.path(), &name, &main, Path::new(odd)).expect("kept");
            assert_eq!(place(dir.path(), &name), Some(PathBuf::from(odd)));
        }
        assert_eq!((kept(dir.path(), &name), known(dir.path())), (Some(main), vec![name]));
    }
}
