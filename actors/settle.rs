//! Settling: proving that nothing of a task's earlier jobs is left before anything new begins.
//!
//! Owns the rule that a job found recorded as live is never assumed dead: it is looked at by its identity, ended, and
//! waited for. Jobs of a window are left alone; the lane attaches to those.

use std::time::Duration;

use orch_adapters::ports::{EndLevel, Observed};
use orch_domain::ids::{JobId, TaskId};
use orch_domain::job::{JobEnd, JobExit, JobIdentity, JobRecord};
use orch_store::JobRow;

use crate::context::Context;

/// Longest wait for one job that was told to end; its shim kills after the job's own grace, which is shorter.
const WAIT: Duration = Duration::from_secs(90);

/// The same for one that could not be told: it may be about to end by itself.
const UNTOLD: Duration = Duration::from_secs(2);

/// Ends the live jobs of a task, all but those of windows, and records how they ended. Returns what could not be proven.
pub async fn settle_jobs(ctx: &Context, task: &TaskId) -> Vec<String> {
    settle_others(ctx, task, None).await
}

/// The same, but for one job that goes on.
pub async fn settle_others(ctx: &Context, task: &TaskId, but: Option<&JobId>) -> Vec<String> {
    let mut jobs = match mine(ctx, task).await {
        Ok(jobs) => jobs,
        Err(why) => return vec![why],
    };
    jobs.retain(|job| but != Some(&job.record.identity.job));
    let ended = futures::future::join_all(jobs.into_iter().map(|job| settle_job(ctx, job))).await;
    ended.into_iter().flatten().collect()
}

async fn mine(ctx: &Context, task: &TaskId) -> Result<Vec<JobRow>, String> {
    let jobs = ctx.store.live_jobs().await.map_err(|error| format!("the jobs could not be read: {error}"))?;
    Ok(jobs.into_iter().filter(|j| j.record.task.as_ref() == Some(task) && !j.record.kind.is_window()).collect())
}

/// Ends one recorded job, whichever state it is found in. Returns what could not be proven. While its guard lives it is
/// not said to have ended: its row stays live.
pub async fn settle_job(ctx: &Context, job: JobRow) -> Option<String> {
    let identity = job.record.identity.clone();
    let exit = match ctx.runner.placement.observe(&identity).await {
        Ok(Observed::Ended(exit)) => Ok(exit),
        Ok(Observed::Gone { evidence, proven_gone }) => Ok(lost(ctx, proven_gone, &evidence)),
        // Who does not answer may still hear.
        Ok(Observed::Idle | Observed::Running) | Err(_) => end_and_wait(ctx, &identity).await,
    };
    let named = named(&job.record);
    let exit = match exit {
        Ok(exit) => exit,
        Err(why) => return Some(format!("{named}: {why}")),
    };
    let unproven = (!exit.proven_gone).then(|| format!("{named}: nobody can say that nothing of it is left"));
    match ctx.store.job_ended(&identity.job, exit).await {
        Ok(()) => unproven,
        Err(error) => {
            tracing::error!(job.id = %identity.job, %error, "the end of job {} could not be recorded", identity.job);
            Some(format!("job {}: its end could not be recorded: {error}", identity.job))
        }
    }
}

/// What a person can look for: the job's id, what it was for, and its guard.
pub fn named(job: &JobRecord) -> String {
    format!("job {} ({}; guard {})", job.identity.job, job.label, job.identity.pid)
}

/// How it ended; or why it is not known to have ended.
async fn end_and_wait(ctx: &Context, identity: &JobIdentity) -> Result<JobExit, String> {
    let placement = &ctx.runner.placement;
    for (level, wait) in [(EndLevel::Term, WAIT), (EndLevel::Kill, WAIT)] {
        let told = placement.end(identity, level).await;
        if let Err(error) = &told {
            tracing::warn!(job.id = %identity.job, %error, "job {} could not be told to end", identity.job);
        }
        let wait = if told.is_ok() { wait } else { UNTOLD };
        match tokio::time::timeout(wait, placement.wait(identity)).await {
            Ok(Ok(exit)) => return Ok(exit),
            Ok(Err(error)) => {
                tracing::warn!(job.id = %identity.job, %error, "job {} could not be waited for", identity.job);
            }
            Err(_) => {}
        }
    }
    match placement.observe(identity).await {
        Ok(Observed::Ended(exit)) => Ok(exit),
        Ok(Observed::Gone { evidence, proven_gone }) => Ok(lost(ctx, proven_gone, &evidence)),
        Ok(Observed::Idle | Observed::Running) => Err("it did not end in time and is still there".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn lost(ctx: &Context, proven_gone: bool, evidence: &str) -> JobExit {
    tracing::info!(proven_gone, evidence, "a recorded job was found without its guard");
    JobExit { end: JobEnd::Lost, started: None, ended: ctx.now(), proven_gone, swept: 0, log_cut: false }
}
