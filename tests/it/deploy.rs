//! `kill -9` in the middle of a deploy: the command, the health check and the rollback each happen once, and what nobody
//! saw the end of is asked for or left to a person, never done again on a guess. And several deploys of one repository,
//! retried, approved and cut in any order: what is in production never becomes older.

use orch_actors::api::Submit;
use orch_domain::lane::LaneMode;
use orch_domain::policy::{DeployMode, LandMode};
use orch_domain::task::{ApprovalOf, Status};
use orch_domain::view::{TaskDetail, TaskView};

use crate::world::crash::{MAKER, Outside};
use crate::world::{BOUND, Setup, World, git};

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
        let landed = git(&world.repo, &["rev-parse", "main"]);
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
        let landed = git(&world.repo, &["rev-parse", "main"]);
        assert_eq!(deployed.lines().collect::<Vec<_>>(), [landed.as_str()]);
        world.close(&[key]);
    }
}

// ------------------------------------------------------------------------------- what is in production never gets older

const OWN_FILE: &str =
    "attempts:\n- - run: {cmd: \"echo x > $ORCH_TASK.txt && git add -A && git commit -q -m $ORCH_TASK\"}\n";

/// A line with its commit for each deploy, which then does what the file `how` says: `fail`, `cut` (nobody sees its end);
/// without that file it is good.
fn in_order() -> Setup {
    Setup::default().agent("quick", OWN_FILE).config(|c| {
        let place = |name: &str| c.data_dir.with_file_name(name).display().to_string();
        let (deploys, how) = (place("deploys"), place("how"));
        let then = format!("case $(cat {how} 2>/dev/null) in fail) exit 3;; cut) kill -9 $$;; esac");
        for repo in c.repos.values_mut() {
            repo.commands.deploy = Some(format!("echo $ORCH_SHA >> {deploys}; {then}"));
        }
    })
}

/// From now on.
fn deploys_are(world: &World, how: &str) {
    std::fs::write(world.sign("how"), how).expect("written");
}

fn deployed(world: &World) -> Vec<String> {
    let lines = std::fs::read_to_string(world.sign("deploys")).unwrap_or_default();
    lines.lines().map(str::to_owned).collect()
}

async fn landed(world: &World, task: &TaskView) -> String {
    world.look(task).await.task.landed.expect("it has landed").sha.to_string()
}

async fn done_with(world: &World, task: &TaskView, newer: &TaskView) {
    world.expect_status(task, Status::Done).await;
    let with = format!("already deployed with {} ({})", &landed(world, newer).await[..10], newer.key);
    world.expect_journal(task, &["done: landed", &with]).await;
}

async fn set(world: &World, mode: LaneMode) {
    let demo = "demo".parse().expect("a name");
    world.control().set_lane_mode(&demo, mode, "as the story wants", "ann").await.expect("the lane's mode is set");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_failed_is_done_with_the_newer_one_that_holds_it() {
    for how in ["fail", "cut"] {
        let world = in_order().open_bare().await;
        deploys_are(&world, how);
        let older = world.submit("Fail to be deployed").await;
        world.expect_blocked(&older, if how == "fail" { "landed, deploy failed" } else { "outcome unknown" }).await;
        deploys_are(&world, "well");
        let newer = world.submit("Be deployed").await;
        world.expect_status(&newer, Status::Done).await;
        // Nobody had to ask for it.
        done_with(&world, &older, &newer).await;
        assert_eq!(deployed(&world), [landed(&world, &older).await, landed(&world, &newer).await], "{how}");
        world.close().await;
    }
}

/// It stands in the lane when the newer one goes before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_an_older_deploy_runs_nothing_once_a_newer_one_is_there() {
    let world = in_order().open_bare().await;
    deploys_are(&world, "fail");
    let older = world.submit("Fail to be deployed").await;
    world.expect_blocked(&older, "landed, deploy failed").await;
    deploys_are(&world, "well");
    set(&world, LaneMode::Paused).await;
    let submit = Submit { title: "Go before it".to_owned(), priority: 9, ..Submit::default() };
    let newer = world.submit_as(submit).await;
    let before_lane = |d: &TaskDetail| d.why.waits_for == "the lane of demo to run again";
    world.until(&newer, "shut out of the lane", before_lane).await;
    world.retry(&older).await.expect("it goes on");
    world.until(&older, "shut out of the lane", before_lane).await;
    set(&world, LaneMode::Running).await;
    done_with(&world, &older, &newer).await;
    assert_eq!(deployed(&world), [landed(&world, &older).await, landed(&world, &newer).await]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_deploy_is_not_run_over_a_newer_one_of_unknown_outcome() {
    let world = in_order().open_bare().await;
    deploys_are(&world, "fail");
    let older = world.submit("Fail to be deployed").await;
    world.expect_blocked(&older, "landed, deploy failed").await;
    deploys_are(&world, "cut");
    let newer = world.submit("Be cut").await;
    world.expect_blocked(&newer, "outcome unknown").await;
    deploys_are(&world, "well");
    world.retry(&older).await.expect("it goes on");
    let blocked = world.expect_blocked(&older, "not begun: nobody knows whether").await;
    assert!(blocked.why.waits_for.contains(newer.key.as_str()), "{:?}", blocked.why);
    assert_eq!(deployed(&world).len(), 2, "nothing was run");
    world.retry(&newer).await.expect("it goes on");
    world.expect_status(&newer, Status::Done).await;
    done_with(&world, &older, &newer).await;
    let (older, newer) = (landed(&world, &older).await, landed(&world, &newer).await);
    assert_eq!(deployed(&world), [older, newer.clone(), newer]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_deploy_whose_newer_one_failed_is_run() {
    let world = in_order().open_bare().await;
    deploys_are(&world, "fail");
    let (older, newer) = (world.submit("Fail").await, world.submit("Fail as well").await);
    for task in [&older, &newer] {
        world.expect_blocked(task, "landed, deploy failed").await;
    }
    deploys_are(&world, "well");
    let mut shas = [(landed(&world, &older).await, older), (landed(&world, &newer).await, newer)];
    if deployed(&world)[0] != shas[0].0 {
        shas.reverse();
    }
    let [(first, older), (second, newer)] = shas;
    for task in [&older, &newer] {
        world.retry(task).await.expect("it goes on");
        world.expect_status(task, Status::Done).await;
    }
    assert_eq!(deployed(&world), [first.clone(), second.clone(), first, second]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approved_out_of_order_the_older_deploy_is_done_with_the_newer_one() {
    let world = in_order().repo(|r| r.deploy_mode = DeployMode::Approval).open_bare().await;
    let older = world.submit("Be approved late").await;
    world.expect_status(&older, Status::AwaitingPerson).await;
    let newer = world.submit("Be approved first").await;
    world.expect_status(&newer, Status::AwaitingPerson).await;
    let approved = world.control().approve(newer.id.as_str(), ApprovalOf::Deploy, None, "ann").await;
    approved.expect("approved");
    world.expect_status(&newer, Status::Done).await;
    done_with(&world, &older, &newer).await;
    assert_eq!(deployed(&world), [landed(&world, &newer).await]);
    world.close().await;
}

/// A person merges on a main that has gone on: the branch alone is neither what main holds nor what anybody saw together.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_merged_is_deployed_as_main_holds_it() {
    let world = in_order().repo(|r| r.land = LandMode::PrOnly).open_bare().await;
    let task = world.submit("Be merged").await;
    let head = world.expect_status(&task, Status::AwaitingPerson).await.task.head.expect("a head");
    world.person_pushes("other.txt", "x", "Go on");
    let person = world.person();
    git(&person, &["fetch", "--quiet", "origin"]);
    git(&person, &["merge", "--quiet", "--no-ff", "-m", "Merge the task", head.as_str()]);
    git(&person, &["push", "--quiet", "origin", "main"]);
    let main = world.git(&["rev-parse", "main"]);
    assert_ne!(main, head.to_string());
    world.retry(&task).await.expect("it looks again");
    world.expect_status(&task, Status::Done).await;
    assert_eq!((deployed(&world), landed(&world, &task).await), (vec![main.clone()], main));
    world.close().await;
}

/// As after a crash: the deploy of another task is open still, and its task has not come back to it.
#[tokio::test(flavor = "multi_thread")]
async fn no_deploy_begins_while_another_one_is_open() {
    let world = in_order().open_bare().await;
    deploys_are(&world, "fail");
    let first = world.submit("Be open still").await;
    world.expect_blocked(&first, "landed, deploy failed").await;
    deploys_are(&world, "well");
    let db = rusqlite::Connection::open(world.data().join("orch.db")).expect("the store");
    db.busy_timeout(BOUND).expect("a timeout can be set");
    let set = |what: &str| db.execute_batch(&format!("UPDATE windows SET {what} WHERE kind = 'deploy'")).expect("set");
    set("closed_at = NULL, outcome = NULL");
    let second = world.submit("Wait for it").await;
    let put_off = async || {
        let journal = world.journal(&second).await;
        let said = |line: &String| line.starts_with("put-off: busy") && line.contains("is not at its end yet");
        journal.iter().any(said).then_some(())
    };
    world.wait_for("the second deploy to be put off", put_off).await;
    assert_eq!(deployed(&world).len(), 1);
    set("closed_at = opened_at, outcome = '{\"deployed\": false, \"failed\": \"exit code 3\"}'");
    world.expect_status(&second, Status::Done).await;
    assert_eq!(deployed(&world), [landed(&world, &first).await, landed(&world, &second).await]);
    world.close().await;
}
