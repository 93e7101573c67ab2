//! Health of the store: checks, verified backups, restore, space, figures.
//!
//! Owns the online backup (made from the writer's own connection, so it sees every committed change) and what makes it
//! one: it was opened, checked and has the same schema number. Restore moves the replaced file aside, never over it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use orch_domain::ids::Seq;
use orch_domain::time::Timestamp;
use rusqlite::{Connection, OpenFlags, backup};
use serde::Serialize;

use crate::error::{Db, OpenError, StoreError};
use crate::open::{DB_FILE, integrity, lock};
use crate::space::SpaceState;
use crate::{Store, migrate};

/// A verified backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its schema number.
    pub schema: u32,
    /// Its last journal position.
    pub seq: Seq,
}

/// Figures of a running store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Changes committed or refused since start.
    pub changes: u64,
    /// Groups they were committed in.
    pub groups: u64,
    /// Largest group.
    pub largest_group: u64,
    /// Writes of stale owners that were refused.
    pub refused_stale: u64,
    /// Newest journal position.
    pub seq: Seq,
    /// Size of the database file.
    pub db_bytes: u64,
    /// Size of the write-ahead log.
    pub wal_bytes: u64,
    /// How it stands with the disk.
    pub space: SpaceState,
}

impl Store {
    /// Runs the whole integrity check; `None`: all is well, else what was found.
    pub async fn integrity_check(&self) -> Result<Option<String>, StoreError> {
        self.read(integrity).await
    }

    /// Writes a verified backup to a path that does not exist yet.
    pub async fn backup(&self, to: PathBuf) -> Result<BackupReport, StoreError> {
        self.between(move |writer| run(&writer.conn, &to)).await
    }

    /// Puts a backup in the place of a folder's database; no instance may run. The replaced file is moved aside, its new
    /// path is told.
    pub fn restore(from: &Path, dir: &Path, now: Timestamp) -> Result<Option<PathBuf>, OpenError> {
        restore(from, dir, now)
    }

    /// Tries to get back to normal after the disk was full; call it now and then while space is short.
    pub async fn recover_space(&self) -> Result<SpaceState, StoreError> {
        self.between(|writer| {
            // Short in either way: whether there is space again shows by the ballast, or by the next change.
            if writer.space.state() != SpaceState::Enough {
                writer.space.recover(&writer.conn)?;
            }
            writer.shared.space.send_replace(writer.space.state());
            Ok(writer.space.state())
        })
        .await
    }

    /// Gives the ballast up, so that what is needed to make room has some itself; it is made anew as after a full disk.
    pub async fn free_ballast(&self) -> Result<SpaceState, StoreError> {
        self.between(|writer| {
            writer.space.free(&writer.conn);
            writer.shared.space.send_replace(writer.space.state());
            Ok(writer.space.state())
        })
        .await
    }

    /// Bytes that the ballast takes while it is there.
    #[must_use]
    pub fn ballast_bytes(&self) -> u64 {
        self.inner.ballast_bytes
    }

    /// How the store stands with the disk.
    #[must_use]
    pub fn space_state(&self) -> SpaceState {
        *self.inner.shared.space.borrow()
    }

    /// Writes of stale owners that were refused since start.
    #[must_use]
    pub fn refused_stale(&self) -> u64 {
        self.inner.shared.refused_stale.load(Ordering::Relaxed)
    }

    /// Figures of this store.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        Stats {
            changes: shared.changes.load(Ordering::Relaxed),
            groups: shared.groups.load(Ordering::Relaxed),
            largest_group: shared.largest_group.load(Ordering::Relaxed),
            refused_stale: self.refused_stale(),
            seq: *shared.seq.borrow(),
            db_bytes: size(&self.inner.file),
            wal_bytes: size(&beside(&self.inner.file, "-wal")),
            space: self.space_state(),
        }
    }
}

/// Copies a database as its connection sees it, checks the copy, and only then gives it its name.
pub(crate) fn run(conn: &Connection, to: &Path) -> Result<BackupReport, StoreError> {
    let trouble = |err: std::io::Error| StoreError::Trouble { why: format!("backup to {}: {err}", to.display()) };
    if to.exists() {
        return Err(StoreError::Refused { why: format!("{} exists already: name another file", to.display()) });
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(trouble)?;
    let partial = beside(to, ".partial");
    let _ = fs::remove_file(&partial);
    File::options().write(true).create_new(true).mode(0o600).open(&partial).map_err(trouble)?;
    let report = copy(conn, &partial, to);
    match report {
        Ok(report) => {
            File::open(&partial).and_then(|file| file.sync_all()).map_err(trouble)?;
            fs::rename(&partial, to).map_err(trouble)?;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(trouble)?;
            Ok(report)
        }
        Err(err) => {
            let _ = fs::remove_file(&partial);
            Err(err)
        }
    }
}

fn copy(conn: &Connection, partial: &Path, to: &Path) -> Result<BackupReport, StoreError> {
    {
        let mut target = Connection::open(partial).db()?;
        let copying = backup::Backup::new(conn, &mut target).db()?;
        // All pages in one step: the writer is the only one who writes, so nothing restarts it.
        match copying.step(-1).db()? {
            backup::StepResult::Done => {}
            other => return Err(StoreError::Trouble { why: format!("the backup stopped early: {other:?}") }),
        }
        drop(copying);
        // One file that can be copied by itself.
        let _: String = target.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).db()?;
    }
    let (schema, seq) = verify(partial)?;
    if schema != migrate::schema_number(conn)? {
        return Err(StoreError::Corrupt { why: "the copy has another schema number than the original".to_owned() });
    }
    let bytes = fs::metadata(partial).map_or(0, |meta| meta.len());
    Ok(BackupReport { path: to.to_owned(), bytes, schema, seq })
}

/// Opens a file for looking and checks all of it; tells schema number and last journal position.
fn verify(file: &Path) -> Result<(u32, Seq), StoreError> {
    let conn =
        Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX).db()?;
    if let Some(why) = integrity(&conn)? {
        return Err(StoreError::Corrupt { why });
    }
    let schema = migrate::schema_number(&conn)?;
    if schema == 0 {
        return Err(StoreError::Corrupt { why: "it holds no store".to_owned() });
    }
    let seq = conn.query_row("SELECT coalesce(max(seq), 0) FROM journal", [], |row| row.get(0)).db()?;
    Ok((schema, Seq(seq)))
}

fn restore(from: &Path, dir: &Path, now: Timestamp) -> Result<Option<PathBuf>, OpenError> {
    let unwritable = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Unwritable { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unwritable(dir))?;
    let _lock = lock(dir)?;
    let (schema, _) = verify(from).map_err(|err| {
        // Of the backup, not of the store: what is to be done about a damaged store is no answer here.
        let why = match err {
            StoreError::Corrupt { why } => why,
            other => other.to_string(),
        };
        OpenError::BadBackup { file: from.to_owned(), why }
    })?;
    if schema > migrate::NEWEST {
        return Err(OpenError::Newer { file: from.to_owned(), found: schema, known: migrate::NEWEST });
    }
    let file = dir.join(DB_FILE);
    let fresh = beside(&file, ".restoring");
    let _ = fs::remove_file(&fresh);
    let mut target =
        File::options().write(true).create_new(true).mode(0o600).open(&fresh).map_err(unwritable(&fresh))?;
    let mut source = File::open(from).map_err(unwritable(from))?;
    std::io::copy(&mut source, &mut target).and_then(|_| target.sync_all()).map_err(unwritable(&fresh))?;
    let aside = beside(&file, &format!(".replaced-{}", now.0));
    let mut replaced = None;
    if file.exists() {
        // A write-ahead log left beside a foreign database would be played into it.
        for suffix in ["-wal", "-shm", ""] {
            let old = beside(&file, suffix);
            if old.exists() {
                fs::rename(&old, beside(&aside, suffix)).map_err(unwritable(&old))?;
            }
        }
        replaced = Some(aside);
    }
    fs::rename(&fresh, &file).map_err(unwritable(&file))?;
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(unwritable(dir))?;
    Ok(replaced)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
