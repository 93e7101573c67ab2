//! `kill -9` of the real binary: whatever the moment, the next start ends in the same place as if nothing had happened.
//!
//! Moments are chosen by what the journal shows, not by time; random ones by a seed that a failing test prints.

use std::path::PathBuf;

use crate::world::crash::{MAKER, Outside, finish, processes_of};
use crate::world::{BOUND, git};

/// A small generator: the seed is in the message of whatever fails.
pub(crate) struct Dice(u64);

impl Dice {
    #[expect(clippy::print_stderr, reason = "shown when the test fails, to be given again")]
    pub(crate) fn seeded(test: &str) -> Self {
        let given = std::env::var("ORCH_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |d| d.as_secs() ^ u64::from(d.subsec_nanos()))
        });
        eprintln!("{test}: ORCH_TEST_SEED={seed}");
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn three_tasks_and_a_kill_every_few_steps_end_as_if_nothing_had_happened() {
    let mut dice = Dice::seeded("three tasks");
    let mut world = Outside::new(MAKER);
    world.start();
    let keys: Vec<String> = (0..3).map(|n| world.submit(&format!("Make number {n}"))).collect();
    let entries = "SELECT count(*) FROM journal";
    let closed = "SELECT count(*) FROM tasks WHERE done_at IS NOT NULL";
    for _ in 0..8 {
        let after = world.number(entries) + 1 + i64::try_from(dice.below(9)).expect("small");
        world.until("the next moment", || world.number(entries) >= after || world.number(closed) == 3);
        world.kill();
        if dice.below(2) == 0 && world.number(closed) < 3 {
            world.start_and_kill();
        }
        world.start();
    }
    world.until_closed(&keys);
    world.close(&keys);
}

/// One task per point of the journal that a task leaves on its way: killed right behind each of them.
#[test]
fn a_kill_behind_every_entry_of_the_journal_changes_nothing() {
    let mut world = Outside::new(MAKER);
    world.start();
    let first = world.submit("Make the list of points");
    world.until_closed(std::slice::from_ref(&first));
    let points = world.journal(&first);
    for kind in ["submitted", "run-started", "run-ended", "stage-entered", "window-opened", "window-closed", "done"] {
        assert!(points.iter().any(|point| point == kind), "no `{kind}` among {points:?}");
    }
    let mut keys = vec![first];
    for at in 1..=points.len() {
        let key = world.submit(&format!("Be killed behind entry {at}"));
        world.until(&format!("entry {at} of {key}"), || world.journal(&key).len() >= at);
        world.kill();
        world.start();
        keys.push(key);
        world.until_closed(&keys);
    }
    world.close(&keys);
}

#[test]
fn an_interrupted_agent_is_resumed_with_what_it_had_left() {
    let mut world = Outside::new(
        "attempts:\n\
         - - write: {path: left.txt, content: \"half\\n\"}\n  - wait_for: {path: /nowhere/never}\n\
         - - run: {cmd: 'grep -q half left.txt && mkdir made && echo whole > made/$ORCH_TASK'}\n  - commit: {message: Go on}\n",
    )
    .agents_end_with_it();
    world.start();
    let key = world.submit("Be interrupted");
    let spaces = world.data().join("workspaces");
    let left = || folders(&spaces).into_iter().any(|run| run.join("tree/left.txt").exists());
    world.until("work in the workspace", left);
    world.kill();
    world.start();
    world.until_closed(std::slice::from_ref(&key));
    let kinds = world.journal(&key);
    assert!(kinds.iter().any(|kind| kind == "interrupted"), "{kinds:?}");
    assert_eq!(git(&world.repo, &["show", "main:left.txt"]), "half");
    world.close(&[key]);
}

/// The supervisor ends between clearing a workspace away and recording its run: what was taken in is gone on from.
#[test]
fn work_that_was_taken_in_before_its_run_was_recorded_is_not_lost() {
    let mut world = Outside::new(
        "attempts:\n\
         - - write: {path: taken.txt, content: \"whole\\n\"}\n  - commit: {message: Take me in}\n  \
           - write: {path: ready, content: \"x\\n\"}\n  - wait_for: {path: /nowhere/never}\n\
         - - run: {cmd: 'grep -q whole taken.txt && mkdir made && echo made > made/$ORCH_TASK'}\n  - commit: {message: Go on}\n",
    )
    .agents_end_with_it();
    world.start();
    let key = world.submit("Be taken in");
    let spaces = world.data().join("workspaces");
    let ready = || folders(&spaces).into_iter().find(|run| run.join("tree/ready").exists());
    world.until("the commit", || ready().is_some());
    world.kill();
    let left = ready().expect("the workspace is there");
    let run = left.file_name().expect("a name").to_string_lossy().into_owned();
    let (task, _) = run.rsplit_once('r').expect("a run's id is its task's and a number");
    let tree = left.join("tree").display().to_string();
    let taken = format!("HEAD:refs/orch/tasks/{task}/import/{run}");
    git(&world.data().join("repos/demo/work.git"), &["fetch", "--quiet", &tree, &taken]);
    std::fs::remove_dir_all(&left).expect("the workspace is cleared away");
    world.start();
    world.until_closed(std::slice::from_ref(&key));
    assert_eq!(git(&world.repo, &["show", "main:taken.txt"]), "whole");
    world.close(&[key]);
}

/// The push goes on without its supervisor; the next one attaches to the window and sees how it ended.
#[test]
fn a_kill_while_main_is_being_moved_lands_once() {
    for through_before_start in [true, false] {
        let mut world = Outside::new(MAKER);
        let hold = world.hold_pushes();
        world.start();
        let key = world.submit("Be cut in the window");
        world.until("a push at the door", || hold.entered());
        world.kill();
        if through_before_start {
            hold.let_through();
            world.until("main to move", || git(&world.repo, &["log", "--format=%H", "main"]).lines().count() > 1);
        }
        world.start();
        hold.let_through();
        world.until_closed(std::slice::from_ref(&key));
        assert!(world.journal(&key).iter().any(|kind| kind == "window-attached"), "{:?}", world.journal(&key));
        world.close(&[key]);
    }
}

#[test]
fn a_stop_after_a_kill_in_the_window_names_what_landed() {
    for lands in [true, false] {
        let mut world = Outside::new(MAKER);
        let hold = world.hold_pushes();
        world.start();
        let key = world.submit("Be stopped in the window");
        world.until("a push at the door", || hold.entered());
        world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
        world.kill();
        world.start();
        match lands {
            true => hold.let_through(),
            false => hold.turn_down(),
        }
        world.until_closed(std::slice::from_ref(&key));
        let receipt = world.verb(&["receipt", &key]).expect("a receipt");
        let outcome = receipt["outcome"].as_str().unwrap_or_default();
        assert_eq!(outcome, if lands { "done" } else { "cancelled" }, "{receipt:#}");
        world.close(if lands { std::slice::from_ref(&key) } else { &[] });
    }
}

#[test]
fn a_second_supervisor_on_the_same_folder_is_refused_and_told_who_owns_it() {
    let mut world = Outside::new(MAKER);
    world.start();
    let said = world.refused();
    assert!(said.contains(&format!("in use by pid {}", world.pid())), "{said}");
    let key = world.submit("Still served");
    world.until_closed(std::slice::from_ref(&key));
    world.close(&[key]);
}

/// A zombie: a supervisor on an old copy of the data folder, while the first one has landed the task already.
#[test]
fn a_supervisor_on_an_old_copy_of_the_data_cannot_land_a_second_time() {
    let mut world = Outside::new(MAKER);
    let hold = world.hold_pushes();
    world.start();
    let key = world.submit("Land once");
    world.until("a push at the door", || hold.entered());
    world.kill();
    let copy = world.copy_data();
    world.start();
    hold.let_through();
    world.until_closed(std::slice::from_ref(&key));
    let landed = git(&world.repo, &["rev-parse", "main"]);
    let zombie = world.start_copy();
    let db = rusqlite::Connection::open(copy.join("orch.db")).expect("the copy's store");
    db.busy_timeout(BOUND).expect("a timeout can be set");
    world.until("the copy to see that it has landed", || {
        db.query_row("SELECT count(*) FROM tasks WHERE done_at IS NULL", [], |r| r.get::<_, i64>(0)).expect("a number")
            == 0
    });
    drop(db);
    finish(zombie);
    assert_eq!(git(&world.repo, &["rev-parse", "main"]), landed, "main was moved again");
    world.close(&[key]);
}

/// The list of problems is worth something only if it sees a supervisor that cheats: here by hand.
#[test]
fn the_list_of_problems_sees_a_task_that_is_called_done_before_it_has_landed() {
    let mut world = Outside::new(MAKER);
    let hold = world.hold_pushes();
    world.start();
    let key = world.submit("Be called done too early");
    world.until("a push at the door", || hold.entered());
    world.kill();
    hold.turn_down();
    world.until("the push to end", || processes_of(world.root()).is_empty());
    // What a naive supervisor would have written before pushing.
    let db = world.db();
    let done = "body = json_set(body, '$.state', json('{\"kind\":\"done\",\"at\":1}'))";
    db.execute(&format!("UPDATE tasks SET done_at = 1, status = 'done', {done}"), []).expect("written");
    db.execute("UPDATE windows SET closed_at = 1", []).expect("written");
    drop(db);
    let wrong = world.problems(std::slice::from_ref(&key));
    assert!(wrong.contains(&format!("the change of {key} is on main 0 times")), "{wrong:#?}");
    assert!(wrong.contains(&format!("{key} has 0 proofs of landing")), "{wrong:#?}");
}

#[test]
fn the_list_of_problems_sees_a_second_landing_and_a_process_that_is_left() {
    let mut world = Outside::new(MAKER);
    world.start();
    let key = world.submit("Land twice");
    world.until_closed(std::slice::from_ref(&key));
    // What a naive supervisor would do after a crash: take the change back to its beginning and land it again.
    git(&world.repo, &["reset", "--quiet", "--hard", "main"]);
    git(&world.repo, &["revert", "--no-edit", "HEAD"]);
    git(&world.repo, &["revert", "--no-edit", "HEAD"]);
    let mut sleeper =
        std::process::Command::new("sleep").arg("600").current_dir(world.root()).spawn().expect("sleep runs");
    let wrong = world.problems(std::slice::from_ref(&key));
    sleeper.kill().expect("it can be killed");
    sleeper.wait().expect("it was ours");
    assert!(wrong.contains(&format!("the change of {key} is on main 2 times")), "{wrong:#?}");
    assert!(wrong.contains(&"main moved 3 times for 1 tasks".to_owned()), "{wrong:#?}");
    assert!(wrong.iter().any(|line| line.contains("sleep 600")), "{wrong:#?}");
}

fn folders(dir: &std::path::Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
