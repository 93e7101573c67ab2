//! One contract for every forge, and what only the local one promises: a person's files stay as they are.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::names::{BranchName, RepoName};
use orch_domain::time::Timestamp;
use orch_test_support::git_server::{GitServer, Protocol};
use sha2::{Digest, Sha256};

use super::*;
use crate::git::tests::{branch, commit_all, hook, person, rooms, sh, sha_of, write};
use crate::git::{
    BranchDeletion, BranchPush, CatchUp, CatchUpSpec, GitError, GitRooms, GitSettings, Owner, RepoGit, TaskBranch,
    WorkspaceSpec,
};
use crate::ports::{Advance, Forge, ForgeError, Remote};

fn name() -> RepoName {
    "repo".parse().expect("a name")
}

fn git_rooms(dir: &Path) -> GitRooms {
    rooms(dir, GitSettings::default())
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("a fôlder ").tempdir().expect("a folder")
}

/// A person's clone with one commit on `main`.
fn clone_with_commit(dir: &Path, main: &str) -> PathBuf {
    let path = dir.join("my clöne");
    sh(dir, &["init", "--quiet", &format!("--initial-branch={main}"), path.to_str().expect("text")]);
    write(&path.join("a.txt"), "one\ntwo\nthree\n");
    write(&path.join("b.txt"), "b\n");
    commit_all(&path, "Begin");
    path
}

/// A commit on top of `on`, made in work as landings are: by changing one file.
async fn work_on(git: &RepoGit, on: &CommitSha, dir: &Path, file: &str, text: &str) -> CommitSha {
    let spec = WorkspaceSpec {
        dir: dir.join(format!("ws {}", hex::encode(Sha256::digest(format!("{on}{file}{text}"))))),
        branch: branch("orch/orc-1/1"),
        start: on.clone(),
        main: branch("main"),
        base: on.clone(),
    };
    let made = git.make_workspace(spec).await.expect("a workspace");
    write(&made.dir.join(file), text);
    let head = commit_all(&made.dir, &format!("Change {file} to {text}"));
    sh(&git.work(), &["fetch", "--quiet", made.dir.to_str().expect("text"), &format!("HEAD:refs/test/{head}")]);
    head
}

// -------------------------------------------------------------------------------------------- the contract

/// What every forge keeps, whatever it is made of.
async fn keeps_the_contract(forge: &dyn Forge, git: &RepoGit, dir: &Path) {
    let main = forge.main_branch().await.expect("a main branch");
    let base = forge.head(&main).await.expect("an answer").expect("main is there");
    assert_eq!(git.fetch_main(&main).await.expect("fetched"), base);
    assert_eq!(forge.head(&branch("no/such")).await.expect("an answer"), None);

    // Moves, and says so again when asked again.
    let one = work_on(git, &base, dir, "one.txt", "1").await;
    assert_eq!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Moved);
    assert_eq!(forge.head(&main).await.expect("an answer"), Some(one.clone()));
    assert_eq!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Moved);

    // Somebody was faster: not done, and where it is.
    let late = work_on(git, &base, dir, "late.txt", "1").await;
    assert_eq!(
        forge.advance_main(&Owner::default(), &main, &base, &late).await,
        Advance::MainMoved { at: one.clone() }
    );
    assert_eq!(forge.head(&main).await.expect("an answer"), Some(one.clone()));

    // Never sideways, never backwards, even if the caller claims to know where main is.
    assert!(matches!(forge.advance_main(&Owner::default(), &main, &one, &late).await, Advance::Refused { .. }));
    assert!(matches!(forge.advance_main(&Owner::default(), &main, &one, &base).await, Advance::Refused { .. }));
    assert_eq!(forge.head(&main).await.expect("an answer"), Some(one.clone()));

    // Ours landed and somebody landed on top: ours is in.
    let two = work_on(git, &one, dir, "two.txt", "2").await;
    let three = work_on(git, &two, dir, "three.txt", "3").await;
    assert_eq!(forge.advance_main(&Owner::default(), &main, &one, &three).await, Advance::Moved);
    assert_eq!(forge.advance_main(&Owner::default(), &main, &one, &two).await, Advance::Moved);
    assert_eq!(forge.head(&main).await.expect("an answer"), Some(three));

    // A branch that is not there, and a commit that nobody has.
    let unknown: CommitSha = "3".repeat(40).parse().expect("an id");
    assert!(matches!(
        forge.advance_main(&Owner::default(), &branch("gone"), &one, &two).await,
        Advance::Refused { .. }
    ));
    let now = forge.head(&main).await.expect("an answer").expect("main");
    // Ours to find: the forge has refused nothing.
    assert!(matches!(forge.advance_main(&Owner::default(), &main, &now, &unknown).await, Advance::NotSent { .. }));
}

#[tokio::test]
async fn a_bare_repository_keeps_the_contract() {
    let dir = folder();
    let person = clone_with_commit(dir.path(), "main");
    let bare = dir.path().join("b are.git");
    sh(dir.path(), &["clone", "--quiet", "--bare", person.to_str().expect("text"), bare.to_str().expect("text")]);
    let forge = LocalForge::open(&bare, None, &git_rooms(dir.path()), &name()).await.expect("a forge");
    keeps_the_contract(&forge, forge.git(), dir.path()).await;
    let now = forge.head(&branch("main")).await.expect("an answer").expect("main");
    assert_eq!(forge.landing_note(&now, &now).await, None, "a bare repository has no files to speak of");
}

#[tokio::test]
async fn a_clone_with_files_keeps_the_contract() {
    let dir = folder();
    let path = clone_with_commit(dir.path(), "main");
    let forge = LocalForge::open(&path, None, &git_rooms(dir.path()), &name()).await.expect("a forge");
    keeps_the_contract(&forge, forge.git(), dir.path()).await;
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let dir = folder();
    let rooms = git_rooms(dir.path());
    let forge = FakeForge::open(&dir.path().join("fake.git"), &rooms, &name()).await.expect("a forge");
    keeps_the_contract(&forge, forge.git(), dir.path()).await;
}

/// A server's repository for the contract: bare, with one commit on `main`.
fn served(dir: &Path) -> PathBuf {
    let person = clone_with_commit(dir, "main");
    let root = dir.join("served");
    std::fs::create_dir(&root).expect("a folder");
    let bare = root.join("x.git");
    sh(dir, &["clone", "--quiet", "--bare", person.to_str().expect("text"), bare.to_str().expect("text")]);
    root
}

async fn remote(dir: &Path, url: String, env: BTreeMap<String, String>) -> Result<RemoteForge, ForgeSetupError> {
    RemoteForge::open(Remote { url, env }, None, &git_rooms(dir), &name()).await
}

#[tokio::test]
async fn a_repository_by_its_address_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a folder");
    let url = format!("file://{}", served(dir.path()).join("x.git").display());
    let forge = remote(dir.path(), url, BTreeMap::new()).await.expect("a forge");
    keeps_the_contract(&forge, forge.git(), dir.path()).await;
}

#[tokio::test]
async fn servers_keep_the_contract() {
    for protocol in [Protocol::Daemon, Protocol::Http] {
        let dir = folder();
        let server = GitServer::start(protocol, &served(dir.path())).expect("a server");
        let forge = remote(dir.path(), server.url("x.git"), BTreeMap::new()).await.expect("a forge");
        keeps_the_contract(&forge, forge.git(), dir.path()).await;
        let now = forge.head(&branch("main")).await.expect("an answer").expect("main");
        assert_eq!(forge.landing_note(&now, &now).await, None);
        assert!(server.served() > 10, "{protocol:?} was really asked");
        // Its branches, and a push of a task branch, replaced from where it is known to be.
        let mine = TaskBranch::new(branch("orch/orc-1/1"), &forge.protected().await.expect("known")).expect("ours");
        let (one, two) = (
            work_on(forge.git(), &now, dir.path(), "x.txt", "1").await,
            work_on(forge.git(), &now, dir.path(), "x.txt", "2").await,
        );
        let git = forge.git();
        assert_eq!(git.push_task_branch(&mine, &one, None).await.expect("pushed"), BranchPush::Pushed);
        let stale = git.push_task_branch(&mine, &two, Some(&now)).await.expect("an answer");
        assert_eq!(stale, BranchPush::Stale { at: Some(one.clone()) });
        assert_eq!(git.push_task_branch(&mine, &two, Some(&one)).await.expect("replaced"), BranchPush::Pushed);
        assert_eq!(git.delete_task_branch(&mine, &two).await.expect("deleted"), BranchDeletion::Gone);
        // A hook of the server refuses, in its own words.
        hook(&dir.path().join("served/x.git"), "pre-receive", "echo 'not on a Friday' >&2; exit 1");
        let refused = forge.advance_main(&Owner::default(), &branch("main"), &now, &one).await;
        assert!(matches!(&refused, Advance::Refused { .. }), "{protocol:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_server_that_wants_credentials_gets_them_by_environment_and_never_by_its_address() {
    let dir = folder();
    let header = format!("Basic {}", ["dGVz", "dDp0", "ZXN0"].concat());
    let server = GitServer::start_asking(Protocol::Http, &served(dir.path()), Some(header.clone())).expect("a server");
    let without = remote(dir.path(), server.url("x.git"), BTreeMap::new()).await.expect_err("refused");
    assert!(matches!(without, ForgeSetupError::Git(GitError::Refused { .. })), "{without}");
    let config = |n: &str, value: String| (format!("GIT_CONFIG_{n}"), value);
    let env = BTreeMap::from([
        config("COUNT", "1".to_owned()),
        config("KEY_0", "http.extraHeader".to_owned()),
        config("VALUE_0", format!("Authorization: {header}")),
    ]);
    let forge = remote(dir.path(), server.url("x.git"), env).await.expect("a forge");
    keeps_the_contract(&forge, forge.git(), dir.path()).await;
}

#[tokio::test]
async fn a_server_that_is_away_is_asked_again_and_a_wrong_address_is_refused_at_once() {
    let dir = folder();
    let root = served(dir.path());
    let server = GitServer::start(Protocol::Daemon, &root).expect("a server");
    let http = GitServer::start(Protocol::Http, &root).expect("a server");
    for url in
        [server.url("y.git"), http.url("y.git"), format!("file://{}/y.git", dir.path().display()).replace(' ', "")]
    {
        let wrong = remote(dir.path(), url, BTreeMap::new()).await.expect_err("no such repository");
        assert!(wrong.to_string().contains("refuses") && wrong.to_string().contains("y.git"), "{wrong}");
    }
    let (rooms, name) = (git_rooms(dir.path()), name());
    let trunk = RemoteForge::open(
        Remote { url: server.url("x.git"), env: BTreeMap::new() },
        Some(branch("trunk")),
        &rooms,
        &name,
    );
    let text = trunk.await.expect_err("no such branch").to_string();
    assert!(text.contains("no branch `trunk`; it has: main"), "{text}");
    let away = server.url("x.git");
    drop(server);
    let forge = remote(dir.path(), away, BTreeMap::new()).await.expect("it may come back");
    assert!(matches!(forge.main_branch().await, Err(ForgeError::Unreachable(_))));
    sh(dir.path(), &["init", "--quiet", "--bare", root.join("empty.git").to_str().expect("text")]);
    let server = GitServer::start(Protocol::Http, &root).expect("a server");
    let empty = remote(dir.path(), server.url("empty.git"), BTreeMap::new()).await.expect_err("nothing to start from");
    assert!(empty.to_string().contains("no commit yet"), "{empty}");
    sh(&root.join("x.git"), &["update-ref", "--no-deref", "HEAD", "main"]);
    let silent = remote(dir.path(), server.url("x.git"), BTreeMap::new()).await.expect_err("HEAD names no branch");
    assert!(silent.to_string().contains("name it in the setting `main`"), "{silent}");
}

#[tokio::test]
async fn the_fakes_faults_are_what_they_say() {
    let dir = folder();
    let rooms = git_rooms(dir.path());
    let forge = FakeForge::open(&dir.path().join("fake.git"), &rooms, &name()).await.expect("a forge");
    let main = branch("main");
    let base = forge.git().fetch_main(&main).await.expect("fetched");
    let one = work_on(forge.git(), &base, dir.path(), "one.txt", "1").await;

    forge.next_advance(Fault::RequestLost);
    assert!(matches!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Unknown { .. }));
    assert_eq!(forge.head(&main).await.expect("an answer"), Some(base.clone()));
    forge.next_advance(Fault::Refuses);
    assert!(matches!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Refused { .. }));
    forge.next_advance(Fault::ReplyLost);
    assert!(matches!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Unknown { .. }));
    assert_eq!(forge.head(&main).await.expect("an answer"), Some(one.clone()));
    assert_eq!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Moved, "repeating is safe");

    let two = work_on(forge.git(), &one, dir.path(), "two.txt", "2").await;
    forge.next_advance(Fault::MainMovesFirst);
    let Advance::MainMoved { at } = forge.advance_main(&Owner::default(), &main, &one, &two).await else {
        panic!("it moved first")
    };
    assert_eq!(forge.head(&main).await.expect("an answer"), Some(at));
    forge.set_unreachable(true);
    assert!(matches!(forge.head(&main).await, Err(ForgeError::Unreachable(_))));
    assert!(matches!(forge.advance_main(&Owner::default(), &main, &one, &two).await, Advance::Unknown { .. }));
    assert_eq!(forge.advances(), 5, "what could not be sent is not counted");
}

// -------------------------------------------------------------------------------------------- setting up

#[tokio::test]
async fn what_cannot_be_a_forge_is_said_in_one_line_with_the_way_out() {
    let dir = folder();
    let rooms = git_rooms(dir.path());
    let open = async |path: &Path, main: Option<&str>| -> String {
        let forge = LocalForge::open(path, main.map(branch), &rooms, &name()).await;
        let text = forge.expect_err("not a forge").to_string();
        assert!(!text.contains('\n') && text.contains(&path.display().to_string()), "{text}");
        text
    };
    let at = |name: &str| dir.path().join(name);
    assert!(open(&at("missing"), None).await.contains("no such folder"));
    std::fs::create_dir(at("plain")).expect("a folder");
    assert!(open(&at("plain"), None).await.contains("git init"));
    write(&at("file"), "x");
    assert!(open(&at("file"), None).await.contains("it is a file"));
    sh(dir.path(), &["init", "--quiet", "empty"]);
    assert!(open(&at("empty"), None).await.contains("no commit yet"));
    sh(dir.path(), &["init", "--quiet", "--bare", "empty.git"]);
    assert!(open(&at("empty.git"), None).await.contains("no commit yet"));

    let path = clone_with_commit(dir.path(), "trunk");
    std::fs::create_dir(path.join("sub")).expect("a folder");
    let hint = open(&path.join("sub"), None).await;
    assert!(hint.contains("it is a folder of the repository"), "{hint}");
    let missing = open(&path, Some("main")).await;
    assert!(missing.contains("no branch `main`; it has: trunk"), "{missing}");
    sh(dir.path(), &["clone", "--quiet", "--depth=1", &format!("file://{}", path.display()), "shallow"]);
    assert!(open(&at("shallow"), None).await.contains("--unshallow"));
    sh(dir.path(), &["init", "--quiet", "--object-format=sha256", "new"]);
    commit_all(&at("new"), "Begin");
    assert!(open(&at("new"), None).await.contains("sha256"));
    sh(&path, &["checkout", "--quiet", "--detach"]);
    assert!(open(&path, None).await.contains("setting `main`"));
    // Named outright, a detached clone will do.
    let forge = LocalForge::open(&path, Some(branch("trunk")), &rooms, &name()).await.expect("a forge");
    assert_eq!(forge.main_branch().await.expect("main"), branch("trunk"));
}

#[tokio::test]
async fn a_repository_of_another_user_and_a_linked_working_tree_will_do() {
    let dir = folder();
    let path = clone_with_commit(dir.path(), "master");
    let linked = dir.path().join("linked");
    sh(&path, &["worktree", "add", "--quiet", linked.to_str().expect("text"), "-b", "side"]);
    let other_user = nix::unistd::Uid::effective().is_root();
    if other_user {
        for at in [path.clone(), path.join(".git"), path.join(".git/objects")] {
            std::os::unix::fs::chown(&at, Some(4_242), Some(4_242)).expect("given away");
        }
    }
    let rooms = git_rooms(dir.path());
    let forge = LocalForge::open(&path, None, &rooms, &name()).await.expect("a forge");
    let main = forge.main_branch().await.expect("main");
    assert_eq!(main, branch("master"));
    let base = forge.git().fetch_main(&main).await.expect("fetched");
    let one = work_on(forge.git(), &base, dir.path(), "one.txt", "1").await;
    assert_eq!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Moved);

    let second = "linked".parse().expect("a name");
    let forge = LocalForge::open(&linked, Some(branch("master")), &rooms, &second).await.expect("a forge");
    assert_eq!(forge.git().fetch_main(&branch("master")).await.expect("fetched"), one);
    let two = work_on(forge.git(), &one, dir.path(), "two.txt", "2").await;
    assert_eq!(forge.advance_main(&Owner::default(), &branch("master"), &one, &two).await, Advance::Moved);
    let note = forge.landing_note(&one, &two).await.expect("master is checked out in the clone");
    let folders: Vec<&str> = note.left_behind.iter().map(|left| left.folder.as_str()).collect();
    assert_eq!(folders, [path.to_str().expect("text")]);
    assert!(note.text.contains(folders[0]) && !note.text.contains("linked"), "{}", note.text);
}

#[tokio::test]
async fn a_branch_in_the_place_of_all_task_branches_is_found_at_the_start() {
    let dir = folder();
    let path = clone_with_commit(dir.path(), "main");
    sh(&path, &["branch", "orch"]);
    let refused = LocalForge::open(&path, None, &git_rooms(dir.path()), &name()).await.expect_err("no task could land");
    assert!(refused.to_string().contains("branch -m orch NEW-NAME"), "{refused}");
    sh(&path, &["branch", "-m", "orch", "orchard"]);
    LocalForge::open(&path, None, &git_rooms(dir.path()), &name()).await.expect("it is out of the way");
}

// -------------------------------------------------------------------------------------------- a person's files

/// Every file (and the index) of a clone with its content, mode and times; history and objects may change.
fn picture(path: &Path) -> Vec<(PathBuf, String, u32, i64)> {
    let mut all = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let at = entry.expect("an entry").path();
            if at.is_dir() {
                if !at.ends_with(".git") {
                    folders.push(at);
                }
                continue;
            }
            all.push(seen(at));
        }
    }
    all.push(seen(path.join(".git/index")));
    all.push(seen(path.join(".git/HEAD")));
    all.sort();
    all
}

fn seen(at: PathBuf) -> (PathBuf, String, u32, i64) {
    let meta = std::fs::metadata(&at).expect("there");
    let hash = hex::encode(Sha256::digest(std::fs::read(&at).expect("bytes")));
    (at, hash, meta.mode(), meta.mtime_nsec())
}

#[tokio::test]
async fn a_dirty_checked_out_main_is_untouched_and_the_note_brings_its_files_along() {
    let dir = folder();
    let path = clone_with_commit(dir.path(), "main");
    sh(&path, &["config", "receive.denyCurrentBranch", "updateInstead"]);
    let forge = LocalForge::open(&path, None, &git_rooms(dir.path()), &name()).await.expect("a forge");
    let main = branch("main");
    let base = forge.git().fetch_main(&main).await.expect("fetched");
    // The person is in the middle of something: changed, staged, new.
    write(&path.join("b.txt"), "being changed\n");
    write(&path.join("staged.txt"), "staged\n");
    sh(&path, &["add", "staged.txt"]);
    write(&path.join("new file.txt"), "not known to git\n");
    let before = picture(&path);

    let one = work_on(forge.git(), &base, dir.path(), "a.txt", "ONE\ntwo\nthree\n").await;
    assert_eq!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Moved);
    let two = work_on(forge.git(), &one, dir.path(), "landed.txt", "landed\n").await;
    assert_eq!(forge.advance_main(&Owner::default(), &main, &one, &two).await, Advance::Moved);
    assert_eq!(picture(&path), before, "not a byte of the person's files changed");
    assert_eq!(sha_of(&path, "main"), two);

    // Two landings were missed: the command starts from where the files are, not from the last landing.
    let note = forge.landing_note(&one, &two).await.expect("a note");
    assert!(note.text.contains(&format!("read-tree -m -u {base} {two}")), "{}", note.text);
    assert!(note.text.contains(&note.left_behind[0].command), "{}", note.text);
    let command = note.left_behind[0].command.as_str();
    let run = |command: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", command]).env("GIT_CONFIG_GLOBAL", "/dev/null").output().expect("sh runs")
    };
    let done = run(command);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let read = |name: &str| std::fs::read_to_string(path.join(name)).expect("there");
    assert_eq!((read("a.txt"), read("landed.txt")), ("ONE\ntwo\nthree\n".to_owned(), "landed\n".to_owned()));
    assert_eq!((read("b.txt"), read("staged.txt")), ("being changed\n".to_owned(), "staged\n".to_owned()));
    assert_eq!(sh(&path, &["status", "--porcelain"]), "M b.txt\nA  staged.txt\n?? \"new file.txt\"");

    // Where it overlaps with local changes it refuses, and changes nothing.
    let three = work_on(forge.git(), &two, dir.path(), "b.txt", "landed too\n").await;
    assert_eq!(forge.advance_main(&Owner::default(), &main, &two, &three).await, Advance::Moved);
    let note = forge.landing_note(&two, &three).await.expect("a note");
    let command = note.left_behind[0].command.as_str();
    assert!(!run(command).status.success());
    assert_eq!(read("b.txt"), "being changed\n");
}

#[tokio::test]
async fn a_clean_clone_is_brought_along_and_nothing_is_said_when_it_is_there_already() {
    let dir = folder();
    let path = clone_with_commit(dir.path(), "main");
    let forge = LocalForge::open(&path, None, &git_rooms(dir.path()), &name()).await.expect("a forge");
    let main = branch("main");
    let base = forge.git().fetch_main(&main).await.expect("fetched");
    let one = work_on(forge.git(), &base, dir.path(), "a.txt", "changed\n").await;
    // On another branch there is nothing to say.
    sh(&path, &["checkout", "--quiet", "-b", "elsewhere"]);
    assert_eq!(forge.landing_note(&base, &one).await, None);
    sh(&path, &["checkout", "--quiet", "main"]);
    assert_eq!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Moved);
    // Files that were touched, but not changed, are no obstacle.
    write(&path.join("a.txt"), "one\ntwo\nthree\n");
    sh(&path, &["update-index", "-q", "--refresh"]);
    sh(&path, &["read-tree", "-m", "-u", base.as_str(), one.as_str()]);
    assert_eq!(sh(&path, &["status", "--porcelain"]), "");
    assert_eq!(forge.landing_note(&base, &one).await, None);
}

#[tokio::test]
async fn hooks_of_the_repository_run_and_may_refuse() {
    let dir = folder();
    let path = clone_with_commit(dir.path(), "main");
    let forge = LocalForge::open(&path, None, &git_rooms(dir.path()), &name()).await.expect("a forge");
    let main = branch("main");
    let base = forge.git().fetch_main(&main).await.expect("fetched");
    let one = work_on(forge.git(), &base, dir.path(), "a.txt", "changed\n").await;
    hook(&path.join(".git"), "update", "echo 'not on a Friday' >&2; exit 1");
    let refused = forge.advance_main(&Owner::default(), &main, &base, &one).await;
    assert!(matches!(&refused, Advance::Refused { why } if why.contains("not on a Friday")), "{refused:?}");
    assert_eq!(forge.head(&main).await.expect("an answer"), Some(base.clone()));
    hook(&path.join(".git"), "update", "exit 0");
    assert_eq!(forge.advance_main(&Owner::default(), &main, &base, &one).await, Advance::Moved);
}

#[tokio::test]
async fn a_forge_that_goes_away_leaves_the_outcome_unknown() {
    let dir = folder();
    let path = clone_with_commit(dir.path(), "main");
    let forge = LocalForge::open(&path, None, &git_rooms(dir.path()), &name()).await.expect("a forge");
    let main = branch("main");
    let base = forge.git().fetch_main(&main).await.expect("fetched");
    let one = work_on(forge.git(), &base, dir.path(), "a.txt", "changed\n").await;
    // It goes away in the middle: the hook takes the repository's main branch file from under the look.
    let away = dir.path().join("away");
    let script = format!("mv '{}' '{}'; exit 1", path.display(), away.display());
    hook(&path.join(".git"), "pre-receive", &script);
    let unknown = forge.advance_main(&Owner::default(), &main, &base, &one).await;
    assert!(matches!(unknown, Advance::Unknown { .. }), "{unknown:?}");
    assert!(forge.head(&main).await.is_err());
}

#[tokio::test]
async fn a_task_goes_all_the_way_and_its_branch_can_be_seen_by_people() {
    let dir = folder();
    let path = clone_with_commit(dir.path(), "main");
    let forge = LocalForge::open(&path, None, &git_rooms(dir.path()), &name()).await.expect("a forge");
    let main = branch("main");
    let base = forge.git().fetch_main(&main).await.expect("fetched");
    let head = work_on(forge.git(), &base, dir.path(), "task.txt", "done\n").await;
    write(&path.join("b.txt"), "a person was faster\n");
    let persons = commit_all(&path, "A person's");
    assert_eq!(forge.git().fetch_main(&main).await.expect("fetched"), persons);
    let spec = CatchUpSpec {
        task: "t0a1b2".parse::<TaskId>().expect("an id"),
        at: Timestamp(1_800_000_000_000),
        merge_message: "Merge\n".to_owned(),
    };
    let caught = forge.git().catch_up(&head, &persons, &spec).await.expect("caught up");
    let CatchUp::Rebased { head, .. } = caught else { panic!("{caught:?}") };
    let mine: BranchName = branch("orch/orc-1/1");
    let mine = TaskBranch::new(mine, &forge.protected().await.expect("known")).expect("ours");
    assert_eq!(forge.git().push_task_branch(&mine, &head, None).await.expect("pushed"), BranchPush::Pushed);
    assert!(sh(&path, &["branch", "--list", "orch/*"]).contains("orch/orc-1/1"));
    assert_eq!(forge.advance_main(&Owner::default(), &main, &persons, &head).await, Advance::Moved);
    assert_eq!(sh(&path, &["show", "main:task.txt"]), "done");
    // A person who has it checked out keeps it.
    sh(&path, &["checkout", "--quiet", "--force", "orch/orc-1/1"]);
    let next = work_on(forge.git(), &head, dir.path(), "task.txt", "more\n").await;
    let kept = forge.git().push_task_branch(&mine, &next, Some(&head)).await.expect("an answer");
    assert!(matches!(kept, BranchPush::Refused { .. }), "{kept:?}");
    assert!(person(&path, &["rev-parse", "HEAD"]).status.success());
}
