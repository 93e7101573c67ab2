//! One gate, asked by hand about a range of commits of any repository: for people, hooks and CI.
//!
//! Owns the throw-away data folder and what is asked of whom. The gate is the very one of the landing; only nothing is
//! remembered, and nothing moves. Invariant: the folder is gone afterwards, with everything in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use orch_actors::context::Context;
use orch_actors::gates::merge::{self, Suite};
use orch_actors::gates::{GateAnswer, GateSubject, coverage, image, security};
use orch_adapters::disk::SystemDisk;
use orch_adapters::forge::BorrowedForge;
use orch_adapters::git::{CatchUpSpec, DirectExec, GitRooms, GitSettings};
use orch_domain::event::CheckEnd;
use orch_domain::gate::{GateName, Verdict};
use orch_domain::ids::{CommitSha, Epoch, Generation};
use orch_domain::names::{BranchName, RepoName};

use super::{Guard, Purpose, context};
use crate::cli::{CliError, GateArgs, GateOutcome};
use crate::config::{Config, EmbeddedRepo};

/// Asks the gate.
pub(super) async fn ask(
    config: Config,
    env: &BTreeMap<String, String>,
    args: &GateArgs,
) -> Result<GateOutcome, CliError> {
    let refused = |error: String| CliError::CouldNot(error);
    let folder = tempfile::Builder::new().prefix("orch-gate-").tempdir();
    let folder = folder.map_err(|error| refused(format!("no temporary folder for the gate: {error}")))?;
    let told = EmbeddedRepo {
        path: args.repo.clone(),
        by_origin: true,
        test_command: args.test_cmd.clone(),
        no_tests: args.no_tests,
        ..EmbeddedRepo::default()
    };
    let mut config = config.embedded_for(&told).map_err(|error| CliError::Usage(error.to_string()))?;
    config.data_dir = folder.path().join("data");
    if let Some(line) = &args.coverage_cmd {
        for repo in config.repos.values_mut() {
            repo.commands.coverage = Some(line.clone());
        }
    }
    if !args.build {
        // A build gives the image's name to another one, be it in production.
        config.repos.values_mut().for_each(|repo| repo.commands.build_image = None);
    }
    let Some((name, repo)) = config.repos.iter().next() else {
        return Err(refused("the settings hold no repository".to_owned()));
    };
    let name = name.clone();
    let path = repo.path.clone().unwrap_or_else(|| args.repo.clone());
    let there = There::open(&path, &name, folder.path()).await?;
    let base = there.commit(&args.base).await?;
    let head = there.commit(&args.head).await?;
    // What is asked for is the base, whatever is checked out there.
    let main = there.called(&args.base, &base).await?;
    for repo in config.repos.values_mut() {
        repo.main = Some(main.clone());
    }
    let subject = GateSubject {
        task: "byhand".parse().expect("letters are an id"),
        key: "GATE-1".parse().expect("a key"),
        generation: Generation(1),
        run: "byhand".parse().expect("letters are an id"),
        epoch: Epoch(0),
        repo: name.clone(),
        base: Some(base.clone()),
        head: head.clone(),
    };
    let ctx = context(&config, env, Guard::default(), Arc::new(SystemDisk), Purpose::Look).await;
    let ctx = ctx.map_err(|error| refused(error.to_string()))?;
    let answer = match args.name {
        GateName::Security => security::run(&ctx, &subject, &[]).await,
        GateName::Coverage => coverage::run_by_hand(&ctx, &subject).await,
        GateName::Merge => ask_merge(&ctx, &subject).await,
        GateName::ImageFreshness => image::run(&ctx, &subject).await,
        other => GateAnswer::could_not_run(format!("`{other}` cannot be asked by hand in this version")),
    };
    let outcome = outcome(args.name, base, head, answer).await;
    ctx.store.close();
    Ok(outcome)
}

/// Brings the head on top of the base, in the throw-away folder, and asks about what that gives.
async fn ask_merge(ctx: &Context, subject: &GateSubject) -> GateAnswer {
    let Some(repo) = ctx.repo(&subject.repo) else {
        return GateAnswer::could_not_run(format!("there is no repository `{}`", subject.repo));
    };
    let spec = CatchUpSpec {
        task: subject.task.clone(),
        at: ctx.now(),
        merge_message: format!("Merge {}", subject.rules_at().short()),
    };
    let main = match repo.main().await {
        Ok(main) => main,
        Err(error) => return GateAnswer::could_not_run(format!("what the base is called is not known: {error}")),
    };
    let base = (&main, subject.rules_at());
    let caught = match merge::catch_up(&repo.lane_git, &subject.head, base, &spec).await {
        Ok(Ok(caught)) => caught,
        Ok(Err(conflict)) => return merge::conflicted(ctx, subject, &conflict).await,
        Err(error) => return GateAnswer::could_not_run(format!("the work could not be caught up: {error}")),
    };
    let suite = Suite { no_tests: repo.settings.policy.no_tests, ..Suite::default() };
    let subject = GateSubject { head: caught.head.clone(), ..subject.clone() };
    merge::run(ctx, &subject, &caught, suite).await
}

/// The repository as the person who asks has it.
struct There<'p> {
    path: &'p Path,
    rooms: GitRooms,
    forge: BorrowedForge,
}

fn unusable(error: orch_adapters::forge::ForgeSetupError) -> CliError {
    CliError::Usage(error.to_string())
}

impl<'p> There<'p> {
    async fn open(path: &'p Path, name: &RepoName, folder: &Path) -> Result<Self, CliError> {
        let rooms = GitRooms::new(folder.join("look"), Arc::new(DirectExec), GitSettings::default());
        let forge = BorrowedForge::open(path, &rooms, name).await.map_err(unusable)?;
        Ok(Self { path, rooms, forge })
    }

    /// The commit that a revision means.
    async fn commit(&self, revision: &str) -> Result<CommitSha, CliError> {
        let found = self.forge.resolve(self.path, &self.rooms, revision).await.map_err(unusable)?;
        found.ok_or_else(|| CliError::Usage(format!("`{revision}` is no commit of {}", self.path.display())))
    }

    /// What a revision is called in what people read: its branch, without the remote's name; else its commit.
    async fn called(&self, revision: &str, at: &CommitSha) -> Result<BranchName, CliError> {
        let branch = self.forge.branch(self.path, &self.rooms, revision).await.map_err(unusable)?;
        Ok(branch.unwrap_or_else(|| at.short().parse().expect("hexadecimal digits are a branch name")))
    }
}

async fn outcome(gate: GateName, base: CommitSha, head: CommitSha, answer: GateAnswer) -> GateOutcome {
    let (verdict, text, warnings) = match answer.end {
        CheckEnd::Passed { note, warnings } => (Verdict::Passed, note, warnings),
        CheckEnd::Failed { findings } => (Verdict::Failed, findings, Vec::new()),
        CheckEnd::CouldNotRun { why } | CheckEnd::NotConfigured { why } => (Verdict::CouldNotRun, why, Vec::new()),
    };
    let report = match answer.report {
        Some(report) => tokio::fs::read_to_string(report.path).await.ok(),
        None => None,
    };
    GateOutcome { gate, verdict, base, head, text, warnings, report }
}
