//! `GateActor`. Owns one gate run, which goes on in a side task. Hears that the run is over, or that it is to end now.
//! Says its answer to the asker, and by its own end that the slot is free. Dies with its run, or with the pool. Never
//! awaits the work in a handler, and never lets a panic of the work out.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::answer::GateAnswer;
use super::cancel;
use super::queue::{Reply, Work};

/// How long a run that was asked to end may take for it: TERM, its grace, KILL, and the checkout's removal.
pub(super) const END_GRACE: Duration = Duration::from_secs(45);

/// What a gate hears.
pub(super) enum GateMsg {
    /// The side task is through; the answer has been given.
    RunEnded,
    /// Drop the work where it stands.
    EndNow,
}

/// One gate run.
pub(super) struct GateActor;

/// What it begins with.
pub(super) struct GateArgs {
    pub(super) label: String,
    pub(super) work: Work,
    pub(super) reply: Reply,
    /// Raised by the pool.
    pub(super) cancel: watch::Receiver<Option<String>>,
}

/// What it holds.
pub(super) struct GateState {
    /// Until the side task is started.
    args: Option<GateArgs>,
    /// Ends the side task with the actor, however that ends.
    side: Option<AbortOnDrop>,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for GateActor {
    type Msg = GateMsg;
    type State = GateState;
    type Arguments = GateArgs;

    async fn pre_start(&self, _: ActorRef<GateMsg>, args: GateArgs) -> Result<GateState, ActorProcessingErr> {
        Ok(GateState { args: Some(args), side: None })
    }

    /// The link to the pool is made between `pre_start` and here: work that began earlier could end unseen.
    async fn post_start(&self, myself: ActorRef<GateMsg>, state: &mut GateState) -> Result<(), ActorProcessingErr> {
        let Some(args) = state.args.take() else { return Ok(()) };
        let side = tokio::spawn(async move {
            perform(args).await;
            // Not heard only when the actor is gone, and then there is nothing left to end.
            let _ = myself.cast(GateMsg::RunEnded);
        });
        state.side = Some(AbortOnDrop(side.abort_handle()));
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<GateMsg>,
        message: GateMsg,
        state: &mut GateState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GateMsg::RunEnded => {}
            // The reply is dropped with the side task and says so.
            GateMsg::EndNow => drop(state.side.take()),
        }
        myself.stop(None);
        Ok(())
    }
}

/// Runs the work to its answer: its own, a panic's, or that of its end by request.
async fn perform(args: GateArgs) {
    let GateArgs { label, work, mut reply, cancel: mut flag } = args;
    // Its own flag besides the pool's: an asker that went away ends the run, too.
    let (abandon, abandoned) = watch::channel(None);
    let mut work = std::pin::pin!(AssertUnwindSafe(cancel::heard_by(abandoned, work)).catch_unwind());
    let why = tokio::select! {
        biased;
        answer = &mut work => return reply.answer(settled(&label, answer)),
        () = reply.abandoned() => "nobody waits for it any more".to_owned(),
        flag = flag.wait_for(Option::is_some) => match flag {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the gate pool has ended".to_owned(),
        },
    };
    abandon.send_replace(Some(why.clone()));
    match tokio::time::timeout(END_GRACE, work).await {
        Ok(answer) => reply.answer(settled(&label, answer)),
        Err(_) => {
            tracing::warn!(gate.label = %label, why, "a gate run did not end when asked to; it was dropped");
            reply.cancelled(format!("{label} was ended ({why}) and did not answer within {END_GRACE:?}"));
        }
    }
}

fn settled(label: &str, answer: std::thread::Result<GateAnswer>) -> GateAnswer {
    answer.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        tracing::error!(gate.label = %label, panic = %text, "a gate run panicked");
        GateAnswer::could_not_run(format!("{label}: an error of ours inside the gate: {text}"))
    })
}
