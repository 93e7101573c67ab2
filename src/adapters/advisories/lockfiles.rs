//! Lock files of two commits, read out of our own repository.
//!
//! Owns what is read and how much of it: files by their names, plain files only, each and all of them within bounds. What
//! is not read is said to be unread. Never looks at a workspace.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_domain::deps::changes::{Changes, Content, File, Snapshot, compare};
use orch_domain::deps::lockfile::{FileKind, LockKind, kind_of};
use orch_domain::ids::CommitSha;

use crate::git::{FileAt, GitError, RepoGit, TreeFile};

/// Largest file that is read.
const MOST_BYTES: u64 = 16 << 20;
/// Most bytes of all files of both commits together.
const MOST_TOTAL: u64 = 256 << 20;
/// Most files of one commit.
const MOST_FILES: usize = 50_000;

const LINK: &str = "it is no plain file";
const TOO_LARGE: &str = "it is larger than what is read";
const TOO_MUCH: &str = "there are more such files than are read";

/// What `head` brings about dependencies, compared with where it began: the common ancestor with `base`, so that nobody
/// is blamed for what main has done since.
///
/// # Errors
/// [`GitError`] when our repository cannot be read.
pub async fn changes_between(git: &RepoGit, base: &CommitSha, head: &CommitSha) -> Result<Changes, GitError> {
    let from = git.merge_base(base, head).await?.unwrap_or_else(|| base.clone());
    let mut reader = Reader { git, read: BTreeMap::new(), left: MOST_TOTAL };
    let (old, new) = (listed(git, &from).await?, listed(git, head).await?);
    let early = |file: &TreeFile| matches!(kind_of(&file.path), Some(FileKind::Lock(LockKind::Requirements)));
    // What requirements files take in may have any name, so these are followed before anything is called unchanged.
    let (mut before, mut after) = (Snapshot::default(), Snapshot::default());
    for (snapshot, files, commit) in [(&mut before, &old, &from), (&mut after, &new, head)] {
        for file in files.iter().filter(|file| early(file)) {
            snapshot.insert(file.path.clone(), reader.file(file).await?);
        }
        reader.follow(snapshot, commit).await?;
    }
    let key = |file: &TreeFile| (file.path.clone(), file.id.clone(), file.plain);
    let same = old.iter().map(key).eq(new.iter().map(key)) && before.same_files(&after);
    if same {
        return Ok(Changes::default());
    }
    // Changed ones first: should the bound be reached, it is the rest that goes unread.
    let changed =
        |file: &&TreeFile| !old.iter().any(|o| key(o) == key(file)) || !new.iter().any(|n| key(n) == key(file));
    for pass in [true, false] {
        for (snapshot, files) in [(&mut before, &old), (&mut after, &new)] {
            for file in files.iter().filter(|file| !early(file) && changed(file) == pass) {
                snapshot.insert(file.path.clone(), reader.file(file).await?);
            }
        }
    }
    // Large lock files take a while.
    let compared = tokio::task::spawn_blocking(move || compare(&before, &after)).await;
    compared.map_err(|error| GitError::Read { what: "the lock files".to_owned(), why: error.to_string() })
}

async fn listed(git: &RepoGit, commit: &CommitSha) -> Result<Vec<TreeFile>, GitError> {
    git.files_named(commit, |path| kind_of(path).is_some(), MOST_FILES).await
}

/// Reads blobs, each once.
struct Reader<'g> {
    git: &'g RepoGit,
    read: BTreeMap<String, Content>,
    left: u64,
}

impl Reader<'_> {
    async fn file(&mut self, file: &TreeFile) -> Result<File, GitError> {
        let content = match (file.plain, self.read.get(&file.id)) {
            (false, _) => Content::Unread(LINK),
            (true, Some(content)) => content.clone(),
            (true, None) => {
                let content = match self.git.read_blob(&file.id, MOST_BYTES).await? {
                    FileAt::Bytes(bytes) if bytes.len() as u64 > self.left => Content::Unread(TOO_MUCH),
                    FileAt::Bytes(bytes) => {
                        self.left -= bytes.len() as u64;
                        Content::Bytes(Arc::from(bytes))
                    }
                    FileAt::TooLarge { .. } => Content::Unread(TOO_LARGE),
                    FileAt::Missing | FileAt::NotAFile => Content::Unread(LINK),
                };
                self.read.insert(file.id.clone(), content.clone());
                content
            }
        };
        // A link may have the same text as the file that it took the place of.
        let id = if file.plain { file.id.clone() } else { format!("link {}", file.id) };
        Ok(File { id, content })
    }

    /// Adds what requirements files take in, to the end.
    async fn follow(&mut self, snapshot: &mut Snapshot, commit: &CommitSha) -> Result<(), GitError> {
        loop {
            let wanted = snapshot.wanted();
            if wanted.is_empty() {
                return Ok(());
            }
            for path in wanted {
                match self.git.file_named(commit, &path).await? {
                    Some(file) => {
                        let file = self.file(&file).await?;
                        snapshot.insert(path, file);
                    }
                    None => snapshot.missing(path),
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "lockfiles_tests.rs"]
mod tests;
