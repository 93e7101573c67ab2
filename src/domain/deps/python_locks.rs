//! Reads `poetry.lock` and `uv.lock`.
//!
//! Owns what their `source` tables mean: any index is asked about (mirrors of the public one are common, and neither file
//! tells them from others), folders are the repository's own code, git, addresses and archives are unknown.

use serde::Deserialize;
use toml::Spanned;

use super::lockfile::{Lines, Place, Reading, Unknown, toml_trouble};
use super::package::Ecosystem;

const FROM_GIT: &str = "it comes from a git repository, for which there are no advisories";
const FROM_ADDRESS: &str = "it comes from an address of its own";
const FROM_ARCHIVE: &str = "it comes from an archive in the repository";

#[derive(Deserialize)]
struct Poetry {
    #[serde(default)]
    package: Vec<PoetryEntry>,
    #[serde(default)]
    metadata: PoetryMetadata,
}

#[derive(Default, Deserialize)]
struct PoetryMetadata {
    #[serde(rename = "lock-version")]
    version: Option<String>,
}

#[derive(Deserialize)]
struct PoetryEntry {
    name: Spanned<String>,
    version: String,
    source: Option<PoetrySource>,
}

#[derive(Deserialize)]
struct PoetrySource {
    #[serde(rename = "type")]
    kind: Option<String>,
}

pub(super) fn read_poetry(path: &str, text: &str) -> Reading {
    let lock: Poetry = match toml::from_str(text) {
        Ok(lock) => lock,
        Err(error) => {
            return Reading::broken(path, text.as_bytes(), &toml_trouble("poetry.lock", text, &error));
        }
    };
    let mut reading = Reading::default();
    let major = lock.metadata.version.as_deref().map(|version| version.split('.').next().unwrap_or_default());
    if let Some(newer) = major.filter(|major| !matches!(*major, "1" | "2")) {
        let why = format!("its format has version `{}`; 1 and 2 are understood", super::package::clip(newer, 10));
        reading.unknown.push(Unknown::of_file(path, text.as_bytes(), &why));
    }
    let lines = Lines::of(text);
    for entry in &lock.package {
        let place = Place::line(path, lines.at(entry.name.span().start));
        let why = match entry.source.as_ref().and_then(|source| source.kind.as_deref()) {
            None | Some("legacy" | "pypi") => None,
            Some("directory") => continue,
            Some("git") => Some(FROM_GIT),
            Some("url") => Some(FROM_ADDRESS),
            Some("file") => Some(FROM_ARCHIVE),
            Some(_) => Some("its source is of a kind that is not understood"),
        };
        settle(&mut reading, place, entry.name.get_ref(), &entry.version, why);
    }
    reading
}

#[derive(Deserialize)]
struct Uv {
    version: Option<u32>,
    #[serde(default)]
    package: Vec<UvEntry>,
}

#[derive(Deserialize)]
struct UvEntry {
    name: Spanned<String>,
    version: Option<String>,
    #[serde(default)]
    source: UvSource,
}

#[derive(Default, Deserialize)]
struct UvSource {
    registry: Option<String>,
    git: Option<String>,
    url: Option<String>,
    path: Option<String>,
    directory: Option<String>,
    editable: Option<String>,
    r#virtual: Option<String>,
}

impl UvSource {
    fn is_own(&self) -> bool {
        self.directory.is_some() || self.editable.is_some() || self.r#virtual.is_some()
    }

    fn why_unknown(&self) -> Option<&'static str> {
        if self.git.is_some() {
            Some(FROM_GIT)
        } else if self.url.is_some() {
            Some(FROM_ADDRESS)
        } else if self.path.is_some() {
            Some(FROM_ARCHIVE)
        } else if self.registry.is_none() {
            Some("its source is of a kind that is not understood")
        } else {
            None
        }
    }
}

pub(super) fn read_uv(path: &str, text: &str) -> Reading {
    let lock: Uv = match toml::from_str(text) {
        Ok(lock) => lock,
        Err(error) => return Reading::broken(path, text.as_bytes(), &toml_trouble("uv.lock", text, &error)),
    };
    let mut reading = Reading::default();
    if let Some(newer) = lock.version.filter(|version| *version > 1) {
        let why = format!("its format has version {newer}; 1 is understood");
        reading.unknown.push(Unknown::of_file(path, text.as_bytes(), &why));
    }
    let lines = Lines::of(text);
    for entry in lock.package.iter().filter(|entry| !entry.source.is_own()) {
        let place = Place::line(path, lines.at(entry.name.span().start));
        let (version, why) = match (&entry.version, entry.source.why_unknown()) {
            (Some(version), why) => (version.as_str(), why),
            (None, why) => ("", Some(why.unwrap_or("the lock file gives it no version"))),
        };
        settle(&mut reading, place, entry.name.get_ref(), version, why);
    }
    reading
}

fn settle(reading: &mut Reading, place: Place, name: &str, version: &str, why: Option<&str>) {
    let Some(why) = why else { return reading.pin(Ecosystem::PyPi, name, version, place) };
    let what = format!("{name} {version}");
    reading.unknown.push(Unknown::new(place, what.trim_end(), why, &what));
}

#[cfg(test)]
mod tests {
    use super::super::lockfile::LockKind;
    use super::*;

    fn shown(kind: LockKind, text: &str) -> (Vec<String>, Vec<String>) {
        let reading = kind.read("x.lock", text.as_bytes());
        let pins = reading.pins.iter().map(|pin| format!("{} at {}", pin.package, pin.place)).collect();
        (pins, reading.unknown.iter().map(|unknown| format!("{}: {}", unknown.what, unknown.why)).collect())
    }

    #[test]
    fn poetry_is_read() {
        let text = "[[package]]\nname = \"Jinja2\"\nversion = \"2.4.1\"\noptional = false\nfiles = []\n\n\
                    [[package]]\nname = \"mirrored\"\nversion = \"1.0\"\n[package.source]\ntype = \"legacy\"\nurl = \"https://x.invalid\"\n\n\
                    [[package]]\nname = \"own\"\nversion = \"0\"\n[package.source]\ntype = \"directory\"\nurl = \"own\"\n\n\
                    [[package]]\nname = \"g\"\nversion = \"3\"\n[package.source]\ntype = \"git\"\nurl = \"https://x.invalid\"\n\n\
                    [metadata]\nlock-version = \"2.1\"\n";
        let (pins, unknown) = shown(LockKind::Poetry, text);
        assert_eq!(pins, ["PyPI jinja2 2.4.1 at x.lock:2", "PyPI mirrored 1.0 at x.lock:8"]);
        assert_eq!(unknown, [format!("g 3: {FROM_GIT}")]);
    }

    #[test]
    fn uv_is_read() {
        let text = "version = 1\nrevision = 3\n\n[[package]]\nname = \"jinja2\"\nversion = \"2.4.1\"\n\
                    source = { registry = \"https://x.invalid/simple\" }\nwheels = []\n\n\
                    [[package]]\nname = \"mine\"\nversion = \"0.1\"\nsource = { editable = \".\" }\n\n\
                    [[package]]\nname = \"dynamic\"\nsource = { virtual = \".\" }\n\n\
                    [[package]]\nname = \"u\"\nversion = \"1\"\nsource = { url = \"https://x.invalid/u.whl\" }\n\n\
                    [[package]]\nname = \"odd\"\nversion = \"1\"\n\n\
                    [[package]]\nname = \"none\"\nsource = { registry = \"https://x.invalid/simple\" }\n";
        let (pins, unknown) = shown(LockKind::Uv, text);
        assert_eq!(pins, ["PyPI jinja2 2.4.1 at x.lock:5"]);
        assert_eq!(
            unknown,
            [
                format!("u 1: {FROM_ADDRESS}"),
                "odd 1: its source is of a kind that is not understood".to_owned(),
                "none: the lock file gives it no version".to_owned(),
            ]
        );
    }

    #[test]
    fn what_is_broken_or_newer_is_unknown_and_not_empty() {
        for kind in [LockKind::Poetry, LockKind::Uv] {
            let (pins, unknown) = shown(kind, "[[package]]\nname = [\n");
            assert!(pins.is_empty() && unknown.len() == 1 && unknown[0].contains("it is no "), "{unknown:?}");
        }
        assert!(shown(LockKind::Uv, "version = 2\n").1[0].contains("version 2"));
        assert!(shown(LockKind::Poetry, "[metadata]\nlock-version = \"3.0\"\n").1[0].contains("version `3`"));
    }
}
