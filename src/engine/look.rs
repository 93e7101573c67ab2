//! A data folder that nobody runs, looked at: for verbs that only read.
//!
//! Owns the desk over a store that is open for reading, and a throw-away folder for everything that such a desk might have
//! to write. Invariant: the folder that is looked at stays exactly as it is, and nothing is left of the other. Refuses to
//! begin anything: there are no actors.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_actors::context::Paths;
use orch_actors::handle::Handle;
use orch_adapters::disk::SystemDisk;
use orch_domain::names::RepoName;
use orch_store::{OpenError, Store};

use super::{Guard, Purpose, StartError, context_over, mains};
use crate::cli::{Looked, Sight};
use crate::config::{Config, RepoConfig};

/// The desk; `None`: there is no store.
pub(super) async fn look(
    config: &Config,
    env: &BTreeMap<String, String>,
    sight: Sight,
) -> Result<Option<Looked>, StartError> {
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
    let mut ctx = context_over(&here, env, Guard::default(), Arc::new(SystemDisk), Purpose::Look, Some(store)).await?;
    ctx.paths = Paths::under(config.data_dir.clone());
    Ok(Some(Looked { control: Arc::new(Handle::at_rest(Arc::new(ctx))), scratch: Some(scratch) }))
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
