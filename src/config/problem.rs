//! What is wrong with the settings, in one line: place, value, way out.
//!
//! Owns the error type, the translation of the YAML parser's words and the "did you mean". Refuses to repeat values that
//! could be secrets.

use std::path::Path;

/// Why the settings were refused. Always one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("settings file {path}: {why}; name another with --config or ORCH_CONFIG")]
    Unreadable {
        /// Its path.
        path: String,
        /// What the system said.
        why: String,
    },
    /// A key or value of the file is wrong.
    #[error("{place}: {what}")]
    Invalid {
        /// File, and line and column where known.
        place: String,
        /// What, with the value and the way out.
        what: String,
    },
    /// An environment variable is wrong.
    #[error("environment variable {name}: {what}")]
    Environment {
        /// Its name.
        name: String,
        /// What, with the value and the way out.
        what: String,
    },
    /// There is no place for the data folder.
    #[error("no data folder: neither XDG_STATE_HOME nor HOME is set; name one with --data or ORCH_DATA_DIR")]
    NoHome,
}

/// Translates the parser's error about a file.
pub(super) fn from_yaml(path: &Path, error: &serde_yaml::Error) -> ConfigError {
    let place = match error.location() {
        Some(at) => format!("{}:{}:{}", path.display(), at.line(), at.column()),
        None => path.display().to_string(),
    };
    ConfigError::Invalid { place, what: reworded(&error.to_string()) }
}

/// The parser's words without the place, in our terms, with a "did you mean" where there is one.
pub(super) fn reworded(message: &str) -> String {
    let text = match message.rfind(" at line ") {
        Some(at) => &message[..at],
        None => message,
    };
    let mut text = text.replace('\n', " ");
    // How wide a number is kept is nobody's business outside.
    for kind in ["usize", "u64", "u32", "u16", "i64", "i32"] {
        let least = if kind.starts_with('i') || !text.contains("integer `-") { "" } else { " from 0 up" };
        text = text.replace(&format!("expected {kind}"), &format!("expected a whole number{least}"));
    }
    for (marker, noun) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        let Some(at) = text.find(marker) else { continue };
        let before = text[..at].trim_end_matches(": ").to_owned();
        let Some((name, rest)) = text[at + marker.len()..].split_once('`') else { continue };
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let whole = match (noun, before.is_empty()) {
            ("key", false) => format!("unknown key `{before}.{name}`"),
            ("key", true) => format!("unknown key `{name}`"),
            (_, false) => format!("{before}: unknown value `{name}`"),
            (_, true) => format!("unknown value `{name}`"),
        };
        return match closest(name, known.iter().copied()) {
            Some(near) => format!("{whole}; did you mean `{near}`?"),
            None if known.is_empty() => whole,
            None => format!("{whole}; known here: {}", known.join(", ")),
        };
    }
    text
}

/// The nearest of the known words, when it is near enough to be a slip.
pub(crate) fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    let near = known.map(|k| (distance(word, k), k)).min_by_key(|(d, _)| *d)?;
    (near.0 <= limit).then_some(near.1)
}

/// Edit distance with swaps of neighbours counted once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// The line (from 1) of a dotted key in block-style YAML, or of the nearest section above it that can be found; `None`
/// where not even its first part is written at the start of a line.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut wanted = key.split('.').peekable();
    let mut above: Option<usize> = None;
    let mut nearest = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let Some(part) = wanted.peek() else { break };
        if above.is_some_and(|a| indent <= a) {
            break;
        }
        let fits = above.is_some() || indent == 0;
        let name = content.split(':').next().unwrap_or_default().trim_matches(['"', '\'']);
        if fits && name == *part && content.contains(':') {
            wanted.next();
            above = Some(indent);
            nearest = Some(number + 1);
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["max_concurrency", "gate_slots", "agents"];
        for (word, expected) in [
            ("max_concurency", Some("max_concurrency")),
            ("gateslots", Some("gate_slots")),
            ("agnets", Some("agents")),
            ("wombat", None),
        ] {
            assert_eq!(closest(word, known.into_iter()), expected, "{word}");
        }
    }

    #[test]
    fn keys_are_found_by_line() {
        let text = "# c\nhttp:\n  bind: x\nrepos:\n  a:\n    path: /x\n  b:\n    path: /y\n";
        assert_eq!(line_of(text, "http.bind"), Some(3));
        assert_eq!(line_of(text, "repos.b"), Some(7));
        assert_eq!(line_of(text, "repos.b.path"), Some(8));
        assert_eq!(line_of(text, "repos.c"), Some(4), "the section above");
        assert_eq!(line_of(text, "limits.x"), None);
    }
}
