//! RepoLeaseActor: one per repository. Owns the lane: who lands next, and the side task that lands. Hears `Land`, `LetGo`
//! and the end of its side task. Says `LandingEnded`, by way of the router. Dies with nothing: a landing under way is cut
//! by no actor's death, a successor attaches to it, and finds waiting tasks in the store. Never pushes or tests in a handler, and is,
//! through its side task, the only one that pushes, merges or deletes branches.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use orch_domain::event::{Event, LandingEnd};
use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::lane::{Lane, LaneMode, Ready, overtake, plan};
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::stop::Level;
use orch_domain::task::{State, Status, Task};
use orch_domain::time::{Millis, Timestamp};
use orch_domain::turns::{self, Turn, TurnEnd};
use orch_store::StoreError;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::directory::{Directory, UnderWay};
use crate::landing::{Carried, Halted, Landing, Notes, Tidying};
use crate::lease::Lost;
use crate::snapshots::{Snapshots, Teller};
use crate::turns::{Memory, OpenTime, REMEMBERED, TurnNotes};

/// Between looks at the store for waiting tasks and for the lane's mode.
const LOOK: Duration = Duration::from_secs(10);

/// A task that wants to land (or to deploy what has landed: its row says which).
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Which.
    pub task: TaskId,
    /// Its key, for people.
    pub key: TaskKey,
    /// Higher goes first.
    pub priority: i32,
    /// Since when it waits for this turn.
    pub since: Timestamp,
    /// The commit it brings.
    pub head: Option<CommitSha>,
    /// Which of the task's requests this is.
    pub asked: u32,
}

impl Waiting {
    /// A task that is in the lane's hands; `None`: it is not.
    #[must_use]
    pub fn of(task: &Task) -> Option<Self> {
        let State::Landing { since, .. } = task.state else { return None };
        let (id, key, head) = (task.id.clone(), task.key.clone(), task.head.clone());
        Some(Self { task: id, key, priority: task.priority, since, head, asked: task.lane_asked })
    }
}

/// What a lane hears.
pub enum LaneMsg {
    /// A task waits for its turn.
    Land(Waiting),
    /// A stopped task is to leave the lane: answered when the lane has nothing of it any more.
    LetGo {
        /// Which.
        task: TaskId,
        /// Told how it stood.
        reply: oneshot::Sender<String>,
    },
    /// A stopped task left an irreversible step open: bring that to its honest end. Answered when that was tried.
    Finish {
        /// Which.
        task: TaskId,
        /// Its key, for people.
        key: TaskKey,
        /// Told how it stands.
        reply: oneshot::Sender<String>,
    },
    /// The side task is through: the next may begin.
    Ended {
        /// With which task.
        task: TaskId,
        /// How.
        end: TurnEnd,
        /// Whether it is tidied up behind it still.
        tidying: bool,
    },
    /// It is tidied up behind a landing, and its task knows how it ended.
    Tidied {
        /// Behind which.
        task: TaskId,
    },
    /// Look for waiting tasks, and at the lane's mode.
    Look,
    /// What a look found.
    Found(Found),
    /// Who waits, in order.
    Queue {
        /// Told the keys.
        reply: oneshot::Sender<Vec<TaskKey>>,
    },
    /// Stop: what has begun ends at its next border, windows are waited for.
    Stop {
        /// How firmly.
        level: Level,
        /// Told when nothing is under way.
        done: oneshot::Sender<()>,
    },
}

/// What a look at the store found.
pub struct Found {
    /// Tasks of this repository that wait.
    waiting: Vec<Waiting>,
    /// The lane's mode.
    mode: LaneMode,
    /// Its turns, when they were asked for.
    turns: Option<Vec<Turn>>,
}

/// What a lane is started with.
pub struct LaneArgs {
    /// Shared.
    pub ctx: Arc<Context>,
    /// Addresses.
    pub directory: Directory,
    /// Snapshots.
    pub snapshots: Snapshots,
    /// The repository.
    pub repo: RepoName,
}

/// The actor.
pub struct RepoLeaseActor;

struct Request {
    ready: Ready,
    key: TaskKey,
    /// Since when it waits for this turn.
    queued: Timestamp,
    /// Which of the task's requests this is.
    asked: u32,
    /// How long the lane had been open when it came.
    open_before: Millis,
    /// Who waits for the end of its open window.
    finish: Option<oneshot::Sender<String>>,
}

struct Current {
    task: TaskId,
    halt: watch::Sender<Option<Halted>>,
    let_go: Vec<oneshot::Sender<String>>,
    finish: bool,
    /// What its turn will be recorded as; `None`: an earlier life of this lane began it, and its side task records it.
    turn: Option<Begun>,
}

impl Current {
    /// Its turn, as whoever comes meanwhile counts it.
    fn begun(&self) -> Option<turns::Begun<'_>> {
        let Begun { ready, began, .. } = self.turn.as_ref()?;
        Some(turns::Begun { task: &self.task, ready: *ready, began: *began })
    }
}

/// A turn that has begun.
#[derive(Clone)]
struct Begun {
    ready: Timestamp,
    key: TaskKey,
    queued: Timestamp,
    began: Timestamp,
    notes: TurnNotes,
}

/// A landing that is over but for its tidying up.
struct Behind {
    task: TaskId,
    /// Who waits until the lane has nothing of it any more.
    let_go: Vec<oneshot::Sender<String>>,
}

impl Begun {
    fn ended(self, task: TaskId, end: TurnEnd, ended: Timestamp) -> Turn {
        let Self { ready, key, queued, began, notes } = self;
        Turn { task, key, ready, queued, began, ended, end, facts: notes.facts() }
    }
}

async fn store_turn(ctx: Arc<Context>, repo: RepoName, turn: Turn) {
    // Only figures and seniority follow from it.
    if let Err(error) = ctx.store.insert_turn(&repo, turn).await {
        tracing::warn!(%repo, %error, "a turn of the lane of {repo} was not recorded");
    }
}

/// Its state.
pub struct LaneState {
    ctx: Arc<Context>,
    directory: Directory,
    snapshots: Snapshots,
    repo: RepoName,
    teller: Teller,
    queue: Vec<Request>,
    current: Option<Current>,
    behind: Vec<Behind>,
    /// `None` until the first look: nothing begins before the mode and the earlier turns are known.
    mode: Option<LaneMode>,
    open: OpenTime,
    memory: Memory,
    stopping: Vec<oneshot::Sender<()>>,
    stop: bool,
    clock: AbortHandle,
}

impl Drop for LaneState {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

impl Actor for RepoLeaseActor {
    type Msg = LaneMsg;
    type State = LaneState;
    type Arguments = LaneArgs;

    async fn pre_start(&self, myself: ActorRef<LaneMsg>, args: LaneArgs) -> Result<LaneState, ActorProcessingErr> {
        let teller = args.snapshots.register(&format!("lane {}", args.repo), "idle", args.ctx.now(), 0);
        // A landing that an earlier life of this lane began goes on: it is this one's now.
        let current = args.directory.landing(&args.repo).map(|under_way| {
            let (task, halt, me) = (under_way.task.clone(), under_way.halt.clone(), myself.clone());
            tokio::spawn(async move {
                under_way.halt.closed().await;
                if me.cast(LaneMsg::Ended { task: under_way.task, end: TurnEnd::Left, tidying: false }).is_err() {
                    tracing::debug!("the lane ended during a landing that it had attached to");
                }
            });
            Current { task, halt, let_go: Vec::new(), finish: false, turn: None }
        });
        let clock = tokio::spawn(async move {
            while myself.cast(LaneMsg::Look).is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(LaneState {
            ctx: args.ctx,
            directory: args.directory,
            snapshots: args.snapshots,
            repo: args.repo,
            teller,
            queue: Vec::new(),
            current,
            behind: Vec::new(),
            mode: None,
            open: OpenTime::default(),
            memory: Memory::default(),
            stopping: Vec::new(),
            stop: false,
            clock: clock.abort_handle(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<LaneMsg>,
        message: LaneMsg,
        state: &mut LaneState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LaneMsg::Land(waiting) => {
                state.enqueue(waiting);
                state.next(&myself);
            }
            LaneMsg::LetGo { task, reply } => state.let_go(&task, reply),
            LaneMsg::Finish { task, key, reply } => {
                state.queue.retain(|r| r.ready.task != task);
                let (priority, since) = (i32::MAX, state.ctx.now());
                let ready = Ready { task, priority, since, overtaken: 0, head: None, finish: true };
                state.queue.push(Request {
                    ready,
                    key,
                    queued: since,
                    asked: 0,
                    open_before: state.open.at(since),
                    finish: Some(reply),
                });
                state.next(&myself);
            }
            LaneMsg::Ended { task, end, tidying } => {
                if let Some(current) = state.current.take_if(|c| c.task == task) {
                    match tidying {
                        true => state.behind.push(Behind { task: task.clone(), let_go: current.let_go }),
                        false => have_ended(current.let_go),
                    }
                    match current.turn {
                        Some(begun) => state.record(task, begun, end),
                        // Recorded by whoever has carried it out: read from there.
                        None if !current.finish => state.look(&myself, true),
                        None => {}
                    }
                }
                // It is in the lane still: whoever closed the lane may have opened it again meanwhile.
                if end == TurnEnd::Left && !state.stop {
                    state.look(&myself, false);
                }
                state.next(&myself);
            }
            LaneMsg::Tidied { task } => {
                if let Some(at) = state.behind.iter().position(|behind| behind.task == task) {
                    have_ended(state.behind.remove(at).let_go);
                }
                state.next(&myself);
            }
            LaneMsg::Look => state.look(&myself, false),
            LaneMsg::Found(found) => {
                state.found(found);
                state.next(&myself);
            }
            LaneMsg::Queue { reply } => {
                if reply.send(state.order()).is_err() {
                    tracing::debug!("nobody waits for the lane's queue any more");
                }
            }
            LaneMsg::Stop { level, done } => {
                state.stop = true;
                state.stopping.push(done);
                if let Some(current) = &state.current {
                    current.halt.send_replace(Some(Halted::System));
                }
                tracing::debug!(repo = %state.repo, ?level, "the lane of {} stops", state.repo);
                state.next(&myself);
            }
        }
        state.publish();
        Ok(())
    }
}

fn answer(reply: oneshot::Sender<String>, how: String) {
    if reply.send(how).is_err() {
        tracing::debug!("a STOP that asked a lane has gone away; it asks again when it is resumed");
    }
}

fn have_ended(let_go: Vec<oneshot::Sender<String>>) {
    for reply in let_go {
        answer(reply, "its landing was under way and has ended".to_owned());
    }
}

impl LaneState {
    fn enqueue(&mut self, waiting: Waiting) {
        let Waiting { task, key, priority, since: queued, head, asked } = waiting;
        let known = self.queue.iter().any(|r| r.ready.task == task)
            || self.current.as_ref().is_some_and(|c| c.task == task)
            || self.behind.iter().any(|behind| behind.task == task);
        if !known {
            let under_way = self.current.as_ref().and_then(Current::begun);
            let (since, overtaken) = self.memory.seniority(under_way, &task, queued);
            let ready = Ready { task, priority, since, overtaken, head, finish: false };
            let open_before = self.open.at(self.ctx.now());
            self.queue.push(Request { ready, key, queued, asked, open_before, finish: None });
        }
    }

    fn found(&mut self, found: Found) {
        if let Some(turns) = found.turns {
            self.memory = Memory::of(turns);
            // Who came before the turns were known is ranked by them now.
            for request in self.queue.iter_mut().filter(|r| !r.ready.finish) {
                let under_way = self.current.as_ref().and_then(Current::begun);
                let (since, overtaken) = self.memory.seniority(under_way, &request.ready.task, request.queued);
                (request.ready.since, request.ready.overtaken) = (since, overtaken);
            }
        }
        if self.mode != Some(found.mode) {
            tracing::info!(repo = %self.repo, mode = found.mode.as_str(), "the lane of {} is {}", self.repo, found.mode.as_str());
        }
        self.mode = Some(found.mode);
        self.open.is_open(found.mode == LaneMode::Running, self.ctx.now());
        for waiting in found.waiting {
            self.enqueue(waiting);
        }
        // Nothing moves: what may still be undone is, and comes again when the lane runs.
        if found.mode == LaneMode::Paused
            && let Some(current) = self.current.as_ref().filter(|c| !c.finish && c.halt.borrow().is_none())
        {
            current.halt.send_replace(Some(Halted::Lane));
            self.end_tests_of(&current.task);
        }
    }

    /// Tests under way are no irreversible step: ending them brings a landing to its border at once.
    fn end_tests_of(&self, task: &TaskId) {
        if let Some(gates) = self.directory.gates() {
            let task = task.clone();
            tokio::spawn(async move { gates.cancel_for(&task).await });
        }
    }

    /// Takes note of a turn that is over, here and, in a side task, in the store.
    fn record(&mut self, task: TaskId, begun: Begun, end: TurnEnd) {
        let turn = begun.ended(task, end, self.ctx.now());
        self.memory.add(turn.clone());
        tokio::spawn(store_turn(self.ctx.clone(), self.repo.clone(), turn));
    }

    fn let_go(&mut self, task: &TaskId, reply: oneshot::Sender<String>) {
        if let Some(current) = self.current.as_mut().filter(|c| c.task == *task) {
            current.halt.send_replace(Some(Halted::Task));
            current.let_go.push(reply);
            self.end_tests_of(task);
            return;
        }
        if let Some(behind) = self.behind.iter_mut().find(|behind| behind.task == *task) {
            behind.let_go.push(reply);
            return;
        }
        let before = self.queue.len();
        self.queue.retain(|r| r.ready.task != *task);
        let how = if self.queue.len() < before { "it was waiting in the lane" } else { "the lane had nothing of it" };
        answer(reply, how.to_owned());
    }

    /// The domain's plan for what waits now.
    fn plan(&self) -> orch_domain::lane::Plan {
        let queue: Vec<Ready> = self.queue.iter().map(|r| r.ready.clone()).collect();
        plan(&Lane {
            queue: &queue,
            proven: self.memory.proven(),
            main: self.memory.main(),
            slots: usize::from(self.current.is_none()),
            mode: self.mode.unwrap_or(LaneMode::Draining),
            most_overtaken: self.ctx.limits.most_overtaken,
        })
    }

    /// Keys of those who wait, in the order of the plan.
    fn order(&self) -> Vec<TaskKey> {
        let key = |id: &TaskId| self.queue.iter().find(|r| r.ready.task == *id).map(|r| r.key.clone());
        self.plan().order.iter().filter_map(key).collect()
    }

    /// Begins the next turn, if there is one to begin.
    fn next(&mut self, myself: &ActorRef<LaneMsg>) {
        if self.current.is_some() {
            return;
        }
        if self.stop {
            if !self.behind.is_empty() {
                return;
            }
            for done in self.stopping.drain(..) {
                if done.send(()).is_err() {
                    tracing::debug!("nobody waits for the lane's stop any more");
                }
            }
            return;
        }
        let Some(first) = self.plan().begin.into_iter().next() else { return };
        let Some(at) = self.queue.iter().position(|r| r.ready.task == first) else { return };
        let Some(repo) = self.ctx.repo(&self.repo).cloned() else { return };
        let request = self.queue.remove(at);
        for waiting in &mut self.queue {
            overtake(std::slice::from_mut(&mut waiting.ready), &request.ready);
        }
        let (halt, halted) = watch::channel(None);
        let until_recorded = halted.clone();
        let notes = TurnNotes::default();
        let task = request.ready.task.clone();
        let landing = Landing {
            ctx: self.ctx.clone(),
            directory: self.directory.clone(),
            snapshots: self.snapshots.clone(),
            repo,
            task: task.clone(),
            finish: request.ready.finish,
            halted,
            notes: Notes::of(&self.ctx, &task),
            turn: notes.clone(),
            lost: Lost::default(),
            tidying: Tidying::default(),
            asked: OnceLock::new(),
        };
        let requested = request.asked;
        self.directory.note_landing(&self.repo, UnderWay { task: task.clone(), halt: halt.clone() });
        let finish = request.ready.finish;
        let began = self.ctx.now();
        notes.waited(Millis(self.open.at(began).0.saturating_sub(request.open_before.0)));
        let turn = Begun { ready: request.ready.since, key: request.key, queued: request.queued, began, notes };
        let turn = Some(turn).filter(|_| !finish);
        let (directory, myself, id) = (self.directory.clone(), myself.clone(), task.clone());
        let (work, snapshots) = (tokio::spawn(landing.carry_out()), self.snapshots.clone());
        let (ctx, repo, begun) = (self.ctx.clone(), self.repo.clone(), turn.clone());
        tokio::spawn(async move {
            let Carried { end, tidying, asked } = work.await.unwrap_or_else(|error| {
                Some(LandingEnd::CouldNotRun { why: format!("the landing's side task failed: {error}") }).into()
            });
            let (came_to, tidied) = (TurnEnd::of(end.as_ref()), tidying.is_some());
            if let Some(begun) = &begun {
                begun.notes.kept_from_landing(end.as_ref().and_then(LandingEnd::class));
            }
            let tell = || {
                if let Some(end) = end
                    && !directory.deliver(&id, Event::LandingEnded { asked: asked.unwrap_or(requested), end })
                {
                    tracing::debug!(task.id = %id, "the router is being restarted; task {id} asks the lane again");
                }
            };
            let over = async {
                if myself.cast(LaneMsg::Ended { task: id.clone(), end: came_to, tidying: tidied }).is_err() {
                    tracing::debug!("the lane was restarted during a landing; its successor has the next turn");
                    if let Some(begun) = begun {
                        store_turn(ctx.clone(), repo, begun.ended(id.clone(), came_to, ctx.now())).await;
                    }
                }
                // Until here the landing is under way: a successor reads its turn once this is gone.
                drop(until_recorded);
            };
            let Some(tidying) = tidying else {
                tell();
                over.await;
                return;
            };
            over.await;
            snapshots.set_activity(&id, "taking the task branch away");
            if let Err(error) = tidying.await {
                tracing::error!(task.id = %id, %error, "tidying up behind a landing failed; the task branch may stay");
            }
            snapshots.clear_activity(&id);
            tell();
            if myself.cast(LaneMsg::Tidied { task: id.clone() }).is_err() {
                tracing::debug!("the lane was restarted while it was tidied up behind a landing");
            }
        });
        self.current = Some(Current { task, halt, let_go: request.finish.into_iter().collect(), finish, turn });
    }

    /// Looks in the store for tasks that wait for this lane, and at its mode, in a side task; the first time, and when
    /// there are `turns` that are not its own, also at its earlier turns.
    fn look(&self, myself: &ActorRef<LaneMsg>, turns: bool) {
        let (ctx, repo, myself, turns) =
            (self.ctx.clone(), self.repo.clone(), myself.clone(), turns || self.mode.is_none());
        tokio::spawn(async move {
            match look(&ctx, &repo, turns).await {
                Ok(found) => {
                    if myself.cast(LaneMsg::Found(found)).is_err() {
                        tracing::debug!("the lane ended while it looked at the store");
                    }
                }
                Err(error) => tracing::warn!(%repo, %error, "the lane of {repo} could not look at the store"),
            }
        });
    }

    fn publish(&self) {
        let waiting = self.queue.len();
        let text = match (&self.current, self.mode) {
            (Some(current), _) => format!("landing {}, {waiting} waiting", current.task),
            (None, _) if !self.behind.is_empty() => format!("tidying up, {waiting} waiting"),
            (None, Some(LaneMode::Running)) => format!("idle, {waiting} waiting"),
            (None, Some(closed)) => format!("{}, {waiting} waiting", closed.as_str()),
            (None, None) => format!("starting, {waiting} waiting"),
        };
        self.teller.say(text, self.ctx.now());
    }
}

async fn look(ctx: &Context, repo: &RepoName, first: bool) -> Result<Found, StoreError> {
    let landing = orch_store::TaskFilter {
        repo: Some(repo.clone()),
        status: Some(Status::Landing),
        live_only: true,
        ..Default::default()
    };
    let tasks = ctx.store.find_tasks(landing).await?;
    let modes = ctx.store.repo_modes().await?;
    let turns = match first {
        true => Some(ctx.store.turns(repo, REMEMBERED).await?),
        false => None,
    };
    let waiting = tasks.iter().filter(|s| s.task.stop.is_none()).filter_map(|s| Waiting::of(&s.task));
    let mode = modes.into_iter().find(|m| m.repo == *repo).map(|m| m.mode).unwrap_or_default();
    Ok(Found { waiting: waiting.collect(), mode, turns })
}
