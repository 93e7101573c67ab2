//! Tests of the verbs: help as a snapshot, client verbs against a served desk, `run` and `serve` against a fake engine.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use clap::CommandFactory as _;
use orch_actors::api::Control;
use orch_domain::gate::Verdict;
use orch_domain::stop::Level;

use super::*;
use crate::http::fake::FakeControl;
use crate::http::{HttpSettings, Token, write_address};

const TOKEN: &str = "sesame-sesame-sesame";

/// What a verb wrote.
#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("sound").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("sound")).into_owned()
    }
}

/// An engine without an engine: the fake desk, and what it was asked.
struct FakeStarter {
    control: Arc<FakeControl>,
    owned: bool,
    told: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Prepared for FakeEngine {
    async fn begin(self: Box<Self>) -> Result<Box<dyn Engine>, StartError> {
        self.told.lock().expect("sound").push("begin".to_owned());
        Ok(self)
    }
}

struct FakeEngine {
    control: Arc<FakeControl>,
    told: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl EngineStarter for FakeStarter {
    async fn prepare(&self, config: Config) -> Result<Box<dyn Prepared>, StartError> {
        if self.owned {
            return Err(StartError::Owned { data_dir: config.data_dir, by: "process 4711".to_owned() });
        }
        std::fs::create_dir_all(&config.data_dir).expect("writable");
        self.told.lock().expect("sound").push("prepare".to_owned());
        Ok(Box::new(FakeEngine { control: Arc::clone(&self.control), told: Arc::clone(&self.told) }))
    }

    async fn look(&self, config: &Config, _: Sight) -> Result<Option<Looked>, StartError> {
        if self.owned {
            return Err(StartError::Owned { data_dir: config.data_dir.clone(), by: "process 4711".to_owned() });
        }
        // What the store's file stands for: somebody has worked there.
        let control = Arc::clone(&self.control) as Arc<dyn Control>;
        Ok(config.data_dir.join("orch.db").exists().then_some(Looked { control, scratch: None }))
    }

    async fn backup(&self, _: &Config, to: &Path) -> Result<String, StartError> {
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        std::fs::write(to, "").expect("a new file in a folder that there is");
        self.told.lock().expect("sound").push(format!("backup {name}"));
        Ok("verified".to_owned())
    }

    async fn restore(&self, config: &Config, _: &Path) -> Result<String, StartError> {
        Err(StartError::Owned { data_dir: config.data_dir.clone(), by: "process 4711".to_owned() })
    }

    async fn probe(&self, _: &Config) -> Vec<Probe> {
        vec![Probe { name: "shim".to_owned(), health: Health::Warn, text: "no cgroup".to_owned() }]
    }

    async fn gate(&self, _: Config, args: &GateArgs) -> Result<GateOutcome, CliError> {
        let sha = |c: &str| c.repeat(40).parse().expect("hex");
        let verdict = match args.head.as_str() {
            "good" => Verdict::Passed,
            "bad" => Verdict::Failed,
            "odd" => Verdict::CouldNotRun,
            other => return Err(CliError::Usage(format!("`{other}` is no commit"))),
        };
        Ok(GateOutcome {
            gate: args.name,
            verdict,
            base: sha("a"),
            head: sha("b"),
            text: "what it says\u{1b}[31m".to_owned(),
            warnings: vec!["look".to_owned()],
            report: Some("---\nx: y\n---\n".to_owned()),
        })
    }

    async fn demo(&self, _: &DemoArgs, _: &mut Output) -> u8 {
        7
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn control(&self) -> Arc<dyn Control> {
        Arc::clone(&self.control) as Arc<dyn Control>
    }

    async fn shutdown(&self, level: Level, _: Duration) {
        self.told.lock().expect("sound").push(format!("{level:?}"));
    }

    async fn handover_asked(&self) {
        std::future::pending().await
    }

    async fn hand_over(&self, _: Duration) {
        self.told.lock().expect("sound").push("hand over".to_owned());
    }
}

/// A place with settings, data folder, environment and starter.
struct Place {
    dir: tempfile::TempDir,
    control: Arc<FakeControl>,
    told: Arc<Mutex<Vec<String>>>,
    owned: bool,
    env: Env,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).expect("made");
        // Agents are looked up before anything is begun; these are never started.
        let agents = dir.path().join("agents");
        std::fs::create_dir(&agents).expect("made");
        for name in ["claude", "codex"] {
            std::fs::write(agents.join(name), "").expect("written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(agents.join(name), mode).expect("it can be run");
        }
        let pairs = [
            ("HOME", dir.path().to_string_lossy().into_owned()),
            ("PATH", format!("{}:{}", agents.display(), std::env::var("PATH").unwrap_or_default())),
            ("USER", "me".to_owned()),
            ("ORCH_DATA_DIR", data.to_string_lossy().into_owned()),
            ("ORCH_TOKEN", TOKEN.to_owned()),
        ];
        let env = pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        Self { dir, control: FakeControl::with_tasks(), told: Arc::default(), owned: false, env }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Runs a command line: exit code, standard output, standard error.
    async fn orch(&self, args: &[&str]) -> (u8, String, String) {
        let words = std::iter::once("orch").chain(args.iter().copied());
        let cli = Cli::try_parse_from(words).expect("a valid command line");
        let starter =
            FakeStarter { control: Arc::clone(&self.control), owned: self.owned, told: Arc::clone(&self.told) };
        let (out, err) = (Written::default(), Written::default());
        let json = cli.global.json;
        let mut output = Output::to(Box::new(out.clone()), Box::new(err.clone()), false, json);
        let ran = run_to(cli, self.env.clone(), Arc::new(starter), &mut output);
        let code = tokio::time::timeout(Duration::from_secs(30), ran).await.expect("in time");
        (code, out.text(), err.text())
    }

    /// Serves the desk and writes its address into a data folder.
    async fn serve_in(&self, data: &Path) {
        self.serve_as(data, None).await;
    }

    /// The same, as an owner with settings of this digest.
    async fn serve_as(&self, data: &Path, digest: Option<String>) {
        let token = Token::given(TOKEN, "test").expect("long enough");
        let mut settings = HttpSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), Vec::new(), token);
        settings.work_digest = digest;
        let control: Arc<dyn Control> = Arc::clone(&self.control) as Arc<dyn Control>;
        let (addr, serving) = crate::http::serve(control, settings, std::future::pending()).await.expect("a free port");
        tokio::spawn(serving);
        std::fs::create_dir_all(data).expect("made");
        write_address(&data.join("http.addr"), addr).expect("written");
    }

    fn repo(&self) -> String {
        let repo = self.dir.path().join("shop");
        std::fs::create_dir_all(repo.join(".git")).expect("made");
        repo.to_string_lossy().into_owned()
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().expect("sound").clone()
    }
}

fn one_line(code: u8, err: &str, expected_code: u8, expected: &str) {
    assert_eq!(err.lines().count(), 1, "exactly one line: {err}");
    assert!(err.starts_with("orch: ") && err.contains(expected), "expected `{expected}`: {err}");
    assert_eq!(code, expected_code, "{err}");
}

#[test]
fn the_help_of_each_verb_is_as_it_was() {
    let mut all = String::new();
    fn walk(command: &mut clap::Command, path: &str, all: &mut String) {
        let help = command.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        all.push_str(&format!("===== {path}\n{}\n\n", help.join("\n").trim_end()));
        for sub in command.get_subcommands_mut().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            walk(sub, &path, all);
        }
    }
    let mut command = Cli::command().term_width(100);
    command.build();
    walk(&mut command, "orch", &mut all);
    insta::assert_snapshot!("help", all);
}

#[test]
fn usage_errors_are_sixty_four_and_help_is_success() {
    assert_eq!(parse(["orch", "tsk"]).err(), Some(64));
    assert_eq!(parse(["orch", "task", "list", "--lmit", "3"]).err(), Some(64));
    assert_eq!(parse(["orch", "run", "--title", "x", "--no-tests", "--test-cmd", "y"]).err(), Some(64));
    assert_eq!(parse(["orch", "task", "add", "--title", "x", "--key", "../x"]).err(), Some(64));
    assert!(parse(["orch", "task", "list", "--json"]).is_ok_and(|cli| cli.global.json));
}

#[tokio::test]
async fn client_verbs_show_what_the_desk_says() {
    let place = Place::new();
    place.serve_in(&place.data()).await;
    let last = ["baseline", "set", "--repo", "shop", "--last", "--reason", "what landed counts"];
    let verbs: [(&str, &[&str]); 21] = [
        ("baseline_show", &["baseline", "show"]),
        ("baseline_show_json", &["baseline", "show", "--repo", "shop", "--json"]),
        ("baseline_history", &["baseline", "show", "--repo", "shop", "--history", "5"]),
        ("baseline_set", &last),
        ("task_list", &["task", "list", "--all"]),
        ("task_show", &["task", "show", "ORC-4"]),
        ("task_show_blocked", &["task", "show", "ORC-3"]),
        ("why", &["why", "ORC-1"]),
        ("why_blocked", &["why", "ORC-3"]),
        ("why_json", &["why", "ORC-1", "--json"]),
        ("receipt", &["receipt", "ORC-2"]),
        ("ps", &["ps"]),
        ("actors", &["actors"]),
        ("repo_list", &["repo", "list"]),
        ("repo_pause", &["repo", "pause", "shop", "--why", "main is red", "--drain"]),
        ("repo_resume", &["repo", "resume", "shop"]),
        ("salvage_list", &["salvage", "list"]),
        ("salvage_show", &["salvage", "show", "orc-2/1/t002r0"]),
        ("proof", &["proof", "shop"]),
        ("logs", &["logs", "ORC-4", "-f"]),
        ("task_add", &["task", "add", "--title", "New", "--body", "Text", "--priority", "-3"]),
    ];
    for (name, args) in verbs {
        let (code, out, err) = place.orch(args).await;
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        insta::assert_snapshot!(name, out);
    }
    // What does not fit is named, and is the exit code.
    let (code, out, _) = place.orch(&["proof", "--task", "ORC-3", "--verify"]).await;
    assert_eq!(code, 1, "{out}");
    insta::assert_snapshot!("proof_wrong", out);
    assert_eq!(place.orch(&["proof", "--task", "ORC-2", "--verify"]).await.0, 0);
    assert_eq!(place.orch(&["task", "stop", "ORC-2"]).await.0, 0);
    assert_eq!(place.orch(&["repo", "stop", "shop"]).await.0, 0);
    assert_eq!(place.orch(&["salvage", "restore", "orc-2/1/t002r1", "--into", "/tmp/back"]).await.0, 0);
    assert_eq!(place.orch(&["task", "retry", "ORC-3"]).await.0, 0);
    let sha = "f".repeat(40);
    assert_eq!(place.orch(&["task", "approve", "ORC-1/1", "deploy", "--sha", &sha]).await.0, 0);
    let by_hand = ["baseline", "set", "--repo", "shop", "--covered", "8", "--total", "10", "--reason", "fewer"];
    assert_eq!(place.orch(&by_hand).await.0, 0);
    // Numbers or the last landing, never both, never neither; and a reason.
    let both = [&last[..], &["--covered", "8", "--total", "10"]].concat();
    for args in [&last[..5], &by_hand[..8], &both[..], &by_hand[..4]] {
        assert_eq!(parse([&["orch"], args].concat()).err(), Some(64), "{args:?}");
    }
    let expected = [
        "baseline of shop to last: true: `what landed counts` by cli:me".to_owned(),
        "lane of shop draining: `main is red` by cli:me".to_owned(),
        "lane of shop running: `` by cli:me".to_owned(),
        "submit `New` by cli:me".to_owned(),
        "stop ORC-2 by cli:me from cli".to_owned(),
        "stop all of shop by cli:me from cli".to_owned(),
        "stop ORC-1 by cli:me from cli".to_owned(),
        "stop ORC-2 by cli:me from cli".to_owned(),
        "stop ORC-3 by cli:me from cli".to_owned(),
        "stop ORC-5 by cli:me from cli".to_owned(),
        "restore orc-2/1/t002r1 of shop into back".to_owned(),
        "retry ORC-3 by cli:me".to_owned(),
        format!("approve deploy of ORC-1/1 at {sha} by cli:me"),
        "baseline of shop to 8 of 10: `fewer` by cli:me".to_owned(),
    ];
    assert_eq!(place.control.asked(), expected);
}

#[tokio::test]
async fn verbs_that_read_answer_from_what_is_stored_where_nobody_runs_and_others_are_refused() {
    let place = Place::new();
    let data = place.data();
    std::fs::write(data.join("orch.db"), "").expect("written");
    let reading: [&[&str]; 10] = [
        &["why", "ORC-3"],
        &["task", "show", "ORC-3"],
        &["task", "show", "ORC-3", "--all"],
        &["task", "list"],
        &["logs", "ORC-4"],
        &["receipt", "ORC-2"],
        &["proof", "shop", "--verify"],
        &["ps"],
        &["repo", "list"],
        &["salvage", "show", "orc-2/1/t002r0"],
    ];
    let note = format!("nobody runs {}: this is what was recorded last\n", data.display());
    let asked = |args: &'static [&'static str]| place.orch(args);
    let mut answers = Vec::new();
    for args in reading {
        let (_, out, err) = asked(args).await;
        assert!(err.starts_with(&note) && !out.is_empty(), "{args:?}: {err}");
        answers.push(out);
    }
    let writing: [&[&str]; 5] = [
        &["gc"],
        &["task", "retry", "ORC-3"],
        &["task", "stop", "ORC-3"],
        &["task", "add", "--title", "x"],
        &["repo", "pause", "shop", "--why", "x"],
    ];
    for args in writing {
        let (code, _, err) = asked(args).await;
        one_line(code, &err, 2, "no supervisor is known");
    }
    assert_eq!(place.control.asked(), Vec::<String>::new());
    // What is taken out changes nothing of what is kept.
    let (code, _, err) = asked(&["salvage", "restore", "orc-2/1/t002r1", "--into", "/tmp/back"]).await;
    assert_eq!((code, err.as_str()), (0, note.as_str()));
    assert_eq!(place.control.asked(), ["restore orc-2/1/t002r1 of shop into back"]);
    // Told by a supervisor it is the same, without the note.
    place.serve_in(&data).await;
    for (args, told) in reading.into_iter().zip(&answers) {
        let (_, out, err) = asked(args).await;
        assert!(out == *told && !err.contains("nobody runs"), "{args:?}: {err}{out}");
    }
    // One that was killed has left its address: nobody answers there.
    write_address(&data.join("http.addr"), SocketAddr::from(([127, 0, 0, 1], 1))).expect("written");
    let (code, out, err) = asked(reading[0]).await;
    assert_eq!((code, out, err.as_str()), (0, answers[0].clone(), note.as_str()));
    let (code, _, err) = asked(writing[0]).await;
    one_line(code, &err, 2, "no supervisor answers at http://127.0.0.1:1");
    std::fs::remove_file(data.join("orch.db")).expect("removed");
    let (code, _, err) = asked(reading[0]).await;
    one_line(code, &err, 2, "no supervisor answers at http://127.0.0.1:1");
    // Somebody has it, who is just beginning, or stuck: then nobody knows what is true.
    let place = Place { owned: true, ..place };
    let (code, _, err) = place.orch(reading[0]).await;
    one_line(code, &err, 2, "is in use by process 4711, which does not answer");
}

#[test]
fn bad_input_is_refused_for_an_ordinary_user_as_it_is_for_root() {
    let again = [
        "cli::tests::usage",
        "cli::tests::refusals",
        "cli::tests::run_refuses",
        "cli::tests::serve_begins",
        "config::tests::",
        "http::tests::bad_input",
        "http::tests::an_oversized",
    ];
    orch_test_support::users::pass_as_nobody(&again, 2, 20);
}

#[tokio::test]
async fn logs_of_any_run_can_be_had_and_the_others_are_named() {
    let place = Place::new();
    place.serve_in(&place.data()).await;
    let (code, out, err) = place.orch(&["logs", "ORC-4"]).await;
    assert_eq!((code, out.as_str()), (0, "one\ntwo\n"));
    assert_eq!(err, "that was 2 (gate of it); others: 1 (agent of it); --run N, --all\n");
    let (code, out, err) = place.orch(&["logs", "ORC-4", "--run", "1"]).await;
    assert_eq!((code, out.as_str()), (0, "the agent's\n"));
    assert!(err.starts_with("that was 1 (agent of it); others: 2 "), "{err}");
    let (code, _, err) = place.orch(&["logs", "ORC-4", "--run", "3"]).await;
    one_line(code, &err, 1, "ORC-4 has no run 3; its runs are 1 to 2");
    let (code, out, err) = place.orch(&["logs", "ORC-4", "--all"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    insta::assert_snapshot!("logs_all", out);
    for args in [&["--all", "--run", "1"][..], &["--all", "-f"]] {
        assert_eq!(parse([&["orch", "logs", "ORC-4"], args].concat()).err(), Some(64), "{args:?}");
    }
}

#[tokio::test]
async fn refusals_are_one_line_with_their_exit_code() {
    let mut place = Place::new();
    let (code, _, err) = place.orch(&["task", "list"]).await;
    one_line(code, &err, 2, "no supervisor is known");
    place.serve_in(&place.data()).await;
    let (code, _, err) = place.orch(&["why", "ORC-99"]).await;
    one_line(code, &err, 1, "there is no task `ORC-99`");
    let (code, _, err) = place.orch(&["task", "retry", "ORC-1"]).await;
    one_line(code, &err, 1, "`ORC-1` is not blocked");
    let (code, _, err) = place.orch(&["task", "list", "--url", "http://127.0.0.1:1"]).await;
    one_line(code, &err, 2, "no supervisor answers at http://127.0.0.1:1");
    let (code, _, err) = place.orch(&["task", "list", "--url", "ftp://x"]).await;
    one_line(code, &err, 2, "the URL must be http");
    let (code, _, err) = place.orch(&["task", "list", "--config", "/nowhere/orch.yaml"]).await;
    one_line(code, &err, 2, "/nowhere/orch.yaml");
    place.env.insert("ORCH_TOKEN".to_owned(), "another-token-altogether".to_owned());
    let (code, _, err) = place.orch(&["task", "list"]).await;
    one_line(code, &err, 2, "refuses the token");
    assert!(!err.contains("another-token"), "{err}");
    place.env.remove("ORCH_TOKEN");
    let (code, _, err) = place.orch(&["task", "list"]).await;
    one_line(code, &err, 2, "or set ORCH_TOKEN");
}

#[tokio::test]
async fn gc_shows_what_may_go_and_has_it_go() {
    let place = Place::new();
    place.serve_in(&place.data()).await;
    let (code, out, err) = place.orch(&["gc", "--dry-run"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("job-folder") && out.ends_with("1 may go\n"), "{out}");
    assert_eq!(place.control.asked(), Vec::<String>::new(), "nothing was asked to go");
    let (code, out, err) = place.orch(&["gc"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.ends_with("1 gone\n"), "{out}");
    let (_, out, _) = place.orch(&["gc", "--dry-run"]).await;
    assert!(out.starts_with("nothing may go"), "{out}");
}

#[tokio::test]
async fn nobody_inside_a_job_stops_a_task_or_the_supervisor() {
    let mut place = Place::new();
    place.serve_in(&place.data()).await;
    place.env.insert("ORCH_JOB".to_owned(), "j0001".to_owned());
    for args in [&["task", "stop", "ORC-2"][..], &["repo", "stop", "shop"], &["handover"]] {
        let (code, _, err) = place.orch(args).await;
        one_line(code, &err, 1, "inside job j0001");
    }
    assert_eq!(place.control.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn run_does_one_task_and_ends_everything() {
    let place = Place::new();
    place.control.desk.lock().expect("sound").settle_submitted = true;
    let repo = place.repo();
    let (code, out, err) = place.orch(&["run", "--repo", &repo, "--title", "Do it", "--no-tests", "--keep"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("accepted") && out.contains("ORC-5: dddddddddd") && out.contains("took     9.0s"), "{out}");
    assert!(out.lines().last().is_some_and(|l| l.starts_with("data     ")), "{out}");
    assert_eq!(place.told(), ["prepare", "begin", "Cancel", "Kill"]);
    let left: Vec<PathBuf> = walk_files(&place.data());
    assert!(!left.iter().any(|p| p.ends_with("http.addr")), "the address goes with the door: {left:?}");

    place.control.desk.lock().expect("sound").settle_submitted = false;
    let (code, out, err) = place.orch(&["run", "--repo", &repo, "--title", "x", "--key", "ORC-3", "--json"]).await;
    assert!(err.contains("ORC-3 is live already"), "{err}");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!((code, last["exit"].as_u64(), last["task"]["status"].as_str()), (1, Some(1), Some("blocked")));
    assert!(place.control.asked().contains(&"retry ORC-3 by orch run".to_owned()), "{:?}", place.control.asked());
    let (code, _, err) = place.orch(&["run", "--repo", &repo, "--title", "x", "--key", "ORC-4"]).await;
    one_line(code, &err, 2, "`ORC-4` is live already");
}

fn walk_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("readable").map(|e| e.expect("readable").path());
    entries.flat_map(|p| if p.is_dir() { walk_files(&p) } else { vec![p] }).collect()
}

#[tokio::test]
async fn run_hands_its_task_to_the_owner_of_the_folder_and_follows() {
    let mut place = Place::new();
    place.owned = true;
    place.control.desk.lock().expect("sound").settle_submitted = true;
    let repo = place.repo();
    let told = crate::config::EmbeddedRepo { path: PathBuf::from(&repo), ..Default::default() };
    let config = Config::load(None, &place.env).expect("valid").embedded_for(&told).expect("valid");
    place.serve_as(&config.data_dir, Some(config.work_digest())).await;
    // Agent and pipeline are said with the task, so that they may differ from the owner's.
    let words = ["run", "--repo", &repo, "--title", "Do it", "--agent", "codex", "--pipeline", "full"];
    let (code, out, err) = place.orch(&words).await;
    assert!(err.contains("the task is handed to it"), "{err}");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("accepted") && out.contains("ORC-5: dddddddddd"), "{out}");
    assert_eq!(place.control.asked(), ["submit `Do it` by cli:me"]);
    let asked = place.control.desk.lock().expect("sound").submitted.clone().expect("it was submitted");
    assert_eq!((asked.agent.as_deref(), asked.pipeline.as_deref()), (Some("codex"), Some("full")));
    assert!(place.told().is_empty(), "no engine was started: {:?}", place.told());
}

#[tokio::test]
async fn run_never_hands_its_task_to_an_owner_that_would_work_on_it_otherwise() {
    let mut place = Place::new();
    place.owned = true;
    place.control.desk.lock().expect("sound").settle_submitted = true;
    let repo = place.repo();
    let owners = crate::config::EmbeddedRepo { path: PathBuf::from(&repo), no_tests: true, ..Default::default() };
    let config = Config::load(None, &place.env).expect("valid").embedded_for(&owners).expect("valid");
    place.serve_as(&config.data_dir, Some(config.work_digest())).await;
    let others: [&[&str]; 5] = [
        &["--test-cmd", "sh check.sh"],
        &[],
        &["--no-tests", "--main", "other"],
        &["--no-tests", "--check-cmd", "true"],
        &["--no-tests", "--agent-cmd", "true"],
    ];
    for other in others {
        let words = [&["run", "--repo", &repo, "--title", "Do it"], other].concat();
        let (code, _, err) = place.orch(&words).await;
        one_line(code, &err, 2, "was started with other settings");
    }
    assert_eq!(place.control.asked(), Vec::<String>::new(), "nothing was handed over");
    assert_eq!(place.orch(&["run", "--repo", &repo, "--title", "Do it", "--no-tests"]).await.0, 0);
}

#[tokio::test]
async fn run_refuses_bad_input_before_anything_is_started() {
    let mut place = Place::new();
    // Whatever this machine has installed.
    place.env.insert("PATH".to_owned(), place.dir.path().join("agents").to_string_lossy().into_owned());
    let repo = place.repo();
    let plain = place.dir.path().to_string_lossy().into_owned();
    let cases: [(&[&str], u8, &str); 7] = [
        (&["run", "--repo", &repo, "--title", "x", "--agent", "opencode"], 2, "`opencode` is not found in PATH"),
        (&["run", "--repo", &plain, "--title", "x"], 2, "is no git repository"),
        (&["run", "--repo", "/nowhere", "--title", "x"], 2, "`/nowhere`: No such file"),
        (&["run", "--repo", &repo, "--title", " "], 64, "--title is empty"),
        (&["run", "--repo", &repo, "--title", "x", "--agent", "gpt"], 2, "there is no agent `gpt`"),
        (&["run", "--repo", &repo, "--title", "x", "--pipeline", "fast"], 2, "`fast` is neither a pipeline"),
        (&["run", "--repo", &repo, "--title", "x", "--body-file", "/nowhere"], 2, "--body-file /nowhere: No such file"),
    ];
    for (args, expected_code, expected) in cases {
        let (code, _, err) = place.orch(args).await;
        one_line(code, &err, expected_code, expected);
    }
    assert!(place.told().is_empty());
}

#[tokio::test]
async fn serve_begins_nothing_when_the_port_is_taken_or_the_token_is_none() {
    let mut place = Place::new();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    place.env.insert("ORCH_HTTP_ADDR".to_owned(), addr.clone());
    let (code, _, err) = place.orch(&["serve"]).await;
    one_line(code, &err, 2, &format!("address {addr} is in use"));
    assert_eq!(place.told(), ["prepare"]);
    place.env.insert("ORCH_HTTP_ADDR".to_owned(), "127.0.0.1:0".to_owned());
    place.env.insert("ORCH_TOKEN".to_owned(), "short".to_owned());
    let (code, _, err) = place.orch(&["serve"]).await;
    one_line(code, &err, 2, "the token of ORCH_TOKEN is refused");
    assert_eq!(place.told(), ["prepare", "prepare"]);
    place.owned = true;
    let (code, _, err) = place.orch(&["serve"]).await;
    one_line(code, &err, 2, "is in use by process 4711; stop it, or name another data folder");
}

#[tokio::test]
async fn init_writes_settings_that_can_be_read_and_never_overwrites() {
    let place = Place::new();
    let repo = place.repo();
    std::fs::write(Path::new(&repo).join("go.mod"), "module x\n").expect("written");
    let to = place.dir.path().join("orch.yaml").to_string_lossy().into_owned();
    let (code, out, err) = place.orch(&["init", "--repo", &repo, "--to", &to]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("`go test ./...`, detected by go.mod"), "{out}");
    let text = std::fs::read_to_string(&to).expect("written");
    let first = text.lines().find(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(first, Some("repos:"), "what is one's own comes first");
    assert!(out.contains("coverage: no tool is named in this repository"), "{out}");
    let config = Config::load(Some(Path::new(&to)), &place.env).expect("valid");
    assert_eq!(config.repos[&"shop".parse().expect("valid")].commands.test.as_deref(), Some("go test ./..."));
    let (code, out, _) = place.orch(&["config", "check", "--config", &to]).await;
    assert_eq!(code, 0);
    assert!(out.contains("settings are valid: 1 repository,"), "{out}");
    let (code, _, err) = place.orch(&["init", "--repo", &repo, "--to", &to]).await;
    one_line(code, &err, 2, "exists already");
    std::fs::write(Path::new(&repo).join("requirements-dev.txt"), "pytest-cov\n").expect("written");
    let (code, out, _) = place.orch(&["init", "--repo", &repo, "--to", &to, "--force"]).await;
    assert!(code == 0 && out.contains("coverage: pytest-cov is named in requirements-dev.txt"), "{out}");
    let (_, shown, _) = place.orch(&["config", "show", "--config", &to]).await;
    assert!(shown.contains("ORCH_TOKEN: set") && !shown.contains("sesame"), "{shown}");
}

#[tokio::test]
async fn doctor_says_what_is_missing_and_fails_when_it_must() {
    let place = Place::new();
    let (code, out, err) = place.orch(&["doctor"]).await;
    assert_eq!(err, "");
    assert!(out.contains("git version") && out.contains("warn  shim"), "{out}");
    assert_eq!(code, u8::from(out.contains("\nfail")), "{out}");
    // What is allowed and seldom meant is warned of.
    let unasked = place.dir.path().join("unasked.yaml");
    std::fs::write(&unasked, "repos: {shop: {path: ., commands: {coverage: make cov}}}\n").expect("written");
    let (_, out, _) = place.orch(&["doctor", "--config", &unasked.to_string_lossy()]).await;
    assert!(out.contains("repository `shop` names `commands.coverage`") && out.contains("warn  settings"), "{out}");
    let broken = place.dir.path().join("broken.yaml");
    std::fs::write(&broken, "wombat: 1\n").expect("written");
    let (code, out, _) = place.orch(&["doctor", "--config", &broken.to_string_lossy()]).await;
    assert!(code == 1 && out.contains("fail") && out.contains("unknown key `wombat`"), "{out}");
}

#[tokio::test]
async fn backup_asks_the_supervisor_and_else_the_store() {
    let place = Place::new();
    let to = place.dir.path().join("one.sqlite").to_string_lossy().into_owned();
    let nowhere = place.dir.path().join("nowhere").to_string_lossy().into_owned();
    for words in [vec!["backup", &to, "--data", &nowhere], vec!["backup", "--data", &nowhere], vec!["backup", &to]] {
        let (code, _, err) = place.orch(&words).await;
        one_line(code, &err, 2, "nothing to back up");
    }
    assert!(!Path::new(&nowhere).exists() && place.told().is_empty(), "nothing was made for it");
    let (code, _, err) = place.orch(&["backup", "restore", &nowhere]).await;
    one_line(code, &err, 2, "there is no file");
    std::fs::write(place.data().join("orch.db"), "").expect("written");
    let (code, out, _) = place.orch(&["backup", &to]).await;
    assert!(code == 0 && out.contains("verified"), "{out}");
    assert_eq!(place.told(), ["backup one.sqlite"]);
    std::fs::remove_file(&to).expect("it was written");
    // An address that a killed supervisor left behind is no reason to fail.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    write_address(&place.data().join("http.addr"), free.local_addr().expect("bound")).expect("written");
    drop(free);
    assert_eq!(place.orch(&["backup", &to]).await.0, 0);
    std::fs::remove_file(&to).expect("it was written");
    place.serve_in(&place.data()).await;
    let (code, out, _) = place.orch(&["backup", &to]).await;
    assert!(code == 0 && out.contains("verified: 4 tasks"), "{out}");
    assert_eq!(place.control.asked(), ["backup one.sqlite"]);
    std::fs::write(&to, "x").expect("written");
    let (code, _, err) = place.orch(&["backup", &to]).await;
    one_line(code, &err, 2, "exists already");
    let (code, _, err) = place.orch(&["backup", "restore", &to]).await;
    one_line(code, &err, 2, "stop the supervisor first");
}

#[tokio::test]
async fn a_backup_goes_into_a_folder_that_there_is_and_never_over_another() {
    let place = Place::new();
    std::fs::write(place.data().join("orch.db"), "").expect("written");
    let unmounted = place.dir.path().join("disk/two.sqlite").to_string_lossy().into_owned();
    let (code, _, err) = place.orch(&["backup", &unmounted]).await;
    one_line(code, &err, 2, "make it, mount its disk");
    for _ in 0..3 {
        let (code, _, err) = place.orch(&["backup"]).await;
        assert_eq!((code, err.as_str()), (0, ""), "in the same second, too");
    }
    assert_eq!(std::fs::read_dir(place.data().join("backups")).expect("made").count(), 3);
}

#[tokio::test]
async fn demo_is_the_engines_and_inner_verbs_are_not_for_people() {
    let place = Place::new();
    assert_eq!(place.orch(&["demo", "--headless"]).await.0, 7);
    let (code, _, err) = place.orch(&["shim", "--x"]).await;
    one_line(code, &err, 64, "for orch itself");
}

#[tokio::test]
async fn a_gate_is_asked_by_hand_and_its_answer_is_the_exit_code() {
    let place = Place::new();
    for (head, code) in [("good", 0), ("bad", 1), ("odd", 2), ("nowhere", 64)] {
        let (got, text, _) = place.orch(&["gate", "security", "--base", "x", "--head", head]).await;
        assert_eq!(got, code, "{head}: {text}");
        assert!(code == 64 || (text.contains("what it says") && !text.contains('\u{1b}')), "{text}");
    }
    let report = place.dir.path().join("report.md");
    let at = report.to_string_lossy().into_owned();
    let (_, text, _) = place.orch(&["gate", "merge", "--base", "x", "--head", "bad", "--json", "--report", &at]).await;
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((json["gate"].as_str(), json["verdict"].as_str()), (Some("merge"), Some("failed")));
    assert_eq!(std::fs::read_to_string(report).expect("written"), "---\nx: y\n---\n");
    // What measures nothing takes no coverage command, and an empty one is none.
    for (name, flag, line, said) in [
        ("security", "--coverage-cmd", "x", "for `orch gate coverage`"),
        ("coverage", "--coverage-cmd", " ", "is empty"),
        ("coverage", "--test-cmd", "x", "for `orch gate merge`"),
        ("merge", "--test-cmd", " ", "is empty"),
    ] {
        let (code, _, err) = place.orch(&["gate", name, "--base", "x", "--head", "good", flag, line]).await;
        one_line(code, &err, 64, said);
    }
    let both = ["orch", "gate", "merge", "--base", "x", "--test-cmd", "y", "--no-tests"];
    assert_eq!(parse(both.to_vec()).expect_err("refused"), 64);
    // A report that cannot be written takes no answer away.
    let nowhere = place.dir.path().join("nowhere/report.md").to_string_lossy().into_owned();
    let (code, text, _) = place.orch(&["gate", "merge", "--base", "x", "--head", "bad", "--report", &nowhere]).await;
    assert!(code == 2 && text.contains("merge: failed"), "{text}");
    for wrong in [vec!["gate", "security"], vec!["gate", "tests", "--base", "x"], vec!["gate"]] {
        assert_eq!(parse([vec!["orch"], wrong].concat()).expect_err("refused"), 64);
    }
}
