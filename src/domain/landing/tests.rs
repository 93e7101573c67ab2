//! Each rule of a landing by itself.

use super::*;
use crate::gate::InScope;

fn sha(digit: char) -> CommitSha {
    digit.to_string().repeat(40).parse().expect("hex")
}

fn named(names: &[&str]) -> Failure {
    Failure::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

fn some(names: &[&str]) -> Failure {
    Failure::Some(names.iter().map(|name| (*name).to_owned()).collect())
}

fn trunk() -> BranchName {
    "trunk".parse().expect("a branch")
}

fn unnamed(words: &str) -> Failure {
    Failure::Unnamed(words.to_owned())
}

#[test]
fn every_failure_class_has_a_budget_and_a_next_step_of_its_own() {
    let lines: Vec<String> = FailureClass::ALL
        .iter()
        .map(|class| format!("{class}: {}; {}; blames {}", class.budget(), class.next_step(), class.blames_the_work()))
        .collect();
    assert_eq!(
        lines,
        [
            "own-tests: limits.max_developer_retries; back to development with the findings; blames true",
            "conflict: limits.max_conflicts; back to development with the findings; blames true",
            "gate: limits.max_developer_retries; back to development with the findings; blames true",
            "main-red: gates.merge.defer_max; later again; people are told that main is red; blames false",
            "infrastructure: limits.infrastructure_retries; later again; blames false",
            "refused-by-forge: none; a person; blames false",
            "main-moved: gates.merge.defer_max; later again; blames false",
            "busy: gates.merge.defer_max; later again; blames false",
        ]
    );
    for class in FailureClass::ALL {
        assert_eq!(serde_json::to_string(&class).expect("serialises"), format!("\"{class}\""));
    }
}

#[test]
fn main_is_blamed_only_for_the_very_same_failures() {
    let table = [
        (named(&["a"]), OnMain::Passed, "work"),
        (named(&["a"]), OnMain::Failed(named(&["a"])), "main"),
        (named(&["a"]), OnMain::Failed(named(&["a", "b"])), "main"),
        (named(&["a", "b"]), OnMain::Failed(named(&["a"])), "work"),
        (named(&["a"]), OnMain::Failed(named(&["b"])), "work"),
        (named(&["a"]), OnMain::Failed(some(&["a"])), "work"),
        (some(&["a"]), OnMain::Failed(named(&["a"])), "work"),
        (named(&["a"]), OnMain::Failed(unnamed("x")), "work"),
        (unnamed("x"), OnMain::Failed(named(&["a"])), "work"),
        (unnamed("no port"), OnMain::Failed(unnamed("no port")), "main"),
        (unnamed("no port"), OnMain::Failed(unnamed("no disk")), "work"),
        (named(&["a"]), OnMain::NoTests, "work"),
        (named(&["a"]), OnMain::CouldNotRun("no tool".to_owned()), "nobody"),
    ];
    for (head, main, expected) in table {
        let said = match blame(&head, &trunk(), &main) {
            Blame::Work { .. } => "work",
            Blame::Main { .. } => "main",
            Blame::Unknown { .. } => "nobody",
        };
        assert_eq!(said, expected, "{head:?} against {main:?}");
    }
}

#[test]
fn what_main_fails_too_is_named_in_the_findings() {
    let Blame::Work { also_on_main, note } = blame(&named(&["a", "b"]), &trunk(), &OnMain::Failed(named(&["b", "c"])))
    else {
        panic!("the work fails `a` by itself")
    };
    assert_eq!(also_on_main, BTreeSet::from(["b".to_owned()]));
    assert!(note.contains("trunk alone fails too, so they are not yours:\n- b") && !note.contains("- a"), "{note}");
}

fn patch(digit: char, id: &str) -> Patch {
    let id = (!id.is_empty()).then(|| id.to_owned());
    Patch { sha: sha(digit), line: format!("line {digit}"), id, identity: format!("who {digit}") }
}

#[test]
fn every_commit_of_a_branch_is_accounted_for() {
    let facts = Composition {
        before: vec![
            patch('1', "p"),
            patch('2', "q"),
            patch('3', "r"),
            patch('4', "s"),
            patch('5', "t"),
            patch('6', ""),
        ],
        after: vec![patch('1', "p"), Patch { sha: sha('a'), ..patch('3', "other") }],
        on_main: BTreeSet::from(["q".to_owned()]),
        brings_nothing: BTreeSet::from([sha('4')]),
        recomposed_same: Some(true),
        foreign_paths: Vec::new(),
    };
    let told = account(&facts);
    assert_eq!(told.kept, 2);
    assert_eq!(told.already_on_main, ["line 2", "line 4"]);
    assert_eq!(told.altered, ["line 3"]);
    assert_eq!(told.lost, ["line 5"]);
    assert!(!told.balances(), "a lost patch");
    let lines = told.lines().join("\n");
    assert!(lines.contains("LOST without being on the main branch:\n- line 5"), "{lines}");

    let whole = Composition { before: facts.before[..4].to_vec(), ..facts.clone() };
    assert!(account(&whole).balances());
    let differently = Composition { recomposed_same: Some(false), ..whole.clone() };
    assert!(!account(&differently).balances(), "an altered patch in a tree that nobody else composes");
    let unaltered = Composition { before: facts.before[..1].to_vec(), ..differently.clone() };
    assert!(account(&unaltered).balances(), "patches that are the same prove themselves");
    for recomposed_same in [Some(false), None] {
        let gone = Composition { before: facts.before[..2].to_vec(), recomposed_same, ..facts.clone() };
        let told = account(&gone);
        assert!(told.lost.len() == 1 && told.lost[0].starts_with("line 2: the main branch brought it"), "{told:?}");
        let held = Composition { brings_nothing: BTreeSet::from([sha('2')]), ..gone };
        assert_eq!(account(&held).already_on_main, ["line 2"], "it brings nothing to main as it is");
    }
    let foreign = Composition { foreign_paths: vec!["other.rs".to_owned()], ..whole };
    assert!(!account(&foreign).balances(), "a file that nobody changed");
}

#[test]
fn only_a_definitive_answer_ends_an_intent() {
    use Said::{Elsewhere, Moved, NotSent, Refused, Unknown};
    let table = [
        (Moved, [Then::Verify; 2]),
        (Elsewhere { contains: true }, [Then::Verify; 2]),
        (Elsewhere { contains: false }, [Then::CatchUpAgain; 2]),
        (Refused, [Then::NeedsPerson; 2]),
        (NotSent, [Then::Void, Then::Repeat]),
        (Unknown, [Then::Repeat; 2]),
    ];
    for (said, [first, later]) in table {
        assert_eq!((after_advance(said, false), after_advance(said, true)), (first, later), "{said:?}");
    }
}

#[test]
fn nothing_lands_that_a_gate_has_not_judged_as_this_very_tree_on_this_very_main() {
    let candidate = Candidate { head: sha('1'), tree: sha('2'), base: sha('3') };
    let good = Proven {
        gate: GateName::Merge,
        verdict: Verdict::Passed,
        head: sha('1'),
        tree: sha('2'),
        base: Some(sha('3')),
    };
    let plan = GatePlan { merge: InScope::Yes, ..GatePlan::default() };
    assert_eq!(may_land(&candidate, plan, std::slice::from_ref(&good)), Ok(()));
    for wrong in [
        Proven { head: sha('9'), ..good.clone() },
        Proven { tree: sha('9'), ..good.clone() },
        Proven { base: Some(sha('9')), ..good.clone() },
        Proven { base: None, ..good.clone() },
        Proven { verdict: Verdict::Failed, ..good.clone() },
        Proven { verdict: Verdict::CouldNotRun, ..good.clone() },
        Proven { gate: GateName::Coverage, ..good.clone() },
    ] {
        assert!(may_land(&candidate, plan, std::slice::from_ref(&wrong)).is_err(), "{wrong:?}");
    }
    assert!(may_land(&candidate, plan, &[]).is_err());
    let off = GatePlan { merge: InScope::SwitchedOff, ..GatePlan::default() };
    assert_eq!(may_land(&candidate, off, &[]), Ok(()), "what is switched off is not asked; the proof says so");
    let all = GatePlan { coverage: InScope::Yes, ..plan };
    assert!(may_land(&candidate, all, &[good]).is_err(), "a gate of the plan is missing");
}

#[test]
fn nothing_lands_that_the_security_gate_has_not_looked_at_wherever_its_branch_began() {
    let candidate = Candidate { head: sha('1'), tree: sha('2'), base: sha('3') };
    let plan = GatePlan { security: InScope::Yes, ..GatePlan::default() };
    let (gate, verdict) = (GateName::Security, Verdict::Passed);
    // The branch as it was, on an older main; and what catching it up has made.
    let branch = Proven { gate, verdict, head: sha('8'), tree: sha('7'), base: Some(sha('6')) };
    let caught = Proven { gate, verdict, head: sha('1'), tree: sha('2'), base: Some(sha('3')) };
    let failed = |report: &Proven| Proven { verdict: Verdict::Failed, ..report.clone() };
    let table = [
        (vec![branch.clone(), caught.clone()], true),
        (vec![Proven { base: Some(sha('6')), ..caught.clone() }], true),
        (vec![branch.clone()], false),
        (vec![], false),
        (vec![branch.clone(), Proven { tree: sha('9'), ..caught.clone() }], false),
        (vec![branch.clone(), failed(&caught)], false),
        (vec![failed(&branch), caught.clone()], false),
        (vec![branch.clone(), Proven { gate: GateName::Merge, ..caught.clone() }], false),
    ];
    for (reports, lands) in table {
        assert_eq!(may_land(&candidate, plan, &reports).is_ok(), lands, "{reports:?}");
    }
    let nothing_left = Candidate { base: candidate.head.clone(), ..candidate.clone() };
    assert_eq!(may_land(&nothing_left, plan, &[]), Ok(()), "main is no work of this task");
    let off = GatePlan { security: InScope::SwitchedOff, ..plan };
    assert_eq!(may_land(&candidate, off, &[]), Ok(()));
}
