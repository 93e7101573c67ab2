//! The rules of coverage, by tables and by random numbers.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ids::CommitSha;
use crate::job::JobEnd;
use crate::names::RepoPath;
use crate::testcount::Counts;
use crate::time::{Millis, Timestamp};

mod edges;
mod erosion;

fn totals(covered: u64, total: u64) -> Totals {
    Totals::new(covered, total).expect("possible")
}

fn sha(c: char) -> CommitSha {
    c.to_string().repeat(40).parse().expect("hex")
}

fn path(name: &str) -> RepoPath {
    name.parse().expect("a path")
}

fn lines(covered: &[u32], uncovered: &[u32]) -> Lines {
    let mut lines = Lines::default();
    for line in covered {
        lines.add(*line, true);
    }
    for line in uncovered {
        lines.add(*line, false);
    }
    lines
}

fn coverage(files: &[(&str, Lines)]) -> Coverage {
    let files = files.iter().map(|(name, lines)| (path(name), lines.clone())).collect();
    Coverage { files, excluded: None }
}

// --------------------------------------------------------------------------------------------------------- model

#[test]
fn totals_that_contradict_themselves_are_refused() {
    assert!(Totals::new(3, 2).expect_err("more than all").to_string().contains("3 covered of 2"));
    assert!(matches!(Totals::new(0, u64::MAX), Err(TotalsError::TooMany { .. })));
    assert!(serde_json::from_str::<Totals>(r#"{"covered":2,"total":1}"#).is_err());
    assert_eq!(serde_json::to_string(&totals(1, 2)).expect("json"), r#"{"covered":1,"total":2}"#);
}

#[test]
fn of_two_words_about_a_line_covered_stands_and_line_zero_is_none() {
    let mut one = lines(&[1, 64, 4_294_967_295], &[2, 64]);
    assert!(!one.add(0, true));
    assert_eq!((one.covered(), one.total()), (3, 4));
    assert_eq!((one.get(2), one.get(64), one.get(3), one.get(0)), (Some(false), Some(true), None, None));
    one.merge(&lines(&[2], &[70]));
    let all: Vec<_> = one.iter().collect();
    assert_eq!(all, [(1, true), (2, true), (64, true), (70, false), (4_294_967_295, true)]);
}

// --------------------------------------------------------------------------------------------------------- judge

#[test]
fn the_rules_by_their_numbers() {
    let absolute = CoveragePolicy { mode: CoverageMode::Absolute, min_bp: 9_500, ..CoveragePolicy::default() };
    let baseline = CoveragePolicy::default();
    let both = CoveragePolicy { mode: CoverageMode::Both, min_bp: 5_000, ..baseline };
    let removal = CoveragePolicy { removal: true, ..baseline };
    let exact = CoveragePolicy { epsilon_bp: 0, ..baseline };
    let before = |covered, total| Some(totals(covered, total));
    // policy, head, baseline -> passes, one more run may tell
    let table = [
        ("exactly the minimum", absolute, totals(95, 100), None, true, false),
        ("94.999 is not 95", absolute, totals(94_999, 100_000), None, false, false),
        ("the baseline is nothing to the absolute rule", absolute, totals(95, 100), before(100, 100), true, false),
        ("no baseline: only the absolute rule", baseline, totals(0, 10), None, true, false),
        (
            "no baseline, and below the minimum",
            CoveragePolicy { min_bp: 1, ..baseline },
            totals(0, 10),
            None,
            false,
            false,
        ),
        (
            "a baseline: the minimum is not asked",
            CoveragePolicy { min_bp: 9_999, ..baseline },
            totals(5, 10),
            before(5, 10),
            true,
            false,
        ),
        ("the same share of more lines", baseline, totals(10, 20), before(5, 10), true, false),
        ("exactly epsilon below", baseline, totals(8_990, 10_000), before(9_000, 10_000), true, false),
        ("a line beyond epsilon", baseline, totals(8_989, 10_000), before(9_000, 10_000), false, true),
        ("epsilon and the margin", baseline, totals(8_940, 10_000), before(9_000, 10_000), false, true),
        ("beyond the margin", baseline, totals(8_939, 10_000), before(9_000, 10_000), false, false),
        ("epsilon of nothing", exact, totals(8_999, 10_000), before(9_000, 10_000), false, true),
        ("covered code removed", baseline, totals(7, 8), before(9, 10), false, false),
        ("covered code removed, rule on", removal, totals(7, 8), before(9, 10), true, false),
        ("a test removed is no removal of code", removal, totals(7, 10), before(9, 10), false, false),
        ("fewer lines, more of them uncovered", removal, totals(6, 8), before(9, 10), false, false),
        ("both: one is broken", both, totals(4, 10), before(3, 10), false, false),
        ("both: the other is broken", both, totals(6, 10), before(9, 10), false, false),
        (
            "both: broken minimum wins over a near miss",
            CoveragePolicy { min_bp: 9_900, ..both },
            totals(8_989, 10_000),
            before(9_000, 10_000),
            false,
            false,
        ),
        ("both hold", both, totals(9, 10), before(9, 10), true, false),
        ("nothing counts", both, totals(0, 0), None, false, false),
        ("nothing counts in either", baseline, totals(0, 0), before(0, 0), true, false),
        ("nothing is left", baseline, totals(0, 0), before(9, 10), false, false),
        ("nothing is left, absolute", absolute, totals(0, 0), before(9, 10), false, false),
        ("the baseline had nothing", baseline, totals(0, 10), before(0, 0), true, false),
        ("large numbers", exact, totals(MOST_LINES - 1, MOST_LINES), before(MOST_LINES, MOST_LINES), false, true),
    ];
    for (what, policy, head, before, passes, close) in table {
        let judged = judge(&policy, head, before);
        assert_eq!((judged.passes(), judged.close), (passes, close), "{what}: {}", judged.text());
        assert_eq!(judged.by_removal(), what.ends_with("rule on"), "{what}");
        assert!(!judged.reasons.is_empty(), "{what}: a verdict has a reason");
    }
}

#[test]
fn texts_name_the_numbers_and_never_contradict_the_verdict() {
    let policy = CoveragePolicy { epsilon_bp: 0, ..CoveragePolicy::default() };
    let judged = judge(&policy, totals(900_009, 1_000_000), Some(totals(90_001, 100_000)));
    assert_eq!(
        judged.text(),
        "90.000 % (900009 of 1000000 lines) is below the baseline of 90.001 % (90001 of 100000 lines) by more than 0.00 points"
    );
    // Beyond a tenth of a point, though both shares rounded to hundredths would lie exactly that far apart.
    let policy = CoveragePolicy { epsilon_bp: 10, ..policy };
    assert_eq!(
        judge(&policy, totals(899_095, 1_000_000), Some(totals(900_099, 1_000_000))).text(),
        "89.9095 % (899095 of 1000000 lines) is below the baseline of 90.0099 % (900099 of 1000000 lines) by more than 0.10 points"
    );
    let policy = CoveragePolicy { mode: CoverageMode::Absolute, min_bp: 9_500, ..policy };
    let text = judge(&policy, totals(94_999, 100_000), None).text();
    assert_eq!(text, "94.99 % (94999 of 100000 lines) is below the minimum of 95.00 %");
    assert_eq!(percent(totals(0, 0)), "nothing to measure");
    assert_eq!(percent(totals(1, 3)), "33.33 %");
    assert_eq!(percent(totals(3, 3)), "100.00 %");
    assert_eq!(points(5), "0.05");
}

fn any_totals() -> impl Strategy<Value = Totals> {
    let total = prop_oneof![0..40_u64, 0..5_000_u64, 0..=MOST_LINES];
    total.prop_flat_map(|total| (0..=total).prop_map(move |covered| totals(covered, total)))
}

fn any_policy() -> impl Strategy<Value = CoveragePolicy> {
    let mode = prop_oneof![Just(CoverageMode::Absolute), Just(CoverageMode::Baseline), Just(CoverageMode::Both)];
    (mode, 0..=10_000_u32, 0..=300_u32, any::<bool>()).prop_map(|(mode, min_bp, epsilon_bp, removal)| CoveragePolicy {
        mode,
        min_bp,
        epsilon_bp,
        removal,
        fail_closed: false,
    })
}

type Passes = fn(&CoveragePolicy, Totals, Option<Totals>) -> bool;

/// Whether more covered lines never turn a pass of that judge into a failure.
fn more_never_fails(passes: Passes) -> Result<(), String> {
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::with_cases(4_000) };
    let cases =
        (any_policy(), any_totals(), proptest::option::of(any_totals()), prop_oneof![1..1_000_u64, 1..=MOST_LINES]);
    let ran = proptest::test_runner::TestRunner::new(config).run(&cases, |(policy, head, baseline, more)| {
        let better = totals((head.covered() + more).min(head.total()), head.total());
        if passes(&policy, head, baseline) {
            prop_assert!(passes(&policy, better, baseline));
        }
        Ok(())
    });
    ran.map_err(|error| error.to_string())
}

#[test]
fn more_covered_lines_never_turn_a_pass_into_a_failure() {
    more_never_fails(|policy, head, baseline| judge(policy, head, baseline).passes()).expect("it never does");
    // What would be wrong is seen: the sides mixed up, a better share that is no equal one, numbers that do not fit.
    let wrong: [(&str, Passes); 3] = [
        ("mixed up", |policy, head, baseline| judge(policy, baseline.unwrap_or(head), baseline.map(|_| head)).passes()),
        ("not better", |policy, head, baseline| {
            judge(policy, head, baseline).passes() && !baseline.is_some_and(|baseline| head.is_above(baseline))
        }),
        ("overflow", |_, head, baseline| {
            let baseline = baseline.unwrap_or_default();
            head.covered().wrapping_mul(baseline.total()) >= baseline.covered().wrapping_mul(head.total())
        }),
    ];
    for (what, passes) in wrong {
        assert!(more_never_fails(passes).is_err(), "{what} is not seen");
    }
}

proptest! {
    #[test]
    fn a_wider_epsilon_and_a_lower_bar_never_fail_what_passed(
        policy in any_policy(), head in any_totals(), baseline in any_totals(), wider in 0..500_u32,
    ) {
        let wide = CoveragePolicy { epsilon_bp: policy.epsilon_bp + wider, min_bp: policy.min_bp.saturating_sub(wider), ..policy };
        if judge(&policy, head, Some(baseline)).passes() {
            prop_assert!(judge(&wide, head, Some(baseline)).passes());
        }
    }

    #[test]
    fn what_is_shown_has_the_order_of_what_is_compared(one in any_totals(), other in any_totals()) {
        let (a, b) = percent_pair(one, other);
        if one.total() > 0 && other.total() > 0 {
            let digits = |text: &str| text.trim_end_matches(" %").replace('.', "").parse::<u128>().expect("digits");
            prop_assert_eq!(digits(&a) > digits(&b), one.is_above(other), "{} {}", a, b);
            prop_assert_eq!(digits(&b) > digits(&a), other.is_above(one), "{} {}", a, b);
        }
    }
}

/// All the shares and limits of a sentence in points, as whole numbers of so many decimals.
fn shown_numbers(text: &str, decimals: usize) -> Vec<u128> {
    let word = |word: &str| {
        let (whole, part) = word.split_once('.')?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        (digits(whole) && digits(part)).then(|| format!("{whole}{part:0<decimals$}").parse().expect("digits"))
    };
    text.split_whitespace().filter_map(word).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// What is read off the sentence, by its own numbers alone, is the verdict.
    #[test]
    fn the_sentence_alone_leads_to_the_verdict(
        policy in any_policy(), head in any_totals(), base in any_totals(), near in any::<bool>(), off in 0..3_i64,
    ) {
        // Half of the time as near to the limit as whole lines allow.
        let limit = u128::from(base.covered()) * u128::from(head.total().max(1)) / u128::from(base.total().max(1));
        let limit = limit.saturating_sub(u128::from(policy.epsilon_bp) * u128::from(head.total()) / 10_000);
        let covered = u64::try_from(limit).expect("not above all lines").saturating_add_signed(off - 1);
        let head = if near { totals(covered.min(head.total()), head.total()) } else { head };
        let judged = judge(&policy, head, Some(base));
        for reason in &judged.reasons {
            let text = reason.text();
            let numbers = shown_numbers(&text, 30);
            let fails = match (reason, numbers.as_slice()) {
                (Reason::AtLeast { .. } | Reason::BelowMinimum { .. }, [share, min]) => share < min,
                (Reason::NotBelow { .. }, [now, before]) => now < before,
                (Reason::WithinEpsilon { .. } | Reason::BelowBaseline { .. }, [now, before, epsilon]) => {
                    prop_assert!(now < before, "{}", text);
                    before - now > *epsilon
                }
                (Reason::Removal { .. }, [now, before]) => {
                    prop_assert!(now < before, "{}", text);
                    false
                }
                // Nothing counts, in the head or in the baseline: words instead of shares.
                _ => continue,
            };
            prop_assert_eq!(fails, reason.fails(), "{}", text);
        }
    }
}

// ------------------------------------------------------------------------------------------------------- ratchet

fn landed(totals: Totals, by: &str, rebase: Option<Rebase>) -> Landed {
    Landed {
        totals,
        excluded: None,
        format: Format::Lcov,
        tool: None,
        measured_by: by.to_owned(),
        configuration: "c".to_owned(),
        measurement: "m".to_owned(),
        rebase,
    }
}

fn standing(revision: u64, totals: Totals, by: Option<&str>) -> Standing {
    Standing { revision, totals, measured_by: by.map(str::to_owned) }
}

#[test]
fn each_landing_moves_the_baseline_in_one_way_only() {
    let removal = |revision| Some(Rebase { because: Because::Removal, revision, floor: None });
    let floor = |covered| Some(Mark { totals: totals(covered, 100), sha: sha('b'), measurement: "base".to_owned() });
    let again = |revision| Some(Rebase { because: Because::MeasuredAgain, revision, floor: floor(80) });
    let at = |by| Some(standing(4, totals(90, 100), by));
    let table = [
        ("the first", None, landed(totals(1, 100), "t", None), Step::First),
        ("nothing measured is no baseline", None, landed(totals(0, 0), "t", None), Step::Kept),
        ("better", at(Some("t")), landed(totals(91, 100), "t", None), Step::Raised),
        ("the same", at(Some("t")), landed(totals(900, 1_000), "t", None), Step::Kept),
        ("worse, within epsilon", at(Some("t")), landed(totals(89, 100), "t", None), Step::Kept),
        ("a person's, better", at(None), landed(totals(91, 100), "t", None), Step::Raised),
        ("better, but by another tool", at(Some("u")), landed(totals(99, 100), "t", None), Step::Kept),
        ("by removal", at(Some("t")), landed(totals(8, 10), "t", removal(4)), Step::Removal),
        (
            "by removal, but another was set meanwhile",
            at(Some("t")),
            landed(totals(8, 10), "t", removal(3)),
            Step::Kept,
        ),
        ("measured again", at(Some("u")), landed(totals(70, 100), "t", again(4)), Step::MeasuredAgain),
        ("measured again, but somebody was faster", at(Some("t")), landed(totals(70, 100), "t", again(3)), Step::Kept),
        (
            "measured again, somebody was faster, and it is better",
            at(Some("t")),
            landed(totals(95, 100), "t", again(3)),
            Step::Raised,
        ),
    ];
    for (what, standing, landed, step) in table {
        assert_eq!(ratchet(standing.as_ref(), &landed), step, "{what}");
    }
    let mark = landed(totals(70, 100), "t", again(4)).mark(Step::MeasuredAgain, &sha('a'));
    assert_eq!((mark.totals, mark.sha), (totals(80, 100), sha('b')), "not below what base measured");
    let mark = landed(totals(85, 100), "t", again(4)).mark(Step::MeasuredAgain, &sha('a'));
    assert_eq!((mark.totals, mark.sha), (totals(85, 100), sha('a')));
    let mark = landed(totals(70, 100), "t", again(3)).mark(Step::Raised, &sha('a'));
    assert_eq!(mark.totals, totals(70, 100));
    for step in [Step::Kept, Step::First, Step::Raised, Step::Removal, Step::MeasuredAgain, Step::Set] {
        assert_eq!(Step::from_word(step.as_str()), Some(step));
        assert_eq!(serde_json::to_string(&step).expect("json"), format!("\"{}\"", step.as_str()));
    }
}

type Steps = fn(Option<&Standing>, &Landed) -> Step;

/// Whether no row of landings lowers the baseline by those steps.
fn never_lower(steps: Steps) -> Result<(), String> {
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::with_cases(512) };
    let rows = proptest::collection::vec((any_totals(), 0..2_usize), 1..20);
    let ran = proptest::test_runner::TestRunner::new(config).run(&rows, |all| {
        let mut now: Option<Standing> = None;
        for (totals, by) in all {
            let landed = landed(totals, ["t", "u"][by], None);
            let step = steps(now.as_ref(), &landed);
            if step == Step::Kept {
                continue;
            }
            let mark = landed.mark(step, &sha('a'));
            if let Some(before) = &now {
                prop_assert!(mark.totals.is_above(before.totals));
                prop_assert_eq!(before.measured_by.as_ref(), Some(&landed.measured_by), "shares of two tools");
            }
            now = Some(standing(now.map_or(0, |before| before.revision) + 1, mark.totals, Some(&landed.measured_by)));
        }
        Ok(())
    });
    ran.map_err(|error| error.to_string())
}

#[test]
fn without_a_flag_no_row_of_landings_lowers_the_baseline() {
    never_lower(ratchet).expect("it never does");
    let wrong: [(&str, Steps); 3] = [
        ("the last one counts", |standing, _| if standing.is_some() { Step::Raised } else { Step::First }),
        ("whatever tool", |standing, landed| {
            ratchet(standing.map(|s| Standing { measured_by: None, ..s.clone() }).as_ref(), landed)
        }),
        ("more lines are better", |standing, landed| match standing {
            Some(standing) if landed.totals.covered() <= standing.totals.covered() => Step::Kept,
            _ => Step::Raised,
        }),
    ];
    for (what, steps) in wrong {
        assert!(never_lower(steps).is_err(), "{what}: not seen");
    }
}

// ------------------------------------------------------------------------------------------------------- compare

fn hunk(old_start: u32, old_lines: u32, new_start: u32, new_lines: u32) -> Hunk {
    Hunk { old_start, old_lines, new_start, new_lines }
}

fn change(hunks: Vec<Hunk>) -> Change {
    Change { old: Some(path("a.py")), hunks: Some(hunks) }
}

#[test]
fn lost_lines_are_found_where_they_stand_now() {
    // Two lines put in after line 1, line 5 taken away.
    let change = change(vec![hunk(1, 0, 2, 2), hunk(5, 1, 6, 0)]);
    let before = coverage(&[("a.py", lines(&[1, 2, 3, 4, 5, 6], &[7])), ("same.py", lines(&[1, 2], &[]))]);
    // 1 | 2 3 new | 4=2 5=3 6=4 | 7=6 8=7
    let after = coverage(&[("a.py", lines(&[1, 2, 4, 7], &[3, 5, 6, 8])), ("same.py", lines(&[1], &[2]))]);
    let since: Changes = BTreeMap::from([(path("a.py"), change)]);
    let found = Comparison::of(&before, &after, &since, &BTreeSet::new()).with_added(&after, &since);
    let shown: Vec<String> = found.files.iter().map(|f| format!("{} {}", f.path, f.lost)).collect();
    assert_eq!(shown, ["a.py 5-6", "same.py 2"]);
    assert_eq!((found.files[0].before, found.files[0].after), (totals(6, 7), totals(4, 8)));
    assert_eq!(found.added, totals(1, 2));
    assert_eq!(found.uncovered_added[0].1.to_string(), "3");
}

#[test]
fn files_that_come_move_go_and_vanish() {
    let before = coverage(&[
        ("old.py", lines(&[1, 2], &[])),
        ("gone.py", lines(&[1], &[2])),
        ("vanished.py", lines(&[1, 3], &[2])),
    ]);
    let after = coverage(&[("new.py", lines(&[1], &[2])), ("moved.py", lines(&[1], &[2]))]);
    let since: Changes = BTreeMap::from([
        (path("new.py"), Change { old: None, hunks: Some(vec![hunk(0, 0, 1, 2)]) }),
        (path("moved.py"), Change { old: Some(path("old.py")), ..change(Vec::new()) }),
    ]);
    let gone = BTreeSet::from([path("gone.py"), path("old.py")]);
    let found = Comparison::of(&before, &after, &since, &gone).with_added(&after, &since);
    let shown: Vec<String> =
        found.files.iter().map(|f| format!("{} -{} {}", f.path, f.lost.count(), f.vanished)).collect();
    assert_eq!(shown, ["vanished.py -2 true", "moved.py -1 false", "new.py -0 false", "gone.py -0 false"]);
    assert_eq!((found.added, found.uncovered_added.len()), (totals(1, 2), 1));
}

#[test]
fn a_range_goes_on_over_lines_that_do_not_count_and_counts_only_those_that_do() {
    let before = coverage(&[("a.py", lines(&[1, 2, 5, 9, 10, 14], &[]))]);
    let after = coverage(&[("a.py", lines(&[1, 10], &[2, 5, 9, 14]))]);
    let found = Comparison::of(&before, &after, &Changes::new(), &BTreeSet::new());
    assert_eq!((found.files[0].lost.to_string().as_str(), found.files[0].lost.count()), ("2-9, 14", 4));
}

#[test]
fn long_lists_are_cut_and_still_counted() {
    let uncovered: Vec<u32> = (1..=1_000).map(|n| n * 2).collect();
    let between: Vec<u32> = uncovered.iter().map(|line| line + 1).collect();
    let all: Vec<u32> = uncovered.iter().chain(&between).copied().collect();
    let after = coverage(&[("a.py", lines(&between, &uncovered))]);
    let before = coverage(&[("a.py", lines(&all, &[]))]);
    let found = Comparison::of(&before, &after, &Changes::new(), &BTreeSet::new());
    assert_eq!(found.files[0].lost.count(), 1_000);
    let shown = found.files[0].lost.to_string();
    assert!(shown.ends_with(", ...") && shown.len() < 1_000, "{shown}");
}

proptest! {
    #[test]
    fn hunks_of_any_sort_never_panic(
        hunks in proptest::collection::vec(any::<(u32, u32, u32, u32)>(), 0..6),
        all in proptest::collection::vec(any::<u32>(), 0..20),
    ) {
        let hunks = hunks.into_iter().map(|(a, b, c, d)| hunk(a, b, c, d)).collect();
        let since: Changes = BTreeMap::from([(path("a"), Change { old: Some(path("a")), hunks: Some(hunks) })]);
        let (before, after) = (coverage(&[("a", lines(&all, &[]))]), coverage(&[("a", lines(&[], &all))]));
        let found = Comparison::of(&before, &after, &since, &BTreeSet::new()).with_added(&after, &since);
        prop_assert!(found.files.iter().all(|file| file.lost.count() <= after.totals().total()));
    }
}

// -------------------------------------------------------------------------------------------------------- stored

fn measurement(coverage: Coverage) -> Measurement {
    let about = About {
        repo: "demo".parse().expect("a name"),
        head: sha('a'),
        tree: sha('b'),
        format: Format::CoveragePy,
        tool: Some("coverage.py 7.17.3".to_owned()),
        measured_by: "by".to_owned(),
        configuration: "conf".to_owned(),
        report: "coverage.json".to_owned(),
        started: Timestamp(1_763_931_769_123),
        duration: Millis(5),
        notes: vec!["a note".to_owned()],
    };
    Measurement { about, coverage }
}

#[test]
fn a_measurement_is_read_back_whole_or_not_at_all() {
    let coverage = Coverage {
        excluded: Some(3),
        ..coverage(&[
            ("a b/\"x\".py", lines(&[1, 2, 3, 9], &[4, 5, 7])),
            ("empty.py", Lines::default()),
            ("z.py", lines(&[u32::MAX], &[])),
        ])
    };
    let kept = measurement(coverage);
    let text = kept.to_text();
    assert_eq!(Measurement::from_text(&text), Ok(kept));
    for broken in
        ["", "x", &text[..text.len() - 1], &text[1..], &text.replace("1-3", "1-4"), &text.replace("empty", "emptz")]
    {
        assert!(Measurement::from_text(broken).is_err(), "{broken:?}");
    }
}

proptest! {
    #[test]
    fn any_lines_are_read_back(all in proptest::collection::vec((1..5_000_u32, any::<bool>()), 0..200)) {
        let mut set = Lines::default();
        for (line, covered) in all {
            set.add(line, covered);
        }
        let kept = measurement(coverage(&[("a.py", set)]));
        prop_assert_eq!(Measurement::from_text(&kept.to_text()), Ok(kept));
    }
}

// --------------------------------------------------------------------------------------------------------- start

#[test]
fn only_what_neither_ran_a_test_nor_ended_well_did_not_start() {
    let exited = |code| JobEnd::Exited { code };
    let ran = Some(Counts::of(1, 1, 0));
    let none = Some(Counts::default());
    let table = [
        (exited(127), None, "", true),
        (exited(126), None, "", true),
        (exited(4), None, "x: error: unrecognized arguments: --cov=. --cov-report=json\n", true),
        (exited(4), none, "x: error: unrecognized arguments: --cov=.", true),
        (exited(1), None, "/usr/bin/python3: No module named pytest\n", true),
        (exited(101), None, "error: no such command: `llvm-cov`\n", true),
        (exited(1), None, "npm error npx canceled due to missing packages and no YES option: [\"c8@10.1.3\"]\n", true),
        (JobEnd::CouldNotStart { why: "no shell".to_owned() }, None, "", true),
        // A test ran, whatever was printed, or it ended well, or it is another mistake.
        (exited(1), ran, "No module named coverage", false),
        (exited(127), ran, "", false),
        (exited(0), None, "No module named coverage", false),
        (exited(4), None, "unrecognized arguments: --bogus", false),
        (exited(2), None, "ModuleNotFoundError: No module named 'app'", false),
        (JobEnd::TimedOut, None, "command not found: c8", false),
    ];
    for (end, counts, output, expected) in table {
        let why = start::did_not_start(&end, counts, output);
        assert_eq!(why.is_some(), expected, "{end:?} {output:?}: {why:?}");
    }
}
