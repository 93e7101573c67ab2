//! What a landing notes about its turn, and the lane's memory of turns.
//!
//! Owns the notes that a landing and its lane share, and the newest turns with what follows from them: seniority, and which
//! heads are known to pass on which `main`, and where `main` was left. The store has the same rows; this copy is read at the lane's start. Refuses to
//! decide who goes next: that is the domain's plan.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::landing::FailureClass;
use orch_domain::lane::Proven;
use orch_domain::time::{Millis, Timestamp};
use orch_domain::turns::{Begun, Turn, TurnFacts, proven, seniority};

/// Turns that are remembered: enough for any bound on overtaking that makes sense.
pub const REMEMBERED: u32 = 500;

/// The notes of one turn; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TurnNotes(Arc<Mutex<TurnFacts>>);

impl TurnNotes {
    fn note(&self, note: impl FnOnce(&mut TurnFacts)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// So long it has waited for this turn, in an open lane.
    pub fn waited(&self, so_long: Millis) {
        self.note(|facts| facts.waited = Some(so_long));
    }

    /// Only what has landed already is deployed.
    pub fn deploys_only(&self) {
        self.note(|facts| facts.deploy_only = true);
    }

    /// Where `main` is.
    pub fn main_is(&self, main: &CommitSha) {
        self.note(|facts| {
            facts.main = Some(main.clone());
            facts.proven = None;
        });
    }

    /// It landed: `main` is there now. What was proven was proven where `main` was before.
    pub fn landed(&self, main: &CommitSha) {
        self.note(|facts| facts.moved_to = Some(main.clone()));
    }

    /// The combined tree was judged anew, for so long.
    pub fn tested(&self, took: Millis) {
        self.note(|facts| {
            facts.tests += 1;
            facts.test_ms = Millis(facts.test_ms.0.saturating_add(took.0));
        });
    }

    /// Every gate passed this head on the `main` that was noted.
    pub fn proven(&self, head: &CommitSha) {
        self.note(|facts| facts.proven = Some(head.clone()));
    }

    /// The work and `main` do not go together as text.
    pub fn conflict(&self) {
        self.note(|facts| facts.conflict = true);
    }

    /// It did not land, for this reason.
    pub fn kept_from_landing(&self, class: Option<FailureClass>) {
        self.note(|facts| facts.class = class);
    }

    /// The turn begins anew, for this cause.
    pub fn reset(&self, cause: &str) {
        self.note(|facts| *facts.resets.entry(cause.to_owned()).or_default() += 1);
    }

    /// What was noted so far.
    #[must_use]
    pub fn facts(&self) -> TurnFacts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How long a lane has been open, as far as its actor has seen.
#[derive(Debug, Default)]
pub(crate) struct OpenTime {
    before: Millis,
    since: Option<Timestamp>,
}

impl OpenTime {
    /// Takes note of whether it is open from now on.
    pub(crate) fn is_open(&mut self, open: bool, now: Timestamp) {
        self.before = self.at(now);
        self.since = open.then_some(now);
    }

    /// All of it so far: two of these tell how long it was open in between.
    pub(crate) fn at(&self, now: Timestamp) -> Millis {
        Millis(self.before.0 + self.since.map_or(0, |since| now.since(since).0))
    }
}

/// The newest turns of a lane.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    turns: VecDeque<Turn>,
    proven: BTreeSet<Proven>,
    main: Option<CommitSha>,
}

impl Memory {
    /// What the store remembers, oldest first.
    pub(crate) fn of(turns: Vec<Turn>) -> Self {
        let mut memory = Self { turns: turns.into(), ..Self::default() };
        memory.refresh();
        memory
    }

    /// Adds a turn.
    pub(crate) fn add(&mut self, turn: Turn) {
        self.turns.push_back(turn);
        while self.turns.len() > REMEMBERED as usize {
            self.turns.pop_front();
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        let turns = self.turns.make_contiguous();
        self.proven = proven(turns);
        self.main = turns.iter().rev().find_map(|turn| turn.facts.moved_to.clone().or_else(|| turn.facts.main.clone()));
    }

    /// Since when a task is ready, and how often it was overtaken since.
    pub(crate) fn seniority(
        &mut self,
        under_way: Option<Begun<'_>>,
        task: &TaskId,
        queued: Timestamp,
    ) -> (Timestamp, u32) {
        seniority(self.turns.make_contiguous(), under_way, task, queued)
    }

    pub(crate) const fn proven(&self) -> &BTreeSet<Proven> {
        &self.proven
    }

    pub(crate) const fn main(&self) -> Option<&CommitSha> {
        self.main.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use orch_domain::turns::TurnEnd;

    use super::*;

    fn sha(digit: char) -> CommitSha {
        digit.to_string().repeat(40).parse().expect("a commit id")
    }

    #[test]
    fn only_open_time_counts_as_waiting_for_the_lane() {
        let mut open = OpenTime::default();
        assert_eq!(open.at(Timestamp(50)), Millis(0), "nobody has opened it yet");
        open.is_open(true, Timestamp(100));
        let came = open.at(Timestamp(110));
        open.is_open(true, Timestamp(120));
        open.is_open(false, Timestamp(130));
        assert_eq!(open.at(Timestamp(900)).0 - came.0, 20, "paused at 130");
        open.is_open(true, Timestamp(1_000));
        assert_eq!(open.at(Timestamp(1_005)).0 - came.0, 25);
    }

    #[test]
    fn after_a_landing_main_is_what_landed_and_nothing_is_proven_on_it_yet() {
        let notes = TurnNotes::default();
        notes.main_is(&sha('a'));
        notes.proven(&sha('b'));
        notes.landed(&sha('b'));
        let at = Timestamp(1);
        let (task, key) = ("task1".parse().expect("an id"), "ORC-1".parse().expect("a key"));
        let mut turn =
            Turn { task, key, ready: at, queued: at, began: at, ended: at, end: TurnEnd::Landed, facts: notes.facts() };
        let mut memory = Memory::of(vec![turn.clone()]);
        assert_eq!(memory.main(), Some(&sha('b')), "the plan must not believe in an old main");
        assert_eq!(*memory.proven(), BTreeSet::from([(sha('b'), sha('a'))]));
        turn.facts = TurnFacts { main: Some(sha('c')), ..TurnFacts::default() };
        memory.add(turn);
        assert_eq!(memory.main(), Some(&sha('c')), "what was seen last");
    }
}
