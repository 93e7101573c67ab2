//! Reports: the one mechanism by which a gate's verdict is written, and read back by whoever decides.
//!
//! A report is YAML front matter (the verdict's single source of truth) and a body for people. [`write_report`] puts it
//! in place atomically and durably; [`read_report`] is strict: whatever is missing, broken, duplicated, oversized or
//! about another commit is an error, and callers treat every error as failed. [`junit`] sums test results, [`coverage`]
//! reads coverage reports.

pub mod coverage;
pub mod junit;
mod text;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use orch_domain::gate::{GateName, ReportHeader, Verdict};
use orch_domain::ids::{CommitSha, RunId};
use sha2::{Digest, Sha256};

pub use text::{HeaderError, MAX_HEADER, parse_report, render_report};

/// Most bytes of a whole report: what is longer was not written by us.
pub const MAX_REPORT: u64 = 8 << 20;

/// What a report must be about to count. `None`: that part is not known to the reader and not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Which check.
    pub gate: GateName,
    /// The judged commit.
    pub head: CommitSha,
    /// The commit that the rules came from; compared always: "no base" is an answer too.
    pub base: Option<CommitSha>,
    /// The run that asked.
    pub run: Option<RunId>,
    /// Hash of the whole file, as recorded when it was written.
    pub sha256: Option<String>,
}

/// A report that has been read back and is about what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadReport {
    /// Its front matter.
    pub header: ReportHeader,
    /// Its verdict; the same as in the header.
    pub verdict: Verdict,
    /// Hex SHA-256 over the whole file.
    pub sha256: String,
    /// The text below the front matter.
    pub body: String,
}

/// Why a report does not count. Whoever asked for a verdict takes every one of them as failed.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is none.
    #[error("the report {path} is missing")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("the report {path} cannot be {verb}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// `read` or `written`.
        verb: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Longer than any report of ours.
    #[error("the report {path} is longer than {max} bytes")]
    TooLong {
        /// Which.
        path: PathBuf,
        /// The limit.
        max: u64,
    },
    /// It does not say what a report must say.
    #[error("the report {path} is broken: {source}")]
    Broken {
        /// Which.
        path: PathBuf,
        /// Where, with the value.
        source: HeaderError,
    },
    /// It is about something else.
    #[error("the report {path} is about another {what}: it says `{found}`, expected `{expected}`")]
    Other {
        /// Which.
        path: PathBuf,
        /// `gate`, `head`, `base`, `run` or `content`.
        what: &'static str,
        /// What it says.
        found: String,
        /// What it must say.
        expected: String,
    },
}

/// Writes a report: temporary file, fsync, rename, fsync of the folder. Either the whole report is there afterwards or
/// what was there before. Blocks on the disk. Returns the file's hex SHA-256.
///
/// # Errors
/// [`ReportError::Broken`] when the header would not be read back (too long), [`ReportError::Io`].
pub fn write_report(path: &Path, header: &ReportHeader, body: &str) -> Result<String, ReportError> {
    let draft = Draft::new(path, header, body)?;
    draft.put()?;
    Ok(draft.sha256)
}

/// A report that is ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    path: PathBuf,
    text: String,
    sha256: String,
    expect: Expect,
}

impl Draft {
    /// Renders a report for its place.
    ///
    /// # Errors
    /// [`ReportError::Broken`] and [`ReportError::TooLong`]: it would not be read back.
    pub fn new(path: &Path, header: &ReportHeader, body: &str) -> Result<Self, ReportError> {
        let text =
            render_report(header, body).map_err(|source| ReportError::Broken { path: path.to_owned(), source })?;
        if text.len() as u64 > MAX_REPORT {
            return Err(ReportError::TooLong { path: path.to_owned(), max: MAX_REPORT });
        }
        let sha256 = hex::encode(Sha256::digest(text.as_bytes()));
        let expect = Expect {
            gate: header.gate,
            head: header.head.clone(),
            base: header.base.clone(),
            run: Some(header.run.clone()),
            sha256: Some(sha256.clone()),
        };
        Ok(Self { path: path.to_owned(), text, sha256, expect })
    }

    /// Hex SHA-256 over the whole file, as it will be.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    fn put(&self) -> Result<(), ReportError> {
        let failed = |source| ReportError::Io { path: self.path.clone(), verb: "written", source };
        put_file(&self.path, self.text.as_bytes()).map_err(failed)
    }

    /// Writes it as [`write_report`] does and reads it back with the function that decides: what is returned is what stands
    /// on the disk. Blocks on the disk.
    ///
    /// # Errors
    /// As [`write_report`] and [`read_report`].
    pub fn write_and_read_back(self) -> Result<ReadReport, ReportError> {
        self.put()?;
        read_report(&self.path, &self.expect)
    }
}

/// Puts a file of ours in place: temporary file, fsync, rename, fsync of the folder. Blocks on the disk.
///
/// # Errors
/// What the disk said; then what was there before is still there.
pub fn put_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_parts(path, std::iter::once(bytes))
}

/// The same for a file that is made part by part.
///
/// # Errors
/// As for [`put_file`].
pub fn put_parts(path: &Path, parts: impl Iterator<Item = impl AsRef<[u8]>>) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let (Some(folder), Some(leaf)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a report needs a folder and a name"));
    };
    fs::create_dir_all(folder)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let made = folder.join(format!(".{}.{}.{number}.new", leaf.to_string_lossy(), std::process::id()));
    let write = || {
        // A left-over of a crashed process with our id is replaced, a link is never followed.
        let _ = fs::remove_file(&made);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&made)?;
        let mut file = io::BufWriter::new(file);
        for part in parts {
            file.write_all(part.as_ref())?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&made, path)?;
        File::open(folder)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&made);
    }
    written
}

/// Reads a report back. Everything is compared: a verdict counts only for the commit, base and run it was asked for.
/// Blocks on the disk.
///
/// # Errors
/// Every variant of [`ReportError`]; all mean failed.
pub fn read_report(path: &Path, expect: &Expect) -> Result<ReadReport, ReportError> {
    let bytes = read_bytes(path)?;
    let broken = |source| ReportError::Broken { path: path.to_owned(), source };
    let (header, body) = parse_report(expect.gate, &bytes).map_err(broken)?;
    let sha256 = hex::encode(Sha256::digest(&bytes));
    let shown = |sha: &Option<CommitSha>| sha.as_ref().map_or("none", |sha| sha.as_str()).to_owned();
    let run = expect.run.as_ref().unwrap_or(&header.run);
    let content = expect.sha256.as_ref().unwrap_or(&sha256);
    let pairs = [
        ("head", header.head.to_string(), expect.head.to_string()),
        ("base", shown(&header.base), shown(&expect.base)),
        ("run", header.run.to_string(), run.to_string()),
        ("content", sha256.clone(), content.clone()),
    ];
    for (what, found, expected) in pairs {
        if found != expected {
            return Err(ReportError::Other { path: path.to_owned(), what, found, expected });
        }
    }
    Ok(ReadReport { verdict: header.verdict, header, sha256, body })
}

/// Writes a report and reads it back with the function that decides: what is returned is what stands on the disk.
///
/// # Errors
/// As [`write_report`] and [`read_report`].
pub fn write_and_read_back(path: &Path, header: &ReportHeader, body: &str) -> Result<ReadReport, ReportError> {
    Draft::new(path, header, body)?.write_and_read_back()
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, ReportError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ReportError::Missing { path: path.to_owned() },
        _ => ReportError::Io { path: path.to_owned(), verb: "read", source },
    };
    // No link is followed and no pipe is waited for: a report is a plain file of ours.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_REPORT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_REPORT {
        return Err(ReportError::TooLong { path: path.to_owned(), max: MAX_REPORT });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
