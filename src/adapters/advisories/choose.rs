//! Which feed is asked: the operator's word.
//!
//! Owns the choice, and the text by which two choices are told apart. Invariants: with a folder nothing leaves the machine;
//! pip-audit is asked about PyPI only, and the service about the rest. Refuses to ask anybody.

use std::path::PathBuf;
use std::sync::Arc;

use orch_domain::time::Millis;
use tokio::sync::OnceCell;

use super::{AdvisoryFeed, Cache, EndpointError, Feeds, OsvApi, OsvFolder, Patience, PipAudit, Tooling, installation};
use crate::secrets::locate;

/// The operator's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedKind {
    /// An OSV service at this endpoint.
    Osv {
        /// Such as `https://api.osv.dev`.
        endpoint: String,
    },
    /// The tool for PyPI, against the same service; the service for the rest.
    PipAudit {
        /// Such as `https://api.osv.dev`.
        endpoint: String,
        /// The program, by name or path.
        program: String,
    },
    /// A folder with the data of the OSV project.
    Folder {
        /// Where.
        folder: PathBuf,
        /// Data older than this are told to be.
        stale_after: Millis,
    },
}

/// What a feed needs to answer.
pub struct FeedSpec {
    /// Which.
    pub kind: FeedKind,
    /// Where answers of a service are kept.
    pub cache: PathBuf,
    /// How long they count as fresh.
    pub cache_age: Millis,
    /// How a tool is run; what it reads for its own installation is added.
    pub tooling: Tooling,
}

/// The feed.
///
/// # Errors
/// [`EndpointError`] when there can be no client for the endpoint.
pub fn choose(spec: FeedSpec) -> Result<Arc<dyn AdvisoryFeed>, EndpointError> {
    let FeedSpec { kind, cache, cache_age, mut tooling } = spec;
    let service = |endpoint: &str| OsvApi::new(endpoint, Cache::new(cache, cache_age), Patience::default());
    Ok(match kind {
        FeedKind::Osv { endpoint } => Arc::new(service(&endpoint)?),
        FeedKind::Folder { folder, stale_after } => Arc::new(OsvFolder { folder, stale_after }),
        FeedKind::PipAudit { endpoint, program } => {
            let found = locate(&program, &tooling.path);
            tooling.read.extend(found.as_deref().map(installation).unwrap_or_default());
            let program = found.map_or(program, |found| found.to_string_lossy().into_owned());
            let tool = PipAudit { program, endpoint: endpoint.clone(), tooling, version: OnceCell::new() };
            Arc::new(Feeds(vec![Arc::new(tool), Arc::new(service(&endpoint)?)]))
        }
    })
}

/// For the key under which verdicts are kept: another choice, and other data in the folder, are another feed.
#[must_use]
pub fn identity(kind: &FeedKind) -> String {
    match kind {
        FeedKind::Folder { folder, stale_after } => {
            let feed = OsvFolder { folder: folder.clone(), stale_after: *stale_after };
            format!("{} {}", feed.identity(), stale_after.0)
        }
        other => describe(other),
    }
}

/// For people.
#[must_use]
pub fn describe(kind: &FeedKind) -> String {
    match kind {
        FeedKind::Osv { endpoint } => format!("the OSV service {endpoint}"),
        FeedKind::PipAudit { endpoint, program } => {
            format!("`{program}` for PyPI, the OSV service {endpoint} for the rest")
        }
        FeedKind::Folder { folder, .. } => format!("the folder {}", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_choice_is_another_feed() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = |days: u64| FeedKind::Folder {
            folder: root.path().to_owned(),
            stale_after: Millis::from_mins(days * 24 * 60),
        };
        let endpoint = || "https://osv.example".to_owned();
        let before = identity(&folder(7));
        assert_ne!(before, identity(&folder(8)));
        std::fs::create_dir(root.path().join("npm")).expect("made");
        assert_ne!(before, identity(&folder(7)), "other data");
        let osv = FeedKind::Osv { endpoint: endpoint() };
        let tool = FeedKind::PipAudit { endpoint: endpoint(), program: "pip-audit".to_owned() };
        assert_ne!(identity(&osv), identity(&tool));
        assert_eq!(describe(&tool), "`pip-audit` for PyPI, the OSV service https://osv.example for the rest");
    }
}
