//! Following one task to its end, in this process or through another supervisor.
//!
//! Owns the two sources and what is shown meanwhile: each record once, in order, and on a terminal one live line with stage,
//! elapsed time and what is being done. Level-triggered: after each wake-up the journal is read on from the last position.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_actors::api::{Control, ControlError, StopAnswer, Submit};
use orch_domain::ids::Seq;
use orch_domain::journal::Record;
use orch_domain::task::Status;
use orch_domain::time::Millis;
use orch_domain::view::{TaskDetail, TaskView, Why};

use super::client::{Client, ClientError};
use super::output::{CliError, Output};

/// Longest wait before the live line is renewed, and before another supervisor is asked again.
const TICK: Duration = Duration::from_millis(500);
/// Records read at a time.
const PAGE: usize = 500;

/// Where a task is followed.
pub(super) enum Source {
    /// In this process.
    Here(Arc<dyn Control>),
    /// In the supervisor that owns the data folder.
    There(Client),
}

/// Why a question got no answer.
#[derive(Debug)]
pub(super) enum Lost {
    /// The other supervisor is gone: its data folder can be had.
    Gone,
    /// A refusal or a fault, with the code it had over HTTP.
    Said(&'static str, String),
}

impl From<ControlError> for Lost {
    fn from(error: ControlError) -> Self {
        let code = match &error {
            ControlError::NotFound(_) => "not_found",
            ControlError::Invalid(_) => "invalid",
            ControlError::Conflict(_) => "conflict",
            ControlError::Unavailable(_) => "unavailable",
            ControlError::Internal(_) => "internal",
        };
        Self::Said(code, error.to_string())
    }
}

impl From<ClientError> for Lost {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable(_) => Self::Gone,
            ClientError::Refused { code, message, .. } => match code.as_str() {
                "conflict" => Self::Said("conflict", message),
                "unavailable" => Self::Gone,
                _ => Self::Said("refused", message),
            },
            ClientError::Strange(message) => Self::Said("strange", message),
        }
    }
}

impl Source {
    pub(super) async fn submit(&self, submit: &Submit, by: &str) -> Result<TaskView, Lost> {
        match self {
            Self::Here(control) => Ok(control.submit(submit.clone(), by).await?),
            Self::There(client) => Ok(client.post("/tasks", Some(submit)).await?),
        }
    }

    pub(super) async fn retry(&self, key: &str, by: &str) -> Result<TaskView, Lost> {
        match self {
            Self::Here(control) => Ok(control.retry(key, by).await?),
            Self::There(client) => Ok(client.post(&Client::task_path(key, "/retry"), None::<&()>).await?),
        }
    }

    pub(super) async fn stop(&self, key: &str) -> Result<TaskView, Lost> {
        let answer: StopAnswer = match self {
            Self::Here(control) => control.stop(key, "orch run", "cli").await?,
            Self::There(client) => client.post(&Client::task_path(key, "/stop"), None::<&()>).await?,
        };
        Ok(answer.task)
    }

    pub(super) async fn detail(&self, key: &str) -> Result<TaskDetail, Lost> {
        match self {
            Self::Here(control) => {
                let lives = control.task(key, false).await?;
                let missing = || Lost::Said("not_found", format!("there is no task `{key}`"));
                lives.into_iter().next().ok_or_else(missing)
            }
            Self::There(client) => Ok(client.get(&Client::task_path(key, "")).await?),
        }
    }

    async fn why(&self, key: &str) -> Result<Why, Lost> {
        match self {
            Self::Here(control) => Ok(control.why(key).await?),
            Self::There(client) => Ok(client.get(&Client::task_path(key, "/why")).await?),
        }
    }

    async fn records(&self, key: &str, after: Seq) -> Result<Vec<Record>, Lost> {
        match self {
            Self::Here(control) => Ok(control.journal(key, after, PAGE).await?),
            Self::There(client) => {
                let path = Client::task_path(key, &format!("/journal?after={after}&limit={PAGE}"));
                Ok(client.get(&path).await?)
            }
        }
    }
}

/// Whether nothing more happens by itself.
pub(super) const fn is_settled(status: Status) -> bool {
    matches!(status, Status::Done | Status::Cancelled | Status::Blocked | Status::AwaitingPerson)
}

/// What is being followed, and how far it was shown.
pub(super) struct Following {
    /// `KEY/LIFE`: a later life is another task.
    pub(super) key: String,
    pub(super) seen: Seq,
    /// What its landing left for a person to do: folder and shell line.
    pub(super) left_behind: Vec<(String, String)>,
    began: Instant,
}

impl Following {
    pub(super) fn new(task: &TaskView) -> Self {
        Self {
            key: format!("{}/{}", task.key, task.generation),
            seen: Seq(0),
            left_behind: Vec::new(),
            began: Instant::now(),
        }
    }

    /// The task's key, without its life.
    pub(super) fn task(&self) -> &str {
        self.key.rsplit_once('/').map_or(&self.key, |(key, _)| key)
    }

    /// Follows until the task is settled.
    pub(super) async fn until_settled(&mut self, source: &Source, out: &mut Output) -> Result<TaskDetail, FollowEnd> {
        let mut grown = match source {
            Source::Here(control) => Some(control.watch_records()),
            Source::There(_) => None,
        };
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(grown) = &mut grown {
                grown.borrow_and_update();
            }
            // Asked before the records are read: what it says is then in them.
            let detail = source.detail(&self.key).await?;
            self.show_records(source, out).await?;
            if is_settled(detail.task.status) {
                return Ok(detail);
            }
            self.show_live(source, &detail, out).await?;
            match &mut grown {
                Some(grown) => {
                    tokio::select! {
                        changed = grown.changed() => if changed.is_err() {
                            return Err(Lost::Said("internal", "the engine has ended".to_owned()).into());
                        },
                        _ = ticks.tick() => {}
                    }
                }
                None => drop(ticks.tick().await),
            }
        }
    }

    /// Shows what was journaled since it was last shown.
    pub(super) async fn show_records(&mut self, source: &Source, out: &mut Output) -> Result<(), FollowEnd> {
        loop {
            let records = source.records(&self.key, self.seen).await?;
            if records.is_empty() {
                return Ok(());
            }
            for record in &records {
                self.seen = self.seen.max(record.seq);
                self.left_behind.extend(left_behind(record));
                match out.json {
                    true => out.json_line(record)?,
                    false => out.line(&line_of(record))?,
                }
            }
        }
    }

    async fn show_live(&self, source: &Source, detail: &TaskDetail, out: &mut Output) -> Result<(), FollowEnd> {
        if !out.terminal {
            return Ok(());
        }
        let why = source.why(&self.key).await?;
        let elapsed = Millis(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let task = &detail.task;
        out.live(&live_line(task, elapsed, &why))?;
        Ok(())
    }
}

/// What is shown meanwhile: where it is, for how long, and what was last heard of it.
fn live_line(task: &TaskView, elapsed: Millis, why: &Why) -> String {
    let said = why.activity.as_ref().unwrap_or(&why.waits_for);
    format!("{}  {}  {elapsed}  {}", task.stage, task.status.as_str(), orch_domain::task::first_line(said))
}

/// One record as people read it.
fn line_of(record: &Record) -> String {
    let at = record.at.to_string();
    let clock = at.get(11..19).unwrap_or(&at);
    let stage = record.stage.as_ref().map_or("-", |s| s.as_str());
    format!("{clock}  {stage:<14}  {}", orch_domain::task::first_line(&record.entry.text))
}

/// The folders whose files did not move with `main`, as a landing noted them.
fn left_behind(record: &Record) -> Vec<(String, String)> {
    let folders = record.entry.data["left_behind"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    folders.iter().filter_map(|left| Some((text(&left["folder"])?, text(&left["command"])?))).collect()
}

/// Why following ended without the task being settled.
#[derive(Debug)]
pub(super) enum FollowEnd {
    /// The source.
    Lost(Lost),
    /// The output.
    Output(CliError),
}

impl From<Lost> for FollowEnd {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<CliError> for FollowEnd {
    fn from(error: CliError) -> Self {
        Self::Output(error)
    }
}

#[cfg(test)]
mod tests {
    use orch_domain::samples;
    use orch_domain::task::{State, Step};
    use orch_domain::time::Timestamp;
    use orch_domain::view::{Holders, why};

    use super::*;
    use crate::cli::tests::Written;

    #[test]
    fn the_live_line_ends_with_the_last_event_as_far_as_the_terminal_is_wide() {
        let run = "tmwzh6vaa1ae3869r1".parse().expect("an id");
        let task = samples::task_at("development", State::Running { run, step: Step::Agent, since: Timestamp(0) });
        let event = "runs `cargo test --workspace` to see whether the new case of the parser fails as it has to";
        let holders = Holders { activity: Some(format!("{event}\nand more")), ..Holders::default() };
        let line = live_line(&TaskView::of(&task), Millis(1_000), &why(&task, &holders));
        assert_eq!(line, format!("development  running  {}  {event}", Millis(1_000)));
        for (columns, shown) in [(30, 29), (80, 79), (200, line.chars().count())] {
            let written = Written::default();
            let mut out = Output::to(Box::new(written.clone()), Box::new(Vec::new()), true, false).columns(columns);
            out.live(&line).expect("written");
            let cut: String = line.chars().take(shown).collect();
            assert_eq!(written.text(), format!("\r\u{1b}[K{cut}"), "{columns} columns");
        }
        // Nothing was heard yet: what it does, in words.
        let quiet = live_line(&TaskView::of(&task), Millis(1_000), &why(&task, &Holders::default()));
        assert!(quiet.contains("an agent works on development"), "{quiet}");
    }
}
