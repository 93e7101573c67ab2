//! The merge gate: does the branch, caught up on current `main`, still pass the tests?
//!
//! Owns the question and its report. The suite itself runs as the check `tests` on exactly this commit and base, so that
//! what the testing stage found out already is not run again; this gate's report refers to that one by hash. Refuses to
//! catch up, push or move anything: that is the lane's.

use orch_domain::event::CheckEnd;
use orch_domain::gate::{GateName, Verdict};
use orch_domain::pipeline::RepoCommand;
use orch_domain::policy::pin_hash;
use orch_domain::task::first_line;

use super::answer::{GateAnswer, GateSubject};
use super::checks::{CheckRequest, run_check, tree_of};
use super::conclude::{Evidence, Found, conclude, fenced, surroundings};
use crate::context::Context;

/// Asks the gate about `subject.head`, which is caught up on `subject.base`.
pub async fn run(ctx: &Context, subject: &GateSubject, no_tests: bool, coverage: bool) -> GateAnswer {
    let started = ctx.now();
    let Some(repo) = ctx.repo(&subject.repo).cloned() else {
        return GateAnswer::could_not_run(format!("repository `{}` is not configured any more", subject.repo));
    };
    let tree = match tree_of(&repo.git, &subject.head).await {
        Ok(tree) => tree,
        Err(error) => return GateAnswer::could_not_run(format!("the caught-up commit could not be read: {error}")),
    };
    let check = CheckRequest { subject: subject.clone(), what: RepoCommand::Test, no_tests, coverage };
    let tested = run_check(ctx, &check).await;
    let (verdict, text) = match &tested.end {
        CheckEnd::Passed { note, .. } => (Verdict::Passed, note.clone()),
        CheckEnd::Failed { findings } => (Verdict::Failed, findings.clone()),
        CheckEnd::CouldNotRun { why } => (Verdict::CouldNotRun, why.clone()),
        CheckEnd::NotConfigured { .. } => return tested,
    };
    let mut body = format!("{}\n", fenced(first_line(&text)));
    if let Some(report) = &tested.report {
        body.push_str(&format!("Tests: report `{}`, SHA-256 `{}`.\n", report.gate.report_file(), report.sha256));
    }
    let evidence = Evidence {
        gate: GateName::Merge,
        tree,
        settings: pin_hash(&(no_tests, &repo.settings.commands.test, &repo.settings.commands.junit)),
        environment: surroundings(ctx, &repo),
    };
    conclude(ctx, subject, &evidence, Found { body, ..Found::new(verdict, text, started) }).await
}
