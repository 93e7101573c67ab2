//! Two branches, each green alone, red together: over a path, `git daemon` and `git http-backend`, `main` stays green and
//! the second one goes back with the name of the test that fails.

use orch_domain::task::Status;
use orch_test_support::git_server::Protocol;

use crate::world::{Setup, World, git};

/// A test suite in a shell script: each test by its name, in words that runners use.
const SUITE: &str = "failed=0
if test -e one && test -e two; then echo 'test pair::one_and_two_get_along ... FAILED'; failed=1; fi
echo 'test begin::is_there ... ok'
test $failed = 0 && echo 'test result: ok. 2 passed; 0 failed; 0 ignored' || echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'
exit $failed
";

/// Adds its file; told by name which test fails, takes it back and adds another.
fn script(own: &str) -> String {
    format!(
        "attempts:
- - write: {{path: {own}, content: x}}
  - commit: {{message: Add {own}, allow_empty: true}}
- - expect_prompt: 'pair::one_and_two_get_along'
  - expect_prompt: 'Failed tests'
  - delete: {{path: {own}}}
  - write: {{path: instead-of-{own}, content: x}}
  - commit: {{message: Do it otherwise}}
"
    )
}

fn setup() -> Setup {
    Setup::default()
        .agent("one", &script("one"))
        .agent("two", &script("two"))
        .repo(|r| r.commands.test = Some(format!("sh -c '{}'", SUITE.replace('\'', "'\\''"))))
}

async fn main_stays_green(world: World) {
    let tasks = [world.submit_for("one", "Add one").await, world.submit_for("two", "Add two").await];
    let mut sent_back = Vec::new();
    for task in &tasks {
        let done = world.expect_status(task, Status::Done).await;
        sent_back.push(done.task.attempts.developer_retries);
        let proof = world.proof(task).await;
        let landed = done.task.landed.expect("landed");
        assert_eq!(proof["tested_tree"], landed.tree.as_str());
    }
    sent_back.sort_unstable();
    assert_eq!(sent_back, [0, 1], "the first lands, the second goes back once");
    // Every commit that main ever was at is green.
    let places = git(&world.repo, &["reflog", "show", "--format=%H", "main"]);
    assert_eq!(places.lines().count(), 2, "main moved once for each: {places}");
    for at in places.lines() {
        let there = git(&world.repo, &["ls-tree", "--name-only", at, "one", "two"]);
        assert_ne!(there, "one\ntwo", "main was red at {at}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_branches_green_alone_and_red_together_over_a_path() {
    main_stays_green(setup().open_bare().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_branches_green_alone_and_red_together_over_git_daemon() {
    let (world, _server) = setup().open_served(Protocol::Daemon).await;
    main_stays_green(world).await;
}

/// A server that asks for a password gets it, and nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_lands_over_http_with_a_password_that_is_written_down_nowhere() {
    let password = ["pass", "word", "of", "this", "test"].join("-7-");
    let (world, _server) = Setup::default()
        .agent("good", "attempts:\n- - write: {path: good.txt, content: x}\n  - commit: {message: Good}\n")
        .open_guarded("orch", &password)
        .await;
    let task = world.submit("Land behind a password").await;
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["ls-tree", "--name-only", "main", "good.txt"]), "good.txt");
    let found = std::process::Command::new("grep")
        .args(["--recursive", "--binary-files=text", "--files-with-matches", "--fixed-strings", "--", &password])
        .arg(world.data())
        .output()
        .expect("grep runs");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the password is in files of the data folder");
    // A new password counts at once: this one is wrong, and no prompt keeps anybody waiting.
    std::fs::write(world.sign("password"), "another\n").expect("written");
    let second = world.submit("Be turned away").await;
    world.until(&second, "turned away", |d| d.task.attempts.infrastructure > 0).await;
    std::fs::write(world.sign("password"), &password).expect("written");
    world.stop(&second).await;
    world.expect_status(&second, Status::Cancelled).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_branches_green_alone_and_red_together_over_http() {
    let (world, _server) = setup().open_served(Protocol::Http).await;
    main_stays_green(world).await;
}
