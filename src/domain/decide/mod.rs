//! The one transition function: `decide(task, event, now)` gives the next task, what to journal, what to send and what to do.
//!
//! Owns every rule of a task's life. Pure: the same arguments give the same decision, live and in replays. Invariants:
//! a closed task never changes; a recorded STOP lets nothing forward through; every counter keeps its ceiling; whatever
//! the new state waits for, the effects that will end the wait are returned with it.

mod judge;
mod moves;

use serde_json::json;

pub(crate) use judge::STILL;
pub use judge::{RunVerdict, judge_run};

use crate::effect::{Effect, Outgoing, ShownState};
use crate::event::{CheckEnd, DeployEnd, Event, LandingEnd, RunFacts};
use crate::ids::RunId;
use crate::journal::Entry;
use crate::landing::{FailureClass, WorkFault};
use crate::policy::OnCancelledDependency;
use crate::task::{Approval, Blocked, Landed, State, Step, Task, WaitFor};
use crate::time::{Millis, Timestamp};

/// How often a person's merge is looked for, in `land: pr-only`.
const MERGE_POLL: Millis = Millis::from_mins(1);

/// What follows from an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The task changes: commit this, then carry out the effects.
    Change(Box<Change>),
    /// The task stays as it is; the effects (if any) are safe to carry out at once.
    Nothing {
        /// Why nothing changes.
        why: Nothing,
        /// Effects that follow from the stored state.
        effects: Vec<Effect>,
    },
}

/// A change to commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The next task.
    pub task: Task,
    /// Journal entries of the same transaction.
    pub entries: Vec<Entry>,
    /// Outbox rows of the same transaction.
    pub outgoing: Vec<Outgoing>,
    /// What to do once it is committed.
    pub effects: Vec<Effect>,
    /// Whether a recorded STOP must refuse this commit.
    pub forward: bool,
}

/// Why an event changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// The task is closed.
    Closed,
    /// STOP is recorded: nothing goes forward.
    Stopping,
    /// The event belongs to a run or wait that is over.
    Stale,
    /// The state stays; its effects are repeated.
    Repeated,
    /// The event asks for something that this state does not offer.
    NotApplicable,
    /// The approval is for another commit.
    OtherCommit,
    /// A STOP has to be recorded before it is carried out.
    StopNotRecorded,
}

impl Nothing {
    /// The word as shown in the state table and in answers to people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Stopping => "stopping",
            Self::Stale => "stale",
            Self::Repeated => "repeated",
            Self::NotApplicable => "not applicable",
            Self::OtherCommit => "other commit",
            Self::StopNotRecorded => "stop not recorded",
        }
    }
}

fn nothing(why: Nothing) -> Decision {
    Decision::Nothing { why, effects: Vec::new() }
}

/// Decides what follows from `event` for `task`.
#[must_use]
pub fn decide(task: &Task, event: &Event, now: Timestamp) -> Decision {
    if task.is_terminal() {
        return closed(event);
    }
    if task.stop.is_some() {
        return stopping(task, event, now);
    }
    match event {
        Event::Resumed { run_attached } => resumed(task, *run_attached, now),
        Event::SlotGranted => slot_granted(task, now),
        Event::RunEnded { run, facts } => run_ended(task, run, facts, now),
        Event::CheckEnded { run, end } => check_ended(task, run, end, now),
        Event::LandingEnded { asked, end } => landing_ended(task, *asked, end, now),
        Event::TimerFired => timer_fired(task, now),
        Event::DependenciesSeen { open, cancelled } => dependencies_seen(task, open, cancelled, now),
        Event::TurnCame => match &task.state {
            State::Waiting { on: WaitFor::Turn, then, .. } => {
                let mut change = Change::of(task);
                change.task.has_turn = true;
                change.entry(Entry::new("turn-came", "its turn in the serial repository has come"));
                change.begin(*then, now);
                change.into()
            }
            _ => nothing(Nothing::Stale),
        },
        Event::Approved { what, sha, by } => match &task.state {
            State::Waiting { on: WaitFor::Approval { what: asked, sha: bound }, then, .. } if asked == what => {
                if bound != sha {
                    return nothing(Nothing::OtherCommit);
                }
                let mut change = Change::of(task);
                let approval = Approval { what: *what, sha: sha.clone(), by: by.clone(), at: now };
                change.task.approvals.push(approval);
                change.entry(
                    Entry::new("approved", format!("{by} approved to {} {}", what.as_str(), sha.short()))
                        .with(json!({"what": what, "sha": sha, "by": by})),
                );
                change.begin(*then, now);
                change.into()
            }
            _ => nothing(Nothing::NotApplicable),
        },
        Event::RetryRequested { by } => retry_requested(task, by, now),
        Event::StopRequested { .. } => nothing(Nothing::StopNotRecorded),
        Event::StopCarriedOut { .. } => nothing(Nothing::StopNotRecorded),
        Event::CrashLooped { why } => crash_looped(task, why, now),
    }
}

fn closed(event: &Event) -> Decision {
    let effects = match event {
        Event::Resumed { .. } => vec![Effect::Close],
        Event::SlotGranted => vec![Effect::GiveSlotBack],
        _ => Vec::new(),
    };
    Decision::Nothing { why: Nothing::Closed, effects }
}

/// Under a recorded STOP only facts are kept: what was spent, what has landed, that the steps are through.
fn stopping(task: &Task, event: &Event, now: Timestamp) -> Decision {
    let mut change = Change::of(task);
    change.forward = false;
    match event {
        Event::Resumed { .. } | Event::StopRequested { .. } => {
            return Decision::Nothing { why: Nothing::Stopping, effects: vec![Effect::CarryOutStop] };
        }
        Event::SlotGranted => {
            return Decision::Nothing { why: Nothing::Stopping, effects: unused_slot(task) };
        }
        Event::RunEnded { run, facts } if is_current_run(task, run) => change.account(facts),
        Event::LandingEnded { end: LandingEnd::Landed { landed, deploy }, .. } => {
            change.landed(landed, deploy);
            // Nobody is asked to go on with a stopped task, but what runs now is somebody's matter.
            if let DeployEnd::Failed { why } = deploy {
                change.tell_of_deploy("the deploy of a stopped task failed", why);
            }
        }
        Event::LandingEnded { end: LandingEnd::OutcomeUnknown { why, landed }, .. } => {
            change.keep_landed(landed.as_ref());
            change.entry(Entry::new("outcome-unknown", why.clone()));
            change.tell_of_deploy("nobody knows what became of a stopped task's last step", why);
        }
        Event::StopCarriedOut { finished } => {
            let by = task.stop.as_ref().map_or("", |s| s.by.as_str());
            change.effect(Effect::GiveSlotBack);
            match finished {
                Some(landed) => {
                    change.task.landed = Some(landed.clone());
                    change.close_done(now, "the STOP came too late: nothing was left to stop");
                }
                None => {
                    change.task.state = State::Cancelled { at: now };
                    let landed = task.landed.as_ref().map(|l| format!("; {} had landed", l.sha.short()));
                    let text = format!("stopped by {by}{}", landed.unwrap_or_default());
                    change.send(Outgoing::Show { state: ShownState::Cancelled });
                    change.entry(Entry::new("cancelled", text));
                    change.effect(Effect::Close);
                }
            }
        }
        _ => return nothing(Nothing::Stopping),
    }
    change.into()
}

/// What to do with a slot that came when none was asked for. A slot belongs to the task, not to the grant: while its agent
/// runs, a repeated grant is the slot that it works on.
fn unused_slot(task: &Task) -> Vec<Effect> {
    match task.state {
        State::Running { step: Step::Agent, .. } => Vec::new(),
        _ => vec![Effect::GiveSlotBack],
    }
}

fn is_current_run(task: &Task, run: &RunId) -> bool {
    matches!(&task.state, State::Running { run: current, .. } if current == run)
}

fn resumed(task: &Task, run_attached: bool, now: Timestamp) -> Decision {
    match &task.state {
        State::Waiting { on, .. } => {
            Decision::Nothing { why: Nothing::Repeated, effects: moves::effects_of_wait(on, now, MERGE_POLL) }
        }
        State::Running { .. } if run_attached => nothing(Nothing::Repeated),
        State::Running { step, .. } => {
            let mut change = Change::of(task);
            change.interrupted("the supervisor was restarted while it was under way", *step, now);
            change.into()
        }
        State::Landing { step, .. } => {
            Decision::Nothing { why: Nothing::Repeated, effects: vec![Effect::AskLane { step: *step }] }
        }
        State::Blocked { .. } => nothing(Nothing::Repeated),
        State::Done { .. } | State::Cancelled { .. } => nothing(Nothing::Closed),
    }
}

fn slot_granted(task: &Task, now: Timestamp) -> Decision {
    let State::Waiting { on: WaitFor::Slot, .. } = &task.state else {
        return Decision::Nothing { why: Nothing::Stale, effects: unused_slot(task) };
    };
    let mut change = Change::of(task);
    if let Some(why) = moves::over_budget(task) {
        change.effect(Effect::GiveSlotBack);
        change.block(Blocked::BudgetSpent { why }, now);
        return change.into();
    }
    if task.counters.runs == 0 {
        change.send(Outgoing::Show { state: ShownState::InProgress });
    }
    change.start_run(now);
    change.into()
}

fn run_ended(task: &Task, run: &RunId, facts: &RunFacts, now: Timestamp) -> Decision {
    if !matches!(&task.state, State::Running { run: current, step: Step::Agent, .. } if current == run) {
        // Its slot went back when it ceased to be the current one; another run may hold that slot by now.
        return nothing(Nothing::Stale);
    }
    let mut change = Change::of(task);
    change.account(facts);
    change.effect(Effect::GiveSlotBack);
    if change.task.stage_head.is_none() {
        change.task.stage_head.clone_from(&facts.start);
    }
    match judge_run(task, facts) {
        RunVerdict::Accepted { note } => {
            change.take_head(facts);
            change.task.findings = None;
            change.task.interrupted_note = None;
            change.task.counters.infrastructure = 0;
            change.entry(Entry::new("run-ended", note).with(moves::run_data(task, run, facts)));
            change.after_agent(now);
        }
        RunVerdict::SendBack { findings, to_developer, keep_head } => {
            if keep_head {
                change.take_own_head(facts);
            }
            change.task.interrupted_note = None;
            let text = format!("attempt ended without what it had to leave: {}", crate::task::headline(&findings));
            change.entry(Entry::new("run-ended", text).with(moves::run_data(task, run, facts)));
            change.send_back(&findings, to_developer, now);
        }
        RunVerdict::Interrupted { why } => {
            change.take_own_head(facts);
            change.entry(Entry::new("run-interrupted", why.clone()).with(moves::run_data(task, run, facts)));
            change.interrupted(&why, Step::Agent, now);
        }
        RunVerdict::Later { why } => {
            change.take_own_head(facts);
            change.entry(Entry::new("run-ended", why.clone()).with(moves::run_data(task, run, facts)));
            change.defer(&why, Step::Agent, now);
        }
        RunVerdict::CouldNotRun { why } => {
            change.entry(Entry::new("run-ended", why.clone()).with(moves::run_data(task, run, facts)));
            change.could_not_run(&why, Step::Agent, now);
        }
        RunVerdict::NeedsPerson { blocked } => {
            change.take_own_head(facts);
            change.entry(Entry::new("run-ended", blocked.text()).with(moves::run_data(task, run, facts)));
            change.block(blocked, now);
        }
    }
    change.into()
}

fn check_ended(task: &Task, run: &RunId, end: &CheckEnd, now: Timestamp) -> Decision {
    let step = match &task.state {
        State::Running { run: current, step: step @ (Step::Check | Step::Command | Step::Security), .. }
            if current == run =>
        {
            *step
        }
        _ => return nothing(Nothing::Stale),
    };
    let mut change = Change::of(task);
    change.task.counters.interrupted_checks = 0;
    match end {
        CheckEnd::Passed { note, warnings } => {
            change.task.counters.infrastructure = 0;
            let kind = if step == Step::Security { "gate-passed" } else { "check-passed" };
            change.entry(Entry::new(kind, note.clone()).with(json!({"run": run, "head": task.head})));
            change.warn_of(warnings);
            match step {
                Step::Security => change.begin(Step::Land, now),
                _ => change.advance(now),
            }
        }
        CheckEnd::Failed { findings } if step == Step::Security => {
            let text = format!("the security gate failed: {}", crate::task::headline(findings));
            change.entry(Entry::new("gate-failed", text.clone()).with(json!({"run": run, "head": task.head})));
            let title = format!("{}: the security gate failed", task.key);
            change.send(Outgoing::Notify { needs_you: false, title, body: text });
            change.send_back(findings, true, now);
        }
        CheckEnd::Failed { findings } => {
            let text = format!("{} failed: {}", task.stage, crate::task::headline(findings));
            change.entry(Entry::new("check-failed", text).with(json!({"run": run, "head": task.head})));
            change.send_back(findings, true, now);
        }
        CheckEnd::CouldNotRun { why } => change.could_not_run(why, step, now),
        CheckEnd::NotConfigured { why } => change.block(Blocked::Infrastructure { why: why.clone() }, now),
    }
    change.into()
}

fn landing_ended(task: &Task, asked: u32, end: &LandingEnd, now: Timestamp) -> Decision {
    let State::Landing { step, .. } = &task.state else {
        return landed_meanwhile(task, end, now);
    };
    if asked != task.lane_asked {
        // It answers an earlier request; while that was under way the lane took no notice of this one.
        return Decision::Nothing { why: Nothing::Stale, effects: vec![Effect::AskLane { step: *step }] };
    }
    let mut change = Change::of(task);
    match end {
        // What is on main is not developed again: whatever the lane says about it now concerns the deploy.
        LandingEnd::SentBack { findings: why, .. } if task.landed.is_some() => {
            change.block(Blocked::LandedDeployFailed { why: why.clone() }, now);
        }
        LandingEnd::AwaitingApproval { .. } | LandingEnd::AwaitingMerge { .. } if task.landed.is_some() => {
            return nothing(Nothing::Stale);
        }
        LandingEnd::Landed { landed, deploy } => change.after_landing(landed, deploy, now),
        LandingEnd::SentBack { fault, findings, head } => {
            if head.is_some() {
                change.task.head.clone_from(head);
            }
            match fault {
                WorkFault::Conflict => change.send_back_conflicted(findings, now),
                WorkFault::Tests | WorkFault::Gate => change.send_back(findings, true, now),
            }
        }
        LandingEnd::MainRed { why } | LandingEnd::MainMoved { why } | LandingEnd::Deferred { why } => {
            change.put_off(end.class().unwrap_or(FailureClass::Busy), why, *step, now);
        }
        LandingEnd::CouldNotRun { why } => change.could_not_run(why, *step, now),
        LandingEnd::NotConfigured { why } => change.block(Blocked::Infrastructure { why: why.clone() }, now),
        LandingEnd::Refused { why } => change.block(Blocked::ForgeRefuses { why: why.clone() }, now),
        LandingEnd::AwaitingApproval { head } => {
            change.task.head = Some(head.clone());
            change.calm();
            change.ask_to_land(head, now);
        }
        LandingEnd::AwaitingMerge { head } => {
            change.task.head = Some(head.clone());
            change.calm();
            change.ask_to_merge(head, now);
        }
        LandingEnd::OutcomeUnknown { why, landed } => {
            change.keep_landed(landed.as_ref());
            change.block(Blocked::OutcomeUnknown { why: why.clone() }, now);
        }
        // The lane saw a STOP that this copy of the row does not show yet: the caller reloads.
        LandingEnd::Stopped => return nothing(Nothing::StopNotRecorded),
    }
    change.into()
}

/// The lane's answer for a task that is no longer in the lane's hands: stale, except that what is on main stays true.
fn landed_meanwhile(task: &Task, end: &LandingEnd, now: Timestamp) -> Decision {
    let near = matches!(
        &task.state,
        State::Waiting { then: Step::Land | Step::Deploy, .. } | State::Blocked { then: Step::Land | Step::Deploy, .. }
    );
    match end {
        LandingEnd::Landed { landed, deploy }
            if near
                && (task.landed.is_none()
                    || matches!(
                        deploy,
                        DeployEnd::NotConfigured | DeployEnd::Deployed { .. } | DeployEnd::Held { .. }
                    )) =>
        {
            let mut change = Change::of(task);
            change.after_landing(landed, deploy, now);
            change.into()
        }
        _ => nothing(Nothing::Stale),
    }
}

fn crash_looped(task: &Task, why: &str, now: Timestamp) -> Decision {
    let mut change = Change::of(task);
    if matches!(task.state, State::Blocked { .. }) {
        // The reason why a person is needed stays: "outcome unknown" must not turn into something to retry blindly.
        change.entry(Entry::new("crash-looped", format!("its actor failed again and again: {why}")));
        change.send(Outgoing::Notify {
            needs_you: true,
            title: format!("{} is blocked, and its actor fails", task.key),
            body: why.to_owned(),
        });
    } else {
        change.block(Blocked::CrashLoop { why: why.to_owned() }, now);
    }
    change.into()
}

fn timer_fired(task: &Task, now: Timestamp) -> Decision {
    match &task.state {
        State::Waiting { on: WaitFor::Until { at, .. }, .. } if now < *at => {
            Decision::Nothing { why: Nothing::Repeated, effects: vec![Effect::SetTimer { at: *at }] }
        }
        State::Waiting { on: WaitFor::Until { .. } | WaitFor::PersonMerges { .. }, then, .. } => {
            let mut change = Change::of(task);
            change.begin(*then, now);
            change.into()
        }
        _ => nothing(Nothing::Stale),
    }
}

fn dependencies_seen(
    task: &Task,
    open: &[crate::names::TaskKey],
    cancelled: &[crate::names::TaskKey],
    now: Timestamp,
) -> Decision {
    let State::Waiting { on: WaitFor::Dependencies { open: known }, then, .. } = &task.state else {
        return nothing(Nothing::Stale);
    };
    let mut change = Change::of(task);
    if let (Some(key), OnCancelledDependency::Block) = (cancelled.first(), task.policy.on_cancelled_dependency) {
        change.block(Blocked::DependencyCancelled { key: key.clone() }, now);
        return change.into();
    }
    let news = cancelled.iter().filter(|key| change.note_cancelled(key)).count();
    if !open.is_empty() {
        if open == known && news == 0 {
            return nothing(Nothing::Repeated);
        }
        change.wait(WaitFor::Dependencies { open: open.to_vec() }, *then, now);
        return change.into();
    }
    let text =
        change.task.dependency_note.clone().unwrap_or_else(|| "all tasks that it waited for have ended".to_owned());
    change.entry(Entry::new("dependencies-ended", text));
    change.begin(*then, now);
    change.into()
}

fn retry_requested(task: &Task, by: &str, now: Timestamp) -> Decision {
    let (then, was_blocked) = match &task.state {
        State::Blocked { then, .. } => (*then, true),
        // Somebody does not want to wait for the time, or for the next look at what a person was to merge.
        State::Waiting { on: WaitFor::Until { .. } | WaitFor::PersonMerges { .. }, then, .. } => (*then, false),
        _ => return nothing(Nothing::NotApplicable),
    };
    let mut change = Change::of(task);
    let runs = task.counters.runs;
    change.task.counters = crate::task::Counters { runs, ..Default::default() };
    change.entry(Entry::new("retry-requested", format!("{by} asked to go on")));
    if was_blocked {
        change.send(Outgoing::Show { state: ShownState::InProgress });
    }
    if let State::Blocked { why: Blocked::BudgetSpent { .. }, .. } = &task.state {
        // Whoever lets it go on grants the same budget once more; what was spent stays counted and shown.
        change.task.budget_from = crate::task::Spent { usage: task.usage, wall: task.agent_wall };
    }
    if let State::Blocked { why: Blocked::DependencyCancelled { key }, .. } = &task.state {
        // The person goes on without it, and is not asked about it again.
        change.task.depends_on.retain(|other| other != key);
        change.note_cancelled(key);
    }
    change.go_on(then, now);
    change.into()
}

impl From<Change> for Decision {
    fn from(change: Change) -> Self {
        Self::Change(Box::new(change))
    }
}

impl Change {
    /// An empty forward change of `task`.
    fn of(task: &Task) -> Self {
        Self { task: task.clone(), entries: Vec::new(), outgoing: Vec::new(), effects: Vec::new(), forward: true }
    }

    /// Says loudly what was let pass unseen: in the journal, and to people.
    fn warn_of(&mut self, warnings: &[String]) {
        for warning in warnings {
            self.entry(Entry::new("warning", warning.clone()));
        }
        if let Some(first) = warnings.first() {
            let title = format!("{}: passed with a warning: {}", self.task.key, crate::task::first_line(first));
            self.send(Outgoing::Notify { needs_you: false, title, body: warnings.join("\n") });
        }
    }

    /// Remembers, for the next prompt, that a dependency was cancelled; `false` when it was known.
    fn note_cancelled(&mut self, key: &crate::names::TaskKey) -> bool {
        let line = format!("{key}, which this task builds on, was cancelled.");
        let note = self.task.dependency_note.get_or_insert_default();
        if note.lines().any(|known| known == line) {
            return false;
        }
        if !note.is_empty() {
            note.push('\n');
        }
        note.push_str(&line);
        true
    }

    /// What is known to be on main is never forgotten.
    fn keep_landed(&mut self, landed: Option<&Landed>) {
        if let Some(landed) = landed {
            self.task.landed = Some(landed.clone());
        }
    }

    /// After the landing: closed, unless the deploy is still owed.
    fn after_landing(&mut self, landed: &Landed, deploy: &DeployEnd, now: Timestamp) {
        self.landed(landed, deploy);
        match deploy {
            DeployEnd::NotConfigured => self.close_done(now, "landed; no deploy command is configured"),
            DeployEnd::Deployed { .. } => self.close_done(now, "landed and deployed"),
            DeployEnd::Held { .. } => self.close_done(now, &format!("landed; {}", moves::deploy_text(deploy))),
            DeployEnd::Failed { why } => self.block(Blocked::LandedDeployFailed { why: why.clone() }, now),
            DeployEnd::AwaitingApproval => self.ask_to_deploy(&landed.sha, now),
            DeployEnd::CouldNotRun { why } => self.could_not_run(why, Step::Deploy, now),
        }
    }

    fn landed(&mut self, landed: &Landed, deploy: &DeployEnd) {
        self.task.landed = Some(landed.clone());
        self.entry(Entry::new("deploy-ended", moves::deploy_text(deploy)).with(json!({"deploy": deploy})));
    }
}
