//! What a confined job can touch. Where the kernel has no landlock, the capabilities must say so.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use orch_adapters::jobs::{Means, UserRange};
use orch_adapters::ports::{Confinement, JobError, JobSpec, Placement};
use orch_domain::job::JobEnd;

use crate::support::{World, bounded, until};

fn landlock(world: &World) -> bool {
    let offered = orch_shim::landlock_abi() > 0;
    let said = world.placement.capabilities().join("\n");
    assert_eq!(said.contains("landlock: not available"), !offered, "{said}");
    offered
}

/// A data folder with a secret, a workspace inside it, and a neighbour; the job is confined to the workspace.
fn confined(world: &World, script: &str) -> JobSpec {
    for name in ["data/secrets", "data/spaces/one", "neighbour"] {
        fs::create_dir_all(world.path(name)).expect("made");
    }
    fs::write(world.path("data/secrets/key"), "hidden").expect("written");
    fs::write(world.path("neighbour/file"), "open").expect("written");
    let mut spec = world.sh(script);
    spec.cwd = world.path("data/spaces/one");
    spec.confinement = Confinement {
        enforced: true,
        write: vec![world.path("data/spaces/one")],
        read: vec![world.path("neighbour"), world.path("no-such-tool")],
        deny: vec![world.path("data")],
        uid: None,
    };
    spec
}

#[tokio::test]
async fn a_confined_job_writes_only_where_it_may_and_never_sees_the_closed_folder() {
    let world = World::new();
    if !landlock(&world) {
        return;
    }
    let script = "echo mine > file && cat file; cat ../../../neighbour/file; echo; \
                  ln -s ../../secrets/key link; cat link; cat ../../secrets/key; ls ../../secrets; ls ../..; \
                  echo x > ../../../neighbour/file; echo x > /tmp/orch-test-escape; echo x > ../../../new; \
                  cat ../../../jobs/*/exit.json; head -c 1 /dev/vda; cat /proc/1/environ; echo end; exit 9";
    let job = world.run(confined(&world, script)).await;
    assert_eq!(job.exit.end, JobEnd::Exited { code: 9 }, "{:?}", job.stderr(5000));
    assert_eq!(job.stdout(1000).expect("read"), "mine\nopen\nend\n");
    assert_eq!(fs::read_to_string(world.path("neighbour/file")).expect("read"), "open");
    assert!(!world.path("new").exists() && !std::path::Path::new("/tmp/orch-test-escape").exists());
}

#[tokio::test]
async fn a_confined_job_cannot_touch_its_own_record_or_logs() {
    let world = World::new();
    if !landlock(&world) {
        return;
    }
    let mut spec = confined(&world, "");
    let dir = world.path("jobs").join(spec.id.as_str());
    let dir = dir.to_str().expect("UTF-8");
    spec.argv[2] = format!("echo forged > {dir}/exit.json; rm -f {dir}/stdout.log; cat {dir}/shim.log; exit 8");
    let job = world.run(spec).await;
    assert_eq!(job.exit.end, JobEnd::Exited { code: 8 });
    assert!(job.stdout_path().exists());
    let complaints = job.stderr(5000).expect("read");
    assert_eq!(complaints.matches("ermission denied").count(), 3, "{complaints}");
}

#[tokio::test]
async fn a_confined_job_cannot_signal_its_shim() {
    let world = World::new();
    if orch_shim::landlock_abi() < 6 {
        let said = world.placement.capabilities().join("\n");
        assert!(said.contains("signals to the shim are not") || said.contains("landlock: not available"), "{said}");
        return;
    }
    // The shim is the parent of the main process.
    let job = world.run(confined(&world, "kill -9 $PPID; kill -STOP $PPID; exit 5")).await;
    assert_eq!(job.exit.end, JobEnd::Exited { code: 5 });
    assert!(job.stderr(1000).expect("read").contains("ermitted"));
}

#[tokio::test]
async fn what_a_confined_job_needs_works() {
    let world = World::new();
    let script = "echo x > /dev/null && head -c 4 /dev/urandom | wc -c && sh -c 'exit 0' && mkdir d && mv d e && \
                  ln -s a b && mkfifo f && rm -r e && cat /etc/hostname > /dev/null; cat /etc/passwd | head -c 1";
    let job = world.run(confined(&world, script)).await;
    assert_eq!((job.exit.end.clone(), job.stderr(5000).expect("read").as_str()), (JobEnd::Exited { code: 0 }, ""));
}

#[tokio::test]
async fn a_folder_to_write_that_is_missing_is_named() {
    let world = World::new();
    if !landlock(&world) {
        return;
    }
    let mut spec = confined(&world, "true");
    spec.confinement.write.push(world.path("missing"));
    let JobEnd::CouldNotStart { why } = world.run(spec).await.exit.end else { panic!("it started") };
    assert!(why.contains("missing"), "{why}");
}

/// Two jobs at once are two users, neither of them root, each with the folders that it may write; a third waits for a user.
#[tokio::test]
async fn jobs_of_a_supervisor_that_is_root_get_users_of_their_own_and_give_them_back() {
    let range = UserRange { first: 3_910_000_000 + std::process::id(), last: 3_910_000_001 + std::process::id() };
    let world = World::with(Means { users: Some(range), ..Means::default() });
    let said = world.placement.capabilities().join("\n");
    let script = "umask 077; id -u; echo mine > file; sub=$(mktemp -d); cat file; cat ../../other/file; echo end; \
                  touch ready; until [ -e go ]; do sleep 0.01; done";
    let spec = |name: &str| {
        for folder in ["data/secrets", &format!("data/spaces/{name}/tmp"), "data/other"] {
            fs::create_dir_all(world.path(folder)).expect("made");
        }
        // Nobody but their owner goes through these.
        for closed in ["data", "data/spaces"] {
            fs::set_permissions(world.path(closed), fs::Permissions::from_mode(0o700)).expect("set");
        }
        fs::write(world.path("data/other/file"), "another's").expect("written");
        let mut spec = world.sh(script);
        spec.cwd = world.path("data/spaces").join(name);
        spec.env.insert("TMPDIR".to_owned(), spec.cwd.join("tmp").to_string_lossy().into_owned());
        spec.confinement = Confinement {
            enforced: true,
            write: vec![spec.cwd.clone()],
            deny: vec![world.path("data")],
            ..Confinement::default()
        };
        spec
    };
    if said.contains("users: not available") {
        assert!(said.contains("needs a supervisor that is root, and namespaces"), "{said}");
        let own = nix::unistd::geteuid().to_string();
        let first = spec("one");
        fs::write(first.cwd.join("go"), "").expect("written");
        let job = world.run(first).await;
        assert!(job.stdout(1000).expect("read").starts_with(&format!("{own}\n")), "{:?}", job.stderr(1000));
        return;
    }
    assert!(said.contains(&format!("users: {} to {}", range.first, range.last)), "{said}");
    let (first, second, third) = (spec("one"), spec("two"), spec("three"));
    let mut running = Vec::new();
    for spec in [&first, &second] {
        let job = world.runner().start(spec.clone()).await.expect("started");
        until("its work", || spec.cwd.join("ready").exists().then_some(())).await;
        running.push(job);
    }
    let users: Vec<u32> = running.iter().map(|job| job.identity.enforced.user.expect("it has one")).collect();
    assert_eq!(users, [range.first, range.last]);
    let none = world.runner().start(third.clone()).await.map(|job| job.identity.job).expect_err("no user is left");
    assert!(matches!(&none, JobError::NotStarted { why, .. } if why.contains("none of the 2 users")), "{none}");
    for (spec, user) in [(&first, users[0]), (&second, users[1])] {
        for path in [spec.cwd.clone(), spec.cwd.join("file"), spec.cwd.join("tmp")] {
            let meta = fs::metadata(&path).expect("there");
            assert_eq!((meta.uid(), meta.gid()), (user, user), "{}", path.display());
        }
        fs::write(spec.cwd.join("go"), "").expect("written");
    }
    assert_eq!(fs::metadata(world.path("data/other/file")).expect("there").uid(), 0, "not its folder");
    for (job, user) in running.iter().zip(&users) {
        let ended = bounded(job.wait()).await.expect("over");
        assert_eq!(ended.exit.end, JobEnd::Exited { code: 0 }, "{:?}", ended.stderr(1000));
        assert_eq!(ended.stdout(1000).expect("read"), format!("{user}\nmine\nend\n"), "{:?}", ended.stderr(1000));
    }
    // Files of an earlier user are given to the next.
    fs::write(third.cwd.join("go"), "").expect("written");
    fs::write(third.cwd.join("left"), "x").expect("written");
    chown(third.cwd.join("left"), Some(range.last), Some(range.last)).expect("given");
    let job = world.run(third.clone()).await;
    assert_eq!(job.exit.end, JobEnd::Exited { code: 0 }, "{:?}", job.stderr(1000));
    assert_eq!(fs::metadata(third.cwd.join("left")).expect("there").uid(), range.first);
}

#[tokio::test]
async fn a_job_runs_as_its_own_user_where_that_is_possible() {
    let world = World::new();
    let mut spec = confined(&world, "id -u; id -g; id -G; echo x > mine; kill -9 $PPID; kill -0 1");
    // Not the user that these tests may themselves be run as.
    let somebody = if nix::unistd::geteuid().as_raw() == 65_534 { 65_533 } else { 65_534 };
    spec.confinement.uid = Some(somebody);
    let space = world.path("data/spaces/one");
    if !nix::unistd::geteuid().is_root() {
        let JobEnd::CouldNotStart { why } = world.run(spec).await.exit.end else { panic!("it started") };
        assert!(why.contains(&somebody.to_string()), "{why}");
        return;
    }
    for folder in ["", "data", "data/spaces", "data/spaces/one"] {
        fs::set_permissions(world.path(folder), fs::Permissions::from_mode(0o711)).expect("set");
    }
    chown(&space, Some(65_534), Some(65_534)).expect("given away");
    let job = world.run(spec).await;
    assert_eq!(job.stdout(100).expect("read"), "65534\n65534\n65534\n", "{:?} {:?}", job.exit, job.stderr(1000));
    assert!(space.join("mine").exists());
    assert_eq!(job.exit.end, JobEnd::Exited { code: 1 });
}
