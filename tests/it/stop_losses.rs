//! A STOP where something that it needs is out of order: nothing of the work is lost, what could not be done is named, and
//! the other steps go on.

use std::path::PathBuf;

use orch_actors::api::Submit;
use orch_domain::stop::{Receipt, StepResult, StopStep};
use orch_domain::task::Status;
use orch_domain::view::TaskView;

use crate::world::crash::Outside;
use crate::world::{Setup, World};

/// One commit, one file that is in none, and never an end.
const WORKER: &str = "attempts:\n\
    - - write: {path: one.txt, content: \"committed\\n\"}\n  - commit: {message: One}\n  \
      - write: {path: two.txt, content: \"not committed\\n\"}\n  - wait_for: {path: /nowhere/never}\n";

fn workspaces_with(world: &World, file: &str) -> Vec<PathBuf> {
    let spaces = std::fs::read_dir(world.data().join("workspaces")).into_iter().flatten().flatten();
    spaces.map(|space| space.path()).filter(|space| space.join("tree").join(file).exists()).collect()
}

async fn at_work() -> (World, TaskView) {
    let world = Setup::default().agent("worker", WORKER).open().await;
    let task = world.submit("Lose nothing").await;
    world.wait_for("work", async || (!workspaces_with(&world, "two.txt").is_empty()).then_some(())).await;
    (world, task)
}

/// The receipt once it is whole, with the results of its steps.
async fn stopped(world: &World, task: &TaskView) -> Receipt {
    world.stop(task).await;
    world.expect_status(task, Status::Cancelled).await;
    world.wait_for("a whole receipt", async || world.receipt(task).await.ok().filter(Receipt::is_whole)).await
}

fn result(receipt: &Receipt, step: StopStep) -> &StepResult {
    &receipt.lines.iter().find(|line| line.step == step).expect("the step is there").result
}

/// The folder that a life's only salvage of files is given back into.
async fn given_back(world: &World) -> PathBuf {
    let control = world.control();
    let all = control.salvages(None).await.expect("listed");
    let files = all.iter().find(|salvage| salvage.files.is_some()).expect("the files are in the vault");
    let into = world.root().join("back");
    control.restore_salvage(&files.repo, &files.id, into.clone()).await.expect("restored");
    assert_eq!(std::fs::read_to_string(into.join("one.txt")).expect("kept"), "committed\n");
    assert_eq!(std::fs::read_to_string(into.join("two.txt")).expect("kept"), "not committed\n");
    into
}

/// What a run began with is known without the forge.
#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_first_run_goes_into_the_vault_although_the_forge_is_away() {
    let (world, task) = at_work().await;
    let away = world.root().join("away");
    std::fs::rename(&world.repo, &away).expect("the forge goes away");
    let receipt = stopped(&world, &task).await;
    assert!(matches!(result(&receipt, StopStep::Salvage), StepResult::Done { .. }), "{receipt:#?}");
    assert!(matches!(result(&receipt, StopStep::Workspace), StepResult::Done { .. }), "{receipt:#?}");
    given_back(&world).await;
    std::fs::rename(&away, &world.repo).expect("the forge is back");
    world.close().await;
}

/// Vault, quarantine and forge at once: each of these steps fails for itself and says so; what could not be brought to
/// safety stays where it is until it can.
#[tokio::test(flavor = "multi_thread")]
async fn steps_that_fail_are_named_lose_nothing_and_do_not_stop_the_others() {
    let (world, task) = at_work().await;
    let repos = std::fs::read_dir(world.data().join("repos")).expect("a folder").flatten();
    let vault = repos.map(|repo| repo.path().join("vault.git")).find(|vault| vault.exists()).expect("it has a vault");
    let (kept, away) = (vault.with_extension("kept"), world.root().join("away"));
    std::fs::rename(&vault, &kept).expect("moved");
    std::fs::write(&vault, "no repository").expect("written");
    std::fs::write(world.data().join("quarantine"), "no folder").expect("written");
    std::fs::rename(&world.repo, &away).expect("the forge goes away");
    let receipt = stopped(&world, &task).await;
    for step in StopStep::ALL {
        let as_it_should = match (step, result(&receipt, step)) {
            (StopStep::Salvage, StepResult::Kept { because }) => because.contains("left in its place"),
            (StopStep::Workspace, StepResult::Unproven { why }) => why.contains("could not be put aside"),
            (StopStep::RemoteBranch, StepResult::Pending { .. }) | (StopStep::Window, StepResult::Nothing { .. }) => {
                true
            }
            (StopStep::Salvage | StopStep::Workspace | StopStep::RemoteBranch | StopStep::Window, _) => false,
            (_, result) => matches!(result, StepResult::Done { .. }),
        };
        assert!(as_it_should, "{step:?}: {receipt:#?}");
    }
    assert_eq!(workspaces_with(&world, "two.txt").len(), 1, "what could not be kept elsewhere stays where it is");
    let again = Submit { title: "Live again".into(), key: Some(task.key.clone()), ..Submit::default() };
    let reborn = world.control().submit(again, "test").await.expect("its key is free");
    assert_ne!(reborn.id, task.id);
    // All in order again: what was left is brought to safety without anybody's word.
    std::fs::remove_file(&vault).expect("removed");
    std::fs::rename(&kept, &vault).expect("moved back");
    std::fs::remove_file(world.data().join("quarantine")).expect("removed");
    std::fs::rename(&away, &world.repo).expect("the forge is back");
    stopped(&world, &reborn).await;
    world
        .wait_for("the workspace to be cleared", async || {
            world.running().handle().directory().wake_reconciler();
            workspaces_with(&world, "two.txt").is_empty().then_some(())
        })
        .await;
    given_back(&world).await;
    world.close().await;
}

/// Its vault belongs to a repository that the settings do not name any more, and the other workspace to a task that the store
/// does not know: both are somebody's work.
#[test]
fn work_of_a_repository_that_is_not_configured_any_more_or_of_no_known_task_is_put_aside() {
    let mut world = Outside::new(WORKER);
    world.start();
    let key = world.submit("Lose its repository");
    let spaces = world.data().join("workspaces");
    let runs = || std::fs::read_dir(&spaces).into_iter().flatten().flatten().map(|run| run.path()).collect::<Vec<_>>();
    world.until("its work", || runs().iter().any(|run| run.join("tree/two.txt").exists()));
    let run = runs().remove(0);
    world.kill();
    let unknown = spaces.join("t0unknownr1/tree");
    std::fs::create_dir_all(&unknown).expect("made");
    std::fs::write(unknown.join("three.txt"), "of nobody\n").expect("written");
    world.change_settings("  demo:\n", "  other:\n");
    world.start();
    let receipt = world.verb(&["task", "stop", &key, "--wait"]).expect("it ends well");
    let line = |step: &str| receipt["lines"].as_array().expect("lines").iter().find(|line| line["step"] == step);
    let salvage = line("salvage").expect("the step is there");
    let because = salvage["because"].as_str().unwrap_or_else(|| panic!("{receipt:#}"));
    assert!(because.contains("quarantine") && because.contains("`demo` is not configured"), "{because}");
    assert_eq!(line("workspace").expect("the step is there")["result"], "done", "{receipt:#}");
    let aside = world.data().join("quarantine");
    let known = aside.join(run.file_name().expect("a name")).join("tree");
    assert_eq!(std::fs::read_to_string(known.join("one.txt")).expect("it is there"), "committed\n");
    assert_eq!(std::fs::read_to_string(known.join("two.txt")).expect("it is there"), "not committed\n");
    let other = aside.join("t0unknownr1");
    world.until("the other to be put aside", || other.join("tree/three.txt").exists());
    let why = std::fs::read_to_string(other.join("why.txt")).expect("it says why");
    assert!(why.contains("no task is known"), "{why}");
    world.close(&[]);
}
