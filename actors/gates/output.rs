//! What a finished job of a check showed: its counts and the end of its output.
//!
//! Owns the reading of logs and JUnit XML of one job, cleaned and bounded. Invariants: everything here is the branch's own
//! text; no control character of it goes on; and the name of the throw-away checkout does not, so that the same failure says the
//! same in every run. Refuses to judge.

use std::path::Path;

use orch_adapters::jobs::FinishedJob;
use orch_adapters::reports::junit::{self, JunitReport};
use orch_domain::ids::CommitSha;
use orch_domain::job::JobEnd;
use orch_domain::names::RepoPath;
use orch_domain::testcount::{Counts, counts_from_output, plain};
use orch_domain::testnames::{self, failed_in_output};

/// Most output that is kept and looked through for counts, per stream.
pub(super) const OUTPUT: u64 = 64 << 20;
/// Most output in findings.
const TAIL_BYTES: u64 = 16 << 10;
const TAIL_LINES: usize = 200;
/// Output quoted beside a `could not run`.
const HINT_LINES: usize = 5;

/// What a finished test job showed.
pub(super) struct Shown {
    pub(super) end: JobEnd,
    pub(super) tail: String,
    pub(super) counts: Option<Counts>,
    /// Why the configured JUnit XML gave nothing.
    pub(super) junit_trouble: Option<String>,
    pub(super) junit: JunitReport,
    /// Failed tests by name, in order; from the JUnit XML, else from the output.
    pub(super) failed: Vec<String>,
    pub(super) cut: bool,
}

impl Shown {
    /// Blocks on the disk.
    pub(super) fn read(finished: &FinishedJob, tree: &Path, junit: Option<&RepoPath>) -> Result<Self, String> {
        let unreadable = |error: std::io::Error| format!("the output could not be read: {error}");
        let (mut junit_trouble, mut report) = (None, JunitReport::default());
        let (mut counts, mut failed) = (None, Vec::new());
        match junit.map(|path| junit::read_junit(tree, path)) {
            Some(Ok(read)) => {
                counts = Some(read.counts);
                failed.clone_from(&read.failed);
                report = read;
            }
            Some(Err(error)) => junit_trouble = Some(error.to_string()),
            None => {}
        }
        if counts.is_none() {
            let output = finished.stdout(OUTPUT).map_err(unreadable)?;
            let errors = finished.stderr(OUTPUT).map_err(unreadable)?;
            let output = format!("{output}\n{errors}");
            counts = counts_from_output(&output);
            failed = failed_in_output(&output);
        }
        Ok(Self {
            end: finished.exit.end.clone(),
            tail: tail_of(finished, tree)?,
            counts,
            junit_trouble,
            junit: report,
            failed,
            cut: finished.exit.log_cut,
        })
    }
}

impl Shown {
    /// What is said about tests that fail: the line, why, the failed tests by name, the end of the output.
    pub(super) fn findings(&self, line: &str, on: &CommitSha, why: &str) -> String {
        let whole = !self.cut && self.counts.is_none_or(|counts| counts.failed == self.failed.len() as u64);
        let named = testnames::list(&self.failed, whole);
        format!("`{line}` failed on {}: {why}\n\n{named}{}", on.short(), self.tail)
    }
}

/// The end of the output of a job in the checkout `tree`: clean lines, bounded, paths as from within the checkout.
pub(super) fn tail_of(finished: &FinishedJob, tree: &Path) -> Result<String, String> {
    let text = finished.tail(TAIL_BYTES).map_err(|error| format!("the output could not be read: {error}"))?;
    let text = without_place(text, tree);
    let lines: Vec<String> = text.lines().map(plain).collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n").trim().to_owned())
}

/// Paths below the checkout, however they are spelled, from its top; the private folders stand beside it.
fn without_place(mut text: String, tree: &Path) -> String {
    for tree in [Some(tree.to_owned()), tree.canonicalize().ok()].into_iter().flatten() {
        for (place, short) in [(Some(tree.as_path()), "."), (tree.parent(), "..")] {
            if let Some(place) = place.and_then(Path::to_str).filter(|place| place.len() > 1 && text.contains(place)) {
                text = text.replace(place, short);
            }
        }
    }
    text
}

/// The last lines, for a text that is mostly about something else.
pub(super) fn hint(tail: &str) -> String {
    let lines: Vec<&str> = tail.lines().collect();
    lines[lines.len().saturating_sub(HINT_LINES)..].join("\n")
}
