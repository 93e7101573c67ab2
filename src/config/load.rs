//! Reading: file, then environment, then checks.
//!
//! Owns the order of precedence and where a value came from in every refusal. Refuses a second meaning for anything: an
//! `ORCH_*` variable that nobody knows is an error, since a kill switch with a typing mistake would not switch.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use orch_domain::variables;
use serde_yaml::Value;

use super::keys::{KEYS, Key, Kind, OUTER};
use super::problem::{self, ConfigError, closest};
use super::{Config, check};

/// The environment, by name.
pub(super) type Env = BTreeMap<String, String>;

impl Config {
    /// Reads the settings. `path`: as given by `--config`; without it `ORCH_CONFIG`, then `orch.yaml` in the current
    /// folder if there is one, then defaults alone.
    ///
    /// # Errors
    /// [`ConfigError`]: one line with place, value and way out.
    pub fn load(path: Option<&Path>, env: &Env) -> Result<Self, ConfigError> {
        let named = path.map(Path::to_path_buf).or_else(|| filled(env, "ORCH_CONFIG").map(PathBuf::from));
        let here = PathBuf::from("orch.yaml");
        let file = named.or_else(|| here.is_file().then_some(here));
        let Some(file) = file else { return Self::from_text(Path::new("defaults"), "", &current_dir()?, env) };
        let unreadable =
            |why: String| ConfigError::Unreadable { path: file.display().to_string(), why: why.replace('\n', " ") };
        let bytes = std::fs::read(&file).map_err(|e| unreadable(e.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))?;
        let file_abs = std::path::absolute(&file).map_err(|e| unreadable(e.to_string()))?;
        let folder = file_abs.parent().map(Path::to_path_buf).unwrap_or_default();
        Self::from_text(&file, &text, &folder, env)
    }

    /// Reads settings from text; `folder` is where relative paths start.
    pub(super) fn from_text(file: &Path, text: &str, folder: &Path, env: &Env) -> Result<Self, ConfigError> {
        let config = overlay(Self::parse(file, text)?, env)?;
        check::finish(config, &check::Source { file, text, folder, env })
    }

    /// The file alone: no environment, no checks across keys.
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        // Read as plain data first: only so are keys that are written twice found in maps too.
        let plain: Value = serde_yaml::from_str(text).map_err(|e| problem::from_yaml(file, &e))?;
        if plain.is_null() {
            return Ok(Self::default());
        }
        if !plain.is_mapping() {
            let what = "the settings are keys with values, one below the other, as `orch init` writes them, not a list or a text";
            return Err(ConfigError::Invalid { place: file.display().to_string(), what: what.to_owned() });
        }
        serde_yaml::from_str(text).map_err(|e| problem::from_yaml(file, &e))
    }
}

fn current_dir() -> Result<PathBuf, ConfigError> {
    std::env::current_dir()
        .map_err(|e| ConfigError::Unreadable { path: ".".to_owned(), why: format!("no current folder: {e}") })
}

/// A variable that is set to something.
pub(super) fn filled<'a>(env: &'a Env, name: &str) -> Option<&'a str> {
    env.get(name).map(String::as_str).filter(|v| !v.is_empty())
}

fn overlay(config: Config, env: &Env) -> Result<Config, ConfigError> {
    let allowed: Vec<String> = config.agents.values().flat_map(|a| a.env_names()).map(str::to_owned).collect();
    let mut config = config;
    // A gate of this very project runs `orch` inside a job, say: what that found there is no setting.
    let of_the_job = |name: &str| filled(env, variables::JOB).is_some() && variables::ALL.iter().any(|v| v.0 == name);
    for (name, text) in env.iter().filter(|(name, _)| name.starts_with("ORCH_")) {
        if OUTER.iter().any(|o| o.env == name) || allowed.contains(name) || of_the_job(name) {
            continue;
        }
        let wrong = |what: String| ConfigError::Environment { name: name.clone(), what };
        let Some(key) = KEYS.iter().find(|k| k.env == Some(name)) else {
            let known = KEYS.iter().filter_map(|k| k.env).chain(OUTER.iter().map(|o| o.env));
            let hint = match closest(name, known) {
                Some(near) => format!("did you mean {near}?"),
                None => "docs/configuration.md lists all; unset it".to_owned(),
            };
            return Err(wrong(format!("there is no such setting; {hint}")));
        };
        // Set to nothing counts as unset: that is what an empty line in an environment file means.
        if text.is_empty() {
            continue;
        }
        let value = value_of(key, text).map_err(&wrong)?;
        let mut tree = serde_yaml::to_value(&config).expect("settings serialise: tested for every key");
        put(&mut tree, key.path, value);
        config = serde_yaml::from_value(tree)
            .map_err(|e| wrong(problem::reworded(&e.to_string())))
            .map_err(|e| name_value(e, text))?;
    }
    Ok(config)
}

/// Adds the value to a refusal that does not name it.
fn name_value(error: ConfigError, text: &str) -> ConfigError {
    match error {
        ConfigError::Environment { name, what } if !what.contains(text) => {
            ConfigError::Environment { name, what: format!("`{text}`: {what}") }
        }
        other => other,
    }
}

fn value_of(key: &Key, text: &str) -> Result<Value, String> {
    Ok(match key.kind {
        Kind::Number => match text.trim().parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => return Err(format!("`{text}` is not a whole number")),
        },
        Kind::Switch => match text.trim().to_ascii_lowercase().as_str() {
            "1" | "true" | "on" | "yes" => Value::from(true),
            "0" | "false" | "off" | "no" => Value::from(false),
            _ => return Err(format!("`{text}` is neither true nor false")),
        },
        Kind::List => {
            text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(|t| Value::from(t.to_owned())).collect()
        }
        // What the environment names starts where the command was given, not where the file lies.
        Kind::Path if !text.starts_with('~') => {
            let path = std::path::absolute(text).map_err(|e| format!("`{text}`: {e}"))?;
            Value::from(path.to_string_lossy().into_owned())
        }
        _ => Value::from(text.to_owned()),
    })
}

fn put(tree: &mut Value, path: &str, value: Value) {
    let mut at = tree;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let map = at.as_mapping_mut().expect("every key with an environment name lies in plain sections: tested");
        if parts.peek().is_none() {
            map.insert(Value::from(part.to_owned()), value);
            return;
        }
        at = map.get_mut(part).expect("sections are always written out: tested");
    }
}

/// Makes a path absolute: `~/` is the home folder, relative ones start at `folder`. `.` and `..` are taken out.
pub(super) fn absolute(path: &Path, folder: &Path, env: &Env) -> PathBuf {
    let at_home = path.strip_prefix("~").ok().zip(filled(env, "HOME"));
    let joined = match at_home {
        Some((rest, home)) => Path::new(home).join(rest),
        None => folder.join(path),
    };
    let mut clean = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}
