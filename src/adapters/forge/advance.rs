//! Moving `main` by a plain push, and saying what came of it.
//!
//! Owns the only push that can reach `main`: of one commit, without any force, so a server accepts nothing but a
//! fast-forward. Whatever the push said, the answer is what a look at the forge shows. Refuses to begin when `main` is
//! not where it is expected, and never reports "not done" on the ground of a look that found nothing.

use orch_domain::ids::CommitSha;
use orch_domain::names::BranchName;

use crate::git::{GitError, Owner, PushSaid, PushTarget, RepoGit};
use crate::ports::{Advance, ForgeError};

/// Moves `main` from `expected` to `to` by a plain push, or not at all. Repeating is safe. Only the push runs for its
/// owner, under the owner's fences: a look goes on where nothing may be sent any more.
pub(crate) async fn advance_by_push(
    git: &RepoGit,
    owner: &Owner,
    main: &BranchName,
    expected: &CommitSha,
    to: &CommitSha,
) -> Advance {
    match git.remote_head(main).await {
        Err(err) => return Advance::Unknown { why: err.to_string() },
        Ok(None) => return Advance::Refused { why: format!("there is no branch `{main}` any more") },
        Ok(Some(at)) if at == *to => return Advance::Moved,
        Ok(Some(at)) if at != *expected => return elsewhere(git, main, at, to).await,
        Ok(Some(_)) => {}
    }
    match git.contains(expected, to).await {
        Ok(true) => {}
        Ok(false) => return Advance::Refused { why: format!("{to} does not come after {expected}") },
        Err(err) => return Advance::NotSent { why: format!("nothing was sent: {err}") },
    }
    match git.for_owner(owner.clone()).push(PushTarget::Forward { branch: main, to }).await {
        Ok(said) => settle(git, main, expected, to, said).await,
        Err(err) => Advance::NotSent { why: format!("nothing was sent: {err}") },
    }
}

/// Looks where `main` is after an attempt to move it.
pub(crate) async fn settle(
    git: &RepoGit,
    main: &BranchName,
    expected: &CommitSha,
    to: &CommitSha,
    said: PushSaid,
) -> Advance {
    match (git.remote_head(main).await, said) {
        (Err(err), said) => Advance::Unknown { why: format!("{}; then {err}", said.text()) },
        (Ok(None), _) => Advance::Refused { why: format!("there is no branch `{main}` any more") },
        (Ok(Some(at)), _) if at == *to => Advance::Moved,
        (Ok(Some(at)), _) if at != *expected => elsewhere(git, main, at, to).await,
        (Ok(Some(_)), PushSaid::Refused(why)) => Advance::Refused { why },
        (Ok(Some(_)), said) => Advance::Unknown { why: said.text() },
    }
}

/// `main` is neither where it was nor where it should go: did it get there, and was moved on since?
async fn elsewhere(git: &RepoGit, main: &BranchName, at: CommitSha, to: &CommitSha) -> Advance {
    let now = match git.fetch_main(main).await {
        Ok(now) => now,
        Err(err) => return Advance::Unknown { why: format!("`{main}` is at {at}, which cannot be fetched: {err}") },
    };
    match git.contains(to, &now).await {
        Ok(true) => Advance::Moved,
        Ok(false) => Advance::MainMoved { at: now },
        Err(err) => Advance::Unknown { why: format!("`{main}` is at {now}: {err}") },
    }
}

/// A git error as a forge's: may asking again help?
pub(crate) fn forge_error(err: GitError) -> ForgeError {
    match err {
        GitError::Refused { .. } | GitError::NoGit { .. } | GitError::Invalid(_) | GitError::NoSuchBranch { .. } => {
            ForgeError::Refused(err.to_string())
        }
        _ => ForgeError::Unreachable(err.to_string()),
    }
}
