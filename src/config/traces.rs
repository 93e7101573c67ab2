//! What a supervisor leaves behind: its log lines, and how long the traces of work that is over are kept.
//!
//! Owns the two groups of settings. Refuses to let the end of a time reach what is never thrown away: live tasks, landings,
//! receipts, tombstones, reports. Those have no setting.

use orch_domain::time::Millis;
use serde::{Deserialize, Serialize};

use super::units;

/// A day.
const DAY: Millis = Millis::from_mins(24 * 60);

/// How long what is over is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Logs of a closed task's jobs, what was taken in from its workspaces, sent effects, deliveries that were acted upon.
    #[serde(with = "units::duration")]
    pub logs: Millis,
    /// Files of workspaces that were salvaged or put aside.
    #[serde(with = "units::duration")]
    pub salvage: Millis,
    /// Most bytes of files that one repository's salvages may hold together; beyond it the oldest go.
    #[serde(with = "units::size")]
    pub salvage_size: u64,
    /// Journals of closed tasks; for ever when absent.
    #[serde(with = "units::maybe_duration")]
    pub journal: Option<Millis>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { logs: Millis(DAY.0 * 30), salvage: Millis(DAY.0 * 30), salvage_size: 5 << 30, journal: None }
    }
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Form of the lines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or filter directives such as `info,orch_store=debug`.
    pub level: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Coloured text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}
