//! Stored tasks as the supervisor has them: the long pipeline, the usual policy, a description of a kilobyte.

use std::error::Error;

use orch_domain::ids::Generation;
use orch_domain::journal::Entry;
use orch_domain::pipeline::Pipeline;
use orch_domain::policy::Policy;
use orch_domain::task::{NewTask, State, Task};
use orch_domain::time::Timestamp;
use orch_store::Store;
use tokio::task::JoinSet;

/// When everything here happens.
pub(crate) const NOW: Timestamp = Timestamp(1_763_931_600_000);

/// The `n`-th task, in the state that `state` makes.
pub(crate) fn task(n: usize, state: &State) -> Result<Task, Box<dyn Error + Send + Sync>> {
    let new = NewTask {
        id: format!("bench{n:06}").parse()?,
        key: format!("ORC-{}", n + 1).parse()?,
        generation: Generation(1),
        repo: "bench".parse()?,
        title: format!("Give the basket its button number {n}"),
        body: "Customers want to see what they are about to buy, and to change it. ".repeat(15),
        tracker_item: Some(format!("item-{n}")),
        priority: 0,
        depends_on: Vec::new(),
        pipeline: Pipeline::built_in("full").ok_or("there is no pipeline `full`")?,
        policy: Policy::default(),
        agent: None,
    };
    let mut task = Task::new(new, NOW);
    task.state = state.clone();
    Ok(task)
}

/// Stores `count` tasks.
pub(crate) async fn seed(store: &Store, count: usize, state: &State) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut hands = JoinSet::new();
    for hand in 0..64 {
        let (store, state) = (store.clone(), state.clone());
        hands.spawn(async move {
            for n in (hand..count).step_by(64) {
                let entry = Entry::new("submitted", "accepted from a bench");
                store.create_task(&task(n, &state)?, vec![entry], Vec::new(), None, NOW).await?;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });
    }
    while let Some(hand) = hands.join_next().await {
        hand??;
    }
    Ok(())
}
