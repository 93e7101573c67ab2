//! A task's way from the board to main.

use orch_domain::task::Status;

use crate::world::Setup;

const ONE_FILE: &str =
    "attempts:\n- - write: {path: hello.txt, content: \"hello\\n\"}\n  - commit: {message: Add hello}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_good_change_lands_on_main_as_it_was_tested() {
    let world = Setup::default().agent("good", ONE_FILE).open().await;
    let task = world.submit("Add hello").await;
    let done = world.expect_status(&task, Status::Done).await;
    let landed = done.task.landed.expect("it says what landed");
    assert_eq!(world.git(&["rev-parse", "main"]), landed.sha.to_string());
    assert_eq!(world.git(&["rev-parse", "main^{tree}"]), landed.tree.to_string());
    assert_eq!(world.git(&["show", "main:hello.txt"]), "hello");
    assert_eq!(world.git(&["for-each-ref", "refs/heads/orch"]), "", "the task branch is gone");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_test_sends_it_back_with_the_failure_in_the_prompt() {
    let script = "attempts:\n\
        - - write: {path: red, content: \"x\"}\n  - commit: {message: Break it}\n\
        - - expect_prompt: \"no red allowed\"\n  - delete: {path: red}\n  - write: {path: green, content: \"x\"}\n  - commit: {message: Mend it}\n";
    let world = Setup::default()
        .agent("learner", script)
        .repo(|r| {
            r.commands.test =
                Some("test ! -e red || { echo no red allowed; exit 1; }; echo '1 passed, 0 failed'".into())
        })
        .open()
        .await;
    let task = world.submit("Make it green").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    assert_eq!(world.git(&["show", "main:green"]), "x");
    world.close().await;
}
