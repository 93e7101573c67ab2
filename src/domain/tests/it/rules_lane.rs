//! The rules of the lane: landing, approvals, deploy (DESIGN 4 and 8), one test per sentence.

use std::sync::Arc;

use orch_domain::decide::{Change, Nothing};
use orch_domain::effect::{Effect, Outgoing, ShownState};
use orch_domain::event::{CheckEnd, DeployEnd, Event, LandingEnd};
use orch_domain::landing::{Permit, WorkFault, permit};
use orch_domain::policy::{DeployMode, LandMode};
use orch_domain::samples::{NOW, key, landed, running, sha, waiting};
use orch_domain::task::{ApprovalOf, Blocked, State, Status, Step, Task, WaitFor};
use orch_domain::time::Millis;

use crate::support::*;

fn landing() -> Task {
    sample("deploy", State::Landing { step: Step::Land, since: NOW })
}

fn deploying() -> Task {
    let mut task = sample("deploy", State::Landing { step: Step::Deploy, since: NOW });
    task.landed = Some(landed());
    task
}

fn landed_with(deploy: DeployEnd) -> Event {
    lane(LandingEnd::Landed { landed: landed(), deploy })
}

fn failed() -> DeployEnd {
    DeployEnd::Failed { why: "health check: 503".to_owned() }
}

fn held() -> DeployEnd {
    DeployEnd::Held { sha: sha('d'), by: key("ORC-9"), at: NOW }
}

fn approve(what: ApprovalOf, digit: char) -> Event {
    Event::Approved { what, sha: sha(digit), by: "ann".to_owned() }
}

fn retry() -> Event {
    Event::RetryRequested { by: "bob".to_owned() }
}

#[test]
fn the_last_stage_asks_the_lane() {
    let task = sample("deploy-staging", running(Step::Command));
    let after = change(&task, &check_ended(&task, CheckEnd::passed("")));
    assert_eq!(after.effects, [Effect::AskLane { step: Step::Land }]);
    assert_eq!(after.task.status(), Status::Landing);
    let (_, again) = unchanged(&after.task, &Event::Resumed { run_attached: false });
    assert_eq!(again, [Effect::AskLane { step: Step::Land }], "after a restart it attaches to the same lane");
}

#[test]
fn an_answer_to_an_earlier_request_changes_nothing_and_the_lane_is_asked_again() {
    let task = sample("deploy-staging", running(Step::Command));
    let first = change(&task, &check_ended(&task, CheckEnd::passed(""))).task;
    let why = || "the lease is held".to_owned();
    let put_off = change(&first, &lane(LandingEnd::Deferred { why: why() })).task;
    let second = change(&put_off, &retry()).task;
    assert_eq!((first.lane_asked, put_off.lane_asked, second.lane_asked), (1, 1, 2));
    let late = [
        LandingEnd::Deferred { why: why() },
        LandingEnd::CouldNotRun { why: why() },
        LandingEnd::Refused { why: why() },
        LandingEnd::SentBack { fault: WorkFault::Tests, findings: "a::b failed".to_owned(), head: Some(sha('9')) },
        LandingEnd::AwaitingApproval { head: sha('9') },
        LandingEnd::Landed { landed: landed(), deploy: DeployEnd::NotConfigured },
    ];
    for end in late {
        let told = unchanged(&second, &Event::LandingEnded { asked: first.lane_asked, end: end.clone() });
        assert_eq!(told, (Nothing::Stale, vec![Effect::AskLane { step: Step::Land }]), "{end:?}");
        let present = change(&second, &lane(end.clone()));
        assert_ne!(present.task.state, second.state, "{end:?}");
    }
}

#[test]
fn landed_and_deployed_is_done() {
    for deploy in [DeployEnd::NotConfigured, DeployEnd::Deployed { at: NOW }, held()] {
        let after = change(&landing(), &landed_with(deploy));
        assert_eq!(after.task.status(), Status::Done);
        assert_eq!(after.task.landed, Some(landed()));
        assert!(after.outgoing.contains(&Outgoing::Show { state: ShownState::Done }));
        assert_eq!(after.effects, [Effect::Close]);
    }
}

#[test]
fn what_of_ours_keeps_a_deploy_from_running_is_tried_again_and_then_a_persons() {
    let could_not = || landed_with(DeployEnd::CouldNotRun { why: "no room on the disk".to_owned() });
    for mut task in [landing(), deploying()] {
        let after = change(&task, &could_not()).task;
        assert_eq!(after.landed, Some(landed()), "what is on main stays true");
        assert!(matches!(after.state, State::Waiting { then: Step::Deploy, .. }), "{:?}", after.state);
        assert_eq!((after.counters.infrastructure, after.counters.developer_retries), (1, 0));
        task.counters.infrastructure = task.policy.infrastructure.tries;
        let after = change(&task, &could_not()).task;
        let State::Blocked { why: Blocked::Infrastructure { .. }, then: Step::Deploy, .. } = after.state else {
            panic!("{:?}", after.state)
        };
    }
}

#[test]
fn a_failed_gate_sends_back_to_development_with_findings_verbatim() {
    let findings = "conflict: src/a.rs\n  ours:   bbbb\n  theirs: 9999";
    for (fault, counted) in [(WorkFault::Tests, (1, 0)), (WorkFault::Gate, (1, 0)), (WorkFault::Conflict, (0, 1))] {
        let end = LandingEnd::SentBack { fault, findings: findings.to_owned(), head: Some(sha('9')) };
        let after = change(&landing(), &lane(end)).task;
        assert_eq!((after.stage.as_str(), after.findings.as_deref()), ("development", Some(findings)));
        assert_eq!(after.head, Some(sha('9')), "it goes on from the caught-up commit");
        let c = after.counters;
        assert_eq!((c.developer_retries, c.conflicts, c.infrastructure, c.deferrals), (counted.0, counted.1, 0, 0));
    }
}

#[test]
fn conflicts_have_a_ceiling_of_their_own() {
    let conflict =
        || lane(LandingEnd::SentBack { fault: WorkFault::Conflict, findings: "a.rs".to_owned(), head: None });
    let mut task = landing();
    task.counters.developer_retries = task.policy.max_developer_retries;
    task.counters.conflicts = task.policy.max_conflicts - 1;
    let last = change(&task, &conflict()).task;
    assert_eq!(last.status(), Status::Queued, "failed tests of its own are counted elsewhere");
    let mut task = landing();
    task.counters.conflicts = task.policy.max_conflicts;
    let after = change(&task, &conflict()).task;
    assert!(
        matches!(&after.state, State::Blocked { why: Blocked::ConflictedTooOften { findings }, then: Step::Agent, .. }
        if findings == "a.rs")
    );
    assert_eq!(change(&after, &retry()).task.counters.conflicts, 0);
}

#[test]
fn a_red_main_costs_the_developer_nothing_and_people_are_told_once() {
    let red = || lane(LandingEnd::MainRed { why: "a::b fails on main".to_owned() });
    let first = change(&landing(), &red());
    let c = first.task.counters;
    assert_eq!((c.main_red, c.developer_retries, c.conflicts, c.infrastructure, c.deferrals), (1, 0, 0, 0, 0));
    assert_eq!(first.task.findings, None);
    assert!(matches!(&first.task.state, State::Waiting { on: WaitFor::Until { why, .. }, then: Step::Land, .. }
        if why.contains("a::b")));
    let told = |change: &Change| change.outgoing.iter().any(|o| matches!(o, Outgoing::Notify { needs_you: true, .. }));
    assert!(told(&first));
    let mut again = landing();
    again.counters = first.task.counters;
    assert!(!told(&change(&again, &red())), "told once");
    let mut task = landing();
    task.counters.main_red = task.policy.lane.tries;
    let after = change(&task, &red()).task;
    assert!(matches!(after.state, State::Blocked { why: Blocked::MainIsRed { .. }, then: Step::Land, .. }));
}

#[test]
fn a_main_that_keeps_moving_is_counted_by_itself_and_capped() {
    let moved = || lane(LandingEnd::MainMoved { why: "main moved 5 times".to_owned() });
    let c = change(&landing(), &moved()).task.counters;
    assert_eq!((c.main_moved, c.deferrals, c.main_red, c.developer_retries), (1, 0, 0, 0));
    let mut task = landing();
    task.counters.main_moved = task.policy.lane.tries;
    let after = change(&task, &moved()).task;
    assert!(matches!(after.state, State::Blocked { why: Blocked::DeferredTooOften { .. }, then: Step::Land, .. }));
}

#[test]
fn a_busy_lane_costs_no_attempt() {
    let after = change(&landing(), &lane(LandingEnd::Deferred { why: "the lease is held by ORC-9".to_owned() }));
    let c = after.task.counters;
    assert_eq!((c.deferrals, c.developer_retries, c.interrupted, c.infrastructure), (1, 0, 0, 0));
    let at = NOW.after(after.task.policy.lane.spread(1, after.task.id.as_str()).expect("the first"));
    assert_eq!(after.effects, [Effect::SetTimer { at }]);
    assert!(matches!(&after.task.state, State::Waiting { on: WaitFor::Until { why, .. }, then: Step::Land, .. }
        if why.contains("ORC-9")));
}

#[test]
fn deferrals_are_capped() {
    let mut task = landing();
    task.counters.deferrals = task.policy.lane.tries;
    let after = change(&task, &lane(LandingEnd::Deferred { why: "busy".to_owned() })).task;
    assert!(matches!(after.state, State::Blocked { why: Blocked::DeferredTooOften { .. }, then: Step::Land, .. }));
}

#[test]
fn a_gate_that_could_not_run_costs_the_developer_nothing() {
    let after = change(&landing(), &lane(LandingEnd::CouldNotRun { why: "no scanner".to_owned() })).task;
    assert_eq!((after.counters.developer_retries, after.counters.infrastructure), (0, 1));
    assert_eq!(after.findings, None);
    assert!(matches!(after.state, State::Waiting { then: Step::Land, .. }));
}

#[test]
fn approval_is_bound_to_the_commit() {
    let mut task = sample("deploy-staging", running(Step::Command));
    Arc::make_mut(&mut task.policy).land = LandMode::Approval;
    // People are asked about what would land, once every gate has passed it: not before.
    let passed = check_ended(&task, CheckEnd::passed(""));
    let asks = change(&task, &passed);
    assert_eq!(asks.effects, [Effect::AskLane { step: Step::Land }]);
    let waits = change(&asks.task, &lane(LandingEnd::AwaitingApproval { head: sha('b') }));
    assert!(waits.effects.is_empty(), "only a person ends this wait: {:?}", waits.effects);
    assert_eq!(waits.task.status(), Status::AwaitingPerson);
    let waits = waits.task;
    assert_eq!(unchanged(&waits, &approve(ApprovalOf::Land, '0')).0, Nothing::OtherCommit);
    assert_eq!(unchanged(&waits, &approve(ApprovalOf::Deploy, 'b')).0, Nothing::NotApplicable);
    let lands = change(&waits, &approve(ApprovalOf::Land, 'b'));
    assert_eq!(lands.effects, [Effect::AskLane { step: Step::Land }]);
    assert_eq!(lands.task.approvals[0].by, "ann");
    let void = change(&lands.task, &lane(LandingEnd::AwaitingApproval { head: sha('9') })).task;
    assert!(!void.is_approved(ApprovalOf::Land, &sha('9')), "the approval of another commit is none of this one");
    assert_eq!(unchanged(&void, &approve(ApprovalOf::Land, 'b')).0, Nothing::OtherCommit);
    assert_eq!(change(&void, &approve(ApprovalOf::Land, '9')).effects, [Effect::AskLane { step: Step::Land }]);
}

#[test]
fn a_block_is_no_way_round_an_approval() {
    let mut task = landing();
    Arc::make_mut(&mut task.policy).land = LandMode::Approval;
    task.state = waiting(WaitFor::Approval { what: ApprovalOf::Land, sha: sha('b') }, Step::Land);
    let blocked = change(&task, &Event::CrashLooped { why: "bug".to_owned() }).task;
    let retried = change(&blocked, &retry()).task;
    assert_eq!(permit(&retried, &sha('b'), &sha('0')), Permit::AwaitsApproval, "the lane asks for it again");

    let mut task = deploying();
    Arc::make_mut(&mut task.policy).deploy = DeployMode::Approval;
    task.state = waiting(WaitFor::Approval { what: ApprovalOf::Deploy, sha: landed().sha }, Step::Deploy);
    let blocked = change(&task, &Event::CrashLooped { why: "bug".to_owned() }).task;
    let asks = change(&blocked, &retry());
    assert_eq!(asks.task.status(), Status::AwaitingPerson);
    assert!(asks.effects.is_empty());
}

#[test]
fn a_deploy_that_needs_approval_waits_after_the_landing() {
    let mut task = landing();
    Arc::make_mut(&mut task.policy).deploy = DeployMode::Approval;
    let waits = change(&task, &landed_with(DeployEnd::AwaitingApproval)).task;
    assert_eq!((waits.status(), waits.landed.as_ref()), (Status::AwaitingPerson, Some(&landed())));
    let deploys = change(&waits, &approve(ApprovalOf::Deploy, 'c'));
    assert_eq!(deploys.effects, [Effect::AskLane { step: Step::Deploy }]);
}

#[test]
fn landed_deploy_failed_retries_only_the_deploy() {
    let after = change(&landing(), &landed_with(failed())).task;
    assert_eq!(after.landed, Some(landed()));
    assert!(matches!(after.state, State::Blocked { why: Blocked::LandedDeployFailed { .. }, then: Step::Deploy, .. }));
    assert_eq!(change(&after, &retry()).effects, [Effect::AskLane { step: Step::Deploy }]);
}

#[test]
fn what_has_landed_is_not_developed_again() {
    let task = deploying();
    let end = LandingEnd::SentBack { fault: WorkFault::Gate, findings: "smoke test red".to_owned(), head: None };
    let after = change(&task, &lane(end)).task;
    assert_eq!(after.stage, task.stage);
    assert!(matches!(after.state, State::Blocked { why: Blocked::LandedDeployFailed { .. }, then: Step::Deploy, .. }));
    for end in [LandingEnd::AwaitingApproval { head: sha('9') }, LandingEnd::AwaitingMerge { head: sha('9') }] {
        assert_eq!(unchanged(&task, &lane(end)).0, Nothing::Stale);
    }
}

#[test]
fn an_outcome_that_cannot_be_known_is_blocked_and_never_forgets_what_landed() {
    let end = |landed| lane(LandingEnd::OutcomeUnknown { why: "no exit record".to_owned(), landed });
    for (task, event, then, on_main) in [
        (landing(), end(None), Step::Land, None),
        (landing(), end(Some(landed())), Step::Deploy, Some(landed())),
        (deploying(), end(None), Step::Deploy, Some(landed())),
    ] {
        let after = change(&task, &event);
        let State::Blocked { why: Blocked::OutcomeUnknown { .. }, then: next, .. } = &after.task.state else {
            panic!("{:?}", after.task.state)
        };
        assert_eq!((*next, &after.task.landed), (then, &on_main));
        assert!(!after.effects.iter().any(|e| matches!(e, Effect::AskLane { .. })), "never a blind re-run");
    }
}

#[test]
fn a_crash_loop_does_not_hide_an_unknown_outcome() {
    let unknown = LandingEnd::OutcomeUnknown { why: "no exit record".to_owned(), landed: None };
    let task = change(&landing(), &lane(unknown)).task;
    let after = change(&task, &Event::CrashLooped { why: "bug".to_owned() });
    assert_eq!(after.task.state, task.state);
    assert!(after.outgoing.iter().any(|o| matches!(o, Outgoing::Notify { needs_you: true, .. })));
}

#[test]
fn a_landing_is_not_lost_while_its_task_was_blocked() {
    let blocked = change(&landing(), &Event::CrashLooped { why: "bug".to_owned() }).task;
    assert_eq!(change(&blocked, &landed_with(DeployEnd::NotConfigured)).task.status(), Status::Done);
    let owed = change(&blocked, &landed_with(failed())).task;
    assert!(matches!(owed.state, State::Blocked { why: Blocked::LandedDeployFailed { .. }, .. }));
    assert_eq!(unchanged(&owed, &landed_with(failed())).0, Nothing::Stale, "told again, it is no news");
}

#[test]
fn what_a_newer_deploy_has_brought_along_is_done_whatever_its_own_deploy_waited_for() {
    let unknown = LandingEnd::OutcomeUnknown { why: "no exit record".to_owned(), landed: Some(landed()) };
    let ends = [landed_with(failed()), lane(unknown), landed_with(DeployEnd::AwaitingApproval)];
    for end in ends {
        let waits = change(&landing(), &end).task;
        let done = change(&waits, &landed_with(held()));
        assert_eq!(done.task.status(), Status::Done, "{:?}", waits.state);
        let said = done.entries.iter().any(|entry| entry.text == "landed; already deployed with dddddddddd (ORC-9)");
        assert!(said, "{:?}", done.entries);
    }
}

fn notices(change: &Change) -> Vec<(&str, &str)> {
    let told = change.outgoing.iter().filter_map(|o| match o {
        Outgoing::Notify { needs_you: true, title, body } => Some((title.as_str(), body.as_str())),
        _ => None,
    });
    told.collect()
}

#[test]
fn people_are_told_what_waits_for_them_and_when_their_approval_is_void() {
    let asks = |digit| lane(LandingEnd::AwaitingApproval { head: sha(digit) });
    let first = change(&landing(), &asks('b'));
    let key = first.task.key.clone();
    let way = format!("`orch task approve {key} land --sha bbbbbbbbbb`");
    assert_eq!(notices(&first), [(format!("{key} waits for an approval to land bbbbbbbbbb").as_str(), way.as_str())]);
    let lands = change(&first.task, &approve(ApprovalOf::Land, 'b')).task;
    let again = change(&lands, &asks('c'));
    let void = again.entries.iter().find(|entry| entry.kind == "approval-void").expect("an entry");
    assert!(void.text.contains("of bbbbbbbbbb by ann is void") && void.text.contains("now is cccccccccc"), "{void:?}");
    assert!(notices(&again)[0].1.starts_with(&void.text), "{:?}", notices(&again));
    // Asked about the same commit again, nothing is void.
    let lands = change(&again.task, &approve(ApprovalOf::Land, 'c')).task;
    let same = change(&lands, &asks('c'));
    assert!(!same.entries.iter().any(|entry| entry.kind == "approval-void"));

    let waits = change(&landing(), &landed_with(DeployEnd::AwaitingApproval));
    assert!(notices(&waits)[0].1.contains(&format!("orch task approve {key} deploy --sha ")), "{:?}", notices(&waits));
}

#[test]
fn people_are_told_once_what_they_are_to_merge_however_often_it_is_looked_for() {
    let asks = |digit| lane(LandingEnd::AwaitingMerge { head: sha(digit) });
    let first = change(&landing(), &asks('b'));
    assert!(notices(&first)[0].0.ends_with("waits for a person to merge bbbbbbbbbb"), "{:?}", notices(&first));
    let looks = change(&first.task, &Event::TimerFired).task;
    let again = change(&looks, &asks('b'));
    assert!(notices(&again).is_empty(), "{:?}", notices(&again));
    let looks = change(&again.task, &Event::TimerFired).task;
    assert_eq!(notices(&change(&looks, &asks('c'))).len(), 1, "another commit is news");
}

#[test]
fn a_person_who_merges_while_we_wait_ends_the_wait() {
    let mut task = landing();
    Arc::make_mut(&mut task.policy).land = LandMode::PrOnly;
    let waits = change(&task, &lane(LandingEnd::AwaitingMerge { head: sha('b') }));
    assert_eq!(waits.task.status(), Status::AwaitingPerson);
    assert_eq!(waits.effects, [Effect::SetTimer { at: NOW.after(Millis::from_mins(1)) }]);
    assert_eq!(change(&waits.task, &Event::TimerFired).effects, [Effect::AskLane { step: Step::Land }]);
    assert_eq!(change(&waits.task, &landed_with(DeployEnd::NotConfigured)).task.status(), Status::Done);
}

#[test]
fn waiting_for_a_person_uses_up_no_ceiling() {
    for end in [LandingEnd::AwaitingMerge { head: sha('b') }, LandingEnd::AwaitingApproval { head: sha('9') }] {
        let mut task = landing();
        task.counters.deferrals = 150;
        task.counters.infrastructure = 4;
        let after = change(&task, &lane(end)).task;
        assert_eq!((after.counters.deferrals, after.counters.infrastructure), (0, 0));
    }
}

#[test]
fn a_forge_that_refuses_for_good_needs_a_person() {
    let after = change(&landing(), &lane(LandingEnd::Refused { why: "protected".to_owned() })).task;
    assert!(matches!(after.state, State::Blocked { why: Blocked::ForgeRefuses { .. }, then: Step::Land, .. }));
}

// ---------------------------------------------------------------------------------------------- the security gate

fn guarded(task: Task) -> Task {
    let mut task = task;
    Arc::make_mut(&mut task.policy).gates = orch_domain::policy::GatePlan::everything();
    task
}

#[test]
fn the_security_gate_is_asked_before_the_lane_and_only_where_it_is_in_scope() {
    let task = guarded(sample("deploy-staging", running(Step::Command)));
    let after = change(&task, &check_ended(&task, CheckEnd::passed("")));
    let State::Running { step: Step::Security, .. } = after.task.state else { panic!("{:?}", after.task.state) };
    assert!(after.effects.iter().any(|e| matches!(e, Effect::StartCheck { step: Step::Security, .. })));

    let passed = change(&after.task, &check_ended(&after.task, CheckEnd::passed("clean")));
    assert!(matches!(passed.task.state, State::Landing { step: Step::Land, .. }), "{:?}", passed.task.state);

    let open = sample("deploy-staging", running(Step::Command));
    let straight = change(&open, &check_ended(&open, CheckEnd::passed("")));
    assert!(matches!(straight.task.state, State::Landing { step: Step::Land, .. }), "{:?}", straight.task.state);
    let kinds: Vec<&str> = straight.entries.iter().map(|e| e.kind.as_str()).collect();
    assert!(!kinds.iter().any(|kind| kind.starts_with("gate-")), "{kinds:?}");
}

#[test]
fn a_failed_security_gate_sends_the_findings_back_and_one_that_cannot_run_costs_the_developer_nothing() {
    let task = guarded(sample("deploy", running(Step::Security)));
    let findings = "rule x in a.txt:3".to_owned();
    let failed = change(&task, &check_ended(&task, CheckEnd::Failed { findings: findings.clone() }));
    assert_eq!(failed.task.findings, Some(findings));
    assert_eq!(failed.task.stage.as_str(), "development");
    assert!(failed.outgoing.iter().any(|o| matches!(o, Outgoing::Notify { title, .. } if title.contains("security"))));

    let away = change(&task, &check_ended(&task, CheckEnd::CouldNotRun { why: "no engine".to_owned() }));
    assert_eq!(away.task.counters.developer_retries, task.counters.developer_retries);
    assert!(
        matches!(&away.task.state, State::Waiting { on: WaitFor::Until { .. }, then: Step::Security, .. }),
        "it comes back to the gate, never past it: {:?}",
        away.task.state
    );
}

#[test]
fn what_passed_unseen_is_journaled_and_told() {
    let task = guarded(sample("deploy", running(Step::Security)));
    let warnings = vec!["the advisory feed is away".to_owned()];
    let end = CheckEnd::Passed { note: "clean".to_owned(), warnings: warnings.clone() };
    let after = change(&task, &check_ended(&task, end));
    assert!(after.entries.iter().any(|e| e.kind == "warning" && e.text == warnings[0]));
    assert!(after.outgoing.iter().any(|o| matches!(o, Outgoing::Notify { needs_you: false, .. })));
}
