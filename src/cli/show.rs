//! Answers as people read them: tables, facts, one task, one receipt.
//!
//! Owns the layout only; what is said comes from the domain's views. Times are UTC, unknown numbers are shown as unknown.

use orch_domain::agent::Usage;
use orch_domain::ids::RunId;
use orch_domain::stop::{Receipt, StepResult};
use orch_domain::time::Timestamp;
use orch_domain::view::{TaskDetail, TaskView, Why};

use super::output::clean;
use crate::config::money_text;

/// Rows under a heading, columns as wide as their widest cell, the last one open.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            out.push_str(cell);
            out.push_str(&" ".repeat(width - cell.chars().count() + 2));
        }
        out.trim_end().to_owned() + "\n"
    };
    let mut out = line(heads.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

/// At most so many characters, with a mark where it was cut; one line.
pub(super) fn short(text: &str, most: usize) -> String {
    // Cleaned here already: what is made visible must count towards the column's width.
    let one_line = clean(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    match one_line.chars().count() > most {
        true => one_line.chars().take(most.saturating_sub(1)).chain(['\u{2026}']).collect(),
        false => one_line,
    }
}

/// A time to the second, UTC.
pub(super) fn time(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(..19).map_or(text.clone(), |t| t.replace('T', " "))
}

/// Tokens and money as reported.
pub(super) fn spent(usage: &Usage) -> String {
    let number = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let cost = usage.cost_micro_usd.map_or_else(|| "cost unknown".to_owned(), |c| format!("${}", money_text(c)));
    match (usage.input_tokens, usage.output_tokens) {
        (None, None) => format!("tokens unknown, {cost}"),
        (input, output) => format!("{} tokens in, {} out, {cost}", number(input), number(output)),
    }
}

/// The list of tasks.
pub(super) fn tasks(tasks: &[TaskView]) -> String {
    if tasks.is_empty() {
        return "no tasks\n".to_owned();
    }
    let row = |t: &TaskView| {
        vec![
            t.key.to_string(),
            t.repo.to_string(),
            t.stage.to_string(),
            t.status.as_str().to_owned(),
            short(&t.title, 40),
            short(&t.doing, 60),
        ]
    };
    table(&["TASK", "REPO", "STAGE", "STATUS", "TITLE", "DOING"], &tasks.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn facts(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// Why a task is where it is.
pub(super) fn why(why: &Why) -> String {
    let mut pairs = vec![
        ("task", why.key.to_string()),
        ("status", why.status.as_str().to_owned()),
        ("waits for", why.waits_for.clone()),
    ];
    if let Some(holder) = &why.held_by {
        pairs.push(("held by", holder.clone()));
    }
    pairs.push(("since", time(why.since)));
    pairs.push(("ends by", why.ends_by.clone()));
    if let Some(hint) = &why.hint {
        pairs.push(("you can", hint.clone()));
    }
    facts(&pairs)
}

/// One task with everything about it.
pub(super) fn task(detail: &TaskDetail) -> String {
    let task = &detail.task;
    let mut pairs = vec![
        ("task", format!("{} (life {})", task.key, task.generation)),
        ("title", task.title.clone()),
        ("repository", task.repo.to_string()),
        ("pipeline", task.pipeline.clone()),
        ("stage", task.stage.to_string()),
        ("status", format!("{}, since {}", task.status.as_str(), time(task.since))),
        ("doing", detail.why.waits_for.clone()),
        ("branch", task.branch.to_string()),
    ];
    if let Some(head) = &task.head {
        pairs.push(("head", head.short().to_owned()));
    }
    if let Some(landed) = &task.landed {
        pairs.push(("landed", format!("{} at {}", landed.sha.short(), time(landed.at))));
    }
    let attempts = &task.attempts;
    pairs.push((
        "attempts",
        format!(
            "{} runs, {} sent back, {} interrupted",
            attempts.runs,
            attempts.developer_retries + attempts.conflicts,
            attempts.interrupted + attempts.interrupted_checks
        ),
    ));
    pairs.push(("spent", format!("{}, {} of agent time", spent(&task.usage), task.agent_wall_ms)));
    if !detail.depends_on.is_empty() {
        let keys: Vec<String> = detail.depends_on.iter().map(ToString::to_string).collect();
        pairs.push(("depends on", keys.join(", ")));
    }
    let mut out = facts(&pairs);
    if let Some(findings) = &detail.findings {
        out.push_str("\nlast findings\n");
        for line in self::findings(findings, FINDINGS) {
            out.push_str(&format!("  {line}\n"));
        }
    }
    if !detail.runs.is_empty() {
        let rows: Vec<Vec<String>> = detail
            .runs
            .iter()
            .map(|r| {
                let ended = r.ended.map_or_else(|| "-".to_owned(), |at| at.since(r.started).to_string());
                let outcome = r.outcome.clone().unwrap_or_else(|| "running".to_owned());
                vec![
                    number_of(&r.run),
                    r.attempt.to_string(),
                    r.stage.to_string(),
                    r.kind.clone(),
                    time(r.started),
                    ended,
                    short(&outcome, 60),
                ]
            })
            .collect();
        out.push('\n');
        out.push_str(&table(&["RUN", "TRY", "STAGE", "KIND", "STARTED", "TOOK", "OUTCOME"], &rows));
    }
    out
}

/// The number at the end of a run's id, as logs and the journal have it: `r3`.
fn number_of(run: &RunId) -> String {
    run.as_str().rfind('r').map_or_else(|| run.to_string(), |at| run.as_str()[at..].to_owned())
}

/// Lines of findings that are shown of a task.
const FINDINGS: usize = 40;
/// Lines of them in the last words of a run.
pub(super) const FINDINGS_IN_SHORT: usize = 20;

/// Findings in at most so many lines, and one that counts what is left out between: what they are about stands at their
/// beginning, why at their end.
pub(super) fn findings(text: &str, most: usize) -> Vec<String> {
    let all: Vec<&str> = text.trim_end().lines().collect();
    let own = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    if all.len() <= most {
        return own(&all);
    }
    let (head, tail) = (most / 3, most - most / 3);
    let left_out = format!("({} lines are left out)", all.len() - most);
    [own(&all[..head]), vec![left_out], own(&all[all.len() - tail..])].concat()
}

/// The proof of a STOP.
pub(super) fn receipt(receipt: &Receipt) -> String {
    let mut out = facts(&[
        ("task", format!("{} (life {})", receipt.key, receipt.generation)),
        ("stop", format!("recorded {} by {} ({})", time(receipt.requested), receipt.by, receipt.source)),
        ("outcome", receipt.outcome.clone()),
    ]);
    out.push('\n');
    let row = |line: &orch_domain::stop::ReceiptLine| {
        let (word, text) = match &line.result {
            StepResult::Done { proof } => ("done", proof),
            StepResult::Nothing { proof } => ("nothing to do", proof),
            StepResult::Kept { because } => ("kept", because),
            StepResult::Pending { why } => ("pending", why),
            StepResult::Unproven { why } => ("UNPROVEN", why),
        };
        vec![line.step.as_str().to_owned(), word.to_owned(), time(line.at), text.clone()]
    };
    out.push_str(&table(
        &["STEP", "RESULT", "AT", "PROOF OR REASON"],
        &receipt.lines.iter().map(row).collect::<Vec<_>>(),
    ));
    out
}
