//! What the rule tests share: deciding at the samples' instant and taking the answer apart.

use orch_domain::decide::{Change, Decision, Nothing, decide};
use orch_domain::effect::{Effect, Outgoing};
use orch_domain::event::{CheckEnd, Event, LandingEnd, RunFacts};
use orch_domain::ids::RunId;
use orch_domain::samples::{NOW, good_facts, task_at};
use orch_domain::task::{State, StopMark, Task};

/// Decides at the samples' instant and insists on a change.
#[track_caller]
pub(crate) fn change(task: &Task, event: &Event) -> Change {
    match decide(task, &addressed(task, event), NOW) {
        Decision::Change(change) => *change,
        Decision::Nothing { why, .. } => panic!("{} changes nothing: {}", event.name(), why.as_str()),
    }
}

/// Decides at the samples' instant and insists that nothing changes; gives the word and the effects.
#[track_caller]
pub(crate) fn unchanged(task: &Task, event: &Event) -> (Nothing, Vec<Effect>) {
    match decide(task, &addressed(task, event), NOW) {
        Decision::Nothing { why, effects } => (why, effects),
        Decision::Change(change) => panic!("{} changes the task to {:?}", event.name(), change.task.state),
    }
}

/// The run that is under way.
#[track_caller]
pub(crate) fn current_run(task: &Task) -> RunId {
    match &task.state {
        State::Running { run, .. } => run.clone(),
        other => panic!("no run is under way: {other:?}"),
    }
}

/// The end of the current run, with facts that differ from good ones.
#[track_caller]
pub(crate) fn run_ended(task: &Task, differ: impl FnOnce(&mut RunFacts)) -> Event {
    let mut facts = good_facts(task);
    differ(&mut facts);
    Event::RunEnded { run: current_run(task), facts: Box::new(facts) }
}

/// The end of the current check.
#[track_caller]
pub(crate) fn check_ended(task: &Task, end: CheckEnd) -> Event {
    Event::CheckEnded { run: current_run(task), end }
}

/// A failed check with these findings.
#[track_caller]
pub(crate) fn check_failed(task: &Task, findings: &str) -> Event {
    check_ended(task, CheckEnd::Failed { findings: findings.to_owned() })
}

/// Stands for the number of whatever request to the lane is the task's present one.
const PRESENT: u32 = u32::MAX;

/// The lane's answer to the task's present request.
pub(crate) fn lane(end: LandingEnd) -> Event {
    Event::LandingEnded { asked: PRESENT, end }
}

fn addressed(task: &Task, event: &Event) -> Event {
    match event {
        Event::LandingEnded { asked: PRESENT, end } => Event::LandingEnded { asked: task.lane_asked, end: end.clone() },
        other => other.clone(),
    }
}

/// The same task with a recorded STOP.
pub(crate) fn stopped(task: &Task) -> Task {
    let mut task = task.clone();
    task.stop = Some(StopMark { at: NOW, by: "ann".to_owned(), source: "http".to_owned() });
    task
}

/// A fresh sample in that stage and state.
pub(crate) fn sample(stage: &str, state: State) -> Task {
    task_at(stage, state)
}

/// The comments for the tracker's readers.
pub(crate) fn comments(change: &Change) -> Vec<&str> {
    change
        .outgoing
        .iter()
        .filter_map(|o| if let Outgoing::Comment { text } = o { Some(text.as_str()) } else { None })
        .collect()
}
