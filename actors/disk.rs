//! The watch on the disk of the data folder: whether there is enough space to begin something, or to go on at all.
//!
//! Owns the comparison of free space with `limits.min_free_disk` and the last answer, which anybody may read at any time.
//! New work (agent slots, new tasks) waits while there is too little; what runs goes on, and STOP is always taken. It ends
//! by itself as soon as a look finds enough. Below a sixteenth of that the disk counts as full, and what fills it stands
//! still ([`crate::standstill`]), which is told here as well. Refuses to guess: when the disk gives no answer, the last
//! one stands.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orch_adapters::disk::FreeSpace;
use orch_domain::job::full_below;
use tokio::sync::watch;

use crate::standstill::Standstill;

/// What has to be free at least before anything goes on again: 16 MiB.
const RESERVE: u64 = 16 << 20;
/// How long jobs stand still before the largest is ended, where nothing else is said.
const SHED_AFTER: Duration = Duration::from_secs(300);

/// How the disk was at the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// New work may begin.
    Enough,
    /// It may not.
    Short {
        /// Bytes that were free.
        free: u64,
        /// Bytes that have to be.
        least: u64,
    },
}

/// The watch. Looks are made by the ledger's clock, readers see the last one.
pub struct DiskWatch {
    space: Arc<dyn FreeSpace>,
    folder: PathBuf,
    least: u64,
    shed_after: Duration,
    /// Bytes free at the last look that had an answer; all of them before the first.
    free: AtomicU64,
    last: watch::Sender<Disk>,
    standstill: watch::Sender<Option<Standstill>>,
}

impl DiskWatch {
    /// Watches the disk that holds `folder`, and looks for the first time.
    #[must_use]
    pub fn new(space: Arc<dyn FreeSpace>, folder: PathBuf, least: u64) -> Self {
        let watch = Self {
            space,
            folder,
            least,
            shed_after: SHED_AFTER,
            free: AtomicU64::new(u64::MAX),
            last: watch::Sender::new(Disk::Enough),
            standstill: watch::Sender::new(None),
        };
        watch.look();
        watch
    }

    /// The same, with another time until the largest job is ended on a full disk.
    #[must_use]
    pub fn shedding_after(self, shed_after: Duration) -> Self {
        Self { shed_after, ..self }
    }

    /// How long jobs stand still on a full disk before the largest is ended, and between that and the next.
    #[must_use]
    pub const fn shed_after(&self) -> Duration {
        self.shed_after
    }

    /// Looks at the disk, which may block, and tells everybody when the answer is another one.
    pub fn look(&self) -> Disk {
        let free = match self.space.free(&self.folder) {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(%error, "free space at {} is not known; the last look counts", self.folder.display());
                return self.last();
            }
        };
        let seen = if free < self.least { Disk::Short { free, least: self.least } } else { Disk::Enough };
        let was_full = self.is_full();
        self.free.store(free, Ordering::Relaxed);
        self.last.send_if_modified(|last| {
            let turned = last.is_short() != seen.is_short() || was_full != self.is_full();
            *last = seen;
            turned
        });
        seen
    }

    /// Whether so little was free at the last look that nothing should write on.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free.load(Ordering::Relaxed) < full_below(self.least)
    }

    /// Whether as much is free as makes it worth to go on after the disk was full: more than makes it full again, and
    /// `besides`.
    #[must_use]
    pub fn has_reserve(&self, besides: u64) -> bool {
        let reserve = RESERVE.max(full_below(self.least) * 2);
        self.free.load(Ordering::Relaxed) >= reserve.saturating_add(besides)
    }

    /// What stands still because the disk is full; `None`: nothing.
    #[must_use]
    pub fn standstill(&self) -> Option<Standstill> {
        self.standstill.borrow().clone()
    }

    /// The same as a signal.
    #[must_use]
    pub fn standstills(&self) -> watch::Receiver<Option<Standstill>> {
        self.standstill.subscribe()
    }

    /// Waits for as long as things stand still.
    pub async fn until_all_goes_on(&self) {
        // The sender lives as long as this.
        let _ = self.standstills().wait_for(Option::is_none).await;
    }

    /// Tells everybody that things stand still, or go on again.
    pub(crate) fn stand_still(&self, now: Option<Standstill>) {
        let turned = self.standstill.borrow().is_some() != now.is_some();
        self.standstill.send_if_modified(|last| {
            let news = *last != now;
            *last = now;
            news
        });
        if turned {
            // Who waits for space waits for this, too.
            self.last.send_modify(|_| {});
        }
    }

    /// Whether new work has to wait: too little is free, or things stand still.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.last().is_short() || self.standstill.borrow().is_some()
    }

    /// The last look.
    #[must_use]
    pub fn last(&self) -> Disk {
        *self.last.borrow()
    }

    /// Tells when the answer turns, either way.
    #[must_use]
    pub fn turns(&self) -> watch::Receiver<Disk> {
        self.last.subscribe()
    }

    /// What is too little where, and what to do, for people; `None` while there is enough.
    #[must_use]
    pub fn shortage(&self) -> Option<String> {
        if let Some(standstill) = &*self.standstill.borrow() {
            return Some(standstill.to_string());
        }
        match self.last() {
            Disk::Enough => None,
            Disk::Short { free, least } => Some(format!(
                "{} MiB are free on the disk of {}, limits.min_free_disk asks for {}",
                free >> 20,
                self.folder.display(),
                mebibytes(least)
            )),
        }
    }
}

/// What a person can do about it.
pub const WAY_OUT: &str = "free space there (`orch salvage list` and the backups folder show what may go), \
                           or lower limits.min_free_disk; work goes on by itself";

/// Rounded up: a limit below one MiB is not shown as none.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

impl Disk {
    /// Whether new work has to wait.
    #[must_use]
    pub const fn is_short(self) -> bool {
        matches!(self, Self::Short { .. })
    }
}

#[cfg(test)]
mod tests {
    use orch_adapters::disk::FakeDisk;

    use super::*;

    fn watch(free: u64) -> (Arc<FakeDisk>, DiskWatch) {
        let disk = Arc::new(FakeDisk::with_free(free));
        let watch = DiskWatch::new(disk.clone(), PathBuf::from("/data"), 512 << 20);
        (disk, watch)
    }

    #[test]
    fn the_first_look_is_made_at_once_and_says_value_limit_and_place() {
        let (_, watch) = watch(100 << 20);
        assert_eq!(watch.last(), Disk::Short { free: 100 << 20, least: 512 << 20 });
        let text = watch.shortage().expect("it is short");
        assert_eq!(text, "100 MiB are free on the disk of /data, limits.min_free_disk asks for 512 MiB");
    }

    #[test]
    fn those_who_wait_are_told_when_it_turns_and_not_with_every_look() {
        let (disk, watch) = watch(512 << 20);
        let mut turns = watch.turns();
        assert_eq!(watch.shortage(), None, "exactly enough is enough");
        disk.set_free(9);
        watch.look();
        assert!(turns.has_changed().expect("watched") && turns.borrow_and_update().is_short());
        disk.set_free(8);
        assert_eq!(watch.look(), Disk::Short { free: 8, least: 512 << 20 });
        assert!(!turns.has_changed().expect("watched"), "still short");
        disk.set_free(1 << 30);
        watch.look();
        assert!(turns.has_changed().expect("watched") && !turns.borrow().is_short());
    }

    #[test]
    fn full_is_far_below_short_and_over_only_with_a_reserve() {
        let (disk, watch) = watch(32 << 20);
        let mut turns = watch.turns();
        assert!(watch.last().is_short() && !watch.is_full());
        disk.set_free((32 << 20) - 1);
        watch.look();
        assert!(watch.is_full() && turns.has_changed().expect("watched"), "it turns, although it was short before");
        turns.mark_unchanged();
        disk.set_free(60 << 20);
        watch.look();
        assert!(!watch.is_full() && !watch.has_reserve(0), "it would be full again at once");
        disk.set_free(64 << 20);
        watch.look();
        assert!(watch.has_reserve(0) && !watch.has_reserve(1));
    }

    #[test]
    fn what_stands_still_is_short_of_space_however_much_is_free() {
        let (_, watch) = watch(1 << 40);
        let (turns, mut standstills) = (watch.turns(), watch.standstills());
        let why = "a change of the store was refused for want of space".to_owned();
        let standing = [("j0001".parse().expect("an id"), None)].into();
        let now = Standstill { since: orch_domain::time::Timestamp(1), why, standing, shed: 2 };
        watch.stand_still(Some(now.clone()));
        assert!(watch.is_short() && turns.has_changed().expect("watched"));
        let text = watch.shortage().expect("said");
        assert!(text.ends_with("want of space): 1 job stands still, 2 jobs ended to make room"), "{text}");
        assert_eq!(*standstills.borrow_and_update(), Some(now.clone()));
        watch.stand_still(Some(now));
        assert!(!standstills.has_changed().expect("watched"), "no news");
        watch.stand_still(None);
        assert!(!watch.is_short() && watch.shortage().is_none());
    }

    #[test]
    fn a_disk_without_an_answer_changes_nothing() {
        let (disk, watch) = watch(9);
        disk.fall_silent();
        assert!(watch.look().is_short());
        disk.set_free(1 << 30);
        watch.look();
        disk.fall_silent();
        assert_eq!(watch.look(), Disk::Enough);
    }
}
