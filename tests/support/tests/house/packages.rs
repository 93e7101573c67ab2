//! Rules about packages: who may depend on whom, whose licences we take, what we never take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::{at, none};

/// The rooms of this workspace and the rooms that each may know. Tests may know more: a development dependency is free.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("orch-domain", &[]),
    ("orch-shim", &["orch-domain"]),
    ("orch-store", &["orch-domain"]),
    ("orch-adapters", &["orch-domain", "orch-shim"]),
    ("orch-actors", &["orch-domain", "orch-store", "orch-adapters"]),
    ("orch", &["orch-domain", "orch-shim", "orch-store", "orch-adapters", "orch-actors"]),
    ("orch-test-support", &[]),
];

/// Everything from outside that the purest room may use: nothing with a clock, a file or a socket at heart.
const DOMAIN_MAY_USE: &[&str] = &["serde", "serde_json", "yaml_serde", "sha2", "hex", "thiserror", "jiff", "toml"];

/// What a room must not bring in, directly: `(room, packages)`.
const MUST_NOT_USE: &[(&str, &[&str])] = &[
    ("orch-store", &["git2", "reqwest", "warp", "ractor", "clap"]),
    ("orch-adapters", &["rusqlite", "ractor", "warp", "clap"]),
    ("orch-shim", &["tokio", "rusqlite", "ractor", "warp", "clap", "reqwest"]),
    ("orch-actors", &["rusqlite", "warp", "clap", "git2", "reqwest", "nix"]),
    ("orch", &["rusqlite", "git2", "ractor"]),
];

fn metadata(arguments: &[&str]) -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--offline"]).args(arguments).current_dir(at("."));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Direct dependencies that end in a program: `room -> names`, without development dependencies.
fn dependencies(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    let rooms = packages.map(|package| {
        let all = package["dependencies"].as_array().unwrap().iter();
        let shipped = all.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
        let names = shipped.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect();
        (package["name"].as_str().unwrap().to_owned(), names)
    });
    rooms.collect()
}

fn directions(rooms: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (room, uses) in rooms {
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(name, _)| name == room) else {
            found.push(format!("{room}: a new room; say in MAY_KNOW whom it may know"));
            continue;
        };
        let inner = uses.iter().filter(|name| rooms.contains_key(*name) && !allowed.contains(&name.as_str()));
        found.extend(inner.map(|name| format!("{room} must not depend on {name}: dependencies point one way")));
        let outer: Box<dyn Fn(&str) -> bool> = match MUST_NOT_USE.iter().find(|(name, _)| name == room) {
            _ if room == "orch-domain" => Box::new(|name| !DOMAIN_MAY_USE.contains(&name)),
            Some((_, banned)) => Box::new(|name| banned.contains(&name)),
            None => Box::new(|_| false),
        };
        found.extend(uses.iter().filter(|name| outer(name)).map(|name| format!("{room} must not use {name}")));
    }
    found
}

/// The strings of one list in `deny.toml`, which is written one string a line.
fn deny_list(text: &str, key: &str) -> Vec<String> {
    let start = format!("{key} = [");
    let lines =
        text.lines().skip_while(|line| !line.starts_with(&start)).skip(1).take_while(|line| !line.starts_with(']'));
    lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// Whether an SPDX licence expression can be met with the allowed licences: AND binds closer than OR, `/` is the old OR.
fn licence_is_met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any_of(&mut words, allowed);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut met = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, allowed);
    }
    met
}

fn all_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let met = any_of(words, allowed);
        return words.next() == Some(")") && met;
    }
    // `Apache-2.0 WITH LLVM-exception` is one licence.
    let mut name = Vec::new();
    while let Some(word) = words.next_if(|word| !matches!(*word, "AND" | "OR" | "(" | ")")) {
        name.push(word);
    }
    allowed.contains(&name.join(" "))
}

#[test]
fn dependencies_point_one_way() {
    let rooms = dependencies(&metadata(&["--no-deps"]));
    for (room, _) in MAY_KNOW {
        assert!(rooms.contains_key(*room), "{room} is not a package of this workspace");
    }
    none(directions(&rooms));
}

#[test]
fn every_package_from_outside_may_be_used() {
    let deny = fs::read_to_string(at("deny.toml")).unwrap();
    let (allowed, banned) = (deny_list(&deny, "allow"), deny_list(&deny, "deny"));
    assert!(
        allowed.contains(&"MIT".to_owned()) && banned.contains(&"serde_yml".to_owned()),
        "deny.toml was not understood"
    );
    let host = String::from_utf8(Command::new("rustc").arg("-vV").output().unwrap().stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    // What the lock file lists for other systems was never fetched, and never gets into a program of ours.
    let all = metadata(&["--locked", "--filter-platform", &host]);
    let mut found = Vec::new();
    for package in all["packages"].as_array().unwrap().iter().filter(|package| package["source"].is_string()) {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        if !licence_is_met(licence, &allowed) {
            found.push(format!("{name}: licence `{licence}` is not in deny.toml"));
        }
        if banned.iter().any(|ban| ban == name) {
            found.push(format!("{name} is banned in deny.toml"));
        }
    }
    none(found);
}

#[test]
fn each_rule_sees_what_it_is_for() {
    let rooms = |pairs: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
        pairs.iter().map(|(room, uses)| (room.to_string(), uses.iter().map(|s| s.to_string()).collect())).collect()
    };
    assert_eq!(
        directions(&rooms(&[("orch-domain", &["serde"]), ("orch-store", &["orch-domain", "rusqlite"])])).len(),
        0
    );
    assert_eq!(directions(&rooms(&[("orch-domain", &["tokio"])])), ["orch-domain must not use tokio"]);
    assert_eq!(directions(&rooms(&[("orch-domain", &[]), ("orch-actors", &["rusqlite", "orch-domain"])])).len(), 1);
    assert_eq!(directions(&rooms(&[("orch-store", &["orch-adapters"]), ("orch-adapters", &[])])).len(), 1);
    assert_eq!(directions(&rooms(&[("orch", &["orch-test-support"]), ("orch-test-support", &[])])).len(), 1);
    assert_eq!(directions(&rooms(&[("orch-new", &[])])).len(), 1);

    let allowed = ["MIT".to_owned(), "Unicode-3.0".to_owned()];
    let good = [
        "MIT",
        "MIT OR Apache-2.0",
        "X/MIT",
        "(MIT OR X) AND Unicode-3.0",
        "X OR (MIT AND Unicode-3.0)",
        "X AND Y OR MIT",
    ];
    for good in good {
        assert!(licence_is_met(good, &allowed), "{good}");
    }
    for bad in
        ["X", "MIT AND X", "(MIT OR Y) AND X", "MIT AND (X OR Y)", "none", "()", "(MIT", "MIT)", "MIT WITH X", ""]
    {
        assert!(!licence_is_met(bad, &allowed), "{bad}");
    }
    assert_eq!(deny_list("x = [\n \"no\",\n]\nallow = [\n \"a\", # why\n # \"b\"\n]\n", "allow"), ["a", "b"]);
}
