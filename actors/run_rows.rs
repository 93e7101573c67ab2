//! Rows of runs: when each began, how it ended and what it spent, for people.
//!
//! Owns the words for an end. Decides nothing and is decided upon by nothing: the task's row is the truth, and a row that
//! could not be written is only logged.

use orch_domain::event::{CheckEnd, Event};
use orch_domain::ids::RunId;
use orch_domain::job::JobEnd;
use orch_domain::task::{Task, headline};
use orch_store::{NewRun, RunRow};

use crate::context::Context;

/// How the outcome of a run begins that was found cut off.
const INTERRUPTED: &str = "interrupted:";

/// Whether a run's own result was never recorded: it has no end, or only the one that [`interrupted`] gives it.
pub(crate) fn was_cut_off(row: &RunRow) -> bool {
    let outcome = row.outcome.as_ref().and_then(|outcome| outcome.as_str());
    row.ended.is_none() || outcome.is_some_and(|outcome| outcome.starts_with(INTERRUPTED))
}

/// Records that a run was found cut off when its task's actor began.
pub(crate) async fn interrupted(ctx: &Context, run: &RunId) {
    let outcome = format!("{INTERRUPTED} its supervisor or its actor was restarted");
    if let Err(error) = ctx.store.end_run(run, outcome.into(), None, ctx.now()).await {
        tracing::warn!(run.id = %run, %error, "the end of run {run} could not be recorded");
    }
}

/// Which of the runs at its task's stage a check or command is, from 1: what the number of an attempt says of agents, too.
pub(crate) async fn nth(ctx: &Context, task: &Task, run: &RunId) -> u32 {
    let before = match ctx.store.runs(&task.id).await {
        Ok(rows) => rows.iter().filter(|row| row.run.stage == task.stage && row.run.id != *run).count(),
        Err(error) => {
            tracing::warn!(run.id = %run, %error, "the runs before run {run} could not be counted");
            0
        }
    };
    u32::try_from(before + 1).unwrap_or(u32::MAX)
}

/// Records that a run begins.
pub(crate) async fn start(ctx: &Context, run: NewRun) {
    let id = run.id.clone();
    if let Err(error) = ctx.store.start_run(run).await {
        tracing::warn!(run.id = %id, %error, "the start of run {id} could not be recorded");
    }
}

/// Records how a run ended, for people; the task's row has what is decided upon.
pub(crate) async fn end(ctx: &Context, event: &Event) {
    let (run, outcome, usage) = match event {
        Event::RunEnded { run, facts } => {
            let outcome = match (&facts.trouble, &facts.end) {
                (Some(why), _) => format!("could not run: {why}"),
                (None, Some(end)) => end_text(end),
                (None, None) => "never began".to_owned(),
            };
            (run, outcome, Some(facts.report.usage))
        }
        Event::CheckEnded { run, end } => {
            let outcome = match end {
                CheckEnd::Passed { note, .. } => format!("passed: {note}"),
                CheckEnd::Failed { findings } => format!("failed: {}", headline(findings)),
                CheckEnd::CouldNotRun { why } | CheckEnd::NotConfigured { why } => format!("could not run: {why}"),
            };
            (run, outcome, None)
        }
        _ => return,
    };
    if let Err(error) = ctx.store.end_run(run, outcome.into(), usage, ctx.now()).await {
        tracing::warn!(run.id = %run, %error, "the end of run {run} could not be recorded");
    }
}

fn end_text(end: &JobEnd) -> String {
    match end {
        JobEnd::Exited { code } => format!("exit code {code}"),
        JobEnd::Signalled { signal } => format!("ended by signal {signal}"),
        JobEnd::Cancelled => "cancelled".to_owned(),
        JobEnd::TimedOut => "its time was over".to_owned(),
        JobEnd::Stalled => "silent for longer than allowed".to_owned(),
        JobEnd::OverLimit { what } => format!("over a limit: {what}"),
        JobEnd::Orphaned => "its supervisor was gone".to_owned(),
        JobEnd::CouldNotStart { why } => format!("could not be started: {why}"),
        JobEnd::Lost => "lost".to_owned(),
    }
}
