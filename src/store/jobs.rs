//! The jobs table: every child process, recorded before it may go.
//!
//! Owns the two fences of a launch: the owner's epoch (the task's, or the lease's for jobs of the lane) and STOP. Window
//! kinds are exempt from STOP: an intent that was sent is always finished. On a full disk agents and gates are not recorded,
//! so that none begins; other kinds are. Invariants: a job goes at most once; the first end stays, except that a lost
//! job's may be replaced by its real record.

use orch_domain::ids::{Epoch, JobId, TaskId};
use orch_domain::job::{JobEnd, JobExit, JobKind, JobRecord, JobStatus};
use orch_domain::names::RepoName;
use orch_domain::time::Timestamp;
use rusqlite::{Connection, Row};

use crate::Store;
use crate::error::{JobError, StoreError};
use crate::row::{all, execute, first, get, get_json_opt, get_parsed, get_parsed_opt, get_time_opt, json, read_json};
use crate::writer::Urgency;

/// A job as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// What was recorded before it went.
    pub record: JobRecord,
    /// The lane it works for, when the lease owns it.
    pub lane: Option<RepoName>,
    /// Where it stands.
    pub status: JobStatus,
    /// When `go` was about to be sent.
    pub going: Option<Timestamp>,
    /// How it ended.
    pub exit: Option<JobExit>,
}

const LIVE: &str = "status IN ('prepared', 'running')";

impl Store {
    /// Records a prepared job. With a `lane` its epoch is checked against the lease of that repository; else against its
    /// task's row; a job of neither (housekeeping, steps of a STOP) has no fence.
    pub async fn job_prepared(&self, record: JobRecord, lane: Option<RepoName>) -> Result<(), JobError> {
        self.write(urgency(record.kind), move |tx| {
            fence(tx.conn, record.kind, record.task.as_ref(), lane.as_ref(), record.epoch)?;
            insert(tx.conn, &record, lane.as_ref(), None)
        })
        .await
    }

    /// Records a job and that `go` is about to be sent, at once, under the same fences. Only after this may it be sent.
    pub async fn job_launched(
        &self,
        record: JobRecord,
        lane: Option<RepoName>,
        now: Timestamp,
    ) -> Result<(), JobError> {
        self.write(urgency(record.kind), move |tx| {
            fence(tx.conn, record.kind, record.task.as_ref(), lane.as_ref(), record.epoch)?;
            insert(tx.conn, &record, lane.as_ref(), Some(now))
        })
        .await
    }

    /// Records that `go` is about to be sent, under the same fences. Only after this may it be sent.
    pub async fn job_going(&self, job: &JobId, now: Timestamp) -> Result<(), JobError> {
        let job = job.clone();
        // It was recorded, and a row that is there takes no more space.
        self.write(Urgency::Needed, move |tx| {
            let row = first(tx.conn, "SELECT * FROM jobs WHERE id = ?1", [job.as_str()], job_row)?
                .ok_or_else(|| StoreError::NotFound { what: "job", id: job.to_string() })?;
            if row.status != JobStatus::Prepared {
                return Err(JobError::NotPrepared { status: row.status.as_str().to_owned() });
            }
            fence(tx.conn, row.record.kind, row.record.task.as_ref(), row.lane.as_ref(), row.record.epoch)?;
            let sql = "UPDATE jobs SET status = 'running', going_at = ?2 WHERE id = ?1";
            execute(tx.conn, sql, (job.as_str(), now.0))?;
            Ok(())
        })
        .await
    }

    /// Records how a job ended.
    pub async fn job_ended(&self, job: &JobId, exit: JobExit) -> Result<(), StoreError> {
        let job = job.clone();
        self.write(Urgency::Needed, move |tx| {
            let status = match exit.end {
                JobEnd::Lost => JobStatus::Lost,
                JobEnd::Cancelled => JobStatus::Cancelled,
                _ => JobStatus::Ended,
            };
            let sql = "UPDATE jobs SET status = ?2, ended_at = ?3, exit = ?4
                       WHERE id = ?1 AND (status IN ('prepared', 'running', 'lost') OR exit IS NULL)";
            execute(tx.conn, sql, (job.as_str(), status.as_str(), exit.ended.0, json(&exit)))?;
            Ok(())
        })
        .await
    }

    /// Cancels a task's jobs that did not go yet (they never will); tells which.
    pub async fn cancel_queued_jobs(&self, task: &TaskId, now: Timestamp) -> Result<Vec<JobId>, StoreError> {
        let task = task.clone();
        self.write(Urgency::Needed, move |tx| {
            let sql = "UPDATE jobs SET status = 'cancelled', ended_at = ?2 WHERE task = ?1 AND status = 'prepared'
                       RETURNING id";
            all(tx.conn, sql, (task.as_str(), now.0), |row| get_parsed(row, "id"))
        })
        .await
    }

    /// Jobs of which processes may exist, oldest first.
    pub async fn live_jobs(&self) -> Result<Vec<JobRow>, StoreError> {
        self.read(|conn| {
            let sql = format!("SELECT * FROM jobs WHERE {LIVE} ORDER BY prepared_at, id");
            all(conn, &sql, [], job_row)
        })
        .await
    }

    /// A task's jobs, oldest first.
    pub async fn jobs_of(&self, task: &TaskId) -> Result<Vec<JobRow>, StoreError> {
        let task = task.clone();
        self.read(move |conn| {
            all(conn, "SELECT * FROM jobs WHERE task = ?1 ORDER BY prepared_at, id", [task.as_str()], job_row)
        })
        .await
    }

    /// One job.
    pub async fn job(&self, job: &JobId) -> Result<Option<JobRow>, StoreError> {
        let job = job.clone();
        self.read(move |conn| first(conn, "SELECT * FROM jobs WHERE id = ?1", [job.as_str()], job_row)).await
    }
}

/// On a full disk nothing begins that fills it. What the supervisor does itself is what STOP, windows and making room need.
fn urgency(kind: JobKind) -> Urgency {
    if kind.can_stand_still() { Urgency::Ordinary } else { Urgency::Needed }
}

/// Writes a new job's row; with a time, as one that goes.
fn insert(
    conn: &Connection,
    record: &JobRecord,
    lane: Option<&RepoName>,
    going: Option<Timestamp>,
) -> Result<(), JobError> {
    let sql = "INSERT INTO jobs (id, task, run, kind, status, epoch, lane, record, prepared_at, going_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let row = (
        record.identity.job.as_str(),
        record.task.as_ref().map(TaskId::as_str),
        record.run.as_ref().map(|run| run.as_str()),
        record.kind.as_str(),
        if going.is_some() { "running" } else { "prepared" },
        record.epoch.0,
        lane.map(RepoName::as_str),
        json(record),
        record.at.0,
        going.map(|at| at.0),
    );
    execute(conn, sql, row)?;
    Ok(())
}

fn fence(
    conn: &Connection,
    kind: JobKind,
    task: Option<&TaskId>,
    lane: Option<&RepoName>,
    epoch: Epoch,
) -> Result<(), JobError> {
    if let Some(repo) = lane {
        let sql = "SELECT epoch, holder IS NOT NULL AS held FROM leases WHERE repo = ?1";
        let lease =
            first(conn, sql, [repo.as_str()], |row| Ok((get::<u64>(row, "epoch")?, get::<bool>(row, "held")?)))?;
        let (current, held) = lease.unwrap_or_default();
        if current != epoch.0 || !held {
            return Err(JobError::StaleEpoch { current: Epoch(current) });
        }
    }
    let Some(task) = task else { return Ok(()) };
    let sql =
        "SELECT epoch, cancel_requested_at IS NOT NULL OR cancelled_at IS NOT NULL AS stopped FROM tasks WHERE id = ?1";
    let (current, stopped) =
        first(conn, sql, [task.as_str()], |row| Ok((get::<u64>(row, "epoch")?, get::<bool>(row, "stopped")?)))?
            .ok_or_else(|| StoreError::NotFound { what: "task", id: task.to_string() })?;
    if lane.is_none() && current != epoch.0 {
        return Err(JobError::StaleEpoch { current: Epoch(current) });
    }
    if stopped && !kind.is_window() {
        return Err(JobError::StopRecorded);
    }
    Ok(())
}

fn job_row(row: &Row<'_>) -> Result<JobRow, StoreError> {
    let status: String = get(row, "status")?;
    Ok(JobRow {
        record: read_json("job record", &get::<String>(row, "record")?)?,
        lane: get_parsed_opt(row, "lane")?,
        status: read_json("job status", &format!("\"{status}\""))?,
        going: get_time_opt(row, "going_at")?,
        exit: get_json_opt(row, "exit")?,
    })
}
