//! What every feed keeps, whoever stands behind it: the service, its data in a folder, and pip-audit.

use std::time::Duration;

use orch_adapters::advisories::{AdvisoryFeed, Patience};
use orch_test_support::osv::{Mood, advisory};
use serde_json::json;

use crate::support::{World, ids, pack, pypi, trouble, unknown};

/// What is known of four packages: bad, mended, withdrawn, unheard of.
async fn keeps_the_contract(world: &World, feed: &dyn AdvisoryFeed) {
    let (bad, mended) = (pypi("Jinja2", "2.4.1"), pypi("jinja2", "2.11.3"));
    let (withdrawn, plain) = (pypi("left-pad", "1.0"), pypi("zope.interface", "5.0"));
    let answers = world.ask(feed, &[bad.clone(), mended.clone(), withdrawn.clone(), plain.clone()]).await;
    assert_eq!(answers.trouble, Vec::<String>::new());
    for package in [&mended, &withdrawn, &plain] {
        assert_eq!((ids(&answers, package), trouble(&answers, package)), (vec![], None), "{package}");
    }
    let found = &answers.by_package[&bad];
    assert_eq!((found.advisories.len(), found.trouble.as_deref()), (1, None), "{found:?}");
    let told = &found.advisories[0];
    // Which of the ids a feed puts first is its own affair; together they are the same.
    let mut all: Vec<&str> = told.aliases.iter().map(String::as_str).chain([told.id.as_str()]).collect();
    all.sort_unstable();
    assert_eq!(all, ["CVE-2019-10906", "GHSA-462w-v97r-4m45", "PYSEC-2019-217"]);
    assert_eq!(told.fixed, ["2.10.1"]);
    assert!(told.summary.contains("jinja2 has a hole"), "{}", told.summary);
    assert!(!answers.tools.is_empty());
}

fn stocked() -> World {
    let world = World::new();
    let names = ["PYSEC-2019-217", "CVE-2019-10906", "GHSA-462w-v97r-4m45"];
    world.publish(&advisory(&names, "PyPI", "jinja2", &["2.4.1"], "2.10.1"));
    let mut withdrawn = advisory(&["PYSEC-2020-1"], "PyPI", "left-pad", &["1.0"], "2.0");
    withdrawn["withdrawn"] = json!("2020-02-02T00:00:00Z");
    world.publish(&withdrawn);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_keeps_the_contract() {
    let world = stocked();
    keeps_the_contract(&world, &world.api()).await;
    keeps_the_contract(&world, &world.api()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_keeps_the_contract_unpacked_and_packed() {
    let world = stocked();
    keeps_the_contract(&world, &world.folder()).await;
    pack(&world.at("osv/PyPI"));
    keeps_the_contract(&world, &world.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_pip_audit_keeps_the_contract() {
    let world = stocked();
    let feed = world.pip_audit();
    keeps_the_contract(&world, &feed).await;
    let answers = world.ask(&feed, &[pypi("a", "1")]).await;
    assert_eq!(answers.tools[0].version, orch_test_support::tools::PIP_AUDIT_VERSION);
}

/// Whatever the service does, nobody takes it for "clean", and what is waited for has an end.
async fn is_never_taken_for_clean(world: &World, feed: &dyn AdvisoryFeed) {
    let package = pypi("jinja2", "2.11.3");
    let moods =
        [Mood::Status(500), Mood::Status(403), Mood::Html, Mood::Garbage, Mood::Cut, Mood::Hanging, Mood::Dripping];
    for mood in moods {
        world.stub.set_mood(mood);
        let answers = world.ask_within(feed, std::slice::from_ref(&package), Duration::from_secs(6)).await;
        let why = unknown(&answers, &package);
        assert!(!why.is_empty(), "{mood:?}");
    }
    world.stub.set_mood(Mood::Good);
    let answers = world.ask(feed, std::slice::from_ref(&package)).await;
    assert_eq!(trouble(&answers, &package), None, "it is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_never_taken_for_clean() {
    let world = stocked();
    let patience = Patience { request: Duration::from_secs(2), tries: 2, pause: Duration::from_millis(1) };
    is_never_taken_for_clean(&world, &world.api_with(patience)).await;
    // pip-audit takes an empty answer with such a status for "clean", which nobody can see from outside.
    world.stub.set_mood(Mood::Status(302));
    let package = pypi("flask", "1.0");
    let answers = world.ask(&world.api_with(patience), std::slice::from_ref(&package)).await;
    assert!(unknown(&answers, &package).contains("302"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pip_audit_without_its_feed_is_never_taken_for_clean() {
    let world = stocked();
    is_never_taken_for_clean(&world, &world.pip_audit()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_address_is_never_taken_for_clean() {
    let world = stocked();
    let (mut tool, api) = (world.pip_audit(), world.api());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    tool.endpoint = format!("http://{closed}");
    let World { root, stub } = world;
    drop(stub);
    let world = World { root, stub: orch_test_support::osv::OsvStub::start() };
    let package = pypi("jinja2", "2.11.3");
    for feed in [&tool as &dyn AdvisoryFeed, &api] {
        let answers = world.ask(feed, std::slice::from_ref(&package)).await;
        assert!(!unknown(&answers, &package).is_empty());
    }
}
