//! Golden tests of the parsers on real streams.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use orch_domain::agent::{AgentClaim, AgentEvent, AgentKind, AgentReport, Usage};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;
use proptest::prelude::*;

use super::*;

mod any_bytes;
mod launching;

const KINDS: [AgentKind; 5] =
    [AgentKind::Claude, AgentKind::Codex, AgentKind::Opencode, AgentKind::Command, AgentKind::Scripted];

fn settings(kind: AgentKind) -> AgentSettings {
    AgentSettings {
        command: (kind == AgentKind::Command).then(|| CommandLine::Shell("true".to_owned())),
        script: (kind == AgentKind::Scripted).then(|| PathBuf::from("/script.yaml")),
        ..AgentSettings::default()
    }
}

fn parser(kind: AgentKind, settings: AgentSettings, model: Option<&str>) -> Box<dyn StreamParser> {
    build(kind, settings, PathBuf::from("/bin/orch")).expect("the settings are right").parser(model)
}

/// Feeds a whole stream; returns the events, whether a tool was running at the end, and the report.
fn feed(parser: &mut dyn StreamParser, stream: &[u8], end: &JobEnd) -> (Vec<AgentEvent>, bool, AgentReport) {
    let events = stream.split(|b| *b == b'\n').flat_map(|line| parser.line(line)).collect();
    (events, parser.tool_running(), parser.report(end, Millis(1_234)))
}

fn fixture(name: &str) -> Vec<u8> {
    let path = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/agents/{}"), name);
    fs::read(&path).unwrap_or_else(|err| panic!("{path}: {err}"))
}

fn golden(kind: AgentKind, name: &str, end: &JobEnd) -> (Vec<AgentEvent>, bool, AgentReport) {
    feed(&mut *parser(kind, settings(kind), Some("fake-model")), &fixture(name), end)
}

const CLEAN: JobEnd = JobEnd::Exited { code: 0 };

fn tools(events: &[AgentEvent]) -> Vec<(String, Option<Option<bool>>)> {
    let tool = |event: &AgentEvent| match event {
        AgentEvent::ToolStarted { id, .. } => Some((id.clone(), None)),
        AgentEvent::ToolEnded { id, ok } => Some((id.clone(), Some(*ok))),
        _ => None,
    };
    events.iter().filter_map(tool).collect()
}

#[test]
fn claude_tells_session_tokens_money_and_its_end() {
    let (events, running, report) = golden(AgentKind::Claude, "claude-2.1.197.jsonl", &CLEAN);
    assert_eq!(report.session.as_deref(), Some("73050fb4-1671-4f44-b499-fd3406fcce4b"));
    assert_eq!(report.model.as_deref(), Some("claude-opus-4-8[1m]"));
    let usage =
        Usage { input_tokens: Some(24), cached_tokens: Some(0), output_tokens: Some(25), cost_micro_usd: Some(745) };
    assert_eq!(report.usage, usage);
    assert_eq!((report.tool_calls, report.unknown_lines, running), (1, 0, false));
    assert_eq!(report.claim, Some(AgentClaim::Success));
    assert_eq!(report.last_text.as_deref(), Some("Done."));
    assert_eq!(report.wall, Millis(1_234));
    let call = "toolu_1".to_owned();
    assert_eq!(tools(&events), [(call.clone(), None), (call, Some(Some(true)))]);
    assert!(matches!(events.first(), Some(AgentEvent::Started { .. })));
    assert_eq!(events.last(), Some(&AgentEvent::Finished { claim: AgentClaim::Success }));
    let command =
        "Bash: echo hello > made.txt && git add -A && git -c user.email=a@b.c -c user.name=agent commit -qm made";
    let what = events.iter().find_map(|event| match event {
        AgentEvent::ToolStarted { what, .. } => Some(what.as_str()),
        _ => None,
    });
    assert_eq!(what, Some(command));
}

#[test]
fn codex_tells_session_and_tokens_and_is_priced_from_rates() {
    let (events, running, report) = golden(AgentKind::Codex, "codex-0.169.0.jsonl", &CLEAN);
    assert_eq!(report.session.as_deref(), Some("01a208db-5f09-7da2-96f7-113420e219c6"));
    assert_eq!(report.model.as_deref(), Some("fake-model"));
    let usage = Usage { input_tokens: Some(40), cached_tokens: Some(0), output_tokens: Some(14), cost_micro_usd: None };
    assert_eq!(report.usage, usage, "without rates the money is unknown, not zero");
    assert_eq!((report.tool_calls, report.unknown_lines, running), (1, 0, false));
    assert_eq!(report.claim, Some(AgentClaim::Success));
    assert_eq!(report.last_text.as_deref(), Some("Done."));
    assert!(matches!(&events[1], AgentEvent::Warned { text } if text.contains("Model metadata")), "{events:?}");

    let rates = Rates {
        input_micro_usd_per_mtok: 1_250_000,
        cached_micro_usd_per_mtok: 125_000,
        output_micro_usd_per_mtok: 10_000_000,
    };
    for name in ["fake-model", "*"] {
        let priced = AgentSettings { rates: BTreeMap::from([(name.to_owned(), rates)]), ..AgentSettings::default() };
        let mut parser = parser(AgentKind::Codex, priced, Some("fake-model"));
        let (_, _, report) = feed(&mut *parser, &fixture("codex-0.169.0.jsonl"), &CLEAN);
        assert_eq!(report.usage.cost_micro_usd, Some(190));
    }
}

#[test]
fn codex_counts_cached_tokens_apart() {
    let line = br#"{"type":"turn.completed","usage":{"input_tokens":100,"cached_input_tokens":90,"output_tokens":7}}"#;
    let (_, _, report) = feed(&mut *parser(AgentKind::Codex, AgentSettings::default(), None), line, &CLEAN);
    assert_eq!((report.usage.input_tokens, report.usage.cached_tokens), (Some(10), Some(90)));
}

#[test]
fn opencode_sums_its_steps() {
    let (events, running, report) = golden(AgentKind::Opencode, "opencode-1.18.33.jsonl", &CLEAN);
    assert_eq!(report.session.as_deref(), Some("ses_df72494b5ffefp8oJttRwVJxnj"));
    let usage = Usage { input_tokens: Some(42), cached_tokens: Some(0), output_tokens: Some(10), cost_micro_usd: None };
    assert_eq!(report.usage, usage, "a cost of zero means that it knows no price");
    assert_eq!((report.tool_calls, report.unknown_lines, running), (1, 0, false));
    assert_eq!(report.claim, Some(AgentClaim::Success));
    assert_eq!(report.last_text.as_deref(), Some("Done."));
    assert_eq!(tools(&events).len(), 2);
}

#[test]
fn a_stream_cut_by_term_claims_nothing() {
    for (kind, name) in [
        (AgentKind::Claude, "claude-killed-by-term.jsonl"),
        (AgentKind::Codex, "codex-killed-by-term.jsonl"),
        (AgentKind::Opencode, "opencode-killed-by-term.jsonl"),
    ] {
        // Whatever the exit code was: one program of this sort exits 0 after TERM.
        for end in [JobEnd::Exited { code: 143 }, CLEAN, JobEnd::Cancelled] {
            let (_, running, report) = golden(kind, name, &end);
            assert_eq!(report.claim, None, "{name}");
            assert!(report.session.is_some(), "{name}");
            assert!(running, "{name}: its tool was still running");
            assert_eq!(report.unknown_lines, 0, "{name}");
        }
    }
    let (_, _, report) = golden(AgentKind::Claude, "claude-killed-by-term.jsonl", &JobEnd::Cancelled);
    assert_eq!(report.usage.input_tokens, Some(12), "what it used before counts");
}

#[test]
fn every_prefix_of_a_real_stream_is_interrupted() {
    for (kind, name) in [
        (AgentKind::Claude, "claude-2.1.197.jsonl"),
        (AgentKind::Codex, "codex-0.169.0.jsonl"),
        (AgentKind::Opencode, "opencode-1.18.33.jsonl"),
    ] {
        let stream = fixture(name);
        let stream = stream.trim_ascii_end();
        for cut in (0..stream.len()).step_by(7) {
            let (_, _, report) = feed(&mut *parser(kind, settings(kind), None), &stream[..cut], &CLEAN);
            assert_eq!(report.claim, None, "{name} cut at {cut}");
        }
    }
}

#[test]
fn going_on_after_an_end_event_takes_the_claim_back() {
    for (kind, name, more) in [
        (AgentKind::Claude, "claude-2.1.197.jsonl", r#"{"type":"assistant","message":{"content":[]}}"#),
        (AgentKind::Codex, "codex-0.169.0.jsonl", r#"{"type":"turn.started"}"#),
        (AgentKind::Opencode, "opencode-1.18.33.jsonl", r#"{"type":"step_start"}"#),
    ] {
        let stream = [fixture(name), more.as_bytes().to_vec()].concat();
        let (_, _, report) = feed(&mut *parser(kind, settings(kind), None), &stream, &CLEAN);
        assert_eq!(report.claim, None, "{name}");
    }
}

#[test]
fn errors_and_provider_limits_are_told_apart() {
    let limited = |claim: Option<AgentClaim>| matches!(claim, Some(AgentClaim::RateLimited { .. }));
    for (kind, line, is_limit) in [
        (
            AgentKind::Claude,
            r#"{"type":"result","subtype":"success","is_error":true,"api_error_status":429,"result":"API Error: x"}"#,
            true,
        ),
        (
            AgentKind::Claude,
            r#"{"type":"result","subtype":"success","is_error":true,"result":"You've hit your limit · resets 3pm"}"#,
            true,
        ),
        (AgentKind::Claude, r#"{"type":"result","subtype":"error_max_turns","is_error":false}"#, false),
        (
            AgentKind::Claude,
            r#"{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["boom"]}"#,
            false,
        ),
        (
            AgentKind::Codex,
            r#"{"type":"turn.failed","error":{"message":"exceeded retry limit, last status: 429 Too Many Requests"}}"#,
            true,
        ),
        (AgentKind::Codex, r#"{"type":"turn.failed","error":{"message":"stream disconnected"}}"#, false),
        (
            AgentKind::Opencode,
            r#"{"type":"error","error":{"name":"APIError","data":{"message":"slow down","statusCode":429}}}"#,
            true,
        ),
        (AgentKind::Opencode, r#"{"type":"error","error":{"name":"UnknownError","data":{"message":"boom"}}}"#, false),
        (AgentKind::Opencode, r#"{"type":"step_finish","part":{"reason":"length"}}"#, false),
    ] {
        let (_, _, report) = feed(&mut *parser(kind, settings(kind), None), line.as_bytes(), &CLEAN);
        assert!(report.claim.is_some() && report.claim != Some(AgentClaim::Success), "{line}: {:?}", report.claim);
        assert_eq!(limited(report.claim.clone()), is_limit, "{line}: {:?}", report.claim);
    }
}

#[test]
fn a_provider_that_answers_429_is_seen_in_the_real_streams() {
    for (kind, name, words) in [
        (AgentKind::Claude, "claude-rate-limited.jsonl", "API Error: Request rejected (429) · Rate limit reached"),
        (AgentKind::Codex, "codex-rate-limited.jsonl", "exceeded retry limit, last status: 429 Too Many Requests"),
        (AgentKind::Opencode, "opencode-rate-limited.jsonl", "Rate limit reached"),
    ] {
        let (events, running, report) = golden(kind, name, &JobEnd::Exited { code: 1 });
        assert_eq!(report.claim, Some(AgentClaim::RateLimited { text: words.to_owned() }), "{name}");
        assert!(report.session.is_some() && report.unknown_lines == 0 && !running, "{name}: {report:?}");
        let warned = events.iter().any(|event| matches!(event, AgentEvent::Warned { .. }));
        assert_eq!(warned, kind != AgentKind::Opencode, "{name}: retries are told where the stream tells them");
    }
}

#[test]
fn lines_that_nobody_knows_are_counted_and_blank_ones_are_not() {
    for kind in [AgentKind::Claude, AgentKind::Codex, AgentKind::Opencode, AgentKind::Scripted] {
        let stream = b"\n  \nplain text\n[1]\n{\"type\":\"from-the-future\"}\n\xff\xfe\n{}\n";
        let (events, _, report) = feed(&mut *parser(kind, settings(kind), None), stream, &CLEAN);
        assert_eq!(report.unknown_lines, 5, "{kind:?}");
        assert_eq!(events, vec![AgentEvent::Unknown; 5], "{kind:?}");
    }
}

#[test]
fn a_plain_program_claims_by_its_exit() {
    let report = |end: &JobEnd| {
        let mut parser = parser(AgentKind::Command, settings(AgentKind::Command), None);
        feed(&mut *parser, b"working\n\x1b[32mall done\x1b[0m\n\n", end).2
    };
    assert_eq!(report(&CLEAN).claim, Some(AgentClaim::Success));
    assert_eq!(report(&CLEAN).last_text.as_deref(), Some("all done"));
    let failed = report(&JobEnd::Exited { code: 2 }).claim;
    assert!(matches!(&failed, Some(AgentClaim::Error { text }) if text.starts_with("exit code 2: ")), "{failed:?}");
    for end in [JobEnd::Cancelled, JobEnd::TimedOut, JobEnd::Stalled, JobEnd::Orphaned, JobEnd::Lost] {
        assert_eq!(report(&end).claim, None, "{end:?} is an interruption");
    }
}
