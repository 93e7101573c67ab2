//! RootSupervisor: one per process. Owns the tree: ledger, lanes, gate pool, router, outbox, reconciler. Hears the ends of
//! its children and the system's stop. Says what each child needs to start. Dies last. Restarts one for one, with backoff
//! and jitter and a durable budget; a child that fails over and over is said so and tried at the longest pause. Never
//! leaves a stop to link-kill: it stops downwards by message, waits, and only then kills.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orch_adapters::ports::{Notice, Urgency};
use orch_domain::names::RepoName;
use orch_domain::stop::Level;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::oneshot;

use crate::context::Context;
use crate::directory::Directory;
use crate::gates::GatePoolHandle;
use crate::landing::Halted;
use crate::lane::{LaneArgs, LaneMsg, RepoLeaseActor};
use crate::ledger::{LedgerActor, LedgerArgs};
use crate::outbox::{OutboxActor, OutboxArgs};
use crate::reconciler::{Leftovers, Reconciler, ReconcilerArgs};
use crate::restart::backoff;
use crate::router::{RouterArgs, RouterMsg, TaskRouter};
use crate::snapshots::{Snapshots, Teller};

/// Longest wait for tasks after they were told to end politely.
const CANCEL_WAIT: Duration = Duration::from_secs(60);
/// Longest wait for committed effects to be sent.
const FLUSH: Duration = Duration::from_secs(3);
/// Longest wait for one child to end by itself.
const CHILD_WAIT: Duration = Duration::from_secs(10);

/// A child of the root, by its role. The order is the order of starting; stopping goes the other way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Upkeep of the store.
    Ledger,
    /// Slots for gates.
    Gates,
    /// One repository's lane.
    Lane(RepoName),
    /// Sending of committed effects.
    Outbox,
    /// The tasks.
    Router,
    /// Recorded against seen.
    Reconciler,
}

impl Role {
    fn name(&self) -> String {
        match self {
            Self::Ledger => "root/ledger".to_owned(),
            Self::Gates => "root/gates".to_owned(),
            Self::Lane(repo) => format!("root/lane {repo}"),
            Self::Outbox => "root/outbox".to_owned(),
            Self::Router => "root/router".to_owned(),
            Self::Reconciler => "root/reconciler".to_owned(),
        }
    }
}

/// What the root hears.
pub enum RootMsg {
    /// A failed child's pause is over.
    Restart {
        /// Which.
        role: Role,
    },
    /// Stop everything.
    Stop {
        /// How firmly to begin with.
        level: Level,
        /// Whether agents are left to the next start instead of being waited for.
        leave: bool,
        /// How long tasks may go on before they are told to end.
        deadline: Duration,
        /// Told when all has ended.
        done: oneshot::Sender<()>,
    },
    /// Everything below has ended.
    AllStopped {
        /// Told.
        done: oneshot::Sender<()>,
    },
}

/// What the root is started with.
pub struct RootArgs {
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
pub struct RootSupervisor;

/// Its state.
pub struct RootState {
    ctx: Arc<Context>,
    directory: Directory,
    snapshots: Snapshots,
    teller: Teller,
    children: BTreeMap<ActorId, (Role, ActorCell)>,
    leftovers: Arc<Leftovers>,
    stopping: bool,
}

impl Actor for RootSupervisor {
    type Msg = RootMsg;
    type State = RootState;
    type Arguments = RootArgs;

    async fn pre_start(&self, myself: ActorRef<RootMsg>, args: RootArgs) -> Result<RootState, ActorProcessingErr> {
        let teller = args.snapshots.register("root", "starting", args.ctx.now(), 0);
        let mut state = RootState {
            ctx: args.ctx,
            directory: args.directory,
            snapshots: args.snapshots,
            teller,
            children: BTreeMap::new(),
            leftovers: args.leftovers,
            stopping: false,
        };
        let mut roles = vec![Role::Ledger, Role::Gates];
        roles.extend(state.ctx.repos.keys().cloned().map(Role::Lane));
        roles.extend([Role::Outbox, Role::Router, Role::Reconciler]);
        for role in roles {
            state.start(&myself, role).await?;
        }
        state.teller.say(format!("{} children", state.children.len()), state.ctx.now());
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RootMsg::Restart { role } if !state.stopping => {
                if let Err(error) = state.start(&myself, role.clone()).await {
                    state.restart_later(&myself, role, error.to_string());
                }
            }
            RootMsg::Restart { .. } => {}
            RootMsg::Stop { level, leave, deadline, done } => {
                state.stopping = true;
                state.teller.say("stopping", state.ctx.now());
                let children: Vec<(Role, ActorCell)> = state.children.values().cloned().collect();
                let (directory, ctx) = (state.directory.clone(), state.ctx.clone());
                tokio::spawn(async move {
                    stop_downwards(&ctx, &directory, children, (level, leave), deadline).await;
                    if myself.cast(RootMsg::AllStopped { done }).is_err() {
                        tracing::debug!("the root ended before its children had");
                    }
                });
            }
            RootMsg::AllStopped { done } => {
                if done.send(()).is_err() {
                    tracing::debug!("nobody waits for the stop any more");
                }
                myself.stop(Some("stopped".to_owned()));
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        let (who, why) = match &event {
            SupervisionEvent::ActorFailed(who, why) => (who, why.to_string()),
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                (who, reason.clone().unwrap_or_else(|| "it stopped".to_owned()))
            }
            _ => return Ok(()),
        };
        if let Some((role, _)) = state.children.remove(&who.get_id())
            && !state.stopping
        {
            tracing::error!(error = %why, "{} ended", role.name());
            state.restart_later(&myself, role, why);
        }
        Ok(())
    }
}

impl RootState {
    async fn start(&mut self, myself: &ActorRef<RootMsg>, role: Role) -> Result<(), SpawnErr> {
        let (ctx, directory, snapshots) = (self.ctx.clone(), self.directory.clone(), self.snapshots.clone());
        let root = myself.get_cell();
        let cell = match &role {
            Role::Ledger => {
                let args = LedgerArgs { ctx, snapshots };
                Actor::spawn_linked(None, LedgerActor, args, root).await?.0.get_cell()
            }
            Role::Gates => {
                let gates = GatePoolHandle::start(ctx.limits.gates, ctx.clock.clone(), Some(root)).await?;
                directory.set_gates(gates.clone());
                gates.cell()
            }
            Role::Lane(repo) => {
                let args = LaneArgs { ctx, directory: directory.clone(), snapshots, repo: repo.clone() };
                let (lane, _) = Actor::spawn_linked(None, RepoLeaseActor, args, root).await?;
                directory.set_lane(repo.clone(), lane.clone());
                lane.get_cell()
            }
            Role::Outbox => {
                let args = OutboxArgs { ctx, snapshots };
                let (outbox, _) = Actor::spawn_linked(None, OutboxActor, args, root).await?;
                directory.set_outbox(outbox.clone());
                outbox.get_cell()
            }
            Role::Router => {
                let args = RouterArgs { ctx, directory: directory.clone(), snapshots };
                let (router, _) = Actor::spawn_linked(None, TaskRouter, args, root).await?;
                directory.set_router(router.clone());
                router.get_cell()
            }
            Role::Reconciler => {
                let leftovers = self.leftovers.clone();
                let args = ReconcilerArgs { ctx, directory: directory.clone(), snapshots, leftovers };
                let (reconciler, _) = Actor::spawn_linked(None, Reconciler, args, root).await?;
                directory.set_reconciler(reconciler.clone());
                reconciler.get_cell()
            }
        };
        self.children.insert(cell.get_id(), (role, cell));
        Ok(())
    }

    fn restart_later(&self, myself: &ActorRef<RootMsg>, role: Role, why: String) {
        let (ctx, myself) = (self.ctx.clone(), myself.clone());
        tokio::spawn(async move {
            let limits = ctx.limits;
            let count = ctx.store.note_restart(&role.name(), ctx.now(), limits.restart_window).await;
            let count = count.unwrap_or(limits.restarts);
            if count == limits.restarts {
                let notice = Notice {
                    key: format!("{}-{}", role.name(), ctx.now().0),
                    urgency: Urgency::NeedsYou,
                    title: format!("{} fails over and over", role.name()),
                    body: format!("{count} times within {}: {why}", limits.restart_window),
                };
                if let Err(error) = ctx.notifier.notify(&notice).await {
                    tracing::error!(error, "a notice could not be sent");
                }
            }
            tokio::time::sleep(backoff(count)).await;
            if myself.cast(RootMsg::Restart { role }).is_err() {
                tracing::debug!("the root ended while a child was in its pause");
            }
        });
    }
}

/// Tasks first (they may still need everything below), then lanes (windows are waited for), then the rest.
async fn stop_downwards(
    ctx: &Context,
    directory: &Directory,
    children: Vec<(Role, ActorCell)>,
    (level, leave): (Level, bool),
    deadline: Duration,
) {
    let until = tokio::time::Instant::now() + deadline;
    let cell = |role: &Role| children.iter().find(|(r, _)| r == role).map(|(_, cell)| cell.clone());
    if let Some(reconciler) = cell(&Role::Reconciler) {
        end(&reconciler).await;
    }
    let mut level = level;
    loop {
        let (done, ended) = oneshot::channel();
        if !directory.tell_router(RouterMsg::Stop { level, leave, done: Some(done) }) {
            break;
        }
        let wait = if level == Level::Drain { deadline } else { CANCEL_WAIT };
        if tokio::time::timeout(wait, ended).await.is_ok() {
            break;
        }
        level = match level {
            Level::Drain => Level::Cancel,
            Level::Cancel => Level::Kill,
            Level::Kill => break,
        };
        tracing::info!(?level, "tasks did not end in time; the stop goes on firmer");
    }
    let gates = directory.gates();
    if let Some(gates) = gates.filter(|_| level > Level::Drain) {
        gates.stop(level, "the supervisor stops").await;
    }
    let lanes = directory.lanes().into_iter().map(|lane| async move {
        let (done, ended) = oneshot::channel();
        if lane.cast(LaneMsg::Stop { level, done }).is_ok() {
            // No deadline: an irreversible step that was begun is always waited for. An error means it ended.
            let _ = ended.await;
        }
    });
    let mut ended = std::pin::pin!(futures::future::join_all(lanes));
    // Until the deadline tests may end by themselves; then they are ended, and what lands reaches its next border.
    if tokio::time::timeout_at(until, &mut ended).await.is_err() {
        if let Some(gates) = directory.gates() {
            gates.stop(Level::Cancel, "the supervisor stops").await;
        }
        ended.await;
    }
    // Those whose lane is not there to wait for them.
    for landing in directory.landings() {
        landing.halt.send_replace(Some(Halted::System));
        landing.halt.closed().await;
    }
    if let Some(gates) = directory.gates() {
        gates.stop(Level::Cancel, "the supervisor stops").await;
    }
    flush_outbox(ctx, directory).await;
    for (role, cell) in children.iter().rev() {
        tracing::debug!("stopping {}", role.name());
        end(cell).await;
    }
    tracing::info!(at = %ctx.now(), "all actors have ended");
}

/// Gives the outbox a moment to send what the last changes committed; the rest is sent after the next start.
async fn flush_outbox(ctx: &Context, directory: &Directory) {
    let flushed = tokio::time::timeout(FLUSH, async {
        while ctx.store.pending_outbox(1, ctx.now()).await.is_ok_and(|pending| !pending.is_empty()) {
            directory.wake_outbox();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if flushed.await.is_err() {
        tracing::info!("effects are left to be sent after the next start");
    }
}

/// Stops one child, waits, and kills only what does not listen.
async fn end(cell: &ActorCell) {
    cell.stop(Some("the supervisor stops".to_owned()));
    if cell.wait(Some(CHILD_WAIT)).await.is_err() {
        cell.kill();
        if cell.wait(Some(CHILD_WAIT)).await.is_err() {
            tracing::error!("an actor could not be seen to end");
        }
    }
}
