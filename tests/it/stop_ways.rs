//! The ways to a STOP and the ways out of one: the board and its switch, a whole repository, a forge that is away, the
//! work that is given back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use orch_actors::api::{ControlError, Submit};
use orch_domain::names::RepoName;
use orch_domain::stop::{Receipt, StepResult, StopStep};
use orch_domain::task::Status;
use orch_domain::view::TaskView;

use crate::world::{BOUND, Setup, World, commit_file, git};

const SLOW: &str = "attempts:\n- - write: {path: slow.txt, content: \"x\\n\"}\n  - say: {text: here}\n  - wait_for: {path: /nowhere/never}\n";

fn demo() -> RepoName {
    "demo".parse().expect("a name")
}

fn in_workspaces(world: &World, file: &str) -> usize {
    let folders = std::fs::read_dir(world.data().join("workspaces")).into_iter().flatten().flatten();
    folders.filter(|entry| entry.path().join("tree").join(file).exists()).count()
}

/// The receipt once it has a line for every step.
async fn whole(world: &World, task: &TaskView) -> Receipt {
    world.wait_for("a whole receipt", async || world.receipt(task).await.ok().filter(Receipt::is_whole)).await
}

fn line(receipt: &Receipt, step: StopStep) -> StepResult {
    receipt.lines.iter().find(|line| line.step == step).map(|line| line.result.clone()).expect("the step is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_boards_status_stops_a_task_and_the_receipt_names_its_source() {
    let world = Setup::default().agent("slow", SLOW).open().await;
    let task = world.submit("Be stopped on the board").await;
    world.wait_for("work", async || (in_workspaces(&world, "slow.txt") == 1).then_some(())).await;
    world.person_moves(&task, "STOP").await;
    world.expect_status(&task, Status::Cancelled).await;
    let receipt = whole(&world, &task).await;
    assert_eq!((receipt.by.as_str(), receipt.source.as_str()), ("person", "tracker"));
    assert!(receipt.unproven().next().is_none(), "{receipt:#?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_switch_off_the_boards_status_is_ignored_and_all_else_stops() {
    let world = Setup::default().agent("slow", SLOW).config(|c| c.stop.status_enabled = false).open().await;
    let task = world.submit("Ignore the board").await;
    world.wait_for("work", async || (in_workspaces(&world, "slow.txt") == 1).then_some(())).await;
    let moved = world.person_moves(&task, "STOP").await;
    world.until_taken_up(moved).await;
    let other = world.submit("Go on beside it").await;
    world.wait_for("work of the other", async || (in_workspaces(&world, "slow.txt") == 2).then_some(())).await;
    assert_eq!(world.look(&task).await.task.status, Status::Running);
    assert!(!world.control().queue().await.expect("the queue").stop.status_enabled);
    for task in [&task, &other] {
        assert!(world.stop(task).await.first);
        world.expect_status(task, Status::Cancelled).await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_a_repository_stops_every_live_task_of_it_and_no_other() {
    let world = Setup::default()
        .agent("slow", SLOW)
        .limits(|l| l.max_concurrency = 3)
        .config(|c| {
            let mut other = c.repos[&demo()].clone();
            let path = other.path.clone().expect("a path").with_file_name("other");
            std::fs::create_dir_all(&path).expect("a folder");
            git(&path, &["init", "--quiet", "--initial-branch=main"]);
            commit_file(&path, "check.sh", "echo '1 passed, 0 failed'\n", "Begin");
            other.path = Some(path);
            c.repos.insert("other".parse().expect("a name"), other);
        })
        .open()
        .await;
    let ask = |title: &str, repo: &str| Submit {
        title: title.to_owned(),
        repo: Some(repo.parse().expect("a name")),
        ..Submit::default()
    };
    let stays = world.submit_as(ask("Stay", "other")).await;
    let mut ours = Vec::new();
    for n in 0..5 {
        ours.push(world.submit_as(ask(&format!("Go {n}"), "demo")).await);
    }
    world.wait_for("three at work", async || (in_workspaces(&world, "slow.txt") == 3).then_some(())).await;
    let answer = world.control().stop_repo(&demo(), "test", "test").await.expect("recorded");
    assert_eq!(answer.stopped.len(), 5);
    assert!(answer.stopped.iter().all(|one| one.first), "{answer:#?}");
    for task in &ours {
        let closed = world.expect_status(task, Status::Cancelled).await;
        assert!(closed.task.attempts.runs <= 1, "a slot that was given back let it begin");
        assert!(whole(&world, task).await.unproven().next().is_none());
    }
    let begun: usize = ours.len() - in_queue(&world, &ours).await;
    assert_eq!(begun, 2, "those that waited never began");
    assert_eq!(world.look(&stays).await.task.status, Status::Running);
    let again = world.control().stop_repo(&demo(), "test", "test").await.expect("nothing to do");
    assert!(again.stopped.is_empty(), "{again:#?}");
    let unknown = world.control().stop_repo(&"nowhere".parse().expect("a name"), "test", "test").await;
    assert!(matches!(unknown, Err(ControlError::NotFound(_))), "{unknown:?}");
    world.stop(&stays).await;
    world.expect_status(&stays, Status::Cancelled).await;
    world.close().await;
}

/// How many of these never had a run.
async fn in_queue(world: &World, tasks: &[TaskView]) -> usize {
    let mut waiting = 0;
    for task in tasks {
        waiting += usize::from(world.look(task).await.task.attempts.runs == 0);
    }
    waiting
}

/// The forge is away when the branch should go: the task is closed all the same, and the receipt is completed later.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_at_a_forge_that_is_away_is_pending_and_goes_when_it_is_back() {
    let world = Setup::default()
        .agent(
            "gated",
            "attempts:\n- - write: {path: good.txt, content: \"x\\n\"}\n  - commit: {message: Add good}\n  - run: {cmd: 'while [ ! -e ../../../../go ]; do sleep 0.02; done'}\n",
        )
        .repo(|r| {
            let line = "if [ -e other.txt ]; then touch started; exec sleep 600; fi; echo '1 passed, 0 failed'";
            r.commands.test = Some(line.into());
            r.main = Some("main".parse().expect("a branch"));
        })
        .open()
        .await;
    let task = world.submit("Leave a branch behind").await;
    world.wait_for("work", async || (in_workspaces(&world, "good.txt") == 1).then_some(())).await;
    commit_file(&world.repo, "other.txt", "x\n", "Move main");
    world.give("go");
    let checkouts = world.data().join("checkouts");
    world.wait_for("the landing's tests", async || any_started(&checkouts).then_some(())).await;
    let branch = format!("refs/heads/{}", task.branch);
    assert_ne!(world.git(&["for-each-ref", &branch]), "", "the branch is at the forge");
    let away = world.root().join("away");
    std::fs::rename(&world.repo, &away).expect("the forge goes away");
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    let receipt = whole(&world, &task).await;
    assert!(matches!(line(&receipt, StopStep::RemoteBranch), StepResult::Pending { .. }), "{receipt:#?}");
    assert!(receipt.unproven().next().is_none(), "{receipt:#?}");
    let waits = world.control().queue().await.expect("the queue").stop.pending;
    assert_eq!(waits.iter().map(|p| (&p.key, p.step)).collect::<Vec<_>>(), [(&task.key, StopStep::RemoteBranch)]);
    assert!(waits[0].next.is_some_and(|next| next > waits[0].tried), "{waits:#?}");
    std::fs::rename(&away, &world.repo).expect("the forge is back");
    let result = world
        .wait_for("the receipt to be completed", async || {
            world.running().handle().directory().wake_reconciler();
            let result = line(&whole(&world, &task).await, StopStep::RemoteBranch);
            (!matches!(result, StepResult::Pending { .. })).then_some(result)
        })
        .await;
    assert!(matches!(&result, StepResult::Done { proof } if proof.contains("gone")), "{result:?}");
    assert_eq!(world.git(&["for-each-ref", &branch]), "", "the branch is gone");
    world.expect_journal(&task, &["receipt-completed", "remote-branch"]).await;
    assert!(world.control().queue().await.expect("the queue").stop.pending.is_empty());
    world.close().await;
}

fn any_started(checkouts: &Path) -> bool {
    let folders = std::fs::read_dir(checkouts).into_iter().flatten().flatten();
    folders.into_iter().any(|entry| entry.path().join("tree/started").exists())
}

/// What a stopped agent had done and nobody else has is listed, shown, and written into a folder of the person's choice.
#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_stopped_task_is_given_back() {
    let world = Setup::default()
        .agent(
            "worker",
            "attempts:\n\
             - - write: {path: one.txt, content: \"committed\\n\"}\n  - commit: {message: One}\n  \
               - write: {path: sub/two.txt, content: \"not committed\\n\"}\n  - say: {text: here}\n  \
               - wait_for: {path: /nowhere/never}\n",
        )
        .open()
        .await;
    let task = world.submit("Be given back").await;
    world.wait_for("work", async || (in_workspaces(&world, "sub/two.txt") == 1).then_some(())).await;
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    let control = world.control();
    let all = control.salvages(None).await.expect("listed");
    let one = all.iter().find(|salvage| salvage.files.is_some()).expect("the workspace's files are kept").clone();
    assert!(one.id.starts_with(&format!("{}/1/", task.key.slug())) && one.until > one.at, "{one:#?}");
    let into = world.root().join("given back");
    let restored = control.restore_salvage(&one.repo, &one.id, into.clone()).await.expect("restored");
    assert_eq!(restored.into, into);
    assert_eq!(std::fs::read_to_string(into.join("one.txt")).expect("it is there"), "committed\n");
    assert_eq!(std::fs::read_to_string(into.join("sub/two.txt")).expect("it is there"), "not committed\n");
    assert!(!into.join(".git").exists(), "no repository is made of what an agent wrote");
    let again = control.restore_salvage(&one.repo, &one.id, into).await;
    assert!(matches!(again, Err(ControlError::Conflict(_))), "{again:?}");
    for inside in [world.data().join("x"), world.data().join("repos/../new/deep"), PathBuf::from("relative")] {
        let refused = control.restore_salvage(&one.repo, &one.id, inside).await;
        assert!(matches!(refused, Err(ControlError::Invalid(_))), "{refused:?}");
    }
    let none = control.restore_salvage(&one.repo, "no/1/such", world.root().join("none")).await;
    assert!(matches!(none, Err(ControlError::NotFound(_))), "{none:?}");
    // Whoever holds a way in holds the runtime folder too.
    drop(control);
    world.close().await;
}

/// Whatever a workspace holds, a STOP runs nothing of it and follows nothing out of it; what is too much is put aside.
#[tokio::test(flavor = "multi_thread")]
async fn an_evil_workspace_is_kept_without_running_anything_of_it() {
    let trap = tempfile::tempdir().expect("a folder");
    let fired = trap.path().join("fired");
    let evil = format!("touch {fired}; cat", fired = fired.display());
    // The agent may not write there, so that only somebody outside of its confinement can spring the trap.
    let script = format!(
        "attempts:\n\
         - - write: {{path: kept.txt, content: \"work\\n\"}}\n  \
           - write: {{path: .gitattributes, content: \"* filter=evil diff=evil\\n\"}}\n  \
           - run: {{cmd: 'git config filter.evil.clean \"{evil}\"; git config filter.evil.smudge \"{evil}\"; git config core.fsmonitor \"{evil}\"; git config diff.evil.textconv \"{evil}\"; git config core.hooksPath hooks; mkdir -p hooks; printf \"#!/bin/sh\\n{evil}\\n\" > hooks/pre-commit; chmod +x hooks/pre-commit'}}\n  \
           - run: {{cmd: 'git init -q nested; cd nested; git config core.fsmonitor \"{evil}\"; echo inner > inner.txt; mkdir ../pointed; echo \"gitdir: /etc\" > ../pointed/.git; ln -s /etc/passwd ../link; mkfifo ../pipe'}}\n  \
           - write: {{path: ready, content: x}}\n  - wait_for: {{path: /nowhere/never}}\n"
    );
    let world = Setup::default().agent("evil", &script).open().await;
    let task = world.submit("Be evil").await;
    world.wait_for("the trap", async || (in_workspaces(&world, "ready") == 1).then_some(())).await;
    let spaces = std::fs::read_dir(world.data().join("workspaces")).expect("a folder").flatten();
    for space in spaces {
        // It is one: a person who looks there by git springs it.
        git(&space.path().join("tree"), &["status"]);
    }
    std::fs::remove_file(&fired).expect("the trap works");
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    let receipt = whole(&world, &task).await;
    assert!(matches!(line(&receipt, StopStep::Salvage), StepResult::Done { .. }), "{receipt:#?}");
    assert!(!fired.exists(), "something of the workspace was run outside of its confinement");
    let control = world.control();
    let one = control.salvages(None).await.expect("listed").into_iter().find(|s| s.files.is_some()).expect("kept");
    let into = world.root().join("back");
    control.restore_salvage(&one.repo, &one.id, into.clone()).await.expect("restored");
    assert_eq!(std::fs::read_to_string(into.join("kept.txt")).expect("kept"), "work\n");
    assert_eq!(std::fs::read_to_string(into.join("nested/inner.txt")).expect("kept"), "inner\n");
    assert_eq!(std::fs::read_link(into.join("link")).expect("a link"), Path::new("/etc/passwd"), "never followed");
    assert!(!into.join("pipe").exists() && one.about.contains("pipe"), "{}", one.about);
    assert!(!fired.exists(), "giving back runs nothing either");
    // Whoever holds a way in holds the runtime folder too.
    drop(control);
    world.close().await;
}

/// One more than are kept; `ORCH_TEST_FILES=1000000` is the whole number.
const FILES: usize = 100_001;

/// Stops a task whose agent has done `what`; its workspace in quarantine, and why it is there.
async fn put_aside(world: &World, files: impl AsRef<Path>, bound: Duration) -> (PathBuf, String) {
    let task = world.submit("Be huge").await;
    world.wait_within(bound, "the files", async || (in_workspaces(world, "ready") == 1).then_some(())).await;
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    let receipt = whole(world, &task).await;
    let StepResult::Kept { because } = line(&receipt, StopStep::Salvage) else { panic!("{receipt:#?}") };
    assert!(because.contains("quarantine") && because.contains("more than"), "{because}");
    assert!(matches!(line(&receipt, StopStep::Workspace), StepResult::Done { .. }), "{receipt:#?}");
    let aside: Vec<_> = std::fs::read_dir(world.data().join("quarantine")).expect("a folder").flatten().collect();
    assert_eq!(aside.len(), 1);
    let why = std::fs::read_to_string(aside[0].path().join("why.txt")).expect("it says why");
    assert!(because.contains(why.trim_end()), "{because}: {why}");
    assert_eq!(world.control().salvages(None).await.expect("listed"), Vec::new(), "half of it was kept");
    (aside[0].path().join("tree").join(files), why)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_with_too_many_files_is_put_aside_whole_and_at_once() {
    let files = std::env::var("ORCH_TEST_FILES").ok().and_then(|n| n.parse().ok()).unwrap_or(FILES);
    let script = format!(
        "attempts:\n\
         - - run: {{cmd: 'mkdir many && cd many && seq {files} | xargs touch'}}\n  \
           - write: {{path: ready, content: x}}\n  - wait_for: {{path: /nowhere/never}}\n"
    );
    let world = Setup::default().agent("many", &script).open().await;
    let (many, why) = put_aside(&world, "many", BOUND * (1 + u32::try_from(files / FILES).expect("few"))).await;
    assert!(why.contains("100000 files"), "{why}");
    let there = std::fs::read_dir(many).expect("a folder").count();
    assert_eq!(there, files);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_with_ten_gigabytes_is_put_aside_whole() {
    let script = "attempts:\n\
        - - write: {path: small.txt, content: x}\n  - run: {cmd: 'truncate -s 10G huge.bin'}\n  \
          - write: {path: ready, content: x}\n  - wait_for: {path: /nowhere/never}\n";
    let world = Setup::default().agent("huge", script).open().await;
    let (huge, _) = put_aside(&world, "huge.bin", BOUND).await;
    assert_eq!(std::fs::metadata(huge).expect("it is there").len(), 10 << 30);
    world.close().await;
}

/// The first life leaves what nobody may take away: a person's branch, and a workspace in quarantine.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_reborn_clean_while_the_remains_of_its_first_life_are_there_and_both_lives_are_found() {
    let huge = "attempts:\n\
        - - run: {cmd: 'truncate -s 10G huge.bin'}\n  - write: {path: ready, content: x}\n  - wait_for: {path: /nowhere/never}\n";
    let good = "attempts:\n\
        - - run: {cmd: 'test ! -e huge.bin && test ! -e ready && test ! -e person.txt'}\n  \
          - write: {path: good.txt, content: \"x\\n\"}\n  - commit: {message: Add good}\n";
    let world = Setup::default().agent("huge", huge).agent("good", good).open().await;
    let first = world.submit_for("huge", "Live twice").await;
    world.wait_for("the file", async || (in_workspaces(&world, "ready") == 1).then_some(())).await;
    let theirs = world.git(&["commit-tree", "main^{tree}", "-p", "main", "-m", "A person's work"]);
    world.git(&["branch", &first.branch.to_string(), &theirs]);
    world.stop(&first).await;
    world.expect_status(&first, Status::Cancelled).await;
    let receipt = whole(&world, &first).await;
    let StepResult::Kept { because } = line(&receipt, StopStep::RemoteBranch) else { panic!("{receipt:#?}") };
    assert!(because.contains("a person's work"), "{because}");

    let again = Submit {
        title: "Live twice".into(),
        key: Some(first.key.clone()),
        agent: Some("good".into()),
        ..Submit::default()
    };
    let second = world.submit_as(again).await;
    assert_eq!(second.key, first.key);
    assert_ne!(second.branch, first.branch, "the old branch is a person's");
    world.expect_status(&second, Status::Done).await;
    assert_eq!(world.git(&["show", "main:good.txt"]), "x");
    assert_eq!(world.git(&["rev-parse", &first.branch.to_string()]), theirs, "the person's work is as it was");
    let aside = std::fs::read_dir(world.data().join("quarantine")).expect("a folder").count();
    assert_eq!(aside, 1, "the remains of the first life are there");

    let lives = world.control().task(first.key.as_str(), true).await.expect("all lives");
    let told: Vec<_> = lives.iter().map(|life| (life.task.id.clone(), life.task.status)).collect();
    assert_eq!(told, [(second.id.clone(), Status::Done), (first.id.clone(), Status::Cancelled)]);
    let newest = world.control().task(first.key.as_str(), false).await.expect("the newest life");
    assert_eq!((newest.len(), &newest[0].task.id), (1, &second.id));
    assert_eq!(world.receipt(&first).await.expect("it stays").task, first.id);
    world.close().await;
}

/// As the fixtures of tests are: root may open everything, so this is also run as an ordinary user.
#[tokio::test(flavor = "multi_thread")]
async fn what_its_own_modes_close_is_kept_all_the_same() {
    let script = "attempts:\n- - run: {cmd: 'mkdir shut && echo in > shut/in.txt && echo closed > closed.txt && \
                  chmod 000 closed.txt shut && touch slow.txt'}\n  - wait_for: {path: /nowhere/never}\n";
    let world = Setup::default().agent("shutting", script).open().await;
    let task = world.submit("Close the doors").await;
    world.wait_for("work", async || (in_workspaces(&world, "slow.txt") == 1).then_some(())).await;
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    let receipt = whole(&world, &task).await;
    assert!(matches!(line(&receipt, StopStep::Salvage), StepResult::Done { .. }), "{receipt:#?}");
    let control = world.control();
    let kept = control.salvages(None).await.expect("listed");
    let files = kept.iter().find(|salvage| salvage.files.is_some()).expect("the files are in the vault");
    let into = world.root().join("back");
    control.restore_salvage(&files.repo, &files.id, into.clone()).await.expect("restored");
    assert_eq!(std::fs::read_to_string(into.join("shut/in.txt")).expect("kept"), "in\n");
    assert_eq!(std::fs::read_to_string(into.join("closed.txt")).expect("kept"), "closed\n");
    drop(control);
    world.close().await;
}
