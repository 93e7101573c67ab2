//! `kill -9` in each step of a STOP, after it was done and before that is on record: the next start ends with the receipt that
//! an undisturbed STOP has, field by field, times and numbers of processes aside.
//!
//! The moment is held by the database itself: a trigger on the step's own line does not come to an end, so the step is
//! done, its line is not there, and the supervisor is killed over it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orch_domain::stop::StopStep;

use crate::world::crash::Outside;
use crate::world::git;

/// How long nobody else gets at the database before the writer is taken to be held.
const HELD: Duration = Duration::from_millis(300);
/// The step between the last line before the task is closed and the first one after it.
const CLOSING: &str = "closing";

/// Where a supervisor is killed.
fn moments() -> Vec<&'static str> {
    let mut all: Vec<&str> = StopStep::ALL.iter().map(|step| step.as_str()).collect();
    let tombstone = all.iter().position(|step| *step == StopStep::Tombstone.as_str()).expect("it is a step");
    all.insert(tombstone, CLOSING);
    all
}

/// From now on the change that would record this moment does not come to its end.
fn hold(world: &Outside, moment: &str) {
    let (change, when) = match moment {
        CLOSING => ("UPDATE ON tasks", "NEW.cancelled_at IS NOT NULL AND OLD.cancelled_at IS NULL".to_owned()),
        step => ("INSERT ON receipt_lines", format!("NEW.step = '{step}'")),
    };
    world
        .db()
        .execute_batch(&format!(
            "CREATE VIEW for_ever AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n;
             CREATE TRIGGER hold BEFORE {change} WHEN {when} BEGIN SELECT count(*) FROM for_ever; END;"
        ))
        .expect("the trigger is set");
}

/// Waits until the writer hangs in it: all others are kept out for longer than any change takes.
fn until_held(world: &Outside) {
    let db = world.db();
    db.busy_timeout(Duration::ZERO).expect("a timeout can be set");
    let mut since = Instant::now();
    world.until("the supervisor to hang in the step", || {
        if db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok() {
            since = Instant::now();
        }
        since.elapsed() > HELD
    });
}

fn let_go(world: &Outside) {
    world.db().execute_batch("DROP TRIGGER hold; DROP VIEW for_ever").expect("the trigger is gone");
}

/// The receipt as it reads for any task, any commit, any time: step by step.
fn receipt(world: &Outside, key: &str) -> BTreeMap<String, String> {
    let lines = format!("SELECT count(*) FROM receipt_lines JOIN tasks ON id = task WHERE orig_key = '{key}'");
    world.until("a whole receipt", || world.number(&lines) == i64::try_from(StopStep::ALL.len()).expect("few"));
    let receipt = world.verb(&["receipt", key]).expect("a receipt");
    let id: String =
        world.db().query_row("SELECT id FROM tasks WHERE orig_key = ?1", [key], |row| row.get(0)).expect("an id");
    let text = |value: &serde_json::Value| {
        let text = value.as_str().unwrap_or_default().replace(&id, "<id>").replace(key, "<key>");
        let text = text.replace(&key.to_lowercase(), "<key>");
        let is_commit = |word: &str| word.len() >= 7 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let words: Vec<&str> = text.split(' ').collect();
        let plain = |(at, word): (usize, &&str)| match words.get(at + 1).copied().unwrap_or_default() {
            // How many there were before the STOP is not the STOP's doing.
            "ended," | "shims" => "<number>".to_owned(),
            _ if is_commit(word.trim_end_matches(',')) => "<commit>".to_owned(),
            _ => (*word).to_owned(),
        };
        words.iter().enumerate().map(plain).collect::<Vec<_>>().join(" ")
    };
    let mut fields = BTreeMap::new();
    for line in receipt["lines"].as_array().expect("lines") {
        let fields_of_line = line.as_object().expect("an object").iter().filter(|(name, _)| *name != "at");
        for (name, value) in fields_of_line {
            fields.insert(format!("{} {name}", line["step"].as_str().expect("a step")), text(value));
        }
    }
    for name in ["outcome", "by", "source", "key"] {
        fields.insert(name.to_owned(), text(&receipt[name]));
    }
    // The time of the STOP is in the proof that it was recorded.
    let recorded = fields.get_mut("recorded proof").expect("it is proven");
    *recorded = recorded.rsplit_once(" at ").map(|(who, _)| who.to_owned()).expect("it has its time");
    fields
}

/// Stops a task at each moment; `at_work` waits until it is where it has to be stopped.
fn same_receipt_everywhere(mut world: Outside, at_work: impl Fn(&Outside) -> bool) {
    world.start();
    let stop = |world: &Outside, title: &str| {
        let key = world.submit(title);
        world.until("the task at work", || at_work(world));
        key
    };
    let key = stop(&world, "Be stopped in peace");
    world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
    world.until_closed(std::slice::from_ref(&key));
    let undisturbed = receipt(&world, &key);
    assert_eq!(undisturbed["outcome"], "cancelled", "{undisturbed:#?}");
    for step in StopStep::ALL {
        let result = &undisturbed[&format!("{} result", step.as_str())];
        assert!(result == "done" || result == "nothing", "{undisturbed:#?}");
    }
    for moment in moments() {
        let key = stop(&world, &format!("Be cut in {moment}"));
        hold(&world, moment);
        world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
        until_held(&world);
        world.kill();
        let_go(&world);
        world.start();
        world.until_closed(std::slice::from_ref(&key));
        assert_eq!(receipt(&world, &key), undisturbed, "cut in {moment}");
    }
    world.close(&[]);
}

/// Commits, unfinished files, a daemon, and no ear for TERM.
#[test]
fn a_kill_in_each_step_of_a_stop_leaves_the_receipt_of_an_agent_as_it_would_have_been() {
    let world = Outside::new(
        "attempts:\n\
         - - run: {cmd: 'mkdir -p made && echo half > made/half'}\n  - commit: {message: Do half of it}\n  \
           - misbehave: ignore_term\n  - misbehave: {daemon: {seconds: 600, pid_file: daemon.pid}}\n  \
           - run: {cmd: 'while [ ! -s daemon.pid ]; do sleep 0.02; done; echo more > left.txt'}\n  \
           - wait_for: {path: /nowhere/never}\n",
    );
    let spaces = world.data().join("workspaces");
    same_receipt_everywhere(world, |_| {
        let runs = std::fs::read_dir(&spaces).into_iter().flatten().flatten();
        runs.map(|run| run.path().join("tree/left.txt")).any(|left| left.exists())
    });
}

/// Its branch is at the forge, its commits are known, its last job builds for the landing.
#[test]
fn a_kill_in_each_step_of_a_stop_leaves_the_receipt_of_a_landing_as_it_would_have_been() {
    let world = Outside::new(crate::world::crash::MAKER);
    world.change_settings(
        "commands: {test: 'sh check.sh'}",
        "image: 'shop:latest'\n    commands: {test: 'sh check.sh', build_image: 'touch started; exec sleep 600'}",
    );
    let checkouts = world.data().join("checkouts");
    same_receipt_everywhere(world, |world| {
        let trees = std::fs::read_dir(&checkouts).into_iter().flatten().flatten();
        let builds = trees.map(|tree| tree.path().join("tree/started")).any(|started| started.exists());
        // The branch is shown beside the gates.
        builds && !git(&world.repo, &["for-each-ref", "refs/heads/orch"]).is_empty()
    });
}

/// Guard and supervisor are killed, on a host that offers nothing else: whether all of the job is gone is then not known.
#[test]
fn a_killed_guard_leaves_a_receipt_that_says_so_and_a_workspace_in_quarantine() {
    let mut world = Outside::new(
        "attempts:\n\
         - - write: {path: left.txt, content: \"half\\n\"}\n  - misbehave: {daemon: {seconds: 600, pid_file: daemon.pid}}\n  \
           - wait_for: {path: /nowhere/never}\n",
    );
    world.change_settings("http: {bind", "containment: {namespaces: false, cgroups: false}\nhttp: {bind");
    world.start();
    let key = world.submit("Lose its guard");
    let spaces = world.data().join("workspaces");
    world.until("the daemon", || {
        let runs = std::fs::read_dir(&spaces).into_iter().flatten().flatten();
        runs.map(|run| run.path().join("tree/daemon.pid"))
            .any(|pid| std::fs::read(pid).is_ok_and(|pid| !pid.is_empty()))
    });
    let guard = world.number("SELECT json_extract(record, '$.identity.pid') FROM jobs WHERE kind = 'agent'");
    world.kill();
    let killed = std::process::Command::new("kill").args(["-9", &guard.to_string()]).status().expect("kill runs");
    assert!(killed.success(), "the guard was there to be killed");
    world.start();
    world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
    world.until_closed(std::slice::from_ref(&key));
    let fields = receipt(&world, &key);
    assert_eq!(fields["outcome"], "cancelled", "{fields:#?}");
    assert_eq!(fields["processes result"], "unproven", "{fields:#?}");
    assert_eq!(fields["salvage result"], "kept", "{fields:#?}");
    assert!(fields["salvage because"].contains("quarantine"), "{fields:#?}");
    let aside: Vec<_> = std::fs::read_dir(world.data().join("quarantine")).expect("a folder").flatten().collect();
    assert_eq!(aside.len(), 1);
    assert_eq!(std::fs::read_to_string(aside[0].path().join("tree/left.txt")).expect("it is there"), "half\n");
    let why = std::fs::read_to_string(aside[0].path().join("why.txt")).expect("it says why");
    assert!(why.contains("nobody can say that nothing of job"), "{why}");
    // Not proven does not mean not done: what carried the job's mark has been ended.
    world.close(&[]);
}
