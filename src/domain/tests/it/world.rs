//! A model world for random histories: a store that fences, a router that counts slots, and answers to effects, plausible
//! and adversarial. Every step checks the invariants of DESIGN 1, 4 and 5; the first one broken ends the history with its
//! name.

use std::collections::BTreeSet;

use orch_domain::agent::{AgentClaim, Usage};
use orch_domain::decide::{Change, Decision};
use orch_domain::effect::Effect;
use orch_domain::event::{ArtefactFact, CheckEnd, DeployEnd, Event, LandingEnd, RunFacts};
use orch_domain::ids::RunId;
use orch_domain::job::JobEnd;
use orch_domain::landing::WorkFault;
use orch_domain::policy::{DeployMode, OnCancelledDependency};
use orch_domain::samples::{self, NOW, good_facts};
use orch_domain::table::effect_name;
use orch_domain::task::{ApprovalOf, Blocked, Given, Landed, State, Step, StopMark, Task, WaitFor};
use orch_domain::time::{Millis, Timestamp};

/// The function under test, or one with a bug put in on purpose.
pub(crate) type Decide = fn(&Task, &Event, Timestamp) -> Decision;

/// One thing that happens in the world.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// The world answers the `which`-th outstanding effect, well or badly by `seed`.
    Answer { which: usize, seed: u64 },
    /// Any event at all, whether it makes sense or not.
    Stray { which: usize },
    /// An earlier event is delivered again.
    Again { which: usize },
    /// The supervisor dies: memory is gone; a run under way may be attached to.
    Crash { attached: bool },
    /// STOP is recorded, and told.
    Stop,
    /// STOP is recorded between the next decision and its commit.
    StopDuringCommit,
    /// The next commit meets a newer version.
    Conflict,
    /// A person acts: retry, approval of what is asked, of another commit.
    Person { seed: u64 },
    /// The wall clock jumps.
    Clock { by: i64 },
}

/// The name of a broken invariant, with what was seen.
pub(crate) type Broken = String;

pub(crate) struct World {
    decide: Decide,
    /// The committed row, as text: whatever is not in it is gone after a crash.
    row: String,
    given: Given,
    stop: Option<StopMark>,
    pub(crate) now: Timestamp,
    outstanding: Vec<Effect>,
    told: Vec<Event>,
    /// Whether the router counts a slot for the task.
    holds_slot: bool,
    started: BTreeSet<RunId>,
    dependencies_ended: bool,
    sent_back: u32,
    conflicted: u32,
    interrupted: u32,
    /// Checks begun anew since anything was concluded.
    interrupted_checks: u32,
    stop_race: bool,
    conflict: bool,
}

impl World {
    pub(crate) fn new(decide: Decide, task: &Task) -> Result<Self, Broken> {
        let mut world = Self {
            decide,
            row: text_of(task),
            given: task.given(),
            stop: None,
            now: NOW,
            outstanding: Vec::new(),
            told: Vec::new(),
            holds_slot: false,
            started: BTreeSet::new(),
            dependencies_ended: task.depends_on.is_empty(),
            sent_back: 0,
            conflicted: 0,
            interrupted: 0,
            interrupted_checks: 0,
            stop_race: false,
            conflict: false,
        };
        world.deliver(Event::Resumed { run_attached: false })?;
        Ok(world)
    }

    /// The row as a restarted supervisor would load it.
    pub(crate) fn load(&self) -> Task {
        let task: Task = serde_json::from_str(&self.row).expect("a stored row can be read");
        Task { stop: self.stop.clone(), ..task.filled(self.given.clone()) }
    }

    pub(crate) fn outstanding(&self) -> &[Effect] {
        &self.outstanding
    }

    /// Takes an effect off the list without an answer of this world.
    pub(crate) fn settle(&mut self, effect: &Effect) {
        self.outstanding.retain(|e| e != effect);
    }

    pub(crate) fn happen(&mut self, op: &Op) -> Result<(), Broken> {
        match op {
            Op::Answer { which, seed } => {
                let Some(effect) = pick(&self.outstanding, *which).cloned() else { return Ok(()) };
                self.answer(&effect, *seed)?;
            }
            Op::Stray { which } => {
                let task = self.load();
                let mut events = samples::events(&task);
                let (_, event) = events.swap_remove(which % events.len());
                self.deliver(event)?;
            }
            Op::Again { which } => {
                let Some(event) = pick(&self.told, *which).cloned() else { return Ok(()) };
                self.deliver(event)?;
            }
            Op::Crash { attached } => self.crash(*attached)?,
            Op::Stop => {
                self.record_stop();
                self.deliver(Event::StopRequested { by: "ann".to_owned() })?;
            }
            Op::StopDuringCommit => self.stop_race = true,
            Op::Conflict => self.conflict = true,
            Op::Person { seed } => {
                let event = self.person(*seed);
                self.deliver(event)?;
            }
            Op::Clock { by } => self.now = Timestamp(self.now.0.saturating_add(*by)),
        }
        self.check_slot()
    }

    fn record_stop(&mut self) {
        if self.stop.is_none() && !self.load().is_terminal() {
            self.stop = Some(StopMark { at: self.now, by: "ann".to_owned(), source: "http".to_owned() });
        }
    }

    fn crash(&mut self, attached: bool) -> Result<(), Broken> {
        let task = self.load();
        // All that was in memory is gone, but the end of a run that is attached to will still be told.
        let run_attached = attached && run_of(&task.state).is_some();
        self.outstanding.retain(|e| run_attached && starts(e) == run_of(&task.state));
        self.holds_slot = run_attached && agent_runs(&task);
        self.deliver(Event::Resumed { run_attached })
    }

    fn person(&self, seed: u64) -> Event {
        let by = || "bob".to_owned();
        match (&self.load().state, seed % 4) {
            (State::Waiting { on: WaitFor::Approval { what, sha }, .. }, 0 | 1) => {
                Event::Approved { what: *what, sha: sha.clone(), by: by() }
            }
            (State::Waiting { on: WaitFor::Approval { what, .. }, .. }, 2) => {
                Event::Approved { what: *what, sha: sha_of(seed), by: by() }
            }
            _ => Event::RetryRequested { by: by() },
        }
    }

    /// Turns an outstanding effect into what the world says about it.
    pub(crate) fn answer(&mut self, effect: &Effect, seed: u64) -> Result<(), Broken> {
        self.settle(effect);
        let task = self.load();
        let event = match effect {
            Effect::AskSlot => Event::SlotGranted,
            Effect::StartRun { run, .. } => Event::RunEnded { run: run.clone(), facts: Box::new(facts(&task, seed)) },
            Effect::StartCheck { run, .. } => Event::CheckEnded { run: run.clone(), end: check_end(seed) },
            Effect::AskLane { step } => {
                let end = landing_end(*step, &task, seed, self.now);
                Event::LandingEnded { asked: task.lane_asked, end }
            }
            Effect::SetTimer { at } => {
                self.now = self.now.max(*at);
                Event::TimerFired
            }
            Effect::WatchDependencies { keys } => {
                let open = if seed.is_multiple_of(3) { keys[1..].to_vec() } else { Vec::new() };
                let ended = keys.iter().filter(|k| !open.contains(k));
                let cancelled =
                    if (seed / 3).is_multiple_of(3) { ended.take(1).cloned().collect() } else { Vec::new() };
                Event::DependenciesSeen { open, cancelled }
            }
            Effect::AskTurn => Event::TurnCame,
            Effect::CarryOutStop => {
                let finished = task.landed.filter(|_| seed.is_multiple_of(2));
                Event::StopCarriedOut { finished }
            }
            Effect::GiveSlotBack | Effect::Close => return Ok(()),
        };
        self.deliver(event)
    }

    /// Decide, commit under the fences of the store, perform. What is not committed is not performed.
    pub(crate) fn deliver(&mut self, event: Event) -> Result<(), Broken> {
        if self.told.len() < 200 {
            self.told.push(event.clone());
        }
        if event == Event::SlotGranted {
            self.holds_slot = true;
        }
        // A refused commit is decided anew; neither fence can refuse more than once.
        for _ in 0..3 {
            let task = self.load();
            let decision = (self.decide)(&task, &event, self.now);
            self.check(&task, &event, &decision).map_err(|broken| {
                format!(
                    "{broken}\n  event {event:?}\n  in {:?}, stage {}, stop {:?}",
                    task.state, task.stage, task.stop
                )
            })?;
            let change = match decision {
                Decision::Nothing { effects, .. } => return self.perform(&effects),
                Decision::Change(change) => *change,
            };
            if std::mem::take(&mut self.stop_race) {
                self.record_stop();
            }
            let conflict = std::mem::take(&mut self.conflict);
            if conflict || (change.forward && self.stop.is_some()) {
                continue;
            }
            return self.commit(&task, &event, change);
        }
        Err("a decision that is always refused".to_owned())
    }

    fn commit(&mut self, before: &Task, event: &Event, change: Change) -> Result<(), Broken> {
        self.row = text_of(&change.task);
        if (self.load(), &self.stop) != (Task { stop: self.stop.clone(), ..change.task.clone() }, &self.stop) {
            return Err("the row does not hold the whole task".to_owned());
        }
        let by_agent = matches!(before.state, State::Running { step: Step::Agent, .. });
        if matches!(event, Event::CheckEnded { .. } | Event::RunEnded { .. } | Event::LandingEnded { .. }) {
            self.interrupted_checks = 0;
        }
        for entry in &change.entries {
            match entry.kind.as_str() {
                "retry-requested" => {
                    (self.sent_back, self.conflicted, self.interrupted, self.interrupted_checks) = (0, 0, 0, 0);
                }
                "stage-entered" => (self.interrupted, self.interrupted_checks) = (0, 0),
                "sent-back" if change.task.counters.conflicts > before.counters.conflicts => self.conflicted += 1,
                "sent-back" => self.sent_back += 1,
                "interrupted" if by_agent => self.interrupted += 1,
                "interrupted" => self.interrupted_checks += 1,
                _ => {}
            }
        }
        let policy = &before.policy;
        if self.sent_back > policy.max_developer_retries || self.interrupted > policy.max_interrupted {
            return Err(format!("over a ceiling: sent back {}, interrupted {}", self.sent_back, self.interrupted));
        }
        if self.interrupted_checks > policy.max_interrupted_checks() {
            return Err(format!("over a ceiling: {} checks interrupted", self.interrupted_checks));
        }
        if self.conflicted > policy.max_conflicts {
            return Err(format!("over a ceiling: conflicted {}", self.conflicted));
        }
        if let (Event::DependenciesSeen { open, cancelled }, State::Waiting { on: WaitFor::Dependencies { .. }, .. }) =
            (event, &before.state)
        {
            let held = !cancelled.is_empty() && policy.on_cancelled_dependency == OnCancelledDependency::Block;
            self.dependencies_ended |= open.is_empty() && !held;
        }
        self.perform(&change.effects)
    }

    fn perform(&mut self, effects: &[Effect]) -> Result<(), Broken> {
        for effect in effects {
            if let Some(run) = starts(effect)
                && !self.started.insert(run.clone())
            {
                return Err(format!("a run id is started twice: {run}"));
            }
            match effect {
                Effect::GiveSlotBack => {
                    self.holds_slot = false;
                    self.outstanding.retain(|e| *e != Effect::AskSlot);
                }
                Effect::Close => {
                    self.holds_slot = false;
                    self.outstanding.clear();
                }
                other if self.outstanding.contains(other) => {}
                other => self.outstanding.push(other.clone()),
            }
        }
        Ok(())
    }

    fn check_slot(&self) -> Result<(), Broken> {
        let task = self.load();
        match (self.holds_slot, agent_runs(&task)) {
            (true, false) => Err(format!("a slot is leaked: {:?}", task.state)),
            (false, true) if task.stop.is_none() => Err(format!("an agent runs without a slot: {:?}", task.state)),
            _ => Ok(()),
        }
    }

    fn check(&self, task: &Task, event: &Event, decision: &Decision) -> Result<(), Broken> {
        let (after, effects) = match decision {
            Decision::Nothing { effects, .. } => (task, effects),
            Decision::Change(change) => (&change.task, &change.effects),
        };
        let changed = matches!(decision, Decision::Change(_));
        if task.is_terminal() && (changed || effects.iter().any(|e| !matches!(e, Effect::Close | Effect::GiveSlotBack)))
        {
            return Err("a closed task is opened".to_owned());
        }
        if let Decision::Change(change) = decision {
            check_stop(task, change)?;
        } else if task.stop.is_some() && effects.iter().any(goes_forward) {
            return Err("STOP lets an effect forward".to_owned());
        }
        check_ceilings(after)?;
        check_landed(task, after, effects)?;
        self.check_permits(task, after, effects)?;
        if changed && after.state != task.state && after.stop.is_none() {
            check_wait(after, effects).map_err(|b| format!("after the change: {b}"))?;
        }
        if *event != (Event::Resumed { run_attached: false }) {
            return self.check_crash(after);
        }
        Ok(())
    }

    /// A supervisor that starts right now, with nothing but the row, goes on.
    fn check_crash(&self, after: &Task) -> Result<(), Broken> {
        let reloaded = Task { stop: self.stop.clone().or_else(|| after.stop.clone()), ..reread(after) };
        let resumed = Event::Resumed { run_attached: false };
        let (next, effects) = match (self.decide)(&reloaded, &resumed, self.now) {
            Decision::Nothing { effects, .. } => (reloaded, effects),
            Decision::Change(change) => (change.task, change.effects),
        };
        check_wait(&next, &effects).map_err(|broken| format!("after a crash: {broken}"))
    }

    /// What must be true before something is started.
    fn check_permits(&self, before: &Task, after: &Task, effects: &[Effect]) -> Result<(), Broken> {
        let spent = matches!(before.state, State::Blocked { why: Blocked::BudgetSpent { .. }, .. });
        if before.budget_from != after.budget_from && !spent {
            return Err("a fresh budget that nobody has granted".to_owned());
        }
        for effect in effects {
            if goes_forward(effect)
                && after.past_first_stage()
                && after.policy.serial
                && !after.has_turn
                && !matches!(effect, Effect::AskTurn | Effect::SetTimer { .. })
            {
                return Err(format!("{} without its turn", effect_name(effect)));
            }
            match effect {
                Effect::StartRun { .. } if !(self.dependencies_ended || after.depends_on.is_empty()) => {
                    return Err("a run before the dependencies have ended".to_owned());
                }
                Effect::StartRun { .. } if budget_spent(before) => return Err("a run over budget".to_owned()),
                Effect::AskLane { step: Step::Land } if after.head.is_none() => {
                    return Err("a landing without a commit".to_owned());
                }
                Effect::AskLane { step: Step::Deploy } if after.policy.deploy == DeployMode::Approval => {
                    let landed = after.landed.as_ref().ok_or("a deploy of nothing")?;
                    if !after.is_approved(ApprovalOf::Deploy, &landed.sha) {
                        return Err("a deploy without approval of its commit".to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn check_stop(task: &Task, change: &Change) -> Result<(), Broken> {
    if change.forward == task.stop.is_some() {
        return Err(format!("a change with forward: {} while STOP is {:?}", change.forward, task.stop));
    }
    if task.stop.is_none() {
        return Ok(());
    }
    let after = &change.task;
    let moved = after.stage != task.stage || after.counters != task.counters || after.head != task.head;
    if moved || (after.state != task.state && !after.is_terminal()) || change.effects.iter().any(goes_forward) {
        return Err("STOP lets a change forward".to_owned());
    }
    Ok(())
}

fn check_ceilings(task: &Task) -> Result<(), Broken> {
    let (c, p) = (task.counters, &task.policy);
    let within = c.developer_retries <= p.max_developer_retries
        && c.interrupted <= p.max_interrupted
        && c.interrupted_checks <= p.max_interrupted_checks()
        && c.infrastructure <= p.infrastructure.tries
        && c.deferrals <= p.deferral.tries.max(p.lane.tries)
        && c.main_moved <= p.lane.tries
        && c.main_red <= p.lane.tries
        && c.conflicts <= p.max_conflicts;
    if within { Ok(()) } else { Err(format!("over a ceiling: {c:?}")) }
}

fn check_landed(before: &Task, after: &Task, effects: &[Effect]) -> Result<(), Broken> {
    if before.landed.is_some() && after.landed.is_none() {
        return Err("what has landed is forgotten".to_owned());
    }
    if after.landed.is_none() {
        return Ok(());
    }
    let develops = effects
        .iter()
        .any(|e| goes_forward(e) && !matches!(e, Effect::AskLane { step: Step::Deploy } | Effect::SetTimer { .. }));
    if develops || (before.landed.is_some() && after.stage != before.stage) {
        return Err("a landed task goes back to development".to_owned());
    }
    Ok(())
}

/// Promise P7: every wait has something that ends it.
fn check_wait(task: &Task, effects: &[Effect]) -> Result<(), Broken> {
    let has = |wanted: &dyn Fn(&Effect) -> bool| effects.iter().any(wanted);
    let ends = match &task.state {
        State::Done { .. } | State::Cancelled { .. } => has(&|e| matches!(e, Effect::Close)),
        _ if task.stop.is_some() => {
            let carried_out = has(&|e| matches!(e, Effect::CarryOutStop));
            return if carried_out { Ok(()) } else { Err(format!("nothing carries the STOP out: {effects:?}")) };
        }
        State::Blocked { .. } => true,
        State::Running { run, .. } => has(&|e| starts(e) == Some(run)),
        State::Landing { step, .. } => has(&|e| *e == Effect::AskLane { step: *step }),
        State::Waiting { on, .. } => match on {
            WaitFor::Slot => has(&|e| *e == Effect::AskSlot),
            WaitFor::Until { at, .. } => has(&|e| *e == Effect::SetTimer { at: *at }),
            WaitFor::Dependencies { open } => has(&|e| matches!(e, Effect::WatchDependencies { keys } if keys == open)),
            WaitFor::Turn => has(&|e| *e == Effect::AskTurn),
            WaitFor::PersonMerges { .. } => has(&|e| matches!(e, Effect::SetTimer { .. })),
            WaitFor::Approval { .. } => true,
        },
    };
    if ends { Ok(()) } else { Err(format!("nothing ends the wait of {:?}: {effects:?}", task.state)) }
}

/// Effects that a recorded STOP must hold back.
fn goes_forward(effect: &Effect) -> bool {
    !matches!(effect, Effect::GiveSlotBack | Effect::CarryOutStop | Effect::Close)
}

fn starts(effect: &Effect) -> Option<&RunId> {
    match effect {
        Effect::StartRun { run, .. } | Effect::StartCheck { run, .. } => Some(run),
        _ => None,
    }
}

fn run_of(state: &State) -> Option<&RunId> {
    if let State::Running { run, .. } = state { Some(run) } else { None }
}

fn agent_runs(task: &Task) -> bool {
    matches!(task.state, State::Running { step: Step::Agent, .. })
}

fn budget_spent(task: &Task) -> bool {
    let sum = |usage: &Usage| usage.input_tokens.unwrap_or(0) + usage.output_tokens.unwrap_or(0);
    let spent = sum(&task.usage) - sum(&task.budget_from.usage);
    task.policy.budget.tokens.is_some_and(|most| spent >= most)
}

fn pick<T>(from: &[T], which: usize) -> Option<&T> {
    from.get(which % from.len().max(1))
}

fn text_of(task: &Task) -> String {
    serde_json::to_string(task).expect("a task can be stored")
}

fn reread(task: &Task) -> Task {
    let read: Task = serde_json::from_str(&text_of(task)).expect("a stored row can be read");
    read.filled(task.given())
}

fn sha_of(seed: u64) -> orch_domain::ids::CommitSha {
    samples::sha(char::from_digit(u32::try_from(seed % 16).expect("below 16"), 16).expect("a hex digit"))
}

/// Facts about a run: every second one is good, the others are wrong in any combination.
fn facts(task: &Task, seed: u64) -> RunFacts {
    let mut facts = good_facts(task);
    facts.head = facts.head.map(|_| sha_of(seed >> 2));
    if seed.is_multiple_of(2) {
        return facts;
    }
    let part = |shift: u32, of: u64| (seed >> shift) % of;
    facts.end = match part(8, 12) {
        0 => None,
        1 => Some(JobEnd::TimedOut),
        2 => Some(JobEnd::Lost),
        3 => Some(JobEnd::CouldNotStart { why: "no such file".to_owned() }),
        4 => Some(JobEnd::Exited { code: 1 }),
        _ => facts.end,
    };
    facts.report.claim = match part(16, 6) {
        0 => None,
        1 => Some(AgentClaim::Error { text: "no".to_owned() }),
        2 => Some(AgentClaim::RateLimited { text: "later".to_owned() }),
        _ => facts.report.claim,
    };
    match part(24, 8) {
        0 => facts.head = None,
        1 => facts.head.clone_from(&facts.start),
        2 => facts.trouble = Some("disk".to_owned()),
        3 => facts.foreign_paths = vec!["src/lib.rs".to_owned()],
        4 => facts.start = None,
        5 => facts.left.operation = Some("rebase".to_owned()),
        6 => (facts.head, facts.unusable) = (None, Some("its repository is gone".to_owned())),
        _ => {}
    }
    facts.artefact = match part(32, 6) {
        0 => ArtefactFact::Missing { path: "x.md".to_owned() },
        1 => ArtefactFact::Broken { why: "line 1".to_owned() },
        2 => ArtefactFact::Written {
            status: "changes_requested".to_owned(),
            reviewed_head: facts.start.clone(),
            text: "mend".to_owned(),
        },
        _ => facts.artefact,
    };
    facts
}

fn check_end(seed: u64) -> CheckEnd {
    let why = || "no tool".to_owned();
    match seed % 8 {
        0 => CheckEnd::Failed { findings: "red".to_owned() },
        1 => CheckEnd::CouldNotRun { why: why() },
        2 if seed.is_multiple_of(5) => CheckEnd::NotConfigured { why: why() },
        _ => CheckEnd::passed("green"),
    }
}

fn landing_end(step: Step, task: &Task, seed: u64, now: Timestamp) -> LandingEnd {
    let why = || "so".to_owned();
    let head = || sha_of(seed >> 5);
    let known = task.landed.clone();
    let landed = known.clone().unwrap_or_else(|| Landed { sha: head(), tree: sha_of(seed >> 9), at: now });
    let fault = match (seed >> 13) % 3 {
        0 => WorkFault::Tests,
        1 => WorkFault::Conflict,
        _ => WorkFault::Gate,
    };
    match seed % 17 {
        0 => LandingEnd::SentBack { fault, findings: "not so".to_owned(), head: seed.is_multiple_of(3).then(head) },
        14 => LandingEnd::MainRed { why: why() },
        15 => LandingEnd::MainMoved { why: why() },
        1 | 2 => LandingEnd::Deferred { why: why() },
        3 => LandingEnd::CouldNotRun { why: why() },
        4 => LandingEnd::NotConfigured { why: why() },
        5 => LandingEnd::Refused { why: why() },
        6 => LandingEnd::AwaitingApproval { head: head() },
        7 => LandingEnd::AwaitingMerge { head: head() },
        8 => LandingEnd::OutcomeUnknown { why: why(), landed: known.filter(|_| seed.is_multiple_of(3)) },
        9 => LandingEnd::Stopped,
        10 => LandingEnd::Landed { landed, deploy: DeployEnd::Failed { why: why() } },
        11 => LandingEnd::Landed { landed, deploy: DeployEnd::AwaitingApproval },
        16 if step == Step::Deploy => LandingEnd::Landed { landed, deploy: DeployEnd::CouldNotRun { why: why() } },
        12 if step == Step::Deploy => LandingEnd::Landed { landed, deploy: DeployEnd::Deployed { at: now } },
        _ => LandingEnd::Landed { landed, deploy: DeployEnd::NotConfigured },
    }
}

/// Whether only a person can end what the task is in.
pub(crate) fn needs_person(task: &Task) -> bool {
    matches!(task.state, State::Blocked { .. } | State::Waiting { on: WaitFor::Approval { .. }, .. })
}

/// Whether the block is one that no answer of a benign world leads to.
pub(crate) fn blocked_by_failure(task: &Task) -> bool {
    matches!(&task.state, State::Blocked { why, .. } if !matches!(why, Blocked::DependencyCancelled { .. }))
}

/// A short delay, for policies whose waits are skipped anyway.
pub(crate) const SHORT: Millis = Millis(10);
