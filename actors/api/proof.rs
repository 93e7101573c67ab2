//! Proofs for people: what has landed, what judged it, and whether the repository still says so.
//!
//! Owns the words of `GET /proofs` and `GET /tasks/{key}/proof`. A proof line is shown as it was stored; what a check found
//! stands beside it. Refuses to know where either comes from.

use std::path::PathBuf;

use orch_domain::ids::{CommitSha, Epoch, Generation};
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::time::Timestamp;
use orch_store::Landing;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which proofs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProofQuery {
    /// Of this repository only.
    pub repo: Option<RepoName>,
    /// Of this task only: its key, `KEY/GENERATION`, or its id.
    pub task: Option<String>,
    /// Whether each is compared with the repository, the reports and the chain.
    pub verify: bool,
}

/// One gate's word in a proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateProof {
    /// Which gate.
    pub gate: String,
    /// What it said.
    pub verdict: String,
    /// One line about it.
    #[serde(default)]
    pub note: String,
    /// The commit that it judged.
    #[serde(default)]
    pub head: Option<CommitSha>,
    /// What that commit was compared with.
    #[serde(default)]
    pub base: Option<CommitSha>,
    /// Its report, from the data folder; whole in lines of earlier versions; `None`: it had nothing to look at.
    #[serde(default)]
    pub report: Option<PathBuf>,
    /// The report's SHA-256, in hexadecimal digits.
    #[serde(default)]
    pub report_sha256: Option<String>,
}

/// What a check of a proof found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofCheck {
    /// Where `main` was, as the forge showed it; `None`: the repository is not in the settings any more.
    pub main_at: Option<CommitSha>,
    /// What does not fit; nothing: everything does.
    pub wrong: Vec<String>,
    /// What fits, and should be known all the same.
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// The proof of one landing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProofView {
    /// The repository.
    pub repo: RepoName,
    /// The task.
    pub key: TaskKey,
    /// Its life.
    pub generation: Generation,
    /// The commit that landed.
    pub sha: CommitSha,
    /// Its tree.
    pub tree: CommitSha,
    /// What `main` was before.
    pub base: CommitSha,
    /// When it was seen on `main`.
    pub at: Timestamp,
    /// The epoch of the lease under which it landed; `None`: under none, since a person merged it.
    pub lease_epoch: Option<Epoch>,
    /// Every gate that was asked, in order.
    pub gates: Vec<GateProof>,
    /// What could have been asked and was switched off.
    pub switched_off: Vec<String>,
    /// Everything that was noted, as it was noted.
    pub proof: Value,
    /// SHA-256 over the repository's line before and this one.
    pub chain: String,
    /// What the check found, where one was asked for.
    pub check: Option<ProofCheck>,
}

impl From<Landing> for ProofView {
    fn from(line: Landing) -> Self {
        let part = |name: &str| line.proof.get(name).cloned().unwrap_or_default();
        Self {
            lease_epoch: serde_json::from_value(part("lease_epoch")).ok(),
            gates: serde_json::from_value(part("gates")).unwrap_or_default(),
            switched_off: serde_json::from_value(part("switched_off")).unwrap_or_default(),
            repo: line.repo,
            key: line.key,
            generation: line.generation,
            sha: line.sha,
            tree: line.tree,
            base: line.base,
            at: line.at,
            proof: line.proof,
            chain: line.chain,
            check: None,
        }
    }
}
