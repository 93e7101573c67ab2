//! Test counts: reading them from the closing lines of known test runners, and judging a test run by them.
//!
//! Owns the rule of DESIGN 9: exit code *and* counts, and at least one test must have run. Invariants: whatever the
//! output says, it never turns a failed exit code into a pass; counts that cannot be read are unknown, not zero. The
//! output is the branch's own: counting guards against drift (a suite that silently runs nothing), not against malice.
//! Refuses to read files: JUnit XML is summed in `adapters/reports/junit`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::job::JobEnd;

/// How many tests there were, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Ran and good.
    pub passed: u64,
    /// Ran and bad, errors included.
    pub failed: u64,
    /// Did not run: skipped, ignored, pending; expected failures are counted here as most runners do.
    pub skipped: u64,
    /// All of them.
    pub total: u64,
}

impl Counts {
    /// Counts of these outcomes; the total is their sum.
    #[must_use]
    pub const fn of(passed: u64, failed: u64, skipped: u64) -> Self {
        let total = passed.saturating_add(failed).saturating_add(skipped);
        Self { passed, failed, skipped, total }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self::of(
            self.passed.saturating_add(other.passed),
            self.failed.saturating_add(other.failed),
            self.skipped.saturating_add(other.skipped),
        )
    }

    /// How many really ran.
    #[must_use]
    pub const fn ran(self) -> u64 {
        self.passed.saturating_add(self.failed)
    }
}

impl fmt::Display for Counts {
    /// Such as `412 tests: 410 passed, 2 skipped`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.total == 1 { "test" } else { "tests" };
        write!(f, "{} {noun}: {} passed", self.total, self.passed)?;
        if self.failed > 0 {
            write!(f, ", {} failed", self.failed)?;
        }
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

// ------------------------------------------------------------------------------------------------------- the rule

/// Why a command showed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoAnswer {
    /// The shell did not find the command, or may not execute it (exit 126 and 127).
    NotFound,
    /// The job could not be started at all.
    NotStarted,
    /// Its time was over, or it was silent for too long.
    TimedOut,
    /// Ended from outside: by a signal, a limit, or because its guard was lost.
    Killed,
    /// Ended by us: STOP, drain, a caller that went away.
    Cancelled,
}

/// What a command's end amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Conclusive and good.
    Passed {
        /// Such as `412 tests: 412 passed`.
        note: String,
    },
    /// Conclusive and bad.
    Failed {
        /// One line; the findings follow it.
        why: String,
    },
    /// Nothing can be concluded.
    CouldNotRun {
        /// Which sort.
        reason: NoAnswer,
        /// One line.
        why: String,
    },
}

/// Signals by which a program reports its own crash: an outcome of the code under test, not trouble of ours.
const CRASHES: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];

/// Judges a test command.
#[must_use]
pub fn judge_tests(end: &JobEnd, counts: Option<Counts>) -> Judged {
    match (judge_command(end), counts) {
        (Judged::Passed { .. }, None) => Judged::Passed { note: "exit code 0; test count unknown".to_owned() },
        (Judged::Passed { .. }, Some(counts)) if counts.failed > 0 => {
            Judged::Failed { why: format!("the command exited with 0 although tests failed ({counts})") }
        }
        (Judged::Passed { .. }, Some(counts)) if counts.ran() == 0 => Judged::Failed { why: no_test_ran(counts) },
        (Judged::Passed { .. }, Some(counts)) => Judged::Passed { note: counts.to_string() },
        (Judged::Failed { why }, Some(counts)) if counts.ran() == 0 => {
            Judged::Failed { why: format!("{} ({why})", no_test_ran(counts)) }
        }
        (Judged::Failed { why }, Some(counts)) => Judged::Failed { why: format!("{why}; {counts}") },
        (other, _) => other,
    }
}

fn no_test_ran(counts: Counts) -> String {
    match counts.skipped {
        0 => "no test ran".to_owned(),
        skipped => format!("no test ran: {skipped} skipped"),
    }
}

/// Judges any command by its end alone.
#[must_use]
pub fn judge_command(end: &JobEnd) -> Judged {
    let no_answer = |reason, why: String| Judged::CouldNotRun { reason, why };
    match end {
        JobEnd::Exited { code: 0 } => Judged::Passed { note: "exit code 0".to_owned() },
        JobEnd::Exited { code: 126 } => {
            no_answer(NoAnswer::NotFound, "exit code 126: the command may not be executed".to_owned())
        }
        JobEnd::Exited { code: 127 } => {
            no_answer(NoAnswer::NotFound, "exit code 127: the command was not found".to_owned())
        }
        // A shell tells of a child's signal by 128 + its number.
        JobEnd::Exited { code } if matches!(code, 137 | 143) => no_answer(
            NoAnswer::Killed,
            format!("exit code {code}: it was killed by signal {} (out of memory?)", code - 128),
        ),
        JobEnd::Exited { code } => Judged::Failed { why: format!("exit code {code}") },
        JobEnd::Signalled { signal } if CRASHES.contains(signal) => {
            Judged::Failed { why: format!("it crashed with signal {signal}") }
        }
        JobEnd::Signalled { signal } => no_answer(NoAnswer::Killed, format!("it was killed by signal {signal}")),
        JobEnd::TimedOut => no_answer(NoAnswer::TimedOut, "its time limit was over".to_owned()),
        JobEnd::Stalled => no_answer(NoAnswer::TimedOut, "it was silent for longer than allowed".to_owned()),
        JobEnd::OverLimit { what } => no_answer(NoAnswer::Killed, format!("it went over a limit: {what}")),
        JobEnd::Cancelled => no_answer(NoAnswer::Cancelled, "the supervisor ended it".to_owned()),
        JobEnd::Orphaned => no_answer(NoAnswer::Killed, "its supervisor was gone".to_owned()),
        JobEnd::Lost => no_answer(NoAnswer::Killed, "its guard was lost; how it ended is not known".to_owned()),
        JobEnd::CouldNotStart { why } => no_answer(NoAnswer::NotStarted, why.clone()),
    }
}

/// Why the runner that a shell line asks for is not there, where that shows: `python3 -m pytest` tells it with the exit code
/// of failing tests. `None`: it ran, or nothing shows that it did not.
///
/// Only for the line's own `-m MODULE`, and only where it is the last that was said: a test that misses a module of its own
/// says so in other words, and goes on.
#[must_use]
pub fn absent_runner(line: &str, end: &JobEnd, tail: &str) -> Option<String> {
    if *end != (JobEnd::Exited { code: 1 }) {
        return None;
    }
    let said = tail.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let (python, module) = said.split_once(": No module named ")?;
    let interpreter = python.rsplit('/').next().is_some_and(|name| name.starts_with("python"));
    // By its path, which may hold anything, or by its name; not at the end of somebody's sentence.
    let named = python.starts_with('/') || !python.contains(char::is_whitespace);
    let words: Vec<&str> = line.split_whitespace().collect();
    let asked = words.windows(2).any(|pair| pair[0] == "-m" && pair[1] == module);
    (interpreter && named && asked).then(|| said.to_owned())
}

// -------------------------------------------------------------------------------------------------- reading output

/// The counts that the closing lines of known runners tell, summed over all runners and runs in the output; `None`
/// when there is no line that we know.
#[must_use]
pub fn counts_from_output(output: &str) -> Option<Counts> {
    let mut reading = Reading::default();
    for line in output.lines() {
        let line = plain(line);
        reading.line(line.trim_end());
    }
    reading.finish()
}

/// The line without terminal escapes and control characters; tabs stay.
#[must_use]
pub fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            // Colour and cursor sequences: everything up to the final letter.
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    let _ = chars.find(|c| c.is_ascii_alphabetic());
                }
            }
            c if c.is_control() && c != '\t' => {}
            c => out.push(c),
        }
    }
    out
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    /// Sum over lines that hold all their numbers.
    whole: Option<Counts>,
    /// Runners that tell one number a line.
    listed: Listed,
    /// `Ran N tests`, waiting for the line with the outcome.
    unittest: Option<u64>,
    /// Single tests: `--- PASS`, go's JSON.
    single: Option<Counts>,
    /// Lines of the Test Anything Protocol.
    tap: Option<Counts>,
    /// Last line of the form `3 passed, 1 failed`.
    generic: Option<Counts>,
    /// Runners that say that there was nothing to run.
    nothing: bool,
    /// Runners that say that something ran, without a number.
    uncounted: bool,
}

/// Outcomes told one a line, by which word.
#[derive(Default)]
struct Listed {
    seen: bool,
    counts: Counts,
}

impl Reading {
    fn line(&mut self, line: &str) {
        if let Some(total) = self.unittest
            && let Some(counts) = unittest_outcome(line, total)
        {
            self.unittest = None;
            return add(&mut self.whole, counts);
        }
        if let Some(total) = unittest_total(line) {
            self.unittest = Some(total);
            return;
        }
        let whole: [fn(&str) -> Option<Counts>; 9] =
            [pytest, cargo, nextest, jest, vitest, ctest, surefire, dotnet, examples];
        if let Some(counts) = whole.iter().find_map(|read| read(line)) {
            return add(&mut self.whole, counts);
        }
        if let Some(counts) = go_test(line) {
            return add(&mut self.single, counts);
        }
        if let Some(counts) = listed(line) {
            self.listed.seen = true;
            self.listed.counts = self.listed.counts.plus(counts);
            return;
        }
        if let Some(counts) = tap(line) {
            return add(&mut self.tap, counts);
        }
        if line.starts_with("No tests were found!!!")
            || line.ends_with("[no test files]")
            || line.ends_with("[no tests to run]")
        {
            self.nothing = true;
        } else if line.strip_prefix("ok").is_some_and(|rest| rest.starts_with(['\t', ' ']) && rest.contains('\t')) {
            self.uncounted = true;
        } else if let Some(counts) = generic(line) {
            self.generic = Some(counts);
        }
    }

    fn finish(self) -> Option<Counts> {
        // Cut off between `Ran N tests` and its outcome: N is known, the outcome is the exit code's to tell.
        let unittest = self.unittest.map(|total| Counts::of(total, 0, 0));
        let listed = self.listed.seen.then_some(self.listed.counts);
        let known = [self.whole, unittest, listed, self.single].into_iter().flatten().reduce(Counts::plus);
        let known = known.or(self.tap).or(self.generic);
        known.or_else(|| (self.nothing && !self.uncounted).then(Counts::default))
    }
}

fn add(sum: &mut Option<Counts>, counts: Counts) {
    *sum = Some(sum.unwrap_or_default().plus(counts));
}

/// Reads `3 passed`, `1 failed` and the like out of the parts of a line; unknown words make the whole line unknown.
fn parts(text: &str, separators: &[char]) -> Option<Counts> {
    let mut counts = Counts::default();
    let mut any = false;
    let text = without_parentheses(text);
    for part in text.split(separators).map(str::trim).filter(|part| !part.is_empty()) {
        let (number, word) = part.split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        let word = word.trim();
        any |= !matches!(word, "warning" | "warnings" | "total");
        counts = counts.plus(outcome(word, number)?);
    }
    any.then_some(counts)
}

/// Without remarks such as nextest's `(1 slow, 1 flaky)`.
fn without_parentheses(text: &str) -> String {
    let mut depth = 0_u32;
    let keep = |c: &char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    text.chars().filter(keep).collect()
}

fn outcome(word: &str, number: u64) -> Option<Counts> {
    Some(match word {
        "passed" | "pass" | "passing" | "xpassed" => Counts::of(number, 0, 0),
        "failed" | "fail" | "failing" | "failure" | "failures" | "error" | "errors" | "timed out" => {
            Counts::of(0, number, 0)
        }
        "skipped" | "skip" | "skips" | "ignored" | "pending" | "todo" | "xfailed" => Counts::of(0, 0, number),
        "deselected" | "warning" | "warnings" | "rerun" | "measured" | "filtered out" | "total" => Counts::default(),
        _ => return None,
    })
}

/// `=== 1 failed, 2 passed, 1 skipped in 0.12s ===`, with or without the frame.
fn pytest(line: &str) -> Option<Counts> {
    let inner = line.trim_matches(['=', ' ']);
    let (text, time) = inner.rsplit_once(" in ")?;
    let seconds = time.split(" (").next()?.strip_suffix('s')?;
    if !seconds.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    if text == "no tests ran" {
        return Some(Counts::default());
    }
    parts(text, &[','])
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`
fn cargo(line: &str) -> Option<Counts> {
    let rest = line.trim_start().strip_prefix("test result: ")?;
    let (_, numbers) = rest.split_once(". ")?;
    let numbers = numbers.split("; finished in").next().unwrap_or(numbers);
    parts(numbers, &[';'])
}

/// `Summary [   0.2s] 5 tests run: 4 passed (1 slow), 1 failed, 2 skipped`
fn nextest(line: &str) -> Option<Counts> {
    let rest = line.trim_start().strip_prefix("Summary [")?;
    let (_, numbers) = rest.split_once("run: ")?;
    parts(numbers, &[','])
}

/// `Tests:       1 failed, 2 passed, 3 total`; PHPUnit writes `Tests: 5, Assertions: 9, Failures: 1.`
fn jest(line: &str) -> Option<Counts> {
    let rest = line.trim_start().strip_prefix("Tests:")?.trim();
    if let Some(counts) = parts(rest, &[',']) {
        return Some(counts);
    }
    let (total, rest) = rest.split_once(',')?;
    let total: u64 = total.trim().parse().ok()?;
    keyed(rest.trim_end_matches('.'), total)
}

/// `Tests  1 failed | 2 passed (3)`
fn vitest(line: &str) -> Option<Counts> {
    let rest = line.trim_start().strip_prefix("Tests  ")?.trim();
    if rest == "no tests" {
        return Some(Counts::default());
    }
    let (numbers, _) = rest.rsplit_once(" (")?;
    parts(numbers, &['|'])
}

/// `100% tests passed, 0 tests failed out of 5`
fn ctest(line: &str) -> Option<Counts> {
    let (_, rest) = line.split_once("% tests passed, ")?;
    let (failed, total) = rest.split_once(" tests failed out of ")?;
    let (failed, total): (u64, u64) = (failed.parse().ok()?, total.trim().parse().ok()?);
    Some(Counts::of(total.checked_sub(failed)?, failed, 0))
}

/// `Tests run: 5, Failures: 0, Errors: 0, Skipped: 1`; lines of single classes also tell their time and are left out.
fn surefire(line: &str) -> Option<Counts> {
    let (_, rest) = line.split_once("Tests run: ")?;
    if rest.contains("Time elapsed") {
        return None;
    }
    let (total, rest) = rest.split_once(',')?;
    keyed(rest, total.trim().parse().ok()?)
}

/// `Passed!  - Failed:     0, Passed:     5, Skipped:     0, Total:     5, Duration: 12 ms`
fn dotnet(line: &str) -> Option<Counts> {
    let rest = line.trim_start();
    let rest = rest.strip_prefix("Passed!").or_else(|| rest.strip_prefix("Failed!"))?;
    let rest = rest.trim_start().strip_prefix("- ")?;
    let total = rest.split(',').find_map(|part| part.trim().strip_prefix("Total:"))?.trim().parse().ok()?;
    keyed(rest, total)
}

/// `Failures: 1, Errors: 0, Skipped: 2` against a known total; other keys are not counts of outcomes.
fn keyed(text: &str, total: u64) -> Option<Counts> {
    let (mut failed, mut skipped) = (0_u64, 0_u64);
    for part in text.split(',') {
        let Some((key, value)) = part.split_once([':', '=']) else { continue };
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "failures" | "failed" | "errors" | "unexpected successes" => {
                failed = failed.checked_add(value.parse().ok()?)?
            }
            "skipped" | "incomplete" | "expected failures" => skipped = skipped.checked_add(value.parse().ok()?)?,
            _ => {}
        }
    }
    let passed = total.checked_sub(failed.checked_add(skipped)?)?;
    Some(Counts::of(passed, failed, skipped))
}

/// `5 examples, 1 failure, 1 pending`; `5 runs, 9 assertions, 1 failures, 0 errors, 1 skips`; `OK (5 tests, 9 assertions)`
fn examples(line: &str) -> Option<Counts> {
    let text = line.trim();
    let text = text.strip_prefix("OK (").and_then(|rest| rest.strip_suffix(')')).unwrap_or(text);
    let (total, rest) = text.split_once(' ')?;
    let total: u64 = total.parse().ok()?;
    let (noun, rest) = rest.split_once(", ")?;
    if !matches!(noun, "example" | "examples" | "runs" | "test" | "tests") {
        return None;
    }
    let (mut failed, mut skipped) = (0_u64, 0_u64);
    for part in rest.split(", ") {
        let (number, word) = part.split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        match word {
            "failure" | "failures" | "errors" => failed = failed.checked_add(number)?,
            "pending" | "skips" => skipped = skipped.checked_add(number)?,
            "assertion" | "assertions" => {}
            _ => return None,
        }
    }
    Some(Counts::of(total.checked_sub(failed.checked_add(skipped)?)?, failed, skipped))
}

/// `Ran 5 tests in 0.001s`
fn unittest_total(line: &str) -> Option<u64> {
    let (number, rest) = line.strip_prefix("Ran ")?.split_once(' ')?;
    (rest.starts_with("test in ") || rest.starts_with("tests in ")).then(|| number.parse().ok())?
}

/// `OK`, `OK (skipped=1)`, `FAILED (failures=1, errors=2)`, `NO TESTS RAN`
fn unittest_outcome(line: &str, total: u64) -> Option<Counts> {
    let details = |rest: &str| {
        let rest = rest.trim();
        let inner = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(rest);
        keyed(inner, total)
    };
    match line {
        "OK" => Some(Counts::of(total, 0, 0)),
        "NO TESTS RAN" => Some(Counts::default()),
        _ => line.strip_prefix("OK ").or_else(|| line.strip_prefix("FAILED ")).and_then(details),
    }
}

/// `--- PASS: TestX (0.00s)` of a test that is no part of another, and the same in JSON.
fn go_test(line: &str) -> Option<Counts> {
    if let Some(rest) = line.strip_prefix("--- ") {
        let (word, _) = rest.split_once(": ")?;
        return match word {
            "PASS" => Some(Counts::of(1, 0, 0)),
            "FAIL" => Some(Counts::of(0, 1, 0)),
            "SKIP" => Some(Counts::of(0, 0, 1)),
            _ => None,
        };
    }
    if !line.starts_with('{') || !line.contains("\"Action\"") {
        return None;
    }
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    let test = event.get("Test")?.as_str()?;
    if test.contains('/') {
        return None;
    }
    match event.get("Action")?.as_str()? {
        "pass" => Some(Counts::of(1, 0, 0)),
        "fail" => Some(Counts::of(0, 1, 0)),
        "skip" => Some(Counts::of(0, 0, 1)),
        _ => None,
    }
}

/// Runners that tell one number a line: node (`# pass 4`, `ℹ fail 0`), automake (`# PASS:  4`), mocha (`4 passing (1s)`),
/// bun (`4 pass`).
fn listed(line: &str) -> Option<Counts> {
    let text = line.trim();
    if let Some(rest) = text.strip_prefix("# ").or_else(|| text.strip_prefix("ℹ ")) {
        let (word, number) = rest.split_once(' ')?;
        let number: u64 = number.trim().parse().ok()?;
        return match word {
            "pass" | "PASS:" | "XPASS:" => Some(Counts::of(number, 0, 0)),
            "fail" | "cancelled" | "FAIL:" | "ERROR:" => Some(Counts::of(0, number, 0)),
            "skipped" | "todo" | "SKIP:" | "XFAIL:" => Some(Counts::of(0, 0, number)),
            _ => None,
        };
    }
    let (number, word) = text.split_once(' ')?;
    let number: u64 = number.parse().ok()?;
    let word = word.split(" (").next().unwrap_or(word);
    match word {
        "passing" | "pass" => Some(Counts::of(number, 0, 0)),
        "failing" | "fail" => Some(Counts::of(0, number, 0)),
        "pending" | "skip" => Some(Counts::of(0, 0, number)),
        _ => None,
    }
}

/// `ok 1 - name`, `not ok 2 name`, `ok 3 # skip why`
fn tap(line: &str) -> Option<Counts> {
    let (good, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let number = rest.split(' ').next()?;
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let lower = rest.to_ascii_lowercase();
    Some(match (good, lower.contains("# skip") || lower.contains("# todo")) {
        (_, true) => Counts::of(0, 0, 1),
        (true, false) => Counts::of(1, 0, 0),
        (false, false) => Counts::of(0, 1, 0),
    })
}

/// Any line that is only made of `N passed`, `N failed` and the like, and names what passed.
fn generic(line: &str) -> Option<Counts> {
    let text = line.trim().trim_end_matches('.');
    (text.contains("passed") || text.contains("failed")).then(|| parts(text, &[',', ';', '|']))?
}

#[cfg(test)]
mod tests;
