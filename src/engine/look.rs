//! A data folder that nobody runs, looked at: for verbs that only read.
//!
//! Owns the desk over a store that is open for reading, and a throw-away folder for everything that such a desk might have
//! to write. Invariant: the folder that is looked at stays exactly as it is, and nothing is left of the other. Refuses to
//! begin anything: there are no actors; and to say of a folder that somebody has that nobody runs it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::sys::stat::{major, minor};
use orch_actors::context::Paths;
use orch_actors::handle::Handle;
use orch_adapters::disk::SystemDisk;
use orch_domain::names::RepoName;
use orch_store::{LOCK_FILE, OpenError, Store};

use super::{Guard, Purpose, StartError, context_over, mains};
use crate::cli::{Looked, Sight};
use crate::config::{Config, RepoConfig};

/// The desk; `None`: there is no store.
pub(super) async fn look(
    config: &Config,
    env: &BTreeMap<String, String>,
    sight: Sight,
) -> Result<Option<Looked>, StartError> {
    if let Some(pid) = owner(&config.data_dir) {
        let (dir, owner) = (config.data_dir.clone(), format!("pid {pid}"));
        return Err(StartError::Owned(OpenError::InUse { dir, owner }));
    }
    let store = match Store::read_only(&config.data_dir) {
        Ok(store) => store,
        Err(OpenError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(StartError::Store(error)),
    };
    let scratch = tempfile::Builder::new().prefix("orch-look-").tempdir();
    let scratch = scratch.map_err(|error| StartError::Settings(format!("no temporary folder: {error}")))?;
    let mut here = config.clone();
    here.data_dir = scratch.path().join("data");
    here.repos = match sight {
        Sight::Records => BTreeMap::new(),
        Sight::Repositories => repositories(config),
    };
    for name in here.repos.keys() {
        lend_vault(config, &here, name)
            .map_err(|error| StartError::Settings(format!("no way to the vault: {error}")))?;
    }
    let mut ctx = context_over(&here, env, Guard::default(), Arc::new(SystemDisk), Purpose::Look, Some(store)).await?;
    ctx.paths = Paths::under(config.data_dir.clone());
    Ok(Some(Looked { control: Arc::new(Handle::at_rest(Arc::new(ctx))), scratch: Some(scratch) }))
}

/// What is kept of stopped work is looked at where it is; all else of git's is made anew in the throw-away folder.
fn lend_vault(real: &Config, here: &Config, name: &RepoName) -> std::io::Result<()> {
    let vault = |config: &Config| config.data_dir.join("repos").join(name.as_str()).join("vault.git");
    let (from, to) = (vault(real), vault(here));
    if !from.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(to.parent().unwrap_or(&to))?;
    std::os::unix::fs::symlink(from, to)
}

/// Those that the folder knows: as configured, else where they were when tasks of them were worked on.
fn repositories(config: &Config) -> BTreeMap<RepoName, RepoConfig> {
    let mut all = BTreeMap::new();
    for name in mains::known(&config.data_dir) {
        let place = mains::place(&config.data_dir, &name).filter(|place| place.is_dir());
        let known = config.repos.get(&name).cloned();
        let Some(mut repo) =
            known.or_else(|| place.map(|path| RepoConfig { path: Some(path), ..RepoConfig::default() }))
        else {
            continue;
        };
        repo.main = repo.main.or_else(|| mains::kept(&config.data_dir, &name));
        all.insert(name, repo);
    }
    all
}

/// Who holds the lock of a data folder. The lock itself is not touched: tried for a moment, it would be in the way of whoever
/// starts in that moment. Where the system does not tell, nobody is known.
fn owner(data_dir: &Path) -> Option<u32> {
    let lock = std::fs::metadata(data_dir.join(LOCK_FILE)).ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    holder(&locks, &format!("{:02x}:{:02x}:{}", major(lock.dev()), minor(lock.dev()), lock.ino()))
}

/// `1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF`; those that wait have `->` behind the number.
fn holder(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, "WRITE", pid, of, ..] if of == file => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use orch_domain::time::Timestamp;
    use orch_store::StoreConfig;

    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_read_from_what_the_system_tells() {
        let locks = "1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 4712 fe:00:131 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 4713 fe:00:132 0 EOF\n3: FLOCK  ADVISORY  READ 4714 fe:00:133 0 EOF\n";
        assert_eq!(holder(locks, "fe:00:131"), Some(4711));
        for other in ["fe:00:132", "fe:00:133", "fe:00:13"] {
            assert_eq!(holder(locks, other), None, "{other}");
        }
    }

    #[test]
    fn a_folder_that_somebody_has_is_seen_to_be_had_and_its_lock_is_not_touched() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(owner(dir.path()), None);
        let config = StoreConfig { ballast_bytes: 0, ..StoreConfig::new(dir.path(), Timestamp(0)) };
        let store = Store::open(&config).expect("opened");
        assert_eq!(owner(dir.path()), Some(std::process::id()));
        store.close();
        assert_eq!(owner(dir.path()), None);
    }
}
