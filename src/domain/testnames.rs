//! Names of failed tests: reading them from what known test runners print, and telling whether two failures are the same.
//!
//! Owns the words by which findings list failed tests, and the comparison behind "base fails too" (DESIGN, promise P6): two
//! runs failed the same only when both name all their failed tests and the one's are among the other's, or when neither
//! names any and both said the same. Invariant: a list that was cut is never compared. The output is the branch's own:
//! this guards against blaming the wrong side, not against malice. Refuses to judge who has to act: that is `landing`.

use std::collections::BTreeSet;

use crate::testcount::plain;

/// Most names that are read and listed.
pub const MAX_NAMED: usize = 50;
/// Most characters of one name.
const MAX_NAME: usize = 200;
/// The line above a list of names in findings.
const HEADING: &str = "Failed tests:";
/// The line below a list that is not whole.
const MORE: &str = "- (and more)";

/// The names of failed tests that the closing lines of known runners tell, in order, each once, at most [`MAX_NAMED`] and one
/// (by which a reader sees that there are more).
#[must_use]
pub fn failed_in_output(output: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    for line in output.lines() {
        let line = plain(line);
        let Some(name) = failed_name(line.trim_end()) else { continue };
        let name: String = name.trim().chars().take(MAX_NAME).collect();
        if !name.is_empty() && seen.insert(name.clone()) {
            names.push(name);
            if names.len() > MAX_NAMED {
                break;
            }
        }
    }
    names
}

/// The name in a line that tells of one failed test.
fn failed_name(line: &str) -> Option<&str> {
    // cargo: `test a::b ... FAILED`.
    if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
        return Some(name);
    }
    let bare = line.trim_start();
    // go: `--- FAIL: TestX/case (0.00s)`.
    if let Some(rest) = bare.strip_prefix("--- FAIL: ") {
        return Some(rest.rsplit_once(" (").map_or(rest, |(name, _)| name));
    }
    // Test Anything Protocol: `not ok 3 - name`.
    if let Some(rest) = bare.strip_prefix("not ok ") {
        let (number, name) = rest.split_once(" - ").or_else(|| rest.split_once(' '))?;
        return number.bytes().all(|b| b.is_ascii_digit()).then_some(name);
    }
    // nextest: `FAIL [   0.004s] crate module::name`.
    if let Some((_, name)) = bare.strip_prefix("FAIL [").and_then(|rest| rest.split_once("] ")) {
        return Some(name);
    }
    // pytest: `FAILED tests/x.py::test_y - why`, `ERROR tests/x.py::test_y - why`.
    if let Some(rest) = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR ")) {
        let name = rest.split(" - ").next().unwrap_or(rest);
        return name.contains(".py").then_some(name);
    }
    // unittest: `FAIL: test_x (module.Class.test_x)`.
    if let Some(rest) = line.strip_prefix("FAIL: ").or_else(|| line.strip_prefix("ERROR: ")) {
        return rest.ends_with(')').then_some(rest);
    }
    // vitest: ` FAIL  file > suite > name`.
    if let Some(rest) = bare.strip_prefix("FAIL  ") {
        return rest.contains(" > ").then_some(rest);
    }
    // jest: `  ● suite › name`.
    if let Some(rest) = bare.strip_prefix("● ") {
        return rest.contains(" › ").then_some(rest);
    }
    // ctest: `  3 - name (Failed)`.
    let (number, rest) = bare.split_once(" - ")?;
    let name = rest.strip_suffix(" (Failed)").or_else(|| rest.strip_suffix(" (SEGFAULT)"))?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

/// The paragraph that lists failed tests in findings; empty when none is named. `whole`: whether these are all that failed.
#[must_use]
pub fn list(names: &[String], whole: bool) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = names.iter().take(MAX_NAMED).map(|name| format!("- {}", one_line(name))).collect();
    let more = if whole && names.len() <= MAX_NAMED { String::new() } else { format!("{MORE}\n") };
    format!("{HEADING}\n{}\n{more}\n", shown.join("\n"))
}

fn one_line(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_NAME).collect()
}

/// What a failed run of the tests is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Every failed test by its name.
    Named(BTreeSet<String>),
    /// Some have names, and there are more: nothing to compare.
    Some(BTreeSet<String>),
    /// No test is named; the words that it failed with, without what differs from run to run.
    Unnamed(String),
}

impl Failure {
    /// Reads it back from findings: whatever was written under [`list`], else the words themselves.
    #[must_use]
    pub fn of(findings: &str) -> Self {
        let mut lines = findings.lines().skip_while(|line| *line != HEADING).skip(1).peekable();
        if lines.peek().is_none() {
            return Self::Unnamed(steady(findings));
        }
        let mut names = BTreeSet::new();
        for line in lines {
            match line.strip_prefix("- ") {
                Some(_) if line == MORE => return Self::Some(names),
                Some(name) => names.insert(name.to_owned()),
                None => break,
            };
        }
        Self::Named(names)
    }

    /// The names that are known.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        match self {
            Self::Named(names) | Self::Some(names) => names.clone(),
            Self::Unnamed(_) => BTreeSet::new(),
        }
    }
}

/// Without the first line (which names the commit), digits and runs of blanks: what the same failure says each time.
fn steady(findings: &str) -> String {
    let mut out = String::with_capacity(findings.len());
    for line in findings.lines().skip(1) {
        for word in plain(line).split_whitespace() {
            out.extend(word.chars().filter(|c| !c.is_ascii_digit()));
            out.push(' ');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_runners_name_their_failed_tests() {
        let table = [
            ("test a::b ... FAILED\ntest a::c ... ok\n", vec!["a::b"]),
            ("        FAIL [   0.003s] orch-domain decide::x\n", vec!["orch-domain decide::x"]),
            (
                "FAILED tests/x.py::test_y[1-2] - assert 1 == 2\nERROR tests/z.py - boom\n",
                vec!["tests/x.py::test_y[1-2]", "tests/z.py"],
            ),
            ("--- FAIL: TestX (0.00s)\n    --- FAIL: TestX/a_(b) (0.00s)\n", vec!["TestX", "TestX/a_(b)"]),
            (
                "FAIL: test_x (m.C.test_x)\nERROR: test_y (m.C.test_y)\n",
                vec!["test_x (m.C.test_x)", "test_y (m.C.test_y)"],
            ),
            (" FAIL  src/a.test.ts > adds > one\n", vec!["src/a.test.ts > adds > one"]),
            ("  ● adds › one and one\n", vec!["adds › one and one"]),
            ("\t  3 - slow_test (Failed)\n", vec!["slow_test"]),
            ("not ok 2 - parses\nok 3 - prints\n", vec!["parses"]),
            ("\u{1b}[31mtest a ... FAILED\u{1b}[0m\ntest a ... FAILED\n", vec!["a"]),
            ("FAILED (failures=1)\nERROR could not connect\nFAIL\ttest/pkg\t0.1s\nnot ok at all\n", vec![]),
        ];
        for (output, expected) in table {
            assert_eq!(failed_in_output(output), expected, "{output}");
        }
    }

    #[test]
    fn names_go_into_findings_and_come_back_and_a_cut_list_says_so() {
        let names: Vec<String> = ["a::b", "c [x]"].map(str::to_owned).into();
        let findings =
            |whole| format!("`t` failed on abc: exit code 1\n\n{}the output\n- no name\n", list(&names, whole));
        assert_eq!(Failure::of(&findings(true)), Failure::Named(names.iter().cloned().collect()));
        assert_eq!(Failure::of(&findings(false)), Failure::Some(names.iter().cloned().collect()));
        let many: Vec<String> = (0..60).map(|n| format!("t{n}")).collect();
        assert!(matches!(Failure::of(&list(&many, true)), Failure::Some(names) if names.len() == MAX_NAMED));
        assert_eq!(list(&[], true), "");
    }

    #[test]
    fn without_names_the_words_count_but_not_what_changes_from_run_to_run() {
        let said =
            |sha: &str, ms: u32, what: &str| Failure::of(&format!("`t` failed on {sha}\n\n{what} after {ms} ms\n"));
        assert_eq!(said("abc", 12, "no port"), said("def", 345, "no port"));
        assert_ne!(said("abc", 12, "no port"), said("abc", 12, "no disk"));
    }
}
