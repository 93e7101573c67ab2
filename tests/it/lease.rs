//! The lane's lease: one holder, never waited for, never kept, and worth nothing once it is somebody else's.

use std::collections::VecDeque;

use orch_actors::api::Submit;
use orch_domain::ids::Epoch;
use orch_domain::lane::LaneMode;
use orch_domain::policy::{DeployMode, LandMode};
use orch_domain::stop::Level;
use orch_domain::task::Status;
use orch_domain::time::Millis;
use orch_domain::view::{TaskDetail, TaskView};
use orch_store::{Acquire, Holder, LeaseError, NewWindow, Store, WindowError, WindowKind};

use crate::world::{Setup, World};

/// Writes a file named after the task.
const OWN_FILE: &str =
    "attempts:\n- - run: {cmd: \"echo x > $ORCH_TASK.txt && git add -A && git commit -q -m $ORCH_TASK\"}\n";

fn store(world: &World) -> Store {
    world.running().handle().context().store.clone()
}

async fn set(world: &World, mode: LaneMode) {
    let demo = "demo".parse().expect("a name");
    world.control().set_lane_mode(&demo, mode, "as the story wants", "ann").await.expect("the lane's mode is set");
}

async fn until_shut_out(world: &World, task: &TaskView) {
    world.until(task, "shut out of the lane", |d| d.why.waits_for == "the lane of demo to run again").await;
}

async fn lease_is_free(world: &World) -> bool {
    world.control().leases().await.expect("leases").iter().all(|lease| lease.holder.is_none())
}

async fn refused_stale(world: &World) -> u64 {
    world.control().queue().await.expect("a queue").refused_stale_writes
}

/// Tests wait for the sign `go` once main has moved: what is held is a landing's test, under its lease.
fn held_landing() -> Setup {
    Setup::default().agent("quick", OWN_FILE).config(|c| {
        let sign = c.data_dir.with_file_name("go").display().to_string();
        let test =
            format!("test ! -e moved.txt || while test ! -e {sign}; do sleep 0.02; done; echo '1 passed, 0 failed'");
        c.gates.merge.lease_ttl = Millis(150);
        for repo in c.repos.values_mut() {
            repo.commands.test = Some(test.clone());
        }
    })
}

/// A task whose landing is at its test.
async fn hold(world: &World) -> TaskView {
    set(world, LaneMode::Paused).await;
    let task = world.submit("Be held").await;
    until_shut_out(world, &task).await;
    world.person_pushes("moved.txt", "x", "Move main");
    set(world, LaneMode::Running).await;
    world.until_test_run(&task, 2).await;
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_slot_of_each_kind_ten_ready_tasks_all_land() {
    let one = |l: &mut orch::config::Limits| {
        l.max_concurrency = 1;
        l.gate_slots = 1;
    };
    let world = Setup::default().agent("quick", OWN_FILE).limits(one).open_bare().await;
    set(&world, LaneMode::Paused).await;
    let mut tasks = Vec::new();
    for n in 0..10 {
        tasks.push(world.submit(&format!("Add number {n}")).await);
    }
    for task in &tasks {
        until_shut_out(&world, task).await;
    }
    // They wait for the lane in numbers, and hold no slot for it.
    let queue = world.wait_for("all of them to stand in the lane", async || {
        let queue = world.control().queue().await.expect("a queue");
        (queue.merge[0].lease.queue.len() == 10).then_some(queue)
    });
    let queue = queue.await;
    assert_eq!((queue.agents.used, queue.gates.used), (0, 0));
    assert!(lease_is_free(&world).await);
    set(&world, LaneMode::Running).await;
    for task in &tasks {
        world.expect_status(task, Status::Done).await;
    }
    assert_eq!(world.git(&["rev-list", "--count", "--first-parent", "main"]), "11");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_lease_is_not_waited_for_and_its_task_comes_back_by_itself() {
    let world = Setup::default().agent("quick", OWN_FILE).open_bare().await;
    let (demo, now) = ("demo".parse().expect("a name"), world.running().handle().context().now());
    let holder = Holder { task: None, purpose: "repair".to_owned() };
    let taken = store(&world).acquire_lease(&demo, holder.clone(), now.after(Millis::from_mins(1)), now).await;
    let Ok(Acquire::Acquired { epoch }) = taken else { panic!("not acquired: {taken:?}") };
    // Somebody of this very process: nothing proves that it may be taken away.
    world.running().handle().directory().note_lease(&demo, epoch);
    let task = world.submit("Find it busy").await;
    let put_off = world.until(&task, "put off", |d| d.task.attempts.deferrals >= 2).await;
    assert_eq!((put_off.task.attempts.developer_retries, put_off.task.attempts.infrastructure), (0, 0));
    world.expect_journal(&task, &["put-off: busy (1 of ", "the lane's lease is held for the repair since"]).await;
    let seen = world
        .wait_for("it to be shown as put off", async || {
            let lane = world.control().queue().await.expect("a queue").merge.remove(0);
            let put_off = lane.deferred.first().map(|d| (d.key.clone(), d.why.clone()));
            assert_eq!(lane.lease.epoch, epoch, "nobody else has had it");
            put_off
        })
        .await;
    assert!(seen.0 == task.key && seen.1.contains("held for the repair"), "{seen:?}");
    let slots = world.control().queue().await.expect("a queue");
    assert_eq!((slots.agents.used, slots.gates.used), (0, 0), "a wait holds no slot");
    store(&world).release_lease(&demo, epoch, &holder).await.expect("released");
    world.running().handle().directory().forget_lease(&demo, epoch);
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_stays_busy_ends_with_a_person() {
    let setup = Setup::default().agent("quick", OWN_FILE).config(|c| c.gates.merge.defer_max = 3);
    let world = setup.open_bare().await;
    let (demo, now) = ("demo".parse().expect("a name"), world.running().handle().context().now());
    let holder = Holder { task: None, purpose: "repair".to_owned() };
    let taken = store(&world).acquire_lease(&demo, holder.clone(), now, now).await;
    let Ok(Acquire::Acquired { epoch }) = taken else { panic!("not acquired: {taken:?}") };
    world.running().handle().directory().note_lease(&demo, epoch);
    let task = world.submit("Find it busy for ever").await;
    world.expect_blocked(&task, "the lane's lease is held for the repair").await;
    assert_eq!(world.look(&task).await.task.attempts.deferrals, 3, "as often as the settings say");
    store(&world).release_lease(&demo, epoch, &holder).await.expect("released");
    world.running().handle().directory().forget_lease(&demo, epoch);
    world.retry(&task).await.expect("it goes on");
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}

/// A lease that nobody living holds is no obstacle: taken away, with the proof in the journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_holder_is_gone_is_reclaimed_with_its_proof() {
    let world = Setup::default().agent("quick", OWN_FILE).open_bare().await;
    let (demo, now) = ("demo".parse().expect("a name"), world.running().handle().context().now());
    let gone = Holder { task: None, purpose: "a landing long ago".to_owned() };
    let taken = store(&world).acquire_lease(&demo, gone, now.after(Millis::from_mins(60)), now).await;
    let Ok(Acquire::Acquired { epoch }) = taken else { panic!("not acquired: {taken:?}") };
    let task = world.submit("Take it away").await;
    world.expect_status(&task, Status::Done).await;
    let records = store(&world).records_after(orch_domain::ids::Seq(0), 1_000).await.expect("a journal");
    let reclaimed = records.iter().find(|r| r.entry.kind == "lease-reclaimed").expect("a line about it");
    let text = format!("(epoch {epoch}) reclaimed: no landing of this process holds it");
    assert!(reclaimed.entry.text.contains(&text), "{}", reclaimed.entry.text);
    world.close().await;
}

/// A zombie: it works on in the belief that it holds the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_has_lost_its_lease_ends_its_attempt_and_changes_nothing() {
    let world = held_landing().open_bare().await;
    let task = hold(&world).await;
    let (demo, now) = ("demo".parse().expect("a name"), world.running().handle().context().now());
    let before = world.git(&["rev-parse", "main"]);
    let held = store(&world).lease(&demo).await.expect("leases").expect("held for the landing");
    store(&world).reclaim_lease(&demo, held.epoch, "the test takes it away", now).await.expect("reclaimed");
    // Its next renewal is refused; the test that it waits for is ended, and nobody is blamed.
    world
        .wait_for("the attempt to be put off", async || {
            (world.look(&task).await.task.attempts.deferrals >= 1).then_some(())
        })
        .await;
    let text = format!("the lease of demo (epoch {}) was lost", held.epoch);
    world.expect_journal(&task, &["put-off: busy", &text]).await;
    assert_eq!(world.git(&["rev-parse", "main"]), before, "nothing was sent");
    assert!(refused_stale(&world).await > 0, "a stale write was refused");
    world.give("go");
    let done = world.expect_status(&task, Status::Done).await;
    let attempts = done.task.attempts;
    assert_eq!((attempts.developer_retries, attempts.infrastructure), (0, 0));
    assert_eq!(world.git(&["rev-parse", "main^"]), before, "it landed once");
    assert!(store(&world).lease(&demo).await.expect("leases").is_none());
    world.close().await;
}

/// Whatever an old epoch still says, in any of its words.
#[tokio::test(flavor = "multi_thread")]
async fn late_words_under_an_old_epoch_are_refused_and_counted() {
    let world = held_landing().open_bare().await;
    let task = hold(&world).await;
    let (demo, now) = ("demo".parse().expect("a name"), world.running().handle().context().now());
    let (store, held) = (store(&world), store(&world).lease(&demo).await.expect("leases").expect("held"));
    let old = Epoch(held.epoch.0 - 1);
    let before = refused_stale(&world).await;
    let head = world.look(&task).await.task.head.expect("a head");
    let window = NewWindow {
        id: "wlate".parse().expect("an id"),
        kind: WindowKind::Land,
        repo: demo.clone(),
        task: task.id.clone(),
        sha: head,
        expected: None,
        epoch: old,
        detail: serde_json::Value::Null,
    };
    let stale = LeaseError::StaleEpoch { current: held.epoch };
    assert_eq!(store.renew_lease(&demo, old, now).await, Err(stale.clone()));
    assert_eq!(store.release_lease(&demo, old, &held.holder).await, Err(stale.clone()));
    assert_eq!(store.reclaim_lease(&demo, old, "an old proof", now).await, Err(stale));
    let opened = store.open_window(window, now).await;
    assert_eq!(opened, Err(WindowError::StaleEpoch { current: held.epoch }));
    assert_eq!(refused_stale(&world).await, before + 4);
    assert_eq!(store.lease(&demo).await.expect("leases").map(|l| (l.epoch, l.holder)), Some((held.epoch, held.holder)));
    world.give("go");
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}

/// One way out of a landing.
struct Row {
    what: &'static str,
    setup: Setup,
    /// What a person pushes while the task stands before the lane.
    pushed: (&'static str, &'static str),
    /// Whether the forge takes nothing more on main afterwards.
    closed: bool,
    /// Whether the person stops the task as soon as it is tested.
    stopped: bool,
    /// What it has come to.
    holds: fn(&TaskDetail) -> bool,
}

fn row(what: &'static str, setup: Setup, holds: fn(&TaskDetail) -> bool) -> Row {
    Row { what, setup, pushed: ("moved.txt", "x"), closed: false, stopped: false, holds }
}

fn test(setup: Setup, command: &str) -> Setup {
    let command = command.to_owned();
    setup.repo(move |r| r.commands.test = Some(command))
}

fn deploy(setup: Setup, command: &str) -> Setup {
    let command = command.to_owned();
    setup.repo(move |r| r.commands.deploy = Some(command))
}

/// Every state that a landing can leave a task in.
fn rows() -> VecDeque<Row> {
    let plain = || Setup::default().agent("quick", OWN_FILE);
    let again = || {
        let next = "- - wait_for: {path: /nowhere/never}\n";
        Setup::default().agent("quick", &format!("{OWN_FILE}{next}"))
    };
    // Fails together with what the person pushed, and on its own does not.
    let together = "if ls [A-Z]*-*.txt >/dev/null 2>&1 && test -e moved.txt; then echo '0 passed, 1 failed'; exit 1; fi; echo '1 passed, 0 failed'";
    let blocked = |d: &TaskDetail| d.task.status == Status::Blocked;
    let waits = |d: &TaskDetail| d.task.status == Status::Waiting && d.task.attempts.runs > 0;
    let asks = |d: &TaskDetail| d.task.status == Status::AwaitingPerson;
    let conflicting = "attempts:\n- - write: {path: shared.txt, content: mine}\n  - commit: {message: Mine}\n- - wait_for: {path: /nowhere/never}\n";
    let later = |setup: Setup| setup.config(|c| c.gates.merge.defer_delay = Millis::from_mins(1));
    let slow = |setup: Setup| {
        setup.limits(|l| {
            (l.infrastructure_delay, l.infrastructure_delay_max) = (Millis::from_mins(1), Millis::from_mins(1))
        })
    };
    VecDeque::from([
        row("done", plain(), |d| d.task.status == Status::Done),
        row("sent back", test(again(), together), |d| d.task.attempts.developer_retries == 1),
        row("retries spent", test(plain().limits(|l| l.max_developer_retries = 0), together), blocked),
        Row {
            pushed: ("shared.txt", "theirs"),
            ..row("conflict", Setup::default().agent("quick", conflicting), |d| d.task.attempts.conflicts == 1)
        },
        Row { pushed: ("red", "x"), ..row("main is red", later(plain()), waits) },
        row("infrastructure", slow(test(plain(), "test ! -e moved.txt || exit 127; echo '1 passed, 0 failed'")), waits),
        Row { closed: true, ..row("refused by the forge", plain(), blocked) },
        row("approval to land", plain().repo(|r| r.land = LandMode::Approval), asks),
        row("a person merges", plain().repo(|r| r.land = LandMode::PrOnly), asks),
        row("approval to deploy", deploy(plain(), "true").repo(|r| r.deploy_mode = DeployMode::Approval), asks),
        row("landed, deploy failed", deploy(plain(), "exit 3"), blocked),
        row("deploy, outcome unknown", deploy(plain(), "kill -9 $$"), blocked),
        Row {
            stopped: true,
            ..row("cancelled", test(plain(), "test ! -e moved.txt || sleep 600; echo '1 passed, 0 failed'"), |d| {
                d.task.status == Status::Cancelled
            })
        },
    ])
}

async fn leaves_no_lease(row: Row) {
    let world = row.setup.open_bare().await;
    set(&world, LaneMode::Paused).await;
    let task = world.submit_as(Submit { title: row.what.to_owned(), ..Submit::default() }).await;
    let before_lane =
        |d: &TaskDetail| d.why.waits_for == "the lane of demo to run again" || d.task.status == Status::AwaitingPerson;
    world.until(&task, "before the lane", before_lane).await;
    world.person_pushes(row.pushed.0, row.pushed.1, "Move main");
    if row.closed {
        world.close_main();
    }
    set(&world, LaneMode::Running).await;
    if row.stopped {
        world.until_test_run(&task, 2).await;
        world.stop(&task).await;
    }
    world.until(&task, row.what, row.holds).await;
    assert!(lease_is_free(&world).await, "{}: the lease was kept", row.what);
    assert!(store(&world).leases().await.expect("leases").is_empty(), "{}: the lease was kept", row.what);
    let mut world = world;
    world.take_running().shutdown(Level::Kill, std::time::Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_state_that_a_landing_leaves_a_task_in_keeps_the_lease() {
    let mut rows = rows();
    let few_at_a_time = async {
        while !rows.is_empty() {
            let few: Vec<_> =
                rows.drain(..rows.len().min(4)).map(|row| tokio::task::spawn_local(leaves_no_lease(row))).collect();
            for ended in few {
                if let Err(failed) = ended.await {
                    std::panic::resume_unwind(failed.into_panic());
                }
            }
        }
    };
    tokio::task::LocalSet::new().run_until(few_at_a_time).await;
}
