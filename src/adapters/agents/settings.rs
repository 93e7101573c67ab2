//! Settings of an agent, and the choice of its adapter.
//!
//! Owns the typed settings (strict: an unknown key is an error), the prices per model and the checks that several
//! adapters share. Refuses endpoints that carry credentials: they would end up in `argv`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use orch_domain::agent::{AgentKind, Usage};
use serde::{Deserialize, Serialize};

use super::port::{Agent, AgentSetupError, LaunchContext};
use super::{claude, codex, command, opencode, scripted};

/// How one agent is set up. Which fields matter depends on the kind; the rest is left empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettings {
    /// Program name or absolute path; the kind's own name when absent.
    pub program: Option<String>,
    /// Model to ask for when a run does not name one.
    pub model: Option<String>,
    /// Base URL of the model's API; the program's own when absent. Must not hold credentials.
    pub endpoint: Option<String>,
    /// Name of the allow-listed environment variable that holds the API key.
    pub key_env: Option<String>,
    /// Arguments put before our own last ones, for what these settings do not know. No secrets: arguments are public.
    pub extra_args: Vec<String>,
    /// Prices by model name; `*` stands for any other. Used only where the program reports tokens but no money.
    pub rates: BTreeMap<String, Rates>,
    /// `command` only: what to run.
    pub command: Option<CommandLine>,
    /// `scripted` only: the script's file.
    pub script: Option<PathBuf>,
}

/// What a `command` agent runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CommandLine {
    /// A line for `sh -c`; the prompt comes on standard input and as a file named by `$ORCH_PROMPT_FILE`.
    Shell(String),
    /// Program and arguments, with `{prompt}`, `{prompt_file}` and `{workspace}` replaced.
    Argv(Vec<String>),
}

/// Prices of one model, in millionths of a US dollar for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// For tokens read.
    pub input_micro_usd_per_mtok: u64,
    /// For tokens read from a cache.
    pub cached_micro_usd_per_mtok: u64,
    /// For tokens written.
    pub output_micro_usd_per_mtok: u64,
}

impl Rates {
    /// The price of what was used, rounded up; `None` when not even one number of tokens is known.
    #[must_use]
    pub fn price(&self, usage: &Usage) -> Option<u64> {
        let parts = [
            (usage.input_tokens, self.input_micro_usd_per_mtok),
            (usage.cached_tokens, self.cached_micro_usd_per_mtok),
            (usage.output_tokens, self.output_micro_usd_per_mtok),
        ];
        if parts.iter().all(|(tokens, _)| tokens.is_none()) {
            return None;
        }
        let total = parts.iter().fold(0u128, |sum, (tokens, rate)| {
            sum.saturating_add(u128::from(tokens.unwrap_or(0)).saturating_mul(u128::from(*rate)))
        });
        Some(u64::try_from(total.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

/// Makes the adapter of a kind. `own_program` is the path of our own executable, which runs scripts.
pub fn build(
    kind: AgentKind,
    settings: AgentSettings,
    own_program: PathBuf,
) -> Result<Arc<dyn Agent>, AgentSetupError> {
    let agent = kind.as_str();
    check_endpoint(agent, settings.endpoint.as_deref())?;
    check_key_name(agent, settings.key_env.as_deref())?;
    Ok(match kind {
        AgentKind::Claude => Arc::new(claude::Claude { settings }),
        AgentKind::Codex => Arc::new(codex::Codex { settings }),
        AgentKind::Opencode => Arc::new(opencode::Opencode { settings }),
        AgentKind::Command => Arc::new(command::Command::new(settings)?),
        AgentKind::Scripted => Arc::new(scripted::Scripted::new(settings, own_program)?),
    })
}

fn check_endpoint(agent: &'static str, endpoint: Option<&str>) -> Result<(), AgentSetupError> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let refused = |why: &str| Err(AgentSetupError::BadSetting { agent, setting: "endpoint", why: why.to_owned() });
    let Some(rest) = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://")) else {
        return refused("it must start with `https://` or `http://`");
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() {
        return refused("it names no host");
    }
    // The value is not shown: whoever writes credentials here should not find them in a log.
    if host.contains('@') || endpoint.contains(['?', '#']) {
        return refused("it may not hold credentials or a query; name the key's variable in `key_env`");
    }
    if !endpoint.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'`' | b'{' | b'}')) {
        return refused("it may hold neither spaces, quotes, braces nor backslashes");
    }
    Ok(())
}

fn check_key_name(agent: &'static str, name: Option<&str>) -> Result<(), AgentSetupError> {
    let Some(name) = name else { return Ok(()) };
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if first && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(());
    }
    // Not shown either: a key pasted in place of its variable's name is an easy mistake.
    let why = "it must be the name of an environment variable (letters, digits, `_`), not the key itself".to_owned();
    Err(AgentSetupError::BadSetting { agent, setting: "key_env", why })
}

impl AgentSettings {
    /// The model of one run.
    pub(super) fn model_of<'a>(&'a self, asked: Option<&'a str>) -> Option<&'a str> {
        asked.or(self.model.as_deref())
    }

    /// The API key of one run, when a variable for it is named.
    pub(super) fn key<'a>(
        &self,
        agent: &'static str,
        ctx: &'a LaunchContext,
    ) -> Result<Option<&'a str>, AgentSetupError> {
        let Some(variable) = &self.key_env else { return Ok(None) };
        match ctx.env_allow.get(variable).filter(|value| !value.is_empty()) {
            Some(value) => Ok(Some(value)),
            None => Err(AgentSetupError::KeyMissing {
                agent,
                variable: variable.clone(),
                advice: "set it in the supervisor's environment and list it in the agent's allowed environment",
            }),
        }
    }

    /// The prices for a model, if configured.
    pub(super) fn rates_of(&self, model: Option<&str>) -> Option<Rates> {
        model.and_then(|model| self.rates.get(model)).or_else(|| self.rates.get("*")).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_round_up_and_never_overflow() {
        let rates = Rates {
            input_micro_usd_per_mtok: 1_250_000,
            cached_micro_usd_per_mtok: 125_000,
            output_micro_usd_per_mtok: 10_000_000,
        };
        let usage =
            Usage { input_tokens: Some(40), cached_tokens: None, output_tokens: Some(14), cost_micro_usd: None };
        assert_eq!(rates.price(&usage), Some(190), "40 * 1.25 + 14 * 10");
        let one = Usage { input_tokens: Some(1), ..Usage::default() };
        assert_eq!(rates.price(&one), Some(2), "1.25 is rounded up");
        assert_eq!(rates.price(&Usage::default()), None, "unknown is not zero");
        let huge = Usage { input_tokens: Some(u64::MAX), output_tokens: Some(u64::MAX), ..Usage::default() };
        let dear = Rates { input_micro_usd_per_mtok: u64::MAX, output_micro_usd_per_mtok: u64::MAX, ..rates };
        assert_eq!(dear.price(&huge), Some(u64::MAX));
    }

    #[test]
    fn endpoints_with_credentials_or_quotes_are_refused_without_repeating_them() {
        let refused = |endpoint: &str| {
            let settings = AgentSettings { endpoint: Some(endpoint.to_owned()), ..AgentSettings::default() };
            build(AgentKind::Codex, settings, PathBuf::new()).err().expect("refused").to_string()
        };
        for bad in [
            "ftp://x",
            "https://",
            "https://me:sesame@host/",
            "https://h/?key=sesame",
            "https://h/\",x=\"sesame",
            "host",
        ] {
            let err = refused(bad);
            assert!(err.contains("setting `endpoint` is refused") && !err.contains("sesame"), "{bad}: {err}");
        }
        let fine = AgentSettings { endpoint: Some("http://127.0.0.1:8080/v1".to_owned()), ..AgentSettings::default() };
        assert!(build(AgentKind::Codex, fine, PathBuf::new()).is_ok());
    }

    #[test]
    fn a_key_in_place_of_its_variable_is_refused_without_repeating_it() {
        let settings = AgentSettings { key_env: Some("sk-sesame".to_owned()), ..AgentSettings::default() };
        let err = build(AgentKind::Claude, settings, PathBuf::new()).err().expect("refused").to_string();
        assert!(err.contains("name of an environment variable") && !err.contains("sesame"), "{err}");
    }

    #[test]
    fn unknown_settings_are_errors_and_both_command_forms_are_read() {
        assert!(serde_yaml::from_str::<AgentSettings>("modell: x").is_err());
        let shell: AgentSettings = serde_yaml::from_str("command: sh run.sh").expect("valid");
        assert_eq!(shell.command, Some(CommandLine::Shell("sh run.sh".to_owned())));
        let argv: AgentSettings = serde_yaml::from_str("command: [run, '{prompt_file}']").expect("valid");
        assert_eq!(argv.command, Some(CommandLine::Argv(vec!["run".to_owned(), "{prompt_file}".to_owned()])));
    }
}
