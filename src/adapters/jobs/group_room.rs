//! Where this supervisor may make control groups, in either version of the kernel's interface.
//!
//! Owns finding the place (its own group in each hierarchy), one folder there for all its jobs, and the groups of each
//! job with their limits. The folder is there only while there are jobs: who ends the last one takes it away. Refuses to touch any group but its own and those below: who runs beside it in the same group
//! stays where he is, and then the second version holds no limits, because the kernel allows none there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use orch_shim::groups::{Controller, Group, Groups, JOBS_PREFIX};

use crate::ports::JobLimits;

/// The supervisor's own place, where the second version asks for one.
const OWN: &str = "orch-supervisor";
/// How often a folder for jobs is made anew under a job that is about to begin.
const TRIES: u32 = 5;
/// Length of the period in which processor time is bounded, in microseconds.
const PERIOD: u64 = 100_000;

/// The place in one hierarchy: our own group there, in which the folder for jobs comes and goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Room {
    own: PathBuf,
    unified: bool,
    controllers: Vec<Controller>,
}

/// All places that could be had.
#[derive(Debug, Default)]
pub(super) struct GroupRoom {
    /// Name of the folder for jobs.
    name: String,
    rooms: Vec<Room>,
    why_not: Vec<String>,
}

/// The groups of one job, and which limits the kernel keeps in them.
pub(super) struct Made {
    pub(super) groups: Groups,
    pub(super) limits: Vec<String>,
}

impl GroupRoom {
    /// Looks for places and tries them. `owner` is a folder that is this supervisor's alone: it gives the name.
    pub(super) fn take(owner: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut room = Self::default();
        match fs::metadata(owner) {
            Ok(meta) => room.name = format!("{JOBS_PREFIX}{}-{}", meta.dev(), meta.ino()),
            Err(error) => {
                room.why_not.push(error.to_string());
                return room;
            }
        }
        for mut place in hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup")) {
            match place.open(&room.name) {
                Ok(controllers) => {
                    place.controllers = controllers;
                    room.rooms.push(place);
                }
                Err(error) => room.why_not.push(format!("`{}`: {error}", place.own.display())),
            }
        }
        // What tells who belongs to a job comes first: the second version ends all at once, the freezer nearly so.
        room.rooms.sort_by_key(|place| (!place.unified, !place.controllers.contains(&Controller::Freezer)));
        room.clear_empty();
        if !room.rooms.first().is_some_and(Room::can_track) {
            room.rooms.clear();
        }
        room
    }

    /// Whether there is a place at all.
    pub(super) fn is_had(&self) -> bool {
        !self.rooms.is_empty()
    }

    /// For people: what is had, or why nothing is.
    pub(super) fn describe(&self) -> String {
        if self.rooms.is_empty() {
            let why = if self.why_not.is_empty() { "none is mounted".to_owned() } else { self.why_not.join("; ") };
            return format!("not available: {why}");
        }
        let version = match (self.rooms.iter().any(|r| r.unified), self.rooms.iter().any(|r| !r.unified)) {
            (true, true) => "versions 2 and 1",
            (true, false) => "version 2",
            (false, _) => "version 1",
        };
        let mut limits: Vec<&str> = self.rooms.iter().flat_map(|r| &r.controllers).filter_map(|c| word(*c)).collect();
        limits.sort_unstable();
        limits.dedup();
        let limits = if limits.is_empty() { "none".to_owned() } else { limits.join(", ") };
        format!("{version}, one for each job; limits held by the kernel: {limits}")
    }

    /// Makes the groups of a job, with its limits.
    pub(super) fn make(&self, job: &str, limits: &JobLimits) -> io::Result<Made> {
        let mut made = Made { groups: Groups::default(), limits: Vec::new() };
        for (number, room) in self.rooms.iter().enumerate() {
            let first = |c: &Controller| number == 0 && *c == Controller::Freezer;
            let wanted = room.controllers.iter().copied().filter(|c| is_wanted(*c, limits) || first(c));
            let wanted: Vec<Controller> = wanted.collect();
            if number > 0 && wanted.is_empty() {
                continue;
            }
            let dir = room.own.join(&self.name).join(job);
            let group = Group { dir: dir.clone(), unified: room.unified, controllers: wanted };
            let bounded = self.make_folder(room, &dir).and_then(|()| bound(&group, limits));
            made.groups.0.push(group);
            match bounded {
                Ok(kept) => made.limits.extend(kept),
                Err(error) => {
                    made.groups.remove();
                    return Err(io::Error::new(error.kind(), format!("control group `{}`: {error}", dir.display())));
                }
            }
        }
        Ok(made)
    }

    /// The folder for jobs goes with the last of them, so it may have to be made first; more than once, if the last job
    /// of somebody ends at that very moment.
    fn make_folder(&self, room: &Room, dir: &Path) -> io::Result<()> {
        for _ in 0..TRIES {
            match fs::create_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => drop(room.open(&self.name)?),
                made => return made,
            }
        }
        fs::create_dir(dir)
    }

    /// Takes away what is left of one job's groups, once nobody is in them.
    pub(super) fn forget(&self, job: &str) {
        let groups = self.rooms.iter().map(|room| Group {
            dir: room.own.join(&self.name).join(job),
            unified: room.unified,
            controllers: Vec::new(),
        });
        Groups(groups.collect()).remove();
    }

    /// Takes away the groups that have no member any more: of jobs whose guard could not do it.
    fn clear_empty(&self) {
        for room in &self.rooms {
            let jobs = room.own.join(&self.name);
            for group in fs::read_dir(&jobs).into_iter().flatten().flatten() {
                if group.file_type().is_ok_and(|kind| kind.is_dir()) {
                    // Refused while somebody is in it.
                    let _ = fs::remove_dir(group.path());
                }
            }
            let _ = fs::remove_dir(jobs);
        }
    }
}

impl Room {
    /// Makes the folder for jobs, if it is not there; answers which controllers can be used in it.
    fn open(&self, name: &str) -> io::Result<Vec<Controller>> {
        let jobs = self.own.join(name);
        match fs::create_dir(&jobs) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(if self.unified { delegate(&self.own, &jobs) } else { self.controllers.clone() })
    }

    /// Whether it can tell who belongs to a job.
    fn can_track(&self) -> bool {
        let tells = |c: &Controller| matches!(c, Controller::Freezer | Controller::Pids);
        self.unified || self.controllers.iter().any(tells)
    }
}

fn word(controller: Controller) -> Option<&'static str> {
    match controller {
        Controller::Memory => Some("memory"),
        Controller::Pids => Some("processes"),
        Controller::Cpu => Some("processors"),
        Controller::CpuAccounting | Controller::Freezer => None,
    }
}

fn is_wanted(controller: Controller, limits: &JobLimits) -> bool {
    match controller {
        Controller::Memory => limits.memory_bytes.is_some(),
        Controller::Pids => limits.processes.is_some(),
        Controller::Cpu => limits.cpus_milli.is_some(),
        Controller::CpuAccounting => limits.cpu_time.is_some(),
        // Only where it is what tells who belongs to a job.
        Controller::Freezer => false,
    }
}

/// Writes the limits of a job into one of its groups; answers which are kept from here on.
fn bound(group: &Group, limits: &JobLimits) -> io::Result<Vec<String>> {
    let mut kept = Vec::new();
    let set = |name: &str, value: String| fs::write(group.dir.join(name), value);
    for controller in &group.controllers {
        match controller {
            Controller::Memory => {
                let Some(most) = limits.memory_bytes else { continue };
                if group.unified {
                    set("memory.max", most.to_string())?;
                    // All or nothing: half a job is no use. Swap would only make it slow first.
                    let _ = set("memory.oom.group", "1".to_owned());
                    let _ = set("memory.swap.max", "0".to_owned());
                } else {
                    set("memory.limit_in_bytes", most.to_string())?;
                    let _ = set("memory.memsw.limit_in_bytes", most.to_string());
                }
            }
            Controller::Pids => {
                let Some(most) = limits.processes else { continue };
                set("pids.max", (u64::from(most) * orch_shim::FUSE).to_string())?;
            }
            Controller::Cpu => {
                let Some(most) = limits.cpus_milli else { continue };
                let quota = (u64::from(most) * PERIOD / 1000).max(1000);
                if group.unified {
                    set("cpu.max", format!("{quota} {PERIOD}"))?;
                } else {
                    set("cpu.cfs_period_us", PERIOD.to_string())?;
                    set("cpu.cfs_quota_us", quota.to_string())?;
                }
            }
            Controller::CpuAccounting | Controller::Freezer => continue,
        }
        kept.extend(word(*controller).map(str::to_owned));
    }
    Ok(kept)
}

/// Hands controllers of the second version down to the folder for jobs, as far as the kernel lets us.
fn delegate(own: &Path, room: &Path) -> Vec<Controller> {
    let offered = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    let wanted = [("memory", Controller::Memory), ("pids", Controller::Pids), ("cpu", Controller::Cpu)];
    let wanted: Vec<_> =
        wanted.into_iter().filter(|(name, _)| offered.split_whitespace().any(|o| o == *name)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    make_way(own);
    let hand_down = |(name, controller): (&str, Controller)| {
        let down = |dir: &Path| fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"));
        (down(own).is_ok() && down(room).is_ok()).then_some(controller)
    };
    wanted.into_iter().filter_map(hand_down).collect()
}

/// A group with controllers for others must have no process of its own, unless it is the root: this one moves down, if
/// it is alone there.
fn make_way(own: &Path) {
    let is_root = !own.join("cgroup.events").exists();
    let me = std::process::id().to_string();
    let members = fs::read_to_string(own.join("cgroup.procs")).unwrap_or_default();
    if is_root || !members.lines().eq([me.as_str()]) {
        return;
    }
    let lower = own.join(OWN);
    let moved = match fs::create_dir(&lower) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::write(lower.join("cgroup.procs"), me),
    };
    if let Err(error) = moved {
        tracing::info!(%error, "the supervisor could not move to `{}`; control groups hold no limits", lower.display());
    }
}

/// The supervisor's own group in each hierarchy that is of use, from the kernel's two tables.
fn hierarchies(mounts: &str, memberships: &str) -> Vec<Room> {
    let mut found: Vec<Room> = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        let (Some(root), Some(place), Some(kind)) = (left.get(3), left.get(4), right.first()) else { continue };
        let options: Vec<&str> = right.last().map(|options| options.split(',').collect()).unwrap_or_default();
        let unified = *kind == "cgroup2";
        let controllers: Vec<Controller> = options.iter().filter_map(|name| controller(name)).collect();
        if !unified && (*kind != "cgroup" || controllers.is_empty()) {
            continue;
        }
        let Some(path) = membership(memberships, unified, &options) else { continue };
        // The mount may show a part of the hierarchy only.
        let Ok(below) = Path::new(path).strip_prefix(root) else { continue };
        let mut own = Path::new(place).join(below);
        if own.file_name().is_some_and(|name| name == OWN) {
            own.pop();
        }
        let controllers = if unified { Vec::new() } else { controllers };
        // The same hierarchy may be mounted more than once.
        if !found.iter().any(|known| known.unified == unified && known.controllers == controllers) {
            found.push(Room { own, unified, controllers });
        }
    }
    found
}

fn controller(name: &str) -> Option<Controller> {
    match name {
        "memory" => Some(Controller::Memory),
        "pids" => Some(Controller::Pids),
        "cpu" => Some(Controller::Cpu),
        "cpuacct" => Some(Controller::CpuAccounting),
        "freezer" => Some(Controller::Freezer),
        _ => None,
    }
}

/// Our path in a hierarchy: a line is `number:controllers:path`, without controllers for the second version.
fn membership<'a>(memberships: &'a str, unified: bool, options: &[&str]) -> Option<&'a str> {
    memberships.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = match unified {
            true => names.is_empty(),
            false => !names.is_empty() && names.split(',').all(|name| options.contains(&name)),
        };
        ours.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "\
30 1 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
34 30 0:29 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
35 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";
    const IN_BOTH: &str = "9:devices:/\n5:cpu,cpuacct:/a\n4:memory:/docker/abc/x\n3:freezer:/docker\n0::/u\n";

    #[test]
    fn finds_our_own_group_in_each_useful_hierarchy() {
        let found = hierarchies(BOTH, IN_BOTH);
        let shown: Vec<_> =
            found.iter().map(|r| (r.own.to_str().expect("text"), r.unified, r.controllers.len())).collect();
        let expected = [
            ("/sys/fs/cgroup/cpu,cpuacct/a", false, 2),
            ("/sys/fs/cgroup/memory/x", false, 1),
            ("/sys/fs/cgroup/freezer/docker", false, 1),
            ("/sys/fs/cgroup/unified/u", true, 0),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_supervisor_that_has_moved_down_before_finds_its_place_above() {
        let mounts = "35 30 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = hierarchies(mounts, "0::/system.slice/orch.service/orch-supervisor\n");
        assert_eq!(found[0].own, Path::new("/sys/fs/cgroup/system.slice/orch.service"));
        assert!(hierarchies(mounts, "4:memory:/\n").is_empty());
        assert!(hierarchies("", IN_BOTH).is_empty());
    }
}
