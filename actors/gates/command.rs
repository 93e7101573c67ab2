//! Which command a check runs, and what the branch changed about it.
//!
//! Owns the order: the operator's settings, else what is detected in the files of base, else (said so) of the head when
//! base has no tests yet. Invariant: rules come from the operator or from base; a branch brings only what base does not
//! have at all. Refuses to run anything.

use std::collections::{BTreeMap, BTreeSet};

use orch_adapters::git::{ChangeKind, FileAt, GitError, RepoGit};
use orch_domain::detect::{Detected, Files, NothingDetected, detect_test_command};
use orch_domain::gate::GateName;
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoPath;
use orch_domain::pipeline::RepoCommand;

use super::checks::CheckRequest;
use crate::context::Commands;

/// Largest file that is looked into for a test command.
const MOST_BYTES: u64 = 1 << 20;
/// Most paths that one note names.
const MOST_NAMED: usize = 20;

/// What is to be run.
#[derive(Debug)]
pub(super) struct Command {
    /// The shell line.
    pub(super) line: String,
    /// Where it comes from, for the report.
    pub(super) source: String,
    /// Whether somebody named it.
    pub(super) named: bool,
    /// Loud notes for the report.
    pub(super) notes: Vec<String>,
}

/// What comes of looking for the command.
#[derive(Debug)]
pub(super) enum Found {
    /// Run this.
    Command(Command),
    /// Nothing has to run, and that is fine; the text says why.
    NothingToRun(String),
    /// Settings forbid to go on; the text says what to set.
    NotConfigured(String),
}

/// The name under which a command's verdict is kept.
pub(super) const fn gate_of(what: RepoCommand) -> GateName {
    match what {
        RepoCommand::Check => GateName::Check,
        RepoCommand::Test => GateName::Tests,
        RepoCommand::Staging => GateName::Staging,
    }
}

/// Why nothing has to run, where the settings alone say so.
pub(super) fn nothing_to_run(commands: &Commands, what: RepoCommand, no_tests: bool) -> Option<String> {
    let configured = match what {
        RepoCommand::Check => &commands.check,
        RepoCommand::Staging => &commands.staging,
        RepoCommand::Test => {
            return no_tests.then(|| "tests are switched off for this repository".to_owned());
        }
    };
    configured.is_none().then(|| format!("no `{}` command is configured", what.as_str()))
}

/// Finds the command for a request.
pub(super) async fn find(commands: &Commands, git: &RepoGit, req: &CheckRequest) -> Result<Found, GitError> {
    let configured = match req.what {
        RepoCommand::Check => &commands.check,
        RepoCommand::Test => &commands.test,
        RepoCommand::Staging => &commands.staging,
    };
    if let Some(why) = nothing_to_run(commands, req.what, req.no_tests) {
        return Ok(Found::NothingToRun(why));
    }
    if let Some(line) = configured {
        let source = format!("`{}` command in the settings", req.what.as_str());
        return Ok(Found::Command(Command { line: line.clone(), source, named: true, notes: Vec::new() }));
    }
    detected(git, req).await
}

async fn detected(git: &RepoGit, req: &CheckRequest) -> Result<Found, GitError> {
    let rules = req.base.as_ref().unwrap_or(&req.head);
    let first = match detect_at(git, rules).await? {
        Ok(found) => {
            let source = format!("detected at {}: {}", rules.short(), found.why);
            return Ok(Found::Command(Command { line: found.command, source, named: false, notes: Vec::new() }));
        }
        Err(nothing) => nothing,
    };
    if *rules != req.head
        && let Ok(found) = detect_at(git, &req.head).await?
    {
        let note = format!("base has no tests; the command was detected in the branch itself: {}", found.why);
        let source = format!("detected at the head {}: {}", req.head.short(), found.why);
        return Ok(Found::Command(Command { line: found.command, source, named: false, notes: vec![note] }));
    }
    Ok(Found::NotConfigured(format!(
        "{first} (`commands.test` of repository `{}`, or `--test-cmd`; `--no-tests` works without)",
        req.repo
    )))
}

async fn detect_at(git: &RepoGit, at: &CommitSha) -> Result<Result<Detected, NothingDetected>, GitError> {
    with_files_at(git, at, |files| detect_test_command(files)).await
}

/// Answers a question about the files of one commit. They are read as they are asked for, so that no list of them is
/// kept twice. What is there and no file that can be read is as good as not there.
pub(super) async fn with_files_at<T>(
    git: &RepoGit,
    at: &CommitSha,
    ask: impl Fn(Files<'_>) -> T,
) -> Result<T, GitError> {
    with_any_files_at(git, at, |_| None, ask).await
}

/// The same; `odd` is the text of what is there and is no file that can be read.
pub(super) async fn with_any_files_at<T>(
    git: &RepoGit,
    at: &CommitSha,
    odd: fn(&FileAt) -> Option<String>,
    ask: impl Fn(Files<'_>) -> T,
) -> Result<T, GitError> {
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    loop {
        let mut asked = BTreeSet::new();
        let answer = {
            let seen = std::cell::RefCell::new(&mut asked);
            ask(&|path| {
                known.get(path).cloned().unwrap_or_else(|| {
                    seen.borrow_mut().insert(path.to_owned());
                    None
                })
            })
        };
        if asked.is_empty() {
            return Ok(answer);
        }
        for path in asked {
            let text = match path.parse::<RepoPath>() {
                Ok(name) => match git.read_through_links_at(at, &name, MOST_BYTES).await? {
                    FileAt::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                    FileAt::Missing => None,
                    other @ (FileAt::NotAFile | FileAt::TooLarge { .. }) => odd(&other),
                },
                Err(_) => None,
            };
            known.insert(path, text);
        }
    }
}

/// What the branch changed about its own tests, for the reviewer: deleted tests and changed test configuration.
pub(super) async fn drift(git: &RepoGit, base: &CommitSha, head: &CommitSha) -> Result<Vec<String>, GitError> {
    let from = git.merge_base(base, head).await?.unwrap_or_else(|| base.clone());
    let (mut deleted, mut configuration) = (Vec::new(), Vec::new());
    for change in git.changed_paths(&from, head).await? {
        let path: String = change.path.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        if is_configuration(&path) {
            configuration.push(path);
        } else if change.kind == ChangeKind::Deleted && is_test(&path) {
            deleted.push(path);
        }
    }
    let note = |what: &str, paths: Vec<String>| {
        let more = paths.len().saturating_sub(MOST_NAMED);
        let mut text = format!("{what}: {}", paths[..paths.len().min(MOST_NAMED)].join(", "));
        if more > 0 {
            text.push_str(&format!(" and {more} more"));
        }
        text
    };
    let notes = [("the branch deletes tests", deleted), ("the branch changes test configuration", configuration)];
    Ok(notes.into_iter().filter(|(_, paths)| !paths.is_empty()).map(|(what, paths)| note(what, paths)).collect())
}

fn is_configuration(path: &str) -> bool {
    const NAMES: [&str; 15] = [
        "pytest.ini",
        "tox.ini",
        "setup.cfg",
        "pyproject.toml",
        "conftest.py",
        "noxfile.py",
        "package.json",
        "jest.config.js",
        "jest.config.ts",
        "vitest.config.ts",
        "vitest.config.js",
        ".mocharc.json",
        "Makefile",
        "nextest.toml",
        ".coveragerc",
    ];
    let leaf = path.rsplit('/').next().unwrap_or(path);
    NAMES.contains(&leaf)
}

fn is_test(path: &str) -> bool {
    path.to_ascii_lowercase()
        .split(['/', '.', '_', '-'])
        .any(|part| matches!(part, "test" | "tests" | "spec" | "specs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_their_configuration_are_told_from_the_rest() {
        for path in ["tests/a.rs", "src/foo_test.go", "test_x.py", "a.spec.ts", "Spec/x.rb"] {
            assert!(is_test(path), "{path}");
        }
        for path in ["src/latest.rs", "contest/x", "attestation.md"] {
            assert!(!is_test(path), "{path}");
        }
        assert!(is_configuration("sub/pytest.ini") && !is_configuration("pytest.ini.bak"));
    }
}
