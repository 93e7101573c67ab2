//! What outlives a killed shim, and how it is found and ended.
//!
//! Owns the sweep, and what it may call proven. In namespaces all is gone with their first process, whose identity the
//! shim left on record before anything began; an empty control group that the job could not write proves the same. As a
//! subreaper this process inherits the remains of every shim it started; they are told from our other children by their
//! session: a job's processes are never in ours. Where none of that helps (a supervisor died in between, and the host
//! offers nothing), only the mark in the environment is left to look for, and then nothing is said to be proven.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpid, getsid};
use orch_domain::job::JobIdentity;
use orch_domain::variables::JOB;
use orch_shim::groups::Groups;
use orch_shim::procs;
use orch_shim::record::FirstProcess;

use super::spawner;

/// How long remains are chased before they are reported as still there.
const CHASE: Duration = Duration::from_secs(5);
/// Between two looks at what was told to end.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Empty looks in a row that count as nobody left.
const CLEAN_LOOKS: u32 = 3;

/// Makes this process inherit what outlives a killed shim. Call once, early.
///
/// # Errors
/// When the kernel refuses, which no supported one does.
pub fn become_subreaper() -> std::io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// What a sweep found.
pub(super) struct Swept {
    pub(super) ended: u32,
    pub(super) evidence: String,
    pub(super) proven_gone: bool,
}

/// Ends what is left of a job whose shim is gone. Blocks for as long as that takes, at most some seconds.
pub(super) fn sweep(job: &JobIdentity) -> Swept {
    if procs::boot_id().is_ok_and(|now| now != job.boot_id) {
        let evidence = format!("shim {} belonged to an earlier boot ({})", job.pid, job.boot_id);
        return Swept { ended: 0, evidence, proven_gone: true };
    }
    let inherits =
        nix::sys::prctl::get_child_subreaper().unwrap_or(false) && spawner::was_ours(job.pid, job.start_ticks);
    let namespaces = job.containment.has_namespaces().then(|| end_namespaces(job));
    let group = job.cgroup.as_deref().map(|dir| end_group(dir, job.containment.has_group()));
    let (inherited, clean) = end_inherited();
    let (marked, unmarked_clean) = end_marked(job);
    let ended = inherited + marked;
    let looks_clean = clean && unmarked_clean;
    // Who is still seen is there, whatever a proof says.
    let (proven_gone, proof) = match (namespaces, group) {
        _ if !looks_clean => (false, "some could not be ended"),
        (Some(Gone::Proven), _) => (true, "its namespaces are gone"),
        (_, Some(Gone::Proven)) => (true, "its control group is empty"),
        _ if inherits => (true, "its remains came to this process"),
        _ => (false, "looked for by their mark only"),
    };
    let left = if looks_clean { "none left" } else { "some left" };
    Swept {
        ended,
        evidence: format!("shim {} is gone without a record; {ended} processes ended, {left} ({proof})", job.pid),
        proven_gone,
    }
}

/// Whether something is proven to be gone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gone {
    Proven,
    Unproven,
}

/// Ends the first process of a job's namespaces, and with it everybody in them.
fn end_namespaces(job: &JobIdentity) -> Gone {
    match FirstProcess::read(&job.dir) {
        // It is recorded before anything of the job begins, so nothing ever did.
        Ok(None) if job.dir.is_dir() => Gone::Proven,
        Ok(Some(first)) => {
            let until = Instant::now() + CHASE;
            // It ends with its shim; this is for a kernel that is slow to say so.
            while procs::is_same(first.pid, first.start_ticks) {
                procs::signal_same(first.pid, first.start_ticks, Signal::SIGKILL);
                if Instant::now() > until {
                    return Gone::Unproven;
                }
                std::thread::sleep(LOOK_AGAIN);
            }
            Gone::Proven
        }
        Ok(None) | Err(_) => Gone::Unproven,
    }
}

/// Ends everybody in a job's control group; `counts` when the job could not leave it.
fn end_group(dir: &Path, counts: bool) -> Gone {
    let groups = Groups::at(dir);
    let until = Instant::now() + CHASE;
    loop {
        match groups.is_empty() {
            Ok(true) => {
                groups.remove();
                return if counts { Gone::Proven } else { Gone::Unproven };
            }
            Ok(false) => groups.kill(),
            Err(_) => return Gone::Unproven,
        }
        if Instant::now() > until {
            return Gone::Unproven;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Ends every child that is neither a shim nor of our own session, and what they leave, until there is none.
fn end_inherited() -> (u32, bool) {
    let Ok(session) = getsid(None) else { return (0, false) };
    let until = Instant::now() + CHASE;
    let (mut ended, mut clean_looks) = (0, 0);
    while clean_looks < CLEAN_LOOKS {
        let mut found = false;
        for pid in procs::children(getpid().as_raw()) {
            let is_orphan = procs::stat(pid).is_some_and(|stat| stat.sid != session.as_raw());
            if !is_orphan || spawner::is_living_shim(pid) {
                continue;
            }
            found = true;
            // An unreaped child keeps its pid, and this is the only place that reaps inherited ones.
            if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
                && waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).is_ok_and(|seen| seen.pid().is_some())
            {
                ended += 1;
            }
        }
        clean_looks = if found { 0 } else { clean_looks + 1 };
        if Instant::now() > until {
            return (ended, false);
        }
    }
    (ended, true)
}

/// Ends every process that carries the job's mark.
fn end_marked(job: &JobIdentity) -> (u32, bool) {
    let mark = format!("{JOB}={}", job.job);
    let until = Instant::now() + CHASE;
    let mut ended = std::collections::HashSet::new();
    loop {
        let marked: Vec<_> =
            procs::all().into_iter().filter(|stat| stat.is_alive() && carries(stat.pid, mark.as_bytes())).collect();
        if marked.is_empty() {
            return (u32::try_from(ended.len()).unwrap_or(u32::MAX), true);
        }
        for stat in marked {
            if procs::signal_same(stat.pid, stat.start_ticks, Signal::SIGKILL) {
                ended.insert(stat.pid);
            }
        }
        if Instant::now() > until {
            return (u32::try_from(ended.len()).unwrap_or(u32::MAX), false);
        }
    }
}

fn carries(pid: i32, mark: &[u8]) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| env.split(|byte| *byte == 0).any(|var| var == mark))
}
