//! What every actor is handed: the store, the ports, the settings in the actors' own words.
//!
//! Owns no state: everything here is shared and immutable after start. The composition root builds it from the
//! configuration; tests build it with fakes for the outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_adapters::advisories::FeedKind;
use orch_adapters::agents::{Agent, Prompts};
use orch_adapters::git::RepoGit;
use orch_adapters::images::Images;
use orch_adapters::jobs::Runner;
use orch_adapters::jobs::env::{PrivateDirs, base_env_with_path};
use orch_adapters::ports::{Clock, Forge, ForgeError, JobLimits, Notifier, Tracker};
use orch_adapters::secrets::{CollectLimits, EngineKind, ExpandLimits, HashKey};
use orch_domain::coverage::CoveragePolicy;
use orch_domain::job::JobKind;
use orch_domain::names::{BranchName, RepoName, RepoPath};
use orch_domain::pipeline::Pipeline;
use orch_domain::policy::Policy;
use orch_domain::task::Task;
use orch_domain::time::Millis;
use orch_store::Store;

use crate::disk::DiskWatch;
use crate::tally::AuditTally;
use crate::upkeep::Retention;

/// Shell commands of a repository, as configured; `None` is "not configured", never "empty".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// Prepares a clean checkout (fetches dependencies); runs before each of the others.
    pub setup: Option<String>,
    /// Quick check after development.
    pub check: Option<String>,
    /// The test suite; detected from the repository's files when not configured.
    pub test: Option<String>,
    /// Where the test command leaves JUnit XML, relative to the checkout.
    pub junit: Option<String>,
    /// Deploys the task's head to staging.
    pub staging: Option<String>,
    /// Builds the image that will be deployed, from what is about to land.
    pub build_image: Option<String>,
    /// Deploys what has landed.
    pub deploy: Option<String>,
    /// Asks whether the deployed thing is well.
    pub health: Option<String>,
    /// Takes a failed deploy back.
    pub rollback: Option<String>,
    /// Asked when the outcome of a deploy is unknown: exit 0 deployed, 1 not deployed, else still unknown.
    pub deploy_status: Option<String>,
}

/// Time limits of a repository's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// Longest run of the quick check.
    pub check: Millis,
    /// Longest run of the tests.
    pub test: Millis,
    /// Longest run of the tests on a caught-up commit, and on `main` alone; that of the tests when `None`.
    pub retest: Option<Millis>,
    /// Longest run of the staging, image build, deploy and rollback commands.
    pub deploy: Millis,
    /// How long the health command may keep failing before the deploy counts as failed.
    pub health: Millis,
    /// Between TERM and KILL.
    pub grace: Millis,
}

impl Default for CommandLimits {
    fn default() -> Self {
        Self {
            check: Millis::from_mins(30),
            test: Millis::from_mins(60),
            retest: None,
            deploy: Millis::from_mins(30),
            health: Millis::from_mins(2),
            grace: Millis::from_secs(10),
        }
    }
}

/// How a repository's line coverage is measured and judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoverageSettings {
    /// The shell line, or the name of a preset; detected when `None`.
    pub command: Option<String>,
    /// Where it leaves its report, relative to the checkout; the usual places when `None`.
    pub report: Option<RepoPath>,
    /// Whether it runs the whole test suite; found out when `None`.
    pub runs_tests: Option<bool>,
    /// By which rule it is judged.
    pub policy: CoveragePolicy,
    /// Longest run; that of the tests when `None`.
    pub limit: Option<Millis>,
}

/// A repository as configured.
#[derive(Clone, Debug)]
pub struct RepoSettings {
    /// Our name.
    pub name: RepoName,
    /// Where it is, for people; never with credentials.
    pub location: String,
    /// The branch to land on; asked from the forge when not configured.
    pub main: Option<BranchName>,
    /// Added to the priority of each of its tasks.
    pub priority: i32,
    /// Default agent by name.
    pub agent: String,
    /// Default pipeline by name.
    pub pipeline: String,
    /// Policy for new tasks.
    pub policy: Policy,
    /// Its commands.
    pub commands: Commands,
    /// How its coverage is measured and judged.
    pub coverage: CoverageSettings,
    /// Their limits.
    pub limits: CommandLimits,
    /// Image that is deployed.
    pub image: Option<String>,
    /// What goes into it; everything when empty.
    pub image_inputs: Vec<RepoPath>,
    /// Extra environment for its commands (allow-listed by the operator).
    pub env: BTreeMap<String, String>,
}

/// A repository at run time.
pub struct RepoRuntime {
    /// As configured.
    pub settings: RepoSettings,
    /// Its three bare repositories; jobs are fenced by the task they work for.
    pub git: RepoGit,
    /// The same for the lane: jobs are fenced by the lease.
    pub lane_git: RepoGit,
    /// Starts the lane's jobs, fenced by the lease.
    pub lane_runner: Runner,
    /// Where its `main` lives.
    pub forge: Arc<dyn Forge>,
}

impl RepoRuntime {
    /// The branch that this task lands on: the one that it was begun for, and no other.
    ///
    /// # Errors
    /// When that is another one than the repository's, or not known.
    pub async fn main_for(&self, task: &Task) -> Result<BranchName, String> {
        let now = self.main().await.map_err(|error| error.to_string())?;
        match &task.main {
            Some(own) if *own != now => Err(format!(
                "{} was begun for the branch `{own}`, but {} lands on `{now}` now: set its `main` to `{own}` until it has \
                 landed, or stop it and hand it in anew",
                task.key, self.settings.name
            )),
            _ => Ok(now),
        }
    }

    /// The branch that tasks land on.
    ///
    /// # Errors
    /// When it is not configured and the forge cannot tell.
    pub async fn main(&self) -> Result<BranchName, ForgeError> {
        match &self.settings.main {
            Some(main) => Ok(main.clone()),
            None => self.forge.main_branch().await,
        }
    }
}

/// An agent program as configured.
pub struct AgentSetup {
    /// Its name in the settings.
    pub name: String,
    /// The program.
    pub agent: Arc<dyn Agent>,
    /// Model to ask for.
    pub model: Option<String>,
    /// Allow-listed environment, values resolved at start; secret.
    pub env: BTreeMap<String, String>,
    /// Longest run.
    pub limit: Millis,
    /// Longest silence while no tool runs.
    pub stall: Option<Millis>,
    /// Between TERM and KILL.
    pub grace: Millis,
    /// Whether file-system confinement is left to the program's own sandbox; shown.
    pub unconfined: bool,
    /// Folders it may read besides the system's (tool chains).
    pub read: Vec<PathBuf>,
}

/// Settings of the security gate.
#[derive(Clone, Debug)]
pub struct SecuritySettings {
    /// Which engine looks for secrets.
    pub engine: EngineKind,
    /// The binary, by name (looked for along the `PATH` of jobs) or absolute path.
    pub gitleaks: String,
    /// Its only accepted checksum, hex SHA-256.
    pub gitleaks_sha256: Option<String>,
    /// A rules file that holds instead of the repositories' own.
    pub rules: Option<PathBuf>,
    /// Longest scan.
    pub timeout: Millis,
    /// Bounds of what is looked at.
    pub limits: CollectLimits,
    /// How far archives are opened.
    pub expand: ExpandLimits,
    /// Key of the hashes by which secrets are spoken of.
    pub key: HashKey,
    /// Its part about dependencies.
    pub audit: AuditSettings,
}

/// Settings of the security gate's part about dependencies.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    /// Whether it is asked at all.
    pub enabled: bool,
    /// Whether what is not known keeps a change from main.
    pub fail_closed: bool,
    /// Who is asked.
    pub feed: FeedKind,
    /// How long an answer counts as fresh.
    pub cache_age: Millis,
    /// Longest wait for all answers together.
    pub timeout: Millis,
    /// Environment of a tool that is asked, for a proxy or certificates; may hold a password.
    pub env: BTreeMap<String, String>,
    /// What it has said since the start.
    pub tally: Arc<AuditTally>,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            fail_closed: false,
            feed: FeedKind::Osv { endpoint: "https://api.osv.dev".to_owned() },
            cache_age: Millis::from_mins(6 * 60),
            timeout: Millis::from_mins(1),
            env: BTreeMap::new(),
            tally: Arc::default(),
        }
    }
}

impl Default for SecuritySettings {
    fn default() -> Self {
        Self {
            engine: EngineKind::Auto,
            gitleaks: "gitleaks".to_owned(),
            gitleaks_sha256: None,
            rules: None,
            timeout: Millis::from_mins(10),
            limits: CollectLimits::default(),
            expand: ExpandLimits::default(),
            key: HashKey::new(*b"not a secret"),
            audit: AuditSettings::default(),
        }
    }
}

/// Folders under the data folder.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The data folder.
    pub data: PathBuf,
    /// Agents' workspaces.
    pub workspaces: PathBuf,
    /// Throw-away checkouts of gates and catch-ups.
    pub checkouts: PathBuf,
    /// Job folders: logs, exit records.
    pub jobs: PathBuf,
    /// Copies of artefacts and gate reports, per task.
    pub reports: PathBuf,
    /// What coverage commands measured, by key.
    pub coverage: PathBuf,
}

impl Paths {
    /// The usual layout under a data folder.
    #[must_use]
    pub fn under(data: PathBuf) -> Self {
        Self {
            workspaces: data.join("workspaces"),
            checkouts: data.join("checkouts"),
            jobs: data.join("jobs"),
            reports: data.join("reports"),
            coverage: data.join("coverage"),
            data,
        }
    }

    /// How a report is named in what is kept: from the data folder, which may be moved as a whole.
    #[must_use]
    pub fn kept_name(&self, report: &Path) -> PathBuf {
        report.strip_prefix(&self.data).unwrap_or(report).to_owned()
    }

    /// The report of that name in this data folder. What was kept with a whole path is looked for below our own reports:
    /// the folder may have been moved, and a copy's old place is another supervisor's.
    #[must_use]
    pub fn report(&self, kept: &Path) -> PathBuf {
        if kept.is_relative() {
            return self.data.join(kept);
        }
        if kept.starts_with(&self.reports) {
            return kept.to_owned();
        }
        let parts: Vec<_> = kept.components().collect();
        let below = parts.iter().rposition(|part| Some(part.as_os_str()) == self.reports.file_name());
        match below {
            Some(at) => self.reports.join(parts[at + 1..].iter().collect::<PathBuf>()),
            None => kept.to_owned(),
        }
    }
}

/// Bounds of the whole system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Agent runs at a time.
    pub agents: usize,
    /// Gate runs at a time; one of them is kept for the holder of a lease.
    pub gates: usize,
    /// Longest life of a lease that is not renewed.
    pub lease: Millis,
    /// Between two reconcile passes.
    pub reconcile: Millis,
    /// Restarts of one actor within `restart_window` before it counts as a crash loop.
    pub restarts: u32,
    /// The window of the restart budget.
    pub restart_window: Millis,
    /// Catch-ups of one landing before it is deferred, because `main` keeps moving.
    pub catch_ups: u32,
    /// How often a task that is ready to land may be overtaken by one that came later.
    pub most_overtaken: u32,
    /// How long agents go on without a supervisor.
    pub agent_orphan_grace: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            agents: 2,
            gates: 2,
            lease: Millis::from_mins(2),
            reconcile: Millis::from_secs(15),
            restarts: 5,
            restart_window: Millis::from_mins(5),
            catch_ups: 5,
            most_overtaken: 10,
            agent_orphan_grace: Millis::from_mins(5),
        }
    }
}

/// Bounds of jobs by their kind, all but time.
#[derive(Clone, Debug, Default)]
pub struct KindLimits {
    /// Of agents, captures and gates that have none of their own.
    pub usual: JobLimits,
    /// Of the kinds that have.
    pub own: BTreeMap<JobKind, JobLimits>,
}

impl KindLimits {
    /// Of one kind. Our git commands and what the operator deploys with have none unless they were given some.
    #[must_use]
    pub fn of(&self, kind: JobKind) -> JobLimits {
        match (self.own.get(&kind), kind) {
            (Some(own), _) => own.clone(),
            (None, JobKind::Agent | JobKind::Capture | JobKind::Gate) => self.usual.clone(),
            (None, JobKind::Git | JobKind::Push | JobKind::Deploy | JobKind::DeployAid) => JobLimits::default(),
        }
    }
}

/// Everything shared.
pub struct Context {
    /// The truth.
    pub store: Store,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Starts jobs, recorded.
    pub runner: Runner,
    /// Repositories by name.
    pub repos: BTreeMap<RepoName, Arc<RepoRuntime>>,
    /// Agents by name.
    pub agents: BTreeMap<String, Arc<AgentSetup>>,
    /// Custom and built-in pipelines by name.
    pub pipelines: BTreeMap<String, Pipeline>,
    /// The team's tracker.
    pub tracker: Arc<dyn Tracker>,
    /// Where images are looked at.
    pub images: Arc<dyn Images>,
    /// Tells people.
    pub notifier: Arc<dyn Notifier>,
    /// Folders.
    pub paths: Paths,
    /// Bounds.
    pub limits: Limits,
    /// How long what is over is kept.
    pub retention: Retention,
    /// Whether the disk has space enough to begin something.
    pub disk: Arc<DiskWatch>,
    /// Bounds of every agent's and gate's job besides its time: log, processes, memory.
    pub job_limits: KindLimits,
    /// The security gate.
    pub security: SecuritySettings,
    /// Whether the tracker's STOP status is obeyed; STOP by command line and HTTP always is.
    pub stop_status: bool,
    /// Prompt templates.
    pub prompts: Prompts,
    /// `PATH` of every job.
    pub path: String,
    /// Tool chains outside the system's folders that every confined job may read.
    pub tools_read: Vec<PathBuf>,
    /// What tells those tools where they are.
    pub tools_env: BTreeMap<String, String>,
    /// Prefix of minted keys, such as `ORC`.
    pub key_prefix: String,
    /// Version of this program, for people.
    pub version: String,
    /// The settings that bind tasks, part by part and by digest; `None`: they bind none.
    pub settings: Option<String>,
}

impl Context {
    /// Now, by the clock.
    #[must_use]
    pub fn now(&self) -> orch_domain::time::Timestamp {
        self.clock.now()
    }

    /// The environment of a job with these private folders; nothing is inherited.
    #[must_use]
    pub fn job_env(&self, private: &PrivateDirs) -> BTreeMap<String, String> {
        let mut env = base_env_with_path(private, &self.path);
        env.extend(self.tools_env.clone());
        env
    }

    /// The repository of that name.
    #[must_use]
    pub fn repo(&self, name: &RepoName) -> Option<&Arc<RepoRuntime>> {
        self.repos.get(name)
    }
}
