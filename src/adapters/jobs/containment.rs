//! How jobs are held and walled in on this host: what it offers, what of that is used, and what a job gets.
//!
//! Owns the probe (by the guard's own program, which tries), the choice for each job, and the words for people. The best
//! that is offered is used; what is missing is said, and recorded with each job, never passed over. Refuses to use
//! namespaces for the operator's own commands (deploys may need `sudo` or the host's services) and for our git commands,
//! which run thousands of times and run nothing of the workspace.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use orch_domain::ids::JobId;
use orch_domain::job::{Containment, Enforced};
use orch_shim::PROBE;
use orch_shim::groups::Groups;
use orch_shim::spec::{Namespaces, Namespacing, Offer};

use super::group_room::GroupRoom;
use super::user_room::{UserRange, UserRoom, closed_ways};
use crate::ports::JobSpec;

/// Most bytes in a job's own `/dev/shm`.
const SHARED_MEMORY: u64 = 1 << 30;
/// Where programs put what is temporary, whatever they are told.
const TEMPORARY: &str = "/tmp";
/// Where services keep their sockets: hidden from confined jobs.
const SERVICES: &str = "/run";
/// What programs need from there all the same: names are looked up through the first two, the rest is where some systems
/// keep programs.
const SERVICES_KEPT: &[&str] =
    &["/run/systemd/resolve", "/run/nscd", "/run/current-system", "/run/wrappers", "/run/opengl-driver"];
/// Often a link into the folder of services.
const RESOLVER: &str = "/etc/resolv.conf";

/// Which of the host's means are used. All, unless an operator has to do without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// Namespaces of their own for agents, captures and gates.
    pub namespaces: bool,
    /// Control groups for all jobs.
    pub groups: bool,
    /// Users of their own for what gets namespaces, when the supervisor is root.
    pub users: Option<UserRange>,
}

impl Default for Means {
    fn default() -> Self {
        Self { namespaces: true, groups: true, users: None }
    }
}

/// What this host offers and what of it is used.
pub(super) struct Holding {
    means: Means,
    offer: Offer,
    groups: GroupRoom,
    /// Where users of their own are given, if they are.
    pub(super) users: Option<UserRoom>,
    runtime_dir: PathBuf,
}

/// What one job gets.
pub(super) struct Held {
    pub(super) namespaces: Option<Namespaces>,
    pub(super) groups: Groups,
    pub(super) containment: Containment,
    pub(super) enforced: Enforced,
}

impl Holding {
    /// Looks at the host. `program` is what shims are made of; `owner` a folder of this supervisor alone.
    pub(super) fn look(program: &Path, args: &[String], means: Means, owner: &Path, runtime_dir: &Path) -> Self {
        let groups = if means.groups { GroupRoom::take(owner) } else { GroupRoom::default() };
        let offer = probe(program, args);
        let own = means.namespaces && offer.namespaces == Namespacing::Own;
        let users = means.users.filter(|_| own && nix::unistd::geteuid().is_root()).map(UserRoom::new);
        Self { means, offer, groups, users, runtime_dir: runtime_dir.to_owned() }
    }

    /// Makes what a job gets. What cannot be made is left out, said, and missing in the job's record.
    pub(super) fn prepare(&self, spec: &JobSpec) -> Held {
        let namespaces = self.namespaces(spec);
        let made = self.groups.is_had().then(|| self.groups.make(spec.id.as_str(), &spec.limits));
        let made = made.transpose().unwrap_or_else(|error| {
            tracing::warn!(job.id = %spec.id, %error, "job {} gets no control group", spec.id);
            None
        });
        let asked = spec.confinement.enforced;
        let landlock = if asked { self.offer.landlock } else { 0 };
        let user = spec.confinement.uid;
        // A group that the job can write proves nothing: landlock keeps it from that, or another user does.
        let walled_off = landlock > 0 || user.is_some_and(|user| user != 0);
        let enforced = Enforced {
            asked,
            landlock,
            scoped: orch_shim::landlock_scopes(landlock),
            own_view: namespaces.is_some(),
            own_tmp: namespaces.as_ref().is_some_and(|own| own.tmp.is_some()),
            user,
            kernel_limits: made.as_ref().map(|made| made.limits.clone()).unwrap_or_default(),
        };
        Held {
            containment: Containment::of(namespaces.is_some(), made.is_some() && walled_off),
            groups: made.map(|made| made.groups).unwrap_or_default(),
            namespaces,
            enforced,
        }
    }

    /// Takes away what is left of a job whose guard could not do it.
    pub(super) fn forget(&self, job: &JobId) {
        self.groups.forget(job.as_str());
    }

    fn namespaces(&self, spec: &JobSpec) -> Option<Namespaces> {
        if !self.means.namespaces || !spec.kind.is_walled() {
            return None;
        }
        let user = match self.offer.namespaces {
            Namespacing::Own => false,
            Namespacing::User => true,
            Namespacing::None { .. } => return None,
        };
        let confinement = &spec.confinement;
        // Nobody but the supervisor has business with the guards' sockets.
        let mut hide = vec![self.runtime_dir.clone()];
        let mut keep: BTreeSet<PathBuf> = BTreeSet::new();
        if confinement.enforced {
            hide.push(SERVICES.into());
            hide.extend(confinement.deny.iter().cloned());
            keep.extend(SERVICES_KEPT.iter().map(PathBuf::from));
            keep.extend(fs::canonicalize(RESOLVER).ok().and_then(|file| file.parent().map(Path::to_owned)));
        }
        keep.extend(confinement.write.iter().chain(&confinement.read).cloned());
        keep.insert(spec.cwd.clone());
        keep.extend(spec.argv.first().map(PathBuf::from));
        keep.extend(
            spec.env.get("PATH").map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default(),
        );
        // Its own temporary folder stands in for `/tmp`, unless something that it works with lies there.
        let lies_in_tmp = |path: &PathBuf| path.starts_with(TEMPORARY);
        let tmp = spec.env.get("TMPDIR").map(PathBuf::from).filter(|tmp| {
            let own = confinement.write.iter().any(|folder| tmp.starts_with(folder)) && tmp.is_dir();
            confinement.enforced && own && !keep.iter().any(lies_in_tmp)
        });
        // Another user cannot go through what is closed to others: hidden, it is open, and empty but for what is kept.
        hide.extend(confinement.uid.into_iter().flat_map(|uid| closed_ways(&keep, uid)));
        // `/` would be everything: then nothing could be hidden below it.
        let keep = keep.into_iter().filter(|path| path.is_absolute() && path.parent().is_some()).collect();
        Some(Namespaces { user, hide, keep, tmp, shm_bytes: SHARED_MEMORY })
    }

    /// A line for each of the host's means.
    pub(super) fn describe(&self) -> Vec<String> {
        let landlock = match self.offer.landlock {
            0 => "landlock: not available in this kernel; confined jobs are not held to their folders".to_owned(),
            version if orch_shim::landlock_scopes(version) => {
                format!("landlock: version {version}; folders are enforced, jobs cannot signal their shim")
            }
            version => format!("landlock: version {version}; folders are enforced, signals to the shim are not"),
        };
        let namespaces = match (&self.offer.namespaces, self.means.namespaces) {
            (_, false) => "switched off by `containment.namespaces`".to_owned(),
            (Namespacing::Own, true) => "in use for agents and gates: own processes, /proc, /dev/shm".to_owned(),
            (Namespacing::User, true) => {
                "in use for agents and gates, through user namespaces: own processes, /proc, /dev/shm".to_owned()
            }
            (Namespacing::None { why }, true) => format!("not available: {why}"),
        };
        let groups = match self.means.groups {
            true => self.groups.describe(),
            false => "switched off by `containment.cgroups`".to_owned(),
        };
        let users = self.means.users.map(|UserRange { first, last }| match self.users {
            Some(_) => format!("users: {first} to {last}, one for each agent's and gate's job"),
            None => {
                "users: not available: `containment.uids` needs a supervisor that is root, and namespaces".to_owned()
            }
        });
        let always = [
            "shim: in use; subreaper, kills until nobody is left".to_owned(),
            format!("pid namespace: {namespaces}"),
            format!("cgroup: {groups}"),
            landlock,
        ];
        always.into_iter().chain(users).collect()
    }
}

/// Asks the guard's program to try what this host offers.
fn probe(program: &Path, args: &[String]) -> Offer {
    let asked = Command::new(program)
        .args(args)
        .arg(PROBE)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let told = asked.map_err(|error| error.to_string());
    let offer = told.and_then(|output| {
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{}: {error}", output.status))
    });
    offer.unwrap_or_else(|why| {
        let why = format!("the probe by `{}` failed: {why}", program.display());
        Offer { landlock: orch_shim::landlock_abi(), namespaces: Namespacing::None { why } }
    })
}
