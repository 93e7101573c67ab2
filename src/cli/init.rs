//! `orch init`: a commented `orch.yaml` for one repository, with the test command that its files tell. Needs no
//! supervisor; never overwrites unless told to.

use std::path::{Path, PathBuf};

use clap::Args;
use orch_domain::coverage::rules::{self, Wanted};
use orch_domain::detect::detect_test_command;
use orch_domain::names::RepoName;

use super::Context;
use super::output::{CliError, Output};
use crate::config::{Config, EmbeddedRepo, InitFacts};

/// For which repository, and where to.
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// The repository
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub repo: PathBuf,
    /// File to write; orch.yaml in the current folder when left out
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

pub(super) fn run(context: &Context, args: &InitArgs, out: &mut Output) -> Result<u8, CliError> {
    let told = EmbeddedRepo { path: args.repo.clone(), ..EmbeddedRepo::default() };
    // The name and root are those that `orch run` would take; settings that are there already do not matter here.
    let defaults = Config { data_dir: PathBuf::from("/"), ..Config::default() };
    let embedded = defaults.embedded_for(&told).map_err(|e| CliError::CouldNot(e.to_string()))?;
    let (name, repo) = embedded.repos.iter().next().expect("embedded settings hold one repository");
    let root = repo.path.clone().expect("embedded settings hold its path");
    let to = args.to.clone().or_else(|| context.global.config.clone()).unwrap_or_else(|| PathBuf::from("orch.yaml"));
    if to.exists() && !args.force {
        return Err(CliError::CouldNot(format!(
            "{} exists already; --force replaces it, --to writes elsewhere",
            to.display()
        )));
    }
    let found = detect_test_command(&|path| std::fs::read_to_string(root.join(path)).ok());
    let facts = facts(name, &root, found.as_ref().ok().map(|d| (d.command.clone(), d.why.clone())));
    std::fs::write(&to, Config::init_text(&facts))
        .map_err(|e| CliError::CouldNot(format!("{}: {e}; --to writes elsewhere", to.display())))?;
    if out.json {
        let test = facts.test.as_ref().map(|(command, _)| command);
        out.json(&serde_json::json!({"file": to, "repo": facts.name, "test": test}))?;
        return Ok(0);
    }
    out.line(&format!("{} is written for {name} ({})", to.display(), root.display()))?;
    match &facts.main {
        Some(main) => {
            out.line(&format!("main: tasks land on `{main}`; change it in {} if that is not it", to.display()))?
        }
        None => out.line(&format!("main: no branch is checked out; name the one to land on in {}", to.display()))?,
    }
    match found {
        Ok(d) => out.line(&format!("tests: `{}`, detected by {}", d.command, d.why))?,
        Err(nothing) => out.line(&format!("tests: {nothing} in {}", to.display()))?,
    }
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    out.line(&match rules::wanted(None, &read, false, &[]) {
        Wanted::Run(measuring) => format!(
            "coverage: {}, so it is measured for each change, in a run of its own; `commands.coverage_runs_tests: true` where that run is the tests",
            measuring.why
        ),
        Wanted::Off | Wanted::Nothing => {
            "coverage: no tool is named in this repository, so nothing is measured; `commands.coverage` names one".to_owned()
        }
    })?;
    out.line("next: `orch config check`, then `orch serve`")?;
    Ok(0)
}

fn facts(name: &RepoName, root: &Path, test: Option<(String, String)>) -> InitFacts {
    let main = Config::usual_main(root).map(|main| main.to_string());
    InitFacts { main, name: name.to_string(), path: root.to_string_lossy().into_owned(), test }
}
