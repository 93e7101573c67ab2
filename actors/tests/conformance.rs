//! What the supervision tree relies on in the actor library, pinned down: an update that changes one of these facts fails
//! here, by name, before it surprises a supervisor.
//!
//! Owns facts about the library alone; nothing of ours runs in it. Everything waits for messages, nothing for time.

use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus, SpawnErr, SupervisionEvent};
use tokio::sync::{mpsc, oneshot};

/// A bound for what must come; never a pause.
const BOUND: Duration = Duration::from_secs(20);

type Log = mpsc::UnboundedSender<String>;

/// Says that it was dropped.
struct Local(Log);

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.0.send("a local was dropped".to_owned());
    }
}

enum Ask {
    /// Enter, say so, and wait for leave.
    Hold {
        entered: oneshot::Sender<()>,
        leave: oneshot::Receiver<()>,
    },
    /// Say that this message was handled.
    Mark(&'static str),
    Panic,
    Fail,
    /// A question that nobody answers.
    Answer(#[expect(dead_code, reason = "kept unanswered until it is dropped")] oneshot::Sender<()>),
}

/// What a probe does besides handling messages.
#[derive(Default)]
struct Habits {
    /// Refuses to start.
    refuse: bool,
    /// Waits in `post_stop`, after having said that it is there.
    post_stop: Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>,
}

struct Probe;

struct State {
    log: Log,
    habits: Habits,
    pending: Vec<Ask>,
}

impl Actor for Probe {
    type Msg = Ask;
    type State = State;
    type Arguments = (Log, Habits);

    async fn pre_start(&self, _: ActorRef<Ask>, (log, habits): (Log, Habits)) -> Result<State, ActorProcessingErr> {
        match habits.refuse {
            true => Err("it does not want to".into()),
            false => Ok(State { log, habits, pending: Vec::new() }),
        }
    }

    async fn post_stop(&self, _: ActorRef<Ask>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _ = state.log.send("post_stop begins".to_owned());
        if let Some((entered, leave)) = state.habits.post_stop.take() {
            let _ = entered.send(());
            let _ = leave.await;
        }
        let _ = state.log.send("post_stop ends".to_owned());
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Ask>, message: Ask, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Ask::Hold { entered, leave } => {
                let local = Local(state.log.clone());
                let _ = entered.send(());
                let _ = leave.await;
                drop(local);
                let _ = state.log.send("the handler went through".to_owned());
            }
            Ask::Mark(what) => drop(state.log.send(what.to_owned())),
            Ask::Panic => panic!("as asked"),
            Ask::Fail => return Err("as asked".into()),
            question @ Ask::Answer(_) => state.pending.push(question),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Ask>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let text = match event {
            SupervisionEvent::ActorStarted(_) => return Ok(()),
            SupervisionEvent::ActorTerminated(_, handed, reason) => {
                let state = if handed.is_some() { "with state" } else { "without state" };
                format!("child terminated {state}: {}", reason.unwrap_or_default())
            }
            SupervisionEvent::ActorFailed(_, why) => format!("child failed: {why}"),
            SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        let _ = state.log.send(text);
        Ok(())
    }
}

/// An actor that leaves the supervision hook to the library.
struct Careless;

impl Actor for Careless {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

struct Lab {
    log: Log,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Lab {
    fn new() -> Self {
        let (log, heard) = mpsc::unbounded_channel();
        Self { log, heard }
    }

    async fn probe(&self, name: Option<&str>, habits: Habits) -> ActorRef<Ask> {
        let name = name.map(str::to_owned);
        Actor::spawn(name, Probe, (self.log.clone(), habits)).await.expect("it starts").0
    }

    async fn child(&self, parent: ActorCell, habits: Habits) -> ActorRef<Ask> {
        Actor::spawn_linked(None, Probe, (self.log.clone(), habits), parent).await.expect("it starts").0
    }

    async fn hears(&mut self, what: &str) {
        let heard = tokio::time::timeout(BOUND, self.heard.recv()).await;
        assert_eq!(heard.unwrap_or_else(|_| panic!("nothing was heard instead of `{what}`")).as_deref(), Some(what));
    }

    /// What was said up to now; call it when everybody has ended.
    fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
    }
}

/// Brings an actor into a handler; what is returned lets it leave.
async fn hold(actor: &ActorRef<Ask>) -> oneshot::Sender<()> {
    let (entered, inside) = oneshot::channel();
    let (let_go, leave) = oneshot::channel();
    actor.cast(Ask::Hold { entered, leave }).expect("it lives");
    tokio::time::timeout(BOUND, inside).await.expect("in time").expect("it entered");
    let_go
}

async fn ended(actor: &ActorRef<Ask>) {
    actor.wait(Some(BOUND)).await.expect("it ends");
    assert_eq!(actor.get_status(), ActorStatus::Stopped);
}

#[tokio::test]
async fn kill_cuts_a_waiting_handler_drops_its_locals_and_skips_post_stop() {
    let mut lab = Lab::new();
    let parent = lab.probe(None, Habits::default()).await;
    let child = lab.child(parent.get_cell(), Habits::default()).await;
    let _leave = hold(&child).await;
    child.cast(Ask::Mark("queued")).expect("it lives");
    child.kill();
    ended(&child).await;
    lab.hears("a local was dropped").await;
    // The half-changed state is handed over: never to be used again.
    lab.hears("child terminated with state: killed").await;
    parent.stop(None);
    ended(&parent).await;
    assert_eq!(lab.rest(), ["post_stop begins", "post_stop ends"], "only the parent's own");
}

#[tokio::test]
async fn stop_waits_for_the_handler_and_drops_what_is_queued() {
    let mut lab = Lab::new();
    let actor = lab.probe(None, Habits::default()).await;
    let leave = hold(&actor).await;
    actor.cast(Ask::Mark("queued before the stop")).expect("it lives");
    actor.stop(None);
    assert_ne!(actor.get_status(), ActorStatus::Stopped);
    leave.send(()).expect("it is still inside");
    ended(&actor).await;
    let seen = lab.rest();
    let expected = ["a local was dropped", "the handler went through", "post_stop begins", "post_stop ends"];
    assert_eq!(seen, expected, "the queued message is lost: results must not be sent just before a stop");
}

#[tokio::test]
async fn drain_works_the_queue_off_first() {
    let mut lab = Lab::new();
    let actor = lab.probe(None, Habits::default()).await;
    let leave = hold(&actor).await;
    actor.cast(Ask::Mark("queued")).expect("it lives");
    actor.drain().expect("it lives");
    assert!(actor.cast(Ask::Mark("too late")).is_err(), "nothing is taken any more");
    leave.send(()).expect("it is still inside");
    ended(&actor).await;
    assert!(lab.rest().contains(&"queued".to_owned()));
}

#[tokio::test]
async fn a_stopped_parent_kills_its_children_without_their_post_stop() {
    let mut lab = Lab::new();
    let parent = lab.probe(None, Habits::default()).await;
    let child = lab.child(parent.get_cell(), Habits::default()).await;
    let _leave = hold(&child).await;
    parent.stop(None);
    ended(&parent).await;
    ended(&child).await;
    let seen = lab.rest();
    assert!(seen.contains(&"a local was dropped".to_owned()), "the child was cut in its handler: {seen:?}");
    assert_eq!(seen.iter().filter(|line| *line == "post_stop begins").count(), 1, "the parent's only: {seen:?}");
}

#[tokio::test]
async fn the_default_hook_takes_the_parent_along_with_any_child_and_ours_does_not() {
    let mut lab = Lab::new();
    let (careless, _) = Actor::spawn(None, Careless, ()).await.expect("it starts");
    let child = lab.child(careless.get_cell(), Habits::default()).await;
    child.stop(None);
    careless.wait(Some(BOUND)).await.expect("an ordinary end of a child ends it");

    let parent = lab.probe(None, Habits::default()).await;
    let child = lab.child(parent.get_cell(), Habits::default()).await;
    child.stop(Some("ordinary".to_owned()));
    ended(&child).await;
    for line in ["post_stop begins", "post_stop ends"].repeat(2) {
        lab.hears(line).await;
    }
    lab.hears("child terminated with state: ordinary").await;
    parent.cast(Ask::Mark("still here")).expect("it lives");
    lab.hears("still here").await;
    assert!(parent.get_children().is_empty());
    parent.stop(None);
    ended(&parent).await;
}

#[tokio::test]
async fn a_panic_and_an_error_reach_the_parent_as_failures_without_state_or_post_stop() {
    let mut lab = Lab::new();
    let parent = lab.probe(None, Habits::default()).await;
    for ask in [Ask::Panic, Ask::Fail] {
        let child = lab.child(parent.get_cell(), Habits::default()).await;
        child.cast(ask).expect("it lives");
        ended(&child).await;
        lab.hears("child failed: as asked").await;
    }
    parent.stop(None);
    ended(&parent).await;
}

#[tokio::test]
async fn a_second_stop_and_wait_lies_and_wait_tells_the_truth() {
    let lab = Lab::new();
    let actor = lab.probe(None, Habits::default()).await;
    let leave = hold(&actor).await;
    actor.stop(None);
    let lie = actor.stop_and_wait(None, Some(BOUND)).await;
    assert!(lie.is_err(), "it fails at once ...");
    assert_ne!(actor.get_status(), ActorStatus::Stopped, "... although the actor still runs");
    let waited = tokio::spawn({
        let actor = actor.clone();
        async move { ended(&actor).await }
    });
    leave.send(()).expect("it is still inside");
    waited.await.expect("wait() came back when it had ended");
}

#[tokio::test]
async fn a_name_is_free_again_while_its_actor_still_runs_post_stop() {
    let lab = Lab::new();
    let (entered, inside) = oneshot::channel();
    let (let_go, leave) = oneshot::channel();
    let habits = Habits { post_stop: Some((entered, leave)), ..Habits::default() };
    let first = lab.probe(Some("conformance: one name"), habits).await;
    let taken = Actor::spawn(Some("conformance: one name".into()), Probe, (lab.log.clone(), Habits::default())).await;
    assert!(matches!(taken, Err(SpawnErr::ActorAlreadyRegistered(_))), "while it runs the name is taken");
    first.stop(None);
    inside.await.expect("it is in post_stop");
    let second = lab.probe(Some("conformance: one name"), Habits::default()).await;
    assert_ne!(first.get_status(), ActorStatus::Stopped, "two of one name: a name is no lock");
    let_go.send(()).expect("it waits");
    second.stop(None);
    ended(&first).await;
    ended(&second).await;
}

#[tokio::test]
async fn supervision_events_overtake_queued_messages() {
    let mut lab = Lab::new();
    let parent = lab.probe(None, Habits::default()).await;
    let child = lab.child(parent.get_cell(), Habits::default()).await;
    let leave = hold(&parent).await;
    parent.cast(Ask::Mark("sent before the child ended")).expect("it lives");
    child.kill();
    ended(&child).await;
    leave.send(()).expect("it is still inside");
    lab.hears("a local was dropped").await;
    lab.hears("the handler went through").await;
    lab.hears("child terminated with state: killed").await;
    lab.hears("sent before the child ended").await;
    parent.stop(None);
    ended(&parent).await;
}

#[tokio::test]
async fn who_refuses_to_start_tells_its_spawner_and_not_its_supervisor() {
    let mut lab = Lab::new();
    let parent = lab.probe(None, Habits::default()).await;
    let habits = Habits { refuse: true, ..Habits::default() };
    let refused = Actor::spawn_linked(None, Probe, (lab.log.clone(), habits), parent.get_cell()).await;
    assert!(matches!(refused, Err(SpawnErr::StartupFailed(_))));
    parent.cast(Ask::Mark("nothing was heard before this")).expect("it lives");
    lab.hears("nothing was heard before this").await;
    assert!(parent.get_children().is_empty());
    parent.stop(None);
    ended(&parent).await;
}

#[tokio::test]
async fn kill_cuts_post_stop_too() {
    let mut lab = Lab::new();
    let (entered, inside) = oneshot::channel();
    let (_let_go, leave) = oneshot::channel();
    let actor = lab.probe(None, Habits { post_stop: Some((entered, leave)), ..Habits::default() }).await;
    actor.stop(None);
    inside.await.expect("it is in post_stop");
    actor.kill();
    ended(&actor).await;
    assert_eq!(lab.rest(), ["post_stop begins"]);
}

#[tokio::test]
async fn whoever_asked_a_killed_actor_is_told_by_the_end_of_the_channel() {
    let lab = Lab::new();
    let actor = lab.probe(None, Habits::default()).await;
    let (reply, answer) = oneshot::channel();
    actor.cast(Ask::Answer(reply)).expect("it lives");
    let _leave = hold(&actor).await;
    actor.kill();
    let answer = tokio::time::timeout(BOUND, answer).await.expect("no answer is not silence");
    assert!(answer.is_err());
    assert!(actor.cast(Ask::Mark("to nobody")).is_err(), "sending to the dead is an error");
}

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    orch_test_support::users::pass_as_nobody(&[], 2, 12);
}
