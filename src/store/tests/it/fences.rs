//! Version, epoch and STOP: each refuses by itself, by name, and STOP beats whatever is committed after it.

use std::collections::HashMap;

use orch_domain::ids::{Epoch, Generation, Seq, Version};
use orch_domain::task::{State, Status};
use orch_store::{CommitError, CreateError, StopRecorded, Store, TaskFilter, parse_tombstone};
use proptest::prelude::*;
use tokio::task::JoinSet;

use crate::support::*;

#[tokio::test]
async fn a_commit_raises_the_version_and_writes_its_journal() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    assert_eq!((owned.version, owned.epoch), (Version(1), Epoch(1)));
    let change = forward(&owned.task, owned.version, owned.epoch);
    assert_eq!(store.commit(change.clone()).await, Ok(Version(2)));
    let stored = store.load_task(&owned.task.id).await.unwrap().unwrap();
    assert_eq!(stored.task, change.task);
    let kinds: Vec<String> =
        store.journal(&owned.task.id, Seq(0), 100).await.unwrap().into_iter().map(|r| r.entry.kind).collect();
    assert_eq!(kinds, ["created", "went-forward"]);
    assert_eq!(*store.subscribe().borrow(), Seq(2));
}

#[tokio::test]
async fn an_old_version_is_told_the_new_one() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let change = forward(&owned.task, owned.version, owned.epoch);
    store.commit(change.clone()).await.unwrap();
    assert_eq!(store.commit(change).await, Err(CommitError::VersionConflict { found: Version(2) }));
    assert_eq!(store.refused_stale(), 0, "a conflict is no stale owner");
}

#[tokio::test]
async fn a_stale_owner_is_refused_and_counted() {
    let (_dir, store) = fresh();
    let first = owned(&store, "task1", "ORC-1").await;
    let second = store.own_task(&first.task.id, at(3)).await.unwrap();
    assert_eq!(second.epoch, Epoch(2));
    let refused = store.commit(forward(&first.task, first.version, first.epoch)).await;
    assert_eq!(refused, Err(CommitError::StaleEpoch { current: Epoch(2) }));
    assert_eq!(store.refused_stale(), 1);
    store.commit(forward(&second.task, second.version, second.epoch)).await.unwrap();
}

#[tokio::test]
async fn stop_refuses_forward_changes_and_lets_the_ending_pass() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let id = owned.task.id.clone();
    assert_eq!(store.record_stop(&id, stop("ann", 5)).await, Ok(StopRecorded::First));
    assert_eq!(store.record_stop(&id, stop("bob", 9)).await, Ok(StopRecorded::Already(stop("ann", 5))));
    let refused = store.commit(forward(&owned.task, owned.version, owned.epoch)).await;
    assert_eq!(refused, Err(CommitError::StopRecorded));
    let found = store.find_tasks(TaskFilter { status: Some(Status::Stopping), ..TaskFilter::default() }).await.unwrap();
    assert_eq!(found[0].task.stop, Some(stop("ann", 5)));
    assert_eq!(found[0].version, owned.version, "STOP lives outside the version");

    let cancelled = ending(&owned.task, owned.version, owned.epoch, State::Cancelled { at: at(7) });
    store.commit(cancelled).await.unwrap();
    assert_eq!(store.record_stop(&id, stop("eve", 9)).await, Ok(StopRecorded::Terminal));
    let stored = store.load_task(&id).await.unwrap().unwrap();
    assert_eq!((stored.task.status(), stored.task.stop), (Status::Cancelled, Some(stop("ann", 5))));
    let again = store.commit(forward(&owned.task, stored.version, stored.epoch)).await;
    assert_eq!(again, Err(CommitError::Terminal));
}

#[tokio::test]
async fn a_cancelled_life_frees_its_keys_and_stays_findable() {
    let (dir, store) = fresh();
    let first = owned(&store, "task1", "ORC-1").await;
    let twin = task_with("task2", "ORC-1", 2);
    let refused = store.create_task(&twin, Vec::new(), Vec::new(), None, at(3)).await;
    assert_eq!(refused, Err(CreateError::AlreadyLive { id: first.task.id.clone() }));
    let cancelled = ending(&first.task, first.version, first.epoch, State::Cancelled { at: at(7) });
    store.commit(cancelled).await.unwrap();

    let reborn = task_with("task2", "ORC-1", 1);
    let refused = store.create_task(&reborn, Vec::new(), Vec::new(), None, at(8)).await;
    assert_eq!(refused, Err(CreateError::GenerationTaken { next: Generation(2) }));
    store.create_task(&twin, Vec::new(), Vec::new(), None, at(8)).await.unwrap();
    let lives = store.tasks_by_key(&"ORC-1".parse().unwrap()).await.unwrap();
    assert_eq!(lives.iter().map(|s| s.task.generation.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(store.tasks_by_item("item-ORC-1").await.unwrap().len(), 2);
    assert_eq!(store.live_tasks().await.unwrap().len(), 1);
    store.close();

    let conn = rusqlite::Connection::open(dir.path().join("data").join(orch_store::DB_FILE)).unwrap();
    let row =
        conn.query_row("SELECT key, tracker_item, branch, cancelled_at FROM tasks WHERE id = 'task1'", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, i64>(3)?))
        });
    let (key, item, branch, cancelled_at) = row.unwrap();
    assert_eq!(parse_tombstone(&key), Some(("ORC-1", first.task.id.clone())));
    assert_eq!(parse_tombstone(&item), Some(("item-ORC-1", first.task.id.clone())));
    assert_eq!(parse_tombstone(&branch), Some(("orch/orc-1/1", first.task.id.clone())));
    assert_eq!(cancelled_at, at(7).0);
}

#[tokio::test]
async fn a_transition_starts_one_life_only() {
    let (_dir, store) = fresh();
    let task = task_with("task1", "ORC-1", 1);
    store.create_task(&task, Vec::new(), Vec::new(), Some("tr-7".to_owned()), at(1)).await.unwrap();
    let owned = store.own_task(&task.id, at(2)).await.unwrap();
    store.commit(ending(&task, owned.version, owned.epoch, State::Done { at: at(3) })).await.unwrap();
    let reborn = task_with("task2", "ORC-1", 2);
    let again = store.create_task(&reborn, Vec::new(), Vec::new(), Some("tr-7".to_owned()), at(4)).await;
    assert_eq!(again, Err(CreateError::AlreadyConsumed { transition: "tr-7".to_owned(), id: Some(task.id) }));
    assert!(store.consume_transition("tr-8", at(5)).await.unwrap());
    assert!(!store.consume_transition("tr-8", at(5)).await.unwrap());
    let again = store.create_task(&reborn, Vec::new(), Vec::new(), Some("tr-8".to_owned()), at(6)).await;
    assert!(matches!(again, Err(CreateError::AlreadyConsumed { id: None, .. })), "{again:?}");
    store.create_task(&reborn, Vec::new(), Vec::new(), Some("tr-9".to_owned()), at(6)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_create_the_same_key_one_wins() {
    let (_dir, store) = fresh();
    let mut racers = JoinSet::new();
    for n in 0..32 {
        let store = store.clone();
        racers.spawn(async move {
            let task = task_with(&format!("task{n}"), "ORC-1", 1);
            store.create_task(&task, Vec::new(), Vec::new(), None, at(1)).await
        });
    }
    let results = racers.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|err| matches!(err, CreateError::AlreadyLive { .. })));
    assert_eq!(store.live_tasks().await.unwrap().len(), 1);
}

#[tokio::test]
async fn minted_keys_are_never_used_twice() {
    let (_dir, store) = fresh();
    owned(&store, "task1", "ORC-2").await;
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(store.mint_key("ORC").await.unwrap().to_string());
    }
    assert_eq!(keys, ["ORC-1", "ORC-3", "ORC-4"]);
    assert!(store.mint_key("../x").await.is_err());
}

/// Forward commits race with one STOP on real threads: none is journaled after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_forward_after_a_stop_whatever_runs_beside_it() {
    let (_dir, store) = fresh();
    for round in 0..20 {
        let id = format!("task{round}");
        let owned = owned(&store, &id, &format!("ORC-{round}")).await;
        let mut racers = JoinSet::new();
        for _ in 0..4 {
            let (store, owned) = (store.clone(), owned.clone());
            racers.spawn(async move { keep_going(&store, &owned).await });
        }
        let mut seq = store.subscribe();
        seq.wait_for(|seq| seq.0 > 0).await.unwrap();
        assert_eq!(store.record_stop(&owned.task.id, stop("ann", 9)).await, Ok(StopRecorded::First));
        for end in racers.join_all().await {
            assert_eq!(end, CommitError::StopRecorded);
        }
        let journal = store.journal(&owned.task.id, Seq(0), 10_000).await.unwrap();
        let last = journal.last().unwrap();
        assert_eq!(last.entry.kind, "stop-recorded", "round {round}");
    }
}

async fn keep_going(store: &Store, owned: &orch_store::Stored) -> CommitError {
    let mut version = owned.version;
    // Bounded: a store that lets everything pass must fail the test, not hang it.
    for _ in 0..5_000 {
        match store.commit(forward(&owned.task, version, owned.epoch)).await {
            Ok(next) => version = next,
            Err(CommitError::VersionConflict { found }) => version = found,
            Err(end) => return end,
        }
    }
    CommitError::VersionConflict { found: version }
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Own(usize),
    Reload(usize),
    Forward(usize),
    Sideways(usize),
    Stop,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let actor = 0..3_usize;
    let one = prop_oneof![
        1 => actor.clone().prop_map(Move::Own),
        2 => actor.clone().prop_map(Move::Reload),
        4 => actor.clone().prop_map(Move::Forward),
        2 => actor.prop_map(Move::Sideways),
        1 => Just(Move::Stop),
    ];
    proptest::collection::vec(one, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Three actors, each with its own idea of version and epoch, against a model of the row.
    #[test]
    fn the_fences_agree_with_a_model_over_any_interleaving(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_dir, store) = fresh_inline();
            let task = task_with("task1", "ORC-1", 1);
            store.create_task(&task, Vec::new(), Vec::new(), None, at(1)).await.unwrap();
            let (mut version, mut epoch, mut stopped, mut stale) = (Version(1), Epoch(0), false, 0);
            let mut views: HashMap<usize, (Version, Epoch)> = HashMap::new();
            for step in moves {
                match step {
                    Move::Own(actor) => {
                        let owned = store.own_task(&task.id, at(2)).await.unwrap();
                        epoch = epoch.next();
                        assert_eq!((owned.version, owned.epoch), (version, epoch));
                        views.insert(actor, (version, epoch));
                    }
                    Move::Reload(actor) => {
                        // Reading gives the version, never somebody else's epoch.
                        if let Some(view) = views.get_mut(&actor) {
                            view.0 = store.load_task(&task.id).await.unwrap().unwrap().version;
                        }
                    }
                    Move::Forward(actor) | Move::Sideways(actor) => {
                        let (seen, held) = views.get(&actor).copied().unwrap_or((Version(1), Epoch(0)));
                        let goes_forward = matches!(step, Move::Forward(_));
                        let change = orch_store::Change { forward: goes_forward, ..forward(&task, seen, held) };
                        let expected = if held != epoch {
                            stale += 1;
                            Err(CommitError::StaleEpoch { current: epoch })
                        } else if goes_forward && stopped {
                            Err(CommitError::StopRecorded)
                        } else if seen != version {
                            Err(CommitError::VersionConflict { found: version })
                        } else {
                            version = version.next();
                            Ok(version)
                        };
                        assert_eq!(store.commit(change).await, expected, "{step:?}");
                        if let (Ok(next), Some(view)) = (expected, views.get_mut(&actor)) {
                            view.0 = next;
                        }
                    }
                    Move::Stop => {
                        let answer = store.record_stop(&task.id, stop("ann", 4)).await.unwrap();
                        let expected = if stopped { StopRecorded::Already(stop("ann", 4)) } else { StopRecorded::First };
                        assert_eq!(answer, expected);
                        stopped = true;
                    }
                }
            }
            let row = store.load_task(&task.id).await.unwrap().unwrap();
            assert_eq!((row.version, row.epoch, row.task.stop.is_some()), (version, epoch, stopped));
            assert_eq!(store.refused_stale(), stale);
        });
    }
}
