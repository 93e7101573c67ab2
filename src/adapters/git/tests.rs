//! The git room with real git: every promise of its files, on repositories made for the purpose.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use orch_domain::ids::{CommitSha, Generation, RunId, TaskId};
use orch_domain::names::BranchName;
use orch_domain::time::{Millis, Timestamp};

use super::*;
use crate::git::exec::Exec;
use crate::ports::{Confinement, Remote};

mod compose;

/// A forge (a bare repository), a person's clone of it, and our own repositories.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) git: RepoGit,
}

/// Runs git as a person would, in a folder; must succeed.
pub(crate) fn sh(dir: &Path, args: &[&str]) -> String {
    let out = person(dir, args);
    assert!(out.status.success(), "git {args:?} in {}: {}", dir.display(), String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

pub(crate) fn person(dir: &Path, args: &[&str]) -> std::process::Output {
    Command::new("git")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var("PATH").expect("a PATH"))
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "A Person"), ("GIT_AUTHOR_EMAIL", "person@example.org")])
        .envs([("GIT_COMMITTER_NAME", "A Person"), ("GIT_COMMITTER_EMAIL", "person@example.org")])
        .envs([("GIT_AUTHOR_DATE", "1700000000 +0100"), ("GIT_COMMITTER_DATE", "1700000000 +0100")])
        .output()
        .expect("git runs")
}

pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    std::fs::write(path, text).expect("a file");
}

pub(crate) fn commit_all(dir: &Path, message: &str) -> CommitSha {
    sh(dir, &["add", "-A"]);
    sh(dir, &["commit", "--quiet", "--allow-empty", "-m", message]);
    sha_of(dir, "HEAD")
}

pub(crate) fn sha_of(dir: &Path, name: &str) -> CommitSha {
    sh(dir, &["rev-parse", "--verify", name]).parse().expect("a commit id")
}

pub(crate) fn branch(name: &str) -> BranchName {
    name.parse().expect("a branch name")
}

pub(crate) fn protected() -> ProtectedBranches {
    ProtectedBranches::new(branch("main"), None)
}

/// Repositories of ours. The whole suite can be run with another git: put it first in `PATH` and name it in
/// `ORCH_TEST_GIT`.
pub(crate) fn rooms(dir: &Path, mut settings: GitSettings) -> GitRooms {
    if let Some(other) = std::env::var("ORCH_TEST_GIT").ok().filter(|_| settings.program == "git") {
        settings.program = other;
        settings.path = std::env::var("PATH").expect("a PATH");
    }
    let exec: Arc<dyn Exec> = Arc::new(DirectExec);
    GitRooms::new(dir.join("data dir é/repos"), exec, settings)
}

fn task() -> TaskId {
    "t0a1b2".parse().expect("task id")
}

fn run_id() -> RunId {
    "r0a1b2".parse().expect("run id")
}

impl World {
    async fn new() -> Self {
        Self::with(GitSettings::default(), "main").await
    }

    /// Paths with spaces and letters outside ASCII throughout.
    async fn with(settings: GitSettings, main: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("wörld of git ").tempdir().expect("a folder");
        let forge = dir.path().join("the förge.git");
        let initial = format!("--initial-branch={main}");
        sh(dir.path(), &["init", "--quiet", "--bare", &initial, forge.to_str().expect("text")]);
        sh(dir.path(), &["clone", "--quiet", forge.to_str().expect("text"), "person"]);
        let person = dir.path().join("person");
        sh(&person, &["checkout", "--quiet", "-B", main]);
        write(&person.join("a.txt"), "one\ntwo\nthree\nfour\nfive\nsix\nseven\n");
        write(&person.join(".gitignore"), "target/\n*.log\n");
        commit_all(&person, "Begin");
        sh(&person, &["push", "--quiet", "origin", main]);
        let remote = Remote { url: forge.to_str().expect("text").to_owned(), env: Default::default() };
        let name = "repo".parse().expect("name");
        let git = rooms(dir.path(), settings).open(&name, remote).await.expect("repositories");
        Self { dir, git }
    }

    fn person(&self) -> PathBuf {
        self.dir.path().join("person")
    }

    fn forge(&self) -> PathBuf {
        self.dir.path().join("the förge.git")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("wörk spaces").join(name)
    }

    async fn base(&self) -> CommitSha {
        self.git.fetch_main(&branch("main")).await.expect("main")
    }

    /// A person changes a file on main.
    async fn main_moves(&self, file: &str, text: &str) -> CommitSha {
        sh(&self.person(), &["checkout", "--quiet", "main"]);
        write(&self.person().join(file), text);
        commit_all(&self.person(), &format!("Person writes {file}"));
        sh(&self.person(), &["push", "--quiet", "origin", "main"]);
        self.base().await
    }

    async fn workspace(&self, name: &str, start: &CommitSha, base: &CommitSha) -> Workspace {
        let spec = WorkspaceSpec {
            dir: self.at(name),
            branch: branch("orch/orc-1/1"),
            start: start.clone(),
            main: branch("main"),
            base: base.clone(),
        };
        self.git.make_workspace(spec).await.expect("a workspace")
    }

    fn capture(&self, workspace: &Workspace, out: &Path) -> crate::ports::JobSpec {
        std::fs::create_dir_all(out).expect("a folder");
        let env = [("PATH", std::env::var("PATH").expect("a PATH")), ("HOME", out.to_string_lossy().into_owned())];
        let spec = CaptureSpec {
            workspace: workspace.dir.clone(),
            out: out.to_owned(),
            base: workspace.base.clone(),
            branch: workspace.branch.clone(),
            message: "Leftovers of \"run\" $(touch pwned); `x`\n\nMore.".to_owned(),
            confinement: Confinement::default(),
            env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            owner: Owner::default(),
            limits: crate::ports::JobLimits { wall: Millis::from_secs(60), ..Default::default() },
        };
        self.git.capture_spec(spec).expect("a capture")
    }

    async fn take(&self, workspace: &Workspace, name: &str) -> (CaptureFacts, Result<Imported, ImportError>) {
        let out = self.at(&format!("out {name}"));
        let done = DirectExec.run(self.capture(workspace, &out)).await.expect("the capture runs");
        assert!(done.exit.end.is_success(), "{:?}: {}", done.exit.end, String::from_utf8_lossy(&done.stderr));
        let facts = read_capture(&done.stdout).expect("facts");
        let imported = self.git.import_capture(&facts, &out, &import_spec(workspace)).await;
        (facts, imported)
    }

    /// A workspace in which `work` is done, taken out of it.
    async fn worked(&self, name: &str, base: &CommitSha, work: impl FnOnce(&Path)) -> CommitSha {
        let workspace = self.workspace(name, base, base).await;
        work(&workspace.dir);
        self.take(&workspace, name).await.1.expect("the work is taken").head
    }

    async fn catch_up(&self, head: &CommitSha, main: &CommitSha) -> CatchUp {
        self.git.catch_up(head, main, &catch_up_spec()).await.expect("a catch-up")
    }
}

fn import_spec(workspace: &Workspace) -> ImportSpec {
    ImportSpec { task: task(), run: run_id(), base: workspace.base.clone(), start: workspace.start.clone() }
}

fn catch_up_spec() -> CatchUpSpec {
    CatchUpSpec { task: task(), at: Timestamp(1_800_000_000_000), merge_message: "Merge the task\n".to_owned() }
}

// -------------------------------------------------------------------------------------------- rooms and workspaces

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

// -------------------------------------------------------------------------------------------- capture and import

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

// -------------------------------------------------------------------------------------------- catch-up

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
    let CatchUp::Rebased { head: new, dropped } = first.clone() else { panic!("{first:?}") };
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
    let world = World::new().await;
    let base = world.base().await;
    let head = world
        .worked("w", &base, |dir| {
            write(&dir.join("b.txt"), "b");
            commit_all(dir, "Write b");
            write(&dir.join("c.txt"), "c");
            commit_all(dir, "Write c");
        })
        .await;
    let main = world.main_moves("b.txt", "b").await;
    let CatchUp::Rebased { dropped, head: new } = world.catch_up(&head, &main).await else { panic!("a rebase") };
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
    let head = world
        .worked("w", &base, |dir| {
            sh(dir, &["checkout", "--quiet", "-b", "side"]);
            write(&dir.join("side.txt"), "side");
            commit_all(dir, "Side");
            sh(dir, &["checkout", "--quiet", "-"]);
            write(&dir.join("b.txt"), "b");
            commit_all(dir, "Here");
            sh(dir, &["merge", "--quiet", "--no-edit", "side"]);
        })
        .await;
    let main = world.main_moves("c.txt", "c").await;
    let caught = world.catch_up(&head, &main).await;
    let CatchUp::Merged { head: new, because: WhyMerged::BranchHoldsMerges } = caught else { panic!("{caught:?}") };
    let files = world.git.files_at(&new, None).await.expect("files");
    assert_eq!(files, [".gitignore", "a.txt", "b.txt", "c.txt", "side.txt"]);
}

// -------------------------------------------------------------------------------------------- task branches

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

pub(crate) fn hook(repo: &Path, name: &str, script: &str) {
    let path = repo.join("hooks").join(name);
    write(&path, format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
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

// -------------------------------------------------------------------------------------------- salvage

fn salvage_spec(workspace: &Workspace) -> SalvageSpec {
    SalvageSpec {
        workspace: workspace.dir.clone(),
        key: "ORC-1".parse().expect("key"),
        generation: Generation(2),
        run: run_id(),
        start: workspace.start.clone(),
        at: Timestamp(1_800_000_000_000),
    }
}

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
    let from = commit_all(&person, "Before");
    write(&person.join("a.txt"), "zero\none\ntwo\nfour\nFIVE\nsix\nseven\n");
    write(&person.join("new.txt"), "a\nb\n");
    std::fs::remove_file(person.join("gone.txt")).expect("removed");
    std::fs::rename(person.join("moved.txt"), person.join("sub moved ü.txt")).expect("renamed");
    write(&person.join("sub moved ü.txt"), many.replace("line 20\n", ""));
    write(&person.join("picture"), b"\0\x01\x03");
    let to = commit_all(&person, "After");
    sh(&person, &["push", "--quiet", "origin", "main"]);
    world.base().await;
    let found = world.git.changed_lines(&from, &to).await.expect("compared");
    let hunks = |name: &str| -> Vec<(u32, u32, u32, u32)> {
        let change = &found.changes[&name.parse().expect("a path")];
        change.hunks.iter().map(|h| (h.old_start, h.old_lines, h.new_start, h.new_lines)).collect()
    };
    assert_eq!(hunks("a.txt"), [(0, 0, 1, 1), (3, 1, 3, 0), (5, 1, 5, 1)]);
    assert_eq!(hunks("new.txt"), [(0, 0, 1, 2)]);
    assert_eq!(hunks("sub moved ü.txt"), [(20, 1, 19, 0)]);
    let old = &found.changes[&"sub moved ü.txt".parse().expect("a path")].old;
    assert_eq!(old.as_ref().map(ToString::to_string).as_deref(), Some("moved.txt"));
    let gone: Vec<String> = found.gone.iter().map(ToString::to_string).collect();
    assert_eq!((gone, found.left_out, found.changes.len()), (vec!["gone.txt".into(), "moved.txt".into()], 1, 3));
}
