//! Finding programs, and the environment that every agent program gets.
//!
//! Owns the `PATH` lookup with its advice and the private-folder variables. Refuses relative `PATH` entries: they would
//! be looked up in the workspace, which the agent can write.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::port::{AgentSetupError, LaunchContext};
use crate::jobs::env::{PrivateDirs, base_env, base_env_with_path};

/// Finds an executable file by name in `path` (the form of `PATH`), or by itself when `name` is an absolute path.
///
/// Relative entries of `path` and relative names with a `/` are never looked at.
pub fn find_program(name: &str, path: &str) -> Result<PathBuf, AgentSetupError> {
    let missing =
        |searched: String| AgentSetupError::ProgramMissing { name: name.to_owned(), searched, advice: advice(name) };
    if name.contains('/') {
        let given = PathBuf::from(name);
        if given.is_absolute() && is_executable(&given) {
            return Ok(given);
        }
        return Err(missing("a name with `/` must be the absolute path of an executable file".to_owned()));
    }
    let folders = || path.split(':').filter(|folder| folder.starts_with('/'));
    if name.is_empty() {
        return Err(missing("the name is empty".to_owned()));
    }
    folders().map(|folder| Path::new(folder).join(name)).find(|file| is_executable(file)).ok_or_else(|| {
        let searched: Vec<&str> = folders().collect();
        missing(if searched.is_empty() { "which has no absolute folder".to_owned() } else { searched.join(":") })
    })
}

/// Finds the program of one run in the `PATH` that its job will have: the allow-listed one, else the supervisor's.
pub(super) fn find_for(name: &str, ctx: &LaunchContext) -> Result<String, AgentSetupError> {
    let own = || base_env(&PrivateDirs::under(&ctx.private)).remove("PATH").unwrap_or_default();
    let path = ctx.env_allow.get("PATH").cloned().unwrap_or_else(own);
    let found = find_program(name, &path)?;
    found.into_os_string().into_string().map_err(|raw| AgentSetupError::ProgramMissing {
        name: name.to_owned(),
        searched: raw.to_string_lossy().into_owned(),
        advice: "install it under a path that is valid UTF-8".to_owned(),
    })
}

/// Where a program is installed, as far as it can be told from its own place: all packages beside it for one from npm
/// (the program is a small launcher that starts another package's), else the file itself.
///
/// A home folder or a `bin` folder is never opened for the one program in it. A launcher script that starts something
/// somewhere else needs the agent's `read` setting.
pub(super) fn installation(program: &str) -> Vec<PathBuf> {
    let Ok(real) = fs::canonicalize(program) else { return Vec::new() };
    let packages = real.ancestors().filter(|folder| folder.file_name().is_some_and(|name| name == "node_modules"));
    // The outermost: packages inside packages lie in it too.
    vec![packages.last().map_or_else(|| real.clone(), Path::to_path_buf)]
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn advice(name: &str) -> String {
    let package = match Path::new(name).file_name().and_then(|name| name.to_str()) {
        Some("claude") => "@anthropic-ai/claude-code",
        Some("codex") => "@openai/codex",
        Some("opencode") => "opencode-ai",
        _ => return "install it, or give its absolute path as the agent's `program` setting".to_owned(),
    };
    format!("install it with `npm install -g {package}`, or give its absolute path as the agent's `program` setting")
}

/// The allow-listed environment, with `HOME`, the XDG folders and `TMPDIR` inside the private folder whatever the list
/// says: a program's settings and logins of other runs, or of the operator, are none of this run's business.
pub(super) fn private_env(ctx: &LaunchContext) -> BTreeMap<String, String> {
    let mut env = ctx.env_allow.clone();
    let base = base_env_with_path(&PrivateDirs::under(&ctx.private), "");
    env.extend(base.into_iter().filter(|(name, _)| !matches!(name.as_str(), "PATH" | "LANG" | "TZ")));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_only_executable_files_in_absolute_folders() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("plain"), "x").expect("written");
        fs::write(at("tool"), "x").expect("written");
        fs::set_permissions(at("tool"), fs::Permissions::from_mode(0o755)).expect("made executable");
        fs::create_dir(at("folder")).expect("made");
        let path = format!(".::relative:{}", dir.path().display());
        assert_eq!(find_program("tool", &path), Ok(at("tool")));
        assert_eq!(find_program(&at("tool").to_string_lossy(), ""), Ok(at("tool")));
        for name in ["plain", "folder", "none", "", "./tool", "../tool"] {
            assert!(find_program(name, &path).is_err(), "{name}");
        }
    }

    #[test]
    fn opens_the_packages_around_a_launcher_and_nothing_around_a_plain_program() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("canonical");
        let packages = root.join("home/lib/node_modules");
        fs::create_dir_all(packages.join("@x/agent/node_modules/deep/bin")).expect("made");
        fs::create_dir_all(root.join("home/bin")).expect("made");
        for (target, link) in [("@x/agent/cli.js", "launcher"), ("@x/agent/node_modules/deep/bin/native", "native")] {
            fs::write(packages.join(target), "x").expect("written");
            std::os::unix::fs::symlink(packages.join(target), root.join("home/bin").join(link)).expect("linked");
        }
        fs::write(root.join("home/bin/plain"), "x").expect("written");
        let of = |name: &str| installation(&root.join("home/bin").join(name).to_string_lossy());
        assert_eq!(of("launcher"), std::slice::from_ref(&packages));
        assert_eq!(of("native"), [packages]);
        assert_eq!(of("plain"), [root.join("home/bin/plain")]);
        assert!(of("none").is_empty());
    }

    #[test]
    fn a_missing_program_says_where_it_was_looked_for_and_how_to_get_it() {
        let err = find_program("claude", "/nowhere:/neither").expect_err("missing").to_string();
        assert_eq!(
            err,
            "`claude` is not in PATH (/nowhere:/neither); install it with `npm install -g @anthropic-ai/claude-code`, \
             or give its absolute path as the agent's `program` setting"
        );
        let err = find_program("mine", ".").expect_err("missing").to_string();
        assert!(err.contains("no absolute folder") && err.contains("`program` setting"), "{err}");
    }
}
