//! The embedded tracker: a board in the supervisor's own store, with numbered transitions.
//!
//! Owns the `Tracker` port over the board's tables. Keeps the one rule of all trackers: a state that we did not write is
//! an intent of a person, never something to overwrite.

use std::sync::Arc;

use async_trait::async_trait;
use orch_adapters::ports::{Clock, MoveOutcome, Tracker, TrackerState};
use orch_store::{Moved, Store};

/// Who moves items when it is us.
pub const OURSELVES: &str = "orch";

/// The board in the store.
pub struct LocalTracker {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl LocalTracker {
    /// The board of that store.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }
}

#[async_trait]
impl Tracker for LocalTracker {
    async fn show(&self, item: &str, state: TrackerState) -> Result<MoveOutcome, String> {
        let Some(found) = self.store.tracker_item(item).await.map_err(|e| e.to_string())? else {
            return Err(format!("the board has no item `{item}`"));
        };
        // A person's intents, taken up or not yet: To Analyse (a new life) and STOP.
        let stop_shown = found.state == TrackerState::Stop.name() && state != TrackerState::Cancelled;
        let history = self.store.tracker_history(item).await.map_err(|e| e.to_string())?;
        let last_by_us = history.last().is_some_and(|t| t.by == OURSELVES);
        let reborn = found.state == TrackerState::ToAnalyse.name() && history.len() > 1 && !last_by_us;
        let closing = matches!(state, TrackerState::Done | TrackerState::Cancelled);
        if (stop_shown && !closing) || (reborn && closing) {
            return Ok(MoveOutcome::LeftAlone);
        }
        let now = self.clock.now();
        match self.store.tracker_move(item, state.name(), OURSELVES, Some(&found.state), now).await {
            Ok(Moved::Moved(_) | Moved::AlreadyThere) => Ok(MoveOutcome::Shown),
            Ok(Moved::Elsewhere { .. }) => Ok(MoveOutcome::LeftAlone),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn comment(&self, item: &str, key: &str, text: &str) -> Result<(), String> {
        match self.store.tracker_comment(item, key, text, self.clock.now()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}
