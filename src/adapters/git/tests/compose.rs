//! What a catch-up did to a branch is found out whatever the catch-up says: kept, altered, on main already, or lost.

use orch_domain::landing::{Account, account};

use super::*;

impl World {
    async fn accounted(&self, own: &CommitSha, main: &CommitSha, head: &CommitSha) -> Account {
        account(&self.git.composition(own, main, head, &catch_up_spec()).await.expect("facts"))
    }
}

/// A commit with the files of `tree_of` on top of `parent`, as a composer with a wrong base would make it.
fn made_by_hand(world: &World, tree_of: &CommitSha, parent: &CommitSha) -> CommitSha {
    let work = world.git.work();
    let tree = format!("{tree_of}^{{tree}}");
    sh(&work, &["commit-tree", &tree, "-p", parent.as_str(), "-m", "Composed"]).parse().expect("an id")
}

#[tokio::test]
async fn a_plain_rebase_keeps_every_patch() {
    let world = World::new().await;
    let base = world.base().await;
    let own = world
        .worked("w", &base, |dir| {
            write(&dir.join("b.txt"), "b");
            commit_all(dir, "One");
            commit_all(dir, "Empty on purpose");
            write(&dir.join("c.txt"), "c");
        })
        .await;
    let main = world.main_moves("z.txt", "z").await;
    let (head, dropped, _) = world.rebased(&own, &main).await;
    assert!(dropped.is_empty());
    let told = world.accounted(&own, &main, &head).await;
    assert_eq!(told, Account { kept: 3, ..Account::default() });
}

#[tokio::test]
async fn what_main_has_by_the_same_patch_or_by_another_is_listed_and_nothing_is_lost() {
    let (world, own) = World::with_work(&["b", "c", "d"]).await;
    world.main_moves("b.txt", "b").await;
    // `c` comes to main within a larger commit, which has another patch.
    write(&world.person().join("e.txt"), "e");
    let main = world.main_moves("c.txt", "c").await;
    let (head, dropped, _) = world.rebased(&own, &main).await;
    assert_eq!(dropped.len(), 2);
    let told = world.accounted(&own, &main, &head).await;
    assert!(told.balances(), "{told:?}");
    assert_eq!((told.kept, told.already_on_main.len(), told.altered.len()), (1, 2, 0), "{told:?}");
    let main = world.main_moves("d.txt", "d").await;
    assert!(matches!(world.catch_up(&own, &main).await, CatchUp::Vanished { .. }));
    let told = world.accounted(&own, &main, &main).await;
    assert!(told.balances() && told.already_on_main.len() == 3, "{told:?}");
}

#[tokio::test]
async fn what_main_brought_and_took_back_is_brought_again_and_missing_it_is_a_loss() {
    let (world, own) = World::with_work(&["b", "c"]).await;
    world.main_moves("b.txt", "b").await;
    sh(&world.person(), &["rm", "--quiet", "b.txt"]);
    let main = world.main_moves("z.txt", "z").await;
    let (head, dropped, again) = world.rebased(&own, &main).await;
    assert!(dropped.is_empty(), "{dropped:?}");
    assert_eq!(again.iter().map(|line| line.subject.as_str()).collect::<Vec<_>>(), ["Write b"]);
    let files = world.git.files_at(&head, None).await.expect("files");
    assert!(files.contains(&"b.txt".to_owned()) && files.contains(&"c.txt".to_owned()), "{files:?}");
    let told = world.accounted(&own, &main, &head).await;
    assert_eq!(told, Account { kept: 2, ..Account::default() });
    // A catch-up that judges by main's history, and says that main has all of it.
    let told = world.accounted(&own, &main, &main).await;
    assert!(told.lost.len() == 2 && told.lost[0].contains("Write b") && told.already_on_main.is_empty(), "{told:?}");
    // The whole branch is picked and taken back: nothing of it may be called landed.
    world.main_moves("b.txt", "b").await;
    world.main_moves("c.txt", "c").await;
    sh(&world.person(), &["rm", "--quiet", "b.txt", "c.txt"]);
    let main = world.main_moves("y.txt", "y").await;
    let (head, _, again) = world.rebased(&own, &main).await;
    assert_eq!(again.len(), 2);
    assert!(world.accounted(&own, &main, &head).await.balances());
}

#[tokio::test]
async fn what_main_picked_and_went_on_from_is_held_though_each_commit_alone_would_bring_something() {
    let world = World::new().await;
    let base = world.base().await;
    let text = std::fs::read_to_string(world.person().join("a.txt")).expect("text");
    let with = |line: &str| format!("{line}\n{text}");
    let own = world
        .worked("w", &base, |dir| {
            write(&dir.join("a.txt"), with("try"));
            commit_all(dir, "Try it");
            write(&dir.join("a.txt"), &text);
            write(&dir.join("b.txt"), "b");
            commit_all(dir, "Do it otherwise");
        })
        .await;
    // Both commits are picked; the first one alone would come again, since the second takes it back.
    world.main_moves("a.txt", &with("try")).await;
    write(&world.person().join("a.txt"), &text);
    let main = world.main_moves("b.txt", "b").await;
    assert!(matches!(world.catch_up(&own, &main).await, CatchUp::Vanished { dropped } if dropped.len() == 2));
    let told = world.accounted(&own, &main, &main).await;
    assert!(told.balances() && told.already_on_main.len() == 2, "{told:?}");
}

#[tokio::test]
async fn what_main_brought_and_changed_again_is_for_somebody_to_decide() {
    let world = World::new().await;
    let base = world.base().await;
    let own = world.worked("w", &base, |dir| write(&dir.join("b.txt"), "b\n")).await;
    world.main_moves("b.txt", "b\n").await;
    sh(&world.person(), &["rm", "--quiet", "b.txt"]);
    world.main_moves("z.txt", "z").await;
    // The same place holds something else by now: nobody but people knows whether that stands for it.
    let main = world.main_moves("b.txt", "another\n").await;
    let caught = world.catch_up(&own, &main).await;
    assert!(matches!(&caught, CatchUp::Conflict { paths, .. } if *paths == ["b.txt"]), "{caught:?}");
}

#[tokio::test]
async fn a_patch_in_other_surroundings_is_proven_by_composing_the_tree_again() {
    let world = World::new().await;
    let base = world.base().await;
    let text = std::fs::read_to_string(world.person().join("a.txt")).expect("text");
    let own = world
        .worked("w", &base, |dir| {
            write(&dir.join("a.txt"), text.replace("four", "FOUR"));
            commit_all(dir, "Raise four");
        })
        .await;
    let main = world.main_moves("a.txt", &text.replace("two", "TWO")).await;
    let (head, _, _) = world.rebased(&own, &main).await;
    let told = world.accounted(&own, &main, &head).await;
    assert!(told.balances(), "{told:?}");
    assert_eq!((told.kept, told.altered.len()), (0, 1), "the context changed: {told:?}");
    // The same commit with other files: its message and author are right, its content is not.
    let other = world.worked("x", &main, |dir| write(&dir.join("a.txt"), "something else\n")).await;
    let work = world.git.work();
    let shown = sh(&work, &["log", "-1", "--format=%an%n%ae%n%ad%n%B", "--date=raw", head.as_str()]);
    let mut lines = shown.lines();
    let (name, email, date) = (lines.next().expect("name"), lines.next().expect("email"), lines.next().expect("date"));
    let tree = format!("{other}^{{tree}}");
    let made = Command::new("git")
        .args(["commit-tree", &tree, "-p", main.as_str(), "-m", "Raise four"])
        .current_dir(&work)
        .envs([("GIT_AUTHOR_NAME", name), ("GIT_AUTHOR_EMAIL", email), ("GIT_AUTHOR_DATE", date)])
        .envs([("GIT_COMMITTER_NAME", "x"), ("GIT_COMMITTER_EMAIL", "x@example.org")])
        .output()
        .expect("git runs");
    let made: CommitSha = String::from_utf8_lossy(&made.stdout).trim().parse().expect("an id");
    let told = world.accounted(&own, &main, &made).await;
    assert!(told.composed_differently && !told.balances(), "{told:?}");
}

#[tokio::test]
async fn a_commit_that_a_catch_up_loses_is_named() {
    let world = World::new().await;
    let base = world.base().await;
    let mut first = None;
    let own = world
        .worked("w", &base, |dir| {
            write(&dir.join("b.txt"), "b");
            first = Some(commit_all(dir, "Write b"));
            write(&dir.join("c.txt"), "c");
            commit_all(dir, "Write c");
        })
        .await;
    let main = world.main_moves("z.txt", "z").await;
    // A catch-up that stopped half-way, and says that it is through.
    let half = first.expect("made");
    let (head, _, _) = world.rebased(&half, &main).await;
    let told = world.accounted(&own, &main, &head).await;
    assert!(!told.balances());
    assert!(told.lost.len() == 1 && told.lost[0].contains("Write c"), "{told:?}");
    // One that says that main had it all.
    let told = world.accounted(&own, &main, &main).await;
    assert_eq!(told.lost.len(), 2, "{told:?}");
}

#[tokio::test]
async fn a_tree_from_a_wrong_base_that_takes_back_what_main_brought_is_seen() {
    let world = World::new().await;
    let base = world.base().await;
    let own = world.worked("w", &base, |dir| write(&dir.join("b.txt"), "b")).await;
    let main = world.main_moves("z.txt", "z").await;
    // The branch's own tree on top of main: a squash from a stale base. Its checks are as green as before.
    let head = made_by_hand(&world, &own, &main);
    let told = world.accounted(&own, &main, &head).await;
    assert_eq!(told.foreign_paths, ["z.txt"], "main's file is taken back: {told:?}");
    assert!(!told.balances());
}

#[tokio::test]
async fn what_main_renamed_and_the_branch_changed_is_the_branchs() {
    let world = World::new().await;
    let base = world.base().await;
    let text = std::fs::read_to_string(world.person().join("a.txt")).expect("text");
    let own = world.worked("w", &base, |dir| write(&dir.join("a.txt"), text.replace("seven", "SEVEN"))).await;
    sh(&world.person(), &["mv", "a.txt", "moved.txt"]);
    let main = world.main_moves("z.txt", "z").await;
    let (head, _, _) = world.rebased(&own, &main).await;
    assert!(world.git.files_at(&head, None).await.expect("files").contains(&"moved.txt".to_owned()));
    let told = world.accounted(&own, &main, &head).await;
    assert!(told.balances() && told.altered.len() == 1, "{told:?}");
}

#[tokio::test]
async fn a_merge_keeps_everything_by_holding_it() {
    let world = World::new().await;
    let base = world.base().await;
    let own = world.worked("w", &base, merged_branch).await;
    let main = world.main_moves("c.txt", "c").await;
    let CatchUp::Merged { head, .. } = world.catch_up(&own, &main).await else { panic!("a merge") };
    assert_eq!(world.accounted(&own, &main, &head).await, Account::default());
}
