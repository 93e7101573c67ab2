//! Room `cli`: one file per verb. Verbs that ask are thin clients of the HTTP interface; verbs that run an engine get it
//! through [`EngineStarter`].
//!
//! Owns parsing, exit codes and the one line on standard error. Exit codes: 0 done, 1 refused, blocked or failed, 2 could
//! not run, 64 usage, 130 interrupted. Never knows actors, store or adapters.

mod actors;
mod backup;
mod baseline;
mod client;
mod config;
pub mod demo;
mod doctor;
mod door;
pub mod engine;
mod follow;
mod gate;
mod gc;
mod handover;
mod init;
mod inside;
mod logs;
pub mod output;
mod proof;
mod ps;
mod receipt;
mod repo;
mod run;
mod salvage;
mod serve;
mod show;
mod task;
mod why;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

pub use client::{Client, ClientError};
pub use demo::DemoArgs;
pub use engine::{Engine, EngineStarter, Health, Looked, Prepared, Probe, Sight, StartError};
pub use gate::{GateArgs, GateOutcome};
pub use output::{CliError, Output};

use crate::config::Config;

/// The environment, by name.
pub type Env = BTreeMap<String, String>;

/// Supervisor for unattended coding agents: from the tracker to main, with gates and a STOP that proves itself.
#[derive(Parser, Clone, Debug)]
#[command(name = "orch", version, max_term_width = 100)]
pub struct Cli {
    /// What every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Settings file [env: ORCH_CONFIG; else ./orch.yaml if there is one]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub config: Option<PathBuf>,
    /// Data folder [env: ORCH_DATA_DIR; else orch/ in the user's state folder]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub data: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Where the supervisor is [env: ORCH_URL; else the data folder says]
    #[arg(long, global = true, value_name = "URL", help_heading = "Everywhere")]
    pub url: Option<String>,
}

/// The verbs.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    /// Do one task on a repository, here and now, without any service
    Run(run::RunArgs),
    /// Run the supervisor
    Serve(serve::ServeArgs),
    /// Show the whole on a throw-away repository with a scripted agent
    Demo(DemoArgs),
    /// Write a commented orch.yaml for a repository
    Init(init::InitArgs),
    /// Add, list, show, stop, retry, approve tasks
    #[command(subcommand)]
    Task(task::TaskVerb),
    /// Why a task is where it is, and what ends the wait
    Why(why::WhyArgs),
    /// What a task's runs print, the newest by default
    Logs(logs::LogsArgs),
    /// The proof of a task's STOP
    Receipt(receipt::ReceiptArgs),
    /// What runs and what waits
    Ps,
    /// What each part of the supervisor said last, and when: for when something is stuck
    Actors,
    /// What is kept of stopped tasks' work
    #[command(subcommand)]
    Salvage(salvage::SalvageVerb),
    /// End the supervisor for an upgrade; agents work on, and the next start goes on with them
    Handover(handover::HandoverArgs),
    /// Remove now what nobody needs any more, or show what may go
    Gc(gc::GcArgs),
    /// List, pause and resume repositories, or stop all tasks of one
    #[command(subcommand)]
    Repo(repo::RepoVerb),
    /// Ask one gate about a range of commits: 0 passed, 1 failed, 2 could not run
    Gate(GateArgs),
    /// What has landed, what judged it, and whether the repository still says so
    Proof(proof::ProofArgs),
    /// Line coverage that repositories are held to
    #[command(subcommand)]
    Baseline(baseline::BaselineVerb),
    /// Look whether this machine has what is needed
    Doctor,
    /// Check or show the settings
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Back the store up, or put a backup back
    Backup(backup::BackupArgs),
    /// Guard of one job's processes; started by orch itself, before this parser
    #[command(hide = true)]
    Shim(Internal),
    /// Runs an agent script; started by orch itself, before this parser
    #[command(hide = true)]
    ScriptedAgent(Internal),
}

/// Arguments of what orch starts by itself.
#[derive(Args, Clone, Debug)]
pub struct Internal {
    /// Handed on.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// What a verb works with.
#[derive(Clone)]
pub struct Context {
    /// Global arguments.
    pub global: Global,
    /// The environment.
    pub env: Env,
    /// Starts engines.
    pub starter: Arc<dyn EngineStarter>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment may hold secrets.
        f.debug_struct("Context").field("global", &self.global).finish_non_exhaustive()
    }
}

impl Context {
    /// The settings, with `--config` and `--data` in their places.
    ///
    /// # Errors
    /// [`CliError::CouldNot`] with the one line that the settings' refusal is.
    pub fn config(&self) -> Result<Config, CliError> {
        let mut env = self.env.clone();
        if let Some(data) = &self.global.data {
            let data = std::path::absolute(data).map_err(|e| CliError::CouldNot(format!("--data: {e}")))?;
            env.insert("ORCH_DATA_DIR".to_owned(), data.to_string_lossy().into_owned());
        }
        Config::load(self.global.config.as_deref(), &env).map_err(|e| CliError::CouldNot(e.to_string()))
    }
}

/// Reads the command line. `Err` is the exit code after help, version or a usage error was written.
///
/// # Errors
/// 0 after help and version, 64 after a usage error.
pub fn parse<I, T>(args: I) -> Result<Cli, u8>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    Cli::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone has had enough.
            let _ = error.print();
            0
        }
        // Nothing was asked: what can be is shown as it is written.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            64
        }
        _ => {
            let text = error.to_string();
            let paragraphs = text.split("\n\n").filter(|p| !p.starts_with("Usage:") && !p.starts_with("For more"));
            let line = paragraphs.collect::<Vec<_>>().join("; ").replace("error: ", "");
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ").replace("; tip: ", "; ");
            Output::standard(false).problem(&format!("{}; see `orch --help`", line.trim().trim_end_matches('.')));
            64
        }
    })
}

/// Carries a command out: the exit code, after everything was written.
pub async fn run(cli: Cli, env: Env, starter: Arc<dyn EngineStarter>) -> u8 {
    let mut out = Output::standard(cli.global.json);
    run_to(cli, env, starter, &mut out).await
}

/// The same, writing somewhere else.
pub async fn run_to(cli: Cli, env: Env, starter: Arc<dyn EngineStarter>, out: &mut Output) -> u8 {
    let context = Context { global: cli.global, env, starter };
    match dispatch(&context, cli.verb, out).await {
        Ok(code) => code,
        // Nothing to say, and nobody to say it to; a verdict that was not told is none.
        Err(error @ CliError::Closed) => error.code(),
        Err(error) => {
            out.problem(&error.to_string());
            error.code()
        }
    }
}

async fn dispatch(context: &Context, verb: Verb, out: &mut Output) -> Result<u8, CliError> {
    match verb {
        Verb::Run(args) => run::run(context, &args, out).await,
        Verb::Serve(args) => serve::run(context, &args, out).await,
        Verb::Demo(args) => Ok(context.starter.demo(&args, out).await),
        Verb::Init(args) => init::run(context, &args, out),
        Verb::Task(verb) => task::run(context, verb, out).await,
        Verb::Why(args) => why::run(context, &args, out).await,
        Verb::Baseline(verb) => baseline::run(context, &verb, out).await,
        Verb::Logs(args) => logs::run(context, &args, out).await,
        Verb::Receipt(args) => receipt::run(context, &args, out).await,
        Verb::Ps => ps::run(context, out).await,
        Verb::Actors => actors::run(context, out).await,
        Verb::Salvage(verb) => salvage::run(context, verb, out).await,
        Verb::Handover(args) => handover::run(context, &args, out).await,
        Verb::Gc(args) => gc::run(context, &args, out).await,
        Verb::Repo(verb) => repo::run(context, &verb, out).await,
        Verb::Proof(args) => proof::run(context, &args, out).await,
        Verb::Gate(args) => gate::run(context, &args, out).await,
        Verb::Doctor => doctor::run(context, out).await,
        Verb::Config(verb) => config::run(context, verb, out),
        Verb::Backup(args) => backup::run(context, &args, out).await,
        Verb::Shim(_) | Verb::ScriptedAgent(_) => Err(CliError::Usage(
            "this verb is for orch itself: it is started before the command line is read".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests;
