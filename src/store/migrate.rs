//! Migrations: numbered SQL files, each applied in one transaction and remembered by its hash.
//!
//! Owns the list and the schema number (`user_version`). A file from a newer program, or one whose applied migrations
//! are not ours, is refused and left as it is. A released migration is never edited: a new one is added.

use std::path::Path;

use orch_domain::time::Timestamp;
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use crate::error::{Db, OpenError, StoreError};

/// One numbered file; its number is its position, from 1.
struct Migration {
    name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { name: "0001_tasks", sql: include_str!("migrations/0001_tasks.sql") },
    Migration { name: "0002_lane", sql: include_str!("migrations/0002_lane.sql") },
    Migration { name: "0003_board_and_limits", sql: include_str!("migrations/0003_board_and_limits.sql") },
    Migration { name: "0004_window_detail", sql: include_str!("migrations/0004_window_detail.sql") },
    Migration { name: "0005_coverage", sql: include_str!("migrations/0005_coverage.sql") },
    Migration { name: "0006_lane_turns", sql: include_str!("migrations/0006_lane_turns.sql") },
    Migration { name: "0007_lean_commits", sql: include_str!("migrations/0007_lean_commits.sql") },
    Migration { name: "0008_coverage_lines", sql: include_str!("migrations/0008_coverage_lines.sql") },
];

/// The newest schema number that this program knows.
pub(crate) const NEWEST: u32 = MIGRATIONS.len() as u32;

/// The file's schema number; 0: empty.
pub(crate) fn schema_number(conn: &Connection) -> Result<u32, StoreError> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0)).db()
}

/// Refuses a file that this program must not touch; tells its schema number.
pub(crate) fn check(conn: &Connection, file: &Path) -> Result<u32, OpenError> {
    let trouble = |source| OpenError::Store { file: file.to_owned(), source };
    let found = schema_number(conn).map_err(trouble)?;
    if found > NEWEST {
        return Err(OpenError::Newer { file: file.to_owned(), found, known: NEWEST });
    }
    for number in 1..=found {
        let migration = &MIGRATIONS[number as usize - 1];
        let applied: String = conn
            .query_row("SELECT sha256 FROM migrations WHERE number = ?1", [number], |row| row.get(0))
            .db()
            .map_err(trouble)?;
        if applied != hash(migration) {
            return Err(OpenError::ForeignMigration { file: file.to_owned(), number, name: migration.name.to_owned() });
        }
    }
    Ok(found)
}

/// Applies what is missing after number `from`.
pub(crate) fn apply(conn: &mut Connection, from: u32, now: Timestamp) -> Result<(), StoreError> {
    for number in from + 1..=NEWEST {
        let migration = &MIGRATIONS[number as usize - 1];
        let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).db()?;
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS migrations (
               number INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at INTEGER NOT NULL
             ) STRICT",
        )
        .db()?;
        tx.execute_batch(migration.sql).db()?;
        tx.execute(
            "INSERT INTO migrations (number, name, sha256, applied_at) VALUES (?1, ?2, ?3, ?4)",
            (number, migration.name, hash(migration), now.0),
        )
        .db()?;
        tx.pragma_update(None, "user_version", number).db()?;
        tx.commit().db()?;
        // Of a file that is just being made they are no news, and whoever made it may be refused for another reason.
        match from {
            0 => tracing::debug!(number, name = migration.name, "migration applied"),
            _ => tracing::info!(number, name = migration.name, "migration applied"),
        }
    }
    Ok(())
}

fn hash(migration: &Migration) -> String {
    hex::encode(Sha256::digest(migration.sql.as_bytes()))
}
