//! Real repositories as they come, and names from outside that must not get further than the door.

use std::path::{Path, PathBuf};

use orch_actors::api::Submit;
use orch_domain::ids::Seq;
use orch_domain::names::TaskKey;
use orch_domain::task::Status;
use orch_domain::view::TaskView;

use crate::world::{GREEN, Setup, World, commit_file, git, git_init};

const CHECK: &str = "echo '3 passed, 0 failed'\n";
const GOOD: &str = "attempts:\n- - write: {path: good.txt, content: x}\n  - commit: {message: Add a file}\n";

fn good() -> Setup {
    Setup::default().agent("good", GOOD)
}

fn begin(repo: &Path) {
    git_init(repo);
    commit_file(repo, "check.sh", CHECK, "Begin");
}

async fn lands(world: &World, main: &str) -> TaskView {
    let task = world.submit("Add a file").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["show", &format!("{main}:good.txt")]), "x");
    assert_eq!(Some(world.git(&["rev-parse", main])), done.task.landed.map(|l| l.sha.to_string()));
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_whose_default_branch_is_master_is_landed_on_master() {
    let world = good()
        .open_over("repo", |repo| {
            begin(repo);
            git(repo, &["branch", "--quiet", "-m", "main", "master"]);
        })
        .await;
    let task = lands(&world, "master").await;
    assert_eq!(world.git(&["for-each-ref", "--format=%(refname)", "refs/heads"]), "refs/heads/master");
    assert_eq!(world.look(&task).await.task.main.expect("known after a run").as_str(), "master");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_journal_and_reports_name_the_branch_that_there_is() {
    let script = "attempts:
- - write: {path: shared.txt, content: \"mine\\n\"}
  - commit: {message: My line, allow_empty: true}
- - expect_prompt: 'conflicts with master at'
  - expect_prompt: '`origin/master`'
  - run: {cmd: \"git merge -q origin/master\", may_fail: true}
  - write: {path: shared.txt, content: \"both\\n\"}
  - run: {cmd: \"git add -A && git commit -q -m 'Resolve'\"}
";
    let world = Setup::default()
        .agent("mine", script)
        .tests_wait_for("go", GREEN)
        .open_over("repo", |repo| {
            begin(repo);
            git(repo, &["branch", "--quiet", "-m", "main", "master"]);
        })
        .await;
    let task = world.submit("Write my line").await;
    world.until_test_run(&task, 1).await;
    commit_file(&world.repo, "shared.txt", "theirs\n", "Their line");
    world.give("go");
    world.expect_status(&task, Status::Done).await;
    assert_eq!(world.git(&["show", "master:shared.txt"]), "both");

    let reports = files_below(&world.data().join("reports"));
    let mut read: Vec<String> = reports.iter().map(|file| std::fs::read_to_string(file).expect("text")).collect();
    assert!(read.iter().any(|report| report.contains("conflicts with master at")), "{reports:?}");
    // A kind is a word of ours, as a state is.
    read.extend(world.journal(&task).await.into_iter().map(|line| line.split_once(": ").expect("a kind").1.to_owned()));
    for text in read {
        let names_it = |line: &&str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "main");
        let wrong: Vec<&str> = text.lines().filter(names_it).collect();
        assert!(wrong.is_empty(), "there is no such branch: {wrong:#?}");
    }
    world.close().await;
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("readable").flatten().map(|e| e.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_three_thousand_files_is_worked_on() {
    let world = good()
        .open_over("repo", |repo| {
            begin(repo);
            for n in 0..3_000 {
                let file = repo.join(format!("dir{}/file{n}.txt", n % 60));
                std::fs::create_dir_all(file.parent().expect("a parent")).expect("folders");
                std::fs::write(file, format!("{n}\n")).expect("written");
            }
            git(repo, &["add", "-A"]);
            git(repo, &["commit", "--quiet", "-m", "Many files"]);
        })
        .await;
    lands(&world, "main").await;
    assert_eq!(world.git(&["ls-tree", "-r", "--name-only", "main"]).lines().count(), 3_002);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_spaces_quotes_and_letters_of_other_alphabets_is_a_path() {
    let world = good().open_over("mein 'répo' 日本 $x", begin).await;
    lands(&world, "main").await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checked_out_main_with_changes_keeps_every_byte_and_a_note_says_what_happened() {
    let world = good()
        .open_over("repo", |repo| {
            begin(repo);
            commit_file(repo, "tracked.txt", "as committed\n", "Track a file");
            std::fs::write(repo.join("tracked.txt"), "changed by a person\n").expect("written");
            std::fs::write(repo.join("staged.txt"), "staged\n").expect("written");
            git(repo, &["add", "staged.txt"]);
            std::fs::write(repo.join("untracked.txt"), "untracked\n").expect("written");
        })
        .await;
    let files = |repo: &Path| -> Vec<(String, Vec<u8>)> {
        let mut found: Vec<_> = std::fs::read_dir(repo)
            .expect("a folder")
            .flatten()
            .filter(|e| e.path().is_file())
            .map(|e| (e.file_name().to_string_lossy().into_owned(), std::fs::read(e.path()).expect("read")))
            .collect();
        found.push(("index".to_owned(), std::fs::read(repo.join(".git/index")).expect("an index")));
        found.sort();
        found
    };
    let before = files(&world.repo);
    let task = lands_unseen(&world).await;
    assert_eq!(files(&world.repo), before, "files or index of the person were touched");
    world.expect_journal(&task, &["landing-note", "is checked out in", "read-tree"]).await;
    world.close().await;
}

/// Lands without any git command in the repository in between, since even `git status` may write the index.
async fn lands_unseen(world: &World) -> TaskView {
    let task = world.submit("Add a file").await;
    world.expect_status(&task, Status::Done).await;
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_stay_as_they_are() {
    let world = good()
        .open_over("repo", |repo| {
            let part = repo.with_file_name("part");
            begin(&part);
            begin(repo);
            let url = part.to_str().expect("a path in UTF-8");
            git(repo, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", url, "part"]);
            git(repo, &["commit", "--quiet", "-m", "Add a part"]);
        })
        .await;
    let before = world.git(&["ls-tree", "main", "part"]);
    assert!(before.starts_with("160000 commit"), "{before}");
    let task = lands(&world, "main").await;
    assert_eq!(world.git(&["ls-tree", "main", "part"]), before);
    let journal = world.control().journal(task.id.as_str(), Seq(0), 500).await.expect("a journal");
    let told: Vec<&str> =
        journal.iter().filter(|r| r.entry.kind == "submodules").map(|r| r.entry.text.as_str()).collect();
    assert!(matches!(told[..], [text] if text.contains("are not fetched") && text.contains(": part;")), "{told:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_usable_repository_is_refused_with_the_value_and_the_way_out() {
    let empty = good().refused_over(git_init).await;
    assert!(empty.contains("/repo`") && empty.contains("has no commit yet; make a first one"), "{empty}");
    let none = good().refused_over(|_| {}).await;
    assert!(none.contains("/repo`") && none.contains("there is no such folder"), "{none}");
    let folder = good().refused_over(|repo| std::fs::create_dir_all(repo).expect("a folder")).await;
    assert!(folder.contains("is not a git repository") && folder.contains("git init"), "{folder}");
    let file = good().refused_over(|repo| std::fs::write(repo, "x").expect("a file")).await;
    assert!(file.contains("it is a file"), "{file}");
    let detached = good()
        .refused_over(|repo| {
            begin(repo);
            git(repo, &["checkout", "--quiet", "--detach"]);
        })
        .await;
    assert!(detached.contains("detached at") && detached.contains("setting `main`"), "{detached}");
    let unknown = good().repo(|r| r.main = Some("trunk".parse().expect("a branch"))).refused_over(begin).await;
    assert!(unknown.contains("has no branch `trunk`; it has: main"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_head_is_fine_where_the_settings_name_main() {
    let world = good()
        .repo(|r| r.main = Some("main".parse().expect("a branch")))
        .open_over("repo", |repo| {
            begin(repo);
            git(repo, &["checkout", "--quiet", "--detach"]);
        })
        .await;
    lands(&world, "main").await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_from_outside_that_try_to_escape_are_refused_and_nothing_is_stored() {
    let world = good().open().await;
    let long = "k".repeat(300);
    for bad in ["../x", "a/../../x", "-x", "--upload-pack=x", "a\u{0}b", "a\u{7}b", "", ".", "..", ".git", &long] {
        let json = serde_json::json!({"title": "x", "key": bad}).to_string();
        let refused = serde_json::from_str::<Submit>(&json).expect_err(bad).to_string();
        assert!(refused.contains("is refused") && refused.len() < 600, "{bad:?}: {refused}");
    }
    for bad in ["../x", "-x", "a b", "x/../../y"] {
        let json = serde_json::json!({"title": "x", "repo": bad}).to_string();
        assert!(serde_json::from_str::<Submit>(&json).is_err(), "repository {bad:?}");
    }
    let asked = [
        Submit { title: "a\u{0}b".to_owned(), ..Submit::default() },
        Submit { title: "  ".to_owned(), ..Submit::default() },
        Submit { title: "x".repeat(501), ..Submit::default() },
        Submit { title: "x".to_owned(), body: "x".repeat((256 << 10) + 1), ..Submit::default() },
        Submit { title: "x".to_owned(), pipeline: Some("../../etc/passwd".to_owned()), ..Submit::default() },
        Submit { title: "x".to_owned(), agent: Some("nobody".to_owned()), ..Submit::default() },
    ];
    for submit in asked {
        let refused = world.control().submit(submit, "test").await.expect_err("refused");
        assert!(matches!(refused, orch_actors::api::ControlError::Invalid(_)), "{refused:?}");
    }
    assert!(world.control().tasks(Default::default()).await.expect("a list").is_empty());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keys_that_look_alike_in_a_path_get_branches_and_workspaces_of_their_own() {
    let script = "attempts:\n- - run: {cmd: \"pwd > \\\"$ORCH_TASK.txt\\\" && git branch --show-current >> \\\"$ORCH_TASK.txt\\\" && git add -A && git commit -q -m x\"}\n";
    let world = Setup::default().agent("quick", script).open().await;
    let mut tasks = Vec::new();
    for key in ["A.1", "A_1", "A-1"] {
        let key: TaskKey = key.parse().expect("a key");
        tasks.push(world.submit_as(Submit { title: "x".to_owned(), key: Some(key), ..Submit::default() }).await);
    }
    let mut seen = std::collections::BTreeSet::new();
    for task in &tasks {
        let done = world.expect_status(task, Status::Done).await;
        let text = world.git(&["show", &format!("main:{}.txt", task.key)]);
        let (folder, branch) = text.split_once('\n').expect("a folder and a branch");
        assert_eq!(branch, done.task.branch.as_str());
        assert!(seen.insert(folder.to_owned()) && seen.insert(branch.to_owned()), "shared: {text}");
    }
    world.close().await;
}
