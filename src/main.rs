//! Entry point: the job's guard and the scripted agent are dispatched first, before any runtime; everything else is a verb.

use std::ffi::OsStr;
use std::process::ExitCode;
use std::sync::Arc;

use orch::cli::{self, Env, Output, Verb};
use orch::engine::Starter;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(OsStr::to_str) {
        Some("shim") => orch_shim::main(),
        Some("scripted-agent") => orch_adapters::agents::scripted::main(args),
        _ => verb(),
    }
}

/// Parses and carries a verb out.
fn verb() -> ExitCode {
    let parsed = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(code) => return ExitCode::from(code),
    };
    if matches!(parsed.verb, Verb::Run(_) | Verb::Serve(_) | Verb::Demo(_)) {
        // Its environment and memory hold the agents' keys: from here on no job of the same user can read them, and no
        // core dump has them. Nothing depends on it, so a system that refuses is no reason to stop.
        let _ = nix::sys::prctl::set_dumpable(false);
    }
    // Names and values that are not text cannot be settings of ours, and jobs get no variable that is not named.
    let env: Env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            Output::standard(false).problem(&format!("the runtime could not be started: {error}"));
            return ExitCode::from(2);
        }
    };
    let code = runtime.block_on(cli::run(parsed, env.clone(), Arc::new(Starter::new(env))));
    // Blocking reads (a terminal, a slow disk) must not hold the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ExitCode::from(code)
}
