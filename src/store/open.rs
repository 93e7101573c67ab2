//! Opening a data folder: instance lock, checks, migrations, the writer thread and the readers.
//!
//! Owns the order in which a store comes up: lock, look (damaged or newer: refuse, leave the file as it is), verified
//! backup, migrate, ballast, threads. Refuses a second instance by an operating-system lock that dies with its process,
//! never by a file's mere existence.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch_domain::ids::Seq;
use orch_domain::time::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::backup;
use crate::error::{Db, OpenError, StoreError};
use crate::migrate;
use crate::space::Space;
use crate::writer::{Shared, Writer};
use crate::{Inner, Lane, ReadPool, Store};

/// The database's file name in the data folder.
pub const DB_FILE: &str = "orch.db";
/// Pages in the write-ahead log before a commit folds them into the file (32 MiB of the usual size, where SQLite's own
/// bound is 4 MiB): a folding costs two flushes, and copies each page once however often it was written since the last.
const FOLD_AT_PAGES: u32 = 8_192;
/// What is left of the log's file after it has grown beyond that (a long read keeps it from being folded), in bytes.
const LOG_KEPT_BYTES: u32 = 32 << 20;
/// The file in the data folder that whoever runs it holds locked.
pub const LOCK_FILE: &str = "orch.lock";

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The data folder; made (0700) when missing.
    pub dir: PathBuf,
    /// Read-only connections.
    pub readers: usize,
    /// Size of the ballast file; 64 MiB by default.
    pub ballast_bytes: u64,
    /// Most bytes that database and ballast may take together; `None`: the disk decides.
    pub quota_bytes: Option<u64>,
    /// Run every change and read on the caller's thread: for tests under virtual time, which must not wait for threads.
    pub inline: bool,
    /// The present time: dates migrations and backups.
    pub now: Timestamp,
}

impl StoreConfig {
    /// The usual settings for a folder.
    pub fn new(dir: impl Into<PathBuf>, now: Timestamp) -> Self {
        Self { dir: dir.into(), readers: 3, ballast_bytes: 64 << 20, quota_bytes: None, inline: false, now }
    }

    /// The same, every change and read on the caller's thread.
    #[must_use]
    pub fn inline(mut self) -> Self {
        self.inline = true;
        self
    }
}

/// Opens and takes the folder.
pub(crate) fn open(config: &StoreConfig) -> Result<Store, OpenError> {
    let unwritable = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Unwritable { path, source }
    };
    let dir = &config.dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unwritable(dir))?;
    let lock = lock(dir)?;
    let file = dir.join(DB_FILE);
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&file)
        .and_then(|db| db.set_permissions(fs::Permissions::from_mode(0o600)))
        .map_err(unwritable(&file))?;

    let conn = writing_connection(&file, config)?;
    let trouble = |source| OpenError::Store { file: file.clone(), source };
    let space = Space::open(dir, config.ballast_bytes, config.quota_bytes, &conn).map_err(trouble)?;
    let seq: u64 =
        conn.query_row("SELECT coalesce(max(seq), 0) FROM journal", [], |row| row.get(0)).db().map_err(trouble)?;
    let shared = Shared::new(Seq(seq), space.state());
    let writer = Writer { conn, space, shared: shared.clone() };
    let lane = if config.inline {
        Lane::Inline(Box::new(std::sync::Mutex::new(Some((writer, lock)))))
    } else {
        Lane::start_thread(writer, lock).map_err(unwritable(dir))?
    };
    let readers = if config.inline { 0 } else { config.readers.max(1) };
    let readers = ReadPool::open(&file, readers).map_err(trouble)?;
    Ok(Store { inner: Arc::new(Inner { lane, readers, shared, file, ballast_bytes: config.ballast_bytes }) })
}

/// Opens for looking only; takes no lock and may run beside a supervisor.
pub(crate) fn open_read_only(dir: &Path) -> Result<Store, OpenError> {
    let file = dir.join(DB_FILE);
    if !file.exists() {
        return Err(OpenError::Missing { file });
    }
    let trouble = |source| OpenError::Store { file: file.clone(), source };
    let readers = ReadPool::open(&file, 1).map_err(trouble)?;
    let seq = readers
        .now(|conn| {
            let found = migrate::schema_number(conn)?;
            if found != migrate::NEWEST {
                let why = format!("schema {found}, this program reads {}", migrate::NEWEST);
                return Err(StoreError::Damaged { what: "schema".to_owned(), why });
            }
            conn.query_row("SELECT coalesce(max(seq), 0) FROM journal", [], |row| row.get(0)).db()
        })
        .map_err(trouble)?;
    let shared = Shared::new(Seq(seq), crate::SpaceState::Enough);
    Ok(Store { inner: Arc::new(Inner { lane: Lane::ReadOnly, readers, shared, file: file.clone(), ballast_bytes: 0 }) })
}

/// Takes the instance lock, or says who has it.
pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK_FILE);
    let unwritable = |source| OpenError::Unwritable { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => {
            let note = format!("pid {}\n", std::process::id());
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(note.as_bytes()))
                .map_err(unwritable)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = (&mut file).take(200).read_to_string(&mut owner);
            let owner = match owner.trim() {
                "" => "owner unknown".to_owned(),
                text => text.escape_debug().to_string(),
            };
            Err(OpenError::InUse { dir: dir.to_owned(), owner })
        }
        Err(TryLockError::Error(source)) => Err(unwritable(source)),
    }
}

/// Checks, backs up, migrates; only then may the connection checkpoint into the file.
fn writing_connection(file: &Path, config: &StoreConfig) -> Result<Connection, OpenError> {
    let trouble = |source| match source {
        StoreError::Corrupt { why } => OpenError::Corrupt { file: file.to_owned(), why },
        source => OpenError::Store { file: file.to_owned(), source },
    };
    let mut conn =
        Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .db()
            .map_err(trouble)?;
    // A file that is refused must stay exactly as it is: not even its write-ahead log is folded in.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).db().map_err(trouble)?;
    conn.busy_timeout(Duration::from_secs(5)).db().map_err(trouble)?;
    let found = migrate::check(&conn, file).map_err(|err| match err {
        OpenError::Store { source, .. } => trouble(source),
        err => err,
    })?;
    let verdict = integrity(&conn).map_err(trouble)?;
    if let Some(why) = verdict {
        return Err(OpenError::Corrupt { file: file.to_owned(), why });
    }
    if found > 0 && found < migrate::NEWEST {
        let to = config.dir.join("backups").join(format!("before-migration-{found}-{}.db", config.now.0));
        backup::run(&conn, &to).map_err(trouble)?;
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).db().map_err(trouble)?;
    settle_pragmas(&conn).map_err(trouble)?;
    migrate::apply(&mut conn, found, config.now).map_err(trouble)?;
    conn.set_prepared_statement_cache_capacity(256);
    Ok(conn)
}

fn settle_pragmas(conn: &Connection) -> Result<(), StoreError> {
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).db()?;
    if mode != "wal" {
        let why = format!("journal mode is `{mode}`, WAL is needed: put the data folder on a local file system");
        return Err(StoreError::Trouble { why });
    }
    // Savepoints, where they are needed, remember pages: in memory, not in a file that is made and removed with every group.
    conn.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; \
         PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = {FOLD_AT_PAGES}; \
         PRAGMA journal_size_limit = {LOG_KEPT_BYTES};"
    ))
    .db()
}

/// What `integrity_check` has to say; `None`: all is well.
pub(crate) fn integrity(conn: &Connection) -> Result<Option<String>, StoreError> {
    let lines: rusqlite::Result<Vec<String>> =
        conn.prepare("PRAGMA integrity_check(20)").db()?.query_map([], |row| row.get(0)).db()?.collect();
    let lines = lines.db()?;
    Ok(if lines == ["ok"] { None } else { Some(lines.join("; ")) })
}

/// A read-only connection.
pub(crate) fn reading_connection(file: &Path) -> Result<Connection, StoreError> {
    let conn =
        Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX).db()?;
    conn.busy_timeout(Duration::from_secs(5)).db()?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}
