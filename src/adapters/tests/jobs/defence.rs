//! Jobs that turn against what holds them: the supervisor and other jobs go on, the job ends in a named state, and nothing
//! of it is left. Whoever would be hit by a test's attack is made by that test: nothing else on this machine is touched.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use orch_adapters::ports::{EndLevel, JobError, JobSpec, Placement};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;

use crate::support::{World, bounded, marked, until};

/// Stands for the supervisor: a process with a name of its own, and a secret in its environment.
struct Decoy {
    child: Child,
    name: String,
}

impl Decoy {
    fn new(world: &World) -> Self {
        let name = format!("decoy-{}", world.root.path().display()).replace(['/', '.'], "-");
        let child = Command::new("sh")
            .args(["-c", "read line", &name])
            .env("DECOY_SECRET", "hidden-in-the-environment")
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh");
        Self { child, name }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().expect("ours").is_none()
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether jobs at this level cannot signal others: by namespaces, or by landlock's scopes.
fn walled_off(world: &World) -> bool {
    let said = world.placement.capabilities().join("\n");
    said.contains("pid namespace: in use") || orch_shim::landlock_scopes(orch_shim::landlock_abi())
}

#[tokio::test]
async fn a_job_that_kills_by_name_by_number_its_parent_and_its_group_hits_itself_only() {
    for (world, held) in World::at_each_level() {
        if !walled_off(&world) {
            continue;
        }
        let mut decoy = Decoy::new(&world);
        let neighbour = world.runner().start(world.walled("exec sleep 1000")).await.expect("started");
        let (name, pid, shim, other) = (&decoy.name, decoy.pid(), std::process::id(), neighbour.identity.pid);
        // By the decoy's own name, never by one that somebody else's process could have.
        let script = format!(
            "for p in /proc/[0-9]*; do grep -qa -- '{name}' $p/cmdline 2>/dev/null && kill -9 ${{p#/proc/}} 2>/dev/null; done; \
             for s in 15 9 19; do kill -$s {pid} {other} $PPID 2>/dev/null; done; kill -0 {shim} 2>/dev/null; \
             echo tried; kill -9 0; sleep 1000"
        );
        // The script has the name in its own line too: it is handed over as a file, so that it does not end itself first.
        let spec = world.walled("exec sh ./attack");
        fs::write(spec.cwd.join("attack"), script).expect("written");
        let id = spec.id.to_string();
        let job = world.run(spec).await;
        assert_eq!(job.exit.end, JobEnd::Signalled { signal: 9 }, "{held:?}: {:?}", job.tail(2000));
        assert_eq!(job.stdout(100).expect("read"), "tried\n");
        assert!(job.exit.proven_gone);
        assert!(decoy.lives(), "{held:?}: the supervisor was hit");
        assert!(!neighbour.is_over(), "{held:?}: another job was hit");
        assert_eq!(marked(&id), Vec::<i32>::new());
        neighbour.end(EndLevel::Kill).await.expect("heard");
        assert_eq!(bounded(neighbour.wait()).await.expect("over").exit.end, JobEnd::Cancelled);
    }
}

#[tokio::test]
async fn a_job_reads_nobody_elses_environment() {
    for (world, held) in World::at_each_level() {
        if orch_shim::landlock_abi() == 0 {
            continue;
        }
        let mut decoy = Decoy::new(&world);
        let script = format!("cat /proc/{}/environ; cat /proc/{}/mem | head -c 1; echo end", decoy.pid(), decoy.pid());
        let job = world.run(world.walled(&script)).await;
        assert_eq!(job.stdout(10_000).expect("read"), "end\n", "{held:?}");
        assert!(decoy.lives());
    }
}

#[tokio::test]
async fn a_job_can_ask_nothing_of_another_jobs_guard() {
    for (world, held) in World::at_each_level() {
        let neighbour = world.runner().start(world.walled("exec sleep 1000")).await.expect("started");
        let socket = neighbour.identity.socket.display().to_string();
        // Without the secret: whoever can connect is turned away, and in namespaces there is no way to it.
        let asks = format!(
            "python3 - <<'END'\nimport socket\ns = socket.socket(socket.AF_UNIX)\ntry:\n    s.connect('{socket}')\n    \
             s.sendall(b'{{\"op\":\"hello\",\"versions\":[1],\"secret\":\"guess\",\"supervise\":true}}\\n{{\"op\":\"end\",\"level\":\"kill\"}}\\n')\n    \
             print('refused' if b'refused' in s.recv(1000) else 'heard')\nexcept OSError as e:\n    print('no way')\nEND"
        );
        let job = world.run(world.walled(&asks)).await;
        let said = job.stdout(100).expect("read");
        let expected = if held.has_namespaces() { "no way\n" } else { "refused\n" };
        assert!(said == expected || said == "no way\n", "{held:?}: {said} {:?}", job.stderr(2000));
        assert!(!neighbour.is_over());
        neighbour.end(EndLevel::Kill).await.expect("heard");
        bounded(neighbour.wait()).await.expect("over");
    }
}

#[tokio::test]
async fn a_job_writes_neither_a_record_nor_a_report_nor_another_workspace() {
    for (world, held) in World::at_each_level() {
        if orch_shim::landlock_abi() == 0 {
            continue;
        }
        for name in ["reports/one", "upstream", "space/other"] {
            fs::create_dir_all(world.path(name)).expect("made");
            fs::write(world.path(name).join("file"), "as it was\n").expect("written");
        }
        fs::write(world.path("token"), "hidden").expect("written");
        let root = world.root.path().display().to_string();
        let script = format!(
            "for f in {root}/reports/one/file {root}/space/other/file {root}/upstream/file {root}/token; do \
             echo forged > $f; cat $f; rm -f $f; ln -f $f here; mv $f here; done 2>/dev/null; \
             echo x > {root}/jobs/$ORCH_JOB/exit.json; mkdir {root}/jobs/new; cat {root}/upstream/file; echo end"
        );
        let mut spec = world.walled(&script);
        // The one repository that a workspace borrows from is read, never written.
        spec.confinement.read.push(world.path("upstream"));
        let job = world.run(spec).await;
        assert_eq!(job.stdout(1000).expect("read"), "as it was\nas it was\nend\n", "{held:?}");
        assert_eq!(job.exit.end, JobEnd::Exited { code: 0 }, "its own record is the guard's");
        for name in ["reports/one", "upstream", "space/other"] {
            assert_eq!(fs::read_to_string(world.path(name).join("file")).expect("there"), "as it was\n", "{held:?}");
        }
        assert_eq!(fs::read_to_string(world.path("token")).expect("there"), "hidden");
        assert!(!world.path("jobs/new").exists());
    }
}

#[tokio::test]
async fn shared_memory_and_a_tmp_of_its_own_go_with_the_job() {
    // Not below `/tmp`, where a job that works there has to see the real one.
    let base = tempfile::Builder::new().prefix("orch-own").tempdir_in("/var/tmp").expect("a folder");
    for (world, held) in World::at_each_level() {
        if !held.has_namespaces() {
            continue;
        }
        let mark = format!("orch-left-{}", std::process::id());
        let mut spec = world.walled(&format!("echo x > /dev/shm/{mark}; echo y > /tmp/{mark}; ls /tmp /dev/shm"));
        let (space, tmp) = (base.path().join(spec.id.as_str()), base.path().join(spec.id.as_str()).join("tmp"));
        fs::create_dir_all(&tmp).expect("made");
        spec.cwd.clone_from(&space);
        spec.env.insert("TMPDIR".to_owned(), tmp.display().to_string());
        spec.confinement.write = vec![space];
        let running = world.runner().start(spec).await.expect("started");
        assert!(running.identity.enforced.own_tmp && running.identity.enforced.own_view);
        let job = bounded(running.wait()).await.expect("over");
        let said = job.stdout(1000).expect("read");
        assert_eq!(said.matches(&mark).count(), 2, "{held:?}: {said} {:?}", job.stderr(1000));
        assert!(
            !fs::exists(format!("/dev/shm/{mark}")).expect("asked")
                && !fs::exists(format!("/tmp/{mark}")).expect("asked")
        );
        assert_eq!(fs::read_to_string(tmp.join(&mark)).expect("its own folder has it"), "y\n");
    }
}

#[tokio::test]
async fn a_job_that_deletes_its_folder_keeps_its_pipes_open_and_leaves_a_server_ends_as_it_exits() {
    for (world, held) in World::at_each_level() {
        let script = "setsid python3 -c 'import socket,time\ns=socket.socket();s.bind((\"127.0.0.1\",0));s.listen();\
                      print(s.getsockname()[1],flush=True);time.sleep(1000)' & \
                      while ! [ -s port ]; do sleep 0.01; done; rm -rf \"$PWD\"; exit 6";
        let mut spec = world.walled("");
        spec.argv[2] = script.replacen("setsid python3", "setsid python3 -u", 1).replacen("' &", "' | tee port &", 1);
        let id = spec.id.to_string();
        let job = world.run(spec).await;
        assert_eq!(job.exit.end, JobEnd::Exited { code: 6 }, "{held:?}: {:?}", job.tail(2000));
        assert!(job.exit.proven_gone && job.exit.swept >= 1, "{held:?}: {:?}", job.exit);
        let said = job.stdout(100).expect("read");
        let port: u16 = said.trim().parse().expect("the server said its port");
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "{held:?}: it still listens");
        assert_eq!(marked(&id), Vec::<i32>::new());
    }
}

#[tokio::test]
async fn a_job_that_floods_its_log_ends_in_its_time_and_others_go_on() {
    for (world, held) in World::at_each_level() {
        let mut spec = world.walled("while :; do echo flood; done");
        spec.limits.log_bytes = 1 << 20;
        spec.limits.wall = Millis(1_500);
        let neighbour = world.walled("echo fine; exit 2");
        let flood = world.runner().start(spec).await.expect("started");
        let other = world.run(neighbour).await;
        assert_eq!(other.exit.end, JobEnd::Exited { code: 2 });
        let job = bounded(flood.wait()).await.expect("over");
        assert_eq!(job.exit.end, JobEnd::TimedOut, "{held:?}");
        assert!(job.exit.log_cut);
        let kept = fs::metadata(job.stdout_path()).expect("there").len();
        assert!(kept < (1 << 20) + 200, "{kept}");
    }
}

/// The unconfined one of the same user: nothing keeps it from its guard but namespaces.
#[tokio::test]
async fn who_kills_its_guard_is_ended_by_the_supervisor_and_said_to_be_lost() {
    for (world, held) in World::at_each_level() {
        // Its guard is this test's own: the parent of its main process.
        let spec: JobSpec =
            world.sh("until [ -e on ]; do sleep 0.01; done; kill -9 $PPID; echo survived; exec sleep 1000");
        let id = spec.id.to_string();
        let running = world.runner().start(spec).await.expect("started");
        fs::write(world.path("on"), "").expect("written");
        if running.identity.containment.has_namespaces() {
            // Inside, its parent is number 1, which nobody there can signal.
            until("it survived", || fs::read_to_string(running.stdout_path()).ok().filter(|said| !said.is_empty()))
                .await;
            running.end(EndLevel::Kill).await.expect("heard");
            let exit = bounded(running.wait()).await.expect("over").exit;
            assert_eq!((exit.end, exit.proven_gone), (JobEnd::Cancelled, true), "{held:?}");
        } else {
            let exit = bounded(running.wait()).await.expect("over").exit;
            assert_eq!((exit.end, exit.proven_gone), (JobEnd::Lost, true), "{held:?}");
        }
        assert_eq!(marked(&id), Vec::<i32>::new());
    }
}

/// What it did in its first moments is not known, so it is not said never to have run.
#[tokio::test]
async fn who_kills_its_guard_at_once_is_not_said_never_to_have_begun() {
    for (world, held) in World::at_each_level() {
        if held.has_namespaces() {
            continue;
        }
        let spec = world.sh("echo ran > ran; kill -9 $PPID; exec sleep 1000");
        let id = spec.id.to_string();
        let ended = bounded(world.runner().run(spec)).await;
        match ended {
            Ok(job) => assert_eq!(job.exit.end, JobEnd::Lost, "{held:?}"),
            Err(JobError::Unreachable { .. }) => {}
            Err(error) => panic!("{held:?}: {error}"),
        }
        until("what it did", || world.path("ran").exists().then_some(())).await;
        assert_eq!(marked(&id), Vec::<i32>::new());
    }
}

/// A guard is small: there is one for each job.
#[tokio::test]
async fn a_guard_takes_little_memory() {
    let world = World::new();
    let running = world.runner().start(world.walled("exec sleep 1000")).await.expect("started");
    let mut text = String::new();
    fs::File::open(format!("/proc/{}/smaps_rollup", running.identity.pid))
        .and_then(|mut file| file.read_to_string(&mut text))
        .map_or_else(
            |error| assert!(!nix::unistd::geteuid().is_root(), "{error}"),
            |_| {
                let private = |name: &str| {
                    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
                    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number")
                };
                let kib = private("Private_Clean:") + private("Private_Dirty:");
                assert!(kib < 3 * 1024, "{kib} KiB");
            },
        );
    running.end(EndLevel::Kill).await.expect("heard");
    bounded(running.wait()).await.expect("over");
}
