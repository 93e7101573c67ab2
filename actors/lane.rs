//! RepoLeaseActor: one per repository. Owns the lane: who lands next, and the side task that lands. Hears `Land`, `LetGo`
//! and the end of its side task. Says `LandingEnded`, by way of the router. Dies with nothing: a landing under way is cut
//! by no actor's death, a successor attaches to it, and finds waiting tasks in the store. Never pushes or tests in a handler, and is,
//! through its side task, the only one that pushes, merges or deletes branches.

use std::sync::Arc;
use std::time::Duration;

use orch_domain::event::{Event, LandingEnd};
use orch_domain::ids::TaskId;
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::stop::Level;
use orch_domain::task::{State, Status};
use orch_domain::time::Timestamp;
use orch_store::LaneMode;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::directory::{Directory, UnderWay};
use crate::landing::{Halted, Landing};
use crate::snapshots::{Snapshots, Teller};

/// Between looks at the store for waiting tasks and for the lane's mode.
const LOOK: Duration = Duration::from_secs(10);

/// What a lane hears.
pub enum LaneMsg {
    /// A task wants to land (or to deploy what has landed: its row says which).
    Land {
        /// Which.
        task: TaskId,
        /// Its key, for people.
        key: TaskKey,
        /// Higher goes first.
        priority: i32,
        /// Earlier goes first among equals.
        since: Timestamp,
    },
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
    /// The side task is through.
    Ended {
        /// With which task.
        task: TaskId,
    },
    /// Look for waiting tasks, and at the lane's mode.
    Look,
    /// What a look found.
    Found {
        /// Waiting tasks of this repository.
        waiting: Vec<LaneMsg>,
        /// Whether landings may begin.
        open: bool,
    },
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
    task: TaskId,
    key: TaskKey,
    priority: i32,
    since: Timestamp,
    /// Only an open window is to be brought to its end; with who waits for that.
    finish: Option<oneshot::Sender<String>>,
}

struct Current {
    task: TaskId,
    halt: watch::Sender<Option<Halted>>,
    let_go: Vec<oneshot::Sender<String>>,
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
    open: bool,
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
                if me.cast(LaneMsg::Ended { task: under_way.task }).is_err() {
                    tracing::debug!("the lane ended during a landing that it had attached to");
                }
            });
            Current { task, halt, let_go: Vec::new() }
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
            // Closed until the first look has read the lane's mode.
            open: false,
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
            LaneMsg::Land { task, key, priority, since } => {
                state.enqueue(Request { task, key, priority, since, finish: None });
                state.next(&myself);
            }
            LaneMsg::LetGo { task, reply } => state.let_go(&task, reply),
            LaneMsg::Finish { task, key, reply } => {
                state.queue.retain(|r| r.task != task);
                let (priority, since) = (i32::MAX, state.ctx.now());
                state.queue.push(Request { task, key, priority, since, finish: Some(reply) });
                state.next(&myself);
            }
            LaneMsg::Ended { task } => {
                if let Some(current) = state.current.take_if(|c| c.task == task) {
                    for reply in current.let_go {
                        answer(reply, "its landing was under way and has ended".to_owned());
                    }
                }
                state.next(&myself);
            }
            LaneMsg::Look => state.look(&myself),
            LaneMsg::Found { waiting, open } => {
                state.open = open;
                for request in waiting {
                    if let LaneMsg::Land { task, key, priority, since } = request {
                        state.enqueue(Request { task, key, priority, since, finish: None });
                    }
                }
                state.next(&myself);
            }
            LaneMsg::Queue { reply } => {
                if reply.send(state.queue.iter().map(|r| r.key.clone()).collect()).is_err() {
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

impl LaneState {
    fn enqueue(&mut self, request: Request) {
        let known = self.queue.iter().any(|r| r.task == request.task)
            || self.current.as_ref().is_some_and(|c| c.task == request.task);
        if !known {
            self.queue.push(request);
        }
    }

    fn let_go(&mut self, task: &TaskId, reply: oneshot::Sender<String>) {
        if let Some(current) = self.current.as_mut().filter(|c| c.task == *task) {
            current.halt.send_replace(Some(Halted::Task));
            current.let_go.push(reply);
            // Tests under way are no irreversible step: ending them brings the landing to its border at once.
            if let Some(gates) = self.directory.gates() {
                let task = task.clone();
                tokio::spawn(async move { gates.cancel_for(&task).await });
            }
            return;
        }
        let before = self.queue.len();
        self.queue.retain(|r| r.task != *task);
        let how = if self.queue.len() < before { "it was waiting in the lane" } else { "the lane had nothing of it" };
        answer(reply, how.to_owned());
    }

    /// Begins the next landing: priority first, then age.
    fn next(&mut self, myself: &ActorRef<LaneMsg>) {
        if self.current.is_some() {
            return;
        }
        if self.stop {
            for done in self.stopping.drain(..) {
                if done.send(()).is_err() {
                    tracing::debug!("nobody waits for the lane's stop any more");
                }
            }
            return;
        }
        self.queue.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.since.cmp(&b.since)));
        // A closed lane begins nothing, but ends what was begun.
        let Some(at) = self.queue.iter().position(|r| self.open || r.finish.is_some()) else { return };
        let Some(repo) = self.ctx.repo(&self.repo).cloned() else { return };
        let request = self.queue.remove(at);
        let (halt, halted) = watch::channel(None);
        let landing = Landing {
            ctx: self.ctx.clone(),
            directory: self.directory.clone(),
            snapshots: self.snapshots.clone(),
            repo,
            task: request.task.clone(),
            finish: request.finish.is_some(),
            halted,
        };
        self.directory.note_landing(&self.repo, UnderWay { task: request.task.clone(), halt: halt.clone() });
        let (directory, myself, task) = (self.directory.clone(), myself.clone(), request.task.clone());
        let work = tokio::spawn(landing.carry_out());
        tokio::spawn(async move {
            let end = work.await.unwrap_or_else(|error| {
                Some(LandingEnd::CouldNotRun { why: format!("the landing's side task failed: {error}") })
            });
            if let Some(end) = end
                && !directory.deliver(&task, Event::LandingEnded { end })
            {
                tracing::debug!(task.id = %task, "the router is being restarted; task {task} asks the lane again");
            }
            if myself.cast(LaneMsg::Ended { task }).is_err() {
                tracing::debug!("the lane was restarted during a landing; its successor has the next turn");
            }
        });
        self.current = Some(Current { task: request.task, halt, let_go: request.finish.into_iter().collect() });
    }

    /// Looks in the store for tasks that wait for this lane, and at its mode, in a side task.
    fn look(&self, myself: &ActorRef<LaneMsg>) {
        let (ctx, repo, myself) = (self.ctx.clone(), self.repo.clone(), myself.clone());
        tokio::spawn(async move {
            let landing = orch_store::TaskFilter {
                repo: Some(repo.clone()),
                status: Some(Status::Landing),
                live_only: true,
                ..Default::default()
            };
            let (tasks, modes) = match (ctx.store.find_tasks(landing).await, ctx.store.repo_modes().await) {
                (Ok(tasks), Ok(modes)) => (tasks, modes),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::warn!(%repo, %error, "the lane of {repo} could not look at the store");
                    return;
                }
            };
            let open = modes.iter().find(|m| m.repo == repo).is_none_or(|m| m.mode == LaneMode::Running);
            let waiting = tasks.into_iter().map(|s| s.task).filter(|t| t.stop.is_none());
            let waiting = waiting.filter_map(|t| match t.state {
                State::Landing { since, .. } => {
                    Some(LaneMsg::Land { task: t.id, key: t.key, priority: t.priority, since })
                }
                _ => None,
            });
            if myself.cast(LaneMsg::Found { waiting: waiting.collect(), open }).is_err() {
                tracing::debug!("the lane ended while it looked at the store");
            }
        });
    }

    fn publish(&self) {
        let text = match (&self.current, self.open) {
            (Some(current), _) => format!("landing {}, {} waiting", current.task, self.queue.len()),
            (None, true) => format!("idle, {} waiting", self.queue.len()),
            (None, false) => format!("closed, {} waiting", self.queue.len()),
        };
        self.teller.say(text, self.ctx.now());
    }
}
