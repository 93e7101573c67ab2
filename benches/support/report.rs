//! How a bench says what it saw: baseline, measured, and whether the figure is met.
//!
//! Owns the form of the lines and the exit code: 0 unless a run itself failed. Refuses to turn a missed figure into a
//! failure: machines differ, the reader judges.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

/// What a bench returns; an error is a run that failed, never a missed figure.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// Measurements of one thing, in its unit.
pub(crate) struct Samples {
    sorted: Vec<f64>,
    unit: &'static str,
}

impl Samples {
    /// Takes measurements; order does not matter.
    pub(crate) fn of(unit: &'static str, mut sorted: Vec<f64>) -> Self {
        sorted.sort_by(f64::total_cmp);
        Self { sorted, unit }
    }

    /// The middle one; not a number when nothing was measured, which meets no figure.
    pub(crate) fn median(&self) -> f64 {
        self.sorted.get(self.sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn text(&self) -> String {
        let unit = self.unit;
        match self.sorted.as_slice() {
            [] => "nothing".to_owned(),
            [one] => format!("{} {unit}", number(*one)),
            [first, .., last] => {
                let n = self.sorted.len();
                format!("{} {unit}  (median of {n}: {} to {})", number(self.median()), number(*first), number(*last))
            }
        }
    }
}

/// Prints a heading.
pub(crate) fn heading(text: &str) {
    print(text);
}

/// Prints one thing measured; `role` is `baseline`, `measured` or `also`.
pub(crate) fn line(role: &str, what: &str, samples: &Samples) {
    print(&format!("  {role:<9} {what:<58} {}", samples.text()));
}

/// Prints whether a figure is met.
pub(crate) fn figure(what: &str, seen: f64, wanted: &str, met: bool) {
    let verdict = if met { "met" } else { "NOT met" };
    print(&format!("  figure    {what:<58} {}, wanted {wanted}: {verdict}", number(seen)));
}

/// Ends a bench.
pub(crate) fn end(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&format!("  a run failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Three significant digits, or whole from a hundred on.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn print(text: &str) {
    // A reader that went away is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{text}");
}
