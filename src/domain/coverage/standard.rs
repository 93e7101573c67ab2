//! What a measured head is held against, and which right its landing has over the baseline.
//!
//! Owns both choices, so that no landing lowers the baseline without a person's word or an honest measurement of base.
//! Invariants: totals are compared only under one label (tool and settings); a head that base's settings could not measure
//! never sets the baseline anew. Refuses to measure.

use super::judge::{CoverageMode, Judgement};
use super::ratchet::{Because, Mark, Rebase, Standing};

/// What a head is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    /// Nothing: there is no baseline, or the rule does not look at it.
    Nothing,
    /// The baseline's totals.
    Baseline,
    /// Base, measured by the same tool and settings as the head: the baseline was measured by others.
    Base,
    /// The lines that head and baseline both count: the head could not be measured by base's settings.
    Lines,
}

/// Chooses the standard. `measured_by`: the head's label; `by_base`: whether those are the settings of base, which a branch
/// cannot change; `fresh`: nothing was measured and landed since the baseline that stands was set, so that a person's
/// word is about what comes next.
#[must_use]
pub fn standard(
    mode: CoverageMode,
    standing: Option<&Standing>,
    measured_by: &str,
    by_base: bool,
    fresh: bool,
) -> Standard {
    let Some(standing) = standing else { return Standard::Nothing };
    match &standing.measured_by {
        // A person's word: compared with any. What base's settings cannot measure needs it anew.
        None if by_base || fresh => Standard::Baseline,
        Some(by) if by == measured_by => Standard::Baseline,
        // Nobody has to know what base has.
        _ if mode == CoverageMode::Absolute => Standard::Nothing,
        _ if by_base => Standard::Base,
        _ => Standard::Lines,
    }
}

/// The right of a landing to set the baseline anew. `floor`: what base measured, where it was measured again by the very
/// settings of the head.
#[must_use]
pub fn rebase_of(standing: Option<&Standing>, judged: &Judgement, floor: Option<Mark>) -> Option<Rebase> {
    let standing = standing.filter(|_| judged.passes())?;
    let revision = standing.revision;
    match (judged.by_removal(), floor) {
        (true, floor) => {
            let because = if floor.is_some() { Because::MeasuredAgain } else { Because::Removal };
            Some(Rebase { because, revision, floor: None })
        }
        (false, Some(floor)) => Some(Rebase { because: Because::MeasuredAgain, revision, floor: Some(floor) }),
        (false, None) => None,
    }
}
