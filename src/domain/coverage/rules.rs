//! Which command measures a repository, and by which configuration; read from the files of one commit.
//!
//! Owns the presets, what is detected, and the extract of each configuration file that decides what counts. Pure: files
//! are handed in by a function, so that the judge looks at the base commit. Invariants: what has nothing to do with
//! coverage is not in the extract, so that it changes no configuration hash; a repository that says nothing about
//! coverage is not measured. Refuses to guess a tool from a language alone.

use serde::Serialize;

use crate::detect::Files;
use crate::variables::{COVERAGE_DIR, COVERAGE_REPORT};

/// Where a report is looked for in the checkout when no place is configured, in this order.
pub const PLACES: [&str; 10] = [
    "coverage.json",
    "coverage.lcov",
    "lcov.info",
    "coverage/lcov.info",
    "coverage.info",
    "coverage.xml",
    "cobertura.xml",
    "coverage/cobertura-coverage.xml",
    "coverage/coverage.xml",
    "target/llvm-cov/lcov.info",
];

/// Files that coverage.py looks into, in its own order (its documentation, and its source at 7.17).
pub const PYTHON_FILES: [&str; 5] = [".coveragerc", ".coveragerc.toml", "setup.cfg", "tox.ini", "pyproject.toml"];

/// Files that other tools look into; each may be put in place by itself.
pub const OTHER_FILES: [&str; 12] = [
    ".c8rc",
    ".c8rc.json",
    ".nycrc",
    ".nycrc.json",
    ".nycrc.yml",
    "nyc.config.js",
    "tarpaulin.toml",
    ".tarpaulin.toml",
    ".lcovrc",
    "vitest.config.js",
    "vitest.config.ts",
    "jest.config.js",
];

/// Files that decide about coverage among other things.
const SHARED_FILES: [&str; 2] = ["pytest.ini", "package.json"];

/// A coverage command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measuring {
    /// The shell line.
    pub line: String,
    /// Where it comes from.
    pub why: String,
}

/// What the setting `commands.coverage` amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This is to be run.
    Run(Measuring),
    /// The operator wants no coverage here.
    Off,
    /// Nothing is named, and nothing was detected.
    Nothing,
}

/// Reads the setting: the name of a preset, a shell line, or nothing; then what the files of base tell.
/// `packages`: folders at the top of the repository that hold a Python package; `has_src`: there is a folder `src`.
#[must_use]
pub fn wanted(setting: Option<&str>, files: Files<'_>, has_src: bool, packages: &[String]) -> Wanted {
    let named = |line: String, name: &str| Wanted::Run(Measuring { line, why: format!("preset `{name}`") });
    match setting.map(str::trim) {
        Some("none") => Wanted::Off,
        Some("pytest") => named(pytest_line(files, has_src, packages), "pytest"),
        Some("c8") => named(c8_line(), "c8"),
        Some("cargo-llvm-cov") => named(llvm_cov_line(), "cargo-llvm-cov"),
        Some(line) => {
            Wanted::Run(Measuring { line: line.to_owned(), why: "`coverage` command in the settings".to_owned() })
        }
        None => detected(files, has_src, packages).map_or(Wanted::Nothing, Wanted::Run),
    }
}

fn pytest_line(files: Files<'_>, has_src: bool, packages: &[String]) -> String {
    let sources = if python_rules(files).is_some_and(|(_, text)| names_source(&text)) {
        // Its own configuration says what is measured; an argument would override that.
        "--cov".to_owned()
    } else if has_src {
        "--cov=src".to_owned()
    } else if packages.is_empty() {
        "--cov=.".to_owned()
    } else {
        packages.iter().map(|package| format!("--cov={package}")).collect::<Vec<_>>().join(" ")
    };
    format!("python3 -m pytest {sources} --cov-report=json:\"${COVERAGE_REPORT}\"")
}

fn names_source(text: &str) -> bool {
    text.lines().map(str::trim_start).any(|line| {
        let key = line.split(['=', ':']).next().unwrap_or_default().trim();
        matches!(key, "source" | "source_pkgs" | "source_dirs")
    })
}

/// By its name, not by npx: that one would ask the registry for a c8 that is not installed, and wait for the answer.
fn c8_line() -> String {
    format!(
        "PATH=\"$PWD/node_modules/.bin:$PATH\" c8 --all --reporter=lcovonly --reports-dir \"${COVERAGE_DIR}\" --temp-directory \"${COVERAGE_DIR}/tmp\" npm test"
    )
}

fn llvm_cov_line() -> String {
    format!("cargo llvm-cov --workspace --lcov --output-path \"${COVERAGE_REPORT}\"")
}

/// Detected only where the repository itself names the tool: a coverage run of a tool that nobody installed would warn
/// on every landing.
fn detected(files: Files<'_>, has_src: bool, packages: &[String]) -> Option<Measuring> {
    const REQUIREMENTS: [&str; 12] = [
        "pyproject.toml",
        "setup.cfg",
        "tox.ini",
        "setup.py",
        "Pipfile",
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-test.txt",
        "dev-requirements.txt",
        "test-requirements.txt",
        "requirements/dev.txt",
        "requirements/test.txt",
    ];
    let code = |line: &str| !line.trim_start().starts_with('#');
    let names = |text: &str| {
        text.lines().filter(|line| code(line)).any(|l| l.contains("pytest-cov") || l.contains("pytest_cov"))
    };
    if let Some(by) = REQUIREMENTS.iter().find(|file| files(file).is_some_and(|text| names(&text))) {
        let line = pytest_line(files, has_src, packages);
        return Some(Measuring { line, why: format!("pytest-cov is named in {by}") });
    }
    let package: serde_json::Value = serde_json::from_str(&files("package.json")?).ok()?;
    let has = |part: &str| package.get(part).and_then(|part| part.get("c8")).is_some();
    let tests = package.get("scripts").and_then(|scripts| scripts.get("test")).is_some();
    let c8 = tests && (has("devDependencies") || has("dependencies"));
    c8.then(|| Measuring { line: c8_line(), why: "c8 is named in package.json".to_owned() })
}

// ------------------------------------------------------------------------------------------------- configuration

/// Whose settings a part holds, and so by what means they can be held to base's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// coverage.py's: another file can be named to it by the environment.
    Python,
    /// A file of a tool's own: can be put in place by itself.
    Own,
    /// Lines of a file that is about other things too: cannot be changed from outside.
    Shared,
}

/// What one file of a commit says about coverage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Part {
    /// Which file.
    pub file: &'static str,
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
    let known = PYTHON_FILES.into_iter().chain(OTHER_FILES).chain(SHARED_FILES);
    known.filter_map(|file| Some(extract(file, &files(file)?))).flatten().collect()
}

/// What is in force when a branch is measured: coverage.py's settings are base's; what cannot be held to base is the
/// branch's own.
#[must_use]
pub fn measured_with(base: &[Part], head: &[Part]) -> Vec<Part> {
    let python = base.iter().filter(|part| part.sort == Sort::Python);
    let mut parts: Vec<Part> = python.chain(head.iter().filter(|part| part.sort != Sort::Python)).cloned().collect();
    parts.sort();
    parts
}

/// Parts that differ between two commits, by file.
#[must_use]
pub fn changed(base: &[Part], head: &[Part]) -> Vec<(&'static str, Sort)> {
    let mut all: Vec<(&'static str, Sort)> = base.iter().chain(head).map(|part| (part.file, part.sort)).collect();
    all.sort();
    all.dedup();
    let at = |parts: &[Part], key: (&str, Sort)| parts.iter().find(|p| (p.file, p.sort) == key).map(|p| p.text.clone());
    all.retain(|key| at(base, *key) != at(head, *key));
    all
}

/// The parts of a configuration file that decide about coverage.
#[must_use]
pub fn extract(file: &'static str, text: &str) -> Vec<Part> {
    let part = |sort, text: Option<String>| text.map(|text| Part { file, sort, text });
    let (python, shared) = match file {
        "package.json" => (None, part(Sort::Shared, node_extract(text))),
        "pytest.ini" => (None, part(Sort::Shared, sections(text, &|_| false, &|_| true))),
        "setup.cfg" | "tox.ini" => {
            let own = sections(text, &|name| name.starts_with("coverage:"), &|_| false);
            let tests = sections(text, &|_| false, &|name| matches!(name, "tool:pytest" | "pytest"));
            (part(Sort::Python, own), part(Sort::Shared, tests))
        }
        "pyproject.toml" => {
            let own = sections(text, &|name| name.starts_with("tool.coverage"), &|_| false);
            let tests = sections(text, &|_| false, &|name| name.starts_with("tool.pytest"));
            (part(Sort::Python, own), part(Sort::Shared, tests))
        }
        // All of it is about coverage, and coverage.py takes it even when it is empty.
        ".coveragerc" | ".coveragerc.toml" => (part(Sort::Python, Some(text.trim().to_owned())), None),
        _ => (part(Sort::Own, Some(text.trim().to_owned())), None),
    };
    python.into_iter().chain(shared).collect()
}

fn names_cov(line: &str) -> bool {
    !line.starts_with(['#', ';']) && (line.contains("--cov") || line.contains("--no-cov"))
}

/// Whole sections of some names, and of others only the lines that name coverage. Lines before the first section belong
/// to one without a name.
fn sections(text: &str, whole: &dyn Fn(&str) -> bool, lines: &dyn Fn(&str) -> bool) -> Option<String> {
    let mut kept = Vec::new();
    let (mut inside, mut some) = (whole(""), lines(""));
    for line in text.lines().map(str::trim_end) {
        let bare = line.trim();
        if bare.starts_with('[') && bare.ends_with(']') {
            let name = bare.trim_matches(['[', ']']).trim();
            (inside, some) = (whole(name), lines(name));
        }
        // `tool.coverage.run.omit = [...]` outside of its table.
        let dotted = !inside && whole(bare);
        if !bare.is_empty() && (inside || dotted || (some && names_cov(bare))) {
            kept.push(line);
        }
    }
    (!kept.is_empty()).then(|| kept.join("\n"))
}

fn node_extract(text: &str) -> Option<String> {
    let package: serde_json::Value = serde_json::from_str(text).ok()?;
    let mut parts = serde_json::Map::new();
    for name in ["c8", "nyc", "jest"] {
        if let Some(part) = package.get(name) {
            parts.insert(name.to_owned(), part.clone());
        }
    }
    for name in ["test", "coverage"] {
        let script = package.get("scripts").and_then(|scripts| scripts.get(name));
        let about = script
            .and_then(serde_json::Value::as_str)
            .filter(|line| ["c8", "nyc", "coverage"].iter().any(|word| line.contains(word)));
        if let Some(line) = about {
            parts.insert(format!("scripts.{name}"), line.into());
        }
    }
    (!parts.is_empty()).then(|| serde_json::Value::Object(parts).to_string())
}
