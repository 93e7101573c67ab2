//! What an agent leaves that is no finished work: it is told so, main stays untouched, and what it had committed is kept.

use orch_domain::task::Status;
use orch_domain::view::{TaskDetail, TaskView};

use crate::world::{Setup, World};

/// Three commits on the task's branch.
const THREE: &str = "for i in 1 2 3; do echo $i > c; echo $i > k$i; git add -A; git commit -qm n$i; done";

/// A script of shell lines, one for each attempt.
fn script(attempts: &[(&str, &str)]) -> String {
    let one = |(prompt, line): &(&str, &str)| {
        format!("- - expect_prompt: \"{prompt}\"\n  - run: {{cmd: '{}'}}\n", line.replace('\'', "''"))
    };
    format!("attempts:\n{}", attempts.iter().map(one).collect::<String>())
}

/// The first attempt leaves something: that is said, and nothing of it lands. A person lets it go on.
async fn is_sent_back(world: &World, title: &str, says: &str) -> (TaskView, TaskDetail) {
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit(title).await;
    let blocked = world.expect_blocked(&task, says).await;
    assert_eq!((blocked.task.attempts.runs, blocked.task.attempts.infrastructure), (1, 0), "it is the agent's matter");
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    world.retry(&task).await.expect("it goes on");
    let done = world.expect_status(&task, Status::Done).await;
    (task, done)
}

async fn world(attempts: &[(&str, &str)]) -> World {
    Setup::default().agent("careless", &script(attempts)).limits(|l| l.max_developer_retries = 0).open().await
}

fn files(world: &World) -> Vec<String> {
    world.git(&["ls-tree", "--name-only", "main"]).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_looks_back_and_forgets_to_return_loses_nothing() {
    let line = format!("{THREE}; git checkout -q HEAD~2");
    let world = world(&[("Task", line.as_str())]).await;
    let task = world.submit("Do three things").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 0);
    assert_eq!(world.git(&["log", "--format=%s", "main"]), "n3\nn2\nn1\nBegin");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_goes_on_from_the_branch_counts_wherever_it_is_checked_out() {
    let line = "git checkout -q -b mine; echo 1 > one; git add -A; git commit -qm one; git checkout -q --detach; echo 2 > two; \
                git add -A; git commit -qm two";
    let world = world(&[("Task", line)]).await;
    let task = world.submit("Do two things").await;
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["log", "--format=%s", "main"]), "two\none\nBegin");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebase_left_in_conflict_is_sent_back_and_the_branch_is_as_it_was() {
    let first = format!(
        "b=$(git symbolic-ref --short HEAD); {THREE}; git checkout -q -b o HEAD~3; echo q > c; git add -A; git commit -qm q; \
         git checkout -q $b; git rebase -q o || true"
    );
    let again = "test -e k1 && test -e k3 && test \"$(git log --format=%s -1)\" = n3 && echo 4 > k4 && git add -A && git commit -qm n4";
    let world = world(&[("Task", first.as_str()), ("rebase --abort", again)]).await;
    let (task, _) = is_sent_back(&world, "Do three things", "it left a rebase unfinished").await;
    assert_eq!(world.git(&["log", "--format=%s", "main"]), "n4\nn3\nn2\nn1\nBegin");
    world.expect_journal(&task, &["salvaged: ", "it left a rebase unfinished"]).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_left_in_conflict_is_sent_back_with_what_it_had_committed() {
    let first = "git checkout -q -b o; echo 1 > c; git add c; git commit -qm one; git checkout -q -; echo 2 > c; git add c; \
                 git commit -qm two; git merge o || true; echo z > z";
    let world = world(&[("Task", first), ("conflicts unresolved in `c`", "test ! -e z && echo z > z")]).await;
    is_sent_back(&world, "Merge it", "it left a merge unfinished; it left conflicts unresolved in `c`").await;
    assert_eq!(files(&world), ["c", "check.sh", "z"]);
    assert_eq!(world.git(&["show", "main:c"]), "2");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_inside_the_tree_is_named_and_what_is_beside_it_is_kept() {
    for (first, kept) in
        [("git init -q inner; echo x > inner/x; echo y > y", true), ("git init -q inner; echo x > inner/x", false)]
    {
        let again = "test ! -e inner && mkdir inner && echo x > inner/x";
        let world = world(&[("Task", first), ("remove `inner/.git`", again)]).await;
        is_sent_back(&world, "Make a package", "`inner` is a repository of its own inside the tree").await;
        assert_eq!(world.git(&["show", "main:inner/x"]), "x");
        assert_eq!(files(&world).contains(&"y".to_owned()), kept);
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_damages_its_repository_is_told_so_once() {
    let world = world(&[("Task", "rm -rf .git; echo o > o"), ("gone or damaged", "test ! -e o && echo o > o")]).await;
    let (task, done) = is_sent_back(&world, "Do it", "git repository gone or damaged").await;
    assert_eq!(done.task.attempts.infrastructure, 0);
    let journal = world.journal(&task).await.join("\n");
    assert!(!journal.contains("Exited {") && !journal.contains("could not run"), "{journal}");
    assert_eq!(world.git(&["show", "main:o"]), "o");
    world.close().await;
}
