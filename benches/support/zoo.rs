//! The zoo of escapes as programs: this bench started again as an animal of each kind, and the keeper who counts them.
//!
//! Owns what each kind does at TERM, the stamps by which it is seen (`out-*` once it is ready, `exit-*` just before it
//! leaves by itself), and the count of what is left: by a mark in the environment, and for the hydra by whether it grows.

use std::error::Error;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, setsid};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The variable that marks all that belongs to one start.
pub(crate) const MARK: &str = "ORCH_BENCH_ZOO";
/// What an obeying process does between TERM and its exit: the main one, and the slowest.
const WINDING_UP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(60));
/// Longest wait for an animal.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a hydra is watched: it grows by several heads in that time if it lives.
const WATCHED: Duration = Duration::from_millis(60);
const HYDRA: &str = "echo x >> heads\nsh \"$0\" &\n";

/// The kinds of `research/runtime.md`, B.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One process that obeys.
    Plain,
    /// It and a child of its own group obey.
    Grandchild,
    /// It and a child in a session of its own obey.
    Session,
    /// One process that ignores TERM.
    Stubborn,
    /// A double fork with a session of its own that ignores TERM and HUP.
    Daemon,
    /// The same; who started it has left.
    DaemonExit,
    /// Each process forks its successor and leaves, in a session of its own.
    Hydra,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 7] =
        [Self::Plain, Self::Grandchild, Self::Session, Self::Stubborn, Self::Daemon, Self::DaemonExit, Self::Hydra];

    /// Whether all of it ends by itself at TERM.
    pub(crate) const fn obeys(self) -> bool {
        matches!(self, Self::Plain | Self::Grandchild | Self::Session)
    }

    /// Its name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Grandchild => "grandchild",
            Self::Session => "session",
            Self::Stubborn => "stubborn",
            Self::Daemon => "daemon",
            Self::DaemonExit => "daemon-exit",
            Self::Hydra => "hydra",
        }
    }

    /// Processes that have to be out before it counts.
    const fn processes(self) -> usize {
        match self {
            Self::Plain | Self::Stubborn | Self::DaemonExit | Self::Hydra => 1,
            Self::Grandchild | Self::Session | Self::Daemon => 2,
        }
    }
}

/// The command line that is this animal, at home in `dir`.
pub(crate) fn argv(kind: &str, dir: &Path) -> Fallible<Vec<String>> {
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    Ok(vec![program, "animal".to_owned(), kind.to_owned(), dir.to_string_lossy().into_owned()])
}

/// An animal's life.
pub(crate) fn live(kind: &str, dir: &Path) -> ExitCode {
    match behave(kind, dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever waits for it to be out finds this instead.
            let _ = fs::write(dir.join("failed"), format!("{kind}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn behave(kind: &str, dir: &Path) -> Fallible<()> {
    let mut heard = SigSet::empty();
    heard.add(Signal::SIGTERM);
    heard.add(Signal::SIGHUP);
    heard.thread_block()?;
    let obey = |winding_up| -> Fallible<()> {
        out(dir)?;
        while heard.wait()? != Signal::SIGTERM {}
        pause(winding_up);
        fs::write(stamp(dir, "exit"), now_ns().to_string())?;
        Ok(())
    };
    let child = |kind: &str| -> Fallible<std::process::Child> {
        let line = argv(kind, dir)?;
        let mut command = Command::new(&line[0]);
        Ok(command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    };
    match kind {
        "stamp" => fs::write(dir.join("exec"), now_ns().to_string())?,
        "plain" => obey(WINDING_UP.0)?,
        "grandchild" => {
            child("slow")?;
            obey(WINDING_UP.0)?;
        }
        "session" => {
            child("slow-session")?;
            obey(WINDING_UP.0)?;
        }
        "slow" => obey(WINDING_UP.1)?,
        "slow-session" => {
            setsid()?;
            obey(WINDING_UP.1)?;
        }
        "stubborn" => deaf(dir)?,
        "daemon" => {
            child("fork")?.wait()?;
            obey(WINDING_UP.0)?;
        }
        "daemon-exit" => {
            child("fork")?.wait()?;
            until("the daemon", || Ok(outs(dir) > 0))?;
        }
        "fork" => {
            setsid()?;
            child("stubborn")?;
        }
        "hydra" => {
            let heads = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join("hydra"));
            std::io::Write::write_all(&mut heads?, HYDRA.as_bytes())?;
            Command::new("setsid").args(["sh", "./hydra"]).current_dir(dir).spawn()?.wait()?;
            obey(WINDING_UP.0)?;
        }
        other => return Err(format!("there is no animal `{other}`").into()),
    }
    Ok(())
}

/// Both signals are blocked and nobody waits for them.
fn deaf(dir: &Path) -> Fallible<()> {
    out(dir)?;
    loop {
        pause(Duration::from_secs(600));
    }
}

fn stamp(dir: &Path, what: &str) -> PathBuf {
    dir.join(format!("{what}-{}", std::process::id()))
}

fn out(dir: &Path) -> Fallible<()> {
    Ok(fs::write(stamp(dir, "out"), "")?)
}

fn outs(dir: &Path) -> usize {
    named(dir, "out-").len()
}

fn named(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path()).collect()
}

/// Nanoseconds since the epoch: one clock for all processes.
pub(crate) fn now_ns() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

/// A time that a process has written down.
pub(crate) fn written_ns(path: &Path) -> Option<i128> {
    fs::read_to_string(path).ok()?.parse().ok()
}

/// When the slowest process that left by itself did so.
pub(crate) fn last_own_exit(dir: &Path) -> Option<i128> {
    named(dir, "exit-").iter().filter_map(|path| written_ns(path)).max()
}

/// Waits until all processes of an animal are out.
pub(crate) fn until_out(kind: Kind, dir: &Path) -> Fallible<()> {
    until(&format!("the {} in {}", kind.as_str(), dir.display()), || match fs::read_to_string(dir.join("failed")) {
        Ok(why) => Err(why.into()),
        Err(_) if kind == Kind::Hydra => Ok(outs(dir) > 0 && heads(dir) > 50),
        Err(_) => Ok(outs(dir) >= kind.processes()),
    })
}

fn heads(dir: &Path) -> u64 {
    fs::metadata(dir.join("heads")).map_or(0, |meta| meta.len())
}

/// Looks until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> Fallible<bool>) -> Fallible<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if is_so()? {
            return Ok(());
        }
        pause(Duration::from_millis(1));
    }
    Err(format!("never in {} s: {what}", PATIENCE.as_secs()).into())
}

/// Lets time go by.
pub(crate) fn pause(time: Duration) {
    let (_hold, never) = mpsc::channel::<()>();
    // Nobody sends: it ends by its timeout.
    let _ = never.recv_timeout(time);
}

/// What is left of one start: processes that carry the mark, and a hydra that grows counts as one.
pub(crate) fn survivors(kind: Kind, dir: &Path, mark: &str) -> usize {
    let grows = kind == Kind::Hydra && {
        let before = heads(dir);
        pause(WATCHED);
        heads(dir) > before
    };
    marked(mark).len().max(usize::from(grows))
}

/// Living processes with this mark in their environment.
fn marked(mark: &str) -> Vec<i32> {
    let variable = format!("{MARK}={mark}");
    let carries = |pid: i32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|env| env.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes()))
    };
    let living = orch_shim::procs::all().into_iter().filter(orch_shim::procs::Stat::is_alive);
    living.map(|stat| stat.pid).filter(|pid| carries(*pid)).collect()
}

/// Ends what a rival has left behind.
pub(crate) fn clear_away(dir: &Path, mark: &str) -> Fallible<()> {
    // Without its script a hydra has no successor.
    let _ = fs::remove_file(dir.join("hydra"));
    until("survivors to be gone", || {
        for pid in marked(mark) {
            // It carries our mark; it may have gone a moment ago.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Ok(marked(mark).is_empty())
    })
}
