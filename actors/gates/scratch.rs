//! The throw-away folder of one gate run: checkout, private folders, and the job that may be running in it.
//!
//! Owns its removal in every case: asked for, on a panic, and when the run's future is dropped. Invariant: a running job
//! is ended before its folder goes. Refuses to share: each run gets a name of its own. What a killed supervisor leaves
//! is found by its name (`<run>-<n>`) and removed by the reconciler.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use orch_adapters::jobs::RunningJob;
use orch_adapters::jobs::env::PrivateDirs;
use orch_adapters::ports::EndLevel;
use orch_domain::ids::RunId;

use crate::artefacts::discard;

/// More folders of one run than this are no accident.
const MOST: u32 = 10_000;

/// One folder, while it is needed.
pub(super) struct Scratch {
    inner: Option<Inner>,
}

struct Inner {
    root: PathBuf,
    job: Mutex<Option<RunningJob>>,
}

impl Scratch {
    /// Takes a fresh folder for a run below `checkouts`.
    pub(super) fn take(checkouts: &Path, run: &RunId) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(checkouts)?;
        for number in 1..=MOST {
            let root = checkouts.join(format!("{run}-{number}"));
            match DirBuilder::new().mode(0o700).create(&root) {
                Ok(()) => return Ok(Self { inner: Some(Inner { root, job: Mutex::default() }) }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{MOST} folders of run {run} are left in {}", checkouts.display())))
    }

    fn inner(&self) -> &Inner {
        self.inner.as_ref().expect("taken out only by close and drop, which consume it")
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.inner().root
    }

    /// Where the checkout goes; nothing is there yet.
    pub(super) fn tree(&self) -> PathBuf {
        self.root().join("tree")
    }

    /// The private folders; not made yet.
    pub(super) fn private(&self) -> PrivateDirs {
        PrivateDirs::under(&self.root().join("private"))
    }

    /// The job that runs in it now; a former one is over.
    pub(super) fn hold(&self, job: RunningJob) {
        *self.inner().job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
    }

    /// Ends what runs in it, waits for that, and removes it.
    pub(super) async fn close(mut self) {
        if let Some(inner) = self.inner.take() {
            inner.clear().await;
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(inner.clear())),
            // The program is going down; its gate jobs end by themselves when it is gone.
            Err(_) => discard(&inner.root),
        }
    }
}

impl Inner {
    async fn clear(self) {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(job) = job.filter(|job| !job.is_over()) {
            if let Err(error) = job.end(EndLevel::Term).await {
                tracing::warn!(job.id = %job.identity.job, %error, "a gate's job could not be told to end");
            }
            // How it ended is recorded by whoever watches it; here only that it is over counts.
            if let Err(error) = job.wait().await {
                tracing::warn!(job.id = %job.identity.job, %error, "the end of a gate's job was not seen");
            }
        }
        if tokio::task::spawn_blocking(move || discard(&self.root)).await.is_err() {
            tracing::warn!("the removal of a gate's folder was cut off; the reconciler will remove it");
        }
    }
}
