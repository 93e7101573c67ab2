//! AgentActor: one per agent run. Owns the run's side task and, through it, workspace and job. Hears `End`, `Leave` and the
//! side task's result. Says `RunEnded` to its TaskActor, exactly once, unless the run is left to the next start. Dies with
//! the run or with its TaskActor. Never works itself, and never lets a failing run take its TaskActor along.

use std::sync::Arc;

use orch_domain::event::{Event, RunFacts};
use orch_domain::ids::{Epoch, RunId};
use orch_domain::stop::Level;
use orch_domain::task::Task;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::attempt::{Attached, Attempt, Told, trouble};
use crate::context::Context;
use crate::snapshots::{Snapshots, Teller};
use crate::task::{TaskMsg, send};

/// Reason of an AgentActor that ended because its run was over: any other end means that the run was lost.
pub const RUN_OVER: &str = "run over";
/// Reason of an AgentActor whose agent works on without it, for the next start to go on with.
pub const RUN_LEFT: &str = "run left to the next start";

/// What an AgentActor hears.
pub enum AgentMsg {
    /// End the agent's job; the run then ends as interrupted.
    End {
        /// How firmly.
        level: Level,
    },
    /// Let the agent work on; the next start goes on with the run.
    Leave,
    /// The side task is through.
    Ended {
        /// What is known; `None`: the run is left to the next start.
        facts: Option<Box<RunFacts>>,
    },
}

/// What an AgentActor is started with.
pub struct AgentArgs {
    /// Shared.
    pub ctx: Arc<Context>,
    /// Snapshots.
    pub snapshots: Snapshots,
    /// The task as committed.
    pub task: Task,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The run.
    pub run: RunId,
    /// Its number over the task's life.
    pub attempt: u32,
    /// The job of this run, when it was begun before.
    pub attached: Option<Attached>,
    /// Who is told.
    pub report_to: ActorRef<TaskMsg>,
}

/// The actor.
pub struct AgentActor;

/// Its state.
pub struct AgentState {
    ctx: Arc<Context>,
    run: RunId,
    report_to: ActorRef<TaskMsg>,
    tell: watch::Sender<Option<Told>>,
    side_task: AbortHandle,
    teller: Teller,
}

impl Actor for AgentActor {
    type Msg = AgentMsg;
    type State = AgentState;
    type Arguments = AgentArgs;

    async fn pre_start(&self, myself: ActorRef<AgentMsg>, args: AgentArgs) -> Result<AgentState, ActorProcessingErr> {
        let name = format!("agent {}", args.run);
        let teller = args.snapshots.register(&name, "starting", args.ctx.now(), 0);
        let (tell, told) = watch::channel(None);
        let attempt = Attempt {
            ctx: args.ctx.clone(),
            snapshots: args.snapshots,
            task: args.task,
            epoch: args.epoch,
            run: args.run.clone(),
            attempt: args.attempt,
            attached: args.attached,
            told,
        };
        let work = tokio::spawn(attempt.carry_out());
        let side_task = work.abort_handle();
        tokio::spawn(async move {
            let facts = match work.await {
                Ok(facts) => facts,
                Err(error) if error.is_cancelled() => return,
                Err(error) => Some(trouble(format!("the run's side task failed: {error}"))),
            };
            if myself.cast(AgentMsg::Ended { facts: facts.map(Box::new) }).is_err() {
                tracing::debug!("an agent actor ended before its run did");
            }
        });
        Ok(AgentState { ctx: args.ctx, run: args.run, report_to: args.report_to, tell, side_task, teller })
    }

    async fn handle(
        &self,
        myself: ActorRef<AgentMsg>,
        message: AgentMsg,
        state: &mut AgentState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AgentMsg::End { level } => {
                state.teller.say(format!("ending ({level:?})"), state.ctx.now());
                state.tell(Told::End(level));
            }
            AgentMsg::Leave => {
                state.teller.say("leaving the agent to the next start", state.ctx.now());
                state.tell(Told::Leave);
            }
            AgentMsg::Ended { facts: None } => myself.stop(Some(RUN_LEFT.to_owned())),
            AgentMsg::Ended { facts: Some(facts) } => {
                send(&state.report_to, Event::RunEnded { run: state.run.clone(), facts });
                myself.stop(Some(RUN_OVER.to_owned()));
            }
        }
        Ok(())
    }
}

impl AgentState {
    /// Passes on what only rises.
    fn tell(&self, told: Told) {
        self.tell.send_if_modified(|now| {
            let firmer = now.is_none_or(|now| now < told);
            if firmer {
                *now = Some(told);
            }
            firmer
        });
    }
}

impl Drop for AgentState {
    fn drop(&mut self) {
        // Also when the actor is killed: nobody would hear the side task any more. The job itself is then ended and
        // proven gone by the TaskActor, from its recorded identity.
        self.side_task.abort();
    }
}
