//! A world for feeds: a service on loopback, the same advisories in a folder, and the three feeds that read them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_adapters::advisories::{
    AdvisoryFeed, Answers, Asker, Cache, OsvApi, OsvFolder, Patience, PipAudit, Tooling, installation,
};
use orch_adapters::git::Owner;
use orch_adapters::jobs::{LocalPlacement, LocalPlacementConfig, Runner, UnrecordedLedger, become_subreaper};
use orch_adapters::ports::JobLimits;
use orch_domain::deps::advisory::Answer;
use orch_domain::deps::package::{Ecosystem, Package};
use orch_domain::time::{Millis, Timestamp};
use orch_test_support::osv::OsvStub;
use orch_test_support::tools;
use serde_json::Value;
use tokio::sync::OnceCell;

/// No wait in these tests takes longer, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(90);
pub(crate) const HOUR: Millis = Millis::from_mins(60);

pub(crate) struct World {
    pub(crate) root: tempfile::TempDir,
    pub(crate) stub: OsvStub,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix("wörld of advisories ").tempdir().expect("a folder");
        Self { root, stub: OsvStub::start() }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Lets the service and the folder know an advisory.
    pub(crate) fn publish(&self, advisory: &Value) {
        let ecosystem = advisory["affected"][0]["package"]["ecosystem"].as_str().expect("an ecosystem");
        let folder = self.at("osv").join(ecosystem);
        std::fs::create_dir_all(&folder).expect("made");
        let file = folder.join(format!("{}.json", advisory["id"].as_str().expect("an id")));
        std::fs::write(file, advisory.to_string()).expect("written");
        self.stub.publish(advisory.clone());
    }

    pub(crate) fn api(&self) -> OsvApi {
        self.api_with(Patience { request: Duration::from_secs(20), tries: 3, pause: Duration::from_millis(1) })
    }

    pub(crate) fn api_with(&self, patience: Patience) -> OsvApi {
        OsvApi::new(self.stub.url(), Cache::new(self.at("cache"), HOUR), patience).expect("an endpoint")
    }

    pub(crate) fn folder(&self) -> OsvFolder {
        OsvFolder { folder: self.at("osv"), stale_after: Millis(7 * 24 * HOUR.0) }
    }

    /// The real tool, confined as in production.
    pub(crate) fn pip_audit(&self) -> PipAudit {
        let program = tools::pip_audit();
        let tooling = Tooling {
            exec: Arc::new(runner(self.root.path())),
            path: "/usr/local/bin:/usr/bin:/bin".to_owned(),
            env: Default::default(),
            read: installation(&program),
            data: Some(self.root.path().to_owned()),
            limits: JobLimits::default(),
        };
        let program = program.to_str().expect("text").to_owned();
        PipAudit { program, endpoint: self.stub.url().to_owned(), tooling, version: OnceCell::new() }
    }

    pub(crate) fn asker(&self, within: Duration) -> Asker {
        let scratch = tempfile::tempdir_in(self.root.path()).expect("a folder").keep();
        Asker { owner: Owner::default(), scratch, deadline: Instant::now() + within, now: now() }
    }

    pub(crate) async fn ask(&self, feed: &dyn AdvisoryFeed, packages: &[Package]) -> Answers {
        self.ask_within(feed, packages, BOUND).await
    }

    pub(crate) async fn ask_within(&self, feed: &dyn AdvisoryFeed, packages: &[Package], time: Duration) -> Answers {
        let asked: BTreeSet<Package> = packages.iter().cloned().collect();
        let answers = tokio::time::timeout(BOUND, feed.ask(&self.asker(time), &asked)).await.expect("within the bound");
        let answered: BTreeSet<Package> = answers.by_package.keys().cloned().collect();
        assert_eq!(answered, asked, "each question has an answer");
        answers
    }
}

fn runner(root: &Path) -> Runner {
    become_subreaper().expect("a subreaper");
    let (shim_program, shim_args) = orch_shim::self_exec::command();
    let config = LocalPlacementConfig {
        shim_program,
        shim_args,
        ..LocalPlacementConfig::new(root.join("jobs"), root.join("run"))
    };
    Runner::new(Arc::new(LocalPlacement::new(config).expect("a placement")), Arc::new(UnrecordedLedger))
}

pub(crate) fn now() -> Timestamp {
    use orch_adapters::ports::{Clock, SystemClock};
    SystemClock.now()
}

pub(crate) fn pypi(name: &str, version: &str) -> Package {
    Package::new(Ecosystem::PyPi, name, version).expect("valid")
}

/// The ids that an answer has against a package.
pub(crate) fn ids<'a>(answers: &'a Answers, package: &Package) -> Vec<&'a str> {
    answers.by_package[package].advisories.iter().map(|advisory| advisory.id.as_str()).collect()
}

pub(crate) fn trouble<'a>(answers: &'a Answers, package: &Package) -> Option<&'a str> {
    answers.by_package[package].trouble.as_deref()
}

/// Asserts that nothing is known, and gives the reason.
#[track_caller]
pub(crate) fn unknown<'a>(answers: &'a Answers, package: &Package) -> &'a str {
    let Answer { advisories, trouble } = &answers.by_package[package];
    assert_eq!(advisories, &Vec::new());
    trouble.as_deref().expect("it is not known, so it must not look clean")
}

/// Packs a folder of advisories as the OSV project publishes them.
pub(crate) fn pack(folder: &Path) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(folder.join("all.zip")).expect("made"));
    for entry in std::fs::read_dir(folder).expect("read").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = entry.file_name().into_string().expect("text");
            archive.start_file(name, zip::write::SimpleFileOptions::default()).expect("begun");
            archive.write_all(&std::fs::read(&path).expect("read")).expect("written");
            std::fs::remove_file(path).expect("removed");
        }
    }
    archive.finish().expect("finished");
}
