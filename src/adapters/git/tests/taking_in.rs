//! What comes out of a workspace: commits and leftovers as a bundle, checked before they come in.

use super::*;

#[tokio::test]
async fn a_capture_takes_commits_and_leftovers_and_respects_ignore_rules() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    write(&workspace.dir.join("done.txt"), "done");
    commit_all(&workspace.dir, "Do it");
    write(&workspace.dir.join("half.txt"), "half");
    write(&workspace.dir.join("target/huge.bin"), "ignored");
    std::fs::remove_file(workspace.dir.join("a.txt")).expect("removed");
    write(&workspace.dir.join(".git/index.lock"), "left by a killed git");
    let (facts, imported) = world.take(&workspace, "w").await;
    let imported = imported.expect("taken");
    assert_eq!((facts.leftovers, facts.commits, facts.nested), (Leftovers::Committed, 2, 0));
    assert_eq!(facts.on.as_deref(), Some("orch/orc-1/1"));
    assert_eq!((imported.commits, imported.new, imported.descends, imported.continues), (2, true, true, true));
    assert_eq!(world.git.files_at(&imported.head, None).await.expect("files"), [".gitignore", "done.txt", "half.txt"]);
    let lines = world.git.commits_between(&base, &imported.head).await.expect("commits");
    assert_eq!(lines[1].subject, "Leftovers of \"run\" $(touch pwned); `x`");
    assert!(!workspace.dir.join("pwned").exists());
    // Once more changes nothing; dropping lets go.
    let again = world.take(&workspace, "w").await.1.expect("taken again");
    assert_eq!(again, imported);
    assert_eq!(world.git.drop_refs(&task()).await.expect("dropped"), 1);
    assert_eq!(world.git.drop_refs(&task()).await.expect("dropped"), 0);
}

#[tokio::test]
async fn nothing_done_is_no_commits_and_no_bundle() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let (facts, imported) = world.take(&workspace, "w").await;
    assert_eq!((facts.commits, facts.leftovers), (0, Leftovers::None));
    let imported = imported.expect("nothing is fine");
    assert_eq!((imported.head, imported.commits, imported.new), (base, 0, false));
}

#[tokio::test]
async fn a_detached_head_an_unfinished_merge_and_a_nested_repository_are_told() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let dir = &workspace.dir;
    sh(dir, &["checkout", "--quiet", "--detach"]);
    write(&dir.join("b.txt"), "b");
    sh(dir, &["init", "--quiet", "nested"]);
    write(&dir.join("nested/x"), "x");
    commit_all(&dir.join("nested"), "Nested");
    let (facts, imported) = world.take(&workspace, "one").await;
    assert_eq!((facts.on, facts.nested, facts.leftovers), (None, 1, Leftovers::Committed));
    assert_eq!(facts.task_branch, Some(base.clone()));
    let head = imported.expect("taken").head;
    assert!(!world.git.files_at(&head, None).await.expect("files").contains(&"nested".to_owned()));

    let second = world.workspace("w2", &base, &base).await;
    let dir = &second.dir;
    sh(dir, &["checkout", "--quiet", "-b", "side"]);
    write(&dir.join("a.txt"), "side");
    commit_all(dir, "Side");
    sh(dir, &["checkout", "--quiet", "-"]);
    write(&dir.join("a.txt"), "here");
    commit_all(dir, "Here");
    assert!(!person(dir, &["merge", "side"]).status.success());
    let (facts, imported) = world.take(&second, "two").await;
    assert_eq!((facts.unfinished.as_deref(), facts.leftovers), (Some("merge"), Leftovers::Unmerged));
    assert_eq!(imported.expect("the commits are taken").commits, 1);
}

#[tokio::test]
async fn rewritten_and_unrelated_work_is_told_as_facts() {
    let world = World::new().await;
    let base = world.base().await;
    let first = world
        .worked("first", &base, |dir| {
            write(&dir.join("b.txt"), "b");
            commit_all(dir, "First");
        })
        .await;
    let second = world.workspace("second", &first, &base).await;
    sh(&second.dir, &["reset", "--quiet", "--hard", base.as_str()]);
    write(&second.dir.join("c.txt"), "c");
    commit_all(&second.dir, "Instead");
    let imported = world.take(&second, "second").await.1.expect("taken");
    assert_eq!((imported.descends, imported.continues, imported.new), (true, false, true));

    let third = world.workspace("third", &base, &base).await;
    sh(&third.dir, &["checkout", "--quiet", "--orphan", "fresh"]);
    commit_all(&third.dir, "A world of its own");
    let imported = world.take(&third, "third").await.1.expect("taken");
    assert_eq!((imported.descends, imported.commits), (false, 1));
    let err = world.git.catch_up(&imported.head, &base, &catch_up_spec()).await.expect_err("unrelated");
    assert!(matches!(err, GitError::Unrelated { .. }), "{err}");
}

#[tokio::test]
async fn an_oversized_bundle_is_refused_on_either_side() {
    let settings = GitSettings { bundle_cap_bytes: 64 << 10, ..GitSettings::default() };
    let world = World::with(settings, "main").await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let mut noise = vec![0_u8; 200 << 10];
    getrandom::fill(&mut noise).expect("noise");
    write(&workspace.dir.join("noise.bin"), &noise);
    // As a leftover it cannot even be committed under the cap; the rest goes on.
    let (facts, imported) = world.take(&workspace, "nothing else").await;
    assert_eq!((facts.leftovers, facts.commits), (Leftovers::Failed, 0));
    assert_eq!(imported.expect("nothing").head, base);
    write(&workspace.dir.join("small.txt"), "small");
    let (facts, imported) = world.take(&workspace, "something else").await;
    assert_eq!((facts.leftovers, facts.commits), (Leftovers::Partly, 1));
    let files = world.git.files_at(&imported.expect("taken").head, None).await.expect("files");
    assert_eq!(files, [".gitignore", "a.txt", "small.txt"]);
    commit_all(&workspace.dir, "Noise");
    let out = world.at("out big");
    let done = DirectExec.run(world.capture(&workspace, &out)).await.expect("runs");
    assert!(!done.exit.end.is_success());
    assert!(read_capture(&done.stdout).is_err() && !out.join("work.bundle").exists());
    // A bundle that was made another way.
    let bundle = out.join("work.bundle");
    let range = format!("{base}..HEAD");
    sh(&workspace.dir, &["bundle", "create", "--quiet", bundle.to_str().expect("text"), &range]);
    let err = world.git.import_bundle(&bundle, &import_spec(&workspace)).await.expect_err("too large");
    assert!(matches!(&err, ImportError::Agent(why) if why.contains("more than the 65536")), "{err}");
}

#[tokio::test]
async fn broken_foreign_and_dressed_up_bundles_are_the_agents_fault() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    write(&workspace.dir.join("b.txt"), "b");
    commit_all(&workspace.dir, "Work");
    let out = world.at("out");
    let done = DirectExec.run(world.capture(&workspace, &out)).await.expect("runs");
    let facts = read_capture(&done.stdout).expect("facts");
    let bundle = out.join("work.bundle");
    let spec = import_spec(&workspace);
    let good = std::fs::read(&bundle).expect("bytes");

    let mut broken = good.clone();
    let near_end = broken.len() - 30;
    broken[near_end] ^= 0xff;
    let secret = world.at("secret");
    write(&secret, &good);
    let foreign = String::from_utf8_lossy(&good).replace(base.as_str(), &"2".repeat(40));
    for (name, bytes) in [("broken", broken), ("empty", Vec::new()), ("foreign", foreign.into_bytes())] {
        std::fs::write(&bundle, bytes).expect("written");
        let err = world.git.import_bundle(&bundle, &spec).await.expect_err(name);
        assert!(matches!(err, ImportError::Agent(_)), "{name}: {err}");
    }
    std::fs::remove_file(&bundle).expect("removed");
    std::os::unix::fs::symlink(&secret, &bundle).expect("a link");
    assert!(matches!(world.git.import_bundle(&bundle, &spec).await, Err(ImportError::Agent(_))));
    std::fs::remove_file(&bundle).expect("removed");
    std::fs::hard_link(&secret, &bundle).expect("a second name");
    assert!(matches!(world.git.import_bundle(&bundle, &spec).await, Err(ImportError::Agent(_))));
    std::fs::remove_file(&bundle).expect("removed");
    nix::unistd::mkfifo(&bundle, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    assert!(matches!(world.git.import_bundle(&bundle, &spec).await, Err(ImportError::Agent(_))));
    std::fs::remove_file(&bundle).expect("removed");
    std::fs::write(&bundle, &good).expect("written");
    let lie = CaptureFacts { head: base.clone(), ..facts.clone() };
    assert!(matches!(world.git.import_capture(&lie, &out, &spec).await, Err(ImportError::Agent(_))));
    assert_eq!(world.git.import_capture(&facts, &out, &spec).await.expect("good").head, facts.head);
    assert_eq!(world.git.sweep().expect("swept"), Vec::<PathBuf>::new(), "imports clean up behind themselves");
    let left = world.git.work().with_file_name(".import.0123");
    write(&left, "left by a crash");
    assert_eq!(world.git.sweep().expect("swept"), [left]);
}

#[tokio::test]
async fn objects_that_fsck_refuses_do_not_come_in() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let dir = &workspace.dir;
    // A tree that would write into `.git` when checked out.
    let blob = sh(dir, &["hash-object", "-w", "a.txt"]);
    let mut tree = b"100644 .git\0".to_vec();
    tree.extend(hex::decode(&blob).expect("hex"));
    write(&world.at("tree"), tree);
    let tree = sh(dir, &["hash-object", "-t", "tree", "--literally", "-w", world.at("tree").to_str().expect("text")]);
    let evil = sh(dir, &["commit-tree", &tree, "-p", "HEAD", "-m", "evil"]);
    sh(dir, &["update-ref", "HEAD", &evil]);
    let out = world.at("out");
    std::fs::create_dir_all(&out).expect("a folder");
    let bundle = out.join("work.bundle");
    sh(dir, &["bundle", "create", "--quiet", bundle.to_str().expect("text"), &format!("{base}..HEAD")]);
    let err = world.git.import_bundle(&bundle, &import_spec(&workspace)).await.expect_err("unsound");
    assert!(matches!(&err, ImportError::Agent(why) if why.contains("unsound")), "{err}");
    assert!(!world.git.has_commit(&evil.parse().expect("id")).await.expect("an answer"));
}

#[tokio::test]
async fn nothing_of_an_evil_workspace_runs_outside_the_capture_job() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let dir = &workspace.dir;
    let canary = world.at("canary");
    let touch = format!("touch '{}'; cat", canary.display());
    for key in ["core.fsmonitor", "core.sshCommand", "alias.add", "diff.external", "core.editor", "core.pager"] {
        sh(dir, &["config", key, &touch]);
    }
    for key in ["filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "merge.evil.driver"] {
        sh(dir, &["config", key, &touch]);
    }
    sh(dir, &["config", "uploadpack.packObjectsHook", &touch]);
    sh(dir, &["config", "filter.evil.required", "false"]);
    let hooks = dir.join(".git/hooks");
    for hook in [
        "pre-commit",
        "post-commit",
        "prepare-commit-msg",
        "post-checkout",
        "post-index-change",
        "reference-transaction",
    ] {
        write(&hooks.join(hook), format!("#!/bin/sh\n{touch}\n"));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(hooks.join(hook), mode).expect("executable");
    }
    write(&dir.join(".gitattributes"), "* filter=evil merge=evil diff=evil\n");
    write(&dir.join("b.txt"), "b");
    // A folder that claims to be a repository elsewhere.
    write(&dir.join("elsewhere/.git"), format!("gitdir: {}\n", world.git.work().display()));
    write(&dir.join("elsewhere/x"), "x");
    sh(dir, &["init", "--quiet", "empty"]);
    let salvage = world.git.salvage(&salvage_spec(&workspace)).await.expect("salvaged");
    assert!(salvage.files > 5);
    let all = world.git.list_salvage().await.expect("listed");
    world.git.restore_salvage(&all[0].id, &world.at("restored")).await.expect("restored");
    assert!(!canary.exists(), "salvage ran the workspace's code");
    // In the job, filters do run: inside the agent's own confinement. Here they would show the canary; hooks and
    // fsmonitor are off even there.
    sh(dir, &["config", "--unset", "filter.evil.clean"]);
    sh(dir, &["config", "--unset", "filter.evil.process"]);
    let (facts, imported) = world.take(&workspace, "w").await;
    assert_eq!(facts.leftovers, Leftovers::Partly);
    let head = imported.expect("taken").head;
    assert!(!canary.exists(), "hooks or fsmonitor ran in the capture");
    // From here on only our own repositories are opened; the attributes came along, the programs did not.
    let main = world.main_moves("a.txt", "one\nTWO\nthree\nfour\nfive\nsix\nseven\n").await;
    let CatchUp::Rebased { head, .. } = world.catch_up(&head, &main).await else { panic!("a rebase") };
    let checkout = world.git.checkout(&head, &world.at("gate"), None).await.expect("a checkout");
    assert_eq!(std::fs::read_to_string(checkout.dir.join("b.txt")).expect("there"), "b");
    assert!(!canary.exists(), "a repository of ours ran the workspace's code");
    // The trap is a real one: the simplest git command of a person in that workspace springs it.
    person(dir, &["status"]);
    assert!(canary.exists(), "the trap does not work, so this test proves nothing");
}
