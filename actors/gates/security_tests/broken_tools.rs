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

/// Runs one of the ignored tests below in a process of its own, started by these words.
fn in_a_process(words: &[&str], folder: &Path, test: &str) {
    let mut command = Program::new(words[0]);
    command.args(&words[1..]).arg(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "--ignored", "--nocapture"])
        .arg(format!("{}::{test}", module_path!().split_once("::").expect("a crate").1));
    let out = command.env("ORCH_GATE_TEST_SMALL_DISK", folder).output().expect("it starts");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.contains("1 passed"), "{words:?}: {said}");
}

/// On a real file system of 256 KiB: of the machine's root, or of a user in a namespace of its own. Where neither may be
/// had, files that may not grow stand for it.
#[test]
fn a_really_full_disk_is_no_pass() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_string_lossy().into_owned();
    let is_root = fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    let own: &[&str] =
        if is_root { &["unshare", "--mount"] } else { &["unshare", "--user", "--map-root-user", "--mount"] };
    let script = "mount -t tmpfs -o size=256k none \"$1\" && shift && exec \"$@\"";
    let may = Program::new(own[0]).args(&own[1..]).args(["sh", "-c", script, "sh", &path, "true"]).status();
    if may.is_ok_and(|status| status.success()) {
        in_a_process(
            &[own, &["sh", "-c", script, "sh", &path]].concat(),
            folder.path(),
            "on_a_file_system_without_space",
        );
    }
    in_a_process(&["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"], folder.path(), "where_files_may_not_grow");
}

/// A branch with a secret in a file that is larger than the disk.
async fn guilty_and_large() -> (Scene, CommitSha, PathBuf) {
    let folder = PathBuf::from(std::env::var_os("ORCH_GATE_TEST_SMALL_DISK").expect("names the folder"));
    let (scene, base) = guilty().await;
    scene.write("large.txt", "some text that is no secret\n".repeat(100_000));
    scene.commit("Large");
    (scene, base, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of another test, on a file system of 256 KiB"]
async fn on_a_file_system_without_space() {
    let (scene, base, folder) = guilty_and_large().await;
    let place = folder.join("checkouts");
    let answer = scene.judge_with(&base, EngineKind::Gitleaks, |ctx| ctx.paths.checkouts = place).await;
    assert!(why(&answer).contains("No space left"), "{answer:?}");
    let filled = fs::write(folder.join("filler"), vec![b'x'; 1 << 20]);
    assert!(filled.is_err(), "it is full now");
    for engine in ENGINES {
        let answer = scene.judge_with(&base, engine, |ctx| ctx.paths.reports = folder.join("reports")).await;
        assert!(why(&answer).contains("cannot be written") && answer.report.is_none(), "{engine:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of another test, since it bounds the files of its whole process"]
async fn where_files_may_not_grow() {
    let (scene, base, _) = guilty_and_large().await;
    let bound = |most: &str| {
        let own = std::process::id().to_string();
        let set = Program::new("prlimit").args(["--pid", &own, &format!("--fsize={most}")]).status();
        assert!(set.expect("prlimit runs").success());
    };
    let head = scene.publish().await;
    let mut ctx = scene.world.context();
    ctx.security.gitleaks = tools::gitleaks().to_string_lossy().into_owned();
    for (engine, most, says) in
        [(EngineKind::Gitleaks, "8192", "File too large"), (EngineKind::Builtin, "200", "cannot be written")]
    {
        bound(&format!("{most}:unlimited"));
        ctx.security.engine = engine;
        let answer = bounded(security::run(&ctx, &scene.subject(&base, &head), &[])).await;
        assert!(why(&answer).contains(says), "{engine:?}: {answer:?}");
    }
}

/// Somebody who may write where we write changes the report while it is being put in place, or right after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_is_changed_between_writing_and_reading_is_no_pass() {
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("a.txt", "nothing\n");
    scene.commit("Work");
    let head = scene.publish().await;
    let mut ctx = scene.world.context();
    ctx.security.engine = EngineKind::Builtin;
    let mut caught = 0;
    for round in 0..300 {
        let mut subject = scene.subject(&base, &head);
        subject.run = format!("run{round}").parse().expect("an id");
        // Another question each time, so that nothing is used again.
        ctx.security.limits.commits = 1_000 + round;
        let folder = ctx.paths.reports.join(subject.key.slug()).join(subject.generation.to_string());
        let folder = folder.join(format!("{}-{}-on-{}", subject.run, head.short(), base.short()));
        fs::create_dir_all(&folder).expect("made");
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (place, end) = (folder.clone(), over.clone());
        let attacker = std::thread::spawn(move || {
            while !end.load(std::sync::atomic::Ordering::Relaxed) {
                for entry in fs::read_dir(&place).expect("readable").flatten() {
                    if let Ok(mut file) = fs::OpenOptions::new().append(true).open(entry.path()) {
                        file.write_all(b"\nAll is well.\n").expect("written");
                        return;
                    }
                }
            }
        });
        let answer = bounded(security::run(&ctx, &subject, &[])).await;
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        attacker.join().expect("ended");
        match &answer.end {
            CheckEnd::Failed { findings } => {
                assert!(findings.contains("the verdict does not stand"), "{findings}");
                caught += 1;
            }
            // It came later: then the next reader sees it.
            CheckEnd::Passed { .. } => {
                let report = answer.report.clone().expect("a report");
                let text = fs::read_to_string(&report.path).expect("readable");
                assert_eq!(crate::gates::conclude::reread(&report).await.is_err(), text.contains("All is well."));
            }
            other => panic!("{other:?}"),
        }
        if caught >= 3 {
            return;
        }
    }
    panic!("in 300 rounds the change came in time {caught} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_used_again_only_while_its_report_stands() {
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("src/a.rs", "nothing\n");
    scene.commit("Work");
    let first = scene.judge(&base, EngineKind::Builtin).await;
    let again = scene.judge(&base, EngineKind::Builtin).await;
    let CheckEnd::Passed { note, .. } = again.clone().told() else { panic!("{again:?}") };
    assert!(note.contains("judged before, by run run1"), "{note}");
    assert_eq!(first.report, again.report);
    // Other rules, another engine: another question.
    let other = scene.judge(&base, EngineKind::Gitleaks).await;
    assert!(!other.was_known(), "{other:?}");
    // Somebody changed the report: it is made again, and says what is true.
    let path = &first.report.as_ref().expect("a report").path;
    let text = fs::read_to_string(path).expect("readable");
    fs::write(path, text.replace("commits", "sheep")).expect("written");
    let made_again = scene.judge(&base, EngineKind::Builtin).await;
    assert!(!made_again.was_known(), "{made_again:?}");
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
