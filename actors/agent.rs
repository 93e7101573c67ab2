//! AgentActor: one per agent run. Owns the run's side task and, through it, workspace and job. Hears `End` and the side
//! task's result. Says `RunEnded` to its TaskActor, exactly once. Dies with the run or with its TaskActor. Never works
//! itself, and never lets a failing run take its TaskActor along.

use std::sync::Arc;

use orch_domain::event::{Event, RunFacts};
use orch_domain::ids::{Epoch, RunId};
use orch_domain::stop::Level;
use orch_domain::task::Task;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::attempt::{Attempt, trouble};
use crate::context::Context;
use crate::snapshots::{Snapshots, Teller};
use crate::task::{TaskMsg, send};

/// Reason of an AgentActor that ended because its run was over: any other end means that the run was lost.
pub const RUN_OVER: &str = "run over";

/// What an AgentActor hears.
pub enum AgentMsg {
    /// End the agent's job; the run then ends as interrupted.
    End {
        /// How firmly.
        level: Level,
    },
    /// The side task is through.
    Ended {
        /// What is known.
        facts: Box<RunFacts>,
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
    end: watch::Sender<Option<Level>>,
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
        let (end, ending) = watch::channel(None);
        let attempt = Attempt {
            ctx: args.ctx.clone(),
            snapshots: args.snapshots,
            task: args.task,
            epoch: args.epoch,
            run: args.run.clone(),
            attempt: args.attempt,
            ending,
        };
        let work = tokio::spawn(attempt.carry_out());
        let side_task = work.abort_handle();
        tokio::spawn(async move {
            let facts = match work.await {
                Ok(facts) => facts,
                Err(error) if error.is_cancelled() => return,
                Err(error) => trouble(format!("the run's side task failed: {error}")),
            };
            if myself.cast(AgentMsg::Ended { facts: Box::new(facts) }).is_err() {
                tracing::debug!("an agent actor ended before its run did");
            }
        });
        Ok(AgentState { ctx: args.ctx, run: args.run, report_to: args.report_to, end, side_task, teller })
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
                state.end.send_if_modified(|now| {
                    let firmer = now.is_none_or(|now| now < level);
                    if firmer {
                        *now = Some(level);
                    }
                    firmer
                });
            }
            AgentMsg::Ended { facts } => {
                send(&state.report_to, Event::RunEnded { run: state.run.clone(), facts });
                myself.stop(Some(RUN_OVER.to_owned()));
            }
        }
        Ok(())
    }
}

impl Drop for AgentState {
    fn drop(&mut self) {
        // Also when the actor is killed: nobody would hear the side task any more. The job itself is then ended and
        // proven gone by the TaskActor, from its recorded identity.
        self.side_task.abort();
    }
}
