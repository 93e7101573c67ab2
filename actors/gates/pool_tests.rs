//! The pool under virtual time, with work that only pretends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orch_adapters::ports::{Clock, SystemClock};
use orch_domain::event::CheckEnd;
use orch_domain::ids::TaskId;
use orch_domain::stop::Level;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::gate::END_GRACE;
use super::{GateAnswer, GateOrder, GatePoolHandle, PoolSnapshot, Work, cancel};

const BOUND: Duration = Duration::from_secs(3_600);

fn task(name: &str) -> TaskId {
    format!("task{name}").parse().expect("an id")
}

fn passed(note: &str) -> GateAnswer {
    CheckEnd::passed(note).into()
}

fn why(answer: &GateAnswer) -> &str {
    match &answer.end {
        CheckEnd::CouldNotRun { why } => why,
        other => panic!("an answer was not expected: {other:?}"),
    }
}

/// A pool, and a record of the work in the order of its start.
struct World {
    pool: GatePoolHandle,
    started: mpsc::UnboundedReceiver<String>,
    tell: mpsc::UnboundedSender<String>,
    now: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}

/// Work under way: let it end, and see its answer.
struct Gate {
    release: oneshot::Sender<()>,
    answer: JoinHandle<GateAnswer>,
}

impl Gate {
    async fn finish(self) -> GateAnswer {
        self.release.send(()).expect("the work waits for it");
        bounded(self.answer).await.expect("answered")
    }
}

async fn bounded<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, what).await.expect("within the bound")
}

impl World {
    async fn new(total: usize) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let pool = GatePoolHandle::start(total, clock, None).await.expect("started");
        let (tell, started) = mpsc::unbounded_channel();
        Self { pool, started, tell, now: Arc::default(), peak: Arc::default() }
    }

    fn order(name: &str, priority: i32, lease_holder: bool) -> GateOrder {
        GateOrder { task: task(name), label: name.to_owned(), priority, lease_holder, alone: None }
    }

    fn ask(&self, order: GateOrder, work: Work) -> JoinHandle<GateAnswer> {
        let pool = self.pool.clone();
        tokio::spawn(async move { pool.run(order, work).await })
    }

    /// Work that ends when it is let go; deaf to cancellation.
    fn gate(&self, name: &str, priority: i32, lease_holder: bool) -> Gate {
        self.gate_of(Self::order(name, priority, lease_holder))
    }

    /// The same for something that only one at a time may do.
    fn alone(&self, name: &str, what: &str) -> Gate {
        self.gate_of(GateOrder { alone: Some(what.to_owned()), ..Self::order(name, 0, false) })
    }

    fn gate_of(&self, order: GateOrder) -> Gate {
        let name = order.label.as_str();
        let (release, go_on) = oneshot::channel();
        let (name_there, tell, now, peak) = (name.to_owned(), self.tell.clone(), self.now.clone(), self.peak.clone());
        let work = Box::pin(async move {
            let inside = now.fetch_add(1, Ordering::SeqCst) + 1;
            peak.fetch_max(inside, Ordering::SeqCst);
            tell.send(name_there.clone()).expect("heard");
            let _ = go_on.await;
            now.fetch_sub(1, Ordering::SeqCst);
            passed(&name_there)
        });
        Gate { release, answer: self.ask(order, work) }
    }

    /// The next work that began.
    async fn next(&mut self) -> String {
        bounded(self.started.recv()).await.expect("the sender lives")
    }

    async fn seen(&self, condition: impl FnMut(&PoolSnapshot) -> bool) -> PoolSnapshot {
        let mut watch = self.pool.watch();
        let seen = bounded(watch.wait_for(condition)).await.expect("the pool lives");
        seen.clone()
    }

    async fn waiting(&self, count: usize) -> PoolSnapshot {
        self.seen(|snapshot| snapshot.slots.waiting == count).await
    }
}

#[tokio::test(start_paused = true)]
async fn slots_are_bounded_and_served_by_priority_then_arrival() {
    let mut world = World::new(3).await;
    let first = world.gate("a", 0, false);
    assert_eq!(world.next().await, "a");
    let second = world.gate("b", 0, false);
    assert_eq!(world.next().await, "b");
    let mut later = Vec::new();
    for (count, (name, priority)) in [("low", -1), ("mid1", 0), ("high", 9), ("mid2", 0)].into_iter().enumerate() {
        later.push(world.gate(name, priority, false));
        world.waiting(count + 1).await;
    }
    let snapshot = world.waiting(4).await;
    assert_eq!((snapshot.slots.used, snapshot.slots.total), (2, 3), "the third is kept for a lease holder");
    let order: Vec<String> = snapshot.waiting.iter().map(|waiting| waiting.order.label.clone()).collect();
    assert_eq!(order, ["high", "mid1", "mid2", "low"]);
    assert_eq!(first.finish().await, passed("a"));
    assert_eq!(world.next().await, "high");
    assert_eq!(second.finish().await, passed("b"));
    assert_eq!(world.next().await, "mid1");
    let mut served = vec!["high".to_owned(), "mid1".to_owned()];
    // Asked in this order: low, mid1, high, mid2.
    let (low, mid1, high, mid2) = (later.remove(0), later.remove(0), later.remove(0), later.remove(0));
    high.finish().await;
    served.push(world.next().await);
    mid1.finish().await;
    served.push(world.next().await);
    assert_eq!(served, ["high", "mid1", "mid2", "low"]);
    mid2.finish().await;
    low.finish().await;
    let end = world.seen(|snapshot| snapshot.slots.used == 0).await;
    assert_eq!(end.slots.waiting, 0);
    assert_eq!(world.peak.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_holder_takes_the_reserve_and_then_any_slot() {
    let mut world = World::new(2).await;
    let stage = world.gate("stage", 9, false);
    assert_eq!(world.next().await, "stage");
    let other = world.gate("other", 9, false);
    world.waiting(1).await;
    let lane = world.gate("lane", 0, true);
    assert_eq!(world.next().await, "lane", "the reserve is for it, whatever the priorities");
    let snapshot = world.seen(|snapshot| snapshot.held.len() == 2).await;
    assert!(snapshot.held.iter().any(|held| held.order.lease_holder && held.order.task == task("lane")));
    let second = world.gate("lane2", 0, true);
    world.waiting(2).await;
    stage.finish().await;
    assert_eq!(world.next().await, "lane2", "a lease holder goes before everybody else");
    lane.finish().await;
    assert_eq!(world.next().await, "other");
    second.finish().await;
    other.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_only_one_may_do_at_a_time_waits_without_a_slot() {
    let mut world = World::new(4).await;
    let first = world.alone("shop1", "staging of shop");
    assert_eq!(world.next().await, "shop1");
    let second = world.alone("shop2", "staging of shop");
    world.waiting(1).await;
    let other = world.alone("site1", "staging of site");
    assert_eq!(world.next().await, "site1", "another repository's is not held up");
    let plain = world.gate("plain", -1, false);
    assert_eq!(world.next().await, "plain", "nor is what comes behind it");
    world.waiting(1).await;
    first.finish().await;
    assert_eq!(world.next().await, "shop2");
    for gate in [second, other, plain] {
        gate.finish().await;
    }
    world.waiting(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_single_slot_serves_both_and_the_lease_holder_goes_first() {
    let mut world = World::new(1).await;
    let first = world.gate("first", 0, false);
    assert_eq!(world.next().await, "first");
    let second = world.gate("second", 9, false);
    world.waiting(1).await;
    let lane = world.gate("lane", 0, true);
    world.waiting(2).await;
    first.finish().await;
    assert_eq!(world.next().await, "lane");
    lane.finish().await;
    assert_eq!(world.next().await, "second");
    second.finish().await;
    assert_eq!(world.peak.load(Ordering::SeqCst), 1);
    let none = World::new(0).await;
    assert_eq!(none.pool.snapshot().slots.total, 1, "without any slot nothing would ever end");
}

#[tokio::test(start_paused = true)]
async fn a_panic_becomes_an_answer_and_takes_nothing_along() {
    let mut world = World::new(3).await;
    let neighbour = world.gate("neighbour", 0, false);
    assert_eq!(world.next().await, "neighbour");
    let at_once = world.ask(World::order("bad", 0, false), Box::pin(async { panic!("index out of bounds: 7") }));
    let end = bounded(at_once).await.expect("answered");
    assert!(why(&end).contains("bad: an error of ours inside the gate: index out of bounds: 7"), "{end:?}");
    let later = world.ask(
        World::order("late", 0, false),
        Box::pin(async {
            tokio::task::yield_now().await;
            std::panic::panic_any(7_u8)
        }),
    );
    assert!(why(&bounded(later).await.expect("answered")).contains("late: an error of ours"));
    world.seen(|snapshot| snapshot.slots.used == 1).await;
    assert_eq!(neighbour.finish().await, passed("neighbour"));
    let after = world.gate("after", 0, false);
    assert_eq!(world.next().await, "after");
    assert_eq!(after.finish().await, passed("after"));
}

#[tokio::test(start_paused = true)]
async fn cancelling_empties_the_queue_at_once_and_tells_what_runs() {
    let mut world = World::new(2).await;
    let tell = world.tell.clone();
    let listens = Box::pin(async move {
        tell.send("listens".to_owned()).expect("heard");
        let why = cancel::requested().await;
        // Takes its time to end, in virtual time.
        let _ = tokio::time::timeout(Duration::from_secs(3), std::future::pending::<()>()).await;
        GateAnswer::could_not_run(format!("heard: {why}"))
    });
    let running = world.ask(World::order("one", 0, false), listens);
    assert_eq!(world.next().await, "listens");
    let queued = world.gate("one", 0, false);
    let other = world.gate("two", 0, false);
    world.waiting(2).await;
    let before = tokio::time::Instant::now();
    assert_eq!(bounded(world.pool.cancel_for(&task("one"))).await, Some(2));
    assert_eq!(before.elapsed(), Duration::from_secs(3), "it is waited for the work's own end");
    assert!(why(&bounded(queued.answer).await.expect("answered")).contains("taken out of the queue"));
    assert_eq!(why(&bounded(running).await.expect("answered")), "heard: the task is being stopped");
    assert_eq!(world.next().await, "two", "another task is not touched");
    assert_eq!(bounded(world.pool.cancel_for(&task("nobody"))).await, Some(0));
    assert_eq!(other.finish().await, passed("two"));
}

#[tokio::test(start_paused = true)]
async fn work_that_does_not_listen_is_dropped_after_the_grace() {
    struct Tell(Option<oneshot::Sender<()>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.take().expect("once").send(());
        }
    }
    let mut world = World::new(2).await;
    let (dropped, seen) = oneshot::channel();
    let (guard, tell) = (Tell(Some(dropped)), world.tell.clone());
    let deaf = Box::pin(async move {
        let _guard = guard;
        tell.send("deaf".to_owned()).expect("heard");
        std::future::pending::<GateAnswer>().await
    });
    let running = world.ask(World::order("deaf", 0, false), deaf);
    assert_eq!(world.next().await, "deaf");
    let before = tokio::time::Instant::now();
    assert_eq!(bounded(world.pool.cancel_for(&task("deaf"))).await, Some(1));
    assert_eq!(before.elapsed(), END_GRACE);
    bounded(seen).await.expect("its locals were dropped");
    assert!(why(&bounded(running).await.expect("answered")).contains("did not answer within"));
    world.seen(|snapshot| snapshot.slots.used == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_asker_that_goes_away_leaves_no_work_behind() {
    let mut world = World::new(2).await;
    let (tell, ended) = (world.tell.clone(), world.tell.clone());
    let listens = Box::pin(async move {
        tell.send("begun".to_owned()).expect("heard");
        ended.send(cancel::requested().await).expect("heard");
        passed("nobody hears it")
    });
    let running = world.ask(World::order("gone", 0, false), listens);
    assert_eq!(world.next().await, "begun");
    let queued = world.gate("queued", 0, false);
    world.waiting(1).await;
    queued.answer.abort();
    assert!(queued.answer.await.expect_err("aborted").is_cancelled());
    running.abort();
    assert_eq!(world.next().await, "nobody waits for it any more");
    world.seen(|snapshot| snapshot.slots.used == 0 && snapshot.slots.waiting == 0).await;
    let after = world.gate("after", 0, false);
    assert_eq!(world.next().await, "after", "the one whose asker left was never begun");
    after.finish().await;
}

#[tokio::test(start_paused = true)]
async fn stop_rises_and_the_pool_ends_when_its_gates_have() {
    let mut world = World::new(2).await;
    let running = world.gate("running", 0, false);
    assert_eq!(world.next().await, "running");
    let queued = world.gate("queued", 0, false);
    world.waiting(1).await;
    let pool = world.pool.clone();
    let drained = tokio::spawn(async move { pool.stop(Level::Drain, "the supervisor drains").await });
    assert!(why(&bounded(queued.answer).await.expect("answered")).contains("the supervisor drains"));
    let refused = world.pool.run(World::order("new", 0, true), Box::pin(async { passed("never") }));
    assert!(why(&bounded(refused).await).contains("no new gate run is taken"));
    assert!(!drained.is_finished(), "what runs may end by itself");
    assert_eq!(running.finish().await, passed("running"));
    bounded(drained).await.expect("stopped");
    let after = world.pool.run(World::order("after", 0, false), Box::pin(async { passed("never") }));
    assert!(!why(&bounded(after).await).is_empty(), "an ended pool answers, too");
    assert_eq!(bounded(world.pool.cancel_for(&task("running"))).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_kill_does_not_wait_for_the_work() {
    let mut world = World::new(2).await;
    let running = world.gate("running", 0, false);
    assert_eq!(world.next().await, "running");
    let pool = world.pool.clone();
    let cancelled = tokio::spawn(async move { pool.stop(Level::Cancel, "cancel").await });
    world.seen(|snapshot| snapshot.held.iter().any(|held| held.ending.is_some())).await;
    let before = tokio::time::Instant::now();
    bounded(world.pool.stop(Level::Kill, "kill")).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    bounded(cancelled).await.expect("stopped");
    assert!(!why(&bounded(running.answer).await.expect("answered")).is_empty());
}

/// A supervisor that tells of its children's ends.
struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = mpsc::UnboundedSender<String>;
    type Arguments = mpsc::UnboundedSender<String>;

    async fn pre_start(
        &self,
        _: ActorRef<()>,
        tell: mpsc::UnboundedSender<String>,
    ) -> Result<mpsc::UnboundedSender<String>, ActorProcessingErr> {
        Ok(tell)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        tell: &mut mpsc::UnboundedSender<String>,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorTerminated(_, _, reason) = event {
            tell.send(reason.unwrap_or_default())?;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_pool_answers_everybody_and_its_supervisor_hears_of_it() {
    let (tell, mut ends) = mpsc::unbounded_channel();
    let (parent, parent_task) = Actor::spawn(None, Parent, tell).await.expect("started");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let pool = GatePoolHandle::start(1, clock, Some(parent.get_cell())).await.expect("started");
    let ask = |name: &str| {
        let pool = pool.clone();
        let order = World::order(name, 0, false);
        tokio::spawn(async move { pool.run(order, Box::pin(std::future::pending())).await })
    };
    let (running, queued) = (ask("running"), ask("queued"));
    let mut watch = pool.watch();
    bounded(watch.wait_for(|snapshot| snapshot.slots.used == 1 && snapshot.slots.waiting == 1)).await.expect("lives");
    pool.cell().kill();
    for answer in [running, queued] {
        assert!(!why(&bounded(answer).await.expect("answered")).is_empty());
    }
    assert_eq!(bounded(ends.recv()).await.expect("heard"), "killed");
    parent.stop(None);
    bounded(parent_task).await.expect("ended");
}
