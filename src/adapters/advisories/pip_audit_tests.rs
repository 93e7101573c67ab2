//! What counts as an answer of pip-audit, on recorded and on made-up documents. The real tool is asked in
//! `tests/advisories`.

use std::sync::Mutex;

use orch_domain::job::JobExit;
use orch_domain::time::Timestamp;

use super::*;
use crate::git::Owner;
use crate::ports::JobError;

/// Plays a job that leaves the same documents each time.
struct Plays {
    stdout: &'static str,
    stderr: &'static str,
    end: JobEnd,
    specs: Mutex<Vec<JobSpec>>,
    lists: Mutex<Vec<String>>,
}

#[async_trait]
impl Exec for Plays {
    async fn run(&self, spec: JobSpec) -> Result<ExecOutput, JobError> {
        let list = std::fs::read_to_string(spec.cwd.join("requirements.txt"));
        self.lists.lock().expect("whole").extend(list);
        self.specs.lock().expect("whole").push(spec);
        let exit = JobExit {
            end: self.end.clone(),
            started: None,
            ended: Timestamp(0),
            proven_gone: true,
            swept: 0,
            log_cut: false,
        };
        Ok(ExecOutput { exit, stdout: self.stdout.into(), stderr: self.stderr.into() })
    }
}

fn packages(all: &[(&str, &str)]) -> BTreeSet<Package> {
    all.iter().map(|(name, version)| Package::new(Ecosystem::PyPi, name, version).expect("valid")).collect()
}

async fn answers(
    stdout: &'static str,
    stderr: &'static str,
    end: JobEnd,
    asked: &[(&str, &str)],
) -> (Answers, Arc<Plays>) {
    let root = tempfile::tempdir().expect("a folder");
    let plays = Arc::new(Plays { stdout, stderr, end, specs: Mutex::default(), lists: Mutex::default() });
    let tool = PipAudit {
        program: "pip-audit".to_owned(),
        endpoint: "http://127.0.0.1:1/".to_owned(),
        tooling: Tooling {
            exec: plays.clone(),
            path: "/usr/bin".to_owned(),
            env: BTreeMap::new(),
            read: Vec::new(),
            data: Some(PathBuf::from("/data")),
            limits: JobLimits::default(),
        },
        version: OnceCell::new(),
    };
    let asker = Asker {
        owner: Owner::default(),
        scratch: root.path().to_owned(),
        deadline: Instant::now() + std::time::Duration::from_secs(60),
        now: Timestamp(0),
    };
    (tool.ask(&asker, &packages(asked)).await, plays)
}

/// The one answer, as a line: advisories, then trouble.
async fn one(stdout: &'static str, stderr: &'static str, code: i32) -> String {
    let (answers, _) = answers(stdout, stderr, JobEnd::Exited { code }, &[("jinja2", "2.4.1")]).await;
    assert_eq!(answers.by_package.len(), 1);
    let answer = answers.by_package.values().next().expect("one");
    let ids: Vec<&str> = answer.advisories.iter().map(|advisory| advisory.id.as_str()).collect();
    format!("{} | {}", ids.join(" "), answer.trouble.as_deref().unwrap_or("none"))
}

#[tokio::test]
async fn the_document_counts_and_the_exit_code_does_not() {
    let clean = r#"{"dependencies": [{"name": "jinja2", "version": "2.4.1", "vulns": []}], "fixes": []}"#;
    let bad = r#"{"dependencies": [{"name": "Jinja2", "version": "2.4.1", "vulns": [{"id": "CVE-1", "fix_versions": ["3"], "aliases": ["GHSA-a", "CVE-1"], "description": "x"}]}]}"#;
    for code in [0, 1, 2, 137] {
        assert_eq!(one(clean, "", code).await, " | none");
        assert_eq!(one(bad, "", code).await, "CVE-1 | none");
    }
}

#[tokio::test]
async fn no_document_is_no_answer_whatever_the_exit_code() {
    for code in [0, 1] {
        let said = one("", "Traceback\n  x\nrequests.exceptions.ConnectionError: refused\n", code).await;
        assert_eq!(said, " | pip-audit: it left no document, and said: requests.exceptions.ConnectionError: refused");
        for garbage in
            ["[]", "{}", "{\"dependencies\": {}}", "<html>", "{\"dependencies\": [", "No known vulnerabilities found"]
        {
            let said = one(garbage, "", code).await;
            assert!(said.starts_with(" | pip-audit: it left a document that is not understood"), "{said}");
        }
    }
}

#[tokio::test]
async fn what_is_skipped_or_left_out_is_unknown() {
    let skipped = r#"{"dependencies": [{"name": "jinja2", "skip_reason": "Dependency not found on PyPI"}]}"#;
    assert_eq!(one(skipped, "", 0).await, " | pip-audit skipped it: Dependency not found on PyPI");
    for silent in [r#"{"dependencies": []}"#, r#"{"dependencies": [{"name": "jinja2", "version": "2.4.1"}]}"#] {
        assert_eq!(one(silent, "", 0).await, " | pip-audit did not answer for it");
    }
    let other = r#"{"dependencies": [{"name": "jinja2", "version": "2.4.2", "vulns": []}]}"#;
    assert_eq!(one(other, "", 0).await, " | pip-audit answered for another version");
    let normal = r#"{"dependencies": [{"name": "jinja2", "version": "2.4.1.0", "vulns": []}]}"#;
    assert_eq!(one(normal, "", 0).await, " | none", "the same version in another spelling");
}

#[tokio::test]
async fn an_advisory_that_the_tool_passes_over_is_trouble() {
    let clean = r#"{"dependencies": [{"name": "jinja2", "version": "2.4.1", "vulns": []}]}"#;
    let harmless = "WARNING:pip_audit._cli:--no-deps is supported, but\nNo known vulnerabilities found\n";
    assert_eq!(one(clean, harmless, 0).await, " | none");
    let newer = "WARNING:pip_audit._service.osv:Unsupported OSV schema version: 2.0\n";
    assert!(one(clean, newer, 0).await.contains("passed over an advisory"));
}

#[tokio::test]
async fn a_run_that_was_ended_or_could_not_begin_is_no_answer() {
    let clean = r#"{"dependencies": [{"name": "jinja2", "version": "2.4.1", "vulns": []}]}"#;
    for end in
        [JobEnd::TimedOut, JobEnd::Signalled { signal: 9 }, JobEnd::CouldNotStart { why: "no such file".to_owned() }]
    {
        let (answers, _) = answers(clean, "", end, &[("jinja2", "2.4.1")]).await;
        let answer = answers.by_package.values().next().expect("one");
        assert!(answer.trouble.is_some() && answer.advisories.is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn the_tool_reads_a_list_of_ours_and_no_name_twice() {
    let document = r#"{"dependencies": []}"#;
    let asked = [("jinja2", "1.0"), ("jinja2", "2.0"), ("flask", "1.0")];
    let (answers, plays) = answers(document, "", JobEnd::Exited { code: 0 }, &asked).await;
    assert_eq!(answers.by_package.len(), 3);
    assert_eq!(*plays.lists.lock().expect("whole"), ["flask==1.0\njinja2==1.0\n", "jinja2==2.0\n"]);
    let specs = plays.specs.lock().expect("whole");
    for spec in specs.iter().filter(|spec| spec.argv.len() > 2) {
        let line = spec.argv.join(" ");
        assert!(
            line.contains("--osv-url http://127.0.0.1:1/v1/query ") && line.ends_with("--no-deps --disable-pip"),
            "{line}"
        );
        assert!(spec.confinement.enforced && spec.confinement.deny == [PathBuf::from("/data")]);
        assert_eq!(spec.confinement.write, std::slice::from_ref(&spec.cwd).to_vec());
    }
}

#[test]
fn an_environment_is_open_with_what_it_was_made_from_and_nothing_beside_it() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |path: &str| root.path().canonicalize().expect("a path").join(path);
    for folder in ["venv/bin", "python/bin", "bin"] {
        std::fs::create_dir_all(at(folder)).expect("made");
    }
    std::fs::write(at("venv/bin/pip-audit"), "").expect("written");
    std::os::unix::fs::symlink(at("venv/bin/pip-audit"), at("bin/pip-audit")).expect("a link");
    assert_eq!(installation(&at("bin/pip-audit")), Vec::<PathBuf>::new(), "no environment");
    std::fs::write(at("venv/pyvenv.cfg"), format!("home = {}\n", at("python/bin").display())).expect("written");
    assert_eq!(installation(&at("bin/pip-audit")), [at("venv"), at("python")]);
    std::fs::write(at("venv/pyvenv.cfg"), "home = /usr/bin\nversion = 3\n").expect("written");
    assert_eq!(installation(&at("bin/pip-audit")), [at("venv")]);
    assert_eq!(installation(&at("gone")), Vec::<PathBuf>::new());
}
