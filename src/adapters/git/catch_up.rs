//! Bringing a task's head on top of the current main, in *work*, without any checkout.
//!
//! Owns the choice (nothing to do, rebase, merge commit, conflict) and its making: three-way merges of trees by
//! `git merge-tree`, commits written with a given date, so the same catch-up gives the same commit again after a crash.
//! There is no working tree, index, lock or rebase state that could be left behind. Refuses to lose work silently: a
//! commit that vanishes is named.

use std::collections::BTreeSet;

use git2::{ObjectType, Oid, Repository};
use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::time::Timestamp;

use super::error::{GitError, words};
use super::exec::GitCommand;
use super::plain_merge::plain_merge;
use super::read::{CommitLine, between, commit, descends, line, patch_id, sha};
use super::rooms::RepoGit;

/// Above this many commits a branch is merged, not rebased one by one.
const MOST_REBASED: usize = 200;
/// Most conflicting paths, and commits per side, that are named.
const MOST_NAMED: usize = 50;
/// Commits of main up to which a patch on it is looked for in this process.
const MOST_READ: usize = 100;

/// What a catch-up is for.
#[derive(Clone, Debug)]
pub struct CatchUpSpec {
    /// The task: what is made lives until its refs are dropped.
    pub task: TaskId,
    /// The date on the commits made; the same for every repetition of the same catch-up.
    pub at: Timestamp,
    /// Message of a merge commit, should one be made.
    pub merge_message: String,
}

/// Why a merge commit was made instead of a rebase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyMerged {
    /// The branch holds merge commits, which a rebase would flatten.
    BranchHoldsMerges,
    /// Replaying this commit conflicts, merging the whole does not.
    RebaseConflicts {
        /// The commit that conflicts.
        at: CommitLine,
        /// In which paths.
        paths: Vec<String>,
    },
    /// The branch has too many commits to replay one by one.
    TooManyCommits {
        /// How many.
        count: usize,
    },
}

/// What came of a catch-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// The head contains main already.
    Contains,
    /// The commits were replayed on main.
    Rebased {
        /// The new head.
        head: CommitSha,
        /// Commits that brought nothing any more, since main has the same change.
        dropped: Vec<CommitLine>,
        /// Commits whose changes main had brought and taken back: they are brought again.
        again: Vec<CommitLine>,
    },
    /// A merge commit joins main (its first parent) and the head.
    Merged {
        /// The merge commit.
        head: CommitSha,
        /// Why no rebase.
        because: WhyMerged,
    },
    /// Main has all of it: nothing is left to land.
    Vanished {
        /// What the branch had.
        dropped: Vec<CommitLine>,
    },
    /// Both sides changed the same: somebody has to decide.
    Conflict {
        /// The conflicting paths, at most 50.
        paths: Vec<String>,
        /// The branch's commits that touch them, newest first, at most 50.
        ours: Vec<CommitLine>,
        /// Main's commits that touch them since the two parted, newest first, at most 50.
        theirs: Vec<CommitLine>,
    },
}

/// A merge of trees.
pub(super) enum Merge {
    Clean(Oid),
    Conflict(Vec<String>),
}

/// How two heads stand to each other.
enum Standing {
    Contains,
    Apart { base: CommitSha, merges: bool, ours: Vec<CommitLine> },
}

/// One commit and the tip that it is to be put on.
enum Sides {
    Merged(Oid),
    ToMerge { ours: CommitSha, theirs: CommitSha },
}

/// What replaying gave.
enum Replay {
    Done { head: CommitSha, dropped: Vec<CommitLine>, again: Vec<CommitLine> },
    Conflict { at: CommitLine, paths: Vec<String> },
}

impl RepoGit {
    /// Brings `head` on top of `main`. Repeating with the same arguments gives the same commits.
    ///
    /// # Errors
    /// [`GitError::Unrelated`] when the two have no history in common; [`GitError::NoSuchCommit`]; else as any command.
    pub async fn catch_up(&self, head: &CommitSha, main: &CommitSha, spec: &CatchUpSpec) -> Result<CatchUp, GitError> {
        let (base, merges, ours) = match self.standing(head, main).await? {
            Standing::Contains => return Ok(CatchUp::Contains),
            Standing::Apart { base, merges, ours } => (base, merges, ours),
        };
        let because = match ours.len() {
            0 => return Ok(CatchUp::Vanished { dropped: ours }),
            _ if merges => WhyMerged::BranchHoldsMerges,
            count if count > MOST_REBASED => WhyMerged::TooManyCommits { count },
            _ => match self.replay(head, main, &ours, spec).await? {
                Replay::Done { head, dropped, .. } if head == *main => return Ok(CatchUp::Vanished { dropped }),
                Replay::Done { head, dropped, again } => {
                    self.keep_caught_up(&head, spec).await?;
                    return Ok(CatchUp::Rebased { head, dropped, again });
                }
                Replay::Conflict { at, paths } => WhyMerged::RebaseConflicts { at, paths },
            },
        };
        match self.merge_trees(main, head, main).await? {
            Merge::Conflict(paths) => self.conflict(&base, head, main, paths).await,
            Merge::Clean(tree) => {
                let (parents, spec_copy) = ([main.clone(), head.clone()], spec.clone());
                let who = self.identity(spec.at);
                let main_tree = self.tree_of(main).await?;
                if tree.to_string() == main_tree {
                    return Ok(CatchUp::Vanished { dropped: ours });
                }
                let head = self
                    .read(self.work(), move |repo| {
                        let author = format!("author {who}\n");
                        let message = spec_copy.merge_message.as_bytes();
                        write_commit(repo, tree, &parents, &author, &who, message)
                    })
                    .await?;
                self.keep_caught_up(&head, spec).await?;
                Ok(CatchUp::Merged { head, because })
            }
        }
    }

    pub(super) async fn keep_caught_up(&self, head: &CommitSha, spec: &CatchUpSpec) -> Result<(), GitError> {
        self.keep(&self.work(), &Self::task_ref(&spec.task, "caught-up", head.as_str()), head).await
    }

    async fn standing(&self, head: &CommitSha, main: &CommitSha) -> Result<Standing, GitError> {
        let base = self.merge_base(head, main).await?;
        let base = base.ok_or_else(|| GitError::Unrelated { one: head.clone(), other: main.clone() })?;
        let (head, main) = (head.clone(), main.clone());
        self.read(self.work(), move |repo| {
            if descends(repo, &main, &head)? {
                return Ok(Standing::Contains);
            }
            let ours: Vec<CommitLine> = between(repo, &main, &head)?.iter().map(line).collect();
            Ok(Standing::Apart { base, merges: ours.iter().any(|line| line.parents > 1), ours })
        })
        .await
    }

    /// Replays the branch's commits on main, one by one, leaving out those that main has as the same patch. That main once
    /// brought a patch does not say that it still holds it: what the result then lacks is replayed, too.
    async fn replay(
        &self,
        head: &CommitSha,
        main: &CommitSha,
        ours: &[CommitLine],
        spec: &CatchUpSpec,
    ) -> Result<Replay, GitError> {
        let wanted = match self.not_picked(head, main).await? {
            Some(wanted) => wanted,
            None => {
                let range = format!("{main}...{head}");
                let args =
                    ["rev-list", "--cherry-pick", "--right-only", "--no-merges", "--end-of-options", &range, "--"];
                let listed = self.git.ok(GitCommand::inside(&self.work(), args)).await?;
                String::from_utf8_lossy(&listed).lines().map(|line| line.trim().to_owned()).collect()
            }
        };
        let picked: Vec<CommitLine> =
            ours.iter().filter(|at| !wanted.iter().any(|sha| sha == at.sha.as_str())).cloned().collect();
        let replayed = self.replay_but(&picked, main, ours, spec).await?;
        let Replay::Done { head: tip, .. } = &replayed else { return Ok(replayed) };
        if picked.is_empty() || self.is_held(&picked, head, main, tip, spec).await? {
            return Ok(replayed);
        }
        match self.replay_but(&[], main, ours, spec).await? {
            Replay::Done { head, dropped, .. } => {
                let again = picked.into_iter().filter(|at| !dropped.contains(at)).collect();
                Ok(Replay::Done { head, dropped, again })
            }
            conflict @ Replay::Conflict { .. } => Ok(conflict),
        }
    }

    /// Replays all commits but some.
    async fn replay_but(
        &self,
        left_out: &[CommitLine],
        main: &CommitSha,
        ours: &[CommitLine],
        spec: &CatchUpSpec,
    ) -> Result<Replay, GitError> {
        let mut dropped = Vec::new();
        let mut tip = main.clone();
        for at in ours {
            if left_out.contains(at) {
                dropped.push(at.clone());
                continue;
            }
            match self.replay_one(&at.sha, &tip, main, spec).await? {
                Ok(Some(next)) => tip = next,
                Ok(None) => dropped.push(at.clone()),
                Err(paths) => return Ok(Replay::Conflict { at: at.clone(), paths }),
            }
        }
        Ok(Replay::Done { head: tip, dropped, again: Vec::new() })
    }

    /// Whether main, as it is now, holds what these commits of the branch bring: the whole merges to the very tree that
    /// was made without them, or each of them brings nothing.
    async fn is_held(
        &self,
        picked: &[CommitLine],
        head: &CommitSha,
        main: &CommitSha,
        tip: &CommitSha,
        spec: &CatchUpSpec,
    ) -> Result<bool, GitError> {
        if let Merge::Clean(tree) = self.merge_trees(main, head, main).await?
            && tree.to_string() == self.tree_of(tip).await?
        {
            return Ok(true);
        }
        for at in picked {
            if !matches!(self.replay_one(&at.sha, main, main, spec).await?, Ok(None)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The branch's commits whose patches `main` has not brought since the two parted; `None`: it has brought so much that
    /// git finds out sooner.
    async fn not_picked(&self, head: &CommitSha, main: &CommitSha) -> Result<Option<Vec<String>>, GitError> {
        let (head, main) = (head.clone(), main.clone());
        self.read(self.work(), move |repo| {
            let theirs = between(repo, &head, &main)?;
            if theirs.len() > MOST_READ {
                return Ok(None);
            }
            let plain = |commits: Vec<git2::Commit<'_>>| {
                let plain = commits.into_iter().filter(|at| at.parent_count() < 2);
                plain.map(|at| Ok((at.id().to_string(), patch_id(repo, &at)?))).collect::<Result<Vec<_>, GitError>>()
            };
            let brought: BTreeSet<String> = plain(theirs)?.into_iter().map(|(_, patch)| patch).collect();
            let ours = plain(between(repo, &main, &head)?)?;
            Ok(Some(ours.into_iter().filter(|(_, patch)| !brought.contains(patch)).map(|(sha, _)| sha).collect()))
        })
        .await
    }

    /// Replays one commit on `tip`: the new commit, `None` when it brings nothing any more, or the conflicting paths.
    pub(super) async fn replay_one(
        &self,
        at: &CommitSha,
        tip: &CommitSha,
        main: &CommitSha,
        spec: &CatchUpSpec,
    ) -> Result<Result<Option<CommitSha>, Vec<String>>, GitError> {
        let (id, onto, who) = (at.clone(), tip.clone(), self.identity(spec.at));
        // `merge-tree` finds the merge base by itself (naming it came with git 2.40): two commits without meaning
        // whose only common ancestor has the tree we want give exactly that.
        let merged = self
            .read(self.work(), move |repo| {
                let picked = commit(repo, &id)?;
                let parent = picked.parent(0).map_err(GitError::read(format!("the parent of {id}")))?;
                let tip = commit(repo, &onto)?;
                if parent.tree_id() == tip.tree_id() {
                    return Ok(Sides::Merged(picked.tree_id()));
                }
                let plain = plain_merge(repo, [&parent, &tip, &picked]);
                if let Some(tree) = plain.map_err(GitError::read("our objects"))? {
                    return Ok(Sides::Merged(tree));
                }
                let author = format!("author {who}\n");
                let bottom = write_commit(repo, parent.tree_id(), &[], &author, &who, b"base\n")?;
                let ours = write_commit(repo, tip.tree_id(), std::slice::from_ref(&bottom), &author, &who, b"onto\n")?;
                let theirs = write_commit(repo, picked.tree_id(), &[bottom], &author, &who, b"picked\n")?;
                Ok(Sides::ToMerge { ours, theirs })
            })
            .await?;
        let tree = match merged {
            Sides::Merged(tree) => tree,
            Sides::ToMerge { ours, theirs } => match self.merge_trees(&ours, &theirs, main).await? {
                Merge::Clean(tree) => tree,
                Merge::Conflict(paths) => return Ok(Err(paths)),
            },
        };
        let (id, onto, who) = (at.clone(), tip.clone(), self.identity(spec.at));
        self.read(self.work(), move |repo| {
            let picked = commit(repo, &id)?;
            let was_empty = picked.parent(0).is_ok_and(|parent| parent.tree_id() == picked.tree_id());
            if tree == commit(repo, &onto)?.tree_id() && !was_empty {
                return Ok(Ok(None));
            }
            recommit(repo, &picked, tree, &onto, &who).map(|new| Ok(Some(new)))
        })
        .await
    }

    /// Merges two commits' trees in memory. Attributes (such as `merge=union`) are read from main, where git can.
    pub(super) async fn merge_trees(
        &self,
        one: &CommitSha,
        other: &CommitSha,
        main: &CommitSha,
    ) -> Result<Merge, GitError> {
        let args = ["merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", one.as_str(), other.as_str()];
        let command = GitCommand::inside(&self.work(), args).env("GIT_ATTR_SOURCE", main.as_str());
        let out = self.git.run(command).await?;
        let text = String::from_utf8_lossy(&out.stdout);
        let mut parts = text.split('\0');
        let tree = parts.next().unwrap_or_default();
        match (out.code, Oid::from_str(tree)) {
            (0, Ok(tree)) => Ok(Merge::Clean(tree)),
            (1, Ok(_)) => {
                let mut paths: Vec<String> = parts.filter(|path| !path.is_empty()).map(str::to_owned).collect();
                paths.sort();
                paths.dedup();
                paths.truncate(MOST_NAMED);
                Ok(Merge::Conflict(paths))
            }
            (code, _) => Err(GitError::Failed { command: "git merge-tree".to_owned(), code, why: words(&out.stderr) }),
        }
    }

    async fn conflict(
        &self,
        base: &CommitSha,
        head: &CommitSha,
        main: &CommitSha,
        paths: Vec<String>,
    ) -> Result<CatchUp, GitError> {
        let ours = self.touching(base, head, &paths).await?;
        let theirs = self.touching(base, main, &paths).await?;
        Ok(CatchUp::Conflict { paths, ours, theirs })
    }

    /// The commits of `base..head` that touch one of the paths, newest first.
    async fn touching(
        &self,
        base: &CommitSha,
        head: &CommitSha,
        paths: &[String],
    ) -> Result<Vec<CommitLine>, GitError> {
        let most = format!("--max-count={MOST_NAMED}");
        let range = format!("{base}..{head}");
        let args = ["rev-list", &most, "--end-of-options", &range, "--"].into_iter().map(str::to_owned);
        let command = GitCommand::inside(&self.work(), args.chain(paths.iter().cloned()));
        let listed = self.git.ok(command.env("GIT_LITERAL_PATHSPECS", "1")).await?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        self.read(self.work(), move |repo| {
            listed.lines().filter_map(|id| id.parse().ok()).map(|id| Ok(line(&commit(repo, &id)?))).collect()
        })
        .await
    }

    /// The supervisor as git writes people: `name <email> seconds zone`.
    pub(super) fn identity(&self, at: Timestamp) -> String {
        let clean =
            |text: &str| text.chars().filter(|c| !c.is_control() && !matches!(c, '<' | '>')).collect::<String>();
        let settings = self.git.settings();
        format!("{} <{}> {} +0000", clean(&settings.name), clean(&settings.email), at.0.div_euclid(1_000))
    }
}

/// Writes the same commit with another tree and parent: author, encoding and message to the byte; signatures, which
/// would be wrong now, left out.
fn recommit(
    repo: &Repository,
    old: &git2::Commit<'_>,
    tree: Oid,
    parent: &CommitSha,
    who: &str,
) -> Result<CommitSha, GitError> {
    let mut author = Vec::new();
    let mut encoding = Vec::new();
    for header in old.raw_header_bytes().split_inclusive(|b| *b == b'\n') {
        match header {
            _ if header.starts_with(b"author ") => author = header.to_vec(),
            _ if header.starts_with(b"encoding ") => encoding = header.to_vec(),
            _ => {}
        }
    }
    let mut bytes = format!("tree {tree}\nparent {parent}\n").into_bytes();
    bytes.extend_from_slice(&author);
    bytes.extend_from_slice(format!("committer {who}\n").as_bytes());
    bytes.extend_from_slice(&encoding);
    bytes.push(b'\n');
    bytes.extend_from_slice(old.message_raw_bytes());
    put(repo, &bytes)
}

/// Writes a commit.
pub(crate) fn write_commit(
    repo: &Repository,
    tree: Oid,
    parents: &[CommitSha],
    author: &str,
    who: &str,
    message: &[u8],
) -> Result<CommitSha, GitError> {
    let mut bytes = format!("tree {tree}\n").into_bytes();
    for parent in parents {
        bytes.extend_from_slice(format!("parent {parent}\n").as_bytes());
    }
    bytes.extend_from_slice(author.as_bytes());
    bytes.extend_from_slice(format!("committer {who}\n\n").as_bytes());
    bytes.extend_from_slice(message);
    put(repo, &bytes)
}

/// A single object is put in by hand: it is one atomic file, and git's own command for it would be a process per commit.
fn put(repo: &Repository, commit: &[u8]) -> Result<CommitSha, GitError> {
    let odb = repo.odb().map_err(GitError::read("our objects"))?;
    odb.write(ObjectType::Commit, commit).map(sha).map_err(GitError::read("our objects"))
}
