//! How a TaskActor begins: it takes the task over from whoever had it, and goes on with what was under way.
//!
//! Owns the choice between going on with a run and beginning it anew. Invariants: whatever else an earlier owner had
//! started is proven gone before anything begins; a run is gone on with by its own job only, and never under a STOP; what
//! holds no slot any more gives it back.

use orch_domain::effect::Effect;
use orch_domain::event::{Event, RunFacts};
use orch_domain::ids::{JobId, TaskId};
use orch_domain::stop::Level;
use orch_domain::task::{State, Step, Task, WaitFor};
use orch_store::StoreError;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{PROVE_AGAIN, Row, TaskMsg, TaskState, send};
use crate::agent::{AgentActor, AgentArgs, AgentMsg};
use crate::attempt::{Attached, attachable, trouble};
use crate::context::Context;
use crate::router::RouterMsg;
use crate::run_rows;
use crate::settle::settle_others;

impl TaskState {
    /// Takes ownership and goes on from the stored state. An agent that works on is gone on with; any other run that was
    /// under way is settled first: its jobs are proven gone before a new one may begin.
    pub(super) async fn load(&mut self, myself: &ActorRef<TaskMsg>) -> Result<(), ActorProcessingErr> {
        let owned = match self.ctx.store.own_task(&self.id, self.ctx.now()).await {
            Err(error @ StoreError::Damaged { .. }) => return self.look_at_unreadable(myself, &error).await,
            owned => owned?,
        };
        let name = format!("task {}/{}", owned.task.key, owned.task.generation);
        self.teller = Some(self.snapshots.register(&name, "resuming", self.ctx.now(), self.restarts));
        let task = owned.task.clone();
        self.row = Some(Row { task: owned.task, version: owned.version, epoch: owned.epoch });
        if !keeps_its_slot(&task) {
            self.directory.tell_router(RouterMsg::GiveSlotBack { task: self.id.clone() });
        }
        let State::Running { run, step, .. } = &task.state else {
            self.hear(myself, Event::Resumed { run_attached: false }).await?;
            return Ok(());
        };
        let jobs = self.ctx.store.jobs_of(&self.id).await?;
        let begun = jobs.iter().any(|job| job.record.run.as_ref() == Some(run));
        if let (false, Step::Check | Step::Command | Step::Security, Some(head), None) =
            (begun, *step, task.head.clone(), &task.stop)
        {
            // Decided upon, and then the supervisor stopped: beginning it now interrupts nothing.
            let effect = Effect::StartCheck { run: run.clone(), step: *step, head };
            self.carry_out(myself, vec![effect]).await;
            return Ok(());
        }
        let attached = match (step, &task.stop) {
            (Step::Agent, None) => attachable(&self.ctx, &task, run, &jobs),
            _ => None,
        };
        if attached.is_none() {
            run_rows::interrupted(&self.ctx, run).await;
        }
        let (ctx, id, myself) = (self.ctx.clone(), self.id.clone(), myself.clone());
        tokio::spawn(async move {
            prove_gone(&ctx, &id, attached.as_ref().map(|a| &a.identity().job)).await;
            match attached {
                Some(attached) => {
                    if myself.cast(TaskMsg::Attach { attached: Box::new(attached) }).is_err() {
                        tracing::debug!(task.id = %id, "a task ended before its run could be gone on with");
                    }
                }
                None => send(&myself, Event::Resumed { run_attached: false }),
            }
        });
        Ok(())
    }

    /// Goes on with the run that is under way, by its job. A STOP that came in between has the job ended by its own steps.
    pub(super) async fn attach(
        &mut self,
        myself: &ActorRef<TaskMsg>,
        attached: Attached,
    ) -> Result<(), ActorProcessingErr> {
        let Some(Row { task, epoch, .. }) = &self.row else { return Ok(()) };
        let State::Running { run, step: Step::Agent, .. } = &task.state else { return Ok(()) };
        if self.stop_saga || task.stop.is_some() || self.agent.is_some() {
            return Ok(());
        }
        let args = AgentArgs {
            ctx: self.ctx.clone(),
            snapshots: self.snapshots.clone(),
            task: task.clone(),
            epoch: *epoch,
            run: run.clone(),
            attempt: attached.attempt(),
            attached: Some(attached),
            report_to: myself.clone(),
        };
        self.begin_agent(myself, args).await;
        self.tell_state();
        self.hear(myself, Event::Resumed { run_attached: true }).await?;
        Ok(())
    }

    /// Starts the actor of a run, which hears at once what the system has been told meanwhile.
    pub(super) async fn begin_agent(&mut self, myself: &ActorRef<TaskMsg>, args: AgentArgs) {
        match Actor::spawn_linked(None, AgentActor, args, myself.get_cell()).await {
            Ok((agent, _)) => {
                self.agent = Some(agent);
                self.tell_agent();
            }
            Err(why) => self.run_lost(myself, why.to_string()),
        }
    }

    /// Passes the system's stop on to the run.
    pub(super) fn tell_agent(&self) {
        let message = match (self.stopping, self.leaving) {
            (Some(level @ (Level::Cancel | Level::Kill)), _) => AgentMsg::End { level },
            (Some(Level::Drain), true) => AgentMsg::Leave,
            (Some(Level::Drain), false) | (None, _) => return,
        };
        if let Some(agent) = &self.agent
            && agent.cast(message).is_err()
        {
            tracing::debug!(task.id = %self.id, "the agent of task {} ended before it could be told to", self.id);
        }
    }

    /// The run's actor failed: its jobs are ended and proven gone before the run is said to be over.
    pub(super) fn run_lost(&self, myself: &ActorRef<TaskMsg>, why: String) {
        let Some(Row { task: Task { state: State::Running { run, .. }, .. }, .. }) = &self.row else { return };
        let (ctx, id, run, myself) = (self.ctx.clone(), self.id.clone(), run.clone(), myself.clone());
        tokio::spawn(async move {
            prove_gone(&ctx, &id, None).await;
            let facts: RunFacts = trouble(format!("the run's actor failed: {why}"));
            send(&myself, Event::RunEnded { run, facts: Box::new(facts) });
        });
    }
}

/// Whether a slot that an earlier actor of the task had is needed still: its agent may work on, or it asks for the same.
const fn keeps_its_slot(task: &Task) -> bool {
    matches!(&task.state, State::Running { step: Step::Agent, .. } | State::Waiting { on: WaitFor::Slot, .. })
}

/// Settles a task's jobs, all but one, until nothing of them can be left: only then may something new begin.
async fn prove_gone(ctx: &Context, task: &TaskId, but: Option<&JobId>) {
    loop {
        let unproven = settle_others(ctx, task, but).await;
        if unproven.is_empty() {
            return;
        }
        tracing::warn!(task.id = %task, ?unproven, "jobs of task {task} are not proven gone yet; looking again");
        tokio::time::sleep(PROVE_AGAIN).await;
    }
}
