//! The lane_turns table: what became of each try to land.
//!
//! Owns its bound: only the newest turns of a repository are kept. What follows from them is the domain's.

use orch_domain::names::RepoName;
use orch_domain::turns::Turn;
use rusqlite::Row;

use crate::Store;
use crate::error::StoreError;
use crate::row::{all, execute, get, get_parsed, get_time, json, read_json};
use crate::writer::Urgency;

/// Turns of a repository that are kept.
const KEPT: u32 = 1_000;
/// Turns between two clearings.
const CLEARED_EVERY: i64 = 50;

impl Store {
    /// Records a turn.
    pub async fn insert_turn(&self, repo: &RepoName, turn: Turn) -> Result<(), StoreError> {
        let repo = repo.clone();
        self.write(Urgency::Ordinary, move |tx| {
            let sql = "INSERT INTO lane_turns (repo, task, key, ready_at, queued_at, began_at, ended_at, end, facts)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
            let row = (
                repo.as_str(),
                turn.task.as_str(),
                turn.key.as_str(),
                turn.ready.0,
                turn.queued.0,
                turn.began.0,
                turn.ended.0,
                turn.end.as_str(),
                json(&turn.facts),
            );
            execute(tx.conn, sql, row)?;
            if tx.conn.last_insert_rowid() % CLEARED_EVERY == 0 {
                let sql = "DELETE FROM lane_turns WHERE repo = ?1 AND id NOT IN
                           (SELECT id FROM lane_turns WHERE repo = ?1 ORDER BY id DESC LIMIT ?2)";
                execute(tx.conn, sql, (repo.as_str(), KEPT))?;
            }
            Ok(())
        })
        .await
    }

    /// A repository's newest turns, oldest first.
    pub async fn turns(&self, repo: &RepoName, limit: u32) -> Result<Vec<Turn>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| {
            let sql = "SELECT * FROM (SELECT * FROM lane_turns WHERE repo = ?1 ORDER BY id DESC LIMIT ?2) ORDER BY id";
            all(conn, sql, (repo.as_str(), limit), turn)
        })
        .await
    }
}

fn turn(row: &Row<'_>) -> Result<Turn, StoreError> {
    let end: String = get(row, "end")?;
    let facts: String = get(row, "facts")?;
    Ok(Turn {
        task: get_parsed(row, "task")?,
        key: get_parsed(row, "key")?,
        ready: get_time(row, "ready_at")?,
        queued: get_time(row, "queued_at")?,
        began: get_time(row, "began_at")?,
        ended: get_time(row, "ended_at")?,
        end: read_json("end of a turn", &format!("\"{end}\""))?,
        facts: read_json("facts of a turn", &facts)?,
    })
}
