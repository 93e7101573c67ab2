//! Who goes when: dependencies, turns, priorities, slots; and which moves on the board begin or end a life.

use orch_actors::api::{ControlError, Submit};
use orch_domain::names::TaskKey;
use orch_domain::task::Status;
use orch_domain::view::TaskView;

use crate::world::{GREEN, Setup, World};

/// Writes a file named after the task; waits first for a sign of the same name where one is asked for.
const OWN_FILE: &str =
    "attempts:\n- - run: {cmd: \"echo x > $ORCH_TASK.txt && git add -A && git commit -q -m $ORCH_TASK\"}\n";

/// An agent that works only once the sign `go` is given.
fn held(setup: Setup) -> Setup {
    setup.agent("quick", OWN_FILE).config(|c| {
        let sign = c.data_dir.with_file_name("go");
        let script = c.data_dir.with_file_name("held.yaml");
        let text = OWN_FILE.replace("- - run:", &format!("- - wait_for: {{path: {}}}\n  - run:", sign.display()));
        std::fs::write(&script, text).expect("the script is written");
        let mut agent = c.agents["quick"].clone();
        agent.script = Some(script);
        c.agents.insert("held".to_owned(), agent);
    })
}

fn key(text: &str) -> TaskKey {
    text.parse().expect("a key")
}

fn ask(agent: &str, name: &str) -> Submit {
    Submit { title: format!("Task {name}"), key: Some(key(name)), agent: Some(agent.to_owned()), ..Submit::default() }
}

async fn begun(world: &World, task: &TaskView) {
    world.until(task, "at work", |d| d.task.status == Status::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_for_what_it_depends_on_and_builds_on_it() {
    let world = held(Setup::default()).open().await;
    let first = world.submit_as(ask("held", "ONE")).await;
    let second = world.submit_as(Submit { depends_on: vec![key("ONE")], ..ask("quick", "TWO") }).await;
    begun(&world, &first).await;
    let waiting = world.until(&second, "waiting", |d| d.why.waits_for.contains("ONE")).await;
    assert_eq!((waiting.task.status, waiting.task.attempts.runs), (Status::Waiting, 0));
    world.give("go");
    let first = world.expect_status(&first, Status::Done).await;
    let second = world.expect_status(&second, Status::Done).await;
    assert_eq!(second.task.base, first.task.landed.map(|l| l.sha), "it began from what it had waited for");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_dependency_is_told_to_the_next_prompt() {
    let told =
        "attempts:\n- - expect_prompt: was cancelled\n  - write: {path: two, content: x}\n  - commit: {message: Two}\n";
    let world = held(Setup::default()).agent("told", told).open().await;
    let first = world.submit_as(ask("held", "ONE")).await;
    begun(&world, &first).await;
    let second = world.submit_as(Submit { depends_on: vec![key("ONE")], ..ask("told", "TWO") }).await;
    world.stop(&first).await;
    world.expect_status(&first, Status::Cancelled).await;
    world.expect_status(&second, Status::Done).await;
    world.expect_journal(&second, &["dependencies-ended", "ONE", "was cancelled"]).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_dependency_blocks_where_the_settings_say_so_until_a_person_goes_on_without_it() {
    let world = held(Setup::default())
        .repo(|r| r.on_cancelled_dependency = orch_domain::policy::OnCancelledDependency::Block)
        .open()
        .await;
    let first = world.submit_as(ask("held", "ONE")).await;
    begun(&world, &first).await;
    let second = world.submit_as(Submit { depends_on: vec![key("ONE")], ..ask("quick", "TWO") }).await;
    world.stop(&first).await;
    world.expect_blocked(&second, "its dependency ONE was cancelled").await;
    world.retry(&second).await.expect("a person goes on");
    world.expect_status(&second, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependencies_that_lead_back_are_refused_and_nothing_is_stored() {
    let world = held(Setup::default()).open().await;
    let own = Submit { depends_on: vec![key("ONE")], ..ask("quick", "ONE") };
    let refused = world.control().submit(own, "test").await.expect_err("it waits for itself");
    assert!(refused.to_string().contains("lead back to ONE itself"), "{refused}");
    assert!(world.control().tasks(Default::default()).await.expect("a list").is_empty());
    let one = world.submit_as(ask("quick", "ONE")).await;
    world.expect_status(&one, Status::Done).await;
    let two = world.submit_as(Submit { depends_on: vec![key("ONE")], ..ask("held", "TWO") }).await;
    begun(&world, &two).await;
    let around = Submit { depends_on: vec![key("TWO")], ..ask("quick", "ONE") };
    let refused = world.control().submit(around, "test").await.expect_err("a cycle of two");
    assert!(matches!(refused, ControlError::Invalid(_)), "{refused}");
    world.give("go");
    world.expect_status(&two, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_there_is_not_is_refused_and_nothing_is_stored() {
    let world = held(Setup::default()).open().await;
    let lost = Submit { depends_on: vec![key("NOPE")], ..ask("quick", "ONE") };
    let refused = world.control().submit(lost, "test").await.expect_err("it would wait for ever");
    assert!(matches!(&refused, ControlError::Invalid(text) if text.contains("there is no task `NOPE`")), "{refused}");
    assert!(world.control().tasks(Default::default()).await.expect("a list").is_empty());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_waits_for_a_gate_slot_says_who_has_it_and_what_has_no_check_waits_for_none() {
    let world = Setup::default()
        .agent("quick", OWN_FILE)
        .limits(|l| l.gate_slots = 1)
        .tests_wait_for("tested", GREEN)
        .open()
        .await;
    let first = world.submit_as(ask("quick", "ONE")).await;
    world.until_test_run(&first, 1).await;
    // No `check` is configured: development ends although the only slot is taken.
    let second = world.submit_as(ask("quick", "TWO")).await;
    world.expect_stage(&second, "testing").await;
    let waiting = world.until(&second, "waiting for a gate slot", |d| d.why.held_by.is_some()).await;
    assert_eq!(waiting.why.held_by.as_deref(), Some("1 of 1 slots: test of ONE"));
    let why = &waiting.why;
    assert!(why.waits_for.starts_with("a gate slot, for the command of testing"), "{why:?}");
    assert_eq!(why.ends_by, "another check, test or gate ending");
    let queue = world.control().queue().await.expect("a queue");
    assert_eq!(queue.waiting.iter().map(|why| why.key.as_str()).collect::<Vec<_>>(), ["TWO"]);
    let running: Vec<_> = queue.running.iter().map(|task| (task.key.as_str(), task.doing.as_str())).collect();
    assert!(matches!(running[..], [("ONE", doing)] if doing.starts_with("test on ")), "{running:?}");
    let why = world.look(&first).await.why;
    assert!(
        why.waits_for.starts_with("the command of testing runs") && !why.waits_for.contains(" or waits"),
        "{why:?}"
    );
    world.give("tested");
    world.expect_status(&first, Status::Done).await;
    world.expect_status(&second, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_repository_lets_one_task_at_a_time_past_the_first_stage() {
    // One gate slot is kept for the lane, one is held by the first task's test: the second task's check needs a third.
    let world = held(Setup::default())
        .repo(|r| r.serial = true)
        .limits(|l| l.gate_slots = 3)
        .tests_wait_for("tested", GREEN)
        .open()
        .await;
    let first = world.submit_as(ask("quick", "ONE")).await;
    world.expect_stage(&first, "testing").await;
    world.until_test_run(&first, 1).await;
    let second = world.submit_as(ask("quick", "TWO")).await;
    let waiting = world.until(&second, "waiting for its turn", |d| d.why.waits_for.contains("turn")).await;
    assert_eq!(waiting.why.held_by.as_deref(), Some("ONE"), "the wait names who holds it");
    assert_eq!(world.test_runs(&second).await, 0);
    world.give("tested");
    world.expect_status(&first, Status::Done).await;
    world.expect_status(&second, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_higher_priority_goes_first_when_a_slot_is_free() {
    let world = held(Setup::default()).limits(|l| l.max_concurrency = 1).open().await;
    let holder = world.submit_as(ask("held", "HOLD")).await;
    begun(&world, &holder).await;
    let low = world.submit_as(Submit { priority: 1, ..ask("quick", "LOW") }).await;
    let high = world.submit_as(Submit { priority: 5, ..ask("quick", "HIGH") }).await;
    let waiting = world.until(&low, "waiting for a slot", |d| d.task.status == Status::Queued).await;
    assert!(waiting.why.held_by.is_some_and(|held| held.contains("HOLD")), "the wait names who holds the slot");
    world.until(&high, "waiting for a slot", |d| d.task.status == Status::Queued).await;
    world.give("go");
    let low = world.expect_status(&low, Status::Done).await;
    let high = world.expect_status(&high, Status::Done).await;
    assert!(high.runs[0].started <= low.runs[0].started, "the low one went first");
    world.expect_status(&holder, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_slot_ten_tasks_all_land() {
    let world = Setup::default().agent("quick", OWN_FILE).limits(|l| l.max_concurrency = 1).open().await;
    let mut tasks = Vec::new();
    for n in 0..10 {
        tasks.push(world.submit_as(ask("quick", &format!("T-{n}"))).await);
    }
    for task in &tasks {
        world.expect_status(task, Status::Done).await;
    }
    let files = world.git(&["ls-tree", "--name-only", "main"]);
    for n in 0..10 {
        assert!(files.contains(&format!("T-{n}.txt")), "T-{n} did not land: {files}");
    }
    assert_eq!(world.git(&["rev-list", "--count", "main"]), "11");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_again_begins_a_second_life_that_meets_nothing_of_the_first() {
    let append = "attempts:\n- - run: {cmd: \"git log --oneline >> log.txt && git add -A && git commit -q -m Note\"}\n";
    let world = Setup::default().agent("quick", append).open().await;
    let first = world.submit_as(ask("quick", "ONE")).await;
    let first = world.expect_status(&first, Status::Done).await;
    let again = Submit { title: "Task ONE, once more".to_owned(), ..ask("quick", "ONE") };
    let second = world.submit_as(again).await;
    assert_eq!(second.title, "Task ONE, once more", "the second life is what was asked for the second time");
    let done = world.expect_status(&second, Status::Done).await;
    assert_eq!((done.task.generation.to_string().as_str(), done.task.branch.as_str()), ("2", "orch/one/2"));
    assert_eq!(done.task.base, first.task.landed.map(|l| l.sha), "it began from main");
    let lives = world.control().task("ONE", true).await.expect("both lives");
    assert_eq!(lives.iter().map(|l| l.task.generation.to_string()).collect::<Vec<_>>(), ["2", "1"]);
    let live = world.control().task("ONE/1", false).await.expect("the first life");
    assert_eq!(live[0].task.id, first.task.id);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_key_is_not_taken_twice() {
    let world = held(Setup::default()).open().await;
    let one = world.submit_as(ask("held", "ONE")).await;
    let refused = world.control().submit(ask("quick", "ONE"), "test").await.expect_err("it is live");
    assert!(matches!(refused, ControlError::Conflict(_)) && refused.to_string().contains("live"), "{refused}");
    world.give("go");
    world.expect_status(&one, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_repeated_with_its_key_is_one_task() {
    let world = Setup::default().agent("quick", OWN_FILE).open().await;
    let ask = Submit { title: "Once".to_owned(), idempotency_key: Some("request-1".to_owned()), ..Submit::default() };
    let one = world.submit_as(ask.clone()).await;
    let two = world.submit_as(ask.clone()).await;
    assert_eq!(one.id, two.id);
    world.expect_status(&one, Status::Done).await;
    assert_eq!(world.submit_as(ask).await.id, one.id, "after its end, too");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_an_item_by_hand_to_to_analyse_begins_one_life_and_to_stop_ends_it() {
    let world = held(Setup::default()).open().await;
    let first = world.submit_as(ask("held", "ONE")).await;
    begun(&world, &first).await;
    world.person_moves(&first, "STOP").await;
    world.expect_status(&first, Status::Cancelled).await;
    world.expect_on_board(&first, "Cancelled").await;
    world.person_moves(&first, "To Analyse").await;
    let second = world
        .wait_for("a second life", async || {
            let lives = world.control().task("ONE", true).await.expect("lives");
            (lives.len() == 2).then(|| lives[0].task.clone())
        })
        .await;
    world.give("go");
    world.expect_status(&second, Status::Done).await;
    world.expect_on_board(&second, "Done").await;
    assert_eq!(world.control().task("ONE", true).await.expect("lives").len(), 2, "one transition, one life");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_an_item_by_hand_to_in_progress_begins_nothing() {
    let mut world = Setup::default().agent("quick", OWN_FILE).open().await;
    let one = world.submit_as(ask("quick", "ONE")).await;
    world.expect_status(&one, Status::Done).await;
    world.expect_on_board(&one, "Done").await;
    world.person_moves(&one, "In Progress").await;
    // A restart looks at the whole board anew: whatever could be begun would be.
    world.shut_down().await;
    world.boot().await;
    let two = world.submit_as(ask("quick", "TWO")).await;
    world.expect_status(&two, Status::Done).await;
    assert_eq!(world.control().task("ONE", true).await.expect("lives").len(), 1);
    world.close().await;
}

/// A pass over the board has these next moves in hand, and gets no further.
async fn in_anothers_hand(world: &World) {
    let ctx = world.running().handle().context().clone();
    let moves = ctx.store.tracker_transitions_after(0, 1000).await.expect("the board");
    let newest = moves.last().map_or(0, |one| one.id);
    for id in newest + 1..newest + 20 {
        let body = id.to_string();
        ctx.store.accept_delivery("board", &format!("transition-{id}"), &body, ctx.now()).await.expect("accepted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hands_in_a_task_gets_its_life_also_where_a_pass_over_the_board_came_first() {
    let world = held(Setup::default()).open().await;
    in_anothers_hand(&world).await;
    let first = world.submit_as(ask("quick", "ONE")).await;
    let first = world.expect_status(&first, Status::Done).await.task;
    in_anothers_hand(&world).await;
    let second = world.submit_as(ask("held", "ONE")).await;
    assert_ne!(second.id, first.id, "the new life is told, not the one before");
    world.stop(&second).await;
    world.expect_status(&second, Status::Cancelled).await;
    world.close().await;
}
