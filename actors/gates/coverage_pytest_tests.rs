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
    let back = world.commit("gone", &[("tests/test_sub.py", TEST_SUB)]).await;
    let answer = world.gate(&base, &back, "run5").await;
    assert!(answer.note().contains("is not below the baseline") && answer.landed.is_some());
}

#[tokio::test]
async fn what_looks_green_without_a_report_fails_and_what_is_red_is_no_coverage_matter() {
    let world = World::python().await;
    let base = world.app().await;
    let exits = "import os\nfrom app import add\n\n\ndef test_add():\n    add(1, 2)\n    os._exit(0)\n";
    let red = "def test_red():\n    assert False\n";
    // file, text, whether the tests pass, what the gate then says
    let no_report = "there is no coverage report";
    let table = [
        ("pytest.ini", "[pytest]\npythonpath = .\naddopts = --no-cov\n", true, no_report),
        ("tests/test_add.py", exits, true, no_report),
        ("tests/test_red.py", red, false, "failed"),
        ("tests/test_collects.py", "import no_such_module\n", false, "exit code 2"),
        ("pytest.ini", "[pytest]\npythonpath = .\naddopts = -k nothing\n", false, "no test ran"),
    ];
    for (n, (file, text, passes, said)) in table.into_iter().enumerate() {
        let head = world.commit(&format!("row{n}"), &[(file, text)]).await;
        let tests = world.tests(&base, &head, &format!("tests{n}")).await;
        if passes {
            assert!(matches!(tests, CheckEnd::Passed { .. }), "{file} {text}: {tests:?}");
            let answer = world.gate(&base, &head, &format!("gate{n}")).await;
            assert!(answer.findings().contains(said), "{file}: {}", answer.findings());
        } else {
            let CheckEnd::Failed { findings } = tests else { panic!("{file}: {tests:?}") };
            assert!(findings.contains(said), "{file}: {findings}");
        }
    }
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
    let hides = "[run]\nomit = app/*\n[report]\nexclude_also =\n    def mul\n";
    let head = world.commit("hides", &[("app/__init__.py", &more), (".coveragerc", hides)]).await;
    let answer = world.gate(&base, &head, "run2").await;
    assert!(answer.findings().contains("71.42 % (5 of 7 lines) is below the baseline"), "{}", answer.findings());
    assert!(answer.has("the branch changes coverage settings (.coveragerc); it was measured with base's"));
    // A pragma is in the code itself: it works.
    let pragma = more.replace("def mul(a, b):", "def mul(a, b):  # pragma: no cover");
    let head = world.commit("pragma", &[("app/__init__.py", &pragma)]).await;
    let answer = world.gate(&base, &head, "run3").await;
    assert_eq!(answer.landed.as_ref().map(|landed| landed.totals), Some(totals(4, 4)));
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
