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
    NewBaseline {
        replaces,
        totals: totals(covered, total),
        sha: sha('d'),
        set_by: "ann".to_owned(),
        reason,
        taken: None,
    }
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

#[tokio::test]
async fn what_landed_last_is_found_behind_any_number_of_settings_and_its_lines_are_kept() {
    let (_dir, store) = fresh();
    assert_eq!(store.last_measured_landing(&repo()).await.unwrap(), None);
    land(&store, 1, Some(measured(80, 100))).await;
    land(&store, 2, Some(measured(79, 100))).await;
    assert_eq!(store.kept_measurements().await.unwrap(), ["m79", "m80"], "the baseline's, and of what landed last");
    for n in 1..40 {
        store.set_baseline(&repo(), by_hand(Some(n), n, 100), at(5)).await.unwrap();
    }
    let last = store.last_measured_landing(&repo()).await.unwrap().expect("one");
    assert_eq!((last.set_by.as_str(), last.measurement.as_deref()), ("ORC-2", Some("m79")));
    // A person takes over what was measured then, with its lines; it is compared with any tool.
    let taken = NewBaseline { taken: Some(last), ..by_hand(Some(40), 79, 100) };
    assert_eq!(store.set_baseline(&repo(), taken, at(6)).await.unwrap(), BaselineSet::Set(41));
    let now = store.baseline(&repo()).await.unwrap().unwrap();
    assert_eq!((now.measurement.as_deref(), now.measured_by, now.excluded), (Some("m79"), None, Some(3)));
    assert_eq!((now.tool.as_deref(), now.configuration.as_deref()), (Some("coverage.py 7.17.3"), Some("conf")));
}

/// What may happen to two landings of one repository, in any order.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The first or the second opens its window; what it was judged against is what stands then.
    Open(usize),
    /// It is closed as landed, by whoever holds the lease now; repeated, it must change nothing.
    Close(usize),
    /// It is closed without a landing: the push was refused.
    Refuse(usize),
    /// A person merged it.
    Merged(usize),
    /// Its task is stopped.
    Stop(usize),
    /// A person sets the baseline to so many of a hundred lines.
    Set(u64),
    /// The supervisor dies and starts again.
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    let which = 0..2_usize;
    prop_oneof![
        3 => which.clone().prop_map(Act::Open),
        3 => which.clone().prop_map(Act::Close),
        1 => which.clone().prop_map(Act::Refuse),
        1 => which.clone().prop_map(Act::Merged),
        1 => which.prop_map(Act::Stop),
        2 => (0..=100_u64).prop_map(Act::Set),
        1 => Just(Act::Crash),
    ]
}

/// How a landing was judged.
#[derive(Clone, Copy, Debug)]
enum Right {
    /// As usual.
    None,
    /// By the removal rule.
    Removal,
    /// By another tool, base measured again at so many of a hundred lines.
    Again(u64),
}

fn right() -> impl Strategy<Value = Right> {
    prop_oneof![Just(Right::None), Just(Right::Removal), (0..=100_u64).prop_map(Right::Again)]
}

/// The baseline as it has to be: revision, numbers, and by what it was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model(Option<(u64, Totals, Option<String>)>);

/// A rule that the model has wrong, to show that the histories tell the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// A right holds whatever was set since it was given.
    OldRight,
    /// What base measured is no floor.
    NoFloor,
    /// Another tool's share raises the baseline.
    AnyTool,
    /// A landing that is worse lowers it.
    Lower,
}

impl Model {
    fn revision(&self) -> u64 {
        self.0.as_ref().map_or(0, |(revision, ..)| *revision)
    }

    /// Said once more, as plainly as it can be: up by itself, down only by a right that was given against what stands.
    fn land(&mut self, landed: &Landed, wrong: Wrong) {
        let next = match &self.0 {
            None => Some(landed.totals),
            Some((revision, standing, by)) => match &landed.rebase {
                Some(rebase) if rebase.revision == *revision || wrong == Wrong::OldRight => {
                    let floor = rebase.floor.as_ref().map(|floor| floor.totals).filter(|_| wrong != Wrong::NoFloor);
                    Some(floor.filter(|floor| floor.is_above(landed.totals)).unwrap_or(landed.totals))
                }
                _ if by.as_ref().is_some_and(|by| *by != landed.measured_by) && wrong != Wrong::AnyTool => None,
                _ => Some(landed.totals).filter(|totals| totals.is_above(*standing) || wrong == Wrong::Lower),
            },
        };
        if let Some(totals) = next {
            self.0 = Some((self.revision() + 1, totals, Some(landed.measured_by.clone())));
        }
    }
}

/// Two landings, how they were judged, what happens to them, and what stood before.
type History = (Vec<Act>, [(u64, u64); 2], [Right; 2], Option<u64>);

/// Plays random histories, and compares the store with the model behind each act.
fn play(cases: u32, wrong: Wrong) -> Result<(), String> {
    let shrink = if wrong == Wrong::Nothing { 1_000 } else { 0 };
    let config =
        ProptestConfig { failure_persistence: None, max_shrink_iters: shrink, ..ProptestConfig::with_cases(cases) };
    let histories = (
        proptest::collection::vec(act(), 1..24),
        proptest::array::uniform2((0..=50_u64, 50..=60_u64)),
        proptest::array::uniform2(right()),
        proptest::option::of(0..=50_u64),
    );
    let ran = proptest::test_runner::TestRunner::new(config).run(&histories, |history| play_one(history, wrong));
    ran.map_err(|error| error.to_string())
}

fn play_one((acts, shares, rights, before): History, wrong: Wrong) -> Result<(), TestCaseError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&config(&dir).inline()).unwrap();
        let mut model = Model::default();
        if let Some(covered) = before {
            store.set_baseline(&repo(), by_hand(None, covered, 55), at(1)).await.unwrap();
            model.0 = Some((1, totals(covered, 55), None));
        }
        let tasks = [owned(&store, "task0", "ORC-0").await, owned(&store, "task1", "ORC-1").await];
        let judged = |n: usize, against: &Model| {
            let plain = measured(shares[n].0, shares[n].1);
            let revision = against.revision();
            let (because, floor, by) = match rights[n] {
                _ if revision == 0 => return plain,
                Right::None => return plain,
                Right::Removal => (Because::Removal, None, "by"),
                Right::Again(covered) => {
                    let mark = Mark { totals: totals(covered, 100), sha: sha('e'), measurement: "base".to_owned() };
                    (Because::MeasuredAgain, Some(mark), "other")
                }
            };
            Landed { rebase: Some(Rebase { because, revision, floor }), measured_by: by.to_owned(), ..plain }
        };
        let mut pending = [judged(0, &Model::default()), judged(1, &Model::default())];
        let mut epoch = acquire(&store, "landing").await;
        let (mut opened, mut windows) = (0, [None::<String>, None]);
        let (mut landed, mut stopped, mut set) = ([false; 2], [false; 2], 0);
        for act in acts {
            match act {
                Act::Open(n) => {
                    opened += 1;
                    let id = format!("win{opened}");
                    let result = store.open_window(window(&id, WindowKind::Land, &tasks[n], epoch), at(2)).await;
                    match result {
                        Ok(_) => {
                            prop_assert!(!landed[n] && !stopped[n] && windows[n].is_none(), "opened");
                            windows[n] = Some(id);
                            pending[n] = judged(n, &model);
                        }
                        Err(WindowError::AlreadyOpen { .. }) => prop_assert!(windows[n].is_some()),
                        Err(WindowError::AlreadyLanded) => prop_assert!(landed[n]),
                        Err(WindowError::StopRecorded) => prop_assert!(stopped[n]),
                        Err(other) => prop_assert!(false, "{other:?}"),
                    }
                }
                Act::Close(n) | Act::Refuse(n) => {
                    let Some(id) = windows[n].clone() else { continue };
                    let lands = matches!(act, Act::Close(_));
                    let landing = NewLanding { coverage: Some(pending[n].clone()), ..landing(&tasks[n]) };
                    let closed = store.close_window(close(&id, epoch, lands.then_some(landing)), at(3)).await;
                    match closed {
                        Ok(closed) if lands => {
                            prop_assert!(!landed[n] && closed.coverage.is_some());
                            landed[n] = true;
                            model.land(&pending[n], wrong);
                            windows[n] = None;
                        }
                        Ok(closed) => {
                            prop_assert!(closed.coverage.is_none());
                            windows[n] = None;
                        }
                        Err(error) => prop_assert!(lands && landed[n], "{error:?}"),
                    }
                    // Whoever closes it once more changes nothing.
                    let again = NewLanding { coverage: Some(pending[n].clone()), ..self::landing(&tasks[n]) };
                    prop_assert!(
                        windows[n].is_some()
                            || store.close_window(close(&id, epoch, Some(again)), at(3)).await.is_err()
                    );
                }
                Act::Merged(n) => {
                    let landing = NewLanding { coverage: Some(pending[n].clone()), ..landing(&tasks[n]) };
                    let appended = store.append_landing(&repo(), landing, at(4)).await.unwrap();
                    prop_assert_eq!(appended, !landed[n]);
                    if appended {
                        model.land(&pending[n], wrong);
                    }
                    landed[n] = true;
                }
                Act::Stop(n) => {
                    let result = store.record_stop(&tasks[n].task.id, stop("ann", 5)).await;
                    prop_assert!(result.is_ok(), "{:?}", result.map(drop));
                    stopped[n] = true;
                }
                Act::Set(covered) => {
                    let wrong = store.set_baseline(&repo(), by_hand(Some(model.revision() + 7), 1, 2), at(5)).await;
                    prop_assert!(matches!(wrong, Ok(BaselineSet::Moved(_))));
                    let replaces = Some(model.revision()).filter(|revision| *revision > 0);
                    let result = store.set_baseline(&repo(), by_hand(replaces, covered, 100), at(5)).await.unwrap();
                    prop_assert_eq!(result, BaselineSet::Set(model.revision() + 1));
                    model.0 = Some((model.revision() + 1, totals(covered, 100), None));
                    set += 1;
                }
                Act::Crash => {
                    drop(store);
                    store = Store::open(&config(&dir).inline()).unwrap();
                    store.reclaim_lease(&repo(), epoch, "the lock is ours", at(6)).await.unwrap();
                    epoch = acquire(&store, "landing").await;
                }
            }
            let now = store.baseline(&repo()).await.unwrap();
            let now = Model(now.map(|now| (now.revision, now.totals, now.measured_by)));
            prop_assert_eq!(&now, &model, "after {:?}", act);
        }
        let lines = store.coverage_history(&repo(), None, 99).await.unwrap();
        let of_landings = lines.iter().filter(|line| line.task.is_some()).count();
        prop_assert_eq!(of_landings, landed.iter().filter(|landed| **landed).count());
        prop_assert_eq!(lines.len() - of_landings, set + usize::from(before.is_some()));
        Ok(())
    })
}

#[test]
fn the_baseline_moves_as_the_rules_say_and_each_landing_counts_once_in_any_order() {
    play(48, Wrong::Nothing).expect("it moves so");
}

#[test]
fn histories_tell_the_rules_from_wrong_ones() {
    for wrong in [Wrong::OldRight, Wrong::NoFloor, Wrong::AnyTool, Wrong::Lower] {
        assert!(play(2_000, wrong).is_err(), "{wrong:?} is seen by no history");
    }
}
