//! The guard: one loop that waits for signals, output, clients and deadlines, and decides what happens to the job.
//!
//! Owns the life of one job: idle -> running -> ending -> over. Why it is ended is decided once, by whatever comes
//! first; the level only rises. Over is only what `waitpid` proves: nobody left. Time is counted by the monotonic clock
//! and stands still while the job is frozen.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout, getpid, getsid, setsid};
use orch_domain::job::{JobEnd, JobExit, OnLoss};
use orch_domain::time::Timestamp;

use crate::bounds::{self, Bounds};
use crate::child::Recipe;
use crate::ending::{self, Ending, later};
use crate::logs::Output;
use crate::procs;
use crate::protocol::{Level, Phase, Reply, Request, Status, negotiate};
use crate::record::{FirstProcess, Record, STDERR_FILE, STDOUT_FILE};
use crate::server::Server;
use crate::spec::{Announcement, Beyond, ShimSpec, SpecError};
use crate::sys;
use crate::tree::Tree;

/// How much rather than others a job is ended when the host is out of memory, in thousandths.
const SACRIFICED: &str = "300";
/// How often a full log is looked at again for room.
const ROOM_EVERY: Duration = Duration::from_millis(50);
/// How long kill rounds may follow each other before clients are looked at again.
const KILL_BURST: Duration = Duration::from_millis(20);
/// How long output is still taken after the last process is gone: somebody outside may hold the pipe.
const DRAIN: Duration = Duration::from_millis(500);
/// Longest sleep of the loop; only a safety net, every deadline wakes it.
const NAP: Duration = Duration::from_secs(30);

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("no protocol version in common with the supervisor's {theirs:?}")]
    Version { theirs: Vec<u32> },
    #[error("the shim could not be set up: {0}")]
    Io(#[from] io::Error),
    #[error("the shim could not be set up: {0}")]
    System(#[from] Errno),
}

/// One job and everything that holds it.
pub(crate) struct Guard {
    spec: ShimSpec,
    recipe: Result<Recipe, String>,
    server: Server,
    signals: SignalFd,
    stdout: Output,
    stderr: Output,
    record: Record,
    buffer: Vec<u8>,
    phase: Phase,
    /// Until when `go` must have come.
    go_until: Instant,
    started: Option<Timestamp>,
    tree: Tree,
    bounds: Bounds,
    /// Why we ended it; set once.
    cause: Option<JobEnd>,
    ending: Option<Ending>,
    wall_until: Instant,
    last_output: Instant,
    frozen_since: Option<Instant>,
    lost_since: Option<Instant>,
}

/// Writes the one line that the supervisor waits for.
pub(crate) fn announce(announcement: &Announcement) {
    // Who does not hear it gives up on this shim by himself.
    let _ = say(announcement);
}

/// Writes one line of JSON to standard output.
pub(crate) fn say(what: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    io::stdout().write_all(&line)?;
    io::stdout().flush()
}

impl Guard {
    /// Reads the spec, becomes a guard, announces itself.
    pub(crate) fn set_up() -> Result<Self, SetUpError> {
        sys::close_on_exec_above_stderr()?;
        if getsid(None)? != getpid() {
            setsid()?;
        }
        prctl::set_child_subreaper(true)?;
        // When memory runs out the kernel picks a job before the supervisor. Without the file it picks as it likes.
        let _ = std::fs::write("/proc/self/oom_score_adj", SACRIFICED);
        // Nobody of the same user reads the secret or the environment out of this process.
        prctl::set_dumpable(false)?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        umask(Mode::from_bits_truncate(0o077));
        let signals = take_signals()?;

        let mut body = File::from(memfd_create(c"orch-job-stdin", MFdFlags::MFD_CLOEXEC)?);
        let spec = ShimSpec::read(io::stdin().lock(), &mut body)?;
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&nothing)?;
        let stdin = if spec.stdin_len == 0 { nothing.try_clone()? } else { body };
        let version = negotiate(&spec.versions).ok_or_else(|| SetUpError::Version { theirs: spec.versions.clone() })?;

        let now = Instant::now();
        let recipe = Recipe::prepare(&spec, stdin);
        let guard = Self {
            server: Server::bind(&spec.socket, spec.secret.clone())?,
            signals,
            stdout: Output::create(&spec.dir.join(STDOUT_FILE), spec.limits.log_bytes, spec.limits.beyond)?,
            stderr: Output::create(&spec.dir.join(STDERR_FILE), spec.limits.log_bytes, Beyond::Cut)?,
            record: Record::reserve(&spec.dir)?,
            buffer: Vec::new(),
            phase: Phase::Idle,
            go_until: later(now, spec.go_within.into()),
            started: None,
            tree: Tree::default(),
            bounds: Bounds::of(&spec, now),
            cause: None,
            ending: None,
            wall_until: now,
            last_output: now,
            frozen_since: None,
            lost_since: None,
            recipe,
            spec,
        };
        let pid = getpid().as_raw();
        let me = procs::stat(pid).ok_or_else(|| io::Error::other("/proc does not show this process"))?;
        announce(&Announcement::Ready {
            version,
            pid,
            start_ticks: me.start_ticks,
            boot_id: procs::boot_id()?,
            pgid: me.pgid,
            landlock: guard.recipe.as_ref().map_or(0, Recipe::landlock),
        });
        dup2_stdout(&nothing)?;
        Ok(guard)
    }

    /// Guards until nothing of the job is left and the record is written.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while self.phase != Phase::Over {
            self.sleep()?;
            self.hear_signals();
            self.copy_output();
            let now = Instant::now();
            for (client, request) in self.server.serve(now) {
                let reply = self.answer(request, now);
                self.server.reply(client, &reply);
            }
            self.server.flush(now);
            self.decide(now);
        }
        self.close()
    }

    /// Waits for anything to happen, or for the next deadline.
    fn sleep(&self) -> io::Result<()> {
        let left = self.next_deadline().saturating_duration_since(Instant::now());
        // Rounded up: waking just before a deadline would spin.
        let millis = if left.is_zero() { 0 } else { left.min(NAP).as_millis() + 1 };
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::ZERO);
        let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        for output in [&self.stdout, &self.stderr] {
            descriptors.extend(output.descriptor().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        descriptors.extend(self.tree.descriptor().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        for (fd, writes) in self.server.descriptors() {
            let flags = if writes { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            descriptors.push(PollFd::new(fd, flags));
        }
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn next_deadline(&self) -> Instant {
        let mut next = Instant::now() + NAP;
        let mut at = |deadline: Instant| next = next.min(deadline);
        if let Some(due) = self.server.due() {
            at(due);
        }
        match self.phase {
            Phase::Idle => at(self.go_until),
            Phase::Running if self.frozen_since.is_none() => {
                at(self.wall_until);
                if let Some(stall) = self.spec.limits.stall {
                    at(later(self.last_output, stall.into()));
                }
                if let Some(due) = self.bounds.due(&self.spec.limits) {
                    at(due);
                }
            }
            Phase::Running | Phase::Ending | Phase::Over => {}
        }
        if self.stdout.is_full() {
            at(Instant::now() + ROOM_EVERY);
        }
        if let (Phase::Running, Some(since), OnLoss::Grace { grace }) = (self.phase, self.lost_since, self.spec.on_loss)
        {
            at(later(since, grace.into()));
        }
        if let Some(ending) = &self.ending {
            at(ending.due());
        }
        next
    }

    fn hear_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let child = i32::try_from(signal.ssi_signo).is_ok_and(|number| number == Signal::SIGCHLD as i32);
            // Somebody ends the host or the service. What must run on runs on; the rest is without supervisor now.
            if !child && self.spec.on_loss != OnLoss::RunOn {
                self.end(JobEnd::Orphaned, Level::Term, Instant::now());
            }
        }
        self.reap();
    }

    /// Learns who has ended.
    fn reap(&mut self) {
        if self.phase != Phase::Idle {
            self.tree.reap();
        }
    }

    fn copy_output(&mut self) -> usize {
        let count = self.stdout.copy(&mut self.buffer) + self.stderr.copy(&mut self.buffer);
        if count > 0 {
            self.last_output = Instant::now();
        }
        count
    }

    fn answer(&mut self, request: Request, now: Instant) -> Reply {
        match request {
            // Greetings are the server's business.
            Request::Hello { .. } | Request::Ping => Reply::Done,
            Request::Go => match self.phase {
                Phase::Idle => {
                    self.go(now);
                    Reply::Done
                }
                // Repeating is safe: a supervisor that lost the first reply asks again.
                Phase::Running | Phase::Ending if self.started.is_some() => Reply::Done,
                _ => Reply::Refused { why: "the job was ended before it began".to_owned() },
            },
            Request::Status => Reply::Status(self.status()),
            Request::End { level } => {
                self.end(JobEnd::Cancelled, level, now);
                Reply::Done
            }
            // One that is being ended has to hear the signals that end it.
            Request::Freeze if self.phase != Phase::Running => Reply::Refused { why: "it does not run".to_owned() },
            Request::Freeze => {
                self.frozen_since.get_or_insert(now);
                if ending::freeze(&self.tree) {
                    Reply::Done
                } else {
                    Reply::Refused { why: "the tree forks faster than it can be stopped".to_owned() }
                }
            }
            Request::Thaw => {
                self.thaw(now);
                Reply::Done
            }
        }
    }

    fn status(&self) -> Status {
        let processes = self.tree.living().len();
        Status {
            phase: self.phase,
            main_pid: self.tree.main(),
            processes: u32::try_from(processes).unwrap_or(u32::MAX),
            stdout_bytes: self.stdout.seen(),
            stderr_bytes: self.stderr.seen(),
            frozen: self.frozen_since.is_some(),
            landlock: self.recipe.as_ref().map_or(0, Recipe::landlock),
        }
    }

    /// The clocks of the job go on where they stood.
    fn thaw(&mut self, now: Instant) {
        if let Some(since) = self.frozen_since.take() {
            let pause = now.saturating_duration_since(since);
            self.wall_until += pause;
            self.last_output += pause;
            ending::thaw(&self.tree);
        }
    }

    fn go(&mut self, now: Instant) {
        let (spec, groups) = (&self.spec, &self.spec.groups);
        let launched = match &self.recipe {
            Ok(recipe) => recipe.launch(spec, |pid, is_born_there| {
                groups.join(pid.as_raw(), is_born_there)?;
                record_first(spec, pid).map_err(|error| format!("its first process could not be recorded: {error}"))
            }),
            Err(why) => Err(why.clone()),
        };
        self.wall_until = later(now, self.spec.limits.wall.into());
        self.last_output = now;
        match launched {
            Ok(launched) => {
                self.phase = Phase::Running;
                self.tree.begin(launched.main, launched.first);
                self.started = Some(wall_clock());
                // Without its pipe an output is only missing: the job is not to blame and goes on.
                let _ = self.stdout.attach(launched.stdout);
                let _ = self.stderr.attach(launched.stderr);
            }
            Err(why) => {
                self.phase = Phase::Ending;
                self.cause = Some(JobEnd::CouldNotStart { why });
            }
        }
        self.reap();
    }

    /// Begins to end the job, or ends it more firmly. The first reason stays; a main process that had already ended by
    /// itself keeps its own.
    fn end(&mut self, why: JobEnd, level: Level, now: Instant) {
        match self.phase {
            Phase::Idle => {
                self.cause = Some(why);
                self.phase = Phase::Ending;
                // Nothing was ever started, so nothing is left.
                self.tree.never_began();
            }
            Phase::Running | Phase::Ending => {
                if self.cause.is_none() && !self.tree.main_gone() {
                    self.cause = Some(why);
                }
                self.phase = Phase::Ending;
                self.thaw(now);
                let grace = self.spec.limits.grace.into();
                self.ending.get_or_insert_with(|| Ending::begin(level, grace, now)).raise(level, now);
            }
            Phase::Over => {}
        }
    }

    /// Looks at every deadline and at who is left.
    fn decide(&mut self, now: Instant) {
        self.reap();
        match self.phase {
            Phase::Idle if now >= self.go_until => {
                let why = format!("never told to begin: no `go` came within {}", self.spec.go_within);
                self.end(JobEnd::CouldNotStart { why }, Level::Kill, now);
            }
            Phase::Running => self.watch(now),
            Phase::Idle | Phase::Ending | Phase::Over => {}
        }
        if self.phase == Phase::Ending {
            self.drive_ending(now);
        }
    }

    fn watch(&mut self, now: Instant) {
        if self.tree.main_gone() {
            self.phase = Phase::Ending;
            return;
        }
        self.watch_supervisor(now);
        if self.frozen_since.is_some() || self.phase != Phase::Running {
            return;
        }
        if now >= self.wall_until {
            return self.end(JobEnd::TimedOut, Level::Term, now);
        }
        if self.spec.limits.stall.is_some_and(|stall| now >= later(self.last_output, stall.into())) {
            return self.end(JobEnd::Stalled, Level::Term, now);
        }
        if let Some(what) = self.bounds.over(&self.spec.limits, &self.tree, &self.spec.groups, now) {
            self.end(JobEnd::OverLimit { what }, Level::Kill, now);
        }
    }

    fn watch_supervisor(&mut self, now: Instant) {
        if self.server.is_supervised() {
            self.lost_since = None;
            return;
        }
        let since = *self.lost_since.get_or_insert(now);
        match self.spec.on_loss {
            OnLoss::End => {
                self.end(JobEnd::Orphaned, Level::Term, now);
                if let Some(ending) = &mut self.ending {
                    ending.hasten(now);
                }
            }
            OnLoss::Grace { grace } if now >= later(since, grace.into()) => {
                self.end(JobEnd::Orphaned, Level::Term, now);
            }
            OnLoss::Grace { .. } | OnLoss::RunOn => {}
        }
    }

    fn drive_ending(&mut self, now: Instant) {
        if !self.tree.is_gone() {
            let grace = self.spec.limits.grace.into();
            // Who was asked to end has the whole grace, also behind a shell that went at once; what a main process left
            // by itself does not.
            let ending = self.ending.get_or_insert_with(|| Ending::of_leftovers(grace, now));
            ending.round(&self.tree, &self.spec.groups, now);
            let burst = ending.kills();
            while burst && !self.tree.is_gone() && now.elapsed() < KILL_BURST {
                if let Some(ending) = &mut self.ending {
                    let again = Instant::now();
                    ending.hurry(again);
                    ending.round(&self.tree, &self.spec.groups, again);
                }
                self.reap();
            }
        }
        if self.tree.is_gone() {
            self.phase = Phase::Over;
        }
    }

    /// How it ended: our reason if we had one, else its own.
    fn outcome(&mut self) -> JobEnd {
        if let Some(cause) = self.cause.take() {
            return cause;
        }
        let own = self.tree.own_end().cloned();
        // A main process that the kernel ended for its memory looks like one that was killed by anybody.
        match (own, bounds::over_memory_kept_by_kernel(&self.spec.limits, &self.spec.groups)) {
            (Some(JobEnd::Signalled { .. }), Some(what)) => JobEnd::OverLimit { what },
            (own, _) => own.unwrap_or(JobEnd::Lost),
        }
    }

    /// Takes the rest of the output, writes the record, tells everybody.
    fn close(mut self) -> io::Result<()> {
        let until = Instant::now() + DRAIN;
        while self.stdout.take(&mut self.buffer) + self.stderr.take(&mut self.buffer) > 0 && Instant::now() < until {}
        let end = self.outcome();
        self.spec.groups.remove();
        let exit = JobExit {
            end,
            started: self.started,
            ended: wall_clock(),
            proven_gone: true,
            swept: self.ending.as_ref().map_or(0, |ending| ending.swept(self.tree.main())),
            log_cut: self.stdout.is_cut() || self.stderr.is_cut(),
        };
        let written = self.record.write(&self.spec.dir, &exit);
        // The folder entry goes first: who finds no socket any more finds the record.
        let _ = std::fs::remove_file(&self.spec.socket);
        self.server.serve(Instant::now());
        self.server.broadcast(&Reply::Ended { exit });
        self.server.flush(Instant::now());
        written
    }
}

/// Leaves the first process of the job's namespaces on record, for who comes when this shim is gone.
fn record_first(spec: &ShimSpec, pid: Pid) -> io::Result<()> {
    if spec.namespaces.is_none() {
        return Ok(());
    }
    let stat = procs::stat(pid.as_raw()).ok_or_else(|| io::Error::other("/proc does not show it"))?;
    FirstProcess { pid: stat.pid, start_ticks: stat.start_ticks }.write(&spec.dir)
}

/// All signals that can be caught come through a descriptor, so that the loop hears them between two steps.
fn take_signals() -> nix::Result<SignalFd> {
    let mut heard = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        heard.add(signal);
    }
    let mut blocked = heard;
    for signal in [Signal::SIGPIPE, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGTSTP] {
        blocked.add(signal);
    }
    blocked.thread_block()?;
    SignalFd::with_flags(&heard, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
