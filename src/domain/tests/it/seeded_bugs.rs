//! Proof that the property can fail: the same histories, run against `decide` with one bug put in on purpose, must end at
//! the invariant that the bug breaks.

use std::sync::Arc;

use orch_domain::decide::{Decision, Nothing, decide};
use orch_domain::effect::Effect;
use orch_domain::event::Event;
use orch_domain::policy::{DeployMode, Policy};
use orch_domain::task::{State, Task, WaitFor};
use orch_domain::time::Timestamp;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use crate::properties::{histories, holds, tasks};
use crate::world::Decide;

/// Searches histories for one that breaks `decide`, and insists that the broken invariant is the expected one.
fn must_be_caught(buggy: Decide, expected: &str) {
    let config = Config { cases: 4_000, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let found = runner.run(&(tasks(), histories()), |(task, history)| {
        holds(buggy, &task, &history).map(drop).map_err(proptest::test_runner::TestCaseError::fail)
    });
    match found {
        Err(TestError::Fail(reason, _)) => {
            assert!(reason.message().contains(expected), "caught, but as another fault: {reason}");
        }
        other => panic!("the bug was not caught ({expected}): {other:?}"),
    }
}

/// Changes a decision's effects.
fn with_effects(decision: Decision, change: impl FnOnce(&mut Vec<Effect>)) -> Decision {
    match decision {
        Decision::Change(mut inner) => {
            change(&mut inner.effects);
            Decision::Change(inner)
        }
        Decision::Nothing { why, mut effects } => {
            change(&mut effects);
            Decision::Nothing { why, effects }
        }
    }
}

/// Decides under another policy, and puts the pinned one back.
fn under_policy(task: &Task, event: &Event, now: Timestamp, change: impl FnOnce(&mut Policy)) -> Decision {
    let mut other = task.clone();
    change(Arc::make_mut(&mut other.policy));
    match decide(&other, event, now) {
        Decision::Change(mut inner) => {
            inner.task.policy.clone_from(&task.policy);
            Decision::Change(inner)
        }
        nothing @ Decision::Nothing { .. } => nothing,
    }
}

#[test]
fn a_forgotten_stop_check_is_caught() {
    must_be_caught(
        |task, event, now| match decide(&Task { stop: None, ..task.clone() }, event, now) {
            Decision::Change(mut change) => {
                change.task.stop.clone_from(&task.stop);
                Decision::Change(change)
            }
            nothing @ Decision::Nothing { .. } => nothing,
        },
        "STOP",
    );
}

#[test]
fn a_change_that_slips_past_the_stores_stop_fence_is_caught() {
    must_be_caught(
        |task, event, now| match decide(task, event, now) {
            Decision::Change(mut change) => {
                change.forward = false;
                Decision::Change(change)
            }
            nothing @ Decision::Nothing { .. } => nothing,
        },
        "a change with forward: false",
    );
}

#[test]
fn a_forgotten_retry_cap_is_caught() {
    must_be_caught(|t, e, n| under_policy(t, e, n, |p| p.max_developer_retries = u32::MAX), "over a ceiling");
}

#[test]
fn a_retry_that_is_not_counted_is_caught() {
    must_be_caught(
        |task, event, now| match decide(task, event, now) {
            Decision::Change(mut change) => {
                change.task.counters.developer_retries = 0;
                Decision::Change(change)
            }
            nothing @ Decision::Nothing { .. } => nothing,
        },
        "over a ceiling: sent back",
    );
}

#[test]
fn a_forgotten_interruption_cap_is_caught() {
    must_be_caught(|t, e, n| under_policy(t, e, n, |p| p.max_interrupted = u32::MAX), "over a ceiling");
}

#[test]
fn a_slot_that_is_not_given_back_is_caught() {
    must_be_caught(
        |task, event, now| with_effects(decide(task, event, now), |e| e.retain(|e| *e != Effect::GiveSlotBack)),
        "a slot is leaked",
    );
}

#[test]
fn another_runs_slot_given_back_is_caught() {
    must_be_caught(
        |task, event, now| {
            let decision = decide(task, event, now);
            let stale = matches!(decision, Decision::Nothing { why: Nothing::Stale, .. });
            match (event, stale) {
                (Event::RunEnded { .. }, true) => with_effects(decision, |e| e.push(Effect::GiveSlotBack)),
                _ => decision,
            }
        },
        "an agent runs without a slot",
    );
}

#[test]
fn a_run_id_used_twice_is_caught() {
    must_be_caught(
        |task, event, now| match decide(task, event, now) {
            Decision::Change(mut change) => {
                if matches!(event, Event::TimerFired) {
                    change.task.counters.runs = task.counters.runs;
                }
                Decision::Change(change)
            }
            nothing @ Decision::Nothing { .. } => nothing,
        },
        "a run id is started twice",
    );
}

#[test]
fn a_wait_that_a_restart_forgets_is_caught() {
    must_be_caught(
        |task, event, now| match (event, &task.state) {
            (Event::Resumed { .. }, State::Waiting { on: WaitFor::Until { .. }, .. }) if task.stop.is_none() => {
                Decision::Nothing { why: Nothing::Repeated, effects: Vec::new() }
            }
            _ => decide(task, event, now),
        },
        "nothing ends the wait",
    );
}

#[test]
fn a_forgotten_landing_is_caught() {
    must_be_caught(
        |task, event, now| match decide(task, event, now) {
            Decision::Change(mut change) => {
                if task.landed.is_some() && matches!(change.task.state, State::Blocked { .. }) {
                    change.task.landed = None;
                }
                Decision::Change(change)
            }
            nothing @ Decision::Nothing { .. } => nothing,
        },
        "what has landed is forgotten",
    );
}

#[test]
fn an_ignored_approval_is_caught() {
    must_be_caught(|t, e, n| under_policy(t, e, n, |p| p.deploy = DeployMode::Auto), "a deploy without approval");
}

#[test]
fn a_skipped_turn_is_caught() {
    must_be_caught(|t, e, n| under_policy(t, e, n, |p| p.serial = false), "without its turn");
}

#[test]
fn a_reopened_task_is_caught() {
    must_be_caught(
        |task, event, now| match (&task.state, event) {
            (State::Done { .. } | State::Cancelled { .. }, Event::RetryRequested { .. }) => {
                let fresh = orch_domain::samples::new_task("lite", (*task.policy).clone(), Vec::new());
                decide(&Task { landed: task.landed.clone(), ..fresh }, &Event::SlotGranted, now)
            }
            _ => decide(task, event, now),
        },
        "a closed task is opened",
    );
}
