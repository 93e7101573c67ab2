//! The throw-away folder of one gate run: checkout, private folders, and the job that may be running in it.
//!
//! Owns its removal in every case: asked for, on a panic, and when the run's future is dropped. Invariant: a running job
//! is ended before its folder goes, also one whose launch was still under way. Refuses to share: each run gets a name of its own. What a killed supervisor leaves
//! is found by its name (`<run>-<n>`) and removed by the reconciler.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orch_adapters::jobs::env::PrivateDirs;
use orch_adapters::jobs::{Runner, RunningJob};
use orch_adapters::ports::{EndLevel, JobError, JobSpec};
use orch_domain::ids::RunId;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::artefacts::discard;

/// More folders of one run than this are no accident.
const MOST: u32 = 10_000;

/// One folder, while it is needed.
pub(super) struct Scratch {
    inner: Option<Inner>,
}

struct Inner {
    root: PathBuf,
    /// The job that runs in it; a former one is over.
    job: Arc<Mutex<Option<RunningJob>>>,
    /// The launch of that job, which may not have come to its end yet.
    launch: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scratch {
    /// Takes a fresh folder for a run below `checkouts`.
    pub(super) fn take(checkouts: &Path, run: &RunId) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(checkouts)?;
        for number in 1..=MOST {
            let root = checkouts.join(format!("{run}-{number}"));
            match DirBuilder::new().mode(0o700).create(&root) {
                Ok(()) => {
                    let (job, launch) = (Arc::default(), Mutex::default());
                    return Ok(Self { inner: Some(Inner { root, job, launch }) });
                }
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

    /// Starts a job in it, and holds it: whoever waits here may go away at any moment, also between the order to begin
    /// and the answer that it has.
    ///
    /// # Errors
    /// As [`Runner::start`].
    pub(super) async fn launch(&self, runner: &Runner, spec: JobSpec) -> Result<RunningJob, JobError> {
        let (tell, told) = oneshot::channel();
        let (runner, id, held) = (runner.clone(), spec.id.clone(), Arc::clone(&self.inner().job));
        let launch = tokio::spawn(async move {
            let started = runner.start(spec).await;
            if let Ok(job) = &started {
                *lock(&held) = Some(job.clone());
            }
            let _ = tell.send(started);
        });
        *lock(&self.inner().launch) = Some(launch);
        let broken_off = |_| {
            let why = "its launch broke off: the runtime is going down".to_owned();
            Err(JobError::Unreachable { job: id, why })
        };
        told.await.unwrap_or_else(broken_off)
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
        let launch = lock(&self.launch).take();
        if let Some(launch) = launch {
            // It has deadlines of its own.
            let _ = launch.await;
        }
        let job = lock(&self.job).take();
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
