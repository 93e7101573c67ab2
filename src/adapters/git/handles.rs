//! Open handles on our own three repositories, kept for the next question.
//!
//! Owns how long: a landing asks some forty times within a tenth of a second, and opening (settings, packs, their indexes)
//! costs more than most answers. A handle is used by one question at a time, goes when an answer was an error, and
//! goes soon after the last question, with what the library remembers in it. Refuses every other repository: what may be
//! another one tomorrow, or somebody else's, is opened anew.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use git2::Repository;
use tokio::time::Instant;

/// How long a handle is kept.
const KEPT: Duration = Duration::from_secs(3);
/// Most of them at a time.
const MOST: usize = 6;

/// Handles that nobody uses right now. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Handles(Arc<Mutex<Idle>>);

#[derive(Default)]
struct Idle {
    handles: Vec<Handle>,
    /// Whether somebody comes to throw them away.
    watched: bool,
}

struct Handle {
    path: PathBuf,
    repo: Repository,
    opened: Instant,
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handles").finish_non_exhaustive()
    }
}

impl Handles {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle on the repository at `path` and when it was opened, if one is there that is not too old.
    pub(crate) fn take(&self, path: &Path) -> Option<(Repository, Instant)> {
        let mut idle = self.idle();
        let fresh = |handle: &Handle| handle.opened.elapsed() < KEPT && handle.path == path;
        let at = idle.handles.iter().position(fresh)?;
        let Handle { repo, opened, .. } = idle.handles.swap_remove(at);
        Some((repo, opened))
    }

    /// Keeps a handle for the next question. Whether somebody has to come and throw it away: see [`Self::watch`].
    pub(crate) fn keep(&self, path: PathBuf, repo: Repository, opened: Instant) -> bool {
        let mut idle = self.idle();
        if idle.handles.len() >= MOST || opened.elapsed() >= KEPT {
            return false;
        }
        idle.handles.push(Handle { path, repo, opened });
        !std::mem::replace(&mut idle.watched, true)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.idle().handles.len()
    }

    /// Throws away what has become too old, until nothing is left.
    pub(crate) async fn watch(self) {
        loop {
            tokio::time::sleep(KEPT).await;
            let mut idle = self.idle();
            idle.handles.retain(|handle| handle.opened.elapsed() < KEPT);
            if idle.handles.is_empty() {
                idle.watched = false;
                return;
            }
        }
    }
}
