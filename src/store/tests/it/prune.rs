//! Pruning: what nobody asks for goes, a few rows at a time; what is live, proven or answered for stays for ever.

use std::collections::BTreeMap;

use orch_domain::effect::Outgoing;
use orch_domain::ids::{Epoch, Seq};
use orch_domain::job::{JobEnd, JobKind, JobStatus};
use orch_domain::journal::Entry;
use orch_domain::stop::{ReceiptLine, StepResult, StopStep};
use orch_domain::task::State;
use orch_domain::time::{Millis, Timestamp};
use orch_store::{
    Ceiling, Change, DB_FILE, Delivered, Keep, Life, NewLanding, Pruned, Reserve, Spend, Store, Stored, Subject,
};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use crate::lane::{exit, job};
use crate::support::*;

const DAY: i64 = 24 * 60 * 60 * 1_000;
const MONTH: Keep = Keep { rows: Millis(30 * DAY as u64), journal: None };

/// A time so many days after all that was seeded.
fn days(n: i64) -> Timestamp {
    at(n * DAY)
}

fn count(dir: &TempDir, sql: &str) -> i64 {
    let file = Connection::open(dir.path().join("data").join(DB_FILE)).unwrap();
    file.query_row(&format!("SELECT count(*) FROM {sql}"), [], |row| row.get(0)).unwrap()
}

/// Rows per table.
fn counts(dir: &TempDir) -> BTreeMap<String, i64> {
    let file = Connection::open(dir.path().join("data").join(DB_FILE)).unwrap();
    let mut tables =
        file.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'").unwrap();
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    names.into_iter().map(|name| (name.clone(), count(dir, &name))).collect()
}

/// Gives a task one of everything, and leaves it live.
async fn furnish(store: &Store, id: &str, key: &str) -> Stored {
    let task = task_with(id, key, 1);
    let entry = Entry::new("created", "created");
    store.create_task(&task, vec![entry], Vec::new(), Some(format!("board:{id}")), at(1)).await.unwrap();
    let mut owned = store.own_task(&task.id, at(2)).await.unwrap();
    let outgoing = vec![Outgoing::Comment { text: "one".to_owned() }];
    let change = Change { outgoing, ..forward(&owned.task, owned.version, owned.epoch) };
    owned.task = change.task.clone();
    owned.version = store.commit(change).await.unwrap();
    for sent in store.pending_outbox(10, at(5)).await.unwrap() {
        store.settle(sent.id, at(6)).await.unwrap();
    }
    let ends = [
        ("ok", JobKind::Git, JobEnd::Exited { code: 0 }),
        ("bad", JobKind::Git, JobEnd::Exited { code: 128 }),
        ("agent", JobKind::Agent, JobEnd::Exited { code: 0 }),
        ("gate", JobKind::Gate, JobEnd::Exited { code: 1 }),
        ("push", JobKind::Push, JobEnd::Exited { code: 0 }),
        ("deploy", JobKind::Deploy, JobEnd::Lost),
    ];
    for (name, kind, end) in ends {
        let id = format!("{id}{name}");
        let record = job(&id, kind, Some(&owned), owned.epoch);
        store.job_prepared(record.clone(), None).await.unwrap();
        store.job_going(&record.identity.job, at(3)).await.unwrap();
        store.job_ended(&record.identity.job, exit(end)).await.unwrap();
    }
    let line =
        ReceiptLine { step: StopStep::Recorded, at: at(4), result: StepResult::Done { proof: "recorded".to_owned() } };
    store.put_receipt_line(&task.id, line).await.unwrap();
    owned
}

async fn close(store: &Store, owned: &Stored) {
    let change = ending(&owned.task, owned.version, owned.epoch, State::Done { at: at(20) });
    store.commit(Change { now: at(20), ..change }).await.unwrap();
}

#[tokio::test]
async fn what_is_over_goes_and_what_is_live_or_proven_stays() {
    let (dir, store) = fresh();
    furnish(&store, "live1", "ORC-1").await;
    let closed = furnish(&store, "done1", "ORC-2").await;
    close(&store, &closed).await;
    let proof = json!({"gates": {"merge": "passed"}});
    let (task, sha, tree, base) = (closed.task.id.clone(), sha('a'), sha('c'), sha('b'));
    let landing = NewLanding { task, sha, tree, base, proof, coverage: None };
    store.append_landing(&repo(), landing, at(19)).await.unwrap();
    let loose = job("loose", JobKind::Git, None, Epoch(0));
    store.job_prepared(loose.clone(), None).await.unwrap();
    let before = counts(&dir);

    assert_eq!(store.prune(MONTH, at(DAY)).await.unwrap(), Pruned::default(), "nothing is old yet");
    let soon = store.prune(MONTH, days(2)).await.unwrap();
    assert_eq!(soon, Pruned { jobs: 1, ..Pruned::default() }, "the command of the closed task that succeeded");
    let counted = store.prunable(MONTH, days(31)).await.unwrap();
    let later = store.prune(MONTH, days(31)).await.unwrap();
    assert_eq!(counted, later, "what is counted is what goes");
    assert_eq!(later, Pruned { jobs: 1, outbox: 1, ..Pruned::default() }, "the failure, and the comment that was sent");
    assert_eq!(store.prune(MONTH, days(4_000)).await.unwrap(), Pruned::default(), "the rest stays for ever");

    let mut expected = before;
    *expected.get_mut("jobs").unwrap() -= 2;
    *expected.get_mut("outbox").unwrap() -= 1;
    assert_eq!(counts(&dir), expected, "no other table lost a row");
    assert_eq!(count(&dir, "outbox WHERE task = 'live1'"), 1, "a live task's sent effect");
    assert_eq!(count(&dir, "jobs WHERE task = 'live1' AND kind = 'git'"), 2, "a live task's commands");
    assert_eq!(count(&dir, "jobs WHERE task = 'done1'"), 4, "agent, gate, push and deploy");
    assert_eq!(count(&dir, "consumed_transitions"), 2, "a transition that began a life never begins another");
    let row = store.job(&loose.identity.job).await.unwrap().unwrap();
    assert_eq!(row.status, JobStatus::Prepared, "a command that has not ended");
    assert_eq!(store.verify_landings(&repo()).await.unwrap(), None, "the chain of proofs is whole");
    assert_eq!(store.integrity_check().await.unwrap(), None);
}

#[tokio::test]
async fn an_effect_that_was_not_sent_stays_however_old_it_is() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "done1", "ORC-1").await;
    let outgoing = vec![Outgoing::Comment { text: "cannot be sent".to_owned() }];
    let change = ending(&owned.task, owned.version, owned.epoch, State::Done { at: at(20) });
    store.commit(Change { outgoing, ..change }).await.unwrap();
    assert_eq!(store.prune(MONTH, days(400)).await.unwrap().total(), 0);
    assert_eq!(store.outbox_depth().await.unwrap(), 1);
}

#[tokio::test]
async fn deliveries_go_once_they_were_acted_upon_but_never_those_of_the_board() {
    let (_dir, store) = fresh();
    for source in ["plane", "board"] {
        for hash in ["open", "done"] {
            let Delivered::First { id } = store.accept_delivery(source, hash, "1", at(1)).await.unwrap() else {
                panic!("{source} {hash} is new")
            };
            if hash == "done" {
                store.inbox_done(id, "taken up", at(2)).await.unwrap();
            }
        }
    }
    assert_eq!(store.prune(MONTH, days(31)).await.unwrap(), Pruned { inbox: 1, ..Pruned::default() });
    assert_eq!(store.unprocessed_inbox(10).await.unwrap().len(), 2);
    let again = store.accept_delivery("board", "done", "1", days(32)).await.unwrap();
    assert!(matches!(again, Delivered::Seen { .. }), "the board is read again at each start: {again:?}");
}

#[tokio::test]
async fn spending_and_restarts_of_the_past_go_and_todays_count() {
    let (_dir, store) = fresh();
    let tokens = |tokens| Spend { tokens, cost_micro_usd: 0 };
    let ceiling = Ceiling { tokens: Some(100), cost_micro_usd: None };
    for (run, when) in [("run1", at(1)), ("run2", days(31))] {
        let granted = store.reserve_spend(&run.parse().unwrap(), "all", tokens(60), ceiling, when).await.unwrap();
        assert_eq!(granted, Reserve::Granted);
        store.note_restart(&format!("actor {run}"), when, Millis(1_000)).await.unwrap();
    }
    let pruned = store.prune(MONTH, days(31)).await.unwrap();
    assert_eq!(pruned, Pruned { limits: 1, restarts: 1, ..Pruned::default() });
    assert_eq!(store.spent("all", days(31)).await.unwrap(), tokens(60));
}

#[tokio::test]
async fn journals_stay_unless_the_operator_says_otherwise_and_positions_never_come_back() {
    let (dir, store) = fresh();
    let live = owned(&store, "live1", "ORC-1").await;
    let closed = owned(&store, "done1", "ORC-2").await;
    close(&store, &closed).await;
    store.append(Subject::repo(&repo()), vec![Entry::new("note", "of the lane")], at(5)).await.unwrap();
    let all = store.records_after(Seq(0), 100).await.unwrap();
    assert_eq!(store.prune(MONTH, days(4_000)).await.unwrap().journal, 0);

    let yearly = Keep { journal: Some(Millis(365 * DAY as u64)), ..MONTH };
    assert_eq!(store.prune(yearly, days(365)).await.unwrap().journal, 0, "closed a moment less than a year ago");
    let gone = store.prune(yearly, days(366)).await.unwrap().journal;
    let left = store.records_after(Seq(0), 100).await.unwrap();
    assert_eq!(gone + left.len(), all.len());
    let (newest, others) = left.split_last().unwrap();
    assert_eq!(newest.seq, all.last().unwrap().seq, "the newest stays, whatever it is about");
    assert!(gone >= 2 && others.iter().all(|r| r.task.as_ref() == Some(&live.task.id)), "{left:?}");
    assert_eq!(store.journal(&closed.task.id, Seq(0), 10).await.unwrap(), []);
    assert_eq!(store.journal(&live.task.id, Seq(0), 10).await.unwrap(), others);
    drop(store);
    let store = Store::open(&config(&dir)).unwrap();
    let next = store.append(Subject::default(), vec![Entry::new("note", "later")], days(366)).await.unwrap();
    assert!(next > all.last().unwrap().seq);
}

#[tokio::test]
async fn more_than_a_batch_goes_in_one_round() {
    let (dir, store) = fresh();
    for n in 0..450 {
        let Delivered::First { id } = store.accept_delivery("plane", &n.to_string(), "", at(n)).await.unwrap() else {
            panic!("{n} is new")
        };
        store.inbox_done(id, "seen", at(n)).await.unwrap();
    }
    assert_eq!(store.prune(MONTH, days(31)).await.unwrap().inbox, 450);
    assert_eq!(count(&dir, "inbox"), 0);
}

#[tokio::test]
async fn a_jobs_trace_says_what_decides_over_its_folder() {
    let (_dir, store) = fresh_inline();
    let live = furnish(&store, "live1", "ORC-1").await;
    let closed = furnish(&store, "done1", "ORC-2").await;
    close(&store, &closed).await;
    let trace = async |id: &str| store.job_trace(&id.parse().unwrap()).await.unwrap();
    let ok = trace("live1ok").await.unwrap();
    assert_eq!((ok.kind, ok.status, ok.succeeded, ok.ended), (JobKind::Git, JobStatus::Ended, true, Some(at(9))));
    assert_eq!(ok.life, Life::Live);
    let lost = trace("done1deploy").await.unwrap();
    assert_eq!((lost.kind, lost.status, lost.succeeded), (JobKind::Deploy, JobStatus::Lost, false));
    assert_eq!(lost.life, Life::Closed(at(20)));
    assert_eq!(trace("stranger").await, None);
    assert_eq!(store.life_of(&live.task.id).await.unwrap(), Some((repo(), Life::Live)));
    assert_eq!(store.life_of(&closed.task.id).await.unwrap(), Some((repo(), Life::Closed(at(20)))));
    assert_eq!(store.life_of(&task_id("stranger")).await.unwrap(), None);
}
