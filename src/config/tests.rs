//! Tests of the settings: table against types, documents against table, every refusal in one line.

use std::path::Path;

use orch_adapters::jobs::UserRange;
use orch_domain::job::JobKind;
use orch_domain::variables;

use super::keys::KEYS;
use super::*;

type Env = BTreeMap<String, String>;

fn env(pairs: &[(&str, &str)]) -> Env {
    let home = [("HOME", "/home/me")];
    home.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn read(text: &str, pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_text(Path::new("orch.yaml"), text, Path::new("/etc/orch"), &env(pairs))
}

fn refusal(text: &str, pairs: &[(&str, &str)]) -> String {
    let err = read(text, pairs).expect_err(text).to_string();
    assert_eq!(err.lines().count(), 1, "one line: {err}");
    err
}

/// Compares a checked-in text with what the code makes; `BLESS=1` writes it.
fn checked_in(path: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, made).expect("writable");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "{} is stale: run `BLESS=1 cargo test config::`", path.display());
}

fn leaves(prefix: &str, value: &serde_yaml::Value, out: &mut Vec<String>) {
    match value.as_mapping() {
        Some(map) if !map.is_empty() => {
            for (name, below) in map {
                let name = name.as_str().expect("keys are texts");
                let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
                leaves(&path, below, out);
            }
        }
        _ => out.push(prefix.to_owned()),
    }
}

#[test]
fn the_table_names_every_key_and_no_other() {
    let mut config = Config::default();
    let name: RepoName = "n".parse().expect("valid");
    config.repos.insert(name, RepoConfig::default());
    let rates = BTreeMap::from([("m".to_owned(), RateConfig::default())]);
    config.agents.insert("n".to_owned(), AgentConfig { rates, ..AgentConfig::default() });
    let inline = PipelineInline { stages: serde_yaml::Value::Null };
    config.pipelines.insert("n".to_owned(), PipelineSource::Inline(inline));
    config.job_limits.insert("n".to_owned(), KindConfig::default());
    let mut typed = Vec::new();
    leaves("", &serde_yaml::to_value(&config).expect("serialises"), &mut typed);
    let named = |path: &str| {
        let path = path
            .replace("job_limits.n.", "job_limits.<kind>.")
            .replace("repos.n.", "repos.<name>.")
            .replace("agents.n.", "agents.<name>.");
        path.replace("rates.m.", "rates.<model>.").replace("pipelines.n.stages", "pipelines.<name>")
    };
    let mut typed: Vec<String> = typed.iter().map(|p| named(p)).collect();
    let mut table: Vec<String> = KEYS.iter().map(|k| k.path.to_owned()).collect();
    typed.sort();
    table.sort();
    assert_eq!(typed, table);
    let mut names: Vec<&str> = KEYS.iter().filter_map(|k| k.env).chain(OUTER.iter().map(|o| o.env)).collect();
    names.extend(variables::ALL.map(|(name, _)| name));
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "two things share an environment name");
}

#[test]
fn the_documents_are_made_from_the_table() {
    checked_in("src/config/example.yaml", &render::example_text(None));
    checked_in("docs/configuration.md", &reference_text());
    checked_in(".env.example", &env_text());
}

#[test]
fn the_example_parses_and_equals_the_defaults() {
    let example = Config::parse(Path::new("example.yaml"), Config::example()).expect("parses");
    assert_eq!(example, Config::default());
    // Each commented key is a real one: with its `#` taken away the file must still be understood.
    let open: String = Config::example()
        .lines()
        .map(|l| match l.strip_prefix('#') {
            Some(rest) if rest.starts_with("  ") && !rest.trim_start().starts_with('#') => format!("{rest}\n"),
            _ if ["agents: {}", "repos: {}", "pipelines: {}", "job_limits: {}"].contains(&l) => {
                format!("{}\n", &l[..l.len() - 3])
            }
            _ => format!("{l}\n"),
        })
        .collect();
    let opened = open.replace("<name>", "name").replace("<model>", "model").replace("<kind>", "agent");
    let mut opened = Config::parse(Path::new("opened.yaml"), &opened).expect("all keys are known");
    assert_eq!(opened.repos.len(), 1);
    assert_eq!(opened.repos.pop_first().expect("one").1, RepoConfig::default());
}

#[test]
fn the_file_of_init_parses_with_the_repository_in_it() {
    let facts = InitFacts {
        main: Some("#trunk".to_owned()),
        name: "shop".to_owned(),
        path: "/srv/with space: and colon".to_owned(),
        test: Some(("cargo test".to_owned(), "Cargo.toml".to_owned())),
    };
    let config = read(&Config::init_text(&facts), &[]).expect("valid");
    let repo = &config.repos[&"shop".parse().expect("valid")];
    assert_eq!(repo.path.as_deref(), Some(Path::new("/srv/with space: and colon")));
    assert_eq!(repo.main.as_ref().map(BranchName::as_str), Some("#trunk"));
    assert_eq!(repo.commands.test.as_deref(), Some("cargo test"));
    assert_eq!(config.gates.image_freshness.repos, ["*"]);
    let bare = InitFacts { name: "123".to_owned(), path: ".".to_owned(), ..InitFacts::default() };
    let config = read(&Config::init_text(&bare), &[]).expect("valid");
    assert_eq!(config.repos[&"123".parse().expect("valid")].path.as_deref(), Some(Path::new("/etc/orch")));
}

#[test]
fn environment_wins_over_the_file_and_the_file_over_defaults() {
    let text = "limits:\n  max_concurrency: 5\n  agent_time: 30m\n";
    let config = read(text, &[("ORCH_MAX_CONCURRENCY", "7"), ("ORCH_TASK_COST_USD", "2.50")]).expect("valid");
    assert_eq!(config.limits.max_concurrency, 7);
    assert_eq!(config.limits.agent_time, Millis::from_mins(30));
    assert_eq!(config.limits.gate_slots, 2);
    assert_eq!(config.limits.task_cost_usd, Some(2_500_000));
    let off = read("", &[("ORCH_STOP_STATUS_ENABLED", "off"), ("ORCH_HTTP_ALLOWED_HOSTS", "a.example, b")]);
    let off = off.expect("valid");
    assert!(!off.stop.status_enabled);
    assert_eq!(off.http.allowed_hosts, ["a.example", "b"]);
    assert_eq!(read("", &[("ORCH_MAX_CONCURRENCY", "")]).expect("empty is unset").limits.max_concurrency, 2);
}

#[test]
fn every_environment_name_reaches_its_key() {
    for key in KEYS.iter().filter(|k| k.env.is_some()) {
        let value = match key.kind {
            Kind::Number => "4",
            Kind::Switch => "false",
            Kind::Duration => "7m",
            Kind::Size => "3MiB",
            Kind::Money => "1.25",
            Kind::Percent => "85.25",
            Kind::Word(words) => words.rsplit(", ").next().expect("words"),
            Kind::List => "*",
            Kind::Path => "/x/y",
            Kind::Text if key.path == "http.bind" => "127.0.0.1:1",
            Kind::Text if key.path == "default_agent" => "codex",
            Kind::Text if key.path == "telemetry.level" => "debug,orch=trace",
            Kind::Text if key.path.ends_with("endpoint") => "http://127.0.0.1:9",
            Kind::Text | Kind::Other => "text",
        };
        let name = key.env.expect("filtered");
        let changed = read("", &[(name, value)]).unwrap_or_else(|e| panic!("{name}: {e}"));
        let plain = read("", &[]).expect("valid");
        let off_by_default = key.path.ends_with("fail_closed");
        assert_eq!(changed != plain, !off_by_default, "{name} changes nothing");
    }
}

#[test]
fn paths_are_absolute_and_start_where_the_file_is() {
    let text = "data_dir: state\nrepos:\n  a: {path: ../a, no_tests: true}\n  b: {path: ~/b, no_tests: true}\n";
    let config = read(text, &[]).expect("valid");
    assert_eq!(config.data_dir, Path::new("/etc/orch/state"));
    let path = |name: &str| config.repos[&name.parse().expect("valid")].path.clone().expect("set");
    assert_eq!((path("a"), path("b")), ("/etc/a".into(), "/home/me/b".into()));
    assert_eq!(read("", &[]).expect("valid").data_dir, Path::new("/home/me/.local/state/orch"));
    let xdg = read("", &[("XDG_STATE_HOME", "/s")]).expect("valid");
    assert_eq!((xdg.data_dir.clone(), xdg.token_file()), ("/s/orch".into(), "/s/orch/token".into()));
    let nowhere = Config::from_text(Path::new("x"), "", Path::new("/"), &Env::new()).expect_err("no home");
    assert_eq!(nowhere, ConfigError::NoHome);
}

#[test]
fn wrong_settings_are_refused_in_one_line_with_place_value_and_way_out() {
    let cases = [
        (
            "limits:\n  max_concurency: 3\n",
            "orch.yaml:2:3: unknown key `limits.max_concurency`; did you mean `max_concurrency`?",
        ),
        ("wombat: 1\n", "unknown key `wombat`; known here: data_dir, default_agent, http,"),
        ("limits:\n  max_concurrency: many\n", "orch.yaml:2:20: limits.max_concurrency: invalid type: string \"many\""),
        ("limits:\n  max_concurrency: 0\n", "orch.yaml:2: limits.max_concurrency: 0 is out of range"),
        ("retention:\n  logs: 30m\n", "orch.yaml:2: retention.logs: 30m 00s is too short"),
        ("limits:\n  agent_time: 10\n", "orch.yaml:2:15: limits.agent_time: `10` is not a duration"),
        ("limits:\n  log_size: 64MB\n", "`64MB` is not a size"),
        ("http:\n  bind: localhost\n", "orch.yaml:2:9: http.bind: `localhost` is not an address: write IP:PORT"),
        ("limits: [", "orch.yaml:"),
        ("- limits\n", "orch.yaml: the settings are keys with values"),
        ("telemetry:\n  level: wran\n", "orch.yaml:2: telemetry.level: `wran`"),
        ("a: b: c", "orch.yaml:1:5"),
        ("limits:\n\tx: 1", "orch.yaml:2"),
        ("repos:\n  a: {path: x}\n  a: {path: y}\n", "duplicate entry with key \"a\""),
        ("repos:\n  ../a: {path: x}\n", "repository name `../a` is refused"),
        ("repos:\n  a:\n    main: main\n", "orch.yaml:2: repos.a: it needs `path`"),
        ("repos:\n  a: {path: x, url: y}\n", "it has both `path` and `url`"),
        ("repos:\n  a: {url: 'ext::sh -c x'}\n", "write https://..., ssh://..."),
        (
            "repos:\n  a:\n    path: x\n    land: later\n",
            "repos.a.land: unknown value `later`; known here: auto, approval, pr-only",
        ),
        (
            "repos:\n  a:\n    path: x\n    agent: claud\n",
            "orch.yaml:4: repos.a.agent: there is no agent `claud`; did you mean `claude`?",
        ),
        (
            "repos:\n  a:\n    path: x\n    pipeline: fulll\n",
            "orch.yaml:4: repos.a.pipeline: there is no pipeline `fulll`; did you mean `full`?",
        ),
        ("repos:\n  a: {path: x, no_tests: true, commands: {test: t}}\n", "there is a test command too"),
        ("repos:\n  a: {path: x, commands: {test: ' '}}\n", "repos.a.commands.test: it is empty"),
        ("agents:\n  mine: {}\n", "orch.yaml:2: agents.mine.kind: its kind is missing"),
        ("agents:\n  mine: {kind: command}\n", "agents.mine.command: an agent of kind command needs it"),
        ("agents:\n  claude: {script: x, kind: claude}\n", "only agents of kind scripted have it"),
        ("agents:\n  mine: {command: {a: 1}}\n", "a shell line, or a list of program and arguments"),
        ("default_agent: gpt\n", "orch.yaml:1: default_agent: there is no agent `gpt`"),
        ("pipelines:\n  full: {stages: []}\n", "this name is built in"),
        ("pipelines:\n  p: {file: /nowhere/p.yaml}\n", "orch.yaml:2: pipelines.p: /nowhere/p.yaml: No such file"),
        (
            "pipelines:\n  p:\n    stages: [{name: a, agent: developer, next: b}, {name: b, agent: developer, next: a}]\n",
            "form a cycle",
        ),
        ("pipelines:\n  p: {stages: [{name: a, agent: developer, next: zz}]}\n", "unknown stage `zz`"),
        ("gates:\n  coverage:\n    min: 101\n", "`101` is not a share in percent"),
        ("gates:\n  coverage:\n    min: 84.999\n", "`84.999` is not a share in percent"),
        ("gates:\n  coverage:\n    epsilon: 0.1\n", "gates.coverage.epsilon: invalid type: floating point"),
        ("gates:\n  coverage:\n    epsilon: -1\n", "integer `-1`, expected a whole number from 0 up"),
        ("gates:\n  coverage:\n    epsilon: 10001\n", "10001 basis points are more than all lines"),
        ("gates:\n  coverage:\n    mode: patch\n", "known here: absolute, baseline, both"),
        ("repos:\n  a: {path: x, commands: {coverage_report: ../x}}\n", "path `../x` is refused"),
        (
            "gates:\n  security:\n    repos: [nobody]\n",
            "orch.yaml:3: gates.security.repos: there is no repository `nobody`",
        ),
        (
            "gates:\n  security:\n    dep_audit_endpoint: osv\n",
            "orch.yaml:3: gates.security.dep_audit_endpoint: `osv` is no address of an OSV service",
        ),
        (
            "gates:\n  security:\n    dep_audit_provider: pip-audit\n    dep_audit_offline: x\n",
            "orch.yaml:4: gates.security.dep_audit_offline: pip-audit asks a service",
        ),
        ("gates:\n  security:\n    dep_audit_timeout: 0s\n", "nobody can answer in no time"),
    ];
    for (text, expected) in cases {
        let err = refusal(text, &[]);
        assert!(err.contains(expected), "{text}\n  gave: {err}\n  expected: {expected}");
    }
}

#[test]
fn wrong_environment_is_refused_with_its_name_and_value() {
    let cases = [
        (
            "ORCH_MAX_CONCURENCY",
            "3",
            "environment variable ORCH_MAX_CONCURENCY: there is no such setting; did you mean ORCH_MAX_CONCURRENCY?",
        ),
        ("ORCH_WOMBAT_HABITAT", "3", "there is no such setting; docs/configuration.md"),
        ("ORCH_MAX_CONCURRENCY", "many", "`many` is not a whole number"),
        ("ORCH_MAX_CONCURRENCY", "-3", "-3"),
        ("ORCH_STOP_STATUS_ENABLED", "maybe", "`maybe` is neither true nor false"),
        ("ORCH_AGENT_TIME", "5", "`5` is not a duration"),
        ("ORCH_LOG_FORMAT", "xml", "unknown value `xml`"),
        ("ORCH_LOG", "inof", "`inof` is no level, and would switch everything else off: did you mean `info`?"),
        ("ORCH_LOG", "orch=debug,quiet", "`quiet` is no level"),
        ("ORCH_HTTP_ADDR", "here", "`here` is not an address"),
        (
            "ORCH_COVERAGE_GATE_REPOS",
            "shop",
            "environment variable ORCH_COVERAGE_GATE_REPOS: gates.coverage.repos: there is no repository `shop`; no repository is named here yet",
        ),
        (
            "ORCH_COVERAGE_EPSILON",
            "10001",
            "environment variable ORCH_COVERAGE_EPSILON: gates.coverage.epsilon: 10001 basis points are more than all lines",
        ),
    ];
    for (name, value, expected) in cases {
        let err = refusal("", &[(name, value)]);
        assert!(err.contains(expected) && err.contains(name), "{name}={value}\n  gave: {err}");
    }
    let given: Vec<(&str, &str)> = variables::ALL.iter().map(|(name, _)| (*name, "x")).collect();
    read("", &given).expect("what a job is given is no setting inside it");
    for (name, _) in variables::ALL.iter().filter(|(name, _)| *name != variables::JOB) {
        let err = read("", &[(name, "x")]).expect_err("outside of a job it is no setting").to_string();
        assert!(err.contains(name) && err.contains("there is no such setting"), "{err}");
        read("", &[(name, "x"), (variables::JOB, "j1")]).expect(name);
    }
    let err =
        read("", &[("ORCH_MAX_CONCURENCY", "3"), (variables::JOB, "j1")]).expect_err("typed wrong inside a job, too");
    assert!(err.to_string().contains("did you mean ORCH_MAX_CONCURRENCY?"), "{err}");
    let named = "agents:\n  mine: {command: x, env: [ORCH_SPECIAL]}\n";
    assert!(read(named, &[("ORCH_SPECIAL", "x")]).is_ok(), "what an agent is given is tolerated");
}

#[test]
fn credentials_are_refused_without_being_repeated() {
    for text in [
        "repos:\n  a: {url: 'https://me:sesame@host/x'}\n",
        "repos:\n  a: {url: 'https://sesame@host/x'}\n",
        "agents:\n  claude: {endpoint: 'https://u:sesame@host/'}\n",
        "agents:\n  claude: {key_env: 'sk-sesame'}\n",
        "gates:\n  security: {dep_audit_endpoint: 'https://me:sesame@host/x'}\n",
    ] {
        let err = refusal(text, &[]);
        assert!(!err.contains("sesame"), "{err}");
    }
    assert!(read("repos:\n  a: {url: 'git@host:x/y.git', no_tests: true}\n", &[]).is_ok());
}

#[test]
fn shown_settings_name_secrets_but_do_not_hold_them() {
    let text = "agents:\n  claude: {key_env: MY_KEY}\n";
    let pairs = [("MY_KEY", "sesame"), ("ORCH_TOKEN", "sesame-sesame-sesame")];
    let config = read(text, &pairs).expect("valid");
    let shown = config.show(&env(&pairs));
    assert!(!shown.contains("sesame") && shown.contains("MY_KEY: set"), "{shown}");
    assert_eq!(Config::parse(Path::new("shown"), &shown).expect("can be read again"), config);
}

#[test]
fn a_missing_file_is_an_error_only_when_it_was_named() {
    let err = Config::load(Some(Path::new("/nowhere/orch.yaml")), &env(&[])).expect_err("missing").to_string();
    assert!(err.contains("/nowhere/orch.yaml: No such file") && err.contains("--config"), "{err}");
    let err = Config::load(None, &env(&[("ORCH_CONFIG", "/nowhere/o.yaml")])).expect_err("missing").to_string();
    assert!(err.contains("/nowhere/o.yaml"), "{err}");
}

#[test]
fn policy_and_pipeline_reach_the_domain() {
    let text = "limits: {max_developer_retries: 1, task_tokens: 9, deferral_delay_max: 9s}\ngates: {merge: {defer_delay: 7s, defer_max: 3}}\npipelines:\n  quick: {stages: [{name: dev, agent: developer}, {name: ship, land: true}]}\nrepos:\n  a: {path: x, land: approval, serial: true, pipeline: quick, no_tests: true}\n";
    let config = read(text, &[]).expect("valid");
    let policy = config.policy(&"a".parse().expect("valid"));
    assert_eq!((policy.max_developer_retries, policy.land, policy.serial), (1, LandMode::Approval, true));
    assert_eq!((policy.budget.tokens, policy.no_tests), (Some(9), true));
    let lane = policy.lane;
    assert_eq!((lane.first, lane.most, lane.tries), (Millis::from_secs(7), Millis::from_secs(9), 3));
    assert_eq!(config.pipeline("quick").expect("valid").stages.len(), 2);
    assert_eq!(Config::default().policy(&"any".parse().expect("valid")), Policy::default());
}

#[test]
fn who_only_asks_in_a_clone_gets_the_settings_of_the_repository_that_it_is_a_clone_of() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (bare, clone) = (dir.path().join("shop.git"), dir.path().join("w"));
    for folder in [bare.join("objects"), bare.join("refs"), clone.join(".git")] {
        std::fs::create_dir_all(folder).expect("made");
    }
    std::fs::write(bare.join("HEAD"), "ref: refs/heads/main\n").expect("written");
    let yaml = format!(
        "repos:\n  shop: {{path: {}, commands: {{test: make test}}}}\n  \
         far: {{url: https://git.example.org/far.git, commands: {{test: make far}}}}\n",
        bare.display()
    );
    let base = read(&yaml, &[]).expect("valid");
    let asked = |origin: &str, by_origin| {
        let text =
            format!("[remote \"upstream\"]\n\turl = /else\n[remote \"origin\"]\n\tfetch = x\n\turl = {origin}\n");
        std::fs::write(clone.join(".git/config"), text).expect("written");
        let told = EmbeddedRepo { path: clone.clone(), by_origin, ..EmbeddedRepo::default() };
        let config = base.clone().embedded_for(&told).expect("valid");
        let name = config.only_repo().expect("one").clone();
        let repo = config.repos[&name].clone();
        assert_eq!(repo.path, Some(clone.canonicalize().expect("there")), "the clone is what is looked at");
        assert_eq!(repo.url, None);
        (name.to_string(), repo.commands.test)
    };
    let (shop, far, none) = (Some("make test".to_owned()), Some("make far".to_owned()), None);
    let bare = bare.display();
    for origin in [bare.to_string(), format!("file://{bare}"), "../shop.git".to_owned(), format!("\"{bare}/\"")] {
        assert_eq!(asked(&origin, true), ("shop".to_owned(), shop.clone()), "{origin}");
    }
    for origin in ["https://git.example.org/far.git", "https://me@git.example.org/far", "https://git.example.org/far/"]
    {
        assert_eq!(asked(origin, true), ("far".to_owned(), far.clone()), "{origin}");
    }
    for origin in ["https://git.example.org/farther.git", "git@git.example.org:far.git", "../nothing", ""] {
        assert_eq!(asked(origin, true), ("w".to_owned(), none.clone()), "{origin}");
    }
    assert_eq!(asked(&bare.to_string(), false), ("w".to_owned(), none), "work is taken on by path only");
}

#[test]
fn embedded_settings_hold_one_repository_and_its_own_data_folder() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let root = dir.path().join("My Shöp");
    std::fs::create_dir_all(root.join(".git")).expect("made");
    std::fs::create_dir_all(root.join("sub")).expect("made");
    let base = read("limits: {max_concurrency: 9}\n", &[]).expect("valid");
    let told = EmbeddedRepo {
        path: root.join("sub"),
        agent_command: Some("sh agent.sh".to_owned()),
        no_tests: true,
        ..EmbeddedRepo::default()
    };
    let config = base.clone().embedded_for(&told).expect("valid");
    let name = config.only_repo().expect("one").clone();
    assert_eq!(name.as_str(), "My-Sh-p");
    let repo = &config.repos[&name];
    assert_eq!(repo.path.as_deref(), Some(root.canonicalize().expect("there").as_path()));
    assert_eq!((repo.pipeline.as_str(), repo.no_tests, config.limits.max_concurrency), ("lite", true, 9));
    assert_eq!(config.agents[repo.agent.as_ref().expect("set")].kind(), AgentKind::Command);
    assert!(config.data_dir.starts_with("/home/me/.local/state/orch/repos"), "{:?}", config.data_dir);
    assert_eq!(config.gates.merge.repos, ["*"]);
    let again = base.clone().embedded_for(&EmbeddedRepo { path: root.clone(), ..told.clone() }).expect("valid");
    assert_eq!(again.data_dir, config.data_dir, "the same repository, the same folder");

    let refused = |told: EmbeddedRepo| base.clone().embedded_for(&told).expect_err("refused").to_string();
    let plain = tempfile::tempdir().expect("temporary folder");
    let path = plain.path().to_path_buf();
    assert!(refused(EmbeddedRepo { path: path.clone(), ..told.clone() }).contains("is no git repository"));
    assert!(refused(EmbeddedRepo { path: path.join("no"), ..told.clone() }).contains("No such file"));
    let odd = EmbeddedRepo { agent_command: None, agent: Some("gpt".into()), ..told.clone() };
    assert!(refused(odd).contains("there is no agent `gpt`"));
    assert!(refused(EmbeddedRepo { pipeline: Some("fast".into()), ..told }).contains("neither a pipeline"));
}

#[test]
fn users_for_jobs_are_a_range_without_root() {
    let uids = |text: &str| read(&format!("containment: {{uids: {text}}}"), &[]).expect("good").containment.uids;
    let range = UserRange { first: 200_000, last: 200_199 };
    assert_eq!((uids("200000-200199"), uids("")), (Some(range), None));
    for wrong in ["0-5", "9-3", "70000", "a-b", "1-4294967295"] {
        let text = refusal(&format!("containment: {{uids: '{wrong}'}}"), &[]);
        assert!(text.contains("range of user ids"), "{wrong}: {text}");
    }
}

#[test]
fn limits_of_a_kind_stand_beside_the_usual_ones() {
    let text = "limits: {job_memory: 1GiB, job_cpus: 1.5, command_stall: 5m}\n\
                job_limits: {gate: {memory: 2GiB, cpus: 4}, deploy: {processes: 9}}\n";
    let limits = read(text, &[]).expect("good").job_limits();
    let (agent, gate) = (limits.of(JobKind::Agent), limits.of(JobKind::Gate));
    assert_eq!((agent.memory_bytes, agent.cpus_milli, agent.processes), (Some(1 << 30), Some(1_500), Some(2_048)));
    assert_eq!((gate.memory_bytes, gate.cpus_milli, gate.processes), (Some(2 << 30), Some(4_000), Some(2_048)));
    assert_eq!((agent.stall, gate.stall), (None, Some(Millis::from_mins(5))));
    let deploy = limits.of(JobKind::DeployAid);
    assert_eq!((deploy.processes, deploy.memory_bytes, deploy.disk_bytes), (Some(9), None, None));
    assert!(refusal("job_limits: {gates: {memory: 1GiB}}", &[]).contains("agent, capture, gate or deploy"));
    assert!(refusal("limits: {job_cpus: 0}", &[]).contains("not a number of processors"));
}

#[test]
fn a_coverage_command_that_nobody_will_run_is_remarked_on() {
    let remarks = |more: &str| {
        let text = format!("repos:\n  a: {{path: x, commands: {{coverage: make cov}}}}\n  b: {{path: y}}\n{more}");
        let remarks = read(&text, &[]).expect("valid").remarks();
        remarks.into_iter().filter(|remark| remark.contains("coverage")).collect::<Vec<_>>()
    };
    let alone = remarks("");
    assert!(alone.len() == 1 && alone[0].contains("repository `a` names `commands.coverage`"), "{alone:?}");
    assert_eq!(remarks("gates: {coverage: {repos: [b]}}\n").len(), 1);
    for scoped in [
        "gates: {coverage: {repos: [a]}}\n",
        "gates: {coverage: {repos: ['*']}}\n",
        "gates: {coverage: {enabled: false}}\n",
    ] {
        assert_eq!(remarks(scoped), Vec::<String>::new(), "{scoped}");
    }
}

#[test]
fn a_repository_that_gates_which_are_on_pass_over_is_remarked_on() {
    let remarks = |repo: &str, gates: &str| {
        let text = format!("repos:\n  a: {{path: x{repo}}}\n{gates}");
        read(&text, &[]).expect("valid").remarks()
    };
    let smallest = remarks("", "");
    let said = "`a` is out of the scope of these gates, which are on: security, merge; they judge nothing there, and a branch behind \
                main lands without being tested";
    assert!(smallest.len() == 1 && smallest[0].contains(said), "{smallest:?}");
    assert!(smallest[0].contains("`gates.merge.repos: ['*']`"), "{smallest:?}");
    let image = remarks(", image: 'shop:latest'", "gates: {security: {repos: ['*']}, merge: {repos: [a]}}\n");
    assert!(image.len() == 1 && image[0].contains("which are on: image-freshness;"), "{image:?}");
    assert!(!image[0].contains("tested on top"), "{image:?}");
    for silent in [
        remarks(", self_hosting: true", ""),
        remarks("", "gates: {security: {repos: ['*']}, merge: {repos: [a]}}\n"),
        remarks("", "gates: {security: {enabled: false}, merge: {enabled: false}}\n"),
    ] {
        assert_eq!(silent, Vec::<String>::new());
    }
}
