//! What `/proc` says about processes: who is whose child, since when, and how a process is told from its successor.
//!
//! Owns the reading and the one way to signal by pid that cannot hit a stranger. Refuses to act on a bare pid: pids come
//! back within seconds, so the start time is always compared, before and after a handle is opened.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;

use nix::sys::signal::Signal;

use crate::sys;

/// The parts of `/proc/<pid>/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: i32,
    /// One letter: `R`, `S`, `D`, `T`, `Z`, ...
    pub state: char,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgid: i32,
    /// Session.
    pub sid: i32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// Resident memory in pages.
    pub rss_pages: u64,
    /// Processor time in clock ticks, its own and that of the children it has waited for.
    pub cpu_ticks: u64,
}

impl Stat {
    /// Whether the process still runs code: neither a zombie nor dead.
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Reads one process; `None` when there is none.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name may hold spaces and brackets, so fields are counted from the last bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(") ")?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split(' ').collect();
    Some(Stat {
        pid,
        state: fields.first()?.chars().next()?,
        ppid: fields.get(1)?.parse().ok()?,
        pgid: fields.get(2)?.parse().ok()?,
        sid: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
        rss_pages: fields.get(21)?.trim().parse().unwrap_or(0),
        cpu_ticks: fields.get(11..15)?.iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum(),
    })
}

/// Identifies the running kernel: the same pid and start time in another boot is another process.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Whether the process with this pid is the one that started then, and still lives.
#[must_use]
pub fn is_same(pid: i32, start_ticks: u64) -> bool {
    stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks && stat.is_alive())
}

/// Signals a process if, and only if, it is the one that started then.
///
/// The handle is opened first and the start time compared after it: from then on the handle cannot change its process.
/// Answers whether it was signalled.
pub fn signal_same(pid: i32, start_ticks: u64, signal: Signal) -> bool {
    let Ok(handle) = sys::pidfd_open(pid) else { return false };
    stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks) && sys::pidfd_signal(handle.as_fd(), signal).is_ok()
}

/// Direct children of a process, zombies included.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    children_listed(pid).unwrap_or_else(|| {
        // Kernels without the `children` file: look at every process.
        all().into_iter().filter(|stat| stat.ppid == pid).map(|stat| stat.pid).collect()
    })
}

/// One small read per thread; `None` when this kernel does not list children or the process is gone.
fn children_listed(pid: i32) -> Option<Vec<i32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // The thread ended meanwhile; its children are listed under another one.
            Err(_) if !thread.path().exists() => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

/// Every process that `/proc` shows.
#[must_use]
pub fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter_map(stat).collect()
}

/// All living descendants of a process, nearest first. A look, not a proof: what forks meanwhile may be missing.
#[must_use]
pub fn descendants(root: i32) -> Vec<Stat> {
    if children_listed(root).is_some() {
        return walk(root, children);
    }
    let mut by_parent: HashMap<i32, Vec<i32>> = HashMap::new();
    for stat in all() {
        by_parent.entry(stat.ppid).or_default().push(stat.pid);
    }
    walk(root, |pid| by_parent.get(&pid).cloned().unwrap_or_default())
}

fn walk(root: i32, children_of: impl Fn(i32) -> Vec<i32>) -> Vec<Stat> {
    let mut found: Vec<Stat> = Vec::new();
    let mut queue = children_of(root);
    while let Some(pid) = queue.pop() {
        let Some(stat) = stat(pid) else { continue };
        // A pid that came back elsewhere in the tree could make a loop.
        if found.iter().any(|known| known.pid == pid) {
            continue;
        }
        queue.extend(children_of(pid));
        if stat.is_alive() {
            found.push(stat);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_whose_command_holds_brackets_and_spaces() {
        let line = "42 (a) b (c)) S 7 8 9 0 -1 4194560 1 0 0 0 1 2 3 4 20 0 1 0 12345 1000 77 184467";
        let stat = parse_stat(line).expect("a well-formed line");
        assert_eq!((stat.pid, stat.state, stat.ppid, stat.pgid, stat.sid), (42, 'S', 7, 8, 9));
        assert_eq!((stat.start_ticks, stat.rss_pages, stat.cpu_ticks), (12345, 77, 10));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn tells_a_process_from_one_with_another_start_time() {
        let me = stat(std::process::id().try_into().expect("a pid")).expect("this process");
        assert!(is_same(me.pid, me.start_ticks));
        assert!(!is_same(me.pid, me.start_ticks + 1));
        assert!(!signal_same(me.pid, me.start_ticks + 1, Signal::SIGKILL));
    }

    #[test]
    fn sees_children_until_they_are_waited_for() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let pid = i32::try_from(child.id()).expect("a pid");
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(children(me).contains(&pid));
        assert!(descendants(me).iter().any(|stat| stat.pid == pid));
        drop(child.stdin.take());
        child.wait().expect("cat ends");
        assert!(!children(me).contains(&pid));
    }
}
