//! The handle's part about upkeep: what may go, and having it go now.
//!
//! Owns that a round is asked for by somebody who is named in the journal, and that nobody waits for it: the plan is told,
//! and becomes empty. Refuses nothing that the ledger's own clock would not do.

use orch_domain::journal::Entry;
use orch_store::Subject;

use super::{Handle, store_error};
use crate::api::{ControlError, GcItem};
use crate::upkeep;

impl Handle {
    pub(super) async fn plan_of_upkeep(&self) -> Result<Vec<GcItem>, ControlError> {
        upkeep::plan(&self.ctx, self.ctx.now()).await.map_err(ControlError::Unavailable)
    }

    pub(super) async fn begin_upkeep(&self, by: &str) -> Result<Vec<GcItem>, ControlError> {
        let items = self.plan_of_upkeep().await?;
        let entry = Entry::new("gc", format!("{by} asked for what may go to go now: {} things", items.len()));
        self.ctx.store.append(Subject::default(), vec![entry], self.ctx.now()).await.map_err(store_error)?;
        // Workspaces of closed tasks are the reconciler's to clear.
        self.directory.wake_reconciler();
        let ctx = self.ctx.clone();
        tokio::spawn(async move {
            let round = upkeep::round(&ctx, ctx.now()).await;
            tracing::info!("{round}");
        });
        Ok(items)
    }
}
