//! The handle's part about data that nobody runs: after `orch run`, and while a supervisor is down.
//!
//! Owns the words. What was recorded last may say that an agent works; nobody looks after it, so the task waits for somebody
//! who goes on with it, and that is what is said. Refuses to know whether a process of it still lives.

use orch_domain::task::{Status, Task};
use orch_domain::view::Why;

use super::Handle;

/// Why nothing is taken.
pub(super) const NOBODY: &str = "nobody runs it; this is what was recorded last";

impl Handle {
    /// Where nobody runs, nothing goes on by itself, and what a person can do begins with somebody running it.
    pub(super) fn or_at_rest(&self, task: &Task, told: Why) -> Why {
        if !self.at_rest || task.is_terminal() {
            return told;
        }
        let key = &task.key;
        let (ends_by, hint) = match &task.settings {
            Some(_) => (
                format!("`orch run --key {key}` with the settings that it was handed in with, or a STOP"),
                format!("repeat its command with --key {key}: it goes on; with --key {key} --stop it is stopped"),
            ),
            None => {
                ("a supervisor that goes on with it".to_owned(), "start `orch serve` on this data folder".to_owned())
            }
        };
        let hint = Some(hint);
        match told.status {
            Status::Blocked => Why { hint, ..told },
            _ => Why {
                waits_for: format!("somebody to go on with it: nobody runs it now (recorded last: {})", told.waits_for),
                held_by: None,
                ends_by,
                hint,
                ..told
            },
        }
    }
}
