//! The security gate in the whole: what it costs a task, what the next prompt says, what happens when it cannot run, and
//! that nothing else changes where it is off. Asked by hand, too, and by git before a push.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use orch::config::SecretEngine;
use orch_domain::stop::StopStep;
use orch_domain::task::Status;
use sha2::{Digest as _, Sha256};

use crate::world::{GREEN, Setup, World, commit_file, git, git_init};

/// A made-up token in a well-known format.
fn token() -> String {
    format!("ghp_{}{}", "x7Kq2Lm9Pz4Rt6Vw8Y", "b1Nc3Df5Gh0JsAeUiQ")
}

/// Commits the token; sent back, it rewrites its history.
fn careless() -> String {
    format!(
        "attempts:
- - write: {{path: keys.txt, content: \"first\\nkey = {token}\\n\"}}
  - commit: {{message: Add the key}}
  - write: {{path: keys.txt, content: \"first\\n\"}}
  - commit: {{message: Take it out again}}
- - expect_prompt: \"`keys.txt`, line 2\"
  - expect_prompt: rewritten
  - refuse_prompt: {token}
  - run: {{cmd: git reset --quiet --soft HEAD~2}}
  - write: {{path: keys.txt, content: \"none\\n\"}}
  - commit: {{message: Do without a key}}
",
        token = token()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_back_with_the_findings_and_lands_when_history_is_free_of_it() {
    let world = Setup::default().agent("careless", &careless()).open().await;
    let task = world.submit("Add the key").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    assert_eq!(world.git(&["show", "main:keys.txt"]), "none");
    assert!(!world.git(&["log", "--all", "--patch"]).contains(&token()), "the history is free of it");
    for entry in ["gate-failed: the security gate failed: 1 secret in", "gate-passed: no secret in 1 commit with"] {
        world.expect_journal(&task, &[entry]).await;
    }
    assert!(!world.journal(&task).await.join("\n").contains(&token()), "the journal does not tell it");
    let gates = world.proof(&task).await["gates"].clone();
    let security =
        gates.as_array().expect("a list").iter().find(|gate| gate["gate"] == "security").expect("in the proof");
    let report = world.report_of(security);
    assert_eq!(security["report_sha256"], hex(&report));
    assert!(report.contains("security_status: passed") && report.contains("name: builtin"), "{report}");
    let view = world.control().queue().await.expect("a view").security;
    assert_eq!((view.engine.as_str(), view.tally.failed), ("builtin", 1));
    assert!(view.tally.passed >= 1 && view.tally.last.is_some_and(|last| last.verdict == "passed"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_learn_is_blocked_in_the_end() {
    let script = format!(
        "attempts:
- - append: {{path: keys.txt, content: \"key = {}\\n\"}}
  - commit: {{message: Add the key}}
",
        token()
    );
    let world = Setup::default().agent("stubborn", &script).limits(|l| l.max_developer_retries = 1).open().await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Add the key").await;
    let blocked = world.expect_blocked(&task, "in what this branch brings").await;
    assert_eq!(blocked.task.attempts.developer_retries, 1);
    assert_eq!(world.git(&["rev-parse", "main"]), before, "nothing landed");
    world.close().await;
}

fn hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_cannot_run_costs_no_retry_and_blocks_in_the_end() {
    let script = "attempts:\n- - write: {path: good.txt, content: x}\n  - commit: {message: Do it well}\n";
    let world = Setup::default()
        .agent("good", script)
        .limits(|l| l.infrastructure_retries = 2)
        .config(|c| {
            c.gates.security.engine = SecretEngine::Gitleaks;
            c.gates.security.gitleaks = "no-such-program".to_owned();
        })
        .open()
        .await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Add a file").await;
    let blocked = world.expect_blocked(&task, "was not found").await;
    assert_eq!(blocked.task.attempts.developer_retries, 0);
    assert_eq!(world.git(&["rev-parse", "main"]), before, "nothing landed");
    world.close().await;
}

/// The journal without what differs from run to run.
fn shape(journal: &[String]) -> Vec<String> {
    let without_ids = |line: &String| {
        let differs = |word: &str| word.chars().any(|c| c.is_ascii_digit() || c == '/');
        let words = line.split_whitespace().map(|word| if differs(word) { "#" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    journal.iter().map(without_ids).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_or_out_of_scope_nothing_else_changes() {
    let script = "attempts:\n- - write: {path: good.txt, content: x}\n  - commit: {message: Do it well}\n";
    let mut shapes = Vec::new();
    for (enabled, everywhere) in [(true, true), (false, true), (true, false)] {
        let setup = Setup::default().agent("good", script).config(move |c| {
            c.gates.security.enabled = enabled;
            if !everywhere {
                c.gates.security.repos.clear();
            }
        });
        let world = setup.open().await;
        let task = world.submit("Add a file").await;
        world.expect_status(&task, Status::Done).await;
        let journal = world.journal(&task).await;
        let off = world.proof(&task).await["switched_off"].clone();
        let says_so = off.as_array().is_some_and(|off| off.iter().any(|gate| gate == "security"));
        assert_eq!(says_so, !enabled, "the proof names what the operator switched off: {off}");
        shapes.push(shape(&journal));
        world.close().await;
    }
    assert_eq!(shapes[1], shapes[2], "off and out of scope are the same");
    assert!(!shapes[1].iter().any(|line| line.contains("security")), "{:?}", shapes[1]);
    // With the gate there is only more: its own entries and those of the step that it takes.
    let mut rest = shapes[0].iter();
    let missing: Vec<&String> = shapes[1].iter().filter(|line| !rest.any(|other| other == *line)).collect();
    assert!(missing.is_empty(), "changed by the gate: {missing:?}\n{:#?}\n{:#?}", shapes[0], shapes[1]);
}

/// Lets every test run go on that waits in its checkout.
fn let_go(world: &World) {
    for entry in std::fs::read_dir(world.data().join("checkouts")).into_iter().flatten().flatten() {
        let tree = entry.path().join("tree");
        if tree.is_dir() {
            std::fs::write(tree.join("go"), "").expect("written");
        }
    }
}

fn reports_below(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(reports_below(&path, name)),
            path if path.file_name().is_some_and(|leaf| leaf == name) => found.push(path),
            _ => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_changed_between_verdict_and_landing_lands_nothing() {
    let script = "attempts:\n- - write: {path: good.txt, content: x}\n  - commit: {message: Do it well}\n";
    let world = Setup::default()
        .agent("good", script)
        .repo(|r| r.commands.test = Some("until test -e go; do sleep 0.02; done; echo '1 passed, 0 failed'".to_owned()))
        .open_bare()
        .await;
    let task = world.submit("Add a file").await;
    world.until_test_run(&task, 1).await;
    // Main moves, so that the lane has to test again what it has caught up.
    let theirs = world.person_pushes("theirs.txt", "x\n", "Theirs");
    world
        .wait_for("the lane's own test run", async || {
            let again = world.test_runs(&task).await >= 2;
            if !again {
                let_go(&world);
            }
            again.then_some(())
        })
        .await;
    let tampered = reports_below(&world.data().join("reports"), "17-security-report.md");
    assert!(!tampered.is_empty(), "the gate has spoken");
    for report in &tampered {
        let text = std::fs::read_to_string(report).expect("readable");
        std::fs::write(report, format!("{text}\nAll is well.\n")).expect("written");
    }
    world
        .wait_for("the landing to be given up", async || {
            let_go(&world);
            let journal = world.journal(&task).await.join("\n");
            journal.contains("does not stand any more").then_some(())
        })
        .await;
    let done = world
        .wait_for("the landing in the end", async || {
            let_go(&world);
            Some(world.look(&task).await).filter(|detail| detail.task.status == Status::Done)
        })
        .await;
    assert_ne!(done.task.landed.expect("landed in the end").sha.as_str(), theirs);
    // Of what was caught up, only the objects that this made were looked at: its commit, and no file.
    let on_theirs = format!("security on {}: no secret in 1 commit with 0 new file versions", &theirs[..10]);
    assert!(world.journal(&task).await.join("\n").contains(&on_theirs), "{on_theirs}");
    // What it landed on in the end are reports that were made again.
    let proof = world.proof(&task).await;
    for gate in proof["gates"].as_array().expect("a list").iter().filter(|gate| gate["gate"] == "security") {
        let text = world.report_of(gate);
        assert_eq!(gate["report_sha256"], hex(&text));
        assert!(!text.contains("All is well."), "{text}");
    }
    world.close().await;
}

/// Neither side has the whole of it; the file that the catch-up makes of both does.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_catch_up_puts_together_goes_back_before_anything_lands() {
    let script = "attempts:
- - append: {path: notes.txt, content: \"END OF KEY\\n\"}
  - commit: {message: Add the second half}
- - expect_prompt: does not pass the security gate
  - expect_prompt: \"`notes.txt`\"
  - run: {cmd: git reset --quiet --soft origin/main}
  - run: {cmd: git checkout --quiet origin/main -- notes.txt}
  - write: {path: other.txt, content: x}
  - commit: {message: Do without it}
";
    let world = Setup::default().agent("half", script).tests_wait_for("go", GREEN).open_bare().await;
    let rule = "[[rules]]\nid = \"whole-key\"\nregex = '''BEGIN[ ]OF KEY[\\s\\S]{1,200}END[ ]OF KEY'''\n";
    world.person_pushes(".gitleaks.toml", rule, "Name what a key looks like");
    let lines: String = (1..10).map(|n| format!("line {n}\n")).collect();
    world.person_pushes("notes.txt", &lines, "Take notes");
    let task = world.submit("Add a half").await;
    world.until_test_run(&task, 1).await;
    let theirs = world.person_pushes("notes.txt", &format!("BEGIN OF KEY\n{lines}"), "Add the first half");
    world.give("go");
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    world.expect_journal(&task, &["sent-back: sent back from deploy to development", "security gate"]).await;
    assert!(!world.git(&["log", "--patch", "--all"]).contains("END OF KEY"), "the half is nowhere at the forge");
    let notes = world.git(&["show", "main:notes.txt"]);
    assert!(notes.starts_with("BEGIN OF KEY") && notes.ends_with("line 9"), "{notes}");
    assert_eq!(world.git(&["rev-parse", "main^"]), theirs);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_the_gate_is_a_stop() {
    let script = "attempts:\n- - write: {path: good.txt, content: x}\n  - commit: {message: Do it well}\n";
    let root = tempfile::tempdir().expect("a folder");
    let hanging = root.path().join("gitleaks");
    std::fs::write(&hanging, "#!/bin/sh\n[ \"$1\" = version ] || exec tail -f /dev/null\necho 9.9.9\n")
        .expect("written");
    std::fs::set_permissions(&hanging, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let program = hanging.to_string_lossy().into_owned();
    let world = Setup::default()
        .agent("good", script)
        .config(move |c| {
            c.gates.security.engine = SecretEngine::Gitleaks;
            c.gates.security.gitleaks = program;
        })
        .open()
        .await;
    let task = world.submit("Add a file").await;
    world.until(&task, "at the gate", |d| d.why.waits_for.contains("security on")).await;
    let leases = world.control().leases().await.expect("a view");
    assert!(leases.iter().all(|lease| lease.holder.is_none()), "the gate takes no lease: {leases:?}");
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    let receipt = world.receipt(&task).await.expect("a receipt");
    assert!(receipt.lines.iter().any(|line| line.step == StopStep::Jobs), "{receipt:?}");
    world.close().await;
}

/// A person's repository, and the program on the path.
pub(crate) struct Desk {
    pub(crate) root: tempfile::TempDir,
    pub(crate) repo: PathBuf,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix("orch-g").tempdir().expect("a temporary folder");
        let repo = root.path().join("repo");
        git_init(&repo);
        commit_file(&repo, "a.txt", "a\n", "Begin");
        for folder in ["tmp", "home"] {
            std::fs::create_dir(root.path().join(folder)).expect("a folder");
        }
        Self { root, repo }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let bin = Path::new(env!("CARGO_BIN_EXE_orch")).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        // Programs that a story brings along come first.
        let own = self.root.path().join("bin");
        command
            .env("PATH", format!("{}:{}:{path}", own.display(), bin.display()))
            .env("TMPDIR", self.root.path().join("tmp"));
        command.env("HOME", self.root.path().join("home")).env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("ORCH_SECURITY_ENGINE", "builtin").env_remove("ORCH_CONFIG").current_dir(&self.repo);
        command
    }

    pub(crate) fn orch(&self, args: &[&str]) -> (i32, String) {
        let out = self.command("orch").args(args).output().expect("the program starts");
        let left: Vec<_> = std::fs::read_dir(self.root.path().join("tmp")).expect("readable").flatten().collect();
        assert!(left.is_empty(), "folders were left: {left:?}");
        (out.status.code().unwrap_or(-1), said(&out))
    }
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn by_hand_the_gate_judges_any_repository_in_any_state() {
    let desk = Desk::new();
    commit_file(&desk.repo, "b.txt", "b\n", "Work");
    let (code, text) = desk.orch(&["gate", "security", "--repo", ".", "--base", "HEAD~1"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("security: passed ("), "{text}");
    commit_file(&desk.repo, "c.txt", &format!("c\nkey = {}\n", token()), "More work");
    commit_file(&desk.repo, "c.txt", "c\n", "Nothing to see here");
    git(&desk.repo, &["checkout", "--quiet", "--detach"]);
    let (code, text) = desk.orch(&["gate", "security", "--base", "main~3", "--head", "main"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("`c.txt`, line 2") && !text.contains(&token()), "{text}");
    let (code, text) = desk.orch(&["gate", "security", "--base", "main~3", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, json["verdict"].as_str()), (1, Some("failed")));
    assert!(json["report"].as_str().is_some_and(|report| report.contains("security_status: failed")), "{json}");
    // What cannot be: a commit, a repository, an engine, rules.
    for args in
        [vec!["--base", "nowhere"], vec!["--base", "main", "--head", "--x"], vec!["--base", "main", "--repo", "/proc"]]
    {
        let (code, text) = desk.orch(&[vec!["gate", "security"], args].concat());
        assert_eq!(code, 64, "{text}");
    }
    commit_file(&desk.repo, ".gitleaks.toml", "[[rulez]]\nid = 'x'\n", "Rules");
    let (code, text) = desk.orch(&["gate", "security", "--base", "HEAD", "--head", "main"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("rulez"), "{text}");
    // A shallow clone, as CI makes it, and a bare one.
    git(&desk.repo, &["checkout", "--quiet", "main"]);
    let shallow = desk.root.path().join("shallow");
    let url = format!("file://{}", desk.repo.display());
    git(desk.root.path(), &["clone", "--quiet", "--depth", "2", &url, &shallow.to_string_lossy()]);
    let (code, text) = desk.orch(&["gate", "security", "--repo", &shallow.to_string_lossy(), "--base", "HEAD~1"]);
    assert_eq!(code, 0, "{text}");
    let bare = desk.root.path().join("bare.git");
    git(desk.root.path(), &["clone", "--quiet", "--bare", &url, &bare.to_string_lossy()]);
    let (code, text) =
        desk.orch(&["gate", "security", "--repo", &bare.to_string_lossy(), "--base", "main~3", "--head", "main"]);
    assert_eq!(code, 1, "{text}");
}

#[test]
fn the_hook_stops_a_push_that_holds_a_secret() {
    let desk = Desk::new();
    let remote = desk.root.path().join("remote.git");
    git(desk.root.path(), &["clone", "--quiet", "--bare", &desk.repo.to_string_lossy(), &remote.to_string_lossy()]);
    git(&desk.repo, &["remote", "add", "origin", &remote.to_string_lossy()]);
    git(&desk.repo, &["fetch", "--quiet", "origin"]);
    git(&desk.repo, &["remote", "set-head", "origin", "main"]);
    let hook = desk.repo.join(".git/hooks/pre-push");
    std::fs::create_dir_all(hook.parent().expect("a folder")).expect("made");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy/pre-push"), &hook).expect("copied");
    let push = |what: &str| {
        let out = desk.command("git").args(["push", "--quiet", "origin", what]).output().expect("git runs");
        (out.status.success(), said(&out))
    };
    commit_file(&desk.repo, "b.txt", "b\n", "Work");
    assert!(push("main").0);
    git(&desk.repo, &["checkout", "--quiet", "-b", "topic"]);
    commit_file(&desk.repo, "c.txt", &format!("key = {}\n", token()), "More work");
    let (pushed, text) = push("topic");
    assert!(!pushed && text.contains("`c.txt`, line 1"), "{text}");
    git(&desk.repo, &["reset", "--quiet", "--hard", "HEAD~1"]);
    commit_file(&desk.repo, "c.txt", "no key\n", "More work");
    let (pushed, text) = push("topic");
    assert!(pushed, "{text}");
    assert!(push(":topic").0, "a branch may be deleted");
}
