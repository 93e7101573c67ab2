//! The leases table: who owns a repository's lane.
//!
//! Owns the epoch, the fencing token of everything done under a lease: it rises with each acquire and each reclaim.
//! Invariants: a lease is taken only when it is free, whatever its expiry says (clocks jump); an expired one is freed by
//! `reclaim`, with the proof that its holder is gone. Refuses stale epochs, and counts them.

use orch_domain::ids::{Epoch, TaskId};
use orch_domain::journal::Entry;
use orch_domain::names::RepoName;
use orch_domain::time::Timestamp;
use rusqlite::{Connection, Row};
use serde::Serialize;

use crate::Store;
use crate::error::{LeaseError, StoreError};
use crate::journal::{Subject, append};
use crate::row::{all, execute, first, get, get_parsed, get_parsed_opt, get_time};
use crate::writer::Urgency;

/// On whose behalf a lease is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The task, if it is for one.
    pub task: Option<TaskId>,
    /// For what, in a word or two: `landing`, `deploy`.
    pub purpose: String,
}

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// The repository.
    pub repo: RepoName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who holds it.
    pub holder: Holder,
    /// Since when.
    pub since: Timestamp,
    /// When its holder should have renewed it.
    pub expires: Timestamp,
}

/// What came of asking for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquire {
    /// It is the caller's, under this epoch.
    Acquired {
        /// The fencing token.
        epoch: Epoch,
    },
    /// Somebody holds it, possibly beyond its expiry.
    Busy(Lease),
}

impl Store {
    /// Takes a free lease.
    pub async fn acquire_lease(
        &self,
        repo: &RepoName,
        holder: Holder,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<Acquire, StoreError> {
        let repo = repo.clone();
        self.write(Urgency::Ordinary, move |tx| {
            if let Some(lease) = find(tx.conn, &repo)? {
                return Ok(Acquire::Busy(lease));
            }
            let sql = "INSERT INTO leases (repo, epoch, holder, holder_task, since, expires_at)
                       VALUES (?1, 1, ?2, ?3, ?4, ?5)
                       ON CONFLICT (repo) DO UPDATE SET epoch = epoch + 1, holder = excluded.holder,
                         holder_task = excluded.holder_task, since = excluded.since, expires_at = excluded.expires_at
                       RETURNING epoch";
            let task = holder.task.as_ref().map(TaskId::as_str);
            let epoch =
                first(tx.conn, sql, (repo.as_str(), &holder.purpose, task, now.0, expires.0), |row| get(row, "epoch"))?;
            Ok(Acquire::Acquired { epoch: Epoch(epoch.unwrap_or(1)) })
        })
        .await
    }

    /// Moves the expiry of the caller's lease.
    pub async fn renew_lease(&self, repo: &RepoName, epoch: Epoch, expires: Timestamp) -> Result<(), LeaseError> {
        let repo = repo.clone();
        self.write(Urgency::Needed, move |tx| {
            fence(tx.conn, &repo, epoch)?;
            execute(tx.conn, "UPDATE leases SET expires_at = ?2 WHERE repo = ?1", (repo.as_str(), expires.0))?;
            Ok(())
        })
        .await
    }

    /// Gives the caller's lease back; only its own holder can.
    pub async fn release_lease(&self, repo: &RepoName, epoch: Epoch, holder: &Holder) -> Result<(), LeaseError> {
        let (repo, holder) = (repo.clone(), holder.clone());
        self.write(Urgency::Needed, move |tx| {
            let lease = fence(tx.conn, &repo, epoch)?;
            if lease.holder != holder {
                return Err(LeaseError::NotHolder);
            }
            free(tx.conn, &repo, 0)?;
            Ok(())
        })
        .await
    }

    /// Frees a lease whose holder is proven gone, and raises the epoch so that whatever it still does is refused.
    /// Open windows stay open: the next holder attaches to them.
    pub async fn reclaim_lease(
        &self,
        repo: &RepoName,
        old: Epoch,
        proof: &str,
        now: Timestamp,
    ) -> Result<(), LeaseError> {
        let (repo, proof) = (repo.clone(), proof.to_owned());
        self.write(Urgency::Needed, move |tx| {
            let lease = fence(tx.conn, &repo, old)?;
            free(tx.conn, &repo, 1)?;
            let text = format!("lease of {} (epoch {old}) reclaimed: {proof}", lease.holder.purpose);
            append(tx, &Subject::repo(&repo), &[Entry::new("lease-reclaimed", text)], now)?;
            Ok(())
        })
        .await
    }

    /// All leases that are held.
    pub async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.read(|conn| all(conn, "SELECT * FROM leases WHERE holder IS NOT NULL ORDER BY repo", [], lease)).await
    }

    /// The newest epoch of each repository's lease, held or free: it only rises.
    pub async fn lease_epochs(&self) -> Result<Vec<(RepoName, Epoch)>, StoreError> {
        self.read(|conn| {
            all(conn, "SELECT repo, epoch FROM leases ORDER BY repo", [], |row| {
                Ok((get_parsed(row, "repo")?, Epoch(get(row, "epoch")?)))
            })
        })
        .await
    }

    /// The lease of one repository, if held.
    pub async fn lease(&self, repo: &RepoName) -> Result<Option<Lease>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| find(conn, &repo)).await
    }
}

fn find(conn: &Connection, repo: &RepoName) -> Result<Option<Lease>, StoreError> {
    first(conn, "SELECT * FROM leases WHERE repo = ?1 AND holder IS NOT NULL", [repo.as_str()], lease)
}

/// The lease, if it is held under this very epoch.
fn fence(conn: &Connection, repo: &RepoName, epoch: Epoch) -> Result<Lease, LeaseError> {
    match find(conn, repo)? {
        Some(lease) if lease.epoch == epoch => Ok(lease),
        Some(lease) => Err(LeaseError::StaleEpoch { current: lease.epoch }),
        None => Err(LeaseError::NotHolder),
    }
}

fn free(conn: &Connection, repo: &RepoName, raise: u64) -> Result<(), StoreError> {
    let sql = "UPDATE leases SET holder = NULL, holder_task = NULL, since = NULL, expires_at = NULL, epoch = epoch + ?2
               WHERE repo = ?1";
    execute(conn, sql, (repo.as_str(), raise))?;
    Ok(())
}

fn lease(row: &Row<'_>) -> Result<Lease, StoreError> {
    Ok(Lease {
        repo: get_parsed(row, "repo")?,
        epoch: Epoch(get(row, "epoch")?),
        holder: Holder { task: get_parsed_opt(row, "holder_task")?, purpose: get(row, "holder")? },
        since: get_time(row, "since")?,
        expires: get_time(row, "expires_at")?,
    })
}
