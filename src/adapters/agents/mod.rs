//! Agents: command-line programs that work on a task, seen through one port.
//!
//! Owns the port ([`Agent`], [`StreamParser`]), one adapter per program, the prompts and the scripted agent. Refuses to
//! start anything (the placement does) and to judge anything: what a parser returns is the agent's claim.

mod claude;
mod codex;
mod command;
mod line;
mod opencode;
mod port;
mod program;
mod prompt;
pub mod scripted;
mod settings;

pub use port::{Agent, AgentSetupError, LaunchContext, LaunchLine, StreamParser};
pub use program::find_program;
pub use prompt::{MAX_FENCED, PromptContext, PromptError, Prompts};
pub use settings::{AgentSettings, CommandLine, Rates, build};

#[cfg(test)]
mod tests;
