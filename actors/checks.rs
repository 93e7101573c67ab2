//! Checks: a stage's check or command on the task's head, by way of the gate pool.
//!
//! Owns the translation from a stage to a request for the pool, and its run row. The result comes back to the TaskActor
//! as `CheckEnded`; a panic inside becomes `could not run`.

use std::sync::Arc;

use orch_domain::event::{CheckEnd, Event};
use orch_domain::ids::{CommitSha, Epoch, RunId};
use orch_domain::pipeline::{RepoCommand, Work};
use orch_domain::task::{Step, Task};
use ractor::ActorRef;

use crate::context::Context;
use crate::directory::Directory;
use crate::gates::checks::{CheckRequest, run_check};
use crate::gates::{GateOrder, GatePoolHandle};
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
        let end = match command_of(&request.task, request.step) {
            None => CheckEnd::Passed { note: format!("stage `{}` has nothing to check", request.task.stage) },
            Some(what) => {
                snapshots.set_activity(&id, format!("{}: waiting for a gate slot", what.as_str()));
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
    let check = CheckRequest {
        task: task.id.clone(),
        key: task.key.clone(),
        generation: task.generation,
        run: request.run.clone(),
        epoch: request.epoch,
        repo: task.repo.clone(),
        base: task.base.clone(),
        head: request.head.clone(),
        what,
        no_tests: task.policy.no_tests,
    };
    through_pool(ctx, &gates, snapshots, check, task.priority, false).await
}

/// Runs one check in the pool.
pub async fn through_pool(
    ctx: &Arc<Context>,
    gates: &GatePoolHandle,
    snapshots: &Snapshots,
    check: CheckRequest,
    priority: i32,
    lease_holder: bool,
) -> CheckEnd {
    let order = GateOrder {
        task: check.task.clone(),
        label: format!("{} of {}", check.what.as_str(), check.key),
        priority,
        lease_holder,
    };
    let (ctx, snapshots) = (ctx.clone(), snapshots.clone());
    let work = async move {
        snapshots.set_activity(&check.task, format!("{} on {}", check.what.as_str(), check.head.short()));
        run_check(&ctx, &check).await
    };
    gates.run(order, Box::pin(work)).await
}
