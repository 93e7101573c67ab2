//! Composition root: a configuration goes in, a running system comes out. Used by every verb that starts one, and by tests.
//!
//! Owns the wiring of store, ports and actors, and nothing else. Refuses a configuration that cannot work here with one
//! line that names the value and the way out, before anything is begun.

mod demo;
mod gate;
mod look;
mod mains;
mod security;
mod starter;
mod tools;

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch_actors::api::Control;
use orch_actors::context::{
    AgentSetup, CommandLimits, Commands, Context, CoverageSettings, Limits, Paths, RepoRuntime, RepoSettings,
};
use orch_actors::disk::DiskWatch;
use orch_actors::handle::Handle;
use orch_actors::ledger::StoreLedger;
use orch_actors::local_tracker::LocalTracker;
use orch_actors::system::System;
use orch_actors::upkeep::Retention;
use orch_adapters::agents::{self, AgentSettings, Prompts, Rates};
use orch_adapters::disk::{FreeSpace, SystemDisk};
use orch_adapters::forge::{BorrowedForge, ForgeSetupError, LocalForge, RemoteForge, credential_env, look_at};
use orch_adapters::git::{GitError, GitRooms, GitSettings, RepoGit};
use orch_adapters::images::DockerCli;
use orch_adapters::jobs::{LocalPlacement, LocalPlacementConfig, Means, Runner, UnrecordedLedger, become_subreaper};
use orch_adapters::notify::LogNotifier;
use orch_adapters::ports::{Clock, Forge, JobLedger, Placement, Remote, SystemClock};
use orch_domain::agent::AgentKind;
use orch_domain::job::full_below;
use orch_domain::names::{BranchName, RepoName};
use orch_domain::stop::Level;
use orch_domain::time::{Millis, Timestamp};
use orch_store::{OpenError, Store, StoreConfig};
use sha2::{Digest as _, Sha256};

pub use starter::Starter;

use crate::config::{AgentConfig, CommandLine, Config, ConfigError, RepoConfig};

/// Free bytes without which a start that failed is taken to have failed for that: 1 MiB.
const LEAST_TO_START: u64 = 1 << 20;

/// Why the system could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another supervisor owns the data folder: hand the work over to it, or choose another folder.
    #[error("{0}")]
    Owned(OpenError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(OpenError),
    /// The settings do not fit this machine; the text names the value and the way out.
    #[error("{0}")]
    Settings(String),
    /// Ours: an actor could not be started.
    #[error("the supervisor could not be started: {0}")]
    Actors(String),
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Settings(error.to_string())
    }
}

/// A running system.
pub struct Running {
    system: System,
}

impl Running {
    /// The front desk, as http and cli see it.
    #[must_use]
    pub fn control(&self) -> Arc<dyn Control> {
        self.system.handle()
    }

    /// The front desk with its test and wiring access.
    #[must_use]
    pub fn handle(&self) -> Arc<Handle> {
        self.system.handle()
    }

    /// Stops: no new work, tasks may go on until the deadline, windows are waited for. Reads are still answered. May be
    /// called again with a firmer level, also while an earlier call waits.
    pub async fn stop(&self, level: Level, deadline: Duration) {
        self.system.stop(level, deadline).await;
    }

    /// Stops as for an upgrade: agents at work are left to the next start, everything else ends as with `Drain`.
    pub async fn hand_over(&self, deadline: Duration) {
        self.system.hand_over(deadline).await;
    }

    /// Closes the store: the last thing that is done.
    pub fn close(&self) {
        self.system.close();
    }

    /// Stops and closes.
    pub async fn shutdown(self, level: Level, deadline: Duration) {
        self.stop(level, deadline).await;
        self.close();
    }
}

/// The program that jobs are guarded by, and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The program: this very executable, unless a test brings its own.
    pub program: PathBuf,
    /// Arguments before the shim's own.
    pub args: Vec<String>,
}

impl Default for Guard {
    fn default() -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), args: vec!["shim".to_owned()] }
    }
}

/// Starts the system.
///
/// # Errors
/// See [`StartError`]; nothing runs then.
pub async fn start(config: &Config, env: &BTreeMap<String, String>, guard: Guard) -> Result<Running, StartError> {
    start_on(config, env, guard, Arc::new(SystemDisk)).await
}

/// The same as [`start`] on a disk that says for itself how much space it has.
///
/// # Errors
/// As [`start`].
pub async fn start_on(
    config: &Config,
    env: &BTreeMap<String, String>,
    guard: Guard,
    disk: Arc<dyn FreeSpace>,
) -> Result<Running, StartError> {
    prepare(config, env, guard, disk).await?.begin().await
}

/// What cannot be started on a full disk says so: what failed first may be anything.
fn on_a_full_disk(error: StartError, config: &Config, disk: &dyn FreeSpace) -> StartError {
    let dir = &config.data_dir;
    let mark = full_below(config.limits.min_free_disk).max(LEAST_TO_START);
    match (&error, disk.free(dir)) {
        (StartError::Owned(_), _) => error,
        (_, Ok(free)) if free < mark => StartError::Settings(format!(
            "{error}; only {} KiB are free on the disk of {}: free space there and start again",
            free >> 10,
            dir.display()
        )),
        _ => error,
    }
}

/// Everything that a system needs, with the data folder owned and nothing begun. Dropping it gives the folder back.
pub struct Prepared {
    ctx: Context,
}

/// Opens store and repositories of a system that begins later, once whatever else it needs was had too.
///
/// # Errors
/// As [`start`].
pub async fn prepare(
    config: &Config,
    env: &BTreeMap<String, String>,
    guard: Guard,
    disk: Arc<dyn FreeSpace>,
) -> Result<Prepared, StartError> {
    let ctx = context(config, env, guard, Arc::clone(&disk), Purpose::Supervise).await;
    Ok(Prepared { ctx: ctx.map_err(|error| on_a_full_disk(error, config, disk.as_ref()))? })
}

impl Prepared {
    /// Begins: takes over what the data folder holds, tasks and agents at work included.
    ///
    /// # Errors
    /// [`StartError::Actors`]; nothing runs then.
    pub async fn begin(self) -> Result<Running, StartError> {
        // Of supervisors that were killed; a look at one folder, which need not wait for the first round of upkeep.
        let placement = self.ctx.runner.placement.clone();
        if let Ok(gone @ 1..) = tokio::task::spawn_blocking(move || placement.clear_stale_folders()).await {
            tracing::info!(gone, "runtime folders of killed supervisors were taken away");
        }
        let system = System::start(Arc::new(self.ctx)).await.map_err(|e| StartError::Actors(e.to_string()))?;
        Ok(Running { system })
    }
}

/// What a context is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A supervisor: jobs are recorded, and fenced by their task's row.
    Supervise,
    /// One gate, asked by hand: nothing is remembered, and the repository is only looked at.
    Look,
}

/// Everything that actors and gates are handed.
async fn context(
    config: &Config,
    env: &BTreeMap<String, String>,
    guard: Guard,
    disk: Arc<dyn FreeSpace>,
    purpose: Purpose,
) -> Result<Context, StartError> {
    context_over(config, env, guard, disk, purpose, None).await
}

/// The same over a store that is open already, or over the one in the data folder.
async fn context_over(
    config: &Config,
    env: &BTreeMap<String, String>,
    guard: Guard,
    disk: Arc<dyn FreeSpace>,
    purpose: Purpose,
    store: Option<Store>,
) -> Result<Context, StartError> {
    // What a look tells is told before anything is made.
    if purpose == Purpose::Supervise {
        not_a_runs_folder(config)?;
    }
    for (name, repo) in config.repos.iter().filter(|_| purpose == Purpose::Supervise) {
        if let Some(path) = &repo.path {
            look_at(path).map_err(|error| StartError::Settings(format!("repository `{name}`: {error}")))?;
        }
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let paths = folders(config)?;
    let store = match store {
        Some(store) => store,
        None => open_store(config, purpose, clock.now())?,
    };
    // What outlives a killed shim then falls to us, where it can be found; without it, such leftovers are unproven.
    if let Err(error) = become_subreaper() {
        tracing::warn!(%error, "this process cannot become a subreaper");
    }
    if matches!(purpose, Purpose::Supervise) {
        config.remarks().iter().for_each(|remark| tracing::warn!("{remark}"));
    }
    let placement = placement(config, &paths, guard.clone())?;
    let ledger: Arc<dyn JobLedger> = match purpose {
        Purpose::Supervise => Arc::new(StoreLedger::new(store.clone(), clock.clone())),
        Purpose::Look => Arc::new(UnrecordedLedger),
    };
    let runner = Runner::new(placement.clone(), ledger);
    let tools = tools::find(env);
    let path = env.get("PATH").cloned().unwrap_or_else(|| GitSettings::default().path);
    let rooms = GitRooms::new(config.data_dir.join("repos"), Arc::new(runner.clone()), git_settings(config, &path));
    let mut repos = BTreeMap::new();
    for (name, repo) in &config.repos {
        let lane_ledger: Arc<dyn JobLedger> = match purpose {
            Purpose::Supervise => Arc::new(StoreLedger::of_lane(store.clone(), clock.clone(), name.clone())),
            Purpose::Look => Arc::new(UnrecordedLedger),
        };
        let lane_runner = Runner::new(placement.clone(), lane_ledger);
        let runtime = repository(config, name, repo, &rooms, lane_runner, &path, purpose).await?;
        repos.insert(name.clone(), Arc::new(runtime));
    }
    let mut pipelines = BTreeMap::new();
    for name in config.pipeline_names() {
        pipelines.insert(name.clone(), config.pipeline(&name)?);
    }
    // By its path: the scripted agent is started inside a job, where `/proc/self` is somebody else.
    let own_program = match guard == Guard::default() {
        true => std::env::current_exe().unwrap_or_else(|_| guard.program.clone()),
        false => guard.program.clone(),
    };
    let images = DockerCli {
        runner: runner.clone(),
        path: path.clone(),
        env: DockerCli::VARIABLES.iter().filter_map(|n| Some(((*n).to_owned(), env.get(*n)?.clone()))).collect(),
        cwd: config.data_dir.clone(),
    };
    Ok(Context {
        tracker: Arc::new(LocalTracker::new(store.clone(), clock.clone())),
        store,
        clock,
        runner,
        repos,
        agents: agent_setups(config, env, &own_program)?,
        pipelines,
        images: Arc::new(images),
        notifier: Arc::new(LogNotifier),
        prompts: Prompts::new(&BTreeMap::new()).map_err(|e| StartError::Settings(e.to_string()))?,
        paths,
        limits: limits(config),
        retention: Retention {
            logs: config.retention.logs,
            salvage: config.retention.salvage,
            salvage_bytes: config.retention.salvage_size,
            journal: config.retention.journal,
        },
        disk: Arc::new(
            DiskWatch::new(disk, config.data_dir.clone(), config.limits.min_free_disk)
                .shedding_after(config.limits.shed_after.into()),
        ),
        job_limits: config.job_limits(),
        security: security::settings(config, env)?,
        stop_status: config.stop.status_enabled,
        path,
        tools_read: tools.read,
        tools_env: tools.env,
        key_prefix: "ORC".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings: config.binding().filter(|_| purpose == Purpose::Supervise),
    })
}

/// Kept for the day the disk is full by the folder of one repository, of which there may be many: a few tasks' last words.
const RUNS_BALLAST: u64 = 4 << 20;

fn open_store(config: &Config, purpose: Purpose, now: Timestamp) -> Result<Store, StartError> {
    let mut settings = StoreConfig::new(&config.data_dir, now);
    match purpose {
        Purpose::Look => settings.ballast_bytes = 0,
        Purpose::Supervise if config.binds_tasks => settings.ballast_bytes = RUNS_BALLAST,
        Purpose::Supervise => {}
    }
    Store::open(&settings).map_err(|error| match error {
        OpenError::InUse { .. } => StartError::Owned(error),
        other => StartError::Store(other),
    })
}

/// Tasks of `orch run` keep the settings that they were handed in with; a supervisor would work on them with its own.
fn not_a_runs_folder(config: &Config) -> Result<(), StartError> {
    let dir = &config.data_dir;
    if config.binds_tasks {
        return Ok(());
    }
    let of_run = mains::known(dir).into_iter().filter_map(|name| mains::place(dir, &name));
    match of_run.into_iter().find(|place| dir.file_name() == Some(Config::run_folder(place).as_ref())) {
        None => Ok(()),
        Some(place) => Err(StartError::Settings(format!(
            "{} is the folder of `orch run` on {}: its tasks go on with the settings of their own commands only; name \
             another data folder with --data or ORCH_DATA_DIR",
            dir.display(),
            place.display()
        ))),
    }
}

fn folders(config: &Config) -> Result<Paths, StartError> {
    let dir = &config.data_dir;
    let paths = Paths::under(dir.clone());
    for folder in [dir, &paths.workspaces, &paths.checkouts, &paths.jobs, &paths.reports] {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
            // What is there already is what was named, or lies above it: the rest would have been made by us.
            let there = folder.ancestors().find(|at| at.symlink_metadata().is_ok()).unwrap_or(folder);
            StartError::Settings(format!(
                "the data folder {} cannot be used: {}: {error}; choose another with --data or ORCH_DATA_DIR",
                dir.display(),
                there.display()
            ))
        })?;
    }
    Ok(paths)
}

/// The folder for the sockets of a data folder's jobs, in a short place: their paths may have a hundred bytes only.
#[must_use]
pub fn runtime_dir(data_dir: &Path) -> PathBuf {
    let digest = hex::encode(&Sha256::digest(data_dir.as_os_str().as_encoded_bytes())[..6]);
    let base =
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| d.is_dir() && d.as_os_str().len() < 60);
    match base {
        Some(base) => base.join(format!("orch-{digest}")),
        None => std::env::temp_dir().join(format!("orch-{}-{digest}", nix::unistd::geteuid())),
    }
}

fn placement(config: &Config, paths: &Paths, guard: Guard) -> Result<Arc<dyn Placement>, StartError> {
    let settings = LocalPlacementConfig {
        shim_program: guard.program,
        shim_args: guard.args,
        jobs_dir: paths.jobs.clone(),
        runtime_dir: runtime_dir(&config.data_dir),
        means: means(config),
    };
    let placement = LocalPlacement::new(settings).map_err(|e| StartError::Settings(e.to_string()))?;
    Ok(Arc::new(placement))
}

/// Which of the host's means the settings let us use.
pub(crate) fn means(config: &Config) -> Means {
    let (namespaces, groups) = (config.containment.namespaces, config.containment.cgroups);
    Means { namespaces, groups, users: config.containment.uids }
}

fn git_settings(config: &Config, path: &str) -> GitSettings {
    GitSettings {
        path: path.to_owned(),
        deadline: config.limits.git_time,
        bundle_cap_bytes: config.limits.capture_size,
        ..GitSettings::default()
    }
}

async fn repository(
    config: &Config,
    name: &RepoName,
    repo: &RepoConfig,
    rooms: &GitRooms,
    lane_runner: Runner,
    path: &str,
    purpose: Purpose,
) -> Result<RepoRuntime, StartError> {
    let refuse = |text: String| StartError::Settings(format!("repository `{name}`: {text}"));
    let lane_rooms =
        GitRooms::new(config.data_dir.join("repos"), Arc::new(lane_runner.clone()), git_settings(config, path));
    let place = forge(config, repo, &lane_rooms, name, purpose).await.map_err(|e| refuse(e.to_string()))?;
    let Place { forge, git: lane_git, location, main } = place;
    let git = rooms.open(name, forge.remote()).await.map_err(|e| refuse(e.to_string()))?;
    let commands = Commands {
        setup: repo.commands.setup.clone(),
        check: repo.commands.check.clone(),
        test: repo.commands.test.clone(),
        junit: repo.commands.junit.clone(),
        staging: repo.commands.staging.clone(),
        build_image: repo.commands.build_image.clone(),
        deploy: repo.commands.deploy.clone(),
        health: repo.commands.health.clone(),
        rollback: repo.commands.rollback.clone(),
        deploy_status: repo.commands.deploy_status.clone(),
    };
    let settings = RepoSettings {
        name: name.clone(),
        location,
        main,
        priority: repo.priority,
        agent: repo.agent.clone().unwrap_or_else(|| config.default_agent.clone()),
        pipeline: repo.pipeline.clone(),
        policy: config.policy(name),
        commands,
        coverage: CoverageSettings {
            command: repo.commands.coverage.clone(),
            report: repo.commands.coverage_report.as_ref().and_then(|path| path.parse().ok()),
            runs_tests: repo.commands.coverage_runs_tests,
            policy: config.gates.coverage.policy(),
            limit: config.gates.coverage.timeout,
        },
        limits: CommandLimits {
            check: repo.check_timeout.unwrap_or(config.limits.check_time),
            test: repo.test_timeout.unwrap_or(config.limits.test_time),
            retest: config.gates.merge.retest_timeout,
            deploy: repo.deploy_timeout.unwrap_or(config.limits.deploy_time),
            health: repo.health_timeout.unwrap_or(config.limits.health_time),
            grace: config.limits.stop_grace,
        },
        image: repo.image.clone(),
        image_inputs: repo.image_inputs.clone(),
        env: BTreeMap::new(),
    };
    Ok(RepoRuntime { settings, lane_git, git, lane_runner, forge })
}

/// Where a repository's main lives.
struct Place {
    forge: Arc<dyn Forge>,
    /// Our own repositories for it, for the lane.
    git: RepoGit,
    /// Where it is, for people.
    location: String,
    /// The branch to land on, where that is settled.
    main: Option<BranchName>,
}

async fn forge(
    config: &Config,
    repo: &RepoConfig,
    rooms: &GitRooms,
    name: &RepoName,
    purpose: Purpose,
) -> Result<Place, ForgeSetupError> {
    match (&repo.path, &repo.url) {
        (Some(place), _) if purpose == Purpose::Look => {
            let forge = BorrowedForge::open(place, rooms, name).await?;
            let (git, location) = (forge.git().clone(), place.display().to_string());
            Ok(Place { forge: Arc::new(forge), git, location, main: repo.main.clone() })
        }
        (Some(place), _) => {
            let wanted = repo.main.clone().or_else(|| mains::kept(&config.data_dir, name));
            let forge = LocalForge::open(place, wanted, rooms, name).await?;
            let main = forge.main().clone();
            if let Err(error) = mains::keep(&config.data_dir, name, &main, forge.path()) {
                tracing::warn!(%error, "that {name} lands on `{main}` is not kept: the next start asks the repository again");
            }
            if repo.main.is_none() && forge.default_branch().is_some_and(|head| *head != main) {
                let head = forge.default_branch().map_or("another branch", BranchName::as_str);
                tracing::warn!(
                    "`{head}` is checked out in {}; tasks of {name} land on `{main}`, as from the first start on: set \
                     repos.{name}.main to change that",
                    place.display()
                );
            }
            let (git, location) = (forge.git().clone(), place.display().to_string());
            Ok(Place { forge: Arc::new(forge), git, location, main: Some(main) })
        }
        (None, url) => {
            let url = url.clone().unwrap_or_default();
            let env = match (&repo.username, &repo.password_file) {
                (Some(username), Some(file)) => {
                    credential_env(&url, username, file).map_err(|why| ForgeSetupError::Git(GitError::Invalid(why)))?
                }
                _ => BTreeMap::new(),
            };
            let remote = Remote { url: url.clone(), env };
            let forge = RemoteForge::open(remote, repo.main.clone(), rooms, name).await?;
            let git = forge.git().clone();
            Ok(Place { forge: Arc::new(forge), git, location: url, main: repo.main.clone() })
        }
    }
}

fn agent_setups(
    config: &Config,
    env: &BTreeMap<String, String>,
    own_program: &Path,
) -> Result<BTreeMap<String, Arc<AgentSetup>>, StartError> {
    let mut setups = BTreeMap::new();
    for (name, agent) in &config.agents {
        let built = agents::build(agent.kind(), agent_settings(agent), own_program.to_owned());
        let built = built.map_err(|e| StartError::Settings(format!("agent `{name}`: {e}")))?;
        let allowed = agent.env_names().filter_map(|n| env.get(n).map(|v| (n.to_owned(), v.clone())));
        let mut read = agent.read.clone();
        if agent.kind() == AgentKind::Scripted {
            read.push(own_program.to_owned());
        }
        let setup = AgentSetup {
            name: name.clone(),
            agent: built,
            model: agent.model.clone(),
            env: allowed.collect(),
            limit: agent.time_limit.unwrap_or(config.limits.agent_time),
            stall: Some(agent.stall_limit.unwrap_or(config.limits.agent_stall)).filter(|s| *s > Millis(0)),
            grace: config.limits.stop_grace,
            unconfined: agent.unconfined,
            read,
        };
        setups.insert(name.clone(), Arc::new(setup));
    }
    Ok(setups)
}

fn agent_settings(agent: &AgentConfig) -> AgentSettings {
    let rates = agent.rates.iter().map(|(model, rate)| {
        let rates = Rates {
            input_micro_usd_per_mtok: rate.input.unwrap_or(0),
            cached_micro_usd_per_mtok: rate.cached.unwrap_or(0),
            output_micro_usd_per_mtok: rate.output.unwrap_or(0),
        };
        (model.clone(), rates)
    });
    AgentSettings {
        program: agent.program.clone(),
        model: agent.model.clone(),
        endpoint: agent.endpoint.clone(),
        key_env: agent.key_env.clone(),
        extra_args: agent.extra_args.clone(),
        rates: rates.collect(),
        command: agent.command.clone().map(|c| match c {
            CommandLine::Shell(line) => agents::CommandLine::Shell(line),
            CommandLine::Argv(argv) => agents::CommandLine::Argv(argv),
        }),
        script: agent.script.clone(),
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        agents: config.limits.max_concurrency,
        gates: config.limits.gate_slots,
        most_overtaken: config.limits.max_overtaken,
        lease: config.gates.merge.lease_ttl,
        agent_orphan_grace: config.limits.agent_orphan_grace,
        ..Limits::default()
    }
}
