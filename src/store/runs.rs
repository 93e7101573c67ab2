//! The runs table: one row per attempt at one stage.
//!
//! Owns begin and end of a run as history for people and prompts. Refuses to be state: what a task does now is in its row.

use std::path::PathBuf;

use orch_domain::agent::Usage;
use orch_domain::ids::{RunId, TaskId};
use orch_domain::names::StageName;
use orch_domain::time::Timestamp;
use rusqlite::Row;
use serde_json::Value;

use crate::Store;
use crate::error::StoreError;
use crate::row::{all, execute, get, get_json_opt, get_parsed, get_time, get_time_opt, json};
use crate::writer::Urgency;

/// A run that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// Its id.
    pub id: RunId,
    /// The task.
    pub task: TaskId,
    /// The stage.
    pub stage: StageName,
    /// Its number over the task's life, from 1.
    pub attempt: u32,
    /// What it does: `agent`, `check`, `command`.
    pub kind: String,
    /// Where its logs are.
    pub log_dir: Option<PathBuf>,
    /// When it began.
    pub started: Timestamp,
}

/// A run as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Its beginning.
    pub run: NewRun,
    /// When it ended, if it did.
    pub ended: Option<Timestamp>,
    /// How it ended, for people and programs.
    pub outcome: Option<Value>,
    /// Tokens and money, as reported.
    pub usage: Option<Usage>,
}

impl Store {
    /// Records that a run begins; repeating it is harmless.
    pub async fn start_run(&self, run: NewRun) -> Result<(), StoreError> {
        self.write(Urgency::Ordinary, move |tx| {
            let sql = "INSERT INTO runs (id, task, stage, attempt, kind, started_at, log_dir)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING";
            let log_dir = run.log_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned());
            let row = (run.id.as_str(), run.task.as_str(), run.stage.as_str(), run.attempt, &run.kind);
            execute(tx.conn, sql, (row.0, row.1, row.2, row.3, row.4, run.started.0, log_dir))?;
            Ok(())
        })
        .await
    }

    /// Records how a run ended; the first end stays.
    pub async fn end_run(
        &self,
        run: &RunId,
        outcome: Value,
        usage: Option<Usage>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let run = run.clone();
        self.write(Urgency::Needed, move |tx| {
            let sql = "UPDATE runs SET ended_at = ?2, outcome = ?3, usage = ?4 WHERE id = ?1 AND ended_at IS NULL";
            execute(tx.conn, sql, (run.as_str(), now.0, json(&outcome), usage.as_ref().map(json)))?;
            Ok(())
        })
        .await
    }

    /// A task's runs, oldest first.
    pub async fn runs(&self, task: &TaskId) -> Result<Vec<RunRow>, StoreError> {
        let task = task.clone();
        self.read(move |conn| {
            let sql = "SELECT * FROM runs WHERE task = ?1 ORDER BY started_at, attempt, id";
            all(conn, sql, [task.as_str()], run_row)
        })
        .await
    }

    /// Runs without an end, oldest first: what the reconciler compares with the jobs.
    pub async fn open_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.read(|conn| all(conn, "SELECT * FROM runs WHERE ended_at IS NULL ORDER BY started_at, id", [], run_row))
            .await
    }
}

fn run_row(row: &Row<'_>) -> Result<RunRow, StoreError> {
    Ok(RunRow {
        run: NewRun {
            id: get_parsed(row, "id")?,
            task: get_parsed(row, "task")?,
            stage: get_parsed(row, "stage")?,
            attempt: get(row, "attempt")?,
            kind: get(row, "kind")?,
            log_dir: get::<Option<String>>(row, "log_dir")?.map(PathBuf::from),
            started: get_time(row, "started_at")?,
        },
        ended: get_time_opt(row, "ended_at")?,
        outcome: get_json_opt(row, "outcome")?,
        usage: get_json_opt(row, "usage")?,
    })
}
