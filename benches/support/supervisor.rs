//! What a supervisor needs in a bench: a repository, and settings that point at it.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use orch::config::Config;

/// What the agent runs: the time of its first act, then nothing until it is ended.
pub(crate) const FIRST_ACT: &str = "date +%s%N; exec sleep 600";

/// Runs git as somebody without settings of their own.
pub(crate) fn git(dir: &Path, args: &[&str]) -> Result<(), Box<dyn Error>> {
    let out = Command::new("git")
        .args(["-c", "user.name=Bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"])
        .args(args)
        .current_dir(dir)
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("git {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim()).into()),
    }
}

/// Makes a repository of so many files in folders of fifty, in one commit, packed as a clone would find it.
pub(crate) fn repository(dir: &Path, files: usize) -> Result<PathBuf, Box<dyn Error>> {
    let repo = dir.join("shop");
    std::fs::create_dir_all(&repo)?;
    for n in 0..files {
        let folder = repo.join(format!("part{:03}", n / 50));
        std::fs::create_dir_all(&folder)?;
        let text =
            format!("// File {n}.\n{}", format!("pub fn step_{n}(basket: u64) -> u64 {{ basket + {n} }}\n").repeat(40));
        std::fs::write(folder.join(format!("step{n}.rs")), text)?;
    }
    git(&repo, &["init", "--quiet", "--initial-branch", "main"])?;
    git(&repo, &["add", "--all"])?;
    git(&repo, &["commit", "--quiet", "--message", "Sell things"])?;
    git(&repo, &["repack", "-a", "-d", "--quiet"])?;
    Ok(repo)
}

/// Writes settings for one repository and reads them as the program does.
pub(crate) fn settings(file: &Path, data: &Path, repo: &Path) -> Result<Config, Box<dyn Error>> {
    let text = serde_json::json!({
        "data_dir": data,
        "default_agent": "first-act",
        "http": {"bind": "127.0.0.1:0"},
        "agents": {"first-act": {"kind": "command", "command": FIRST_ACT}},
        "repos": {"bench": {"path": repo, "main": "main", "pipeline": "lite", "no_tests": true}},
    });
    // JSON is YAML.
    std::fs::write(file, serde_json::to_vec(&text)?)?;
    Ok(Config::load(Some(file), &env())?)
}

/// The environment that settings are read with.
pub(crate) fn env() -> BTreeMap<String, String> {
    ["PATH", "HOME"].into_iter().filter_map(|n| Some((n.to_owned(), std::env::var(n).ok()?))).collect()
}
