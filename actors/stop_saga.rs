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
use orch_adapters::git::{BranchDeletion, Owner, RepoGit, Salvage, TaskBranch};
use orch_domain::event::Event;
use orch_domain::ids::{CommitSha, RunId};
use orch_domain::names::{BranchName, RepoName};
use orch_domain::stop::{Level, ReceiptLine, StepResult, StopStep};
use orch_domain::task::{Landed, Task};
use orch_store::{Landing, Window, WindowKind};
use ractor::{ActorRef, ActorStatus};
use tokio::sync::oneshot;

use crate::agent::AgentMsg;
use crate::artefacts::{Kept, discard, put_aside, quarantined, salvage_or_quarantine};
use crate::context::Context;
use crate::deploy;
use crate::directory::Directory;
use crate::lane::LaneMsg;
use crate::merged::landed_of;
use crate::settle::{named, settle_job, settle_jobs};
use crate::task::TaskMsg;

mod words;

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
        // How it stood there depends on the moment, and after a crash on the next one: the receipt says what holds at any.
        let answer = self.ask_lane(&repo.settings.name, let_go).await?;
        tracing::debug!(task.id = %self.task.id, "the lane has let go of a stopped task: {answer}");
        let windows = loop {
            let windows = self.windows().await?;
            if windows.iter().all(|w| w.closed.is_some()) {
                break windows;
            }
            // An intent that was sent is always waited for: the lane brings it to its honest end.
            let (task, key) = (self.task.id.clone(), self.task.key.clone());
            let finish = |reply| LaneMsg::Finish { task: task.clone(), key: key.clone(), reply };
            self.ask_lane(&repo.settings.name, finish).await?;
            tokio::time::sleep(ASK_AGAIN).await;
        };
        let landed = self.landing().await?;
        let result = match (&landed, windows.is_empty()) {
            (Some(landing), _) => StepResult::Done {
                proof: format!(
                    "its landing has ended: {} is on {}, verified; {}",
                    landing.sha,
                    self.task.main_name(),
                    words::of_deploy(&windows, repo.settings.commands.deploy.is_some())
                ),
            },
            (None, true) => StepResult::Nothing { proof: "no irreversible step was begun".to_owned() },
            (None, false) => StepResult::Done { proof: "the step under way has ended, and nothing landed".to_owned() },
        };
        self.line(StopStep::Window, result).await;
        Ok(landed.map(|landing| (landed_of(landing), repo.settings.commands.deploy.is_none() || is_deployed(&windows))))
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
        Ok(landed.map(|landing| (landed_of(landing), !begun || is_deployed(&windows))))
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

    /// Ends the run's actor; returns whether it is known to have ended.
    async fn end_agent(&self) -> bool {
        let Some(agent) = &self.agent else { return true };
        if agent.cast(AgentMsg::End { level: Level::Cancel }).is_err() || agent.wait(Some(ACTOR_WAIT)).await.is_ok() {
            return true;
        }
        tracing::warn!(task.id = %self.task.id, "the AgentActor of a stopped task does not end by itself: it is killed");
        agent.kill();
        agent.wait(Some(ACTOR_WAIT)).await.is_ok()
    }

    async fn end_jobs(&self) {
        let mut unproven = Vec::new();
        if let Err(error) = self.ctx.store.cancel_queued_jobs(&self.task.id, self.ctx.now()).await {
            unproven.push(format!("its prepared jobs could not be cancelled: {error}"));
        }
        // They never got their `go`, but their guards are there until they are told: also those that were cancelled by a
        // supervisor which ended before it could tell them.
        match self.ctx.store.jobs_of(&self.task.id).await {
            Ok(jobs) => {
                let untold = jobs.into_iter().filter(|job| !job.status.is_live() && job.exit.is_none());
                for job in untold.filter(|job| !job.record.kind.is_window()) {
                    unproven.extend(settle_job(&self.ctx, job).await);
                }
            }
            Err(error) => unproven.push(format!("its prepared jobs could not be read: {error}")),
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
        let jobs_result = match jobs.iter().any(|job| job.status.is_live()) {
            false => StepResult::Done { proof: words::of_jobs(&jobs) },
            true => StepResult::Unproven { why: words::of_jobs(&jobs) },
        };
        self.line(StopStep::Jobs, jobs_result).await;
        let doubtful: Vec<String> = jobs
            .iter()
            .filter(|j| j.exit.as_ref().is_some_and(|e| !e.proven_gone))
            .map(|j| format!("{}: it ended, but not everything of it is proven gone", named(&j.record)))
            .chain(unproven)
            .collect();
        let processes = match doubtful.is_empty() {
            true => StepResult::Done { proof: words::of_processes(&jobs) },
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
    /// that the refs that hold them may go. What the receipt names is looked up in the end, not remembered: a supervisor
    /// that ended in the middle of this leaves the same.
    async fn clear_workspaces(&self, git: Option<&RepoGit>) -> bool {
        let commits = match git {
            Some(git) => self.keep_commits(git).await,
            None if self.task.head.is_some() => Err(format!("its repository `{}` is not configured", self.task.repo)),
            None => Ok(None),
        };
        let (mut kept, mut stuck) = (Vec::new(), Vec::new());
        for n in 1..=self.task.counters.runs {
            let run: RunId = self.task.run_id(n);
            let root = self.ctx.paths.workspaces.join(run.as_str());
            if !root.exists() {
                continue;
            }
            if !root.join("tree").exists() {
                discard(&root);
                continue;
            }
            let why = "the task was stopped";
            let outcome = match git {
                Some(git) => salvage_or_quarantine(&self.ctx, git, &self.task, &run, &root, why).await,
                None => {
                    let failed = format!("its repository `{}` is not configured", self.task.repo);
                    put_aside(&self.ctx, &self.task, &run, &root, why, &failed).await
                }
            };
            match outcome {
                Kept::Salvaged(id) => kept.push(id),
                Kept::Quarantined { .. } => {}
                Kept::Stuck(why) => stuck.push(why),
            }
        }
        kept.extend(commits.iter().flatten().cloned());
        if let Some(git) = git {
            match git.list_salvage().await {
                Ok(all) => kept = self.mine(all),
                Err(error) => tracing::warn!(task.id = %self.task.id, %error, "the vault could not be read again"),
            }
        }
        let aside = self.aside();
        let salvaged = match kept.is_empty() {
            true => String::new(),
            false => format!("kept as {}", kept.join(", ")),
        };
        let mut elsewhere = Vec::new();
        elsewhere.extend((!aside.is_empty()).then(|| format!("aside at {}", aside.join(", "))));
        elsewhere.extend((!stuck.is_empty()).then(|| format!("left in its place, since {}", stuck.join("; "))));
        elsewhere.extend((!salvaged.is_empty()).then(|| salvaged.clone()));
        let salvage = match (&commits, kept.is_empty(), aside.is_empty() && stuck.is_empty()) {
            (Err(why), ..) => {
                let stay = "its commits could not be put into the vault and stay in the repository's refs";
                elsewhere.insert(0, format!("{stay}: {why}"));
                StepResult::Kept { because: elsewhere.join("; ") }
            }
            (Ok(_), true, true) => StepResult::Nothing { proof: "no workspace held anything".to_owned() },
            (Ok(_), false, true) => StepResult::Done { proof: salvaged },
            (Ok(_), _, false) => {
                StepResult::Kept { because: format!("could not be salvaged; {}", elsewhere.join("; ")) }
            }
        };
        self.line(StopStep::Salvage, salvage).await;
        let workspace = match (stuck.is_empty(), self.task.counters.runs) {
            (true, 0) => StepResult::Nothing { proof: "it never had a workspace".to_owned() },
            (true, runs) => {
                StepResult::Done { proof: format!("none is left of {runs} runs; {} in quarantine", aside.len()) }
            }
            (false, _) => StepResult::Unproven { why: stuck.join("; ") },
        };
        self.line(StopStep::Workspace, workspace).await;
        commits.is_ok()
    }

    /// The salvages of this life, by id.
    fn mine(&self, all: Vec<Salvage>) -> Vec<String> {
        let of_life = format!("{}/{}/", self.task.key.slug(), self.task.generation);
        // Number 0 is no run: what all of them have committed.
        let commits = self.task.run_id(0);
        let mut mine: Vec<String> = all.into_iter().map(|one| one.id).filter(|id| id.starts_with(&of_life)).collect();
        mine.sort();
        let say = |id: String| if id.ends_with(&format!("/{commits}")) { format!("{id} (commits)") } else { id };
        mine.into_iter().map(say).collect()
    }

    /// The workspaces of this life in quarantine, each with why.
    fn aside(&self) -> Vec<String> {
        let runs = (1..=self.task.counters.runs).map(|n| self.task.run_id(n));
        runs.filter_map(|run| quarantined(&self.ctx, &run))
            .map(|(at, why)| format!("{} ({why})", at.display()))
            .collect()
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
    async fn prove_actors(&self, agent_ended: bool) {
        let task_ended = self.actor.wait(Some(ACTOR_WAIT)).await.is_ok();
        let stored = self.ctx.store.look_at_task(&self.task.id).await.ok().flatten();
        let tombstone = match stored.filter(|s| s.task.is_terminal()) {
            Some(stored) => closed(&stored.task),
            None => StepResult::Unproven { why: "the task's row is not closed".to_owned() },
        };
        self.line(StopStep::Tombstone, tombstone).await;
        let unseen = |(actor, ended): (&'static str, bool)| (!ended).then_some(actor);
        let unseen: Vec<_> =
            [("TaskActor", task_ended), ("AgentActor", agent_ended)].into_iter().filter_map(unseen).collect();
        let actors = match unseen.is_empty() {
            true => actors_ended(),
            false => StepResult::Unproven { why: format!("not seen to end: {}", unseen.join(", ")) },
        };
        self.line(StopStep::Actors, actors).await;
    }
}

/// The last lines of a receipt, in the words that hold whoever writes them: this process, or the next after its end.
pub(crate) fn closed(task: &Task) -> StepResult {
    StepResult::Done { proof: format!("{} is closed; its keys are free", task.key) }
}

/// See [`closed`].
pub(crate) fn actors_ended() -> StepResult {
    StepResult::Done { proof: "TaskActor and AgentActor have ended".to_owned() }
}

/// Why nobody could look for a task's branch.
pub(crate) fn not_configured(task: &Task) -> String {
    format!("its repository `{}` is not configured, so nobody can look for {}", task.repo, task.branch())
}

fn is_deployed(windows: &[Window]) -> bool {
    windows.iter().any(|w| w.kind == WindowKind::Deploy && deploy::succeeded(w))
}

/// The beginning of the line that says which branch is about to be deleted, and where it is.
const DELETING: &str = "to be deleted: ";

fn deleted(what: &str) -> StepResult {
    StepResult::Done { proof: format!("{what}, gone") }
}

/// A branch that is not there: by our own doing, if a line from before says that we were about to.
async fn absent(ctx: &Context, task: &Task, branch: &BranchName) -> StepResult {
    let receipt = ctx.store.receipt(&task.id).await.ok().flatten();
    let before = receipt.and_then(|receipt| receipt.lines.into_iter().find(|line| line.step == StopStep::RemoteBranch));
    match before.map(|line| line.result) {
        Some(StepResult::Pending { why }) if why.starts_with(DELETING) => deleted(&why[DELETING.len()..]),
        _ => StepResult::Nothing { proof: format!("the forge has no branch {branch}") },
    }
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
        Ok(None) => return absent(ctx, task, branch.name()).await,
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
    match git.pushed(&task.id).await {
        // Of an earlier release, or of a task whose refs are gone: then what we know is ours.
        Ok(ours) if ours.is_empty() || ours.contains(&at) => {}
        Ok(_) => {
            let because = format!("{} is at {}, where we have not put it: a person's doing", branch.name(), at.short());
            return StepResult::Kept { because };
        }
        Err(error) => return pending(error.to_string()),
    }
    let what = format!("{} at {}", branch.name(), at.short());
    let intent =
        ReceiptLine { step: StopStep::RemoteBranch, at: ctx.now(), result: pending(format!("{DELETING}{what}")) };
    // Nothing is performed before it is committed: whoever finds the branch gone then knows by whom.
    if let Err(error) = ctx.store.put_receipt_line(&task.id, intent).await {
        return pending(format!("{what} is not deleted, since that could not be recorded: {error}"));
    }
    match git.delete_task_branch(&branch, &at).await {
        Ok(BranchDeletion::Gone) => deleted(&what),
        Ok(BranchDeletion::Kept { at }) => StepResult::Kept {
            because: format!("{} was moved to {} by somebody else in between", branch.name(), at.short()),
        },
        Ok(BranchDeletion::Refused { why }) => StepResult::Kept { because: format!("the forge refuses: {why}") },
        Ok(BranchDeletion::Unknown { why }) => pending(why),
        Err(error) => pending(error.to_string()),
    }
}
