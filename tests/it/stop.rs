//! STOP, from every state: ends `cancelled` (or honestly `done`) with a receipt in which every step is proven.

use std::path::Path;
use std::time::Duration;

use orch_actors::api::{ControlError, Submit};
use orch_domain::ids::Generation;
use orch_domain::stop::{Level, Receipt, StepResult, StopStep};
use orch_domain::task::Status;
use orch_domain::view::TaskView;
use orch_store::Store;
use ractor::ActorStatus;

use crate::world::crash::{Hold, processes_of};
use crate::world::{Setup, World, commit_file};

const GOOD: &str = "attempts:\n- - write: {path: good.txt, content: \"x\\n\"}\n  - commit: {message: Add good}\n";
const SLOW: &str = "attempts:\n- - write: {path: slow.txt, content: \"x\\n\"}\n  - say: {text: here}\n  - wait_for: {path: /nowhere/never}\n";
const WILD: &str = "attempts:\n\
    - - write: {path: wild.txt, content: \"x\\n\"}\n  \
      - misbehave: ignore_term\n  \
      - misbehave: {daemon: {seconds: 600, pid_file: daemon.pid}}\n  \
      - run: {cmd: 'while [ ! -s daemon.pid ]; do sleep 0.02; done'}\n  \
      - say: {text: the daemon is out}\n  \
      - misbehave: hang\n";

fn store(world: &World) -> Store {
    world.running().handle().context().store.clone()
}

/// Waits for the receipt to hold every step; each has to be proven.
pub(crate) async fn proven(world: &World, task: &TaskView) -> Receipt {
    let begun = tokio::time::Instant::now();
    loop {
        let receipt = world.receipt(task).await.expect("there is a receipt");
        if StopStep::ALL.iter().all(|step| receipt.lines.iter().any(|line| line.step == *step)) {
            for line in &receipt.lines {
                let good = matches!(line.result, StepResult::Done { .. } | StepResult::Nothing { .. });
                assert!(good, "{:?} is not proven: {:?}", line.step, line.result);
            }
            return receipt;
        }
        assert!(begun.elapsed() < crate::world::BOUND, "the receipt stays unfinished: {receipt:#?}");
        tokio::task::yield_now().await;
    }
}

fn text_of(receipt: &Receipt, step: StopStep) -> String {
    let line = receipt.lines.iter().find(|line| line.step == step).expect("the step is there");
    match &line.result {
        StepResult::Done { proof } | StepResult::Nothing { proof } => proof.clone(),
        other => panic!("{step:?}: {other:?}"),
    }
}

/// Stops a task, waits for the end, and checks everything that a STOP promises.
async fn stop_and_check(world: &World, task: &TaskView) -> Receipt {
    let before = world.look(task).await;
    let answer = world.stop(task).await;
    assert!(answer.first);
    world.expect_status(task, Status::Cancelled).await;
    let receipt = proven(world, task).await;
    assert_eq!(receipt.outcome, "cancelled");
    let again = world.stop(task).await;
    assert!(!again.first, "a second STOP is told that it was not the first");
    assert_eq!(again.task.status, Status::Cancelled);
    let jobs = store(world).jobs_of(&task.id).await.expect("jobs");
    assert!(jobs.iter().all(|job| !job.status.is_live()), "{jobs:#?}");
    let spaces = std::fs::read_dir(world.data().join("workspaces")).into_iter().flatten().flatten();
    let left: Vec<_> = spaces.filter(|e| e.file_name().to_string_lossy().starts_with(task.id.as_str())).collect();
    assert!(left.is_empty(), "{left:?}");
    let branch = format!("refs/heads/{}", before.task.branch);
    assert_eq!(world.git(&["for-each-ref", &branch]), "", "the branch is gone");
    receipt
}

/// The key is free: a new life under it is the second generation.
async fn reborn(world: &World, task: &TaskView) -> TaskView {
    let submit = Submit { title: "Once more".into(), key: Some(task.key.clone()), ..Submit::default() };
    let reborn = world.submit_as(submit).await;
    assert_eq!(reborn.generation, Generation(2));
    reborn
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_for_a_slot_a_dependency_or_a_person_is_stopped_at_once() {
    let world = Setup::default().agent("slow", SLOW).agent("good", GOOD).limits(|l| l.max_concurrency = 1).open().await;
    let holder = world.submit("Hold the slot").await;
    world.expect_status(&holder, Status::Running).await;
    let queued = world.submit("Wait for the slot").await;
    let submit =
        Submit { title: "Wait for the other".into(), depends_on: vec![queued.key.clone()], ..Submit::default() };
    let dependent = world.submit_as(submit).await;
    world.until(&dependent, "waiting", |d| d.why.waits_for.contains(queued.key.as_str())).await;
    stop_and_check(&world, &dependent).await;
    stop_and_check(&world, &queued).await;
    let reborn = reborn(&world, &queued).await;
    stop_and_check(&world, &reborn).await;
    stop_and_check(&world, &holder).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ignores_term_and_hides_a_daemon_is_stopped_with_all_it_started() {
    let world = Setup::default().agent("wild", WILD).open().await;
    let task = world.submit("Run wild").await;
    world.until(&task, "out of hand", |d| d.why.waits_for.contains("the daemon is out") || said(d)).await;
    assert!(processes_of(world.root()).iter().any(|p| p.contains("sleep 600")), "the daemon runs");
    let receipt = stop_and_check(&world, &task).await;
    assert!(text_of(&receipt, StopStep::Salvage).contains("kept as"), "its unpushed work is kept: {receipt:#?}");
    let left: Vec<String> = processes_of(world.root()).into_iter().filter(|p| p.contains("sleep 600")).collect();
    assert!(left.is_empty(), "the daemon outlived its task: {left:?}");
    world.close().await;
}

fn said(detail: &orch_domain::view::TaskDetail) -> bool {
    detail.task.doing.contains("the daemon is out") || format!("{:?}", detail.why).contains("the daemon is out")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_check_is_ended_with_its_process() {
    let world = Setup::default()
        .agent("good", GOOD)
        .repo(|r| r.commands.test = Some("touch started; exec sleep 600".into()))
        .open()
        .await;
    let task = world.submit("Be tested").await;
    wait("the check to run", || checkout_has(&world, "started")).await;
    let receipt = stop_and_check(&world, &task).await;
    let kept = text_of(&receipt, StopStep::Salvage);
    assert!(kept.contains("(commits)"), "what was committed and never landed is kept: {kept}");
    let next = reborn(&world, &task).await;
    stop_and_check(&world, &next).await;
    world.close().await;
}

/// Main moves while the agent works, so the landing tests a tree that the stage has not seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_landing_that_still_tests_is_ended_at_its_border_and_nothing_lands() {
    let signals = tempfile::tempdir().expect("a folder");
    let go = signals.path().join("go");
    let script = format!(
        "attempts:\n- - write: {{path: good.txt, content: \"x\\n\"}}\n  - commit: {{message: Add good}}\n  - wait_for: {{path: {}}}\n",
        go.display()
    );
    let world = Setup::default()
        .agent("gated", &script)
        .repo(|r| {
            let line = "if [ -e other.txt ]; then touch started; exec sleep 600; fi; echo '1 passed, 0 failed'";
            r.commands.test = Some(line.into());
        })
        .open()
        .await;
    let task = world.submit("Be tested in the lane").await;
    wait("the workspace", || workspace_has(&world, "good.txt")).await;
    commit_file(&world.repo, "other.txt", "x\n", "Move main");
    let main = world.git(&["rev-parse", "main"]);
    std::fs::write(&go, "").expect("written");
    wait("the landing's tests", || checkout_has(&world, "started")).await;
    assert_eq!(world.look(&task).await.task.status, Status::Landing);
    let receipt = stop_and_check(&world, &task).await;
    assert!(text_of(&receipt, StopStep::Window).contains("no irreversible step"), "{receipt:#?}");
    assert_eq!(world.git(&["rev-parse", "main"]), main);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_window_waits_for_its_honest_end_and_those_behind_it_leave_the_lane() {
    for lands in [true, false] {
        let world = Setup::default().agent("good", GOOD).open().await;
        let hold = Hold::new(world.root(), &world.repo);
        let first = world.submit("Land").await;
        wait("a push at the door", || hold.entered()).await;
        let behind = world.submit("Wait behind it").await;
        world.expect_status(&behind, Status::Landing).await;
        stop_and_check(&world, &behind).await;
        let answer = world.stop(&first).await;
        assert_eq!(answer.task.status, Status::Stopping);
        let main = world.git(&["rev-parse", "main"]);
        let now = world.look(&first).await;
        assert_eq!(now.task.status, Status::Stopping, "an intent that was sent is waited for");
        match lands {
            true => {
                hold.let_through();
                world.expect_status(&first, Status::Done).await;
                let receipt = proven(&world, &first).await;
                assert_eq!(receipt.outcome, "done");
                assert!(text_of(&receipt, StopStep::Window).contains("is on main"), "{receipt:#?}");
                assert_ne!(world.git(&["rev-parse", "main"]), main);
                let text = world.journal(&first).await.join("\n");
                assert!(text.contains("the STOP came too late"), "{text}");
            }
            false => {
                hold.turn_down();
                world.expect_status(&first, Status::Cancelled).await;
                proven(&world, &first).await;
                assert_eq!(world.git(&["rev-parse", "main"]), main);
            }
        }
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_wait_for_a_turn_an_approval_or_a_time_or_are_blocked_are_stopped() {
    let limited = "attempts:\n- - rate_limit: {text: come back later}\n";
    let red = "attempts:\n- - write: {path: red, content: \"x\"}\n  - commit: {message: Break it}\n";
    let world = Setup::default()
        .agent("good", GOOD)
        .agent("limited", limited)
        .agent("red", red)
        .repo(|r| {
            r.land = orch_domain::policy::LandMode::Approval;
            r.serial = true;
        })
        .limits(|l| {
            l.max_developer_retries = 0;
            l.deferral_delay = orch_domain::time::Millis::from_mins(5);
            l.deferral_delay_max = orch_domain::time::Millis::from_mins(5);
        })
        .open()
        .await;
    let approval = world.submit("Wait for approval").await;
    world.until(&approval, "waiting for approval", |d| d.why.waits_for.contains("approval")).await;
    let turn = world.submit("Wait for a turn").await;
    world.until(&turn, "waiting for its turn", |d| d.why.waits_for.contains("turn")).await;
    let later = world.submit_for("limited", "Wait for a time").await;
    world.until(&later, "waiting for a time", |d| d.why.waits_for.contains("come back later")).await;
    for task in [&turn, &later, &approval] {
        stop_and_check(&world, task).await;
    }
    let blocked = world.submit_for("red", "Be blocked").await;
    world.expect_status(&blocked, Status::Blocked).await;
    stop_and_check(&world, &blocked).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_done_task_says_that_there_is_nothing_to_stop() {
    let world = Setup::default().agent("good", GOOD).open().await;
    let task = world.submit("Land").await;
    world.expect_status(&task, Status::Done).await;
    let answer = world.stop(&task).await;
    assert!(!answer.first);
    assert_eq!(answer.task.status, Status::Done);
    assert!(matches!(world.receipt(&task).await, Err(ControlError::NotFound(_))));
    world.close().await;
}

/// What a landing clears away behind itself goes by the same steps as a STOP, and is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_landing_is_never_shown_as_a_stop() {
    let world = Setup::default().agent("good", GOOD).open().await;
    let task = world.submit("Land").await;
    world.expect_status(&task, Status::Done).await;
    let branch = format!("refs/heads/{}", task.branch);
    loop {
        let gone = world.git(&["for-each-ref", &branch]).is_empty();
        let shown = world.control().queue().await.expect("the queue").stop;
        assert!(shown.under_way.is_empty() && shown.pending.is_empty(), "{shown:#?}");
        if gone {
            break;
        }
        tokio::task::yield_now().await;
    }
    world.close().await;
}

/// Submit and STOP as close together as can be, at every distance the scheduler finds.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_same_moment_as_the_submit_always_ends_cancelled() {
    let world = Setup::default().agent("slow", SLOW).open().await;
    let mut tasks = Vec::new();
    for n in 0..30 {
        let control = world.control();
        let key: orch_domain::names::TaskKey = format!("RACE-{n}").parse().expect("a key");
        let stop = tokio::spawn({
            let (control, key) = (control.clone(), key.clone());
            async move {
                loop {
                    match control.stop(key.as_str(), "test", "test").await {
                        Err(ControlError::NotFound(_)) => tokio::task::yield_now().await,
                        other => return other.expect("recorded"),
                    }
                }
            }
        });
        let submit = Submit { title: format!("Race {n}"), key: Some(key), ..Submit::default() };
        let task = world.submit_as(submit).await;
        assert!(stop.await.expect("no panic").first);
        tasks.push(task);
    }
    for task in &tasks {
        world.expect_status(task, Status::Cancelled).await;
        proven(&world, task).await;
    }
    world.close().await;
}

/// The actors themselves are looked at, not what they say of themselves.
#[tokio::test(flavor = "multi_thread")]
async fn when_the_receipt_says_that_the_actors_have_ended_they_have() {
    let world = Setup::default().agent("slow", SLOW).agent("wild", WILD).open().await;
    for agent in ["slow", "wild", "slow", "wild", "slow"] {
        let task = world.submit_for(agent, "Have actors").await;
        wait("its work", || workspace_has(&world, &format!("{agent}.txt"))).await;
        let router = world.running().handle().directory().router().expect("it runs");
        let mut actors = Vec::new();
        for task in router.get_children() {
            actors.extend(task.get_children());
            actors.push(task);
        }
        assert!(actors.len() >= 2, "TaskActor and AgentActor: {}", actors.len());
        world.stop(&task).await;
        let begun = tokio::time::Instant::now();
        let said = |receipt: &Receipt| receipt.lines.iter().any(|line| line.step == StopStep::Actors);
        while !world.receipt(&task).await.is_ok_and(|receipt| said(&receipt)) {
            assert!(begun.elapsed() < crate::world::BOUND, "the receipt never names the actors");
            tokio::task::yield_now().await;
        }
        let alive: Vec<_> = actors.iter().filter(|actor| actor.get_status() != ActorStatus::Stopped).collect();
        assert!(alive.is_empty(), "{agent}: {alive:?}");
        proven(&world, &task).await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_a_short_run_end_and_keeps_its_result() {
    let signals = tempfile::tempdir().expect("a folder");
    let go = signals.path().join("go");
    let script = format!(
        "attempts:\n- - write: {{path: good.txt, content: \"x\\n\"}}\n  - wait_for: {{path: {}}}\n  - commit: {{message: Add good}}\n",
        go.display()
    );
    let mut world = Setup::default().agent("gated", &script).open().await;
    let task = world.submit("Be drained").await;
    wait("work in the workspace", || workspace_has(&world, "good.txt")).await;
    let running = world.take_running();
    let control = running.control();
    let ending = tokio::spawn(running.shutdown(Level::Drain, Duration::from_secs(60)));
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while control.ready().await.ready {
        tick.tick().await;
    }
    let refused = control.submit(Submit { title: "Too late".into(), ..Submit::default() }, "test").await;
    assert!(matches!(refused, Err(ControlError::Unavailable(_))), "a draining supervisor takes no task");
    drop(control);
    std::fs::write(&go, "").expect("written");
    ending.await.expect("it ends");
    assert_eq!(processes_of(world.root()), Vec::<String>::new());
    world.boot().await;
    world.expect_status(&task, Status::Done).await;
    let agents =
        store(&world).runs(&task.id).await.expect("runs").into_iter().filter(|r| r.run.kind == "agent").count();
    assert_eq!(agents, 1, "its result was kept: the agent did not have to run again");
    world.close().await;
}

/// The kill switch works until the end, also for a task that nobody works on.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_a_drain_is_carried_out_before_the_supervisor_ends() {
    let signals = tempfile::tempdir().expect("a folder");
    let go = signals.path().join("go");
    let script = format!(
        "attempts:\n- - write: {{path: good.txt, content: \"x\\n\"}}\n  - wait_for: {{path: {}}}\n  - commit: {{message: Add good}}\n",
        go.display()
    );
    let mut world = Setup::default().agent("gated", &script).limits(|l| l.max_concurrency = 1).open().await;
    let works = world.submit("Be drained").await;
    wait("work in the workspace", || workspace_has(&world, "good.txt")).await;
    let queued = world.submit("Wait for the slot").await;
    world.until(&queued, "queued", |d| d.task.status == Status::Queued).await;
    let running = world.take_running();
    let control = running.control();
    let ending = tokio::spawn(running.shutdown(Level::Drain, Duration::from_secs(60)));
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while control.ready().await.ready {
        tick.tick().await;
    }
    assert!(control.stop(queued.id.as_str(), "test", "test").await.expect("stopped").first);
    let carried_out = tokio::time::timeout(crate::world::BOUND, async {
        while !control.receipt(queued.id.as_str()).await.is_ok_and(|receipt| receipt.is_whole()) {
            tick.tick().await;
        }
    });
    carried_out.await.expect("carried out while the other still works");
    assert!(!ending.is_finished(), "the other task's agent is at work");
    drop(control);
    std::fs::write(&go, "").expect("written");
    ending.await.expect("it ends");
    world.boot().await;
    world.expect_status(&queued, Status::Cancelled).await;
    world.expect_status(&works, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_interrupts_a_long_run_at_the_deadline_and_the_next_start_resumes_it() {
    let script = "attempts:\n\
        - - write: {path: half.txt, content: \"x\\n\"}\n  - wait_for: {path: /nowhere/never}\n\
        - - run: {cmd: 'test -e half.txt'}\n  - write: {path: whole.txt, content: \"x\\n\"}\n  - commit: {message: Go on}\n";
    let mut world = Setup::default().agent("long", script).open().await;
    let task = world.submit("Be interrupted").await;
    wait("work in the workspace", || workspace_has(&world, "half.txt")).await;
    world.take_running().shutdown(Level::Drain, Duration::from_millis(200)).await;
    assert_eq!(processes_of(world.root()), Vec::<String>::new());
    world.boot().await;
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["ls-tree", "--name-only", "main"]), "check.sh\nhalf.txt\nwhole.txt");
    world.close().await;
}

/// Tests in the lane are no irreversible step: a drain lets them run until its deadline and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_the_landing_tests_at_the_deadline_and_the_next_start_lands() {
    let signals = tempfile::tempdir().expect("a folder");
    let (go, free) = (signals.path().join("go"), signals.path().join("free"));
    let script = format!(
        "attempts:\n- - write: {{path: good.txt, content: \"x\\n\"}}\n  - commit: {{message: Add good}}\n  - wait_for: {{path: {}}}\n",
        go.display()
    );
    let line = format!(
        "if [ -e other.txt ] && [ ! -e {} ]; then touch started; exec sleep 600; fi; echo '1 passed, 0 failed'",
        free.display()
    );
    let mut world = Setup::default().agent("gated", &script).repo(|r| r.commands.test = Some(line)).open().await;
    let task = world.submit("Be tested in the lane").await;
    wait("the workspace", || workspace_has(&world, "good.txt")).await;
    commit_file(&world.repo, "other.txt", "x\n", "Move main");
    std::fs::write(&go, "").expect("written");
    wait("the landing's tests", || checkout_has(&world, "started")).await;
    let ended = tokio::time::timeout(
        crate::world::BOUND,
        world.take_running().shutdown(Level::Drain, Duration::from_millis(300)),
    );
    ended.await.expect("the deadline holds");
    assert_eq!(processes_of(world.root()), Vec::<String>::new());
    std::fs::write(&free, "").expect("written");
    world.boot().await;
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_at_any_level_waits_for_the_window() {
    for level in [Level::Drain, Level::Kill] {
        let mut world = Setup::default().agent("good", GOOD).open().await;
        let hold = Hold::new(world.root(), &world.repo);
        let task = world.submit("Land").await;
        wait("a push at the door", || hold.entered()).await;
        let ending = tokio::spawn(world.take_running().shutdown(level, Duration::from_millis(100)));
        // Its tasks have ended by now; the window alone holds it.
        wait_some(|| ending.is_finished()).await;
        assert!(!ending.is_finished(), "it did not wait for the window");
        hold.let_through();
        ending.await.expect("it ends");
        assert_eq!(world.git(&["rev-list", "--count", "main"]), "2", "the window was brought to its end");
        world.boot().await;
        world.expect_status(&task, Status::Done).await;
        assert_eq!(world.git(&["rev-list", "--count", "main"]), "2");
        world.close().await;
    }
}

/// Gives something that must not happen a fair chance to.
async fn wait_some(happened: impl Fn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..50 {
        if happened() {
            return;
        }
        tick.tick().await;
    }
}

fn any_has(dir: &Path, file: &str) -> bool {
    let folders = std::fs::read_dir(dir).into_iter().flatten().flatten();
    folders.into_iter().any(|entry| entry.path().join("tree").join(file).exists())
}

fn checkout_has(world: &World, file: &str) -> bool {
    any_has(&world.data().join("checkouts"), file)
}

fn workspace_has(world: &World, file: &str) -> bool {
    any_has(&world.data().join("workspaces"), file)
}

async fn wait(what: &str, holds: impl Fn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let begun = tokio::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < crate::world::BOUND, "waited in vain for {what}");
        tick.tick().await;
    }
}
