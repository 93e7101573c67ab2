//! Whether an advisory concerns a version: the evaluation that the OSV format describes.
//!
//! Owns the walk along the borders of a range. Versions are compared by the ecosystem's own crate, never by code of ours.
//! A version or border that cannot be read makes the answer [`Concern::Unclear`], not "no".

use std::cmp::Ordering;
use std::str::FromStr;

use orch_domain::deps::package::{Ecosystem, Package};

use super::one_line;
use super::osv::{Affected, Entry, Event, Range};

/// Whether an advisory concerns a package at its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Concern {
    Yes,
    No,
    /// It may.
    Unclear(String),
}

enum Version {
    Semver(semver::Version),
    Python(Box<pep440_rs::Version>),
}

impl Version {
    fn read(ecosystem: Ecosystem, text: &str) -> Option<Self> {
        match ecosystem {
            Ecosystem::CratesIo | Ecosystem::Npm => {
                semver::Version::parse(text.trim_start_matches('v')).ok().map(Self::Semver)
            }
            Ecosystem::PyPi => pep440_rs::Version::from_str(text).ok().map(Box::new).map(Self::Python),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            // What was built with it makes no other version of it.
            (Self::Semver(one), Self::Semver(other)) => one.cmp_precedence(other),
            (Self::Python(one), Self::Python(other)) => one.cmp(other),
            // One package has one ecosystem.
            (Self::Semver(_), Self::Python(_)) => Ordering::Less,
            (Self::Python(_), Self::Semver(_)) => Ordering::Greater,
        }
    }
}

/// What an entry says about a package. Withdrawn entries concern nobody.
pub(super) fn concern(entry: &Entry, package: &Package) -> Concern {
    if entry.is_withdrawn() {
        return Concern::No;
    }
    let mut unclear = None;
    for affected in entry.affected.iter().filter(|affected| affected.is_about(package)) {
        match concern_of(affected, package) {
            Concern::Yes => return Concern::Yes,
            Concern::No => {}
            Concern::Unclear(why) => unclear = Some(format!("{}: {why}", entry.id)),
        }
    }
    unclear.map_or(Concern::No, Concern::Unclear)
}

fn concern_of(affected: &Affected, package: &Package) -> Concern {
    if affected.versions.iter().any(|version| version == package.version()) {
        return Concern::Yes;
    }
    let Some(version) = Version::read(package.ecosystem(), package.version()) else {
        return Concern::Unclear(format!("the version `{}` cannot be compared", package.version()));
    };
    let same = |text: &String| Version::read(package.ecosystem(), text).is_some_and(|v| v.compare(&version).is_eq());
    if affected.versions.iter().any(same) {
        return Concern::Yes;
    }
    let mut unclear = None;
    let mut ranges = 0;
    for range in affected.version_ranges() {
        ranges += 1;
        match within(range, &version, package.ecosystem()) {
            Ok(true) => return Concern::Yes,
            Ok(false) => {}
            Err(why) => unclear = Some(why),
        }
    }
    if ranges == 0 && affected.versions.is_empty() {
        return Concern::Unclear("it names no versions".to_owned());
    }
    unclear.map_or(Concern::No, Concern::Unclear)
}

enum Border {
    Introduced,
    LastAffected,
    Fixed,
}

/// Whether a version lies in a range: between an introduction and the next fix.
fn within(range: &Range, version: &Version, ecosystem: Ecosystem) -> Result<bool, String> {
    let mut borders: Vec<(Option<Version>, Border)> = Vec::new();
    for Event { introduced, fixed, last_affected } in &range.events {
        let all = [(introduced, Border::Introduced), (fixed, Border::Fixed), (last_affected, Border::LastAffected)];
        for (text, border) in all {
            let Some(text) = text else { continue };
            // "0" is before every version there is.
            let at = match (text.as_str(), &border) {
                ("0", Border::Introduced) => None,
                _ => Some(
                    Version::read(ecosystem, text)
                        .ok_or_else(|| format!("the border `{}` cannot be compared", one_line(text, 40)))?,
                ),
            };
            borders.push((at, border));
        }
    }
    borders.sort_by(|(one, _), (other, _)| match (one, other) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(one), Some(other)) => one.compare(other),
    });
    let mut inside = false;
    for (at, border) in &borders {
        let reached = at.as_ref().map_or(Ordering::Greater, |at| version.compare(at));
        match border {
            Border::Introduced if reached.is_ge() => inside = true,
            Border::Fixed if reached.is_ge() => inside = false,
            Border::LastAffected if reached.is_gt() => inside = false,
            _ => {}
        }
    }
    Ok(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ecosystem: Ecosystem, kind: &str, events: &str, versions: &str) -> Entry {
        let text = format!(
            "{{\"id\": \"A-1\", \"affected\": [{{\"package\": {{\"ecosystem\": \"{ecosystem}\", \"name\": \"a\"}}, \
             \"ranges\": [{{\"type\": \"{kind}\", \"events\": [{events}]}}], \"versions\": [{versions}]}}]}}"
        );
        Entry::read(text.as_bytes()).expect("an entry")
    }

    fn concerns(entry: &Entry, ecosystem: Ecosystem, version: &str) -> Concern {
        concern(entry, &Package::new(ecosystem, "a", version).expect("valid"))
    }

    #[test]
    fn a_version_is_concerned_between_introduction_and_fix() {
        let borders = r#"{"introduced": "1.2.0"}, {"fixed": "1.2.5"}, {"introduced": "0"}, {"fixed": "1.0.1"}, {"introduced": "2.0.0-alpha.1"}"#;
        let table = [
            ("0.0.0-0", true),
            ("1.0.0", true),
            ("1.0.1-rc.1", true),
            ("1.0.1", false),
            ("1.1.9", false),
            ("1.2.0", true),
            ("1.2.4+build.7", true),
            ("1.2.5", false),
            ("1.2.5+build", false),
            ("2.0.0-alpha.0", false),
            ("2.0.0-alpha.1", true),
            ("99.0.0", true),
        ];
        for ecosystem in [Ecosystem::CratesIo, Ecosystem::Npm] {
            let entry = entry(ecosystem, "SEMVER", borders, "");
            for (version, concerned) in table {
                let expected = if concerned { Concern::Yes } else { Concern::No };
                assert_eq!(concerns(&entry, ecosystem, version), expected, "{version}");
            }
        }
    }

    #[test]
    fn python_versions_are_compared_as_python_does() {
        let entry = entry(Ecosystem::PyPi, "ECOSYSTEM", r#"{"introduced": "0"}, {"last_affected": "2.10"}"#, "\"3.0\"");
        for (version, concerned) in [
            ("2.9", true),
            ("2.10", true),
            ("2.10.0", true),
            ("2.10.post1", false),
            ("2.11a1", false),
            ("1!0.1", false),
            ("3.0.0", true),
            ("3.0.1", false),
            ("2.0.dev3", true),
        ] {
            let expected = if concerned { Concern::Yes } else { Concern::No };
            assert_eq!(concerns(&entry, Ecosystem::PyPi, version), expected, "{version}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_unclear_and_not_clean() {
        let unclear =
            |entry: &Entry, ecosystem, version| matches!(concerns(entry, ecosystem, version), Concern::Unclear(_));
        let odd = entry(Ecosystem::Npm, "SEMVER", r#"{"introduced": "0"}, {"fixed": "newest"}"#, "");
        assert!(unclear(&odd, Ecosystem::Npm, "1.0.0"));
        let fine = entry(Ecosystem::Npm, "SEMVER", r#"{"introduced": "0"}, {"fixed": "2.0.0"}"#, "");
        assert!(unclear(&fine, Ecosystem::Npm, "1.0"));
        let commits = entry(Ecosystem::Npm, "GIT", r#"{"introduced": "0"}"#, "");
        assert!(unclear(&commits, Ecosystem::Npm, "1.0.0"));
        let listed = entry(Ecosystem::Npm, "GIT", r#"{"introduced": "0"}"#, "\"1.0.0\"");
        assert_eq!(concerns(&listed, Ecosystem::Npm, "1.0.0"), Concern::Yes);
        assert_eq!(concerns(&listed, Ecosystem::Npm, "1.0.1"), Concern::No);
    }
}
