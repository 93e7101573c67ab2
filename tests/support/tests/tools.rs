//! Each pinned tool is there, is the version it says, and does the one thing that our tests need it for. Needs the package
//! registries at the first run; none afterwards.

#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use orch_test_support::browser::{Browser, BrowserError};
use orch_test_support::install::hash_file;
use orch_test_support::tools;

fn run(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code().unwrap_or(-1), said)
}

/// A token in GitHub's format, put together at run time: the repository itself holds none.
fn token() -> String {
    let body: String =
        (0..36u32).map(|i| char::from(b"Ab3dE6gH1jKlMn0pQrStUv2xYz4c"[(i * 11 % 28) as usize])).collect();
    format!("ghp{}{body}", '_')
}

#[test]
fn gitleaks_tells_a_secret_from_none() {
    let gitleaks = tools::gitleaks();
    assert_eq!(run(Command::new(&gitleaks).arg("version")), (0, format!("{}\n", tools::GITLEAKS_VERSION)));
    let room = tempfile::tempdir().unwrap();
    let scan = || run(Command::new(&gitleaks).args(["dir", "--no-banner", "--exit-code", "42"]).arg(room.path())).0;
    fs::write(room.path().join("clean.txt"), "nothing here\n").unwrap();
    assert_eq!(scan(), 0);
    fs::write(room.path().join("config.txt"), format!("github_token = \"{}\"\n", token())).unwrap();
    assert_eq!(scan(), 42);
}

#[test]
fn gitleaks_is_the_pinned_binary_and_the_downloader_is_not_kept() {
    let gitleaks = tools::gitleaks();
    let pins = include_str!("../../../docs/deploy/tools/gitleaks.sha256");
    assert!(pins.contains(&format!("{} {}", hash_file(&gitleaks).unwrap(), std::env::consts::ARCH)));
    let folder = gitleaks.parent().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["gitleaks", "installed.txt", "pins.txt"]);
}

#[test]
fn pip_audit_starts() {
    let (code, said) = run(Command::new(tools::pip_audit()).arg("--version"));
    assert_eq!((code, said.trim()), (0, &*format!("pip-audit {}", tools::PIP_AUDIT_VERSION)));
}

/// The form in which the audit calls it: nothing installed, a feed given by address, JSON on standard output.
#[test]
fn pip_audit_reads_a_feed_of_our_own() {
    let (address, _server) = serve(r#"{"vulns": []}"#, "application/json");
    let room = tempfile::tempdir().unwrap();
    let list = room.path().join("requirements.txt");
    fs::write(&list, "left==1.0\n").unwrap();
    let flags = ["-s", "osv", "--format", "json", "--no-deps", "--disable-pip", "--progress-spinner", "off"];
    let mut audit = Command::new(tools::pip_audit());
    audit.args(flags).args(["--osv-url", &address]).arg("--requirement").arg(&list).arg("--cache-dir").arg(room.path());
    let (code, said) = run(&mut audit);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(r#""name": "left""#), "{said}");
}

#[test]
fn npm_needs_no_node_of_the_machine() {
    let bin = tools::nodejs();
    let version = run(Command::new(bin.join("node")).arg("--version"));
    assert_eq!(version, (0, format!("v{}\n", tools::NODEJS_VERSION)));
    // Only what a shell needs is in PATH, so a `node` that answers can only be ours.
    let script = ["exec", "--offline", "--call", "node --version"];
    let room = tempfile::tempdir().unwrap();
    let mut npm = Command::new(bin.join("npm"));
    npm.args(script).env("PATH", "/usr/bin:/bin").env("npm_config_cache", room.path()).current_dir(room.path());
    let (code, said) = run(&mut npm);
    // npm may add remarks of its own about the machine's settings.
    assert!(code == 0 && said.lines().any(|line| line == version.1.trim()), "{code}: {said}");
}

#[test]
fn pytest_measures_coverage() {
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("it.py"), "def f(x):\n    if x:\n        return 1\n    return 2\n").unwrap();
    fs::write(room.path().join("test_it.py"), "import it\n\ndef test_f():\n    assert it.f(1) == 1\n").unwrap();
    let python = tools::pytest_python();
    let arguments =
        ["-m", "pytest", "-p", "no:cacheprovider", "--cov=it", "--cov-report=json:cov.json", "--junitxml=j.xml"];
    let (code, said) = run(Command::new(&python).args(arguments).current_dir(room.path()));
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(room.path().join("cov.json")).unwrap()).unwrap();
    let totals = &report["totals"];
    assert_eq!((totals["covered_lines"].as_u64(), totals["num_statements"].as_u64()), (Some(3), Some(4)), "{totals}");
    assert!(fs::read_to_string(room.path().join("j.xml")).unwrap().contains("tests=\"1\""));
    let (code, said) = run(Command::new(python.with_file_name("pytest")).arg("--version"));
    assert_eq!(
        (code, said.trim()),
        (0, &*format!("pytest {}", tools::PYTEST_VERSION)),
        "the command's own path is right"
    );
}

#[test]
fn the_browser_runs_a_script_and_paints_text() {
    let page = "<!doctype html><meta charset=utf-8><body style='margin:0;background:#fff'><p id=p></p><script>
        setTimeout(() => { document.title = 'ready'; p.textContent = 'Größe ' + 6 * 7 }, 20)</script>";
    let (address, _server) = serve(page, "text/html");
    let mut browser = Browser::start().unwrap();
    browser.open(&address).unwrap();
    browser.wait_for("document.title === 'ready'", Duration::from_secs(10)).unwrap();
    assert_eq!(browser.text().unwrap(), "Größe 42");
    // A font was found: the paragraph has a size, and the picture is more than a white sheet.
    assert!(browser.evaluate("p.getBoundingClientRect().height").unwrap().as_f64().unwrap() > 5.0);
    let painted = browser.screenshot().unwrap();
    browser.evaluate("p.remove()").unwrap();
    let blank = browser.screenshot().unwrap();
    assert!(painted.starts_with(b"\x89PNG") && blank.starts_with(b"\x89PNG"));
    assert_ne!(painted, blank);
}

#[test]
fn the_browser_says_what_never_came() {
    let mut browser = Browser::start().unwrap();
    browser.open("data:text/html,<p>only this</p>").unwrap();
    let error = browser.wait_for("document.title === 'never'", Duration::from_millis(10)).unwrap_err();
    assert!(matches!(error, BrowserError::NeverTrue { .. }) && error.to_string().contains("only this"), "{error}");
    let error = browser.evaluate("nothing.here").unwrap_err();
    assert!(error.to_string().contains("ReferenceError"), "{error}");
    let closed = closed_port();
    assert!(browser.open(&format!("http://127.0.0.1:{closed}/")).is_err());
}

#[test]
fn a_dropped_browser_leaves_no_process_and_no_profile() {
    let browser = Browser::start().unwrap();
    let profile = browser.profile().to_owned();
    assert!(profile.exists() && processes_that_name(&profile) > 0);
    drop(browser);
    assert!(!profile.exists());
    assert_eq!(processes_that_name(&profile), 0);
}

fn processes_that_name(path: &Path) -> usize {
    let lines = fs::read_dir("/proc").unwrap().flatten().map(|entry| fs::read(entry.path().join("cmdline")));
    let wanted = path.to_str().unwrap();
    lines.flatten().filter(|line| String::from_utf8_lossy(line).contains(wanted)).count()
}

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Serves one body to whoever asks on loopback, until the test program ends.
fn serve(body: &'static str, kind: &'static str) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                }
                line.clear();
            }
            let mut asked = vec![0; length];
            let _unread = std::io::Read::read_exact(&mut reader, &mut asked);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    (address, server)
}
