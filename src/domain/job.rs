//! Jobs: one child process of a run or gate, as the store and the receipts know it.
//!
//! Owns the kinds, what each kind does when the supervisor dies, the identity by which a job is found again after a
//! restart, and how a job can end. Refuses to know how a process is started: that is the placement's business.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, JobId, RunId, TaskId};
use crate::time::{Millis, Timestamp};

/// What a job is for. The kind decides limits, what happens to it when the supervisor dies, and whether STOP may end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// An agent program working in a workspace.
    Agent,
    /// Takes commits (and leftovers) out of a workspace as a bundle, inside the job's confinement.
    Capture,
    /// The repository's check, setup, test or coverage command, or a gate's tool.
    Gate,
    /// A git command of the supervisor on its own repositories, or a read of a remote.
    Git,
    /// A push that moves a branch of the forge: part of a window.
    Push,
    /// The deploy command: part of a window.
    Deploy,
    /// The rollback of a deploy, a health check or a question for the deploy's status: part of a window.
    DeployAid,
}

impl JobKind {
    /// All kinds, for tables and documents.
    pub const ALL: [Self; 7] =
        [Self::Agent, Self::Capture, Self::Gate, Self::Git, Self::Push, Self::Deploy, Self::DeployAid];

    /// The kind's name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Capture => "capture",
            Self::Gate => "gate",
            Self::Git => "git",
            Self::Push => "push",
            Self::Deploy => "deploy",
            Self::DeployAid => "deploy-aid",
        }
    }

    /// Whether the job belongs to an irreversible step: STOP waits for it, and a restarted supervisor adopts it.
    #[must_use]
    pub const fn is_window(self) -> bool {
        matches!(self, Self::Push | Self::Deploy | Self::DeployAid)
    }

    /// Whether the job runs something of a workspace or a branch: then it gets a view of its own, and a user of its own.
    #[must_use]
    pub const fn is_walled(self) -> bool {
        matches!(self, Self::Agent | Self::Capture | Self::Gate)
    }

    /// Whether such a job stands still while the disk is full. Those of a window are always finished; what the supervisor
    /// does itself (git commands, captures) is short, and STOP needs it.
    #[must_use]
    pub const fn can_stand_still(self) -> bool {
        matches!(self, Self::Agent | Self::Gate)
    }

    /// What the shim does when it loses its supervisor.
    #[must_use]
    pub const fn on_loss(self, agent_grace: Millis) -> OnLoss {
        match self {
            Self::Agent => OnLoss::Grace { grace: agent_grace },
            Self::Push | Self::Deploy | Self::DeployAid => OnLoss::RunOn,
            Self::Capture | Self::Gate | Self::Git => OnLoss::End,
        }
    }

    /// Whether such a job ends when its supervisor is gone, and is done again by the next one.
    #[must_use]
    pub const fn ends_with_supervisor(self) -> bool {
        matches!(self, Self::Capture | Self::Gate | Self::Git)
    }
}

/// Free bytes below which a disk counts as full, and jobs stand still, where new work asks for `least`: a sixteenth.
#[must_use]
pub const fn full_below(least: u64) -> u64 {
    least / 16
}

/// What a job does when its supervisor is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum OnLoss {
    /// End at once.
    End,
    /// Go on for this long, waiting to be adopted, then end.
    Grace {
        /// How long to wait for a new supervisor.
        grace: Millis,
    },
    /// Run to the job's own deadline; a later supervisor adopts it or reads its exit record.
    RunOn,
}

/// By what a job is recognised after a restart. A pid alone is never acted upon: pids come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobIdentity {
    /// The job.
    pub job: JobId,
    /// Kernel boot during which the shim was started.
    pub boot_id: String,
    /// Process id of the shim.
    pub pid: i32,
    /// Start time of the shim in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
    /// Process group (and session) led by the job's main process' shim.
    pub pgid: i32,
    /// Control group of the job, when it has one of its own.
    pub cgroup: Option<PathBuf>,
    /// The shim's control socket.
    pub socket: PathBuf,
    /// Hex secret that the shim demands from whoever connects.
    pub secret: String,
    /// Folder of the job: logs and `exit.json`.
    pub dir: PathBuf,
    /// How the job is held: what was found at start and used (shown, and quoted by receipts).
    pub containment: Containment,
    /// What of its confinement is enforced (shown). Records of earlier versions have none.
    #[serde(default)]
    pub enforced: Enforced,
}

/// How firmly a job is held, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Containment {
    /// Subreaper that kills until `waitpid` says there is nobody left.
    Shim,
    /// The same as init of a PID namespace: nothing inside can signal or outlive it.
    PidNamespace,
    /// A control group of its own, killed as one; the shim still proves.
    Cgroup,
    /// PID namespace and control group together.
    PidNamespaceAndCgroup,
}

impl Containment {
    /// From its parts: namespaces of its own, and a control group that the job cannot write.
    #[must_use]
    pub const fn of(namespaces: bool, group: bool) -> Self {
        match (namespaces, group) {
            (false, false) => Self::Shim,
            (true, false) => Self::PidNamespace,
            (false, true) => Self::Cgroup,
            (true, true) => Self::PidNamespaceAndCgroup,
        }
    }

    /// In words, for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shim => "shim",
            Self::PidNamespace => "pid namespace",
            Self::Cgroup => "cgroup",
            Self::PidNamespaceAndCgroup => "pid namespace, cgroup",
        }
    }

    /// Whether the job is in namespaces of its own.
    #[must_use]
    pub const fn has_namespaces(self) -> bool {
        matches!(self, Self::PidNamespace | Self::PidNamespaceAndCgroup)
    }

    /// Whether an empty control group proves that nothing is left.
    #[must_use]
    pub const fn has_group(self) -> bool {
        matches!(self, Self::Cgroup | Self::PidNamespaceAndCgroup)
    }
}

/// What of a job's confinement the kernel enforces. What is missing here is a request that the host cannot meet, or one
/// that was not made: then `asked` is false.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Enforced {
    /// Whether confinement was asked for; not for our own git commands, deploy commands, and agents that opted out.
    pub asked: bool,
    /// Landlock version that keeps it to its folders; 0 for none.
    pub landlock: u32,
    /// Whether it cannot signal, or reach by an abstract socket, anybody outside.
    pub scoped: bool,
    /// Whether it has a view of its own of processes, shared memory and sockets.
    pub own_view: bool,
    /// Whether it has a `/tmp` of its own.
    pub own_tmp: bool,
    /// The user it runs as, when it has one of its own.
    pub user: Option<u32>,
    /// Limits that the kernel keeps; others are counted by the guard.
    pub kernel_limits: Vec<String>,
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match (self.asked, self.landlock) {
            (true, 0) => parts.push("folders NOT enforced".to_owned()),
            (true, version) => parts.push(format!("landlock {version}")),
            (false, _) => parts.push("unconfined".to_owned()),
        }
        parts.extend(self.own_view.then(|| "own view".to_owned()));
        parts.extend(self.own_tmp.then(|| "own /tmp".to_owned()));
        parts.extend(self.user.map(|user| format!("user {user}")));
        f.write_str(&parts.join(", "))
    }
}

/// How a job ended: a fact about processes, never a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum JobEnd {
    /// The main process exited by itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// The main process was ended by a signal that was not ours.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// We ended it: asked to by the supervisor (STOP, drain).
    Cancelled,
    /// We ended it: its time was over.
    TimedOut,
    /// We ended it: silent for longer than allowed.
    Stalled,
    /// We ended it: it went over a limit (processes, memory, log, disk).
    OverLimit {
        /// Which limit, with its value.
        what: String,
    },
    /// We ended it, or it ended itself: its supervisor was gone.
    Orphaned,
    /// The program could not be executed at all.
    CouldNotStart {
        /// What the system said, naming the program.
        why: String,
    },
    /// Its shim is gone and left no record: how it ended is not known.
    Lost,
}

/// As people read it, behind "it ended: ".
impl fmt::Display for JobEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit code {code}"),
            Self::Signalled { signal } => write!(f, "killed by signal {signal}"),
            Self::Cancelled => f.write_str("ended by the supervisor"),
            Self::TimedOut => f.write_str("its time was over"),
            Self::Stalled => f.write_str("silent for longer than allowed"),
            Self::OverLimit { what } => write!(f, "over a limit: {what}"),
            Self::Orphaned => f.write_str("its supervisor was gone"),
            Self::CouldNotStart { why } => write!(f, "not started: {why}"),
            Self::Lost => f.write_str("its guard was lost, so nobody saw its end"),
        }
    }
}

impl JobEnd {
    /// Whether the program ran to its own exit with code 0.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Exited { code: 0 })
    }
}

/// The record of an ended job, written by its shim (`exit.json`) and stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobExit {
    /// How it ended.
    pub end: JobEnd,
    /// When the main process was started, if it was.
    pub started: Option<Timestamp>,
    /// When the last process of the job was gone.
    pub ended: Timestamp,
    /// Whether nothing of the job is left, proven by the kernel (`ECHILD`, empty cgroup), not assumed.
    pub proven_gone: bool,
    /// Processes that had to be ended besides the main one.
    pub swept: u32,
    /// Whether a log was cut at its cap.
    pub log_cut: bool,
}

/// Status of a job row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobStatus {
    /// Recorded; its shim waits for `go`.
    Prepared,
    /// `go` was sent.
    Running,
    /// Over, with an exit record.
    Ended,
    /// Cancelled before it began, or ended by a STOP.
    Cancelled,
    /// Gone without a record.
    Lost,
}

impl JobStatus {
    /// The status as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Running => "running",
            Self::Ended => "ended",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// Whether processes of this job may exist.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Prepared | Self::Running)
    }
}

/// A job as recorded before `go` is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// How to find it again.
    pub identity: JobIdentity,
    /// What it is for.
    pub kind: JobKind,
    /// The task it works for; housekeeping jobs have none.
    pub task: Option<TaskId>,
    /// The run it belongs to, if any.
    pub run: Option<RunId>,
    /// Epoch of the owner that started it.
    pub epoch: Epoch,
    /// One line for people: program and purpose, without secrets.
    pub label: String,
    /// When it was recorded.
    pub at: Timestamp,
    /// What its owner needs to go on with it after a restart, in the owner's own form; without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<serde_json::Value>,
}
