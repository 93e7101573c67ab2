//! Group commit: one refused change takes no other along, and many committers share one flush.

use std::time::Instant;

use orch_domain::effect::Outgoing;
use orch_domain::ids::{Seq, Version};
use orch_domain::journal::Entry;
use orch_store::{CommitError, Store, StoreError, Subject};
use tokio::task::JoinSet;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_changes_leave_nothing_and_take_nothing_along() {
    let (_dir, store) = fresh();
    let mut tasks = Vec::new();
    for n in 0..40 {
        tasks.push(owned(&store, &format!("task{n}"), &format!("ORC-{n}")).await);
    }
    let before = *store.subscribe().borrow();
    let mut racers = JoinSet::new();
    for (n, owned) in tasks.iter().enumerate() {
        let mut change = forward(&owned.task, owned.version, owned.epoch);
        change.outgoing = vec![Outgoing::Comment { text: "hello".to_owned() }];
        if n % 4 == 0 {
            change.version = Version(99);
        }
        let store = store.clone();
        racers.spawn(async move { (n, store.commit(change).await) });
    }
    for (n, result) in racers.join_all().await {
        match n % 4 {
            0 => assert_eq!(result, Err(CommitError::VersionConflict { found: Version(1) })),
            _ => assert_eq!(result, Ok(Version(2))),
        }
    }
    assert!(store.stats().largest_group > 1, "the changes were never grouped: {:?}", store.stats());
    let records = store.records_after(before, 1_000).await.unwrap();
    assert_eq!(records.len(), 30, "journal rows of refused changes are gone, the others are there");
    assert_eq!(*store.subscribe().borrow(), records.last().unwrap().seq);
    assert_eq!(store.outbox_depth().await.unwrap(), 30);
}

#[tokio::test]
async fn a_change_that_breaks_a_rule_of_the_tables_is_refused_alone() {
    let (_dir, store) = fresh();
    let unknown = Subject { task: Some(task_id("nobody")), ..Subject::default() };
    let refused = store.append(unknown, vec![Entry::new("x", "y")], at(1)).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    let seq = store.append(Subject::repo(&repo()), vec![Entry::new("x", "y")], at(1)).await.unwrap();
    assert_eq!(seq, Seq(1), "the refused one used no position");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let (_dir, store) = fresh();
    store.close();
    let refused = store.append(Subject::default(), vec![Entry::new("x", "y")], at(1)).await;
    assert_eq!(refused, Err(StoreError::Closed));
    assert_eq!(store.live_tasks().await, Err(StoreError::Closed));
}

#[tokio::test(start_paused = true)]
async fn the_inline_mode_answers_without_any_thread() {
    let (_dir, store) = fresh_inline();
    let before = tokio::time::Instant::now();
    let owned = owned(&store, "task1", "ORC-1").await;
    store.commit(forward(&owned.task, owned.version, owned.epoch)).await.unwrap();
    assert_eq!(store.live_tasks().await.unwrap().len(), 1);
    assert_eq!(before.elapsed(), std::time::Duration::ZERO);
}

async fn burst(store: &Store, committers: usize, each: usize) -> f64 {
    let started = Instant::now();
    let mut racers = JoinSet::new();
    for n in 0..committers {
        let store = store.clone();
        racers.spawn(async move {
            for _ in 0..each {
                let subject = Subject::repo(&repo());
                store.append(subject, vec![Entry::new("tick", format!("{n}"))], at(1)).await.unwrap();
            }
        });
    }
    racers.join_all().await;
    (committers * each) as f64 / started.elapsed().as_secs_f64()
}

/// A figure, not a promise: disks differ, so nothing but the grouping itself is asserted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run in release with --ignored --nocapture"]
async fn sixty_four_committers_against_one() {
    let (_dir, store) = fresh();
    let alone = burst(&store, 1, 2_000).await;
    let together = burst(&store, 64, 1_000).await;
    println!("1 committer: {alone:.0}/s, 64 committers: {together:.0}/s, factor {:.1}", together / alone);
    println!("{:?}", store.stats());
    assert!(store.stats().largest_group > 32);
}
