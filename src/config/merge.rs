//! Settings of the merge gate, and of the lane to `main` that it belongs to.
//!
//! Owns their shape and defaults. Refuses to know what they mean for a landing.

use orch_domain::policy::Policy;
use orch_domain::time::Millis;
use serde::{Deserialize, Serialize};

use super::units;

/// The merge gate, and the lane to `main` that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MergeGate {
    /// Whether it is on at all.
    pub enabled: bool,
    /// Repositories by name, or `*`.
    #[serde(deserialize_with = "units::or_empty")]
    pub repos: Vec<String>,
    /// How long a lane's lease holds without being renewed; it is renewed every third of that.
    #[serde(with = "units::duration")]
    pub lease_ttl: Millis,
    /// Delay before a task that the lane could not take comes back for the first time; doubled each time.
    #[serde(with = "units::duration")]
    pub defer_delay: Millis,
    /// How often in a row it comes back before it is blocked.
    pub defer_max: u32,
    /// Longest run of the tests on the caught-up commit; that of the repository's tests when absent.
    #[serde(with = "units::maybe_duration")]
    pub retest_timeout: Option<Millis>,
}

impl Default for MergeGate {
    fn default() -> Self {
        let lane = Policy::default().lane;
        Self {
            enabled: true,
            repos: Vec::new(),
            lease_ttl: Millis::from_mins(2),
            defer_delay: lane.first,
            defer_max: lane.tries,
            retest_timeout: None,
        }
    }
}
