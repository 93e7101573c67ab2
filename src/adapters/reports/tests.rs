//! Reports and JUnit XML: written, read back, and every kind of damage.

use orch_domain::gate::{Count, ToolVersion};
use orch_domain::names::RepoPath;
use orch_domain::testcount::Counts;
use orch_domain::time::{Millis, Timestamp};
use proptest::prelude::*;

use super::junit::{JunitError, clear_junit, parse_junit, read_junit};
use super::*;

fn sha(c: char) -> CommitSha {
    c.to_string().repeat(40).parse().expect("hex")
}

fn header(verdict: Verdict) -> ReportHeader {
    ReportHeader {
        gate: GateName::Tests,
        verdict,
        repo: "demo".parse().expect("valid"),
        base: Some(sha('a')),
        head: sha('b'),
        tree: sha('c'),
        run: "run1".parse().expect("valid"),
        tools: vec![ToolVersion { name: "sh".to_owned(), version: "no: \"1\"\n---\n".to_owned() }],
        started: Timestamp(1_763_931_769_123),
        duration: Millis(1_234),
        counts: vec![Count { name: "passed".to_owned(), value: 3 }, Count { name: "failed".to_owned(), value: 0 }],
        notes: vec!["---".to_owned(), "tests_status: passed".to_owned(), "yes".to_owned()],
    }
}

fn expect() -> Expect {
    Expect { gate: GateName::Tests, head: sha('b'), base: Some(sha('a')), run: "run1".parse().ok(), sha256: None }
}

/// A folder with one report file that is about to be read.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("key/1/14-tests-report.md")
    }

    fn with(bytes: &[u8]) -> Self {
        let place = Self::new();
        fs::create_dir_all(place.path().parent().expect("has one")).expect("made");
        fs::write(place.path(), bytes).expect("written");
        place
    }

    fn read(&self) -> Result<ReadReport, ReportError> {
        read_report(&self.path(), &expect())
    }
}

#[test]
fn what_is_written_is_read_back_whole() {
    for verdict in [Verdict::Passed, Verdict::Failed, Verdict::CouldNotRun] {
        let place = Place::new();
        let body = "# Tests\n---\ntests_status: failed\n---\n";
        let report = write_and_read_back(&place.path(), &header(verdict), body).expect("read back");
        assert_eq!((report.verdict, &report.header, report.body.as_str()), (verdict, &header(verdict), body));
        assert_eq!(report.sha256, hex::encode(Sha256::digest(fs::read(place.path()).expect("there"))));
        let left: Vec<_> = fs::read_dir(place.path().parent().expect("has one")).expect("there").collect();
        assert_eq!(left.len(), 1, "no temporary file is left");
        // Writing again replaces it.
        write_and_read_back(&place.path(), &header(Verdict::Failed), "").expect("replaced");
        assert_eq!(place.read().expect("there").verdict, Verdict::Failed);
    }
}

#[test]
fn the_keys_and_their_order_are_frozen() {
    let mut header = header(Verdict::CouldNotRun);
    header.tools.truncate(0);
    header.notes = vec!["the feed did not answer".to_owned()];
    let text = render_report(&header, "text\n").expect("short");
    let expected = format!(
        "---\ntests_status: could_not_run\ngate: tests\nrepo: demo\nbase: {}\nhead: {}\ntree: {}\nrun: run1\n\
         tools: []\nstarted: 2025-11-23T21:02:49.123Z\nduration_ms: 1234\ncounts:\n- name: passed\n  value: 3\n\
         - name: failed\n  value: 0\nnotes:\n- the feed did not answer\n---\ntext\n",
        sha('a'),
        sha('b'),
        sha('c')
    );
    assert_eq!(text, expected);
}

#[test]
fn a_report_about_something_else_does_not_count() {
    let place = Place::new();
    let sha256 = write_report(&place.path(), &header(Verdict::Passed), "").expect("written");
    let others = [
        ("head", Expect { head: sha('d'), ..expect() }),
        ("base", Expect { base: Some(sha('d')), ..expect() }),
        ("base", Expect { base: None, ..expect() }),
        ("run", Expect { run: "run2".parse().ok(), ..expect() }),
        ("content", Expect { sha256: Some("0".repeat(64)), ..expect() }),
    ];
    for (part, other) in others {
        let err = read_report(&place.path(), &other).expect_err("another");
        assert!(matches!(err, ReportError::Other { what, .. } if what == part), "{err}");
    }
    let other = Expect { gate: GateName::Merge, ..expect() };
    assert!(matches!(read_report(&place.path(), &other), Err(ReportError::Broken { .. })));
    let same = Expect { run: None, sha256: Some(sha256), ..expect() };
    assert!(read_report(&place.path(), &same).is_ok());
}

#[test]
fn missing_links_folders_and_giants_do_not_count() {
    assert!(matches!(Place::new().read(), Err(ReportError::Missing { .. })));
    let place = Place::with(render_report(&header(Verdict::Passed), "").expect("short").as_bytes());
    assert!(place.read().is_ok());
    let real = place.0.path().join("real.md");
    fs::rename(place.path(), &real).expect("moved");
    std::os::unix::fs::symlink(&real, place.path()).expect("linked");
    assert!(matches!(place.read(), Err(ReportError::Io { .. })), "a link is not followed");
    fs::remove_file(place.path()).expect("gone");
    fs::create_dir(place.path()).expect("made");
    assert!(matches!(place.read(), Err(ReportError::Io { .. })));

    let mut text = render_report(&header(Verdict::Passed), "").expect("short");
    text.push_str(&"x".repeat(usize::try_from(MAX_REPORT).expect("fits")));
    assert!(matches!(Place::with(text.as_bytes()).read(), Err(ReportError::TooLong { .. })));
    let long = ReportHeader { notes: vec!["x".repeat(MAX_HEADER)], ..header(Verdict::Passed) };
    assert!(matches!(write_report(&place.path(), &long, ""), Err(ReportError::Broken { .. })), "never written");
}

#[test]
fn damage_that_yaml_might_forgive_does_not_count() {
    let good = render_report(&header(Verdict::Passed), "body\n").expect("short");
    assert!(Place::with(good.as_bytes()).read().is_ok());
    let swap = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let status = "tests_status: passed\n";
    let damaged = [
        String::new(),
        swap(status, ""),
        swap(status, "tests_status: passed\ntests_status: passed\n"),
        swap(status, "tests_status: failed\ntests_status: passed\n"),
        swap(status, "tests_status: Passed\n"),
        swap(status, "tests_status: pass\n"),
        swap(status, "tests_status: true\n"),
        swap(status, "tests_status: [passed]\n"),
        swap(status, "tests_status: passed\nmerge_status: passed\n"),
        swap(status, "tests_status: passed\nextra: 1\n"),
        swap("gate: tests", "gate: merge"),
        swap("duration_ms: 1234", "duration_ms: 1234.0"),
        swap("duration_ms: 1234", "duration_ms: -1"),
        swap("duration_ms: 1234", "duration_ms: .nan"),
        swap("duration_ms: 1234", "duration_ms: 1234\nduration_ms: 1234"),
        swap("  value: 3", "  value: 3\n  value: 3"),
        swap("  value: 3", "  value: 3.5"),
        swap("---\n", "--- \n"),
        swap("---\n", ""),
        format!("\n{good}"),
        format!("\u{feff}{good}"),
        good.replace('\n', "\r\n"),
        good.replacen("\n---\nbody", "\n--- \nbody", 1),
        "---\n---\n".to_owned(),
        "---\n- passed\n---\n".to_owned(),
    ];
    for text in &damaged {
        assert!(matches!(Place::with(text.as_bytes()).read(), Err(ReportError::Broken { .. })), "{text}");
    }
    let mut bytes = good.clone().into_bytes();
    bytes.push(0xff);
    assert!(matches!(Place::with(&bytes).read(), Err(ReportError::Broken { source: HeaderError::NotText, .. })));
    // The fence comes too late: everything before it would have to be parsed.
    let late = swap(status, &format!("{status}# {}\n", "x".repeat(MAX_HEADER)));
    assert!(matches!(Place::with(late.as_bytes()).read(), Err(ReportError::Broken { .. })));
}

/// A change of some bytes of a text.
fn damage(text: &[u8], cuts: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.to_owned();
    for (at, kind, byte) in cuts {
        let at = at % bytes.len().max(1);
        match kind % 4 {
            0 if at < bytes.len() => bytes[at] = *byte,
            1 => bytes.insert(at.min(bytes.len()), *byte),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

proptest! {
    #[test]
    fn no_damage_turns_a_verdict_into_passed(cuts in proptest::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..4)) {
        for verdict in [Verdict::Failed, Verdict::CouldNotRun] {
            let text = render_report(&header(verdict), "body").expect("short");
            let read = Place::with(&damage(text.as_bytes(), &cuts)).read();
            prop_assert!(read.is_err() || read.is_ok_and(|report| report.verdict == verdict));
        }
    }

    #[test]
    fn a_changed_report_never_passes_for_the_one_that_was_recorded(cuts in proptest::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6)) {
        let text = render_report(&header(Verdict::Passed), "body").expect("short");
        let changed = damage(text.as_bytes(), &cuts);
        let place = Place::with(&changed);
        let recorded = Expect { sha256: Some(hex::encode(Sha256::digest(text.as_bytes()))), ..expect() };
        let read = read_report(&place.path(), &recorded);
        prop_assert_eq!(read.is_ok(), changed == text.as_bytes());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "[-a-z_: \\n\\[\\]{}&*!|>'\"#%@`,?0-9]{0,200}") {
        let _ = parse_report(GateName::Tests, &bytes);
        let _ = parse_report(GateName::Tests, format!("---\n{text}\n---\n").as_bytes());
        let _ = parse_junit(&bytes);
        let _ = parse_junit(text.as_bytes());
    }
}

const PYTEST: &str = r#"<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="5" time="0.05"><testcase classname="test_a" name="test_ok" time="0.001" /><testcase classname="test_a" name="test_bad[&lt;x&gt;]" time="0.001"><failure message="assert 1 == 2">def test():
&gt; assert 1 == 2</failure></testcase><testcase classname="test_a" name="test_skip"><skipped type="pytest.skip" message="later">x</skipped></testcase><testcase classname="test_a" name="test_err"><error message="boom">x</error></testcase><testcase classname="test_a" name="test_out"><system-out>not a <![CDATA[<failure>]]></system-out></testcase></testsuite></testsuites>"#;

#[test]
fn cases_are_summed_whatever_the_totals_say() {
    let report = parse_junit(PYTEST.as_bytes()).expect("junit");
    assert_eq!(report.counts, Counts::of(2, 2, 1));
    assert_eq!(report.failed, ["test_a::test_bad[<x>]", "test_a::test_err"]);
    assert!(report.flaky.is_empty());
    let lying = r#"<testsuite tests="99" failures="0"><testcase name="a"/></testsuite>"#;
    assert_eq!(parse_junit(lying.as_bytes()).expect("junit").counts, Counts::of(1, 0, 0));
    let none = r#"<testsuites tests="0"/>"#;
    assert_eq!(parse_junit(none.as_bytes()).expect("junit").counts, Counts::default());
}

#[test]
fn flaky_cases_are_named_and_a_failure_is_not_hidden_by_its_namesake() {
    let nextest = r#"<testsuites><testsuite><testcase classname="c" name="f"><flakyFailure message="x"/></testcase></testsuite></testsuites>"#;
    let report = parse_junit(nextest.as_bytes()).expect("junit");
    assert_eq!((report.counts, report.flaky), (Counts::of(1, 0, 0), vec!["c::f".to_owned()]));
    let twice = r#"<testsuite><testcase name="f"/><testcase name="f"><failure/></testcase></testsuite>"#;
    let report = parse_junit(twice.as_bytes()).expect("junit");
    assert_eq!((report.counts.failed, report.flaky, report.failed), (1, vec!["f".to_owned()], vec!["f".to_owned()]));
    let rerun = r#"<testsuite><testcase name="f"><failure/><rerunFailure/></testcase></testsuite>"#;
    let report = parse_junit(rerun.as_bytes()).expect("junit");
    assert_eq!((report.counts.failed, report.flaky.len()), (1, 0), "failed each time is not flaky");
}

#[test]
fn documents_that_are_cut_off_or_no_junit_give_no_counts() {
    for cut in 1..PYTEST.len() {
        if PYTEST.is_char_boundary(cut) {
            assert!(parse_junit(&PYTEST.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
    }
    let deep = format!("<testsuite>{}", "<a>".repeat(1_000));
    let entity = "<!DOCTYPE x [<!ENTITY a \"b\">]><testsuite/>";
    let nested = "<testsuite><testcase name='a'><testcase name='b'/></testcase></testsuite>";
    for text in ["", "hello", "<html></html>", "<testsuite></testsuites>", "</testsuite>", entity, nested, &deep] {
        assert!(parse_junit(text.as_bytes()).is_err(), "{text:.60}");
    }
}

#[test]
fn files_and_folders_are_read_and_no_link_is_followed() {
    let room = tempfile::tempdir().expect("a folder");
    let path = |text: &str| text.parse::<RepoPath>().expect("valid");
    assert!(matches!(read_junit(room.path(), &path("out/junit.xml")), Err(JunitError::Missing(_))));
    fs::create_dir_all(room.path().join("out")).expect("made");
    assert!(
        matches!(read_junit(room.path(), &path("out")), Err(JunitError::Missing(_))),
        "an empty folder is no report"
    );
    fs::write(room.path().join("out/a.xml"), PYTEST).expect("written");
    fs::write(room.path().join("out/b.xml"), "<testsuite><testcase name='z'/></testsuite>").expect("written");
    fs::write(room.path().join("out/notes.txt"), "not xml").expect("written");
    assert_eq!(read_junit(room.path(), &path("out/a.xml")).expect("read").counts.total, 5);
    assert_eq!(read_junit(room.path(), &path("out")).expect("read").counts, Counts::of(3, 2, 1));
    std::os::unix::fs::symlink("out", room.path().join("way")).expect("linked");
    std::os::unix::fs::symlink("a.xml", room.path().join("out/c.xml")).expect("linked");
    for link in ["way", "way/a.xml", "out/c.xml"] {
        assert!(matches!(read_junit(room.path(), &path(link)), Err(JunitError::Unreadable { .. })), "{link}");
    }
    assert_eq!(read_junit(room.path(), &path("out")).expect("links inside are left out").counts.total, 6);
    clear_junit(room.path(), &path("out")).expect("cleared");
    assert!(matches!(read_junit(room.path(), &path("out")), Err(JunitError::Missing(_))));
    clear_junit(room.path(), &path("nothing/here")).expect("nothing to clear");
}
