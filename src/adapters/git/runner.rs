//! Git commands under the jobs room: each one recorded, held by a shim, found again after a crash.
//!
//! Owns the difference that matters for windows: a push to `main` is never ended because whoever asked has gone, and
//! "refused" is said only when nothing has run. A git command that succeeded leaves no folder: what it said has been read, and
//! thousands of them a day would fill any disk. Failures keep theirs, and so does a step of a window: a supervisor that
//! comes after a crash asks it how it ended.

use async_trait::async_trait;
use orch_domain::job::JobKind;

use super::exec::{Exec, ExecOutput};
use crate::jobs::{FinishedJob, Runner};
use crate::ports::{JobError, JobSpec};

/// Most bytes of an output that are read; more than any answer that is parsed here.
const MOST: u64 = 64 << 20;

#[async_trait]
impl Exec for Runner {
    async fn run(&self, spec: JobSpec) -> Result<ExecOutput, JobError> {
        let (job, kind) = (spec.id.clone(), spec.kind);
        let finished = match kind.is_window() {
            // Dropping this future lets the job run on; it is adopted or found by its window.
            true => self.start(spec).await?.wait().await.map_err(|err| match err {
                // It ran; only the record of its end was refused.
                JobError::Refused { job, why } => JobError::Unreachable { job, why },
                other => other,
            })?,
            false => Self::run(self, spec).await?,
        };
        let output = read(&finished);
        let output =
            output.map_err(|err| JobError::Unreachable { job, why: format!("its output cannot be read: {err}") })?;
        if kind == JobKind::Git {
            let removed = tokio::task::spawn_blocking(move || finished.let_go_of_folder()).await;
            if let Err(error) = removed {
                tracing::debug!(%error, "the folder of a git command stays; upkeep removes it");
            }
        }
        Ok(output)
    }
}

fn read(finished: &FinishedJob) -> std::io::Result<ExecOutput> {
    // A program that could not be started has no logs to speak of.
    let missing = |err: std::io::Error| match err.kind() {
        std::io::ErrorKind::NotFound if !finished.exit.end.is_success() => Ok(Vec::new()),
        _ => Err(err),
    };
    let stdout = finished.stdout_bytes(MOST).or_else(missing)?;
    let stderr = finished.stderr(MOST).map(String::into_bytes).or_else(missing)?;
    Ok(ExecOutput { exit: finished.exit.clone(), stdout, stderr })
}
