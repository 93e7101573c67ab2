//! The merge gate: does the branch, caught up on current `main`, still pass the tests, and is all of it still there?
//!
//! Owns the question, its report, and whom a red re-test is charged to. The suite itself runs as the check `tests` on
//! exactly this commit and base, so that what the testing stage found out already is not run again; so does the suite on
//! `main` alone, once per `main`, when the re-test is red. The reports refer to each other by hash. Invariants: "main fails
//! too" is said only after `main` was run in the same surroundings and failed the same tests, and for a task that was put off
//! for it, only after it was run anew: a red `main` is no lasting truth, flaky tests and hosts get well; a patch that a catch-up lost
//! fails before anything is run. Refuses to push or move anything: that is the lane's.

use orch_adapters::git::{CatchUp, CatchUpSpec, CommitLine, RepoGit, WhyMerged};
use orch_domain::event::CheckEnd;
use orch_domain::gate::{GateName, Verdict};
use orch_domain::ids::CommitSha;
use orch_domain::landing::{Account, Blame, WorkFault, account, blame};
use orch_domain::names::BranchName;
use orch_domain::pipeline::RepoCommand;
use orch_domain::policy::pin_hash;
use orch_domain::task::first_line;
use orch_domain::testnames::Failure;
use orch_domain::time::Timestamp;

use super::answer::{Cause, GateAnswer, GateSubject};
use super::checks::{CheckRequest, run_check, tree_of};
use super::conclude::{Evidence, Found, conclude, count, fenced, surroundings};
use super::testing::on_main;
use crate::context::{Context, RepoRuntime};

/// A commit that contains `main`, and how it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaughtUp {
    /// What `main` is called.
    pub main: BranchName,
    /// The branch's own head, before.
    pub own: CommitSha,
    /// The commit that contains `main`; `own` where nothing had to be done, `main` where nothing is left.
    pub head: CommitSha,
    /// What was done, for people.
    pub how: String,
    /// What became of the branch's commits.
    pub account: Account,
}

/// How the tests are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suite {
    /// Whether the repository is worked on without tests.
    pub no_tests: bool,
    /// Whether coverage is asked for too: where one command covers both, it is run once, for both.
    pub coverage: bool,
    /// Whether the task was put off because `main` was red: then no earlier red verdict is taken for granted.
    pub main_was_red: bool,
}

/// A branch and a `main` that do not go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What `main` is called.
    pub main: BranchName,
    /// What is told to whoever has to resolve it.
    pub findings: String,
}

/// Brings `own` on top of `main`, and accounts for every commit of it in a way of its own.
///
/// # Errors
/// As git's.
pub async fn catch_up(
    git: &RepoGit,
    own: &CommitSha,
    (name, main): (&BranchName, &CommitSha),
    spec: &CatchUpSpec,
) -> Result<Result<CaughtUp, Conflict>, orch_adapters::git::GitError> {
    let (head, how) = match git.catch_up(own, main, spec).await? {
        CatchUp::Contains => {
            let how = format!("contains {name} at {} already", main.short());
            let (main, own) = (name.clone(), own.clone());
            return Ok(Ok(CaughtUp { main, head: own.clone(), own, how, account: Account::default() }));
        }
        CatchUp::Rebased { head, again, .. } => {
            let mut how = format!("rebased onto {}: {}", main.short(), head.short());
            if !again.is_empty() {
                let lines: Vec<String> = again.iter().map(|at| format!("{} {}", at.sha.short(), at.subject)).collect();
                how.push_str(&format!("; {name} had brought and taken back, brought again: {}", lines.join(", ")));
            }
            (head, how)
        }
        CatchUp::Merged { head, because } => {
            let how = format!("merged with {}: {} ({})", main.short(), head.short(), why_merged(&because));
            (head, how)
        }
        // Nothing is left to land: main holds the same changes. What stands on main is what is verified.
        CatchUp::Vanished { .. } => (main.clone(), format!("{name} at {} has the same changes already", main.short())),
        CatchUp::Conflict { paths, ours, theirs } => return Ok(Err(conflict(name, main, &paths, &ours, &theirs))),
    };
    let account = account(&git.composition(own, main, &head, spec).await?);
    Ok(Ok(CaughtUp { main: name.clone(), own: own.clone(), head, how, account }))
}

fn why_merged(because: &WhyMerged) -> String {
    match because {
        WhyMerged::BranchHoldsMerges => "the branch holds merges, which a rebase would flatten".to_owned(),
        WhyMerged::TooManyCommits { count } => format!("{count} commits are too many to replay"),
        WhyMerged::RebaseConflicts { at, paths } => {
            format!("replaying {} conflicts in {}, merging does not", at.sha.short(), paths.join(", "))
        }
    }
}

/// What a developer brings the work on top of: the branch, or where none was named, the commit itself.
fn to_go_by(name: &BranchName, at: &CommitSha) -> String {
    if name.as_str() == at.short() { at.to_string() } else { format!("origin/{name}") }
}

fn conflict(
    name: &BranchName,
    main: &CommitSha,
    paths: &[String],
    ours: &[CommitLine],
    theirs: &[CommitLine],
) -> Conflict {
    let lines = |texts: Vec<String>| texts.iter().map(|text| format!("  {text}\n")).collect::<String>();
    let commits = |of: &[CommitLine]| {
        lines(of.iter().map(|c| format!("{} {} ({})", c.sha.short(), c.subject, c.author)).collect())
    };
    let findings = format!(
        "The branch conflicts with {name} at {main}.\nConflicting paths:\n{}Your commits on them:\n{}Commits on {name}:\n{}\
         Merge or rebase `{}` and resolve the conflict.",
        lines(paths.to_vec()),
        commits(ours),
        commits(theirs),
        to_go_by(name, main)
    );
    Conflict { main: name.clone(), findings }
}

/// Asks the gate about `subject.head`, which is caught up on `subject.base`.
pub async fn run(ctx: &Context, subject: &GateSubject, caught: &CaughtUp, suite: Suite) -> GateAnswer {
    let gate = match Gate::open(ctx, subject, suite).await {
        Ok(gate) => gate,
        Err(answer) => return answer,
    };
    if !caught.account.balances() {
        let text = format!(
            "Catching up with {main} at {} did not keep everything of the branch.\n\n{}\n\nRebase onto `{}` yourself, \
             and see that nothing is lost.",
            subject.rules_at(),
            caught.account.lines().join("\n"),
            to_go_by(&caught.main, subject.rules_at()),
            main = caught.main
        );
        return gate.conclude(caught, Verdict::Failed, text, "").await.because(Cause::Work(WorkFault::Conflict));
    }
    gate.test(caught).await
}

/// The gate's answer where the branch cannot be caught up: `subject.head` is the branch's own.
pub async fn conflicted(ctx: &Context, subject: &GateSubject, conflict: &Conflict) -> GateAnswer {
    let gate = match Gate::open(ctx, subject, Suite::default()).await {
        Ok(gate) => gate,
        Err(answer) => return answer,
    };
    let caught = CaughtUp {
        main: conflict.main.clone(),
        own: subject.head.clone(),
        head: subject.head.clone(),
        how: format!("conflicts with {} at {}", conflict.main, subject.rules_at().short()),
        account: Account::default(),
    };
    let answer = gate.conclude(&caught, Verdict::Failed, conflict.findings.clone(), "").await;
    answer.because(Cause::Work(WorkFault::Conflict))
}

/// One question to the gate.
struct Gate<'g> {
    ctx: &'g Context,
    subject: &'g GateSubject,
    repo: std::sync::Arc<RepoRuntime>,
    tree: CommitSha,
    suite: Suite,
    started: Timestamp,
}

impl<'g> Gate<'g> {
    async fn open(ctx: &'g Context, subject: &'g GateSubject, suite: Suite) -> Result<Self, GateAnswer> {
        let started = ctx.now();
        let Some(repo) = ctx.repo(&subject.repo).cloned() else {
            let why = format!("repository `{}` is not configured any more", subject.repo);
            return Err(GateAnswer::could_not_run(why));
        };
        let tree = tree_of(&repo.git, &subject.head)
            .await
            .map_err(|error| GateAnswer::could_not_run(format!("the caught-up commit could not be read: {error}")))?;
        Ok(Self { ctx, subject, repo, tree, suite, started })
    }

    /// Tests the combined tree; where it is red, finds out whether `main` alone is.
    async fn test(&self, caught: &CaughtUp) -> GateAnswer {
        let mut tested = self.tests_on(self.subject.clone(), false).await;
        let told = |answer: &GateAnswer, of: &str| {
            answer.report.as_ref().map_or_else(String::new, |report| {
                let again =
                    answer.earlier.as_ref().map_or_else(String::new, |run| format!(", judged before by run {run}"));
                format!("Tests of {of}: report `{}`, SHA-256 `{}`{again}.\n", report.gate.report_file(), report.sha256)
            })
        };
        let mut alone = None;
        if matches!(tested.end, CheckEnd::Failed { .. }) {
            let anew = self.suite.main_was_red;
            let on_main = self.tests_on(GateSubject { head: self.main().clone(), ..self.subject.clone() }, anew).await;
            if on_main.cause == Cause::Cancelled {
                return on_main;
            }
            // Main has got well without a commit: so may the combined tree have.
            if anew && tested.was_known() && matches!(on_main.end, CheckEnd::Passed { .. }) {
                tested = self.tests_on(self.subject.clone(), true).await;
            }
            alone = Some(on_main);
        }
        let mut body = told(&tested, "the caught-up commit");
        let (verdict, text, cause) = match &tested.end {
            CheckEnd::Passed { note, .. } => (Verdict::Passed, note.clone(), Cause::None),
            CheckEnd::CouldNotRun { .. } if tested.cause == Cause::Cancelled => return tested,
            CheckEnd::CouldNotRun { why } => (Verdict::CouldNotRun, why.clone(), Cause::None),
            CheckEnd::NotConfigured { .. } => return tested,
            CheckEnd::Failed { findings } => {
                let Some(alone) = alone else { return tested };
                body.push_str(&told(&alone, &format!("{} alone", caught.main)));
                self.charge(&caught.main, findings, alone.end)
            }
        };
        self.conclude(caught, verdict, text, &body).await.because(cause).resting_on(tested.earlier)
    }

    fn main(&self) -> &CommitSha {
        self.subject.rules_at()
    }

    async fn tests_on(&self, subject: GateSubject, anew: bool) -> GateAnswer {
        let limit = self.repo.settings.limits.retest;
        let Suite { no_tests, coverage, .. } = self.suite;
        let check = CheckRequest { subject, what: RepoCommand::Test, no_tests, coverage, limit, silence: None, anew };
        run_check(self.ctx, &check).await
    }

    /// Whom a red combined tree is charged to.
    fn charge(&self, name: &BranchName, findings: &str, alone: CheckEnd) -> (Verdict, String, Cause) {
        let main = self.main();
        match blame(&Failure::of(findings), name, &on_main(alone)) {
            Blame::Work { note, .. } => {
                let text = format!(
                    "The change, caught up with {name} at {main}, fails the tests. What {name} brought may be the cause.\n{note}\n\n{findings}"
                );
                (Verdict::Failed, text, Cause::Work(WorkFault::Tests))
            }
            Blame::Main { note } => {
                let text = format!("{name} is red at {main}, nothing can land on it.\n{note}\n\n{findings}");
                (Verdict::Failed, text, Cause::MainRed)
            }
            Blame::Unknown { why } => {
                let text = format!("the combined tree is red; {why}\n\n{findings}");
                (Verdict::CouldNotRun, text, Cause::None)
            }
        }
    }

    async fn conclude(&self, caught: &CaughtUp, verdict: Verdict, text: String, tests: &str) -> GateAnswer {
        let account = &caught.account;
        let mut body = format!("{}\n", fenced(first_line(&text)));
        body.push_str(&format!("Branch at `{}`: {}.\n\n", caught.own, caught.how));
        let lines = account.lines();
        if !lines.is_empty() {
            body.push_str(&format!("{}\n", fenced(&lines.join("\n"))));
        }
        body.push_str(tests);
        if verdict != Verdict::Passed {
            body.push_str(&format!("\nFindings:\n\n{}", fenced(&text)));
        }
        let number = |of: &[String]| of.len() as u64;
        let counts = vec![
            count("patches_kept", account.kept as u64),
            count("patches_altered", number(&account.altered)),
            count("patches_on_main", number(&account.already_on_main)),
            count("patches_lost", number(&account.lost)),
        ];
        let commands = &self.repo.settings.commands;
        let evidence = Evidence {
            gate: GateName::Merge,
            tree: self.tree.clone(),
            settings: pin_hash(&(self.suite.no_tests, &commands.test, &commands.junit)),
            environment: surroundings(self.ctx, &self.repo),
        };
        let found = Found { counts, body, ..Found::new(verdict, text, self.started) };
        conclude(self.ctx, self.subject, &evidence, found).await
    }
}
