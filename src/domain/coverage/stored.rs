//! How a measurement is kept: a text that ends with its own digest.
//!
//! Owns the form: a line of JSON about the measurement, a line per file (path, covered and uncovered ranges), and the
//! SHA-256 of all that. Invariant: what is read back is what was written, whole, or an error; a broken one is measured
//! again. Refuses to know where it is kept.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lines::Lines;
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
    /// As text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let first = First {
            version: VERSION,
            files: self.coverage.files.len(),
            excluded: self.coverage.excluded,
            about: self.about.clone(),
        };
        let json = |value: String| value + "\n";
        let mut text = json(serde_json::to_string(&first).expect("it has no map with other keys than text"));
        for (path, lines) in &self.coverage.files {
            let line = (path.as_str(), runs(lines, true), runs(lines, false));
            text.push_str(&json(serde_json::to_string(&line).expect("three texts")));
        }
        let digest = hex::encode(Sha256::digest(text.as_bytes()));
        text.push_str(&digest);
        text.push('\n');
        text
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`StoredError`] with what is wrong.
    pub fn from_text(text: &str) -> Result<Self, StoredError> {
        let broken = |why: &str| StoredError(why.to_owned());
        let whole = text.strip_suffix('\n').ok_or_else(|| broken("it is cut off"))?;
        let at = whole.rfind('\n').ok_or_else(|| broken("it has no digest"))? + 1;
        if hex::encode(Sha256::digest(&text.as_bytes()[..at])) != whole[at..] {
            return Err(broken("its digest is another"));
        }
        let mut lines = whole[..at].lines();
        let first: First = serde_json::from_str(lines.next().unwrap_or_default())
            .map_err(|error| broken(&format!("its first line: {error}")))?;
        if first.version != VERSION {
            return Err(broken("it is of another version"));
        }
        let mut coverage = Coverage { excluded: first.excluded, ..Coverage::default() };
        for line in lines {
            let (path, covered, uncovered): (RepoPath, String, String) =
                serde_json::from_str(line).map_err(|error| broken(&error.to_string()))?;
            let mut all = Lines::default();
            read_runs(&covered, true, &mut all).ok_or_else(|| broken("a range is none"))?;
            read_runs(&uncovered, false, &mut all).ok_or_else(|| broken("a range is none"))?;
            coverage.files.insert(path, all);
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

fn read_runs(text: &str, covered: bool, into: &mut Lines) -> Option<()> {
    for run in text.split(',').filter(|run| !run.is_empty()) {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        for line in first..=last {
            into.add(line, covered);
        }
    }
    Some(())
}
