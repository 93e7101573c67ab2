//! The inbox table: deliveries made durable before they are acknowledged, each seen once.
//!
//! Owns deduplication by (source, hash of the content): trackers give each retry a new delivery id. The caller makes the
//! hash from what identifies the fact. Refuses to interpret a body.

use orch_domain::time::Timestamp;

use crate::Store;
use crate::error::StoreError;
use crate::row::{all, execute, first, get, get_time};
use crate::writer::Urgency;

/// Largest body, in bytes, that is still accepted when the disk is full.
const NEEDED_BODY: usize = 64 * 1024;

/// Whether a delivery is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// New, and durable now.
    First {
        /// Its row.
        id: i64,
    },
    /// Seen before.
    Seen {
        /// The first one's row.
        id: i64,
    },
}

/// A delivery that waits to be processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Row id: names it in [`Store::inbox_done`].
    pub id: i64,
    /// Who sent it.
    pub source: String,
    /// Its body as received; untrusted.
    pub body: String,
    /// When it was accepted.
    pub received: Timestamp,
}

impl Store {
    /// Makes a delivery durable, once per (source, hash).
    pub async fn accept_delivery(
        &self,
        source: &str,
        dedupe_hash: &str,
        body: &str,
        now: Timestamp,
    ) -> Result<Delivered, StoreError> {
        let (source, hash, body) = (source.to_owned(), dedupe_hash.to_owned(), body.to_owned());
        // A STOP arrives this way, too; but big bodies must not eat the ballast that is kept for it.
        let urgency = if body.len() <= NEEDED_BODY { Urgency::Needed } else { Urgency::Ordinary };
        self.write(urgency, move |tx| {
            let sql = "INSERT INTO inbox (source, dedupe, body, received_at) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (source, dedupe) DO NOTHING";
            if execute(tx.conn, sql, (&source, &hash, &body, now.0))? == 1 {
                return Ok(Delivered::First { id: tx.conn.last_insert_rowid() });
            }
            let sql = "SELECT id FROM inbox WHERE source = ?1 AND dedupe = ?2";
            let id = first(tx.conn, sql, (&source, &hash), |row| get(row, "id"))?;
            Ok(Delivered::Seen { id: id.unwrap_or(0) })
        })
        .await
    }

    /// Deliveries not yet processed, oldest first.
    pub async fn unprocessed_inbox(&self, limit: u32) -> Result<Vec<Delivery>, StoreError> {
        self.read(move |conn| {
            let sql = "SELECT id, source, body, received_at FROM inbox WHERE processed_at IS NULL ORDER BY id LIMIT ?1";
            all(conn, sql, [limit], |row| {
                Ok(Delivery {
                    id: get(row, "id")?,
                    source: get(row, "source")?,
                    body: get(row, "body")?,
                    received: get_time(row, "received_at")?,
                })
            })
        })
        .await
    }

    /// A delivery has had its effect (or none, as `note` says); processed once, repeating is harmless.
    pub async fn inbox_done(&self, id: i64, note: &str, now: Timestamp) -> Result<(), StoreError> {
        let note = note.to_owned();
        self.write(Urgency::Needed, move |tx| {
            let sql = "UPDATE inbox SET processed_at = ?2, note = ?3 WHERE id = ?1 AND processed_at IS NULL";
            execute(tx.conn, sql, (id, now.0, &note))?;
            Ok(())
        })
        .await
    }
}
