//! The judgement of the dependency audit.
//!
//! Owns: only what the branch adds can fail it; an advisory that base has for the same name is old, whichever id it goes
//! by; what a person ignores fails nothing while it lasts; whatever is not known makes the audit degraded, which passes
//! with a warning unless the operator demands whole answers. Then what the branch leaves unknown fails it, and what the feed
//! leaves unknown is nobody's fault: nothing can be concluded. A new advisory fails in any case. Refuses to weigh severities.

use std::collections::{BTreeMap, BTreeSet};

use super::advisory::{Advisory, Answer, Folding};
use super::changes::Changes;
use super::ignore::Ignore;
use super::lockfile::{Pin, Unknown};
use super::package::Package;
use crate::gate::{Count, Verdict};
use crate::time::Timestamp;

/// Everything that the judgement looks at.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What the branch brings.
    pub changes: &'a Changes,
    /// What was answered, by package.
    pub answers: &'a BTreeMap<Package, Answer>,
    /// What is wrong with the feed as a whole (its data are old, say).
    pub feed_trouble: &'a [String],
    /// What people have decided to live with; the first entry that fits counts.
    pub ignores: &'a [Ignore],
    /// Now.
    pub now: Timestamp,
    /// Whether a degraded audit is no pass.
    pub fail_closed: bool,
}

/// One hole in one added dependency, with everything that feeds say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is added, and where.
    pub pin: Pin,
    /// All ids, the feed's own one first.
    pub ids: Vec<String>,
    /// One line.
    pub summary: String,
    /// The feed's word for how bad it is.
    pub severity: Option<String>,
    /// Versions without it.
    pub fixed: Vec<String>,
    /// What else there is to say.
    pub note: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Its answer.
    pub verdict: Verdict,
    /// What the branch brings: these fail.
    pub new: Vec<Finding>,
    /// What base has too.
    pub old: Vec<Finding>,
    /// What people live with, with their reasons.
    pub ignored: Vec<Finding>,
    /// Notices that name no hole.
    pub notices: Vec<Finding>,
    /// What the branch brings in a form that nobody can say anything about.
    pub unknown: Vec<Unknown>,
    /// What it brings properly, and the feed did not answer for.
    pub unanswered: Vec<Unknown>,
    /// What is wrong with the feed.
    pub feed_trouble: Vec<String>,
    /// Dependencies that the branch adds.
    pub added: usize,
    /// Of these, those that somebody answered for and nothing is known against.
    pub clean: usize,
    /// Whether something is not known.
    pub degraded: bool,
}

/// Judges.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Judgement {
    let Evidence { changes, answers, feed_trouble, ignores, now, fail_closed } = *evidence;
    let folding = Folding::of(answers.values().flat_map(|answer| &answer.advisories));
    let nobody = Answer::unknown("nobody was asked about it");
    let answer_for = |package: &Package| answers.get(package).unwrap_or(&nobody);
    let mut judgement = Judgement {
        verdict: Verdict::Passed,
        new: Vec::new(),
        old: Vec::new(),
        ignored: Vec::new(),
        notices: Vec::new(),
        unknown: changes.unknown.clone(),
        unanswered: Vec::new(),
        feed_trouble: feed_trouble.to_vec(),
        added: changes.added.len(),
        clean: 0,
        degraded: false,
    };
    for pin in &changes.added {
        let answer = answer_for(&pin.package);
        if let Some(why) = &answer.trouble {
            let what = pin.package.to_string();
            judgement.unanswered.push(Unknown::new(pin.place.clone(), &what, why, &what));
        } else if answer.advisories.is_empty() {
            judgement.clean += 1;
        }
        let at_base: Vec<&Answer> =
            changes.base.iter().filter(|package| package.same_name(&pin.package)).map(answer_for).collect();
        let old: BTreeSet<String> =
            at_base.iter().flat_map(|answer| &answer.advisories).map(|a| folding.group(&a.id)).collect();
        let base_is_known = changes.base_unread.is_empty() && at_base.iter().all(|answer| answer.trouble.is_none());
        for (group, advisories) in grouped(&answer.advisories, &folding) {
            let mut finding = finding(pin, &advisories);
            if old.contains(&group) {
                judgement.old.push(finding);
                continue;
            }
            if let Some(kind) = advisories.iter().map(|a| a.informational.clone()).collect::<Option<Vec<_>>>() {
                finding.note = kind.first().cloned();
                judgement.notices.push(finding);
                continue;
            }
            let fits = |ignore: &&Ignore| folding.group(&ignore.id) == group && ignore.is_for(&pin.package);
            let (over, lasting): (Vec<_>, Vec<_>) = ignores.iter().filter(fits).partition(|ignore| ignore.is_over(now));
            if let Some(ignore) = lasting.first() {
                finding.note = Some(format!("ignored until {}: {}", ignore.expires, ignore.reason));
                judgement.ignored.push(finding);
                continue;
            }
            finding.note = match (over.first(), base_is_known) {
                (Some(ignore), _) => Some(format!("was ignored until {}, which is over", ignore.expires)),
                (None, false) => Some("whether base has it could not be learnt".to_owned()),
                (None, true) => None,
            };
            judgement.new.push(finding);
        }
    }
    for package in &changes.base {
        if let Some(why) = &answer_for(package).trouble
            && !changes.added.iter().any(|pin| pin.package == *package)
        {
            judgement.feed_trouble.push(format!("what base has, {package}: {why}"));
        }
    }
    let feed_failed = !judgement.unanswered.is_empty() || !judgement.feed_trouble.is_empty();
    judgement.degraded = feed_failed || !judgement.unknown.is_empty();
    if !judgement.new.is_empty() || (fail_closed && !judgement.unknown.is_empty()) {
        judgement.verdict = Verdict::Failed;
    } else if fail_closed && feed_failed {
        judgement.verdict = Verdict::CouldNotRun;
    }
    judgement
}

/// Advisories by the one name of their group, in the order of these names.
fn grouped<'a>(advisories: &'a [Advisory], folding: &Folding) -> BTreeMap<String, Vec<&'a Advisory>> {
    let mut groups: BTreeMap<String, Vec<&Advisory>> = BTreeMap::new();
    for advisory in advisories {
        groups.entry(folding.group(&advisory.id)).or_default().push(advisory);
    }
    groups
}

/// What several entries about one hole say together.
fn finding(pin: &Pin, advisories: &[&Advisory]) -> Finding {
    let mut ids: Vec<String> = advisories.iter().map(|advisory| advisory.id.clone()).collect();
    for alias in advisories.iter().flat_map(|advisory| &advisory.aliases) {
        if !ids.contains(alias) {
            ids.push(alias.clone());
        }
    }
    let mut fixed: Vec<String> = Vec::new();
    for version in advisories.iter().flat_map(|advisory| &advisory.fixed) {
        if !fixed.contains(version) {
            fixed.push(version.clone());
        }
    }
    let summary = advisories.iter().map(|advisory| advisory.summary.as_str()).find(|text| !text.is_empty());
    Finding {
        pin: pin.clone(),
        ids,
        summary: summary.unwrap_or_default().to_owned(),
        severity: advisories.iter().find_map(|advisory| advisory.severity.clone()),
        fixed,
        note: None,
    }
}

impl Judgement {
    /// The numbers for the report's header.
    #[must_use]
    pub fn counts(&self) -> Vec<Count> {
        let count = |name: &str, value: usize| Count { name: name.to_owned(), value: value as u64 };
        vec![
            count("dependencies_added", self.added),
            count("dependencies_clean", self.clean),
            count("advisories_new", self.new.len()),
            count("advisories_old", self.old.len()),
            count("advisories_ignored", self.ignored.len()),
            count("dependencies_unknown", self.unknown.len() + self.unanswered.len()),
        ]
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
