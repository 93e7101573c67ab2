//! Ending a whole tree: TERM and CONT to everybody, then KILL until nobody is left.
//!
//! Owns who is signalled and how often. Direct children are killed by pid: they keep it until the shim waits for them,
//! so it cannot be a stranger's. Deeper ones are signalled through a handle with their start time compared. Every
//! orphan becomes a direct child, so killing in rounds until `waitpid` says `ECHILD` ends any tree; the walks through
//! `/proc` only make it quicker and count. In namespaces the one direct child is their first process, and the kernel ends
//! all with it; a control group is ended as one, too.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::groups::Groups;
use crate::procs;
use crate::protocol::Level;
use crate::tree::Tree;

/// How often a tree that was asked politely is looked through for newcomers.
const TERM_ROUND: Duration = Duration::from_millis(100);
/// How often a tree is killed that does not go at once.
const KILL_ROUND: Duration = Duration::from_millis(5);
/// What leftovers of an ended main process get, at most, between TERM and KILL.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// Rounds of stopping before a tree that grows faster is given up on: it still runs, and is said to.
const FREEZE_ROUNDS: u32 = 64;

/// A tree being ended.
pub(crate) struct Ending {
    level: Level,
    kill_at: Instant,
    next_round: Instant,
    signalled: HashSet<i32>,
}

impl Ending {
    /// Begins; the first round is due at once.
    pub(crate) fn begin(level: Level, grace: Duration, now: Instant) -> Self {
        Self { level, kill_at: later(now, grace), next_round: now, signalled: HashSet::new() }
    }

    /// Begins to end what a main process left behind.
    pub(crate) fn of_leftovers(grace: Duration, now: Instant) -> Self {
        Self::begin(Level::Term, grace.min(LEFTOVER_GRACE), now)
    }

    /// Raises the level; it never falls.
    pub(crate) fn raise(&mut self, level: Level, now: Instant) {
        if level > self.level {
            self.level = level;
            self.next_round = now;
        }
    }

    /// What is left need not get the whole grace: nobody waits for it any more.
    pub(crate) fn hasten(&mut self, now: Instant) {
        self.kill_at = self.kill_at.min(later(now, LEFTOVER_GRACE));
    }

    /// When something has to be done next.
    pub(crate) fn due(&self) -> Instant {
        if self.level == Level::Term { self.next_round.min(self.kill_at) } else { self.next_round }
    }

    /// Does one round if it is due.
    pub(crate) fn round(&mut self, tree: &Tree, groups: &Groups, now: Instant) {
        if self.level == Level::Term && now >= self.kill_at {
            self.raise(Level::Kill, now);
        }
        if now < self.next_round {
            return;
        }
        match self.level {
            Level::Term => {
                self.next_round = now + TERM_ROUND;
                for stat in tree.living() {
                    if self.signalled.insert(stat.pid) {
                        procs::signal_same(stat.pid, stat.start_ticks, Signal::SIGTERM);
                        // A stopped process would not see TERM.
                        procs::signal_same(stat.pid, stat.start_ticks, Signal::SIGCONT);
                    }
                }
            }
            Level::Kill => {
                self.next_round = now + KILL_ROUND;
                // Counted before they are gone with the first of them.
                let living = tree.living();
                self.signalled.extend(living.iter().map(|stat| stat.pid));
                groups.kill();
                for pid in procs::children(shim()) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                for stat in living {
                    procs::signal_same(stat.pid, stat.start_ticks, Signal::SIGKILL);
                }
            }
        }
    }

    /// Whether the next round kills: then rounds follow each other without rest for a moment, to overtake forks.
    pub(crate) fn kills(&self) -> bool {
        self.level == Level::Kill
    }

    /// Makes the next round due now.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.next_round = now;
    }

    /// Processes that were ended besides the main one.
    pub(crate) fn swept(&self, main: Option<i32>) -> u32 {
        let others = self.signalled.iter().filter(|pid| Some(**pid) != main).count();
        u32::try_from(others).unwrap_or(u32::MAX)
    }
}

/// Stops every process of the tree; answers whether a last look found no newcomer.
pub(crate) fn freeze(tree: &Tree) -> bool {
    let mut stopped = HashSet::new();
    for _ in 0..FREEZE_ROUNDS {
        let mut newcomers = false;
        for stat in tree.living() {
            if stopped.insert(stat.pid) {
                newcomers = true;
                procs::signal_same(stat.pid, stat.start_ticks, Signal::SIGSTOP);
            }
        }
        if !newcomers {
            return true;
        }
    }
    false
}

/// Lets every process of the tree go on.
pub(crate) fn thaw(tree: &Tree) {
    for stat in tree.living() {
        procs::signal_same(stat.pid, stat.start_ticks, Signal::SIGCONT);
    }
}

/// A time far enough ahead never to come stands for one that cannot be computed.
pub(crate) fn later(now: Instant, by: Duration) -> Instant {
    const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    now + by.min(A_YEAR)
}

fn shim() -> i32 {
    nix::unistd::getpid().as_raw()
}
