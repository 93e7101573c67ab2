//! Settings of the coverage gate.
//!
//! Owns their form and the defaults, which are the domain's. Refuses to judge.

use orch_domain::coverage::{CoverageMode, CoveragePolicy};
use orch_domain::names::RepoName;
use orch_domain::time::Millis;
use serde::{Deserialize, Serialize};

use super::{Config, RepoConfig, units};

/// The coverage gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoverageGate {
    /// Whether it is on at all.
    pub enabled: bool,
    /// Repositories by name, or `*`.
    #[serde(deserialize_with = "units::or_empty")]
    pub repos: Vec<String>,
    /// Whether a coverage tool that could not start keeps a change from main instead of passing it with a warning.
    pub fail_closed: bool,
    /// Which rule holds.
    pub mode: CoverageMode,
    /// The least share of covered lines, in basis points.
    #[serde(with = "units::percent")]
    pub min: u32,
    /// How far below the baseline is let pass, in basis points.
    pub epsilon: u32,
    /// Whether less code with no more uncovered lines passes, although the share falls.
    pub removal_rule: bool,
    /// Longest run of a coverage command; that of the tests when absent.
    #[serde(with = "units::maybe_duration")]
    pub timeout: Option<Millis>,
}

impl Default for CoverageGate {
    fn default() -> Self {
        let policy = CoveragePolicy::default();
        Self {
            enabled: true,
            repos: Vec::new(),
            fail_closed: policy.fail_closed,
            mode: policy.mode,
            min: policy.min_bp,
            epsilon: policy.epsilon_bp,
            removal_rule: policy.removal,
            timeout: None,
        }
    }
}

impl Config {
    /// What is allowed here and seldom meant, a sentence each.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let out_of_scope = self.repos.iter().filter_map(|(name, repo)| self.gates.left_out(name, repo));
        out_of_scope.chain(self.gates.coverage.unasked(self.repos.iter())).collect()
    }
}

impl CoverageGate {
    /// Repositories that name a coverage command which nobody will run, since they are out of the gate's scope: allowed, and
    /// seldom meant.
    fn unasked<'r>(&self, repos: impl Iterator<Item = (&'r RepoName, &'r RepoConfig)>) -> Vec<String> {
        let out_of_scope = |name: &RepoName| !self.repos.iter().any(|scope| scope == "*" || scope == name.as_str());
        let unasked = repos.filter(|(name, repo)| {
            let named = repo.commands.coverage.as_deref().is_some_and(|line| line.trim() != "none");
            self.enabled && named && out_of_scope(name)
        });
        let text = |(name, _): (&RepoName, &RepoConfig)| {
            format!(
                "repository `{name}` names `commands.coverage`, and `gates.coverage.repos` does not name it: its coverage is not measured"
            )
        };
        unasked.map(text).collect()
    }

    /// As the judge takes it.
    #[must_use]
    pub const fn policy(&self) -> CoveragePolicy {
        CoveragePolicy {
            mode: self.mode,
            min_bp: self.min,
            epsilon_bp: self.epsilon,
            removal: self.removal_rule,
            fail_closed: self.fail_closed,
        }
    }
}
