//! Reads requirements files as pip does, as far as names and versions go.
//!
//! Owns continuation lines, comments, options, markers and what counts as a pin: exactly one `==` (or `===`) without a
//! wildcard. Follows nothing itself: files that are taken in are named. A whole address is never shown: it may hold a
//! password.

use super::lockfile::{Include, Place, Reading, Unknown};
use super::package::{Ecosystem, normal_name};

/// Why something without an exact version is unknown.
pub(super) const UNPINNED: &str = "it is not pinned to one version";
const ARCHIVES: [&str; 6] = [".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"];

pub(super) fn read(path: &str, text: &str) -> Reading {
    let mut reading = Reading::default();
    for (number, line) in logical_lines(text) {
        let place = Place::line(path, number);
        if line.starts_with('-') {
            option(&mut reading, path, place, &line);
        } else {
            requirement(&mut reading, place, &line);
        }
    }
    reading
}

/// Lines joined over their continuations, without comments, with the number of their first one.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    let mut open: Option<(u32, String)> = None;
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        let comment = line.trim_start().starts_with('#');
        // A comment ends a continuation and is none itself.
        let (part, goes_on) = match line.strip_suffix('\\') {
            Some(part) if !comment => (part, true),
            _ => (line, false),
        };
        let (_, joined) = open.get_or_insert_with(|| (number, String::new()));
        joined.push_str(if comment { " " } else { part });
        if !goes_on {
            all.extend(open.take());
        }
    }
    all.extend(open);
    let stripped = all.into_iter().map(|(number, line)| (number, without_comment(&line).trim().to_owned()));
    stripped.filter(|(_, line)| !line.is_empty()).collect()
}

/// A `#` at the start or after white space begins a comment; elsewhere it is part of an address.
fn without_comment(line: &str) -> &str {
    let starts = |(at, _): &(usize, &str)| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    match line.match_indices('#').find(starts) {
        Some((at, _)) => &line[..at],
        None => line,
    }
}

fn option(reading: &mut Reading, path: &str, place: Place, line: &str) {
    let (name, rest) = match line.strip_prefix("--") {
        Some(long) => {
            let end = long.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(long.len());
            (&long[..end], long[end..].trim_start_matches('=').trim())
        }
        // `-rbase.txt` is as good as `-r base.txt`.
        None => {
            let end = line.char_indices().nth(2).map_or(line.len(), |(at, _)| at);
            (&line[1..end], line[end..].trim_start_matches('=').trim())
        }
    };
    let value = rest.split_whitespace().next().unwrap_or_default().trim_matches(['"', '\'']);
    match name {
        "r" | "requirement" | "c" | "constraint" => {
            let target = if value.contains("://") { None } else { beside(path, value) };
            let limits_only = name.starts_with('c');
            reading.includes.push(Include { place, path: target, limits_only });
        }
        "e" | "editable" => requirement(reading, place, value),
        _ => {}
    }
}

/// A path as seen from a file's folder; `None` when it leaves the repository or is none.
fn beside(file: &str, target: &str) -> Option<String> {
    if target.is_empty() || target.starts_with('/') || target.contains(['\\', '$']) {
        return None;
    }
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn requirement(reading: &mut Reading, place: Place, line: &str) {
    // Options of this one requirement (`--hash=...`) follow it.
    let line = match line.find(" -").or_else(|| line.find("\t-")) {
        Some(at) => line[..at].trim_end(),
        None => line,
    };
    let line = line.split(';').next().unwrap_or_default().trim();
    if line.is_empty() {
        return;
    }
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(line.len());
    let (name, mut rest) = (&line[..end], line[end..].trim_start());
    if is_own_folder(line) {
        return;
    }
    let addressed = line.contains("://") || line.starts_with("git@") || looks_like_a_path(line);
    if addressed && !rest.starts_with('@') && !rest.starts_with('[') {
        return reading.unknown.push(Unknown::new(
            place,
            "an address or archive",
            "no version can be told from it",
            line,
        ));
    }
    if let Some((_, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        rest = after.trim_start();
    }
    if normal_name(Ecosystem::PyPi, name).is_none() {
        return reading.unknown.push(Unknown::new(place, "a line", "it is no requirement that is understood", line));
    }
    if rest.starts_with('@') {
        return reading.unknown.push(Unknown::new(place, name, "it comes from an address of its own", line));
    }
    match pinned(rest) {
        Some(version) => reading.pin(Ecosystem::PyPi, name, version, place),
        None => reading.unknown.push(Unknown::new(place, &format!("{name}{rest}"), UNPINNED, line)),
    }
}

/// The version, if the specifiers allow only one.
fn pinned(specifiers: &str) -> Option<&str> {
    let inner = specifiers.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(specifiers);
    let exact = inner.split(',').filter_map(|one| one.trim().strip_prefix("=="));
    let versions: Vec<&str> = exact.map(|version| version.strip_prefix('=').unwrap_or(version).trim()).collect();
    match versions.as_slice() {
        [version] if !version.contains('*') => Some(version),
        _ => None,
    }
}

/// A folder of the repository: its own code.
fn is_own_folder(line: &str) -> bool {
    let path = line.split('[').next().unwrap_or_default();
    let local =
        matches!(path, "." | "..") || path.starts_with("./") || path.starts_with("../") || path.starts_with("file:.");
    local && !is_archive(path)
}

fn looks_like_a_path(line: &str) -> bool {
    line.starts_with(['.', '/', '~'])
        || is_archive(line)
        || line.split(['=', '<', '>', '@']).next().is_some_and(|head| head.contains('/'))
}

fn is_archive(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    ARCHIVES.iter().any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::super::lockfile::LockKind;

    fn shown(text: &str) -> (Vec<String>, Vec<String>) {
        let reading = LockKind::Requirements.read("deps/requirements.txt", text.as_bytes());
        let pins = reading.pins.iter().map(|pin| format!("{} {}", pin.place, pin.package)).collect();
        (pins, reading.unknown.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn pins_are_read_in_all_their_spellings() {
        let text = "\u{feff}# a comment\nflask==2.0 # why\nJinja2 [i18n] == 2.4.1 ; python_version < '3'\n\n\
                    certifi==2024.1.1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\nold (==1.0)\narb===1.0.0\n\
                    two>=1,==1.5,<2\nlocal==1.0+cpu\n--index-url https://u:p@x.invalid/simple\n-i x\n";
        let (pins, unknown) = shown(text);
        assert_eq!(
            pins,
            [
                "deps/requirements.txt:2 PyPI flask 2.0",
                "deps/requirements.txt:3 PyPI jinja2 2.4.1",
                "deps/requirements.txt:5 PyPI certifi 2024.1.1",
                "deps/requirements.txt:8 PyPI old 1.0",
                "deps/requirements.txt:9 PyPI arb 1.0.0",
                "deps/requirements.txt:10 PyPI two 1.5",
                "deps/requirements.txt:11 PyPI local 1.0+cpu",
            ]
        );
        assert_eq!(unknown, Vec::<String>::new());
    }

    #[test]
    fn what_is_not_pinned_is_unknown_and_shows_no_password() {
        let text = "flask\nflask>=2\nflask==2.*\nflask==1,==2\nx @ https://u:hunter@x.invalid/x.whl\n\
                    git+https://u:hunter@x.invalid/y#egg=y\n./vendor/z.whl\nvendor/z-1.0.tar.gz\n~/z\n!!!\nflask==2\u{fffd}\nx[ @ https://u:hunter@x.invalid\n";
        let (pins, unknown) = shown(text);
        assert_eq!(pins, Vec::<String>::new());
        assert_eq!(unknown.len(), 12, "{unknown:#?}");
        assert!(unknown.iter().all(|line| !line.contains("hunter")), "{unknown:#?}");
        assert_eq!(unknown[1], "deps/requirements.txt:2: flask>=2: it is not pinned to one version");
        assert_eq!(unknown[4], "deps/requirements.txt:5: x: it comes from an address of its own");
    }

    #[test]
    fn folders_of_the_repository_are_its_own_code() {
        let (pins, unknown) = shown(".\n-e .[dev]\n--editable ./sub\n-e git+https://x.invalid/y\n");
        assert_eq!((pins.len(), unknown.len()), (0, 1), "{unknown:?}");
    }

    #[test]
    fn files_that_are_taken_in_are_named_from_the_root() {
        let text = "-r base.txt\n-rother.txt\n--requirement=../top.in\n-c \"limits.txt\"\n-r https://x.invalid/r.txt\n-r ../../out.txt\n-r /etc/x\n";
        let reading = LockKind::Requirements.read("deps/requirements.txt", text.as_bytes());
        let paths: Vec<Option<&str>> = reading.includes.iter().map(|include| include.path.as_deref()).collect();
        let expected =
            [Some("deps/base.txt"), Some("deps/other.txt"), Some("top.in"), Some("deps/limits.txt"), None, None, None];
        assert_eq!(paths, expected);
        let limits: Vec<bool> = reading.includes.iter().map(|include| include.limits_only).collect();
        assert_eq!(limits, [false, false, false, true, false, false, false]);
    }

    #[test]
    fn a_comment_ends_a_continuation() {
        let (pins, _) = shown("a==1 \\\n# gone\nb==2\n");
        assert_eq!(pins, ["deps/requirements.txt:1 PyPI a 1", "deps/requirements.txt:3 PyPI b 2"]);
    }
}
