//! Line coverage: one model for every report format, and the rules by which a change is held to it.
//!
//! Owns [`Coverage`] (per file: which lines count and which of them ran), [`judge`] (did it fall?), [`ratchet`] (what a
//! landing does to the baseline), [`Comparison`] (where it fell), [`rules`] (which command measures), [`configuration`] (by
//! which settings) and [`start`] (a tool that never started). Invariants: integers and cross-multiplication, never a float;
//! more covered lines never turn a pass into a failure; what is shown is rounded down, so that it never contradicts the
//! verdict. Refuses to read files: the parsers live in `adapters/reports/coverage`.

mod alike;
mod compare;
pub mod configuration;
mod held;
mod judge;
mod lines;
mod model;
mod ratchet;
pub mod rules;
mod show;
mod standard;
pub mod start;
mod stored;

pub use alike::Alike;
pub use compare::{Change, Changes, Comparison, FileDelta, Hunk, Ranges};
pub use held::{NotHeld, held};
pub use judge::{CoverageMode, CoveragePolicy, Judgement, Reason, judge, judge_alike};
pub use lines::{Lines, MOST_BLOCKS};
pub use model::{Coverage, Format, MOST_LINES, Totals, TotalsError};
pub use ratchet::{Because, Landed, Mark, Rebase, Standing, Step, ratchet};
pub use show::{percent, percent_apart, percent_pair, points};
pub use standard::{Standard, rebase_of, standard};
pub use stored::{About, Measurement, StoredError};

#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod tests;
