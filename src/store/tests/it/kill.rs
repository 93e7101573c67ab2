//! Killed with -9 at any instant: everything that was acknowledged is there after the next start.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use orch_domain::ids::Seq;
use orch_domain::journal::Entry;
use orch_store::{Store, StoreConfig, Subject};
use tokio::task::JoinSet;

use crate::support::*;

const DIR: &str = "ORCH_STORE_TEST_KILL_DIR";

/// Runs as a process of its own: eight committers, each line on stdout is an acknowledged change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of `everything_acknowledged_survives_kill_9`"]
async fn child() {
    let Some(dir) = std::env::var_os(DIR) else { panic!("{DIR} must name the folder") };
    let store = Store::open(&StoreConfig { ballast_bytes: 4_096, ..StoreConfig::new(dir, at(0)) }).unwrap();
    let mut committers = JoinSet::new();
    for committer in 0..8 {
        let store = store.clone();
        committers.spawn(async move {
            for n in 0.. {
                let text = format!("ack-{committer}-{n}");
                let entries = vec![Entry::new("tick", text.clone()), Entry::new("tock", text.clone())];
                store.append(Subject::default(), entries, at(n)).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "{text}").and_then(|()| out.flush()).unwrap();
            }
        });
    }
    committers.join_all().await;
}

#[tokio::test]
async fn everything_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data");
    let mut acknowledged = HashSet::new();
    for round in 1..=5_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--ignored", "--nocapture"])
            .env(DIR, &folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let enough = acknowledged.len() + 150 * round;
        while acknowledged.len() < enough {
            let line = lines.next().expect("the child acknowledges until it is killed");
            acknowledged.extend(line.find("ack-").map(|from| format!("{round}:{}", &line[from..])));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was acknowledged before the kill may still be in the pipe; a last torn line counts for nothing.
        let rest: Vec<String> = lines.collect();
        let whole = rest.len().saturating_sub(1);
        acknowledged.extend(rest[..whole].iter().filter(|l| l.starts_with("ack-")).map(|l| format!("{round}:{l}")));

        // The lock died with its process, and the file opens with nothing torn.
        let store = Store::open(&StoreConfig { ballast_bytes: 4_096, ..StoreConfig::new(&folder, at(0)) }).unwrap();
        let records = store.records_after(Seq(0), u32::MAX).await.unwrap();
        let mut ticks: HashSet<String> = HashSet::new();
        let mut tocks: HashSet<String> = HashSet::new();
        let mut in_round = 0;
        for record in records {
            // Each start of the child counts from zero again; the parent marks the border.
            if record.entry.kind == "begin" {
                in_round += 1;
            }
            let text = format!("{}:{}", in_round + 1, record.entry.text);
            match record.entry.kind.as_str() {
                "tick" => ticks.insert(text),
                "tock" => tocks.insert(text),
                _ => false,
            };
        }
        assert_eq!(ticks, tocks, "half of a change was kept");
        let lost: Vec<_> = acknowledged.difference(&ticks).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged but lost: {lost:?}");
        store.append(Subject::default(), vec![Entry::new("begin", "the next round")], at(0)).await.unwrap();
        store.close();
    }
    assert!(acknowledged.len() > 1_000);
}
