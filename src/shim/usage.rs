//! How much disk the folders of a job take, looked at bit by bit.
//!
//! Owns a walk that never holds the guard up: a few milliseconds at a time, with a rest between two walks that is longer
//! than a walk. What is counted is what is allocated; a file with several names counts once. Refuses to be exact: the
//! job writes while it is counted, and deleted files that are still open are not seen.

use std::fs::{self, ReadDir};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest look at a time.
const STEP: Duration = Duration::from_millis(2);
/// Between two looks of one walk.
const PAUSE: Duration = Duration::from_millis(20);
/// Shortest rest between two walks; a long walk rests ten times as long as it took.
const REST: Duration = Duration::from_secs(2);
/// Entries between two looks at the clock.
const ENTRIES: u32 = 64;
/// Folders that are open at a time; what lies deeper is not counted.
const DEPTH: usize = 128;

/// A walk over some folders, again and again.
pub(crate) struct Usage {
    roots: Vec<PathBuf>,
    open: Vec<ReadDir>,
    waiting: Vec<PathBuf>,
    bytes: u64,
    worked: Duration,
    due: Instant,
}

impl Usage {
    /// Begins; the first look is due at once.
    pub(crate) fn of(roots: Vec<PathBuf>, now: Instant) -> Self {
        Self { waiting: roots.clone(), roots, open: Vec::new(), bytes: 0, worked: Duration::ZERO, due: now }
    }

    /// When to look on.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Looks on for a moment; the sum, once a walk is complete. A sum over `most` is told at once.
    pub(crate) fn look(&mut self, most: u64, now: Instant) -> Option<u64> {
        if now < self.due {
            return None;
        }
        let over = loop {
            if !self.some_entries() {
                break true;
            }
            if self.bytes > most {
                break true;
            }
            if now.elapsed() >= STEP {
                break false;
            }
        };
        let worked = now.elapsed();
        self.worked += worked;
        if !over {
            self.due = now + worked + PAUSE;
            return None;
        }
        self.due = now + REST.max(self.worked * 10);
        let next = Self::of(self.roots.clone(), self.due);
        Some(std::mem::replace(self, next).bytes)
    }

    /// Counts a few entries; `false` when there are none left.
    fn some_entries(&mut self) -> bool {
        for _ in 0..ENTRIES {
            match self.open.last_mut().map(Iterator::next) {
                Some(Some(Ok(entry))) => {
                    // Not through links. What is gone in between, or cannot be looked at, takes no space that we know of.
                    let Ok(meta) = entry.metadata() else { continue };
                    let names = if meta.is_dir() { 1 } else { meta.nlink().max(1) };
                    self.bytes += meta.blocks() * 512 / names;
                    if meta.is_dir()
                        && self.open.len() < DEPTH
                        && let Ok(folder) = fs::read_dir(entry.path())
                    {
                        self.open.push(folder);
                    }
                }
                Some(Some(Err(_))) => {}
                Some(None) => drop(self.open.pop()),
                None => match self.waiting.pop() {
                    Some(root) => self.open.extend(fs::read_dir(root)),
                    None => return false,
                },
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(usage: &mut Usage, most: u64) -> u64 {
        loop {
            if let Some(bytes) = usage.look(most, usage.due().max(Instant::now())) {
                return bytes;
            }
        }
    }

    #[test]
    fn counts_what_is_allocated_once_and_follows_no_link() {
        let dir = tempfile::tempdir().expect("a folder");
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        fs::create_dir_all(inside.join("a/b")).expect("made");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("large"), vec![1_u8; 8 << 20]).expect("written");
        fs::write(inside.join("a/file"), vec![1_u8; 1 << 20]).expect("written");
        fs::hard_link(inside.join("a/file"), inside.join("a/b/again")).expect("linked");
        std::os::unix::fs::symlink(&outside, inside.join("way-out")).expect("linked");
        let mut usage = Usage::of(vec![inside], Instant::now());
        let bytes = whole(&mut usage, u64::MAX);
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        assert!(usage.due() > Instant::now(), "it rests");
    }

    #[test]
    fn too_much_is_told_before_the_walk_is_complete() {
        let dir = tempfile::tempdir().expect("a folder");
        for number in 0..2_000 {
            fs::write(dir.path().join(number.to_string()), [1_u8; 4096]).expect("written");
        }
        let mut usage = Usage::of(vec![dir.path().to_owned()], Instant::now());
        let bytes = whole(&mut usage, 64 << 10);
        assert!(bytes > 64 << 10 && bytes < 4 << 20, "{bytes}");
    }
}
