//! Reconciler: one per supervisor. Owns the comparison of what is recorded with what is seen, at boot and periodically,
//! with the same code. Hears `Look` and its own clock. Says `Start` to the router, and carries out the plan's corrections.
//! Dies alone. Takes no data from those who wake it: it looks at the world.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use orch_adapters::git::Owner;
use orch_domain::ids::{RunId, TaskId};
use orch_domain::reconcile::{Correction, Observed, Plan, Recorded, RecordedJob, task_of_run};
use orch_store::StoreError;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::artefacts::{discard, salvage_or_quarantine};
use crate::context::Context;
use crate::directory::Directory;
use crate::intake;
use crate::router::RouterMsg;
use crate::settle::settle_job;
use crate::snapshots::{Snapshots, Teller};

/// Board transitions read at a time.
const PAGE: u32 = 200;

/// What the reconciler hears.
pub enum ReconcilerMsg {
    /// Look now.
    Look,
    /// A pass is over.
    Looked {
        /// How it went, for people.
        said: String,
        /// The newest board transition that was taken up.
        board: i64,
        /// Whether it went through.
        through: bool,
    },
    /// Told once the first pass is through.
    WhenReady {
        /// Whom to tell.
        reply: oneshot::Sender<()>,
    },
}

/// What the reconciler is started with.
pub struct ReconcilerArgs {
    /// Shared.
    pub ctx: Arc<Context>,
    /// Addresses.
    pub directory: Directory,
    /// Snapshots.
    pub snapshots: Snapshots,
    /// Whether this is the process' first: then nothing of it can be using anything yet.
    pub first: bool,
}

/// The actor.
pub struct Reconciler;

/// Its state.
pub struct ReconcilerState {
    ctx: Arc<Context>,
    directory: Directory,
    teller: Teller,
    looking: bool,
    first: bool,
    ready: bool,
    waiting: Vec<oneshot::Sender<()>>,
    board: i64,
    clock: AbortHandle,
}

impl Drop for ReconcilerState {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

impl Actor for Reconciler {
    type Msg = ReconcilerMsg;
    type State = ReconcilerState;
    type Arguments = ReconcilerArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<ReconcilerMsg>,
        args: ReconcilerArgs,
    ) -> Result<ReconcilerState, ActorProcessingErr> {
        let teller = args.snapshots.register("reconciler", "starting", args.ctx.now(), 0);
        let every = args.ctx.limits.reconcile;
        let clock = tokio::spawn(async move {
            while myself.cast(ReconcilerMsg::Look).is_ok() {
                tokio::time::sleep(every.into()).await;
            }
        });
        Ok(ReconcilerState {
            ctx: args.ctx,
            directory: args.directory,
            teller,
            looking: false,
            first: args.first,
            ready: false,
            waiting: Vec::new(),
            board: 0,
            clock: clock.abort_handle(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ReconcilerMsg>,
        message: ReconcilerMsg,
        state: &mut ReconcilerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ReconcilerMsg::Look if !state.looking => {
                state.looking = true;
                let (ctx, directory) = (state.ctx.clone(), state.directory.clone());
                let (first, board) = (state.first, state.board);
                let pass = tokio::spawn(async move { pass(&ctx, &directory, first, board).await });
                tokio::spawn(async move {
                    let message = match pass.await {
                        Ok(Ok((said, board))) => ReconcilerMsg::Looked { said, board, through: true },
                        Ok(Err(error)) => ReconcilerMsg::Looked { said: error.to_string(), board, through: false },
                        Err(error) => ReconcilerMsg::Looked { said: error.to_string(), board, through: false },
                    };
                    if myself.cast(message).is_err() {
                        tracing::debug!("the reconciler ended during a pass");
                    }
                });
            }
            ReconcilerMsg::Look => {}
            ReconcilerMsg::Looked { said, board, through } => {
                state.looking = false;
                state.board = board;
                state.teller.say(said.clone(), state.ctx.now());
                if through {
                    state.first = false;
                    state.ready = true;
                    for reply in state.waiting.drain(..) {
                        if reply.send(()).is_err() {
                            tracing::debug!("nobody waits for the first pass any more");
                        }
                    }
                } else {
                    tracing::warn!(said, "a reconcile pass did not go through; it is repeated");
                }
            }
            ReconcilerMsg::WhenReady { reply } if state.ready => {
                if reply.send(()).is_err() {
                    tracing::debug!("nobody waits for the first pass any more");
                }
            }
            ReconcilerMsg::WhenReady { reply } => state.waiting.push(reply),
        }
        Ok(())
    }
}

/// One pass: look, compare, correct, take up what stands on the board.
async fn pass(ctx: &Context, directory: &Directory, first: bool, board: i64) -> Result<(String, i64), StoreError> {
    let jobs = ctx.store.live_jobs().await?;
    let recorded = Recorded {
        live_tasks: ctx.store.live_tasks().await?.into_iter().map(|s| (s.task.id, s.task.key)).collect(),
        live_jobs: jobs
            .iter()
            .map(|j| RecordedJob {
                job: j.record.identity.job.clone(),
                task: j.record.task.clone(),
                window: j.record.kind.is_window(),
            })
            .collect(),
        leases: ctx.store.leases().await?.into_iter().map(|l| (l.repo, l.epoch)).collect(),
    };
    let observed = Observed {
        first,
        actors: running_actors(directory).await,
        held_leases: directory.held_leases(),
        workspaces: names_in(&ctx.paths.workspaces),
        checkouts: names_in(&ctx.paths.checkouts),
    };
    let plan = Plan::build(&recorded, &observed);
    if !plan.corrections.is_empty() {
        tracing::info!(corrections = plan.corrections.len(), "reconcile plan:\n{plan}");
    }
    for correction in &plan.corrections {
        correct(ctx, directory, correction).await;
    }
    let board = take_up_board(ctx, directory, board, first).await?;
    Ok((format!("{} corrections in the last pass", plan.corrections.len()), board))
}

async fn running_actors(directory: &Directory) -> BTreeSet<TaskId> {
    let (reply, answer) = oneshot::channel();
    if directory.tell_router(RouterMsg::Running { reply }) { answer.await.unwrap_or_default() } else { BTreeSet::new() }
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

async fn correct(ctx: &Context, directory: &Directory, correction: &Correction) {
    match correction {
        Correction::SettleJob { job } => {
            if let Ok(Some(row)) = ctx.store.job(job).await
                && let Some(unproven) = settle_job(ctx, row).await
            {
                tracing::warn!(%unproven, "a job of nobody could not be proven gone");
            }
        }
        Correction::ReclaimLease { repo, epoch } => {
            let proof = "first pass after a start: the lock on the data folder proves that no other process holds it";
            if let Err(error) = ctx.store.reclaim_lease(repo, *epoch, proof, ctx.now()).await {
                tracing::warn!(%repo, %error, "the lease of {repo} could not be reclaimed");
            }
        }
        Correction::StartActor { task, .. } => {
            directory.tell_router(RouterMsg::Start { task: task.clone() });
        }
        Correction::ClearWorkspace { run } => clear_workspace(ctx, run).await,
        Correction::ClearCheckout { name } => discard(&ctx.paths.checkouts.join(name)),
    }
}

/// The folder of a run whose task is closed, or of none: what it holds is kept in the vault first.
async fn clear_workspace(ctx: &Context, run: &str) {
    let root = ctx.paths.workspaces.join(run);
    let task = match task_of_run(run) {
        Some(id) => ctx.store.load_task(&id).await.ok().flatten().map(|s| s.task),
        None => None,
    };
    let (Some(task), Ok(id)) = (task, run.parse::<RunId>()) else {
        return discard(&root);
    };
    match ctx.repo(&task.repo) {
        Some(repo) if root.join("tree").exists() => {
            let git = repo.git.for_owner(Owner::default());
            salvage_or_quarantine(ctx, &git, &task, &id, &root, "its task was closed").await;
        }
        _ => discard(&root),
    }
}

/// Acts on board transitions that nobody acted on yet. At boot also on those that were begun and cut off.
async fn take_up_board(ctx: &Context, directory: &Directory, after: i64, first: bool) -> Result<i64, StoreError> {
    if first {
        for delivery in ctx.store.unprocessed_inbox(PAGE).await? {
            let Ok(id) = delivery.body.parse::<i64>() else { continue };
            let transitions = ctx.store.tracker_transitions_after(id - 1, 1).await?;
            for transition in transitions.iter().filter(|t| delivery.source == "board" && t.id == id) {
                match intake::act_on(ctx, directory, transition).await {
                    Ok(()) => ctx.store.inbox_done(delivery.id, "taken up after a restart", ctx.now()).await?,
                    Err(error) => tracing::warn!(%error, "transition {id} of the board could not be taken up"),
                }
            }
        }
    }
    let mut newest = after;
    loop {
        let page = ctx.store.tracker_transitions_after(newest, PAGE).await?;
        let Some(last) = page.last() else { return Ok(newest) };
        newest = last.id;
        for transition in &page {
            if let Err(error) = intake::take_up(ctx, directory, transition).await {
                tracing::warn!(%error, "transition {} of the board could not be taken up", transition.id);
            }
        }
    }
}
