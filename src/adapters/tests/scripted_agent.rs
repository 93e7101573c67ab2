//! The scripted agent as a real process: honest steps, choice of steps, and misbehaviour that really misbehaves.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use orch_adapters::agents::{AgentSettings, build};
use orch_domain::agent::{AgentClaim, AgentKind, AgentReport};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;

const BOUND: Duration = Duration::from_secs(20);
const PROMPT: &str =
    "# ORC-1: development\n\nRole: developer\nAttempt: 1\nArtefact: docs/ORC-1/01-analysis.md\n\n## Task\n";

/// Waits until a condition holds, looking at it every few milliseconds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    let (_keep, never) = mpsc::channel::<()>();
    while !holds() {
        assert!(begun.elapsed() < BOUND, "waited in vain until {what}");
        let _ = never.recv_timeout(Duration::from_millis(5));
    }
}

/// The program that plays scripts as `orch scripted-agent` does.
const PROGRAM: &str = env!("CARGO_BIN_EXE_agent-tool");

struct Stage {
    dir: tempfile::TempDir,
}

struct Ended {
    status: ExitStatus,
    report: AgentReport,
    stream: String,
    stderr: String,
}

impl Stage {
    /// A folder with a git repository of one commit as workspace.
    fn new() -> Self {
        let stage = Self { dir: tempfile::tempdir().expect("a folder") };
        fs::create_dir(stage.workspace()).expect("made");
        stage.git(&["init", "-q", "-b", "main"]);
        stage.git(&["remote", "add", "origin", "/upstream.git"]);
        stage.git(&["-c", "user.name=T", "-c", "user.email=t@invalid", "commit", "-q", "--allow-empty", "-m", "Start"]);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn workspace(&self) -> PathBuf {
        self.path("workspace")
    }

    fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(args)
            .current_dir(self.workspace())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .output()
            .expect("git runs");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Starts a script; standard output goes to a file, since a daemon may hold it open.
    fn start(&self, script: &str, prompt: &str, env: &[(&str, &str)]) -> Child {
        let file = self.path("script.yaml");
        fs::write(&file, script).expect("written");
        let create = |name| fs::File::create(self.path(name)).expect("created");
        let mut child = Command::new(PROGRAM)
            .args(["scripted-agent", "--script"])
            .arg(&file)
            .current_dir(self.workspace())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(create("stdout"))
            .stderr(create("stderr"))
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("piped");
        // It may end before it has read everything: a wrong script needs no prompt.
        let _ = stdin.write_all(prompt.as_bytes());
        child
    }

    fn end(&self, mut child: Child) -> Ended {
        let mut status = None;
        until("the scripted agent ends", || {
            status = child.try_wait().expect("our child");
            status.is_some()
        });
        let status = status.expect("it has ended");
        let read = |name| String::from_utf8_lossy(&fs::read(self.path(name)).expect("there")).into_owned();
        let stream = read("stdout");
        let end = status.code().map_or(JobEnd::Lost, |code| JobEnd::Exited { code });
        Ended { status, report: report(&stream, &end), stream, stderr: read("stderr") }
    }

    fn play(&self, script: &str, prompt: &str) -> Ended {
        self.end(self.start(script, prompt, &[]))
    }

    fn steps(&self, steps: &str) -> Ended {
        self.play(&format!("attempts:\n  -\n{steps}"), PROMPT)
    }

    fn streamed(&self, text: &str) -> bool {
        fs::read_to_string(self.path("stdout")).is_ok_and(|stream| stream.contains(text))
    }
}

fn report(stream: &str, end: &JobEnd) -> AgentReport {
    let settings = AgentSettings { script: Some(PathBuf::from("x")), ..AgentSettings::default() };
    let agent = build(AgentKind::Scripted, settings, PathBuf::new()).expect("right");
    let mut parser = agent.parser(Some("scripted"));
    for line in stream.lines() {
        let _ = parser.line(line.as_bytes());
    }
    parser.report(end, Millis(1))
}

/// Whether a process is there and no zombie.
fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn honest_steps_edit_commit_and_tell() {
    let stage = Stage::new();
    let ended = stage.steps(
        r#"
    - write: { path: src/a.txt, content: "one\n" }
    - append: { path: src/a.txt, content: "two\n" }
    - replace: { path: src/a.txt, from: one, to: three }
    - write: { path: gone.txt, content: x }
    - delete: { path: gone.txt }
    - mkdir: { path: empty/folder }
    - run: { cmd: "echo out; echo $((6*7)) > answer.txt" }
    - run: { cmd: "exit 9", may_fail: true }
    - commit: { message: "Add a and the answer" }
    - usage: { input_tokens: 100, cached_tokens: 50, output_tokens: 7, cost_micro_usd: 42 }
    - usage: { input_tokens: 1, cost_micro_usd: 1 }
    - tool: { name: build, ms: 1 }
    - say: { text: All done. }
"#,
    );
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(stage.git(&["show", "HEAD:src/a.txt"]), "three\ntwo");
    assert_eq!(stage.git(&["show", "HEAD:answer.txt"]), "42");
    assert_eq!(stage.git(&["log", "-1", "--format=%s by %an"]), "Add a and the answer by Scripted Agent");
    assert_eq!(stage.git(&["status", "--porcelain"]), "");
    assert!(stage.workspace().join("empty/folder").is_dir());
    let report = ended.report;
    assert_eq!(report.claim, Some(AgentClaim::Success));
    assert_eq!((report.tool_calls, report.unknown_lines), (4, 0), "what commands print is no part of the stream");
    assert_eq!(report.last_text.as_deref(), Some("All done."));
    assert!(report.session.is_some_and(|session| session.starts_with("scripted-")));
    let usage = report.usage;
    assert_eq!((usage.input_tokens, usage.cached_tokens, usage.output_tokens), (Some(101), Some(50), Some(7)));
    assert_eq!(usage.cost_micro_usd, Some(43));
    assert!(ended.stderr.contains("out"), "a command's output is kept: {}", ended.stderr);
}

#[test]
fn artefacts_go_where_the_prompt_says_and_name_its_head() {
    let stage = Stage::new();
    let steps = r#"
    - artefact: { file: 12-review.md, front: { review_status: approved, reviewed_head: HEAD }, body: Fine. }
    - artefact: { file: own.md, dir: notes, front: { a: b } }
"#;
    let ended = stage.steps(steps);
    assert!(ended.status.success(), "{}", ended.stderr);
    let head = stage.git(&["rev-parse", "HEAD"]);
    let text = fs::read_to_string(stage.workspace().join("docs/ORC-1/12-review.md")).expect("written");
    assert_eq!(text, format!("---\nreview_status: approved\nreviewed_head: {head}\n---\nFine.\n"));
    assert!(stage.workspace().join("notes/own.md").exists());
    let told = PROMPT.replace("Role", &format!("Head: {}\nRole", "b".repeat(40)));
    stage.play(&format!("attempts:\n  -\n{steps}"), &told);
    let text = fs::read_to_string(stage.workspace().join("docs/ORC-1/12-review.md")).expect("written");
    assert!(text.contains(&"b".repeat(40)), "the prompt's head is the reviewed one: {text}");
    let homeless = stage.play(&format!("attempts:\n  -\n{steps}"), "no header");
    assert_eq!(homeless.status.code(), Some(4), "{}", homeless.stderr);
}

#[test]
fn the_attempt_comes_from_the_prompt_or_the_environment() {
    let script = "attempts:\n  - [say: { text: first }]\n  - [say: { text: later }]\nroles:\n  reviewer: [[say: { text: review }]]\n";
    let stage = Stage::new();
    let said = |prompt: &str, env: &[(&str, &str)]| stage.end(stage.start(script, prompt, env)).report.last_text;
    assert_eq!(said(PROMPT, &[]).as_deref(), Some("first"));
    assert_eq!(said(&PROMPT.replace("Attempt: 1", "Attempt: 7"), &[]).as_deref(), Some("later"));
    assert_eq!(said(PROMPT, &[("ORCH_ATTEMPT", "2")]).as_deref(), Some("later"));
    assert_eq!(said(&PROMPT.replace("developer", "reviewer"), &[]).as_deref(), Some("review"));
    assert_eq!(said(PROMPT, &[("ORCH_ROLE", "reviewer")]).as_deref(), Some("review"));
    assert_eq!(said("hello", &[]).as_deref(), Some("first"), "without a header it is the first");
}

#[test]
fn an_unexpected_prompt_ends_with_three_and_says_what_lacks() {
    let stage = Stage::new();
    for script in [
        "expect_prompt: findings of the gate\nattempts: [[say: { text: x }]]\n",
        "attempts: [[expect_prompt: findings of the gate]]\n",
        "attempts: [[refuse_prompt: 'Role: developer']]\n",
    ] {
        let ended = stage.play(script, PROMPT);
        assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
        assert!(ended.stderr.contains("scripted agent: step 1: the prompt "), "{}", ended.stderr);
        assert!(matches!(ended.report.claim, Some(AgentClaim::Error { .. })), "{}", ended.stream);
    }
}

#[test]
fn steps_that_leave_the_workspace_are_refused() {
    let stage = Stage::new();
    fs::create_dir(stage.path("outside")).expect("made");
    std::os::unix::fs::symlink(stage.path("outside"), stage.workspace().join("link")).expect("linked");
    for path in ["../x", "/tmp/x", ".git/config", "link/x", "a/../../x"] {
        let ended = stage.steps(&format!("    - write: {{ path: {path}, content: x }}\n"));
        assert_eq!(ended.status.code(), Some(4), "{path}: {}", ended.stderr);
        assert!(matches!(ended.report.claim, Some(AgentClaim::Error { .. })), "{path}");
    }
    assert_eq!(fs::read_dir(stage.path("outside")).expect("there").count(), 0);
}

#[test]
fn failing_steps_codes_and_limits_are_claimed_as_such() {
    let stage = Stage::new();
    let failed = stage.steps("    - run: { cmd: 'exit 9' }\n    - say: { text: never }\n");
    assert_eq!(failed.status.code(), Some(4));
    assert!(!failed.stream.contains("never"), "nothing is done after a failed step");
    let empty = stage.steps("    - commit: { message: Nothing }\n");
    assert_eq!(empty.status.code(), Some(4), "an empty commit is a failure unless asked for");
    assert!(stage.steps("    - commit: { message: Nothing, allow_empty: true }\n").status.success());
    let coded = stage.steps("    - exit: { code: 7 }\n");
    assert_eq!(coded.status.code(), Some(7));
    assert!(matches!(coded.report.claim, Some(AgentClaim::Error { .. })));
    let limited = stage.steps("    - rate_limit: { text: come back at three }\n");
    assert_eq!(limited.report.claim, Some(AgentClaim::RateLimited { text: "come back at three".to_owned() }));
    let broken = stage.play("attempts:\n  - - say: 1\n", PROMPT);
    assert_eq!(broken.status.code(), Some(64));
    assert!(broken.stderr.contains("script.yaml, line 2: "), "{}", broken.stderr);
}

#[test]
fn a_run_that_ends_without_its_event_claims_nothing() {
    let ended = Stage::new().steps("    - say: { text: hi }\n    - misbehave: no_end_event\n");
    assert!(ended.status.success());
    assert_eq!(ended.report.claim, None, "{}", ended.stream);
}

#[test]
fn a_deaf_agent_outlives_term_and_its_tools_do_too() {
    let stage = Stage::new();
    let go = stage.path("go");
    let script = format!(
        "attempts:\n  -\n    - misbehave: ignore_term\n    - run: {{ cmd: 'kill -TERM $$; true' }}\n    - say: {{ text: deaf }}\n    - wait_for: {{ path: {} }}\n",
        go.display()
    );
    let child = stage.start(&script, PROMPT, &[]);
    until("it is deaf", || stage.streamed("deaf"));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        kill(pid, signal).expect("sent");
    }
    fs::write(&go, "").expect("written");
    let ended = stage.end(child);
    assert!(ended.status.success(), "the signals changed nothing: {:?}", ended.status);
}

#[test]
fn an_agent_that_is_not_deaf_ends_by_term() {
    let stage = Stage::new();
    let child = stage.start("attempts: [[say: { text: here }, misbehave: hang]]\n", PROMPT, &[]);
    until("it hangs", || stage.streamed("here"));
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGTERM).expect("sent");
    let ended = stage.end(child);
    assert_eq!(ended.status.code(), None, "ended by the signal");
    assert_eq!(ended.report.claim, None);
}

#[test]
fn its_daemon_has_a_session_of_its_own_and_outlives_it() {
    let stage = Stage::new();
    let file = stage.path("daemon.pid");
    let ended =
        stage.steps(&format!("    - misbehave: {{ daemon: {{ seconds: 600, pid_file: {} }} }}\n", file.display()));
    assert!(ended.status.success(), "{}", ended.stderr);
    until("the daemon tells its pid", || file.exists());
    let pid: i32 = fs::read_to_string(&file).expect("there").trim().parse().expect("a pid");
    let target = Pid::from_raw(pid);
    assert!(alive(pid));
    assert_eq!(getsid(Some(target)), Ok(target), "it leads its own session");
    kill(target, Signal::SIGTERM).expect("sent");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("still there");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    let ignored = u64::from_str_radix(ignored.expect("the kernel tells"), 16).expect("hex");
    assert_ne!(ignored & (1 << (Signal::SIGTERM as i32 - 1)), 0, "TERM is ignored");
    assert!(alive(pid), "TERM did nothing");
    kill(target, Signal::SIGKILL).expect("sent");
    until("the daemon is gone", || !alive(pid));
}

#[test]
fn a_filled_log_is_noise_and_the_end_still_counts() {
    let ended = Stage::new().steps("    - misbehave: { fill_log: { mb: 2 } }\n");
    assert!(ended.stream.len() >= 2 << 20);
    assert!(ended.report.unknown_lines >= 2_000, "{}", ended.report.unknown_lines);
    assert_eq!(ended.report.claim, Some(AgentClaim::Success));
}

#[test]
fn remotes_and_files_outside_are_touched_when_asked_for() {
    let stage = Stage::new();
    let outside = stage.path("outside.txt");
    let nowhere = stage.path("no/such/folder");
    let ended = stage.steps(&format!(
        "    - misbehave: {{ rewrite_remote: {{}} }}\n    - misbehave: {{ touch_outside: {{ path: {} }} }}\n    - misbehave: {{ touch_outside: {{ path: {} }} }}\n",
        outside.display(),
        nowhere.display()
    ));
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(stage.git(&["remote", "get-url", "--push", "origin"]), "https://evil.invalid/repository.git");
    assert!(outside.exists());
    assert!(ended.stream.contains("could not write"), "a refusal is told, not hidden: {}", ended.stream);
}
