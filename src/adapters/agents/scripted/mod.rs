//! The scripted agent: edits, commits and misbehaviour from a YAML file, for tests, chaos runs and the demo.
//!
//! Owns the adapter and the parser of its event stream; [`main`] is the program itself, started as
//! `orch scripted-agent --script FILE` inside the job. The script is checked before the launch and handed over as a
//! copy in the private folder, so the job needs to read nothing else.

mod misbehave;
mod run;
mod script;
mod steps;

use std::fs;
use std::path::PathBuf;

use orch_domain::agent::{AgentClaim, AgentEvent, AgentKind, AgentReport, Usage};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;
use serde::{Deserialize, Serialize};

use super::line::{self, Line, Tally};
use super::port::{Agent, AgentSetupError, LaunchContext, LaunchLine, StreamParser};
use super::program;
use super::settings::{AgentSettings, Rates};

pub use run::main;
pub use script::{Script, ScriptError};

/// Name of the copy of the script in the private folder.
const SCRIPT_COPY: &str = "script.yaml";

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
enum Event {
    /// It began.
    Start { session: String, attempt: u32 },
    /// It says something.
    Say { text: String },
    /// A tool call begins.
    ToolStart { id: String, what: String },
    /// A tool call ended.
    ToolEnd { id: String, ok: bool },
    /// Tokens and money used since the last such line.
    Usage(Usage),
    /// Something to know, not the end.
    Warn { text: String },
    /// It ended by itself.
    End { claim: AgentClaim },
}

/// The adapter.
pub(super) struct Scripted {
    settings: AgentSettings,
    script: PathBuf,
    own_program: PathBuf,
}

impl Scripted {
    /// Needs the script's path; the script itself is read at each launch.
    pub(super) fn new(settings: AgentSettings, own_program: PathBuf) -> Result<Self, AgentSetupError> {
        let Some(script) = settings.script.clone() else {
            return Err(bad_script("it is missing; name the YAML file to play".to_owned()));
        };
        Ok(Self { settings, script, own_program })
    }
}

fn bad_script(why: String) -> AgentSetupError {
    AgentSetupError::BadSetting { agent: "scripted", setting: "script", why }
}

impl Agent for Scripted {
    fn kind(&self) -> AgentKind {
        AgentKind::Scripted
    }

    fn launch(&self, ctx: &LaunchContext) -> Result<LaunchLine, AgentSetupError> {
        let name = self.script.display().to_string();
        let text = fs::read_to_string(&self.script).map_err(|err| bad_script(format!("{name}: {err}")))?;
        Script::parse(&name, &text).map_err(|err| bad_script(err.to_string()))?;
        let copy = ctx.private.join(SCRIPT_COPY);
        let program = self.own_program.display().to_string();
        let argv = [&program, "scripted-agent", "--script", &copy.display().to_string()].map(str::to_owned).to_vec();
        Ok(LaunchLine {
            argv,
            env: program::private_env(ctx),
            stdin: ctx.prompt.clone().into_bytes(),
            files: vec![(copy, text.into_bytes())],
            read: program::installation(&program),
        })
    }

    fn parser(&self, model: Option<&str>) -> Box<dyn StreamParser> {
        let model = self.settings.model_of(model);
        Box::new(ScriptedParser { tally: Tally::of_model(model), rates: self.settings.rates_of(model) })
    }
}

/// Reads our own lines.
struct ScriptedParser {
    tally: Tally,
    rates: Option<Rates>,
}

impl StreamParser for ScriptedParser {
    fn line(&mut self, line: &[u8]) -> Vec<AgentEvent> {
        let event = match line::read(line) {
            Line::Empty => return Vec::new(),
            Line::Other => return vec![self.tally.unknown()],
            Line::Object(value) => serde_json::from_value::<Event>(value),
        };
        match event {
            Ok(Event::Start { session, attempt: _ }) => vec![self.tally.started(Some(line::shorten(&session)), None)],
            Ok(Event::Say { text }) => self.tally.said(&text).into_iter().collect(),
            Ok(Event::ToolStart { id, what }) => vec![self.tally.tool_started(&id, &what)],
            Ok(Event::ToolEnd { id, ok }) => vec![self.tally.tool_ended(&id, Some(ok))],
            Ok(Event::Usage(usage)) => {
                self.tally.usage = self.tally.usage.plus(usage);
                Vec::new()
            }
            Ok(Event::Warn { text }) => vec![AgentEvent::Warned { text: line::shorten(&text) }],
            Ok(Event::End { claim }) => vec![self.tally.finished(claim)],
            Err(_) => vec![self.tally.unknown()],
        }
    }

    fn tool_running(&self) -> bool {
        self.tally.tool_running()
    }

    fn report(&self, _end: &JobEnd, wall: Millis) -> AgentReport {
        self.tally.report(wall, self.rates)
    }
}
