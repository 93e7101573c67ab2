//! The state table: complete, and the document is what the code does.

use std::collections::BTreeSet;
use std::path::Path;

use orch_domain::event::{CheckEnd, Event, LandingEnd};
use orch_domain::samples;
use orch_domain::table::{markdown, rows};
use orch_domain::task::{State, Status, WaitFor};

#[test]
fn the_document_says_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/state-machine.md");
    let now = markdown();
    if std::env::var_os("ORCH_BLESS").is_some() {
        std::fs::write(&path, &now).expect("the document can be written");
        return;
    }
    let written = std::fs::read_to_string(&path).expect("docs/state-machine.md is there; make it with ORCH_BLESS=1");
    let first = written.lines().zip(now.lines()).enumerate().find(|(_, (a, b))| a != b);
    assert!(
        written == now,
        "docs/state-machine.md differs from the code; look at the change, then renew it with ORCH_BLESS=1\n{first:?}"
    );
}

#[test]
fn every_pair_of_state_and_event_has_its_row() {
    let rows = rows();
    let pairs: BTreeSet<(&str, &str)> = rows.iter().map(|r| (r.state, r.event)).collect();
    assert_eq!(pairs.len(), rows.len(), "no pair is named twice");
    let states: BTreeSet<&str> = rows.iter().map(|r| r.state).collect();
    let events: BTreeSet<&str> = rows.iter().map(|r| r.event).collect();
    assert_eq!(pairs.len(), states.len() * events.len(), "every state meets every event");
}

// The matches below have no wildcard on purpose: a new kind of state, wait or event does not compile until it is named
// here, and then it must be among the samples.

fn state_kind(state: &State) -> &'static str {
    match state {
        State::Waiting { on, .. } => match on {
            WaitFor::Slot => "slot",
            WaitFor::Until { .. } => "until",
            WaitFor::Dependencies { .. } => "dependencies",
            WaitFor::Turn => "turn",
            WaitFor::Approval { .. } => "approval",
            WaitFor::PersonMerges { .. } => "person merges",
        },
        State::Running { .. } => "running",
        State::Landing { .. } => "landing",
        State::Blocked { .. } => "blocked",
        State::Done { .. } => "done",
        State::Cancelled { .. } => "cancelled",
    }
}

fn event_kind(event: &Event) -> &'static str {
    match event {
        Event::Resumed { run_attached: true } => "attached",
        Event::Resumed { run_attached: false } => "resumed",
        Event::SlotGranted => "slot",
        Event::RunEnded { .. } => "run",
        Event::CheckEnded { end, .. } => match end {
            CheckEnd::Passed { .. } => "passed",
            CheckEnd::Failed { .. } => "failed",
            CheckEnd::CouldNotRun { .. } => "could not run",
            CheckEnd::NotConfigured { .. } => "not configured",
        },
        Event::LandingEnded { end, .. } => match end {
            LandingEnd::Landed { .. } => "landed",
            LandingEnd::SentBack { .. } => "sent back",
            LandingEnd::MainRed { .. } => "main red",
            LandingEnd::MainMoved { .. } => "main moved",
            LandingEnd::Deferred { .. } => "deferred",
            LandingEnd::CouldNotRun { .. } => "landing could not run",
            LandingEnd::NotConfigured { .. } => "landing not configured",
            LandingEnd::Refused { .. } => "refused",
            LandingEnd::AwaitingApproval { .. } => "awaiting approval",
            LandingEnd::AwaitingMerge { .. } => "awaiting merge",
            LandingEnd::OutcomeUnknown { .. } => "outcome unknown",
            LandingEnd::Stopped => "stopped",
        },
        Event::TimerFired => "timer",
        Event::DependenciesSeen { .. } => "dependencies",
        Event::TurnCame => "turn",
        Event::Approved { .. } => "approved",
        Event::RetryRequested { .. } => "retry",
        Event::StopRequested { .. } => "stop",
        Event::StopCarriedOut { .. } => "stopped for good",
        Event::CrashLooped { .. } => "crash loop",
    }
}

#[test]
fn the_samples_hold_every_kind_of_state_and_event() {
    let states: BTreeSet<&str> = samples::states().iter().map(|s| state_kind(&s.task.state)).collect();
    assert_eq!(states.len(), 11, "{states:?}");
    let first = &samples::states()[0].task;
    let events: BTreeSet<&str> = samples::events(first).iter().map(|(_, e)| event_kind(e)).collect();
    assert_eq!(events.len(), 28, "{events:?}");
    let statuses: BTreeSet<Status> = samples::states().iter().map(|s| s.task.status()).collect();
    assert_eq!(statuses, Status::ALL.into_iter().collect(), "every status is reached by a sample");
}

#[test]
fn the_diagram_has_no_way_out_of_the_closed_statuses() {
    for row in rows() {
        if matches!(row.from, Status::Done | Status::Cancelled) {
            assert_eq!(row.to, None, "{} leaves {}", row.event, row.state);
            assert_eq!(row.outcome, "closed");
        }
        if row.from == Status::Stopping {
            assert!(
                matches!(row.to, None | Some(Status::Stopping | Status::Done | Status::Cancelled)),
                "{} leads from {} to {:?}",
                row.event,
                row.state,
                row.to
            );
        }
    }
}
