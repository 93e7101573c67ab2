//! The rules of a scan: `.gitleaks.toml` of the base commit, or our own when there is none.
//!
//! Owns reading, merging with the default rules, and what each engine is given: compiled rules for the one in this
//! process, a derived file for the binary. Invariants: both engines follow the same file; whatever depends on where a
//! text stands (paths, commits) is decided here and not by the binary, which is shown neutral names. Refuses what it
//! cannot keep, with the key or rule named: a rule that is not understood must not become one that finds nothing.

mod allow;
mod compile;
mod go_syntax;
mod merge;
pub(crate) mod schema;

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

pub(crate) use allow::{Allow, Seen};
pub(crate) use compile::{Compiled, CompiledRule};

use super::canary;

/// Our own rules for well-known formats of tokens: what `useDefault` means to the engine in this process.
const DEFAULTS: &str = include_str!("../defaults.toml");

/// Why rules cannot be used. The text says what is wrong and with which value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Longer than any rules file.
    #[error("the rules file has {bytes} bytes; at most {max} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It is not TOML of the expected shape, or says something that cannot be.
    #[error("the rules file is not valid TOML for rules: {0}")]
    Syntax(String),
    /// It leans on a file or address that nobody has checked.
    #[error(
        "the rules file extends another one (`{key} = \"{value}\"`), which is refused: write its rules into this file"
    )]
    ExtendsElsewhere {
        /// Which key.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// A pattern cannot be compiled.
    #[error("{of}: the pattern `{pattern}` cannot be used: {why}")]
    Pattern {
        /// Which rule or list.
        of: String,
        /// The pattern.
        pattern: String,
        /// What the engine says.
        why: String,
    },
    /// A rule cannot work as it stands.
    #[error("rule `{rule}`: {why}")]
    Rule {
        /// Which.
        rule: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The rules of one scan.
pub struct Ruleset {
    file: schema::File,
    hash: String,
    /// The file's own lists, for findings of the binary: whatever looks at paths or commits.
    own: OwnRules,
    compiled: OnceLock<Result<Arc<Compiled>, RuleError>>,
}

/// What the file itself says about places, compiled.
pub(crate) struct OwnRules {
    /// Global lists.
    pub(crate) lists: Vec<Allow>,
    /// Rules of the file, by name: `path` and lists.
    pub(crate) rules: Vec<(String, compile::PlaceRule)>,
}

impl std::fmt::Debug for Ruleset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ruleset").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Ruleset {
    /// Reads a rules file; `None`: there is none, the default rules hold.
    ///
    /// # Errors
    /// [`RuleError`]: nothing can be scanned by these rules.
    pub fn read(bytes: Option<&[u8]>) -> Result<Self, RuleError> {
        let file = match bytes {
            Some(bytes) => schema::read(bytes)?,
            None => {
                let extend = schema::Extend { use_default: true, ..schema::Extend::default() };
                schema::File { extend, ..schema::File::default() }
            }
        };
        if file.rules.iter().any(|rule| rule.id == canary::RULE) {
            let why = "this name is kept for the rule that proves the scanner; choose another id".to_owned();
            return Err(RuleError::Rule { rule: canary::RULE.to_owned(), why });
        }
        if file.rules.is_empty() && !file.extend.use_default {
            let why =
                "the file has no rules and does not extend the default ones, so nothing would be found".to_owned();
            return Err(RuleError::Syntax(why));
        }
        let own = OwnRules::compile(&file)?;
        Ok(Self { hash: hash_of(bytes), file, own, compiled: OnceLock::new() })
    }

    /// Hex SHA-256 of the rules file; of our own rules when there is none.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Whether the default rules of the engine take part.
    #[must_use]
    pub const fn uses_defaults(&self) -> bool {
        self.file.extend.use_default
    }

    /// Whether a default rule takes part as it is.
    pub(crate) fn keeps_default(&self, id: &str) -> bool {
        self.uses_defaults()
            && !self.file.extend.disabled_rules.iter().any(|disabled| disabled == id)
            && !self.file.rules.iter().any(|rule| rule.id == id)
    }

    /// Whether a rule of the file looks for the very beginning of a text.
    pub(crate) fn look_at_beginnings(&self) -> bool {
        self.file
            .rules
            .iter()
            .filter_map(|rule| rule.regex.as_deref())
            .any(|regex| regex.contains('^') || regex.contains("\\A"))
    }

    pub(crate) const fn own(&self) -> &OwnRules {
        &self.own
    }

    /// The rules for the engine in this process.
    pub(crate) fn compiled(&self) -> Result<Arc<Compiled>, RuleError> {
        let made = self.compiled.get_or_init(|| {
            let merged = match self.uses_defaults() {
                true => defaults().and_then(|defaults| merge::extend(&self.file, &defaults)),
                false => merge::alone(&self.file),
            };
            merged.and_then(|merged| Compiled::new(&merged)).map(Arc::new)
        });
        made.clone()
    }

    /// The file for the binary: the same rules, blind to places, with the rule that proves the scanner.
    pub(crate) fn for_binary(&self) -> Result<String, RuleError> {
        toml::to_string(&merge::blind(&self.file)).map_err(|error| RuleError::Syntax(error.to_string()))
    }
}

fn hash_of(bytes: Option<&[u8]>) -> String {
    hex::encode(Sha256::digest(bytes.unwrap_or(DEFAULTS.as_bytes())))
}

/// Our own rules, as a file.
pub(crate) fn defaults() -> Result<schema::File, RuleError> {
    static READ: OnceLock<Result<schema::File, RuleError>> = OnceLock::new();
    READ.get_or_init(|| schema::read(DEFAULTS.as_bytes())).clone()
}

#[cfg(test)]
mod tests;
