//! One `orch run` after another on the same repository: whose settings a task is worked on, judged and landed by, and on
//! which branch.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};

use crate::verbs::{Desk, WORK, files_below, refused, text};
use crate::world::crash::finish;
use crate::world::{commit_file, git};

/// Always red.
const RED: &str = "echo '1 passed, 1 failed'; exit 1";
/// Always green.
const GREEN: &str = "echo '2 passed, 0 failed'";

/// An agent that says that it has begun, and does its work when it may.
fn waits(desk: &Desk) -> String {
    format!("touch $TMPDIR/begun; while [ ! -e {} ]; do sleep 0.02; done; {WORK}", desk.path("go").display())
}

fn let_go(desk: &Desk) {
    std::fs::write(desk.path("go"), "").expect("written");
}

fn killed(mut child: Child) {
    child.kill().expect("ours");
    child.wait().expect("ours");
}

fn subjects(repo: &Path, branch: &str) -> Vec<String> {
    git(repo, &["log", "--format=%s", branch]).lines().map(str::to_owned).collect()
}

/// Whether an agent is at work.
fn at_work(desk: &Desk) -> bool {
    files_below(&desk.path("data")).iter().any(|file| file.ends_with("begun"))
}

/// A run whose agent is at work.
fn begun(desk: &Desk, words: &[&str]) -> Child {
    desk.begin(words, || at_work(desk))
}

#[test]
fn a_task_of_a_killed_run_is_finished_by_its_own_settings_or_not_at_all() {
    let desk = Desk::new();
    let repo = desk.repo.to_string_lossy().into_owned();
    let agent = waits(&desk);
    let careful = ["run", "--repo", &repo, "--title", "Careful", "--key", "CAREFUL", "--agent-cmd", &agent];
    let careful = [&careful[..], &["--test-cmd", RED]].concat();
    killed(begun(&desk, &careful));
    let_go(&desk);

    // With another agent and without tests: it makes its own change, and not a word of the other's.
    let other = desk.run(&["--key", "QUICK", "--agent-cmd", "echo quick > quick.txt", "--no-tests"]);
    let said = text(&other.stderr);
    assert_eq!(other.status.code(), Some(0), "{said}{}", text(&other.stdout));
    assert!(said.contains("CAREFUL (`Careful`, ") && said.contains("is left as it is"), "{said}");
    assert!(said.contains("another agent, other tests"), "{said}");
    assert_eq!(subjects(&desk.repo, "main"), ["QUICK: Make it", "Begin"]);

    // Nor is it by name, unless that is said in so many words.
    let main = desk.main();
    let named = desk.run(&["--key", "CAREFUL", "--agent-cmd", WORK, "--test-cmd", GREEN]);
    refused(&named, 2, &["CAREFUL was handed in with other settings", "other tests", "--new-settings", "--stop"]);

    // Its own settings decide: its tests are red.
    let again = desk.orch(&careful);
    assert_eq!(again.status.code(), Some(1), "{}{}", text(&again.stdout), text(&again.stderr));
    assert!(text(&again.stdout).contains("sent back"), "{}", text(&again.stdout));
    assert_eq!(desk.main(), main, "what its own tests refuse does not land");
    let told = text(&again.stdout);
    let data = told.lines().find_map(|line| line.strip_prefix("data     ")).expect("the way to look into it is named");
    assert!(Path::new(data).join("jobs").is_dir() && told.contains("jobs/*/stdout.log"), "{told}");

    let more = "echo more > more.txt";
    let anew = desk.run(&["--key", "CAREFUL", "--agent-cmd", more, "--test-cmd", GREEN, "--new-settings"]);
    let told = text(&anew.stdout);
    assert_eq!(anew.status.code(), Some(0), "{told}{}", text(&anew.stderr));
    assert!(told.contains("goes on with the settings of another run"), "{told}");
    assert_eq!(subjects(&desk.repo, "main")[0], "CAREFUL: Careful");
    desk.nothing_is_left();
}

#[test]
fn a_task_that_is_left_alone_can_be_stopped_by_any_run() {
    let desk = Desk::new();
    let repo = desk.repo.to_string_lossy().into_owned();
    let agent = waits(&desk);
    let words = ["run", "--repo", &repo, "--title", "Stuck", "--key", "STUCK", "--agent-cmd", &agent, "--no-tests"];
    killed(begun(&desk, &words));
    let main = desk.main();
    let stopped = desk.orch(&["run", "--repo", &repo, "--key", "STUCK", "--stop"]);
    let told = text(&stopped.stdout);
    assert_eq!(stopped.status.code(), Some(0), "{told}{}", text(&stopped.stderr));
    assert!(told.contains("cancelled STUCK"), "{told}");
    assert_eq!(desk.main(), main);
    refused(&desk.orch(&["run", "--repo", &repo, "--stop"]), 64, &["--key"]);
    refused(&desk.orch(&["run", "--repo", &repo]), 64, &["--title"]);
    // Its agent of before is ended with it.
    desk.nothing_is_left();
}

#[test]
fn a_run_lands_on_the_branch_that_it_was_begun_for_whatever_is_checked_out_later() {
    let desk = Desk::new();
    let repo = desk.repo.to_string_lossy().into_owned();
    let agent = waits(&desk);
    let words = ["run", "--repo", &repo, "--title", "Make it", "--key", "ONE", "--agent-cmd", &agent, "--no-tests"];
    killed(begun(&desk, &words));
    let_go(&desk);
    git(&desk.repo, &["checkout", "--quiet", "-b", "feature"]);
    let before = desk.main();
    refused(&desk.orch(&words), 2, &["ONE was handed in with other settings", "another branch to land on (`main`)"]);
    assert_eq!([desk.main(), git(&desk.repo, &["rev-parse", "feature"])], [before.clone(), before.clone()]);

    let landed = desk.orch(&[&words[..], &["--main", "main"]].concat());
    assert_eq!(landed.status.code(), Some(0), "{}{}", text(&landed.stdout), text(&landed.stderr));
    assert!(text(&landed.stdout).contains("where    main of "), "{}", text(&landed.stdout));
    assert_eq!(git(&desk.repo, &["show", "main:made.txt"]), "made");
    assert_eq!(git(&desk.repo, &["rev-parse", "feature"]), before);
    assert_eq!(git(&desk.repo, &["status", "--short"]), "", "the branch that is checked out is not touched");
    desk.nothing_is_left();
}

#[test]
fn a_supervisor_lands_on_the_branch_of_its_first_start_whatever_is_checked_out_later() {
    let desk = Desk::new();
    let settings = |more: &str| {
        let text = format!(
            "http: {{bind: '127.0.0.1:0'}}\ndefault_agent: worker\nagents: {{worker: {{kind: command, command: \"{}\"}}}}\n\
             repos: {{demo: {{path: {}, pipeline: lite, no_tests: true{more}}}}}\n",
            waits(&desk),
            desk.repo.display()
        );
        std::fs::write(desk.path("orch.yaml"), text).expect("written");
    };
    let up = || desk.path("data/http.addr").exists();
    let add = |key: &str| {
        let added = desk.orch(&["task", "add", "--title", "Make it", "--key", key]);
        assert_eq!(added.status.code(), Some(0), "{}", text(&added.stderr));
    };
    settings("");
    let first = desk.begin(&["serve"], up);
    add("ONE");
    desk.until("the agent has begun", || at_work(&desk));
    killed(first);
    std::fs::remove_file(desk.path("data/http.addr")).expect("it was left");
    git(&desk.repo, &["checkout", "--quiet", "-b", "feature"]);
    let before = desk.main();
    let_go(&desk);
    let second = desk.begin(&["serve"], || up() && desk.main() != before);
    assert_eq!(git(&desk.repo, &["show", "main:made.txt"]), "made");
    assert_eq!(git(&desk.repo, &["rev-parse", "feature"]), before);
    let log = std::fs::read_to_string(desk.path("child.log")).expect("a log");
    assert!(log.contains("`feature` is checked out") && log.contains("set repos.demo.main"), "{log}");

    // Not even settings move a task that was begun for another branch.
    std::fs::remove_file(desk.path("go")).expect("it is there");
    desk.until("nothing is at work", || !at_work(&desk));
    add("TWO");
    desk.until("the agent has begun", || at_work(&desk));
    killed(second);
    std::fs::remove_file(desk.path("data/http.addr")).expect("it was left");
    settings(", main: feature");
    let_go(&desk);
    let third = desk.begin(&["serve"], up);
    desk.until("the task says why it does not land", || {
        let why = text(&desk.orch(&["why", "TWO"]).stdout);
        why.contains("TWO was begun for the branch `main`, but demo lands on `feature` now")
    });
    assert_eq!(git(&desk.repo, &["rev-parse", "feature"]), before);
    finish(third);
    desk.nothing_is_left();
}

#[test]
fn init_writes_the_branch_of_the_repository_and_not_the_one_that_is_worked_on() {
    let desk = Desk::new();
    let clone = desk.path("clone").to_string_lossy().into_owned();
    git(&desk.repo, &["clone", "--quiet", ".", &clone]);
    git(Path::new(&clone), &["checkout", "--quiet", "-b", "feature"]);
    let made = desk.orch(&["init", "--repo", &clone]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    assert!(text(&made.stdout).contains("main: tasks land on `main`"), "{}", text(&made.stdout));
    let written = std::fs::read_to_string(desk.path("orch.yaml")).expect("written");
    assert!(written.lines().any(|line| line == "    main: main"), "{written}");
    assert_eq!(desk.orch(&["config", "check"]).status.code(), Some(0));
}

#[test]
fn what_cannot_be_tested_is_told_before_an_agent_works_on_it() {
    let desk = Desk::new();
    let said = desk.run(&["--agent-cmd", WORK]);
    refused(&said, 2, &["no test command", "--test-cmd", "--no-tests"]);
    // Where its files tell how, nothing has to be said.
    commit_file(&desk.repo, "Makefile", "test:\n\tsh check.sh\n", "Tell how");
    let done = desk.run(&["--agent-cmd", WORK]);
    assert_eq!(done.status.code(), Some(0), "{}{}", text(&done.stdout), text(&done.stderr));
    desk.nothing_is_left();
}

#[test]
fn a_repository_that_may_not_be_written_is_told_before_an_agent_works_on_it() {
    let desk = Desk::new();
    let repo = desk.repo.to_string_lossy().into_owned();
    let objects = desk.repo.join(".git/objects");
    let words = ["run", "--repo", &repo, "--title", "x", "--agent-cmd", WORK, "--no-tests"];
    let mode = |bits| std::fs::set_permissions(&objects, PermissionsExt::from_mode(bits)).expect("it is there");
    // Root may write anything: then somebody else is asked.
    let output = match nix::unistd::geteuid().is_root() {
        true => {
            let owned = Command::new("chown").args(["-R", "65534:65534"]).arg(desk.path("")).status();
            assert!(owned.expect("chown runs").success());
            mode(0o555);
            let program = desk.path("orch");
            std::fs::copy(env!("CARGO_BIN_EXE_orch"), &program).expect("copied");
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(program).args(words);
            command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(desk.path(""));
            command
                .env("TMPDIR", desk.path("tmp"))
                .env("HOME", desk.path("home"))
                .env("ORCH_DATA_DIR", desk.path("data"));
            command.output().expect("setpriv runs")
        }
        false => {
            mode(0o555);
            desk.orch(&words)
        }
    };
    mode(0o755);
    refused(&output, 2, &["may not be written", "objects: Permission denied", "as a user who may"]);
    assert!(!desk.path("data").exists(), "nothing was made for it");
}

#[test]
fn what_is_wrong_with_a_command_line_is_told_at_once() {
    let desk = Desk::new();
    let gone = desk.run(&["--agent-cmd", "/no/such/program --now", "--no-tests"]);
    refused(&gone, 2, &["its program `/no/such/program` is not found", "--agent-cmd"]);
    let endless = desk.run(&["--agent-cmd", WORK, "--no-tests", "--body-file", "/dev/zero"]);
    refused(&endless, 2, &["--body-file /dev/zero: more than 262144 bytes"]);
    assert!(!desk.path("data").exists(), "nothing was made for it");
    // Nothing was asked: the help, as it is written.
    for (words, shown) in [(&[][..], "Commands:\n  run "), (&["task"], "Commands:\n  add ")] {
        let output = desk.orch(words);
        assert_eq!(output.status.code(), Some(64));
        assert!(text(&output.stderr).contains(shown) && output.stdout.is_empty(), "{}", text(&output.stderr));
    }
}

#[test]
fn a_supervisor_that_refuses_its_repositories_says_one_line_and_makes_nothing() {
    let desk = Desk::new();
    let settings =
        |repos: &str| std::fs::write(desk.path("orch.yaml"), format!("repos: {{{repos}}}\n")).expect("written");
    settings("gone: {path: /no/such/folder}");
    refused(&desk.orch(&["serve"]), 2, &["repository `gone`", "/no/such/folder", "no such folder"]);
    let checked = desk.orch(&["config", "check"]);
    assert_eq!(checked.status.code(), Some(0));
    let said = text(&checked.stderr);
    assert!(said.contains("repos.gone.path: repository `/no/such/folder`: there is no such folder"), "{said}");
    assert!(text(&checked.stdout).contains("settings are valid: 1 repository, "), "{}", text(&checked.stdout));
    // What else is named and not there is said, too, before a task finds out.
    let plain = desk.path("plain").display().to_string();
    std::fs::create_dir(&plain).expect("a folder");
    settings(&format!(
        "plain: {{path: {plain}}}, demo: {{path: {}, main: nope, agent: mine}}}}\nagents: {{mine: {{command: [no-such-program]}}, \
         play: {{script: nope.yaml}}",
        desk.repo.display()
    ));
    let said = text(&desk.orch(&["config", "check"]).stderr);
    for told in [
        "repos.plain.path: repository `",
        "is not a git repository",
        "repos.demo.main: there is no branch `nope`",
        "`no-such-program`",
        "agents.play.script",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
    settings(&format!("one: {{path: {0}}}, two: {{path: {0}/../repo}}", desk.repo.display()));
    for verb in [&["serve"][..], &["config", "check"]] {
        refused(&desk.orch(verb), 2, &["repos.two.path", "is the repository `one` already"]);
    }
    settings("");
    refused(&desk.orch(&["backup"]), 2, &["nothing to back up", "--data"]);
    assert!(!desk.path("data").exists(), "nothing was made for it");
}

#[test]
fn the_last_words_of_a_blocked_run_tell_what_was_found() {
    let desk = Desk::new();
    let agent = "date +%N >> made.txt; git add -A; git commit -q -m 'Try it'";
    // Red by the work alone: else the findings begin with that, and rightly.
    let red = "if [ ! -e made.txt ]; then echo '2 passed, 0 failed'; exit 0; fi; echo '1 passed, 1 failed'; seq -f 'line %g' 1 60; echo this is the cause; exit 1";
    let ended = desk.run(&["--agent-cmd", agent, "--test-cmd", red]);
    let told = text(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "{told}{}", text(&ended.stderr));
    let last = told.split_once("\nblocked  ").expect("its last words").1;
    let words: Vec<&str> = last.lines().skip_while(|line| !line.starts_with("findings ")).collect();
    assert!(words[0].contains("failed on") && words.iter().any(|line| line.ends_with("this is the cause")), "{last}");
    assert!(words.iter().any(|line| line.ends_with("lines are left out)")) && words.len() < 30, "{last}");
    assert!(!last.contains("\\u{a}"), "{last}");
    desk.nothing_is_left();
}
