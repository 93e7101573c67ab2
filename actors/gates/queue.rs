//! Who waits for a gate slot, and who is next.
//!
//! Owns the order (a lease holder first, then priority, then arrival) and the reserve: with two or more slots one of them
//! is only ever taken by a lease holder, so that a landing never waits behind stage checks; with a single slot both sorts
//! share it and a lease holder goes first. Pure: no actor, no clock. Refuses to look into the work.

use futures::future::BoxFuture;
use orch_domain::ids::TaskId;
use orch_domain::time::Timestamp;
use tokio::sync::oneshot;

use super::answer::GateAnswer;
use crate::api::Slots;

/// What is asked of the pool, besides the work itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateOrder {
    /// For which task.
    pub task: TaskId,
    /// One line for people: `test of ORC-1`.
    pub label: String,
    /// Higher goes first.
    pub priority: i32,
    /// Whether the asker holds a repository's lease: everybody in that lane waits for it.
    pub lease_holder: bool,
    /// What only one at a time may do: `staging of <repository>`. Who waits for that takes no slot.
    pub alone: Option<String>,
}

/// The work of one gate run. Not polled before it has its slot.
pub type Work = BoxFuture<'static, GateAnswer>;

/// Where the answer goes; exactly one is given, whatever becomes of the work.
pub(super) struct Reply(Option<oneshot::Sender<GateAnswer>>);

impl Reply {
    pub(super) const fn new(to: oneshot::Sender<GateAnswer>) -> Self {
        Self(Some(to))
    }

    pub(super) fn answer(mut self, answer: GateAnswer) {
        if let Some(to) = self.0.take()
            && to.send(answer).is_err()
        {
            tracing::debug!("the asker of a gate run was gone before its answer");
        }
    }

    /// It was ended, or never begun, by us.
    pub(super) fn cancelled(self, why: impl Into<String>) {
        self.answer(GateAnswer::cancelled(why));
    }

    /// Waits until nobody is there to take the answer.
    pub(super) async fn abandoned(&mut self) {
        match &mut self.0 {
            Some(to) => to.closed().await,
            None => std::future::pending().await,
        }
    }

    fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(to) = self.0.take() {
            // The gate was killed, or its pool was: the asker must hear something.
            let why = "the gate run was cut off before it could answer; it will be asked again";
            let _ = to.send(GateAnswer::cancelled(why));
        }
    }
}

/// A gate run that waits.
pub(super) struct Waiting {
    pub(super) order: GateOrder,
    pub(super) work: Work,
    pub(super) reply: Reply,
    pub(super) since: Timestamp,
}

/// A taken slot, as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSlot {
    /// Who has it and for what.
    pub order: GateOrder,
    /// Since when.
    pub since: Timestamp,
    /// Why it is being ended, if it is.
    pub ending: Option<String>,
}

/// A place in the queue, as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingGate {
    /// Who waits and for what.
    pub order: GateOrder,
    /// Since when.
    pub since: Timestamp,
}

/// The pool as it last told about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// In use, in all, waiting.
    pub slots: Slots,
    /// Taken slots, oldest first.
    pub held: Vec<HeldSlot>,
    /// Waiting, in the order in which they would be served.
    pub waiting: Vec<WaitingGate>,
    /// When it said so; its age tells whether the pool is stuck.
    pub at: Timestamp,
}

/// The queue in its order of arrival.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Vec<Waiting>,
}

impl Queue {
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes out everything that waits for a task.
    pub(super) fn take_of(&mut self, task: &TaskId) -> Vec<Waiting> {
        self.waiting.extract_if(.., |waiting| waiting.order.task == *task).collect()
    }

    /// Takes out everything.
    pub(super) fn take_all(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.waiting)
    }

    /// The next to be served, given the slots in all and what they were taken for; `None` when nobody may go now.
    pub(super) fn next(&mut self, total: usize, taken: &[&GateOrder]) -> Option<Waiting> {
        // Whoever went away needs no slot.
        self.waiting.retain(|waiting| !waiting.reply.is_abandoned());
        if taken.len() >= total {
            return None;
        }
        let others_may = taken.iter().filter(|order| !order.lease_holder).count() < open_to_all(total);
        let may = |order: &GateOrder| {
            let free = order.alone.is_none() || taken.iter().all(|other| other.alone != order.alone);
            free && (others_may || order.lease_holder)
        };
        let at = self.order().into_iter().find(|at| may(&self.waiting[*at].order))?;
        Some(self.waiting.remove(at))
    }

    /// Positions in the order of service.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.waiting.len()).collect();
        // Stable, so that arrival decides between equals.
        order.sort_by_key(|at| {
            let order = &self.waiting[*at].order;
            (std::cmp::Reverse(order.lease_holder), std::cmp::Reverse(order.priority))
        });
        order
    }

    /// For people, in the order of service.
    pub(super) fn shown(&self) -> Vec<WaitingGate> {
        let shown = |at: usize| {
            let waiting = &self.waiting[at];
            WaitingGate { order: waiting.order.clone(), since: waiting.since }
        };
        self.order().into_iter().map(shown).collect()
    }
}

/// How many slots are open to those without a lease.
const fn open_to_all(total: usize) -> usize {
    if total > 1 { total - 1 } else { total }
}
