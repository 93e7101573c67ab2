//! Reading logs for people: pages of whole lines, bounded, terminal-safe.
//!
//! Owns what of a log is shown. Control characters of an agent's output never reach a terminal.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Whole lines of `path` from byte `offset`, at most `max_bytes`, and where to go on. A log that is not there (yet) is
/// empty. A line longer than the page is given in pieces.
///
/// # Errors
/// When the file cannot be read.
pub fn page(path: &Path, offset: u64, max_bytes: usize) -> io::Result<(String, u64)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((String::new(), offset)),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(max_bytes as u64).read_to_end(&mut bytes)?;
    let whole = match bytes.iter().rposition(|b| *b == b'\n') {
        Some(at) => at + 1,
        None if bytes.len() == max_bytes => bytes.len(),
        None => 0,
    };
    bytes.truncate(whole);
    let text = String::from_utf8_lossy(&bytes);
    let shown = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    Ok((shown, offset + whole as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_given_and_escape_codes_are_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let log = dir.path().join("stdout.log");
        std::fs::write(&log, "one\n\u{1b}[31mtwo\nthr").expect("written");
        let (text, next) = page(&log, 0, 1_000).expect("read");
        assert_eq!(text, "one\n[31mtwo\n");
        assert_eq!(page(&log, next, 1_000).expect("read"), (String::new(), next));
        assert_eq!(page(&dir.path().join("none"), 7, 10).expect("empty"), (String::new(), 7));
    }
}
