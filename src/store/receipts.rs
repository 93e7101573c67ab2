//! The receipt_lines table: the proof of a STOP, step by step.
//!
//! Owns one line per step: the newest result wins, except that a step once done stays done. The receipt's head is read
//! from the task's row.

use orch_domain::ids::TaskId;
use orch_domain::stop::{Receipt, ReceiptLine, StepResult, StopStep};
use orch_domain::task::{State, Status};
use orch_domain::time::Timestamp;

use crate::error::StoreError;
use crate::row::{all, execute, first, get, get_parsed, get_time, json, read_json};
use crate::writer::Urgency;
use crate::{Store, stored};

/// A step of a closed task's STOP that waits for a remote part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingStep {
    /// Whose.
    pub task: TaskId,
    /// When its task was closed.
    pub closed: Timestamp,
    /// The line, with the time of the last try.
    pub line: ReceiptLine,
}

impl Store {
    /// Puts a line; `false`: the step was done before, and stays as it was.
    pub async fn put_receipt_line(&self, task: &TaskId, line: ReceiptLine) -> Result<bool, StoreError> {
        let task = task.clone();
        self.write(Urgency::Needed, move |tx| {
            let sql = "SELECT line FROM receipt_lines WHERE task = ?1 AND step = ?2";
            let step = line.step.as_str();
            let before: Option<String> = first(tx.conn, sql, (task.as_str(), step), |row| get(row, "line"))?;
            if let Some(before) = before {
                let before: ReceiptLine = read_json("receipt line", &before)?;
                if matches!(before.result, StepResult::Done { .. }) {
                    return Ok(false);
                }
            }
            let sql = "INSERT INTO receipt_lines (task, step, at, line) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (task, step) DO UPDATE SET at = excluded.at, line = excluded.line";
            execute(tx.conn, sql, (task.as_str(), step, line.at.0, json(&line)))?;
            Ok(true)
        })
        .await
    }

    /// Closed tasks whose receipt lacks the lines that can only be written after the closing: a supervisor that ended in
    /// between could not write them.
    pub async fn receipts_to_finish(&self) -> Result<Vec<TaskId>, StoreError> {
        self.read(move |conn| {
            let sql = "SELECT id FROM tasks WHERE cancel_requested_at IS NOT NULL
                         AND (done_at IS NOT NULL OR cancelled_at IS NOT NULL)
                         AND (SELECT count(*) FROM receipt_lines
                              WHERE task = tasks.id AND step IN (?1, ?2)) < 2";
            let steps = (StopStep::Tombstone.as_str(), StopStep::Actors.as_str());
            all(conn, sql, steps, |row| get_parsed(row, "id"))
        })
        .await
    }

    /// Lines of closed tasks that wait for a remote part, each with when its task was closed; the oldest first.
    pub async fn pending_steps(&self) -> Result<Vec<PendingStep>, StoreError> {
        self.read(move |conn| {
            let sql = "SELECT id, line, coalesce(cancelled_at, done_at) AS closed
                       FROM receipt_lines JOIN tasks ON id = task
                       WHERE json_extract(line, '$.result') = 'pending' AND closed IS NOT NULL ORDER BY closed, id";
            all(conn, sql, [], |row| {
                Ok(PendingStep {
                    task: get_parsed(row, "id")?,
                    closed: get_time(row, "closed")?,
                    line: read_json("receipt line", &get::<String>(row, "line")?)?,
                })
            })
        })
        .await
    }

    /// The receipt of a task's STOP, its lines in the order of the steps; `None`: no STOP was recorded.
    pub async fn receipt(&self, task: &TaskId) -> Result<Option<Receipt>, StoreError> {
        let (task, shared) = (task.clone(), self.inner.shared.clone());
        self.read(move |conn| {
            let Some(stored) = stored::look(conn, &shared.pins, &task)? else { return Ok(None) };
            let Some(stop) = stored.task.stop.clone() else { return Ok(None) };
            let sql = "SELECT line FROM receipt_lines WHERE task = ?1";
            let mut lines = all(conn, sql, [task.as_str()], |row| {
                read_json::<ReceiptLine>("receipt line", &get::<String>(row, "line")?)
            })?;
            lines.sort_by_key(|line| StopStep::ALL.iter().position(|step| *step == line.step));
            let outcome = match stored.task.state {
                State::Cancelled { .. } => Status::Cancelled,
                State::Done { .. } => Status::Done,
                _ => Status::Stopping,
            };
            Ok(Some(Receipt {
                task: stored.task.id,
                key: stored.task.key,
                generation: stored.task.generation,
                requested: stop.at,
                by: stop.by,
                source: stop.source,
                outcome: outcome.as_str().to_owned(),
                lines,
            }))
        })
        .await
    }
}
