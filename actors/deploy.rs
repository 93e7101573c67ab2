//! The deploy that belongs to a landing: at most once, attached to when found under way, honest when its outcome is unknown.
//!
//! Owns the deploy window and the rollback window inside it: intent, job, health check, the question for the status.
//! Invariants: a job's id is recorded in its window before the job exists, so what was interrupted is always found; a
//! deploy whose job may have run is never run again without a person or the status command having said that it did not; a
//! rollback whose job may have run is never run again at all; a rollback's window is closed before its deploy's. Which
//! request a result answers is told by how often people asked, never by the clock. A health command says something about
//! the deploy only when it ran: what of ours keeps it from running rolls nothing back. Production never becomes older, and
//! takes no image but that of what has landed. Trouble of ours, and a lease that is
//! somebody else's by now, change nothing: the window stays as it is, and whoever comes next attaches to it.

mod before;

use std::time::Duration;

use orch_adapters::jobs::FinishedJob;
use orch_adapters::jobs::env::PrivateDirs;
use orch_adapters::ports::{Confinement, JobError, JobLimits, JobSpec, Observed};
use orch_domain::event::{DeployEnd, LandingEnd};
use orch_domain::ids::{Epoch, JobId, WindowId};
use orch_domain::job::{JobEnd, JobKind, JobStatus};
use orch_domain::policy::DeployMode;
use orch_domain::task::{ApprovalOf, Landed, Task};
use orch_domain::time::{Millis, Timestamp};
use orch_domain::variables;
use orch_store::{NewWindow, StoreError, Window, WindowClose, WindowError, WindowKind};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::artefacts::discard;
use crate::ids::mint;
use crate::landing::Landing;

/// Between two health checks.
const HEALTH_AGAIN: Duration = Duration::from_secs(2);
/// Longest run of one health or status command.
const AID: Millis = Millis::from_mins(1);
/// What the last look at the health gets, however little of its time is left.
const LAST_LOOK: Millis = Millis::from_secs(1);
/// Bytes of a command's output that are quoted.
const TAIL: u64 = 4 << 10;

/// Whether a window's recorded outcome is a good deploy.
#[must_use]
pub fn succeeded(window: &Window) -> bool {
    window.outcome.as_ref().and_then(|o| o.get("deployed")).and_then(Value::as_bool) == Some(true)
}

/// One deploy to be carried out.
pub(crate) struct Deploy<'a> {
    pub(crate) landing: &'a Landing,
    pub(crate) task: &'a Task,
    pub(crate) landed: &'a Landed,
    pub(crate) epoch: Epoch,
    /// Whether the gates have judged what landed in this very turn, and nothing else was built since.
    pub(crate) just_judged: bool,
}

fn text_of(value: Option<&Value>, name: &str) -> Option<String> {
    value.and_then(|v| v.get(name)).and_then(Value::as_str).map(str::to_owned)
}

/// How a deploy ended, before it is recorded.
enum Outcome {
    Deployed,
    Failed(String),
    Unknown(String),
    /// Its job never began: a new one may.
    NeverBegan,
    /// The same, and it would not begin now: something of ours is in the way.
    NotBegun(String),
    /// Something of ours is in trouble: the window stays open, and whoever comes next attaches to it.
    NotNow(String),
}

/// Why there is no end to tell.
enum Trouble {
    /// Nobody saw how it ended: only a person can say.
    Unseen(String),
    /// Something of ours broke: it is tried again later.
    Ours(String),
    /// Something else has to end first.
    Busy(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Ours(error.to_string())
    }
}

/// What is found of the job that an earlier supervisor recorded in a window.
enum Found {
    NeverBegan,
    Ended(FinishedJob),
    /// It may have run, and nobody saw how it ended.
    Unseen(String),
}

impl Deploy<'_> {
    pub(crate) async fn carry_out(&self) -> LandingEnd {
        let landed = self.landed.clone();
        let ended = self.decide().await;
        if let Ok(DeployEnd::Deployed { at }) = ended {
            self.tell_held(at).await;
        }
        match ended {
            Ok(deploy) => LandingEnd::Landed { landed, deploy },
            Err(Trouble::Ours(why)) => LandingEnd::Landed { landed, deploy: DeployEnd::CouldNotRun { why } },
            Err(Trouble::Unseen(why)) => LandingEnd::OutcomeUnknown { why, landed: Some(landed) },
            Err(Trouble::Busy(why)) => LandingEnd::Deferred { why },
        }
    }

    async fn decide(&self) -> Result<DeployEnd, Trouble> {
        let Some(command) = self.landing.repo.settings.commands.deploy.clone() else {
            return Ok(DeployEnd::NotConfigured);
        };
        let store = &self.landing.ctx.store;
        let request = store.retries_of(&self.landing.task).await?;
        let windows = store.windows_of(&self.landing.task).await?;
        match windows.iter().rfind(|w| w.kind == WindowKind::Deploy) {
            Some(window) if succeeded(window) => return Ok(DeployEnd::Deployed { at: self.closed_at(window) }),
            Some(window) if window.closed.is_none() => {
                self.landing.note("window-attached", format!("attached to the deploy window {}", window.id));
                let back = windows.iter().rfind(|w| {
                    w.kind == WindowKind::Rollback
                        && text_of(w.detail.as_ref(), "deploy").as_deref() == Some(window.id.as_str())
                });
                let outcome = self.attach(window, back).await;
                if let Some(end) = self.settle(&window.id, outcome).await? {
                    return Ok(end);
                }
            }
            // The result of this very request, recorded just before a crash: it is told again, not done again.
            Some(window) if self.answers(window, request) => return self.recorded(window),
            Some(_) | None => {}
        }
        // Under a STOP nothing is looked at any more: the store refuses to open the window.
        let stopped = self.task.stop.is_some();
        if !stopped && let Some(end) = self.after_others().await? {
            return Ok(end);
        }
        if self.task.policy.deploy == DeployMode::Approval
            && !self.task.is_approved(ApprovalOf::Deploy, &self.landed.sha)
        {
            return Ok(DeployEnd::AwaitingApproval);
        }
        if !stopped && let Some(end) = self.image().await? {
            return Ok(end);
        }
        let id: WindowId = mint("w");
        let window = self.window(&id, WindowKind::Deploy, json!({"request": request}));
        self.landing.notes.written().await;
        match store.open_window(window, self.landing.ctx.now()).await {
            Ok(()) => {}
            Err(WindowError::StopRecorded) => {
                return Ok(DeployEnd::CouldNotRun { why: "not begun: a STOP was recorded before it".to_owned() });
            }
            Err(error) => return Err(Trouble::Ours(format!("the deploy is not begun: {error}"))),
        }
        let outcome = self.run(&id, &command).await;
        let end = self.settle(&id, outcome).await?;
        end.ok_or_else(|| Trouble::Ours("the deploy command did not begin".to_owned()))
    }

    fn window(&self, id: &WindowId, kind: WindowKind, detail: Value) -> NewWindow {
        NewWindow {
            id: id.clone(),
            kind,
            repo: self.landing.repo.settings.name.clone(),
            task: self.landing.task.clone(),
            sha: self.landed.sha.clone(),
            expected: None,
            epoch: self.epoch,
            detail,
        }
    }

    /// Whether a closed window holds the result of the present request: nobody has asked to go on since it was opened.
    fn answers(&self, window: &Window, request: u64) -> bool {
        if window.outcome.as_ref().and_then(|o| o.get("began")).and_then(Value::as_bool) == Some(false) {
            return false;
        }
        match window.detail.as_ref().and_then(|d| d.get("request")).and_then(Value::as_u64) {
            Some(asked) => asked >= request,
            // Of a release that did not count requests.
            None => window.opened >= self.task.state.since(),
        }
    }

    fn closed_at(&self, window: &Window) -> Timestamp {
        window.closed.unwrap_or_else(|| self.landing.ctx.now())
    }

    fn recorded(&self, window: &Window) -> Result<DeployEnd, Trouble> {
        let text = |name: &str| text_of(window.outcome.as_ref(), name);
        match text("unknown") {
            Some(why) => Err(Trouble::Unseen(why)),
            None => Ok(DeployEnd::Failed { why: text("failed").unwrap_or_else(|| "it failed".to_owned()) }),
        }
    }

    /// Runs the deploy command once.
    async fn run(&self, window: &WindowId, command: &str) -> Outcome {
        self.landing.say("deploying");
        let job: JobId = mint("j");
        let store = &self.landing.ctx.store;
        if let Err(error) = store.set_window_job(window, self.epoch, &job).await {
            return Outcome::NotNow(format!("the deploy is not begun: {error}"));
        }
        let limit = self.landing.repo.settings.limits.deploy;
        match self.command(window, job, JobKind::Deploy, command, limit).await {
            Ok(finished) => self.judge(window, finished).await,
            Err(JobError::NotStarted { why, .. } | JobError::Refused { why, .. }) => Outcome::NotBegun(why),
            Err(JobError::Unreachable { why, .. }) => self.ask_status(window, &why).await,
        }
    }

    async fn judge(&self, window: &WindowId, finished: FinishedJob) -> Outcome {
        let tail = finished.tail(TAIL).unwrap_or_default();
        let left = left_running(finished.exit.swept);
        if let Some(left) = &left {
            self.landing.note("deploy-left", left.clone());
        }
        match finished.exit.end {
            JobEnd::Exited { code: 0 } => self.health(window, left.as_deref()).await,
            JobEnd::Exited { code } => self.roll_back(window, format!("exit code {code}\n{tail}")).await,
            JobEnd::CouldNotStart { why } => Outcome::NotBegun(why),
            JobEnd::TimedOut => self.roll_back(window, format!("its time was over\n{tail}")).await,
            other => self.ask_status(window, &format!("it ended: {other}")).await,
        }
    }

    /// Looks after a deploy that an earlier supervisor began, or after the rollback that it had come to.
    async fn attach(&self, window: &Window, back: Option<&Window>) -> Outcome {
        if let Some(back) = back {
            return self.attach_to_rollback(back).await;
        }
        match self.found(window).await {
            Ok(Found::NeverBegan) => Outcome::NeverBegan,
            Ok(Found::Ended(finished)) => match self.aids_are_over(window).await {
                Ok(()) => self.judge(&window.id, finished).await,
                Err(why) => Outcome::NotNow(why),
            },
            Ok(Found::Unseen(why)) => self.ask_status(&window.id, &why).await,
            Err(why) => Outcome::NotNow(why),
        }
    }

    async fn attach_to_rollback(&self, back: &Window) -> Outcome {
        let why = text_of(back.detail.as_ref(), "why").unwrap_or_else(|| "the deploy failed".to_owned());
        if back.closed.is_some() {
            let text = |name: &str| text_of(back.outcome.as_ref(), name);
            return match text("unknown") {
                Some(why) => Outcome::Unknown(why),
                None => Outcome::Failed(text("failed").unwrap_or(why)),
            };
        }
        self.landing.note("window-attached", format!("attached to the rollback window {}", back.id));
        let outcome = match self.found(back).await {
            Ok(Found::NeverBegan) => match self.landing.repo.settings.commands.rollback.clone() {
                Some(command) => self.run_rollback(&back.id, &command, why).await,
                None => {
                    Outcome::Failed(format!("{why}\nthe rollback was not begun: no rollback command is set any more"))
                }
            },
            Ok(Found::Ended(finished)) => rolled_back(&finished, why),
            Ok(Found::Unseen(how)) => Outcome::Unknown(format!("{why}\nthe rollback's end was not seen: {how}")),
            Err(why) => Outcome::NotNow(why),
        };
        self.close_rollback(&back.id, outcome).await
    }

    /// The job of a window that an earlier supervisor opened: waited for if it runs. An error: the store cannot say.
    async fn found(&self, window: &Window) -> Result<Found, String> {
        let Some(job) = &window.job else { return Ok(Found::NeverBegan) };
        let ctx = &self.landing.ctx;
        let row = ctx.store.job(job).await.map_err(|e| format!("job {job} cannot be read: {e}"))?;
        let Some(row) = row.filter(|row| row.status != JobStatus::Prepared) else { return Ok(Found::NeverBegan) };
        let identity = row.record.identity;
        let found = match ctx.runner.placement.observe(&identity).await {
            Ok(Observed::Running | Observed::Idle | Observed::Ended(_)) => {
                match self.landing.repo.lane_runner.adopt(identity).wait().await {
                    Ok(finished) if finished.exit.end == JobEnd::Lost => Found::Unseen("its guard was lost".to_owned()),
                    // Its guard left without having been sent on.
                    Ok(finished) if finished.exit.started.is_none() => Found::NeverBegan,
                    Ok(finished) => Found::Ended(finished),
                    Err(error) => Found::Unseen(error.to_string()),
                }
            }
            Ok(Observed::Gone { evidence, .. }) => Found::Unseen(evidence),
            Err(error) => Found::Unseen(error.to_string()),
        };
        discard(&self.checkout_of(&window.id, job));
        Ok(found)
    }

    /// Health and status commands that an earlier supervisor began have their own end: none runs beside another.
    async fn aids_are_over(&self, window: &Window) -> Result<(), String> {
        let jobs = self.landing.ctx.store.live_jobs().await.map_err(|e| format!("jobs cannot be read: {e}"))?;
        let ours = |row: &orch_store::JobRow| {
            row.record.kind == JobKind::DeployAid && row.record.task.as_ref() == Some(&self.landing.task)
        };
        for row in jobs.into_iter().filter(ours) {
            let job = row.record.identity.job.clone();
            if let Err(error) = self.landing.repo.lane_runner.adopt(row.record.identity).wait().await {
                tracing::info!(task.id = %self.landing.task, %error, "the end of an earlier health command was not seen");
            }
            discard(&self.checkout_of(&window.id, &job));
        }
        // One whose end was recorded before anybody came here has left its checkout, too; by now nothing works in any.
        let prefix = format!("{}-", window.id);
        let folders = std::fs::read_dir(&self.landing.ctx.paths.checkouts).into_iter().flatten().flatten();
        folders.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).for_each(|entry| {
            discard(&entry.path());
        });
        Ok(())
    }

    /// The health command, until it is content or the time is over. The last word counts: whether it was content, or was
    /// kept from saying anything by trouble of ours, and is asked anew later.
    async fn health(&self, window: &WindowId, survivors: Option<&str>) -> Outcome {
        let Some(command) = self.landing.repo.settings.commands.health.clone() else { return Outcome::Deployed };
        self.landing.say("checking the health of the deploy");
        let (began, limit) = (Instant::now(), Duration::from(self.landing.repo.settings.limits.health));
        loop {
            let left = limit.saturating_sub(began.elapsed()).as_millis();
            let wall = Millis(u64::try_from(left).unwrap_or(u64::MAX)).clamp(LAST_LOOK, AID);
            let said = match self.command(window, mint("j"), JobKind::DeployAid, &command, wall).await {
                Ok(finished) => match &finished.exit.end {
                    end if end.is_success() => return Outcome::Deployed,
                    JobEnd::CouldNotStart { why } => Err(why.clone()),
                    JobEnd::Lost => Err("its guard was lost".to_owned()),
                    JobEnd::Cancelled | JobEnd::Orphaned => Err("it was ended by the supervisor".to_owned()),
                    JobEnd::TimedOut => Ok(format!("it hangs\n{}", finished.tail(TAIL).unwrap_or_default())),
                    JobEnd::Exited { .. } | JobEnd::Signalled { .. } | JobEnd::Stalled | JobEnd::OverLimit { .. } => {
                        Ok(finished.tail(TAIL).unwrap_or_default())
                    }
                },
                Err(error) => Err(error.to_string()),
            };
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return match said {
                    Ok(tail) => {
                        let survivors = survivors.map_or_else(String::new, |survivors| format!("\n{survivors}"));
                        let why = format!("the health check was not content in time{survivors}\n{tail}");
                        self.roll_back(window, why).await
                    }
                    Err(why) => Outcome::NotNow(format!("the health check could not run: {why}")),
                };
            }
            tokio::time::sleep(HEALTH_AGAIN.min(left)).await;
        }
    }

    /// Takes a failed deploy back, once: in a window of its own, so that whoever comes after a crash finds it.
    async fn roll_back(&self, deploy: &WindowId, why: String) -> Outcome {
        let Some(command) = self.landing.repo.settings.commands.rollback.clone() else { return Outcome::Failed(why) };
        let id: WindowId = mint("w");
        let window = self.window(&id, WindowKind::Rollback, json!({"deploy": deploy, "why": why}));
        match self.landing.ctx.store.open_window(window, self.landing.ctx.now()).await {
            Ok(()) => {}
            Err(error) => return Outcome::NotNow(format!("{why}\nno rollback yet: {error}")),
        }
        let outcome = self.run_rollback(&id, &command, why).await;
        self.close_rollback(&id, outcome).await
    }

    async fn run_rollback(&self, window: &WindowId, command: &str, why: String) -> Outcome {
        self.landing.say("rolling the deploy back");
        let job: JobId = mint("j");
        if let Err(error) = self.landing.ctx.store.set_window_job(window, self.epoch, &job).await {
            return Outcome::NotNow(format!("{why}\nno rollback yet: {error}"));
        }
        let limit = self.landing.repo.settings.limits.deploy;
        match self.command(window, job, JobKind::DeployAid, command, limit).await {
            Ok(finished) => rolled_back(&finished, why),
            Err(JobError::NotStarted { why: how, .. } | JobError::Refused { why: how, .. }) => {
                Outcome::NotNow(format!("{why}\nno rollback yet: {how}"))
            }
            Err(JobError::Unreachable { why: how, .. }) => {
                Outcome::Unknown(format!("{why}\nthe rollback's end was not seen: {how}"))
            }
        }
    }

    /// Records how a rollback ended, before its deploy's window is closed with the same words.
    async fn close_rollback(&self, window: &WindowId, outcome: Outcome) -> Outcome {
        let recorded = match &outcome {
            Outcome::Failed(why) => json!({"failed": why}),
            Outcome::Unknown(why) => json!({"unknown": why}),
            Outcome::Deployed | Outcome::NeverBegan | Outcome::NotBegun(_) | Outcome::NotNow(_) => return outcome,
        };
        match self.close(window, recorded).await {
            Ok(()) => outcome,
            Err(error) => Outcome::NotNow(format!("the rollback's outcome could not be recorded: {error}")),
        }
    }

    /// Nobody knows whether the deploy took effect: the status command is asked, if there is one.
    async fn ask_status(&self, window: &WindowId, why: &str) -> Outcome {
        let Some(command) = self.landing.repo.settings.commands.deploy_status.clone() else {
            return Outcome::Unknown(format!("the deploy's end was not seen ({why}); no deploy_status command is set"));
        };
        self.landing.say("asking whether the deploy took effect");
        match self.command(window, mint("j"), JobKind::DeployAid, &command, AID).await {
            Ok(finished) => match finished.exit.end {
                JobEnd::Exited { code: 0 } => self.health(window, None).await,
                JobEnd::Exited { code: 1 } => Outcome::NeverBegan,
                JobEnd::CouldNotStart { why: how } => Outcome::NotNow(format!("{why}; no deploy_status yet: {how}")),
                end => Outcome::Unknown(format!("{why}; deploy_status ended: {end}")),
            },
            Err(JobError::NotStarted { why: how, .. } | JobError::Refused { why: how, .. }) => {
                Outcome::NotNow(format!("{why}; no deploy_status yet: {how}"))
            }
            Err(error) => Outcome::Unknown(format!("{why}; the end of deploy_status was not seen: {error}")),
        }
    }

    /// One command of the repository in a clean checkout of what has landed.
    async fn command(
        &self,
        window: &WindowId,
        job: JobId,
        kind: JobKind,
        command: &str,
        wall: Millis,
    ) -> Result<FinishedJob, JobError> {
        let (ctx, repo) = (&self.landing.ctx, &self.landing.repo);
        let not_started = |why: String| JobError::NotStarted { job: job.clone(), why };
        let root = self.checkout_of(window, &job);
        let tree = root.join("tree");
        let private = PrivateDirs::under(&root);
        private.create(None).map_err(|e| not_started(format!("no folders at {}: {e}", root.display())))?;
        repo.lane_git.checkout(&self.landed.sha, &tree, None).await.map_err(|e| not_started(e.to_string()))?;
        let mut env = ctx.job_env(&private);
        env.extend(repo.settings.env.clone());
        env.insert(variables::SHA.to_owned(), self.landed.sha.to_string());
        env.insert(variables::TASK.to_owned(), self.task.key.to_string());
        let spec = JobSpec {
            id: job.clone(),
            kind,
            task: Some(self.landing.task.clone()),
            run: None,
            epoch: self.epoch,
            label: format!("{} of {} for {}", kind.as_str(), self.landed.sha.short(), self.task.key),
            argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()],
            cwd: tree,
            env,
            stdin: Vec::new(),
            limits: JobLimits { wall, grace: repo.settings.limits.grace, ..ctx.job_limits.of(kind) },
            // The operator's own command reaches whatever it deploys to.
            confinement: Confinement::default(),
            on_loss: kind.on_loss(Millis(0)),
        };
        let finished = match repo.lane_runner.start(spec).await {
            // It ran: whatever is said of its end, it is not that it did not.
            Ok(running) => running.wait().await.map_err(|error| match error {
                JobError::NotStarted { job, why } | JobError::Refused { job, why } => {
                    JobError::Unreachable { job, why }
                }
                unreachable => unreachable,
            }),
            Err(error) => Err(error),
        };
        discard(&root);
        finished
    }

    fn checkout_of(&self, window: &WindowId, job: &JobId) -> std::path::PathBuf {
        self.landing.ctx.paths.checkouts.join(format!("{window}-{job}"))
    }

    async fn close(&self, window: &WindowId, outcome: Value) -> Result<(), WindowError> {
        let close = WindowClose { id: window.clone(), epoch: self.epoch, outcome, landing: None };
        match self.landing.ctx.store.close_window(close, self.landing.ctx.now()).await {
            Ok(_) | Err(WindowError::AlreadyClosed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Records the outcome. `None`: the job never began, so a new window may be opened.
    async fn settle(&self, window: &WindowId, outcome: Outcome) -> Result<Option<DeployEnd>, Trouble> {
        let now = self.landing.ctx.now();
        let not_begun = |why: &str| json!({"deployed": false, "began": false, "failed": why});
        let recorded = match &outcome {
            Outcome::Deployed => json!({"deployed": true}),
            Outcome::Failed(why) => json!({"deployed": false, "failed": why}),
            Outcome::Unknown(why) => json!({"unknown": why}),
            Outcome::NeverBegan => not_begun("its job never began"),
            Outcome::NotBegun(why) => not_begun(why),
            Outcome::NotNow(why) => return Err(Trouble::Ours(why.clone())),
        };
        let closed = self.close(window, recorded).await;
        closed.map_err(|error| Trouble::Ours(format!("the deploy's outcome could not be recorded: {error}")))?;
        match outcome {
            Outcome::Deployed => Ok(Some(DeployEnd::Deployed { at: now })),
            Outcome::Failed(why) => Ok(Some(DeployEnd::Failed { why })),
            Outcome::Unknown(why) => Err(Trouble::Unseen(why)),
            Outcome::NotBegun(why) | Outcome::NotNow(why) => Err(Trouble::Ours(why)),
            Outcome::NeverBegan => Ok(None),
        }
    }
}

/// What to say of processes that a deploy command had left running: with its job they are ended.
fn left_running(swept: u32) -> Option<String> {
    let (processes, were) = if swept == 1 { ("process", "was") } else { ("processes", "were") };
    (swept > 0).then(|| {
        format!(
            "{swept} {processes} that the deploy command left running {were} ended with it; have what is to stay started \
             by a service manager or a container daemon"
        )
    })
}

fn rolled_back(finished: &FinishedJob, why: String) -> Outcome {
    match &finished.exit.end {
        end if end.is_success() => Outcome::Failed(format!("{why}\nrolled back")),
        JobEnd::CouldNotStart { why: how } => Outcome::NotNow(format!("{why}\nno rollback yet: {how}")),
        JobEnd::Lost => Outcome::Unknown(format!("{why}\nthe rollback's end was not seen: its guard was lost")),
        end => {
            let tail = finished.tail(TAIL).unwrap_or_default();
            Outcome::Failed(format!("{why}\nthe rollback failed too ({end})\n{tail}"))
        }
    }
}
