//! The coverage gate in the whole: a change that loses coverage goes back and lands when it is mended; what lands moves the
//! baseline, once, wherever the supervisor is killed; nothing else changes where it is off; asked by hand, and set by hand.

use std::path::Path;
use std::process::Command;

use orch_domain::coverage::Step;
use orch_domain::job::JobKind;
use orch_domain::policy::LandMode;
use orch_domain::task::Status;
use orch_domain::view::TaskView;
use serde_json::{Value, json};

use crate::world::crash::{MAKER, Outside};
use crate::world::{Setup, World, commit_file, git, git_init};

/// Counts the lines of `code.txt` that `.c8rc.json` does not name; each file in `tests` names the lines that it runs. Runs
/// the tests, too.
const COVER: &str = "[ \"$ORCH_COVERAGE_REPORT\" ] || exit 9\n\
    { echo SF:code.txt; n=0; while read -r _; do n=$((n + 1)); ! grep -qsx $n .c8rc.json || continue; \
    if cat tests/* | grep -qx $n; then echo DA:$n,1; else echo DA:$n,0; fi; done < code.txt; echo end_of_record; \
    } > \"$ORCH_COVERAGE_REPORT\"\n\
    echo \"$(ls tests | wc -l) passed, 0 failed\"\n";

fn repository(repo: &Path) {
    git_init(repo);
    commit_file(repo, "code.txt", "one\ntwo\nthree\nfour\n", "Begin");
    commit_file(repo, "tests/test_a.txt", "1\n2\n", "Test");
    commit_file(repo, "tests/test_b.txt", "3\n", "Test more");
    commit_file(repo, "check.sh", "echo '2 passed, 0 failed'\n", "Check");
    commit_file(repo, "cover.sh", COVER, "Measure");
}

fn covered() -> Setup {
    Setup::default().repo(|r| {
        r.commands.coverage = Some("sh cover.sh".to_owned());
        r.commands.coverage_runs_tests = Some(true);
    })
}

fn writes(path: &str, text: &str) -> String {
    format!("attempts:\n- - write: {{path: {path}, content: \"{text}\"}}\n  - commit: {{message: Do it}}\n")
}

/// Deletes a test; sent back, it brings the test back.
const DELETES: &str = "attempts:\n\
- - delete: {path: tests/test_b.txt}\n  - write: {path: notes.txt, content: \"x\\n\"}\n  - commit: {message: Tidy}\n\
- - expect_prompt: \"code.txt: 3\"\n  - expect_prompt: \"the branch deletes tests: tests/test_b.txt\"\n\
\x20 - run: {cmd: git checkout --quiet HEAD~1 -- tests/test_b.txt}\n  - commit: {message: Bring it back}\n";

async fn gate_of(world: &World, task: &TaskView, name: &str) -> Value {
    let gates = world.proof(task).await["gates"].clone();
    gates.as_array().expect("a list").iter().find(|gate| gate["gate"] == name).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_test_goes_back_with_the_line_it_ran_and_lands_when_it_is_restored() {
    let setup = covered().agent("plain", &writes("first.txt", "x\\n")).agent("tidy", DELETES);
    let world = setup.open_over("repo", repository).await;
    let first = world.submit("Add a file").await;
    world.expect_status(&first, Status::Done).await;
    let runs = world.jobs_of(&first, JobKind::Gate).await;
    assert_eq!(runs.len(), 1, "testing, merge gate and coverage gate are one run of one tree: {runs:?}");
    let task = world.submit_for("tidy", "Tidy up").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    assert_eq!(world.git(&["show", "main:tests/test_b.txt"]), "3");
    let refusal = "50.00 % (2 of 4 lines) is below the baseline of 75.00 % (3 of 4 lines)";
    world.expect_journal(&task, &["sent-back: ", refusal]).await;
    world.expect_journal(&task, &["gate-passed: coverage on ", "75.00 % (3 of 4 lines) is not below"]).await;
    world.expect_comment(&task, "code.txt: 3").await;
    let gates = world.proof(&task).await["gates"].clone();
    let order: Vec<&Value> = gates.as_array().expect("a list").iter().map(|gate| &gate["gate"]).collect();
    assert_eq!(order, ["security", "merge", "coverage", "image-freshness"], "behind the merge gate, before the image");
    let coverage = gate_of(&world, &task, "coverage").await;
    let report = world.report_of(&coverage);
    assert!(
        report.contains("coverage_status: passed") && report.contains("- name: baseline_covered\n  value: 3\n"),
        "{report}"
    );
    assert!(coverage["report"].as_str().is_some_and(|path| path.ends_with("18-coverage-report.md")), "{coverage}");

    // The block that people look at tells the same.
    let block = world.control().queue().await.expect("a view").coverage;
    let view = block.into_iter().next().expect("one repository");
    let baseline = view.baseline.expect("a baseline");
    assert_eq!((baseline.share.covered, baseline.share.total, baseline.step), (3, 4, Step::First));
    assert_eq!(baseline.set_by, first.key.to_string());
    assert_eq!(view.last.map(|last| last.by), Some(task.key.to_string()));
    let trend: Vec<(u64, Step)> = view.trend.iter().map(|point| (point.share.covered, point.step)).collect();
    assert_eq!(trend, [(3, Step::First), (3, Step::Kept)]);
    assert_eq!(view.failures.len(), 1, "{:?}", view.failures);
    assert_eq!(view.failures[0].key.as_ref(), Some(&task.key));
    assert!(view.failures[0].why.contains("50.00 % (2 of 4 lines)"), "{:?}", view.failures);
    world.close().await;
}

/// The lane is nobody's while the work that lost coverage is worked on again, and people are told which lines it lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_loses_coverage_gives_the_lane_up_and_tells_which_lines_went() {
    let signs = tempfile::tempdir().expect("a folder");
    let go = signs.path().join("go");
    let waits = format!("  - wait_for: {{path: {}}}\n  - run: {{cmd: git checkout", go.display());
    let script = DELETES.replace("  - run: {cmd: git checkout", &waits);
    assert_ne!(script, DELETES);
    let setup = covered().agent("plain", &writes("first.txt", "x\\n")).agent("other", &writes("other.txt", "x\\n"));
    let world = setup.agent("tidy", &script).open_over("repo", repository).await;
    let first = world.submit_for("plain", "Add a file").await;
    world.expect_status(&first, Status::Done).await;
    let task = world.submit_for("tidy", "Tidy up").await;
    let back = async || world.journal(&task).await.iter().any(|line| line.starts_with("sent-back: ")).then_some(());
    world.wait_for("it to be sent back", back).await;
    let free =
        async || world.control().leases().await.expect("leases").iter().all(|l| l.holder.is_none()).then_some(());
    world.wait_for("the lease to be free", free).await;
    // The notice names the file and the line, and the next work lands meanwhile.
    world.expect_comment(&task, "code.txt: 3").await;
    let other = world.submit_for("other", "Add another file").await;
    world.expect_status(&other, Status::Done).await;
    assert!(!world.look(&task).await.task.status.is_closed(), "it is still worked on");
    std::fs::write(&go, "").expect("the sign is given");
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}

/// A coverage command that runs its tests takes no named test command's place (what somebody named is run).
#[tokio::test(flavor = "multi_thread")]
async fn tests_that_somebody_named_are_run_whatever_the_coverage_command_says() {
    let breaks = "attempts:\n\
        - - write: {path: check.sh, content: \"echo '1 passed, 1 failed'; exit 1\\n\"}\n  - commit: {message: Break it}\n\
        - - expect_prompt: \"1 failed\"\n  - write: {path: check.sh, content: \"echo '7 passed, 0 failed'\\n\"}\n\
        \x20 - commit: {message: Mend it}\n";
    let setup = Setup::default().agent("breaks", breaks).repo(|r| r.commands.coverage = Some("sh cover.sh".to_owned()));
    let world = setup.open_over("repo", repository).await;
    let task = world.submit("Break the tests").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1, "coverage had nothing against it");
    world.expect_journal(&task, &["sent-back: ", "`sh check.sh` failed", "1 passed, 1 failed"]).await;
    world.expect_journal(&task, &["check-passed: `sh check.sh`: 7 tests: 7 passed"]).await;
    world.expect_journal(&task, &["gate-passed: coverage on ", "75.00 % (3 of 4 lines)"]).await;
    world.close().await;
}

/// A branch does not get by with less by changing what is counted; its settings hold from the next landing on, compared with
/// main measured by them.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_hide_a_loss_go_back_and_land_without_the_loss() {
    let hides = DELETES.replace("notes.txt, content: \"x", ".c8rc.json, content: \"1\\n3");
    let hides = hides.replace("  - expect_prompt: \"the branch deletes", "  - expect_prompt: \"the branch changes coverage settings (.c8rc.json)\"\n  - expect_prompt: \"the branch deletes");
    let setup = covered().agent("plain", &writes("first.txt", "x\\n")).agent("other", &writes("other.txt", "x\\n"));
    let world = setup.agent("hides", &hides).open_over("repo", repository).await;
    for (agent, retries) in [("plain", 0), ("hides", 1), ("other", 0)] {
        let task = world.submit_for(agent, agent).await;
        let done = world.expect_status(&task, Status::Done).await;
        assert_eq!(done.task.attempts.developer_retries, retries, "{agent}");
    }
    let view = world.control().coverage(&"demo".parse().expect("a name")).await.expect("a view");
    let trend: Vec<_> = view.trend.iter().map(|point| (point.share.covered, point.share.total, point.step)).collect();
    assert_eq!(trend, [(3, 4, Step::First), (3, 4, Step::Kept), (1, 2, Step::MeasuredAgain)]);
    let baseline = view.baseline.expect("a baseline");
    assert!(baseline.reason.contains("tool or configuration had changed"), "{}", baseline.reason);
    world.close().await;
}

/// What waits for a person since it could not be judged stands where people look for what coverage keeps from main, once.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_judged_is_blocked_and_stands_among_the_failures() {
    let setup = covered().repo(|r| r.commands.coverage = Some("no-such-coverage-tool".to_owned()));
    let setup = setup.agent("plain", &writes("first.txt", "x\\n")).config(|c| c.gates.coverage.fail_closed = true);
    let world = setup.open_over("repo", repository).await;
    let task = world.submit("Add a file").await;
    world.expect_blocked(&task, "the coverage tool could not start").await;
    let block = world.control().queue().await.expect("a view").coverage;
    let failures = &block.first().expect("one repository").failures;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].key.as_ref(), Some(&task.key));
    assert!(failures[0].why.contains("could not start"), "{failures:?}");
    world.stop(&task).await;
    world.expect_status(&task, Status::Cancelled).await;
    let block = world.control().queue().await.expect("a view").coverage;
    assert!(block[0].failures.is_empty(), "nobody is waited for any more: {:?}", block[0].failures);
    world.close().await;
}

/// The journal without what differs from run to run.
fn shape(journal: &[String]) -> Vec<String> {
    let without_ids = |line: &String| {
        let differs = |word: &str| word.chars().any(|c| c.is_ascii_digit() || c == '/');
        line.split_whitespace().map(|word| if differs(word) { "#" } else { word }).collect::<Vec<_>>().join(" ")
    };
    journal.iter().map(without_ids).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_or_out_of_scope_nothing_else_changes() {
    let mut shapes = Vec::new();
    // How it is without any coverage command, then off, then for other repositories, then on.
    for (command, enabled, everywhere) in
        [(false, false, true), (true, false, true), (true, true, false), (true, true, true)]
    {
        let setup = if command { covered() } else { Setup::default() };
        let setup = setup.agent("tidy", DELETES).config(move |c| {
            c.gates.coverage.enabled = enabled;
            if !everywhere {
                c.gates.coverage.repos.clear();
            }
        });
        let world = setup.open_over("repo", repository).await;
        let task = world.submit("Tidy up").await;
        world.expect_status(&task, Status::Done).await;
        let on = enabled && everywhere;
        let off = world.proof(&task).await["switched_off"].clone();
        let says_so = off.as_array().is_some_and(|off| off.iter().any(|gate| gate == "coverage"));
        assert_eq!(says_so, !enabled, "the proof names what the operator switched off: {off}");
        let measured = std::fs::read_dir(world.data().join("coverage")).into_iter().flatten().count();
        assert_eq!(measured > 0, on, "nothing is measured");
        let view = world.control().coverage(&"demo".parse().expect("a name")).await.expect("a view");
        assert_eq!((view.baseline.is_some(), view.trend.len()), (on, usize::from(on)));
        assert_eq!(gate_of(&world, &task, "coverage").await.is_null(), !on);
        shapes.push((shape(&world.journal(&task).await), world.test_runs(&task).await));
        world.close().await;
    }
    assert_eq!(shapes[0], shapes[1], "off: as if there were no such gate");
    assert_eq!(shapes[1], shapes[2], "out of scope: the same");
    assert!(!shapes[1].0.iter().any(|line| line.contains("overage")), "{:?}", shapes[1].0);
    let asked = |of: usize| shapes[of].0.iter().filter(|line| line.starts_with("gate-passed: coverage on")).count();
    assert_eq!((asked(2), asked(3)), (0, 1), "on, the same work is measured");
}

/// A person's merge is a landing like any other when main then holds the very tree that was measured.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_merges_moves_the_baseline_when_it_is_what_was_measured() {
    for more in [false, true] {
        let setup = covered().agent("plain", &writes("tests/test_c.txt", "4\\n"));
        let world = setup.repo(|r| r.land = LandMode::PrOnly).open_over("repo.git", bare).await;
        let task = world.submit("Test the rest").await;
        let waiting = world.expect_status(&task, Status::AwaitingPerson).await;
        let head = waiting.task.head.expect("a head");
        let person = world.person();
        git(&person, &["fetch", "--quiet", "origin"]);
        git(&person, &["merge", "--quiet", "--no-ff", "-m", "Merge the task", head.as_str()]);
        if more {
            commit_file(&person, "code.txt", "one\ntwo\nthree\nfour\nfive\n", "And more");
        }
        git(&person, &["push", "--quiet", "origin", "main"]);
        world.retry(&task).await.expect("it looks again");
        world.expect_status(&task, Status::Done).await;
        let view = world.control().coverage(&"demo".parse().expect("a name")).await.expect("a view");
        let baseline = view.baseline.map(|baseline| (baseline.share.covered, baseline.share.total));
        assert_eq!(baseline, (!more).then_some((4, 4)), "what nobody measured moves nothing");
        world.close().await;
    }
}

fn bare(repo: &Path) {
    let person = repo.with_file_name("person");
    repository(&person);
    git(&person, &["clone", "--quiet", "--bare", ".", repo.to_str().expect("a path in UTF-8")]);
    git(&person, &["remote", "add", "origin", repo.to_str().expect("a path in UTF-8")]);
}

// ------------------------------------------------------------------------------------------------ killed, stopped, failed

/// Each task adds a covered file to one line that is not: the share rises with every landing.
const RISING: &str = "{ echo SF:check.sh; echo DA:1,0; echo end_of_record; for f in made/*; do \
    [ ! -e $f ] || { echo SF:$f; echo DA:1,1; echo end_of_record; }; done; } > $ORCH_COVERAGE_REPORT; \
    echo 1 passed, 0 failed";
const TESTS: &str = "test: 'sh check.sh'";

fn rising() -> Outside {
    let world = Outside::new(MAKER);
    world.change_settings(TESTS, &format!("{TESTS}, coverage: '{RISING}', coverage_runs_tests: true"));
    world
}

/// After so many landings there are as many lines of history, the baseline has moved as often, and holds what landed last.
fn ratcheted(world: &Outside, landings: i64) {
    let expected = [
        ("SELECT count(*) FROM landings", landings),
        ("SELECT count(*) FROM coverage_history", landings),
        ("SELECT count(DISTINCT task) FROM coverage_history", landings),
        ("SELECT revision FROM coverage_baseline", landings),
        ("SELECT covered FROM coverage_baseline", landings),
        ("SELECT total FROM coverage_baseline", landings + 1),
        ("SELECT count(*) FROM journal WHERE kind = 'baseline-set'", landings),
    ];
    for (sql, number) in expected {
        assert_eq!(world.number(sql), number, "{sql}\n{}", world.log());
    }
}

#[test]
fn a_kill_anywhere_around_the_landing_ratchets_exactly_once() {
    let mut world = rising();
    world.start();
    let first = world.submit("Make the list of points");
    world.until_closed(std::slice::from_ref(&first));
    ratcheted(&world, 1);
    let points = world.journal(&first);
    let begin = points.iter().position(|point| point == "gate-passed").expect("the gates passed");
    let mut keys = vec![first];
    // Behind every entry from the first gate to the end; every second time killed again in the recovery.
    for at in begin + 1..=points.len() {
        let key = world.submit(&format!("Be killed behind entry {at}"));
        world.until(&format!("entry {at} of {key}"), || world.journal(&key).len() >= at);
        world.kill();
        if at % 2 == 0 && world.number("SELECT count(*) FROM tasks WHERE done_at IS NULL") > 0 {
            world.start_and_kill();
        }
        world.start();
        keys.push(key);
        world.until_closed(&keys);
        ratcheted(&world, i64::try_from(keys.len()).expect("small"));
    }
    world.close(&keys);
}

#[test]
fn a_kill_while_main_is_moved_ratchets_once_whoever_closes_the_window() {
    for through_before_start in [true, false] {
        let mut world = rising();
        let hold = world.hold_pushes();
        world.start();
        let key = world.submit("Be cut in the window");
        world.until("a push at the door", || hold.entered());
        world.kill();
        assert_eq!(world.number("SELECT count(*) FROM coverage_history"), 0, "nothing has landed");
        if through_before_start {
            hold.let_through();
            world.until("main to move", || git(&world.repo, &["ls-tree", "--name-only", "main", "made/"]).len() > 1);
        }
        world.start();
        hold.let_through();
        world.until_closed(std::slice::from_ref(&key));
        ratcheted(&world, 1);
        world.close(&[key]);
    }
}

#[test]
fn a_landing_that_is_turned_down_ratchets_nothing() {
    let mut world = rising();
    let hold = world.hold_pushes();
    world.start();
    let key = world.submit("Be turned down");
    world.until("a push at the door", || hold.entered());
    hold.turn_down();
    world.until("the window to be closed", || {
        world.number("SELECT count(*) FROM windows WHERE closed_at IS NOT NULL") > 0
    });
    assert_eq!(world.number("SELECT count(*) FROM coverage_history"), 0);
    assert_eq!(world.number("SELECT count(*) FROM coverage_baseline"), 0);
    world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
    world.until_closed(&[key]);
}

#[test]
fn what_landed_ratchets_although_its_task_was_stopped_or_its_deploy_failed() {
    // Stopped in the window: it lands, and counts.
    let mut world = rising();
    let hold = world.hold_pushes();
    world.start();
    let key = world.submit("Be stopped in the window");
    world.until("a push at the door", || hold.entered());
    world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
    hold.let_through();
    world.until_closed(std::slice::from_ref(&key));
    ratcheted(&world, 1);

    // The deploy fails behind the landing: it has landed, and counts; tried again, it does not count again.
    let mut world = rising();
    world.change_settings(TESTS, &format!("{TESTS}, deploy: 'exit 1'"));
    world.start();
    let key = world.submit("Fail to deploy");
    let blocked = format!("SELECT count(*) FROM tasks WHERE status = '{}'", Status::Blocked.as_str());
    world.until("the task to be blocked", || world.number(&blocked) == 1);
    ratcheted(&world, 1);
    world.kill();
    world.start();
    world.verb(&["task", "retry", &key]).expect("it is tried again");
    let deploys = "SELECT count(*) FROM windows WHERE kind = 'deploy' AND closed_at IS NOT NULL";
    world.until("the second deploy", || world.number(deploys) >= 2 && world.number(&blocked) == 1);
    ratcheted(&world, 1);
    world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
    world.until_closed(&[key]);
}

// ---------------------------------------------------------------------------------------------------------- by people

#[test]
fn a_person_sets_a_baseline_with_a_reason_and_everybody_can_see_who_and_why() {
    let mut world = rising();
    world.start();
    let key = world.submit("Make something");
    world.until_closed(std::slice::from_ref(&key));
    fn words<'a>(args: &[&'a str]) -> Vec<&'a str> {
        [&["baseline", "set", "--repo", "demo"], args].concat()
    }
    for (args, said) in [
        (vec!["--covered", "9", "--total", "8", "--reason", "x"], "9 covered of 8 lines cannot be"),
        (vec!["--last", "--reason", "  "], "a baseline is set with a reason"),
        (vec!["--covered", "1", "--total", "1000000000001", "--reason", "x"], "too many"),
        (vec!["--covered", "0", "--total", "0", "--reason", "start over"], "0 of 0 lines is no share"),
        (vec!["--last", "--replaces", "7", "--reason", "x"], "was changed meanwhile (revision 1)"),
        (vec!["--last", "--sha", &"d".repeat(40), "--reason", "x"], "there is no commit ddd"),
    ] {
        let refused = world.verb(&words(&args)).expect_err("refused");
        assert!(refused.contains(said), "{args:?}: {refused}");
    }
    ratcheted(&world, 1);
    let by_hand = words(&["--covered", "1", "--total", "4", "--reason", "the old parser is gone"]);
    let view = world.verb(&by_hand).expect("set");
    let baseline = &view[0]["baseline"];
    assert_eq!((&baseline["covered"], &baseline["revision"], &baseline["step"]), (&json!(1), &json!(2), &json!("set")));
    let who = baseline["set_by"].as_str().expect("a name").to_owned();
    assert!(!who.is_empty());
    let audited =
        "SELECT count(*) FROM journal WHERE kind = 'baseline-set' AND instr(text, 'the old parser is gone') > 0";
    assert_eq!(world.number(audited), 1);
    let history = world.verb(&["baseline", "show", "--repo", "demo", "--history", "9"]).expect("history");
    let steps: Vec<&Value> = history.as_array().expect("lines").iter().map(|line| &line["step"]).collect();
    assert_eq!(steps, [&json!("set"), &json!("first")]);
    // Back to what landed; and it outlives the supervisor.
    world.verb(&words(&["--last", "--reason", "what landed counts"])).expect("set");
    world.kill();
    world.start();
    let view = world.verb(&["baseline", "show", "--repo", "demo"]).expect("a view");
    assert_eq!((&view[0]["baseline"]["covered"], &view[0]["baseline"]["total"]), (&json!(1), &json!(2)));
    // With the lines that were measured then; and what landed last is found behind any number of settings.
    let taken = "SELECT count(*) FROM coverage_baseline b JOIN coverage_history h ON h.measurement = b.measurement \
                 WHERE h.task IS NOT NULL";
    assert_eq!(world.number(taken), 1);
    for n in 2..24 {
        let set = words(&["--covered", "1", "--total", "9", "--reason", "again"]);
        let revision = &world.verb(&set).expect("set")[0]["baseline"]["revision"];
        assert_eq!(revision, &json!(n + 2));
    }
    let view = world.verb(&words(&["--last", "--replaces", "25", "--reason", "what landed counts"])).expect("set");
    assert_eq!((&view[0]["baseline"]["covered"], &view[0]["last"]["covered"]), (&json!(1), &json!(1)));
    world.close(&[key]);
}

#[test]
fn by_hand_the_gate_measures_base_and_head_and_leaves_nothing() {
    let root = tempfile::Builder::new().prefix("orch-c").tempdir().expect("a temporary folder");
    let (repo, tmp) = (root.path().join("repo"), root.path().join("tmp"));
    repository(&repo);
    std::fs::create_dir(&tmp).expect("a folder");
    let orch = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
        command.args(["gate", "coverage"]).args(args).current_dir(&repo).env("TMPDIR", &tmp);
        command.env("HOME", &tmp).env_remove("ORCH_CONFIG");
        let out = command.output().expect("the program starts");
        let left: Vec<_> = std::fs::read_dir(&tmp).expect("readable").flatten().collect();
        assert!(left.is_empty(), "folders were left: {left:?}");
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.code().unwrap_or(-1), said)
    };
    git(&repo, &["checkout", "--quiet", "-b", "work"]);
    commit_file(&repo, "notes.txt", "x\n", "Note");
    // Nothing is named: it does not apply, and says so.
    let (code, text) = orch(&["--base", "main"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("not applicable: no coverage command is named"), "{text}");
    let named = ["--base", "main", "--coverage-cmd", "sh cover.sh"];
    let (code, text) = orch(&named);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("75.00 % (3 of 4 lines) is not below the baseline of 75.00 % (3 of 4 lines)"), "{text}");
    git(&repo, &["rm", "--quiet", "tests/test_b.txt"]);
    git(&repo, &["commit", "--quiet", "-m", "Tidy"]);
    let report = root.path().join("report.md");
    let (code, text) = orch(&[&named[..], &["--report", report.to_str().expect("a path")]].concat());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("code.txt: 3") && text.contains("the branch deletes tests: tests/test_b.txt"), "{text}");
    let report = std::fs::read_to_string(report).expect("kept");
    assert!(report.contains("coverage_status: failed") && report.contains("base was measured"), "{report}");
    // Base cannot be measured: nobody guesses, unless nothing is compared.
    let broken = ["--base", "main", "--coverage-cmd", "test -e notes.txt && sh cover.sh"];
    let (code, text) = orch(&broken);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("could not be measured"), "{text}");
    std::fs::write(root.path().join("orch.yaml"), "gates: {coverage: {mode: absolute, min: 40}}\n").expect("written");
    let settings = root.path().join("orch.yaml").display().to_string();
    let (code, text) = orch(&[&broken[..], &["--config", &settings]].concat());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("50.00 % (2 of 4 lines) is at least the minimum of 40.00 %"), "{text}");
    let (code, text) = orch(&["--base", "main", "--coverage-cmd", "no-such-tool"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("warning: coverage was NOT measured"), "{text}");
}
