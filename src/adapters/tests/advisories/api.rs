//! The service: batches, pages, patience, limits, and what is remembered of it.

use std::time::Duration;

use orch_adapters::advisories::{AdvisoryFeed, Cache, EndpointError, Feeds, OsvApi, Patience};
use orch_domain::deps::package::{Ecosystem, Package};
use orch_domain::time::Millis;
use orch_test_support::osv::{Mood, advisory};

use crate::support::{HOUR, World, ids, now, pypi, trouble, unknown};

fn bad(world: &World) -> Package {
    world.publish(&advisory(&["PYSEC-1", "CVE-1"], "PyPI", "jinja2", &["2.4.1"], "2.10.1"));
    pypi("jinja2", "2.4.1")
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_thousand_questions_go_in_several_batches() {
    let world = World::new();
    world.publish(&advisory(&["GHSA-a"], "npm", "p1200", &["1.0.0"], "2.0.0"));
    let package = |n: usize| Package::new(Ecosystem::Npm, &format!("p{n}"), "1.0.0").expect("valid");
    let all: Vec<Package> = (0..1_500).map(package).collect();
    let answers = world.ask(&world.api(), &all).await;
    let found: Vec<&Package> = all.iter().filter(|package| !ids(&answers, package).is_empty()).collect();
    assert_eq!(found, [&package(1_200)]);
    let sizes: Vec<usize> =
        world.stub.take_asked().iter().filter_map(|asked| Some(asked.body["queries"].as_array()?.len())).collect();
    assert_eq!(sizes, [1_000, 500]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_are_read_and_pages_without_end_are_trouble() {
    let world = World::new();
    for id in ["PYSEC-1", "PYSEC-2", "PYSEC-3"] {
        world.publish(&advisory(&[id], "PyPI", "jinja2", &["2.4.1"], "2.10.1"));
    }
    let package = pypi("jinja2", "2.4.1");
    world.stub.set_mood(Mood::Paging);
    let answers = world.ask(&world.api(), std::slice::from_ref(&package)).await;
    assert_eq!((ids(&answers, &package), trouble(&answers, &package)), (vec!["PYSEC-1", "PYSEC-2", "PYSEC-3"], None));

    let world = World::new();
    let package = bad(&world);
    world.stub.set_mood(Mood::Endless);
    let answers = world.ask(&world.api(), std::slice::from_ref(&package)).await;
    assert_eq!(ids(&answers, &package), ["PYSEC-1"], "what it did say still accuses");
    assert!(trouble(&answers, &package).is_some_and(|why| why.contains("more than 20 pages")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_a_while_is_tried_again() {
    let world = World::new();
    let package = bad(&world);
    world.stub.set_mood(Mood::Recovering(2));
    let answers = world.ask(&world.api(), std::slice::from_ref(&package)).await;
    assert_eq!((ids(&answers, &package), trouble(&answers, &package)), (vec!["PYSEC-1"], None));
    assert_eq!(world.stub.take_asked().len(), 4, "three tries of the batch, and the advisory");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_do_not_fit_the_questions_are_trouble() {
    let world = World::new();
    let package = bad(&world);
    for (mood, said) in [
        (Mood::Short, "0 answers to 1 questions"),
        (Mood::Huge, "more than"),
        (Mood::WithoutDetails, "PYSEC-1 is listed"),
    ] {
        world.stub.set_mood(mood);
        let answers = world.ask(&world.api(), std::slice::from_ref(&package)).await;
        let why = unknown(&answers, &package);
        assert!(why.contains(said), "{mood:?}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_asked_for_once_while_it_is_fresh() {
    let world = World::new();
    let (bad, clean) = (bad(&world), pypi("flask", "1.0"));
    let api = world.api();
    let first = world.ask(&api, &[bad.clone(), clean.clone()]).await;
    assert_eq!(world.stub.take_asked().len(), 2);
    let second = world.ask(&api, &[bad.clone(), clean.clone()]).await;
    assert_eq!(world.stub.take_asked(), []);
    assert_eq!(first.by_package, second.by_package);
    let third = world.ask(&api, &[bad.clone(), clean, pypi("flask", "1.1")]).await;
    let asked = world.stub.take_asked();
    assert_eq!((asked.len(), asked[0].body["queries"].as_array().map(Vec::len)), (1, Some(1)), "{asked:?}");
    assert_eq!(ids(&third, &bad), ["PYSEC-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_known_before_still_accuses_and_no_longer_acquits_when_the_service_is_away() {
    let world = World::new();
    let (bad, clean) = (bad(&world), pypi("flask", "1.0"));
    let api = world.api();
    world.ask(&api, &[bad.clone(), clean.clone()]).await;
    world.stub.set_mood(Mood::Status(503));
    let mut asker = world.asker(Duration::from_secs(60));
    asker.now = now().after(Millis(2 * HOUR.0));
    let answers = api.ask(&asker, &[bad.clone(), clean.clone()].into()).await;
    assert_eq!(ids(&answers, &bad), ["PYSEC-1"]);
    for package in [&bad, &clean] {
        let why = trouble(&answers, package).expect("it is old");
        assert!(why.contains("503") && why.contains("what was known at 20"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_endpoint_does_not_answer_from_this_ones_cache() {
    let (one, other) = (World::new(), World::new());
    let package = bad(&other);
    let patience = Patience { pause: Duration::from_millis(1), ..Patience::default() };
    let api = |url: &str| OsvApi::new(url, Cache::new(one.at("cache"), HOUR), patience).expect("an endpoint");
    let clean = one.ask(&api(one.stub.url()), std::slice::from_ref(&package)).await;
    assert_eq!(ids(&clean, &package), Vec::<&str>::new());
    let found = one.ask(&api(other.stub.url()), std::slice::from_ref(&package)).await;
    assert_eq!(ids(&found, &package), ["PYSEC-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_ends_with_its_deadline() {
    let world = World::new();
    let package = bad(&world);
    world.stub.set_mood(Mood::Hanging);
    let begun = std::time::Instant::now();
    let api = world.api_with(Patience::default());
    let answers = world.ask_within(&api, std::slice::from_ref(&package), Duration::from_millis(300)).await;
    assert!(unknown(&answers, &package).contains("did not answer in time"));
    assert!(begun.elapsed() < Duration::from_secs(15), "its own patience would be a minute");
}

#[test]
fn an_endpoint_is_an_address_without_secrets() {
    let cache = || Cache::new("/nowhere".into(), HOUR);
    let scheme = "http";
    for address in ["", "osv.example", "ftp://osv.example", "http://osv.example/?key=x", "http://osv.example/#x"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("{scheme}://me:hush@osv.example")])
    {
        match OsvApi::new(&address, cache(), Patience::default()) {
            Err(error @ EndpointError::Address(_)) => assert!(!error.to_string().contains("hush"), "{error}"),
            _ => panic!("{address} must be refused"),
        }
    }
    assert!(OsvApi::new("https://osv.example/mirror/", cache(), Patience::default()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_package_goes_to_the_first_feed_that_covers_it() {
    let world = World::new();
    let python = bad(&world);
    world.publish(&advisory(&["RUSTSEC-1"], "crates.io", "time", &["0.1.42"], "0.2.23"));
    let rust = Package::new(Ecosystem::CratesIo, "time", "0.1.42").expect("valid");
    let both = Feeds(vec![std::sync::Arc::new(world.pip_audit()), std::sync::Arc::new(world.api())]);
    let answers = world.ask(&both, &[python.clone(), rust.clone()]).await;
    assert_eq!((ids(&answers, &python), ids(&answers, &rust)), (vec!["PYSEC-1"], vec!["RUSTSEC-1"]));
    let names: Vec<&str> = answers.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["pip-audit", "osv"]);
    let nobody = Feeds(Vec::new());
    let answers = world.ask(&nobody, std::slice::from_ref(&rust)).await;
    assert_eq!(unknown(&answers, &rust), "no feed knows its ecosystem");
}
