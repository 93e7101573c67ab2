//! The settings shown: the document, the environment example, the commented file, the effective settings.
//!
//! Owns four texts, all made from the table of keys and from `Config::default()`, so none of them can drift. Invariant: the
//! commented file parses and equals the defaults.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use orch_domain::variables;
use serde_yaml::Value;

use super::keys::{KEYS, Key, Kind, OUTER};
use super::{AgentConfig, Config, KindConfig, RateConfig, RepoConfig};

/// What `orch init` found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitFacts {
    /// The branch that tasks land on, where it can be told.
    pub main: Option<String>,
    /// Name for the repository.
    pub name: String,
    /// Its path as it shall be written.
    pub path: String,
    /// The test command that was detected, and by what.
    pub test: Option<(String, String)>,
}

impl Config {
    /// The commented `orch.yaml`: every key with its default.
    #[must_use]
    pub fn example() -> &'static str {
        include_str!("example.yaml")
    }

    /// The file that `orch init` writes: the example with this repository in it and the gates on for all.
    #[must_use]
    pub fn init_text(facts: &InitFacts) -> String {
        example_text(Some(facts))
    }

    /// The effective settings as YAML. Holds no secret: none is ever part of the settings; which secrets the environment
    /// brings is said by name alone.
    #[must_use]
    pub fn show(&self, env: &BTreeMap<String, String>) -> String {
        let mut out = serde_yaml::to_string(self).expect("settings serialise: tested for every key");
        let mut names: Vec<&str> = self.agents.values().flat_map(AgentConfig::env_names).collect();
        names.push("ORCH_TOKEN");
        names.sort_unstable();
        names.dedup();
        out.push_str("# Secrets come from the environment and are never shown:\n");
        for name in names {
            let set = if env.get(name).is_some_and(|v| !v.is_empty()) { "set" } else { "not set" };
            let _ = writeln!(out, "#   {name}: {set}");
        }
        out
    }
}

/// The default of a key as YAML text; empty where there is none.
pub(super) fn default_of(key: &Key) -> String {
    let trees = [
        ("", serde_yaml::to_value(Config::default())),
        ("agents.<name>.rates.<model>.", serde_yaml::to_value(RateConfig::default())),
        ("agents.<name>.", serde_yaml::to_value(AgentConfig::default())),
        ("repos.<name>.", serde_yaml::to_value(RepoConfig::default())),
        ("job_limits.<kind>.", serde_yaml::to_value(KindConfig::default())),
    ];
    for (prefix, tree) in trees {
        let Ok(tree) = tree else { continue };
        let Some(rest) = key.path.strip_prefix(prefix) else { continue };
        let found = rest.split('.').try_fold(&tree, |at, part| at.get(part));
        match found {
            Some(value) => return value_text(value),
            None => continue,
        }
    }
    String::new()
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Sequence(items) if items.is_empty() => "[]".to_owned(),
        other => serde_yaml::to_string(other).unwrap_or_default().trim_end().to_owned(),
    }
}

const FIELD: &str =
    "# orch.yaml: settings of the supervisor. Every key is listed with its default; docs/configuration.md says more.
# Precedence: defaults < this file < ORCH_* environment variables. An unknown key is an error.
# Secrets do not belong here: they come from the environment or from files of mode 0600.
";

/// The commented file.
pub(super) fn example_text(facts: Option<&InitFacts>) -> String {
    let mut out = FIELD.to_owned();
    let mut open: Vec<&str> = Vec::new();
    // In a file of one's own, what one is most likely to change comes first.
    let (first, rest): (Vec<&Key>, Vec<&Key>) =
        KEYS.iter().partition(|key| facts.is_some() && key.path.starts_with("repos."));
    for key in first.into_iter().chain(rest) {
        let parts: Vec<&str> = key.path.split('.').collect();
        let (leaf, sections) = parts.split_last().expect("a path has a last part");
        let commented = key.path.contains('<');
        let shared = open.iter().zip(sections).take_while(|(a, b)| a == b).count();
        if shared == 0 {
            out.push('\n');
        }
        if key.path == "pipelines.<name>" {
            out.push_str("# Pipelines by name; `full` and `lite` are built in.\npipelines: {}\n#  short:\n#    file: short.yaml\n");
            open = sections.to_vec();
            continue;
        }
        for (depth, section) in sections.iter().enumerate().skip(shared) {
            open_section(&mut out, depth, section, commented, facts);
        }
        let pad = "  ".repeat(sections.len());
        let mark = if commented { "#" } else { "" };
        let value = match (default_of(key), key.path, facts) {
            (_, path, Some(_)) if path.starts_with("gates.") && path.ends_with(".repos") => "['*']".to_owned(),
            (value, ..) => value,
        };
        let env = key.env.map(|env| format!(" [{env}]")).unwrap_or_default();
        let _ = writeln!(out, "{}# {}{env}", if commented { format!("#{pad}") } else { pad.clone() }, key.doc);
        let unset = value.is_empty() && !commented;
        match unset {
            true => drop(writeln!(out, "{pad}# {leaf}:")),
            false => drop(writeln!(out, "{mark}{pad}{leaf}:{}{value}", if value.is_empty() { "" } else { " " })),
        }
        open = sections.to_vec();
    }
    out
}

fn open_section(out: &mut String, depth: usize, section: &str, commented: bool, facts: Option<&InitFacts>) {
    let pad = "  ".repeat(depth);
    match (section, depth, facts) {
        ("agents", 0, _) => {
            out.push_str(
                "# Agents by name; claude, codex and opencode exist without being written here.\nagents: {}\n",
            );
        }
        ("job_limits", 0, _) => {
            out.push_str("# Limits of one kind of job.\njob_limits: {}\n");
        }
        ("repos", 0, None) => out.push_str("# Repositories by name.\nrepos: {}\n"),
        ("repos", 0, Some(facts)) => {
            out.push_str("# Repositories by name.\nrepos:\n");
            let quoted = |text: &str| serde_yaml::to_string(text).unwrap_or_default().trim_end().to_owned();
            let _ = writeln!(out, "  {}:\n    path: {}", quoted(&facts.name), quoted(&facts.path));
            if let Some(main) = &facts.main {
                let _ = writeln!(
                    out,
                    "    # The branch that tasks land on, whichever is checked out.\n    main: {}",
                    quoted(main)
                );
            }
            match &facts.test {
                Some((command, why)) => {
                    let _ = writeln!(out, "    commands:\n      # detected: {why}\n      test: {}", quoted(command));
                }
                None => out.push_str(
                    "    # No test command was detected: name one here, or write `no_tests: true`.\n    # commands:\n    #   test:\n",
                ),
            }
            out.push_str("# What else a repository can have:\n");
        }
        _ if commented => drop(writeln!(out, "#{pad}{section}:")),
        _ => drop(writeln!(out, "{pad}{section}:")),
    }
}

/// The text of `docs/configuration.md`.
#[must_use]
pub fn reference_text() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Made from the table in `src/config/keys.rs` and the defaults in `src/config.rs`; a test compares them.\n\n\
         Precedence: **defaults < `orch.yaml` < `ORCH_*` environment**. The file is the one named by `--config` or\n\
         `ORCH_CONFIG`, else `orch.yaml` in the current folder, else none. An unknown key and an unknown `ORCH_*` variable\n\
         are errors that name the place and the nearest known one. Secrets are never part of the file.\n\n\
         - Durations carry units: `500ms`, `90s`, `10m`, `2h`, `1d`, `1h30m`. Sizes too: `512KiB`, `64MiB`, `2GiB`.\n\
         - Relative paths start at the folder of the settings file; `~/` is the home folder.\n\
         - Lists in the environment are separated by commas. A variable set to nothing counts as unset.\n\
         - `orch config check` reads and judges the settings, `orch config show` prints the effective ones, `orch init`\n  \
         writes a commented file.\n",
    );
    let mut section = "";
    for key in KEYS {
        let head = key.path.split('.').next().unwrap_or_default();
        let group = if key.path.contains('.') { head } else { "top level" };
        if group != section {
            let _ = writeln!(
                out,
                "\n## {group}\n\n| key | takes | default | environment | meaning |\n| --- | --- | --- | --- | --- |"
            );
            section = group;
        }
        let default = default_of(key);
        let default = if default.is_empty() { "none".to_owned() } else { format!("`{default}`") };
        let env = key.env.map_or_else(|| "-".to_owned(), |env| format!("`{env}`"));
        let _ = writeln!(out, "| `{}` | {} | {default} | {env} | {} |", key.path, key.kind.text(), key.doc);
    }
    out.push_str("\n## Environment only\n\n| variable | meaning |\n| --- | --- |\n");
    for outer in OUTER {
        let _ = writeln!(out, "| `{}` | {} |", outer.env, outer.doc);
    }
    out.push_str(
        "\n## What jobs find\n\nSet by the supervisor for its jobs. Inside a job `orch` leaves them alone; elsewhere they are settings \
         that do not exist.\n\n| variable | meaning |\n| --- | --- |\n",
    );
    for (name, doc) in variables::ALL {
        let _ = writeln!(out, "| `{name}` | {doc} |");
    }
    out.push_str("\nVariables that an agent's `key_env` or `env` names are passed to that agent and to nobody else.\n");
    out
}

/// The text of `.env.example`.
#[must_use]
pub fn env_text() -> String {
    let mut out = String::from(
        "# Environment of `orch`. Copy to .env and take the `#` away from what you need; never commit .env.\n\
         # Made from the table in src/config/keys.rs; a test compares them. Docker's env files know no quotes: values are\n\
         # written bare.\n",
    );
    for outer in OUTER {
        let _ = writeln!(out, "\n# {}\n#{}=", outer.doc, outer.env);
    }
    for key in KEYS {
        let Some(env) = key.env else { continue };
        let default = default_of(key);
        let default = match key.kind {
            Kind::List => String::new(),
            _ => default.trim_matches(['\'', '"']).to_owned(),
        };
        let _ = writeln!(out, "\n# {} ({})\n#{env}={default}", key.doc, key.path);
    }
    out.push_str("\n# Keys of agents: named by `key_env` of an agent in orch.yaml, passed to that agent alone.\n#ANTHROPIC_API_KEY=\n#OPENAI_API_KEY=\n");
    out
}
