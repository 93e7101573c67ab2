//! The text form of a report: front matter and body.
//!
//! Owns the keys and their order (frozen by a test) and the strict reading of them: the first line is exactly `---`, the
//! block ends at the first following line that is exactly `---` within [`MAX_HEADER`] bytes, every key is known and
//! there once, numbers are whole, the verdict is one of three words. Untrusted text goes through the YAML serialiser.

use orch_domain::gate::{Count, GateName, ReportHeader, ToolVersion, Verdict};
use orch_domain::ids::{CommitSha, RunId};
use orch_domain::names::RepoName;
use orch_domain::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

/// Most bytes of a front matter block, its two fences included.
pub const MAX_HEADER: usize = 64 * 1024;

/// What is wrong with a report's front matter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file is not UTF-8.
    #[error("it is not UTF-8")]
    NotText,
    /// The first line is not `---`.
    #[error("its first line is not exactly `---`")]
    NotOpened,
    /// No closing line within the limit.
    #[error("its front matter is not closed by a line `---` within {MAX_HEADER} bytes")]
    NotClosed,
    /// Not YAML, a key that we do not know, a key twice, a value of the wrong sort.
    #[error("its front matter is not what a report says: {0}")]
    NotUnderstood(String),
    /// The verdict's key is missing.
    #[error("its front matter lacks `{0}`")]
    NoVerdict(&'static str),
    /// The verdict is none of the three words.
    #[error("`{key}` is `{value}`; it can only be `passed`, `failed` or `could_not_run`")]
    UnknownVerdict {
        /// The verdict's key.
        key: &'static str,
        /// What stands there, shortened.
        value: String,
    },
}

/// All keys besides the verdict's, in their order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    gate: GateName,
    repo: RepoName,
    base: Option<CommitSha>,
    head: CommitSha,
    tree: CommitSha,
    run: RunId,
    tools: Vec<ToolVersion>,
    started: String,
    duration_ms: u64,
    counts: Vec<Count>,
    notes: Vec<String>,
}

/// The whole text of a report.
///
/// # Errors
/// [`HeaderError::NotClosed`] when the header is longer than what a reader accepts.
pub fn render_report(header: &ReportHeader, body: &str) -> Result<String, HeaderError> {
    let fields = Fields {
        gate: header.gate,
        repo: header.repo.clone(),
        base: header.base.clone(),
        head: header.head.clone(),
        tree: header.tree.clone(),
        run: header.run.clone(),
        tools: header.tools.clone(),
        started: header.started.to_string(),
        duration_ms: header.duration.0,
        counts: header.counts.clone(),
        notes: header.notes.clone(),
    };
    let not_understood = |err: serde_yaml::Error| HeaderError::NotUnderstood(err.to_string());
    let mut all = Mapping::new();
    all.insert(header.gate.status_key().into(), header.verdict.as_str().into());
    let Value::Mapping(rest) = serde_yaml::to_value(&fields).map_err(not_understood)? else {
        return Err(HeaderError::NotUnderstood("a struct did not become a mapping".to_owned()));
    };
    all.extend(rest);
    let yaml = serde_yaml::to_string(&all).map_err(not_understood)?;
    let text = format!("---\n{yaml}---\n");
    if text.len() > MAX_HEADER {
        return Err(HeaderError::NotClosed);
    }
    Ok(format!("{text}{body}"))
}

/// Reads a report's text; the body begins after the closing fence.
///
/// # Errors
/// Every variant of [`HeaderError`].
pub fn parse_report(gate: GateName, bytes: &[u8]) -> Result<(ReportHeader, String), HeaderError> {
    let text = std::str::from_utf8(bytes).map_err(|_| HeaderError::NotText)?;
    let rest = text.strip_prefix("---\n").ok_or(HeaderError::NotOpened)?;
    let end = match rest.starts_with("---\n") {
        true => 0,
        false => rest.find("\n---\n").map(|at| at + 1).ok_or(HeaderError::NotClosed)?,
    };
    if end + 8 > MAX_HEADER {
        return Err(HeaderError::NotClosed);
    }
    let header = read_block(gate, &rest[..end])?;
    Ok((header, rest[end + 4..].to_owned()))
}

fn read_block(gate: GateName, block: &str) -> Result<ReportHeader, HeaderError> {
    let not_understood = |err: serde_yaml::Error| HeaderError::NotUnderstood(err.to_string());
    // As a value first: its mapping refuses a key that stands twice, whichever it is.
    let Value::Mapping(mut all) = serde_yaml::from_str::<Value>(block).map_err(not_understood)? else {
        return Err(HeaderError::NotUnderstood("it is no list of keys and values".to_owned()));
    };
    let key = gate.status_key();
    let value = all.remove(key).ok_or(HeaderError::NoVerdict(key))?;
    let verdict = value.as_str().and_then(Verdict::from_word).ok_or_else(|| HeaderError::UnknownVerdict {
        key,
        value: serde_yaml::to_string(&value).unwrap_or_default().trim().escape_debug().take(60).collect(),
    })?;
    let fields: Fields = serde_yaml::from_value(Value::Mapping(all)).map_err(not_understood)?;
    if fields.gate != gate {
        return Err(HeaderError::NotUnderstood(format!("it is of the gate `{}`, not `{gate}`", fields.gate)));
    }
    let started = Timestamp::from_rfc3339(&fields.started)
        .ok_or_else(|| HeaderError::NotUnderstood("`started` is no time in RFC 3339".to_owned()))?;
    Ok(ReportHeader {
        gate,
        verdict,
        repo: fields.repo,
        base: fields.base,
        head: fields.head,
        tree: fields.tree,
        run: fields.run,
        tools: fields.tools,
        started,
        duration: Millis(fields.duration_ms),
        counts: fields.counts,
        notes: fields.notes,
    })
}
