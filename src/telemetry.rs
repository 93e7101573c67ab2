//! Logs: where they go, in which form, and the one list of their field names.
//!
//! Owns the subscriber's set-up. Lines go to standard error, so that standard output stays what a command answers.
//! Refuses a second set-up silently: the first one stays. Never logged: secrets, prompts, raw bodies.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{LogFormat, Telemetry};

/// Names of spans and fields. What is logged elsewhere uses these and no others.
pub mod field {
    /// A task's key.
    pub const TASK: &str = "task.key";
    /// A run's id.
    pub const RUN: &str = "run.id";
    /// A job's id.
    pub const JOB: &str = "job.id";
    /// A repository's name.
    pub const REPO: &str = "repo";
    /// A stage's name.
    pub const STAGE: &str = "stage";
    /// A lease's epoch.
    pub const EPOCH: &str = "lease.epoch";
    /// How long something took, in milliseconds.
    pub const DURATION: &str = "duration_ms";
    /// A cause, as text.
    pub const ERROR: &str = "error";
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
#[error(
    "telemetry.level `{level}` is not understood: {source}; write error, warn, info, debug, trace, or directives such as info,orch_store=debug"
)]
pub struct TelemetryError {
    level: String,
    source: ParseError,
}

/// Sets logs up for this process.
///
/// # Errors
/// [`TelemetryError`] naming the level that is not understood.
pub fn init(settings: &Telemetry) -> Result<(), TelemetryError> {
    let filter = filter(&settings.level)?;
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    // A second set-up in the same process (tests) keeps the first.
    let _ = match json {
        true => lines.json().flatten_event(true).try_init(),
        false => lines.with_target(false).try_init(),
    };
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let wrong = |source| TelemetryError { level: level.to_owned(), source };
    EnvFilter::builder().parse(level).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_nobody_knows_is_refused_with_the_way_out() {
        assert!(filter("info,orch_store=debug").is_ok());
        let err = filter("orch=loud").expect_err("refused").to_string();
        assert!(err.contains("`orch=loud`") && err.contains("write error, warn"), "{err}");
    }
}
