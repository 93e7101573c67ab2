//! Task branches at the forge: put, replaced and deleted only from where they are expected.

use super::*;

#[tokio::test]
async fn a_task_branch_is_pushed_replaced_and_deleted_only_from_where_it_is_expected() {
    let world = World::new().await;
    let base = world.base().await;
    let one = world.worked("one", &base, |dir| write(&dir.join("b.txt"), "1")).await;
    let two = world.worked("two", &base, |dir| write(&dir.join("b.txt"), "2")).await;
    let mine = TaskBranch::new(branch("orch/orc-1/1"), &protected()).expect("ours");
    let git = &world.git;
    assert_eq!(git.push_task_branch(&mine, &one, None).await.expect("pushed"), BranchPush::Pushed);
    assert_eq!(git.push_task_branch(&mine, &one, None).await.expect("again"), BranchPush::Pushed);
    // Not a fast-forward, and expected to be elsewhere.
    let stale = git.push_task_branch(&mine, &two, Some(&base)).await.expect("an answer");
    assert_eq!(stale, BranchPush::Stale { at: Some(one.clone()) });
    assert_eq!(git.push_task_branch(&mine, &two, Some(&one)).await.expect("replaced"), BranchPush::Pushed);
    // A person pushes on it: it is theirs now.
    sh(&world.person(), &["fetch", "--quiet", "origin", "orch/orc-1/1"]);
    sh(&world.person(), &["checkout", "--quiet", "-B", "x", "FETCH_HEAD"]);
    let persons = commit_all(&world.person(), "A person's");
    sh(&world.person(), &["push", "--quiet", "origin", "HEAD:orch/orc-1/1"]);
    let stale = git.push_task_branch(&mine, &one, Some(&two)).await.expect("an answer");
    assert_eq!(stale, BranchPush::Stale { at: Some(persons.clone()) });
    let kept = git.delete_task_branch(&mine, &two).await.expect("an answer");
    assert_eq!(kept, BranchDeletion::Kept { at: persons.clone() });
    assert_eq!(git.delete_task_branch(&mine, &persons).await.expect("deleted"), BranchDeletion::Gone);
    assert_eq!(git.delete_task_branch(&mine, &persons).await.expect("again"), BranchDeletion::Gone);
    // Gone under us, though expected.
    let stale = git.push_task_branch(&mine, &one, Some(&two)).await.expect("an answer");
    assert_eq!(stale, BranchPush::Stale { at: None });
}

#[tokio::test]
async fn a_push_is_refused_with_the_forges_words_and_shared_repositories_take_replacements() {
    let world = World::new().await;
    let base = world.base().await;
    let one = world.worked("one", &base, |dir| write(&dir.join("b.txt"), "1")).await;
    let two = world.worked("two", &base, |dir| write(&dir.join("b.txt"), "2")).await;
    sh(&world.forge(), &["config", "receive.denyNonFastForwards", "true"]);
    let mine = TaskBranch::new(branch("orch/orc-1/1"), &protected()).expect("ours");
    assert_eq!(world.git.push_task_branch(&mine, &one, None).await.expect("pushed"), BranchPush::Pushed);
    assert_eq!(world.git.push_task_branch(&mine, &two, Some(&one)).await.expect("replaced"), BranchPush::Pushed);
    hook(&world.forge(), "pre-receive", "echo 'closed for today' >&2; exit 1");
    let refused = world.git.push_task_branch(&mine, &one, Some(&two)).await.expect("an answer");
    assert!(matches!(&refused, BranchPush::Refused { why } if why.contains("closed for today")), "{refused:?}");
    let refused = world.git.delete_task_branch(&mine, &two).await.expect("an answer");
    assert!(matches!(&refused, BranchDeletion::Refused { .. }), "{refused:?}");
    std::fs::rename(world.forge(), world.dir.path().join("away")).expect("moved");
    let unknown = world.git.push_task_branch(&mine, &one, Some(&two)).await.expect("an answer");
    assert!(matches!(unknown, BranchPush::Unknown { .. }), "{unknown:?}");
}

#[tokio::test]
async fn of_two_racing_pushes_one_wins_and_the_other_is_told() {
    let world = World::new().await;
    let base = world.base().await;
    let one = world.worked("one", &base, |dir| write(&dir.join("b.txt"), "1")).await;
    let two = world.worked("two", &base, |dir| write(&dir.join("b.txt"), "2")).await;
    // Both have looked before either writes: the hook holds each until the other is there too.
    let meet = world.at("meet");
    std::fs::create_dir_all(&meet).expect("a folder");
    let script = format!("touch '{0}'/$$; while [ $(ls '{0}' | wc -l) -lt 2 ]; do :; done", meet.display());
    hook(&world.forge(), "pre-receive", &script);
    let mine = TaskBranch::new(branch("orch/orc-1/1"), &protected()).expect("ours");
    let (first, second) =
        tokio::join!(world.git.push_task_branch(&mine, &one, None), world.git.push_task_branch(&mine, &two, None));
    let (first, second) = (first.expect("an answer"), second.expect("an answer"));
    let at = world.git.remote_head(mine.name()).await.expect("an answer").expect("pushed");
    match at == one {
        true => assert_eq!((first, second), (BranchPush::Pushed, BranchPush::Stale { at: Some(one) })),
        false => assert_eq!((first, second), (BranchPush::Stale { at: Some(two.clone()) }, BranchPush::Pushed)),
    }
}

#[tokio::test]
async fn a_task_branch_is_never_put_where_main_has_been() {
    let world = World::new().await;
    let base = world.base().await;
    let head = world.worked("one", &base, |dir| write(&dir.join("b.txt"), "1")).await;
    let mine = TaskBranch::new(branch("orch/orc-1/1"), &protected()).expect("ours");
    let err = world.git.push_task_branch(&mine, &base, None).await.expect_err("main has it");
    assert!(matches!(&err, GitError::Invalid(why) if why.contains("look merged")), "{err}");
    assert_eq!(world.git.push_task_branch(&mine, &head, None).await.expect("pushed"), BranchPush::Pushed);
    sh(&world.forge(), &["update-ref", "refs/heads/main", head.as_str()]);
    assert_eq!(world.base().await, head);
    assert_eq!(world.git.push_task_branch(&mine, &head, None).await.expect("repeated"), BranchPush::Pushed);
}

/// The lane and the attempts of a repository have handles of their own on the same mirror.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_asks_for_main_at_the_same_time_gets_it() {
    let world = World::new().await;
    world.base().await;
    let rooms = rooms(world.dir.path(), GitSettings::default());
    let lane = rooms.open(world.git.name(), world.git.remote().clone()).await.expect("the same repositories");
    for round in 0..8 {
        write(&world.person().join("a.txt"), format!("round {round}"));
        let at = commit_all(&world.person(), "Move main");
        sh(&world.person(), &["push", "--quiet", "origin", "main"]);
        let askers = (0..8).map(|n| {
            let git = if n % 4 == 0 { world.git.clone() } else { lane.clone() };
            tokio::spawn(async move { git.fetch_main(&branch("main")).await })
        });
        for asker in askers.collect::<Vec<_>>() {
            assert_eq!(asker.await.expect("no panic").expect("fetched"), at, "round {round}");
        }
    }
}
