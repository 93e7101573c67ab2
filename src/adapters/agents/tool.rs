//! A small tool around the agents' port, for the tests that need a process: plays scripts as `orch scripted-agent` does,
//! prints launch lines and reads streams. Owns nothing; the slow tier runs the real programs with it.
//!
//! ```text
//! agent-tool scripted-agent --script FILE
//! agent-tool launch KIND SETTINGS.yaml WORKSPACE PRIVATE MODEL   (prompt on standard input; prints argv and env as JSON)
//! agent-tool parse KIND MODEL EXIT_CODE                          (stream on standard input; prints the report as JSON)
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use orch_adapters::agents::{AgentSettings, LaunchContext, build, scripted};
use orch_domain::agent::AgentKind;
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let verb = args.next().unwrap_or_default();
    if verb == "scripted-agent" {
        return scripted::main(args);
    }
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match (verb.to_str(), args.as_slice()) {
        (Some("launch"), [kind, settings, workspace, private, model]) => {
            launch(kind, settings, Path::new(workspace), Path::new(private), model)
        }
        (Some("parse"), [kind, model, code]) => parse(kind, model, code),
        _ => Err("usage: agent-tool scripted-agent|launch|parse ...; see the top of its source".into()),
    };
    match done.and_then(|text| Ok(writeln!(io::stdout(), "{text}")?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let _ = writeln!(io::stderr(), "agent-tool: {err}");
            ExitCode::FAILURE
        }
    }
}

fn kind_named(name: &str) -> Result<AgentKind, Box<dyn Error>> {
    Ok(serde_yaml::from_str(name)?)
}

fn launch(kind: &str, settings: &str, workspace: &Path, private: &Path, model: &str) -> Result<String, Box<dyn Error>> {
    let settings: AgentSettings = serde_yaml::from_str(&std::fs::read_to_string(settings)?)?;
    let named = ["PATH"].into_iter().chain(settings.key_env.as_deref());
    let env_allow: BTreeMap<String, String> =
        named.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
    let mut prompt = String::new();
    io::stdin().read_to_string(&mut prompt)?;
    let ctx = LaunchContext {
        prompt,
        workspace: workspace.to_owned(),
        private: private.to_owned(),
        model: Some(model.to_owned()),
        env_allow,
    };
    let line = build(kind_named(kind)?, settings, PathBuf::new())?.launch(&ctx)?;
    line.write_files(private)?;
    let stdin = String::from_utf8(line.stdin)?;
    Ok(serde_json::json!({ "argv": line.argv, "env": line.env, "stdin": stdin }).to_string())
}

fn parse(kind: &str, model: &str, code: &str) -> Result<String, Box<dyn Error>> {
    let agent = build(kind_named(kind)?, AgentSettings::default(), PathBuf::new())?;
    let mut parser = agent.parser(Some(model));
    let mut stream = Vec::new();
    io::stdin().read_to_end(&mut stream)?;
    for line in stream.split(|byte| *byte == b'\n') {
        let _ = parser.line(line);
    }
    let report = parser.report(&JobEnd::Exited { code: code.parse()? }, Millis(0));
    Ok(serde_json::to_string(&report)?)
}
