//! The tasks table: creating a life, owning it, committing its next state, recording its STOP.
//!
//! Owns the three fences, checked in the one UPDATE of each commit: *version* (somebody else changed the row), *epoch*
//! (somebody else owns it) and *STOP* (forward changes only). Invariants: one live task per natural key; a terminal row
//! never changes; a cancelled one gives its keys back as tombstones in the same transaction; the STOP mark is set once,
//! whatever version and epoch. Which change counts as forward is decided by the caller.
//!
//! A commit writes the small row alone: what a life is given once lies in `briefs` and `pins`. How a row becomes a task
//! again, also one that cannot be read, stands in [`crate::stored`].

use orch_domain::effect::{Outgoing, ShownState};
use orch_domain::ids::{Epoch, Generation, Seq, TaskId, Version};
use orch_domain::journal::Entry;
use orch_domain::names::{RepoName, StageName, TaskKey};
use orch_domain::task::{Blocked, State, Status, StopMark, Task};
use orch_domain::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, named_params, params_from_iter};

use crate::error::{CommitError, CreateError, StoreError};
use crate::journal::{self, Subject, append, subject_of};
use crate::row::{execute, first, get, get_parsed, get_parsed_opt, json, readable};
use crate::stored::{self, TASKS, load};
use crate::writer::{Tx, Urgency};
use crate::{Store, outbox, pins, tombstone};

/// A created life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// The row's first version.
    pub version: Version,
}

/// A task as read, with what is needed to change it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The task; `stop` is filled in.
    pub task: Task,
    /// The row's version.
    pub version: Version,
    /// The owner's epoch: the caller's own only after [`Store::own_task`].
    pub epoch: Epoch,
    /// Last change of the row.
    pub updated: Timestamp,
}

/// One change of a task: next state, journal and outgoing effects together or not at all.
#[derive(Clone, Debug)]
pub struct Change {
    /// The next state of the whole task.
    pub task: Task,
    /// The version it was decided on.
    pub version: Version,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// Journal entries.
    pub entries: Vec<Entry>,
    /// Outgoing effects.
    pub outgoing: Vec<Outgoing>,
    /// Whether this goes forward: refused once a STOP is recorded.
    pub forward: bool,
    /// The present time.
    pub now: Timestamp,
}

/// What came of recording a STOP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopRecorded {
    /// This one is the first: durable now.
    First,
    /// One was recorded before; it stays as it was.
    Already(StopMark),
    /// The life is closed: nothing to stop.
    Terminal,
}

/// Which tasks to find; empty fields match all.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Of this repository.
    pub repo: Option<RepoName>,
    /// In this stage.
    pub stage: Option<StageName>,
    /// With this status.
    pub status: Option<Status>,
    /// Whether terminal ones are left out.
    pub live_only: bool,
    /// At most so many, newest first; `None`: all.
    pub limit: Option<u32>,
}

const LIVE: &str = "done_at IS NULL AND cancelled_at IS NULL";

impl Store {
    /// Creates a life at version 1 with its first entries and effects; `consume` names the tracker transition that
    /// starts it, which can do so only once.
    pub async fn create_task(
        &self,
        task: &Task,
        entries: Vec<Entry>,
        outgoing: Vec<Outgoing>,
        consume: Option<String>,
        now: Timestamp,
    ) -> Result<Created, CreateError> {
        let (task, columns) = (task.clone(), Columns::of(task));
        let pinned = (json(&*task.pipeline), json(&*task.policy));
        self.write(Urgency::Ordinary, move |tx| {
            if let Some(transition) = &consume {
                let by = first(tx.conn, "SELECT task FROM consumed_transitions WHERE id = ?1", [transition], |row| {
                    get_parsed_opt(row, "task")
                })?;
                if let Some(id) = by {
                    return Err(CreateError::AlreadyConsumed { transition: transition.clone(), id });
                }
            }
            if let Some(id) = live_twin(tx.conn, &task)? {
                return Err(CreateError::AlreadyLive { id });
            }
            let next = next_generation(tx.conn, &task.key)?;
            if next != task.generation {
                return Err(CreateError::GenerationTaken { next });
            }
            insert(tx, &task, &columns, now)?;
            write_brief(tx, &task, &pinned)?;
            if let Some(transition) = &consume {
                let sql = "INSERT INTO consumed_transitions (id, task, at) VALUES (?1, ?2, ?3)";
                execute(tx.conn, sql, (transition, task.id.as_str(), now.0))?;
            }
            append(tx, &Subject::task(&task), &entries, now)?;
            outbox::enqueue(tx, &task.id, Version(1), &outgoing, now)?;
            Ok(Created { version: Version(1) })
        })
        .await
    }

    /// Marks a tracker transition as dealt with although no life came of it (its task was live, say), so that it never
    /// starts one later; `false`: it was consumed before.
    pub async fn consume_transition(&self, transition: &str, now: Timestamp) -> Result<bool, StoreError> {
        let transition = transition.to_owned();
        self.write(Urgency::Needed, move |tx| {
            let sql = "INSERT INTO consumed_transitions (id, at) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING";
            Ok(execute(tx.conn, sql, (&transition, now.0))? == 1)
        })
        .await
    }

    /// The generation that the next life of a key must have.
    pub async fn next_generation(&self, key: &TaskKey) -> Result<Generation, StoreError> {
        let key = key.clone();
        self.read(move |conn| next_generation(conn, &key)).await
    }

    /// A key that was never used: `<prefix>-<n>`, counted durably.
    pub async fn mint_key(&self, prefix: &str) -> Result<TaskKey, StoreError> {
        let prefix = prefix.to_owned();
        self.write(Urgency::Ordinary, move |tx| {
            loop {
                let sql = "INSERT INTO counters (name, value) VALUES ('key:' || ?1, 1)
                           ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value";
                let n: u64 = first(tx.conn, sql, [&prefix], |row| get(row, "value"))?.unwrap_or(1);
                let text = format!("{prefix}-{n}");
                let key: TaskKey = text.parse().map_err(|err| StoreError::Refused { why: format!("{err}") })?;
                let sql = "SELECT 1 AS used FROM tasks WHERE orig_key = ?1
                           UNION ALL SELECT 1 FROM board_items WHERE key = ?1";
                if first(tx.conn, sql, [&text], |_| Ok(()))?.is_none() {
                    return Ok(key);
                }
            }
        })
        .await
    }

    /// Takes ownership: raises the epoch, so that every earlier owner is refused from now on, and loads the task.
    pub async fn own_task(&self, id: &TaskId, now: Timestamp) -> Result<Stored, StoreError> {
        let id = id.clone();
        self.write(Urgency::Needed, move |tx| {
            execute(
                tx.conn,
                "UPDATE tasks SET epoch = epoch + 1, updated_at = ?2 WHERE id = ?1",
                (id.as_str(), now.0),
            )?;
            load(tx.conn, tx.pins, &id)?.ok_or_else(|| StoreError::NotFound { what: "task", id: id.to_string() })
        })
        .await
    }

    /// Reads one life.
    pub async fn load_task(&self, id: &TaskId) -> Result<Option<Stored>, StoreError> {
        let (id, shared) = (id.clone(), self.inner.shared.clone());
        self.read(move |conn| load(conn, &shared.pins, &id)).await
    }

    /// Reads one life for looking at: where its row cannot be read, what its columns tell, blocked by just that.
    pub async fn look_at_task(&self, id: &TaskId) -> Result<Option<Stored>, StoreError> {
        let (id, shared) = (id.clone(), self.inner.shared.clone());
        self.read(move |conn| stored::look(conn, &shared.pins, &id)).await
    }

    /// Closes a stopped life whose row cannot be read, as cancelled; its body stays as it is. `false`: it is closed, was
    /// not stopped, or can be read.
    pub async fn close_unreadable(&self, id: &TaskId, now: Timestamp) -> Result<bool, StoreError> {
        let id = id.clone();
        self.write(Urgency::Needed, move |tx| {
            let Some(shown) = stored::look(tx.conn, tx.pins, &id)? else { return Ok(false) };
            let State::Blocked { why: Blocked::Unreadable { why }, .. } = &shown.task.state else { return Ok(false) };
            let sql = "UPDATE tasks SET key = ?2, tracker_item = ?3, branch = ?4, status = ?5, version = version + 1,
                         updated_at = ?6, cancelled_at = ?6
                       WHERE id = ?1 AND cancel_requested_at IS NOT NULL AND done_at IS NULL AND cancelled_at IS NULL";
            let task = &shown.task;
            let item = task.tracker_item.as_deref().map(|item| tombstone(item, &id));
            let (key, branch) = (tombstone(task.key.as_str(), &id), tombstone(task.branch().as_str(), &id));
            let status = Status::Cancelled.as_str();
            if execute(tx.conn, sql, (id.as_str(), key, item, branch, status, now.0))? == 0 {
                return Ok(false);
            }
            let text = format!("stopped; its stored row cannot be read ({why}) and was left as it is");
            append(tx, &Subject::task(task), &[Entry::new("cancelled", text)], now)?;
            let show = [Outgoing::Show { state: ShownState::Cancelled }];
            outbox::enqueue(tx, &id, shown.version.next(), &show, now)?;
            Ok(true)
        })
        .await
    }

    /// Every life of a key, oldest first, whether cancelled or not. One that cannot be read is shown as blocked by that.
    pub async fn tasks_by_key(&self, key: &TaskKey) -> Result<Vec<Stored>, StoreError> {
        self.list("orig_key = ?1 ORDER BY generation".to_owned(), vec![Value::Text(key.to_string())]).await
    }

    /// Ids and keys of all tasks that are not terminal, oldest first: for those who need no more, however many there are.
    pub async fn live_ids(&self) -> Result<Vec<(TaskId, TaskKey)>, StoreError> {
        self.read(|conn| {
            let sql = format!("SELECT id, orig_key FROM tasks WHERE {LIVE} ORDER BY created_at, id");
            readable(conn, &sql, [], |row| Ok((get_parsed(row, "id")?, get_parsed(row, "orig_key")?)))
        })
        .await
    }

    /// Who has the turn in each serial repository.
    pub async fn turn_holders(&self) -> Result<Vec<(RepoName, TaskId)>, StoreError> {
        self.read(|conn| {
            let sql = format!("SELECT repo, id FROM tasks WHERE {LIVE} AND has_turn ORDER BY created_at, id");
            readable(conn, &sql, [], |row| Ok((get_parsed(row, "repo")?, get_parsed(row, "id")?)))
        })
        .await
    }

    /// Every life of a tracker item, oldest first.
    pub async fn tasks_by_item(&self, item: &str) -> Result<Vec<Stored>, StoreError> {
        let rest = "orig_tracker_item = ?1 ORDER BY created_at, generation";
        self.list(rest.to_owned(), vec![Value::Text(item.to_owned())]).await
    }

    /// All tasks that are not terminal, by priority, then age. One that cannot be read is shown as blocked by that.
    pub async fn live_tasks(&self) -> Result<Vec<Stored>, StoreError> {
        self.list(format!("{LIVE} ORDER BY priority DESC, created_at, id"), Vec::new()).await
    }

    /// Tasks for looking at: a row that cannot be read is one of them, and stops nobody else.
    async fn list(&self, rest: String, values: Vec<Value>) -> Result<Vec<Stored>, StoreError> {
        let shared = self.inner.shared.clone();
        self.read(move |conn| {
            let sql = format!("{TASKS} WHERE {rest}");
            readable(conn, &sql, params_from_iter(values), |row| stored::shown(&shared.pins, row))
        })
        .await
    }

    /// Tasks that match, newest first. One that cannot be read is found by its columns and shown as blocked by that.
    pub async fn find_tasks(&self, filter: TaskFilter) -> Result<Vec<Stored>, StoreError> {
        let mut wheres = vec!["1 = 1".to_owned()];
        let mut values: Vec<Value> = Vec::new();
        let mut equals = |column: &str, value: Option<&str>| {
            if let Some(value) = value {
                values.push(Value::Text(value.to_owned()));
                wheres.push(format!("{column} = ?{}", values.len()));
            }
        };
        equals("repo", filter.repo.as_ref().map(RepoName::as_str));
        equals("stage", filter.stage.as_ref().map(StageName::as_str));
        equals("status", filter.status.map(Status::as_str));
        if filter.live_only {
            wheres.push(LIVE.to_owned());
        }
        let limit = filter.limit.map_or(-1, i64::from);
        self.list(format!("{} ORDER BY created_at DESC, id DESC LIMIT {limit}", wheres.join(" AND ")), values).await
    }

    /// How many tasks there are by (stage, status).
    pub async fn count_tasks(&self) -> Result<Vec<(StageName, Status, u64)>, StoreError> {
        self.read(move |conn| {
            let sql = "SELECT stage, status, count(*) AS n FROM tasks GROUP BY stage, status ORDER BY stage, status";
            readable(conn, sql, [], |row| {
                let status: String = get(row, "status")?;
                let status = Status::ALL.into_iter().find(|known| known.as_str() == status).ok_or_else(|| {
                    StoreError::Damaged { what: "status".to_owned(), why: format!("`{status}` is no status") }
                })?;
                Ok((get_parsed(row, "stage")?, status, get(row, "n")?))
            })
        })
        .await
    }

    /// Commits a task's next state with its journal and outgoing effects, under all fences; tells the new version.
    pub async fn commit(&self, change: Change) -> Result<Version, CommitError> {
        if let State::Blocked { why: Blocked::Unreadable { why }, .. } = &change.task.state {
            // What stands for a row that cannot be read must never be written over it.
            let what = format!("task {}", change.task.id);
            return Err(CommitError::Store(StoreError::Damaged { what, why: why.clone() }));
        }
        // Made ready on the caller's thread: the writer's time is everybody's.
        let (columns, subject, version) =
            (Columns::of(&change.task), Subject::task(&change.task), change.version.next());
        let effects = outbox::prepare(&change.task.id, version, &change.outgoing);
        // What only brings a task to its end must work on a full disk, too.
        let urgency = if change.forward { Urgency::Ordinary } else { Urgency::Needed };
        self.write(urgency, move |tx| {
            // First the entries, whose last position the row then takes: a refusal takes both back.
            let last = journal::write(tx, &subject, &change.entries, change.now)?;
            let changed = match &columns.end {
                None => go_on(tx, &change, &columns, last)?,
                Some(end) => close(tx, &change, &columns, end, last)?,
            };
            if changed == 0 {
                return Err(refusal(tx, &change)?);
            }
            outbox::write(tx, &change.task.id, &effects, change.now)?;
            Ok(version)
        })
        .await
    }

    /// Records a STOP: durable, set once, whatever the row's version and epoch.
    pub async fn record_stop(&self, id: &TaskId, mark: StopMark) -> Result<StopRecorded, StoreError> {
        let id = id.clone();
        self.write(Urgency::Needed, move |tx| {
            let sql =
                "UPDATE tasks SET cancel_requested_at = ?2, cancel_requested_by = ?3, cancel_requested_source = ?4,
                         status = ?5, updated_at = ?2
                       WHERE id = ?1 AND cancel_requested_at IS NULL AND done_at IS NULL AND cancelled_at IS NULL";
            let stopping = Status::Stopping.as_str();
            let changed = execute(tx.conn, sql, (id.as_str(), mark.at.0, &mark.by, &mark.source, stopping))?;
            if changed == 1 {
                let text = format!("STOP recorded: asked by {} ({})", mark.by, mark.source);
                append(tx, &subject_of(tx.conn, &id)?, &[Entry::new("stop-recorded", text)], mark.at)?;
                return Ok(StopRecorded::First);
            }
            let stored = load(tx.conn, tx.pins, &id)?
                .ok_or_else(|| StoreError::NotFound { what: "task", id: id.to_string() })?;
            match stored.task.stop {
                _ if stored.task.is_terminal() => Ok(StopRecorded::Terminal),
                Some(mark) => Ok(StopRecorded::Already(mark)),
                None => Err(StoreError::Damaged {
                    what: format!("task {id}"),
                    why: "neither live, nor stopped, nor terminal".to_owned(),
                }),
            }
        })
        .await
    }
}

/// What is written in columns beside the body.
struct Columns {
    status: &'static str,
    body: String,
    end: Option<End>,
}

/// What is written when a life is closed.
struct End {
    cancelled_at: Option<i64>,
    done_at: Option<i64>,
}

impl Columns {
    fn of(task: &Task) -> Self {
        let end = match &task.state {
            State::Cancelled { at } => Some(End { cancelled_at: Some(at.0), done_at: None }),
            State::Done { at } => Some(End { cancelled_at: None, done_at: Some(at.0) }),
            _ => None,
        };
        Self { status: task.status().as_str(), body: json(task), end }
    }
}

fn insert(tx: &Tx<'_>, task: &Task, columns: &Columns, now: Timestamp) -> Result<(), StoreError> {
    let branch = task.branch();
    let sql = "INSERT INTO tasks (id, key, orig_key, generation, repo, tracker_item, orig_tracker_item, branch,
                 orig_branch, stage, status, body, version, epoch, priority, has_turn, created_at, updated_at,
                 cancelled_at, done_at)
               VALUES (:id, :key, :key, :generation, :repo, :item, :item, :branch, :branch, :stage, :status,
                 :body, 1, 0, :priority, :has_turn, :created, :now, :cancelled_at, :done_at)";
    let params = named_params! {
        ":id": task.id.as_str(),
        ":key": task.key.as_str(),
        ":generation": task.generation.0,
        ":repo": task.repo.as_str(),
        ":item": task.tracker_item,
        ":branch": branch.as_str(),
        ":stage": task.stage.as_str(),
        ":status": columns.status,
        ":body": columns.body,
        ":priority": task.priority,
        ":has_turn": task.has_turn,
        ":created": task.created.0,
        ":now": now.0,
        ":cancelled_at": columns.end.as_ref().and_then(|end| end.cancelled_at),
        ":done_at": columns.end.as_ref().and_then(|end| end.done_at),
    };
    execute(tx.conn, sql, params)?;
    Ok(())
}

/// Writes what the life is given once; `pinned`: its pipeline and policy as text.
fn write_brief(tx: &Tx<'_>, task: &Task, pinned: &(String, String)) -> Result<(), StoreError> {
    let pins = pins::row_of(tx.conn, &pinned.0, &pinned.1)?;
    let sql = "INSERT INTO briefs (task, title, body, pins) VALUES (?1, ?2, ?3, ?4)";
    execute(tx.conn, sql, (task.id.as_str(), &task.title, &task.body, pins))?;
    Ok(())
}

/// The fences of every commit.
const FENCES: &str = "id = :id AND version = :version AND epoch = :epoch AND done_at IS NULL AND cancelled_at IS NULL
                      AND (NOT :forward OR cancel_requested_at IS NULL)";

/// Writes the next state of a life that goes on: no column of any index is touched. By numbers instead of names, which
/// SQLite looks for one by one with each change.
fn go_on(tx: &Tx<'_>, change: &Change, columns: &Columns, last: Option<Seq>) -> Result<usize, StoreError> {
    let task = &change.task;
    let sql = "UPDATE tasks SET
                 stage = ?5, status = CASE WHEN cancel_requested_at IS NULL THEN ?6 ELSE ?7 END,
                 body = ?8, version = version + 1, priority = ?9, has_turn = ?10, updated_at = ?11,
                 journal_last = coalesce(?12, journal_last)
               WHERE id = ?1 AND version = ?2 AND epoch = ?3 AND done_at IS NULL AND cancelled_at IS NULL
                 AND (NOT ?4 OR cancel_requested_at IS NULL)";
    let params = (
        task.id.as_str(),
        change.version.0,
        change.epoch.0,
        change.forward,
        task.stage.as_str(),
        columns.status,
        Status::Stopping.as_str(),
        &columns.body,
        task.priority,
        task.has_turn,
        change.now.0,
        last.map(|seq| seq.0),
    );
    execute(tx.conn, sql, params)
}

/// Writes the last state of a life; a cancelled one gives its keys back.
fn close(tx: &Tx<'_>, change: &Change, columns: &Columns, end: &End, last: Option<Seq>) -> Result<usize, StoreError> {
    let task = &change.task;
    let grave = |original: &str| end.cancelled_at.map(|_| tombstone(original, &task.id));
    let sql = format!(
        "UPDATE tasks SET
           key = coalesce(:key_grave, key),
           tracker_item = coalesce(:item_grave, tracker_item),
           branch = coalesce(:branch_grave, branch),
           stage = :stage, status = :status, body = :body, version = version + 1, priority = :priority,
           has_turn = :has_turn, updated_at = :now, journal_last = coalesce(:last, journal_last),
           cancelled_at = :cancelled_at, done_at = :done_at
         WHERE {FENCES}"
    );
    let params = named_params! {
        ":key_grave": grave(task.key.as_str()),
        ":item_grave": task.tracker_item.as_deref().and_then(grave),
        ":branch_grave": grave(task.branch().as_str()),
        ":stage": task.stage.as_str(),
        ":status": columns.status,
        ":body": columns.body,
        ":priority": task.priority,
        ":has_turn": task.has_turn,
        ":now": change.now.0,
        ":last": last.map(|seq| seq.0),
        ":cancelled_at": end.cancelled_at,
        ":done_at": end.done_at,
        ":id": task.id.as_str(),
        ":version": change.version.0,
        ":epoch": change.epoch.0,
        ":forward": change.forward,
    };
    execute(tx.conn, &sql, params)
}

/// Which fence refused; the ones that end the caller come first.
fn refusal(tx: &Tx<'_>, change: &Change) -> Result<CommitError, StoreError> {
    let id = &change.task.id;
    let row = load(tx.conn, tx.pins, id)?.ok_or_else(|| StoreError::NotFound { what: "task", id: id.to_string() })?;
    Ok(if row.epoch != change.epoch {
        CommitError::StaleEpoch { current: row.epoch }
    } else if row.task.is_terminal() {
        CommitError::Terminal
    } else if change.forward && row.task.stop.is_some() {
        CommitError::StopRecorded
    } else {
        CommitError::VersionConflict { found: row.version }
    })
}

fn live_twin(conn: &Connection, task: &Task) -> Result<Option<TaskId>, StoreError> {
    let sql = format!("SELECT id FROM tasks WHERE (key = ?1 OR tracker_item = ?2) AND {LIVE} LIMIT 1");
    first(conn, &sql, (task.key.as_str(), &task.tracker_item), |row| get_parsed(row, "id"))
}

fn next_generation(conn: &Connection, key: &TaskKey) -> Result<Generation, StoreError> {
    let sql = "SELECT coalesce(max(generation), 0) AS last FROM tasks WHERE orig_key = ?1";
    let last = first(conn, sql, [key.as_str()], |row| get(row, "last"))?;
    Ok(Generation(last.unwrap_or(0)).next())
}
