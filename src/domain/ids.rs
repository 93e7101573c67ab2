//! Identities: newtypes for everything that is counted, minted or fenced.
//!
//! Owns the textual forms (they are stored, put in paths and shown). Refuses to mint: ids are made at the edge, where
//! there is a clock and randomness, and handed in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {kind}: expected {expected}")]
pub struct IdError {
    kind: &'static str,
    value: String,
    expected: &'static str,
}

/// A text of lower-case letters and digits, 4 to 40 long: safe in paths, refs, SQL and URLs as it is. Task ids keep to
/// 28, since run ids are made from them.
fn check_token(kind: &'static str, value: &str) -> Result<(), IdError> {
    let most = if kind == "task id" { 28 } else { 40 };
    let ok = (4..=most).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if ok {
        return Ok(());
    }
    Err(IdError { kind, value: value.chars().take(60).collect(), expected: "4 to 40 lower-case letters and digits" })
}

macro_rules! token_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(value: &str) -> Result<Self, IdError> {
                check_token($kind, value)?;
                Ok(Self(value.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(value: String) -> Result<Self, IdError> {
                check_token($kind, &value)?;
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

token_id!(
    /// One life of a task; unique over all generations and repositories.
    TaskId, "task id"
);
token_id!(
    /// One attempt at one stage.
    RunId, "run id"
);
token_id!(
    /// One child process of a run or gate.
    JobId, "job id"
);
token_id!(
    /// One irreversible step with a durable row.
    WindowId, "window id"
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next value.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

counter!(
    /// Version of a task row; every committed change raises it by one.
    Version
);
counter!(
    /// Fencing token: rises each time ownership (of a task, of a lease) is taken; stale owners are refused by it.
    Epoch
);
counter!(
    /// Which life of a task this is, starting at 1: part of branch, workspace and PR.
    Generation
);
counter!(
    /// Position in the journal over all tasks; the id of server-sent events.
    Seq
);

/// A full git object id: 40 (SHA-1) or 64 (SHA-256) lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitSha(String);

impl CommitSha {
    /// The id as hex text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first ten digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

/// The beginning of a commit id, as people write it: 7 to 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitPrefix(String);

impl CommitPrefix {
    /// Whether it may mean this commit.
    #[must_use]
    pub fn means(&self, commit: &CommitSha) -> bool {
        commit.0.starts_with(&self.0)
    }
}

impl FromStr for CommitPrefix {
    type Err = IdError;

    fn from_str(value: &str) -> Result<Self, IdError> {
        Self::try_from(value.to_owned())
    }
}

impl TryFrom<String> for CommitPrefix {
    type Error = IdError;

    fn try_from(value: String) -> Result<Self, IdError> {
        let hex = value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match hex && (7..=64).contains(&value.len()) {
            true => Ok(Self(value)),
            false => Err(IdError {
                kind: "commit id, or the beginning of one",
                value: value.chars().take(70).collect(),
                expected: "7 to 64 lower-case hex digits",
            }),
        }
    }
}

impl From<CommitPrefix> for String {
    fn from(prefix: CommitPrefix) -> Self {
        prefix.0
    }
}

impl From<CommitSha> for CommitPrefix {
    fn from(commit: CommitSha) -> Self {
        Self(commit.0)
    }
}

impl fmt::Display for CommitPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CommitSha {
    type Err = IdError;

    fn from_str(value: &str) -> Result<Self, IdError> {
        Self::try_from(value.to_owned())
    }
}

impl TryFrom<String> for CommitSha {
    type Error = IdError;

    fn try_from(value: String) -> Result<Self, IdError> {
        let hex = value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex && (value.len() == 40 || value.len() == 64) {
            return Ok(Self(value));
        }
        Err(IdError {
            kind: "commit id",
            value: value.chars().take(70).collect(),
            expected: "40 or 64 lower-case hex digits",
        })
    }
}

impl From<CommitSha> for String {
    fn from(value: CommitSha) -> Self {
        value.0
    }
}

impl fmt::Display for CommitSha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_in_paths_refs_and_urls() {
        assert!("t0a1b2".parse::<TaskId>().is_ok());
        for bad in ["", "abc", "../etc", "-rf1", "UPPER", "a b c d", "a\0bcd", &"x".repeat(41)] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn commit_ids_are_full_hex_only() {
        assert!("a".repeat(40).parse::<CommitSha>().is_ok());
        assert!("0".repeat(64).parse::<CommitSha>().is_ok());
        for bad in ["HEAD", "abc", &"A".repeat(40), &"g".repeat(40)] {
            assert!(bad.parse::<CommitSha>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_bad_id_is_refused_while_parsing_json() {
        let err = serde_json::from_str::<RunId>("\"../../x\"").expect_err("must be refused");
        assert!(err.to_string().contains("`../../x` is not a run id"), "{err}");
    }
}
