//! Coverage reports in all formats, whole and damaged, at home and elsewhere.

use std::os::unix::fs::symlink;

use orch_domain::coverage::Totals;

use super::*;

mod mutated;
mod names;

/// coverage.py 7.17 with branches, as pytest-cov writes it, shortened.
const PYTHON: &str = r#"{"meta": {"format": 3, "version": "7.17.3", "timestamp": "2026-11-20T10:00:00", "branch_coverage": true, "show_contexts": false},
"files": {"app/core.py": {"executed_lines": [1, 2, 5], "summary": {"covered_lines": 3, "num_statements": 5, "percent_covered": 45.45, "missing_lines": 2, "excluded_lines": 1},
 "missing_lines": [3, 6], "excluded_lines": [8], "executed_branches": [[2, 5]], "missing_branches": [[2, -1]],
 "functions": {"f": {"executed_lines": [2], "missing_lines": [3], "excluded_lines": []}}, "classes": {}},
"app/ünder score.py": {"executed_lines": [], "summary": {"covered_lines": 0, "num_statements": 0}, "missing_lines": [], "excluded_lines": []}},
"totals": {"covered_lines": 3, "num_statements": 5, "percent_covered": 45.45, "missing_lines": 2, "excluded_lines": 1}}"#;

/// The same by coverage.py's LCOV writer, whose branch records a strict reader refuses.
const LCOV: &str = "TN:\nSF:app/core.py\nDA:1,1,abc\nDA:2,12\nDA:3,0\nBRDA:2,0,jump to line 3,1\nBRDA:2,0,jump to line 5,-\nLF:99\nLH:99\nDA:5,1\nDA:6,-1\nend_of_record\nSF:app/ünder score.py\nend_of_record\n";

const COBERTURA: &str = r#"<?xml version="1.0" ?>
<!DOCTYPE coverage SYSTEM 'http://cobertura.sourceforge.net/xml/coverage-04.dtd'>
<coverage version="7.17.3" line-rate="0.6" lines-valid="5" lines-covered="3">
 <sources><source>SOURCE</source><source>/elsewhere</source></sources>
 <packages><package name="app"><classes>
  <class name="core.py" filename="core.py" line-rate="0.6"><methods><method name="f"><lines><line number="3" hits="0"/></lines></method></methods>
   <lines><line number="1" hits="1"/><line number="2" hits="7" branch="true"/><line number="3" hits="0"/><line number="5" hits="1"/><line number="6" hits="0"></line></lines></class>
  <class name="&#252;" filename="ünder score.py"><lines/></class>
 </classes></package></packages>
</coverage>"#;

/// A checkout with the files that the reports are about, and the list of the commit's.
struct Home(tempfile::TempDir, Vec<String>);

impl Home {
    fn new() -> Self {
        let mut home = Self(tempfile::tempdir().expect("a folder"), Vec::new());
        for name in ["app/core.py", "app/ünder score.py"] {
            home.commit(name, &"x = 1\n".repeat(10));
        }
        home
    }

    fn tree(&self) -> PathBuf {
        self.0.path().join("tree with ü")
    }

    fn places(&self) -> Places {
        let folder = self.0.path().join("private/coverage");
        Places { checkout: self.tree(), folder, configured: None, files: self.files() }
    }

    fn files(&self) -> CommitFiles {
        CommitFiles::new(self.1.iter().map(|path| (path.clone(), true)))
    }

    /// One more file of the commit.
    fn commit(&mut self, name: &str, text: &str) {
        let path = self.tree().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
        self.1.push(name.to_owned());
    }

    /// Writes a report after the places were cleared, and reads it.
    fn read(&self, text: &str) -> Result<CoverageReport, CoverageError> {
        let places = self.places();
        let since = places.clear().expect("cleared");
        fs::write(places.asked_for(), text).expect("written");
        places.read(&since)
    }
}

fn core(report: &CoverageReport) -> Vec<(u32, bool)> {
    report.coverage.files[&"app/core.py".parse().expect("a path")].iter().collect()
}

#[test]
fn all_formats_say_the_same() {
    let home = Home::new();
    let source = home.tree().join("app").display().to_string();
    let texts = [PYTHON.to_owned(), LCOV.to_owned(), COBERTURA.replace("SOURCE", &source)];
    let tools = [Some("coverage.py 7.17.3"), None, Some("cobertura 7.17.3")];
    for ((text, format), tool) in texts.iter().zip([Format::CoveragePy, Format::Lcov, Format::Cobertura]).zip(tools) {
        let report = home.read(text).expect("read");
        assert_eq!((report.format, report.tool.as_deref()), (format, tool));
        assert_eq!(core(&report), [(1, true), (2, true), (3, false), (5, true), (6, false)], "{format}");
        assert_eq!(report.coverage.totals(), Totals::new(3, 5).expect("possible"));
        assert_eq!(report.coverage.files.len(), 2, "a file without lines is measured too");
        assert_eq!(report.coverage.excluded, (format == Format::CoveragePy).then_some(1));
        assert!(report.notes.is_empty(), "{:?}", report.notes);
    }
}

#[test]
fn names_in_every_spelling_are_found_in_the_checkout_and_nowhere_else() {
    let home = Home::new();
    let secret = home.0.path().join("secret.py");
    fs::write(&secret, "x = 1\n").expect("written");
    symlink(home.0.path(), home.tree().join("way")).expect("linked");
    symlink(&secret, home.tree().join("app/linked.py")).expect("linked");
    fs::create_dir(home.tree().join("app/folder.py")).expect("made");
    let tree = home.tree();
    let here = [
        "app/core.py".to_owned(),
        "./app/core.py".to_owned(),
        "app/./core.py".to_owned(),
        "app/../app/core.py".to_owned(),
        format!("{}/build/../app/core.py", tree.display()),
        tree.join("app/core.py").display().to_string(),
    ];
    let elsewhere = [
        "../secret.py".to_owned(),
        "app/../../secret.py".to_owned(),
        secret.display().to_string(),
        format!("{}/../secret.py", tree.display()),
        "way/secret.py".to_owned(),
        "app/linked.py".to_owned(),
        "app/folder.py".to_owned(),
        "/etc/passwd".to_owned(),
        "app/nothing.py".to_owned(),
        ".git/config".to_owned(),
        "-x".to_owned(),
        "app/core.py\0".to_owned(),
    ];
    for name in &here {
        let report = home.read(&format!("SF:{name}\nDA:1,1\nend_of_record\n")).expect("read");
        assert_eq!(core(&report), [(1, true)], "{name}");
    }
    for name in &elsewhere {
        let text = format!("SF:{name}\nDA:1,1\nend_of_record\n");
        let alone = home.read(&text).expect_err("elsewhere");
        assert!(matches!(alone, CoverageError::Foreign { .. }), "{name}: {alone}");
        let report = home.read(&format!("{text}SF:app/core.py\nDA:1,0\nend_of_record\n")).expect("read");
        assert_eq!(core(&report), [(1, false)], "{name}");
        assert!(report.notes[0].contains("1 measured files are not in the commit"), "{:?}", report.notes);
    }
    let both = "SF:./app/core.py\nDA:1,0\nDA:2,0\nend_of_record\nSF:app/core.py\nDA:1,3\nend_of_record\n";
    assert_eq!(core(&home.read(both).expect("read")), [(1, true), (2, false)], "two names of one file");
    let long = home.read("SF:app/core.py\nDA:900,1\nend_of_record\n").expect_err("another checkout");
    assert!(long.to_string().contains("line 900 of app/core.py, which has 60 bytes"), "{long}");
}

#[test]
fn what_was_there_before_is_removed_and_what_is_put_there_is_stale() {
    let home = Home::new();
    let places = home.places();
    fs::create_dir_all(home.tree().join("coverage")).expect("made");
    for place in PLACES.iter().filter(|place| !place.contains("target")) {
        fs::write(home.tree().join(place), LCOV).expect("written");
    }
    fs::write(home.tree().join("planted"), LCOV).expect("written");
    fs::create_dir_all(&places.folder).expect("made");
    fs::write(places.asked_for(), LCOV).expect("written");
    let since = places.clear().expect("cleared");
    let missing = places.read(&since).expect_err("nothing is left");
    assert!(matches!(missing, CoverageError::Missing { .. }), "{missing}");
    // Moved into place, not written: it keeps its old time.
    let old = SystemTime::now() - std::time::Duration::from_secs(60);
    File::open(home.tree().join("planted")).expect("there").set_modified(old).expect("set");
    fs::rename(home.tree().join("planted"), home.tree().join("lcov.info")).expect("moved");
    assert!(matches!(places.read(&since), Err(CoverageError::Stale { .. })));
    // Written now, in a known place, and what was asked for goes first.
    fs::write(home.tree().join("lcov.info"), LCOV).expect("written");
    assert_eq!(places.read(&since).expect("read").place, "`lcov.info`");
    fs::write(places.folder.join("lcov.info"), LCOV).expect("written");
    assert!(places.read(&since).expect("read").place.contains("folder of this run"));
}

#[test]
fn one_configured_place_is_the_only_one_in_the_checkout() {
    let home = Home::new();
    let places = Places { configured: Some("out/cov.info".parse().expect("a path")), ..home.places() };
    fs::write(home.tree().join("lcov.info"), LCOV).expect("written");
    let since = places.clear().expect("cleared");
    assert!(home.tree().join("lcov.info").exists(), "what is not ours to read is not ours to remove");
    assert!(places.read(&since).expect_err("missing").to_string().contains("`out/cov.info`"));
    fs::create_dir_all(home.tree().join("out")).expect("made");
    fs::write(home.tree().join("out/cov.info"), LCOV).expect("written");
    assert_eq!(places.read(&since).expect("read").place, "`out/cov.info`");
}

#[test]
fn links_pipes_and_giants_are_not_opened() {
    let home = Home::new();
    let places = home.places();
    fs::write(home.0.path().join("real"), LCOV).expect("written");
    let since = places.clear().expect("cleared");
    symlink(home.0.path().join("real"), places.asked_for()).expect("linked");
    assert!(matches!(places.read(&since), Err(CoverageError::Unreadable { .. })));
    fs::remove_file(places.asked_for()).expect("removed");
    nix::unistd::mkfifo(&places.asked_for(), Mode::S_IRWXU).expect("made");
    assert!(matches!(places.read(&since), Err(CoverageError::Unreadable { .. })));
    fs::remove_file(places.asked_for()).expect("removed");
    File::create(places.asked_for()).expect("made").set_len(MAX_COVERAGE_REPORT + 1).expect("sparse");
    assert!(places.read(&since).expect_err("a giant").to_string().contains("at most"));
    fs::remove_file(places.asked_for()).expect("removed");
    // A folder of a known place behind a link: neither removed nor read.
    fs::create_dir(home.0.path().join("far")).expect("made");
    fs::write(home.0.path().join("far/lcov.info"), LCOV).expect("written");
    symlink(home.0.path().join("far"), home.tree().join("coverage")).expect("linked");
    let since = places.clear().expect("cleared");
    assert!(home.0.path().join("far/lcov.info").exists());
    assert!(matches!(places.read(&since), Err(CoverageError::Missing { .. })));
}

#[test]
fn what_is_damaged_or_of_another_sort_is_said_so() {
    let home = Home::new();
    let table = [
        ("", "no format that we know"),
        ("hello", "no format that we know"),
        ("[1]", "no format that we know"),
        ("{}", "without `files`"),
        (r#"{"total": {"lines": {"pct": "Unknown"}}}"#, "without `files`"),
        (r#"{"files": {"app/core.py": {"executed_lines": [1]}}}"#, "missing_lines"),
        (r#"{"files": {"app/core.py": {"executed_lines": [-1], "missing_lines": []}}}"#, "invalid value"),
        (r#"{"files": {"app/core.py": {"executed_lines": [1.5], "missing_lines": []}}}"#, "invalid type"),
        (r#"{"files": {}, "files": {}}"#, "twice"),
        (r#"{"files": {}} {"#, "trailing"),
        (&PYTHON[..PYTHON.len() / 2], "EOF"),
        ("SF:app/core.py\nDA:1,1\n", "middle of a record"),
        ("TN:\n", "no record"),
        ("This is text\n", "does not begin like LCOV"),
        ("TN:\nDA:1,1\nend_of_record\n", "line of no file"),
        ("<html></html>", "not `coverage`"),
        ("<coverage><packages>", "middle of an element"),
        ("<coverage></wrong>", "at byte"),
        ("<!DOCTYPE coverage [<!ENTITY a \"b\">]><coverage/>", "declarations of its own"),
        ("<coverage><class filename='a'><line number='1'/></class></coverage>", "without `hits`"),
        ("<coverage><class filename='a'><line number='x' hits='1'/></class></coverage>", "line `x`"),
        ("<coverage><class filename='a'><line number='1' hits='-1'/></class></coverage>", "`-1` hits"),
        ("<coverage><class filename='a'><class filename='b'/></class></coverage>", "inside a `class`"),
    ];
    for (text, said) in table {
        let error = home.read(text).expect_err(text);
        assert!(matches!(error, CoverageError::Broken { .. }), "{text:?}: {error}");
        assert!(error.to_string().contains(said), "{text:?}: {error}");
    }
    let odd = home.read("SF:app/core.py\nDA:1,x\nDA:3,1\nend_of_record\n").expect("read");
    assert_eq!((core(&odd), odd.notes.len()), (vec![(3, true)], 1));
    let contradicts = PYTHON.replace("\"totals\": {\"covered_lines\": 3", "\"totals\": {\"covered_lines\": 5");
    assert!(home.read(&contradicts).expect("read").notes[0].contains("its own totals say 5 of 5"));
    let nothing = home.read(r#"{"meta": {"version": "7"}, "files": {}}"#).expect("read");
    assert_eq!(nothing.coverage.totals(), Totals::default());
}

#[test]
fn no_single_part_fills_the_memory() {
    let home = Home::new();
    let long = "x".repeat(3 << 20);
    for text in [
        format!("SF:{long}\nend_of_record\n"),
        format!("{{\"{long}\": 1, \"files\": {{}}}}"),
        format!("<coverage version='{long}'></coverage>"),
        format!("<coverage><!-- {long} --></coverage>"),
        format!("<coverage>{}</coverage>", "<a>".repeat(100)),
        format!("{{\"files\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000)),
    ] {
        let error = home.read(&text).expect_err("refused");
        assert!(error.to_string().len() < 1_000, "{error}");
    }
}
