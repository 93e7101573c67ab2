//! Pruning: rows of what is over and asked for by nobody any more, a few at a time.
//!
//! Owns which rows may go: sent effects and git commands of closed tasks, deliveries that were acted upon, spending of past
//! days, old restarts and, only where the operator says so, journals of closed tasks. Refuses the rest, always: whatever
//! belongs to a live task, tasks themselves, tombstones, consumed transitions, receipts, landings, verdicts, windows, runs,
//! and jobs of any other kind. Deliveries of the board stay, too: its transitions are read again at each start, and one
//! whose delivery was forgotten would be acted upon a second time (a STOP would then end a later life).
//!
//! Candidates are looked up on a reader and removed by their key, a batch per change, so that nobody waits behind it. What
//! qualifies once qualifies for ever (what is closed stays closed), so nothing can change in between.

use orch_domain::ids::{JobId, TaskId};
use orch_domain::job::{JobExit, JobKind, JobStatus};
use orch_domain::names::RepoName;
use orch_domain::time::{Millis, Timestamp};
use serde::Serialize;

use crate::Store;
use crate::error::StoreError;
use crate::row::{all, execute, first, get, get_json_opt, get_parsed, get_time_opt, read_json};
use crate::writer::Urgency;

/// Rows that one change removes at most.
const BATCH: usize = 200;
/// Batches of one table in one go; what is left is taken the next time.
const BATCHES: usize = 100;
/// How long git commands that succeeded are remembered after their task is closed: thousands of them run in a day.
const GIT_JOBS: Millis = Millis::from_mins(24 * 60);

/// How long rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Sent effects, deliveries, spending, restarts, and git commands that failed.
    pub rows: Millis,
    /// Journals of closed tasks; `None`: for ever.
    pub journal: Option<Millis>,
}

/// How many rows went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Settled effects.
    pub outbox: usize,
    /// Deliveries that were acted upon.
    pub inbox: usize,
    /// Git commands.
    pub jobs: usize,
    /// Spending of runs.
    pub limits: usize,
    /// Restarts of actors.
    pub restarts: usize,
    /// Journal entries.
    pub journal: usize,
}

impl Pruned {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.by_table().iter().map(|(_, count)| count).sum()
    }

    /// Each by its table.
    #[must_use]
    pub fn by_table(&self) -> [(&'static str, usize); 6] {
        [
            ("outbox", self.outbox),
            ("inbox", self.inbox),
            ("jobs", self.jobs),
            ("limits", self.limits),
            ("restarts", self.restarts),
            ("journal", self.journal),
        ]
    }
}

/// Whose something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// A task's that goes on.
    Live,
    /// A task's that was closed then.
    Closed(Timestamp),
    /// No task's.
    Nobodys,
}

/// What decides how long the folder of a job is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobTrace {
    /// What it was for.
    pub kind: JobKind,
    /// Where it stands.
    pub status: JobStatus,
    /// Whether its program exited with 0.
    pub succeeded: bool,
    /// When it ended, if it did.
    pub ended: Option<Timestamp>,
    /// Its task.
    pub life: Life,
}

/// Whether a task is closed, and since when; `t` is its row, all NULL where there is none.
const CLOSED: &str = "coalesce(t.done_at, t.cancelled_at)";

impl Store {
    /// Removes rows that nobody asks for any more; safe to repeat and to cut off.
    ///
    /// # Errors
    /// When the store cannot be read or written; what was removed until then stays removed.
    pub async fn prune(&self, keep: Keep, now: Timestamp) -> Result<Pruned, StoreError> {
        let found = Queries::of(keep, now);
        let mut pruned = Pruned {
            outbox: self.sweep(&found.outbox, "DELETE FROM outbox WHERE id = ?1").await?,
            inbox: self.sweep(&found.inbox, "DELETE FROM inbox WHERE id = ?1").await?,
            limits: self.sweep(&found.limits, "DELETE FROM limits WHERE rowid = ?1").await?,
            restarts: self.sweep(&found.restarts, "DELETE FROM restarts WHERE id = ?1").await?,
            ..Pruned::default()
        };
        for jobs in &found.jobs {
            pruned.jobs += self.sweep(jobs, "DELETE FROM jobs WHERE rowid = ?1").await?;
        }
        if let Some(journal) = &found.journal {
            pruned.journal = self.sweep(journal, "DELETE FROM journal WHERE seq = ?1").await?;
        }
        Ok(pruned)
    }

    /// How many rows [`Store::prune`] would remove, sooner or later, if nothing changed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn prunable(&self, keep: Keep, now: Timestamp) -> Result<Pruned, StoreError> {
        let found = Queries::of(keep, now);
        self.read(move |conn| {
            let count = |find: &Find| {
                let sql = format!("SELECT count(*) AS n FROM ({})", find.sql);
                Ok::<_, StoreError>(
                    first(conn, &sql, (find.cut.0, -1), |row| get::<i64>(row, "n"))?.unwrap_or(0) as usize
                )
            };
            Ok(Pruned {
                outbox: count(&found.outbox)?,
                inbox: count(&found.inbox)?,
                limits: count(&found.limits)?,
                restarts: count(&found.restarts)?,
                jobs: found.jobs.iter().try_fold(0, |sum, jobs| Ok::<_, StoreError>(sum + count(jobs)?))?,
                journal: found.journal.as_ref().map_or(Ok(0), count)?,
            })
        })
        .await
    }

    /// Removes what a query finds, batch by batch.
    async fn sweep(&self, find: &Find, remove: &'static str) -> Result<usize, StoreError> {
        let mut gone = 0;
        for _ in 0..BATCHES {
            let Find { sql, cut } = find.clone();
            let ids: Vec<i64> =
                self.read(move |conn| all(conn, &sql, (cut.0, BATCH as i64), |row| get(row, "id"))).await?;
            let last = ids.len() < BATCH;
            if !ids.is_empty() {
                gone += self
                    .write(Urgency::Ordinary, move |tx| {
                        ids.iter().try_fold(0, |sum, id| Ok::<_, StoreError>(sum + execute(tx.conn, remove, [id])?))
                    })
                    .await?;
            }
            if last {
                break;
            }
        }
        Ok(gone)
    }

    /// What decides how long a job's folder is kept; `None`: there is no such job.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn job_trace(&self, job: &JobId) -> Result<Option<JobTrace>, StoreError> {
        let job = job.clone();
        self.read(move |conn| {
            let sql = format!(
                "SELECT j.kind, j.status, j.exit, j.ended_at, j.task, {CLOSED} AS closed
                 FROM jobs j LEFT JOIN tasks t ON t.id = j.task WHERE j.id = ?1"
            );
            first(conn, &sql, [job.as_str()], |row| {
                let exit: Option<JobExit> = get_json_opt(row, "exit")?;
                let life = match (get::<Option<String>>(row, "task")?, get_time_opt(row, "closed")?) {
                    (None, _) => Life::Nobodys,
                    (Some(_), None) => Life::Live,
                    (Some(_), Some(at)) => Life::Closed(at),
                };
                Ok(JobTrace {
                    kind: read_json("job kind", &format!("\"{}\"", get::<String>(row, "kind")?))?,
                    status: read_json("job status", &format!("\"{}\"", get::<String>(row, "status")?))?,
                    succeeded: exit.is_some_and(|exit| exit.end.is_success()),
                    ended: get_time_opt(row, "ended_at")?,
                    life,
                })
            })
        })
        .await
    }

    /// Whose the traces of a task are, and in which repository: `None` when there is no such task.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn life_of(&self, task: &TaskId) -> Result<Option<(RepoName, Life)>, StoreError> {
        let task = task.clone();
        self.read(move |conn| {
            let sql = format!("SELECT t.repo, {CLOSED} AS closed FROM tasks t WHERE t.id = ?1");
            first(conn, &sql, [task.as_str()], |row| {
                let life = get_time_opt(row, "closed")?.map_or(Life::Live, Life::Closed);
                Ok((get_parsed(row, "repo")?, life))
            })
        })
        .await
    }
}

/// Rows that may go: `?1` is the cut, `?2` a limit.
#[derive(Clone)]
struct Find {
    sql: String,
    cut: Timestamp,
}

/// What may go, per table; no row is found by two of them.
struct Queries {
    outbox: Find,
    inbox: Find,
    jobs: [Find; 2],
    limits: Find,
    restarts: Find,
    journal: Option<Find>,
}

impl Queries {
    fn of(keep: Keep, now: Timestamp) -> Self {
        let rows = before(now, keep.rows);
        // Kinds that belong to a window are asked for by it; `git` is none of them.
        let jobs = format!(
            "SELECT j.rowid AS id FROM jobs j LEFT JOIN tasks t ON t.id = j.task
             WHERE j.kind = 'git' AND j.status IN ('ended', 'cancelled', 'lost')
               AND (j.task IS NULL OR {CLOSED} IS NOT NULL)
               AND max(j.ended_at, coalesce({CLOSED}, j.ended_at)) < ?1"
        );
        let done =
            "coalesce(json_extract(j.exit, '$.end.kind') = 'exited' AND json_extract(j.exit, '$.end.code') = 0, 0)";
        Self {
            outbox: Find {
                sql: format!(
                    "SELECT o.id AS id FROM outbox o JOIN tasks t ON t.id = o.task
                     WHERE o.settled_at < ?1 AND {CLOSED} < ?1 LIMIT ?2"
                ),
                cut: rows,
            },
            inbox: Find {
                sql: "SELECT id FROM inbox WHERE processed_at < ?1 AND source <> 'board' LIMIT ?2".to_owned(),
                cut: rows,
            },
            jobs: [
                Find { sql: format!("{jobs} AND {done} LIMIT ?2"), cut: before(now, GIT_JOBS.min(keep.rows)) },
                Find { sql: format!("{jobs} AND NOT {done} LIMIT ?2"), cut: rows },
            ],
            limits: Find {
                sql: format!(
                    "SELECT l.rowid AS id FROM limits l LEFT JOIN runs r ON r.id = l.run LEFT JOIN tasks t ON t.id = r.task
                     WHERE l.day < ?1 / 86400000 AND (r.id IS NULL OR {CLOSED} < ?1) LIMIT ?2"
                ),
                cut: rows,
            },
            restarts: Find { sql: "SELECT id FROM restarts WHERE at < ?1 LIMIT ?2".to_owned(), cut: rows },
            // The newest stays: its position tells where counting goes on after a restart.
            journal: keep.journal.map(|kept| Find {
                sql: format!(
                    "SELECT j.seq AS id FROM journal j LEFT JOIN tasks t ON t.id = j.task
                     WHERE j.at < ?1 AND (j.task IS NULL OR {CLOSED} < ?1) AND j.seq < (SELECT max(seq) FROM journal)
                     LIMIT ?2"
                ),
                cut: before(now, kept),
            }),
        }
    }
}

fn before(now: Timestamp, kept: Millis) -> Timestamp {
    Timestamp(now.0.saturating_sub_unsigned(kept.0))
}
