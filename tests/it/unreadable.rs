//! One stored row that cannot be read: that task alone waits for a person, and everything else goes on.

use std::time::Duration;

use orch_actors::api::{ControlError, TaskFilter};
use orch_domain::stop::Level;
use orch_domain::task::Status;

use crate::world::Setup;

const GOOD: &str = "attempts:\n- - write: {path: made.txt, content: \"x\\n\"}\n  - commit: {message: Make it}\n";
const STUCK: &str = "attempts:\n- - write: {path: half.txt, content: \"x\\n\"}\n  - wait_for: {path: /nowhere/never}\n";

#[tokio::test]
async fn one_row_that_cannot_be_read_is_shown_and_stopped_alone() {
    let mut world = Setup::default().agent("good", GOOD).agent("stuck", STUCK).open().await;
    let bad = world.submit_for("stuck", "Be damaged").await;
    world.expect_status(&bad, Status::Running).await;
    world.take_running().shutdown(Level::Kill, Duration::ZERO).await;
    let file = rusqlite::Connection::open(world.data().join(orch_store::DB_FILE)).expect("the store");
    let changed = file.execute("UPDATE tasks SET body = 'no json {' WHERE id = ?1", [bad.id.as_str()]);
    assert_eq!(changed, Ok(1));
    drop(file);

    world.boot().await;
    let detail = world.expect_status(&bad, Status::Blocked).await;
    assert!(detail.why.waits_for.contains("its stored row cannot be read"), "{}", detail.why.waits_for);
    let good = world.submit("Go on").await;
    world.expect_status(&good, Status::Done).await;
    let listed = world.control().tasks(TaskFilter { closed: true, ..TaskFilter::default() }).await.expect("a list");
    assert_eq!(listed.len(), 2, "{listed:?}");
    let queue = world.control().queue().await.expect("the queue");
    assert!(queue.waiting.iter().any(|why| why.key == bad.key), "{:?}", queue.waiting);
    let refused = world.control().retry(bad.key.as_str(), "test").await;
    let Err(ControlError::Conflict(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("cannot be read") && text.contains("orch task stop"), "{text}");

    world.stop(&bad).await;
    world.expect_status(&bad, Status::Cancelled).await;
    assert_eq!(crate::stop::proven(&world, &bad).await.outcome, "cancelled");
    world.close().await;
}
