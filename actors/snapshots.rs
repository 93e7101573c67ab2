//! Snapshots: what each actor last told about itself, readable without asking it.
//!
//! Owns one `watch` channel per actor and the latest activity line per task. A stuck actor still shows its last state and
//! its age. Refuses to be a source of truth: nothing decides by what stands here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orch_domain::ids::TaskId;
use orch_domain::time::Timestamp;
use tokio::sync::watch;

use crate::api::{ActorView, Slots};

/// The registry of snapshots; cheap to clone.
#[derive(Clone, Default)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    actors: Mutex<BTreeMap<String, watch::Receiver<ActorView>>>,
    activity: Mutex<BTreeMap<TaskId, String>>,
    agents: Mutex<Slots>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An actor's own end: says what it does; when dropped, the actor is listed no more.
pub struct Teller {
    name: String,
    send: watch::Sender<ActorView>,
    registry: Snapshots,
}

impl Snapshots {
    /// Registers an actor. A second registration under the same name replaces the first.
    #[must_use]
    pub fn register(&self, name: &str, state: &str, now: Timestamp, restarts: u32) -> Teller {
        let view = ActorView { name: name.to_owned(), state: state.to_owned(), at: now, restarts };
        let (send, receive) = watch::channel(view);
        held(&self.inner.actors).insert(name.to_owned(), receive);
        Teller { name: name.to_owned(), send, registry: self.clone() }
    }

    /// All registered actors by name.
    #[must_use]
    pub fn actors(&self) -> Vec<ActorView> {
        held(&self.inner.actors).values().map(|r| r.borrow().clone()).collect()
    }

    /// What a task's run or landing is doing right now.
    #[must_use]
    pub fn activity(&self, task: &TaskId) -> Option<String> {
        held(&self.inner.activity).get(task).cloned()
    }

    /// Says what a task's run or landing is doing.
    pub fn set_activity(&self, task: &TaskId, text: impl Into<String>) {
        held(&self.inner.activity).insert(task.clone(), text.into());
    }

    /// Forgets the activity of a task: its step is over.
    pub fn clear_activity(&self, task: &TaskId) {
        held(&self.inner.activity).remove(task);
    }

    /// The agent slots, as the router last said.
    #[must_use]
    pub fn agent_slots(&self) -> Slots {
        *held(&self.inner.agents)
    }

    /// Publishes the agent slots.
    pub fn set_agent_slots(&self, slots: Slots) {
        *held(&self.inner.agents) = slots;
    }
}

impl Teller {
    /// Says what the actor does now.
    pub fn say(&self, state: impl Into<String>, now: Timestamp) {
        let state = state.into();
        self.send.send_modify(|view| {
            view.state = state;
            view.at = now;
        });
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let mut actors = held(&self.registry.inner.actors);
        // Only its own entry: a successor of the same name may have registered already.
        let own = actors.get(&self.name).is_some_and(|r| r.same_channel(&self.send.subscribe()));
        if own {
            actors.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_of_the_same_name_is_not_unlisted_by_its_predecessor() {
        let all = Snapshots::default();
        let first = all.register("task ORC-1/1", "starting", Timestamp(1), 0);
        let second = all.register("task ORC-1/1", "starting again", Timestamp(2), 1);
        drop(first);
        assert_eq!(all.actors().len(), 1);
        second.say("running", Timestamp(3));
        assert_eq!(all.actors()[0].state, "running");
        drop(second);
        assert!(all.actors().is_empty());
    }
}
