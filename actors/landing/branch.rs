//! The task branch on its way to `main`: caught up, cleared of notes, shown at the forge.
//!
//! Owns what the lane does to a branch before anything is judged. Invariants: everything made here is made again as the same
//! commit, after a crash and whenever the same head comes back to the same `main`, so that what was judged stays judged; a conflict has a report and names both sides; the branch at the forge is replaced only from where
//! we have put it ourselves, which is recorded before it is pushed; where a person put it, it is theirs. Refuses to touch `main`.

use orch_adapters::git::{BranchPush, CatchUpSpec, RepoGit, TaskBranch};
use orch_domain::event::LandingEnd;
use orch_domain::ids::{CommitSha, Epoch};
use orch_domain::landing::WorkFault;
use orch_domain::names::BranchName;
use orch_domain::stop::{ReceiptLine, StepResult, StopStep};
use orch_domain::task::Task;

use super::{Halt, Landing, could_not_run, note};
use crate::artefacts;
use crate::gates::merge::{self, CaughtUp};
use crate::stop_saga::remove_task_branch;

impl Landing {
    /// Begins to take the task branch away after a landing; one that stays is named. Repeating is safe.
    pub(super) fn tidy_behind(&self, task: &Task) {
        let (ctx, git, task) = (self.ctx.clone(), self.repo.lane_git.clone(), task.clone());
        let tidying = tokio::spawn(async move {
            let result = remove_task_branch(&ctx, &git, &task).await;
            if let StepResult::Kept { because } | StepResult::Pending { why: because } = &result {
                note(&ctx, &task.id, "branch-kept", format!("the task branch stays: {because}")).await;
            }
            // Written where the intent is: only what could not be done yet is tried again.
            let line = ReceiptLine { step: StopStep::RemoteBranch, at: ctx.now(), result };
            if let Err(error) = ctx.store.put_receipt_line(&task.id, line).await {
                tracing::warn!(task.id = %task.id, %error, "what became of the task branch could not be recorded");
            }
        });
        self.tidying.set(tidying);
    }

    /// Brings the task's head on top of `main`. What does not go together goes back, with its report where the gate is asked.
    pub(super) async fn catch_up(
        &self,
        git: &RepoGit,
        task: &Task,
        own: &CommitSha,
        (main, main_at): (&BranchName, &CommitSha),
    ) -> Result<CaughtUp, Halt> {
        self.say(&format!("catching up with {main}"));
        let spec = self.catch_up_spec(git, task, own, (main, main_at)).await?;
        let caught = match merge::catch_up(git, own, (main, main_at), &spec).await.map_err(could_not_run)? {
            Ok(caught) => caught,
            Err(conflict) => {
                self.turn.conflict();
                let findings = conflict.findings.clone();
                if task.policy.gates.merge.is_asked() {
                    let subject = self.subject(task, main_at, own).await?;
                    let answer = merge::conflicted(&self.ctx, &subject, &conflict).await;
                    if answer.report.is_none() {
                        tracing::warn!(task.id = %self.task, "a conflict has no report: {:?}", answer.end);
                    }
                }
                return Err(Some(LandingEnd::SentBack { fault: WorkFault::Conflict, findings, head: None }));
            }
        };
        if caught.head != *own {
            let mut text = caught.how.clone();
            for line in caught.account.lines() {
                text.push('\n');
                text.push_str(&line);
            }
            let kind = if caught.head == *main_at { "already-on-main" } else { "caught-up" };
            self.note(kind, text);
        }
        // Where the gate is asked, it says so itself, with its report.
        if !caught.account.balances() && !task.policy.gates.merge.is_asked() {
            let findings =
                format!("Catching up with {main} at {main_at} lost something:\n{}", caught.account.lines().join("\n"));
            return Err(Some(LandingEnd::SentBack { fault: WorkFault::Conflict, findings, head: None }));
        }
        Ok(caught)
    }

    /// What is made is dated by what it is made of, not by when.
    async fn catch_up_spec(
        &self,
        git: &RepoGit,
        task: &Task,
        head: &CommitSha,
        (main, main_at): (&BranchName, &CommitSha),
    ) -> Result<CatchUpSpec, Halt> {
        let of_head = git.committed(head).await.map_err(could_not_run)?;
        let of_main = git.committed(main_at).await.map_err(could_not_run)?;
        Ok(CatchUpSpec {
            task: self.task.clone(),
            at: of_head.max(of_main),
            merge_message: format!("Merge {main} into {}", task.branch()),
        })
    }

    /// Where the agents' notes do not land: a commit that takes the task's own out, before anything is tested.
    pub(super) async fn strip(
        &self,
        git: &RepoGit,
        task: &Task,
        head: &CommitSha,
        (main, main_at): (&BranchName, &CommitSha),
    ) -> Result<CommitSha, Halt> {
        if task.policy.keep_artefacts || head == main_at {
            return Ok(head.clone());
        }
        let folder = artefacts::folder(task);
        let message = format!("{}: leave the notes in `{folder}` out of what lands\n", task.key);
        let spec = self.catch_up_spec(git, task, head, (main, main_at)).await?;
        match git.strip_folder(head, main_at, &folder, &message, &spec).await.map_err(could_not_run)? {
            Some(stripped) => {
                self.note("notes-stripped", format!("took `{folder}` out: {}", stripped.short()));
                Ok(stripped)
            }
            None => Ok(head.clone()),
        }
    }

    /// Pushes the task branch, replacing only what we have put there. A branch that somebody else has moved is theirs.
    pub(super) async fn publish_branch(
        &self,
        git: &RepoGit,
        task: &Task,
        head: &CommitSha,
        epoch: Epoch,
    ) -> Result<(), Halt> {
        self.say("pushing the task branch");
        let protected = self.repo.forge.protected().await.map_err(could_not_run)?;
        let branch = TaskBranch::new(task.branch(), &protected).map_err(could_not_run)?;
        let at = git.remote_head(branch.name()).await.map_err(could_not_run)?;
        let ours = git.pushed(&self.task).await.map_err(could_not_run)?;
        if at.as_ref() == Some(head) {
            if ours.iter().any(|ours| ours != head) || ours.is_empty() {
                git.note_pushed(&self.task, head).await.map_err(could_not_run)?;
            }
            return Ok(());
        }
        if let Some(at) = at.as_ref().filter(|at| !ours.contains(at)) {
            let (name, at_short) = (branch.name(), at.short());
            let why = match git.has_commit(at).await.map_err(could_not_run)? {
                false => {
                    format!("{name} holds {at_short}, which is not ours: a person, or another supervisor, works on it")
                }
                true => format!("{name} is at {at_short}, where we have not put it: a person has moved it"),
            };
            let why = format!("{why}; take that branch away, or put it back, and let the task go on");
            return Err(Some(LandingEnd::Refused { why }));
        }
        git.note_push(&self.task, head).await.map_err(could_not_run)?;
        let pushed = git.for_owner(self.owner(epoch)).push_task_branch(&branch, head, at.as_ref()).await;
        if pushed.is_err() {
            // A STOP recorded meanwhile refuses the job: that is the STOP's doing, no trouble of ours.
            self.border().await?;
        }
        match pushed.map_err(could_not_run)? {
            BranchPush::Pushed => git.note_pushed(&self.task, head).await.map_err(could_not_run),
            BranchPush::Stale { .. } => {
                Err(Some(LandingEnd::Deferred { why: format!("{} was moved by somebody else", branch.name()) }))
            }
            BranchPush::Refused { why } => Err(Some(LandingEnd::Refused { why })),
            BranchPush::Unknown { why } => Err(could_not_run(why)),
        }
    }
}
