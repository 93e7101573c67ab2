//! Reads `Cargo.lock`, versions 1 to 4.
//!
//! Owns what a package's source means: the public registry is asked about, another registry and git are unknown, none at
//! all is code of the repository itself. Refuses newer versions of the format: they may mean something else.

use serde::Deserialize;
use toml::Spanned;

use super::lockfile::{Lines, Place, Reading, Unknown, toml_trouble};
use super::package::Ecosystem;

/// How the public registry is written in a lock file, whichever protocol fetched from it.
const PUBLIC: &str = "registry+https://github.com/rust-lang/crates.io-index";
const NEWEST: u32 = 4;

#[derive(Deserialize)]
struct Lock {
    version: Option<u32>,
    #[serde(default)]
    package: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: Spanned<String>,
    version: String,
    source: Option<String>,
}

pub(super) fn read(path: &str, text: &str) -> Reading {
    let lock: Lock = match toml::from_str(text) {
        Ok(lock) => lock,
        Err(error) => {
            return Reading::broken(path, text.as_bytes(), &toml_trouble("Cargo.lock", text, &error));
        }
    };
    let mut reading = Reading::default();
    if let Some(newer) = lock.version.filter(|version| *version > NEWEST) {
        let why = format!("its format has version {newer}; up to {NEWEST} is understood");
        reading.unknown.push(Unknown::of_file(path, text.as_bytes(), &why));
    }
    let lines = Lines::of(text);
    for entry in &lock.package {
        let place = Place::line(path, lines.at(entry.name.span().start));
        let (name, version) = (entry.name.get_ref(), &entry.version);
        let Some(source) = &entry.source else { continue };
        let why = match source.split_once('+').map_or("", |(kind, _)| kind) {
            _ if source == PUBLIC => {
                reading.pin(Ecosystem::CratesIo, name, version, place);
                continue;
            }
            "git" => "it comes from a git repository, for which there are no advisories",
            _ => "it comes from another registry than the public one",
        };
        let identity = format!("{name} {version} {source}");
        reading.unknown.push(Unknown::new(place, &format!("{name} {version}"), why, &identity));
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::super::lockfile::LockKind;
    use super::*;

    fn shown(text: &str) -> (Vec<String>, Vec<String>) {
        let reading = LockKind::Cargo.read("Cargo.lock", text.as_bytes());
        let pins = reading.pins.iter().map(|pin| format!("{} at {}", pin.package, pin.place)).collect();
        (pins, reading.unknown.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_public_registry_is_asked_about_and_the_rest_is_told_apart() {
        let text = format!(
            "version = 4\n\n[[package]]\nname = \"mine\"\nversion = \"0.1.0\"\ndependencies = [\"time\"]\n\n\
             [[package]]\nname = \"time\"\nversion = \"0.1.42\"\nsource = \"{PUBLIC}\"\nchecksum = \"00\"\n\n\
             [[package]]\nname = \"theirs\"\nversion = \"1.0.0\"\nsource = \"registry+https://example.invalid/index\"\n\n\
             [[package]]\nname = \"forked\"\nversion = \"2.0.0\"\nsource = \"git+https://u:p@example.invalid/x#0a\"\n"
        );
        let (pins, unknown) = shown(&text);
        assert_eq!(pins, ["crates.io time 0.1.42 at Cargo.lock:9"]);
        assert_eq!(
            unknown,
            [
                "Cargo.lock:15: theirs 1.0.0: it comes from another registry than the public one",
                "Cargo.lock:20: forked 2.0.0: it comes from a git repository, for which there are no advisories",
            ]
        );
    }

    #[test]
    fn the_first_version_of_the_format_is_read_too() {
        let text = format!(
            "[root]\nname = \"mine\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
             source = \"{PUBLIC}\"\n\n[metadata]\n\"checksum a 1.0.0\" = \"00\"\n"
        );
        assert_eq!(shown(&text), (vec!["crates.io a 1.0.0 at Cargo.lock:6".to_owned()], Vec::new()));
    }

    #[test]
    fn what_is_broken_or_newer_is_unknown_and_not_empty() {
        for text in ["", "version = 4\n"] {
            assert_eq!(shown(text), (Vec::new(), Vec::new()), "nothing is pinned, and that is understood: {text:?}");
        }
        for text in ["[[package]]\nname = 1\n", "<<<<<<< HEAD\n", "package = 3\n", "\u{0}"] {
            let (pins, unknown) = shown(text);
            assert!(pins.is_empty() && unknown.len() == 1 && unknown[0].contains("it is no Cargo.lock"), "{unknown:?}");
        }
        let (_, unknown) = shown("version = 5\n");
        assert!(unknown[0].contains("version 5"), "{unknown:?}");
        let (_, unknown) = shown(&format!("[[package]]\nname = \"a b\"\nversion = \"1\"\nsource = \"{PUBLIC}\"\n"));
        assert!(unknown[0].contains("`a b` is no package name of crates.io"), "{unknown:?}");
    }
}
