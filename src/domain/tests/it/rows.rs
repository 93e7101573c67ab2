//! A task as text: what is absent is left out, and rows that still have it are read the same.

use orch_domain::samples::{NOW, task_at};
use orch_domain::task::{Blocked, State, Step, Task};
use serde_json::{Value, json};

fn blocked() -> Task {
    task_at("analysis", State::Blocked { why: Blocked::InterruptedTooOften, then: Step::Agent, since: NOW })
}

fn read(row: &Value, like: &Task) -> Task {
    let task: Task = serde_json::from_value(row.clone()).expect("a task");
    // What a life is given once lies elsewhere.
    Task {
        title: like.title.clone(),
        body: like.body.clone(),
        pipeline: like.pipeline.clone(),
        policy: like.policy.clone(),
        ..task
    }
}

#[test]
fn what_is_absent_is_left_out_and_read_as_absent() {
    let mut task = blocked();
    task.tracker_item = None;
    let row = serde_json::to_value(&task).expect("text");
    let absent = ["tracker_item", "depends_on", "agent", "base", "head", "stage_head", "findings", "interrupted_note"];
    let others = ["dependency_note", "approvals", "landed", "usage", "budget_from", "agent_runs", "settings"];
    for name in absent.into_iter().chain(others) {
        assert_eq!(row.get(name), None, "{name} of {row}");
    }
    assert_eq!(row["counters"], json!({"runs": 4}));
    assert_eq!(read(&row, &task), task);
}

#[test]
fn a_row_that_says_what_is_absent_is_the_same_task() {
    let task = blocked();
    let mut row = serde_json::to_value(&task).expect("text");
    for name in ["agent", "base", "head", "stage_head", "findings", "interrupted_note", "dependency_note", "landed"] {
        row[name] = Value::Null;
    }
    row["approvals"] = json!([]);
    row["depends_on"] = json!([]);
    row["usage"] = json!({"input_tokens": null, "cached_tokens": null, "output_tokens": null, "cost_micro_usd": null});
    row["budget_from"] = json!({"usage": row["usage"], "wall": 0});
    for name in
        ["developer_retries", "conflicts", "interrupted", "infrastructure", "deferrals", "main_moved", "main_red"]
    {
        row["counters"][name] = json!(0);
    }
    assert_eq!(read(&row, &task), task);
}

#[test]
fn what_is_there_comes_back() {
    let mut task = task_at("deploy", State::Done { at: NOW });
    task.counters.main_red = 2;
    task.findings = Some("it says helo".to_owned());
    task.usage.input_tokens = Some(7);
    task.budget_from.wall = orch_domain::time::Millis(3);
    let row = serde_json::to_value(&task).expect("text");
    assert_eq!(row["counters"], json!({"runs": 4, "main_red": 2}));
    assert_eq!(read(&row, &task), task);
}
