//! Where coverage fell: the files and lines that the report and a refusal name.
//!
//! Owns the choice of what the lines are compared with. The baseline is what the share is held to; it may be of an old
//! commit, or of none. What a change lost is what main had: so a refusal names the lines of what landed last, where those
//! are kept, and the baseline's where those say more. Invariant: measurements by another tool or other settings are compared
//! line by line only where the head was judged so. Refuses to judge.

use std::sync::Arc;

use orch_adapters::git::ChangedLines;
use orch_domain::coverage::{Comparison, Measurement};
use orch_domain::ids::CommitSha;

use super::Gate;
use super::against::{Against, JudgedHead};
use super::kept::{self, Kept};

/// What there is to name.
#[derive(Default)]
pub(super) struct Named {
    pub(super) compared: Comparison,
    /// Since which commit.
    pub(super) since: Option<CommitSha>,
    /// What could not be compared, a line each.
    pub(super) troubles: Vec<String>,
}

impl Gate<'_> {
    /// Where it changed, as far as the lines of both sides are at hand; and what is not.
    pub(super) async fn compare(&self, judged: &JudgedHead) -> Named {
        let mut named = Named::default();
        let (head, basis) = (&judged.head, judged.against.basis());
        let lines = match &judged.against {
            Against::Basis(basis) => basis.lines.clone().map(|lines| (basis.sha.clone(), lines)),
            Against::Lines(lines) => Some((lines.since.clone(), lines.before.clone())),
            Against::Nothing => None,
        };
        // Base measured again is main already.
        let main = match basis {
            Some(basis) if !judged.judgement.passes() && basis.floor.is_none() => self.landed_last(head).await,
            _ => None,
        };
        for (since, before) in main.into_iter().chain(lines) {
            match self.changed(&since).await {
                Ok(changed) => {
                    let compared = Comparison::of(&before.coverage, &head.coverage, &changed.changes, &changed.gone);
                    let lost = compared.files.iter().any(|file| file.lost.count() > 0);
                    if lost || named.since.is_none() {
                        (named.compared, named.since) = (compared, Some(since));
                    }
                    if lost {
                        break;
                    }
                }
                Err(why) => {
                    named.troubles.push(format!("which lines changed since {} is not known: {why}", since.short()));
                }
            }
        }
        if basis.is_some() && named.since.is_none() && named.troubles.is_empty() {
            let text = "which lines were covered before is not kept: only totals are compared";
            named.troubles.push(text.to_owned());
        }
        // What the branch brings may count by its own settings alone.
        self.with_added(judged.own.as_ref().unwrap_or(head), named).await
    }

    async fn with_added(&self, head: &Measurement, mut named: Named) -> Named {
        let subject = self.site.subject;
        let base = match &subject.base {
            None => return named,
            Some(base) => self.site.git.merge_base(base, &subject.head).await,
        };
        let brought = match base {
            Ok(Some(base)) => self.changed(&base).await,
            Ok(None) => Err("base and head share no history".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match brought {
            Ok(brought) => named.compared = named.compared.with_added(&head.coverage, &brought.changes),
            Err(why) => named.troubles.push(format!("which lines the branch adds is not known: {why}")),
        }
        named
    }

    /// The lines of what landed last, when they are kept and comparable; and on which commit.
    async fn landed_last(&self, head: &Measurement) -> Option<(CommitSha, Arc<Measurement>)> {
        let landing = self.ctx().store.last_measured_landing(&self.site.subject.repo).await.ok()??;
        match kept::find(self.ctx(), &landing.measurement?, None).await? {
            Kept::Measured(lines) if comparable(&lines, head) => Some((landing.sha, lines)),
            _ => None,
        }
    }

    pub(super) async fn changed(&self, since: &CommitSha) -> Result<ChangedLines, String> {
        self.site.git.changed_lines(since, &self.site.subject.head).await.map_err(|error| error.to_string())
    }
}

/// Whether lines of two measurements may be compared: one tool, one configuration.
pub(super) fn comparable(one: &Measurement, other: &Measurement) -> bool {
    one.about.measured_by == other.about.measured_by
}
