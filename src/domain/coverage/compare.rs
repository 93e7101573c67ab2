//! Where coverage changed between two measurements: files, lines that were covered and are not any more, added lines that
//! nothing runs.
//!
//! Owns the mapping of lines through a diff and the order in which files are named: most lost lines first. Invariant: a
//! line counts as lost only when the very same line was covered before, wherever it stood. Lists are bounded, their
//! counts are not. Refuses to judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::lines::Lines;
use super::model::{Coverage, Totals};
use crate::names::RepoPath;

/// Most ranges that one list keeps.
const MOST_RANGES: usize = 100;

/// One changed place of a file, as a diff without context tells it: line numbers from 1; with no lines on a side, the
/// start is the line after which they would stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// First line before.
    pub old_start: u32,
    /// Lines before.
    pub old_lines: u32,
    /// First line after.
    pub new_start: u32,
    /// Lines after.
    pub new_lines: u32,
}

/// How a file changed between two commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it was before; `None`: it is new.
    pub old: Option<RepoPath>,
    /// Its changed places, rising; `None`: it was not compared line by line (binary, or too large).
    pub hunks: Option<Vec<Hunk>>,
}

impl Change {
    /// Whether it is known which lines are new and which were there before.
    pub(super) const fn is_mapped(&self) -> bool {
        self.old.is_none() || self.hunks.is_some()
    }

    /// Whether a line that was there before is not any more.
    pub(super) fn took(&self, line: u32) -> bool {
        let mut hunks = self.hunks.iter().flatten().filter(|hunk| hunk.old_lines > 0);
        hunks.any(|hunk| hunk.old_start <= line && line - hunk.old_start < hunk.old_lines)
    }

    /// The number that a line had before; `None`: it is new.
    pub(super) fn before(&self, line: u32) -> Option<u32> {
        self.old.as_ref()?;
        let mut shift = 0_i64;
        for hunk in self.hunks.iter().flatten() {
            let first = |start: u32, lines: u32| i64::from(start) + i64::from(lines == 0);
            let (old, new) = (first(hunk.old_start, hunk.old_lines), first(hunk.new_start, hunk.new_lines));
            if i64::from(line) < new {
                break;
            }
            let after = new + i64::from(hunk.new_lines);
            if i64::from(line) < after {
                return None;
            }
            shift = old + i64::from(hunk.old_lines) - after;
        }
        u32::try_from(i64::from(line) + shift).ok()
    }
}

/// Line numbers as ranges, bounded; all of them are counted. A range goes on over lines that do not count (blank ones,
/// comments), so that a whole function is one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    count: u64,
    kept: Vec<(u32, u32)>,
    more: bool,
}

impl Ranges {
    /// Adds a line above all before it; `after`: the line that counts before it in its file.
    fn push(&mut self, line: u32, after: Option<u32>) {
        self.count += 1;
        let follows = |(_, last): &&mut (u32, u32)| Some(*last) == after;
        if self.more {
            return;
        }
        let full = self.kept.len() == MOST_RANGES;
        match self.kept.last_mut().filter(follows) {
            Some((_, last)) => *last = line,
            None if full => self.more = true,
            None => self.kept.push((line, line)),
        }
    }

    /// How many lines they are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }
}

impl fmt::Display for Ranges {
    /// Such as `3-5, 9`; `...` when there are more than fit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |(first, last): &(u32, u32)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let more = self.more.then(|| "...".to_owned());
        f.write_str(&self.kept.iter().map(one).chain(more).collect::<Vec<_>>().join(", "))
    }
}

/// One file before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDelta {
    /// Where it is now, or was.
    pub path: RepoPath,
    /// Its numbers before.
    pub before: Totals,
    /// Its numbers now; nothing when it is not measured any more.
    pub after: Totals,
    /// Lines (as numbered now) that were covered and are not any more.
    pub lost: Ranges,
    /// Whether it was measured before and is not any more, although it is still there.
    pub vanished: bool,
}

impl FileDelta {
    fn weight(&self) -> (u64, u64, u64) {
        let grown = self.after.uncovered().saturating_sub(self.before.uncovered());
        (self.lost.count(), grown, self.before.covered().abs_diff(self.after.covered()))
    }
}

/// Where coverage changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Files whose numbers or lines changed, those that lost most first.
    pub files: Vec<FileDelta>,
    /// Per file, the added lines that count and that nothing ran.
    pub uncovered_added: Vec<(RepoPath, Ranges)>,
    /// Over all added lines that count.
    pub added: Totals,
    /// Files that changed and were not compared line by line: of them only totals are known.
    pub unmapped: BTreeSet<RepoPath>,
}

/// Changed files by where they are now. A file that is not in it is the same in both commits.
pub type Changes = BTreeMap<RepoPath, Change>;

impl Comparison {
    /// Compares two measurements. `since`: what changed from the earlier one's commit; `gone`: files that this commit
    /// does not have any more.
    #[must_use]
    pub fn of(before: &Coverage, after: &Coverage, since: &Changes, gone: &BTreeSet<RepoPath>) -> Self {
        let (mut files, mut unmapped) = (Vec::new(), BTreeSet::new());
        let mut seen: BTreeSet<&RepoPath> = BTreeSet::new();
        for (path, lines) in &after.files {
            let change = since.get(path);
            let old = change.map_or(Some(path), |change| change.old.as_ref());
            let earlier = old.and_then(|old| before.files.get_key_value(old));
            seen.extend(earlier.map(|(old, _)| old));
            let mut lost = Ranges::default();
            let mapped = change.is_none_or(Change::is_mapped);
            if !mapped {
                unmapped.insert(path.clone());
            }
            if let Some((_, earlier)) = earlier.filter(|_| mapped) {
                let was = |line| change.map_or(Some(line), |change| change.before(line));
                let mut after = None;
                for (line, covered) in lines.iter() {
                    if !covered && was(line).and_then(|line| earlier.get(line)) == Some(true) {
                        lost.push(line, after);
                    }
                    after = Some(line);
                }
            }
            let before = earlier.map_or_else(Totals::default, |(old, _)| before.totals_of(old));
            let delta = FileDelta { path: path.clone(), before, after: after.totals_of(path), lost, vanished: false };
            if delta.before != delta.after || delta.lost.count() > 0 {
                files.push(delta);
            }
        }
        let moved: BTreeMap<&RepoPath, &RepoPath> =
            since.iter().filter_map(|(new, change)| Some((change.old.as_ref()?, new))).collect();
        for (path, lines) in before.files.iter().filter(|(path, lines)| !seen.contains(path) && !lines.is_empty()) {
            // Where it is now; also when it was moved out of what is measured.
            let now = if gone.contains(path) { moved.get(path).copied() } else { Some(path) };
            files.push(FileDelta {
                path: now.unwrap_or(path).clone(),
                before: before.totals_of(path),
                after: Totals::default(),
                lost: now.map_or_else(Ranges::default, |_| covered(lines)),
                vanished: now.is_some(),
            });
        }
        files.sort_by(|a, b| b.weight().cmp(&a.weight()).then_with(|| a.path.cmp(&b.path)));
        Self { files, unmapped, ..Self::default() }
    }

    /// With the added lines of a branch: `brought` is what changed from base.
    #[must_use]
    pub fn with_added(mut self, after: &Coverage, brought: &Changes) -> Self {
        let (mut covered, mut total) = (0, 0);
        for (path, change) in brought {
            let Some(lines) = after.files.get(path) else { continue };
            if !change.is_mapped() {
                self.unmapped.insert(path.clone());
                continue;
            }
            let (mut uncovered, mut after) = (Ranges::default(), None);
            for (line, ran) in lines.iter() {
                if change.before(line).is_none() {
                    total += 1;
                    match ran {
                        true => covered += 1,
                        false => uncovered.push(line, after),
                    }
                }
                after = Some(line);
            }
            if uncovered.count() > 0 {
                self.uncovered_added.push((path.clone(), uncovered));
            }
        }
        self.uncovered_added.sort_by(|a, b| b.1.count().cmp(&a.1.count()).then_with(|| a.0.cmp(&b.0)));
        self.added = Totals::new(covered, total).unwrap_or_default();
        self
    }
}

fn covered(lines: &Lines) -> Ranges {
    let (mut ranges, mut after) = (Ranges::default(), None);
    for (line, covered) in lines.iter() {
        if covered {
            ranges.push(line, after);
        }
        after = Some(line);
    }
    ranges
}
