//! One run of a coverage command: its environment, its end, its report.
//!
//! Owns what surrounds the command so that its report is fresh and its numbers are repeatable. The same run serves the tests
//! where the command covers both: the caller judges its exit and counts, this file its report. Invariant: a report
//! counts only when this run wrote it. Refuses to judge a number.

use std::collections::BTreeMap;
use std::fs;

use orch_adapters::reports::coverage::{CommitFiles, CoverageError, CoverageReport, Places, Since};
use orch_adapters::reports::junit;
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
        let measured = self.report.map_err(|error| error.to_string()).map(|report| {
            let about = About {
                repo: site.subject.repo.clone(),
                head: head.clone(),
                tree: tree.clone(),
                format: report.format,
                measured_by: plan.measured_by(report.format, report.tool.as_deref()),
                tool: report.tool,
                configuration: plan.configuration.clone(),
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

/// The command as a line to run, but for its environment.
pub(in crate::gates) fn line_of<'l>(site: &Site<'_>, plan: &'l Plan, what: &'l str) -> Line<'l> {
    Line {
        what,
        line: &plan.line,
        limit: plan.limit.unwrap_or_else(|| site.limit()),
        silence: None,
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
) -> Result<Ran, Halt> {
    // In the private folders: the branch's files never meet it.
    let folder = scratch.private().tmp.join("coverage");
    // What a report is about is looked up here: what else comes to lie in the checkout does not count.
    let files = site.git.files_named(sha, |_| true, usize::MAX).await;
    let files = files.map_err(|error| format!("the files of {} could not be read: {error}", sha.short()))?;
    let files = CommitFiles::new(files.into_iter().map(|file| (file.path, file.plain)));
    let places = Places { checkout: scratch.tree(), folder: folder.clone(), configured: plan.report.clone(), files };
    let (python, tree, xml) = (plan.python.clone(), scratch.tree(), junit.clone());
    let prepared = tokio::task::spawn_blocking(move || {
        if let Some(path) = &xml {
            let cleared = junit::clear_junit(&tree, path);
            cleared.map_err(|error| format!("the old JUnit XML at {path} could not be removed: {error}"))?;
        }
        prepare(&places, python).map(|(since, rules)| (places, since, rules))
    });
    let (places, since, rules) = prepared.await.map_err(|error| format!("old reports were not removed: {error}"))??;
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let mut line = line_of(site, plan, what);
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
    Ok(Ran { shown, report, started, duration })
}

/// Removes old reports, and puts coverage.py's settings of base where the environment will name them. Blocks.
fn prepare(places: &Places, python: Option<(String, String)>) -> Result<(Since, Option<std::path::PathBuf>), String> {
    let since = places.clear().map_err(|error| format!("old coverage reports could not be removed: {error}"))?;
    let Some((name, text)) = python else { return Ok((since, None)) };
    let folder = places.folder.join("rules");
    let path = folder.join(name);
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, text));
    written.map_err(|error| format!("base's coverage settings could not be put in place: {error}"))?;
    Ok((since, Some(path)))
}

/// Puts tools' own settings of the branch into base's checkout.
pub(super) async fn overlay(scratch: &Scratch, plan: &Plan) -> Result<(), Halt> {
    let (tree, files) = (scratch.tree(), plan.overlay.clone());
    let put = tokio::task::spawn_blocking(move || {
        for (file, text) in files {
            // The file itself, never what it links to.
            match fs::remove_file(tree.join(file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            if let Some(text) = text {
                fs::write(tree.join(file), text)?;
            }
        }
        Ok(())
    });
    let put = put.await.map_err(|error| format!("the branch's coverage settings were not put in place: {error}"))?;
    put.map_err(|error| Halt::CouldNotRun(format!("the branch's coverage settings could not be put in place: {error}")))
}
