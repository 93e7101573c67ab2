//! No order in which slots, lease and gate slots are given and taken leaves anybody waiting for ever.
//!
//! A small model, gone through exhaustively: every task takes what it takes on its way (an agent slot for the agent, a gate
//! slot for its tests, in the lane the lease and then a gate slot), in the order and with the effects that the real rules give,
//! and every order of events is tried. The gate slots follow the pool's rule: one is kept for whoever holds a lease, and a
//! holder goes first. Somebody outside may take the lease at any time, twice.

use std::collections::{BTreeSet, VecDeque};

use orch_domain::decide::{Decision, decide};
use orch_domain::effect::Effect;
use orch_domain::event::{CheckEnd, DeployEnd, Event, LandingEnd};
use orch_domain::policy::{Backoff, Policy};
use orch_domain::samples::{NOW, good_facts, new_task, sha};
use orch_domain::task::{Landed, State, Task, WaitFor};
use orch_domain::time::{Millis, Timestamp};

/// Later than every timer of the model.
const LATER: Timestamp = Timestamp(NOW.0 + 1_000_000_000);

/// What is there to be taken.
#[derive(Clone, Copy, Debug)]
struct Size {
    tasks: usize,
    agent_slots: usize,
    gate_slots: usize,
    /// How often somebody outside may take the lease.
    outsiders: u8,
}

#[derive(Clone)]
struct World {
    size: Size,
    tasks: Vec<Task>,
    /// Effects that were asked for and not served.
    asked: Vec<BTreeSet<Ask>>,
    /// Who has an agent slot.
    slots: BTreeSet<usize>,
    /// Who has a gate slot, and whether as a holder of the lease.
    gates: BTreeSet<(usize, bool)>,
    /// Who has the lease; `None` in it: somebody outside.
    lease: Option<Option<usize>>,
    outsiders: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Slot,
    Run,
    Check,
    Lane,
    /// Under the lease, for the test of the combined tree.
    LaneGate,
    Timer,
}

/// One thing that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    GrantSlot(usize),
    EndRun(usize),
    StartCheck(usize),
    EndCheck(usize),
    TakeLease(usize),
    FindLeaseBusy(usize),
    StartLaneGate(usize),
    EndLaneGate(usize),
    FireTimer(usize),
    OutsiderTakes,
    OutsiderReleases,
}

impl World {
    fn new(size: Size) -> Self {
        let tasks = (0..size.tasks).map(|n| {
            let lane = Backoff { first: Millis(1), most: Millis(1), tries: 50 };
            let mut task = new_task("lite", Policy { lane, ..Policy::default() }, Vec::new());
            task.id = format!("task{n:04}").parse().expect("an id");
            task
        });
        let (tasks, asked) = (tasks.collect(), vec![BTreeSet::new(); size.tasks]);
        let empty = (BTreeSet::new(), BTreeSet::new());
        let mut world =
            Self { size, tasks, asked, slots: empty.0, gates: empty.1, lease: None, outsiders: size.outsiders };
        for n in 0..size.tasks {
            world.hear(n, &Event::Resumed { run_attached: false });
        }
        world
    }

    fn hear(&mut self, n: usize, event: &Event) {
        let effects = match decide(&self.tasks[n], event, LATER) {
            Decision::Change(change) => {
                self.tasks[n] = change.task;
                change.effects
            }
            Decision::Nothing { effects, .. } => effects,
        };
        for effect in effects {
            let ask = match effect {
                Effect::AskSlot => Ask::Slot,
                Effect::StartRun { .. } => Ask::Run,
                Effect::StartCheck { .. } => Ask::Check,
                Effect::AskLane { .. } => Ask::Lane,
                Effect::SetTimer { .. } => Ask::Timer,
                Effect::GiveSlotBack => {
                    self.slots.remove(&n);
                    continue;
                }
                Effect::WatchDependencies { .. } | Effect::AskTurn | Effect::CarryOutStop | Effect::Close => continue,
            };
            self.asked[n].insert(ask);
        }
    }

    /// Whether a gate slot may be given now: the rule of the pool.
    fn gate_is_free(&self, holder: bool) -> bool {
        let total = self.size.gate_slots;
        let open_to_all = if total > 1 { total - 1 } else { total };
        let others = self.gates.iter().filter(|(_, holder)| !holder).count();
        let holder_waits = self.asked.iter().any(|asked| asked.contains(&Ask::LaneGate));
        self.gates.len() < total && (holder || (others < open_to_all && !holder_waits))
    }

    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (n, asked) in self.asked.iter().enumerate() {
            for ask in asked {
                moves.extend(match ask {
                    Ask::Slot => (self.slots.len() < self.size.agent_slots).then_some(Move::GrantSlot(n)),
                    Ask::Run => Some(Move::EndRun(n)),
                    Ask::Check if self.gates.contains(&(n, false)) => Some(Move::EndCheck(n)),
                    Ask::Check => self.gate_is_free(false).then_some(Move::StartCheck(n)),
                    Ask::Lane => Some(match self.lease {
                        None => Move::TakeLease(n),
                        // The lane begins one at a time: only somebody outside is met.
                        Some(None) => Move::FindLeaseBusy(n),
                        Some(Some(_)) => continue,
                    }),
                    Ask::LaneGate if self.gates.contains(&(n, true)) => Some(Move::EndLaneGate(n)),
                    Ask::LaneGate => self.gate_is_free(true).then_some(Move::StartLaneGate(n)),
                    Ask::Timer => Some(Move::FireTimer(n)),
                });
            }
        }
        match self.lease {
            None if self.outsiders > 0 => moves.push(Move::OutsiderTakes),
            Some(None) => moves.push(Move::OutsiderReleases),
            _ => {}
        }
        moves
    }

    fn make(&mut self, made: Move) {
        match made {
            Move::GrantSlot(n) => {
                self.asked[n].remove(&Ask::Slot);
                self.slots.insert(n);
                self.hear(n, &Event::SlotGranted);
            }
            Move::EndRun(n) => {
                self.asked[n].remove(&Ask::Run);
                let facts = Box::new(good_facts(&self.tasks[n]));
                let run = self.run_of(n);
                self.hear(n, &Event::RunEnded { run, facts });
            }
            Move::StartCheck(n) => {
                self.gates.insert((n, false));
            }
            Move::EndCheck(n) => {
                self.asked[n].remove(&Ask::Check);
                self.gates.remove(&(n, false));
                let run = self.run_of(n);
                self.hear(n, &Event::CheckEnded { run, end: CheckEnd::passed("green") });
            }
            Move::TakeLease(n) => {
                self.asked[n].remove(&Ask::Lane);
                self.lease = Some(Some(n));
                self.asked[n].insert(Ask::LaneGate);
            }
            Move::FindLeaseBusy(n) => {
                self.asked[n].remove(&Ask::Lane);
                let end = LandingEnd::Deferred { why: "the lease is held".to_owned() };
                let asked = self.tasks[n].lane_asked;
                self.hear(n, &Event::LandingEnded { asked, end });
            }
            Move::StartLaneGate(n) => {
                self.gates.insert((n, true));
            }
            Move::EndLaneGate(n) => {
                self.asked[n].remove(&Ask::LaneGate);
                self.gates.remove(&(n, true));
                self.lease = None;
                let landed = Landed { sha: sha('c'), tree: sha('d'), at: LATER };
                let end = LandingEnd::Landed { landed, deploy: DeployEnd::NotConfigured };
                let asked = self.tasks[n].lane_asked;
                self.hear(n, &Event::LandingEnded { asked, end });
            }
            Move::FireTimer(n) => {
                self.asked[n].remove(&Ask::Timer);
                self.hear(n, &Event::TimerFired);
            }
            Move::OutsiderTakes => {
                self.outsiders -= 1;
                self.lease = Some(None);
            }
            Move::OutsiderReleases => self.lease = None,
        }
    }

    fn run_of(&self, n: usize) -> orch_domain::ids::RunId {
        match &self.tasks[n].state {
            State::Running { run, .. } => run.clone(),
            other => panic!("task {n} has no run: {other:?}"),
        }
    }

    /// What must be true wherever it stands.
    fn check(&self) {
        for (n, task) in self.tasks.iter().enumerate() {
            let at_rest = matches!(
                &task.state,
                State::Waiting { on: WaitFor::Until { .. } | WaitFor::Approval { .. }, .. } | State::Blocked { .. }
            );
            let holds =
                (self.slots.contains(&n), self.gates.iter().any(|(who, _)| *who == n), self.lease == Some(Some(n)));
            assert!(!at_rest || holds == (false, false, false), "{:?} holds {holds:?}", task.state);
            let (slot, gate, lease) = holds;
            // The order in which things are taken: an agent slot, the lease, a gate slot.
            assert!(
                !(lease && slot) && !(self.asked[n].contains(&Ask::Slot) && (lease || gate)),
                "task {n}: {holds:?}"
            );
            assert!(
                !(self.asked[n].contains(&Ask::Lane) && gate),
                "task {n} asks for the lease with a gate slot in hand"
            );
            assert!(!matches!(task.state, State::Blocked { .. }), "task {n} is blocked: {:?}", task.state);
        }
    }

    /// What tells two worlds apart.
    fn mark(&self) -> String {
        let tasks: Vec<String> = self
            .tasks
            .iter()
            .zip(&self.asked)
            .map(|(task, asked)| format!("{}:{:?}:{:?}", task.stage, task.state, asked))
            .collect();
        format!("{tasks:?} {:?} {:?} {:?} {}", self.slots, self.gates, self.lease, self.outsiders)
    }
}

/// Every world that can be reached; in each somebody can go on, or everybody is through.
fn explore(size: Size) -> usize {
    let first = World::new(size);
    let mut seen = BTreeSet::from([first.mark()]);
    let mut open = VecDeque::from([first]);
    while let Some(world) = open.pop_front() {
        world.check();
        let moves = world.moves();
        let through = world.tasks.iter().all(Task::is_terminal);
        assert!(through || !moves.is_empty(), "stuck with {size:?}: {}", world.mark());
        assert!(!through || (world.slots.is_empty() && world.gates.is_empty()), "something is kept: {}", world.mark());
        for made in moves {
            let mut next = world.clone();
            next.make(made);
            if seen.insert(next.mark()) {
                open.push_back(next);
            }
        }
    }
    seen.len()
}

#[test]
fn no_order_of_slots_and_leases_leaves_anybody_waiting_for_ever() {
    let mut worlds = 0;
    for (tasks, agent_slots, gate_slots, outsiders) in
        [(1, 1, 1, 2), (2, 1, 1, 2), (2, 2, 1, 1), (2, 1, 2, 1), (2, 2, 2, 2), (3, 1, 1, 1), (3, 2, 2, 0), (3, 1, 2, 1)]
    {
        worlds += explore(Size { tasks, agent_slots, gate_slots, outsiders });
    }
    assert!(worlds > 5_000, "only {worlds} worlds were seen");
}
