//! OpenCode, headless: its launch line, its settings file and its `run --format json` events.
//!
//! Owns what is special about this program: everything but the model is told by a file under the private `HOME`; the
//! key is named there by its variable, never written. A tool call is told only when it has ended, so a step that is
//! open counts as a tool that may be running.

use orch_domain::agent::{AgentClaim, AgentEvent, AgentKind, AgentReport, Usage};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;
use serde_json::{Value, json};

use super::line::{self, Line, Tally};
use super::port::{Agent, AgentSetupError, LaunchContext, LaunchLine, StreamParser};
use super::program;
use super::settings::{AgentSettings, Rates};
use crate::jobs::env::PrivateDirs;

/// The adapter.
pub(super) struct Opencode {
    /// How it is set up.
    pub(super) settings: AgentSettings,
}

impl Agent for Opencode {
    fn kind(&self) -> AgentKind {
        AgentKind::Opencode
    }

    fn launch(&self, ctx: &LaunchContext) -> Result<LaunchLine, AgentSetupError> {
        let name = self.settings.program.as_deref().unwrap_or("opencode");
        let mut argv = vec![program::find_for(name, ctx)?];
        argv.extend(["run", "--format", "json"].map(str::to_owned));
        let (config, model) = self.config(ctx)?;
        if let Some(model) = model {
            argv.extend(["-m".to_owned(), model]);
        }
        argv.extend(self.settings.extra_args.iter().cloned());

        let mut env = program::private_env(ctx);
        for quiet in ["OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_MODELS_FETCH"] {
            env.insert(quiet.to_owned(), "1".to_owned());
        }
        let file = PrivateDirs::under(&ctx.private).home.join(".config/opencode/opencode.json");
        // The prompt comes on standard input: read when it is no terminal, and free of the bounds of an argument.
        let stdin = ctx.prompt.clone().into_bytes();
        let read = program::installation(&argv[0]);
        Ok(LaunchLine { argv, env, stdin, files: vec![(file, config.to_string().into_bytes())], read })
    }

    fn parser(&self, model: Option<&str>) -> Box<dyn StreamParser> {
        let model = self.settings.model_of(model);
        Box::new(OpencodeParser { tally: Tally::of_model(model), rates: self.settings.rates_of(model), in_step: false })
    }
}

impl Opencode {
    /// The settings file and the model's full name.
    fn config(&self, ctx: &LaunchContext) -> Result<(Value, Option<String>), AgentSetupError> {
        // All is allowed here, because a question would be answered with no; what the job may touch is our business.
        let mut config = json!({
            "$schema": "https://opencode.ai/config.json",
            "autoupdate": false,
            "share": "disabled",
            "permission": "allow",
        });
        self.settings.key("opencode", ctx)?;
        let key = self.settings.key_env.as_ref().map(|name| format!("{{env:{name}}}"));
        let model = self.settings.model_of(ctx.model.as_deref());
        let Some(endpoint) = &self.settings.endpoint else {
            let provider = model.and_then(|model| model.split_once('/')).map(|(provider, _)| provider);
            if let Some(key) = key {
                let Some(provider) = provider else {
                    return Err(self.bad_model(
                        "with `key_env`, write it as `provider/model`, so that the key finds its provider",
                    ));
                };
                config["provider"] = json!({ provider: { "options": { "apiKey": key } } });
            }
            return Ok((config, model.map(str::to_owned)));
        };
        let Some(model) = model else {
            return Err(self.bad_model("with `endpoint`, name the model to ask for"));
        };
        let mut options = json!({ "baseURL": endpoint });
        if let Some(key) = key {
            options["apiKey"] = Value::String(key);
        }
        config["provider"] = json!({
            "orch": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "orch",
                "options": options,
                "models": { model: { "name": model } },
            },
        });
        let full = format!("orch/{model}");
        // Titles are asked of a small model; without this it would look for one elsewhere.
        config["small_model"] = Value::String(full.clone());
        Ok((config, Some(full)))
    }

    fn bad_model(&self, why: &str) -> AgentSetupError {
        AgentSetupError::BadSetting { agent: "opencode", setting: "model", why: why.to_owned() }
    }
}

/// Reads `run --format json`.
struct OpencodeParser {
    tally: Tally,
    rates: Option<Rates>,
    in_step: bool,
}

impl StreamParser for OpencodeParser {
    fn line(&mut self, line: &[u8]) -> Vec<AgentEvent> {
        let value = match line::read(line) {
            Line::Empty => return Vec::new(),
            Line::Other => return vec![self.tally.unknown()],
            Line::Object(value) => value,
        };
        match line::text(&value, "/type") {
            "step_start" => {
                self.in_step = true;
                // A step after an end event means that it has not ended yet.
                self.tally.claim = None;
                if self.tally.session.is_some() {
                    return Vec::new();
                }
                vec![self.tally.started(line::some_text(&value, "/sessionID"), None)]
            }
            "tool_use" => self.tool(&value),
            "text" => self.tally.said(line::text(&value, "/part/text")).into_iter().collect(),
            "reasoning" => Vec::new(),
            "step_finish" => self.step_finished(&value),
            "error" => {
                self.in_step = false;
                self.tally.session = self.tally.session.take().or_else(|| line::some_text(&value, "/sessionID"));
                vec![self.tally.finished(error_claim(&value))]
            }
            _ => vec![self.tally.unknown()],
        }
    }

    fn tool_running(&self) -> bool {
        self.in_step
    }

    fn report(&self, _end: &JobEnd, wall: Millis) -> AgentReport {
        self.tally.report(wall, self.rates)
    }
}

impl OpencodeParser {
    fn tool(&mut self, value: &Value) -> Vec<AgentEvent> {
        let id = line::text(value, "/part/callID");
        let title = line::text(value, "/part/state/title");
        let argument = if title.is_empty() { line::text(value, "/part/state/input/command") } else { title };
        let what = format!("{}: {argument}", line::text(value, "/part/tool"));
        let ok = match line::text(value, "/part/state/status") {
            "completed" => Some(line::number(value, "/part/state/metadata/exit").is_none_or(|code| code == 0)),
            "error" => Some(false),
            _ => None,
        };
        vec![self.tally.tool_started(id, &what), self.tally.tool_ended(id, ok)]
    }

    fn step_finished(&mut self, value: &Value) -> Vec<AgentEvent> {
        self.in_step = false;
        self.tally.usage = self.tally.usage.plus(usage(value));
        match line::text(value, "/part/reason") {
            "stop" => vec![self.tally.finished(AgentClaim::Success)],
            // It goes on after these: with the tools' answers, or because the provider gave no reason.
            "tool-calls" | "unknown" | "" => Vec::new(),
            other => {
                let text = line::shorten(&format!("the model stopped: {other}"));
                vec![self.tally.finished(AgentClaim::Error { text })]
            }
        }
    }
}

fn usage(value: &Value) -> Usage {
    let part = |name: &str| line::number(value, &format!("/part/tokens/{name}"));
    let (input, output, reasoning) = (part("input"), part("output"), part("reasoning"));
    let (read, written) = (part("cache/read"), part("cache/write"));
    // Whether `output` includes the reasoning differs between providers; the total tells, where there is one.
    let told = part("total").map(|total| {
        let rest = [input, read, written].iter().fold(total, |left, used| left.saturating_sub(used.unwrap_or(0)));
        rest.max(output.unwrap_or(0))
    });
    let added = output.map(|output| output.saturating_add(reasoning.unwrap_or(0)));
    Usage {
        input_tokens: input.map(|input| input.saturating_add(written.unwrap_or(0))),
        cached_tokens: read,
        output_tokens: told.or(added),
        // Zero is what it says for a model whose prices it does not know.
        cost_micro_usd: line::micro_usd(value, "/part/cost").filter(|cost| *cost > 0),
    }
}

fn error_claim(value: &Value) -> AgentClaim {
    let words = ["/error/data/message", "/error/message", "/error/name"];
    let text = words.iter().map(|at| line::text(value, at)).find(|text| !text.is_empty());
    let text = text.unwrap_or("it reports an error without words");
    match line::number(value, "/error/data/statusCode") {
        Some(429 | 529) => AgentClaim::RateLimited { text: line::shorten(text) },
        _ => line::error_claim(text),
    }
}
