//! The handle's answers about coverage, and the one command by which a person sets a baseline.
//!
//! Owns the translation of stored rows into views. Invariant: a baseline is set with a reason and a name, by compare-and-set,
//! journaled. Refuses repositories that are not in the settings, and to judge anything.

use std::collections::BTreeSet;

use orch_domain::coverage::Totals;
use orch_domain::gate::{GateName, InScope};
use orch_domain::names::RepoName;
use orch_domain::task::{Status, first_line};
use orch_store::{BaselineSet, NewBaseline, VerdictOutcome};

use super::{Handle, store_error};
use crate::api::{BaselineView, ControlError, CoverageFailure, CoveragePoint, CoverageView, HISTORY_PAGE, SetBaseline};
use crate::context::RepoSettings;

/// Points of a trend.
const TREND: u32 = 20;
/// Refused changes that are named.
const FAILURES: u32 = 5;

impl Handle {
    /// Coverage of one repository.
    pub(super) async fn coverage_of(&self, repo: &RepoName) -> Result<CoverageView, ControlError> {
        let (ctx, settings) = (&self.ctx, self.settings_of(repo)?);
        let baseline = ctx.store.baseline(repo).await.map_err(store_error)?;
        let lines = ctx.store.coverage_history(repo, None, TREND).await.map_err(store_error)?;
        let last = ctx.store.last_measured_landing(repo).await.map_err(store_error)?;
        let failures = self.coverage_failures(repo).await?;
        Ok(CoverageView {
            repo: repo.clone(),
            scope: settings.policy.gates.coverage,
            mode: settings.coverage.policy.mode,
            min_basis_points: settings.coverage.policy.min_bp,
            epsilon_basis_points: settings.coverage.policy.epsilon_bp,
            baseline: baseline.map(BaselineView::from),
            last: last.map(CoveragePoint::from),
            trend: lines.into_iter().rev().map(CoveragePoint::from).collect(),
            failures,
        })
    }

    /// What the gate kept from main last, newest first: what it refused, and work that waits for a person since it could
    /// not be judged.
    async fn coverage_failures(&self, repo: &RepoName) -> Result<Vec<CoverageFailure>, ControlError> {
        let (store, gate) = (&self.ctx.store, GateName::Coverage.as_str());
        let mut rows = Vec::new();
        for outcome in [VerdictOutcome::Failed, VerdictOutcome::CouldNotRun] {
            rows.extend(store.last_verdicts(gate, repo, outcome, FAILURES).await.map_err(store_error)?);
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.id));
        let (mut failures, mut waiting) = (Vec::new(), BTreeSet::new());
        for row in rows {
            let stored = match &row.verdict.task {
                Some(task) => store.look_at_task(task).await.map_err(store_error)?,
                None => None,
            };
            if row.verdict.outcome == VerdictOutcome::CouldNotRun {
                // Each retry has a row; one that a retry has mended is nobody's matter any more.
                let blocked = stored.as_ref().is_some_and(|stored| stored.task.status() == Status::Blocked);
                if !blocked || !waiting.insert(row.verdict.task.clone()) {
                    continue;
                }
            }
            let text = row.verdict.findings.unwrap_or_default();
            failures.push(CoverageFailure {
                key: stored.map(|stored| stored.task.key),
                head: row.verdict.key.head,
                at: row.at,
                why: first_line(&text).to_owned(),
            });
        }
        failures.truncate(FAILURES as usize);
        Ok(failures)
    }

    /// Coverage of all repositories for which the gate is asked or that have a baseline.
    pub(super) async fn coverage_block(&self) -> Result<Vec<CoverageView>, ControlError> {
        let mut all = Vec::new();
        for repo in self.ctx.repos.keys() {
            let view = self.coverage_of(repo).await?;
            if view.scope == InScope::Yes || view.baseline.is_some() {
                all.push(view);
            }
        }
        Ok(all)
    }

    /// A page of history, newest first.
    pub(super) async fn coverage_page(
        &self,
        repo: &RepoName,
        before: Option<i64>,
        most: u32,
    ) -> Result<Vec<CoveragePoint>, ControlError> {
        self.settings_of(repo)?;
        let most = if most == 0 { HISTORY_PAGE } else { most.min(HISTORY_PAGE) };
        let lines = self.ctx.store.coverage_history(repo, before, most).await.map_err(store_error)?;
        Ok(lines.into_iter().map(CoveragePoint::from).collect())
    }

    /// Sets a baseline in a person's name.
    pub(super) async fn set_coverage(&self, asked: SetBaseline, by: &str) -> Result<CoverageView, ControlError> {
        let (ctx, repo) = (&self.ctx, asked.repo.clone());
        self.settings_of(&repo)?;
        let reason = asked.reason.trim();
        if reason.is_empty() || reason.len() > 1_000 {
            let text = "a baseline is set with a reason (1 to 1000 bytes): it is what people read when they ask why";
            return Err(ControlError::Invalid(text.to_owned()));
        }
        let standing = ctx.store.baseline(&repo).await.map_err(store_error)?;
        let newest = ctx.store.coverage_history(&repo, None, 1).await.map_err(store_error)?;
        let last = ctx.store.last_measured_landing(&repo).await.map_err(store_error)?;
        let totals = match (asked.covered, asked.total, asked.last) {
            (Some(covered), Some(total), false) => {
                Totals::new(covered, total).map_err(|error| ControlError::Invalid(error.to_string()))?
            }
            (None, None, true) => match &last {
                Some(line) => line.totals,
                None => return Err(ControlError::Conflict(format!("no landing of {repo} was measured yet"))),
            },
            _ => {
                let text = "name both `covered` and `total`, or `last` for what the last landing measured";
                return Err(ControlError::Invalid(text.to_owned()));
            }
        };
        // It would hold nobody to anything, and no share is ever above it.
        if totals.total() == 0 {
            let text = "0 of 0 lines is no share that anybody could be held to: give at least one line that counts";
            return Err(ControlError::Invalid(text.to_owned()));
        }
        if let Some((sha, known)) = asked.sha.as_ref().zip(ctx.repo(&repo))
            && !known.git.has_commit(sha).await.map_err(|error| ControlError::Internal(error.to_string()))?
        {
            return Err(ControlError::Invalid(format!("there is no commit {sha} in {repo}")));
        }
        let of_last = if asked.last { last.as_ref() } else { newest.first() };
        let Some(sha) = asked.sha.or_else(|| of_last.map(|line| line.sha.clone())) else {
            let text = "name the commit that it stands for (`sha`): nothing has been measured yet";
            return Err(ControlError::Invalid(text.to_owned()));
        };
        let replaces = asked.replaces.or(standing.map(|baseline| baseline.revision));
        let taken = last.filter(|_| asked.last);
        let new = NewBaseline { replaces, totals, sha, set_by: by.to_owned(), reason: reason.to_owned(), taken };
        match ctx.store.set_baseline(&repo, new, ctx.now()).await.map_err(store_error)? {
            BaselineSet::Set(_) => self.coverage_of(&repo).await,
            BaselineSet::Moved(now) => {
                let now = now.map_or("none".to_owned(), |revision| revision.to_string());
                let text = format!("the baseline of {repo} was changed meanwhile (revision {now}); look again");
                Err(ControlError::Conflict(text))
            }
        }
    }

    fn settings_of(&self, repo: &RepoName) -> Result<&RepoSettings, ControlError> {
        let missing = || {
            let known: Vec<&str> = self.ctx.repos.keys().map(RepoName::as_str).collect();
            ControlError::NotFound(format!("there is no repository `{repo}`; known: {}", known.join(", ")))
        };
        self.ctx.repo(repo).map(|repo| &repo.settings).ok_or_else(missing)
    }
}
