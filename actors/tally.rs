//! What the gates have said so far, for `GET /queue` and the metrics.
//!
//! Owns the translation from verdict rows to a view. Counts what the store still holds; refuses to judge by it.

use orch_adapters::secrets;
use orch_domain::gate::GateName;
use orch_store::{StoreError, VerdictOutcome};

use crate::api::{GateTally, LastVerdict, SecurityView};
use crate::context::Context;

/// The block `security`.
pub(crate) async fn security(ctx: &Context) -> Result<SecurityView, StoreError> {
    let settings = &ctx.security;
    let engine = secrets::describe(settings.engine, &settings.gitleaks, &ctx.path);
    Ok(SecurityView { engine, tally: of(ctx, GateName::Security).await? })
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
