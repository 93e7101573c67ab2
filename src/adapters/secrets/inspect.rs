//! The secrets part of the security gate, from a range of commits to what is to be told about it.
//!
//! Owns the order: rules at base, collection, scan with planted tokens, and taking away what base held. Invariants: a
//! finding leaves this room with a keyed hash and a hint, and every text about it is free of every secret that was
//! found, file names included; what base holds under the same rule is nobody's fault.

use std::collections::BTreeSet;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoPath;
use sha2::Sha256;

use super::{
    Bounds, CollectSpec, Collected, Found, Material, Place, RuleError, Ruleset, Scan, ScanError, Secret, SecretScanner,
    Spot, prove, shown,
};
use crate::git::{FileAt, GitError, RepoGit};

/// The rules file of a repository.
pub const RULES_FILE: &str = ".gitleaks.toml";
/// Most bytes of it.
const MAX_RULES: u64 = 1 << 20;

/// Why nothing is known about a range of commits.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Our repository could not be read.
    #[error("what the branch brings could not be collected: {0}")]
    Git(#[from] GitError),
    /// The scan has no answer.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The rules file at base cannot be used: a person has to mend it there, or to name other rules.
    #[error("`{RULES_FILE}` at {at}: {why}; mend it on the main branch, or name other rules in `gates.security.rules`")]
    RulesAtBase {
        /// At which commit.
        at: String,
        /// What is wrong.
        why: String,
    },
    /// The operator's rules file cannot be used.
    #[error("the rules file {path} (`gates.security.rules`): {why}")]
    OwnRules {
        /// Which file.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// Key of the hashes under which secrets are spoken of: equal secrets have equal hashes, and only with the key can a guess
/// be tried.
#[derive(Clone)]
pub struct HashKey(Arc<[u8]>);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey")
    }
}

impl HashKey {
    /// From random bytes that stay the same for an installation.
    #[must_use]
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    fn hash(&self, secret: &Secret) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(secret.value());
        hex::encode(&mac.finalize().into_bytes()[..8])
    }
}

/// A finding, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// By which rule.
    pub rule: String,
    /// What the rule is about.
    pub description: String,
    /// Where it stands, for people: a path with its line, or what of a commit.
    pub place: String,
    /// On which line, from 1; 0: the file as such.
    pub line: u64,
    /// The commits of the branch that bring it.
    pub commits: Vec<CommitSha>,
    /// Whether it still stands at the head.
    pub at_head: bool,
    /// How it was wrapped; empty when it stood there plainly.
    pub wrapped: String,
    /// Keyed hash of the secret.
    pub hash: String,
    /// Its first signs and its length.
    pub hint: String,
}

/// What is known about a range of commits.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    /// Secrets that base does not hold.
    pub findings: Vec<Finding>,
    /// What must not be passed over.
    pub refused: Vec<String>,
    /// What could not be looked into.
    pub unopened: Vec<String>,
    /// Remarks of engine and rules.
    pub notes: Vec<String>,
    /// How many findings were left out since base holds the same.
    pub held_by_base: usize,
    /// The engine.
    pub engine: String,
    /// Its version and checksum.
    pub version: String,
    /// Hash of the rules file.
    pub rules_hash: String,
    /// Where the rules came from, for people.
    pub rules_from: String,
    /// Which rule files the branch changes, without effect.
    pub rules_changed: Vec<String>,
    /// Commits looked at.
    pub commits: usize,
    /// Versions of files looked at.
    pub blobs: usize,
    /// Bytes looked at.
    pub bytes: u64,
    /// What was found, to be kept out of texts that others make about the same files.
    pub hidden: Secrets,
}

/// Where rules come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulesFrom {
    /// From the repository, at this commit.
    Commit(CommitSha),
    /// From the operator's file.
    File(std::path::PathBuf),
}

/// Reads the rules for a scan: the file's bytes, and where they are from.
///
/// # Errors
/// [`InspectError`]; without rules nothing is scanned.
pub async fn rules_for(repo: &RepoGit, from: &RulesFrom) -> Result<(Arc<Ruleset>, String), InspectError> {
    match from {
        RulesFrom::Commit(at) => {
            let wrong = |why: String| InspectError::RulesAtBase { at: at.short().to_owned(), why };
            let path: RepoPath = RULES_FILE.to_owned().try_into().expect("a plain relative path");
            let (bytes, told) = match repo.read_file_at(at, &path, MAX_RULES).await? {
                FileAt::Bytes(bytes) => (Some(bytes), format!("`{RULES_FILE}` at {}", at.short())),
                FileAt::Missing => (None, format!("the default rules (no `{RULES_FILE}` at {})", at.short())),
                FileAt::NotAFile => return Err(wrong("it is a link or a folder, which is not followed".to_owned())),
                FileAt::TooLarge { bytes } => {
                    return Err(wrong(format!("it has {bytes} bytes, more than {MAX_RULES}")));
                }
            };
            let rules = Ruleset::read(bytes.as_deref()).map_err(|error: RuleError| wrong(error.to_string()))?;
            Ok((Arc::new(rules), told))
        }
        RulesFrom::File(path) => {
            let wrong = |why: String| InspectError::OwnRules { path: path.display().to_string(), why };
            let file = path.clone();
            let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
            let bytes = read.map_err(|error| wrong(error.to_string()))?.map_err(|error| wrong(error.to_string()))?;
            let rules = Ruleset::read(Some(&bytes)).map_err(|error| wrong(error.to_string()))?;
            Ok((Arc::new(rules), format!("`{}`", path.display())))
        }
    }
}

/// Looks at everything that a branch brings.
///
/// # Errors
/// [`InspectError`]: nothing is known then.
pub async fn inspect(
    repo: &RepoGit,
    spec: &CollectSpec,
    (rules, rules_from): (Arc<Ruleset>, String),
    (scanner, version): (&dyn SecretScanner, String),
    bounds: &Bounds,
    key: &HashKey,
) -> Result<Inspected, InspectError> {
    let collected = repo.collect(spec).await?;
    let Collected { new, old, refused, elsewhere, rules_changed, commits, blobs, bytes } = collected;
    let (new, old) = (Arc::new(new), Arc::new(old));
    let mut scan = prove(scanner, &rules, new.clone(), bounds).await?;
    let all = scan.found.len();
    if all > 0 && !old.items().is_empty() {
        let held = known(&prove(scanner, &rules, old, bounds).await?);
        scan.found.retain(|found| !held.contains(&(found.rule.clone(), found.secret.clone())));
    }
    let held_by_base = all - scan.found.len();
    let head = spec.head.clone();
    let (items, material) = (scan.found.clone(), new.clone());
    let there = tokio::task::spawn_blocking(move || material.still_there(&head, &items)).await;
    let there =
        there.unwrap_or_else(|error| Err(GitError::Read { what: "the head".to_owned(), why: error.to_string() }))?;
    let secrets = Secrets::of(&scan);
    let clean = |lines: Vec<String>| lines.iter().map(|line| secrets.taken_out(line)).collect();
    let findings = scan.found.iter().zip(there).map(|(found, at_head)| secrets.finding(found, at_head, key)).collect();
    Ok(Inspected {
        findings,
        refused: clean([refused, scan.refused.clone()].concat()),
        unopened: clean([elsewhere, scan.unopened.clone()].concat()),
        notes: clean(scan.notes.clone()),
        held_by_base,
        engine: scanner.name().to_owned(),
        version,
        rules_hash: rules.hash().to_owned(),
        rules_from,
        rules_changed,
        commits,
        blobs,
        bytes,
        hidden: secrets,
    })
}

fn known(scan: &Scan) -> BTreeSet<(String, Secret)> {
    scan.found.iter().map(|found| (found.rule.clone(), found.secret.clone())).collect()
}

/// All secrets of a scan, to be kept out of what is told.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    fn of(scan: &Scan) -> Self {
        let mut all: BTreeSet<String> = BTreeSet::new();
        for found in scan.found.iter().filter(|found| found.line > 0) {
            let text = String::from_utf8_lossy(found.secret.value()).into_owned();
            // Shorter ones would take words apart; they are only ever shown as a part of what holds them.
            if text.chars().count() >= 6 {
                all.insert(text);
            }
        }
        let mut all: Vec<String> = all.into_iter().collect();
        // The longest first: one may hold another.
        all.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self(all)
    }

    /// A text without any of them.
    #[must_use]
    pub fn taken_out(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "(secret)"))
    }

    fn finding(&self, found: &Found, at_head: bool, key: &HashKey) -> Finding {
        let mut commits: Vec<CommitSha> = Vec::new();
        for commit in found.places.iter().filter_map(|place| place.commit.clone()) {
            if !commits.contains(&commit) {
                commits.push(commit);
            }
        }
        Finding {
            rule: found.rule.clone(),
            description: self.taken_out(&found.description),
            place: found.places.first().map(|place| self.taken_out(&place_of(place, found.line))).unwrap_or_default(),
            line: found.line,
            commits,
            at_head,
            wrapped: found.wrapped.clone(),
            hash: key.hash(&found.secret),
            hint: if found.line == 0 { String::new() } else { hint(&found.secret) },
        }
    }
}

fn place_of(place: &Place, line: u64) -> String {
    match (&place.spot, line) {
        (Spot::File(_), 0) => shown(place),
        (Spot::FileNames, _) => format!("{}, name {line}", shown(place)),
        (Spot::File(_) | Spot::Commit, _) => format!("{}, line {line}", shown(place)),
    }
}

/// The first signs of a secret that is long enough for them to give nothing away, and its length.
fn hint(secret: &Secret) -> String {
    let text = String::from_utf8_lossy(secret.value());
    let length = text.chars().count();
    let first: String = text.chars().take(3).filter(char::is_ascii_graphic).collect();
    match length {
        20.. => format!("`{}...`, {length} characters", first.replace('`', "'")),
        _ => format!("{length} characters"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_gives_nothing_away() {
        assert_eq!(hint(&Secret::new(*b"abcdefghijklmnopqrstuvwxyz")), "`abc...`, 26 characters");
        assert_eq!(hint(&Secret::new(*b"hunter2hunter2")), "14 characters");
    }

    #[test]
    fn hashes_are_equal_for_equal_secrets_and_keys_only() {
        let (one, other) = (HashKey::new(*b"one"), HashKey::new(*b"other"));
        let secret = Secret::new(*b"a secret");
        assert_eq!(one.hash(&secret), one.hash(&secret));
        assert_ne!(one.hash(&secret), other.hash(&secret));
        assert_ne!(one.hash(&secret), one.hash(&Secret::new(*b"b secret")));
        assert_eq!(format!("{one:?} {secret:?}"), "HashKey Secret(8 bytes)");
    }

    #[test]
    fn secrets_are_taken_out_of_names_too() {
        let found = |value: &str| Found {
            item: 0,
            places: vec![Place::file(None, format!("keys/{value}.txt"))],
            rule: "x".to_owned(),
            description: String::new(),
            line: 1,
            secret: Secret::new(value.as_bytes()),
            wrapped: String::new(),
        };
        let scan = Scan { found: vec![found("0123456789"), found("0123456789abcdef")], ..Scan::default() };
        let secrets = Secrets::of(&scan);
        let shown = secrets.finding(&scan.found[1], true, &HashKey::new(*b"k"));
        assert_eq!(shown.place, "`keys/(secret).txt`, line 1");
        assert_eq!(secrets.taken_out("an 0123456789 in a note"), "an (secret) in a note");
    }
}
