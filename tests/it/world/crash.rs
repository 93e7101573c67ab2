//! A world around the real binary: `orch serve` as a process of its own, killed with SIGKILL wherever a test wants.
//!
//! Owns the process, what is known of it from outside (its database, its repository, `/proc`), and the one list of
//! everything that may be wrong in the end. Refuses to help the supervisor: between a kill and a start nothing is mended.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use super::{BOUND, commit_file, git, git_init};

/// Makes one file named after the task, in two steps with a pause between them; an attempt after an interruption finds
/// what is left of the work and only does what is missing.
pub(crate) const MAKER: &str = "attempts:\n\
    - - run: {cmd: 'mkdir -p made && echo made > made/$ORCH_TASK'}\n  \
      - delay: {ms: 60}\n  \
      - run: {cmd: 'git add -A && { git diff --cached --quiet || git commit -q -m \"Make $ORCH_TASK\"; }'}\n";

/// How long a guard without a job waits for one, and a little.
const IDLE_GUARD: Duration = Duration::from_secs(8);

/// A repository, a data folder, settings, and perhaps a supervisor.
pub(crate) struct Outside {
    root: tempfile::TempDir,
    pub(crate) repo: PathBuf,
    data: PathBuf,
    serve: Option<Child>,
    /// How often somebody else moved main.
    pushed: usize,
}

impl Outside {
    /// Makes the world; no supervisor runs yet.
    pub(crate) fn new(script: &str) -> Self {
        let root = tempfile::Builder::new().prefix("orch-x").tempdir().expect("a temporary folder");
        let repo = root.path().join("repo");
        git_init(&repo);
        commit_file(&repo, "check.sh", "echo '1 passed, 0 failed'\n", "Begin");
        std::fs::write(root.path().join("agent.yaml"), script).expect("the script is written");
        let data = root.path().join("data");
        let world = Self { root, repo, data, serve: None, pushed: 0 };
        world.settings(&world.data.clone(), "orch.yaml");
        world
    }

    fn settings(&self, data: &Path, name: &str) -> PathBuf {
        let root = self.root.path().display();
        let text = format!(
            "data_dir: {data}\nhttp: {{bind: '127.0.0.1:0'}}\n\
             agents:\n  maker: {{kind: scripted, script: {root}/agent.yaml}}\n\
             repos:\n  demo:\n    path: {root}/repo\n    pipeline: lite\n    agent: maker\n    commands: {{test: 'sh check.sh'}}\n\
             limits: {{max_concurrency: 3, max_interrupted: 200, infrastructure_delay: 50ms, infrastructure_delay_max: 200ms, \
             infrastructure_retries: 50, deferral_delay: 50ms, deferral_delay_max: 200ms, deferrals: 200, stop_grace: 500ms, \
             min_free_disk: 1MiB}}\n\
             gates: {{security: {{repos: ['*']}}, merge: {{repos: ['*'], defer_delay: 50ms}}, coverage: {{repos: ['*']}}, image-freshness: {{repos: ['*']}}}}\n",
            data = data.display(),
        );
        let file = self.root.path().join(name);
        std::fs::write(&file, text).expect("the settings are written");
        file
    }

    /// Changes a text of the settings: for the next start.
    pub(crate) fn change_settings(&self, from: &str, to: &str) {
        let file = self.root.path().join("orch.yaml");
        let text = std::fs::read_to_string(&file).expect("settings");
        assert!(text.contains(from), "the world's settings have no `{from}`: {text}");
        std::fs::write(&file, text.replace(from, to)).expect("written");
    }

    /// Agents end with their supervisor instead of waiting to be gone on with.
    #[must_use]
    pub(crate) fn agents_end_with_it(self) -> Self {
        self.change_settings("limits: {", "limits: {agent_orphan_grace: 0s, ");
        self
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    fn command(&self, settings: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
        command.args(["--json", "--config"]).arg(self.root.path().join(settings));
        // Programs that a story brings along come first.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.root.path().join("bin").display()));
        command.stdin(Stdio::null()).env_remove("ORCH_URL").env_remove("ORCH_TOKEN").env_remove("ORCH_DATA_DIR");
        command
    }

    /// Starts the supervisor and returns once it takes work.
    pub(crate) fn start(&mut self) {
        assert!(self.serve.is_none(), "it runs already");
        self.serve = Some(self.start_with("orch.yaml"));
    }

    fn start_with(&self, settings: &str) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.root.path().join("serve.log"));
        let mut command = self.command(settings);
        command.arg("serve").stdout(Stdio::piped()).stderr(log.expect("a log"));
        let mut child = command.spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert!(line.contains("url"), "it does not serve: {line} {}", self.log());
        child
    }

    /// The supervisor's process.
    pub(crate) fn pid(&self) -> u32 {
        self.serve.as_ref().expect("it runs").id()
    }

    /// What the supervisor said on standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("serve.log")).unwrap_or_default()
    }

    /// Ends the supervisor as a power cut would; everything else goes on.
    pub(crate) fn kill(&mut self) {
        let mut child = self.serve.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it was ours");
    }

    /// Whether the supervisor has ended by somebody else's hand; then it is gone, and another can be started.
    pub(crate) fn was_killed(&mut self) -> bool {
        let ended = self.serve.as_mut().is_some_and(|child| child.try_wait().expect("it is ours").is_some());
        if ended {
            self.serve = None;
        }
        ended
    }

    /// Waits until the supervisor has ended by somebody else's hand.
    pub(crate) fn until_ended(&mut self) {
        let begun = Instant::now();
        let (_never, tick) = std::sync::mpsc::channel::<()>();
        while !self.was_killed() {
            assert!(begun.elapsed() < 2 * BOUND, "it does not end\n{}\n{}", self.all_journals(), self.log());
            let _ = tick.recv_timeout(Duration::from_millis(5));
        }
    }

    /// Somebody else commits to main.
    pub(crate) fn person_commits(&mut self, name: &str) {
        git(&self.repo, &["reset", "--quiet", "--hard", "main"]);
        commit_file(&self.repo, name, "x", &format!("Add {name}"));
        self.pushed += 1;
    }

    /// Starts a supervisor and kills it while it takes its tasks over: a crash in the recovery from a crash.
    pub(crate) fn start_and_kill(&self) {
        let owned = || self.number("SELECT coalesce(sum(epoch), 0) FROM tasks");
        let before = owned();
        let log = std::fs::File::options().create(true).append(true).open(self.root.path().join("serve.log"));
        let mut command = self.command("orch.yaml");
        command.arg("serve").stdout(Stdio::null()).stderr(log.expect("a log"));
        let mut child = command.spawn().expect("the program starts");
        self.until("tasks to be taken over", || owned() > before);
        child.kill().expect("it can be killed");
        child.wait().expect("it was ours");
    }

    /// Ends the supervisor in the orderly way.
    pub(crate) fn finish(&mut self) {
        if let Some(child) = self.serve.take() {
            finish(child);
        }
    }

    /// Ends the supervisor by `orch handover`; its answer.
    pub(crate) fn hand_over(&mut self) -> Value {
        let answer = self.verb(&["handover", "--timeout", "60"]).unwrap_or_else(|e| panic!("{e}\n{}", self.log()));
        self.finish_by_itself();
        answer
    }

    /// Waits until the supervisor has ended, as somebody else has told it to.
    pub(crate) fn finish_by_itself(&mut self) {
        let status = self.serve.take().expect("it runs").wait().expect("it was ours");
        assert!(status.success(), "an orderly end: {status}");
    }

    /// A client's verb; its answer.
    pub(crate) fn verb(&self, args: &[&str]) -> Result<Value, String> {
        let output = self.command("orch.yaml").args(args).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => serde_json::from_str(&text).map_err(|e| format!("{e}: {text}")),
            false => Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// Hands a task in; its key.
    pub(crate) fn submit(&self, title: &str) -> String {
        let task = self.verb(&["task", "add", "--title", title]).unwrap_or_else(|e| panic!("{e}\n{}", self.log()));
        task["key"].as_str().expect("a key").to_owned()
    }

    pub(crate) fn db(&self) -> Connection {
        let db = Connection::open(self.data.join("orch.db")).expect("the store is there");
        db.busy_timeout(Duration::from_secs(10)).expect("a timeout can be set");
        db
    }

    /// A task's journal: the kinds, in order.
    pub(crate) fn journal(&self, key: &str) -> Vec<String> {
        let db = self.db();
        let mut rows = db.prepare_cached("SELECT kind FROM journal WHERE key = ?1 ORDER BY seq").expect("a table");
        let kinds = rows.query_map([key], |row| row.get(0)).expect("rows");
        kinds.map(|kind| kind.expect("a word")).collect()
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.db().query_row(sql, [], |row| row.get(0)).expect("a number")
    }

    /// Waits for a condition, looking often enough to act right behind it.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        let (_never, tick) = std::sync::mpsc::channel::<()>();
        while !holds() {
            assert!(begun.elapsed() < 2 * BOUND, "waited in vain for {what}\n{}\n{}", self.all_journals(), self.log());
            let _ = tick.recv_timeout(Duration::from_millis(2));
        }
    }

    pub(crate) fn until_closed(&self, keys: &[String]) {
        let db = self.db();
        let mut open =
            db.prepare("SELECT count(*) FROM tasks WHERE done_at IS NULL AND cancelled_at IS NULL").expect("a table");
        self.until(&format!("{keys:?} to be closed"), || {
            open.query_row([], |row| row.get::<_, i64>(0)).expect("a number") == 0
        });
    }

    fn all_journals(&self) -> String {
        let db = self.db();
        let mut rows =
            db.prepare("SELECT key || ' ' || kind || ': ' || text FROM journal ORDER BY seq").expect("a table");
        let lines = rows.query_map([], |row| row.get::<_, String>(0)).expect("rows");
        lines.map(|line| line.unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }

    /// Arms the forge: from now on a push to main waits until it is let through (or turned down).
    pub(crate) fn hold_pushes(&self) -> Hold {
        Hold::new(self.root.path(), &self.repo)
    }

    /// A second data folder, copied from the first as it stands, with settings of its own.
    pub(crate) fn copy_data(&self) -> PathBuf {
        let copy = self.root.path().join("copy");
        let status = Command::new("cp").arg("-a").arg(&self.data).arg(&copy).status().expect("cp runs");
        assert!(status.success());
        self.settings(&copy, "copy.yaml");
        copy
    }

    /// Starts a supervisor on the copy.
    pub(crate) fn start_copy(&self) -> Child {
        self.start_with("copy.yaml")
    }

    /// Tries to start a second supervisor on the same data folder; what it says.
    pub(crate) fn refused(&self) -> String {
        let output = self.command("orch.yaml").arg("serve").output().expect("the program starts");
        assert!(!output.status.success(), "a second supervisor was let in");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Everything that is wrong in the end, when these tasks had to land once each and nothing may be left.
    pub(crate) fn problems(&mut self, landed: &[String]) -> Vec<String> {
        let mut wrong = Vec::new();
        // The last ends of jobs are recorded, and effects sent, a moment after the last task is closed.
        let settled = || self.number("SELECT count(*) FROM jobs WHERE status IN ('prepared', 'running')") == 0;
        if self.serve.is_some() {
            self.until("jobs to be settled", settled);
        }
        self.finish();
        for key in landed {
            let done: i64 = self
                .db()
                .query_row("SELECT count(*) FROM tasks WHERE orig_key = ?1 AND done_at IS NOT NULL", [key], |r| {
                    r.get(0)
                })
                .expect("a number");
            if done != 1 {
                wrong.push(format!("{key} is not done"));
            }
            let made =
                git(&self.repo, &["log", "main", "--format=%H", "--diff-filter=A", "--", &format!("made/{key}")]);
            let made = made.lines().count();
            if made != 1 {
                wrong.push(format!("the change of {key} is on main {made} times"));
            }
            let sql = "SELECT count(*) FROM landings WHERE key = ?1";
            let proofs: i64 = self.db().query_row(sql, [key], |r| r.get(0)).expect("a number");
            if proofs != 1 {
                wrong.push(format!("{key} has {proofs} proofs of landing"));
            }
        }
        let moves = git(&self.repo, &["reflog", "show", "--format=%gs", "main"]).lines().count() - 1;
        if moves != landed.len() + self.pushed {
            wrong.push(format!("main moved {} times for {} tasks", moves - self.pushed, landed.len()));
        }
        for (what, sql) in [
            ("tasks are open", "SELECT count(*) FROM tasks WHERE done_at IS NULL AND cancelled_at IS NULL"),
            ("windows are open", "SELECT count(*) FROM windows WHERE closed_at IS NULL"),
            ("leases are held", "SELECT count(*) FROM leases WHERE holder IS NOT NULL"),
        ] {
            let n = self.number(sql);
            if n != 0 {
                wrong.push(format!("{n} {what}"));
            }
        }
        for folder in ["workspaces", "checkouts"] {
            let left = std::fs::read_dir(self.data.join(folder)).into_iter().flatten().flatten();
            wrong.extend(left.map(|entry| format!("{} is left in {folder}", entry.file_name().to_string_lossy())));
        }
        wrong.extend(
            git(&self.repo, &["for-each-ref", "--format=%(refname) is left", "refs/heads/orch"])
                .lines()
                .map(str::to_owned),
        );
        // A guard that had been started but not recorded leaves by itself when nobody sends it on; others are gone.
        let (_never, tick) = std::sync::mpsc::channel::<()>();
        let begun = Instant::now();
        let idles = !processes_of(self.root.path()).is_empty();
        while begun.elapsed() < IDLE_GUARD && !processes_of(self.root.path()).is_empty() {
            let _ = tick.recv_timeout(Duration::from_millis(50));
        }
        wrong.extend(processes_of(self.root.path()).into_iter().map(|process| format!("process {process} is left")));
        let sockets = orch::engine::runtime_dir(&self.data);
        // Where such a guard had its socket, the next start of any supervisor clears up.
        wrong.extend((!idles && sockets.exists()).then(|| format!("{} is left", sockets.display())));
        wrong
    }

    /// The same, as a test's last word.
    pub(crate) fn close(mut self, landed: &[String]) {
        let wrong = self.problems(landed);
        assert!(wrong.is_empty(), "{wrong:#?}\n{}", self.all_journals());
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(mut child) = self.serve.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl super::World {
    /// Takes the engine out of the world, to be ended in a way of the test's own; [`super::World::boot`] starts the next.
    pub(crate) fn take_running(&mut self) -> orch::engine::Running {
        self.running.take().expect("the world runs")
    }
}

/// SIGTERM, and the exit code it must come to.
pub(crate) fn finish(mut child: Child) {
    let pid = i32::try_from(child.id()).expect("a pid");
    let killed = Command::new("kill").args(["-TERM", &pid.to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let status = child.wait().expect("it was ours");
    assert!(status.success(), "an orderly end: {status}");
}

/// A gate at the forge's door: the receiving hook of the repository.
pub(crate) struct Hold {
    dir: PathBuf,
}

impl Hold {
    pub(crate) fn new(root: &Path, repo: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = root.join("hold");
        std::fs::create_dir_all(&dir).expect("a folder");
        let text = format!(
            "#!/bin/sh\nwhile read -r old new ref; do\n  case $ref in refs/heads/main)\n    touch {dir}/entered\n    \
             while [ ! -e {dir}/through ] && [ ! -e {dir}/down ]; do sleep 0.02; done\n    [ ! -e {dir}/down ] || exit 1;;\n  \
             esac\ndone\n",
            dir = dir.display()
        );
        let hook = repo.join(".git/hooks/pre-receive");
        std::fs::create_dir_all(hook.parent().expect("a folder")).expect("a folder");
        std::fs::write(&hook, text).expect("the hook is written");
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
        Self { dir }
    }

    /// Whether a push to main waits at the door (or did).
    pub(crate) fn entered(&self) -> bool {
        self.dir.join("entered").exists()
    }

    pub(crate) fn let_through(&self) {
        std::fs::write(self.dir.join("through"), "").expect("written");
    }

    pub(crate) fn turn_down(&self) {
        std::fs::write(self.dir.join("down"), "").expect("written");
    }
}

/// Processes that work in a folder, name it, or hold a file below it open.
pub(crate) fn processes_of(path: &Path) -> Vec<String> {
    let mut found = super::processes_with(path);
    let own = std::process::id();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let mut files = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        if pid != own && files.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(path))) {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(format!("{pid} with open files: {}", String::from_utf8_lossy(&line).replace('\0', " ")));
        }
    }
    found
}
