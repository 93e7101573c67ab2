//! The port to the disk's free space, the real one and a fake; and how much of it some folders take.
//!
//! Owns two questions: how many bytes may still be written where a folder is, and how many are allocated below one.
//! Refuses to judge whether that is enough, and to guess: when the system gives no answer, that is an error, not zero.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Says how much space there is.
pub trait FreeSpace: Send + Sync + 'static {
    /// Bytes that this process may still write on the disk that holds `folder`. May block for as long as the disk does.
    ///
    /// # Errors
    /// What the system said.
    fn free(&self, folder: &Path) -> io::Result<u64>;
}

/// Asks the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl FreeSpace for SystemDisk {
    fn free(&self, folder: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(folder).map_err(io::Error::from)?;
        // What the system keeps for its administrator is nobody's to fill.
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

/// A disk with as much free space as it is told to have.
#[derive(Debug)]
pub struct FakeDisk {
    free: AtomicU64,
}

/// Stands for "no answer" in [`FakeDisk`].
const SILENT: u64 = u64::MAX;

impl FakeDisk {
    /// With this many bytes free.
    #[must_use]
    pub fn with_free(bytes: u64) -> Self {
        Self { free: AtomicU64::new(bytes) }
    }

    /// From now on this many bytes are free.
    pub fn set_free(&self, bytes: u64) {
        self.free.store(bytes, Ordering::SeqCst);
    }

    /// From now on it gives no answer.
    pub fn fall_silent(&self) {
        self.free.store(SILENT, Ordering::SeqCst);
    }
}

impl FreeSpace for FakeDisk {
    fn free(&self, _folder: &Path) -> io::Result<u64> {
        match self.free.load(Ordering::SeqCst) {
            SILENT => Err(io::Error::other("the disk gives no answer")),
            free => Ok(free),
        }
    }
}

/// Bytes that are allocated below these folders, which comes free when they go. A file with several names counts by the
/// part of them; what lies behind links does not. Not exact where somebody works: what cannot be looked at counts as
/// nothing. Takes as long as the folders are large.
#[must_use]
pub fn allocated(folders: &[PathBuf]) -> u64 {
    let mut waiting = folders.to_vec();
    let mut bytes = 0;
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * 512 / if meta.is_dir() { 1 } else { meta.nlink().max(1) };
            if meta.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_disk_answers_for_a_folder_that_is_there() {
        let here = tempfile::tempdir().expect("a folder");
        let disks: [Box<dyn FreeSpace>; 2] = [Box::new(SystemDisk), Box::new(FakeDisk::with_free(7))];
        for disk in disks {
            assert!(disk.free(here.path()).expect("an answer") > 0);
        }
    }

    #[test]
    fn what_folders_take_is_counted_to_the_bottom_and_not_through_links() {
        let dir = tempfile::tempdir().expect("a folder");
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        fs::create_dir_all(inside.join("a/b")).expect("made");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("large"), vec![1_u8; 4 << 20]).expect("written");
        fs::write(inside.join("a/b/file"), vec![1_u8; 1 << 20]).expect("written");
        std::os::unix::fs::symlink(&outside, inside.join("way-out")).expect("linked");
        let bytes = allocated(&[inside.clone(), dir.path().join("nowhere")]);
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        assert!(allocated(&[inside, outside]) >= 5 << 20);
    }

    #[test]
    fn no_answer_is_an_error_and_not_an_empty_disk() {
        assert!(SystemDisk.free(Path::new("/nowhere/at/all")).is_err());
        let fake = FakeDisk::with_free(0);
        assert_eq!(fake.free(Path::new("/")).expect("an answer"), 0);
        fake.fall_silent();
        assert!(fake.free(Path::new("/")).is_err());
    }
}
