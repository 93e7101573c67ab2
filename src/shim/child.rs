//! From `fork` to `exec`: the few steps that a child takes between being a copy of the shim and being the program.
//!
//! Owns their order: namespaces, session, standard streams, signals, limits, user, folder, landlock, `exec`. In namespaces
//! there is a process between the shim and the program: their first one. What goes wrong comes back through a pipe, with the step that failed, so that
//! "could not start" names the reason and is never mistaken for an exit code.
#![expect(unsafe_code, reason = "fork, and setting default signal actions")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, getppid, pipe2};
use nix::unistd::{setgroups, setresgid, setresuid, setsid};

use crate::landlock::Rules;
use crate::mounts::View;
use crate::spec::ShimSpec;
use crate::sys::Cloned;
use crate::{namespaces, procs, sys};

/// What a confined job of root keeps: what package managers and test suites use inside their own folders.
/// `CHOWN`, `DAC_OVERRIDE`, `FOWNER`, `FSETID`, `KILL`, `SETGID`, `SETUID`, `NET_BIND_SERVICE`.
const KEPT_CAPABILITIES: u64 = 1 | (1 << 1) | (1 << 3) | (1 << 4) | (1 << 5) | (1 << 6) | (1 << 7) | (1 << 10);

/// How many tasks the kernel lets there be for each process that is allowed, before it refuses more.
pub const FUSE: u64 = 8;

/// A started job.
pub(crate) struct Launched {
    /// Its main process: leader of its own session. In namespaces it is unknown when it was too quick to be seen.
    pub(crate) main: Option<Pid>,
    /// The first process of its namespaces, if it has any.
    pub(crate) first: Option<First>,
    /// Read end of its standard output.
    pub(crate) stdout: OwnedFd,
    /// Read end of its standard error.
    pub(crate) stderr: OwnedFd,
}

/// The first process of a job's namespaces, which the shim is the parent of.
pub(crate) struct First {
    /// Its process id, as the shim sees it.
    pub(crate) pid: Pid,
    /// Where it tells how the main process ended.
    pub(crate) told: OwnedFd,
}

/// The steps in a child that can fail, as sent through the pipe.
#[derive(Clone, Copy)]
enum Step {
    Session = 1,
    Streams,
    User,
    Folder,
    Confine,
    Namespaces,
    Exec,
}

/// Which step failed, why, and where, if that is not clear from the step.
type Failed = (Step, Errno, String);

fn at(step: Step) -> impl Fn(Errno) -> Failed {
    move |errno| (step, errno, String::new())
}

impl Step {
    fn describe(code: u8, spec: &ShimSpec) -> String {
        match code {
            1 => "a session of its own".to_owned(),
            2 => "its standard streams".to_owned(),
            3 => format!("user id {}", spec.confinement.uid.unwrap_or_default()),
            4 => format!("working folder `{}`", spec.cwd.display()),
            5 => "its confinement".to_owned(),
            6 => "its namespaces".to_owned(),
            _ => format!("program `{}`", spec.argv.first().map_or("", String::as_str)),
        }
    }
}

/// The pipes between the shim and a new process; each side keeps its ends.
struct Pipes {
    stdout: OwnedFd,
    stderr: OwnedFd,
    report: OwnedFd,
    told: OwnedFd,
    gate: OwnedFd,
}

fn pipes() -> nix::Result<(Pipes, Pipes)> {
    let pipe = || pipe2(OFlag::O_CLOEXEC);
    let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?);
    let ((report, report_end), (told, told_end), (gate_end, gate)) = (pipe()?, pipe()?, pipe()?);
    let ours = Pipes { stdout, stderr, report, told, gate };
    Ok((ours, Pipes { stdout: stdout_end, stderr: stderr_end, report: report_end, told: told_end, gate: gate_end }))
}

/// A child that is ready to be forked.
pub(crate) struct Recipe {
    programs: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    uid: Option<u32>,
    confined: bool,
    open_files: Option<u64>,
    processes: Option<u32>,
    rules: Option<Rules>,
    /// Whether they need a user namespace, and what the job sees in them.
    namespaces: Option<(bool, View)>,
    stdin: File,
}

impl Recipe {
    /// Does everything that can be done before the fork. The error is the text of `could not start`.
    pub(crate) fn prepare(spec: &ShimSpec, stdin: File) -> Result<Self, String> {
        let program = spec.argv.first().filter(|program| !program.is_empty()).ok_or("no program is named")?;
        let text = |what: &str, value: &str| {
            CString::new(value).map_err(|_| format!("{what} holds a NUL byte: {:?}", value.replace('\0', "\\0")))
        };
        let programs = candidates(program, spec.env.get("PATH").map(String::as_str))
            .iter()
            .map(|path| text("the program's path", path))
            .collect::<Result<Vec<_>, _>>()?;
        if programs.is_empty() {
            return Err(format!("program `{program}`: its environment has no PATH to look it up in"));
        }
        let rules = Rules::compile(&spec.confinement).map_err(|error| error.to_string())?;
        if let (Some(rules), None) = (&rules, &spec.namespaces) {
            rules.open_views(false).map_err(|error| error.to_string())?;
        }
        Ok(Self {
            programs,
            argv: spec.argv.iter().map(|value| text("an argument", value)).collect::<Result<_, _>>()?,
            env: spec
                .env
                .iter()
                .map(|(name, value)| CString::new(format!("{name}={value}")))
                .collect::<Result<_, _>>()
                .map_err(|_| "a variable of its environment holds a NUL byte".to_owned())?,
            cwd: text("the working folder", &spec.cwd.to_string_lossy())?,
            uid: spec.confinement.uid,
            confined: spec.confinement.enforced,
            open_files: spec.limits.open_files,
            processes: spec.limits.processes,
            rules,
            namespaces: spec.namespaces.as_ref().map(|wanted| (wanted.user, View::plan(wanted))),
            stdin,
        })
    }

    /// The landlock version that will be in force; 0 for none.
    pub(crate) fn landlock(&self) -> u32 {
        self.rules.as_ref().map_or(0, Rules::abi)
    }

    /// Starts the job and waits until it has become the program, or has said why not. Before it does anything, `admit`
    /// is called with the new process' id, and whether it was born in the job's control group: what has to be recorded, or
    /// to hold it, comes first.
    pub(crate) fn launch(
        &self,
        spec: &ShimSpec,
        admit: impl FnOnce(Pid, bool) -> Result<(), String>,
    ) -> Result<Launched, String> {
        let no_process = |error: io::Error| format!("program `{}`: no new process: {error}", spec.argv[0]);
        let (ours, theirs) = pipes().map_err(|error| format!("no pipe: {error}"))?;
        let shim = nix::unistd::getpid();
        let kinds = self.namespaces.as_ref().map(|(user, _)| namespaces::kinds(*user).bits());
        let group = spec.groups.to_be_born_in().and_then(|dir| File::open(dir).ok());
        // Where it cannot be born there, it is moved there.
        let born = group.as_ref().and_then(|group| sys::clone_into(group.as_fd(), kinds.unwrap_or(0)).ok());
        let is_born_there = born.is_some();
        let cloned = match (born, kinds) {
            (Some(cloned), _) => cloned,
            (None, Some(kinds)) => sys::clone_with(kinds).map_err(no_process)?,
            // SAFETY: the shim has one thread, so the child may go on using all of its memory.
            (None, None) => match unsafe { fork() }.map_err(|errno| no_process(errno.into()))? {
                ForkResult::Child => Cloned::Child,
                ForkResult::Parent { child } => Cloned::Parent(child.as_raw()),
            },
        };
        let pid = match cloned {
            Cloned::Child => {
                drop(ours);
                self.be_born(shim, theirs)
            }
            Cloned::Parent(pid) => Pid::from_raw(pid),
        };
        drop(theirs);
        let Pipes { stdout, stderr, report, told, gate } = ours;
        let admitted = admit(pid, is_born_there)
            .and_then(|()| nix::unistd::write(&gate, &[1]).map_err(|errno| format!("it could not be let go: {errno}")));
        if let Err(why) = admitted {
            // It waits at its gate, and nobody else is there yet.
            let _ = kill(pid, Signal::SIGKILL);
            return Err(why);
        }
        match heard(report) {
            Ok(None) => {}
            Ok(Some((step, errno, place))) => {
                let what = Step::describe(step, spec);
                let place = if place.is_empty() { place } else { format!(": {place}") };
                return Err(format!("{what}{place}: {errno}{}", hint(errno)));
            }
            Err(error) => return Err(format!("program `{}`: no word from the new process: {error}", spec.argv[0])),
        }
        let (main, first) = match self.namespaces {
            None => (Some(pid), None),
            Some(_) => {
                let main = procs::children(pid.as_raw()).first().copied().map(Pid::from_raw);
                (main, Some(First { pid, told }))
            }
        };
        Ok(Launched { main, first, stdout, stderr })
    }

    /// The new process, until it is the program (or the first of its namespaces, which starts the program).
    fn be_born(&self, shim: Pid, pipes: Pipes) -> ! {
        let Pipes { stdout, stderr, report, told, gate } = pipes;
        let mut go = [0_u8; 1];
        // The last resort when the shim itself is killed. In namespaces all of it goes with the first process.
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
        if nix::unistd::read(&gate, &mut go) != Ok(1) {
            sys::leave(127);
        }
        let failed = match &self.namespaces {
            None => self.become_program(shim, &stdout, &stderr),
            Some((user, view)) => match self.begin_inside(*user, view) {
                // SAFETY: this is a copy of the shim, with one thread.
                Ok(()) => match unsafe { fork() } {
                    Ok(ForkResult::Child) => self.become_program(getppid(), &stdout, &stderr),
                    Ok(ForkResult::Parent { child }) => {
                        drop((stdout, stderr, report, gate));
                        namespaces::reap_all(child, told)
                    }
                    Err(errno) => at(Step::Exec)(errno),
                },
                Err(failed) => failed,
            },
        };
        let (step, errno, place) = failed;
        let mut message = vec![step as u8];
        message.extend_from_slice(&(errno as i32).to_le_bytes());
        message.extend_from_slice(place.as_bytes());
        let _ = File::from(report).write_all(&message);
        sys::leave(127)
    }

    /// What the first process of the namespaces does before anything of the job begins.
    fn begin_inside(&self, user: bool, view: &View) -> Result<(), Failed> {
        namespaces::settle_in(user, view).map_err(|(place, errno)| (Step::Namespaces, errno, place))?;
        if let Some(rules) = &self.rules {
            let opened = rules.open_views(view.has_own_tmp());
            opened.map_err(|error| (Step::Confine, errno_of(&error), error.to_string()))?;
        }
        Ok(())
    }

    /// Comes back only when something failed.
    fn become_program(&self, parent: Pid, stdout: &OwnedFd, stderr: &OwnedFd) -> Failed {
        match self.steps(parent, stdout, stderr) {
            Ok(()) => at(Step::Exec)(self.exec()),
            Err(failed) => failed,
        }
    }

    fn steps(&self, parent: Pid, stdout: &OwnedFd, stderr: &OwnedFd) -> Result<(), Failed> {
        // A session of its own: a script's `kill 0` must not reach the shim.
        setsid().map_err(at(Step::Session))?;
        dup2_stdin(&self.stdin).map_err(at(Step::Streams))?;
        dup2_stdout(stdout.as_fd()).map_err(at(Step::Streams))?;
        dup2_stderr(stderr.as_fd()).map_err(at(Step::Streams))?;
        reset_signals();
        umask(Mode::from_bits_truncate(0o022));
        // No core files: they would carry the job's secrets to wherever the pattern points.
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        if let Some(most) = self.open_files {
            let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(most, |(_, hard)| most.min(hard));
            setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(at(Step::Confine))?;
        }
        if let Some(uid) = self.uid {
            if let Some(most) = self.processes {
                // A fuse between two counts of the guard. It counts threads of this user, who has this job alone.
                let most = u64::from(most) * FUSE;
                setrlimit(Resource::RLIMIT_NPROC, most, most).map_err(at(Step::Confine))?;
            }
            become_user(uid).map_err(at(Step::User))?;
        }
        // At least the main process goes with whoever started it; again, because a change of user takes it back.
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
        if getppid() != parent {
            return Err(at(Step::Session)(Errno::ESRCH));
        }
        chdir(self.cwd.as_c_str()).map_err(at(Step::Folder))?;
        if self.confined {
            prctl::set_no_new_privs().map_err(at(Step::Confine))?;
            match sys::limit_capabilities(KEPT_CAPABILITIES) {
                Err(error) if error.raw_os_error() != Some(libc::EPERM) => {
                    return Err(at(Step::Confine)(errno_of(&error)));
                }
                _ => {}
            }
        }
        if let Some(rules) = &self.rules {
            rules.enter().map_err(|error| at(Step::Confine)(errno_of(&error)))?;
        }
        Ok(())
    }

    /// Tries the candidates in the order of `PATH`; the most telling error wins, as with `execvp`.
    fn exec(&self) -> Errno {
        let mut telling = Errno::ENOENT;
        for program in &self.programs {
            let Err(errno) = nix::unistd::execve(program, &self.argv, &self.env);
            match errno {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => telling = Errno::EACCES,
                other => return other,
            }
        }
        telling
    }
}

/// Where a program may be, in the order to try.
fn candidates(program: &str, path: Option<&str>) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.unwrap_or_default()
        .split(':')
        // An empty entry would mean the working folder, which a branch fills.
        .filter(|folder| !folder.is_empty())
        .map(|folder| Path::new(folder).join(program).to_string_lossy().into_owned())
        .collect()
}

fn heard(report: OwnedFd) -> io::Result<Option<(u8, Errno, String)>> {
    let mut message = Vec::new();
    File::from(report).read_to_end(&mut message)?;
    Ok(match message.as_slice() {
        [step, a, b, c, d, place @ ..] => {
            let errno = Errno::from_raw(i32::from_le_bytes([*a, *b, *c, *d]));
            Some((*step, errno, String::from_utf8_lossy(place).into_owned()))
        }
        _ => None,
    })
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => " (is it installed, and in the job's PATH? does its `#!` line name an existing program?)",
        Errno::ENOEXEC => " (a script needs a `#!` line)",
        Errno::EACCES => " (not executable, or outside of what the job may read)",
        _ => "",
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The shim blocks and ignores signals; the program must start with a clean slate. By the bare system call, because the
/// C library keeps two signals to itself, which whoever started the supervisor may have left ignored.
fn reset_signals() {
    // All zero is the default action with an empty mask, whatever the order of the fields is.
    let default = [0_u64; 8];
    let none: *mut libc::c_void = std::ptr::null_mut();
    for signal in 1..=64 {
        // SAFETY: the buffer is larger than the kernel's `struct sigaction`, and the default action runs no code.
        // KILL and STOP are refused, which is as it should be.
        let _ = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8_usize) };
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

fn become_user(uid: u32) -> nix::Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    if nix::unistd::geteuid() == user && nix::unistd::getegid() == group {
        return Ok(());
    }
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_a_program_up_only_in_named_folders() {
        assert_eq!(candidates("git", Some("/a::/b")), ["/a/git", "/b/git"]);
        assert_eq!(candidates("./run", Some("/a")), ["./run"]);
        assert!(candidates("git", None).is_empty());
    }
}
