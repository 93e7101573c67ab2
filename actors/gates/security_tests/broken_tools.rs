//! Tools that are missing, fail, lie or hang; disks that are full; answers that are used again: each fails closed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use orch_adapters::secrets::EngineKind;
use orch_domain::time::Millis;

use super::*;

/// A repository whose branch holds a secret, so that a pass is always wrong.
async fn guilty() -> (Scene, CommitSha) {
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("src/a.rs", format!("const it = \"{}\";\n", token(50)));
    scene.commit("Work");
    (scene, base)
}

/// A program of ours in the place of gitleaks. `$report` is where its report is expected.
fn fake(folder: &Path, script: &str) -> String {
    let path = folder.join("gitleaks");
    let report = "for last; do report=$last; done\n";
    fs::write(&path, format!("#!/bin/sh\n{report}{script}\n")).expect("written");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("set");
    path.to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_engine_is_no_pass() {
    let (scene, base) = guilty().await;
    let none = |ctx: &mut Context| ctx.security.gitleaks = "no-such-program".to_owned();
    let answer = scene.judge_with(&base, EngineKind::Gitleaks, none).await;
    assert!(why(&answer).contains("not found"), "{answer:?}");
    assert_eq!(Scene::report(&answer).verdict.as_str(), "could_not_run");
    // Under `auto` the engine in this process steps in, and says so loudly.
    let answer = scene.judge_with(&base, EngineKind::Auto, none).await;
    findings(&answer);
    assert!(Scene::report(&answer).header.notes.iter().any(|note| note.contains("`no-such-program` was not found")));
    let pinned = |ctx: &mut Context| ctx.security.gitleaks_sha256 = Some("0".repeat(64));
    let answer = scene.judge_with(&base, EngineKind::Auto, pinned).await;
    assert!(why(&answer).contains("pins"), "one that is there but not the right one is never replaced: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_that_fails_or_lies_is_no_pass_and_is_never_replaced() {
    let (scene, base) = guilty().await;
    let tools = tempfile::tempdir().expect("a folder");
    let finding = r#"[{"RuleID":"x","Description":"","StartLine":1,"Match":"x","Secret":"x","File":"00000/0000000"}]"#;
    let elsewhere = finding.replace("00000/0000000", "99999/9999999");
    let version = "if [ \"$1\" = version ]; then echo 9.9.9; exit 0; fi\n";
    for (name, script, says) in [
        ("crashes", format!("{version}exit 2"), "exit code 2"),
        ("fails", format!("{version}exit 1"), "exit code 1"),
        ("has an unknown flag", format!("{version}exit 126"), "exit code 126"),
        ("is killed in the middle", format!("{version}kill -9 $$"), "did not end by itself"),
        ("says nothing and leaves nothing", version.to_owned(), "left no report"),
        ("finds nothing, not even what was planted", format!("{version}echo '[]' > \"$report\""), "planted"),
        ("leaves garbage", format!("{version}echo 'no leaks found' > \"$report\""), "no JSON array"),
        ("leaves half a report", format!("{version}echo '[{{\"RuleID\": \"x\"' > \"$report\""), "no JSON array"),
        ("leaves another shape", format!("{version}echo '{{\"findings\": []}}' > \"$report\""), "no JSON array"),
        ("says leaks and shows none", format!("{version}echo '[]' > \"$report\"; exit 42"), "holds 0 findings"),
        ("shows leaks and says none", format!("{version}echo '{finding}' > \"$report\""), "holds 1 findings"),
        (
            "shows a file that it was not given",
            format!("{version}echo '{elsewhere}' > \"$report\"; exit 42"),
            "not given to it",
        ),
        (
            "complains",
            format!("{version}echo '[]' > \"$report\"; echo 'WRN skipping file: permission denied' >&2"),
            "complains",
        ),
        ("floods", format!("{version}yes skipping | head -c 3000000 >&2; echo '[]' > \"$report\""), "skipping"),
        ("has no version", "exit 3".to_owned(), "gitleaks version"),
        ("has a story for a version", "yes | head -100".to_owned(), "gitleaks version"),
    ] {
        let program = fake(tools.path(), &script);
        for engine in [EngineKind::Gitleaks, EngineKind::Auto] {
            let program = program.clone();
            let answer = scene.judge_with(&base, engine, |ctx| ctx.security.gitleaks = program).await;
            assert!(why(&answer).contains(says), "{name}: {answer:?}");
            assert_silent(&answer, &token(50));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_that_hangs_is_ended_in_time() {
    let (scene, base) = guilty().await;
    let tools = tempfile::tempdir().expect("a folder");
    let program = fake(
        tools.path(),
        "if [ \"$1\" = version ]; then echo 9.9.9; exit 0; fi\ntrap '' TERM\nwhile :; do sleep 1; done",
    );
    let answer = scene
        .judge_with(&base, EngineKind::Gitleaks, |ctx| {
            ctx.security.gitleaks = program;
            ctx.security.timeout = Millis::from_secs(2);
            ctx.job_limits.usual.grace = Millis(100);
        })
        .await;
    assert!(why(&answer).contains("did not end within its time"), "{answer:?}");
    let answer = scene.judge_with(&base, EngineKind::Builtin, |ctx| ctx.security.timeout = Millis(0)).await;
    assert!(why(&answer).contains("did not end within its time"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_nothing_is_no_pass() {
    let (scene, base) = guilty().await;
    let in_the_way = scene.world.root.path().join("in-the-way");
    fs::write(&in_the_way, "").expect("written");
    for engine in ENGINES {
        let head = scene.publish().await;
        let mut ctx = scene.world.context();
        ctx.security.engine = engine;
        ctx.security.gitleaks = tools::gitleaks().to_string_lossy().into_owned();
        ctx.paths.checkouts = in_the_way.clone();
        let answer = bounded(security::run(&ctx, &scene.subject(&base, &head), &[])).await;
        assert!(why(&answer).contains("no folder for the scan"), "{answer:?}");
        ctx.paths = scene.world.paths();
        ctx.paths.reports = in_the_way.clone();
        let answer = bounded(security::run(&ctx, &scene.subject(&base, &head), &[])).await;
        assert!(why(&answer).contains("cannot be written") && answer.report.is_none(), "{answer:?}");
    }
}

/// The same on a real file system without space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "set ORCH_GATE_TEST_SMALL_DISK to an empty folder on a file system of less than 1 MiB"]
async fn a_really_full_disk_is_no_pass() {
    let folder = PathBuf::from(std::env::var_os("ORCH_GATE_TEST_SMALL_DISK").expect("names the folder"));
    let (scene, base) = guilty().await;
    scene.write("large.txt", "some text that is no secret\n".repeat(100_000));
    scene.commit("Large");
    let answer = scene.judge_with(&base, EngineKind::Gitleaks, |ctx| ctx.paths.checkouts = folder).await;
    assert!(why(&answer).contains("No space left"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_used_again_only_while_its_report_stands() {
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("src/a.rs", "nothing\n");
    scene.commit("Work");
    let first = scene.judge(&base, EngineKind::Builtin).await;
    let again = scene.judge(&base, EngineKind::Builtin).await;
    let CheckEnd::Passed { note, .. } = &again.end else { panic!("{again:?}") };
    assert!(note.contains("judged before, by run run1"), "{note}");
    assert_eq!(first.report, again.report);
    // Other rules, another engine: another question.
    let other = scene.judge(&base, EngineKind::Gitleaks).await;
    assert!(!format!("{other:?}").contains("judged before"), "{other:?}");
    // Somebody changed the report: it is made again, and says what is true.
    let path = &first.report.as_ref().expect("a report").path;
    let text = fs::read_to_string(path).expect("readable");
    fs::write(path, text.replace("commits", "sheep")).expect("written");
    let made_again = scene.judge(&base, EngineKind::Builtin).await;
    assert!(!format!("{made_again:?}").contains("judged before"), "{made_again:?}");
    Scene::report(&made_again);
    // Nothing that could not run is used again.
    let (scene, base) = guilty().await;
    let none = |ctx: &mut Context| ctx.security.gitleaks = "no-such-program".to_owned();
    why(&scene.judge_with(&base, EngineKind::Gitleaks, none).await);
    findings(&scene.judge(&base, EngineKind::Gitleaks).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_not_judged_before_is_looked_at_after_a_catch_up() {
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("a.txt", "a\n");
    scene.commit("Work");
    let own = scene.publish().await;
    scene.git(&["checkout", "--quiet", "-B", "main", base.as_str()]);
    scene.write("b.txt", "b\n");
    let main_at = scene.commit("Others");
    scene.git(&["checkout", "--quiet", "work"]);
    scene.git(&["rebase", "--quiet", "main"]);
    let blobs = |answer: &GateAnswer| {
        passed(answer);
        let counts = Scene::report(answer).header.counts;
        ["commits", "blobs"].map(|name| counts.iter().find(|count| count.name == name).expect("counted").value)
    };
    let head = scene.publish().await;
    let mut ctx = scene.world.context();
    ctx.security.engine = EngineKind::Builtin;
    let subject = scene.subject(&main_at, &head);
    assert_eq!(blobs(&bounded(security::run(&ctx, &subject, std::slice::from_ref(&own))).await), [1, 0]);
    assert_eq!(blobs(&bounded(security::run(&ctx, &subject, &[])).await), [1, 1]);
    // A conflict that was resolved with something new in it.
    scene.write("a.txt", format!("const it = \"{}\";\n", token(51)));
    scene.git(&["commit", "--quiet", "--all", "--amend", "-m", "Work, resolved"]);
    let head = scene.publish().await;
    let answer = bounded(security::run(&ctx, &scene.subject(&main_at, &head), &[own])).await;
    findings(&answer);
}
