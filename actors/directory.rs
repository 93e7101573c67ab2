//! The directory: where to reach the actors that others talk to, across their restarts.
//!
//! Owns the current addresses of router, lanes and gate pool; the root supervisor writes them, everybody else reads.
//! An address is no lock and no promise: a message may be lost when its receiver dies, so whatever matters is asked
//! again from stored state when either side resumes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use orch_domain::event::Event;
use orch_domain::ids::{Epoch, TaskId};
use orch_domain::names::RepoName;
use ractor::ActorRef;
use tokio::sync::{oneshot, watch};

use crate::gates::GatePoolHandle;
use crate::landing::Halted;
use crate::lane::LaneMsg;
use crate::outbox::OutboxMsg;
use crate::reconciler::ReconcilerMsg;
use crate::router::RouterMsg;
use crate::task::Answer;

/// Longest wait for an answer to a person's command.
const ANSWER: Duration = Duration::from_secs(10);

/// Addresses; cheap to clone.
#[derive(Clone, Default)]
pub struct Directory {
    inner: Arc<RwLock<Addresses>>,
}

#[derive(Default)]
struct Addresses {
    router: Option<ActorRef<RouterMsg>>,
    lanes: BTreeMap<RepoName, ActorRef<LaneMsg>>,
    gates: Option<GatePoolHandle>,
    outbox: Option<ActorRef<OutboxMsg>>,
    reconciler: Option<ActorRef<ReconcilerMsg>>,
    /// Leases held by a landing of this process: one that is not here has no living holder.
    leases: BTreeSet<(RepoName, Epoch)>,
    /// The last landing of each repository: it outlives its lane's actor.
    landings: BTreeMap<RepoName, UnderWay>,
}

/// A landing under way: it listens to `halt` as long as it lives.
#[derive(Clone)]
pub struct UnderWay {
    /// Of which task.
    pub task: TaskId,
    /// Told when it should end at its next border; closed once it has ended.
    pub halt: watch::Sender<Option<Halted>>,
}

impl Directory {
    fn read<T>(&self, get: impl FnOnce(&Addresses) -> T) -> T {
        get(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, set: impl FnOnce(&mut Addresses)) {
        set(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Publishes the router.
    pub fn set_router(&self, router: ActorRef<RouterMsg>) {
        self.write(|a| a.router = Some(router));
    }

    /// Publishes a lane.
    pub fn set_lane(&self, repo: RepoName, lane: ActorRef<LaneMsg>) {
        self.write(|a| {
            a.lanes.insert(repo, lane);
        });
    }

    /// Publishes the gate pool.
    pub fn set_gates(&self, gates: GatePoolHandle) {
        self.write(|a| a.gates = Some(gates));
    }

    /// Publishes the outbox.
    pub fn set_outbox(&self, outbox: ActorRef<OutboxMsg>) {
        self.write(|a| a.outbox = Some(outbox));
    }

    /// Publishes the reconciler.
    pub fn set_reconciler(&self, reconciler: ActorRef<ReconcilerMsg>) {
        self.write(|a| a.reconciler = Some(reconciler));
    }

    /// The gate pool, once started.
    #[must_use]
    pub fn gates(&self) -> Option<GatePoolHandle> {
        self.read(|a| a.gates.clone())
    }

    /// A repository's lane.
    #[must_use]
    pub fn lane(&self, repo: &RepoName) -> Option<ActorRef<LaneMsg>> {
        self.read(|a| a.lanes.get(repo).cloned())
    }

    /// All lanes.
    #[must_use]
    pub fn lanes(&self) -> Vec<ActorRef<LaneMsg>> {
        self.read(|a| a.lanes.values().cloned().collect())
    }

    /// The router, once started.
    #[must_use]
    pub fn router(&self) -> Option<ActorRef<RouterMsg>> {
        self.read(|a| a.router.clone())
    }

    /// Takes note of a landing that begins.
    pub fn note_landing(&self, repo: &RepoName, landing: UnderWay) {
        self.write(|a| {
            a.landings.insert(repo.clone(), landing);
        });
    }

    /// A repository's landing under way in this process, whichever life of its lane began it.
    #[must_use]
    pub fn landing(&self, repo: &RepoName) -> Option<UnderWay> {
        self.read(|a| a.landings.get(repo).filter(|l| !l.halt.is_closed()).cloned())
    }

    /// All landings under way in this process.
    #[must_use]
    pub fn landings(&self) -> Vec<UnderWay> {
        self.read(|a| a.landings.values().filter(|l| !l.halt.is_closed()).cloned().collect())
    }

    /// Takes note that a landing of this process holds a lease.
    pub fn note_lease(&self, repo: &RepoName, epoch: Epoch) {
        self.write(|a| {
            a.leases.insert((repo.clone(), epoch));
        });
    }

    /// Takes note that it does not any more.
    pub fn forget_lease(&self, repo: &RepoName, epoch: Epoch) {
        self.write(|a| {
            a.leases.remove(&(repo.clone(), epoch));
        });
    }

    /// Whether a landing of this process holds that lease.
    #[must_use]
    pub fn lease_is_held(&self, repo: &RepoName, epoch: Epoch) -> bool {
        self.read(|a| a.leases.contains(&(repo.clone(), epoch)))
    }

    /// Sends to the router; `false` when it is not there to hear it.
    pub fn tell_router(&self, message: RouterMsg) -> bool {
        self.router().is_some_and(|r| r.cast(message).is_ok())
    }

    /// Brings an event to a task's actor, by way of the router.
    pub fn deliver(&self, task: &TaskId, event: Event) -> bool {
        self.tell_router(RouterMsg::Deliver { task: task.clone(), event: Box::new(event), reply: None })
    }

    /// The same, and waits for the answer, which is durable when it comes. `None`: nobody could answer.
    pub async fn ask(&self, task: &TaskId, event: Event) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        let message = RouterMsg::Deliver { task: task.clone(), event: Box::new(event), reply: Some(reply) };
        if !self.tell_router(message) {
            return None;
        }
        tokio::time::timeout(ANSWER, answer).await.ok()?.ok()
    }

    /// Leases that landings of this process hold.
    #[must_use]
    pub fn held_leases(&self) -> BTreeSet<(RepoName, Epoch)> {
        self.read(|a| a.leases.clone())
    }

    /// Sends to a lane; `false` when it is not there to hear it.
    pub fn tell_lane(&self, repo: &RepoName, message: LaneMsg) -> bool {
        self.lane(repo).is_some_and(|l| l.cast(message).is_ok())
    }

    /// Wakes the outbox: something was committed for it.
    pub fn wake_outbox(&self) {
        if let Some(outbox) = self.read(|a| a.outbox.clone())
            && outbox.cast(OutboxMsg::Wake).is_err()
        {
            tracing::debug!("the outbox is being restarted; it looks by itself when it is back");
        }
    }

    /// Sends to the reconciler; `false` when it is not there to hear it.
    pub fn tell_reconciler(&self, message: ReconcilerMsg) -> bool {
        self.read(|a| a.reconciler.clone()).is_some_and(|r| r.cast(message).is_ok())
    }

    /// Wakes the reconciler.
    pub fn wake_reconciler(&self) {
        if let Some(reconciler) = self.read(|a| a.reconciler.clone())
            && reconciler.cast(ReconcilerMsg::Look).is_err()
        {
            tracing::debug!("the reconciler is being restarted; it looks by itself when it is back");
        }
    }
}
