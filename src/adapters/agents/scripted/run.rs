//! The scripted agent as a program: reads prompt and script, plays the steps, ends with its end event.
//!
//! Owns its command line, the choice of role and attempt, the stream and the exit codes: 0 as told, 3 the prompt is not
//! what the script expects, 4 a step failed, 64 the call or the script is wrong. Single-threaded, without a runtime.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use orch_domain::agent::AgentClaim;
use orch_domain::pipeline::Role;
use orch_domain::variables;

use super::Event;
use super::script::Script;
use super::steps::{self, After};

/// The prompt is not what the script expects.
pub(super) const EXIT_PROMPT: u8 = 3;
/// A step could not be done.
pub(super) const EXIT_STEP: u8 = 4;
/// The command line or the script is wrong.
const EXIT_USAGE: u8 = 64;
const USAGE: &str =
    "usage: orch scripted-agent --script FILE   (the prompt on standard input, the workspace as working directory)";

/// What the steps need to know of the run.
pub(super) struct Run {
    /// The whole prompt.
    pub(super) prompt: String,
    /// The workspace: the working directory, without links.
    pub(super) workspace: PathBuf,
    /// Tool calls so far.
    pub(super) calls: u32,
}

/// Plays a script. `args` are what follows `scripted-agent` on the command line.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match play(args) {
        Ok(code) => ExitCode::from(code),
        Err((code, why)) => {
            // Nobody may be reading any more; there is nobody else to tell.
            let _ = writeln!(io::stderr(), "scripted agent: {why}");
            ExitCode::from(code)
        }
    }
}

fn play(args: impl Iterator<Item = OsString>) -> Result<u8, (u8, String)> {
    let usage = |why: String| (EXIT_USAGE, why);
    let file = script_argument(args).map_err(usage)?;
    let name = file.display().to_string();
    let text = fs::read_to_string(&file).map_err(|err| usage(format!("{name}: {err}")))?;
    let script = Script::parse(&name, &text).map_err(|err| usage(err.to_string()))?;
    let mut raw = Vec::new();
    io::stdin().read_to_end(&mut raw).map_err(|err| usage(format!("the prompt cannot be read: {err}")))?;
    let prompt = String::from_utf8_lossy(&raw).into_owned();
    let here = std::env::current_dir().and_then(fs::canonicalize);
    let workspace = here.map_err(|err| usage(format!("the workspace cannot be found: {err}")))?;
    let mut run = Run { prompt, workspace, calls: 0 };

    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let role = variable(variables::ROLE).or_else(|| run.header("Role")).and_then(|name| role_named(&name));
    let attempt = variable(variables::ATTEMPT).or_else(|| run.header("Attempt"));
    let attempt = attempt.and_then(|number| number.parse().ok()).unwrap_or(1);
    let session = format!("scripted-{}", std::process::id());
    emit(&Event::Start { session, attempt }).map_err(|err| (EXIT_STEP, err.to_string()))?;

    let Some(steps) = script.steps(role, attempt) else {
        let role = role.map_or("no role", Role::as_str);
        return Err((EXIT_USAGE, format!("{name} has no steps for {role}; add `attempts:` or the role")));
    };
    for (number, step) in steps.into_iter().enumerate() {
        match steps::perform(&mut run, step) {
            Ok(After::GoOn) => {}
            Ok(After::EndSilently) => return Ok(0),
            Ok(After::End { claim, code }) => return end(claim, code),
            Err((code, why)) => {
                let why = format!("step {}: {why}", number + 1);
                let _ = emit(&Event::End { claim: AgentClaim::Error { text: why.clone() } });
                return Err((code, why));
            }
        }
    }
    end(AgentClaim::Success, 0)
}

fn end(claim: AgentClaim, code: u8) -> Result<u8, (u8, String)> {
    emit(&Event::End { claim }).map_err(|err| (EXIT_STEP, err.to_string()))?;
    Ok(code)
}

fn script_argument(args: impl Iterator<Item = OsString>) -> Result<PathBuf, String> {
    let args: Vec<OsString> = args.collect();
    match args.as_slice() {
        [flag, file] if flag == "--script" => Ok(PathBuf::from(file)),
        _ => Err(USAGE.to_owned()),
    }
}

fn role_named(name: &str) -> Option<Role> {
    [Role::Analyst, Role::Architect, Role::Developer, Role::Reviewer].into_iter().find(|role| role.as_str() == name)
}

/// Writes one line of the stream.
pub(super) fn emit(event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

impl Run {
    /// The value of a `Name: value` line in the prompt's header, which ends where the first section begins. Texts from
    /// outside come later, so they cannot choose the steps.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let header =
            self.prompt.lines().take_while(|line| !line.starts_with("## ") && !line.starts_with("<untrusted-"));
        let mut values = header.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        values.next().map(|value| value.trim().to_owned())
    }

    /// The id of the next tool call.
    pub(super) fn next_call(&mut self) -> String {
        self.calls += 1;
        format!("call-{}", self.calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(prompt: &str) -> Run {
        Run { prompt: prompt.to_owned(), workspace: PathBuf::from("/"), calls: 0 }
    }

    #[test]
    fn the_header_is_read_and_texts_from_outside_are_not() {
        let prompt =
            "# ORC-1: x\n\nRole: developer\nAttempt: 2\n\nYou are\n\n## Task\n\nRole: reviewer\nArtefact: ../x\n";
        assert_eq!(run(prompt).header("Role").as_deref(), Some("developer"));
        assert_eq!(run(prompt).header("Attempt").as_deref(), Some("2"));
        assert_eq!(run(prompt).header("Artefact"), None);
    }

    #[test]
    fn only_the_one_form_of_the_command_line_is_accepted() {
        let parse = |args: &[&str]| script_argument(args.iter().map(OsString::from));
        assert_eq!(parse(&["--script", "a.yaml"]), Ok(PathBuf::from("a.yaml")));
        for bad in [&[][..], &["--script"], &["a.yaml"], &["--script", "a", "b"]] {
            assert!(parse(bad).expect_err("refused").contains("usage: orch scripted-agent"), "{bad:?}");
        }
    }
}
