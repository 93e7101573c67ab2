//! How shares of covered lines are written for people.
//!
//! Owns the rounding: always down, so that 94.999 of a hundred is never shown as the 95 that it is not. Invariants: two shares
//! that differ are written so that they differ, in the same direction ([`percent_pair`]); where it matters by how much,
//! the two written ones differ by as much or as little as the true ones do ([`percent_apart`]).

use super::model::Totals;

/// A share in percent with two decimals, rounded down, such as `94.99 %`; `nothing to measure` without lines.
#[must_use]
pub fn percent(totals: Totals) -> String {
    with_decimals(totals, 2)
}

/// Both shares with as many decimals as it takes to tell them apart; at least two.
#[must_use]
pub fn percent_pair(one: Totals, other: Totals) -> (String, String) {
    let differ = one.is_above(other) || other.is_above(one);
    // Two fractions with these denominators cannot agree in more decimals than that.
    for decimals in 2..30 {
        let pair = (with_decimals(one, decimals), with_decimals(other, decimals));
        if !differ || pair.0 != pair.1 {
            return pair;
        }
    }
    (with_decimals(one, 30), with_decimals(other, 30))
}

/// Decimals with which any two shares can be told apart, and their distance from any number of basis points.
const MOST_DECIMALS: u32 = 24;

/// The lower and the upper share, with as many decimals as it takes to see on which side of so many basis points they
/// lie apart.
#[must_use]
pub fn percent_apart(lower: Totals, upper: Totals, basis_points: u32) -> (String, String) {
    if lower.total() == 0 || upper.total() == 0 {
        return percent_pair(lower, upper);
    }
    let hundredths = |totals: Totals, decimals: u32| {
        u128::from(totals.covered()) * 100 * 10_u128.pow(decimals) / u128::from(totals.total())
    };
    let (one, other) = (u128::from(lower.total()), u128::from(upper.total()));
    let apart = u128::from(upper.covered()) * one * 10_000;
    let beyond = apart > u128::from(lower.covered()) * other * 10_000 + u128::from(basis_points) * one * other;
    let differ = upper.is_above(lower);
    let tells = |decimals: u32| {
        let (low, high) = (hundredths(lower, decimals), hundredths(upper, decimals));
        let shown = high > low + u128::from(basis_points) * 10_u128.pow(decimals - 2);
        shown == beyond && (high > low) == differ
    };
    let decimals = (2..MOST_DECIMALS).find(|decimals| tells(*decimals)).unwrap_or(MOST_DECIMALS);
    (with_decimals(lower, decimals), with_decimals(upper, decimals))
}

fn with_decimals(totals: Totals, decimals: u32) -> String {
    if totals.total() == 0 {
        return "nothing to measure".to_owned();
    }
    let total = u128::from(totals.total());
    let hundredfold = u128::from(totals.covered()) * 100;
    let mut digits = format!("{}.", hundredfold / total);
    let mut rest = hundredfold % total;
    for _ in 0..decimals {
        rest *= 10;
        digits.push(char::from(b'0' + u8::try_from(rest / total).expect("a remainder times ten is below ten totals")));
        rest %= total;
    }
    format!("{digits} %")
}

/// Basis points as percentage points, such as `0.10`.
#[must_use]
pub fn points(basis_points: u32) -> String {
    format!("{}.{:02}", basis_points / 100, basis_points % 100)
}
