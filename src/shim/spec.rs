//! The order that a shim gets on standard input, and the line by which it announces itself.
//!
//! Owns the format: one line of JSON, at most [`SPEC_MAX`] bytes, then exactly `stdin_len` bytes that the child will
//! read. A shorter body means that the supervisor died while writing: then nothing is started.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use orch_domain::ids::JobId;
use orch_domain::job::OnLoss;
use orch_domain::time::Millis;
use serde::{Deserialize, Serialize};

use crate::groups::Groups;

/// Longest spec line, in bytes.
pub const SPEC_MAX: usize = 1 << 20;
/// Most bytes of standard input for a child.
pub const STDIN_MAX: u64 = 256 << 20;

/// Everything a shim needs to guard one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShimSpec {
    /// Protocol versions that the supervisor speaks.
    pub versions: Vec<u32>,
    /// The job.
    pub job: JobId,
    /// Folder of logs and exit record; exists, belongs to the supervisor.
    pub dir: PathBuf,
    /// Where to bind the control socket.
    pub socket: PathBuf,
    /// What a client has to know.
    pub secret: String,
    /// How long to wait for `go`.
    pub go_within: Millis,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// The child's whole environment.
    pub env: BTreeMap<String, String>,
    /// Length of the body that follows the spec's line: the child's standard input.
    pub stdin_len: u64,
    /// Bounds.
    pub limits: Limits,
    /// What the job may touch.
    pub confinement: Confine,
    /// Namespaces of its own, where the host offers them.
    pub namespaces: Option<Namespaces>,
    /// Control groups of its own, made and bounded already; the first one tells who belongs to the job.
    pub groups: Groups,
    /// What happens when the supervisor is gone.
    pub on_loss: OnLoss,
}

/// Namespaces of the job's own: processes, mounts and System V objects. The job sees a `/proc` and a `/dev/shm` of its
/// own, and nothing in it can signal or outlive what holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespaces {
    /// They are to be had through a user namespace only: the shim has no rights of its own to make them.
    pub user: bool,
    /// Folders that the job finds empty, but for what stands in `keep`.
    pub hide: Vec<PathBuf>,
    /// What stays visible below a hidden folder.
    pub keep: Vec<PathBuf>,
    /// Folder of the job's own that it sees as `/tmp`.
    pub tmp: Option<PathBuf>,
    /// Most bytes in the job's own `/dev/shm`.
    pub shm_bytes: u64,
}

/// How this host lets namespaces be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Namespacing {
    /// With our own rights.
    Own,
    /// Through a user namespace.
    User,
    /// Not at all.
    None {
        /// What was tried, and what the system said.
        why: String,
    },
}

/// What a probe found that this host offers; one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Landlock version; 0 for none.
    pub landlock: u32,
    /// Namespaces.
    pub namespaces: Namespacing,
}

/// Bounds of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Longest run time.
    pub wall: Millis,
    /// Longest silence on both outputs.
    pub stall: Option<Millis>,
    /// Between TERM and KILL.
    pub grace: Millis,
    /// Bytes kept of each output.
    pub log_bytes: u64,
    /// What of standard output is kept beyond that.
    pub beyond: Beyond,
    /// Most living processes.
    pub processes: Option<u32>,
    /// Most resident memory of all its processes together, in bytes.
    pub memory_bytes: Option<u64>,
    /// Most processor time of all its processes together.
    pub cpu_time: Option<Millis>,
    /// Most open files of each process.
    pub open_files: Option<u64>,
    /// Most bytes in the folders that it may write.
    pub disk_bytes: Option<u64>,
}

/// What becomes of standard output that does not fit the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Beyond {
    /// The log is cut and marked; the job goes on.
    Cut,
    /// The oldest part that has been read for good makes room, see [`crate::logs::Parsed`]. Until then the job waits.
    Roll,
}

/// File-system rules and identity of the child.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confine {
    /// `false`: no file-system rules.
    pub enforced: bool,
    /// Folders it may write.
    pub write: Vec<PathBuf>,
    /// Folders it may read and execute from, besides the system's.
    pub read: Vec<PathBuf>,
    /// Folders that stay closed although a rule above would open a parent of them.
    pub deny: Vec<PathBuf>,
    /// User and group id to run as.
    pub uid: Option<u32>,
}

/// The one line that a shim writes to standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "shim")]
pub enum Announcement {
    /// It waits for `go` at its socket.
    Ready {
        /// Protocol version it chose.
        version: u32,
        /// Its process id.
        pid: i32,
        /// Its start time in clock ticks since boot.
        start_ticks: u64,
        /// The running kernel.
        boot_id: String,
        /// Process group and session that it leads.
        pgid: i32,
        /// Landlock version that will be in force for the job; 0 when none will.
        landlock: u32,
    },
    /// It cannot guard; nothing was started.
    Unusable {
        /// Why.
        why: String,
    },
}

/// Why a spec is not usable.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It could not be read.
    #[error("the spec could not be read from standard input: {0}")]
    Io(#[from] io::Error),
    /// It is longer than allowed.
    #[error("the spec's line is longer than {SPEC_MAX} bytes; shorten arguments and environment")]
    TooLong,
    /// It is not a spec.
    #[error("the spec is not understood: {0}")]
    Malformed(String),
    /// The body is not as long as announced.
    #[error("standard input for the child is {got} bytes, announced were {announced} (at most {STDIN_MAX})")]
    Body {
        /// Bytes announced.
        announced: u64,
        /// Bytes that came.
        got: u64,
    },
}

impl ShimSpec {
    /// Reads a spec and copies the body into `body`, which is left at its start.
    ///
    /// # Errors
    /// See [`SpecError`]; nothing has been started then.
    pub fn read(mut from: impl Read, body: &mut File) -> Result<Self, SpecError> {
        let mut line = Vec::new();
        let mut buffer = [0_u8; 16 * 1024];
        let rest = loop {
            let count = from.read(&mut buffer)?;
            let chunk = &buffer[..count];
            if count == 0 {
                return Err(SpecError::Malformed("it ends before its first line does".to_owned()));
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&chunk[..end.unwrap_or(count)]);
            if line.len() > SPEC_MAX {
                return Err(SpecError::TooLong);
            }
            if let Some(end) = end {
                break chunk[end + 1..].to_vec();
            }
        };
        let spec: Self = serde_json::from_slice(&line).map_err(|error| SpecError::Malformed(error.to_string()))?;
        if spec.stdin_len > STDIN_MAX {
            return Err(SpecError::Body { announced: spec.stdin_len, got: 0 });
        }
        body.write_all(&rest)?;
        let got = rest.len() as u64 + io::copy(&mut from.take(spec.stdin_len + 1), body)?;
        if got != spec.stdin_len {
            return Err(SpecError::Body { announced: spec.stdin_len, got });
        }
        io::Seek::rewind(body)?;
        Ok(spec)
    }

    /// The spec's line, to be followed by the body.
    ///
    /// # Errors
    /// When a path is not UTF-8.
    pub fn to_line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn example(stdin_len: u64) -> ShimSpec {
        ShimSpec {
            versions: vec![1],
            job: "job00001".parse().expect("an id"),
            dir: "/tmp/d".into(),
            socket: "/tmp/s".into(),
            secret: "s".to_owned(),
            go_within: Millis(5000),
            argv: vec!["true".to_owned()],
            cwd: "/".into(),
            env: BTreeMap::new(),
            stdin_len,
            limits: Limits {
                wall: Millis(1),
                stall: None,
                grace: Millis(1),
                log_bytes: 1,
                beyond: Beyond::Cut,
                processes: None,
                memory_bytes: None,
                cpu_time: None,
                open_files: None,
                disk_bytes: None,
            },
            confinement: Confine::default(),
            namespaces: None,
            groups: Groups::default(),
            on_loss: OnLoss::RunOn,
        }
    }

    fn read(bytes: &[u8]) -> (Result<ShimSpec, SpecError>, Vec<u8>) {
        let mut body = tempfile::tempfile().expect("a file");
        let spec = ShimSpec::read(bytes, &mut body);
        let mut text = Vec::new();
        body.read_to_end(&mut text).expect("readable");
        (spec, text)
    }

    #[test]
    fn carries_any_bytes_for_the_child() {
        let body: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let mut bytes = example(body.len() as u64).to_line().expect("serialises");
        bytes.extend_from_slice(&body);
        let (spec, text) = read(&bytes);
        assert_eq!(spec.expect("a spec").argv, ["true"]);
        assert_eq!(text, body);
    }

    #[test]
    fn a_body_cut_short_or_too_long_starts_nothing() {
        for sent in [&b"abc"[..], b"abcdefg"] {
            let mut bytes = example(5).to_line().expect("serialises");
            bytes.extend_from_slice(sent);
            assert!(matches!(read(&bytes).0, Err(SpecError::Body { announced: 5, .. })));
        }
    }

    #[test]
    fn refuses_what_is_no_spec() {
        assert!(matches!(read(b"").0, Err(SpecError::Malformed(_))));
        assert!(matches!(read(b"{\"half\":").0, Err(SpecError::Malformed(_))));
        assert!(matches!(read(b"{}\n").0, Err(SpecError::Malformed(_))));
        assert!(matches!(read(&vec![b'x'; SPEC_MAX + 2]).0, Err(SpecError::TooLong)));
    }
}
