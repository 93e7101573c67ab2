//! Lock files read from real commits in our own repository.

use std::path::Path;

use super::*;
use crate::git::GitSettings;
use crate::git::tests::{branch, commit_all, rooms, sh, write};
use crate::ports::Remote;

/// A repository of a person, and ours that fetched it.
struct World {
    dir: tempfile::TempDir,
    git: RepoGit,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wörld of locks ").tempdir().expect("a folder");
        let person = dir.path().join("person");
        std::fs::create_dir(&person).expect("made");
        sh(&person, &["init", "--quiet", "--initial-branch=main"]);
        write(&person.join("README"), "x\n");
        commit_all(&person, "Begin");
        let remote = Remote { url: person.to_str().expect("text").to_owned(), env: Default::default() };
        let git = rooms(dir.path(), GitSettings::default()).open(&"repo".parse().expect("a name"), remote).await;
        Self { git: git.expect("repositories"), dir }
    }

    /// A commit with these files on top of a branch, fetched. An empty text removes the file.
    async fn commit(&self, on: &str, files: &[(&str, &str)]) -> CommitSha {
        let person = self.dir.path().join("person");
        sh(&person, &["checkout", "--quiet", "-B", "work", on]);
        for (path, text) in files {
            match *text {
                "" => std::fs::remove_file(person.join(path)).expect("removed"),
                "<link>" => std::os::unix::fs::symlink("elsewhere", person.join(path)).expect("a link"),
                text => write(&person.join(path), text),
            }
        }
        let commit = commit_all(&person, "Change");
        self.fetched(&person).await;
        commit
    }

    async fn fetched(&self, person: &Path) {
        sh(person, &["branch", "--force", "main-now", "work"]);
        self.git.fetch_main(&branch("main-now")).await.expect("fetched");
        sh(person, &["branch", "--delete", "--force", "main-now"]);
    }

    async fn changes(&self, base: &CommitSha, head: &CommitSha) -> (Vec<String>, Vec<String>) {
        let changes = changes_between(&self.git, base, head).await.expect("read");
        (
            changes.added.iter().map(|pin| format!("{} at {}", pin.package, pin.place)).collect(),
            changes.unknown.iter().map(ToString::to_string).collect(),
        )
    }
}

#[tokio::test]
async fn only_what_the_branch_did_since_it_began_counts() {
    let world = World::new().await;
    let old = [("requirements.txt", "jinja2==2.4.1\nflask==1.0\n")];
    let begun = world.commit("HEAD", &old).await;
    let head = world.commit(begun.as_str(), &[("requirements.txt", "jinja2==2.4.1\nflask==1.1\n")]).await;
    // Meanwhile main has raised the other one: the branch still has the old version, and is not blamed for it.
    let main = world.commit(begun.as_str(), &[("requirements.txt", "jinja2==3.0.0\nflask==1.0\n")]).await;
    let (added, unknown) = world.changes(&main, &head).await;
    assert_eq!(added, ["PyPI flask 1.1 at requirements.txt:2"]);
    assert_eq!(unknown, Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_added_when_no_lock_file_changed() {
    let world = World::new().await;
    let base = world.commit("HEAD", &[("requirements.txt", "flask>=1\n-r more.pip\n"), ("more.pip", "a==1\n")]).await;
    let head = world.commit(base.as_str(), &[("src/x.py", "import flask\n"), ("docs/Cargo.lock.md", "x\n")]).await;
    assert_eq!(changes_between(&world.git, &base, &head).await.expect("read"), Changes::default());
    let included = world.commit(base.as_str(), &[("more.pip", "a==2\n")]).await;
    assert_eq!(world.changes(&base, &included).await.0, ["PyPI a 2 at more.pip:1"], "a name that says nothing");
}

#[tokio::test]
async fn a_link_in_place_of_a_lock_file_is_unknown() {
    let world = World::new().await;
    let base = world.commit("HEAD", &[("web/package-lock.json", "{\"lockfileVersion\": 3}")]).await;
    let head = world.commit(base.as_str(), &[("web/package-lock.json", ""), ("Cargo.lock", "<link>")]).await;
    let (added, unknown) = world.changes(&base, &head).await;
    assert_eq!((added, unknown), (Vec::new(), vec!["Cargo.lock: the file: it is no plain file".to_owned()]));
}

#[tokio::test]
async fn a_lock_file_that_is_too_large_is_unknown() {
    let world = World::new().await;
    let base = world.commit("HEAD", &[("a", "x\n")]).await;
    let large = "# x\n".repeat(usize::try_from(MOST_BYTES).expect("fits") / 4 + 1);
    let head = world.commit(base.as_str(), &[("requirements.txt", &large)]).await;
    assert_eq!(world.changes(&base, &head).await.1, [format!("requirements.txt: the file: {TOO_LARGE}")]);
}
