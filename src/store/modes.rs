//! The repo_modes and coverage_baseline tables: two small facts per repository.
//!
//! Owns the lane's mode (who, why, since) and the coverage baseline, changed by compare-and-set on its revision. Whether a
//! new baseline is better is the gate's question, not the store's.

use orch_domain::ids::CommitSha;
use orch_domain::journal::Entry;
use orch_domain::names::RepoName;
use orch_domain::time::Timestamp;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::StoreError;
use crate::journal::{Subject, append};
use crate::row::{all, execute, first, get, get_parsed, get_time, read_json};
use crate::writer::{Tx, Urgency};

/// Whether a repository's lane takes work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneMode {
    /// It does.
    #[default]
    Running,
    /// What is under way ends, nothing new begins.
    Draining,
    /// Nothing moves.
    Paused,
}

impl LaneMode {
    /// The word as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Paused => "paused",
        }
    }
}

/// A repository's mode as set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepoMode {
    /// The repository.
    pub repo: RepoName,
    /// Its mode.
    pub mode: LaneMode,
    /// Who set it.
    pub who: String,
    /// Why.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// A repository's coverage baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Baseline {
    /// Rises with each change; what a compare-and-set compares.
    pub revision: u64,
    /// Covered lines.
    pub covered: u64,
    /// Lines that count.
    pub total: u64,
    /// The commit it was measured on.
    pub sha: CommitSha,
    /// Who set it: a task's key, or a person.
    pub set_by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// A baseline to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBaseline {
    /// The revision it replaces; `None`: there must be none yet.
    pub replaces: Option<u64>,
    /// Covered lines.
    pub covered: u64,
    /// Lines that count.
    pub total: u64,
    /// The commit it was measured on.
    pub sha: CommitSha,
    /// Who sets it.
    pub set_by: String,
    /// Why.
    pub reason: String,
}

/// What came of setting a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaselineSet {
    /// It is set, at this revision.
    Set(u64),
    /// Another one was set in between; nothing changed.
    Moved(Option<u64>),
}

impl Store {
    /// Sets a repository's mode.
    pub async fn set_repo_mode(&self, mode: RepoMode) -> Result<(), StoreError> {
        self.write(Urgency::Needed, move |tx| {
            let sql = "INSERT INTO repo_modes (repo, mode, who, why, since) VALUES (?1, ?2, ?3, ?4, ?5)
                       ON CONFLICT (repo) DO UPDATE SET mode = excluded.mode, who = excluded.who, why = excluded.why,
                         since = excluded.since";
            execute(tx.conn, sql, (mode.repo.as_str(), mode.mode.as_str(), &mode.who, &mode.why, mode.since.0))?;
            let text = format!("lane is {}: {} ({})", mode.mode.as_str(), mode.why, mode.who);
            append(tx, &Subject::repo(&mode.repo), &[Entry::new("lane-mode-set", text)], mode.since)
        })
        .await
    }

    /// All modes that were ever set; a repository without one is running.
    pub async fn repo_modes(&self) -> Result<Vec<RepoMode>, StoreError> {
        self.read(|conn| {
            all(conn, "SELECT * FROM repo_modes ORDER BY repo", [], |row| {
                let mode: String = get(row, "mode")?;
                Ok(RepoMode {
                    repo: get_parsed(row, "repo")?,
                    mode: read_json("lane mode", &format!("\"{mode}\""))?,
                    who: get(row, "who")?,
                    why: get(row, "why")?,
                    since: get_time(row, "since")?,
                })
            })
        })
        .await
    }

    /// A repository's coverage baseline.
    pub async fn baseline(&self, repo: &RepoName) -> Result<Option<Baseline>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| find_baseline(conn, &repo)).await
    }

    /// Sets a repository's coverage baseline by compare-and-set.
    pub async fn set_baseline(
        &self,
        repo: &RepoName,
        new: NewBaseline,
        now: Timestamp,
    ) -> Result<BaselineSet, StoreError> {
        let repo = repo.clone();
        self.write(Urgency::Ordinary, move |tx| set_baseline(tx, &repo, &new, now)).await
    }
}

pub(crate) fn set_baseline(
    tx: &Tx<'_>,
    repo: &RepoName,
    new: &NewBaseline,
    now: Timestamp,
) -> Result<BaselineSet, StoreError> {
    let current = find_baseline(tx.conn, repo)?.map(|baseline| baseline.revision);
    if current != new.replaces {
        return Ok(BaselineSet::Moved(current));
    }
    let revision = current.unwrap_or(0) + 1;
    let sql = "INSERT INTO coverage_baseline (repo, revision, covered, total, sha, set_by, reason, at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
               ON CONFLICT (repo) DO UPDATE SET revision = excluded.revision, covered = excluded.covered,
                 total = excluded.total, sha = excluded.sha, set_by = excluded.set_by, reason = excluded.reason,
                 at = excluded.at";
    let row = (repo.as_str(), revision, new.covered, new.total, new.sha.as_str(), &new.set_by, &new.reason, now.0);
    execute(tx.conn, sql, row)?;
    let text = format!("coverage baseline is {} of {} lines: {} ({})", new.covered, new.total, new.reason, new.set_by);
    append(tx, &Subject::repo(repo), &[Entry::new("baseline-set", text)], now)?;
    Ok(BaselineSet::Set(revision))
}

fn find_baseline(conn: &Connection, repo: &RepoName) -> Result<Option<Baseline>, StoreError> {
    first(conn, "SELECT * FROM coverage_baseline WHERE repo = ?1", [repo.as_str()], |row: &Row<'_>| {
        Ok(Baseline {
            revision: get(row, "revision")?,
            covered: get(row, "covered")?,
            total: get(row, "total")?,
            sha: get_parsed(row, "sha")?,
            set_by: get(row, "set_by")?,
            reason: get(row, "reason")?,
            at: get_time(row, "at")?,
        })
    })
}
