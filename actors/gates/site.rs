//! Where a repository's commands run for a gate: a clean checkout of one exact commit, and confined jobs in it.
//!
//! Owns the checkout, `setup`, and the specification of every job of a gate. Invariants: a job sees its checkout, its private
//! folders, what the operator put on its path, and nothing else; it ends with the supervisor; its owner's epoch fences
//! it. Refuses to judge what a job did.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_adapters::git::{GitError, Owner, RepoGit};
use orch_adapters::jobs::FinishedJob;
use orch_adapters::ports::{Confinement, JobError, JobLimits, JobSpec};
use orch_domain::gate::GateName;
use orch_domain::ids::{CommitSha, JobId};
use orch_domain::job::{JobEnd, JobKind, OnLoss};
use orch_domain::testcount::{Judged, NoAnswer, absent_runner, judge_command};
use orch_domain::time::Millis;
use orch_domain::variables;

use super::answer::GateSubject;
use super::output::{OUTPUT, hint, tail_of};
use super::scratch::Scratch;
use crate::context::{Context, RepoRuntime};
use crate::ids::mint;

/// Why a run has no outcome of its own.
#[derive(Clone, Debug)]
pub(super) enum Halt {
    /// Nothing can be concluded; the answer is final and gets a report.
    CouldNotRun(String),
    /// Nobody wants the answer any more.
    Cancelled(String),
}

impl From<String> for Halt {
    fn from(why: String) -> Self {
        Self::CouldNotRun(why)
    }
}

/// One shell line to run.
#[derive(Clone, Debug)]
pub(super) struct Line<'l> {
    /// What it is, for people.
    pub(super) what: &'l str,
    /// The line.
    pub(super) line: &'l str,
    /// Longest run.
    pub(super) limit: Millis,
    /// Longest silence; `None`: that of all gates.
    pub(super) silence: Option<Millis>,
    /// Environment besides the usual.
    pub(super) env: BTreeMap<String, String>,
}

/// A `setup` that fails on the judged commit and works on base: the branch's own doing.
pub(super) struct BrokenSetup {
    /// One sentence.
    pub(super) text: String,
    /// End of its output.
    pub(super) tail: String,
}

/// Where the commands of one gate run work.
pub(super) struct Site<'c> {
    pub(super) ctx: &'c Context,
    pub(super) subject: &'c GateSubject,
    pub(super) repo: Arc<RepoRuntime>,
    pub(super) git: RepoGit,
    pub(super) gate: GateName,
}

impl<'c> Site<'c> {
    /// For one subject; what it starts is fenced by the subject's owner.
    pub(super) fn new(ctx: &'c Context, subject: &'c GateSubject, repo: Arc<RepoRuntime>, gate: GateName) -> Self {
        let owner = Owner { epoch: subject.epoch, task: Some(subject.task.clone()), run: Some(subject.run.clone()) };
        let git = repo.git.for_owner(owner);
        Self { ctx, subject, repo, git, gate }
    }

    /// A fresh folder for a checkout.
    pub(super) fn scratch(&self) -> Result<Scratch, Halt> {
        let taken = Scratch::take(&self.ctx.paths.checkouts, &self.subject.run);
        let folder = self.ctx.paths.checkouts.display();
        taken.map_err(|error| Halt::CouldNotRun(format!("no folder for a checkout in {folder}: {error}")))
    }

    /// A clean checkout of a commit, and the private folders beside it. Not begun while the disk is full: it would fail,
    /// and what fails often enough blocks its task. Whoever waits here is ended by a request like any gate.
    pub(super) async fn check_out(&self, scratch: &Scratch, sha: &CommitSha) -> Result<(), Halt> {
        self.ctx.disk.until_all_goes_on().await;
        let main = self.repo.settings.main.as_ref().zip(self.subject.base.as_ref());
        let made = self.git.checkout(sha, &scratch.tree(), main).await;
        made.map_err(|error| match error {
            GitError::Stopped { why, .. } => Halt::Cancelled(why),
            error => Halt::CouldNotRun(format!("no checkout of {}: {error}", sha.short())),
        })?;
        let private = scratch.private();
        private.create(None).map_err(|error| format!("no private folders in {}: {error}", scratch.root().display()))?;
        Ok(())
    }

    /// Runs `setup`, where there is one, in a checkout of `sha`. One that does not work is the branch's fault only if it
    /// works on base.
    pub(super) async fn set_up(&self, scratch: &Scratch, sha: &CommitSha) -> Result<Option<BrokenSetup>, Halt> {
        let Some(setup) = &self.repo.settings.commands.setup else { return Ok(None) };
        let line = |what| Line { what, line: setup, limit: self.limit(), silence: None, env: BTreeMap::new() };
        let finished = self.job(scratch, &line("setup")).await?;
        let why = match judge_command(&finished.exit.end) {
            Judged::Passed { .. } => return Ok(None),
            Judged::CouldNotRun { reason, why } => {
                let tail = tail_of(&finished, &scratch.tree()).unwrap_or_default();
                return Err(self.no_answer(&line("setup"), reason, &why, &tail));
            }
            Judged::Failed { why } => why,
        };
        let tail = tail_of(&finished, &scratch.tree())?;
        let on_head = format!("`setup` fails on {}: {why}", sha.short());
        let Some(base) = self.subject.base.as_ref().filter(|base| *base != sha) else {
            return Err(Halt::CouldNotRun(format!("{on_head}\n{}", hint(&tail))));
        };
        let scratch = Scratch::take(&self.ctx.paths.checkouts, &self.subject.run)
            .map_err(|error| format!("{on_head}; no folder to try it on base: {error}"))?;
        let tried = async {
            self.check_out(&scratch, base).await?;
            self.job(&scratch, &line("setup on base")).await
        };
        let tried = tried.await;
        scratch.close().await;
        match judge_command(&tried?.exit.end) {
            Judged::Passed { .. } => {
                let text = format!("{on_head}, but works on base {}.", base.short());
                Ok(Some(BrokenSetup { text, tail }))
            }
            Judged::Failed { why: other } | Judged::CouldNotRun { why: other, .. } => {
                let base = base.short();
                Err(Halt::CouldNotRun(format!("{on_head}, and not on base {base} either ({other})\n{}", hint(&tail))))
            }
        }
    }

    /// Longest run of a command of this gate.
    pub(super) fn limit(&self) -> Millis {
        let limits = &self.repo.settings.limits;
        match self.gate {
            GateName::Check => limits.check,
            GateName::Staging | GateName::ImageFreshness => limits.deploy,
            GateName::Tests | GateName::Merge | GateName::Coverage | GateName::Security => limits.test,
        }
    }

    /// Runs one shell line in the checkout, confined, and waits for its end.
    pub(super) async fn job(&self, scratch: &Scratch, line: &Line<'_>) -> Result<FinishedJob, Halt> {
        let spec = self.spec(scratch, line);
        let refused = |error: JobError| match error {
            JobError::Refused { why, .. } => Halt::Cancelled(why),
            error => Halt::CouldNotRun(error.to_string()),
        };
        let job = scratch.launch(&self.ctx.runner, spec).await.map_err(refused)?;
        let finished = job.wait().await.map_err(refused)?;
        match finished.exit.end {
            JobEnd::Cancelled => Err(Halt::Cancelled("its job was ended by the supervisor".to_owned())),
            _ => Ok(finished),
        }
    }

    fn spec(&self, scratch: &Scratch, line: &Line<'_>) -> JobSpec {
        let (settings, subject) = (&self.repo.settings, self.subject);
        let private = scratch.private();
        let mut env = self.ctx.job_env(&private);
        env.extend(line.env.clone());
        env.extend(settings.env.clone());
        let facts = [
            ("CI", "true".to_owned()),
            (variables::TASK, subject.key.to_string()),
            (variables::REPO, subject.repo.to_string()),
            (variables::GATE, self.gate.to_string()),
            (variables::BASE, subject.rules_at().to_string()),
            (variables::HEAD, subject.head.to_string()),
        ];
        env.extend(facts.map(|(name, value)| (name.to_owned(), value)));
        let mut write = private.all();
        write.push(scratch.tree());
        // What the operator puts on the path, or names in the environment of this repository, is there to be used.
        let on_path = env.get("PATH").map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
        let named = settings.env.iter().filter(|(name, _)| *name != "PATH").map(|(_, value)| PathBuf::from(value));
        let mut read: Vec<PathBuf> = on_path.into_iter().chain(named).collect();
        read.retain(|folder| folder.is_absolute() && folder != Path::new("/"));
        read.extend(self.ctx.tools_read.iter().cloned());
        read.push(self.git.borrowed_objects());
        let usual = self.ctx.job_limits.of(JobKind::Gate);
        JobSpec {
            id: mint::<JobId>("g"),
            kind: JobKind::Gate,
            task: Some(subject.task.clone()),
            run: Some(subject.run.clone()),
            epoch: subject.epoch,
            label: format!("{} of {} on {}", line.what, subject.key, subject.head.short()),
            argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), line.line.to_owned()],
            cwd: scratch.tree(),
            env,
            stdin: Vec::new(),
            limits: JobLimits {
                wall: line.limit,
                stall: line.silence.or(usual.stall),
                grace: settings.limits.grace,
                log_bytes: OUTPUT,
                ..usual
            },
            // The checkout lies in the data folder: what is most specific wins, so only it and its private folders open.
            confinement: Confinement {
                enforced: true,
                write,
                read,
                deny: vec![self.ctx.paths.data.clone()],
                uid: None,
            },
            // What a gate without a supervisor finds, nobody would read.
            on_loss: OnLoss::End,
        }
    }

    /// Why the runner of a line is not there, through nobody's change: what `setup` brings, a branch may take away, so there
    /// it is a finding like any other.
    pub(super) fn absent(&self, line: &str, end: &JobEnd, tail: &str) -> Option<String> {
        self.repo.settings.commands.setup.is_none().then(|| absent_runner(line, end, tail)).flatten()
    }

    /// A command without an answer, in words, with the way out.
    pub(super) fn no_answer(&self, line: &Line<'_>, reason: NoAnswer, why: &str, tail: &str) -> Halt {
        let way_out = match reason {
            NoAnswer::Cancelled => return Halt::Cancelled(why.to_owned()),
            NoAnswer::NotFound => {
                "; install it where the supervisor runs and put it on PATH, or have `setup` bring it".to_owned()
            }
            NoAnswer::TimedOut => format!(" ({}); make it faster or raise the limit", line.limit),
            NoAnswer::NotStarted | NoAnswer::Killed => String::new(),
        };
        let text = format!("{} (`{}`): {why}{way_out}\n{}", line.what, line.line, hint(tail));
        Halt::CouldNotRun(text.trim_end().to_owned())
    }
}
