//! The rules of STOP as far as they are decisions (DESIGN 5), one test per sentence.

use orch_domain::decide::{Decision, Nothing, decide};
use orch_domain::effect::{Effect, Outgoing, ShownState};
use orch_domain::event::{DeployEnd, Event, LandingEnd};
use orch_domain::samples::{self, NOW, landed, running};
use orch_domain::task::{State, Status, Step};

use crate::support::*;

fn carried_out() -> Event {
    Event::StopCarriedOut { finished: None }
}

#[test]
fn stop_lets_nothing_forward() {
    for sample in samples::states().iter().filter(|s| !s.task.is_terminal()) {
        let task = stopped(&sample.task);
        for (name, event) in samples::events(&task) {
            let (effects, after) = match decide(&task, &event, NOW) {
                Decision::Nothing { effects, .. } => (effects, task.clone()),
                Decision::Change(change) => {
                    assert!(!change.forward, "{name} in `{}` goes forward", sample.name);
                    (change.effects, change.task)
                }
            };
            let harmless = [Effect::GiveSlotBack, Effect::CarryOutStop, Effect::Close];
            assert!(effects.iter().all(|e| harmless.contains(e)), "{name} in `{}`: {effects:?}", sample.name);
            assert!(after.state == task.state || after.is_terminal(), "{name} in `{}`", sample.name);
            assert_eq!((&after.stage, after.counters), (&task.stage, task.counters), "{name} in `{}`", sample.name);
        }
    }
}

#[test]
fn without_a_recorded_stop_every_change_can_be_beaten_by_one() {
    for sample in samples::states().iter().filter(|s| s.task.stop.is_none()) {
        for (name, event) in samples::events(&sample.task) {
            if let Decision::Change(change) = decide(&sample.task, &event, NOW) {
                assert!(change.forward, "{name} in `{}` would slip past a STOP", sample.name);
            }
        }
    }
}

#[test]
fn a_stop_must_be_recorded_before_it_is_carried_out() {
    let task = sample("development", running(Step::Agent));
    for event in [Event::StopRequested { by: "ann".to_owned() }, carried_out(), lane_stopped()] {
        let expected =
            if matches!(event, Event::LandingEnded { .. }) { Nothing::Stale } else { Nothing::StopNotRecorded };
        assert_eq!(unchanged(&task, &event), (expected, Vec::new()));
    }
    let landing = sample("deploy", State::Landing { step: Step::Land, since: NOW });
    assert_eq!(unchanged(&landing, &lane_stopped()).0, Nothing::StopNotRecorded, "the caller loads the row again");
}

fn lane_stopped() -> Event {
    lane(LandingEnd::Stopped)
}

#[test]
fn a_recorded_stop_is_carried_out_and_again_after_a_restart() {
    let task = stopped(&sample("development", running(Step::Agent)));
    assert_eq!(task.status(), Status::Stopping);
    for event in [Event::StopRequested { by: "ann".to_owned() }, Event::Resumed { run_attached: false }] {
        assert_eq!(unchanged(&task, &event), (Nothing::Stopping, vec![Effect::CarryOutStop]));
    }
}

#[test]
fn an_agent_that_exits_0_after_the_stop_is_still_cancelled() {
    let task = stopped(&sample("development", running(Step::Agent)));
    let kept = change(&task, &run_ended(&task, |_| {})).task;
    assert_eq!(kept.state, task.state);
    assert_eq!(kept.usage.input_tokens, Some(100), "what it has spent is kept");
    assert_eq!(kept.head, task.head, "what it has made is not taken over");
    let end = change(&kept, &carried_out());
    assert_eq!(end.task.status(), Status::Cancelled);
    assert_eq!(end.effects, [Effect::GiveSlotBack, Effect::Close]);
    assert!(end.outgoing.contains(&Outgoing::Show { state: ShownState::Cancelled }));
}

#[test]
fn a_stop_that_came_too_late_is_honestly_done() {
    let task = stopped(&sample("deploy", State::Landing { step: Step::Land, since: NOW }));
    let event = lane(LandingEnd::Landed { landed: landed(), deploy: DeployEnd::NotConfigured });
    let task = change(&task, &event).task;
    assert_eq!((task.status(), task.landed.as_ref()), (Status::Stopping, Some(&landed())));
    let end = change(&task, &Event::StopCarriedOut { finished: Some(landed()) });
    assert_eq!(end.task.status(), Status::Done);
    assert!(end.entries.iter().any(|e| e.text.contains("came too late")), "{:?}", end.entries);
}

#[test]
fn a_cancelled_task_names_what_has_landed() {
    let mut task = stopped(&sample("deploy", State::Landing { step: Step::Deploy, since: NOW }));
    task.landed = Some(landed());
    let unknown = LandingEnd::OutcomeUnknown { why: "no exit record".to_owned(), landed: None };
    let task = change(&task, &lane(unknown)).task;
    let end = change(&task, &carried_out());
    assert_eq!(end.task.status(), Status::Cancelled);
    assert!(end.entries.iter().any(|e| e.text.contains(landed().sha.short())), "{:?}", end.entries);
}

#[test]
fn a_closed_task_stays_closed() {
    for sample in samples::states().iter().filter(|s| s.task.is_terminal()) {
        for (name, event) in samples::events(&sample.task) {
            let (why, _) = unchanged(&sample.task, &event);
            assert_eq!(why, Nothing::Closed, "{name}");
        }
        assert_eq!(unchanged(&sample.task, &Event::Resumed { run_attached: false }).1, [Effect::Close]);
        assert_eq!(unchanged(&sample.task, &Event::SlotGranted).1, [Effect::GiveSlotBack]);
    }
}
