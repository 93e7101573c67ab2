//! A simulated lane: several tasks, one `main`, and everything that may happen to them, driven by the real rules.
//!
//! `decide`, `plan`, seniority, blame, permission and the forge's answers are the ones that the actors use; only git, the
//! forge and the store are pretended. The supervisor forgets everything but its store in a crash, at any step. Every step
//! checks the invariants I1 to I10 of a merge queue against what is true in the pretended repository; the first one
//! broken ends the history with its name.

mod repo;
mod saga;

use std::collections::{BTreeMap, BTreeSet};

use orch_domain::decide::Decision;
use orch_domain::effect::Effect;
use orch_domain::event::{CheckEnd, Event, LandingEnd};
use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::landing::{Blame, Candidate, OnMain, Permit, Proven, Said, Then, WorkFault};
use orch_domain::lane::{Lane, LaneMode, Plan, Ready, overtake};
use orch_domain::policy::{Backoff, GatePlan, LandMode, Policy};
use orch_domain::samples::{good_facts, new_task};
use orch_domain::task::{ApprovalOf, Counters, State, Step, Task, WaitFor};
use orch_domain::testnames::Failure;
use orch_domain::time::{Millis, Timestamp};
use orch_domain::turns::{Turn, TurnEnd, proven, seniority};

pub(crate) use repo::Mishap;
use repo::Repo;
use saga::Saga;

/// The name of a broken invariant, with what was seen.
pub(crate) type Broken = String;

/// How often one may be overtaken.
const MOST_OVERTAKEN: u32 = 2;
/// How often a landing catches up with a main that moves under it.
pub(crate) const CATCH_UPS: u32 = 3;

/// The rules under test; a seeded bug replaces one of them.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) decide: fn(&Task, &Event, Timestamp) -> Decision,
    pub(crate) plan: fn(&Lane<'_>) -> Plan,
    pub(crate) may_land: fn(&Candidate, GatePlan, &[Proven]) -> Result<(), String>,
    pub(crate) permit: fn(&Task, &CommitSha, &CommitSha) -> Permit,
    pub(crate) after: fn(Said, bool) -> Then,
    pub(crate) blame: fn(&Failure, &OnMain) -> Blame,
    pub(crate) habits: Habits,
}

/// What the saga does in a fixed order; each is a promise that a bug may break.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// The intent is stored before it is sent.
    pub(crate) intent_first: bool,
    /// A task branch is replaced only from where we know it to be.
    pub(crate) leased_push: bool,
    /// `main` moves only from where it was judged on.
    pub(crate) compares: bool,
    /// What is written under an old epoch is refused.
    pub(crate) fenced: bool,
    /// A report has a place of its own.
    pub(crate) own_place: bool,
    /// What is caught up is tested anew.
    pub(crate) tests_again: bool,
    /// What could not run is told from what failed.
    pub(crate) tells_trouble: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            decide: orch_domain::decide::decide,
            plan: orch_domain::lane::plan,
            may_land: orch_domain::landing::may_land,
            permit: orch_domain::landing::permit,
            after: orch_domain::landing::after_advance,
            blame: |head, alone| orch_domain::landing::blame(head, &"main".parse().expect("a branch"), alone),
            habits: Habits {
                intent_first: true,
                leased_push: true,
                compares: true,
                fenced: true,
                own_place: true,
                tests_again: true,
                tells_trouble: true,
            },
        }
    }
}

/// One task of a history.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) priority: i32,
    pub(crate) approval: bool,
    /// Whether it changes the file that others change too.
    pub(crate) conflicting: bool,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// The `n`-th of what can go on does.
    Go(usize),
    /// Somebody pushes to main: something else, something red, its repair, or a task's own change.
    Push(usize),
    /// Somebody puts a commit of their own on a task's branch.
    TakeBranch(usize),
    /// The supervisor dies.
    Crash,
    /// What happens to the next request to the forge.
    Forge(Mishap),
    /// The next gate cannot run.
    Trouble,
    /// A person acts on a task: approves what it waits for, or lets it go on.
    Person(usize),
    /// The lane is paused or runs again.
    Mode(bool),
    /// Somebody else takes the lease.
    LoseLease,
    /// Time goes by.
    Clock,
}

/// A report on disk: by its place, what it says.
pub(super) type Reports = BTreeMap<String, Proven>;

/// Somebody's wait for the lane: who, and since when.
pub(super) type Wait = (TaskId, Timestamp);

/// A window as stored.
#[derive(Clone, Debug)]
pub(super) struct Window {
    task: usize,
    sha: CommitSha,
    expected: CommitSha,
    open: bool,
    places: Vec<(String, Proven)>,
}

/// What is known to have landed.
#[derive(Clone, Debug)]
pub(super) struct Landing {
    task: usize,
    sha: CommitSha,
    places: Vec<(String, Proven)>,
}

pub(crate) struct World {
    pub(super) rules: Rules,
    members: Vec<Member>,
    pub(super) repo: Repo,
    pub(super) now: Timestamp,
    // The store: what outlives a crash.
    pub(super) tasks: Vec<Task>,
    pub(super) windows: Vec<Window>,
    pub(super) landings: Vec<Landing>,
    pub(super) reports: Reports,
    turns: Vec<Turn>,
    pub(super) epoch: u64,
    pub(super) held: bool,
    mode: LaneMode,
    // The memory of the supervisor.
    outstanding: Vec<(usize, Effect)>,
    told: Vec<(usize, Event)>,
    queue: Vec<Ready>,
    pub(super) saga: Option<Saga>,
    /// Landings that have lost their lease, and go on as if they had not.
    zombies: Vec<Saga>,
    // The world outside.
    pub(super) mishap: Mishap,
    pub(super) trouble: bool,
    /// Heads that people have put on task branches.
    pub(super) foreign: BTreeSet<CommitSha>,
    /// Who began before whom, though it was ready later, while the other stood in the queue; by its turn.
    overtakings: BTreeMap<Wait, BTreeSet<usize>>,
    pub(super) seen_stale: u32,
}

impl World {
    pub(crate) fn new(rules: Rules, members: &[Member], pairs: BTreeSet<(usize, usize)>) -> Result<Self, Broken> {
        let short = Backoff { first: Millis(20), most: Millis(40), tries: 4 };
        let tasks = members.iter().enumerate().map(|(n, member)| {
            let land = if member.approval { LandMode::Approval } else { LandMode::Auto };
            let policy = Policy {
                lane: short,
                infrastructure: short,
                land,
                gates: GatePlan::everything().without(orch_domain::gate::GateName::Coverage),
                ..Policy::default()
            };
            let mut task = new_task("lite", policy, Vec::new());
            task.id = format!("task{n:04}").parse().expect("an id");
            task.key = format!("ORC-{n}").parse().expect("a key");
            task.priority = member.priority;
            task
        });
        let mut world = Self {
            rules,
            members: members.to_vec(),
            repo: Repo::new(pairs),
            now: Timestamp(1_000),
            tasks: tasks.collect(),
            windows: Vec::new(),
            landings: Vec::new(),
            reports: BTreeMap::new(),
            turns: Vec::new(),
            epoch: 0,
            held: false,
            mode: LaneMode::Running,
            outstanding: Vec::new(),
            told: Vec::new(),
            queue: Vec::new(),
            saga: None,
            zombies: Vec::new(),
            mishap: Mishap::None,
            trouble: false,
            foreign: BTreeSet::new(),
            overtakings: BTreeMap::new(),
            seen_stale: 0,
        };
        world.boot()?;
        Ok(world)
    }

    /// Everything in memory is gone; each task asks again for what its row says.
    fn boot(&mut self) -> Result<(), Broken> {
        self.outstanding.clear();
        self.told.clear();
        self.queue.clear();
        self.saga = None;
        self.zombies.clear();
        for n in 0..self.tasks.len() {
            self.hear(n, &Event::Resumed { run_attached: false })?;
        }
        Ok(())
    }

    pub(crate) fn happen(&mut self, op: &Op) -> Result<(), Broken> {
        self.now = self.now.after(Millis(1));
        match op {
            Op::Go(n) => {
                let can = self.can();
                if !can.is_empty() {
                    self.go(can[n % can.len()])?;
                }
            }
            Op::Push(kind) => self.push(*kind),
            Op::TakeBranch(n) => self.take_branch(n % self.tasks.len()),
            Op::Crash => self.boot()?,
            Op::Forge(mishap) => self.mishap = *mishap,
            Op::Trouble => self.trouble = true,
            Op::Person(n) => self.person(n % self.tasks.len())?,
            Op::Mode(runs) => self.mode = if *runs { LaneMode::Running } else { LaneMode::Paused },
            Op::LoseLease if self.held => {
                // Freed with a raised epoch: whoever held it is stale now.
                self.epoch += 1;
                self.held = false;
                // Whatever it still does, it is in nobody's way any more.
                if let Some(mut saga) = self.saga.take() {
                    saga.passed.clear();
                    self.zombies.push(saga);
                }
            }
            Op::LoseLease => {}
            Op::Clock => self.now = self.now.after(Millis(15)),
        }
        self.check()
    }

    // --------------------------------------------------------------------------------------------- what can go on

    fn can(&self) -> Vec<Act> {
        let ripe = |effect: &Effect| !matches!(effect, Effect::SetTimer { at } if *at > self.now);
        let effects = (0..self.outstanding.len()).filter(|at| ripe(&self.outstanding[*at].1)).map(Act::Effect);
        let mut can: Vec<Act> = effects.collect();
        can.extend((!self.told.is_empty()).then_some(Act::Hear));
        match &self.saga {
            Some(_) => can.push(Act::Saga),
            None if !self.plan().begin.is_empty() => can.push(Act::Begin),
            None => {}
        }
        can.extend((!self.repo.under_way.is_empty()).then_some(Act::Arrive));
        can.extend((!self.zombies.is_empty()).then_some(Act::Zombie));
        let missed = |n: &usize| matches!(self.tasks[*n].state, State::Landing { .. }) && !self.is_known(*n);
        can.extend((0..self.tasks.len()).find(missed).map(|_| Act::Look));
        can
    }

    fn go(&mut self, act: Act) -> Result<(), Broken> {
        match act {
            Act::Effect(at) => {
                let (task, effect) = self.outstanding.remove(at);
                self.carry_out(task, effect)
            }
            Act::Hear => {
                let (task, event) = self.told.remove(0);
                self.hear(task, &event)
            }
            Act::Begin => self.begin(),
            Act::Saga => {
                let saga = self.saga.take().expect("looked at before");
                self.saga = self.step(saga)?;
                Ok(())
            }
            Act::Zombie => {
                let zombie = self.zombies.remove(0);
                let goes_on = self.step(zombie)?;
                self.zombies.extend(goes_on);
                Ok(())
            }
            Act::Look => {
                (0..self.tasks.len()).for_each(|n| self.enqueue(n));
                Ok(())
            }
            Act::Arrive => {
                let (expected, sha) = self.repo.under_way.remove(0);
                if self.repo.main == expected { self.moved(&sha) } else { Ok(()) }
            }
        }
    }

    /// One step of a landing; `None`: it has ended.
    fn step(&mut self, saga: Saga) -> Result<Option<Saga>, Broken> {
        let halted = self.mode == LaneMode::Paused;
        match saga.step(self, halted)? {
            saga::Next::Goes(saga) => Ok(Some(saga)),
            saga::Next::Ended { saga, end } => {
                self.ended(saga, end);
                Ok(None)
            }
        }
    }

    /// Whether the lane knows a task that it should land.
    fn is_known(&self, n: usize) -> bool {
        self.queue.iter().any(|ready| ready.task == self.tasks[n].id)
            || self.saga.as_ref().is_some_and(|saga| saga.task == n)
    }

    fn carry_out(&mut self, n: usize, effect: Effect) -> Result<(), Broken> {
        let task = self.tasks[n].clone();
        match effect {
            Effect::AskSlot => self.hear(n, &Event::SlotGranted),
            Effect::StartRun { run, .. } => {
                // After it was sent back it is written in another way.
                let version = task.counters.developer_retries + task.counters.conflicts;
                let head = self.repo.work(n, version, self.members[n].conflicting);
                let mut facts = good_facts(&task);
                let main = Some(self.repo.main.clone());
                (facts.base, facts.start, facts.head) = (main.clone(), task.head.or(main), Some(head));
                self.hear(n, &Event::RunEnded { run, facts: Box::new(facts) })
            }
            Effect::StartCheck { run, head, .. } => {
                let failed = self.repo.failed(&head);
                let end = match failed.is_empty() || failed.contains("main::is_well") {
                    true => CheckEnd::passed("green"),
                    false => CheckEnd::Failed { findings: format!("{failed:?}") },
                };
                self.hear(n, &Event::CheckEnded { run, end })
            }
            Effect::AskLane { .. } => {
                self.enqueue(n);
                Ok(())
            }
            Effect::SetTimer { .. } => self.hear(n, &Event::TimerFired),
            Effect::GiveSlotBack
            | Effect::WatchDependencies { .. }
            | Effect::AskTurn
            | Effect::CarryOutStop
            | Effect::Close => Ok(()),
        }
    }

    fn enqueue(&mut self, n: usize) {
        let task = &self.tasks[n];
        if self.is_known(n) || !matches!(task.state, State::Landing { .. }) {
            return;
        }
        let under_way = self.saga.as_ref().map(|saga| saga.begun(&self.tasks[saga.task].id));
        let (since, overtaken) = seniority(&self.turns, under_way, &task.id, task.state.since());
        let (id, priority, head) = (task.id.clone(), task.priority, task.head.clone());
        self.queue.push(Ready { task: id, priority, since, overtaken, head, finish: false });
    }

    fn plan(&self) -> Plan {
        let known = proven(&self.turns);
        (self.rules.plan)(&Lane {
            queue: &self.queue,
            proven: &known,
            main: Some(&self.repo.main),
            slots: usize::from(self.saga.is_none()),
            mode: self.mode,
            most_overtaken: MOST_OVERTAKEN,
        })
    }

    fn begin(&mut self) -> Result<(), Broken> {
        let first = self.plan().begin.first().cloned().ok_or("nobody to begin with")?;
        let at = self.queue.iter().position(|ready| ready.task == first).ok_or("somebody begins who does not wait")?;
        let begun = self.queue.remove(at);
        overtake(&mut self.queue, &begun);
        let n = self.tasks.iter().position(|task| task.id == begun.task).ok_or("nobody's turn")?;
        let passed = self.queue.iter().filter(|other| (other.since, &other.task) < (begun.since, &begun.task));
        let passed = passed.map(|other| (other.task.clone(), other.since)).collect();
        self.saga = Some(Saga::new((n, self.tasks[n].lane_asked), begun.since, self.now, passed));
        Ok(())
    }

    fn ended(&mut self, saga: Saga, end: Option<LandingEnd>) {
        let Saga { task: n, asked, facts, ready, began, passed, .. } = saga;
        let task = &self.tasks[n];
        let came_to = TurnEnd::of(end.as_ref());
        // Who stood there before it when it began has been overtaken by it.
        for wait in passed {
            self.overtakings.entry(wait).or_default().insert(self.turns.len());
        }
        self.turns.push(Turn {
            task: task.id.clone(),
            key: task.key.clone(),
            ready,
            queued: ready,
            began,
            ended: self.now,
            end: came_to,
            facts,
        });
        match end {
            Some(end) => self.told.push((n, Event::LandingEnded { asked, end })),
            None => self.enqueue(n),
        }
    }

    /// A task hears something: the real rules decide, the row is committed, the effects are outstanding.
    fn hear(&mut self, n: usize, event: &Event) -> Result<(), Broken> {
        let before = self.tasks[n].clone();
        if let Event::LandingEnded { end: LandingEnd::SentBack { fault: WorkFault::Tests, findings, .. }, .. } = event {
            self.judge_rejection(n, findings)?;
        }
        let effects = match (self.rules.decide)(&before, event, self.now) {
            Decision::Change(change) => {
                blames(&before.counters, &change.task.counters, event)?;
                self.tasks[n] = change.task;
                // What was waited for before is over.
                self.outstanding.retain(|(other, _)| *other != n);
                change.effects
            }
            Decision::Nothing { effects, .. } => effects,
        };
        for effect in effects {
            if !self.outstanding.contains(&(n, effect.clone())) {
                self.outstanding.push((n, effect));
            }
        }
        Ok(())
    }

    // --------------------------------------------------------------------------------------------- people

    fn push(&mut self, kind: usize) {
        let n = kind / 4 % self.tasks.len();
        match kind % 4 {
            0 => self.repo.person(&format!("p{}", self.now.0), ""),
            1 => self.repo.person("red", ""),
            2 => self.repo.person("mended", "red"),
            _ => {
                // The task's own change, picked by hand.
                let Some(head) = self.tasks[n].head.clone().filter(|head| self.repo.commits.contains_key(head)) else {
                    return;
                };
                for file in self.repo.commits[&head].adds.clone() {
                    if !file.starts_with("shared=") {
                        self.repo.person(&file, "");
                    }
                }
            }
        }
    }

    fn take_branch(&mut self, n: usize) {
        let theirs = self.repo.work(100 + n, 0, false);
        self.foreign.insert(theirs.clone());
        self.repo.branches.insert(n, theirs);
    }

    fn person(&mut self, n: usize) -> Result<(), Broken> {
        let by = || "ann".to_owned();
        let event = match &self.tasks[n].state {
            State::Waiting { on: WaitFor::Approval { what: what @ ApprovalOf::Land, sha }, .. } => {
                Event::Approved { what: *what, sha: sha.clone(), by: by() }
            }
            State::Blocked { .. } => {
                // Whoever lets it go on has looked at the branch, and gives it back.
                if self.repo.branches.get(&n).is_some_and(|at| self.foreign.contains(at)) {
                    self.repo.branches.remove(&n);
                }
                Event::RetryRequested { by: by() }
            }
            _ => return Ok(()),
        };
        self.hear(n, &event)
    }

    // --------------------------------------------------------------------------------------------- invariants

    /// The lane moves `main`: the one place.
    pub(super) fn moved(&mut self, sha: &CommitSha) -> Result<(), Broken> {
        let before = self.repo.main.clone();
        if !self.repo.contains(&before, sha) {
            return Err(format!("I1: main moved to {} which does not come after it", sha.short()));
        }
        let window = self.windows.iter().find(|w| w.sha == *sha);
        let Some(window) = window else { return Err(format!("I7: {} was sent without an intent", sha.short())) };
        let failed = self.repo.failed(sha);
        if !failed.is_empty() {
            return Err(format!("I1: main is red: {failed:?}"));
        }
        let tree = self.repo.tree(sha);
        let judged = |(_, found): &(String, Proven)| {
            found.tree == tree && found.head == *sha && found.base.as_ref() == Some(&before)
        };
        if !window.places.iter().any(judged) || window.expected != before {
            return Err(format!("I1: {} landed on a main that it was not judged on", sha.short()));
        }
        let mut composed = self.repo.files(&before).clone();
        let adds = &self.repo.commits[sha].adds;
        if adds.iter().any(|file| file.starts_with("shared=")) {
            composed.retain(|file| !file.starts_with("shared="));
        }
        composed.extend(adds.iter().cloned());
        if composed != *self.repo.files(sha) {
            return Err("I1: what landed is not what its member changed".to_owned());
        }
        let task = &self.tasks[window.task];
        if task.policy.land == LandMode::Approval && !task.is_approved(ApprovalOf::Land, sha) {
            return Err(format!("I4: {} landed, and nobody approved it", sha.short()));
        }
        self.repo.main = sha.clone();
        Ok(())
    }

    /// A branch moves at the forge by our hand.
    pub(super) fn branch_moved(&mut self, n: usize, to: &CommitSha) -> Result<(), Broken> {
        if self.repo.branches.get(&n).is_some_and(|at| self.foreign.contains(at)) {
            return Err(format!("I8: a person's commit on the branch of task {n} was pushed over"));
        }
        if self.repo.contains(to, &self.repo.main) {
            return Err(format!("I8: the branch of task {n} was put at a commit that main holds"));
        }
        self.repo.branches.insert(n, to.clone());
        Ok(())
    }

    /// Sent back for its tests: they fail, and what main fails by itself is not enough.
    fn judge_rejection(&self, n: usize, findings: &str) -> Result<(), Broken> {
        let told: BTreeSet<&str> = findings.lines().filter_map(|line| line.strip_prefix("- ")).collect();
        let own = told.iter().any(|name| name.contains(&format!("{n}_and")) || name.contains(&format!("_and_{n}")));
        match own {
            true => Ok(()),
            false => Err(format!("I2: task {n} was sent back for what is not its own: {findings}")),
        }
    }

    fn check(&self) -> Result<(), Broken> {
        for (n, _) in self.tasks.iter().enumerate() {
            let times = self.landings.iter().filter(|landing| landing.task == n).count();
            if times > 1 {
                return Err(format!("I7: task {n} landed {times} times"));
            }
            let open = self.windows.iter().filter(|w| w.task == n && w.open).count();
            if open > 1 {
                return Err(format!("I7: task {n} has {open} open windows"));
            }
        }
        for landing in &self.landings {
            if !self.repo.contains(&landing.sha, &self.repo.main) {
                return Err(format!("I7: {} is recorded as landed, and main does not hold it", landing.sha.short()));
            }
            for (place, said) in &landing.places {
                if self.reports.get(place) != Some(said) {
                    return Err(format!("I5: the report at {place} does not say any more what was landed on"));
                }
            }
        }
        for ((task, _), by) in &self.overtakings {
            if by.len() > MOST_OVERTAKEN as usize {
                return Err(format!("I10: {task} was overtaken {} times", by.len()));
            }
        }
        for (n, task) in self.tasks.iter().enumerate() {
            // A person ends an approval and a block; what should land is found by the lane's own look.
            let waits = match &task.state {
                State::Waiting { on: WaitFor::Approval { .. }, .. } | State::Blocked { .. } => false,
                State::Landing { .. } => false,
                state => !state.is_terminal(),
            };
            let owned =
                self.outstanding.iter().any(|(other, _)| *other == n) || self.told.iter().any(|(other, _)| *other == n);
            if waits && !owned {
                return Err(format!("I9: task {n} is {:?}, and nothing will ever end that", task.state));
            }
        }
        Ok(())
    }

    /// From here on everything goes well: every task ends, in a bounded number of steps.
    pub(crate) fn goes_on_to_the_end(&mut self) -> Result<(), Broken> {
        (self.mishap, self.trouble, self.mode) = (Mishap::None, false, LaneMode::Running);
        self.repo.mend();
        for _ in 0..3_000 {
            if self.tasks.iter().all(Task::is_terminal) {
                return Ok(());
            }
            for n in 0..self.tasks.len() {
                self.happen(&Op::Person(n))?;
            }
            match self.can().is_empty() {
                true => self.happen(&Op::Clock)?,
                false => self.happen(&Op::Go(0))?,
            }
        }
        let states: Vec<String> = self.tasks.iter().map(|task| format!("{:?}", task.state)).collect();
        Err(format!("I9: it never ends: {states:#?}"))
    }

    /// Landings, landings that were put off for a main that moved, and stale writes that were refused.
    pub(crate) fn tally(&self) -> [usize; 3] {
        let moved = self.turns.iter().filter(|turn| !turn.facts.resets.is_empty()).count();
        [self.landings.len(), moved, self.seen_stale as usize]
    }
}

/// What can go on.
#[derive(Clone, Copy, Debug)]
enum Act {
    Effect(usize),
    Hear,
    Begin,
    Saga,
    Zombie,
    Arrive,
    Look,
}

/// Only what the work did wrong counts against it.
fn blames(before: &Counters, after: &Counters, event: &Event) -> Result<(), Broken> {
    let work = matches!(
        event,
        Event::LandingEnded { end: LandingEnd::SentBack { .. }, .. }
            | Event::CheckEnded { end: CheckEnd::Failed { .. }, .. }
            | Event::RunEnded { .. }
    );
    let counted = after.developer_retries > before.developer_retries || after.conflicts > before.conflicts;
    match counted && !work {
        true => Err(format!("I9: {} was counted against the work", event.name())),
        false => Ok(()),
    }
}

/// Whether a task is in the lane's hands to land.
pub(super) fn lands(task: &Task) -> bool {
    matches!(task.state, State::Landing { step: Step::Land, .. })
}
