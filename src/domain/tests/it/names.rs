//! Names, ids, pipelines and time on arbitrary text: never a panic, never two keys with one folder, never a bad branch.

use std::collections::BTreeMap;

use orch_domain::artefact;
use orch_domain::ids::{CommitSha, Generation, JobId, RunId, TaskId, WindowId};
use orch_domain::names::{BranchName, RepoName, RepoPath, StageName, TaskKey};
use orch_domain::pipeline::Pipeline;
use orch_domain::policy::{Backoff, Policy};
use orch_domain::samples::{self, new_task};
use orch_domain::time::{Millis, Timestamp};
use proptest::prelude::*;

/// Texts that people and attackers use for keys: alike but for case, separators and tails.
fn key_texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z0-9 _.:#-]{1,12}",
        "(ORC|orc|Orc)[-_. ]{1,2}1[0-9]?",
        "(ORC|orc)-1-[0-9a-fA-F]{8}",
        "\\PC{1,40}",
        any::<String>(),
    ]
}

/// git-check-ref-format(1) in its own words, written independently of the room's check.
fn git_accepts(branch: &str) -> bool {
    let part = |p: &str| !p.is_empty() && !p.starts_with('.') && !p.ends_with(".lock");
    branch.split('/').all(part)
        && !branch.contains("..")
        && !branch.contains("@{")
        && !branch.chars().any(|c| c <= ' ' || c == '\u{7f}' || "~^:?*[\\".contains(c))
        && !branch.ends_with('.')
        && branch != "@"
        && !branch.starts_with('-')
}

#[test]
fn a_key_that_looks_like_anothers_slug_gets_its_own() {
    let victim: TaskKey = samples::key("orc-12");
    let crafted: TaskKey = samples::key(&victim.slug().to_ascii_uppercase());
    assert_ne!(crafted.slug(), victim.slug());
    let again: TaskKey = samples::key(&crafted.slug().to_ascii_uppercase());
    assert_ne!(again.slug(), crafted.slug());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn different_keys_have_different_slugs(texts in proptest::collection::vec(key_texts(), 2..30)) {
        let mut keys: Vec<TaskKey> = texts.iter().filter_map(|t| t.parse().ok()).collect();
        // The worst case on top: keys made from the slugs of others.
        let crafted: Vec<TaskKey> =
            keys.iter().flat_map(|k| [k.slug(), k.slug().to_ascii_uppercase()]).filter_map(|t| t.parse().ok()).collect();
        keys.extend(crafted);
        let mut seen: BTreeMap<String, TaskKey> = BTreeMap::new();
        for key in keys {
            if let Some(other) = seen.insert(key.slug(), key.clone()) {
                prop_assert_eq!(other, key, "two keys share a slug");
            }
        }
    }

    #[test]
    fn every_branch_is_one_that_git_accepts(text in key_texts(), generation in any::<u64>()) {
        let Ok(key) = text.parse::<TaskKey>() else { return Ok(()) };
        let branch = key.branch(Generation(generation));
        prop_assert!(git_accepts(branch.as_str()), "{}", branch);
        prop_assert!(branch.is_ours());
        prop_assert_eq!(&branch.as_str().parse::<BranchName>().expect("valid by our own rule"), &branch);
        let slug = key.slug();
        let folder = slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        prop_assert!(folder && !slug.starts_with('-') && slug.len() <= 80, "{slug}");
    }

    #[test]
    fn what_we_call_a_branch_git_calls_one_too(text in prop_oneof![any::<String>(), "[a-z./@{~^-]{1,12}", "[a-z]{1,3}(/[a-z.]{1,3}){0,3}(\\.lock)?"]) {
        if let Ok(branch) = text.parse::<BranchName>() {
            prop_assert!(git_accepts(branch.as_str()), "{branch}");
        }
    }

    #[test]
    fn an_accepted_path_stays_inside_the_repository(text in prop_oneof![any::<String>(), "[a-z./~-]{1,12}"]) {
        if let Ok(path) = text.parse::<RepoPath>() {
            let parts = std::path::Path::new(path.as_str()).components();
            for part in parts {
                prop_assert!(matches!(part, std::path::Component::Normal(_)), "{path}");
            }
        }
    }

    #[test]
    fn parsers_refuse_or_accept_but_never_panic(text in any::<String>()) {
        let _ = text.parse::<TaskKey>().map(|k| k.slug());
        let _ = text.parse::<RepoName>();
        let _ = text.parse::<BranchName>();
        let _ = text.parse::<RepoPath>();
        let _ = text.parse::<StageName>();
        let _ = text.parse::<TaskId>();
        let _ = text.parse::<RunId>();
        let _ = text.parse::<JobId>();
        let _ = text.parse::<WindowId>();
        let _ = text.parse::<CommitSha>().map(|s| s.short().to_owned());
        let _ = Pipeline::parse("p.yaml", &text);
        let _ = serde_json::from_str::<Policy>(&text);
        let _ = artefact::parse_front_matter(artefact::REVIEW_FILE, &text, artefact::MAX_FRONT_MATTER);
    }

    #[test]
    fn pipelines_made_of_likely_words_never_panic_and_keep_the_invariants(
        stages in proptest::collection::vec(
            (
                "[a-e]",
                prop_oneof![
                    Just("agent: developer"), Just("agent: reviewer"), Just("agent: analyst, check: check"),
                    Just("command: test"), Just("land: true"), Just("land: true, agent: developer"), Just("")
                ],
                prop_oneof![3 => Just(String::new()), 1 => "[a-f]".prop_map(|s| format!("next: {s}"))],
                prop_oneof![3 => Just(String::new()), 1 => "[a-f]".prop_map(|s| format!("rollback_to: {s}"))],
            ),
            0..6,
        ),
    ) {
        let mut yaml = String::from("name: made\nstages:\n");
        for (name, work, next, back) in &stages {
            let parts: Vec<&str> = [work, next.as_str(), back.as_str()].into_iter().filter(|p| !p.is_empty()).collect();
            yaml.push_str(&format!("- {{name: {name}, {}}}\n", parts.join(", ")));
        }
        let Ok(pipeline) = Pipeline::parse("made.yaml", &yaml) else { return Ok(()) };
        let lands = |s: &orch_domain::pipeline::Stage| matches!(s.work, orch_domain::pipeline::Work::Land);
        prop_assert_eq!(pipeline.stages.iter().filter(|s| lands(s)).count(), 1, "{}", yaml);
        prop_assert!(lands(&pipeline.stages[pipeline.stages.len() - 1]), "{yaml}");
        for (at, stage) in pipeline.stages.iter().enumerate() {
            let target = pipeline.rollback_target(&stage.name).expect("every stage can be sent back from");
            prop_assert!(matches!(target.work, orch_domain::pipeline::Work::Agent { .. }), "{yaml}");
            let target = pipeline.stages.iter().position(|s| s.name == target.name).expect("one of its own");
            prop_assert!(target <= at, "{yaml}");
        }
    }

    #[test]
    fn backoff_rises_up_to_its_ceiling(first in any::<u64>(), most in any::<u64>(), tries in 1..200_u32) {
        let backoff = Backoff { first: Millis(first), most: Millis(most), tries };
        let delays: Vec<Millis> = (1..=tries).map(|n| backoff.delay(n).expect("within the tries")).collect();
        prop_assert!(delays.is_sorted() && delays.iter().all(|d| d.0 <= most), "{delays:?}");
        prop_assert_eq!(delays[0], Millis(first.min(most)));
        prop_assert_eq!(backoff.delay(tries + 1), None);
    }

    #[test]
    fn time_never_overflows(a in any::<i64>(), b in any::<i64>(), d in any::<u64>()) {
        let (a, b) = (Timestamp(a), Timestamp(b));
        prop_assert!(a.after(Millis(d)) >= a);
        if a >= b {
            prop_assert_eq!(b.since(a), Millis(0));
            // Further apart than an `i64` can say, the distance is cut off, never wrapped.
            prop_assert!(b.after(a.since(b)) <= a);
            if a.0.checked_sub(b.0).is_some() {
                prop_assert_eq!(b.after(a.since(b)), a);
            }
        }
        prop_assert!(!a.to_string().is_empty() && !Millis(d).to_string().is_empty());
        prop_assert!(Millis::from_mins(d) >= Millis::from_secs(d));
    }

    #[test]
    fn run_ids_fit_whatever_the_attempt(id in "[a-z0-9]{4,28}", n in any::<u32>()) {
        let mut task = new_task("lite", Policy::default(), Vec::new());
        task.id = id.parse().expect("valid");
        let run = task.run_id(n);
        prop_assert_eq!(run.as_str(), format!("{id}r{n}"));
    }
}
