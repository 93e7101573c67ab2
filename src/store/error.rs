//! What can go wrong in the store, named by what the caller does next.
//!
//! Owns the error types of the room and the translation of SQLite's codes into them. Refuses to let a SQLite type out:
//! its words appear as text only. Fences (version, epoch, STOP) are not trouble but answers, so they have enums of their
//! own, each with one `Store` variant for real trouble.

use std::path::PathBuf;

use orch_domain::ids::{Epoch, Generation, TaskId, Version, WindowId};
use rusqlite::ErrorCode;

/// Trouble with the store itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was written; stop taking work, free space, then [`Store::recover_space`](crate::Store::recover_space).
    #[error("no space left for the store: the change was not written; free disk space, then it goes on by itself")]
    DiskFull,
    /// The store was closed, or its writer is gone: end.
    #[error("the store is closed: no change can be written any more")]
    Closed,
    /// Opened for looking only.
    #[error("the store was opened read-only: start the supervisor to change anything")]
    ReadOnly,
    /// The file is damaged: stop, keep it, restore from a backup.
    #[error("the store's file is damaged: {why}; stop, keep the file and restore a backup (`orch backup --help`)")]
    Corrupt {
        /// SQLite's words.
        why: String,
    },
    /// One stored value cannot be read as what it should be.
    #[error("stored {what} is unreadable: {why}")]
    Damaged {
        /// Table and row.
        what: String,
        /// The reader's words.
        why: String,
    },
    /// There is no such row.
    #[error("there is no {what} `{id}`")]
    NotFound {
        /// Sort of row.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A rule of the tables refuses the change (a key that exists, a row that is not there): the change is wrong.
    #[error("the store's rules refuse this: {why}")]
    Refused {
        /// Which rule.
        why: String,
    },
    /// Anything else: try again later, tell somebody.
    #[error("the store could not do it: {why}")]
    Trouble {
        /// What happened.
        why: String,
    },
}

/// Why a folder cannot be opened as a store. The file is never changed by a refusal.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another supervisor owns the folder.
    #[error("{dir} is in use by another supervisor ({owner}); talk to that one, or stop it first")]
    InUse {
        /// The data folder.
        dir: PathBuf,
        /// Who, as far as known.
        owner: String,
    },
    /// The folder or a file in it cannot be written.
    #[error("{path} cannot be used: {source}; choose another data folder (`--data`) or correct its owner and mode")]
    Unwritable {
        /// Which path.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Written by a newer version of this program.
    #[error(
        "{file} has schema {found}, this program knows up to {known}; it was left as it is: use the newer program, or \
         restore a backup made before the upgrade"
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its schema number.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// A file that is to be put back, and holds no whole store.
    #[error("{file} is no whole backup of a store: {why}; nothing was changed: name another backup")]
    BadBackup {
        /// The file.
        file: PathBuf,
        /// What the check said.
        why: String,
    },
    /// Damaged, or not ours.
    #[error(
        "{file} is damaged or no store: {why}; it was left as it is: move it aside and restore the newest backup with \
         `orch backup restore FILE`"
    )]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What the check said.
        why: String,
    },
    /// An applied migration is not the one this program has.
    #[error(
        "{file}: migration {number} ({name}) was applied from another text than this program's; it was left as it is: \
         use the program that wrote it"
    )]
    ForeignMigration {
        /// The file.
        file: PathBuf,
        /// Its number.
        number: u32,
        /// Its name.
        name: String,
    },
    /// There is no store to look at.
    #[error("{file} does not exist: nothing was recorded in this data folder yet")]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// Anything else.
    #[error("{file} could not be opened: {source}")]
    Store {
        /// The file.
        file: PathBuf,
        /// The trouble.
        source: StoreError,
    },
}

/// Why a task's next state was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Somebody else changed the row: reload and decide again.
    #[error("the task row is at version {found}: reload and decide again")]
    VersionConflict {
        /// The row's version.
        found: Version,
    },
    /// Somebody else owns the task: end.
    #[error("the task is owned under epoch {current}: this owner is stale and has to end")]
    StaleEpoch {
        /// The row's epoch.
        current: Epoch,
    },
    /// A STOP is recorded: nothing goes forward any more.
    #[error("STOP is recorded for the task: forward changes are refused")]
    StopRecorded,
    /// The life is closed for ever.
    #[error("the task is terminal: it never changes again")]
    Terminal,
    /// Trouble.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a new life was not created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// The key (or tracker item) has a live task.
    #[error("the key has a live task already: {id}")]
    AlreadyLive {
        /// Which.
        id: TaskId,
    },
    /// The transition has started a life before.
    #[error("transition `{transition}` was consumed before")]
    AlreadyConsumed {
        /// The transition's id.
        transition: String,
        /// The life that it started; `None`: it was ignored for good.
        id: Option<TaskId>,
    },
    /// Another life was created in between: take this generation.
    #[error("the next generation of this key is {next}: build the task again with it")]
    GenerationTaken {
        /// The one to use.
        next: Generation,
    },
    /// Trouble.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a job was not recorded or may not go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// STOP is recorded for its task: do not start it.
    #[error("STOP is recorded for the task: the job must not start")]
    StopRecorded,
    /// Its owner is stale: end.
    #[error("the task is owned under epoch {current}: the job's owner is stale and has to end")]
    StaleEpoch {
        /// The task's epoch.
        current: Epoch,
    },
    /// It is not waiting for `go` (any more).
    #[error("the job is {status}: it cannot go")]
    NotPrepared {
        /// Its status.
        status: String,
    },
    /// Trouble.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a lease was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The caller's epoch is not the lease's: it owns nothing any more.
    #[error("the lease is at epoch {current}: this owner is stale and has to end")]
    StaleEpoch {
        /// The lease's epoch.
        current: Epoch,
    },
    /// The lease is free or somebody else's.
    #[error("the lease is not held by this holder")]
    NotHolder,
    /// Trouble.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a window was not opened, changed or closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The lease's epoch has moved on: this executor is stale and has to end.
    #[error("the lease is at epoch {current}: this executor is stale and has to end")]
    StaleEpoch {
        /// The lease's epoch.
        current: Epoch,
    },
    /// STOP is recorded for its task: do not begin.
    #[error("STOP is recorded for the task: no window is opened any more")]
    StopRecorded,
    /// One of this kind is open for the task: attach to it, never execute it again.
    #[error("window {id} is open already: attach to it")]
    AlreadyOpen {
        /// Which.
        id: WindowId,
    },
    /// It is closed.
    #[error("the window is closed already")]
    AlreadyClosed,
    /// The task has landed before.
    #[error("the task has landed before: one life lands at most once")]
    AlreadyLanded,
    /// Trouble.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the writer has to know of a change's error.
pub(crate) trait Failure: From<StoreError> + Send + 'static {
    /// Trouble of the store, if that is what it is.
    fn trouble(&self) -> Option<&StoreError>;
    /// Whether a stale owner was refused.
    fn is_stale(&self) -> bool {
        false
    }
}

impl Failure for StoreError {
    fn trouble(&self) -> Option<&StoreError> {
        Some(self)
    }
}

macro_rules! failure {
    ($name:ident $(, $stale:pat)?) => {
        impl Failure for $name {
            fn trouble(&self) -> Option<&StoreError> {
                match self {
                    Self::Store(err) => Some(err),
                    _ => None,
                }
            }
            $(fn is_stale(&self) -> bool {
                matches!(self, $stale)
            })?
        }
    };
}
failure!(CommitError, Self::StaleEpoch { .. });
failure!(CreateError);
failure!(JobError, Self::StaleEpoch { .. });
failure!(LeaseError, Self::StaleEpoch { .. } | Self::NotHolder);
failure!(WindowError, Self::StaleEpoch { .. });

impl StoreError {
    /// Whether trying the same change again by itself can end otherwise; a refusal by a rule cannot.
    pub(crate) const fn spoils_transaction(&self) -> bool {
        matches!(self, Self::DiskFull | Self::Corrupt { .. } | Self::Trouble { .. })
    }

    /// Translates SQLite's error.
    pub(crate) fn of(err: &rusqlite::Error) -> Self {
        let why = err.to_string();
        match err {
            rusqlite::Error::SqliteFailure(code, _) => match code.code {
                ErrorCode::DiskFull => Self::DiskFull,
                // The shared index of the write-ahead log could not grow: the same cause under another name.
                _ if code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => Self::DiskFull,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupt { why },
                ErrorCode::ConstraintViolation => Self::Refused { why },
                ErrorCode::ReadOnly => Self::ReadOnly,
                _ => Self::Trouble { why },
            },
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => Self::Damaged { what: "value".to_owned(), why },
            _ => Self::Trouble { why },
        }
    }
}

/// Shortens `result.map_err(..)` where SQLite is spoken to.
pub(crate) trait Db<T> {
    /// The same with our error.
    fn db(self) -> Result<T, StoreError>;
}

impl<T> Db<T> for rusqlite::Result<T> {
    fn db(self) -> Result<T, StoreError> {
        self.map_err(|err| StoreError::of(&err))
    }
}
