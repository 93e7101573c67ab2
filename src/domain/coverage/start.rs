//! Whether a coverage command never got as far as to start its tool.
//!
//! Owns the signs: exit codes of a shell, and what runners say about a part that is not installed. Invariant: a command
//! that ran a test, or left a report, has started, whatever it printed. The output is the branch's own, so the caller
//! asks base before it believes that the branch has nothing to do with it. Refuses to judge.

use crate::job::JobEnd;
use crate::testcount::{Counts, plain};

/// What a runner prints (lower case) when a part that it needs is not there. Both halves must be in one line, the second
/// as a word of its own: a file of the project's that is missing may be called nearly so.
const SIGNS: [(&str, &str); 12] = [
    // pytest without pytest-cov
    ("unrecognized arguments", "--cov"),
    ("no module named", "pytest"),
    ("no module named", "pytest_cov"),
    ("no module named", "coverage"),
    // cargo without cargo-llvm-cov, and that without llvm-tools
    ("no such command", "llvm-cov"),
    ("no such subcommand", "llvm-cov"),
    ("failed to find", "llvm-tools-preview"),
    // npm, npx, pnpm, yarn without c8 or nyc
    ("could not determine executable", "run"),
    ("canceled due to missing", "packages"),
    ("cannot find module", "c8"),
    ("command not found", "c8"),
    ("command not found", "nyc"),
];

/// Why the tool did not start; `None`: it did, or nothing says that it did not.
#[must_use]
pub fn did_not_start(end: &JobEnd, counts: Option<Counts>, output: &str) -> Option<String> {
    let JobEnd::Exited { code } = end else {
        return match end {
            JobEnd::CouldNotStart { why } => Some(why.clone()),
            _ => None,
        };
    };
    if *code == 0 || counts.is_some_and(|counts| counts.ran() > 0) {
        return None;
    }
    match code {
        126 => return Some("exit code 126: the command may not be executed".to_owned()),
        127 => {
            let named = output.lines().map(plain).find(|line| line.contains("not found"));
            let named: String = named.iter().flat_map(|line| line.trim().chars()).take(200).collect();
            let what = if named.is_empty() { "the command was not found" } else { named.as_str() };
            return Some(format!("exit code 127: {what}"));
        }
        _ => {}
    }
    let sign = |line: &str| {
        let lower = line.to_lowercase();
        SIGNS.iter().any(|(one, other)| lower.contains(one) && has_word(&lower, other))
    };
    output.lines().map(plain).find(|line| sign(line)).map(|line| {
        let shown: String = line.trim().chars().take(200).collect();
        format!("exit code {code}: {shown}")
    })
}

/// Whether a text has a word with neither a letter, a digit nor `_` beside it.
fn has_word(text: &str, word: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + word.len()..].chars().next());
        !before.is_some_and(plain) && !after.is_some_and(plain)
    })
}
