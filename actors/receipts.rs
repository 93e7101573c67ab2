//! Receipts that a closed task left unfinished: the last proofs after a crash, and what waited for a remote part; also the
//! branch of a landed task that could not be taken away yet.
//!
//! Owns the repetition of pending steps, by the schedule of the domain, and its end. Called by every pass of the
//! reconciler. Refuses to repeat anything but what says that it waits: a step that was kept stays as it was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orch_adapters::git::Owner;
use orch_domain::ids::TaskId;
use orch_domain::journal::Entry;
use orch_domain::stop::{ReceiptLine, StepResult, StopStep, retry_at};
use orch_domain::task::Task;
use orch_store::{PendingStep, Subject};
use serde_json::json;

use crate::context::Context;
use crate::stop_saga::{actors_ended, closed, not_configured, remove_task_branch};

/// Writes the last lines of a receipt whose supervisor ended between closing the task and proving it: the process that
/// had its actors is gone, and none of this one has any.
pub(crate) async fn finish_receipt(ctx: &Context, task: &TaskId) {
    let Ok(Some(stored)) = ctx.store.look_at_task(task).await else { return };
    for (step, result) in [(StopStep::Tombstone, closed(&stored.task)), (StopStep::Actors, actors_ended())] {
        let line = ReceiptLine { step, at: ctx.now(), result };
        if let Err(error) = ctx.store.put_receipt_line(task, line).await {
            tracing::warn!(task.id = %task, %error, "the receipt of a stopped task could not be finished");
        }
    }
}

/// Tries pending steps again that are due, one after the other, in a side task: a remote part that hangs holds nobody up.
/// While one round is under way, `busy` lets no other begin.
pub(crate) fn retry_pending(ctx: &Arc<Context>, busy: &Arc<AtomicBool>) {
    if busy.swap(true, Ordering::AcqRel) {
        return;
    }
    let (ctx, free) = (ctx.clone(), Free(busy.clone()));
    tokio::spawn(async move {
        let _free = free;
        match ctx.store.pending_steps().await {
            Ok(steps) => {
                for step in steps {
                    retry(&ctx, step).await;
                }
            }
            Err(error) => tracing::warn!(%error, "steps of STOPs that wait could not be read"),
        }
    });
}

/// Lets the next round begin, however this one ends.
struct Free(Arc<AtomicBool>);

impl Drop for Free {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

async fn retry(ctx: &Context, pending: PendingStep) {
    let PendingStep { task: id, closed, line } = pending;
    if retry_at(closed, line.at).is_some_and(|due| ctx.now() < due) {
        return;
    }
    let Ok(Some(stored)) = ctx.store.look_at_task(&id).await else { return };
    let task = stored.task;
    let result = match line.step {
        StopStep::RemoteBranch => match ctx.repo(&task.repo) {
            Some(repo) => remove_task_branch(ctx, &repo.git.for_owner(Owner::default()), &task).await,
            None => StepResult::Pending { why: not_configured(&task) },
        },
        // No other step waits for a remote part.
        _ => return,
    };
    let result = match (result, retry_at(closed, line.at)) {
        (StepResult::Pending { why }, None) => StepResult::Kept {
            because: format!("tried for a week, last: {why}; delete {} at the forge by hand", task.branch()),
        },
        (result, _) => result,
    };
    settle(ctx, &task, ReceiptLine { step: line.step, at: ctx.now(), result }).await;
}

async fn settle(ctx: &Context, task: &Task, line: ReceiptLine) {
    let (step, said) = (line.step, line.result.clone());
    if let Err(error) = ctx.store.put_receipt_line(&task.id, line).await {
        tracing::warn!(task.id = %task.id, %error, "the receipt of a stopped task could not be completed");
        return;
    }
    let text = match said {
        StepResult::Pending { .. } => return,
        StepResult::Done { proof } | StepResult::Nothing { proof } => format!("{}: {proof}", step.as_str()),
        StepResult::Kept { because } => format!("{}: kept, because {because}", step.as_str()),
        StepResult::Unproven { why } => format!("{}: unproven, {why}", step.as_str()),
    };
    let kind = if task.stop.is_some() { "receipt-completed" } else { "branch-tidied" };
    let entry = Entry::new(kind, text).with(json!({"step": step}));
    if let Err(error) = ctx.store.append(Subject::task(task), vec![entry], ctx.now()).await {
        tracing::warn!(task.id = %task.id, %error, "that a receipt was completed could not be journaled");
    }
}
