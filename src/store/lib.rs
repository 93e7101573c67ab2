//! Room `store`: the truth of the supervisor, in SQLite. One writer, readers, migrations; no business choice in SQL.
//!
//! [`Store`] is the front door: a cheap handle. Changes go to one writer thread that groups what waits into one commit and
//! answers after it; reads run on read-only connections. Each table group has a file of its own that adds methods to
//! [`Store`]. The room never reads a clock (callers hand the time in) and lets no SQLite type out.

mod backup;
mod coverage;
mod error;
mod evidence;
mod inbox;
mod jobs;
mod journal;
mod leases;
mod limits;
mod migrate;
mod modes;
mod open;
mod outbox;
mod pins;
mod prune;
mod receipts;
mod row;
mod runs;
mod space;
mod stored;
mod tasks;
mod tombstone;
mod tracker;
mod turns;
mod windows;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use orch_domain::ids::Seq;
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use backup::{BackupReport, Stats};
pub use coverage::{Baseline, BaselineSet, HistoryLine, NewBaseline, Ratcheted};
pub use error::{CommitError, CreateError, JobError, LeaseError, OpenError, StoreError, WindowError};
pub use evidence::{EvidenceKey, NewVerdict, Verdict, VerdictOutcome};
pub use inbox::{Delivered, Delivery};
pub use jobs::JobRow;
pub use journal::Subject;
pub use leases::{Acquire, Holder, Lease};
pub use limits::{Ceiling, Reserve, Spend};
pub use modes::RepoMode;
pub use open::{DB_FILE, LOCK_FILE, StoreConfig};
pub use outbox::Pending as PendingEffect;
pub use prune::{JobTrace, Keep, Life, Pruned};
pub use receipts::PendingStep;
pub use runs::{NewRun, RunRow};
pub use space::SpaceState;
pub use tasks::{Change, Created, StopRecorded, Stored, TaskFilter};
pub use tombstone::{parse_tombstone, tombstone};
pub use tracker::{BoardComment, BoardItem, BoardTransition, Moved, NewBoardItem};
pub use windows::{Closed, Landing, MissingLanding, NewLanding, NewWindow, Window, WindowClose, WindowKind};

use error::Failure;
use writer::{Change as WriterChange, Message, Pending, Shared, Tx, Urgency, Writer};

/// The store's handle: cheap to clone. The last one dropped closes the store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    lane: Lane,
    readers: ReadPool,
    shared: Arc<Shared>,
    file: PathBuf,
    ballast_bytes: u64,
}

/// Where changes go.
pub(crate) enum Lane {
    /// To the writer thread.
    Thread { send: Mutex<Option<mpsc::Sender<Message>>>, thread: Mutex<Option<JoinHandle<()>>> },
    /// To the writer, on the caller's thread. Holds the instance lock beside it.
    Inline(Box<Mutex<Option<(Writer, File)>>>),
    /// Nowhere.
    ReadOnly,
}

impl Lane {
    fn start_thread(writer: Writer, lock: File) -> std::io::Result<Self> {
        // Deep enough that a full group always waits; bounded so that a stuck disk is felt by the callers.
        let (send, inbox) = mpsc::channel(1_024);
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            writer.run(inbox);
            // Only after the connection is closed may another instance come.
            drop(lock);
        })?;
        Ok(Self::Thread { send: Mutex::new(Some(send)), thread: Mutex::new(Some(thread)) })
    }

    /// Ends the lane: what was sent before is still committed.
    fn close(&self) {
        match self {
            Self::Thread { send, thread } => {
                held(send).take();
                if let Some(thread) = held(thread).take()
                    && thread.join().is_err()
                {
                    tracing::error!("the store's writer thread had panicked");
                }
            }
            Self::Inline(writer) => drop(held(writer).take()),
            Self::ReadOnly => {}
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.lane.close();
    }
}

/// Locks a mutex whose data stays consistent even if a holder panicked.
fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Read-only connections, lent out one at a time.
pub(crate) struct ReadPool {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl ReadPool {
    fn open(file: &Path, count: usize) -> Result<Self, StoreError> {
        let idle = (0..count).map(|_| open::reading_connection(file)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { idle: Arc::new(Mutex::new(idle)), permits: Arc::new(Semaphore::new(count)) })
    }

    /// Reads on the caller's thread; for opening only.
    fn now<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = held(&self.idle);
        read(idle.first().ok_or(StoreError::Closed)?)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let idle = self.idle.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let conn = held(&idle).pop().ok_or(StoreError::Closed)?;
            let lent = Lent { conn: Some(conn), idle: &idle };
            read(lent.conn.as_ref().expect("lent until dropped"))
        });
        done.await.map_err(|err| StoreError::Trouble { why: format!("a read panicked: {err}") })?
    }
}

/// Gives the connection back, also when the read panicked.
struct Lent<'p> {
    conn: Option<Connection>,
    idle: &'p Mutex<Vec<Connection>>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        held(self.idle).extend(self.conn.take());
    }
}

impl Store {
    /// Opens and takes a data folder: one instance at a time.
    pub fn open(config: &StoreConfig) -> Result<Self, OpenError> {
        open::open(config)
    }

    /// Opens a folder for looking only, also beside a running supervisor; every change answers `ReadOnly`.
    pub fn read_only(dir: &Path) -> Result<Self, OpenError> {
        open::open_read_only(dir)
    }

    /// The newest journal position, updated after each commit that wrote one: readers re-read from where they were.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Seq> {
        self.inner.shared.seq.subscribe()
    }

    /// How the store stands with the disk, as a signal.
    #[must_use]
    pub fn watch_space(&self) -> watch::Receiver<SpaceState> {
        self.inner.shared.space.subscribe()
    }

    /// Commits what was sent before and closes the file and the instance lock; further calls answer `Closed`.
    /// Blocks for the last commit.
    pub fn close(&self) {
        self.inner.lane.close();
        self.inner.readers.permits.close();
        held(&self.inner.readers.idle).clear();
    }

    /// Runs a change on the writer and answers after its commit.
    pub(crate) async fn write<T, E, F>(&self, urgency: Urgency, run: F) -> Result<T, E>
    where
        F: FnMut(&Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Failure,
    {
        let (change, mut answer) = Pending::pack(urgency, run);
        match &self.inner.lane {
            Lane::Inline(writer) => {
                Self::write_inline(writer, change)?;
                answer.try_recv().map_err(|_| E::from(StoreError::Closed))?.0
            }
            _ => {
                self.send(Message::Change(change)).await?;
                answer.await.map_err(|_| E::from(StoreError::Closed))?.0
            }
        }
    }

    fn write_inline(writer: &Mutex<Option<(Writer, File)>>, change: Box<dyn WriterChange>) -> Result<(), StoreError> {
        let mut writer = held(writer);
        let (writer, _) = writer.as_mut().ok_or(StoreError::Closed)?;
        writer.commit(vec![change]);
        Ok(())
    }

    /// Runs something on the writer's connection between two groups.
    pub(crate) async fn between<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if let Lane::Inline(writer) = &self.inner.lane {
            let mut writer = held(writer);
            let (writer, _) = writer.as_mut().ok_or(StoreError::Closed)?;
            return work(writer);
        }
        let (reply, answer) = oneshot::channel();
        let message = Message::Between(Box::new(move |writer| {
            let _ = reply.send(work(writer));
        }));
        self.send(message).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn send(&self, message: Message) -> Result<(), StoreError> {
        let Lane::Thread { send, .. } = &self.inner.lane else { return Err(StoreError::ReadOnly) };
        let send = held(send).clone().ok_or(StoreError::Closed)?;
        send.send(message).await.map_err(|_| StoreError::Closed)
    }

    /// Runs a read on a read-only connection.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match &self.inner.lane {
            Lane::Inline(writer) => {
                let writer = held(writer);
                let (writer, _) = writer.as_ref().ok_or(StoreError::Closed)?;
                read(&writer.conn)
            }
            _ => self.inner.readers.read(read).await,
        }
    }
}
