//! `kill -9` in the middle of a deploy: the command, the health check and the rollback each happen once, and what nobody
//! saw the end of is asked for or left to a person, never done again on a guess.

use orch_domain::task::Status;

use crate::world::crash::{MAKER, Outside};

/// A command that leaves a line in `<name>s` with its guard and itself, then waits for the file `<name>-go`; every later
/// run goes straight through. Its exit code is in the file `<name>-code`, 0 without one.
fn waits(world: &Outside, name: &str) -> String {
    let place = world.root().join(name).display().to_string();
    format!(
        "echo $PPID $$ >> {place}s; if [ $(wc -l < {place}s) -eq 1 ]; then while [ ! -e {place}-go ]; do sleep 0.02; \
         done; fi; exit $(cat {place}-code 2>/dev/null || echo 0)"
    )
}

fn with_commands(names: &[&str]) -> Outside {
    let world = Outside::new(MAKER);
    let file = world.root().join("orch.yaml");
    let text = std::fs::read_to_string(&file).expect("settings");
    let own: String = names.iter().map(|name| format!(", {name}: \"{}\"", waits(&world, name))).collect();
    let test = "test: 'sh check.sh'";
    assert!(text.contains(test), "the world's settings have changed: {text}");
    std::fs::write(&file, text.replace(test, &format!("{test}{own}"))).expect("written");
    world
}

fn write(world: &Outside, name: &str, text: &str) {
    std::fs::write(world.root().join(name), text).expect("written");
}

/// How often a command ran.
fn runs(world: &Outside, name: &str) -> usize {
    std::fs::read_to_string(world.root().join(format!("{name}s"))).unwrap_or_default().lines().count()
}

fn until_runs(world: &Outside, name: &str, times: usize) {
    world.until(&format!("{times} runs of {name}"), || runs(world, name) >= times);
}

fn until_blocked(world: &Outside, text: &str) {
    let blocked = format!("SELECT count(*) FROM tasks WHERE status = '{}'", Status::Blocked.as_str());
    world.until("the task to be blocked", || world.number(&blocked) == 1);
    let said = format!("SELECT count(*) FROM tasks WHERE instr(body ->> '$.state', '{text}') > 0");
    assert_eq!(world.number(&said), 1, "it is blocked for another reason than `{text}`\n{}", world.log());
}

/// Ends a command as a power cut would: its guard and itself.
fn cut(world: &Outside, name: &str) {
    let lines = std::fs::read_to_string(world.root().join(format!("{name}s"))).expect("it ran");
    let pids = lines.lines().last().expect("a line").split(' ').map(str::to_owned);
    let killed = std::process::Command::new("kill").arg("-9").args(pids).status().expect("kill runs");
    assert!(killed.success(), "{name} was not there to be cut");
}

#[test]
fn a_kill_during_the_deploy_command_deploys_once() {
    for through_before_start in [true, false] {
        let mut world = with_commands(&["deploy"]);
        world.start();
        let key = world.submit("Be cut during the deploy");
        until_runs(&world, "deploy", 1);
        world.kill();
        if through_before_start {
            write(&world, "deploy-go", "");
        }
        world.start();
        world.until("it to be attached to", || world.journal(&key).iter().any(|kind| kind == "window-attached"));
        write(&world, "deploy-go", "");
        world.until_closed(std::slice::from_ref(&key));
        assert_eq!(runs(&world, "deploy"), 1);
        world.close(&[key]);
    }
}

#[test]
fn a_kill_during_the_health_check_deploys_once_and_asks_again() {
    let mut world = with_commands(&["deploy", "health"]);
    write(&world, "deploy-go", "");
    world.start();
    let key = world.submit("Be cut during the health check");
    until_runs(&world, "health", 1);
    world.kill();
    world.start();
    world.until("it to be attached to", || world.journal(&key).iter().any(|kind| kind == "window-attached"));
    assert_eq!(runs(&world, "health"), 1, "no second health check runs beside the first");
    write(&world, "health-go", "");
    world.until_closed(std::slice::from_ref(&key));
    assert_eq!((runs(&world, "deploy"), runs(&world, "health")), (1, 2));
    world.close(&[key]);
}

#[test]
fn a_kill_during_the_rollback_takes_it_back_once() {
    for through_before_start in [true, false] {
        let mut world = with_commands(&["deploy", "rollback"]);
        write(&world, "deploy-go", "");
        write(&world, "deploy-code", "1");
        world.start();
        let key = world.submit("Be cut during the rollback");
        until_runs(&world, "rollback", 1);
        world.kill();
        if through_before_start {
            write(&world, "rollback-go", "");
        }
        world.start();
        write(&world, "rollback-go", "");
        until_blocked(&world, "rolled back");
        assert_eq!((runs(&world, "deploy"), runs(&world, "rollback")), (1, 1));
        write(&world, "deploy-code", "0");
        world.verb(&["task", "retry", &key]).expect("a person tries the deploy again");
        world.until_closed(std::slice::from_ref(&key));
        assert_eq!((runs(&world, "deploy"), runs(&world, "rollback")), (2, 1));
        world.close(&[key]);
    }
}

#[test]
fn a_rollback_of_which_nobody_saw_the_end_is_left_to_a_person() {
    let mut world = with_commands(&["deploy", "rollback"]);
    write(&world, "deploy-go", "");
    write(&world, "deploy-code", "1");
    world.start();
    let key = world.submit("Lose the rollback");
    until_runs(&world, "rollback", 1);
    world.kill();
    cut(&world, "rollback");
    world.start();
    until_blocked(&world, "end was not seen");
    assert_eq!((runs(&world, "deploy"), runs(&world, "rollback")), (1, 1));
    write(&world, "deploy-code", "0");
    world.verb(&["task", "retry", &key]).expect("a person tries the deploy again");
    world.until_closed(std::slice::from_ref(&key));
    assert_eq!((runs(&world, "deploy"), runs(&world, "rollback")), (2, 1));
    world.close(&[key]);
}

#[test]
fn a_deploy_of_which_nobody_saw_the_end_is_asked_for() {
    for (says, deploys) in [("0", 1), ("1", 2)] {
        let mut world = with_commands(&["deploy", "deploy_status"]);
        write(&world, "deploy_status-go", "");
        write(&world, "deploy_status-code", says);
        world.start();
        let key = world.submit("Lose the deploy");
        until_runs(&world, "deploy", 1);
        world.kill();
        cut(&world, "deploy");
        world.start();
        world.until_closed(std::slice::from_ref(&key));
        assert_eq!((runs(&world, "deploy"), runs(&world, "deploy_status")), (deploys, 1));
        world.close(&[key]);
    }
}

#[test]
fn a_deploy_that_nobody_can_tell_of_is_tried_again_by_a_person_only() {
    let mut world = with_commands(&["deploy"]);
    world.start();
    let key = world.submit("Lose the deploy for good");
    until_runs(&world, "deploy", 1);
    world.kill();
    cut(&world, "deploy");
    world.start();
    until_blocked(&world, "no deploy_status command is set");
    world.kill();
    world.start();
    until_blocked(&world, "no deploy_status command is set");
    assert_eq!(runs(&world, "deploy"), 1);
    world.verb(&["task", "retry", &key]).expect("a person tries it again");
    world.until_closed(std::slice::from_ref(&key));
    assert_eq!(runs(&world, "deploy"), 2);
    world.close(&[key]);
}

/// What the window noted is what is recorded in the end, and every push was sent under the lease.
#[test]
fn a_landing_cut_in_its_window_keeps_its_proof_and_its_fence() {
    let mut world = Outside::new(MAKER);
    let hold = world.hold_pushes();
    world.start();
    let key = world.submit("Keep the proof");
    world.until("a push at the door", || hold.entered());
    world.kill();
    world.start();
    hold.let_through();
    world.until_closed(std::slice::from_ref(&key));
    let proof: String = world.db().query_row("SELECT proof FROM landings", [], |r| r.get(0)).expect("one landing");
    let proof: serde_json::Value = serde_json::from_str(&proof).expect("a proof");
    assert_eq!(proof["attached"], true, "{proof:#}");
    assert_eq!(proof["gates"][0]["verdict"], "passed", "{proof:#}");
    assert!(proof["tested_tree"].is_string(), "{proof:#}");
    assert!(world.number("SELECT count(*) FROM jobs WHERE kind = 'push'") > 0);
    let free = "SELECT count(*) FROM jobs WHERE kind = 'push' AND (lane IS NULL OR task IS NULL OR epoch = 0)";
    assert_eq!(world.number(free), 0, "a push without a fence");
    world.close(&[key]);
}

/// The receipt of a stopped task, once it is whole.
fn receipt_of(world: &Outside, key: &str) -> serde_json::Value {
    let mut receipt = serde_json::Value::Null;
    world.until("a whole receipt", || {
        receipt = world.verb(&["receipt", key]).unwrap_or_default();
        receipt["lines"].as_array().is_some_and(|lines| lines.len() == 10) && receipt["outcome"] != "stopping"
    });
    for line in receipt["lines"].as_array().expect("lines") {
        assert!(line["result"] == "done" || line["result"] == "nothing", "{line:#}");
    }
    receipt
}

fn waits_for(world: &Outside, key: &str, text: &str) {
    let mut said = String::new();
    world.until(&format!("{key} to say `{text}`"), || {
        said = world.verb(&["why", key]).map(|why| why["waits_for"].to_string()).unwrap_or_default();
        said.contains(text)
    });
}

/// A deploy is never cut: the STOP waits for it, and says so; what has landed and is deployed is done.
#[test]
fn a_stop_under_a_deploy_is_deferred_until_its_honest_end() {
    for (code, kill) in [("0", false), ("0", true), ("1", false), ("1", true)] {
        let mut world = with_commands(&["deploy"]);
        write(&world, "deploy-code", code);
        world.start();
        let key = world.submit("Be stopped under the deploy");
        until_runs(&world, "deploy", 1);
        world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
        waits_for(&world, &key, "deferred until the deploy ends");
        if kill {
            world.kill();
            world.start();
            waits_for(&world, &key, "deferred until the deploy ends");
        }
        write(&world, "deploy-go", "");
        world.until_closed(std::slice::from_ref(&key));
        let receipt = receipt_of(&world, &key);
        let window = receipt["lines"][1]["proof"].as_str().unwrap_or_default();
        assert!(window.contains("is on main, verified"), "{receipt:#}");
        // Nothing was left to stop only when the deploy has come to its good end.
        assert_eq!(receipt["outcome"], if code == "0" { "done" } else { "cancelled" }, "{receipt:#}");
        assert_eq!(runs(&world, "deploy"), 1);
        match code {
            "0" => world.close(&[key]),
            _ => landed_and_cancelled(world),
        }
    }
}

/// Nothing is wrong in the end but that main was moved for a task that is called cancelled.
fn landed_and_cancelled(mut world: Outside) {
    assert_eq!(world.problems(&[]), ["main moved 1 times for 0 tasks"]);
}

/// The same for the rollback of a failed deploy; the receipt names what has landed.
#[test]
fn a_stop_under_a_rollback_is_deferred_until_it_has_ended() {
    for kill in [false, true] {
        let mut world = with_commands(&["deploy", "rollback"]);
        write(&world, "deploy-go", "");
        write(&world, "deploy-code", "1");
        world.start();
        let key = world.submit("Be stopped under the rollback");
        until_runs(&world, "rollback", 1);
        world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
        waits_for(&world, &key, "deferred until the rollback of the deploy ends");
        if kill {
            world.kill();
            world.start();
        }
        write(&world, "rollback-go", "");
        world.until_closed(std::slice::from_ref(&key));
        let receipt = receipt_of(&world, &key);
        assert_eq!(receipt["outcome"], "cancelled", "{receipt:#}");
        assert!(receipt.to_string().contains("its deploy failed: "), "what runs now is somebody's matter: {receipt:#}");
        let told =
            "SELECT count(*) FROM outbox WHERE kind = 'notify' AND payload LIKE '%deploy of a stopped task failed%'";
        assert_eq!(world.number(told), 1);
        assert_eq!((runs(&world, "deploy"), runs(&world, "rollback")), (1, 1));
        let landed = crate::world::git(&world.repo, &["rev-parse", "main"]);
        let text: String = world
            .db()
            .query_row("SELECT text FROM journal WHERE kind = 'cancelled'", [], |row| row.get(0))
            .expect("an entry");
        assert!(text.contains(&landed[..7]), "what has landed is named: {text}");
        landed_and_cancelled(world);
    }
}

/// `orch` deploys itself: the deploy command has its service manager restart it. It asks for that and ends; or it waits until
/// the new one is there, and then the service manager has to lose its patience with the old one, which waits for its window.
#[test]
fn a_deploy_that_restarts_the_supervisor_runs_once_and_is_seen_to_its_end() {
    for waits in [false, true] {
        let mut world = Outside::new(MAKER);
        let at = world.root().display().to_string();
        let until_there =
            if waits { format!("; while [ ! -e {at}/restarted ]; do sleep 0.02; done") } else { String::new() };
        let deploy = format!("echo $ORCH_SHA >> {at}/deploys; kill -TERM $(cat {at}/pid){until_there}");
        world.change_settings("test: 'sh check.sh'", &format!("test: 'sh check.sh', deploy: \"{deploy}\""));
        world.start();
        write(&world, "pid", &world.pid().to_string());
        let key = world.submit("Deploy yourself");
        until_runs(&world, "deploy", 1);
        match waits {
            false => world.until_ended(),
            true => {
                world.until("it to drain", || world.log().contains("draining"));
                world.kill();
                let open = "SELECT count(*) FROM windows WHERE kind = 'deploy' AND closed_at IS NULL";
                assert_eq!(world.number(open), 1);
            }
        }
        world.start();
        write(&world, "restarted", "");
        world.until_closed(std::slice::from_ref(&key));
        let attached = world.journal(&key).iter().any(|kind| kind == "window-attached");
        assert_eq!(attached, waits, "{:?}", world.journal(&key));
        let deployed = std::fs::read_to_string(world.root().join("deploys")).expect("deployed");
        let landed = crate::world::git(&world.repo, &["rev-parse", "main"]);
        assert_eq!(deployed.lines().collect::<Vec<_>>(), [landed.as_str()]);
        world.close(&[key]);
    }
}
