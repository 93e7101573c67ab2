//! The coverage baseline: raised with the landing or not at all, once, under any order of landings, and never down by itself.

use orch_domain::coverage::{Because, Format, Landed, Mark, Rebase, Step, Totals};
use orch_store::{BaselineSet, NewBaseline, NewLanding, Ratcheted, Store, WindowError, WindowKind};
use proptest::prelude::*;

use crate::lane::{acquire, close, landing, window};
use crate::support::*;

fn totals(covered: u64, total: u64) -> Totals {
    Totals::new(covered, total).unwrap()
}

fn measured(covered: u64, total: u64) -> Landed {
    Landed {
        totals: totals(covered, total),
        excluded: Some(3),
        format: Format::CoveragePy,
        tool: Some("coverage.py 7.17.3".to_owned()),
        measured_by: "by".to_owned(),
        configuration: "conf".to_owned(),
        measurement: format!("m{covered}"),
        rebase: None,
    }
}

fn by_hand(replaces: Option<u64>, covered: u64, total: u64) -> NewBaseline {
    let reason = "an old module was thrown out".to_owned();
    NewBaseline { replaces, totals: totals(covered, total), sha: sha('d'), set_by: "ann".to_owned(), reason }
}

/// Lands through a window, as the lane does.
async fn land(store: &Store, n: u32, measured: Option<Landed>) -> Option<Ratcheted> {
    let owned = owned(store, &format!("task{n}"), &format!("ORC-{n}")).await;
    let epoch = acquire(store, "landing").await;
    let id = format!("win{n}");
    store.open_window(window(&id, WindowKind::Land, &owned, epoch), at(2)).await.unwrap();
    let landing = NewLanding { coverage: measured, ..landing(&owned) };
    let closed = store.close_window(close(&id, epoch, Some(landing)), at(3)).await.unwrap();
    store.reclaim_lease(&repo(), epoch, "the test goes on", at(4)).await.unwrap();
    closed.coverage
}

#[tokio::test]
async fn landings_raise_the_baseline_and_each_leaves_one_line_of_history() {
    let (_dir, store) = fresh();
    assert_eq!(
        land(&store, 1, Some(measured(80, 100))).await,
        Some(Ratcheted { step: Step::First, revision: Some(1) })
    );
    assert_eq!(land(&store, 2, Some(measured(79, 100))).await, Some(Ratcheted { step: Step::Kept, revision: Some(1) }));
    assert_eq!(land(&store, 3, None).await, None, "not measured: nothing moves");
    assert_eq!(
        land(&store, 4, Some(measured(81, 100))).await,
        Some(Ratcheted { step: Step::Raised, revision: Some(2) })
    );
    let now = store.baseline(&repo()).await.unwrap().unwrap();
    assert_eq!((now.totals, now.set_by.as_str(), now.step), (totals(81, 100), "ORC-4", Step::Raised));
    assert_eq!((now.measured_by.as_deref(), now.measurement.as_deref()), (Some("by"), Some("m81")));
    let lines = store.coverage_history(&repo(), None, 9).await.unwrap();
    let shown: Vec<_> = lines.iter().map(|l| (l.set_by.as_str(), l.totals.covered(), l.revision)).collect();
    assert_eq!(shown, [("ORC-4", 81, Some(2)), ("ORC-2", 79, Some(1)), ("ORC-1", 80, Some(1))]);
    assert_eq!(lines[1].baseline, Some(totals(80, 100)), "what it was held to afterwards");
    let older = store.coverage_history(&repo(), Some(lines[0].id), 1).await.unwrap();
    assert_eq!(older[0].set_by, "ORC-2");
    assert_eq!(store.coverage_history(&"other".parse().unwrap(), None, 9).await.unwrap(), []);
    assert_eq!(store.kept_measurements().await.unwrap(), ["m81"]);
}

#[tokio::test]
async fn a_person_sets_the_baseline_by_compare_and_set_and_a_landing_raises_it_again() {
    let (dir, store) = fresh();
    assert_eq!(store.set_baseline(&repo(), by_hand(Some(1), 5, 10), at(1)).await.unwrap(), BaselineSet::Moved(None));
    assert_eq!(store.set_baseline(&repo(), by_hand(None, 9, 10), at(1)).await.unwrap(), BaselineSet::Set(1));
    assert_eq!(store.set_baseline(&repo(), by_hand(None, 5, 10), at(2)).await.unwrap(), BaselineSet::Moved(Some(1)));
    assert_eq!(store.set_baseline(&repo(), by_hand(Some(1), 5, 10), at(2)).await.unwrap(), BaselineSet::Set(2));
    assert_eq!(land(&store, 1, Some(measured(6, 10))).await, Some(Ratcheted { step: Step::Raised, revision: Some(3) }));
    let lines = store.coverage_history(&repo(), None, 9).await.unwrap();
    let steps: Vec<_> = lines.iter().map(|line| (line.step, line.task.is_some())).collect();
    assert_eq!(steps, [(Step::Raised, true), (Step::Set, false), (Step::Set, false)]);
    assert_eq!(lines[2].reason, "an old module was thrown out");
    let conn = rusqlite::Connection::open(dir.path().join("data").join(orch_store::DB_FILE)).unwrap();
    for sql in ["UPDATE coverage_history SET covered = 1", "DELETE FROM coverage_history"] {
        let refused = conn.execute(sql, []).expect_err("append-only").to_string();
        assert!(refused.contains("append-only"), "{refused}");
    }
}

#[tokio::test]
async fn only_a_flagged_landing_lowers_it_and_only_while_what_it_was_judged_against_stands() {
    let (_dir, store) = fresh();
    land(&store, 1, Some(measured(90, 100))).await;
    let removal = |revision| Some(Rebase { because: Because::Removal, revision, floor: None });
    let lower = |rebase| Landed { rebase, ..measured(7, 8) };
    assert_eq!(land(&store, 2, Some(lower(removal(7)))).await.unwrap().step, Step::Kept);
    assert_eq!(land(&store, 3, Some(lower(removal(1)))).await.unwrap().step, Step::Removal);
    assert_eq!(store.baseline(&repo()).await.unwrap().unwrap().totals, totals(7, 8));
    let floor = Some(Mark { totals: totals(8, 10), sha: sha('e'), measurement: "base".to_owned() });
    let again = Some(Rebase { because: Because::MeasuredAgain, revision: 2, floor });
    let other_tool = Landed { rebase: again, measured_by: "other".to_owned(), ..measured(70, 100) };
    assert_eq!(land(&store, 4, Some(other_tool)).await.unwrap().step, Step::MeasuredAgain);
    let now = store.baseline(&repo()).await.unwrap().unwrap();
    assert_eq!((now.totals, now.sha, now.excluded), (totals(8, 10), sha('e'), None), "not below what base measured");
    assert_eq!(now.measured_by.as_deref(), Some("other"));
}

#[tokio::test]
async fn what_landed_counts_although_its_task_was_stopped_and_a_person_may_have_merged_it() {
    let (_dir, store) = fresh();
    let stopped = owned(&store, "task1", "ORC-1").await;
    let epoch = acquire(&store, "landing").await;
    store.open_window(window("win1", WindowKind::Land, &stopped, epoch), at(2)).await.unwrap();
    store.record_stop(&stopped.task.id, stop("ann", 3)).await.unwrap();
    let landed = NewLanding { coverage: Some(measured(8, 10)), ..landing(&stopped) };
    let closed = store.close_window(close("win1", epoch, Some(landed.clone())), at(4)).await.unwrap();
    assert_eq!(closed.coverage.map(|c| c.step), Some(Step::First));
    assert!(!store.append_landing(&repo(), landed, at(5)).await.unwrap(), "it has landed");
    let merged = owned(&store, "task2", "ORC-2").await;
    let landed = NewLanding { coverage: Some(measured(9, 10)), ..landing(&merged) };
    assert!(store.append_landing(&repo(), landed, at(6)).await.unwrap());
    assert_eq!(store.baseline(&repo()).await.unwrap().unwrap().revision, 2);
    assert_eq!(store.coverage_history(&repo(), None, 9).await.unwrap().len(), 2);
}

/// What may happen to two landings of one repository, in any order.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The first or the second opens its window.
    Open(usize),
    /// It is closed as landed, by whoever holds the lease now; repeated, it must change nothing.
    Close(usize),
    /// A person merged it.
    Merged(usize),
    /// Its task is stopped.
    Stop(usize),
    /// The supervisor dies and starts again.
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    let which = 0..2_usize;
    prop_oneof![
        which.clone().prop_map(Act::Open),
        which.clone().prop_map(Act::Close),
        which.clone().prop_map(Act::Close),
        which.clone().prop_map(Act::Merged),
        which.prop_map(Act::Stop),
        Just(Act::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_baseline_never_decreases_and_each_landing_counts_once_in_any_order(
        acts in proptest::collection::vec(act(), 1..24),
        shares in proptest::array::uniform2((0..=50_u64, 50..=60_u64)),
        before in proptest::option::of(0..=50_u64),
    ) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut store = Store::open(&config(&dir).inline()).unwrap();
            if let Some(covered) = before {
                store.set_baseline(&repo(), by_hand(None, covered, 55), at(1)).await.unwrap();
            }
            let tasks = [owned(&store, "task0", "ORC-0").await, owned(&store, "task1", "ORC-1").await];
            let landings = [0, 1].map(|n| NewLanding {
                coverage: Some(measured(shares[n].0, shares[n].1)),
                ..landing(&tasks[n])
            });
            let mut epoch = acquire(&store, "landing").await;
            let mut last = store.baseline(&repo()).await.unwrap();
            let mut landed = [false; 2];
            for act in acts {
                match act {
                    Act::Open(n) => {
                        let opened = store.open_window(window(&format!("win{n}"), WindowKind::Land, &tasks[n], epoch), at(2)).await;
                        let refused = matches!(
                            opened,
                            Err(WindowError::AlreadyOpen { .. } | WindowError::AlreadyLanded | WindowError::StopRecorded | WindowError::Store(_))
                        );
                        prop_assert!(opened.is_ok() || refused, "{:?}", opened);
                    }
                    Act::Close(n) => {
                        let closed = store.close_window(close(&format!("win{n}"), epoch, Some(landings[n].clone())), at(3)).await;
                        if let Ok(closed) = closed {
                            prop_assert!(!landed[n] && closed.coverage.is_some());
                            landed[n] = true;
                        }
                    }
                    Act::Merged(n) => {
                        let appended = store.append_landing(&repo(), landings[n].clone(), at(4)).await.unwrap();
                        prop_assert_eq!(appended, !landed[n]);
                        landed[n] = true;
                    }
                    Act::Stop(n) => {
                        let stopped = store.record_stop(&tasks[n].task.id, stop("ann", 5)).await;
                        prop_assert!(stopped.is_ok(), "{:?}", stopped.map(drop));
                    }
                    Act::Crash => {
                        drop(store);
                        store = Store::open(&config(&dir).inline()).unwrap();
                        store.reclaim_lease(&repo(), epoch, "the lock is ours", at(6)).await.unwrap();
                        epoch = acquire(&store, "landing").await;
                    }
                }
                let now = store.baseline(&repo()).await.unwrap();
                if let (Some(before), Some(now)) = (&last, &now) {
                    prop_assert!(!before.totals.is_above(now.totals), "{} after {}", now.totals, before.totals);
                    prop_assert!(now.revision >= before.revision);
                }
                prop_assert!(last.is_none() || now.is_some());
                last = now;
            }
            let lines = store.coverage_history(&repo(), None, 99).await.unwrap();
            let of_landings = lines.iter().filter(|line| line.task.is_some()).count();
            prop_assert_eq!(of_landings, landed.iter().filter(|landed| **landed).count());
            // Whatever the order was, the best of all stands.
            let best = lines.iter().map(|line| line.totals).reduce(|a, b| if b.is_above(a) { b } else { a });
            if let (Some(best), Some(now)) = (best, last) {
                prop_assert!(!best.is_above(now.totals), "{best} landed, {} stands", now.totals);
            }
            Ok(())
        })?;
    }
}
