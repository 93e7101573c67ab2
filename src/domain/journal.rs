//! The journal: append-only, one entry per fact worth keeping, written in the transaction that makes it true.
//!
//! Owns the entry and the record as read back. Refuses to be a source of state: state rows are the truth, the journal is
//! for people, audits and the event stream.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{Generation, Seq, TaskId};
use crate::names::{RepoName, StageName, TaskKey};
use crate::time::Timestamp;

/// One new entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What sort of fact, in the past tense: an event's name, `stage-entered`, `sent-back`, ...
    pub kind: String,
    /// One sentence for people.
    pub text: String,
    /// The same for programs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

impl Entry {
    /// An entry without data.
    pub fn new(kind: &str, text: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), text: text.into(), data: Value::Null }
    }

    /// The same with data.
    #[must_use]
    pub fn with(mut self, data: Value) -> Self {
        self.data = data;
        self
    }
}

/// One entry as stored: what the event stream carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Position over all tasks.
    pub seq: Seq,
    /// When it was committed.
    pub at: Timestamp,
    /// The task; `None` for facts about a repository or the supervisor.
    pub task: Option<TaskId>,
    /// Its key.
    pub key: Option<TaskKey>,
    /// Its life.
    pub generation: Option<Generation>,
    /// The repository.
    pub repo: Option<RepoName>,
    /// The stage at that time.
    pub stage: Option<StageName>,
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
}
