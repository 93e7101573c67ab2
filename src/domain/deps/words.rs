//! The judgement in words: for the next prompt, for the report, for the warning.
//!
//! Owns the wording and its bounds. Everything from a branch or a feed is cut to one line before it is put in.

use std::collections::BTreeMap;

use super::judge::{Finding, Judgement};
use super::lockfile::Unknown;
use super::package::clip;
use crate::gate::Verdict;

/// Most entries of one list that are written out.
const MOST_LISTED: usize = 50;
/// Dependencies that are named where many share one reason.
const NAMED: usize = 3;

impl Judgement {
    /// For the one who has to mend it: what fails, where, and the way out. Empty when nothing of the branch's fails.
    #[must_use]
    pub fn findings(&self) -> String {
        let mut text = String::new();
        if !self.new.is_empty() {
            let count = self.new.len();
            let advisories = plural(count, "known advisory", "known advisories");
            text.push_str(&format!("{count} {advisories} in dependencies that this branch adds:\n\n"));
            list(&mut text, self.new.iter().map(line));
            text.push_str(
                "\nRaise each of them to a version without it, or do without the dependency, and update the lock file. What can \
                 be lived with is said on main, by a person, in `gates.security.dep_audit_ignore` of `.orch.yaml`.\n",
            );
        }
        if self.verdict == Verdict::Failed && self.new.is_empty() {
            text.push_str(
                "This branch adds what the dependency audit cannot answer for, and the settings demand that it can \
                 (`gates.security.dep_audit_fail_closed`):\n\n",
            );
            list(&mut text, self.unknown.iter().map(|one| clip(&one.to_string(), 400)));
            text.push_str("\nPin each dependency to an exact version of its registry, in a lock file that is read.\n");
        }
        text
    }

    /// Why nothing can be concluded; `None` when something is.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        (self.verdict == Verdict::CouldNotRun).then(|| {
            let mut text = "The dependency audit has no whole answer, and the settings demand one \
                            (`gates.security.dep_audit_fail_closed`):\n\n"
                .to_owned();
            list(&mut text, self.not_known().into_iter());
            text
        })
    }

    /// One line when something is not known; this is what must not be overlooked.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let all = self.not_known();
        let first = all.first().filter(|_| self.degraded)?;
        let others = all.len() - 1;
        let more = if others == 0 { String::new() } else { format!(" (and {others} more)") };
        Some(format!("the dependency audit is incomplete: {first}{more}"))
    }

    /// One line on what was found.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self { added, clean, .. } = self;
        let mut text = match added {
            0 => "no dependency is added".to_owned(),
            _ => format!("{added} {} added, {clean} clean", plural(*added, "dependency", "dependencies")),
        };
        let parts = [
            (self.new.len(), "with a new advisory"),
            (self.old.len(), "advisories that base has too"),
            (self.ignored.len(), "ignored"),
            (self.notices.len(), "notices"),
            (self.unknown.len() + self.unanswered.len(), "unknown"),
        ];
        for (number, what) in parts.iter().filter(|(number, _)| *number > 0) {
            text.push_str(&format!(", {number} {what}"));
        }
        text
    }

    /// The section of the report, in Markdown.
    #[must_use]
    pub fn section(&self) -> String {
        let mut text = format!("## Dependencies\n\n{}.\n", capital(&self.summary()));
        let mut part = |title: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                text.push_str(&format!("\n### {title}\n\n"));
                list(&mut text, lines.into_iter());
            }
        };
        part("New advisories", self.new.iter().map(line).collect());
        part("Not known", self.not_known());
        part("Advisories that base has too", self.old.iter().map(line).collect());
        part("Ignored", self.ignored.iter().map(line).collect());
        part("Notices", self.notices.iter().map(line).collect());
        text
    }

    /// Everything that is not known: the feed's part first, since it is mostly one reason for many.
    fn not_known(&self) -> Vec<String> {
        let mut by_reason: BTreeMap<&str, Vec<&Unknown>> = BTreeMap::new();
        for one in &self.unanswered {
            by_reason.entry(&one.why).or_default().push(one);
        }
        let reasons = by_reason.into_iter().map(|(why, all)| match all.as_slice() {
            [one] => clip(&one.to_string(), 400),
            many => {
                let first: Vec<&str> = many.iter().take(NAMED).map(|one| one.what.as_str()).collect();
                let more = if many.len() > NAMED { ", ..." } else { "" };
                format!("{} dependencies ({}{more}): {}", many.len(), first.join(", "), clip(why, 400))
            }
        });
        let feed = self.feed_trouble.iter().map(|line| clip(line, 400));
        feed.chain(reasons).chain(self.unknown.iter().map(|one| clip(&one.to_string(), 400))).collect()
    }
}

fn plural<'w>(number: usize, one: &'w str, many: &'w str) -> &'w str {
    if number == 1 { one } else { many }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn list(text: &mut String, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.collect();
    for line in lines.iter().take(MOST_LISTED) {
        text.push_str(&format!("- {}\n", plain(line)));
    }
    if lines.len() > MOST_LISTED {
        text.push_str(&format!("- and {} more\n", lines.len() - MOST_LISTED));
    }
}

/// Nothing of a feed's or a branch's text becomes markup, a mention or a link.
fn plain(line: &str) -> String {
    line.chars()
        .map(|c| if matches!(c, '`' | '<' | '>' | '|') { '\'' } else { c })
        .collect::<String>()
        .replace("](", "] (")
}

fn line(finding: &Finding) -> String {
    let (id, others) = finding.ids.split_first().map_or(("an advisory", &[][..]), |(id, rest)| (id.as_str(), rest));
    let mut text = format!("{} ({}): {}", finding.pin.package, finding.pin.place, clip(id, 100));
    if !others.is_empty() {
        let names: Vec<String> = others.iter().take(5).map(|other| clip(other, 100)).collect();
        text.push_str(&format!(" (also {})", names.join(", ")));
    }
    if let Some(severity) = &finding.severity {
        text.push_str(&format!(", {}", clip(severity, 60)));
    }
    if !finding.summary.is_empty() {
        text.push_str(&format!(": {}", clip(&finding.summary, 200)));
    }
    if !finding.fixed.is_empty() {
        let versions: Vec<String> = finding.fixed.iter().take(8).map(|version| clip(version, 60)).collect();
        text.push_str(&format!("; fixed in {}", versions.join(", ")));
    }
    if let Some(note) = &finding.note {
        text.push_str(&format!("; {}", clip(note, 400)));
    }
    text
}
