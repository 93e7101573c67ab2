//! What the parsers share: reading one JSON line, shortening texts, and the tally behind every report.
//!
//! Owns the bounds (text length, line length, open tool calls) and the recognition of provider limits in error texts.
//! Refuses to trust any shape: a missing or odd field is skipped, never a panic.

use std::collections::BTreeSet;

use orch_domain::agent::{AgentClaim, AgentEvent, AgentReport, Usage};
use orch_domain::time::Millis;
use serde_json::Value;

use super::settings::Rates;

/// Most characters of a text in an event or report.
const TEXT_CHARS: usize = 600;
/// Longest line that is parsed; a longer one is counted as unknown.
const LINE_BYTES: usize = 16 << 20;
/// Most tool calls remembered as open; more than this at once is no honest stream.
const OPEN_TOOLS: usize = 1_024;

/// What a line is before anybody looks at its meaning.
pub(super) enum Line {
    /// Nothing but white space.
    Empty,
    /// A JSON object.
    Object(Value),
    /// Anything else.
    Other,
}

/// Reads one line.
pub(super) fn read(line: &[u8]) -> Line {
    if line.trim_ascii().is_empty() {
        return Line::Empty;
    }
    if line.len() > LINE_BYTES {
        return Line::Other;
    }
    match serde_json::from_slice::<Value>(line) {
        Ok(value @ Value::Object(_)) => Line::Object(value),
        _ => Line::Other,
    }
}

/// The text at a JSON pointer, empty when there is none.
pub(super) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a JSON pointer, shortened; `None` when there is none or it is empty.
pub(super) fn some_text(value: &Value, pointer: &str) -> Option<String> {
    Some(shorten(text(value, pointer))).filter(|text| !text.is_empty())
}

/// The whole number at a JSON pointer.
pub(super) fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer).and_then(Value::as_u64)
}

/// US dollars at a JSON pointer, as millionths, rounded; `None` for what is no sensible amount.
pub(super) fn micro_usd(value: &Value, pointer: &str) -> Option<u64> {
    let dollars = value.pointer(pointer).and_then(Value::as_f64)?;
    let micro = (dollars * 1e6).round();
    // A float-to-integer cast saturates; the range check keeps nonsense from becoming a huge bill.
    (micro.is_finite() && (0.0..1e15).contains(&micro)).then_some(micro as u64)
}

/// One line of at most [`TEXT_CHARS`] characters, without control characters and terminal colours, so that it can be
/// shown anywhere.
pub(super) fn shorten(text: &str) -> String {
    let mut out = String::new();
    let mut kept = 0;
    let mut chars = text.trim().chars();
    while let Some(c) = chars.next() {
        if kept == TEXT_CHARS {
            out.push('…');
            break;
        }
        if c == '\u{1b}' && chars.as_str().starts_with('[') {
            // A terminal sequence goes up to its final letter.
            let _ = chars.by_ref().skip(1).find(|c| ('\u{40}'..='\u{7e}').contains(c));
            continue;
        }
        out.push(if c.is_control() { ' ' } else { c });
        kept += 1;
    }
    out.trim().to_owned()
}

/// Whether an error text of a program or provider speaks of a limit that passes by itself.
pub(super) fn is_limit(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let phrases = [
        "rate limit",
        "rate_limit",
        "ratelimit",
        "usage limit",
        "usage_limit",
        "limit reached",
        "hit your limit",
        "too many requests",
        "insufficient_quota",
        "quota exceeded",
        "exceeded your current quota",
        "overloaded",
    ];
    // A bare 429 counts only as a number of its own.
    let code = text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "429" || word == "529");
    code || phrases.iter().any(|phrase| text.contains(phrase))
}

/// The claim of an end event that reports an error.
pub(super) fn error_claim(text: &str) -> AgentClaim {
    let shown = shorten(text);
    if is_limit(text) { AgentClaim::RateLimited { text: shown } } else { AgentClaim::Error { text: shown } }
}

/// What a stream has told so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The program's session id.
    pub(super) session: Option<String>,
    /// The model.
    pub(super) model: Option<String>,
    /// Tokens and money.
    pub(super) usage: Usage,
    /// What the end event claimed.
    pub(super) claim: Option<AgentClaim>,
    tool_calls: u32,
    unknown_lines: u32,
    last_text: Option<String>,
    open: BTreeSet<String>,
}

impl Tally {
    /// The tally of a run that was launched with this model.
    pub(super) fn of_model(model: Option<&str>) -> Self {
        Self { model: model.map(str::to_owned), ..Self::default() }
    }

    /// Counts a line that is not understood.
    pub(super) fn unknown(&mut self) -> AgentEvent {
        self.unknown_lines = self.unknown_lines.saturating_add(1);
        AgentEvent::Unknown
    }

    /// Notes session and model; a later line that knows less takes nothing away.
    pub(super) fn started(&mut self, session: Option<String>, model: Option<String>) -> AgentEvent {
        self.session = session.or_else(|| self.session.take());
        self.model = model.or_else(|| self.model.take());
        AgentEvent::Started { session: self.session.clone(), model: self.model.clone() }
    }

    /// Notes what was said; nothing for an empty text.
    pub(super) fn said(&mut self, text: &str) -> Option<AgentEvent> {
        let text = shorten(text);
        if text.is_empty() {
            return None;
        }
        self.last_text = Some(text.clone());
        Some(AgentEvent::Said { text })
    }

    /// Opens a tool call.
    pub(super) fn tool_started(&mut self, id: &str, what: &str) -> AgentEvent {
        self.tool_calls = self.tool_calls.saturating_add(1);
        let id = shorten(id);
        if self.open.len() < OPEN_TOOLS {
            self.open.insert(id.clone());
        }
        AgentEvent::ToolStarted { id, what: shorten(what) }
    }

    /// Closes a tool call; one that was never opened is told all the same.
    pub(super) fn tool_ended(&mut self, id: &str, ok: Option<bool>) -> AgentEvent {
        let id = shorten(id);
        self.open.remove(&id);
        AgentEvent::ToolEnded { id, ok }
    }

    /// Whether a call of this id is open.
    pub(super) fn is_open(&self, id: &str) -> bool {
        self.open.contains(&shorten(id))
    }

    /// Whether any tool call is open. After the end event nothing is: a program that left one open has gone on.
    pub(super) fn tool_running(&self) -> bool {
        self.claim.is_none() && !self.open.is_empty()
    }

    /// Notes the end event.
    pub(super) fn finished(&mut self, claim: AgentClaim) -> AgentEvent {
        self.claim = Some(claim.clone());
        AgentEvent::Finished { claim }
    }

    /// The report; money that the program did not name is priced from `rates`.
    pub(super) fn report(&self, wall: Millis, rates: Option<Rates>) -> AgentReport {
        let priced = rates.and_then(|rates| rates.price(&self.usage));
        AgentReport {
            session: self.session.clone(),
            model: self.model.clone(),
            usage: Usage { cost_micro_usd: self.usage.cost_micro_usd.or(priced), ..self.usage },
            tool_calls: self.tool_calls,
            unknown_lines: self.unknown_lines,
            claim: self.claim.clone(),
            last_text: self.last_text.clone(),
            wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_one_short_line_without_control_characters() {
        assert_eq!(shorten(" a\n\u{1b}[31mb\u{1b}c\0 "), "a b c");
        assert_eq!(shorten("\u{1b}["), "", "a sequence that never ends takes the rest along");
        assert_eq!(shorten(&"ü".repeat(2_000)).chars().count(), TEXT_CHARS + 1);
    }

    #[test]
    fn limits_are_told_from_other_errors() {
        for text in [
            "API Error: Rate limit reached",
            "exceeded retry limit, last status: 429 Too Many Requests",
            "You've hit your usage limit. Try again at 3pm.",
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        ] {
            assert!(is_limit(text), "{text}");
        }
        for text in ["line 4290 is wrong", "error at 14:29", "no such file", "the limit of 3 turns"] {
            assert!(!is_limit(text), "{text}");
        }
    }

    #[test]
    fn money_is_rounded_to_millionths_and_nonsense_is_unknown() {
        let cost = |text: &str| micro_usd(&serde_json::from_str(text).expect("json"), "/c");
        assert_eq!(cost(r#"{"c":0.000745}"#), Some(745));
        assert_eq!(cost(r#"{"c":12}"#), Some(12_000_000));
        for bad in [r#"{"c":-1}"#, r#"{"c":1e300}"#, r#"{"c":"1"}"#, "{}"] {
            assert_eq!(cost(bad), None, "{bad}");
        }
    }
}
