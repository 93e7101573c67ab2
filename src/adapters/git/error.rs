//! Why a git operation of ours did not give what was asked, named by what the caller does next.
//!
//! Owns [`GitError`] and the cleaning of git's own words before they are shown. Refuses to hold secrets: a message is
//! made of our arguments (which never hold any) and of git's error output, cut and stripped of control characters.

use std::path::PathBuf;

use orch_domain::ids::CommitSha;
use orch_domain::names::BranchName;

/// Why a git operation did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The remote did not answer: try again later, nobody is to blame.
    #[error("the remote {url} cannot be reached: {why}")]
    Unreachable {
        /// Where.
        url: String,
        /// Git's words.
        why: String,
    },
    /// The remote answered and refused, or is not a repository: a person has to act.
    #[error("the remote {url} refuses: {why}")]
    Refused {
        /// Where.
        url: String,
        /// Git's words.
        why: String,
    },
    /// The command was cut short (deadline, signal, limit, no shim): try again later.
    #[error("`{command}` was interrupted: {why}")]
    Interrupted {
        /// Which command.
        command: String,
        /// By what.
        why: String,
    },
    /// The owner was stopped, or may not start anything any more: give up quietly.
    #[error("`{command}` was stopped: {why}")]
    Stopped {
        /// Which command.
        command: String,
        /// By what.
        why: String,
        /// Whether it had begun: `false` means that it did nothing, for certain.
        began: bool,
    },
    /// There is no usable git on this machine: a person has to install it or set `git.program`.
    #[error("git could not be started: {why}; install git 2.39 or newer, or name it in `git.program`")]
    NoGit {
        /// What the system said.
        why: String,
    },
    /// The remote has no such branch.
    #[error("there is no branch `{branch}` at {url}")]
    NoSuchBranch {
        /// Which branch.
        branch: BranchName,
        /// Where it was looked for.
        url: String,
    },
    /// Our own repositories do not have this commit: fetch or import it first.
    #[error("commit {sha} is not known here; fetch or import it first")]
    NoSuchCommit {
        /// Which commit.
        sha: CommitSha,
    },
    /// Two commits have no common ancestor: nothing can be caught up; a person has to look.
    #[error("{one} and {other} have no commit in common")]
    Unrelated {
        /// One side.
        one: CommitSha,
        /// Other side.
        other: CommitSha,
    },
    /// The target folder is there already: choose another, or remove it; it is never overwritten.
    #[error("{path} exists already; it is not overwritten: remove it or choose another folder")]
    Exists {
        /// Which folder.
        path: PathBuf,
    },
    /// What was asked for cannot be: a mistake in the request, repeating does not help.
    #[error("{0}")]
    Invalid(String),
    /// Git failed in a way that has no name here: retry with backoff, then show it to a person.
    #[error("`{command}` failed with exit code {code}: {why}")]
    Failed {
        /// Which command.
        command: String,
        /// Its exit code.
        code: i32,
        /// Git's words.
        why: String,
    },
    /// A read of one of our own repositories failed: retry, then show it to a person.
    #[error("cannot read {what}: {why}")]
    Read {
        /// What was read.
        what: String,
        /// What the reader said.
        why: String,
    },
    /// The file system refused: disk full, permissions.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried, such as `cannot create`.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl GitError {
    /// Whether the same request may succeed later without anybody doing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Interrupted { .. } | Self::Io { .. })
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(git2::Error) -> Self {
        let what = what.into();
        move |err| Self::Read { what, why: err.message().to_owned() }
    }
}

/// Longest text of git's that is passed on, in characters.
const WORDS: usize = 600;

/// Git's error output as one line for people: control characters replaced, hints dropped, cut at the end that matters
/// least (the beginning).
#[must_use]
pub(crate) fn words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("hint:")).collect();
    let line: String = lines.join("; ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let count = line.chars().count();
    match count > WORDS {
        true => format!("... {}", line.chars().skip(count - WORDS).collect::<String>()),
        false if line.is_empty() => "(git said nothing)".to_owned(),
        false => line,
    }
}

/// Texts by which git or a server says that asking again will not help. English: we set `LC_ALL=C`.
const REFUSALS: [&str; 12] = [
    "Authentication failed",
    "Permission denied",
    "could not read Username",
    "could not read Password",
    "does not appear to be a git repository",
    "Repository not found",
    "repository not found",
    // Over HTTP, and by git's own daemon.
    "' not found",
    "access denied or repository not exported",
    "dubious ownership",
    "Host key verification failed",
    // Its objects are unsound: they will be tomorrow, too.
    "fsck error",
];

/// Whether a failed conversation with a remote was a refusal (and not trouble on the way).
#[must_use]
pub(crate) fn is_refusal(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    REFUSALS.iter().any(|refusal| text.contains(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_clean_line_that_keeps_the_end() {
        assert_eq!(words(b"hint: do this\nfatal: \x1b[31mno\n\nbye\n"), "fatal:  [31mno; bye");
        assert_eq!(words(b""), "(git said nothing)");
        let long = format!("{}END", "x".repeat(2_000));
        let shown = words(long.as_bytes());
        assert!(shown.ends_with("END") && shown.starts_with("... ") && shown.len() < 700);
    }

    #[test]
    fn a_refusal_is_told_from_trouble_on_the_way() {
        assert!(is_refusal(b"fatal: Authentication failed for 'https://x/'"));
        assert!(!is_refusal(b"fatal: unable to access 'https://x/': Could not resolve host: x"));
    }
}
