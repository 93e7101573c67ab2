//! Runs a job by the book: prepare, record, record that it goes, go, wait, record how it ended.
//!
//! Owns that order, and what becomes of a job when its caller goes away. [`Runner::run`] is for callers that need the
//! result: when its future is dropped, the job is told to end (TERM, grace, KILL), and its end is still recorded.
//! [`Runner::start`] is for owners that may be restarted: dropping a [`RunningJob`] changes nothing, the job goes on and
//! its end is recorded; ask for the end, or [`Runner::adopt`] it. Dropping the future of `start` itself ends the job,
//! since nobody has heard of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch_domain::ids::JobId;
use orch_domain::job::{JobEnd, JobExit, JobIdentity, JobRecord};
use orch_shim::record::{STDERR_FILE, STDOUT_FILE};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::ports::{Clock, EndLevel, JobError, JobLedger, JobSpec, Placement, SystemClock};

/// Waits between attempts to record an end; after the last the exit record on disk has to do.
const RECORD_AGAIN: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Starts jobs somewhere and records them somewhere.
#[derive(Clone)]
pub struct Runner {
    /// Where jobs run.
    pub placement: Arc<dyn Placement>,
    /// Where they are recorded.
    pub ledger: Arc<dyn JobLedger>,
    clock: Arc<dyn Clock>,
}

/// What has become of a started job.
#[derive(Clone, Debug)]
enum Progress {
    Running,
    Over {
        exit: JobExit,
        recorded: bool,
    },
    /// The owner is stale: the ledger refused the end.
    Refused(String),
    Unreachable(String),
}

/// A job that runs. Cloning gives another handle on the same job; dropping all of them lets it run on.
#[derive(Clone)]
pub struct RunningJob {
    /// How it is found.
    pub identity: JobIdentity,
    placement: Arc<dyn Placement>,
    progress: watch::Receiver<Progress>,
}

/// A job that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedJob {
    /// How it ended.
    pub exit: JobExit,
    /// Its folder: logs and exit record.
    pub dir: PathBuf,
    /// Whether its end is in the ledger. If not, the exit record in the folder is the only one there is.
    pub recorded: bool,
}

impl Runner {
    /// A runner with the system's clock.
    #[must_use]
    pub fn new(placement: Arc<dyn Placement>, ledger: Arc<dyn JobLedger>) -> Self {
        Self { placement, ledger, clock: Arc::new(SystemClock) }
    }

    /// The same with another clock, for virtual-time tests.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Runs a job to its end. Dropping the future ends the job.
    ///
    /// # Errors
    /// `NotStarted` and `Refused`: nothing has run. A job that ran is never an error, however it ended.
    pub async fn run(&self, spec: JobSpec) -> Result<FinishedJob, JobError> {
        let job = self.start(spec).await?;
        let mut guard = EndOnDrop(Some(job.clone()));
        let finished = job.wait().await;
        guard.0 = None;
        finished
    }

    /// Starts a job and returns as soon as it runs.
    ///
    /// # Errors
    /// `NotStarted` and `Refused`: nothing has run. `Unreachable`: it was ended again, but may have run for a moment.
    pub async fn start(&self, spec: JobSpec) -> Result<RunningJob, JobError> {
        self.start_noted(spec, None).await
    }

    /// The same, recorded with what its owner needs to go on with it after a restart.
    ///
    /// # Errors
    /// As [`Runner::start`].
    pub async fn start_noted(&self, spec: JobSpec, notes: Option<Value>) -> Result<RunningJob, JobError> {
        let (reply, answer) = oneshot::channel();
        let (runner, id) = (self.clone(), spec.id.clone());
        // Detached, so that a caller that goes away cannot leave a job between two steps.
        tokio::spawn(async move {
            if let Err(Ok(unheard)) = reply.send(runner.launch(spec, notes).await) {
                let _ = unheard.end(EndLevel::Term).await;
            }
        });
        answer.await.unwrap_or_else(|_| {
            Err(JobError::Unreachable { job: id, why: "its launch was cut off: the runtime is going down".to_owned() })
        })
    }

    /// Takes over a job that was started before, by this or an earlier supervisor.
    #[must_use]
    pub fn adopt(&self, identity: JobIdentity) -> RunningJob {
        self.attend(identity)
    }

    async fn launch(&self, spec: JobSpec, notes: Option<Value>) -> Result<RunningJob, JobError> {
        let identity = self.placement.prepare(&spec).await?;
        let record = JobRecord {
            identity: identity.clone(),
            kind: spec.kind,
            task: spec.task,
            run: spec.run,
            epoch: spec.epoch,
            label: spec.label,
            at: self.clock.now(),
            notes,
        };
        let recorded = match record.kind.ends_with_supervisor() {
            true => self.ledger.launched(record).await,
            false => {
                if let Err(error) = self.ledger.prepared(record).await {
                    // Not recorded, so nobody is told; the idle shim would leave by itself, this is only sooner.
                    let _ = self.placement.end(&identity, EndLevel::Kill).await;
                    return Err(error);
                }
                self.ledger.going(&identity.job).await
            }
        };
        let gone = match recorded {
            Ok(()) => self.placement.go(&identity).await,
            refused => refused,
        };
        let Err(error) = gone else { return Ok(self.attend(identity)) };
        // From here on the record may exist: it must not stay open.
        let _ = self.placement.end(&identity, EndLevel::Kill).await;
        if let Ok(exit) = self.placement.wait(&identity).await {
            let _ = self.record_end(&identity.job, &exit).await;
            // Lost is not known never to have run: it may have ended its guard within its first moments.
            if let (JobError::Unreachable { why, .. }, None, false) = (&error, exit.started, exit.end == JobEnd::Lost) {
                return Err(JobError::NotStarted { job: identity.job, why: why.clone() });
            }
        }
        Err(error)
    }

    /// Waits for the end in a task of its own, records it, then tells the handles.
    fn attend(&self, identity: JobIdentity) -> RunningJob {
        let (tell, progress) = watch::channel(Progress::Running);
        let runner = self.clone();
        let attended = identity.clone();
        tokio::spawn(async move {
            let outcome = match runner.placement.wait(&attended).await {
                Ok(exit) => match runner.record_end(&attended.job, &exit).await {
                    Err(JobError::Refused { why, .. }) => Progress::Refused(why),
                    recorded => Progress::Over { exit, recorded: recorded.is_ok() },
                },
                Err(error) => Progress::Unreachable(error.to_string()),
            };
            tell.send_replace(outcome);
        });
        RunningJob { identity, placement: Arc::clone(&self.placement), progress }
    }

    async fn record_end(&self, job: &JobId, exit: &JobExit) -> Result<(), JobError> {
        for pause in RECORD_AGAIN {
            match self.ledger.ended(job, exit).await {
                Ok(()) => return Ok(()),
                Err(refused @ JobError::Refused { .. }) => return Err(refused),
                Err(_) => tokio::time::sleep(pause).await,
            }
        }
        self.ledger.ended(job, exit).await.inspect_err(|error| {
            tracing::warn!(job.id = %job, %error, "the end of a job could not be recorded; reconciling will find it");
        })
    }
}

impl RunningJob {
    /// Asks for the end; [`RunningJob::wait`] tells when it is over.
    ///
    /// # Errors
    /// `Unreachable` when the shim lives but does not answer.
    pub async fn end(&self, level: EndLevel) -> Result<(), JobError> {
        self.placement.end(&self.identity, level).await
    }

    /// Waits until the job is over and that is recorded.
    ///
    /// # Errors
    /// `Refused` when the ledger says that the owner is stale; `Unreachable` when how it ended cannot be learnt.
    pub async fn wait(&self) -> Result<FinishedJob, JobError> {
        let job = || self.identity.job.clone();
        let mut progress = self.progress.clone();
        let reached = match progress.wait_for(|progress| !matches!(progress, Progress::Running)).await {
            Ok(reached) => reached.clone(),
            Err(_) => Progress::Unreachable("its watcher was cut off: the runtime is going down".to_owned()),
        };
        match reached {
            Progress::Over { exit, recorded } => Ok(FinishedJob { exit, dir: self.identity.dir.clone(), recorded }),
            Progress::Refused(why) => Err(JobError::Refused { job: job(), why }),
            Progress::Running => Err(JobError::Unreachable { job: job(), why: "it still runs".to_owned() }),
            Progress::Unreachable(why) => Err(JobError::Unreachable { job: job(), why }),
        }
    }

    /// Whether the job is over; the same fact as [`RunningJob::wait`], without waiting.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !matches!(*self.progress.borrow(), Progress::Running)
    }

    /// The growing log of standard output.
    #[must_use]
    pub fn stdout_path(&self) -> PathBuf {
        self.identity.dir.join(STDOUT_FILE)
    }

    /// The growing log of standard error.
    #[must_use]
    pub fn stderr_path(&self) -> PathBuf {
        self.identity.dir.join(STDERR_FILE)
    }
}

impl FinishedJob {
    /// Lets go of the folder when nobody will ask for it again: the job succeeded, its output was read, and its end is in
    /// the ledger. Everything else is left for a person to look at and for upkeep to remove in its time.
    pub(crate) fn let_go_of_folder(self) {
        if !self.exit.end.is_success() || !self.recorded {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::debug!(%error, "{} stays; upkeep removes it", self.dir.display());
        }
    }

    /// The log of standard output.
    #[must_use]
    pub fn stdout_path(&self) -> PathBuf {
        self.dir.join(STDOUT_FILE)
    }

    /// The log of standard error.
    #[must_use]
    pub fn stderr_path(&self) -> PathBuf {
        self.dir.join(STDERR_FILE)
    }

    /// The first `max` bytes of standard output, as they are.
    ///
    /// # Errors
    /// When the log cannot be read: that is not the same as no output.
    pub fn stdout_bytes(&self, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.stdout_path())?.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The first `max` bytes of standard output as text; what is not UTF-8 is replaced.
    ///
    /// # Errors
    /// As [`FinishedJob::stdout_bytes`].
    pub fn stdout(&self, max: u64) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.stdout_bytes(max)?).into_owned())
    }

    /// The first `max` bytes of standard error as text; what is not UTF-8 is replaced.
    ///
    /// # Errors
    /// As [`FinishedJob::stdout_bytes`].
    pub fn stderr(&self, max: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.stderr_path())?.take(max).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last `max` bytes of both outputs (standard error last), for findings: whole lines, with a note where
    /// something was left out.
    ///
    /// # Errors
    /// As [`FinishedJob::stdout_bytes`].
    pub fn tail(&self, max: u64) -> io::Result<String> {
        let error = last_lines(&self.stderr_path(), max)?;
        let left = max.saturating_sub(error.len() as u64);
        let output = last_lines(&self.stdout_path(), left.max(max / 2))?;
        Ok(match (output.is_empty(), error.is_empty()) {
            (_, true) => output,
            (true, false) => error,
            (false, false) => format!("{}\n--- stderr ---\n{error}", output.trim_end()),
        })
    }
}

fn last_lines(path: &Path, max: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(max);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if skipped == 0 {
        return Ok(text);
    }
    let whole = text.split_once('\n').map_or(text.as_str(), |(_, rest)| rest);
    Ok(format!("[{} earlier bytes are left out]\n{whole}", length - whole.len() as u64))
}

/// Ends a job when the future that waits for it is dropped.
struct EndOnDrop(Option<RunningJob>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let Some(job) = self.0.take() else { return };
        // Without a runtime the process is going down, and the shim notices that by itself.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = job.end(EndLevel::Term).await {
                    tracing::warn!(job.id = %job.identity.job, %error, "an abandoned job could not be told to end");
                }
            });
        }
    }
}
