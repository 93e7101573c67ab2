//! `orch demo`: the real engine on a throw-away repository and board, with a scripted agent; tells the story.
//!
//! Owns the story: one task lands at once; one fails its tests, goes back with the failure in its prompt, and lands; one
//! commits a token, goes back with what was found, rewrites its history, and lands; one deletes a test, goes back with the line
//! that no test runs any more, brings the test back, and lands; one is stopped while a process of it hides, and its receipt
//! is shown; one is stopped in the middle of landing, which is waited for. Nothing in it exists only here: repository,
//! board, agents, tests, coverage and landing go the way of every task. Ends well only if everything ended as told.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_actors::api::{Control, Submit};
use orch_domain::agent::AgentKind;
use orch_domain::ids::Seq;
use orch_domain::stop::{Level, StepResult};
use orch_domain::task::Status;
use orch_domain::view::{TaskDetail, TaskView};
use sha2::{Digest as _, Sha256};

use super::{Guard, Running, start};
use crate::cli::output::clean;
use crate::cli::{CliError, DemoArgs, Output};
use crate::config::{AgentConfig, Commands, Config, Gates, LogFormat, RepoConfig, SecretEngine, Telemetry};

/// Longest the demo may take in all.
const BOUND: Duration = Duration::from_secs(90);

/// What the repository holds at the beginning. Its coverage tool is as small as it can be, so that the demo needs nothing
/// but git and a shell.
const REPOSITORY: [(&str, &str); 6] = [
    ("greet.sh", include_str!("demo/greet.sh")),
    ("tests.sh", include_str!("demo/tests.sh")),
    ("cover.sh", include_str!("demo/cover.sh")),
    ("tests/test_world.sh", "expect 'Hello, world' greet.sh\n"),
    ("tests/test_name.sh", "expect 'Hello, Ada' greet.sh Ada\n"),
    ("tests/test_words.sh", "expect 'Good morning, Ada' greet.sh Ada 'Good morning'\n"),
];

const STEADY: &str = "attempts:\n- - say: {text: Reading greet.sh}\n  - tool: {name: read greet.sh, ms: 200}\n\
\x20 - write: {path: README, content: \"Greets whoever is named.\\n\"}\n  - commit: {message: Say what the greeter does}\n\
\x20 - usage: {input_tokens: 1200, output_tokens: 180, cost_micro_usd: 4100}\n";
const HASTY: &str = "attempts:\n\
- - say: {text: This is easy}\n  - write: {path: tests/test_shout.sh, content: \"expect 'HELLO, ADA' shout.sh Ada\\n\"}\n\
\x20 - write: {path: shout.sh, content: \"#!/bin/sh\\nsh greet.sh \\\"$1\\\"\\n\"}\n\
\x20 - commit: {message: Shout}\n  - usage: {input_tokens: 900, output_tokens: 120, cost_micro_usd: 3000}\n\
- - expect_prompt: \"expected 'HELLO, ADA'\"\n  - say: {text: The tests want capitals}\n\
\x20 - write: {path: shout.sh, content: \"#!/bin/sh\\nsh greet.sh \\\"$1\\\" | tr '[:lower:]' '[:upper:]'\\n\"}\n\
\x20 - commit: {message: Shout in capitals}\n  - usage: {input_tokens: 1500, output_tokens: 90, cost_micro_usd: 3900}\n";
/// `TOKEN` stands for a token that is made up when the demo begins.
const CARELESS: &str = "attempts:\n\
- - say: {text: The greeter needs a key}\n  - write: {path: keys.sh, content: \"GREETER_KEY=TOKEN\\n\"}\n\
\x20 - write: {path: tests/test_keys.sh, content: \"GREETER_KEY=any expect '' keys.sh\\n\"}\n\
\x20 - commit: {message: Add the key}\n  - usage: {input_tokens: 1100, output_tokens: 100, cost_micro_usd: 3200}\n\
- - expect_prompt: \"keys.sh`, line 1\"\n  - refuse_prompt: \"TOKEN\"\n  - say: {text: It must not be in any commit}\n\
\x20 - run: {cmd: git reset --quiet --soft HEAD~1}\n\
\x20 - write: {path: keys.sh, content: \": \\\"${GREETER_KEY:?is set where the greeter runs}\\\"\\n\"}\n\
\x20 - commit: {message: Read the key from the environment}\n  - usage: {input_tokens: 1600, output_tokens: 110, cost_micro_usd: 4000}\n";
const TIDY: &str = "attempts:\n\
- - say: {text: Three tests of one small script}\n  - delete: {path: tests/test_world.sh}\n  - delete: {path: tests/test_words.sh}\n\
\x20 - commit: {message: Take out two tests}\n  - usage: {input_tokens: 1000, output_tokens: 70, cost_micro_usd: 2900}\n\
- - expect_prompt: \"greet.sh: 3\"\n  - expect_prompt: \"tests/test_words.sh\"\n  - say: {text: One of them was needed}\n\
\x20 - run: {cmd: git checkout --quiet HEAD~1 -- tests/test_words.sh}\n  - commit: {message: Bring back the test that was needed}\n\
\x20 - usage: {input_tokens: 1400, output_tokens: 60, cost_micro_usd: 3500}\n";
const STUBBORN: &str = "attempts:\n- - say: {text: Starting something in the background}\n\
\x20 - misbehave: {daemon: {seconds: 600}}\n  - write: {path: half-done, content: \"half\\n\"}\n\
\x20 - say: {text: Working for a very long time}\n  - delay: {ms: 600000}\n";
const LATE: &str = "attempts:\n- - write: {path: AUTHORS, content: \"The demo.\\n\"}\n  - commit: {message: Say who made it}\n\
\x20 - usage: {input_tokens: 700, output_tokens: 60, cost_micro_usd: 2100}\n";
/// What the repository does with a push to main while the file `hold` is there: it takes its time.
const DOORKEEPER: &str = "#!/bin/sh\nwhile read -r old new ref; do\n  if [ \"$ref\" = refs/heads/main ] && [ -e \"HOLD\" ]; then\n\
\x20   touch \"DOOR\"\n    while [ -e \"HOLD\" ]; do sleep 0.02; done\n  fi\ndone\n";

/// Tells the story; the exit code.
pub(super) async fn tell(args: &DemoArgs, env: &BTreeMap<String, String>, out: &mut Output) -> u8 {
    let quiet =
        Telemetry { format: LogFormat::Text, level: env.get("ORCH_LOG").cloned().unwrap_or_else(|| "error".into()) };
    if let Err(error) = crate::telemetry::init(&quiet) {
        out.problem(&error.to_string());
        return 2;
    }
    let folder = match tempfile::Builder::new().prefix("orch-demo-").tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            out.problem(&format!("no temporary folder for the demo: {error}"));
            return 2;
        }
    };
    let told = match tokio::time::timeout(BOUND, Demo::new(folder.path(), out).play(env)).await {
        Ok(told) => told,
        Err(_) => Err(Wrong::Story(format!("the story did not end within {} s", BOUND.as_secs()))),
    };
    let place = folder.path().to_owned();
    if args.keep {
        // Kept on purpose: the folder is not removed when it goes out of use.
        let kept = folder.keep();
        out.note(&format!("kept: {} (repository in repo/, data folder in data/)", kept.display()));
    }
    match told {
        Ok(()) => match out.line("demo: ok") {
            Ok(()) | Err(CliError::Closed) => 0,
            Err(_) => 1,
        },
        Err(Wrong::Reader) => CliError::Closed.code(),
        Err(Wrong::Story(why)) => {
            out.problem(&format!("demo: {why} (folder {})", place.display()));
            1
        }
    }
}

/// Why the demo did not end well.
enum Wrong {
    /// Something did not end as told.
    Story(String),
    /// Nobody reads any more.
    Reader,
}

impl From<CliError> for Wrong {
    fn from(error: CliError) -> Self {
        match error {
            CliError::Closed => Self::Reader,
            other => Self::Story(other.to_string()),
        }
    }
}

/// In GitHub's format, from the clock: not even a false token stands in this program.
fn made_up_token() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let digest = hex::encode(Sha256::digest(now.as_nanos().to_be_bytes()));
    let sign = |(at, c): (usize, char)| {
        char::from(b"bcdfghjkmnpqrstvwxyzBCDFGHJKMNPQRSTVWXYZ"[(c as usize * 7 + at * 11) % 40])
    };
    format!("ghp_{}", digest.chars().take(36).enumerate().map(sign).collect::<String>())
}

fn wrong(why: impl Into<String>) -> Wrong {
    Wrong::Story(why.into())
}

struct Demo<'a> {
    root: PathBuf,
    repo: PathBuf,
    out: &'a mut Output,
    seen: Seq,
    begun: Instant,
    /// A made-up token in a well-known format.
    token: String,
    /// Everything that was told so far.
    told: String,
}

impl<'a> Demo<'a> {
    fn new(root: &Path, out: &'a mut Output) -> Self {
        let (root, repo) = (root.to_owned(), root.join("repo"));
        Self { root, repo, out, seen: Seq(0), begun: Instant::now(), token: made_up_token(), told: String::new() }
    }

    async fn play(mut self, env: &BTreeMap<String, String>) -> Result<(), Wrong> {
        self.say("A throw-away repository with a greeter and its tests.")?;
        self.make_repository()?;
        let config = self.config()?;
        let running = start(&config, env, Guard::default()).await.map_err(|e| wrong(e.to_string()))?;
        let told = self.story(&running).await;
        // Whatever happened: nothing of the demo outlives it.
        running.stop(Level::Cancel, Duration::from_secs(10)).await;
        running.close();
        told?;
        self.say(&format!("Everything ended as told, in {:.1} s.", self.begun.elapsed().as_secs_f32()))?;
        Ok(())
    }

    async fn story(&mut self, running: &Running) -> Result<(), Wrong> {
        let control = running.control();
        self.say("")?;
        self.say("1. A task that is done well lands at once.")?;
        let first = self.submit(&control, "steady", "Say in a README what the greeter does").await?;
        let first = self.follow(&control, &first, |d| d.task.status == Status::Done).await?;
        self.expect(first.task.attempts.developer_retries == 0, "the first task was sent back")?;
        self.expect_on_main(&first, "README", "Greets whoever is named.")?;

        self.say("")?;
        self.say("2. A task that fails its tests goes back, with the failure in its prompt, and lands.")?;
        let second = self.submit(&control, "hasty", "Add shout.sh: the greeting in capitals").await?;
        let second = self.follow(&control, &second, |d| d.task.status == Status::Done).await?;
        self.expect(second.task.attempts.developer_retries == 1, "the second task was not sent back exactly once")?;
        self.expect(self.git(&["show", "main:shout.sh"])?.contains("upper"), "main has not the mended shout.sh")?;

        self.say("")?;
        self.say("3. A task commits a secret. The security gate sends it back; it takes the secret out of its history, and lands.")?;
        let third = self.submit(&control, "careless", "Give the greeter its key").await?;
        let third = self.follow(&control, &third, |d| d.task.status == Status::Done).await?;
        self.expect(third.task.attempts.developer_retries == 1, "the third task was not sent back exactly once")?;
        self.expect(self.git(&["show", "main:keys.sh"])?.contains("GREETER_KEY:?"), "main has not the mended keys.sh")?;
        let history = self.git(&["log", "--all", "--patch", "main"])?;
        self.expect(!history.contains(&self.token), "the secret is in the history of the repository")?;
        self.expect(!self.told.contains(&self.token), "the secret was told")?;

        self.say("")?;
        self.say("4. A task deletes tests that pass. The coverage gate sends it back with the line that none runs any more; it brings one back, and lands.")?;
        let fourth = self.submit(&control, "tidy", "Take out tests that nobody needs").await?;
        let fourth = self.follow(&control, &fourth, |d| d.task.status == Status::Done).await?;
        self.expect(fourth.task.attempts.developer_retries == 1, "the fourth task was not sent back exactly once")?;
        let tests = self.git(&["ls-tree", "--name-only", "main", "tests/"])?;
        self.expect(
            tests.contains("test_words.sh") && !tests.contains("test_world.sh"),
            "main has not the tests that are needed",
        )?;
        self.show_coverage(&control).await?;

        self.say("")?;
        self.say("5. A task is stopped while it works; a process of it hides and ignores TERM.")?;
        let fifth = self.submit(&control, "stubborn", "Never come to an end").await?;
        self.follow(&control, &fifth, |d| d.why.waits_for.contains("very long time")).await?;
        control.stop(fifth.id.as_str(), "demo", "demo").await.map_err(|e| wrong(e.to_string()))?;
        self.follow(&control, &fifth, |d| d.task.status == Status::Cancelled).await?;
        self.show_receipt(&control, &fifth).await?;
        self.expect(
            self.git(&["log", "--format=%s", "main"])?.lines().count() == 7,
            "main has other commits than told",
        )?;

        self.say("")?;
        self.say("6. A task is stopped in the middle of landing: that is waited for, and the STOP ends honestly.")?;
        let (hold, door) = (self.root.join("hold"), self.root.join("door"));
        std::fs::write(&hold, "").map_err(|e| wrong(e.to_string()))?;
        let sixth = self.submit(&control, "late", "Say who made the greeter").await?;
        self.follow(&control, &sixth, |_| door.exists()).await?;
        control.stop(sixth.id.as_str(), "demo", "demo").await.map_err(|e| wrong(e.to_string()))?;
        let why = control.why(sixth.id.as_str()).await.map_err(|e| wrong(e.to_string()))?;
        self.say(&format!("   {}: {}", sixth.key, clean(&why.waits_for)))?;
        self.expect(
            why.waits_for.contains("deferred until the landing ends"),
            "the STOP does not wait for the landing",
        )?;
        std::fs::remove_file(&hold).map_err(|e| wrong(e.to_string()))?;
        let sixth = self.follow(&control, &sixth, |d| d.task.status == Status::Done).await?;
        self.show_receipt(&control, &sixth.task).await?;
        self.expect_on_main(&sixth, "AUTHORS", "The demo.")?;
        self.expect(
            self.git(&["log", "--format=%s", "main"])?.lines().count() == 8,
            "main has other commits than told",
        )?;

        self.say("")?;
        self.say("What main looks like now:")?;
        for line in self.git(&["log", "--format=%h %an: %s", "main"])?.lines() {
            self.say(&format!("   {line}"))?;
        }
        Ok(())
    }

    fn make_repository(&self) -> Result<(), Wrong> {
        std::fs::create_dir_all(self.repo.join("tests")).map_err(|e| wrong(e.to_string()))?;
        self.git(&["init", "--quiet", "--initial-branch=main"])?;
        for (name, text) in REPOSITORY {
            std::fs::write(self.repo.join(name), text).map_err(|e| wrong(e.to_string()))?;
        }
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "-m", "A greeter and its tests"])?;
        let hook = self.repo.join(".git/hooks/pre-receive");
        let place = |name: &str| self.root.join(name).display().to_string();
        let text = DOORKEEPER.replace("HOLD", &place("hold")).replace("DOOR", &place("door"));
        let written = std::fs::create_dir_all(self.repo.join(".git/hooks"))
            .and_then(|()| std::fs::write(&hook, text))
            .and_then(|()| std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)));
        written.map_err(|e| wrong(format!("{}: {e}", hook.display())))?;
        // As on a server: main is nobody's checked-out branch.
        self.git(&["checkout", "--quiet", "--detach"])?;
        Ok(())
    }

    fn config(&self) -> Result<Config, Wrong> {
        let mut agents = BTreeMap::new();
        let scripts = [
            ("steady", STEADY),
            ("hasty", HASTY),
            ("careless", CARELESS),
            ("tidy", TIDY),
            ("stubborn", STUBBORN),
            ("late", LATE),
        ];
        for (name, script) in scripts {
            let file = self.root.join(format!("{name}.yaml"));
            std::fs::write(&file, script.replace("TOKEN", &self.token)).map_err(|e| wrong(e.to_string()))?;
            let agent = AgentConfig { kind: Some(AgentKind::Scripted), script: Some(file), ..AgentConfig::default() };
            agents.insert(name.to_owned(), agent);
        }
        let commands = Commands {
            test: Some("sh tests.sh".to_owned()),
            // It runs the tests too: tests and coverage are one run.
            coverage: Some("sh cover.sh".to_owned()),
            coverage_runs_tests: Some(true),
            ..Commands::default()
        };
        let main = "main".parse().map_err(|_| wrong("`main` is a branch name"))?;
        let name = "greeter".parse().map_err(|_| wrong("`greeter` is a repository name"))?;
        let repo = RepoConfig {
            path: Some(self.repo.clone()),
            main: Some(main),
            agent: Some("steady".to_owned()),
            pipeline: "lite".to_owned(),
            commands,
            ..RepoConfig::default()
        };
        let mut config = Config {
            data_dir: self.root.join("data"),
            default_agent: "steady".to_owned(),
            agents,
            repos: BTreeMap::from([(name, repo)]),
            ..Config::default()
        };
        config.gates = Gates::for_all();
        // The demo needs nothing but git and a shell.
        config.gates.security.engine = SecretEngine::Builtin;
        config.limits.stop_grace = orch_domain::time::Millis(500);
        Ok(config)
    }

    async fn submit(&mut self, control: &Arc<dyn Control>, agent: &str, title: &str) -> Result<TaskView, Wrong> {
        let submit = Submit { title: title.to_owned(), agent: Some(agent.to_owned()), ..Submit::default() };
        let task = control.submit(submit, "demo").await.map_err(|e| wrong(e.to_string()))?;
        self.say(&format!("   {} \"{title}\" (agent: {agent})", task.key))?;
        Ok(task)
    }

    /// Shows what happens to a task until it is as expected; blocked or closed otherwise is the end of the story.
    async fn follow(
        &mut self,
        control: &Arc<dyn Control>,
        task: &TaskView,
        until: impl Fn(&TaskDetail) -> bool,
    ) -> Result<TaskDetail, Wrong> {
        let mut records = control.watch_records();
        loop {
            let page = control.records_after(self.seen, 100).await.map_err(|e| wrong(e.to_string()))?;
            for record in &page {
                self.seen = record.seq;
                let first = record.entry.text.lines().next().unwrap_or_default();
                self.say(&format!(
                    "   {:>5.1}s  {:<16} {}",
                    self.begun.elapsed().as_secs_f32(),
                    record.entry.kind,
                    clean(first)
                ))?;
            }
            let detail = control.task(task.id.as_str(), false).await.map_err(|e| wrong(e.to_string()))?.remove(0);
            if until(&detail) {
                return Ok(detail);
            }
            if matches!(detail.task.status, Status::Blocked | Status::Done | Status::Cancelled) {
                return Err(wrong(format!(
                    "{} is {}: {}",
                    task.key,
                    detail.task.status.as_str(),
                    detail.why.waits_for
                )));
            }
            // Activity is not journaled: look again now and then.
            let _ = tokio::time::timeout(Duration::from_millis(100), records.changed()).await;
        }
    }

    async fn show_receipt(&mut self, control: &Arc<dyn Control>, task: &TaskView) -> Result<(), Wrong> {
        // The last line is written when the task's actor has ended, which is after the task is closed.
        let receipt = loop {
            let receipt = control.receipt(task.id.as_str()).await.map_err(|e| wrong(e.to_string()))?;
            if receipt.lines.len() >= orch_domain::stop::StopStep::ALL.len() {
                break receipt;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.say(&format!("   receipt of {}: {}", task.key, receipt.outcome))?;
        for line in &receipt.lines {
            let (word, text) = match &line.result {
                StepResult::Done { proof } => ("done", proof),
                StepResult::Nothing { proof } => ("nothing to do", proof),
                StepResult::Kept { because } => ("kept", because),
                StepResult::Pending { why } => ("pending", why),
                StepResult::Unproven { why } => ("UNPROVEN", why),
            };
            self.say(&format!("      {:<14} {word}: {}", line.step.as_str(), clean(text)))?;
        }
        let doubtful =
            receipt.lines.iter().any(|l| matches!(l.result, StepResult::Unproven { .. } | StepResult::Pending { .. }));
        self.expect(!doubtful, "a step of the STOP is not proven")
    }

    /// Says what main is held to, and how that came to be.
    async fn show_coverage(&mut self, control: &Arc<dyn Control>) -> Result<(), Wrong> {
        let all = control.coverages().await.map_err(|e| wrong(e.to_string()))?;
        let view = all.into_iter().next().ok_or_else(|| wrong("no repository is held to its coverage"))?;
        let baseline = view.baseline.ok_or_else(|| wrong("no landing set a coverage baseline"))?;
        let share = &baseline.share;
        self.say(&format!("   baseline: {} ({} of {} lines)", share.percent, share.covered, share.total))?;
        for refused in &view.failures {
            self.say(&format!("   refused:  {}", clean(&refused.why)))?;
        }
        let measured = view.trend.iter().all(|point| point.share.covered == point.share.total);
        self.expect(measured && view.trend.len() == 4, "the four landings did not keep every line covered")?;
        self.expect(view.failures.len() == 1, "the coverage gate refused something else than told")
    }

    fn expect_on_main(&self, task: &TaskDetail, path: &str, text: &str) -> Result<(), Wrong> {
        let landed = task.task.landed.as_ref().ok_or_else(|| wrong("it does not say what landed"))?;
        let tree = self.git(&["rev-parse", &format!("{}^{{tree}}", landed.sha)])?;
        self.expect(tree == landed.tree.to_string(), "the landed tree is not the tested one")?;
        self.expect(self.git(&["show", &format!("main:{path}")])? == text, "main has not the change")
    }

    fn expect(&self, holds: bool, otherwise: &str) -> Result<(), Wrong> {
        if holds { Ok(()) } else { Err(wrong(otherwise)) }
    }

    fn say(&mut self, text: &str) -> Result<(), Wrong> {
        self.told.push_str(text);
        self.told.push('\n');
        self.out.line(text).map_err(Wrong::from)
    }

    /// Git, as a person would use it on the throw-away repository.
    fn git(&self, args: &[&str]) -> Result<String, Wrong> {
        let output = Command::new("git")
            .args(args)
            .current_dir(&self.repo)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "You")
            .env("GIT_AUTHOR_EMAIL", "you@localhost")
            .env("GIT_COMMITTER_NAME", "You")
            .env("GIT_COMMITTER_EMAIL", "you@localhost")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| wrong(format!("git cannot be started: {e}; install git")))?;
        if !output.status.success() {
            return Err(wrong(format!("git {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }
}
