//! What a job reads and writes: large inputs, caps, pipes that stay open, following a log.

use std::fs;
use std::os::unix::fs::MetadataExt;

use orch_adapters::jobs::{Parsed, follow};
use orch_adapters::ports::{Beyond, EndLevel};
use orch_domain::job::JobEnd;

use crate::support::{World, bounded};

#[tokio::test]
async fn ten_megabytes_of_standard_input_arrive_or_are_left_unread() {
    let world = World::new();
    let input: Vec<u8> = (0..10_485_760_u32).map(|n| (n % 253) as u8).collect();
    let mut reads = world.sh("wc -c; echo $(($(dd bs=1 count=1 2>/dev/null | wc -c)))");
    reads.stdin.clone_from(&input);
    assert_eq!(world.run(reads).await.stdout(100).expect("read"), "10485760\n0\n");
    let mut ignores = world.sh("exit 4");
    ignores.stdin = input;
    assert_eq!(world.run(ignores).await.exit.end, JobEnd::Exited { code: 4 });
}

#[tokio::test]
async fn without_input_there_is_end_of_file() {
    let world = World::new();
    assert_eq!(world.run(world.sh("wc -c")).await.stdout(100).expect("read"), "0\n");
}

#[tokio::test]
async fn a_log_over_its_cap_is_cut_marked_and_does_not_hold_the_job_up() {
    let world = World::new();
    let mut spec = world.sh("head -c 5000000 /dev/zero | tr '\\0' x; echo small >&2; exit 6");
    spec.limits.log_bytes = 1_000_000;
    let job = world.run(spec).await;
    assert_eq!(job.exit.end, JobEnd::Exited { code: 6 });
    assert!(job.exit.log_cut);
    let text = job.stdout(2_000_000).expect("read");
    assert!(text[..1_000_000].bytes().all(|byte| byte == b'x'));
    assert!(text[1_000_000..].contains("cut here"), "{}", &text[1_000_000..]);
    assert_eq!(job.stderr(100).expect("read"), "small\n");
    let tail = job.tail(1000).expect("read");
    assert!(tail.contains("earlier bytes are left out") && tail.contains("small"), "{tail}");
}

/// Several times its cap is written; who reads along gets all of it, and tells how far it is, as the reader of events does.
#[tokio::test]
async fn a_log_that_rolls_gives_its_reader_every_line_and_keeps_to_its_cap() {
    const CAP: u64 = 1 << 20;
    let world = World::new();
    let mut spec = world.sh("seq -f 'line %09g' 0 399999; echo the end");
    (spec.limits.log_bytes, spec.limits.beyond) = (CAP, Beyond::Roll);
    let job = world.runner().start(spec).await.expect("started");
    let watched = job.clone();
    let mut lines = follow(&job.stdout_path(), 0, async move {
        let _ = watched.wait().await;
    });
    let mut parsed = Parsed::open(&job.identity.dir).expect("made");
    let (mut next, mut most) = (0_u32, 0);
    while let Some(line) = bounded(lines.next_line()).await.expect("read") {
        if line.text == "the end" {
            break;
        }
        assert_eq!(line.text, format!("line {next:09}"));
        next += 1;
        parsed.tell(line.next_offset).expect("told");
        if next.is_multiple_of(1_000) {
            most = most.max(fs::metadata(job.stdout_path()).expect("there").blocks() * 512);
        }
    }
    assert_eq!(next, 400_000);
    let exit = bounded(job.wait()).await.expect("over").exit;
    assert_eq!((exit.end, exit.log_cut), (JobEnd::Exited { code: 0 }, false));
    assert!(most > CAP / 4 && most <= CAP + (256 << 10), "{most} bytes on disk at most");
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_pipe_open_does_not_hang_the_job() {
    let world = World::new();
    let job = world.run(world.sh("setsid sleep 1000 & echo said; exit 5")).await;
    assert_eq!(job.exit.end, JobEnd::Exited { code: 5 });
    assert_eq!(job.stdout(100).expect("read"), "said\n");
}

#[tokio::test]
async fn everything_written_before_the_end_is_kept() {
    let world = World::new();
    let job = world.run(world.sh("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")).await;
    let text = job.stdout(1 << 20).expect("read");
    assert_eq!(text.lines().count(), 20_000);
    assert!(text.ends_with("line 19999\n"));
}

#[tokio::test]
async fn a_running_job_is_followed_line_by_line_to_its_last_half_line() {
    let world = World::new();
    let script = "echo one; until [ -e on ]; do sleep 0.01; done; printf 'two\\nhalf'";
    let job = world.runner().start(world.sh(script)).await.expect("started");
    let watched = job.clone();
    let mut lines = follow(&job.stdout_path(), 0, async move {
        let _ = watched.wait().await;
    });
    let one = bounded(lines.next_line()).await.expect("read").expect("a line");
    assert_eq!((one.text.as_str(), one.complete), ("one", true));
    fs::write(world.path("on"), "").expect("written");
    let two = bounded(lines.next_line()).await.expect("read").expect("a line");
    let half = bounded(lines.next_line()).await.expect("read").expect("a rest");
    assert_eq!((two.text.as_str(), half.text.as_str(), half.complete), ("two", "half", false));
    assert_eq!(bounded(lines.next_line()).await.expect("read"), None);
    job.end(EndLevel::Term).await.expect("ending what is over is no error");
}

#[tokio::test]
async fn the_environment_is_whole_and_only_what_was_given() {
    let world = World::new();
    let mut spec = world.sh("env | cut -d= -f1 | grep -vE '^(PWD|OLDPWD|SHLVL|_)$' | sort | tr '\\n' ' '");
    spec.env.insert("GIVEN".to_owned(), "yes".to_owned());
    assert_eq!(world.run(spec).await.stdout(1000).expect("read"), "GIVEN ORCH_JOB PATH ");
    let state = "umask; ulimit -c; grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | wc -l";
    let said = world.run(world.sh(state)).await.stdout(1000).expect("read");
    let clean = "0022\n0\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n4\n";
    assert_eq!(said, clean, "mask, core size, signals and descriptors are clean");
}
