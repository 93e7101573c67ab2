//! The front desk: everything http, cli and tests may ask of a running supervisor.
//!
//! Owns the [`Control`] trait, its requests, answers and errors. Hides actor references, the store and the adapters: the
//! answers are domain views. Reads never wait for an actor's work; commands are durable before they are acknowledged.

use async_trait::async_trait;
use orch_domain::gate::GateName;
use orch_domain::ids::{CommitPrefix, CommitSha, Epoch, Generation, JobId, Seq};
use orch_domain::job::{JobKind, JobStatus};
use orch_domain::journal::Record;
use orch_domain::lane::LaneMode;
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::stop::{Receipt, StopStep};
use orch_domain::task::ApprovalOf;
use orch_domain::time::{Millis, Timestamp};
use orch_domain::turns::LaneStatistics;
use orch_domain::view::{TaskDetail, TaskView, Why};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

mod coverage;
mod jobs;
mod proof;

pub use coverage::{BaselineView, CoverageFailure, CoveragePoint, CoverageView, HISTORY_PAGE, SetBaseline, Share};
pub use jobs::{JobView, StandstillView};
pub use proof::{GateProof, ProofCheck, ProofQuery, ProofView};

/// Why a request was not carried out. The variant decides the HTTP status and the exit code; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no such thing (404).
    #[error("{0}")]
    NotFound(String),
    /// The request itself is wrong: value and way out are in the text (400).
    #[error("{0}")]
    Invalid(String),
    /// Right, but not in this state (409).
    #[error("{0}")]
    Conflict(String),
    /// Not now: draining, disk full (503).
    #[error("{0}")]
    Unavailable(String),
    /// Ours: logged with its cause (500).
    #[error("{0}")]
    Internal(String),
}

/// A new task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// One line; required.
    pub title: String,
    /// The description.
    #[serde(default)]
    pub body: String,
    /// The repository by our name; may be left out when exactly one is configured.
    #[serde(default)]
    pub repo: Option<RepoName>,
    /// The human key; minted when left out. A key whose last life is closed begins a new generation.
    #[serde(default)]
    pub key: Option<TaskKey>,
    /// Pipeline by name; the repository's when left out.
    #[serde(default)]
    pub pipeline: Option<String>,
    /// Configured agent by name; the repository's when left out.
    #[serde(default)]
    pub agent: Option<String>,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// Tasks that must be terminal first.
    #[serde(default)]
    pub depends_on: Vec<TaskKey>,
    /// Repeating a request with the same value answers with the first task again.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// A live task of that key goes on with the settings of here instead of those that it was handed in with. Only from
    /// within this process.
    #[serde(skip)]
    pub new_settings: bool,
}

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Of this repository only.
    pub repo: Option<RepoName>,
    /// Closed ones too.
    pub closed: bool,
    /// At most this many, newest first; 0 means 500.
    pub limit: usize,
}

/// A page of a task's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// Which run's log this is; changes when a new run begins.
    pub run: Option<String>,
    /// The text from the asked offset, whole lines, secrets redacted.
    pub text: String,
    /// Where to go on.
    pub next_offset: u64,
    /// Whether this run has ended, so that nothing more will come.
    pub ended: bool,
}

/// One run of a program for a task whose output is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogView {
    /// Its number over the task's life, from 1, oldest first: what `run` asks for.
    pub number: u32,
    /// The job.
    pub job: JobId,
    /// What it is for.
    pub kind: JobKind,
    /// One line for people.
    pub label: String,
    /// When it was begun.
    pub at: Timestamp,
    /// How it stands.
    pub status: JobStatus,
}

/// One actor, as it last told about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorView {
    /// Its name: `task ORC-1/1`, `lane demo`.
    pub name: String,
    /// What it does.
    pub state: String,
    /// When it said so.
    pub at: Timestamp,
    /// Restarts in the current window.
    pub restarts: u32,
}

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// The repository.
    pub repo: RepoName,
    /// The fencing token: of whoever holds it, or held it last; 0: nobody ever has.
    pub epoch: Epoch,
    /// Who holds it, if anybody.
    pub holder: Option<TaskKey>,
    /// For what.
    pub purpose: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when, unless renewed.
    pub expires: Option<Timestamp>,
    /// Tasks waiting for it, in order.
    pub queue: Vec<TaskKey>,
}

/// Whether a lane takes work, and who said so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeView {
    /// `running`, `draining` or `paused`.
    pub mode: LaneMode,
    /// Who set it; `None`: nobody ever did.
    pub who: Option<String>,
    /// Why.
    pub why: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
}

impl std::fmt::Display for ModeView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.mode.as_str())?;
        if let (Some(who), Some(since)) = (&self.who, self.since) {
            write!(f, " by {who} since {since}")?;
        }
        match self.why.as_deref() {
            Some(why) if !why.is_empty() => write!(f, ": {why}"),
            _ => Ok(()),
        }
    }
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoView {
    /// Our name.
    pub name: RepoName,
    /// Where it is; never with credentials.
    pub location: String,
    /// The branch that tasks land on, when known.
    pub main: Option<String>,
    /// Whether its lane takes work.
    pub lane: ModeView,
    /// The landing's gates that are asked there, in order, not those that are off or for others; `None`: nobody lands there.
    #[serde(default)]
    pub gates: Option<Vec<GateName>>,
}

/// One change that has landed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandingView {
    /// The task.
    pub key: TaskKey,
    /// What `main` was moved to.
    pub sha: CommitSha,
    /// When.
    pub at: Timestamp,
}

/// A task that was put off and comes back to the lane by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeferredView {
    /// The task.
    pub key: TaskKey,
    /// When it comes back.
    pub available_at: Timestamp,
    /// Why it was put off.
    pub why: String,
}

/// One repository's lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneView {
    /// Its lease and its queue.
    #[serde(flatten)]
    pub lease: LeaseView,
    /// Whether it takes work.
    pub lane: ModeView,
    /// The last landings, newest first.
    pub landings: Vec<LandingView>,
    /// Who was put off.
    pub deferred: Vec<DeferredView>,
    /// Figures over its newest turns.
    pub statistics: LaneStatistics,
}

/// Slots of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// In use.
    pub used: usize,
    /// In all.
    pub total: usize,
    /// Waiting for one.
    pub waiting: usize,
}

/// What a gate has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateTally {
    /// Times that it passed something.
    pub passed: u64,
    /// Times that it failed something.
    pub failed: u64,
    /// Times that it could not run.
    pub could_not_run: u64,
    /// Its newest verdict.
    pub last: Option<LastVerdict>,
}

/// A gate's newest verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerdict {
    /// When.
    pub at: Timestamp,
    /// `passed`, `failed` or `could_not_run`.
    pub verdict: String,
    /// In which repository.
    pub repo: RepoName,
    /// For which task, if it still is there.
    pub task: Option<TaskKey>,
    /// On which commit.
    pub head: CommitSha,
}

/// The audit of dependencies. The numbers are of this process; answers that were used again are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// Who is asked.
    pub feed: String,
    /// Passed, with an answer for everything.
    pub whole: u64,
    /// Passed, though something is not known.
    pub degraded: u64,
    /// Failed.
    pub failed: u64,
    /// Had no whole answer, where one is demanded.
    pub could_not_run: u64,
    /// The newest gap.
    pub last_gap: Option<AuditGap>,
}

/// Something that an audit could not learn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditGap {
    /// When.
    pub at: Timestamp,
    /// What, and why.
    pub why: String,
}

/// The security gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityView {
    /// What looks for secrets, as things stand on this machine.
    pub engine: String,
    /// The audit of dependencies; `None`: it is switched off.
    #[serde(default)]
    pub audit: Option<AuditView>,
    /// What it has said.
    #[serde(flatten)]
    pub tally: GateTally,
}

/// The state of the whole, on one page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueView {
    /// Tasks per status.
    pub by_status: std::collections::BTreeMap<String, usize>,
    /// Live tasks per stage.
    pub by_stage: std::collections::BTreeMap<String, usize>,
    /// Live tasks that run or land.
    pub running: Vec<TaskView>,
    /// Live tasks that wait, each with its reason.
    pub waiting: Vec<Why>,
    /// Agent slots.
    pub agents: Slots,
    /// Gate slots.
    pub gates: Slots,
    /// The security gate.
    #[serde(default)]
    pub security: SecurityView,
    /// Lanes to `main`.
    pub merge: Vec<LaneView>,
    /// Line coverage, per repository that is held to it.
    #[serde(default)]
    pub coverage: Vec<CoverageView>,
    /// STOPs.
    pub stop: StopBlock,
    /// Writes of owners whose epoch is over (a lost lease, a task's former actor) that were refused since the start.
    #[serde(default)]
    pub refused_stale_writes: u64,
    /// Whether new work is taken, and if not, why.
    pub intake: String,
    /// What stands still because the disk is full; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standstill: Option<StandstillView>,
}

/// STOPs: what is being carried out, and what still waits for a remote part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopBlock {
    /// Whether the tracker's STOP status is obeyed; the command line and HTTP always are.
    pub status_enabled: bool,
    /// Tasks being stopped, oldest STOP first.
    pub under_way: Vec<StopUnderWay>,
    /// Steps of closed tasks that wait for a remote part.
    pub pending: Vec<StopPending>,
}

/// A STOP being carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopUnderWay {
    /// The task.
    pub key: TaskKey,
    /// Its life.
    pub generation: Generation,
    /// When the STOP was recorded.
    pub since: Timestamp,
    /// Who asked.
    pub by: String,
    /// Where it came from.
    pub source: String,
    /// What is being done, or what it is deferred by.
    pub doing: String,
}

/// A step of a STOP that is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPending {
    /// The task.
    pub key: TaskKey,
    /// Its life.
    pub generation: Generation,
    /// Which step.
    pub step: StopStep,
    /// What is away.
    pub why: String,
    /// When it was last tried.
    pub tried: Timestamp,
    /// When it is tried again; `None`: with the next look, for the last time.
    pub next: Option<Timestamp>,
}

/// The answer to a STOP of all tasks of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoStop {
    /// The repository.
    pub repo: RepoName,
    /// One answer per task that was live, oldest first.
    pub stopped: Vec<StopAnswer>,
}

/// The answer to a handover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// Tasks whose agent works on, for the next start to go on with.
    pub agents: Vec<TaskKey>,
    /// How long agents work on without a supervisor.
    pub grace_ms: Millis,
}

/// One thing that nobody needs any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcItem {
    /// `job-folder`, `workspace`, `put-aside`, `salvage`, `refs`, `garbage` or `rows`.
    pub kind: String,
    /// Which.
    pub name: String,
    /// Why it may go.
    pub why: String,
}

/// A salvage: what a workspace held, or commits that never landed, kept in the vault of its repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SalvageView {
    /// The repository.
    pub repo: RepoName,
    /// By which it is restored: `<key>/<generation>/<run>`.
    pub id: String,
    /// When it was made.
    pub at: Timestamp,
    /// The commit in the vault that holds it.
    pub commit: CommitSha,
    /// How many files were kept; `None`: it keeps commits.
    pub files: Option<u64>,
    /// Their bytes, as noted when it was made.
    pub bytes: Option<u64>,
    /// Commits that it keeps, newest work first; none when it keeps files.
    pub heads: Vec<CommitSha>,
    /// When it is let go of.
    pub until: Timestamp,
    /// What is known about it, for people.
    pub about: String,
}

/// The answer to a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Where the files are now, on the supervisor's host.
    pub into: std::path::PathBuf,
    /// How many there are.
    pub files: usize,
}

/// Whether the supervisor can take work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// The first reconcile pass is through, the store answers, intake is open.
    pub ready: bool,
    /// Why not, or `ok`.
    pub reason: String,
}

/// The answer to a STOP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopAnswer {
    /// The task, now stopping (or closed already).
    pub task: TaskView,
    /// Whether this request was the first.
    pub first: bool,
    /// Where the receipt grows: a path of the HTTP interface.
    pub receipt: String,
}

/// Spending and timing of the supervisor itself, for `/metrics` and `/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Version of this program.
    pub version: String,
    /// When it was started.
    pub started: Timestamp,
    /// How long it has been up.
    pub uptime_ms: Millis,
    /// What the host offers to hold jobs.
    pub containment: Vec<String>,
}

/// What may be asked of a running supervisor. Keys are given as text: a human key, `KEY/GENERATION`, or a task id.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Accepts a task: durable when this returns.
    async fn submit(&self, submit: Submit, by: &str) -> Result<TaskView, ControlError>;
    /// Lists tasks.
    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<TaskView>, ControlError>;
    /// The newest life of a task, or with `all` every life, newest first.
    async fn task(&self, key: &str, all: bool) -> Result<Vec<TaskDetail>, ControlError>;
    /// A task's journal after a position.
    async fn journal(&self, key: &str, after: Seq, limit: usize) -> Result<Vec<Record>, ControlError>;
    /// Why a task is where it is.
    async fn why(&self, key: &str) -> Result<Why, ControlError>;
    /// The receipt of a task's STOP.
    async fn receipt(&self, key: &str) -> Result<Receipt, ControlError>;
    /// What was run for a task and leaves a log, oldest first.
    async fn logs(&self, key: &str) -> Result<Vec<LogView>, ControlError>;
    /// A page of one of them, by its number, or of the newest.
    async fn log(&self, key: &str, run: Option<u32>, offset: u64, max_bytes: usize) -> Result<LogPage, ControlError>;
    /// Records a STOP and begins to carry it out.
    async fn stop(&self, key: &str, by: &str, source: &str) -> Result<StopAnswer, ControlError>;
    /// Records a STOP for every live task of a repository.
    async fn stop_repo(&self, repo: &RepoName, by: &str, source: &str) -> Result<RepoStop, ControlError>;
    /// Asks the supervisor to end for an upgrade, leaving agents at work to the next start.
    async fn hand_over(&self, by: &str) -> Result<HandOver, ControlError>;
    /// What the next clean-up would remove.
    async fn gc_plan(&self) -> Result<Vec<GcItem>, ControlError>;
    /// Begins that clean-up now; tells what it is going to remove.
    async fn gc(&self, by: &str) -> Result<Vec<GcItem>, ControlError>;
    /// What is kept in the vaults, newest first; of one repository or of all.
    async fn salvages(&self, repo: Option<&RepoName>) -> Result<Vec<SalvageView>, ControlError>;
    /// Writes the files of a salvage into a new folder on this host.
    async fn restore_salvage(
        &self,
        repo: &RepoName,
        id: &str,
        into: std::path::PathBuf,
    ) -> Result<Restored, ControlError>;
    /// Lets a blocked (or deferred) task go on.
    async fn retry(&self, key: &str, by: &str) -> Result<TaskView, ControlError>;
    /// Approves; without a commit, the one that is waited for.
    async fn approve(
        &self,
        key: &str,
        what: ApprovalOf,
        sha: Option<CommitPrefix>,
        by: &str,
    ) -> Result<TaskView, ControlError>;
    /// The state of the whole.
    async fn queue(&self) -> Result<QueueView, ControlError>;
    /// Live jobs.
    async fn jobs(&self) -> Result<Vec<JobView>, ControlError>;
    /// Leases.
    async fn leases(&self) -> Result<Vec<LeaseView>, ControlError>;
    /// Repositories.
    async fn repos(&self) -> Result<Vec<RepoView>, ControlError>;
    /// Sets whether a repository's lane takes work.
    async fn set_lane_mode(
        &self,
        repo: &RepoName,
        mode: LaneMode,
        why: &str,
        by: &str,
    ) -> Result<RepoView, ControlError>;
    /// Coverage of one repository.
    async fn coverage(&self, repo: &RepoName) -> Result<CoverageView, ControlError>;
    /// Coverage of every repository that is held to it.
    async fn coverages(&self) -> Result<Vec<CoverageView>, ControlError>;
    /// A page of a repository's coverage history, newest first, below number `before`.
    async fn coverage_history(
        &self,
        repo: &RepoName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<CoveragePoint>, ControlError>;
    /// Sets a repository's coverage baseline in a person's name.
    async fn set_baseline(&self, asked: SetBaseline, by: &str) -> Result<CoverageView, ControlError>;
    /// Proofs of landings, newest first within a repository.
    async fn proofs(&self, asked: ProofQuery) -> Result<Vec<ProofView>, ControlError>;
    /// Actors, by their last snapshots.
    async fn actors(&self) -> Result<Vec<ActorView>, ControlError>;
    /// The event stream after a position, over all tasks.
    async fn records_after(&self, after: Seq, limit: usize) -> Result<Vec<Record>, ControlError>;
    /// Changes whenever the event stream grows.
    fn watch_records(&self) -> watch::Receiver<Seq>;
    /// Whether work can be taken.
    async fn ready(&self) -> Readiness;
    /// Facts about this supervisor.
    fn about(&self) -> About;
    /// Writes a verified backup of the store to a path on this host.
    async fn backup(&self, to: std::path::PathBuf) -> Result<String, ControlError>;
}
