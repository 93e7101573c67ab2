//! What lets a supervisor run for months: traces of what is over go in their time, nothing that proves anything does, and
//! nothing is begun while the disk is short of space.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_actors::api::{ControlError, Submit};
use orch_actors::upkeep::{Round, plan, round};
use orch_adapters::disk::FakeDisk;
use orch_domain::job::JobKind;
use orch_domain::task::Status;
use orch_domain::time::Millis;
use orch_domain::view::TaskView;

use crate::world::{Setup, World};

const GOOD: &str = "attempts:\n- - write: {path: good.txt, content: \"x\\n\"}\n  - commit: {message: Add good}\n";
const PATIENT: &str =
    "attempts:\n- - write: {path: slow.txt, content: \"x\\n\"}\n  - say: {text: here}\n  - wait_for: {path: go}\n";
const HOUR: u64 = 60 * 60 * 1_000;
const DAY: u64 = 24 * HOUR;

/// A round of upkeep as if it were so much later. What it removes is what its plan had named, and then nothing is left.
async fn round_after(world: &World, later: u64) -> Round {
    let handle = world.running().handle();
    let ctx = handle.context();
    let then = ctx.now().after(Millis(later));
    let planned = plan(ctx, then).await.expect("a plan");
    let done = round(ctx, then).await;
    assert_eq!(done.troubles, Vec::<String>::new(), "{done}");
    let named = |kind: &str| planned.iter().filter(|item| item.kind == kind).count();
    assert_eq!(
        (named("job-folder"), named("put-aside"), named("salvage"), named("garbage"), named("refs") > 0),
        (done.job_folders, done.quarantined, done.salvages, done.collected, done.refs > 0),
        "{planned:?}"
    );
    assert_eq!(named("measurement"), done.measurements, "{planned:?}");
    let rows: usize = planned
        .iter()
        .filter(|item| item.kind == "rows")
        .map(|item| item.name.split(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a count"))
        .sum();
    assert_eq!(rows, done.rows.total(), "{planned:?}");
    // The round's own git commands are rows of its future, and so may go at once.
    let left = plan(ctx, then).await.expect("a plan").into_iter().filter(|item| item.kind != "rows");
    assert_eq!(left.collect::<Vec<_>>(), [], "the plan was carried out");
    done
}

fn folders(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Gives the agents that wait in their workspaces the word to go on.
async fn let_agents_go_on(world: &World) {
    let dir = world.data().join("workspaces");
    let trees = || -> Vec<PathBuf> { folders(&dir).iter().map(|run| dir.join(run).join("tree")).collect() };
    world
        .wait_for("an agent at work", async || {
            let at_work = trees().into_iter().find(|tree| tree.join("slow.txt").is_file())?;
            std::fs::write(at_work.join("go"), "").ok()
        })
        .await;
}

/// Ids of the task's jobs of these kinds.
async fn jobs(world: &World, task: &TaskView, git: bool) -> Vec<String> {
    let store = world.running().handle().context().store.clone();
    let all = store.jobs_of(&task.id).await.expect("jobs can be read");
    let of = all.into_iter().filter(|job| (job.record.kind == JobKind::Git) == git);
    of.map(|job| job.record.identity.job.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_of_a_landed_task_go_after_a_month_and_its_proof_stays() {
    let mut world = Setup::default().agent("team", GOOD).open().await;
    let task = world.submit("Add good").await;
    world.expect_status(&task, Status::Done).await;
    let (dir, reports) = (world.data().join("jobs"), world.data().join("reports"));
    let (git, others) = (jobs(&world, &task, true).await, jobs(&world, &task, false).await);
    assert!(git.len() > 3 && others.len() > 1, "{git:?} {others:?}");
    world
        .wait_for("the folders of git commands to be gone", async || {
            folders(&dir).iter().all(|name| !git.contains(name)).then_some(())
        })
        .await;
    let kept = folders(&dir);
    assert!(others.iter().all(|job| kept.contains(job)), "logs of agent and tests are kept: {kept:?}");

    let journal = world.journal(&task).await;
    let proof = world.proof(&task).await;
    let reported = folders(&reports);
    let soon = round_after(&world, 2 * HOUR).await;
    assert_eq!((soon.job_folders, soon.refs, soon.rows.total()), (0, 0, 0), "{soon}");
    assert_eq!(soon.collected, 1, "nobody borrows: garbage is collected");
    assert_eq!(round_after(&world, 3 * HOUR).await.collected, 0, "once a day");
    let log = world.control().log(task.id.as_str(), None, 0, 1_000).await.expect("a log");
    assert!(log.text.contains("3 passed"), "{log:?}");

    let later = round_after(&world, 31 * DAY).await;
    assert!(later.job_folders >= others.len() && later.refs > 0 && later.rows.jobs >= git.len(), "{later}");
    assert!(later.rows.outbox > 0 && later.rows.journal == 0 && later.collected == 1, "{later}");
    assert!(folders(&dir).iter().all(|name| !others.contains(name)));
    assert_eq!(jobs(&world, &task, false).await, others, "what ran stays on record");
    match world.control().log(task.id.as_str(), None, 0, 1_000).await {
        Err(ControlError::NotFound(text)) => assert!(text.contains("kept for 30 days"), "{text}"),
        other => panic!("a log that is gone is not an empty one: {other:?}"),
    }
    assert_eq!(world.journal(&task).await, journal);
    assert_eq!(world.proof(&task).await, proof);
    assert_eq!(folders(&reports), reported);
    let again = round_after(&world, 31 * DAY).await;
    let rows = again.rows.total() - again.rows.jobs;
    assert_eq!((again.job_folders, again.refs, rows), (0, 0, 0), "only commands of upkeep itself are new: {again}");

    // What was forgotten begins nothing anew.
    let main = world.git(&["rev-parse", "main"]);
    world.shut_down().await;
    world.boot().await;
    assert_eq!(world.look(&task).await.task.status, Status::Done);
    assert_eq!(world.git(&["rev-parse", "main"]), main);
    let next = world.submit("Add good again").await;
    world.expect_status(&next, Status::Blocked).await;
    world.stop(&next).await;
    world.expect_status(&next, Status::Cancelled).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_task_left_is_kept_for_a_month_and_its_receipt_for_ever() {
    let world = Setup::default().agent("team", PATIENT).open().await;
    let task = world.submit("Be slow").await;
    world.until(&task, "at work", |d| d.why.waits_for.contains("here") || !d.runs.is_empty()).await;
    let dir = world.data().join("workspaces");
    world
        .wait_for("the file that is salvaged", async || {
            folders(&dir).iter().any(|run| dir.join(run).join("tree/slow.txt").is_file()).then_some(())
        })
        .await;
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    let handle = world.running().handle();
    let git = handle.context().repos.values().next().expect("one repository").git.clone();
    let kept = git.list_salvage().await.expect("the vault can be read");
    assert_eq!(kept.len(), 1, "{kept:?}");
    let aside = world.data().join("quarantine").join(format!("{}r9", task.id));
    std::fs::create_dir_all(&aside).expect("made");
    let (unknown, foreign) = (world.data().join("jobs/stranger1"), world.data().join("jobs/Not a job"));
    for folder in [&unknown, &foreign] {
        std::fs::create_dir_all(folder).expect("made");
    }

    let now = round_after(&world, 0).await;
    assert_eq!((now.salvages, now.quarantined), (0, 0), "{now}");
    assert!(unknown.is_dir(), "its launch may be under way");
    let soon = round_after(&world, 29 * DAY).await;
    assert_eq!((soon.salvages, soon.quarantined), (0, 0), "{soon}");
    assert!(!unknown.exists() && foreign.is_dir(), "nobody has recorded it; the other one is none of ours");
    let later = round_after(&world, 31 * DAY).await;
    assert_eq!((later.salvages, later.quarantined), (1, 1), "{later}");
    assert!(git.list_salvage().await.expect("the vault can be read").is_empty() && !aside.exists());
    world.expect_journal(&task, &["removed: let go of salvage", kept[0].id.as_str(), "retention.salvage"]).await;
    world.expect_journal(&task, &["removed: removed the workspace of run", "r9", "retention.salvage"]).await;
    assert!(!world.receipt(&task).await.expect("the receipt stays").lines.is_empty());
    // Whoever holds a way in holds the runtime folder too.
    drop((handle, git));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_live_task_goes_however_old_it_is() {
    let world = Setup::default().agent("team", PATIENT).open().await;
    let task = world.submit("Be slow").await;
    world.until(&task, "running", |d| d.task.status == Status::Running).await;
    let dir = world.data().join("workspaces");
    world
        .wait_for("an agent at work", async || {
            folders(&dir).iter().any(|run| dir.join(run).join("tree/slow.txt").is_file()).then_some(())
        })
        .await;
    let aside = world.data().join("quarantine").join(format!("{}r9", task.id));
    std::fs::create_dir_all(&aside).expect("made");
    let before = (jobs(&world, &task, true).await, jobs(&world, &task, false).await);
    let running = round_after(&world, 4_000 * DAY).await;
    assert_eq!((running.quarantined, running.collected, running.rows.outbox), (0, 0, 0), "{running}");
    assert_eq!((jobs(&world, &task, true).await, jobs(&world, &task, false).await), before);
    assert!(before.1.iter().all(|job| world.data().join("jobs").join(job).is_dir()), "{before:?}");
    let_agents_go_on(&world).await;
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_while_the_disk_is_short_and_all_goes_on_by_itself() {
    let disk = Arc::new(FakeDisk::with_free(100 << 20));
    let mut setup = Setup::default().agent("team", PATIENT).limits(|l| l.max_concurrency = 1);
    setup.disk = disk.clone();
    let world = setup.open().await;
    let turn = |free: u64| {
        disk.set_free(free);
        world.running().handle().context().disk.look();
    };
    let refused = world.control().submit(Submit { title: "Too early".to_owned(), ..Submit::default() }, "test").await;
    let Err(ControlError::Unavailable(text)) = refused else { panic!("taken on a full disk: {refused:?}") };
    for part in ["100 MiB are free", "asks for 512 MiB", "free space there"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(world.control().queue().await.expect("a queue").intake.contains("100 MiB are free"));
    assert!(!world.control().ready().await.ready);

    turn(1 << 40);
    assert_eq!(world.control().queue().await.expect("a queue").intake, "open");
    let first = world.submit("First").await;
    world.until(&first, "running", |d| d.task.status == Status::Running).await;
    let second = world.submit("Second").await;
    let third = world.submit("Third").await;
    for task in [&second, &third] {
        world.until(task, "waiting for a slot", |d| d.why.waits_for.contains("slot")).await;
    }
    turn(40 << 20);
    let_agents_go_on(&world).await;
    world.expect_status(&first, Status::Done).await;
    let waiting = world.look(&second).await;
    assert_eq!(waiting.task.status, Status::Queued);
    assert!(waiting.why.waits_for.contains("space on the disk: 40 MiB are free"), "{:?}", waiting.why);
    assert!(waiting.why.hint.as_deref().is_some_and(|hint| hint.contains("limits.min_free_disk")), "{:?}", waiting.why);
    assert_eq!(world.control().queue().await.expect("a queue").agents.used, 0, "the slot is free and not given");
    world.stop(&third).await;
    world.expect_status(&third, Status::Cancelled).await;

    turn(1 << 40);
    world.until(&second, "running", |d| d.task.status == Status::Running).await;
    let_agents_go_on(&world).await;
    world.expect_status(&second, Status::Blocked).await;
    world.stop(&second).await;
    world.expect_status(&second, Status::Cancelled).await;
    world.close().await;
}
