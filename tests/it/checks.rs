//! The judge's commands: found, missing, counting nothing, unable to run; and what each of these costs whom.

use orch_domain::job::JobKind;
use orch_domain::task::Status;

use crate::world::{Setup, World, commit_file, git_init};

const GOOD: &str = "attempts:\n- - write: {path: good.txt, content: x}\n  - commit: {message: Do it}\n";

fn reports_of(world: &World) -> String {
    let mut folders = vec![world.data().join("reports")];
    let mut all = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => all.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default()),
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_command_is_found_in_the_files_of_base_and_named() {
    let world = Setup::default()
        .agent("good", GOOD)
        .repo(|r| r.commands.test = None)
        .open_over("repo", |repo| {
            git_init(repo);
            commit_file(repo, "Makefile", "test:\n\t@echo '2 passed, 0 failed'\n", "Begin");
        })
        .await;
    let task = world.submit("Do it").await;
    world.expect_status(&task, Status::Done).await;
    let reports = reports_of(&world);
    assert!(reports.contains("make test") && reports.contains("Makefile"), "{reports}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_test_command_is_found_a_person_is_told_what_was_looked_for() {
    let world = Setup::default().agent("good", GOOD).repo(|r| r.commands.test = None).open().await;
    let task = world.submit("Do it").await;
    world.expect_blocked(&task, "looked for Cargo.toml, pytest in pytest.ini").await;
    let blocked = world.expect_blocked(&task, "--no-tests").await;
    assert_eq!(blocked.task.attempts.developer_retries, 0);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_runner_that_is_not_installed_is_no_fault_of_the_developer() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = Setup::default()
        .agent("good", GOOD)
        .repo(|r| r.commands.test = None)
        .open_over("repo", |repo| {
            git_init(repo);
            commit_file(repo, "pytest.ini", "[pytest]\n", "Begin");
            // As the interpreter of a machine says it whose pytest lies in the project's own environment.
            let python = repo.with_file_name("bin").join("python3");
            std::fs::create_dir(repo.with_file_name("bin")).expect("a folder");
            std::fs::write(&python, "#!/bin/sh\necho \"$0: No module named pytest\" >&2\nexit 1\n").expect("written");
            std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("executable");
        })
        .await;
    let task = world.submit("Do it").await;
    let blocked = world.expect_blocked(&task, "No module named pytest; install it where the supervisor runs").await;
    assert_eq!(blocked.task.attempts.developer_retries, 0);
    assert_eq!(world.jobs_of(&task, JobKind::Agent).await.len(), 1, "it works once");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_tests_are_no_pass() {
    let world = Setup::default()
        .agent("good", GOOD)
        .repo(|r| r.commands.test = Some("echo 'running 0 tests'; echo 'test result: ok. 0 passed; 0 failed'".into()))
        .limits(|l| l.max_developer_retries = 0)
        .open()
        .await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Do it").await;
    let blocked = world.expect_blocked(&task, "sent back as often as allowed").await;
    let findings = blocked.findings.expect("findings");
    assert!(findings.contains("no test"), "{findings}");
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_without_tests_says_so_in_its_proof() {
    let world = Setup::default()
        .agent("good", GOOD)
        .repo(|r| {
            r.commands.test = None;
            r.no_tests = true;
        })
        .open()
        .await;
    let task = world.submit("Do it").await;
    world.expect_status(&task, Status::Done).await;
    let proof = world.proof(&task).await;
    assert_eq!(proof["switched_off"], serde_json::json!(["tests"]), "{proof}");
    assert_eq!(world.test_runs(&task).await, 0);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_command_that_is_not_there_costs_the_developer_nothing() {
    let world = Setup::default()
        .agent("good", GOOD)
        .repo(|r| r.commands.test = Some("no-such-test-runner --all".into()))
        .limits(|l| l.infrastructure_retries = 2)
        .open()
        .await;
    let task = world.submit("Do it").await;
    let blocked = world.expect_blocked(&task, "could not run").await;
    assert_eq!(blocked.task.attempts.developer_retries, 0);
    world.expect_journal(&task, &["could not run (2 of 2)", "no-such-test-runner"]).await;
    assert_eq!(world.test_runs(&task).await, 3, "it was tried again, with backoff");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_command_sends_back_before_any_test_is_run() {
    let script = "attempts:
- - write: {path: ugly, content: x}
  - commit: {message: Do it quickly, allow_empty: true}
- - expect_prompt: this is ugly
  - delete: {path: ugly}
  - write: {path: pretty, content: x}
  - commit: {message: Tidy}
";
    let world = Setup::default()
        .agent("hasty", script)
        .repo(|r| r.commands.check = Some("test ! -e ugly || { echo this is ugly; exit 1; }".into()))
        .open()
        .await;
    let task = world.submit("Do it").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    let jobs = world.jobs_of(&task, JobKind::Gate).await;
    let first = jobs.iter().position(|l| l.starts_with("test of ")).expect("tests were run");
    assert_eq!(jobs[..first].iter().filter(|l| l.starts_with("check of ")).count(), 2, "{jobs:?}");
    world.close().await;
}
