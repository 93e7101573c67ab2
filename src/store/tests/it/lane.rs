//! Leases, windows, jobs: ownership of a lane and of what runs in it, under stale epochs and STOP.

use std::path::PathBuf;

use orch_domain::ids::{Epoch, JobId, Seq, WindowId};
use orch_domain::job::{Containment, JobEnd, JobExit, JobIdentity, JobKind, JobRecord, JobStatus};
use orch_domain::journal::Entry;
use orch_domain::task::State;
use orch_store::{
    Acquire, Holder, JobError, LeaseError, NewLanding, NewWindow, Store, Stored, Subject, WindowClose, WindowError,
    WindowKind,
};
use serde_json::json;

use crate::support::*;

fn holder(purpose: &str) -> Holder {
    Holder { task: None, purpose: purpose.to_owned() }
}

pub(crate) async fn acquire(store: &Store, purpose: &str) -> Epoch {
    match store.acquire_lease(&repo(), holder(purpose), at(60_000), at(1)).await.unwrap() {
        Acquire::Acquired { epoch } => epoch,
        Acquire::Busy(lease) => panic!("busy: {lease:?}"),
    }
}

pub(crate) fn window(id: &str, kind: WindowKind, owned: &Stored, epoch: Epoch) -> NewWindow {
    let id: WindowId = id.parse().unwrap();
    let (task, detail) = (owned.task.id.clone(), json!({"noted": id.as_str()}));
    NewWindow { id, kind, repo: repo(), task, sha: sha('a'), expected: Some(sha('b')), epoch, detail }
}

pub(crate) fn close(id: &str, epoch: Epoch, landing: Option<NewLanding>) -> WindowClose {
    WindowClose { id: id.parse().unwrap(), epoch, outcome: json!({"kind": "landed"}), landing }
}

pub(crate) fn landing(owned: &Stored) -> NewLanding {
    let proof = json!({"gates": {"security": "passed"}});
    NewLanding { task: owned.task.id.clone(), sha: sha('a'), tree: sha('c'), base: sha('b'), proof, coverage: None }
}

#[tokio::test]
async fn a_lease_has_one_holder_and_every_stale_epoch_is_refused_and_counted() {
    let (_dir, store) = fresh();
    let first = acquire(&store, "landing").await;
    assert_eq!(first, Epoch(1));
    let busy = store.acquire_lease(&repo(), holder("deploy"), at(9), at(999_999)).await.unwrap();
    let Acquire::Busy(lease) = busy else { panic!("taken although held: a clock frees nothing") };
    assert_eq!((lease.holder.purpose.as_str(), lease.expires), ("landing", at(60_000)));

    store.renew_lease(&repo(), first, at(90_000)).await.unwrap();
    let not_mine = store.release_lease(&repo(), first, &holder("deploy")).await;
    assert_eq!(not_mine, Err(LeaseError::NotHolder));
    store.reclaim_lease(&repo(), first, "its process is gone", at(5)).await.unwrap();
    assert_eq!(store.renew_lease(&repo(), first, at(99_000)).await, Err(LeaseError::NotHolder));
    let second = acquire(&store, "landing").await;
    assert_eq!(second, Epoch(3), "reclaiming raises the epoch by itself, before anybody acquires");
    let stale = store.release_lease(&repo(), first, &holder("landing")).await;
    assert_eq!(stale, Err(LeaseError::StaleEpoch { current: second }));
    let again = store.reclaim_lease(&repo(), first, "the same old proof", at(6)).await;
    assert_eq!(again, Err(LeaseError::StaleEpoch { current: second }));
    assert_eq!(store.refused_stale(), 4);
    store.release_lease(&repo(), second, &holder("landing")).await.unwrap();
    assert_eq!(store.leases().await.unwrap(), []);
    let kinds: Vec<_> = store.records_after(Seq(0), 9).await.unwrap().into_iter().map(|r| r.entry.kind).collect();
    assert_eq!(kinds, ["lease-reclaimed"]);
}

#[tokio::test]
async fn a_window_is_opened_once_attached_to_and_closed_with_its_proof() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let epoch = acquire(&store, "landing").await;
    let stale = store.open_window(window("win1", WindowKind::Land, &owned, Epoch(7)), at(2)).await;
    assert_eq!(stale, Err(WindowError::StaleEpoch { current: epoch }));
    store.open_window(window("win1", WindowKind::Land, &owned, epoch), at(2)).await.unwrap();
    let twice = store.open_window(window("win2", WindowKind::Land, &owned, epoch), at(3)).await;
    assert_eq!(twice, Err(WindowError::AlreadyOpen { id: "win1".parse().unwrap() }));
    let job: JobId = "job1".parse().unwrap();
    store.set_window_job(&"win1".parse().unwrap(), epoch, &job).await.unwrap();
    let open = store.open_windows(&repo()).await.unwrap();
    assert_eq!((open.len(), open[0].job.as_ref()), (1, Some(&job)));

    // The holder dies, the next one attaches: the old executor's word counts no more.
    store.reclaim_lease(&repo(), epoch, "its process is gone", at(4)).await.unwrap();
    let next = acquire(&store, "landing").await;
    let late = store.close_window(close("win1", epoch, None), at(5)).await;
    assert_eq!(late, Err(WindowError::StaleEpoch { current: next }));
    let closing = close("win1", next, Some(landing(&owned)));
    let closed = store.close_window(closing.clone(), at(6)).await.unwrap();
    assert_eq!(closed.coverage, None, "no coverage was measured");
    assert_eq!(store.close_window(closing, at(7)).await, Err(WindowError::AlreadyClosed));
    assert_eq!(store.open_windows(&repo()).await.unwrap(), []);
    assert_eq!(store.landing_of(&owned.task.id).await.unwrap().unwrap().tree, sha('c'));
    assert_eq!(store.baseline(&repo()).await.unwrap(), None);
    let again = store.open_window(window("win3", WindowKind::Land, &owned, next), at(8)).await;
    assert_eq!(again, Err(WindowError::AlreadyLanded));
    assert_eq!(store.windows_of(&owned.task.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn under_stop_no_window_opens_but_a_rollback_does() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let epoch = acquire(&store, "landing").await;
    store.open_window(window("win1", WindowKind::Land, &owned, epoch), at(2)).await.unwrap();
    store.record_stop(&owned.task.id, stop("ann", 3)).await.unwrap();
    store.close_window(close("win1", epoch, Some(landing(&owned))), at(4)).await.expect("what was sent is finished");
    let refused = store.open_window(window("win2", WindowKind::Deploy, &owned, epoch), at(5)).await;
    assert_eq!(refused, Err(WindowError::StopRecorded));
    store.open_window(window("win3", WindowKind::Rollback, &owned, epoch), at(5)).await.unwrap();
}

#[tokio::test]
async fn proof_lines_are_chained_and_a_changed_one_is_found() {
    let (dir, store) = fresh();
    for n in 1..=3 {
        let owned = owned(&store, &format!("task{n}"), &format!("ORC-{n}")).await;
        assert!(store.append_landing(&repo(), landing(&owned), at(n)).await.unwrap());
        assert!(!store.append_landing(&repo(), landing(&owned), at(n)).await.unwrap(), "one life lands once");
    }
    assert_eq!(store.verify_landings(&repo()).await.unwrap(), None);
    let conn = rusqlite::Connection::open(dir.path().join("data").join(orch_store::DB_FILE)).unwrap();
    conn.execute("UPDATE landings SET proof = '{\"gates\":{}}' WHERE id = 2", []).unwrap();
    assert_eq!(store.verify_landings(&repo()).await.unwrap(), Some(2));
}

pub(crate) fn job(id: &str, kind: JobKind, owned: Option<&Stored>, epoch: Epoch) -> JobRecord {
    let identity = JobIdentity {
        job: id.parse().unwrap(),
        boot_id: "boot".to_owned(),
        pid: 42,
        start_ticks: 7,
        pgid: 42,
        cgroup: None,
        socket: PathBuf::from("sock"),
        secret: "00".to_owned(),
        dir: PathBuf::from("dir"),
        containment: Containment::Shim,
        enforced: Default::default(),
    };
    let task = owned.map(|owned| owned.task.id.clone());
    JobRecord { identity, kind, task, run: None, epoch, label: "a job".to_owned(), at: at(1), notes: None }
}

pub(crate) fn exit(end: JobEnd) -> JobExit {
    JobExit { end, started: Some(at(2)), ended: at(9), proven_gone: true, swept: 0, log_cut: false }
}

#[tokio::test]
async fn a_job_goes_only_for_its_living_owner_and_not_under_stop() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let epoch = owned.epoch;
    let stale = store.job_prepared(job("job0", JobKind::Agent, Some(&owned), Epoch(0)), None).await;
    assert_eq!(stale, Err(JobError::StaleEpoch { current: epoch }));
    for id in ["job1", "job2"] {
        store.job_prepared(job(id, JobKind::Agent, Some(&owned), epoch), None).await.unwrap();
    }
    let (one, two): (JobId, JobId) = ("job1".parse().unwrap(), "job2".parse().unwrap());
    store.job_going(&one, at(2)).await.unwrap();
    assert_eq!(store.job_going(&one, at(2)).await, Err(JobError::NotPrepared { status: "running".to_owned() }));
    // Recorded and going in one breath, under the same fences.
    let stale = store.job_launched(job("job5", JobKind::Git, Some(&owned), Epoch(0)), None, at(2)).await;
    assert_eq!(stale, Err(JobError::StaleEpoch { current: epoch }));
    store.job_launched(job("job5", JobKind::Git, Some(&owned), epoch), None, at(2)).await.unwrap();
    let launched = store.job(&"job5".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((launched.status, launched.going), (JobStatus::Running, Some(at(2))));
    store.job_ended(&"job5".parse().unwrap(), exit(JobEnd::Exited { code: 0 })).await.unwrap();
    store.record_stop(&owned.task.id, stop("ann", 3)).await.unwrap();
    let stopped = store.job_launched(job("job6", JobKind::Git, Some(&owned), epoch), None, at(4)).await;
    assert_eq!(stopped, Err(JobError::StopRecorded));
    assert_eq!(store.job_going(&two, at(4)).await, Err(JobError::StopRecorded));
    let refused = store.job_prepared(job("job3", JobKind::Gate, Some(&owned), epoch), None).await;
    assert_eq!(refused, Err(JobError::StopRecorded));
    assert_eq!(store.live_jobs().await.unwrap().len(), 2);

    assert_eq!(store.cancel_queued_jobs(&owned.task.id, at(5)).await.unwrap(), std::slice::from_ref(&two));
    assert_eq!(store.cancel_queued_jobs(&owned.task.id, at(5)).await.unwrap(), []);
    assert_eq!(store.job_going(&two, at(6)).await, Err(JobError::NotPrepared { status: "cancelled".to_owned() }));
    store.job_ended(&one, exit(JobEnd::Cancelled)).await.unwrap();
    store.job_ended(&one, exit(JobEnd::Exited { code: 0 })).await.unwrap();
    let row = store.job(&one).await.unwrap().unwrap();
    assert_eq!(
        (row.status, row.exit.map(|e| e.end)),
        (JobStatus::Cancelled, Some(JobEnd::Cancelled)),
        "first end stays"
    );
    assert_eq!(store.live_jobs().await.unwrap(), []);
    store.job_prepared(job("job4", JobKind::Git, None, Epoch(0)), None).await.expect("housekeeping has no fence");
}

#[tokio::test]
async fn jobs_of_the_lane_are_fenced_by_the_lease_and_window_jobs_pass_a_stop() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let lease = acquire(&store, "landing").await;
    let stale = store.job_prepared(job("job0", JobKind::Push, Some(&owned), Epoch(9)), Some(repo())).await;
    assert_eq!(stale, Err(JobError::StaleEpoch { current: lease }));
    store.job_prepared(job("job1", JobKind::Push, Some(&owned), lease), Some(repo())).await.unwrap();
    store.job_prepared(job("job2", JobKind::Gate, Some(&owned), lease), Some(repo())).await.unwrap();
    store.record_stop(&owned.task.id, stop("ann", 3)).await.unwrap();
    store.job_going(&"job1".parse().unwrap(), at(4)).await.expect("an intent that was sent is finished");
    assert_eq!(store.job_going(&"job2".parse().unwrap(), at(4)).await, Err(JobError::StopRecorded));
    store.reclaim_lease(&repo(), lease, "gone", at(5)).await.unwrap();
    let late = store.job_prepared(job("job3", JobKind::Push, Some(&owned), lease), Some(repo())).await;
    assert!(matches!(late, Err(JobError::StaleEpoch { .. })), "{late:?}");
}

#[tokio::test]
async fn windows_keep_what_their_opener_noted_and_the_order_of_their_opening_whatever_the_clock_says() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let lease = acquire(&store, "landing").await;
    store.open_window(window("win2", WindowKind::Deploy, &owned, lease), at(50)).await.unwrap();
    store.close_window(close("win2", lease, None), at(51)).await.unwrap();
    // The clock was set back, and the id sorts before the other.
    store.open_window(window("win1", WindowKind::Rollback, &owned, lease), at(7)).await.unwrap();
    let windows = store.windows_of(&owned.task.id).await.unwrap();
    let ids: Vec<&str> = windows.iter().map(|w| w.id.as_str()).collect();
    assert_eq!(ids, ["win2", "win1"]);
    assert_eq!(windows[1].detail, Some(json!({"noted": "win1"})));
}

#[tokio::test]
async fn requests_to_go_on_are_counted_for_their_own_task() {
    let (_dir, store) = fresh();
    let (one, two) = (owned(&store, "task1", "ORC-1").await, owned(&store, "task2", "ORC-2").await);
    for kind in ["retry-requested", "note", "retry-requested"] {
        store.append(Subject::task(&one.task), vec![Entry::new(kind, "x")], at(9)).await.unwrap();
    }
    assert_eq!(store.retries_of(&one.task.id).await.unwrap(), 2);
    assert_eq!(store.retries_of(&two.task.id).await.unwrap(), 0);
}

#[tokio::test]
async fn a_lost_job_may_still_be_found() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let id: JobId = "job1".parse().unwrap();
    store.job_prepared(job("job1", JobKind::Agent, Some(&owned), owned.epoch), None).await.unwrap();
    store.job_ended(&id, exit(JobEnd::Lost)).await.unwrap();
    assert_eq!(store.job(&id).await.unwrap().unwrap().status, JobStatus::Lost);
    store.job_ended(&id, exit(JobEnd::Exited { code: 0 })).await.unwrap();
    assert_eq!(store.jobs_of(&owned.task.id).await.unwrap()[0].status, JobStatus::Ended);
    let done = ending(&owned.task, owned.version, owned.epoch, State::Done { at: at(9) });
    store.commit(done).await.unwrap();
}
