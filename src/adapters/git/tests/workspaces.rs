//! Our repositories, and what agents and gates get of them: made once, complete, borrowing from upstream only.

use super::*;

#[tokio::test]
async fn repositories_are_made_once_and_half_made_ones_replaced() {
    let world = World::new().await;
    let root = world.git.upstream().parent().expect("a parent").to_owned();
    write(&root.join(".vault.git.making/HEAD"), "half");
    std::fs::remove_dir_all(world.git.vault()).expect("gone");
    let again = rooms(world.dir.path(), GitSettings::default())
        .open(&"repo".parse().expect("name"), world.git.remote().clone())
        .await
        .expect("opened again");
    assert!(again.vault().join("HEAD").is_file());
    assert!(!root.join(".vault.git.making").exists());
    let at = world.base().await;
    assert_eq!(again.tree_of(&at).await.expect("kept").len(), 40);
}

#[tokio::test]
async fn upstream_follows_the_forge_even_when_main_was_rewritten_there() {
    let world = World::new().await;
    let first = world.base().await;
    let second = world.main_moves("b.txt", "b").await;
    assert!(world.git.contains(&first, &second).await.expect("known"));
    sh(&world.person(), &["reset", "--quiet", "--hard", first.as_str()]);
    sh(&world.person(), &["push", "--quiet", "--force", "origin", "main"]);
    assert_eq!(world.base().await, first);
    let missing = world.git.fetch_main(&branch("nowhere")).await.expect_err("no such branch");
    assert!(matches!(missing, GitError::NoSuchBranch { .. }), "{missing}");
    assert_eq!(world.git.remote_head(&branch("nowhere")).await.expect("an answer"), None);
}

#[tokio::test]
async fn a_remote_that_is_away_or_no_repository_says_so() {
    let world = World::new().await;
    std::fs::rename(world.forge(), world.dir.path().join("moved")).expect("moved");
    let err = world.git.fetch_main(&branch("main")).await.expect_err("away");
    assert!(matches!(err, GitError::Refused { .. } | GitError::Unreachable { .. }), "{err}");
    let nowhere = Remote { url: "http://127.0.0.1:1/x.git".to_owned(), env: Default::default() };
    let name = "other".parse().expect("name");
    let git = rooms(world.dir.path(), GitSettings::default()).open(&name, nowhere).await.expect("opens offline");
    let err = git.remote_head(&branch("main")).await.expect_err("away");
    assert!(err.is_transient(), "{err}");
}

#[tokio::test]
async fn unsound_history_of_the_forge_is_refused_and_old_sins_are_forgiven() {
    let world = World::new().await;
    let base = world.base().await;
    let forge = world.forge();
    let put = |kind: &str, bytes: &[u8]| {
        let file = world.at("object");
        write(&file, bytes);
        sh(&forge, &["hash-object", "-t", kind, "--literally", "-w", file.to_str().expect("text")])
    };
    let commit = |tree: &str, zone: &str| {
        let who = format!("A <a@b> 1700000000 {zone}");
        let text = format!("tree {tree}\nparent {base}\nauthor {who}\ncommitter {who}\n\nOld\n");
        let id = put("commit", text.as_bytes());
        sh(&forge, &["update-ref", "refs/heads/main", &id]);
        id
    };
    let blob = hex::decode(put("blob", b"x")).expect("hex");
    let old = put("tree", &[b"0100644 x\0".as_slice(), &blob].concat());
    assert_eq!(commit(&old, "+051800"), world.base().await.to_string());
    let evil = put("tree", &[b"100644 .git\0".as_slice(), &blob].concat());
    commit(&evil, "+0000");
    let err = world.git.fetch_main(&branch("main")).await.expect_err("unsound");
    assert!(matches!(&err, GitError::Refused { why, .. } if why.contains("fsck error")), "{err}");
}

#[tokio::test]
async fn a_missing_git_program_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = GitSettings { program: "no-such-git".to_owned(), ..GitSettings::default() };
    let remote = Remote { url: "/nowhere".to_owned(), env: Default::default() };
    let err = rooms(dir.path(), settings).open(&"x".parse().expect("name"), remote).await.expect_err("no git");
    assert!(matches!(&err, GitError::NoGit { why } if why.contains("no-such-git")), "{err}");
}

#[tokio::test]
async fn a_workspace_is_complete_borrows_from_upstream_only_and_cannot_push() {
    let world = World::new().await;
    let base = world.base().await;
    let head = world
        .worked("first", &base, |dir| {
            write(&dir.join("new.txt"), "from the first run");
            commit_all(dir, "First");
        })
        .await;
    // The second run starts at a commit that only work has.
    let main = world.main_moves("b.txt", "b").await;
    let half = rooms::making_beside(&world.at("second"));
    write(&half.join("rubbish"), "from a crash");
    let second = world.workspace("second", &head, &main).await;
    assert!(!half.exists() && !second.dir.join("rubbish").exists());
    assert_eq!(sha_of(&second.dir, "HEAD"), head);
    assert_eq!(sh(&second.dir, &["symbolic-ref", "HEAD"]), "refs/heads/orch/orc-1/1");
    assert_eq!(sha_of(&second.dir, "origin/main"), main);
    assert_eq!(sh(&second.dir, &["status", "--porcelain"]), "");
    assert_eq!(sh(&second.dir, &["fsck", "--connectivity-only"]), "");
    let lent = std::fs::read_to_string(second.dir.join(".git/objects/info/alternates")).expect("alternates");
    assert_eq!(lent.trim(), world.git.borrowed_objects().to_str().expect("text"));
    let refused = person(&second.dir, &["push", "origin", "HEAD"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("commit your work, the supervisor takes it"));
    assert!(!refused.status.success());
    let twice = world.git.make_workspace(WorkspaceSpec {
        dir: second.dir.clone(),
        branch: second.branch.clone(),
        start: head,
        main: branch("main"),
        base: main,
    });
    assert!(matches!(twice.await, Err(GitError::Exists { .. })));
}

#[tokio::test]
async fn three_thousand_files_and_odd_names_come_through() {
    let world = World::new().await;
    for at in 0..3_000 {
        write(&world.person().join(format!("many/{:02}/file {at}.txt", at % 50)), format!("{at}\n"));
    }
    for odd in ["new\nline", "quo\"te", "täb\there", "-dash", "back\\slash"] {
        write(&world.person().join("odd").join(odd), odd);
    }
    sh(&world.person(), &["add", "-A"]);
    commit_all(&world.person(), "Many");
    sh(&world.person(), &["push", "--quiet", "origin", "main"]);
    let base = world.base().await;
    let head = world
        .worked("many", &base, |dir| {
            write(&dir.join("odd/new\nline"), "changed");
            write(&dir.join("odd/quo\"te 2"), "left over");
        })
        .await;
    let checkout = world.git.checkout(&head, &world.at("gate"), None).await.expect("a checkout");
    assert_eq!(checkout.tree, world.git.tree_of(&head).await.expect("a tree"));
    assert_eq!(std::fs::read_to_string(checkout.dir.join("odd/new\nline")).expect("there"), "changed");
    assert_eq!(std::fs::read_dir(checkout.dir.join("many/07")).expect("there").count(), 60);
    assert_eq!(sh(&checkout.dir, &["status", "--porcelain"]), "");
    assert_eq!(sh(&checkout.dir, &["rev-parse", "--abbrev-ref", "HEAD"]), "HEAD");
    let changed = world.git.changed_paths(&base, &head).await.expect("paths");
    let shown: Vec<&str> = changed.iter().map(|path| path.path.as_str()).collect();
    assert_eq!(shown, ["odd/new\nline", "odd/quo\"te 2"]);
    assert_eq!((changed[0].kind, changed[1].kind), (ChangeKind::Modified, ChangeKind::Added));
}

#[tokio::test]
async fn a_checkout_of_an_unknown_commit_leaves_nothing() {
    let world = World::new().await;
    world.base().await;
    let unknown: CommitSha = "1".repeat(40).parse().expect("an id");
    let err = world.git.checkout(&unknown, &world.at("gate"), None).await.expect_err("unknown");
    assert!(matches!(err, GitError::NoSuchCommit { .. }), "{err}");
    assert!(!world.at("gate").exists() && !rooms::making_beside(&world.at("gate")).exists());
}

#[tokio::test]
async fn submodules_stay_as_they_are() {
    let world = World::new().await;
    let inner = world.dir.path().join("inner");
    sh(world.dir.path(), &["init", "--quiet", "inner"]);
    write(&inner.join("x"), "x");
    commit_all(&inner, "Inner");
    let person = world.person();
    sh(&person, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", inner.to_str().unwrap(), "sub"]);
    commit_all(&person, "Add a submodule");
    sh(&person, &["push", "--quiet", "origin", "main"]);
    let base = world.base().await;
    let head = world
        .worked("sub", &base, |dir| {
            assert_eq!(std::fs::read_dir(dir.join("sub")).expect("an empty folder").count(), 0);
            write(&dir.join("b.txt"), "b");
        })
        .await;
    let changed = world.git.changed_paths(&base, &head).await.expect("paths");
    assert_eq!(changed.len(), 1, "the submodule is untouched: {changed:?}");
    let main = world.main_moves("c.txt", "c").await;
    assert!(matches!(world.catch_up(&head, &main).await, CatchUp::Rebased { .. }));
}

#[tokio::test]
async fn a_master_branch_is_as_good_and_reads_see_files_as_they_were() {
    let world = World::with(GitSettings::default(), "master").await;
    let at = world.git.fetch_main(&branch("master")).await.expect("master");
    let path = "a.txt".parse().expect("path");
    let whole = world.git.read_file_at(&at, &path, 1_000).await.expect("read");
    assert!(matches!(whole, FileAt::Bytes(bytes) if bytes.starts_with(b"one\n")));
    assert_eq!(world.git.read_file_at(&at, &path, 3).await.expect("read"), FileAt::TooLarge { bytes: 34 });
    let none = "none/at/all".parse().expect("path");
    assert_eq!(world.git.read_file_at(&at, &none, 3).await.expect("read"), FileAt::Missing);
    assert_eq!(world.git.files_at(&at, None).await.expect("files"), [".gitignore", "a.txt"]);
    let commits = world.git.commits_between(&at, &at).await.expect("commits");
    assert!(commits.is_empty());
}
