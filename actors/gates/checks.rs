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
use std::sync::Arc;

use orch_adapters::git::{GitError, RepoGit};
use orch_adapters::reports::junit;
use orch_domain::coverage::rules::stands_for;
use orch_domain::event::CheckEnd;
use orch_domain::gate::Verdict;
use orch_domain::ids::{CommitSha, Epoch, Generation};
use orch_domain::names::RepoPath;
use orch_domain::pipeline::RepoCommand;
use orch_domain::testcount::{Judged, NoAnswer, judge_command, judge_tests};
use orch_domain::testnames;
use orch_domain::time::{Millis, Timestamp};

use super::answer::{GateAnswer, GateSubject};
use super::cancel;
use super::command::{self, Command, Found, gate_of};
use super::conclude::surroundings;
use super::coverage::{self, Bounds, Kept, Plan, Planned};
use super::output::{OUTPUT, Shown};
use super::scratch::Scratch;
use super::site::{Halt, Line, Site};
use super::verdict::Outcome;
use crate::context::{Context, RepoRuntime};

/// A check to be run.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// What is judged, and for whom.
    pub subject: GateSubject,
    /// Which command.
    pub what: RepoCommand,
    /// Whether the repository is worked on without tests.
    pub no_tests: bool,
    /// Whether coverage is asked for too: where one command covers both, it is run once, for both.
    pub coverage: bool,
    /// Longest run of the command; `None`: that of its sort.
    pub limit: Option<Millis>,
    /// Its longest silence; `None`: that of its sort.
    pub silence: Option<Millis>,
    /// Whether an earlier verdict on the same evidence does not do.
    pub anew: bool,
}

impl Deref for CheckRequest {
    type Target = GateSubject;

    fn deref(&self) -> &GateSubject {
        &self.subject
    }
}

/// Why nothing has to run for a request, where the settings alone say so: for that nobody waits for a slot.
#[must_use]
pub fn nothing_to_run(ctx: &Context, req: &CheckRequest) -> Option<String> {
    command::nothing_to_run(&ctx.repo(&req.repo)?.settings.commands, req.what, req.no_tests)
}

/// Why work on this commit cannot be tested: no command is configured, and none is detected in its files. `None`: it can
/// be, or that cannot be told now.
pub async fn untestable(ctx: &Context, repo: &Arc<RepoRuntime>, base: &CommitSha) -> Option<String> {
    let policy = &repo.settings.policy;
    let subject = GateSubject {
        task: "none".parse().ok()?,
        key: "NONE-1".parse().ok()?,
        generation: Generation(1),
        run: "none".parse().ok()?,
        epoch: Epoch(0),
        repo: repo.settings.name.clone(),
        base: Some(base.clone()),
        head: base.clone(),
    };
    let (no_tests, coverage) = (policy.no_tests, policy.gates.coverage.is_asked());
    let req =
        CheckRequest { subject, what: RepoCommand::Test, no_tests, coverage, limit: None, silence: None, anew: false };
    let site = Site::new(ctx, &req.subject, repo.clone(), gate_of(req.what));
    let mut found = command::find(&repo.settings.commands, &site.git, &req).await.ok()?;
    let measured = combined(&site, &req, &mut found).await.ok()?;
    match (found, measured) {
        (Found::NotConfigured(why), None) => Some(why),
        _ => None,
    }
}

/// Runs a check to its answer. Ends early when its gate run is cancelled (see [`cancel`]).
pub async fn run_check(ctx: &Context, req: &CheckRequest) -> GateAnswer {
    let Some(repo) = ctx.repo(&req.repo).cloned() else {
        return GateAnswer::could_not_run(format!("repository `{}` is not configured any more", req.repo));
    };
    let site = Site::new(ctx, &req.subject, repo, gate_of(req.what));
    let mut found = match command::find(&site.repo.settings.commands, &site.git, req).await {
        Ok(found) => found,
        Err(error) => return trouble(&error),
    };
    let with_coverage = match combined(&site, req, &mut found).await {
        Ok(plan) => plan,
        Err(error) => return trouble(&error),
    };
    let command = match (found, &with_coverage) {
        (Found::Command(command), _) => Some(command),
        // The coverage command runs the tests.
        (Found::NotConfigured(_), Some(_)) => None,
        (Found::NothingToRun(note), _) => return CheckEnd::passed(note).into(),
        (Found::NotConfigured(why), None) => return CheckEnd::NotConfigured { why }.into(),
    };
    let tree = match tree_of(&site.git, &req.head).await {
        Ok(tree) => tree,
        Err(error) => return trouble(&error),
    };
    let check = Check { site, req, command, with_coverage, tree, started: ctx.now() };
    if !req.anew
        && let Some(end) = check.known().await
    {
        return end;
    }
    check.run().await
}

/// How coverage is measured in the same run, where that is asked for and one command covers both: somebody says so, or the
/// tests are nobody's choice and the same runner runs them. A test command that somebody named is run, whatever measures.
async fn combined(site: &Site<'_>, req: &CheckRequest, found: &mut Found) -> Result<Option<Plan>, GitError> {
    if req.what != RepoCommand::Test || req.no_tests || !req.coverage {
        return Ok(None);
    }
    let Planned::Measure(plan) = coverage::plan(&site.repo, &site.git, &req.subject, false).await? else {
        return Ok(None);
    };
    let Found::Command(tests) = found else { return Ok(plan.runs_tests.unwrap_or(true).then_some(*plan)) };
    let (measures, line) = (&plan.measuring.line, &tests.line);
    let stands = plan.runs_tests.unwrap_or_else(|| !tests.named && stands_for(&plan.measuring, line));
    if !stands && plan.runs_tests.is_none() {
        let way = "if that runs these tests too, `commands.coverage_runs_tests: true` makes it one run";
        tests.notes.push(format!("coverage is measured by a run of its own (`{measures}`); {way}"));
    }
    Ok(stands.then_some(*plan))
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
    /// The command; `None`: there is only the one that measures coverage.
    pub(super) command: Option<Command>,
    /// How coverage is measured in the same run.
    pub(super) with_coverage: Option<Plan>,
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
        let answer = async {
            match outcome {
                Ok(outcome) => self.conclude(outcome).await,
                Err(Halt::CouldNotRun(why)) => self.conclude(Outcome::could_not_run(why)).await,
                Err(Halt::Cancelled(why)) => {
                    GateAnswer::cancelled(format!("{} was ended: {why}", self.req.what.as_str()))
                }
            }
        };
        // The one needs nothing of the other; the answer comes when nothing is left.
        futures::join!(scratch.close(), answer).1
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
        let Some(plan) = &self.with_coverage else {
            return self.plain(scratch, junit, Vec::new()).await;
        };
        let (head, what) = (&self.req.head, self.req.what.as_str());
        let bounds = Bounds { limit: self.req.limit, silence: self.req.silence };
        let ran = coverage::run_line(&self.site, scratch, plan, head, what, junit.clone(), bounds).await?;
        if let Some(why) = ran.not_started() {
            let note = format!("the coverage command did not start ({why}), so the tests were run without it");
            return self.plain(scratch, junit, vec![note]).await;
        }
        let key = plan.key(&self.req.repo, &self.tree, &surroundings(self.site.ctx, &self.site.repo));
        let (shown, measured) = ran.concluded(&self.site, plan, &self.req.head, &self.tree);
        let kept = match measured {
            Ok(measurement) => Kept::Measured(Arc::new(measurement)),
            Err(why) => Kept::NoReport(why),
        };
        let mut outcome = self.settle(shown, &coverage::line_of(&self.site, plan, what, bounds))?;
        if let Some(Command { line, source, .. }) = &self.command {
            outcome.notes.push(format!("the coverage command stands for `{line}` ({source}), which was not run"));
        }
        if outcome.verdict == Verdict::Passed {
            coverage::put(self.site.ctx, &key, &kept).await;
        }
        Ok(outcome)
    }

    /// The tests without coverage.
    async fn plain(&self, scratch: &Scratch, junit: Option<RepoPath>, mut notes: Vec<String>) -> Result<Outcome, Halt> {
        let Some(command) = &self.command else {
            let why = notes.pop().unwrap_or_default();
            return Err(Halt::CouldNotRun(format!("{why}: but no test command is named or detected to run instead")));
        };
        if let Some(path) = &junit {
            let cleared = junit::clear_junit(&scratch.tree(), path);
            cleared.map_err(|error| format!("the old JUnit XML at {path} could not be removed: {error}"))?;
        }
        let limit = self.req.limit.unwrap_or_else(|| self.site.limit());
        let what = self.req.what.as_str();
        let line = Line { what, line: &command.line, limit, silence: self.req.silence, env: BTreeMap::new() };
        let finished = self.site.job(scratch, &line).await?;
        let tree = scratch.tree();
        let read = tokio::task::spawn_blocking(move || Shown::read(&finished, &tree, junit.as_ref()));
        let shown = read.await.map_err(|error| format!("the output could not be read: {error}"))??;
        let mut outcome = self.settle(shown, &line)?;
        outcome.notes.append(&mut notes);
        Ok(outcome)
    }

    fn junit_path(&self) -> Result<Option<RepoPath>, Halt> {
        let configured = self.site.repo.settings.commands.junit.as_ref().filter(|_| self.req.what == RepoCommand::Test);
        let path = configured.map(|path| path.parse::<RepoPath>()).transpose();
        path.map_err(|error| Halt::CouldNotRun(format!("`junit` of repository `{}`: {error}", self.req.repo)))
    }

    /// From what the job showed to an outcome.
    fn settle(&self, shown: Shown, ran: &Line<'_>) -> Result<Outcome, Halt> {
        let Shown { end, tail, counts, junit_trouble, junit, failed, cut } = shown;
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
        let line = ran.line;
        if counts.is_none()
            && let Some(why) = self.site.absent(line, &end, &tail)
        {
            return Err(self.site.no_answer(ran, NoAnswer::NotFound, &why, ""));
        }
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
                let whole = !cut && counts.is_none_or(|counts| counts.failed == failed.len() as u64);
                let named = testnames::list(&failed, whole);
                let text = format!("`{line}` failed on {}: {why}\n\n{named}{tail}", self.req.head.short());
                Ok(Outcome { verdict: Verdict::Failed, text, counts, notes, tail })
            }
            Judged::CouldNotRun { reason, why } => Err(self.site.no_answer(ran, reason, &why, &tail)),
        }
    }
}
