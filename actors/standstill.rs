//! The standstill on a full disk: agents and gates stop where they are, go on when there is space again, and are ended one
//! by one where none comes.
//!
//! Owns when the disk counts as full (a change was refused for want of space, or less is free than the hard mark), the
//! freezing and thawing of the jobs that fill it, and the shedding: the largest first, one at a time, with a look in
//! between. Refuses to touch jobs of windows, git commands and captures: an intent that was sent is finished, and STOP
//! needs the others. Invariant: nothing stands still that is not shown, and what an earlier supervisor left standing goes
//! on unless the disk is full now, too.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use orch_adapters::disk::allocated;
use orch_adapters::ports::{EndLevel, JobError, Urgency};
use orch_domain::ids::{JobId, TaskId};
use orch_domain::job::{JobKind, JobRecord, JobStatus};
use orch_domain::journal::Entry;
use orch_domain::time::Timestamp;
use orch_store::{SpaceState, Subject};
use serde_json::json;
use tokio::time::Instant;

use crate::context::Context;
use crate::disk::{Disk, WAY_OUT};
use crate::ledger::{note, tell};

/// Between two looks while the disk is full: what was started in between stands still by then, too.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a job has to take at least, so that its end is worth it: 1 MiB.
const WORTH: u64 = 1 << 20;
/// How often a job that does not answer is told to go on.
const THAW_TRIES: u32 = 30;
/// Longest wait for a job to be told to stop or to go on.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// What is known of a full disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standstill {
    /// Since when.
    pub since: Timestamp,
    /// How it was seen.
    pub why: String,
    /// The jobs that stand still, with what they work for.
    pub standing: BTreeMap<JobId, Option<TaskId>>,
    /// Jobs that were ended to make room.
    pub shed: usize,
}

impl Standstill {
    /// Whether something of a task stands still.
    #[must_use]
    pub fn holds(&self, task: &TaskId) -> bool {
        self.standing.values().any(|of| of.as_ref() == Some(task))
    }
}

impl std::fmt::Display for Standstill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the data folder's disk is full ({}): {}", self.why, jobs_stand_still(self.standing.len()))?;
        match self.shed {
            0 => Ok(()),
            n => write!(f, ", {} ended to make room", jobs(n)),
        }
    }
}

fn jobs(n: usize) -> String {
    format!("{n} {}", if n == 1 { "job" } else { "jobs" })
}

fn jobs_stand_still(n: usize) -> String {
    if n == 1 { "1 job stands still".to_owned() } else { format!("{n} jobs stand still") }
}

/// Watches for as long as the ledger lives.
pub(crate) async fn watch(ctx: Arc<Context>) {
    let (mut space, mut turns) = (ctx.store.watch_space(), ctx.disk.turns());
    if full(&ctx).is_none() {
        go_on(&ctx).await;
    }
    loop {
        match full(&ctx) {
            Some(why) => stand_still(&ctx, why).await,
            None => {
                tokio::select! {
                    changed = space.changed() => if changed.is_err() { return },
                    changed = turns.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

/// How the disk is seen to be full; `None`: it is not.
fn full(ctx: &Context) -> Option<String> {
    if ctx.store.space_state() != SpaceState::Enough {
        return Some("a change of the store was refused for want of space".to_owned());
    }
    match ctx.disk.last() {
        Disk::Short { free, .. } if ctx.disk.is_full() => Some(format!("{} KiB are free", free >> 10)),
        Disk::Short { .. } | Disk::Enough => None,
    }
}

/// From the first look at a full disk to the last.
async fn stand_still(ctx: &Context, why: String) {
    let mut now = Standstill { since: ctx.now(), why, standing: BTreeMap::new(), shed: 0 };
    // Said before anything stops: silence is not counted from here on.
    ctx.disk.stand_still(Some(now.clone()));
    tracing::error!(why = now.why, "the data folder's disk is full: agents and gates stand still until there is space");
    let (mut told, mut shed_at, mut ended) = (false, Instant::now() + ctx.disk.shed_after(), HashSet::new());
    loop {
        let live = standing_jobs(ctx).await;
        now.standing.retain(|job, _| live.iter().any(|record| record.identity.job == *job));
        let fresh: Vec<&JobRecord> = live.iter().filter(|r| !now.standing.contains_key(&r.identity.job)).collect();
        let frozen = join_all(fresh.into_iter().map(async |record| freeze(ctx, record).await.then_some(record))).await;
        now.standing.extend(frozen.into_iter().flatten().map(|r| (r.identity.job.clone(), r.task.clone())));
        ctx.disk.stand_still(Some(now.clone()));
        if !told {
            told = true;
            let title = format!("the data folder's disk is full: {}", jobs_stand_still(now.standing.len()));
            let body = format!(
                "{}. No new task is taken, STOP is. They go on by themselves when there is space; after {} s the largest is \
                 ended, its task goes on later. To do: {WAY_OUT}.",
                now.why,
                ctx.disk.shed_after().as_secs()
            );
            tell(ctx, "disk-full", &title, &body).await;
        }
        if space_again(ctx).await {
            break;
        }
        // One at a time: while one is still about to end, what it gives back is not known.
        let ending = live.iter().any(|record| ended.contains(&record.identity.job));
        if Instant::now() >= shed_at && !live.is_empty() && !ending {
            ended.extend(shed(ctx, &live).await);
            now.shed = ended.len();
            shed_at = Instant::now() + ctx.disk.shed_after();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    go_on(ctx).await;
    let title = format!(
        "there is space on the data folder's disk again: what stood still goes on ({})",
        jobs(now.standing.len())
    );
    tracing::info!("{title}");
    let body = format!("It was full since {}. {} ended to make room.", now.since, jobs(now.shed));
    note(ctx, "disk-again", Urgency::Info, &title, &body).await;
}

/// Lets everything go on. A job that does not answer is asked again; one that never does is lost, which others see.
async fn go_on(ctx: &Context) {
    for _ in 0..THAW_TRIES {
        let live = standing_jobs(ctx).await;
        let thawed = join_all(live.iter().map(|record| thaw(ctx, record))).await;
        if thawed.into_iter().all(|thawed| thawed) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    ctx.disk.stand_still(None);
}

/// The jobs that can stand still, of which processes may exist.
async fn standing_jobs(ctx: &Context) -> Vec<JobRecord> {
    match ctx.store.live_jobs().await {
        Ok(jobs) => jobs
            .into_iter()
            .filter(|job| job.status == JobStatus::Running && job.record.kind.can_stand_still())
            .map(|job| job.record)
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "the live jobs cannot be read; those that stand still stay so until the next look");
            Vec::new()
        }
    }
}

/// Stops a job where it is; `false`: not now, the next look tries again.
async fn freeze(ctx: &Context, record: &JobRecord) -> bool {
    told(record, "stand still", ctx.runner.placement.freeze(&record.identity)).await
}

async fn thaw(ctx: &Context, record: &JobRecord) -> bool {
    told(record, "go on", ctx.runner.placement.thaw(&record.identity)).await
}

async fn told(record: &JobRecord, what: &str, telling: impl Future<Output = Result<(), JobError>>) -> bool {
    let why = match tokio::time::timeout(TOLD_WITHIN, telling).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", TOLD_WITHIN.as_secs()),
    };
    // One that is over, or about to be, is no trouble; one that is not will be asked again.
    tracing::debug!(job.id = %record.identity.job, why, "job {} could not be told to {what}", record.identity.job);
    false
}

/// Whether there is space enough to go on, a reserve included: else all would stop again at once.
async fn space_again(ctx: &Context) -> bool {
    look(ctx).await;
    let state = ctx.store.space_state();
    // The ballast is made anew, which writes all of it: not to be tried before there is room for it.
    let ballast = if state == SpaceState::OnBallast { ctx.store.ballast_bytes() } else { 0 };
    if !ctx.disk.has_reserve(ballast) || state == SpaceState::Enough {
        return state == SpaceState::Enough && ctx.disk.has_reserve(0);
    }
    match ctx.store.recover_space().await {
        Ok(state) => state == SpaceState::Enough,
        Err(error) => {
            tracing::warn!(%error, "the store is still short of space");
            false
        }
    }
}

/// Looks at the disk, beside the runtime: it may block.
pub(crate) async fn look(ctx: &Context) {
    let disk = Arc::clone(&ctx.disk);
    if let Err(error) = tokio::task::spawn_blocking(move || disk.look()).await {
        tracing::warn!(%error, "a look at the disk was cut off");
    }
}

/// Ends the job that takes most, where that would make room; its task is interrupted, and goes on when there is space.
/// Which it was; `None`: none.
async fn shed(ctx: &Context, standing: &[JobRecord]) -> Option<JobId> {
    let folders: Vec<Vec<PathBuf>> = standing.iter().map(|record| folders_of(ctx, record)).collect();
    let measured = tokio::task::spawn_blocking(move || folders.iter().map(|of| allocated(of)).collect::<Vec<_>>());
    let sizes = measured.await.unwrap_or_default();
    let (bytes, record) = sizes.into_iter().zip(standing).max_by_key(|(bytes, _)| *bytes)?;
    if bytes < WORTH {
        tracing::warn!("no job takes enough of the disk for its end to make room; all stand still until somebody does");
        return None;
    }
    let job = &record.identity.job;
    let text = format!(
        "{} was ended: the data folder's disk is full, and of all that stood still it took most ({} MiB); it is begun \
         again when there is space",
        record.label,
        bytes >> 20
    );
    tracing::error!(job.id = %job, bytes, "{text}");
    // Its work is taken out of its folders before those go: that needs some room, and nobody else gets it now.
    if let Err(error) = ctx.store.free_ballast().await {
        tracing::warn!(%error, "the ballast could not be freed");
    }
    let subject = Subject { task: record.task.clone(), ..Subject::default() };
    let entry = Entry::new("job-shed", text).with(json!({"job": job, "run": record.run, "bytes": bytes}));
    if let Err(error) = ctx.store.append_needed(subject, vec![entry], ctx.now()).await {
        tracing::warn!(job.id = %job, %error, "that job {job} was ended could not be journaled");
    }
    match ctx.runner.placement.end(&record.identity, EndLevel::Term).await {
        Ok(()) => Some(job.clone()),
        Err(error) => {
            tracing::warn!(job.id = %job, %error, "job {job} could not be told to end");
            None
        }
    }
}

/// What a job fills: its run's workspace or checkouts, and its own folder with the logs.
fn folders_of(ctx: &Context, record: &JobRecord) -> Vec<PathBuf> {
    let mut folders = vec![record.identity.dir.clone()];
    match (&record.run, record.kind) {
        (Some(run), JobKind::Agent) => folders.push(ctx.paths.workspaces.join(run.as_str())),
        (Some(run), _) => {
            let of_run = format!("{run}-");
            let all = std::fs::read_dir(&ctx.paths.checkouts).into_iter().flatten().flatten();
            folders.extend(all.filter(|e| e.file_name().to_string_lossy().starts_with(&of_run)).map(|e| e.path()));
        }
        (None, _) => {}
    }
    folders
}
