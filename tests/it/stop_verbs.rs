//! A STOP as a person gives it, by the program's verbs alone: wait for its receipt, look the work up, have it given back,
//! begin anew. And jobs that take more than their share, which are ended without anybody's word.

use std::path::Path;

use orch::config::KindConfig;
use orch_domain::stop::StopStep;
use orch_domain::task::Status;
use orch_domain::time::Millis;
use serde_json::Value;

use crate::world::crash::Outside;
use crate::world::{Setup, git};

/// Half done at its first life, done at its second.
const TWICE: &str = "attempts:\n\
    - - run: {cmd: 'mkdir -p made; echo half > made/half; git add -A; git commit -q -m Half; echo more > left.txt'}\n  \
      - misbehave: {daemon: {seconds: 600, pid_file: daemon.pid}}\n  - wait_for: {path: daemon.pid}\n  \
      - run: {cmd: 'touch here'}\n  - wait_for: {path: /nowhere/never}\n";
const ONCE: &str = "attempts:\n\
    - - run: {cmd: 'test ! -e left.txt && mkdir -p made && echo made > made/$ORCH_TASK'}\n  - commit: {message: Make it}\n";

fn at_work(world: &Outside) -> bool {
    let spaces = std::fs::read_dir(world.data().join("workspaces")).into_iter().flatten().flatten();
    spaces.map(|space| space.path().join("tree/here")).any(|here| here.exists())
}

fn results(receipt: &Value) -> Vec<(&str, &str)> {
    let lines = receipt["lines"].as_array().expect("lines").iter();
    lines.map(|line| (line["step"].as_str().expect("a step"), line["result"].as_str().expect("a result"))).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_person_stops_a_task_waits_for_its_receipt_takes_its_work_back_and_begins_anew() {
    let mut world = Outside::new(TWICE);
    world.start();
    let key = world.submit("Live twice");
    world.until("its work", || at_work(&world));
    let receipt = world.verb(&["task", "stop", &key, "--wait"]).expect("it waits and ends well");
    assert_eq!(
        (receipt["outcome"].as_str(), receipt["source"].as_str()),
        (Some("cancelled"), Some("cli")),
        "{receipt:#}"
    );
    let told = results(&receipt);
    assert_eq!(told.len(), StopStep::ALL.len());
    assert!(told.iter().all(|(_, result)| ["done", "nothing"].contains(result)), "{receipt:#}");
    // Closed when it came back, not soon after.
    assert_eq!(world.number("SELECT count(*) FROM tasks WHERE cancelled_at IS NOT NULL"), 1);
    assert_eq!(world.verb(&["receipt", &key]).expect("it stays"), receipt);
    let again = world.verb(&["task", "stop", &key, "--wait"]).expect("a second STOP finds the first one's end");
    assert_eq!(again, receipt);

    let all = world.verb(&["salvage", "list"]).expect("a list");
    let files_of = |one: &&Value| !one["files"].is_null();
    let id = all.as_array().expect("a list").iter().find(files_of).expect("its files are kept")["id"].as_str();
    let id = id.filter(|id| id.starts_with(&format!("{}/1/", key.to_lowercase()))).expect("by key and life");
    let shown = world.verb(&["salvage", "show", id]).expect("shown");
    assert_eq!(shown["id"], id, "{shown:#}");
    let into = world.root().join("back");
    world.verb(&["salvage", "restore", id, "--into", into.to_str().expect("UTF-8")]).expect("given back");
    assert!(files(&into).contains(&"left.txt".to_owned()) && !into.join(".git").exists(), "{:?}", files(&into));
    assert_eq!(std::fs::read_to_string(into.join("left.txt")).expect("there"), "more\n");
    assert_eq!(std::fs::read_to_string(into.join("made/half")).expect("there"), "half\n");

    std::fs::write(world.root().join("agent.yaml"), ONCE).expect("written");
    world.verb(&["task", "add", "--title", "Live twice", "--key", &key]).expect("its key is free");
    world.until_closed(std::slice::from_ref(&key));
    let lives = world.verb(&["task", "show", &key, "--all"]).expect("all lives");
    let lives: Vec<_> = lives.as_array().expect("a list").iter().map(|life| life["status"].clone()).collect();
    assert_eq!(lives, ["done", "cancelled"]);
    let newest = world.verb(&["task", "show", &key]).expect("the newest");
    assert_eq!(newest["status"], "done");
    assert_eq!(git(&world.repo, &["show", &format!("main:made/{key}")]), "made");
    world.close(&[key]);
}

#[test]
fn a_person_stops_all_tasks_of_a_repository_and_learns_how_jobs_are_held_here() {
    let mut world = Outside::new(TWICE);
    world.start();
    let keys: Vec<String> = (0..4).map(|n| world.submit(&format!("Be one of four, {n}"))).collect();
    world.until("the first at work", || at_work(&world));
    let answer = world.verb(&["repo", "stop", "demo"]).expect("the STOPs are recorded");
    assert_eq!(answer["stopped"].as_array().map(Vec::len), Some(4), "{answer:#}");
    world.until_closed(&keys);
    let told: Vec<String> = keys
        .iter()
        .map(|key| world.verb(&["task", "stop", key, "--wait"]).expect("proven")["outcome"].to_string())
        .collect();
    assert_eq!(told, ["\"cancelled\""; 4]);
    assert!(world.verb(&["repo", "stop", "nowhere"]).expect_err("there is none").contains("nowhere"));

    let said = world.verb(&["doctor"]).expect("all is well here").to_string();
    let kernel = orch_shim::landlock_abi();
    let landlock =
        if kernel == 0 { "landlock: not available".to_owned() } else { format!("landlock: version {kernel}") };
    for line in ["shim: in use", "pid namespace: ", "cgroup: ", &landlock] {
        assert!(said.contains(line), "`{line}` is not told: {said}");
    }
    world.close(&[]);
}

/// Whoever waits in a script learns by the exit code that something could not be proven, and by the receipt what.
#[test]
fn who_waits_for_a_stop_that_cannot_be_proven_is_told_so_by_the_exit_code() {
    let mut world = Outside::new(TWICE);
    world.change_settings("http: {bind", "containment: {namespaces: false, cgroups: false}\nhttp: {bind");
    world.start();
    let key = world.submit("Lose its guard");
    world.until("its work", || at_work(&world));
    let guard = world.number("SELECT json_extract(record, '$.identity.pid') FROM jobs WHERE kind = 'agent'");
    // Its own supervisor would prove what becomes of the rest: the next one cannot.
    world.kill();
    let killed = std::process::Command::new("kill").args(["-9", &guard.to_string()]).status().expect("kill runs");
    assert!(killed.success(), "the guard was there to be killed");
    world.start();
    let said = world.verb(&["task", "stop", &key, "--wait"]).expect_err("exit code 1");
    let receipt: Value =
        serde_json::Deserializer::from_str(&said).into_iter().next().expect("a receipt").expect("JSON");
    assert!(results(&receipt).contains(&("processes", "unproven")), "{receipt:#}");
    world.until_closed(&[key]);
    world.close(&[]);
}

/// Each is ended for what it does and says so; whoever is at work beside them lands.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_take_more_than_their_share_are_ended_by_name_and_others_go_on() {
    let run = |line: &str| format!("attempts:\n- - run: {{cmd: '{line}'}}\n");
    let bomb = run("printf \"sleep 0.05; sh ./bomb & sh ./bomb & wait\\n\" > bomb; sh ./bomb");
    let filler = run("head -c 60000000 /dev/zero > large; sleep 600");
    let busy = run("while :; do :; done");
    // Without a line's end in it, all of it is kept until the last of it is there.
    let hog = run("head -c 900000000 /dev/zero | tail > /dev/null; sleep 600");
    let good = "attempts:\n- - run: {cmd: 'echo x > good.txt'}\n  - commit: {message: Add good}\n";
    let world = Setup::default()
        .agent("bomb", &bomb)
        .agent("filler", &filler)
        .agent("busy", &busy)
        .agent("hog", &hog)
        .agent("good", good)
        .limits(|l| {
            l.max_concurrency = 5;
            l.max_interrupted = 0;
        })
        .config(|c| {
            let own = KindConfig {
                processes: Some(60),
                memory: Some(250_000_000),
                disk: Some(20 << 20),
                cpu_time: Some(Millis::from_secs(3)),
                ..KindConfig::default()
            };
            c.job_limits.insert("agent".to_owned(), own);
        })
        .open()
        .await;
    let mut wild = Vec::new();
    for (agent, named) in [
        ("bomb", "at most 60"),
        ("filler", "at most 20971520"),
        ("busy", "processor time"),
        ("hog", "memory, at most 250000000"),
    ] {
        wild.push((world.submit_for(agent, &format!("Take too much, {agent}")).await, named));
    }
    let good = world.submit_for("good", "Go on").await;
    world.expect_status(&good, Status::Done).await;
    for (task, named) in &wild {
        world.expect_blocked(task, "interrupted").await;
        world.expect_journal(task, &["it went over a limit", named]).await;
        world.stop(task).await;
        world.expect_status(task, Status::Cancelled).await;
    }
    world.close().await;
}
