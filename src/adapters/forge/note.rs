//! What to tell a person whose clone has `main` checked out while it moves under them.
//!
//! Owns finding such working trees and the one command that brings their files along without losing local changes.
//! Refuses to run it: reads the list of working trees and their index files, and nothing else of theirs.

use std::path::{Path, PathBuf};

use git2::{Index, Repository, RepositoryOpenFlags};
use orch_domain::ids::CommitSha;
use orch_domain::names::BranchName;

use crate::git::{GitCommand, Place, RepoGit, commit_of, find_repository, shell_quote, utf8};
use crate::ports::{LandingNote, LeftBehind};

/// How far back it is looked for the commit that somebody's files are at.
const FAR: usize = 200;

/// A note per working tree that has `main` checked out and does not have `to`'s files.
pub(super) async fn for_checked_out_main(
    git: &RepoGit,
    place: &Place,
    main: &BranchName,
    from: &CommitSha,
    to: &CommitSha,
) -> Option<LandingNote> {
    let (looked, name) = (place.clone(), main.as_ref_name());
    if let Ok(false) = tokio::task::spawn_blocking(move || may_be_checked_out(&looked, &name)).await {
        return None;
    }
    let command = GitCommand::inside(&place.git_dir, ["worktree", "list", "--porcelain", "-z"]);
    let out = git.git().run(command.env("GIT_DIR", utf8(&place.git_dir).ok()?)).await.ok()?;
    let (mut texts, mut left_behind) = (Vec::new(), Vec::new());
    for tree in checked_out(&String::from_utf8_lossy(&out.stdout), main) {
        let (tree, ours, start, end) = (tree, git.work(), from.clone(), to.clone());
        let found = tokio::task::spawn_blocking(move || {
            let old = files_are_at(&ours, &tree, &start, &end);
            (tree, old)
        });
        let (tree, old) = found.await.ok()?;
        if let Some(old) = old {
            let command = bring_along(&tree, &old, to);
            texts.push(note(&tree, main, &old, to, &command));
            left_behind.push(LeftBehind { folder: tree.display().to_string(), command });
        }
    }
    (!texts.is_empty()).then(|| LandingNote { text: texts.join("\n"), left_behind })
}

/// Whether any working tree may have the branch checked out. A look at files, which spares most landings a process; in doubt
/// git is asked.
fn may_be_checked_out(place: &Place, name: &str) -> bool {
    if std::fs::symlink_metadata(place.common_dir.join("worktrees")).is_ok() {
        return true;
    }
    let flags = RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::NO_DOTGIT;
    let none_above: [&str; 0] = [];
    let Ok(repo) = Repository::open_ext(&place.common_dir, flags, none_above.as_slice()) else { return true };
    let elsewhere = || {
        let head = repo.find_reference("HEAD").and_then(|head| head.resolve());
        head.is_ok_and(|head| head.name_bytes() != name.as_bytes())
    };
    !repo.is_bare() && !elsewhere()
}

/// The folders that have the branch checked out: records of `key value` items, ended by an empty one.
fn checked_out(list: &str, main: &BranchName) -> Vec<PathBuf> {
    let wanted = format!("branch {}", main.as_ref_name());
    let record = |record: &str| {
        let mut items = record.split('\0');
        let folder = items.next()?.trim_start_matches('\0').strip_prefix("worktree ")?;
        items.any(|item| item == wanted).then(|| PathBuf::from(folder))
    };
    list.split("\0\0").filter_map(record).collect()
}

/// The commit whose files a working tree holds, by its index: the nearest of `from` and its first parents. `None` when
/// they are at `to` already. A working tree that missed earlier landings is further back than `from`.
fn files_are_at(ours: &Path, tree: &Path, from: &CommitSha, to: &CommitSha) -> Option<CommitSha> {
    let by_default = Some(from.clone());
    let Some(place) = find_repository(tree) else { return by_default };
    let Ok(index) = Index::open(&place.git_dir.join("index")) else { return by_default };
    let Ok(repo) = Repository::open_bare(ours) else { return by_default };
    let distance = |id: &CommitSha| -> Option<usize> {
        let tree = commit_of(&repo, id).ok()?.tree().ok()?;
        Some(repo.diff_tree_to_index(Some(&tree), Some(&index), None).ok()?.deltas().len())
    };
    if distance(to) == Some(0) {
        return None;
    }
    let mut best = (distance(from).unwrap_or(usize::MAX), from.clone());
    let mut at = from.clone();
    for _ in 0..FAR {
        if best.0 == 0 {
            break;
        }
        let Some(parent) = commit_of(&repo, &at).ok().and_then(|commit| commit.parent_id(0).ok()) else { break };
        let Ok(parent) = parent.to_string().parse::<CommitSha>() else { break };
        if let Some(far) = distance(&parent).filter(|far| *far < best.0) {
            best = (far, parent.clone());
        }
        at = parent;
    }
    Some(best.1)
}

/// The one line that brings files and index of a working tree along.
fn bring_along(tree: &Path, old: &CommitSha, to: &CommitSha) -> String {
    let folder = shell_quote(&tree.to_string_lossy());
    format!("git -C {folder} update-index -q --refresh; git -C {folder} read-tree -m -u {old} {to}")
}

fn note(tree: &Path, main: &BranchName, old: &CommitSha, to: &CommitSha, command: &str) -> String {
    format!(
        "`{main}` is checked out in {shown} and has moved from {from} to {onto}; its files and index were left as they \
         are, so `git status` there shows the landed change backwards, and a commit made there now would undo it. First \
         bring the files along: {command} \
         (local changes are kept; where they overlap with what has landed it refuses and changes nothing)",
        shown = tree.display(),
        from = old.short(),
        onto = to.short(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::tests::{commit_all, sh};

    #[test]
    fn git_is_asked_where_a_working_tree_may_be_on_main() {
        let dir = tempfile::tempdir().expect("a folder");
        let (clone, bare) = (dir.path().join("clone"), dir.path().join("bare.git"));
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        sh(dir.path(), &["init", "--quiet", "--initial-branch=main", "clone"]);
        commit_all(&clone, "Begin");
        sh(dir.path(), &["clone", "--quiet", "--bare", "clone", "bare.git"]);
        let may = |path: &Path| may_be_checked_out(&find_repository(path).expect("a repository"), "refs/heads/main");
        assert!(may(&clone));
        assert!(!may(&bare));
        sh(&clone, &["checkout", "--quiet", "--detach"]);
        assert!(!may(&clone));
        sh(&clone, &["checkout", "--quiet", "-b", "side"]);
        assert!(!may(&clone));
        for repo in [&clone, &bare] {
            let linked = repo.with_extension("linked");
            sh(repo, &["worktree", "add", "--quiet", &text(&linked), "main"]);
            assert!(may(repo) && may(&linked));
        }
    }

    #[test]
    fn only_working_trees_on_main_are_found() {
        let list = "worktree /a b\0HEAD 1\0branch refs/heads/main\0\0worktree /c\0HEAD 1\0detached\0\0\
                    worktree /d\0bare\0\0worktree /e\0HEAD 1\0branch refs/heads/mainline\0\0";
        let main = "main".parse().expect("branch");
        assert_eq!(checked_out(list, &main), [PathBuf::from("/a b")]);
    }
}
