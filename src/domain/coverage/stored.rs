//! How a measurement is kept: a text that ends with its own digest.
//!
//! Owns the form: a line of JSON about the measurement, a line per file (path, covered and uncovered ranges), and the
//! SHA-256 of all that. Invariant: what is read back is what was written, whole, or an error; a broken one is measured
//! again. Refuses to know where it is kept.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lines::{Lines, MOST_BLOCKS};
use super::model::{Coverage, Format};
use crate::ids::CommitSha;
use crate::names::{RepoName, RepoPath};
use crate::time::{Millis, Timestamp};

/// One run of a coverage command on one tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// About it.
    pub about: About,
    /// What it measured.
    pub coverage: Coverage,
}

/// Everything about a measurement but its lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The repository.
    pub repo: RepoName,
    /// The commit.
    pub head: CommitSha,
    /// Its tree.
    pub tree: CommitSha,
    /// The report's format.
    pub format: Format,
    /// The tool, as far as it says.
    pub tool: Option<String>,
    /// Hash of tool and configuration: what has another is not compared.
    pub measured_by: String,
    /// Hash of the configuration alone.
    pub configuration: String,
    /// Where the report lay.
    pub report: String,
    /// When the command was started.
    pub started: Timestamp,
    /// How long it took.
    pub duration: Millis,
    /// Remarks of one line each.
    pub notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    version: u32,
    files: usize,
    excluded: Option<u64>,
    about: About,
}

const VERSION: u32 = 1;

/// A text that is no measurement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no whole measurement: {0}")]
pub struct StoredError(String);

impl Measurement {
    /// As text, a line at a time: what is kept of a large report never stands in the memory twice.
    pub fn parts(&self) -> impl Iterator<Item = String> + '_ {
        let first = First {
            version: VERSION,
            files: self.coverage.files.len(),
            excluded: self.coverage.excluded,
            about: self.about.clone(),
        };
        let first = serde_json::to_string(&first).expect("it has no map with other keys than text") + "\n";
        let file = |(path, lines): (&RepoPath, &Lines)| {
            let line = (path.as_str(), runs(lines, true), runs(lines, false));
            serde_json::to_string(&line).expect("three texts") + "\n"
        };
        let mut lines = std::iter::once(first).chain(self.coverage.files.iter().map(file));
        let mut digest = Some(Sha256::new());
        std::iter::from_fn(move || match lines.next() {
            Some(line) => {
                digest.as_mut()?.update(line.as_bytes());
                Some(line)
            }
            None => digest.take().map(|digest| hex::encode(digest.finalize()) + "\n"),
        })
    }

    /// As text.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.parts().collect()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`StoredError`] with what is wrong.
    pub fn from_text(text: &str) -> Result<Self, StoredError> {
        Self::from_parts(text.split_inclusive('\n').map(|line| Ok(line.to_owned())))
    }

    /// Reads it back from its lines, each with its end.
    ///
    /// # Errors
    /// [`StoredError`] with what is wrong, or with what went wrong in the reading.
    pub fn from_parts(mut parts: impl Iterator<Item = Result<String, String>>) -> Result<Self, StoredError> {
        let broken = |why: &str| StoredError(why.to_owned());
        let mut next = || match parts.next() {
            None => Ok(None),
            Some(Ok(line)) if line.ends_with('\n') => Ok(Some(line)),
            Some(Ok(_)) => Err(broken("it is cut off")),
            Some(Err(why)) => Err(StoredError(why)),
        };
        let mut digest = Sha256::new();
        let line = next()?.ok_or_else(|| broken("it is empty"))?;
        digest.update(line.as_bytes());
        let first: First = serde_json::from_str(&line).map_err(|error| broken(&format!("its first line: {error}")))?;
        if first.version != VERSION {
            return Err(broken("it is of another version"));
        }
        let mut coverage = Coverage { excluded: first.excluded, ..Coverage::default() };
        let mut line = next()?.ok_or_else(|| broken("it has no digest"))?;
        let mut blocks = 0;
        // All but the last are files.
        while let Some(after) = next()? {
            digest.update(line.as_bytes());
            let (path, covered, uncovered): (RepoPath, String, String) =
                serde_json::from_str(&line).map_err(|error| broken(&error.to_string()))?;
            let mut all = Lines::default();
            for (runs, covered) in [(&covered, true), (&uncovered, false)] {
                // Before the digest is known to be right: so never more than any report has.
                let read = read_runs(runs, covered, MOST_BLOCKS - blocks, &mut all);
                read.ok_or_else(|| broken("a range is none, or all of them are too many"))?;
            }
            blocks += all.blocks();
            coverage.files.insert(path, all);
            line = after;
        }
        if hex::encode(digest.finalize()) != line.trim_end_matches('\n') {
            return Err(broken("its digest is another"));
        }
        match coverage.files.len() == first.files {
            true => Ok(Self { about: first.about, coverage }),
            false => Err(broken("files are missing")),
        }
    }
}

fn runs(lines: &Lines, which: bool) -> String {
    let mut all: Vec<(u32, u32)> = Vec::new();
    for (line, _) in lines.iter().filter(|(_, covered)| *covered == which) {
        match all.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(line) => *last = line,
            _ => all.push((line, line)),
        }
    }
    let one = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    all.iter().map(one).collect::<Vec<_>>().join(",")
}

fn read_runs(text: &str, covered: bool, room: usize, into: &mut Lines) -> Option<()> {
    for run in text.split(',').filter(|run| !run.is_empty()) {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let room = room.checked_sub(into.blocks())?;
        into.add_range(first.parse().ok()?, last.parse().ok()?, covered, room)?;
    }
    Some(())
}
