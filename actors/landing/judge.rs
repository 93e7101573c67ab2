//! The lane's gates, asked in their order about the commit that is to land.
//!
//! Owns which gates are asked, what becomes of their answers, and what the proof says about them. Invariants: a gate in
//! scope has a report that was read back, and is read again right before the window; a gate that is switched off is named
//! in the proof; the first gate that does not pass ends the landing. Refuses to judge anything itself.

use std::sync::{Arc, OnceLock};

use orch_domain::coverage::Landed as Measured;
use orch_domain::event::{CheckEnd, LandingEnd};
use orch_domain::gate::{GateName, InScope, LANDING_GATES};
use orch_domain::ids::{CommitSha, Epoch};
use orch_domain::landing::{Candidate, Proven, WorkFault, may_land};
use orch_domain::policy::GatePlan;
use orch_domain::task::Task;
use serde_json::{Value, json};

use super::{Halt, Landing, could_not_run};
use crate::checks::{Asked, subject_of};
use crate::context::Paths;
use crate::gates::conclude::reread;
use crate::gates::merge::{self, CaughtUp, Suite};
use crate::gates::{Cause, GateAnswer, GateSubject, ReportRef, coverage, image, security};

/// What the gates said about one candidate.
pub(super) struct Judged {
    answers: Vec<(GateName, String, Option<ReportRef>)>,
    off: Vec<&'static str>,
    coverage: Option<Measured>,
}

impl Judged {
    /// Reads every report again: what is landed on must still say what was answered, about this very tree.
    pub(super) async fn still_stands(
        &self,
        plan: GatePlan,
        head: &CommitSha,
        tree: &CommitSha,
        base: &CommitSha,
    ) -> Result<(), Halt> {
        let mut proven = Vec::new();
        for report in self.answers.iter().filter_map(|(_, _, report)| report.as_ref()) {
            let read = reread(report)
                .await
                .map_err(|why| could_not_run(format!("a gate's report does not stand any more: {why}")))?;
            let (verdict, header) = (read.verdict, read.header);
            proven.push(Proven { gate: report.gate, verdict, head: header.head, tree: header.tree, base: header.base });
        }
        // A gate that had nothing to ask has no report, and says so in the proof; only these two may have nothing to ask.
        let may_be_silent = [GateName::Coverage, GateName::ImageFreshness];
        let silent = self.answers.iter().filter(|(gate, _, report)| report.is_none() && may_be_silent.contains(gate));
        let silent = silent.map(|(gate, _, _)| *gate);
        let plan = silent.fold(plan, GatePlan::without);
        let candidate = Candidate { head: head.clone(), tree: tree.clone(), base: base.clone() };
        may_land(&candidate, plan, &proven).map_err(could_not_run)
    }

    /// For the proof line: reports by their names in the data folder.
    pub(super) fn proof(&self, paths: &Paths) -> Value {
        let line = |(gate, note, report): &(GateName, String, Option<ReportRef>)| {
            let hash = report.as_ref().map(|report| report.sha256.clone());
            let path = report.as_ref().map(|report| paths.kept_name(&report.path));
            let of = report.as_ref().map(|report| (report.head.clone(), report.base.clone()));
            let (head, base) = of.map_or((None, None), |(head, base)| (Some(head), base));
            json!({
                "gate": gate, "verdict": "passed", "note": note, "report_sha256": hash, "report": path,
                "head": head, "base": base,
            })
        };
        self.answers.iter().map(line).collect()
    }

    /// What coverage measured on the candidate: noted with the window, so that whoever closes it moves the baseline.
    pub(super) const fn coverage(&self) -> Option<&Measured> {
        self.coverage.as_ref()
    }

    /// What was not asked though it could have been, and `tests` where the repository has none.
    pub(super) fn switched_off(&self) -> Value {
        json!(self.off)
    }
}

impl Landing {
    /// Asks the gates in scope about `head`, which is caught up on `main_at`. Failing, the work goes back as it was caught up:
    /// the same with the notes that the next prompt builds on.
    pub(super) async fn judge(
        &self,
        task: &Task,
        main_at: &CommitSha,
        head: &CommitSha,
        caught: &CaughtUp,
    ) -> Result<Judged, Halt> {
        let mut judged = Judged { answers: Vec::new(), off: off_by_switch(task), coverage: None };
        let plan = task.policy.gates;
        if plan.security.is_asked() && head != main_at {
            self.judge_objects(&mut judged, task, main_at, head, caught).await?;
        }
        if plan.merge.is_asked() {
            self.say("testing the combined tree");
            let ctx = self.ctx.clone();
            let suite = Suite {
                no_tests: task.policy.no_tests,
                coverage: plan.coverage.is_asked(),
                main_was_red: task.counters.main_red > 0,
            };
            let subject = self.subject(task, main_at, head).await?;
            let asked = subject.clone();
            let how = caught.clone();
            let work = async move { merge::run(&ctx, &asked, &how, suite).await };
            let answer = self.ask(task, subject, GateName::Merge, work).await?;
            self.take(&mut judged, GateName::Merge, answer, "", main_at, caught).await?;
            self.border().await?;
        }
        if plan.coverage.is_asked() {
            self.say("measuring coverage");
            let (ctx, slot) = (self.ctx.clone(), coverage::Slot::default());
            let subject = self.subject(task, main_at, head).await?;
            let (asked, left) = (subject.clone(), slot.clone());
            let no_tests = task.policy.no_tests;
            let work = async move { coverage::run(&ctx, &asked, no_tests, &left).await };
            let answer = self.ask(task, subject, GateName::Coverage, work).await?;
            self.take(&mut judged, GateName::Coverage, answer, "", main_at, caught).await?;
            judged.coverage = slot.get().cloned();
            self.border().await?;
        }
        if plan.image_freshness.is_asked() {
            self.judge_image(task, &mut judged, main_at, head, caught).await?;
        }
        Ok(judged)
    }

    /// Has the image built and looked at, where one is named.
    async fn judge_image(
        &self,
        task: &Task,
        judged: &mut Judged,
        main_at: &CommitSha,
        head: &CommitSha,
        caught: &CaughtUp,
    ) -> Result<(), Halt> {
        if self.repo.settings.image.is_none() {
            // Neither a slot nor a report: there is nothing to look at.
            judged.answers.push((GateName::ImageFreshness, image::NOT_APPLICABLE.to_owned(), None));
            return Ok(());
        }
        self.say("building the image and looking at it");
        let subject = self.subject(task, main_at, head).await?;
        let (ctx, asked) = (self.ctx.clone(), subject.clone());
        let work = async move { image::run(&ctx, &asked).await };
        let answer = self.ask(task, subject, GateName::ImageFreshness, work).await?;
        let failed = "does not make the right image";
        self.take(judged, GateName::ImageFreshness, answer, failed, main_at, caught).await?;
        self.border().await
    }

    /// The security gate's word on the branch as it was before, which is known and only read again, and on the objects that
    /// the catch-up made.
    async fn judge_objects(
        &self,
        judged: &mut Judged,
        task: &Task,
        main_at: &CommitSha,
        head: &CommitSha,
        caught: &CaughtUp,
    ) -> Result<(), Halt> {
        let own = task.head.clone().unwrap_or_else(|| head.clone());
        let of_caught_up = self.subject(task, main_at, head).await?;
        let of_branch = GateSubject { base: task.base.clone(), head: own.clone(), ..of_caught_up.clone() };
        let mut asked = vec![(of_branch, Vec::new())];
        if *head != own {
            asked.push((of_caught_up, vec![own]));
        }
        for (subject, known) in asked {
            self.say("looking for secrets");
            let (ctx, of) = (self.ctx.clone(), subject.clone());
            let work = async move { security::run(&ctx, &of, &known).await };
            let answer = self.ask(task, subject, GateName::Security, work).await?;
            let failed = "does not pass the security gate";
            self.take(judged, GateName::Security, answer, failed, main_at, caught).await?;
            self.border().await?;
        }
        Ok(())
    }

    pub(crate) async fn subject(
        &self,
        task: &Task,
        main_at: &CommitSha,
        head: &CommitSha,
    ) -> Result<GateSubject, Halt> {
        let owned = self.ctx.store.load_task(&self.task).await.map_err(could_not_run)?;
        let epoch: Epoch = owned.map(|stored| stored.epoch).unwrap_or_default();
        Ok(subject_of(task, task.run_id(task.counters.runs), epoch, Some(main_at.clone()), head.clone()))
    }

    /// Runs a gate in the pool, ahead of those that hold no lease.
    async fn ask(
        &self,
        task: &Task,
        subject: GateSubject,
        gate: GateName,
        work: impl Future<Output = GateAnswer> + Send + 'static,
    ) -> Result<GateAnswer, Halt> {
        let Some(gates) = self.directory.gates() else { return Err(could_not_run("the gate pool is being restarted")) };
        let asked = Asked {
            gates: &gates,
            snapshots: &self.snapshots,
            priority: task.priority,
            lease_holder: true,
            alone: false,
        };
        let (ctx, took) = (self.ctx.clone(), Arc::new(OnceLock::new()));
        let told = took.clone();
        // From when it has a slot: waiting for one is no testing.
        let timed = async move {
            let began = ctx.now();
            let answer = work.await;
            told.get_or_init(|| ctx.now().since(began));
            answer
        };
        let answer = asked.of(subject, gate.as_str(), timed).await;
        if let Some(took) = took.get().filter(|_| gate == GateName::Merge && !answer.was_known()) {
            self.turn.tested(*took);
        }
        Ok(answer)
    }

    /// Keeps an answer that lets the change pass; any other ends the landing.
    async fn take(
        &self,
        judged: &mut Judged,
        gate: GateName,
        answer: GateAnswer,
        failed: &str,
        main_at: &CommitSha,
        caught: &CaughtUp,
    ) -> Result<(), Halt> {
        let (report, cause) = (answer.report.clone(), answer.cause);
        match answer.told() {
            CheckEnd::Passed { note, warnings } => {
                self.note("gate-passed", format!("{gate} on {}: {note}", main_at.short()));
                for warning in warnings {
                    self.note("warning", format!("{gate}: {warning}"));
                }
                judged.answers.push((gate, note, report));
                Ok(())
            }
            CheckEnd::Failed { findings } => {
                let fault = match cause {
                    Cause::MainRed => return Err(Some(LandingEnd::MainRed { why: findings })),
                    Cause::Work(fault) => fault,
                    Cause::None | Cause::Cancelled => WorkFault::Gate,
                };
                let main = &caught.main;
                let findings = match failed {
                    "" => findings,
                    failed => {
                        format!("The change, caught up with {main}, {failed}.\n{main} is at {main_at}.\n\n{findings}")
                    }
                };
                // What a catch-up lost is not gone on from.
                let go_on = if fault == WorkFault::Conflict { None } else { Some(caught.head.clone()) };
                Err(Some(LandingEnd::SentBack { fault, findings, head: go_on }))
            }
            CheckEnd::CouldNotRun { why } => {
                self.border().await?;
                // We ended it ourselves: that is nobody's failure, and the lane looks again.
                Err(if cause == Cause::Cancelled { None } else { could_not_run(why) })
            }
            CheckEnd::NotConfigured { why } => Err(Some(LandingEnd::NotConfigured { why })),
        }
    }
}

/// Gates that the operator has switched off for this repository, and `tests` where there are none.
fn off_by_switch(task: &Task) -> Vec<&'static str> {
    let plan = task.policy.gates;
    let gates = LANDING_GATES.into_iter().filter(|gate| plan.of(*gate) == InScope::SwitchedOff).map(GateName::as_str);
    gates.chain(task.policy.no_tests.then_some("tests")).collect()
}

/// Gates that are for other repositories.
pub(super) fn out_of_scope(task: &Task) -> Vec<&'static str> {
    let others = |gate: &GateName| task.policy.gates.of(*gate) == InScope::OtherRepositories;
    LANDING_GATES.into_iter().filter(others).map(GateName::as_str).collect()
}
