//! The git room with real git: every promise of its files, on repositories made for the purpose.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use orch_domain::ids::{CommitSha, Generation, RunId, TaskId};
use orch_domain::names::BranchName;
use orch_domain::time::{Millis, Timestamp};

use super::*;
use crate::git::exec::Exec;
use crate::ports::{Confinement, Remote};

mod branches;
mod catching_up;
mod compose;
mod salvages;
mod taking_in;
mod without_git;
mod workspaces;

/// A forge (a bare repository), a person's clone of it, and our own repositories.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) git: RepoGit,
}

/// Runs git as a person would, in a folder; must succeed.
pub(crate) fn sh(dir: &Path, args: &[&str]) -> String {
    let out = person(dir, args);
    assert!(out.status.success(), "git {args:?} in {}: {}", dir.display(), String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

pub(crate) fn person(dir: &Path, args: &[&str]) -> std::process::Output {
    Command::new("git")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var("PATH").expect("a PATH"))
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "A Person"), ("GIT_AUTHOR_EMAIL", "person@example.org")])
        .envs([("GIT_COMMITTER_NAME", "A Person"), ("GIT_COMMITTER_EMAIL", "person@example.org")])
        .envs([("GIT_AUTHOR_DATE", "1700000000 +0100"), ("GIT_COMMITTER_DATE", "1700000000 +0100")])
        .output()
        .expect("git runs")
}

pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    std::fs::write(path, text).expect("a file");
}

pub(crate) fn commit_all(dir: &Path, message: &str) -> CommitSha {
    sh(dir, &["add", "-A"]);
    sh(dir, &["commit", "--quiet", "--allow-empty", "-m", message]);
    sha_of(dir, "HEAD")
}

pub(crate) fn sha_of(dir: &Path, name: &str) -> CommitSha {
    sh(dir, &["rev-parse", "--verify", name]).parse().expect("a commit id")
}

pub(crate) fn branch(name: &str) -> BranchName {
    name.parse().expect("a branch name")
}

pub(crate) fn protected() -> ProtectedBranches {
    ProtectedBranches::new(branch("main"), None)
}

/// Repositories of ours. The whole suite can be run with another git: put it first in `PATH` and name it in
/// `ORCH_TEST_GIT`.
pub(crate) fn rooms(dir: &Path, mut settings: GitSettings) -> GitRooms {
    if let Some(other) = std::env::var("ORCH_TEST_GIT").ok().filter(|_| settings.program == "git") {
        settings.program = other;
        settings.path = std::env::var("PATH").expect("a PATH");
    }
    let exec: Arc<dyn Exec> = Arc::new(DirectExec);
    GitRooms::new(dir.join("data dir é/repos"), exec, settings)
}

fn task() -> TaskId {
    "t0a1b2".parse().expect("task id")
}

fn run_id() -> RunId {
    "r0a1b2".parse().expect("run id")
}

impl World {
    async fn new() -> Self {
        Self::with(GitSettings::default(), "main").await
    }

    /// Paths with spaces and letters outside ASCII throughout.
    async fn with(settings: GitSettings, main: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("wörld of git ").tempdir().expect("a folder");
        let forge = dir.path().join("the förge.git");
        let initial = format!("--initial-branch={main}");
        sh(dir.path(), &["init", "--quiet", "--bare", &initial, forge.to_str().expect("text")]);
        sh(dir.path(), &["clone", "--quiet", forge.to_str().expect("text"), "person"]);
        let person = dir.path().join("person");
        sh(&person, &["checkout", "--quiet", "-B", main]);
        write(&person.join("a.txt"), "one\ntwo\nthree\nfour\nfive\nsix\nseven\n");
        write(&person.join(".gitignore"), "target/\n*.log\n");
        commit_all(&person, "Begin");
        sh(&person, &["push", "--quiet", "origin", main]);
        let remote = Remote { url: forge.to_str().expect("text").to_owned(), env: Default::default() };
        let name = "repo".parse().expect("name");
        let git = rooms(dir.path(), settings).open(&name, remote).await.expect("repositories");
        Self { dir, git }
    }

    fn person(&self) -> PathBuf {
        self.dir.path().join("person")
    }

    fn forge(&self) -> PathBuf {
        self.dir.path().join("the förge.git")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("wörk spaces").join(name)
    }

    async fn base(&self) -> CommitSha {
        self.git.fetch_main(&branch("main")).await.expect("main")
    }

    /// A person changes a file on main.
    async fn main_moves(&self, file: &str, text: &str) -> CommitSha {
        sh(&self.person(), &["checkout", "--quiet", "main"]);
        write(&self.person().join(file), text);
        commit_all(&self.person(), &format!("Person writes {file}"));
        sh(&self.person(), &["push", "--quiet", "origin", "main"]);
        self.base().await
    }

    async fn workspace(&self, name: &str, start: &CommitSha, base: &CommitSha) -> Workspace {
        let spec = WorkspaceSpec {
            dir: self.at(name),
            branch: branch("orch/orc-1/1"),
            start: start.clone(),
            main: branch("main"),
            base: base.clone(),
        };
        self.git.make_workspace(spec).await.expect("a workspace")
    }

    fn capture(&self, workspace: &Workspace, out: &Path) -> crate::ports::JobSpec {
        std::fs::create_dir_all(out).expect("a folder");
        let env = [("PATH", std::env::var("PATH").expect("a PATH")), ("HOME", out.to_string_lossy().into_owned())];
        let spec = CaptureSpec {
            workspace: workspace.dir.clone(),
            out: out.to_owned(),
            base: workspace.base.clone(),
            branch: workspace.branch.clone(),
            message: "Leftovers of \"run\" $(touch pwned); `x`\n\nMore.".to_owned(),
            confinement: Confinement::default(),
            env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            owner: Owner::default(),
            limits: crate::ports::JobLimits { wall: Millis::from_secs(60), ..Default::default() },
        };
        self.git.capture_spec(spec).expect("a capture")
    }

    async fn take(&self, workspace: &Workspace, name: &str) -> (CaptureFacts, Result<Imported, ImportError>) {
        let out = self.at(&format!("out {name}"));
        let done = DirectExec.run(self.capture(workspace, &out)).await.expect("the capture runs");
        assert!(done.exit.end.is_success(), "{:?}: {}", done.exit.end, String::from_utf8_lossy(&done.stderr));
        let facts = read_capture(&done.stdout).expect("facts");
        let imported = self.git.import_capture(&facts, &out, &import_spec(workspace)).await;
        (facts, imported)
    }

    /// A workspace in which `work` is done, taken out of it.
    async fn worked(&self, name: &str, base: &CommitSha, work: impl FnOnce(&Path)) -> CommitSha {
        let workspace = self.workspace(name, base, base).await;
        work(&workspace.dir);
        self.take(&workspace, name).await.1.expect("the work is taken").head
    }

    /// A world with a branch of one commit for each name: a file that holds it.
    async fn with_work(names: &[&str]) -> (Self, CommitSha) {
        let world = Self::new().await;
        let base = world.base().await;
        let write_each = |dir: &Path| {
            for name in names {
                write(&dir.join(format!("{name}.txt")), name);
                commit_all(dir, &format!("Write {name}"));
            }
        };
        let head = world.worked("w", &base, write_each).await;
        (world, head)
    }

    /// A catch-up that has to go by replaying the commits: the new head, what was dropped, what was brought again.
    async fn rebased(&self, head: &CommitSha, main: &CommitSha) -> (CommitSha, Vec<CommitLine>, Vec<CommitLine>) {
        match self.catch_up(head, main).await {
            CatchUp::Rebased { head, dropped, again } => (head, dropped, again),
            other => panic!("no rebase: {other:?}"),
        }
    }

    async fn catch_up(&self, head: &CommitSha, main: &CommitSha) -> CatchUp {
        self.git.catch_up(head, main, &catch_up_spec()).await.expect("a catch-up")
    }
}

fn import_spec(workspace: &Workspace) -> ImportSpec {
    ImportSpec { task: task(), run: run_id(), base: workspace.base.clone(), start: workspace.start.clone() }
}

fn catch_up_spec() -> CatchUpSpec {
    CatchUpSpec { task: task(), at: Timestamp(1_800_000_000_000), merge_message: "Merge the task\n".to_owned() }
}

pub(crate) fn hook(repo: &Path, name: &str, script: &str) {
    let path = repo.join("hooks").join(name);
    write(&path, format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
}

fn salvage_spec(workspace: &Workspace) -> SalvageSpec {
    SalvageSpec {
        workspace: workspace.dir.clone(),
        key: "ORC-1".parse().expect("key"),
        generation: Generation(2),
        run: run_id(),
        start: workspace.start.clone(),
        at: Timestamp(1_800_000_000_000),
    }
}

/// Work on a branch of its own, merged into the task's.
fn merged_branch(dir: &Path) {
    sh(dir, &["checkout", "--quiet", "-b", "side"]);
    write(&dir.join("side.txt"), "side");
    commit_all(dir, "Side");
    sh(dir, &["checkout", "--quiet", "-"]);
    write(&dir.join("b.txt"), "b");
    commit_all(dir, "Here");
    sh(dir, &["merge", "--quiet", "--no-edit", "side"]);
}
