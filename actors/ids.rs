//! Minting: ids and nonces, where there is a clock and randomness.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// A fresh id: prefix, time in base 36 (so that ids sort by age), randomness.
///
/// # Panics
/// When the system has no randomness: nothing may run then.
#[must_use]
pub fn mint<T: FromStr>(prefix: &str) -> T {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let text = format!("{prefix}{}{}", base36(millis), &nonce()[..12]);
    match text.parse() {
        Ok(id) => id,
        Err(_) => unreachable!("a prefix and lower-case digits make an id: {text}"),
    }
}

/// 32 hex digits of randomness.
///
/// # Panics
/// When the system has no randomness.
#[must_use]
pub fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the kernel provides randomness");
    hex::encode(bytes)
}

fn base36(mut n: u128) -> String {
    let mut digits = Vec::new();
    while n > 0 {
        let digit = u8::try_from(n % 36).expect("below 36");
        digits.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        n /= 36;
    }
    digits.reverse();
    String::from_utf8(digits).expect("ASCII digits")
}

#[cfg(test)]
mod tests {
    use orch_domain::ids::TaskId;

    use super::*;

    #[test]
    fn minted_ids_differ_and_leave_room_for_run_ids() {
        let (one, other): (TaskId, TaskId) = (mint("t"), mint("t"));
        assert_ne!(one, other);
        assert!(one.as_str().len() <= 28, "{one}");
    }
}
