//! Agents that outlive their supervisor: the next start goes on with their runs, as if nothing had happened.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::world::crash::{Outside, processes_of};
use crate::world::git;

/// Makes one file named after the task; says so, and waits in the middle for a sign outside of its workspace.
fn gated(signs: &Path) -> String {
    format!(
        "attempts:\n\
         - - run: {{cmd: 'mkdir -p made && echo made > made/$ORCH_TASK && touch here'}}\n  \
           - say: {{text: half of it is there}}\n  \
           - wait_for: {{path: {}}}\n  \
           - run: {{cmd: 'rm here && git add -A && git commit -q -m \"Make $ORCH_TASK\"'}}\n",
        signs.join("go").display()
    )
}

/// A world whose agents wait for the sign `go`, and the folder of signs.
fn world() -> (Outside, tempfile::TempDir) {
    let signs = tempfile::tempdir().expect("a folder");
    (Outside::new(&gated(signs.path())), signs)
}

fn give(signs: &tempfile::TempDir) {
    std::fs::write(signs.path().join("go"), "").expect("the sign is given");
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Waits until so many agents have done the half of it.
fn until_half(world: &Outside, agents: usize) {
    let spaces = world.data().join("workspaces");
    world.until(&format!("{agents} agents at work"), || {
        folders(&spaces).into_iter().filter(|run| run.join("tree/here").exists()).count() == agents
    });
}

fn agent_runs(world: &Outside) -> i64 {
    world.number("SELECT count(*) FROM runs WHERE kind = 'agent'")
}

fn attached(world: &Outside, key: &str) -> bool {
    world.journal(key).iter().any(|kind| kind == "run-attached")
}

/// The end of a task that was never interrupted, whatever happened to its supervisor.
fn ended_in_one_run(mut world: Outside, keys: &[String]) {
    world.until_closed(keys);
    for key in keys {
        let kinds = world.journal(key);
        assert!(!kinds.iter().any(|kind| kind.contains("interrupted")), "{kinds:?}");
    }
    assert_eq!(agent_runs(&world), i64::try_from(keys.len()).expect("few"), "an agent had to run again");
    world.finish();
    world.close(keys);
}

#[test]
fn an_agent_that_outlives_its_supervisor_is_gone_on_with() {
    let (mut world, signs) = world();
    world.start();
    let key = world.submit("Outlive it");
    until_half(&world, 1);
    world.kill();
    world.start();
    world.until("the run to be gone on with", || attached(&world, &key));
    world.kill();
    world.start();
    give(&signs);
    ended_in_one_run(world, &[key]);
}

/// As a service manager does that starts it again every few seconds.
#[test]
fn starts_that_are_refused_for_port_or_token_leave_the_agent_at_work() {
    let (mut world, signs) = world();
    world.start();
    let key = world.submit("Outlive refusals");
    until_half(&world, 1);
    world.kill();
    let owned = || world.number("SELECT sum(epoch) FROM tasks");
    let before = owned();

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    world.change_settings("127.0.0.1:0", &addr);
    for _ in 0..4 {
        let said = world.refused();
        assert!(said.contains(&format!("address {addr} is in use")), "{said}");
    }
    world.change_settings(&addr, "127.0.0.1:0");
    let token = world.data().join("token");
    let mode = |bits| std::fs::set_permissions(&token, std::fs::Permissions::from_mode(bits)).expect("the mode is set");
    mode(0o644);
    let said = world.refused();
    assert!(said.contains("chmod 600"), "{said}");
    mode(0o600);
    assert_eq!(owned(), before, "a start that is refused took the task over");

    world.start();
    world.until("the run to be gone on with", || attached(&world, &key));
    give(&signs);
    ended_in_one_run(world, &[key]);
}

#[test]
fn an_agent_that_ended_without_a_supervisor_is_read_from_what_it_left() {
    let (mut world, signs) = world();
    world.start();
    let key = world.submit("End alone");
    until_half(&world, 1);
    world.kill();
    give(&signs);
    world.until("the agent and its guard to be gone", || processes_of(world.root()).is_empty());
    world.start();
    world.until_closed(std::slice::from_ref(&key));
    assert!(attached(&world, &key));
    ended_in_one_run(world, &[key]);
}

#[test]
fn an_agent_for_which_nobody_comes_is_ended_and_its_work_is_gone_on_from() {
    let mut world = Outside::new(
        "attempts:\n\
         - - write: {path: left.txt, content: \"half\\n\"}\n  - misbehave: ignore_term\n  - wait_for: {path: /nowhere/never}\n\
         - - run: {cmd: 'grep -q half left.txt && mkdir made && echo whole > made/$ORCH_TASK'}\n  - commit: {message: Go on}\n",
    );
    world.change_settings("limits: {", "limits: {agent_orphan_grace: 400ms, ");
    world.start();
    let key = world.submit("Wait for nobody");
    let spaces = world.data().join("workspaces");
    world.until("work in the workspace", || folders(&spaces).into_iter().any(|run| run.join("tree/left.txt").exists()));
    world.kill();
    world.until("the agent to be ended by its guard", || processes_of(world.root()).is_empty());
    world.start();
    world.until_closed(std::slice::from_ref(&key));
    let kinds = world.journal(&key);
    assert!(kinds.iter().any(|kind| kind == "run-interrupted"), "{kinds:?}");
    assert_eq!(agent_runs(&world), 2);
    assert_eq!(git(&world.repo, &["show", "main:left.txt"]), "half");
    world.close(&[key]);
}

#[test]
fn agents_that_are_gone_on_with_keep_their_slots() {
    let (mut world, signs) = world();
    world.change_settings("max_concurrency: 3", "max_concurrency: 2");
    world.start();
    let mut keys: Vec<String> = (0..2).map(|n| world.submit(&format!("Hold slot {n}"))).collect();
    until_half(&world, 2);
    keys.push(world.submit("Wait for a slot"));
    world.kill();
    world.start();
    world.until("both runs to be gone on with", || keys[..2].iter().all(|key| attached(&world, key)));
    keys.push(world.submit("Wait for a slot, too"));
    let queue = world.verb(&["ps"]).expect("the queue");
    assert_eq!(queue["queue"]["agents"]["used"], 2, "{queue:#}");
    assert_eq!(agent_runs(&world), 2, "an agent began beyond the slots");
    give(&signs);
    ended_in_one_run(world, &keys);
}

#[test]
fn a_stop_ends_an_agent_that_was_gone_on_with() {
    let (mut world, _signs) = world();
    world.start();
    let keys: Vec<String> = (0..2).map(|n| world.submit(&format!("Be stopped {n}"))).collect();
    until_half(&world, 2);
    world.kill();
    world.start();
    // One when the run is surely gone on with, one in whatever moment of the start this is.
    world.verb(&["task", "stop", &keys[1]]).expect("the STOP is recorded");
    world.until("the run to be gone on with", || attached(&world, &keys[0]));
    world.verb(&["task", "stop", &keys[0]]).expect("the STOP is recorded");
    world.until_closed(&keys);
    for key in &keys {
        world.until("a whole receipt", || {
            world.verb(&["receipt", key]).is_ok_and(|r| r["lines"].as_array().is_some_and(|lines| lines.len() == 10))
        });
        let receipt = world.verb(&["receipt", key]).expect("a receipt");
        assert_eq!(receipt["outcome"], "cancelled");
        for line in receipt["lines"].as_array().expect("lines") {
            assert!(line["result"] == "done" || line["result"] == "nothing", "{line:#}");
        }
    }
    assert_eq!(agent_runs(&world), 2);
    world.close(&[]);
}

/// The settings have no such agent any more: nobody could read what it says, so it is ended and the work goes on.
#[test]
fn an_agent_that_the_settings_have_no_more_is_ended_and_its_work_is_gone_on_from() {
    let (mut world, _signs) = world();
    world.start();
    let key = world.submit("Change hands");
    until_half(&world, 1);
    world.kill();
    world.change_settings("maker: {kind", "other: {kind");
    world.change_settings("agent: maker", "agent: other");
    std::fs::write(
        world.root().join("agent.yaml"),
        "attempts:\n- - run: {cmd: 'test -e here && rm here'}\n  - commit: {message: Finish}\n",
    )
    .expect("written");
    world.start();
    world.until_closed(std::slice::from_ref(&key));
    assert!(!attached(&world, &key));
    assert!(world.journal(&key).iter().any(|kind| kind == "interrupted"));
    world.close(&[key]);
}

#[test]
fn a_handover_leaves_agents_at_work_and_the_next_start_goes_on_with_them() {
    let (mut world, signs) = world();
    world.start();
    let keys: Vec<String> = (0..2).map(|n| world.submit(&format!("Be handed over {n}"))).collect();
    until_half(&world, 2);
    let answer = world.hand_over();
    let left: Vec<&str> = answer["agents"].as_array().expect("a list").iter().filter_map(|key| key.as_str()).collect();
    assert!(keys.iter().all(|key| left.contains(&key.as_str())), "{answer:#}");
    assert!(!processes_of(world.root()).is_empty(), "nobody works on");
    world.start();
    world.until("the runs to be gone on with", || keys.iter().all(|key| attached(&world, key)));
    world.hand_over();
    give(&signs);
    world.until("the agents and their guards to be gone", || processes_of(world.root()).is_empty());
    world.start();
    ended_in_one_run(world, &keys);
}

/// The agent of the first task waits for `go`, the tests of the second for `tested`.
fn one_at_work_one_tested() -> (Outside, tempfile::TempDir) {
    let signs = tempfile::tempdir().expect("a folder");
    let here = signs.path().display();
    let world = Outside::new(&format!(
        "attempts:\n\
         - - run: {{cmd: 'mkdir -p made && echo made > made/$ORCH_TASK && touch here'}}\n  \
           - run: {{cmd: 'if [ $ORCH_TASK = ORC-1 ]; then while [ ! -e {here}/go ]; do sleep 0.02; done; fi'}}\n  \
           - run: {{cmd: 'rm here && git add -A && git commit -q -m \"Make $ORCH_TASK\"'}}\n"
    ));
    let test = format!("touch started; while [ ! -e {here}/tested ]; do sleep 0.02; done; sh check.sh");
    world.change_settings("test: 'sh check.sh'", &format!("test: '{test}'"));
    (world, signs)
}

/// Until the supervisor has ended, it stops whom it has left at work, too.
#[test]
fn a_stop_during_a_handover_ends_an_agent_that_was_left() {
    let (mut world, signs) = one_at_work_one_tested();
    world.start();
    let keys = [world.submit("Be left at work, and stopped"), world.submit("Be tested")];
    let (checkouts, spaces) = (world.data().join("checkouts"), world.data().join("workspaces"));
    world.until("the tests to run", || {
        folders(&checkouts).into_iter().any(|checkout| checkout.join("tree/started").exists())
    });
    until_half(&world, 1);
    let told = std::thread::scope(|scope| {
        let handover = scope.spawn(|| world.verb(&["handover", "--timeout", "60"]));
        world.until("intake to be closed", || {
            world.verb(&["ps"]).is_ok_and(|ps| ps["queue"]["intake"].as_str().is_some_and(|word| word != "open"))
        });
        let stopped = world.verb(&["task", "stop", &keys[0], "--wait"]).expect("the STOP is carried out");
        assert_eq!(folders(&spaces).len(), 0, "{stopped:#}");
        assert!(!handover.is_finished(), "it did not wait for the tests");
        std::fs::write(signs.path().join("tested"), "").expect("the sign is given");
        handover.join().expect("no panic")
    });
    told.expect("handed over");
    world.finish_by_itself();
    world.until("nothing to be left", || processes_of(world.root()).is_empty());
    world.start();
    world.until_closed(&keys);
    let cancelled = world.number("SELECT count(*) FROM tasks WHERE cancelled_at IS NOT NULL");
    assert_eq!(cancelled, 1);
    world.close(&keys[1..]);
}

/// Whatever is no agent ends first, as far as it does so in time: its result would be lost.
#[test]
fn a_handover_waits_for_tests_and_for_the_window() {
    let (mut world, signs) = one_at_work_one_tested();
    let hold = world.hold_pushes();
    world.start();
    let keys = [world.submit("Be left at work"), world.submit("Be tested and landed")];
    let checkouts = world.data().join("checkouts");
    world.until("the tests to run", || {
        folders(&checkouts).into_iter().any(|checkout| checkout.join("tree/started").exists())
    });
    until_half(&world, 1);
    let told = std::thread::scope(|scope| {
        let handover = scope.spawn(|| world.verb(&["handover", "--timeout", "60"]));
        world.until("intake to be closed", || {
            world.verb(&["ps"]).is_ok_and(|ps| ps["queue"]["intake"].as_str().is_some_and(|word| word != "open"))
        });
        assert!(!handover.is_finished(), "it did not wait for the tests");
        std::fs::write(signs.path().join("tested"), "").expect("the sign is given");
        handover.join().expect("no panic")
    });
    told.expect("handed over");
    world.finish_by_itself();
    assert!(!hold.entered(), "a landing was begun although the supervisor was to end");
    hold.let_through();
    world.start();
    world.until("the run to be gone on with", || attached(&world, &keys[0]));
    give(&signs);
    world.until_closed(&keys);
    let cut = "SELECT count(*) FROM jobs WHERE kind = 'gate' AND status = 'cancelled'";
    assert_eq!(world.number(cut), 0, "tests were cut");
    ended_in_one_run(world, &keys);
}

/// An agent that wants to stop its own task, or its supervisor, by the supervisor's own program.
#[test]
fn an_agent_cannot_stop_its_task_nor_hand_its_supervisor_over() {
    let orch = env!("CARGO_BIN_EXE_orch");
    let mut world = Outside::new(&format!(
        "attempts:\n\
         - - run: {{cmd: '{orch} task stop $ORCH_TASK 2> said; echo $? >> said; env -u ORCH_JOB {orch} handover 2>> said; echo $? >> said'}}\n  \
           - run: {{cmd: 'mkdir made && mv said made/$ORCH_TASK'}}\n  \
           - commit: {{message: Tell what was said}}\n"
    ));
    world.start();
    let key = world.submit("Stop yourself");
    world.until_closed(std::slice::from_ref(&key));
    let said = git(&world.repo, &["show", &format!("main:made/{key}")]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("inside job"), "{said}");
    assert!(lines[2].contains("inside the guard"), "{said}");
    assert_eq!((lines[1], lines[3]), ("1", "1"), "{said}");
    world.close(&[key]);
}
