//! `orch config check|show`: the settings judged, or as they are in effect. Needs no supervisor.

use clap::Subcommand;

use super::Context;
use super::output::{CliError, Output};

/// What to do with the settings.
#[derive(Subcommand, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigVerb {
    /// Read and judge them
    Check,
    /// Print the ones in effect, secrets hidden
    Show,
}

pub(super) fn run(context: &Context, verb: ConfigVerb, out: &mut Output) -> Result<u8, CliError> {
    let config = context.config()?;
    if verb == ConfigVerb::Check {
        for (name, repo) in &config.repos {
            if let Some(path) = repo.path.as_ref().filter(|path| !path.is_dir()) {
                out.note(&format!(
                    "repos.{name}.path: there is no folder {}; `orch serve` will refuse it",
                    path.display()
                ));
            }
        }
    }
    if verb == ConfigVerb::Check && !out.json {
        config.remarks().iter().try_for_each(|remark| out.line(&format!("warning: {remark}")))?;
    }
    match (verb, out.json) {
        (ConfigVerb::Check, true) => {
            out.json(&serde_json::json!({"ok": true, "repos": config.repos.len(), "warnings": config.remarks()}))?
        }
        (ConfigVerb::Check, false) => out.line(&format!(
            "settings are valid: {} {}, {} agents, {} pipelines, data in {}",
            config.repos.len(),
            if config.repos.len() == 1 { "repository" } else { "repositories" },
            config.agents.len(),
            config.pipeline_names().len(),
            config.data_dir.display()
        ))?,
        (ConfigVerb::Show, true) => out.json(&config)?,
        (ConfigVerb::Show, false) => out.block(&config.show(&context.env))?,
    }
    Ok(0)
}
