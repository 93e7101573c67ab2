//! Checks across keys, and the completion of what was left open: paths, built-in agents, the data folder.
//!
//! Owns the rules that no single value can break alone. Refuses credentials in URLs without repeating them. Every refusal
//! names file, line where it can be found, key and way out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orch_adapters::advisories::check_endpoint;
use orch_domain::agent::AgentKind;
use orch_domain::names::{RepoName, RepoPath};
use orch_domain::pipeline::Pipeline;
use orch_domain::time::Millis;

use super::keys::KEYS;
use super::load::{Env, absolute, filled};
use super::problem::{ConfigError, closest, line_of};
use super::{
    AgentConfig, AuditProvider, Config, PipelineFile, PipelineInline, PipelineSource, RepoConfig, SecurityGate,
};

/// Where the settings came from.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) folder: &'a Path,
    pub(super) env: &'a Env,
}

impl Source<'_> {
    /// A refusal of a key's value, at the place where it was set: the environment goes before the file.
    fn wrong(&self, key: &str, what: &str) -> ConfigError {
        let by_env = KEYS.iter().find(|known| known.path == key).and_then(|known| known.env);
        if let Some(name) = by_env.filter(|name| self.env.get(*name).is_some_and(|text| !text.trim().is_empty())) {
            return ConfigError::Environment { name: name.to_owned(), what: format!("{key}: {what}") };
        }
        let line = line_of(self.text, key).map(|line| format!(":{line}")).unwrap_or_default();
        ConfigError::Invalid { place: format!("{}{line}", self.file.display()), what: format!("{key}: {what}") }
    }

    fn path(&self, path: &Path) -> PathBuf {
        absolute(path, self.folder, self.env)
    }
}

/// Completes and checks settings.
pub(super) fn finish(mut config: Config, source: &Source<'_>) -> Result<Config, ConfigError> {
    config.data_dir = match config.data_dir.as_os_str().is_empty() {
        true => state_folder(source.env)?,
        false => source.path(&config.data_dir),
    };
    if !config.http.token_file.as_os_str().is_empty() {
        config.http.token_file = source.path(&config.http.token_file);
    }
    let security = &mut config.gates.security;
    security.rules = security.rules.as_deref().map(|path| source.path(path));
    security.dep_audit_offline = security.dep_audit_offline.as_deref().map(|path| source.path(path));
    if let Some(word) = no_level(&config.telemetry.level) {
        let near = closest(&word.to_ascii_lowercase(), LEVELS.into_iter());
        let hint = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        let what = format!(
            "`{word}` is no level, and would switch everything else off: {hint}Write {}, or name a level \
             for a part of the program, as in `info,orch_store=debug`",
            LEVELS.join(", ")
        );
        return Err(source.wrong("telemetry.level", &what));
    }
    limits(&config, source)?;
    agents(&mut config, source)?;
    for name in config.pipelines.keys() {
        if name == "full" || name == "lite" {
            return Err(source.wrong(&format!("pipelines.{name}"), "this name is built in; choose another"));
        }
    }
    for pipeline in config.pipelines.values_mut() {
        if let PipelineSource::File(PipelineFile { file }) = pipeline {
            *file = source.path(file);
        }
    }
    for name in config.pipelines.keys() {
        pipeline(&config, name).map_err(|e| source.wrong(&format!("pipelines.{name}"), &words(e)))?;
    }
    let names: Vec<RepoName> = config.repos.keys().cloned().collect();
    for name in names {
        let mut repo = config.repos[&name].clone();
        complete_repo(&config, &name, &mut repo, source)?;
        config.repos.insert(name, repo);
    }
    no_path_twice(&config, source)?;
    gate_scopes(&config, source)?;
    Ok(config)
}

/// The words that set how much is logged.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A word alone among log directives that is no level. The filter would take it for the name of a part of the program,
/// show that part alone, and log nothing at all where there is none.
fn no_level(directives: &str) -> Option<&str> {
    let parts = directives.split(',').map(str::trim).filter(|part| !part.is_empty());
    let mut alone = parts.filter(|part| !part.contains(['=', '[', ':']));
    alone.find(|word| !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)))
}

/// Two names for one repository would be two lanes onto one branch.
fn no_path_twice(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let mut seen = BTreeMap::new();
    for (name, repo) in &config.repos {
        let Some(path) = &repo.path else { continue };
        if let Some(other) = seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone()), name) {
            let what = format!("{} is the repository `{other}` already: leave one of the two out", path.display());
            return Err(source.wrong(&format!("repos.{name}.path"), &what));
        }
    }
    Ok(())
}

fn words(error: ConfigError) -> String {
    match error {
        ConfigError::Invalid { place, what } => format!("{place}: {what}"),
        other => other.to_string(),
    }
}

fn state_folder(env: &Env) -> Result<PathBuf, ConfigError> {
    // The XDG specification says that a relative value is to be ignored.
    let xdg = filled(env, "XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let base = xdg.or_else(|| filled(env, "HOME").map(|home| Path::new(home).join(".local/state")));
    base.map(|b| b.join("orch")).ok_or(ConfigError::NoHome)
}

fn limits(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let limits = &config.limits;
    for (key, value) in [("max_concurrency", limits.max_concurrency), ("gate_slots", limits.gate_slots)] {
        if value == 0 || value > 1_000 {
            let what = format!("{value} is out of range: write 1 to 1000");
            return Err(source.wrong(&format!("limits.{key}"), &what));
        }
    }
    let durations = [
        ("agent_time", limits.agent_time),
        ("agent_stall", limits.agent_stall),
        ("check_time", limits.check_time),
        ("test_time", limits.test_time),
        ("deploy_time", limits.deploy_time),
        ("git_time", limits.git_time),
        ("infrastructure_delay", limits.infrastructure_delay),
        ("deferral_delay", limits.deferral_delay),
    ];
    for (key, value) in durations {
        if value.0 == 0 {
            return Err(source.wrong(&format!("limits.{key}"), "0 would end everything at once: write a duration"));
        }
    }
    let merge = &config.gates.merge;
    if merge.lease_ttl < SHORTEST_LEASE {
        let what = format!("{} is too short to be renewed in time: write {SHORTEST_LEASE} or more", merge.lease_ttl);
        return Err(source.wrong("gates.merge.lease_ttl", &what));
    }
    if merge.defer_delay.0 == 0 || merge.retest_timeout == Some(Millis(0)) {
        return Err(source.wrong("gates.merge", "defer_delay and retest_timeout may not be 0: write a duration"));
    }
    for name in config.job_limits.keys() {
        if super::jobs::kinds(name).is_none() {
            let what = "no such kind of job: write agent, capture, gate or deploy";
            return Err(source.wrong(&format!("job_limits.{name}"), what));
        }
    }
    retention(config, source)
}

/// A lease is renewed every third of its life; below this, a busy machine would miss that.
const SHORTEST_LEASE: Millis = Millis::from_secs(3);

/// Shortest time that anything is kept: somebody has to be able to look at it, and a delivery may be repeated.
const KEPT_AT_LEAST: Millis = Millis::from_mins(60);

fn retention(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let kept = &config.retention;
    let times = [("logs", Some(kept.logs)), ("salvage", Some(kept.salvage)), ("journal", kept.journal)];
    for (key, value) in times {
        if let Some(value) = value.filter(|value| *value < KEPT_AT_LEAST) {
            let what = format!("{value} is too short to look at anything: write 1h or more, such as 30d");
            return Err(source.wrong(&format!("retention.{key}"), &what));
        }
    }
    Ok(())
}

fn agents(config: &mut Config, source: &Source<'_>) -> Result<(), ConfigError> {
    for kind in [AgentKind::Claude, AgentKind::Codex, AgentKind::Opencode] {
        config.agents.entry(kind.as_str().to_owned()).or_default();
    }
    for (name, agent) in &mut config.agents {
        let by_name = [AgentKind::Claude, AgentKind::Codex, AgentKind::Opencode].into_iter();
        let by_name = by_name.clone().find(|k| k.as_str() == name);
        let key = |part: &str| format!("agents.{name}.{part}");
        let implied = agent.command.is_some().then_some(AgentKind::Command);
        let implied = implied.or_else(|| agent.script.is_some().then_some(AgentKind::Scripted));
        agent.kind = agent.kind.or(implied).or(by_name);
        let Some(kind) = agent.kind else {
            let what = "its kind is missing: write claude, codex, opencode, command or scripted";
            return Err(source.wrong(&key("kind"), what));
        };
        agent_fits_kind(agent, kind).map_err(|(part, what)| source.wrong(&key(part), &what))?;
        agent.script = agent.script.as_deref().map(|p| source.path(p));
        for folder in &mut agent.read {
            *folder = source.path(folder);
        }
    }
    if !config.agents.contains_key(&config.default_agent) {
        return Err(source.wrong("default_agent", &unknown("agent", &config.default_agent, config.agents.keys())));
    }
    Ok(())
}

fn agent_fits_kind(agent: &AgentConfig, kind: AgentKind) -> Result<(), (&'static str, String)> {
    match kind {
        AgentKind::Command if agent.command.is_none() => {
            return Err(("command", "an agent of kind command needs it: write a shell line or a list".to_owned()));
        }
        AgentKind::Scripted if agent.script.is_none() => {
            return Err(("script", "an agent of kind scripted needs it: write the script's path".to_owned()));
        }
        _ => {}
    }
    if agent.command.is_some() && kind != AgentKind::Command {
        return Err(("command", format!("only agents of kind command have it, and this one is {}", kind.as_str())));
    }
    if agent.script.is_some() && kind != AgentKind::Scripted {
        return Err(("script", format!("only agents of kind scripted have it, and this one is {}", kind.as_str())));
    }
    if let Some(endpoint) = &agent.endpoint {
        url(endpoint, &["http://", "https://"]).map_err(|what| ("endpoint", what))?;
    }
    for name in agent.env_names() {
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            // Not shown: a key pasted in place of its variable's name is an easy mistake.
            let what = "must hold names of environment variables (letters, digits, `_`), never a value";
            return Err(("env", format!("key_env and env {what}")));
        }
    }
    Ok(())
}

/// Whether a URL has one of the schemes, a host and no credentials. The URL is never repeated.
fn url(url: &str, schemes: &[&str]) -> Result<(), String> {
    let Some(rest) = schemes.iter().find_map(|s| url.strip_prefix(s)) else {
        return Err(format!("a URL must begin with {}", schemes.join(" or ")));
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = host.rsplit_once('@').map(|(user, _)| user);
    if host.is_empty() {
        return Err("the URL names no host".to_owned());
    }
    if user.is_some_and(|u| u.contains(':') || schemes[0].starts_with("http")) {
        return Err("a URL may not hold credentials: use a credential helper or an environment variable".to_owned());
    }
    Ok(())
}

fn complete_repo(
    config: &Config,
    name: &RepoName,
    repo: &mut RepoConfig,
    source: &Source<'_>,
) -> Result<(), ConfigError> {
    let wrong = |part: &str, what: &str| source.wrong(&format!("repos.{name}{part}"), what);
    match (&repo.path, &repo.url) {
        (None, None) => return Err(wrong("", "it needs `path` (on this machine) or `url`")),
        (Some(_), Some(_)) => return Err(wrong("", "it has both `path` and `url`; keep one")),
        (None, Some(url)) => orch_adapters::forge::check_url(url).map_err(|what| wrong(".url", &what))?,
        (Some(path), None) => repo.path = Some(source.path(path)),
    }
    match (&repo.username, &repo.password_file) {
        (None, None) => {}
        (Some(_), Some(_)) if repo.url.is_none() => {
            return Err(wrong(".password_file", "a repository on this machine asks for no password"));
        }
        (Some(_), Some(file)) => repo.password_file = Some(source.path(file)),
        (Some(_), None) => return Err(wrong(".username", "it needs `password_file` beside it")),
        (None, Some(_)) => return Err(wrong(".password_file", "it needs `username` beside it")),
    }
    if let Some(agent) = &repo.agent
        && !config.agents.contains_key(agent)
    {
        return Err(wrong(".agent", &unknown("agent", agent, config.agents.keys())));
    }
    let pipelines = config.pipeline_names();
    if !pipelines.contains(&repo.pipeline) {
        return Err(wrong(".pipeline", &unknown("pipeline", &repo.pipeline, pipelines.iter())));
    }
    if repo.no_tests && repo.commands.test.is_some() {
        return Err(wrong(".no_tests", "there is a test command too; keep one of them"));
    }
    let lines = [
        ("setup", &repo.commands.setup),
        ("check", &repo.commands.check),
        ("test", &repo.commands.test),
        ("coverage", &repo.commands.coverage),
        ("staging", &repo.commands.staging),
        ("deploy", &repo.commands.deploy),
        ("health", &repo.commands.health),
        ("rollback", &repo.commands.rollback),
        ("deploy_status", &repo.commands.deploy_status),
    ];
    for (part, line) in lines {
        if line.as_ref().is_some_and(|l| l.trim().is_empty()) {
            return Err(wrong(&format!(".commands.{part}"), "it is empty; write a shell line or leave the key out"));
        }
    }
    if let Some(path) = &repo.commands.coverage_report {
        path.parse::<RepoPath>().map_err(|error| wrong(".commands.coverage_report", &error.to_string()))?;
    }
    Ok(())
}

fn gate_scopes(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let gates = &config.gates;
    if gates.coverage.epsilon > 10_000 {
        let what =
            format!("{} basis points are more than all lines; 10 are 0.10 percentage points", gates.coverage.epsilon);
        return Err(source.wrong("gates.coverage.epsilon", &what));
    }
    let pinned = gates.security.gitleaks_sha256.as_deref();
    if let Some(pin) = pinned.filter(|pin| pin.len() != 64 || !pin.bytes().all(|b| b.is_ascii_hexdigit())) {
        let what = format!("`{pin}` is no SHA-256: write its 64 hexadecimal digits, as `sha256sum` prints them");
        return Err(source.wrong("gates.security.gitleaks_sha256", &what));
    }
    if gates.security.gitleaks.trim().is_empty() {
        return Err(source.wrong("gates.security.gitleaks", "it is empty; name the program, or leave the key out"));
    }
    audit(&gates.security, source)?;
    let scopes = [
        ("security", &gates.security.repos),
        ("merge", &gates.merge.repos),
        ("coverage", &gates.coverage.repos),
        ("image-freshness", &gates.image_freshness.repos),
    ];
    for (gate, repos) in scopes {
        for repo in repos.iter().filter(|r| *r != "*") {
            if !config.repos.keys().any(|known| known.as_str() == repo) {
                let known: Vec<String> = config.repos.keys().map(ToString::to_string).collect();
                let what = unknown("repository", repo, known.iter());
                return Err(source.wrong(&format!("gates.{gate}.repos"), &what));
            }
        }
    }
    Ok(())
}

fn audit(security: &SecurityGate, source: &Source<'_>) -> Result<(), ConfigError> {
    let wrong = |key: &str, what: &str| source.wrong(&format!("gates.security.{key}"), what);
    check_endpoint(&security.dep_audit_endpoint).map_err(|error| wrong("dep_audit_endpoint", &error.to_string()))?;
    if security.pip_audit.trim().is_empty() {
        return Err(wrong("pip_audit", "it is empty; name the program, or leave the key out"));
    }
    if security.dep_audit_offline.is_some() && security.dep_audit_provider == AuditProvider::PipAudit {
        let what = "pip-audit asks a service, and the folder stands for any service; leave out one of `dep_audit_provider` \
                    and `dep_audit_offline`";
        return Err(wrong("dep_audit_offline", what));
    }
    if security.dep_audit_timeout == Millis(0) {
        return Err(wrong("dep_audit_timeout", "nobody can answer in no time; `dep_audit_enabled: false` asks nobody"));
    }
    Ok(())
}

fn unknown<'a>(noun: &str, name: &str, known: impl Iterator<Item = &'a String> + Clone) -> String {
    let hint = match closest(name, known.clone().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.clone().next().is_none() => format!("no {noun} is named here yet"),
        None => format!("there are: {}", known.cloned().collect::<Vec<_>>().join(", ")),
    };
    format!("there is no {noun} `{name}`; {hint}")
}

/// The pipeline of that name.
pub(super) fn pipeline(config: &Config, name: &str) -> Result<Pipeline, ConfigError> {
    if let Some(built_in) = Pipeline::built_in(name) {
        return Ok(built_in);
    }
    let invalid = |place: String, what: String| ConfigError::Invalid { place, what: what.replace('\n', " ") };
    match config.pipelines.get(name) {
        None => {
            let names = config.pipeline_names();
            Err(invalid("pipelines".to_owned(), unknown("pipeline", name, names.iter())))
        }
        Some(PipelineSource::File(PipelineFile { file })) => {
            let place = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|e| invalid(place.clone(), e.to_string()))?;
            let pipeline = Pipeline::parse(&place, &text).map_err(|e| invalid(place.clone(), e.to_string()))?;
            match Pipeline::built_in(&pipeline.name) {
                Some(_) => Err(invalid(place, format!("its name `{}` is built in; choose another", pipeline.name))),
                None => Ok(pipeline),
            }
        }
        Some(PipelineSource::Inline(PipelineInline { stages })) => {
            let mut whole = serde_yaml::Mapping::new();
            whole.insert("name".into(), name.into());
            whole.insert("stages".into(), stages.clone());
            let text = serde_yaml::to_string(&whole).map_err(|e| invalid(name.to_owned(), e.to_string()))?;
            Pipeline::parse(name, &text).map_err(|e| {
                // Lines of the copy mean nothing to the reader.
                let text = e.to_string();
                let cut = text.rfind(" at line ").unwrap_or(text.len());
                invalid("in place".to_owned(), text[..cut].to_owned())
            })
        }
    }
}
