//! The control groups of one job, in either version of the kernel's interface.
//!
//! Owns joining, counting, ending all members at once, and the proof that there are none. The groups are made, with their
//! limits, by whoever starts the shim; the shim takes them away when the job is over. Refuses to prove anything by a
//! group that the job could write: whether that is so is for the caller to know. Invariant: who is signalled is a member
//! at that moment, never a stranger who got a member's number.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::sys;

/// Beginning of the name of a folder for the groups of jobs.
pub const JOBS_PREFIX: &str = "orch-jobs-";
/// How long an empty group may refuse to be removed: the kernel lets go of its last members a moment later.
const LETS_GO: Duration = Duration::from_millis(200);

/// What a group is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Controller {
    /// Bounds memory.
    Memory,
    /// Bounds processes and threads.
    Pids,
    /// Bounds processor time per period.
    Cpu,
    /// Counts processor time (the first version's own controller).
    CpuAccounting,
    /// Stops all members (the first version's own controller).
    Freezer,
}

/// One control group of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its folder.
    pub dir: PathBuf,
    /// Whether it is one of the second version.
    pub unified: bool,
    /// Which controllers it has.
    pub controllers: Vec<Controller>,
}

impl Group {
    fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Process ids of the members, as this process sees them.
    fn members(&self) -> io::Result<Vec<i32>> {
        let text = fs::read_to_string(self.file("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Whether a process is a member right now.
    fn holds(&self, pid: i32) -> bool {
        self.members().is_ok_and(|members| members.contains(&pid))
    }

    /// Ends every member; forks are overtaken by repeating.
    fn kill(&self) {
        // The kernel ends them all at once, whatever they fork meanwhile.
        if self.unified && fs::write(self.file("cgroup.kill"), "1").is_ok() {
            return;
        }
        let freezes = self.has(Controller::Freezer);
        if freezes {
            let _ = fs::write(self.file("freezer.state"), "FROZEN");
        }
        for pid in self.members().unwrap_or_default() {
            let Ok(handle) = sys::pidfd_open(pid) else { continue };
            if self.holds(pid) {
                let _ = sys::pidfd_signal(handle.as_fd(), Signal::SIGKILL);
            }
        }
        if freezes {
            let _ = fs::write(self.file("freezer.state"), "THAWED");
        }
    }

    /// Whether it has no member; a group that is gone has none.
    fn is_empty(&self) -> io::Result<bool> {
        let name = if self.unified { "cgroup.events" } else { "cgroup.procs" };
        let text = match fs::read_to_string(self.file(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            text => text?,
        };
        Ok(if self.unified { number_after(&text, "populated") == Some(0) } else { text.trim().is_empty() })
    }
}

fn is_for_jobs(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(JOBS_PREFIX.as_bytes())
}

/// The number behind a word, in a file with one word and number a line.
fn number_after(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The groups of one job. The first one tells who belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Groups(pub Vec<Group>);

impl Groups {
    /// The group in this folder, as found again by somebody who only knows its place.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        let unified = dir.join("cgroup.events").exists();
        let freezes = dir.join("freezer.state").exists();
        let controllers = if freezes { vec![Controller::Freezer] } else { Vec::new() };
        Self(vec![Group { dir: dir.to_owned(), unified, controllers }])
    }

    fn with(&self, controller: Controller) -> Option<&Group> {
        self.0.iter().find(|group| group.has(controller))
    }

    /// Whether there are any.
    #[must_use]
    pub fn exist(&self) -> bool {
        !self.0.is_empty()
    }

    /// The group in which a process can be born: that of the second version, if there is one.
    pub(crate) fn to_be_born_in(&self) -> Option<&Path> {
        self.0.iter().find(|group| group.unified).map(|group| group.dir.as_path())
    }

    /// Puts a process, and with it all that it will start, into every group; `is_born_there`: it is in the one of
    /// the second version already.
    ///
    /// # Errors
    /// When one refuses; the text names it.
    pub fn join(&self, pid: i32, is_born_there: bool) -> Result<(), String> {
        for group in self.0.iter().filter(|group| !(is_born_there && group.unified)) {
            let joined = fs::write(group.file("cgroup.procs"), pid.to_string());
            joined.map_err(|error| format!("control group `{}`: {error}", group.dir.display()))?;
        }
        Ok(())
    }

    /// Ends every member once. Forking members may need another round; [`Groups::is_empty`] tells.
    pub fn kill(&self) {
        if let Some(group) = self.0.first() {
            group.kill();
        }
    }

    /// Whether nobody is a member; `false` when there are no groups.
    ///
    /// # Errors
    /// When a group cannot be read, which proves nothing.
    pub fn is_empty(&self) -> io::Result<bool> {
        self.0.first().map_or(Ok(false), Group::is_empty)
    }

    /// Takes the groups away, once nobody is a member, and the folder that they are in with the last of them. Answers
    /// whether they are gone.
    pub fn remove(&self) -> bool {
        let until = Instant::now() + LETS_GO;
        self.0.iter().rev().fold(true, |gone, group| {
            let removed = loop {
                match fs::remove_dir(&group.dir) {
                    Ok(()) => break true,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break true,
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(_) => break false,
                }
            };
            let jobs = group.dir.parent().filter(|jobs| jobs.file_name().is_some_and(is_for_jobs));
            if let Some(jobs) = jobs.filter(|_| removed) {
                // Refused while other jobs have groups in it.
                let _ = fs::remove_dir(jobs);
            }
            gone && removed
        })
    }

    /// Processor time of all members so far, the ended ones included.
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        if let Some(group) = self.with(Controller::CpuAccounting) {
            return number(&group.file("cpuacct.usage")).map(Duration::from_nanos);
        }
        let group = self.0.iter().find(|group| group.unified)?;
        let text = fs::read_to_string(group.file("cpu.stat")).ok()?;
        number_after(&text, "usage_usec").map(Duration::from_micros)
    }

    /// How many processes and threads there are now.
    #[must_use]
    pub fn tasks(&self) -> Option<u64> {
        number(&self.with(Controller::Pids)?.file("pids.current"))
    }

    /// How many processes the kernel has ended because the group was out of memory.
    #[must_use]
    pub fn memory_kills(&self) -> Option<u64> {
        let group = self.with(Controller::Memory)?;
        let name = if group.unified { "memory.events" } else { "memory.oom_control" };
        number_after(&fs::read_to_string(group.file(name)).ok()?, "oom_kill ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_their_numbers_are_told_apart() {
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 1\npopulated 1\n";
        assert_eq!(number_after(events, "oom_kill "), Some(2));
        assert_eq!(number_after(events, "populated"), Some(1));
        assert_eq!(number_after("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill "), Some(7));
        assert_eq!(number_after(events, "absent"), None);
    }

    #[test]
    fn a_group_that_is_gone_is_empty_and_no_group_proves_nothing() {
        let gone = Group { dir: "/no/such/group".into(), unified: true, controllers: Vec::new() };
        let groups = Groups(vec![gone]);
        assert!(groups.is_empty().expect("readable"));
        assert!(groups.remove());
        assert!(groups.join(1, false).expect_err("refused").contains("/no/such/group"));
        assert!(!Groups::default().is_empty().expect("readable"));
    }
}
