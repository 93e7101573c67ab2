//! Advisories, and which of them are the same under another name.
//!
//! Owns the folding of ids over aliases: CVE, GHSA, PYSEC and RUSTSEC entries of one hole are one. Refuses severities as
//! numbers: what a feed says is shown, and decides nothing.

use std::collections::{BTreeMap, BTreeSet};

/// What a feed says about a package, in our words. Withdrawn advisories never get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advisory {
    /// The id under which the feed has it.
    pub id: String,
    /// Its other ids.
    pub aliases: BTreeSet<String>,
    /// One line, from outside.
    pub summary: String,
    /// The feed's own word for how bad it is.
    pub severity: Option<String>,
    /// Versions that no longer have it, as the feed lists them.
    pub fixed: Vec<String>,
    /// Set for notices that name no hole (`unmaintained`, `unsound`, `notice`): these are told and fail nothing.
    pub informational: Option<String>,
}

/// What is known about one package at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What concerns this version.
    pub advisories: Vec<Advisory>,
    /// Why this may not be all: the feed was away, skipped it, or is old. `None` makes an empty answer mean clean.
    pub trouble: Option<String>,
}

impl Answer {
    /// Nothing is known, for a reason.
    #[must_use]
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { advisories: Vec::new(), trouble: Some(why.into()) }
    }
}

/// Ids that mean the same.
#[derive(Debug, Default)]
pub struct Folding {
    /// Each id leads towards the first of its group.
    towards: BTreeMap<String, String>,
}

impl Folding {
    /// Folds everything that these advisories say of each other.
    pub fn of<'a>(advisories: impl IntoIterator<Item = &'a Advisory>) -> Self {
        let mut folding = Self::default();
        for advisory in advisories {
            for alias in &advisory.aliases {
                folding.join(&key(&advisory.id), &key(alias));
            }
        }
        folding
    }

    fn join(&mut self, one: &str, other: &str) {
        let (one, other) = (self.root(one), self.root(other));
        if one != other {
            let (first, second) = if one < other { (one, other) } else { (other, one) };
            self.towards.insert(second, first);
        }
    }

    fn root(&self, id: &str) -> String {
        let mut at = id;
        while let Some(next) = self.towards.get(at) {
            at = next;
        }
        at.to_owned()
    }

    /// The one name of everything that is the same as this id.
    #[must_use]
    pub fn group(&self, id: &str) -> String {
        self.root(&key(id))
    }
}

/// Ids differ in case from feed to feed.
fn key(id: &str) -> String {
    id.trim().to_ascii_uppercase()
}

/// Whether a text can be the id of an advisory.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    starts && text.len() <= 100 && text.bytes().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advisory(id: &str, aliases: &[&str]) -> Advisory {
        Advisory {
            id: id.to_owned(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            summary: String::new(),
            severity: None,
            fixed: Vec::new(),
            informational: None,
        }
    }

    #[test]
    fn ids_are_folded_over_any_number_of_steps() {
        let all = [
            advisory("PYSEC-1", &["CVE-1"]),
            advisory("GHSA-x", &["CVE-1", "cve-2"]),
            advisory("RUSTSEC-9", &["CVE-2"]),
            advisory("GHSA-other", &[]),
        ];
        let folding = Folding::of(&all);
        let group = folding.group("PYSEC-1");
        for id in ["CVE-1", "CVE-2", "GHSA-X", "ghsa-x", "RUSTSEC-9"] {
            assert_eq!(folding.group(id), group, "{id}");
        }
        assert_ne!(folding.group("GHSA-other"), group);
        assert_eq!(folding.group("never seen"), "NEVER SEEN");
    }

    #[test]
    fn advisories_that_name_each_other_end() {
        let folding = Folding::of(&[advisory("A", &["B", "A"]), advisory("B", &["A", "C"]), advisory("C", &["A"])]);
        assert_eq!(folding.group("C"), "A");
    }

    #[test]
    fn ids_are_plain() {
        for id in ["CVE-2024-1", "GHSA-xxxx-yyyy-zzzz", "PYSEC-2024-1", "RUSTSEC-2020-0071", "MAL-2024-1"] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", "-a", "../x", "a/b", "a b", "a\n", "ä", &"a".repeat(101)] {
            assert!(!is_id(id), "{id:?}");
        }
    }
}
