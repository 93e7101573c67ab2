//! From row to task: the small row, its brief and its pins put together again.
//!
//! Owns what a reader gets when a row cannot be read (a body that is no task, a brief or pin that is missing). Whoever wants
//! to change the task gets the error. Whoever only looks gets a stand-in made of the columns, blocked by just that, so
//! that one bad row hides no other; the stand-in can never be written over the row.

use orch_domain::ids::{Epoch, Generation, TaskId, Version};
use orch_domain::task::{Blocked, Given, NewTask, State, Step, StopMark, Task};
use rusqlite::{Connection, Row};

use crate::error::{Db, StoreError};
use crate::pins::Pins;
use crate::row::{first, get, get_parsed, get_time, get_time_opt, read_json};
use crate::tasks::Stored;

/// All that a task is made of; a `WHERE` follows.
pub(crate) const TASKS: &str =
    "SELECT id, orig_key, generation, repo, orig_tracker_item, stage, t.body AS body, version, epoch, priority, created_at,
       updated_at, cancel_requested_at, cancel_requested_by, cancel_requested_source, cancelled_at, done_at,
       b.title AS title, b.body AS words, (SELECT pipeline FROM pins WHERE pins.id = b.pins) AS pipeline,
       (SELECT policy FROM pins WHERE pins.id = b.pins) AS policy
     FROM tasks t LEFT JOIN briefs b ON b.task = t.id";

/// One life, for whoever acts on it.
pub(crate) fn load(conn: &Connection, pins: &Pins, id: &TaskId) -> Result<Option<Stored>, StoreError> {
    first(conn, &format!("{TASKS} WHERE id = ?1"), [id.as_str()], |row| stored(pins, row))
}

/// One life, for whoever looks: a stand-in for one that cannot be read.
pub(crate) fn look(conn: &Connection, pins: &Pins, id: &TaskId) -> Result<Option<Stored>, StoreError> {
    first(conn, &format!("{TASKS} WHERE id = ?1"), [id.as_str()], |row| shown(pins, row))
}

/// The task of a row, for whoever acts on it.
fn stored(pins: &Pins, row: &Row<'_>) -> Result<Stored, StoreError> {
    around(row, task_of(pins, row)?)
}

/// The task of a row, for whoever looks: a stand-in for one that cannot be read.
pub(crate) fn shown(pins: &Pins, row: &Row<'_>) -> Result<Stored, StoreError> {
    match task_of(pins, row) {
        Err(StoreError::Damaged { what, why }) => around(row, stand_in(row, format!("{what}: {why}"))?),
        task => around(row, task?),
    }
}

fn task_of(pins: &Pins, row: &Row<'_>) -> Result<Task, StoreError> {
    let text = |column: &str| {
        let value = row.get_ref(column).db()?;
        let damaged = |why: String| StoreError::Damaged { what: format!("task {column}"), why };
        value.as_str().map_err(|_| damaged("there is none, or it is no text".to_owned()))
    };
    let task: Task = read_json("task body", text("body")?)?;
    let given = Given {
        title: text("title")?.to_owned(),
        body: text("words")?.to_owned(),
        pipeline: pins.pipeline(text("pipeline")?)?,
        policy: pins.policy(text("policy")?)?,
    };
    if given.pipeline.stage(&task.stage).is_none() {
        let why = format!("its stage `{}` is none of its pipeline `{}`", task.stage, given.pipeline.name);
        return Err(StoreError::Damaged { what: "task body".to_owned(), why });
    }
    Ok(task.filled(given))
}

/// What the columns tell of a task whose row cannot be read.
fn stand_in(row: &Row<'_>, why: String) -> Result<Task, StoreError> {
    let stage = get_parsed(row, "stage")?;
    let new = NewTask {
        id: get_parsed(row, "id")?,
        key: get_parsed(row, "orig_key")?,
        generation: Generation(get(row, "generation")?),
        repo: get_parsed(row, "repo")?,
        title: get::<Option<String>>(row, "title").ok().flatten().unwrap_or_else(|| "(cannot be read)".to_owned()),
        body: get::<Option<String>>(row, "words").ok().flatten().unwrap_or_default(),
        tracker_item: get(row, "orig_tracker_item")?,
        priority: get(row, "priority")?,
        depends_on: Vec::new(),
        pipeline: orch_domain::pipeline::Pipeline::built_in("lite").expect("a built-in pipeline"),
        policy: orch_domain::policy::Policy::default(),
        agent: None,
    };
    let since = get_time(row, "updated_at")?;
    let state = match (get_time_opt(row, "done_at")?, get_time_opt(row, "cancelled_at")?) {
        (Some(at), _) => State::Done { at },
        (_, Some(at)) => State::Cancelled { at },
        _ => State::Blocked { why: Blocked::Unreadable { why }, then: Step::Agent, since },
    };
    Ok(Task { stage, state, ..Task::new(new, get_time(row, "created_at")?) })
}

/// The task with what lies in columns of its own.
fn around(row: &Row<'_>, mut task: Task) -> Result<Stored, StoreError> {
    task.stop = stop_of(row)?;
    Ok(Stored {
        task,
        version: Version(get(row, "version")?),
        epoch: Epoch(get(row, "epoch")?),
        updated: get_time(row, "updated_at")?,
    })
}

fn stop_of(row: &Row<'_>) -> Result<Option<StopMark>, StoreError> {
    let Some(at) = get_time_opt(row, "cancel_requested_at")? else { return Ok(None) };
    let text = |column| Ok::<_, StoreError>(get::<Option<String>>(row, column)?.unwrap_or_default());
    Ok(Some(StopMark { at, by: text("cancel_requested_by")?, source: text("cancel_requested_source")? }))
}
