//! The full pipeline: what each role must leave, what it may not touch, and where a stage sends the work back to.

use orch::config::{PipelineInline, PipelineSource};
use orch_domain::job::JobKind;
use orch_domain::task::Status;

use crate::world::{Setup, World};

const ANALYST: &str = "  analyst:
  - - artefact: {file: 01-analysis.md, front: {analysis_status: ready}, body: A greeting is wanted}
    - commit: {message: Analyse}
";
const ARCHITECT: &str = "  architect:
  - - expect_prompt: A greeting is wanted
    - artefact: {file: 02-architecture.md, front: {architecture_status: ready}, body: One file holds it}
    - commit: {message: Plan}
";
const DEVELOPER: &str = "  developer:
  - - write: {path: hello.txt, content: \"hello\\n\"}
    - commit: {message: Greet}
";
const REVIEWER: &str = "  reviewer:
  - - artefact: {file: 12-review.md, front: {review_status: approved, reviewed_head: HEAD}, body: Good}
    - commit: {message: Review}
";

fn roles(parts: &[&str]) -> String {
    format!("roles:\n{}", parts.concat())
}

/// A pipeline of the developer, the reviewer and the lane only, so that run numbers are easy to tell: the developer's
/// first run is run 1, the reviewer's run 2.
fn reviewed(setup: Setup) -> Setup {
    setup.repo(|r| r.pipeline = "reviewed".to_owned()).config(|c| {
        let stages = "- {name: development, agent: developer}\n- {name: review, agent: reviewer}\n- {name: deploy, land: true}\n";
        let stages = serde_yaml::from_str(stages).expect("YAML");
        c.pipelines.insert("reviewed".to_owned(), PipelineSource::Inline(PipelineInline { stages }));
    })
}

fn landed_files(world: &World) -> Vec<String> {
    world.git(&["ls-tree", "-r", "--name-only", "main"]).lines().map(str::to_owned).collect()
}

fn kept_copies(world: &World, slug: &str) -> Vec<String> {
    let dir = world.data().join("reports").join(slug);
    let mut found = Vec::new();
    for life in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(life.path()).into_iter().flatten().flatten() {
            found.push(file.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_leaves_its_note_and_the_notes_land_and_are_kept() {
    let script = roles(&[ANALYST, ARCHITECT, DEVELOPER, REVIEWER]);
    let world = Setup::default().agent("team", &script).repo(|r| r.pipeline = "full".into()).open().await;
    let task = world.submit("Greet").await;
    world.expect_status(&task, Status::Done).await;
    let files = landed_files(&world);
    for name in ["01-analysis.md", "02-architecture.md", "12-review.md", "hello.txt"] {
        assert!(files.iter().any(|f| f.ends_with(name)), "{name} did not land: {files:?}");
    }
    let slug = world.board_item(&task).await.key.slug().to_string();
    let kept = kept_copies(&world, &slug);
    for name in ["01-analysis.md", "02-architecture.md", "12-review.md"] {
        assert!(kept.iter().any(|f| f == name), "{name} was not kept: {kept:?}");
    }
    world.expect_journal(&task, &["no `staging` command is configured"]).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_staging_command_sees_the_very_head_before_it_lands() {
    let script = roles(&[ANALYST, ARCHITECT, DEVELOPER, REVIEWER]);
    let world = Setup::default()
        .agent("team", &script)
        .repo(|r| {
            r.pipeline = "full".into();
            r.commands.staging = Some("test -e hello.txt".into());
        })
        .open()
        .await;
    let task = world.submit("Greet").await;
    world.expect_status(&task, Status::Done).await;
    let jobs = world.jobs_of(&task, JobKind::Gate).await;
    assert_eq!(jobs.iter().filter(|l| l.starts_with("staging of ")).count(), 1, "{jobs:?}");
    world.close().await;
}

/// Two want it at once, with slots for three: the second takes none until the first is through.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_repository_at_a_time_is_staged() {
    let world = Setup::default()
        .agent("good", "attempts:\n- - write: {path: good.txt, content: x}\n  - commit: {message: Do it, allow_empty: true}\n")
        .repo(|r| r.pipeline = "staged".to_owned())
        .limits(|l| (l.max_concurrency, l.gate_slots) = (3, 3))
        .config(|c| {
            let stages = "- {name: development, agent: developer}\n- {name: deploy-staging, command: staging}\n- {name: deploy, land: true}\n";
            let stages = serde_yaml::from_str(stages).expect("YAML");
            c.pipelines.insert("staged".to_owned(), PipelineSource::Inline(PipelineInline { stages }));
            let go = c.data_dir.with_file_name("go").display().to_string();
            for repo in c.repos.values_mut() {
                repo.commands.staging = Some(format!("while test ! -e {go}; do sleep 0.02; done"));
            }
        })
        .open()
        .await;
    let tasks = [world.submit("Do it").await, world.submit("Do it too").await];
    let staged = async || {
        let mut jobs = Vec::new();
        for task in &tasks {
            let all = world.job_rows(task).await;
            jobs.extend(all.into_iter().filter(|job| job.record.label.starts_with("staging of ")));
        }
        jobs
    };
    let slots = world
        .wait_for("one to be staged and the other to wait", async || {
            let slots = world.control().queue().await.expect("the queue can be read").gates;
            (slots.waiting == 1 && staged().await.len() == 1).then_some(slots)
        })
        .await;
    assert_eq!((slots.used, slots.total), (1, 3), "it takes no slot while it waits");
    world.give("go");
    for task in &tasks {
        world.expect_status(task, Status::Done).await;
    }
    let mut times: Vec<_> =
        staged().await.into_iter().map(|job| (job.going, job.exit.map(|exit| exit.ended))).collect();
    times.sort();
    assert_eq!(times.len(), 2, "{times:?}");
    assert!(times[0].1.is_some() && times[0].1 <= times[1].0, "they were staged at the same time: {times:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_is_missing_or_broken_goes_back_to_its_writer() {
    let analyst = "  analyst:
  - - say: {text: nothing to write}
  - - expect_prompt: did not write
    - artefact: {file: 01-analysis.md, front: {analysis_status: finished}, body: x}
    - commit: {message: Analyse badly}
  - - expect_prompt: \"`analysis_status` is `finished`; write `ready` or `blocked`\"
    - artefact: {file: 01-analysis.md, front: {analysis_status: ready}, body: A greeting is wanted}
    - commit: {message: Analyse}
";
    let script = roles(&[analyst, ARCHITECT, DEVELOPER, REVIEWER]);
    let world = Setup::default().agent("team", &script).repo(|r| r.pipeline = "full".into()).open().await;
    let task = world.submit("Greet").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 2);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_that_touches_code_is_refused_and_its_commits_are_not_taken() {
    let analyst = "  analyst:
  - - write: {path: sneaky.txt, content: x}
    - artefact: {file: 01-analysis.md, front: {analysis_status: ready}, body: x}
    - commit: {message: Sneak}
  - - expect_prompt: sneaky.txt
    - run: {cmd: \"test ! -e sneaky.txt\"}
    - artefact: {file: 01-analysis.md, front: {analysis_status: ready}, body: A greeting is wanted}
    - commit: {message: Analyse}
";
    let script = roles(&[analyst, ARCHITECT, DEVELOPER, REVIEWER]);
    let world = Setup::default().agent("team", &script).repo(|r| r.pipeline = "full".into()).open().await;
    let task = world.submit("Greet").await;
    world.expect_status(&task, Status::Done).await;
    assert!(!landed_files(&world).iter().any(|f| f == "sneaky.txt"));
    assert!(!world.git(&["log", "--format=%s", "main"]).contains("Sneak"), "a refused commit is in the history");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_that_cannot_go_on_asks_a_person() {
    let analyst = "  analyst:
  - - artefact: {file: 01-analysis.md, front: {analysis_status: blocked}, body: Which language shall it greet in?}
    - commit: {message: Ask}
";
    let script = roles(&[analyst]);
    let world = Setup::default().agent("team", &script).repo(|r| r.pipeline = "full".into()).open().await;
    let task = world.submit("Greet").await;
    world.expect_blocked(&task, "Which language").await;
    world.expect_on_board(&task, "Blocked").await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_that_asks_for_changes_sends_the_findings_to_the_developer() {
    let script = "roles:
  developer:
  - - write: {path: hello.txt, content: \"helo\\n\"}
    - commit: {message: Greet}
  - - expect_prompt: it says helo, not hello
    - write: {path: hello.txt, content: \"hello\\n\"}
    - commit: {message: Spell}
  reviewer:
  - - artefact: {file: 12-review.md, front: {review_status: changes_requested, reviewed_head: HEAD}, body: \"it says helo, not hello\"}
    - commit: {message: Ask for changes}
  - - artefact: {file: 12-review.md, front: {review_status: approved, reviewed_head: HEAD}, body: Good}
    - commit: {message: Review}
";
    let world = reviewed(Setup::default().agent("team", script)).open().await;
    let task = world.submit("Greet").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    assert_eq!(world.git(&["show", "main:hello.txt"]), "hello");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_of_another_commit_is_written_again() {
    let script = "roles:
  developer:
  - - write: {path: hello.txt, content: \"hello\\n\"}
    - commit: {message: Greet}
  reviewer:
  - - artefact: {file: 12-review.md, front: {review_status: approved, reviewed_head: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}, body: Good}
    - commit: {message: Review something else}
  - - expect_prompt: but the commit to review is
    - artefact: {file: 12-review.md, front: {review_status: approved, reviewed_head: HEAD}, body: Good}
    - commit: {message: Review}
";
    let world = reviewed(Setup::default().agent("team", script)).open().await;
    let task = world.submit("Greet").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    let log = world.git(&["log", "--format=%s", "main"]);
    assert!(!log.contains("something else"), "the void review is in the history:\n{log}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_stripped_before_landing_where_the_settings_say_so() {
    let script = roles(&[ANALYST, ARCHITECT, DEVELOPER, REVIEWER]);
    let world = Setup::default()
        .agent("team", &script)
        .repo(|r| {
            r.pipeline = "full".into();
            r.keep_artefacts = false;
        })
        .open()
        .await;
    let task = world.submit("Greet").await;
    world.expect_status(&task, Status::Done).await;
    assert_eq!(landed_files(&world), ["check.sh", "hello.txt"]);
    let slug = world.board_item(&task).await.key.slug().to_string();
    assert!(kept_copies(&world, &slug).iter().any(|f| f == "12-review.md"), "the copies are kept all the same");
    world.close().await;
}
