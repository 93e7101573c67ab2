//! Secrets in what a branch brings: what to look at, by which rules, with which engine.
//!
//! Owns the port [`SecretScanner`] and its two engines, the rules that both follow, and the collection of new objects from
//! our own repository. Gives facts: what was found, what could not be looked at, what was refused; never a verdict.
//! Invariants: texts come from objects, never from a folder that an agent can write; silence counts only when the same scan
//! found a token that was planted for it; a secret's value never leaves this room except as a keyed hash and a hint.

mod builtin;
mod canary;
mod collect;
mod decode;
mod engine;
mod entropy;
mod expand;
mod gitleaks;
mod inspect;
mod rules;
mod text;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use orch_domain::ids::CommitSha;

pub use builtin::Builtin;
pub use canary::prove;
pub use collect::{CollectLimits, CollectSpec, Collected, GitMaterial};
pub use engine::{EngineKind, EngineSpec, choose, describe};
pub use expand::ExpandLimits;
pub(crate) use gitleaks::locate;
pub use gitleaks::{Gitleaks, GitleaksProgram, find_gitleaks};
pub use inspect::{Finding, HashKey, InspectError, Inspected, RULES_FILE, RulesFrom, Secrets, inspect, rules_for};
pub use rules::{RuleError, Ruleset};

/// A secret's value. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Keeps a value.
    #[must_use]
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into())
    }

    /// The value, for hashing and for taking it out of texts.
    pub(crate) fn value(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// What a text is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    /// A file, by its path in the repository.
    File(Vec<u8>),
    /// A commit's own text: its headers and its message.
    Commit,
    /// The names of the files that a commit brings.
    FileNames,
}

/// Where a text stands. One text may stand in several places.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The commit that brings it, if it came with one.
    pub commit: Option<CommitSha>,
    /// What it is there.
    pub spot: Spot,
}

impl Place {
    /// A file of a commit.
    #[must_use]
    pub fn file(commit: Option<CommitSha>, path: impl Into<Vec<u8>>) -> Self {
        Self { commit, spot: Spot::File(path.into()) }
    }

    pub(crate) fn path(&self) -> Option<&[u8]> {
        match &self.spot {
            Spot::File(path) => Some(path),
            Spot::Commit | Spot::FileNames => None,
        }
    }

    /// The same place, one step into an archive.
    pub(crate) fn inside(&self, member: &[u8]) -> Self {
        match &self.spot {
            Spot::File(path) if !member.is_empty() => {
                Self { commit: self.commit.clone(), spot: Spot::File([path, b"!".as_slice(), member].concat()) }
            }
            _ => self.clone(),
        }
    }
}

/// A place for people, on one line. May hold a secret that stands in a name: see [`Secret`].
pub(crate) fn shown(place: &Place) -> String {
    let clean = |bytes: &[u8]| -> String {
        String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    };
    match (&place.spot, &place.commit) {
        (Spot::File(path), _) => format!("`{}`", clean(path)),
        (Spot::Commit, Some(commit)) => format!("the text of commit {}", commit.short()),
        (Spot::Commit, None) => "the text of a commit".to_owned(),
        (Spot::FileNames, Some(commit)) => format!("the file names of commit {}", commit.short()),
        (Spot::FileNames, None) => "file names".to_owned(),
    }
}

/// One text to be looked at.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where it stands; never empty.
    pub places: Vec<Place>,
    /// How long it is.
    pub bytes: u64,
}

/// What to look at. Texts are read one at a time, by several readers.
pub trait Material: Send + Sync + 'static {
    /// All texts.
    fn items(&self) -> &[Item];
    /// A reader of one's own.
    ///
    /// # Errors
    /// When what holds the texts cannot be opened.
    fn reader(&self) -> Result<Box<dyn ItemReader + '_>, ScanError>;
}

/// Reads texts.
pub trait ItemReader {
    /// One text, whole.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&mut self, at: usize) -> Result<Vec<u8>, ScanError>;
}

/// Something that a rule found.
#[derive(Clone, Debug)]
pub struct Found {
    /// In which text.
    pub item: usize,
    /// In which places of that text, by the rules.
    pub places: Vec<Place>,
    /// By which rule.
    pub rule: String,
    /// What the rule is about.
    pub description: String,
    /// On which line, from 1; 0 when the finding is the file as such.
    pub line: u64,
    /// What.
    pub secret: Secret,
    /// How it was wrapped, for people: `base64`, `UTF-16`; empty when it stood there plainly.
    pub wrapped: String,
}

/// What one scan saw.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Findings, sorted by text and line.
    pub found: Vec<Found>,
    /// What could not be looked into, though nothing forbids it: one line each.
    pub unopened: Vec<String>,
    /// What must not be passed over: one line each.
    pub refused: Vec<String>,
    /// Loud remarks of the engine.
    pub notes: Vec<String>,
}

/// Why a scan has no answer. Whoever asks takes every one of them as "could not run".
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The rules cannot be used.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// The tool did not do its work.
    #[error("the scanner {tool} gave no answer that counts: {why}")]
    Tool {
        /// Which.
        tool: String,
        /// What it did.
        why: String,
    },
    /// A text could not be read.
    #[error("{what} cannot be read: {why}")]
    Read {
        /// Which.
        what: String,
        /// What the system said.
        why: String,
    },
    /// It took too long.
    #[error("the scan did not end within its time; raise `gates.security.timeout` (ORCH_SECURITY_TIMEOUT)")]
    TimedOut,
    /// Nobody wants the answer any more.
    #[error("the scan was ended: {0}")]
    Cancelled(String),
    /// The engine did not find what was planted for it: its silence means nothing.
    #[error("{tool} did not find the token that was planted in the same scan ({which}), so its silence means nothing")]
    Deaf {
        /// Which engine.
        tool: String,
        /// Which of the planted tokens.
        which: String,
    },
}

/// Bounds of one scan.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// When it has to be over.
    pub deadline: Instant,
    /// Raised when nobody wants the answer any more.
    pub cancelled: Arc<AtomicBool>,
    /// How many threads may work at a time.
    pub threads: usize,
    /// How far archives are opened.
    pub expand: ExpandLimits,
}

impl Bounds {
    /// Whether to go on.
    pub(crate) fn check(&self) -> Result<(), ScanError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ScanError::Cancelled("it is not wanted any more".to_owned()));
        }
        if Instant::now() >= self.deadline {
            return Err(ScanError::TimedOut);
        }
        Ok(())
    }
}

/// A scanner for secrets.
#[async_trait]
pub trait SecretScanner: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// What it says its version is, with the checksum of what is run.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn version(&self) -> Result<String, ScanError>;
    /// Looks at all texts by the rules. Everything that is found is in the answer; a scan that did not see everything is
    /// an error.
    ///
    /// # Errors
    /// [`ScanError`]: nothing is known then.
    async fn scan(
        &self,
        rules: &Arc<Ruleset>,
        material: &Arc<dyn Material>,
        bounds: &Bounds,
    ) -> Result<Scan, ScanError>;
}
