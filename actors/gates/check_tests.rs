//! Checks over real git, real jobs and a real store.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch_adapters::agents::Prompts;
use orch_adapters::disk::FakeDisk;
use orch_adapters::forge::FakeForge;
use orch_adapters::git::{DirectExec, GitRooms, GitSettings, RepoGit};
use orch_adapters::jobs::{LocalPlacement, LocalPlacementConfig, Runner, UnrecordedLedger};
use orch_adapters::ports::{MoveOutcome, Notice, Notifier, SystemClock, Tracker, TrackerState};
use orch_adapters::reports::{Expect, read_report};
use orch_domain::event::CheckEnd;
use orch_domain::gate::{GateName, ReportHeader, Verdict};
use orch_domain::ids::{CommitSha, Epoch, RunId};
use orch_domain::pipeline::RepoCommand;
use orch_domain::policy::Policy;
use orch_domain::samples;
use orch_domain::task::Task;
use orch_domain::time::{Millis, Timestamp};
use orch_store::{Store, StoreConfig, VerdictOutcome};

use super::checks::{self, CheckRequest};
use super::{GateOrder, GatePoolHandle, GateSubject};
use crate::context::{CommandLimits, Commands, Context, CoverageSettings, Limits, Paths, RepoRuntime, RepoSettings};

/// No wait takes longer, however loaded the machine is.
const BOUND: Duration = Duration::from_secs(60);
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Runs until it is ended.
const FOREVER: &str = "touch started; exec tail -f /dev/null";

pub(super) async fn bounded<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, what).await.expect("within the bound")
}

pub(super) async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let search = async {
        while !look() {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(BOUND, search).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// An outside that nobody listens to.
struct Quiet;

#[async_trait]
impl Tracker for Quiet {
    async fn show(&self, _: &str, _: TrackerState) -> Result<MoveOutcome, String> {
        Ok(MoveOutcome::Shown)
    }
    async fn comment(&self, _: &str, _: &str, _: &str) -> Result<(), String> {
        Ok(())
    }
}

#[async_trait]
impl Notifier for Quiet {
    async fn notify(&self, _: &Notice) -> Result<(), String> {
        Ok(())
    }
}

/// A repository with a history of our making, and everything a check needs.
pub(crate) struct World {
    pub(super) root: tempfile::TempDir,
    pub(super) author: PathBuf,
    pub(super) git: RepoGit,
    forge: Arc<FakeForge>,
    pub(super) store: Store,
    pub(crate) task: Task,
    pub(super) runner: Runner,
    pub(super) settings: RepoSettings,
    pub(super) env: BTreeMap<String, String>,
    /// `PATH` of its jobs.
    pub(super) path: String,
    /// Tool chains that its jobs may read.
    pub(super) tools_read: Vec<PathBuf>,
}

impl World {
    pub(crate) async fn new(commands: Commands) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        let rooms = GitRooms::new(at("data/repos"), Arc::new(DirectExec), GitSettings::default());
        let name = "shop".parse().expect("a name");
        let forge = FakeForge::open(&at("forge.git"), &rooms, &name).await.expect("a forge");
        let git = forge.git().clone();
        let now = Timestamp(1_763_931_769_123);
        let config = StoreConfig { ballast_bytes: 0, ..StoreConfig::new(at("data"), now) };
        let store = Store::open(&config).expect("a store");
        let task = samples::new_task("lite", Policy::default(), Vec::new());
        store.create_task(&task, Vec::new(), Vec::new(), None, now).await.expect("a task");
        let (shim_program, shim_args) = orch_shim::self_exec::command();
        let jobs =
            LocalPlacementConfig { shim_program, shim_args, ..LocalPlacementConfig::new(at("data/jobs"), at("run")) };
        let placement = Arc::new(LocalPlacement::new(jobs).expect("a placement"));
        let settings = RepoSettings {
            name,
            location: "here".to_owned(),
            main: Some("main".parse().expect("a name")),
            priority: 0,
            agent: "none".to_owned(),
            pipeline: "lite".to_owned(),
            policy: Policy::default(),
            commands,
            coverage: CoverageSettings::default(),
            limits: CommandLimits { check: Millis::from_secs(50), ..CommandLimits::default() },
            image: None,
            image_inputs: Vec::new(),
            env: BTreeMap::from([("FLAVOUR".to_owned(), "plain".to_owned())]),
        };
        let author = at("author");
        let world = Self {
            author,
            git,
            forge: Arc::new(forge),
            store,
            task,
            runner: Runner::new(placement, Arc::new(UnrecordedLedger)),
            settings,
            env: BTreeMap::new(),
            path: PATH.to_owned(),
            tools_read: Vec::new(),
            root,
        };
        let url = world.root.path().join("forge.git");
        world.author_git(&["clone", "--quiet", &url.to_string_lossy(), &world.author.to_string_lossy()], None);
        world
    }

    pub(super) fn author_git(&self, args: &[&str], cwd: Option<&Path>) -> String {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"];
        let out = Program::new("git")
            .args(identity)
            .args(args)
            .current_dir(cwd.unwrap_or(self.root.path()))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .expect("git runs");
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// Commits on a branch (begun at main when it is new) and brings it into our repositories. An empty text removes.
    pub(super) async fn commit(&self, branch: &str, files: &[(&str, &str)]) -> CommitSha {
        let git = |args: &[&str]| self.author_git(args, Some(&self.author));
        if branch != "main" && git(&["branch", "--list", branch]).is_empty() {
            git(&["checkout", "--quiet", "-b", branch, "main"]);
        }
        git(&["checkout", "--quiet", branch]);
        for (path, text) in files {
            let path = self.author.join(path);
            match text.is_empty() {
                true => fs::remove_file(path).expect("was there"),
                false => {
                    fs::create_dir_all(path.parent().expect("has one")).expect("made");
                    fs::write(path, text).expect("written");
                }
            }
        }
        git(&["add", "--all"]);
        // By the branch: two commits of one second with the same files and words would be the same commit.
        git(&["commit", "--quiet", "--allow-empty", "-m", &format!("work on {branch}")]);
        git(&["push", "--quiet", "origin", branch]);
        self.git.fetch_branch(&branch.parse().expect("a name")).await.expect("fetched")
    }

    pub(crate) fn context(&self) -> Context {
        let mut settings = self.settings.clone();
        settings.env.extend(self.env.clone());
        let repo = RepoRuntime {
            settings,
            git: self.git.clone(),
            lane_git: self.git.clone(),
            lane_runner: self.runner.clone(),
            forge: self.forge.clone(),
        };
        Context {
            store: self.store.clone(),
            clock: Arc::new(SystemClock),
            runner: self.runner.clone(),
            repos: BTreeMap::from([(self.settings.name.clone(), Arc::new(repo))]),
            agents: BTreeMap::new(),
            pipelines: BTreeMap::new(),
            tracker: Arc::new(Quiet),
            images: Arc::new(orch_adapters::images::DockerCli {
                runner: self.runner.clone(),
                path: PATH.to_owned(),
                env: BTreeMap::new(),
                cwd: self.paths().data,
            }),
            notifier: Arc::new(Quiet),
            paths: self.paths(),
            limits: Limits::default(),
            retention: crate::upkeep::Retention::default(),
            disk: Arc::new(crate::disk::DiskWatch::new(
                Arc::new(FakeDisk::with_free(u64::MAX - 1)),
                self.paths().data,
                0,
            )),
            job_limits: crate::context::KindLimits::default(),
            security: crate::context::SecuritySettings::default(),
            stop_status: true,
            prompts: Prompts::new(&BTreeMap::new()).expect("the built-in prompts"),
            path: self.path.clone(),
            tools_read: self.tools_read.clone(),
            tools_env: BTreeMap::new(),
            key_prefix: "ORC".to_owned(),
            version: "0.0.0-test".to_owned(),
            settings: None,
        }
    }

    pub(super) fn paths(&self) -> Paths {
        Paths::under(self.root.path().join("data"))
    }

    pub(super) fn request(&self, what: RepoCommand, base: &CommitSha, head: &CommitSha, run: &str) -> CheckRequest {
        let subject = GateSubject {
            task: self.task.id.clone(),
            key: self.task.key.clone(),
            generation: self.task.generation,
            run: run.parse().expect("an id"),
            epoch: Epoch(1),
            repo: self.settings.name.clone(),
            base: Some(base.clone()),
            head: head.clone(),
        };
        CheckRequest { subject, what, no_tests: false, coverage: false, limit: None, silence: None, anew: false }
    }

    async fn test(&self, base: &CommitSha, head: &CommitSha, run: &str) -> CheckEnd {
        let end = bounded(run_check(&self.context(), &self.request(RepoCommand::Test, base, head, run))).await;
        assert!(self.nothing_left(), "the checkout is gone afterwards");
        end
    }

    /// Runs a test command on a fresh commit.
    async fn shows(&mut self, line: &str) -> CheckEnd {
        self.settings.commands.test = Some(line.to_owned());
        let base = self.commit("main", &[]).await;
        self.test(&base, &base, "run1").await
    }

    pub(super) fn nothing_left(&self) -> bool {
        fs::read_dir(self.paths().checkouts).map_or(true, |mut entries| entries.next().is_none())
    }

    /// Jobs that were ever started (git runs without jobs here).
    pub(super) fn jobs(&self) -> usize {
        fs::read_dir(self.root.path().join("data/jobs")).map_or(0, Iterator::count)
    }

    /// The report of the newest verdict, read back.
    async fn report(&self, base: &CommitSha, head: &CommitSha) -> ReportHeader {
        let row = self.store.verdicts_of(&self.task.id).await.expect("rows").pop().expect("one");
        let (path, sha256) = row.verdict.report.expect("a report");
        let (gate, head, base) = (GateName::Tests, head.clone(), Some(base.clone()));
        let report = read_report(&path, &Expect { gate, head, base, run: None, sha256: Some(sha256) }).expect("reads");
        assert_eq!(report.verdict.as_str(), row.verdict.outcome.as_str());
        report.header
    }
}

async fn run_check(ctx: &Context, request: &CheckRequest) -> CheckEnd {
    let answer = checks::run_check(ctx, request).await;
    if matches!(answer.end, CheckEnd::Failed { .. }) {
        assert!(answer.report.is_some(), "what failed has a report: {answer:?}");
    }
    answer.told()
}

pub(super) fn test_command(line: &str) -> Commands {
    Commands { test: Some(line.to_owned()), ..Commands::default() }
}

fn note(end: CheckEnd) -> String {
    match end {
        CheckEnd::Passed { note, .. } => note,
        other => panic!("did not pass: {other:?}"),
    }
}

fn findings(end: CheckEnd) -> String {
    match end {
        CheckEnd::Failed { findings } => findings,
        other => panic!("did not fail: {other:?}"),
    }
}

fn why(end: CheckEnd) -> String {
    match end {
        CheckEnd::CouldNotRun { why } => why,
        other => panic!("could run: {other:?}"),
    }
}

#[tokio::test]
async fn exit_code_and_counts_decide_and_stand_in_the_report() {
    let mut world = World::new(Commands::default()).await;
    assert!(note(world.shows("true").await).contains("test count unknown"));
    assert!(
        note(world.shows("echo '== 3 passed, 1 skipped in 0.01s =='").await).contains("4 tests: 3 passed, 1 skipped")
    );

    let text = findings(world.shows("echo 'E   assert 1 == 2'; echo '1 failed, 2 passed in 0.1s' >&2; exit 1").await);
    assert!(text.contains("exit code 1; 3 tests: 2 passed, 1 failed") && text.contains("E   assert 1 == 2"), "{text}");
    let text = findings(world.shows("echo 'no tests ran in 0.01s'; exit 5").await);
    assert!(text.contains("no test ran (exit code 5)"), "{text}");
    let text = findings(world.shows("echo '0 passed, 0 failed'").await);
    assert!(text.contains("no test ran"), "{text}");
    let text = findings(world.shows("echo '1 failed, 2 passed in 0.1s'; exit 0").await);
    assert!(text.contains("exited with 0 although tests failed"), "{text}");
    let text = findings(world.shows("printf 'a\\033[31mred\\033[0m\\007\\n'; kill -SEGV $$").await);
    assert!(text.contains("crashed with signal 11") && text.ends_with("ared"), "{text:?}");

    let head = world.commit("main", &[]).await;
    world.settings.commands.test = Some("echo '2 passed in 0.1s'".to_owned());
    note(world.test(&head, &head, "run9").await);
    let header = world.report(&head, &head).await;
    assert_eq!(header.verdict, Verdict::Passed);
    let counts: Vec<(String, u64)> = header.counts.into_iter().map(|count| (count.name, count.value)).collect();
    let expected = [("passed", 2), ("failed", 0), ("skipped", 0), ("total", 2)];
    assert_eq!(counts, expected.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!(header.run.as_str(), "run9");
    assert_eq!(header.tree.as_str(), world.git.tree_of(&head).await.expect("known"));
}

#[tokio::test]
async fn what_could_not_run_is_never_called_failed() {
    let mut world = World::new(Commands::default()).await;
    let text = why(world.shows("no-such-program-of-ours --all").await);
    assert!(text.contains("exit code 127") && text.contains("no-such-program-of-ours"), "{text}");
    assert!(text.contains("PATH"), "names the way out: {text}");
    assert!(why(world.shows("exit 126").await).contains("exit code 126"));
    assert!(why(world.shows("kill -KILL $$").await).contains("killed by signal 9"));
    world.settings.limits.test = Millis(200);
    let text = why(world.shows(FOREVER).await);
    assert!(text.contains("time limit") && text.contains("200ms"), "{text}");
    let rows = world.store.verdicts_of(&world.task.id).await.expect("rows");
    assert!(rows.iter().all(|row| row.verdict.outcome == VerdictOutcome::CouldNotRun), "{rows:?}");
    assert_eq!(rows.len(), 4);

    // A stage's own limits go before those of its sort.
    let on = world.commit("main", &[]).await;
    let stage = CheckRequest { limit: Some(Millis(250)), ..world.request(RepoCommand::Check, &on, &on, "run8") };
    world.settings.commands.check = Some(FOREVER.to_owned());
    let text = why(run_check(&world.context(), &stage).await);
    assert!(text.contains("time limit") && text.contains("250ms"), "{text}");
    let stage = CheckRequest { silence: Some(Millis(250)), ..world.request(RepoCommand::Check, &on, &on, "run9") };
    world.settings.commands.check = Some(format!("echo speaks; {FOREVER}"));
    let text = why(run_check(&world.context(), &stage).await);
    assert!(text.contains("silent for longer"), "{text}");

    let mut gone = world.request(RepoCommand::Test, &samples::sha('a'), &samples::sha('b'), "run1");
    assert!(why(run_check(&world.context(), &gone).await).contains("not known here"), "a commit we do not have");
    gone.subject.repo = "other".parse().expect("a name");
    assert!(why(run_check(&world.context(), &gone).await).contains("`other`"));
}

#[tokio::test]
async fn the_same_evidence_is_not_run_twice_unless_its_report_is_damaged() {
    let mut world = World::new(test_command("echo '1 passed in 0.1s'")).await;
    let base = world.commit("main", &[]).await;
    let head = world.commit("work", &[("a.txt", "a")]).await;
    note(world.test(&base, &head, "run1").await);
    assert_eq!(world.jobs(), 1);
    let again = note(world.test(&base, &head, "run2").await);
    assert!(again.contains("judged before, by run run1") && again.contains("1 test"), "{again}");
    assert_eq!(world.jobs(), 1, "nothing ran");

    // Another head, also of the very same tree, another base, another environment, another command: other evidence.
    let sibling = world.commit("sibling", &[("a.txt", "a")]).await;
    assert_ne!(sibling, head);
    note(world.test(&base, &sibling, "run2b").await);
    assert_eq!(world.jobs(), 2);
    note(world.test(&head, &head, "run3").await);
    assert_eq!(world.jobs(), 3);
    world.env.insert("FLAVOUR".to_owned(), "spicy".to_owned());
    note(world.test(&base, &head, "run4").await);
    assert_eq!(world.jobs(), 4);
    world.env.clear();
    world.settings.commands.test = Some("echo '2 passed in 0.1s'".to_owned());
    note(world.test(&base, &head, "run5").await);
    assert_eq!(world.jobs(), 5);

    // The row is only an index: a report that says something else makes it worthless.
    let row = world.store.verdicts_of(&world.task.id).await.expect("rows").pop().expect("one");
    let (path, _) = row.verdict.report.expect("a report");
    let text = fs::read_to_string(&path).expect("there").replace("2 passed", "9 passed");
    fs::write(&path, text).expect("damaged");
    note(world.test(&base, &head, "run6").await);
    assert_eq!(world.jobs(), 6);

    // A failure is an answer, too; what could not run is not.
    world.settings.commands.test = Some("echo '1 failed in 0.1s'; exit 1".to_owned());
    findings(world.test(&base, &head, "run7").await);
    let again = findings(world.test(&base, &head, "run8").await);
    assert!(again.contains("judged before, by run run7") && again.contains("1 failed in 0.1s"), "{again}");
    assert_eq!(world.jobs(), 7);
    world.settings.commands.test = Some("exit 127".to_owned());
    why(world.test(&base, &head, "run9").await);
    why(world.test(&base, &head, "run10").await);
    assert_eq!(world.jobs(), 9);
}

#[tokio::test]
async fn the_command_sees_the_exact_head_and_the_facts() {
    let script = "set -e\n\
        test \"$(git rev-parse HEAD)\" = \"$ORCH_HEAD\"\n\
        test \"$(git rev-parse origin/main)\" = \"$ORCH_BASE\"\n\
        test -z \"$(git status --porcelain)\"\n\
        test \"$(cat a.txt)\" = branch\n\
        test \"$CI $ORCH_TASK $ORCH_REPO $ORCH_GATE $FLAVOUR\" = 'true ORC-1 shop tests plain'\n\
        touch \"$HOME/x\" \"$TMPDIR/x\" y\n\
        test -f prepared\n\
        echo '1 passed in 0.1s'\n";
    let mut world = World::new(test_command(script)).await;
    world.settings.commands.setup =
        Some("touch \"$TMPDIR/by-setup\" && echo prepared >> .git/info/exclude && touch prepared".to_owned());
    let base = world.commit("main", &[("a.txt", "base")]).await;
    let head = world.commit("work", &[("a.txt", "branch")]).await;
    note(world.test(&base, &head, "run1").await);
    assert_eq!(world.jobs(), 2);
}

#[tokio::test]
async fn the_data_folder_is_closed_except_for_the_checkout() {
    if orch_shim::landlock_abi() == 0 {
        return;
    }
    let script = "db=$(cd ../../.. && pwd)/orch.db\n\
        if cat \"$db\" >/dev/null 2>&1; then echo 'read the store'; exit 1; fi\n\
        if ls ../../../reports >/dev/null 2>&1; then echo 'listed the reports'; exit 1; fi\n\
        if touch ../../../planted 2>/dev/null; then echo 'wrote into the data folder'; exit 1; fi\n\
        if touch ../../other 2>/dev/null; then echo 'wrote beside its checkout'; exit 1; fi\n\
        touch mine && echo '1 passed in 0.1s'\n";
    let world = World::new(test_command(script)).await;
    let base = world.commit("main", &[]).await;
    assert!(world.paths().data.join("orch.db").is_file(), "what is tried is there");
    fs::create_dir_all(world.paths().reports).expect("made");
    note(world.test(&base, &base, "run1").await);
}

#[tokio::test]
async fn rules_come_from_base_and_only_first_tests_from_the_head() {
    let world = World::new(Commands::default()).await;
    let empty = world.commit("main", &[("a.txt", "a")]).await;
    let makefile = "test:\n\t@echo '1 passed in 0.1s'\n";
    let first = world.commit("first", &[("Makefile", makefile)]).await;
    let text = note(world.test(&empty, &first, "run1").await);
    assert!(text.contains("`make test`"), "{text}");
    let notes = world.report(&empty, &first).await.notes.join("\n");
    assert!(notes.contains("base has no tests; the command was detected in the branch itself"), "{notes}");

    let CheckEnd::NotConfigured { why } = world.test(&empty, &empty, "run2").await else { panic!("nothing to detect") };
    assert!(why.contains("Makefile") && why.contains("`--no-tests`") && why.contains("`shop`"), "{why}");

    let base = world.commit("main", &[("Makefile", makefile), ("tests/a.txt", "x"), ("pytest.ini.md", "x")]).await;
    // The branch brings a file of a kind that would be preferred; base's answer stands.
    let head = world
        .commit("sly", &[("Cargo.toml", "[package]\n"), ("tests/a.txt", ""), ("Makefile", &format!("{makefile}# x\n"))])
        .await;
    let text = note(world.test(&base, &head, "run3").await);
    assert!(text.contains("`make test`"), "{text}");
    let notes = world.report(&base, &head).await.notes;
    let expected = ["the branch deletes tests: tests/a.txt", "the branch changes test configuration: Makefile"];
    assert_eq!(notes, expected);
}

#[tokio::test]
async fn what_is_switched_off_or_not_configured_says_so_and_runs_nothing() {
    let world = World::new(Commands::default()).await;
    let base = world.commit("main", &[]).await;
    let mut request = world.request(RepoCommand::Test, &base, &base, "run1");
    request.no_tests = true;
    assert!(note(run_check(&world.context(), &request).await).contains("tests are switched off"));
    for what in [RepoCommand::Check, RepoCommand::Staging] {
        let request = world.request(what, &base, &base, "run1");
        let text = note(run_check(&world.context(), &request).await);
        assert!(text.contains(&format!("no `{}` command is configured", what.as_str())), "{text}");
    }
    assert_eq!(world.jobs(), 0);
}

#[tokio::test]
async fn staging_is_done_as_often_as_it_is_asked_for() {
    let commands =
        Commands { staging: Some("echo deployed".to_owned()), check: Some("true".to_owned()), ..Commands::default() };
    let world = World::new(commands).await;
    let base = world.commit("main", &[]).await;
    for (what, jobs) in [(RepoCommand::Staging, 2), (RepoCommand::Check, 3)] {
        for run in ["run1", "run2"] {
            note(bounded(run_check(&world.context(), &world.request(what, &base, &base, run))).await);
        }
        assert_eq!(world.jobs(), jobs, "{what:?}");
    }
}

#[tokio::test]
async fn a_setup_that_fails_is_the_branchs_fault_only_if_it_works_on_base() {
    let mut world = World::new(test_command("echo '1 passed in 0.1s'")).await;
    world.settings.commands.setup = Some("echo fetching; cat needed.txt".to_owned());
    let without = world.commit("main", &[]).await;
    let with = world.commit("main", &[("needed.txt", "x")]).await;
    let removed = world.commit("work", &[("needed.txt", "")]).await;
    let text = findings(world.test(&with, &removed, "run1").await);
    assert!(text.contains("but works on base") && text.contains("needed.txt"), "{text}");
    let text = why(world.test(&without, &removed, "run2").await);
    assert!(text.contains("and not on base") && text.contains("needed.txt"), "{text}");
    assert!(why(world.test(&without, &without, "run3").await).contains("`setup` fails"));
    note(world.test(&without, &with, "run4").await);
}

#[tokio::test]
async fn junit_counts_where_it_is_configured_and_must_be_fresh() {
    let mut world = World::new(Commands::default()).await;
    world.settings.commands.junit = Some("out/junit.xml".to_owned());
    let xml = "<testsuite><testcase classname=\"c\" name=\"good\"/><testcase classname=\"c\" name=\"bad\"><failure/></testcase></testsuite>";
    let write = format!("mkdir -p out && echo '{xml}' > out/junit.xml");
    let text = findings(world.shows(&format!("{write} && echo '9 passed in 0.1s' && exit 1")).await);
    assert!(text.contains("2 tests: 1 passed, 1 failed") && text.contains("- c::bad"), "{text}");

    // A committed report is no report of this run.
    let base = world.commit("main", &[("out/junit.xml", xml)]).await;
    world.settings.commands.test = Some("true".to_owned());
    let text = findings(world.test(&base, &base, "run2").await);
    assert!(text.contains("there is no JUnit XML at `out/junit.xml`"), "{text}");
    world.settings.commands.test = Some("echo '3 passed in 0.1s'".to_owned());
    assert!(note(world.test(&base, &base, "run3").await).contains("3 tests"));
    let notes = world.report(&base, &base).await.notes.join("\n");
    assert!(notes.contains("counted by the output instead"), "{notes}");
    world.settings.commands.junit = Some("../out.xml".to_owned());
    assert!(why(world.test(&base, &base, "run4").await).contains("`../out.xml`"));
}

#[tokio::test]
async fn a_cancelled_check_ends_its_job_and_leaves_nothing() {
    let world = World::new(test_command(FOREVER)).await;
    let base = world.commit("main", &[]).await;
    let pool = GatePoolHandle::start(2, Arc::new(SystemClock), None).await.expect("a pool");
    let (ctx, request) = (Arc::new(world.context()), world.request(RepoCommand::Test, &base, &base, "run1"));
    let order = GateOrder {
        task: world.task.id.clone(),
        label: "test".to_owned(),
        priority: 0,
        lease_holder: false,
        alone: None,
    };
    let asked = pool.clone();
    let asker = tokio::spawn(async move {
        asked.run(order, Box::pin(async move { run_check(&ctx, &request).await.into() })).await.end
    });
    let started = world.paths().checkouts.join("run1-1/tree/started");
    until("the command runs", || started.exists()).await;
    assert_eq!(bounded(pool.cancel_for(&world.task.id)).await, Some(1));
    assert!(why(bounded(asker).await.expect("answered")).contains("the task is being stopped"));
    assert!(world.nothing_left(), "when the cancellation is answered, its folder is gone");
    let folder = fs::read_dir(world.root.path().join("data/jobs")).expect("jobs").next().expect("one").expect("read");
    assert!(folder.path().join("exit.json").is_file(), "its job is over");
    assert!(world.store.verdicts_of(&world.task.id).await.expect("rows").is_empty(), "no verdict on the work");
}

#[tokio::test]
async fn a_check_whose_future_is_dropped_cleans_up_behind_it() {
    let world = World::new(test_command(FOREVER)).await;
    let base = world.commit("main", &[]).await;
    let (ctx, request) = (world.context(), world.request(RepoCommand::Test, &base, &base, "run1"));
    let running = tokio::spawn(async move { run_check(&ctx, &request).await });
    let started = world.paths().checkouts.join("run1-1/tree/started");
    until("the command runs", || started.exists()).await;
    running.abort();
    assert!(running.await.expect_err("aborted").is_cancelled());
    until("its folder is gone", || world.nothing_left()).await;
    let folder = fs::read_dir(world.root.path().join("data/jobs")).expect("jobs").next().expect("one").expect("read");
    assert!(folder.path().join("exit.json").is_file(), "the job went before its folder");
}

#[tokio::test]
async fn folders_of_one_run_do_not_meet() {
    let world = World::new(test_command("echo '1 passed in 0.1s'")).await;
    let base = world.commit("main", &[]).await;
    // What a killed supervisor left.
    let run: RunId = "run1".parse().expect("an id");
    let left = world.paths().checkouts.join(format!("{run}-1"));
    fs::create_dir_all(left.join("tree")).expect("made");
    let end = bounded(run_check(&world.context(), &world.request(RepoCommand::Test, &base, &base, "run1"))).await;
    note(end);
    assert!(left.exists(), "it is not this run's to remove");
}
