//! LCOV's `.info` files.
//!
//! Owns the reading of `SF`, `DA` and `end_of_record`; everything else is skipped, unread: tools disagree about it
//! (measured: a strict reader refuses coverage.py's own branch records), and the sums that files state are not believed.
//! Refuses a file without any record, and one that ends inside a record: it was cut off.

use std::io::{BufRead, Read};

use super::gather::Gathered;
use super::owned::Look;

/// Longest line.
const MOST_LINE: u64 = 1 << 16;

/// Reads a report.
pub(super) fn read(mut from: impl BufRead, look: Look) -> Result<Gathered, String> {
    let mut gathered = Gathered::new(look);
    let (mut number, mut inside, mut records, mut odd, mut good) = (0_u64, false, 0_u64, 0_u64, 0_u64);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        number += 1;
        let broken = |why: String| format!("line {number}: {why}");
        let read = from.by_ref().take(MOST_LINE).read_until(b'\n', &mut buffer);
        let length = read.map_err(|error| broken(error.to_string()))?;
        if length == 0 {
            break;
        }
        if length as u64 == MOST_LINE && buffer.last() != Some(&b'\n') {
            return Err(broken(format!("it is longer than {MOST_LINE} bytes")));
        }
        let line = buffer.trim_ascii();
        if let Some(name) = line.strip_prefix(b"SF:") {
            gathered.begin(String::from_utf8_lossy(name).trim()).map_err(broken)?;
            inside = true;
        } else if let Some(rest) = line.strip_prefix(b"DA:") {
            if !inside {
                return Err(broken("a line of no file".to_owned()));
            }
            match data(rest) {
                Some((line, covered)) => {
                    good += 1;
                    gathered.line(line, covered).map_err(broken)?;
                }
                None => odd += 1,
            }
        } else if line == b"end_of_record" {
            gathered.end();
            inside = false;
            records += 1;
        } else if records == 0 && !inside && !line.is_empty() && !starts_like_a_record(line) {
            return Err(broken("it does not begin like LCOV".to_owned()));
        }
    }
    match (inside, records) {
        (true, _) => Err("it ends in the middle of a record".to_owned()),
        (false, 0) => Err("it holds no record".to_owned()),
        (false, _) => {
            // Else whoever wrote it means something else by them, and nothing to measure is no answer.
            if odd > good {
                return Err(format!("{odd} of {} `DA` lines could not be read", odd + good));
            }
            if odd > 0 {
                gathered.notes.push(format!("{odd} `DA` lines could not be read and do not count"));
            }
            Ok(gathered)
        }
    }
}

fn starts_like_a_record(line: &[u8]) -> bool {
    line.starts_with(b"TN:") || line.starts_with(b"#")
}

/// `LINE,COUNT[,CHECKSUM]`. A count is a number of any size; some tools write negative ones for what they do not know.
fn data(rest: &[u8]) -> Option<(u32, bool)> {
    let mut parts = rest.split(|byte| *byte == b',');
    let line = std::str::from_utf8(parts.next()?.trim_ascii()).ok()?.parse().ok()?;
    let count = parts.next()?.trim_ascii();
    let digits = count.strip_prefix(b"-").unwrap_or(count);
    if digits.is_empty()
        || !digits.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+'))
    {
        return None;
    }
    let covered = !count.starts_with(b"-") && digits.iter().any(|byte| (b'1'..=b'9').contains(byte));
    Some((line, covered))
}
