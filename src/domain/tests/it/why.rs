//! Every wait has a name: what is waited for, since when, and which event or time ends it, for each state there is.

use orch_domain::samples;
use orch_domain::task::{State, WaitFor};
use orch_domain::view::{Holders, why};

#[test]
fn each_state_says_what_it_waits_for_and_what_ends_the_wait() {
    let mut table = String::new();
    for sample in samples::states() {
        let told = why(&sample.task, &Holders::default());
        assert!(!told.waits_for.trim().is_empty() && !told.ends_by.trim().is_empty(), "{}: {told:?}", sample.name);
        assert_eq!(told.since, sample.task.state.since(), "{}", sample.name);
        let names = |text: &str| assert!(told.waits_for.contains(text), "{}: no `{text}` in {told:?}", sample.name);
        match &sample.task.state {
            _ if sample.task.stop.is_some() => {}
            State::Waiting { on: WaitFor::Dependencies { open }, .. } => {
                open.iter().for_each(|key| names(key.as_str()))
            }
            State::Waiting { on: WaitFor::Until { at, why }, .. } => {
                names(why);
                assert!(told.ends_by.contains(&at.to_string()), "{}: {told:?}", sample.name);
            }
            State::Waiting { on: WaitFor::Approval { sha, .. } | WaitFor::PersonMerges { sha }, .. } => {
                names(sha.short())
            }
            State::Waiting { on: WaitFor::Turn, .. } => names(sample.task.repo.as_str()),
            State::Blocked { why: reason, .. } => {
                names(&reason.text());
                assert!(told.hint.is_some(), "a person has to be told what to do: {told:?}");
            }
            _ => {}
        }
        let hint = told.hint.map_or_else(String::new, |hint| format!("\n  you can: {hint}"));
        table.push_str(&format!(
            "{}\n  waits for: {}\n  ended by: {}{hint}\n",
            sample.name, told.waits_for, told.ends_by
        ));
    }
    insta::assert_snapshot!("why", table);
}

#[test]
fn who_holds_it_and_what_is_being_done_are_told_where_the_running_system_knows() {
    let task = samples::task_at("development", samples::waiting(WaitFor::Slot, orch_domain::task::Step::Agent));
    let holders = Holders {
        held_by: Some("ORC-7, ORC-8".to_owned()),
        activity: Some("taking over what an interrupted run left".to_owned()),
        ..Holders::default()
    };
    let told = why(&task, &holders);
    assert_eq!(told.held_by.as_deref(), Some("ORC-7, ORC-8"));
    assert_eq!(told.waits_for, "a free agent slot (taking over what an interrupted run left)");
}
