//! The handle's answers about repositories and their lanes: leases, modes, queues, figures.
//!
//! Owns the translation of stored rows into lane views, and the change of a lane's mode: durable, then told to the lane.
//! Refuses repositories that are not in the settings.

use orch_domain::gate::{GateName, LANDING_GATES};
use orch_domain::lane::LaneMode;
use orch_domain::names::RepoName;
use orch_domain::task::{State, Step, Task, WaitFor};
use orch_domain::turns::LaneStatistics;
use orch_domain::view::Why;
use orch_store::RepoMode;

use super::{Handle, store_error};
use crate::api::{ControlError, DeferredView, LandingView, LaneView, LeaseView, ModeView, RepoView};
use crate::context::RepoRuntime;
use crate::lane::LaneMsg;
use crate::turns::REMEMBERED;

/// Landings that are shown of a lane.
const SHOWN: u32 = 5;

/// Tasks that were put off on their way to main, with their repositories.
pub(super) fn deferred<'t>(live: impl Iterator<Item = &'t Task>) -> Vec<(RepoName, DeferredView)> {
    let put_off = |task: &Task| match &task.state {
        State::Waiting { on: WaitFor::Until { at, why }, then: Step::Land | Step::Deploy, .. }
            if task.stop.is_none() =>
        {
            let view = DeferredView { key: task.key.clone(), available_at: *at, why: why.clone() };
            Some((task.repo.clone(), view))
        }
        _ => None,
    };
    live.filter_map(put_off).collect()
}

fn mode_of(modes: &[RepoMode], repo: &RepoName) -> ModeView {
    match modes.iter().find(|m| m.repo == *repo) {
        None => ModeView::default(),
        Some(set) => {
            ModeView { mode: set.mode, who: Some(set.who.clone()), why: Some(set.why.clone()), since: Some(set.since) }
        }
    }
}

impl Handle {
    pub(super) async fn lease_views(&self) -> Result<Vec<LeaseView>, ControlError> {
        let leases = self.ctx.store.leases().await.map_err(store_error)?;
        let epochs = self.ctx.store.lease_epochs().await.map_err(store_error)?;
        let mut views = Vec::new();
        for name in self.ctx.repos.keys() {
            let lease = leases.iter().find(|l| l.repo == *name);
            let holder = match lease.and_then(|l| l.holder.task.clone()) {
                Some(id) => self.ctx.store.look_at_task(&id).await.map_err(store_error)?.map(|s| s.task.key),
                None => None,
            };
            let (reply, queue) = tokio::sync::oneshot::channel();
            let heard = self.directory.tell_lane(name, LaneMsg::Queue { reply });
            let queue = if heard { queue.await.unwrap_or_default() } else { Vec::new() };
            views.push(LeaseView {
                repo: name.clone(),
                epoch: epochs.iter().find(|(repo, _)| repo == name).map(|(_, epoch)| *epoch).unwrap_or_default(),
                holder,
                purpose: lease.map(|l| l.holder.purpose.clone()),
                since: lease.map(|l| l.since),
                expires: lease.map(|l| l.expires),
                queue,
            });
        }
        Ok(views)
    }

    /// The lanes with everything that `GET /queue` shows of them.
    pub(super) async fn lane_views(&self, put_off: &[(RepoName, DeferredView)]) -> Result<Vec<LaneView>, ControlError> {
        let store = &self.ctx.store;
        let modes = store.repo_modes().await.map_err(store_error)?;
        let mut views = Vec::new();
        for lease in self.lease_views().await? {
            let repo = lease.repo.clone();
            let landings = store.last_landings(&repo, SHOWN).await.map_err(store_error)?;
            let turns = store.turns(&repo, REMEMBERED).await.map_err(store_error)?;
            views.push(LaneView {
                lane: mode_of(&modes, &repo),
                landings: landings.into_iter().map(|l| LandingView { key: l.key, sha: l.sha, at: l.at }).collect(),
                deferred: put_off.iter().filter(|(of, _)| *of == repo).map(|(_, view)| view.clone()).collect(),
                statistics: LaneStatistics::of(&turns),
                lease,
            });
        }
        Ok(views)
    }

    pub(super) async fn repo_views(&self) -> Result<Vec<RepoView>, ControlError> {
        let modes = self.ctx.store.repo_modes().await.map_err(store_error)?;
        let mut views = Vec::new();
        for (name, repo) in &self.ctx.repos {
            views.push(RepoView {
                name: name.clone(),
                location: repo.settings.location.clone(),
                main: repo.main().await.ok().map(|b| b.to_string()),
                lane: mode_of(&modes, name),
                gates: (!self.at_rest).then(|| gates_of(repo)),
            });
        }
        Ok(views)
    }

    /// Sets a lane's mode. A closed lane needs a reason: whoever finds it closed asks for it.
    pub(super) async fn set_mode(
        &self,
        repo: &RepoName,
        mode: LaneMode,
        why: &str,
        by: &str,
    ) -> Result<RepoView, ControlError> {
        let Some(runtime) = self.ctx.repo(repo) else {
            let known: Vec<&str> = self.ctx.repos.keys().map(RepoName::as_str).collect();
            let text = format!("there is no repository `{repo}`; known: {}", known.join(", "));
            return Err(ControlError::NotFound(text));
        };
        let why = why.trim();
        if why.is_empty() && mode != LaneMode::Running {
            let text = format!("say why the lane of {repo} is closed: whoever waits for it will ask");
            return Err(ControlError::Invalid(text));
        }
        let set = RepoMode { repo: repo.clone(), mode, who: by.to_owned(), why: why.to_owned(), since: self.ctx.now() };
        self.ctx.store.set_repo_mode(set.clone()).await.map_err(store_error)?;
        if !self.directory.tell_lane(repo, LaneMsg::Look) {
            tracing::debug!(%repo, "the lane of {repo} is being restarted; it reads its mode when it is back");
        }
        Ok(RepoView {
            name: repo.clone(),
            location: runtime.settings.location.clone(),
            main: runtime.main().await.ok().map(|b| b.to_string()),
            lane: mode_of(&[set], repo),
            gates: (!self.at_rest).then(|| gates_of(runtime)),
        })
    }

    /// Whoever waits in a closed lane waits for a person, whatever its turn would be.
    pub(super) async fn or_closed_lane(&self, task: &Task, told: Why) -> Why {
        if !matches!(task.state, State::Landing { .. }) || task.stop.is_some() {
            return told;
        }
        let Ok(modes) = self.ctx.store.repo_modes().await else { return told };
        let mode = mode_of(&modes, &task.repo);
        let under_way = self.directory.landing(&task.repo).is_some_and(|landing| landing.task == task.id);
        if mode.mode == LaneMode::Running || under_way {
            return told;
        }
        Why {
            waits_for: format!("the lane of {} to run again", task.repo),
            held_by: Some(mode.to_string()),
            ends_by: "a person who lets the lane run".to_owned(),
            hint: Some(format!("orch repo resume {}", task.repo)),
            ..told
        }
    }
}

/// The gates that a landing in this repository has to pass.
fn gates_of(repo: &RepoRuntime) -> Vec<GateName> {
    LANDING_GATES.into_iter().filter(|gate| repo.settings.policy.gates.of(*gate).is_asked()).collect()
}
