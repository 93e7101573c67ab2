//! The handle: the cheap way to speak to the actors, and the only one that http, cli and tests have.
//!
//! Owns the translation between requests and events, and between stored rows and views. Commands are durable before they
//! are acknowledged; reads go to the store and to snapshots, never to a busy actor.

mod salvages;
mod stopping;
mod upkeep;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use orch_domain::decide::Nothing;
use orch_domain::event::Event;
use orch_domain::ids::{CommitPrefix, Generation, Seq, TaskId};
use orch_domain::journal::Record;
use orch_domain::lane::LaneMode;
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::stop::Receipt;
use orch_domain::task::{ApprovalOf, Blocked, State, Status, Task, WaitFor};
use orch_domain::time::Timestamp;
use orch_domain::view::{Holders, RunView, TaskDetail, TaskView, Why, why};
use orch_store::{SpaceState, StoreError, Stored};
use tokio::sync::watch;

use crate::api::{
    About, ActorView, Control, ControlError, CoveragePoint, CoverageView, GcItem, HandOver, JobView, LeaseView,
    LogPage, LogView, ProofQuery, ProofView, QueueView, Readiness, RepoStop, RepoView, Restored, SalvageView,
    SetBaseline, Slots, StandstillView, StopAnswer, Submit, TaskFilter,
};
use crate::bound;
use crate::context::Context;
use crate::directory::Directory;
use crate::disk::WAY_OUT;
use crate::intake;
use crate::snapshots::Snapshots;
use crate::task::Answer;
use rest::NOBODY;

mod coverage;
mod holders;
mod kept_logs;
mod lanes;
mod proofs;
mod rest;

/// Most tasks in one list.
const LIST: usize = 500;

fn waits_for_its_settings(others: &str) -> String {
    format!("a run with the settings that it was handed in with; this one has {others}")
}

/// The handle.
pub struct Handle {
    ctx: Arc<Context>,
    directory: Directory,
    snapshots: Snapshots,
    intake_open: AtomicBool,
    /// Whether somebody asked for a handover.
    handing_over: watch::Sender<bool>,
    started: Timestamp,
    /// Whether nobody runs what is looked at here: no actor is there, and the store takes no change.
    at_rest: bool,
}

fn store_error(error: StoreError) -> ControlError {
    match error {
        StoreError::DiskFull | StoreError::Closed => ControlError::Unavailable(error.to_string()),
        other => ControlError::Internal(other.to_string()),
    }
}

impl Handle {
    pub(crate) fn new(ctx: Arc<Context>, directory: Directory, snapshots: Snapshots) -> Self {
        let started = ctx.now();
        Self {
            ctx,
            directory,
            snapshots,
            intake_open: AtomicBool::new(true),
            handing_over: watch::channel(false).0,
            started,
            at_rest: false,
        }
    }

    /// A desk over data that nobody runs: it tells what was recorded last, and takes nothing.
    #[must_use]
    pub fn at_rest(ctx: Arc<Context>) -> Self {
        Self { at_rest: true, ..Self::new(ctx, Directory::default(), Snapshots::default()) }
    }

    /// From now on no task is taken.
    pub(crate) fn close_intake(&self) {
        self.intake_open.store(false, Ordering::SeqCst);
    }

    pub(crate) fn close_store(&self) {
        self.ctx.store.close();
    }

    /// What every actor is handed; for the composition root and tests.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// Addresses of the actors; for tests that kill them.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Every life that a text names, newest first: a key, `KEY/GENERATION`, or an id.
    async fn lives(&self, text: &str) -> Result<Vec<Task>, ControlError> {
        let not_found = || ControlError::NotFound(format!("there is no task `{}`", text.escape_debug()));
        if let Ok(id) = text.parse::<TaskId>()
            && let Some(stored) = self.ctx.store.look_at_task(&id).await.map_err(store_error)?
        {
            return Ok(vec![stored.task]);
        }
        let (key, generation) = match text.rsplit_once('/') {
            Some((key, number)) => match number.parse::<u64>() {
                Ok(number) => (key, Some(Generation(number))),
                Err(_) => return Err(not_found()),
            },
            None => (text, None),
        };
        let key: TaskKey = key.parse().map_err(|_| not_found())?;
        let stored = self.ctx.store.tasks_by_key(&key).await.map_err(store_error)?;
        let mut lives: Vec<Task> = stored.into_iter().map(|s: Stored| s.task).collect();
        lives.retain(|t| generation.is_none_or(|g| t.generation == g));
        lives.sort_by_key(|t| std::cmp::Reverse(t.generation));
        if lives.is_empty() { Err(not_found()) } else { Ok(lives) }
    }

    async fn newest(&self, text: &str) -> Result<Task, ControlError> {
        Ok(self.lives(text).await?.remove(0))
    }

    async fn why_of(&self, task: &Task) -> Why {
        let (held_by, queued) = self.holder_of(task).await;
        let (activity, window) = (self.snapshots.activity(&task.id), self.window_of(task).await);
        let holders = Holders { held_by, activity, window, queued };
        let told = self.or_short_of_space(task, why(task, &holders));
        let told = self.or_closed_lane(task, told).await;
        let told = self.or_left_alone(task, told);
        self.or_at_rest(task, told)
    }

    /// A task as listed, with what only a running system knows of it.
    fn shown(&self, task: &Task) -> TaskView {
        let other_settings = bound::others(&self.ctx, task);
        let mut view = TaskView::of(task);
        if matches!(view.status, Status::Running | Status::Landing)
            && let Some(activity) = self.snapshots.activity(&task.id)
        {
            view.doing = activity;
        }
        if self.ctx.disk.standstill().is_some_and(|standstill| standstill.holds(&task.id)) {
            view.doing = format!("stands still, the disk is full: {}", view.doing);
        }
        if let Some(others) = &other_settings {
            view.doing = waits_for_its_settings(others);
        }
        if self.at_rest {
            view.doing = self.or_at_rest(task, why(task, &Holders::default())).waits_for;
        }
        TaskView { other_settings, ..view }
    }

    /// Whatever it would do else: with other settings than those it was handed in with nothing of it is done.
    fn or_left_alone(&self, task: &Task, told: Why) -> Why {
        match bound::others(&self.ctx, task) {
            Some(others) => Why {
                waits_for: waits_for_its_settings(&others),
                held_by: None,
                ends_by: format!(
                    "`orch run --key {}` with the settings that it was handed in with, or a STOP",
                    task.key
                ),
                hint: Some(format!("orch task stop {}", task.key)),
                ..told
            },
            None => told,
        }
    }

    /// Whatever slots are free: none is given while the disk is short of space.
    fn or_short_of_space(&self, task: &Task, told: Why) -> Why {
        match (&task.state, self.ctx.disk.shortage()) {
            (State::Waiting { on: WaitFor::Slot, .. }, Some(shortage)) => Why {
                waits_for: format!("space on the disk: {shortage}"),
                ends_by: "enough space being free (looked at every few seconds)".to_owned(),
                hint: Some(WAY_OUT.to_owned()),
                ..told
            },
            _ => told,
        }
    }

    async fn detail(&self, task: Task) -> Result<TaskDetail, ControlError> {
        let runs = self.ctx.store.runs(&task.id).await.map_err(store_error)?;
        let runs = runs.into_iter().map(|row| RunView {
            run: row.run.id,
            stage: row.run.stage,
            kind: row.run.kind,
            attempt: row.run.attempt,
            started: row.run.started,
            ended: row.ended,
            outcome: row.outcome.map(|o| o.as_str().map_or_else(|| o.to_string(), str::to_owned)),
            usage: row.usage.unwrap_or_default(),
        });
        Ok(TaskDetail {
            task: self.shown(&task),
            body: task.body.clone(),
            why: self.why_of(&task).await,
            findings: task.findings.clone(),
            depends_on: task.depends_on.clone(),
            runs: runs.collect(),
        })
    }

    /// Brings a person's command to the task and answers once it is durable.
    async fn command(&self, task: &Task, event: Event) -> Result<TaskView, ControlError> {
        if task.is_terminal() {
            // Its actor has ended; one started for this would end before it could answer.
            return Err(ControlError::Conflict(format!("{} is closed ({})", task.key, task.status().as_str())));
        }
        if let Some(others) = bound::others(&self.ctx, task) {
            let text = format!("{}: it waits for {}", task.key, waits_for_its_settings(&others));
            return Err(ControlError::Conflict(text));
        }
        if let State::Blocked { why: why @ Blocked::Unreadable { .. }, .. } = &task.state {
            let way_out = format!("stop it (`orch task stop {}`), or restore a backup (docs/operations.md)", task.key);
            return Err(ControlError::Conflict(format!("{}: {}; {way_out}", task.key, why.text())));
        }
        match self.directory.ask(&task.id, event).await {
            Some(Answer::Changed(task)) => Ok(TaskView::of(&task)),
            Some(Answer::Nothing(why)) => {
                let text = match why {
                    Nothing::Closed => format!("{} is closed ({})", task.key, task.status().as_str()),
                    Nothing::Stopping => format!("{} is being stopped", task.key),
                    Nothing::OtherCommit => {
                        format!("{} waits for the approval of another commit; see `orch why {}`", task.key, task.key)
                    }
                    _ => format!(
                        "{} is {} in {}: there is nothing to do that to",
                        task.key,
                        task.status().as_str(),
                        task.stage
                    ),
                };
                Err(ControlError::Conflict(text))
            }
            None => Err(ControlError::Unavailable(format!("{} did not answer in time; ask again", task.key))),
        }
    }

    fn intake_state(&self) -> String {
        if self.at_rest {
            return format!("closed: {NOBODY}");
        }
        if !self.intake_open.load(Ordering::SeqCst) {
            return "closed: the supervisor stops".to_owned();
        }
        match self.ctx.store.space_state() {
            SpaceState::Enough => match self.ctx.disk.shortage() {
                None => "open".to_owned(),
                Some(shortage) => format!("closed: {shortage}; {WAY_OUT}"),
            },
            // Between the refused change and the look that it leads to nothing stands still yet.
            SpaceState::Full | SpaceState::OnBallast => match self.ctx.disk.standstill() {
                None => format!("closed: the data folder's disk is full; {WAY_OUT}"),
                Some(standstill) => format!("closed: {standstill}; {WAY_OUT}"),
            },
        }
    }
}

#[async_trait]
impl Control for Handle {
    async fn submit(&self, submit: Submit, by: &str) -> Result<TaskView, ControlError> {
        let intake = self.intake_state();
        if intake != "open" {
            return Err(ControlError::Unavailable(format!("no new task is taken: intake is {intake}")));
        }
        let task = intake::submit(&self.ctx, &self.directory, submit, by).await?;
        Ok(TaskView::of(&task))
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<TaskView>, ControlError> {
        let limit = if filter.limit == 0 { LIST } else { filter.limit.min(LIST) };
        let find = orch_store::TaskFilter {
            repo: filter.repo,
            live_only: !filter.closed,
            limit: u32::try_from(limit).ok(),
            ..Default::default()
        };
        let found = self.ctx.store.find_tasks(find).await.map_err(store_error)?;
        Ok(found.iter().map(|s| self.shown(&s.task)).collect())
    }

    async fn task(&self, key: &str, all: bool) -> Result<Vec<TaskDetail>, ControlError> {
        let mut lives = self.lives(key).await?;
        if !all {
            lives.truncate(1);
        }
        let mut details = Vec::with_capacity(lives.len());
        for task in lives {
            details.push(self.detail(task).await?);
        }
        Ok(details)
    }

    async fn journal(&self, key: &str, after: Seq, limit: usize) -> Result<Vec<Record>, ControlError> {
        let task = self.newest(key).await?;
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.ctx.store.journal(&task.id, after, limit).await.map_err(store_error)
    }

    async fn why(&self, key: &str) -> Result<Why, ControlError> {
        let task = self.newest(key).await?;
        Ok(self.why_of(&task).await)
    }

    async fn receipt(&self, key: &str) -> Result<Receipt, ControlError> {
        for task in self.lives(key).await? {
            if let Some(receipt) = self.ctx.store.receipt(&task.id).await.map_err(store_error)? {
                return Ok(receipt);
            }
        }
        Err(ControlError::NotFound(format!("{key} was never stopped: it has no receipt")))
    }

    async fn logs(&self, key: &str) -> Result<Vec<LogView>, ControlError> {
        self.logs_of(key).await
    }

    async fn log(&self, key: &str, run: Option<u32>, offset: u64, max_bytes: usize) -> Result<LogPage, ControlError> {
        self.page_of(key, run, offset, max_bytes).await
    }

    async fn stop(&self, key: &str, by: &str, source: &str) -> Result<StopAnswer, ControlError> {
        let task = self.newest(key).await?;
        self.stop_one(&task, by, source).await
    }

    async fn stop_repo(&self, repo: &RepoName, by: &str, source: &str) -> Result<RepoStop, ControlError> {
        self.stop_all_of(repo, by, source).await
    }

    async fn hand_over(&self, by: &str) -> Result<HandOver, ControlError> {
        self.ask_for_handover(by).await
    }

    async fn gc_plan(&self) -> Result<Vec<GcItem>, ControlError> {
        self.plan_of_upkeep().await
    }

    async fn gc(&self, by: &str) -> Result<Vec<GcItem>, ControlError> {
        self.begin_upkeep(by).await
    }

    async fn salvages(&self, repo: Option<&RepoName>) -> Result<Vec<SalvageView>, ControlError> {
        self.salvages_of(repo).await
    }

    async fn restore_salvage(&self, repo: &RepoName, id: &str, into: PathBuf) -> Result<Restored, ControlError> {
        self.restore(repo, id, into).await
    }

    async fn retry(&self, key: &str, by: &str) -> Result<TaskView, ControlError> {
        let task = self.newest(key).await?;
        self.command(&task, Event::RetryRequested { by: by.to_owned() }).await
    }

    async fn approve(
        &self,
        key: &str,
        what: ApprovalOf,
        sha: Option<CommitPrefix>,
        by: &str,
    ) -> Result<TaskView, ControlError> {
        let task = self.newest(key).await?;
        let waited = match &task.state {
            State::Waiting { on: WaitFor::Approval { what: asked, sha }, .. } if *asked == what => sha.clone(),
            _ => {
                let text = format!("{key} does not wait for an approval to {}; see `orch why {key}`", what.as_str());
                return Err(ControlError::Conflict(text));
            }
        };
        if let Some(given) = sha.filter(|given| !given.means(&waited)) {
            let text = format!("{key} waits for the approval of {waited}, not of {given}; see `orch why {key}`");
            return Err(ControlError::Conflict(text));
        }
        self.command(&task, Event::Approved { what, sha: waited, by: by.to_owned() }).await
    }

    async fn queue(&self) -> Result<QueueView, ControlError> {
        let counts = self.ctx.store.count_tasks().await.map_err(store_error)?;
        let (mut by_status, mut by_stage) = (BTreeMap::new(), BTreeMap::new());
        for (stage, status, n) in counts {
            let n = usize::try_from(n).unwrap_or(usize::MAX);
            *by_status.entry(status.as_str().to_owned()).or_insert(0) += n;
            if !matches!(status, Status::Done | Status::Cancelled) {
                *by_stage.entry(stage.to_string()).or_insert(0) += n;
            }
        }
        let live = self.ctx.store.live_tasks().await.map_err(store_error)?;
        let (mut running, mut waiting, mut stopping) = (Vec::new(), Vec::new(), Vec::new());
        let deferred = lanes::deferred(live.iter().map(|s| &s.task));
        let standstill = self.ctx.disk.standstill();
        // Said once for all that wait for a slot: there may be thousands.
        let held_by = self.slot_holders(live.iter().map(|s| &s.task));
        for Stored { task, .. } in live {
            match (task.status(), &task.state) {
                _ if self.at_rest || bound::others(&self.ctx, &task).is_some() => {
                    waiting.push(self.why_of(&task).await)
                }
                (Status::Running, State::Running { .. }) if self.gate_place(&task).1 == Some(true) => {
                    waiting.push(self.why_of(&task).await);
                }
                (Status::Running | Status::Landing, _) => {
                    running.push(self.shown(&task));
                }
                (Status::Stopping, _) => stopping.push(task),
                (_, State::Waiting { on: WaitFor::Slot, .. }) => {
                    let held_by = Some(held_by.clone());
                    waiting.push(self.or_short_of_space(&task, why(&task, &Holders { held_by, ..Holders::default() })));
                }
                _ => waiting.push(self.why_of(&task).await),
            }
        }
        let gates: Slots = self.directory.gates().map(|g| g.snapshot().slots).unwrap_or_default();
        Ok(QueueView {
            by_status,
            by_stage,
            running,
            waiting,
            agents: self.snapshots.agent_slots(),
            gates,
            security: crate::tally::security(&self.ctx).await.map_err(store_error)?,
            merge: self.lane_views(&deferred).await?,
            coverage: self.coverage_block().await?,
            stop: self.stop_block(stopping).await?,
            refused_stale_writes: self.ctx.store.refused_stale(),
            intake: self.intake_state(),
            standstill: standstill.map(|s| StandstillView {
                since: s.since,
                why: s.why,
                jobs: s.standing.len(),
                shed: s.shed,
            }),
        })
    }

    async fn jobs(&self) -> Result<Vec<JobView>, ControlError> {
        let jobs = self.ctx.store.live_jobs().await.map_err(store_error)?;
        let standing = self.ctx.disk.standstill().map(|s| s.standing).unwrap_or_default();
        Ok(jobs
            .into_iter()
            .map(|j| JobView {
                stands_still: standing.contains_key(&j.record.identity.job),
                job: j.record.identity.job,
                kind: j.record.kind,
                task: j.record.task,
                label: j.record.label,
                status: j.status,
                pid: j.record.identity.pid,
                containment: j.record.identity.containment,
                enforced: j.record.identity.enforced,
                since: j.record.at,
            })
            .collect())
    }

    async fn leases(&self) -> Result<Vec<LeaseView>, ControlError> {
        self.lease_views().await
    }

    async fn repos(&self) -> Result<Vec<RepoView>, ControlError> {
        self.repo_views().await
    }

    async fn coverage(&self, repo: &RepoName) -> Result<CoverageView, ControlError> {
        self.coverage_of(repo).await
    }

    async fn coverages(&self) -> Result<Vec<CoverageView>, ControlError> {
        self.coverage_block().await
    }

    async fn coverage_history(
        &self,
        repo: &RepoName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<CoveragePoint>, ControlError> {
        self.coverage_page(repo, before, limit).await
    }

    async fn set_baseline(&self, asked: SetBaseline, by: &str) -> Result<CoverageView, ControlError> {
        self.set_coverage(asked, by).await
    }

    async fn set_lane_mode(
        &self,
        repo: &RepoName,
        mode: LaneMode,
        why: &str,
        by: &str,
    ) -> Result<RepoView, ControlError> {
        self.set_mode(repo, mode, why, by).await
    }

    async fn proofs(&self, asked: ProofQuery) -> Result<Vec<ProofView>, ControlError> {
        self.proof_views(asked).await
    }

    async fn actors(&self) -> Result<Vec<ActorView>, ControlError> {
        Ok(self.snapshots.actors())
    }

    async fn records_after(&self, after: Seq, limit: usize) -> Result<Vec<Record>, ControlError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.ctx.store.records_after(after, limit).await.map_err(store_error)
    }

    fn watch_records(&self) -> watch::Receiver<Seq> {
        self.ctx.store.subscribe()
    }

    async fn ready(&self) -> Readiness {
        let intake = self.intake_state();
        match intake.as_str() {
            "open" => Readiness { ready: true, reason: "ok".to_owned() },
            other => Readiness { ready: false, reason: other.to_owned() },
        }
    }

    fn about(&self) -> About {
        About {
            version: self.ctx.version.clone(),
            started: self.started,
            uptime_ms: self.ctx.now().since(self.started),
            containment: self.ctx.runner.placement.capabilities(),
        }
    }

    async fn backup(&self, to: PathBuf) -> Result<String, ControlError> {
        let report = self.ctx.store.backup(to).await.map_err(store_error)?;
        Ok(format!("{} bytes, verified", report.bytes))
    }
}
