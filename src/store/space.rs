//! Space: the ballast that is kept for the day the disk is full, and an optional quota.
//!
//! Owns `ballast`, a file in the data folder that is deleted once, by the first needed change that finds no space, so
//! that STOP and receipts can still be recorded. With a quota the ballast is part of it: freeing the ballast also frees
//! its share of the quota. Refuses to give the freed space to ordinary changes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::Serialize;

use crate::error::{Db, StoreError};

/// File name of the ballast.
const BALLAST: &str = "ballast";

/// How the store stands with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpaceState {
    /// All is well.
    Enough,
    /// A change was refused for want of space; the ballast is still there.
    Full,
    /// The ballast is freed: only STOP, receipts and ends of things are recorded.
    OnBallast,
}

/// Ballast and quota of one data folder.
pub(crate) struct Space {
    path: PathBuf,
    ballast_bytes: u64,
    quota_bytes: Option<u64>,
    state: SpaceState,
}

impl Space {
    /// Takes over the folder's ballast, making it when there is none. Being unable to make it is a state, no error.
    pub(crate) fn open(
        dir: &Path,
        ballast_bytes: u64,
        quota_bytes: Option<u64>,
        conn: &Connection,
    ) -> Result<Self, StoreError> {
        let mut space = Self { path: dir.join(BALLAST), ballast_bytes, quota_bytes, state: SpaceState::OnBallast };
        if !space.recover(conn)? {
            tracing::error!("no space for the ballast: only STOP and receipts are recorded until there is");
        }
        Ok(space)
    }

    pub(crate) const fn state(&self) -> SpaceState {
        self.state
    }

    /// A change was committed.
    pub(crate) fn worked(&mut self) {
        if self.state == SpaceState::Full {
            self.state = SpaceState::Enough;
        }
    }

    /// A change was refused for want of space.
    pub(crate) fn failed(&mut self) {
        if self.state == SpaceState::Enough {
            self.state = SpaceState::Full;
        }
    }

    /// Frees the ballast; `false` when it is free already.
    pub(crate) fn free(&mut self, conn: &Connection) -> bool {
        if self.state == SpaceState::OnBallast {
            return false;
        }
        self.state = SpaceState::OnBallast;
        if let Some(quota) = self.quota_bytes
            && let Err(err) = limit_pages(conn, quota)
        {
            tracing::error!(%err, "the quota could not be raised by the ballast");
        }
        match fs::remove_file(&self.path) {
            Ok(()) => true,
            Err(err) => {
                tracing::error!(%err, "the ballast could not be freed");
                self.quota_bytes.is_some()
            }
        }
    }

    /// Makes the ballast again, if there is space for it: then all changes are welcome again.
    pub(crate) fn recover(&mut self, conn: &Connection) -> Result<bool, StoreError> {
        if let Some(quota) = self.quota_bytes {
            let page: u64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).db()?;
            let pages: u64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).db()?;
            let free: u64 = conn.query_row("PRAGMA freelist_count", [], |row| row.get(0)).db()?;
            let room = quota.saturating_sub(self.ballast_bytes);
            if pages.saturating_sub(free) * page > room {
                limit_pages(conn, quota)?;
                return Ok(false);
            }
            limit_pages(conn, room)?;
        }
        let wanted = self.ballast_bytes;
        if !fs::metadata(&self.path).is_ok_and(|meta| meta.len() == wanted)
            && let Err(err) = fill(&self.path, wanted)
        {
            tracing::warn!(%err, bytes = wanted, "the ballast could not be written");
            let _ = fs::remove_file(&self.path);
            return Ok(false);
        }
        self.state = SpaceState::Enough;
        Ok(true)
    }
}

fn limit_pages(conn: &Connection, bytes: u64) -> Result<(), StoreError> {
    let page: u64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).db()?;
    conn.query_row(&format!("PRAGMA max_page_count = {}", (bytes / page).max(1)), [], |_| Ok(())).db()
}

/// Writes real blocks: a sparse or compressible file would give nothing back.
fn fill(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(64 * 1024);
    let mut left = bytes;
    while left > 0 {
        block.clear();
        let size = left.min(64 * 1024);
        while (block.len() as u64) < size {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            block.extend_from_slice(&state.to_le_bytes());
        }
        block.truncate(usize::try_from(size).unwrap_or(block.len()));
        file.write_all(&block)?;
        left -= size;
    }
    file.sync_all()
}
