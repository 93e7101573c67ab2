//! The coverage gate: did line coverage of the caught-up head fall?
//!
//! Owns the way from a subject to a verdict: measure (or take what the tests' own run measured), find what it is
//! compared with, judge, say where it fell. Invariants: no tree is measured twice, but for the one repetition of a near
//! miss; what was measured by another tool or configuration is never compared; what lands carries exactly what was
//! measured on its tree. Refuses to touch the baseline: the store moves it with the landing.

mod by_hand;
mod charge;
mod kept;
mod measure;
mod named;
mod plan;
mod text;

use std::sync::{Arc, OnceLock};

use orch_domain::coverage::{Because, CoverageMode, Judgement, Landed, Mark, Measurement, Rebase, Totals, judge};
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

/// What the head is compared with.
struct Basis {
    totals: Totals,
    /// Which commit that is.
    sha: CommitSha,
    /// Its lines, when they are still kept.
    lines: Option<Arc<Measurement>>,
    excluded: Option<u64>,
    /// Base measured again: what the baseline may become.
    floor: Option<Mark>,
}

/// What the head is held against.
enum Against {
    /// This.
    Basis(Box<Basis>),
    /// Nothing: there is no baseline, or the rule does not look at it.
    Nothing,
    /// Nothing, since base cannot have the settings by which the head was measured.
    Incomparable,
    /// Base, which would have to be measured first.
    NotMeasured,
}

impl Against {
    fn basis(&self) -> Option<&Basis> {
        match self {
            Self::Basis(basis) => Some(basis),
            Self::Nothing | Self::Incomparable | Self::NotMeasured => None,
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
            Gate { site, plan: *plan, tree, baseline, started, by_hand: false }.answer(slot).await
        }
    }
}

/// What an earlier run measured on the tree of `subject.head`, for work that reached main by another hand than the lane's:
/// judged as it would land now, without running anything.
pub(crate) async fn measured_before(ctx: &Context, subject: &GateSubject, no_tests: bool) -> Option<Landed> {
    let (site, tree, planned) = find_out(ctx, subject, no_tests).await.ok()?;
    let Planned::Measure(plan) = planned else { return None };
    let baseline = ctx.store.baseline(&subject.repo).await.ok()?;
    let gate = Gate { site, plan: *plan, tree, baseline, started: ctx.now(), by_hand: false };
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
    let evidence = evidence(site.ctx, &site.repo, tree, why, None);
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
    configuration: &str,
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
        evidence(self.ctx(), &self.site.repo, &self.tree, &self.plan.configuration, self.baseline.as_ref())
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
        let Some(Kept::Measured(head)) = find_fresh(self.ctx(), &key).await else { return false };
        let against = match self.against(&head, false).await {
            Ok(Against::NotMeasured) | Err(_) => return false,
            Ok(against) => against,
        };
        let judged = self.judge(head.coverage.totals(), &against);
        self.leave(slot, &head, &judged, against.basis());
        judged.passes()
    }

    /// From a measurement to a verdict with all that the report says.
    async fn find(&self, slot: &Slot) -> Result<(Found, Cause), Halt> {
        let head = match self.measured(&self.site.subject.head, &self.tree, &self.plan, false).await? {
            Outcome::Measured(head) => head,
            Outcome::NotStarted(why) => return Ok((self.not_started(&why).await?, Cause::None)),
            Outcome::NoReport(why) => {
                let text = format!("the tests ran, and {why}\n\n{}", text::no_report(&self.plan));
                return Ok((self.found(Verdict::Failed, text), Cause::None));
            }
            Outcome::Red(findings) => return self.red(&findings).await,
            Outcome::Failed(text) => return Ok((self.found(Verdict::Failed, text), Cause::None)),
        };
        let against = self.against(&head, true).await?;
        let judged = self.judge(head.coverage.totals(), &against);
        let (head, judged, again) = match judged.close {
            false => (head, judged, None),
            true => self.once_more(head, judged, &against).await?,
        };
        let mut found = self.say(&head, &judged, against.basis(), again).await?;
        if matches!(against, Against::Incomparable) {
            found.warnings.push(text::incomparable(&self.plan));
        }
        self.leave(slot, &head, &judged, against.basis());
        Ok((found, Cause::None))
    }

    fn judge(&self, head: Totals, against: &Against) -> Judgement {
        let totals = against.basis().map(|basis| basis.totals);
        let judged = judge(&self.site.repo.settings.coverage.policy, head, totals);
        match against {
            Against::Incomparable => judged.without_comparison(),
            Against::Basis(_) | Against::Nothing | Against::NotMeasured => judged,
        }
    }

    fn found(&self, verdict: Verdict, text: String) -> Found {
        let body = format!("{}{}\n", text::command(&self.plan), fenced(&text));
        Found { body, notes: self.plan.remarks(), ..Found::new(verdict, text, self.started) }
    }

    /// Leaves what lands with the change.
    fn leave(&self, slot: &Slot, head: &Measurement, judged: &Judgement, basis: Option<&Basis>) {
        if !judged.passes() {
            return;
        }
        let by_removal = judged.by_removal();
        let floor = basis.and_then(|basis| basis.floor.clone());
        let rebase = self.baseline.as_ref().filter(|_| floor.is_some() || by_removal).map(|baseline| Rebase {
            because: if floor.is_some() { Because::MeasuredAgain } else { Because::Removal },
            revision: baseline.revision,
            floor: floor.filter(|_| !by_removal),
        });
        // A slot is one run's.
        let _ = slot.set(landed(head, self.key_of(&self.plan, &self.tree), rebase));
    }

    /// What the head is held against: the baseline's own measurement, or base, measured again where the baseline was
    /// measured by another tool or configuration, as far as the rule needs it. Without `may_run` only what is kept counts.
    async fn against(&self, head: &Measurement, may_run: bool) -> Result<Against, Halt> {
        let Some(baseline) = &self.baseline else { return Ok(Against::Nothing) };
        if baseline.measured_by.as_ref().is_none_or(|by| *by == head.about.measured_by) {
            let lines = match &baseline.measurement {
                Some(key) => kept::find(self.ctx(), key, None).await,
                None => None,
            };
            let lines = match lines {
                Some(Kept::Measured(lines))
                    if lines.coverage.totals() == baseline.totals && named::comparable(&lines, head) =>
                {
                    Some(lines)
                }
                _ => None,
            };
            let (totals, sha, excluded) = (baseline.totals, baseline.sha.clone(), baseline.excluded);
            return Ok(Against::Basis(Box::new(Basis { totals, sha, lines, excluded, floor: None })));
        }
        // By the absolute rule nobody has to know what base has.
        if self.site.repo.settings.coverage.policy.mode == CoverageMode::Absolute {
            return Ok(Against::Nothing);
        }
        // Two labels on one measurement would compare what is not alike.
        if !self.plan.is_comparable() {
            return Ok(Against::Incomparable);
        }
        let base = self.site.subject.rules_at();
        let tree = tree_of(&self.site.git, base).await.map_err(|error| error.to_string())?;
        let plan = self.plan.for_base();
        let before = match may_run {
            true => self.measured(base, &tree, &plan, false).await?,
            false => match find_fresh(self.ctx(), &self.key_of(&plan, &tree)).await {
                Some(Kept::Measured(before)) => Outcome::Measured(before),
                _ => return Ok(Against::NotMeasured),
            },
        };
        let now = head.coverage.totals();
        let way_out = format!(
            "the baseline was measured by another tool or configuration, so base {} was to be measured again; mend that, or set the baseline by hand; the head has {now} (`orch baseline set --repo {} --covered {} --total {} --reason ...`)",
            base.short(),
            self.site.subject.repo,
            now.covered(),
            now.total()
        );
        let before = match before {
            Outcome::Measured(before) if before.about.measured_by == head.about.measured_by => before,
            Outcome::Measured(before) => {
                let (one, other) = (text::tool(&head.about), text::tool(&before.about));
                return Err(Halt::CouldNotRun(format!("head was measured by {one}, base by {other}; {way_out}")));
            }
            Outcome::NoReport(why) | Outcome::NotStarted(why) | Outcome::Red(why) | Outcome::Failed(why) => {
                return Err(Halt::CouldNotRun(format!("{way_out}: {why}")));
            }
        };
        let totals = before.coverage.totals();
        let mark = Mark { totals, sha: base.clone(), measurement: self.key_of(&plan, &tree) };
        let excluded = before.coverage.excluded;
        let basis = Basis { totals, sha: base.clone(), lines: Some(before), excluded, floor: Some(mark) };
        Ok(Against::Basis(Box::new(basis)))
    }

    /// What is known about a commit's tree, or what a run finds out now. `anew`: whatever is known.
    async fn measured(&self, sha: &CommitSha, tree: &CommitSha, plan: &Plan, anew: bool) -> Result<Outcome, Halt> {
        let key = self.key_of(plan, tree);
        match find_fresh(self.ctx(), &key).await.filter(|_| !anew) {
            Some(Kept::Measured(kept)) => return Ok(Outcome::Measured(kept)),
            Some(Kept::NoReport(why)) => return Ok(Outcome::NoReport(why)),
            Some(Kept::Red(findings)) => return Ok(Outcome::Red(findings)),
            None => {}
        }
        let scratch = self.site.scratch()?;
        let ran = async {
            self.site.check_out(&scratch, sha).await?;
            if let Some(broken) = self.site.set_up(&scratch, sha).await? {
                return Ok(Err(format!("{}\n\n{}", broken.text, broken.tail)));
            }
            if *sha != self.site.subject.head {
                measure::overlay(&scratch, plan).await?;
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
                if *sha != self.site.subject.head {
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
    async fn once_more(
        &self,
        first: Arc<Measurement>,
        judged: Judgement,
        against: &Against,
    ) -> Result<(Arc<Measurement>, Judgement, Option<String>), Halt> {
        let one = first.coverage.totals();
        let ran = match self.measured(&self.site.subject.head, &self.tree, &self.plan, true).await {
            // What the first run found stands, and it is the one exception: no retry may run it again.
            Err(Halt::CouldNotRun(why)) => Outcome::NotStarted(why),
            ran => ran?,
        };
        let second = match ran {
            Outcome::Measured(second) if second.about.measured_by == first.about.measured_by => second,
            Outcome::Measured(_) => {
                return Ok((first, judged, Some(text::no_second(one, "by another tool than the first time"))));
            }
            Outcome::NoReport(why) | Outcome::NotStarted(why) | Outcome::Red(why) | Outcome::Failed(why) => {
                let why = orch_domain::task::first_line(&why);
                return Ok((first, judged, Some(text::no_second(one, why))));
            }
        };
        let other = second.coverage.totals();
        let note = Some(text::twice(one, other));
        if !other.is_above(one) {
            return Ok((first, judged, note));
        }
        put(self.ctx(), &self.key_of(&self.plan, &self.tree), &Kept::Measured(second.clone())).await;
        let judged = self.judge(other, against);
        Ok((second, judged, note))
    }

    /// The verdict's text, counts and report.
    async fn say(
        &self,
        head: &Measurement,
        judged: &Judgement,
        basis: Option<&Basis>,
        again: Option<String>,
    ) -> Result<Found, Halt> {
        let subject = self.site.subject;
        let mut notes: Vec<String> = again.into_iter().collect();
        notes.extend(self.plan.remarks());
        let named = self.compare(head, judged, basis).await;
        let compared = &named.compared;
        notes.extend(named.troubles.iter().cloned());
        notes.extend(text::vanished(compared));
        notes.extend(text::unmapped(compared));
        if let Some(base) = &subject.base {
            match command::drift(&self.site.git, base, &subject.head).await {
                Ok(drift) => notes.extend(drift),
                Err(error) => notes.push(format!("what the branch changed about its tests is not known: {error}")),
            }
        }
        let now = head.coverage.totals();
        let before = basis.map(|basis| (basis.totals, basis.excluded));
        notes.extend(text::excluded(head.coverage.excluded, before.and_then(|(_, excluded)| excluded)));
        notes.extend(head.about.notes.clone());
        if self.by_hand && basis.is_some() {
            notes.push("asked by hand: base was measured, and stands for the baseline".to_owned());
        }
        if judged.by_removal() {
            notes.push("passed by the removal rule: the landing sets the baseline anew".to_owned());
        }
        if basis.is_some_and(|basis| basis.floor.is_some()) {
            notes.push(
                "tool or configuration changed: compared with base, measured again; the landing sets the baseline anew"
                    .to_owned(),
            );
        }
        let verdict = if judged.passes() { Verdict::Passed } else { Verdict::Failed };
        let text = match verdict {
            Verdict::Passed => judged.text(),
            _ => text::findings(judged, &named, &notes, (&subject.head, subject.rules_at())),
        };
        let policy = &self.site.repo.settings.coverage.policy;
        let known = |name: &str, value: Option<u64>| value.map(|value| count(name, value));
        let mut counts = vec![count("covered", now.covered()), count("total", now.total())];
        counts.extend(known("baseline_covered", before.map(|(totals, _)| totals.covered())));
        counts.extend(known("baseline_total", before.map(|(totals, _)| totals.total())));
        counts.extend(known("excluded", head.coverage.excluded));
        counts.extend(known("baseline_excluded", before.and_then(|(_, excluded)| excluded)));
        counts.extend([
            count("files", head.coverage.files.len() as u64),
            count("added_covered", compared.added.covered()),
            count("added_total", compared.added.total()),
            count("min_basis_points", u64::from(policy.min_bp)),
            count("epsilon_basis_points", u64::from(policy.epsilon_bp)),
        ]);
        let tools = vec![
            ToolVersion { name: head.about.format.to_string(), version: text::tool(&head.about) },
            ToolVersion { name: "coverage-configuration".to_owned(), version: self.plan.configuration.clone() },
        ];
        let body = text::body(&self.plan, judged, now, basis.map(|basis| (basis.totals, &basis.sha)), &named);
        Ok(Found { counts, tools, notes, body, ..Found::new(verdict, text, self.started) })
    }
}
