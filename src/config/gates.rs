//! Settings of the landing's gates: switches, scopes, and what each of them can be told.
//!
//! Owns their shape and defaults, and the translation of switches and scopes into the plan that a task pins. Refuses to
//! know what the gates do.

use orch_domain::gate::{self, InScope};
use orch_domain::names::RepoName;
use orch_domain::policy::GatePlan;
use serde::{Deserialize, Serialize};

use super::coverage::CoverageGate;
use super::merge::MergeGate;
use super::units;

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
            merge: asked(self.merge.enabled, &self.merge.repos, repo, self_hosting),
            coverage: asked(self.coverage.enabled, &self.coverage.repos, repo, self_hosting),
            image_freshness: asked(self.image_freshness.enabled, &self.image_freshness.repos, repo, self_hosting),
            ..GatePlan::default()
        }
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
    /// Whether an unreachable advisory feed fails the gate instead of passing it with a warning.
    pub dep_audit_fail_closed: bool,
}

impl Default for SecurityGate {
    fn default() -> Self {
        Self { enabled: true, repos: Vec::new(), dep_audit_fail_closed: false }
    }
}
