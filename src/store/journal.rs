//! The journal table: append-only, written in the transaction that makes a fact true.
//!
//! Owns positions (they only rise, given by the writer) and reading from a position on. A task's entries are a chain from
//! its last one backwards (`tasks.journal_last`, `journal.prev`), not an index with a place for every task: an entry then
//! costs the end of one table. Refuses updates and deletes: there is no such method
//! here; an operator who wants old journals to end says so, and pruning does it.

use orch_domain::ids::{Generation, Seq, TaskId};
use orch_domain::journal::{Entry, Record};
use orch_domain::names::{RepoName, StageName, TaskKey};
use orch_domain::task::Task;
use orch_domain::time::Timestamp;
use rusqlite::{Connection, Row};

use crate::Store;
use crate::error::StoreError;
use crate::row::{all, execute, first, get, get_json_opt, get_parsed_opt, get_time, json};
use crate::writer::{Tx, Urgency};

/// What an entry is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The task, if any.
    pub task: Option<TaskId>,
    /// Its key.
    pub key: Option<TaskKey>,
    /// Its life.
    pub generation: Option<Generation>,
    /// The repository, if any; neither task nor repository: the supervisor itself.
    pub repo: Option<RepoName>,
    /// The stage at that time.
    pub stage: Option<StageName>,
}

impl Subject {
    /// A repository.
    #[must_use]
    pub fn repo(repo: &RepoName) -> Self {
        Self { repo: Some(repo.clone()), ..Self::default() }
    }

    /// A task as it is now.
    #[must_use]
    pub fn task(task: &Task) -> Self {
        Self {
            task: Some(task.id.clone()),
            key: Some(task.key.clone()),
            generation: Some(task.generation),
            repo: Some(task.repo.clone()),
            stage: Some(task.stage.clone()),
        }
    }
}

const COLUMNS: &str = "seq, at, task, key, generation, repo, stage, kind, text, data";

/// The entries of task `?1` after position `?2`, newest first.
const CHAIN: &str = "WITH RECURSIVE chain AS (
  SELECT j.* FROM tasks t JOIN journal j ON j.seq = t.journal_last WHERE t.id = ?1 AND j.seq > ?2
  UNION ALL SELECT j.* FROM chain c JOIN journal j ON j.seq = c.prev WHERE j.seq > ?2)";

impl Store {
    /// Appends entries that belong to no change of a task row.
    pub async fn append(&self, subject: Subject, entries: Vec<Entry>, now: Timestamp) -> Result<Seq, StoreError> {
        self.append_as(Urgency::Ordinary, subject, entries, now).await
    }

    /// The same for what has to be said on a full disk, too.
    pub async fn append_needed(
        &self,
        subject: Subject,
        entries: Vec<Entry>,
        now: Timestamp,
    ) -> Result<Seq, StoreError> {
        self.append_as(Urgency::Needed, subject, entries, now).await
    }

    async fn append_as(
        &self,
        urgency: Urgency,
        subject: Subject,
        entries: Vec<Entry>,
        now: Timestamp,
    ) -> Result<Seq, StoreError> {
        self.write(urgency, move |tx| {
            append(tx, &subject, &entries, now)?;
            Ok(Seq(tx.seq.get()))
        })
        .await
    }

    /// A task's records after a position, oldest first.
    pub async fn journal(&self, task: &TaskId, after: Seq, limit: u32) -> Result<Vec<Record>, StoreError> {
        let task = task.clone();
        self.read(move |conn| {
            let sql = format!("{CHAIN} SELECT {COLUMNS} FROM chain ORDER BY seq LIMIT ?3");
            all(conn, &sql, (task.as_str(), after.0, limit), record)
        })
        .await
    }

    /// A task's newest records, oldest of them first.
    pub async fn journal_tail(&self, task: &TaskId, limit: u32) -> Result<Vec<Record>, StoreError> {
        let task = task.clone();
        self.read(move |conn| {
            // Newest first by the way it is walked: the limit ends the walk.
            let sql = format!("{CHAIN} SELECT {COLUMNS} FROM chain LIMIT ?3");
            let mut records = all(conn, &sql, (task.as_str(), 0, limit), record)?;
            records.reverse();
            Ok(records)
        })
        .await
    }

    /// All records after a position, oldest first: the event stream.
    pub async fn records_after(&self, after: Seq, limit: u32) -> Result<Vec<Record>, StoreError> {
        self.read(move |conn| {
            let sql = format!("SELECT {COLUMNS} FROM journal WHERE seq > ?1 ORDER BY seq LIMIT ?2");
            all(conn, &sql, (after.0, limit), record)
        })
        .await
    }
}

/// Writes entries in the open transaction; a task's row comes to know the last of them.
pub(crate) fn append(tx: &Tx<'_>, subject: &Subject, entries: &[Entry], now: Timestamp) -> Result<(), StoreError> {
    if let (Some(last), Some(task)) = (write(tx, subject, entries, now)?, &subject.task) {
        execute(tx.conn, "UPDATE tasks SET journal_last = ?2 WHERE id = ?1", (task.as_str(), last.0))?;
    }
    Ok(())
}

/// The same for whoever writes the task's row anyway, afterwards, with the position that this tells.
pub(crate) fn write(
    tx: &Tx<'_>,
    subject: &Subject,
    entries: &[Entry],
    now: Timestamp,
) -> Result<Option<Seq>, StoreError> {
    let mut last = None;
    for entry in entries {
        let seq = tx.seq.get() + 1;
        let data = (!entry.data.is_null()).then(|| json(&entry.data));
        execute(
            tx.conn,
            "INSERT INTO journal (seq, at, task, prev, key, generation, repo, stage, kind, text, data)
             VALUES (?1, ?2, ?3, coalesce(?4, (SELECT journal_last FROM tasks WHERE id = ?3)), ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            (
                seq,
                now.0,
                subject.task.as_ref().map(TaskId::as_str),
                last.map(|seq: Seq| seq.0),
                subject.key.as_ref().map(TaskKey::as_str),
                subject.generation.map(|generation| generation.0),
                subject.repo.as_ref().map(RepoName::as_str),
                subject.stage.as_ref().map(StageName::as_str),
                &entry.kind,
                &entry.text,
                data,
            ),
        )?;
        tx.seq.set(seq);
        last = Some(Seq(seq));
    }
    Ok(last)
}

/// How many entries of one kind a task has.
pub(crate) fn count_of(conn: &Connection, task: &TaskId, kind: &str) -> Result<u64, StoreError> {
    let sql = format!("{CHAIN} SELECT count(*) AS n FROM chain WHERE kind = ?3");
    Ok(first(conn, &sql, (task.as_str(), 0, kind), |row| get::<u64>(row, "n"))?.unwrap_or_default())
}

/// The subject of a stored task.
pub(crate) fn subject_of(conn: &Connection, task: &TaskId) -> Result<Subject, StoreError> {
    let sql = "SELECT orig_key, generation, repo, stage FROM tasks WHERE id = ?1";
    first(conn, sql, [task.as_str()], |row| {
        Ok(Subject {
            task: Some(task.clone()),
            key: get_parsed_opt(row, "orig_key")?,
            generation: Some(Generation(get(row, "generation")?)),
            repo: get_parsed_opt(row, "repo")?,
            stage: get_parsed_opt(row, "stage")?,
        })
    })?
    .ok_or_else(|| StoreError::NotFound { what: "task", id: task.to_string() })
}

fn record(row: &Row<'_>) -> Result<Record, StoreError> {
    Ok(Record {
        seq: Seq(get(row, "seq")?),
        at: get_time(row, "at")?,
        task: get_parsed_opt(row, "task")?,
        key: get_parsed_opt(row, "key")?,
        generation: get::<Option<u64>>(row, "generation")?.map(Generation),
        repo: get_parsed_opt(row, "repo")?,
        stage: get_parsed_opt(row, "stage")?,
        entry: Entry {
            kind: get(row, "kind")?,
            text: get(row, "text")?,
            data: get_json_opt(row, "data")?.unwrap_or_default(),
        },
    })
}
