//! The image that will be deployed: built under the lease from what is about to land, and judged by its label.
//!
//! The docker program is a fake that speaks to a daemon of the test's own: a confined job may reach it over loopback, as it
//! may reach the real one over its socket.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use orch_actors::api::ProofQuery;
use orch_domain::policy::{DeployMode, LandMode};
use orch_domain::task::{ApprovalOf, Status};
use orch_domain::view::TaskView;

use crate::world::{Setup, World};

/// Says its arguments to the daemon in one line, each in front of a tab, and hands its answer on: a code, then text.
const PROGRAM: &str = r#"#!/bin/bash
where=${DOCKER_HOST#tcp://}
{ exec 3<>/dev/tcp/${where%:*}/${where#*:}; } 2>/dev/null || { echo "Cannot connect to the Docker daemon at $DOCKER_HOST" >&2; exit 1; }
printf '%s\t' "$@" >&3; echo >&3
read -r code <&3
if [ "$code" = 0 ]; then cat <&3; else cat <&3 >&2; fi
exit "$code"
"#;

/// Images by name, with their labels; `None`: no daemon answers.
type Shelf = Arc<Mutex<Option<BTreeMap<String, Option<String>>>>>;

struct Daemon {
    shelf: Shelf,
    port: u16,
}

impl Daemon {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shelf: Shelf = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let held = shelf.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client that goes away early is no concern of the daemon.
                let _ = serve(client, &held);
            }
        });
        Self { shelf, port }
    }

    fn put(&self, image: &str, revision: Option<&str>) {
        let mut shelf = self.shelf.lock().expect("sound");
        shelf.get_or_insert_default().insert(image.to_owned(), revision.map(str::to_owned));
    }

    fn revision(&self, image: &str) -> Option<String> {
        self.shelf.lock().expect("sound").as_ref()?.get(image)?.clone()
    }

    fn goes_away(&self) {
        *self.shelf.lock().expect("sound") = None;
    }

    fn comes_back(&self) {
        self.shelf.lock().expect("sound").get_or_insert_default();
    }
}

fn serve(mut client: TcpStream, shelf: &Shelf) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(client.try_clone()?).read_line(&mut line)?;
    let args: Vec<&str> = line.trim_end_matches('\n').split('\t').filter(|arg| !arg.is_empty()).collect();
    let mut shelf = shelf.lock().expect("sound");
    let Some(images) = shelf.as_mut() else { return client.write_all(b"1\nCannot connect to the Docker daemon\n") };
    let answer = match args.as_slice() {
        ["version", ..] => "0\n27.0\n".to_owned(),
        ["image", "inspect", "--", name] => match images.get(*name) {
            None => format!("1\nError response from daemon: No such image: {name}\n"),
            Some(revision) => {
                let labels = revision.as_ref().map(|r| serde_json::json!({"org.opencontainers.image.revision": r}));
                format!("0\n{}\n", serde_json::json!([{"Id": "sha256:4711", "Config": {"Labels": labels}}]))
            }
        },
        ["build", "--label", label, "-t", name, "."] => {
            let (_, revision) = label.split_once('=').expect("a label");
            images.insert((*name).to_owned(), Some(revision.to_owned()));
            "0\nbuilt\n".to_owned()
        }
        other => format!("64\nnot understood: {other:?}\n"),
    };
    client.write_all(answer.as_bytes())
}

const WRITES: &str = "attempts:
- - write: {path: good.txt, content: x}
  - commit: {message: Add a file, allow_empty: true}
- - write: {path: second.txt, content: x}
  - commit: {message: Mend it, allow_empty: true}
";

/// A world with the fake program on its path, whose repository deploys the image `shop:latest`.
fn with_image(daemon: &Daemon, build: Option<&str>, inputs: &[&str]) -> Setup {
    let (build, inputs) = (build.map(str::to_owned), inputs.iter().map(|i| i.parse().expect("a path")).collect());
    let mut setup = Setup::default().agent("good", WRITES).config(move |c| {
        let bin = c.data_dir.with_file_name("bin");
        std::fs::create_dir_all(&bin).expect("a folder");
        std::fs::write(bin.join("docker"), PROGRAM).expect("written");
        std::fs::set_permissions(bin.join("docker"), std::fs::Permissions::from_mode(0o755)).expect("executable");
        c.gates.image_freshness.repos = vec!["*".to_owned()];
        let repo = c.repos.values_mut().next().expect("one repository");
        repo.image = Some("shop:latest".to_owned());
        repo.image_inputs = inputs;
        repo.commands.build_image = build;
    });
    setup.env.insert("DOCKER_HOST".to_owned(), format!("tcp://127.0.0.1:{}", daemon.port));
    setup
}

const BUILD: &str = "test -e good.txt && docker build --label \"$ORCH_IMAGE_LABEL\" -t \"$ORCH_IMAGE\" .";

async fn gate(world: &World, task: &TaskView) -> serde_json::Value {
    let proof = world.proof(task).await;
    let gates = proof["gates"].as_array().expect("gates").clone();
    let found = gates.into_iter().find(|gate| gate["gate"] == "image-freshness");
    found.unwrap_or_else(|| panic!("the proof does not name the gate: {proof:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_is_built_from_what_lands_and_its_report_is_in_the_proof() {
    let daemon = Daemon::start();
    let world = with_image(&daemon, Some(BUILD), &[]).open_bare().await;
    let task = world.submit("Add a file").await;
    let landed = world.expect_status(&task, Status::Done).await.task.landed.expect("landed");
    assert_eq!(daemon.revision("shop:latest").as_deref(), Some(landed.sha.as_str()));
    let gate = gate(&world, &task).await;
    assert!(gate["note"].as_str().is_some_and(|note| note.contains("`shop:latest` is fresh for")), "{gate:#}");
    let report = world.report_of(&gate);
    assert!(report.contains("image_freshness_status: passed") && report.contains("image: fresh"), "{report}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_another_commit_sends_the_work_back_and_nothing_lands() {
    let daemon = Daemon::start();
    // A build that forgets to say what it was built from takes what was there before.
    let world = with_image(&daemon, Some("true"), &[]).limits(|l| l.max_developer_retries = 1).open_bare().await;
    let before = world.git(&["rev-parse", "main"]);
    daemon.put("shop:latest", Some(&"a".repeat(40)));
    let task = world.submit("Add a file").await;
    world.expect_blocked(&task, "sent back as often as allowed").await;
    world.expect_journal(&task, &["sent-back", "does not make the right image"]).await;
    let findings = world.look(&task).await.findings.expect("findings");
    assert!(findings.contains("is unknown-revision for") && findings.contains("ORCH_IMAGE_LABEL"), "{findings}");
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_say_what_it_was_built_from_or_of_older_work_goes_back_with_its_state() {
    let daemon = Daemon::start();
    // The build leaves whatever is there.
    let world = with_image(&daemon, Some("true"), &[]).limits(|l| l.max_developer_retries = 0).open_bare().await;
    let main = world.git(&["rev-parse", "main"]);
    let dirty = format!("{main}-dirty");
    let table = [(None, "unlabelled"), (Some(dirty.as_str()), "dirty"), (Some(main.as_str()), "stale")];
    for (revision, state) in table {
        daemon.put("shop:latest", revision);
        let task = world.submit(&format!("Add a file, and find the image {state}")).await;
        world.expect_blocked(&task, "sent back as often as allowed").await;
        let findings = world.look(&task).await.findings.expect("findings");
        assert!(findings.contains(&format!("`shop:latest` is {state} for")), "{state}: {findings}");
        assert!(findings.contains("does not make the right image"), "{state}: {findings}");
        assert_eq!(world.git(&["rev-parse", "main"]), main, "nothing lands with an image that is {state}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_from_before_is_as_good_while_what_goes_into_it_is_the_same() {
    let daemon = Daemon::start();
    let world = with_image(&daemon, None, &["src", "Dockerfile"]).open_bare().await;
    daemon.put("shop:latest", Some(&world.git(&["rev-parse", "main"])));
    let task = world.submit("Add a file outside the image").await;
    world.expect_status(&task, Status::Done).await;
    let gate = gate(&world, &task).await;
    assert!(gate["note"].as_str().is_some_and(|note| note.contains("is equivalent for")), "{gate:#}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_away_blames_nobody_and_the_task_lands_when_it_is_back() {
    let daemon = Daemon::start();
    let world = with_image(&daemon, Some(BUILD), &[]).limits(|l| l.infrastructure_retries = 1).open_bare().await;
    daemon.goes_away();
    let task = world.submit("Add a file").await;
    let blocked = world.expect_blocked(&task, "images cannot be looked at").await;
    assert_eq!(blocked.task.attempts.developer_retries, 0);
    daemon.comes_back();
    world.retry(&task).await.expect("it goes on");
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}

/// Whatever was built since: the deploy takes the image of what has landed, and of nothing that nobody approved.
#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_comes_later_takes_the_image_of_its_own_commit() {
    let daemon = Daemon::start();
    let at = format!("tcp://127.0.0.1:{}", daemon.port);
    let own = "attempts:\n- - run: {cmd: \"echo x > $ORCH_TASK.txt; echo x > good.txt; git add -A; git commit -q -m $ORCH_TASK\"}\n";
    let world = with_image(&daemon, Some(BUILD), &[]).agent("own", own).config(move |c| {
        let place = |name: &str| c.data_dir.with_file_name(name).display().to_string();
        let (bin, taken, fails) = (place("bin"), place("taken"), place("fails"));
        let look = format!("DOCKER_HOST={at} {bin}/docker image inspect -- shop:latest");
        for repo in c.repos.values_mut() {
            repo.land = LandMode::Approval;
            repo.commands.deploy = Some(format!("test ! -e {fails} || exit 3; {look} >> {taken}"));
        }
    });
    let world = world.open_bare().await;
    let submit = async |title: &str| {
        let task = world.submit_for("own", title).await;
        let waits = world.expect_status(&task, Status::AwaitingPerson).await;
        (task, waits.task.head.expect("a head").to_string())
    };
    let approve = async |task: &TaskView| {
        world.control().approve(task.id.as_str(), ApprovalOf::Land, None, "ann").await.expect("approved");
    };
    world.give("fails");
    let (first, landed) = submit("Land, and be deployed later").await;
    approve(&first).await;
    world.expect_blocked(&first, "landed, deploy failed").await;
    let (second, unapproved) = submit("Be built meanwhile").await;
    assert_eq!(daemon.revision("shop:latest"), Some(unapproved.clone()));
    std::fs::remove_file(world.sign("fails")).expect("removed");
    world.retry(&first).await.expect("it goes on");
    world.expect_status(&first, Status::Done).await;
    let taken = || std::fs::read_to_string(world.sign("taken")).expect("deployed");
    assert!(taken().contains(&landed) && !taken().contains(&unapproved), "{}", taken());
    world.expect_journal(&first, &["gate-passed: image-freshness before the deploy"]).await;
    approve(&second).await;
    world.expect_status(&second, Status::Done).await;
    assert!(taken().lines().last().is_some_and(|last| last.contains(&unapproved)), "{}", taken());
    for task in [&first, &second] {
        let proofs = world.proof(task).await;
        assert!(gate(&world, task).await["report_sha256"].is_string(), "{proofs:#}");
    }
    let verified = world.control().proofs(ProofQuery { verify: true, ..ProofQuery::default() }).await.expect("proofs");
    assert!(verified.iter().all(|proof| proof.check.as_ref().is_some_and(|c| c.wrong.is_empty())), "{verified:#?}");
    world.close().await;
}

/// Where nobody builds it for us, the deploy is not begun with another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_is_not_begun_with_the_image_of_another_commit() {
    let daemon = Daemon::start();
    let world = with_image(&daemon, None, &["src"]).config(|c| {
        let deploys = c.data_dir.with_file_name("deploys").display().to_string();
        for repo in c.repos.values_mut() {
            repo.deploy_mode = DeployMode::Approval;
            repo.commands.deploy = Some(format!("echo x >> {deploys}"));
        }
    });
    let world = world.open_bare().await;
    daemon.put("shop:latest", Some(&world.git(&["rev-parse", "main"])));
    let task = world.submit("Be deployed later").await;
    let landed = world.expect_status(&task, Status::AwaitingPerson).await.task.landed.expect("landed").sha;
    daemon.put("shop:latest", Some(&"a".repeat(40)));
    let approved = world.control().approve(task.id.as_str(), ApprovalOf::Deploy, None, "ann").await;
    approved.expect("approved");
    world.expect_blocked(&task, "not begun: image `shop:latest` is unknown-revision").await;
    assert!(!world.sign("deploys").exists(), "nothing was run");
    daemon.put("shop:latest", Some(landed.as_str()));
    world.retry(&task).await.expect("it goes on");
    world.expect_status(&task, Status::Done).await;
    assert!(world.sign("deploys").exists());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_goes_back_with_its_output_and_a_missing_image_blocks() {
    let daemon = Daemon::start();
    let broken = "test -e second.txt || { echo the recipe is broken; exit 3; }; docker build --label \"$ORCH_IMAGE_LABEL\" -t \"$ORCH_IMAGE\" .";
    let world = with_image(&daemon, Some(broken), &[]).open_bare().await;
    let task = world.submit("Add a file").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    let journal = world.control().journal(task.id.as_str(), Default::default(), 1_000).await.expect("a journal");
    let back = journal.iter().find(|r| r.entry.kind == "sent-back").expect("sent back");
    assert!(back.entry.data.to_string().contains("the recipe is broken"), "{back:?}");
    world.close().await;

    let world = with_image(&daemon, None, &[]).limits(|l| l.infrastructure_retries = 0);
    let world = world.config(|c| c.repos.values_mut().for_each(|r| r.image = Some("nobody:built".to_owned())));
    let world = world.open_bare().await;
    let task = world.submit("Add a file").await;
    world.expect_blocked(&task, "`nobody:built` is absent for").await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_named_image_the_gate_does_not_apply_and_the_proof_says_so() {
    let daemon = Daemon::start();
    let world = with_image(&daemon, None, &[]).config(|c| c.repos.values_mut().for_each(|r| r.image = None));
    let world = world.open_bare().await;
    let task = world.submit("Add a file").await;
    world.expect_status(&task, Status::Done).await;
    let gate = gate(&world, &task).await;
    assert!(gate["note"].as_str().is_some_and(|note| note.starts_with("not applicable")), "{gate:#}");
    assert!(gate["report"].is_null(), "{gate:#}");
    world.close().await;
}
