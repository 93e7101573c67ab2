//! From `fork` to `exec`: the few steps that a child takes between being a copy of the shim and being the program.
//!
//! Owns their order: session, standard streams, signals, limits, user, folder, landlock, `exec`. Everything that
//! allocates happens before the fork. What goes wrong comes back through a pipe, with the step that failed, so that
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
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, getppid, pipe2};
use nix::unistd::{setgroups, setresgid, setresuid, setsid};

use crate::landlock::Rules;
use crate::spec::ShimSpec;
use crate::sys;

/// What a confined job of root keeps: what package managers and test suites use inside their own folders.
/// `CHOWN`, `DAC_OVERRIDE`, `FOWNER`, `FSETID`, `KILL`, `SETGID`, `SETUID`, `NET_BIND_SERVICE`.
const KEPT_CAPABILITIES: u64 = 1 | (1 << 1) | (1 << 3) | (1 << 4) | (1 << 5) | (1 << 6) | (1 << 7) | (1 << 10);

/// A started child.
pub(crate) struct Launched {
    /// Its process id: leader of its own session.
    pub(crate) pid: Pid,
    /// Read end of its standard output.
    pub(crate) stdout: OwnedFd,
    /// Read end of its standard error.
    pub(crate) stderr: OwnedFd,
}

/// The steps in a child that can fail, as sent through the pipe.
#[derive(Clone, Copy)]
enum Step {
    Session = 1,
    Streams,
    User,
    Folder,
    Confine,
    Exec,
}

impl Step {
    fn describe(code: u8, spec: &ShimSpec) -> String {
        match code {
            1 => "a session of its own".to_owned(),
            2 => "its standard streams".to_owned(),
            3 => format!("user id {}", spec.confinement.uid.unwrap_or_default()),
            4 => format!("working folder `{}`", spec.cwd.display()),
            5 => "its confinement".to_owned(),
            _ => format!("program `{}`", spec.argv.first().map_or("", String::as_str)),
        }
    }
}

/// A child that is ready to be forked.
pub(crate) struct Recipe {
    programs: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    uid: Option<u32>,
    rules: Option<Rules>,
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
            rules: Rules::compile(&spec.confinement).map_err(|error| error.to_string())?,
            stdin,
        })
    }

    /// The landlock version that will be in force; 0 for none.
    pub(crate) fn landlock(&self) -> u32 {
        self.rules.as_ref().map_or(0, Rules::abi)
    }

    /// Forks and waits until the child has become the program, or has said why not.
    pub(crate) fn launch(&self, spec: &ShimSpec) -> Result<Launched, String> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("no pipe: {error}"));
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let (report, report_end) = pipe()?;
        let shim = nix::unistd::getpid();
        // SAFETY: the shim has one thread, so the child may go on using all of its memory.
        match unsafe { fork() }.map_err(|error| format!("program `{}`: no new process: {error}", spec.argv[0]))? {
            ForkResult::Child => {
                let (step, errno) = self.become_program(shim, &stdout_end, &stderr_end);
                let mut message = [0_u8; 5];
                message[0] = step as u8;
                message[1..].copy_from_slice(&(errno as i32).to_le_bytes());
                let _ = File::from(report_end).write_all(&message);
                // SAFETY: ends the copy at once, without running anything that belongs to the shim.
                unsafe { libc::_exit(127) }
            }
            ForkResult::Parent { child } => {
                drop((stdout_end, stderr_end, report_end));
                match heard(report) {
                    Ok(None) => Ok(Launched { pid: child, stdout, stderr }),
                    Ok(Some((step, errno))) => Err(format!("{}: {errno}{}", Step::describe(step, spec), hint(errno))),
                    Err(error) => Err(format!("program `{}`: no word from the new process: {error}", spec.argv[0])),
                }
            }
        }
    }

    /// Runs in the child; comes back only when something failed.
    fn become_program(&self, shim: Pid, stdout: &OwnedFd, stderr: &OwnedFd) -> (Step, Errno) {
        match self.steps(shim, stdout, stderr) {
            Ok(()) => (Step::Exec, self.exec()),
            Err(failed) => failed,
        }
    }

    fn steps(&self, shim: Pid, stdout: &OwnedFd, stderr: &OwnedFd) -> Result<(), (Step, Errno)> {
        let at = |step: Step| move |errno: Errno| (step, errno);
        // A session of its own: a script's `kill 0` must not reach the shim.
        setsid().map_err(at(Step::Session))?;
        dup2_stdin(&self.stdin).map_err(at(Step::Streams))?;
        dup2_stdout(stdout.as_fd()).map_err(at(Step::Streams))?;
        dup2_stderr(stderr.as_fd()).map_err(at(Step::Streams))?;
        reset_signals();
        umask(Mode::from_bits_truncate(0o022));
        // No core files: they would carry the job's secrets to wherever the pattern points.
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        if let Some(uid) = self.uid {
            become_user(uid).map_err(at(Step::User))?;
        }
        // The last resort when the shim itself is killed: at least the main process goes with it.
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
        if getppid() != shim {
            return Err((Step::Session, Errno::ESRCH));
        }
        chdir(self.cwd.as_c_str()).map_err(at(Step::Folder))?;
        if let Some(rules) = &self.rules {
            prctl::set_no_new_privs().map_err(at(Step::Confine))?;
            match sys::limit_capabilities(KEPT_CAPABILITIES) {
                Err(error) if error.raw_os_error() != Some(libc::EPERM) => {
                    return Err((Step::Confine, errno_of(&error)));
                }
                _ => {}
            }
            rules.enter().map_err(|error| (Step::Confine, errno_of(&error)))?;
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

fn heard(report: OwnedFd) -> io::Result<Option<(u8, Errno)>> {
    let mut message = Vec::new();
    File::from(report).read_to_end(&mut message)?;
    Ok(match message.as_slice() {
        [step, a, b, c, d] => Some((*step, Errno::from_raw(i32::from_le_bytes([*a, *b, *c, *d])))),
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
