//! What the gates have said so far, for `GET /queue` and the metrics.
//!
//! Owns the translation from verdict rows to a view, and the counts of the dependency audit, which are of this process only:
//! a verdict row does not tell a pass with gaps from a whole one. Counts what the store still holds; refuses to judge by it.

use std::sync::{Mutex, PoisonError};

use orch_adapters::{advisories, secrets};
use orch_domain::gate::{GateName, Verdict};
use orch_domain::time::Timestamp;
use orch_store::{StoreError, VerdictOutcome};

use crate::api::{AuditGap, AuditView, GateTally, LastVerdict, SecurityView};
use crate::context::Context;

/// What the dependency audit has said since this process began.
#[derive(Debug, Default)]
pub struct AuditTally(Mutex<AuditView>);

impl AuditTally {
    /// Counts one answer; `gap` says what it left unknown, if anything.
    pub(crate) fn note(&self, verdict: Verdict, gap: Option<String>, at: Timestamp) {
        let mut view = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match (verdict, &gap) {
            (Verdict::Passed, None) => &mut view.whole,
            (Verdict::Passed, Some(_)) => &mut view.degraded,
            (Verdict::Failed, _) => &mut view.failed,
            (Verdict::CouldNotRun, _) => &mut view.could_not_run,
        };
        *count += 1;
        if let Some(why) = gap {
            view.last_gap = Some(AuditGap { at, why });
        }
    }

    fn view(&self, feed: String) -> AuditView {
        AuditView { feed, ..self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() }
    }
}

/// The block `security`.
pub(crate) async fn security(ctx: &Context) -> Result<SecurityView, StoreError> {
    let settings = &ctx.security;
    let engine = secrets::describe(settings.engine, &settings.gitleaks, &ctx.path);
    let audit = settings.audit.enabled.then(|| settings.audit.tally.view(advisories::describe(&settings.audit.feed)));
    Ok(SecurityView { engine, audit, tally: of(ctx, GateName::Security).await? })
}

/// The tally of one gate.
pub(crate) async fn of(ctx: &Context, gate: GateName) -> Result<GateTally, StoreError> {
    let (counts, newest) = ctx.store.verdicts_by(gate.as_str()).await?;
    let mut tally = GateTally::default();
    for (outcome, number) in counts {
        match outcome {
            VerdictOutcome::Passed => tally.passed = number,
            VerdictOutcome::Failed => tally.failed = number,
            VerdictOutcome::CouldNotRun => tally.could_not_run = number,
        }
    }
    if let Some(newest) = newest {
        let task = match &newest.verdict.task {
            Some(task) => ctx.store.load_task(task).await?.map(|stored| stored.task.key),
            None => None,
        };
        tally.last = Some(LastVerdict {
            at: newest.at,
            verdict: newest.verdict.outcome.as_str().to_owned(),
            repo: newest.verdict.key.repo,
            task,
            head: newest.verdict.key.head,
        });
    }
    Ok(tally)
}
