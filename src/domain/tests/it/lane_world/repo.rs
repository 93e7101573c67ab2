//! A repository in a few sets: commits with the files they hold, one `main`, task branches, and people who push.
//!
//! Owns what git and the forge would do: composing, compare-and-swap, answers that get lost, pushes that arrive late. What a
//! tree's tests say follows from its files alone.

use std::collections::{BTreeMap, BTreeSet};

use orch_domain::ids::CommitSha;
use orch_domain::policy::pin_hash;

/// One commit.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) parent: Option<CommitSha>,
    pub(crate) files: BTreeSet<String>,
    /// What it and those before it add to the `main` that they stand on.
    pub(crate) adds: BTreeSet<String>,
    /// The `main` that they stand on.
    pub(crate) on: Option<CommitSha>,
}

/// What a forge makes of one request to move `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// Nothing goes wrong.
    None,
    /// It is done, and the answer is lost.
    DoneUnheard,
    /// It is under way, and arrives some time.
    Late,
    /// It could not be sent.
    NotSent,
    /// The forge says no.
    Refused,
}

#[derive(Clone, Debug)]
pub(crate) struct Repo {
    pub(crate) commits: BTreeMap<CommitSha, Commit>,
    pub(crate) main: CommitSha,
    pub(crate) branches: BTreeMap<usize, CommitSha>,
    /// Pushes that were sent and have not arrived: from where, and to where.
    pub(crate) under_way: Vec<(CommitSha, CommitSha)>,
    /// Pairs of tasks whose first versions are red together.
    pairs: BTreeSet<(usize, usize)>,
}

impl Repo {
    pub(crate) fn new(pairs: BTreeSet<(usize, usize)>) -> Self {
        let mut repo = Self {
            commits: BTreeMap::new(),
            main: "0".repeat(40).parse().expect("hex"),
            branches: BTreeMap::new(),
            under_way: Vec::new(),
            pairs,
        };
        repo.main = repo.commit(None, BTreeSet::new(), BTreeSet::new(), None, "begin");
        repo
    }

    /// Makes a commit; the same twice is the same commit.
    pub(crate) fn commit(
        &mut self,
        parent: Option<&CommitSha>,
        files: BTreeSet<String>,
        adds: BTreeSet<String>,
        on: Option<&CommitSha>,
        what: &str,
    ) -> CommitSha {
        let sha: CommitSha = pin_hash(&(parent, &files, what))[..40].parse().expect("hex");
        let commit = Commit { parent: parent.cloned(), files, adds, on: on.cloned() };
        self.commits.entry(sha.clone()).or_insert(commit);
        sha
    }

    pub(crate) fn files(&self, sha: &CommitSha) -> &BTreeSet<String> {
        &self.commits[sha].files
    }

    pub(crate) fn tree(&self, sha: &CommitSha) -> CommitSha {
        pin_hash(self.files(sha))[..40].parse().expect("hex")
    }

    /// Whether `descendant` is `ancestor` or comes after it.
    pub(crate) fn contains(&self, ancestor: &CommitSha, descendant: &CommitSha) -> bool {
        let mut at = Some(descendant);
        while let Some(sha) = at {
            if sha == ancestor {
                return true;
            }
            at = self.commits[sha].parent.as_ref();
        }
        false
    }

    /// Names of the tests that a commit fails.
    pub(crate) fn failed(&self, sha: &CommitSha) -> BTreeSet<String> {
        let files = self.files(sha);
        let first = |task: usize| files.contains(&format!("t{task}.0"));
        let together = self.pairs.iter().filter(|(a, b)| first(*a) && first(*b));
        let mut failed: BTreeSet<String> = together.map(|(a, b)| format!("pair::{a}_and_{b}")).collect();
        failed.extend(files.contains("red").then(|| "main::is_well".to_owned()));
        failed
    }

    /// A developer's work on top of the present `main`.
    pub(crate) fn work(&mut self, task: usize, version: u32, conflicting: bool) -> CommitSha {
        let main = self.main.clone();
        let mut adds = BTreeSet::from([format!("t{task}.{version}")]);
        if conflicting {
            adds.insert(format!("shared={task}.{version}"));
        }
        let mut files = self.files(&main).clone();
        if conflicting {
            files.retain(|file| !file.starts_with("shared="));
        }
        files.extend(adds.iter().cloned());
        self.commit(Some(&main), files, adds, Some(&main), &format!("work {task}"))
    }

    /// Brings a commit on top of `main`; `None`: both changed the same file.
    pub(crate) fn catch_up(&mut self, own: &CommitSha, main: &CommitSha) -> Option<CommitSha> {
        if self.contains(main, own) {
            return Some(own.clone());
        }
        let Commit { adds, on, .. } = self.commits[own].clone();
        if adds.iter().all(|file| self.files(main).contains(file)) {
            return Some(main.clone());
        }
        let shared = |files: &BTreeSet<String>| files.iter().find(|file| file.starts_with("shared=")).cloned();
        let before = on.as_ref().and_then(|on| shared(self.files(on)));
        let mut files = self.files(main).clone();
        if shared(&adds).is_some() {
            if shared(&files) != before {
                return None;
            }
            files.retain(|file| !file.starts_with("shared="));
        }
        files.extend(adds.iter().cloned());
        Some(self.commit(Some(main), files, adds, Some(main), &format!("catch up {own}")))
    }

    /// People see to it that `main` is green.
    pub(crate) fn mend(&mut self) {
        self.person("mended", "red");
        while let Some(pair) = self.failed(&self.main.clone()).iter().find_map(|name| name.strip_prefix("pair::")) {
            let first = pair.split('_').next().unwrap_or_default().to_owned();
            self.person(&format!("without {first}"), &format!("t{first}.0"));
        }
    }

    /// A person pushes a change to `main`.
    pub(crate) fn person(&mut self, add: &str, remove: &str) {
        let main = self.main.clone();
        let mut files = self.files(&main).clone();
        files.insert(add.to_owned());
        files.remove(remove);
        self.main = self.commit(Some(&main), files, BTreeSet::new(), None, &format!("person {add}"));
    }
}
