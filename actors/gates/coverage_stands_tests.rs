//! What the coverage command stands for, and what a verdict costs whom: over real git and real jobs, with commands of our
//! own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use orch_adapters::reports::{Expect, read_report};
use orch_domain::coverage::{CoverageMode, CoveragePolicy, Step, ratchet};
use orch_domain::event::CheckEnd;
use orch_domain::gate::GateName;
use orch_domain::ids::CommitSha;
use orch_domain::pipeline::RepoCommand;
use orch_domain::time::Millis;

use super::check_tests::{World, bounded};
use super::checks::{CheckRequest, run_check};
use super::coverage::{self, Slot};
use super::coverage_tests::{COPY, lcov};
use super::{Cause, GateAnswer};
use crate::context::Commands;

const FOREVER: &str = "exec tail -f /dev/null";
const REQUIREMENTS: (&str, &str) = ("requirements-dev.txt", "pytest\npytest-cov\n");

impl World {
    /// Puts a program of that name before all others on the path of jobs.
    fn pretend(&mut self, name: &str, script: &str) {
        let bin = self.root.path().join("bin");
        fs::create_dir_all(&bin).expect("made");
        let program = bin.join(name);
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
        self.path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
    }

    async fn answer(&self, base: &CommitSha, head: &CommitSha, run: &str, no_tests: bool) -> GateAnswer {
        let subject = self.request(RepoCommand::Test, base, head, run).subject;
        bounded(coverage::run(&self.context(), &subject, no_tests, &Slot::default())).await
    }

    /// The tests with coverage, and the notes of their report.
    async fn noted(&self, base: &CommitSha, head: &CommitSha, run: &str) -> (CheckEnd, String) {
        let request = self.request(RepoCommand::Test, base, head, run);
        let answer = bounded(run_check(&self.context(), &CheckRequest { coverage: true, ..request })).await;
        let report = answer.report.expect("a report");
        let (gate, sha256) = (GateName::Tests, Some(report.sha256));
        let expect = Expect { gate, head: head.clone(), base: Some(base.clone()), run: None, sha256 };
        (answer.end, read_report(&report.path, &expect).expect("it reads back").header.notes.join("\n"))
    }
}

fn why(end: &CheckEnd) -> &str {
    match end {
        CheckEnd::CouldNotRun { why } => why,
        other => panic!("could run: {other:?}"),
    }
}

#[tokio::test]
async fn a_detected_coverage_command_never_takes_the_place_of_tests_that_somebody_named() {
    let mut world = World::new(Commands::default()).await;
    world.pretend(
        "python3",
        "printf 'SF:a.py\\nDA:1,1\\nend_of_record\\n' > \"$ORCH_COVERAGE_REPORT\"; echo '9 passed in 0.1s'",
    );
    world.settings.commands.test = Some("echo '0 passed, 1 failed'; exit 1".to_owned());
    let base = world.commit("main", &[REQUIREMENTS, ("a.py", "x = 1\n")]).await;
    let head = world.commit("task", &[("notes", "x")]).await;
    let (end, notes) = world.noted(&base, &head, "run1").await;
    let CheckEnd::Failed { findings } = end else { panic!("the tests that were named fail: {end:?}") };
    assert!(findings.contains("0 passed, 1 failed"), "{findings}");
    assert!(
        notes.contains("coverage is measured by a run of its own") && notes.contains("coverage_runs_tests"),
        "{notes}"
    );
    assert!(world.gate(&base, &head, "run2").await.note().contains("100.00 % (1 of 1 line)"), "measured all the same");

    // Nobody named them, and the same runner runs them: one run, which says what it stands for.
    world.settings.commands.test = None;
    let base = world.commit("main", &[("pytest.ini", "[pytest]\n")]).await;
    let head = world.commit("pytest", &[("notes", "x")]).await;
    let jobs = world.jobs();
    let (end, notes) = world.noted(&base, &head, "run3").await;
    assert!(matches!(&end, CheckEnd::Passed { note, .. } if note.contains("9 tests")), "{end:?}");
    assert!(notes.contains("stands for `python3 -m pytest` (detected at") && notes.contains("was not run"), "{notes}");
    world.gate(&base, &head, "run4").await.note();
    assert_eq!(world.jobs(), jobs + 1);

    // Another runner: both.
    world.pretend("cargo", "echo 'test result: ok. 5 passed; 0 failed; 0 ignored'");
    let base = world.commit("main", &[("Cargo.toml", "[package]\n")]).await;
    let head = world.commit("cargo", &[("notes", "x")]).await;
    let (end, _) = world.noted(&base, &head, "run5").await;
    assert!(matches!(&end, CheckEnd::Passed { note, .. } if note.contains("5 tests")), "{end:?}");
    // Unless somebody says so.
    world.settings.coverage.runs_tests = Some(true);
    let (end, notes) = world.noted(&base, &head, "run6").await;
    assert!(matches!(&end, CheckEnd::Passed { note, .. } if note.contains("9 tests")), "{end:?}");
    assert!(notes.contains("stands for `cargo test`"), "{notes}");
}

#[tokio::test]
async fn without_tests_only_a_command_that_somebody_named_measures() {
    let mut world = World::new(Commands::default()).await;
    world.pretend("python3", "echo 'FAILED tests/x.py::test_y - boom'; echo '1 failed in 0.1s'; exit 1");
    let base = world
        .commit("main", &[REQUIREMENTS, ("a.py", "x = 1\n"), ("app/__init__.py", "y\n"), ("src/index.js", "z\n")])
        .await;
    let head = world.commit("task", &[("notes", "x")]).await;
    let answer = world.answer(&base, &head, "run1", true).await;
    let CheckEnd::Passed { note, .. } = &answer.end else { panic!("{answer:?}") };
    assert!(note.contains("not applicable: tests are switched off") && note.contains("commands.coverage"), "{note}");
    assert_eq!(world.jobs(), 0);
    let cover = "printf 'SF:a.py\\nDA:1,1\\nend_of_record\\n' > \"$ORCH_COVERAGE_REPORT\"; echo '1 passed in 0.1s'";
    world.settings.coverage.command = Some(cover.to_owned());
    let answer = world.answer(&base, &head, "run2", true).await;
    assert!(matches!(&answer.end, CheckEnd::Passed { note, .. } if note.contains("100.00 %")), "{answer:?}");
    // What lies below `src` is no Python: the package is measured.
    world.settings.coverage.command = None;
    let answer = world.answer(&base, &head, "run3", false).await;
    let CheckEnd::Failed { findings } = &answer.end else { panic!("{answer:?}") };
    assert!(findings.contains("--cov=app --cov-report") && answer.cause == Cause::MainRed, "{findings}");
}

#[tokio::test]
async fn a_red_run_is_charged_to_main_where_main_fails_the_same() {
    let line = "cat said; test -e green && cat lcov.txt > \"$ORCH_COVERAGE_REPORT\"";
    let world = World::measuring(line).await;
    let red = "FAILED tests/x.py::test_y - boom\n1 failed in 0.1s\n";
    let other = "FAILED tests/x.py::test_z - boom\n1 failed in 0.1s\n";
    let base = world.commit("main", &[("said", red)]).await;
    let head = world.commit("task", &[("notes", "x")]).await;
    let answer = world.answer(&base, &head, "run1", false).await;
    let CheckEnd::Failed { findings } = &answer.end else { panic!("{answer:?}") };
    assert!(findings.contains("main is red at") && findings.contains("tests/x.py::test_y"), "{findings}");
    assert_eq!((answer.cause, world.jobs()), (Cause::MainRed, 2));
    // Asked again: the cause is found out again, and base is not run twice.
    let answer = world.answer(&base, &head, "run2", false).await;
    assert_eq!((answer.cause, world.jobs()), (Cause::MainRed, 3));
    // Another test: the branch's own.
    let worse = world.commit("worse", &[("said", other)]).await;
    let answer = world.answer(&base, &worse, "run3", false).await;
    assert!(matches!(answer.end, CheckEnd::Failed { .. }) && answer.cause == Cause::None, "{answer:?}");
    // Main is green.
    let text = lcov(&[("a.py", &[1], &[])]);
    let base = world
        .commit("main", &[("said", "1 passed in 0.1s\n"), ("green", "x"), ("lcov.txt", &text), ("a.py", "x\n")])
        .await;
    let head = world.commit("breaks", &[("said", red), ("green", "")]).await;
    let answer = world.answer(&base, &head, "run4", false).await;
    let CheckEnd::Failed { findings } = &answer.end else { panic!("{answer:?}") };
    assert!(findings.contains("main alone passes the tests") && answer.cause == Cause::None, "{findings}");
}

#[tokio::test]
async fn the_limits_of_whoever_asks_hold_for_the_one_run_too() {
    let mut world = World::measuring(FOREVER).await;
    world.settings.coverage.runs_tests = Some(true);
    let on = world.commit("main", &[("README", "x")]).await;
    let head = world.commit("task", &[("notes", "x")]).await;
    let ask = |run: &str| CheckRequest { coverage: true, ..world.request(RepoCommand::Test, &on, &head, run) };
    let (limited, silent) = (ask("run1"), ask("run2"));
    let limited = CheckRequest { limit: Some(Millis(250)), ..limited };
    let end = bounded(run_check(&world.context(), &limited)).await.end;
    assert!(why(&end).contains("time limit") && why(&end).contains("250ms"), "{end:?}");
    let silent = CheckRequest { silence: Some(Millis(250)), ..silent };
    let end = bounded(run_check(&world.context(), &silent)).await.end;
    assert!(why(&end).contains("silent for longer"), "{end:?}");
    // Of two that are named, the shorter one.
    world.settings.coverage.limit = Some(Millis(200));
    let end = bounded(run_check(&world.context(), &limited)).await.end;
    assert!(why(&end).contains("200ms"), "{end:?}");
}

#[tokio::test]
async fn by_the_absolute_rule_base_is_never_measured() {
    let mut world = World::measuring(COPY).await;
    let base = world.landed(&[("a.py", "x\nx\n"), ("lcov.txt", &lcov(&[("a.py", &[1], &[2])]))]).await;
    // Another command, which base cannot run.
    world.settings.coverage.command = Some(format!("test -e brought || exit 9; {COPY}"));
    world.settings.coverage.policy =
        CoveragePolicy { mode: CoverageMode::Absolute, min_bp: 4_000, ..CoveragePolicy::default() };
    let head = world.commit("task", &[("brought", "x")]).await;
    let jobs = world.jobs();
    let answer = world.gate(&base, &head, "run2").await;
    assert!(answer.note().contains("50.00 % (1 of 2 lines) is at least the minimum of 40.00 %"), "{}", answer.note());
    assert_eq!((world.jobs(), answer.landed.as_ref().map(|l| l.rebase.is_none())), (jobs + 1, Some(true)));
    // The same again is known.
    let again = world.gate(&base, &head, "run3").await;
    assert!(again.note().contains("judged before, by run run2") && again.landed == answer.landed);
    assert_eq!(world.jobs(), jobs + 1);
    // The baseline stays as it was measured.
    assert_eq!(ratchet(Some(&world.standing().await.standing()), &answer.landed.expect("it lands")), Step::Kept);
}

#[tokio::test]
async fn a_closed_gate_costs_the_developer_nothing() {
    let mut world = World::measuring("no-such-coverage-tool").await;
    world.settings.coverage.policy.fail_closed = true;
    let base = world.commit("main", &[("README", "x")]).await;
    let head = world.commit("task", &[("x.py", "x")]).await;
    for run in ["run1", "run2"] {
        let jobs = world.jobs();
        let answer = world.gate(&base, &head, run).await;
        let text = why(&answer.end);
        assert!(text.contains("could not start") && text.contains("`gates.coverage.fail_closed` is on"), "{text}");
        assert!(answer.landed.is_none());
        assert_eq!(world.jobs(), jobs + 2, "it is tried anew, on base too: the tool may be there by now");
    }
}
