//! Names that come from people, trackers and branches: validated once, safe everywhere after.
//!
//! Owns the rules for task keys, repository names, branch names and repository-relative paths. Refuses whatever could
//! escape a folder, be read as an option, or be mangled by git or a terminal. Two different keys never share a workspace:
//! [`TaskKey::slug`] appends a digest whenever sanitising changed anything.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::Generation;

/// Prefix of every branch we create, push or delete.
pub const BRANCH_PREFIX: &str = "orch/";

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{value}` is refused: {why}")]
pub struct NameError {
    kind: &'static str,
    value: String,
    why: &'static str,
}

fn refuse(kind: &'static str, value: &str, why: &'static str) -> NameError {
    NameError { kind, value: value.escape_debug().take(80).collect(), why }
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(value: &str) -> Result<Self, NameError> {
                $check(value)?;
                Ok(Self(value.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(value: String) -> Result<Self, NameError> {
                $check(&value)?;
                Ok(Self(value))
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_name!(
    /// The human key of a task (`ORC-12`): what people type and trackers show. At most 100 characters, no control
    /// characters, no `/`, no leading `-` or `.`, no `~` (it marks tombstones).
    TaskKey, check_key
);
text_name!(
    /// Our name of a repository: letters, digits, `.`, `_`, `-`; at most 60 characters; a folder name by itself.
    RepoName, check_repo
);
text_name!(
    /// A branch name (without `refs/heads/`) that git accepts and no command can read as an option.
    /// Rules: git-check-ref-format(1).
    BranchName, check_branch
);
text_name!(
    /// A path inside a repository: relative, `/`-separated, no `.` or `..` parts, never inside `.git`.
    RepoPath, check_path
);
text_name!(
    /// Name of a stage: lower-case letters, digits and `-`; starts with a letter; at most 40 characters.
    StageName, check_stage
);

impl RepoPath {
    /// Whether another path is this one or lies below it.
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn check_common(kind: &'static str, value: &str, max: usize) -> Result<(), NameError> {
    if value.is_empty() {
        return Err(refuse(kind, value, "it is empty"));
    }
    if value.len() > max {
        return Err(refuse(kind, value, "it is too long"));
    }
    if value.chars().any(char::is_control) {
        return Err(refuse(kind, value, "it holds a control character"));
    }
    if value.starts_with('-') {
        return Err(refuse(kind, value, "a leading `-` would be read as an option"));
    }
    if value.trim() != value {
        return Err(refuse(kind, value, "it starts or ends with white space"));
    }
    Ok(())
}

fn check_key(value: &str) -> Result<(), NameError> {
    let kind = "task key";
    check_common(kind, value, 100)?;
    if value.starts_with('.') || value.contains("..") {
        return Err(refuse(kind, value, "it could name a parent folder or a hidden file"));
    }
    if value.contains(['/', '\\', '~']) {
        return Err(refuse(kind, value, "`/`, `\\` and `~` are not allowed in keys"));
    }
    Ok(())
}

fn check_repo(value: &str) -> Result<(), NameError> {
    let kind = "repository name";
    check_common(kind, value, 60)?;
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(refuse(kind, value, "only letters, digits, `.`, `_` and `-` are allowed"));
    }
    if value.starts_with('.') {
        return Err(refuse(kind, value, "a leading `.` would name a hidden or parent folder"));
    }
    Ok(())
}

fn check_branch(value: &str) -> Result<(), NameError> {
    let kind = "branch name";
    check_common(kind, value, 200)?;
    if value.contains("..") || value.contains("@{") || value.contains("//") {
        return Err(refuse(kind, value, "`..`, `@{` and `//` have a meaning of their own in git"));
    }
    if value.contains([' ', '~', '^', ':', '?', '*', '[', '\\']) {
        return Err(refuse(kind, value, "git allows none of: space ~ ^ : ? * [ \\"));
    }
    if value.starts_with('/') || value.ends_with('/') || value.ends_with('.') || value == "@" || value == "HEAD" {
        return Err(refuse(kind, value, "git reserves it"));
    }
    let bad_part = |part: &str| part.starts_with('.') || part.starts_with('-') || part.ends_with(".lock");
    if value.split('/').any(bad_part) {
        return Err(refuse(kind, value, "a part may not start with `.` or `-` nor end with `.lock`"));
    }
    Ok(())
}

fn check_path(value: &str) -> Result<(), NameError> {
    let kind = "path";
    check_common(kind, value, 1_000)?;
    if value.starts_with('/') || value.contains('\\') {
        return Err(refuse(kind, value, "it must be relative to the repository, with `/` between parts"));
    }
    for part in value.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return Err(refuse(kind, value, "empty, `.` and `..` parts could escape the repository"));
        }
        if part.eq_ignore_ascii_case(".git") || part.to_ascii_lowercase().starts_with("git~") {
            return Err(refuse(kind, value, "it reaches into the repository's own `.git`"));
        }
        if part.starts_with('-') {
            return Err(refuse(kind, value, "a part with a leading `-` would be read as an option"));
        }
    }
    Ok(())
}

fn check_stage(value: &str) -> Result<(), NameError> {
    let kind = "stage name";
    check_common(kind, value, 40)?;
    let chars = value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !chars || !value.as_bytes()[0].is_ascii_lowercase() {
        return Err(refuse(kind, value, "use lower-case letters, digits and `-`, starting with a letter"));
    }
    Ok(())
}

/// Whether a text ends like those that a digest was appended to.
fn ends_like_a_digest(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.rsplit_once('-').is_some_and(|(_, tail)| tail.len() == 8 && tail.bytes().all(hex))
}

impl TaskKey {
    /// The key as part of a branch or folder name: lower case, other characters folded to `-`. Unless the key is the
    /// plain upper-case form (`ORC-12`) and does not itself end like a digest, eight hex digits of its SHA-256 follow, so
    /// keys that fold alike still differ.
    #[must_use]
    pub fn slug(&self) -> String {
        let mut out = String::with_capacity(self.0.len() + 9);
        for c in self.0.chars() {
            let keep = c.is_ascii_alphanumeric();
            match keep {
                true => out.push(c.to_ascii_lowercase()),
                false if !out.ends_with('-') && !out.is_empty() => out.push('-'),
                false => {}
            }
        }
        out.truncate(60);
        let out = out.trim_matches('-').to_owned();
        if !out.is_empty() && out.to_ascii_uppercase() == self.0 && !ends_like_a_digest(&out) {
            return out;
        }
        let digest = hex::encode(&Sha256::digest(self.0.as_bytes())[..4]);
        if out.is_empty() { format!("task-{digest}") } else { format!("{out}-{digest}") }
    }

    /// The branch of one life of this task: `orch/<key>/<generation>`.
    #[must_use]
    pub fn branch(&self, generation: Generation) -> BranchName {
        BranchName(format!("{BRANCH_PREFIX}{}/{generation}", self.slug()))
    }
}

impl BranchName {
    /// The full ref name.
    #[must_use]
    pub fn as_ref_name(&self) -> String {
        format!("refs/heads/{}", self.0)
    }

    /// Whether this is a branch of our own naming; no other is ever force-pushed or deleted.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.0.starts_with(BRANCH_PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_try_to_escape_are_refused_with_the_reason() {
        let long = "k".repeat(300);
        let evil = ["../x", "-x", "a\0b", "a\nb", "", " a", "..", ".hidden", "a/../b", &long, "\u{1b}[31m"];
        for name in evil {
            assert!(name.parse::<TaskKey>().is_err(), "key {name:?}");
            assert!(name.parse::<RepoName>().is_err(), "repo {name:?}");
            assert!(name.parse::<BranchName>().is_err(), "branch {name:?}");
            assert!(name.parse::<StageName>().is_err(), "stage {name:?}");
        }
        for path in
            ["../x", "-x", "a/../../b", "/etc/passwd", ".git/config", "a/.GIT/hooks/x", "a//b", "x\0", "GIT~1/x"]
        {
            assert!(path.parse::<RepoPath>().is_err(), "path {path:?}");
        }
        let err = "../x".parse::<BranchName>().expect_err("refused").to_string();
        assert!(err.contains("branch name `../x` is refused"), "{err}");
    }

    #[test]
    fn git_reserved_branch_names_are_refused() {
        for name in ["HEAD", "@", "a..b", "a.lock", "a/.b", "a~1", "a^", "a:b", "x@{1}", "a/", "a?", "a[b", "x/-y"] {
            assert!(name.parse::<BranchName>().is_err(), "{name:?}");
        }
        assert!("feature/ORC-1_x".parse::<BranchName>().is_ok());
    }

    #[test]
    fn keys_that_sanitise_alike_get_different_slugs() {
        let slug = |key: &str| key.parse::<TaskKey>().expect("valid").slug();
        assert_eq!(slug("ORC-12"), "orc-12");
        let folded = ["ORC_12", "ORC 12", "Orc-12", "ORC:12", "orc.12", "orc-12"].map(slug);
        for (i, a) in folded.iter().enumerate() {
            assert_ne!(a, "orc-12");
            assert!(folded.iter().skip(i + 1).all(|b| a != b), "{folded:?}");
        }
        assert!(slug("日本").starts_with("task-"));
    }

    #[test]
    fn the_branch_holds_key_and_generation() {
        let key: TaskKey = "ORC-7".parse().expect("valid");
        let branch = key.branch(Generation(2));
        assert_eq!(branch.as_str(), "orch/orc-7/2");
        assert!(branch.is_ours());
        assert!(branch.as_str().parse::<BranchName>().is_ok());
    }
}
