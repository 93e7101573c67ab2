//! The zoo of escapes: whatever a job forks, and however, is gone when the job is over.

use std::fs;

use orch_adapters::ports::{EndLevel, JobSpec};
use orch_domain::job::{JobEnd, JobExit};
use orch_domain::time::Millis;

use crate::support::{World, bounded, marked, number_in, runs, until};

/// Starts a job, waits until its animal is out (it has written its pid), and returns that pid with the handle.
async fn let_out(world: &World, spec: JobSpec) -> (orch_adapters::jobs::RunningJob, i32) {
    let pid_file = spec.cwd.join("pid");
    let job = world.runner().start(spec).await.expect("started");
    let pid = number_in(&pid_file).await;
    (job, pid)
}

async fn ends_all(script: &str, level: EndLevel, grace: u64) -> JobExit {
    let world = World::new();
    let mut spec = world.sh(script);
    spec.limits.grace = Millis(grace);
    let id = spec.id.to_string();
    let (job, animal) = let_out(&world, spec).await;
    job.end(level).await.expect("heard");
    let exit = bounded(job.wait()).await.expect("over").exit;
    assert!(!runs(animal), "the animal is alive");
    assert_eq!(marked(&id), Vec::<i32>::new());
    assert!(exit.proven_gone);
    exit
}

const PLAIN: &str = "echo $$ > pid; exec sleep 1000";
const GRANDCHILD: &str = "sh -c 'echo $$ > pid; exec sleep 1000' & wait";
const SESSION: &str = "setsid sh -c 'echo $$ > pid; exec sleep 1000' & wait";
const DAEMON: &str = "trap '' TERM HUP; setsid sh -c '(sh -c \"echo \\$\\$ > pid; exec sleep 1000\" &)'; sleep 1000";
const STUBBORN: &str = "trap '' TERM; echo $$ > pid; while :; do sleep 1000; done";
const STOPPED: &str = "trap 'exit 9' TERM; echo $$ > pid; kill -STOP $$; sleep 1000";

#[tokio::test]
async fn a_polite_end_reaches_every_kind_of_child() {
    for script in [PLAIN, GRANDCHILD, SESSION, STOPPED] {
        // The grace is longer than the test may take: TERM alone must have done it.
        let exit = ends_all(script, EndLevel::Term, 600_000).await;
        assert_eq!(exit.end, JobEnd::Cancelled, "{script}");
    }
}

#[tokio::test]
async fn who_ignores_term_is_killed_after_the_grace() {
    for script in [STUBBORN, DAEMON] {
        assert_eq!(ends_all(script, EndLevel::Term, 200).await.end, JobEnd::Cancelled, "{script}");
    }
}

#[tokio::test]
async fn kill_does_not_wait_for_the_grace() {
    for script in [PLAIN, GRANDCHILD, SESSION, DAEMON, STUBBORN, STOPPED] {
        assert_eq!(ends_all(script, EndLevel::Kill, 600_000).await.end, JobEnd::Cancelled, "{script}");
    }
}

#[tokio::test]
async fn the_level_rises_while_a_job_ends() {
    let world = World::new();
    let mut spec = world.sh(STUBBORN);
    spec.limits.grace = Millis(600_000);
    let (job, animal) = let_out(&world, spec).await;
    job.end(EndLevel::Term).await.expect("heard");
    assert!(runs(animal));
    job.end(EndLevel::Kill).await.expect("heard");
    assert_eq!(bounded(job.wait()).await.expect("over").exit.end, JobEnd::Cancelled);
    assert!(!runs(animal));
}

#[tokio::test]
async fn exit_code_0_after_term_is_still_cancelled() {
    let exit = ends_all("trap 'exit 0' TERM; echo $$ > pid; while :; do sleep 0.01; done", EndLevel::Term, 600_000);
    assert_eq!(exit.await.end, JobEnd::Cancelled);
}

#[tokio::test]
async fn what_a_main_process_leaves_behind_is_swept_and_counted() {
    let leaves = [
        ("setsid sh -c 'echo $$ > pid; exec sleep 1000' & while ! [ -s pid ]; do :; done; exit 3", 1),
        (
            "trap '' TERM HUP; setsid sh -c '(sh -c \"echo \\$\\$ > pid; exec sleep 1000\" &)'; \
          while ! [ -s pid ]; do :; done; exit 3",
            1,
        ),
    ];
    for (script, swept) in leaves {
        let world = World::new();
        let spec = world.sh(script);
        let job = world.run(spec).await;
        assert_eq!(job.exit.end, JobEnd::Exited { code: 3 });
        assert_eq!((job.exit.swept, job.exit.proven_gone), (swept, true), "{script}");
        assert!(!runs(number_in(&world.path("pid")).await));
    }
}

#[tokio::test]
async fn a_hydra_is_overtaken() {
    let world = World::new();
    // Every process forks its successor and exits at once, each in the background of nobody.
    let hydra = world.path("hydra");
    fs::write(&hydra, "echo x >> heads\nsh \"$0\" &\n").expect("written");
    let spec = world.sh("setsid sh ./hydra; sleep 1000");
    let id = spec.id.to_string();
    let job = world.runner().start(spec).await.expect("started");
    let heads = || fs::metadata(world.path("heads")).map_or(0, |meta| meta.len());
    until("fifty heads", || (heads() > 100).then_some(())).await;
    job.end(EndLevel::Kill).await.expect("heard");
    let exit = bounded(job.wait()).await.expect("over").exit;
    assert!(exit.proven_gone);
    let last = heads();
    assert_eq!(marked(&id), Vec::<i32>::new());
    assert_eq!(heads(), last, "it still grows");
}

#[tokio::test]
async fn a_wide_tree_is_ended() {
    let world = World::new();
    // Each level forks two of the next: 255 processes, every one in a session of its own.
    let tree = "if [ $1 -gt 0 ]; then setsid sh ./tree $(($1-1)) & setsid sh ./tree $(($1-1)) & fi; \
                echo x >> leaves; exec sleep 1000";
    fs::write(world.path("tree"), tree).expect("written");
    let spec = world.sh("sh ./tree 7");
    let id = spec.id.to_string();
    let job = world.runner().start(spec).await.expect("started");
    let leaves = || fs::metadata(world.path("leaves")).map_or(0, |meta| meta.len());
    until("all leaves", || (leaves() == 2 * 255).then_some(())).await;
    job.end(EndLevel::Term).await.expect("heard");
    let exit = bounded(job.wait()).await.expect("over").exit;
    assert!(exit.proven_gone && exit.swept >= 250, "{exit:?}");
    assert_eq!(marked(&id), Vec::<i32>::new());
}

#[tokio::test]
async fn limits_on_processes_and_memory_end_the_job() {
    let world = World::new();
    let mut many = world.sh("for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait");
    many.limits.processes = Some(4);
    let JobEnd::OverLimit { what } = world.run(many).await.exit.end else { panic!("not ended") };
    assert!(what.contains("at most 4"), "{what}");
    let mut fat = world.sh("head -c 100000000 /dev/zero | tail | sleep 1000");
    fat.limits.memory_bytes = Some(40_000_000);
    let JobEnd::OverLimit { what } = world.run(fat).await.exit.end else { panic!("not ended") };
    assert!(what.contains("at most 40000000"), "{what}");
}

#[tokio::test]
async fn a_script_that_signals_its_own_group_does_not_reach_the_shim() {
    let world = World::new();
    let job = world.run(world.sh("kill -TERM 0; sleep 1000")).await;
    assert_eq!(job.exit.end, JobEnd::Signalled { signal: 15 });
}

#[tokio::test]
async fn what_outlives_a_killed_shim_falls_to_the_supervisor() {
    let world = World::new();
    let (job, animal) = let_out(&world, world.sh(DAEMON)).await;
    let shim = nix::unistd::Pid::from_raw(job.identity.pid);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("killed");
    let exit = bounded(job.wait()).await.expect("over").exit;
    assert_eq!(exit.end, JobEnd::Lost);
    assert!(exit.proven_gone && exit.swept >= 1, "{exit:?}");
    assert!(!runs(animal));
}
