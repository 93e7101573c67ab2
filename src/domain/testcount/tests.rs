//! Counts and verdicts from what real runners print.

use super::*;

#[track_caller]
fn read(output: &str, passed: u64, failed: u64, skipped: u64) {
    assert_eq!(counts_from_output(output), Some(Counts::of(passed, failed, skipped)), "{output}");
}

#[test]
fn pytest_in_its_forms() {
    read("===== 1 failed, 2 passed, 1 skipped, 3 warnings in 0.12s =====\n", 2, 1, 1);
    read("\u{1b}[32m\u{1b}[1m3 passed\u{1b}[0m\u{1b}[32m in 0.01s\u{1b}[0m\n", 3, 0, 0);
    read("=== 412 passed, 2 deselected, 1 xfailed, 1 xpassed in 61.20s (0:01:01) ===", 413, 0, 1);
    read("== no tests ran in 0.01s ==", 0, 0, 0);
    read("!!! Interrupted: 1 error during collection !!!\n=== 1 error in 0.10s ===", 0, 1, 0);
}

#[test]
fn cargo_test_is_summed_over_binaries() {
    let out = "running 2 tests\ntest a ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\nrunning 3 tests\ntest result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s\n";
    read(out, 3, 1, 1);
    read("     Summary [   0.2s] 5 tests run: 4 passed (1 slow, 1 flaky), 1 failed, 2 skipped", 4, 1, 2);
}

#[test]
fn go_counts_single_tests_and_knows_when_there_are_none() {
    let verbose = "=== RUN   TestA\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/sub (0.00s)\n--- SKIP: TestB (0.00s)\n--- FAIL: TestC (0.00s)\nPASS\nok  \tx/y\t0.003s\n";
    read(verbose, 1, 1, 1);
    let json = "{\"Action\":\"run\",\"Package\":\"p\",\"Test\":\"TestA\"}\n{\"Action\":\"pass\",\"Package\":\"p\",\"Test\":\"TestA\",\"Elapsed\":0}\n{\"Action\":\"pass\",\"Package\":\"p\",\"Test\":\"TestA/sub\"}\n{\"Action\":\"pass\",\"Package\":\"p\"}\n";
    read(json, 1, 0, 0);
    assert_eq!(counts_from_output("ok  \tx/y\t0.003s\n?   \tx/z\t[no test files]\n"), None, "ran, uncounted");
    read("?   \tx/y\t[no test files]\n", 0, 0, 0);
    read("ok  \tx/y\t0.003s [no tests to run]\n", 0, 0, 0);
}

#[test]
fn the_javascript_runners() {
    read(
        "# tests 5\n# suites 0\n# pass 3\n# fail 1\n# cancelled 0\n# skipped 1\n# todo 0\n# duration_ms 45.1\n",
        3,
        1,
        1,
    );
    read("✔ a (0.4ms)\nℹ tests 2\nℹ suites 0\nℹ pass 2\nℹ fail 0\nℹ cancelled 0\nℹ skipped 0\nℹ todo 0\n", 2, 0, 0);
    read("TAP version 13\nok 1 - a\n1..1\n# tests 1\n# pass 1\n# fail 0\n", 1, 0, 0);
    read("Test Suites: 1 failed, 1 passed, 2 total\nTests:       1 failed, 1 skipped, 2 passed, 4 total\n", 2, 1, 1);
    read(" Test Files  1 failed | 2 passed (3)\n      Tests  1 failed | 5 passed (6)\n", 5, 1, 0);
    read("  5 passing (12ms)\n  1 pending\n  2 failing\n\n  1) suite\n", 5, 2, 1);
    read(" 3 pass\n 0 fail\nRan 3 tests across 1 file. [12.00ms]\n", 3, 0, 0);
}

#[test]
fn unittest_with_the_outcome_on_a_later_line() {
    read("..\n-----\nRan 2 tests in 0.001s\n\nOK\n", 2, 0, 0);
    read("Ran 5 tests in 0.001s\n\nFAILED (failures=1, errors=1, skipped=1)\n", 2, 2, 1);
    read("Ran 3 tests in 0.001s\n\nOK (skipped=1, expected failures=1)\n", 1, 0, 2);
    read("Ran 0 tests in 0.000s\n\nNO TESTS RAN\n", 0, 0, 0);
    read("Ran 1 test in 0.000s\n", 1, 0, 0);
}

#[test]
fn the_others() {
    read("100% tests passed, 0 tests failed out of 7\n", 7, 0, 0);
    read("67% tests passed, 1 tests failed out of 3\n", 2, 1, 0);
    read("No tests were found!!!\n", 0, 0, 0);
    read("# TOTAL: 6\n# PASS:  2\n# SKIP:  1\n# XFAIL: 1\n# FAIL:  1\n# XPASS: 0\n# ERROR: 1\n", 2, 2, 2);
    let maven = "Tests run: 3, Failures: 0, Errors: 0, Skipped: 1, Time elapsed: 0.1 s -- in A\n[INFO] Tests run: 3, Failures: 0, Errors: 0, Skipped: 1\n";
    read(maven, 2, 0, 1);
    read("Passed!  - Failed:     0, Passed:     5, Skipped:     1, Total:     6, Duration: 12 ms - x.dll", 5, 0, 1);
    read("5 examples, 1 failure, 1 pending\n", 3, 1, 1);
    read("5 runs, 9 assertions, 1 failures, 0 errors, 1 skips\n", 3, 1, 1);
    read("OK (5 tests, 9 assertions)\n", 5, 0, 0);
    read("Tests: 5, Assertions: 9, Failures: 1, Skipped: 1.\n", 3, 1, 1);
    read("ok 1 adds\nnot ok 2 subtracts\nok 3 # skip later\n1..3\n", 1, 1, 1);
    read("building\n12 passed, 1 failed\n", 12, 1, 0);
    read("3 passed\nmore\n4 passed, 0 failed.\n", 4, 0, 0);
}

#[test]
fn several_runners_are_added_up() {
    read("=== 3 passed in 0.01s ===\nTests:       2 passed, 2 total\n", 5, 0, 0);
}

#[test]
fn what_is_not_known_is_unknown_not_zero() {
    for output in [
        "",
        "all good\n",
        "5 tests were fun\n",
        "Tests are nice (3)\n",
        "passed\n",
        "-1 passed\n",
        "Ran x tests in 1s\n",
    ] {
        assert_eq!(counts_from_output(output), None, "{output:?}");
    }
    let _ = counts_from_output("18446744073709551615 passed, 18446744073709551615 failed\n\u{1b}\u{1b}[");
    let _ = counts_from_output("Tests run: 1, Failures: 18446744073709551615, Errors: 18446744073709551615, x\n");
}

#[test]
fn exit_code_and_counts_are_judged_together() {
    let exited = |code| JobEnd::Exited { code };
    let some = |p, f, s| Some(Counts::of(p, f, s));
    let passed = |note: &str| Judged::Passed { note: note.to_owned() };
    let failed = |why: &str| Judged::Failed { why: why.to_owned() };
    let table = [
        (exited(0), some(2, 0, 1), passed("3 tests: 2 passed, 1 skipped")),
        (exited(0), some(1, 0, 0), passed("1 test: 1 passed")),
        (exited(0), None, passed("exit code 0; test count unknown")),
        (exited(0), some(0, 0, 0), failed("no test ran")),
        (exited(0), some(0, 0, 4), failed("no test ran: 4 skipped")),
        (
            exited(0),
            some(1, 1, 0),
            failed("the command exited with 0 although tests failed (2 tests: 1 passed, 1 failed)"),
        ),
        (exited(1), some(1, 1, 0), failed("exit code 1; 2 tests: 1 passed, 1 failed")),
        (exited(1), some(9, 0, 0), failed("exit code 1; 9 tests: 9 passed")),
        (exited(1), None, failed("exit code 1")),
        (exited(5), some(0, 0, 0), failed("no test ran (exit code 5)")),
        (exited(2), some(0, 1, 0), failed("exit code 2; 1 test: 0 passed, 1 failed")),
        (exited(4), None, failed("exit code 4")),
        (JobEnd::Signalled { signal: 11 }, some(9, 0, 0), failed("it crashed with signal 11; 9 tests: 9 passed")),
    ];
    for (end, counts, judged) in table {
        assert_eq!(judge_tests(&end, counts), judged, "{end:?} {counts:?}");
    }
}

#[test]
fn what_showed_nothing_is_never_a_verdict_on_the_work() {
    let table = [
        (JobEnd::Exited { code: 126 }, NoAnswer::NotFound),
        (JobEnd::Exited { code: 127 }, NoAnswer::NotFound),
        (JobEnd::Exited { code: 137 }, NoAnswer::Killed),
        (JobEnd::Exited { code: 143 }, NoAnswer::Killed),
        (JobEnd::Signalled { signal: 9 }, NoAnswer::Killed),
        (JobEnd::TimedOut, NoAnswer::TimedOut),
        (JobEnd::Stalled, NoAnswer::TimedOut),
        (JobEnd::OverLimit { what: "memory".to_owned() }, NoAnswer::Killed),
        (JobEnd::Cancelled, NoAnswer::Cancelled),
        (JobEnd::Orphaned, NoAnswer::Killed),
        (JobEnd::Lost, NoAnswer::Killed),
        (JobEnd::CouldNotStart { why: "no shell".to_owned() }, NoAnswer::NotStarted),
    ];
    for (end, expected) in table {
        for counts in [None, Some(Counts::of(5, 0, 0)), Some(Counts::of(0, 5, 0)), Some(Counts::default())] {
            let judged = judge_tests(&end, counts);
            assert!(matches!(&judged, Judged::CouldNotRun { reason, .. } if *reason == expected), "{judged:?}");
        }
    }
}

#[test]
fn a_runner_that_is_not_there_is_told_from_tests_that_fail() {
    let said = "/usr/bin/python3: No module named pytest";
    let end = JobEnd::Exited { code: 1 };
    let line = "python3 -m pytest -q";
    assert_eq!(absent_runner(line, &end, said).as_deref(), Some(said));
    assert_eq!(
        absent_runner("cd sub && python -m pytest", &end, &format!("setting up\n{said}\n\n")).as_deref(),
        Some(said)
    );
    let others = [
        (line, JobEnd::Exited { code: 2 }, said),
        (line, JobEnd::Exited { code: 0 }, said),
        ("make test", end.clone(), said),
        ("python3 -m unittest", end.clone(), said),
        (line, end.clone(), "/usr/bin/python3: No module named pytest\n1 failed"),
        (line, end.clone(), "ModuleNotFoundError: No module named 'pytest'"),
        (line, end.clone(), "E   a test said /usr/bin/python3: No module named pytest"),
        (line, end.clone(), "/usr/bin/python3: No module named requests"),
        (line, end.clone(), "runner: No module named pytest"),
        (line, end, ""),
    ];
    for (line, end, tail) in others {
        assert_eq!(absent_runner(line, &end, tail), None, "{line}: {end:?}: {tail}");
    }
}
