//! What a landing does to the baseline.
//!
//! Owns [`ratchet`], which the store asks inside the transaction that records the landing: so the answer is about the
//! baseline as it is at that very moment, whatever landed or was set since the gate judged. Invariants: under one tool
//! and configuration the share never decreases by itself; only a [`Rebase`] that names the revision it was judged against
//! may lower it, only while that revision still stands, and it is flagged.

use serde::{Deserialize, Serialize};

use super::model::{Format, Totals};
use crate::ids::CommitSha;

/// The baseline as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Rises with each change.
    pub revision: u64,
    /// Its numbers.
    pub totals: Totals,
    /// By which tool and configuration it was measured; `None`: set by a person, compared with any.
    pub measured_by: Option<String>,
}

/// Why a landing may set the baseline anew, even lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// It passed by the removal rule.
    Removal,
    /// Tool or configuration had changed: it was compared with base, measured again.
    MeasuredAgain,
}

/// The right of a landing to set the baseline anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebase {
    /// Why.
    pub because: Because,
    /// The baseline's revision that was judged against, or that could not be compared with.
    pub revision: u64,
    /// What base measured, where it was measured again: the new baseline is not below it.
    pub floor: Option<Mark>,
}

/// A measured commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Its numbers.
    pub totals: Totals,
    /// Which commit.
    pub sha: CommitSha,
    /// Under which key its lines are kept.
    pub measurement: String,
}

/// What the gate measured on the tree that lands: travels with the window from its opening to its proof line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Landed {
    /// Its numbers.
    pub totals: Totals,
    /// Lines that were told not to count, as far as the format tells.
    pub excluded: Option<u64>,
    /// The report's format.
    pub format: Format,
    /// The tool, as far as it says.
    pub tool: Option<String>,
    /// Tool and configuration by which it was measured, as a hash: what has another is not compared.
    pub measured_by: String,
    /// Hash of the configuration alone, for people.
    pub configuration: String,
    /// Under which key its lines are kept.
    pub measurement: String,
    /// Why it may set the baseline anew.
    pub rebase: Option<Rebase>,
}

impl Landed {
    /// What the baseline becomes when a step sets it: the landed commit, or base where that is better.
    #[must_use]
    pub fn mark(&self, step: Step, landed: &CommitSha) -> Mark {
        let floor = self.rebase.as_ref().and_then(|rebase| rebase.floor.as_ref());
        match floor.filter(|floor| step == Step::MeasuredAgain && floor.totals.is_above(self.totals)) {
            Some(floor) => floor.clone(),
            None => Mark { totals: self.totals, sha: landed.clone(), measurement: self.measurement.clone() },
        }
    }
}

/// What became of the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It stays.
    Kept,
    /// The first one.
    First,
    /// Raised.
    Raised,
    /// Set anew by the removal rule.
    Removal,
    /// Set anew because tool or configuration changed.
    MeasuredAgain,
    /// Set by a person.
    Set,
}

impl Step {
    /// The word as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::First => "first",
            Self::Raised => "raised",
            Self::Removal => "removal",
            Self::MeasuredAgain => "measured-again",
            Self::Set => "set",
        }
    }

    /// The step of exactly that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Kept, Self::First, Self::Raised, Self::Removal, Self::MeasuredAgain, Self::Set]
            .into_iter()
            .find(|step| step.as_str() == word)
    }
}

/// Decides what a landing does to the baseline that stands now. One of no lines is none.
#[must_use]
pub fn ratchet(standing: Option<&Standing>, landed: &Landed) -> Step {
    // Nothing measured is no mark to be held to.
    if landed.totals.total() == 0 {
        return Step::Kept;
    }
    // And holds nobody to anything: else it would stand for ever, since no share is above it.
    let Some(standing) = standing.filter(|standing| standing.totals.total() > 0) else { return Step::First };
    if let Some(rebase) = landed.rebase.as_ref().filter(|rebase| rebase.revision == standing.revision) {
        return match rebase.because {
            Because::Removal => Step::Removal,
            Because::MeasuredAgain => Step::MeasuredAgain,
        };
    }
    let comparable = standing.measured_by.as_ref().is_none_or(|by| *by == landed.measured_by);
    match comparable && landed.totals.is_above(standing.totals) {
        true => Step::Raised,
        false => Step::Kept,
    }
}
