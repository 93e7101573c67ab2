//! A job of an earlier release: its record as that release stored it, its guard as it spoke then, word by word.
//!
//! The guard is played by this test from `fixtures/protocol-1.json`, which was taken down from the first version of the
//! protocol and is never changed. Whatever versions come later, a supervisor goes on with such a job.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use orch_adapters::ports::{EndLevel, Observed, Placement};
use orch_domain::job::{JobEnd, JobIdentity, JobKind, JobRecord};
use orch_shim::procs;
use serde_json::{Value, json};

use crate::support::{World, bounded};

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/protocol-1.json")).expect("JSON")
}

/// A guard of the first version: what it was asked goes out, the end of its job comes in.
struct OldGuard {
    identity: JobIdentity,
    record: Value,
    heard: Receiver<Value>,
    end: Sender<Value>,
}

impl OldGuard {
    fn start(world: &World) -> Self {
        let words = fixture();
        let (dir, socket) = (world.path("old job"), world.path("old.sock"));
        std::fs::create_dir(&dir).expect("a folder");
        let me = procs::stat(nix::unistd::getpid().as_raw()).expect("this process");
        // The record of that release, with this process in the place of the guard's.
        let mut record = words["record"].clone();
        let identity = &mut record["identity"];
        identity["boot_id"] = json!(procs::boot_id().expect("a boot"));
        identity["pid"] = json!(me.pid);
        identity["start_ticks"] = json!(me.start_ticks);
        identity["socket"] = json!(socket);
        identity["dir"] = json!(dir);
        let read: JobRecord = serde_json::from_value(record.clone()).expect("an old record can be read");
        let listener = UnixListener::bind(&socket).expect("bound");
        let (tell, heard) = channel();
        let (end, ends) = channel::<Value>();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a supervisor comes");
            converse(stream, &words, &tell, &ends, &dir);
        });
        Self { identity: read.identity, record, heard, end }
    }

    /// What it was asked next.
    fn heard(&self) -> Value {
        self.heard.recv_timeout(crate::support::BOUND).expect("a request")
    }
}

/// Answers as the first version did: each request by its `op`, anything else by closing the connection.
fn converse(stream: UnixStream, words: &Value, tell: &Sender<Value>, ends: &Receiver<Value>, dir: &Path) {
    let mut writer = stream.try_clone().expect("a second handle");
    let mut say = move |value: &Value| writer.write_all(format!("{value}\n").as_bytes()).expect("sent");
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let request: Value = serde_json::from_str(&line).expect("JSON");
        let op = request["op"].as_str().unwrap_or_default().to_owned();
        let expected = &words["requests"][&op];
        assert!(expected.is_object(), "version 1 has no `{op}`");
        // It refused what it did not know, so a later supervisor must not say more than it did.
        for (name, _) in request.as_object().expect("an object") {
            assert!(expected.get(name).is_some(), "version 1 knows no `{name}` in `{op}`");
        }
        if op == "hello" {
            let versions = request["versions"].as_array().expect("versions");
            assert!(versions.contains(&json!(1)), "version 1 is not spoken any more: {versions:?}");
            assert_eq!(request["secret"], words["record"]["identity"]["secret"]);
        }
        say(&words["replies"][&op]);
        tell.send(request).expect("the test listens");
        if op == "end" || op == "status" {
            let Ok(exit) = ends.try_recv() else { continue };
            std::fs::write(dir.join("exit.json"), format!("{exit}\n")).expect("written");
            say(&json!({"re": "ended", "exit": exit}));
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_the_first_protocol_version_is_gone_on_with_and_ended() {
    let world = World::new();
    let guard = OldGuard::start(&world);
    guard.end.send(fixture()["exits"]["cancelled"].clone()).expect("it lives");
    let runner = world.runner();
    std::fs::write(guard.identity.dir.join("stdout.log"), "said before\n").expect("written");
    let job = runner.adopt(guard.identity.clone());
    assert_eq!(guard.heard()["supervise"], true, "it is held");
    bounded(job.end(EndLevel::Term)).await.expect("heard");
    assert_eq!(guard.heard(), json!({"op": "end", "level": "term"}));
    let finished = bounded(job.wait()).await.expect("over");
    assert_eq!(finished.exit.end, JobEnd::Cancelled);
    assert!(finished.exit.proven_gone);
    assert_eq!(finished.stdout(100).expect("read"), "said before\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_the_first_protocol_version_is_seen_as_it_stands_and_its_record_is_read() {
    let world = World::new();
    let guard = OldGuard::start(&world);
    assert!(matches!(bounded(world.placement.observe(&guard.identity)).await, Ok(Observed::Running)));
    let record: JobRecord = serde_json::from_value(guard.record.clone()).expect("an old record");
    assert_eq!((record.kind, record.notes.is_none()), (JobKind::Agent, true));
    // Every end that a guard of that version could write down.
    for (name, exit) in fixture()["exits"].as_object().expect("ends") {
        std::fs::write(guard.identity.dir.join("exit.json"), exit.to_string()).expect("written");
        let read = orch_shim::record::read_exit(&guard.identity.dir).expect("readable").expect("there");
        assert!(read.proven_gone, "{name}");
    }
}
