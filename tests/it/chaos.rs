//! Actors killed at random moments: tasks end as if nothing had happened, each lands once, nothing is left.

use std::collections::BTreeMap;
use std::time::Duration;

use orch_actors::gates::GateOrder;
use orch_domain::event::CheckEnd;
use orch_domain::task::Status;
use orch_domain::view::TaskView;
use ractor::{ActorCell, ActorStatus};

use crate::crash::Dice;
use crate::world::crash::{Hold, MAKER};
use crate::world::{BOUND, Setup, World};

/// Kills per role: below the number at which a crash loop is declared.
const MOST: u32 = 4;

/// The living actors below the root, by what they are.
fn tree(world: &World) -> Vec<(String, ActorCell)> {
    let handle = world.running().handle();
    let directory = handle.directory();
    let Some(router) = directory.router() else { return Vec::new() };
    let lanes = directory.lanes();
    let gates = directory.gates();
    let mut found = Vec::new();
    let Some(root) = router.get_cell().try_get_supervisor() else { return Vec::new() };
    for (n, child) in root.get_children().into_iter().enumerate() {
        let role = match child.get_id() {
            id if id == router.get_id() => "router".to_owned(),
            id if lanes.iter().any(|lane| lane.get_id() == id) => "lane".to_owned(),
            id if gates.as_ref().is_some_and(|gates| gates.cell().get_id() == id) => "gates".to_owned(),
            // Ledger, outbox, reconciler: they say nothing of themselves, and each is met in time.
            _ => format!("other {n}"),
        };
        found.push((role, child));
    }
    for task in router.get_children() {
        let agents = task.get_children().into_iter().map(|agent| ("agent".to_owned(), agent));
        found.extend(agents.collect::<Vec<_>>());
        found.push(("task".to_owned(), task));
    }
    found.into_iter().filter(|(_, cell)| cell.get_status() == ActorStatus::Running).collect()
}

fn number(world: &World, sql: &str) -> i64 {
    let db = rusqlite::Connection::open(world.data().join("orch.db")).expect("the store is there");
    db.busy_timeout(BOUND).expect("a timeout can be set");
    db.query_row(sql, [], |row| row.get(0)).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_land_once_each_whatever_actor_is_killed_under_them() {
    let mut dice = Dice::seeded("chaos");
    let world = Setup::default()
        .agent("maker", MAKER)
        .limits(|l| {
            l.max_concurrency = 3;
            l.max_interrupted = 200;
            l.infrastructure_retries = 200;
            l.deferrals = 200;
        })
        .open()
        .await;
    let mut tasks = Vec::new();
    for n in 0..6 {
        tasks.push(world.submit(&format!("Make number {n}")).await);
    }
    let mut struck: BTreeMap<String, u32> = BTreeMap::new();
    let mut records = world.control().watch_records();
    let mut kills = 0;
    while kills < 16 && number(&world, "SELECT count(*) FROM tasks WHERE done_at IS NULL") > 0 {
        // A few entries of the journal later; the bound is for the quiet while an actor is in its pause.
        for _ in 0..=dice.below(4) {
            let _ = tokio::time::timeout(Duration::from_millis(400), records.changed()).await;
        }
        let mut victims = tree(&world);
        victims.retain(|(role, _)| struck.get(role).is_none_or(|n| *n < MOST));
        if victims.is_empty() {
            continue;
        }
        let at = usize::try_from(dice.below(victims.len() as u64)).expect("small");
        let (role, victim) = victims.swap_remove(at);
        victim.kill();
        *struck.entry(role).or_insert(0) += 1;
        kills += 1;
    }
    for task in &tasks {
        world.expect_status(task, Status::Done).await;
    }
    landed_once(&world, &tasks);
    // A gate that was killed while its checkout was being made leaves that to the next pass of the reconciler.
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let begun = tokio::time::Instant::now();
    while std::fs::read_dir(world.data().join("checkouts")).is_ok_and(|mut left| left.next().is_some()) {
        assert!(begun.elapsed() < BOUND, "checkouts of closed tasks stay");
        world.running().handle().directory().wake_reconciler();
        tick.tick().await;
    }
    let counted = number(&world, "SELECT count(*) FROM restarts");
    let of_the_root = struck.iter().filter(|(role, _)| *role != "agent").map(|(_, n)| i64::from(*n)).sum::<i64>();
    assert!(counted > 0 || of_the_root == 0, "restarts are counted: {counted} for {struck:?}");
    world.close().await;
}

fn landed_once(world: &World, tasks: &[TaskView]) {
    for task in tasks {
        let made = format!("made/{}", task.key);
        let found = world.git(&["log", "main", "--format=%H", "--diff-filter=A", "--", &made]);
        assert_eq!(found.lines().count(), 1, "{} on main", task.key);
    }
    let moves = world.git(&["reflog", "show", "--format=%gs", "main"]).lines().count() - 1;
    assert_eq!(moves, tasks.len(), "main moved once for each");
}

/// An actor that is killed again and again is no transient fault: its task is blocked, and a person is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_ends_blocked_with_a_notice_and_takes_nothing_along() {
    let slow = "attempts:\n- - wait_for: {path: /nowhere/never}\n";
    let world = Setup::default().agent("slow", slow).agent("maker", MAKER).open().await;
    let task = world.submit("Be unlucky").await;
    world.expect_status(&task, Status::Running).await;
    let mut killed = Vec::new();
    let begun = tokio::time::Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while world.look(&task).await.task.status != Status::Blocked {
        assert!(begun.elapsed() < BOUND, "it was killed {} times and is not blocked", killed.len());
        let actor = tree(&world).into_iter().find(|(role, _)| role == "task");
        if let Some((_, actor)) = actor.filter(|(_, actor)| !killed.contains(&actor.get_id())) {
            actor.kill();
            killed.push(actor.get_id());
        }
        tick.tick().await;
    }
    assert!((4..=6).contains(&killed.len()), "killed {} times", killed.len());
    let journal = world.journal(&task).await.join("\n");
    assert!(journal.contains("blocked"), "{journal}");
    let notices = "SELECT count(*) FROM outbox WHERE kind = 'notify' AND payload LIKE '%is blocked (crash%'";
    assert!(number(&world, notices) > 0, "a person is told");
    let other = world.submit_for("maker", "Be lucky").await;
    world.expect_status(&other, Status::Done).await;
    let answer = world.stop(&task).await;
    assert!(answer.first);
    world.expect_status(&task, Status::Cancelled).await;
    world.close().await;
}

/// A landing goes on without its lane's actor; the lane's next life knows of it, and so does a STOP.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_killed_in_the_window_attaches_to_it_and_a_stop_still_waits() {
    let world = Setup::default().agent("maker", MAKER).open().await;
    let hold = Hold::new(world.root(), &world.repo);
    let task = world.submit("Land without a lane").await;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while !hold.entered() {
        tick.tick().await;
    }
    let lane = world.running().handle().directory().lanes().remove(0);
    lane.kill();
    lane.wait(Some(BOUND)).await.expect("it ends");
    let answer = world.stop(&task).await;
    assert!(answer.first);
    let dead = lane.get_id();
    while world.running().handle().directory().lanes().iter().any(|lane| lane.get_id() == dead) {
        tick.tick().await;
    }
    assert_eq!(world.look(&task).await.task.status, Status::Stopping);
    hold.let_through();
    world.expect_status(&task, Status::Done).await;
    let moves = world.git(&["reflog", "show", "--format=%gs", "main"]).lines().count() - 1;
    assert_eq!(moves, 1);
    // The turn counts, though the lane that began it is dead.
    let (demo, store) = ("demo".parse().expect("a name"), world.running().handle().context().store.clone());
    let turn = world.wait_for("its turn to be recorded", async || store.turns(&demo, 10).await.expect("turns").pop());
    assert_eq!(turn.await.end, orch_domain::turns::TurnEnd::Landed);
    drop(store);
    world.close().await;
}

/// A panic inside a gate is an answer, and the pool goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_inside_a_gate_becomes_could_not_run() {
    let world = Setup::default().agent("maker", MAKER).open().await;
    let task = world.submit("Land beside it").await;
    let gates = world.running().handle().directory().gates().expect("the pool runs");
    let order =
        GateOrder { task: task.id.clone(), label: "a gate".into(), priority: 0, lease_holder: false, alone: None };
    let end = gates.run(order, Box::pin(async { panic!("as asked") })).await.end;
    assert!(matches!(&end, CheckEnd::CouldNotRun { why } if why.contains("as asked")), "{end:?}");
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}
