//! The part about dependencies, over real git, a service on loopback and the real pip-audit: what the branch adds fails it,
//! what base has does not, and what nobody answers for is said.

use orch_adapters::advisories::FeedKind;
use orch_domain::time::Millis;
use orch_test_support::osv::{Mood, OsvStub, advisory};

use super::*;

const IGNORES: &str = ".orch.yaml";

/// A service that knows one hole, in versions 2.4 and 2.5 of one package.
fn service() -> OsvStub {
    let stub = OsvStub::start();
    stub.publish(advisory(&["GHSA-jinja", "CVE-2016-10745"], "PyPI", "jinja2", &["2.4", "2.5"], "2.8.1"));
    stub
}

fn osv(stub: &OsvStub) -> FeedKind {
    FeedKind::Osv { endpoint: stub.url().to_owned() }
}

/// Asks the gate with the audit on.
async fn judge(scene: &Scene, base: &CommitSha, feed: FeedKind, change: impl FnOnce(&mut Context)) -> GateAnswer {
    let on = |ctx: &mut Context| {
        ctx.security.audit.enabled = true;
        ctx.security.audit.feed = feed;
        change(ctx);
    };
    scene.judge_with(base, EngineKind::Builtin, on).await
}

fn counted(answer: &GateAnswer, name: &str) -> Option<u64> {
    Scene::report(answer).header.counts.iter().find(|count| count.name == name).map(|count| count.value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_hole_that_the_branch_adds_fails_and_one_that_base_has_does_not() {
    let (scene, stub) = (Scene::new().await, service());
    scene.write("requirements.txt", "flask==3.0\n");
    scene.commit("Begin to pin");
    let base = scene.branch();
    scene.write("requirements.txt", "flask==3.0\njinja2==2.4\n");
    scene.commit("Use templates");
    let answer = judge(&scene, &base, osv(&stub), |_| {}).await;
    let text = findings(&answer);
    for part in [
        "1 known advisory in dependencies that this branch adds",
        "PyPI jinja2 2.4 (requirements.txt:2): GHSA-jinja (also CVE-2016-10745)",
        "fixed in 2.8.1",
        "dep_audit_ignore",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let report = Scene::report(&answer);
    assert!(report.header.tools.iter().any(|tool| tool.name == "osv" && tool.version == stub.url()));
    assert!(report.body.contains("### New advisories") && report.body.contains("GHSA-jinja"), "{}", report.body);
    assert_eq!((counted(&answer, "advisories_new"), counted(&answer, "dependencies_added")), (Some(1), Some(1)));
    assert!(!format!("{:?}", stub.take_asked()).contains("flask"), "what base has is nobody's question");

    // The same hole on main: a bump that keeps it is told apart and passes, and the bump that ends it is clean.
    scene.git(&["checkout", "--quiet", "-B", "main"]);
    let base = scene.branch();
    scene.write("requirements.txt", "flask==3.0\njinja2==2.5\n");
    scene.commit("Raise it a little");
    let answer = judge(&scene, &base, osv(&stub), |_| {}).await;
    assert!(passed(&answer).is_empty(), "{answer:?}");
    assert_eq!((counted(&answer, "advisories_new"), counted(&answer, "advisories_old")), (Some(0), Some(1)));
    assert!(Scene::report(&answer).body.contains("### Advisories that base has too\n\n- PyPI jinja2 2.5"));
    scene.write("requirements.txt", "flask==3.0\njinja2==2.8.1\n");
    scene.commit("Raise it enough");
    let answer = judge(&scene, &base, osv(&stub), |_| {}).await;
    let CheckEnd::Passed { note, .. } = &answer.end else { panic!("{answer:?}") };
    assert!(note.ends_with("; 1 dependency added, 1 clean"), "{note}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_prompt_holds_secrets_and_advisories_and_tells_no_secret_by_a_file_s_name() {
    let (scene, stub) = (Scene::new().await, service());
    let base = scene.branch();
    scene.write(&format!("{}/requirements.txt", token(70)), "jinja2==2.4\nflask\n");
    scene.commit("Work");
    let answer = judge(&scene, &base, osv(&stub), |_| {}).await;
    let text = findings(&answer);
    assert!(
        text.starts_with("1 secret in what this branch brings") && text.contains("; 1 known advisory in"),
        "{text}"
    );
    assert!(text.contains("(secret)/requirements.txt:1"), "{text}");
    assert_silent(&answer, &token(70));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_when_nothing_is_added_or_the_audit_is_off() {
    let (scene, stub) = (Scene::new().await, service());
    scene.write("requirements.txt", "jinja2==2.4\n");
    scene.commit("Pin");
    let base = scene.branch();
    scene.write("a.txt", "a\n");
    scene.commit("Work");
    let answer = judge(&scene, &base, osv(&stub), |_| {}).await;
    assert!(passed(&answer).is_empty());
    assert_eq!(counted(&answer, "dependencies_added"), Some(0));
    scene.write("requirements.txt", "jinja2==2.4\nmarkupsafe==1.0\n");
    scene.commit("Add");
    let answer = judge(&scene, &base, osv(&stub), |ctx| ctx.security.audit.enabled = false).await;
    assert!(passed(&answer).is_empty());
    let report = Scene::report(&answer);
    assert!(report.body.contains("The audit is switched off."), "{}", report.body);
    assert_eq!(counted(&answer, "dependencies_added"), None);
    assert!(stub.take_asked().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_in_any_bad_mood_passes_loudly_and_closed_it_is_our_trouble_and_not_the_branchs() {
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("requirements.txt", "flask==3.0\n");
    scene.write("Cargo.lock", lock("serde", "1.0.1"));
    scene.commit("Pin");
    for mood in [Mood::Status(404), Mood::Html, Mood::Garbage, Mood::Cut, Mood::Short, Mood::Hanging] {
        let stub = service();
        stub.set_mood(mood);
        let short = |ctx: &mut Context| ctx.security.audit.timeout = Millis::from_secs(3);
        let answer = judge(&scene, &base, osv(&stub), short).await;
        let [warning] = passed(&answer) else { panic!("{mood:?}: {answer:?}") };
        let begins = "the dependency audit is incomplete: 2 dependencies (crates.io serde 1.0.1, PyPI flask 3.0): ";
        assert!(warning.starts_with(begins), "{mood:?}: {warning}");
        let report = Scene::report(&answer);
        assert!(report.header.notes.iter().any(|note| note == warning), "{:?}", report.header.notes);
        assert!(report.body.contains("### Not known"), "{}", report.body);
        assert_eq!(counted(&answer, "dependencies_unknown"), Some(2), "{mood:?}");
        let closed = |ctx: &mut Context| {
            short(ctx);
            ctx.security.audit.fail_closed = true;
        };
        let answer = judge(&scene, &base, osv(&stub), closed).await;
        let said = why(&answer);
        assert!(said.contains("dep_audit_fail_closed") && !said.contains("no secret"), "{mood:?}: {said}");
        assert_eq!(Scene::report(&answer).verdict.as_str(), "could_not_run");
    }
    // It is back: what could not run is not used again.
    let stub = service();
    let closed = |ctx: &mut Context| ctx.security.audit.fail_closed = true;
    assert!(passed(&judge(&scene, &base, osv(&stub), closed).await).is_empty());
}

fn lock(name: &str, version: &str) -> String {
    let source = ["registry+https://", "github.com/rust-lang/crates.io-index"].concat();
    format!("version = 4\n\n[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"{source}\"\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_branch_does_not_pin_passes_loudly_and_closed_it_fails() {
    let (scene, stub) = (Scene::new().await, service());
    let base = scene.branch();
    scene.write("requirements.txt", "flask>=3\n");
    scene.write("package-lock.json", "{ broken");
    scene.commit("Wish");
    let answer = judge(&scene, &base, osv(&stub), |_| {}).await;
    let [warning] = passed(&answer) else { panic!("{answer:?}") };
    assert!(warning.contains("package-lock.json") && warning.contains("(and 1 more)"), "{warning}");
    let answer = judge(&scene, &base, osv(&stub), |ctx| ctx.security.audit.fail_closed = true).await;
    let text = findings(&answer);
    assert!(text.contains("requirements.txt:1: flask") && text.contains("Pin each dependency"), "{text}");
    assert!(stub.take_asked().is_empty(), "there is no version to ask about");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_ignore_an_advisory_on_main_for_a_time_and_a_branch_cannot() {
    let entry = |id: &str, expires: &str| {
        format!(
            "gates:\n  security:\n    dep_audit_ignore:\n      - {{id: {id}, reason: never reached, expires: {expires}}}\n"
        )
    };
    let ask = async |on_main: Option<String>, on_branch: Option<String>| {
        let (scene, stub) = (Scene::new().await, service());
        if let Some(list) = on_main {
            scene.write(IGNORES, list);
            scene.commit("Live with it");
        }
        let base = scene.branch();
        scene.write("requirements.txt", "jinja2==2.4\n");
        if let Some(list) = on_branch {
            scene.write(IGNORES, list);
        }
        scene.commit("Use templates");
        // The report lies in the scene.
        (judge(&scene, &base, osv(&stub), |_| {}).await, scene)
    };
    // By any of its names, and told.
    let (answer, _scene) = ask(Some(entry("CVE-2016-10745", "2999-01-31")), None).await;
    assert!(passed(&answer).is_empty());
    assert_eq!(counted(&answer, "advisories_ignored"), Some(1));
    assert!(Scene::report(&answer).body.contains("ignored until 2999-01-31: never reached"));
    // Its day is over; it is another one; it stands on the branch alone.
    let (answer, _) = ask(Some(entry("GHSA-jinja", "2020-01-31")), None).await;
    assert!(findings(&answer).contains("was ignored until 2020-01-31, which is over"), "{answer:?}");
    findings(&ask(Some(entry("CVE-2016-1", "2999-01-31")), None).await.0);
    findings(&ask(None, Some(entry("GHSA-jinja", "2999-01-31"))).await.0);
    // A list that is not understood: perhaps a person has decided, so nobody is sent back.
    let (answer, _) = ask(Some(entry("GHSA-jinja", "soon")), None).await;
    let said = why(&answer);
    assert!(said.contains("`soon` is no day") && said.contains("mend it on main"), "{said}");
    assert!(said.contains("GHSA-jinja"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_answers_without_any_service_and_old_data_are_said_to_be_old() {
    let scene = Scene::new().await;
    let data = scene.world.root.path().join("advisories of the house");
    for (ecosystem, name, version, fixed) in
        [("PyPI", "jinja2", "2.4", "2.8.1"), ("crates.io", "old", "0.1.0", "0.2.0")]
    {
        let hole = advisory(&[&format!("GHSA-{name}")], ecosystem, name, &[version], fixed);
        fs::create_dir_all(data.join(ecosystem)).expect("made");
        fs::write(data.join(ecosystem).join("a.json"), hole.to_string()).expect("written");
    }
    let feed = |days: u64| FeedKind::Folder { folder: data.clone(), stale_after: Millis::from_mins(days * 24 * 60) };
    let base = scene.branch();
    scene.write("requirements.txt", "jinja2==2.8.1\n");
    scene.write("Cargo.lock", lock("serde", "1.0.1"));
    scene.commit("Pin");
    assert!(passed(&judge(&scene, &base, feed(7), |_| {}).await).is_empty());
    let answer = judge(&scene, &base, feed(0), |_| {}).await;
    let [warning] = passed(&answer) else { panic!("{answer:?}") };
    assert!(warning.contains("the advisories for") && warning.contains("old"), "{warning}");
    scene.write("Cargo.lock", lock("old", "0.1.0"));
    scene.commit("Another");
    assert!(findings(&judge(&scene, &base, feed(7), |_| {}).await).contains("crates.io old 0.1.0 (Cargo.lock"));
    // npm has no data in it.
    scene.write(
        "package-lock.json",
        "{\"lockfileVersion\": 3, \"packages\": {\"node_modules/a\": {\"version\": \"1.0.0\"}}}",
    );
    scene.write("Cargo.lock", lock("serde", "1.0.1"));
    scene.commit("And npm");
    let answer = judge(&scene, &base, feed(7), |_| {}).await;
    let [warning] = passed(&answer) else { panic!("{answer:?}") };
    assert!(warning.contains("npm a 1.0.0") && warning.contains("there are no advisories in"), "{warning}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_pip_audit_is_asked_about_python_and_the_service_about_the_rest() {
    let (scene, stub) = (Scene::new().await, service());
    stub.publish(advisory(&["GHSA-old"], "crates.io", "old", &["0.1.0"], "0.2.0"));
    let base = scene.branch();
    scene.write("requirements.txt", "jinja2==2.4\n");
    scene.write("Cargo.lock", lock("old", "0.1.0"));
    scene.commit("Pin");
    let tool = |program: String| FeedKind::PipAudit { endpoint: stub.url().to_owned(), program };
    let program = tools::pip_audit().to_string_lossy().into_owned();
    let answer = judge(&scene, &base, tool(program), |_| {}).await;
    let text = findings(&answer);
    assert!(text.contains("2 known advisories"), "{text}");
    assert!(text.contains("PyPI jinja2 2.4 (requirements.txt:1): CVE-2016-10745 (also GHSA-jinja)"), "{text}");
    assert!(text.contains("crates.io old 0.1.0"), "{text}");
    let header = Scene::report(&answer).header;
    let version = header.tools.iter().find(|tool| tool.name == "pip-audit").map(|tool| tool.version.as_str());
    assert_eq!(version, Some("2.10.1"), "{header:?}");
    // Without the tool half is unknown, and the other half counts.
    let answer = judge(&scene, &base, tool("no-such-pip-audit".to_owned()), |_| {}).await;
    assert!(findings(&answer).starts_with("1 known advisory"), "{answer:?}");
    let body = Scene::report(&answer).body;
    assert!(body.contains("PyPI jinja2 2.4: pip-audit: it could not be started"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_catch_up_only_what_it_made_is_asked_about() {
    let (scene, stub) = (Scene::new().await, service());
    let base = scene.branch();
    scene.write("requirements.txt", "flask==3.0\n");
    scene.commit("Pin");
    let own = scene.publish().await;
    scene.git(&["checkout", "--quiet", "-B", "main", base.as_str()]);
    scene.write("theirs.txt", "theirs\n");
    let main_at = scene.commit("Others");
    scene.git(&["checkout", "--quiet", "work"]);
    scene.git(&["rebase", "--quiet", "main"]);
    let head = scene.publish().await;
    let mut ctx = scene.world.context();
    ctx.security.engine = EngineKind::Builtin;
    ctx.security.audit.enabled = true;
    ctx.security.audit.feed = osv(&stub);
    let subject = scene.subject(&main_at, &head);
    let answer = bounded(security::run(&ctx, &subject, std::slice::from_ref(&own))).await;
    assert!(passed(&answer).is_empty());
    assert!(stub.take_asked().is_empty(), "it was judged before");
    // Whoever resolves a conflict may bring something new.
    scene.write("requirements.txt", "flask==3.0\njinja2==2.4\n");
    scene.git(&["commit", "--quiet", "--all", "--amend", "-m", "Pin, resolved"]);
    let head = scene.publish().await;
    let answer = bounded(security::run(&ctx, &scene.subject(&main_at, &head), &[own])).await;
    assert!(findings(&answer).contains("jinja2 2.4"), "{answer:?}");
    assert!(!format!("{:?}", stub.take_asked()).contains("flask"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_counts_for_the_settings_that_it_was_given_under() {
    let (scene, stub) = (Scene::new().await, service());
    let base = scene.branch();
    scene.write("requirements.txt", "flask==3.0\n");
    scene.commit("Pin");
    let again = GateAnswer::was_known;
    assert!(!again(&judge(&scene, &base, osv(&stub), |_| {}).await));
    drop(stub.take_asked());
    assert!(again(&judge(&scene, &base, osv(&stub), |_| {}).await));
    assert!(stub.take_asked().is_empty());
    assert!(!again(&judge(&scene, &base, osv(&stub), |ctx| ctx.security.audit.fail_closed = true).await));
    assert!(!again(&judge(&scene, &base, osv(&stub), |ctx| ctx.security.audit.enabled = false).await));
    let other = service();
    assert!(!again(&judge(&scene, &base, osv(&other), |_| {}).await));
    // No longer than an answer of the service counts.
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("requirements.txt", "flask==3.0\n");
    scene.commit("Pin");
    for _ in 0..2 {
        let answer = judge(&scene, &base, osv(&stub), |ctx| ctx.security.audit.cache_age = Millis(0)).await;
        assert!(!again(&answer));
        assert!(!stub.take_asked().is_empty());
    }
}
