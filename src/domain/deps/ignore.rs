//! Advisories that a person has decided to live with, for a time.
//!
//! Owns the entry (id, reason, last day) and the section of `.orch.yaml` that holds a list of them. The list comes from
//! the base commit, never from the branch under judgement. Refuses entries without a reason or without an end.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::advisory::is_id;
use super::package::Package;
use crate::time::Timestamp;

/// The file at the root of a repository that holds its own rules.
pub const RULES_FILE: &str = ".orch.yaml";
/// Largest such file that is read.
pub const MOST_RULES: u64 = 64 << 10;
const MOST_ENTRIES: usize = 500;

/// A day, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(Date);

impl Day {
    /// The instant at which it is over.
    #[must_use]
    pub fn end(self) -> Timestamp {
        let next = self.0.tomorrow().unwrap_or(Date::MAX);
        let at = TimeZone::UTC.to_timestamp(next.at(0, 0, 0, 0));
        Timestamp(at.map_or(i64::MAX, jiff::Timestamp::as_millisecond))
    }
}

impl TryFrom<String> for Day {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let date = text.parse::<Date>().ok().filter(|_| text.len() == 10);
        date.map(Self).ok_or_else(|| format!("`{}` is no day; write it as 2027-01-31", super::package::clip(&text, 40)))
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.0.to_string()
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One advisory that fails nothing until its last day is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Entry")]
pub struct Ignore {
    /// Any id of the advisory.
    pub id: String,
    /// Why it may be lived with.
    pub reason: String,
    /// The last day on which it is ignored, in UTC.
    pub expires: Day,
    /// Only for the package of this name; for all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    reason: String,
    expires: Day,
    package: Option<String>,
}

impl TryFrom<Entry> for Ignore {
    type Error = String;

    fn try_from(entry: Entry) -> Result<Self, String> {
        let Entry { id, reason, expires, package } = entry;
        if !is_id(&id) {
            return Err(format!("`{}` is no id of an advisory, such as CVE-2024-12345", super::package::clip(&id, 40)));
        }
        if reason.trim().is_empty() {
            return Err(format!("`{id}` is ignored without a reason; say why it may be lived with"));
        }
        Ok(Self { id, reason: super::package::clip(reason.trim(), 300), expires, package })
    }
}

impl Ignore {
    /// Whether it is meant for a package.
    #[must_use]
    pub fn is_for(&self, package: &Package) -> bool {
        let normal = |name| super::package::normal_name(package.ecosystem(), name);
        self.package.as_deref().is_none_or(|name| normal(name).as_deref() == Some(package.name()))
    }

    /// Whether its last day is over.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.expires.end()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rules {
    gates: Option<Gates>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Gates {
    security: Option<Security>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Security {
    dep_audit_ignore: Option<Vec<Ignore>>,
}

/// The list in a repository's own rules, `gates.security.dep_audit_ignore` of `.orch.yaml`. Other keys are for others.
///
/// # Errors
/// A sentence when the file or an entry is not understood; then nothing in it is ignored.
pub fn ignores_in(text: &str) -> Result<Vec<Ignore>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let rules: Option<Rules> = serde_yaml::from_str(text).map_err(|error| format!("{RULES_FILE}: {error}"))?;
    let list = rules.and_then(|rules| rules.gates?.security?.dep_audit_ignore).unwrap_or_default();
    if list.len() > MOST_ENTRIES {
        return Err(format!("{RULES_FILE}: {} advisories are ignored; at most {MOST_ENTRIES} may be", list.len()));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::super::package::Ecosystem;
    use super::*;

    fn yaml(entry: &str) -> String {
        format!("tests: {{}}\ngates:\n  security:\n    dep_audit_ignore:\n{entry}")
    }

    const WHOLE: &str = "      - {id: CVE-2024-1, reason: never parsed, expires: 2027-01-31, package: Jinja2}\n";

    #[test]
    fn an_entry_lives_to_the_end_of_its_last_day() {
        let list = ignores_in(&yaml(WHOLE)).expect("valid");
        assert_eq!((list.len(), list[0].expires.to_string()), (1, "2027-01-31".to_owned()));
        let at = |text| Timestamp::from_rfc3339(text).expect("a time");
        assert!(!list[0].is_over(at("2027-01-31T23:59:59Z")));
        assert!(list[0].is_over(at("2027-02-01T00:00:00Z")));
        let for_package = |name| list[0].is_for(&Package::new(Ecosystem::PyPi, name, "1").expect("valid"));
        assert!(for_package("jinja2") && !for_package("flask"));
    }

    #[test]
    fn what_is_not_understood_is_said_and_ignores_nothing() {
        for (entry, said) in [
            ("      - {id: CVE-1, expires: 2027-01-31}\n", "reason"),
            ("      - {id: CVE-1, reason: x}\n", "expires"),
            ("      - {id: CVE-1, reason: ' ', expires: 2027-01-31}\n", "without a reason"),
            ("      - {id: CVE-1, reason: x, expires: never}\n", "`never` is no day"),
            ("      - {id: CVE-1, reason: x, expires: 2027-02-30}\n", "is no day"),
            ("      - {id: '../x', reason: x, expires: 2027-01-31}\n", "is no id"),
            ("      - {id: CVE-1, reason: x, expires: 2027-01-31, packge: x}\n", "packge"),
            ("      nonsense: 1\n", "sequence"),
        ] {
            let error = ignores_in(&yaml(entry)).expect_err("refused");
            assert!(error.contains(said) && error.contains(RULES_FILE), "{error}");
        }
        for text in ["", "# nothing\n", "tests: {}\n", "gates: {}\n", "gates: {security: }\n", "gates:\n"] {
            assert_eq!(ignores_in(text), Ok(Vec::new()), "{text:?}");
        }
        assert!(ignores_in(&yaml(&WHOLE.repeat(501))).is_err());
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let list = ignores_in(&yaml(WHOLE)).expect("valid");
        let json = serde_json::to_string(&list).expect("serialises");
        assert_eq!(serde_json::from_str::<Vec<Ignore>>(&json).expect("valid"), list);
    }
}
