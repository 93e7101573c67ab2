//! The running system: the tree with its handle, started and stopped as one.
//!
//! Owns start (ready once the first reconcile pass is through) and stop. The composition root starts it; http, cli and
//! tests get the [`Handle`].

use std::sync::Arc;
use std::time::Duration;

use orch_domain::stop::Level;
use ractor::{Actor, ActorRef, SpawnErr};
use tokio::sync::oneshot;

use crate::context::Context;
use crate::directory::Directory;
use crate::handle::Handle;
use crate::reconciler::{Leftovers, ReconcilerMsg};
use crate::root::{RootArgs, RootMsg, RootSupervisor};
use crate::snapshots::Snapshots;

/// A running system.
pub struct System {
    handle: Arc<Handle>,
    root: ActorRef<RootMsg>,
}

impl System {
    /// Starts the tree. Returns when the first reconcile pass is through.
    ///
    /// # Errors
    /// When the store cannot be read or an actor cannot be started; everything that was is killed with the root.
    pub async fn start(ctx: Arc<Context>) -> Result<Self, SpawnErr> {
        let (directory, snapshots) = (Directory::default(), Snapshots::default());
        let leftovers = Leftovers::look(&ctx).await.map_err(|error| SpawnErr::StartupFailed(Box::new(error)))?;
        let args = RootArgs {
            ctx: ctx.clone(),
            directory: directory.clone(),
            snapshots: snapshots.clone(),
            leftovers: Arc::new(leftovers),
        };
        let (root, _) = Actor::spawn(None, RootSupervisor, args).await?;
        let (reply, ready) = oneshot::channel();
        if directory.tell_reconciler(ReconcilerMsg::WhenReady { reply }) && ready.await.is_err() {
            tracing::warn!("the reconciler was restarted during its first pass");
        }
        Ok(Self { handle: Arc::new(Handle::new(ctx, directory, snapshots)), root })
    }

    /// The front desk.
    #[must_use]
    pub fn handle(&self) -> Arc<Handle> {
        self.handle.clone()
    }

    /// Stops: no new work at once; tasks may go on until the deadline; windows are waited for. Reads are answered until the
    /// store is closed. May be called again with a firmer level.
    pub async fn stop(&self, level: Level, deadline: Duration) {
        self.end(level, false, deadline).await;
    }

    /// Stops as `Drain` does, but leaves agents at work to the next start, which goes on with their runs.
    pub async fn hand_over(&self, deadline: Duration) {
        self.end(Level::Drain, true, deadline).await;
    }

    async fn end(&self, level: Level, leave: bool, deadline: Duration) {
        self.handle.close_intake();
        let (done, ended) = oneshot::channel();
        if self.root.cast(RootMsg::Stop { level, leave, deadline, done }).is_ok() && ended.await.is_err() {
            tracing::warn!("the root supervisor ended before everything below it had");
        }
        if self.root.wait(Some(Duration::from_secs(5))).await.is_err() {
            self.root.kill();
        }
    }

    /// Closes the store: nothing can be read or written any more.
    pub fn close(&self) {
        self.handle.close_store();
    }
}
