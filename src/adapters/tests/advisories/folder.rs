//! The folder of advisories: what is missing, broken or old in it.

use std::time::{Duration, SystemTime};

use orch_domain::deps::package::{Ecosystem, Package};
use orch_test_support::osv::advisory;
use serde_json::json;

use crate::support::{World, ids, pack, pypi, trouble, unknown};

fn crate_of(name: &str, version: &str) -> Package {
    Package::new(Ecosystem::CratesIo, name, version).expect("valid")
}

#[tokio::test]
async fn an_ecosystem_without_data_is_unknown() {
    let world = World::new();
    world.publish(&advisory(&["PYSEC-1"], "PyPI", "jinja2", &["2.4.1"], "2.10.1"));
    let (python, rust) = (pypi("jinja2", "2.4.1"), crate_of("time", "0.1.42"));
    let answers = world.ask(&world.folder(), &[python.clone(), rust.clone()]).await;
    assert_eq!(ids(&answers, &python), ["PYSEC-1"]);
    assert!(unknown(&answers, &rust).contains("there are no advisories in"));
    std::fs::create_dir_all(world.at("osv/crates.io")).expect("made");
    let answers = world.ask(&world.folder(), std::slice::from_ref(&rust)).await;
    assert!(unknown(&answers, &rust).contains("it is empty"));
}

#[tokio::test]
async fn ranges_are_evaluated_and_unclear_ones_are_unknown() {
    let world = World::new();
    let range = |id: &str, name: &str, fixed: &str| {
        json!({"id": id, "affected": [{"package": {"ecosystem": "crates.io", "name": name},
            "ranges": [{"type": "SEMVER", "events": [{"introduced": "0.0.0-0"}, {"fixed": fixed}]}]}]})
    };
    world.publish(&range("RUSTSEC-1", "time", "0.2.23"));
    world.publish(&range("RUSTSEC-2", "odd", "newest"));
    let (hit, fixed, odd) = (crate_of("time", "0.1.42"), crate_of("time", "0.2.23"), crate_of("odd", "1.0.0"));
    let answers = world.ask(&world.folder(), &[hit.clone(), fixed.clone(), odd.clone()]).await;
    assert_eq!(ids(&answers, &hit), ["RUSTSEC-1"]);
    assert_eq!((ids(&answers, &fixed), trouble(&answers, &fixed)), (vec![], None));
    assert!(unknown(&answers, &odd).contains("RUSTSEC-2"));
}

#[tokio::test]
async fn old_data_are_told_to_be_old() {
    let world = World::new();
    world.publish(&advisory(&["PYSEC-1"], "PyPI", "jinja2", &["2.4.1"], "2.10.1"));
    pack(&world.at("osv/PyPI"));
    let package = pypi("flask", "1.0");
    assert_eq!(world.ask(&world.folder(), std::slice::from_ref(&package)).await.trouble, Vec::<String>::new());
    let file = std::fs::File::options().write(true).open(world.at("osv/PyPI/all.zip")).expect("there");
    file.set_modified(SystemTime::now() - Duration::from_secs(8 * 24 * 3_600)).expect("set");
    let answers = world.ask(&world.folder(), std::slice::from_ref(&package)).await;
    assert!(
        answers.trouble.len() == 1 && answers.trouble[0].contains("the advisories for PyPI are 192h"),
        "{:?}",
        answers.trouble
    );
}

#[tokio::test]
async fn broken_data_are_trouble() {
    let world = World::new();
    world.publish(&advisory(&["PYSEC-1"], "PyPI", "jinja2", &["2.4.1"], "2.10.1"));
    std::fs::write(world.at("osv/PyPI/PYSEC-2.json"), "{\"id\"").expect("written");
    let package = pypi("flask", "1.0");
    let answers = world.ask(&world.folder(), std::slice::from_ref(&package)).await;
    assert!(answers.trouble.len() == 1 && answers.trouble[0].contains("1 advisories in"), "{:?}", answers.trouble);
    pack(&world.at("osv/PyPI"));
    let whole = std::fs::read(world.at("osv/PyPI/all.zip")).expect("read");
    std::fs::write(world.at("osv/PyPI/all.zip"), &whole[..whole.len() / 2]).expect("written");
    let answers = world.ask(&world.folder(), std::slice::from_ref(&package)).await;
    assert!(unknown(&answers, &package).contains("cannot be read"));
}
