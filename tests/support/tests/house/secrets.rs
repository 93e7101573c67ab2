//! This repository holds no secret: its own rules, read by the real scanner, over the tracked files and the whole history.

use std::process::Command;

use orch_test_support::tools;

use crate::at;

/// Runs the scanner as the security gate does: leaks are exit 42, and a run that says anything on its error channel did not
/// scan, whatever its exit code claims.
fn scan(arguments: &[&str], target: &std::path::Path) -> (i32, String) {
    let mut command = Command::new(tools::gitleaks());
    command.args(arguments).args([
        "--no-banner",
        "--no-color",
        "--redact",
        "--log-level",
        "error",
        "--exit-code",
        "42",
    ]);
    command
        .args(["--report-format", "json", "--report-path", "-"])
        .arg("--config")
        .arg(at(".gitleaks.toml"))
        .arg(target);
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "the scan did not run: {}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The staged tree as plain files: neither the build folder nor what is not tracked is anybody's promise.
fn staged() -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    let prefix = format!("--prefix={}/", room.path().display());
    let status = Command::new("git").args(["checkout-index", "--all", &prefix]).current_dir(at(".")).status().unwrap();
    assert!(status.success());
    room
}

#[test]
fn the_tracked_files_hold_no_secret() {
    let room = staged();
    let (code, report) = scan(&["dir"], room.path());
    assert_eq!(code, 0, "{report}");
}

#[test]
fn the_history_holds_no_secret() {
    let (code, report) = scan(&["git"], &at("."));
    assert_eq!(code, 0, "{report}");
}

/// The proof that silence above means something.
#[test]
fn our_own_rules_find_a_planted_token() {
    let room = staged();
    // In GitHub's format, put together at run time: this file must not trip the scan itself.
    let token = format!("ghp{}{}", '_', "x7Kq2Lm9Pz4Rt6Vw8Yb1Nc3Df5Gh0JsAeUi");
    std::fs::write(room.path().join("src/planted.rs"), format!("let github_token = \"{token}\";\n")).unwrap();
    let (code, report) = scan(&["dir"], room.path());
    assert_eq!(code, 42, "{report}");
    assert!(report.contains("planted.rs") && !report.contains(&token), "{report}");
}
