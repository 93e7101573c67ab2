//! What the coverage gate names when it refuses, and which files it counts, over real git, real jobs and a real store.

use orch_domain::event::CheckEnd;

use super::check_tests::World;
use super::coverage_tests::{COPY, lcov, totals};

#[tokio::test]
async fn a_loss_is_named_by_what_main_had_although_the_baseline_is_of_an_older_commit() {
    let world = World::measuring(COPY).await;
    let begin = world.commit("main", &[("README", "x")]).await;
    let first = world.covered("main", &lcov(&[("a.py", &[1, 2, 3], &[])])).await;
    let measured = world.gate(&begin, &first, "run1").await;
    world.land(&first, measured.landed).await;
    // Lands with the same share: the baseline stays where it is.
    let second =
        world.commit("main", &[("lcov.txt", &lcov(&[("a.py", &[1, 2, 3], &[]), ("b.py", &[1, 2, 3], &[])]))]).await;
    let measured = world.gate(&first, &second, "run2").await;
    world.land_next(&second, measured.landed).await;
    let standing = world.standing().await;
    assert_eq!((standing.totals, standing.sha), (totals(3, 3), first.clone()));
    let head =
        world.commit("task", &[("lcov.txt", &lcov(&[("a.py", &[1, 2, 3], &[]), ("b.py", &[3], &[1, 2])]))]).await;
    let refused = world.gate(&second, &head, "run3").await;
    for said in [
        "66.66 % (4 of 6 lines) is below the baseline of 100.00 % (3 of 3 lines)",
        "b.py: 1-2 (now 1 of 3 lines, before 3 of 3 lines)",
    ] {
        assert!(refused.findings().contains(said), "{said} in: {}", refused.findings());
    }
    assert!(refused.report.as_ref().expect("one").body.contains("b.py: 1 of 3, before 3 of 3; 2 lost: 1-2"));
    // A person's baseline has no lines of its own.
    world.baseline(9, 10, &second).await;
    let refused = world.gate(&second, &head, "run4").await;
    assert!(refused.findings().contains("b.py: 1-2"), "{}", refused.findings());
    // And what is measured by other settings is not compared line by line.
    let mut world = world;
    world.settings.coverage.command = Some(format!("true; {COPY}"));
    let refused = world.gate(&second, &head, "run5").await;
    assert!(refused.findings().contains("which lines were covered before is not kept"), "{}", refused.findings());
}

#[tokio::test]
async fn only_files_of_the_commit_count_and_its_own_files_stay() {
    let line = "test -f coverage.xml && mkdir gen && printf 'x\\nx\\n' > gen/g.py && cat lcov.txt > \"$ORCH_COVERAGE_REPORT\" && echo '1 passed in 0.01s'";
    let world = World::measuring(line).await;
    let base = world.commit("main", &[("README", "x")]).await;
    world.commit("task", &[("coverage.xml", "<coverage><packages/></coverage>")]).await;
    let text = lcov(&[("a.py", &[], &[1]), ("gen/g.py", &[1, 2], &[]), ("build/../b.py", &[1], &[])]);
    let head = world.covered("task", &text).await;
    let answer = world.gate(&base, &head, "run1").await;
    assert!(answer.note().contains("50.00 % (1 of 2 lines)"), "{}", answer.note());
    assert!(answer.has("1 measured files are not in the commit and do not count, such as gen/g.py"));
}

#[tokio::test]
async fn a_report_without_numbers_says_why() {
    let mut world = World::measuring("echo '1 passed in 0.01s'").await;
    let base = world.commit("main", &[("README", "x"), ("tests/test_a.py", "x")]).await;
    let head = world.commit("task", &[("tests/test_a.py", "")]).await;
    let none = world.gate(&base, &head, "run1").await;
    assert!(none.has("the branch deletes tests: tests/test_a.py"));
    assert!(matches!(none.end, CheckEnd::Failed { .. }));
    let body = none.report.expect("one").body;
    assert!(body.contains("the tests ran, and there is no coverage report"), "{body}");
    world.settings.coverage.command = Some("echo '1 failed in 0.01s'; exit 1".to_owned());
    let red = world.gate(&base, &head, "run2").await;
    assert!(red.has("the branch deletes tests: tests/test_a.py"));
    let body = red.report.expect("one").body;
    assert!(body.contains("1 failed"), "{body}");
}
