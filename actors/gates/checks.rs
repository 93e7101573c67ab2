//! Runs a repository's command on a commit: check, tests, staging.
//!
//! Owns the way from a request to a verdict: command, evidence, clean checkout, confined jobs, counts, report, row.
//! Invariants: the commit is exact and nothing of an agent's folder is touched; the verdict that is answered was read
//! back from its report; the same evidence is not run twice; the checkout is gone afterwards, whatever happened. What
//! of ours breaks is `could not run`, never `failed`. Refuses to know what follows from the answer.
//!
//! Caches: every run starts without any. A throw-away copy of the judge's cache would be put into the private folders
//! between the checkout and `setup`, and its generation into the evidence's key.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_adapters::git::{GitError, Owner, RepoGit};
use orch_adapters::jobs::FinishedJob;
use orch_adapters::ports::{Confinement, JobError, JobLimits, JobSpec};
use orch_adapters::reports::junit;
use orch_domain::event::CheckEnd;
use orch_domain::gate::{GateName, Verdict};
use orch_domain::ids::{CommitSha, JobId};
use orch_domain::job::{JobEnd, JobKind, OnLoss};
use orch_domain::names::RepoPath;
use orch_domain::pipeline::RepoCommand;
use orch_domain::testcount::{Judged, NoAnswer, judge_command, judge_tests};
use orch_domain::time::{Millis, Timestamp};

use super::answer::{GateAnswer, GateSubject};
use super::cancel;
use super::command::{self, Command, Found, gate_of};
use super::output::{OUTPUT, Shown, hint, tail_of};
use super::scratch::Scratch;
use super::verdict::Outcome;
use crate::context::{Context, RepoRuntime};
use crate::ids::mint;

/// A check to be run.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// What is judged, and for whom.
    pub subject: GateSubject,
    /// Which command.
    pub what: RepoCommand,
    /// Whether the repository is worked on without tests.
    pub no_tests: bool,
}

impl Deref for CheckRequest {
    type Target = GateSubject;

    fn deref(&self) -> &GateSubject {
        &self.subject
    }
}

/// Runs a check to its answer. Ends early when its gate run is cancelled (see [`cancel`]).
pub async fn run_check(ctx: &Context, req: &CheckRequest) -> GateAnswer {
    let Some(repo) = ctx.repo(&req.repo).cloned() else {
        return GateAnswer::could_not_run(format!("repository `{}` is not configured any more", req.repo));
    };
    let owner = Owner { epoch: req.epoch, task: Some(req.task.clone()), run: Some(req.run.clone()) };
    let git = repo.git.for_owner(owner);
    let found = match command::find(&repo.settings.commands, &git, req).await {
        Ok(found) => found,
        Err(error) => return trouble(&error),
    };
    let command = match found {
        Found::Command(command) => command,
        Found::NothingToRun(note) => return CheckEnd::passed(note).into(),
        Found::NotConfigured(why) => return CheckEnd::NotConfigured { why }.into(),
    };
    let tree = match tree_of(&git, &req.head).await {
        Ok(tree) => tree,
        Err(error) => return trouble(&error),
    };
    let check = Check { ctx, req, repo, git, command, tree, gate: gate_of(req.what), started: ctx.now() };
    if let Some(end) = check.known().await {
        return end;
    }
    check.run().await
}

fn trouble(error: &GitError) -> GateAnswer {
    GateAnswer::could_not_run(format!("the commit under test could not be prepared: {error}"))
}

pub(crate) async fn tree_of(git: &RepoGit, sha: &CommitSha) -> Result<CommitSha, GitError> {
    let tree = git.tree_of(sha).await?;
    tree.parse().map_err(|error| GitError::Invalid(format!("the tree of {sha}: {error}")))
}

/// Why a run has no outcome of its own.
enum Halt {
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

/// One check, with everything that is known before it runs.
pub(super) struct Check<'c> {
    pub(super) ctx: &'c Context,
    pub(super) req: &'c CheckRequest,
    pub(super) repo: Arc<RepoRuntime>,
    pub(super) git: RepoGit,
    pub(super) command: Command,
    pub(super) tree: CommitSha,
    pub(super) gate: GateName,
    pub(super) started: Timestamp,
}

impl Check<'_> {
    async fn run(&self) -> GateAnswer {
        let scratch = match Scratch::take(&self.ctx.paths.checkouts, &self.req.run) {
            Ok(scratch) => scratch,
            Err(error) => {
                let why = format!("no folder for a checkout in {}: {error}", self.ctx.paths.checkouts.display());
                return GateAnswer::could_not_run(why);
            }
        };
        let outcome = tokio::select! {
            biased;
            why = cancel::requested() => Err(Halt::Cancelled(why)),
            outcome = self.judge(&scratch) => outcome,
        };
        scratch.close().await;
        match outcome {
            Ok(outcome) => self.conclude(outcome).await,
            Err(Halt::CouldNotRun(why)) => self.conclude(Outcome::could_not_run(why)).await,
            Err(Halt::Cancelled(why)) => {
                GateAnswer::could_not_run(format!("{} was ended: {why}", self.req.what.as_str()))
            }
        }
    }

    /// Checkout, `setup`, the command, its counts.
    async fn judge(&self, scratch: &Scratch) -> Result<Outcome, Halt> {
        self.check_out(scratch, &self.req.head).await?;
        if let Some(setup) = &self.repo.settings.commands.setup {
            let finished = self.job(scratch, "setup", setup).await?;
            if let Some(outcome) = self.failed_setup(setup, &finished).await? {
                return Ok(outcome);
            }
        }
        let junit = self.junit_path()?;
        if let Some(path) = &junit {
            let cleared = junit::clear_junit(&scratch.tree(), path);
            cleared.map_err(|error| format!("the old JUnit XML at {path} could not be removed: {error}"))?;
        }
        let finished = self.job(scratch, self.req.what.as_str(), &self.command.line).await?;
        let tree = scratch.tree();
        let read = tokio::task::spawn_blocking(move || Shown::read(&finished, &tree, junit.as_ref()));
        let shown = read.await.map_err(|error| format!("the output could not be read: {error}"))??;
        self.settle(shown)
    }

    async fn check_out(&self, scratch: &Scratch, sha: &CommitSha) -> Result<(), Halt> {
        let main = self.repo.settings.main.as_ref().zip(self.req.base.as_ref());
        let made = self.git.checkout(sha, &scratch.tree(), main).await;
        made.map_err(|error| match error {
            GitError::Stopped { why, .. } => Halt::Cancelled(why),
            error => Halt::CouldNotRun(format!("no checkout of {}: {error}", sha.short())),
        })?;
        let private = scratch.private();
        private.create(None).map_err(|error| format!("no private folders in {}: {error}", scratch.root().display()))?;
        Ok(())
    }

    fn junit_path(&self) -> Result<Option<RepoPath>, Halt> {
        let configured = self.repo.settings.commands.junit.as_ref().filter(|_| self.req.what == RepoCommand::Test);
        let path = configured.map(|path| path.parse::<RepoPath>()).transpose();
        path.map_err(|error| Halt::CouldNotRun(format!("`junit` of repository `{}`: {error}", self.req.repo)))
    }

    /// Runs one shell line in the checkout, confined, and waits for its end.
    async fn job(&self, scratch: &Scratch, what: &str, line: &str) -> Result<FinishedJob, Halt> {
        let spec = self.spec(scratch, what, line);
        let refused = |error: JobError| match error {
            JobError::Refused { why, .. } => Halt::Cancelled(why),
            error => Halt::CouldNotRun(error.to_string()),
        };
        let job = self.ctx.runner.start(spec).await.map_err(refused)?;
        scratch.hold(job.clone());
        let finished = job.wait().await.map_err(refused)?;
        match finished.exit.end {
            JobEnd::Cancelled => Err(Halt::Cancelled("its job was ended by the supervisor".to_owned())),
            _ => Ok(finished),
        }
    }

    fn limit(&self) -> Millis {
        let limits = &self.repo.settings.limits;
        if self.req.what == RepoCommand::Check { limits.check } else { limits.test }
    }

    fn spec(&self, scratch: &Scratch, what: &str, line: &str) -> JobSpec {
        let settings = &self.repo.settings;
        let private = scratch.private();
        let mut env = self.ctx.job_env(&private);
        env.extend(settings.env.clone());
        let base = self.req.base.as_ref().unwrap_or(&self.req.head);
        let facts = [
            ("CI", "true".to_owned()),
            ("ORCH_TASK", self.req.key.to_string()),
            ("ORCH_REPO", self.req.repo.to_string()),
            ("ORCH_GATE", self.gate.to_string()),
            ("ORCH_BASE", base.to_string()),
            ("ORCH_HEAD", self.req.head.to_string()),
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
        JobSpec {
            id: mint::<JobId>("g"),
            kind: JobKind::Gate,
            task: Some(self.req.task.clone()),
            run: Some(self.req.run.clone()),
            epoch: self.req.epoch,
            label: format!("{what} of {} on {}", self.req.key, self.req.head.short()),
            argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()],
            cwd: scratch.tree(),
            env,
            stdin: Vec::new(),
            limits: JobLimits {
                wall: self.limit(),
                grace: settings.limits.grace,
                log_bytes: OUTPUT,
                ..self.ctx.job_limits.clone()
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

    /// A `setup` that did not work: the branch's fault only if it works on base.
    async fn failed_setup(&self, setup: &str, finished: &FinishedJob) -> Result<Option<Outcome>, Halt> {
        let why = match judge_command(&finished.exit.end) {
            Judged::Passed { .. } => return Ok(None),
            Judged::CouldNotRun { reason, why } => return Err(self.no_answer("setup", setup, reason, &why, finished)),
            Judged::Failed { why } => why,
        };
        let tail = tail_of(finished)?;
        let on_head = format!("`setup` fails on {}: {why}", self.req.head.short());
        let Some(base) = self.req.base.as_ref().filter(|base| **base != self.req.head) else {
            return Err(Halt::CouldNotRun(format!("{on_head}\n{}", hint(&tail))));
        };
        let scratch = Scratch::take(&self.ctx.paths.checkouts, &self.req.run)
            .map_err(|error| format!("{on_head}; no folder to try it on base: {error}"))?;
        let tried = async {
            self.check_out(&scratch, base).await?;
            self.job(&scratch, "setup on base", setup).await
        };
        let tried = tried.await;
        scratch.close().await;
        match judge_command(&tried?.exit.end) {
            Judged::Passed { .. } => {
                let text = format!("{on_head}, but works on base {}.\n\n{tail}", base.short());
                Ok(Some(Outcome { verdict: Verdict::Failed, text, counts: None, notes: Vec::new(), tail }))
            }
            Judged::Failed { why: other } | Judged::CouldNotRun { why: other, .. } => {
                let base = base.short();
                Err(Halt::CouldNotRun(format!("{on_head}, and not on base {base} either ({other})\n{}", hint(&tail))))
            }
        }
    }

    /// From what the job showed to an outcome.
    fn settle(&self, shown: Shown) -> Result<Outcome, Halt> {
        let Shown { end, tail, counts, junit_trouble, junit, cut } = shown;
        let mut notes = Vec::new();
        if cut {
            notes.push(format!("the output was cut at {OUTPUT} bytes; counts may be missing"));
        }
        if !junit.flaky.is_empty() {
            notes.push(format!("flaky: {}", junit.flaky.join(", ")));
        }
        let judged = match self.req.what {
            RepoCommand::Test => judge_tests(&end, counts),
            RepoCommand::Check | RepoCommand::Staging => judge_command(&end),
        };
        let line = &self.command.line;
        let judged = match (judged, junit_trouble) {
            (Judged::Passed { .. }, Some(why)) if counts.is_none() => {
                Judged::Failed { why: format!("exit code 0, but {why}, so that nothing shows that a test ran") }
            }
            (judged, Some(why)) => {
                notes.push(format!("{why}; counted by the output instead"));
                judged
            }
            (judged, None) => judged,
        };
        match judged {
            Judged::Passed { note } => {
                Ok(Outcome { verdict: Verdict::Passed, text: format!("`{line}`: {note}"), counts, notes, tail })
            }
            Judged::Failed { why } => {
                let named = match junit.failed.is_empty() {
                    true => String::new(),
                    false => format!("Failed tests:\n- {}\n\n", junit.failed.join("\n- ")),
                };
                let text = format!("`{line}` failed on {}: {why}\n\n{named}{tail}", self.req.head.short());
                Ok(Outcome { verdict: Verdict::Failed, text, counts, notes, tail })
            }
            Judged::CouldNotRun { reason, why } => {
                Err(self.no_answer_with(self.req.what.as_str(), line, reason, &why, &tail))
            }
        }
    }

    fn no_answer(&self, what: &str, line: &str, reason: NoAnswer, why: &str, finished: &FinishedJob) -> Halt {
        let tail = tail_of(finished).unwrap_or_default();
        self.no_answer_with(what, line, reason, why, &tail)
    }

    fn no_answer_with(&self, what: &str, line: &str, reason: NoAnswer, why: &str, tail: &str) -> Halt {
        let way_out = match reason {
            NoAnswer::Cancelled => return Halt::Cancelled(why.to_owned()),
            NoAnswer::NotFound => {
                "; install it where the supervisor runs and put it on PATH, or have `setup` bring it".to_owned()
            }
            NoAnswer::TimedOut => format!(" of {}; make it faster or raise the limit", self.limit()),
            NoAnswer::NotStarted | NoAnswer::Killed => String::new(),
        };
        Halt::CouldNotRun(format!("{what} (`{line}`): {why}{way_out}\n{}", hint(tail)).trim_end().to_owned())
    }
}
