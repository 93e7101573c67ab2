//! Whether a lane takes work, and in which order: pausing, draining, resuming; priorities that starve nobody.

use orch_actors::api::{ControlError, Submit};
use orch_domain::lane::LaneMode;
use orch_domain::names::RepoName;
use orch_domain::task::Status;
use orch_domain::view::TaskView;

use crate::world::{Setup, World};

/// Writes a file named after the task.
const OWN_FILE: &str =
    "attempts:\n- - run: {cmd: \"echo x > $ORCH_TASK.txt && git add -A && git commit -q -m $ORCH_TASK\"}\n";

fn demo() -> RepoName {
    "demo".parse().expect("a name")
}

fn ask(name: &str, priority: i32) -> Submit {
    let key = Some(name.parse().expect("a key"));
    Submit { title: format!("Task {name}"), key, priority, ..Submit::default() }
}

async fn set(world: &World, mode: LaneMode, why: &str) {
    world.control().set_lane_mode(&demo(), mode, why, "ann").await.expect("the lane's mode is set");
}

/// Waits until the task waits for a lane that does not run.
async fn until_shut_out(world: &World, task: &TaskView) {
    world.until(task, "shut out of the lane", |d| d.why.waits_for == "the lane of demo to run again").await;
}

/// Tests of ONE wait for the sign `go` where main has moved: what is held is its landing's test.
fn held_landing() -> Setup {
    Setup::default().agent("quick", OWN_FILE).config(|c| {
        let signs = c.data_dir.with_file_name("go").display().to_string();
        let test = format!(
            "test -e moved.txt && test -e ONE.txt || {{ echo '1 passed, 0 failed'; exit 0; }}; while test ! -e {signs}; do sleep 0.02; done; echo '1 passed, 0 failed'"
        );
        for repo in c.repos.values_mut() {
            repo.commands.test = Some(test.clone());
        }
    })
}

/// Puts the task's landing test on hold: main has moved, so the caught-up tree is tested anew.
async fn hold(world: &World, name: &str) -> TaskView {
    set(world, LaneMode::Paused, "to move main in between").await;
    let task = world.submit_as(ask(name, 0)).await;
    until_shut_out(world, &task).await;
    world.person_pushes("moved.txt", "x", "Move main");
    set(world, LaneMode::Running, "").await;
    world.until_test_run(&task, 2).await;
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_lane_lands_nothing_says_who_paused_it_and_why_and_lands_when_it_is_resumed() {
    let mut world = Setup::default().agent("quick", OWN_FILE).open().await;
    let before = world.git(&["rev-parse", "main"]);
    set(&world, LaneMode::Paused, "main is red").await;
    let task = world.submit_as(ask("ONE", 0)).await;
    until_shut_out(&world, &task).await;
    let why = world.look(&task).await.why;
    let held = why.held_by.expect("somebody holds it");
    assert!(held.starts_with("paused by ann since ") && held.ends_with(": main is red"), "{held}");
    assert_eq!(why.hint.as_deref(), Some("orch repo resume demo"));
    let queued = world.wait_for("it to stand in the lane's queue", async || {
        let lane = world.control().queue().await.expect("a queue").merge.remove(0);
        (!lane.lease.queue.is_empty()).then_some(lane)
    });
    assert_eq!(queued.await.lane.mode, LaneMode::Paused);
    // It stays closed over a restart: the mode is stored, not remembered.
    world.shut_down().await;
    world.boot().await;
    until_shut_out(&world, &task).await;
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    set(&world, LaneMode::Running, "mended").await;
    world.expect_status(&task, Status::Done).await;
    let repos = world.control().repos().await.expect("repositories");
    assert_eq!((repos[0].lane.mode, repos[0].lane.why.as_deref()), (LaneMode::Running, Some("mended")));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_is_not_closed_without_a_reason_and_only_one_that_there_is() {
    let world = Setup::default().agent("quick", OWN_FILE).open().await;
    let refused = world.control().set_lane_mode(&demo(), LaneMode::Paused, " ", "ann").await;
    assert!(matches!(refused, Err(ControlError::Invalid(_))), "{refused:?}");
    let other = "other".parse().expect("a name");
    let refused = world.control().set_lane_mode(&other, LaneMode::Paused, "why", "ann").await;
    assert!(matches!(&refused, Err(ControlError::NotFound(text)) if text.contains("known: demo")), "{refused:?}");
    assert_eq!(world.control().repos().await.expect("repositories")[0].lane.mode, LaneMode::Running);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_lane_ends_what_is_under_way_and_begins_nothing() {
    let world = held_landing().open_bare().await;
    let first = hold(&world, "ONE").await;
    let second = world.submit_as(ask("TWO", 0)).await;
    world.until(&second, "in the lane", |d| d.task.status == Status::Landing).await;
    set(&world, LaneMode::Draining, "a release is cut").await;
    until_shut_out(&world, &second).await;
    world.give("go");
    let first = world.expect_status(&first, Status::Done).await;
    until_shut_out(&world, &second).await;
    assert_eq!(world.git(&["rev-parse", "main"]), first.task.landed.expect("landed").sha.to_string());
    set(&world, LaneMode::Running, "").await;
    world.expect_status(&second, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_ends_the_tests_of_what_is_under_way_and_blames_nobody() {
    let world = held_landing().open_bare().await;
    let task = hold(&world, "ONE").await;
    let before = world.git(&["rev-parse", "main"]);
    set(&world, LaneMode::Paused, "stop everything").await;
    until_shut_out(&world, &task).await;
    assert!(world.control().leases().await.expect("leases").iter().all(|l| l.holder.is_none()), "the lease is free");
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    world.give("go");
    set(&world, LaneMode::Running, "").await;
    let done = world.expect_status(&task, Status::Done).await;
    let attempts = done.task.attempts;
    assert_eq!((attempts.developer_retries, attempts.infrastructure, attempts.deferrals), (0, 0, 0));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_low_priority_is_overtaken_as_often_as_the_settings_allow_and_then_lands() {
    let world = Setup::default().agent("quick", OWN_FILE).limits(|l| l.max_overtaken = 2).open().await;
    set(&world, LaneMode::Paused, "to let them gather").await;
    let low = world.submit_as(ask("LOW", 0)).await;
    until_shut_out(&world, &low).await;
    let mut urgent = Vec::new();
    for n in 1..=4 {
        urgent.push(world.submit_as(ask(&format!("HIGH-{n}"), 5)).await);
    }
    for task in &urgent {
        until_shut_out(&world, task).await;
    }
    set(&world, LaneMode::Running, "").await;
    for task in urgent.iter().chain([&low]) {
        world.expect_status(task, Status::Done).await;
    }
    let landed = world.git(&["log", "--format=%s", "--reverse", "main"]);
    let order: Vec<&str> = landed.lines().skip(1).map(|line| line.split('-').next().expect("a part")).collect();
    assert_eq!(order, ["HIGH", "HIGH", "LOW", "HIGH", "HIGH"]);
    let lane = world.control().queue().await.expect("a queue").merge.remove(0);
    assert_eq!((lane.statistics.turns, lane.statistics.landed, lane.landings.len()), (5, 5, 5));
    assert!(lane.statistics.wait_p95_ms >= lane.statistics.wait_p50_ms && lane.statistics.test_ms.0 > 0);
    assert!(lane.lease.holder.is_none() && lane.lease.epoch.0 >= 5, "free, after five landings: {:?}", lane.lease);
    world.close().await;
}
