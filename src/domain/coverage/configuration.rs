//! What the files of a commit say about coverage, and whose word counts when a branch is measured.
//!
//! Owns the list of files and the extract of each that decides what counts. Files are read as their tools read them: TOML by
//! a parser, INI with the headers and continued lines of Python's configparser. Pure: files are handed in by a function.
//! Invariants: what has nothing to do with coverage is not in the extract, so that it changes no hash; a file that cannot be
//! read is its whole text, so that a change of it is seen. Refuses to run what is a program.

use serde::Serialize;
use toml::{Table, Value};

use crate::detect::Files;

/// Files that coverage.py looks into, in its own order (its documentation, and its source at 7.17).
pub const PYTHON_FILES: [&str; 5] = [".coveragerc", ".coveragerc.toml", "setup.cfg", "tox.ini", "pyproject.toml"];

/// Files of data that other tools look into, about nothing but coverage; each may be put in place by itself.
const OWN_FILES: [&str; 9] = [
    ".c8rc",
    ".c8rc.json",
    ".nycrc",
    ".nycrc.json",
    ".nycrc.yml",
    ".nycrc.yaml",
    "tarpaulin.toml",
    ".tarpaulin.toml",
    ".lcovrc",
];

/// Files that decide about coverage among other things.
const SHARED_FILES: [&str; 5] = ["pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "package.json"];

/// Programs that decide about coverage: what else they need only the branch has, so they stay where they are.
const PROGRAMS: [(&str, &[&str]); 4] = [
    ("nyc.config", &["js", "cjs", "mjs"]),
    ("jest.config", &["js", "ts", "cjs", "mjs", "cts", "mts", "json"]),
    ("vitest.config", &["js", "ts", "cjs", "mjs", "cts", "mts"]),
    ("vite.config", &["js", "ts", "cjs", "mjs", "cts", "mts"]),
];

/// Whose settings a part holds, and so by what means base's can be put in force on a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// coverage.py's: another file can be named to it by the environment.
    Python,
    /// A file of a tool's own: can be put in place by itself.
    Own,
    /// Lines of a file that is about other things too, or a program: only they are put back, as far as that can be done.
    Shared,
}

/// What one file of a commit says about coverage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Part {
    /// Which file.
    pub file: String,
    /// Whose settings.
    pub sort: Sort,
    /// The part of it that decides about coverage.
    pub text: String,
}

/// The file that coverage.py takes its settings from, and its text: the first that holds any.
#[must_use]
pub fn python_rules(files: Files<'_>) -> Option<(&'static str, String)> {
    PYTHON_FILES.into_iter().find_map(|file| {
        let text = files(file)?;
        let holds = extract(file, &text).iter().any(|part| part.sort == Sort::Python);
        holds.then_some((file, text))
    })
}

/// What every configuration file of a commit says about coverage.
#[must_use]
pub fn in_force(files: Files<'_>) -> Vec<Part> {
    let programs = PROGRAMS.iter().flat_map(|(stem, endings)| endings.iter().map(move |end| format!("{stem}.{end}")));
    let known = PYTHON_FILES.into_iter().chain(OWN_FILES).chain(SHARED_FILES).map(str::to_owned).chain(programs);
    known.filter_map(|file| files(&file).map(|text| extract(&file, &text))).flatten().collect()
}

/// Parts that differ between two commits, by file.
#[must_use]
pub fn changed(base: &[Part], head: &[Part]) -> Vec<(String, Sort)> {
    let mut all: Vec<(String, Sort)> = base.iter().chain(head).map(|part| (part.file.clone(), part.sort)).collect();
    all.sort();
    all.dedup();
    let at = |parts: &[Part], key: &(String, Sort)| {
        parts.iter().find(|p| p.file == key.0 && p.sort == key.1).map(|p| p.text.clone())
    };
    all.retain(|key| at(base, key) != at(head, key));
    all
}

/// The parts of a configuration file that decide about coverage.
#[must_use]
pub fn extract(file: &str, text: &str) -> Vec<Part> {
    let (python, shared) = match file {
        "package.json" => (None, node_extract(text)),
        "pytest.ini" | ".pytest.ini" => (None, options_of(text, |_| true)),
        "pytest.toml" | ".pytest.toml" => match text.parse::<Table>() {
            Ok(table) => (None, options_in(&Value::Table(table))),
            Err(_) => (None, unreadable(text)),
        },
        "setup.cfg" | "tox.ini" => {
            let own = sections(text, |name| name.starts_with("coverage:"));
            (own, options_of(text, |name| matches!(name, "tool:pytest" | "pytest")))
        }
        "pyproject.toml" => match text.parse::<Table>() {
            Ok(table) => {
                let tool = |name: &str| table.get("tool").and_then(|tool| tool.get(name));
                (tool("coverage").and_then(canonical), tool("pytest").and_then(options_in))
            }
            // coverage.py ends with an error there. What it would have read is not known.
            Err(_) => (unreadable(text), None),
        },
        // All of it is about coverage, and coverage.py takes it even when it is empty.
        ".coveragerc" | ".coveragerc.toml" => (Some(text.trim().to_owned()), None),
        _ if OWN_FILES.contains(&file) => {
            return vec![Part { file: file.to_owned(), sort: Sort::Own, text: text.trim().to_owned() }];
        }
        _ if file.starts_with("nyc.config.") => (None, Some(text.trim().to_owned())),
        _ => (None, about_coverage(text)),
    };
    let part = |sort, text: Option<String>| text.map(|text| Part { file: file.to_owned(), sort, text });
    part(Sort::Python, python).into_iter().chain(part(Sort::Shared, shared)).collect()
}

/// Whether coverage.py's settings in this text say themselves what is measured.
#[must_use]
pub fn names_source(file: &str, text: &str) -> bool {
    const KEYS: [&str; 3] = ["source", "source_pkgs", "source_dirs"];
    let ours = file.starts_with(".coveragerc");
    if file.ends_with(".toml") {
        let Ok(table) = text.parse::<Table>() else { return false };
        let named = table.get("tool").and_then(|tool| tool.get("coverage")).and_then(|coverage| coverage.get("run"));
        let bare = table.get("run").filter(|_| ours);
        return [named, bare].into_iter().flatten().any(|run| KEYS.iter().any(|key| run.get(key).is_some()));
    }
    lines_of(text).any(|line| {
        let run = line.section == "coverage:run" || (ours && line.section == "run");
        let key = line.text.split(['=', ':']).next().unwrap_or_default().trim().to_lowercase();
        run && !line.goes_on && KEYS.contains(&key.as_str())
    })
}

fn unreadable(text: &str) -> Option<String> {
    Some(format!("unreadable: {text}"))
}

/// One spelling for all that mean the same: keys in order, no comments.
fn canonical(value: &Value) -> Option<String> {
    serde_json::to_string(value).ok()
}

// ------------------------------------------------------------------------------------------------------------------ INI

pub(super) struct IniLine<'t> {
    /// Which line of the text, from 0.
    pub(super) at: usize,
    /// The section that it is in, or that it begins; empty before the first.
    pub(super) section: &'t str,
    /// As it is written, without what is blank at its end.
    pub(super) text: &'t str,
    /// Whether it goes on with the value above.
    pub(super) goes_on: bool,
    /// Whether it begins a section.
    pub(super) is_header: bool,
}

/// The lines that configparser would see: a header is `[name]` whatever follows it, and what is indented deeper than its
/// option belongs to that option's value, brackets or not.
pub(super) fn lines_of(text: &str) -> impl Iterator<Item = IniLine<'_>> {
    let (mut section, mut option) = ("", None);
    text.lines().map(str::trim_end).enumerate().filter_map(move |(at, line)| {
        let bare = line.trim_start();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            return None;
        }
        let indent = line.len() - bare.len();
        let goes_on = option.is_some_and(|at| indent > at);
        if !goes_on {
            let header = bare.strip_prefix('[').and_then(|rest| rest.rsplit_once(']')).map(|(name, _)| name.trim());
            option = if header.is_some() { None } else { Some(indent) };
            section = header.unwrap_or(section);
        }
        Some(IniLine { at, section, text: line, goes_on, is_header: option.is_none() })
    })
}

/// The lines of sections of some names.
fn sections(text: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let kept: Vec<&str> = lines_of(text).filter(|line| wanted(line.section)).map(|line| line.text).collect();
    (!kept.is_empty()).then(|| kept.join("\n"))
}

/// The words of pytest's options, those apart that decide what is measured, or by which file. How it is reported, added up
/// or limited is nothing that makes two measurements unlike.
pub(super) fn parted<'w>(words: impl Iterator<Item = &'w str>) -> (Vec<&'w str>, Vec<&'w str>) {
    let bare = |word: &'w str| word.trim_matches(['"', '\'']);
    let (mut deciding, mut others, mut words) = (Vec::new(), Vec::new(), words.peekable());
    while let Some(word) = words.next() {
        let (option, value) =
            bare(word).split_once('=').map_or((bare(word), None), |(option, value)| (option, Some(value)));
        if !matches!(option, "--cov" | "--cov-config" | "--no-cov") {
            others.push(word);
            continue;
        }
        deciding.push(bare(word));
        if value.is_none() && option != "--no-cov" {
            deciding.extend(words.next_if(|next| !bare(next).starts_with('-')).map(bare));
        }
    }
    (deciding, others)
}

pub(super) fn deciding(text: &str) -> Option<String> {
    let (kept, _) = parted(text.split_whitespace());
    (!kept.is_empty()).then(|| kept.join(" "))
}

/// The texts anywhere in a value.
fn texts<'v>(value: &'v Value, into: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => into.push(text),
        Value::Array(all) => all.iter().for_each(|value| texts(value, into)),
        Value::Table(table) => table.values().for_each(|value| texts(value, into)),
        _ => {}
    }
}

fn options_in(value: &Value) -> Option<String> {
    let mut all = Vec::new();
    texts(value, &mut all);
    // A list of options holds each word by itself.
    deciding(&all.join(" "))
}

fn options_of(text: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let value = |line: IniLine<'_>| match line.goes_on {
        true => line.text.to_owned(),
        false => line.text.split_once(['=', ':']).map_or_else(String::new, |(_, value)| value.to_owned()),
    };
    let line: Vec<String> = lines_of(text).filter(|line| wanted(line.section)).map(value).collect();
    deciding(&line.join(" "))
}

// ----------------------------------------------------------------------------------------------------------- JavaScript

/// Keys of `package.json` that are a coverage tool's settings.
pub(super) const NODE_KEYS: [&str; 3] = ["c8", "nyc", "jest"];
/// Scripts of `package.json` that may be what measures.
pub(super) const NODE_SCRIPTS: [&str; 2] = ["test", "coverage"];

/// A script, where it has to do with coverage.
pub(super) fn measuring_script<'p>(package: &'p serde_json::Value, name: &str) -> Option<&'p str> {
    let line = package.get("scripts")?.get(name)?.as_str()?;
    ["c8", "nyc", "coverage"].iter().any(|word| line.contains(word)).then_some(line)
}

fn node_extract(text: &str) -> Option<String> {
    let Ok(package) = serde_json::from_str::<serde_json::Value>(text) else { return unreadable(text) };
    let mut parts = serde_json::Map::new();
    for name in NODE_KEYS {
        if let Some(part) = package.get(name) {
            parts.insert(name.to_owned(), part.clone());
        }
    }
    for name in NODE_SCRIPTS {
        if let Some(line) = measuring_script(&package, name) {
            parts.insert(format!("scripts.{name}"), line.into());
        }
    }
    (!parts.is_empty()).then(|| serde_json::Value::Object(parts).to_string())
}

/// The lines of a program that speak of coverage, each up to where its brackets are closed: what else stands there has
/// nothing to do with it.
fn about_coverage(text: &str) -> Option<String> {
    let (mut kept, mut open) = (Vec::new(), 0_i64);
    for line in text.lines().map(str::trim) {
        if open > 0 || line.to_lowercase().contains("coverage") {
            let count = |brackets: [char; 3]| i64::try_from(line.matches(brackets).count()).unwrap_or(i64::MAX);
            open = (open + count(['(', '[', '{']) - count([')', ']', '}'])).max(0);
            kept.push(line);
        }
    }
    (!kept.is_empty()).then(|| kept.join("\n"))
}
