//! LedgerActor: one per supervisor. Owns the upkeep: backups, integrity checks, the watches on disk space, the removal of
//! what is over. Hears its own clock. Says notices through the notifier. Dies alone: writes go to the store's writer thread by handle, so its
//! restart touches no other actor and no healthy agent. Never changes a task.
//!
//! Also home of [`StoreLedger`], the job ledger over the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch_adapters::ports::{Clock, JobError, JobLedger, Notice, Urgency};
use orch_domain::ids::JobId;
use orch_domain::job::{JobExit, JobRecord};
use orch_domain::names::RepoName;
use orch_store::{JobError as Refusal, Store};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::disk::WAY_OUT;
use crate::snapshots::{Snapshots, Teller};
use crate::{standstill, upkeep};

/// Between two backups.
const BACKUP_EVERY: Duration = Duration::from_secs(3_600);
/// From the start to the first removal of what is over: whatever resumes goes first.
const FIRST_REMOVAL: Duration = Duration::from_secs(180);
/// Between two removals of what is over.
const REMOVE_EVERY: Duration = Duration::from_secs(3_600);
/// Between two looks at the disk's free space.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The same while it is short: it may be full soon.
const LOOK_OFTEN: Duration = Duration::from_secs(1);
/// How many hourly backups are kept.
const KEEP: usize = 24;
/// Every how many backups the whole file is checked.
const CHECK_EVERY: u32 = 24;

/// Jobs recorded in the store, under the epoch of their task or, with a lane, of its lease.
pub struct StoreLedger {
    store: Store,
    clock: Arc<dyn Clock>,
    lane: Option<RepoName>,
}

impl StoreLedger {
    /// The ledger of jobs that belong to tasks.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, lane: None }
    }

    /// The ledger of jobs that belong to a repository's lane: fenced by its lease.
    #[must_use]
    pub fn of_lane(store: Store, clock: Arc<dyn Clock>, repo: RepoName) -> Self {
        Self { store, clock, lane: Some(repo) }
    }

    /// Whose lease fences a job. Housekeeping of a lane (a fetch without a task) has no fence; its pushes have.
    fn fence_of(&self, record: &JobRecord) -> Option<RepoName> {
        let of_lane = record.task.is_some() || record.kind.is_window();
        self.lane.clone().filter(|_| of_lane && record.epoch.0 > 0)
    }
}

fn refused(job: &JobId, refusal: &Refusal) -> JobError {
    let (job, why) = (job.clone(), refusal.to_string());
    match refusal {
        Refusal::StopRecorded | Refusal::StaleEpoch { .. } | Refusal::NotPrepared { .. } => {
            JobError::Refused { job, why }
        }
        Refusal::Store(_) => JobError::NotStarted { job, why },
    }
}

#[async_trait]
impl JobLedger for StoreLedger {
    async fn prepared(&self, record: JobRecord) -> Result<(), JobError> {
        let (job, lane) = (record.identity.job.clone(), self.fence_of(&record));
        self.store.job_prepared(record, lane).await.map_err(|e| refused(&job, &e))
    }

    async fn launched(&self, record: JobRecord) -> Result<(), JobError> {
        let (job, lane) = (record.identity.job.clone(), self.fence_of(&record));
        self.store.job_launched(record, lane, self.clock.now()).await.map_err(|e| refused(&job, &e))
    }

    async fn going(&self, job: &JobId) -> Result<(), JobError> {
        self.store.job_going(job, self.clock.now()).await.map_err(|e| refused(job, &e))
    }

    async fn ended(&self, job: &JobId, exit: &JobExit) -> Result<(), JobError> {
        let ended = self.store.job_ended(job, exit.clone()).await;
        ended.map_err(|e| JobError::Unreachable { job: job.clone(), why: e.to_string() })
    }
}

/// What the ledger hears.
pub enum LedgerMsg {
    /// Time for upkeep.
    Upkeep,
    /// Time to remove what is over.
    Remove,
    /// Removing is through.
    Removed {
        /// What was done, for people.
        said: String,
    },
    /// Upkeep is through.
    Kept {
        /// What was done, for people.
        said: String,
    },
}

/// What the ledger is started with.
pub struct LedgerArgs {
    /// Shared.
    pub ctx: Arc<Context>,
    /// Snapshots.
    pub snapshots: Snapshots,
}

/// The actor.
pub struct LedgerActor;

/// Its state.
pub struct LedgerState {
    ctx: Arc<Context>,
    teller: Teller,
    rounds: u32,
    /// Whether a removal is under way.
    removing: bool,
    clocks: Vec<AbortHandle>,
}

impl Drop for LedgerState {
    fn drop(&mut self) {
        self.clocks.iter().for_each(AbortHandle::abort);
    }
}

impl Actor for LedgerActor {
    type Msg = LedgerMsg;
    type State = LedgerState;
    type Arguments = LedgerArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<LedgerMsg>,
        args: LedgerArgs,
    ) -> Result<LedgerState, ActorProcessingErr> {
        let teller = args.snapshots.register("ledger", "ready", args.ctx.now(), 0);
        let remover = myself.clone();
        let clocks = [
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(BACKUP_EVERY).await;
                    if myself.cast(LedgerMsg::Upkeep).is_err() {
                        return;
                    }
                }
            }),
            tokio::spawn(remove_in_time(args.ctx.clone(), remover)),
            tokio::spawn(look_at_the_disk(args.ctx.clone())),
            tokio::spawn(standstill::watch(args.ctx.clone())),
        ];
        let clocks = clocks.iter().map(tokio::task::JoinHandle::abort_handle).collect();
        Ok(LedgerState { ctx: args.ctx, teller, rounds: 0, removing: false, clocks })
    }

    async fn handle(
        &self,
        myself: ActorRef<LedgerMsg>,
        message: LedgerMsg,
        state: &mut LedgerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LedgerMsg::Upkeep => {
                state.rounds += 1;
                let (ctx, check) = (state.ctx.clone(), state.rounds.is_multiple_of(CHECK_EVERY));
                tokio::spawn(async move {
                    let said = back_up(&ctx, check).await;
                    if myself.cast(LedgerMsg::Kept { said }).is_err() {
                        tracing::debug!("the ledger ended during upkeep");
                    }
                });
            }
            LedgerMsg::Remove if !state.removing => {
                state.removing = true;
                let ctx = state.ctx.clone();
                let work = tokio::spawn(async move { upkeep::round(&ctx, ctx.now()).await.to_string() });
                tokio::spawn(async move {
                    let said = work.await.unwrap_or_else(|error| format!("upkeep was cut off: {error}"));
                    tracing::info!("{said}");
                    if myself.cast(LedgerMsg::Removed { said }).is_err() {
                        tracing::debug!("the ledger ended during upkeep");
                    }
                });
            }
            LedgerMsg::Remove => {}
            LedgerMsg::Removed { said } => {
                state.removing = false;
                state.teller.say(said, state.ctx.now());
            }
            LedgerMsg::Kept { said } => state.teller.say(said, state.ctx.now()),
        }
        Ok(())
    }
}

async fn back_up(ctx: &Context, check: bool) -> String {
    let dir = ctx.paths.data.join("backups");
    let name = format!("orch-{}.db", ctx.now().0);
    let said = match ctx.store.backup(dir.join(&name)).await {
        Ok(report) => {
            forget_old(&dir);
            format!("backup {name}: {} bytes, verified", report.bytes)
        }
        Err(error) => {
            tell(ctx, "backup", "the hourly backup failed", &error.to_string()).await;
            format!("backup failed: {error}")
        }
    };
    if check && let Ok(Some(damage)) = ctx.store.integrity_check().await {
        tell(ctx, "integrity", "the store is damaged", &damage).await;
    }
    said
}

fn forget_old(dir: &std::path::Path) {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    // Ours only: what a person put there is theirs.
    files.retain(|p| {
        p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("orch-"))
            && p.extension().is_some_and(|e| e == "db")
    });
    files.sort();
    let excess = files.len().saturating_sub(KEEP);
    for old in &files[..excess] {
        if let Err(error) = std::fs::remove_file(old) {
            tracing::warn!(%error, "old backup {} could not be removed", old.display());
        }
    }
}

/// Says when it is time to remove what is over: a while after the start, then hourly, and as soon as the disk is short.
async fn remove_in_time(ctx: Arc<Context>, myself: ActorRef<LedgerMsg>) {
    let mut turns = ctx.disk.turns();
    let (mut wait, mut was_short) = (FIRST_REMOVAL, false);
    loop {
        let due = match tokio::time::timeout(wait, turns.wait_for(|disk| disk.is_short() != was_short)).await {
            Ok(Err(_)) => return,
            Ok(Ok(_)) => {
                was_short = !was_short;
                was_short
            }
            Err(_) => true,
        };
        if due && myself.cast(LedgerMsg::Remove).is_err() {
            return;
        }
        wait = if due { REMOVE_EVERY } else { wait };
    }
}

/// Looks at the disk now and then, and tells people when it gets short.
async fn look_at_the_disk(ctx: Arc<Context>) {
    let mut told = false;
    loop {
        standstill::look(&ctx).await;
        match ctx.disk.shortage().filter(|_| ctx.disk.last().is_short()) {
            // A full disk is told of where it is dealt with.
            Some(_) if ctx.disk.standstill().is_some() => told = true,
            Some(shortage) if !told => {
                told = true;
                tell(&ctx, "disk-short", "no new work is begun: the disk is short of space", &{
                    format!("{shortage}. What runs goes on, STOP is taken. To do: {WAY_OUT}.")
                })
                .await;
            }
            None if told => {
                told = false;
                tracing::info!("there is space on the disk again; new work is begun");
            }
            _ => {}
        }
        tokio::time::sleep(if told { LOOK_OFTEN } else { LOOK_EVERY }).await;
    }
}

/// Sends a notice that somebody has to act upon.
pub(crate) async fn tell(ctx: &Context, what: &str, title: &str, body: &str) {
    note(ctx, what, Urgency::NeedsYou, title, body).await;
}

/// Sends a notice.
pub(crate) async fn note(ctx: &Context, what: &str, urgency: Urgency, title: &str, body: &str) {
    let key = format!("{what}-{}", ctx.now().0);
    let notice = Notice { key, urgency, title: title.to_owned(), body: body.to_owned() };
    if let Err(why) = ctx.notifier.notify(&notice).await {
        tracing::error!(title, why, "a notice could not be sent");
    }
}
