//! The state table: what every event does in every state, worked out by [`decide`](crate::decide) itself.
//!
//! Owns the document `docs/state-machine.md`: a diagram of the statuses and one section per state. Refuses to know any
//! rule: it asks `decide` about each of the [`samples`], so that the document cannot say anything else
//! than the code does. The same build gives the same text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::decide::{Decision, decide};
use crate::effect::{Effect, Outgoing, ShownState};
use crate::event::Event;
use crate::samples::{self, NOW, Sample};
use crate::task::{State, Status, Step, StopMark, Task, WaitFor};

/// What one event does in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The state, as the sample is named.
    pub state: &'static str,
    /// The event, as the sample is named.
    pub event: &'static str,
    /// The status before.
    pub from: Status,
    /// The status after; `None`: nothing changes.
    pub to: Option<Status>,
    /// The state after, or the word for why nothing changes.
    pub outcome: String,
    /// Names of the effects, in order: internal ones, then those of the outbox.
    pub effects: Vec<String>,
    /// Whether a recorded STOP refuses the commit.
    pub forward: bool,
}

/// Every sample state with every sample event.
#[must_use]
pub fn rows() -> Vec<Row> {
    samples::states().iter().flat_map(rows_of).collect()
}

fn rows_of(sample: &Sample) -> Vec<Row> {
    let row = |(event, fact): (&'static str, Event)| {
        // A timer is looked at when it is due.
        let now = match &sample.task.state {
            State::Waiting { on: WaitFor::Until { at, .. }, .. } => *at,
            _ => NOW,
        };
        let (to, outcome, effects, forward) = match decide(&sample.task, &fact, now) {
            Decision::Change(change) => {
                let words = match change.task.state == sample.task.state {
                    true => "kept in the record".to_owned(),
                    false => describe(&change.task),
                };
                let effects = change.effects.iter().map(|e| effect_name(e).to_owned());
                let effects = effects.chain(change.outgoing.iter().map(outgoing_name)).collect();
                (Some(change.task.status()), words, effects, change.forward)
            }
            Decision::Nothing { why, effects } => {
                let effects = effects.iter().map(|e| effect_name(e).to_owned()).collect();
                (None, why.as_str().to_owned(), effects, false)
            }
        };
        Row { state: sample.name, event, from: sample.task.status(), to, outcome, effects, forward }
    };
    samples::events(&sample.task).into_iter().map(row).collect()
}

/// Where a task is, in words: stage and state.
fn describe(task: &Task) -> String {
    let stage = &task.stage;
    match &task.state {
        State::Waiting { on, then, .. } => {
            let what = match on {
                WaitFor::Slot => "a slot".to_owned(),
                WaitFor::Until { .. } => "a time".to_owned(),
                WaitFor::Dependencies { open } => {
                    let keys: Vec<&str> = open.iter().map(crate::names::TaskKey::as_str).collect();
                    keys.join(", ")
                }
                WaitFor::Turn => "its turn".to_owned(),
                WaitFor::Approval { what, sha } => format!("approval to {} {}", what.as_str(), sha.short()),
                WaitFor::PersonMerges { sha } => format!("a person to merge {}", sha.short()),
            };
            format!("{stage}: waits for {what}, then {}", step_name(*then))
        }
        State::Running { step, .. } => format!("{stage}: {} runs", step_name(*step)),
        State::Landing { step, .. } => format!("{stage}: {} in the lane", step_name(*step)),
        State::Blocked { why, then, .. } => format!("{stage}: blocked ({}), then {}", why.code(), step_name(*then)),
        State::Done { .. } => "done".to_owned(),
        State::Cancelled { .. } => "cancelled".to_owned(),
    }
}

const fn step_name(step: Step) -> &'static str {
    match step {
        Step::Agent => "agent",
        Step::Check => "check",
        Step::Command => "command",
        Step::Security => "security gate",
        Step::Land => "landing",
        Step::Deploy => "deploy",
    }
}

/// The name of an internal effect, as the table shows it.
#[must_use]
pub const fn effect_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::AskSlot => "ask-slot",
        Effect::GiveSlotBack => "give-slot-back",
        Effect::StartRun { .. } => "start-run",
        Effect::StartCheck { .. } => "start-check",
        Effect::AskLane { step: Step::Deploy } => "ask-lane to deploy",
        Effect::AskLane { .. } => "ask-lane to land",
        Effect::SetTimer { .. } => "set-timer",
        Effect::WatchDependencies { .. } => "watch-dependencies",
        Effect::AskTurn => "ask-turn",
        Effect::CarryOutStop => "carry-out-stop",
        Effect::Close => "close",
    }
}

fn outgoing_name(outgoing: &Outgoing) -> String {
    match outgoing {
        Outgoing::Show { state } => {
            let word = match state {
                ShownState::InProgress => "in progress",
                ShownState::Blocked => "blocked",
                ShownState::Done => "done",
                ShownState::Cancelled => "cancelled",
            };
            format!("show {word}")
        }
        Outgoing::Comment { .. } => "comment".to_owned(),
        Outgoing::Notify { needs_you: true, .. } => "notify (needs you)".to_owned(),
        Outgoing::Notify { needs_you: false, .. } => "notify".to_owned(),
    }
}

/// The whole document.
#[must_use]
pub fn markdown() -> String {
    let rows = rows();
    let mut out = String::from(HEAD);
    diagram(&mut out, &rows);
    out.push_str(BETWEEN);
    for sample in samples::states() {
        let of_state: Vec<&Row> = rows.iter().filter(|r| r.state == sample.name).collect();
        section(&mut out, &sample, &of_state);
    }
    out
}

const HEAD: &str = "\
# State machine

Generated from `src/domain/decide` by `src/domain/table.rs`; a test compares this file with the code. To renew it:
`ORCH_BLESS=1 cargo test -p orch-domain the_document`.

## Statuses

Each arrow names the events that lead along it. Recording a STOP is no event of its own: the mark is set outside the row's
version, and from then on only `stopping`'s arrows are open.

";

const BETWEEN: &str = "
## Every state with every event

*What follows* is the stage with its next state, or, where nothing changes, the word why: *closed* (the task has ended),
*stopping* (STOP is recorded, nothing goes forward), *stale* (the event belongs to a run or wait that is over), *repeated*
(the state stays, its effects are carried out again), *not applicable* (this state does not offer that), *other commit*
(the approval is for another commit), *stop not recorded* (the caller loads the row again). *Kept in the record* means that
a fact is stored and the state stays. Effects are carried out after the commit; the last ones go through the outbox. Every
change that is not marked *also under STOP* is refused by the store once a STOP is recorded. An event without its variants
stands for all of them.
";

/// The statuses with the events that lead from one to another, as a mermaid diagram.
fn diagram(out: &mut String, rows: &[Row]) {
    let mut edges: BTreeMap<(Status, Status), Vec<&str>> = BTreeMap::new();
    for row in rows {
        let Some(to) = row.to.filter(|to| *to != row.from) else { continue };
        let event = kind(row.event);
        let events = edges.entry((row.from, to)).or_default();
        if !events.contains(&event) {
            events.push(event);
        }
    }
    for sample in samples::states().iter().filter(|s| !s.task.is_terminal() && s.task.stop.is_none()) {
        let mut stopped = sample.task.clone();
        stopped.stop = Some(StopMark { at: NOW, by: String::new(), source: String::new() });
        edges.insert((sample.task.status(), stopped.status()), vec!["STOP recorded"]);
    }
    out.push_str("```mermaid\nstateDiagram-v2\n");
    for status in Status::ALL {
        let _ = writeln!(out, "  state \"{}\" as {}", status.as_str(), alias(status));
    }
    let starts = [Vec::new(), vec![samples::key("ORC-7")]].map(|depends_on| {
        let task = samples::new_task("full", crate::policy::Policy::default(), depends_on);
        task.status()
    });
    for status in starts {
        let _ = writeln!(out, "  [*] --> {}", alias(status));
    }
    for ((from, to), events) in &edges {
        let _ = writeln!(out, "  {} --> {}: {}", alias(*from), alias(*to), events.join(", "));
    }
    for sample in samples::states().iter().filter(|s| s.task.is_terminal()) {
        let _ = writeln!(out, "  {} --> [*]", alias(sample.task.status()));
    }
    out.push_str("```\n");
}

fn alias(status: Status) -> String {
    status.as_str().replace('-', "_")
}

/// One state: a table of what happens, then the events that do nothing, by their reason.
fn section(out: &mut String, sample: &Sample, rows: &[&Row]) {
    let _ = write!(out, "\n### {}\n\n", sample.name);
    let _ = write!(out, "Status `{}`, stage `{}`.\n\n", sample.task.status().as_str(), sample.task.stage);
    let (quiet, loud): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|r| r.to.is_none() && r.effects.is_empty());
    if !loud.is_empty() {
        out.push_str("| event | what follows | effects |\n| --- | --- | --- |\n");
        for row in loud {
            let also = if row.to.is_some() && !row.forward { " (also under STOP)" } else { "" };
            let _ = writeln!(out, "| {} | {}{also} | {} |", row.event, row.outcome, row.effects.join(", "));
        }
        out.push('\n');
    }
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in quiet {
        let of_kind = |r: &&&Row| kind(r.event) == kind(row.event);
        let alike = rows.iter().filter(of_kind).all(|r| r.outcome == row.outcome && r.effects.is_empty());
        let name = if alike { kind(row.event) } else { row.event };
        let events = by_reason.entry(&row.outcome).or_default();
        if !events.contains(&name) {
            events.push(name);
        }
    }
    for (reason, events) in by_reason {
        let _ = writeln!(out, "- *{reason}*: {}", events.join("; "));
    }
}

/// The event's kind: what stands before the colon of a sample's name.
fn kind(event: &str) -> &str {
    event.split(':').next().unwrap_or(event)
}
