//! The verbs as a person types them: the real program, its exit codes, its one line on standard error, and what it leaves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use orch_domain::variables;

use crate::world::crash::{finish, processes_of};
use crate::world::{commit_file, git, git_init};

const COUNT: &str = "echo '2 passed, 0 failed'\n";
pub(crate) const WORK: &str = "echo made > made.txt; git add made.txt; git commit -q -m 'Make it'";

/// How long the demo may take.
const DEMO: Duration = Duration::from_secs(30);

/// A folder with a repository, and everything the program may write in folders of its own below it.
pub(crate) struct Desk {
    root: tempfile::TempDir,
    pub(crate) repo: PathBuf,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix("orch-v").tempdir().expect("a temporary folder");
        let repo = root.path().join("repo");
        git_init(&repo);
        commit_file(&repo, "check.sh", COUNT, "Begin");
        for folder in ["tmp", "home"] {
            std::fs::create_dir(root.path().join(folder)).expect("a folder");
        }
        Self { root, repo }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
        command.args(args).current_dir(self.root.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ORCH_") {
                command.env_remove(name);
            }
        }
        command.env("TMPDIR", self.path("tmp")).env("HOME", self.path("home"));
        command.env("ORCH_DATA_DIR", self.path("data")).env_remove("XDG_RUNTIME_DIR").env_remove("XDG_STATE_HOME");
        command
    }

    pub(crate) fn orch(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// `orch run` on the repository with an agent that does the work.
    pub(crate) fn run(&self, more: &[&str]) -> Output {
        let repo = self.repo.to_string_lossy().into_owned();
        self.orch(&[&["run", "--repo", &repo, "--title", "Make it"], more].concat())
    }

    pub(crate) fn main(&self) -> String {
        git(&self.repo, &["rev-parse", "main"])
    }

    /// Starts something that goes on until it has made a file appear.
    pub(crate) fn begin(&self, args: &[&str], until: impl Fn() -> bool) -> Child {
        let log = std::fs::File::create(self.path("child.log")).expect("a log");
        let mut child = self.command(args).stdout(Stdio::null()).stderr(log).spawn().expect("the program starts");
        let begun = Instant::now();
        let (_never, tick) = std::sync::mpsc::channel::<()>();
        while !until() {
            let log = || std::fs::read_to_string(self.path("child.log")).unwrap_or_default();
            assert!(child.try_wait().expect("ours").is_none(), "{args:?} ended: {}", log());
            assert!(begun.elapsed() < Duration::from_secs(60), "{args:?} waited in vain: {}", log());
            let _ = tick.recv_timeout(Duration::from_millis(10));
        }
        child
    }

    /// Waits for something that what runs brings about.
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        let (_never, tick) = std::sync::mpsc::channel::<()>();
        while !holds() {
            let log = || std::fs::read_to_string(self.path("child.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain until {what}: {}", log());
            let _ = tick.recv_timeout(Duration::from_millis(10));
        }
    }

    /// Nothing runs any more, and nothing temporary is left, not even an empty folder.
    pub(crate) fn nothing_is_left(&self) {
        let left = processes_of(self.root.path());
        assert!(left.is_empty(), "processes were left: {left:?}");
        let left: Vec<_> = std::fs::read_dir(self.path("tmp")).expect("a folder").flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "temporary folders were left: {left:?}");
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Files below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => all.extend(files_below(&path)),
            false => all.push(path),
        }
    }
    all
}

/// The one line that a refusal is: it names the value and the way out.
pub(crate) fn refused(output: &Output, code: i32, named: &[&str]) {
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{err}{}", text(&output.stdout));
    assert_eq!(err.lines().count(), 1, "exactly one line: {err}");
    for name in named {
        assert!(err.starts_with("orch: ") && err.contains(name), "expected `{name}`: {err}");
    }
}

#[test]
fn the_demo_ends_well_in_time_and_leaves_nothing() {
    let desk = Desk::new();
    // The promise is about the demo, not about what else this machine has to do: the quickest of a few counts, and one that is
    // in time is enough. A demo that is too slow by itself fails all of them.
    let told_in = || {
        let begun = Instant::now();
        (desk.orch(&["demo", "--headless"]), begun.elapsed())
    };
    let (mut output, mut took) = told_in();
    for _ in 0..3 {
        if took > DEMO {
            let again = told_in();
            (output, took) = (again.0, took.min(again.1));
        }
    }
    assert!(took <= DEMO, "it took {took:?}");
    let told = text(&output.stdout);
    assert_eq!(
        (output.status.code(), told.lines().last()),
        (Some(0), Some("demo: ok")),
        "{told}{}",
        text(&output.stderr)
    );
    assert!(!desk.path("data").exists(), "the demo has a data folder of its own");
    desk.nothing_is_left();
}

#[test]
fn the_demo_keeps_its_folder_when_asked_and_says_where() {
    let desk = Desk::new();
    let output = desk.orch(&["demo", "--headless", "--keep"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stderr) + &text(&output.stdout);
    let kept = said.split_whitespace().find(|w| w.contains("orch-demo-")).expect("the folder is printed").to_owned();
    assert!(Path::new(&kept).join("repo/.git").is_dir() && Path::new(&kept).join("data/orch.db").is_file(), "{kept}");
    std::fs::remove_dir_all(&kept).expect("it is there");
    desk.nothing_is_left();
}

#[test]
fn run_ends_with_zero_when_it_landed_and_one_when_it_is_blocked() {
    let desk = Desk::new();
    let before = desk.main();
    let failing = ["--agent-cmd", WORK, "--test-cmd", "echo '1 passed, 1 failed'; exit 1"];
    let output = desk.run(&failing);
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("sent back"), "{}", text(&output.stdout));
    assert_eq!(desk.main(), before, "main is untouched");
    let output = desk.run(&["--agent-cmd", WORK, "--test-cmd", "sh check.sh"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(git(&desk.repo, &["show", "main:made.txt"]), "made");
    desk.nothing_is_left();
}

#[test]
fn the_last_words_name_the_branch_that_there_is() {
    let desk = Desk::new();
    git(&desk.repo, &["branch", "--quiet", "-m", "main", "master"]);
    let output = desk.run(&["--agent-cmd", WORK, "--test-cmd", "sh check.sh"]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("where    master of "), "{said}");
    // What a person has to do now is the very last of it, as a line that can be run as it is.
    let words: Vec<&str> = said.lines().collect();
    let then =
        words.iter().position(|line| line.starts_with("then     bring the files of ")).expect("what is to be done");
    let done = Command::new("sh").args(["-c", words[then + 1].trim()]).status().expect("sh runs");
    assert!(done.success() && git(&desk.repo, &["status", "--porcelain"]).is_empty(), "{said}");
    assert!(!said.split(|c: char| !c.is_alphanumeric()).any(|word| word == "main"), "{said}");
    desk.nothing_is_left();
}

#[test]
fn what_cannot_run_says_so_in_one_line_and_ends_with_two() {
    let desk = Desk::new();
    let agent = ["--agent-cmd", WORK, "--no-tests"];
    let orch = |args: &[&str]| desk.orch(&[&["run", "--title", "x"], args, &agent].concat());
    std::fs::create_dir(desk.path("plain")).expect("a folder");
    refused(&orch(&["--repo", "plain"]), 2, &["`plain` is no git repository", "git init"]);
    refused(&orch(&["--repo", "repo", "--main", "trunk"]), 2, &["trunk"]);
    // Whether there is a repository cannot be told where one may not look; root may everywhere.
    if !nix::unistd::geteuid().is_root() {
        let mode = |bits| std::fs::set_permissions(desk.path("plain"), std::fs::Permissions::from_mode(bits));
        mode(0o000).expect("the mode is set");
        refused(&orch(&["--repo", "plain"]), 2, &["`plain` may not be looked into by this user"]);
        mode(0o755).expect("the mode is set");
    }
    let stages = "name: full\nstages: [{name: dev, agent: developer}, {name: ship, land: true}]\n";
    std::fs::write(desk.path("mine.yaml"), stages).expect("written");
    refused(&orch(&["--repo", "repo", "--pipeline", "mine.yaml"]), 2, &["mine.yaml", "`full` is built in"]);
    git(&desk.repo, &["checkout", "--quiet", "--detach"]);
    refused(&orch(&["--repo", "repo"]), 2, &["detached", "main"]);
    git(&desk.repo, &["checkout", "--quiet", "main"]);
    std::fs::create_dir(desk.path("bare-path")).expect("a folder");
    std::fs::write(desk.path("orch.yaml"), "agents: {gone: {kind: claude, program: no-such-program}}\n")
        .expect("written");
    let missing = desk.run(&["--agent", "gone", "--no-tests"]);
    refused(&missing, 2, &["`no-such-program` is not found in PATH", "--agent-cmd"]);
    std::fs::write(desk.path("file"), "").expect("written");
    refused(&orch(&["--repo", "repo", "--data", "file/data"]), 2, &["file/data", "--data or ORCH_DATA_DIR"]);
    std::fs::write(desk.path("orch.yaml"), "wombat: 1\n").expect("written");
    refused(&orch(&["--repo", "repo"]), 2, &["unknown key `wombat`", "known here"]);
    std::fs::remove_file(desk.path("orch.yaml")).expect("removed");
    refused(&desk.orch(&["run", "--repo", "repo", "--ttle", "x"]), 64, &["--ttle", "orch --help"]);
    refused(&desk.orch(&["run", "--repo", "repo", "--title", " "]), 64, &["--title is empty"]);
    desk.nothing_is_left();
}

#[test]
fn inside_a_job_verbs_work_and_what_the_job_was_given_is_no_setting() {
    let desk = Desk::new();
    let inside = |args: &[&str]| {
        let given = variables::ALL.map(|(name, _)| (name, "x1"));
        desk.command(args).envs(given).output().expect("the program starts")
    };
    let checked = inside(&["config", "check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    let ran = inside(&["run", "--repo", "repo", "--title", "x", "--agent-cmd", WORK, "--test-cmd", "sh check.sh"]);
    assert_eq!(ran.status.code(), Some(0), "{}{}", text(&ran.stdout), text(&ran.stderr));
    assert_eq!(git(&desk.repo, &["show", "main:made.txt"]), "made");
    refused(&inside(&["task", "stop", "ORC-1"]), 1, &["`orch task stop`", "inside job x1", "from outside"]);
    let outside = desk.command(&["config", "check"]).env(variables::GATE, "x1").output().expect("the program starts");
    refused(&outside, 2, &[variables::GATE, "there is no such setting"]);
    desk.nothing_is_left();
}

#[test]
fn settings_that_cannot_be_used_stop_every_verb_in_one_line() {
    let desk = Desk::new();
    let path = desk.repo.display().to_string();
    let with = |name: &str, text: &str| {
        std::fs::write(desk.path(name), text).expect("written");
        name.to_owned()
    };
    std::fs::create_dir(desk.path("folder.yaml")).expect("a folder");
    std::fs::write(desk.path("latin.yaml"), b"http: {bind: '\xe4'}\n").expect("written");
    let pipeline =
        |stages: &str| format!("pipelines:\n  mine:\n    stages: {stages}\nrepos: {{demo: {{path: {path}}}}}\n");
    let circle = "[{name: a, agent: developer, next: b}, {name: b, agent: reviewer, next: a}]";
    let table: [(String, &[&str]); 8] = [
        (
            with("cycle.yaml", &pipeline(circle)),
            &["cycle.yaml:2: pipelines.mine", "form a cycle", "`a` is reached again", "mend its `next`"],
        ),
        (
            with("stage.yaml", &pipeline("[{name: a, agent: developer, next: zz}]")),
            &["stage.yaml:2: pipelines.mine", "unknown stage `zz`"],
        ),
        (
            with("file.yaml", "pipelines: {mine: {file: nowhere.yaml}}\n"),
            &["file.yaml:1", "nowhere.yaml", "No such file"],
        ),
        (
            with("type.yaml", "limits:\n  max_concurrency: many\n"),
            &["type.yaml:2", "limits.max_concurrency", "\"many\"", "expected a whole number"],
        ),
        (with("text.yaml", "limits:\n  - {a: [\n"), &["text.yaml:3:1"]),
        ("missing.yaml".to_owned(), &["missing.yaml", "No such file"]),
        ("folder.yaml".to_owned(), &["folder.yaml", "directory"]),
        ("latin.yaml".to_owned(), &["latin.yaml", "not UTF-8"]),
    ];
    for (file, named) in &table {
        for verb in [&["serve"][..], &["config", "check"], &["run", "--repo", "repo", "--title", "x", "--no-tests"]] {
            refused(&desk.orch(&[verb, &["--config", file]].concat()), 2, named);
        }
    }
    let typed: [(&str, &str, &[&str]); 4] = [
        ("ORCH_MAX_CONCURRENCY", "many", &["ORCH_MAX_CONCURRENCY", "`many` is not a whole number"]),
        ("ORCH_STOP_STATUS_ENABLED", "maybe", &["ORCH_STOP_STATUS_ENABLED", "`maybe` is neither true nor false"]),
        ("ORCH_HTTP_ADDR", "here", &["ORCH_HTTP_ADDR", "`here` is not an address"]),
        ("ORCH_MAX_CONCURENCY", "3", &["there is no such setting", "did you mean ORCH_MAX_CONCURRENCY?"]),
    ];
    for (name, value, named) in typed {
        let output = desk.command(&["serve"]).env(name, value).output().expect("the program starts");
        refused(&output, 2, named);
    }
    assert!(!desk.path("data").exists(), "nothing was begun");
    desk.nothing_is_left();
}

#[test]
fn serve_refuses_a_repository_without_a_main_branch_in_one_line_and_loses_nothing() {
    let desk = Desk::new();
    let settings = |more: &str| {
        let text = format!("http: {{bind: '127.0.0.1:0'}}\nrepos: {{demo: {{path: {}{more}}}}}\n", desk.repo.display());
        std::fs::write(desk.path("orch.yaml"), text).expect("written");
    };
    let said = |named: &[&str]| {
        let output = desk.orch(&["serve"]);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        let lines: Vec<&str> = err.lines().filter(|line| line.starts_with("orch: ")).collect();
        assert!(lines.len() == 1 && named.iter().all(|name| lines[0].contains(name)), "{named:?}: {err}");
    };
    git(&desk.repo, &["checkout", "--quiet", "--detach"]);
    settings("");
    said(&["detached at", "setting `main`"]);
    settings(", main: trunk");
    said(&["no branch `trunk`", "it has: main"]);
    git(&desk.repo, &["checkout", "--quiet", "main"]);
    settings("");
    finish(desk.begin(&["serve"], || desk.path("data/http.addr").exists()));
    desk.nothing_is_left();
}

#[test]
fn serve_refuses_a_taken_port_and_a_taken_folder_in_one_line() {
    let desk = Desk::new();
    let settings = format!("http: {{bind: '127.0.0.1:0'}}\nrepos: {{demo: {{path: {}}}}}\n", desk.repo.display());
    std::fs::write(desk.path("orch.yaml"), settings).expect("written");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    let output = desk.command(&["serve"]).env("ORCH_HTTP_ADDR", &addr).output().expect("the program starts");
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    let lines: Vec<&str> = err.lines().filter(|line| line.starts_with("orch: ")).collect();
    assert_eq!(lines.len(), 1, "{err}");
    assert!(lines[0].contains(&format!("address {addr} is in use")) && lines[0].contains("http.bind"), "{err}");

    let owner = desk.begin(&["serve"], || desk.path("data/http.addr").exists());
    let second = desk.orch(&["serve"]);
    let err = text(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{err}");
    let said = |word: &str| err.lines().any(|line| line.starts_with("orch: ") && line.contains(word));
    assert!(said(&owner.id().to_string()) && said("--data"), "it names the owner and the way out: {err}");
    finish(owner);
    desk.nothing_is_left();
}

#[test]
fn the_runtime_folder_of_a_killed_supervisor_goes_with_the_clean_up_of_another() {
    let desk = Desk::new();
    let settings = format!("http: {{bind: '127.0.0.1:0'}}\nrepos: {{demo: {{path: {}}}}}\n", desk.repo.display());
    std::fs::write(desk.path("orch.yaml"), settings).expect("written");
    let folders = || -> Vec<String> {
        let entries = std::fs::read_dir(desk.path("tmp")).expect("a folder").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    // The other is there before: its start takes away what it finds.
    let other = desk.begin(&["serve", "--data", "other"], || desk.path("other/http.addr").exists());
    let own = folders();
    let mut killed = desk.begin(&["serve"], || desk.path("data/http.addr").exists());
    killed.kill().expect("ours");
    killed.wait().expect("ours");
    let mut left = folders();
    left.retain(|folder| !own.contains(folder));
    assert_eq!((own.len(), left.len()), (1, 1), "{own:?} {left:?}");

    let plan = desk.orch(&["gc", "--dry-run", "--data", "other"]);
    let said = text(&plan.stdout);
    assert!(said.contains("runtime-folder") && said.contains(&left[0]), "{said}{}", text(&plan.stderr));
    assert!(folders().contains(&left[0]), "shown only");
    let gone = desk.orch(&["gc", "--data", "other"]);
    assert_eq!(gone.status.code(), Some(0), "{}", text(&gone.stderr));
    assert_eq!(folders(), own, "its own is in use, the other is gone");
    finish(other);
    desk.nothing_is_left();
}

#[test]
fn the_runtime_folder_of_a_killed_supervisor_goes_with_the_start_of_another() {
    let desk = Desk::new();
    let settings = format!("http: {{bind: '127.0.0.1:0'}}\nrepos: {{demo: {{path: {}}}}}\n", desk.repo.display());
    std::fs::write(desk.path("orch.yaml"), settings).expect("written");
    let mut killed = desk.begin(&["serve"], || desk.path("data/http.addr").exists());
    killed.kill().expect("ours");
    killed.wait().expect("ours");
    let count = || std::fs::read_dir(desk.path("tmp")).expect("a folder").count();
    assert_eq!(count(), 1);
    let other = desk.begin(&["serve", "--data", "other"], || desk.path("other/http.addr").exists());
    assert_eq!(count(), 1, "its own alone");
    finish(other);
    desk.nothing_is_left();
}

#[test]
fn a_run_with_tests_is_never_landed_untested_by_another_run_that_has_none() {
    let desk = Desk::new();
    let repo = desk.repo.to_string_lossy().into_owned();
    let waits = format!("while [ ! -e {} ]; do sleep 0.02; done; {WORK}", desk.path("go").display());
    let address = || files_below(&desk.path("data")).iter().any(|f| f.ends_with("http.addr"));
    std::fs::write(desk.path("orch.yaml"), format!("agents: {{worker: {{kind: command, command: \"{waits}\"}}}}\n"))
        .expect("written");
    let words = ["run", "--repo", &repo, "--title", "First", "--agent", "worker", "--no-tests"];
    let first = desk.begin(&words, address);
    let before = desk.main();
    let tested = desk.run(&["--agent", "worker", "--test-cmd", "exit 1"]);
    refused(&tested, 2, &["was started with other settings", "wait for its end"]);
    assert_eq!(desk.main(), before);
    // One that asks for the same is taken, and both land.
    std::fs::write(desk.path("go"), "").expect("written");
    let second = desk.orch(&["run", "--repo", &repo, "--title", "Second", "--agent", "worker", "--no-tests"]);
    let told = text(&second.stdout);
    assert!(matches!(second.status.code(), Some(0 | 1)), "{told}{}", text(&second.stderr));
    let ended = first.wait_with_output().expect("ours");
    assert_eq!(ended.status.code(), Some(0), "{}", std::fs::read_to_string(desk.path("child.log")).unwrap_or_default());
    assert_eq!(git(&desk.repo, &["show", "main:made.txt"]), "made");
    desk.nothing_is_left();
}
