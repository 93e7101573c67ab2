//! The ports: what the supervisor needs from the outside, in our words, as small as serves.
//!
//! Owns the traits and the plain data that crosses them. A port returns facts (exit codes, shas, refusals), never
//! verdicts. Every port has a real implementation and a fake with fault switches; both pass the same contract tests.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use orch_domain::ids::{CommitSha, Epoch, JobId, RunId, TaskId};
use orch_domain::job::{JobExit, JobIdentity, JobKind, JobRecord, OnLoss};
use orch_domain::names::BranchName;
use orch_domain::time::{Millis, Timestamp};

use crate::git::{Owner, ProtectedBranches};

/// Reads the wall clock; faked in virtual-time tests.
pub trait Clock: Send + Sync + 'static {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

// ---------------------------------------------------------------------------------------------------------- jobs

/// Everything needed to start one child process. Nothing is inherited from the supervisor: the environment is whole.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// The job's id.
    pub id: JobId,
    /// What it is for.
    pub kind: JobKind,
    /// The task it works for, if any.
    pub task: Option<TaskId>,
    /// The run it belongs to, if any.
    pub run: Option<RunId>,
    /// Epoch of the owner that starts it.
    pub epoch: Epoch,
    /// One line for people, without secrets.
    pub label: String,
    /// Program and arguments; the program is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// The child's whole environment.
    pub env: BTreeMap<String, String>,
    /// What the child reads from standard input before end of file.
    pub stdin: Vec<u8>,
    /// Bounds.
    pub limits: JobLimits,
    /// What the job may touch.
    pub confinement: Confinement,
    /// What happens when the supervisor dies.
    pub on_loss: OnLoss,
}

/// Bounds of one job; all hard.
#[derive(Clone, Debug)]
pub struct JobLimits {
    /// Longest run time.
    pub wall: Millis,
    /// Longest silence on its output, if limited.
    pub stall: Option<Millis>,
    /// Between TERM and KILL.
    pub grace: Millis,
    /// Bytes kept of each of stdout and stderr; beyond it the log is cut and marked, the job goes on.
    pub log_bytes: u64,
    /// Most processes at a time, if limited.
    pub processes: Option<u32>,
    /// Most memory in bytes of all its processes together, if limited.
    pub memory_bytes: Option<u64>,
    /// Most processors at a time, in thousandths of one, if limited. Only a control group can hold this one.
    pub cpus_milli: Option<u32>,
    /// Most processor time of all its processes together, if limited.
    pub cpu_time: Option<Millis>,
    /// Most open files of each process, if limited.
    pub open_files: Option<u64>,
    /// Most bytes on disk in the folders that it may write, if limited.
    pub disk_bytes: Option<u64>,
    /// What becomes of standard output beyond `log_bytes`.
    pub beyond: Beyond,
}

/// What becomes of standard output that does not fit the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beyond {
    /// The log is cut and marked; the job goes on.
    #[default]
    Cut,
    /// What has been read for good makes room, and only that: until then the job waits. For event streams, whose reader
    /// tells how far it is.
    Roll,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            wall: Millis::from_mins(10),
            stall: None,
            grace: Millis::from_secs(10),
            log_bytes: 64 << 20,
            processes: None,
            memory_bytes: None,
            cpus_milli: None,
            cpu_time: None,
            open_files: None,
            disk_bytes: None,
            beyond: Beyond::Cut,
        }
    }
}

/// What a job may touch. Applied by the shim just before `exec`; what the host cannot enforce is shown, never hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// `false`: no file-system rules at all (the supervisor's own git commands, deploy commands, opted-out agents).
    pub enforced: bool,
    /// Folders the job may write (its workspace or checkout, its private HOME and TMPDIR).
    pub write: Vec<PathBuf>,
    /// Folders the job may read besides the system's; empty when only the system is needed.
    pub read: Vec<PathBuf>,
    /// Folders that stay closed even when a rule above would open a parent of them: the data folder.
    pub deny: Vec<PathBuf>,
    /// User and group id to run as, when the supervisor is root and a range is configured.
    pub uid: Option<u32>,
}

/// Why a job could not be started or followed. Named by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Nothing has run; the same job may be tried again later (no memory, no file handles, shim died idle).
    #[error("job {job} could not be started: {why}")]
    NotStarted {
        /// The job.
        job: JobId,
        /// What the system said.
        why: String,
    },
    /// The owner may not start it any more (STOP was recorded, or the epoch is stale): give up quietly.
    #[error("job {job} was refused: {why}")]
    Refused {
        /// The job.
        job: JobId,
        /// Which predicate refused.
        why: String,
    },
    /// The shim does not answer; look again (`observe`), do not assume.
    #[error("job {job}: the shim does not answer: {why}")]
    Unreachable {
        /// The job.
        job: JobId,
        /// What was tried.
        why: String,
    },
}

/// How firmly to end a job; only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndLevel {
    /// TERM (and CONT) to the whole tree, then KILL after the job's grace.
    Term,
    /// KILL until nobody is left.
    Kill,
}

/// What a look at a recorded job finds.
#[derive(Clone, Debug)]
pub enum Observed {
    /// The shim waits for `go`.
    Idle,
    /// Running under its shim.
    Running,
    /// Over, with its record.
    Ended(JobExit),
    /// The shim is gone and left no record; the text says what of its tree was found and ended, or that this boot
    /// never knew it.
    Gone {
        /// What was looked at and found.
        evidence: String,
        /// Whether nothing of it can be left.
        proven_gone: bool,
    },
}

/// Where jobs run: this host, later others.
#[async_trait]
pub trait Placement: Send + Sync + 'static {
    /// Starts the shim, idle, and returns how to find it again. The shim leaves by itself when no `go` comes in 5 s.
    async fn prepare(&self, spec: &JobSpec) -> Result<JobIdentity, JobError>;
    /// Lets a prepared job begin.
    async fn go(&self, job: &JobIdentity) -> Result<(), JobError>;
    /// Waits until the job is over, however long; works for adopted jobs too.
    async fn wait(&self, job: &JobIdentity) -> Result<JobExit, JobError>;
    /// Asks for the end of the job; returns once the shim has heard. `wait` tells when it is over.
    async fn end(&self, job: &JobIdentity, level: EndLevel) -> Result<(), JobError>;
    /// Stops every process of a running job where it is; its clocks stand still too. Repeating is safe, and `end` ends a
    /// frozen job like any other. One that does not run is refused: it is about to begin, or to be over.
    async fn freeze(&self, job: &JobIdentity) -> Result<(), JobError>;
    /// Lets a frozen job go on; any other is left as it is.
    async fn thaw(&self, job: &JobIdentity) -> Result<(), JobError>;
    /// Looks, changes nothing except that the remains of a job without shim are ended.
    async fn observe(&self, job: &JobIdentity) -> Result<Observed, JobError>;
    /// What this host offers to hold jobs, as a line per mechanism.
    fn capabilities(&self) -> Vec<String>;
    /// Folders that supervisors of other data folders left when they were killed, and nobody uses any more.
    fn stale_folders(&self) -> Vec<PathBuf>;
    /// Takes those away; how many went.
    fn clear_stale_folders(&self) -> usize;
}

/// Where jobs are recorded. Implemented over the store; `Refused` carries the STOP and epoch predicates down.
#[async_trait]
pub trait JobLedger: Send + Sync + 'static {
    /// Commits the job's identity. After this, and only after this, `go` may be sent.
    async fn prepared(&self, record: JobRecord) -> Result<(), JobError>;
    /// Commits that `go` is about to be sent, under the STOP and epoch predicates.
    async fn going(&self, job: &JobId) -> Result<(), JobError>;
    /// Both in one commit, where that can be had: for jobs that nobody goes on with after a crash, so that nothing hangs on
    /// what lies between the two.
    async fn launched(&self, record: JobRecord) -> Result<(), JobError> {
        let job = record.identity.job.clone();
        self.prepared(record).await?;
        self.going(&job).await
    }
    /// Commits how it ended.
    async fn ended(&self, job: &JobId, exit: &JobExit) -> Result<(), JobError>;
}

// ---------------------------------------------------------------------------------------------------------- forge

/// Where a repository's `main` lives and how git reaches it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// URL or path for git; never holds credentials.
    pub url: String,
    /// Environment for git commands that talk to it (askpass, config by environment); values are secret.
    pub env: BTreeMap<String, String>,
}

/// Answer to a request to move `main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Seen: `main` is now at the asked commit.
    Moved,
    /// Definitely not done, and will not be: `main` is elsewhere.
    MainMoved {
        /// Where it is.
        at: CommitSha,
    },
    /// Definitely not done: the forge refuses (protection, hook, permission).
    Refused {
        /// The forge's own words, shortened.
        why: String,
    },
    /// This request was not sent, for a reason on our side. It says nothing of an earlier one like it.
    NotSent {
        /// What kept it here.
        why: String,
    },
    /// Not known: repeat the same request, or look, before anything else.
    Unknown {
        /// What happened.
        why: String,
    },
}

/// Why a forge could not answer.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// Try later.
    #[error("the forge cannot be reached: {0}")]
    Unreachable(String),
    /// Asking again will not help; a person has to act.
    #[error("the forge refuses: {0}")]
    Refused(String),
}

/// A code host, for one repository.
#[async_trait]
pub trait Forge: Send + Sync + 'static {
    /// How git reaches the repository.
    fn remote(&self) -> Remote;
    /// The branch that tasks land on; asked from the host when not configured.
    async fn main_branch(&self) -> Result<BranchName, ForgeError>;
    /// The branches that nothing of ours may ever force or delete: the landing branch and the host's default one.
    async fn protected(&self) -> Result<ProtectedBranches, ForgeError>;
    /// Where a branch is now, freshly asked; `None` when there is no such branch.
    async fn head(&self, branch: &BranchName) -> Result<Option<CommitSha>, ForgeError>;
    /// Moves `main` from `expected` to `to`, which descends from it, or not at all. Never forced. Repeating is safe.
    /// What is sent is sent for `owner`, whose epoch fences it.
    async fn advance_main(&self, owner: &Owner, main: &BranchName, expected: &CommitSha, to: &CommitSha) -> Advance;
    /// What people have to know about side effects of landing here (a checked-out main), if there is something to say.
    async fn landing_note(&self, from: &CommitSha, to: &CommitSha) -> Option<LandingNote>;
}

/// What a landing left for people to do: files of theirs that did not move with `main`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LandingNote {
    /// The whole in sentences.
    #[serde(skip)]
    pub text: String,
    /// Each folder whose files stayed behind.
    pub left_behind: Vec<LeftBehind>,
}

/// A folder that has `main` checked out and the files of an earlier commit.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LeftBehind {
    /// Where.
    pub folder: String,
    /// The shell line that brings its files along and loses no local change.
    pub command: String,
}

// ---------------------------------------------------------------------------------------------------------- notices

/// How urgent a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Good to know.
    Info,
    /// A person has to do something.
    NeedsYou,
}

/// A message to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Idempotency key: the same notice is not sent twice where the receiver can tell.
    pub key: String,
    /// How urgent.
    pub urgency: Urgency,
    /// One line.
    pub title: String,
    /// More, if needed; plain text, without secrets.
    pub body: String,
}

/// Tells people.
#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    /// Sends one notice; an error means it may be tried again.
    async fn notify(&self, notice: &Notice) -> Result<(), String>;
}

// ---------------------------------------------------------------------------------------------------------- tracker

/// The tracker's states, as far as we write or read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrackerState {
    /// A move *to* here starts a pipeline.
    ToAnalyse,
    /// An agent works on it.
    InProgress,
    /// A person is needed.
    Blocked,
    /// A move to here asks for STOP.
    Stop,
    /// Landed (and deployed).
    Done,
    /// Stopped.
    Cancelled,
}

impl TrackerState {
    /// The state's name on the board.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToAnalyse => "To Analyse",
            Self::InProgress => "In Progress",
            Self::Blocked => "Blocked",
            Self::Stop => "STOP",
            Self::Done => "Done",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// What came of asking the tracker to show a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveOutcome {
    /// It shows the state now (or did already).
    Shown,
    /// A person moved it in between: an intent, which is left alone.
    LeftAlone,
}

/// The team's tracker, for moves and comments that we make; intake comes by events.
#[async_trait]
pub trait Tracker: Send + Sync + 'static {
    /// Makes the item show a state. Desired state, latest wins; re-reads before it writes.
    async fn show(&self, item: &str, state: TrackerState) -> Result<MoveOutcome, String>;
    /// Adds a comment once per key.
    async fn comment(&self, item: &str, key: &str, text: &str) -> Result<(), String>;
}
