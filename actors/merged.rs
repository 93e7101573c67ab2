//! Work that reached `main` by somebody else's hand: a person merged the task branch, or pushed the same commits.
//!
//! Owns finding it and recording it as landed, with a proof line that says whose doing it was and whether `main` then held
//! exactly what had been judged: if so, what coverage measured on it moves the baseline as any landing does. Refuses to
//! call anything landed that `main`, as the forge shows it, does not contain.

use orch_domain::names::BranchName;
use orch_domain::task::{Landed, Task};
use orch_store::NewLanding;
use serde_json::json;

use crate::gates;
use crate::landing::{Halt, Landing, could_not_run};

impl Landing {
    /// The landing, if `main` contains the task's head already.
    pub(crate) async fn merged_by_others(&self, task: &Task, main: &BranchName) -> Result<Option<Landed>, Halt> {
        let git = &self.repo.lane_git;
        let Some(own) = task.head.clone().filter(|own| task.base.as_ref() != Some(own)) else { return Ok(None) };
        let main_at = git.fetch_main(main).await.map_err(could_not_run)?;
        self.turn.main_is(&main_at);
        if !git.contains(&own, &main_at).await.map_err(could_not_run)? {
            return Ok(None);
        }
        let (tree, there) = (self.tree(git, &own).await?, self.tree(git, &main_at).await?);
        let as_judged = tree == there;
        // What main holds now was measured on its way here, or nobody knows.
        let coverage = match as_judged && task.policy.gates.coverage.is_asked() {
            true => {
                let base = task.base.as_ref().unwrap_or(&main_at);
                let subject = self.subject(task, base, &own).await?;
                gates::coverage::measured_before(&self.ctx, &subject, task.policy.no_tests).await
            }
            false => None,
        };
        let landing = NewLanding {
            task: self.task.clone(),
            sha: own.clone(),
            tree: tree.clone(),
            base: task.base.clone().unwrap_or_else(|| main_at.clone()),
            proof: json!({
                "merged_by": "a person", "branch": main, "main_at": main_at, "main_tree": there,
                "main_is_as_judged": as_judged,
            }),
            coverage,
        };
        let recorded = self.ctx.store.append_landing(&self.repo.settings.name, landing, self.ctx.now()).await;
        recorded.map_err(could_not_run)?;
        let judged = if as_judged { "exactly what was judged" } else { "more than what was judged" };
        let text = format!("{} was merged by somebody else; {main} at {} is {judged}", own.short(), main_at.short());
        self.note("merged-by-others", text).await;
        let at = self.landed_at().await?;
        Ok(Some(Landed { sha: own, tree, at }))
    }

    /// When the landing was recorded: told again later, it is the same landing and no news.
    pub(crate) async fn landed_at(&self) -> Result<orch_domain::time::Timestamp, Halt> {
        let recorded = self.ctx.store.landing_of(&self.task).await.map_err(could_not_run)?;
        Ok(recorded.map_or_else(|| self.ctx.now(), |landing| landing.at))
    }
}
