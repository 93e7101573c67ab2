//! What the jobs of a real supervisor can touch of it and of each other: with every path, process and socket of the
//! running system in hand, an agent and a test command try them all. As the user of these tests, and once more as an
//! ordinary one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use orch_domain::job::Enforced;
use orch_test_support::users;
use serde_json::Value;

use crate::world::crash::Outside;

/// Says that it is there, waits for the list, tries everything on it, and waits to be let go.
const TRY: &str = "touch ready; while [ ! -e list ]; do sleep 0.02; done; sh attack > said; touch done; \
                   while [ ! -e go ]; do sleep 0.02; done; rm -f ready list attack said done go";

/// Tries what is on the list and says what was possible. A number that is another process in here (it counts anew) began
/// at another time. Nothing is written into anything, so even a success breaks nothing.
const ATTACK: &str = r#"
while read -r kind what more; do
  case $kind in
    process)
      began=$(sed 's/.*) //' "/proc/$what/stat" | cut -d' ' -f20)
      if [ -z "$began" ] || [ "$began" = "$more" ]; then
        kill -0 "$what" && echo "signalled $what"
        [ -n "$(head -c 4 "/proc/$what/environ" | tr '\0' x)" ] && echo "environment-read $what"
        [ -n "$(readlink /proc/"$what"/fd/*)" ] && echo "files-seen $what"
      fi ;;
    file)
      ( : < "$what" ) && echo "read $what"
      ( : >> "$what" ) && echo "written $what" ;;
    folder)
      ls "$what" > /dev/null && echo "listed $what"
      ( : > "$what/by-a-job" ) && { rm "$what/by-a-job"; echo "made-in $what"; } ;;
    socket)
      python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
hello = b"{\"op\":\"hello\",\"versions\":[1],\"secret\":\"guess\",\"supervise\":true}\n{\"op\":\"end\",\"level\":\"kill\"}\n"
try:
    s.connect(sys.argv[1])
    s.sendall(hello)
    print("refused" if b"refused" in s.recv(1000) else "heard", sys.argv[1])
except OSError:
    print("unreachable", sys.argv[1])
' "$what" ;;
  esac
done < list 2> /dev/null
env | sed 's/=.*//; s/^/variable /'
echo tried
"#;

/// Everything below a folder but what is in `own`, as the attack reads it.
fn everything(folder: &Path, own: &Path, list: &mut String) {
    writeln!(list, "folder {}", folder.display()).expect("text");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && path != own => everything(&path, own, list),
            Ok(kind) if kind.is_file() => writeln!(list, "file {}", path.display()).expect("text"),
            _ => {}
        }
    }
}

fn below(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The trees below a folder of the data folder in which a job is where it can be told to try.
fn ready(world: &Outside, kind: &str) -> Vec<PathBuf> {
    let spaces = below(&world.data().join(kind)).into_iter();
    spaces.filter(|space| space.join("tree/ready").exists()).collect()
}

/// The supervisor and the guards of all jobs under way: processes with their times of birth, and sockets.
fn held(world: &Outside) -> (Vec<(i32, u64)>, Vec<String>) {
    let db = world.db();
    let sql = "SELECT json_extract(record, '$.identity.pid'), json_extract(record, '$.identity.socket') FROM jobs \
               WHERE status = 'running'";
    let mut rows = db.prepare(sql).expect("a table");
    let guards: Vec<(i32, String)> = rows
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("rows")
        .map(|row| row.expect("a row"))
        .collect();
    let supervisor = i32::try_from(world.pid()).expect("a number");
    let pids = guards.iter().map(|(pid, _)| *pid).chain([supervisor]);
    let born = |pid| (pid, orch_shim::procs::stat(pid).expect("it runs").start_ticks);
    (pids.map(born).collect(), guards.iter().map(|(_, socket)| socket.clone()).collect())
}

/// Has the job in this space try everything; what was possible, word by word.
fn tries(world: &Outside, space: &Path) -> Vec<String> {
    let (processes, sockets) = held(world);
    let mut list = String::new();
    for (pid, born) in processes {
        writeln!(list, "process {pid} {born}").expect("text");
    }
    for socket in sockets {
        writeln!(list, "socket {socket}").expect("text");
    }
    everything(world.root(), space, &mut list);
    assert!(list.contains("/orch.db\n") && list.contains("/token\n"), "the list is not whole: {list}");
    let tree = space.join("tree");
    // That the attack works is seen on what a job may do.
    writeln!(list, "file {}\nfolder {}", tree.join("ready").display(), tree.display()).expect("text");
    std::fs::write(tree.join("attack"), ATTACK).expect("written");
    std::fs::write(tree.join("list.new"), list).expect("written");
    std::fs::rename(tree.join("list.new"), tree.join("list")).expect("renamed");
    world.until("everything to be tried", || tree.join("done").exists());
    let said = std::fs::read_to_string(tree.join("said")).expect("it says");
    let mut said: Vec<String> = said.lines().map(str::to_owned).collect();
    assert_eq!(said.pop().as_deref(), Some("tried"), "{said:#?}");
    for (did, name) in [("read", "/ready"), ("written", "/ready"), ("listed", ""), ("made-in", "")] {
        let allowed = format!("{did} {}{name}", tree.display());
        let at = said.iter().position(|line| *line == allowed);
        said.remove(at.unwrap_or_else(|| panic!("the attack does not work: no `{allowed}` in {said:#?}")));
    }
    said
}

fn go(space: &Path) {
    std::fs::write(space.join("tree/go"), "").expect("the sign is given");
}

fn world() -> Outside {
    let world = Outside::new(&format!(
        "attempts:\n- - run: {{cmd: '{TRY}; mkdir -p made; echo made > made/$ORCH_TASK'}}\n  - commit: {{message: Make it}}\n"
    ));
    world.change_settings("test: 'sh check.sh'", &format!("test: '{TRY}; sh check.sh'"));
    world
}

/// What no job may do, of all that it said.
fn forbidden(said: &[String]) -> Vec<&String> {
    let allowed = |line: &&String| match line.split_once(' ').expect("two words") {
        // Objects of the one repository that a workspace borrows from, and the script that the agent's own settings name.
        ("read" | "listed", path) => path.contains("/upstream.git/objects") || path.ends_with("/agent.yaml"),
        ("unreachable" | "refused", _) => true,
        ("variable", name) => {
            let own = ["PATH", "LANG", "TZ", "HOME", "TMPDIR", "CI", "PWD", "OLDPWD", "SHLVL", "_"];
            let tools = ["RUSTUP_HOME", "PYENV_ROOT", "NVM_DIR", "ASDF_DATA_DIR", "RBENV_ROOT", "VOLTA_HOME"];
            own.contains(&name)
                || tools.contains(&name)
                || ["XDG_", "ORCH_", "GIT_"].iter().any(|p| name.starts_with(p))
        }
        _ => false,
    };
    said.iter().filter(|line| !allowed(line)).collect()
}

fn held_as(world: &Outside) -> Vec<Value> {
    world.verb(&["ps"]).expect("an answer")["jobs"].as_array().expect("jobs").clone()
}

/// Two agents at work, then the tests of one: each has the other, the supervisor and all of its folders before it.
fn nothing_of_others_is_open(change: &str) {
    let mut world = world();
    world.change_settings("http: {bind", &format!("{change}http: {{bind"));
    world.start();
    let first = world.submit("Try everything");
    world.until("an agent at work", || ready(&world, "workspaces").len() == 1);
    let space = ready(&world, "workspaces").remove(0);
    let second = world.submit("Be the neighbour");
    world.until("two agents at work", || ready(&world, "workspaces").len() == 2);
    let said = tries(&world, &space);
    assert_eq!(forbidden(&said), Vec::<&String>::new(), "{change}: an agent could do this; {:#?}", held_as(&world));
    assert!(said.iter().any(|line| line.starts_with("read ") && line.contains("/objects/")), "{said:#?}");
    go(&space);
    world.until("its tests to run", || ready(&world, "checkouts").len() == 1);
    let checkout = ready(&world, "checkouts").remove(0);
    let said = tries(&world, &checkout);
    assert_eq!(forbidden(&said), Vec::<&String>::new(), "{change}: a test could do this; {:#?}", held_as(&world));
    go(&checkout);
    world.verb(&["task", "stop", &second]).expect("the STOP is recorded");
    world.until_closed(&[first.clone(), second]);
    world.close(&[first]);
}

#[test]
fn jobs_reach_nothing_of_their_supervisor_and_of_each_other() {
    if orch_shim::landlock_abi() == 0 {
        return;
    }
    nothing_of_others_is_open("");
    // Without namespaces only a kernel that keeps signals in, too, holds all of this.
    if orch_shim::landlock_scopes(orch_shim::landlock_abi()) {
        nothing_of_others_is_open("containment: {namespaces: false, cgroups: false}\n");
    }
    if nix::unistd::geteuid().is_root() {
        let first = 3_930_000_000 + std::process::id() * 10;
        nothing_of_others_is_open(&format!("containment: {{uids: {first}-{}}}\n", first + 9));
    }
}

/// The opt-out opens what landlock closes, and is shown; even so no user's job looks into the supervisor's memory.
#[test]
fn an_agent_that_is_left_to_its_own_sandbox_is_shown_as_unconfined() {
    let mut world = world();
    world.change_settings("http: {bind", "containment: {namespaces: false, cgroups: false}\nhttp: {bind");
    world.change_settings("agent.yaml}", "agent.yaml, unconfined: true}");
    world.start();
    let key = world.submit("Be free");
    world.until("an agent at work", || ready(&world, "workspaces").len() == 1);
    let jobs = held_as(&world);
    let agent = jobs.iter().find(|job| job["kind"] == "agent").expect("it runs");
    let shown: Enforced = serde_json::from_value(agent["enforced"].clone()).expect("how it is held");
    assert!(shown.to_string().starts_with("unconfined"), "{jobs:#?}");
    let said = tries(&world, &ready(&world, "workspaces")[0]);
    let could = |what: &str| said.iter().any(|line| line.starts_with(what));
    assert!(could("read ") && could("signalled ") && could("written "), "{said:#?}");
    if !nix::unistd::geteuid().is_root() {
        assert!(!could(&format!("environment-read {}", world.pid())), "the supervisor's environment is open");
        assert!(!could(&format!("files-seen {}", world.pid())), "the supervisor's open files are open");
    }
    world.verb(&["task", "stop", &key]).expect("the STOP is recorded");
    world.until_closed(&[key]);
    world.close(&[]);
}

/// Root's tests of this file once more as an ordinary user.
#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    users::pass_as_nobody(&["walls::"], 1, 3);
}
