//! The restart policy: one for one, backoff with jitter, a budget per window kept in the store.
//!
//! Owns the arithmetic only. The budget's counter is durable, so that a crash loop survives a restart of the process and
//! ends in a blocked task or a refused start, not in an endless fire.

use std::time::Duration;

/// The pause before restart number `n` (from 1): 100 ms doubled each time up to 30 s, with up to a quarter of jitter.
#[must_use]
pub fn backoff(n: u32) -> Duration {
    let base = 100_u64.checked_shl(n.saturating_sub(1).min(20)).unwrap_or(u64::MAX).min(30_000);
    let mut byte = [0_u8; 1];
    // Without randomness there is no jitter, which is no reason not to restart.
    let jitter = if getrandom::fill(&mut byte).is_ok() { base * u64::from(byte[0]) / 1_024 } else { 0 };
    Duration::from_millis(base + jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_and_is_bounded() {
        assert!(backoff(1) >= Duration::from_millis(100) && backoff(1) < Duration::from_millis(130));
        assert!(backoff(5) >= Duration::from_millis(1_600));
        assert!(backoff(60) <= Duration::from_millis(37_600));
    }
}
