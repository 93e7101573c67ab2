//! The outbox table: effects committed with the state that wants them, sent until settled.
//!
//! Owns the order: within one (task, kind) lane the oldest goes first, except for `show`, where the newest wins and
//! settling it settles the older ones. Refuses to send the same effect under two keys, or two effects under one: a key is
//! made of task, version and number, and the version's fence lets each be committed once.

use orch_domain::effect::Outgoing;
use orch_domain::ids::{TaskId, Version};
use orch_domain::names::TaskKey;
use orch_domain::time::Timestamp;
use rusqlite::Row;

use crate::Store;
use crate::error::StoreError;
use crate::row::{execute, first, get, get_parsed, get_time, json, read_json, readable};
use crate::writer::{Tx, Urgency};

/// An effect that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Row id: names it in [`Store::settle`].
    pub id: i64,
    /// Idempotency key for the other side.
    pub key: String,
    /// The task.
    pub task: TaskId,
    /// Its key.
    pub task_key: TaskKey,
    /// The tracker's own id of its item, if it came from one.
    pub tracker_item: Option<String>,
    /// What to do.
    pub outgoing: Outgoing,
    /// Failed attempts so far.
    pub attempts: u32,
    /// When it was committed.
    pub created: Timestamp,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// The head of a lane: newest for `show`, oldest else.
const HEADS: &str = "SELECT CASE kind WHEN 'show' THEN max(id) ELSE min(id) END FROM outbox
                     WHERE settled_at IS NULL GROUP BY task, kind";

impl Store {
    /// The head of each lane that may be sent now, oldest first.
    pub async fn pending_outbox(&self, limit: u32, now: Timestamp) -> Result<Vec<Pending>, StoreError> {
        self.read(move |conn| {
            let sql = format!(
                "SELECT o.id, o.key, o.task, t.orig_key, t.orig_tracker_item, o.payload, o.attempts, o.created_at, o.last_error
                 FROM outbox o JOIN tasks t ON t.id = o.task
                 WHERE o.id IN ({HEADS}) AND o.next_at <= ?1 ORDER BY o.id LIMIT ?2"
            );
            readable(conn, &sql, (now.0, limit), pending)
        })
        .await
    }

    /// When the next waiting lane may be tried; `None`: nothing waits.
    pub async fn next_outbox_at(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(move |conn| {
            let sql = format!("SELECT min(next_at) AS at FROM outbox WHERE id IN ({HEADS})");
            let at = first(conn, &sql, [], |row| get::<Option<i64>>(row, "at"))?;
            Ok(at.flatten().map(Timestamp))
        })
        .await
    }

    /// How many effects are not settled.
    pub async fn outbox_depth(&self) -> Result<u64, StoreError> {
        self.read(|conn| {
            let sql = "SELECT count(*) AS n FROM outbox WHERE settled_at IS NULL";
            Ok(first(conn, sql, [], |row| get(row, "n"))?.unwrap_or(0))
        })
        .await
    }

    /// The effect took place. Settling a `show` settles the older ones of its task as superseded.
    pub async fn settle(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        self.close_effect(id, "sent", None, now).await
    }

    /// The effect is given up for good; its lane goes on.
    pub async fn abandon(&self, id: i64, why: &str, now: Timestamp) -> Result<(), StoreError> {
        self.close_effect(id, "abandoned", Some(why.to_owned()), now).await
    }

    /// The attempt failed; the lane waits until `retry_at`.
    pub async fn outbox_failed(&self, id: i64, why: &str, retry_at: Timestamp) -> Result<(), StoreError> {
        let why = why.to_owned();
        self.write(Urgency::Ordinary, move |tx| {
            let sql = "UPDATE outbox SET attempts = attempts + 1, last_error = ?2, next_at = ?3
                       WHERE id = ?1 AND settled_at IS NULL";
            execute(tx.conn, sql, (id, &why, retry_at.0))?;
            Ok(())
        })
        .await
    }

    async fn close_effect(
        &self,
        id: i64,
        how: &'static str,
        why: Option<String>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(Urgency::Needed, move |tx| {
            let sql = "UPDATE outbox SET settled_at = ?2, settled_as = ?3, last_error = coalesce(?4, last_error)
                       WHERE id = ?1 AND settled_at IS NULL";
            execute(tx.conn, sql, (id, now.0, how, &why))?;
            let sql = "UPDATE outbox SET settled_at = ?2, settled_as = 'superseded'
                       WHERE settled_at IS NULL AND kind = 'show' AND id < ?1
                         AND (task, kind) = (SELECT task, kind FROM outbox WHERE id = ?1)";
            execute(tx.conn, sql, (id, now.0))?;
            Ok(())
        })
        .await
    }
}

/// An effect as its row will hold it.
pub(crate) struct Prepared {
    key: String,
    kind: &'static str,
    payload: String,
}

/// Effects made ready for [`write`], each under its key, where that can be done before the writer's turn.
pub(crate) fn prepare(task: &TaskId, version: Version, outgoing: &[Outgoing]) -> Vec<Prepared> {
    let ready = |(n, effect): (usize, &Outgoing)| Prepared {
        key: effect.key(task, version.0, n),
        kind: effect.kind(),
        payload: json(effect),
    };
    outgoing.iter().enumerate().map(ready).collect()
}

/// Writes prepared effects in the open transaction.
pub(crate) fn write(tx: &Tx<'_>, task: &TaskId, effects: &[Prepared], now: Timestamp) -> Result<(), StoreError> {
    for effect in effects {
        let sql = "INSERT INTO outbox (key, task, kind, payload, created_at) VALUES (?1, ?2, ?3, ?4, ?5)";
        execute(tx.conn, sql, (&effect.key, task.as_str(), effect.kind, &effect.payload, now.0))?;
    }
    Ok(())
}

/// Prepares effects and writes them.
pub(crate) fn enqueue(
    tx: &Tx<'_>,
    task: &TaskId,
    version: Version,
    outgoing: &[Outgoing],
    now: Timestamp,
) -> Result<(), StoreError> {
    write(tx, task, &prepare(task, version, outgoing), now)
}

fn pending(row: &Row<'_>) -> Result<Pending, StoreError> {
    Ok(Pending {
        id: get(row, "id")?,
        key: get(row, "key")?,
        task: get_parsed(row, "task")?,
        task_key: get_parsed(row, "orig_key")?,
        tracker_item: get(row, "orig_tracker_item")?,
        outgoing: read_json("outgoing effect", &get::<String>(row, "payload")?)?,
        attempts: get(row, "attempts")?,
        created: get_time(row, "created_at")?,
        last_error: get(row, "last_error")?,
    })
}
