//! Supervisors come and go: what a job does without one, and how the next one finds it.

use std::sync::Arc;

use orch_adapters::jobs::Means;
use orch_adapters::ports::{EndLevel, JobError, JobSpec, Observed, Placement};
use orch_domain::job::{Containment, JobEnd, JobIdentity, OnLoss};
use orch_domain::time::Millis;
use orch_shim::protocol::{Reply, Request, Status};
use orch_shim::record::read_exit;

use crate::support::{Client, World, animal_in, bounded, runs, until};

const WAITS: &str = "echo $$ > pid; until [ -e on ]; do sleep 0.01; done; echo done; exit 7";

/// Starts a job without a runner, so that nothing but the placement holds it.
async fn begin(world: &World, mut spec: JobSpec, on_loss: OnLoss) -> (JobIdentity, i32) {
    spec.on_loss = on_loss;
    spec.limits.grace = Millis(200);
    let identity = world.placement.prepare(&spec).await.expect("prepared");
    world.placement.go(&identity).await.expect("gone");
    let pid = animal_in(&world.path("pid"), spec.id.as_str()).await;
    (identity, pid)
}

async fn recorded(identity: &JobIdentity) -> JobEnd {
    until("an exit record", || read_exit(&identity.dir).expect("parses")).await.end
}

#[tokio::test]
async fn a_job_that_must_not_outlive_its_supervisor_ends_at_once() {
    let world = World::new();
    let (identity, pid) = begin(&world, world.sh(WAITS), OnLoss::End).await;
    let world = world.succeed();
    assert_eq!(recorded(&identity).await, JobEnd::Orphaned);
    assert!(!runs(pid));
    let exit = bounded(world.placement.wait(&identity)).await.expect("on record");
    assert_eq!(exit.end, JobEnd::Orphaned);
}

#[tokio::test]
async fn a_job_with_grace_is_adopted_with_its_output_and_exit_code() {
    let world = World::new();
    let grace = OnLoss::Grace { grace: Millis(600_000) };
    let (identity, pid) = begin(&world, world.sh(WAITS), grace).await;
    let world = world.succeed();
    assert!(runs(pid), "it waits to be adopted");
    assert!(matches!(world.placement.observe(&identity).await, Ok(Observed::Running)));
    let job = world.runner().adopt(identity);
    std::fs::write(world.path("on"), "").expect("written");
    let finished = bounded(job.wait()).await.expect("over");
    assert_eq!(finished.exit.end, JobEnd::Exited { code: 7 });
    assert_eq!(finished.stdout(100).expect("read"), "done\n");
}

#[tokio::test]
async fn a_job_with_grace_ends_when_nobody_comes_and_an_adopted_one_can_be_ended() {
    let world = World::new();
    let (identity, pid) = begin(&world, world.sh(WAITS), OnLoss::Grace { grace: Millis(200) }).await;
    let world = world.succeed();
    assert_eq!(recorded(&identity).await, JobEnd::Orphaned);
    assert!(!runs(pid));

    let other = World::new();
    let (identity, pid) = begin(&other, other.sh(WAITS), OnLoss::Grace { grace: Millis(600_000) }).await;
    let other = other.succeed();
    other.placement.end(&identity, EndLevel::Term).await.expect("heard");
    assert_eq!(bounded(other.placement.wait(&identity)).await.expect("over").end, JobEnd::Cancelled);
    assert!(!runs(pid));
    drop(world);
}

/// A tidied `/tmp`, or a session's folder that goes at the logout: the guard is still known by pid and start time.
#[tokio::test]
async fn a_job_whose_socket_was_removed_can_still_be_ended() {
    for (world, held) in World::at_each_level() {
        let (identity, pid) = begin(&world, world.sh(WAITS), OnLoss::Grace { grace: Millis(600_000) }).await;
        std::fs::remove_file(&identity.socket).expect("removed");
        let world = world.succeed();
        world.placement.end(&identity, EndLevel::Term).await.expect("told");
        let exit = bounded(world.placement.wait(&identity)).await.expect("over");
        assert!(exit.proven_gone && !runs(pid), "{held:?}: {exit:?}");
    }
}

#[tokio::test]
async fn a_window_job_runs_on_alone_and_leaves_its_record() {
    let world = World::new();
    let (identity, pid) = begin(&world, world.sh(WAITS), OnLoss::RunOn).await;
    let world = world.succeed();
    // Not even the end of the host's service stops it before its own deadline.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(identity.pid), nix::sys::signal::Signal::SIGTERM).expect("sent");
    assert!(runs(pid));
    std::fs::write(world.path("on"), "").expect("written");
    assert_eq!(recorded(&identity).await, JobEnd::Exited { code: 7 });
    let finished = bounded(world.runner().adopt(identity).wait()).await.expect("on record");
    assert_eq!(finished.exit.end, JobEnd::Exited { code: 7 });
}

/// Nobody is there to end it, so its guard does.
#[tokio::test]
async fn a_window_job_alone_is_held_to_its_own_deadline() {
    for (world, held) in World::at_each_level() {
        let mut spec = world.sh(WAITS);
        spec.limits.wall = Millis(1_500);
        let (identity, pid) = begin(&world, spec, OnLoss::RunOn).await;
        let world = world.succeed();
        assert_eq!(recorded(&identity).await, JobEnd::TimedOut, "{held:?}");
        assert!(!runs(pid), "{held:?}");
        let finished = bounded(world.runner().adopt(identity).wait()).await.expect("on record");
        assert_eq!((finished.exit.end, finished.exit.proven_gone), (JobEnd::TimedOut, true), "{held:?}");
    }
}

#[tokio::test]
async fn without_go_nothing_starts_and_the_shim_leaves() {
    let world = World::new();
    let spec = world.sh("echo ran > ran");
    let identity = world.placement.prepare(&spec).await.expect("prepared");
    assert!(matches!(world.placement.observe(&identity).await, Ok(Observed::Idle)));
    let JobEnd::CouldNotStart { why } = recorded(&identity).await else { panic!("it started") };
    assert!(why.contains("never told to begin"), "{why}");
    assert!(matches!(world.placement.go(&identity).await, Err(JobError::NotStarted { .. })));
    assert!(matches!(world.placement.observe(&identity).await, Ok(Observed::Ended(_))));
    assert!(!world.path("ran").exists());
    assert!(!identity.socket.exists(), "the socket is cleared away");
}

#[tokio::test]
async fn the_wrong_secret_learns_and_changes_nothing() {
    let world = World::new();
    let (identity, pid) = begin(&world, world.sh(WAITS), OnLoss::End).await;
    let stranger = JobIdentity { secret: "0".repeat(64), ..identity.clone() };
    let other = crate::support::placement_in(world.root.path(), Means::default());
    assert!(matches!(other.end(&stranger, EndLevel::Kill).await, Err(JobError::Unreachable { .. })));
    assert!(matches!(other.observe(&stranger).await, Err(JobError::Unreachable { .. })));
    assert!(runs(pid));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&identity.socket).expect("there").permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// A process that has nothing to do with any job.
struct Bystander(std::process::Child);

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_recorded_pid_that_is_somebody_else_is_left_alone() {
    let world = World::new();
    let mut bystander = Bystander(std::process::Command::new("sleep").arg("1000").spawn().expect("sleep"));
    let real = world.placement.prepare(&world.sh("true")).await.expect("prepared");
    let pid = i32::try_from(bystander.0.id()).expect("a pid");
    let start_ticks = orch_shim::procs::stat(pid).expect("alive").start_ticks;
    let dir = world.path("elsewhere");
    std::fs::create_dir(&dir).expect("made");
    let job = "neverstarted".parse().expect("an id");
    // A host that offers nothing to prove it by.
    let real_one = JobIdentity { containment: Containment::Shim, cgroup: None, ..real.clone() };
    let gone = JobIdentity { job, pid, start_ticks: start_ticks + 1, socket: dir.join("s"), dir, ..real_one };
    let Ok(Observed::Gone { proven_gone, .. }) = world.placement.observe(&gone).await else { panic!("found") };
    assert!(!proven_gone, "a shim that was not our child proves nothing");
    world.placement.end(&gone, EndLevel::Kill).await.expect("nothing to end");
    assert!(bystander.0.try_wait().expect("ours").is_none(), "the bystander was hit");
    let earlier = JobIdentity { boot_id: "another boot".to_owned(), ..gone };
    let Ok(Observed::Gone { proven_gone, evidence }) = world.placement.observe(&earlier).await else { panic!("found") };
    assert!(proven_gone && evidence.contains("earlier boot"), "{evidence}");
    world.placement.end(&real, EndLevel::Kill).await.expect("heard");
    assert_eq!(bounded(world.placement.wait(&real)).await.expect("over").end, JobEnd::Cancelled);
}

#[tokio::test]
async fn a_frozen_job_stands_still_with_its_clocks_and_can_be_ended() {
    let world = World::new();
    let mut spec = world.sh("echo $$ > pid; (setsid sh -c 'while :; do echo t >> ticks; done') & wait");
    spec.limits.stall = Some(Millis(1_000));
    spec.limits.wall = Millis(1_500);
    let (identity, _) = begin(&world, spec, OnLoss::End).await;
    let ticks = || std::fs::metadata(world.path("ticks")).map_or(0, |meta| meta.len());
    until("ticks", || (ticks() > 0).then_some(())).await;
    let mut client = Client::connect(&identity);
    assert_eq!(client.ask(&Request::Freeze), Reply::Done);
    let before = ticks();
    let Reply::Status(Status { frozen, processes, .. }) = client.ask(&Request::Status) else { panic!("no status") };
    assert!(frozen && processes >= 2);
    // Longer than both limits, told by the kernel's clock: nothing may happen meanwhile.
    let since = std::time::Instant::now();
    until("two seconds", || (since.elapsed().as_millis() > 2_000).then_some(())).await;
    assert_eq!(ticks(), before, "it runs although frozen");
    assert!(matches!(world.placement.observe(&identity).await, Ok(Observed::Running)));
    world.placement.end(&identity, EndLevel::Term).await.expect("heard");
    assert_eq!(bounded(world.placement.wait(&identity)).await.expect("over").end, JobEnd::Cancelled);
}

#[tokio::test]
async fn a_stopped_shim_is_woken_to_end_its_job() {
    let world = World::new();
    let (identity, pid) = begin(&world, world.sh(WAITS), OnLoss::End).await;
    let shim = nix::unistd::Pid::from_raw(identity.pid);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGSTOP).expect("sent");
    let placement: Arc<dyn Placement> = world.placement.clone();
    bounded(placement.end(&identity, EndLevel::Kill)).await.expect("heard after all");
    assert_eq!(bounded(placement.wait(&identity)).await.expect("over").end, JobEnd::Cancelled);
    assert!(!runs(pid));
}
