//! Checks: a stage's check, command or gate on the task's head, by way of the gate pool.
//!
//! Owns the translation from a stage to a request for the pool. The result comes back to the TaskActor
//! as `CheckEnded`; a panic inside becomes `could not run`.

use std::sync::Arc;

use orch_domain::event::{CheckEnd, Event};
use orch_domain::gate::GateName;
use orch_domain::ids::{CommitSha, Epoch, RunId};
use orch_domain::pipeline::{RepoCommand, Work};
use orch_domain::task::{Step, Task};
use ractor::ActorRef;

use crate::context::Context;
use crate::directory::Directory;
use crate::gates::checks::{CheckRequest, nothing_to_run};
use crate::gates::testing::run_stage;
use crate::gates::{GateAnswer, GateOrder, GatePoolHandle, GateSubject, security};
use crate::snapshots::Snapshots;
use crate::task::{TaskMsg, send};

/// What a TaskActor asks for.
pub struct Request {
    /// The task as committed.
    pub task: Task,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The run.
    pub run: RunId,
    /// Check or command.
    pub step: Step,
    /// On which commit.
    pub head: CommitSha,
}

/// Which command a step of a stage runs.
#[must_use]
pub fn command_of(task: &Task, step: Step) -> Option<RepoCommand> {
    match (&task.current().work, step) {
        (Work::Agent { check, .. }, Step::Check) => *check,
        (Work::Command { command }, Step::Command) => Some(*command),
        _ => None,
    }
}

/// Starts a check in a side task; its end comes to `report_to`.
pub fn start(
    ctx: &Arc<Context>,
    directory: &Directory,
    snapshots: &Snapshots,
    request: Request,
    report_to: ActorRef<TaskMsg>,
) {
    let (ctx, directory, snapshots) = (ctx.clone(), directory.clone(), snapshots.clone());
    let run = request.run.clone();
    let id = request.task.id.clone();
    tokio::spawn(async move {
        let end = match (command_of(&request.task, request.step), request.step) {
            (_, Step::Security) => {
                snapshots.set_activity(&id, "security: waiting for a gate slot".to_owned());
                let end = ask_security(&ctx, &directory, &snapshots, &request).await;
                snapshots.clear_activity(&id);
                end
            }
            (None, _) => CheckEnd::passed(format!("stage `{}` has nothing to check", request.task.stage)),
            (Some(what), _) => {
                let end = ask_pool(&ctx, &directory, &snapshots, &request, what).await;
                snapshots.clear_activity(&id);
                end
            }
        };
        send(&report_to, Event::CheckEnded { run, end });
    });
}

async fn ask_pool(
    ctx: &Arc<Context>,
    directory: &Directory,
    snapshots: &Snapshots,
    request: &Request,
    what: RepoCommand,
) -> CheckEnd {
    let Some(gates) = directory.gates() else {
        return CheckEnd::CouldNotRun { why: "the gate pool is being restarted".to_owned() };
    };
    let task = &request.task;
    let subject = subject_of(task, request.run.clone(), request.epoch, task.base.clone(), request.head.clone());
    let coverage = task.policy.gates.coverage.is_asked();
    // The limits of an agent's stage are the agent's: what checks its work has those of its own sort.
    let stage = task.current();
    let (limit, silence) = match stage.work {
        Work::Command { .. } => (stage.limit, stage.silence),
        Work::Agent { .. } | Work::Land => (None, None),
    };
    let check = CheckRequest { subject, what, no_tests: task.policy.no_tests, coverage, limit, silence, anew: false };
    if let Some(note) = nothing_to_run(ctx, &check) {
        return CheckEnd::passed(note);
    }
    snapshots.set_activity(&task.id, format!("{}: waiting for a gate slot", what.as_str()));
    // Two that are staged at once would each be tried on what the other has put there.
    let alone = what == RepoCommand::Staging;
    let asked = Asked { gates: &gates, snapshots, priority: task.priority, lease_holder: false, alone };
    let context = ctx.clone();
    asked.of(check.subject.clone(), what.as_str(), async move { run_stage(&context, &check).await }).await.told()
}

async fn ask_security(ctx: &Arc<Context>, directory: &Directory, snapshots: &Snapshots, request: &Request) -> CheckEnd {
    let Some(gates) = directory.gates() else {
        return CheckEnd::CouldNotRun { why: "the gate pool is being restarted".to_owned() };
    };
    let task = &request.task;
    let subject = subject_of(task, request.run.clone(), request.epoch, task.base.clone(), request.head.clone());
    let asked = Asked { gates: &gates, snapshots, priority: task.priority, lease_holder: false, alone: false };
    let (context, of) = (ctx.clone(), subject.clone());
    asked.of(subject, GateName::Security.as_str(), async move { security::run(&context, &of, &[]).await }).await.told()
}

/// One commit of a task as a gate is asked about it.
#[must_use]
pub fn subject_of(task: &Task, run: RunId, epoch: Epoch, base: Option<CommitSha>, head: CommitSha) -> GateSubject {
    GateSubject {
        task: task.id.clone(),
        key: task.key.clone(),
        generation: task.generation,
        run,
        epoch,
        repo: task.repo.clone(),
        base,
        head,
    }
}

/// The way into the pool for one asker.
pub struct Asked<'a> {
    /// The pool.
    pub gates: &'a GatePoolHandle,
    /// Where the activity is shown.
    pub snapshots: &'a Snapshots,
    /// Higher goes first.
    pub priority: i32,
    /// Whether the asker holds a repository's lease.
    pub lease_holder: bool,
    /// Whether one of a repository at a time may do it.
    pub alone: bool,
}

impl Asked<'_> {
    /// Runs `work` in the pool; `what` names it to people.
    pub async fn of(
        &self,
        subject: GateSubject,
        what: &str,
        work: impl Future<Output = GateAnswer> + Send + 'static,
    ) -> GateAnswer {
        let order = GateOrder {
            task: subject.task.clone(),
            label: format!("{what} of {}", subject.key),
            priority: self.priority,
            lease_holder: self.lease_holder,
            alone: self.alone.then(|| format!("{what} of {}", subject.repo)),
        };
        let (snapshots, text) = (self.snapshots.clone(), format!("{what} on {}", subject.head.short()));
        let work = async move {
            snapshots.set_activity(&subject.task, text);
            work.await
        };
        self.gates.run(order, Box::pin(work)).await
    }
}
