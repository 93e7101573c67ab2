//! The one table of settings: key, environment name, sort of value, meaning.
//!
//! Owns what `docs/configuration.md`, `.env.example` and the commented `orch.yaml` are made from; a test compares them,
//! and another compares this table with the typed settings. Refuses to hold defaults: those are `Config::default()`.

/// What sort of value a key takes; decides how an environment variable is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A file or folder; relative ones start at the settings file's folder, `~/` at the home folder.
    Path,
    /// A whole number.
    Number,
    /// `true` or `false`; in the environment also `1`, `0`, `on`, `off`, `yes`, `no`.
    Switch,
    /// A duration with its unit.
    Duration,
    /// A size with its unit.
    Size,
    /// US dollars.
    Money,
    /// A share in percent, with at most two decimals.
    Percent,
    /// One of these words.
    Word(&'static str),
    /// A list of texts; in the environment separated by commas.
    List,
    /// Anything else, described by its meaning.
    Other,
}

impl Kind {
    /// The sort in words, for the document.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Path => "path",
            Self::Number => "number",
            Self::Switch => "`true` or `false`",
            Self::Duration => "duration",
            Self::Size => "size",
            Self::Money => "US dollars",
            Self::Percent => "percent",
            Self::Word(words) => words,
            Self::List => "list",
            Self::Other => "see meaning",
        }
    }
}

/// One key of `orch.yaml`. `<name>` in a path stands for a name that the operator chooses.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted path.
    pub path: &'static str,
    /// Environment variable that overrides it.
    pub env: Option<&'static str>,
    /// What it takes.
    pub kind: Kind,
    /// What it means.
    pub doc: &'static str,
}

/// An environment variable that is no key of the file.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Its name.
    pub env: &'static str,
    /// What it means.
    pub doc: &'static str,
}

const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, env: None, kind, doc }
}

const fn with_env(path: &'static str, env: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, env: Some(env), kind, doc }
}

use Kind::{Duration, List, Money, Number, Other, Path, Percent, Size, Switch, Text, Word};

/// Every key, in the order of the file.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    with_env("data_dir", "ORCH_DATA_DIR", Path, "Folder of everything that must survive: store, mirrors, logs, token. Empty: `orch/` in the user's state folder (`$XDG_STATE_HOME`, else `~/.local/state`)."),
    with_env("default_agent", "ORCH_DEFAULT_AGENT", Text, "Name of the agent that works where neither task nor repository names one."),
    with_env("http.bind", "ORCH_HTTP_ADDR", Text, "Address and port of the HTTP interface and the board. Port 0 takes any free one."),
    with_env("http.allowed_hosts", "ORCH_HTTP_ALLOWED_HOSTS", List, "Host names that are answered to, besides loopback names and the bound address. `*` answers to all: only behind a proxy that checks."),
    with_env("http.token_file", "ORCH_TOKEN_FILE", Path, "File with the token, mode 0600, made at the first start. Empty: `token` in the data folder."),
    with_env("limits.max_concurrency", "ORCH_MAX_CONCURRENCY", Number, "Agent runs at a time."),
    with_env("limits.gate_slots", "ORCH_GATE_SLOTS", Number, "Gate, check and test runs at a time."),
    with_env("limits.max_developer_retries", "ORCH_MAX_DEVELOPER_RETRIES", Number, "Times that a failed check, test, gate or review sends a task back before it is blocked."),
    with_env("limits.max_conflicts", "ORCH_MAX_CONFLICTS", Number, "Times that a conflict with what `main` brought sends a task back before it is blocked."),
    with_env("limits.max_interrupted", "ORCH_MAX_INTERRUPTED", Number, "Interrupted agent runs that are resumed before a task is blocked; of checks and tests four times as many in a row."),
    key("limits.infrastructure_retries", Number, "Repetitions when something of ours could not run."),
    key("limits.infrastructure_delay", Duration, "Delay before the first of them; doubled each time."),
    key("limits.infrastructure_delay_max", Duration, "Longest delay between them."),
    key("limits.deferrals", Number, "Repetitions when something was busy; they cost no attempt."),
    key("limits.deferral_delay", Duration, "Delay before the first of them; doubled each time."),
    key("limits.deferral_delay_max", Duration, "Longest delay between them."),
    with_env("limits.max_overtaken", "ORCH_MAX_OVERTAKEN", Number, "Times that a task which is ready to land is overtaken by one that came later, of whatever priority. 0: first come, first served."),
    with_env("limits.task_tokens", "ORCH_TASK_TOKENS", Number, "Tokens that one task may use, as its agents report them. Absent: no ceiling."),
    with_env("limits.task_cost_usd", "ORCH_TASK_COST_USD", Money, "US dollars that one task may use, as its agents report them. Absent: no ceiling."),
    with_env("limits.task_agent_time", "ORCH_TASK_AGENT_TIME", Duration, "Wall time of one task's agent runs together. Absent: no ceiling."),
    with_env("limits.agent_time", "ORCH_AGENT_TIME", Duration, "Longest agent run."),
    with_env("limits.agent_stall", "ORCH_AGENT_STALL", Duration, "Longest silence of an agent; a running tool call extends it."),
    key("limits.agent_orphan_grace", Duration, "How long agents work on without their supervisor. The next start goes on with their runs, output and exit code included; nobody comes: they are ended."),
    key("limits.check_time", Duration, "Longest run of a repository's setup and check commands."),
    key("limits.test_time", Duration, "Longest run of a repository's test and coverage commands."),
    key("limits.deploy_time", Duration, "Longest run of a repository's staging, image build, deploy and rollback commands."),
    key("limits.health_time", Duration, "How long a deploy may take to become healthy, before it counts as failed."),
    key("limits.git_time", Duration, "Longest git command on the network."),
    key("limits.stop_grace", Duration, "Between TERM and KILL."),
    with_env("limits.drain_deadline", "ORCH_DRAIN_DEADLINE", Duration, "How long SIGTERM lets running work end before it is interrupted."),
    key("limits.log_size", Size, "Kept of each log of a job; the rest is cut and marked."),
    with_env("limits.job_memory", "ORCH_JOB_MEMORY", Size, "Most memory of one agent's, capture's or gate's job with all its processes. Absent: no ceiling."),
    with_env("limits.job_processes", "ORCH_JOB_PROCESSES", Number, "Most processes of one of those jobs."),
    key("limits.job_cpus", Text, "Most processors of one of those jobs at a time, such as 1.5. Only a control group can hold this; `orch doctor` says whether it does. Absent: no ceiling."),
    key("limits.job_cpu_time", Duration, "Most processor time of one of those jobs, all its processes together. Absent: no ceiling."),
    key("limits.job_open_files", Number, "Most open files of each process of those jobs. Absent: as the supervisor's."),
    key("limits.job_disk", Size, "Most disk that one of those jobs may take in the folders that it writes. Counted every few seconds."),
    key("limits.command_stall", Duration, "Longest silence of a repository's setup, check, test and coverage commands. Absent: only their time is limited."),
    key("limits.capture_size", Size, "Most bytes that leave a workspace in one capture."),
    key("limits.min_free_disk", Size, "Least free space on the data folder's disk; below it no new work is taken, and below a sixteenth of it agents and gates stand still."),
    key("limits.shed_after", Duration, "How long agents and gates stand still on a full disk before the one that takes most is ended, and between that and the next."),
    key("agents.<name>.kind", Word("claude, codex, opencode, command, scripted"), "Which program. May be left out where the agent's name says it."),
    key("agents.<name>.program", Text, "Program name or absolute path. Absent: the kind's own name."),
    key("agents.<name>.command", Other, "Only for kind `command`: a shell line (the prompt comes on standard input), or a list of program and arguments with `{prompt}`, `{prompt_file}`, `{workspace}`."),
    key("agents.<name>.script", Path, "Only for kind `scripted`: the script's file."),
    key("agents.<name>.model", Text, "Model to ask for. Absent: the program's own choice."),
    key("agents.<name>.endpoint", Text, "Base URL of the model's API, without credentials. Absent: the program's own."),
    key("agents.<name>.key_env", Text, "Name of the environment variable with the API key; it is passed to this agent alone."),
    key("agents.<name>.env", List, "Names of further environment variables that are passed on."),
    key("agents.<name>.extra_args", List, "Arguments put before our own last ones. No secrets: arguments are public."),
    key("agents.<name>.unconfined", Switch, "Whether file-system confinement is left to the program's own sandbox. Shown with its jobs."),
    key("agents.<name>.read", List, "Folders that it may read besides the system's, such as tool chains."),
    key("agents.<name>.time_limit", Duration, "Longest run. Absent: `limits.agent_time`."),
    key("agents.<name>.stall_limit", Duration, "Longest silence. Absent: `limits.agent_stall`."),
    key("agents.<name>.rates.<model>.input", Money, "Price of a million tokens read, where the program reports no money. The model `*` is any other."),
    key("agents.<name>.rates.<model>.cached", Money, "Price of a million tokens read from a cache."),
    key("agents.<name>.rates.<model>.output", Money, "Price of a million tokens written."),
    key("repos.<name>.path", Path, "A repository on this machine, bare or not. Either this or `url`."),
    key("repos.<name>.url", Text, "A repository elsewhere: `https://`, `ssh://`, `git://`, `file://` or `user@host:path`, without credentials."),
    key("repos.<name>.username", Text, "As whom an HTTP server is asked, with `password_file`. A server that only wants a token takes any name."),
    key("repos.<name>.password_file", Path, "File with the password or token for `username`, and nothing else; readable by the supervisor alone. Read anew by each git command, shown to that one server; `https://` only, or `http://` on loopback."),
    key("repos.<name>.main", Text, "The branch that tasks land on. Absent: the one that the repository names at the first start, in a clone with files the one that is checked out then; it is kept from there on. `orch run` takes the one that is checked out when it is called."),
    key("repos.<name>.agent", Text, "Agent by name. Absent: `default_agent`."),
    key("repos.<name>.pipeline", Text, "Pipeline by name: `full`, `lite` or one of `pipelines`."),
    key("repos.<name>.commands.setup", Text, "Shell line that prepares a fresh checkout."),
    key("repos.<name>.commands.check", Text, "Shell line of the quick check after development. Absent: skipped."),
    key("repos.<name>.commands.test", Text, "Shell line of the test suite. Absent: detected (Cargo.toml, pytest, package.json, go.mod, Makefile)."),
    key("repos.<name>.commands.junit", Text, "Where the test command leaves JUnit XML, relative to the checkout. Absent: tests are counted from its output."),
    key("repos.<name>.commands.coverage", Text, "Shell line of the test suite with a coverage report, or the name of a preset: `pytest`, `c8`, `cargo-llvm-cov`, `none`. Absent: detected where the repository names pytest-cov or c8."),
    key("repos.<name>.commands.coverage_report", Text, "Where that command leaves its report, relative to the checkout. Absent: `$ORCH_COVERAGE_REPORT`, then the usual places."),
    key("repos.<name>.commands.coverage_runs_tests", Switch, "Whether that command runs the whole test suite, so that it stands for `test` where coverage is measured: one run instead of two. Absent: only where no `test` is named and the same runner would run the detected one."),
    key("repos.<name>.commands.staging", Text, "Shell line that deploys a task's head to a staging place."),
    key("repos.<name>.commands.build_image", Text, "Shell line that builds the image from what is about to land, labelled with `--label \"$ORCH_IMAGE_LABEL\"` and named `$ORCH_IMAGE`. It runs confined, like the tests. Absent: the image is only looked at."),
    key("repos.<name>.commands.deploy", Text, "Shell line that deploys what has landed. It runs unconfined; what it leaves running is ended with it, so have services started by a service manager or a container daemon. Absent: landing is the end."),
    key("repos.<name>.commands.health", Text, "Shell line that tells by its exit code whether the deploy is healthy."),
    key("repos.<name>.commands.rollback", Text, "Shell line that takes a failed deploy back."),
    key("repos.<name>.commands.deploy_status", Text, "Shell line that tells whether a deploy took effect, asked when its outcome is unknown."),
    key("repos.<name>.no_tests", Switch, "Work without any test command; the proof of each landing says so."),
    key("repos.<name>.land", Word("auto, approval, pr-only"), "How a change reaches `main`: at once, after a person's approval, or by a person."),
    key("repos.<name>.deploy_mode", Word("auto, approval"), "How a landed change is deployed."),
    key("repos.<name>.serial", Switch, "One task at a time past the first stage."),
    key("repos.<name>.on_cancelled_dependency", Word("proceed, block"), "What a cancelled dependency means to those that wait for it."),
    key("repos.<name>.artefact_dir", Path, "Folder in the repository for the agents' notes."),
    key("repos.<name>.keep_artefacts", Switch, "Whether those notes land with the change."),
    key("repos.<name>.self_hosting", Switch, "Marks the supervisor's own repository: gates without a scope apply to it."),
    key("repos.<name>.priority", Number, "Priority of its tasks where they name none; higher goes first."),
    key("repos.<name>.test_timeout", Duration, "Longest run of its test and coverage commands. Absent: `limits.test_time`."),
    key("repos.<name>.check_timeout", Duration, "Longest run of its setup and check commands. Absent: `limits.check_time`."),
    key("repos.<name>.deploy_timeout", Duration, "Longest run of its staging, image build, deploy and rollback commands. Absent: `limits.deploy_time`."),
    key("repos.<name>.health_timeout", Duration, "How long a deploy may take to become healthy. Absent: `limits.health_time`."),
    key("repos.<name>.image", Text, "Image that is deployed, for the image-freshness gate. Absent: the gate does not apply."),
    key("repos.<name>.image_inputs", List, "Files and folders that go into the image: one built from an earlier commit is as good while they are the same. Empty: everything."),
    key("pipelines.<name>", Other, "`{file: PATH}`, or `{stages: [...]}` in the form of a pipeline file: docs/pipelines.md has every key."),
    key("job_limits.<kind>.memory", Size, "For one kind of job, `agent`, `capture`, `gate` or `deploy`, instead of `limits.job_memory`. `deploy` has no limits but these."),
    key("job_limits.<kind>.processes", Number, "Instead of `limits.job_processes`."),
    key("job_limits.<kind>.cpus", Text, "Instead of `limits.job_cpus`."),
    key("job_limits.<kind>.cpu_time", Duration, "Instead of `limits.job_cpu_time`."),
    key("job_limits.<kind>.open_files", Number, "Instead of `limits.job_open_files`."),
    key("job_limits.<kind>.disk", Size, "Instead of `limits.job_disk`."),
    key("containment.namespaces", Switch, "Whether agents and gates get processes, `/proc`, `/dev/shm` and `/run` of their own, where the host offers namespaces. `orch doctor` says what it offers."),
    key("containment.uids", Text, "Users of their own for the jobs of agents and gates, one each: the first and the last user id of a range that nobody else on the host has, such as `200000-200199`. Takes a supervisor that is root, and namespaces. What such a job starts has to be readable for everybody."),
    key("containment.cgroups", Switch, "Whether jobs get control groups, where the host offers them: for ending all at once, and for limits that the kernel keeps."),
    with_env("stop.status_enabled", "ORCH_STOP_STATUS_ENABLED", Switch, "Whether the tracker's STOP status is obeyed. STOP by command line and HTTP always is."),
    with_env("gates.security.enabled", "ORCH_SECURITY_GATE_ENABLED", Switch, "The gate against secrets and known advisories."),
    with_env("gates.security.repos", "ORCH_SECURITY_GATE_REPOS", List, "Its scope: names, or `*`. Empty: repositories marked `self_hosting`."),
    with_env("gates.security.engine", "ORCH_SECURITY_ENGINE", Word("auto, gitleaks, builtin"), "What looks for secrets: `auto` takes gitleaks where it is found, else the engine in this process, and says so loudly. A gitleaks that fails is never replaced."),
    key("gates.security.gitleaks", Text, "The gitleaks binary: a name that is looked for along `PATH`, or an absolute path."),
    key("gates.security.gitleaks_sha256", Text, "The only checksum (hex SHA-256) of that binary that is accepted. Absent: any; the report names it."),
    key("gates.security.rules", Path, "A rules file in gitleaks' format that holds instead of the `.gitleaks.toml` at the base of each repository."),
    with_env("gates.security.timeout", "ORCH_SECURITY_TIMEOUT", Duration, "Longest scan."),
    key("gates.security.file_size", Size, "Longest file that is looked at; a branch that brings a longer one does not pass."),
    key("gates.security.total_size", Size, "Most bytes of files that one branch may bring; above, it does not pass."),
    with_env("gates.security.dep_audit_enabled", "ORCH_SECURITY_DEP_AUDIT_ENABLED", Switch, "Whether dependencies that a branch adds to lock files are looked up for known advisories."),
    with_env("gates.security.dep_audit_fail_closed", "ORCH_SECURITY_DEP_AUDIT_FAIL_CLOSED", Switch, "What is not known about an added dependency keeps the branch from `main`, instead of passing with a warning: what the branch did not pin fails it, an unreachable or old feed blocks it after the infrastructure's retries."),
    with_env("gates.security.dep_audit_provider", "ORCH_SECURITY_DEP_AUDIT_PROVIDER", Word("osv, pip-audit"), "Who is asked: the OSV service, or the tool pip-audit about packages of Python and the service about the rest. Names and versions of added packages leave the machine."),
    with_env("gates.security.dep_audit_endpoint", "ORCH_SECURITY_DEP_AUDIT_ENDPOINT", Text, "The OSV service, or a mirror of it; without credentials."),
    with_env("gates.security.dep_audit_offline", "ORCH_SECURITY_DEP_AUDIT_OFFLINE", Path, "Folder with the OSV project's data, `PyPI/all.zip`, `crates.io/all.zip` and `npm/all.zip`: instead of any service, so that nothing leaves the machine."),
    key("gates.security.dep_audit_stale_after", Duration, "Age beyond which the data in that folder are old."),
    with_env("gates.security.dep_audit_cache_age", "ORCH_SECURITY_DEP_AUDIT_CACHE_AGE", Duration, "How long an answer of the service counts as fresh."),
    with_env("gates.security.dep_audit_timeout", "ORCH_SECURITY_DEP_AUDIT_TIMEOUT", Duration, "Longest wait for all answers together; what is not answered by then is unknown."),
    key("gates.security.pip_audit", Text, "The tool pip-audit, for `dep_audit_provider: pip-audit`: a name that is looked for along `PATH`, or an absolute path."),
    with_env("gates.merge.enabled", "ORCH_MERGE_GATE_ENABLED", Switch, "The gate that tests the branch caught up on current main."),
    with_env("gates.merge.repos", "ORCH_MERGE_GATE_REPOS", List, "Its scope: names, or `*`. Empty: repositories marked `self_hosting` only; elsewhere a branch behind `main` lands untested, and `orch config check` warns of it."),
    with_env("gates.merge.lease_ttl", "ORCH_MERGE_LEASE_TTL", Duration, "How long the lease of a lane to `main` holds without being renewed. Time alone never frees it: its holder has to be proven gone."),
    with_env("gates.merge.defer_delay", "ORCH_MERGE_DEFER_DELAY", Duration, "Delay before a task that the lane could not take (lease busy, `main` moving or red) comes back; doubled each time up to `limits.deferral_delay_max`, and spread so that tasks do not come back together."),
    with_env("gates.merge.defer_max", "ORCH_MERGE_DEFER_MAX", Number, "How often in a row it comes back before it is blocked."),
    with_env("gates.merge.retest_timeout", "ORCH_MERGE_RETEST_TIMEOUT", Duration, "Longest run of the tests on the caught-up commit, and on `main` alone. Absent: the repository's `test_timeout`."),
    with_env("gates.coverage.enabled", "ORCH_COVERAGE_GATE_ENABLED", Switch, "The gate against falling line coverage."),
    with_env("gates.coverage.repos", "ORCH_COVERAGE_GATE_REPOS", List, "Its scope: names, or `*`. Empty: repositories marked `self_hosting`."),
    with_env("gates.coverage.fail_closed", "ORCH_COVERAGE_FAIL_CLOSED", Switch, "A coverage tool that could not start keeps the change from `main` (could not run, which costs no retry) instead of passing with a warning."),
    with_env("gates.coverage.mode", "ORCH_COVERAGE_MODE", Word("absolute, baseline, both"), "Which rule holds: at least `min`, not below the baseline, or both. Without a baseline only `min` holds, in every mode."),
    with_env("gates.coverage.min", "ORCH_COVERAGE_MIN", Percent, "The least share of covered lines, for `absolute` and `both`, and as long as there is no baseline."),
    with_env("gates.coverage.epsilon", "ORCH_COVERAGE_EPSILON", Number, "How far below the baseline is let pass, in basis points: 10 are 0.10 percentage points."),
    key("gates.coverage.removal_rule", Switch, "Whether a change passes that leaves fewer lines and no more uncovered ones, although the share falls. Its landing sets the baseline anew, flagged."),
    with_env("gates.coverage.timeout", "ORCH_COVERAGE_TIMEOUT", Duration, "Longest run of a coverage command. Absent: that of the repository's tests. Where it serves the tests too, a shorter limit of those holds."),
    with_env("gates.image-freshness.enabled", "ORCH_IMAGE_FRESHNESS_GATE_ENABLED", Switch, "The gate that compares the deployed image with the commit."),
    with_env("gates.image-freshness.repos", "ORCH_IMAGE_FRESHNESS_GATE_REPOS", List, "Its scope: names, or `*`. Empty: repositories marked `self_hosting`."),
    key("retention.logs", Duration, "How long after its task is closed a job's logs are kept, and what was taken in from workspaces; also how long sent effects and deliveries that were acted upon are remembered."),
    key("retention.salvage", Duration, "How long the files of workspaces that were salvaged or put aside are kept."),
    key("retention.salvage_size", Size, "Most bytes of files that one repository's salvages may hold together; beyond it the oldest go, and a notice says so."),
    key("retention.journal", Duration, "How long the journal of a closed task is kept. Absent: for ever."),
    with_env("telemetry.format", "ORCH_LOG_FORMAT", Word("auto, text, json"), "Form of log lines: `auto` is coloured text on a terminal, JSON elsewhere. `orch run` writes text everywhere, from warnings up."),
    with_env("telemetry.level", "ORCH_LOG", Text, "`error`, `warn`, `info`, `debug`, `trace`, or filter directives such as `info,orch_store=debug`."),
];

/// Environment variables that are no keys of the file.
#[rustfmt::skip]
pub const OUTER: &[Outer] = &[
    Outer { env: "ORCH_CONFIG", doc: "The settings file, like `--config`. Without it `orch.yaml` in the current folder, if there is one." },
    Outer { env: "ORCH_TOKEN", doc: "The token itself, instead of the token file: for the supervisor and for commands that talk to it. At least 16 characters." },
    Outer { env: "ORCH_URL", doc: "Where commands find the supervisor, like `--url`. Without it the `http.addr` file in the data folder." },
];
