//! The deploy that belongs to a landing: at most once, attached to when found under way, honest when its outcome is unknown.
//!
//! Owns the deploy window: its intent, its job, the health check, the rollback, the question for the status. Invariants:
//! the job's id is recorded in the window before the job exists, so an interrupted deploy is always found; a deploy whose
//! job may have run is never run again without a person or the status command having said that it did not.

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
use orch_store::{NewWindow, Window, WindowClose, WindowError, WindowKind};
use serde_json::{Value, json};

use crate::artefacts::discard;
use crate::ids::mint;
use crate::landing::Landing;

/// Between two health checks.
const HEALTH_AGAIN: Duration = Duration::from_secs(2);
/// Longest run of one health or status command.
const AID: Millis = Millis::from_mins(1);
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
}

/// How a deploy ended, before it is recorded.
enum Outcome {
    Deployed,
    Failed(String),
    Unknown(String),
    /// Its job never began: a new one may.
    NeverBegan,
}

impl Deploy<'_> {
    pub(crate) async fn carry_out(&self) -> LandingEnd {
        match self.decide().await {
            Ok(deploy) => LandingEnd::Landed { landed: self.landed.clone(), deploy },
            Err(why) => LandingEnd::OutcomeUnknown { why, landed: Some(self.landed.clone()) },
        }
    }

    async fn decide(&self) -> Result<DeployEnd, String> {
        let Some(command) = self.landing.repo.settings.commands.deploy.clone() else {
            return Ok(DeployEnd::NotConfigured);
        };
        let store = &self.landing.ctx.store;
        let windows = store.windows_of(&self.landing.task).await.map_err(|e| e.to_string())?;
        let last = windows.into_iter().rfind(|w| w.kind == WindowKind::Deploy);
        match last {
            Some(window) if succeeded(&window) => return Ok(DeployEnd::Deployed { at: self.closed_at(&window) }),
            Some(window) if window.closed.is_none() => {
                self.landing.note("window-attached", format!("attached to the deploy window {}", window.id)).await;
                let outcome = self.attach(&window).await;
                if let Some(end) = self.settle(&window.id, outcome).await? {
                    return Ok(end);
                }
            }
            // The result of this very request, recorded just before a crash: it is told again, not done again.
            Some(window) if window.opened >= self.task.state.since() => return self.recorded(&window),
            Some(_) | None => {}
        }
        if self.task.policy.deploy == DeployMode::Approval
            && !self.task.is_approved(ApprovalOf::Deploy, &self.landed.sha)
        {
            return Ok(DeployEnd::AwaitingApproval);
        }
        let id: WindowId = mint("w");
        let window = NewWindow {
            id: id.clone(),
            kind: WindowKind::Deploy,
            repo: self.landing.repo.settings.name.clone(),
            task: self.landing.task.clone(),
            sha: self.landed.sha.clone(),
            expected: None,
            epoch: self.epoch,
        };
        match store.open_window(window, self.landing.ctx.now()).await {
            Ok(()) => {}
            Err(WindowError::StopRecorded) => {
                return Ok(DeployEnd::Failed { why: "not begun: a STOP was recorded before it".to_owned() });
            }
            Err(error) => return Ok(DeployEnd::Failed { why: format!("not begun: {error}") }),
        }
        let outcome = self.run(&id, &command).await;
        match self.settle(&id, outcome).await? {
            Some(end) => Ok(end),
            None => Ok(DeployEnd::Failed { why: "the deploy command could not be started".to_owned() }),
        }
    }

    fn closed_at(&self, window: &Window) -> Timestamp {
        window.closed.unwrap_or_else(|| self.landing.ctx.now())
    }

    fn recorded(&self, window: &Window) -> Result<DeployEnd, String> {
        let text =
            |name: &str| window.outcome.as_ref().and_then(|o| o.get(name)).and_then(Value::as_str).map(str::to_owned);
        match text("unknown") {
            Some(why) => Err(why),
            None => Ok(DeployEnd::Failed { why: text("failed").unwrap_or_else(|| "it failed".to_owned()) }),
        }
    }

    /// Runs the deploy command once.
    async fn run(&self, window: &WindowId, command: &str) -> Outcome {
        self.landing.say("deploying");
        let job: JobId = mint("j");
        let store = &self.landing.ctx.store;
        if let Err(error) = store.set_window_job(window, self.epoch, &job).await {
            return Outcome::Failed(format!("not begun: {error}"));
        }
        let limit = self.landing.repo.settings.limits.deploy;
        match self.command(window, job, JobKind::Deploy, command, limit).await {
            Ok(finished) => self.judge(window, finished).await,
            Err(JobError::NotStarted { why, .. } | JobError::Refused { why, .. }) => {
                Outcome::Failed(format!("not begun: {why}"))
            }
            Err(JobError::Unreachable { why, .. }) => self.ask_status(window, &why).await,
        }
    }

    async fn judge(&self, window: &WindowId, finished: FinishedJob) -> Outcome {
        let tail = finished.tail(TAIL).unwrap_or_default();
        match finished.exit.end {
            JobEnd::Exited { code: 0 } => self.health(window).await,
            JobEnd::Exited { code } => self.roll_back(window, format!("exit code {code}\n{tail}")).await,
            JobEnd::CouldNotStart { why } => Outcome::Failed(why),
            JobEnd::TimedOut => self.roll_back(window, format!("its time was over\n{tail}")).await,
            other => self.ask_status(window, &format!("it ended with {other:?}")).await,
        }
    }

    /// Looks after a deploy that an earlier supervisor began.
    async fn attach(&self, window: &Window) -> Outcome {
        let Some(job) = &window.job else { return Outcome::NeverBegan };
        let ctx = &self.landing.ctx;
        let row = match ctx.store.job(job).await {
            Ok(Some(row)) => row,
            Ok(None) => return Outcome::NeverBegan,
            Err(error) => return Outcome::Unknown(format!("the deploy's job cannot be read: {error}")),
        };
        let identity = row.record.identity;
        let observed = ctx.runner.placement.observe(&identity).await;
        match (observed, row.status) {
            (_, JobStatus::Prepared) => Outcome::NeverBegan,
            (Ok(Observed::Running | Observed::Idle | Observed::Ended(_)), _) => {
                match self.landing.repo.lane_runner.adopt(identity).wait().await {
                    Ok(finished) => self.judge(&window.id, finished).await,
                    Err(error) => self.ask_status(&window.id, &error.to_string()).await,
                }
            }
            (Ok(Observed::Gone { evidence, .. }), _) => self.ask_status(&window.id, &evidence).await,
            (Err(error), _) => self.ask_status(&window.id, &error.to_string()).await,
        }
    }

    /// The health command, until it is content or the time is over.
    async fn health(&self, window: &WindowId) -> Outcome {
        let Some(command) = self.landing.repo.settings.commands.health.clone() else { return Outcome::Deployed };
        self.landing.say("checking the health of the deploy");
        let deadline = self.landing.ctx.now().after(self.landing.repo.settings.limits.health);
        loop {
            let said = match self.command(window, mint("j"), JobKind::DeployAid, &command, AID).await {
                Ok(finished) if finished.exit.end.is_success() => return Outcome::Deployed,
                Ok(finished) => finished.tail(TAIL).unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            if self.landing.ctx.now() >= deadline {
                return self.roll_back(window, format!("the health check was not content in time\n{said}")).await;
            }
            tokio::time::sleep(HEALTH_AGAIN).await;
        }
    }

    async fn roll_back(&self, window: &WindowId, why: String) -> Outcome {
        let Some(command) = self.landing.repo.settings.commands.rollback.clone() else { return Outcome::Failed(why) };
        self.landing.say("rolling the deploy back");
        let limit = self.landing.repo.settings.limits.deploy;
        match self.command(window, mint("j"), JobKind::DeployAid, &command, limit).await {
            Ok(finished) if finished.exit.end.is_success() => Outcome::Failed(format!("{why}\nrolled back")),
            Ok(finished) => {
                let tail = finished.tail(TAIL).unwrap_or_default();
                Outcome::Failed(format!("{why}\nthe rollback failed too ({:?})\n{tail}", finished.exit.end))
            }
            Err(error) => Outcome::Failed(format!("{why}\nthe rollback could not run: {error}")),
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
                JobEnd::Exited { code: 0 } => self.health(window).await,
                JobEnd::Exited { code: 1 } => Outcome::NeverBegan,
                end => Outcome::Unknown(format!("{why}; deploy_status ended with {end:?}")),
            },
            Err(error) => Outcome::Unknown(format!("{why}; deploy_status could not run: {error}")),
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
        let root = ctx.paths.checkouts.join(format!("{window}-{job}"));
        let tree = root.join("tree");
        let private = PrivateDirs::under(&root);
        private.create(None).map_err(|e| not_started(format!("no folders at {}: {e}", root.display())))?;
        repo.lane_git.checkout(&self.landed.sha, &tree, None).await.map_err(|e| not_started(e.to_string()))?;
        let mut env = ctx.job_env(&private);
        env.extend(repo.settings.env.clone());
        env.insert("ORCH_SHA".to_owned(), self.landed.sha.to_string());
        env.insert("ORCH_TASK".to_owned(), self.task.key.to_string());
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
            limits: JobLimits { wall, grace: repo.settings.limits.grace, ..JobLimits::default() },
            // The operator's own command reaches whatever it deploys to.
            confinement: Confinement::default(),
            on_loss: kind.on_loss(Millis(0)),
        };
        let finished = match repo.lane_runner.start(spec).await {
            Ok(job) => job.wait().await,
            Err(error) => Err(error),
        };
        discard(&root);
        finished
    }

    /// Records the outcome. `None`: the job never began, so a new window may be opened.
    async fn settle(&self, window: &WindowId, outcome: Outcome) -> Result<Option<DeployEnd>, String> {
        let now = self.landing.ctx.now();
        let recorded = match &outcome {
            Outcome::Deployed => json!({"deployed": true}),
            Outcome::Failed(why) => json!({"deployed": false, "failed": why}),
            Outcome::Unknown(why) => json!({"unknown": why}),
            Outcome::NeverBegan => json!({"deployed": false, "failed": "its job never began"}),
        };
        let close =
            WindowClose { id: window.clone(), epoch: self.epoch, outcome: recorded, landing: None, baseline: None };
        match self.landing.ctx.store.close_window(close, now).await {
            Ok(_) | Err(WindowError::AlreadyClosed) => {}
            Err(error) => return Err(format!("the deploy's outcome could not be recorded: {error}")),
        }
        match outcome {
            Outcome::Deployed => Ok(Some(DeployEnd::Deployed { at: now })),
            Outcome::Failed(why) => Ok(Some(DeployEnd::Failed { why })),
            Outcome::Unknown(why) => Err(why),
            Outcome::NeverBegan => Ok(None),
        }
    }
}
