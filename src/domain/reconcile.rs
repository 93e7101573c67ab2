//! Reconcile: what is recorded against what is seen, as a printable plan of corrections.
//!
//! Owns the comparison, pure: the same code at boot and in every periodic pass. Refuses to correct what it cannot know:
//! jobs of windows are the lane's, and a workspace of a live task is that task's.

use std::collections::BTreeSet;
use std::fmt;

use crate::ids::{Epoch, JobId, TaskId};
use crate::names::{RepoName, TaskKey};

/// A job as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedJob {
    /// Its id.
    pub job: JobId,
    /// Its task, if it has one.
    pub task: Option<TaskId>,
    /// Whether it belongs to a window.
    pub window: bool,
}

/// What the store says.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Tasks that are not closed.
    pub live_tasks: Vec<(TaskId, TaskKey)>,
    /// Jobs of which processes may exist.
    pub live_jobs: Vec<RecordedJob>,
    /// Leases with a holder.
    pub leases: Vec<(RepoName, Epoch)>,
}

/// What is seen in this process and on disk.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Whether this is the first pass after a start: jobs, leases and checkouts are then those that earlier processes
    /// left, nobody's of this one.
    pub first: bool,
    /// Tasks whose actor runs.
    pub actors: BTreeSet<TaskId>,
    /// Leases that a landing of this process holds.
    pub held_leases: BTreeSet<(RepoName, Epoch)>,
    /// Folders of runs.
    pub workspaces: Vec<String>,
    /// Throw-away checkouts that earlier processes left.
    pub checkouts: Vec<String>,
    /// All throw-away checkouts of runs, named `<run>-<number>`.
    pub run_checkouts: Vec<String>,
}

/// One correction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Correction {
    /// End a job that nobody waits for, and prove it gone.
    SettleJob {
        /// Which.
        job: JobId,
    },
    /// Free a lease whose holder is proven gone.
    ReclaimLease {
        /// Of which repository.
        repo: RepoName,
        /// Under which epoch it was held.
        epoch: Epoch,
    },
    /// Start the actor of a live task.
    StartActor {
        /// Which.
        task: TaskId,
        /// Its key, for people.
        key: TaskKey,
    },
    /// Salvage and remove the folder of a run whose task is closed.
    ClearWorkspace {
        /// The folder's name: the run's id.
        run: String,
    },
    /// Remove a checkout that nobody uses.
    ClearCheckout {
        /// The folder's name.
        name: String,
    },
}

impl fmt::Display for Correction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SettleJob { job } => write!(f, "end job {job}, which nobody waits for"),
            Self::ReclaimLease { repo, epoch } => write!(f, "reclaim the lease of {repo} (epoch {epoch})"),
            Self::StartActor { key, .. } => write!(f, "start the actor of {key}"),
            Self::ClearWorkspace { run } => write!(f, "salvage and remove the workspace of run {run}"),
            Self::ClearCheckout { name } => write!(f, "remove the checkout {name}"),
        }
    }
}

/// A list of corrections, in the order they are to be carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The corrections.
    pub corrections: Vec<Correction>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.corrections.is_empty() {
            return f.write_str("nothing to correct");
        }
        for (n, correction) in self.corrections.iter().enumerate() {
            writeln!(f, "{}. {correction}", n + 1)?;
        }
        Ok(())
    }
}

/// The task that a run's folder belongs to: run ids are made as `<task>r<number>`.
#[must_use]
pub fn task_of_run(run: &str) -> Option<TaskId> {
    let (task, number) = run.rsplit_once('r')?;
    number.parse::<u32>().ok()?;
    task.parse().ok()
}

impl Plan {
    /// Compares.
    #[must_use]
    pub fn build(recorded: &Recorded, observed: &Observed) -> Self {
        let live: BTreeSet<&TaskId> = recorded.live_tasks.iter().map(|(id, _)| id).collect();
        let mut corrections = Vec::new();
        for job in &recorded.live_jobs {
            // In a running system a job is waited for by whoever started it; a live task's actor settles its own.
            let owned = job.task.as_ref().is_some_and(|t| live.contains(t));
            if observed.first && !job.window && !owned {
                corrections.push(Correction::SettleJob { job: job.job.clone() });
            }
        }
        for (repo, epoch) in &recorded.leases {
            if observed.first && !observed.held_leases.contains(&(repo.clone(), *epoch)) {
                corrections.push(Correction::ReclaimLease { repo: repo.clone(), epoch: *epoch });
            }
        }
        for (task, key) in &recorded.live_tasks {
            if !observed.actors.contains(task) {
                corrections.push(Correction::StartActor { task: task.clone(), key: key.clone() });
            }
        }
        for run in &observed.workspaces {
            // A folder that no run has made is nobody's to keep either.
            if task_of_run(run).is_none_or(|task| !live.contains(&task) && !observed.actors.contains(&task)) {
                corrections.push(Correction::ClearWorkspace { run: run.clone() });
            }
        }
        if observed.first {
            let in_use = |name: &str| recorded.live_jobs.iter().any(|j| j.window && name.ends_with(j.job.as_str()));
            let unused = observed.checkouts.iter().filter(|name| !in_use(name));
            corrections.extend(unused.map(|name| Correction::ClearCheckout { name: name.clone() }));
        }
        for name in &observed.run_checkouts {
            // Of a closed task: a gate that was cut off while its checkout was being made could not remove it.
            let task = name.rsplit_once('-').and_then(|(run, _)| task_of_run(run));
            if task.is_some_and(|task| !live.contains(&task) && !observed.actors.contains(&task)) {
                corrections.push(Correction::ClearCheckout { name: name.clone() });
            }
        }
        Self { corrections }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id<T: std::str::FromStr>(text: &str) -> T {
        match text.parse() {
            Ok(id) => id,
            Err(_) => panic!("bad id {text}"),
        }
    }

    #[test]
    fn a_plan_after_a_crash_reads_like_a_to_do_list() {
        let recorded = Recorded {
            live_tasks: vec![(id("task1"), id("ORC-1"))],
            live_jobs: vec![
                RecordedJob { job: id("job1"), task: Some(id("task1")), window: false },
                RecordedJob { job: id("job2"), task: None, window: false },
                RecordedJob { job: id("job3"), task: Some(id("task1")), window: true },
            ],
            leases: vec![(id("demo"), Epoch(4))],
        };
        let observed = Observed {
            first: true,
            workspaces: vec!["task1r2".into(), "task9r1".into(), "junk".into()],
            checkouts: vec!["w1-job3".into(), "c7".into()],
            run_checkouts: vec!["task1r1-1".into(), "task9r3-1".into(), "w1-job3".into()],
            ..Observed::default()
        };
        let shown = Plan::build(&recorded, &observed).to_string();
        assert_eq!(
            shown,
            "1. end job job2, which nobody waits for\n\
             2. reclaim the lease of demo (epoch 4)\n\
             3. start the actor of ORC-1\n\
             4. salvage and remove the workspace of run task9r1\n\
             5. salvage and remove the workspace of run junk\n\
             6. remove the checkout c7\n\
             7. remove the checkout task9r3-1\n"
        );
    }

    #[test]
    fn a_healthy_system_has_nothing_to_correct() {
        let task: TaskId = id("task1");
        let recorded = Recorded {
            live_tasks: vec![(task.clone(), id("ORC-1"))],
            live_jobs: vec![RecordedJob { job: id("job1"), task: Some(task.clone()), window: false }],
            leases: vec![(id("demo"), Epoch(4))],
        };
        let observed = Observed {
            actors: [task].into(),
            held_leases: [(id("demo"), Epoch(4))].into(),
            workspaces: vec!["task1r1".into()],
            checkouts: vec!["c7".into()],
            ..Observed::default()
        };
        assert_eq!(Plan::build(&recorded, &observed).to_string(), "nothing to correct");
    }
}
