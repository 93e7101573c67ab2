//! Settings for `orch run`: one repository, no service, a data folder of its own.
//!
//! Owns the data folder's name (repository name and a hash of its canonical path, so two checkouts never share one) and
//! the scope of the gates there (`*`). Keeps what the operator's settings say about agents, limits and telemetry. Owns the
//! digest by which one `orch run` knows whether another works as it would itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orch_domain::names::{BranchName, RepoName};
use sha2::{Digest as _, Sha256};

use super::problem::ConfigError;
use super::{AgentConfig, CommandLine, Config, Http, PipelineFile, PipelineSource, RepoConfig, Telemetry, check, refs};

/// What `orch run` was told about the repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbeddedRepo {
    /// Any path inside the repository's folder, or a bare repository.
    pub path: PathBuf,
    /// Whether a clone counts as the repository that it is a clone of: for who only asks, and lands nothing.
    pub by_origin: bool,
    /// The branch to land on; the repository is asked when absent.
    pub main: Option<BranchName>,
    /// A configured or built-in agent by name.
    pub agent: Option<String>,
    /// A shell line to be the agent; wins over `agent`.
    pub agent_command: Option<String>,
    /// The test command.
    pub test_command: Option<String>,
    /// The check command.
    pub check_command: Option<String>,
    /// Work without tests.
    pub no_tests: bool,
    /// `lite`, `full`, a configured pipeline or a pipeline's file; `lite` when absent.
    pub pipeline: Option<String>,
}

fn digest(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_vec(value).expect("settings serialise: tested for every key");
    hex::encode(&Sha256::digest(text)[..8])
}

fn refuse(place: &str, what: String) -> ConfigError {
    ConfigError::Invalid { place: place.to_owned(), what }
}

impl Config {
    /// These settings narrowed to one repository.
    ///
    /// # Errors
    /// [`ConfigError`] when the path is no repository, or agent or pipeline are unknown.
    pub fn embedded_for(mut self, told: &EmbeddedRepo) -> Result<Self, ConfigError> {
        let path = repository_at(&told.path)?;
        let mut name = name_of(&path);
        self.data_dir = self.data_dir.join("repos").join(Self::run_folder(&path));

        // What the operator has written about this very repository still holds, wherever it is not overridden.
        let same =
            |repo: &&RepoConfig| repo.path.as_deref().and_then(|p| repository_at(p).ok()).as_ref() == Some(&path);
        let mut known = self.repos.values().find(same).cloned();
        if told.by_origin {
            let of_origin = refs::origin_address(&path).filter(|_| known.is_none());
            let found = self.repos.iter().find(|(_, repo)| match &of_origin {
                None => same(repo),
                Some(address) => is_at(repo, address, &path),
            });
            if let Some((of_settings, repo)) = found {
                name.clone_from(of_settings);
                // The clone itself is read, whatever its origin asks for.
                let (url, username, password_file) = (None, None, None);
                known = Some(RepoConfig { url, username, password_file, ..repo.clone() });
            }
        }
        let mut repo = known.unwrap_or_else(|| RepoConfig { pipeline: "lite".to_owned(), ..RepoConfig::default() });
        // What is checked out now is what is meant now; whoever comes later may find another branch there.
        repo.main = told.main.clone().or(repo.main).or_else(|| refs::checked_out(&path));
        repo.path = Some(path);
        repo.no_tests = told.no_tests || (repo.no_tests && told.test_command.is_none());
        if let Some(test) = &told.test_command {
            repo.commands.test = Some(test.clone());
        } else if told.no_tests {
            repo.commands.test = None;
        }
        repo.commands.check = told.check_command.clone().or(repo.commands.check);
        if let Some(line) = &told.agent_command {
            let agent = AgentConfig {
                kind: Some(orch_domain::agent::AgentKind::Command),
                command: Some(CommandLine::Shell(line.clone())),
                ..AgentConfig::default()
            };
            self.agents.insert("given".to_owned(), agent);
            repo.agent = Some("given".to_owned());
        } else if let Some(agent) = &told.agent {
            if !self.agents.contains_key(agent) {
                let names: Vec<&str> = self.agents.keys().map(String::as_str).collect();
                let what = format!(
                    "there is no agent `{agent}`; there are: {}, or give a shell line with --agent-cmd",
                    names.join(", ")
                );
                return Err(refuse("--agent", what));
            }
            repo.agent = Some(agent.clone());
        }
        if let Some(pipeline) = &told.pipeline {
            repo.pipeline = self.take_pipeline(pipeline)?;
        }
        self.repos = BTreeMap::from([(name, repo)]);
        self.binds_tasks = true;
        let all = vec!["*".to_owned()];
        self.gates.security.repos.clone_from(&all);
        self.gates.merge.repos.clone_from(&all);
        self.gates.coverage.repos.clone_from(&all);
        self.gates.image_freshness.repos = all;
        Ok(self)
    }

    /// A digest of everything here that decides how a task is worked on and judged. Left out is what a task brings along
    /// when it is handed in (agent and pipeline, by name), and what only concerns people (HTTP, logs, the folder's place).
    /// Two processes with the same digest would do the same with the same task. Holds no secret.
    #[must_use]
    pub fn work_digest(&self) -> String {
        let mut rest = self.clone();
        rest.data_dir = PathBuf::new();
        rest.default_agent.clear();
        rest.http = Http::default();
        rest.telemetry = Telemetry::default();
        // By what is in them: a file of the same name may have changed.
        rest.pipelines.clear();
        for repo in rest.repos.values_mut() {
            repo.agent = None;
            repo.pipeline.clear();
        }
        let names = self.pipeline_names();
        let pipelines: Vec<_> = names.iter().map(|name| (name, self.pipeline(name).ok())).collect();
        let text = serde_json::to_vec(&(rest, pipelines)).expect("settings serialise: tested for every key");
        hex::encode(Sha256::digest(text))
    }

    /// The settings that bind a task, part by part: whose agent, tests, check and branch they are, and the digest of all
    /// else that judges. How much may be used and for how long is not among it, nor what a task brings along or pins.
    /// `None` where settings bind no task. Holds no secret and no command, only the name of the branch.
    #[must_use]
    pub fn binding(&self) -> Option<String> {
        let repo = self.repos.values().next().filter(|_| self.binds_tasks && self.repos.len() == 1)?;
        let name = repo.agent.as_ref().unwrap_or(&self.default_agent);
        let agent = digest(&(name, self.agents.get(name)));
        let commands = &repo.commands;
        let tests = digest(&(&commands.test, &commands.junit, repo.no_tests));
        let check = digest(&commands.check);
        let main = repo.main.as_ref().map_or("?", BranchName::as_str);
        let mut other = self.clone();
        other.data_dir = PathBuf::new();
        other.default_agent.clear();
        other.agents.clear();
        other.pipelines.clear();
        (other.http, other.telemetry) = (Http::default(), Telemetry::default());
        (other.limits, other.retention) = (Default::default(), Default::default());
        other.job_limits.clear();
        for repo in other.repos.values_mut() {
            (repo.agent, repo.main, repo.no_tests) = (None, None, false);
            repo.pipeline.clear();
            (repo.commands.test, repo.commands.junit, repo.commands.check) = (None, None, None);
        }
        Some(format!("agent={agent} tests={tests} check={check} main={main} other={}", digest(&other)))
    }

    /// The branch that a repository calls its own: that of its origin as it was cloned, else the one that is checked out.
    #[must_use]
    pub fn usual_main(root: &Path) -> Option<BranchName> {
        refs::of_origin(root).or_else(|| refs::checked_out(root))
    }

    /// The name of the folder that `orch run` keeps for the repository at this (canonical) path.
    #[must_use]
    pub fn run_folder(path: &Path) -> String {
        let digest = hex::encode(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..6]);
        format!("{}-{digest}", name_of(path))
    }

    /// The name of the one repository of embedded settings.
    #[must_use]
    pub fn only_repo(&self) -> Option<&RepoName> {
        self.repos.keys().next().filter(|_| self.repos.len() == 1)
    }

    fn take_pipeline(&mut self, told: &str) -> Result<String, ConfigError> {
        if self.pipeline_names().iter().any(|n| n == told) {
            return Ok(told.to_owned());
        }
        let file = std::path::absolute(told).unwrap_or_else(|_| PathBuf::from(told));
        if !file.is_file() {
            let names = self.pipeline_names().join(", ");
            return Err(refuse("--pipeline", format!("`{told}` is neither a pipeline ({names}) nor a file")));
        }
        let name = "given".to_owned();
        self.pipelines.insert(name.clone(), PipelineSource::File(PipelineFile { file }));
        check::pipeline(self, &name)?;
        Ok(name)
    }
}

/// The root of the repository that a path lies in, canonical. Looks at names only; whether git can use it, git says.
fn repository_at(path: &Path) -> Result<PathBuf, ConfigError> {
    let shown = path.display();
    let real = path
        .canonicalize()
        .map_err(|e| refuse("--repo", format!("`{shown}`: {e}; name a folder with a git repository")))?;
    let is_bare = |p: &Path| p.join("HEAD").is_file() && p.join("objects").is_dir() && p.join("refs").is_dir();
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    if let Some(error) = std::fs::symlink_metadata(real.join(".git")).err().filter(closed) {
        let what = format!(
            "`{shown}` may not be looked into by this user ({error}); run this as its owner, or give access to it"
        );
        return Err(refuse("--repo", what));
    }
    let found = real.ancestors().find(|p| p.join(".git").exists() || is_bare(p));
    match found {
        // Inside `.git` itself the nearest hit is that folder; the repository is the one around it.
        Some(root) if root.file_name().is_some_and(|n| n == ".git") => Ok(root.parent().unwrap_or(root).to_path_buf()),
        Some(root) => Ok(root.to_path_buf()),
        None => Err(refuse("--repo", format!("`{shown}` is no git repository; name one, or run `git init` there"))),
    }
}

/// Whether a repository of the settings is the one at this address, as a clone at `clone` names it.
fn is_at(repo: &RepoConfig, address: &str, clone: &Path) -> bool {
    let plain = |address: &str| {
        // Who asks is not part of where it is.
        let bare = match address.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                format!("{scheme}://{}/{path}", host.rsplit('@').next().unwrap_or(host))
            }
            _ => address.to_owned(),
        };
        let bare = bare.trim_end_matches('/');
        bare.strip_suffix(".git").unwrap_or(bare).to_owned()
    };
    if repo.url.as_deref().is_some_and(|url| plain(url) == plain(address)) {
        return true;
    }
    let local = clone.join(address.strip_prefix("file://").unwrap_or(address));
    let there = |path: &Path| path.exists().then(|| repository_at(path).ok()).flatten();
    there(&local).is_some() && there(&local) == repo.path.as_deref().and_then(there)
}

fn name_of(path: &Path) -> RepoName {
    let raw = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let raw = raw.strip_suffix(".git").unwrap_or(&raw);
    let mut kept = String::new();
    for c in raw.chars().take(60) {
        match c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
            true => kept.push(c),
            // Other alphabets have long runs of these; one stands for all.
            false if kept.ends_with('-') => {}
            false => kept.push('-'),
        }
    }
    kept.trim_matches(['-', '.']).parse().unwrap_or_else(|_| "repo".parse().expect("a plain word is a name"))
}
