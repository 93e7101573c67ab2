//! Which binary is run: found by name or path, told by its checksum.
//!
//! Owns the search along a path and the checksum, which is remembered while the file stays as it is. Refuses a file whose
//! checksum is not the one that the operator has pinned. The binaries that the image ships are known by their checksums.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::super::ScanError;
use super::{NAME, tool};

/// Checksums of what the image ships, with its version.
const SHIPPED: &str = include_str!("../../../../docs/deploy/tools/gitleaks.sha256");
const SHIPPED_VERSION: &str = "8.30.1";

/// A binary that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitleaksProgram {
    /// Where it is.
    pub path: PathBuf,
    /// Hex SHA-256 over it.
    pub sha256: String,
}

impl GitleaksProgram {
    /// The version, without asking it, when it is one that we ship.
    pub(super) fn known_version(&self) -> Option<&'static str> {
        let mut known =
            SHIPPED.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_whitespace().next());
        known.any(|sha256| sha256 == self.sha256).then_some(SHIPPED_VERSION)
    }
}

/// Where the binary is: an absolute path as it is, a name along `path`.
pub(crate) fn locate(program: &str, path: &str) -> Option<PathBuf> {
    let candidates: Vec<PathBuf> = match program.contains('/') {
        true => vec![PathBuf::from(program)],
        false => std::env::split_paths(path).filter(|folder| folder.is_absolute()).map(|f| f.join(program)).collect(),
    };
    let is_program = |meta: &Metadata| meta.is_file() && meta.permissions().mode() & 0o111 != 0;
    candidates.into_iter().find(|at| std::fs::metadata(at).is_ok_and(|meta| is_program(&meta)))
}

/// Looks for the binary and its checksum. `None`: there is none.
///
/// # Errors
/// When there is one that must not or cannot be used: that is never the same as none.
pub fn find_gitleaks(program: &str, path: &str, pinned: Option<&str>) -> Result<Option<GitleaksProgram>, ScanError> {
    let Some(at) = locate(program, path) else { return Ok(None) };
    let sha256 = checksum(&at)?;
    match pinned {
        Some(pinned) if !pinned.eq_ignore_ascii_case(&sha256) => {
            let at = at.display();
            Err(tool(format!("{at} has the checksum {sha256}, but `gates.security.gitleaks_sha256` pins {pinned}")))
        }
        _ => Ok(Some(GitleaksProgram { path: at, sha256 })),
    }
}

/// What tells that a file is still the same: device, inode, length, times of change.
type Mark = (u64, u64, u64, i64, i64, i64);

fn checksum(path: &Path) -> Result<String, ScanError> {
    let unread = |error: std::io::Error| ScanError::Read {
        what: format!("{NAME} at {}", path.display()),
        why: error.to_string(),
    };
    let meta = std::fs::metadata(path).map_err(unread)?;
    static KNOWN: Mutex<BTreeMap<PathBuf, (Mark, String)>> = Mutex::new(BTreeMap::new());
    let mark = (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, sha256)) = known().get(path).filter(|(same, _)| *same == mark) {
        return Ok(sha256.clone());
    }
    let bytes = std::fs::read(path).map_err(unread)?;
    let sha256 = hex::encode(Sha256::digest(bytes));
    known().insert(path.to_owned(), (mark, sha256.clone()));
    Ok(sha256)
}
