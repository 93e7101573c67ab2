//! Going on with a run that an earlier supervisor, or an earlier actor of this one, had begun.
//!
//! Owns what is noted with a run's job so that it can be gone on with, and the question whether it can. Its output is read
//! from the beginning again, so that nothing is known by memory alone. Refuses a job without notes (of an earlier release),
//! one that was never sent on, and an agent that the settings do not have any more: such a run is ended and resumed.

use std::sync::Arc;

use orch_adapters::git::{ImportSpec, RepoGit};
use orch_adapters::ports::{EndLevel, Observed};
use orch_domain::agent::AgentKind;
use orch_domain::event::RunFacts;
use orch_domain::ids::{CommitSha, RunId};
use orch_domain::job::{JobIdentity, JobKind, JobStatus};
use orch_domain::journal::Entry;
use orch_domain::left::Left;
use orch_domain::task::Task;
use orch_store::{JobRow, Subject};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::footing::Footing;
use super::{Attempt, Begun, Folders, Taken, Untaken};
use crate::artefacts;
use crate::context::{AgentSetup, Context};

/// What a run must know to be gone on with, recorded with its job before that begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunNotes {
    /// The agent by its name in the settings.
    agent: String,
    /// Its kind: by it the output is read.
    kind: AgentKind,
    /// The model that it was asked for.
    model: Option<String>,
    /// The number of the attempt.
    attempt: u32,
    /// The commits that it began with.
    footing: Footing,
}

impl RunNotes {
    pub(super) fn of(setup: &AgentSetup, attempt: u32, footing: &Footing) -> Self {
        let (agent, kind, model) = (setup.name.clone(), setup.agent.kind(), setup.model.clone());
        Self { agent, kind, model, attempt, footing: footing.clone() }
    }
}

/// The job of a run that can be gone on with.
#[derive(Clone, Debug)]
pub struct Attached {
    identity: JobIdentity,
    notes: RunNotes,
    setup: Named,
}

/// An agent's setup, shown by its name.
#[derive(Clone)]
struct Named(Arc<AgentSetup>);

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.name)
    }
}

impl Attached {
    /// The number of the attempt.
    pub(crate) const fn attempt(&self) -> u32 {
        self.notes.attempt
    }

    /// The job.
    pub(crate) const fn identity(&self) -> &JobIdentity {
        &self.identity
    }
}

/// The job among `jobs` by which `run` can be gone on with; `None`: it has to be ended and resumed.
pub(crate) fn attachable(ctx: &Context, task: &Task, run: &RunId, jobs: &[JobRow]) -> Option<Attached> {
    let job = jobs.iter().rfind(|j| j.record.kind == JobKind::Agent && j.record.run.as_ref() == Some(run))?;
    let begun = job.status != JobStatus::Prepared && job.going.is_some();
    let notes: RunNotes = serde_json::from_value(job.record.notes.clone()?).ok()?;
    let setup = ctx.agents.get(&notes.agent).filter(|setup| setup.agent.kind() == notes.kind)?;
    let known = ctx.repo(&task.repo).is_some();
    (begun && known).then(|| Attached { identity: job.record.identity.clone(), notes, setup: Named(Arc::clone(setup)) })
}

/// The commit that `run` began with, as it was recorded with its job among `jobs`; `None`: no job of it was prepared.
pub(crate) fn began_with(run: &RunId, jobs: &[JobRow]) -> Option<CommitSha> {
    let mut of_run =
        jobs.iter().rev().filter(|j| j.record.kind == JobKind::Agent && j.record.run.as_ref() == Some(run));
    of_run
        .find_map(|j| serde_json::from_value::<RunNotes>(j.record.notes.clone()?).ok())
        .map(|notes| notes.footing.start)
}

impl Attempt {
    /// Takes hold of the job.
    pub(super) async fn attach(&mut self, attached: Attached, facts: &mut RunFacts) -> Result<Begun, String> {
        let Attached { identity, notes, setup: Named(setup) } = attached;
        let git = self.repo()?.git.for_owner(self.owner());
        self.stand_on(&notes.footing, facts);
        let placement = &self.ctx.runner.placement;
        let how = match placement.observe(&identity).await {
            Ok(Observed::Running) => "goes on under this supervisor",
            Ok(Observed::Ended(_)) => "had ended meanwhile",
            Ok(Observed::Gone { .. }) => "was lost meanwhile",
            // Sent on by nobody any more: it would leave by itself in a while.
            Ok(Observed::Idle) => {
                if let Err(error) = placement.end(&identity, EndLevel::Kill).await {
                    tracing::debug!(job.id = %identity.job, %error, "an idle guard could not be told to leave");
                }
                "had not begun yet"
            }
            Err(error) => {
                tracing::info!(job.id = %identity.job, %error, "the job of a run does not answer; it is waited for");
                "does not answer yet"
            }
        };
        self.note(&format!("{}: attempt {} {how}", self.task.stage, notes.attempt)).await;
        self.say("going on with a run that was begun before");
        let job = self.ctx.runner.adopt(identity);
        let (model, footing) = (notes.model, notes.footing);
        Ok(Begun { job, setup, model, git, footing, before: true })
    }

    async fn note(&self, text: &str) {
        let entry = Entry::new("run-attached", text).with(json!({"run": self.run}));
        if let Err(error) = self.ctx.store.append(Subject::task(&self.task), vec![entry], self.ctx.now()).await {
            tracing::warn!(run.id = %self.run, %error, "that run {} goes on could not be journaled", self.run);
        }
    }

    /// What was taken out of a workspace that is gone: its supervisor ended between that and recording the run.
    pub(super) async fn taken_before(&self, git: &RepoGit, footing: &Footing) -> Result<Taken, Untaken> {
        let spec = ImportSpec {
            task: self.task.id.clone(),
            run: self.run.clone(),
            base: footing.base.clone(),
            start: footing.start.clone(),
        };
        let gone = || format!("its workspace {} is gone", Folders::of(&self.ctx, &self.run).tree.display());
        match git.taken_in(&spec).await {
            Ok(Some(imported)) => {
                // Whatever was salvaged of it was in no commit.
                let salvaged = git.list_salvage().await.map_err(|error| format!("{}: {error}", gone()))?;
                let unknown = salvaged.iter().any(|salvage| salvage.run() == self.run.as_str())
                    || artefacts::quarantined(&self.ctx, &self.run).is_some();
                Ok(Taken { imported, left: Left { unknown, ..Left::default() } })
            }
            Ok(None) => Err(Untaken::Ours(gone())),
            Err(error) => Err(Untaken::Ours(format!("{}: {error}", gone()))),
        }
    }
}
