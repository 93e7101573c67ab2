//! Image freshness: is an image built from this very commit? From its label and how that commit stands to ours.
//!
//! Owns the states of an image and the verdict of each. The label is a claim, not a proof of origin: this guards against
//! the stale, not against the malicious. Dates are never looked at: reproducible builds and caches make them lie.

use serde::{Deserialize, Serialize};

use crate::gate::Verdict;
use crate::ids::CommitSha;

/// The label in which an image says which commit it was built from.
pub const REVISION_LABEL: &str = "org.opencontainers.image.revision";

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// There is none.
    Missing,
    /// Built with changes that no commit has.
    Dirty,
    /// A whole commit id.
    Commit(CommitSha),
    /// Something that names no commit.
    Other,
}

impl Label {
    /// Reads a label's value.
    #[must_use]
    pub fn read(value: Option<&str>) -> Self {
        match value.map(str::trim) {
            None | Some("") => Self::Missing,
            Some(value) if value.ends_with("-dirty") => Self::Dirty,
            Some(value) => value.to_ascii_lowercase().parse().map_or(Self::Other, Self::Commit),
        }
    }
}

/// How a labelled commit stands to the one that is to be deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not in the repository.
    Unknown,
    /// It comes before it, and nothing that goes into the image has changed since.
    SameInputs,
    /// Neither of these.
    Elsewhere,
}

/// The state of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    /// Built from this very commit.
    Fresh,
    /// Built from an earlier one, and nothing that goes into it has changed since.
    Equivalent,
    /// Built from another commit.
    Stale,
    /// Built from a working tree with changes of its own.
    Dirty,
    /// It does not say what it was built from.
    Unlabelled,
    /// It names a commit that the repository does not have.
    UnknownRevision,
    /// There is no such image.
    Absent,
    /// What could tell did not answer.
    Unreachable,
}

impl Freshness {
    /// All, for tables.
    pub const ALL: [Self; 8] = [
        Self::Fresh,
        Self::Equivalent,
        Self::Stale,
        Self::Dirty,
        Self::Unlabelled,
        Self::UnknownRevision,
        Self::Absent,
        Self::Unreachable,
    ];

    /// Of an image that is there.
    #[must_use]
    pub fn of(label: &Label, head: &CommitSha, standing: Standing) -> Self {
        match (label, standing) {
            (Label::Missing, _) => Self::Unlabelled,
            (Label::Dirty, _) => Self::Dirty,
            (Label::Other, _) => Self::UnknownRevision,
            (Label::Commit(at), _) if at == head => Self::Fresh,
            (Label::Commit(_), Standing::Unknown) => Self::UnknownRevision,
            (Label::Commit(_), Standing::SameInputs) => Self::Equivalent,
            (Label::Commit(_), Standing::Elsewhere) => Self::Stale,
        }
    }

    /// The word in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Equivalent => "equivalent",
            Self::Stale => "stale",
            Self::Dirty => "dirty",
            Self::Unlabelled => "unlabelled",
            Self::UnknownRevision => "unknown-revision",
            Self::Absent => "absent",
            Self::Unreachable => "unreachable",
        }
    }

    /// What follows. An image that is there and is not this commit's is a failure; none, or nobody to ask, says nothing
    /// about the commit.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Fresh | Self::Equivalent => Verdict::Passed,
            Self::Stale | Self::Dirty | Self::Unlabelled | Self::UnknownRevision => Verdict::Failed,
            Self::Absent | Self::Unreachable => Verdict::CouldNotRun,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha(digit: char) -> CommitSha {
        digit.to_string().repeat(40).parse().expect("hex")
    }

    #[test]
    fn labels_are_read_strictly() {
        let whole = "A".repeat(40);
        for (value, label) in [
            (None, Label::Missing),
            (Some("  "), Label::Missing),
            (Some("aaaa-dirty"), Label::Dirty),
            (Some(whole.as_str()), Label::Commit(sha('a'))),
            (Some("aaaaaaaaaaaa"), Label::Other),
            (Some("v1.2"), Label::Other),
        ] {
            assert_eq!(Label::read(value), label, "{value:?}");
        }
    }

    #[test]
    fn only_this_commit_or_one_with_the_same_inputs_passes() {
        let (head, old) = (sha('a'), Label::Commit(sha('b')));
        for (label, standing, state) in [
            (Label::Commit(head.clone()), Standing::Elsewhere, Freshness::Fresh),
            (old.clone(), Standing::SameInputs, Freshness::Equivalent),
            (old.clone(), Standing::Elsewhere, Freshness::Stale),
            (old, Standing::Unknown, Freshness::UnknownRevision),
            (Label::Other, Standing::SameInputs, Freshness::UnknownRevision),
            (Label::Dirty, Standing::SameInputs, Freshness::Dirty),
            (Label::Missing, Standing::SameInputs, Freshness::Unlabelled),
        ] {
            assert_eq!(Freshness::of(&label, &head, standing), state, "{label:?} {standing:?}");
        }
    }

    #[test]
    fn each_state_has_its_verdict() {
        let verdicts: Vec<(&str, &str)> =
            Freshness::ALL.into_iter().map(|state| (state.as_str(), state.verdict().as_str())).collect();
        assert_eq!(
            verdicts,
            [
                ("fresh", "passed"),
                ("equivalent", "passed"),
                ("stale", "failed"),
                ("dirty", "failed"),
                ("unlabelled", "failed"),
                ("unknown-revision", "failed"),
                ("absent", "could_not_run"),
                ("unreachable", "could_not_run"),
            ]
        );
    }
}
