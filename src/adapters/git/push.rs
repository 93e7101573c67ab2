//! Pushing, replacing and deleting task branches at the forge; and the shape that every push of ours has.
//!
//! Owns the only forced pushes there are, and makes them unable to reach anything but a branch of ours: they take a
//! [`TaskBranch`], and always the commit that is expected to be there. What came of a push is decided by looking at the
//! forge, not by what the push said. Refuses `main`, the forge's default branch and every protected one by type: a
//! [`PushTarget`] has no words for forcing or deleting them. `main` moves in the forge room.

use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::job::JobKind;
use orch_domain::names::BranchName;

use super::error::{GitError, words};
use super::exec::GitCommand;
use super::rooms::RepoGit;

/// The branches of a forge that are never forced nor deleted: the one that tasks land on, and the forge's default branch.
/// There is no empty set of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedBranches {
    main: BranchName,
    default: Option<BranchName>,
}

impl ProtectedBranches {
    /// The branch that tasks land on, and the forge's default branch where it is known and another one.
    #[must_use]
    pub fn new(main: BranchName, default: Option<BranchName>) -> Self {
        let default = default.filter(|default| *default != main);
        Self { main, default }
    }

    /// All of them, the landing branch first.
    pub fn iter(&self) -> impl Iterator<Item = &BranchName> {
        std::iter::once(&self.main).chain(&self.default)
    }
}

/// A branch of ours at the forge: the only kind that may be replaced or deleted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskBranch {
    name: BranchName,
    protected: ProtectedBranches,
}

/// Why a branch may be neither replaced nor deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskBranchError {
    /// It was not made by us.
    #[error("`{0}` is not a branch of orch: it is never forced nor deleted")]
    NotOurs(BranchName),
    /// It is the branch that tasks land on, or the forge's default branch.
    #[error("`{0}` is protected: it is never forced nor deleted")]
    Protected(BranchName),
}

impl TaskBranch {
    /// Admits a branch that carries our prefix and is none of `protected`.
    ///
    /// # Errors
    /// See [`TaskBranchError`].
    pub fn new(branch: BranchName, protected: &ProtectedBranches) -> Result<Self, TaskBranchError> {
        if protected.iter().any(|other| *other == branch) {
            return Err(TaskBranchError::Protected(branch));
        }
        match branch.is_ours() {
            true => Ok(Self { name: branch, protected: protected.clone() }),
            false => Err(TaskBranchError::NotOurs(branch)),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &BranchName {
        &self.name
    }
}

/// What came of pushing a task branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchPush {
    /// Seen: the branch is at the pushed commit.
    Pushed,
    /// Not done: somebody else moved or removed the branch. It is theirs now.
    Stale {
        /// Where it is, if it is there at all.
        at: Option<CommitSha>,
    },
    /// Not done: the forge refuses (hook, permission, checked out by a person).
    Refused {
        /// The forge's own words.
        why: String,
    },
    /// Not known; push again, it is safe.
    Unknown {
        /// What happened.
        why: String,
    },
}

/// What came of deleting a task branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchDeletion {
    /// Seen: it is gone.
    Gone,
    /// Kept: it is at a commit that was not expected, so it holds a person's work.
    Kept {
        /// Where it is.
        at: CommitSha,
    },
    /// Not done: the forge refuses.
    Refused {
        /// The forge's own words.
        why: String,
    },
    /// Not known; delete again, it is safe.
    Unknown {
        /// What happened.
        why: String,
    },
}

/// For a local repository: task branches are ours to replace and delete there, even where its owner forbade that for
/// branches in general (as `git init --shared` does). A branch that a person has checked out stays refused.
const RECEIVE_TASKS: &[&str] =
    &["receive.autogc=false", "receive.denyNonFastForwards=false", "receive.denyDeletes=false"];
/// For a local repository: a checked-out `main` moves too, its files are never touched (also where the owner asked for
/// `updateInstead`: local changes there are the owner's); never backwards, never away.
const RECEIVE_MAIN: &[&str] = &[
    "receive.autogc=false",
    "receive.denyCurrentBranch=ignore",
    "receive.denyNonFastForwards=true",
    "receive.denyDeletes=true",
];

/// What one push is to do, to one ref. Only a [`TaskBranch`] can be replaced or deleted, and only from where it is known
/// to be; every other branch can only be moved forward. What cannot be said here cannot be pushed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PushTarget<'a> {
    /// A branch of ours is put at a commit, if it is at `expected` (`None`: if it is not there).
    Replace {
        /// Which.
        branch: &'a TaskBranch,
        /// Where to.
        to: &'a CommitSha,
        /// Where from.
        expected: Option<&'a CommitSha>,
    },
    /// A branch of ours is deleted, if it is at `expected`.
    Delete {
        /// Which.
        branch: &'a TaskBranch,
        /// Where from.
        expected: &'a CommitSha,
    },
    /// Any branch moves forward to a commit that comes after what it holds, or not at all.
    Forward {
        /// Which.
        branch: &'a BranchName,
        /// Where to.
        to: &'a CommitSha,
    },
}

impl PushTarget<'_> {
    /// The options that say from where: a forced push without an expectation cannot be said.
    fn lease(&self) -> Option<String> {
        let (branch, expected) = match self {
            Self::Replace { branch, expected, .. } => (branch, *expected),
            Self::Delete { branch, expected } => (branch, Some(*expected)),
            Self::Forward { .. } => return None,
        };
        let expected = expected.map_or("", CommitSha::as_str);
        Some(format!("--force-with-lease={}:{expected}", branch.name.as_ref_name()))
    }

    fn refspec(&self) -> String {
        match self {
            Self::Replace { branch, to, .. } => format!("{to}:{}", branch.name.as_ref_name()),
            Self::Delete { branch, .. } => format!(":{}", branch.name.as_ref_name()),
            Self::Forward { branch, to } => format!("{to}:{}", branch.as_ref_name()),
        }
    }

    /// The push that moves `main` outlives its supervisor; those of task branches are repeated.
    const fn kind(&self) -> JobKind {
        match self {
            Self::Replace { .. } | Self::Delete { .. } => JobKind::Git,
            Self::Forward { .. } => JobKind::Push,
        }
    }

    /// Configuration for the other side, where that is a process of ours too: with a local repository.
    const fn receive(&self) -> &'static [&'static str] {
        match self {
            Self::Replace { .. } | Self::Delete { .. } => RECEIVE_TASKS,
            Self::Forward { .. } => RECEIVE_MAIN,
        }
    }
}

/// A word for a shell.
pub(crate) fn shell_quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// What a push by itself tells, before anybody looks.
pub(crate) enum PushSaid {
    /// The server reported the update as done.
    Done,
    /// The server (or git, before sending anything) reported it as refused.
    Refused(String),
    /// Neither.
    Nothing(String),
}

impl RepoGit {
    /// Puts a task branch at `sha`, if it is at `expected` now (`None`: if it is not there). Repeating is safe.
    ///
    /// # Errors
    /// [`GitError::Stopped`], [`GitError::NoGit`], [`GitError::NoSuchCommit`]: nothing was pushed. [`GitError::Invalid`]
    /// when a protected branch has that commit already: a forge would take the task for merged.
    pub async fn push_task_branch(
        &self,
        branch: &TaskBranch,
        sha: &CommitSha,
        expected: Option<&CommitSha>,
    ) -> Result<BranchPush, GitError> {
        if !self.has_commit(sha).await? {
            return Err(GitError::NoSuchCommit { sha: sha.clone() });
        }
        if let Some(main) = self.already_in(sha, &branch.protected).await? {
            // Repeated after the landing it is no mistake.
            return match self.remote_head(&branch.name).await {
                Ok(Some(at)) if at == *sha => Ok(BranchPush::Pushed),
                _ => Err(GitError::Invalid(format!(
                    "`{}` is not pushed at {sha}: `{main}` contains that commit, the task would look merged",
                    branch.name
                ))),
            };
        }
        let said = self.push(PushTarget::Replace { branch, to: sha, expected }).await?;
        let at = match self.remote_head(&branch.name).await {
            Ok(at) => at,
            Err(err) => return Ok(BranchPush::Unknown { why: format!("{}; then {err}", said.text()) }),
        };
        Ok(match said {
            _ if at.as_ref() == Some(sha) => BranchPush::Pushed,
            _ if at.as_ref() != expected => BranchPush::Stale { at },
            PushSaid::Refused(why) => BranchPush::Refused { why },
            PushSaid::Nothing(why) => BranchPush::Unknown { why },
            PushSaid::Done => BranchPush::Unknown { why: "the forge says done and shows the old commit".to_owned() },
        })
    }

    /// Where we have put a task's branch, or were about to: the only commits at which it is ours to replace. Empty: it was
    /// never pushed.
    ///
    /// # Errors
    /// As any read of ours.
    pub async fn pushed(&self, task: &TaskId) -> Result<Vec<CommitSha>, GitError> {
        let found = self.refs(&self.work(), &Self::task_ref(task, "pushed", "*")).await?;
        Ok(found.into_iter().map(|(_, sha)| sha).collect())
    }

    /// Records where a task's branch is about to be put, before it is.
    ///
    /// # Errors
    /// As any write of ours; then nothing may be pushed.
    pub async fn note_push(&self, task: &TaskId, to: &CommitSha) -> Result<(), GitError> {
        self.keep(&self.work(), &Self::task_ref(task, "pushed", "next"), to).await
    }

    /// Records where a task's branch was seen after it was put there: from now on it is ours there only.
    ///
    /// # Errors
    /// As any write of ours.
    pub async fn note_pushed(&self, task: &TaskId, at: &CommitSha) -> Result<(), GitError> {
        self.keep(&self.work(), &Self::task_ref(task, "pushed", "last"), at).await?;
        self.keep(&self.work(), &Self::task_ref(task, "pushed", "next"), at).await
    }

    /// The first of these branches that has the commit, as far as upstream knows.
    async fn already_in(&self, sha: &CommitSha, branches: &ProtectedBranches) -> Result<Option<BranchName>, GitError> {
        for branch in branches.iter() {
            if let Some(at) = self.ref_at(&self.upstream(), &branch.as_ref_name()).await?
                && self.contains(sha, &at).await?
            {
                return Ok(Some(branch.clone()));
            }
        }
        Ok(None)
    }

    /// Deletes a task branch, if it is at `expected` now. Repeating is safe.
    ///
    /// # Errors
    /// [`GitError::Stopped`], [`GitError::NoGit`]: nothing was deleted.
    pub async fn delete_task_branch(
        &self,
        branch: &TaskBranch,
        expected: &CommitSha,
    ) -> Result<BranchDeletion, GitError> {
        match self.remote_head(&branch.name).await {
            Ok(None) => return Ok(BranchDeletion::Gone),
            Ok(Some(at)) if at != *expected => return Ok(BranchDeletion::Kept { at }),
            Ok(Some(_)) => {}
            Err(err) => return Ok(BranchDeletion::Unknown { why: err.to_string() }),
        }
        let said = self.push(PushTarget::Delete { branch, expected }).await?;
        Ok(match (self.remote_head(&branch.name).await, said) {
            (Ok(None), _) => BranchDeletion::Gone,
            (Ok(Some(at)), _) if at != *expected => BranchDeletion::Kept { at },
            (Ok(Some(_)), PushSaid::Refused(why)) => BranchDeletion::Refused { why },
            (Ok(Some(_)), said) => BranchDeletion::Unknown { why: said.text() },
            (Err(err), said) => BranchDeletion::Unknown { why: format!("{}; then {err}", said.text()) },
        })
    }

    /// One push out of work, of one ref: the only place where `git push` is said.
    ///
    /// # Errors
    /// Only what means that nothing can have been sent.
    pub(crate) async fn push(&self, target: PushTarget<'_>) -> Result<PushSaid, GitError> {
        let mut args = vec!["push", "--porcelain", "--atomic", "--no-verify", "--no-follow-tags"];
        let receive_pack = self.is_local().then(|| {
            let config: String = target.receive().iter().map(|pair| format!(" -c {pair}")).collect();
            format!("--receive-pack={}{config} receive-pack", shell_quote(&self.git.settings().program))
        });
        let (lease, refspec) = (target.lease(), target.refspec());
        args.extend(receive_pack.as_deref());
        args.extend(lease.as_deref());
        args.extend(["--", self.remote.url.as_str(), refspec.as_str()]);
        let command = GitCommand::inside(&self.work(), args).kind(target.kind()).with_remote(&self.remote);
        match self.git.run(command).await {
            Ok(out) => Ok(said(out.code, &out.stdout, &out.stderr)),
            Err(err @ (GitError::NoGit { .. } | GitError::Invalid(_))) => Err(err),
            // Stopped before it was started is certain; stopped on the way may have come through.
            Err(err @ GitError::Stopped { began: false, .. }) => Err(err),
            Err(err) => Ok(PushSaid::Nothing(err.to_string())),
        }
    }
}

impl PushSaid {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Done => "the forge says done".to_owned(),
            Self::Refused(why) | Self::Nothing(why) => why.clone(),
        }
    }
}

/// Reads `git push --porcelain`: a line `flag TAB from:to TAB summary (reason)` per ref.
fn said(code: i32, stdout: &[u8], stderr: &[u8]) -> PushSaid {
    let text = String::from_utf8_lossy(stdout);
    let rejected = text.lines().find(|line| line.starts_with("!\t"));
    match rejected {
        // Both `[rejected]` (git, nothing sent) and `[remote rejected]` (the server) are final words.
        Some(line) if line.contains("rejected]") => {
            let summary = line.rsplit('\t').next().unwrap_or_default();
            PushSaid::Refused(words(format!("{summary}\n{}", String::from_utf8_lossy(stderr)).as_bytes()))
        }
        Some(line) => PushSaid::Nothing(words(line.as_bytes())),
        None if code == 0 => PushSaid::Done,
        None => PushSaid::Nothing(words(stderr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(name: &str) -> BranchName {
        name.parse().expect("branch name")
    }

    #[test]
    fn only_branches_of_ours_can_be_forced_or_deleted() {
        let protected = ProtectedBranches::new(branch("main"), Some(branch("trunk")));
        assert!(TaskBranch::new(branch("orch/orc-1/1"), &protected).is_ok());
        for foreign in ["main", "trunk", "feature/x", "orchard/x", "release"] {
            assert!(TaskBranch::new(branch(foreign), &protected).is_err(), "{foreign}");
        }
        // Whatever a forge calls its branches: the one that tasks land on and the default one stay out of reach.
        let (odd_main, odd_default) = (branch("orch/main"), branch("orch/orc-1/1"));
        let protected = ProtectedBranches::new(odd_main.clone(), Some(odd_default.clone()));
        for odd in [odd_main, odd_default] {
            let err = TaskBranch::new(odd.clone(), &protected).expect_err("protected");
            assert_eq!(err, TaskBranchError::Protected(odd));
        }
    }

    #[test]
    fn what_is_forced_names_the_commit_it_replaces_and_nothing_else_is_forced() {
        let (sha, old): (CommitSha, CommitSha) =
            ("a".repeat(40).parse().expect("id"), "b".repeat(40).parse().expect("id"));
        let main = branch("main");
        let mine = TaskBranch::new(branch("orch/orc-1/1"), &ProtectedBranches::new(main.clone(), None)).expect("ours");
        let words = |target: PushTarget<'_>| (target.lease(), target.refspec(), target.kind());
        let lease = |at: &str| Some(format!("--force-with-lease=refs/heads/orch/orc-1/1:{at}"));
        let to = format!("{sha}:refs/heads/orch/orc-1/1");
        let fresh = PushTarget::Replace { branch: &mine, to: &sha, expected: None };
        assert_eq!(words(fresh), (lease(""), to.clone(), JobKind::Git));
        let again = PushTarget::Replace { branch: &mine, to: &sha, expected: Some(&old) };
        assert_eq!(words(again), (lease(old.as_str()), to, JobKind::Git));
        let gone = PushTarget::Delete { branch: &mine, expected: &old };
        assert_eq!(words(gone), (lease(old.as_str()), ":refs/heads/orch/orc-1/1".to_owned(), JobKind::Git));
        let forward = PushTarget::Forward { branch: &main, to: &sha };
        assert_eq!(words(forward), (None, format!("{sha}:refs/heads/main"), JobKind::Push));
        assert!(forward.receive().contains(&"receive.denyNonFastForwards=true"));
    }

    #[test]
    fn a_refusal_is_told_from_silence() {
        let refused = b"To /x\n!\tabc:refs/heads/x\t[remote rejected] (hook declined)\nDone\n";
        assert!(matches!(said(1, refused, b"remote: no"), PushSaid::Refused(why) if why.contains("remote: no")));
        assert!(matches!(
            said(1, b"!\ta:b\t[remote failure] (remote failed to report status)\n", b""),
            PushSaid::Nothing(_)
        ));
        assert!(matches!(said(128, b"", b"fatal: hung up"), PushSaid::Nothing(_)));
        assert!(matches!(said(0, b"To /x\n*\ta:b\t[new branch]\nDone\n", b""), PushSaid::Done));
    }
}
