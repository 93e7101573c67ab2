//! Two measurements by different settings or tools, in what both of them count.
//!
//! Owns the choice of lines. A line that stands in both commits is taken when both measurements count it; a line that one
//! commit alone has is taken when that one's measurement counts it, in a file that the other measurement knows or the other
//! commit has not. What one side leaves out by its settings so says nothing, and what the change itself brought or took
//! away says all. Refuses to judge.

use std::collections::{BTreeMap, BTreeSet};

use super::compare::{Change, Changes};
use super::lines::Lines;
use super::model::{Coverage, Totals};
use crate::names::RepoPath;

/// What two measurements can be held against each other by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alike {
    /// The earlier one.
    pub before: Totals,
    /// The later one.
    pub after: Totals,
    /// Files that were measured and are not any more, although they are still there; by where they are now.
    pub vanished: Vec<RepoPath>,
}

#[derive(Default)]
struct Sum {
    covered: u64,
    total: u64,
}

impl Sum {
    fn add(&mut self, covered: bool) {
        self.covered += u64::from(covered);
        self.total += 1;
    }

    fn totals(&self) -> Totals {
        Totals::new(self.covered, self.total).unwrap_or_default()
    }
}

impl Alike {
    /// Looks for it. `since`: what changed from the earlier one's commit; `gone`: files that the later commit does not have
    /// any more. Files that changed and were not compared line by line are left out.
    #[must_use]
    pub fn of(before: &Coverage, after: &Coverage, since: &Changes, gone: &BTreeSet<RepoPath>) -> Self {
        let (mut was, mut is, mut seen) = (Sum::default(), Sum::default(), BTreeSet::new());
        for (path, lines) in &after.files {
            let change = since.get(path);
            let Some(old) = change.map_or(Some(path), |change| change.old.as_ref()) else {
                lines.iter().for_each(|(_, covered)| is.add(covered));
                continue;
            };
            seen.insert(old);
            let Some(earlier) = before.files.get(old).filter(|_| change.is_none_or(Change::is_mapped)) else {
                continue;
            };
            both(earlier, lines, change, &mut was, &mut is);
        }
        let moved: BTreeMap<&RepoPath, &RepoPath> =
            since.iter().filter_map(|(new, change)| Some((change.old.as_ref()?, new))).collect();
        let mut vanished = Vec::new();
        for (path, lines) in before.files.iter().filter(|(path, lines)| !seen.contains(path) && !lines.is_empty()) {
            match if gone.contains(path) { moved.get(path).copied() } else { Some(path) } {
                Some(now) => vanished.push(now.clone()),
                None => lines.iter().for_each(|(_, covered)| was.add(covered)),
            }
        }
        Self { before: was.totals(), after: is.totals(), vanished }
    }
}

fn both(earlier: &Lines, later: &Lines, change: Option<&Change>, was: &mut Sum, is: &mut Sum) {
    let unchanged = |line: u32| change.map_or(Some(line), |change| change.before(line));
    for (line, covered) in later.iter() {
        match unchanged(line) {
            // It is new.
            None => is.add(covered),
            Some(old) => {
                if let Some(before) = earlier.get(old) {
                    is.add(covered);
                    was.add(before);
                }
            }
        }
    }
    // What the change took away.
    let taken = |line: u32| change.is_some_and(|change| change.took(line));
    earlier.iter().filter(|(line, _)| taken(*line)).for_each(|(_, covered)| was.add(covered));
}
