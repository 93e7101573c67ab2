//! Coverage reports: found, proven fresh and of this checkout, and read into one model.
//!
//! Owns the places where a report may lie, its removal before the run, and three formats: coverage.py's JSON, LCOV,
//! Cobertura. The report is made by the branch's own code: no link is followed, nothing outside the checkout is opened,
//! every size is bounded, and nothing in it can make this program panic. Invariants: what is read was written after
//! [`Places::clear`]; every file in the model is a plain file of the checkout. Refuses to judge.

mod cobertura;
mod coverage_py;
mod gather;
mod lcov;
mod owned;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::libc;
use orch_domain::coverage::rules::PLACES;
use orch_domain::coverage::{Coverage, Format};
use orch_domain::names::RepoPath;

/// Most bytes of a report.
pub const MAX_COVERAGE_REPORT: u64 = 256 << 20;
/// The file in the fresh folder that a command is asked to write.
pub const ASKED_FOR: &str = "report";
/// Other names in the fresh folder, for tools that are given a folder.
const IN_FOLDER: [&str; 5] = ["lcov.info", "coverage.json", "coverage.xml", "cobertura-coverage.xml", "cobertura.xml"];

/// What a report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoverageReport {
    /// Per file of the checkout.
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
}

/// The moment after which a report is fresh, by the clock of the file system that it will lie in.
#[derive(Clone, Copy, Debug)]
pub struct Since(SystemTime);

impl Places {
    /// The file that the command is asked to write.
    #[must_use]
    pub fn asked_for(&self) -> PathBuf {
        self.folder.join(ASKED_FOR)
    }

    /// Removes what lies at any of the places, and makes the folder. Blocks on the disk.
    ///
    /// # Errors
    /// When something is there and cannot be removed.
    pub fn clear(&self) -> io::Result<Since> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&self.folder)?;
        for (path, _) in self.in_checkout() {
            // Behind a link nothing is removed, and nothing will be read.
            let Ok(path) = without_links(&self.checkout, &path) else { continue };
            match fs::symlink_metadata(&path) {
                Ok(meta) if !meta.is_dir() => fs::remove_file(&path)?,
                Ok(_) | Err(_) => {}
            }
        }
        let marker = self.folder.join("since");
        File::create(&marker)?.sync_all()?;
        let since = fs::metadata(&marker)?.modified()?;
        fs::remove_file(&marker)?;
        Ok(Since(since))
    }

    /// Finds the report and reads it. Blocks on the disk.
    ///
    /// # Errors
    /// Every variant of [`CoverageError`].
    pub fn read(&self, since: Since) -> Result<CoverageReport, CoverageError> {
        let asked = [ASKED_FOR].into_iter().chain(IN_FOLDER);
        let in_folder = asked.map(|name| (self.folder.join(name), format!("`{name}` in the folder of this run")));
        // What lies behind a link is elsewhere.
        let in_checkout = self.in_checkout().into_iter();
        let in_checkout =
            in_checkout.filter_map(|(path, shown)| Some((without_links(&self.checkout, &path).ok()?, shown)));
        for (path, place) in in_folder.chain(in_checkout) {
            match fs::symlink_metadata(&path) {
                Err(_) => {}
                Ok(meta) if meta.is_dir() && self.configured.is_none() => {}
                Ok(_) => return self.read_at(&path, place, since),
            }
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

    fn read_at(&self, path: &Path, place: String, since: Since) -> Result<CoverageReport, CoverageError> {
        let unreadable = |why: String| CoverageError::Unreadable { place: place.clone(), why };
        // No link is followed and no pipe is waited for.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = opened.map_err(|error| unreadable(error.to_string()))?;
        let meta = file.metadata().map_err(|error| unreadable(error.to_string()))?;
        if !meta.is_file() {
            return Err(unreadable("it is no plain file".to_owned()));
        }
        if meta.len() > MAX_COVERAGE_REPORT {
            return Err(unreadable(format!("it has {} bytes; at most {MAX_COVERAGE_REPORT} are read", meta.len())));
        }
        if meta.modified().map_err(|error| unreadable(error.to_string()))? < since.0 {
            return Err(CoverageError::Stale { place });
        }
        let (format, gathered) = parse(file).map_err(|why| match why {
            Parse::Io(error) => unreadable(error.to_string()),
            Parse::Broken(why) => CoverageError::Broken { place: place.clone(), why: printable(&why) },
        })?;
        let tool = gathered.tool.clone().map(|tool| printable(&tool));
        let (coverage, notes) = owned::take(gathered, &self.checkout)
            .map_err(|why| CoverageError::Foreign { place: place.clone(), why: printable(&why) })?;
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

fn parse(mut file: File) -> Result<(Format, gather::Gathered), Parse> {
    let format = {
        let mut head = BufReader::with_capacity(4_096, &mut file);
        let bytes = head.fill_buf().map_err(Parse::Io)?;
        format_of(bytes).ok_or_else(|| Parse::Broken(format!("it is in no format that we know ({KNOWN})")))?
    };
    file.rewind().map_err(Parse::Io)?;
    // It may grow while it is read; what is over the limit is cut off, and a cut-off report is broken.
    let from = BufReader::with_capacity(1 << 16, io::Read::take(file, MAX_COVERAGE_REPORT));
    let gathered = match format {
        Format::CoveragePy => coverage_py::read(from),
        Format::Lcov => lcov::read(from),
        Format::Cobertura => cobertura::read(from),
    };
    Ok((format, gathered.map_err(Parse::Broken)?))
}

const KNOWN: &str = "coverage.py's JSON, LCOV, Cobertura's XML";

/// Told by the first byte that says something.
fn format_of(head: &[u8]) -> Option<Format> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
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
