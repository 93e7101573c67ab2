//! The invariants of a merge queue (I1 to I10) over random histories of a simulated lane, and proof that each can fail:
//! the same histories with one bug put in on purpose must end at the invariant that the bug breaks.

use std::collections::BTreeSet;
use std::sync::Mutex;

use orch_domain::decide::{Decision, decide};
use orch_domain::effect::Effect;
use orch_domain::gate::Verdict;
use orch_domain::landing::{Blame, Candidate, Permit, Proven, Said, Then, after_advance, may_land};
use orch_domain::lane::{Lane, plan};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::lane_world::{Broken, Habits, Member, Mishap, Op, Rules, World};

/// A history: who is there, which pairs are red together, and what happens.
type History = (Vec<Member>, BTreeSet<(usize, usize)>, Vec<Op>);

fn members() -> impl Strategy<Value = Vec<Member>> {
    let member = (0..3_i32, proptest::bool::weighted(0.2), proptest::bool::weighted(0.3));
    let member = member.prop_map(|(priority, approval, conflicting)| Member { priority, approval, conflicting });
    proptest::collection::vec(member, 2..6)
}

fn mishaps() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        3 => Just(Mishap::None),
        2 => Just(Mishap::DoneUnheard),
        2 => Just(Mishap::Late),
        1 => Just(Mishap::NotSent),
        1 => Just(Mishap::Refused),
    ]
}

fn histories() -> impl Strategy<Value = History> {
    let op = prop_oneof![
        60 => any::<usize>().prop_map(Op::Go),
        4 => any::<usize>().prop_map(Op::Push),
        1 => any::<usize>().prop_map(Op::TakeBranch),
        2 => Just(Op::Crash),
        4 => mishaps().prop_map(Op::Forge),
        1 => Just(Op::Trouble),
        6 => any::<usize>().prop_map(Op::Person),
        2 => proptest::bool::weighted(0.7).prop_map(Op::Mode),
        1 => Just(Op::LoseLease),
        4 => Just(Op::Clock),
    ];
    let pairs = proptest::collection::btree_set((0..3_usize, 3..6_usize), 0..3);
    (members(), pairs, proptest::collection::vec(op, 20..260))
}

/// The property: no history breaks an invariant, and from wherever it has led, everything ends.
fn holds(rules: Rules, (members, pairs, ops): &History) -> Result<World, Broken> {
    let mut world = World::new(rules, members, pairs.clone())?;
    for (n, op) in ops.iter().enumerate() {
        world.happen(op).map_err(|broken| format!("{broken}\n  at step {n}: {op:?}"))?;
    }
    world.goes_on_to_the_end()?;
    Ok(world)
}

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn no_history_of_a_lane_breaks_an_invariant_and_every_task_ends() {
    let sums = Mutex::new([0_usize; 3]);
    let run = runner(1_500).run(&histories(), |history| {
        let world = holds(Rules::default(), &history).map_err(TestCaseError::fail)?;
        let mut sums = sums.lock().expect("one at a time");
        world.tally().iter().zip(sums.iter_mut()).for_each(|(n, sum)| *sum += n);
        Ok(())
    });
    run.unwrap_or_else(|broken| panic!("{broken}"));
    let [landed, moved, stale] = sums.into_inner().expect("one at a time");
    // The histories are worth something: things land, main moves under them, leases are lost.
    assert!(landed > 3_000 && moved > 100 && stale > 100, "{landed} landings, {moved} moved under, {stale} stale");
}

/// Searches histories for one that a bug breaks, and insists that the broken invariant is the expected one.
#[track_caller]
fn must_be_caught(bug: &str, rules: Rules, expected: &str) {
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 4_000, failure_persistence: None, max_shrink_iters: 0, ..Config::default() },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let found = runner.run(&histories(), |history| holds(rules, &history).map(drop).map_err(TestCaseError::fail));
    match found {
        Err(TestError::Fail(reason, _)) => {
            assert!(reason.message().starts_with(expected), "{bug}: caught, but as another fault: {reason}");
        }
        other => panic!("{bug}: not caught ({expected}): {other:?}"),
    }
}

fn with_habits(change: impl FnOnce(&mut Habits)) -> Rules {
    let mut rules = Rules::default();
    change(&mut rules.habits);
    rules
}

#[test]
fn i1_a_verdict_on_another_main_or_tree_that_counts_is_caught() {
    let any_base = |candidate: &Candidate, plan, proven: &[Proven]| {
        let there: Vec<Proven> =
            proven.iter().map(|p| Proven { base: Some(candidate.base.clone()), ..p.clone() }).collect();
        may_land(candidate, plan, &there)
    };
    // Reports of one's own place are about this very base: only together with a shared place does it show.
    let rules = Rules { may_land: any_base, ..with_habits(|h| h.compares = false) };
    must_be_caught("main is not compared", rules, "I1");
    must_be_caught("what was caught up is not tested", with_habits(|h| h.tests_again = false), "I1");
}

#[test]
fn i1_a_red_report_that_counts_as_green_is_caught() {
    fn always(_: &Candidate, _: orch_domain::policy::GatePlan, _: &[Proven]) -> Result<(), String> {
        Ok(())
    }
    let rules = Rules { may_land: always, ..with_habits(|h| h.tests_again = false) };
    must_be_caught("nothing is asked", rules, "I1");
}

#[test]
fn i2_work_that_is_blamed_for_what_main_does_is_caught() {
    let blames = |failed: &orch_domain::testnames::Failure, _: &orch_domain::landing::OnMain| {
        assert!(!failed.names().is_empty(), "only the red is charged");
        Blame::Work { also_on_main: BTreeSet::new(), note: String::new() }
    };
    must_be_caught("main is never to blame", Rules { blame: blames, ..Rules::default() }, "I2");
}

#[test]
fn i2_work_that_is_blamed_for_a_missing_tool_is_caught() {
    must_be_caught("trouble is a failure", with_habits(|h| h.tells_trouble = false), "I2");
}

#[test]
fn i4_an_approval_that_is_not_asked_for_or_not_bound_is_caught() {
    must_be_caught("no approval", Rules { permit: |_, _, _| Permit::Lands, ..Rules::default() }, "I4");
    let unbound = |task: &orch_domain::task::Task, _: &_, _: &_| match task.approvals.is_empty() {
        true if task.policy.land == orch_domain::policy::LandMode::Approval => Permit::AwaitsApproval,
        _ => Permit::Lands,
    };
    must_be_caught("any approval", Rules { permit: unbound, ..Rules::default() }, "I4");
}

#[test]
fn i5_a_report_that_is_written_over_is_caught() {
    must_be_caught("one place for all", with_habits(|h| h.own_place = false), "I5");
}

#[test]
fn i7_what_is_sent_before_it_is_intended_is_caught() {
    must_be_caught("sent first", with_habits(|h| h.intent_first = false), "I7");
}

#[test]
fn i7_a_lost_answer_that_counts_as_a_no_is_caught() {
    let gives_up = |said: Said, ever_sent: bool| match said {
        Said::Unknown => Then::CatchUpAgain,
        said => after_advance(said, ever_sent),
    };
    must_be_caught("unknown is no", Rules { after: gives_up, ..Rules::default() }, "I7");
}

#[test]
fn i7_a_zombie_that_still_writes_is_caught() {
    must_be_caught("no fence", with_habits(|h| h.fenced = false), "I7");
}

#[test]
fn i8_a_branch_that_is_pushed_over_a_persons_work_is_caught() {
    must_be_caught("no expected commit", with_habits(|h| h.leased_push = false), "I8");
}

#[test]
fn i9_a_wait_without_an_end_is_caught() {
    let forgets =
        |task: &orch_domain::task::Task, event: &orch_domain::event::Event, now| match decide(task, event, now) {
            Decision::Change(mut change) => {
                change.effects.retain(|effect| !matches!(effect, Effect::SetTimer { .. }));
                Decision::Change(change)
            }
            nothing @ Decision::Nothing { .. } => nothing,
        };
    must_be_caught("no timer", Rules { decide: forgets, ..Rules::default() }, "I9");
}

#[test]
fn i9_an_interruption_that_counts_as_a_failure_is_caught() {
    let counts = |task: &orch_domain::task::Task, event: &orch_domain::event::Event, now| match decide(task, event, now)
    {
        Decision::Change(mut change)
            if matches!(
                event,
                orch_domain::event::Event::LandingEnded { end: orch_domain::event::LandingEnd::Deferred { .. }, .. }
            ) =>
        {
            change.task.counters.developer_retries += 1;
            Decision::Change(change)
        }
        decision => decision,
    };
    must_be_caught("a deferral costs a retry", Rules { decide: counts, ..Rules::default() }, "I9");
}

#[test]
fn i10_priority_without_aging_is_caught() {
    let ageless = |lane: &Lane<'_>| plan(&Lane { most_overtaken: u32::MAX, ..lane.clone() });
    must_be_caught("no aging", Rules { plan: ageless, ..Rules::default() }, "I10");
}

/// What a report says is read, not assumed.
#[test]
fn a_failed_report_never_lets_anything_land() {
    let sha = |digit: char| digit.to_string().repeat(40).parse().expect("hex");
    let candidate = Candidate { head: sha('a'), tree: sha('b'), base: sha('c') };
    let plan = orch_domain::policy::GatePlan::default().without(orch_domain::gate::GateName::Coverage);
    let plan = orch_domain::policy::GatePlan { merge: orch_domain::gate::InScope::Yes, ..plan };
    for verdict in [Verdict::Passed, Verdict::Failed, Verdict::CouldNotRun] {
        let said = Proven {
            gate: orch_domain::gate::GateName::Merge,
            verdict,
            head: sha('a'),
            tree: sha('b'),
            base: Some(sha('c')),
        };
        assert_eq!(may_land(&candidate, plan, &[said]).is_ok(), verdict == Verdict::Passed, "{verdict}");
    }
}
