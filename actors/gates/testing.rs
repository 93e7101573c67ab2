//! The tests of the testing stage: on the task's own head, and where they are red, on what the task began on.
//!
//! Owns the word about base in the findings. Invariants: "main fails too" is said only after base was run in the same
//! surroundings and failed the same tests; what it said is run once per base. Refuses to let anything pass because of it: what
//! the developer can do about a red base is to bring the work on top of a `main` that was mended, and the lane asks again.

use orch_domain::event::CheckEnd;
use orch_domain::landing::{Blame, OnMain, blame};
use orch_domain::names::BranchName;
use orch_domain::pipeline::RepoCommand;
use orch_domain::testnames::Failure;

use super::answer::{Cause, GateAnswer, GateSubject};
use super::checks::{CheckRequest, run_check};
use crate::context::Context;

/// Runs a stage's command to its answer; red tests are compared with base's.
pub async fn run_stage(ctx: &Context, req: &CheckRequest) -> GateAnswer {
    let answer = run_check(ctx, req).await;
    let (CheckEnd::Failed { findings }, RepoCommand::Test, Some(base)) = (&answer.end, req.what, &req.base) else {
        return answer;
    };
    let Some(repo) = ctx.repo(&req.repo).filter(|_| *base != req.head) else { return answer };
    let alone = CheckRequest { subject: GateSubject { head: base.clone(), ..req.subject.clone() }, ..req.clone() };
    let on_base = run_check(ctx, &alone).await;
    if on_base.cause == Cause::Cancelled {
        return on_base;
    }
    let main = repo.main().await.unwrap_or_else(|_| "main".parse().expect("a branch name"));
    let findings = match blame(&Failure::of(findings), &main, &on_main(on_base.end)) {
        Blame::Main { note } => format!("{}\n{note}\n\n{findings}", red_itself(&main, base.short())),
        Blame::Work { also_on_main, note } if !also_on_main.is_empty() => format!("{findings}\n\n{note}"),
        Blame::Unknown { why } => format!("{findings}\n\n{why}"),
        Blame::Work { .. } => return answer,
    };
    GateAnswer { end: CheckEnd::Failed { findings }, ..answer }
}

/// What the tests said about a commit of `main` alone.
pub(super) fn on_main(end: CheckEnd) -> OnMain {
    match end {
        CheckEnd::Passed { .. } => OnMain::Passed,
        CheckEnd::Failed { findings } => OnMain::Failed(Failure::of(&findings)),
        CheckEnd::CouldNotRun { why } => OnMain::CouldNotRun(why),
        CheckEnd::NotConfigured { .. } => OnMain::NoTests,
    }
}

fn red_itself(main: &BranchName, base: &str) -> String {
    format!(
        "{main} was red itself at {base}, where this work began: these failures are not its own. Merge `origin/{main}` if it was \
         mended since, or mend it here."
    )
}
