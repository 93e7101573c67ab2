//! The handle's part about waits: who holds what a task waits for, and whether it stands in a queue at all.
//!
//! Owns the look at slots, turns, leases and the gate pool. Refuses to guess: what cannot be seen is not known.

use orch_domain::task::{State, Status, Step, Task, WaitFor};

use super::Handle;

impl Handle {
    /// Who has the agent slots, in words.
    pub(super) fn slot_holders<'t>(&self, running: impl Iterator<Item = &'t Task>) -> String {
        let slots = self.snapshots.agent_slots();
        let agents = running.filter(|t| matches!(&t.state, State::Running { step: Step::Agent, .. }));
        let keys: Vec<&str> = agents.map(|t| t.key.as_str()).collect();
        format!("{} of {} slots: {}", slots.used, slots.total, keys.join(", "))
    }

    /// Who holds what the task waits for; and whether it stands in a queue, where it may stand in one or not.
    pub(super) async fn holder_of(&self, task: &Task) -> (Option<String>, Option<bool>) {
        match &task.state {
            State::Running { step, .. } if *step != Step::Agent => self.gate_place(task),
            State::Landing { .. } => match (self.lane_holder(task).await, self.gate_place(task)) {
                // What is before it, else what its own gate waits for.
                ((Some(holder), queued), _) => (Some(holder), queued),
                ((None, queued), (held_by, _)) => (held_by, queued),
            },
            _ => (self.holder_of_wait(task).await, None),
        }
    }

    async fn holder_of_wait(&self, task: &Task) -> Option<String> {
        match &task.state {
            State::Waiting { on: WaitFor::Slot, .. } => {
                let running =
                    orch_store::TaskFilter { status: Some(Status::Running), live_only: true, ..Default::default() };
                let running = self.ctx.store.find_tasks(running).await.ok()?;
                Some(self.slot_holders(running.iter().map(|s| &s.task)))
            }
            State::Waiting { on: WaitFor::Turn, .. } => {
                let holders = self.ctx.store.turn_holders().await.ok()?;
                let (_, holder) = holders.into_iter().find(|(repo, _)| *repo == task.repo)?;
                Some(self.ctx.store.look_at_task(&holder).await.ok()??.task.key.to_string())
            }
            _ => None,
        }
    }

    /// Who is in the lane, if not this task; and whether it is another.
    async fn lane_holder(&self, task: &Task) -> (Option<String>, Option<bool>) {
        let Ok(Some(lease)) = self.ctx.store.lease(&task.repo).await else { return (None, None) };
        let Some(holder) = lease.holder.task else { return (None, None) };
        if holder == task.id {
            return (None, Some(false));
        }
        let key = match self.ctx.store.look_at_task(&holder).await {
            Ok(Some(stored)) => stored.task.key.to_string(),
            _ => holder.to_string(),
        };
        (Some(format!("{key}, since {}", lease.since)), Some(true))
    }

    /// Who has the gate slots, if a gate run of this task waits for one; and whether it does.
    pub(super) fn gate_place(&self, task: &Task) -> (Option<String>, Option<bool>) {
        let Some(pool) = self.directory.gates().map(|gates| gates.snapshot()) else { return (None, None) };
        if pool.waiting.iter().any(|waiting| waiting.order.task == task.id) {
            let labels: Vec<&str> = pool.held.iter().map(|held| held.order.label.as_str()).collect();
            let held = format!("{} of {} slots: {}", pool.slots.used, pool.slots.total, labels.join(", "));
            return (Some(held), Some(true));
        }
        let runs = pool.held.iter().any(|held| held.order.task == task.id);
        (None, runs.then_some(false))
    }
}
