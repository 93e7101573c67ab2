//! The coverage gate over real git, real confined jobs and a real store; with commands of our own, then with pytest-cov.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use orch_adapters::reports::{Expect, ReadReport, read_report};
use orch_domain::coverage::{Because, CoverageMode, CoveragePolicy, Landed, Totals};
use orch_domain::event::CheckEnd;
use orch_domain::gate::{GateName, Verdict};
use orch_domain::ids::CommitSha;
use orch_domain::pipeline::RepoCommand;
use orch_domain::task::Task;
use orch_store::{NewBaseline, NewLanding};

use super::check_tests::{World, bounded};
use super::checks::{CheckRequest, run_check};
use super::coverage::{self, Slot};
use crate::context::Commands;

/// Says that a test ran, and copies what the commit holds as the report.
pub(super) const COPY: &str = "cat lcov.txt > \"$ORCH_COVERAGE_REPORT\" && echo '1 passed in 0.01s'";

/// LCOV over `a.py` and `b.py`: per file, which lines ran and which did not.
pub(super) fn lcov(files: &[(&str, &[u32], &[u32])]) -> String {
    let mut text = String::new();
    for (name, ran, not) in files {
        text.push_str(&format!("SF:{name}\n"));
        text.extend(ran.iter().map(|line| format!("DA:{line},1\n")));
        text.extend(not.iter().map(|line| format!("DA:{line},0\n")));
        text.push_str("end_of_record\n");
    }
    text
}

pub(super) fn totals(covered: u64, total: u64) -> Totals {
    Totals::new(covered, total).expect("possible")
}

/// What the gate answered, and what would land with it.
pub(super) struct Answer {
    pub(super) end: CheckEnd,
    pub(super) landed: Option<Landed>,
    pub(super) report: Option<ReadReport>,
}

impl Answer {
    pub(super) fn note(&self) -> &str {
        match &self.end {
            CheckEnd::Passed { note, .. } => note,
            other => panic!("not passed: {other:?}"),
        }
    }

    pub(super) fn findings(&self) -> &str {
        assert!(self.landed.is_none(), "what failed lands nothing");
        match &self.end {
            CheckEnd::Failed { findings } => findings,
            other => panic!("not failed: {other:?}"),
        }
    }

    pub(super) fn warnings(&self) -> &[String] {
        match &self.end {
            CheckEnd::Passed { warnings, .. } => warnings,
            other => panic!("not passed: {other:?}"),
        }
    }

    pub(super) fn counts(&self) -> Vec<(String, u64)> {
        let report = self.report.as_ref().expect("a report");
        report.header.counts.iter().map(|count| (count.name.clone(), count.value)).collect()
    }

    pub(super) fn has(&self, note: &str) -> bool {
        self.report.as_ref().is_some_and(|report| report.header.notes.iter().any(|line| line.contains(note)))
    }
}

impl World {
    pub(super) async fn measuring(line: &str) -> Self {
        let mut world = Self::new(Commands::default()).await;
        world.settings.coverage.command = Some(line.to_owned());
        world
    }

    pub(super) async fn gate(&self, base: &CommitSha, head: &CommitSha, run: &str) -> Answer {
        let subject = self.request(RepoCommand::Test, base, head, run).subject;
        let slot = Slot::default();
        let answer = bounded(coverage::run(&self.context(), &subject, false, &slot)).await;
        assert!(self.nothing_left(), "the checkouts are gone afterwards");
        let report = answer.report.clone().map(|report| {
            let expect = Expect {
                gate: GateName::Coverage,
                head: head.clone(),
                base: Some(base.clone()),
                run: None,
                sha256: Some(report.sha256),
            };
            read_report(&report.path, &expect).expect("it reads back")
        });
        Answer { end: answer.told(), landed: slot.get().cloned(), report }
    }

    pub(super) async fn tests(&self, base: &CommitSha, head: &CommitSha, run: &str) -> CheckEnd {
        let request = self.request(RepoCommand::Test, base, head, run);
        bounded(run_check(&self.context(), &CheckRequest { coverage: true, ..request })).await.end
    }

    /// Commits the two files and their coverage on a branch.
    pub(super) async fn covered(&self, branch: &str, text: &str) -> CommitSha {
        let file = "x = 1\n".repeat(10);
        self.commit(branch, &[("a.py", &file), ("b.py", &file), ("lcov.txt", text)]).await
    }

    /// Commits files to main, and lands them as what sets the first baseline.
    pub(super) async fn landed(&self, files: &[(&str, &str)]) -> CommitSha {
        let begin = self.commit("main", &[("README", "x")]).await;
        let base = self.commit("main", files).await;
        let first = self.gate(&begin, &base, "first").await;
        assert!(first.landed.is_some(), "{:?}", first.end);
        self.land(&base, first.landed).await;
        base
    }

    pub(super) async fn standing(&self) -> orch_store::Baseline {
        self.store.baseline(&self.settings.name).await.expect("read").expect("set")
    }

    /// Lands a commit with what was measured on it.
    pub(super) async fn land(&self, head: &CommitSha, measured: Option<Landed>) {
        self.land_as(self.task.id.as_str(), head, measured).await;
    }

    async fn land_as(&self, task: &str, head: &CommitSha, measured: Option<Landed>) {
        let landing = NewLanding {
            task: task.parse().expect("an id"),
            sha: head.clone(),
            tree: head.clone(),
            base: head.clone(),
            proof: serde_json::Value::Null,
            coverage: measured,
        };
        assert!(self.store.append_landing(&self.settings.name, landing, self.context().now()).await.expect("stored"));
    }

    /// The same by a task of its own, behind an earlier landing.
    pub(super) async fn land_next(&self, head: &CommitSha, measured: Option<Landed>) {
        let (id, key) = ("other".parse().expect("an id"), "ORC-77".parse().expect("a key"));
        let other = Task { id, key, ..self.task.clone() };
        self.store.create_task(&other, Vec::new(), Vec::new(), None, other.created).await.expect("a task");
        self.land_as("other", head, measured).await;
    }

    pub(super) async fn baseline(&self, covered: u64, total: u64, sha: &CommitSha) {
        let replaces = self.store.baseline(&self.settings.name).await.expect("read").map(|b| b.revision);
        let (totals, sha) = (totals(covered, total), sha.clone());
        let new =
            NewBaseline { replaces, totals, sha, set_by: "ann".to_owned(), reason: "a test".to_owned(), taken: None };
        self.store.set_baseline(&self.settings.name, new, self.context().now()).await.expect("set");
    }

    /// A folder outside the checkout that jobs may read.
    fn outside(&mut self) -> std::path::PathBuf {
        let folder = self.root.path().join("outside");
        fs::create_dir_all(&folder).expect("made");
        self.env.insert("OUTSIDE".to_owned(), folder.display().to_string());
        folder
    }
}

#[tokio::test]
async fn the_first_measurement_is_judged_by_the_minimum_alone_and_lands_as_the_first_baseline() {
    let mut world = World::measuring(COPY).await;
    let base = world.commit("main", &[("README", "x")]).await;
    let head = world.covered("task", &lcov(&[("a.py", &[1, 2], &[3]), ("b.py", &[1], &[])])).await;
    let answer = world.gate(&base, &head, "run1").await;
    assert!(
        answer.note().contains("75.00 % (3 of 4 lines) is at least the minimum of 0.00 %; there is no baseline yet")
    );
    let landed = answer.landed.clone().expect("it lands");
    assert_eq!((landed.totals, landed.rebase.is_none(), landed.excluded), (totals(3, 4), true, None));
    let counts = answer.counts();
    for known in [("covered", 3), ("total", 4), ("files", 2), ("added_total", 4), ("epsilon_basis_points", 10)] {
        assert!(counts.contains(&(known.0.to_owned(), known.1)), "{known:?} of {counts:?}");
    }
    assert!(answer.report.as_ref().expect("one").body.contains("Added lines that no test runs:"));
    // The same again: nothing runs, and the same lands.
    let jobs = world.jobs();
    let again = world.gate(&base, &head, "run2").await;
    assert!(again.note().contains("judged before, by run run1"));
    assert_eq!((again.landed, world.jobs()), (Some(landed.clone()), jobs));
    world.land(&head, Some(landed)).await;
    let baseline = world.store.baseline(&world.settings.name).await.expect("read").expect("set");
    assert_eq!((baseline.totals, baseline.sha), (totals(3, 4), head));
    // With a minimum it would not have passed.
    world.settings.coverage.policy =
        CoveragePolicy { min_bp: 7_501, mode: CoverageMode::Absolute, ..CoveragePolicy::default() };
    let failed = world.gate(&base, &answer.report.expect("one").header.head, "run3").await;
    assert!(failed.findings().contains("75.00 % (3 of 4 lines) is below the minimum of 75.01 %"));
    assert_eq!(world.jobs(), jobs, "another rule, the same measurement");
}

#[tokio::test]
async fn tests_and_coverage_are_one_run() {
    let mut world = World::measuring(COPY).await;
    // Somebody says that it covers what somebody named.
    world.settings.commands.test = Some("echo 'must not run'; exit 1".to_owned());
    world.settings.coverage.runs_tests = Some(true);
    let base = world.commit("main", &[("README", "x")]).await;
    let head = world.covered("task", &lcov(&[("a.py", &[1], &[])])).await;
    assert!(matches!(world.tests(&base, &head, "run1").await, CheckEnd::Passed { .. }));
    assert_eq!(world.jobs(), 1);
    assert!(world.gate(&base, &head, "run2").await.note().contains("100.00 %"));
    assert_eq!(world.jobs(), 1, "what the tests' run measured is taken");
    // A command that does not run all tests does not stand for them.
    world.settings.coverage.runs_tests = Some(false);
    world.settings.commands.test = Some("echo '7 passed in 0.1s'".to_owned());
    let CheckEnd::Passed { note, .. } = world.tests(&base, &head, "run3").await else { panic!("passes") };
    assert!(note.contains("7 tests"), "{note}");
    assert_eq!(world.jobs(), 2);
}

#[tokio::test]
async fn a_drop_is_sent_back_with_the_files_and_lines_that_lost_coverage() {
    let world = World::measuring(COPY).await;
    let begin = world.commit("main", &[("README", "x")]).await;
    let base = world.covered("main", &lcov(&[("a.py", &[1, 2, 3, 4, 5], &[]), ("b.py", &[1, 2], &[3])])).await;
    let first = world.gate(&begin, &base, "run1").await;
    world.land(&base, first.landed).await;
    let ran: String =
        (0..10).map(|n| if n == 0 { "y = 0\nx = 1\n".to_owned() } else { "x = 1\n".to_owned() }).collect();
    world.commit("task", &[("a.py", &ran), ("test_a.py", "x"), ("new.py", "x\nx\n")]).await;
    world.commit("main", &[("test_a.py", "x")]).await;
    // One line more at the top; then 3 and 4 (2 and 3 before) are not covered any more; new.py is not tested.
    let text = lcov(&[("a.py", &[1, 2, 5, 6], &[3, 4]), ("b.py", &[1, 2], &[3]), ("new.py", &[], &[1, 2])]);
    let head = world.commit("task", &[("lcov.txt", &text), ("test_a.py", "")]).await;
    let answer = world.gate(&base, &head, "run2").await;
    let findings = answer.findings();
    for said in [
        "54.54 % (6 of 11 lines) is below the baseline of 87.50 % (7 of 8 lines) by more than 0.10 points",
        "a.py: 3-4 (now 4 of 6 lines, before 5 of 5 lines)",
        "new.py: 1-2",
    ] {
        assert!(findings.contains(said), "{said} in: {findings}");
    }
    let report = answer.report.as_ref().expect("one");
    assert_eq!(report.verdict, Verdict::Failed);
    assert!(report.body.contains("a.py: 4 of 6, before 5 of 5; 2 lost: 3-4"), "{}", report.body);
    assert!(answer.counts().contains(&("baseline_covered".to_owned(), 7)));
    assert!(report.header.tools.iter().any(|tool| tool.name == "coverage-configuration"));
    // The same again is not run again.
    let jobs = world.jobs();
    assert!(world.gate(&base, &head, "run3").await.findings().contains("judged before"));
    assert_eq!(world.jobs(), jobs);
}

#[tokio::test]
async fn a_tool_that_cannot_start_passes_loudly_or_fails_and_a_branch_that_breaks_it_fails() {
    let mut world = World::measuring("no-such-coverage-tool").await;
    world.settings.commands.test = Some("echo '3 passed in 0.1s'".to_owned());
    let base = world.commit("main", &[("README", "x")]).await;
    let head = world.commit("task", &[("x.py", "x")]).await;
    let answer = world.gate(&base, &head, "run1").await;
    assert!(answer.note().contains("the coverage tool could not start: exit code 127"), "{}", answer.note());
    assert!(answer.warnings()[0].contains("coverage was NOT measured"), "{:?}", answer.warnings());
    assert!(answer.has("coverage was NOT measured"), "the report says so too");
    assert!(answer.landed.is_none(), "nothing was measured");
    // The tests run without it.
    let CheckEnd::Passed { note, .. } = world.tests(&base, &head, "run2").await else { panic!("passes") };
    assert!(note.contains("3 tests"), "{note}");
    // It starts on base: then it is the branch's doing.
    let tool = format!("test -e tool || exit 127; {COPY}");
    world.settings.coverage.command = Some(tool);
    let base = world.covered("main", &lcov(&[("a.py", &[1], &[])])).await;
    let base = {
        world.commit("main", &[("tool", "x")]).await;
        let _ = base;
        world.commit("main", &[]).await
    };
    let head = world.commit("breaks", &[("tool", "")]).await;
    let text = world.gate(&base, &head, "run4").await.findings().to_owned();
    assert!(text.contains("starts on base") && text.contains("does not on"), "{text}");
}

#[tokio::test]
async fn tests_that_leave_no_fresh_report_of_this_checkout_fail() {
    let mut world = World::measuring("echo '1 passed in 0.01s'").await;
    let planted = lcov(&[("a.py", &[1, 2], &[])]);
    let base =
        world.commit("main", &[("a.py", "x = 1\nx = 2\n"), ("lcov.info", &planted), ("planted", &planted)]).await;
    let head = world.commit("task", &[("x", "y")]).await;
    let none = world.gate(&base, &head, "run1").await;
    assert!(none.findings().contains("there is no coverage report"), "a committed one is none: {}", none.findings());
    // What the tests' own run found out stands, and nothing runs again.
    assert!(matches!(world.tests(&base, &head, "run2").await, CheckEnd::Passed { .. }));
    let jobs = world.jobs();
    assert!(world.gate(&base, &head, "run3").await.findings().contains("there is no coverage report"));
    assert_eq!(world.jobs(), jobs);
    let table = [
        ("touch -d '2 days ago' planted; mv planted lcov.info; echo '1 passed in 0.1s'", "older than this run"),
        (
            "printf 'SF:/elsewhere/a.py\\nDA:1,1\\nend_of_record\\n' > lcov.info; echo '1 passed in 0.1s'",
            "does not belong to this checkout",
        ),
        ("echo broken > lcov.info; echo '1 passed in 0.1s'", "no format that we know"),
        ("ln -sf /etc/passwd lcov.info; echo '1 passed in 0.1s'", "cannot be read"),
    ];
    for (n, (line, said)) in table.into_iter().enumerate() {
        world.settings.coverage.command = Some(line.to_owned());
        let answer = world.gate(&base, &head, &format!("row{n}")).await;
        assert!(answer.findings().contains(said), "{line}: {}", answer.findings());
    }
    world.settings.coverage.command = Some("exit 3".to_owned());
    assert!(world.gate(&base, &head, "run9").await.findings().contains("exit code 3"));
}

#[tokio::test]
async fn without_a_command_the_gate_does_not_apply_and_says_so() {
    let mut world = World::new(Commands::default()).await;
    let base = world.commit("main", &[("README", "x")]).await;
    let head = world.commit("task", &[("a", "y")]).await;
    let answer = world.gate(&base, &head, "run1").await;
    assert!(answer.note().starts_with("not applicable: no coverage command is named, and none was detected"));
    assert!(answer.landed.is_none() && answer.report.is_some());
    world.settings.coverage.command = Some("none".to_owned());
    assert!(world.gate(&base, &head, "run2").await.note().contains("the settings say"));
    let same = world.gate(&base, &base, "run3").await;
    assert!(same.note().contains("nothing is left to land"));
    assert_eq!(world.jobs(), 0);
}

#[tokio::test]
async fn another_configuration_is_compared_with_base_measured_again() {
    let mut world = World::measuring(COPY).await;
    let begin = world.commit("main", &[("README", "x")]).await;
    let base = world.covered("main", &lcov(&[("a.py", &[1, 2, 3, 4], &[]), ("b.py", &[], &[1])])).await;
    let first = world.gate(&begin, &base, "run1").await;
    world.land(&base, first.landed).await;
    // The operator names another command: 4 of 5 lines of old are no measure any more.
    let other =
        "sed -i /a.py/,/end_of_record/d lcov.txt; cat lcov.txt > \"$ORCH_COVERAGE_REPORT\"; echo '1 passed in 0.1s'";
    world.settings.coverage.command = Some(other.to_owned());
    let head = world.commit("task", &[("c", "x")]).await;
    let answer = world.gate(&base, &head, "run2").await;
    assert!(
        answer.note().contains("0.00 % (0 of 1 line) is not below the baseline of 0.00 % (0 of 1 line)"),
        "{}",
        answer.note()
    );
    assert!(answer.has("base, measured again"));
    let rebase = answer.landed.expect("it lands").rebase.expect("it sets the baseline anew");
    assert_eq!((rebase.because, rebase.revision), (Because::MeasuredAgain, 1));
    assert_eq!(rebase.floor.expect("what base has").totals, totals(0, 1));
    // Base cannot be measured by it: what both commands count is compared, and nothing moves.
    world.settings.coverage.command = Some(format!("test -e c || exit 9; {COPY}"));
    let answer = world.gate(&base, &head, "run3").await;
    assert!(answer.note().contains("in lines that both settings count: 80.00 % (4 of 5 lines)"), "{}", answer.note());
    let warning = &answer.warnings()[0];
    assert!(warning.contains("compared only in lines") && warning.contains("exit code 9"), "{warning}");
    assert!(answer.landed.expect("it lands").rebase.is_none());
    // Nothing is kept to compare with: nobody guesses.
    fs::remove_dir_all(&world.context().paths.coverage).expect("removed");
    fs::create_dir(&world.context().paths.coverage).expect("made");
    let answer = world.gate(&base, &head, "run4").await;
    let CheckEnd::CouldNotRun { why } = &answer.end else { panic!("{:?}", answer.end) };
    assert!(
        why.contains("orch baseline set --repo shop --covered 4 --total 5 --sha ") && why.contains("exit code 9"),
        "{why}"
    );
    assert!(answer.landed.is_none());
    assert_eq!(answer.counts()[..2], [("covered".to_owned(), 4), ("total".to_owned(), 5)]);
}

#[tokio::test]
async fn a_near_miss_is_measured_once_more_and_the_better_one_counts() {
    let mut world = World::measuring(
        "read which < \"$OUTSIDE/next\"; [ $which != die ] || kill -KILL $$; cat $which > \"$ORCH_COVERAGE_REPORT\"; echo '1 passed in 0.1s'",
    )
    .await;
    let pipe = world.outside().join("next");
    mkfifo(&pipe);
    let every: Vec<u32> = (1..=400).collect();
    let (low, high) =
        (lcov(&[("big.py", &every[..358], &every[358..])]), lcov(&[("big.py", &every[..360], &every[360..])]));
    let base = world.commit("main", &[("big.py", &"x = 1\n".repeat(400)), ("low", &low), ("high", &high)]).await;
    let head = world.commit("task", &[("c", "x")]).await;
    world.baseline(360, 400, &base).await;
    // Each run reads one name, from a pipe of its own: a reader has opened the pipe before the next one is put in place.
    let names = |names: [&'static str; 2]| {
        let pipe = pipe.clone();
        tokio::task::spawn_blocking(move || {
            for name in names {
                let mut feed = fs::OpenOptions::new().write(true).open(&pipe).expect("a reader");
                fs::remove_file(&pipe).expect("there");
                mkfifo(&pipe);
                feed.write_all(name.as_bytes()).expect("written");
            }
        })
    };
    let fed = names(["low\n", "high\n"]);
    let answer = world.gate(&base, &head, "run1").await;
    bounded(fed).await.expect("both were read");
    assert!(answer.note().contains("90.00 % (360 of 400 lines) is not below the baseline"), "{}", answer.note());
    assert!(answer.has(
        "measured twice, since the first was a near miss: 89.50 % (358 of 400 lines), then 90.00 % (360 of 400 lines)"
    ));
    assert_eq!(answer.landed.expect("it lands").totals, totals(360, 400));
    let jobs = world.jobs();
    let again = world.gate(&base, &head, "run2").await;
    assert_eq!(
        (again.landed.expect("it lands").totals, world.jobs()),
        (totals(360, 400), jobs),
        "the better one was kept"
    );
    // Twice below: it fails, and both are said.
    let head = world.commit("other", &[("d", "x")]).await;
    let fed = names(["low\n", "low\n"]);
    let answer = world.gate(&base, &head, "run3").await;
    bounded(fed).await.expect("both were read");
    assert!(answer.findings().contains("89.50 %") && answer.has("measured twice"));
    // The second run cannot run: what the first one found stands, and is not asked for again.
    let head = world.commit("third", &[("e", "x")]).await;
    let fed = names(["low\n", "die\n"]);
    let answer = world.gate(&base, &head, "run4").await;
    bounded(fed).await.expect("both were read");
    assert!(answer.findings().contains("89.50 %") && answer.has("was to be measured once more, which gave nothing"));
}

fn mkfifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(made.success());
}

#[tokio::test]
async fn removed_code_passes_by_its_rule_only_and_is_flagged() {
    let mut world = World::measuring(COPY).await;
    let base = world.covered("main", &lcov(&[("a.py", &[1, 2, 3], &[4])])).await;
    world.baseline(9, 10, &base).await;
    let head = world.covered("task", &lcov(&[("a.py", &[1, 2, 3, 5, 6, 7, 8], &[4])])).await;
    assert!(world.gate(&base, &head, "run1").await.findings().contains("is below the baseline"));
    world.settings.coverage.policy.removal = true;
    let answer = world.gate(&base, &head, "run2").await;
    assert!(answer.note().contains("(removal rule)") && answer.has("the landing sets the baseline anew"));
    let rebase = answer.landed.expect("it lands").rebase.expect("it sets the baseline anew");
    assert_eq!((rebase.because, rebase.revision, rebase.floor), (Because::Removal, 1, None));
}
