//! The rules of a task's stages (DESIGN 4), one test per sentence.

use std::sync::Arc;

use orch_domain::agent::{AgentClaim, Usage};
use orch_domain::decide::{Nothing, RunVerdict, judge_run};
use orch_domain::effect::{Effect, Outgoing, ShownState};
use orch_domain::event::{ArtefactFact, CheckEnd, Event};
use orch_domain::job::JobEnd;
use orch_domain::left::{Left, Several};
use orch_domain::policy::{Budget, OnCancelledDependency, Policy};
use orch_domain::samples::{NOW, good_facts, key, new_task, running, sha, waiting};
use orch_domain::task::{Blocked, State, Step, Task, WaitFor};
use orch_domain::time::Millis;

use crate::support::*;

fn developing() -> Task {
    sample("development", running(Step::Agent))
}

fn slot(task: &Task) -> bool {
    matches!(task.state, State::Waiting { on: WaitFor::Slot, then: Step::Agent, .. })
}

#[test]
fn a_new_task_asks_for_a_slot_and_its_first_run_shows_in_progress() {
    let task = new_task("lite", Policy::default(), Vec::new());
    let (why, effects) = unchanged(&task, &Event::Resumed { run_attached: false });
    assert_eq!((why, effects), (Nothing::Repeated, vec![Effect::AskSlot]));
    let started = change(&task, &Event::SlotGranted);
    assert!(started.outgoing.contains(&Outgoing::Show { state: ShownState::InProgress }));
    let run = current_run(&started.task);
    assert_eq!(started.effects, [Effect::StartRun { run, stage: task.stage.clone(), attempt: 1 }]);
}

#[test]
fn a_finished_development_run_is_checked_on_its_own_commit() {
    let task = developing();
    let after = change(&task, &run_ended(&task, |_| {}));
    let State::Running { run, step: Step::Check, .. } = &after.task.state else { panic!("{:?}", after.task.state) };
    assert_eq!(after.effects[0], Effect::GiveSlotBack, "the slot goes back on leaving the agent");
    assert_eq!(after.effects[1], Effect::StartCheck { run: run.clone(), step: Step::Check, head: sha('e') });
    assert_ne!(*run, current_run(&task), "a check has a run id of its own");
}

#[test]
fn a_passed_check_goes_on_to_the_next_stage() {
    let task = sample("development", running(Step::Check));
    let after = change(&task, &check_ended(&task, CheckEnd::passed("ok")));
    assert_eq!(after.task.stage.as_str(), "review");
    assert!(slot(&after.task));
}

#[test]
fn a_failed_check_sends_the_task_back_with_findings_verbatim() {
    let findings = "test basket::empty FAILED\n  left: 1\n  right: 0\n\n\tat basket.rs:7  ";
    for (stage, step) in [("development", Step::Check), ("testing", Step::Command), ("deploy-staging", Step::Command)] {
        let task = sample(stage, running(step));
        let after = change(&task, &check_failed(&task, findings));
        assert_eq!(after.task.findings.as_deref(), Some(findings));
        assert_eq!(after.task.stage.as_str(), "development");
        assert_eq!(after.task.counters.developer_retries, 1);
        assert!(slot(&after.task));
        assert!(comments(&after).iter().any(|c| c.contains(findings)), "the tracker's readers see them too");
    }
}

#[test]
fn the_third_retry_is_the_last() {
    let mut task = sample("testing", running(Step::Command));
    for n in 1..=3 {
        let after = change(&task, &check_failed(&task, "still red"));
        assert_eq!(after.task.counters.developer_retries, n);
        assert!(slot(&after.task), "retry {n} is granted");
        task = Task { stage: "testing".parse().expect("valid"), state: running(Step::Command), ..after.task };
    }
    let last = change(&task, &check_failed(&task, "still red"));
    assert_eq!(last.task.counters.developer_retries, 3);
    let State::Blocked { why, then, .. } = &last.task.state else { panic!("{:?}", last.task.state) };
    assert_eq!(*why, Blocked::RetriesSpent { findings: "still red".to_owned() });
    assert_eq!(*then, Step::Agent);
    assert_eq!(last.task.stage.as_str(), "development", "a person's retry begins where it would be mended");
    assert!(last.outgoing.iter().any(|o| matches!(o, Outgoing::Notify { needs_you: true, .. })), "a person is told");
}

#[test]
fn could_not_run_costs_the_developer_nothing() {
    let check = sample("testing", running(Step::Command));
    let agent = developing();
    let cases = [
        (&check, check_ended(&check, CheckEnd::CouldNotRun { why: "no disk".to_owned() }), Step::Command),
        (&agent, run_ended(&agent, |f| f.trouble = Some("no disk".to_owned())), Step::Agent),
    ];
    for (task, event, step) in cases {
        let after = change(task, &event).task;
        assert_eq!(after.counters.developer_retries, 0);
        assert_eq!(after.counters.infrastructure, 1);
        assert_eq!(after.findings, None, "nobody is told to mend anything");
        assert_eq!(after.stage, task.stage);
        let State::Waiting { on: WaitFor::Until { at, why }, then, .. } = &after.state else {
            panic!("{:?}", after.state)
        };
        assert_eq!((*at, why.as_str(), *then), (NOW.after(task.policy.infrastructure.first), "no disk", step));
    }
}

#[test]
fn infrastructure_is_tried_again_with_backoff_and_then_a_person_is_asked() {
    let mut task = sample("testing", running(Step::Command));
    let tries = task.policy.infrastructure.tries;
    let mut delays = Vec::new();
    for _ in 0..tries {
        let event = check_ended(&task, CheckEnd::CouldNotRun { why: "no disk".to_owned() });
        let waits = change(&task, &event).task;
        let State::Waiting { on: WaitFor::Until { at, .. }, .. } = waits.state else { panic!("{:?}", waits.state) };
        delays.push(at.since(NOW));
        task = Task { state: running(Step::Command), ..waits };
    }
    assert!(delays.windows(2).all(|w| w[0] < w[1]), "{delays:?}");
    let event = check_ended(&task, CheckEnd::CouldNotRun { why: "no disk".to_owned() });
    let last = change(&task, &event).task;
    assert!(
        matches!(&last.state, State::Blocked { why: Blocked::Infrastructure { why }, then: Step::Command, .. } if why == "no disk")
    );
}

#[test]
fn a_conclusive_answer_ends_the_row_of_failures_of_ours() {
    let mut task = sample("testing", running(Step::Command));
    task.counters.infrastructure = 3;
    task.counters.deferrals = 9;
    let after = change(&task, &check_failed(&task, "red")).task;
    assert_eq!((after.counters.infrastructure, after.counters.deferrals), (0, 0));
}

#[test]
fn a_repeated_check_has_a_new_run_id() {
    let task = sample("development", running(Step::Check));
    let event = check_ended(&task, CheckEnd::CouldNotRun { why: "no disk".to_owned() });
    let mut waits = change(&task, &event).task;
    let State::Waiting { on: WaitFor::Until { at, .. }, .. } = &mut waits.state else { panic!() };
    *at = NOW;
    let again = change(&waits, &Event::TimerFired);
    assert_ne!(current_run(&again.task), current_run(&task), "the ended run's record must not answer for the new one");
    assert_eq!(unchanged(&again.task, &event).0, Nothing::Stale, "and a late answer of the old one counts for nothing");
}

#[test]
fn an_interrupted_run_counts_only_as_interrupted() {
    let task = developing();
    let ends = [
        JobEnd::TimedOut,
        JobEnd::Stalled,
        JobEnd::Cancelled,
        JobEnd::Orphaned,
        JobEnd::Lost,
        JobEnd::Signalled { signal: 9 },
        JobEnd::OverLimit { what: "memory".to_owned() },
    ];
    for end in ends {
        let after = change(&task, &run_ended(&task, |f| f.end = Some(end.clone()))).task;
        let counters = after.counters;
        assert_eq!((counters.interrupted, counters.developer_retries, counters.infrastructure), (1, 0, 0), "{end:?}");
        assert!(slot(&after), "{end:?}");
        assert_eq!(after.stage, task.stage);
        assert!(after.interrupted_note.is_some(), "the next prompt says so");
        assert_eq!(after.head, Some(sha('e')), "what it left behind is gone on from");
    }
}

#[test]
fn interruptions_are_capped() {
    let mut task = developing();
    task.counters.interrupted = task.policy.max_interrupted;
    for event in [run_ended(&task, |f| f.end = Some(JobEnd::TimedOut)), Event::Resumed { run_attached: false }] {
        let after = change(&task, &event);
        let blocked = matches!(after.task.state, State::Blocked { why: Blocked::InterruptedTooOften, .. });
        assert!(blocked, "{:?}", after.task.state);
        assert!(after.effects.contains(&Effect::GiveSlotBack));
    }
}

#[test]
fn what_runs_no_agent_is_begun_anew_more_often_but_not_for_ever() {
    let begun = |step| sample("development", running(step));
    for step in [Step::Check, Step::Command, Step::Security] {
        let mut task = begun(step);
        let resumed = Event::Resumed { run_attached: false };
        for n in 1..=12 {
            let run = current_run(&task);
            task = change(&task, &resumed).task;
            assert_ne!(current_run(&task), run, "{step:?} is begun anew");
            assert_eq!((task.counters.interrupted, task.counters.interrupted_checks), (0, n), "{step:?}");
        }
        let after = change(&task, &resumed).task;
        assert!(matches!(after.state, State::Blocked { why: Blocked::InterruptedTooOften, then, .. } if then == step));
    }
    // One that has ended by itself shows that it can.
    let mut task = begun(Step::Check);
    task.counters.interrupted_checks = 12;
    let run = current_run(&task);
    let end = CheckEnd::Failed { findings: "red".to_owned() };
    assert_eq!(change(&task, &Event::CheckEnded { run, end }).task.counters.interrupted_checks, 0);
}

#[test]
fn a_stream_without_end_event_is_never_success() {
    let task = developing();
    for code in [0, 1, 137] {
        let event = run_ended(&task, |f| {
            f.end = Some(JobEnd::Exited { code });
            f.report.claim = None;
        });
        let after = change(&task, &event).task;
        assert!(slot(&after), "exit code {code} without an end event leads to {:?}", after.state);
        assert_eq!(after.counters.interrupted, 1);
    }
}

#[test]
fn what_an_agent_claims_is_not_success() {
    let task = developing();
    let mut facts = good_facts(&task);
    facts.head.clone_from(&facts.start);
    assert!(matches!(judge_run(&task, &facts), RunVerdict::SendBack { .. }), "no commit is no work");
    let mut facts = good_facts(&task);
    facts.end = Some(JobEnd::Exited { code: 3 });
    assert!(matches!(judge_run(&task, &facts), RunVerdict::SendBack { .. }), "exit code 3 is no success");
    let mut facts = good_facts(&task);
    facts.head = None;
    assert!(
        matches!(judge_run(&task, &facts), RunVerdict::CouldNotRun { .. }),
        "commits that cannot be had are no work"
    );
}

#[test]
fn notes_of_earlier_stages_are_no_development() {
    let mut task = sample("architecture", running(Step::Agent));
    task = change(&task, &run_ended(&task, |_| {})).task;
    assert_eq!(task.stage.as_str(), "development");
    task = change(&task, &Event::SlotGranted).task;
    let idle = change(&task, &run_ended(&task, |f| f.head.clone_from(&f.start))).task;
    assert_eq!(idle.counters.developer_retries, 1, "the branch differs from main, but not by this stage's work");
}

#[test]
fn what_an_interrupted_run_left_is_work_of_the_next() {
    let task = developing();
    let mut task = change(&task, &run_ended(&task, |f| f.end = Some(JobEnd::TimedOut))).task;
    task = change(&task, &Event::SlotGranted).task;
    let after = change(&task, &run_ended(&task, |f| f.head.clone_from(&f.start))).task;
    assert!(matches!(after.state, State::Running { step: Step::Check, .. }), "{:?}", after.state);
}

#[test]
fn an_idle_run_after_main_has_moved_is_no_work() {
    let mut task = new_task("lite", Policy::default(), Vec::new());
    task = change(&task, &Event::SlotGranted).task;
    let event = run_ended(&task, |f| {
        f.end = Some(JobEnd::TimedOut);
        f.head.clone_from(&f.start);
    });
    task = change(&task, &event).task;
    task = change(&task, &Event::SlotGranted).task;
    let idle = run_ended(&task, |f| {
        f.base = Some(sha('7'));
        f.head.clone_from(&f.start);
    });
    assert_eq!(change(&task, &idle).task.counters.developer_retries, 1);
}

#[test]
fn after_being_sent_back_the_branch_must_move_again() {
    let task = sample("development", running(Step::Check));
    let mut task = change(&task, &check_failed(&task, "red")).task;
    task = change(&task, &Event::SlotGranted).task;
    let idle = change(&task, &run_ended(&task, |f| f.head.clone_from(&f.start))).task;
    assert_eq!(idle.counters.developer_retries, 2);
    let findings = idle.findings.expect("there");
    assert!(findings.contains("without any commit") && findings.contains("red"), "{findings}");
}

#[test]
fn roles_that_may_not_change_code_lose_what_they_changed() {
    for stage in ["analysis", "review"] {
        let task = sample(stage, running(Step::Agent));
        let claims = [Some(AgentClaim::Success), Some(AgentClaim::Error { text: "x".to_owned() }), None];
        for claim in claims.into_iter().chain([Some(AgentClaim::RateLimited { text: "x".to_owned() })]) {
            let event = run_ended(&task, |f| {
                f.report.claim.clone_from(&claim);
                f.foreign_paths = vec!["src/main.rs".to_owned()];
            });
            let after = change(&task, &event).task;
            assert_eq!(after.head, task.head, "{stage}, {claim:?}");
            assert_eq!(after.stage, task.stage);
        }
    }
}

#[test]
fn an_analysis_is_accepted_only_when_this_run_wrote_it_and_says_ready() {
    let task = sample("analysis", running(Step::Agent));
    assert_eq!(change(&task, &run_ended(&task, |_| {})).task.stage.as_str(), "architecture");
    let facts = [
        ArtefactFact::Missing { path: "docs/tasks/01-analysis.md".to_owned() },
        ArtefactFact::Broken { why: "line 2: no such word `redy`".to_owned() },
        ArtefactFact::NotAsked,
    ];
    for artefact in facts {
        let after = change(&task, &run_ended(&task, |f| f.artefact = artefact.clone())).task;
        assert_eq!((after.stage.as_str(), after.counters.developer_retries), ("analysis", 1), "{artefact:?}");
    }
    let written =
        ArtefactFact::Written { status: "blocked".to_owned(), reviewed_head: None, text: "which shop?".to_owned() };
    let after = change(&task, &run_ended(&task, |f| f.artefact = written.clone())).task;
    assert!(matches!(after.state, State::Blocked { why: Blocked::AgentGaveUp { .. }, .. }), "{:?}", after.state);
}

#[test]
fn a_review_must_name_the_head_it_was_asked_about() {
    let task = sample("review", running(Step::Agent));
    let said = |status: &str, reviewed_head| ArtefactFact::Written {
        status: status.to_owned(),
        reviewed_head,
        text: "rename `x`".to_owned(),
    };
    assert_eq!(change(&task, &run_ended(&task, |_| {})).task.stage.as_str(), "testing");
    for head in [None, Some(sha('0'))] {
        let after = change(&task, &run_ended(&task, |f| f.artefact = said("approved", head.clone()))).task;
        assert_eq!(after.stage.as_str(), "review", "an approval of {head:?} is none");
    }
    let unknown = run_ended(&task, |f| {
        f.start = None;
        f.artefact = said("approved", None);
    });
    assert_eq!(change(&task, &unknown).task.stage.as_str(), "review", "no commit is not the same commit as none");
    let after = change(&task, &run_ended(&task, |f| f.artefact = said("changes_requested", f.start.clone()))).task;
    assert_eq!(after.stage.as_str(), "development");
    assert!(after.findings.expect("there").contains("rename `x`"));
}

#[test]
fn a_providers_limit_is_waited_for_and_costs_no_attempt() {
    let task = developing();
    let limited = Some(AgentClaim::RateLimited { text: "5 hours".to_owned() });
    let after = change(&task, &run_ended(&task, |f| f.report.claim.clone_from(&limited))).task;
    let c = after.counters;
    assert_eq!((c.deferrals, c.developer_retries, c.interrupted, c.infrastructure), (1, 0, 0, 0));
    assert!(matches!(after.state, State::Waiting { on: WaitFor::Until { .. }, then: Step::Agent, .. }));
    assert_eq!(after.head, Some(sha('e')), "the commits it had made are kept");
    let mut task = developing();
    task.counters.deferrals = task.policy.deferral.tries;
    let last = change(&task, &run_ended(&task, |f| f.report.claim.clone_from(&limited))).task;
    assert!(matches!(last.state, State::Blocked { why: Blocked::DeferredTooOften { .. }, .. }), "capped");
}

#[test]
fn an_agent_program_that_is_missing_needs_a_person_at_once() {
    let task = developing();
    let missing = JobEnd::CouldNotStart { why: "no file `claude`".to_owned() };
    let after = change(&task, &run_ended(&task, |f| f.end = Some(missing.clone()))).task;
    let State::Blocked { why: Blocked::Infrastructure { why }, .. } = after.state else { panic!("{:?}", after.state) };
    assert!(why.contains("no file `claude`"), "{why}");
}

#[test]
fn a_run_is_no_longer_said_to_be_interrupted_once_one_has_ended_by_itself() {
    let task = developing();
    let mut task = change(&task, &run_ended(&task, |f| f.end = Some(JobEnd::TimedOut))).task;
    task = change(&task, &Event::SlotGranted).task;
    let sent_back = run_ended(&task, |f| f.end = Some(JobEnd::Exited { code: 1 }));
    assert_eq!(change(&task, &sent_back).task.interrupted_note, None);
}

#[test]
fn spending_is_added_up_once_per_run() {
    let task = developing();
    let event = run_ended(&task, |_| {});
    let after = change(&task, &event).task;
    let spent = Usage { input_tokens: Some(100), output_tokens: Some(10), ..Usage::default() };
    assert_eq!((after.usage, after.agent_wall), (spent, Millis::from_secs(60)));
    assert_eq!(unchanged(&after, &event), (Nothing::Stale, Vec::new()), "a second delivery changes nothing");
}

#[test]
fn the_budget_is_checked_before_each_launch() {
    let budgets = [
        Budget { tokens: Some(110), ..Budget::default() },
        Budget { cost_micro_usd: Some(5), ..Budget::default() },
        Budget { wall: Some(Millis(9)), ..Budget::default() },
    ];
    for budget in budgets {
        let mut task = sample("development", waiting(WaitFor::Slot, Step::Agent));
        Arc::make_mut(&mut task.policy).budget = budget;
        assert!(matches!(change(&task, &Event::SlotGranted).task.state, State::Running { .. }), "nothing spent yet");
        task.usage = Usage {
            input_tokens: Some(u64::MAX),
            output_tokens: Some(u64::MAX),
            cost_micro_usd: Some(5),
            cached_tokens: None,
        };
        task.agent_wall = Millis(9);
        let after = change(&task, &Event::SlotGranted);
        assert!(matches!(after.task.state, State::Blocked { why: Blocked::BudgetSpent { .. }, .. }), "{budget:?}");
        assert!(after.effects.contains(&Effect::GiveSlotBack), "a blocked task holds no slot");
    }
}

#[test]
fn a_person_who_lets_a_spent_task_go_on_grants_its_budget_once_more() {
    let mut task = sample("development", waiting(WaitFor::Slot, Step::Agent));
    Arc::make_mut(&mut task.policy).budget = Budget { wall: Some(Millis(10)), ..Budget::default() };
    task.agent_wall = Millis(12);
    let blocked = change(&task, &Event::SlotGranted).task;
    let mut granted = change(&blocked, &Event::RetryRequested { by: "ada".into() }).task;
    assert!(matches!(change(&granted, &Event::SlotGranted).task.state, State::Running { .. }));
    assert_eq!(granted.agent_wall, Millis(12), "what was spent stays counted");
    granted.agent_wall = Millis(22);
    let again = change(&granted, &Event::SlotGranted).task;
    assert!(matches!(again.state, State::Blocked { why: Blocked::BudgetSpent { .. }, .. }), "and no more than once");
}

#[test]
fn a_slot_granted_too_late_is_given_back() {
    let states = [
        sample("testing", running(Step::Command)),
        sample("development", waiting(WaitFor::Turn, Step::Agent)),
        sample("deploy", State::Landing { step: Step::Land, since: NOW }),
        sample("development", State::Blocked { why: Blocked::InterruptedTooOften, then: Step::Agent, since: NOW }),
        sample("deploy", State::Done { at: NOW }),
    ];
    for task in states {
        assert_eq!(unchanged(&task, &Event::SlotGranted).1, [Effect::GiveSlotBack], "{:?}", task.state);
    }
}

#[test]
fn a_slot_granted_twice_stays_with_the_run_that_has_it() {
    assert_eq!(unchanged(&developing(), &Event::SlotGranted), (Nothing::Stale, Vec::new()));
    assert_eq!(unchanged(&stopped(&developing()), &Event::SlotGranted), (Nothing::Stopping, Vec::new()));
}

#[test]
fn a_run_that_is_over_cannot_give_another_runs_slot_back() {
    let task = developing();
    let late = Event::RunEnded { run: task.run_id(2), facts: Box::new(good_facts(&task)) };
    assert_eq!(unchanged(&task, &late), (Nothing::Stale, Vec::new()));
}

#[test]
fn a_run_that_was_attached_to_goes_on() {
    for task in [developing(), sample("testing", running(Step::Command))] {
        assert_eq!(unchanged(&task, &Event::Resumed { run_attached: true }), (Nothing::Repeated, Vec::new()));
    }
}

#[test]
fn a_timer_that_fires_early_is_set_again() {
    let at = NOW.after(Millis(1));
    let task = sample("development", waiting(WaitFor::Until { at, why: "busy".to_owned() }, Step::Agent));
    assert_eq!(unchanged(&task, &Event::TimerFired), (Nothing::Repeated, vec![Effect::SetTimer { at }]));
}

#[test]
fn serial_repository_waits_for_its_turn_after_the_first_stage() {
    let mut task = sample("analysis", running(Step::Agent));
    Arc::make_mut(&mut task.policy).serial = true;
    let waits = change(&task, &run_ended(&task, |_| {}));
    assert_eq!(waits.task.stage.as_str(), "architecture");
    assert!(matches!(waits.task.state, State::Waiting { on: WaitFor::Turn, then: Step::Agent, .. }));
    assert_eq!(waits.effects, [Effect::GiveSlotBack, Effect::AskTurn], "no slot is held while it waits");
    let mut task = change(&waits.task, &Event::TurnCame).task;
    assert!(slot(&task) && task.has_turn);
    task = change(&task, &Event::SlotGranted).task;
    let next = change(&task, &run_ended(&task, |_| {})).task;
    assert!(slot(&next), "the turn is kept: {:?}", next.state);
}

#[test]
fn a_block_is_no_way_round_the_turn() {
    let mut task = sample("architecture", waiting(WaitFor::Turn, Step::Agent));
    Arc::make_mut(&mut task.policy).serial = true;
    let blocked = change(&task, &Event::CrashLooped { why: "bug".to_owned() }).task;
    let after = change(&blocked, &Event::RetryRequested { by: "bob".to_owned() }).task;
    assert!(matches!(after.state, State::Waiting { on: WaitFor::Turn, .. }), "{:?}", after.state);
}

#[test]
fn a_block_is_no_way_round_the_dependencies() {
    let task = new_task("lite", Policy::default(), vec![key("ORC-7")]);
    let blocked = change(&task, &Event::CrashLooped { why: "bug".to_owned() }).task;
    let after = change(&blocked, &Event::RetryRequested { by: "bob".to_owned() });
    assert_eq!(after.effects, [Effect::WatchDependencies { keys: vec![key("ORC-7")] }]);
}

fn seen(open: &[&str], cancelled: &[&str]) -> Event {
    let keys = |names: &[&str]| names.iter().map(|k| key(k)).collect();
    Event::DependenciesSeen { open: keys(open), cancelled: keys(cancelled) }
}

#[test]
fn a_task_waits_until_its_last_dependency_is_terminal() {
    let task = new_task("lite", Policy::default(), vec![key("ORC-7"), key("ORC-8")]);
    let (_, effects) = unchanged(&task, &Event::Resumed { run_attached: false });
    assert_eq!(effects, [Effect::WatchDependencies { keys: vec![key("ORC-7"), key("ORC-8")] }]);
    assert_eq!(unchanged(&task, &seen(&["ORC-7", "ORC-8"], &[])).0, Nothing::Repeated);
    let one = change(&task, &seen(&["ORC-8"], &[])).task;
    assert!(matches!(&one.state, State::Waiting { on: WaitFor::Dependencies { open }, .. } if *open == [key("ORC-8")]));
    assert!(slot(&change(&one, &seen(&[], &[])).task));
}

#[test]
fn cancelled_dependency_proceeds_or_blocks() {
    let task = new_task("lite", Policy::default(), vec![key("ORC-7")]);
    let proceeds = change(&task, &seen(&[], &["ORC-7"])).task;
    assert!(slot(&proceeds));
    assert!(proceeds.dependency_note.expect("the next prompt says so").contains("ORC-7"));

    let policy = Policy { on_cancelled_dependency: OnCancelledDependency::Block, ..Policy::default() };
    let blocks = change(&new_task("lite", policy, vec![key("ORC-7")]), &seen(&[], &["ORC-7"])).task;
    let State::Blocked { why: Blocked::DependencyCancelled { key: which }, .. } = &blocks.state else {
        panic!("{:?}", blocks.state)
    };
    assert_eq!(*which, key("ORC-7"));
    let goes_on = change(&blocks, &Event::RetryRequested { by: "bob".to_owned() }).task;
    assert!(slot(&goes_on), "a person decides to go on without it: {:?}", goes_on.state);
    assert!(goes_on.dependency_note.expect("the next prompt says so").contains("ORC-7"));
}

#[test]
fn a_dependency_cancelled_early_is_still_named_when_the_last_one_ends() {
    let task = new_task("lite", Policy::default(), vec![key("ORC-7"), key("ORC-8")]);
    let one = change(&task, &seen(&["ORC-8"], &["ORC-7"])).task;
    let note = change(&one, &seen(&[], &[])).task.dependency_note.expect("there");
    assert!(note.contains("ORC-7"), "{note}");
    let said_again = change(&one, &seen(&[], &["ORC-7"])).task.dependency_note.expect("there");
    assert_eq!(said_again, note, "named once, however often it is seen");
}

#[test]
fn going_on_without_one_dependency_still_waits_for_the_others() {
    let policy = Policy { on_cancelled_dependency: OnCancelledDependency::Block, ..Policy::default() };
    let task = new_task("lite", policy, vec![key("ORC-7"), key("ORC-8")]);
    let blocked = change(&task, &seen(&["ORC-8"], &["ORC-7"])).task;
    let after = change(&blocked, &Event::RetryRequested { by: "bob".to_owned() });
    assert_eq!(after.effects, [Effect::WatchDependencies { keys: vec![key("ORC-8")] }]);
}

#[test]
fn a_retry_begins_with_what_was_blocked_and_counts_anew() {
    let mut task =
        sample("testing", State::Blocked { why: Blocked::InterruptedTooOften, then: Step::Command, since: NOW });
    task.counters.interrupted = 3;
    task.counters.developer_retries = 2;
    let after = change(&task, &Event::RetryRequested { by: "bob".to_owned() });
    assert!(matches!(after.task.state, State::Running { step: Step::Command, .. }));
    assert_eq!((after.task.counters.interrupted, after.task.counters.developer_retries), (0, 0));
    assert_eq!(after.task.counters.runs, task.counters.runs + 1, "attempts are numbered over the whole life");
    assert!(after.outgoing.contains(&Outgoing::Show { state: ShownState::InProgress }));
    assert_eq!(unchanged(&developing(), &Event::RetryRequested { by: "bob".to_owned() }).0, Nothing::NotApplicable);
}

#[test]
fn a_crash_loop_ends_in_blocked_and_a_notice() {
    let after = change(&developing(), &Event::CrashLooped { why: "index 7".to_owned() });
    assert!(matches!(&after.task.state, State::Blocked { why: Blocked::CrashLoop { why }, .. } if why == "index 7"));
    assert!(after.effects.contains(&Effect::GiveSlotBack), "blocked holds no slot");
    assert!(after.outgoing.iter().any(|o| matches!(o, Outgoing::Notify { needs_you: true, .. })));
}

fn rebasing() -> Left {
    Left { operation: Some("rebase".to_owned()), ..Left::default() }
}

/// The findings of a run that is sent back.
#[track_caller]
fn sent_back(task: &Task, differ: impl FnOnce(&mut orch_domain::event::RunFacts)) -> Task {
    let after = change(task, &run_ended(task, differ)).task;
    assert_eq!(after.counters.developer_retries, task.counters.developer_retries + 1, "it is the agent's matter");
    assert_eq!(after.counters.infrastructure, 0);
    Task { state: running(Step::Agent), ..after }
}

#[test]
fn unfinished_work_is_no_work_although_there_are_commits_and_its_commits_are_kept() {
    let nested = || Left { nested: Several::of(1, vec!["inner".to_owned()]), ..Left::default() };
    let beside = || Left { beside: Several::of(1, vec!["q".to_owned()]), ..Left::default() };
    for (left, says) in
        [(rebasing(), "a rebase unfinished"), (nested(), "`inner` is a repo"), (beside(), "`q`, is not")]
    {
        let after = sent_back(&developing(), |f| f.left = left.clone());
        assert_eq!((after.head.clone(), after.stage.as_str()), (Some(sha('e')), "development"));
        let findings = after.findings.clone().expect("it is told");
        assert!(
            findings.starts_with("The previous run ended with its work unfinished") && findings.contains(says),
            "{findings}"
        );
        assert!(findings.contains("is kept") && findings.contains("--allow-empty"), "{findings}");
        // What it is told is not lost by a run that does nothing, and any commit at all is an answer.
        let idle = sent_back(&after, |f| f.head.clone_from(&f.start));
        assert!(idle.findings.as_deref().is_some_and(|f| f.contains("without any commit") && f.contains(says)));
        let done = change(&idle, &run_ended(&idle, |_| {})).task;
        assert!(matches!(done.state, State::Running { step: Step::Check, .. }) && done.findings.is_none());
    }
    let lost = sent_back(&developing(), |f| (f.left, f.head) = (nested(), f.start.clone()));
    let findings = lost.findings.expect("it is told");
    assert!(findings.contains("Nothing of that run") && !findings.contains("without any commit"), "{findings}");
}

#[test]
fn findings_about_a_run_replace_those_about_the_run_before_and_carry_what_was_to_be_mended() {
    let mut task = Task { findings: Some("2 tests failed".to_owned()), ..developing() };
    for n in 0..3 {
        let unfinished = n == 1;
        task = sent_back(&task, |f| {
            f.head.clone_from(&f.start);
            if unfinished {
                f.left = rebasing();
            }
        });
        let findings = task.findings.clone().expect("it is told");
        for (text, times) in [
            ("2 tests failed", 1),
            ("ended without any commit", usize::from(!unfinished)),
            ("its work unfinished", usize::from(n >= 1)),
        ] {
            assert_eq!(findings.matches(text).count(), times, "{n}: {text}: {findings}");
        }
        task.counters.developer_retries = 0;
    }
    let mut nothing = developing();
    for _ in 0..3 {
        nothing = sent_back(&nothing, |f| f.head.clone_from(&f.start));
        let findings = nothing.findings.clone().expect("it is told");
        assert_eq!(findings, "The previous run ended without any commit on the branch. Commit your work.");
    }
}

#[test]
fn commits_that_cannot_be_gone_on_from_are_the_agents_matter_and_are_not_kept() {
    let task = developing();
    let after = sent_back(&task, |f| {
        f.head = None;
        f.unusable = Some("Its repository is gone.".to_owned());
    });
    assert_eq!((after.head, after.findings.as_deref()), (task.head, Some("Its repository is gone.")));
}

#[test]
fn a_note_that_is_there_stands_whatever_else_was_left_and_one_that_is_missing_has_its_reason() {
    for stage in ["analysis", "architecture", "review"] {
        let task = sample(stage, running(Step::Agent));
        let facts = orch_domain::event::RunFacts { left: rebasing(), ..good_facts(&task) };
        assert!(matches!(judge_run(&task, &facts), RunVerdict::Accepted { .. }), "{stage}");
        let after = sent_back(&task, |f| {
            f.left = rebasing();
            f.artefact = ArtefactFact::Missing { path: "note.md".to_owned() };
        });
        let findings = after.findings.expect("it is told");
        assert!(findings.contains("did not write `note.md`") && findings.contains("a rebase unfinished"), "{findings}");
    }
    // So has an error, and a run that was cut off is resumed all the same.
    let error = sent_back(&developing(), |f| (f.end, f.left) = (Some(JobEnd::Exited { code: 1 }), rebasing()));
    assert!(error.findings.is_some_and(|f| f.contains("exited with code 1") && f.contains("a rebase unfinished")));
    let facts =
        orch_domain::event::RunFacts { end: Some(JobEnd::TimedOut), left: rebasing(), ..good_facts(&developing()) };
    assert!(matches!(judge_run(&developing(), &facts), RunVerdict::Interrupted { .. }));
}
