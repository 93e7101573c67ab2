//! The edges of the rules: nothing that counts, files that move out of sight, words inside other words, damaged ranges.

use super::*;

#[test]
fn nothing_that_counts_is_no_share_that_a_minimum_asks_for() {
    let policy = |mode, min_bp| CoveragePolicy { mode, min_bp, ..CoveragePolicy::default() };
    let nothing = totals(0, 0);
    let table = [
        (policy(CoverageMode::Absolute, 8_000), None, false),
        (policy(CoverageMode::Absolute, 8_000), Some(totals(1, 2)), false),
        (policy(CoverageMode::Both, 8_000), None, false),
        (policy(CoverageMode::Both, 8_000), Some(nothing), false),
        // No baseline yet: the minimum holds in every mode.
        (policy(CoverageMode::Baseline, 8_000), None, false),
        (policy(CoverageMode::Absolute, 0), Some(totals(1, 2)), true),
        (policy(CoverageMode::Baseline, 0), None, true),
        (policy(CoverageMode::Baseline, 0), Some(totals(1, 2)), false),
    ];
    for (policy, baseline, passes) in table {
        let judged = judge(&policy, nothing, baseline);
        assert_eq!(judged.passes(), passes, "{policy:?} {baseline:?}: {}", judged.text());
        assert!(judged.text().contains("no line that counts"), "{}", judged.text());
        assert_eq!(judged.text().contains("80.00 %"), policy.min_bp > 0, "{}", judged.text());
        assert!(!judged.close);
    }
}

#[test]
fn a_baseline_of_nothing_is_none() {
    let policy = CoveragePolicy { min_bp: 9_000, ..CoveragePolicy::default() };
    assert!(!judge(&policy, totals(1, 10), Some(totals(0, 0))).passes(), "as without a baseline, the minimum holds");
    assert!(judge(&policy, totals(9, 10), Some(totals(0, 0))).text().contains("there is no baseline yet"));
    assert_eq!(ratchet(Some(&standing(3, totals(0, 0), None)), &landed(totals(2, 4), "t", None)), Step::First);
    assert_eq!(ratchet(Some(&standing(3, totals(0, 0), None)), &landed(totals(0, 0), "t", None)), Step::Kept);
}

#[test]
fn a_file_that_moves_out_of_what_is_measured_is_named_where_it_is_now() {
    let before = coverage(&[("app/mod.py", lines(&[1, 2, 3], &[])), ("app/kept.py", lines(&[1], &[]))]);
    let after = coverage(&[("app/kept.py", lines(&[1], &[]))]);
    let moved = Change { old: Some(path("app/mod.py")), ..change(Vec::new()) };
    let since: Changes = BTreeMap::from([(path("plugins/mod.py"), moved)]);
    let gone = BTreeSet::from([path("app/mod.py")]);
    let found = Comparison::of(&before, &after, &since, &gone);
    let shown: Vec<_> = found.files.iter().map(|f| (f.path.as_str(), f.vanished, f.lost.count())).collect();
    assert_eq!(shown, [("plugins/mod.py", true, 3)]);
    // Taken away for good.
    let found = Comparison::of(&before, &after, &Changes::new(), &gone);
    assert_eq!((found.files[0].path.as_str(), found.files[0].vanished), ("app/mod.py", false));
}

#[test]
fn a_tool_is_named_by_a_whole_word() {
    let exited = JobEnd::Exited { code: 1 };
    let table = [
        ("Error: Cannot find module '/x/node_modules/c8/bin/c8.js'", true),
        ("sh: 1: command not found: c8", true),
        ("ModuleNotFoundError: No module named 'pytest_cov'", true),
        ("Error: Cannot find module './abc8f'", false),
        ("Error: Cannot find module './c8_helpers'", false),
        ("ModuleNotFoundError: No module named 'coverage_tools'", false),
        ("ModuleNotFoundError: No module named 'mypytest'", false),
    ];
    for (output, expected) in table {
        let why = start::did_not_start(&exited, None, output);
        assert_eq!(why.is_some(), expected, "{output}: {why:?}");
    }
}

#[test]
fn lines_that_could_not_be_mapped_are_not_guessed() {
    let before = coverage(&[("a.py", lines(&[1, 2, 3], &[]))]);
    let after = coverage(&[("a.py", lines(&[1], &[2, 3])), ("new.py", lines(&[1], &[2]))]);
    let unknown = |old: &str| Change { old: Some(path(old)), hunks: None };
    let since: Changes =
        BTreeMap::from([(path("a.py"), unknown("a.py")), (path("new.py"), Change { old: None, hunks: None })]);
    let found = Comparison::of(&before, &after, &since, &BTreeSet::new()).with_added(&after, &since);
    let of_a = found.files.iter().find(|file| file.path == path("a.py")).expect("its totals changed");
    assert_eq!((of_a.before, of_a.after, of_a.lost.count()), (totals(3, 3), totals(1, 3), 0));
    assert_eq!(found.unmapped, BTreeSet::from([path("a.py")]), "of a new file all lines are new");
    assert_eq!(found.added, totals(1, 2));
}

#[test]
fn the_page_writes_the_two_shares_as_the_sentence_does() {
    let policy = CoveragePolicy { epsilon_bp: 10, ..CoveragePolicy::default() };
    let (head, before) = (totals(899_095, 1_000_000), totals(900_099, 1_000_000));
    let judged = judge(&policy, head, Some(before));
    let (now, then) = judged.shares(head, before);
    assert_eq!((now.as_str(), then.as_str()), ("89.9095 %", "90.0099 %"));
    assert!(judged.text().contains(&now) && judged.text().contains(&then), "{}", judged.text());
}

#[test]
fn a_damaged_range_fills_no_memory() {
    let mut whole = Lines::default();
    assert_eq!(whole.add_range(60, 130, true, 3), Some(()));
    assert_eq!(whole.add_range(1, 63, false, 0), Some(()), "that block is there");
    assert_eq!((whole.covered(), whole.total(), whole.last(), whole.blocks()), (71, 130, Some(130), 3));
    for (first, last, room) in [(5, 4, 9), (0, 4, 9), (1, u32::MAX, MOST_BLOCKS), (1, 200, 0)] {
        assert_eq!(whole.add_range(first, last, true, room), None, "{first}-{last}");
    }
    assert_eq!(whole.total(), 130, "and nothing was added");
    assert_eq!(whole.add_range(u32::MAX, u32::MAX, true, 1), Some(()));
    // With the right digest, as if it had been written so.
    let kept = measurement(coverage(&[("a.py", lines(&[1, 2, 3], &[5]))]));
    for damaged in ["1-4294967295", "3-1", "0-3", "1-3,1-4294967295"] {
        let error = Measurement::from_text(&signed(&kept.to_text().replace("1-3", damaged))).expect_err(damaged);
        assert!(error.to_string().contains("range"), "{damaged}: {error}");
    }
}

/// A kept text with the digest that it should have.
fn signed(text: &str) -> String {
    use sha2::Digest as _;
    let body = text.trim_end_matches('\n').rsplit_once('\n').map_or("", |(body, _)| body).to_owned() + "\n";
    let digest = hex::encode(sha2::Sha256::digest(body.as_bytes()));
    format!("{body}{digest}\n")
}

proptest! {
    /// A kept text with a few of its characters changed, and a digest that fits it.
    #[test]
    fn no_mutated_measurement_panics_or_grows_beyond_its_cap(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), "[0-9,\"\\[-]{0,6}"), 1..6),
        fits in any::<bool>(),
    ) {
        let kept = measurement(coverage(&[("a.py", lines(&[1, 2, 3, 900], &[5, 70])), ("b.py", lines(&[], &[8]))]));
        let mut text = kept.to_text();
        let whole = text.clone();
        for (at, with) in changes {
            let at = at.index(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary((at + 2).min(text.len())) {
                text.replace_range(at..(at + 2).min(text.len()), &with);
            }
        }
        let text = if fits { signed(&text) } else { text };
        match Measurement::from_text(&text) {
            Ok(read) if !fits || text == whole => prop_assert_eq!(read, kept),
            Ok(read) => prop_assert!(read.coverage.files.values().map(Lines::blocks).sum::<usize>() <= MOST_BLOCKS),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

proptest! {
    /// Whatever stood before, also nothing: what lands with lines leaves a mark with lines.
    #[test]
    fn a_landing_with_lines_leaves_a_baseline_with_lines(
        before in proptest::option::of(any_totals()),
        own in proptest::option::of(Just("t")),
        covered in 0..100_u64,
    ) {
        let before = before.map(|totals| standing(1, totals, own));
        let landed = landed(totals(covered, 100), "t", None);
        let step = ratchet(before.as_ref(), &landed);
        let after = match step {
            Step::Kept => before.as_ref().expect("a first one is set").totals,
            step => landed.mark(step, &sha('a')).totals,
        };
        prop_assert!(after.total() > 0, "{step:?} of {before:?}");
    }
}

#[test]
fn by_other_settings_only_what_both_count_is_compared() {
    let hunk = Hunk { old_start: 2, old_lines: 1, new_start: 2, new_lines: 2 };
    let changed = Change { old: Some(path("a.py")), hunks: Some(vec![hunk]) };
    let since: Changes = BTreeMap::from([
        (path("b.py"), changed),
        (path("new.py"), Change { old: None, hunks: None }),
        (path("big.py"), Change { old: Some(path("big.py")), hunks: None }),
        (path("out/c.py"), Change { old: Some(path("c.py")), hunks: Some(Vec::new()) }),
    ]);
    let before = coverage(&[
        // 1 stays, 2 is taken away, 3 is 4 now, 5 is 6 now, 7 is 8 now.
        ("a.py", lines(&[1, 2, 3], &[5, 7])),
        ("big.py", lines(&[1], &[])),
        ("c.py", lines(&[1], &[])),
        ("gone.py", lines(&[1], &[2])),
        ("same.py", lines(&[1], &[2])),
    ]);
    let after = coverage(&[
        // 2 and 3 are new; 8 does not count any more; 9 did not count before.
        ("b.py", lines(&[1, 3], &[2, 4, 6, 9])),
        ("big.py", lines(&[], &[1])),
        ("new.py", lines(&[1], &[2, 3])),
        // It did not count before, and was there.
        ("old.py", lines(&[], &[1, 2])),
    ]);
    let gone = BTreeSet::from([path("gone.py"), path("a.py"), path("c.py")]);
    let alike = Alike::of(&before, &after, &since, &gone);
    // a.py: 1, 2, 3 of 1, 2, 3, 5; gone.py: 1 of 1, 2.
    assert_eq!(alike.before, totals(4, 6));
    // b.py: 1, 3 of 1, 2, 3, 4, 6; new.py: 1 of 1, 2, 3.
    assert_eq!(alike.after, totals(3, 8));
    assert_eq!(alike.vanished, [path("out/c.py"), path("same.py")], "by where they are now");
    let policy = CoveragePolicy { mode: CoverageMode::Both, min_bp: 4_000, ..CoveragePolicy::default() };
    let judged = judge_alike(&policy, totals(3, 14), alike.before, alike.after);
    assert!(!judged.passes() && !judged.close);
    let said = judged.text();
    assert!(said.contains("21.42 % (3 of 14 lines) is below the minimum of 40.00 %"), "of all of the head: {said}");
    assert!(said.contains("in lines that both settings count: 37.50 % (3 of 8 lines) is below the baseline"), "{said}");
    assert_eq!(judged.shares(alike.after, alike.before).0, "37.50 %");
}

#[test]
fn by_its_own_settings_a_branch_must_count_something_and_lose_nothing() {
    let policy = CoveragePolicy::default();
    let judged = || judge(&policy, totals(9, 10), Some(totals(9, 10)));
    let own = |own, alike| judged().and_by_its_own(&policy, totals(9, 10), own, alike);
    assert!(own(totals(5, 5), None).passes());
    assert!(own(totals(5, 5), Some((totals(5, 5), totals(5, 5)))).passes());
    let lost = own(totals(4, 5), Some((totals(5, 5), totals(4, 5))));
    assert!(!lost.passes() && lost.text().starts_with("in lines that both settings count: 80.00 %"), "{}", lost.text());
    let nothing = own(totals(0, 0), None);
    assert!(
        !nothing.passes() && nothing.text().contains("the branch's own settings count nothing"),
        "{}",
        nothing.text()
    );
    // What is measured once more is what fails by a hair, and nothing else.
    let close = judge(&policy, totals(897, 1_000), Some(totals(9, 10)));
    assert!(close.close && !close.and_by_its_own(&policy, totals(897, 1_000), totals(0, 0), None).close);
    let absolute = CoveragePolicy { mode: CoverageMode::Absolute, ..policy };
    let judged = judge(&absolute, totals(9, 10), Some(totals(9, 10)));
    assert!(judged.and_by_its_own(&absolute, totals(9, 10), totals(4, 5), Some((totals(5, 5), totals(4, 5)))).passes());
}
