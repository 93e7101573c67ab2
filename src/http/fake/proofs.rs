//! Two landings of the fake: one that stands, and one whose report was changed afterwards.

use orch_actors::api::{GateProof, ProofCheck, ProofView};
use orch_domain::ids::{Epoch, Generation};
use serde_json::json;

use super::{later, sha};

/// The proofs, newest first.
pub(super) fn proofs(verify: bool) -> Vec<ProofView> {
    let gate = |name: &str, number: u32| GateProof {
        gate: name.to_owned(),
        verdict: "passed".to_owned(),
        note: "as it should be".to_owned(),
        head: Some(sha('a')),
        base: Some(sha('b')),
        report: Some(format!("reports/orc-2/1/{number}-{name}-report.md").into()),
        report_sha256: Some("c".repeat(64)),
    };
    let none = GateProof { report: None, report_sha256: None, head: None, base: None, ..gate("image-freshness", 19) };
    let one = |key: &str, wrong: Vec<String>| ProofView {
        repo: "shop".parse().expect("valid"),
        key: key.parse().expect("valid"),
        generation: Generation(1),
        sha: sha('a'),
        tree: sha('d'),
        base: sha('b'),
        at: later(200),
        lease_epoch: Some(Epoch(7)),
        gates: vec![gate("security", 17), gate("merge", 16), none.clone()],
        switched_off: vec!["coverage".to_owned()],
        proof: json!({"catch_up": "contains main already"}),
        chain: "e".repeat(64),
        check: verify.then(|| ProofCheck { main_at: Some(sha('f')), wrong, remarks: Vec::new() }),
    };
    let changed = "the report 16-merge-report.md is about another content".to_owned();
    // The older one landed before the image gate was for this repository.
    let mut before = one("ORC-2", Vec::new());
    before.gates.pop();
    before.proof = json!({"catch_up": "contains main already", "out_of_scope": ["image-freshness"]});
    vec![one("ORC-3", vec![changed]), before]
}
