//! Jobs on this host, each under a shim of its own.
//!
//! Owns the launch (folder, secret, socket, spec over standard input), the held connections, and the rule by which a
//! job is found again: its socket, else its exit record, else its shim by (boot, pid, start time), else the remains.
//! Refuses to act on a bare pid, and to guess: a shim that lives but does not answer is `Unreachable`.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use orch_domain::ids::JobId;
use orch_domain::job::{JobEnd, JobExit, JobIdentity};
use orch_domain::time::Millis;
use orch_domain::variables;
use orch_shim::procs;
use orch_shim::protocol::{Level, Phase, Reply, Request, VERSIONS};
use orch_shim::record::{SHIM_FILE, read_exit};
use orch_shim::spec::{Announcement, Confine, Limits, ShimSpec};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use super::containment::{Held, Holding, Means};
use super::link::{Link, LinkState};
use super::orphans;
use super::runtime_dir::RuntimeDir;
use super::{spawner, user_room};
use crate::ports::{Beyond, Clock, EndLevel, JobError, JobSpec, Observed, Placement, SystemClock};

/// How long a shim waits for `go`.
const GO_WITHIN: Millis = Millis(5_000);
/// How long a shim may take to announce itself, on a loaded host and with a large standard input.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Longest socket path that every system takes, with room to spare.
const SOCKET_PATH_MAX: usize = 100;
/// Bytes of a socket's file name, with its slash.
const SOCKET_NAME: usize = 1 + 16 + 5;
/// Between two looks at a shim that lives but does not answer.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often an unanswered `end` is repeated before the shim is called unreachable.
const END_TRIES: u32 = 3;

/// Where a placement keeps its things and how it starts shims.
#[derive(Clone, Debug)]
pub struct LocalPlacementConfig {
    /// Program that can be a shim; normally `/proc/self/exe`, so that an upgrade on disk does not mix versions.
    pub shim_program: PathBuf,
    /// Arguments that make it one; normally `shim`.
    pub shim_args: Vec<String>,
    /// One folder per job is made here: logs and exit record. Belongs to the supervisor alone.
    pub jobs_dir: PathBuf,
    /// Folder for sockets; its path must be short (at most 77 bytes).
    pub runtime_dir: PathBuf,
    /// Which of the host's means to hold jobs are used.
    pub means: Means,
}

impl LocalPlacementConfig {
    /// A configuration in which this very program is the shim.
    #[must_use]
    pub fn new(jobs_dir: impl Into<PathBuf>, runtime_dir: impl Into<PathBuf>) -> Self {
        Self {
            shim_program: PathBuf::from("/proc/self/exe"),
            shim_args: vec!["shim".to_owned()],
            jobs_dir: jobs_dir.into(),
            runtime_dir: runtime_dir.into(),
            means: Means::default(),
        }
    }
}

/// Why a placement cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// Sockets would not fit.
    #[error(
        "the runtime folder `{dir}` is too long for socket names: {length} bytes, at most {most}; \
         choose a shorter one, for example /run/orch or a folder in $XDG_RUNTIME_DIR"
    )]
    RuntimeDirTooLong {
        /// The folder.
        dir: PathBuf,
        /// Its length.
        length: usize,
        /// What fits.
        most: usize,
    },
    /// A folder cannot be made private.
    #[error("folder `{dir}` cannot be used for jobs: {error}")]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Starts and finds jobs on this host.
pub struct LocalPlacement {
    config: LocalPlacementConfig,
    sockets: RuntimeDir,
    holding: Holding,
    held: Mutex<HashMap<JobId, Arc<Link>>>,
}

impl LocalPlacement {
    /// Makes the folders (private to this user) and checks that sockets fit.
    ///
    /// # Errors
    /// See [`PlacementError`].
    pub fn new(mut config: LocalPlacementConfig) -> Result<Self, PlacementError> {
        let dir = &mut config.jobs_dir;
        let failed = |error| PlacementError::Folder { dir: dir.clone(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(&*dir).map_err(failed)?;
        fs::set_permissions(&*dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        *dir = fs::canonicalize(&*dir).map_err(failed)?;
        let failed = |error| PlacementError::Folder { dir: config.runtime_dir.clone(), error };
        let sockets = RuntimeDir::take(&config.runtime_dir).map_err(failed)?;
        config.runtime_dir = sockets.path().to_owned();
        let length = config.runtime_dir.as_os_str().as_bytes().len();
        let most = SOCKET_PATH_MAX - SOCKET_NAME - 1;
        if length > most {
            return Err(PlacementError::RuntimeDirTooLong { dir: config.runtime_dir, length, most });
        }
        let (program, args) = (&config.shim_program, &config.shim_args);
        let holding = Holding::look(program, args, config.means, &config.jobs_dir, &config.runtime_dir);
        Ok(Self { config, sockets, holding, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Link>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The supervising connection of a job, made anew when there is none.
    async fn hold(&self, job: &JobIdentity) -> io::Result<Arc<Link>> {
        let known = self.held().get(&job.job).cloned();
        if let Some(link) = known.filter(|link| link.is_open()) {
            return Ok(link);
        }
        let link = Arc::new(Link::connect(&job.socket, &job.secret, true).await?);
        let mut held = self.held();
        held.retain(|_, link| link.is_open());
        held.insert(job.job.clone(), Arc::clone(&link));
        Ok(link)
    }

    /// Tells a shim something that it does or refuses at once.
    async fn tell(&self, job: &JobIdentity, request: Request) -> Result<(), JobError> {
        let unreachable = |why: String| JobError::Unreachable { job: job.job.clone(), why };
        let link = self.hold(job).await.map_err(|error| unreachable(error.to_string()))?;
        match link.ask(request).await {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::Refused { why }) => Err(JobError::Refused { job: job.job.clone(), why }),
            Ok(other) => Err(unreachable(format!("it said {other:?}"))),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }

    fn let_go(&self, job: &JobId) {
        self.held().remove(job);
        if let Some(users) = &self.holding.users {
            users.give_back(job);
        }
    }

    /// The same job as a user of its own, with its folders, where users are given.
    async fn as_own_user(&self, spec: &JobSpec, dir: &Path) -> io::Result<Option<JobSpec>> {
        let Some(users) = self.holding.users.as_ref().filter(|_| user_room::is_for(spec)) else { return Ok(None) };
        let uid = users.take(&spec.id, dir)?;
        let mut own = spec.clone();
        own.confinement.uid = Some(uid);
        let confinement = own.confinement.clone();
        let given = tokio::task::spawn_blocking(move || user_room::give_folders(&confinement, uid)).await;
        given.map_err(io::Error::other).flatten().map(|()| Some(own)).inspect_err(|_| users.give_back(&spec.id))
    }

    async fn launch(&self, spec: &JobSpec, dir: &Path) -> io::Result<JobIdentity> {
        self.sockets.ensure()?;
        let own = self.as_own_user(spec, dir).await?;
        let spec = own.as_ref().unwrap_or(spec);
        let secret = random_hex::<32>()?;
        let socket = self.config.runtime_dir.join(format!("{}.sock", random_hex::<8>()?));
        let held = self.holding.prepare(spec);
        let launched = self.start_shim(spec, dir, &order(spec, dir, &socket, &secret, &held)).await;
        let (pid, start_ticks, boot_id, pgid) = launched.inspect_err(|_| {
            held.groups.remove();
        })?;
        Ok(JobIdentity {
            job: spec.id.clone(),
            boot_id,
            pid,
            start_ticks,
            pgid,
            cgroup: held.groups.0.first().map(|group| group.dir.clone()),
            socket,
            secret,
            dir: dir.to_owned(),
            containment: held.containment,
            enforced: held.enforced,
        })
    }

    /// Starts the shim and hears that it is ready: process id, start time, boot, group.
    async fn start_shim(&self, spec: &JobSpec, dir: &Path, order: &ShimSpec) -> io::Result<(i32, u64, String, i32)> {
        let mut command = Command::new(&self.config.shim_program);
        command
            .args(&self.config.shim_args)
            // Nothing of the supervisor's environment: it may hold secrets.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(SHIM_FILE))?);
        let started = spawner::start(command).await.map_err(|error| {
            io::Error::new(error.kind(), format!("shim `{}`: {error}", self.config.shim_program.display()))
        })?;
        let (pid, stdin, stdout) = (started.pid, started.stdin, started.stdout);
        let ready = timeout(READY_WITHIN, brief(stdin, stdout, order, &spec.stdin));
        let ready = ready.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it says nothing")));
        match ready {
            Ok(Announcement::Ready { pid, start_ticks, boot_id, pgid, .. }) => Ok((pid, start_ticks, boot_id, pgid)),
            Ok(Announcement::Unusable { why }) => Err(io::Error::other(why)),
            Err(error) => {
                if let Some(stat) = procs::stat(pid).filter(|stat| stat.ppid == nix::unistd::getpid().as_raw()) {
                    procs::signal_same(pid, stat.start_ticks, Signal::SIGKILL);
                }
                let said = fs::read_to_string(dir.join(SHIM_FILE)).unwrap_or_default();
                let said = said.trim().chars().take(500).collect::<String>();
                Err(io::Error::new(error.kind(), format!("the shim did not get ready: {error}; it wrote: {said:?}")))
            }
        }
    }

    /// How the job ended, if that is on record.
    fn recorded(job: &JobIdentity) -> Option<JobExit> {
        read_exit(&job.dir)
            .inspect_err(|error| tracing::warn!(job.id = %job.job, %error, "the exit record is unreadable"))
            .ok()
            .flatten()
    }

    /// The end of a job whose shim is gone: its record after all, or `Lost`, with its remains ended.
    async fn bury(&self, job: &JobIdentity) -> Result<JobExit, orphans::Swept> {
        self.let_go(&job.job);
        // The shim may have written its record and left between our two looks.
        if let Some(exit) = Self::recorded(job) {
            return Ok(exit);
        }
        let identity = job.clone();
        let swept = tokio::task::spawn_blocking(move || orphans::sweep(&identity)).await;
        let _ = fs::remove_file(&job.socket);
        self.holding.forget(&job.job);
        Err(swept.unwrap_or_else(|error| orphans::Swept {
            ended: 0,
            evidence: format!("shim {} is gone without a record; the sweep failed: {error}", job.pid),
            proven_gone: false,
        }))
    }
}

/// Whether the very shim that was recorded still lives.
fn shim_lives(job: &JobIdentity) -> bool {
    procs::boot_id().is_ok_and(|now| now == job.boot_id) && procs::is_same(job.pid, job.start_ticks)
}

/// Lets a stopped shim go on: an unconfined job of the same user may have stopped it.
fn wake(job: &JobIdentity) {
    if procs::stat(job.pid).is_some_and(|stat| stat.state == 'T') && shim_lives(job) {
        procs::signal_same(job.pid, job.start_ticks, Signal::SIGCONT);
    }
}

/// Ends a job whose socket somebody has removed (a tidied `/tmp`, a session that ended): its shim takes TERM for an order
/// to end, with the job's own grace; killed, its remains are swept. Only the very shim that was recorded is signalled.
fn signal_shim(job: &JobIdentity, level: Level) -> bool {
    let signal = match level {
        Level::Term => Signal::SIGTERM,
        Level::Kill => Signal::SIGKILL,
    };
    let told = shim_lives(job) && procs::signal_same(job.pid, job.start_ticks, signal);
    if told {
        tracing::warn!(job.id = %job.job, "the socket of job {} is gone: its guard {} was sent {signal}", job.job, job.pid);
    }
    told
}

/// Sends the order and the child's standard input, and hears the announcement.
async fn brief(
    stdin: std::process::ChildStdin,
    stdout: std::process::ChildStdout,
    order: &ShimSpec,
    body: &[u8],
) -> io::Result<Announcement> {
    let mut stdin = pipe::Sender::from_owned_fd(stdin.into())?;
    let mut stdout = BufReader::new(pipe::Receiver::from_owned_fd(stdout.into())?);
    let line = order.to_line()?;
    // A shim that refuses stops reading; its reason is still to be heard.
    let sent = async {
        stdin.write_all(&line).await?;
        stdin.write_all(body).await
    };
    let sent = sent.await;
    drop(stdin);
    let mut said = String::new();
    stdout.read_line(&mut said).await?;
    if said.is_empty() {
        sent?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&said).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn order(spec: &JobSpec, dir: &Path, socket: &Path, secret: &str, held: &Held) -> ShimSpec {
    let mut env: BTreeMap<String, String> = spec.env.clone();
    env.insert(variables::JOB.to_owned(), spec.id.to_string());
    ShimSpec {
        versions: VERSIONS.to_vec(),
        job: spec.id.clone(),
        dir: dir.to_owned(),
        socket: socket.to_owned(),
        secret: secret.to_owned(),
        go_within: GO_WITHIN,
        argv: spec.argv.clone(),
        cwd: spec.cwd.clone(),
        env,
        stdin_len: spec.stdin.len() as u64,
        limits: Limits {
            wall: spec.limits.wall,
            stall: spec.limits.stall,
            grace: spec.limits.grace,
            log_bytes: spec.limits.log_bytes,
            beyond: match spec.limits.beyond {
                Beyond::Cut => orch_shim::spec::Beyond::Cut,
                Beyond::Roll => orch_shim::spec::Beyond::Roll,
            },
            processes: spec.limits.processes,
            memory_bytes: spec.limits.memory_bytes,
            cpu_time: spec.limits.cpu_time,
            open_files: spec.limits.open_files,
            disk_bytes: spec.limits.disk_bytes,
        },
        confinement: Confine {
            enforced: spec.confinement.enforced,
            write: spec.confinement.write.clone(),
            read: spec.confinement.read.clone(),
            deny: spec.confinement.deny.clone(),
            uid: spec.confinement.uid,
        },
        namespaces: held.namespaces.clone(),
        groups: held.groups.clone(),
        on_loss: spec.on_loss,
    }
}

fn random_hex<const BYTES: usize>() -> io::Result<String> {
    let mut bytes = [0_u8; BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex::encode(bytes))
}

#[async_trait]
impl Placement for LocalPlacement {
    async fn prepare(&self, spec: &JobSpec) -> Result<JobIdentity, JobError> {
        let not_started = |why: String| JobError::NotStarted { job: spec.id.clone(), why };
        let dir = self.config.jobs_dir.join(spec.id.as_str());
        DirBuilder::new().mode(0o700).create(&dir).map_err(|error| {
            not_started(format!("folder `{}` cannot be made, was the id used before? {error}", dir.display()))
        })?;
        let failed = match self.launch(spec, &dir).await {
            Ok(identity) => match self.hold(&identity).await {
                Ok(_) => return Ok(identity),
                Err(error) => {
                    // It is idle: nothing has been started that could be left behind.
                    procs::signal_same(identity.pid, identity.start_ticks, Signal::SIGKILL);
                    format!("its shim cannot be reached: {error}")
                }
            },
            Err(error) => error.to_string(),
        };
        self.let_go(&spec.id);
        // Nothing ran, so the same id may be tried again.
        let _ = fs::remove_dir_all(&dir);
        Err(not_started(failed))
    }

    async fn go(&self, job: &JobIdentity) -> Result<(), JobError> {
        let not_started = |why: String| JobError::NotStarted { job: job.job.clone(), why };
        let answer = match self.hold(job).await {
            Ok(link) => link.ask(Request::Go).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::Refused { why }) => Err(not_started(why)),
            Ok(other) => Err(JobError::Unreachable { job: job.job.clone(), why: format!("it said {other:?}") }),
            Err(error) => match Self::recorded(job) {
                // A short job may be over before its `go` was answered.
                Some(exit) if exit.started.is_some() => Ok(()),
                Some(exit) => Err(not_started(exit.end.to_string())),
                None => Err(JobError::Unreachable { job: job.job.clone(), why: error.to_string() }),
            },
        }
    }

    async fn wait(&self, job: &JobIdentity) -> Result<JobExit, JobError> {
        loop {
            if let Ok(link) = self.hold(job).await
                && let LinkState::Ended(exit) = link.over().await
            {
                self.let_go(&job.job);
                return Ok(*exit);
            }
            if let Some(exit) = Self::recorded(job) {
                self.let_go(&job.job);
                return Ok(exit);
            }
            if !shim_lives(job) {
                return Ok(self.bury(job).await.unwrap_or_else(|swept| {
                    tracing::warn!(job.id = %job.job, evidence = swept.evidence, "a shim was lost");
                    JobExit {
                        end: JobEnd::Lost,
                        started: None,
                        ended: SystemClock.now(),
                        proven_gone: swept.proven_gone,
                        swept: swept.ended,
                        log_cut: false,
                    }
                }));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn end(&self, job: &JobIdentity, level: EndLevel) -> Result<(), JobError> {
        let level = match level {
            EndLevel::Term => Level::Term,
            EndLevel::Kill => Level::Kill,
        };
        let mut last = String::new();
        for _ in 0..END_TRIES {
            wake(job);
            let mut doorless = false;
            match self.hold(job).await {
                Ok(link) => match link.ask(Request::End { level }).await {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error.to_string(),
                },
                Err(error) => {
                    doorless = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
                    last = error.to_string();
                }
            }
            if Self::recorded(job).is_some() {
                return Ok(());
            }
            if !shim_lives(job) {
                let _ = self.bury(job).await;
                return Ok(());
            }
            if doorless && signal_shim(job, level) {
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
        }
        Err(JobError::Unreachable { job: job.job.clone(), why: last })
    }

    async fn freeze(&self, job: &JobIdentity) -> Result<(), JobError> {
        self.tell(job, Request::Freeze).await
    }

    async fn thaw(&self, job: &JobIdentity) -> Result<(), JobError> {
        self.tell(job, Request::Thaw).await
    }

    async fn observe(&self, job: &JobIdentity) -> Result<Observed, JobError> {
        wake(job);
        let known = self.held().get(&job.job).cloned().filter(|link| link.is_open());
        let link = match known {
            Some(link) => Ok(link),
            None => Link::connect(&job.socket, &job.secret, false).await.map(Arc::new),
        };
        let answer = match link {
            Ok(link) => link.ask(Request::Status).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Reply::Status(status)) if status.phase == Phase::Idle => return Ok(Observed::Idle),
            Ok(Reply::Status(_)) => return Ok(Observed::Running),
            _ => {}
        }
        if let Some(exit) = Self::recorded(job) {
            return Ok(Observed::Ended(exit));
        }
        if shim_lives(job) {
            let why = format!("shim {} lives, but: {answer:?}", job.pid);
            return Err(JobError::Unreachable { job: job.job.clone(), why });
        }
        Ok(match self.bury(job).await {
            Ok(exit) => Observed::Ended(exit),
            Err(swept) => Observed::Gone { evidence: swept.evidence, proven_gone: swept.proven_gone },
        })
    }

    fn capabilities(&self) -> Vec<String> {
        self.holding.describe()
    }

    fn stale_folders(&self) -> Vec<PathBuf> {
        self.sockets.stale()
    }

    fn clear_stale_folders(&self) -> usize {
        self.sockets.clear_stale()
    }
}
