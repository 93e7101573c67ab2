//! Random histories: whatever the world does, the invariants hold; and a kind world always gets the task done.

use orch_domain::decide::decide;
use orch_domain::effect::Effect;
use orch_domain::event::Event;
use orch_domain::names::TaskKey;
use orch_domain::policy::{Backoff, Budget, DeployMode, LandMode, OnCancelledDependency, Policy};
use orch_domain::samples;
use orch_domain::task::{Status, Task};
use proptest::prelude::*;

use crate::world::{Broken, Decide, Op, SHORT, World, blocked_by_failure, needs_person};

fn policies() -> impl Strategy<Value = Policy> {
    let numbers = (0..4_u32, 0..4_u32, 0..4_u32, 0..5_u32, proptest::option::of(0..2_000_u64));
    let land = prop_oneof![Just(LandMode::Auto), Just(LandMode::Approval), Just(LandMode::PrOnly)];
    let deploy = prop_oneof![Just(DeployMode::Auto), Just(DeployMode::Approval)];
    let cancelled = prop_oneof![Just(OnCancelledDependency::Proceed), Just(OnCancelledDependency::Block)];
    (numbers, land, deploy, cancelled, any::<bool>()).prop_map(|(numbers, land, deploy, cancelled, serial)| {
        let (max_developer_retries, max_interrupted, infrastructure, deferral, tokens) = numbers;
        Policy {
            max_developer_retries,
            max_interrupted,
            infrastructure: Backoff { first: SHORT, most: SHORT, tries: infrastructure },
            deferral: Backoff { first: SHORT, most: SHORT, tries: deferral },
            lane: Backoff { first: SHORT, most: SHORT, tries: deferral },
            max_conflicts: max_interrupted,
            land,
            deploy,
            on_cancelled_dependency: cancelled,
            serial,
            budget: Budget { tokens, ..Budget::default() },
            ..Policy::default()
        }
    })
}

pub(crate) fn tasks() -> impl Strategy<Value = Task> {
    (policies(), prop_oneof![Just("lite"), Just("full")], 0..3_usize).prop_map(|(policy, pipeline, dependencies)| {
        let keys: Vec<TaskKey> = ["ORC-7", "ORC-8"].into_iter().take(dependencies).map(samples::key).collect();
        samples::new_task(pipeline, policy, keys)
    })
}

pub(crate) fn histories() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        30 => (0..4_usize, any::<u64>()).prop_map(|(which, seed)| Op::Answer { which, seed }),
        4 => any::<usize>().prop_map(|which| Op::Stray { which }),
        3 => any::<usize>().prop_map(|which| Op::Again { which }),
        2 => any::<bool>().prop_map(|attached| Op::Crash { attached }),
        5 => any::<u64>().prop_map(|seed| Op::Person { seed }),
        1 => Just(Op::Conflict),
        1 => (-100_i64..100).prop_map(|by| Op::Clock { by }),
        1 => prop_oneof![3 => Just(Op::Conflict), 1 => Just(Op::Stop), 1 => Just(Op::StopDuringCommit)],
    ];
    proptest::collection::vec(op, 1..70)
}

/// The property: no history breaks an invariant.
pub(crate) fn holds(decide: Decide, task: &Task, history: &[Op]) -> Result<World, Broken> {
    let mut world = World::new(decide, task)?;
    for (n, op) in history.iter().enumerate() {
        world.happen(op).map_err(|broken| format!("{broken}\n  at step {n}: {op:?}"))?;
    }
    Ok(world)
}

/// From wherever a history has left it, a kind world ends a stopped task in a bounded number of answers.
fn stops(mut world: World) -> Result<(), Broken> {
    world.happen(&Op::Stop)?;
    for _ in 0..5 {
        if world.load().is_terminal() {
            return Ok(());
        }
        world.happen(&Op::Crash { attached: true })?;
        world.happen(&Op::Answer { which: world.outstanding().len().saturating_sub(1), seed: 1 })?;
    }
    Err(format!("a STOP that never ends: {:?}, outstanding {:?}", world.load().state, world.outstanding()))
}

/// Whether every answer can be a good one: the budget is not the world's to be kind about.
fn can_be_done(task: &Task) -> bool {
    task.policy.budget.tokens.is_none()
}

/// Answers all that is asked, well; people approve and, where a person is needed, ask to go on.
fn goes_on_to_done(world: &mut World) -> Result<(), Broken> {
    for _ in 0..400 {
        let task = world.load();
        if task.is_terminal() {
            return Ok(());
        }
        if needs_person(&task) {
            world.happen(&Op::Person { seed: 0 })?;
            continue;
        }
        let Some(effect) = world.outstanding().last().cloned() else {
            return Err(format!("nobody is asked for anything: {:?}", task.state));
        };
        kind_answer(world, &effect)?;
    }
    Err(format!("it goes on for ever: {:?}", world.load().state))
}

fn kind_answer(world: &mut World, effect: &Effect) -> Result<(), Broken> {
    match effect {
        Effect::StartRun { run, .. } => {
            let facts = samples::good_facts(&world.load());
            world.settle(effect);
            world.deliver(Event::RunEnded { run: run.clone(), facts: Box::new(facts) })
        }
        // 13: landed, nothing to deploy; 7: a check that passes; 4: no dependency open, none cancelled.
        Effect::AskLane { .. } => world.answer(effect, 13),
        Effect::WatchDependencies { .. } => world.answer(effect, 4),
        other => world.answer(other, 7),
    }
}

/// Histories are long, so half of the usual number; `PROPTEST_CASES` raises it.
fn config() -> ProptestConfig {
    let cases = ProptestConfig::default().cases / 2;
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 2_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_history_breaks_an_invariant(task in tasks(), history in histories()) {
        let held = holds(decide, &task, &history);
        prop_assert!(held.is_ok(), "{}", held.err().unwrap_or_default());
    }

    #[test]
    fn a_stop_ends_every_history(task in tasks(), history in histories()) {
        let ended = holds(decide, &task, &history).and_then(stops);
        prop_assert!(ended.is_ok(), "{}", ended.err().unwrap_or_default());
    }

    #[test]
    fn every_live_task_can_still_get_done(task in tasks().prop_filter("budget", can_be_done), history in histories()) {
        let history: Vec<Op> =
            history.into_iter().filter(|op| !matches!(op, Op::Stop | Op::StopDuringCommit | Op::Stray { .. })).collect();
        let mut world = holds(decide, &task, &history).map_err(TestCaseError::fail)?;
        // What was in flight is gone; only the row is left to go on from.
        world.happen(&Op::Crash { attached: false }).map_err(TestCaseError::fail)?;
        goes_on_to_done(&mut world).map_err(TestCaseError::fail)?;
        prop_assert_eq!(world.load().status(), Status::Done);
    }

    #[test]
    fn a_kind_world_needs_no_person(task in tasks().prop_filter("budget", can_be_done)) {
        let mut world = World::new(decide, &task).map_err(TestCaseError::fail)?;
        for _ in 0..60 {
            let task = world.load();
            prop_assert!(!blocked_by_failure(&task), "{:?}", task.state);
            if task.is_terminal() {
                break;
            }
            if needs_person(&task) {
                world.happen(&Op::Person { seed: 0 }).map_err(TestCaseError::fail)?;
            } else {
                let effect = world.outstanding().last().cloned().expect("something is asked for");
                kind_answer(&mut world, &effect).map_err(TestCaseError::fail)?;
            }
        }
        prop_assert_eq!(world.load().status(), Status::Done);
        prop_assert_eq!(world.load().counters.developer_retries, 0);
    }

    #[test]
    fn the_same_arguments_give_the_same_decision(task in tasks(), history in histories(), which in any::<usize>()) {
        let world = holds(decide, &task, &history).map_err(TestCaseError::fail)?;
        let task = world.load();
        let mut events = samples::events(&task);
        let (_, event) = events.swap_remove(which % events.len());
        prop_assert_eq!(decide(&task, &event, world.now), decide(&task.clone(), &event, world.now));
    }
}
