//! Which command measures a repository, read from the files of one commit; and whether it runs the same tests as another.
//!
//! Owns the presets and what is detected. Pure: files are handed in by a function, so that the judge looks at the base
//! commit. Invariants: a repository that says nothing about coverage is not measured; a command that nobody named stands
//! for no tests but those that the same runner would run. Refuses to guess a tool from a language alone.

use std::collections::BTreeSet;

use super::configuration::{self, python_rules};
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

/// A file in `$ORCH_COVERAGE_DIR` in which a command may say which tool measured, for formats that do not.
pub const TOOL: &str = "tool";

/// Whose choice a coverage command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The settings hold the line itself.
    Line,
    /// The settings name a preset.
    Preset,
    /// Nobody named it: the repository names the tool.
    Detected,
}

/// A coverage command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measuring {
    /// The shell line.
    pub line: String,
    /// Whose choice it is.
    pub by: By,
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
/// `packages`: folders at the top of the repository that hold a Python package; `has_src`: there is Python below `src`.
#[must_use]
pub fn wanted(setting: Option<&str>, files: Files<'_>, has_src: bool, packages: &[String]) -> Wanted {
    let named =
        |line: String, name: &str| Wanted::Run(Measuring { line, by: By::Preset, why: format!("preset `{name}`") });
    match setting.map(str::trim) {
        Some("none") => Wanted::Off,
        Some("pytest") => named(pytest_line(files, has_src, packages), "pytest"),
        Some("c8") => named(c8_line(), "c8"),
        Some("cargo-llvm-cov") => named(llvm_cov_line(), "cargo-llvm-cov"),
        Some(line) => {
            let why = "`coverage` command in the settings".to_owned();
            Wanted::Run(Measuring { line: line.to_owned(), by: By::Line, why })
        }
        None => detected(files, has_src, packages).map_or(Wanted::Nothing, Wanted::Run),
    }
}

fn pytest_line(files: Files<'_>, has_src: bool, packages: &[String]) -> String {
    let sources = if python_rules(files).is_some_and(|(file, text)| configuration::names_source(file, &text)) {
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

/// By its name, not by npx: that one would ask the registry for a c8 that is not installed, and wait for the answer.
fn c8_line() -> String {
    format!(
        "PATH=\"$PWD/node_modules/.bin:$PATH\"; c8 --version > \"${COVERAGE_DIR}/{TOOL}\"; c8 --all --reporter=lcovonly --reports-dir \"${COVERAGE_DIR}\" --temp-directory \"${COVERAGE_DIR}/tmp\" npm test"
    )
}

fn llvm_cov_line() -> String {
    format!(
        "{{ cargo llvm-cov --version && rustc --version; }} > \"${COVERAGE_DIR}/{TOOL}\"; cargo llvm-cov --workspace --lcov --output-path \"${COVERAGE_REPORT}\""
    )
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
        return Some(Measuring { line, by: By::Detected, why: format!("pytest-cov is named in {by}") });
    }
    let package: serde_json::Value = serde_json::from_str(&files("package.json")?).ok()?;
    let has = |part: &str| package.get(part).and_then(|part| part.get("c8")).is_some();
    let tests = package.get("scripts").and_then(|scripts| scripts.get("test")).is_some();
    let c8 = tests && (has("devDependencies") || has("dependencies"));
    let why = "c8 is named in package.json".to_owned();
    c8.then(|| Measuring { line: c8_line(), by: By::Detected, why })
}

/// Whether a coverage command runs the tests that `detected` would run, as far as both tell. Somebody's own line is the test
/// suite by what its setting is called, unless it shows another runner; any other has to show the same one.
#[must_use]
pub fn stands_for(measuring: &Measuring, detected: &str) -> bool {
    let (own, tests) = (runners(&measuring.line), runners(detected));
    match measuring.by {
        By::Line if own.is_empty() || tests.is_empty() => true,
        By::Line | By::Preset | By::Detected => !tests.is_empty() && tests.is_subset(&own),
    }
}

/// The test runners that a shell line names.
fn runners(line: &str) -> BTreeSet<&'static str> {
    let parts =
        line.split(|c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')' | '{' | '}' | '"' | '\''));
    let words: Vec<&str> = parts.filter(|word| !word.is_empty()).map(|w| w.rsplit('/').next().unwrap_or(w)).collect();
    let next_is = |at: usize, wanted: &[&str]| {
        let after = words[at + 1..].iter().find(|word| !word.starts_with(['-', '+']) && **word != "run");
        after.is_some_and(|word| wanted.contains(word))
    };
    let runner = |(at, word): (usize, &&str)| match *word {
        "pytest" | "py.test" => Some("pytest"),
        // It runs no tests in documentation, and so not what `cargo test` runs.
        "cargo" if next_is(at, &["llvm-cov", "tarpaulin"]) => Some("cargo, without doc tests"),
        "cargo" if next_is(at, &["test", "t", "nextest"]) => Some("cargo"),
        "npm" | "pnpm" | "yarn" | "bun" if next_is(at, &["test", "t"]) => Some("the test script"),
        "go" if next_is(at, &["test"]) => Some("go"),
        "make" if next_is(at, &["test"]) => Some("make test"),
        _ => None,
    };
    words.iter().enumerate().filter_map(runner).collect()
}
