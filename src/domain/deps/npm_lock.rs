//! Reads `package-lock.json`, versions 1 to 3.
//!
//! Owns the two shapes of it: the flat `packages` (2 and 3) and the nested `dependencies` (1, and beside the other in 2).
//! Both are read where both are there, since which one is used depends on who installs. Links and folders of the
//! repository itself are skipped; git, addresses and files are unknown.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::lockfile::{Place, Reading, Unknown};
use super::package::Ecosystem;

const NEWEST: u32 = 3;
/// Deeper nesting than the JSON reader itself allows never gets here; this is for the reader of the code.
const DEEPEST: usize = 128;

#[derive(Deserialize)]
struct Lock {
    #[serde(rename = "lockfileVersion")]
    version: Option<u32>,
    #[serde(default)]
    packages: BTreeMap<String, Entry>,
    #[serde(default)]
    dependencies: BTreeMap<String, Nested>,
}

#[derive(Deserialize)]
struct Entry {
    name: Option<String>,
    version: Option<String>,
    /// Where it was fetched from; `false` in some old files.
    resolved: Option<Value>,
    #[serde(default)]
    link: bool,
}

#[derive(Deserialize)]
struct Nested {
    version: Option<String>,
    #[serde(default)]
    dependencies: BTreeMap<String, Nested>,
}

pub(super) fn read(path: &str, text: &str) -> Reading {
    let lock: Lock = match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(lock) => lock,
        Err(error) => {
            // Its own words may quote the text.
            let why = format!("it is no package-lock.json (line {})", error.line());
            return Reading::broken(path, text.as_bytes(), &why);
        }
    };
    let mut reading = Reading::default();
    if let Some(newer) = lock.version.filter(|version| *version > NEWEST) {
        let why = format!("its format has version {newer}; up to {NEWEST} is understood");
        reading.unknown.push(Unknown::of_file(path, text.as_bytes(), &why));
    }
    for (key, entry) in &lock.packages {
        // The repository's own package, and folders of it that are linked to.
        let Some((_, last)) = key.rsplit_once("node_modules/").filter(|_| !entry.link) else { continue };
        let name = entry.name.as_deref().unwrap_or(last);
        let elsewhere = entry.resolved.as_ref().and_then(Value::as_str).and_then(elsewhere);
        take(&mut reading, Place::key(path, key), name, entry.version.as_deref(), elsewhere);
    }
    let mut open: Vec<(usize, String, &Nested)> = lock.dependencies.iter().map(|(n, d)| (0, n.clone(), d)).collect();
    while let Some((depth, key, entry)) = open.pop() {
        let name = key.rsplit_once(" > ").map_or(key.as_str(), |(_, name)| name);
        let (name, version, elsewhere) = match entry.version.as_deref() {
            Some(version) => match version.strip_prefix("npm:").and_then(|alias| alias.rsplit_once('@')) {
                Some((real, version)) => (real, Some(version), None),
                None if version.starts_with("file:") && !is_archive(version) => continue,
                None => (name, Some(version), elsewhere(version)),
            },
            None => (name, None, None),
        };
        take(&mut reading, Place::key(path, &key), name, version, elsewhere);
        if depth < DEEPEST {
            open.extend(entry.dependencies.iter().map(|(n, d)| (depth + 1, format!("{key} > {n}"), d)));
        }
    }
    reading
}

fn take(reading: &mut Reading, place: Place, name: &str, version: Option<&str>, elsewhere: Option<&str>) {
    let identity = format!("{name} {version:?}");
    match (version, elsewhere) {
        (_, Some(why)) => reading.unknown.push(Unknown::new(place, name, why, &identity)),
        (None, None) => reading.unknown.push(Unknown::new(place, name, "the lock file gives it no version", &identity)),
        (Some(version), None) => reading.pin(Ecosystem::Npm, name, version, place),
    }
}

fn is_archive(from: &str) -> bool {
    [".tgz", ".tar.gz", ".tar"].iter().any(|end| from.ends_with(end))
}

/// Why something is not from a registry, if it is not. Registries put `/-/` or `/download/` before the archive's name.
fn elsewhere(from: &str) -> Option<&'static str> {
    let git = ["git+", "git:", "git@", "github:", "gitlab:", "bitbucket:", "gist:"];
    if git.iter().any(|head| from.starts_with(head)) || from.contains(".git#") {
        Some("it comes from a git repository, for which there are no advisories")
    } else if from.starts_with("file:") {
        Some("it comes from an archive in the repository")
    } else if from.contains("://") && !from.contains("/-/") && !from.contains("/download/") {
        Some("it comes from an address of its own")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::lockfile::LockKind;

    fn shown(text: &str) -> (Vec<String>, Vec<String>) {
        let reading = LockKind::Npm.read("package-lock.json", text.as_bytes());
        let mut pins: Vec<String> = reading.pins.iter().map(|p| format!("{} at {}", p.package, p.place)).collect();
        pins.sort();
        (pins, reading.unknown.iter().map(|unknown| format!("{}: {}", unknown.what, unknown.why)).collect())
    }

    #[test]
    fn the_flat_form_is_read() {
        let text = r#"{"name": "x", "lockfileVersion": 3, "requires": true, "packages": {
            "": {"name": "x", "version": "1.0.0", "dependencies": {"a": "^1"}},
            "packages/own": {"version": "0.1.0"},
            "node_modules/own": {"resolved": "packages/own", "link": true},
            "node_modules/a": {"version": "1.2.3", "resolved": "https://registry.example/a/-/a-1.2.3.tgz"},
            "node_modules/a/node_modules/@s/b": {"version": "2.0.0", "dev": true},
            "node_modules/alias": {"name": "real", "version": "4.0.0"},
            "node_modules/g": {"version": "1.0.0", "resolved": "git+ssh://git@example.invalid/g.git#0a"},
            "node_modules/f": {"version": "1.0.0", "resolved": "file:vendor/f.tgz"},
            "node_modules/h": {"version": "1.0.0", "resolved": "https://example.invalid/tar.gz/0a"},
            "node_modules/n": {}
        }}"#;
        let (pins, unknown) = shown(text);
        assert_eq!(
            pins,
            [
                "npm @s/b 2.0.0 at package-lock.json (node_modules/a/node_modules/@s/b)",
                "npm a 1.2.3 at package-lock.json (node_modules/a)",
                "npm real 4.0.0 at package-lock.json (node_modules/alias)",
            ]
        );
        assert_eq!(
            unknown,
            [
                "f: it comes from an archive in the repository",
                "g: it comes from a git repository, for which there are no advisories",
                "h: it comes from an address of its own",
                "n: the lock file gives it no version",
            ]
        );
    }

    #[test]
    fn the_nested_form_is_read_alone_and_beside_the_flat_one() {
        let nested = r#""dependencies": {
            "a": {"version": "1.2.3", "dependencies": {"b": {"version": "2.0.0"}}},
            "alias": {"version": "npm:@s/real@4.0.0"},
            "own": {"version": "file:packages/own"},
            "f": {"version": "file:f.tgz"},
            "g": {"version": "github:x/g#0a"}
        }"#;
        let pins = [
            "npm @s/real 4.0.0 at package-lock.json (alias)",
            "npm a 1.2.3 at package-lock.json (a)",
            "npm b 2.0.0 at package-lock.json (a > b)",
        ];
        let (first, unknown) = shown(&format!("{{\"lockfileVersion\": 1, {nested}}}"));
        assert_eq!(first, pins);
        assert_eq!(unknown.len(), 2, "{unknown:?}");
        let packages = r#""packages": {"node_modules/c": {"version": "3.0.0"}}"#;
        let (both, _) = shown(&format!("{{\"lockfileVersion\": 2, {packages}, {nested}}}"));
        assert_eq!(both.len(), 4, "an old client would install what the nested form says: {both:?}");
    }

    #[test]
    fn what_is_broken_or_newer_is_unknown_and_not_empty() {
        let deep = format!("{{\"dependencies\": {}{}", "{\"a\": {\"dependencies\": ".repeat(500), "}}".repeat(500));
        for text in
            ["", "[]", "{\"packages\": []}", "{\"packages\": {\"node_modules/a\": {\"version\": 5}}}", "{", &deep]
        {
            let (pins, unknown) = shown(text);
            assert!(pins.is_empty() && unknown.len() == 1, "{text:.40}: {pins:?} {unknown:?}");
            assert!(unknown[0].contains("it is no package-lock.json"), "{unknown:?}");
        }
        assert!(shown("{\"lockfileVersion\": 4}").1[0].contains("version 4"));
        assert_eq!(shown("{}"), (Vec::new(), Vec::new()));
    }
}
