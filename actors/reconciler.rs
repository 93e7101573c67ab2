//! Reconciler: one per supervisor. Owns the comparison of what is recorded with what is seen, at boot and periodically,
//! with the same code. Hears `Look` and its own clock. Says `Start` to the router, and carries out the plan's corrections.
//! Dies alone. Takes no data from those who wake it: it looks at the world.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use orch_adapters::git::Owner;
use orch_domain::ids::{Epoch, JobId, RunId, TaskId};
use orch_domain::job::JobKind;
use orch_domain::names::RepoName;
use orch_domain::reconcile::{Correction, Observed, Plan, Recorded, RecordedJob, task_of_run};
use orch_domain::task::{State, Step};
use orch_store::{JobRow, StoreError};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::artefacts::{discard, put_aside, put_aside_unknown, salvage_or_quarantine};
use crate::context::Context;
use crate::directory::Directory;
use crate::ids::nonce;
use crate::intake;
use crate::receipts::{finish_receipt, retry_pending};
use crate::router::RouterMsg;
use crate::settle::settle_job;
use crate::snapshots::{Snapshots, Teller};

/// Board transitions read at a time.
const PAGE: u32 = 200;

/// What earlier processes left, looked at before anything of this one begins: whatever is corrected on the ground of it
/// can be nobody's of this process.
pub struct Leftovers {
    jobs: BTreeSet<JobId>,
    leases: Vec<(RepoName, Epoch)>,
    checkouts: Vec<String>,
    receipts: Vec<TaskId>,
}

impl Leftovers {
    /// Looks. Checkouts that no job of a window works in lose their names, so that new ones never meet them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn look(ctx: &Context) -> Result<Self, StoreError> {
        let jobs = ctx.store.live_jobs().await?;
        let windows: Vec<&JobId> =
            jobs.iter().filter(|j| j.record.kind.is_window()).map(|j| &j.record.identity.job).collect();
        let dir = &ctx.paths.checkouts;
        let mut checkouts = Vec::new();
        for name in names_in(dir) {
            if windows.iter().any(|job| name.ends_with(job.as_str())) {
                continue;
            }
            let aside = format!("{name}.{}.gone", nonce());
            match std::fs::rename(dir.join(&name), dir.join(&aside)) {
                Ok(()) => checkouts.push(aside),
                Err(error) => tracing::warn!(%error, "the checkout {name} of an earlier start stays"),
            }
        }
        let leases = ctx.store.leases().await?.into_iter().map(|l| (l.repo, l.epoch)).collect();
        let receipts = ctx.store.receipts_to_finish().await?;
        Ok(Self { jobs: jobs.into_iter().map(|j| j.record.identity.job).collect(), leases, checkouts, receipts })
    }
}

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
    /// What earlier processes left.
    pub leftovers: Arc<Leftovers>,
}

/// The actor.
pub struct Reconciler;

/// Its state.
pub struct ReconcilerState {
    ctx: Arc<Context>,
    directory: Directory,
    teller: Teller,
    looking: bool,
    leftovers: Arc<Leftovers>,
    first: bool,
    ready: bool,
    waiting: Vec<oneshot::Sender<()>>,
    board: i64,
    /// Whether steps of STOPs that wait for a remote part are being tried again.
    retrying: Arc<AtomicBool>,
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
            leftovers: args.leftovers,
            // Also after a restart of this actor: what was left stays what was left.
            first: true,
            ready: false,
            waiting: Vec::new(),
            board: 0,
            retrying: Arc::default(),
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
                retry_pending(&state.ctx, &state.retrying);
                let (ctx, directory) = (state.ctx.clone(), state.directory.clone());
                let (left, board) = (state.first.then(|| state.leftovers.clone()), state.board);
                let pass = tokio::spawn(async move { pass(&ctx, &directory, left.as_deref(), board).await });
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
async fn pass(
    ctx: &Arc<Context>,
    directory: &Directory,
    left: Option<&Leftovers>,
    board: i64,
) -> Result<(String, i64), StoreError> {
    // The disk first, then the store: a folder that is seen belongs to a task that the store knows.
    let workspaces = names_in(&ctx.paths.workspaces);
    let run_checkouts = names_in(&ctx.paths.checkouts);
    let actors = running_actors(directory).await;
    let mut jobs = ctx.store.live_jobs().await?;
    jobs.retain(|j| left.is_some_and(|left| left.jobs.contains(&j.record.identity.job)));
    let leases = ctx.store.leases().await?.into_iter().map(|l| (l.repo, l.epoch));
    let recorded = Recorded {
        live_tasks: ctx.store.live_ids().await?,
        live_jobs: jobs
            .iter()
            .map(|j| RecordedJob {
                job: j.record.identity.job.clone(),
                task: j.record.task.clone(),
                window: j.record.kind.is_window(),
            })
            .collect(),
        leases: leases.filter(|lease| left.is_some_and(|left| left.leases.contains(lease))).collect(),
    };
    let observed = Observed {
        first: left.is_some(),
        actors,
        held_leases: directory.held_leases(),
        workspaces,
        checkouts: left.map(|left| left.checkouts.clone()).unwrap_or_default(),
        run_checkouts,
    };
    let live: BTreeSet<TaskId> = recorded.live_tasks.iter().map(|(id, _)| id.clone()).collect();
    for job in jobs {
        if job.record.kind.is_window() {
            // It runs on to its own end, which somebody has to record.
            drop(ctx.runner.adopt(job.record.identity));
        } else if job.record.task.as_ref().is_some_and(|task| live.contains(task))
            && !is_of_a_current_run(ctx, &job).await
        {
            // Its task's actor settles what it needs itself; what the lane had begun for it nobody else would. No wait.
            let ctx = ctx.clone();
            tokio::spawn(async move { settle_job(&ctx, job).await });
        }
    }
    let plan = Plan::build(&recorded, &observed);
    if !plan.corrections.is_empty() {
        tracing::info!(corrections = plan.corrections.len(), "reconcile plan:\n{plan}");
    }
    for correction in &plan.corrections {
        correct(ctx, directory, correction).await;
    }
    for task in left.map(|left| &left.receipts).into_iter().flatten() {
        finish_receipt(ctx, task).await;
    }
    let board = take_up_board(ctx, directory, board).await?;
    Ok((format!("{} corrections in the last pass", plan.corrections.len()), board))
}

/// Whether it is the agent of a run under way: its task's actor goes on with that, or ends it.
async fn is_of_a_current_run(ctx: &Context, job: &JobRow) -> bool {
    let (JobKind::Agent, Some(id)) = (job.record.kind, &job.record.task) else { return false };
    let stored = ctx.store.look_at_task(id).await.ok().flatten();
    let state = stored.map(|stored| stored.task.state);
    matches!(state, Some(State::Running { run, step: Step::Agent, .. }) if job.record.run.as_ref() == Some(&run))
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

/// The folder of a run whose task is closed, or of none: what it holds is kept in the vault first, or put aside where
/// there is none. Only a folder without a workspace goes as it is.
async fn clear_workspace(ctx: &Context, run: &str) {
    let root = ctx.paths.workspaces.join(run);
    let (Ok(id), true) = (run.parse::<RunId>(), root.join("tree").exists()) else {
        return discard(&root);
    };
    let task = match task_of_run(run) {
        Some(id) => match ctx.store.look_at_task(&id).await {
            Ok(stored) => stored.map(|s| s.task),
            Err(error) => {
                tracing::warn!(run.id = run, %error, "whose the workspace of run {run} is cannot be read; it stays");
                return;
            }
        },
        None => None,
    };
    let Some(task) = task else { return put_aside_unknown(ctx, &id, &root) };
    let why = "its task was closed";
    match ctx.repo(&task.repo) {
        Some(repo) => {
            let git = repo.git.for_owner(Owner::default());
            salvage_or_quarantine(ctx, &git, &task, &id, &root, why).await;
        }
        None => {
            let failed = format!("its repository `{}` is not configured", task.repo);
            put_aside(ctx, &task, &id, &root, why, &failed).await;
        }
    }
}

/// Acts on board transitions that nobody acted on yet, and on those that were begun and cut off: repeating is harmless.
async fn take_up_board(ctx: &Context, directory: &Directory, after: i64) -> Result<i64, StoreError> {
    for delivery in ctx.store.unprocessed_inbox(PAGE).await? {
        let Ok(id) = delivery.body.parse::<i64>() else { continue };
        let transitions = ctx.store.tracker_transitions_after(id - 1, 1).await?;
        for transition in transitions.iter().filter(|t| delivery.source == "board" && t.id == id) {
            match intake::act_on(ctx, directory, transition).await {
                Ok(()) => ctx.store.inbox_done(delivery.id, "taken up after a cut", ctx.now()).await?,
                Err(error) => tracing::warn!(%error, "transition {id} of the board could not be taken up"),
            }
        }
    }
    let mut newest = after;
    loop {
        let page = ctx.store.tracker_transitions_after(newest, PAGE).await?;
        if page.is_empty() {
            return Ok(newest);
        }
        for transition in &page {
            if let Err(error) = intake::take_up(ctx, directory, transition).await {
                // Looked at again by the next pass: as unprocessed if it was noted, else as the next one.
                tracing::warn!(%error, "transition {} of the board could not be taken up", transition.id);
                return Ok(newest);
            }
            newest = transition.id;
        }
    }
}
