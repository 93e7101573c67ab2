//! TaskRouter: one per supervisor. Owns the TaskActors, the agent slots and the turns of serial repositories. Hears
//! events for tasks, requests for slots and turns, and the end of its children. Says `SlotGranted`, `TurnCame`,
//! `DependenciesSeen`. Dies with nothing but itself: its children fall with it and reload from the store. Never runs work,
//! and never starts a task again that crashes over and over: that one is blocked and a person is told.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orch_domain::decide::{Decision, decide};
use orch_domain::event::Event;
use orch_domain::ids::TaskId;
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::stop::Level;
use orch_domain::task::{State, Status, Step};
use orch_domain::time::Timestamp;
use orch_store::{Change, Store, Stored, TaskFilter};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{Semaphore, oneshot};

use crate::api::Slots;
use crate::bound;
use crate::context::Context;
use crate::directory::Directory;
use crate::restart::backoff;
use crate::settle::settle_jobs;
use crate::snapshots::{Snapshots, Teller};
use crate::task::{Answer, CLOSED, TaskActor, TaskArgs, TaskMsg};

/// What the router hears.
pub enum RouterMsg {
    /// Start (or find) the actor of a stored task.
    Start {
        /// Which.
        task: TaskId,
    },
    /// Bring an event to a task's actor, starting it when it is not there.
    Deliver {
        /// Which.
        task: TaskId,
        /// What happened.
        event: Box<Event>,
        /// Told what came of it, once that is durable.
        reply: Option<oneshot::Sender<Answer>>,
    },
    /// A task wants an agent slot.
    AskSlot {
        /// Which.
        task: TaskId,
        /// Higher goes first.
        priority: i32,
        /// Earlier goes first among equals.
        created: Timestamp,
    },
    /// A task needs its agent slot no more.
    GiveSlotBack {
        /// Which.
        task: TaskId,
    },
    /// A task of a serial repository wants its turn.
    AskTurn {
        /// Which.
        task: TaskId,
        /// Its repository.
        repo: RepoName,
    },
    /// A task waits for others.
    WatchDependencies {
        /// Which.
        task: TaskId,
        /// For whom.
        keys: Vec<TaskKey>,
    },
    /// Which tasks have a running actor, or one in its backoff.
    Running {
        /// Told.
        reply: oneshot::Sender<BTreeSet<TaskId>>,
    },
    /// A task is closed.
    Closed {
        /// Which.
        task: TaskId,
    },
    /// A crashed child's pause is over.
    Restart {
        /// Which.
        task: TaskId,
        /// How often that was within the window, for people.
        count: u32,
    },
    /// What a look at dependencies found.
    DependenciesFound {
        /// For whom.
        task: TaskId,
        /// What to tell it.
        event: Box<Event>,
    },
    /// The disk has space again, or has not any more.
    DiskTurned,
    /// Who has the turn was looked up.
    TurnsFound {
        /// Repositories whose turn is taken, with the holder.
        held: BTreeMap<RepoName, TaskId>,
    },
    /// Stop taking work and stop the tasks.
    Stop {
        /// How firmly.
        level: Level,
        /// Whether agents are left to the next start instead of being waited for.
        leave: bool,
        /// Told when the last TaskActor has ended.
        done: Option<oneshot::Sender<()>>,
    },
}

/// What the router is started with.
pub struct RouterArgs {
    /// Shared.
    pub ctx: Arc<Context>,
    /// Addresses.
    pub directory: Directory,
    /// Snapshots.
    pub snapshots: Snapshots,
}

/// The actor.
pub struct TaskRouter;

/// How many tasks load at a time: four full groups of the store, so that its writer always finds one.
const LOADS: usize = 256;

/// A place in the queue for slots: priority first, then age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    priority: Reverse<i32>,
    created: Timestamp,
    task: TaskId,
}

/// Its state.
pub struct RouterState {
    ctx: Arc<Context>,
    directory: Directory,
    snapshots: Snapshots,
    teller: Teller,
    children: BTreeMap<TaskId, ActorRef<TaskMsg>>,
    by_actor: BTreeMap<ActorId, TaskId>,
    loading: Arc<Semaphore>,
    /// Tasks whose actor is in its backoff.
    resting: BTreeSet<TaskId>,
    /// Tasks that are left alone: they were handed in with other settings.
    left_alone: BTreeSet<TaskId>,
    slots: BTreeSet<TaskId>,
    waiting: BTreeSet<Place>,
    asked: BTreeMap<TaskId, Place>,
    turn_queue: Vec<(TaskId, RepoName)>,
    watching: BTreeMap<TaskId, Vec<TaskKey>>,
    stopping: Option<Level>,
    stopped: Vec<oneshot::Sender<()>>,
}

impl Actor for TaskRouter {
    type Msg = RouterMsg;
    type State = RouterState;
    type Arguments = RouterArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RouterMsg>,
        args: RouterArgs,
    ) -> Result<RouterState, ActorProcessingErr> {
        let now = args.ctx.now();
        let teller = args.snapshots.register("router", "starting", now, 0);
        // Published before the first task begins: what tasks ask for while this still starts waits in the mailbox.
        args.directory.set_router(myself.clone());
        hear_the_disk(&args.ctx, myself.clone());
        let mut state = RouterState {
            ctx: args.ctx,
            directory: args.directory,
            snapshots: args.snapshots,
            teller,
            children: BTreeMap::new(),
            by_actor: BTreeMap::new(),
            loading: Arc::new(Semaphore::new(LOADS)),
            resting: BTreeSet::new(),
            left_alone: BTreeSet::new(),
            slots: BTreeSet::new(),
            waiting: BTreeSet::new(),
            asked: BTreeMap::new(),
            turn_queue: Vec::new(),
            watching: BTreeMap::new(),
            stopping: None,
            stopped: Vec::new(),
        };
        // Agents may work on from before: their slots are taken before the first one is asked for. Whoever resumes and does
        // not need its own any more gives it back.
        let running = TaskFilter { status: Some(Status::Running), live_only: true, ..TaskFilter::default() };
        let stopping = TaskFilter { status: Some(Status::Stopping), ..running.clone() };
        for filter in [running, stopping] {
            for Stored { task, .. } in state.ctx.store.find_tasks(filter).await? {
                let agent = matches!(task.state, State::Running { step: Step::Agent, .. });
                if agent && bound::others(&state.ctx, &task).is_none() {
                    state.slots.insert(task.id);
                }
            }
        }
        // Re-own every live task: the same way a restart of the process and a restart of this actor go.
        for (task, _) in state.ctx.store.live_ids().await? {
            state.start(&myself, &task, 0).await;
        }
        state.publish();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<RouterMsg>,
        message: RouterMsg,
        state: &mut RouterState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RouterMsg::Start { task } => {
                state.start(&myself, &task, 0).await;
            }
            RouterMsg::Deliver { task, event, reply } => state.deliver(&myself, &task, event, reply).await,
            // From an actor that has ended meanwhile: its successor asks for itself, a slot given now would be nobody's.
            RouterMsg::AskSlot { task, .. }
            | RouterMsg::AskTurn { task, .. }
            | RouterMsg::WatchDependencies { task, .. }
                if !state.children.contains_key(&task) =>
            {
                tracing::debug!(task.id = %task, "task {task} ended before its request was read");
            }
            RouterMsg::AskSlot { task, priority, created } => {
                if state.slots.contains(&task) {
                    state.tell(&task, Event::SlotGranted);
                } else if !state.asked.contains_key(&task) {
                    let place = Place { priority: Reverse(priority), created, task: task.clone() };
                    state.waiting.insert(place.clone());
                    state.asked.insert(task, place);
                }
                state.grant();
            }
            RouterMsg::GiveSlotBack { task } => state.give_back(&task),
            RouterMsg::AskTurn { task, repo } => {
                if !state.turn_queue.iter().any(|(t, _)| *t == task) {
                    state.turn_queue.push((task, repo));
                }
                state.look_for_turns(&myself);
            }
            RouterMsg::TurnsFound { held } => state.give_turns(held),
            RouterMsg::DiskTurned => state.grant(),
            RouterMsg::WatchDependencies { task, keys } => {
                state.watching.insert(task.clone(), keys);
                state.look_at_dependencies(&myself, &task);
            }
            RouterMsg::DependenciesFound { task, event } => {
                if matches!(&*event, Event::DependenciesSeen { open, .. } if open.is_empty()) {
                    state.watching.remove(&task);
                }
                state.tell(&task, *event);
            }
            RouterMsg::Running { reply } => {
                let known = state.children.keys().chain(&state.resting).chain(&state.left_alone);
                let running = known.cloned().collect();
                if reply.send(running).is_err() {
                    tracing::debug!("nobody waits for the list of tasks any more");
                }
            }
            RouterMsg::Closed { task } => {
                state.give_back(&task);
                state.watching.remove(&task);
                state.turn_queue.retain(|(t, _)| *t != task);
                state.look_for_turns(&myself);
                let watchers: Vec<TaskId> = state.watching.keys().cloned().collect();
                for watcher in watchers {
                    state.look_at_dependencies(&myself, &watcher);
                }
            }
            RouterMsg::Restart { task, count } => {
                if state.resting.remove(&task) && state.stopping.is_none() {
                    state.start(&myself, &task, count).await;
                }
            }
            RouterMsg::Stop { level, leave, done } => {
                state.stop(level, leave);
                state.stopped.extend(done);
                state.report_stopped();
            }
        }
        state.publish();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RouterMsg>,
        event: SupervisionEvent,
        state: &mut RouterState,
    ) -> Result<(), ActorProcessingErr> {
        let (who, why) = match event {
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                (who, reason.unwrap_or_else(|| "it stopped".to_owned()))
            }
            SupervisionEvent::ActorFailed(who, why) => (who, why.to_string()),
            _ => return Ok(()),
        };
        if let Some(task) = state.child_ended(&who, why == CLOSED)
            && why != CLOSED
            && state.stopping.is_none()
        {
            // Killed, failed, or pushed aside by a newer owner: a live task never stays without its actor.
            tracing::error!(task.id = %task, error = %why, "the actor of task {task} ended before its task did");
            state.restart_later(&myself, task, why);
        }
        state.report_stopped();
        state.publish();
        Ok(())
    }
}

impl RouterState {
    async fn start(&mut self, myself: &ActorRef<RouterMsg>, task: &TaskId, restarts: u32) -> Option<ActorRef<TaskMsg>> {
        if let Some(child) = self.children.get(task) {
            return Some(child.clone());
        }
        if self.stopping.is_some() || self.leaves_alone(task).await {
            return None;
        }
        self.spawn(myself, task, restarts).await
    }

    async fn spawn(&mut self, myself: &ActorRef<RouterMsg>, task: &TaskId, restarts: u32) -> Option<ActorRef<TaskMsg>> {
        let args = TaskArgs {
            task: task.clone(),
            ctx: self.ctx.clone(),
            directory: self.directory.clone(),
            snapshots: self.snapshots.clone(),
            restarts,
            loading: self.loading.clone(),
        };
        match Actor::spawn_linked(None, TaskActor, args, myself.get_cell()).await {
            Ok((child, _)) => {
                self.by_actor.insert(child.get_id(), task.clone());
                self.children.insert(task.clone(), child.clone());
                Some(child)
            }
            Err(why) => {
                tracing::error!(task.id = %task, error = %why, "the actor of task {task} could not be started");
                self.restart_later(myself, task.clone(), why.to_string());
                None
            }
        }
    }

    /// Whether a task was handed in with other settings: then nothing of it is begun, ended or changed here.
    async fn leaves_alone(&mut self, task: &TaskId) -> bool {
        if self.ctx.settings.is_none() {
            return false;
        }
        let others = match self.ctx.store.look_at_task(task).await {
            Ok(stored) => stored.and_then(|stored| bound::others(&self.ctx, &stored.task)),
            // Whoever begins it reads it too, and is restarted until that goes.
            Err(_) => None,
        };
        match others {
            Some(others) => {
                tracing::info!(task.id = %task, others, "task {task} was handed in with other settings and is left alone");
                self.left_alone.insert(task.clone());
                true
            }
            None => {
                self.left_alone.remove(task);
                false
            }
        }
    }

    async fn deliver(
        &mut self,
        myself: &ActorRef<RouterMsg>,
        task: &TaskId,
        event: Box<Event>,
        reply: Option<oneshot::Sender<Answer>>,
    ) {
        // A STOP is carried out until the very end: an actor for it has only these steps to do, and ends with them.
        let ends = self.stopping.is_some_and(|level| level < Level::Kill) && !self.children.contains_key(task);
        let child = match *event {
            Event::StopRequested { .. } if ends && !self.leaves_alone(task).await => self.spawn(myself, task, 0).await,
            _ => self.start(myself, task, 0).await,
        };
        if let Some(child) = child
            && child.cast(TaskMsg::Event { event, reply }).is_err()
        {
            // It ended in between; its successor resumes from the store and asks for what it needs.
            tracing::debug!(task.id = %task, "task {task} ended before an event reached it");
        }
    }

    fn tell(&self, task: &TaskId, event: Event) {
        if let Some(child) = self.children.get(task)
            && child.cast(TaskMsg::Event { event: Box::new(event), reply: None }).is_err()
        {
            tracing::debug!(task.id = %task, "task {task} ended before an event reached it");
        }
    }

    fn child_ended(&mut self, who: &ActorCell, closed: bool) -> Option<TaskId> {
        let task = self.by_actor.remove(&who.get_id())?;
        self.children.remove(&task);
        if closed || !self.slots.contains(&task) {
            // Its successor asks again.
            self.give_back(&task);
        }
        // Else its agent may work on: the successor goes on with it, or gives the slot back.
        self.turn_queue.retain(|(t, _)| *t != task);
        Some(task)
    }

    /// Restarts a failed child after a pause, or blocks its task when it fails over and over.
    fn restart_later(&mut self, myself: &ActorRef<RouterMsg>, task: TaskId, why: String) {
        if self.stopping.is_some() {
            return;
        }
        self.resting.insert(task.clone());
        let (ctx, myself) = (self.ctx.clone(), myself.clone());
        tokio::spawn(async move {
            let limits = ctx.limits;
            let count = ctx.store.note_restart(&format!("task {task}"), ctx.now(), limits.restart_window).await;
            let count = count.unwrap_or(limits.restarts);
            if count >= limits.restarts {
                block_crash_loop(&ctx, &task, why, count > limits.restarts).await;
            }
            tokio::time::sleep(backoff(count)).await;
            if myself.cast(RouterMsg::Restart { task, count }).is_err() {
                tracing::debug!("the router ended; its successor starts every live task");
            }
        });
    }

    fn give_back(&mut self, task: &TaskId) {
        self.slots.remove(task);
        if let Some(place) = self.asked.remove(task) {
            self.waiting.remove(&place);
        }
        self.grant();
    }

    /// Gives free slots to those that wait: priority first, then age. None while the disk is short of space.
    fn grant(&mut self) {
        if self.stopping.is_some() || self.ctx.disk.is_short() {
            return;
        }
        while self.slots.len() < self.ctx.limits.agents
            && let Some(next) = self.waiting.pop_first()
        {
            self.asked.remove(&next.task);
            self.slots.insert(next.task.clone());
            self.tell(&next.task, Event::SlotGranted);
        }
    }

    /// Looks up who has the turn, in a side task; the answer comes as `TurnsFound`.
    fn look_for_turns(&self, myself: &ActorRef<RouterMsg>) {
        if self.turn_queue.is_empty() {
            return;
        }
        let (store, myself) = (self.ctx.store.clone(), myself.clone());
        tokio::spawn(async move {
            match store.turn_holders().await {
                Ok(holders) => {
                    let held = holders.into_iter().collect();
                    if myself.cast(RouterMsg::TurnsFound { held }).is_err() {
                        tracing::debug!("the router ended while turns were looked up");
                    }
                }
                Err(error) => tracing::warn!(%error, "turns could not be looked up; asked again with the next event"),
            }
        });
    }

    fn give_turns(&mut self, mut held: BTreeMap<RepoName, TaskId>) {
        let mut kept = Vec::new();
        for (task, repo) in std::mem::take(&mut self.turn_queue) {
            match held.get(&repo) {
                Some(holder) if *holder != task => kept.push((task, repo)),
                _ => {
                    held.insert(repo, task.clone());
                    self.tell(&task, Event::TurnCame);
                }
            }
        }
        self.turn_queue = kept;
    }

    fn look_at_dependencies(&self, myself: &ActorRef<RouterMsg>, task: &TaskId) {
        let Some(keys) = self.watching.get(task).cloned() else { return };
        let (store, myself, task) = (self.ctx.store.clone(), myself.clone(), task.clone());
        tokio::spawn(async move {
            match dependencies(&store, &keys).await {
                Ok(event) => {
                    if myself.cast(RouterMsg::DependenciesFound { task, event: Box::new(event) }).is_err() {
                        tracing::debug!("the router ended while dependencies were looked up");
                    }
                }
                Err(error) => tracing::warn!(%error, "the dependencies of {task} could not be looked up"),
            }
        });
    }

    fn stop(&mut self, level: Level, leave: bool) {
        if self.stopping.is_some_and(|now| now >= level) {
            return;
        }
        self.stopping = Some(level);
        self.resting.clear();
        for child in self.children.values() {
            if child.cast(TaskMsg::Stop { level, leave }).is_err() {
                tracing::debug!("a task ended before it could be told to stop");
            }
        }
    }

    fn report_stopped(&mut self) {
        if self.stopping.is_some() && self.children.is_empty() {
            for done in self.stopped.drain(..) {
                if done.send(()).is_err() {
                    tracing::debug!("nobody waits for the router's stop any more");
                }
            }
        }
    }

    fn publish(&self) {
        let slots = Slots { used: self.slots.len(), total: self.ctx.limits.agents, waiting: self.waiting.len() };
        self.snapshots.set_agent_slots(slots);
        let text = match self.stopping {
            Some(level) => format!("stopping ({level:?}), {} tasks left", self.children.len()),
            None => {
                let held = if self.ctx.disk.is_short() { ", none given: the disk is short of space" } else { "" };
                format!("{} tasks, {} of {} slots used{held}", self.children.len(), slots.used, slots.total)
            }
        };
        self.teller.say(text, self.ctx.now());
    }
}

/// Passes on when the disk turns; ends with the router or the system.
fn hear_the_disk(ctx: &Context, myself: ActorRef<RouterMsg>) {
    let mut turns = ctx.disk.turns();
    tokio::spawn(async move { while turns.changed().await.is_ok() && myself.cast(RouterMsg::DiskTurned).is_ok() {} });
}

/// What became of the named tasks: the newest life of each counts. An unknown key is open: it may still come.
async fn dependencies(store: &Store, keys: &[TaskKey]) -> Result<Event, orch_store::StoreError> {
    let (mut open, mut cancelled) = (Vec::new(), Vec::new());
    for key in keys {
        let newest = store.tasks_by_key(key).await?.into_iter().map(|s| s.task).max_by_key(|t| t.generation);
        match newest.map(|t| t.state) {
            Some(State::Done { .. }) => {}
            Some(State::Cancelled { .. }) => cancelled.push(key.clone()),
            Some(_) | None => open.push(key.clone()),
        }
    }
    Ok(Event::DependenciesSeen { open, cancelled })
}

/// Blocks a task whose actor fails over and over. Takes ownership first, so that no zombie goes on with it. A person who
/// was told once is not told `again` about a task that is blocked.
async fn block_crash_loop(ctx: &Context, task: &TaskId, why: String, again: bool) {
    // Its actors are gone; whatever they had started must not outlive them.
    for unproven in settle_jobs(ctx, task).await {
        tracing::warn!(task.id = %task, %unproven, "a job of a task that fails over and over could not be proven gone");
    }
    let outcome = async {
        let owned = ctx.store.own_task(task, ctx.now()).await?;
        if again && matches!(owned.task.state, State::Blocked { .. }) {
            return Ok(());
        }
        let Decision::Change(change) = decide(&owned.task, &Event::CrashLooped { why }, ctx.now()) else {
            return Ok(());
        };
        let commit = Change {
            task: change.task,
            version: owned.version,
            epoch: owned.epoch,
            entries: change.entries,
            outgoing: change.outgoing,
            forward: change.forward,
            now: ctx.now(),
        };
        ctx.store.commit(commit).await.map(|_| ()).map_err(Box::<dyn std::error::Error + Send + Sync>::from)
    }
    .await;
    if let Err(error) = outcome {
        tracing::error!(task.id = %task, %error, "task {task} fails over and over and could not be blocked");
    }
}
