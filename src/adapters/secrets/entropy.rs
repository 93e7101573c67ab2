//! How random a text looks: Shannon's entropy in bits per character, counted as the scanner counts.

/// Bits per character. Frequencies are taken of the length in bytes, as the scanner does.
pub(crate) fn shannon(text: &[u8]) -> f64 {
    if text.is_empty() {
        return 0.0;
    }
    let mut counts: std::collections::BTreeMap<char, u32> = std::collections::BTreeMap::new();
    for c in String::from_utf8_lossy(text).chars() {
        *counts.entry(c).or_default() += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "a secret is far shorter than 2^52 bytes")]
    let length = text.len() as f64;
    counts.values().map(|count| f64::from(*count) / length).map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_bits_per_character() {
        for (text, bits) in [("", 0.0), ("aaaa", 0.0), ("abab", 1.0), ("abcd", 2.0), ("0123456789abcdef", 4.0)] {
            assert!((shannon(text.as_bytes()) - bits).abs() < 1e-9, "{text}");
        }
    }
}
