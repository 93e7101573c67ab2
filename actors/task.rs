//! TaskActor: one per live task. Owns the task's row (by epoch) and the AgentActor of its current run. Hears events about
//! the task and the system's stop. Says what its effects say: to router, lane, gate pool. Dies when the task is closed,
//! when its epoch is stale, or with the router. Never waits for long work in a handler, and never performs what is not
//! committed.

mod resume;

use std::sync::Arc;
use std::time::Duration;

use orch_domain::decide::{Decision, Nothing, decide};
use orch_domain::effect::Effect;
use orch_domain::event::Event;
use orch_domain::ids::{Epoch, TaskId, Version};
use orch_domain::stop::Level;
use orch_domain::task::{State, Step, Task};
use orch_store::{Change, CommitError, NewRun};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;

use crate::agent::{AgentArgs, AgentMsg, RUN_LEFT, RUN_OVER};
use crate::attempt::Attached;
use crate::checks;
use crate::context::Context;
use crate::directory::Directory;
use crate::lane::{LaneMsg, Waiting};
use crate::router::RouterMsg;
use crate::run_rows;
use crate::snapshots::{Snapshots, Teller};
use crate::stop_saga;

mod unreadable;

/// Reason of a TaskActor that ended because its task is closed: any other end leaves a live task without an actor.
pub const CLOSED: &str = "closed";

/// What a TaskActor hears.
pub enum TaskMsg {
    /// Load the row and go on from there, when there is a place among those that load. Sent to itself at start.
    Load {
        /// The places.
        among: Arc<Semaphore>,
    },
    /// Try again to save what could not be saved. Sent to itself.
    SaveAgain,
    /// Something happened.
    Event {
        /// What.
        event: Box<Event>,
        /// Told what came of it, once that is durable.
        reply: Option<oneshot::Sender<Answer>>,
    },
    /// What else the run had started is gone: go on with the run by its job. Sent to itself.
    Attach {
        /// The job.
        attached: Box<Attached>,
    },
    /// The system stops.
    Stop {
        /// How firmly.
        level: Level,
        /// Whether an agent is left to the next start instead of being waited for.
        leave: bool,
    },
    /// Its AgentActor has ended, and whatever that had sent before has been heard.
    AgentGone,
    /// The steps of STOP are through, as far as they can be without this actor.
    StopSagaEnded {
        /// What to decide on.
        event: Box<Event>,
    },
}

/// What came of an event: durable when it is told.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The task changed.
    Changed(Box<Task>),
    /// It did not.
    Nothing(Nothing),
}

/// What a TaskActor is started with.
pub struct TaskArgs {
    /// Which task.
    pub task: TaskId,
    /// Shared.
    pub ctx: Arc<Context>,
    /// Addresses.
    pub directory: Directory,
    /// Snapshots.
    pub snapshots: Snapshots,
    /// Restarts so far, for people.
    pub restarts: u32,
    /// Places for those that load.
    pub loading: Arc<Semaphore>,
}

/// The actor.
pub struct TaskActor;

/// Its state.
pub struct TaskState {
    id: TaskId,
    ctx: Arc<Context>,
    directory: Directory,
    snapshots: Snapshots,
    restarts: u32,
    teller: Option<Teller>,
    row: Option<Row>,
    /// What stands for a row that cannot be read: nothing is decided about it, but it can be stopped.
    unreadable: Option<Box<Task>>,
    agent: Option<ActorRef<AgentMsg>>,
    timer: Option<AbortHandle>,
    stop_saga: bool,
    /// Whether a check of this task is under way in this process.
    checking: bool,
    stopping: Option<Level>,
    /// Whether the system's stop leaves agents to the next start.
    leaving: bool,
    /// Whether the run under way was left to the next start.
    left: bool,
    /// Events that could not be committed yet (disk full): kept in order.
    unsaved: Vec<Event>,
}

struct Row {
    task: Task,
    version: Version,
    epoch: Epoch,
}

/// How often a decision is made anew after a version conflict before the actor gives up on its copy.
const RELOADS: usize = 20;
/// How long an event waits that could not be committed.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at jobs that are not proven gone yet.
const PROVE_AGAIN: Duration = Duration::from_secs(5);

impl Actor for TaskActor {
    type Msg = TaskMsg;
    type State = TaskState;
    type Arguments = TaskArgs;

    async fn pre_start(&self, myself: ActorRef<TaskMsg>, args: TaskArgs) -> Result<TaskState, ActorProcessingErr> {
        // Loading is a message, not part of the start: thousands of tasks then load in a few grouped commits.
        myself.cast(TaskMsg::Load { among: args.loading })?;
        Ok(TaskState {
            id: args.task,
            ctx: args.ctx,
            directory: args.directory,
            snapshots: args.snapshots,
            restarts: args.restarts,
            teller: None,
            row: None,
            unreadable: None,
            agent: None,
            timer: None,
            stop_saga: false,
            checking: false,
            stopping: None,
            leaving: false,
            left: false,
            unsaved: Vec::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<TaskMsg>,
        message: TaskMsg,
        state: &mut TaskState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // Boxed: the future of the longest handler is part of every idle actor otherwise. Made only with a place: what
            // ten thousand need at once while they load would stay the process's, in pieces between what they keep.
            TaskMsg::Load { among } => {
                let _place = among.acquire().await;
                Box::pin(state.load(&myself)).await?;
            }
            TaskMsg::SaveAgain => Box::pin(state.save_again(&myself)).await?,
            TaskMsg::Event { event, reply } => {
                let answer = Box::pin(state.hear(&myself, *event)).await?;
                if let (Some(reply), Some(answer)) = (reply, answer)
                    && reply.send(answer).is_err()
                {
                    tracing::debug!(task.id = %state.id, "nobody waits for the answer of task {} any more", state.id);
                }
            }
            TaskMsg::StopSagaEnded { event } => {
                state.stop_saga = false;
                Box::pin(state.hear(&myself, *event)).await?;
            }
            TaskMsg::AgentGone => state.maybe_stopped(&myself),
            TaskMsg::Attach { attached } => Box::pin(state.attach(&myself, *attached)).await?,
            TaskMsg::Stop { level, leave } => state.stop(&myself, level, leave),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<TaskMsg>,
        event: SupervisionEvent,
        state: &mut TaskState,
    ) -> Result<(), ActorProcessingErr> {
        let (who, failure) = match &event {
            SupervisionEvent::ActorFailed(who, why) => (who, Some(why.to_string())),
            SupervisionEvent::ActorTerminated(who, _, Some(reason)) if reason == RUN_OVER || reason == RUN_LEFT => {
                state.left = reason == RUN_LEFT;
                (who, None)
            }
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                (who, Some(reason.clone().unwrap_or_else(|| "it ended before its run did".to_owned())))
            }
            _ => return Ok(()),
        };
        if state.agent.as_ref().is_none_or(|agent| agent.get_id() != who.get_id()) {
            // Of a run that was over before: the next one may have begun already.
            return Ok(());
        }
        state.agent = None;
        if let Some(why) = failure {
            tracing::error!(task.id = %state.id, error = %why, "the agent actor of task {} failed", state.id);
            state.run_lost(&myself, why);
        }
        // Behind the run's result in the mailbox: a supervision event overtakes it, and stopping now would drop it.
        myself.cast(TaskMsg::AgentGone)?;
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<TaskMsg>, state: &mut TaskState) -> Result<(), ActorProcessingErr> {
        if let Some(timer) = state.timer.take() {
            timer.abort();
        }
        Ok(())
    }
}

impl Drop for TaskState {
    fn drop(&mut self) {
        // Also when the actor is killed or fails: a timer must not outlive what it would wake.
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

impl TaskState {
    /// Decides on what could not be saved before, in order; whatever runs goes on running.
    async fn save_again(&mut self, myself: &ActorRef<TaskMsg>) -> Result<(), ActorProcessingErr> {
        self.reload().await?;
        for event in std::mem::take(&mut self.unsaved) {
            self.hear(myself, event).await?;
        }
        Ok(())
    }

    /// Decides, commits, then carries out. A version conflict or a STOP means: reload and decide again.
    /// `None`: nothing is decided yet.
    async fn hear(&mut self, myself: &ActorRef<TaskMsg>, event: Event) -> Result<Option<Answer>, ActorProcessingErr> {
        if !self.unsaved.is_empty() {
            self.unsaved.push(event);
            return Ok(None);
        }
        if self.stopping.is_some() && begins_something(&event) {
            // Not while the system stops: what waits is found waiting by the next start, and asks again.
            return Ok(None);
        }
        if matches!(event, Event::CheckEnded { .. }) {
            self.checking = false;
        }
        if self.unreadable.is_some() {
            return self.hear_of_unreadable(myself, &event).await;
        }
        if matches!(event, Event::StopRequested { .. }) {
            self.reload().await?;
        }
        for _ in 0..RELOADS {
            let Some(row) = &self.row else {
                // Before the first load everything is asked again anyway.
                return Ok(None);
            };
            match decide(&row.task, &event, self.ctx.now()) {
                Decision::Nothing { why: Nothing::StopNotRecorded, .. } => {
                    // A STOP that this copy does not show yet, or one that was never recorded.
                    self.reload().await?;
                    let recorded = self.row.as_ref().is_some_and(|r| r.task.stop.is_some());
                    if !recorded {
                        return Ok(Some(Answer::Nothing(Nothing::StopNotRecorded)));
                    }
                }
                Decision::Nothing { why, effects } => {
                    tracing::debug!(task.id = %self.id, event = event.name(), why = why.as_str(), "nothing changes");
                    self.carry_out(myself, effects).await;
                    return Ok(Some(Answer::Nothing(why)));
                }
                Decision::Change(change) => {
                    let commit = Change {
                        task: change.task.clone(),
                        version: row.version,
                        epoch: row.epoch,
                        entries: change.entries,
                        outgoing: change.outgoing,
                        forward: change.forward,
                        now: self.ctx.now(),
                    };
                    match self.ctx.store.commit(commit).await {
                        Ok(version) => {
                            let epoch = row.epoch;
                            let answer = Answer::Changed(Box::new(change.task.clone()));
                            self.row = Some(Row { task: change.task, version, epoch });
                            self.directory.wake_outbox();
                            run_rows::end(&self.ctx, &event).await;
                            self.tell_state();
                            self.carry_out(myself, change.effects).await;
                            return Ok(Some(answer));
                        }
                        Err(CommitError::VersionConflict { .. } | CommitError::StopRecorded) => {
                            self.reload().await?;
                        }
                        Err(CommitError::StaleEpoch { .. }) => {
                            tracing::info!(task.id = %self.id, "task {} has a newer owner; this one ends", self.id);
                            myself.stop(Some("stale epoch".to_owned()));
                            return Ok(None);
                        }
                        Err(error) => {
                            tracing::error!(task.id = %self.id, %error, "task {} could not be saved", self.id);
                            self.save_later(myself, event);
                            return Ok(None);
                        }
                    }
                }
            }
        }
        Err(format!("task {} changed under its owner {RELOADS} times in a row", self.id).into())
    }

    async fn reload(&mut self) -> Result<(), ActorProcessingErr> {
        let Some(row) = &mut self.row else { return Ok(()) };
        if let Some(stored) = self.ctx.store.load_task(&self.id).await? {
            row.task = stored.task;
            row.version = stored.version;
        }
        Ok(())
    }

    fn save_later(&mut self, myself: &ActorRef<TaskMsg>, event: Event) {
        self.unsaved.push(event);
        let myself = myself.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SAVE_AGAIN).await;
            if myself.cast(TaskMsg::SaveAgain).is_err() {
                tracing::debug!("a task ended while it could not be saved");
            }
        });
    }

    fn tell_state(&self) {
        if let (Some(teller), Some(row)) = (&self.teller, &self.row) {
            teller.say(format!("{} in {}", row.task.status().as_str(), row.task.stage), self.ctx.now());
        }
    }

    async fn carry_out(&mut self, myself: &ActorRef<TaskMsg>, effects: Vec<Effect>) {
        for effect in effects {
            self.perform(myself, effect).await;
        }
        self.maybe_stopped(myself);
    }

    async fn perform(&mut self, myself: &ActorRef<TaskMsg>, effect: Effect) {
        let Some(row) = &self.row else { return };
        let (id, task) = (self.id.clone(), &row.task);
        // While the system stops nothing new is begun; the stored state tells the next start what to begin.
        let begins = matches!(
            effect,
            Effect::AskSlot
                | Effect::StartRun { .. }
                | Effect::StartCheck { .. }
                | Effect::AskLane { .. }
                | Effect::AskTurn
        );
        if begins && self.stopping.is_some() {
            return;
        }
        match effect {
            Effect::AskSlot => {
                let (priority, created) = (task.priority, task.created);
                self.directory.tell_router(RouterMsg::AskSlot { task: id, priority, created });
            }
            Effect::GiveSlotBack => {
                self.directory.tell_router(RouterMsg::GiveSlotBack { task: id });
            }
            Effect::AskTurn => {
                let repo = task.repo.clone();
                self.directory.tell_router(RouterMsg::AskTurn { task: id, repo });
            }
            Effect::WatchDependencies { keys } => {
                self.directory.tell_router(RouterMsg::WatchDependencies { task: id, keys });
            }
            Effect::AskLane { .. } => self.ask_lane(myself),
            Effect::SetTimer { at } => {
                let wait = at.since(self.ctx.now());
                self.wake_after(myself, wait.into());
            }
            Effect::StartRun { run, attempt, stage } => {
                run_rows::start(
                    &self.ctx,
                    NewRun {
                        id: run.clone(),
                        task: id,
                        stage,
                        attempt,
                        kind: "agent".to_owned(),
                        log_dir: None,
                        started: self.ctx.now(),
                    },
                )
                .await;
                let args = AgentArgs {
                    ctx: self.ctx.clone(),
                    snapshots: self.snapshots.clone(),
                    task: task.clone(),
                    epoch: row.epoch,
                    run,
                    attempt,
                    attached: None,
                    report_to: myself.clone(),
                };
                self.begin_agent(myself, args).await;
            }
            Effect::StartCheck { run, step, head } => {
                let kind = match step {
                    Step::Check => "check",
                    Step::Security => "gate",
                    _ => "command",
                };
                let attempt = run_rows::nth(&self.ctx, task, &run).await;
                // The check of an agent stage belongs to the agent's run; its row is there already.
                run_rows::start(
                    &self.ctx,
                    NewRun {
                        id: run.clone(),
                        task: id,
                        stage: task.stage.clone(),
                        attempt,
                        kind: kind.to_owned(),
                        log_dir: None,
                        started: self.ctx.now(),
                    },
                )
                .await;
                self.checking = true;
                let request = checks::Request { task: task.clone(), epoch: row.epoch, run, step, head };
                checks::start(&self.ctx, &self.directory, &self.snapshots, request, myself.clone());
            }
            Effect::CarryOutStop => self.carry_out_stop(myself),
            Effect::Close => self.perform_close(myself),
        }
    }

    fn perform_close(&self, myself: &ActorRef<TaskMsg>) {
        self.snapshots.clear_activity(&self.id);
        self.directory.tell_router(RouterMsg::Closed { task: self.id.clone() });
        myself.stop(Some(CLOSED.to_owned()));
    }

    fn ask_lane(&self, myself: &ActorRef<TaskMsg>) {
        let Some(row) = &self.row else { return };
        let Some(waiting) = Waiting::of(&row.task) else { return };
        let message = LaneMsg::Land(waiting);
        if !self.directory.tell_lane(&row.task.repo, message) {
            // The lane is being restarted. It finds waiting tasks in the store when it is back; ask again all the same.
            let (myself, again) = (myself.clone(), Event::Resumed { run_attached: false });
            tokio::spawn(async move {
                tokio::time::sleep(SAVE_AGAIN).await;
                send(&myself, again);
            });
        }
    }

    fn wake_after(&mut self, myself: &ActorRef<TaskMsg>, wait: Duration) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        let myself = myself.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            send(&myself, Event::TimerFired);
        });
        self.timer = Some(timer.abort_handle());
    }

    /// Starts the steps of STOP in a side task, once.
    fn carry_out_stop(&mut self, myself: &ActorRef<TaskMsg>) {
        if self.stop_saga {
            return;
        }
        let Some(task) = self.row.as_ref().map(|r| &r.task).or(self.unreadable.as_deref()).cloned() else { return };
        self.stop_saga = true;
        self.tell_state();
        let saga = stop_saga::StopSaga {
            ctx: self.ctx.clone(),
            directory: self.directory.clone(),
            task,
            agent: self.agent.clone(),
            actor: myself.clone(),
        };
        tokio::spawn(saga.carry_out());
    }

    fn stop(&mut self, myself: &ActorRef<TaskMsg>, level: Level, leave: bool) {
        if self.stopping.is_some_and(|now| now >= level) {
            return;
        }
        self.stopping = Some(level);
        self.leaving |= leave;
        self.tell_agent();
        self.maybe_stopped(myself);
    }

    /// While the system stops: ends once nothing of this task is under way in this process. A run without its actor has
    /// its result on the way, which must not be lost; only `Kill` does not wait for it, nor for a STOP's steps.
    fn maybe_stopped(&self, myself: &ActorRef<TaskMsg>) {
        let Some(level) = self.stopping else { return };
        let step = self.row.as_ref().and_then(|r| match &r.task.state {
            State::Running { step, .. } => Some(*step),
            _ => None,
        });
        let waits = match (level, step) {
            (Level::Kill, _) => false,
            (_, Some(Step::Agent)) => !self.left,
            (Level::Drain, Some(Step::Check | Step::Command | Step::Security)) => self.checking,
            _ => self.stop_saga,
        };
        if self.agent.is_none() && !waits {
            myself.stop(Some("the supervisor stops".to_owned()));
        }
    }
}

/// Whether an event only lets something new begin; losing it loses nothing that is not asked for again.
const fn begins_something(event: &Event) -> bool {
    matches!(event, Event::SlotGranted | Event::TurnCame | Event::TimerFired | Event::DependenciesSeen { .. })
}

/// Sends an event to a task's actor; when it has ended, its successor resumes from the store.
pub(crate) fn send(to: &ActorRef<TaskMsg>, event: Event) {
    let name = event.name();
    if to.cast(TaskMsg::Event { event: Box::new(event), reply: None }).is_err() {
        tracing::debug!(event = name, "a task ended before an event reached it");
    }
}
