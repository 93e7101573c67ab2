//! OutboxActor: one per supervisor. Owns the sending of committed effects: tracker moves, comments, notices. Hears `Wake`
//! and its own clock. Says nothing to other actors. Dies with nothing; whatever was not settled is sent again, which its
//! keys make harmless. Never sends what is not committed, and keeps one lane per (task, kind), so that a tracker that is
//! away delays nobody else.

use std::sync::Arc;
use std::time::Duration;

use orch_adapters::ports::{MoveOutcome, Notice, TrackerState, Urgency};
use orch_domain::effect::{Outgoing, ShownState};
use orch_domain::policy::Backoff;
use orch_domain::time::Millis;
use orch_store::PendingEffect;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::snapshots::{Snapshots, Teller};

/// How many lanes one pass serves.
const BATCH: u32 = 64;
/// Longest wait for one receiver.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between looks when nobody wakes it.
const LOOK: Duration = Duration::from_secs(20);
/// Repetitions per effect; after the last it is abandoned and said so.
const AGAIN: Backoff = Backoff { first: Millis::from_secs(2), most: Millis::from_mins(10), tries: 60 };

/// What the outbox hears.
pub enum OutboxMsg {
    /// Something may be there to send.
    Wake,
    /// A pass is over.
    Passed {
        /// Whether more may be waiting.
        more: bool,
    },
}

/// What the outbox is started with.
pub struct OutboxArgs {
    /// Shared.
    pub ctx: Arc<Context>,
    /// Snapshots.
    pub snapshots: Snapshots,
}

/// The actor.
pub struct OutboxActor;

/// Its state.
pub struct OutboxState {
    ctx: Arc<Context>,
    teller: Teller,
    passing: bool,
    again: bool,
    clock: AbortHandle,
}

impl Drop for OutboxState {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

impl Actor for OutboxActor {
    type Msg = OutboxMsg;
    type State = OutboxState;
    type Arguments = OutboxArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<OutboxMsg>,
        args: OutboxArgs,
    ) -> Result<OutboxState, ActorProcessingErr> {
        let teller = args.snapshots.register("outbox", "idle", args.ctx.now(), 0);
        let clock = tokio::spawn(async move {
            while myself.cast(OutboxMsg::Wake).is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(OutboxState { ctx: args.ctx, teller, passing: false, again: false, clock: clock.abort_handle() })
    }

    async fn handle(
        &self,
        myself: ActorRef<OutboxMsg>,
        message: OutboxMsg,
        state: &mut OutboxState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            OutboxMsg::Wake if state.passing => state.again = true,
            OutboxMsg::Wake => state.pass(myself),
            OutboxMsg::Passed { more } => {
                state.passing = false;
                if more || std::mem::take(&mut state.again) {
                    state.pass(myself);
                } else {
                    state.teller.say("idle", state.ctx.now());
                }
            }
        }
        Ok(())
    }
}

impl OutboxState {
    fn pass(&mut self, myself: ActorRef<OutboxMsg>) {
        self.passing = true;
        self.teller.say("sending", self.ctx.now());
        let ctx = self.ctx.clone();
        let pass = tokio::spawn(async move { send_pending(&ctx).await });
        tokio::spawn(async move {
            // A panic in a sender ends the pass, not the outbox.
            let more = pass.await.unwrap_or(false);
            if myself.cast(OutboxMsg::Passed { more }).is_err() {
                tracing::debug!("the outbox ended during a pass");
            }
        });
    }
}

/// Sends the heads of all lanes, side by side. Returns whether more may be waiting.
async fn send_pending(ctx: &Arc<Context>) -> bool {
    let pending = match ctx.store.pending_outbox(BATCH, ctx.now()).await {
        Ok(pending) => pending,
        Err(error) => {
            tracing::warn!(%error, "the outbox could not be read");
            return false;
        }
    };
    // Each is the head of its lane: behind a settled one the next may stand. A failed one waits for its own time.
    let any = !pending.is_empty();
    futures::future::join_all(pending.into_iter().map(|effect| send_one(ctx, effect))).await;
    any
}

async fn send_one(ctx: &Context, effect: PendingEffect) {
    let sent = match tokio::time::timeout(DEADLINE, perform(ctx, &effect)).await {
        Ok(sent) => sent,
        Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
    };
    let settled = match sent {
        Ok(()) => ctx.store.settle(effect.id, ctx.now()).await,
        Err(why) => match AGAIN.delay(effect.attempts + 1) {
            Some(delay) => ctx.store.outbox_failed(effect.id, &why, ctx.now().after(delay)).await,
            None => {
                tracing::error!(effect.key = %effect.key, %why, "effect {} is given up", effect.key);
                ctx.store.abandon(effect.id, &why, ctx.now()).await
            }
        },
    };
    if let Err(error) = settled {
        tracing::warn!(effect.key = %effect.key, %error, "effect {} could not be settled; it is sent again", effect.key);
    }
}

async fn perform(ctx: &Context, effect: &PendingEffect) -> Result<(), String> {
    match (&effect.outgoing, &effect.tracker_item) {
        (Outgoing::Notify { needs_you, title, body }, _) => {
            let urgency = if *needs_you { Urgency::NeedsYou } else { Urgency::Info };
            let notice = Notice { key: effect.key.clone(), urgency, title: title.clone(), body: body.clone() };
            ctx.notifier.notify(&notice).await
        }
        // A task without an item has nothing to be shown on.
        (Outgoing::Show { .. } | Outgoing::Comment { .. }, None) => Ok(()),
        (Outgoing::Show { state }, Some(item)) => {
            let state = match state {
                ShownState::InProgress => TrackerState::InProgress,
                ShownState::Blocked => TrackerState::Blocked,
                ShownState::Done => TrackerState::Done,
                ShownState::Cancelled => TrackerState::Cancelled,
            };
            match ctx.tracker.show(item, state).await? {
                MoveOutcome::Shown => {}
                MoveOutcome::LeftAlone => tracing::info!(item, "a person moved the item in between; left alone"),
            }
            Ok(())
        }
        (Outgoing::Comment { text }, Some(item)) => ctx.tracker.comment(item, &effect.key, text).await,
    }
}
