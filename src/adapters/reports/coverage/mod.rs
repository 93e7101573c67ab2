//! Coverage reports: found, proven fresh and of this commit, and read into one model.
//!
//! Owns the places where a report may lie, its removal before the run, and three formats: coverage.py's JSON, LCOV,
//! Cobertura. The report is made by the branch's own code: no link is followed on the way to it, nothing is opened but the
//! report, what is kept of it is bounded by the commit that it is about, and nothing in it can make this program panic.
//! Invariants: what is read was written after [`Places::clear`]; every file in the model is a plain file of the commit;
//! what the commit itself has at one of the places is never removed. Refuses to judge.

mod cobertura;
mod coverage_py;
mod gather;
mod lcov;
mod owned;

use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use orch_domain::coverage::rules::PLACES;
use orch_domain::coverage::{Coverage, Format};
use orch_domain::names::RepoPath;

pub use owned::CommitFiles;

/// Most bytes of a report.
pub const MAX_COVERAGE_REPORT: u64 = 256 << 20;
/// The file in the fresh folder that a command is asked to write.
pub const ASKED_FOR: &str = "report";
/// Other names in the fresh folder, for tools that are given a folder.
const IN_FOLDER: [&str; 5] = ["lcov.info", "coverage.json", "coverage.xml", "cobertura-coverage.xml", "cobertura.xml"];

/// What a report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoverageReport {
    /// Per file of the commit.
    pub coverage: Coverage,
    /// Its format.
    pub format: Format,
    /// The tool, as far as it says.
    pub tool: Option<String>,
    /// Where it lay, for people.
    pub place: String,
    /// Remarks of one line each.
    pub notes: Vec<String>,
}

/// Why there is no report that counts.
#[derive(Debug, thiserror::Error)]
pub enum CoverageError {
    /// The command wrote none.
    #[error("there is no coverage report; looked for {looked_for}")]
    Missing {
        /// The places.
        looked_for: String,
    },
    /// It was not written by this run.
    #[error("the coverage report {place} is older than this run: it was put there, not written")]
    Stale {
        /// Which.
        place: String,
    },
    /// It cannot be read.
    #[error("the coverage report {place} cannot be read: {why}")]
    Unreadable {
        /// Which.
        place: String,
        /// Why.
        why: String,
    },
    /// It is no report of a format that we know, or damaged.
    #[error("the coverage report {place} is broken: {why}")]
    Broken {
        /// Which.
        place: String,
        /// Where, with the value.
        why: String,
    },
    /// It is about files elsewhere.
    #[error("the coverage report {place} does not belong to this checkout: {why}")]
    Foreign {
        /// Which.
        place: String,
        /// Why.
        why: String,
    },
}

/// Where a command leaves its report.
#[derive(Clone, Debug)]
pub struct Places {
    /// The checkout.
    pub checkout: PathBuf,
    /// A folder of this run alone; the command is told of it.
    pub folder: PathBuf,
    /// The one place in the checkout, when it is configured; else the known ones are looked through.
    pub configured: Option<RepoPath>,
    /// What the commit holds: what reports can be about, and what is not removed.
    pub files: CommitFiles,
}

/// What was there before the run.
#[derive(Clone, Debug)]
pub struct Since {
    /// The moment after which a report is fresh, by the clock of the file system that it will lie in.
    at: SystemTime,
    /// Files of the commit at places of reports, as they were.
    committed: Vec<(PathBuf, Print)>,
}

/// By what a file is known to be the same as before: device, inode, bytes, time of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print(u64, u64, u64, i64, i64);

impl Print {
    fn of(meta: &Metadata) -> Self {
        Self(meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
    }
}

impl Places {
    /// The file that the command is asked to write.
    #[must_use]
    pub fn asked_for(&self) -> PathBuf {
        self.folder.join(ASKED_FOR)
    }

    /// Removes what lies at any of the places and is not the commit's own, and makes the folder. Blocks on the disk.
    ///
    /// # Errors
    /// When something is there and cannot be removed.
    pub fn clear(&self) -> io::Result<Since> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&self.folder)?;
        let mut committed = Vec::new();
        for (path, _) in self.in_checkout() {
            if path.to_str().is_some_and(|path| self.files.holds(path)) {
                // The tests may read it, and it is part of what lands.
                if let Ok(meta) = fs::symlink_metadata(self.checkout.join(&path)) {
                    committed.push((path, Print::of(&meta)));
                }
                continue;
            }
            // Behind a link nothing is removed, and nothing will be read.
            let Ok(path) = without_links(&self.checkout, &path) else { continue };
            match fs::symlink_metadata(&path) {
                Ok(meta) if !meta.is_dir() => fs::remove_file(&path)?,
                Ok(_) | Err(_) => {}
            }
        }
        let marker = self.folder.join("since");
        File::create(&marker)?.sync_all()?;
        let at = fs::metadata(&marker)?.modified()?;
        fs::remove_file(&marker)?;
        Ok(Since { at, committed })
    }

    /// Finds the report and reads it. Blocks on the disk.
    ///
    /// # Errors
    /// Every variant of [`CoverageError`].
    pub fn read(&self, since: &Since) -> Result<CoverageReport, CoverageError> {
        let (above, name) = (self.folder.parent(), self.folder.file_name());
        let in_folder = above.zip(name).into_iter().flat_map(|(above, name)| {
            let asked = [ASKED_FOR].into_iter().chain(IN_FOLDER);
            asked.map(move |file| (above, Path::new(name).join(file), format!("`{file}` in the folder of this run")))
        });
        let in_checkout = self.in_checkout().into_iter().map(|(path, shown)| (self.checkout.as_path(), path, shown));
        for (root, path, place) in in_folder.chain(in_checkout) {
            let unreadable = |why: String| CoverageError::Unreadable { place: place.clone(), why };
            let Some(file) = open_below(root, &path).map_err(|error| unreadable(error.to_string()))? else { continue };
            let meta = file.metadata().map_err(|error| unreadable(error.to_string()))?;
            if meta.is_dir() && self.configured.is_none() {
                continue;
            }
            // The commit's own, not written by this run.
            if since.committed.iter().any(|(at, print)| *at == path && *print == Print::of(&meta)) {
                continue;
            }
            return self.read_from(file, &meta, place, since);
        }
        let looked_for = match &self.configured {
            Some(path) => format!("`{path}`, and $ORCH_COVERAGE_REPORT"),
            None => format!("$ORCH_COVERAGE_REPORT, {}", PLACES.join(", ")),
        };
        Err(CoverageError::Missing { looked_for })
    }

    fn in_checkout(&self) -> Vec<(PathBuf, String)> {
        match &self.configured {
            Some(path) => vec![(PathBuf::from(path.as_str()), format!("`{path}`"))],
            None => PLACES.iter().map(|place| (PathBuf::from(place), format!("`{place}`"))).collect(),
        }
    }

    fn read_from(
        &self,
        file: File,
        meta: &Metadata,
        place: String,
        since: &Since,
    ) -> Result<CoverageReport, CoverageError> {
        let unreadable = |why: String| CoverageError::Unreadable { place: place.clone(), why };
        if !meta.is_file() {
            return Err(unreadable("it is no plain file".to_owned()));
        }
        if meta.len() > MAX_COVERAGE_REPORT {
            return Err(unreadable(format!("it has {} bytes; at most {MAX_COVERAGE_REPORT} are read", meta.len())));
        }
        if meta.modified().map_err(|error| unreadable(error.to_string()))? < since.at {
            return Err(CoverageError::Stale { place });
        }
        let look = owned::Look::new(&self.checkout, &self.files);
        let (format, gathered) = parse(file, look).map_err(|why| match why {
            Parse::Io(error) => unreadable(error.to_string()),
            Parse::Broken(why) => CoverageError::Broken { place: place.clone(), why: printable(&why) },
        })?;
        let tool = gathered.tool.clone().map(|tool| printable(&tool));
        let (coverage, notes) =
            gathered.take().map_err(|why| CoverageError::Foreign { place: place.clone(), why: printable(&why) })?;
        Ok(CoverageReport { coverage, format, tool, place, notes: notes.iter().map(|note| printable(note)).collect() })
    }
}

/// A path below `root` of which no part is a link.
fn without_links(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut at = root.to_owned();
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        let last = parts.peek().is_none();
        if !last && fs::symlink_metadata(&at)?.is_symlink() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a part of the way is a link"));
        }
    }
    Ok(at)
}

enum Parse {
    Io(io::Error),
    Broken(String),
}

/// Opens what lies below a folder of ours, through no link and without waiting for a pipe. `None`: nothing is there, or it
/// lies behind a link, which is elsewhere.
fn open_below(root: &Path, path: &Path) -> io::Result<Option<File>> {
    let folder = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let Ok(mut at) = open(root, folder, Mode::empty()) else { return Ok(None) };
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(part) = part else { return Ok(None) };
        if parts.peek().is_some() {
            let Ok(next) = openat(&at, part, folder | OFlag::O_NOFOLLOW, Mode::empty()) else { return Ok(None) };
            at = next;
            continue;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        return match openat(&at, part, flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
    Ok(None)
}

fn parse(mut file: File, look: owned::Look) -> Result<(Format, gather::Gathered), Parse> {
    let (format, skipped) = {
        let mut head = BufReader::with_capacity(4_096, &mut file);
        let bytes = head.fill_buf().map_err(Parse::Io)?;
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let format = format_of(text);
        (
            format.ok_or_else(|| Parse::Broken(format!("it is in no format that we know ({KNOWN})")))?,
            bytes.len() - text.len(),
        )
    };
    file.seek(io::SeekFrom::Start(skipped as u64)).map_err(Parse::Io)?;
    // It may grow while it is read; what is over the limit is cut off, and a cut-off report is broken.
    let from = BufReader::with_capacity(1 << 16, io::Read::take(file, MAX_COVERAGE_REPORT));
    let gathered = match format {
        Format::CoveragePy => coverage_py::read(from, look),
        Format::Lcov => lcov::read(from, look),
        Format::Cobertura => cobertura::read(from, look),
    };
    Ok((format, gathered.map_err(Parse::Broken)?))
}

const KNOWN: &str = "coverage.py's JSON, LCOV, Cobertura's XML";

/// Told by the first byte that says something.
fn format_of(head: &[u8]) -> Option<Format> {
    match head.trim_ascii_start().first()? {
        b'{' => Some(Format::CoveragePy),
        b'<' => Some(Format::Cobertura),
        b'T' | b'S' | b'#' => Some(Format::Lcov),
        _ => None,
    }
}

/// Text from a report as one clean, bounded line.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests;
