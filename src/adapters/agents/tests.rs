//! Golden tests of the parsers on real streams, launch lines as measured, and parsers that bear any bytes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use orch_domain::agent::{AgentClaim, AgentEvent, AgentKind, AgentReport, Usage};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;
use proptest::prelude::*;

use super::*;

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

// ------------------------------------------------------------------------------------------------- launch lines

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A folder with programs of the three names, and a context that finds them there.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["claude", "codex", "opencode", "mine"] {
            let file = dir.path().join(name);
            fs::write(&file, "#!/bin/sh\n").expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("made executable");
        }
        Self { dir }
    }

    fn context(&self) -> LaunchContext {
        let path = format!("{}:/usr/bin:/bin", self.dir.path().display());
        LaunchContext {
            prompt: "do {workspace} it".to_owned(),
            workspace: PathBuf::from("/workspace"),
            private: self.dir.path().join("private"),
            model: Some("m1".to_owned()),
            env_allow: BTreeMap::from(
                [("PATH", path.as_str()), ("MY_KEY", "sk-sesame"), ("HOME", "/home/operator")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned())),
            ),
        }
    }

    fn launch(&self, kind: AgentKind, settings: AgentSettings) -> LaunchLine {
        let agent = build(kind, settings, PathBuf::from("/bin/orch")).expect("the settings are right");
        assert_eq!(agent.kind(), kind);
        agent.launch(&self.context()).expect("it can be launched")
    }
}

fn with_endpoint() -> AgentSettings {
    AgentSettings {
        endpoint: Some("http://127.0.0.1:9/v1".to_owned()),
        key_env: Some("MY_KEY".to_owned()),
        ..AgentSettings::default()
    }
}

#[test]
fn launch_lines_are_as_measured() {
    let place = Place::new();
    let args = |kind, settings| place.launch(kind, settings).argv[1..].to_vec();
    assert_eq!(
        args(AgentKind::Claude, with_endpoint()),
        [
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--model",
            "m1",
            "--allowedTools",
            "Bash",
            "Edit",
            "Write"
        ]
    );
    assert_eq!(
        args(AgentKind::Codex, with_endpoint()),
        [
            "exec",
            "--json",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
            "-m",
            "m1",
            "-c",
            "analytics.enabled=false",
            "-c",
            "check_for_update_on_startup=false",
            "-c",
            "model_provider=orch",
            "-c",
            r#"model_providers.orch={name="orch",base_url="http://127.0.0.1:9/v1",wire_api="responses",env_key="MY_KEY"}"#,
            "-",
        ]
    );
    assert_eq!(args(AgentKind::Opencode, with_endpoint()), ["run", "--format", "json", "-m", "orch/m1"]);

    let claude = place.launch(AgentKind::Claude, with_endpoint());
    assert_eq!(claude.env.get("ANTHROPIC_BASE_URL").map(String::as_str), Some("http://127.0.0.1:9/v1"));
    assert_eq!(claude.env.get("ANTHROPIC_API_KEY").map(String::as_str), Some("sk-sesame"));
    assert_eq!(claude.env.get("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC").map(String::as_str), Some("1"));
    let opencode = place.launch(AgentKind::Opencode, with_endpoint());
    let config: serde_json::Value = serde_json::from_slice(&opencode.files[0].1).expect("json");
    assert_eq!(config["provider"]["orch"]["options"]["apiKey"], "{env:MY_KEY}");
    assert_eq!(config["provider"]["orch"]["options"]["baseURL"], "http://127.0.0.1:9/v1");
    assert_eq!((&config["share"], &config["autoupdate"]), (&"disabled".into(), &false.into()));
}

#[test]
fn prompts_go_in_on_standard_input_and_secrets_only_through_the_environment() {
    let place = Place::new();
    for kind in [AgentKind::Claude, AgentKind::Codex, AgentKind::Opencode] {
        let line = place.launch(kind, with_endpoint());
        assert_eq!(line.stdin, b"do {workspace} it", "{kind:?}");
        assert!(!line.argv.iter().any(|arg| arg.contains("do {workspace} it") || arg.contains("sesame")), "{kind:?}");
        assert!(!line.files.iter().any(|(_, bytes)| bytes.windows(6).any(|part| part == b"sesame")), "{kind:?}");
        assert!(line.env.values().any(|value| value == "sk-sesame"), "{kind:?}");
        assert!(!format!("{line:?}").contains("sesame"), "{kind:?}: not even in a debug line");
        let home = place.context().private.display().to_string();
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "TMPDIR"] {
            assert!(line.env[name].starts_with(&home), "{kind:?}: {name}, whatever the allowed environment says");
        }
    }
}

#[test]
fn a_missing_key_or_program_is_named_with_the_way_out() {
    let place = Place::new();
    let mut ctx = place.context();
    ctx.env_allow.remove("MY_KEY");
    for kind in [AgentKind::Claude, AgentKind::Codex, AgentKind::Opencode] {
        let agent = build(kind, with_endpoint(), PathBuf::new()).expect("right");
        let err = agent.launch(&ctx).expect_err("no key").to_string();
        assert!(err.contains("`MY_KEY` is not set; set it in"), "{err}");
        let mut nowhere = place.context();
        nowhere.env_allow.insert("PATH".to_owned(), "/nowhere".to_owned());
        let err = agent.launch(&nowhere).expect_err("no program").to_string();
        assert!(err.contains("is not in PATH (/nowhere); install it with `npm install -g "), "{err}");
    }
}

#[test]
fn opencode_needs_a_model_where_it_cannot_guess_one() {
    let place = Place::new();
    let ctx = LaunchContext { model: None, ..place.context() };
    let refused = |settings| {
        let agent = build(AgentKind::Opencode, settings, PathBuf::new()).expect("right");
        agent.launch(&ctx).expect_err("refused").to_string()
    };
    assert!(refused(with_endpoint()).contains("name the model"));
    assert!(refused(AgentSettings { endpoint: None, ..with_endpoint() }).contains("provider/model"));
    let plain = build(AgentKind::Opencode, AgentSettings::default(), PathBuf::new()).expect("right");
    assert!(plain.launch(&ctx).is_ok(), "its own default model");
}

fn command(line: CommandLine) -> AgentSettings {
    AgentSettings { command: Some(line), ..AgentSettings::default() }
}

fn list(args: &[&str]) -> AgentSettings {
    command(CommandLine::Argv(args.iter().map(|arg| (*arg).to_owned()).collect()))
}

#[test]
fn a_shell_line_gets_the_prompt_on_standard_input_and_as_a_file() {
    let place = Place::new();
    let line = place.launch(AgentKind::Command, command(CommandLine::Shell("mine --now | tee x".to_owned())));
    assert!(line.argv[0].ends_with("/sh"));
    assert_eq!(line.argv[1..], ["-c", "mine --now | tee x"]);
    assert_eq!(line.stdin, b"do {workspace} it");
    let file = place.context().private.join("prompt.md");
    assert_eq!(line.env.get("ORCH_PROMPT_FILE").map(Path::new), Some(&*file));
    assert_eq!(line.files, [(file, b"do {workspace} it".to_vec())]);
}

#[test]
fn a_command_may_read_the_files_that_its_line_names() {
    let place = Place::new();
    let dir = tempfile::tempdir().expect("a folder");
    let script = dir.path().canonicalize().expect("canonical").join("agent.sh");
    fs::write(&script, "true\n").expect("written");
    let text = script.display();
    for named in [
        CommandLine::Shell(format!("sh '{text}' --in {} ./agent.sh /nowhere/x", dir.path().display())),
        CommandLine::Argv(vec!["sh".to_owned(), text.to_string()]),
    ] {
        let line = place.launch(AgentKind::Command, command(named));
        assert!(line.read.contains(&script), "{:?}", line.read);
        assert!(line.read.iter().all(|path| path.is_file()), "no folder is opened: {:?}", line.read);
    }
}

#[test]
fn a_list_is_filled_once_and_the_prompt_is_handed_over_one_way_only() {
    let place = Place::new();
    let line = place.launch(AgentKind::Command, list(&["mine", "{prompt}", "--in={workspace}", "{other}", "{"]));
    assert_eq!(line.argv[0], place.dir.path().join("mine").display().to_string());
    assert_eq!(line.argv[1..], ["do {workspace} it", "--in=/workspace", "{other}", "{"]);
    assert_eq!(line.stdin, b"");
    let by_file = place.launch(AgentKind::Command, list(&["mine", "@{prompt_file}"]));
    assert_eq!(by_file.argv[1], format!("@{}/prompt.md", place.context().private.display()));
    assert_eq!(by_file.stdin, b"");
    assert_eq!(place.launch(AgentKind::Command, list(&["mine"])).stdin, b"do {workspace} it");
}

#[test]
fn a_prompt_that_cannot_be_an_argument_is_refused_with_the_way_out() {
    let place = Place::new();
    let agent = build(AgentKind::Command, list(&["mine", "{prompt}"]), PathBuf::new()).expect("right");
    let with = |prompt: String| agent.launch(&LaunchContext { prompt, ..place.context() });
    assert!(with("x".repeat(128 * 1024 - 1)).is_ok());
    let err = with("x".repeat(128 * 1024)).expect_err("too long").to_string();
    assert!(err.contains("131072 bytes, the system allows 131071; use `{prompt_file}`"), "{err}");
    assert!(with("a\0b".to_owned()).is_err());
}

#[test]
fn commands_that_make_no_sense_are_refused_when_settings_are_read() {
    let refused = |settings| build(AgentKind::Command, settings, PathBuf::new()).err().expect("refused").to_string();
    assert!(refused(AgentSettings::default()).contains("it is missing"));
    assert!(refused(command(CommandLine::Shell(" ".to_owned()))).contains("it is empty"));
    assert!(refused(command(CommandLine::Shell("run '{prompt}'".to_owned()))).contains("standard input"));
    assert!(refused(list(&[])).contains("must begin with a program"));
    assert!(refused(list(&["{prompt}"])).contains("must begin with a program"));
    assert!(build(AgentKind::Command, command(CommandLine::Shell("run ${prompt}".to_owned())), PathBuf::new()).is_ok());
}

#[test]
fn the_scripted_agent_takes_a_checked_copy_of_its_script_along() {
    let place = Place::new();
    let script = place.dir.path().join("demo.yaml");
    let settings = AgentSettings { script: Some(script.clone()), ..AgentSettings::default() };
    let agent = build(AgentKind::Scripted, settings, PathBuf::from("/bin/orch")).expect("right");
    assert!(agent.launch(&place.context()).expect_err("no file").to_string().contains("demo.yaml"));
    fs::write(&script, "attempts:\n  - - shout: x\n").expect("written");
    let err = agent.launch(&place.context()).expect_err("wrong").to_string();
    assert!(err.contains("demo.yaml, line 2: "), "{err}");
    fs::write(&script, "attempts: [[{ say: { text: hi } }]]\n").expect("written");
    let line = agent.launch(&place.context()).expect("right");
    let copy = place.context().private.join("script.yaml");
    assert_eq!(line.argv, ["/bin/orch", "scripted-agent", "--script", &copy.display().to_string()]);
    assert_eq!(line.files, [(copy, b"attempts: [[{ say: { text: hi } }]]\n".to_vec())]);
}

#[test]
fn files_are_written_for_the_owner_alone_and_only_inside_the_private_folder() {
    let place = Place::new();
    let private = place.context().private;
    let line = |path: PathBuf| LaunchLine {
        argv: Vec::new(),
        env: BTreeMap::new(),
        stdin: Vec::new(),
        files: vec![(path, b"text".to_vec())],
        read: Vec::new(),
    };
    let file = private.join("a/b.json");
    line(file.clone()).write_files(&private).expect("written");
    line(file.clone()).write_files(&private).expect("written again");
    assert_eq!(fs::read(&file).expect("there"), b"text");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(&private), mode(&private.join("tmp"))), (0o600, 0o700, 0o700));
    for outside in [place.dir.path().join("x"), private.join("../x"), private.clone()] {
        assert!(line(outside.clone()).write_files(&private).is_err(), "{}", outside.display());
    }
    let target = place.dir.path().join("target");
    fs::write(&target, "kept").expect("written");
    std::os::unix::fs::symlink(&target, private.join("link")).expect("linked");
    line(private.join("link")).write_files(&private).expect("written in the link's place");
    assert_eq!(fs::read(&target).expect("there"), b"kept", "a link is replaced, never followed");
}

// ------------------------------------------------------------------------------------------------- any bytes

/// Lines with the words of real streams in places where they do not belong.
fn odd_json() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "system",
        "init",
        "assistant",
        "user",
        "result",
        "success",
        "turn.completed",
        "turn.failed",
        "item.started",
        "item.completed",
        "thread.started",
        "step_start",
        "step_finish",
        "tool_use",
        "text",
        "error",
        "stop",
        "end",
        "start",
        "usage",
        "tool-start",
        "command_execution",
        "agent_message",
    ]);
    let keys = prop::sample::select(vec![
        "type",
        "subtype",
        "message",
        "content",
        "usage",
        "item",
        "part",
        "tokens",
        "cache",
        "read",
        "input_tokens",
        "total_cost_usd",
        "cost",
        "id",
        "reason",
        "error",
        "data",
        "statusCode",
        "session_id",
        "claim",
        "permission_denials",
    ]);
    let leaf = prop_oneof![
        words.prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
        Just(serde_json::Value::from(u64::MAX)),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::hash_map(keys.clone().prop_map(str::to_owned), inner, 1..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
    .prop_map(|value| value.to_string())
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(lines in prop::collection::vec(any::<Vec<u8>>(), 0..20)) {
        for kind in KINDS {
            let mut parser = parser(kind, settings(kind), None);
            for line in &lines {
                let _ = parser.line(line);
            }
            let report = parser.report(&JobEnd::Lost, Millis(0));
            prop_assert_eq!(report.claim, None);
        }
    }

    #[test]
    fn no_odd_json_makes_a_parser_panic(lines in prop::collection::vec(odd_json(), 0..20)) {
        for kind in KINDS {
            let mut parser = parser(kind, settings(kind), None);
            for line in &lines {
                for event in parser.line(line.as_bytes()) {
                    let shown = serde_json::to_string(&event).expect("events can be stored");
                    prop_assert!(shown.len() < 20_000);
                }
            }
            let _ = (parser.tool_running(), parser.report(&CLEAN, Millis(0)));
        }
    }

    #[test]
    fn a_real_stream_with_broken_bytes_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (kind, name) in [
            (AgentKind::Claude, "claude-2.1.197.jsonl"),
            (AgentKind::Codex, "codex-0.169.0.jsonl"),
            (AgentKind::Opencode, "opencode-1.18.33.jsonl"),
        ] {
            let mut stream = fixture(name);
            let at = at.index(stream.len());
            stream[at] = byte;
            let _ = feed(&mut *parser(kind, settings(kind), None), &stream, &CLEAN);
        }
    }
}
