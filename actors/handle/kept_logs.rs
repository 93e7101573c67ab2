//! The handle's part about logs: which of a task's runs have one, and a page of it.
//!
//! Owns the numbering: every run of a program that somebody may want to read, from 1, oldest first, also once its log is
//! gone. Refuses to show our own git commands' output, and what the agents were given as secrets.

use orch_domain::job::JobKind;
use orch_domain::task::Task;
use orch_store::JobRow;

use super::{Handle, store_error};
use crate::api::{ControlError, LogPage, LogView};

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

impl Handle {
    pub(super) async fn logs_of(&self, key: &str) -> Result<Vec<LogView>, ControlError> {
        let task = self.newest(key).await?;
        let views = self.logged(&task).await?.into_iter().zip(1..).map(|(job, number)| LogView {
            number,
            job: job.record.identity.job,
            kind: job.record.kind,
            label: job.record.label,
            at: job.record.at,
            status: job.status,
        });
        Ok(views.collect())
    }

    /// A page of the log of that number, or of the newest.
    pub(super) async fn page_of(
        &self,
        key: &str,
        number: Option<u32>,
        offset: u64,
        max_bytes: usize,
    ) -> Result<LogPage, ControlError> {
        let task = self.newest(key).await?;
        let mut jobs = self.logged(&task).await?;
        let job = match number {
            None => match jobs.pop() {
                Some(newest) => newest,
                None => return Ok(LogPage::default()),
            },
            Some(number) => {
                let (key, last) = (&task.key, jobs.len());
                let at = usize::try_from(number).ok().and_then(|n| n.checked_sub(1)).filter(|at| *at < last);
                let at = at.ok_or_else(|| {
                    ControlError::NotFound(match last {
                        0 => format!("{key} has no run {number}: nothing was run for it yet"),
                        _ => format!("{key} has no run {number}; its runs are 1 to {last}"),
                    })
                })?;
                jobs.swap_remove(at)
            }
        };
        let live = job.status.is_live() && !self.at_rest;
        let dir = &job.record.identity.dir;
        if !live && !dir.exists() {
            let kept = self.ctx.retention.logs.0 / DAY;
            return Err(ControlError::NotFound(format!(
                "the logs of {} are gone: they are kept for {kept} days after a task is closed (retention.logs)",
                task.key
            )));
        }
        let path = dir.join("stdout.log");
        let secrets = crate::logs::secrets(self.ctx.agents.values().flat_map(|a| a.env.values().map(String::as_str)));
        let page = tokio::task::spawn_blocking(move || crate::logs::page(&path, offset, max_bytes, &secrets)).await;
        let (text, next_offset) = match page {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => return Err(ControlError::Internal(format!("the log cannot be read: {error}"))),
            Err(error) => return Err(ControlError::Internal(error.to_string())),
        };
        let run = Some(format!("{} ({})", job.record.identity.job, job.record.label));
        Ok(LogPage { run, text, next_offset, ended: !live })
    }

    async fn logged(&self, task: &Task) -> Result<Vec<JobRow>, ControlError> {
        let mut jobs = self.ctx.store.jobs_of(&task.id).await.map_err(store_error)?;
        jobs.retain(|job| matches!(job.record.kind, JobKind::Agent | JobKind::Gate | JobKind::Deploy));
        Ok(jobs)
    }
}
