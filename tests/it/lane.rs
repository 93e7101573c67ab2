//! The lane to main: what is tested is what lands, whoever else moves what meanwhile; and the deploy after it.

use orch_domain::ids::CommitSha;
use orch_domain::policy::{DeployMode, LandMode};
use orch_domain::task::{ApprovalOf, Status};
use orch_domain::view::{TaskDetail, TaskView};

use crate::world::{GREEN, Setup, World, commit_file, git};

/// Writes one file and commits it.
fn writes(path: &str) -> String {
    format!("attempts:\n- - write: {{path: {path}, content: x}}\n  - commit: {{message: Add {path}}}\n")
}

fn waits_for_approval(detail: &TaskDetail) -> bool {
    detail.task.status == Status::AwaitingPerson
}

async fn approve(world: &World, task: &TaskView, what: ApprovalOf, sha: Option<CommitSha>) -> Result<TaskView, String> {
    world.control().approve(task.id.as_str(), what, sha.map(Into::into), "test").await.map_err(|e| e.to_string())
}

fn lines_of(world: &World, sign: &str) -> usize {
    std::fs::read_to_string(world.sign(sign)).unwrap_or_default().lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_changes_that_are_green_alone_and_red_together_do_not_both_land() {
    // Whichever comes second is told why, and takes its file back for another one.
    let script = |own: &str| {
        format!(
            "attempts:
- - write: {{path: {own}, content: x}}
  - commit: {{message: Add {own}, allow_empty: true}}
- - expect_prompt: one and two do not go together
  - delete: {{path: {own}}}
  - write: {{path: instead, content: x}}
  - commit: {{message: Do it otherwise}}
"
        )
    };
    let test =
        "test -e one && test -e two && { echo one and two do not go together; exit 1; }; echo '1 passed, 0 failed'";
    let world = Setup::default()
        .agent("one", &script("one"))
        .agent("two", &script("two"))
        .repo(|r| r.commands.test = Some(test.to_owned()))
        .open()
        .await;
    let tasks = [world.submit_for("one", "Add one").await, world.submit_for("two", "Add two").await];
    for task in &tasks {
        let landed = world.expect_status(task, Status::Done).await.task.landed.expect("landed").sha;
        let there = world.git(&["ls-tree", "--name-only", landed.as_str(), "one", "two"]);
        assert_ne!(there, "one\ntwo", "main was red at {landed}");
    }
    assert_eq!(world.git(&["ls-tree", "--name-only", "main", "one", "two", "instead"]).lines().count(), 2);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_red_together_with_what_main_brought_goes_back_with_the_failing_test() {
    let script = "attempts:
- - write: {path: two, content: x}
  - commit: {message: Add two, allow_empty: true}
- - expect_prompt: one and two do not go together
  - run: {cmd: \"test -e one\"}
  - delete: {path: two}
  - write: {path: three, content: x}
  - commit: {message: Make it three}
";
    let world = Setup::default().agent("two", script).tests_wait_for(
        "go",
        "test -e one && test -e two && { echo one and two do not go together; exit 1; }; echo '1 passed, 0 failed'",
    );
    let world = world.open_bare().await;
    let task = world.submit("Add two").await;
    world.until_test_run(&task, 1).await;
    world.person_pushes("one", "x", "Add one");
    world.give("go");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    world.expect_journal(&task, &["sent-back: sent back from deploy to development", "fails the tests"]).await;
    assert_eq!(world.git(&["ls-tree", "--name-only", "main", "one", "two", "three"]), "one\nthree");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_goes_back_with_its_paths_and_both_sides_and_can_be_resolved() {
    let script = "attempts:
- - write: {path: shared.txt, content: \"mine\\n\"}
  - commit: {message: My line, allow_empty: true}
- - expect_prompt: shared.txt
  - expect_prompt: Their line
  - expect_prompt: My line
  - run: {cmd: \"git merge -q origin/main\", may_fail: true}
  - write: {path: shared.txt, content: \"mine and theirs\\n\"}
  - run: {cmd: \"git add -A && git commit -q -m 'Resolve'\"}
";
    let world = Setup::default().agent("mine", script).tests_wait_for("go", GREEN).open_bare().await;
    let task = world.submit("Write my line").await;
    world.until_test_run(&task, 1).await;
    let theirs = world.person_pushes("shared.txt", "theirs\n", "Their line");
    world.give("go");
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["show", "main:shared.txt"]), "mine and theirs");
    assert_eq!(world.git(&["merge-base", "main", &theirs]), theirs, "their commit is still in main");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_main_moves_during_the_landing_it_is_caught_up_with_and_tested_again() {
    let world = Setup::default()
        .agent("good", &writes("good.txt"))
        .config(|c| {
            let signs = c.data_dir.with_file_name("go").display().to_string();
            // Which sign is waited for is told by what main has brought so far.
            let test = format!(
                "n=1; test -e second.txt && n=2; test -e third.txt && n=3; while test ! -e {signs}$n; do sleep 0.02; done; echo '1 passed, 0 failed'"
            );
            for repo in c.repos.values_mut() {
                repo.commands.test = Some(test.clone());
            }
        })
        .open_bare()
        .await;
    let task = world.submit("Add a file").await;
    world.until_test_run(&task, 1).await;
    world.person_pushes("second.txt", "x", "Push before the landing");
    world.give("go1");
    world.until_test_run(&task, 2).await;
    let last = world.person_pushes("third.txt", "x", "Push during the landing's test");
    world.give("go2");
    world.give("go3");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 0, "nobody is blamed");
    assert_eq!(world.test_runs(&task).await, 3);
    assert_eq!(world.git(&["rev-parse", "main^"]), last, "what was tested on that main has landed on it");
    world.expect_journal(&task, &["main-moved"]).await;
    let landed = done.task.landed.expect("landed");
    assert_eq!(world.git(&["rev-parse", "main^{tree}"]), landed.tree.to_string());
    assert_eq!(world.proof(&task).await["tested_tree"], landed.tree.as_str());
    world.close().await;
}

/// What is left to do behind a landing needs no lease. Its own task waits for it, a STOP of that task too.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_landing_does_not_wait_for_the_branch_of_the_one_before_to_go() {
    let world = Setup::default().agent("one", &writes("one")).agent("two", &writes("two")).open_bare().await;
    let waits = world.hold_deletions("go");
    let one = world.submit_for("one", "Add one").await;
    world.wait_for("the first branch to be taken away", async || waits.exists().then_some(())).await;
    let two = world.submit_for("two", "Add two").await;
    world
        .wait_for("the second to land", async || {
            (world.git(&["ls-tree", "--name-only", "main", "one", "two"]) == "one\ntwo").then_some(())
        })
        .await;
    for task in [&one, &two] {
        let task = world.look(task).await.task;
        assert_eq!((task.status, task.landed), (Status::Landing, None), "{} is told too early", task.key);
    }
    world.stop(&one).await;
    world.give("go");
    for task in [&one, &two] {
        world.expect_status(task, Status::Done).await;
    }
    assert!(world.receipt(&one).await.is_ok(), "the STOP came too late, and says so");
    assert_eq!(world.git(&["for-each-ref", "--format=%(refname)", "refs/heads"]), "refs/heads/main");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_head_is_not_tested_twice_on_the_same_base() {
    let world = Setup::default().agent("good", &writes("good.txt")).open().await;
    let task = world.submit("Add a file").await;
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.test_runs(&task).await, 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_with_merge_commits_lands_with_them() {
    let script = "attempts:
- - run: {cmd: \"git checkout -q -b side && echo x > side.txt && git add side.txt && git commit -q -m Side\"}
  - run: {cmd: \"git checkout -q - && echo x > line.txt && git add line.txt && git commit -q -m Line && git merge -q --no-ff -m Join side\"}
";
    let world = Setup::default().agent("merger", script).tests_wait_for("go", GREEN).open_bare().await;
    let task = world.submit("Join two lines").await;
    world.until_test_run(&task, 1).await;
    world.person_pushes("other.txt", "x", "Push in between");
    world.give("go");
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["ls-tree", "--name-only", "main"]), "check.sh\nline.txt\nother.txt\nside.txt");
    assert!(world.git(&["log", "--format=%s", "main"]).contains("Join"), "the merge was flattened");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_branch_that_a_person_has_taken_over_is_kept_and_a_person_is_asked() {
    let world = Setup::default().agent("good", &writes("good.txt")).tests_wait_for("go", GREEN).open_bare().await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Add a file").await;
    world.until_test_run(&task, 1).await;
    let person = world.person();
    git(&person, &["checkout", "--quiet", "-b", task.branch.as_str()]);
    commit_file(&person, "mine.txt", "x", "A person's work");
    git(&person, &["push", "--quiet", "origin", task.branch.as_str()]);
    let theirs = git(&person, &["rev-parse", "HEAD"]);
    world.give("go");
    world.expect_blocked(&task, "which is not ours: a person, or another supervisor, works on it").await;
    assert_eq!(world.git(&["rev-parse", task.branch.as_str()]), theirs);
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    world.close().await;
}

/// The commit where the person put it is one of ours, and so is the branch's name: the place is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_branch_that_a_person_has_set_back_is_not_overwritten() {
    let two = "attempts:\n- - write: {path: one.txt, content: x}\n  - commit: {message: One}\n  - write: {path: two.txt, content: x}\n  - commit: {message: Two}\n";
    let world = Setup::default().agent("two", two).repo(|r| r.land = LandMode::Approval).open_bare().await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Write two").await;
    let waiting = world.until(&task, "waiting for a person", waits_for_approval).await;
    let branch = format!("refs/heads/{}", task.branch);
    let ours = world.git(&["rev-parse", &branch]);
    let theirs = world.git(&["rev-parse", &format!("{branch}~1")]);
    world.git(&["update-ref", &branch, &theirs]);
    approve(&world, &task, ApprovalOf::Land, waiting.task.head).await.expect("approved");
    world.expect_blocked(&task, "a person has moved it").await;
    assert_eq!(world.git(&["rev-parse", &branch]), theirs, "it is theirs now");
    assert_eq!(world.git(&["rev-parse", "main"]), before, "nothing landed");
    world.git(&["update-ref", &branch, &ours]);
    world.retry(&task).await.expect("it goes on");
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["rev-parse", "main"]), ours);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forge_that_refuses_main_blocks_the_task_with_its_words() {
    let world = Setup::default().agent("good", &writes("good.txt")).open_bare().await;
    let hook = world.close_main();
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Add a file").await;
    world.expect_blocked(&task, "main is closed today").await;
    world.expect_journal(&task, &["blocked: the forge refuses to land it"]).await;
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    std::fs::remove_file(&hook).expect("the hook is gone");
    world.retry(&task).await.expect("it goes on");
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.test_runs(&task).await, 1, "what was tested on this base is not tested again");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_landed_is_deployed_once_and_checked_for_health() {
    let world = Setup::default()
        .agent("good", &writes("good.txt"))
        .config(|c| {
            let place = c.data_dir.with_file_name("deployed").display().to_string();
            for repo in c.repos.values_mut() {
                repo.commands.deploy = Some(format!("test -e good.txt && echo $ORCH_SHA >> {place}"));
                repo.commands.health = Some(format!("test -s {place}"));
            }
        })
        .open()
        .await;
    let task = world.submit("Add a file").await;
    let done = world.expect_status(&task, Status::Done).await;
    let landed = done.task.landed.expect("landed");
    assert_eq!(std::fs::read_to_string(world.sign("deployed")).expect("deployed").trim(), landed.sha.as_str());
    world.expect_journal(&task, &["deploy-ended: deployed and healthy"]).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_fails_is_rolled_back_and_only_the_deploy_is_tried_again() {
    let world = Setup::default()
        .agent("good", &writes("good.txt"))
        .config(|c| {
            let place = |name: &str| c.data_dir.with_file_name(name).display().to_string();
            let (deploys, backs, mended) = (place("deploys"), place("backs"), place("mended"));
            for repo in c.repos.values_mut() {
                repo.commands.deploy =
                    Some(format!("echo x >> {deploys}; test -e {mended} || {{ echo no room on the shelf; exit 1; }}"));
                repo.commands.rollback = Some(format!("echo x >> {backs}"));
            }
        })
        .open()
        .await;
    let task = world.submit("Add a file").await;
    let blocked = world.expect_blocked(&task, "landed, deploy failed").await;
    let landed = blocked.task.landed.clone().expect("landed all the same");
    assert_eq!(world.git(&["rev-parse", "main"]), landed.sha.to_string());
    world.expect_journal(&task, &["no room on the shelf", "rolled back"]).await;
    assert_eq!((lines_of(&world, "deploys"), lines_of(&world, "backs")), (1, 1));
    assert!(world.control().leases().await.expect("leases").iter().all(|l| l.holder.is_none()), "the lease is free");
    world.give("mended");
    world.retry(&task).await.expect("the deploy can be tried again");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!((lines_of(&world, "deploys"), lines_of(&world, "backs")), (2, 1));
    assert_eq!(done.task.landed, blocked.task.landed, "it landed once");
    assert_eq!(world.test_runs(&task).await, 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_waits_for_its_approval_where_the_settings_say_so() {
    let world = Setup::default()
        .agent("good", &writes("good.txt"))
        .repo(|r| r.deploy_mode = DeployMode::Approval)
        .config(|c| {
            let place = c.data_dir.with_file_name("deploys").display().to_string();
            for repo in c.repos.values_mut() {
                repo.commands.deploy = Some(format!("echo x >> {place}"));
            }
        })
        .open()
        .await;
    let task = world.submit("Add a file").await;
    let waiting = world.until(&task, "waiting for a person", waits_for_approval).await;
    assert!(waiting.task.landed.is_some() && lines_of(&world, "deploys") == 0);
    approve(&world, &task, ApprovalOf::Deploy, None).await.expect("approved");
    world.expect_status(&task, Status::Done).await;
    assert_eq!(lines_of(&world, "deploys"), 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_to_land_holds_for_the_commit_that_was_seen_and_is_void_when_it_moves() {
    let world =
        Setup::default().agent("good", &writes("good.txt")).repo(|r| r.land = LandMode::Approval).open_bare().await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Add a file").await;
    let waiting = world.until(&task, "waiting for a person", waits_for_approval).await;
    let seen = waiting.task.head.expect("a head");
    let other: CommitSha = before.parse().expect("a commit id");
    let refused = approve(&world, &task, ApprovalOf::Land, Some(other)).await.expect_err("another commit");
    assert!(refused.contains(&format!("waits for the approval of {seen}, not of {before}")), "{refused}");
    let hint = waiting.why.hint.expect("a hint");
    assert_eq!(hint, format!("orch task approve {} land --sha {}", task.key, seen.short()));
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    let moved = world.person_pushes("other.txt", "x", "Push before the approval");
    let beginning = seen.short().parse().expect("the beginning of a commit id");
    let approved = world.control().approve(task.id.as_str(), ApprovalOf::Land, Some(beginning), "ann").await;
    approved.expect("approved by what people are shown");
    let again = world
        .until(&task, "waiting for another approval", |d| {
            waits_for_approval(d) && d.task.head.as_ref().is_some_and(|head| *head != seen)
        })
        .await;
    assert_eq!(world.git(&["rev-parse", "main"]), moved, "the approval was for another commit");
    let void = format!("approval-void: the approval of {} by ann is void", seen.short());
    world.expect_journal(&task, &[&void]).await;
    approve(&world, &task, ApprovalOf::Land, again.task.head.clone()).await.expect("approved");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.landed.map(|l| l.sha), again.task.head);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_people_merge_the_task_is_done_when_they_have() {
    let world =
        Setup::default().agent("good", &writes("good.txt")).repo(|r| r.land = LandMode::PrOnly).open_bare().await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Add a file").await;
    let waiting = world.until(&task, "waiting for a person", waits_for_approval).await;
    let head = waiting.task.head.expect("a head");
    assert_eq!(world.git(&["rev-parse", task.branch.as_str()]), head.to_string(), "the judged head is on its branch");
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    let person = world.person();
    git(&person, &["fetch", "--quiet", "origin"]);
    git(&person, &["checkout", "--quiet", "-B", "main", "origin/main"]);
    git(&person, &["merge", "--quiet", "--no-ff", "-m", "Merge the task", head.as_str()]);
    git(&person, &["push", "--quiet", "origin", "main"]);
    // The lane looks by itself once a minute; a person who does not want to wait asks it to look now.
    world.retry(&task).await.expect("it looks again");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.landed.map(|l| l.sha.to_string()), Some(world.git(&["rev-parse", "main"])));
    let proof = world.proof(&task).await;
    assert_eq!((&proof["merged_by"], &proof["main_is_as_judged"]), (&"a person".into(), &true.into()), "{proof}");
    assert_eq!(world.git(&["for-each-ref", "refs/heads/orch"]), "", "the task branch is gone");
    world.close().await;
}

/// They merged it and took it back before the lane looked: that is their last word, and what is said is what `main` holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_people_merged_and_took_back_is_not_brought_again_and_said_to_be_taken_back() {
    let world =
        Setup::default().agent("good", &writes("good.txt")).repo(|r| r.land = LandMode::PrOnly).open_bare().await;
    let task = world.submit("Add a file").await;
    let head = world.until(&task, "waiting for a person", waits_for_approval).await.task.head.expect("a head");
    let person = world.person();
    git(&person, &["fetch", "--quiet", "origin"]);
    git(&person, &["checkout", "--quiet", "-B", "main", "origin/main"]);
    git(&person, &["merge", "--quiet", "--no-ff", "-m", "Merge the task", head.as_str()]);
    git(&person, &["revert", "--no-edit", "-m", "1", "HEAD"]);
    commit_file(&person, "other.txt", "x", "Go on with something else");
    git(&person, &["push", "--quiet", "origin", "main"]);
    let main = git(&person, &["rev-parse", "HEAD"]);
    world.retry(&task).await.expect("it looks again");
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["rev-parse", "main"]), main, "nothing of ours has moved it");
    world.expect_journal(&task, &["merged-by-others", "somebody has taken it back since"]).await;
    let proof = world.proof(&task).await;
    assert_eq!((&proof["main_is_as_judged"], &proof["main_holds"]), (&false.into(), &"nothing".into()), "{proof}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_main_has_got_by_another_way_is_done_without_anything_left_to_land() {
    let world = Setup::default().agent("good", &writes("good.txt")).tests_wait_for("go", GREEN).open_bare().await;
    let task = world.submit("Add a file").await;
    world.until_test_run(&task, 1).await;
    // The same commits under another hash: a person has picked them by hand.
    world.person_pushes("good.txt", "x", "Pick it by hand");
    world.give("go");
    let done = world.expect_status(&task, Status::Done).await;
    let landed = done.task.landed.expect("landed");
    assert_eq!(world.git(&["rev-parse", "main"]), landed.sha.to_string(), "nothing was left to land");
    world.expect_journal(&task, &["already-on-main"]).await;
    assert_eq!(world.git(&["for-each-ref", "refs/heads/orch"]), "", "no task branch shows main's head");
    world.close().await;
}
