//! The deploys of one repository, one after the other: what is in production never becomes older.
//!
//! Owns the rule by which a deploy is run, is found to be done already, or waits, from what earlier deploys came to and how
//! their commits stand to this one. A deploy that failed said so and is no news of production: it binds nobody. Refuses to
//! order commits by their times, or to guess what a deploy of unknown outcome has left.

use crate::ids::CommitSha;
use crate::names::TaskKey;
use crate::time::Timestamp;

/// What came of an earlier deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It is not at its end yet.
    UnderWay,
    /// It took effect.
    Deployed {
        /// When that was seen.
        at: Timestamp,
    },
    /// Whether it took effect, nobody knows.
    Unknown,
    /// It failed, or never began.
    Nothing,
}

/// An earlier deploy of the same repository, for another task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// Whose.
    pub key: TaskKey,
    /// Of which commit.
    pub sha: CommitSha,
    /// What came of it.
    pub came: Came,
    /// Whether its commit holds the one that is to be deployed now, or is that one.
    pub holds: bool,
}

/// What a deploy is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn<'a> {
    /// Be run: nothing newer is known to be in production.
    Run,
    /// Nothing: production holds it already, by this one.
    Held {
        /// By whose.
        by: &'a Earlier,
        /// Since when.
        at: Timestamp,
    },
    /// Wait for this one to come to its end: two never run beside each other.
    Wait(&'a Earlier),
    /// Nothing: this newer one may be in production, and nobody knows.
    Unsure(&'a Earlier),
}

/// What a deploy is to do after `earlier`, oldest first.
#[must_use]
pub fn turn(earlier: &[Earlier]) -> Turn<'_> {
    if let Some(under_way) = earlier.iter().find(|other| other.came == Came::UnderWay) {
        return Turn::Wait(under_way);
    }
    let mut unsure = None;
    for other in earlier.iter().rev() {
        match other.came {
            Came::Deployed { at } if other.holds => return Turn::Held { by: other, at },
            // What came before it is not in production any more.
            Came::Deployed { .. } => break,
            Came::Unknown if other.holds => unsure = unsure.or(Some(other)),
            Came::Unknown | Came::UnderWay | Came::Nothing => {}
        }
    }
    unsure.map_or(Turn::Run, Turn::Unsure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp(7);
    const DEPLOYED: Came = Came::Deployed { at: AT };

    /// Earlier deploys, and what follows, by whose.
    type Row<'a> = (&'a [(Came, bool)], (&'a str, usize));

    fn earlier(n: usize, (came, holds): (Came, bool)) -> Earlier {
        let (key, sha) = (format!("ORC-{}", n + 1).parse().expect("a key"), "a".repeat(40).parse().expect("a commit"));
        Earlier { key, sha, came, holds }
    }

    #[test]
    fn a_deploy_never_goes_back_and_never_runs_beside_another() {
        use Came::{Nothing, UnderWay, Unknown};
        let (run, held) = (("run", 0), |n| ("held", n));
        // What earlier deploys came to, oldest first, each with whether it holds ours; what ours does then, by whose.
        let table: &[Row<'_>] = &[
            (&[], run),
            (&[(DEPLOYED, false)], run),
            (&[(DEPLOYED, true)], held(1)),
            // Only what was deployed last is in production.
            (&[(DEPLOYED, true), (DEPLOYED, false)], run),
            (&[(DEPLOYED, false), (DEPLOYED, true)], held(2)),
            (&[(DEPLOYED, true), (DEPLOYED, true)], held(2)),
            // A failed deploy binds nobody, be it newer or older.
            (&[(Nothing, true)], run),
            (&[(DEPLOYED, true), (Nothing, false)], held(1)),
            (&[(DEPLOYED, false), (Nothing, true)], run),
            // A newer one of unknown outcome may be there; an older one is replaced.
            (&[(Unknown, true)], ("unsure", 1)),
            (&[(Unknown, false)], run),
            (&[(DEPLOYED, false), (Unknown, true), (Nothing, true)], ("unsure", 2)),
            // Whichever of the two it is, it holds ours.
            (&[(DEPLOYED, true), (Unknown, true)], held(1)),
            // Deployed over since: what it left is gone.
            (&[(Unknown, true), (DEPLOYED, false)], run),
            (&[(UnderWay, true)], ("wait", 1)),
            (&[(UnderWay, false)], ("wait", 1)),
            (&[(UnderWay, false), (DEPLOYED, true)], ("wait", 1)),
        ];
        for (row, (what, whose)) in table {
            let all: Vec<Earlier> = row.iter().enumerate().map(|(n, row)| earlier(n, *row)).collect();
            let is = match turn(&all) {
                Turn::Run => ("run", None),
                Turn::Held { by, at } => {
                    assert_eq!(at, AT);
                    ("held", Some(by))
                }
                Turn::Wait(other) => ("wait", Some(other)),
                Turn::Unsure(other) => ("unsure", Some(other)),
            };
            assert_eq!(is, (*what, whose.checked_sub(1).map(|n| &all[n])), "{row:?}");
        }
    }
}
