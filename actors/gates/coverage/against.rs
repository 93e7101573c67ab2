//! What a measured head is held against, and the judgement that comes of it.
//!
//! Owns the way from the branch's own measurement to a judged one: by base's settings where the branch changes them, against
//! the baseline, against base measured by the same settings, or else line by line. Invariants: totals are compared under one
//! label only; a head that base's settings cannot measure passes only where nothing that was measured is left out, moves
//! no baseline, and says so loudly; else a person is asked. Refuses to run anything where only what is kept counts.

use std::sync::Arc;

use orch_domain::coverage::{Alike, Judgement, Mark, Measurement, Standard, Totals, judge, judge_alike, standard};
use orch_domain::ids::CommitSha;
use orch_domain::task::first_line;
use orch_store::Baseline;

use super::kept::{self, Kept, find_fresh};
use super::named::comparable;
use super::plan::Plan;
use super::{Gate, Outcome, text, tree_of};
use crate::gates::site::Halt;

/// What the head is compared with.
pub(super) struct Basis {
    pub(super) totals: Totals,
    /// Which commit that is.
    pub(super) sha: CommitSha,
    /// Its lines, when they are still kept.
    pub(super) lines: Option<Arc<Measurement>>,
    pub(super) excluded: Option<u64>,
    /// Base measured again: what the baseline may become.
    pub(super) floor: Option<Mark>,
}

/// A head and an earlier measurement by other settings or another tool.
pub(super) struct ByLines {
    pub(super) alike: Alike,
    /// On which commit the earlier one was made.
    pub(super) since: CommitSha,
    pub(super) before: Arc<Measurement>,
}

/// What the head is held against.
pub(super) enum Against {
    /// This.
    Basis(Box<Basis>),
    /// The lines that both count.
    Lines(Box<ByLines>),
    /// Nothing: there is no baseline, or the rule does not look at it.
    Nothing,
}

impl Against {
    pub(super) fn basis(&self) -> Option<&Basis> {
        match self {
            Self::Basis(basis) => Some(basis),
            Self::Lines(_) | Self::Nothing => None,
        }
    }

    /// The numbers that the judgement compares, where it does, and of which commit the second ones are.
    pub(super) fn compared(&self, head: Totals) -> Option<(Totals, Totals, &CommitSha)> {
        match self {
            Self::Basis(basis) => Some((head, basis.totals, &basis.sha)),
            Self::Lines(lines) => Some((lines.alike.after, lines.alike.before, &lines.since)),
            Self::Nothing => None,
        }
    }
}

/// A head, judged.
pub(super) struct JudgedHead {
    /// The measurement that was judged, and lands.
    pub(super) head: Arc<Measurement>,
    /// By which plan it was made.
    pub(super) plan: Plan,
    /// By the branch's own settings, where the head was judged by base's.
    pub(super) own: Option<Arc<Measurement>>,
    pub(super) against: Against,
    pub(super) judgement: Judgement,
    /// What was let pass, or compared otherwise than by totals; a sentence each.
    pub(super) warnings: Vec<String>,
}

impl Gate<'_> {
    /// Judges what the branch's own settings measured. `None`: for that something has to run, and it may not.
    pub(super) async fn judged(&self, own: Arc<Measurement>, may_run: bool) -> Result<Option<JudgedHead>, Halt> {
        let mut unheld = None;
        let mut judged = None;
        match self.plan.held() {
            None => {}
            Some(Err(why)) => unheld = Some(why),
            Some(Ok(plan)) => match self.look(&self.site.subject.head, &self.tree, &plan, may_run).await? {
                None => return Ok(None),
                Some(Outcome::Measured(held))
                    if held.coverage.totals().total() > 0 || own.coverage.totals().total() == 0 =>
                {
                    judged = Some((plan, held));
                }
                Some(Outcome::Measured(_)) => unheld = Some("they count nothing in it".to_owned()),
                Some(other) => unheld = Some(first_line(&other.why()).to_owned()),
            },
        }
        let (plan, head, own) = match judged {
            Some((plan, held)) => (plan, held, Some(own)),
            None => (self.plan.clone(), own, None),
        };
        let Some((against, mut warnings)) = self.against(&head, unheld.as_deref(), may_run).await? else {
            return Ok(None);
        };
        if let (Against::Nothing, Some(why)) = (&against, &unheld) {
            warnings.push(text::unheld(&self.plan, why));
        }
        let judgement = self.judgement(&head, own.as_deref(), &against).await?;
        Ok(Some(JudgedHead { head, plan, own, against, judgement, warnings }))
    }

    /// The judgement alone, for a head that may have been measured once more.
    pub(super) async fn judgement(
        &self,
        head: &Measurement,
        own: Option<&Measurement>,
        against: &Against,
    ) -> Result<Judgement, Halt> {
        let policy = &self.site.repo.settings.coverage.policy;
        let totals = head.coverage.totals();
        let basis = match against {
            Against::Lines(lines) => return Ok(judge_alike(policy, totals, lines.alike.before, lines.alike.after)),
            Against::Basis(basis) => Some(basis),
            Against::Nothing => None,
        };
        let judged = judge(policy, totals, basis.map(|basis| basis.totals));
        let Some(own) = own else { return Ok(judged) };
        let alike = match basis.and_then(|basis| Some((&basis.sha, basis.lines.as_ref()?))) {
            Some((since, before)) => Some(self.alike(since, before, own).await?),
            None => None,
        };
        let alike = alike.map(|alike| (alike.before, alike.after));
        Ok(judged.and_by_its_own(policy, totals, own.coverage.totals(), alike))
    }

    async fn alike(&self, since: &CommitSha, before: &Measurement, head: &Measurement) -> Result<Alike, Halt> {
        let changed = self.changed(since).await;
        let changed =
            changed.map_err(|why| format!("which lines changed since {} is not known: {why}", since.short()))?;
        Ok(Alike::of(&before.coverage, &head.coverage, &changed.changes, &changed.gone))
    }

    /// What the head is held against, with what there is to say about it. `unheld`: why base's settings could not measure
    /// it, where the branch has others.
    async fn against(
        &self,
        head: &Measurement,
        unheld: Option<&str>,
        may_run: bool,
    ) -> Result<Option<(Against, Vec<String>)>, Halt> {
        let standing = self.baseline.as_ref().map(Baseline::standing);
        let fresh = unheld.is_some() && self.was_set_last().await?;
        let mode = self.site.repo.settings.coverage.policy.mode;
        let standard = standard(mode, standing.as_ref(), &head.about.measured_by, unheld.is_none(), fresh);
        let why = match (standard, &self.baseline) {
            (Standard::Nothing, _) | (_, None) => return Ok(Some((Against::Nothing, Vec::new()))),
            (Standard::Baseline, Some(baseline)) => {
                let lines = self.lines_of(baseline).await.filter(|lines| comparable(lines, head));
                let (totals, sha, excluded) = (baseline.totals, baseline.sha.clone(), baseline.excluded);
                let basis = Basis { totals, sha, lines, excluded, floor: None };
                return Ok(Some((Against::Basis(Box::new(basis)), Vec::new())));
            }
            (Standard::Base, Some(_)) => match self.base(may_run).await? {
                None => return Ok(None),
                Some(Ok((before, mark))) if comparable(&before, head) => {
                    let (totals, sha, excluded) = (mark.totals, mark.sha.clone(), before.coverage.excluded);
                    let basis = Basis { totals, sha, lines: Some(before), excluded, floor: Some(mark) };
                    return Ok(Some((Against::Basis(Box::new(basis)), Vec::new())));
                }
                Some(Ok((before, _))) => {
                    let (one, other) = (text::tool(&head.about), text::tool(&before.about));
                    format!("the head was measured by {one}, base by {other}")
                }
                Some(Err(why)) => {
                    let base = self.site.subject.rules_at().short().to_owned();
                    format!(
                        "the baseline was measured by another tool or other settings, and base {base} could not be measured by these: {why}"
                    )
                }
            },
            (Standard::Lines, Some(_)) => {
                format!("the head could not be measured by base's settings: {}", unheld.unwrap_or_default())
            }
        };
        let Some(lines) = self.by_lines(head, &why, may_run).await? else { return Ok(None) };
        Ok(Some((Against::Lines(Box::new(lines)), vec![text::by_lines(&why)])))
    }

    /// The lines that head and baseline, or else base, both count.
    async fn by_lines(&self, head: &Measurement, why: &str, may_run: bool) -> Result<Option<ByLines>, Halt> {
        let ask = |what: String| Halt::CouldNotRun(format!("{what}; {}", self.way_out(head, why)));
        let kept = match &self.baseline {
            Some(baseline) => self.lines_of(baseline).await.map(|lines| (baseline.sha.clone(), lines)),
            None => None,
        };
        let (since, before) = match kept {
            Some(kept) => kept,
            None => match self.base(may_run).await? {
                None => return Ok(None),
                Some(Ok((lines, mark))) => (mark.sha, lines),
                Some(Err(why)) => return Err(ask(format!("there are no lines to compare with ({why})"))),
            },
        };
        let alike = self.alike(&since, &before, head).await?;
        if !alike.vanished.is_empty() {
            return Err(ask(text::left_out(&alike.vanished)));
        }
        if alike.before.total() == 0 {
            return Err(ask("no line counts by both".to_owned()));
        }
        let policy = &self.site.repo.settings.coverage.policy;
        let judged = judge_alike(policy, head.coverage.totals(), alike.before, alike.after);
        let one_tool = (head.about.format, &head.about.tool) == (before.about.format, &before.about.tool);
        if !judged.passes() && !one_tool {
            // What another tool counts otherwise is nobody's loss.
            return Err(ask(judged.text()));
        }
        Ok(Some(ByLines { alike, since, before }))
    }

    /// Base by its own settings, and the mark that it would be; or why it has none.
    async fn base(&self, may_run: bool) -> Result<Option<Result<(Arc<Measurement>, Mark), String>>, Halt> {
        let base = self.site.subject.rules_at();
        let tree = tree_of(&self.site.git, base).await.map_err(|error| error.to_string())?;
        let plan = self.plan.for_base();
        Ok(self.look(base, &tree, &plan, may_run).await?.map(|outcome| match outcome {
            Outcome::Measured(before) => {
                let totals = before.coverage.totals();
                let mark = Mark { totals, sha: base.clone(), measurement: self.key_of(&plan, &tree) };
                Ok((before, mark))
            }
            other => Err(other.why()),
        }))
    }

    /// A baseline's own lines, when they are still kept.
    async fn lines_of(&self, baseline: &Baseline) -> Option<Arc<Measurement>> {
        match kept::find(self.ctx(), baseline.measurement.as_ref()?, None).await? {
            Kept::Measured(lines) if lines.coverage.totals() == baseline.totals => Some(lines),
            _ => None,
        }
    }

    /// Whether the last that happened to the baseline is a person's word, and nothing has landed on it yet.
    async fn was_set_last(&self) -> Result<bool, Halt> {
        let lines = self.ctx().store.coverage_history(&self.site.subject.repo, None, 1).await;
        let lines = lines.map_err(|error| format!("the history of the baseline could not be read: {error}"))?;
        Ok(!self.by_hand && lines.first().is_some_and(|line| line.task.is_none()))
    }

    /// What a person can do about a head that nothing can be compared with.
    fn way_out(&self, head: &Measurement, why: &str) -> String {
        let (now, repo, sha) = (head.coverage.totals(), &self.site.subject.repo, &self.site.subject.head);
        if self.by_hand {
            return format!("{why}; the head has {now}. With `gates.coverage.mode: absolute` nothing is compared");
        }
        format!(
            "{why}; let the change of settings land by itself, mend that, or have a person say what is to hold from here on: the head has {now} (`orch baseline set --repo {repo} --covered {} --total {} --sha {sha} --reason ...`)",
            now.covered(),
            now.total()
        )
    }

    /// What is known about a commit's tree, or what a run finds out; `None` where nothing may run.
    async fn look(
        &self,
        sha: &CommitSha,
        tree: &CommitSha,
        plan: &Plan,
        may_run: bool,
    ) -> Result<Option<Outcome>, Halt> {
        if may_run {
            return self.measured(sha, tree, plan, false).await.map(Some);
        }
        Ok(find_fresh(self.ctx(), &self.key_of(plan, tree)).await.map(Outcome::from))
    }
}
