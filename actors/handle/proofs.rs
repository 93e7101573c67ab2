//! The handle's answers about landings: their proofs, and whether they still stand.
//!
//! Owns the check of a proof: the chain of lines, the commit on the forge's `main`, its tree and base, and every report
//! byte for byte. Invariant: what cannot be looked at is said to be wrong, or the whole question fails; nothing is passed
//! over. Refuses to mend anything.

use std::str::FromStr as _;

use orch_adapters::git::GitError;
use orch_domain::gate::{GateName, Verdict};
use orch_domain::names::RepoName;
use orch_store::Landing;

use super::{Handle, store_error};
use crate::api::{ControlError, GateProof, ProofCheck, ProofQuery, ProofView};
use crate::context::RepoRuntime;
use crate::gates::ReportRef;
use crate::gates::conclude::reread;

impl Handle {
    /// The proofs that are asked for, newest first within their repository.
    pub(super) async fn proof_views(&self, asked: ProofQuery) -> Result<Vec<ProofView>, ControlError> {
        let mut of_repos: Vec<(RepoName, Vec<Landing>)> = Vec::new();
        match (&asked.task, &asked.repo) {
            (Some(key), _) => {
                let mut found = Vec::new();
                for task in self.lives(key).await? {
                    found.extend(self.ctx.store.landing_of(&task.id).await.map_err(store_error)?);
                }
                if found.is_empty() {
                    return Err(ControlError::Conflict(format!("{key} has not landed: there is no proof yet")));
                }
                for line in found {
                    of_repos.push((line.repo.clone(), vec![line]));
                }
            }
            (None, Some(repo)) => {
                if self.ctx.repo(repo).is_none() {
                    let known: Vec<&str> = self.ctx.repos.keys().map(RepoName::as_str).collect();
                    let text = format!("there is no repository `{repo}`; known: {}", known.join(", "));
                    return Err(ControlError::NotFound(text));
                }
                of_repos.push((repo.clone(), self.lines_of(repo).await?));
            }
            (None, None) => {
                for repo in self.ctx.repos.keys() {
                    of_repos.push((repo.clone(), self.lines_of(repo).await?));
                }
            }
        }
        let mut views = Vec::new();
        for (repo, lines) in of_repos {
            match asked.verify && !lines.is_empty() {
                true => views.extend(self.checked(&repo, lines).await?),
                false => views.extend(lines.into_iter().map(ProofView::from)),
            }
        }
        Ok(views)
    }

    async fn lines_of(&self, repo: &RepoName) -> Result<Vec<Landing>, ControlError> {
        let mut lines = self.ctx.store.landings(repo).await.map_err(store_error)?;
        lines.reverse();
        Ok(lines)
    }

    async fn checked(&self, name: &RepoName, lines: Vec<Landing>) -> Result<Vec<ProofView>, ControlError> {
        let Some(repo) = self.ctx.repo(name) else {
            let text = format!("{name} is not in the settings any more: what landed there cannot be compared with it");
            return Err(ControlError::Conflict(text));
        };
        let away = |error: &dyn std::fmt::Display| {
            ControlError::Unavailable(format!("main of {name} cannot be looked at: {error}"))
        };
        let main = repo.main().await.map_err(|error| away(&error))?;
        let main_at = repo.git.fetch_main(&main).await.map_err(|error| away(&error))?;
        let broken = self.ctx.store.verify_landings(name).await.map_err(store_error)?;
        let mut views = Vec::new();
        for line in lines {
            let mut wrong = Vec::new();
            if broken == Some(line.id) {
                wrong.push("the chain of proofs does not fit here: this line or one before it was changed".to_owned());
            }
            let view = ProofView::from(line);
            compared(repo, &view, &main_at, &mut wrong).await.map_err(|error| away(&error))?;
            for gate in &view.gates {
                wrong.extend(report_is_wrong(&view, gate).await);
            }
            views.push(ProofView { check: Some(ProofCheck { main_at: main_at.clone(), wrong }), ..view });
        }
        Ok(views)
    }
}

/// Compares a proof with the repository.
async fn compared(
    repo: &RepoRuntime,
    view: &ProofView,
    main_at: &orch_domain::ids::CommitSha,
    wrong: &mut Vec<String>,
) -> Result<(), GitError> {
    let git = &repo.git;
    if !git.has_commit(&view.sha).await? {
        wrong.push(format!("commit {} is not there any more", view.sha.short()));
        return Ok(());
    }
    if !git.contains(&view.sha, main_at).await? {
        wrong.push(format!("main at {} does not contain {}", main_at.short(), view.sha.short()));
    }
    let tree = git.tree_of(&view.sha).await?;
    if tree != view.tree.as_str() {
        wrong.push(format!("the tree of {} is {tree}, not {}", view.sha.short(), view.tree));
    }
    if let Some(tested) = view.proof.get("tested_tree").and_then(serde_json::Value::as_str)
        && tested != view.tree.as_str()
    {
        wrong.push(format!("the tree that was judged is {tested}, not the one that landed"));
    }
    if !git.has_commit(&view.base).await? || !git.contains(&view.base, &view.sha).await? {
        let (sha, base) = (view.sha.short(), view.base.short());
        wrong.push(format!("{sha} does not come after {base}, where main was: it was no fast-forward"));
    }
    Ok(())
}

/// Reads a gate's report again, where it has one.
async fn report_is_wrong(view: &ProofView, gate: &GateProof) -> Option<String> {
    let (Some(path), Some(sha256)) = (&gate.report, &gate.report_sha256) else { return None };
    let (Ok(name), Some(head)) = (GateName::from_str(&gate.gate), &gate.head) else {
        return Some(format!("the line about gate `{}` does not say what was judged", gate.gate));
    };
    let report = ReportRef {
        gate: name,
        path: path.clone(),
        sha256: sha256.clone(),
        head: head.clone(),
        base: gate.base.clone(),
    };
    match reread(&report).await {
        Err(why) => Some(why),
        Ok(read) if read.verdict != Verdict::Passed => Some(format!("the {name} report says {}", read.verdict)),
        // The security gate also judged the branch as it was before it was caught up.
        Ok(read) if read.header.tree != view.tree && name != GateName::Security => {
            Some(format!("the {name} report is about tree {}, which is not what landed", read.header.tree.short()))
        }
        Ok(_) => None,
    }
}
