//! The handle's answers about landings: their proofs, and whether they still stand.
//!
//! Owns the check of a proof: the chain of lines, the commit on the forge's `main`, its tree and base, every report byte for
//! byte, and whether every landing that is known of has a line. Invariant: what cannot be looked at is said to be wrong, or
//! the whole question fails; nothing is passed over, also not what landed in a repository that has left the settings.
//! Refuses to mend anything.

use std::str::FromStr as _;

use orch_adapters::git::GitError;
use orch_domain::gate::{GateName, Verdict};
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoName;
use orch_store::{Landing, MissingLanding};
use serde_json::Value;

use super::{Handle, store_error};
use crate::api::{ControlError, GateProof, ProofCheck, ProofQuery, ProofView};
use crate::context::{Paths, RepoRuntime};
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
                let landed = self.ctx.store.landed_repos().await.map_err(store_error)?;
                if self.ctx.repo(repo).is_none() && !landed.contains(repo) {
                    let known: Vec<&str> = self.ctx.repos.keys().map(RepoName::as_str).collect();
                    let text = format!("there is no repository `{repo}`; known: {}", known.join(", "));
                    return Err(ControlError::NotFound(text));
                }
                of_repos.push((repo.clone(), self.lines_of(repo).await?));
            }
            (None, None) => {
                let landed = self.ctx.store.landed_repos().await.map_err(store_error)?;
                let left = landed.iter().filter(|repo| self.ctx.repo(repo).is_none());
                for repo in self.ctx.repos.keys().chain(left) {
                    of_repos.push((repo.clone(), self.lines_of(repo).await?));
                }
            }
        }
        let whole = asked.task.is_none();
        let mut views = Vec::new();
        for (repo, lines) in of_repos {
            match asked.verify {
                true => views.extend(self.checked(&repo, lines, whole).await?),
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

    /// Checks these lines; where they are all of a repository's, also whether they are all that there should be.
    async fn checked(&self, name: &RepoName, lines: Vec<Landing>, whole: bool) -> Result<Vec<ProofView>, ControlError> {
        let missing = match whole {
            true => self.ctx.store.missing_landings(name).await.map_err(store_error)?,
            false => Vec::new(),
        };
        if lines.is_empty() && missing.is_empty() {
            return Ok(Vec::new());
        }
        let away = |error: &dyn std::fmt::Display| {
            ControlError::Unavailable(format!("main of {name} cannot be looked at: {error}"))
        };
        let repo = self.ctx.repo(name);
        let main_at = match repo {
            Some(repo) => {
                let main = repo.main().await.map_err(|error| away(&error))?;
                Some(repo.git.fetch_main(&main).await.map_err(|error| away(&error))?)
            }
            None => None,
        };
        let broken = self.ctx.store.verify_landings(name).await.map_err(store_error)?;
        let mut views: Vec<ProofView> =
            missing.into_iter().map(|missing| without_line(name, missing, &main_at)).collect();
        for line in lines {
            let mut wrong = Vec::new();
            if broken == Some(line.id) {
                wrong.push("the chain of proofs does not fit here: this line or one before it was changed".to_owned());
            }
            let view = ProofView::from(line);
            match (repo, &main_at) {
                (Some(repo), Some(main_at)) => {
                    compared(repo, &view, main_at, &mut wrong).await.map_err(|error| away(&error))?;
                }
                _ => wrong.push(format!(
                    "repository {name} is not in the settings any more: what landed there cannot be compared with it"
                )),
            }
            wrong.extend(judges_are_wrong(&view));
            for gate in &view.gates {
                wrong.extend(report_is_wrong(&self.ctx.paths, &view, gate).await);
            }
            let check = ProofCheck { main_at: main_at.clone(), wrong, remarks: remarks(&view) };
            views.push(ProofView { check: Some(check), ..view });
        }
        Ok(views)
    }
}

/// A landing whose proof line is not there, as far as it is known.
fn without_line(repo: &RepoName, missing: MissingLanding, main_at: &Option<CommitSha>) -> ProofView {
    let MissingLanding { key, generation, sha, tree, base, at } = missing;
    let wrong = format!("{} has landed, and there is no proof of it: somebody has taken its line away", sha.short());
    ProofView {
        repo: repo.clone(),
        key,
        generation,
        tree: tree.unwrap_or_else(|| sha.clone()),
        base: base.unwrap_or_else(|| sha.clone()),
        sha,
        at,
        lease_epoch: None,
        gates: Vec::new(),
        switched_off: Vec::new(),
        proof: Value::Null,
        chain: String::new(),
        check: Some(ProofCheck { main_at: main_at.clone(), wrong: vec![wrong], remarks: Vec::new() }),
    }
}

fn holds(view: &ProofView, name: &str) -> Option<bool> {
    view.proof.get(name).and_then(Value::as_bool)
}

/// What landed under our lease was judged by the merge gate, or its line says why not; and what judged the combined tree
/// did so on the `main` that it landed on.
fn judges_are_wrong(view: &ProofView) -> Vec<String> {
    let mut wrong = Vec::new();
    if view.lease_epoch.is_none() {
        return wrong;
    }
    let merge = GateName::Merge.as_str();
    let listed = |name: &str| {
        let names = view.proof.get(name).and_then(Value::as_array).into_iter().flatten();
        names.filter_map(Value::as_str).any(|listed| listed == merge)
    };
    if !view.gates.iter().any(|gate| gate.gate == merge) && !listed("switched_off") && !listed("out_of_scope") {
        wrong.push("the merge gate did not judge it, and the line does not say why".to_owned());
    }
    let combined = [GateName::Merge, GateName::Coverage, GateName::ImageFreshness].map(GateName::as_str);
    for gate in view.gates.iter().filter(|gate| combined.contains(&gate.gate.as_str())) {
        if gate.report.is_some() && gate.base.as_ref() != Some(&view.base) {
            wrong.push(format!("the {} gate judged it on another main than the one it landed on", gate.gate));
        }
    }
    wrong
}

/// What fits and is to be known.
fn remarks(view: &ProofView) -> Vec<String> {
    let merged = view.proof.get("merged_by").is_some() && holds(view, "main_is_as_judged") == Some(false);
    let text = match view.proof.get("main_holds").and_then(Value::as_str) {
        Some("nothing") => "a person merged it, and main had taken it back when the lane looked",
        Some("part") => "a person merged it, and main then held other versions of what it changed",
        _ => "a person merged it, and main then held more than what was judged",
    };
    merged.then(|| text.to_owned()).into_iter().collect()
}

/// Compares a proof with the repository.
async fn compared(
    repo: &RepoRuntime,
    view: &ProofView,
    main_at: &CommitSha,
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
    if let Some(tested) = view.proof.get("tested_tree").and_then(Value::as_str)
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
async fn report_is_wrong(paths: &Paths, view: &ProofView, gate: &GateProof) -> Option<String> {
    let (Some(path), Some(sha256)) = (&gate.report, &gate.report_sha256) else { return None };
    let (Ok(name), Some(head)) = (GateName::from_str(&gate.gate), &gate.head) else {
        return Some(format!("the line about gate `{}` does not say what was judged", gate.gate));
    };
    let report = ReportRef {
        gate: name,
        path: paths.report(path),
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
