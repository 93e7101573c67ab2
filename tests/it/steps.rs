//! `kill -9` at every step of a landing: before and after each git command of the lane, and each command of the deploy.
//! After the next start it ends as if nothing had happened: one landing, one deploy.
//!
//! A script in front of the real program counts the calls from the moment it is armed, and ends the supervisor at the n-th.
//! The rounds go on until one comes through without reaching its n: then there is no step left that was not cut.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::world::crash::{MAKER, Outside};

/// Worlds that are cut at the same time.
const WORLDS: usize = 3;

/// On which side of a call the supervisor is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// It never saw the command begin.
    Before,
    /// The command ended, and nobody heard how.
    After,
}

/// The scripts of a world: `bin/git` in front of git, `bin/step` for commands of the repository.
struct Scripts {
    root: PathBuf,
}

impl Scripts {
    fn write(root: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let real = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join("git"))
            .find(|file| file.is_file())
            .expect("git is installed");
        std::fs::create_dir_all(root.join("bin")).expect("a folder");
        for (kind, program) in [("git", real.display().to_string()), ("step", String::new())] {
            // A folder can be made by one only: its name is the number of the call.
            let text = format!(
                "#!/bin/sh\nat='{root}'\nif [ -e \"$at/armed\" ] && read -r kind side n pid <\"$at/armed\" && [ \"$kind\" = {kind} ]; then\n  \
                 i=1; while ! mkdir \"$at/calls/$i\" 2>/dev/null; do [ -d \"$at/calls\" ] || break; i=$((i+1)); done\n  \
                 if [ \"$i\" = \"$n\" ]; then\n    rm -f \"$at/armed\"\n    \
                 if [ \"$side\" = after ]; then {program} \"$@\"; code=$?; kill -9 \"$pid\"; exit $code; fi\n    \
                 kill -9 \"$pid\"\n  fi\nfi\nexec {program} \"$@\"\n",
                root = root.display()
            );
            let file = root.join("bin").join(kind);
            std::fs::write(&file, text).expect("the script is written");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
        }
        Self { root: root.to_owned() }
    }

    /// From now on calls of this kind are counted, and the n-th ends the supervisor.
    fn arm(&self, kind: &str, side: Side, n: usize, pid: u32) {
        let _ = std::fs::remove_dir_all(self.root.join("calls"));
        std::fs::create_dir_all(self.root.join("calls")).expect("a folder");
        let side = if side == Side::Before { "before" } else { "after" };
        let file = self.root.join("armed");
        std::fs::write(file.with_extension("new"), format!("{kind} {side} {n} {pid}\n")).expect("written");
        std::fs::rename(file.with_extension("new"), file).expect("armed");
    }

    /// Takes the arms away; whether they were still there: the n-th call never came.
    fn disarm(&self) -> bool {
        std::fs::remove_file(self.root.join("armed")).is_ok()
    }

    fn runs(&self, name: &str) -> usize {
        std::fs::read_to_string(self.root.join(name)).unwrap_or_default().lines().count()
    }
}

/// A repository whose deploy leaves a line in `deploys`, and whose other commands go through the scripts, too.
fn world(commands: &[(&str, &str)]) -> (Outside, Scripts) {
    let world = Outside::new(MAKER).agents_end_with_it();
    let scripts = Scripts::write(world.root());
    let root = world.root().display().to_string();
    let own: String = commands
        .iter()
        .map(|(name, does)| format!(", {name}: \"{root}/bin/step sh -c '{}'\"", does.replace("ROOT", &root)))
        .collect();
    world.change_settings("test: 'sh check.sh'", &format!("test: 'sh check.sh'{own}"));
    (world, scripts)
}

/// Brings a task before the closed lane of a main that has moved.
fn before_the_lane(world: &mut Outside, name: &str) -> String {
    world.verb(&["repo", "pause", "demo", "--why", "to begin together"]).expect("paused");
    let key = world.submit(name);
    let sql = format!("SELECT count(*) FROM tasks WHERE orig_key = '{key}' AND status = 'landing'");
    world.until("the task to stand before the lane", || world.number(&sql) == 1);
    world.person_commits(&format!("{key}.txt"));
    key
}

/// What the rounds of one side have come to, over all worlds.
#[derive(Default)]
struct Rounds {
    begun: usize,
    /// The first n that no call came for.
    over: Option<usize>,
}

/// Cuts a landing at its every call of a kind, on one side; how many there were.
fn cut_every(kind: &str, side: Side, make: fn() -> (Outside, Scripts)) -> usize {
    let rounds = Mutex::new(Rounds::default());
    std::thread::scope(|scope| {
        for _ in 0..WORLDS {
            scope.spawn(|| cut_some(kind, side, make(), &rounds));
        }
    });
    rounds.into_inner().expect("no world failed").over.expect("a round came through") - 1
}

fn cut_some(kind: &str, side: Side, (mut world, scripts): (Outside, Scripts), rounds: &Mutex<Rounds>) {
    world.start();
    let mut keys: Vec<String> = Vec::new();
    loop {
        let n = {
            let mut rounds = rounds.lock().expect("no world failed");
            if rounds.over.is_some() {
                break;
            }
            rounds.begun += 1;
            rounds.begun
        };
        let key = before_the_lane(&mut world, &format!("Be cut at call {n}"));
        let deploys = scripts.runs("deploys");
        scripts.arm(kind, side, n, world.pid());
        world.verb(&["repo", "resume", "demo"]).expect("resumed");
        let closed = format!("SELECT count(*) FROM tasks WHERE orig_key = '{key}' AND done_at IS NOT NULL");
        let killed = std::cell::Cell::new(false);
        until_either(&mut world, &killed, &closed);
        match killed.get() {
            true => world.start(),
            false => {
                assert!(scripts.disarm(), "call {n} came, and the supervisor lives");
                let mut rounds = rounds.lock().expect("no world failed");
                rounds.over = Some(rounds.over.map_or(n, |over| over.min(n)));
            }
        }
        world.until_closed(std::slice::from_ref(&key));
        assert_eq!(scripts.runs("deploys"), deploys + 1, "deploys of {key}, cut {side:?} {kind} call {n}");
        keys.push(key);
    }
    world.close(&keys);
}

/// Waits until the supervisor was killed or the task is closed.
fn until_either(world: &mut Outside, killed: &std::cell::Cell<bool>, closed: &str) {
    let bound = std::time::Instant::now() + 2 * crate::world::BOUND;
    let (_never, tick) = std::sync::mpsc::channel::<()>();
    loop {
        if world.was_killed() {
            killed.set(true);
            return;
        }
        if world.number(closed) == 1 {
            return;
        }
        assert!(std::time::Instant::now() < bound, "neither a cut nor an end\n{}", world.log());
        let _ = tick.recv_timeout(Duration::from_millis(5));
    }
}

fn plain() -> (Outside, Scripts) {
    let (mut world, scripts) = world(&[("deploy", "echo $ORCH_TASK >> ROOT/deploys")]);
    // With attributes a checkout is git's to make: it is cut, too.
    world.person_commits(".gitattributes");
    (world, scripts)
}

/// With everything that a good deploy asks for.
fn healthy() -> (Outside, Scripts) {
    world(&[
        ("deploy", "echo $ORCH_TASK >> ROOT/deploys"),
        ("health", "grep -q $ORCH_TASK ROOT/deploys"),
        ("deploy_status", "grep -q $ORCH_TASK ROOT/deploys"),
        ("rollback", "echo $ORCH_TASK >> ROOT/backs"),
    ])
}

#[test]
fn a_kill_before_any_git_command_of_a_landing_changes_nothing() {
    let calls = cut_every("git", Side::Before, plain);
    assert!(calls >= 6, "a landing with a catch-up has more than {calls} git commands");
}

#[test]
fn a_kill_after_any_git_command_of_a_landing_changes_nothing() {
    let calls = cut_every("git", Side::After, plain);
    assert!(calls >= 6, "a landing with a catch-up has more than {calls} git commands");
}

#[test]
fn a_kill_before_or_after_any_command_of_a_deploy_deploys_once() {
    for side in [Side::Before, Side::After] {
        let calls = cut_every("step", side, healthy);
        assert_eq!(calls, 2, "deploy and health");
    }
}

/// The deploy fails: it is rolled back once, whenever the supervisor is cut, and waits for a person.
#[test]
fn a_kill_before_or_after_any_command_of_a_failing_deploy_rolls_back_once() {
    for side in [Side::Before, Side::After] {
        for n in 1.. {
            let (mut world, scripts) = world(&[
                ("deploy", "echo $ORCH_TASK >> ROOT/deploys; exit 3"),
                ("rollback", "echo $ORCH_TASK >> ROOT/backs"),
            ]);
            world.start();
            let key = before_the_lane(&mut world, &format!("Fail, cut at call {n}"));
            scripts.arm("step", side, n, world.pid());
            world.verb(&["repo", "resume", "demo"]).expect("resumed");
            let blocked = format!("SELECT count(*) FROM tasks WHERE orig_key = '{key}' AND status = 'blocked'");
            let killed = std::cell::Cell::new(false);
            until_either(&mut world, &killed, &blocked);
            if killed.get() {
                world.start();
            }
            world.until("the task to be blocked", || world.number(&blocked) == 1);
            let said = "SELECT count(*) FROM tasks WHERE instr(body ->> '$.state', 'landed-deploy-failed') > 0";
            assert_eq!(world.number(said), 1, "cut {side:?} call {n}: {:?}", world.journal(&key));
            assert_eq!((scripts.runs("deploys"), scripts.runs("backs")), (1, 1), "cut {side:?} call {n}");
            assert_eq!(world.number("SELECT count(*) FROM leases WHERE holder IS NOT NULL"), 0);
            assert_eq!(world.number("SELECT count(*) FROM windows WHERE closed_at IS NULL"), 0);
            world.finish();
            if !killed.get() {
                assert!(n == 3 && scripts.disarm(), "two calls: the deploy and the rollback");
                break;
            }
        }
    }
}
