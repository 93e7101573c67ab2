//! Holding a lease: renewed while held, released at the end, known in this process.
//!
//! Owns the guard, and the word that a lease was lost. A lease whose guard was dropped without release (a panic) is not
//! held by anybody of this process any more, which is the proof that the next landing needs to reclaim it. Time alone never
//! frees a lease. Losing it stops nothing by itself: whoever works under it reads [`Lost`] at its borders, and the store
//! refuses, and counts, whatever comes under the old epoch.

use std::sync::{Arc, OnceLock};

use orch_domain::ids::Epoch;
use orch_domain::names::RepoName;
use orch_store::{Holder, LeaseError};
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::directory::Directory;

/// Whether a lease was lost, and how that was seen; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lost(Arc<OnceLock<String>>);

impl Lost {
    /// Why it is lost; `None`: as far as is known it is held.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Takes note of it; the first word stays. Whether this was the first.
    pub(crate) fn note(&self, why: String) -> bool {
        self.0.set(why).is_ok()
    }
}

/// A lease in hand.
pub struct LeaseGuard {
    ctx: Arc<Context>,
    directory: Directory,
    repo: RepoName,
    epoch: Epoch,
    holder: Holder,
    lost: Lost,
    renewal: AbortHandle,
}

impl LeaseGuard {
    /// Takes note of an acquired lease and keeps it renewed. When it is found to be somebody else's, `lost` says so, and
    /// the tests of its task are ended: they are no irreversible step, and what they find nobody may use.
    #[must_use]
    pub fn new(
        ctx: &Arc<Context>,
        directory: &Directory,
        repo: RepoName,
        epoch: Epoch,
        holder: Holder,
        lost: Lost,
    ) -> Self {
        directory.note_lease(&repo, epoch);
        let (store, clock, life, name) = (ctx.store.clone(), ctx.clock.clone(), ctx.limits.lease, repo.clone());
        let (noted, places, task) = (lost.clone(), directory.clone(), holder.task.clone());
        let renewal = tokio::spawn(async move {
            let third = std::time::Duration::from(life) / 3;
            loop {
                tokio::time::sleep(third).await;
                match store.renew_lease(&name, epoch, clock.now().after(life)).await {
                    Ok(()) => {}
                    Err(LeaseError::Store(error)) => {
                        tracing::warn!(repo = %name, %error, "the lease of {name} could not be renewed");
                    }
                    Err(error @ (LeaseError::StaleEpoch { .. } | LeaseError::NotHolder)) => {
                        tracing::error!(repo = %name, %epoch, %error, "the lease of {name} is lost");
                        noted.note(format!("the lease of {name} (epoch {epoch}) was lost: {error}"));
                        if let (Some(gates), Some(task)) = (places.gates(), task) {
                            gates.cancel_for(&task).await;
                        }
                        return;
                    }
                }
            }
        });
        let renewal = renewal.abort_handle();
        Self { ctx: ctx.clone(), directory: directory.clone(), repo, epoch, holder, lost, renewal }
    }

    /// The fencing token.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Looks in the store whether it still is ours, and takes note if not: for whoever was refused something.
    pub(crate) async fn look(&self) {
        match self.ctx.store.lease(&self.repo).await {
            Ok(Some(lease)) if lease.epoch == self.epoch => {}
            Ok(now) => {
                let whose = now.map_or_else(|| "nobody holds it".to_owned(), |l| format!("epoch {} has it", l.epoch));
                let why = format!("the lease of {} (epoch {}) was lost: {whose}", self.repo, self.epoch);
                if self.lost.note(why) {
                    tracing::error!(repo = %self.repo, epoch = %self.epoch, "the lease of {} is lost: {whose}", self.repo);
                }
            }
            Err(error) => tracing::warn!(repo = %self.repo, %error, "the lease of {} could not be read", self.repo),
        }
    }

    /// Gives the lease back; one that was lost is somebody else's by now, and left alone.
    pub async fn release(self) {
        self.renewal.abort();
        if self.lost.why().is_some() {
            return;
        }
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
