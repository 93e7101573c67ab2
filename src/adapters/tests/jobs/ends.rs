//! How a job can end, and that its end is a fact: exit codes, signals, limits, programs that cannot be started.

use orch_adapters::jobs::{LocalPlacement, LocalPlacementConfig, PlacementError};
use orch_adapters::ports::{EndLevel, JobError, JobLimits, Placement};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;
use orch_shim::record::read_exit;

use crate::support::{World, bounded, until};

#[tokio::test]
async fn exit_codes_and_both_outputs_are_kept() {
    let world = World::new();
    for code in [0, 1, 77, 255] {
        let job = world.run(world.sh(&format!("echo out; echo err >&2; exit {code}"))).await;
        assert_eq!(job.exit.end, JobEnd::Exited { code });
        assert_eq!((job.stdout(100).expect("read"), job.stderr(100).expect("read")), ("out\n".into(), "err\n".into()));
        assert!(job.exit.proven_gone && !job.exit.log_cut && job.exit.swept == 0, "{:?}", job.exit);
        assert_eq!(read_exit(&job.dir).expect("parses"), Some(job.exit));
    }
}

#[tokio::test]
async fn a_signal_of_its_own_is_told_from_ours() {
    let world = World::new();
    let job = world.run(world.sh("kill -SEGV $$")).await;
    assert_eq!(job.exit.end, JobEnd::Signalled { signal: 11 });
}

/// Whatever its supervisor and its guard block or ignore: a program that never hears of TERM or of a broken pipe would be
/// the guard's doing.
#[tokio::test]
async fn a_job_begins_with_no_signal_blocked_or_ignored() {
    let own = std::fs::read_to_string("/proc/self/status").expect("readable");
    assert!(own.contains("SigIgn:") && !own.contains("SigIgn:\t0000000000000000"), "these tests ignore SIGPIPE: {own}");
    for (world, held) in World::at_each_level() {
        let job = world.run(world.walled("exec grep -E '^Sig(Blk|Ign):' /proc/self/status")).await;
        let expected = ["SigBlk", "SigIgn"].map(|name| format!("{name}:\t0000000000000000\n")).concat();
        assert_eq!(job.stdout(1000).expect("read"), expected, "{held:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    let world = World::new();
    let not_a_program = world.path("plain");
    std::fs::write(&not_a_program, "text").expect("written");
    let plain = not_a_program.to_str().expect("UTF-8");
    let mut nowhere = world.sh("true");
    nowhere.cwd = world.path("no-such-folder");
    let specs = [
        (world.job(&["no-such-program-xyz"]), "no-such-program-xyz"),
        (world.job(&[plain]), plain),
        (nowhere, "no-such-folder"),
        (world.job(&["a\0b"]), "NUL"),
    ];
    for (spec, named) in specs {
        let job = world.run(spec).await;
        let JobEnd::CouldNotStart { why } = &job.exit.end else { panic!("{:?}", job.exit) };
        assert!(why.contains(named), "{why}");
        assert_eq!(job.exit.started, None);
    }
}

#[tokio::test]
async fn time_limits_are_kept() {
    let world = World::new();
    let mut slow = world.sh("while :; do echo tick; sleep 0.01; done");
    slow.limits = JobLimits { wall: Millis(300), stall: Some(Millis(200_000)), ..slow.limits };
    assert_eq!(world.run(slow).await.exit.end, JobEnd::TimedOut);
    let mut silent = world.sh("echo once; exec sleep 1000");
    silent.limits = JobLimits { stall: Some(Millis(300)), ..silent.limits };
    assert_eq!(world.run(silent).await.exit.end, JobEnd::Stalled);
}

#[tokio::test]
async fn a_shim_that_cannot_be_used_is_named_and_the_id_may_be_tried_again() {
    let world = World::new();
    let spec = world.sh("exit 2");
    let broken = |program: &str, argument: &str| {
        let config = LocalPlacementConfig {
            shim_program: program.into(),
            shim_args: vec![argument.to_owned()],
            ..LocalPlacementConfig::new(world.path("jobs"), world.path("run"))
        };
        LocalPlacement::new(config).expect("a placement")
    };
    for (program, argument, named) in [("/no/such/shim", "", "/no/such/shim"), ("/bin/sh", "/no/script", "/no/script")]
    {
        let Err(JobError::NotStarted { why, .. }) = broken(program, argument).prepare(&spec).await else {
            panic!("prepared")
        };
        assert!(why.contains(named), "{why}");
    }
    assert_eq!(world.run(spec).await.exit.end, JobEnd::Exited { code: 2 });
}

#[tokio::test]
async fn a_runtime_folder_that_is_too_long_for_sockets_is_refused_with_a_way_out() {
    let world = World::new();
    let long = world.path(&"x".repeat(90));
    let refused = LocalPlacement::new(LocalPlacementConfig::new(world.path("jobs"), long)).err().expect("refused");
    assert!(matches!(refused, PlacementError::RuntimeDirTooLong { most: 77, .. }), "{refused}");
    assert!(refused.to_string().contains("/run/orch"));
}

/// Behind a shell that goes at once, as behind a program that takes its time: the grace is the job's, not the shell's.
#[tokio::test]
async fn who_is_asked_to_end_has_the_whole_grace_also_behind_a_shell() {
    let world = World::new();
    let mut spec = world.sh("python3 slow.py & wait");
    let script = "import os, signal, time\n\
        def end(*_):\n    time.sleep(2.5)\n    open('whole', 'w').close()\n    os._exit(0)\n\
        signal.signal(signal.SIGTERM, end)\nopen('ready', 'w').close()\nwhile True:\n    time.sleep(1)\n";
    std::fs::write(world.path("slow.py"), script).expect("written");
    spec.limits.grace = Millis(30_000);
    let identity = world.placement.prepare(&spec).await.expect("prepared");
    world.placement.go(&identity).await.expect("gone");
    until("it to be ready", || world.path("ready").exists().then_some(())).await;
    world.placement.end(&identity, EndLevel::Term).await.expect("told");
    let exit = bounded(world.placement.wait(&identity)).await.expect("over");
    assert!(exit.proven_gone && world.path("whole").exists(), "it was killed before it was done: {exit:?}");
}
