//! What the coverage gate says: findings for the next prompt, the report's body, notes.
//!
//! Owns the words. Invariants: shares are rounded down and stand beside their raw numbers; paths and messages of the branch
//! are fenced or cleaned; lists are bounded. Refuses to compute anything that a verdict rests on.

use orch_domain::coverage::{About, Comparison, FileDelta, Judgement, Totals, percent, percent_pair};
use orch_domain::ids::CommitSha;

use super::plan::Plan;
use crate::gates::conclude::fenced;

/// Most files that one list names.
const MOST_FILES: usize = 20;

/// A tool in words.
pub(super) fn tool(about: &About) -> String {
    about.tool.clone().unwrap_or_else(|| format!("a tool that writes {}", about.format))
}

/// Both runs of a near miss.
pub(super) fn twice(one: Totals, other: Totals) -> String {
    let (first, second) = percent_pair(one, other);
    format!(
        "measured twice, since the first was a near miss: {first} ({one}), then {second} ({other}); the better one counts"
    )
}

/// A near miss that could not be measured again.
pub(super) fn no_second(one: Totals, why: &str) -> String {
    format!("a near miss ({one}) was to be measured once more, which gave nothing: {why}")
}

/// What changed about excluded lines, if more are.
pub(super) fn excluded(now: Option<u64>, before: Option<u64>) -> Option<String> {
    let (now, before) = (now?, before?);
    (now > before).then(|| format!("{} more lines are excluded from counting: {now}, before {before}", now - before))
}

/// Files that were measured and are not any more: a way to lose lines without losing share.
pub(super) fn vanished(compared: &Comparison) -> Option<String> {
    let all: Vec<&str> = compared.files.iter().filter(|file| file.vanished).map(|file| file.path.as_str()).collect();
    let more = all.len().saturating_sub(MOST_FILES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = all.iter().take(MOST_FILES).copied().collect::<Vec<_>>().join(", ");
    (!all.is_empty()).then(|| format!("measured before and not any more, although it is still there: {named}{more}"))
}

/// What to do about a missing report.
pub(super) fn no_report(plan: &Plan) -> String {
    format!(
        "`{}` must leave a report in a known format (coverage.py's JSON, LCOV, Cobertura). Usual causes: the tests end the process early (`os._exit`), coverage is switched off (`--no-cov`), or the measured path does not exist.",
        plan.line
    )
}

/// Command and where it comes from.
pub(super) fn command(plan: &Plan) -> String {
    format!("Command, {}:\n\n{}\n", plan.source, fenced(&plan.line))
}

/// What the next prompt says; the first line is what people see in passing. `on`: the measured commit, and what it stands
/// on.
pub(super) fn findings(
    judged: &Judgement,
    compared: &Comparison,
    notes: &[String],
    on: (&CommitSha, &CommitSha),
) -> String {
    let mut text = format!("Line coverage: {}.\n", judged.text());
    let lost: Vec<&FileDelta> = compared.files.iter().filter(|file| file.lost.count() > 0).collect();
    if !lost.is_empty() {
        text.push_str("\nLines that were covered and are not any more:\n");
        text.push_str(&list(&lost, |file| match file.vanished {
            true => format!("{}: not measured any more ({} lines were covered)", file.path, file.lost.count()),
            false => format!("{}: {} (now {}, before {})", file.path, file.lost, file.after, file.before),
        }));
    }
    if !compared.uncovered_added.is_empty() {
        text.push_str("\nAdded lines that no test runs:\n");
        text.push_str(&added(compared));
    }
    let about_tests: Vec<&String> = notes.iter().filter(|note| note.starts_with("the branch ")).collect();
    if !about_tests.is_empty() {
        text.push_str("\nAbout its tests and settings:\n");
        text.push_str(&list(&about_tests, |note| (*note).clone()));
    }
    let (head, base) = (on.0.short(), on.1.short());
    text.push_str(&format!("\nMeasured on {head}, which stands on {base} of main. "));
    text.push_str("Add tests for what lost coverage, or bring back tests that went.");
    text
}

fn list<T>(all: &[T], one: impl Fn(&T) -> String) -> String {
    let mut text: String = all.iter().take(MOST_FILES).map(|item| format!("- {}\n", one(item))).collect();
    if all.len() > MOST_FILES {
        text.push_str(&format!("- and {} more\n", all.len() - MOST_FILES));
    }
    text
}

fn added(compared: &Comparison) -> String {
    list(&compared.uncovered_added, |(path, lines)| format!("{path}: {lines}"))
}

/// The report below its notes.
pub(super) fn body(
    plan: &Plan,
    judged: &Judgement,
    now: Totals,
    before: Option<(Totals, &CommitSha)>,
    compared: &Comparison,
) -> String {
    let mut body = command(plan);
    body.push_str(&format!("{}\n", fenced(&judged.text())));
    body.push_str("| | covered | counted | share |\n| --- | --- | --- | --- |\n");
    let row = |what: &str, totals: Totals, share: &str| {
        format!("| {what} | {} | {} | {share} |\n", totals.covered(), totals.total())
    };
    match before {
        None => body.push_str(&row("head", now, &percent(now))),
        Some((totals, sha)) => {
            let (share, share_before) = percent_pair(now, totals);
            body.push_str(&row("head", now, &share));
            body.push_str(&row(&format!("compared with {}", sha.short()), totals, &share_before));
        }
    }
    body.push_str(&row("added lines", compared.added, &percent(compared.added)));
    if !compared.files.is_empty() {
        body.push_str("\nFiles that changed most:\n\n");
        let files = list(&compared.files, |file| {
            let lost = match (file.vanished, file.lost.count()) {
                (true, _) => "; not measured any more".to_owned(),
                (false, 0) => String::new(),
                (false, lost) => format!("; {lost} lost: {}", file.lost),
            };
            format!(
                "{}: {} of {}, before {} of {}{lost}",
                file.path,
                file.after.covered(),
                file.after.total(),
                file.before.covered(),
                file.before.total()
            )
        });
        body.push_str(&fenced(&files));
    }
    if !compared.uncovered_added.is_empty() {
        body.push_str("\nAdded lines that no test runs:\n\n");
        body.push_str(&fenced(&added(compared)));
    }
    body
}
