//! Codex, headless: its launch line and its `exec --json` events.
//!
//! Owns what is special about this program. Its own sandbox is switched off, because jobs run in ours and its own makes
//! `.git` read-only, so that nothing could be committed. It names no money: prices come from the settings.

use orch_domain::agent::{AgentClaim, AgentEvent, AgentKind, AgentReport, Usage};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;
use serde_json::Value;

use super::line::{self, Line, Tally};
use super::port::{Agent, AgentSetupError, LaunchContext, LaunchLine, StreamParser};
use super::program;
use super::settings::{AgentSettings, Rates};

/// The adapter.
pub(super) struct Codex {
    /// How it is set up.
    pub(super) settings: AgentSettings,
}

impl Agent for Codex {
    fn kind(&self) -> AgentKind {
        AgentKind::Codex
    }

    fn launch(&self, ctx: &LaunchContext) -> Result<LaunchLine, AgentSetupError> {
        let name = self.settings.program.as_deref().unwrap_or("codex");
        let mut argv = vec![program::find_for(name, ctx)?];
        argv.extend(["exec", "--json", "--skip-git-repo-check"].map(str::to_owned));
        argv.push("--dangerously-bypass-approvals-and-sandbox".to_owned());
        if let Some(model) = self.settings.model_of(ctx.model.as_deref()) {
            argv.extend(["-m".to_owned(), model.to_owned()]);
        }
        for quiet in ["analytics.enabled=false", "check_for_update_on_startup=false"] {
            argv.extend(["-c", quiet].map(str::to_owned));
        }

        let mut env = program::private_env(ctx);
        let key = self.settings.key("codex", ctx)?;
        if let Some(endpoint) = &self.settings.endpoint {
            argv.extend(["-c", "model_provider=orch", "-c"].map(str::to_owned));
            // Endpoint and variable name were checked to hold no quotes; the key itself stays in the environment.
            let key = self.settings.key_env.as_ref().map_or_else(String::new, |name| format!(r#",env_key="{name}""#));
            argv.push(format!(
                r#"model_providers.orch={{name="orch",base_url="{endpoint}",wire_api="responses"{key}}}"#
            ));
        } else if let Some(key) = key {
            env.insert("CODEX_API_KEY".to_owned(), key.to_owned());
        }
        argv.extend(self.settings.extra_args.iter().cloned());
        // `-`: the prompt comes on standard input.
        argv.push("-".to_owned());
        let read = program::installation(&argv[0]);
        Ok(LaunchLine { argv, env, stdin: ctx.prompt.clone().into_bytes(), files: Vec::new(), read })
    }

    fn parser(&self, model: Option<&str>) -> Box<dyn StreamParser> {
        let model = self.settings.model_of(model);
        Box::new(CodexParser { tally: Tally::of_model(model), rates: self.settings.rates_of(model) })
    }
}

/// Reads `exec --json`.
struct CodexParser {
    tally: Tally,
    rates: Option<Rates>,
}

impl StreamParser for CodexParser {
    fn line(&mut self, line: &[u8]) -> Vec<AgentEvent> {
        let value = match line::read(line) {
            Line::Empty => return Vec::new(),
            Line::Other => return vec![self.tally.unknown()],
            Line::Object(value) => value,
        };
        match line::text(&value, "/type") {
            "thread.started" => vec![self.tally.started(line::some_text(&value, "/thread_id"), None)],
            "turn.started" => {
                // A new turn after an end event means that it has not ended yet.
                self.tally.claim = None;
                Vec::new()
            }
            "item.started" => self.item_started(&value),
            "item.updated" => Vec::new(),
            "item.completed" => self.item_completed(&value),
            "turn.completed" => {
                self.take_usage(&value);
                vec![self.tally.finished(AgentClaim::Success)]
            }
            "turn.failed" => {
                let text = line::text(&value, "/error/message");
                let text = if text.is_empty() { "its turn failed without words" } else { text };
                vec![self.tally.finished(line::error_claim(text))]
            }
            "error" => vec![AgentEvent::Warned { text: line::shorten(line::text(&value, "/message")) }],
            _ => vec![self.tally.unknown()],
        }
    }

    fn tool_running(&self) -> bool {
        self.tally.tool_running()
    }

    fn report(&self, _end: &JobEnd, wall: Millis) -> AgentReport {
        self.tally.report(wall, self.rates)
    }
}

/// What an item is to us.
enum Item {
    Tool(String),
    Message,
    Warning,
    Quiet,
    Unknown,
}

fn item(value: &Value) -> Item {
    let words = |name: &str, pointer: &str| Item::Tool(format!("{name}: {}", line::text(value, pointer)));
    match line::text(value, "/item/type") {
        "command_execution" => words("shell", "/item/command"),
        "file_change" => words("edit", "/item/changes/0/path"),
        "mcp_tool_call" | "collab_tool_call" => words("tool", "/item/tool"),
        "web_search" => words("search", "/item/query"),
        "agent_message" => Item::Message,
        "error" => Item::Warning,
        // A plan stays open for the whole turn: as a tool it would hide every stall.
        "reasoning" | "todo_list" => Item::Quiet,
        _ => Item::Unknown,
    }
}

impl CodexParser {
    fn item_started(&mut self, value: &Value) -> Vec<AgentEvent> {
        match item(value) {
            Item::Tool(what) => vec![self.tally.tool_started(line::text(value, "/item/id"), &what)],
            Item::Message | Item::Warning | Item::Quiet => Vec::new(),
            Item::Unknown => vec![self.tally.unknown()],
        }
    }

    fn item_completed(&mut self, value: &Value) -> Vec<AgentEvent> {
        match item(value) {
            Item::Tool(what) => {
                let id = line::text(value, "/item/id");
                // Some items are told only once they are over.
                let mut events = Vec::new();
                if !self.tally.is_open(id) {
                    events.push(self.tally.tool_started(id, &what));
                }
                events.push(self.tally.tool_ended(id, tool_ok(value)));
                events
            }
            Item::Message => self.tally.said(line::text(value, "/item/text")).into_iter().collect(),
            Item::Warning => vec![AgentEvent::Warned { text: line::shorten(line::text(value, "/item/message")) }],
            Item::Quiet => Vec::new(),
            Item::Unknown => vec![self.tally.unknown()],
        }
    }

    /// The thread's totals so far; cached tokens are part of the input there, not in our words.
    fn take_usage(&mut self, value: &Value) {
        let cached = line::number(value, "/usage/cached_input_tokens");
        let input = line::number(value, "/usage/input_tokens");
        self.tally.usage = Usage {
            input_tokens: input.map(|all| all.saturating_sub(cached.unwrap_or(0))),
            cached_tokens: cached,
            output_tokens: line::number(value, "/usage/output_tokens"),
            cost_micro_usd: None,
        };
    }
}

fn tool_ok(value: &Value) -> Option<bool> {
    if let Some(code) = value.pointer("/item/exit_code").and_then(Value::as_i64) {
        return Some(code == 0);
    }
    match line::text(value, "/item/status") {
        "completed" => Some(true),
        "failed" | "declined" => Some(false),
        _ => None,
    }
}
