//! Settings of jobs: how they are held, and what each may use at most.
//!
//! Owns the shape of `containment` and `job_limits`. Refuses kinds that do not exist, and limits of nothing.

use std::collections::BTreeMap;

use orch_actors::context::KindLimits;
use orch_adapters::jobs::UserRange;
use orch_adapters::ports::JobLimits;
use orch_domain::job::JobKind;
use orch_domain::time::Millis;
use serde::{Deserialize, Serialize};

use super::{Config, units};

/// Which of the host's means to hold jobs are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainmentConfig {
    /// Namespaces of their own for agents and gates, where the host offers them.
    pub namespaces: bool,
    /// Control groups for all jobs, where the host offers them.
    pub cgroups: bool,
    /// Users of their own for agents, captures and gates.
    #[serde(with = "units::maybe_users")]
    pub uids: Option<UserRange>,
}

impl Default for ContainmentConfig {
    fn default() -> Self {
        Self { namespaces: true, cgroups: true, uids: None }
    }
}

/// Bounds of the jobs of one kind; what is absent is as in `limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KindConfig {
    /// Most memory.
    #[serde(with = "units::maybe_size")]
    pub memory: Option<u64>,
    /// Most processes.
    pub processes: Option<u32>,
    /// Most processors at a time, in thousandths.
    #[serde(with = "units::processors")]
    pub cpus: Option<u32>,
    /// Most processor time.
    #[serde(with = "units::maybe_duration")]
    pub cpu_time: Option<Millis>,
    /// Most open files of each process.
    pub open_files: Option<u64>,
    /// Most disk.
    #[serde(with = "units::maybe_size")]
    pub disk: Option<u64>,
}

/// The kinds that may have bounds of their own; a deploy's aids go by its own.
pub(super) fn kinds(name: &str) -> Option<&'static [JobKind]> {
    match name {
        "agent" => Some(&[JobKind::Agent]),
        "capture" => Some(&[JobKind::Capture]),
        "gate" => Some(&[JobKind::Gate]),
        "deploy" => Some(&[JobKind::Deploy, JobKind::DeployAid]),
        _ => None,
    }
}

impl Config {
    /// What jobs may use at most, by kind.
    #[must_use]
    pub fn job_limits(&self) -> KindLimits {
        let limits = &self.limits;
        let usual = JobLimits {
            log_bytes: limits.log_size,
            processes: limits.job_processes,
            memory_bytes: limits.job_memory,
            cpus_milli: limits.job_cpus,
            cpu_time: limits.job_cpu_time,
            open_files: limits.job_open_files,
            disk_bytes: limits.job_disk,
            ..JobLimits::default()
        };
        let mut own = BTreeMap::from([(JobKind::Gate, JobLimits { stall: limits.command_stall, ..usual.clone() })]);
        for (name, bounds) in &self.job_limits {
            for kind in kinds(name).unwrap_or_default() {
                let is_deploy = matches!(kind, JobKind::Deploy | JobKind::DeployAid);
                let before = match own.get(kind) {
                    Some(before) => before.clone(),
                    None if is_deploy => JobLimits::default(),
                    None => usual.clone(),
                };
                let bounded = JobLimits {
                    processes: bounds.processes.or(before.processes),
                    memory_bytes: bounds.memory.or(before.memory_bytes),
                    cpus_milli: bounds.cpus.or(before.cpus_milli),
                    cpu_time: bounds.cpu_time.or(before.cpu_time),
                    open_files: bounds.open_files.or(before.open_files),
                    disk_bytes: bounds.disk.or(before.disk_bytes),
                    ..before
                };
                own.insert(*kind, bounded);
            }
        }
        KindLimits { usual, own }
    }
}
