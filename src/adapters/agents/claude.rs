//! Claude Code, headless: its launch line and its `stream-json` events.
//!
//! Owns what is special about this program. Only a `result` line means that it ended by itself; usage seen before it is
//! a lower bound, kept for runs that are cut off. The prompt goes in on standard input: it may be longer than an
//! argument can be, and other users of the host can read arguments.

use orch_domain::agent::{AgentClaim, AgentEvent, AgentKind, AgentReport, Usage};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;
use serde_json::Value;

use super::line::{self, Line, Tally};
use super::port::{Agent, AgentSetupError, LaunchContext, LaunchLine, StreamParser};
use super::program;
use super::settings::{AgentSettings, Rates};

/// The adapter.
pub(super) struct Claude {
    /// How it is set up.
    pub(super) settings: AgentSettings,
}

impl Agent for Claude {
    fn kind(&self) -> AgentKind {
        AgentKind::Claude
    }

    fn launch(&self, ctx: &LaunchContext) -> Result<LaunchLine, AgentSetupError> {
        let name = self.settings.program.as_deref().unwrap_or("claude");
        let mut argv = vec![program::find_for(name, ctx)?];
        argv.extend(["-p", "--output-format", "stream-json", "--verbose"].map(str::to_owned));
        if let Some(model) = self.settings.model_of(ctx.model.as_deref()) {
            argv.extend(["--model".to_owned(), model.to_owned()]);
        }
        argv.extend(self.settings.extra_args.iter().cloned());
        // Takes all arguments that follow, so it comes last.
        argv.extend(["--allowedTools", "Bash", "Edit", "Write"].map(str::to_owned));

        let mut env = program::private_env(ctx);
        for quiet in ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_AUTOUPDATER", "DISABLE_TELEMETRY"] {
            env.insert(quiet.to_owned(), "1".to_owned());
        }
        if let Some(endpoint) = &self.settings.endpoint {
            env.insert("ANTHROPIC_BASE_URL".to_owned(), endpoint.clone());
        }
        if let Some(key) = self.settings.key("claude", ctx)? {
            env.insert("ANTHROPIC_API_KEY".to_owned(), key.to_owned());
        }
        let read = program::installation(&argv[0]);
        Ok(LaunchLine { argv, env, stdin: ctx.prompt.clone().into_bytes(), files: Vec::new(), read })
    }

    fn parser(&self, model: Option<&str>) -> Box<dyn StreamParser> {
        let rates = self.settings.rates_of(self.settings.model_of(model));
        Box::new(ClaudeParser { rates, ..ClaudeParser::default() })
    }
}

/// Reads `stream-json`.
#[derive(Default)]
struct ClaudeParser {
    tally: Tally,
    rates: Option<Rates>,
    /// Usage of the messages before the current one.
    before: Usage,
    /// The current message's id and usage: each of its lines repeats the usage so far.
    current: Option<(String, Usage)>,
}

impl StreamParser for ClaudeParser {
    fn line(&mut self, line: &[u8]) -> Vec<AgentEvent> {
        let value = match line::read(line) {
            Line::Empty => return Vec::new(),
            Line::Other => return vec![self.tally.unknown()],
            Line::Object(value) => value,
        };
        match line::text(&value, "/type") {
            "system" => self.system(&value),
            "assistant" => self.assistant(&value),
            "user" => self.user(&value),
            "result" => self.result(&value),
            "rate_limit_event" => match line::text(&value, "/rate_limit_info/status") {
                "rejected" => vec![AgentEvent::Warned { text: "the provider's limit is reached".to_owned() }],
                _ => Vec::new(),
            },
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

impl ClaudeParser {
    fn system(&mut self, value: &Value) -> Vec<AgentEvent> {
        match line::text(value, "/subtype") {
            "init" => {
                let session = line::some_text(value, "/session_id");
                vec![self.tally.started(session, line::some_text(value, "/model"))]
            }
            "api_retry" => {
                let status = line::number(value, "/error_status").map_or_else(String::new, |code| format!(" ({code})"));
                let error = line::some_text(value, "/error").unwrap_or_else(|| "no reason given".to_owned());
                vec![AgentEvent::Warned { text: format!("its provider refused, it tries again: {error}{status}") }]
            }
            _ => Vec::new(),
        }
    }

    fn assistant(&mut self, value: &Value) -> Vec<AgentEvent> {
        // Going on after an end event means that it has not ended yet.
        self.tally.claim = None;
        self.count_usage(value);
        let mut events = Vec::new();
        for block in blocks(value) {
            match line::text(block, "/type") {
                "text" => events.extend(self.tally.said(line::text(block, "/text"))),
                "tool_use" => {
                    let what = tool_words(block);
                    events.push(self.tally.tool_started(line::text(block, "/id"), &what));
                }
                _ => {}
            }
        }
        events
    }

    fn user(&mut self, value: &Value) -> Vec<AgentEvent> {
        let results = blocks(value).iter().filter(|block| line::text(block, "/type") == "tool_result");
        results
            .map(|block| {
                let failed = block.pointer("/is_error").and_then(Value::as_bool).unwrap_or(false);
                self.tally.tool_ended(line::text(block, "/tool_use_id"), Some(!failed))
            })
            .collect()
    }

    fn result(&mut self, value: &Value) -> Vec<AgentEvent> {
        let mut events = Vec::new();
        self.take_totals(value);
        if let Some(session) = line::some_text(value, "/session_id") {
            self.tally.session = Some(session);
        }
        if let Some(denials) = value.pointer("/permission_denials").and_then(Value::as_array).filter(|d| !d.is_empty())
        {
            let tools: Vec<&str> = denials.iter().map(|denial| line::text(denial, "/tool_name")).collect();
            let text = line::shorten(&format!("tool calls were denied for want of permission: {}", tools.join(", ")));
            events.push(AgentEvent::Warned { text });
        }
        let claim = result_claim(value);
        if claim == AgentClaim::Success {
            // The answer was said before, unless the last message had no text: then this is its only place.
            let _ = self.tally.said(line::text(value, "/result"));
        }
        events.push(self.tally.finished(claim));
        events
    }

    /// Adds up what the lines of each message say; several lines of one message repeat a growing count.
    fn count_usage(&mut self, value: &Value) {
        let id = line::text(value, "/message/id").to_owned();
        let seen = usage(value, "/message/usage");
        self.current = Some(match self.current.take() {
            Some((current, known)) if current == id => (id, larger(known, seen)),
            Some((_, known)) => {
                self.before = self.before.plus(known);
                (id, seen)
            }
            None => (id, seen),
        });
        let current = self.current.as_ref().map_or_else(Usage::default, |(_, usage)| *usage);
        self.tally.usage = self.before.plus(current);
    }

    /// The end event's totals replace what was added up.
    fn take_totals(&mut self, value: &Value) {
        let totals = usage(value, "/usage");
        if totals != Usage::default() {
            self.before = totals;
            self.current = None;
            self.tally.usage = totals;
        }
        self.tally.usage.cost_micro_usd = line::micro_usd(value, "/total_cost_usd");
    }
}

fn blocks(value: &Value) -> &[Value] {
    value.pointer("/message/content").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Tool and its most telling argument.
fn tool_words(block: &Value) -> String {
    let argument = ["/input/command", "/input/file_path", "/input/description", "/input/prompt", "/input/pattern"]
        .iter()
        .map(|pointer| line::text(block, pointer))
        .find(|text| !text.is_empty())
        .unwrap_or_default();
    format!("{}: {argument}", line::text(block, "/name"))
}

fn result_claim(value: &Value) -> AgentClaim {
    let subtype = line::text(value, "/subtype");
    let is_error = value.pointer("/is_error").and_then(Value::as_bool).unwrap_or(subtype != "success");
    if !is_error && subtype == "success" {
        return AgentClaim::Success;
    }
    let said = line::text(value, "/result");
    let errors = value.pointer("/errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut words: Vec<&str> = errors.iter().filter_map(Value::as_str).collect();
    words.insert(0, said);
    if subtype != "success" {
        words.insert(0, subtype);
    }
    words.retain(|word| !word.is_empty());
    let text = if words.is_empty() { "it reports an error without words".to_owned() } else { words.join(": ") };
    match line::number(value, "/api_error_status") {
        Some(429 | 529) => AgentClaim::RateLimited { text: line::shorten(&text) },
        _ => line::error_claim(&text),
    }
}

fn usage(value: &Value, at: &str) -> Usage {
    let part = |name: &str| line::number(value, &format!("{at}/{name}"));
    let fresh = Usage { input_tokens: part("input_tokens"), ..Usage::default() };
    // Writing the cache is reading the prompt for the first time: it counts as input.
    let cached = Usage { input_tokens: part("cache_creation_input_tokens"), ..Usage::default() };
    Usage {
        input_tokens: fresh.plus(cached).input_tokens,
        cached_tokens: part("cache_read_input_tokens"),
        output_tokens: part("output_tokens"),
        cost_micro_usd: None,
    }
}

fn larger(a: Usage, b: Usage) -> Usage {
    Usage {
        input_tokens: a.input_tokens.max(b.input_tokens),
        cached_tokens: a.cached_tokens.max(b.cached_tokens),
        output_tokens: a.output_tokens.max(b.output_tokens),
        cost_micro_usd: None,
    }
}
