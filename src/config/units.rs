//! Units of settings: durations, sizes, money, addresses, as people write them.
//!
//! Owns both directions, so that what is shown can be written back. Refuses bare numbers where a unit is missing: `10`
//! is ten of what? Every refusal names the value and an example.

use std::fmt;

use orch_adapters::jobs::UserRange;
use orch_domain::time::Millis;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::Serializer;

/// Reads a duration such as `500ms`, `90s`, `10m`, `2h`, `1d` or `1h 30m`.
///
/// # Errors
/// A sentence with the value and examples.
pub fn parse_duration(text: &str) -> Result<Millis, String> {
    let wrong = || format!("`{text}` is not a duration: write a number with its unit, such as 90s, 10m or 2h");
    let mut total: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let after = rest[digits..].trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let unit: u64 = match &after[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = after[letters..].trim_start();
    }
    Ok(Millis(total))
}

/// A duration in its largest exact units.
pub(super) fn duration_text(value: Millis) -> String {
    let mut left = value.0;
    if left == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= size {
            out.push_str(&format!("{}{unit}", left / size));
            left %= size;
        }
    }
    out
}

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size such as `64MiB`; decimal units (`MB`) are refused, since nobody agrees on what they are.
///
/// # Errors
/// A sentence with the value and examples.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: write a number with B, KiB, MiB or GiB, such as 64MiB");
    let text_trimmed = text.trim();
    let digits = text_trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text_trimmed[..digits].parse().map_err(|_| wrong())?;
    let name = text_trimmed[digits..].trim_start();
    let (_, unit) = SIZES.iter().find(|(unit, _)| *unit == name).ok_or_else(wrong)?;
    number.checked_mul(*unit).ok_or_else(wrong)
}

pub(super) fn size_text(value: u64) -> String {
    let (name, unit) =
        SIZES.iter().find(|(_, unit)| value >= *unit && value.is_multiple_of(*unit)).unwrap_or(&("B", 1));
    format!("{}{name}", value / unit)
}

/// Reads US dollars (`5`, `2.50`) into millionths.
fn parse_money(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not an amount in US dollars: write it like 5 or 2.50");
    let trimmed = text.trim().trim_start_matches('$');
    let (whole, part) = trimmed.split_once('.').unwrap_or((trimmed, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > 6 || !digits(whole) || !digits(part) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let micros: u64 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1_000_000).and_then(|w| w.checked_add(micros)).ok_or_else(wrong)
}

/// Millionths of a US dollar as dollars, with at least two digits after the point.
#[must_use]
pub fn money_text(micros: u64) -> String {
    let mut part = format!("{:06}", micros % 1_000_000);
    while part.len() > 2 && part.ends_with('0') {
        part.pop();
    }
    format!("{}.{part}", micros / 1_000_000)
}

/// Reads a share in percent (`85`, `85.5`, `85.25 %`) into basis points.
fn parse_percent(text: &str) -> Result<u32, String> {
    let wrong =
        || format!("`{text}` is not a share in percent: write 0 to 100 with at most two decimals, such as 85 or 85.25");
    let trimmed = text.trim().trim_end_matches('%').trim_end();
    let (whole, part) = trimmed.split_once('.').unwrap_or((trimmed, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || part.len() > 2 || !digits(whole) || !digits(part) {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let part: u32 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
    Some(whole * 100 + part).filter(|share| *share <= 10_000).ok_or_else(wrong)
}

fn percent_text(share: u32) -> String {
    match share % 100 {
        0 => (share / 100).to_string(),
        part => format!("{}.{part:02}", share / 100),
    }
}

/// Takes text, or a bare number as its text; everything else is refused by the visitor's own words.
struct Texts<T>(fn(&str) -> Result<T, String>, &'static str);

impl<T> Visitor<'_> for Texts<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.0)(&number.to_string()).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.0)(&number.to_string()).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        (self.0)(&number.to_string()).map_err(E::custom)
    }
}

/// The same, where nothing at all is allowed too.
struct MaybeTexts<T>(fn(&str) -> Result<T, String>, &'static str);

impl<'de, T> Visitor<'de> for MaybeTexts<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_none<E: de::Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(Texts(self.0, self.1)).map(Some)
    }
}

macro_rules! unit_modules {
    ($plain:ident, $maybe:ident, $type:ty, $parse:expr, $text:expr, $expected:literal) => {
        pub(super) mod $plain {
            use super::*;

            pub(in super::super) fn serialize<S: Serializer>(value: &$type, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&$text(*value))
            }

            pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<$type, D::Error> {
                d.deserialize_any(Texts($parse, $expected))
            }
        }

        pub(super) mod $maybe {
            use super::*;

            pub(in super::super) fn serialize<S: Serializer>(value: &Option<$type>, s: S) -> Result<S::Ok, S::Error> {
                match value {
                    Some(value) => s.serialize_some(&$text(*value)),
                    None => s.serialize_none(),
                }
            }

            pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<$type>, D::Error> {
                d.deserialize_option(MaybeTexts($parse, $expected))
            }
        }
    };
}

unit_modules!(duration, maybe_duration, Millis, parse_duration, duration_text, "a duration such as 90s, 10m or 2h");
unit_modules!(size, maybe_size, u64, parse_size, size_text, "a size such as 64MiB");

pub(super) mod percent {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(value: &u32, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&percent_text(*value))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
        d.deserialize_any(Texts(parse_percent, "a share in percent such as 85.25"))
    }
}

/// Reads a number of processors, such as `2` or `1.5`, into thousandths.
fn parse_processors(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is not a number of processors: write one such as 2 or 1.5, up to 1000");
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    if part.is_empty() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let part: u32 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
    match whole.checked_mul(1_000).and_then(|whole| whole.checked_add(part)) {
        Some(milli) if (10..=1_000_000).contains(&milli) => Ok(milli),
        _ => Err(wrong()),
    }
}

fn processors_text(milli: u32) -> String {
    let text = format!("{}.{:03}", milli / 1_000, milli % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(super) mod processors {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(value: &Option<u32>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.serialize_some(&processors_text(*value)),
            None => s.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
        d.deserialize_option(MaybeTexts(parse_processors, "a number of processors such as 1.5"))
    }
}

/// Reads a range of user ids such as `200000-200199`.
fn parse_users(text: &str) -> Result<UserRange, String> {
    let wrong = || {
        format!("`{text}` is no range of user ids: write the first and the last one, such as 200000-200199; 0 is root")
    };
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u32 = first.trim().parse().map_err(|_| wrong())?;
    let last: u32 = last.trim().parse().map_err(|_| wrong())?;
    // The last two numbers stand for nobody in particular.
    match first > 0 && first <= last && last < u32::MAX - 1 {
        true => Ok(UserRange { first, last }),
        false => Err(wrong()),
    }
}

pub(super) mod maybe_users {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(value: &Option<UserRange>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(UserRange { first, last }) => s.serialize_some(&format!("{first}-{last}")),
            None => s.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<UserRange>, D::Error> {
        d.deserialize_option(MaybeTexts(parse_users, "a range of user ids such as 200000-200199"))
    }
}

pub(super) mod money {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(value: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.serialize_some(&money_text(*value)),
            None => s.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        d.deserialize_option(MaybeTexts(parse_money, "an amount in US dollars such as 2.50"))
    }
}

pub(super) mod socket {
    use std::net::SocketAddr;

    use super::*;

    fn parse(text: &str) -> Result<SocketAddr, String> {
        text.parse().map_err(|_| {
            format!("`{text}` is not an address: write IP:PORT, such as 127.0.0.1:7717 (port 0 takes any free one)")
        })
    }

    pub(in super::super) fn serialize<S: Serializer>(value: &SocketAddr, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&value.to_string())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
        d.deserialize_any(Texts(parse, "an address such as 127.0.0.1:7717"))
    }
}

/// A key with nothing after it (everything below it commented out) is the empty collection, not an error.
pub(super) fn or_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_come_back_as_written() {
        for (text, ms) in [("500ms", 500), ("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("1h 30m", 5_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Millis(ms)), "{text}");
        }
        assert_eq!(duration_text(Millis(5_400_000)), "1h30m");
        assert_eq!(parse_duration(&duration_text(Millis(90_061_001))), Ok(Millis(90_061_001)));
        for bad in ["", "10", "ten", "-5s", "1.5h", "5 parsecs", "s", "99999999999999999999h", "9999999999999999999h"] {
            let err = parse_duration(bad).expect_err(bad);
            assert!(err.contains("such as 90s"), "{err}");
        }
    }

    #[test]
    fn sizes_are_binary_and_come_back_as_written() {
        for (text, bytes) in [("1B", 1), ("2KiB", 2_048), ("64MiB", 64 << 20), ("3 GiB", 3 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!((size_text(64 << 20), size_text(1_500)), ("64MiB".to_owned(), "1500B".to_owned()));
        for bad in ["", "64", "64MB", "MiB", "-1B", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn money_is_exact() {
        for (text, micros) in [("5", 5_000_000), ("2.50", 2_500_000), ("0.000001", 1), ("$3", 3_000_000)] {
            assert_eq!(parse_money(text), Ok(micros), "{text}");
        }
        assert_eq!(
            (money_text(2_500_000), money_text(1), money_text(0)),
            ("2.50".into(), "0.000001".into(), "0.00".into())
        );
        for bad in ["", ".5", "1.0000001", "-1", "five", "1e3"] {
            assert!(parse_money(bad).is_err(), "{bad}");
        }
    }
}
