//! What a deploy looks at before it is begun: the repository's other deploys, and the image that it would take.
//!
//! Owns the facts for the rule that production never becomes older, and the word to those whose change a newer deploy has
//! brought along. Everything here happens under the lease, so no other deploy begins meanwhile. The image is asked for anew
//! wherever somebody may have built another one since the landing: what is deployed is the image of what has landed.

use orch_domain::deploys::{Came, Earlier, Turn, turn};
use orch_domain::event::{CheckEnd, DeployEnd, Event, LandingEnd};
use orch_domain::gate::GateName;
use orch_domain::ids::{CommitSha, Epoch};
use orch_domain::task::{Landed, State, Step, Task};
use orch_domain::time::Timestamp;
use orch_store::{StoreError, TaskFilter, Window};

use super::{Deploy, Trouble, succeeded};
use crate::checks::{Asked, subject_of};
use crate::gates::{Cause, image};
use crate::ids::mint;

/// What came of the deploy of another task. `over`: the task is closed, so nobody comes back to an open window.
fn came(window: &Window, over: bool) -> Came {
    let said = |name: &str| window.outcome.as_ref().is_some_and(|outcome| outcome.get(name).is_some());
    match window.closed {
        None if over => Came::Unknown,
        None => Came::UnderWay,
        Some(at) if succeeded(window) => Came::Deployed { at },
        Some(_) if said("unknown") => Came::Unknown,
        Some(_) => Came::Nothing,
    }
}

impl Deploy<'_> {
    /// Whether this deploy is to be run after those of other tasks: `None` means yes.
    pub(super) async fn after_others(&self) -> Result<Option<DeployEnd>, Trouble> {
        let earlier = self.earlier().await?;
        Ok(match turn(&earlier) {
            Turn::Run => None,
            Turn::Held { by, at } => Some(DeployEnd::Held { sha: by.sha.clone(), by: by.key.clone(), at }),
            Turn::Wait(Earlier { key, sha, .. }) => {
                return Err(Trouble::Busy(format!("the deploy of {} ({key}) is not at its end yet", sha.short())));
            }
            Turn::Unsure(Earlier { key, sha, .. }) => Some(DeployEnd::Failed {
                why: format!(
                    "not begun: nobody knows whether {} ({key}), which is newer and holds it, was deployed; \
                     see to that one first (`orch why {key}`): once it is deployed, so is this",
                    sha.short()
                ),
            }),
        })
    }

    /// Deploys of other tasks that production may have come from, oldest first; of each task, its last.
    async fn earlier(&self) -> Result<Vec<Earlier>, Trouble> {
        let all = self.landing.ctx.store.deploys_since_last(&self.landing.repo.settings.name).await?;
        let mut earlier = Vec::new();
        for (n, (window, key, over)) in all.iter().enumerate() {
            let again = all.iter().skip(n + 1).any(|(later, ..)| later.task == window.task);
            if window.task == self.landing.task || again {
                continue;
            }
            let (key, came) = (key.clone(), came(window, *over));
            // How it stands to ours is asked only where that matters.
            let holds = match came {
                Came::Deployed { .. } | Came::Unknown => self.holds(&window.sha, &self.landed.sha).await?,
                Came::UnderWay | Came::Nothing => false,
            };
            earlier.push(Earlier { key, sha: window.sha.clone(), came, holds });
        }
        Ok(earlier)
    }

    /// Whether `newer` holds `older`. What is not in the repository any more holds nothing.
    async fn holds(&self, newer: &CommitSha, older: &CommitSha) -> Result<bool, Trouble> {
        let git = &self.landing.repo.lane_git;
        let looked = async { Ok(git.has_commit(newer).await? && git.contains(older, newer).await?) };
        looked.await.map_err(|error: orch_adapters::git::GitError| {
            Trouble::Ours(format!("how {} stands to {}: {error}", older.short(), newer.short()))
        })
    }

    /// After this deploy: whoever still waits for one of an older commit is told that it is in production with this one.
    /// Told again, it is no news; a word that is lost in a crash is made good by the next deploy, or by a retry.
    pub(super) async fn tell_held(&self, at: Timestamp) {
        let ctx = &self.landing.ctx;
        let repo = Some(self.landing.repo.settings.name.clone());
        let found = ctx.store.find_tasks(TaskFilter { repo, live_only: true, ..TaskFilter::default() }).await;
        let found = found.unwrap_or_else(|error: StoreError| {
            tracing::warn!(task.id = %self.landing.task, %error, "who else waits for this deploy could not be read");
            Vec::new()
        });
        for other in found.into_iter().map(|stored| stored.task).filter(|other| other.id != self.landing.task) {
            let Some(landed) = owed(&other) else { continue };
            match self.holds(&self.landed.sha, &landed.sha).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(Trouble::Ours(why) | Trouble::Unseen(why) | Trouble::Busy(why)) => {
                    tracing::warn!(task.id = %other.id, why, "whether this deploy holds its change is not known");
                    continue;
                }
            }
            let deploy = DeployEnd::Held { sha: self.landed.sha.clone(), by: self.task.key.clone(), at };
            let (asked, end) = (other.lane_asked, LandingEnd::Landed { landed: landed.clone(), deploy });
            if !self.landing.directory.deliver(&other.id, Event::LandingEnded { asked, end }) {
                tracing::debug!(task.id = %other.id, "the router is being restarted; a retry tells that it is deployed");
            }
        }
    }

    /// Whether the image that this deploy takes is that of what has landed: `None` means yes, or that nobody asks. Where it
    /// can be built, it is.
    pub(super) async fn image(&self) -> Result<Option<DeployEnd>, Trouble> {
        let (landing, task) = (self.landing, self.task);
        if self.just_judged || landing.repo.settings.image.is_none() || !task.policy.gates.image_freshness.is_asked() {
            return Ok(None);
        }
        let Some(gates) = landing.directory.gates() else {
            return Err(Trouble::Ours("the gate pool is being restarted".to_owned()));
        };
        landing.say("asking for the image of what has landed");
        let epoch: Epoch = landing.ctx.store.load_task(&landing.task).await?.map(|own| own.epoch).unwrap_or_default();
        // A run of its own: the reports that the proof names stay as they are.
        let subject = subject_of(task, mint("d"), epoch, None, self.landed.sha.clone());
        let (ctx, of) = (landing.ctx.clone(), subject.clone());
        let asked = Asked {
            gates: &gates,
            snapshots: &landing.snapshots,
            priority: task.priority,
            lease_holder: true,
            alone: false,
        };
        let name = GateName::ImageFreshness;
        let answer = asked.of(subject, name.as_str(), async move { image::run(&ctx, &of).await }).await;
        Ok(match answer.end {
            CheckEnd::Passed { note, .. } => {
                landing.note("gate-passed", format!("{name} before the deploy: {note}"));
                None
            }
            CheckEnd::Failed { findings: why } | CheckEnd::NotConfigured { why } => {
                Some(DeployEnd::Failed { why: format!("not begun: {why}") })
            }
            CheckEnd::CouldNotRun { why } if answer.cause == Cause::Cancelled => return Err(Trouble::Busy(why)),
            CheckEnd::CouldNotRun { why } => return Err(Trouble::Ours(why)),
        })
    }
}

/// What a task has landed whose deploy is still owed, and is not in the lane's hands now.
fn owed(task: &Task) -> Option<&Landed> {
    let waits =
        matches!(task.state, State::Waiting { then: Step::Deploy, .. } | State::Blocked { then: Step::Deploy, .. });
    task.landed.as_ref().filter(|_| waits && task.stop.is_none())
}
