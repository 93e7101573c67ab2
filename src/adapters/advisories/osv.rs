//! Advisories in the OSV format: as much of it as an answer needs.
//!
//! Owns the reading (lenient about what is left out, strict about what is there) and the way to our own words. Refuses
//! other major versions of the format. Withdrawn entries become nothing.

use std::collections::BTreeSet;

use orch_domain::deps::advisory::{Advisory, is_id};
use orch_domain::deps::package::{Ecosystem, Package, normal_name};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::one_line;

/// Most entries of any list that are taken over.
const MOST: usize = 200;

/// One advisory.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Entry {
    pub(super) id: String,
    #[serde(default)]
    pub(super) schema_version: Option<String>,
    #[serde(default)]
    pub(super) modified: Option<String>,
    #[serde(default)]
    pub(super) withdrawn: Option<Value>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(super) aliases: Vec<String>,
    #[serde(default)]
    pub(super) summary: Option<String>,
    #[serde(default)]
    pub(super) details: Option<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(super) severity: Vec<Severity>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(super) affected: Vec<Affected>,
    #[serde(default)]
    pub(super) database_specific: Option<Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Severity {
    #[serde(default)]
    score: Option<String>,
}

/// What it says of one package.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Affected {
    #[serde(default)]
    pub(super) package: Option<Named>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(super) ranges: Vec<Range>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(super) versions: Vec<String>,
    #[serde(default)]
    pub(super) database_specific: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Named {
    #[serde(default)]
    pub(super) ecosystem: String,
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Range {
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "or_empty")]
    pub(super) events: Vec<Event>,
}

/// A border of a range; one of these is set.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Event {
    #[serde(default)]
    pub(super) introduced: Option<String>,
    #[serde(default)]
    pub(super) fixed: Option<String>,
    #[serde(default)]
    pub(super) last_affected: Option<String>,
}

/// A list that some writers put down as `null`.
fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The ecosystem that a name stands for; `PyPI:mirror` is as good as `PyPI`.
fn ecosystem(name: &str) -> Option<Ecosystem> {
    let plain = name.split(':').next().unwrap_or_default();
    Ecosystem::ALL.into_iter().find(|ecosystem| ecosystem.as_str() == plain)
}

/// How names are compared: registries take no two Rust packages that differ in case, `-` and `_` alone.
pub(super) fn comparable(ecosystem: Ecosystem, name: &str) -> String {
    match ecosystem {
        Ecosystem::CratesIo => name.to_ascii_lowercase().replace('_', "-"),
        Ecosystem::PyPi => normal_name(ecosystem, name).unwrap_or_else(|| name.to_ascii_lowercase()),
        Ecosystem::Npm => name.to_owned(),
    }
}

impl Affected {
    /// The name that it speaks of, if it is one of an ecosystem, in the form in which names are compared.
    pub(super) fn name_in(&self, wanted: Ecosystem) -> Option<String> {
        let named = self.package.as_ref().filter(|named| ecosystem(&named.ecosystem) == Some(wanted))?;
        Some(comparable(wanted, &named.name))
    }

    /// Whether it speaks of a package, at whatever version.
    pub(super) fn is_about(&self, package: &Package) -> bool {
        self.name_in(package.ecosystem()) == Some(comparable(package.ecosystem(), package.name()))
    }

    /// Ranges of versions; those of commits say nothing about versions.
    pub(super) fn version_ranges(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(|range| matches!(range.kind.as_str(), "SEMVER" | "ECOSYSTEM"))
    }
}

impl Entry {
    /// Reads one.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let entry: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is no advisory (line {}, column {})", error.line(), error.column()))?;
        if !is_id(&entry.id) {
            return Err(format!("`{}` is no id of an advisory", one_line(&entry.id, 40)));
        }
        // Left out means the first version.
        match entry.schema_version.as_deref().map(|version| version.split('.').next().unwrap_or_default()) {
            None | Some("1") => Ok(entry),
            Some(major) => Err(format!("{} is written in version {} of the format", entry.id, one_line(major, 10))),
        }
    }

    pub(super) const fn is_withdrawn(&self) -> bool {
        self.withdrawn.is_some()
    }

    /// What it says about a package, in our words; `None` when it is withdrawn.
    pub(super) fn about(&self, package: &Package) -> Option<Advisory> {
        if self.is_withdrawn() {
            return None;
        }
        let about: Vec<&Affected> = self.affected.iter().filter(|affected| affected.is_about(package)).collect();
        let events = about.iter().flat_map(|affected| affected.version_ranges()).flat_map(|range| &range.events);
        let mut fixed: Vec<String> = Vec::new();
        for version in events.filter_map(|event| event.fixed.as_deref()).take(MOST) {
            let version = one_line(version, 60);
            if !version.is_empty() && !fixed.contains(&version) {
                fixed.push(version);
            }
        }
        let aliases: BTreeSet<String> =
            self.aliases.iter().filter(|alias| is_id(alias) && **alias != self.id).take(MOST).cloned().collect();
        let summary = self.summary.as_deref().filter(|text| !text.trim().is_empty()).or(self.details.as_deref());
        let informational = about.iter().map(|affected| {
            let specific = affected.database_specific.as_ref()?;
            specific.get("informational")?.as_str().filter(|kind| !kind.is_empty()).map(|kind| one_line(kind, 40))
        });
        Some(Advisory {
            id: self.id.clone(),
            aliases,
            summary: one_line(summary.unwrap_or_default(), 200),
            severity: self.severity_word(),
            fixed,
            informational: informational.collect::<Option<Vec<_>>>().and_then(|kinds| kinds.into_iter().next()),
        })
    }

    fn severity_word(&self) -> Option<String> {
        let word = self.database_specific.as_ref().and_then(|specific| specific.get("severity")?.as_str());
        let score = self.severity.iter().find_map(|severity| severity.score.as_deref());
        word.or(score).map(|text| one_line(text, 60)).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        Package::new(Ecosystem::PyPi, "Jinja2", "2.4.1").expect("valid")
    }

    #[test]
    fn an_entry_is_put_into_our_words() {
        let text = r#"{"schema_version": "1.7.3", "id": "GHSA-a", "aliases": ["CVE-1", "GHSA-a", "../x"],
            "summary": null, "details": "First line\n\n# more", "severity": null, "modified": "2024-01-01T00:00:00Z",
            "database_specific": {"severity": "HIGH"},
            "affected": [
                {"package": {"ecosystem": "PyPI", "name": "jinja2"}, "ranges": [
                    {"type": "GIT", "events": [{"introduced": "0"}, {"fixed": "0a0a"}]},
                    {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.11.3"}]}]},
                {"package": {"ecosystem": "PyPI", "name": "other"}, "ranges": [
                    {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9"}]}]}]}"#;
        let advisory = Entry::read(text.as_bytes()).expect("an entry").about(&package()).expect("not withdrawn");
        assert_eq!(advisory.id, "GHSA-a");
        assert_eq!(advisory.aliases.into_iter().collect::<Vec<_>>(), ["CVE-1"]);
        assert_eq!(advisory.summary, "First line # more");
        assert_eq!(
            (advisory.severity.as_deref(), advisory.fixed.as_slice()),
            (Some("HIGH"), &["2.11.3".to_owned()][..])
        );
        assert_eq!(advisory.informational, None);
    }

    #[test]
    fn withdrawn_entries_say_nothing_and_notices_are_marked() {
        let withdrawn = Entry::read(br#"{"id": "GHSA-a", "withdrawn": "2024-01-01T00:00:00Z"}"#).expect("an entry");
        assert_eq!(withdrawn.about(&package()), None);
        let notice = br#"{"id": "RUSTSEC-1", "affected": [{"package": {"ecosystem": "PyPI", "name": "jinja2"},
            "database_specific": {"informational": "unmaintained"}}]}"#;
        let notice = Entry::read(notice).expect("an entry").about(&package()).expect("not withdrawn");
        assert_eq!(notice.informational.as_deref(), Some("unmaintained"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in ["", "[]", "{}", "{\"id\": \"../x\"}", "{\"id\": \"A\", \"schema_version\": \"2.0\"}", "<html>"] {
            assert!(Entry::read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(
            Entry::read(br#"{"id": "A", "affected": [{"package": null, "ranges": null, "versions": null}]}"#).is_ok()
        );
    }

    #[test]
    fn names_are_compared_as_their_registry_does() {
        let named = |ecosystem: &str, name: &str| Affected {
            package: Some(Named { ecosystem: ecosystem.to_owned(), name: name.to_owned() }),
            ..Affected::default()
        };
        assert!(named("PyPI", "JINJA2").is_about(&package()) && named("PyPI:x", "jinja2").is_about(&package()));
        assert!(!named("npm", "jinja2").is_about(&package()) && !named("PyPI", "jinja").is_about(&package()));
        let rust = Package::new(Ecosystem::CratesIo, "serde_json", "1.0.0").expect("valid");
        assert!(named("crates.io", "serde-json").is_about(&rust));
        let npm = Package::new(Ecosystem::Npm, "JSONStream", "1.0.0").expect("valid");
        assert!(!named("npm", "jsonstream").is_about(&npm));
    }
}
