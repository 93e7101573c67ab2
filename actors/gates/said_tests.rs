//! What a check says about a failure, in words that can be compared: the same in every run, and when it is found again.

use orch_domain::event::CheckEnd;
use orch_domain::pipeline::RepoCommand;
use orch_domain::testnames::Failure;

use super::check_tests::{World, bounded, test_command};
use super::checks;

#[tokio::test]
async fn the_same_failure_says_the_same_in_every_run_and_checkout_and_when_it_is_found_again() {
    let line = "echo \"$PWD/a.py: sum 11 > 3\"; echo \"no $HOME/.rc\" >&2; exit 1";
    let world = World::new(test_command(line)).await;
    let base = world.commit("main", &[]).await;
    let head = world.commit("work", &[("a.txt", "a")]).await;
    let mut seen = Vec::new();
    for (on, run) in [(&base, "run1"), (&head, "other2"), (&head, "more3")] {
        let request = world.request(RepoCommand::Test, &base, on, run);
        let answer = bounded(checks::run_check(&world.context(), &request)).await;
        assert_eq!(answer.was_known(), run == "more3");
        let CheckEnd::Failed { findings } = answer.end else { panic!("did not fail: {answer:?}") };
        seen.push(findings);
    }
    assert_eq!(world.jobs(), 2);
    assert!(seen[0].contains("./a.py: sum 11 > 3") && seen[0].contains("no ../private/"), "{}", seen[0]);
    assert_eq!(Failure::of(&seen[0]), Failure::of(&seen[1]), "other commits, runs and folders");
    assert_eq!(seen[1], seen[2], "found again");
}
