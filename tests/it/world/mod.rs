//! The test world: a throw-away repository, board and data folder under the real engine.
//!
//! Owns the verbs that tests are told in, level-triggered waits with a bound, and the check for leftovers when a world
//! closes: processes, workspaces, checkouts, leases, unsent effects. Refuses sleeps and test-only branches in production
//! code: agents misbehave by script, the outside by its own state.

pub(crate) mod crash;
mod more;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use orch::config::{AgentConfig, Config, Gates, RepoConfig, SecretEngine};
use orch::engine::{self, Guard, Running, runtime_dir};
use orch_actors::api::{Control, ControlError, StopAnswer, Submit};
use orch_adapters::disk::{FreeSpace, SystemDisk};
use orch_domain::agent::AgentKind;
use orch_domain::stop::{Level, Receipt};
use orch_domain::task::Status;
use orch_domain::time::Millis;
use orch_domain::view::{TaskDetail, TaskView};

pub(crate) use more::CHECK;

/// A green test run, as runners say it.
pub(crate) const GREEN: &str = "echo '1 passed, 0 failed'";

/// Longest wait for anything: generous, since a slow machine must not fail a test; a test that hangs is told what it
/// waited for.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// A last word on the settings.
pub(crate) type Settle = Box<dyn FnOnce(&mut Config) + Send>;

/// How a world is set up.
pub(crate) struct Setup {
    pub(crate) agents: BTreeMap<String, String>,
    pub(crate) repo: RepoConfig,
    pub(crate) limits: orch::config::Limits,
    /// What says how much space there is.
    pub(crate) disk: Arc<dyn FreeSpace>,
    /// Last words on the settings, before the engine reads them.
    pub(crate) settle: Vec<Settle>,
    /// The supervisor's environment, besides the tests' own.
    pub(crate) env: BTreeMap<String, String>,
}

impl Default for Setup {
    fn default() -> Self {
        let commands = orch::config::Commands { test: Some("sh check.sh".to_owned()), ..Default::default() };
        let repo = RepoConfig { pipeline: "lite".to_owned(), commands, ..RepoConfig::default() };
        let limits = orch::config::Limits {
            infrastructure_delay: Millis(50),
            infrastructure_delay_max: Millis(200),
            deferral_delay: Millis(50),
            deferral_delay_max: Millis(200),
            stop_grace: Millis(500),
            ..Default::default()
        };
        Self {
            agents: BTreeMap::new(),
            repo,
            limits,
            disk: Arc::new(SystemDisk),
            settle: Vec::new(),
            env: BTreeMap::new(),
        }
    }
}

impl Setup {
    /// Adds a scripted agent; the first one is the default.
    #[must_use]
    pub(crate) fn agent(mut self, name: &str, script: &str) -> Self {
        if self.agents.is_empty() {
            self.repo.agent = Some(name.to_owned());
        }
        self.agents.insert(name.to_owned(), script.to_owned());
        self
    }

    /// Changes the repository's settings.
    #[must_use]
    pub(crate) fn repo(mut self, change: impl FnOnce(&mut RepoConfig)) -> Self {
        change(&mut self.repo);
        self
    }

    /// Changes the limits.
    #[must_use]
    pub(crate) fn limits(mut self, change: impl FnOnce(&mut orch::config::Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// Opens the world with a small repository: `check.sh` passes unless a file `red` exists.
    pub(crate) async fn open(self) -> World {
        let root = tempfile::Builder::new().prefix("orch-w").tempdir().expect("a temporary folder");
        let repo = root.path().join("repo");
        git_init(&repo);
        commit_file(&repo, "check.sh", "test ! -e red && echo '3 passed, 0 failed'\n", "Begin");
        World::open(self, root, repo).await
    }
}

/// One world.
pub(crate) struct World {
    root: tempfile::TempDir,
    pub(crate) repo: PathBuf,
    config: Config,
    disk: Arc<dyn FreeSpace>,
    env: BTreeMap<String, String>,
    running: Option<Running>,
}

impl World {
    async fn open(setup: Setup, root: tempfile::TempDir, repo: PathBuf) -> Self {
        let mut world = Self::prepare(setup, root, repo);
        world.boot().await;
        world
    }

    /// Everything but the start.
    fn prepare(setup: Setup, root: tempfile::TempDir, repo: PathBuf) -> Self {
        let mut agents = BTreeMap::new();
        for (name, script) in &setup.agents {
            let file = root.path().join(format!("{name}.yaml"));
            std::fs::write(&file, script).expect("the script is written");
            let agent = AgentConfig { kind: Some(AgentKind::Scripted), script: Some(file), ..AgentConfig::default() };
            agents.insert(name.clone(), agent);
        }
        let mut repo_config = setup.repo;
        if repo_config.url.is_none() {
            repo_config.path = Some(repo.clone());
        }
        let mut config = Config {
            data_dir: root.path().join("data"),
            default_agent: repo_config.agent.clone().unwrap_or_default(),
            agents,
            repos: BTreeMap::from([("demo".parse().expect("a name"), repo_config)]),
            limits: setup.limits,
            gates: Gates::for_all(),
            ..Config::default()
        };
        config.gates.merge.defer_delay = Millis(50);
        // The same everywhere, whatever is installed.
        config.gates.security.engine = SecretEngine::Builtin;
        // Nobody outside is ever asked: this port refuses at once.
        config.gates.security.dep_audit_endpoint = "http://127.0.0.1:1".to_owned();
        for settle in setup.settle {
            settle(&mut config);
        }
        Self { root, repo, config, disk: setup.disk, env: setup.env, running: None }
    }

    /// Starts the engine on the world's data folder.
    pub(crate) async fn boot(&mut self) {
        let running = self.try_boot().await;
        self.running = Some(running.unwrap_or_else(|e| panic!("the engine does not start: {e}")));
    }

    /// The same, once those that a failed start has left behind have let go of the folder.
    pub(crate) async fn boot_in_time(&mut self) {
        let bound = tokio::time::Instant::now() + BOUND;
        self.running = loop {
            match self.try_boot().await {
                Ok(running) => break Some(running),
                Err(error) => assert!(tokio::time::Instant::now() < bound, "the engine does not start: {error}"),
            }
            tokio::task::yield_now().await;
        };
    }

    /// The same, or why it does not start.
    pub(crate) async fn try_boot(&self) -> Result<Running, engine::StartError> {
        assert!(self.running.is_none(), "the world runs already");
        let mut env: BTreeMap<String, String> = std::env::vars().collect();
        env.extend(self.env.clone());
        // Programs that a story brings along come first.
        let path = env.get("PATH").cloned().unwrap_or_default();
        env.insert("PATH".to_owned(), format!("{}:{path}", self.root.path().join("bin").display()));
        let guard = Guard { program: PathBuf::from(env!("CARGO_BIN_EXE_orch")), args: vec!["shim".to_owned()] };
        engine::start_on(&self.config, &env, guard, self.disk.clone()).await
    }

    /// Stops the engine in the orderly way.
    pub(crate) async fn shut_down(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown(Level::Drain, Duration::from_secs(20)).await;
        }
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().expect("the world runs")
    }

    pub(crate) fn control(&self) -> Arc<dyn Control> {
        self.running().control()
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn data(&self) -> &Path {
        &self.config.data_dir
    }

    /// Submits a task for the default agent.
    pub(crate) async fn submit(&self, title: &str) -> TaskView {
        self.submit_as(Submit { title: title.to_owned(), ..Submit::default() }).await
    }

    /// Submits a task for a named agent.
    pub(crate) async fn submit_for(&self, agent: &str, title: &str) -> TaskView {
        let submit = Submit { title: title.to_owned(), agent: Some(agent.to_owned()), ..Submit::default() };
        self.submit_as(submit).await
    }

    pub(crate) async fn submit_as(&self, submit: Submit) -> TaskView {
        self.control().submit(submit, "test").await.unwrap_or_else(|e| panic!("not accepted: {e}"))
    }

    pub(crate) async fn stop(&self, task: &TaskView) -> StopAnswer {
        self.control().stop(task.id.as_str(), "test", "test").await.unwrap_or_else(|e| panic!("not stopped: {e}"))
    }

    pub(crate) async fn look(&self, task: &TaskView) -> TaskDetail {
        let found = self.control().task(task.id.as_str(), false).await;
        found.unwrap_or_else(|e| panic!("{} is not there: {e}", task.key)).remove(0)
    }

    pub(crate) async fn receipt(&self, task: &TaskView) -> Result<Receipt, ControlError> {
        self.control().receipt(task.id.as_str()).await
    }

    /// Waits until a task is as the predicate says.
    pub(crate) async fn until(&self, task: &TaskView, what: &str, holds: impl Fn(&TaskDetail) -> bool) -> TaskDetail {
        let mut records = self.control().watch_records();
        let waited = tokio::time::timeout(BOUND, async {
            loop {
                let now = self.look(task).await;
                if holds(&now) {
                    return now;
                }
                // The tick is only for facts that are not journaled, such as activity.
                let _ = tokio::time::timeout(Duration::from_millis(200), records.changed()).await;
            }
        });
        match waited.await {
            Ok(detail) => detail,
            Err(_) => {
                let now = self.look(task).await;
                panic!(
                    "waited in vain for {} to be {what}; it is {:?} in {} ({})\n{}",
                    task.key,
                    now.task.status,
                    now.task.stage,
                    now.why.waits_for,
                    self.journal(task).await.join("\n")
                );
            }
        }
    }

    pub(crate) async fn expect_status(&self, task: &TaskView, status: Status) -> TaskDetail {
        self.until(task, status.as_str(), |d| d.task.status == status).await
    }

    pub(crate) async fn expect_stage(&self, task: &TaskView, stage: &str) -> TaskDetail {
        self.until(task, stage, |d| d.task.stage.as_str() == stage).await
    }

    /// The task's journal, a line per entry: `kind: text`.
    pub(crate) async fn journal(&self, task: &TaskView) -> Vec<String> {
        let records = self.control().journal(task.id.as_str(), Default::default(), 1_000).await.expect("a journal");
        records.into_iter().map(|r| format!("{}: {}", r.entry.kind, r.entry.text)).collect()
    }

    /// Runs git in the world's repository, as a person would.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        git(&self.repo, args)
    }

    /// Closes the world and checks that nothing is left.
    pub(crate) async fn close(mut self) {
        let handle = self.running().handle();
        let store = handle.context().store.clone();
        let bound = tokio::time::Instant::now() + BOUND;
        // Effects are sent by an actor of its own: it has a moment to do so.
        while store.outbox_depth().await.expect("the outbox can be read") > 0 {
            assert!(tokio::time::Instant::now() < bound, "effects were left unsent");
            tokio::task::yield_now().await;
        }
        let live: Vec<String> =
            store.live_tasks().await.expect("tasks").into_iter().map(|s| s.task.id.to_string()).collect();
        let leases = store.leases().await.expect("leases");
        assert!(leases.is_empty(), "leases were left: {leases:?}");
        drop((handle, store));
        self.shut_down().await;
        for folder in ["workspaces", "checkouts"] {
            let left: Vec<String> = std::fs::read_dir(self.data().join(folder))
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .filter(|name| !live.iter().any(|id| name.starts_with(id.as_str())))
                .collect();
            assert!(left.is_empty(), "{folder} were left: {left:?}");
        }
        let left = processes_with(self.root.path());
        assert!(left.is_empty(), "processes were left: {left:?}");
        // It goes with the last side task that knows of it.
        let sockets = runtime_dir(self.data());
        let bound = tokio::time::Instant::now() + BOUND;
        while sockets.exists() {
            assert!(tokio::time::Instant::now() < bound, "{} was left", sockets.display());
            tokio::task::yield_now().await;
        }
    }
}

/// Processes whose command line or working directory names a path: what a world has started and not ended.
pub(crate) fn processes_with(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let needle = path.to_string_lossy();
        if line.contains(needle.as_ref()) || cwd.starts_with(path) {
            found.push(format!("{pid} {line} in {}", cwd.display()));
        }
    }
    found
}

/// Runs git as a person would, in any repository.
pub(crate) fn git(repo: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(args)
        .current_dir(repo)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "Person")
        .env("GIT_AUTHOR_EMAIL", "person@localhost")
        .env("GIT_COMMITTER_NAME", "Person")
        .env("GIT_COMMITTER_EMAIL", "person@localhost")
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {args:?} in {}: {}", repo.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

pub(crate) fn git_init(repo: &Path) {
    std::fs::create_dir_all(repo).expect("a folder");
    git(repo, &["init", "--quiet", "--initial-branch=main"]);
}

/// Writes a file and commits it.
pub(crate) fn commit_file(repo: &Path, path: &str, text: &str, message: &str) {
    let full = repo.join(path);
    std::fs::create_dir_all(full.parent().expect("a parent")).expect("folders");
    std::fs::write(full, text).expect("written");
    git(repo, &["add", "--", path]);
    git(repo, &["commit", "--quiet", "-m", message]);
}
