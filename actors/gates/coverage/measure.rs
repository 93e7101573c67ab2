//! One run of a coverage command: its environment, its end, its report.
//!
//! Owns what surrounds the command so that its report is fresh and its numbers are repeatable. The same run serves the tests
//! where the command covers both: the caller judges its exit and counts, this file its report. Invariant: a report
//! counts only when this run wrote it. Refuses to judge a number.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::time::SystemTime;

use orch_adapters::reports::coverage::{CommitFiles, CoverageError, CoverageReport, Places, Since};
use orch_adapters::reports::junit;
use orch_domain::coverage::rules::TOOL;
use orch_domain::coverage::{About, Measurement, start};
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoPath;
use orch_domain::time::{Millis, Timestamp};
use orch_domain::variables::{COVERAGE_DIR, COVERAGE_REPORT};

use super::plan::Plan;
use crate::gates::output::Shown;
use crate::gates::scratch::Scratch;
use crate::gates::site::{Halt, Line, Site};

/// What a run left.
pub(in crate::gates) struct Ran {
    /// Its end, output and counts.
    pub(in crate::gates) shown: Shown,
    /// Its report.
    pub(in crate::gates) report: Result<CoverageReport, CoverageError>,
    /// Which tool made it, as the command says.
    tool: Option<String>,
    started: Timestamp,
    duration: Millis,
}

impl Ran {
    /// Why the tool never started, if it did not.
    pub(in crate::gates) fn not_started(&self) -> Option<String> {
        let none = matches!(self.report, Err(CoverageError::Missing { .. }));
        none.then(|| start::did_not_start(&self.shown.end, self.shown.counts, &self.shown.tail)).flatten()
    }

    /// Its end, and what it measured on a commit, as that is kept.
    pub(in crate::gates) fn concluded(
        self,
        site: &Site<'_>,
        plan: &Plan,
        head: &CommitSha,
        tree: &CommitSha,
    ) -> (Shown, Result<Measurement, String>) {
        let said = self.tool;
        let measured = self.report.map_err(|error| error.to_string()).map(|report| {
            let tool = report.tool.or(said);
            let about = About {
                repo: site.subject.repo.clone(),
                head: head.clone(),
                tree: tree.clone(),
                format: report.format,
                measured_by: plan.measured_by(report.format, tool.as_deref()),
                tool,
                configuration: plan.configuration().to_owned(),
                report: report.place,
                started: self.started,
                duration: self.duration,
                notes: report.notes,
            };
            Measurement { about, coverage: report.coverage }
        });
        (self.shown, measured)
    }
}

/// What the run of a coverage command is held to by whoever asks for it, besides its own settings.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::gates) struct Bounds {
    /// Longest run.
    pub(in crate::gates) limit: Option<Millis>,
    /// Longest silence.
    pub(in crate::gates) silence: Option<Millis>,
}

/// The command as a line to run, but for its environment. Of two limits that are named the shorter one holds.
pub(in crate::gates) fn line_of<'l>(site: &Site<'_>, plan: &'l Plan, what: &'l str, bounds: Bounds) -> Line<'l> {
    let named = [bounds.limit, plan.limit].into_iter().flatten().min();
    Line {
        what,
        line: &plan.measuring.line,
        limit: named.unwrap_or_else(|| site.limit()),
        silence: bounds.silence,
        env: BTreeMap::new(),
    }
}

/// Runs the command in a checkout of `sha` that is set up, and reads what it left.
pub(in crate::gates) async fn run(
    site: &Site<'_>,
    scratch: &Scratch,
    plan: &Plan,
    sha: &CommitSha,
    what: &str,
    junit: Option<RepoPath>,
    bounds: Bounds,
) -> Result<Ran, Halt> {
    // In the private folders: the branch's files never meet it.
    let folder = scratch.private().tmp.join("coverage");
    // What a report is about is looked up here: what else comes to lie in the checkout does not count.
    let files = site.git.files_named(sha, |_| true, usize::MAX).await;
    let files = files.map_err(|error| format!("the files of {} could not be read: {error}", sha.short()))?;
    let files = CommitFiles::new(files.into_iter().map(|file| (file.path, file.plain)));
    let places = Places { checkout: scratch.tree(), folder: folder.clone(), configured: plan.report.clone(), files };
    let (python, tree, xml) = (plan.python().cloned(), scratch.tree(), junit.clone());
    let prepared = tokio::task::spawn_blocking(move || {
        if let Some(path) = &xml {
            let cleared = junit::clear_junit(&tree, path);
            cleared.map_err(|error| format!("the old JUnit XML at {path} could not be removed: {error}"))?;
        }
        prepare(&places, python).map(|(since, rules)| (places, since, rules))
    });
    let (places, since, rules) = prepared.await.map_err(|error| format!("old reports were not removed: {error}"))??;
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let before = clock(scratch).await?;
    let mut line = line_of(site, plan, what, bounds);
    line.env.extend([
        (COVERAGE_REPORT.to_owned(), text(places.asked_for())),
        (COVERAGE_DIR.to_owned(), text(folder.clone())),
        // Data that the branch has brought along would be added up with what is measured now.
        ("COVERAGE_FILE".to_owned(), text(folder.join("python.data"))),
        ("PYTHONHASHSEED".to_owned(), "0".to_owned()),
    ]);
    line.env.extend(rules.map(|path| ("COVERAGE_RCFILE".to_owned(), text(path))));
    let started = site.ctx.now();
    let finished = site.job(scratch, &line).await?;
    let duration = site.ctx.now().since(started);
    let tree = scratch.tree();
    let read = tokio::task::spawn_blocking(move || {
        let shown = Shown::read(&finished, &tree, junit.as_ref())?;
        Ok::<_, String>((shown, places.read(&since)))
    });
    let (shown, report) = read.await.map_err(|error| format!("what it left could not be read: {error}"))??;
    if matches!(report, Err(CoverageError::Stale { .. })) {
        went_on(before, clock(scratch).await?)?;
    }
    let tool = said(folder).await;
    Ok(Ran { shown, report, tool, started, duration })
}

/// What the command says about its tool, for formats that do not: all on one line.
async fn said(folder: std::path::PathBuf) -> Option<String> {
    const MOST: u64 = 1_000;
    let read = tokio::task::spawn_blocking(move || {
        let (path, mut text) = (folder.join(TOOL), Vec::new());
        // The job is over: what is a plain file now stays one.
        fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        fs::File::open(&path).ok()?.take(MOST).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let line: String = lines.join(", ").chars().map(|c| if c.is_control() { '?' } else { c }).take(200).collect();
        Some(line).filter(|line| !line.is_empty())
    });
    read.await.ok().flatten()
}

/// What time the file system has that a report would lie in.
async fn clock(scratch: &Scratch) -> Result<SystemTime, Halt> {
    let marker = scratch.root().join("clock");
    let read = tokio::task::spawn_blocking(move || {
        fs::write(&marker, b"")?;
        let now = fs::metadata(&marker)?.modified()?;
        fs::remove_file(&marker)?;
        Ok::<_, std::io::Error>(now)
    });
    let read = read.await.map_err(|error| format!("the clock of the disk was not read: {error}"))?;
    read.map_err(|error| Halt::CouldNotRun(format!("the clock of the disk could not be read: {error}")))
}

/// A report looks old, too, when the clock was set back while it was made: then nothing can be said about its age.
fn went_on(before: SystemTime, after: SystemTime) -> Result<(), Halt> {
    match before.duration_since(after) {
        Ok(back) if back > std::time::Duration::ZERO => Err(Halt::CouldNotRun(format!(
            "the clock was set back by {} s during the run, so whether the coverage report is of this run is not known",
            back.as_secs().max(1)
        ))),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Removes old reports, and puts coverage.py's settings where the environment will name them. Blocks.
fn prepare(places: &Places, python: Option<(String, String)>) -> Result<(Since, Option<std::path::PathBuf>), String> {
    let since = places.clear().map_err(|error| format!("old coverage reports could not be removed: {error}"))?;
    let Some((name, text)) = python else { return Ok((since, None)) };
    let folder = places.folder.join("rules");
    let path = folder.join(name);
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, text));
    written.map_err(|error| format!("coverage.py's settings could not be put in place: {error}"))?;
    Ok((since, Some(path)))
}

/// Puts base's settings into the branch's checkout, as far as they lie in files.
pub(super) async fn overlay(scratch: &Scratch, plan: &Plan) -> Result<(), Halt> {
    let (tree, files) = (scratch.tree(), plan.overlay().to_vec());
    let put = tokio::task::spawn_blocking(move || {
        for (file, text) in files {
            // The file itself, never what it links to.
            match fs::remove_file(tree.join(&file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            if let Some(text) = text {
                fs::write(tree.join(&file), text)?;
            }
        }
        Ok(())
    });
    let put = put.await.map_err(|error| format!("base's coverage settings were not put in place: {error}"))?;
    put.map_err(|error| Halt::CouldNotRun(format!("base's coverage settings could not be put in place: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_is_nobodys_mistake() {
        let (one, other) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(5_500));
        assert!(went_on(one, other).is_ok() && went_on(one, one).is_ok());
        let Err(Halt::CouldNotRun(why)) = went_on(other, one) else { panic!("it went back") };
        assert!(why.contains("set back by 5 s"), "{why}");
    }
}
