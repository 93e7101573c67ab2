//! STOP at any moment: right at a claim, a launch, a send-back, a requeue, and at random ones by the thousand. It always
//! wins: nothing goes forward behind it, and each task ends cancelled or honestly done, with nothing left.

use std::sync::Arc;
use std::time::Duration;

use orch::config::RepoConfig;
use orch_actors::api::{Control, Submit};
use orch_domain::job::JobKind;
use orch_domain::journal::Record;
use orch_domain::stop::{Receipt, StepResult};
use orch_domain::task::Status;
use orch_domain::view::TaskView;

use crate::crash::Dice;
use crate::world::{BOUND, Setup, World, git};

/// What no task does any more behind its STOP.
const FORWARD: [&str; 14] = [
    "run-started",
    "run-ended",
    "stage-entered",
    "check-passed",
    "check-failed",
    "sent-back",
    "waiting",
    "interrupted",
    "could-not-run",
    "turn-came",
    "approved",
    "retry-requested",
    "window-opened",
    "blocked",
];

/// How many STOPs at random moments; `ORCH_TEST_STOPS=2000` is the whole number.
const STOPS: usize = 60;
/// Tasks at a time.
const BATCH: usize = 12;
/// Longest quiet behind which a moment that never comes is given up.
const QUIET: Duration = Duration::from_millis(1_500);

/// Agents of every temper.
const TEMPERS: [(&str, &str); 7] = [
    (
        "quick",
        "attempts:\n- - run: {cmd: 'mkdir -p made && echo made > made/$ORCH_TASK'}\n  - commit: {message: Make it}\n",
    ),
    (
        "working",
        "attempts:\n- - run: {cmd: 'mkdir -p made && echo made > made/$ORCH_TASK'}\n  - tool: {name: build, ms: 150}\n  - commit: {message: Make it}\n",
    ),
    ("slow", "attempts:\n- - write: {path: slow.txt, content: x}\n  - wait_for: {path: /nowhere/never}\n"),
    ("deaf", "attempts:\n- - misbehave: ignore_term\n  - write: {path: deaf.txt, content: x}\n  - misbehave: hang\n"),
    (
        "hiding",
        "attempts:\n- - misbehave: {daemon: {seconds: 600, pid_file: pid.txt}}\n  - wait_for: {path: pid.txt}\n  - wait_for: {path: /nowhere/never}\n",
    ),
    ("red", "attempts:\n- - write: {path: red, content: x}\n  - commit: {message: Break it, allow_empty: true}\n"),
    ("limited", "attempts:\n- - rate_limit: {text: later}\n"),
];

async fn world(serial: bool) -> World {
    world_with(|r| r.serial = serial).await
}

async fn world_with(change: impl FnOnce(&mut RepoConfig)) -> World {
    let mut setup = Setup::default()
        .repo(|r| {
            r.commands.check = Some("true".to_owned());
            change(r);
        })
        .limits(|l| {
            l.max_concurrency = 4;
            l.gate_slots = 2;
            l.stop_grace = orch_domain::time::Millis(150);
            l.infrastructure_retries = 50;
            l.deferrals = 200;
            l.max_developer_retries = 2;
        });
    for (name, script) in TEMPERS {
        setup = setup.agent(name, script);
    }
    setup.open().await
}

async fn records(control: &Arc<dyn Control>, task: &TaskView) -> Vec<Record> {
    control.journal(task.id.as_str(), Default::default(), 1_000).await.expect("a journal")
}

/// Waits until a task's journal satisfies `when`, it is closed, or nothing has happened for `quiet`.
async fn moment(control: &Arc<dyn Control>, task: &TaskView, quiet: Duration, when: impl Fn(&[Record]) -> bool) {
    let (mut grown, mut seen) = (control.watch_records(), 0);
    let mut since = tokio::time::Instant::now();
    loop {
        let journal = records(control, task).await;
        let now = control.task(task.id.as_str(), false).await.expect("it is there").remove(0);
        if when(&journal) || now.task.status.is_closed() || since.elapsed() > quiet {
            return;
        }
        if journal.len() > seen {
            (seen, since) = (journal.len(), tokio::time::Instant::now());
        }
        let _ = tokio::time::timeout(Duration::from_millis(100), grown.changed()).await;
    }
}

/// Everything that is wrong with the end of one stopped task. What has landed is done, unless its deploy fails.
async fn wrong_with(world: &World, task: &TaskView, moment: &str, deploys: bool) -> Vec<String> {
    let closed = world.until(task, "closed", |d| d.task.status.is_closed()).await;
    let journal = records(&world.control(), task).await;
    let kinds: Vec<&str> = journal.iter().map(|r| r.entry.kind.as_str()).collect();
    let mut wrong = Vec::new();
    let recorded = kinds.iter().position(|kind| *kind == "stop-recorded");
    // The way back is no step forward.
    let forward =
        |r: &&Record| FORWARD.contains(&r.entry.kind.as_str()) && !r.entry.text.starts_with("rollback window");
    if let Some(after) = recorded.and_then(|at| journal[at..].iter().find(forward)) {
        wrong.push(format!("`{}` came behind the STOP", after.entry.kind));
    }
    let path = format!("made/{}", task.key);
    let made = git(&world.repo, &["log", "main", "--format=%H", "--diff-filter=A", "--", &path]).lines().count();
    let landed = usize::from(closed.task.landed.is_some());
    if made != landed || (closed.task.status == Status::Done) != (landed == 1 && !deploys) {
        wrong.push(format!("{:?}, on main {made} times, landed: {:?}", closed.task.status, closed.task.landed));
    }
    // One that was done before the STOP could be recorded has none.
    if recorded.is_some() {
        let receipt =
            world.wait_for("a whole receipt", async || world.receipt(task).await.ok().filter(Receipt::is_whole)).await;
        let proven = |r: &StepResult| matches!(r, StepResult::Done { .. } | StepResult::Nothing { .. });
        if receipt.lines.iter().any(|line| !proven(&line.result)) || receipt.outcome != closed.task.status.as_str() {
            wrong.push(format!("the receipt does not prove it: {receipt:#?}"));
        }
    }
    wrong.into_iter().map(|what| format!("{} ({moment}): {what}\n  {kinds:?}", task.key)).collect()
}

async fn nothing_is_left(world: World) {
    let handle = world.running().handle();
    let jobs = handle.context().store.live_jobs().await.expect("jobs");
    assert!(jobs.iter().all(|job| job.record.task.is_none()), "{jobs:#?}");
    drop(handle);
    assert_eq!(world.git(&["for-each-ref", "refs/heads/orch"]), "", "branches are left");
    world.close().await;
}

/// A STOP in the very moment of each step forward: it is recorded before or after it, and then nothing follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_within_a_moment_of_a_claim_a_launch_a_send_back_a_requeue_or_a_turn_wins() {
    let moments: [(&str, &'static str); 8] = [
        ("quick", "submitted"),
        ("slow", "run-started"),
        ("deaf", "run-started"),
        ("quick", "run-ended"),
        ("quick", "stage-entered"),
        ("red", "sent-back"),
        ("limited", "waiting"),
        ("quick", "window-opened"),
    ];
    for serial in [false, true] {
        let world = world(serial).await;
        let mut stops = Vec::new();
        for (n, (agent, kind)) in moments.into_iter().cycle().take(16).enumerate() {
            let task = world.submit_for(agent, &format!("Moment {n}")).await;
            let (control, stopped) = (world.control(), task.clone());
            let stop = tokio::spawn(async move {
                moment(&control, &stopped, BOUND, |records| records.iter().any(|r| r.entry.kind == kind)).await;
                control.stop(stopped.id.as_str(), "test", "test").await.expect("recorded");
            });
            stops.push((task, kind, stop));
        }
        let mut wrong = Vec::new();
        for (task, kind, stop) in stops {
            stop.await.expect("it was stopped");
            wrong.extend(wrong_with(&world, &task, kind, false).await);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        nothing_is_left(world).await;
    }
}

/// The same around a deploy that fails: a rollback that is owed is done, once, however the STOP falls.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_within_a_moment_of_a_landing_a_deploy_or_its_rollback_leaves_nothing_half_done() {
    let moments = ["land window opened", "deploy window opened", "rollback window opened", "blocked"];
    let world = world_with(|r| {
        r.commands.deploy = Some("exit 1".to_owned());
        r.commands.rollback = Some("true".to_owned());
    })
    .await;
    let mut stops = Vec::new();
    for (n, text) in moments.into_iter().cycle().take(12).enumerate() {
        let task = world.submit_for("quick", &format!("Moment {n}")).await;
        let (control, stopped) = (world.control(), task.clone());
        let stop = tokio::spawn(async move {
            let seen = |r: &Record| r.entry.text.starts_with(text) || r.entry.kind == text;
            moment(&control, &stopped, BOUND, |records| records.iter().any(seen)).await;
            control.stop(stopped.id.as_str(), "test", "test").await.expect("recorded");
        });
        stops.push((task, text, stop));
    }
    let (mut wrong, mut taken_back) = (Vec::new(), 0);
    for (task, text, stop) in stops {
        stop.await.expect("it was stopped");
        wrong.extend(wrong_with(&world, &task, text, true).await);
        let jobs = world.running().handle().context().store.jobs_of(&task.id).await.expect("jobs");
        let begun = |kind| jobs.iter().filter(|job| job.record.kind == kind).count();
        let (deploys, rollbacks) = (begun(JobKind::Deploy), begun(JobKind::DeployAid));
        if deploys > 1 || rollbacks != deploys {
            wrong.push(format!("{} ({text}): {deploys} deploys, {rollbacks} rollbacks", task.key));
        }
        if text != moments[0] && deploys == 0 {
            wrong.push(format!("{} ({text}): its moment never came", task.key));
        }
        taken_back += rollbacks;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(taken_back >= 9, "{taken_back}");
    nothing_is_left(world).await;
}

/// The fast part of two thousand: docs/testing.md has the whole.
#[tokio::test(flavor = "multi_thread")]
async fn stops_at_random_moments_end_cancelled_or_honestly_done_with_nothing_left() {
    let mut dice = Dice::seeded("random STOPs");
    let all = std::env::var("ORCH_TEST_STOPS").ok().and_then(|n| n.parse().ok()).unwrap_or(STOPS);
    let world = world(false).await;
    let (mut done, mut cancelled) = (0, 0);
    while done + cancelled < all {
        let mut stops = Vec::new();
        for _ in 0..BATCH.min(all - done - cancelled) {
            // Most are of the two that land: that is where most can go wrong.
            let roll = usize::try_from(dice.below(12)).expect("small");
            let agent = TEMPERS[if roll < TEMPERS.len() { roll } else { roll % 2 }].0;
            let submit = Submit {
                title: format!("Stop me, {agent}"),
                agent: Some(agent.to_owned()),
                priority: i32::try_from(dice.below(3)).expect("small"),
                ..Submit::default()
            };
            let task = world.submit_as(submit).await;
            let (behind, pause) = (dice.below(18), Duration::from_micros(dice.below(40_000)));
            let (control, stopped) = (world.control(), task.clone());
            let stop = tokio::spawn(async move {
                moment(&control, &stopped, QUIET, |records| records.len() as u64 >= behind).await;
                // Somewhere between that entry and the next; the pause is the moment itself, nothing is waited for.
                let _ = tokio::time::timeout(pause, std::future::pending::<()>()).await;
                control.stop(stopped.id.as_str(), "test", "test").await.expect("recorded");
            });
            stops.push((task, format!("{agent}, {pause:?} behind entry {behind}"), stop));
        }
        let mut wrong = Vec::new();
        for (task, moment, stop) in stops {
            stop.await.expect("it was stopped");
            wrong.extend(wrong_with(&world, &task, &moment, false).await);
            match world.look(&task).await.task.status {
                Status::Done => done += 1,
                _ => cancelled += 1,
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        if all > STOPS {
            eprintln!("{} of {all} stopped: {cancelled} cancelled, {done} done", done + cancelled);
        }
    }
    nothing_is_left(world).await;
}
