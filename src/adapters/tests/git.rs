//! Git under real shims: a task from workspace to `main`, with the agent and the capture confined as in production.
//! This test binary is its own shim program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_adapters::forge::FakeForge;
use orch_adapters::git::{
    BranchPush, CaptureSpec, CatchUp, CatchUpSpec, Exec, GitError, GitRooms, GitSettings, ImportSpec, Leftovers, Owner,
    ProtectedBranches, TaskBranch, WorkspaceSpec, read_capture,
};
use orch_adapters::jobs::{LocalPlacement, LocalPlacementConfig, Runner, UnrecordedLedger, become_subreaper};
use orch_adapters::ports::{Advance, Confinement, Forge, JobLimits, JobSpec};
use orch_domain::ids::{CommitSha, Epoch, RunId, TaskId};
use orch_domain::job::{JobEnd, JobKind, OnLoss};
use orch_domain::names::BranchName;
use orch_domain::time::{Millis, Timestamp};

fn runner(root: &Path) -> Runner {
    become_subreaper().expect("a subreaper");
    let (shim_program, shim_args) = orch_shim::self_exec::command();
    let config = LocalPlacementConfig {
        shim_program,
        shim_args,
        ..LocalPlacementConfig::new(root.join("jobs"), root.join("run"))
    };
    Runner::new(Arc::new(LocalPlacement::new(config).expect("a placement")), Arc::new(UnrecordedLedger))
}

struct World {
    root: tempfile::TempDir,
    runner: Runner,
    forge: FakeForge,
}

impl World {
    async fn new(settings: GitSettings) -> Result<Self, String> {
        let root = tempfile::tempdir().expect("a folder");
        let runner = runner(root.path());
        let rooms = GitRooms::new(root.path().join("data/repos"), Arc::new(runner.clone()), settings);
        let name = "repo".parse().expect("a name");
        let forge = FakeForge::open(&root.path().join("forge.git"), &rooms, &name).await;
        Ok(Self { forge: forge.map_err(|err| err.to_string())?, root, runner })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join("data/spaces").join(name)
    }

    /// What an agent may touch: its workspace and a private folder; upstream's objects to read; nothing else of ours.
    fn confinement(&self) -> Confinement {
        Confinement {
            enforced: true,
            write: vec![self.at("ws"), self.at("home"), self.at("out")],
            read: vec![self.forge.git().borrowed_objects()],
            deny: vec![self.root.path().join("data"), self.root.path().join("forge.git")],
            uid: None,
        }
    }

    fn env(&self) -> BTreeMap<String, String> {
        let home = self.at("home").to_string_lossy().into_owned();
        let path = GitSettings::default().path;
        [("PATH", path), ("HOME", home.clone()), ("TMPDIR", home)].map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn agent(&self, script: &str) -> JobSpec {
        JobSpec {
            id: "agent1".parse().expect("an id"),
            kind: JobKind::Agent,
            task: None,
            run: None,
            epoch: Epoch(1),
            label: "agent".to_owned(),
            argv: ["sh", "-ec", script].map(str::to_owned).to_vec(),
            cwd: self.at("ws"),
            env: self.env(),
            stdin: Vec::new(),
            limits: JobLimits { wall: Millis::from_secs(50), ..JobLimits::default() },
            confinement: self.confinement(),
            on_loss: OnLoss::End,
        }
    }
}

fn branch(name: &str) -> BranchName {
    name.parse().expect("a branch name")
}

#[tokio::test]
async fn a_task_goes_from_workspace_to_main_with_every_command_a_job() {
    let world = World::new(GitSettings::default()).await.expect("a world");
    let (git, main) = (world.forge.git().clone(), branch("main"));
    let task: TaskId = "task1".parse().expect("an id");
    let run: RunId = "run01".parse().expect("an id");
    let git = git.for_owner(Owner { epoch: Epoch(3), task: Some(task.clone()), run: Some(run.clone()) });
    let base = git.fetch_main(&main).await.expect("main");
    for folder in ["home", "out"] {
        std::fs::create_dir_all(world.at(folder)).expect("a folder");
    }
    let workspace = WorkspaceSpec {
        dir: world.at("ws"),
        branch: branch("orch/orc-1/1"),
        start: base.clone(),
        main: main.clone(),
        base: base.clone(),
    };
    let workspace = git.make_workspace(workspace).await.expect("a workspace");

    // The agent sees history, commits, and leaves something lying about; it cannot reach our repositories.
    let closed = "if cat ../../repos/repo/work.git/config; then exit 11; fi; \
                  if touch ../../repos/repo/upstream.git/objects/x; then exit 13; fi; ";
    let script = "git log -1 --format=%s; git fsck --connectivity-only; echo 1 > one; git add one; git commit -qm One; \
                  echo 2 > two; \
                  if git push; then exit 12; fi; ";
    // Where the kernel offers no landlock there is no such wall to be tested.
    let script = if orch_shim::landlock_abi() > 0 { format!("{script}{closed}true") } else { format!("{script}true") };
    let agent = Exec::run(&world.runner, world.agent(&script)).await.expect("it ran");
    assert_eq!(agent.exit.end, JobEnd::Exited { code: 0 }, "{}", String::from_utf8_lossy(&agent.stderr));

    let capture = CaptureSpec {
        workspace: workspace.dir.clone(),
        out: world.at("out"),
        base: base.clone(),
        branch: workspace.branch.clone(),
        message: "Leftovers".to_owned(),
        confinement: world.confinement(),
        env: world.env(),
        owner: Owner::default(),
        limits: JobLimits { wall: Millis::from_secs(50), ..JobLimits::default() },
    };
    let capture = Exec::run(&world.runner, git.capture_spec(capture).expect("a job")).await.expect("it ran");
    assert!(capture.exit.end.is_success(), "{}", String::from_utf8_lossy(&capture.stderr));
    let facts = read_capture(&capture.stdout).expect("facts");
    assert_eq!((facts.commits, facts.leftovers), (2, Leftovers::Committed));
    let spec = ImportSpec { task: task.clone(), run, base: base.clone(), start: base };
    let head = git.import_capture(&facts, &world.at("out"), &spec).await.expect("taken").head;

    let person: CommitSha =
        world.forge.person_pushes("person.txt", "p").expect("pushed").to_string().parse().expect("id");
    assert_eq!(git.fetch_main(&main).await.expect("main"), person);
    let spec =
        CatchUpSpec { task: task.clone(), at: Timestamp(1_800_000_000_000), merge_message: "Merge\n".to_owned() };
    let caught = git.catch_up(&head, &person, &spec).await.expect("caught up");
    let CatchUp::Rebased { head, .. } = caught else { panic!("{caught:?}") };
    let checkout = git.checkout(&head, &world.at("gate"), Some((&main, &person))).await.expect("a checkout");
    for file in ["one", "two", "person.txt", "README.md"] {
        assert!(checkout.dir.join(file).is_file(), "{file}");
    }
    let ours = TaskBranch::new(workspace.branch, &ProtectedBranches::new(main.clone(), None)).expect("ours");
    assert_eq!(git.push_task_branch(&ours, &head, None).await.expect("pushed"), BranchPush::Pushed);
    assert_eq!(world.forge.advance_main(&Owner::default(), &main, &person, &head).await, Advance::Moved);
    assert_eq!(git.fetch_main(&main).await.expect("main"), head);
    assert_eq!(git.tasks_with_refs().await.expect("refs"), [task.clone()].into());
    assert_eq!(git.drop_refs(&task).await.expect("dropped"), 2);
    assert!(git.tasks_with_refs().await.expect("refs").is_empty());
}

#[tokio::test]
async fn a_command_that_succeeds_leaves_no_folder_and_one_that_fails_keeps_its() {
    let world = World::new(GitSettings::default()).await.expect("a world");
    let git = world.forge.git().clone();
    git.fetch_main(&branch("main")).await.expect("main");
    let folders = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(world.root.path().join("jobs")).expect("the jobs' folder");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    };
    assert_eq!(folders(), Vec::<PathBuf>::new(), "opening and fetching took several commands, all of which succeeded");
    std::fs::remove_dir_all(world.root.path().join("forge.git")).expect("the forge is gone");
    git.fetch_main(&branch("main")).await.expect_err("nobody is there");
    let left = folders();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(std::fs::read_to_string(left[0].join("stderr.log")).expect("its words").contains("forge.git"));
}

#[tokio::test]
async fn the_folder_of_a_job_that_is_no_git_command_is_its_owners() {
    let world = World::new(GitSettings::default()).await.expect("a world");
    let mut spec = world.agent("true");
    (spec.cwd, spec.env, spec.confinement) = (PathBuf::from("/"), BTreeMap::new(), Confinement::default());
    spec.argv = ["/bin/sh", "-c", "echo done"].map(str::to_owned).to_vec();
    assert!(Exec::run(&world.runner, spec).await.expect("it ran").exit.end.is_success());
    assert!(world.root.path().join("jobs/agent1/stdout.log").is_file());
}

#[tokio::test]
async fn a_missing_git_and_a_deadline_are_told_apart() {
    let settings = GitSettings { program: "no-such-git".to_owned(), ..GitSettings::default() };
    let err = World::new(settings).await.err().expect("no git");
    assert!(err.contains("install git 2.39 or newer"), "{err}");

    let slow = tempfile::tempdir().expect("a folder");
    let program = slow.path().join("slow-git");
    std::fs::write(&program, "#!/bin/sh\nexec tail -f /dev/null\n").expect("written");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let settings = GitSettings {
        program: program.to_string_lossy().into_owned(),
        deadline: Millis(300),
        ..GitSettings::default()
    };
    let rooms = GitRooms::new(slow.path().join("repos"), Arc::new(runner(slow.path())), settings);
    let remote = orch_adapters::ports::Remote { url: "/nowhere".to_owned(), env: BTreeMap::new() };
    let err = rooms.open(&"repo".parse().expect("a name"), remote).await.expect_err("too slow");
    assert!(matches!(&err, GitError::Interrupted { why, .. } if why.contains("longer than 300ms")), "{err}");
}
