//! A task whose stored row cannot be read: it waits for a person, and nobody else is troubled by it.
//!
//! Owns what its actor does then: says so once, begins nothing, decides nothing. Refuses to fail over it, which would only
//! start the actor again. A STOP is carried out all the same: its steps need the columns alone, and the row's body stays.

use orch_domain::event::Event;
use orch_store::StoreError;
use ractor::{ActorProcessingErr, ActorRef};

use super::{Answer, TaskMsg, TaskState};

impl TaskState {
    /// The row cannot be read: said once, and nothing is begun. A recorded STOP is carried out all the same.
    pub(super) async fn look_at_unreadable(
        &mut self,
        myself: &ActorRef<TaskMsg>,
        error: &StoreError,
    ) -> Result<(), ActorProcessingErr> {
        let Some(shown) = self.ctx.store.look_at_task(&self.id).await? else { return Ok(()) };
        if self.unreadable.is_none() {
            tracing::error!(task.id = %self.id, %error, "task {} cannot be read and waits for a person", self.id);
        }
        if self.teller.is_none() {
            let name = format!("task {}/{}", shown.task.key, shown.task.generation);
            self.teller = Some(self.snapshots.register(&name, "its row cannot be read", self.ctx.now(), self.restarts));
        }
        let stopped = shown.task.stop.is_some();
        self.unreadable = Some(Box::new(shown.task));
        if stopped {
            self.carry_out_stop(myself);
        }
        Ok(())
    }

    /// Closes what cannot be read after the steps of its STOP.
    async fn close_unreadable(&mut self, myself: &ActorRef<TaskMsg>) -> Result<(), ActorProcessingErr> {
        if self.ctx.store.close_unreadable(&self.id, self.ctx.now()).await? {
            self.directory.wake_outbox();
            self.perform_close(myself);
        }
        Ok(())
    }

    /// What is told to such a task: of all events only its STOP leads on.
    pub(super) async fn hear_of_unreadable(
        &mut self,
        myself: &ActorRef<TaskMsg>,
        event: &Event,
    ) -> Result<Option<Answer>, ActorProcessingErr> {
        match event {
            Event::StopRequested { .. } => Box::pin(self.load(myself)).await?,
            Event::StopCarriedOut { .. } => self.close_unreadable(myself).await?,
            _ => {}
        }
        Ok(None)
    }
}
