//! The system calls that no safe crate offers us, each behind a safe function.
//!
//! Owns: pidfd, `close_range`, forking into namespaces, the capability bounding set and landlock. Refuses policy: who is signalled and which
//! folders are opened is decided by the callers.
#![expect(unsafe_code, reason = "these system calls have no safe wrapper in the crates that we use")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::signal::Signal;

/// Turns a `-1` result into the error left in `errno`.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let raw = RawFd::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just handed out this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Opens a handle on a process. It stays on that very process, even when the pid is given to another one.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Signals the process behind a handle.
///
/// # Errors
/// `ESRCH` when it is gone, `EPERM` when it is not ours to signal.
pub fn pidfd_signal(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the null siginfo asks the kernel to fill in its own; the descriptor is borrowed, so it is open.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal as libc::c_int, none, 0) })
        .map(|_| ())
}

/// Marks every descriptor above standard error close-on-exec, so that nothing inherited reaches the job.
pub(crate) fn close_on_exec_above_stderr() -> io::Result<()> {
    // SAFETY: takes three integers; descriptors are only flagged, none is closed under its owner.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(|_| ())
}

/// Closes every descriptor above standard error but one, which is given its new place: 3.
///
/// For a process that lives on after it has forked off the program: what it kept open would keep sockets and pipes of
/// the guard alive.
pub(crate) fn close_all_but(kept: OwnedFd) -> io::Result<OwnedFd> {
    const PLACE: libc::c_int = 3;
    let kept = kept.into_raw_fd();
    // SAFETY: takes three integers. Whatever has place 3 is closed by it, and is not used by this process any more.
    check(unsafe { libc::syscall(libc::SYS_dup3, kept, PLACE, libc::O_CLOEXEC) }).or_else(|error| {
        // EINVAL: it is there already.
        if kept == PLACE { Ok(0) } else { Err(error) }
    })?;
    // SAFETY: takes three integers; this process uses none of the descriptors that are closed.
    check(unsafe { libc::syscall(libc::SYS_close_range, PLACE + 1, u32::MAX, 0) })?;
    // SAFETY: it was just made, or moved, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(PLACE) })
}

/// What [`clone_with`] is in.
pub(crate) enum Cloned {
    /// The process that called, with the new one's id.
    Parent(i32),
    /// The new process.
    Child,
}

/// Forks into new namespaces. Only for a process with one thread.
pub(crate) fn clone_with(namespaces: libc::c_int) -> io::Result<Cloned> {
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: without a stack, and without memory shared, this is `fork`: the copy goes on with a memory of its own. There
    // is one thread, so nothing is left half done in it. The C library keeps no process id that would be wrong now.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) })?;
    match i32::try_from(pid).map_err(io::Error::other)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent(pid)),
    }
}

/// What `clone3` is told, as far as the kernel has it that first knew control groups (5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_INTO_CGROUP`.
const INTO_GROUP: u64 = 1 << 33;

/// Forks as [`clone_with`] does, and into a control group of the second version: whoever is moved there later waits until
/// every processor has seen it, some ten milliseconds. Only for a process with one thread.
///
/// # Errors
/// Where the kernel does not know it or does not allow it: then there is no new process.
pub(crate) fn clone_into(group: BorrowedFd<'_>, namespaces: libc::c_int) -> io::Result<Cloned> {
    let number = |value: libc::c_int| u64::try_from(value).map_err(io::Error::other);
    let args = CloneArgs {
        flags: INTO_GROUP | number(namespaces)?,
        exit_signal: number(libc::SIGCHLD)?,
        cgroup: number(group.as_raw_fd())?,
        ..CloneArgs::default()
    };
    // SAFETY: the pointer is to a structure of the given size that outlives the call, and the descriptor in it is open. For
    // the rest see `clone_with`.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    match i32::try_from(pid).map_err(io::Error::other)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent(pid)),
    }
}

/// Waits for any child; its raw status comes as the kernel gave it. A negative id: there is none.
pub(crate) fn wait_any() -> (i32, i32) {
    let mut status: libc::c_int = 0;
    loop {
        // SAFETY: the pointer is to a local variable that outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return (pid, status);
        }
    }
}

/// Ends this copy of the process at once, without running anything that belongs to the original.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: nothing comes after it.
    unsafe { libc::_exit(code) }
}

/// Removes capabilities from the bounding set, so that a job of root cannot regain them by `exec`.
///
/// `keep` is the mask of those that stay. Fails with `EPERM` for who has none to give away, which is fine there.
pub(crate) fn limit_capabilities(keep: u64) -> io::Result<()> {
    for capability in 0..64_u32 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: takes integers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        if let Err(error) = check(libc::c_long::from(result)) {
            // EINVAL: past the last capability of this kernel.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------------------ landlock

const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
const LANDLOCK_RULE_PATH_BENEATH: u32 = 1;

/// `struct landlock_ruleset_attr`. Fields that the kernel does not know must be 0, then the size does not matter.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// The landlock version of this kernel, 0 for none.
#[must_use]
pub fn landlock_abi() -> u32 {
    let none: *const RulesetAttr = std::ptr::null();
    // SAFETY: null and size 0 with the version flag is the documented question; no memory is read.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, LANDLOCK_CREATE_RULESET_VERSION) };
    u32::try_from(answer).unwrap_or(0)
}

/// A new rule set that closes `access` everywhere and applies `scoped` (both are bit masks of the kernel).
pub(crate) fn landlock_ruleset(access: u64, scoped: u64) -> io::Result<OwnedFd> {
    let attr = RulesetAttr { handled_access_fs: access, handled_access_net: 0, scoped };
    // SAFETY: the pointer and size describe `attr`, which outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0_u32) })
}

/// Opens `access` beneath a file or folder.
pub(crate) fn landlock_allow(ruleset: BorrowedFd<'_>, beneath: BorrowedFd<'_>, access: u64) -> io::Result<()> {
    let attr = PathBeneathAttr { allowed_access: access, parent_fd: beneath.as_raw_fd() };
    // SAFETY: the pointer is to `attr`, which outlives the call and has the layout of this rule type.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            LANDLOCK_RULE_PATH_BENEATH,
            &raw const attr,
            0_u32,
        )
    })
    .map(|_| ())
}

/// Puts the calling thread and all that it will start under the rule set. Cannot be undone.
pub(crate) fn landlock_restrict_self(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes two integers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) }).map(|_| ())
}
