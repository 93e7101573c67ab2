//! Ctrl-C in a run and in a supervisor, once and twice, and what an interrupted run leaves to the next one.

use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::verbs::{Desk, files_below, refused, text};
use crate::world::git;

/// A desk whose agent works once `go` is there.
fn desk() -> Desk {
    let desk = Desk::new();
    let waits = format!(
        "while [ ! -e {} ]; do sleep 0.02; done; echo made > made.txt; git add made.txt; git commit -q -m 'Make it'",
        desk.path("go").display()
    );
    let settings = format!(
        "http: {{bind: '127.0.0.1:0'}}\nagents: {{worker: {{kind: command, command: \"{waits}\"}}}}\ndefault_agent: worker\n\
         repos: {{demo: {{path: {}, pipeline: lite, commands: {{test: 'sh check.sh'}}}}}}\n",
        desk.repo.display()
    );
    std::fs::write(desk.path("orch.yaml"), settings).expect("written");
    desk
}

fn db(desk: &Desk) -> Option<Connection> {
    let file = files_below(&desk.path("data")).into_iter().find(|file| file.ends_with("orch.db"))?;
    let db = Connection::open(file).ok()?;
    db.busy_timeout(Duration::from_secs(10)).ok()?;
    Some(db)
}

fn count(desk: &Desk, sql: &str) -> i64 {
    // Asked also while the store is being made.
    db(desk).and_then(|db| db.query_row(sql, [], |row| row.get(0)).ok()).unwrap_or(0)
}

/// The agent of some task is at work.
fn at_work(desk: &Desk) -> bool {
    count(desk, "SELECT count(*) FROM jobs WHERE kind = 'agent' AND status = 'running'") == 1
}

fn log(desk: &Desk) -> String {
    std::fs::read_to_string(desk.path("child.log")).unwrap_or_default()
}

/// A terminal's Ctrl-C, as far as a program sees it.
fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(status.success());
}

fn until(desk: &Desk, what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    let (_never, tick) = std::sync::mpsc::channel::<()>();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {what}: {}", log(desk));
        let _ = tick.recv_timeout(Duration::from_millis(10));
    }
}

/// The end of a child, which must come by itself.
fn ended(desk: &Desk, mut child: Child) -> ExitStatus {
    let begun = Instant::now();
    let (_never, tick) = std::sync::mpsc::channel::<()>();
    loop {
        if let Some(status) = child.try_wait().expect("ours") {
            return status;
        }
        if begun.elapsed() > Duration::from_secs(90) {
            let _ = child.kill();
            panic!("it did not end: {}", log(desk));
        }
        let _ = tick.recv_timeout(Duration::from_millis(10));
    }
}

/// Begins a run whose agent waits, and interrupts it twice.
fn interrupted_twice(desk: &Desk, key: &str, more: &[&str]) {
    let repo = desk.repo.to_string_lossy().into_owned();
    let words = ["run", "--repo", &repo, "--title", "Make it", "--agent", "worker", "--key", key];
    let run = desk.begin(&[&words, more].concat(), || at_work(desk));
    interrupt(&run);
    until(desk, "the first word", || log(desk).contains("once more to interrupt it too"));
    interrupt(&run);
    assert_eq!(ended(desk, run).code(), Some(130), "{}", log(desk));
    let told = format!("; the same command with --key {key} goes on with it, --key {key} --stop stops it");
    assert!(
        log(desk).contains(&format!("{key} is left in development (")) && log(desk).contains(&told),
        "{}",
        log(desk)
    );
    desk.nothing_is_left();
    assert_eq!(count(desk, "SELECT count(*) FROM tasks WHERE done_at IS NULL AND cancelled_at IS NULL"), 1);
}

#[test]
fn one_interrupt_lets_an_agent_of_a_run_end_its_work() {
    let desk = desk();
    let repo = desk.repo.to_string_lossy().into_owned();
    let words = ["run", "--repo", &repo, "--title", "Make it", "--agent", "worker", "--no-tests", "--key", "ONE"];
    let run = desk.begin(&words, || at_work(&desk));
    interrupt(&run);
    until(&desk, "its word", || log(&desk).contains("interrupted: what runs may end"));
    assert!(at_work(&desk), "the agent was not disturbed");
    std::fs::write(desk.path("go"), "").expect("written");
    assert_eq!(ended(&desk, run).code(), Some(130), "{}", log(&desk));
    desk.nothing_is_left();
    let agents = "SELECT count(*) FROM jobs WHERE kind = 'agent'";
    assert_eq!(count(&desk, agents), 1);
    if count(&desk, "SELECT count(*) FROM tasks WHERE done_at IS NOT NULL") == 0 {
        let again = desk.orch(&words);
        assert_eq!(again.status.code(), Some(0), "{}{}", text(&again.stdout), text(&again.stderr));
    }
    assert_eq!(git(&desk.repo, &["log", "--format=%s", "main"]), "Make it\nBegin", "what it had made is what landed");
    assert_eq!(count(&desk, agents), 1, "nobody worked twice");
}

#[test]
fn two_interrupts_end_a_run_at_once_and_the_same_words_go_on_with_it() {
    let desk = desk();
    interrupted_twice(&desk, "TWICE", &["--no-tests"]);
    assert_eq!(git(&desk.repo, &["log", "--format=%s", "main"]), "Begin");
    std::fs::write(desk.path("go"), "").expect("written");
    let again = desk.run(&["--agent", "worker", "--no-tests", "--key", "TWICE"]);
    assert_eq!(again.status.code(), Some(0), "{}{}", text(&again.stdout), text(&again.stderr));
    assert_eq!(git(&desk.repo, &["show", "main:made.txt"]), "made");
    desk.nothing_is_left();
}

#[test]
fn what_an_interrupted_run_left_is_never_finished_by_other_tests_or_another_agent() {
    let desk = desk();
    interrupted_twice(&desk, "CAREFUL", &["--test-cmd", "exit 1"]);
    let quick = "echo $ORCH_TASK > $ORCH_TASK; git add -A; git commit -q -m Quick";
    let other = desk.run(&["--agent-cmd", quick, "--no-tests", "--key", "QUICK"]);
    let said = text(&other.stderr);
    assert_eq!(other.status.code(), Some(0), "{said}{}", text(&other.stdout));
    assert!(said.contains("CAREFUL") && said.contains("is left as it is") && said.contains("other settings"), "{said}");
    assert_eq!(git(&desk.repo, &["ls-tree", "--name-only", "main"]), "QUICK\ncheck.sh");
    for other in [&["--agent", "worker", "--no-tests"][..], &["--agent-cmd", quick, "--test-cmd", "exit 1"]] {
        let words = ["CAREFUL was handed in with other settings", "--new-settings", "--stop"];
        refused(&desk.run(&[other, &["--key", "CAREFUL"]].concat()), 2, &words);
    }
    let live = "SELECT count(*) FROM tasks WHERE orig_key = 'CAREFUL' AND cancelled_at IS NULL AND done_at IS NULL";
    assert_eq!(count(&desk, live), 1, "nothing was done to it");

    let ended = desk.run(&["--key", "CAREFUL", "--stop"]);
    assert_eq!(ended.status.code(), Some(0), "{}{}", text(&ended.stdout), text(&ended.stderr));
    assert_eq!(count(&desk, live), 0);
    desk.nothing_is_left();
}

#[test]
fn a_blocked_task_of_an_earlier_run_is_in_nobodys_way() {
    let desk = desk();
    std::fs::write(desk.path("go"), "").expect("written");
    let blocked = desk.run(&["--agent-cmd", "exit 0", "--no-tests", "--key", "IDLE"]);
    assert_eq!(blocked.status.code(), Some(1), "{}", text(&blocked.stdout));
    let other = desk.run(&["--agent", "worker", "--no-tests", "--key", "OTHER"]);
    assert_eq!(other.status.code(), Some(0), "{}{}", text(&other.stdout), text(&other.stderr));
    desk.nothing_is_left();
}

#[test]
fn one_interrupt_drains_a_supervisor_and_two_end_what_runs() {
    for twice in [false, true] {
        let desk = desk();
        let serve = desk.begin(&["serve"], || desk.path("data/http.addr").exists());
        let added = desk.orch(&["task", "add", "--title", "Make it"]);
        assert_eq!(added.status.code(), Some(0), "{}", text(&added.stderr));
        until(&desk, "the agent", || at_work(&desk));
        interrupt(&serve);
        until(&desk, "the drain", || log(&desk).contains("SIGINT"));
        assert!(at_work(&desk), "the first one disturbs nobody: {}", log(&desk));
        if twice {
            interrupt(&serve);
        } else {
            std::fs::write(desk.path("go"), "").expect("written");
        }
        assert!(ended(&desk, serve).success(), "{}", log(&desk));
        let end = if twice { "cancelled" } else { "ended" };
        let agents = format!("SELECT count(*) FROM jobs WHERE kind = 'agent' AND status = '{end}'");
        assert_eq!(count(&desk, &agents), 1, "by itself only where it was let: {}", log(&desk));
        desk.nothing_is_left();
    }
}

#[test]
fn a_verdict_that_nobody_reads_is_no_success() {
    let desk = desk();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut gate =
        desk.command(&["gate", "merge", "--repo", &desk.repo.to_string_lossy(), "--base", "main", "--head", "main"]);
    let status = gate.stdout(writer).stderr(std::process::Stdio::null()).status().expect("it starts");
    assert_eq!(status.code(), Some(141));
}
