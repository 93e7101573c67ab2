//! Any program as an agent: an argv template or a shell line, and plain text as its stream.
//!
//! Owns the hand-over of the prompt to programs that we know nothing about. Such a program has no end event, so its
//! clean exit is the claim. Refuses to paste the prompt into a shell line: that would run the tracker's text as code.

use std::path::PathBuf;

use orch_domain::agent::{AgentClaim, AgentEvent, AgentKind, AgentReport};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;
use orch_domain::variables::PROMPT_FILE;

use super::line::{self, Tally};
use super::port::{Agent, AgentSetupError, LaunchContext, LaunchLine, StreamParser};
use super::program;
use super::settings::{AgentSettings, CommandLine};

/// The kernel's bound for one argument, its closing zero byte included (`MAX_ARG_STRLEN`).
const MAX_ARGUMENT: usize = 128 * 1024;
/// What a template may hold.
const PLACEHOLDERS: [&str; 3] = ["{prompt}", "{prompt_file}", "{workspace}"];

/// The adapter.
pub(super) struct Command {
    line: CommandLine,
}

impl Command {
    /// Checks the settings: a command must be there and make sense.
    pub(super) fn new(settings: AgentSettings) -> Result<Self, AgentSetupError> {
        let refused =
            |why: &str| Err(AgentSetupError::BadSetting { agent: "command", setting: "command", why: why.to_owned() });
        match settings.command {
            None => refused("it is missing; write a shell line, or a list of program and arguments"),
            Some(CommandLine::Shell(line)) if line.trim().is_empty() => refused("it is empty"),
            Some(CommandLine::Shell(line)) if holds_placeholder(&line) => refused(
                "`{...}` is replaced only in a list of program and arguments; a shell line reads the prompt from \
                 standard input or from the file \"$ORCH_PROMPT_FILE\"",
            ),
            Some(CommandLine::Argv(argv)) if argv.first().is_none_or(|name| name.is_empty() || name.contains('{')) => {
                refused("the list must begin with a program")
            }
            Some(line) => Ok(Self { line }),
        }
    }
}

impl Command {
    /// Files that the line names by their absolute paths: whoever wrote `/home/ann/agent.sh --fast` wants it to be run.
    fn named_files(&self) -> Vec<PathBuf> {
        let words: Vec<&str> = match &self.line {
            CommandLine::Shell(line) => line.split_whitespace().collect(),
            CommandLine::Argv(argv) => argv.iter().map(String::as_str).collect(),
        };
        let plain = words.into_iter().map(|word| word.trim_matches(['\'', '"', ';']));
        let files = plain.filter(|word| word.starts_with('/')).filter_map(|word| std::fs::canonicalize(word).ok());
        files.filter(|file| file.is_file()).collect()
    }
}

/// Whether a shell line holds one of our placeholders; `${prompt}` is the shell's own and fine.
fn holds_placeholder(line: &str) -> bool {
    PLACEHOLDERS.iter().any(|name| line.match_indices(name).any(|(at, _)| !line[..at].ends_with('$')))
}

impl Agent for Command {
    fn kind(&self) -> AgentKind {
        AgentKind::Command
    }

    fn launch(&self, ctx: &LaunchContext) -> Result<LaunchLine, AgentSetupError> {
        let file = ctx.private.join("prompt.md");
        let mut env = program::private_env(ctx);
        env.insert(PROMPT_FILE.to_owned(), file.to_string_lossy().into_owned());
        let prompt = ctx.prompt.clone().into_bytes();
        let files = vec![(file.clone(), prompt.clone())];
        let (argv, stdin) = match &self.line {
            CommandLine::Shell(line) => {
                let shell = program::find_for("sh", ctx)?;
                (vec![shell, "-c".to_owned(), line.clone()], prompt)
            }
            CommandLine::Argv(template) => {
                let handed = template.iter().any(|arg| arg.contains("{prompt}") || arg.contains("{prompt_file}"));
                let mut argv = Vec::with_capacity(template.len());
                for (index, arg) in template.iter().enumerate() {
                    argv.push(if index == 0 {
                        program::find_for(arg, ctx)?
                    } else {
                        fill(arg, ctx, &file.to_string_lossy())?
                    });
                }
                // A program that gets the prompt one way must not get it twice.
                (argv, if handed { Vec::new() } else { prompt })
            }
        };
        let mut read = program::installation(&argv[0]);
        read.extend(self.named_files());
        Ok(LaunchLine { argv, env, stdin, files, read })
    }

    fn parser(&self, model: Option<&str>) -> Box<dyn StreamParser> {
        Box::new(PlainParser { tally: Tally::of_model(model) })
    }
}

/// Replaces the placeholders of one argument in a single pass: what is put in is not looked at again.
fn fill(template: &str, ctx: &LaunchContext, file: &str) -> Result<String, AgentSetupError> {
    let workspace = ctx.workspace.to_string_lossy();
    let values = [ctx.prompt.as_str(), file, &workspace];
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let hit = PLACEHOLDERS.iter().zip(values).find(|(name, _)| rest.starts_with(**name));
        match hit {
            Some((name, value)) => {
                out.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    let unfit = |why| Err(AgentSetupError::PromptUnfit { agent: "command", why });
    if out.contains('\0') {
        return unfit("it holds a zero byte".to_owned());
    }
    if out.len() >= MAX_ARGUMENT {
        return unfit(format!("the argument would have {} bytes, the system allows {}", out.len(), MAX_ARGUMENT - 1));
    }
    Ok(out)
}

/// Reads plain text.
struct PlainParser {
    tally: Tally,
}

impl StreamParser for PlainParser {
    fn line(&mut self, line: &[u8]) -> Vec<AgentEvent> {
        // Only the beginning is shown, so only the beginning is decoded.
        let head = &line[..line.len().min(8 << 10)];
        self.tally.said(&String::from_utf8_lossy(head)).into_iter().collect()
    }

    fn tool_running(&self) -> bool {
        false
    }

    fn report(&self, end: &JobEnd, wall: Millis) -> AgentReport {
        let mut report = self.tally.report(wall, None);
        report.claim = match end {
            JobEnd::Exited { code: 0 } => Some(AgentClaim::Success),
            JobEnd::Exited { code } => {
                let nothing = match code {
                    126 => "it said nothing; its program may not be run",
                    127 => "it said nothing; a program of its command line is not there",
                    _ => "it said nothing",
                };
                let words = report.last_text.as_deref().unwrap_or(nothing);
                Some(AgentClaim::Error { text: line::shorten(&format!("exit code {code}: {words}")) })
            }
            // Ended by a signal, by us, or not known to have run: interrupted.
            JobEnd::Signalled { .. }
            | JobEnd::Cancelled
            | JobEnd::TimedOut
            | JobEnd::Stalled
            | JobEnd::OverLimit { .. }
            | JobEnd::Orphaned
            | JobEnd::CouldNotStart { .. }
            | JobEnd::Lost => None,
        };
        report
    }
}
