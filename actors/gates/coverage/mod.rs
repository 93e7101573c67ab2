//! The coverage gate: did line coverage of the caught-up head fall?
//!
//! Owns the way from a subject to a verdict: measure (or take what the tests' own run measured), find what it is
//! compared with, judge, say where it fell. Invariants: no tree is measured twice by the same settings, but for the one
//! repetition of a near miss; the totals of another tool or other settings are never compared; what lands carries exactly what
//! was measured on its tree. Refuses to touch the baseline: the store moves it with the landing.

mod against;
mod by_hand;
mod charge;
mod kept;
mod measure;
mod named;
mod plan;
mod text;

use std::sync::{Arc, OnceLock};

use orch_domain::coverage::{Landed, Measurement, Rebase, Totals, rebase_of};
use orch_domain::event::CheckEnd;
use orch_domain::gate::{GateName, ToolVersion, Verdict};
use orch_domain::ids::CommitSha;
use orch_domain::policy::pin_hash;
use orch_domain::testcount::{Judged, judge_tests};
use orch_domain::time::Timestamp;
use orch_store::Baseline;

pub use by_hand::run_by_hand;
pub(in crate::gates) use kept::{Kept, find_fresh, put};
pub(crate) use kept::{doomed, forget};
pub(in crate::gates) use measure::{Bounds, Ran, line_of, run as run_line};
pub(in crate::gates) use plan::{Plan, Planned, plan};

use self::against::{Against, JudgedHead};
use super::answer::{Cause, GateAnswer, GateSubject};
use super::checks::tree_of;
use super::conclude::{Evidence, Found, conclude, count, fenced, known, surroundings};
use super::site::{Halt, Site};
use super::{cancel, command};
use crate::context::{Context, RepoRuntime};

/// Where a run of the gate leaves what it measured, for the landing that may follow.
pub type Slot = Arc<OnceLock<Landed>>;

/// What a run of the command amounts to.
enum Outcome {
    /// It measured.
    Measured(Arc<Measurement>),
    /// The tests ran and left no report that counts.
    NoReport(String),
    /// The tool never started.
    NotStarted(String),
    /// Tests fail; with findings.
    Red(String),
    /// `setup` works on base and not here; with the end of its output.
    Failed(String),
}

impl Outcome {
    /// Why nothing is measured.
    fn why(self) -> String {
        match self {
            Self::Measured(_) => "it was measured".to_owned(),
            Self::NoReport(why) | Self::NotStarted(why) | Self::Red(why) | Self::Failed(why) => why,
        }
    }
}

impl From<Kept> for Outcome {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Measured(kept) => Self::Measured(kept),
            Kept::NoReport(why) => Self::NoReport(why),
            Kept::Red(findings) => Self::Red(findings),
        }
    }
}

/// One run of the gate, with everything that is known before it measures.
struct Gate<'c> {
    site: Site<'c>,
    plan: Plan,
    tree: CommitSha,
    baseline: Option<Baseline>,
    started: Timestamp,
    /// Base was measured for this, and stands for the baseline.
    by_hand: bool,
    /// What the head has, as soon as that is known.
    seen: OnceLock<Totals>,
}

/// Asks the gate about `subject.head`, which is caught up on `subject.base`. What was measured is left in the slot when
/// the answer lets it pass. `no_tests`: the repository is worked on without tests.
pub async fn run(ctx: &Context, subject: &GateSubject, no_tests: bool, slot: &Slot) -> GateAnswer {
    let started = ctx.now();
    let (site, tree, planned) = match find_out(ctx, subject, no_tests).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let baseline = match ctx.store.baseline(&subject.repo).await {
        Ok(baseline) => baseline,
        Err(error) => return GateAnswer::could_not_run(format!("the baseline could not be read: {error}")),
    };
    match planned {
        Planned::NotApplicable(why) => not_applicable(&site, &tree, &why, started).await,
        Planned::Measure(plan) => {
            Gate { site, plan: *plan, tree, baseline, started, by_hand: false, seen: OnceLock::new() }
                .answer(slot)
                .await
        }
    }
}

/// What an earlier run measured on the tree of `subject.head`, for work that reached main by another hand than the lane's:
/// judged as it would land now, without running anything.
pub(crate) async fn measured_before(ctx: &Context, subject: &GateSubject, no_tests: bool) -> Option<Landed> {
    let (site, tree, planned) = find_out(ctx, subject, no_tests).await.ok()?;
    let Planned::Measure(plan) = planned else { return None };
    let baseline = ctx.store.baseline(&subject.repo).await.ok()?;
    let gate = Gate { site, plan: *plan, tree, baseline, started: ctx.now(), by_hand: false, seen: OnceLock::new() };
    let key = gate.key_of(&gate.plan, &gate.tree);
    let Kept::Measured(head) = find_fresh(ctx, &key).await? else { return None };
    let slot = Slot::default();
    match gate.is_still_kept(&slot).await {
        true => slot.get().cloned(),
        // Merged although it does not pass: it is part of the history, and has no right to lower anything.
        false => Some(landed(&head, key, None)),
    }
}

/// What is to be known before anything runs; or the answer, when that is all.
async fn find_out<'c>(
    ctx: &'c Context,
    subject: &'c GateSubject,
    no_tests: bool,
) -> Result<(Site<'c>, CommitSha, Planned), GateAnswer> {
    let Some(repo) = ctx.repo(&subject.repo).cloned() else {
        let text = format!("repository `{}` is not configured any more", subject.repo);
        return Err(GateAnswer::could_not_run(text));
    };
    if subject.base.as_ref() == Some(&subject.head) {
        return Err(CheckEnd::passed("not applicable: nothing is left to land").into());
    }
    let site = Site::new(ctx, subject, repo, GateName::Coverage);
    let prepared = async {
        let tree = tree_of(&site.git, &subject.head).await?;
        Ok::<_, orch_adapters::git::GitError>((tree, plan(&site.repo, &site.git, subject, no_tests).await?))
    };
    match prepared.await {
        Ok((tree, planned)) => Ok((site, tree, planned)),
        Err(error) => Err(GateAnswer::could_not_run(format!("the caught-up commit could not be read: {error}"))),
    }
}

async fn not_applicable(site: &Site<'_>, tree: &CommitSha, why: &str, started: Timestamp) -> GateAnswer {
    let evidence = evidence(site.ctx, &site.repo, tree, (why, None), None);
    let text = format!("not applicable: {why}");
    conclude(site.ctx, site.subject, &evidence, Found::new(Verdict::Passed, text, started)).await
}

/// What lands with a commit on which this was measured.
fn landed(head: &Measurement, measurement: String, rebase: Option<Rebase>) -> Landed {
    Landed {
        totals: head.coverage.totals(),
        excluded: head.coverage.excluded,
        format: head.about.format,
        tool: head.about.tool.clone(),
        measured_by: head.about.measured_by.clone(),
        configuration: head.about.configuration.clone(),
        measurement,
        rebase,
    }
}

fn evidence(
    ctx: &Context,
    repo: &RepoRuntime,
    tree: &CommitSha,
    configuration: (&str, Option<&str>),
    baseline: Option<&Baseline>,
) -> Evidence {
    let against = baseline.map(|baseline| (baseline.revision, baseline.totals));
    Evidence {
        gate: GateName::Coverage,
        tree: tree.clone(),
        settings: pin_hash(&(configuration, &repo.settings.coverage.policy, against)),
        environment: surroundings(ctx, repo),
    }
}

impl Gate<'_> {
    fn ctx(&self) -> &Context {
        self.site.ctx
    }

    fn evidence(&self) -> Evidence {
        evidence(self.ctx(), &self.site.repo, &self.tree, self.plan.settings(), self.baseline.as_ref())
    }

    fn key_of(&self, plan: &Plan, tree: &CommitSha) -> String {
        plan.key(&self.site.subject.repo, tree, &surroundings(self.ctx(), &self.site.repo))
    }

    async fn answer(&self, slot: &Slot) -> GateAnswer {
        let earlier = known(self.ctx(), self.site.subject, &self.evidence()).await;
        if let Some(answer) = earlier {
            match answer.end {
                // It lands with what was measured then: so that has to be at hand.
                CheckEnd::Passed { .. } => {
                    if self.is_still_kept(slot).await {
                        return answer;
                    }
                }
                _ => return answer,
            }
        }
        let found = tokio::select! {
            biased;
            why = cancel::requested() => Err(Halt::Cancelled(why)),
            found = self.find(slot) => found,
        };
        let found = match found {
            Ok(found) => found,
            Err(Halt::CouldNotRun(why)) => (self.found(Verdict::CouldNotRun, why), Cause::None),
            Err(Halt::Cancelled(why)) => return GateAnswer::cancelled(format!("coverage was ended: {why}")),
        };
        let (found, cause) = found;
        conclude(self.ctx(), self.site.subject, &self.evidence(), found).await.because(cause)
    }

    /// Whether what an earlier run let pass is still at hand, so that nothing has to run.
    async fn is_still_kept(&self, slot: &Slot) -> bool {
        let key = self.key_of(&self.plan, &self.tree);
        let Some(Kept::Measured(own)) = find_fresh(self.ctx(), &key).await else { return false };
        let Ok(Some(judged)) = self.judged(own, false).await else { return false };
        self.leave(slot, &judged);
        judged.judgement.passes()
    }

    /// From a measurement to a verdict with all that the report says.
    async fn find(&self, slot: &Slot) -> Result<(Found, Cause), Halt> {
        let own = match self.measured(&self.site.subject.head, &self.tree, &self.plan, false).await? {
            Outcome::Measured(own) => own,
            Outcome::NotStarted(why) => return Ok((self.not_started(&why).await?, Cause::None)),
            Outcome::NoReport(why) => {
                let text = format!("the tests ran, and {why}\n\n{}", text::no_report(&self.plan));
                return Ok((self.with_drift(self.found(Verdict::Failed, text)).await, Cause::None));
            }
            Outcome::Red(findings) => {
                let (found, cause) = self.red(&findings).await?;
                return Ok((self.with_drift(found).await, cause));
            }
            Outcome::Failed(text) => return Ok((self.found(Verdict::Failed, text), Cause::None)),
        };
        let _ = self.seen.set(own.coverage.totals());
        let judged = self.judged(own, true).await?;
        let judged = judged.ok_or_else(|| "what the head is held against was not found".to_owned())?;
        let (judged, again) = match judged.judgement.close {
            false => (judged, None),
            true => self.once_more(judged).await?,
        };
        let mut found = self.say(&judged, again).await?;
        found.warnings.extend(judged.warnings.iter().cloned());
        self.leave(slot, &judged);
        Ok((found, Cause::None))
    }

    /// With what the branch changes about its tests: where there are no numbers, that is the likeliest cause.
    async fn with_drift(&self, mut found: Found) -> Found {
        found.notes.extend(self.drift().await);
        found
    }

    async fn drift(&self) -> Vec<String> {
        let subject = self.site.subject;
        let Some(base) = &subject.base else { return Vec::new() };
        match command::drift(&self.site.git, base, &subject.head).await {
            Ok(drift) => drift,
            Err(error) => vec![format!("what the branch changed about its tests is not known: {error}")],
        }
    }

    fn found(&self, verdict: Verdict, text: String) -> Found {
        let body = format!("{}{}\n", text::command(&self.plan), fenced(&text));
        let seen = self.seen.get().filter(|_| verdict != Verdict::Passed);
        let counts = seen.map(|now| vec![count("covered", now.covered()), count("total", now.total())]);
        let notes = text::settings(&self.plan, None).into_iter().collect();
        Found { body, notes, counts: counts.unwrap_or_default(), ..Found::new(verdict, text, self.started) }
    }

    /// Leaves what lands with the change.
    fn leave(&self, slot: &Slot, judged: &JudgedHead) {
        if !judged.judgement.passes() {
            return;
        }
        let standing = self.baseline.as_ref().map(Baseline::standing);
        let floor = judged.against.basis().and_then(|basis| basis.floor.clone());
        let rebase = rebase_of(standing.as_ref(), &judged.judgement, floor);
        // A slot is one run's.
        let _ = slot.set(landed(&judged.head, self.key_of(&judged.plan, &self.tree), rebase));
    }

    /// What is known about a commit's tree, or what a run finds out now. `anew`: whatever is known.
    async fn measured(&self, sha: &CommitSha, tree: &CommitSha, plan: &Plan, anew: bool) -> Result<Outcome, Halt> {
        let key = self.key_of(plan, tree);
        if let Some(kept) = find_fresh(self.ctx(), &key).await.filter(|_| !anew) {
            return Ok(kept.into());
        }
        // Of the head by its own settings a red run is the tests' matter, and is asked for again.
        let keeps_red = *sha != self.site.subject.head || !plan.overlay().is_empty();
        let scratch = self.site.scratch()?;
        let ran = async {
            self.site.check_out(&scratch, sha).await?;
            if let Some(broken) = self.site.set_up(&scratch, sha).await? {
                return Ok(Err(format!("{}\n\n{}", broken.text, broken.tail)));
            }
            if let Err(Halt::CouldNotRun(why)) = measure::overlay(&scratch, plan).await {
                return Ok(Err(why));
            }
            run_line(&self.site, &scratch, plan, sha, "coverage", None, Bounds::default()).await.map(Ok)
        };
        let ran: Result<Result<Ran, String>, Halt> = ran.await;
        scratch.close().await;
        let ran = match ran? {
            Ok(ran) => ran,
            Err(text) => return Ok(Outcome::Failed(text)),
        };
        if let Some(why) = ran.not_started() {
            return Ok(Outcome::NotStarted(why));
        }
        match judge_tests(&ran.shown.end, ran.shown.counts) {
            Judged::Passed { .. } => {}
            Judged::Failed { why } => {
                let findings = ran.shown.findings(&plan.measuring.line, sha, &why);
                if keeps_red {
                    put(self.ctx(), &key, &Kept::Red(findings.clone())).await;
                }
                return Ok(Outcome::Red(findings));
            }
            Judged::CouldNotRun { reason, why } => {
                let line = line_of(&self.site, plan, "coverage", Bounds::default());
                return Err(self.site.no_answer(&line, reason, &why, &ran.shown.tail));
            }
        }
        let (kept, outcome) = match ran.concluded(&self.site, plan, sha, tree).1 {
            Ok(measurement) => {
                let measurement = Arc::new(measurement);
                (Kept::Measured(measurement.clone()), Outcome::Measured(measurement))
            }
            Err(why) => (Kept::NoReport(why.clone()), Outcome::NoReport(why)),
        };
        // Of a repetition the caller keeps what counts.
        if !anew {
            put(self.ctx(), &key, &kept).await;
        }
        Ok(outcome)
    }

    /// A near miss is measured once more, and the better one counts.
    async fn once_more(&self, first: JudgedHead) -> Result<(JudgedHead, Option<String>), Halt> {
        let one = first.head.coverage.totals();
        let ran = match self.measured(&self.site.subject.head, &self.tree, &first.plan, true).await {
            // What the first run found stands, and it is the one exception: no retry may run it again.
            Err(Halt::CouldNotRun(why)) => Outcome::NotStarted(why),
            ran => ran?,
        };
        let second = match ran {
            Outcome::Measured(second) if second.about.measured_by == first.head.about.measured_by => second,
            Outcome::Measured(_) => {
                return Ok((first, Some(text::no_second(one, "by another tool than the first time"))));
            }
            other => {
                let why = other.why();
                return Ok((first, Some(text::no_second(one, orch_domain::task::first_line(&why)))));
            }
        };
        let other = second.coverage.totals();
        let note = Some(text::twice(one, other));
        if !other.is_above(one) {
            return Ok((first, note));
        }
        put(self.ctx(), &self.key_of(&first.plan, &self.tree), &Kept::Measured(second.clone())).await;
        let judgement = self.judgement(&second, first.own.as_deref(), &first.against).await?;
        Ok((JudgedHead { head: second, judgement, ..first }, note))
    }

    /// The verdict's text, counts and report.
    async fn say(&self, judged: &JudgedHead, again: Option<String>) -> Result<Found, Halt> {
        let JudgedHead { head, own, against, judgement, plan, .. } = judged;
        let (subject, basis) = (self.site.subject, against.basis());
        let mut notes: Vec<String> = again.into_iter().collect();
        notes.extend(text::settings(&self.plan, own.as_ref().map(|own| own.coverage.totals())));
        let named = self.compare(judged).await;
        let compared = &named.compared;
        notes.extend(named.troubles.iter().cloned());
        notes.extend(text::vanished(compared));
        notes.extend(text::unmapped(compared));
        notes.extend(self.drift().await);
        let now = head.coverage.totals();
        let before = basis.map(|basis| (basis.totals, basis.excluded));
        notes.extend(text::excluded(head.coverage.excluded, before.and_then(|(_, excluded)| excluded)));
        notes.extend(head.about.notes.clone());
        if self.by_hand && basis.is_some() {
            notes.push("asked by hand: base was measured, and stands for the baseline".to_owned());
        }
        if judgement.by_removal() {
            notes.push("passed by the removal rule: the landing sets the baseline anew".to_owned());
        }
        if basis.is_some_and(|basis| basis.floor.is_some()) {
            notes.push(
                "tool or configuration changed: compared with base, measured again; the landing sets the baseline anew"
                    .to_owned(),
            );
        }
        let verdict = if judgement.passes() { Verdict::Passed } else { Verdict::Failed };
        let text = match verdict {
            Verdict::Passed => judgement.text(),
            _ => text::findings(judgement, &named, &notes, (&subject.head, subject.rules_at())),
        };
        let policy = &self.site.repo.settings.coverage.policy;
        let known = |name: &str, value: Option<u64>| value.map(|value| count(name, value));
        let mut counts = vec![count("covered", now.covered()), count("total", now.total())];
        counts.extend(known("baseline_covered", before.map(|(totals, _)| totals.covered())));
        counts.extend(known("baseline_total", before.map(|(totals, _)| totals.total())));
        counts.extend(known("excluded", head.coverage.excluded));
        counts.extend(known("baseline_excluded", before.and_then(|(_, excluded)| excluded)));
        if let Against::Lines(lines) = against {
            let (after, before) = (lines.alike.after, lines.alike.before);
            counts.extend([count("alike_covered", after.covered()), count("alike_total", after.total())]);
            counts
                .extend([count("alike_before_covered", before.covered()), count("alike_before_total", before.total())]);
        }
        counts.extend([
            count("files", head.coverage.files.len() as u64),
            count("added_covered", compared.added.covered()),
            count("added_total", compared.added.total()),
            count("min_basis_points", u64::from(policy.min_bp)),
            count("epsilon_basis_points", u64::from(policy.epsilon_bp)),
        ]);
        let tools = vec![
            ToolVersion { name: head.about.format.to_string(), version: text::tool(&head.about) },
            ToolVersion { name: "coverage-configuration".to_owned(), version: plan.configuration().to_owned() },
        ];
        let (shown, before) = match against.compared(now) {
            Some((now, before, sha)) => (now, Some((before, sha))),
            None => (now, None),
        };
        let body = text::body(plan, judgement, shown, before, &named);
        Ok(Found { counts, tools, notes, body, ..Found::new(verdict, text, self.started) })
    }
}
