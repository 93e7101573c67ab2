//! `orch doctor`: does this machine have what is needed? Each line `ok`, `warn` or `fail`; exit 1 when something fails.
//!
//! Owns what can be seen from outside (settings, git, agent programs, data folder, disk); what only the lower rooms know
//! (shim, containment, landlock) is asked through the engine's boundary. Changes nothing but a probe file in the data
//! folder, which it removes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use orch_domain::agent::AgentKind;
use orch_domain::job::full_below;
use serde_json::json;

use super::Context;
use super::engine::{Health, Probe};
use super::output::{CliError, Output};
use crate::config::{AgentConfig, CommandLine, Config};
use crate::http::read_address;

fn probe(name: &str, health: Health, text: impl Into<String>) -> Probe {
    Probe { name: name.to_owned(), health, text: text.into() }
}

pub(super) async fn run(context: &Context, out: &mut Output) -> Result<u8, CliError> {
    let mut probes = vec![git(&context.env)];
    match context.config() {
        Err(error) => probes.push(probe("settings", Health::Fail, error.to_string())),
        Ok(config) => {
            let (repos, pipelines) = (config.repos.len(), config.pipeline_names().len());
            let text =
                format!("{repos} {}, {pipelines} pipelines", if repos == 1 { "repository" } else { "repositories" });
            probes.push(probe("settings", Health::Ok, text));
            probes.extend(config.remarks().into_iter().map(|remark| probe("settings", Health::Warn, remark)));
            probes.extend(data_folder(&config));
            probes.extend(agents(&config, &context.env));
            probes.extend(repositories(&config));
            probes.push(supervisor(&config));
            probes.extend(context.starter.probe(&config).await);
        }
    }
    let failed = probes.iter().any(|p| p.health == Health::Fail);
    let word = |health| match health {
        Health::Ok => "ok",
        Health::Warn => "warn",
        Health::Fail => "fail",
    };
    if out.json {
        let lines: Vec<_> =
            probes.iter().map(|p| json!({"name": p.name, "result": word(p.health), "text": p.text})).collect();
        out.json(&lines)?;
    } else {
        let width = probes.iter().map(|p| p.name.chars().count()).max().unwrap_or(0);
        for p in &probes {
            out.line(&format!("{:4}  {:width$}  {}", word(p.health), p.name, p.text))?;
        }
    }
    Ok(u8::from(failed))
}

/// Looks a program up as a job would.
fn find_program(name: &str, env: &super::Env) -> Option<PathBuf> {
    let runs = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|p| runs(p));
    }
    let path = env.get("PATH")?;
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|p| runs(p))
}

fn git(env: &super::Env) -> Probe {
    let Some(program) = find_program("git", env) else {
        return probe("git", Health::Fail, "not found in PATH; install git");
    };
    match std::process::Command::new(&program).arg("--version").stdin(std::process::Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            probe("git", Health::Ok, String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => probe("git", Health::Fail, format!("{} ended with {}", program.display(), output.status)),
        Err(e) => probe("git", Health::Fail, format!("{}: {e}", program.display())),
    }
}

fn data_folder(config: &Config) -> Vec<Probe> {
    let folder = &config.data_dir;
    let shown = folder.display();
    let there = folder.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let writable = tempfile::Builder::new().prefix(".orch-doctor").tempfile_in(there);
    let mut probes = Vec::new();
    probes.push(match writable {
        Err(e) => {
            probe("data folder", Health::Fail, format!("{shown}: {e}; name another with --data or ORCH_DATA_DIR"))
        }
        Ok(_) if there != folder => probe("data folder", Health::Ok, format!("{shown} will be made")),
        Ok(_) => {
            let mode = std::fs::metadata(folder).map(|m| m.permissions().mode() & 0o777).unwrap_or(0);
            match mode & 0o077 {
                0 => probe("data folder", Health::Ok, format!("{shown}")),
                _ => probe(
                    "data folder",
                    Health::Warn,
                    format!("{shown} is open to others (mode {mode:03o}); chmod 700 it"),
                ),
            }
        }
    });
    probes.push(match nix::sys::statvfs::statvfs(there) {
        Err(e) => probe("free disk", Health::Warn, format!("{}: {e}", there.display())),
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let least = config.limits.min_free_disk;
            let full = if free < full_below(least) { "; agents and gates stand still until there is more" } else { "" };
            let text = format!("{} MiB free, {} MiB needed{full}", free >> 20, least >> 20);
            let health = if free < least { Health::Fail } else { Health::Ok };
            probe("free disk", health, text)
        }
    });
    probes
}

fn agents(config: &Config, env: &super::Env) -> Vec<Probe> {
    let wanted =
        |name: &String| *name == config.default_agent || config.repos.values().any(|r| r.agent.as_ref() == Some(name));
    config.agents.iter().map(|(name, agent)| one_agent(name, agent, wanted(name), env)).collect()
}

/// What a shell does itself.
const SHELL: &str = " . : [ alias bg break case cd command continue do echo eval exec exit export false fg for function \
                      getopts hash if jobs kill local printf pwd read readonly return select set shift source test time \
                      times trap true type ulimit umask unalias unset until wait while ";

/// The program that a shell line begins with, where a look tells: a plain word which is none of the shell's own, and no
/// path below the workspace.
fn first_program(line: &str) -> Option<&str> {
    let word = line.split_whitespace().next()?;
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._+-/".contains(c));
    let own = SHELL.contains(&format!(" {word} ")) || (word.contains('/') && !word.starts_with('/'));
    (plain && !own).then_some(word)
}

/// The program that an agent is; `None` for scripts, which are ours.
fn program_of(agent: &AgentConfig) -> Option<String> {
    match (&agent.command, agent.kind()) {
        (Some(CommandLine::Shell(line)), _) => Some(first_program(line).unwrap_or("sh").to_owned()),
        (Some(CommandLine::Argv(argv)), _) => Some(argv.first().cloned().unwrap_or_default()),
        (None, AgentKind::Scripted) => None,
        (None, kind) => Some(agent.program.clone().unwrap_or_else(|| kind.as_str().to_owned())),
    }
}

/// The agent's program, if it is not there.
pub(super) fn missing_program(agent: &AgentConfig, env: &super::Env) -> Option<String> {
    program_of(agent).filter(|program| find_program(program, env).is_none())
}

fn one_agent(name: &str, agent: &AgentConfig, wanted: bool, env: &super::Env) -> Probe {
    let title = format!("agent {name}");
    let missing = if wanted { Health::Warn } else { Health::Ok };
    let Some(program) = program_of(agent) else {
        let script = agent.script.clone().unwrap_or_default();
        return match script.is_file() {
            true => probe(&title, Health::Ok, format!("script {}", script.display())),
            false => probe(&title, Health::Warn, format!("script {} is missing", script.display())),
        };
    };
    let Some(found) = find_program(&program, env) else {
        let note = if wanted { "install it, or set `program`" } else { "not needed: no repository names it" };
        return probe(&title, missing, format!("`{program}` is not found in PATH; {note}"));
    };
    match agent.env_names().find(|n| env.get(*n).is_none_or(String::is_empty)) {
        Some(unset) => probe(&title, Health::Warn, format!("{}; {unset} is not set", found.display())),
        None => probe(&title, Health::Ok, found.display().to_string()),
    }
}

fn repositories(config: &Config) -> Vec<Probe> {
    let of = |(name, repo): (&orch_domain::names::RepoName, &crate::config::RepoConfig)| {
        let title = format!("repo {name}");
        match (&repo.path, &repo.url) {
            (Some(path), _) if path.join(".git").exists() || path.join("objects").is_dir() => {
                probe(&title, Health::Ok, path.display().to_string())
            }
            (Some(path), _) => probe(&title, Health::Fail, format!("{} is no git repository", path.display())),
            (None, Some(url)) => probe(&title, Health::Ok, format!("{url} (not asked)")),
            (None, None) => probe(&title, Health::Fail, "neither path nor url"),
        }
    };
    config.repos.iter().map(of).collect()
}

fn supervisor(config: &Config) -> Probe {
    match read_address(&config.addr_file()) {
        Some(url) => probe("supervisor", Health::Ok, format!("{url}, as the data folder says")),
        None => probe("supervisor", Health::Ok, "none runs on this data folder"),
    }
}

#[cfg(test)]
mod tests {
    use super::first_program;

    #[test]
    fn the_program_of_a_shell_line_is_told_where_a_look_tells() {
        for (line, program) in [
            ("/no/such/program --x", Some("/no/such/program")),
            ("  sh ./fix.sh", Some("sh")),
            ("claude-code", Some("claude-code")),
            ("cat >/dev/null; true", Some("cat")),
            ("cd part && make", None),
            ("./fix.sh", None),
            ("bin/fix", None),
            ("NAME=x make", None),
            ("(make)", None),
            ("while true; do :; done", None),
            ("$AGENT", None),
            ("", None),
        ] {
            assert_eq!(first_program(line), program, "{line}");
        }
    }
}
