//! `exit.json`: the record of an ended job.
//!
//! Owns its place and the way it is written: room for it is reserved while the job is still idle (so a full disk cannot
//! take it away), then temporary file, fsync, rename, fsync of the folder. Readers see all of it or nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use orch_domain::job::JobExit;
use serde::{Deserialize, Serialize};

/// Name of the record in the job's folder.
pub const EXIT_FILE: &str = "exit.json";
/// Standard output of the job, in its folder.
pub const STDOUT_FILE: &str = "stdout.log";
/// Standard error of the job, in its folder.
pub const STDERR_FILE: &str = "stderr.log";
/// What the shim itself has to complain about, in the job's folder.
pub const SHIM_FILE: &str = "shim.log";

/// The first process of the job's namespaces, in the job's folder.
const FIRST_FILE: &str = "first.json";

const TEMPORARY: &str = "exit.json.tmp";
/// Disk space taken in advance, in bytes: a record with the longest reason fits.
const SPACE: i64 = 16 * 1024;
/// Far more than a record needs; also the most that is read back.
const RESERVED: usize = 64 * 1024;

/// The first process of a job's namespaces. While it lives the job may live; once it is gone, so is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstProcess {
    /// Its process id.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
}

impl FirstProcess {
    /// Leaves it for whoever comes when the shim is gone. Not flushed: another boot has none of these processes.
    pub(crate) fn write(self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join("first.json.tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(&self)?)?;
        fs::rename(temporary, dir.join(FIRST_FILE))
    }

    /// Reads it; `None` when the job never had one.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(FIRST_FILE)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A reserved place for one exit record.
pub(crate) struct Record {
    file: File,
}

impl Record {
    /// Takes the disk space that the record will need.
    pub(crate) fn reserve(dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(TEMPORARY))?;
        // Blocks are taken now, without waiting for the disk as a sync would.
        nix::fcntl::posix_fallocate(&file, 0, SPACE)?;
        Ok(Self { file })
    }

    /// Writes the record and makes it visible.
    pub(crate) fn write(&mut self, dir: &Path, exit: &JobExit) -> io::Result<()> {
        let mut text = serde_json::to_vec(exit)?;
        text.push(b'\n');
        self.file.rewind()?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_all()?;
        fs::rename(dir.join(TEMPORARY), dir.join(EXIT_FILE))?;
        File::open(dir)?.sync_all()
    }
}

/// Reads the record of a job's folder; `None` when it has none (yet).
///
/// # Errors
/// When it cannot be read or is not a record: `InvalidData`.
pub fn read_exit(dir: &Path) -> io::Result<Option<JobExit>> {
    let file = match File::open(dir.join(EXIT_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(RESERVED as u64).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use orch_domain::job::JobEnd;
    use orch_domain::time::Timestamp;

    use super::*;

    #[test]
    fn appears_only_when_complete_and_reads_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut record = Record::reserve(dir.path()).expect("room");
        assert_eq!(read_exit(dir.path()).expect("readable"), None);
        let exit = JobExit {
            end: JobEnd::CouldNotStart { why: "x".repeat(5000) },
            started: None,
            ended: Timestamp(7),
            proven_gone: true,
            swept: 3,
            log_cut: false,
        };
        record.write(dir.path(), &exit).expect("written");
        assert_eq!(read_exit(dir.path()).expect("readable"), Some(exit));
        assert!(!dir.path().join(TEMPORARY).exists());
    }

    #[test]
    fn the_first_process_is_found_again() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(FirstProcess::read(dir.path()).expect("readable"), None);
        let first = FirstProcess { pid: 7, start_ticks: 8 };
        first.write(dir.path()).expect("written");
        assert_eq!(FirstProcess::read(dir.path()).expect("readable"), Some(first));
    }

    #[test]
    fn refuses_a_record_that_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(EXIT_FILE), "{\"end\":").expect("written");
        assert_eq!(read_exit(dir.path()).expect_err("broken").kind(), io::ErrorKind::InvalidData);
    }
}
