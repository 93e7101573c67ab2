//! Settings of the landing's gates: switches, scopes, and what each of them can be told.
//!
//! Owns their shape and defaults, and the translation of switches and scopes into the plan that a task pins. Refuses to
//! know what the gates do.

use std::path::PathBuf;

use orch_domain::gate::{self, InScope};
use orch_domain::names::RepoName;
use orch_domain::policy::GatePlan;
use orch_domain::time::Millis;
use serde::{Deserialize, Serialize};

use super::coverage::CoverageGate;
use super::merge::MergeGate;
use super::{RepoConfig, units};

/// Scope of the four gates. An empty list of repositories means those marked `self_hosting`; `*` means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Gates {
    /// Secrets and advisories.
    pub security: SecurityGate,
    /// Tests on the caught-up head.
    pub merge: MergeGate,
    /// Line coverage.
    pub coverage: CoverageGate,
    /// The deployed image.
    pub image_freshness: GateScope,
}

impl Gates {
    /// All gates on, for every repository: what embedded mode and the generated settings say.
    #[must_use]
    pub fn for_all() -> Self {
        let all = || vec!["*".to_owned()];
        let mut gates = Self::default();
        (gates.security.repos, gates.merge.repos) = (all(), all());
        (gates.coverage.repos, gates.image_freshness.repos) = (all(), all());
        gates
    }

    /// Which gates are asked for a repository. Only what this version has: the others' settings are read and kept.
    pub(super) fn plan(&self, repo: &RepoName, self_hosting: bool) -> GatePlan {
        GatePlan {
            security: asked(self.security.enabled, &self.security.repos, repo, self_hosting),
            merge: asked(self.merge.enabled, &self.merge.repos, repo, self_hosting),
            coverage: asked(self.coverage.enabled, &self.coverage.repos, repo, self_hosting),
            image_freshness: asked(self.image_freshness.enabled, &self.image_freshness.repos, repo, self_hosting),
        }
    }
}

impl Gates {
    /// A repository that gates which are on pass over, though they would have something to ask: main is not kept by them
    /// there, which is seldom meant. Coverage has a word of its own.
    pub(super) fn left_out(&self, name: &RepoName, repo: &RepoConfig) -> Option<String> {
        let plan = self.plan(name, repo.self_hosting);
        let image = self.image_freshness.enabled && repo.image.is_some();
        let all = [
            ("security", plan.security, self.security.enabled),
            ("merge", plan.merge, self.merge.enabled),
            ("image-freshness", plan.image_freshness, image),
        ];
        let out: Vec<&str> = all
            .into_iter()
            .filter(|(_, in_scope, asks)| *asks && *in_scope == InScope::OtherRepositories)
            .map(|(gate, _, _)| gate)
            .collect();
        let keys: Vec<String> = out.iter().map(|gate| format!("`gates.{gate}.repos: ['*']`")).collect();
        let untested = match out.contains(&"merge") {
            true => ", and a branch behind main lands without being tested on top of it",
            false => "",
        };
        (!out.is_empty()).then(|| {
            format!(
                "repository `{name}` is out of the scope of these gates, which are on: {}; they judge nothing there{untested}; {} asks \
                 them about every repository",
                out.join(", "),
                keys.join(", ")
            )
        })
    }
}

/// What a switch and a scope say about a repository.
fn asked(enabled: bool, repos: &[String], repo: &RepoName, self_hosting: bool) -> InScope {
    let repos = gate::GateRepos::from_words(repos.iter().map(String::as_str));
    let repos = repos.expect("names in a scope were checked when the settings were loaded");
    gate::GateScope { enabled, repos }.of(repo, self_hosting)
}

/// Where a gate applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateScope {
    /// Whether it is on at all.
    pub enabled: bool,
    /// Repositories by name, or `*`.
    #[serde(deserialize_with = "units::or_empty")]
    pub repos: Vec<String>,
}

impl Default for GateScope {
    fn default() -> Self {
        Self { enabled: true, repos: Vec::new() }
    }
}

/// The security gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityGate {
    /// Whether it is on at all.
    pub enabled: bool,
    /// Repositories by name, or `*`.
    #[serde(deserialize_with = "units::or_empty")]
    pub repos: Vec<String>,
    /// Which engine looks for secrets.
    pub engine: SecretEngine,
    /// The gitleaks binary: a name that is looked for along `PATH`, or an absolute path.
    pub gitleaks: String,
    /// The only checksum (hex SHA-256) of the binary that is accepted; any when absent.
    pub gitleaks_sha256: Option<String>,
    /// A rules file that holds instead of the repositories' own `.gitleaks.toml`.
    pub rules: Option<PathBuf>,
    /// Longest scan.
    #[serde(with = "units::duration")]
    pub timeout: Millis,
    /// Longest file that is looked at; a branch that brings a longer one fails.
    #[serde(with = "units::size")]
    pub file_size: u64,
    /// Most bytes of files that one branch may bring.
    #[serde(with = "units::size")]
    pub total_size: u64,
    /// Whether what a branch adds to its dependencies is looked up.
    pub dep_audit_enabled: bool,
    /// Whether what is not known about them keeps a branch from main.
    pub dep_audit_fail_closed: bool,
    /// Who is asked.
    pub dep_audit_provider: AuditProvider,
    /// The OSV service.
    pub dep_audit_endpoint: String,
    /// Folder with the data of the OSV project; then nothing is asked over the network.
    pub dep_audit_offline: Option<PathBuf>,
    /// Age beyond which the data in that folder are old.
    #[serde(with = "units::duration")]
    pub dep_audit_stale_after: Millis,
    /// How long an answer of the service counts as fresh.
    #[serde(with = "units::duration")]
    pub dep_audit_cache_age: Millis,
    /// Longest wait for all answers together.
    #[serde(with = "units::duration")]
    pub dep_audit_timeout: Millis,
    /// The tool pip-audit: a name that is looked for along `PATH`, or an absolute path.
    pub pip_audit: String,
}

/// Who is asked about dependencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditProvider {
    /// The service, about all of them.
    #[default]
    Osv,
    /// The tool pip-audit about packages of Python, the service about the rest.
    PipAudit,
}

/// What looks for secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretEngine {
    /// The binary where it is found, else the engine in this process, loudly.
    #[default]
    Auto,
    /// The binary only.
    Gitleaks,
    /// The engine in this process.
    Builtin,
}

impl Default for SecurityGate {
    fn default() -> Self {
        Self {
            enabled: true,
            repos: Vec::new(),
            engine: SecretEngine::Auto,
            gitleaks: "gitleaks".to_owned(),
            gitleaks_sha256: None,
            rules: None,
            timeout: Millis::from_mins(10),
            file_size: 50 << 20,
            total_size: 1 << 30,
            dep_audit_enabled: true,
            dep_audit_fail_closed: false,
            dep_audit_provider: AuditProvider::Osv,
            dep_audit_endpoint: "https://api.osv.dev".to_owned(),
            dep_audit_offline: None,
            dep_audit_stale_after: Millis::from_mins(7 * 24 * 60),
            dep_audit_cache_age: Millis::from_mins(6 * 60),
            dep_audit_timeout: Millis::from_mins(1),
            pip_audit: "pip-audit".to_owned(),
        }
    }
}
