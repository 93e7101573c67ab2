//! Holding a lease: renewed while held, released at the end, known in this process.
//!
//! Owns the guard. A lease whose guard was dropped without release (a panic) is not held by anybody of this process any
//! more, which is the proof that the next landing needs to reclaim it. Time alone never frees a lease.

use std::sync::Arc;

use orch_domain::ids::Epoch;
use orch_domain::names::RepoName;
use orch_store::Holder;
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::directory::Directory;

/// A lease in hand.
pub struct LeaseGuard {
    ctx: Arc<Context>,
    directory: Directory,
    repo: RepoName,
    epoch: Epoch,
    holder: Holder,
    renewal: AbortHandle,
}

impl LeaseGuard {
    /// Takes note of an acquired lease and keeps it renewed.
    #[must_use]
    pub fn new(ctx: &Arc<Context>, directory: &Directory, repo: RepoName, epoch: Epoch, holder: Holder) -> Self {
        directory.note_lease(&repo, epoch);
        let (store, clock, life, name) = (ctx.store.clone(), ctx.clock.clone(), ctx.limits.lease, repo.clone());
        let renewal = tokio::spawn(async move {
            let third = std::time::Duration::from(life) / 3;
            loop {
                tokio::time::sleep(third).await;
                if let Err(error) = store.renew_lease(&name, epoch, clock.now().after(life)).await {
                    tracing::warn!(repo = %name, %error, "the lease of {name} could not be renewed");
                }
            }
        });
        let renewal = renewal.abort_handle();
        Self { ctx: ctx.clone(), directory: directory.clone(), repo, epoch, holder, renewal }
    }

    /// The fencing token.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Gives the lease back.
    pub async fn release(self) {
        self.renewal.abort();
        if let Err(error) = self.ctx.store.release_lease(&self.repo, self.epoch, &self.holder).await {
            tracing::warn!(repo = %self.repo, %error, "the lease of {} could not be released; it is reclaimed", self.repo);
        }
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.renewal.abort();
        self.directory.forget_lease(&self.repo, self.epoch);
    }
}
