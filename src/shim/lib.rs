//! Room `shim`: the process guard of one job.
//!
//! Owns: starting one program, holding everything that descends from it, keeping its output, and ending all of it with
//! proof (`waitpid` says `ECHILD`; as subreaper every orphan of the job comes to the shim, so that rule is exact).
//! Refuses: judging an exit code, knowing tasks or gates, threads, async runtimes. This is the only room with `unsafe`
//! (fork, landlock and pidfd system calls), so its few safe wrappers in [`sys`] and [`procs`] serve the others too.
//!
//! Invariants: `exit.json` is written once, by rename, after the last process is gone; no secret is in argv or on disk;
//! nothing begins before `go`; a shim without supervisor does what its spec says and never waits for ever.

mod bounds;
mod child;
mod ending;
pub mod groups;
mod guard;
mod landlock;
pub mod logs;
mod mounts;
mod namespaces;
pub mod procs;
pub mod protocol;
pub mod record;
#[cfg(feature = "self-exec")]
pub mod self_exec;
mod server;
pub mod spec;
pub mod sys;
mod tree;
mod usage;

use std::process::ExitCode;

pub use child::FUSE;

/// Argument that makes the shim tell what this host offers, as one line of JSON (see [`spec::Offer`]).
pub const PROBE: &str = "probe";

/// Exit code of a shim that could not even begin to guard; the reason is in its identity line.
const EXIT_UNUSABLE: u8 = 70;

/// The body of `orch shim`: reads a [`spec::ShimSpec`] from standard input, guards one job, leaves its exit record.
///
/// Must be called before any thread exists. The exit code says only whether the guard itself worked; how the job ended
/// is in `exit.json`. With [`PROBE`] as its last argument it tries what this host offers, says so, and guards nothing.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().next_back().is_some_and(|last| last == PROBE) {
        let offer = spec::Offer { landlock: landlock_abi(), namespaces: namespaces::probe() };
        return guard::say(&offer).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    match guard::Guard::set_up() {
        Ok(guard) => match guard.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(why) => {
            guard::announce(&spec::Announcement::Unusable { why: why.to_string() });
            ExitCode::from(EXIT_UNUSABLE)
        }
    }
}

/// The landlock version that this kernel offers; 0 when it has none.
#[must_use]
pub fn landlock_abi() -> u32 {
    sys::landlock_abi()
}

/// Whether a landlock version keeps a job from signalling anybody outside, and from abstract sockets there.
#[must_use]
pub fn landlock_scopes(version: u32) -> bool {
    landlock::Rules::is_scoped(version)
}
