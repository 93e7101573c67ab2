//! Launch lines: arguments, environment, files and the prompt, as measured for each program.

use super::*;

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
