//! What a run finds of earlier runs on the same repository, and whether it may go on with it.
//!
//! Owns the note beside an embedded store that says by which settings its live tasks were begun. Settings of `orch run` are
//! the process's, not the task's: a task of an earlier run must never be worked on by another agent, or land by other
//! tests, unless a person names it. Blocked tasks move only when somebody asks, and stopped ones only to their end, so
//! neither stands in the way.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use orch_domain::names::TaskKey;
use orch_domain::task::{Status, StopMark, Task};
use orch_domain::time::Timestamp;
use orch_store::{Store, StoreError};

use super::StartError;

/// The note's file in the data folder.
const NOTE: &str = "settings.digest";

/// What a person said about tasks that earlier runs left.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    /// The task that is asked for: in nobody's way, whatever is done with it.
    pub key: Option<TaskKey>,
    /// Stop the others, where they were begun with other settings.
    pub stop_others: bool,
}

/// Settles it, before any actor sees the tasks: goes on, stops the others, or refuses with one line.
pub(super) async fn settle(
    store: &Store,
    data_dir: &Path,
    digest: &str,
    asked: &Leftovers,
    now: Timestamp,
) -> Result<(), StartError> {
    let note = data_dir.join(NOTE);
    // Unknown settings are other settings: what a version without this note has left.
    let same = std::fs::read_to_string(&note).is_ok_and(|known| known.trim() == digest);
    if same {
        return Ok(());
    }
    let trouble =
        |error: StoreError| StartError::Settings(format!("tasks of earlier runs cannot be looked at: {error}"));
    let live = store.live_tasks().await.map_err(trouble)?;
    let others: Vec<&Task> = live.iter().map(|stored| &stored.task).filter(|task| in_the_way(task, asked)).collect();
    if !asked.stop_others && !others.is_empty() {
        return Err(StartError::Settings(refusal(&others)));
    }
    for task in others {
        let mark = StopMark { at: now, by: "orch run --stop-others".to_owned(), source: "cli".to_owned() };
        store.record_stop(&task.id, mark).await.map_err(trouble)?;
    }
    // After the marks: whoever is killed in between finds the same tasks in the way again.
    write(&note, digest).map_err(|error| StartError::Settings(format!("{} cannot be written: {error}", note.display())))
}

fn in_the_way(task: &Task, asked: &Leftovers) -> bool {
    task.stop.is_none() && task.status() != Status::Blocked && asked.key.as_ref() != Some(&task.key)
}

fn refusal(others: &[&Task]) -> String {
    let keys: Vec<&str> = others.iter().map(|task| task.key.as_str()).collect();
    let (first, keys) = (keys.first().copied().unwrap_or_default(), keys.join(", "));
    format!(
        "an earlier run on this repository was interrupted and left {keys}, begun with other settings (agent, tests, checks), \
         which would be worked on with these; repeat that run's own command with --key {first}, or end what it left with \
         --stop-others"
    )
}

/// Whole or not at all, and durable before a task can be begun under it.
fn write(note: &Path, digest: &str) -> std::io::Result<()> {
    let fresh = note.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    writeln!(file, "{digest}")?;
    file.sync_all()?;
    std::fs::rename(&fresh, note)?;
    note.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}
