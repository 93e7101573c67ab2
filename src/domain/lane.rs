//! The lane's plan: who lands next, as a pure function of what waits, what was proven, where `main` is, and free slots.
//!
//! Owns the order and its one promise: no ready task is overtaken more often than the rules allow, however many of a
//! higher priority arrive. Refuses to remember: whoever asks brings the queue as it is, and gets the same plan for it.
//! Overtaken is who came first and sees another begin before it; what only brings an open window to its end overtakes
//! nobody.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::{CommitSha, TaskId};
use crate::time::Timestamp;

/// Whether a repository's lane takes work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneMode {
    /// It does.
    #[default]
    Running,
    /// What is under way ends, nothing new begins.
    Draining,
    /// Nothing moves: what is under way leaves at its next border too, unless something irreversible was begun.
    Paused,
}

impl LaneMode {
    /// The word as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Paused => "paused",
        }
    }
}

/// Somebody in the lane's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The task.
    pub task: TaskId,
    /// Higher goes first.
    pub priority: i32,
    /// Since when it is ready; kept while it only steps aside for something of ours.
    pub since: Timestamp,
    /// How many that were ready later have begun before it.
    pub overtaken: u32,
    /// The commit it brings.
    pub head: Option<CommitSha>,
    /// Whether only an open window is to be brought to its end: that waits for nobody's turn and for no mode.
    pub finish: bool,
}

/// A head that was judged good on a base: there, landing it costs no test.
pub type Proven = (CommitSha, CommitSha);

/// Everything that a plan follows from.
#[derive(Clone, Debug)]
pub struct Lane<'a> {
    /// Who waits, in any order.
    pub queue: &'a [Ready],
    /// Heads judged good, with the base that they were judged on.
    pub proven: &'a BTreeSet<Proven>,
    /// Where `main` was last seen.
    pub main: Option<&'a CommitSha>,
    /// How many more may be under way.
    pub slots: usize,
    /// Whether anything may begin.
    pub mode: LaneMode,
    /// How often one may be overtaken.
    pub most_overtaken: u32,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Everybody who waits, in the order in which they would go if nothing changed.
    pub order: Vec<TaskId>,
    /// Who begins now, in this order.
    pub begin: Vec<TaskId>,
}

/// The plan. Windows first; then who was overtaken as often as allowed, by age; then by priority, what needs no test
/// before what does, and age.
#[must_use]
pub fn plan(lane: &Lane<'_>) -> Plan {
    let mut sorted: Vec<&Ready> = lane.queue.iter().collect();
    sorted.sort_by(|a, b| rank(lane, a).cmp(&rank(lane, b)));
    let may = |ready: &&&Ready| ready.finish || lane.mode == LaneMode::Running;
    let begin = sorted.iter().filter(may).take(lane.slots).map(|r| r.task.clone()).collect();
    Plan { order: sorted.into_iter().map(|r| r.task.clone()).collect(), begin }
}

/// Lower goes first; total, since no two of a queue are the same task.
fn rank<'r>(lane: &Lane<'_>, ready: &'r Ready) -> (bool, bool, std::cmp::Reverse<i32>, bool, Timestamp, &'r TaskId) {
    let may_be_overtaken = ready.overtaken < lane.most_overtaken;
    // Among those that may not be overtaken any more only age counts.
    let (priority, untested) = match may_be_overtaken {
        true => (ready.priority, !is_proven(lane, ready)),
        false => (0, false),
    };
    (!ready.finish, may_be_overtaken, std::cmp::Reverse(priority), untested, ready.since, &ready.task)
}

fn is_proven(lane: &Lane<'_>, ready: &Ready) -> bool {
    match (&ready.head, lane.main) {
        (Some(head), Some(main)) => lane.proven.contains(&(head.clone(), main.clone())),
        _ => false,
    }
}

/// Counts, for those who go on waiting, that `begun` has begun: who was ready before it has been overtaken.
pub fn overtake(queue: &mut [Ready], begun: &Ready) {
    if begun.finish {
        return;
    }
    for ready in queue.iter_mut().filter(|r| !r.finish && (r.since, &r.task) < (begun.since, &begun.task)) {
        ready.overtaken += 1;
    }
}
