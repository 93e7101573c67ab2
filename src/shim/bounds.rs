//! What a job may use at most, and the looks that find it over.
//!
//! Owns counting: processes, memory, processor time, disk. Where a control group holds a bound, the kernel keeps it, and
//! what is looked for here is that it had to. Where none does, the guard counts now and then and ends the job: then a
//! short excess between two looks is possible.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::groups::{Controller, Groups};
use crate::procs::Stat;
use crate::spec::{Limits, ShimSpec};
use crate::tree::Tree;
use crate::usage::Usage;

/// How often processes, memory and processor time are counted, when they are limited.
const COUNT_EVERY: Duration = Duration::from_millis(250);
/// The same when there are already many: who forks without end doubles within milliseconds.
const COUNT_OFTEN: Duration = Duration::from_millis(20);

/// The bounds of one job.
pub(crate) struct Bounds {
    next_count: Instant,
    usage: Option<Usage>,
}

impl Bounds {
    /// Begins to look.
    pub(crate) fn of(spec: &ShimSpec, now: Instant) -> Self {
        let usage = spec.limits.disk_bytes.map(|_| Usage::of(spec.confinement.write.clone(), now));
        Self { next_count: now, usage }
    }

    /// When to look next.
    pub(crate) fn due(&self, limits: &Limits) -> Option<Instant> {
        let counts = limits.processes.is_some() || limits.memory_bytes.is_some() || limits.cpu_time.is_some();
        let count = counts.then_some(self.next_count);
        count.into_iter().chain(self.usage.as_ref().map(Usage::due)).min()
    }

    /// What the job is over, if it is over anything.
    pub(crate) fn over(&mut self, limits: &Limits, tree: &Tree, groups: &Groups, now: Instant) -> Option<String> {
        if let (Some(usage), Some(most)) = (&mut self.usage, limits.disk_bytes)
            && let Some(bytes) = usage.look(most, now)
            && bytes > most
        {
            return Some(format!("{bytes} bytes on disk, at most {most} are allowed"));
        }
        if now < self.next_count {
            return None;
        }
        let many = |most: u32| groups.tasks().unwrap_or_else(|| tree.living().len() as u64) > u64::from(most) / 2;
        self.next_count = now + if limits.processes.is_some_and(many) { COUNT_OFTEN } else { COUNT_EVERY };
        over_memory_kept_by_kernel(limits, groups).or_else(|| over_counted(limits, tree, groups))
    }
}

/// Whether the kernel had to end something because the job's memory was used up.
pub(crate) fn over_memory_kept_by_kernel(limits: &Limits, groups: &Groups) -> Option<String> {
    let most = limits.memory_bytes?;
    let kills = groups.memory_kills().filter(|kills| *kills > 0)?;
    Some(format!("memory, at most {most} bytes are allowed; the kernel ended {kills} of its processes"))
}

fn over_counted(limits: &Limits, tree: &Tree, groups: &Groups) -> Option<String> {
    let living = std::cell::OnceCell::new();
    let living = || living.get_or_init(|| tree.living());
    if let Some(most) = limits.processes
        // Processes and threads are never fewer than processes, and cheaper to ask for.
        && groups.tasks().is_none_or(|tasks| tasks > u64::from(most))
        && living().len() as u64 > u64::from(most)
    {
        return Some(format!("{} processes, at most {most} are allowed", living().len()));
    }
    if let Some(most) = limits.memory_bytes
        && !groups.0.iter().any(|group| group.controllers.contains(&Controller::Memory))
    {
        let bytes: u64 = living().iter().map(|stat| stat.rss_pages).sum::<u64>() * page_size();
        if bytes > most {
            return Some(format!("{bytes} bytes of resident memory, at most {most} are allowed"));
        }
    }
    let most = limits.cpu_time?;
    let used = groups.cpu_time().unwrap_or_else(|| cpu_time(living().iter().chain(&tree.first())));
    (used > most.into()).then(|| format!("{} s of processor time, at most {most} are allowed", used.as_secs()))
}

/// Processor time of those who live, of those they have waited for, and of those that we have.
fn cpu_time<'a>(living: impl Iterator<Item = &'a Stat>) -> Duration {
    let ticks: u64 = living.map(|stat| stat.cpu_ticks).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1);
    let alive = Duration::from_millis(ticks * 1000 / u64::try_from(per_second).unwrap_or(100));
    let gone = getrusage(UsageWho::RUSAGE_CHILDREN).map(|usage| usage.user_time() + usage.system_time());
    let gone = gone.map_or(0, |time| u64::try_from(time.num_milliseconds()).unwrap_or(0));
    alive + Duration::from_millis(gone)
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}
