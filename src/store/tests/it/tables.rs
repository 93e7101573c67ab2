//! The tables one by one: outbox lanes, inbox, board, receipts, runs, evidence, limits, modes.

use orch_domain::agent::Usage;
use orch_domain::effect::{Outgoing, ShownState};
use orch_domain::ids::RunId;
use orch_domain::lane::LaneMode;
use orch_domain::stop::{ReceiptLine, StepResult, StopStep};
use orch_domain::time::Millis;
use orch_domain::turns::{Turn, TurnEnd, TurnFacts};
use orch_store::{
    Ceiling, Change, Delivered, EvidenceKey, Moved, NewBoardItem, NewRun, NewVerdict, RepoMode, Reserve, Spend,
    StoreError, VerdictOutcome,
};
use serde_json::json;

use crate::support::*;

fn show(state: ShownState) -> Outgoing {
    Outgoing::Show { state }
}

fn comment(text: &str) -> Outgoing {
    Outgoing::Comment { text: text.to_owned() }
}

#[tokio::test]
async fn the_outbox_keeps_order_within_a_lane_and_the_latest_show_wins() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let mut version = owned.version;
    for outgoing in [
        vec![show(ShownState::InProgress), comment("one"), comment("two")],
        vec![show(ShownState::Blocked)],
        vec![show(ShownState::Done)],
    ] {
        version = store.commit(Change { outgoing, ..forward(&owned.task, version, owned.epoch) }).await.unwrap();
    }
    let pending = store.pending_outbox(10, at(5)).await.unwrap();
    let sent: Vec<_> = pending.iter().map(|p| p.outgoing.clone()).collect();
    assert_eq!(sent, [comment("one"), show(ShownState::Done)]);
    assert_eq!(pending[0].key, format!("{}-2-1-comment", owned.task.id));
    assert_eq!(pending[0].tracker_item.as_deref(), Some("item-ORC-1"));

    store.settle(pending[1].id, at(6)).await.unwrap();
    store.outbox_failed(pending[0].id, "away", at(100)).await.unwrap();
    assert_eq!(store.pending_outbox(10, at(50)).await.unwrap(), [], "older shows are superseded, the comment waits");
    assert_eq!(store.next_outbox_at().await.unwrap(), Some(at(100)));
    let again = store.pending_outbox(10, at(100)).await.unwrap();
    assert_eq!((again[0].attempts, again[0].last_error.as_deref()), (1, Some("away")));
    store.abandon(again[0].id, "refused for good", at(101)).await.unwrap();
    let next = store.pending_outbox(10, at(101)).await.unwrap();
    assert_eq!(next[0].outgoing, comment("two"));
    store.settle(next[0].id, at(102)).await.unwrap();
    assert_eq!(store.outbox_depth().await.unwrap(), 0);
    assert_eq!(store.next_outbox_at().await.unwrap(), None);
}

#[tokio::test]
async fn a_newer_show_is_not_held_up_by_an_older_one_that_waits() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let change =
        Change { outgoing: vec![show(ShownState::InProgress)], ..forward(&owned.task, owned.version, owned.epoch) };
    let version = store.commit(change).await.unwrap();
    let old = store.pending_outbox(1, at(5)).await.unwrap()[0].id;
    store.outbox_failed(old, "away", at(9_999)).await.unwrap();
    let change = Change { outgoing: vec![show(ShownState::Done)], ..forward(&owned.task, version, owned.epoch) };
    store.commit(change).await.unwrap();
    let pending = store.pending_outbox(10, at(6)).await.unwrap();
    assert_eq!(pending.len(), 1);
    // The old one's answer comes late: it settles itself, never the newer one.
    store.settle(old, at(7)).await.unwrap();
    assert_eq!(store.pending_outbox(10, at(8)).await.unwrap(), pending);
}

#[tokio::test]
async fn a_delivery_is_seen_once_per_content() {
    let (_dir, store) = fresh();
    let first = store.accept_delivery("plane", "h1", "{}", at(1)).await.unwrap();
    let Delivered::First { id } = first else { panic!("{first:?}") };
    assert_eq!(store.accept_delivery("plane", "h1", "{}", at(2)).await.unwrap(), Delivered::Seen { id });
    assert!(matches!(store.accept_delivery("gitea", "h1", "{}", at(2)).await.unwrap(), Delivered::First { .. }));
    assert_eq!(store.unprocessed_inbox(10).await.unwrap().len(), 2);
    store.inbox_done(id, "stop recorded", at(3)).await.unwrap();
    assert_eq!(store.unprocessed_inbox(10).await.unwrap().len(), 1);
    assert_eq!(
        store.accept_delivery("plane", "h1", "{}", at(4)).await.unwrap(),
        Delivered::Seen { id },
        "done, and seen"
    );
}

fn item(id: &str, key: &str) -> NewBoardItem {
    NewBoardItem {
        id: id.to_owned(),
        key: key.parse().unwrap(),
        title: "t".to_owned(),
        body: "b".to_owned(),
        repo: repo(),
        state: "Backlog".to_owned(),
        priority: 1,
        extra: json!({"depends_on": ["ORC-2"]}),
        by: "ann".to_owned(),
    }
}

#[tokio::test]
async fn the_board_numbers_every_move() {
    let (_dir, store) = fresh();
    assert_eq!(store.tracker_add_item(item("i1", "ORC-1"), at(1)).await.unwrap(), 1);
    let twice = store.tracker_add_item(item("i2", "ORC-1"), at(1)).await;
    assert!(matches!(twice, Err(StoreError::Refused { .. })), "{twice:?}");
    assert_eq!(store.tracker_move("i1", "To Analyse", "ann", None, at(2)).await.unwrap(), Moved::Moved(2));
    assert_eq!(store.tracker_move("i1", "To Analyse", "ann", None, at(3)).await.unwrap(), Moved::AlreadyThere);
    let elsewhere = store.tracker_move("i1", "Done", "orch", Some("In Progress"), at(4)).await.unwrap();
    assert_eq!(elsewhere, Moved::Elsewhere { state: "To Analyse".to_owned() });
    assert_eq!(store.tracker_move("i1", "Done", "orch", Some("To Analyse"), at(5)).await.unwrap(), Moved::Moved(3));
    let after: Vec<_> =
        store.tracker_transitions_after(1, 10).await.unwrap().into_iter().map(|t| (t.id, t.to)).collect();
    assert_eq!(after, [(2, "To Analyse".to_owned()), (3, "Done".to_owned())]);
    assert_eq!(store.tracker_history("i1").await.unwrap()[0].from, None);
    assert!(store.tracker_comment("i1", "k1", "hello", at(6)).await.unwrap());
    assert!(!store.tracker_comment("i1", "k1", "hello again", at(6)).await.unwrap());
    assert_eq!(store.tracker_comments("i1").await.unwrap().len(), 1);
    let found = store.tracker_item_by_key(&"ORC-1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((found.state.as_str(), &found.extra["depends_on"][0]), ("Done", &json!("ORC-2")));
    assert_eq!(store.tracker_items().await.unwrap().len(), 1);
    let missing = store.tracker_move("nope", "Done", "ann", None, at(7)).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn a_receipt_keeps_what_was_done_and_its_order() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let id = owned.task.id.clone();
    assert_eq!(store.receipt(&id).await.unwrap(), None);
    store.record_stop(&id, stop("ann", 1)).await.unwrap();
    let line = |step, n, result| ReceiptLine { step, at: at(n), result };
    let done = |proof: &str| StepResult::Done { proof: proof.to_owned() };
    let pending = StepResult::Pending { why: "forge away".to_owned() };
    store.put_receipt_line(&id, line(StopStep::RemoteBranch, 2, pending)).await.unwrap();
    store.put_receipt_line(&id, line(StopStep::Recorded, 2, done("row"))).await.unwrap();
    assert!(store.put_receipt_line(&id, line(StopStep::RemoteBranch, 3, done("gone"))).await.unwrap());
    let late = StepResult::Unproven { why: "late".to_owned() };
    assert!(!store.put_receipt_line(&id, line(StopStep::RemoteBranch, 4, late)).await.unwrap());
    let receipt = store.receipt(&id).await.unwrap().unwrap();
    assert_eq!((receipt.by.as_str(), receipt.outcome.as_str()), ("ann", "stopping"));
    let lines: Vec<_> = receipt.lines.iter().map(|l| (l.step, l.result.clone())).collect();
    assert_eq!(lines, [(StopStep::Recorded, done("row")), (StopStep::RemoteBranch, done("gone"))]);
}

#[tokio::test]
async fn runs_begin_and_end_once() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let run = NewRun {
        id: "run1".parse().unwrap(),
        task: owned.task.id.clone(),
        stage: owned.task.stage.clone(),
        attempt: 1,
        kind: "agent".to_owned(),
        log_dir: None,
        started: at(3),
    };
    store.start_run(run.clone()).await.unwrap();
    store.start_run(run.clone()).await.unwrap();
    assert_eq!(store.open_runs().await.unwrap().len(), 1);
    let usage = Usage { output_tokens: Some(7), ..Usage::default() };
    store.end_run(&run.id, json!({"end": "exited"}), Some(usage), at(4)).await.unwrap();
    store.end_run(&run.id, json!({"end": "lost"}), None, at(5)).await.unwrap();
    let rows = store.runs(&owned.task.id).await.unwrap();
    assert_eq!((rows.len(), rows[0].ended, rows[0].usage), (1, Some(at(4)), Some(usage)));
    assert_eq!(rows[0].outcome, Some(json!({"end": "exited"})));
}

#[tokio::test]
async fn only_conclusive_unexpired_verdicts_on_the_same_evidence_are_found() {
    let (_dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    let key = EvidenceKey {
        gate: "merge".to_owned(),
        repo: repo(),
        base: sha('b'),
        head: sha('a'),
        tree: sha('c'),
        settings: "s".to_owned(),
        environment: "e".to_owned(),
    };
    let verdict = |outcome, expires| NewVerdict {
        key: key.clone(),
        outcome,
        report: Some(("reports/16-merge-report.md".into(), "00".to_owned())),
        findings: None,
        task: Some(owned.task.id.clone()),
        expires,
    };
    store.insert_verdict(verdict(VerdictOutcome::CouldNotRun, None), at(1)).await.unwrap();
    assert_eq!(store.find_verdict(&key, at(2)).await.unwrap(), None);
    store.insert_verdict(verdict(VerdictOutcome::Passed, Some(at(50))), at(3)).await.unwrap();
    store.insert_verdict(verdict(VerdictOutcome::CouldNotRun, None), at(4)).await.unwrap();
    let found = store.find_verdict(&key, at(5)).await.unwrap().unwrap();
    assert_eq!(found.verdict.outcome, VerdictOutcome::Passed);
    assert_eq!(store.find_verdict(&key, at(50)).await.unwrap(), None, "expired");
    for other in [
        EvidenceKey { head: sha('d'), ..key.clone() },
        EvidenceKey { repo: "other".parse().unwrap(), ..key.clone() },
        EvidenceKey { tree: sha('d'), ..key.clone() },
        EvidenceKey { base: sha('d'), ..key.clone() },
        EvidenceKey { environment: "f".to_owned(), ..key.clone() },
        EvidenceKey { settings: "t".to_owned(), ..key.clone() },
        EvidenceKey { gate: "security".to_owned(), ..key.clone() },
    ] {
        assert_eq!(store.find_verdict(&other, at(5)).await.unwrap(), None, "{other:?}");
    }
    assert_eq!(store.verdicts_of(&owned.task.id).await.unwrap().len(), 3);
}

#[tokio::test]
async fn spending_is_reserved_before_and_settled_after_each_once() {
    let (_dir, store) = fresh();
    let run = |n: u32| format!("run{n}").parse::<RunId>().unwrap();
    let tokens = |tokens| Spend { tokens, cost_micro_usd: 0 };
    let ceiling = Ceiling { tokens: Some(100), cost_micro_usd: None };
    assert_eq!(store.reserve_spend(&run(1), "all", tokens(60), ceiling, at(1)).await.unwrap(), Reserve::Granted);
    assert_eq!(store.reserve_spend(&run(1), "all", tokens(60), ceiling, at(1)).await.unwrap(), Reserve::Granted);
    let over = store.reserve_spend(&run(2), "all", tokens(60), ceiling, at(1)).await.unwrap();
    assert_eq!(over, Reserve::Over { spent: tokens(60) });
    store.settle_spend(&run(1), tokens(10)).await.unwrap();
    store.settle_spend(&run(1), tokens(99)).await.unwrap();
    assert_eq!(store.spent("all", at(2)).await.unwrap(), tokens(10));
    assert_eq!(store.reserve_spend(&run(2), "all", tokens(90), ceiling, at(2)).await.unwrap(), Reserve::Granted);
    let none_left = store.reserve_spend(&run(3), "all", tokens(0), ceiling, at(2)).await.unwrap();
    assert_eq!(none_left, Reserve::Over { spent: tokens(100) });
    let tomorrow = at(24 * 60 * 60 * 1_000);
    assert_eq!(store.spent("all", tomorrow).await.unwrap(), tokens(0));
    store.settle_spend(&run(2), tokens(u64::MAX)).await.expect("a wild report is bounded, not refused");
}

#[tokio::test]
async fn restarts_are_counted_in_their_window_over_reopens() {
    let (dir, store) = fresh();
    let window = Millis(100);
    for (n, count) in [(0, 1), (50, 2), (100, 3), (120, 3)] {
        assert_eq!(store.note_restart("task:ORC-1", at(n), window).await.unwrap(), count, "at {n}");
    }
    drop(store);
    let store = orch_store::Store::open(&config(&dir)).unwrap();
    assert_eq!(store.note_restart("task:ORC-1", at(130), window).await.unwrap(), 4);
    assert_eq!(store.note_restart("task:ORC-2", at(130), window).await.unwrap(), 1);
    store.forget_restarts("task:ORC-1").await.unwrap();
    assert_eq!(store.note_restart("task:ORC-1", at(131), window).await.unwrap(), 1);
}

#[tokio::test]
async fn a_lane_mode_says_who_and_why() {
    let (_dir, store) = fresh();
    assert_eq!(store.repo_modes().await.unwrap(), []);
    let mode =
        |mode, why: &str| RepoMode { repo: repo(), mode, who: "ann".to_owned(), why: why.to_owned(), since: at(1) };
    store.set_repo_mode(mode(LaneMode::Paused, "main is red")).await.unwrap();
    store.set_repo_mode(mode(LaneMode::Running, "fixed")).await.unwrap();
    assert_eq!(store.repo_modes().await.unwrap(), [mode(LaneMode::Running, "fixed")]);
}

#[tokio::test]
async fn the_newest_turns_are_kept_oldest_first_and_of_one_repository() {
    let (_dir, store) = fresh_inline();
    let task = owned(&store, "task0001", "WEB-1").await.task;
    let turn = |n: i64| Turn {
        task: task.id.clone(),
        key: task.key.clone(),
        ready: at(n),
        queued: at(n + 1),
        began: at(n + 2),
        ended: at(n + 3),
        end: TurnEnd::SentBack,
        facts: TurnFacts { conflict: true, main: Some(sha('a')), ..TurnFacts::default() },
    };
    for n in 0..1_100 {
        store.insert_turn(&repo(), turn(n)).await.unwrap();
    }
    store.insert_turn(&"other".parse().unwrap(), turn(0)).await.unwrap();
    assert_eq!(store.turns(&repo(), 2).await.unwrap(), [turn(1_098), turn(1_099)]);
    assert_eq!(store.turns(&repo(), 5_000).await.unwrap().len(), 1_000);
    assert_eq!(store.turns(&"other".parse().unwrap(), 9).await.unwrap(), [turn(0)]);
}
