//! The proof of a landing: what it says, and that it notices when the repository, a report or a line does not say so any more.

use orch_actors::api::{ControlError, ProofQuery, ProofView};
use orch_domain::task::Status;

use crate::world::{Setup, World};

/// Writes a file named after the task.
const OWN_FILE: &str =
    "attempts:\n- - run: {cmd: \"echo x > $ORCH_TASK.txt && git add -A && git commit -q -m $ORCH_TASK\"}\n";

async fn verified(world: &World) -> Vec<ProofView> {
    let asked = ProofQuery { repo: Some("demo".parse().expect("a name")), task: None, verify: true };
    world.control().proofs(asked).await.expect("proofs")
}

fn wrong(proof: &ProofView) -> Vec<String> {
    proof.check.clone().expect("it was asked for").wrong
}

fn assert_only(proofs: &[ProofView], at: usize, text: &str) {
    for (n, proof) in proofs.iter().enumerate() {
        let found = wrong(proof);
        match n == at {
            true => assert!(found.len() == 1 && found[0].contains(text), "{found:?}"),
            false => assert_eq!(found, Vec::<String>::new(), "{} {n}", proof.key),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_landing_is_proven_and_whatever_is_changed_afterwards_is_found() {
    let world = Setup::default().agent("quick", OWN_FILE).open_bare().await;
    let tasks = [world.submit("Add one").await, world.submit("Add two").await, world.submit("Add three").await];
    for task in &tasks {
        world.expect_status(task, Status::Done).await;
    }
    let proofs = verified(&world).await;
    assert_eq!(proofs.len(), 3);
    let landed = world.git(&["rev-parse", "main"]);
    assert_eq!(proofs[0].sha.as_str(), landed, "newest first");
    for proof in &proofs {
        assert_eq!(wrong(proof), Vec::<String>::new(), "{}", proof.key);
        assert_eq!(
            proof.check.as_ref().and_then(|check| check.main_at.clone()).map(|at| at.to_string()).as_deref(),
            Some(landed.as_str())
        );
        assert!(proof.lease_epoch.is_some_and(|epoch| epoch.0 > 0));
        let gates: Vec<&str> = proof.gates.iter().map(|gate| gate.gate.as_str()).collect();
        assert!(gates.contains(&"security") && gates.contains(&"merge"), "{gates:?}");
        let merge = proof.gates.iter().find(|gate| gate.gate == "merge").expect("asked");
        assert_eq!((merge.head.as_ref(), merge.base.as_ref()), (Some(&proof.sha), Some(&proof.base)));
        assert!(merge.report_sha256.as_ref().is_some_and(|hash| hash.len() == 64));
    }

    // A report that says something else now.
    let merge = proofs[1].gates.iter().find(|gate| gate.gate == "merge").and_then(|gate| gate.report.clone());
    let report = world.data().join(merge.expect("a report"));
    let text = std::fs::read_to_string(&report).expect("readable");
    std::fs::write(&report, format!("{text}\nAnd all was well.\n")).expect("written");
    assert_only(&verified(&world).await, 1, "content");
    std::fs::remove_file(&report).expect("removed");
    assert_only(&verified(&world).await, 1, "is missing");
    std::fs::write(&report, text).expect("written");

    // A main that somebody has set back.
    world.git(&["update-ref", "refs/heads/main", "main~1"]);
    assert_only(&verified(&world).await, 0, "does not contain");
    world.git(&["update-ref", "refs/heads/main", &landed]);

    // A line that somebody has written over.
    let db = rusqlite::Connection::open(world.data().join("orch.db")).expect("the store");
    db.busy_timeout(crate::world::BOUND).expect("a timeout can be set");
    let sql = "UPDATE landings SET tree = base WHERE sha = ?1";
    assert_eq!(db.execute(sql, [proofs[2].sha.as_str()]).expect("written"), 1);
    let found = verified(&world).await;
    let of_last = wrong(&found[2]).join("\n");
    for text in ["chain of proofs", "the tree of", "report is about tree"] {
        assert!(of_last.contains(text), "no `{text}` in {of_last}");
    }
    assert_eq!((wrong(&found[0]), wrong(&found[1])), (Vec::new(), Vec::new()));
    world.close().await;
}

/// The folder is copied or moved as a whole; what stands at its old place is not looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_was_moved_proves_what_it_proved_by_its_own_reports() {
    let mut world = Setup::default().agent("quick", OWN_FILE).open_bare().await;
    let tasks = [world.submit("Add one").await, world.submit("Add two").await];
    for task in &tasks {
        world.expect_status(task, Status::Done).await;
    }
    // The older line is as earlier versions wrote it: with the whole path.
    let db = rusqlite::Connection::open(world.data().join("orch.db")).expect("the store");
    db.busy_timeout(crate::world::BOUND).expect("a timeout can be set");
    let report = |proof: &ProofView| proof.gates[1].report.clone().expect("the merge gate's");
    let whole = world.data().join(report(&verified(&world).await[1]));
    let old_way = "UPDATE landings SET proof = json_set(proof, '$.gates[1].report', ?1) WHERE id = 1";
    assert_eq!(db.execute(old_way, [whole.to_str().expect("text")]).expect("written"), 1);
    drop(db);
    world.shut_down().await;
    world.move_data("elsewhere");
    // At the old place there is something else by now.
    std::fs::create_dir_all(whole.parent().expect("a folder")).expect("made");
    std::fs::write(&whole, "another supervisor's").expect("written");
    world.boot().await;
    let proofs = verified(&world).await;
    assert_eq!(report(&proofs[1]), whole);
    for proof in &proofs {
        let of_reports: Vec<String> =
            wrong(proof).into_iter().filter(|text| !text.contains("chain of proofs")).collect();
        assert_eq!(of_reports, Vec::<String>::new(), "{}", proof.key);
    }
    // And a change of its own report is seen.
    let own = world.data().join(report(&proofs[0]));
    std::fs::remove_file(own).expect("there");
    let found = wrong(&verified(&world).await[0]).join("\n");
    assert!(found.contains("is missing") && found.contains("elsewhere"), "{found}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_gone_a_gate_that_is_missing_and_a_repository_that_left_are_noticed() {
    let mut world = Setup::default().agent("quick", OWN_FILE).open_bare().await;
    let tasks = [world.submit("Add one").await, world.submit("Add two").await];
    for task in &tasks {
        world.expect_status(task, Status::Done).await;
    }
    let before = verified(&world).await;
    let db = rusqlite::Connection::open(world.data().join("orch.db")).expect("the store");
    db.busy_timeout(crate::world::BOUND).expect("a timeout can be set");

    // The older line says nothing about the merge gate any more, then names another main.
    let (sha, base) = (before[1].sha.as_str(), before[0].sha.as_str());
    let strike = "UPDATE landings SET proof = json_remove(proof, '$.gates[1]') WHERE sha = ?1";
    assert_eq!(before[1].gates[1].gate, "merge");
    db.execute(strike, [sha]).expect("written");
    let found = wrong(&verified(&world).await[1]).join("\n");
    assert!(found.contains("the merge gate did not judge it"), "{found}");
    let put_back = "UPDATE landings SET proof = ?2 WHERE sha = ?1";
    db.execute(put_back, [sha, &before[1].proof.to_string()]).expect("written");
    let elsewhere = "UPDATE landings SET proof = json_set(proof, '$.gates[1].base', ?2) WHERE sha = ?1";
    db.execute(elsewhere, [sha, base]).expect("written");
    let found = wrong(&verified(&world).await[1]).join("\n");
    assert!(found.contains("the merge gate judged it on another main"), "{found}");
    db.execute(put_back, [sha, &before[1].proof.to_string()]).expect("written");

    // The newest line is gone: no line after it could tell.
    assert_eq!(db.execute("DELETE FROM landings WHERE sha = ?1", [base]).expect("deleted"), 1);
    let proofs = verified(&world).await;
    assert_eq!(proofs.len(), 2, "what has no line is shown all the same");
    assert_eq!((&proofs[0].key, &proofs[0].sha), (&before[0].key, &before[0].sha));
    assert_only(&proofs, 0, "there is no proof of it");

    // The repository is not in the settings any more: its landings are not passed over.
    world.shut_down().await;
    world.rename_repo("another");
    world.boot().await;
    let all = ProofQuery { repo: None, task: None, verify: true };
    let proofs = world.control().proofs(all).await.expect("proofs");
    assert_eq!(proofs.len(), 2);
    assert!(wrong(&proofs[1]).join("\n").contains("demo is not in the settings any more"), "{:?}", wrong(&proofs[1]));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_asked_for_by_task_and_one_that_has_not_landed_has_none() {
    let waiting = "attempts:\n- - wait_for: {path: /nowhere/never}\n";
    let world = Setup::default().agent("quick", OWN_FILE).agent("idle", waiting).open_bare().await;
    let (done, idle) = (world.submit("Add one").await, world.submit_for("idle", "Wait").await);
    world.expect_status(&done, Status::Done).await;
    let of = |key: &str| ProofQuery { repo: None, task: Some(key.to_owned()), verify: false };
    let proofs = world.control().proofs(of(done.key.as_str())).await.expect("a proof");
    assert!(proofs.len() == 1 && proofs[0].check.is_none() && proofs[0].key == done.key);
    let none = world.control().proofs(of(idle.key.as_str())).await;
    assert!(matches!(&none, Err(ControlError::Conflict(text)) if text.contains("has not landed")), "{none:?}");
    let unknown = world.control().proofs(ProofQuery { repo: Some("other".parse().expect("a name")), ..of("x") }).await;
    assert!(matches!(&unknown, Err(ControlError::NotFound(_))), "{unknown:?}");
    world.stop(&idle).await;
    world.expect_status(&idle, Status::Cancelled).await;
    world.close().await;
}
