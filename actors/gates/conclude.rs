//! From what a gate found to its answer: evidence, report, read-back, row. The one mechanism of every gate.
//!
//! Owns the key under which a verdict may be reused and the report's place. Invariants: what is answered was read back
//! from the report that was just written; an earlier verdict counts only while its report still says the same, byte for
//! byte; a conclusive verdict without a report that stands is no verdict. Refuses to know any gate's question.

use std::path::PathBuf;

use orch_adapters::reports::{self, Draft, Expect, ReadReport, ReportError};
use orch_domain::event::CheckEnd;
use orch_domain::gate::{Count, GateName, ReportHeader, ToolVersion, Verdict};
use orch_domain::ids::CommitSha;
use orch_domain::policy::pin_hash;
use orch_domain::time::{Millis, Timestamp};
use orch_store::{EvidenceKey, NewVerdict, VerdictOutcome};
use tokio::sync::oneshot;

use super::answer::{Cause, GateAnswer, GateSubject, ReportRef};
use crate::context::{Context, RepoRuntime};

/// How long a conclusive verdict may be reused unless its gate says less: what we do not see of a host (its tools)
/// changes with time.
pub(crate) const EVIDENCE_LIFE: Millis = Millis::from_mins(24 * 60);

/// Most notes that a header holds.
const MOST_NOTES: usize = 20;

/// What a verdict depends on besides the commits.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// Whose.
    pub(crate) gate: GateName,
    /// The judged tree.
    pub(crate) tree: CommitSha,
    /// Hash of the gate's own settings.
    pub(crate) settings: String,
    /// Hash of what surrounds it.
    pub(crate) environment: String,
}

/// What a gate found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Its verdict.
    pub(crate) verdict: Verdict,
    /// Note (passed), findings for the next prompt (failed), or why nothing can be concluded.
    pub(crate) text: String,
    /// What was let pass unseen; each a sentence for people.
    pub(crate) warnings: Vec<String>,
    /// What was counted, in the gate's own order.
    pub(crate) counts: Vec<Count>,
    /// Tools that took part, besides `orch` itself.
    pub(crate) tools: Vec<ToolVersion>,
    /// Notes of one line each.
    pub(crate) notes: Vec<String>,
    /// The report below the notes.
    pub(crate) body: String,
    /// When the gate began.
    pub(crate) started: Timestamp,
    /// How long the verdict may be reused.
    pub(crate) life: Millis,
}

impl Found {
    /// A verdict with its text and nothing else yet.
    pub(crate) const fn new(verdict: Verdict, text: String, started: Timestamp) -> Self {
        Self {
            verdict,
            text,
            warnings: Vec::new(),
            counts: Vec::new(),
            tools: Vec::new(),
            notes: Vec::new(),
            body: String::new(),
            started,
            life: EVIDENCE_LIFE,
        }
    }
}

/// One named number.
pub(crate) fn count(name: &str, value: u64) -> Count {
    Count { name: name.to_owned(), value }
}

fn row_key(subject: &GateSubject, evidence: &Evidence) -> EvidenceKey {
    EvidenceKey {
        gate: evidence.gate.as_str().to_owned(),
        repo: subject.repo.clone(),
        // Without a base the rules come from the head itself.
        base: subject.rules_at().clone(),
        head: subject.head.clone(),
        tree: evidence.tree.clone(),
        settings: evidence.settings.clone(),
        environment: evidence.environment.clone(),
    }
}

/// The answer of an earlier run on the same evidence, if its report still says so.
pub(crate) async fn known(ctx: &Context, subject: &GateSubject, evidence: &Evidence) -> Option<GateAnswer> {
    let found = ctx.store.find_verdict(&row_key(subject, evidence), ctx.now()).await;
    let row = found.unwrap_or_else(|error| {
        tracing::warn!(task.id = %subject.task, %error, "earlier verdicts could not be looked up");
        None
    })?;
    let (path, sha256) = row.verdict.report?;
    let report = reference(subject, evidence.gate, ctx.paths.report(&path), sha256);
    let read = reread(&report)
        .await
        .inspect_err(|error| tracing::warn!(task.id = %subject.task, %error, "an earlier verdict does not count"))
        .ok()?;
    let text = row.verdict.findings.unwrap_or_default();
    let end = match read.verdict {
        Verdict::Passed => CheckEnd::passed(text),
        Verdict::Failed => CheckEnd::Failed { findings: text },
        Verdict::CouldNotRun => return None,
    };
    Some(GateAnswer { end, report: Some(report), cause: Cause::None, earlier: Some(read.header.run) })
}

/// Reads a report again and compares all of it: what every decision on an older verdict rests on.
///
/// # Errors
/// In words, when it is not there any more or says something else.
pub(crate) async fn reread(report: &ReportRef) -> Result<ReadReport, String> {
    let expect = Expect {
        gate: report.gate,
        head: report.head.clone(),
        base: report.base.clone(),
        run: None,
        sha256: Some(report.sha256.clone()),
    };
    let path = report.path.clone();
    match tokio::task::spawn_blocking(move || reports::read_report(&path, &expect)).await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(error) => Err(format!("the report was not read: {error}")),
    }
}

/// Writes the report and reads it back, and records the row beside that; what was read back is the answer.
pub(crate) async fn conclude(ctx: &Context, subject: &GateSubject, evidence: &Evidence, found: Found) -> GateAnswer {
    let header = header(ctx, subject, evidence, &found);
    let mut body = format!("# {}: {}\n\n", evidence.gate, found.verdict);
    for note in &header.notes {
        body.push_str(&format!("**Note:** {note}\n\n"));
    }
    body.push_str(&found.body);
    let path = report_path(ctx, subject, evidence.gate);
    let file = path.clone();
    let (tell, told) = oneshot::channel();
    let written = tokio::task::spawn_blocking(move || {
        let draft = Draft::new(&file, &header, &body)?;
        // Nobody hears it only when this whole run was cut off.
        let _ = tell.send(draft.sha256().to_owned());
        draft.write_and_read_back()
    });
    // Both wait for the disk, so they wait together: a row counts only while its report is there and says the same.
    let row = async {
        if let Ok(sha256) = told.await {
            let report = reference(subject, evidence.gate, path.clone(), sha256);
            record(ctx, subject, evidence, found.verdict, &found, &report).await;
        }
    };
    let (written, ()) = futures::join!(written, row);
    let read = match written {
        Ok(Ok(read)) => read,
        // Our disk is nobody's mistake.
        Ok(Err(error @ ReportError::Io { .. })) => return GateAnswer::could_not_run(error.to_string()),
        Ok(Err(error)) => return CheckEnd::Failed { findings: format!("the verdict does not stand: {error}") }.into(),
        Err(error) => return GateAnswer::could_not_run(format!("the report was not written: {error}")),
    };
    let report = reference(subject, evidence.gate, path, read.sha256);
    let end = match read.verdict {
        Verdict::Passed => CheckEnd::Passed { note: found.text, warnings: found.warnings },
        Verdict::Failed => CheckEnd::Failed { findings: found.text },
        Verdict::CouldNotRun => CheckEnd::CouldNotRun { why: found.text },
    };
    GateAnswer { end, report: Some(report), cause: Cause::None, earlier: None }
}

fn reference(subject: &GateSubject, gate: GateName, path: PathBuf, sha256: String) -> ReportRef {
    ReportRef { gate, path, sha256, head: subject.head.clone(), base: subject.base.clone() }
}

fn header(ctx: &Context, subject: &GateSubject, evidence: &Evidence, found: &Found) -> ReportHeader {
    let own = ToolVersion { name: "orch".to_owned(), version: ctx.version.clone() };
    // A note is one line, and all of them together fit a header; what was let pass unseen comes first.
    let notes = found.warnings.iter().chain(&found.notes).take(MOST_NOTES).map(|note| one_line(note)).collect();
    ReportHeader {
        gate: evidence.gate,
        verdict: found.verdict,
        repo: subject.repo.clone(),
        base: subject.base.clone(),
        head: subject.head.clone(),
        tree: evidence.tree.clone(),
        run: subject.run.clone(),
        tools: std::iter::once(own).chain(found.tools.iter().cloned()).collect(),
        started: found.started,
        duration: ctx.now().since(found.started),
        counts: found.counts.clone(),
        notes,
    }
}

/// Each run's report keeps its place: rows and proofs name it by path and hash.
fn report_path(ctx: &Context, subject: &GateSubject, gate: GateName) -> PathBuf {
    let folder = ctx.paths.reports.join(subject.key.slug()).join(subject.generation.to_string());
    let (head, base) = (subject.head.short(), subject.rules_at().short());
    folder.join(format!("{}-{head}-on-{base}", subject.run)).join(gate.report_file())
}

async fn record(
    ctx: &Context,
    subject: &GateSubject,
    evidence: &Evidence,
    verdict: Verdict,
    found: &Found,
    report: &ReportRef,
) {
    let now = ctx.now();
    let row = NewVerdict {
        key: row_key(subject, evidence),
        outcome: match verdict {
            Verdict::Passed => VerdictOutcome::Passed,
            Verdict::Failed => VerdictOutcome::Failed,
            Verdict::CouldNotRun => VerdictOutcome::CouldNotRun,
        },
        report: Some((report.path.clone(), report.sha256.clone())),
        findings: Some(found.text.clone()),
        task: Some(subject.task.clone()),
        expires: Some(now.after(found.life)),
    };
    // Only an index: without the row the same is run again.
    if let Err(error) = ctx.store.insert_verdict(row, now).await {
        tracing::warn!(task.id = %subject.task, %error, "a verdict of {} was not recorded", evidence.gate);
    }
}

/// Hash of what surrounds a repository's commands: `setup`, environment, search path with the state of its folders, our own
/// version, cache generation.
pub(crate) fn surroundings(ctx: &Context, repo: &RepoRuntime) -> String {
    let cache: Option<String> = None;
    let settings = &repo.settings;
    let path = settings.env.get("PATH").unwrap_or(&ctx.path);
    pin_hash(&(&settings.commands.setup, &settings.env, &ctx.path, programs(path), &ctx.version, cache))
}

/// The folders of a search path, each with when programs last came, went or were replaced there: another compiler is other
/// evidence. What changes a tool behind the same program (a toolchain that a proxy chooses) is not seen.
fn programs(path: &str) -> Vec<(String, Option<u128>)> {
    let changed = |folder: &PathBuf| {
        let changed = std::fs::metadata(folder).and_then(|found| found.modified()).ok()?;
        Some(changed.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos())
    };
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    folders.map(|folder| (folder.display().to_string(), changed(&folder))).collect()
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1_000).collect()
}

/// A fenced block that its own content cannot close.
pub(crate) fn fenced(text: &str) -> String {
    let longest = text.lines().map(|line| line.trim_start().chars().take_while(|c| *c == '`').count()).max();
    let fence = "`".repeat(longest.unwrap_or(0).max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_replaced_on_the_search_path_is_another_environment() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        std::fs::create_dir_all(&first).expect("made");
        std::fs::create_dir_all(&second).expect("made");
        let program = second.join("cc");
        std::fs::write(&program, "old").expect("written");
        let path = format!("{}:{}:relative:/nowhere/at/all", first.display(), second.display());
        let before = programs(&path);
        assert_eq!(before.len(), 3, "a folder that is not there may come: {before:?}");
        assert_eq!(programs(&path), before);
        // As a package manager does it: beside, then renamed.
        std::fs::write(second.join("cc.new"), "new").expect("written");
        let long_ago = std::fs::File::open(&second).expect("a folder");
        long_ago.set_modified(std::time::UNIX_EPOCH).expect("set");
        let before = programs(&path);
        std::fs::rename(second.join("cc.new"), &program).expect("renamed");
        assert_ne!(programs(&path), before);
    }
}
