//! From what a check showed to its verdict: evidence, report, row, answer.
//!
//! Owns the key under which a verdict may be reused, and the report's text. Invariants: what is answered was read back
//! from the report; an earlier verdict counts only while its report still says the same, byte for byte.

use std::path::PathBuf;

use orch_adapters::reports::{self, Expect, ReportError};
use orch_domain::event::CheckEnd;
use orch_domain::gate::{Count, EvidenceKey, GateName, ReportHeader, ToolVersion, Verdict};
use orch_domain::policy::pin_hash;
use orch_domain::testcount::Counts;
use orch_domain::time::Millis;
use orch_store::{NewVerdict, VerdictOutcome};

use super::checks::Check;
use super::command;
use crate::context::{Context, RepoRuntime};

/// How long a conclusive verdict may be reused: what we do not see of a host (its tools) changes with time.
const EVIDENCE_LIFE: Millis = Millis::from_mins(24 * 60);

/// What a run amounts to.
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    /// Note or findings.
    pub(super) text: String,
    pub(super) counts: Option<Counts>,
    pub(super) notes: Vec<String>,
    /// End of the output, cleaned.
    pub(super) tail: String,
}

impl Outcome {
    pub(super) const fn could_not_run(why: String) -> Self {
        Self { verdict: Verdict::CouldNotRun, text: why, counts: None, notes: Vec::new(), tail: String::new() }
    }
}

impl Check<'_> {
    /// The key of this check's evidence.
    fn key(&self) -> EvidenceKey {
        let settings = &self.repo.settings;
        EvidenceKey {
            gate: self.gate,
            repo: self.req.repo.clone(),
            base: self.req.base.clone(),
            heads: vec![self.req.head.clone()],
            tree: self.tree.clone(),
            settings_hash: pin_hash(&(&self.command.line, &settings.commands.junit, settings.limits.test)),
            env_hash: surroundings(self.ctx, &self.repo),
        }
    }

    fn row_key(&self) -> orch_store::EvidenceKey {
        let key = self.key();
        orch_store::EvidenceKey {
            gate: key.gate.as_str().to_owned(),
            repo: key.repo,
            // Without a base the rules come from the head itself.
            base: key.base.unwrap_or_else(|| self.req.head.clone()),
            head: self.req.head.clone(),
            tree: key.tree,
            settings: key.settings_hash,
            environment: key.env_hash,
        }
    }

    /// The answer of an earlier run on the same evidence, if its report still says so.
    pub(super) async fn known(&self) -> Option<CheckEnd> {
        // Staging changes the world: it is done as often as it is asked for.
        if self.gate == GateName::Staging {
            return None;
        }
        let found = self.ctx.store.find_verdict(&self.row_key(), self.ctx.now()).await;
        let row = found.unwrap_or_else(|error| {
            tracing::warn!(task.id = %self.req.task, %error, "earlier verdicts could not be looked up");
            None
        })?;
        let (path, sha256) = row.verdict.report?;
        let (base, head) = (self.req.base.clone(), self.req.head.clone());
        let expect = Expect { gate: self.gate, head, base, run: None, sha256: Some(sha256) };
        let read = tokio::task::spawn_blocking(move || reports::read_report(&path, &expect)).await.ok()?;
        let report = read
            .inspect_err(|error| tracing::warn!(task.id = %self.req.task, %error, "an earlier verdict does not count"))
            .ok()?;
        let text = row.verdict.findings.unwrap_or_default();
        let again = format!("judged before, by run {}", report.header.run);
        match report.verdict {
            Verdict::Passed => Some(CheckEnd::Passed { note: format!("{text} ({again})") }),
            Verdict::Failed => Some(CheckEnd::Failed { findings: format!("{text}\n({again})") }),
            Verdict::CouldNotRun => None,
        }
    }

    /// Writes the report, reads it back, records the row; what was read back is the answer.
    pub(super) async fn conclude(&self, mut outcome: Outcome) -> CheckEnd {
        let mut notes = self.command.notes.clone();
        notes.append(&mut outcome.notes);
        if let (Some(base), true) = (&self.req.base, self.gate == GateName::Tests) {
            match command::drift(&self.git, base, &self.req.head).await {
                Ok(drift) => notes.extend(drift),
                Err(error) => notes.push(format!("what the branch changed about its tests is not known: {error}")),
            }
        }
        // A note is one line, and all of them together fit a header.
        let notes: Vec<String> = notes.iter().take(20).map(|note| one_line(note)).collect();
        let header = self.header(&outcome, notes);
        let body = self.body(&header, &outcome);
        let path = self.report_path();
        let file = path.clone();
        let written = tokio::task::spawn_blocking(move || reports::write_and_read_back(&file, &header, &body)).await;
        let report = match written {
            Ok(Ok(report)) => report,
            // Our disk is nobody's mistake.
            Ok(Err(error @ ReportError::Io { .. })) => return CheckEnd::CouldNotRun { why: error.to_string() },
            Ok(Err(error)) => return CheckEnd::Failed { findings: format!("the verdict does not stand: {error}") },
            Err(error) => return CheckEnd::CouldNotRun { why: format!("the report was not written: {error}") },
        };
        self.record(&report.verdict, &outcome.text, (path, report.sha256)).await;
        match report.verdict {
            Verdict::Passed => CheckEnd::Passed { note: outcome.text },
            Verdict::Failed => CheckEnd::Failed { findings: outcome.text },
            Verdict::CouldNotRun => CheckEnd::CouldNotRun { why: outcome.text },
        }
    }

    fn header(&self, outcome: &Outcome, notes: Vec<String>) -> ReportHeader {
        let count = |name: &str, value| Count { name: name.to_owned(), value };
        let counts = outcome.counts.map_or_else(Vec::new, |counts| {
            vec![
                count("passed", counts.passed),
                count("failed", counts.failed),
                count("skipped", counts.skipped),
                count("total", counts.total),
            ]
        });
        ReportHeader {
            gate: self.gate,
            verdict: outcome.verdict,
            repo: self.req.repo.clone(),
            base: self.req.base.clone(),
            head: self.req.head.clone(),
            tree: self.tree.clone(),
            run: self.req.run.clone(),
            tools: vec![ToolVersion { name: "orch".to_owned(), version: self.ctx.version.clone() }],
            started: self.started,
            duration: self.ctx.now().since(self.started),
            counts,
            notes,
        }
    }

    fn body(&self, header: &ReportHeader, outcome: &Outcome) -> String {
        let mut body = format!("# {}: {}\n\n", self.gate, outcome.verdict);
        for note in &header.notes {
            body.push_str(&format!("**Note:** {note}\n\n"));
        }
        let summary = outcome.text.split("\n\n").next().unwrap_or_default();
        body.push_str(&format!("Command, {}:\n\n{}\n", self.command.source, fenced(&self.command.line)));
        body.push_str(&format!("{}\n", fenced(summary)));
        if !outcome.tail.is_empty() {
            body.push_str(&format!("End of the output:\n\n{}", fenced(&outcome.tail)));
        }
        body
    }

    /// Each run's report keeps its place: rows and proofs name it by path and hash.
    fn report_path(&self) -> PathBuf {
        let folder = self.ctx.paths.reports.join(self.req.key.slug()).join(self.req.generation.to_string());
        let head = self.req.head.short();
        let base = self.req.base.as_ref().unwrap_or(&self.req.head).short();
        folder.join(format!("{}-{head}-on-{base}", self.req.run)).join(self.gate.report_file())
    }

    async fn record(&self, verdict: &Verdict, text: &str, report: (PathBuf, String)) {
        let now = self.ctx.now();
        let row = NewVerdict {
            key: self.row_key(),
            outcome: match verdict {
                Verdict::Passed => VerdictOutcome::Passed,
                Verdict::Failed => VerdictOutcome::Failed,
                Verdict::CouldNotRun => VerdictOutcome::CouldNotRun,
            },
            report: Some(report),
            findings: Some(text.to_owned()),
            task: Some(self.req.task.clone()),
            expires: Some(now.after(EVIDENCE_LIFE)),
        };
        // Only an index: without the row the same is run again.
        if let Err(error) = self.ctx.store.insert_verdict(row, now).await {
            tracing::warn!(task.id = %self.req.task, %error, "a verdict of {} was not recorded", self.gate);
        }
    }
}

/// Hash of what surrounds a repository's commands: `setup`, environment, search path, our own version, cache generation.
fn surroundings(ctx: &Context, repo: &RepoRuntime) -> String {
    let cache: Option<String> = None;
    let settings = &repo.settings;
    pin_hash(&(&settings.commands.setup, &settings.env, &ctx.path, &ctx.version, cache))
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1_000).collect()
}

/// A fenced block that its own content cannot close.
fn fenced(text: &str) -> String {
    let longest = text.lines().map(|line| line.trim_start().chars().take_while(|c| *c == '`').count()).max();
    let fence = "`".repeat(longest.unwrap_or(0).max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}
