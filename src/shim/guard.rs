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
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout, getpid, getsid, setsid};
use orch_domain::job::{Containment, JobEnd, JobExit, OnLoss};
use orch_domain::time::Timestamp;

use crate::child::Recipe;
use crate::ending::{self, Ending, later};
use crate::logs::Output;
use crate::procs;
use crate::protocol::{Level, Phase, Reply, Request, Status, negotiate};
use crate::record::{Record, STDERR_FILE, STDOUT_FILE};
use crate::server::Server;
use crate::spec::{Announcement, ShimSpec, SpecError};
use crate::sys;

/// How often processes and memory are counted, when they are limited.
const COUNT_EVERY: Duration = Duration::from_millis(500);
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
    main: Option<Pid>,
    started: Option<Timestamp>,
    /// How the main process ended, when it did so before anybody else decided.
    own_end: Option<JobEnd>,
    main_gone: bool,
    /// Why we ended it; set once.
    cause: Option<JobEnd>,
    ending: Option<Ending>,
    wall_until: Instant,
    last_output: Instant,
    next_count: Instant,
    frozen_since: Option<Instant>,
    lost_since: Option<Instant>,
    nobody_left: bool,
}

/// Writes the one line that the supervisor waits for.
pub(crate) fn announce(announcement: &Announcement) {
    if let Ok(mut line) = serde_json::to_vec(announcement) {
        line.push(b'\n');
        let _ = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
    }
}

impl Guard {
    /// Reads the spec, becomes a guard, announces itself.
    pub(crate) fn set_up() -> Result<Self, SetUpError> {
        sys::close_on_exec_above_stderr()?;
        if getsid(None)? != getpid() {
            setsid()?;
        }
        prctl::set_child_subreaper(true)?;
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
            stdout: Output::create(&spec.dir.join(STDOUT_FILE), spec.limits.log_bytes)?,
            stderr: Output::create(&spec.dir.join(STDERR_FILE), spec.limits.log_bytes)?,
            record: Record::reserve(&spec.dir)?,
            buffer: Vec::new(),
            phase: Phase::Idle,
            go_until: later(now, spec.go_within.into()),
            main: None,
            started: None,
            own_end: None,
            main_gone: false,
            cause: None,
            ending: None,
            wall_until: now,
            last_output: now,
            next_count: now,
            frozen_since: None,
            lost_since: None,
            nobody_left: false,
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
            containment: Containment::Shim,
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
                if self.counts() {
                    at(self.next_count);
                }
            }
            Phase::Running | Phase::Ending | Phase::Over => {}
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

    const fn counts(&self) -> bool {
        self.spec.limits.processes.is_some() || self.spec.limits.memory_bytes.is_some()
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

    /// Waits for every process that ended; learns whether anybody is left.
    fn reap(&mut self) {
        if self.phase == Phase::Idle {
            return;
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.saw(pid, JobEnd::Exited { code }),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.saw(pid, JobEnd::Signalled { signal: signal as i32 });
                }
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                // A signal without a name (real-time): the status could not be decoded, but the process was reaped.
                Err(Errno::EINVAL) => {}
                Err(_) => {
                    self.nobody_left = true;
                    break;
                }
            }
        }
    }

    fn saw(&mut self, pid: Pid, end: JobEnd) {
        if Some(pid) == self.main && !self.main_gone {
            self.main_gone = true;
            self.own_end = Some(end);
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
            Request::Freeze => {
                self.frozen_since.get_or_insert(now);
                if ending::freeze() {
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
        let processes = procs::descendants(getpid().as_raw()).len();
        Status {
            phase: self.phase,
            main_pid: self.main.map(Pid::as_raw),
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
            ending::thaw();
        }
    }

    fn go(&mut self, now: Instant) {
        let launched = match &self.recipe {
            Ok(recipe) => recipe.launch(&self.spec),
            Err(why) => Err(why.clone()),
        };
        self.wall_until = later(now, self.spec.limits.wall.into());
        self.last_output = now;
        match launched {
            Ok(launched) => {
                self.phase = Phase::Running;
                self.main = Some(launched.pid);
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
                self.nobody_left = true;
            }
            Phase::Running | Phase::Ending => {
                if self.cause.is_none() && !self.main_gone {
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
        if self.main_gone {
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
        if self.counts() && now >= self.next_count {
            self.next_count = now + COUNT_EVERY;
            if let Some(what) = self.over_limit() {
                self.end(JobEnd::OverLimit { what }, Level::Kill, now);
            }
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

    fn over_limit(&self) -> Option<String> {
        let tree = procs::descendants(getpid().as_raw());
        if let Some(most) = self.spec.limits.processes
            && tree.len() as u64 > u64::from(most)
        {
            return Some(format!("{} processes, at most {most} are allowed", tree.len()));
        }
        let most = self.spec.limits.memory_bytes?;
        let bytes: u64 = tree.iter().map(|stat| stat.rss_pages).sum::<u64>() * page_size();
        (bytes > most).then(|| format!("{bytes} bytes of resident memory, at most {most} are allowed"))
    }

    fn drive_ending(&mut self, now: Instant) {
        if !self.nobody_left {
            let grace = self.spec.limits.grace.into();
            let ending = self.ending.get_or_insert_with(|| Ending::of_leftovers(grace, now));
            if self.main_gone {
                ending.hasten(now);
            }
            ending.round(now);
            let burst = ending.kills();
            while burst && !self.nobody_left && now.elapsed() < KILL_BURST {
                if let Some(ending) = &mut self.ending {
                    let again = Instant::now();
                    ending.hurry(again);
                    ending.round(again);
                }
                self.reap();
            }
        }
        if self.nobody_left {
            self.phase = Phase::Over;
        }
    }

    /// Takes the rest of the output, writes the record, tells everybody.
    fn close(mut self) -> io::Result<()> {
        let until = Instant::now() + DRAIN;
        while self.copy_output() > 0 && Instant::now() < until {}
        let end = self.cause.take().or_else(|| self.own_end.take()).unwrap_or(JobEnd::Lost);
        let exit = JobExit {
            end,
            started: self.started,
            ended: wall_clock(),
            proven_gone: true,
            swept: self.ending.as_ref().map_or(0, |ending| ending.swept(self.main.map(Pid::as_raw))),
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

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}
