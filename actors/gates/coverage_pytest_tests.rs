//! The coverage gate with the real pytest and pytest-cov: each trap that was measured is a test here.

use orch_domain::event::CheckEnd;

use super::check_tests::World;
use super::coverage_tests::totals;
use crate::context::Commands;

const APP: &str = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n";
const TEST_ADD: &str = "from app import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n";
const TEST_SUB: &str = "from app import sub\n\n\ndef test_sub():\n    assert sub(3, 2) == 1\n";

impl World {
    /// A repository that names pytest-cov, on a host that has it.
    async fn python() -> Self {
        let python = orch_test_support::tools::pytest_python();
        let bin = python.parent().expect("in a folder").to_owned();
        let mut world = Self::new(Commands::default()).await;
        world.path = format!("{}:{}", bin.display(), world.path);
        // `python3` is what the default command calls.
        let named = bin.join("python3").exists();
        assert!(named, "the environment has a python3");
        world.tools_read.push(bin.parent().expect("an environment").to_owned());
        // The interpreter behind the environment, wherever this machine has it.
        let real = std::fs::canonicalize(&python).expect("it exists");
        world.tools_read.push(real.ancestors().nth(2).expect("a prefix").to_owned());
        world
    }

    async fn app(&self) -> orch_domain::ids::CommitSha {
        let files = [
            ("requirements-dev.txt", "pytest\npytest-cov\n"),
            ("pytest.ini", "[pytest]\npythonpath = .\n"),
            ("app/__init__.py", APP),
            ("tests/test_add.py", TEST_ADD),
            ("tests/test_sub.py", TEST_SUB),
        ];
        self.commit("main", &files).await
    }
}

#[tokio::test]
async fn a_deleted_test_is_sent_back_and_lands_when_it_is_restored_in_one_run_each() {
    let world = World::python().await;
    let begin = world.commit("main", &[("README", "x")]).await;
    let base = world.app().await;
    // Named by the repository itself, measured on its package, tests and coverage in one run.
    let CheckEnd::Passed { note, .. } = world.tests(&begin, &base, "run0").await else { panic!("passes") };
    assert!(note.contains("2 tests"), "nothing is named at that base yet: {note}");
    let head = world.commit("first", &[("notes", "x")]).await;
    let CheckEnd::Passed { note, .. } = world.tests(&base, &head, "run1").await else { panic!("passes") };
    assert!(note.contains("--cov=app") && note.contains("2 tests"), "{note}");
    let jobs = world.jobs();
    let first = world.gate(&base, &head, "run2").await;
    assert_eq!(world.jobs(), jobs, "one run for both");
    assert!(first.note().contains("100.00 % (4 of 4 lines)"), "{}", first.note());
    let tools = &first.report.as_ref().expect("one").header.tools;
    assert!(tools.iter().any(|tool| tool.version == "coverage.py 7.17.3"), "{tools:?}");
    world.land(&head, first.landed).await;

    let gone = world.commit("gone", &[("tests/test_sub.py", "")]).await;
    assert!(matches!(world.tests(&base, &gone, "run3").await, CheckEnd::Passed { .. }), "the tests that are left pass");
    let jobs = world.jobs();
    let answer = world.gate(&base, &gone, "run4").await;
    assert_eq!(world.jobs(), jobs);
    for said in ["75.00 % (3 of 4 lines) is below the baseline of 100.00 % (4 of 4 lines)", "app/__init__.py: 6"] {
        assert!(answer.findings().contains(said), "{}", answer.findings());
    }
    assert!(answer.findings().contains("the branch deletes tests: tests/test_sub.py"), "{}", answer.findings());
    // The page shows the report as it is.
    let page = include_str!("../../docs/coverage-gate.md");
    let template = page.split("\n---\n").nth(1).expect("front matter").split("counts:\n").nth(1).expect("counts");
    let shown = template.split("notes:\n").next().expect("a list").lines();
    let shown: Vec<&str> = shown.filter_map(|line| line.strip_prefix("- name: ")).collect();
    let counts: Vec<String> = answer.counts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(counts, shown);
    let back = world.commit("gone", &[("tests/test_sub.py", TEST_SUB)]).await;
    let answer = world.gate(&base, &back, "run5").await;
    assert!(answer.note().contains("is not below the baseline") && answer.landed.is_some());
}

/// What a commit changes, whether its tests are then taken for passed, and what the gate says.
struct Trap {
    what: &'static str,
    files: Vec<(&'static str, &'static str)>,
    green: bool,
    said: &'static str,
}

#[tokio::test]
async fn what_looks_green_without_a_report_fails_and_what_is_red_is_said_so() {
    let world = World::python().await;
    let base = world.app().await;
    let exits = "import os\nfrom app import add\n\n\ndef test_add():\n    add(1, 2)\n    os._exit(0)\n";
    let red = ("tests/test_red.py", "def test_red():\n    assert False\n");
    let lies = "def pytest_sessionfinish(session, exitstatus):\n    session.exitstatus = 0\n";
    let planted = "{\"meta\": {\"version\": \"7.17.3\"}, \"files\": {\"app/__init__.py\": {\"executed_lines\": [1, 2, 5, 6], \"missing_lines\": []}}}";
    let ini = |options: &'static str| ("pytest.ini", options);
    let none = "there is no coverage report";
    let traps = [
        Trap {
            what: "coverage is switched off: exit 0, no report",
            files: vec![ini("[pytest]\npythonpath = .\naddopts = --no-cov\n")],
            green: true,
            said: none,
        },
        Trap {
            what: "a report that the branch brings along does not stand for one",
            files: vec![ini("[pytest]\npythonpath = .\naddopts = --no-cov\n"), ("coverage.json", planted)],
            green: true,
            said: none,
        },
        Trap {
            what: "a test ends the process: exit 0, no report",
            files: vec![("tests/test_add.py", exits)],
            green: true,
            said: none,
        },
        Trap { what: "a test fails: exit 1, and a report", files: vec![red], green: false, said: "failed" },
        Trap {
            what: "a test fails, and conftest makes it exit 0",
            files: vec![red, ("conftest.py", lies)],
            green: false,
            said: "exited with 0 although tests failed",
        },
        Trap {
            what: "tests cannot be collected: exit 2",
            files: vec![("tests/test_collects.py", "import no_such_module\n")],
            green: false,
            said: "exit code 2",
        },
        Trap {
            what: "no test is selected: exit 5, and a report",
            files: vec![ini("[pytest]\npythonpath = .\naddopts = -k nothing\n")],
            green: false,
            said: "no test ran",
        },
        Trap {
            what: "a threshold of pytest-cov is missed: exit 1, as if a test had failed",
            files: vec![
                ini("[pytest]\npythonpath = .\naddopts = --cov-fail-under=100\n"),
                ("app/more.py", "def never():\n    return 1\n"),
            ],
            green: false,
            said: "exit code 1",
        },
    ];
    for (n, Trap { what, files, green, said }) in traps.into_iter().enumerate() {
        let head = world.commit(&format!("row{n}"), &files).await;
        let tests = world.tests(&base, &head, &format!("tests{n}")).await;
        match (green, &tests) {
            (true, CheckEnd::Passed { .. }) => {}
            (false, CheckEnd::Failed { findings }) => assert!(findings.contains(said), "{what}: {findings}"),
            _ => panic!("{what}: {tests:?}"),
        }
        // The gate by itself does not take it for anything else.
        let answer = world.gate(&base, &head, &format!("gate{n}")).await;
        assert!(answer.findings().contains(said), "{what}: {}", answer.findings());
    }
}

#[tokio::test]
async fn a_measured_path_that_does_not_exist_fails() {
    let mut world = World::python().await;
    let base = world.app().await;
    let line = "python3 -m pytest --cov=nowhere --cov-report=json:\"$ORCH_COVERAGE_REPORT\"";
    world.settings.coverage.command = Some(line.to_owned());
    let head = world.commit("task", &[("notes", "x")]).await;
    assert!(matches!(world.tests(&base, &head, "run1").await, CheckEnd::Passed { .. }), "pytest is content");
    let answer = world.gate(&base, &head, "run2").await;
    assert!(answer.findings().contains("there is no coverage report"), "{}", answer.findings());
    assert!(answer.findings().contains("the measured path does not exist"), "{}", answer.findings());
}

#[tokio::test]
async fn with_branches_measured_lines_alone_are_judged() {
    let mut world = World::python().await;
    let line = "python3 -m pytest --cov=app --cov-branch --cov-report=json:\"$ORCH_COVERAGE_REPORT\"";
    world.settings.coverage.command = Some(line.to_owned());
    let begin = world.commit("main", &[("README", "x")]).await;
    let branches = format!("{APP}\n\ndef sign(a):\n    if a > 0:\n        return 1\n    return -1\n");
    world.app().await;
    let head = world
        .commit(
            "main",
            &[
                ("app/__init__.py", &branches),
                ("tests/test_sign.py", "from app import sign\n\n\ndef test_sign():\n    assert sign(3) == 1\n"),
            ],
        )
        .await;
    let answer = world.gate(&begin, &head, "run1").await;
    // 7 of 8 statements; pytest's own 80.00 % counts 1 of 2 branches in.
    assert!(answer.note().contains("87.50 % (7 of 8 lines)"), "{}", answer.note());
}

#[tokio::test]
async fn settings_that_hide_lines_are_base_s() {
    let world = World::python().await;
    let base = world.app().await;
    let head = world.commit("first", &[("notes", "x")]).await;
    let first = world.gate(&base, &head, "run1").await;
    world.land(&head, first.landed).await;
    // An untested function, and settings that would hide it.
    let more = format!("{APP}\n\ndef mul(a, b):\n    c = a * b\n    return c\n");
    let hides = "[report]\nexclude_also =\n    def mul\n";
    let head = world.commit("hides", &[("app/__init__.py", &more), (".coveragerc", hides)]).await;
    let answer = world.gate(&base, &head, "run2").await;
    assert!(answer.findings().contains("71.42 % (5 of 7 lines) is below the baseline"), "{}", answer.findings());
    let said =
        "the branch changes coverage settings (.coveragerc); it was judged by base's, and has 100.00 % (4 of 4 lines)";
    assert!(answer.has(said));
    // And settings that leave nothing would stop every change after it.
    let head = world.commit("nothing", &[(".coveragerc", "[run]\nomit = app/*\n")]).await;
    let answer = world.gate(&base, &head, "nothing").await;
    assert!(answer.findings().contains("there is no coverage report"), "{}", answer.findings());
    assert!(answer.has("the branch changes coverage settings (.coveragerc)"));
    // The same in other spellings, of which none is in force.
    let git = |args: &[&str]| world.author_git(args, Some(&world.author));
    let rules = "omit = [\"app/more.py\"]\n";
    let toml = [
        format!("[tool.coverage.run] # settings\n{rules}"),
        format!("[tool]\ncoverage.run.{rules}"),
        format!("[tool.\"coverage\".run]\n{rules}"),
    ];
    let untested = ("app/more.py", "def mul(a, b):\n    c = a * b\n    return c\n");
    for (n, text) in toml.iter().enumerate() {
        let head = world.commit(&format!("toml{n}"), &[untested, ("pyproject.toml", text)]).await;
        let answer = world.gate(&base, &head, &format!("toml{n}")).await;
        assert!(answer.findings().contains("57.14 % (4 of 7 lines)"), "{text}: {}", answer.findings());
        assert!(answer.has("the branch changes coverage settings (pyproject.toml)"), "{text}");
    }
    world.commit("link", &[untested, ("conf/c.ini", "[run]\nomit = app/more.py\n")]).await;
    git(&["checkout", "--quiet", "link"]);
    std::os::unix::fs::symlink("conf/c.ini", world.author.join(".coveragerc")).expect("made");
    let head = world.commit("link", &[]).await;
    let answer = world.gate(&base, &head, "link1").await;
    assert!(answer.findings().contains("57.14 % (4 of 7 lines)"), "{}", answer.findings());
    assert!(answer.has("the branch changes coverage settings (.coveragerc)"));
    // A pragma is in the code itself: it works.
    let pragma = more.replace("def mul(a, b):", "def mul(a, b):  # pragma: no cover");
    let head = world.commit("pragma", &[("app/__init__.py", &pragma)]).await;
    let answer = world.gate(&base, &head, "run3").await;
    assert_eq!(answer.landed.as_ref().map(|landed| landed.totals), Some(totals(4, 4)));
    assert!(answer.has("3 more lines are excluded from counting: 3, before 0"), "so it is flagged");
}

#[tokio::test]
async fn a_file_that_is_not_measured_any_more_and_changed_test_configuration_are_named() {
    let world = World::python().await;
    world.app().await;
    let test = "from app.part import mod\n\n\ndef test_mod():\n    assert mod.one() == 1\n";
    let files = [
        ("app/part/__init__.py", "\"\"\"Part.\"\"\"\n"),
        ("app/part/mod.py", "def one():\n    return 1\n"),
        ("tests/test_mod.py", test),
    ];
    let base = world.commit("main", &files).await;
    let head = world.commit("first", &[("notes", "x")]).await;
    let first = world.gate(&base, &head, "run1").await;
    assert!(first.note().contains("100.00 % (6 of 6 lines)"), "{}", first.note());
    world.land(&head, first.landed).await;
    // No package any more, and no test that imports it: its lines are gone from the report, and all is at 100 %.
    let hides = [("app/part/__init__.py", ""), ("tests/test_mod.py", ""), ("conftest.py", "import os\n")];
    let head = world.commit("hides", &hides).await;
    let answer = world.gate(&base, &head, "run2").await;
    assert!(answer.note().contains("100.00 %"), "{}", answer.note());
    assert!(answer.has("measured before and not any more, although it is still there: app/part/mod.py"), "flagged");
    assert!(answer.has("the branch deletes tests: tests/test_mod.py"));
    assert!(answer.has("the branch changes test configuration: conftest.py"));
}

#[tokio::test]
async fn a_missing_plug_in_passes_loudly_on_both_and_fails_where_only_the_branch_lacks_it() {
    let world = World::python().await;
    let off = "[pytest]\npythonpath = .\naddopts = -p no:pytest_cov\n";
    let begin = world.app().await;
    let head = world.commit("off", &[("pytest.ini", off)]).await;
    // The tests run without it.
    let CheckEnd::Passed { note, .. } = world.tests(&begin, &head, "run1").await else { panic!("passes") };
    assert!(note.contains("2 tests"), "{note}");
    let answer = world.gate(&begin, &head, "run2").await;
    assert!(answer.findings().contains("starts on base"), "{}", answer.findings());
    assert!(answer.findings().contains("unrecognized arguments: --cov"), "{}", answer.findings());
    let base = world.commit("main", &[("pytest.ini", off)]).await;
    let head = world.commit("after", &[("notes", "x")]).await;
    let answer = world.gate(&base, &head, "run3").await;
    assert!(answer.warnings()[0].contains("coverage was NOT measured"), "{:?}", answer.warnings());
}

#[tokio::test]
async fn old_data_is_not_added_up_and_nothing_to_measure_is_said() {
    let world = World::python().await;
    let base = world.app().await;
    let head = world.commit("first", &[("notes", "x")]).await;
    let first = world.gate(&base, &head, "run1").await;
    world.land(&head, first.landed).await;
    // A data file that says that everything ran, brought along, and told to be appended to.
    let plant = "import coverage\ndata = coverage.CoverageData('.coverage')\n";
    let append = "[pytest]\npythonpath = .\naddopts = --cov-append\n";
    let conftest = format!(
        "{plant}import os\ndata.add_lines({{os.path.abspath('app/__init__.py'): range(1, 7)}})\ndata.write()\n"
    );
    let files = [("pytest.ini", append), ("conftest.py", conftest.as_str()), ("tests/test_sub.py", "")];
    let head = world.commit("append", &files).await;
    let answer = world.gate(&base, &head, "run2").await;
    assert!(answer.findings().contains("75.00 % (3 of 4 lines)"), "{}", answer.findings());
    // Nothing that counts, from the first commit on.
    let world = World::python().await;
    let files = [
        ("requirements-dev.txt", "pytest-cov\n"),
        ("pytest.ini", "[pytest]\npythonpath = .\n"),
        ("empty/__init__.py", "# nothing\n"),
        ("tests/test_x.py", "import empty\n\n\ndef test_x():\n    assert empty\n"),
    ];
    let base = world.commit("main", &files).await;
    let head = world.commit("task", &[("notes", "x")]).await;
    let answer = world.gate(&base, &head, "run1").await;
    assert!(answer.note().contains("nothing to measure"), "{}", answer.note());
}
