//! What comes out of a workspace: commits and leftovers as a bundle, checked before they come in.

use orch_domain::left::Several;

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
    assert_eq!((facts.leftovers, facts.commits, &facts.nested), (Leftovers::Committed, 2, &None));
    assert_eq!((&facts.beside, &facts.refused, &facts.unfinished), (&None, &None, &None));
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
    assert_eq!(
        (facts.on, facts.nested, facts.leftovers),
        (None, Several::of(1, names(&["nested"])), Leftovers::Committed)
    );
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
    assert_eq!(facts.unmerged, Several::of(1, names(&["a.txt"])));
    assert_eq!(imported.expect("the commits are taken").commits, 1);
    // Resolved and added, it only was not committed: that is done for it, and ends the merge.
    write(&dir.join("a.txt"), "both");
    sh(dir, &["add", "a.txt"]);
    let (facts, imported) = world.take(&second, "three").await;
    assert_eq!((facts.unfinished, facts.leftovers), (None, Leftovers::Committed));
    assert_eq!(imported.expect("the merge is taken").commits, 3);
}

fn names(all: &[&str]) -> Vec<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

/// What is done in a workspace.
type Work<'w> = &'w dyn Fn(&Path);
/// The last subject that is handed over, and what is told of the rest.
type Told = (&'static str, Option<&'static str>, Option<Several>);

#[tokio::test]
async fn the_task_branch_is_handed_over_unless_what_is_checked_out_goes_on_from_it() {
    let world = World::new().await;
    let base = world.base().await;
    let three = |dir: &Path| {
        for name in ["n1", "n2", "n3"] {
            write(&dir.join("a.txt"), name);
            commit_all(dir, name);
        }
    };
    let stray = |dir: &Path, name: &str| {
        write(&dir.join("a.txt"), name);
        commit_all(dir, name);
    };
    let one = |name: &str| Several::of(1, names(&[name]));
    let table: [(&str, Work<'_>, Told); 9] = [
        ("looks back", &|dir| drop(sh(dir, &["checkout", "--quiet", "HEAD~2"])), ("n3", None, None)),
        ("looks at main", &|dir| drop(sh(dir, &["checkout", "--quiet", "origin/main"])), ("n3", None, None)),
        (
            "goes on detached",
            &|dir| {
                sh(dir, &["checkout", "--quiet", "--detach"]);
                stray(dir, "q");
            },
            ("q", None, None),
        ),
        (
            "goes on elsewhere",
            &|dir| {
                sh(dir, &["checkout", "--quiet", "-b", "o"]);
                stray(dir, "q");
            },
            ("q", None, None),
        ),
        (
            "works beside",
            &|dir| {
                sh(dir, &["checkout", "--quiet", "-b", "o", "HEAD~3"]);
                stray(dir, "q");
            },
            ("n3", None, one("q")),
        ),
        (
            "writes where it looks back",
            &|dir| {
                sh(dir, &["checkout", "--quiet", "HEAD~2"]);
                write(&dir.join("z"), "z");
            },
            ("n3", None, one("Leftovers of \"run\" $(touch pwned); `x`")),
        ),
        (
            "has brought over what it did beside",
            &|dir| {
                sh(dir, &["checkout", "--quiet", "-b", "o", "HEAD~3"]);
                write(&dir.join("other"), "o");
                commit_all(dir, "o");
                sh(dir, &["checkout", "--quiet", "-"]);
                sh(dir, &["cherry-pick", "o"]);
                sh(dir, &["checkout", "--quiet", "o"]);
            },
            ("o", None, None),
        ),
        (
            "a rebase in conflict",
            &|dir| {
                let here = sh(dir, &["symbolic-ref", "--short", "HEAD"]);
                sh(dir, &["checkout", "--quiet", "-b", "o", "HEAD~3"]);
                stray(dir, "q");
                sh(dir, &["checkout", "--quiet", &here]);
                assert!(!person(dir, &["rebase", "--quiet", "o"]).status.success());
            },
            ("n3", Some("rebase"), one("q")),
        ),
        (
            "a cherry-pick of two in conflict",
            &|dir| {
                let here = sh(dir, &["symbolic-ref", "--short", "HEAD"]);
                sh(dir, &["checkout", "--quiet", "-b", "o", "HEAD~3"]);
                stray(dir, "q");
                stray(dir, "r");
                sh(dir, &["checkout", "--quiet", &here]);
                assert!(!person(dir, &["cherry-pick", "o~1", "o"]).status.success());
                // The first is resolved, the second is not begun.
                write(&dir.join("a.txt"), "both");
                sh(dir, &["add", "a.txt"]);
            },
            ("Leftovers of \"run\" $(touch pwned); `x`", Some("cherry-pick"), None),
        ),
    ];
    for (name, work, (last, unfinished, beside)) in table {
        let workspace = world.workspace(name, &base, &base).await;
        three(&workspace.dir);
        work(&workspace.dir);
        let (facts, imported) = world.take(&workspace, name).await;
        let head = imported.unwrap_or_else(|e| panic!("{name}: {e}")).head;
        let lines = world.git.commits_between(&base, &head).await.expect("commits");
        assert_eq!(lines.last().map(|line| line.subject.as_str()), Some(last), "{name}: {lines:?}");
        assert!(lines.iter().any(|line| line.subject == "n3"), "{name}: nothing of the branch is lost: {lines:?}");
        assert_eq!(facts.unfinished.as_deref(), unfinished, "{name}");
        assert_eq!(facts.beside, beside, "{name}");
    }
}

#[tokio::test]
async fn repositories_inside_are_named_and_everything_around_them_is_taken() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let dir = &workspace.dir;
    for inner in ["inner", "deep/in ner", "target/ignored", ":(top)odd"] {
        sh(dir, &["init", "--quiet", inner]);
        write(&dir.join(inner).join("x"), "x");
    }
    commit_all(&dir.join("deep/in ner"), "Nested");
    write(&dir.join("deep/y"), "y");
    // One that the agent has added by itself, without committing it.
    sh(dir, &["init", "--quiet", "linked"]);
    commit_all(&dir.join("linked"), "Linked");
    sh(dir, &["add", "linked"]);
    let (facts, imported) = world.take(&workspace, "w").await;
    assert_eq!(facts.leftovers, Leftovers::Committed);
    assert_eq!(facts.nested, Several::of(4, names(&[":(top)odd", "deep/in ner", "inner", "linked"])));
    let head = imported.expect("taken").head;
    assert_eq!(world.git.files_at(&head, None).await.expect("files"), [".gitignore", "a.txt", "deep/y"]);
    // Alone it is no commit.
    let alone = world.workspace("alone", &base, &base).await;
    sh(&alone.dir, &["init", "--quiet", "inner"]);
    write(&alone.dir.join("inner/x"), "x");
    let (facts, _) = world.take(&alone, "alone").await;
    assert_eq!((facts.leftovers, facts.commits, facts.nested), (Leftovers::None, 0, Several::of(1, names(&["inner"]))));
}

#[tokio::test]
async fn a_damaged_repository_and_a_git_that_is_not_there_are_told_apart() {
    let world = World::new().await;
    let base = world.base().await;
    let damages: [(&str, Work<'_>, i32); 3] = [
        ("gone", &|dir| std::fs::remove_dir_all(dir.join(".git")).expect("removed"), 3),
        ("no head", &|dir| write(&dir.join(".git/HEAD"), "nonsense"), 3),
        (
            "begun anew",
            &|dir| {
                std::fs::remove_dir_all(dir.join(".git")).expect("removed");
                sh(dir, &["init", "--quiet"]);
                commit_all(dir, "A world of its own");
            },
            4,
        ),
    ];
    for (name, damage, code) in damages {
        let workspace = world.workspace(name, &base, &base).await;
        damage(&workspace.dir);
        let done = DirectExec.run(world.capture(&workspace, &world.at(&format!("out {name}")))).await.expect("runs");
        assert_eq!(done.exit.end, orch_domain::job::JobEnd::Exited { code }, "{name}");
        assert!(String::from_utf8_lossy(&done.stderr).contains("fatal: "), "{name}");
    }
    let workspace = world.workspace("no git", &base, &base).await;
    let mut spec = world.capture(&workspace, &world.at("out no git"));
    spec.env.insert("PATH".to_owned(), world.at("nowhere").display().to_string());
    let done = DirectExec.run(spec).await.expect("runs");
    assert_eq!(done.exit.end, orch_domain::job::JobEnd::Exited { code: 5 });
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
    let (facts, imported) = world.take(&third, "third").await;
    assert_eq!(facts.beside, Several::of(1, names(&["A world of its own"])));
    assert_eq!(imported.expect("the branch is taken").head, base);
    sh(&third.dir, &["checkout", "--quiet", "-B", "orch/orc-1/1"]);
    let imported = world.take(&third, "third again").await.1.expect("taken");
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
    assert_eq!(facts.refused, Several::of(1, names(&["noise.bin"])));
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
    assert_eq!((facts.leftovers, facts.nested), (Leftovers::Committed, Several::of(2, names(&["elsewhere", "empty"]))));
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
