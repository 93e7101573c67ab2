//! Time values handed into the domain: it never reads a clock.
//!
//! Owns the two units that everything stored or shown is written in: milliseconds since the Unix epoch and durations in
//! milliseconds. Refuses floats and time zones: what people see is always UTC.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A wall-clock instant in milliseconds since the Unix epoch (UTC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The instant `delay` after this one.
    #[must_use]
    pub fn after(self, delay: Millis) -> Self {
        Self(self.0.saturating_add_unsigned(delay.0))
    }

    /// How long ago `earlier` was, seen from here; zero when the clock was set back in between.
    #[must_use]
    pub fn since(self, earlier: Self) -> Millis {
        Millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Timestamp {
    /// Reads what [`fmt::Display`] writes (RFC 3339); `None` for anything else.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let at: jiff::Timestamp = text.parse().ok()?;
        Some(Self(at.as_millisecond()))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, such as `2026-11-23T21:02:49.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// A duration in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000))
    }

    /// A duration of whole minutes.
    #[must_use]
    pub const fn from_mins(mins: u64) -> Self {
        Self::from_secs(mins.saturating_mul(60))
    }
}

impl From<Millis> for std::time::Duration {
    fn from(value: Millis) -> Self {
        Self::from_millis(value.0)
    }
}

impl fmt::Display for Millis {
    /// The two largest units, such as `2h 05m`, `3m 07s`, `4.2s` or `15ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0 / 1_000;
        match secs {
            0 => write!(f, "{}ms", self.0),
            1..=59 => write!(f, "{secs}.{}s", (self.0 % 1_000) / 100),
            60..=3_599 => write!(f, "{}m {:02}s", secs / 60, secs % 60),
            _ => write!(f, "{}h {:02}m", secs / 3_600, (secs % 3_600) / 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_utc_with_milliseconds() {
        assert_eq!(Timestamp(1_763_931_769_123).to_string(), "2025-11-23T21:02:49.123Z");
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn reads_what_it_shows() {
        for at in [0, 1_763_931_769_123, -5] {
            assert_eq!(Timestamp::from_rfc3339(&Timestamp(at).to_string()), Some(Timestamp(at)));
        }
        assert_eq!(Timestamp::from_rfc3339("yesterday"), None);
    }

    #[test]
    fn shows_durations_in_their_two_largest_units() {
        let shown: Vec<String> = [15, 4_230, 187_000, 7_500_000].into_iter().map(|ms| Millis(ms).to_string()).collect();
        assert_eq!(shown, ["15ms", "4.2s", "3m 07s", "2h 05m"]);
    }

    #[test]
    fn a_clock_set_back_never_gives_a_negative_age() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Millis(0));
    }
}
