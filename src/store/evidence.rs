//! The verdicts table: what was judged on which evidence, so that the same is not run twice.
//!
//! Owns the evidence key and reuse: only a conclusive verdict on exactly the same key, not expired, is found. The row is an
//! index: the verdict's truth is the report file, whose hash is kept here and compared before landing.

use std::path::PathBuf;

use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::names::RepoName;
use orch_domain::time::Timestamp;
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::StoreError;
use crate::row::{all, execute, first, get, get_parsed, get_parsed_opt, get_time, get_time_opt, read_json};
use crate::writer::Urgency;

/// Everything that a verdict depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EvidenceKey {
    /// The gate's name.
    pub gate: String,
    /// The repository.
    pub repo: RepoName,
    /// The base commit.
    pub base: CommitSha,
    /// The judged commit.
    pub head: CommitSha,
    /// The judged tree.
    pub tree: CommitSha,
    /// Hash of the gate's settings.
    pub settings: String,
    /// Hash of the environment: setup, cache generation, toolchain, feed snapshot.
    pub environment: String,
}

/// A gate's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictOutcome {
    /// Conclusive: good.
    Passed,
    /// Conclusive: bad.
    Failed,
    /// Nothing can be concluded; never reused.
    CouldNotRun,
}

impl VerdictOutcome {
    /// The word as stored, shown and written in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::CouldNotRun => "could_not_run",
        }
    }
}

/// A verdict to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVerdict {
    /// On which evidence.
    pub key: EvidenceKey,
    /// The answer.
    pub outcome: VerdictOutcome,
    /// The report file and its SHA-256 (hex).
    pub report: Option<(PathBuf, String)>,
    /// What was found, verbatim, for the next prompt.
    pub findings: Option<String>,
    /// For which task it was asked.
    pub task: Option<TaskId>,
    /// Until when it may be reused; `None`: for good.
    pub expires: Option<Timestamp>,
}

/// A verdict as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Row id, rising.
    pub id: i64,
    /// What was recorded.
    pub verdict: NewVerdict,
    /// When.
    pub at: Timestamp,
}

impl Store {
    /// Records a verdict; tells its row id.
    pub async fn insert_verdict(&self, verdict: NewVerdict, now: Timestamp) -> Result<i64, StoreError> {
        self.write(Urgency::Ordinary, move |tx| {
            let key = &verdict.key;
            let sql =
                "INSERT INTO verdicts (gate, repo, base, head, tree, settings_hash, env_hash, outcome, report_path,
                         report_sha256, findings, task, at, expires_at)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
            let report = verdict.report.as_ref();
            let params = rusqlite::params![
                key.gate,
                key.repo.as_str(),
                key.base.as_str(),
                key.head.as_str(),
                key.tree.as_str(),
                key.settings,
                key.environment,
                verdict.outcome.as_str(),
                report.map(|(path, _)| path.to_string_lossy().into_owned()),
                report.map(|(_, hash)| hash),
                verdict.findings,
                verdict.task.as_ref().map(TaskId::as_str),
                now.0,
                verdict.expires.map(|at| at.0),
            ];
            execute(tx.conn, sql, params)?;
            Ok(tx.conn.last_insert_rowid())
        })
        .await
    }

    /// The newest conclusive verdict on exactly this evidence that has not expired.
    pub async fn find_verdict(&self, key: &EvidenceKey, now: Timestamp) -> Result<Option<Verdict>, StoreError> {
        let key = key.clone();
        self.read(move |conn| {
            let sql = "SELECT * FROM verdicts
                       WHERE gate = ?1 AND repo = ?2 AND base = ?3 AND head = ?4 AND tree = ?5
                         AND settings_hash = ?6 AND env_hash = ?7 AND outcome IN ('passed', 'failed')
                         AND (expires_at IS NULL OR expires_at > ?8)
                       ORDER BY id DESC LIMIT 1";
            let (base, head, tree) = (key.base.as_str(), key.head.as_str(), key.tree.as_str());
            let params = (&key.gate, key.repo.as_str(), base, head, tree, &key.settings, &key.environment, now.0);
            first(conn, sql, params, verdict)
        })
        .await
    }

    /// How often a gate has given each verdict, and its newest one.
    pub async fn verdicts_by(&self, gate: &str) -> Result<(Vec<(VerdictOutcome, u64)>, Option<Verdict>), StoreError> {
        let gate = gate.to_owned();
        self.read(move |conn| {
            let sql =
                "SELECT outcome, COUNT(*) AS number FROM verdicts WHERE gate = ?1 GROUP BY outcome ORDER BY outcome";
            let counts = all(conn, sql, [&gate], |row| {
                let outcome: String = get(row, "outcome")?;
                let number: i64 = get(row, "number")?;
                let outcome = read_json("verdict outcome", &format!("\"{outcome}\""))?;
                Ok((outcome, u64::try_from(number).unwrap_or_default()))
            })?;
            let newest = "SELECT * FROM verdicts WHERE gate = ?1 ORDER BY id DESC LIMIT 1";
            Ok((counts, first(conn, newest, [&gate], verdict)?))
        })
        .await
    }

    /// The newest verdicts of one gate on a repository with one outcome, newest first.
    pub async fn last_verdicts(
        &self,
        gate: &str,
        repo: &RepoName,
        outcome: VerdictOutcome,
        most: u32,
    ) -> Result<Vec<Verdict>, StoreError> {
        let (gate, repo) = (gate.to_owned(), repo.clone());
        self.read(move |conn| {
            let sql = "SELECT * FROM verdicts WHERE gate = ?1 AND repo = ?2 AND outcome = ?3 ORDER BY id DESC LIMIT ?4";
            all(conn, sql, (&gate, repo.as_str(), outcome.as_str(), most), verdict)
        })
        .await
    }

    /// All verdicts asked for a task, oldest first.
    pub async fn verdicts_of(&self, task: &TaskId) -> Result<Vec<Verdict>, StoreError> {
        let task = task.clone();
        self.read(move |conn| all(conn, "SELECT * FROM verdicts WHERE task = ?1 ORDER BY id", [task.as_str()], verdict))
            .await
    }
}

fn verdict(row: &Row<'_>) -> Result<Verdict, StoreError> {
    let outcome: String = get(row, "outcome")?;
    let path = get::<Option<String>>(row, "report_path")?.map(PathBuf::from);
    let hash: Option<String> = get(row, "report_sha256")?;
    Ok(Verdict {
        id: get(row, "id")?,
        verdict: NewVerdict {
            key: EvidenceKey {
                gate: get(row, "gate")?,
                repo: get_parsed(row, "repo")?,
                base: get_parsed(row, "base")?,
                head: get_parsed(row, "head")?,
                tree: get_parsed(row, "tree")?,
                settings: get(row, "settings_hash")?,
                environment: get(row, "env_hash")?,
            },
            outcome: read_json("verdict outcome", &format!("\"{outcome}\""))?,
            report: path.zip(hash),
            findings: get(row, "findings")?,
            task: get_parsed_opt(row, "task")?,
            expires: get_time_opt(row, "expires_at")?,
        },
        at: get_time(row, "at")?,
    })
}
