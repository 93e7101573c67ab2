//! A row that cannot be read: shown for what it is, alone, and never written over.

use orch_domain::ids::Seq;
use orch_domain::journal::Entry;
use orch_domain::task::{Blocked, State, Status};
use orch_store::{CommitError, DB_FILE, Store, StoreError, TaskFilter};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::*;

/// A store with a good task and one whose row was damaged in the named way.
async fn damaged(how: &str) -> (TempDir, Store) {
    let (dir, store) = fresh();
    owned(&store, "good1", "ORC-1").await;
    owned(&store, "bad1", "ORC-2").await;
    drop(store);
    let file = Connection::open(config(&dir).dir.join(DB_FILE)).unwrap();
    file.pragma_update(None, "foreign_keys", false).unwrap();
    assert_eq!(file.execute(how, []).unwrap(), 1, "{how}");
    drop(file);
    let store = Store::open(&config(&dir)).unwrap();
    (dir, store)
}

const WAYS: [&str; 5] = [
    "UPDATE tasks SET body = 'no json {' WHERE id = 'bad1'",
    "UPDATE tasks SET body = '{}' WHERE id = 'bad1'",
    "UPDATE tasks SET body = replace(body, '\"stage\":\"development\"', '\"stage\":\"nowhere\"') WHERE id = 'bad1'",
    "DELETE FROM briefs WHERE task = 'bad1'",
    "UPDATE briefs SET pins = 4711 WHERE task = 'bad1'",
];

#[tokio::test]
async fn it_is_listed_as_blocked_and_hides_no_other() {
    for how in WAYS {
        let (_dir, store) = damaged(how).await;
        for found in [
            store.live_tasks().await.unwrap(),
            store.find_tasks(TaskFilter { live_only: true, ..TaskFilter::default() }).await.unwrap(),
        ] {
            let mut seen: Vec<_> = found.iter().map(|s| (s.task.key.as_str(), s.task.status())).collect();
            seen.sort_unstable();
            assert_eq!(seen, [("ORC-1", Status::Queued), ("ORC-2", Status::Blocked)], "{how}");
        }
        let lives = store.tasks_by_key(&"ORC-2".parse().unwrap()).await.unwrap();
        let State::Blocked { why: Blocked::Unreadable { why }, .. } = &lives[0].task.state else {
            panic!("{how}: {:?}", lives[0].task.state)
        };
        assert!(!why.is_empty());
        assert_eq!(store.live_ids().await.unwrap().len(), 2, "{how}");
        assert_eq!(store.count_tasks().await.unwrap().iter().map(|(_, _, n)| n).sum::<u64>(), 2);
    }
}

#[tokio::test]
async fn whoever_would_change_it_gets_the_error_and_the_row_stays() {
    for how in WAYS {
        let (_dir, store) = damaged(how).await;
        let id = task_id("bad1");
        assert!(matches!(store.own_task(&id, at(9)).await, Err(StoreError::Damaged { .. })), "{how}");
        assert!(matches!(store.load_task(&id).await, Err(StoreError::Damaged { .. })), "{how}");
        let shown = store.look_at_task(&id).await.unwrap().unwrap();
        let mut change = forward(&shown.task, shown.version, shown.epoch);
        change.task.state = shown.task.state.clone();
        let refused = store.commit(change).await;
        assert!(matches!(refused, Err(CommitError::Store(StoreError::Damaged { .. }))), "{how}: {refused:?}");
    }
}

#[tokio::test]
async fn a_stop_closes_it_and_frees_its_keys() {
    let (dir, store) = damaged(WAYS[0]).await;
    let id = task_id("bad1");
    assert!(!store.close_unreadable(&id, at(10)).await.unwrap(), "nobody stopped it");
    store.record_stop(&id, stop("ann", 10)).await.unwrap();
    assert!(!store.close_unreadable(&task_id("good1"), at(11)).await.unwrap(), "one that can be read");
    assert!(store.close_unreadable(&id, at(11)).await.unwrap());
    assert!(!store.close_unreadable(&id, at(12)).await.unwrap(), "once");
    assert_eq!(store.live_ids().await.unwrap().len(), 1);
    let shown = store.look_at_task(&id).await.unwrap().unwrap();
    assert_eq!(shown.task.status(), Status::Cancelled);
    assert_eq!(store.receipt(&id).await.unwrap().unwrap().outcome, "cancelled");
    let said = store.journal(&id, Seq(0), 10).await.unwrap();
    assert_eq!(said.last().unwrap().entry.kind, "cancelled");
    assert_eq!(store.pending_outbox(10, at(20)).await.unwrap().len(), 1, "the board is told");
    let again = task_with("next1", "ORC-2", 2);
    store.create_task(&again, vec![Entry::new("created", "created")], Vec::new(), None, at(13)).await.unwrap();
    drop(store);
    let file = Connection::open(config(&dir).dir.join(DB_FILE)).unwrap();
    let body: String = file.query_row("SELECT body FROM tasks WHERE id = 'bad1'", [], |row| row.get(0)).unwrap();
    assert_eq!(body, "no json {");
}
