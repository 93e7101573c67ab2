//! Answers of a feed on disk, each with the time it was given.
//!
//! Owns the folder and the age up to which an answer counts. Invariants: a file says what it is the answer to, and one
//! that says something else, is broken or lies in the future is no answer; writing is all or nothing. Refuses to be
//! needed: a cache that cannot be read or written costs time only.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use orch_domain::time::{Millis, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Largest file that is read.
const MOST_BYTES: u64 = 4 << 20;
/// Files that nobody has written for so long are removed.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Most files that one clearing looks at.
const MOST_CLEARED: usize = 20_000;

/// The cache.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    age: Millis,
}

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    question: String,
    at: i64,
    answer: T,
}

/// An answer that was given before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remembered<T> {
    pub(super) answer: T,
    pub(super) at: Timestamp,
    /// Whether it is young enough to stand for a fresh one.
    pub(super) fresh: bool,
}

impl Cache {
    /// A cache in a folder, made when it is first needed; answers count as fresh up to an age.
    #[must_use]
    pub const fn new(folder: PathBuf, age: Millis) -> Self {
        Self { folder, age }
    }

    fn file(&self, question: &str) -> PathBuf {
        let name = hex::encode(Sha256::digest(question));
        self.folder.join(&name[..2]).join(format!("{name}.json"))
    }

    /// What was answered before, however long ago.
    pub(super) fn get<T: DeserializeOwned>(&self, question: &str, now: Timestamp) -> Option<Remembered<T>> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.file(question)).ok()?;
        file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        let kept: Kept<T> = serde_json::from_slice(&bytes).ok()?;
        let at = Timestamp(kept.at);
        if kept.question != question || at > now {
            return None;
        }
        Some(Remembered { answer: kept.answer, at, fresh: now.since(at) < self.age })
    }

    /// Keeps an answer.
    pub(super) fn put<T: Serialize>(&self, question: &str, answer: &T, now: Timestamp) {
        let file = self.file(question);
        let kept = Kept { question: question.to_owned(), at: now.0, answer };
        let written = serde_json::to_vec(&kept).map_err(std::io::Error::other).and_then(|bytes| write(&file, &bytes));
        if let Err(error) = written {
            tracing::debug!(%error, "an answer of the advisory feed is not kept in {}", file.display());
        }
    }

    /// Removes what is too old to be of use even when the feed is away.
    pub(super) fn clear(&self) {
        let old = SystemTime::now() - KEPT;
        let folders = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
        for file in files.take(MOST_CLEARED) {
            if file.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| at < old) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn cache(root: &Path) -> Cache {
        Cache::new(root.join("cäche"), Millis::from_mins(60))
    }

    #[test]
    fn an_answer_is_fresh_for_its_time_and_remembered_after_it() {
        let root = tempfile::tempdir().expect("a folder");
        let cache = cache(root.path());
        assert_eq!(cache.get::<u32>("a", NOW), None);
        cache.put("a", &7_u32, NOW);
        let got = |after| cache.get::<u32>("a", NOW.after(Millis::from_mins(after))).expect("remembered");
        assert_eq!(got(59), Remembered { answer: 7, at: NOW, fresh: true });
        assert!(!got(60).fresh);
        assert_eq!(cache.get::<u32>("a", Timestamp(NOW.0 - 1)), None, "the clock was set back: its age is not known");
        assert_eq!(cache.get::<u32>("b", NOW), None);
    }

    #[test]
    fn what_is_broken_or_about_something_else_is_no_answer() {
        let root = tempfile::tempdir().expect("a folder");
        let cache = cache(root.path());
        cache.put("a", &7_u32, NOW);
        assert_eq!(cache.get::<String>("a", NOW), None);
        std::fs::create_dir_all(cache.file("b").parent().expect("a folder")).expect("made");
        std::fs::copy(cache.file("a"), cache.file("b")).expect("copied");
        assert_eq!(cache.get::<u32>("b", NOW), None);
        std::fs::write(cache.file("a"), "{\"question\"").expect("written");
        assert_eq!(cache.get::<u32>("a", NOW), None);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_trouble() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::write(root.path().join("file"), "").expect("written");
        let cache = Cache::new(root.path().join("file"), Millis::from_mins(60));
        cache.put("a", &7_u32, NOW);
        assert_eq!(cache.get::<u32>("a", NOW), None);
        cache.clear();
    }

    #[test]
    fn clearing_takes_what_is_old_and_leaves_the_rest() {
        let root = tempfile::tempdir().expect("a folder");
        let cache = cache(root.path());
        for question in ["old", "young"] {
            cache.put(question, &1_u32, NOW);
        }
        let long_ago = SystemTime::now() - KEPT - Duration::from_secs(60);
        let file = std::fs::File::options().write(true).open(cache.file("old")).expect("there");
        file.set_modified(long_ago).expect("set");
        cache.clear();
        assert_eq!((cache.get::<u32>("old", NOW).is_some(), cache.get::<u32>("young", NOW).is_some()), (false, true));
    }
}
