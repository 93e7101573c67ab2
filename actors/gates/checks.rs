//! Runs a repository's command on a commit: check, tests, staging.
//!
//! Owns the way from a request to a verdict: command, evidence, clean checkout, confined jobs, counts, report, row.
//! Invariants: the commit is exact and nothing of an agent's folder is touched; the verdict that is answered was read
//! back from its report; the same evidence is not run twice; the checkout is gone afterwards, whatever happened. What
//! of ours breaks is `could not run`, never `failed`. Refuses to know what follows from the answer.
//!
//! Caches: every run starts without any. A throw-away copy of the judge's cache would be put into the private folders
//! between the checkout and `setup`, and its generation into the evidence's key.

use std::collections::BTreeMap;
use std::ops::Deref;

use orch_adapters::git::{GitError, RepoGit};
use orch_adapters::reports::junit;
use orch_domain::event::CheckEnd;
use orch_domain::gate::Verdict;
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoPath;
use orch_domain::pipeline::RepoCommand;
use orch_domain::testcount::{Judged, judge_command, judge_tests};
use orch_domain::time::Timestamp;

use super::answer::{GateAnswer, GateSubject};
use super::cancel;
use super::command::{self, Command, Found, gate_of};
use super::output::{OUTPUT, Shown};
use super::scratch::Scratch;
use super::site::{Halt, Line, Site};
use super::verdict::Outcome;
use crate::context::Context;

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
    let site = Site::new(ctx, &req.subject, repo, gate_of(req.what));
    let found = match command::find(&site.repo.settings.commands, &site.git, req).await {
        Ok(found) => found,
        Err(error) => return trouble(&error),
    };
    let command = match found {
        Found::Command(command) => command,
        Found::NothingToRun(note) => return CheckEnd::passed(note).into(),
        Found::NotConfigured(why) => return CheckEnd::NotConfigured { why }.into(),
    };
    let tree = match tree_of(&site.git, &req.head).await {
        Ok(tree) => tree,
        Err(error) => return trouble(&error),
    };
    let check = Check { site, req, command, tree, started: ctx.now() };
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

/// One check, with everything that is known before it runs.
pub(super) struct Check<'c> {
    pub(super) site: Site<'c>,
    pub(super) req: &'c CheckRequest,
    pub(super) command: Command,
    pub(super) tree: CommitSha,
    pub(super) started: Timestamp,
}

impl Check<'_> {
    async fn run(&self) -> GateAnswer {
        let scratch = match self.site.scratch() {
            Ok(scratch) => scratch,
            Err(Halt::CouldNotRun(why) | Halt::Cancelled(why)) => return GateAnswer::could_not_run(why),
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
        self.site.check_out(scratch, &self.req.head).await?;
        if let Some(broken) = self.site.set_up(scratch, &self.req.head).await? {
            let text = format!("{}\n\n{}", broken.text, broken.tail);
            let (verdict, tail) = (Verdict::Failed, broken.tail);
            return Ok(Outcome { verdict, text, counts: None, notes: Vec::new(), tail });
        }
        let junit = self.junit_path()?;
        if let Some(path) = &junit {
            let cleared = junit::clear_junit(&scratch.tree(), path);
            cleared.map_err(|error| format!("the old JUnit XML at {path} could not be removed: {error}"))?;
        }
        let finished = self.site.job(scratch, &self.line()).await?;
        let tree = scratch.tree();
        let read = tokio::task::spawn_blocking(move || Shown::read(&finished, &tree, junit.as_ref()));
        let shown = read.await.map_err(|error| format!("the output could not be read: {error}"))??;
        self.settle(shown)
    }

    fn line(&self) -> Line<'_> {
        let (what, line) = (self.req.what.as_str(), self.command.line.as_str());
        Line { what, line, limit: self.site.limit(), env: BTreeMap::new() }
    }

    fn junit_path(&self) -> Result<Option<RepoPath>, Halt> {
        let configured = self.site.repo.settings.commands.junit.as_ref().filter(|_| self.req.what == RepoCommand::Test);
        let path = configured.map(|path| path.parse::<RepoPath>()).transpose();
        path.map_err(|error| Halt::CouldNotRun(format!("`junit` of repository `{}`: {error}", self.req.repo)))
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
            Judged::CouldNotRun { reason, why } => Err(self.site.no_answer(&self.line(), reason, &why, &tail)),
        }
    }
}
