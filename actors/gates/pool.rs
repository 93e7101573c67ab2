//! `GatePool`. Owns the gate slots and the queue for them. Hears orders, cancellations, its gates' ends, and its stop.
//! Says answers through the askers' replies, and its state through a watch channel. Dies with the root supervisor; a
//! gate that dies takes nothing else along. Never runs, awaits or judges a gate itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use orch_adapters::ports::Clock;
use orch_domain::ids::TaskId;
use orch_domain::stop::Level;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::{oneshot, watch};

use super::answer::GateAnswer;
use super::gate::{END_GRACE, GateActor, GateArgs, GateMsg};
use super::queue::{GateOrder, HeldSlot, PoolSnapshot, Queue, Reply, Waiting, Work};
use crate::api::Slots;

/// What the pool hears.
pub enum PoolMsg {
    /// Run this when a slot is free.
    Run(Box<Order>),
    /// End what runs and waits for a task; answered when nothing of it is left.
    CancelFor {
        /// The task.
        task: TaskId,
        /// Answered with how many were ended.
        done: oneshot::Sender<usize>,
    },
    /// Stop, at least this firmly; answered when no gate is left. Levels only rise.
    Stop {
        /// How firmly.
        level: Level,
        /// Why, for the answers.
        why: String,
        /// Answered at the end.
        stopped: oneshot::Sender<()>,
    },
}

/// An order with its work and its asker.
pub struct Order(Waiting);

/// The actor.
pub struct GatePool;

/// What it begins with.
pub struct PoolArgs {
    total: usize,
    clock: Arc<dyn Clock>,
    snapshot: watch::Sender<PoolSnapshot>,
}

/// A gate that runs.
struct Running {
    held: HeldSlot,
    gate: ActorRef<GateMsg>,
    cancel: watch::Sender<Option<String>>,
}

/// Somebody who waits for the end of a task's gates.
struct Ending {
    task: TaskId,
    ended: usize,
    done: oneshot::Sender<usize>,
}

/// Its state.
pub struct PoolState {
    total: usize,
    clock: Arc<dyn Clock>,
    snapshot: watch::Sender<PoolSnapshot>,
    queue: Queue,
    running: HashMap<ActorId, Running>,
    endings: Vec<Ending>,
    stop: Option<(Level, String)>,
    stopped: Vec<oneshot::Sender<()>>,
}

impl Actor for GatePool {
    type Msg = PoolMsg;
    type State = PoolState;
    type Arguments = PoolArgs;

    async fn pre_start(&self, _: ActorRef<PoolMsg>, args: PoolArgs) -> Result<PoolState, ActorProcessingErr> {
        let state = PoolState {
            // With no slot at all nothing would ever end.
            total: args.total.max(1),
            clock: args.clock,
            snapshot: args.snapshot,
            queue: Queue::default(),
            running: HashMap::new(),
            endings: Vec::new(),
            stop: None,
            stopped: Vec::new(),
        };
        state.publish();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<PoolMsg>,
        message: PoolMsg,
        state: &mut PoolState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PoolMsg::Run(order) => state.take_in(order.0),
            PoolMsg::CancelFor { task, done } => state.cancel_for(task, done),
            PoolMsg::Stop { level, why, stopped } => state.begin_stop(level, why, stopped),
        }
        state.serve(&myself).await;
        Ok(())
    }

    /// A gate's end, however it came, frees its slot; it never ends the pool.
    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<PoolMsg>,
        event: SupervisionEvent,
        state: &mut PoolState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(gate, _, _) => state.gate_ended(gate.get_id()),
            SupervisionEvent::ActorFailed(gate, error) => {
                tracing::error!(gate.id = %gate.get_id(), %error, "a GateActor failed");
                state.gate_ended(gate.get_id());
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        }
        state.serve(&myself).await;
        Ok(())
    }
}

impl PoolState {
    fn take_in(&mut self, waiting: Waiting) {
        match &self.stop {
            Some((_, why)) => waiting.reply.cancelled(format!("no new gate run is taken: {why}")),
            None => self.queue.push(waiting),
        }
    }

    fn cancel_for(&mut self, task: TaskId, done: oneshot::Sender<usize>) {
        let why = "the task is being stopped";
        let queued = self.queue.take_of(&task);
        let mut ended = queued.len();
        for waiting in queued {
            waiting.reply.cancelled(format!("{} was taken out of the queue: {why}", waiting.order.label));
        }
        for running in self.running.values_mut().filter(|running| running.held.order.task == task) {
            running.ask_to_end(why);
            ended += 1;
        }
        self.endings.push(Ending { task, ended, done });
    }

    fn begin_stop(&mut self, level: Level, why: String, stopped: oneshot::Sender<()>) {
        self.stopped.push(stopped);
        let level = self.stop.as_ref().map_or(level, |(before, _)| level.max(*before));
        for waiting in self.queue.take_all() {
            waiting.reply.cancelled(format!("{} was taken out of the queue: {why}", waiting.order.label));
        }
        for running in self.running.values_mut() {
            match level {
                Level::Drain => {}
                Level::Cancel => running.ask_to_end(&why),
                Level::Kill => {
                    running.ask_to_end(&why);
                    if running.gate.cast(GateMsg::EndNow).is_err() {
                        tracing::debug!(gate.label = %running.held.order.label, "the gate had ended already");
                    }
                }
            }
        }
        self.stop = Some((level, why));
    }

    fn gate_ended(&mut self, gate: ActorId) {
        self.running.remove(&gate);
    }

    /// Gives free slots to those whose turn it is, tells those who wait for ends, and shows the new state.
    async fn serve(&mut self, myself: &ActorRef<PoolMsg>) {
        loop {
            let taken: Vec<&GateOrder> = self.running.values().map(|running| &running.held.order).collect();
            let Some(next) = self.queue.next(self.total, &taken) else { break };
            self.start(next, myself).await;
        }
        let running = &self.running;
        let over = |ending: &mut Ending| running.values().all(|running| running.held.order.task != ending.task);
        for ending in self.endings.extract_if(.., over) {
            // Whoever asked may have given up waiting.
            let _ = ending.done.send(ending.ended);
        }
        self.publish();
        if self.stop.is_some() && self.running.is_empty() {
            for stopped in self.stopped.drain(..) {
                let _ = stopped.send(());
            }
            myself.stop(Some("stopped".to_owned()));
        }
    }

    async fn start(&mut self, waiting: Waiting, myself: &ActorRef<PoolMsg>) {
        let Waiting { order, work, reply, .. } = waiting;
        let (cancel, heard) = watch::channel(None);
        let args = GateArgs { label: order.label.clone(), work, reply, cancel: heard };
        match Actor::spawn_linked(None, GateActor, args, myself.get_cell()).await {
            Ok((gate, _)) => {
                let held = HeldSlot { order, since: self.clock.now(), ending: None };
                self.running.insert(gate.get_id(), Running { held, gate, cancel });
            }
            // The reply went down with its arguments and has answered.
            Err(error) => tracing::error!(gate.label = %order.label, %error, "a GateActor could not be started"),
        }
    }

    fn publish(&self) {
        let mut held: Vec<HeldSlot> = self.running.values().map(|running| running.held.clone()).collect();
        held.sort_by(|a, b| (a.since, &a.order.label).cmp(&(b.since, &b.order.label)));
        self.snapshot.send_replace(PoolSnapshot {
            slots: Slots { used: self.running.len(), total: self.total, waiting: self.queue.len() },
            held,
            waiting: self.queue.shown(),
            at: self.clock.now(),
        });
    }
}

impl Running {
    fn ask_to_end(&mut self, why: &str) {
        self.held.ending.get_or_insert_with(|| why.to_owned());
        self.cancel.send_if_modified(|flag| flag.is_none() && flag.replace(why.to_owned()).is_none());
    }
}

/// How others reach the pool. Cheap to clone.
#[derive(Clone)]
pub struct GatePoolHandle {
    pool: ActorRef<PoolMsg>,
    snapshot: watch::Receiver<PoolSnapshot>,
    clock: Arc<dyn Clock>,
}

impl GatePoolHandle {
    /// Starts a pool of `total` slots (at least one), linked to `supervisor` when there is one.
    ///
    /// # Errors
    /// When the actor cannot be started.
    pub async fn start(total: usize, clock: Arc<dyn Clock>, supervisor: Option<ActorCell>) -> Result<Self, SpawnErr> {
        let (tell, snapshot) = watch::channel(PoolSnapshot::default());
        let args = PoolArgs { total, clock: clock.clone(), snapshot: tell };
        let (pool, _) = match supervisor {
            Some(supervisor) => Actor::spawn_linked(None, GatePool, args, supervisor).await?,
            None => Actor::spawn(None, GatePool, args).await?,
        };
        Ok(Self { pool, snapshot, clock })
    }

    /// Runs `work` once there is a slot for it and gives its answer; the work is not polled before. Always answers: a
    /// panic, a cancellation and the pool's own end are `could not run`. Dropping this future takes the order
    /// out of the queue, or ends the run.
    pub async fn run(&self, order: GateOrder, work: Work) -> GateAnswer {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { order, work, reply: Reply::new(reply), since: self.clock.now() };
        // Not taken: the order comes back in the error, and its reply answers as it is dropped.
        drop(self.pool.cast(PoolMsg::Run(Box::new(Order(waiting)))));
        answer.await.unwrap_or_else(|_| GateAnswer::could_not_run("the gate pool has ended"))
    }

    /// Ends what waits and runs for a task, and returns when nothing of it is left (or after a bound, should a gate not
    /// end). Tells how many there were; `None`: not known, since the pool is away or a gate did not end in time.
    pub async fn cancel_for(&self, task: &TaskId) -> Option<usize> {
        let (done, ended) = oneshot::channel();
        self.pool.cast(PoolMsg::CancelFor { task: task.clone(), done }).ok()?;
        let bound = END_GRACE + Duration::from_secs(5);
        tokio::time::timeout(bound, ended).await.ok()?.ok()
    }

    /// Stops the pool: no new work; from `Cancel` on runs are told to end, `Kill` drops them. Returns when no gate is
    /// left and the pool has ended.
    pub async fn stop(&self, level: Level, why: &str) {
        let (stopped, end) = oneshot::channel();
        if self.pool.cast(PoolMsg::Stop { level, why: why.to_owned(), stopped }).is_ok() {
            // An error means that it ended before it could answer.
            let _ = end.await;
        }
        let _ = self.pool.wait(None).await;
    }

    /// Slots and queue, as last told.
    #[must_use]
    pub fn snapshot(&self) -> PoolSnapshot {
        self.snapshot.borrow().clone()
    }

    /// The same as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<PoolSnapshot> {
        self.snapshot.clone()
    }

    /// The actor, for its supervisor.
    #[must_use]
    pub fn cell(&self) -> ActorCell {
        self.pool.get_cell()
    }
}
