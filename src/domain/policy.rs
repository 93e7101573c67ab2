//! Policy: the numbers and switches a task is held to, as plain data.
//!
//! Owns defaults, bounds and the backoff arithmetic. A task pins its policy when it starts, by value and by hash, so a
//! changed setting never changes a task under way. Refuses to read settings: they are handed in.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::gate::{GateName, InScope};
use crate::names::RepoPath;
use crate::time::Millis;

/// How a change reaches `main`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LandMode {
    /// As soon as every gate has passed.
    #[default]
    Auto,
    /// After a person has approved this very commit.
    Approval,
    /// Gates report, a person merges.
    PrOnly,
}

/// How a landed change is deployed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeployMode {
    /// At once.
    #[default]
    Auto,
    /// After a person has approved the landed commit.
    Approval,
}

/// What a cancelled dependency means to those that wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnCancelledDependency {
    /// Go on; the next prompt and the journal say so.
    #[default]
    Proceed,
    /// Wait for a person.
    Block,
}

/// Exponential backoff: `first`, doubled each time, never above `most`; at most `tries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// Delay before the first repetition.
    pub first: Millis,
    /// Longest delay.
    pub most: Millis,
    /// How many repetitions before giving up.
    pub tries: u32,
}

impl Backoff {
    /// The delay before repetition number `n` (from 1), or `None` when `n` is over the limit.
    #[must_use]
    pub fn delay(self, n: u32) -> Option<Millis> {
        if n > self.tries {
            return None;
        }
        let doubled = self.first.0.saturating_mul(1_u64 << n.saturating_sub(1).min(63));
        Some(Millis(doubled.min(self.most.0)))
    }

    /// The same, spread over its second half by who waits: those that were put off together do not come back together.
    /// Always the same for the same one and number.
    #[must_use]
    pub fn spread(self, n: u32, who: &str) -> Option<Millis> {
        let whole = self.delay(n)?;
        let digest = Sha256::digest(format!("{who} {n}"));
        let drawn = digest.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        Some(Millis(whole.0 - drawn % (whole.0 / 2 + 1)))
    }
}

/// Ceilings on what one task may spend; checked before each launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Tokens read and written together, as reported.
    pub tokens: Option<u64>,
    /// Money as reported, in millionths of a US dollar.
    pub cost_micro_usd: Option<u64>,
    /// Wall time of agent runs together.
    pub wall: Option<Millis>,
}

/// Which landing gates a task has to pass, as the operator's switches and scopes stood when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatePlan {
    /// Secrets and advisories, before the lane.
    pub security: InScope,
    /// Tests of the caught-up head.
    pub merge: InScope,
    /// Line coverage of the caught-up head.
    pub coverage: InScope,
    /// The image that is to be deployed.
    pub image_freshness: InScope,
}

impl GatePlan {
    /// Every gate asked.
    #[must_use]
    pub const fn everything() -> Self {
        let yes = InScope::Yes;
        Self { security: yes, merge: yes, coverage: yes, image_freshness: yes }
    }

    /// The same without one gate of the lane.
    #[must_use]
    pub const fn without(mut self, gate: GateName) -> Self {
        let other = InScope::OtherRepositories;
        match gate {
            GateName::Security => self.security = other,
            GateName::Merge => self.merge = other,
            GateName::Coverage => self.coverage = other,
            GateName::ImageFreshness => self.image_freshness = other,
            GateName::Check | GateName::Tests | GateName::Staging => {}
        }
        self
    }

    /// What it says about one gate; the repository's own commands are in no scope: their stages ask for them.
    #[must_use]
    pub const fn of(self, gate: GateName) -> InScope {
        match gate {
            GateName::Security => self.security,
            GateName::Merge => self.merge,
            GateName::Coverage => self.coverage,
            GateName::ImageFreshness => self.image_freshness,
            GateName::Check | GateName::Tests | GateName::Staging => InScope::Yes,
        }
    }
}

/// Everything a task is held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// How often a failed check, test, gate or review may send the task back to development.
    pub max_developer_retries: u32,
    /// How often a conflict with what `main` brought may send the task back.
    pub max_conflicts: u32,
    /// How many interrupted runs are resumed.
    pub max_interrupted: u32,
    /// Repetitions when something of ours could not run.
    pub infrastructure: Backoff,
    /// Repetitions when something was busy; they cost no attempt.
    pub deferral: Backoff,
    /// Repetitions when the lane was busy, `main` kept moving or was red; they cost no attempt.
    pub lane: Backoff,
    /// How a change reaches `main`.
    pub land: LandMode,
    /// How a landed change is deployed.
    pub deploy: DeployMode,
    /// Whether one task of the repository at a time may be past the first stage.
    pub serial: bool,
    /// What a cancelled dependency means.
    pub on_cancelled_dependency: OnCancelledDependency,
    /// Folder in the repository where agents write their artefacts.
    pub artefact_dir: RepoPath,
    /// Whether artefacts land with the change.
    pub keep_artefacts: bool,
    /// Whether the repository is worked on without any test command (`--no-tests`); the proof says so.
    pub no_tests: bool,
    /// Ceilings on spending.
    pub budget: Budget,
    /// The gates of its landing.
    pub gates: GatePlan,
}

impl Policy {
    /// How many interrupted checks, commands and gates are begun anew in a row: they cost no tokens, so more than agents'
    /// runs.
    #[must_use]
    pub const fn max_interrupted_checks(&self) -> u32 {
        self.max_interrupted.saturating_mul(4)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_developer_retries: 3,
            max_conflicts: 3,
            max_interrupted: 3,
            infrastructure: Backoff { first: Millis::from_secs(10), most: Millis::from_mins(10), tries: 5 },
            deferral: Backoff { first: Millis::from_secs(5), most: Millis::from_mins(2), tries: 200 },
            lane: Backoff { first: Millis::from_secs(5), most: Millis::from_mins(2), tries: 200 },
            land: LandMode::Auto,
            deploy: DeployMode::Auto,
            serial: false,
            on_cancelled_dependency: OnCancelledDependency::Proceed,
            artefact_dir: "docs/tasks".to_owned().try_into().expect("a plain relative path"),
            keep_artefacts: true,
            no_tests: false,
            budget: Budget::default(),
            gates: GatePlan::default(),
        }
    }
}

/// SHA-256 over the canonical JSON of a value: what "pinned by hash" means here.
#[must_use]
pub fn pin_hash<T: Serialize>(value: &T) -> String {
    let json = serde_json::to_vec(value).expect("domain values serialise: no maps with non-string keys");
    hex::encode(Sha256::digest(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_ceiling_and_ends() {
        let backoff = Backoff { first: Millis(10), most: Millis(55), tries: 4 };
        let delays: Vec<_> = (1..=5).map(|n| backoff.delay(n).map(|d| d.0)).collect();
        assert_eq!(delays, [Some(10), Some(20), Some(40), Some(55), None]);
        let long = Backoff { first: Millis(u64::MAX / 2), most: Millis::from_mins(1), tries: u32::MAX };
        assert_eq!(long.delay(200), Some(Millis::from_mins(1)));
    }

    #[test]
    fn spread_delays_stay_within_their_bounds_and_are_the_same_each_time() {
        let backoff = Backoff { first: Millis(1_000), most: Millis(60_000), tries: 9 };
        let mut firsts = std::collections::BTreeSet::new();
        for who in 0..40 {
            for n in 1..=9 {
                let (whole, spread) = (backoff.delay(n), backoff.spread(n, &format!("task{who}")));
                let (whole, spread) = (whole.expect("within").0, spread.expect("within").0);
                assert!(spread <= whole && spread >= whole / 2, "{spread} of {whole}");
                assert_eq!(backoff.spread(n, &format!("task{who}")), Some(Millis(spread)));
                firsts.extend((n == 1).then_some(spread));
            }
            assert_eq!(backoff.spread(10, "task"), None);
        }
        assert!(firsts.len() > 30, "forty that were put off together come back at {} times", firsts.len());
        let at_once = Backoff { first: Millis(0), most: Millis(0), tries: 1 };
        assert_eq!(at_once.spread(1, "task"), Some(Millis(0)));
    }

    #[test]
    fn the_pin_changes_with_the_value() {
        let changed = Policy { serial: true, ..Policy::default() };
        assert_ne!(pin_hash(&Policy::default()), pin_hash(&changed));
        assert_eq!(pin_hash(&Policy::default()), pin_hash(&Policy::default()));
    }
}
