//! Work that reached `main` by somebody else's hand: a person merged the task branch, or pushed the same commits.
//!
//! Owns finding it and recording it as landed, with a proof line that says whose doing it was and whether `main` then held
//! exactly what had been judged: if so, what coverage measured on it moves the baseline as any landing does. What people
//! merged and took back again stays taken back: their last word on it is said, and not undone. What is deployed then is what
//! `main` held when that was seen, not the branch. Refuses to call anything landed that `main`, as the forge shows it, does
//! not contain.

use std::collections::BTreeSet;

use orch_adapters::git::RepoGit;
use orch_domain::ids::CommitSha;
use orch_domain::names::BranchName;
use orch_domain::task::{Landed, Task};
use orch_store::{Landing as Recorded, NewLanding};
use serde_json::{Value, json};

use crate::gates;
use crate::landing::{Halt, Landing, could_not_run};

/// What `main` was moved to, as a landing's record has it: by us, to the commit that was judged; by a person, to whatever
/// they made of it.
#[must_use]
pub(crate) fn landed_of(recorded: Recorded) -> Landed {
    let Recorded { sha, tree, at, proof, .. } = recorded;
    let by_person = |name: &str| {
        let said = proof.get(name).filter(|_| proof.get("merged_by").is_some()).and_then(Value::as_str);
        said.and_then(|commit| commit.parse().ok())
    };
    match (by_person("main_at"), by_person("main_tree")) {
        (Some(sha), Some(tree)) => Landed { sha, tree, at },
        _ => Landed { sha, tree, at },
    }
}

/// Whether somebody else has brought the work to `main`.
pub(crate) enum Merged {
    /// Yes, and that is recorded.
    Landed(Landed),
    /// No.
    No {
        /// Where `main` was seen; `None`: it was not looked for.
        main_at: Option<CommitSha>,
    },
}

/// How much of merged work `main` holds as it was judged.
#[derive(Clone, Copy)]
enum Held {
    All,
    Part,
    Nothing,
}

impl Held {
    const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Part => "part",
            Self::Nothing => "nothing",
        }
    }
}

impl Landing {
    /// The landing, if `main` contains the task's head already.
    pub(crate) async fn merged_by_others(&self, task: &Task, main: &BranchName) -> Result<Merged, Halt> {
        let git = &self.repo.lane_git;
        let Some(own) = task.head.clone().filter(|own| task.base.as_ref() != Some(own)) else {
            return Ok(Merged::No { main_at: None });
        };
        self.say(&format!("fetching {main}"));
        let main_at = git.fetch_main(main).await.map_err(could_not_run)?;
        self.turn.main_is(&main_at);
        if !git.contains(&own, &main_at).await.map_err(could_not_run)? {
            return Ok(Merged::No { main_at: Some(main_at) });
        }
        let (tree, there) = (self.tree(git, &own).await?, self.tree(git, &main_at).await?);
        let as_judged = tree == there;
        let held = match as_judged {
            true => Held::All,
            false => self.held(git, task, &own, &main_at).await?,
        };
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
            tree,
            base: task.base.clone().unwrap_or_else(|| main_at.clone()),
            proof: json!({
                "merged_by": "a person", "branch": main, "main_at": main_at, "main_tree": there,
                "main_is_as_judged": as_judged, "main_holds": held.as_str(),
            }),
            coverage,
        };
        let recorded = self.ctx.store.append_landing(&self.repo.settings.name, landing, self.ctx.now()).await;
        recorded.map_err(could_not_run)?;
        let judged = match (as_judged, held) {
            (true, _) => "is exactly what was judged",
            (false, Held::All) => "is more than what was judged",
            (false, Held::Part) => "holds other versions of what it changed",
            (false, Held::Nothing) => "does not hold it any more: somebody has taken it back since",
        };
        let text = format!("{} was merged by somebody else; {main} at {} {judged}", own.short(), main_at.short());
        self.note("merged-by-others", text);
        let at = self.landed_at().await?;
        Ok(Merged::Landed(Landed { sha: main_at, tree: there, at }))
    }

    /// How much of what the work changed `main` still holds.
    async fn held(&self, git: &RepoGit, task: &Task, own: &CommitSha, main_at: &CommitSha) -> Result<Held, Halt> {
        let Some(base) = &task.base else { return Ok(Held::All) };
        let paths = async |from: &CommitSha, to: &CommitSha| {
            let changed = git.changed_paths(from, to).await.map_err(could_not_run)?;
            Ok::<BTreeSet<String>, Halt>(changed.into_iter().map(|change| change.path).collect())
        };
        let brought = paths(base, own).await?;
        if brought.is_disjoint(&paths(own, main_at).await?) {
            return Ok(Held::All);
        }
        Ok(if brought.is_disjoint(&paths(base, main_at).await?) { Held::Nothing } else { Held::Part })
    }

    /// When the landing was recorded: told again later, it is the same landing and no news.
    pub(crate) async fn landed_at(&self) -> Result<orch_domain::time::Timestamp, Halt> {
        let recorded = self.ctx.store.landing_of(&self.task).await.map_err(could_not_run)?;
        Ok(recorded.map_or_else(|| self.ctx.now(), |landing| landing.at))
    }
}
