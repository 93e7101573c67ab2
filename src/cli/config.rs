//! `orch config check|show`: the settings judged, or as they are in effect. Needs no supervisor.

use std::collections::BTreeSet;

use clap::Subcommand;

use super::output::{CliError, Output};
use super::{Context, doctor};

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
        config.doubts().iter().for_each(|doubt| out.note(doubt));
        // Of agents only those that are used: the built-in ones need not be installed.
        let used = config.repos.values().map(|repo| repo.agent.as_ref().unwrap_or(&config.default_agent));
        for name in used.collect::<BTreeSet<_>>() {
            let missing = config.agents.get(name).and_then(|agent| doctor::missing_program(agent, &context.env));
            if let Some(program) = missing {
                out.note(&format!("agents.{name}: its program `{program}` is not found in PATH; its runs will fail"));
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
