//! The repo_modes table: whether a repository's lane takes work.
//!
//! Owns the lane's mode (who, why, since). Refuses to act on it: the lane reads it.

use orch_domain::journal::Entry;
use orch_domain::lane::LaneMode;
use orch_domain::names::RepoName;
use orch_domain::time::Timestamp;
use serde::Serialize;

use crate::Store;
use crate::error::StoreError;
use crate::journal::{Subject, append};
use crate::row::{all, execute, get, get_parsed, get_time, read_json};
use crate::writer::Urgency;

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
}
