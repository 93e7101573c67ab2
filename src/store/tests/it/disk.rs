//! A full disk: nothing half-written, STOP and receipts still recorded, normal again once there is space.

use orch_domain::ids::{Epoch, Seq};
use orch_domain::job::JobKind;
use orch_domain::journal::Entry;
use orch_domain::stop::{ReceiptLine, StepResult, StopStep};
use orch_domain::task::State;
use orch_store::{CommitError, DB_FILE, JobError, SpaceState, StopRecorded, Store, StoreConfig, StoreError, Subject};

use crate::lane;
use crate::support::*;

/// Fills the store with journal text until it says that it is full; tells how many entries went in.
async fn fill(store: &Store) -> u64 {
    for n in 0_u64.. {
        let text = format!("{n}:{}", "x".repeat(4_000));
        match store.append(Subject::default(), vec![Entry::new("fill", text)], at(1)).await {
            Ok(_) => {}
            Err(StoreError::DiskFull) => return n,
            Err(other) => panic!("{other}"),
        }
    }
    unreachable!("the store has an end")
}

async fn a_full_disk_keeps_stop_alive(store: &Store) {
    let owned = owned(store, "task1", "ORC-1").await;
    let id = owned.task.id.clone();
    let written = fill(store).await;
    assert!(written > 10, "only {written}");
    assert_eq!(store.space_state(), SpaceState::Full);
    let fills = store.records_after(Seq(0), u32::MAX).await.unwrap();
    assert_eq!(fills.iter().filter(|r| r.entry.kind == "fill").count() as u64, written, "the refused one left nothing");

    // A big body makes sure that the mark itself needs a page of its own.
    let mark = orch_domain::task::StopMark { by: "ann ".repeat(3_000), ..stop("ann", 5) };
    assert_eq!(store.record_stop(&id, mark).await, Ok(StopRecorded::First));
    assert_eq!(store.space_state(), SpaceState::OnBallast);
    let proof = StepResult::Done { proof: "recorded".to_owned() };
    let line = ReceiptLine { step: StopStep::Recorded, at: at(6), result: proof };
    assert!(store.put_receipt_line(&id, line).await.unwrap());
    let refused = store.append(Subject::default(), vec![Entry::new("x", "y")], at(7)).await;
    assert_eq!(refused, Err(StoreError::DiskFull), "what the ballast gave is for STOP");
    let job = |name: &str, kind| lane::job(name, kind, Some(&owned), owned.epoch);
    for kind in [JobKind::Agent, JobKind::Gate] {
        let refused = store.job_prepared(job("filler", kind), None).await;
        assert_eq!(refused, Err(JobError::Store(StoreError::DiskFull)), "{kind:?}");
    }
    store.job_launched(job("salvage", JobKind::Git), None, at(7)).await.expect_err("under STOP, as ever");
    let own = lane::job("upkeep", JobKind::Git, None, Epoch(0));
    store.job_launched(own, None, at(7)).await.expect("what the supervisor does itself");
    let launch = store.commit(forward(&owned.task, owned.version, owned.epoch)).await;
    assert_eq!(launch, Err(CommitError::Store(StoreError::DiskFull)));
    let cancelled = ending(&owned.task, owned.version, owned.epoch, State::Cancelled { at: at(8) });
    store.commit(cancelled).await.unwrap();
    assert_eq!(store.receipt(&id).await.unwrap().unwrap().outcome, "cancelled");
}

#[tokio::test]
async fn over_its_quota_the_store_still_records_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { quota_bytes: Some(1 << 20), ballast_bytes: 256 << 10, ..config(&dir) };
    let store = Store::open(&config).unwrap();
    a_full_disk_keeps_stop_alive(&store).await;
    assert_eq!(store.recover_space().await.unwrap(), SpaceState::OnBallast, "nothing was freed yet");
    assert_eq!(store.integrity_check().await.unwrap(), None);
    drop(store);

    // A person gives it more space.
    let store = Store::open(&StoreConfig { quota_bytes: Some(8 << 20), ..config }).unwrap();
    assert_eq!(store.space_state(), SpaceState::Enough);
    store.append(Subject::default(), vec![Entry::new("x", "y")], at(9)).await.unwrap();
}

#[tokio::test]
async fn space_that_comes_back_is_seen_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { quota_bytes: Some(1 << 20), ballast_bytes: 256 << 10, ..config(&dir) };
    let store = Store::open(&config).unwrap();
    let owned = owned(&store, "task1", "ORC-1").await;
    fill(&store).await;
    let mark = orch_domain::task::StopMark { by: "ann ".repeat(3_000), ..stop("ann", 5) };
    store.record_stop(&owned.task.id, mark).await.unwrap();
    assert_eq!(store.space_state(), SpaceState::OnBallast);
    let mut seen = store.watch_space();
    // Somebody prunes old rows: their pages are free for new ones.
    let conn = rusqlite::Connection::open(config.dir.join(DB_FILE)).unwrap();
    conn.execute("DELETE FROM journal WHERE kind = 'fill'", []).unwrap();
    assert_eq!(store.recover_space().await.unwrap(), SpaceState::Enough);
    assert_eq!(*seen.borrow_and_update(), SpaceState::Enough);
    store.append(Subject::default(), vec![Entry::new("x", "y")], at(9)).await.unwrap();
    assert!(config.dir.join("ballast").exists(), "and the ballast is back");
}

/// The same on a real file system without space.
#[tokio::test]
#[ignore = "set ORCH_STORE_TEST_SMALL_DISK to an empty folder on a file system of some 4 MiB"]
async fn a_really_full_disk_keeps_stop_alive() {
    let folder = std::env::var_os("ORCH_STORE_TEST_SMALL_DISK").expect("names the folder");
    let config = StoreConfig { ballast_bytes: 1 << 20, ..StoreConfig::new(folder, at(0)) };
    let store = Store::open(&config).unwrap();
    a_full_disk_keeps_stop_alive(&store).await;
    assert_eq!(store.recover_space().await.unwrap(), SpaceState::OnBallast);
    assert_eq!(store.integrity_check().await.unwrap(), None);
}
