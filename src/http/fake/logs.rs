//! Two runs of each of the fake's tasks: an agent's, and the newest.

use orch_actors::api::{ControlError, LogPage, LogView};
use orch_domain::job::{JobKind, JobStatus};

use super::later;

/// Both, oldest first.
pub(super) fn all() -> Vec<LogView> {
    let view = |(kind, number): (JobKind, u32)| LogView {
        number,
        job: format!("gjob{number}").parse().expect("an id"),
        kind,
        label: format!("{} of it", kind.as_str()),
        at: later(i64::from(number)),
        status: JobStatus::Ended,
    };
    [JobKind::Agent, JobKind::Gate].into_iter().zip(1..).map(view).collect()
}

/// What one of them printed, from a byte on.
pub(super) fn page(key: &str, run: Option<u32>, offset: u64) -> Result<LogPage, ControlError> {
    let text = match run {
        Some(1) => "the agent's\n",
        None | Some(2) => "one\ntwo\n",
        Some(other) => return Err(ControlError::NotFound(format!("{key} has no run {other}; its runs are 1 to 2"))),
    };
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    let run = Some("t001r1".to_owned());
    Ok(LogPage { run, text: text[from..].to_owned(), next_offset: text.len() as u64, ended: true })
}
