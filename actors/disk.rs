//! The watch on the disk of the data folder: whether there is enough space to begin something.
//!
//! Owns the comparison of free space with `limits.min_free_disk` and the last answer, which anybody may read at any time.
//! New work (agent slots, new tasks) waits while there is too little; what runs goes on, and STOP is always taken. It ends
//! by itself as soon as a look finds enough. Refuses to guess: when the disk gives no answer, the last one stands.

use std::path::PathBuf;
use std::sync::Arc;

use orch_adapters::disk::FreeSpace;
use tokio::sync::watch;

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
    last: watch::Sender<Disk>,
}

impl DiskWatch {
    /// Watches the disk that holds `folder`, and looks for the first time.
    #[must_use]
    pub fn new(space: Arc<dyn FreeSpace>, folder: PathBuf, least: u64) -> Self {
        let watch = Self { space, folder, least, last: watch::Sender::new(Disk::Enough) };
        watch.look();
        watch
    }

    /// Looks at the disk, which may block, and tells everybody when the answer is another one.
    pub fn look(&self) -> Disk {
        let seen = match self.space.free(&self.folder) {
            Ok(free) if free < self.least => Disk::Short { free, least: self.least },
            Ok(_) => Disk::Enough,
            Err(error) => {
                tracing::warn!(%error, "free space at {} is not known; the last look counts", self.folder.display());
                return self.last();
            }
        };
        self.last.send_if_modified(|last| {
            let turned = last.is_short() != seen.is_short();
            *last = seen;
            turned
        });
        seen
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
