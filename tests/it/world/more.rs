//! More words for stories: other repositories, people who push, the board, what ran and what was proven.
//!
//! Owns the setups that are not the plain one and the looks behind the front desk that a story needs as evidence. Refuses
//! to act on the engine by any way that a person or tool outside would not have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use orch::config::Config;
use orch::engine::{self, Guard};
use orch_actors::api::ControlError;
use orch_domain::job::JobKind;
use orch_domain::view::{TaskDetail, TaskView};
use orch_store::{JobRow, Moved};
use orch_test_support::git_server::{GitServer, Protocol};
use serde_json::Value;

use super::{BOUND, Setup, World, commit_file, git, git_init};

/// As HTTP's basic authentication writes it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let letter = |at: usize| char::from(LETTERS[(bits >> (18 - 6 * at)) as usize & 63]);
        (0..4).map(|at| if at <= chunk.len() { letter(at) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(three).collect()
}

fn temporary(name: &str) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::Builder::new().prefix("orch-w").tempdir().expect("a temporary folder");
    let repo = root.path().join(name);
    (root, repo)
}

/// A bare repository with one commit, and the clone of a person beside it.
fn make_bare(bare: &Path) {
    let person = bare.with_file_name("person");
    git_init(&person);
    commit_file(&person, "check.sh", CHECK, "Begin");
    git(&person, &["clone", "--quiet", "--bare", ".", bare.to_str().expect("a path in UTF-8")]);
    git(&person, &["remote", "add", "origin", bare.to_str().expect("a path in UTF-8")]);
    // It remembers every place that main was at.
    git(bare, &["config", "core.logAllRefUpdates", "always"]);
}

/// The test command of the plain repository: red while a file `red` exists.
pub(crate) const CHECK: &str = "test ! -e red && echo '3 passed, 0 failed'\n";

impl Setup {
    /// Changes the settings as a whole, last of all.
    #[must_use]
    pub(crate) fn config(mut self, change: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        self.settle.push(Box::new(change));
        self
    }

    /// Tests wait until the story gives `sign`, then do `then`: so that something can happen while they run.
    #[must_use]
    pub(crate) fn tests_wait_for(self, sign: &'static str, then: &str) -> Self {
        let then = then.to_owned();
        self.config(move |c| {
            let sign = c.data_dir.with_file_name(sign).display().to_string();
            for repo in c.repos.values_mut() {
                repo.commands.test = Some(format!("while test ! -e {sign}; do sleep 0.02; done; {then}"));
            }
        })
    }

    /// Opens the world over a repository that the story makes itself, at this path below the world's folder.
    pub(crate) async fn open_over(self, name: &str, make: impl FnOnce(&Path)) -> World {
        let (root, repo) = temporary(name);
        make(&repo);
        World::open(self, root, repo).await
    }

    /// Opens the world over a bare repository that people push to from the clone at [`World::person`].
    pub(crate) async fn open_bare(self) -> World {
        self.open_over("repo.git", make_bare).await
    }

    /// The same, and the engine reaches it through a server; the server has to outlive the world.
    pub(crate) async fn open_served(self, protocol: Protocol) -> (World, GitServer) {
        let (root, bare) = temporary("repo.git");
        make_bare(&bare);
        let server = GitServer::start(protocol, root.path()).expect("a server");
        let url = server.url("repo.git");
        (World::open(self.repo(|r| r.url = Some(url)), root, bare).await, server)
    }

    /// The same over HTTP, from a server that asks for a password; it lies in a file beside the world.
    pub(crate) async fn open_guarded(self, username: &str, password: &str) -> (World, GitServer) {
        use std::os::unix::fs::PermissionsExt as _;
        let (root, bare) = temporary("repo.git");
        make_bare(&bare);
        let shown = format!("Basic {}", base64(format!("{username}:{password}").as_bytes()));
        let server = GitServer::start_asking(Protocol::Http, root.path(), Some(shown)).expect("a server");
        let file = root.path().join("password");
        std::fs::write(&file, format!("{password}\n")).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
        let (url, username) = (server.url("repo.git"), username.to_owned());
        let setup = self.repo(|r| {
            (r.url, r.username, r.password_file) = (Some(url), Some(username), Some(file));
        });
        (World::open(setup, root, bare).await, server)
    }

    /// The words with which the engine refuses to start over a repository.
    pub(crate) async fn refused_over(self, make: impl FnOnce(&Path)) -> String {
        let (root, repo) = temporary("repo");
        make(&repo);
        let world = World::prepare(self, root, repo);
        let guard = Guard { program: PathBuf::from(env!("CARGO_BIN_EXE_orch")), args: vec!["shim".to_owned()] };
        let env = std::env::vars().collect();
        match engine::start(&world.config, &env, guard).await {
            Ok(_) => panic!("the engine started over {}", world.repo.display()),
            Err(error) => error.to_string(),
        }
    }
}

impl World {
    /// The clone of a person who works on the same repository; see [`Setup::open_bare`].
    pub(crate) fn person(&self) -> PathBuf {
        self.root().join("person")
    }

    /// A person commits on top of main and pushes; the commit.
    pub(crate) fn person_pushes(&self, path: &str, text: &str, message: &str) -> String {
        let person = self.person();
        git(&person, &["fetch", "--quiet", "origin"]);
        git(&person, &["checkout", "--quiet", "-B", "main", "origin/main"]);
        commit_file(&person, path, text, message);
        git(&person, &["push", "--quiet", "origin", "main"]);
        git(&person, &["rev-parse", "HEAD"])
    }

    /// From now on the forge takes nothing on main; the hook, to be removed again. Only for bare repositories.
    pub(crate) fn close_main(&self) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let hook = self.repo.join("hooks/pre-receive");
        let text = "#!/bin/sh\nwhile read old new ref; do case $ref in refs/heads/main) echo main is closed today >&2; exit 1;; esac; done\n";
        std::fs::write(&hook, text).expect("written");
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        hook
    }

    /// From now on whoever takes a task branch away at the forge waits until the story gives `sign`; the file that shows
    /// that somebody waits. Only for bare repositories.
    pub(crate) fn hold_deletions(&self, sign: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let (hook, waits) = (self.repo.join("hooks/pre-receive"), self.sign("deletion-waits"));
        let text = format!(
            "#!/bin/sh\nwhile read -r old new ref; do\n  case $new-$ref in 0000*-refs/heads/orch/*)\n    touch {waits}\n    \
             while [ ! -e {sign} ]; do sleep 0.02; done;;\n  esac\ndone\n",
            waits = waits.display(),
            sign = self.sign(sign).display()
        );
        std::fs::write(&hook, text).expect("written");
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        waits
    }

    /// The operator gives the world's repository another name in the settings, which hold from the next start.
    pub(crate) fn rename_repo(&mut self, to: &str) {
        let repos = std::mem::take(&mut self.config.repos);
        self.config.repos = repos.into_values().map(|repo| (to.parse().expect("a name"), repo)).collect();
    }

    /// Puts the data folder elsewhere, as a person does: before a boot.
    pub(crate) fn move_data(&mut self, to: &str) {
        assert!(self.running.is_none(), "nobody has it open");
        let to = self.sign(to);
        std::fs::rename(&self.config.data_dir, &to).expect("moved");
        self.config.data_dir = to;
    }

    /// The report of a gate in a proof, as text.
    pub(crate) fn report_of(&self, gate: &Value) -> String {
        let name = gate["report"].as_str().expect("a report");
        assert!(Path::new(name).is_relative(), "from the data folder, which may be moved: {name}");
        std::fs::read_to_string(self.data().join(name)).expect("it is there")
    }

    /// A file outside all workspaces that agents and commands can be made to wait for.
    pub(crate) fn sign(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Gives a sign.
    pub(crate) fn give(&self, name: &str) {
        std::fs::write(self.sign(name), "").expect("the sign is given");
    }

    /// All jobs that a task has had, in order.
    pub(crate) async fn job_rows(&self, task: &TaskView) -> Vec<JobRow> {
        self.store().jobs_of(&task.id).await.expect("jobs can be read")
    }

    /// Labels of all jobs of a kind that a task has had, in order.
    pub(crate) async fn jobs_of(&self, task: &TaskView, kind: JobKind) -> Vec<String> {
        let jobs = self.job_rows(task).await;
        jobs.into_iter().filter(|j| j.record.kind == kind).map(|j| j.record.label).collect()
    }

    /// How often the task's tests were really run.
    pub(crate) async fn test_runs(&self, task: &TaskView) -> usize {
        self.jobs_of(task, JobKind::Gate).await.iter().filter(|label| label.starts_with("test of ")).count()
    }

    /// Waits for something that the engine makes true in its own time.
    pub(crate) async fn wait_for<T>(&self, what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
        self.wait_within(BOUND, what, look).await
    }

    /// The same for what takes its time on any machine.
    pub(crate) async fn wait_within<T>(
        &self,
        bound: Duration,
        what: &str,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let mut records = self.control().watch_records();
        let bound = tokio::time::Instant::now() + bound;
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(tokio::time::Instant::now() < bound, "waited in vain for {what}");
            let _ = tokio::time::timeout(Duration::from_millis(50), records.changed()).await;
        }
    }

    /// Waits until the task has had so many test runs.
    pub(crate) async fn until_test_run(&self, task: &TaskView, n: usize) {
        self.wait_for(&format!("test run {n} of {}", task.key), async || {
            (self.test_runs(task).await >= n).then_some(())
        })
        .await;
    }

    /// The state of the task's item on the board, once it is `wanted`.
    pub(crate) async fn expect_on_board(&self, task: &TaskView, wanted: &str) {
        self.wait_for(&format!("{} to be shown as {wanted}", task.key), async || {
            (self.board_item(task).await.state == wanted).then_some(())
        })
        .await;
    }

    pub(crate) async fn board_item(&self, task: &TaskView) -> orch_store::BoardItem {
        let found = self.store().tracker_item_by_key(&task.key).await.expect("the board can be read");
        found.expect("the task is on the board")
    }

    /// A person moves the task's item on the board.
    pub(crate) async fn person_moves(&self, task: &TaskView, to: &str) -> i64 {
        let item = self.board_item(task).await;
        let handle = self.running().handle();
        let moved = self.store().tracker_move(&item.id, to, "person", None, handle.context().now()).await;
        let Moved::Moved(transition) = moved.expect("the board can be written") else {
            panic!("{} was there already", task.key)
        };
        transition
    }

    /// Waits until a move on the board has been looked at and done with, whatever came of it.
    pub(crate) async fn until_taken_up(&self, transition: i64) {
        let db = rusqlite::Connection::open(self.data().join("orch.db")).expect("the store is there");
        db.busy_timeout(BOUND).expect("a timeout can be set");
        let sql = "SELECT count(*) FROM inbox WHERE source = 'board' AND body = ?1 AND processed_at IS NOT NULL";
        self.wait_for(&format!("move {transition} to be taken up"), async || {
            self.running().handle().directory().wake_reconciler();
            let done: i64 = db.query_row(sql, [transition.to_string()], |row| row.get(0)).expect("a number");
            (done == 1).then_some(())
        })
        .await;
    }

    /// Comments on the task's item, once one of them holds a text.
    pub(crate) async fn expect_comment(&self, task: &TaskView, text: &str) {
        let item = self.board_item(task).await;
        self.wait_for(&format!("a comment with `{text}`"), async || {
            let comments = self.store().tracker_comments(&item.id).await.expect("the board can be read");
            comments.iter().any(|c| c.text.contains(text)).then_some(())
        })
        .await;
    }

    /// The proof line of a landed task.
    pub(crate) async fn proof(&self, task: &TaskView) -> Value {
        let landing = self.store().landing_of(&task.id).await.expect("proofs can be read");
        landing.expect("the task has landed").proof
    }

    pub(crate) async fn retry(&self, task: &TaskView) -> Result<TaskView, ControlError> {
        self.control().retry(task.id.as_str(), "test").await
    }

    /// Asserts that the journal holds a line with all of these texts.
    pub(crate) async fn expect_journal(&self, task: &TaskView, texts: &[&str]) {
        let journal = self.journal(task).await;
        let found = journal.iter().any(|line| texts.iter().all(|text| line.contains(text)));
        assert!(found, "no journal line with {texts:?} in\n{}", journal.join("\n"));
    }

    /// Waits until the task is blocked, and returns what it says.
    pub(crate) async fn expect_blocked(&self, task: &TaskView, text: &str) -> TaskDetail {
        let detail = self.expect_status(task, orch_domain::task::Status::Blocked).await;
        let journal = self.journal(task).await;
        let line = journal.iter().rfind(|line| line.starts_with("blocked: ")).cloned().unwrap_or_default();
        let all = format!("{line}\n{}", detail.why.waits_for);
        assert!(all.contains(text), "blocked, but by: {all}\n{}", journal.join("\n"));
        detail
    }

    fn store(&self) -> orch_store::Store {
        self.running().handle().context().store.clone()
    }
}
