//! Tests of the judgement: one sentence each.

use super::super::ignore::ignores_in;
use super::super::lockfile::{Place, Spot};
use super::super::package::Ecosystem;
use super::*;

const NOW: Timestamp = Timestamp(1_790_000_000_000); // 2026-09-21

fn package(name: &str, version: &str) -> Package {
    Package::new(Ecosystem::PyPi, name, version).expect("valid")
}

fn pin(name: &str, version: &str) -> Pin {
    let place = Place { path: "requirements.txt".to_owned(), spot: Spot::Line(3) };
    Pin { package: package(name, version), place }
}

fn advisory(id: &str, aliases: &[&str]) -> Advisory {
    Advisory {
        id: id.to_owned(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        summary: format!("what {id} is about"),
        severity: Some("HIGH".to_owned()),
        fixed: vec!["9.0".to_owned()],
        informational: None,
    }
}

fn with(advisories: &[Advisory]) -> Answer {
    Answer { advisories: advisories.to_vec(), trouble: None }
}

#[derive(Default)]
struct Case {
    changes: Changes,
    answers: BTreeMap<Package, Answer>,
    feed_trouble: Vec<String>,
    ignores: Vec<Ignore>,
    fail_closed: bool,
}

impl Case {
    fn added(mut self, version: &str, answer: Answer) -> Self {
        self.changes.added.push(pin("jinja2", version));
        self.answers.insert(package("jinja2", version), answer);
        self
    }

    fn base(mut self, version: &str, answer: Answer) -> Self {
        self.changes.base.insert(package("jinja2", version));
        self.answers.insert(package("jinja2", version), answer);
        self
    }

    fn ignoring(mut self, id: &str, day: &str) -> Self {
        let text =
            format!("gates: {{security: {{dep_audit_ignore: [{{id: {id}, reason: because, expires: {day}}}]}}}}");
        self.ignores = ignores_in(&text).expect("valid");
        self
    }

    fn judge(&self) -> Judgement {
        judge(&Evidence {
            changes: &self.changes,
            answers: &self.answers,
            feed_trouble: &self.feed_trouble,
            ignores: &self.ignores,
            now: NOW,
            fail_closed: self.fail_closed,
        })
    }
}

#[test]
fn a_clean_dependency_passes_and_an_advisory_fails() {
    let clean = Case::default().added("1.0", with(&[])).judge();
    assert_eq!((clean.verdict, clean.clean, clean.degraded), (Verdict::Passed, 1, false));
    assert_eq!((clean.findings(), clean.warning()), (String::new(), None));
    let bad = Case::default().added("1.0", with(&[advisory("GHSA-a", &["CVE-1"])])).judge();
    assert_eq!((bad.verdict, bad.clean, bad.new.len(), bad.degraded), (Verdict::Failed, 0, 1, false));
    let line =
        "- PyPI jinja2 1.0 (requirements.txt:3): GHSA-a (also CVE-1), HIGH: what GHSA-a is about; fixed in 9.0\n";
    assert!(bad.findings().contains(line), "{}", bad.findings());
    assert!(bad.section().contains(line));
}

#[test]
fn a_bump_that_keeps_the_same_hole_is_not_new_whatever_its_name() {
    let case = Case::default()
        .base("1.0", with(&[advisory("PYSEC-1", &["CVE-1"])]))
        .added("1.1", with(&[advisory("GHSA-a", &["CVE-1"])]));
    let judgement = case.judge();
    assert_eq!((judgement.verdict, judgement.new.len(), judgement.old.len()), (Verdict::Passed, 0, 1));
    assert!(judgement.section().contains("### Advisories that base has too\n\n- PyPI jinja2 1.1"));
    let worse = case.added("0.9", with(&[advisory("GHSA-a", &["CVE-1"]), advisory("GHSA-b", &[])])).judge();
    assert_eq!((worse.verdict, worse.new.len()), (Verdict::Failed, 1));
    assert_eq!(worse.new[0].ids, ["GHSA-b"]);
}

#[test]
fn an_advisory_under_two_ids_is_one_finding() {
    let both = [advisory("PYSEC-1", &["CVE-1"]), advisory("GHSA-a", &["CVE-1"])];
    let judgement = Case::default().added("1.0", with(&both)).judge();
    assert_eq!(judgement.new.len(), 1);
    assert_eq!(judgement.new[0].ids, ["PYSEC-1", "GHSA-a", "CVE-1"]);
}

#[test]
fn a_feed_that_is_away_passes_loudly_or_concludes_nothing_as_set() {
    let mut case = Case::default().added("1.0", Answer::unknown("the feed is away"));
    let open = case.judge();
    assert_eq!((open.verdict, open.degraded, open.clean), (Verdict::Passed, true, 0));
    let warning = open.warning().expect("a warning");
    assert_eq!(warning, "the dependency audit is incomplete: requirements.txt:3: PyPI jinja2 1.0: the feed is away");
    assert_eq!((open.findings(), open.why()), (String::new(), None));
    case.fail_closed = true;
    let closed = case.judge();
    assert_eq!((closed.verdict, closed.new.len()), (Verdict::CouldNotRun, 0));
    assert_eq!(closed.findings(), "", "the developer has nothing to mend");
    let why = closed.why().expect("a reason");
    assert!(why.contains("dep_audit_fail_closed") && why.contains("the feed is away"), "{why}");
}

#[test]
fn what_the_branch_leaves_unknown_passes_loudly_or_fails_as_set() {
    let mut case = Case::default();
    let place = Place { path: "requirements.txt".to_owned(), spot: Spot::Line(4) };
    case.changes.unknown.push(Unknown::new(place, "flask", "it has no exact version", "flask"));
    let open = case.judge();
    assert_eq!((open.verdict, open.degraded), (Verdict::Passed, true));
    assert!(open.warning().expect("a warning").contains("requirements.txt:4: flask: it has no exact version"));
    case.fail_closed = true;
    let closed = case.judge();
    assert_eq!((closed.verdict, closed.why()), (Verdict::Failed, None));
    assert!(closed.findings().contains("dep_audit_fail_closed") && closed.findings().contains("flask"));
    // The feed is away besides: what the developer can mend comes first.
    case.feed_trouble.push("the advisories are 9 days old".to_owned());
    let both = case.judge();
    assert_eq!(both.verdict, Verdict::Failed);
    assert!(!both.findings().contains("9 days old"), "{}", both.findings());
}

#[test]
fn one_reason_for_many_dependencies_is_said_once() {
    let mut case = Case::default();
    for number in 0..20 {
        case.changes.added.push(pin(&format!("p{number}"), "1.0"));
        case.answers.insert(package(&format!("p{number}"), "1.0"), Answer::unknown("the feed is away"));
    }
    let warning = case.judge().warning().expect("a warning");
    assert_eq!(
        warning,
        "the dependency audit is incomplete: 20 dependencies (PyPI p0 1.0, PyPI p1 1.0, PyPI p2 1.0, ...): the feed is away"
    );
}

#[test]
fn a_base_that_could_not_be_read_is_said_with_the_finding() {
    let mut case = Case::default().added("1.0", with(&[advisory("GHSA-a", &[])]));
    case.changes.base_unread.push(Unknown::of_file("poetry.lock", b"x", "it is larger than what is read"));
    assert_eq!(case.judge().new[0].note.as_deref(), Some("whether base has it could not be learnt"));
}

#[test]
fn a_dependency_that_nobody_answered_for_is_not_clean() {
    let mut case = Case::default().added("1.0", with(&[]));
    case.answers.clear();
    let judgement = case.judge();
    assert_eq!((judgement.clean, judgement.unanswered.len(), judgement.degraded), (0, 1, true));
}

#[test]
fn a_stale_feed_degrades_even_when_everything_looks_clean() {
    let mut case = Case::default().added("1.0", with(&[]));
    case.feed_trouble.push("the advisories are 9 days old".to_owned());
    let judgement = case.judge();
    assert_eq!((judgement.verdict, judgement.degraded), (Verdict::Passed, true));
    assert!(judgement.warning().expect("a warning").contains("9 days old"));
}

#[test]
fn vulnerable_and_degraded_fails() {
    let answer = Answer { advisories: vec![advisory("GHSA-a", &[])], trouble: Some("stale".to_owned()) };
    let judgement = Case::default().added("1.0", answer).judge();
    assert_eq!((judgement.verdict, judgement.new.len(), judgement.unanswered.len()), (Verdict::Failed, 1, 1));
}

#[test]
fn what_is_unknown_of_base_is_said_and_excuses_nothing() {
    let case = Case::default().base("1.0", Answer::unknown("away")).added("1.1", with(&[advisory("GHSA-a", &[])]));
    let judgement = case.judge();
    assert_eq!((judgement.verdict, judgement.degraded), (Verdict::Failed, true));
    assert_eq!(judgement.new[0].note.as_deref(), Some("whether base has it could not be learnt"));
}

#[test]
fn an_ignored_advisory_passes_by_any_of_its_ids_until_its_day_is_over() {
    let case = || Case::default().added("1.0", with(&[advisory("GHSA-a", &["CVE-1"])]));
    let lasting = case().ignoring("CVE-1", "2026-09-30").judge();
    assert_eq!((lasting.verdict, lasting.ignored.len()), (Verdict::Passed, 1));
    assert!(lasting.section().contains("ignored until 2026-09-30: because"), "{}", lasting.section());
    let over = case().ignoring("CVE-1", "2026-09-01").judge();
    assert_eq!((over.verdict, over.ignored.len()), (Verdict::Failed, 0));
    assert!(over.findings().contains("was ignored until 2026-09-01, which is over"), "{}", over.findings());
    let other = case().ignoring("CVE-2", "2026-09-30").judge();
    assert_eq!(other.verdict, Verdict::Failed);
}

#[test]
fn a_notice_is_told_and_fails_nothing() {
    let notice = Advisory { informational: Some("unmaintained".to_owned()), ..advisory("RUSTSEC-1", &[]) };
    let judgement = Case::default().added("1.0", with(std::slice::from_ref(&notice))).judge();
    assert_eq!((judgement.verdict, judgement.notices.len(), judgement.clean), (Verdict::Passed, 1, 0));
    let mixed = [notice, advisory("GHSA-a", &["RUSTSEC-1"])];
    assert_eq!(Case::default().added("1.0", with(&mixed)).judge().verdict, Verdict::Failed, "one feed names a hole");
}

#[test]
fn text_from_outside_stays_on_its_line_and_is_no_markup() {
    let mut evil = advisory("GHSA-a", &[]);
    evil.summary = "x\n\n# Title `code` <img> [a](b)".to_owned();
    let section = Case::default().added("1.0", with(&[evil])).judge().section();
    let shown = section.lines().find(|line| line.contains("GHSA-a")).expect("the finding");
    assert!(shown.contains("x  # Title 'code' 'img' [a] (b)"), "{shown}");
    assert_eq!(section.lines().filter(|line| line.starts_with("# ")).count(), 0);
}

#[test]
fn the_counts_are_for_the_header() {
    let judgement = Case::default().added("1.0", with(&[advisory("GHSA-a", &[])])).judge();
    let shown: Vec<String> = judgement.counts().iter().map(|count| format!("{}={}", count.name, count.value)).collect();
    assert_eq!(
        shown,
        [
            "dependencies_added=1",
            "dependencies_clean=0",
            "advisories_new=1",
            "advisories_old=0",
            "advisories_ignored=0",
            "dependencies_unknown=0",
        ]
    );
}
