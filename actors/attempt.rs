//! One agent run from workspace to facts: the side task of an AgentActor.
//!
//! Owns the order of steps: what an interrupted run left, a fresh workspace, the prompt, the job, taking the commits
//! out, reading the artefact, clearing away. A run that an earlier supervisor began is gone on with from its job. Returns
//! facts only; the verdict is the domain's. Invariant: whatever happens in between, the job is over when it returns, and
//! the workspace is gone unless it holds work that is nowhere else; only a run that is left to the next start goes on.

mod attach;
mod attend;
mod footing;
mod words;

pub(crate) use attach::{Attached, attachable, began_with};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch_adapters::agents::{LaunchContext, PromptContext};
use orch_adapters::git::{CaptureSpec, ImportError, ImportSpec, Imported, Owner, RepoGit, WorkspaceSpec, read_capture};
use orch_adapters::jobs::RunningJob;
use orch_adapters::jobs::env::PrivateDirs;
use orch_adapters::ports::{Beyond, Confinement, EndLevel, JobError, JobLimits, JobSpec};
use orch_domain::agent::{AgentClaim, AgentReport};
use orch_domain::event::{ArtefactFact, RunFacts};
use orch_domain::ids::{Epoch, JobId, RunId};
use orch_domain::job::{JobEnd, JobKind};
use orch_domain::left::Left;
use orch_domain::pipeline::{Role, Work};
use orch_domain::stop::Level;
use orch_domain::task::Task;
use orch_domain::time::Millis;
use orch_domain::variables;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::artefacts;
use crate::context::{AgentSetup, Context, RepoRuntime};
use crate::ids::{mint, nonce};
use crate::snapshots::Snapshots;
use attach::RunNotes;
use footing::Footing;
use words::{left_behind, not_taken, one_line, tail};

/// Longest time for taking the work out of a workspace.
const CAPTURE: Millis = Millis::from_mins(5);
/// Bytes of what it complains about that are read.
const CAPTURE_SAID: u64 = 64 << 10;
/// Longest wait for a job that was killed because it could not be followed any more.
const LAST_WAIT: Duration = Duration::from_secs(60);
/// How many foreign paths are named.
const NAMED: usize = 20;

/// One run to be carried out.
pub struct Attempt {
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
    /// Its number.
    pub attempt: u32,
    /// The job of this very run, which an earlier supervisor (or an earlier actor) began.
    pub attached: Option<Attached>,
    /// Set when the run has to end, or to be left.
    pub told: watch::Receiver<Option<Told>>,
}

/// What a run is told while it is under way. Only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// Let the agent go on without us: the next start goes on with the run.
    Leave,
    /// End.
    End(Level),
}

/// Why a run's steps were not gone through.
enum Halt {
    /// It is left to the next start.
    Left,
    /// Something of ours could not run.
    Trouble(String),
}

impl From<String> for Halt {
    fn from(why: String) -> Self {
        Self::Trouble(why)
    }
}

/// A job with all that is needed to see it through.
struct Begun {
    job: RunningJob,
    setup: Arc<AgentSetup>,
    model: Option<String>,
    git: RepoGit,
    footing: Footing,
    /// Whether somebody else began it: its time is then told by its record, not by our clock.
    before: bool,
}

/// Facts of a run that could not be carried out.
pub(crate) fn trouble(why: String) -> RunFacts {
    RunFacts {
        end: None,
        trouble: Some(why),
        report: AgentReport::default(),
        main: None,
        base: None,
        start: None,
        head: None,
        unusable: None,
        left: Left::default(),
        foreign_paths: Vec::new(),
        artefact: ArtefactFact::NotAsked,
        output_tail: String::new(),
    }
}

/// Why the work of a run could not be taken out.
enum Untaken {
    /// By what the agent left.
    Agents(String),
    /// By something of ours.
    Ours(String),
}

impl From<String> for Untaken {
    fn from(why: String) -> Self {
        Self::Ours(why)
    }
}

/// What was taken out of a workspace.
struct Taken {
    imported: Imported,
    /// What is in the workspace and not in the commits.
    left: Left,
}

/// Where a run's folders are.
struct Folders {
    root: PathBuf,
    tree: PathBuf,
    private: PathBuf,
    out: PathBuf,
    /// Private folders of the capture: the agent had none of them in its hands.
    capture: PathBuf,
}

impl Folders {
    fn of(ctx: &Context, run: &RunId) -> Self {
        let root = ctx.paths.workspaces.join(run.as_str());
        let below = |name: &str| root.join(name);
        let (tree, private, out, capture) = (below("tree"), below("private"), below("out"), below("capture"));
        Self { root, tree, private, out, capture }
    }
}

impl Attempt {
    /// Carries the run out. `None`: the agent works on, and the next start goes on with the run.
    pub async fn carry_out(mut self) -> Option<RunFacts> {
        let folders = Folders::of(&self.ctx, &self.run);
        let mut facts = trouble(String::new());
        facts.trouble = None;
        match self.steps(&folders, &mut facts).await {
            Ok(()) => {}
            Err(Halt::Left) => {
                tracing::info!(run.id = %self.run, "run {} is left to the next start", self.run);
                return None;
            }
            Err(Halt::Trouble(why)) => {
                tracing::warn!(task.id = %self.task.id, run.id = %self.run, %why, "run {} could not be carried out", self.run);
                facts.trouble = Some(why);
            }
        }
        self.clear_away(&folders, &facts).await;
        self.snapshots.clear_activity(&self.task.id);
        Some(facts)
    }

    async fn steps(&mut self, folders: &Folders, facts: &mut RunFacts) -> Result<(), Halt> {
        let begun = match self.attached.take() {
            Some(attached) => Some(self.attach(attached, facts).await?),
            None => self.begin(folders, facts).await?,
        };
        match begun {
            Some(begun) => self.see_through(&begun, folders, facts).await,
            None => Ok(()),
        }
    }

    /// Makes everything ready and starts the job; `None` when there is nothing to be seen through, which `facts` then says.
    async fn begin(&mut self, folders: &Folders, facts: &mut RunFacts) -> Result<Option<Begun>, String> {
        let repo = self.repo()?;
        let setup = self.agent()?;
        let git = repo.git.for_owner(self.owner());
        self.say("fetching the main branch");
        let footing = self.footing(&repo, &git).await?;
        self.stand_on(&footing, facts);
        if self.task.counters.runs == 1 {
            self.tell_of_submodules(&git, &footing).await;
        }
        self.say("making the workspace");
        let workspace = WorkspaceSpec {
            dir: folders.tree.clone(),
            branch: self.task.branch(),
            start: footing.start.clone(),
            main: footing.main.clone(),
            base: footing.main_at.clone(),
        };
        git.make_workspace(workspace).await.map_err(|e| format!("no workspace: {e}"))?;
        let private = PrivateDirs::under(&folders.private);
        private.create(None).map_err(|e| format!("no private folders at {}: {e}", folders.private.display()))?;
        let job = self.launch(&repo, &setup, &git, folders, &footing, facts).await?;
        let model = setup.model.clone();
        Ok(job.map(|job| Begun { job, setup, model, git, footing, before: false }))
    }

    /// The commits that the run is measured against: leftovers that were taken over are the run's own work.
    fn stand_on(&self, footing: &Footing, facts: &mut RunFacts) {
        facts.main = Some(footing.main.clone());
        facts.base = Some(footing.base.clone());
        facts.start = Some(self.committed().map_or_else(|| footing.base.clone(), |(_, head)| head.clone()));
    }

    /// From a job that was begun to all that can be known of it.
    async fn see_through(&mut self, begun: &Begun, folders: &Folders, facts: &mut RunFacts) -> Result<(), Halt> {
        let Begun { job, setup, git, footing, .. } = begun;
        let mut parser = setup.agent.parser(begun.model.as_deref());
        let since = Instant::now();
        let (finished, stalled) = match self.attend(job, setup, parser.as_mut()).await {
            Ok(attended) => attended,
            Err(Halt::Left) => return Err(Halt::Left),
            Err(Halt::Trouble(why)) => {
                // It has worked, so its workspace is not thrown away; and nothing of it may work on in there.
                facts.end = Some(JobEnd::Lost);
                self.end(job, EndLevel::Kill).await;
                return Err(Halt::Trouble(match tokio::time::timeout(LAST_WAIT, job.wait()).await {
                    Ok(Ok(_)) => why,
                    Ok(Err(error)) => format!("{why}; and its end could not be seen: {error}"),
                    Err(_) => format!("{why}; and it was not seen to end"),
                }));
            }
        };
        let wall = match (begun.before, finished.exit.started) {
            (true, Some(started)) => finished.exit.ended.since(started),
            _ => Millis(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)),
        };
        if begun.before && finished.exit.started.is_none() {
            // Its supervisor ended before it could be sent on, which is no fault of the program's.
            facts.end = Some(JobEnd::Orphaned);
            return Ok(());
        }
        let end = if stalled { JobEnd::Stalled } else { finished.exit.end.clone() };
        facts.report = parser.report(&end, wall);
        facts.end = Some(end);
        facts.output_tail = tail(&finished);
        self.say("taking the work out");
        let ended_well = facts.end.as_ref().is_some_and(JobEnd::is_success);
        let message = match ended_well && facts.report.claim == Some(AgentClaim::Success) {
            // Many agents leave the committing to others: their change then gets the task's own words.
            true => format!("{}: {}", self.task.key, one_line(&self.task.title)),
            false => self.leftovers_message(),
        };
        let taken = match begun.before && !folders.tree.exists() {
            true => self.taken_before(git, footing).await,
            false => self.capture(git, &self.run, folders, footing, message).await,
        };
        match taken {
            Ok(taken) => {
                facts.left = taken.left;
                Ok(self.look_at_work(git, footing, taken.imported, facts).await?)
            }
            // What it left cannot be taken: told to it as a finding, since trying the same again would not help.
            Err(Untaken::Agents(why)) if ended_well => {
                facts.unusable = Some(why);
                Ok(())
            }
            Err(Untaken::Ours(why)) if ended_well => Err(why.into()),
            Err(Untaken::Agents(why) | Untaken::Ours(why)) => {
                tracing::warn!(run.id = %self.run, %why, "nothing could be taken out of an interrupted run");
                Ok(())
            }
        }
    }

    fn repo(&self) -> Result<Arc<RepoRuntime>, String> {
        let name = &self.task.repo;
        self.ctx.repo(name).cloned().ok_or_else(|| format!("repository `{name}` is not in the settings any more"))
    }

    fn agent(&self) -> Result<Arc<AgentSetup>, String> {
        let name = match &self.task.agent {
            Some(name) => name.clone(),
            None => self.repo()?.settings.agent.clone(),
        };
        self.ctx.agents.get(&name).cloned().ok_or_else(|| format!("agent `{name}` is not in the settings"))
    }

    fn owner(&self) -> Owner {
        Owner { epoch: self.epoch, task: Some(self.task.id.clone()), run: Some(self.run.clone()) }
    }

    fn role(&self) -> Role {
        match &self.task.current().work {
            Work::Agent { role, .. } => *role,
            Work::Command { .. } | Work::Land => Role::Developer,
        }
    }

    fn say(&self, text: &str) {
        self.snapshots.set_activity(&self.task.id, text);
    }

    /// Starts the job; `None` when the program cannot be started as things are set up, which `facts` then says.
    async fn launch(
        &self,
        repo: &RepoRuntime,
        setup: &AgentSetup,
        git: &RepoGit,
        folders: &Folders,
        footing: &Footing,
        facts: &mut RunFacts,
    ) -> Result<Option<RunningJob>, String> {
        let prompt = self.prompt(repo, git, footing).await?;
        let context = LaunchContext {
            prompt,
            workspace: folders.tree.clone(),
            private: folders.private.clone(),
            model: setup.model.clone(),
            env_allow: setup.env.clone(),
        };
        let line = match setup.agent.launch(&context) {
            Ok(line) => line,
            Err(error) => {
                facts.end = Some(JobEnd::CouldNotStart { why: error.to_string() });
                return Ok(None);
            }
        };
        line.write_files(&folders.private).map_err(|e| format!("the agent's files cannot be written: {e}"))?;
        let mut env = self.ctx.job_env(&PrivateDirs::under(&folders.private));
        env.extend(line.env);
        env.insert(variables::ATTEMPT.to_owned(), self.attempt.to_string());
        env.insert(variables::TASK.to_owned(), self.task.key.to_string());
        env.insert(variables::STAGE.to_owned(), self.task.stage.to_string());
        env.insert(variables::ROLE.to_owned(), self.role().as_str().to_owned());
        let mut confinement = self.confinement(setup, git, folders, &[]);
        confinement.read.extend(line.read);
        let spec = JobSpec {
            id: mint::<JobId>("j"),
            kind: JobKind::Agent,
            task: Some(self.task.id.clone()),
            run: Some(self.run.clone()),
            epoch: self.epoch,
            label: format!("{} for {} ({})", setup.name, self.task.key, self.task.stage),
            argv: line.argv,
            cwd: folders.tree.clone(),
            env,
            stdin: line.stdin,
            limits: JobLimits {
                wall: self.task.current().limit.unwrap_or(setup.limit),
                // Silence is judged here, where it is known whether a tool runs.
                stall: None,
                grace: setup.grace,
                // Its events are read as they come; none is dropped before that.
                beyond: Beyond::Roll,
                ..self.ctx.job_limits.of(JobKind::Agent)
            },
            confinement,
            on_loss: JobKind::Agent.on_loss(self.ctx.limits.agent_orphan_grace),
        };
        let notes = RunNotes::of(setup, self.attempt, footing);
        match self.ctx.runner.start_noted(spec, serde_json::to_value(notes).ok()).await {
            Ok(job) => Ok(Some(job)),
            Err(JobError::Refused { why, .. }) => {
                tracing::info!(run.id = %self.run, %why, "run {} was refused its start", self.run);
                facts.end = Some(JobEnd::Cancelled);
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn prompt(&self, repo: &RepoRuntime, git: &RepoGit, footing: &Footing) -> Result<String, String> {
        let Work::Agent { role, prompt, .. } = &self.task.current().work else {
            return Err(format!("stage `{}` has no agent", self.task.stage));
        };
        let task = &self.task;
        let context = PromptContext {
            key: task.key.clone(),
            title: task.title.clone(),
            body: task.body.clone(),
            stage: task.stage.clone(),
            attempt: self.attempt,
            role: *role,
            branch: task.branch(),
            base: footing.base.clone(),
            head: footing.start.clone(),
            artefact_dir: artefacts::folder(task),
            findings: task.findings.clone(),
            interrupted: task.interrupted_note.clone(),
            dependency_note: task.dependency_note.clone(),
            previous_artefacts: artefacts::previous(git, task, &footing.start).await,
            test_command: repo.settings.commands.test.clone(),
        };
        self.ctx.prompts.render(prompt.as_deref(), &context, &nonce()).map_err(|e| e.to_string())
    }

    fn confinement(&self, setup: &AgentSetup, git: &RepoGit, folders: &Folders, more: &[&Path]) -> Confinement {
        let mut write = vec![folders.tree.clone(), folders.private.clone()];
        write.extend(more.iter().map(|p| p.to_path_buf()));
        let mut read = setup.read.clone();
        read.extend(self.ctx.tools_read.iter().cloned());
        read.push(git.borrowed_objects());
        Confinement { enforced: !setup.unconfined, write, read, deny: vec![self.ctx.paths.data.clone()], uid: None }
    }

    fn leftovers_message(&self) -> String {
        format!("{}: keep what an interrupted run left uncommitted", self.task.key)
    }

    /// Takes commits and leftovers out of a workspace, by a job inside the agent's confinement.
    async fn capture(
        &self,
        git: &RepoGit,
        run: &RunId,
        folders: &Folders,
        footing: &Footing,
        message: String,
    ) -> Result<Taken, Untaken> {
        let setup = self.agent()?;
        if let Some(why) = artefacts::doubt(&self.ctx, &self.task.id, run).await {
            return Err(Untaken::Ours(why));
        }
        artefacts::discard(&folders.out);
        artefacts::discard(&folders.capture);
        let private = PrivateDirs::under(&folders.capture);
        private.create(None).map_err(|e| format!("no private folders at {}: {e}", folders.capture.display()))?;
        std::fs::create_dir_all(&folders.out).map_err(|e| format!("no folder {}: {e}", folders.out.display()))?;
        let spec = CaptureSpec {
            workspace: folders.tree.clone(),
            out: folders.out.clone(),
            base: footing.base.clone(),
            branch: self.task.branch(),
            message,
            confinement: self.confinement(&setup, git, folders, &[&folders.out, &folders.capture]),
            env: self.ctx.job_env(&private),
            owner: Owner { run: Some(run.clone()), ..self.owner() },
            limits: JobLimits { wall: CAPTURE, ..self.ctx.job_limits.of(JobKind::Capture) },
        };
        let spec = git.capture_spec(spec).map_err(|e| e.to_string())?;
        let finished = self.ctx.runner.run(spec).await.map_err(|e| e.to_string())?;
        if !finished.exit.end.is_success() {
            let said = finished.stderr(CAPTURE_SAID).unwrap_or_else(|e| format!("(its output cannot be read: {e})"));
            return Err(not_taken(&finished.exit.end, &said));
        }
        let said = finished.stdout_bytes(1 << 20).map_err(|e| e.to_string())?;
        let said = read_capture(&said)?;
        let spec = ImportSpec {
            task: self.task.id.clone(),
            run: run.clone(),
            base: footing.base.clone(),
            start: footing.start.clone(),
        };
        let imported = git.import_capture(&said, &folders.out, &spec).await.map_err(|error| match error {
            ImportError::Agent(_) => Untaken::Agents(error.to_string()),
            ImportError::Git(error) => Untaken::Ours(error.to_string()),
        })?;
        let apart = match &said.task_branch {
            Some(branch) if *branch != imported.head => {
                // A commit that did not come over is not among those that did; neither is one that cannot be looked at.
                !git.has_commit(branch).await.unwrap_or(false)
                    || !git.contains(branch, &imported.head).await.unwrap_or(false)
            }
            _ => false,
        };
        Ok(Taken { left: left_behind(&said, apart), imported })
    }

    /// What the imported commits hold, as facts.
    async fn look_at_work(
        &self,
        git: &RepoGit,
        footing: &Footing,
        imported: Imported,
        facts: &mut RunFacts,
    ) -> Result<(), String> {
        if !imported.descends {
            facts.unusable = Some(format!(
                "The branch was rewritten: it no longer comes after {}, the commit that this task begins at, so nothing of the \
                 previous run could be taken over.\nDo the work again in this fresh workspace, in commits on top of what is \
                 checked out, and do not reset or rebase below that.",
                footing.base.short()
            ));
            return Ok(());
        }
        let start = facts.start.clone().unwrap_or_else(|| footing.base.clone());
        if !self.role().may_change_code() {
            facts.foreign_paths = self.foreign_paths(git, &start, &imported.head).await?;
        }
        facts.artefact = artefacts::read(git, &self.task, self.role(), &start, &imported.head).await?;
        artefacts::keep_copies(&self.ctx, git, &self.task, &imported.head).await;
        facts.head = Some(imported.head);
        Ok(())
    }

    /// Removes the workspace, unless it holds work that could not be taken out: then it stays for the next run, which
    /// takes it over, or for the STOP, which salvages it.
    async fn clear_away(&self, folders: &Folders, facts: &RunFacts) {
        let worked = facts.end.is_some() && !matches!(facts.end, Some(JobEnd::CouldNotStart { .. }));
        if facts.head.is_none() && worked {
            return;
        }
        match (facts.left.in_short(), self.repo()) {
            (Some(why), Ok(repo)) => {
                self.leave(&repo.git.for_owner(self.owner()), &self.run, folders, Some(why)).await;
            }
            // Without its repository there is nowhere to keep it: it stays for whoever has it again.
            (Some(_), Err(_)) => {}
            (None, _) => artefacts::discard(&folders.root),
        }
    }
}
