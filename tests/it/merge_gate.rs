//! The merge gate: what a red re-test is charged to, what its report says, and what happens where it is off.

use std::path::{Path, PathBuf};

use orch_domain::task::Status;
use orch_domain::time::Millis;
use orch_domain::view::TaskView;

use crate::world::{Setup, World};

fn writes(path: &str) -> String {
    format!("attempts:\n- - write: {{path: {path}, content: x}}\n  - commit: {{message: Add {path}}}\n")
}

/// Waits for a sign, then tells its failed tests by name: `main::is_well` fails while `sick` exists, `own::works` while
/// `broken` does.
fn suite(setup: Setup) -> Setup {
    setup.tests_wait_for(
        "go",
        "bad=0; \
             test -e sick && { echo 'test main::is_well ... FAILED'; bad=1; }; \
             test -e broken && { echo 'test own::works ... FAILED'; bad=1; }; \
             echo 'test begin ... ok'; exit $bad",
    )
}

fn reports_of(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(reports_of(&path, name)),
            path if path.ends_with(name) => found.push(path),
            _ => {}
        }
    }
    found
}

/// The merge reports in the data folder, as text.
fn merge_reports(world: &World) -> Vec<String> {
    let found = reports_of(&world.data().join("reports"), "16-merge-report.md");
    found.iter().map(|path| std::fs::read_to_string(path).expect("a report")).collect()
}

/// Lets the testing stage pass on the task's own base, and a person make `main` what the test wants before the landing.
async fn until_testing(world: &World, task: &TaskView) {
    world.until_test_run(task, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_main_that_is_red_itself_is_nobodys_fault_and_the_change_lands_once_it_is_mended() {
    let world = suite(Setup::default().agent("good", &writes("good.txt"))).open_bare().await;
    let task = world.submit("Add a file").await;
    until_testing(&world, &task).await;
    world.person_pushes("sick", "x", "Break main");
    world.give("go");
    let waits = world.until(&task, "put off", |d| d.task.attempts.main_red > 0).await;
    let c = waits.task.attempts;
    assert_eq!((c.developer_retries, c.conflicts, c.infrastructure), (0, 0, 0), "it costs the developer nothing");
    world.expect_journal(&task, &["put-off: main-red", "main is red at"]).await;
    let report = merge_reports(&world).join("\n");
    assert!(report.contains("merge_status: failed") && report.contains("main alone fails the same tests"), "{report}");
    assert!(report.contains("main::is_well"), "{report}");
    mend(&world);
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 0);
    world.close().await;
}

/// The testing stage has no other main than the one that the work began on. It says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_began_on_a_red_main_is_told_that_and_can_go_on_once_main_is_mended() {
    let script = "attempts:
- - write: {path: good.txt, content: x}
  - commit: {message: Add good}
- - expect_prompt: main was red itself at
  - expect_prompt: origin/main
  - run: {cmd: \"git merge -q origin/main\"}
";
    let world = Setup::default()
        .agent("good", script)
        .tests_wait_for("go", "test -e sick && { echo \"$PWD/sum: 11 > 3\"; exit 1; }; echo '1 passed, 0 failed'")
        .open_bare()
        .await;
    world.person_pushes("sick", "x", "Break main");
    let task = world.submit("Add a file").await;
    until_testing(&world, &task).await;
    mend(&world);
    world.give("go");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    world.expect_journal(&task, &["check-failed: testing failed: main was red itself at"]).await;
    world.close().await;
}

fn mend(world: &World) {
    let person = world.person();
    for args in [
        &["rm", "--quiet", "sick"][..],
        &["commit", "--quiet", "-m", "Mend main"],
        &["push", "--quiet", "origin", "main"],
    ] {
        crate::world::git(&person, args);
    }
}

/// Whatever is known of the one side or of the other already: the same failure is the same. The output names no test, and tells
/// where it ran.
#[tokio::test(flavor = "multi_thread")]
async fn a_red_main_is_charged_to_nobody_however_often_the_tests_without_names_are_compared() {
    let world = Setup::default()
        .agent("one", &writes("one.txt"))
        .agent("two", &writes("two.txt"))
        .tests_wait_for("go", "test -e sick && { echo \"$PWD/sum: 11 > 3\"; exit 1; }; echo '1 passed, 0 failed'")
        // One of them is kept for the lane.
        .config(|c| c.limits.gate_slots = 3)
        .open_bare()
        .await;
    let tasks = [world.submit_for("one", "Add one").await, world.submit_for("two", "Add two").await];
    for task in &tasks {
        until_testing(&world, task).await;
    }
    world.person_pushes("sick", "x", "Break main");
    world.give("go");
    for task in &tasks {
        let waits = world.until(task, "put off twice", |d| d.task.attempts.main_red > 1).await;
        let c = waits.task.attempts;
        assert_eq!((c.developer_retries, c.conflicts, c.infrastructure), (0, 0, 0), "{}", task.key);
        world.expect_journal(task, &["put-off: main-red (2 of", "main is red at"]).await;
    }
    assert!(merge_reports(&world).join("\n").contains("main alone fails in the same way; the output names no test"));
    mend(&world);
    for task in &tasks {
        let done = world.expect_status(task, Status::Done).await;
        assert_eq!(done.task.attempts.developer_retries, 0, "{}", task.key);
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_work_breaks_by_itself_goes_back_and_what_main_breaks_is_told_apart() {
    let script = "attempts:
- - write: {path: broken, content: x}
  - commit: {message: Break it, allow_empty: true}
- - expect_prompt: 'own::works'
  - expect_prompt: 'not yours'
  - run: {cmd: \"git rm -q --ignore-unmatch broken sick && git commit -q -m 'Mend both' --allow-empty\"}
";
    // The work is green alone: the testing stage passes since the file that breaks it comes with main's own change.
    let world = Setup::default()
        .agent("one", script)
        .tests_wait_for(
            "go",
            "bad=0; \
                 test -e sick && { echo 'test main::is_well ... FAILED'; bad=1; }; \
                 test -e sick && test -e broken && { echo 'test own::works ... FAILED'; bad=1; }; \
                 echo 'test begin ... ok'; exit $bad",
        )
        .open_bare()
        .await;
    let task = world.submit("Break something").await;
    until_testing(&world, &task).await;
    world.person_pushes("sick", "x", "Break main");
    world.give("go");
    let back = world.until(&task, "sent back", |d| d.task.attempts.developer_retries == 1).await;
    assert_eq!(back.task.attempts.main_red, 0);
    world.expect_journal(&task, &["sent-back", "fails the tests"]).await;
    let answer = world.stop(&task).await;
    assert!(answer.first);
    world.expect_status(&task, Status::Cancelled).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_has_a_report_with_paths_and_both_sides_and_is_counted_by_itself() {
    let script = "attempts:
- - write: {path: shared.txt, content: \"mine\\n\"}
  - commit: {message: My line, allow_empty: true}
- - expect_prompt: Their line
  - run: {cmd: \"git merge -q origin/main\", may_fail: true}
  - write: {path: shared.txt, content: \"both\\n\"}
  - run: {cmd: \"git add -A && git commit -q -m Resolve\"}
";
    let world = suite(Setup::default().agent("mine", script)).open_bare().await;
    let task = world.submit("Write my line").await;
    until_testing(&world, &task).await;
    world.person_pushes("shared.txt", "theirs\n", "Their line");
    world.give("go");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!((done.task.attempts.conflicts, done.task.attempts.developer_retries), (1, 0));
    let reports = merge_reports(&world);
    let conflict = reports.iter().find(|r| r.contains("conflicts with main")).expect("a report of the conflict");
    for text in ["merge_status: failed", "shared.txt", "My line", "Their line"] {
        assert!(conflict.contains(text), "{text} in\n{conflict}");
    }
    assert!(reports.iter().any(|r| r.contains("merge_status: passed")), "and one of the landing");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lane_gives_its_tests_the_time_that_the_settings_give_them() {
    let world = Setup::default()
        .agent("good", &writes("good.txt"))
        .config(|c| {
            c.gates.merge.retest_timeout = Some(Millis(500));
            let go = c.data_dir.with_file_name("go").display().to_string();
            for repo in c.repos.values_mut() {
                repo.commands.test = Some(format!(
                    "test -e moved.txt && sleep 600; while test ! -e {go}; do sleep 0.02; done; echo '1 passed, 0 failed'"
                ));
            }
        })
        .open_bare()
        .await;
    let task = world.submit("Take long in the lane").await;
    until_testing(&world, &task).await;
    world.person_pushes("moved.txt", "x", "Move main");
    world.give("go");
    let waits = world.until(&task, "put off", |d| d.task.attempts.infrastructure > 0).await;
    assert_eq!(waits.task.attempts.developer_retries, 0);
    world.expect_journal(&task, &["could-not-run", "500ms"]).await;
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_gate_off_a_branch_behind_main_lands_untested_and_the_proof_says_so() {
    for out_of_scope in [false, true] {
        let world = suite(Setup::default().agent("good", &writes("good.txt")))
            .config(move |c| match out_of_scope {
                true => c.gates.merge.repos = Vec::new(),
                false => c.gates.merge.enabled = false,
            })
            .open_bare()
            .await;
        let task = world.submit("Add a file").await;
        until_testing(&world, &task).await;
        world.person_pushes("other.txt", "x", "Meanwhile");
        world.give("go");
        world.expect_status(&task, Status::Done).await;
        let proof = world.proof(&task).await;
        assert_eq!((&proof["caught_up"], &proof["caught_up_untested"]), (&true.into(), &true.into()), "{proof:#}");
        let off = proof["switched_off"].to_string();
        assert_eq!(off.contains("merge"), !out_of_scope, "{off}");
        assert_eq!(proof["out_of_scope"].to_string().contains("merge"), out_of_scope, "{proof:#}");
        assert!(proof["tested_tree"].is_null() && proof["tree"].is_string(), "nobody tested it: {proof:#}");
        assert_eq!(world.test_runs(&task).await, 1, "only the testing stage ran the tests");
        assert!(merge_reports(&world).is_empty());
        world.close().await;
    }
}
