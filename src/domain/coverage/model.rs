//! What one report says, whatever its format was.
//!
//! Owns [`Coverage`] and its [`Totals`]. Invariants: paths are inside the repository; covered lines are never more than
//! lines that count; numbers are bounded, so that cross-multiplication cannot overflow.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::lines::Lines;
use crate::names::RepoPath;

/// Most lines that totals may hold: beyond any code base, and small enough to multiply.
pub const MOST_LINES: u64 = 1_000_000_000_000;

/// The format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `coverage json` and `pytest --cov-report=json`.
    CoveragePy,
    /// LCOV's `.info`, written by most tools.
    Lcov,
    /// Cobertura's XML.
    Cobertura,
}

impl Format {
    /// The word as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CoveragePy => "coverage-py",
            Self::Lcov => "lcov",
            Self::Cobertura => "cobertura",
        }
    }

    /// The format of exactly that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::CoveragePy, Self::Lcov, Self::Cobertura].into_iter().find(|format| format.as_str() == word)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Covered lines and lines that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawTotals", into = "RawTotals")]
pub struct Totals {
    covered: u64,
    total: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTotals {
    covered: u64,
    total: u64,
}

/// Numbers that cannot be totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TotalsError {
    /// More covered than there are.
    #[error("{covered} covered of {total} lines cannot be: give at most as many covered lines as lines that count")]
    MoreThanAll {
        /// Said to be covered.
        covered: u64,
        /// Said to count.
        total: u64,
    },
    /// Beyond any code base.
    #[error("{total} lines are too many: at most {MOST_LINES} are taken")]
    TooMany {
        /// Said to count.
        total: u64,
    },
}

impl Totals {
    /// Checked totals.
    ///
    /// # Errors
    /// [`TotalsError`] when they contradict each other or are too large.
    pub const fn new(covered: u64, total: u64) -> Result<Self, TotalsError> {
        if total > MOST_LINES {
            return Err(TotalsError::TooMany { total });
        }
        if covered > total {
            return Err(TotalsError::MoreThanAll { covered, total });
        }
        Ok(Self { covered, total })
    }

    /// Covered lines.
    #[must_use]
    pub const fn covered(self) -> u64 {
        self.covered
    }

    /// Lines that count.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.total
    }

    /// Lines that count and did not run.
    #[must_use]
    pub const fn uncovered(self) -> u64 {
        self.total - self.covered
    }

    /// Whether its share of covered lines is above another's. Where no line counts there is no share: it is above no other,
    /// and none is above it.
    #[must_use]
    pub fn is_above(self, other: Self) -> bool {
        u128::from(self.covered) * u128::from(other.total) > u128::from(other.covered) * u128::from(self.total)
    }
}

impl TryFrom<RawTotals> for Totals {
    type Error = TotalsError;

    fn try_from(raw: RawTotals) -> Result<Self, TotalsError> {
        Self::new(raw.covered, raw.total)
    }
}

impl From<Totals> for RawTotals {
    fn from(totals: Totals) -> Self {
        Self { covered: totals.covered, total: totals.total }
    }
}

impl fmt::Display for Totals {
    /// Such as `410 of 412 lines`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}", self.covered, self.total, if self.total == 1 { "line" } else { "lines" })
    }
}

/// One measurement: per file the lines that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// By path from the repository's root.
    pub files: BTreeMap<RepoPath, Lines>,
    /// Lines that the tool was told not to count, as far as the format tells.
    pub excluded: Option<u64>,
}

impl Coverage {
    /// Summed over all files.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let sum = |of: fn(&Lines) -> u64| self.files.values().map(of).fold(0, u64::saturating_add).min(MOST_LINES);
        let total = sum(Lines::total);
        Totals { covered: sum(Lines::covered).min(total), total }
    }

    /// One file's totals; nothing for a file that was not measured.
    #[must_use]
    pub fn totals_of(&self, path: &RepoPath) -> Totals {
        let lines = self.files.get(path);
        lines.map_or_else(Totals::default, |lines| Totals { covered: lines.covered(), total: lines.total() })
    }
}
