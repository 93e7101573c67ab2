//! Taking a folder of notes out of a head before it lands, in *work*, without any checkout.
//!
//! Owns the one commit that does it: the folder is put back to what `main` has there, so that notes of earlier lives which
//! have landed are not taken away again. The same arguments give the same commit, after a crash too. Refuses to touch any
//! other path.

use git2::{Oid, Repository, Tree};
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoPath;

use super::catch_up::{CatchUpSpec, write_commit};
use super::error::GitError;
use super::read::commit;
use super::rooms::RepoGit;

impl RepoGit {
    /// A commit on `head` whose `folder` is as on `main`; `None` when it is so already.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`]; else as any reading or writing of our own objects.
    pub async fn strip_folder(
        &self,
        head: &CommitSha,
        main: &CommitSha,
        folder: &RepoPath,
        message: &str,
        spec: &CatchUpSpec,
    ) -> Result<Option<CommitSha>, GitError> {
        let (head, main, folder) = (head.clone(), main.clone(), folder.clone());
        let (who, message) = (self.identity(spec.at), message.to_owned());
        let stripped = self
            .read(self.work(), move |repo| {
                let tree_of = |id: &CommitSha| commit(repo, id)?.tree().map_err(GitError::read("our objects"));
                let (old, base) = (tree_of(&head)?, tree_of(&main)?);
                let wanted = base.get_path(std::path::Path::new(folder.as_str())).ok().map(|e| (e.id(), e.filemode()));
                let parts: Vec<&str> = folder.as_str().split('/').collect();
                let new = replaced(repo, Some(&old), &parts, wanted).map_err(GitError::read("our objects"))?;
                match new {
                    Some(new) if new != old.id() => {
                        let author = format!("author {who}\n");
                        write_commit(repo, new, std::slice::from_ref(&head), &author, &who, message.as_bytes())
                            .map(Some)
                    }
                    Some(_) | None => Ok(None),
                }
            })
            .await?;
        if let Some(head) = &stripped {
            self.keep_caught_up(head, spec).await?;
        }
        Ok(stripped)
    }
}

/// The tree with the entry at `parts` put in or taken out; `None` when nothing is left in it.
fn replaced(
    repo: &Repository,
    tree: Option<&Tree<'_>>,
    parts: &[&str],
    wanted: Option<(Oid, i32)>,
) -> Result<Option<Oid>, git2::Error> {
    let Some((name, deeper)) = parts.split_first() else { return Ok(tree.map(Tree::id)) };
    let mut builder = repo.treebuilder(tree)?;
    let entry = match deeper.is_empty() {
        true => wanted,
        false => {
            let below = tree.and_then(|t| t.get_name(name)).map(|e| e.to_object(repo)).transpose()?;
            let below = below.as_ref().and_then(|o| o.as_tree());
            if below.is_none() && wanted.is_none() {
                // A file, or nothing, is where the folder would be: that is not ours.
                return Ok(tree.map(Tree::id));
            }
            replaced(repo, below, deeper, wanted)?.map(|id| (id, i32::from(git2::FileMode::Tree)))
        }
    };
    match entry {
        Some((id, mode)) => {
            builder.insert(name, id, mode)?;
        }
        None if builder.get(name)?.is_some() => builder.remove(name)?,
        None => {}
    }
    if builder.is_empty() { Ok(None) } else { builder.write().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree<'r>(repo: &'r Repository, files: &[(&str, &str)]) -> Tree<'r> {
        let mut root: Option<Oid> = None;
        for (path, text) in files {
            let blob = repo.blob(text.as_bytes()).expect("a blob");
            let before = root.map(|id| repo.find_tree(id).expect("a tree"));
            let parts: Vec<&str> = path.split('/').collect();
            root = replaced(repo, before.as_ref(), &parts, Some((blob, 0o100_644))).expect("a tree");
        }
        let empty = || repo.treebuilder(None).and_then(|b| b.write()).expect("the empty tree");
        repo.find_tree(root.unwrap_or_else(empty)).expect("a tree")
    }

    #[test]
    fn only_the_folder_goes_and_empty_parents_go_with_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let repo = Repository::init_bare(dir.path()).expect("a repository");
        let full = tree(&repo, &[("a.txt", "a"), ("docs/x.md", "x"), ("docs/tasks/one/01.md", "n")]);
        let kept = tree(&repo, &[("a.txt", "a"), ("docs/x.md", "x")]);
        let parts = ["docs", "tasks", "one"];
        assert_eq!(replaced(&repo, Some(&full), &parts, None).expect("replaced"), Some(kept.id()));
        assert_eq!(replaced(&repo, Some(&kept), &parts, None).expect("replaced"), Some(kept.id()), "twice is once");
        let only = tree(&repo, &[("docs/tasks/one/01.md", "n")]);
        assert_eq!(replaced(&repo, Some(&only), &parts, None).expect("replaced"), None);
    }

    #[test]
    fn a_folder_that_main_has_comes_back_as_main_has_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let repo = Repository::init_bare(dir.path()).expect("a repository");
        let main = tree(&repo, &[("notes/one/01.md", "old")]);
        let head = tree(&repo, &[("a.txt", "a"), ("notes/one/01.md", "new"), ("notes/one/02.md", "new")]);
        let entry = main.get_path(std::path::Path::new("notes/one")).expect("an entry");
        let got = replaced(&repo, Some(&head), &["notes", "one"], Some((entry.id(), entry.filemode())));
        let wanted = tree(&repo, &[("a.txt", "a"), ("notes/one/01.md", "old")]);
        assert_eq!(got.expect("replaced"), Some(wanted.id()));
    }

    #[test]
    fn a_file_in_the_folders_place_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let repo = Repository::init_bare(dir.path()).expect("a repository");
        let head = tree(&repo, &[("notes", "a file")]);
        let got = replaced(&repo, Some(&head), &["notes", "one"], None).expect("replaced");
        assert_eq!(got, Some(head.id()));
    }
}
