//! What comes after a change is on main: a deploy that is rolled back for what it is, and put off for what we are; a
//! change that main took back again; evidence that holds for the next try.

use orch_domain::lane::LaneMode;
use orch_domain::task::Status;
use orch_domain::time::Millis;
use orch_domain::view::{TaskDetail, TaskView};

use crate::world::{BOUND, GREEN, Setup, World, git};

const GOOD: &str = "attempts:\n- - write: {path: good.txt, content: x}\n  - commit: {message: Add good.txt}\n";

/// Deploys, and rollbacks, leave a line each beside the world; `health` is the health command, with a second of time.
fn deploying(health: Option<&'static str>) -> Setup {
    let patient = |l: &mut orch::config::Limits| l.infrastructure_retries = 1_000;
    Setup::default().agent("good", GOOD).limits(patient).config(move |c| {
        let place = |name: &str| c.data_dir.with_file_name(name).display().to_string();
        let (deploys, backs, data) = (place("deploys"), place("backs"), c.data_dir.display().to_string());
        for repo in c.repos.values_mut() {
            repo.commands.deploy = Some(format!("echo x >> {deploys}"));
            repo.commands.rollback = Some(format!("echo x >> {backs}"));
            repo.commands.health = health.map(|health| health.replace("{data}", &data));
            repo.health_timeout = Some(Millis::from_secs(1));
        }
    })
}

fn lines_of(world: &World, name: &str) -> usize {
    std::fs::read_to_string(world.sign(name)).unwrap_or_default().lines().count()
}

fn db(world: &World) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(world.data().join("orch.db")).expect("the store");
    db.busy_timeout(BOUND).expect("a timeout can be set");
    db
}

async fn set(world: &World, mode: LaneMode) {
    let demo = "demo".parse().expect("a name");
    world.control().set_lane_mode(&demo, mode, "as the story wants", "ann").await.expect("the lane's mode is set");
}

/// A task that stands before the closed lane.
async fn before_lane(world: &World, title: &str) -> TaskView {
    set(world, LaneMode::Paused).await;
    let task = world.submit(title).await;
    world.until(&task, "shut out of the lane", |d| d.why.waits_for == "the lane of demo to run again").await;
    task
}

/// What has landed waits for us to get well: nobody is asked, nothing was done.
fn waits_for_us(detail: &TaskDetail) -> bool {
    detail.task.status == Status::Waiting && detail.task.landed.is_some() && detail.task.attempts.infrastructure > 0
}

/// In the end it was deployed once, and no person was ever asked.
async fn deployed_once(world: &World, task: &TaskView) {
    world.expect_status(task, Status::Done).await;
    assert_eq!((lines_of(world, "deploys"), lines_of(world, "backs")), (1, 0));
    let journal = world.journal(task).await;
    assert!(!journal.iter().any(|line| line.starts_with("blocked: ")), "{}", journal.join("\n"));
    assert_eq!(journal.iter().filter(|line| line.starts_with("landed: ")).count(), 1, "{}", journal.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_never_gets_healthy_is_rolled_back_when_its_time_is_over() {
    for (health, said) in [("echo still ill; exit 1", "still ill"), ("echo asleep; sleep 600", "it hangs")] {
        let world = deploying(Some(health)).open().await;
        let task = world.submit("Deploy something ill").await;
        let begun = std::time::Instant::now();
        world.expect_blocked(&task, "landed, deploy failed").await;
        assert!(begun.elapsed() < BOUND / 2, "{health}: its time was one second, it took {:?}", begun.elapsed());
        world.expect_journal(&task, &["the health check was not content in time", said, "rolled back"]).await;
        assert_eq!((lines_of(&world, "deploys"), lines_of(&world, "backs")), (1, 1), "{health}");
        world.close().await;
    }
}

/// A service belongs to a service manager: what a deploy command leaves behind ends with it, and that is said.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_deploy_command_leaves_running_is_ended_and_named() {
    let world = deploying(Some("exit 1")).config(|c| {
        c.repos.values_mut().for_each(|repo| repo.commands.deploy = Some("nohup setsid sleep 600 &".to_owned()));
    });
    let world = world.open().await;
    let task = world.submit("Leave a service").await;
    world.expect_blocked(&task, "1 process that the deploy command left running was ended with it").await;
    world.expect_journal(&task, &["deploy-left: 1 process", "service manager"]).await;
    world.close().await;
}

/// The health command is a program of the host's that cannot be run for a while: nothing is known about the deploy.
#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_that_cannot_run_takes_no_good_deploy_back() {
    let world = deploying(Some("true"));
    // As a full disk would: from the deploy on there is no place for a checkout.
    let world = world
        .config(|c| {
            let checkouts = c.data_dir.join("checkouts").display().to_string();
            for repo in c.repos.values_mut() {
                let deploy = repo.commands.deploy.take().expect("a command");
                repo.commands.deploy = Some(format!("{deploy}; mv {checkouts} {checkouts}.away; : > {checkouts}"));
            }
        })
        .open()
        .await;
    let task = world.submit("Lose the place for checkouts").await;
    world.until(&task, "waiting for us", waits_for_us).await;
    world.expect_journal(&task, &["could-not-run", "the health check could not run"]).await;
    assert_eq!((lines_of(&world, "deploys"), lines_of(&world, "backs")), (1, 0));
    let checkouts = world.data().join("checkouts");
    std::fs::remove_file(&checkouts).expect("the obstacle");
    std::fs::rename(world.data().join("checkouts.away"), &checkouts).expect("the place is there again");
    deployed_once(&world, &task).await;
    world.close().await;
}

/// A zombie between the landing and the deploy: the lease is somebody else's from the moment that the landing is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lost_between_landing_and_deploy_puts_the_deploy_off_and_changes_nothing() {
    let world = deploying(None).open_bare().await;
    let taken = "CREATE TRIGGER taken AFTER INSERT ON landings BEGIN
                   UPDATE leases SET holder = NULL, holder_task = NULL, since = NULL, expires_at = NULL, epoch = epoch + 1;
                 END";
    db(&world).execute_batch(taken).expect("written");
    let task = world.submit("Lose the lease").await;
    deployed_once(&world, &task).await;
    world.expect_journal(&task, &["put-off: busy", "the lease of demo (epoch"]).await;
    assert!(world.control().queue().await.expect("a queue").refused_stale_writes > 0, "a stale write was refused");
    let opened = "SELECT count(*) FROM windows WHERE kind = 'deploy'";
    assert_eq!(db(&world).query_row(opened, [], |row| row.get::<_, i64>(0)).expect("windows"), 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_of_ours_keeps_a_deploy_from_beginning_asks_no_person() {
    // The store takes no window for it.
    let world = deploying(None).open_bare().await;
    let full = "CREATE TRIGGER full BEFORE INSERT ON windows WHEN NEW.kind = 'deploy' BEGIN
                  SELECT RAISE(ABORT, 'no room on the disk');
                END";
    db(&world).execute_batch(full).expect("written");
    let task = world.submit("Find the store full").await;
    world.until(&task, "waiting for us", waits_for_us).await;
    assert_eq!(lines_of(&world, "deploys"), 0);
    db(&world).execute_batch("DROP TRIGGER full").expect("written");
    deployed_once(&world, &task).await;
    world.close().await;

    // There is no place for its checkout from the moment that main has moved.
    let world = deploying(None).open_bare().await;
    let checkouts = world.data().join("checkouts");
    let (at, hook) = (checkouts.display(), world.repo.join("hooks/post-receive"));
    let spoil = format!(
        "#!/bin/sh\nwhile read old new ref; do case $ref in refs/heads/main) mv {at} {at}.away; : > {at};; esac; done\n"
    );
    std::fs::write(&hook, spoil).expect("written");
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let task = world.submit("Find no place").await;
    world.until(&task, "waiting for us", waits_for_us).await;
    assert_eq!(lines_of(&world, "deploys"), 0);
    std::fs::remove_file(&checkouts).expect("the obstacle");
    std::fs::rename(world.data().join("checkouts.away"), &checkouts).expect("the place is there again");
    deployed_once(&world, &task).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_main_got_by_another_way_and_took_back_is_not_called_landed_without_being_there() {
    let world = Setup::default().agent("good", GOOD).tests_wait_for("go", GREEN).open_bare().await;
    let task = world.submit("Add a file").await;
    world.until_test_run(&task, 1).await;
    world.person_pushes("good.txt", "x", "Pick it by hand");
    let person = world.person();
    git(&person, &["revert", "--no-edit", "HEAD"]);
    git(&person, &["push", "--quiet", "origin", "main"]);
    world.give("go");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["show", "main:good.txt"]), "x", "main holds what is called landed");
    assert_eq!(done.task.landed.map(|l| l.sha.to_string()), Some(world.git(&["rev-parse", "main"])));
    world.expect_journal(&task, &["caught-up: ", "had brought and taken back"]).await;
    world.close().await;
}

/// The forge refuses the caught-up commit for a while, over a restart: what was judged stays judged.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_work_on_the_same_main_is_caught_up_to_the_same_commit_and_tested_once() {
    let mut world = Setup::default().agent("good", GOOD).open_bare().await;
    let task = before_lane(&world, "Be refused for a while").await;
    world.person_pushes("moved.txt", "x", "Move main");
    let hook = world.close_main();
    set(&world, LaneMode::Running).await;
    world.expect_blocked(&task, "main is closed today").await;
    assert_eq!(world.test_runs(&task).await, 2, "on its own base, and caught up");
    let caught_up = world.git(&["rev-parse", task.branch.as_str()]);
    world.retry(&task).await.expect("it goes on");
    let again = |journal: &[String]| journal.iter().filter(|line| line.starts_with("blocked: ")).count() == 2;
    world.wait_for("it to be refused again", async || again(&world.journal(&task).await).then_some(())).await;
    world.shut_down().await;
    world.boot().await;
    std::fs::remove_file(&hook).expect("the hook is gone");
    world.retry(&task).await.expect("it goes on");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(world.test_runs(&task).await, 2, "neither the second try nor the restart tests it again");
    assert_eq!(done.task.landed.map(|l| l.sha.to_string()), Some(caught_up), "it is the commit of the first try");
    world.close().await;
}

/// What made main red is no commit, and is mended by none.
#[tokio::test(flavor = "multi_thread")]
async fn a_main_that_was_red_for_a_while_is_asked_anew_before_it_is_called_red_again() {
    let world = Setup::default()
        .agent("good", GOOD)
        .config(|c| {
            c.gates.merge.defer_max = 1_000;
            let well = c.data_dir.with_file_name("well").display().to_string();
            let red = "echo 'test main::is_well ... FAILED'; exit 1";
            for repo in c.repos.values_mut() {
                repo.commands.test =
                    Some(format!("test ! -e moved.txt || test -e {well} || {{ {red}; }}; echo 'test begin ... ok'"));
            }
        })
        .open_bare()
        .await;
    let task = before_lane(&world, "Meet a red main").await;
    let main = world.person_pushes("moved.txt", "x", "Move main");
    set(&world, LaneMode::Running).await;
    world.until(&task, "put off twice", |d| d.task.attempts.main_red >= 2).await;
    world.give("well");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!((done.task.attempts.developer_retries, done.task.attempts.infrastructure), (0, 0));
    assert_eq!(world.git(&["rev-parse", "main^"]), main, "nobody had to move main for it");
    world.close().await;
}

/// The plan is told where `main` is now, not where it was before the last landing.
#[tokio::test(flavor = "multi_thread")]
async fn the_lane_remembers_where_its_landing_has_left_main() {
    let world = Setup::default().agent("good", GOOD).open_bare().await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Add a file").await;
    world.expect_status(&task, Status::Done).await;
    let (demo, store) = ("demo".parse().expect("a name"), world.running().handle().context().store.clone());
    let turn = async || store.turns(&demo, 10).await.expect("turns").pop();
    let facts = world.wait_for("the turn to be recorded", turn).await.facts;
    assert_eq!(facts.main.map(|at| at.to_string()), Some(before), "what was proven was proven there");
    assert_eq!(facts.moved_to.map(|at| at.to_string()), Some(world.git(&["rev-parse", "main"])));
    drop(store);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_leaves_no_stop_to_be_seen() {
    let world = Setup::default().agent("good", GOOD).open_bare().await;
    let task = world.submit("Add a file").await;
    world.expect_status(&task, Status::Done).await;
    let stop = world.control().queue().await.expect("a queue").stop;
    assert!(stop.pending.is_empty() && stop.under_way.is_empty(), "nobody stopped anything: {stop:?}");
    let left = "SELECT count(*) FROM receipt_lines WHERE json_extract(line, '$.result') = 'pending'";
    let left = async || (db(&world).query_row(left, [], |row| row.get::<_, i64>(0)).expect("lines") == 0).then_some(());
    world.wait_for("the branch's removal to be recorded", left).await;
    world.close().await;
}
