//! What an agent program tells about itself: events while it works, a report at the end. All of it is a claim.
//!
//! Owns the vocabulary that every kind of agent is translated into. Refuses to conclude: a stream without its end event
//! means interrupted, never success; verdicts come from exit codes and git, not from here.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// Which program works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentKind {
    /// Claude Code, headless.
    Claude,
    /// Codex, headless.
    Codex,
    /// OpenCode, headless.
    Opencode,
    /// Any program, by an argv template.
    Command,
    /// Our own script runner: edits, commits and misbehaviour from a YAML file; for tests and the demo.
    Scripted,
}

impl AgentKind {
    /// The name in settings and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::Opencode => "opencode",
            Self::Command => "command",
            Self::Scripted => "scripted",
        }
    }
}

/// Tokens and money as the agent reported them; absent is unknown, not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read (prompt), without cached ones.
    pub input_tokens: Option<u64>,
    /// Tokens read from a cache.
    pub cached_tokens: Option<u64>,
    /// Tokens written, reasoning included.
    pub output_tokens: Option<u64>,
    /// Money in millionths of a US dollar.
    pub cost_micro_usd: Option<u64>,
}

impl Usage {
    /// Both together; a part unknown on one side counts with what the other side knows.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let add = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        };
        Self {
            input_tokens: add(self.input_tokens, other.input_tokens),
            cached_tokens: add(self.cached_tokens, other.cached_tokens),
            output_tokens: add(self.output_tokens, other.output_tokens),
            cost_micro_usd: add(self.cost_micro_usd, other.cost_micro_usd),
        }
    }
}

/// One thing an agent did, as its stream tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum AgentEvent {
    /// It began; the session can be named later.
    Started {
        /// The program's own session id.
        session: Option<String>,
        /// Model, as it says.
        model: Option<String>,
    },
    /// It said something.
    Said {
        /// The text, shortened.
        text: String,
    },
    /// It called a tool: while one runs, silence is no stall.
    ToolStarted {
        /// The call's id, to match the end.
        id: String,
        /// Tool and argument, shortened.
        what: String,
    },
    /// A tool call ended.
    ToolEnded {
        /// The call's id.
        id: String,
        /// Whether it worked, as far as told.
        ok: Option<bool>,
    },
    /// A warning or error of the program, not the end of it.
    Warned {
        /// The text, shortened.
        text: String,
    },
    /// The program says that it ended by itself.
    Finished {
        /// How, in our words.
        claim: AgentClaim,
    },
    /// A line that this version of the parser does not know; kept in the log, counted here.
    Unknown,
}

/// What the end event of a stream claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum AgentClaim {
    /// Done, it says.
    Success,
    /// It gave up; the text is its own.
    Error {
        /// Its words, shortened.
        text: String,
    },
    /// A limit of its provider; to be tried again later.
    RateLimited {
        /// Its words, shortened.
        text: String,
    },
}

/// What is known of one agent run when its job is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// The program's session id.
    pub session: Option<String>,
    /// The model, as it said.
    pub model: Option<String>,
    /// Tokens and money, summed.
    pub usage: Usage,
    /// Tool calls seen.
    pub tool_calls: u32,
    /// Lines that were not understood.
    pub unknown_lines: u32,
    /// What its end event claimed; `None`: there was none, so it was interrupted.
    pub claim: Option<AgentClaim>,
    /// Its last words, shortened.
    pub last_text: Option<String>,
    /// Wall time of the job.
    pub wall: Millis,
}
