//! JUnit XML: the test cases, summed by ourselves.
//!
//! Owns the reading of `<testcase>` elements and nothing else: the totals that files state about themselves are ignored,
//! since runners put them in different places (measured: pytest's top-level `tests` reads as 0). Refuses documents that
//! are cut off, over [`MAX_JUNIT`], nested beyond reason, or hold a document type (entities). The file is made by the
//! branch's own code: no link is followed out of the checkout.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use orch_domain::names::RepoPath;
use orch_domain::testcount::Counts;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Most bytes of all JUnit files of one run together.
pub const MAX_JUNIT: u64 = 64 << 20;
/// Most files that are read from a folder.
const MAX_FILES: usize = 5_000;
/// Deepest nesting of elements.
const MAX_DEPTH: usize = 64;
/// Most names that are kept for findings.
const MAX_NAMED: usize = 50;

/// What JUnit XML tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JunitReport {
    /// Summed over all test cases.
    pub counts: Counts,
    /// Names of failed cases, in order; at most 50.
    pub failed: Vec<String>,
    /// Names of cases that failed and passed in one run, or stand there more than once; at most 50.
    pub flaky: Vec<String>,
}

/// Why JUnit XML gives no counts.
#[derive(Debug, thiserror::Error)]
pub enum JunitError {
    /// Nothing is there: the command did not write it.
    #[error("there is no JUnit XML at `{0}`")]
    Missing(String),
    /// It cannot be read.
    #[error("the JUnit XML at `{path}` cannot be read: {why}")]
    Unreadable {
        /// Where.
        path: String,
        /// Why.
        why: String,
    },
    /// It is not JUnit XML, or cut off.
    #[error("the JUnit XML at `{path}` is broken: {why}")]
    Broken {
        /// Where.
        path: String,
        /// Why.
        why: String,
    },
}

/// Removes what stands at `path` in a checkout, so that what is found there later is fresh.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn clear_junit(checkout: &Path, path: &RepoPath) -> io::Result<()> {
    for file in files_at(checkout, path).unwrap_or_default() {
        fs::remove_file(file)?;
    }
    Ok(())
}

/// Reads the JUnit XML at `path` below `checkout`: a file, or a folder whose `*.xml` files are all read. Blocks on the
/// disk.
///
/// # Errors
/// Every variant of [`JunitError`]; none of them is a count of zero.
pub fn read_junit(checkout: &Path, path: &RepoPath) -> Result<JunitReport, JunitError> {
    let unreadable = |err: io::Error| JunitError::Unreadable { path: path.to_string(), why: err.to_string() };
    let files = files_at(checkout, path).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => JunitError::Missing(path.to_string()),
        _ => unreadable(err),
    })?;
    if files.is_empty() {
        return Err(JunitError::Missing(path.to_string()));
    }
    let mut left = MAX_JUNIT;
    let mut cases = Cases::default();
    for file in files {
        let bytes = read_plain(&file, left).map_err(unreadable)?;
        left = left.saturating_sub(bytes.len() as u64);
        sum(&bytes, &mut cases).map_err(|why| JunitError::Broken { path: path.to_string(), why })?;
    }
    Ok(cases.report())
}

/// Sums one document.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_junit(bytes: &[u8]) -> Result<JunitReport, String> {
    let mut cases = Cases::default();
    sum(bytes, &mut cases)?;
    Ok(cases.report())
}

/// The plain files that `path` names, sorted. No part of the way may be a link.
fn files_at(checkout: &Path, path: &RepoPath) -> io::Result<Vec<PathBuf>> {
    let mut at = checkout.to_owned();
    for part in path.as_str().split('/') {
        at.push(part);
        if fs::symlink_metadata(&at)?.is_symlink() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{part} is a link")));
        }
    }
    if !at.is_dir() {
        return Ok(vec![at]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(&at)? {
        let entry = entry?;
        let is_xml = entry.path().extension().is_some_and(|ext| ext == "xml");
        if is_xml && entry.file_type()?.is_file() {
            files.push(entry.path());
        }
        if files.len() > MAX_FILES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

fn read_plain(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MAX_JUNIT} bytes")));
    }
    Ok(bytes)
}

/// How one entry of a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// What is known of one case: all its entries.
#[derive(Default)]
struct Case {
    passed: u64,
    failed: u64,
    skipped: u64,
    retried: bool,
}

#[derive(Default)]
struct Cases {
    all: BTreeMap<String, Case>,
}

impl Cases {
    fn add(&mut self, name: String, outcome: Outcome, retried: bool) {
        let case = self.all.entry(name).or_default();
        match outcome {
            Outcome::Passed => case.passed += 1,
            Outcome::Failed => case.failed += 1,
            Outcome::Skipped => case.skipped += 1,
        }
        case.retried |= retried;
    }

    /// Every entry counts: names are not unique in all runners, and a failure must not be hidden by its namesake.
    fn report(self) -> JunitReport {
        let mut report = JunitReport::default();
        for (name, case) in self.all {
            report.counts = report.counts.plus(Counts::of(case.passed, case.failed, case.skipped));
            if case.failed > 0 && report.failed.len() < MAX_NAMED {
                report.failed.push(name.clone());
            }
            let again = case.passed + case.failed > 1 && case.passed > 0;
            if (case.retried || again) && report.flaky.len() < MAX_NAMED {
                report.flaky.push(name);
            }
        }
        report
    }
}

/// A case that is being read.
struct Open {
    name: String,
    depth: usize,
    outcome: Outcome,
    retried: bool,
}

fn sum(bytes: &[u8], cases: &mut Cases) -> Result<(), String> {
    let mut reader = Reader::from_reader(bytes);
    let mut buffer = Vec::new();
    let mut depth = 0_usize;
    let mut suites = false;
    let mut open: Option<Open> = None;
    loop {
        buffer.clear();
        let at = reader.buffer_position();
        let broken = |why: String| format!("at byte {at}: {why}");
        match reader.read_event_into(&mut buffer).map_err(|err| broken(err.to_string()))? {
            Event::Start(start) => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(broken(format!("more than {MAX_DEPTH} elements deep")));
                }
                suites |= begin(&start, depth, &mut open).map_err(broken)?;
            }
            Event::Empty(start) => {
                suites |= begin(&start, depth + 1, &mut open).map_err(broken)?;
                close(depth + 1, &mut open, cases);
            }
            Event::End(_) => {
                close(depth, &mut open, cases);
                depth = depth.checked_sub(1).ok_or_else(|| broken("an element is closed that was not open".into()))?;
            }
            Event::DocType(_) => return Err(broken("a document type is not allowed".into())),
            Event::Eof if depth > 0 => return Err(broken("it ends in the middle of an element".into())),
            Event::Eof if !suites => return Err(broken("it holds no `testsuite`".into())),
            Event::Eof => return Ok(()),
            Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::GeneralRef(_) => {}
        }
    }
}

/// Takes note of an element that begins; whether it is a suite.
fn begin(start: &BytesStart<'_>, depth: usize, open: &mut Option<Open>) -> Result<bool, String> {
    match start.local_name().as_ref() {
        "testcase" if open.is_none() => {
            let (class, name) = (attribute(start, "classname")?, attribute(start, "name")?);
            let name = if class.is_empty() { name } else { format!("{class}::{name}") };
            *open = Some(Open { name, depth, outcome: Outcome::Passed, retried: false });
        }
        "testcase" => return Err("a `testcase` inside a `testcase`".to_owned()),
        "testsuite" | "testsuites" => return Ok(true),
        tag => {
            if let Some(case) = open.as_mut().filter(|case| case.depth + 1 == depth) {
                match tag {
                    "failure" | "error" => case.outcome = Outcome::Failed,
                    "skipped" if case.outcome == Outcome::Passed => case.outcome = Outcome::Skipped,
                    "flakyFailure" | "flakyError" | "rerunFailure" | "rerunError" => case.retried = true,
                    _ => {}
                }
            }
        }
    }
    Ok(false)
}

fn close(depth: usize, open: &mut Option<Open>, cases: &mut Cases) {
    if let Some(case) = open.take_if(|case| case.depth == depth) {
        let flaky = case.retried && case.outcome == Outcome::Passed;
        cases.add(case.name, case.outcome, flaky);
    }
}

/// An attribute as one clean line; empty when it is not there.
fn attribute(start: &BytesStart<'_>, name: &str) -> Result<String, String> {
    let found = start.try_get_attribute(name).map_err(|err| err.to_string())?;
    let Some(found) = found else { return Ok(String::new()) };
    let text = &found.value;
    // The five entities of XML are all that a name can hold; anything else stays as it is written.
    let text = quick_xml::escape::unescape(text).map_or_else(|_| text.to_string(), |plain| plain.into_owned());
    Ok(text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect())
}
