//! The audit of dependencies in the whole: a branch that adds a known hole goes back, nobody is blamed for an old one, and
//! a feed that is away is said loudly. The service is on loopback; everything else is real.

use orch_domain::task::Status;
use orch_test_support::osv::{Mood, OsvStub, advisory};

use crate::world::{CHECK, Setup, World, commit_file, git_init};

/// A service that knows one hole, in versions 2.4 and 2.5 of one package.
fn service() -> OsvStub {
    let stub = OsvStub::start();
    stub.publish(advisory(&["GHSA-jinja", "CVE-2016-10745"], "PyPI", "jinja2", &["2.4", "2.5"], "2.8.1"));
    stub
}

/// A world whose audit asks the service, over a repository with these files.
async fn world(script: &str, endpoint: &str, files: &[(&str, &str)], closed: bool) -> World {
    let endpoint = endpoint.to_owned();
    let setup = Setup::default().agent("author", script).limits(|l| l.infrastructure_retries = 2).config(move |c| {
        c.gates.security.dep_audit_endpoint = endpoint;
        c.gates.security.dep_audit_fail_closed = closed;
    });
    setup
        .open_over("repo", |repo| {
            git_init(repo);
            commit_file(repo, "check.sh", CHECK, "Begin");
            for (path, text) in files {
                commit_file(repo, path, text, &format!("Add {path}"));
            }
        })
        .await
}

/// Pins the package at these versions, one attempt each; each but the first is told the finding.
fn pins(versions: &[&str]) -> String {
    let mut script = "attempts:\n".to_owned();
    for (at, version) in versions.iter().enumerate() {
        let first =
            if at == 0 { "" } else { "  - expect_prompt: \"PyPI jinja2 2.4 (requirements.txt:1): GHSA-jinja\"\n" };
        let write = format!(
            "  - write: {{path: requirements.txt, content: \"jinja2=={version}\\n\"}}\n  - commit: {{message: Use {version}}}\n"
        );
        let steps = format!("{first}{write}");
        script.push_str(&steps.replacen("  - ", "- - ", 1));
    }
    script
}

/// The report that the landing names.
async fn report(world: &World, task: &orch_domain::view::TaskView) -> String {
    let gates = world.proof(task).await["gates"].clone();
    let gates = gates.as_array().expect("a list");
    let security = gates.iter().find(|gate| gate["gate"] == "security").expect("in the proof");
    world.report_of(security)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_hole_goes_back_with_the_finding_and_lands_after_the_bump() {
    let stub = service();
    let world = world(&pins(&["2.4", "2.8.1"]), stub.url(), &[], false).await;
    let task = world.submit("Use templates").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    assert_eq!(world.git(&["show", "main:requirements.txt"]), "jinja2==2.8.1");
    for entry in
        ["gate-failed: the security gate failed: 1 known advisory in dependencies", "1 dependency added, 1 clean"]
    {
        world.expect_journal(&task, &[entry]).await;
    }
    let report = report(&world, &task).await;
    assert!(report.contains("name: osv") && report.contains("1 dependency added, 1 clean"), "{report}");
    let audit = world.control().queue().await.expect("a view").security.audit.expect("it is on");
    assert_eq!((audit.failed, audit.degraded, audit.last_gap), (1, 0, None));
    assert!(audit.whole >= 1 && audit.feed.contains(stub.url()), "{}", audit.feed);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_blamed_for_a_hole_that_main_has() {
    let stub = service();
    let world = world(&pins(&["2.5"]), stub.url(), &[("requirements.txt", "jinja2==2.4\n")], true).await;
    let task = world.submit("Raise it a little").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 0);
    let report = report(&world, &task).await;
    assert!(report.contains("### Advisories that base has too\n\n- PyPI jinja2 2.5"), "{report}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_away_lands_with_a_loud_warning() {
    let stub = service();
    stub.set_mood(Mood::Status(404));
    let world = world(&pins(&["2.4"]), stub.url(), &[], false).await;
    let task = world.submit("Use templates").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 0);
    world
        .expect_journal(&task, &["warning: the dependency audit is incomplete: requirements.txt:1: PyPI jinja2 2.4: "])
        .await;
    let report = report(&world, &task).await;
    assert!(report.contains("**Note:** the dependency audit is incomplete"), "{report}");
    let audit = world.control().queue().await.expect("a view").security.audit.expect("it is on");
    assert!(audit.degraded >= 1 && audit.last_gap.is_some_and(|gap| gap.why.contains("answers 404")));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_away_blocks_where_whole_answers_are_demanded_and_costs_the_developer_nothing() {
    let stub = service();
    stub.set_mood(Mood::Status(404));
    let world = world(&pins(&["2.8.1"]), stub.url(), &[], true).await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Use templates").await;
    let blocked = world.expect_blocked(&task, "dep_audit_fail_closed").await;
    assert_eq!(blocked.task.attempts.developer_retries, 0);
    assert_eq!(world.git(&["rev-parse", "main"]), before, "nothing landed");
    // The feed is back, and a person says: again.
    stub.set_mood(Mood::Good);
    world.retry(&task).await.expect("it goes on");
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_main_lives_with_lands_and_what_it_lived_with_does_not() {
    let list = |expires: &str| {
        format!(
            "gates:\n  security:\n    dep_audit_ignore:\n      - {{id: CVE-2016-10745, reason: own templates only, expires: {expires}}}\n"
        )
    };
    let stub = service();
    let lasting = world(&pins(&["2.4"]), stub.url(), &[(".orch.yaml", &list("2999-12-31"))], false).await;
    let task = lasting.submit("Use templates").await;
    lasting.expect_status(&task, Status::Done).await;
    let text = report(&lasting, &task).await;
    assert!(text.contains("### Ignored") && text.contains("ignored until 2999-12-31: own templates only"), "{text}");
    lasting.close().await;
    let over = world(&pins(&["2.4", "2.8.1"]), stub.url(), &[(".orch.yaml", &list("2020-12-31"))], false).await;
    let task = over.submit("Use templates").await;
    let done = over.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    over.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_it_says_nothing_asks_nobody_and_changes_nothing() {
    let stub = service();
    let mut journals = Vec::new();
    for (gate, audit) in [(true, false), (false, true)] {
        let endpoint = stub.url().to_owned();
        let setup = Setup::default().agent("author", &pins(&["2.4"])).config(move |c| {
            c.gates.security.enabled = gate;
            c.gates.security.dep_audit_enabled = audit;
            c.gates.security.dep_audit_endpoint = endpoint;
        });
        let world = setup.open().await;
        let task = world.submit("Use templates").await;
        world.expect_status(&task, Status::Done).await;
        journals.push(world.journal(&task).await.join("\n"));
        if gate {
            assert!(world.control().queue().await.expect("a view").security.audit.is_none());
            assert!(report(&world, &task).await.contains("The audit is switched off."));
        }
        world.close().await;
    }
    for journal in journals {
        assert!(!journal.contains("dependency") && !journal.contains("warning"), "{journal}");
    }
    assert!(stub.take_asked().is_empty());
}
