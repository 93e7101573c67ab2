//! Attempts that fail, are cut off, or never begin: what they cost, what the next one is told, and where it ends.

use orch::config::{AgentConfig, CommandLine, PipelineInline, PipelineSource};
use orch_domain::agent::AgentKind;
use orch_domain::task::Status;
use orch_domain::time::Millis;

use crate::world::Setup;
use crate::world::crash::processes_of;

const GOOD: &str = "- - write: {path: good.txt, content: x}\n  - commit: {message: Do it well}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_stays_red_is_blocked_with_main_untouched_until_a_person_lets_it_go_on() {
    // Two attempts stay red, then it is blocked; a person's retry is the third.
    let script = "attempts:
- &red
  - write: {path: red, content: x}
  - commit: {message: Break it, allow_empty: true}
- *red
- - expect_prompt: Findings to deal with
  - delete: {path: red}
  - write: {path: green, content: x}
  - commit: {message: Mend it}
";
    let world = Setup::default().agent("stubborn", script).limits(|l| l.max_developer_retries = 1).open().await;
    let before = world.git(&["rev-parse", "main"]);
    let task = world.submit("Be green").await;
    let blocked = world.expect_blocked(&task, "sent back as often as allowed").await;
    assert_eq!(blocked.task.attempts.developer_retries, 1);
    assert!(blocked.why.hint.is_some(), "a blocked task says what a person can do");
    assert_eq!(world.git(&["rev-parse", "main"]), before);
    world.expect_on_board(&task, "Blocked").await;
    world.expect_comment(&task, "Blocked: ").await;
    world.retry(&task).await.expect("a blocked task goes on");
    world.expect_status(&task, Status::Done).await;
    world.expect_on_board(&task, "Done").await;
    assert_eq!(world.git(&["show", "main:green"]), "x");
    let refused = world.retry(&task).await.expect_err("what is done has nothing to go on with");
    assert!(refused.to_string().contains("closed"), "{refused}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_commits_nothing_is_told_so() {
    let script = "attempts:
- - say: {text: I thought about it}
- - expect_prompt: without any commit
  - write: {path: good.txt, content: x}
  - commit: {message: Do it}
";
    let world = Setup::default().agent("idle", script).open().await;
    let task = world.submit("Do something").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_fails_is_tried_again_on_top_of_what_it_had_committed() {
    let script = "attempts:
- - write: {path: first.txt, content: x}
  - commit: {message: Half of it}
  - exit: {code: 7}
- - expect_prompt: exit code 7
  - run: {cmd: \"test -e first.txt\"}
  - write: {path: second.txt, content: x}
  - commit: {message: The other half}
";
    let world = Setup::default().agent("clumsy", script).open().await;
    let task = world.submit("Do both").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 1);
    assert_eq!(world.git(&["show", "main:first.txt"]), "x");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_is_resumed_with_its_leftovers_as_a_commit_and_costs_no_retry() {
    let script = "attempts:
- - write: {path: half.txt, content: x}
  - misbehave: no_end_event
- - expect_prompt: without an end event
  - run: {cmd: \"test -e half.txt && git log -1 --format=%s | grep -q 'keep w'\"}
  - write: {path: whole.txt, content: x}
  - commit: {message: Finish}
";
    let world = Setup::default().agent("torn", script).open().await;
    let task = world.submit("Do it").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 0);
    world.expect_journal(&task, &["interrupted (1 of 3)"]).await;
    assert_eq!(world.git(&["show", "main:half.txt"]), "x");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interruptions_are_capped() {
    let script = "attempts:\n- - misbehave: no_end_event\n";
    let world = Setup::default().agent("torn", script).limits(|l| l.max_interrupted = 1).open().await;
    let task = world.submit("Do it").await;
    let blocked = world.expect_blocked(&task, "interrupted").await;
    assert_eq!(blocked.task.attempts.runs, 2);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_ends_is_ended_when_its_time_is_over() {
    let script = "attempts:\n- - misbehave: ignore_term\n  - misbehave: hang\n";
    let world = Setup::default()
        .agent("endless", script)
        .limits(|l| {
            l.max_interrupted = 0;
            l.agent_time = Millis(800);
        })
        .open()
        .await;
    let task = world.submit("Do it").await;
    world.expect_blocked(&task, "interrupted").await;
    world.expect_journal(&task, &["its time was over"]).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_is_ended() {
    let script = "attempts:\n- - say: {text: now I think}\n  - delay: {ms: 600000}\n";
    let world = Setup::default()
        .agent("silent", script)
        .limits(|l| {
            l.max_interrupted = 0;
            l.agent_stall = Millis(600);
        })
        .open()
        .await;
    let task = world.submit("Do it").await;
    world.expect_blocked(&task, "interrupted").await;
    world.expect_journal(&task, &["it was silent for longer than allowed"]).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_tool_works_is_not_silent() {
    let script = "attempts:\n- - tool: {name: build, ms: 1600}\n  - write: {path: good.txt, content: x}\n  - commit: {message: Build}\n";
    let world = Setup::default()
        .agent("builder", script)
        .limits(|l| {
            // The start of the program itself may be slow on a busy machine; the tool would be cut off each time.
            l.max_interrupted = 6;
            l.agent_stall = Millis(700);
        })
        .open()
        .await;
    let task = world.submit("Build it").await;
    world.expect_status(&task, Status::Done).await;
    world.close().await;
}

/// Both ways: by the agent's own limits, each of these runs would be cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_stages_own_limits_of_time_and_silence_go_before_those_of_its_agent() {
    let script = "attempts:\n- - say: {text: now I think}\n  - delay: {ms: 1800}\n  - write: {path: good.txt, content: x}\n  - commit: {message: Think}\n";
    for (limit, own) in [("silence_minutes", true), ("limit_minutes", true), ("silence_minutes", false)] {
        let stage = if own { format!(", {limit}: 1") } else { String::new() };
        let stages = format!("[{{name: dev, agent: developer{stage}}}, {{name: ship, land: true}}]");
        let world = Setup::default()
            .agent("slow", script)
            .repo(|r| r.pipeline = "patient".to_owned())
            .limits(|l| {
                l.max_interrupted = 0;
                match limit {
                    "silence_minutes" => l.agent_stall = Millis(600),
                    _ => l.agent_time = Millis(600),
                }
            })
            .config(move |c| {
                let inline = PipelineInline { stages: serde_yaml::from_str(&stages).expect("YAML") };
                c.pipelines.insert("patient".to_owned(), PipelineSource::Inline(inline));
            })
            .open()
            .await;
        let task = world.submit("Think first").await;
        match own {
            true => drop(world.expect_status(&task, Status::Done).await),
            false => drop(world.expect_blocked(&task, "interrupted").await),
        }
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_program_that_is_not_there_blocks_at_once_with_the_way_out() {
    let world = Setup::default()
        .agent("good", &format!("attempts:\n{GOOD}"))
        .config(|c| {
            let command = Some(CommandLine::Argv(vec!["no-such-agent-program".to_owned()]));
            let agent = AgentConfig { kind: Some(AgentKind::Command), command, ..AgentConfig::default() };
            c.agents.insert("missing".to_owned(), agent);
        })
        .open()
        .await;
    let task = world.submit_for("missing", "Do it").await;
    let blocked = world.expect_blocked(&task, "no-such-agent-program").await;
    assert_eq!((blocked.task.attempts.runs, blocked.task.attempts.infrastructure), (1, 0));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_left_behind_by_an_agent_is_gone_when_its_run_is_over() {
    let script = "attempts:
- - misbehave: {daemon: {seconds: 600, pid_file: pid.txt}}
  - wait_for: {path: pid.txt}
  - commit: {message: Leave something behind}
";
    let world = Setup::default().agent("litterer", script).open().await;
    let task = world.submit("Do it").await;
    world.expect_status(&task, Status::Done).await;
    let pid = world.git(&["show", "main:pid.txt"]);
    assert!(pid.trim().parse::<u32>().is_ok(), "the daemon wrote `{pid}`");
    // In namespaces of its own it is known by another number here.
    let left: Vec<String> = processes_of(world.root()).into_iter().filter(|p| p.contains("sleep 600")).collect();
    assert!(left.is_empty(), "it lives on: {left:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_waited_out_and_costs_nothing() {
    let script = format!("attempts:\n- - rate_limit: {{text: come back later}}\n{GOOD}");
    let world = Setup::default().agent("limited", &script).open().await;
    let task = world.submit("Do it").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!(done.task.attempts.developer_retries, 0);
    world.expect_journal(&task, &["waits until", "come back later"]).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_git_finds_unsound_go_back_to_the_agent_and_not_into_our_repositories() {
    let script = "attempts:
- - write: {path: good.txt, content: x}
  - run: {cmd: \"git add -A && printf 'tree %s\\\\nparent %s\\\\nauthor nobody\\\\ncommitter nobody\\\\n\\\\nbad\\\\n' $(git write-tree) $(git rev-parse HEAD) | git hash-object -t commit -w --stdin --literally > .git/bad && git update-ref HEAD $(cat .git/bad)\"}
- - expect_prompt: unsound
  - write: {path: good.txt, content: x}
  - commit: {message: Do it properly}
";
    let world = Setup::default().agent("odd", script).open().await;
    let task = world.submit("Do it").await;
    let done = world.expect_status(&task, Status::Done).await;
    assert_eq!((done.task.attempts.developer_retries, done.task.attempts.infrastructure), (1, 0));
    assert_eq!(world.git(&["log", "-1", "--format=%s", "main"]), "Do it properly");
    world.close().await;
}

/// Before the window there is no room for its row, or for a report: that is our trouble, whatever the work is like.
#[tokio::test(flavor = "multi_thread")]
async fn a_landing_that_finds_no_room_on_the_disk_is_our_trouble_and_lands_when_there_is_room() {
    let script = format!("attempts:\n{GOOD}");
    for no_row in [true, false] {
        let patient = |l: &mut orch::config::Limits| l.infrastructure_retries = 1_000;
        let world = Setup::default().agent("good", &script).limits(patient).open_bare().await;
        let main = world.git(&["rev-parse", "main"]);
        let db = || {
            let db = rusqlite::Connection::open(world.data().join("orch.db")).expect("the store");
            db.busy_timeout(crate::world::BOUND).expect("a timeout can be set");
            db
        };
        let (reports, hook) = (world.data().join("reports"), world.repo.join("hooks/pre-receive"));
        if no_row {
            let full = "CREATE TRIGGER full BEFORE INSERT ON windows WHEN NEW.kind = 'land' BEGIN
                          SELECT RAISE(ABORT, 'no room on the disk');
                        END";
            db().execute_batch(full).expect("written");
        } else {
            // Reports have no place from the moment that the task branch is shown at the forge.
            let at = reports.display();
            let spoil = format!("#!/bin/sh\ntest ! -d {at} || {{ mv {at} {at}.away; : > {at}; }}\n");
            std::fs::write(&hook, spoil).expect("written");
            std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
        }
        let task = world.submit("Find no room").await;
        let waits = world
            .until(&task, "waiting for us", |d| d.task.status == Status::Waiting && d.task.attempts.infrastructure > 0);
        let attempts = waits.await.task.attempts;
        assert_eq!((attempts.developer_retries, attempts.conflicts), (0, 0), "no row: {no_row}");
        assert_eq!(world.git(&["rev-parse", "main"]), main, "nothing has landed");
        if no_row {
            db().execute_batch("DROP TRIGGER full").expect("written");
        } else {
            std::fs::remove_file(&hook).expect("the hook");
            std::fs::remove_file(&reports).expect("the obstacle");
            std::fs::rename(world.data().join("reports.away"), &reports).expect("the place is there again");
        }
        let done = world.expect_status(&task, Status::Done).await;
        assert_eq!(done.task.attempts.developer_retries, 0, "no row: {no_row}");
        world.close().await;
    }
}
