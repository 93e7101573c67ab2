//! Gates: the vocabulary all deterministic checks share, the frozen registry, scope, evidence and the fold of verdicts.
//!
//! Owns the verdict words, the names and order of the checks, their report files and front-matter keys (frozen by a
//! snapshot test: they are read by people and other programs), the scope rule, and the key under which a result may be
//! reused. Invariants: a verdict is `passed`, `failed` or `could_not_run`, never something in between; nothing folded is
//! `could_not_run`; no number is a float. Refuses to read or write reports: that is `adapters/reports`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{CommitSha, RunId};
use crate::names::{NameError, RepoName};
use crate::time::{Millis, Timestamp};

/// What a gate answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Conclusive and good.
    Passed,
    /// Conclusive and bad.
    Failed,
    /// Nothing can be concluded.
    CouldNotRun,
}

impl Verdict {
    /// The word in reports, rows and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::CouldNotRun => "could_not_run",
        }
    }

    /// The verdict of exactly that word; no other spelling counts.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Passed, Self::Failed, Self::CouldNotRun].into_iter().find(|verdict| verdict.as_str() == word)
    }

    /// Whether it says something about the commit, so that it may be reused.
    #[must_use]
    pub const fn is_conclusive(self) -> bool {
        matches!(self, Self::Passed | Self::Failed)
    }

    /// One verdict for several parts that must all be good: a failure stands whatever else could not run; all that is
    /// good is passed; no part at all is `could_not_run`, since nothing was looked at.
    pub fn fold(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut folded = None;
        for part in parts {
            folded = Some(match (folded, part) {
                (Some(Self::Failed), _) | (_, Self::Failed) => Self::Failed,
                (Some(Self::CouldNotRun), _) | (_, Self::CouldNotRun) => Self::CouldNotRun,
                (None | Some(Self::Passed), Self::Passed) => Self::Passed,
            });
        }
        folded.unwrap_or(Self::CouldNotRun)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything that answers with a [`Verdict`]: the four gates of the landing, and the repository's own commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateName {
    /// Secrets and dependency advisories in what the branch brings.
    Security,
    /// The caught-up branch still passes the tests.
    Merge,
    /// Line coverage of the caught-up head.
    Coverage,
    /// The image to be deployed is built from this very commit.
    ImageFreshness,
    /// The repository's quick check, on a stage's head.
    Check,
    /// The repository's test suite, on a stage's head.
    Tests,
    /// The repository's staging command, on a stage's head.
    Staging,
}

/// The gates of the landing window, in the order in which they are asked. Frozen.
pub const LANDING_GATES: [GateName; 4] =
    [GateName::Security, GateName::Merge, GateName::Coverage, GateName::ImageFreshness];

impl GateName {
    /// All, landing gates first and in their order.
    pub const ALL: [Self; 7] =
        [Self::Security, Self::Merge, Self::Coverage, Self::ImageFreshness, Self::Check, Self::Tests, Self::Staging];

    /// The name in settings, rows and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Security => "security",
            Self::Merge => "merge",
            Self::Coverage => "coverage",
            Self::ImageFreshness => "image-freshness",
            Self::Check => "check",
            Self::Tests => "tests",
            Self::Staging => "staging",
        }
    }

    /// The front-matter key that holds the verdict.
    #[must_use]
    pub const fn status_key(self) -> &'static str {
        match self {
            Self::Security => "security_status",
            Self::Merge => "merge_status",
            Self::Coverage => "coverage_status",
            Self::ImageFreshness => "image_freshness_status",
            Self::Check => "check_status",
            Self::Tests => "tests_status",
            Self::Staging => "staging_status",
        }
    }

    /// The report's file name.
    #[must_use]
    pub const fn report_file(self) -> &'static str {
        match self {
            Self::Security => "17-security-report.md",
            Self::Merge => "16-merge-report.md",
            Self::Coverage => "18-coverage-report.md",
            Self::ImageFreshness => "19-image-report.md",
            Self::Check => "13-check-report.md",
            Self::Tests => "14-tests-report.md",
            Self::Staging => "15-staging-report.md",
        }
    }

    /// Whether it is asked when a task enters the landing window.
    #[must_use]
    pub const fn is_landing_gate(self) -> bool {
        matches!(self, Self::Security | Self::Merge | Self::Coverage | Self::ImageFreshness)
    }
}

impl fmt::Display for GateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no gate has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no gate `{0}`; the gates are security, merge, coverage, image-freshness, check, tests, staging")]
pub struct UnknownGate(String);

impl FromStr for GateName {
    type Err = UnknownGate;

    fn from_str(value: &str) -> Result<Self, UnknownGate> {
        let unknown = || UnknownGate(value.escape_debug().take(60).collect());
        Self::ALL.into_iter().find(|gate| gate.as_str() == value).ok_or_else(unknown)
    }
}

// ------------------------------------------------------------------------------------------------------- scope

/// Which repositories a gate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "repos")]
pub enum GateRepos {
    /// The one marked `self_hosting`: what an unset or empty setting means.
    #[default]
    SelfHosting,
    /// Every repository: `*`.
    All,
    /// Those named.
    Named(Vec<RepoName>),
}

impl GateRepos {
    /// Reads the words of a setting: none or only empty ones is [`Self::SelfHosting`], a `*` among them is
    /// [`Self::All`].
    ///
    /// # Errors
    /// When a word can be no repository's name.
    pub fn from_words<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Self, NameError> {
        let words: Vec<&str> = words.into_iter().map(str::trim).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [] => Ok(Self::SelfHosting),
            words if words.contains(&"*") => Ok(Self::All),
            words => Ok(Self::Named(words.iter().map(|word| word.parse()).collect::<Result<_, _>>()?)),
        }
    }
}

/// Whether a gate is on, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateScope {
    /// The operator's switch.
    pub enabled: bool,
    /// For which repositories.
    pub repos: GateRepos,
}

/// What the scope says about one repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InScope {
    /// The gate is asked.
    Yes,
    /// The operator has switched the gate off; the journal and the proof say so.
    SwitchedOff,
    /// The gate is for other repositories; this one is untouched by it.
    #[default]
    OtherRepositories,
}

impl InScope {
    /// Whether the gate is asked.
    #[must_use]
    pub const fn is_asked(self) -> bool {
        matches!(self, Self::Yes)
    }
}

impl GateScope {
    /// On for every repository: embedded mode and the generated configuration.
    #[must_use]
    pub const fn everywhere() -> Self {
        Self { enabled: true, repos: GateRepos::All }
    }

    /// Whether the gate is asked for a repository.
    #[must_use]
    pub fn of(&self, repo: &RepoName, self_hosting: bool) -> InScope {
        let named = match &self.repos {
            GateRepos::SelfHosting => self_hosting,
            GateRepos::All => true,
            GateRepos::Named(names) => names.contains(repo),
        };
        match (named, self.enabled) {
            (false, _) => InScope::OtherRepositories,
            (true, false) => InScope::SwitchedOff,
            (true, true) => InScope::Yes,
        }
    }
}

// ------------------------------------------------------------------------------------------------------ report

/// A tool that took part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolVersion {
    /// Its name.
    pub name: String,
    /// What it says its version is.
    pub version: String,
}

/// One named number of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// What is counted.
    pub name: String,
    /// How many.
    pub value: u64,
}

/// The front matter that every report begins with. The verdict in it is the single source of truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportHeader {
    /// Which check; names the key of the verdict.
    pub gate: GateName,
    /// What it answers.
    pub verdict: Verdict,
    /// The repository.
    pub repo: RepoName,
    /// The commit that the rules came from.
    pub base: Option<CommitSha>,
    /// The commit that was judged.
    pub head: CommitSha,
    /// Its tree.
    pub tree: CommitSha,
    /// The run that asked.
    pub run: RunId,
    /// Tools that took part, in the order of their use.
    pub tools: Vec<ToolVersion>,
    /// When the check began.
    pub started: Timestamp,
    /// How long it took.
    pub duration: Millis,
    /// What was counted, in the gate's own order.
    pub counts: Vec<Count>,
    /// Loud warnings and notes of one line each.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_frozen() {
        let lines: Vec<String> = GateName::ALL
            .iter()
            .map(|gate| {
                let place = LANDING_GATES.iter().position(|other| other == gate);
                assert_eq!(place.is_some(), gate.is_landing_gate());
                let place = place.map_or("-".to_owned(), |at| at.to_string());
                format!("{place} {gate} {} {}", gate.status_key(), gate.report_file())
            })
            .collect();
        assert_eq!(
            lines,
            [
                "0 security security_status 17-security-report.md",
                "1 merge merge_status 16-merge-report.md",
                "2 coverage coverage_status 18-coverage-report.md",
                "3 image-freshness image_freshness_status 19-image-report.md",
                "- check check_status 13-check-report.md",
                "- tests tests_status 14-tests-report.md",
                "- staging staging_status 15-staging-report.md",
            ]
        );
        for gate in GateName::ALL {
            assert_eq!(gate.as_str().parse(), Ok(gate));
            let json = serde_json::to_string(&gate).expect("serialises");
            assert_eq!(json, format!("\"{gate}\""), "one spelling everywhere");
        }
        let err = "Security".parse::<GateName>().expect_err("case counts").to_string();
        assert!(err.contains("`Security`") && err.contains("image-freshness"), "{err}");
    }

    #[test]
    fn verdict_words_are_exact_and_the_same_everywhere() {
        for verdict in [Verdict::Passed, Verdict::Failed, Verdict::CouldNotRun] {
            assert_eq!(Verdict::from_word(verdict.as_str()), Some(verdict));
            assert_eq!(serde_json::to_string(&verdict).expect("serialises"), format!("\"{verdict}\""));
        }
        for word in ["", "pass", "Passed", "passed ", "ok", "true", "could-not-run"] {
            assert_eq!(Verdict::from_word(word), None, "{word:?}");
        }
    }

    #[test]
    fn one_failure_stands_and_nothing_looked_at_proves_nothing() {
        use Verdict::{CouldNotRun as C, Failed as F, Passed as P};
        let table: [(&[Verdict], Verdict); 8] = [
            (&[], C),
            (&[P], P),
            (&[P, P], P),
            (&[P, C], C),
            (&[C, P], C),
            (&[C, F], F),
            (&[F, P, C], F),
            (&[P, F], F),
        ];
        for (parts, folded) in table {
            assert_eq!(Verdict::fold(parts.iter().copied()), folded, "{parts:?}");
        }
    }

    #[test]
    fn scope_follows_the_switch_and_the_list() {
        let repo: RepoName = "demo".parse().expect("valid");
        // words of the setting, enabled, self hosting -> answer
        let table: [(&[&str], bool, bool, InScope); 12] = [
            (&[], true, true, InScope::Yes),
            (&[], true, false, InScope::OtherRepositories),
            (&["", " "], true, true, InScope::Yes),
            (&["", " "], true, false, InScope::OtherRepositories),
            (&["*"], true, false, InScope::Yes),
            (&["other", "*"], true, false, InScope::Yes),
            (&["demo"], true, false, InScope::Yes),
            (&[" demo ", "other"], true, false, InScope::Yes),
            (&["other"], true, true, InScope::OtherRepositories),
            (&["demo"], false, false, InScope::SwitchedOff),
            (&["other"], false, false, InScope::OtherRepositories),
            (&["Demo"], true, false, InScope::OtherRepositories),
        ];
        for (words, enabled, self_hosting, answer) in table {
            let repos = GateRepos::from_words(words.iter().copied()).expect("names");
            assert_eq!(GateScope { enabled, repos }.of(&repo, self_hosting), answer, "{words:?} {enabled}");
        }
        assert!(GateRepos::from_words(["../x"]).is_err());
        assert_eq!(GateScope::everywhere().of(&repo, false), InScope::Yes);
    }
}
