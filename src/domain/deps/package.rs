//! What an advisory can be asked about: a package of an ecosystem, at one version.
//!
//! Owns names and versions as they may leave the program: in a request, a file for a tool, a cache's name. Refuses
//! whatever no registry would take, so that text of a branch never reaches any of these. Names of PyPI are normalised
//! (PEP 503), since one package is written in many ways there.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most characters of a version.
const MOST_VERSION: usize = 128;
/// Most characters of a name: what the most generous registry allows.
const MOST_NAME: usize = 214;

/// A registry with names and versions of its own, as advisories call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ecosystem {
    /// Rust.
    #[serde(rename = "crates.io")]
    CratesIo,
    /// Python.
    #[serde(rename = "PyPI")]
    PyPi,
    /// JavaScript.
    #[serde(rename = "npm")]
    Npm,
}

impl Ecosystem {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::CratesIo, Self::PyPi, Self::Npm];

    /// The name that the OSV format uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CratesIo => "crates.io",
            Self::PyPi => "PyPI",
            Self::Npm => "npm",
        }
    }
}

impl fmt::Display for Ecosystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a name or a version is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what} of {ecosystem}")]
pub struct PackageError {
    text: String,
    what: &'static str,
    ecosystem: Ecosystem,
}

/// A package at one version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Package {
    ecosystem: Ecosystem,
    name: String,
    version: String,
}

impl Package {
    /// Takes a name and a version as a lock file has them.
    ///
    /// # Errors
    /// [`PackageError`] when the registry could hold neither.
    pub fn new(ecosystem: Ecosystem, name: &str, version: &str) -> Result<Self, PackageError> {
        let refuse = |text: &str, what| PackageError { text: shown(text, 60), what, ecosystem };
        let name = normal_name(ecosystem, name).ok_or_else(|| refuse(name, "package name"))?;
        if !is_version(version) {
            return Err(refuse(version, "version"));
        }
        Ok(Self { ecosystem, name, version: version.to_owned() })
    }

    /// Where it is from.
    #[must_use]
    pub const fn ecosystem(&self) -> Ecosystem {
        self.ecosystem
    }

    /// Its name, normalised.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version as written.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether another one is the same package, at whatever version.
    #[must_use]
    pub fn same_name(&self, other: &Self) -> bool {
        self.ecosystem == other.ecosystem && self.name == other.name
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.ecosystem, self.name, self.version)
    }
}

/// The one spelling of a name in its ecosystem; `None` when the registry could not hold it.
#[must_use]
pub fn normal_name(ecosystem: Ecosystem, name: &str) -> Option<String> {
    if name.is_empty() || name.len() > MOST_NAME || !name.is_ascii() {
        return None;
    }
    match ecosystem {
        Ecosystem::CratesIo => {
            let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            (fine && name.len() <= 64).then(|| name.to_owned())
        }
        Ecosystem::PyPi => pep503(name),
        Ecosystem::Npm => {
            let (scope, rest) = match name.strip_prefix('@') {
                Some(scoped) => scoped.split_once('/').map(|(scope, rest)| (Some(scope), rest))?,
                None => (None, name),
            };
            (scope.is_none_or(is_npm_part) && is_npm_part(rest)).then(|| name.to_owned())
        }
    }
}

/// Lower case, and each run of `-`, `_` and `.` as one `-`.
fn pep503(name: &str) -> Option<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if !bytes.iter().all(|b| inner(*b)) || !ends(bytes.first()) || !ends(bytes.last()) {
        return None;
    }
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    Some(parts.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-"))
}

/// Old packages may hold more than today's rules allow.
fn is_npm_part(part: &str) -> bool {
    let fine =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'!' | b'\'' | b'(' | b')' | b'*');
    !part.is_empty() && !matches!(part, "." | "..") && part.bytes().all(fine)
}

fn is_version(version: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'!' | b'-' | b'_');
    let starts = version.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    starts && version.len() <= MOST_VERSION && version.bytes().all(fine)
}

/// The first characters of a text from outside, on one line and without control characters.
pub(crate) fn clip(text: &str, most: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    let whole = text.chars().nth(most).is_none();
    if whole { clean } else { format!("{clean}...") }
}

/// A text that may be shown: an address may hold a password, so whatever could be part of one is left out.
pub(crate) fn shown(text: &str, most: usize) -> String {
    let plain = |c: char| c.is_alphanumeric() || " ._+-@/=<>!~,*()[]".contains(c);
    if text.chars().all(plain) && !text.contains("//") { clip(text, most) } else { "(not shown)".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_package_of_pypi_has_one_name() {
        for name in ["Friendly-Bard", "friendly.bard", "FRIENDLY__bard", "friendly-._.-bard"] {
            assert_eq!(normal_name(Ecosystem::PyPi, name).as_deref(), Some("friendly-bard"), "{name}");
        }
        let one = Package::new(Ecosystem::PyPi, "Jinja2", "2.4.1").expect("valid");
        assert_eq!(one.to_string(), "PyPI jinja2 2.4.1");
    }

    #[test]
    fn the_other_registries_tell_names_apart_as_written() {
        assert_eq!(normal_name(Ecosystem::CratesIo, "serde_json").as_deref(), Some("serde_json"));
        assert_eq!(normal_name(Ecosystem::Npm, "@babel/core").as_deref(), Some("@babel/core"));
        assert_eq!(normal_name(Ecosystem::Npm, "JSONStream").as_deref(), Some("JSONStream"));
    }

    #[test]
    fn what_no_registry_holds_is_refused() {
        for name in ["", "a b", "a\n-r x", "-a", "a-", "ä", "a==1", &"a".repeat(300)] {
            assert_eq!(normal_name(Ecosystem::PyPi, name), None, "{name:?}");
        }
        for name in ["", "a/b", "../a", "@/a", "@a", "@a/", "@a/b/c", "..", "a b"] {
            assert_eq!(normal_name(Ecosystem::Npm, name), None, "{name:?}");
        }
        for name in ["", "a.b", "a/b", &"a".repeat(65)] {
            assert_eq!(normal_name(Ecosystem::CratesIo, name), None, "{name:?}");
        }
        for version in ["", "-1", "1 ", "1\n2", "1;2", "*", "1.*", "^1", "file:x", &"1".repeat(200)] {
            let refused = Package::new(Ecosystem::Npm, "a", version).expect_err("refused").to_string();
            assert!(refused.contains("is no version of npm"), "{refused}");
        }
        for version in ["1", "1!2.0.post1+local.7", "1.0.0-rc.1+build_5"] {
            assert!(Package::new(Ecosystem::PyPi, "a", version).is_ok(), "{version}");
        }
    }
}
