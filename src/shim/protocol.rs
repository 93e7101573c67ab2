//! What is said over the control socket: one JSON object a line, requests in, replies and one event out.
//!
//! Owns the words, their version and their bounds. The first line of a connection must be `hello` with the job's secret;
//! until then nothing else is answered. Replies come in the order of the requests; `ended` comes unasked, once.

use orch_domain::job::JobExit;
use serde::{Deserialize, Serialize};

/// Versions of the protocol that this build speaks, best first.
pub const VERSIONS: &[u32] = &[1];
/// Longest line either side accepts, in bytes.
pub const LINE_MAX: usize = 64 * 1024;

/// The best version that both sides speak.
#[must_use]
pub fn negotiate(theirs: &[u32]) -> Option<u32> {
    VERSIONS.iter().copied().find(|version| theirs.contains(version))
}

/// How firmly to end a job; only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// TERM (and CONT) to the whole tree, then KILL after the grace.
    Term,
    /// KILL until nobody is left.
    Kill,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub enum Request {
    /// Opens the conversation.
    Hello {
        /// Versions that the client speaks.
        versions: Vec<u32>,
        /// The job's secret.
        secret: String,
        /// Whether this connection is the supervisor's hold on the job: losing the last one is losing the supervisor.
        supervise: bool,
    },
    /// Lets the job begin.
    Go,
    /// Asks how it is.
    Status,
    /// Ends the job.
    End {
        /// How firmly.
        level: Level,
    },
    /// Stops (SIGSTOP) every process of the job; its clocks stand still too.
    Freeze,
    /// Lets a frozen job go on.
    Thaw,
    /// Asks whether anybody is there.
    Ping,
}

/// Where a job is, as its shim sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Waits for `go`.
    Idle,
    /// The main process runs.
    Running,
    /// Being ended, or its leftovers are.
    Ending,
    /// Nothing is left; the record is being written.
    Over,
}

/// A look at a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where it is.
    pub phase: Phase,
    /// Process id of the main process, once started.
    pub main_pid: Option<i32>,
    /// Living processes of the job.
    pub processes: u32,
    /// Bytes that standard output has produced so far, kept or not.
    pub stdout_bytes: u64,
    /// The same of standard error.
    pub stderr_bytes: u64,
    /// Whether it is frozen.
    pub frozen: bool,
    /// Landlock version in force for the job; 0 when it is not confined.
    pub landlock: u32,
}

/// What the shim says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "re")]
pub enum Reply {
    /// Answer to `hello`.
    Hello {
        /// The version spoken from here on.
        version: u32,
    },
    /// Heard and done, or under way.
    Done,
    /// Answer to `status`.
    Status(Status),
    /// Not done.
    Refused {
        /// Why.
        why: String,
    },
    /// The job is over; nothing comes after this.
    Ended {
        /// Its record, the same as in `exit.json`.
        exit: JobExit,
    },
}

/// Compares secrets in a time that does not depend on where they differ.
pub(crate) fn same_secret(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0_u8, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_best_common_version_or_none() {
        assert_eq!(negotiate(&[9, 1]), Some(1));
        assert_eq!(negotiate(&[9]), None);
    }

    #[test]
    fn secrets_match_only_when_equal() {
        assert!(same_secret("abc", "abc"));
        for other in ["abd", "ab", "", "abcd"] {
            assert!(!same_secret("abc", other), "{other}");
        }
    }

    #[test]
    fn requests_have_one_stable_spelling() {
        let text = serde_json::to_string(&Request::End { level: Level::Kill }).expect("serialises");
        assert_eq!(text, r#"{"op":"end","level":"kill"}"#);
        assert!(serde_json::from_str::<Request>(r#"{"op":"dance"}"#).is_err());
    }
}
