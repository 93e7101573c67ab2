//! What a manifest demands, as a digest: equal when nothing about dependencies has changed.
//!
//! Owns which parts of each manifest are about dependencies, so that a new version number or a lint setting raises no
//! alarm. A manifest that cannot be read demands its whole text: any change of it counts. Refuses to resolve anything.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::lockfile::ManifestKind;

const CARGO: [&str; 5] = ["dependencies", "dev-dependencies", "build-dependencies", "patch", "replace"];
const NPM: [&str; 10] = [
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "bundleDependencies",
    "bundledDependencies",
    "overrides",
    "resolutions",
    "workspaces",
    "packageManager",
];
const PYPROJECT: [&[&str]; 10] = [
    &["project", "dependencies"],
    &["project", "optional-dependencies"],
    &["dependency-groups"],
    &["build-system", "requires"],
    &["tool", "poetry", "dependencies"],
    &["tool", "poetry", "dev-dependencies"],
    &["tool", "poetry", "group"],
    &["tool", "uv"],
    &["tool", "pdm"],
    &["tool", "hatch", "envs"],
];

/// The digest of what a manifest demands; `None` when it demands nothing.
#[must_use]
pub fn demands(kind: ManifestKind, bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok();
    let parts = match (kind, text) {
        (ManifestKind::Cargo, Some(text)) => toml_value(text).map(|value| cargo(&value)),
        (ManifestKind::PyProject, Some(text)) => toml_value(text).map(|value| pyproject(&value)),
        (ManifestKind::Npm, Some(text)) => serde_json::from_str(text).ok().map(|value: Value| top(&value, &NPM)),
        (ManifestKind::SetupCfg, Some(text)) => Some(setup_cfg(text)),
        // A program, and a format that is not worth a reader of its own: every change may be one of dependencies.
        (ManifestKind::SetupPy | ManifestKind::Pipfile, _) | (_, None) => None,
    };
    let told = match parts {
        Some(parts) if parts.is_empty() => return None,
        Some(parts) => Value::Array(parts).to_string().into_bytes(),
        None if bytes.iter().all(u8::is_ascii_whitespace) => return None,
        None => bytes.to_vec(),
    };
    Some(hex::encode(Sha256::digest(told)))
}

fn toml_value(text: &str) -> Option<Value> {
    toml::from_str(text).ok()
}

/// Keys of a table that hold something.
fn top(value: &Value, keys: &[&str]) -> Vec<Value> {
    keys.iter().filter_map(|key| Some((key, value.get(key).filter(|v| holds(v))?))).map(pair).collect()
}

fn pair((key, value): (&&str, &Value)) -> Value {
    Value::Array(vec![Value::from(*key), value.clone()])
}

fn holds(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
        _ => true,
    }
}

fn cargo(value: &Value) -> Vec<Value> {
    let mut parts = top(value, &CARGO);
    if let Some(workspace) = value.get("workspace") {
        parts.extend(top(workspace, &CARGO));
    }
    for (name, target) in value.get("target").and_then(Value::as_object).into_iter().flatten() {
        let found = top(target, &CARGO);
        if !found.is_empty() {
            parts.push(Value::from(name.as_str()));
            parts.extend(found);
        }
    }
    parts
}

fn pyproject(value: &Value) -> Vec<Value> {
    let at = |path: &&[&str]| path.iter().try_fold(value, |value, key| value.get(key)).filter(|v| holds(v)).cloned();
    PYPROJECT.iter().enumerate().filter_map(|(n, path)| Some(Value::Array(vec![Value::from(n), at(path)?]))).collect()
}

/// Lines of the sections that name requirements; the other sections belong to linters and test runners.
fn setup_cfg(text: &str) -> Vec<Value> {
    let mut inside = false;
    let mut kept = Vec::new();
    for line in text.lines().map(str::trim_end).filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.starts_with("options]") || section.starts_with("options.extras_require");
        } else if inside && !line.is_empty() {
            kept.push(Value::from(line));
        }
    }
    let names_some = kept.iter().filter_map(Value::as_str).any(|line| line.contains("require"));
    if names_some || text.contains("[options.extras_require]") { kept } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ManifestKind::{Cargo, Npm, Pipfile, PyProject, SetupCfg, SetupPy};

    fn same(kind: ManifestKind, one: &str, other: &str) -> bool {
        demands(kind, one.as_bytes()) == demands(kind, other.as_bytes())
    }

    #[test]
    fn only_what_is_about_dependencies_counts() {
        let cargo = "[package]\nname = \"a\"\nversion = \"1.0.0\"\n[dependencies]\nb = \"1\"\n";
        assert!(same(Cargo, cargo, &cargo.replace("1.0.0", "1.1.0")));
        assert!(same(Cargo, cargo, &format!("# said\n{cargo}[lints.rust]\nx = \"warn\"\n")));
        assert!(!same(Cargo, cargo, &cargo.replace("b = \"1\"", "b = \"2\"")));
        assert!(!same(Cargo, cargo, &format!("{cargo}[target.'cfg(unix)'.dependencies]\nc = \"1\"\n")));
        assert!(!same(Cargo, cargo, &format!("{cargo}[workspace.dependencies]\nc = \"1\"\n")));

        let npm = r#"{"name": "a", "version": "1", "scripts": {"test": "x"}, "dependencies": {"b": "^1"}}"#;
        assert!(same(Npm, npm, &npm.replace("\"x\"", "\"y\"")));
        assert!(!same(Npm, npm, &npm.replace("^1", "^2")));

        let python = "[project]\nname = \"a\"\ndependencies = [\"b>=1\"]\n[tool.ruff]\nline-length = 1\n";
        assert!(same(PyProject, python, &python.replace("length = 1", "length = 2")));
        assert!(!same(PyProject, python, &python.replace("b>=1", "b>=2")));
        assert!(!same(PyProject, python, &format!("{python}[dependency-groups]\ndev = [\"c\"]\n")));

        let cfg = "[flake8]\nmax = 1\n[options]\ninstall_requires =\n    b>=1\n";
        assert!(same(SetupCfg, cfg, &cfg.replace("max = 1", "max = 2")));
        assert!(!same(SetupCfg, cfg, &cfg.replace("b>=1", "b>=2")));
    }

    #[test]
    fn a_manifest_without_dependencies_demands_nothing() {
        for (kind, text) in [
            (Cargo, "[package]\nname = \"a\"\n[dependencies]\n"),
            (Npm, "{\"name\": \"a\", \"dependencies\": {}}"),
            (PyProject, "[tool.ruff]\nline-length = 1\n"),
            (SetupCfg, "[options]\npackages = find:\n"),
            (SetupPy, ""),
            (Pipfile, "\n"),
        ] {
            assert_eq!(demands(kind, text.as_bytes()), None, "{kind:?}");
        }
    }

    #[test]
    fn any_change_of_what_cannot_be_read_counts() {
        for kind in [Cargo, Npm, PyProject] {
            assert!(!same(kind, "<<<<<<< a", "<<<<<<< b"));
            assert!(demands(kind, b"\xff\xfe").is_some());
        }
        assert!(!same(SetupPy, "setup()", "setup(install_requires=['b'])"));
    }
}
