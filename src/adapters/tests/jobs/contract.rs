//! What every placement promises, asked of the real one and of the fake.

use std::sync::Arc;

use orch_adapters::jobs::{FakeEnd, FakePlacement, FakeRun, Runner, UnrecordedLedger};
use orch_adapters::ports::{EndLevel, JobError, JobSpec, Observed, Placement};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;

use crate::support::{World, bounded};

/// The jobs of the contract, by label; each placement has its own way to make them.
const SPEAKS: &str = "speaks";
const HANGS: &str = "hangs";
const STUBBORN: &str = "stubborn";
const MISSING: &str = "missing";

fn real(world: &World, label: &str) -> JobSpec {
    let mut spec = match label {
        SPEAKS => world.sh("echo hello; exit 3"),
        HANGS => world.job(&["sleep", "1000"]),
        STUBBORN => world.sh("trap '' TERM; while :; do sleep 1000; done"),
        _ => world.job(&["no-such-program-xyz"]),
    };
    spec.label = label.to_owned();
    spec.limits.grace = Millis(300);
    spec
}

fn script(spec: &JobSpec) -> FakeRun {
    match spec.label.as_str() {
        SPEAKS => FakeRun::exits(3, "hello\n"),
        HANGS => FakeRun::ends(FakeEnd::Hangs),
        STUBBORN => FakeRun::ends(FakeEnd::IgnoresTerm),
        _ => FakeRun::ends(FakeEnd::CouldNotStart { why: "program `no-such-program-xyz`: ENOENT".to_owned() }),
    }
}

async fn contract(world: &World, placement: Arc<dyn Placement>) {
    let runner = Runner::new(Arc::clone(&placement), Arc::new(UnrecordedLedger));

    // Runs to its end, keeps code and output; the same folder is not used twice.
    let spec = real(world, SPEAKS);
    let job = bounded(runner.run(spec.clone())).await.expect("ran");
    assert_eq!((&job.exit.end, job.exit.proven_gone), (&JobEnd::Exited { code: 3 }, true));
    assert!(job.exit.started.is_some());
    assert_eq!(job.stdout(100).expect("read"), "hello\n");
    assert_eq!(job.stderr(100).expect("read"), "");
    assert!(matches!(placement.prepare(&spec).await, Err(JobError::NotStarted { .. })));

    // Idle until go, go twice is once, ending at once and twice is fine, everything is still known afterwards.
    let identity = placement.prepare(&real(world, HANGS)).await.expect("prepared");
    assert!(matches!(placement.observe(&identity).await, Ok(Observed::Idle)));
    placement.go(&identity).await.expect("gone");
    placement.go(&identity).await.expect("gone already");
    assert!(matches!(placement.observe(&identity).await, Ok(Observed::Running)));
    placement.end(&identity, EndLevel::Term).await.expect("heard");
    let exit = bounded(placement.wait(&identity)).await.expect("over");
    assert_eq!(exit.end, JobEnd::Cancelled);
    assert_eq!(bounded(placement.wait(&identity)).await.expect("still over"), exit);
    placement.end(&identity, EndLevel::Kill).await.expect("already over");
    assert!(matches!(placement.observe(&identity).await, Ok(Observed::Ended(seen)) if seen == exit));

    // Frozen and thawed as often as asked, ended although frozen; one that does not run is not frozen.
    let identity = placement.prepare(&real(world, HANGS)).await.expect("prepared");
    assert!(matches!(placement.freeze(&identity).await, Err(JobError::Refused { .. })), "it is idle");
    placement.go(&identity).await.expect("gone");
    for _ in 0..2 {
        placement.freeze(&identity).await.expect("frozen");
    }
    assert!(matches!(placement.observe(&identity).await, Ok(Observed::Running)));
    placement.thaw(&identity).await.expect("thawed");
    placement.thaw(&identity).await.expect("thawed already");
    placement.freeze(&identity).await.expect("frozen again");
    placement.end(&identity, EndLevel::Term).await.expect("heard");
    assert_eq!(bounded(placement.wait(&identity)).await.expect("over").end, JobEnd::Cancelled);
    assert!(placement.freeze(&identity).await.is_err(), "it is over");

    // Ended before it began: never started, and cannot be.
    let identity = placement.prepare(&real(world, SPEAKS)).await.expect("prepared");
    placement.end(&identity, EndLevel::Kill).await.expect("heard");
    let exit = bounded(placement.wait(&identity)).await.expect("over");
    assert_eq!((exit.end, exit.started), (JobEnd::Cancelled, None));
    assert!(matches!(placement.go(&identity).await, Err(JobError::NotStarted { .. })));

    // TERM is not enough for it; the grace or KILL is.
    for level in [EndLevel::Term, EndLevel::Kill] {
        let job = runner.start(real(world, STUBBORN)).await.expect("started");
        job.end(level).await.expect("heard");
        assert_eq!(bounded(job.wait()).await.expect("over").exit.end, JobEnd::Cancelled);
        assert!(job.is_over());
    }

    // Its own time limit.
    let mut spec = real(world, HANGS);
    spec.limits.wall = Millis(200);
    assert_eq!(bounded(runner.run(spec)).await.expect("ran").exit.end, JobEnd::TimedOut);

    // A program that is not there.
    let exit = bounded(runner.run(real(world, MISSING))).await.expect("told").exit;
    assert!(matches!(&exit.end, JobEnd::CouldNotStart { why } if why.contains("no-such-program-xyz")), "{exit:?}");
    assert_eq!(exit.started, None);
    assert!(!placement.capabilities().is_empty());
}

#[tokio::test]
async fn the_real_placement_keeps_the_contract() {
    let world = World::new();
    contract(&world, world.placement.clone()).await;
}

#[tokio::test]
async fn the_fake_placement_keeps_the_contract() {
    let world = World::new();
    contract(&world, Arc::new(FakePlacement::new(world.path("fake"), script))).await;
}

#[tokio::test(start_paused = true)]
async fn the_fake_placement_lives_in_virtual_time() {
    let world = World::new();
    let placement = Arc::new(FakePlacement::new(world.path("fake"), |spec: &JobSpec| match spec.label.as_str() {
        "late" => FakeRun::ends(FakeEnd::Exits { code: 0, after: Millis::from_mins(30) }),
        "lost" => FakeRun::ends(FakeEnd::Lost { after: Millis::from_mins(1) }),
        _ => FakeRun { not_prepared: Some("no memory".to_owned()), ..FakeRun::exits(0, "") },
    }));
    let runner = Runner::new(placement.clone(), Arc::new(UnrecordedLedger));
    let job = |label: &str| {
        let mut spec = world.sh("true");
        spec.label = label.to_owned();
        spec.limits.wall = Millis::from_mins(60);
        spec
    };
    let before = tokio::time::Instant::now();
    assert_eq!(runner.run(job("late")).await.expect("ran").exit.end, JobEnd::Exited { code: 0 });
    assert!(before.elapsed() >= Millis::from_mins(30).into());
    let lost = runner.start(job("lost")).await.expect("started");
    assert_eq!(placement.live().len(), 1);
    assert_eq!(lost.wait().await.expect("told").exit.end, JobEnd::Lost);
    assert!(matches!(placement.observe(&lost.identity).await, Ok(Observed::Gone { .. })));
    assert!(matches!(runner.run(job("none")).await, Err(JobError::NotStarted { .. })));
    assert_eq!((placement.live().len(), placement.prepared().len()), (0, 2));
}
