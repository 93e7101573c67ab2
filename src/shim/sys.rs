//! The system calls that no safe crate offers us, each behind a safe function.
//!
//! Owns: pidfd, `close_range`, the capability bounding set and landlock. Refuses policy: who is signalled and which
//! folders are opened is decided by the callers.
#![expect(unsafe_code, reason = "these system calls have no safe wrapper in the crates that we use")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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
