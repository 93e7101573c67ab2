//! Advisories: who is asked what is known against a dependency, and which dependencies two commits have.
//!
//! Owns the port [`AdvisoryFeed`] and what stands behind it: the OSV service ([`OsvApi`]), a folder of its data
//! ([`OsvFolder`]), the tool pip-audit ([`PipAudit`]), and the choice among them by ecosystem ([`Feeds`]). Owns the
//! reading of lock files out of our own repository ([`changes_between`]). Gives facts, never a verdict. Invariants: a
//! question is never without an answer; whatever went wrong is in it as trouble, so silence is never taken for clean.

mod affected;
mod cache;
mod choose;
mod feeds;
mod folder;
mod lockfiles;
mod osv;
mod osv_api;
mod pip_audit;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use async_trait::async_trait;
use orch_domain::deps::advisory::Answer;
use orch_domain::deps::package::{Ecosystem, Package};
use orch_domain::gate::ToolVersion;
use orch_domain::time::Timestamp;

use crate::git::Owner;

pub use cache::Cache;
pub use choose::{FeedKind, FeedSpec, choose, describe, identity};
pub use feeds::Feeds;
pub use folder::OsvFolder;
pub use lockfiles::changes_between;
pub use osv_api::{EndpointError, OsvApi, Patience, check_endpoint};
pub use pip_audit::{PipAudit, Tooling, installation};

/// For whom and within which bounds a feed is asked.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Stamped on jobs.
    pub owner: Owner,
    /// A private folder that exists; whoever asks removes it.
    pub scratch: PathBuf,
    /// When the answer has to be there. What is not answered by then is unknown.
    pub deadline: Instant,
    /// Now, by the supervisor's clock.
    pub now: Timestamp,
}

/// What a feed answers.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// One for each package that was asked about.
    pub by_package: BTreeMap<Package, Answer>,
    /// What is wrong with the feed as a whole: old data, say. One line each.
    pub trouble: Vec<String>,
    /// What took part.
    pub tools: Vec<ToolVersion>,
}

impl Answers {
    /// Nothing is known of these, for one reason.
    #[must_use]
    pub fn unknown<'p>(packages: impl IntoIterator<Item = &'p Package>, why: &str) -> Self {
        let by_package = packages.into_iter().map(|package| (package.clone(), Answer::unknown(why))).collect();
        Self { by_package, ..Self::default() }
    }

    /// Takes another feed's answers in.
    pub(crate) fn join(&mut self, other: Self) {
        self.by_package.extend(other.by_package);
        self.trouble.extend(other.trouble);
        for tool in other.tools {
            if !self.tools.contains(&tool) {
                self.tools.push(tool);
            }
        }
    }
}

/// Somebody who knows advisories.
#[async_trait]
pub trait AdvisoryFeed: Send + Sync + 'static {
    /// Whether it can be asked about packages of an ecosystem.
    fn covers(&self, ecosystem: Ecosystem) -> bool;
    /// What settings and data it answers from, for the key under which verdicts are kept. Without secrets.
    fn identity(&self) -> String;
    /// Asks about packages at exact versions. Each of them has an answer; there is no error, since a feed that is away
    /// is an answer too: nothing is known.
    async fn ask(&self, asker: &Asker, packages: &BTreeSet<Package>) -> Answers;
}

/// A text from outside on one line of bounded length.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(most).collect()
}
