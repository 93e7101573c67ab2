//! The full disk: agents and gates stand still, STOP is obeyed, all goes on when there is space, and the largest is ended
//! where none comes.
//!
//! The stories with a disk that says what it is told are about what the supervisor does; the one on a real, small disk is
//! about what full really means: it runs this very program again in a namespace of its own, where it may mount one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use orch_actors::api::{ControlError, QueueView, StandstillView, Submit};
use orch_adapters::disk::FakeDisk;
use orch_domain::job::JobKind;
use orch_domain::task::Status;
use orch_domain::time::Millis;
use orch_domain::view::TaskView;

use crate::world::{Setup, World};

const PATIENT: &str = "attempts:\n- - write: {path: slow.txt, content: \"x\\n\"}\n  - say: {text: here}\n  - wait_for: {path: go}\n  - commit: {message: Be slow}\n";
/// Takes 4 MiB of the disk, and nothing when it is begun again.
const LARGE: &str = "attempts:\n- - run: {cmd: 'head -c 4194304 /dev/urandom > large.bin'}\n  - write: {path: slow.txt, content: x}\n  \
    - say: {text: here}\n  - wait_for: {path: go}\n- - run: {cmd: 'rm -f large.bin slow.txt'}\n  - write: {path: done.txt, content: x}\n  \
    - commit: {message: Be small}\n";
const FULL: u64 = 1 << 20;
const PLENTY: u64 = 1 << 40;

/// Where the agents that have begun are at work.
fn at_work(world: &World) -> Vec<PathBuf> {
    let runs = std::fs::read_dir(world.data().join("workspaces")).into_iter().flatten().flatten();
    let mut trees: Vec<PathBuf> = runs.map(|run| run.path().join("tree")).collect();
    trees.retain(|tree| tree.join("slow.txt").is_file());
    trees.sort();
    trees
}

async fn until_at_work(world: &World, count: usize) -> Vec<PathBuf> {
    world
        .wait_for("agents at work", async || {
            let trees = at_work(world);
            (trees.len() == count).then_some(trees)
        })
        .await
}

/// The states (`T` is stopped) of the processes that work in a folder.
fn states(folder: &Path) -> Vec<char> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let inside = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        found.extend(state.filter(|state| inside && *state != 'Z'));
    }
    found
}

fn stopped(folder: &Path) -> bool {
    let states = states(folder);
    !states.is_empty() && states.iter().all(|state| *state == 'T')
}

async fn queue(world: &World) -> QueueView {
    world.control().queue().await.expect("a queue")
}

/// Waits until so many jobs stand still.
async fn standing(world: &World, jobs: usize) -> StandstillView {
    world.wait_for("jobs to stand still", async || queue(world).await.standstill.filter(|s| s.jobs == jobs)).await
}

async fn all_goes_on(world: &World) {
    world.wait_for("all to go on", async || queue(world).await.standstill.is_none().then_some(())).await;
}

fn told(world: &World, disk: &FakeDisk, free: u64) {
    disk.set_free(free);
    world.running().handle().context().disk.look();
}

fn on(disk: &Arc<FakeDisk>, agent: &str) -> Setup {
    let mut setup = Setup::default().agent("team", agent);
    setup.disk = disk.clone();
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_stand_still_on_a_full_disk_and_nobody_calls_that_silence() {
    let disk = Arc::new(FakeDisk::with_free(PLENTY));
    let world = on(&disk, PATIENT).limits(|l| l.agent_stall = Millis(5_000)).open().await;
    let task = world.submit("Be slow").await;
    let tree = until_at_work(&world, 1).await.remove(0);
    told(&world, &disk, FULL);
    let standstill = standing(&world, 1).await;
    assert!(standstill.why.contains("1024 KiB are free") && standstill.shed == 0, "{standstill:?}");
    let since = std::time::Instant::now();
    assert!(stopped(&tree), "{:?}", states(&tree));
    let queue = queue(&world).await;
    assert!(
        queue.intake.contains("1 job stands still") && queue.intake.contains("limits.min_free_disk"),
        "{}",
        queue.intake
    );
    let doing = queue.running.iter().find(|shown| shown.id == task.id).map(|shown| shown.doing.clone());
    assert!(doing.is_some_and(|doing| doing.starts_with("stands still, the disk is full")), "{:?}", queue.running);
    let jobs = world.control().jobs().await.expect("jobs");
    assert!(jobs.iter().any(|job| job.kind == JobKind::Agent && job.stands_still), "{jobs:?}");
    let refused = world.control().submit(Submit { title: "Too early".to_owned(), ..Submit::default() }, "test").await;
    assert!(matches!(refused, Err(ControlError::Unavailable(_))), "{refused:?}");

    // It may say what it waits for, and is as silent as it likes.
    std::fs::write(tree.join("go"), "").expect("written");
    world.wait_for("a silence that is too long", async || (since.elapsed().as_secs() > 6).then_some(())).await;
    assert!(stopped(&tree), "{:?}", states(&tree));
    // A little more than makes it full is not enough to go on.
    told(&world, &disk, 33 << 20);
    assert!(!world.running().handle().context().disk.is_full());
    assert!(self::queue(&world).await.standstill.is_some());
    told(&world, &disk, PLENTY);
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.runs.iter().filter(|run| run.kind == "agent").count(), 1, "one attempt: {:?}", done.runs);
    all_goes_on(&world).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_what_stands_still() {
    let disk = Arc::new(FakeDisk::with_free(PLENTY));
    let world = on(&disk, PATIENT).open().await;
    let task = world.submit("Be slow").await;
    let tree = until_at_work(&world, 1).await.remove(0);
    told(&world, &disk, FULL);
    standing(&world, 1).await;
    assert!(stopped(&tree));
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    assert_eq!(standing(&world, 0).await.shed, 0);
    told(&world, &disk, PLENTY);
    all_goes_on(&world).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_space_comes_the_largest_is_ended_and_begun_again_later() {
    let disk = Arc::new(FakeDisk::with_free(PLENTY));
    let setup = on(&disk, PATIENT).agent("large", LARGE);
    let world = setup.limits(|l| (l.max_concurrency, l.shed_after) = (2, Millis(300))).open().await;
    let (small, large) = (world.submit("Be slow").await, world.submit_for("large", "Be large").await);
    until_at_work(&world, 2).await;
    told(&world, &disk, FULL);
    let text = world
        .wait_for("the largest to be ended", async || {
            world.journal(&large).await.into_iter().find(|line| line.starts_with("job-shed"))
        })
        .await;
    assert!(text.contains("it took most (4 MiB)"), "{text}");
    let left = until_at_work(&world, 1).await.remove(0);
    assert!(stopped(&left), "the other stands still: {:?}", states(&left));
    let standstill = standing(&world, 1).await;
    assert_eq!(standstill.shed, 1, "what is left takes too little to be worth it: {standstill:?}");

    told(&world, &disk, PLENTY);
    all_goes_on(&world).await;
    let done = world.expect_status(&large, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 0, "nobody's fault");
    assert_eq!(done.runs.iter().filter(|run| run.kind == "agent").count(), 2, "{:?}", done.runs);
    assert!(!world.git(&["ls-tree", "--name-only", "main"]).contains("large.bin"));
    std::fs::write(left.join("go"), "").expect("written");
    world.expect_status(&small, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_supervisor_left_standing_goes_on() {
    let disk = Arc::new(FakeDisk::with_free(PLENTY));
    let mut world = on(&disk, PATIENT).open().await;
    let task = world.submit("Be slow").await;
    let tree = until_at_work(&world, 1).await.remove(0);
    told(&world, &disk, FULL);
    standing(&world, 1).await;
    world.running().hand_over(Duration::from_secs(20)).await;
    world.shut_down().await;
    assert!(stopped(&tree), "it waits for the next start");
    disk.set_free(PLENTY);
    world.boot().await;
    std::fs::write(tree.join("go"), "").expect("written");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.runs.iter().filter(|run| run.kind == "agent").count(), 1, "gone on with: {:?}", done.runs);
    world.close().await;
}

/// The folder that the story on a real disk finds it at.
const SMALL_DISK: &str = "ORCH_TEST_SMALL_DISK";

/// In a namespace of its own, as root or as a user who is root there; a host that allows neither fails this test, which
/// would prove nothing then.
#[test]
fn a_disk_that_is_really_full_is_lived_through() {
    let disk = tempfile::tempdir().expect("a folder");
    let line = "mount -t tmpfs -o size=128m,mode=700 small \"$1\" && exec \"$2\" --exact --ignored --nocapture \"$3\"";
    let root = nix::unistd::geteuid().is_root();
    let output = Command::new("unshare")
        .args(if root { ["-m", "--"].as_slice() } else { ["-U", "-r", "-m", "--"].as_slice() })
        .args(["sh", "-c", line, "sh"])
        .args([disk.path().as_os_str(), std::env::current_exe().expect("this program").as_os_str()])
        .arg("standstill::on_a_small_disk")
        .env(SMALL_DISK, disk.path())
        .output()
        .expect("unshare (util-linux) runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by `a_disk_that_is_really_full_is_lived_through`, which mounts a small disk for it"]
async fn on_a_small_disk() {
    let small = PathBuf::from(std::env::var_os(SMALL_DISK).expect("names the disk"));
    let mut setup = Setup::default().agent("team", PATIENT).limits(|l| l.min_free_disk = 4 << 20);
    let data = small.join("data");
    setup.settle.push(Box::new(move |config| config.data_dir = data));
    let mut world = setup.limits(|l| l.max_concurrency = 2).open().await;
    let (kept, dropped) = (world.submit("Be slow").await, world.submit("Be dropped").await);
    let trees = until_at_work(&world, 2).await;

    let filler = small.join("filler");
    fill(&filler);
    standing(&world, 2).await;
    assert!(trees.iter().all(|tree| stopped(tree)));
    let refused = world.control().submit(Submit { title: "Too early".to_owned(), ..Submit::default() }, "test").await;
    let Err(ControlError::Unavailable(text)) = refused else { panic!("taken on a full disk: {refused:?}") };
    assert!(text.contains("2 jobs stand still"), "{text}");
    assert!(!world.control().ready().await.ready);

    world.stop(&dropped).await;
    world.expect_status(&dropped, Status::Cancelled).await;
    let receipt = world.receipt(&dropped).await.expect("a receipt");
    assert_eq!(receipt.outcome, "cancelled", "{receipt:?}");
    assert_eq!(standing(&world, 1).await.shed, 0);

    std::fs::remove_file(&filler).expect("removed");
    all_goes_on(&world).await;
    for tree in at_work(&world) {
        std::fs::write(tree.join("go"), "").expect("written");
    }
    world.expect_status(&kept, Status::Done).await;
    let open: TaskView = world.submit("And again").await;
    world.stop(&open).await;
    world.expect_status(&open, Status::Cancelled).await;

    // A start that fails on it says what is wrong with the disk, whatever failed.
    world.shut_down().await;
    fill(&filler);
    let refused = world.try_boot().await.map(drop).expect_err("nothing can be written").to_string();
    assert!(refused.contains("free space there and start again"), "{refused}");
    std::fs::remove_file(&filler).expect("removed");
    world.boot_in_time().await;
    world.close().await;
}

/// Somebody else fills the disk, to the last byte.
fn fill(filler: &Path) {
    let filled = std::io::copy(&mut std::io::repeat(7), &mut std::fs::File::create(filler).expect("made"));
    assert_eq!(filled.expect_err("it has an end").kind(), std::io::ErrorKind::StorageFull);
}
