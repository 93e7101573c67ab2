//! What a run begins with: the commits, and what an interrupted run had left.
//!
//! Owns the footing, and the taking over of leftovers on the way to it. Invariants: base comes from the forge for new work
//! and stays for work under way; what an earlier run left is taken in, or kept in the vault, before its folder goes.

use orch_adapters::git::{Imported, RepoGit};
use orch_domain::ids::{CommitSha, RunId};
use orch_domain::journal::Entry;
use orch_domain::names::BranchName;
use orch_store::Subject;
use serde::{Deserialize, Serialize};

use super::{Attempt, Folders, NAMED, Taken, Untaken};
use crate::artefacts;
use crate::context::RepoRuntime;
use crate::run_rows;

/// The commits that a run begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Footing {
    pub(super) main: BranchName,
    /// Where `main` is now: shown to the agent as `origin/<main>`, so that a conflict can be resolved against it.
    pub(super) main_at: CommitSha,
    pub(super) base: CommitSha,
    pub(super) start: CommitSha,
}

impl Attempt {
    /// Base and head of work that has commits. A head that is the base is none: it must not hold the work at an old main.
    pub(super) fn committed(&self) -> Option<(&CommitSha, &CommitSha)> {
        self.task.base.as_ref().zip(self.task.head.as_ref()).filter(|(base, head)| base != head)
    }

    /// Base from the forge for new work; for work under way its own, with whatever an interrupted run left on top.
    pub(super) async fn footing(&self, repo: &RepoRuntime, git: &RepoGit) -> Result<Footing, String> {
        let main = repo.main_for(&self.task).await?;
        let main_at = git.fetch_main(&main).await.map_err(|e| format!("{main} cannot be fetched: {e}"))?;
        let (base, mut start) = match self.committed() {
            Some((base, head)) => (base.clone(), head.clone()),
            None => (main_at.clone(), main_at.clone()),
        };
        for n in 1..self.task.counters.runs {
            let run = self.task.run_id(n);
            let left = Folders::of(&self.ctx, &run);
            if !left.tree.exists() {
                // Half made, or cleared away before its result was recorded: what was taken out of it is still known.
                artefacts::discard(&left.root);
                if let Some(head) = self.taken_out(git, &run, &start).await {
                    start = head;
                }
                continue;
            }
            self.say("taking over what an interrupted run left");
            let (main, main_at) = (main.clone(), main_at.clone());
            let footing = Footing { main, main_at, base: base.clone(), start: start.clone() };
            match self.capture(git, &run, &left, &footing, self.leftovers_message()).await {
                Ok(Taken { imported, left: more }) => {
                    let before = start.clone();
                    let fits = imported.new && imported.continues && self.may_keep(git, &before, &imported).await;
                    let refused = (imported.new && !fits).then(|| "its commits cannot be gone on from".to_owned());
                    if fits {
                        start = imported.head;
                    }
                    self.leave(git, &run, &left, more.in_short().or(refused)).await;
                }
                Err(Untaken::Agents(why) | Untaken::Ours(why)) => {
                    artefacts::salvage_or_quarantine(&self.ctx, git, &self.task, &run, &left.root, &why).await;
                }
            }
        }
        Ok(Footing { main, main_at, base, start })
    }

    /// Says once for each life what an agent and the tests will find empty: nothing of it is fetched, and whoever sees tests
    /// fail for want of it is to know why.
    pub(super) async fn tell_of_submodules(&self, git: &RepoGit, footing: &Footing) {
        let paths = match git.submodules_at(&footing.base, NAMED).await {
            Ok(paths) if paths.is_empty() => return,
            Ok(paths) => paths,
            Err(error) => {
                tracing::warn!(task.id = %self.task.id, %error, "whether {} has submodules is not known", self.task.key);
                return;
            }
        };
        let more = if paths.len() < NAMED { "" } else { ", ..." };
        let text = format!(
            "submodules are not fetched, so these folders are empty for agents, checks and tests: {}{more}; what needs them \
             fetches them itself (`commands.setup`, or the agent's command)",
            paths.join(", ")
        );
        let entry = Entry::new("submodules", text).with(serde_json::json!({"paths": paths}));
        if let Err(error) = self.ctx.store.append(Subject::task(&self.task), vec![entry], self.ctx.now()).await {
            tracing::warn!(task.id = %self.task.id, %error, "that {} has submodules is not in its journal", self.task.key);
        }
    }

    /// Ends a workspace whose commits were taken out: what is in it besides is kept first.
    pub(super) async fn leave(&self, git: &RepoGit, run: &RunId, folders: &Folders, left: Option<String>) {
        match left {
            Some(why) => {
                artefacts::salvage_or_quarantine(&self.ctx, git, &self.task, run, &folders.root, &why).await;
            }
            None => artefacts::discard(&folders.root),
        }
    }

    /// What was taken out of a run whose result was never recorded: its supervisor ended in between.
    async fn taken_out(&self, git: &RepoGit, run: &RunId, start: &CommitSha) -> Option<CommitSha> {
        let runs = self.ctx.store.runs(&self.task.id).await.ok()?;
        runs.iter().find(|r| r.run.id == *run && run_rows::was_cut_off(r))?;
        let head = git.imported_head(&self.task.id, run).await.ok()??;
        let continues = head != *start && git.contains(start, &head).await.unwrap_or(false);
        let keep = continues && (self.role().may_change_code() || self.only_artefacts(git, start, &head).await);
        keep.then_some(head)
    }

    async fn only_artefacts(&self, git: &RepoGit, from: &CommitSha, to: &CommitSha) -> bool {
        self.foreign_paths(git, from, to).await.is_ok_and(|paths| paths.is_empty())
    }

    /// Roles that may not change code take over only what stays in the artefact folder.
    async fn may_keep(&self, git: &RepoGit, start: &CommitSha, imported: &Imported) -> bool {
        self.role().may_change_code() || self.only_artefacts(git, start, &imported.head).await
    }

    pub(super) async fn foreign_paths(
        &self,
        git: &RepoGit,
        from: &CommitSha,
        to: &CommitSha,
    ) -> Result<Vec<String>, String> {
        let folder = format!("{}/", artefacts::folder(&self.task));
        let changed = git.changed_paths(from, to).await.map_err(|e| e.to_string())?;
        Ok(changed.into_iter().map(|c| c.path).filter(|p| !p.starts_with(&folder)).take(NAMED).collect())
    }
}
