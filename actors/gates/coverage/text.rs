//! What the coverage gate says: findings for the next prompt, the report's body, notes.
//!
//! Owns the words. Invariants: shares are rounded down and stand beside their raw numbers; paths and messages of the branch
//! are fenced or cleaned; lists are bounded. Refuses to compute anything that a verdict rests on.

use orch_domain::coverage::{About, Comparison, FileDelta, Judgement, Totals, percent, percent_pair};
use orch_domain::ids::CommitSha;
use orch_domain::names::RepoPath;

use super::named::Named;
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

/// What the branch changes about coverage, for the reviewer. `own`: what it has by its own settings, where it was judged by
/// base's.
pub(super) fn settings(plan: &Plan, own: Option<Totals>) -> Option<String> {
    let files = plan.changes()?;
    let judged = own.map_or_else(String::new, |own| {
        format!("; it was judged by base's, and has {} ({own}) by its own, which hold once it has landed", percent(own))
    });
    Some(format!("the branch changes coverage settings ({files}){judged}"))
}

/// Why only the minimum held, for people.
pub(super) fn unheld(plan: &Plan, why: &str) -> String {
    format!(
        "the branch changes coverage settings ({}), and base's could not measure it ({why}): it was measured by its own",
        plan.changes().unwrap_or_default()
    )
}

/// Why totals were not compared, for people.
pub(super) fn by_lines(why: &str) -> String {
    format!(
        "coverage was compared only in lines that both settings or tools count, and the baseline stays as it is: {why}"
    )
}

/// Files that the settings of the branch do not count any more.
pub(super) fn left_out(files: &[RepoPath]) -> String {
    let named: Vec<&str> = files.iter().take(MOST_FILES).map(|path| path.as_str()).collect();
    let more = files.len().saturating_sub(MOST_FILES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("files are not measured any more although they are still there: {}{more}", named.join(", "))
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

/// Changed files of which only totals are compared.
pub(super) fn unmapped(compared: &Comparison) -> Option<String> {
    let all: Vec<&str> = compared.unmapped.iter().map(|path| path.as_str()).collect();
    let more = all.len().saturating_sub(MOST_FILES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = all.iter().take(MOST_FILES).copied().collect::<Vec<_>>().join(", ");
    let text = "changed, and not compared line by line since they are binary or too large";
    (!all.is_empty()).then(|| format!("{text}: {named}{more}"))
}

/// What to do about a missing report.
pub(super) fn no_report(plan: &Plan) -> String {
    format!(
        "`{}` must leave a report in a known format (coverage.py's JSON, LCOV, Cobertura). Usual causes: the tests end the process early (`os._exit`), coverage is switched off (`--no-cov`), or the measured path does not exist.",
        plan.measuring.line
    )
}

/// Command and where it comes from.
pub(super) fn command(plan: &Plan) -> String {
    format!("Command, {}:\n\n{}\n", plan.measuring.why, fenced(&plan.measuring.line))
}

/// What the next prompt says; the first line is what people see in passing. `on`: the measured commit, and what it stands
/// on.
pub(super) fn findings(judged: &Judgement, named: &Named, notes: &[String], on: (&CommitSha, &CommitSha)) -> String {
    let compared = &named.compared;
    let mut text = format!("Line coverage: {}.\n", judged.text());
    let lost: Vec<&FileDelta> = compared.files.iter().filter(|file| file.lost.count() > 0).collect();
    if !lost.is_empty() {
        let since = since(named).map_or_else(String::new, |since| format!(" ({since})"));
        text.push_str(&format!("\nLines that were covered{since} and are not any more:\n"));
        text.push_str(&list(&lost, |file| match file.vanished {
            true => format!("{}: not measured any more ({} lines were covered)", file.path, file.lost.count()),
            false => format!("{}: {} (now {}, before {})", file.path, file.lost, file.after, file.before),
        }));
    }
    if lost.is_empty() && !named.troubles.is_empty() {
        text.push_str("\nWhich lines fell is not known:\n");
        text.push_str(&list(&named.troubles, Clone::clone));
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

fn since(named: &Named) -> Option<String> {
    named.since.as_ref().map(|sha| format!("at {}", sha.short()))
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
    named: &Named,
) -> String {
    let compared = &named.compared;
    let mut body = command(plan);
    body.push_str(&format!("{}\n", fenced(&judged.text())));
    body.push_str(&table(judged, now, before, compared.added));
    if !compared.files.is_empty() {
        let since = since(named).map_or_else(String::new, |since| format!(" (before: {since})"));
        body.push_str(&format!("\nFiles that changed most{since}:\n\n"));
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

/// The totals, with shares written as the sentence above them writes them.
fn table(judged: &Judgement, now: Totals, before: Option<(Totals, &CommitSha)>, added: Totals) -> String {
    let row = |what: &str, totals: Totals, share: &str| {
        format!("| {what} | {} | {} | {share} |\n", totals.covered(), totals.total())
    };
    let rows = match before {
        None => row("head", now, &percent(now)),
        Some((totals, sha)) => {
            let (share, share_before) = judged.shares(now, totals);
            row("head", now, &share) + &row(&format!("compared with {}", sha.short()), totals, &share_before)
        }
    };
    let added = row("added lines", added, &percent(added));
    format!("| | covered | counted | share |\n| --- | --- | --- | --- |\n{rows}{added}")
}

#[cfg(test)]
mod tests {
    use orch_domain::coverage::{CoveragePolicy, Reason, judge};
    use proptest::prelude::*;

    use super::*;

    /// The share in a row of the table, in points with 30 decimals.
    fn shown(table: &str, row: &str) -> u128 {
        let line = table.lines().find(|line| line.starts_with(&format!("| {row}"))).expect("a row");
        let share = line.split('|').nth(4).expect("a share").trim().trim_end_matches(" %");
        let (whole, part) = share.split_once('.').expect("decimals");
        format!("{whole}{part:0<30}").parse().expect("digits")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whoever reads only the table, or only the findings, comes to the verdict.
        #[test]
        fn table_and_findings_lead_to_the_verdict_of_the_sentence(
            (covered, total) in (1..2_000_000_u64).prop_flat_map(|total| (0..=total, Just(total))),
            other in 1..2_000_000_u64,
            epsilon_bp in 0..300_u32,
            off in 0..5_i64,
        ) {
            // As near to the limit as whole lines allow.
            let limit = u128::from(covered) * u128::from(other) / u128::from(total);
            let limit = limit.saturating_sub(u128::from(epsilon_bp) * u128::from(other) / 10_000);
            let near = u64::try_from(limit).expect("not above all lines").saturating_add_signed(off - 2).min(other);
            let totals = |covered, total| Totals::new(covered, total).expect("possible");
            let (now, before) = (totals(near, other), totals(covered, total));
            let judged = judge(&CoveragePolicy { epsilon_bp, ..CoveragePolicy::default() }, now, Some(before));
            let sha = "a".repeat(40).parse().expect("hex");
            let table = table(&judged, now, Some((before, &sha)), Totals::default());
            let (share, share_before) = (shown(&table, "head"), shown(&table, "compared"));
            let fails = share_before > share + u128::from(epsilon_bp) * 10_u128.pow(28);
            prop_assert_eq!(fails, !judged.passes(), "{}{}", table, judged.text());
            let findings = findings(&judged, &Named::default(), &[], (&sha, &sha));
            for reason in judged.reasons.iter().filter(|reason| !matches!(reason, Reason::NoBaseline)) {
                prop_assert!(findings.contains(&reason.text()), "{findings}");
            }
            let (now, before) = judged.shares(now, before);
            prop_assert!(findings.contains(&now) && findings.contains(&before), "{findings}{table}");
        }
    }
}
