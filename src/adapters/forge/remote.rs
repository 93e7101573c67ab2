//! The forge that is only a git repository somewhere: by `file://`, `git://`, `http(s)://` or ssh, without any interface
//! besides git's own.
//!
//! Owns finding its main branch and the answers that a server may give. Everything that moves anything is the local
//! forge's: the same look, the same plain push, the same look again. Refuses addresses that hold credentials and
//! transports that run commands. A server that is away when the supervisor starts is no wrong setting: it is asked again.

use std::sync::Arc;

use async_trait::async_trait;
use orch_domain::ids::CommitSha;
use orch_domain::names::{BranchName, RepoName};
use tokio::sync::OnceCell;

use super::advance::{advance_by_push, forge_error};
use super::local::ForgeSetupError;
use crate::git::{GitError, GitRooms, Owner, ProtectedBranches, RepoGit};
use crate::ports::{Advance, Forge, ForgeError, LandingNote, Remote};

/// A git repository by its address. Cheap to clone; clones share what was learned.
#[derive(Clone, Debug)]
pub struct RemoteForge {
    configured: Option<BranchName>,
    seen: Arc<OnceCell<Seen>>,
    git: RepoGit,
}

/// What the server said about its branches.
#[derive(Clone, Debug)]
struct Seen {
    main: BranchName,
    default: Option<BranchName>,
}

impl RemoteForge {
    /// Opens our own repositories for `remote`, and asks it for its main branch unless it is away. `main` is the branch
    /// that tasks land on; by default the one that its `HEAD` names.
    ///
    /// # Errors
    /// See [`ForgeSetupError`].
    pub async fn open(
        remote: Remote,
        main: Option<BranchName>,
        rooms: &GitRooms,
        name: &RepoName,
    ) -> Result<Self, ForgeSetupError> {
        check_url(&remote.url).map_err(GitError::Invalid)?;
        let git = rooms.open(name, remote).await?;
        let forge = Self { configured: main, seen: Arc::default(), git };
        match forge.seen().await {
            Ok(_) => {}
            Err(ForgeSetupError::Git(error)) if error.is_transient() => {
                tracing::warn!(repo = %name, %error, "repository {name} cannot be asked yet; it is asked again when needed");
            }
            Err(error) => return Err(error),
        }
        Ok(forge)
    }

    /// Our own repositories for it.
    #[must_use]
    pub fn git(&self) -> &RepoGit {
        &self.git
    }

    /// What the server said, once it has answered.
    async fn seen(&self) -> Result<&Seen, ForgeSetupError> {
        self.seen.get_or_try_init(|| self.ask()).await
    }

    async fn ask(&self) -> Result<Seen, ForgeSetupError> {
        let url = || self.git.remote().url.clone();
        let shown = self.git.remote_default().await?;
        if let Some(format) = shown.foreign_ids {
            return Err(ForgeSetupError::Format { path: url().into(), format: format.to_owned() });
        }
        let wanted = self.configured.clone().or_else(|| shown.default.clone());
        let Some(main) = wanted else {
            return Err(match self.git.remote_branches().await?.is_empty() {
                true => ForgeSetupError::NoCommits { path: url().into() },
                false => ForgeSetupError::NoDefault { url: url() },
            });
        };
        if self.git.remote_head(&main).await?.is_some() {
            return Ok(Seen { main, default: shown.default });
        }
        let have = self.git.remote_branches().await?;
        if have.is_empty() {
            return Err(ForgeSetupError::NoCommits { path: url().into() });
        }
        let mut named: Vec<&str> = have.iter().map(BranchName::as_str).take(8).collect();
        named.extend((have.len() > 8).then_some("..."));
        Err(ForgeSetupError::NoMain { path: url().into(), wanted: main.to_string(), have: named.join(", ") })
    }
}

/// An answer that cannot be had now, or never, as the port says it.
fn unanswered(error: ForgeSetupError) -> ForgeError {
    match error {
        ForgeSetupError::Git(error) => forge_error(error),
        other => ForgeError::Refused(other.to_string()),
    }
}

#[async_trait]
impl Forge for RemoteForge {
    fn remote(&self) -> Remote {
        self.git.remote().clone()
    }

    async fn main_branch(&self) -> Result<BranchName, ForgeError> {
        match &self.configured {
            Some(main) => Ok(main.clone()),
            None => self.seen().await.map(|seen| seen.main.clone()).map_err(unanswered),
        }
    }

    async fn protected(&self) -> Result<ProtectedBranches, ForgeError> {
        let seen = self.seen().await.map_err(unanswered)?;
        Ok(ProtectedBranches::new(seen.main.clone(), seen.default.clone()))
    }

    async fn head(&self, branch: &BranchName) -> Result<Option<CommitSha>, ForgeError> {
        self.git.remote_head(branch).await.map_err(forge_error)
    }

    async fn advance_main(&self, owner: &Owner, main: &BranchName, expected: &CommitSha, to: &CommitSha) -> Advance {
        advance_by_push(&self.git, owner, main, expected, to).await
    }

    async fn landing_note(&self, _: &CommitSha, _: &CommitSha) -> Option<LandingNote> {
        // Nobody has its main checked out where we could see it.
        None
    }
}

/// Whether an address is one that git may be pointed at: a known transport, a host or path, no credentials.
///
/// # Errors
/// What is wrong, and what to write. The address is never repeated: it may hold a secret.
pub fn check_url(url: &str) -> Result<(), String> {
    if url.starts_with('-') {
        return Err("a leading `-` would be read as an option".to_owned());
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        // The short form of ssh, `git@host:path`; `ext::` and other helper transports run commands and stay out.
        return match url.split_once(':') {
            Some((host, path))
                if !host.is_empty() && !path.is_empty() && !path.starts_with(':') && !host.contains('/') =>
            {
                plain(url)
            }
            _ => Err("write https://..., ssh://..., git://..., file:///... or user@host:path; for a folder use `path`"
                .to_owned()),
        };
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = host.rsplit_once('@').map(|(user, _)| user);
    match scheme {
        "file" if rest.starts_with('/') => plain(url),
        "file" => Err("a file:// address names a folder from the root: file:///srv/git/x.git".to_owned()),
        "https" | "http" | "git" | "ssh" if host.is_empty() => Err("the URL names no host".to_owned()),
        // A user name alone tells ssh as whom to come; everywhere else it is half a secret.
        "ssh" if user.is_none_or(|user| !user.contains(':')) => plain(url),
        "https" | "http" | "git" if user.is_none() => plain(url),
        "https" | "http" | "git" | "ssh" => {
            Err("a URL may not hold credentials: use a credential helper or an environment variable".to_owned())
        }
        _ => Err("write https://..., ssh://..., git://..., file:///... or user@host:path".to_owned()),
    }
}

fn plain(url: &str) -> Result<(), String> {
    match url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        true => Err("it holds blanks or control characters: write them as %20 and the like".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check_url;

    #[test]
    fn an_address_has_a_known_transport_and_no_secret() {
        for good in [
            "https://host/x.git",
            "http://127.0.0.1:8080/x.git",
            "git://host/x",
            "ssh://git@host/x",
            "git@host:x/y.git",
            "file:///srv/git/x.git",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        let secret = ["se", "same"].concat();
        for bad in [
            format!("https://me:{secret}@host/x"),
            format!("https://{secret}@host/x"),
            format!("git://{secret}@host/x"),
            format!("ssh://me:{secret}@host/x"),
            "file://host/x".to_owned(),
            "https:///x".to_owned(),
            "ext::sh -c x".to_owned(),
            "ext::sh".to_owned(),
            "fd://3".to_owned(),
            "--upload-pack=x".to_owned(),
            "https://host/a b".to_owned(),
            "x".to_owned(),
            String::new(),
        ] {
            let said = check_url(&bad).expect_err(&bad);
            assert!(!said.contains(&secret), "{said}");
        }
    }
}
