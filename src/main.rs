//! Entry point: the job's guard and the scripted agent are dispatched first, before any runtime; everything else is a verb.

use std::ffi::OsStr;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(OsStr::to_str) {
        Some("shim") => orch_shim::main(),
        Some("scripted-agent") => orch_adapters::agents::scripted::main(args),
        _ => ExitCode::from(64),
    }
}
