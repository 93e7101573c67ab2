//! The lane's plan: the promise on waiting over random arrivals, and each rule of the order by itself.

use std::collections::{BTreeMap, BTreeSet};

use orch_domain::ids::CommitSha;
use orch_domain::lane::{Lane, LaneMode, Proven, Ready, overtake, plan};
use orch_domain::time::Timestamp;
use proptest::prelude::*;

fn ready(name: &str, priority: i32, since: i64) -> Ready {
    let task = format!("task{name}").parse().expect("a task id");
    Ready { task, priority, since: Timestamp(since), overtaken: 0, head: None, finish: false }
}

fn sha(digit: char) -> CommitSha {
    digit.to_string().repeat(40).parse().expect("hex")
}

fn lane<'a>(queue: &'a [Ready], proven: &'a BTreeSet<Proven>) -> Lane<'a> {
    Lane { queue, proven, main: None, slots: 1, mode: LaneMode::Running, most_overtaken: 3 }
}

fn order(lane: &Lane<'_>) -> Vec<String> {
    plan(lane).order.iter().map(|id| id.as_str().trim_start_matches("task").to_owned()).collect()
}

#[test]
fn priority_goes_first_then_age() {
    let queue = [ready("old", 0, 1), ready("urgent", 5, 3), ready("older", 0, 0)];
    assert_eq!(order(&lane(&queue, &BTreeSet::new())), ["urgent", "older", "old"]);
}

#[test]
fn who_was_overtaken_as_often_as_allowed_goes_before_any_priority_and_the_oldest_of_them_first() {
    let mut queue = [ready("urgent", 9, 3), ready("patient", 0, 2), ready("older", -5, 1)];
    queue[1].overtaken = 3;
    queue[2].overtaken = 7;
    assert_eq!(order(&lane(&queue, &BTreeSet::new())), ["older", "patient", "urgent"]);
}

#[test]
fn what_was_judged_on_the_present_main_goes_before_what_needs_a_test_but_not_before_priority() {
    let mut queue = [ready("first", 0, 1), ready("judged", 0, 2), ready("urgent", 1, 3)];
    queue[1].head = Some(sha('a'));
    let proven = BTreeSet::from([(sha('a'), sha('b'))]);
    let (here, elsewhere) = (sha('b'), sha('c'));
    let on_this_main = Lane { main: Some(&here), ..lane(&queue, &proven) };
    assert_eq!(order(&on_this_main), ["urgent", "judged", "first"]);
    let on_another = Lane { main: Some(&elsewhere), ..lane(&queue, &proven) };
    assert_eq!(order(&on_another), ["urgent", "first", "judged"]);
}

#[test]
fn a_closed_lane_begins_nothing_but_ends_what_was_begun() {
    let mut queue = [ready("urgent", 9, 1), ready("window", 0, 2)];
    queue[1].finish = true;
    for mode in [LaneMode::Draining, LaneMode::Paused] {
        let closed = plan(&Lane { mode, slots: 2, ..lane(&queue, &BTreeSet::new()) });
        assert_eq!(closed.begin, ["taskwindow".parse().expect("a task id")], "{mode:?}");
        assert_eq!(closed.order.len(), 2, "who waits is still told in which order");
    }
    assert_eq!(plan(&lane(&queue, &BTreeSet::new())).begin, ["taskwindow".parse().expect("a task id")]);
    assert_eq!(plan(&Lane { slots: 0, ..lane(&queue, &BTreeSet::new()) }).begin, []);
}

#[test]
fn an_end_of_a_window_overtakes_nobody() {
    let mut queue = [ready("waits", 0, 1)];
    let mut window = ready("window", i32::MAX, 2);
    window.finish = true;
    overtake(&mut queue, &window);
    assert_eq!(queue[0].overtaken, 0);
    overtake(&mut queue, &ready("later", 9, 2));
    assert_eq!(queue[0].overtaken, 1);
    overtake(&mut queue, &ready("earlier", 9, 0));
    assert_eq!(queue[0].overtaken, 1, "who was there first has not overtaken");
}

/// What happens at a lane.
#[derive(Clone, Debug)]
enum Act {
    /// So many arrive, with these priorities.
    Arrive(Vec<i32>),
    /// A slot is free.
    Begin,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        proptest::collection::vec(-3..4_i32, 1..4).prop_map(Act::Arrive),
        Just(Act::Begin),
        Just(Act::Begin),
    ];
    proptest::collection::vec(act, 1..80)
}

proptest! {
    /// Counted here, by who began and who was there before, not by the plan's own bookkeeping.
    #[test]
    fn nobody_is_overtaken_more_often_than_allowed(acts in acts(), most in 0..5_u32, heads in any::<u64>()) {
        let main = sha('f');
        let proven = BTreeSet::from([(sha('a'), main.clone())]);
        let mut queue: Vec<Ready> = Vec::new();
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let (mut clock, mut n) = (0, 0_u32);
        for act in acts {
            match act {
                Act::Arrive(priorities) => {
                    clock += 1;
                    for priority in priorities {
                        n += 1;
                        let mut one = ready(&format!("t{n:04}"), priority, clock);
                        one.head = (heads >> (n % 64) & 1 == 1).then(|| sha('a'));
                        seen.insert(one.task.to_string(), 0);
                        queue.push(one);
                    }
                }
                Act::Begin => {
                    let next = plan(&Lane { main: Some(&main), most_overtaken: most, ..lane(&queue, &proven) });
                    let Some(first) = next.begin.first() else { continue };
                    prop_assert_eq!(Some(first), next.order.first());
                    let at = queue.iter().position(|r| r.task == *first).expect("it was in the queue");
                    let begun = queue.remove(at);
                    overtake(&mut queue, &begun);
                    for waits in &queue {
                        if (waits.since, &waits.task) < (begun.since, &begun.task) {
                            *seen.get_mut(waits.task.as_str()).expect("known") += 1;
                        }
                    }
                }
            }
        }
        for (task, times) in seen {
            prop_assert!(times <= most, "{} was overtaken {} times, allowed are {}", task, times, most);
        }
    }

    #[test]
    fn a_plan_names_everybody_once_and_does_not_depend_on_the_order_of_the_asking(
        queue in proptest::collection::vec((-3..4_i32, 0..5_i64, 0..6_u32, any::<bool>()), 0..12),
        slots in 0..4_usize,
        turn in any::<usize>(),
    ) {
        let build = |list: &[(i32, i64, u32, bool)]| -> Vec<Ready> {
            list.iter().enumerate().map(|(n, (priority, since, overtaken, finish))| {
                let one = ready(&format!("t{n:04}"), *priority, *since);
                Ready { overtaken: *overtaken, finish: *finish, ..one }
            }).collect()
        };
        let none = BTreeSet::new();
        let waiting = build(&queue);
        let before = plan(&Lane { slots, ..lane(&waiting, &none) });
        prop_assert_eq!(before.begin.len(), slots.min(waiting.len()));
        let (all, named): (BTreeSet<_>, BTreeSet<_>) =
            (waiting.iter().map(|r| &r.task).collect(), before.order.iter().collect());
        prop_assert_eq!(all, named);
        let mut turned = waiting.clone();
        if !turned.is_empty() {
            let at = turn % turned.len();
            turned.rotate_left(at);
        }
        prop_assert_eq!(plan(&Lane { slots, ..lane(&turned, &none) }), before);
    }
}
