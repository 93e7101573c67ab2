//! The merge and the image gate asked by hand: the same questions as in a landing, about any two commits, and the repository
//! stays as it was.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::security::Desk;
use crate::world::{commit_file, git};

/// Settings that name the repository's commands, and its image.
fn settings(desk: &Desk, repo: &str) -> String {
    settings_for(desk, &desk.repo, repo)
}

fn settings_for(desk: &Desk, path: &Path, repo: &str) -> String {
    let file = desk.root.path().join("orch.yaml");
    let text = format!(
        "default_agent: maker\nagents: {{maker: {{kind: command, command: 'true'}}}}\n\
         repos: {{shop: {{path: '{}', pipeline: lite, {repo}}}}}\n",
        path.display()
    );
    std::fs::write(&file, text).expect("written");
    file.display().to_string()
}

/// Passes unless both files are there; names its test.
const PAIR: &str = "if test -e one && test -e two; then echo 'test pair::get_along ... FAILED'; \
                    echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 1; fi; \
                    echo 'test result: ok. 2 passed; 0 failed; 0 ignored'\n";

#[test]
fn by_hand_the_merge_gate_tests_the_branch_on_top_of_its_base() {
    let desk = Desk::new();
    commit_file(&desk.repo, "pair.sh", PAIR, "Test");
    for (branch, path) in [("good", "three"), ("pair", "two"), ("clash", "one")] {
        git(&desk.repo, &["checkout", "--quiet", "-b", branch, "main"]);
        commit_file(&desk.repo, path, branch, &format!("Add {path}"));
    }
    git(&desk.repo, &["checkout", "--quiet", "main"]);
    commit_file(&desk.repo, "one", "main", "Add one on main");
    let refs = git(&desk.repo, &["for-each-ref"]);
    let config = settings(&desk, "commands: {test: sh pair.sh}");
    let report = desk.root.path().join("report.md").display().to_string();
    let ask = |head: &str| {
        desk.orch(&["gate", "merge", "--config", &config, "--base", "main", "--head", head, "--report", &report])
    };

    let (code, text) = ask("good");
    assert!(code == 0 && text.starts_with("merge: passed ("), "{code}: {text}");
    let written = std::fs::read_to_string(&report).expect("a report");
    assert!(written.contains("merge_status: passed") && written.contains("rebased onto"), "{written}");

    let (code, text) = ask("pair");
    assert!(code == 1 && text.contains("pair::get_along") && text.contains("main alone passes"), "{code}: {text}");
    let written = std::fs::read_to_string(&report).expect("a report");
    assert!(written.contains("merge_status: failed") && written.contains("pair::get_along"), "{written}");

    let (code, text) = ask("clash");
    assert_eq!(code, 1, "{text}");
    for part in ["Conflicting paths", "one", "Add one on main", "Your commits"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }

    assert_eq!(git(&desk.repo, &["for-each-ref"]), refs, "refs were moved");
    assert_eq!(git(&desk.repo, &["status", "--porcelain"]), "");

    // Without a test there is nothing to say.
    let config = settings(&desk, "priority: 0");
    let (code, text) = desk.orch(&["gate", "merge", "--config", &config, "--base", "main", "--head", "good"]);
    assert!(code == 2 && text.contains("test"), "{code}: {text}");
}

/// In a clone with a feature branch checked out, `main` is what `--base` names.
#[test]
fn by_hand_the_base_is_called_by_the_name_that_was_given_whatever_is_checked_out() {
    let desk = Desk::new();
    let clone = desk.root.path().join("clone");
    git(desk.root.path(), &["clone", "--quiet", &desk.repo.display().to_string(), "clone"]);
    let base = git(&clone, &["rev-parse", "--short=10", "origin/main"]);
    git(&clone, &["checkout", "--quiet", "-b", "feat2"]);
    commit_file(&clone, "one", "mine", "Mine");
    commit_file(&desk.repo, "one", "theirs", "Theirs");
    git(&clone, &["fetch", "--quiet"]);
    let config = settings_for(&desk, &clone, "commands: {test: \"echo '1 passed, 0 failed'\"}");
    let at = clone.display().to_string();
    let ask = |base: &str, head: &str| {
        desk.orch(&["gate", "merge", "--config", &config, "--repo", &at, "--base", base, "--head", head])
    };
    let (code, text) = ask("origin/main", "feat2");
    assert!(code == 1 && text.contains("conflicts with main at"), "{code}: {text}");
    assert!(text.contains("Commits on main:") && text.contains("Merge or rebase `origin/main`"), "{text}");
    assert!(!text.contains("feat2"), "{text}");
    // Where no branch is named, the commit is: nobody calls it by a branch that it is not.
    let tip = git(&clone, &["rev-parse", "origin/main"]);
    let (code, text) = ask(&tip, "feat2");
    assert!(code == 1 && text.contains(&format!("Merge or rebase `{tip}`")) && !text.contains("feat2"), "{text}");
    let (code, text) = ask(&format!("{base}~0"), "feat2");
    assert_eq!(code, 0, "nothing to catch up with: {text}");
}

/// Knows one image by what stands in the file `label` beside it; without that file nobody answers.
const DOCKER: &str = r#"#!/bin/sh
at=$(dirname "$0")
test -e "$at/label" || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
case "$1" in
version) echo 27.0;;
image) printf '[{"Id":"sha256:4711","Config":{"Labels":{"org.opencontainers.image.revision":"%s"}}}]\n' "$(cat "$at/label")";;
*) exit 64;;
esac
"#;

#[test]
fn by_hand_the_image_gate_looks_at_the_image_that_the_settings_name() {
    let desk = Desk::new();
    let bin = desk.root.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    std::fs::write(bin.join("docker"), DOCKER).expect("written");
    std::fs::set_permissions(bin.join("docker"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    commit_file(&desk.repo, "b.txt", "b\n", "Work");
    let ask = |config: &str| desk.orch(&["gate", "image-freshness", "--config", config, "--base", "HEAD~1"]);

    let (code, text) = ask(&settings(&desk, "priority: 0"));
    assert!(code == 0 && text.contains("not applicable"), "{code}: {text}");

    let config = settings(&desk, "image: 'shop:latest'");
    let (code, text) = ask(&config);
    assert!(code == 2 && text.contains("unreachable"), "{code}: {text}");
    std::fs::write(bin.join("label"), git(&desk.repo, &["rev-parse", "HEAD"])).expect("written");
    let (code, text) = ask(&config);
    assert!(code == 0 && text.contains("is fresh"), "{code}: {text}");
    std::fs::write(bin.join("label"), git(&desk.repo, &["rev-parse", "HEAD~1"])).expect("written");
    let (code, text) = ask(&config);
    assert!(code == 1 && text.contains("is stale"), "{code}: {text}");

    // Looking builds nothing, and so gives no name away; who wants that says so.
    let config = settings(&desk, "image: 'shop:latest', commands: {build_image: 'echo it was built; exit 3'}");
    let (code, text) = ask(&config);
    assert!(code == 1 && text.contains("is stale"), "{code}: {text}");
    let built = ["gate", "image-freshness", "--config", &config, "--base", "HEAD~1", "--build"];
    let (code, text) = desk.orch(&built);
    assert!(code == 1 && text.contains("it was built"), "{code}: {text}");
    let (code, text) = desk.orch(&["gate", "merge", "--config", &config, "--base", "HEAD~1", "--build"]);
    assert!(code == 64 && text.contains("image-freshness"), "{code}: {text}");
}
