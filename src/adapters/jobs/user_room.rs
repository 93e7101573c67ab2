//! Users of their own for jobs, out of a range that nobody else on the host has.
//!
//! Owns who has which user, and that the folders of a job belong to it. A user is free when no process of the host has it, which
//! the kernel knows also of jobs of an earlier supervisor and of remains that nobody could end, and when it was not just
//! given away. Refuses two jobs of one user, and to follow links. Folders outside of what is closed to jobs are never
//! given away: they are not ours.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use orch_domain::ids::JobId;
use orch_shim::record::EXIT_FILE;

use crate::ports::{Confinement, JobSpec};

/// Deepest folder that is given away; what lies deeper stays with its former owner.
const DEPTH: usize = 256;

/// A range of user ids that nobody else on the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRange {
    /// The first one.
    pub first: u32,
    /// The last one.
    pub last: u32,
}

/// Who has which user.
pub(super) struct UserRoom {
    range: UserRange,
    given: Mutex<Given>,
}

struct Given {
    /// User and folder of each job that is not known to be over.
    jobs: HashMap<JobId, (u32, PathBuf)>,
    /// The last one that was given, so that the next is another.
    last: u32,
}

impl UserRoom {
    pub(super) fn new(range: UserRange) -> Self {
        Self { range, given: Mutex::new(Given { jobs: HashMap::new(), last: range.last }) }
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free user for a job whose folder is `dir`.
    pub(super) fn take(&self, job: &JobId, dir: &Path) -> io::Result<u32> {
        let UserRange { first, last } = self.range;
        let mut given = self.given();
        given.jobs.retain(|_, (_, dir)| dir.exists() && !dir.join(EXIT_FILE).exists());
        let mut busy = users_at_work()?;
        busy.extend(given.jobs.values().map(|(uid, _)| *uid));
        let after = given.last;
        let in_turn = (after.saturating_add(1)..=last).chain(first..=after.min(last));
        let Some(uid) = in_turn.into_iter().find(|uid| !busy.contains(uid)) else {
            let number = u64::from(last - first) + 1;
            let text = format!("none of the {number} users from {first} to {last} is free; widen `containment.uids`");
            return Err(io::Error::other(text));
        };
        given.last = uid;
        given.jobs.insert(job.clone(), (uid, dir.to_owned()));
        Ok(uid)
    }

    /// The job is over, or did not begin.
    pub(super) fn give_back(&self, job: &JobId) {
        self.given().jobs.remove(job);
    }
}

/// Every user that a process of this host has, as real or as effective one.
fn users_at_work() -> io::Result<HashSet<u32>> {
    let mut found = HashSet::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        // Who has ended since has no status.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        found.extend(line.split_whitespace().filter_map(|uid| uid.parse::<u32>().ok()));
    }
    Ok(found)
}

/// Gives what a job may write to its user. Nothing works in there now, so nobody can exchange what is walked over.
pub(super) fn give_folders(confinement: &Confinement, uid: u32) -> io::Result<()> {
    let ours = |path: &&PathBuf| confinement.deny.iter().any(|closed| path.starts_with(closed));
    for folder in confinement.write.iter().filter(ours) {
        give(folder, uid, 0).map_err(|error| {
            io::Error::new(error.kind(), format!("{} cannot be given to user {uid}: {error}", folder.display()))
        })?;
    }
    Ok(())
}

fn give(path: &Path, uid: u32, depth: usize) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if depth > 0 && is_beyond(&error) => return Ok(()),
        meta => meta?,
    };
    if (meta.uid(), meta.gid()) != (uid, uid) {
        lchown(path, Some(uid), Some(uid))?;
    }
    if meta.is_dir() && depth < DEPTH {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), uid, depth + 1)?;
        }
    }
    Ok(())
}

/// A name that no path reaches: an agent made it by going there step by step, and only it is harmed.
fn is_beyond(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENAMETOOLONG as i32)
}

/// The outermost folders on the way to `paths` that are closed to others: hidden from a job of another user, they can be gone
/// through.
pub(super) fn closed_ways<'a>(paths: impl IntoIterator<Item = &'a PathBuf>, uid: u32) -> HashSet<PathBuf> {
    let is_closed =
        |way: &Path| fs::metadata(way).is_ok_and(|meta| meta.is_dir() && meta.uid() != uid && meta.mode() & 1 == 0);
    let outermost = |path: &PathBuf| {
        let real = fs::canonicalize(path).ok()?;
        let ways: Vec<&Path> = real.ancestors().skip(1).collect();
        ways.into_iter().rev().find(|way| is_closed(way)).map(Path::to_owned)
    };
    paths.into_iter().filter_map(outermost).collect()
}

/// Whether a job gets a user of its own: what is confined, and seen through namespaces.
pub(super) fn is_for(spec: &JobSpec) -> bool {
    spec.confinement.enforced && spec.confinement.uid.is_none() && spec.kind.is_walled()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> JobId {
        name.parse().expect("an id")
    }

    #[test]
    fn each_job_has_a_user_of_its_own_until_it_is_over_and_the_next_gets_another() {
        let dir = tempfile::tempdir().expect("a folder");
        // Above what any system gives to people and services.
        let room = UserRoom::new(UserRange { first: 3_900_000_001, last: 3_900_000_003 });
        let of = |name: &str| {
            let own = dir.path().join(name);
            fs::create_dir_all(&own).expect("made");
            room.take(&job(name), &own)
        };
        assert_eq!(of("job00001").expect("free"), 3_900_000_001);
        assert_eq!(of("job00002").expect("free"), 3_900_000_002);
        room.give_back(&job("job00001"));
        assert_eq!(of("job00003").expect("free"), 3_900_000_003, "not the one that has just been given back");
        assert_eq!(of("job00004").expect("free"), 3_900_000_001);
        let none = of("job00005").expect_err("all are taken").to_string();
        assert!(none.contains("none of the 3 users") && none.contains("containment.uids"), "{none}");
        // Nobody has waited for it, and it is over all the same.
        fs::write(dir.path().join("job00002").join(EXIT_FILE), "{}").expect("written");
        assert_eq!(of("job00005").expect("free"), 3_900_000_002);
    }

    #[test]
    fn a_user_that_a_process_has_is_not_free() {
        let own = nix::unistd::geteuid().as_raw();
        assert!(users_at_work().expect("/proc is there").contains(&own));
        let room = UserRoom::new(UserRange { first: own, last: own });
        room.take(&job("job00001"), Path::new("/")).expect_err("this process has it");
    }

    #[test]
    fn closed_folders_on_the_way_are_found_from_outside() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(dir.path().join("closed/deep/own")).expect("made");
        fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o700)).expect("set");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
        let real = fs::canonicalize(dir.path()).expect("it is there");
        let found = closed_ways([&dir.path().join("closed/deep/own"), &dir.path().join("closed")], 3_900_000_001);
        assert!(found.contains(&real.join("closed")), "{found:?}");
        assert!(!found.contains(&real.join("closed/deep")), "{found:?}");
    }
}
