//! The handle's part about ending: STOP of a task and of a repository, what is shown of STOPs, the handover.
//!
//! Owns the translation only: a STOP is recorded by intake, whoever asks; a handover is asked for here and carried out by
//! whoever runs the system. Refuses to acknowledge a STOP that is not durable.

use orch_domain::names::RepoName;
use orch_domain::stop::{StepResult, retry_at};
use orch_domain::task::{State, Status, Step, Task};
use orch_domain::view::TaskView;
use orch_store::{TaskFilter, WindowKind};

use super::{Handle, store_error};
use crate::api::{ControlError, HandOver, RepoStop, StopAnswer, StopBlock, StopPending, StopUnderWay};
use crate::intake;

impl Handle {
    pub(super) async fn stop_one(&self, task: &Task, by: &str, source: &str) -> Result<StopAnswer, ControlError> {
        let first = intake::stop(&self.ctx, &self.directory, task, by, source).await?;
        let task = self.newest(&task.id.to_string()).await?;
        let receipt = format!("/tasks/{}/receipt", task.id);
        Ok(StopAnswer { task: TaskView::of(&task), first, receipt })
    }

    /// All live tasks of a repository at this moment; one that is handed in meanwhile is none of them.
    pub(super) async fn stop_all_of(&self, repo: &RepoName, by: &str, source: &str) -> Result<RepoStop, ControlError> {
        let filter = TaskFilter { repo: Some(repo.clone()), live_only: true, ..TaskFilter::default() };
        let mut live = self.ctx.store.find_tasks(filter).await.map_err(store_error)?;
        if live.is_empty() && self.ctx.repo(repo).is_none() {
            let known: Vec<&str> = self.ctx.repos.keys().map(RepoName::as_str).collect();
            let text =
                format!("repository `{repo}` is not configured and has no live task; known: {}", known.join(", "));
            return Err(ControlError::NotFound(text));
        }
        // Those that wait first: what a task further on gives back must not let one of them begin.
        live.sort_by_key(|stored| (has_begun(&stored.task), stored.task.created));
        let mut stopped = Vec::with_capacity(live.len());
        for stored in live {
            stopped.push(self.stop_one(&stored.task, by, source).await?);
        }
        Ok(RepoStop { repo: repo.clone(), stopped })
    }

    /// The irreversible step of a task that is being stopped, by name, while it is under way.
    pub(super) async fn window_of(&self, task: &Task) -> Option<String> {
        if task.stop.is_none() || task.is_terminal() {
            return None;
        }
        let windows = self.ctx.store.windows_of(&task.id).await.ok()?;
        // The innermost: a rollback lies within its deploy.
        let open = windows.into_iter().rfind(|w| w.closed.is_none())?;
        Some(match open.kind {
            WindowKind::Land => "landing".to_owned(),
            WindowKind::Deploy => "deploy".to_owned(),
            WindowKind::Rollback => "rollback of the deploy".to_owned(),
        })
    }

    pub(super) async fn stop_block(&self, mut stopping: Vec<Task>) -> Result<StopBlock, ControlError> {
        stopping.sort_by_key(|task| task.stop.as_ref().map(|stop| stop.at));
        let mut under_way = Vec::with_capacity(stopping.len());
        for task in stopping {
            let Some(stop) = task.stop.clone() else { continue };
            under_way.push(StopUnderWay {
                doing: self.why_of(&task).await.waits_for,
                key: task.key,
                generation: task.generation,
                since: stop.at,
                by: stop.by,
                source: stop.source,
            });
        }
        let mut pending = Vec::new();
        for step in self.ctx.store.pending_steps().await.map_err(store_error)? {
            let StepResult::Pending { why } = step.line.result else { continue };
            let Some(stored) = self.ctx.store.look_at_task(&step.task).await.map_err(store_error)? else { continue };
            // Whoever lands clears its branch away by the same steps; that is nobody's STOP.
            if stored.task.stop.is_none() {
                continue;
            }
            pending.push(StopPending {
                key: stored.task.key,
                generation: stored.task.generation,
                step: step.line.step,
                why,
                tried: step.line.at,
                next: retry_at(step.closed, step.line.at),
            });
        }
        Ok(StopBlock { status_enabled: self.ctx.stop_status, under_way, pending })
    }

    pub(super) async fn ask_for_handover(&self, by: &str) -> Result<HandOver, ControlError> {
        let running = TaskFilter { status: Some(Status::Running), live_only: true, ..TaskFilter::default() };
        let running = self.ctx.store.find_tasks(running).await.map_err(store_error)?;
        let agents = running
            .into_iter()
            .filter(|s| matches!(s.task.state, State::Running { step: Step::Agent, .. }))
            .map(|s| s.task.key)
            .collect();
        tracing::info!(by, "a handover is asked for");
        self.handing_over.send_replace(true);
        Ok(HandOver { agents, grace_ms: self.ctx.limits.agent_orphan_grace })
    }

    /// Ready once somebody has asked for a handover.
    pub async fn handover_asked(&self) {
        let mut asked = self.handing_over.subscribe();
        // The sender lives as long as this handle.
        let _ = asked.wait_for(|asked| *asked).await.is_ok();
    }
}

const fn has_begun(task: &Task) -> bool {
    !matches!(task.state, State::Waiting { .. })
}
