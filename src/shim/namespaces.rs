//! Namespaces of a job's own, and the process that is first in them.
//!
//! Owns the making (with the shim's own rights, or through a user namespace) and the first process' loop: it waits for
//! whatever ends, tells the shim how the program ended, and leaves when nobody is left. The kernel ends everything in a
//! PID namespace with its first process, and reports that one as gone only after all others are: so the shim's `waitpid`
//! for it is the proof. Nothing inside can signal it, and it dies with the shim.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getegid, geteuid, pipe2};

use crate::mounts::View;
use crate::spec::{Namespaces, Namespacing};
use crate::sys::{self, Cloned};

/// What kept a namespace from being made: where, and what the system said.
pub(crate) type Trouble = (String, Errno);

fn trouble(at: &str, error: &io::Error) -> Trouble {
    (at.to_owned(), Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// The kinds of namespaces that a job gets.
pub(crate) fn kinds(user: bool) -> CloneFlags {
    let own = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    if user { own | CloneFlags::CLONE_NEWUSER } else { own }
}

/// Makes the namespaces ready, as their first process: identity, and the view of the file system.
pub(crate) fn settle_in(user: bool, view: &View) -> Result<(), Trouble> {
    if user {
        map_own_user().map_err(|error| trouble("the user namespace", &error))?;
    }
    view.make().map_err(|failed| trouble(&format!("its view of `{}`", failed.place.display()), &failed.error))
}

/// The job's user and group are inside what they are outside; there are no others.
fn map_own_user() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    // The files of a process that nobody may look into belong to root, also to itself. Nothing of the job runs yet.
    prctl::set_dumpable(true)?;
    let mapped = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("{user} {user} 1\n")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("{group} {group} 1\n")));
    prctl::set_dumpable(false)?;
    mapped
}

/// The rest of the first process' life: reaps until nobody is left. `told` gets the program's wait status.
pub(crate) fn reap_all(main: Pid, told: OwnedFd) -> ! {
    let told = sys::close_all_but(told);
    loop {
        let (pid, status) = sys::wait_any();
        match pid {
            pid if pid == main.as_raw() => {
                if let Ok(told) = &told {
                    let _ = nix::unistd::write(told, &status.to_le_bytes());
                }
            }
            pid if pid > 0 => {}
            // Interrupted is the only other answer, and no signal is handled here: nobody is left.
            _ => sys::leave(0),
        }
    }
}

/// Tries what this host offers, in a process that is gone afterwards.
pub(crate) fn probe() -> Namespacing {
    let mut why = Vec::new();
    let own = geteuid().is_root().then_some(false);
    for user in own.into_iter().chain([true]) {
        match try_out(user) {
            Ok(()) => return if user { Namespacing::User } else { Namespacing::Own },
            Err((at, errno)) => why.push(format!("{at}: {errno}")),
        }
    }
    Namespacing::None { why: why.join("; ") }
}

fn try_out(user: bool) -> Result<(), Trouble> {
    let made = |error: io::Error| trouble(if user { "new namespaces by a user" } else { "new namespaces" }, &error);
    let wanted = Namespaces { user, hide: vec!["/run".into()], ..Namespaces::default() };
    let view = View::plan(&wanted);
    let (heard, told) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| made(errno.into()))?;
    match sys::clone_with(kinds(user).bits()).map_err(made)? {
        Cloned::Child => {
            let _ = prctl::set_pdeathsig(Signal::SIGKILL);
            if let Err((at, errno)) = settle_in(user, &view) {
                let mut message = (errno as i32).to_le_bytes().to_vec();
                message.extend_from_slice(at.as_bytes());
                let _ = fs::File::from(told).write_all(&message);
            }
            sys::leave(0)
        }
        Cloned::Parent(child) => {
            drop(told);
            let mut message = Vec::new();
            let read = fs::File::from(heard).read_to_end(&mut message);
            let _ = waitpid(Pid::from_raw(child), None);
            read.map_err(made)?;
            match message.split_first_chunk::<4>() {
                None => Ok(()),
                Some((errno, at)) => {
                    Err((String::from_utf8_lossy(at).into_owned(), Errno::from_raw(i32::from_le_bytes(*errno))))
                }
            }
        }
    }
}
