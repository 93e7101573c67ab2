//! What is kept of work that is stopped, and lines that reports are about.

use orch_domain::coverage::Change;
use orch_domain::names::RepoPath;

use super::*;

#[tokio::test]
async fn salvage_keeps_files_commits_and_nested_repositories_and_gives_them_back() {
    let world = World::new().await;
    write(&world.person().join("kept.log"), "tracked although ignored");
    sh(&world.person(), &["add", "-f", "kept.log"]);
    let base = world.main_moves("x.txt", "x").await;
    let start = world.worked("before", &base, |dir| write(&dir.join("before.txt"), "only work has this")).await;
    let workspace = world.workspace("w", &start, &base).await;
    let dir = &workspace.dir;
    write(&dir.join("kept.log"), "changed");
    write(&dir.join("other.log"), "ignored");
    write(&dir.join("target/deep/x.o"), "ignored");
    write(&dir.join("odd/new\nline"), "odd");
    write(&dir.join("committed.txt"), "in a commit");
    let unpushed = commit_all(dir, "Never taken out");
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).expect("a link");
    nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    sh(dir, &["init", "--quiet", "nested"]);
    write(&dir.join("nested/x"), "x");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.join("a.txt"), mode).expect("executable");
    let kept = world.git.salvage(&salvage_spec(&workspace)).await.expect("salvaged");
    assert_eq!(kept.id, "orc-1/2/r0a1b2");
    assert_eq!(kept.skipped, ["pipe (neither file, folder nor link)"]);
    assert_eq!(world.git.salvage(&salvage_spec(&workspace)).await.expect("again").commit, kept.commit);
    std::fs::remove_dir_all(dir).expect("gone");
    let all = world.git.list_salvage().await.expect("listed");
    assert_eq!(all.len(), 1);
    assert!(all[0].about.starts_with("Salvage of ORC-1, generation 2, run r0a1b2\n"), "{}", all[0].about);
    assert_eq!((all[0].bytes(), all[0].run()), (Some(kept.bytes), "r0a1b2"));
    let into = world.at("back");
    let count = world.git.restore_salvage(&kept.id, &into).await.expect("restored");
    assert_eq!(count, kept.files);
    assert_eq!(kept.ignored, 2, "one file and one folder");
    assert!(all[0].about.contains("left out: 2 ignored files or folders"), "{}", all[0].about);
    let private = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&into).expect("there").permissions());
    assert_eq!(private & 0o777, 0o700, "what an agent wrote is nobody else's to read");
    assert_eq!(std::fs::read_to_string(into.join("kept.log")).expect("there"), "changed");
    assert_eq!(std::fs::read_to_string(into.join("odd/new\nline")).expect("there"), "odd");
    assert_eq!(std::fs::read_link(into.join("link")).expect("a link"), PathBuf::from("/etc/passwd"));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(into.join("a.txt")).expect("there").permissions());
    assert_eq!(mode & 0o100, 0o100, "still executable");
    assert!(!into.join("other.log").exists() && !into.join("target").exists());
    assert!(into.join("nested").join(DOT_GIT).join("HEAD").is_file());
    // A person who gives `.git` its name back has the commits too.
    std::fs::rename(into.join(DOT_GIT), into.join(".git")).expect("renamed");
    assert_eq!(sha_of(&into, "HEAD"), unpushed);
    assert!(matches!(world.git.restore_salvage("orc-1/9/r", &world.at("no")).await, Err(SalvageError::NoSuch(_))));
    assert!(world.git.forget_salvage(&kept.id).await.expect("forgotten"));
    assert!(!world.git.forget_salvage(&kept.id).await.expect("forgotten"));
}

#[tokio::test]
async fn names_that_become_one_in_a_salvage_stay_apart() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let dir = workspace.dir.join("odd");
    for name in [".git", ".GIT", ".Git", DOT_GIT] {
        write(&dir.join(name).join("x"), name);
    }
    let kept = world.git.salvage(&salvage_spec(&workspace)).await.expect("salvaged");
    let into = world.at("back");
    assert_eq!(world.git.restore_salvage(&kept.id, &into).await.expect("restored"), kept.files);
    let mut texts: Vec<String> = std::fs::read_dir(into.join("odd"))
        .expect("a folder")
        .map(|entry| std::fs::read_to_string(entry.expect("an entry").path().join("x")).expect("kept"))
        .collect();
    texts.sort();
    assert_eq!(texts, [".GIT", ".Git", ".git", DOT_GIT]);
}

/// What cannot be kept is not left out: the workspace has to stay, whole.
#[tokio::test]
async fn a_workspace_with_something_that_cannot_be_opened_is_refused() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let deep = "for n in $(seq 140); do mkdir d && cd d; done; echo x > x";
    assert!(Command::new("sh").args(["-c", deep]).current_dir(&workspace.dir).status().expect("sh runs").success());
    match world.git.salvage(&salvage_spec(&workspace)).await {
        Err(SalvageError::Unreadable { path, why }) => {
            assert!(path.starts_with("d/d/") && why.contains("deep"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    assert!(world.git.list_salvage().await.expect("listed").is_empty());
}

#[tokio::test]
async fn salvage_opens_no_ignore_rules_that_are_no_plain_file() {
    let world = World::new().await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let dir = &workspace.dir;
    let pipe = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    for folder in ["piped/deep", "linked", "attributed"] {
        write(&dir.join(folder).join("work.txt"), "work");
    }
    pipe(&dir.join("piped/.gitignore"));
    pipe(&world.at("elsewhere"));
    std::os::unix::fs::symlink(world.at("elsewhere"), dir.join("linked/.gitignore")).expect("a link");
    pipe(&dir.join("attributed/.gitattributes"));
    let (git, spec) = (world.git.clone(), salvage_spec(&workspace));
    // On a thread of its own: a salvage that waits for a pipe must fail the test, not hold its end up.
    let (told, kept) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        told.send(runtime.block_on(git.salvage(&spec))).expect("somebody waits");
    });
    let wait = move || kept.recv_timeout(std::time::Duration::from_secs(60));
    let kept = tokio::task::spawn_blocking(wait).await.expect("waited").expect("it ends").expect("salvaged");
    let into = world.at("back");
    world.git.restore_salvage(&kept.id, &into).await.expect("restored");
    for file in ["piped/deep/work.txt", "linked/work.txt", "attributed/work.txt"] {
        assert!(into.join(file).is_file(), "{file}");
    }
    assert!(!into.join("piped/.gitignore").exists());
}

#[tokio::test]
async fn commits_that_only_work_has_are_kept_after_its_refs_are_gone() {
    let world = World::new().await;
    let base = world.base().await;
    let one = world.worked("one", &base, |dir| write(&dir.join("one.txt"), "1")).await;
    let two = world.worked("two", &base, |dir| write(&dir.join("two.txt"), "2")).await;
    let key = "ORC-1".parse().expect("key");
    let of = (&key, Generation(2), &run_id());
    let at = Timestamp(1_800_000_000_000);
    let kept = world.git.keep_commits(of, &[one.clone(), two.clone()], at).await.expect("kept");
    assert_eq!(kept.id, "orc-1/2/r0a1b2");
    world.git.drop_refs(&task()).await.expect("dropped");
    sh(&world.git.work(), &["reflog", "expire", "--expire=now", "--expire-unreachable=now", "--all"]);
    sh(&world.git.work(), &["gc", "--quiet", "--prune=now"]);
    let all = world.git.list_salvage().await.expect("listed");
    assert_eq!((all.len(), all[0].at), (1, at));
    assert!(all[0].about.contains(&format!("head: {one}")), "{}", all[0].about);
    let held = sh(&world.git.vault(), &["rev-list", kept.commit.as_str()]);
    assert!(held.contains(one.as_str()) && held.contains(two.as_str()), "{held}");
    world.git.restore_salvage(&kept.id, &world.at("back")).await.expect("restored");
    assert!(world.at("back/one.txt").is_file());
    let none = world.git.keep_commits(of, &[], at).await.expect_err("nothing");
    assert!(matches!(none, GitError::Invalid(_)), "{none}");
}

#[tokio::test]
async fn salvage_over_its_cap_keeps_nothing() {
    let settings = GitSettings { salvage_cap_files: 3, ..GitSettings::default() };
    let world = World::with(settings, "main").await;
    let base = world.base().await;
    let workspace = world.workspace("w", &base, &base).await;
    let objects = || sh(&world.git.vault(), &["count-objects", "-v"]);
    let before = objects();
    let err = world.git.salvage(&salvage_spec(&workspace)).await.expect_err("too much");
    assert!(matches!(&err, SalvageError::OverCap { cap } if cap == "3 files"), "{err}");
    assert_eq!(objects(), before, "what is not kept was written");
    assert!(world.git.list_salvage().await.expect("listed").is_empty());
}

#[tokio::test]
async fn changed_lines_are_told_by_their_numbers_and_renames_are_followed() {
    let world = World::new().await;
    let person = world.person();
    let many: String = (1..=40).map(|n| format!("line {n}\n")).collect();
    write(&person.join("moved.txt"), &many);
    write(&person.join("gone.txt"), "x\n");
    write(&person.join("picture"), b"\0\x01\x02");
    let large = "x = 1\n".repeat(800_000);
    write(&person.join("large.py"), &large);
    let from = commit_all(&person, "Before");
    write(&person.join("a.txt"), "zero\none\ntwo\nfour\nFIVE\nsix\nseven\n");
    write(&person.join("new.txt"), "a\nb\n");
    std::fs::remove_file(person.join("gone.txt")).expect("removed");
    std::fs::rename(person.join("moved.txt"), person.join("sub moved ü.txt")).expect("renamed");
    write(&person.join("sub moved ü.txt"), many.replace("line 20\n", ""));
    write(&person.join("picture"), b"\0\x01\x03");
    write(&person.join("large.py"), format!("{large}y = 2\n"));
    let to = commit_all(&person, "After");
    sh(&person, &["push", "--quiet", "origin", "main"]);
    world.base().await;
    let found = world.git.changed_lines(&from, &to).await.expect("compared");
    let hunks = |name: &str| -> Vec<(u32, u32, u32, u32)> {
        let change = &found.changes[&name.parse().expect("a path")];
        change.hunks.iter().flatten().map(|h| (h.old_start, h.old_lines, h.new_start, h.new_lines)).collect()
    };
    assert_eq!(hunks("a.txt"), [(0, 0, 1, 1), (3, 1, 3, 0), (5, 1, 5, 1)]);
    assert_eq!(hunks("new.txt"), [(0, 0, 1, 2)]);
    assert_eq!(hunks("sub moved ü.txt"), [(20, 1, 19, 0)]);
    let old = &found.changes[&"sub moved ü.txt".parse().expect("a path")].old;
    assert_eq!(old.as_ref().map(ToString::to_string).as_deref(), Some("moved.txt"));
    let gone: Vec<String> = found.gone.iter().map(ToString::to_string).collect();
    assert_eq!(gone, ["gone.txt", "moved.txt"]);
    let unknown = |(path, change): (&RepoPath, &Change)| change.hunks.is_none().then(|| path.to_string());
    assert_eq!(found.changes.iter().filter_map(unknown).collect::<Vec<_>>(), ["large.py", "picture"]);
    assert_eq!(found.changes.len(), 5);
}
