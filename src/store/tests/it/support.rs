//! What every module needs: a folder with a store in it, and tasks to put there.

use orch_domain::agent::Usage;
use orch_domain::ids::{CommitSha, Epoch, Generation, TaskId, Version};
use orch_domain::journal::Entry;
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::pipeline::Pipeline;
use orch_domain::policy::Policy;
use orch_domain::task::{NewTask, State, Step, StopMark, Task, WaitFor};
use orch_domain::time::Timestamp;
use orch_store::{Change, Store, StoreConfig, Stored};
use tempfile::TempDir;

/// A time: `n` milliseconds after the beginning of the tests' world.
pub(crate) fn at(n: i64) -> Timestamp {
    Timestamp(1_800_000_000_000 + n)
}

pub(crate) fn config(dir: &TempDir) -> StoreConfig {
    StoreConfig { ballast_bytes: 64 * 1024, ..StoreConfig::new(dir.path().join("data"), at(0)) }
}

/// A fresh folder and its open store. The folder outlives the store by being returned first.
pub(crate) fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&config(&dir)).unwrap();
    (dir, store)
}

pub(crate) fn fresh_inline() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&config(&dir).inline()).unwrap();
    (dir, store)
}

pub(crate) fn repo() -> RepoName {
    "web".parse().unwrap()
}

pub(crate) fn sha(digit: char) -> CommitSha {
    digit.to_string().repeat(40).parse().unwrap()
}

pub(crate) fn task_with(id: &str, key: &str, generation: u64) -> Task {
    let new = NewTask {
        id: id.parse().unwrap(),
        key: key.parse::<TaskKey>().unwrap(),
        generation: Generation(generation),
        repo: repo(),
        title: "a title".to_owned(),
        body: "a body".to_owned(),
        tracker_item: Some(format!("item-{key}")),
        priority: 0,
        depends_on: Vec::new(),
        pipeline: Pipeline::built_in("lite").unwrap(),
        policy: Policy::default(),
        agent: None,
    };
    Task::new(new, at(0))
}

/// Creates a task and takes ownership of it.
pub(crate) async fn owned(store: &Store, id: &str, key: &str) -> Stored {
    let task = task_with(id, key, 1);
    store.create_task(&task, vec![Entry::new("created", "created")], Vec::new(), None, at(1)).await.unwrap();
    store.own_task(&task.id, at(2)).await.unwrap()
}

pub(crate) fn forward(task: &Task, version: Version, epoch: Epoch) -> Change {
    let mut task = task.clone();
    task.state = State::Waiting { on: WaitFor::Slot, then: Step::Agent, since: at(3) };
    task.counters.runs += 1;
    Change {
        task,
        version,
        epoch,
        entries: vec![Entry::new("went-forward", "one step on")],
        outgoing: Vec::new(),
        forward: true,
        now: at(3),
    }
}

pub(crate) fn ending(task: &Task, version: Version, epoch: Epoch, state: State) -> Change {
    Change {
        task: Task { state, usage: Usage::default(), ..task.clone() },
        entries: vec![Entry::new("closed", "closed")],
        forward: false,
        ..forward(task, version, epoch)
    }
}

pub(crate) fn stop(by: &str, n: i64) -> StopMark {
    StopMark { at: at(n), by: by.to_owned(), source: "cli".to_owned() }
}

pub(crate) fn task_id(id: &str) -> TaskId {
    id.parse().unwrap()
}
