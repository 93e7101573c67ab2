//! What is done by the library, to spare a process, comes out as git would do it; and what is not plain is left to git.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use git2::{FileMode, ObjectType, Oid, Repository};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::git::plain_checkout::check_out;
use crate::git::plain_merge::plain_merge;
use crate::ports::{JobError, JobSpec};

/// Counts the processes.
struct Counted(Arc<AtomicUsize>);

#[async_trait]
impl Exec for Counted {
    async fn run(&self, spec: JobSpec) -> Result<ExecOutput, JobError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        DirectExec.run(spec).await
    }
}

/// The world's repositories once more, with a count of the processes.
async fn counted(world: &World) -> (RepoGit, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let exec: Arc<dyn Exec> = Arc::new(Counted(count.clone()));
    let rooms = GitRooms::new(world.dir.path().join("data dir é/repos"), exec, GitSettings::default());
    let git = rooms.open(&"repo".parse().expect("name"), world.git.remote().clone()).await.expect("opened");
    count.store(0, Ordering::SeqCst);
    (git, count)
}

/// Puts the forge's main at a commit of work, as a landing does.
fn land(world: &World, head: &CommitSha) {
    let to = format!("{head}:refs/heads/main");
    sh(&world.git.work(), &["push", "--quiet", world.forge().to_str().expect("text"), &to]);
}

/// Whether upstream has all of its main by itself, and every object is sound.
fn upstream_is_whole(world: &World) -> bool {
    let fsck = person(&world.git.upstream(), &["fsck", "--full", "--strict", "--connectivity-only"]);
    let sound = person(&world.git.upstream(), &["fsck", "--full", "--strict"]);
    fsck.status.success() && sound.status.success()
}

#[tokio::test]
async fn what_we_landed_comes_to_upstream_and_into_checkouts_without_a_process() {
    let world = World::new().await;
    let base = world.base().await;
    let head = world
        .worked("w", &base, |dir| {
            write(&dir.join("deep/er/b.txt"), "b");
            commit_all(dir, "Write b");
            write(&dir.join("a.txt"), "other\n");
            std::fs::rename(dir.join("deep"), dir.join("else")).expect("moved");
            merged_branch(dir);
            commit_all(dir, "Change a");
        })
        .await;
    let (git, count) = counted(&world).await;
    let checkout = git.checkout(&head, &world.at("gate"), Some((&branch("main"), &base))).await.expect("a checkout");
    assert_eq!(count.load(Ordering::SeqCst), 0, "a small and plain tree needs no process");
    assert_eq!(sh(&checkout.dir, &["status", "--porcelain", "--ignored"]), "");
    assert_eq!(sh(&checkout.dir, &["rev-parse", "HEAD"]), head.as_str());
    assert_eq!(sh(&checkout.dir, &["rev-parse", "HEAD^{tree}"]), checkout.tree);
    assert_eq!(sh(&checkout.dir, &["log", "--format=%s", "-1", "origin/main"]), "Begin");
    sh(&checkout.dir, &["fsck", "--full", "--strict"]);
    land(&world, &head);
    assert_eq!(git.fetch_main(&branch("main")).await.expect("main"), head);
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert!(upstream_is_whole(&world));
    assert_eq!(sh(&world.git.upstream(), &["rev-parse", "main"]), head.as_str());
    // What somebody else pushed has to be fetched.
    let theirs = {
        sh(&world.person(), &["pull", "--quiet", "origin", "main"]);
        world.main_moves("z.txt", "z").await
    };
    assert_eq!(git.fetch_main(&branch("main")).await.expect("main"), theirs);
    assert!(upstream_is_whole(&world));
}

#[tokio::test]
async fn what_is_much_or_not_whole_in_work_is_fetched_from_the_forge() {
    let world = World::new().await;
    let base = world.base().await;
    let much = world
        .worked("w", &base, |dir| {
            for n in 0..300 {
                write(&dir.join(format!("many/{n}.txt")), format!("{n}\n"));
            }
        })
        .await;
    let (git, count) = counted(&world).await;
    land(&world, &much);
    assert_eq!(git.fetch_main(&branch("main")).await.expect("main"), much);
    assert_eq!(count.swap(0, Ordering::SeqCst), 1, "git's to move");
    assert!(upstream_is_whole(&world));
    let (more, blob) = {
        let work = Repository::open_bare(world.git.work()).expect("work");
        let parent = work.find_commit(Oid::from_str(much.as_str()).expect("an id")).expect("landed");
        let made = commit(&work, &Files::from([("lost".to_owned(), (0, Some(false)))]), &[&parent]);
        let blob = made.tree().expect("a tree").get_name("lost").expect("there").id().to_string();
        (made.id().to_string().parse::<CommitSha>().expect("an id"), blob)
    };
    land(&world, &more);
    std::fs::remove_file(world.git.work().join("objects").join(&blob[..2]).join(&blob[2..])).expect("a loose object");
    assert_eq!(git.fetch_main(&branch("main")).await.expect("main"), more);
    assert_eq!(count.load(Ordering::SeqCst), 1, "git's to move");
    assert!(upstream_is_whole(&world));
}

/// What is in a checkout besides git's own folder: mode, and content or target.
fn found(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let (mut all, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("there");
            let name = path.strip_prefix(dir).expect("below it").to_owned();
            if name == Path::new(".git") {
                continue;
            }
            let what = match () {
                () if meta.is_dir() => Vec::new(),
                () if meta.is_symlink() => path.read_link().expect("a link").as_os_str().as_bytes().to_vec(),
                () => std::fs::read(&path).expect("a file"),
            };
            if meta.is_dir() {
                folders.push(path);
            }
            all.insert(name, (meta.mode(), what));
        }
    }
    all
}

#[test]
fn whatever_is_checked_out_without_git_is_what_git_makes_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let bare = dir.path().join("bare");
    let repo = Repository::init_bare(&bare).expect("a repository");
    let (rounds, plain) = (std::cell::Cell::new(0_u32), std::cell::Cell::new(0_u32));
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&prop::collection::vec(edit(), 1..14), |edits| {
        rounds.set(rounds.get() + 1);
        let files = after(Files::new(), &edits);
        let made = commit(&repo, &files, &[]);
        let [ours, gits] = ["ours", "gits"].map(|who| dir.path().join(format!("{who}{}", rounds.get())));
        for tree in [&ours, &gits] {
            let bare = bare.to_str().expect("text");
            sh(dir.path(), &["clone", "--quiet", "--shared", "--no-checkout", bare, tree.to_str().expect("text")]);
        }
        let id = made.id().to_string();
        sh(&gits, &["checkout", "--quiet", "--detach", &id]);
        if check_out(&repo, made.tree_id(), &ours).expect("made") {
            plain.set(plain.get() + 1);
            write(&ours.join(".git/HEAD"), format!("{id}\n"));
            prop_assert_eq!(found(&ours), found(&gits));
            prop_assert_eq!(sh(&ours, &["status", "--porcelain", "--ignored"]), "");
            let listed = |tree: &Path| sh(tree, &["ls-files", "--stage"]);
            prop_assert_eq!(listed(&ours), listed(&gits));
            // Nothing has to be read again to see that nothing has changed.
            prop_assert_eq!(sh(&ours, &["diff-files", "--name-only"]), "");
        }
        Ok(())
    });
    outcome.expect("the same");
    assert_eq!(plain.get(), rounds.get(), "all of these are small and plain");
}

#[tokio::test]
async fn a_checkout_that_is_not_small_or_not_plain_is_left_to_git() {
    let world = World::new().await;
    let base = world.base().await;
    for name in ["many", "large", "attributes", "foreign"] {
        let head = world
            .worked(name, &base, |dir| {
                write(&dir.join("sub/c.txt"), "one\ntwo\n");
                match name {
                    "many" => (0..401).for_each(|n| write(&dir.join(format!("many/{n}")), "x")),
                    "large" => write(&dir.join("large"), vec![b'x'; (4 << 20) + 1]),
                    "attributes" => write(&dir.join("sub/.gitattributes"), "*.txt text eol=crlf\n"),
                    _ => write(&dir.join("b\u{e4}r"), "x"),
                }
            })
            .await;
        let (git, count) = counted(&world).await;
        let checkout = git
            .checkout(&head, &world.at(&format!("gate-{name}")), Some((&branch("main"), &base)))
            .await
            .expect("a checkout");
        assert_eq!(count.load(Ordering::SeqCst), 1, "{name} is git's to make, in one job");
        assert_eq!(sh(&checkout.dir, &["status", "--porcelain"]), "");
        let text = std::fs::read_to_string(checkout.dir.join("sub/c.txt")).expect("there");
        assert_eq!(text, if name == "attributes" { "one\r\ntwo\r\n" } else { "one\ntwo\n" });
    }
}

#[tokio::test]
async fn a_kept_handle_sees_what_came_and_what_was_packed_meanwhile_and_goes_when_nobody_asks() {
    let world = World::new().await;
    let base = world.base().await;
    let tree = world.git.tree_of(&base).await.expect("a tree");
    assert!(world.git.handles.count() > 0, "nothing is kept");
    for n in 0..3 {
        // Another process brings objects and refs, and packs take the place of those that the handle has open.
        let main = world.main_moves(&format!("{n}.txt"), "x").await;
        for repo in [world.git.upstream(), world.git.work()] {
            sh(&repo, &["repack", "--quiet", "-a", "-d"]);
            sh(&repo, &["pack-refs", "--all"]);
        }
        assert_eq!(world.git.fetch_main(&branch("main")).await.expect("main"), main);
        assert!(world.git.contains(&base, &main).await.expect("known"));
        assert_eq!(world.git.tree_of(&base).await.expect("a tree"), tree);
    }
    let err = world.git.tree_of(&"1".repeat(40).parse().expect("an id")).await.expect_err("no such commit");
    assert!(matches!(err, GitError::NoSuchCommit { .. }), "{err}");
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
    let gone = async {
        while world.git.handles.count() > 0 {
            looks.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("handles are thrown away");
}

/// The files of a commit: content, and whether it is a program (`Some`) or a link (`None`).
type Files = BTreeMap<String, (u8, Option<bool>)>;

/// What one side does.
#[derive(Clone, Debug)]
enum Edit {
    Put(String, u8, Option<bool>),
    Remove(String),
    Move(String, String),
}

fn path() -> impl Strategy<Value = String> {
    // Few names, so that sides meet: also a file where the other has a folder.
    prop::sample::select(vec!["a", "b", "b.c", "b/a", "b/c", "d/a", "d/b/a", "d/b/c", "e/a", "e/b/a"])
        .prop_map(str::to_owned)
}

fn edit() -> impl Strategy<Value = Edit> {
    let kind = prop::sample::select(vec![Some(false), Some(false), Some(false), Some(true), None]);
    prop_oneof![
        8 => (path(), 0_u8..6, kind).prop_map(|(path, text, kind)| Edit::Put(path, text, kind)),
        1 => path().prop_map(Edit::Remove),
        1 => (path(), path()).prop_map(|(from, to)| Edit::Move(from, to)),
    ]
}

/// A file takes the place of what is in its way, as it would in a working tree.
fn put(files: &mut Files, path: &str, what: (u8, Option<bool>)) {
    files.retain(|other, _| !other.starts_with(&format!("{path}/")) && !path.starts_with(&format!("{other}/")));
    files.insert(path.to_owned(), what);
}

fn after(mut files: Files, edits: &[Edit]) -> Files {
    for edit in edits {
        match edit {
            Edit::Put(path, text, kind) => put(&mut files, path, (*text, *kind)),
            Edit::Remove(path) => drop(files.remove(path)),
            Edit::Move(from, to) => {
                if let Some(what) = files.remove(from) {
                    put(&mut files, to, what);
                }
            }
        }
    }
    files
}

fn commit<'r>(repo: &'r Repository, files: &Files, parents: &[&git2::Commit<'_>]) -> git2::Commit<'r> {
    let mut index = git2::Index::new().expect("an index");
    for (path, (text, kind)) in files {
        // Long enough to be found again where it was moved to.
        let bytes = match kind {
            Some(_) => (0..20).map(|line| format!("line {line} of {text}\n")).collect::<String>(),
            None => format!("target{text}"),
        };
        let mode = match kind {
            Some(false) => FileMode::Blob,
            Some(true) => FileMode::BlobExecutable,
            None => FileMode::Link,
        };
        let id = repo.odb().expect("objects").write(ObjectType::Blob, bytes.as_bytes()).expect("written");
        let time = git2::IndexTime::new(0, 0);
        let (mode, path) = (u32::try_from(i32::from(mode)).expect("a mode"), path.as_bytes().to_vec());
        let (dev, ino, uid, gid, file_size, flags, flags_extended) = (0, 0, 0, 0, 0, 0, 0);
        let entry = git2::IndexEntry {
            ctime: time,
            mtime: time,
            dev,
            ino,
            mode,
            uid,
            gid,
            file_size,
            id,
            flags,
            flags_extended,
            path,
        };
        index.add(&entry).expect("added");
    }
    let tree = repo.find_tree(index.write_tree_to(repo).expect("a tree")).expect("there");
    let who = git2::Signature::new("A", "a@b", &git2::Time::new(0, 0)).expect("somebody");
    repo.find_commit(repo.commit(None, &who, &who, "x", &tree, parents).expect("made")).expect("there")
}

#[test]
fn whatever_is_merged_without_git_is_what_git_makes_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let repo = Repository::init_bare(dir.path()).expect("a repository");
    let plain = std::cell::Cell::new(0_u32);
    let edits = |most| prop::collection::vec(edit(), 0..most);
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(edits(12), edits(3), edits(3)), |(first, here, there)| {
        let start = after(Files::new(), &first);
        let base = commit(&repo, &start, &[]);
        let ours = commit(&repo, &after(start.clone(), &here), &[&base]);
        let theirs = commit(&repo, &after(start, &there), &[&base]);
        let merged = plain_merge(&repo, [&base, &ours, &theirs]).expect("an answer");
        let args = ["merge-tree", "--write-tree", "-z", "--name-only", "--no-messages"];
        let ids = [ours.id().to_string(), theirs.id().to_string()];
        let out = person(dir.path(), &[&args[..], &[ids[0].as_str(), ids[1].as_str()]].concat());
        if let Some(tree) = merged {
            plain.set(plain.get() + u32::from(here.len() + there.len() > 1));
            let said = String::from_utf8_lossy(&out.stdout);
            let by_git = Oid::from_str(said.split('\0').next().unwrap_or_default()).ok();
            prop_assert_eq!((out.status.code(), by_git), (Some(0), Some(tree)));
        }
        Ok(())
    });
    outcome.expect("the same");
    assert!(plain.get() > 30, "only {} of the cases were plain", plain.get());
}
