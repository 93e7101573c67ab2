//! The handle's part about salvages: what is kept in the vaults, and how it is given back.
//!
//! Owns the translation into views. Refuses to write into a folder that is there already, and into any of ours: what is
//! restored is for people.

use std::path::{Path, PathBuf};

use orch_adapters::git::{GitError, Owner, Salvage, SalvageError};
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoName;

use super::Handle;
use crate::api::{ControlError, Restored, SalvageView};
use crate::context::RepoRuntime;

impl Handle {
    pub(super) async fn salvages_of(&self, only: Option<&RepoName>) -> Result<Vec<SalvageView>, ControlError> {
        let repos: Vec<&RepoName> = match only {
            Some(name) => {
                self.vault(name)?;
                vec![name]
            }
            None => self.ctx.repos.keys().collect(),
        };
        let mut views = Vec::new();
        for name in repos {
            let git = self.vault(name)?.git.for_owner(Owner::default());
            let all = git.list_salvage().await.map_err(|e| ControlError::Internal(e.to_string()))?;
            views.extend(all.into_iter().map(|salvage| self.view(name, salvage)));
        }
        views.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.id.cmp(&b.id)));
        Ok(views)
    }

    pub(super) async fn restore(&self, name: &RepoName, id: &str, into: PathBuf) -> Result<Restored, ControlError> {
        let git = self.vault(name)?.git.for_owner(Owner::default());
        if !into.is_absolute() {
            return Err(ControlError::Invalid(format!("`{}` is no absolute path", into.display())));
        }
        if is_below(&into, &self.ctx.paths.data) {
            let text = format!("`{}` lies in the data folder; name a folder of your own", into.display());
            return Err(ControlError::Invalid(text));
        }
        match git.restore_salvage(id, &into).await {
            Ok(files) => Ok(Restored { into, files }),
            Err(error @ SalvageError::NoSuch(_)) => Err(ControlError::NotFound(error.to_string())),
            Err(SalvageError::Git(GitError::Exists { path })) => {
                Err(ControlError::Conflict(format!("`{}` exists already; name a new folder", path.display())))
            }
            Err(error) => Err(ControlError::Unavailable(error.to_string())),
        }
    }

    fn vault(&self, name: &RepoName) -> Result<&RepoRuntime, ControlError> {
        let known = || self.ctx.repos.keys().map(RepoName::as_str).collect::<Vec<_>>().join(", ");
        let missing = || ControlError::NotFound(format!("repository `{name}` is not configured; known: {}", known()));
        self.ctx.repo(name).map(AsRef::as_ref).ok_or_else(missing)
    }

    fn view(&self, repo: &RepoName, salvage: Salvage) -> SalvageView {
        let number = |name: &str| salvage.about.lines().find_map(|l| l.strip_prefix(name))?.parse::<u64>().ok();
        let heads: Vec<CommitSha> =
            salvage.about.lines().filter_map(|l| l.strip_prefix("head: ")?.parse().ok()).collect();
        SalvageView {
            repo: repo.clone(),
            at: salvage.at,
            until: salvage.at.after(self.ctx.retention.salvage),
            files: number("files: "),
            bytes: number("bytes: "),
            heads,
            id: salvage.id,
            commit: salvage.commit,
            about: salvage.about,
        }
    }
}

/// Whether a path, or what its nearest existing folder really is, lies in a folder.
fn is_below(path: &Path, folder: &Path) -> bool {
    let real = |p: &Path| p.canonicalize().ok();
    let Some(folder) = real(folder) else { return false };
    path.ancestors().find_map(real).is_some_and(|there| there.starts_with(&folder))
}
