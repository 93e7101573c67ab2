//! Allowlists: what is no finding after all.
//!
//! Owns when a list holds: by path or commit alone, by the text alone, or (with `AND`) only when all of its parts do.
//! Path and commit count for one place of a text; a text that stands in two places is left out only where both are.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use regex::bytes::Regex;

use super::schema::Allowlist;
use super::{RuleError, go_syntax};
use crate::secrets::Place;

/// A finding as lists look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'t> {
    /// The secret alone.
    pub(crate) secret: &'t [u8],
    /// What the rule's pattern matched.
    pub(crate) matched: &'t [u8],
    /// The line or lines around it.
    pub(crate) line: &'t [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Secret,
    Match,
    Line,
}

/// One list, compiled.
#[derive(Debug)]
pub(crate) struct Allow {
    all_parts: bool,
    commits: BTreeSet<String>,
    paths: Option<Regex>,
    target: Target,
    regexes: Option<Regex>,
    stop_words: Option<AhoCorasick>,
}

impl Allow {
    pub(super) fn new(list: &Allowlist, of: &str) -> Result<Self, RuleError> {
        let stop_words = match list.stop_words.as_slice() {
            [] => None,
            words => {
                let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
                let built = AhoCorasick::builder().ascii_case_insensitive(true).build(&words);
                let failed = |error: aho_corasick::BuildError| RuleError::Pattern {
                    of: of.to_owned(),
                    pattern: "stopwords".to_owned(),
                    why: error.to_string(),
                };
                Some(built.map_err(failed)?)
            }
        };
        Ok(Self {
            all_parts: list.is_and(),
            commits: list.commits.iter().map(|commit| commit.trim().to_lowercase()).collect(),
            paths: any_of(&list.paths, of)?,
            target: match list.regex_target.as_str() {
                "match" => Target::Match,
                "line" => Target::Line,
                _ => Target::Secret,
            },
            regexes: any_of(&list.regexes, of)?,
            stop_words,
        })
    }

    /// Whether everything that stands there is left out, whatever it is.
    pub(crate) fn allows_place(&self, place: &Place) -> bool {
        let (commit, path) = (self.allows_commit(place), self.allows_path(place));
        if !self.all_parts {
            return commit || path;
        }
        self.regexes.is_none()
            && self.stop_words.is_none()
            && (self.commits.is_empty() || commit)
            && (self.paths.is_none() || path)
    }

    /// Whether a finding at a place is left out.
    pub(crate) fn allows(&self, place: &Place, seen: Seen<'_>) -> bool {
        let text = match self.target {
            Target::Secret => seen.secret,
            Target::Match => seen.matched,
            Target::Line => seen.line,
        };
        let by_pattern = !text.is_empty() && self.regexes.as_ref().is_some_and(|regex| regex.is_match(text));
        let by_word = self.stop_words.as_ref().is_some_and(|words| words.is_match(seen.secret));
        if !self.all_parts {
            return by_pattern || by_word || self.allows_place(place);
        }
        (self.commits.is_empty() || self.allows_commit(place))
            && (self.paths.is_none() || self.allows_path(place))
            && (self.regexes.is_none() || by_pattern)
            && (self.stop_words.is_none() || by_word)
    }

    fn allows_commit(&self, place: &Place) -> bool {
        !self.commits.is_empty() && place.commit.as_ref().is_some_and(|commit| self.commits.contains(commit.as_str()))
    }

    fn allows_path(&self, place: &Place) -> bool {
        let path = place.path();
        self.paths.as_ref().zip(path).is_some_and(|(regex, path)| regex.is_match(path))
    }
}

/// One pattern for several; `None` for none.
fn any_of(patterns: &[String], of: &str) -> Result<Option<Regex>, RuleError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    // Each alone first: a joined pattern's error would not say which one is wrong.
    for pattern in patterns {
        pattern_of(pattern, of)?;
    }
    let joined = patterns.iter().map(|pattern| format!("(?:{pattern})")).collect::<Vec<_>>().join("|");
    pattern_of(&joined, of).map(Some)
}

/// One pattern.
pub(super) fn pattern_of(pattern: &str, of: &str) -> Result<Regex, RuleError> {
    let failed = |why| RuleError::Pattern { of: of.to_owned(), pattern: shortened(pattern), why };
    go_syntax::compile(pattern).map_err(failed)
}

fn shortened(pattern: &str) -> String {
    match pattern.char_indices().nth(80) {
        Some((cut, _)) => format!("{}...", &pattern[..cut]),
        None => pattern.to_owned(),
    }
}
