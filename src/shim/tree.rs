//! The processes of one job, from its first to its last.
//!
//! Owns who is waited for and how the main process ended. Without namespaces the shim is everybody's reaper: nobody is
//! left when `waitpid` says `ECHILD`. With them it has one child, their first process, which reaps inside and is itself
//! reported by the kernel as gone only after all others are. Either way the rule is exact, and the same: no child left.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use orch_domain::job::JobEnd;

use crate::child::First;
use crate::procs::{self, Stat};

/// The processes of a job.
#[derive(Default)]
pub(crate) struct Tree {
    main: Option<Pid>,
    first: Option<(Pid, Option<File>)>,
    /// How the main process ended, once it has.
    own_end: Option<JobEnd>,
    nobody_left: bool,
}

impl Tree {
    /// Takes over what was started.
    pub(crate) fn begin(&mut self, main: Option<Pid>, first: Option<First>) {
        self.main = main;
        self.first = first.map(|First { pid, told }| {
            // A pipe that cannot be read without waiting is not read at all: the end then comes without its code.
            let readable = fcntl(&told, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok();
            (pid, readable.then(|| File::from(told)))
        });
    }

    /// The main process' id, as the shim sees it.
    pub(crate) fn main(&self) -> Option<i32> {
        self.main.map(Pid::as_raw)
    }

    /// Whether the main process has ended.
    pub(crate) fn main_gone(&self) -> bool {
        self.own_end.is_some()
    }

    /// How the main process ended by itself.
    pub(crate) fn own_end(&self) -> Option<&JobEnd> {
        self.own_end.as_ref()
    }

    /// Whether the kernel has said that nobody is left.
    pub(crate) fn is_gone(&self) -> bool {
        self.nobody_left
    }

    /// Nothing was ever started.
    pub(crate) fn never_began(&mut self) {
        self.nobody_left = true;
    }

    /// What to poll besides the signal for ended children.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.first.as_ref().and_then(|(_, told)| told.as_ref()).map(AsFd::as_fd)
    }

    /// Everybody of the job who lives, nearest first; not the first process of its namespaces, which is ours. A look,
    /// not a proof.
    pub(crate) fn living(&self) -> Vec<Stat> {
        let mut found = procs::descendants(getpid().as_raw());
        if let Some((first, _)) = &self.first {
            found.retain(|stat| stat.pid != first.as_raw());
        }
        found
    }

    /// The first process of its namespaces.
    pub(crate) fn first(&self) -> Option<Stat> {
        self.first.as_ref().and_then(|(first, _)| procs::stat(first.as_raw()))
    }

    /// Waits for every process that ended; learns whether anybody is left.
    pub(crate) fn reap(&mut self) {
        self.hear_first();
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
        if self.first.as_ref().is_some_and(|(first, _)| *first == pid) {
            // It may have told just before it ended. Ended without a word, it took the main process with it.
            self.hear_first();
            self.own_end.get_or_insert(JobEnd::Signalled { signal: libc::SIGKILL });
        } else if Some(pid) == self.main {
            self.own_end.get_or_insert(end);
        }
    }

    /// Reads how the main process ended from the first process of its namespaces.
    fn hear_first(&mut self) {
        let Some((_, told @ Some(_))) = &mut self.first else { return };
        let mut status = [0_u8; 4];
        match told.as_mut().map(|told| told.read(&mut status)) {
            Some(Ok(4)) => {
                self.own_end.get_or_insert(end_of(i32::from_le_bytes(status)));
                *told = None;
            }
            Some(Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => *told = None,
        }
    }
}

/// How a process ended, by its raw wait status.
fn end_of(status: i32) -> JobEnd {
    match libc::WIFEXITED(status) {
        true => JobEnd::Exited { code: libc::WEXITSTATUS(status) },
        false => JobEnd::Signalled { signal: libc::WTERMSIG(status) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_statuses_are_ends() {
        assert_eq!(end_of(7 << 8), JobEnd::Exited { code: 7 });
        assert_eq!(end_of(15), JobEnd::Signalled { signal: 15 });
        assert_eq!(end_of(6 | 0x80), JobEnd::Signalled { signal: 6 }, "with a core dump");
    }
}
