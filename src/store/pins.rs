//! Pins: the pipelines and policies that tasks are held to, stored once for all tasks of one setting, and once in memory.
//!
//! Owns the table `pins` and the values already read. A value is known by its whole text, never by its row's id: a row
//! whose transaction was taken back may give its id to another one. Refuses to change a pin: there is no such statement.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use orch_domain::pipeline::Pipeline;
use orch_domain::policy::Policy;
use rusqlite::Connection;
use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::held;
use crate::row::{execute, first, get, read_json};

/// More different settings than any supervisor has; beyond them the memory begins anew.
const MOST: usize = 1_000;

/// Values that were read before, shared by all tasks that have them.
#[derive(Default)]
pub(crate) struct Pins {
    pipelines: Known<Pipeline>,
    policies: Known<Policy>,
}

impl Pins {
    /// The pipeline of that text.
    pub(crate) fn pipeline(&self, text: &str) -> Result<Arc<Pipeline>, StoreError> {
        self.pipelines.get("pinned pipeline", text)
    }

    /// The policy of that text.
    pub(crate) fn policy(&self, text: &str) -> Result<Arc<Policy>, StoreError> {
        self.policies.get("pinned policy", text)
    }
}

struct Known<T>(Mutex<HashMap<Box<str>, Arc<T>>>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: DeserializeOwned> Known<T> {
    fn get(&self, what: &str, text: &str) -> Result<Arc<T>, StoreError> {
        let mut known = held(&self.0);
        if let Some(value) = known.get(text) {
            return Ok(value.clone());
        }
        let value = Arc::new(read_json(what, text)?);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(text.into(), Arc::clone(&value));
        Ok(value)
    }
}

/// The row of these two, made when there is none.
pub(crate) fn row_of(conn: &Connection, pipeline: &str, policy: &str) -> Result<i64, StoreError> {
    let sql = "SELECT id FROM pins WHERE pipeline = ?1 AND policy = ?2";
    if let Some(id) = first(conn, sql, (pipeline, policy), |row| get(row, "id"))? {
        return Ok(id);
    }
    execute(conn, "INSERT INTO pins (pipeline, policy) VALUES (?1, ?2)", (pipeline, policy))?;
    Ok(conn.last_insert_rowid())
}
