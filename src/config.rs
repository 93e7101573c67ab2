//! Settings, typed: defaults < `orch.yaml` < `ORCH_*` environment.
//!
//! Owns the shape of `orch.yaml`, every default and the translation into domain policy. Refuses unknown keys, wrong types
//! and impossible combinations with the place, the value and the way out. Invariants of a loaded [`Config`]: all paths
//! are absolute, every agent and pipeline that is named exists, no secret is held (secrets come from the environment and
//! from files of mode 0600 alone).

mod check;
mod coverage;
mod doubts;
mod embedded;
mod gates;
mod jobs;
mod keys;
mod load;
mod merge;
mod problem;
mod refs;
mod render;
mod traces;
mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use orch_domain::agent::AgentKind;
use orch_domain::names::{BranchName, RepoName, RepoPath};
use orch_domain::pipeline::Pipeline;
use orch_domain::policy::{Backoff, Budget, DeployMode, LandMode, OnCancelledDependency, Policy};
use orch_domain::time::Millis;
use serde::{Deserialize, Serialize};

pub use coverage::CoverageGate;
pub use embedded::EmbeddedRepo;
pub use gates::{AuditProvider, GateScope, Gates, SecretEngine, SecurityGate};
pub use jobs::{ContainmentConfig, KindConfig};
pub use keys::{KEYS, Key, Kind, OUTER, Outer};
pub use merge::MergeGate;
pub use problem::ConfigError;
pub use render::{InitFacts, env_text, reference_text};
pub use traces::{LogFormat, Retention, Telemetry};
pub use units::{money_text, parse_duration, parse_size};

/// Everything that can be set. `Config::default()` holds the defaults as documented; [`Config::load`] makes it complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of everything that must survive: store, mirrors, logs, token. Empty: the user's state folder, `orch/`.
    pub data_dir: PathBuf,
    /// Name of the agent that works where nobody names another.
    pub default_agent: String,
    /// The HTTP interface and the board.
    pub http: Http,
    /// Numbers that bound what is done at once and how often it is tried.
    pub limits: Limits,
    /// Agents by name; `claude`, `codex` and `opencode` exist without being written here.
    #[serde(deserialize_with = "units::or_empty")]
    pub agents: BTreeMap<String, AgentConfig>,
    /// Repositories by our name.
    #[serde(deserialize_with = "units::or_empty")]
    pub repos: BTreeMap<RepoName, RepoConfig>,
    /// Pipelines by name; `full` and `lite` are built in.
    #[serde(deserialize_with = "units::or_empty")]
    pub pipelines: BTreeMap<String, PipelineSource>,
    /// Bounds of one kind of job: agent, capture, gate, deploy.
    #[serde(deserialize_with = "units::or_empty")]
    pub job_limits: BTreeMap<String, KindConfig>,
    /// How jobs are held and walled in.
    pub containment: ContainmentConfig,
    /// The STOP status of the tracker.
    pub stop: Stop,
    /// Scope of each gate.
    pub gates: Gates,
    /// How long what is over is kept.
    pub retention: Retention,
    /// Logs.
    pub telemetry: Telemetry,
    /// Whether tasks are bound to the settings that they are handed in with: those of one `orch run`.
    #[serde(skip)]
    pub binds_tasks: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::new(),
            default_agent: "claude".to_owned(),
            http: Http::default(),
            limits: Limits::default(),
            agents: BTreeMap::new(),
            repos: BTreeMap::new(),
            pipelines: BTreeMap::new(),
            job_limits: BTreeMap::new(),
            containment: ContainmentConfig::default(),
            stop: Stop::default(),
            gates: Gates::default(),
            retention: Retention::default(),
            telemetry: Telemetry::default(),
            binds_tasks: false,
        }
    }
}

/// The HTTP interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address and port to listen on; port 0 takes any free one.
    #[serde(with = "units::socket")]
    pub bind: SocketAddr,
    /// Host names answered to, besides loopback and the bound address; `*` answers to all.
    #[serde(deserialize_with = "units::or_empty")]
    pub allowed_hosts: Vec<String>,
    /// File that holds the token, mode 0600. Empty: `token` in the data folder.
    pub token_file: PathBuf,
}

impl Default for Http {
    fn default() -> Self {
        Self { bind: SocketAddr::from(([127, 0, 0, 1], 7717)), allowed_hosts: Vec::new(), token_file: PathBuf::new() }
    }
}

/// Bounds. Durations carry units (`90s`, `10m`, `2h`), sizes too (`64MiB`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Agent runs at a time.
    pub max_concurrency: usize,
    /// Gate, check and test runs at a time.
    pub gate_slots: usize,
    /// Times that a failed check, test, gate or review may send a task back.
    pub max_developer_retries: u32,
    /// Times that a conflict with what `main` brought may send a task back.
    pub max_conflicts: u32,
    /// Interrupted runs that are resumed.
    pub max_interrupted: u32,
    /// Repetitions when something of ours could not run.
    pub infrastructure_retries: u32,
    /// Delay before the first of them; doubled each time.
    #[serde(with = "units::duration")]
    pub infrastructure_delay: Millis,
    /// Longest delay between them.
    #[serde(with = "units::duration")]
    pub infrastructure_delay_max: Millis,
    /// Repetitions when something was busy; they cost no attempt.
    pub deferrals: u32,
    /// Delay before the first of them; doubled each time.
    #[serde(with = "units::duration")]
    pub deferral_delay: Millis,
    /// Longest delay between them.
    #[serde(with = "units::duration")]
    pub deferral_delay_max: Millis,
    /// How often a task that is ready to land may be overtaken by one that came later.
    pub max_overtaken: u32,
    /// Tokens that one task may use, as its agents report them.
    pub task_tokens: Option<u64>,
    /// US dollars that one task may use, as its agents report them.
    #[serde(with = "units::money")]
    pub task_cost_usd: Option<u64>,
    /// Wall time of one task's agent runs together.
    #[serde(with = "units::maybe_duration")]
    pub task_agent_time: Option<Millis>,
    /// Longest agent run.
    #[serde(with = "units::duration")]
    pub agent_time: Millis,
    /// Longest silence of an agent; a running tool call extends it.
    #[serde(with = "units::duration")]
    pub agent_stall: Millis,
    /// How long agents work on without their supervisor, for the next start to go on with their runs.
    #[serde(with = "units::duration")]
    pub agent_orphan_grace: Millis,
    /// Longest run of a repository's setup and check commands.
    #[serde(with = "units::duration")]
    pub check_time: Millis,
    /// Longest run of a repository's test and coverage commands.
    #[serde(with = "units::duration")]
    pub test_time: Millis,
    /// Longest run of a repository's staging, deploy and rollback commands.
    #[serde(with = "units::duration")]
    pub deploy_time: Millis,
    /// How long a deploy may take to become healthy.
    #[serde(with = "units::duration")]
    pub health_time: Millis,
    /// Longest git command on the network.
    #[serde(with = "units::duration")]
    pub git_time: Millis,
    /// Between TERM and KILL.
    #[serde(with = "units::duration")]
    pub stop_grace: Millis,
    /// How long SIGTERM lets running work end before it is interrupted.
    #[serde(with = "units::duration")]
    pub drain_deadline: Millis,
    /// Kept of each log of a job; the rest is cut and marked.
    #[serde(with = "units::size")]
    pub log_size: u64,
    /// Most resident memory of one job with all its processes.
    #[serde(with = "units::maybe_size")]
    pub job_memory: Option<u64>,
    /// Most processes of one job.
    pub job_processes: Option<u32>,
    /// Most processors of one job at a time, in thousandths.
    #[serde(with = "units::processors")]
    pub job_cpus: Option<u32>,
    /// Most processor time of one job.
    #[serde(with = "units::maybe_duration")]
    pub job_cpu_time: Option<Millis>,
    /// Most open files of each of its processes.
    pub job_open_files: Option<u64>,
    /// Most disk in the folders that it may write.
    #[serde(with = "units::maybe_size")]
    pub job_disk: Option<u64>,
    /// Longest silence of a repository's commands.
    #[serde(with = "units::maybe_duration")]
    pub command_stall: Option<Millis>,
    /// Most bytes that leave a workspace in one capture.
    #[serde(with = "units::size")]
    pub capture_size: u64,
    /// Least free space on the data folder's disk; below it no new work is taken.
    #[serde(with = "units::size")]
    pub min_free_disk: u64,
    /// How long jobs stand still on a full disk before the one that takes most is ended.
    #[serde(with = "units::duration")]
    pub shed_after: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            max_concurrency: 2,
            gate_slots: 2,
            max_developer_retries: policy.max_developer_retries,
            max_conflicts: policy.max_conflicts,
            max_interrupted: policy.max_interrupted,
            infrastructure_retries: policy.infrastructure.tries,
            infrastructure_delay: policy.infrastructure.first,
            infrastructure_delay_max: policy.infrastructure.most,
            deferrals: policy.deferral.tries,
            deferral_delay: policy.deferral.first,
            deferral_delay_max: policy.deferral.most,
            max_overtaken: 10,
            task_tokens: None,
            task_cost_usd: None,
            task_agent_time: None,
            agent_time: Millis::from_mins(120),
            agent_stall: Millis::from_mins(15),
            agent_orphan_grace: Millis::from_mins(5),
            check_time: Millis::from_mins(20),
            test_time: Millis::from_mins(60),
            deploy_time: Millis::from_mins(30),
            health_time: Millis::from_mins(2),
            git_time: Millis::from_mins(10),
            stop_grace: Millis::from_secs(10),
            drain_deadline: Millis::from_secs(90),
            log_size: 64 << 20,
            job_memory: None,
            job_processes: Some(2_048),
            job_cpus: None,
            job_cpu_time: None,
            job_open_files: None,
            job_disk: Some(64 << 30),
            command_stall: None,
            capture_size: 512 << 20,
            min_free_disk: 512 << 20,
            shed_after: Millis::from_mins(5),
        }
    }
}

/// One agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Which program; may be left out where the agent's name says it.
    pub kind: Option<AgentKind>,
    /// Program name or absolute path; the kind's own when absent.
    pub program: Option<String>,
    /// `command` only: a shell line (prompt on standard input), or program and arguments with `{prompt}`,
    /// `{prompt_file}`, `{workspace}`.
    pub command: Option<CommandLine>,
    /// `scripted` only: the script's file.
    pub script: Option<PathBuf>,
    /// Model to ask for; the program's own when absent.
    pub model: Option<String>,
    /// Base URL of the model's API; never with credentials.
    pub endpoint: Option<String>,
    /// Name of the environment variable that holds the API key; passed on to the agent alone.
    pub key_env: Option<String>,
    /// Names of further environment variables passed on.
    #[serde(deserialize_with = "units::or_empty")]
    pub env: Vec<String>,
    /// Arguments put before our own last ones. No secrets: arguments are public.
    #[serde(deserialize_with = "units::or_empty")]
    pub extra_args: Vec<String>,
    /// Whether file-system confinement is left to the program's own sandbox; shown wherever its jobs are.
    pub unconfined: bool,
    /// Folders that it may read besides the system's (tool chains).
    #[serde(deserialize_with = "units::or_empty")]
    pub read: Vec<PathBuf>,
    /// Longest run; `limits.agent_time` when absent.
    #[serde(with = "units::maybe_duration")]
    pub time_limit: Option<Millis>,
    /// Longest silence; `limits.agent_stall` when absent.
    #[serde(with = "units::maybe_duration")]
    pub stall_limit: Option<Millis>,
    /// US dollars for a million tokens, by model; `*` is any other. Used where the program reports no money.
    #[serde(deserialize_with = "units::or_empty")]
    pub rates: BTreeMap<String, RateConfig>,
}

impl AgentConfig {
    /// The kind; settled when the settings were loaded.
    #[must_use]
    pub fn kind(&self) -> AgentKind {
        self.kind.unwrap_or(AgentKind::Command)
    }

    /// Names of all environment variables that this agent is given.
    pub fn env_names(&self) -> impl Iterator<Item = &str> {
        self.key_env.iter().chain(&self.env).map(String::as_str)
    }
}

/// What a `command` agent runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a shell line, or a list of program and arguments")]
pub enum CommandLine {
    /// A line for `sh -c`.
    Shell(String),
    /// Program and arguments.
    Argv(Vec<String>),
}

/// Prices of one model, in millionths of a US dollar for a million tokens; written as dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateConfig {
    /// For tokens read.
    #[serde(with = "units::money")]
    pub input: Option<u64>,
    /// For tokens read from a cache.
    #[serde(with = "units::money")]
    pub cached: Option<u64>,
    /// For tokens written.
    #[serde(with = "units::money")]
    pub output: Option<u64>,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepoConfig {
    /// A repository on this machine, bare or not. Either this or `url`.
    pub path: Option<PathBuf>,
    /// A repository elsewhere, by any address that git knows but helper programs; never with credentials.
    pub url: Option<String>,
    /// As whom an HTTP server is asked.
    pub username: Option<String>,
    /// File with the password or token for that, and nothing else.
    pub password_file: Option<PathBuf>,
    /// The branch that tasks land on; asked of the repository when absent.
    pub main: Option<BranchName>,
    /// Agent by name; `default_agent` when absent.
    pub agent: Option<String>,
    /// Pipeline by name.
    pub pipeline: String,
    /// The repository's commands.
    pub commands: Commands,
    /// Work without any test command; the proof of each landing says so.
    pub no_tests: bool,
    /// How a change reaches `main`.
    pub land: LandMode,
    /// How a landed change is deployed.
    pub deploy_mode: DeployMode,
    /// One task at a time past the first stage.
    pub serial: bool,
    /// What a cancelled dependency means.
    pub on_cancelled_dependency: OnCancelledDependency,
    /// Folder for the agents' notes.
    pub artefact_dir: RepoPath,
    /// Whether those notes land with the change.
    pub keep_artefacts: bool,
    /// Marks the supervisor's own repository: gates without a scope apply to it.
    pub self_hosting: bool,
    /// Priority of its tasks where they name none; higher goes first.
    pub priority: i32,
    /// Longest run of its test and coverage commands; `limits.test_time` when absent.
    #[serde(with = "units::maybe_duration")]
    pub test_timeout: Option<Millis>,
    /// Longest run of its setup and check commands; `limits.check_time` when absent.
    #[serde(with = "units::maybe_duration")]
    pub check_timeout: Option<Millis>,
    /// Longest run of its staging, deploy and rollback commands; `limits.deploy_time` when absent.
    #[serde(with = "units::maybe_duration")]
    pub deploy_timeout: Option<Millis>,
    /// How long a deploy may take to become healthy; `limits.health_time` when absent.
    #[serde(with = "units::maybe_duration")]
    pub health_timeout: Option<Millis>,
    /// Image that is deployed, for the image-freshness gate.
    pub image: Option<String>,
    /// What goes into that image; everything when empty.
    #[serde(deserialize_with = "units::or_empty")]
    pub image_inputs: Vec<RepoPath>,
}

impl Default for RepoConfig {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            path: None,
            url: None,
            username: None,
            password_file: None,
            main: None,
            agent: None,
            pipeline: "full".to_owned(),
            commands: Commands::default(),
            no_tests: policy.no_tests,
            land: policy.land,
            deploy_mode: policy.deploy,
            serial: policy.serial,
            on_cancelled_dependency: policy.on_cancelled_dependency,
            artefact_dir: policy.artefact_dir,
            keep_artefacts: policy.keep_artefacts,
            self_hosting: false,
            priority: 0,
            test_timeout: None,
            check_timeout: None,
            deploy_timeout: None,
            health_timeout: None,
            image: None,
            image_inputs: Vec::new(),
        }
    }
}

/// Shell lines of one repository; those left out are detected (test) or skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Commands {
    /// Prepares a fresh checkout.
    pub setup: Option<String>,
    /// Quick check after development.
    pub check: Option<String>,
    /// The test suite; detected when absent.
    pub test: Option<String>,
    /// Where the test command leaves JUnit XML, relative to the checkout.
    pub junit: Option<String>,
    /// The test suite with a coverage report, or the name of a preset; detected when absent.
    pub coverage: Option<String>,
    /// Where that command leaves its report, relative to the checkout.
    pub coverage_report: Option<String>,
    /// Whether that command runs the whole test suite; found out when absent.
    pub coverage_runs_tests: Option<bool>,
    /// Deploys a task's head to a staging place.
    pub staging: Option<String>,
    /// Builds the image that will be deployed, from what is about to land.
    pub build_image: Option<String>,
    /// Deploys what has landed.
    pub deploy: Option<String>,
    /// Tells by its exit code whether the deploy is healthy.
    pub health: Option<String>,
    /// Takes a failed deploy back.
    pub rollback: Option<String>,
    /// Tells whether a deploy took effect when its outcome is unknown.
    pub deploy_status: Option<String>,
}

/// Where a custom pipeline comes from: `{file: PATH}`, or its stages written in place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`{file: PATH}` or `{stages: [...]}`")]
pub enum PipelineSource {
    /// A file of its own.
    File(PipelineFile),
    /// Stages in place.
    Inline(PipelineInline),
}

/// A pipeline's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineFile {
    /// Its path.
    pub file: PathBuf,
}

/// A pipeline's stages, in the form of a pipeline file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineInline {
    /// The stages as written; read by the domain's own parser.
    pub stages: serde_yaml::Value,
}

/// The tracker's STOP status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// Whether the tracker's STOP status is obeyed; STOP by command line and HTTP always is.
    pub status_enabled: bool,
}

impl Default for Stop {
    fn default() -> Self {
        Self { status_enabled: true }
    }
}

impl Config {
    /// The policy that tasks of a repository are held to. An unknown repository gets the defaults of one.
    #[must_use]
    pub fn policy(&self, name: &RepoName) -> Policy {
        let fallback = RepoConfig::default();
        let repo = self.repos.get(name).unwrap_or(&fallback);
        let limits = &self.limits;
        Policy {
            max_developer_retries: limits.max_developer_retries,
            max_conflicts: limits.max_conflicts,
            max_interrupted: limits.max_interrupted,
            infrastructure: Backoff {
                first: limits.infrastructure_delay,
                most: limits.infrastructure_delay_max,
                tries: limits.infrastructure_retries,
            },
            deferral: Backoff {
                first: limits.deferral_delay,
                most: limits.deferral_delay_max,
                tries: limits.deferrals,
            },
            lane: Backoff {
                first: self.gates.merge.defer_delay,
                most: limits.deferral_delay_max.max(self.gates.merge.defer_delay),
                tries: self.gates.merge.defer_max,
            },
            land: repo.land,
            deploy: repo.deploy_mode,
            serial: repo.serial,
            on_cancelled_dependency: repo.on_cancelled_dependency,
            artefact_dir: repo.artefact_dir.clone(),
            keep_artefacts: repo.keep_artefacts,
            no_tests: repo.no_tests,
            gates: self.gates.plan(name, repo.self_hosting),
            budget: Budget {
                tokens: limits.task_tokens,
                cost_micro_usd: limits.task_cost_usd,
                wall: limits.task_agent_time,
            },
        }
    }

    /// The pipeline of that name: built in, or read from its source again.
    ///
    /// # Errors
    /// [`ConfigError`] naming the pipeline and what is wrong with it.
    pub fn pipeline(&self, name: &str) -> Result<Pipeline, ConfigError> {
        check::pipeline(self, name)
    }

    /// Names of all pipelines, built-in ones first.
    #[must_use]
    pub fn pipeline_names(&self) -> Vec<String> {
        let built_in = ["full", "lite"].map(str::to_owned);
        built_in.into_iter().chain(self.pipelines.keys().cloned()).collect()
    }

    /// Where the token is kept.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        match self.http.token_file.as_os_str().is_empty() {
            true => self.data_dir.join("token"),
            false => self.http.token_file.clone(),
        }
    }

    /// Where a running supervisor writes the address it listens on.
    #[must_use]
    pub fn addr_file(&self) -> PathBuf {
        self.data_dir.join("http.addr")
    }
}

#[cfg(test)]
mod tests;
