//! The one writer: groups the changes that wait into one transaction and answers only after its commit.
//!
//! Owns the writing connection. Invariants: `BEGIN IMMEDIATE` only; a refused change takes nothing else along; no answer
//! leaves before COMMIT has returned. Changes are tried without savepoints first, which cost every change a quarter of
//! its time and are needed by few: one that is refused before it wrote leaves nothing behind. When one had written, all is
//! taken back and tried again with a SAVEPOINT for each. When a whole group cannot be committed (disk full), its changes
//! are tried one by one, so each gets its own honest answer. Therefore a change is a closure that can run more than once.
//! Refuses to read a clock or to hold a transaction open while it waits.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orch_domain::ids::Seq;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Db, Failure, StoreError};
use crate::pins::Pins;
use crate::space::{Space, SpaceState};

/// Most changes in one transaction.
pub(crate) const GROUP: usize = 64;

/// Longest wait at the end for readers of the write-ahead log.
const FOLD_WAIT: Duration = Duration::from_millis(500);

/// Whether a change has to work even when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Refused while space is short.
    Ordinary,
    /// May use the ballast: STOP, receipts, ends of things.
    Needed,
}

/// What a change sees: the connection inside the open transaction.
pub(crate) struct Tx<'c> {
    /// The writing connection.
    pub(crate) conn: &'c Connection,
    /// The newest journal position: committed before, or given in this transaction.
    pub(crate) seq: Cell<u64>,
    /// Pins that were read before.
    pub(crate) pins: &'c Pins,
}

/// How one application of a change ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Applied {
    Done,
    Refused,
    Spoiled,
}

/// A change waiting for its turn, its types erased.
pub(crate) trait Change: Send {
    fn urgency(&self) -> Urgency;
    fn apply(&mut self, tx: &Tx<'_>) -> ChangeEnd;
    fn fail(&mut self, why: StoreError);
    /// Sends the answer.
    fn settle(self: Box<Self>, shared: &Shared);
}

/// What applying told: opaque outside this file.
pub(crate) struct ChangeEnd(Applied, Option<StoreError>);

/// A change with its types.
pub(crate) struct Pending<T, E, F> {
    run: F,
    urgency: Urgency,
    out: Option<Result<T, E>>,
    reply: oneshot::Sender<Answer<T, E, F>>,
}

/// What came of a change, and the change itself: whoever asked drops it, for the writer's time is everybody's.
pub(crate) type Answer<T, E, F> = (Result<T, E>, F);

/// A change for the writer, and where its answer comes.
pub(crate) type Packed<T, E, F> = (Box<dyn Change>, oneshot::Receiver<Answer<T, E, F>>);

impl<T, E, F> Pending<T, E, F>
where
    F: FnMut(&Tx<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Failure,
{
    /// Packs a change; the receiver hears after the commit.
    pub(crate) fn pack(urgency: Urgency, run: F) -> Packed<T, E, F> {
        let (reply, answer) = oneshot::channel();
        (Box::new(Self { run, urgency, out: None, reply }), answer)
    }
}

impl<T, E, F> Change for Pending<T, E, F>
where
    F: FnMut(&Tx<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Failure,
{
    fn urgency(&self) -> Urgency {
        self.urgency
    }

    fn apply(&mut self, tx: &Tx<'_>) -> ChangeEnd {
        let run = &mut self.run;
        // A panic in one change must not take the writer, and with it everybody else, along.
        let out = catch_unwind(AssertUnwindSafe(|| run(tx)))
            .unwrap_or_else(|_| Err(StoreError::Refused { why: "the change panicked; see the log".to_owned() }.into()));
        let end = match &out {
            Ok(_) => ChangeEnd(Applied::Done, None),
            Err(err) => match err.trouble() {
                Some(trouble) if trouble.spoils_transaction() => ChangeEnd(Applied::Spoiled, Some(trouble.clone())),
                _ => ChangeEnd(Applied::Refused, None),
            },
        };
        self.out = Some(out);
        end
    }

    fn fail(&mut self, why: StoreError) {
        self.out = Some(Err(why.into()));
    }

    fn settle(self: Box<Self>, shared: &Shared) {
        let Self { run, out, reply, .. } = *self;
        let out = out.unwrap_or_else(|| Err(StoreError::Closed.into()));
        if out.as_ref().is_err_and(Failure::is_stale) {
            shared.refused_stale.fetch_add(1, Ordering::Relaxed);
        }
        // Nobody waits any more: the change is committed all the same.
        let _ = reply.send((out, run));
    }
}

/// Counters and signals that the writer shares with every handle.
pub(crate) struct Shared {
    pub(crate) refused_stale: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) largest_group: AtomicU64,
    pub(crate) seq: watch::Sender<Seq>,
    pub(crate) space: watch::Sender<SpaceState>,
    pub(crate) pins: Pins,
}

impl Shared {
    pub(crate) fn new(seq: Seq, space: SpaceState) -> Arc<Self> {
        Arc::new(Self {
            refused_stale: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            largest_group: AtomicU64::new(0),
            seq: watch::Sender::new(seq),
            space: watch::Sender::new(space),
            pins: Pins::default(),
        })
    }
}

/// What the writer thread receives.
pub(crate) enum Message {
    /// A change to commit.
    Change(Box<dyn Change>),
    /// Something done on the connection outside a transaction, between two groups (backup, check, space).
    Between(Between),
}

/// Work on the writer's connection outside a transaction.
pub(crate) type Between = Box<dyn FnOnce(&mut Writer) + Send>;

/// The writing connection and what belongs to it.
pub(crate) struct Writer {
    pub(crate) conn: Connection,
    pub(crate) space: Space,
    pub(crate) shared: Arc<Shared>,
}

impl Writer {
    /// Works until every sender is gone.
    pub(crate) fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut last = 0;
        while let Some(first) = inbox.blocking_recv() {
            let (group, between) = collect(first, &mut inbox, last);
            last = group.len();
            self.commit(group);
            if let Some(work) = between
                && catch_unwind(AssertUnwindSafe(|| work(&mut self))).is_err()
            {
                tracing::error!("work between two groups panicked; the writer goes on");
            }
        }
        self.fold();
    }

    /// Folds the write-ahead log into the file, so that the file alone is the store. Left to the next start where somebody
    /// reads still: nothing hangs on it.
    fn fold(&self) {
        let folded = self
            .conn
            .busy_timeout(FOLD_WAIT)
            .and_then(|()| self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)));
        if !matches!(folded, Ok(0)) {
            tracing::debug!(?folded, "the write-ahead log stays beside the file");
        }
    }

    /// Commits a group and answers.
    pub(crate) fn commit(&mut self, mut group: Vec<Box<dyn Change>>) {
        if group.is_empty() {
            return;
        }
        if group.len() == 1 || self.space.state() != SpaceState::Enough || !self.try_together(&mut group) {
            for change in &mut group {
                self.commit_alone(change.as_mut());
            }
        }
        let count = group.len() as u64;
        self.shared.groups.fetch_add(1, Ordering::Relaxed);
        self.shared.changes.fetch_add(count, Ordering::Relaxed);
        self.shared.largest_group.fetch_max(count, Ordering::Relaxed);
        for change in group {
            change.settle(&self.shared);
        }
    }

    /// Tries all in one transaction; `false`: nothing of it was committed.
    fn try_together(&mut self, group: &mut [Box<dyn Change>]) -> bool {
        matches!(self.try_trusting(group), Ok(true)) || self.try_guarded(group).is_ok()
    }

    /// Tries all without savepoints; `Ok(false)`: one was refused after it had written, so all was taken back.
    fn try_trusting(&mut self, group: &mut [Box<dyn Change>]) -> Result<bool, StoreError> {
        self.transaction(|tx| {
            for change in group.iter_mut() {
                let before = (tx.seq.get(), tx.conn.total_changes());
                match change.apply(tx) {
                    ChangeEnd(Applied::Done, _) => {}
                    // Most refusals see a fence before they write anything: there is nothing to take back.
                    ChangeEnd(Applied::Refused, _) if tx.conn.total_changes() == before.1 => tx.seq.set(before.0),
                    ChangeEnd(Applied::Refused, _) => return Ok(false),
                    ChangeEnd(Applied::Spoiled, why) => return Err(why.unwrap_or(StoreError::DiskFull)),
                }
            }
            Ok(true)
        })
    }

    /// Tries all, each in a savepoint of its own.
    fn try_guarded(&mut self, group: &mut [Box<dyn Change>]) -> Result<bool, StoreError> {
        self.transaction(|tx| {
            for change in group.iter_mut() {
                let before = tx.seq.get();
                batch(tx.conn, "SAVEPOINT change")?;
                match change.apply(tx) {
                    ChangeEnd(Applied::Done, _) => batch(tx.conn, "RELEASE change")?,
                    ChangeEnd(Applied::Refused, _) => {
                        batch(tx.conn, "ROLLBACK TO change")?;
                        batch(tx.conn, "RELEASE change")?;
                        tx.seq.set(before);
                    }
                    ChangeEnd(Applied::Spoiled, why) => return Err(why.unwrap_or(StoreError::DiskFull)),
                }
            }
            Ok(true)
        })
    }

    /// Commits one change in a transaction of its own; short of space, an urgent one gets the ballast.
    fn commit_alone(&mut self, change: &mut dyn Change) {
        let urgency = change.urgency();
        if urgency == Urgency::Ordinary && self.space.state() == SpaceState::OnBallast {
            // What the ballast gave belongs to STOP and receipts.
            change.fail(StoreError::DiskFull);
            return;
        }
        let mut outcome = self.try_alone(change);
        if outcome == Err(StoreError::DiskFull) && urgency == Urgency::Needed && self.space.free(&self.conn) {
            tracing::error!("the disk is full: the ballast was freed so that STOP and receipts can be recorded");
            outcome = self.try_alone(change);
        }
        match outcome {
            Ok(true) => self.space.worked(),
            Ok(false) => {}
            Err(why) => {
                if why == StoreError::DiskFull {
                    self.space.failed();
                }
                change.fail(why);
            }
        }
        self.shared.space.send_if_modified(|state| {
            let changed = *state != self.space.state();
            *state = self.space.state();
            changed
        });
    }

    /// Tries one; `Ok(false)`: refused, its answer is with it.
    fn try_alone(&mut self, change: &mut dyn Change) -> Result<bool, StoreError> {
        self.transaction(|tx| match change.apply(tx) {
            ChangeEnd(Applied::Done, _) => Ok(true),
            ChangeEnd(Applied::Refused, _) => Ok(false),
            ChangeEnd(Applied::Spoiled, why) => Err(why.unwrap_or(StoreError::DiskFull)),
        })
    }

    /// Runs `work` in one transaction; `Ok(false)` from it rolls back without being an error.
    fn transaction(&mut self, work: impl FnOnce(&Tx<'_>) -> Result<bool, StoreError>) -> Result<bool, StoreError> {
        batch(&self.conn, "BEGIN IMMEDIATE")?;
        let newest = *self.shared.seq.borrow();
        let tx = Tx { conn: &self.conn, seq: Cell::new(newest.0), pins: &self.shared.pins };
        let outcome = work(&tx).and_then(|keep| {
            batch(&self.conn, if keep { "COMMIT" } else { "ROLLBACK" })?;
            Ok(keep)
        });
        match outcome {
            Ok(keep) => {
                let seq = Seq(tx.seq.get());
                if keep && seq > newest {
                    self.shared.seq.send_replace(seq);
                }
                Ok(keep)
            }
            Err(err) => {
                // SQLite may have rolled back by itself (disk full, I/O error).
                if !self.conn.is_autocommit()
                    && let Err(rollback) = batch(&self.conn, "ROLLBACK")
                {
                    tracing::error!(%rollback, "rolling back failed");
                }
                Err(err)
            }
        }
    }
}

/// Takes what waits, up to a full group or to something that is done between groups.
fn collect(
    first: Message,
    inbox: &mut mpsc::Receiver<Message>,
    last: usize,
) -> (Vec<Box<dyn Change>>, Option<Between>) {
    let mut group = Vec::new();
    let mut next = Some(first);
    // Those who were answered a moment ago are about to ask again: giving them the processor a few times costs
    // microseconds, a flush that they could have shared costs more. A lone committer never waits.
    let mut patience = if last > 1 { 4 } else { 0 };
    loop {
        match next.take() {
            Some(Message::Change(change)) => group.push(change),
            Some(Message::Between(work)) => return (group, Some(work)),
            None if patience > 0 && group.len() < last => {
                patience -= 1;
                std::thread::yield_now();
            }
            None => return (group, None),
        }
        if group.len() == GROUP {
            return (group, None);
        }
        next = inbox.try_recv().ok();
    }
}

/// Runs one cached statement without parameters.
fn batch(conn: &Connection, sql: &str) -> Result<(), StoreError> {
    conn.prepare_cached(sql).db()?.execute([]).db()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use orch_domain::journal::Entry;
    use orch_domain::time::Timestamp;

    use super::*;
    use crate::journal::{Subject, append};
    use crate::{Lane, Store, StoreConfig, held};

    type Noted<F> = oneshot::Receiver<Answer<(), StoreError, F>>;

    fn note(text: &'static str, end: fn() -> Result<(), StoreError>) -> (Box<dyn Change>, Noted<impl Sized>) {
        Pending::pack(Urgency::Ordinary, move |tx| {
            append(tx, &Subject::default(), &[Entry::new("note", text)], Timestamp(1))?;
            end()
        })
    }

    /// Commits a group of four, the third of which ends as told; what each was answered and what is in the journal.
    fn group(third: fn() -> Result<(), StoreError>) -> (Vec<Result<(), StoreError>>, Vec<String>, Seq) {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { ballast_bytes: 4_096, ..StoreConfig::new(dir.path(), Timestamp(0)) };
        let store = Store::open(&config.inline()).unwrap();
        let Lane::Inline(writer) = &store.inner.lane else { unreachable!("opened inline") };
        let mut writer = held(writer);
        let (writer, _) = writer.as_mut().unwrap();
        let ends: [fn() -> Result<(), StoreError>; 4] = [|| Ok(()), || Ok(()), third, || Ok(())];
        let (changes, answers): (Vec<_>, Vec<_>) =
            ["one", "two", "three", "four"].into_iter().zip(ends).map(|(text, end)| note(text, end)).unzip();
        writer.commit(changes);
        let answers = answers.into_iter().map(|mut answer| answer.try_recv().unwrap().0).collect();
        let journal = crate::row::all(&writer.conn, "SELECT text FROM journal ORDER BY seq", [], |row| {
            crate::row::get(row, "text")
        });
        (answers, journal.unwrap(), *writer.shared.seq.borrow())
    }

    #[test]
    fn a_panic_in_one_change_is_its_own_affair() {
        let (answers, journal, seq) = group(|| panic!("a bug"));
        assert!(matches!(answers[2], Err(StoreError::Refused { .. })), "{answers:?}");
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
        assert_eq!(journal, ["one", "two", "four"]);
        assert_eq!(seq, Seq(3));
    }

    /// How often the first of three changes ran when the second is refused, having written before or not.
    fn runs_beside(refused_writes: bool) -> (u32, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { ballast_bytes: 4_096, ..StoreConfig::new(dir.path(), Timestamp(0)) };
        let store = Store::open(&config.inline()).unwrap();
        let Lane::Inline(writer) = &store.inner.lane else { unreachable!("opened inline") };
        let mut writer = held(writer);
        let (writer, _) = writer.as_mut().unwrap();
        let runs = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&runs);
        let (first, _first) = Pending::pack(Urgency::Ordinary, move |tx| {
            counted.fetch_add(1, Ordering::Relaxed);
            append(tx, &Subject::default(), &[Entry::new("note", "first")], Timestamp(1))
        });
        let (second, mut refused) = Pending::pack(Urgency::Ordinary, move |tx| {
            if refused_writes {
                append(tx, &Subject::default(), &[Entry::new("note", "second")], Timestamp(1))?;
            }
            Err::<(), _>(StoreError::Refused { why: "as told".to_owned() })
        });
        let (third, _third) = note("third", || Ok(()));
        writer.commit(vec![first, second, third]);
        assert!(matches!(refused.try_recv().unwrap().0, Err(StoreError::Refused { .. })));
        assert_eq!(*writer.shared.seq.borrow(), Seq(2));
        let journal = crate::row::all(&writer.conn, "SELECT text FROM journal ORDER BY seq", [], |row| {
            crate::row::get(row, "text")
        });
        (u32::try_from(runs.load(Ordering::Relaxed)).unwrap(), journal.unwrap())
    }

    #[test]
    fn a_refusal_that_wrote_nothing_makes_nobody_run_again() {
        assert_eq!(runs_beside(false), (1, vec!["first".to_owned(), "third".to_owned()]));
    }

    #[test]
    fn a_refusal_that_had_written_is_taken_back_alone() {
        assert_eq!(runs_beside(true), (2, vec!["first".to_owned(), "third".to_owned()]));
    }

    #[test]
    fn a_group_that_cannot_be_committed_is_tried_one_by_one() {
        let (answers, journal, seq) = group(|| Err(StoreError::DiskFull));
        assert_eq!(answers, [Ok(()), Ok(()), Err(StoreError::DiskFull), Ok(())]);
        assert_eq!(journal, ["one", "two", "four"], "nothing twice, nothing lost");
        assert_eq!(seq, Seq(3));
    }
}
