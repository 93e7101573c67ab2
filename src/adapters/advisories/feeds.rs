//! Several feeds as one: each package goes to the first that covers its ecosystem.
//!
//! Owns the order. A package that nobody covers is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use orch_domain::deps::package::{Ecosystem, Package};

use super::{AdvisoryFeed, Answers, Asker};

/// Feeds in the order in which they are asked.
pub struct Feeds(pub Vec<Arc<dyn AdvisoryFeed>>);

#[async_trait]
impl AdvisoryFeed for Feeds {
    fn covers(&self, ecosystem: Ecosystem) -> bool {
        self.0.iter().any(|feed| feed.covers(ecosystem))
    }

    fn identity(&self) -> String {
        self.0.iter().map(|feed| feed.identity()).collect::<Vec<_>>().join("; ")
    }

    async fn ask(&self, asker: &Asker, packages: &BTreeSet<Package>) -> Answers {
        let mut shares: BTreeMap<Option<usize>, BTreeSet<Package>> = BTreeMap::new();
        for package in packages {
            let at = self.0.iter().position(|feed| feed.covers(package.ecosystem()));
            shares.entry(at).or_default().insert(package.clone());
        }
        let mut answers = Answers::default();
        for (at, share) in shares {
            answers.join(match at.and_then(|at| self.0.get(at)) {
                Some(feed) => feed.ask(asker, &share).await,
                None => Answers::unknown(&share, "no feed knows its ecosystem"),
            });
        }
        answers
    }
}
