//! From what a check showed to its verdict.
//!
//! Owns what a check's verdict depends on and the text of its report; `conclude` does the rest.

use orch_domain::gate::{GateName, Verdict};
use orch_domain::policy::pin_hash;
use orch_domain::testcount::Counts;

use super::answer::GateAnswer;
use super::checks::Check;
use super::command;
use super::conclude::{self, Evidence, Found, count, fenced, surroundings};

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
    /// The shell line: where coverage is measured in the same run, that command.
    fn line(&self) -> &str {
        let plain = self.command.as_ref().map(|command| command.line.as_str()).unwrap_or_default();
        self.with_coverage.as_ref().map_or(plain, |plan| plan.measuring.line.as_str())
    }

    fn source(&self) -> String {
        match (&self.with_coverage, &self.command) {
            (Some(plan), _) => format!("{}; it runs the tests and measures coverage", plan.measuring.why),
            (None, Some(command)) => command.source.clone(),
            (None, None) => String::new(),
        }
    }

    fn evidence(&self) -> Evidence {
        let settings = &self.site.repo.settings;
        Evidence {
            gate: self.site.gate,
            tree: self.tree.clone(),
            settings: match &self.with_coverage {
                None => pin_hash(&(self.line(), &settings.commands.junit, settings.limits.test)),
                Some(plan) => {
                    pin_hash(&(self.line(), plan.configuration(), &settings.commands.junit, settings.limits.test))
                }
            },
            environment: surroundings(self.site.ctx, &self.site.repo),
        }
    }

    /// The answer of an earlier run on the same evidence, if its report still says so.
    pub(super) async fn known(&self) -> Option<GateAnswer> {
        // Staging changes the world: it is done as often as it is asked for.
        if self.site.gate == GateName::Staging {
            return None;
        }
        conclude::known(self.site.ctx, self.req, &self.evidence()).await
    }

    /// Writes the report, reads it back, records the row; what was read back is the answer.
    pub(super) async fn conclude(&self, mut outcome: Outcome) -> GateAnswer {
        let mut notes = self.command.as_ref().map(|command| command.notes.clone()).unwrap_or_default();
        notes.append(&mut outcome.notes);
        if let (Some(base), true) = (&self.req.base, self.site.gate == GateName::Tests) {
            match command::drift(&self.site.git, base, &self.req.head).await {
                Ok(drift) => notes.extend(drift),
                Err(error) => notes.push(format!("what the branch changed about its tests is not known: {error}")),
            }
        }
        let counts = outcome.counts.map_or_else(Vec::new, |counts| {
            vec![
                count("passed", counts.passed),
                count("failed", counts.failed),
                count("skipped", counts.skipped),
                count("total", counts.total),
            ]
        });
        let body = self.body(&outcome);
        let found = Found { counts, notes, body, ..Found::new(outcome.verdict, outcome.text, self.started) };
        conclude::conclude(self.site.ctx, self.req, &self.evidence(), found).await
    }

    fn body(&self, outcome: &Outcome) -> String {
        let summary = outcome.text.split("\n\n").next().unwrap_or_default();
        let mut body = format!("Command, {}:\n\n{}\n", self.source(), fenced(self.line()));
        body.push_str(&format!("{}\n", fenced(summary)));
        if !outcome.tail.is_empty() {
            body.push_str(&format!("End of the output:\n\n{}", fenced(&outcome.tail)));
        }
        body
    }
}
