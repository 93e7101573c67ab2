//! Data that nobody runs: what `orch run` leaves, and what a killed supervisor leaves, can be asked about and stays as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::verbs::{Desk, WORK, files_below, refused, text};
use crate::world::crash::finish;

/// The folder that the last words of a run name.
fn data_of(output: &Output) -> String {
    let said = text(&output.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix("data "));
    line.unwrap_or_else(|| panic!("no folder is named: {said}")).trim().to_owned()
}

/// What a folder holds, byte for byte. SQLite's index of its log is no data: any reader may write it anew.
fn held(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(folder).into_iter().filter(|file| !file.to_string_lossy().ends_with("-shm"));
    files.map(|file| (file.clone(), std::fs::read(file).expect("readable"))).collect()
}

/// Asks about data that nobody runs: the answer, and the one line that says so.
fn ask(desk: &Desk, data: &str, verb: &[&str]) -> String {
    let output = desk.orch(&[verb, &["--data", data]].concat());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{verb:?}: {said}{}", text(&output.stdout));
    assert!(said.starts_with(&format!("nobody runs {data}: this is what was recorded last\n")), "{verb:?}: {said}");
    text(&output.stdout)
}

#[test]
fn what_a_run_has_landed_can_be_asked_about_afterwards_and_nothing_changes() {
    let desk = Desk::new();
    let run = desk.run(&["--agent-cmd", WORK, "--test-cmd", "sh check.sh", "--key", "ONE", "--keep"]);
    assert_eq!(run.status.code(), Some(0), "{}{}", text(&run.stdout), text(&run.stderr));
    let data = data_of(&run);
    let ballast = std::fs::metadata(Path::new(&data).join("ballast")).expect("it is kept").len();
    assert!(ballast <= 4 << 20, "each repository's folder is small: {ballast}");
    let before = held(Path::new(&data));

    assert!(ask(&desk, &data, &["why", "ONE"]).contains("nothing: done at"));
    assert!(ask(&desk, &data, &["task", "show", "ONE"]).contains("landed"));
    assert!(ask(&desk, &data, &["task", "list", "--all"]).contains("Make it"));
    assert!(ask(&desk, &data, &["ps"]).contains("intake closed: nobody runs it"));
    assert_eq!(ask(&desk, &data, &["logs", "ONE"]), "2 passed, 0 failed\n");
    let proven = ask(&desk, &data, &["proof", "--verify"]);
    assert!(proven.contains("1 landing, everything fits"), "{proven}");
    let receipt = desk.orch(&["receipt", "ONE", "--data", &data]);
    assert!(text(&receipt.stderr).contains("never stopped"), "{}", text(&receipt.stderr));
    assert_eq!(receipt.status.code(), Some(1));

    let main = desk.main();
    let way_out = ["no supervisor is known", "by its own command with --key"];
    refused(&desk.orch(&["task", "retry", "ONE", "--data", &data]), 2, &way_out);
    refused(
        &desk.orch(&["serve", "--data", &data]),
        2,
        &["is the folder of `orch run` on", "name another data folder"],
    );
    refused(&desk.orch(&["why", "ONE"]), 2, &["no supervisor is known", &format!("--data {data}")]);
    assert_eq!(held(Path::new(&data)), before, "who looks changes nothing");
    assert_eq!(desk.main(), main);
    // `main` is what it was when it landed, or the proof says otherwise.
    let gone = std::process::Command::new("git")
        .args(["-C", &desk.repo.to_string_lossy(), "update-ref", "refs/heads/main", "main~1"])
        .status();
    assert!(gone.expect("git runs").success());
    let output = desk.orch(&["proof", "--verify", "--data", &data]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("does not contain"), "{}", text(&output.stdout));
    desk.nothing_is_left();
}

#[test]
fn the_last_words_of_a_blocked_run_lead_to_its_findings_and_its_logs() {
    let desk = Desk::new();
    let agent = "cat > /dev/null; echo the agent was here; echo x >> x; git add x; git commit -q -m x";
    let run = desk.run(&["--agent-cmd", agent, "--test-cmd", "echo the test was here; exit 1", "--key", "TWO"]);
    assert_eq!(run.status.code(), Some(1), "{}", text(&run.stdout));
    let data = data_of(&run);
    assert!(text(&run.stdout).contains(&format!("orch task show TWO --data {data}")), "{}", text(&run.stdout));

    let shown = ask(&desk, &data, &["task", "show", "TWO"]);
    assert!(shown.contains("blocked") && shown.contains("the test was here"), "{shown}");
    let why = ask(&desk, &data, &["why", "TWO"]);
    assert!(why.contains("repeat its command with --key TWO"), "the way out is one that works here: {why}");

    // Four times the agent and the tests, and once the tests of the commit that it began with.
    let newest = desk.orch(&["logs", "TWO", "--data", &data]);
    assert_eq!(text(&newest.stdout), "the test was here\n");
    let others = text(&newest.stderr);
    assert!(others.contains("that was 9 (") && others.contains("others: 1 (") && others.contains("8 ("), "{others}");
    assert_eq!(ask(&desk, &data, &["logs", "TWO", "--run", "1"]), "the agent was here\n");
    let all = ask(&desk, &data, &["logs", "TWO", "--all"]);
    assert_eq!(all.matches("the agent was here\n").count(), 4, "{all}");
    assert!(all.starts_with("== 1 (") && all.contains("\n== 9 ("), "{all}");
    refused_behind_the_note(&desk.orch(&["logs", "TWO", "--run", "10", "--data", &data]), 1, "its runs are 1 to 9");
    // Nobody writes it: to follow it is to read it.
    assert_eq!(ask(&desk, &data, &["logs", "TWO", "-f"]), "the test was here\n");
    desk.nothing_is_left();
}

fn refused_behind_the_note(output: &Output, code: i32, named: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.lines().count() == 2 && said.contains(named), "{said}");
}

#[test]
fn a_killed_supervisor_leaves_what_it_had_recorded_and_nobody_is_said_to_work() {
    let desk = Desk::new();
    let settings = format!(
        "http: {{bind: '127.0.0.1:0'}}\nlimits: {{agent_orphan_grace: 1s}}\n\
         agents: {{worker: {{kind: command, command: 'cat >/dev/null; echo at work; exec sleep 600'}}}}\n\
         default_agent: worker\nrepos: {{demo: {{path: {}, pipeline: lite, no_tests: true}}}}\n",
        desk.repo.display()
    );
    std::fs::write(desk.path("orch.yaml"), settings).expect("written");
    let mut serve = desk.begin(&["serve"], || desk.path("data/http.addr").exists());
    // It runs, and cannot be found: what is stored is not what it would say.
    let (found, hidden) = (desk.path("data/http.addr"), desk.path("home/http.addr"));
    std::fs::rename(&found, &hidden).expect("moved");
    let pid = format!("is in use by pid {}, which does not answer", serve.id());
    refused(&desk.orch(&["task", "list"]), 2, &[&pid]);
    std::fs::rename(&hidden, &found).expect("moved back");
    assert_eq!(desk.orch(&["task", "add", "--title", "Make it", "--key", "K"]).status.code(), Some(0));
    desk.until("its agent is at work", || text(&desk.orch(&["logs", "K"]).stdout).contains("at work"));
    serve.kill().expect("killed");
    serve.wait().expect("gone");

    let data = desk.path("data").to_string_lossy().into_owned();
    let why = ask(&desk, &data, &["why", "K"]);
    assert!(why.contains("somebody to go on with it: nobody runs it now (recorded last: an agent works"), "{why}");
    assert!(why.contains("start `orch serve`"), "{why}");
    let listed = ask(&desk, &data, &["task", "list"]);
    assert!(listed.contains("nobody runs it now"), "{listed}");
    assert_eq!(ask(&desk, &data, &["logs", "K", "-f"]), "at work\n");
    refused(&desk.orch(&["task", "stop", "K"]), 2, &["no supervisor answers at", "orch serve"]);

    let again = desk.begin(&["serve"], || text(&desk.orch(&["ps"]).stderr).is_empty());
    let stopped = desk.orch(&["task", "stop", "K", "--wait"]);
    assert_eq!(stopped.status.code(), Some(0), "{}{}", text(&stopped.stdout), text(&stopped.stderr));
    finish(again);
    desk.nothing_is_left();
}

#[test]
fn what_a_stopped_run_has_left_is_given_back_although_nobody_runs() {
    let desk = Desk::new();
    let repo = desk.repo.to_string_lossy().into_owned();
    let agent = "echo half > left.txt; exec sleep 600";
    let words = ["run", "--repo", &repo, "--title", "Make it", "--agent-cmd", agent, "--no-tests", "--key", "THREE"];
    let left = || files_below(&desk.path("data")).iter().any(|file| file.ends_with("tree/left.txt"));
    let mut run = desk.begin(&words, left);
    run.kill().expect("killed");
    run.wait().expect("gone");
    let stopped = desk.run(&["--key", "THREE", "--stop", "--keep"]);
    assert_eq!(stopped.status.code(), Some(0), "{}{}", text(&stopped.stdout), text(&stopped.stderr));
    let data = data_of(&stopped);
    assert!(ask(&desk, &data, &["receipt", "THREE"]).contains("cancelled"));

    let before = held(Path::new(&data));
    let listed = ask(&desk, &data, &["salvage", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let id = listed.as_array().and_then(|all| all.iter().find(|one| !one["files"].is_null())).expect("its files");
    let (id, into) = (id["id"].as_str().expect("an id").to_owned(), desk.path("back"));
    let into = into.to_str().expect("UTF-8");
    ask(&desk, &data, &["salvage", "restore", &id, "--into", into]);
    assert_eq!(std::fs::read_to_string(Path::new(into).join("left.txt")).expect("given back"), "half\n");
    let inside = format!("{data}/back");
    let refused = desk.orch(&["salvage", "restore", &id, "--into", &inside, "--data", &data]);
    refused_behind_the_note(&refused, 1, "lies in the data folder");
    assert_eq!(held(Path::new(&data)), before, "who looks changes nothing");
    desk.nothing_is_left();
}
