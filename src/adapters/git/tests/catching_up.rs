//! Bringing work on top of `main`: the same commits to the same ids, conflicts with both sides named.

use super::*;

#[tokio::test]
async fn a_catch_up_replays_the_same_commits_to_the_same_ids_and_keeps_their_authors() {
    let world = World::new().await;
    let base = world.base().await;
    let head = world
        .worked("w", &base, |dir| {
            write(&dir.join("b.txt"), "b");
            commit_all(dir, "Write b\n\nWith a body.");
            write(&dir.join("a.txt"), "ONE\ntwo\nthree\nfour\nfive\nsix\nseven\n");
            commit_all(dir, "Change the first line");
        })
        .await;
    assert_eq!(world.catch_up(&head, &base).await, CatchUp::Contains);
    let main = world.main_moves("a.txt", "one\ntwo\nthree\nfour\nfive\nsix\nSEVEN\n").await;
    let first = world.catch_up(&head, &main).await;
    let CatchUp::Rebased { head: new, dropped, .. } = first.clone() else { panic!("{first:?}") };
    assert!(dropped.is_empty());
    assert_eq!(world.catch_up(&head, &main).await, first, "the same again after a crash");
    assert!(world.git.contains(&main, &new).await.expect("known"));
    let before = world.git.patch_ids(&base, &head).await.expect("patches");
    let after = world.git.patch_ids(&main, &new).await.expect("patches");
    assert_eq!(before.len(), 2);
    assert!(before.iter().filter(|id| after.contains(*id)).count() >= 1, "the new file's patch is the same");
    let raw = sh(&world.git.work(), &["log", "-1", "--format=%an|%ad|%cn|%ct|%B", "--date=raw", new.as_str()]);
    assert_eq!(raw, "A Person|1700000000 +0100|orch|1800000000|Change the first line");
    let path = "a.txt".parse().expect("path");
    let text = world.git.read_file_at(&new, &path, 100).await.expect("read");
    assert_eq!(text, FileAt::Bytes(b"ONE\ntwo\nthree\nfour\nfive\nsix\nSEVEN\n".to_vec()));
    // The same as git's own rebase in a person's clone.
    let person_dir = world.person();
    sh(&person_dir, &["fetch", "--quiet", world.git.work().to_str().expect("text"), &format!("{head}:theirs")]);
    sh(&person_dir, &["rebase", "--quiet", main.as_str(), "theirs"]);
    assert_eq!(sh(&person_dir, &["rev-parse", "theirs^{tree}"]), world.git.tree_of(&new).await.expect("tree"));
    world.git.gc().await.expect("collected");
    assert!(world.git.has_commit(&new).await.expect("an answer"), "kept by its ref");
}

#[tokio::test]
async fn what_main_has_already_is_dropped_and_named() {
    let (world, head) = World::with_work(&["b", "c"]).await;
    let base = world.base().await;
    let main = world.main_moves("b.txt", "b").await;
    let (new, dropped, _) = world.rebased(&head, &main).await;
    assert_eq!(dropped.iter().map(|line| line.subject.as_str()).collect::<Vec<_>>(), ["Write b"]);
    assert_eq!(world.git.commits_between(&main, &new).await.expect("commits").len(), 1);
    let main = world.main_moves("c.txt", "c").await;
    assert!(matches!(world.catch_up(&head, &main).await, CatchUp::Vanished { dropped } if dropped.len() == 2));
    assert!(matches!(world.catch_up(&base, &main).await, CatchUp::Vanished { dropped } if dropped.is_empty()));
}

#[tokio::test]
async fn a_conflict_names_paths_and_the_commits_of_both_sides_and_leaves_nothing() {
    let world = World::new().await;
    let base = world.base().await;
    let head = world
        .worked("w", &base, |dir| {
            write(&dir.join("sp ace/é\".txt"), "mine");
            write(&dir.join("a.txt"), "mine\n");
            commit_all(dir, "My way");
            write(&dir.join("other.txt"), "other");
            commit_all(dir, "Not in question");
        })
        .await;
    write(&world.person().join("sp ace/é\".txt"), "theirs");
    let main = world.main_moves("a.txt", "theirs\n").await;
    let before = refs_and_files(&world.git.work());
    let CatchUp::Conflict { paths, ours, theirs } = world.catch_up(&head, &main).await else { panic!("a conflict") };
    assert_eq!(paths, ["a.txt", "sp ace/é\".txt"]);
    assert_eq!(ours.iter().map(|line| line.subject.as_str()).collect::<Vec<_>>(), ["My way"]);
    assert_eq!(theirs.iter().map(|line| line.subject.as_str()).collect::<Vec<_>>(), ["Person writes a.txt"]);
    assert_eq!(refs_and_files(&world.git.work()), before, "no ref, lock, index or state is left");
}

/// Everything in a repository but its objects.
fn refs_and_files(repo: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(repo)
        .expect("a repository")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all.push(sh(repo, &["for-each-ref"]));
    all
}

#[tokio::test]
async fn where_a_rebase_conflicts_and_a_merge_does_not_the_merge_is_taken() {
    let world = World::new().await;
    let base = world.base().await;
    let text = std::fs::read_to_string(world.person().join("a.txt")).expect("text");
    let head = world
        .worked("w", &base, |dir| {
            write(&dir.join("a.txt"), text.replace("one", "mine"));
            commit_all(dir, "Try");
            write(&dir.join("a.txt"), &text);
            commit_all(dir, "Take it back");
            write(&dir.join("b.txt"), "b");
            commit_all(dir, "Do it otherwise");
        })
        .await;
    let main = world.main_moves("a.txt", &text.replace("one", "theirs")).await;
    let caught = world.catch_up(&head, &main).await;
    let CatchUp::Merged { head: new, because } = caught.clone() else { panic!("{caught:?}") };
    let WhyMerged::RebaseConflicts { at, paths } = because else { panic!("{because:?}") };
    assert_eq!((at.subject.as_str(), paths), ("Try", vec!["a.txt".to_owned()]));
    assert_eq!(world.catch_up(&head, &main).await, caught, "the same again after a crash");
    assert!(world.git.contains(&main, &new).await.expect("known"));
    assert!(world.git.contains(&head, &new).await.expect("known"));
    assert_eq!(sha_of(&world.git.work(), &format!("{new}^1")), main);
}

#[tokio::test]
async fn a_branch_with_merges_is_merged_not_flattened() {
    let world = World::new().await;
    let base = world.base().await;
    let head = world.worked("w", &base, merged_branch).await;
    let main = world.main_moves("c.txt", "c").await;
    let caught = world.catch_up(&head, &main).await;
    let CatchUp::Merged { head: new, because: WhyMerged::BranchHoldsMerges } = caught else { panic!("{caught:?}") };
    let files = world.git.files_at(&new, None).await.expect("files");
    assert_eq!(files, [".gitignore", "a.txt", "b.txt", "c.txt", "side.txt"]);
}
