//! The judgement in words: for the next prompt, for the report, for the warning.
//!
//! Owns the wording and its bounds. Everything from a branch or a feed is cut to one line before it is put in.

use super::judge::{Finding, Judgement};
use super::package::clip;

/// Most entries of one list that are written out.
const MOST_LISTED: usize = 50;

impl Judgement {
    /// For the one who has to mend it: what fails, where, and the way out. Empty when it passes.
    #[must_use]
    pub fn findings(&self) -> String {
        let mut text = String::new();
        if !self.new.is_empty() {
            text.push_str("The branch adds dependencies with known advisories:\n");
            list(&mut text, self.new.iter().map(line));
            text.push_str(
                "Raise each of them to a version without it, or do without the dependency, and update the lock file.\n",
            );
        }
        if self.verdict == crate::gate::Verdict::Failed && self.new.is_empty() {
            text.push_str(
                "The dependency audit could not answer for everything, and the settings demand that it does \
                 (`gates.security.dep_audit_fail_closed`):\n",
            );
            list(&mut text, self.not_known());
            text.push_str(
                "Pin each dependency in a lock file that is read; what concerns the feed is for the operator.\n",
            );
        }
        text
    }

    /// One line when something is not known; this is what must not be overlooked.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let first = self.not_known().next().filter(|_| self.degraded)?;
        let others = self.unknown.len() + self.feed_trouble.len() - 1;
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
            (self.unknown.len(), "unknown"),
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
        part("Not known", self.not_known().collect());
        part("Advisories that base has too", self.old.iter().map(line).collect());
        part("Ignored", self.ignored.iter().map(line).collect());
        part("Notices", self.notices.iter().map(line).collect());
        text
    }

    fn not_known(&self) -> impl Iterator<Item = String> {
        self.feed_trouble
            .iter()
            .map(|line| clip(line, 400))
            .chain(self.unknown.iter().map(|one| clip(&one.to_string(), 400)))
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
