//! The zoo of escapes: whatever a job forks, and however, is gone when the job is over.

use std::fs;

use orch_adapters::jobs::RunningJob;
use orch_adapters::ports::{EndLevel, JobSpec, Observed, Placement};
use orch_domain::job::{Containment, JobEnd, JobExit, JobIdentity};
use orch_domain::time::Millis;

use crate::support::{World, animal_in, bounded, marked, runs, until};

/// Starts a job, waits until its animal is out (it has written its pid), and returns that pid with the handle.
async fn let_out(world: &World, spec: JobSpec) -> (RunningJob, i32) {
    let (file, id) = (spec.cwd.join("pid"), spec.id.to_string());
    let job = world.runner().start(spec).await.expect("started");
    let pid = animal_in(&file, &id).await;
    (job, pid)
}

/// Ends a job at every level of containment; nothing of it is left, and that is proven.
async fn ends_all(script: &str, level: EndLevel, grace: u64) -> Vec<JobExit> {
    let mut exits = Vec::new();
    for (world, held) in World::at_each_level() {
        let mut spec = world.walled(script);
        spec.limits.grace = Millis(grace);
        let id = spec.id.to_string();
        let (job, animal) = let_out(&world, spec).await;
        assert_eq!(job.identity.containment, held);
        let group = job.identity.cgroup.clone();
        job.end(level).await.expect("heard");
        let exit = bounded(job.wait()).await.expect("over").exit;
        assert!(!runs(animal), "{held:?}: the animal is alive");
        assert_eq!(marked(&id), Vec::<i32>::new(), "{held:?}");
        assert!(exit.proven_gone);
        assert!(group.is_none_or(|group| !group.exists()), "{held:?}: its control group is left");
        exits.push(exit);
    }
    exits
}

fn all_cancelled(exits: &[JobExit]) -> bool {
    !exits.is_empty() && exits.iter().all(|exit| exit.end == JobEnd::Cancelled)
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
        assert!(all_cancelled(&ends_all(script, EndLevel::Term, 600_000).await), "{script}");
    }
}

#[tokio::test]
async fn who_ignores_term_is_killed_after_the_grace() {
    for script in [STUBBORN, DAEMON] {
        assert!(all_cancelled(&ends_all(script, EndLevel::Term, 200).await), "{script}");
    }
}

#[tokio::test]
async fn kill_does_not_wait_for_the_grace() {
    for script in [PLAIN, GRANDCHILD, SESSION, DAEMON, STUBBORN, STOPPED] {
        assert!(all_cancelled(&ends_all(script, EndLevel::Kill, 600_000).await), "{script}");
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
    let script = "trap 'exit 0' TERM; echo $$ > pid; while :; do sleep 0.01; done";
    assert!(all_cancelled(&ends_all(script, EndLevel::Term, 600_000).await));
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
        for (world, held) in World::at_each_level() {
            let spec = world.walled(script);
            let id = spec.id.to_string();
            let job = world.run(spec).await;
            assert_eq!(job.exit.end, JobEnd::Exited { code: 3 });
            assert_eq!((job.exit.swept, job.exit.proven_gone), (swept, true), "{held:?}: {script}");
            assert_eq!(marked(&id), Vec::<i32>::new(), "{held:?}");
        }
    }
}

#[tokio::test]
async fn a_hydra_is_overtaken() {
    for (world, held) in World::at_each_level() {
        // Every process forks its successor and exits at once, each in the background of nobody.
        let spec = world.walled("setsid sh ./hydra; sleep 1000");
        fs::write(spec.cwd.join("hydra"), "echo x >> heads\nsh \"$0\" &\n").expect("written");
        let (heads, id) = (spec.cwd.join("heads"), spec.id.to_string());
        let job = world.runner().start(spec).await.expect("started");
        let heads = || fs::metadata(&heads).map_or(0, |meta| meta.len());
        until("fifty heads", || (heads() > 100).then_some(())).await;
        job.end(EndLevel::Kill).await.expect("heard");
        let exit = bounded(job.wait()).await.expect("over").exit;
        assert!(exit.proven_gone);
        let last = heads();
        assert_eq!(marked(&id), Vec::<i32>::new(), "{held:?}");
        assert_eq!(heads(), last, "{held:?}: it still grows");
    }
}

#[tokio::test]
async fn a_wide_tree_is_ended() {
    for (world, held) in World::at_each_level() {
        // Each level forks two of the next: 255 processes, every one in a session of its own.
        let tree = "if [ $1 -gt 0 ]; then setsid sh ./tree $(($1-1)) & setsid sh ./tree $(($1-1)) & fi; \
                    echo x >> leaves; exec sleep 1000";
        let spec = world.walled("sh ./tree 7");
        fs::write(spec.cwd.join("tree"), tree).expect("written");
        let (leaves, id) = (spec.cwd.join("leaves"), spec.id.to_string());
        let job = world.runner().start(spec).await.expect("started");
        let leaves = || fs::metadata(&leaves).map_or(0, |meta| meta.len());
        until("all leaves", || (leaves() == 2 * 255).then_some(())).await;
        job.end(EndLevel::Term).await.expect("heard");
        let exit = bounded(job.wait()).await.expect("over").exit;
        assert!(exit.proven_gone && exit.swept >= 250, "{held:?}: {exit:?}");
        assert_eq!(marked(&id), Vec::<i32>::new(), "{held:?}");
    }
}

/// A bomb: each process starts two of its like. Where the kernel holds a fuse it goes off at full speed; elsewhere it is
/// slowed down, or it would take every process number of the host from everybody else before it is counted.
#[tokio::test]
async fn who_forks_without_end_is_ended_and_named() {
    for (world, held) in World::at_each_level() {
        let mut spec = world.walled("sh ./bomb");
        let pause = if held.has_group() { "" } else { "sleep 0.1; " };
        fs::write(spec.cwd.join("bomb"), format!("{pause}sh ./bomb & sh ./bomb & wait\n")).expect("written");
        spec.limits.processes = Some(60);
        let id = spec.id.to_string();
        let exit = world.run(spec).await.exit;
        let JobEnd::OverLimit { what } = &exit.end else { panic!("{held:?}: {exit:?}") };
        assert!(what.contains("at most 60"), "{what}");
        assert!(exit.proven_gone);
        assert_eq!(marked(&id), Vec::<i32>::new(), "{held:?}");
    }
}

#[tokio::test]
async fn limits_end_the_job_and_are_named() {
    for (world, held) in World::at_each_level() {
        let ended_for = async |named: &str, spec: JobSpec| {
            let exit = world.run(spec).await.exit;
            let JobEnd::OverLimit { what } = &exit.end else { panic!("{held:?}: not ended: {exit:?}") };
            assert!(what.contains(named), "{what}");
            assert!(exit.proven_gone);
        };
        let mut many = world.walled("for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait");
        many.limits.processes = Some(4);
        ended_for("at most 4 ", many).await;
        let mut fat = world.walled("head -c 100000000 /dev/zero | tail | sleep 1000");
        fat.limits.memory_bytes = Some(40_000_000);
        ended_for("at most 40000000 ", fat).await;
        let mut busy = world.walled("while :; do :; done");
        busy.limits.cpu_time = Some(Millis(300));
        ended_for("processor time", busy).await;
        let mut large = world.walled("head -c 20000000 /dev/zero > file; sleep 1000");
        large.limits.disk_bytes = Some(10_000_000);
        ended_for("at most 10000000 ", large).await;
        let mut greedy = world.walled("ulimit -n");
        greedy.limits.open_files = Some(77);
        assert_eq!(world.run(greedy).await.stdout(100).expect("read"), "77\n");
    }
}

#[tokio::test]
async fn a_script_that_signals_its_own_group_does_not_reach_the_shim() {
    for (world, _) in World::at_each_level() {
        let job = world.run(world.walled("kill -TERM 0; sleep 1000")).await;
        assert_eq!(job.exit.end, JobEnd::Signalled { signal: 15 });
    }
}

#[tokio::test]
async fn what_outlives_a_killed_shim_falls_to_the_supervisor() {
    for (world, held) in World::at_each_level() {
        let (job, animal) = let_out(&world, world.walled(DAEMON)).await;
        kill_shim(&job.identity);
        let exit = bounded(job.wait()).await.expect("over").exit;
        assert_eq!(exit.end, JobEnd::Lost);
        assert!(exit.proven_gone, "{held:?}: {exit:?}");
        assert!(!runs(animal));
        assert!(job.identity.cgroup.is_none_or(|group| !group.exists()), "{held:?}: its control group is left");
    }
}

#[tokio::test]
async fn a_later_supervisor_proves_what_the_host_lets_it_prove_and_no_more() {
    for (world, held) in World::at_each_level() {
        let (job, animal) = let_out(&world, world.walled(DAEMON)).await;
        // Known to no table of this process: as a shim that another supervisor started.
        let found = JobIdentity { start_ticks: job.identity.start_ticks + 1, ..job.identity.clone() };
        drop(job);
        kill_shim(&found);
        let Ok(Observed::Gone { evidence, proven_gone }) = bounded(world.placement.observe(&found)).await else {
            panic!("{held:?}: it is there")
        };
        assert_eq!(proven_gone, held != Containment::Shim, "{held:?}: {evidence}");
        assert!(!runs(animal), "{held:?}: found by its mark at least");
    }
}

fn kill_shim(identity: &JobIdentity) {
    let shim = nix::unistd::Pid::from_raw(identity.pid);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("killed");
}
