//! Carrying out a STOP: the steps of DESIGN 5 for one task, as a side task of its TaskActor.
//!
//! Owns the order, the proofs and the receipt. Every step is idempotent: after a crash the whole is carried out again and
//! finds less to do. A step that fails is recorded as such and the others go on. Refuses to cut an irreversible step: it
//! waits for the lane's honest end first.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use orch_adapters::git::{BranchDeletion, Owner, RepoGit, TaskBranch};
use orch_domain::event::Event;
use orch_domain::ids::{CommitSha, RunId};
use orch_domain::names::RepoName;
use orch_domain::stop::{Level, ReceiptLine, StepResult, StopStep};
use orch_domain::task::{Landed, Task};
use orch_store::{Landing, Window, WindowKind};
use ractor::{ActorRef, ActorStatus};
use tokio::sync::oneshot;

use crate::agent::AgentMsg;
use crate::artefacts::{Kept, discard, salvage_or_quarantine};
use crate::context::Context;
use crate::deploy;
use crate::directory::Directory;
use crate::lane::LaneMsg;
use crate::settle::{settle_job, settle_jobs};
use crate::task::TaskMsg;

/// Longest wait for an actor to end by itself before it is killed.
const ACTOR_WAIT: Duration = Duration::from_secs(120);
/// Between two questions to a lane that did not answer.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The steps are somebody else's now.
struct Abandoned;

/// Why the task is not closed by these steps.
enum Cut {
    /// They are somebody else's now.
    Abandoned,
    /// An irreversible step is open and nobody can bring it to its end: the task stays `stopping`.
    WindowOpen,
}

impl From<Abandoned> for Cut {
    fn from(_: Abandoned) -> Self {
        Self::Abandoned
    }
}

/// One STOP to be carried out.
pub struct StopSaga {
    /// Shared.
    pub ctx: Arc<Context>,
    /// Addresses.
    pub directory: Directory,
    /// The task as stored, its STOP recorded.
    pub task: Task,
    /// The actor of the run under way, if there is one.
    pub agent: Option<ActorRef<AgentMsg>>,
    /// The TaskActor.
    pub actor: ActorRef<TaskMsg>,
}

impl StopSaga {
    /// Carries out all steps, then tells the TaskActor to close the task, then proves that it ended.
    pub async fn carry_out(self) {
        let mark = self.task.stop.clone();
        let proof = mark.map_or_else(String::new, |m| format!("by {} from {} at {}", m.by, m.source, m.at));
        self.line(StopStep::Recorded, StepResult::Done { proof }).await;
        let landed = match self.wait_for_window().await {
            Ok(landed) => landed,
            Err(Cut::Abandoned) => {
                tracing::debug!(task.id = %self.task.id, "the actor of a stopped task ended early; its successor goes on");
                return;
            }
            Err(Cut::WindowOpen) => {
                tracing::error!(task.id = %self.task.id, "a stopped task has an open window and no repository; it stays");
                self.end_agent().await;
                self.step(StopStep::Jobs, self.end_jobs()).await;
                return;
            }
        };
        let agent_ended = self.end_agent().await;
        self.step(StopStep::Jobs, self.end_jobs()).await;
        self.step(StopStep::Lease, self.check_lease()).await;
        let git = self.ctx.repo(&self.task.repo).map(|repo| repo.git.for_owner(self.owner()));
        // Only what is known to be kept elsewhere is let go of: a panic in the step leaves the refs, too.
        let kept = AtomicBool::new(false);
        let clearing = async { kept.store(self.clear_workspaces(git.as_ref()).await, Ordering::Relaxed) };
        self.step(StopStep::Workspace, clearing).await;
        self.step(StopStep::RemoteBranch, self.remove_branch(git.as_ref())).await;
        if let Some(git) = git.as_ref().filter(|_| kept.load(Ordering::Relaxed))
            && let Err(error) = git.drop_refs(&self.task.id).await
        {
            tracing::debug!(task.id = %self.task.id, %error, "refs of a stopped task stay until the next clean-up");
        }
        // `done` only when nothing at all was left to stop: landed, and no deploy open or owed.
        let finished = landed.filter(|(_, complete)| *complete).map(|(landed, _)| landed);
        let event = Event::StopCarriedOut { finished };
        if self.actor.cast(TaskMsg::StopSagaEnded { event: Box::new(event) }).is_err() {
            tracing::warn!(task.id = %self.task.id, "the actor of a stopped task ended early; its successor goes on");
            return;
        }
        self.prove_actors(agent_ended).await;
    }

    /// One step: a panic inside it is recorded, and the other steps go on.
    async fn step(&self, step: StopStep, work: impl Future<Output = ()>) {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            tracing::error!(task.id = %self.task.id, step = step.as_str(), "a step of a STOP panicked");
            let why = "this step failed inside the supervisor, which is a bug; the others went on".to_owned();
            self.line(step, StepResult::Unproven { why }).await;
        }
    }

    fn owner(&self) -> Owner {
        // Steps of a STOP have no fence of their own: they must work whoever owns the row.
        Owner::default()
    }

    async fn line(&self, step: StopStep, result: StepResult) {
        let line = ReceiptLine { step, at: self.ctx.now(), result };
        if let Err(error) = self.ctx.store.put_receipt_line(&self.task.id, line).await {
            tracing::error!(task.id = %self.task.id, %error, step = step.as_str(), "a receipt line could not be written");
        }
    }

    /// Asks the lane to let go of the task, and waits until it has: queued tasks leave at once, a landing ends at its
    /// next border, an irreversible step ends honestly. Returns what has landed, and whether nothing is left to do.
    async fn wait_for_window(&self) -> Result<Option<(Landed, bool)>, Cut> {
        let Some(repo) = self.ctx.repo(&self.task.repo) else { return self.look_at_window().await };
        let let_go = |reply| LaneMsg::LetGo { task: self.task.id.clone(), reply };
        let mut answer = self.ask_lane(&repo.settings.name, let_go).await?;
        let windows = loop {
            let windows = self.windows().await?;
            if windows.iter().all(|w| w.closed.is_some()) {
                break windows;
            }
            // An intent that was sent is always waited for: the lane brings it to its honest end.
            let (task, key) = (self.task.id.clone(), self.task.key.clone());
            let finish = |reply| LaneMsg::Finish { task: task.clone(), key: key.clone(), reply };
            answer = self.ask_lane(&repo.settings.name, finish).await?;
            tokio::time::sleep(ASK_AGAIN).await;
        };
        let landed = self.landing().await?;
        let result = match (&landed, windows.is_empty()) {
            (Some(landing), _) => StepResult::Done {
                proof: format!("waited for its landing to end: {} is on main, verified", landing.sha),
            },
            (None, true) => StepResult::Nothing { proof: format!("no irreversible step was begun ({answer})") },
            (None, false) => StepResult::Done { proof: format!("the step under way ended without landing ({answer})") },
        };
        self.line(StopStep::Window, result).await;
        Ok(landed.map(|landing| (of(landing), repo.settings.commands.deploy.is_none() || is_deployed(&windows))))
    }

    /// The same for a repository that is not configured any more: it has no lane, so an open window stays open.
    async fn look_at_window(&self) -> Result<Option<(Landed, bool)>, Cut> {
        let windows = self.windows().await?;
        if windows.iter().any(|w| w.closed.is_none()) {
            let why = format!(
                "an irreversible step is open and its repository `{}` is not configured, so nobody can see how it \
                 ended; put the repository back into the settings and restart",
                self.task.repo
            );
            self.line(StopStep::Window, StepResult::Unproven { why }).await;
            return Err(Cut::WindowOpen);
        }
        let landed = self.landing().await?;
        let proof = match &landed {
            Some(landing) => format!("its repository is not configured; {} had landed", landing.sha),
            None => "its repository is not configured, and no irreversible step is open".to_owned(),
        };
        self.line(StopStep::Window, StepResult::Nothing { proof }).await;
        // Whether a deploy was owed is in the settings that are gone; one that was begun has to have succeeded.
        let begun = windows.iter().any(|w| w.kind == WindowKind::Deploy);
        Ok(landed.map(|landing| (of(landing), !begun || is_deployed(&windows))))
    }

    /// The task's windows: asked for until they can be read, since an error is no proof that there are none.
    async fn windows(&self) -> Result<Vec<Window>, Abandoned> {
        loop {
            match self.ctx.store.windows_of(&self.task.id).await {
                Ok(windows) => return Ok(windows),
                Err(error) => {
                    tracing::warn!(task.id = %self.task.id, %error, "the windows of a stopped task could not be read");
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
            self.still_wanted()?;
        }
    }

    /// What has landed of the task, asked for as [`Self::windows`] are.
    async fn landing(&self) -> Result<Option<Landing>, Abandoned> {
        loop {
            match self.ctx.store.landing_of(&self.task.id).await {
                Ok(landing) => return Ok(landing),
                Err(error) => {
                    tracing::warn!(task.id = %self.task.id, %error, "the landing of a stopped task could not be read");
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
            self.still_wanted()?;
        }
    }

    /// Asks the lane until it has answered: asking again is safe, and it may be in a restart.
    async fn ask_lane(
        &self,
        repo: &RepoName,
        message: impl Fn(oneshot::Sender<String>) -> LaneMsg,
    ) -> Result<String, Abandoned> {
        loop {
            let (reply, answer) = oneshot::channel();
            if self.directory.tell_lane(repo, message(reply))
                && let Ok(answer) = answer.await
            {
                return Ok(answer);
            }
            tokio::time::sleep(ASK_AGAIN).await;
            self.still_wanted()?;
        }
    }

    /// A TaskActor that ended early has a successor, which carries the STOP out anew: in this process, or in the next.
    fn still_wanted(&self) -> Result<(), Abandoned> {
        match self.actor.get_status() {
            ActorStatus::Stopped => Err(Abandoned),
            _ => Ok(()),
        }
    }

    /// Ends the run's actor; returns how that is known.
    async fn end_agent(&self) -> String {
        let Some(agent) = &self.agent else { return "no AgentActor was running".to_owned() };
        if agent.cast(AgentMsg::End { level: Level::Cancel }).is_err() {
            return "the AgentActor had ended".to_owned();
        }
        if agent.wait(Some(ACTOR_WAIT)).await.is_ok() {
            return "the AgentActor has ended".to_owned();
        }
        agent.kill();
        match agent.wait(Some(ACTOR_WAIT)).await {
            Ok(()) => "the AgentActor was killed and has ended".to_owned(),
            Err(_) => "the AgentActor could not be seen to end".to_owned(),
        }
    }

    async fn end_jobs(&self) {
        let mut unproven = Vec::new();
        let queued = match self.ctx.store.cancel_queued_jobs(&self.task.id, self.ctx.now()).await {
            Ok(queued) => queued,
            Err(error) => {
                unproven.push(format!("its prepared jobs could not be cancelled: {error}"));
                Vec::new()
            }
        };
        let cancelled = queued.len();
        // They never got their `go`, but their guards are there until they are told.
        for job in queued {
            match self.ctx.store.job(&job).await {
                Ok(Some(row)) => unproven.extend(settle_job(&self.ctx, row).await),
                Ok(None) => {}
                Err(error) => unproven.push(format!("job {job} could not be read: {error}")),
            }
        }
        if let Some(gates) = self.directory.gates() {
            gates.cancel_for(&self.task.id).await;
        }
        unproven.extend(settle_jobs(&self.ctx, &self.task.id).await);
        let jobs = match self.ctx.store.jobs_of(&self.task.id).await {
            Ok(jobs) => jobs,
            Err(error) => {
                let why = format!("the jobs could not be read: {error}");
                self.line(StopStep::Jobs, StepResult::Unproven { why: why.clone() }).await;
                return self.line(StopStep::Processes, StepResult::Unproven { why }).await;
            }
        };
        let live = jobs.iter().filter(|j| j.status.is_live()).count();
        let ended = jobs.len() - live;
        let proof = format!("{live} live, {ended} ended, {cancelled} cancelled before they began");
        let jobs_result = match live {
            0 => StepResult::Done { proof },
            _ => StepResult::Unproven { why: proof },
        };
        self.line(StopStep::Jobs, jobs_result).await;
        let doubtful: Vec<String> = jobs
            .iter()
            .filter(|j| j.exit.as_ref().is_some_and(|e| !e.proven_gone))
            .map(|j| format!("job {}", j.record.identity.job))
            .chain(unproven)
            .collect();
        let processes = match doubtful.is_empty() {
            true => StepResult::Done {
                proof: format!("0 processes: each of {ended} shims reported that nothing of its job is left"),
            },
            false => StepResult::Unproven { why: doubtful.join("; ") },
        };
        self.line(StopStep::Processes, processes).await;
    }

    async fn check_lease(&self) {
        let held = self.ctx.store.leases().await.map(|leases| {
            // Only of this task; another's lease says nothing.
            leases.iter().any(|l| l.holder.task.as_ref() == Some(&self.task.id))
        });
        let result = match held {
            Ok(false) => StepResult::Done { proof: "no lease names the task".to_owned() },
            Ok(true) => StepResult::Unproven { why: "the lane still holds its lease for the task".to_owned() },
            Err(error) => StepResult::Unproven { why: format!("the leases could not be read: {error}") },
        };
        self.line(StopStep::Lease, result).await;
    }

    /// Commits that were taken out of workspaces and are not on main: kept in the vault. Returns the salvage's id, if
    /// there was anything to keep.
    async fn keep_commits(&self, git: &RepoGit) -> Result<Option<String>, String> {
        let mut found: Vec<CommitSha> = self.task.head.iter().cloned().collect();
        for n in (1..=self.task.counters.runs).rev() {
            // Also of a run whose result came too late to be recorded.
            let run = self.task.run_id(n);
            found.extend(git.imported_head(&self.task.id, &run).await.map_err(|e| e.to_string())?);
        }
        if found.is_empty() {
            return Ok(None);
        }
        let mut known: Vec<CommitSha> = Vec::new();
        let repo = self.ctx.repo(&self.task.repo).ok_or_else(|| "its repository is not configured".to_owned())?;
        // A main that cannot be seen is none that has them.
        if let Ok(main) = repo.main().await
            && let Ok(at) = git.fetch_main(&main).await
        {
            known.push(at);
        }
        let on_main = known.len();
        for head in found {
            let mut has = false;
            for have in &known {
                has |= git.contains(&head, have).await.map_err(|e| e.to_string())?;
            }
            if !has {
                known.push(head);
            }
        }
        let heads = &known[on_main..];
        if heads.is_empty() {
            return Ok(None);
        }
        // Number 0 is no run: what all of them have committed.
        let of = (&self.task.key, self.task.generation, &self.task.run_id(0));
        git.keep_commits(of, heads, self.ctx.now()).await.map(|kept| Some(kept.id)).map_err(|e| e.to_string())
    }

    /// Keeps what was nowhere else, then removes every workspace of this life. Returns whether all commits are kept, so
    /// that the refs that hold them may go.
    async fn clear_workspaces(&self, git: Option<&RepoGit>) -> bool {
        let commits = match git {
            Some(git) => self.keep_commits(git).await,
            None => Ok(None),
        };
        let (mut kept, mut aside, mut stuck, mut removed) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for n in 1..=self.task.counters.runs {
            let run: RunId = self.task.run_id(n);
            let root = self.ctx.paths.workspaces.join(run.as_str());
            if !root.exists() {
                continue;
            }
            removed += 1;
            let Some(git) = git.filter(|_| root.join("tree").exists()) else {
                discard(&root);
                continue;
            };
            match salvage_or_quarantine(&self.ctx, git, &self.task, &run, &root, "the task was stopped").await {
                Kept::Salvaged(id) => kept.push(id),
                Kept::Quarantined { path, why } => aside.push(format!("{} ({why})", path.display())),
                Kept::Stuck(why) => stuck.push(why),
            }
        }
        if let Ok(Some(id)) = &commits {
            kept.push(format!("{id} (commits)"));
        }
        let salvaged = match kept.is_empty() {
            true => String::new(),
            false => format!("kept as {}", kept.join(", ")),
        };
        let salvage = match (&commits, kept.is_empty(), aside.is_empty()) {
            (Err(why), ..) => StepResult::Kept {
                because: [
                    format!("its commits could not be put into the vault and stay in the repository's refs: {why}"),
                    salvaged,
                    aside.join(", "),
                ]
                .join("; "),
            },
            (Ok(_), true, true) => StepResult::Nothing { proof: "no workspace held anything".to_owned() },
            (Ok(_), false, true) => StepResult::Done { proof: salvaged },
            (Ok(_), _, false) => StepResult::Kept {
                because: format!("could not be salvaged; aside at {}; {salvaged}", aside.join(", ")),
            },
        };
        self.line(StopStep::Salvage, salvage).await;
        let workspace = match (stuck.is_empty(), removed) {
            (true, 0) => StepResult::Nothing { proof: "there was no workspace".to_owned() },
            (true, n) => StepResult::Done { proof: format!("{n} gone, {} of them quarantined", aside.len()) },
            (false, _) => StepResult::Unproven { why: stuck.join("; ") },
        };
        self.line(StopStep::Workspace, workspace).await;
        commits.is_ok()
    }

    /// Deletes our branch at the forge, at a commit that we know; anything else is a person's work.
    async fn remove_branch(&self, git: Option<&RepoGit>) {
        let result = match git {
            None => StepResult::Pending { why: not_configured(&self.task) },
            Some(git) => remove_task_branch(&self.ctx, git, &self.task).await,
        };
        self.line(StopStep::RemoteBranch, result).await;
    }

    /// After the task's row is closed: the receipt's last lines.
    async fn prove_actors(&self, agent: String) {
        let ended = self.actor.wait(Some(ACTOR_WAIT)).await.is_ok();
        let stored = self.ctx.store.look_at_task(&self.task.id).await.ok().flatten();
        let tombstone = match stored.filter(|s| s.task.is_terminal()) {
            Some(stored) => StepResult::Done { proof: format!("{} is closed; its keys are free", stored.task.key) },
            None => StepResult::Unproven { why: "the task's row is not closed".to_owned() },
        };
        self.line(StopStep::Tombstone, tombstone).await;
        let actors = match ended {
            true => StepResult::Done { proof: format!("the TaskActor has ended; {agent}") },
            false => StepResult::Unproven { why: format!("the TaskActor was not seen to end; {agent}") },
        };
        self.line(StopStep::Actors, actors).await;
    }
}

/// Why nobody could look for a task's branch.
pub(crate) fn not_configured(task: &Task) -> String {
    format!("its repository `{}` is not configured, so nobody can look for {}", task.repo, task.branch())
}

fn of(landing: Landing) -> Landed {
    Landed { sha: landing.sha, tree: landing.tree, at: landing.at }
}

fn is_deployed(windows: &[Window]) -> bool {
    windows.iter().any(|w| w.kind == WindowKind::Deploy && deploy::succeeded(w))
}

/// Deletes the branch of a life at the forge if it is at a commit of ours.
pub async fn remove_task_branch(ctx: &Context, git: &RepoGit, task: &Task) -> StepResult {
    let pending = |why: String| StepResult::Pending { why };
    let Some(repo) = ctx.repo(&task.repo) else {
        return pending(format!("repository `{}` is not configured any more", task.repo));
    };
    let protected = match repo.forge.protected().await {
        Ok(protected) => protected,
        Err(error) => return pending(error.to_string()),
    };
    let branch = match TaskBranch::new(task.branch(), &protected) {
        Ok(branch) => branch,
        Err(error) => return StepResult::Kept { because: error.to_string() },
    };
    let at = match git.remote_head(branch.name()).await {
        Ok(None) => return StepResult::Nothing { proof: format!("the forge has no branch {}", branch.name()) },
        Ok(Some(at)) => at,
        Err(error) => return pending(error.to_string()),
    };
    match git.has_commit(&at).await {
        Ok(true) => {}
        Ok(false) => {
            let because = format!("{} is at {}, which is nothing of ours: a person's work", branch.name(), at.short());
            return StepResult::Kept { because };
        }
        Err(error) => return pending(error.to_string()),
    }
    match git.delete_task_branch(&branch, &at).await {
        Ok(BranchDeletion::Gone) => {
            StepResult::Done { proof: format!("{} was at {}, gone", branch.name(), at.short()) }
        }
        Ok(BranchDeletion::Kept { at }) => StepResult::Kept {
            because: format!("{} was moved to {} by somebody else in between", branch.name(), at.short()),
        },
        Ok(BranchDeletion::Refused { why }) => StepResult::Kept { because: format!("the forge refuses: {why}") },
        Ok(BranchDeletion::Unknown { why }) => pending(why),
        Err(error) => pending(error.to_string()),
    }
}
