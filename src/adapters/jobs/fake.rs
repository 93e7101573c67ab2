//! Jobs that only pretend, for tests in virtual time.
//!
//! Owns a table of scripted jobs that keep the same promises as real ones: idle until `go`, an end that only rises,
//! logs and an identity. Timers are tokio's, so a paused clock drives them. Faults are part of the script.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orch_domain::ids::JobId;
use orch_domain::job::{Containment, Enforced, JobEnd, JobExit, JobIdentity};
use orch_domain::time::{Millis, Timestamp};
use orch_shim::record::{STDERR_FILE, STDOUT_FILE};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::ports::{Clock, EndLevel, JobError, JobSpec, Observed, Placement, SystemClock};

/// What a fake job does once it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FakeEnd {
    /// Exits by itself.
    Exits {
        /// Exit code.
        code: i32,
        /// How long it runs.
        after: Millis,
    },
    /// Runs until it is told to end; TERM suffices.
    Hangs,
    /// Runs until it is killed: TERM costs the whole grace.
    IgnoresTerm,
    /// The program cannot be executed.
    CouldNotStart {
        /// What the system says.
        why: String,
    },
    /// Its shim vanishes without a record.
    Lost {
        /// How long it runs before.
        after: Millis,
    },
}

/// One scripted job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeRun {
    /// Standard output, written when it goes.
    pub stdout: Vec<u8>,
    /// Standard error, written when it goes.
    pub stderr: Vec<u8>,
    /// How it ends.
    pub end: FakeEnd,
    /// A fault: `prepare` fails with this text.
    pub not_prepared: Option<String>,
}

impl FakeRun {
    /// Exits at once with a code and some output.
    #[must_use]
    pub fn exits(code: i32, stdout: impl Into<Vec<u8>>) -> Self {
        Self::ends(FakeEnd::Exits { code, after: Millis(0) }).saying(stdout)
    }

    /// Ends in the given way, without output.
    #[must_use]
    pub const fn ends(end: FakeEnd) -> Self {
        Self { stdout: Vec::new(), stderr: Vec::new(), end, not_prepared: None }
    }

    /// The same with this output.
    #[must_use]
    pub fn saying(mut self, stdout: impl Into<Vec<u8>>) -> Self {
        self.stdout = stdout.into();
        self
    }
}

#[derive(Clone, Debug)]
enum State {
    Idle,
    Running,
    Over(JobExit),
}

struct FakeJob {
    spec: JobSpec,
    run: FakeRun,
    state: watch::Sender<State>,
    asked: watch::Sender<Option<EndLevel>>,
    frozen: watch::Sender<bool>,
}

type Script = dyn Fn(&JobSpec) -> FakeRun + Send + Sync;

/// Plays jobs from a script.
pub struct FakePlacement {
    dir: PathBuf,
    script: Box<Script>,
    clock: Arc<dyn Clock>,
    jobs: Mutex<HashMap<JobId, Arc<FakeJob>>>,
}

impl FakePlacement {
    /// Plays `script`, with one folder per job below `dir`.
    pub fn new(dir: impl Into<PathBuf>, script: impl Fn(&JobSpec) -> FakeRun + Send + Sync + 'static) -> Self {
        Self { dir: dir.into(), script: Box::new(script), clock: Arc::new(SystemClock), jobs: Mutex::default() }
    }

    /// The same with another clock for the times in exit records.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Every spec that was prepared and is not over, for "nothing is left" checks.
    #[must_use]
    pub fn live(&self) -> Vec<JobSpec> {
        let live = |job: &&Arc<FakeJob>| !matches!(*job.state.borrow(), State::Over(_));
        self.jobs().values().filter(live).map(|job| job.spec.clone()).collect()
    }

    /// Every spec that was ever prepared, in no order.
    #[must_use]
    pub fn prepared(&self) -> Vec<JobSpec> {
        self.jobs().values().map(|job| job.spec.clone()).collect()
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Arc<FakeJob>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, job: &JobIdentity) -> Result<Arc<FakeJob>, JobError> {
        let unknown = || JobError::Unreachable { job: job.job.clone(), why: "this fake never knew it".to_owned() };
        self.jobs().get(&job.job).cloned().ok_or_else(unknown)
    }

    fn make_folder(&self, spec: &JobSpec) -> io::Result<PathBuf> {
        let dir = self.dir.join(spec.id.as_str());
        fs::create_dir_all(&self.dir)?;
        fs::create_dir(&dir)?;
        fs::write(dir.join(STDOUT_FILE), [])?;
        fs::write(dir.join(STDERR_FILE), [])?;
        Ok(dir)
    }
}

/// Plays one job from `go` to its end.
async fn play(job: Arc<FakeJob>, clock: Arc<dyn Clock>, started: Timestamp) {
    let limits = &job.spec.limits;
    let mut asked = job.asked.subscribe();
    // Frozen, it comes to no end of its own; its clocks go on all the same, so limits are not for tests of that.
    let mut frozen = job.frozen.subscribe();
    let own_end = async {
        let end = own_end(&job.run.end).await;
        let _ = frozen.wait_for(|frozen| !frozen).await.is_ok();
        end
    };
    let (end, by_itself) = tokio::select! {
        biased;
        end = own_end => (end, true),
        () = sleep(limits.wall.into()) => (JobEnd::TimedOut, false),
        () = stalled(limits.stall) => (JobEnd::Stalled, false),
        () = told(&mut asked, EndLevel::Term) => (JobEnd::Cancelled, false),
    };
    if !by_itself {
        end_it(&job).await;
    }
    let exit = JobExit {
        started: (!matches!(end, JobEnd::CouldNotStart { .. } | JobEnd::Lost)).then_some(started),
        end,
        ended: clock.now(),
        proven_gone: true,
        swept: 0,
        log_cut: false,
    };
    job.state.send_replace(State::Over(exit));
}

/// What the script says, in its time.
async fn own_end(end: &FakeEnd) -> JobEnd {
    match end {
        FakeEnd::Exits { code, after } => {
            sleep((*after).into()).await;
            JobEnd::Exited { code: *code }
        }
        FakeEnd::Lost { after } => {
            sleep((*after).into()).await;
            JobEnd::Lost
        }
        FakeEnd::CouldNotStart { why } => JobEnd::CouldNotStart { why: why.clone() },
        FakeEnd::Hangs | FakeEnd::IgnoresTerm => std::future::pending().await,
    }
}

async fn stalled(limit: Option<Millis>) {
    match limit {
        Some(limit) => sleep(limit.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits until the end was asked for at least this firmly.
async fn told(asked: &mut watch::Receiver<Option<EndLevel>>, level: EndLevel) {
    // The sender lives in the job, which its player holds.
    let _ = asked.wait_for(|asked| *asked >= Some(level)).await.is_ok();
}

/// TERM, and KILL after the grace if that is needed.
async fn end_it(job: &FakeJob) {
    if job.run.end == FakeEnd::IgnoresTerm {
        let grace: Duration = job.spec.limits.grace.into();
        let mut asked = job.asked.subscribe();
        tokio::select! {
            () = sleep(grace) => {}
            () = told(&mut asked, EndLevel::Kill) => {}
        }
    }
}

#[async_trait]
impl Placement for FakePlacement {
    async fn prepare(&self, spec: &JobSpec) -> Result<JobIdentity, JobError> {
        let run = (self.script)(spec);
        let not_started = |why: String| JobError::NotStarted { job: spec.id.clone(), why };
        if let Some(why) = run.not_prepared {
            return Err(not_started(why));
        }
        let dir = self.make_folder(spec).map_err(|error| not_started(error.to_string()))?;
        let job = FakeJob {
            spec: spec.clone(),
            run,
            state: watch::Sender::new(State::Idle),
            asked: watch::Sender::new(None),
            frozen: watch::Sender::new(false),
        };
        self.jobs().insert(spec.id.clone(), Arc::new(job));
        Ok(JobIdentity {
            job: spec.id.clone(),
            boot_id: "fake".to_owned(),
            pid: 1,
            start_ticks: 1,
            pgid: 1,
            cgroup: None,
            socket: dir.join("none.sock"),
            secret: "fake".to_owned(),
            dir,
            containment: Containment::Shim,
            enforced: Enforced::default(),
        })
    }

    async fn go(&self, identity: &JobIdentity) -> Result<(), JobError> {
        let job = self.find(identity)?;
        let was = job.state.borrow().clone();
        match was {
            State::Running => return Ok(()),
            State::Over(exit) if exit.started.is_some() => return Ok(()),
            State::Over(_) => {
                let why = "the job was ended before it began".to_owned();
                return Err(JobError::NotStarted { job: identity.job.clone(), why });
            }
            State::Idle => {}
        }
        let unwritable = |error: io::Error| JobError::Unreachable { job: identity.job.clone(), why: error.to_string() };
        fs::write(identity.dir.join(STDOUT_FILE), &job.run.stdout).map_err(unwritable)?;
        fs::write(identity.dir.join(STDERR_FILE), &job.run.stderr).map_err(unwritable)?;
        job.state.send_replace(State::Running);
        tokio::spawn(play(job, Arc::clone(&self.clock), self.clock.now()));
        Ok(())
    }

    async fn wait(&self, identity: &JobIdentity) -> Result<JobExit, JobError> {
        let job = self.find(identity)?;
        let mut state = job.state.subscribe();
        let over = state.wait_for(|state| matches!(state, State::Over(_))).await.map(|state| state.clone());
        match over {
            Ok(State::Over(exit)) => Ok(exit),
            _ => Err(JobError::Unreachable { job: identity.job.clone(), why: "the fake is gone".to_owned() }),
        }
    }

    async fn end(&self, identity: &JobIdentity, level: EndLevel) -> Result<(), JobError> {
        let job = self.find(identity)?;
        job.state.send_if_modified(|state| {
            let idle = matches!(state, State::Idle);
            if idle {
                *state = State::Over(JobExit {
                    end: JobEnd::Cancelled,
                    started: None,
                    ended: self.clock.now(),
                    proven_gone: true,
                    swept: 0,
                    log_cut: false,
                });
            }
            idle
        });
        job.asked.send_modify(|asked| *asked = (*asked).max(Some(level)));
        Ok(())
    }

    async fn freeze(&self, identity: &JobIdentity) -> Result<(), JobError> {
        let job = self.find(identity)?;
        if !matches!(*job.state.borrow(), State::Running) {
            return Err(JobError::Refused { job: identity.job.clone(), why: "it does not run".to_owned() });
        }
        job.frozen.send_replace(true);
        Ok(())
    }

    async fn thaw(&self, identity: &JobIdentity) -> Result<(), JobError> {
        self.find(identity)?.frozen.send_replace(false);
        Ok(())
    }

    async fn observe(&self, identity: &JobIdentity) -> Result<Observed, JobError> {
        let Ok(job) = self.find(identity) else {
            return Ok(Observed::Gone { evidence: "this fake never knew it".to_owned(), proven_gone: true });
        };
        let state = job.state.borrow().clone();
        Ok(match state {
            State::Idle => Observed::Idle,
            State::Running => Observed::Running,
            State::Over(JobExit { end: JobEnd::Lost, .. }) => {
                Observed::Gone { evidence: "scripted to be lost".to_owned(), proven_gone: true }
            }
            State::Over(exit) => Observed::Ended(exit),
        })
    }

    fn capabilities(&self) -> Vec<String> {
        vec!["fake: nothing is started".to_owned()]
    }

    fn stale_folders(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn clear_stale_folders(&self) -> usize {
        0
    }
}
