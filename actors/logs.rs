//! Reading logs for people: pages of whole lines, bounded, terminal-safe, without the secrets that agents were given.
//!
//! Owns what of a log is shown. Control characters of an agent's output never reach a terminal; a secret's value, as it
//! was given, is shown as `[secret]`, wherever a page begins or ends. Refuses to promise more: who has a secret can write
//! it down in another form.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use orch_adapters::jobs::kept_from;

/// Values shorter than this are no secrets: `1`, `true` and `en` would riddle every log.
const SHORTEST: usize = 8;
/// What is shown in their place.
const MASK: &[u8] = b"[secret]";

/// What has to be masked: the values, long enough to be secret, each line of one with several, and the form that they
/// have inside JSON, which is what most agents print.
pub fn secrets<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<Vec<u8>> {
    let mut all = BTreeSet::new();
    for part in values.into_iter().flat_map(str::lines).map(str::trim).filter(|part| part.len() >= SHORTEST) {
        let json = serde_json::Value::from(part).to_string();
        all.insert(json.as_bytes()[1..json.len() - 1].to_vec());
        all.insert(part.as_bytes().to_vec());
    }
    all.into_iter().collect()
}

/// Whole lines of `path` from byte `offset`, at most `max_bytes`, and where to go on. A log that is not there (yet) is
/// empty. A line longer than the page is given in pieces. What [`secrets`] made of values is masked.
///
/// # Errors
/// When the file cannot be read.
pub fn page(path: &Path, offset: u64, max_bytes: usize, secrets: &[Vec<u8>]) -> io::Result<(String, u64)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((String::new(), offset)),
        Err(error) => return Err(error),
    };
    // What the supervisor has read of a long log may have made room.
    let kept = kept_from(&file, offset)?;
    if kept > offset {
        return Ok((format!("[{} bytes were let go of here]\n", kept - offset), kept));
    }
    // A page may begin or end inside a secret: so much more is looked at on both sides.
    let margin = secrets.iter().map(Vec::len).max().unwrap_or(1) - 1;
    let begin = offset.saturating_sub(margin as u64);
    let lead = usize::try_from(offset - begin).unwrap_or(margin);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take((lead + max_bytes + margin) as u64).read_to_end(&mut bytes)?;
    let seen = bytes.len().saturating_sub(lead);
    let within = &bytes[bytes.len() - seen..][..seen.min(max_bytes)];
    let whole = match within.iter().rposition(|b| *b == b'\n') {
        Some(at) => at + 1,
        // What follows is not written yet, and may be the rest of a secret.
        None if seen >= max_bytes => max_bytes.min(seen.saturating_sub(margin)),
        None => 0,
    };
    if whole == 0 {
        return Ok((String::new(), offset));
    }
    let text = masked(&bytes, lead..lead + whole, secrets);
    let text = String::from_utf8_lossy(&text);
    let shown = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    Ok((shown, offset + whole as u64))
}

/// A part of `bytes`, with every secret that touches it masked. One that began before the part was shown there already.
fn masked(bytes: &[u8], part: std::ops::Range<usize>, secrets: &[Vec<u8>]) -> Vec<u8> {
    let mut hidden = vec![false; bytes.len()];
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(secret.len()).position(|window| window == secret.as_slice()) {
            hidden[at + found..at + found + secret.len()].fill(true);
            at += found + 1;
        }
    }
    let mut shown = Vec::with_capacity(part.len());
    for at in part {
        match hidden[at] {
            false => shown.push(bytes[at]),
            true if at == 0 || !hidden[at - 1] => shown.extend_from_slice(MASK),
            true => {}
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_given_and_escape_codes_are_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let log = dir.path().join("stdout.log");
        std::fs::write(&log, "one\n\u{1b}[31mtwo\nthr").expect("written");
        let (text, next) = page(&log, 0, 1_000, &[]).expect("read");
        assert_eq!(text, "one\n[31mtwo\n");
        assert_eq!(page(&log, next, 1_000, &[]).expect("read"), (String::new(), next));
        assert_eq!(page(&dir.path().join("none"), 7, 10, &[]).expect("empty"), (String::new(), 7));
    }

    #[test]
    fn no_part_of_a_secret_is_shown_however_the_pages_fall() {
        let dir = tempfile::tempdir().expect("temp dir");
        let log = dir.path().join("stdout.log");
        let key = "abcdefghijklmno\"pq";
        let secrets = secrets([key, "true", "first-line-of-two\nsecond-line-of-two"]);
        let escaped = key.replace('"', "\\\"");
        let text =
            format!("{key}\na true {key}{key} word\n{{\"k\":\"{escaped}\"}}\nsecond-line-of-two\n{key}, no end{key}");
        std::fs::write(&log, &text).expect("written");
        let expected = "[secret]\na true [secret] word\n{\"k\":\"[secret]\"}\n[secret]\n";
        for size in 1..text.len() + 10 {
            let (mut shown, mut offset) = (String::new(), 0);
            loop {
                let (page, next) = page(&log, offset, size, &secrets).expect("read");
                if next == offset {
                    break;
                }
                (shown, offset) = (shown + &page, next);
            }
            assert!(shown.starts_with(expected), "pages of {size}: {shown}");
            for part in ["abcd", "bcde", "mno", "\"pq", "of-two"] {
                assert!(!shown.contains(part), "pages of {size} show {part}: {shown}");
            }
        }
    }
}
