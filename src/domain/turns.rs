//! Turns in the lane: what became of each try to land, and what their numbers say about the lane.
//!
//! Owns the turn as it is recorded, a waiting task's seniority over its earlier turns, and the statistics. Whole numbers
//! only. Refuses to judge: a figure that says "too slow" is for people.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::event::LandingEnd;
use crate::ids::{CommitSha, TaskId};
use crate::landing::FailureClass;
use crate::names::TaskKey;
use crate::time::{Millis, Timestamp};

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TurnEnd {
    /// On `main`.
    Landed,
    /// The work must change.
    SentBack,
    /// Something was busy.
    Deferred,
    /// Something of ours broke.
    CouldNotRun,
    /// Only a person can go on.
    NeedsPerson,
    /// A person is asked to approve or to merge what was judged.
    AwaitsPerson,
    /// Its task was stopped.
    Stopped,
    /// It stays in the lane: the supervisor or the lane stops.
    Left,
}

impl TurnEnd {
    /// The word as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Landed => "landed",
            Self::SentBack => "sent-back",
            Self::Deferred => "deferred",
            Self::CouldNotRun => "could-not-run",
            Self::NeedsPerson => "needs-person",
            Self::AwaitsPerson => "awaits-person",
            Self::Stopped => "stopped",
            Self::Left => "left",
        }
    }

    /// What the lane's answer amounts to; `None`: the task stays in the lane.
    #[must_use]
    pub const fn of(end: Option<&LandingEnd>) -> Self {
        match end {
            None => Self::Left,
            Some(LandingEnd::Landed { .. }) => Self::Landed,
            Some(LandingEnd::SentBack { .. }) => Self::SentBack,
            Some(LandingEnd::Deferred { .. } | LandingEnd::MainMoved { .. } | LandingEnd::MainRed { .. }) => {
                Self::Deferred
            }
            Some(LandingEnd::CouldNotRun { .. }) => Self::CouldNotRun,
            Some(LandingEnd::NotConfigured { .. } | LandingEnd::Refused { .. } | LandingEnd::OutcomeUnknown { .. }) => {
                Self::NeedsPerson
            }
            Some(LandingEnd::AwaitingApproval { .. } | LandingEnd::AwaitingMerge { .. }) => Self::AwaitsPerson,
            Some(LandingEnd::Stopped) => Self::Stopped,
        }
    }

    /// Whether the same work comes again, with the place that it had: nobody has found anything wrong with it.
    #[must_use]
    pub const fn keeps_place(self) -> bool {
        matches!(self, Self::Deferred | Self::CouldNotRun | Self::NeedsPerson | Self::AwaitsPerson | Self::Left)
    }
}

/// What was noted during a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TurnFacts {
    /// Only what had landed already was deployed.
    pub deploy_only: bool,
    /// How long it had waited for this turn in an open lane; `None`: an older release did not tell.
    pub waited: Option<Millis>,
    /// `main` as last seen before anything landed.
    pub main: Option<CommitSha>,
    /// Where this turn has moved `main` to.
    pub moved_to: Option<CommitSha>,
    /// The head that every gate passed, on that `main`.
    pub proven: Option<CommitSha>,
    /// Times the combined tree was judged anew.
    pub tests: u32,
    /// How long that took, together.
    pub test_ms: Millis,
    /// Whether the work does not go together with `main` as text.
    pub conflict: bool,
    /// What kept it from landing, if anything did.
    pub class: Option<FailureClass>,
    /// Times that it began anew, by cause.
    pub resets: BTreeMap<String, u32>,
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Whose.
    pub task: TaskId,
    /// Its key.
    pub key: TaskKey,
    /// Since when it was ready, over all turns that kept its place.
    pub ready: Timestamp,
    /// Since when it waited for this turn.
    pub queued: Timestamp,
    /// When the turn began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How.
    pub end: TurnEnd,
    /// What was noted.
    pub facts: TurnFacts,
}

impl Turn {
    /// How long it had waited for this turn.
    fn waited(&self) -> Millis {
        self.facts.waited.unwrap_or_else(|| self.began.since(self.queued))
    }
}

/// A turn that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Begun<'t> {
    /// Whose.
    pub task: &'t TaskId,
    /// Since when it was ready.
    pub ready: Timestamp,
    /// When it began.
    pub began: Timestamp,
}

/// Since when a task that waits since `queued` is ready, and how often it has been overtaken since then; `turns` are the
/// lane's, oldest first, and `under_way` is the one that is none of them yet.
#[must_use]
pub fn seniority(turns: &[Turn], under_way: Option<Begun<'_>>, task: &TaskId, queued: Timestamp) -> (Timestamp, u32) {
    let last = turns.iter().rfind(|turn| turn.task == *task);
    let ready = last.filter(|turn| turn.end.keeps_place()).map_or(queued, |turn| turn.ready);
    let begun = turns.iter().map(|turn| Begun { task: &turn.task, ready: turn.ready, began: turn.began });
    let overtook = |turn: &Begun<'_>| turn.began >= ready && (turn.ready, turn.task) > (ready, task);
    let overtaken = begun.chain(under_way).filter(overtook).count();
    (ready, u32::try_from(overtaken).unwrap_or(u32::MAX))
}

/// What is known to pass where: each task's newest proven head with the `main` of that turn.
#[must_use]
pub fn proven(turns: &[Turn]) -> BTreeSet<(CommitSha, CommitSha)> {
    turns.iter().filter_map(|turn| Some((turn.facts.proven.clone()?, turn.facts.main.clone()?))).collect()
}

/// What a lane's turns say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatistics {
    /// Turns that this is counted from: the newest ones, those that only deployed left out.
    pub turns: u32,
    /// Landings among them.
    pub landed: u32,
    /// Half of those that landed waited no longer than this in the open lane, over all turns that kept their place. What
    /// passes while the lane is closed, and while people are asked, is no waiting for the lane.
    pub wait_p50_ms: Millis,
    /// Of twenty, nineteen waited no longer.
    pub wait_p95_ms: Millis,
    /// Mean time of judging a combined tree; 0: none was judged.
    pub test_ms: Millis,
    /// Trees that were judged.
    pub tests: u32,
    /// Turns that ended with the work sent back for its own failure.
    pub own_failures: u32,
    /// The same among a thousand turns that came to a verdict.
    pub own_failures_per_mille: u32,
    /// Turns that ended in a conflict with `main`.
    pub conflicts: u32,
    /// The same among a thousand turns that came to a verdict.
    pub conflicts_per_mille: u32,
    /// Times that a turn began anew or was put off, by cause.
    pub resets: BTreeMap<String, u32>,
    /// Landings in a thousand mean test times of a busy lane. A thousand is the ceiling of one landing at a time.
    pub landings_per_1000_test_times: u64,
}

impl LaneStatistics {
    /// Counts.
    #[must_use]
    pub fn of(turns: &[Turn]) -> Self {
        let turns: Vec<&Turn> = turns.iter().filter(|turn| !turn.facts.deploy_only).collect();
        let mut all = Self { turns: number(turns.len()), ..Self::default() };
        let mut waits: Vec<u64> = Vec::new();
        let (mut busy, mut tested) = (0_u64, 0_u64);
        for turn in &turns {
            busy = busy.saturating_add(turn.ended.since(turn.began).0);
            tested = tested.saturating_add(turn.facts.test_ms.0);
            all.tests += turn.facts.tests;
            for (cause, times) in &turn.facts.resets {
                *all.resets.entry(cause.clone()).or_default() += times;
            }
            match turn.end {
                TurnEnd::Landed => {
                    all.landed += 1;
                    let same = turns.iter().filter(|other| other.task == turn.task && other.ready == turn.ready);
                    waits.push(same.map(|of| of.waited().0).sum());
                }
                TurnEnd::SentBack if turn.facts.conflict => all.conflicts += 1,
                TurnEnd::SentBack => all.own_failures += 1,
                TurnEnd::Deferred | TurnEnd::CouldNotRun => {
                    let cause = turn.facts.class.map_or(turn.end.as_str(), FailureClass::as_str);
                    *all.resets.entry(cause.to_owned()).or_default() += 1;
                }
                TurnEnd::NeedsPerson | TurnEnd::AwaitsPerson | TurnEnd::Stopped | TurnEnd::Left => {}
            }
        }
        waits.sort_unstable();
        all.wait_p50_ms = Millis(percentile(&waits, 50));
        all.wait_p95_ms = Millis(percentile(&waits, 95));
        let verdicts = all.landed + all.own_failures + all.conflicts;
        all.own_failures_per_mille = per_mille(all.own_failures, verdicts);
        all.conflicts_per_mille = per_mille(all.conflicts, verdicts);
        if let Some(mean) = tested.checked_div(u64::from(all.tests)) {
            all.test_ms = Millis(mean);
            all.landings_per_1000_test_times =
                (1_000 * u64::from(all.landed)).saturating_mul(mean).checked_div(busy).unwrap_or_default();
        }
        all
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn per_mille(part: u32, whole: u32) -> u32 {
    part.saturating_mul(1_000).checked_div(whole).unwrap_or_default()
}

/// The smallest value that at least `percent` of all are not above; 0 of nothing.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(n: u32, ready: i64, began: i64, ended: i64, end: TurnEnd) -> Turn {
        Turn {
            task: format!("task{n}").parse().expect("an id"),
            key: format!("T-{n}").parse().expect("a key"),
            ready: Timestamp(ready),
            queued: Timestamp(ready),
            began: Timestamp(began),
            ended: Timestamp(ended),
            end,
            facts: TurnFacts { tests: 1, test_ms: Millis(80), ..TurnFacts::default() },
        }
    }

    fn id(n: u32) -> TaskId {
        format!("task{n}").parse().expect("an id")
    }

    #[test]
    fn statistics_count_what_happened_in_whole_numbers() {
        let mut turns: Vec<Turn> = (0..18).map(|n| turn(n, 0, 100 + i64::from(n), 200, TurnEnd::Landed)).collect();
        turns.push(turn(18, 0, 100, 200, TurnEnd::SentBack));
        let mut conflict = turn(19, 0, 100, 200, TurnEnd::SentBack);
        conflict.facts = TurnFacts { conflict: true, ..TurnFacts::default() };
        turns.push(conflict);
        let mut put_off = turn(20, 0, 0, 0, TurnEnd::Deferred);
        put_off.facts.resets.insert("main-moved".to_owned(), 5);
        turns.push(put_off);
        // Asked in its first turn, approved an hour later, and then it stood there while the lane was paused.
        let mut asked = turn(22, 0, 107, 120, TurnEnd::AwaitsPerson);
        asked.facts = TurnFacts { waited: Some(Millis(7)), ..TurnFacts::default() };
        let mut approved = turn(22, 0, 3_690_000, 3_690_000, TurnEnd::Landed);
        approved.queued = Timestamp(3_600_000);
        approved.facts = TurnFacts { waited: Some(Millis(103)), ..TurnFacts::default() };
        turns.extend([asked, approved]);
        let mut deploy = turn(21, 0, 0, 900_000, TurnEnd::Landed);
        deploy.facts.deploy_only = true;
        turns.push(deploy);
        let seen = LaneStatistics::of(&turns);
        assert_eq!((seen.turns, seen.landed, seen.own_failures, seen.conflicts), (23, 19, 1, 1));
        assert_eq!((seen.own_failures_per_mille, seen.conflicts_per_mille), (47, 47));
        // 100 to 117 of the first eighteen, and 7 and 103 of the one that people were asked about.
        assert_eq!((seen.wait_p50_ms, seen.wait_p95_ms), (Millis(109), Millis(117)));
        assert_eq!((seen.tests, seen.test_ms), (20, Millis(80)));
        assert_eq!(seen.resets, BTreeMap::from([("deferred".to_owned(), 1), ("main-moved".to_owned(), 5)]));
        // 19 landings in 1,860 ms of work, with 80 ms to a test: 0.817 a test time.
        assert_eq!(seen.landings_per_1000_test_times, 19_000 * 80 / 1_860);
        assert_eq!(LaneStatistics::of(&[]), LaneStatistics::default());
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        assert_eq!(percentile(&[], 50), 0);
        assert_eq!((percentile(&[7], 50), percentile(&[7], 95)), (7, 7));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 95)), (50, 95));
    }

    #[test]
    fn a_place_is_kept_over_turns_that_found_nothing_wrong_and_lost_when_the_work_went_back() {
        let waits = [turn(1, 10, 20, 30, TurnEnd::Deferred), turn(2, 15, 40, 50, TurnEnd::Landed)];
        assert_eq!(seniority(&waits, None, &id(1), Timestamp(60)), (Timestamp(10), 1));
        let mut back = waits.clone();
        back[0].end = TurnEnd::SentBack;
        assert_eq!(seniority(&back, None, &id(1), Timestamp(60)), (Timestamp(60), 0));
        assert_eq!(seniority(&back, None, &id(3), Timestamp(5)), (Timestamp(5), 2), "both came later and have begun");
        assert_eq!(seniority(&back, None, &id(3), Timestamp(45)), (Timestamp(45), 0), "they began before it was ready");
        // Who is at it now counts like who was, whether it was seen to begin or not.
        let other = id(7);
        let now = |ready| Some(Begun { task: &other, ready: Timestamp(ready), began: Timestamp(70) });
        assert_eq!(seniority(&waits, now(20), &id(1), Timestamp(60)), (Timestamp(10), 2));
        assert_eq!(seniority(&waits, now(5), &id(1), Timestamp(60)), (Timestamp(10), 1), "it was ready first");
    }
}
