//! One landing of the simulated lane, a step at a time, so that a crash can come between any two.

use std::collections::BTreeSet;

use orch_domain::event::{DeployEnd, LandingEnd};
use orch_domain::gate::{GateName, Verdict};
use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::landing::{Blame, Candidate, OnMain, Permit, Proven, Said, Then, WorkFault};
use orch_domain::task::Landed;
use orch_domain::testnames::{Failure, list};
use orch_domain::time::Timestamp;
use orch_domain::turns::{Begun, TurnFacts};

use super::repo::Mishap;
use super::{Broken, CATCH_UPS, Landing, Wait, Window, World, lands};

/// The gates of the lane that are asked here.
const GATES: [GateName; 3] = [GateName::Security, GateName::Merge, GateName::ImageFreshness];

#[derive(Clone, Debug)]
enum At {
    Lease,
    Attach,
    Fetch,
    CatchUp,
    Publish,
    Judge,
    Open,
    Send { window: usize, n: u32, attached: bool },
    Verify { window: usize },
}

/// A landing under way.
#[derive(Clone, Debug)]
pub(crate) struct Saga {
    pub(crate) task: usize,
    /// Which request of its task it answers.
    pub(super) asked: u32,
    pub(super) ready: Timestamp,
    pub(super) began: Timestamp,
    /// Those in the queue that it began before, though they were ready before it.
    pub(super) passed: Vec<Wait>,
    at: At,
    epoch: u64,
    main_at: Option<CommitSha>,
    head: Option<CommitSha>,
    places: Vec<(String, Proven)>,
    tries: u32,
    pub(super) facts: TurnFacts,
}

/// What follows from a step.
pub(crate) enum Next {
    Goes(Saga),
    Ended { saga: Saga, end: Option<LandingEnd> },
}

impl Saga {
    pub(crate) fn new(task: (usize, u32), ready: Timestamp, began: Timestamp, passed: Vec<Wait>) -> Self {
        let (task, asked) = task;
        Self {
            task,
            asked,
            ready,
            began,
            passed,
            at: At::Lease,
            epoch: 0,
            main_at: None,
            head: None,
            places: Vec::new(),
            tries: 0,
            facts: TurnFacts::default(),
        }
    }

    /// Its turn, as whoever comes meanwhile counts it.
    pub(crate) fn begun<'t>(&self, task: &'t TaskId) -> Begun<'t> {
        Begun { task, ready: self.ready, began: self.began }
    }

    /// The next step. `halted`: the lane is paused, which is heard at borders.
    pub(crate) fn step(mut self, world: &mut World, halted: bool) -> Result<Next, Broken> {
        let stale = !matches!(self.at, At::Lease) && (world.epoch != self.epoch || !world.held);
        if stale && world.rules.habits.fenced {
            world.seen_stale += 1;
            // The lease is somebody else's: nothing is given back.
            return Ok(self.over(Some(LandingEnd::Deferred { why: "the lease was lost".to_owned() })));
        }
        let border = matches!(self.at, At::Fetch | At::CatchUp | At::Publish | At::Judge | At::Open);
        if halted && border {
            return Ok(self.end(world, None));
        }
        match self.at.clone() {
            At::Lease => {
                // What is still recorded has no living holder: there is one saga at a time.
                world.epoch += 1 + u64::from(world.held);
                world.held = true;
                self.epoch = world.epoch;
                self.at = At::Attach;
            }
            At::Attach => {
                if !lands(&world.tasks[self.task]) {
                    return Ok(self.end(world, None));
                }
                if let Some(landing) = world.landings.iter().find(|l| l.task == self.task).cloned() {
                    return Ok(self.landed(world, &landing.sha));
                }
                let open = world.windows.iter().position(|w| w.task == self.task && w.open);
                self.at = match open {
                    Some(window) => At::Send { window, n: 0, attached: true },
                    None => At::Fetch,
                };
            }
            At::Fetch => {
                if self.tries == CATCH_UPS {
                    return Ok(self.end(world, Some(LandingEnd::MainMoved { why: "again and again".to_owned() })));
                }
                self.tries += 1;
                self.main_at = Some(world.repo.main.clone());
                self.facts.main.clone_from(&self.main_at);
                self.at = At::CatchUp;
            }
            At::CatchUp => {
                let (own, main) = (world.tasks[self.task].head.clone(), self.main_at.clone());
                let (Some(own), Some(main)) = (own, main) else { return Err("a landing of nothing".to_owned()) };
                match world.repo.catch_up(&own, &main) {
                    Some(head) => self.head = Some(head),
                    None => {
                        let (fault, findings) = (WorkFault::Conflict, "shared".to_owned());
                        return Ok(self.end(world, Some(LandingEnd::SentBack { fault, findings, head: None })));
                    }
                }
                self.at = At::Publish;
            }
            At::Publish => {
                let (head, main) = self.candidate()?;
                if head != main {
                    let there = world.repo.branches.get(&self.task).cloned();
                    let theirs = there.as_ref().is_some_and(|at| world.foreign.contains(at));
                    if theirs && world.rules.habits.leased_push {
                        let why = "a person works on it".to_owned();
                        return Ok(self.end(world, Some(LandingEnd::Refused { why })));
                    }
                    // Moved on meanwhile: main may hold it by now, and a push of it would look like a merge.
                    if !world.repo.contains(&head, &world.repo.main) || !world.rules.habits.leased_push {
                        world.branch_moved(self.task, &head)?;
                    }
                }
                self.at = At::Judge;
            }
            At::Judge => return self.judge(world),
            At::Open => return self.open(world),
            At::Send { window, n, attached } => return self.send(world, window, n, attached),
            At::Verify { window } => return Ok(self.verify(world, window)),
        }
        Ok(Next::Goes(self))
    }

    fn candidate(&self) -> Result<(CommitSha, CommitSha), Broken> {
        self.head.clone().zip(self.main_at.clone()).ok_or_else(|| "a step without a candidate".to_owned())
    }

    fn judge(mut self, world: &mut World) -> Result<Next, Broken> {
        let (head, base) = self.candidate()?;
        if std::mem::take(&mut world.trouble) {
            let why = "no tool".to_owned();
            let end = match world.rules.habits.tells_trouble {
                true => LandingEnd::CouldNotRun { why },
                false => LandingEnd::SentBack { fault: WorkFault::Tests, findings: why, head: Some(head) },
            };
            return Ok(self.end(world, Some(end)));
        }
        let tests = |world: &World, sha: &CommitSha| world.repo.failed(sha);
        let caught_up = world.tasks[self.task].head.as_ref() != Some(&head);
        let failed = match world.rules.habits.tests_again || !caught_up {
            true => tests(world, &head),
            // What passed before it was caught up passes afterwards: the mistake that this gate is there for.
            false => BTreeSet::new(),
        };
        if !failed.is_empty() {
            let alone = tests(world, &base);
            let on_main = if alone.is_empty() { OnMain::Passed } else { OnMain::Failed(Failure::Named(alone)) };
            let names: Vec<String> = failed.iter().cloned().collect();
            let end = match (world.rules.blame)(&Failure::Named(failed), &on_main) {
                Blame::Work { also_on_main, .. } => {
                    let own: Vec<String> = names.iter().filter(|name| !also_on_main.contains(*name)).cloned().collect();
                    let findings = list(&own, true);
                    LandingEnd::SentBack { fault: WorkFault::Tests, findings, head: Some(head) }
                }
                Blame::Main { note } => LandingEnd::MainRed { why: note },
                Blame::Unknown { why } => LandingEnd::CouldNotRun { why },
            };
            return Ok(self.end(world, Some(end)));
        }
        let tree = world.repo.tree(&head);
        self.places.clear();
        for gate in GATES {
            let said = Proven {
                gate,
                verdict: Verdict::Passed,
                head: head.clone(),
                tree: tree.clone(),
                base: Some(base.clone()),
            };
            let place = match world.rules.habits.own_place {
                true => format!("{}/{}-on-{}/{gate}", self.task, head.short(), base.short()),
                false => format!("{gate}"),
            };
            world.reports.insert(place.clone(), said.clone());
            self.places.push((place, said));
        }
        self.facts.proven = Some(head.clone());
        match (world.rules.permit)(&world.tasks[self.task], &head, &base) {
            Permit::Lands => self.at = At::Open,
            Permit::AwaitsApproval => return Ok(self.end(world, Some(LandingEnd::AwaitingApproval { head }))),
            Permit::AwaitsMerge => return Ok(self.end(world, Some(LandingEnd::AwaitingMerge { head }))),
        }
        Ok(Next::Goes(self))
    }

    fn open(mut self, world: &mut World) -> Result<Next, Broken> {
        let (head, base) = self.candidate()?;
        let read: Vec<Proven> = self.places.iter().filter_map(|(place, _)| world.reports.get(place).cloned()).collect();
        let candidate = Candidate { head: head.clone(), tree: world.repo.tree(&head), base: base.clone() };
        if let Err(why) = (world.rules.may_land)(&candidate, world.tasks[self.task].policy.gates, &read) {
            return Ok(self.end(world, Some(LandingEnd::CouldNotRun { why })));
        }
        if !world.rules.habits.intent_first && head != base && world.repo.main == base {
            world.moved(&head)?;
        }
        let places = self.places.clone();
        world.windows.push(Window { task: self.task, sha: head, expected: base, open: true, places });
        self.at = At::Send { window: world.windows.len() - 1, n: 0, attached: false };
        Ok(Next::Goes(self))
    }

    fn send(mut self, world: &mut World, window: usize, n: u32, attached: bool) -> Result<Next, Broken> {
        let Window { sha, expected, .. } = world.windows[window].clone();
        let mishap = std::mem::replace(&mut world.mishap, Mishap::None);
        let compares = world.rules.habits.compares;
        let said = match mishap {
            Mishap::NotSent => Said::NotSent,
            Mishap::Refused if !attached && n == 0 => Said::Refused,
            _ if world.repo.main == sha => Said::Moved,
            _ if world.repo.main != expected && compares => {
                Said::Elsewhere { contains: world.repo.contains(&sha, &world.repo.main) }
            }
            Mishap::Late => {
                world.repo.under_way.push((expected, sha));
                Said::Unknown
            }
            Mishap::DoneUnheard | Mishap::None | Mishap::Refused => {
                world.moved(&sha)?;
                if mishap == Mishap::DoneUnheard { Said::Unknown } else { Said::Moved }
            }
        };
        match (world.rules.after)(said, attached || n > 0) {
            Then::Verify => self.at = At::Verify { window },
            Then::CatchUpAgain => {
                give_up(world, window)?;
                self.facts.resets.insert("main-moved".to_owned(), self.tries);
                self.at = At::Fetch;
            }
            Then::NeedsPerson => {
                give_up(world, window)?;
                return Ok(self.end(world, Some(LandingEnd::Refused { why: "no".to_owned() })));
            }
            Then::Void => {
                give_up(world, window)?;
                return Ok(self.end(world, Some(LandingEnd::CouldNotRun { why: "not sent".to_owned() })));
            }
            Then::Repeat if n > 5 => {
                return Ok(self.end(world, Some(LandingEnd::CouldNotRun { why: "no answer".to_owned() })));
            }
            Then::Repeat => self.at = At::Send { window, n: n + 1, attached },
        }
        Ok(Next::Goes(self))
    }

    fn verify(self, world: &mut World, window: usize) -> Next {
        let Window { sha, places, .. } = world.windows[window].clone();
        if !world.repo.contains(&sha, &world.repo.main) {
            return self.end(world, Some(LandingEnd::CouldNotRun { why: "main does not hold it".to_owned() }));
        }
        // One transaction.
        world.windows[window].open = false;
        world.landings.push(Landing { task: self.task, sha: sha.clone(), places });
        self.landed(world, &sha)
    }

    fn landed(self, world: &mut World, sha: &CommitSha) -> Next {
        world.repo.branches.remove(&self.task);
        let landed = Landed { sha: sha.clone(), tree: world.repo.tree(sha), at: world.now };
        self.end(world, Some(LandingEnd::Landed { landed, deploy: DeployEnd::NotConfigured }))
    }

    /// Gives the lease back and ends.
    fn end(self, world: &mut World, end: Option<LandingEnd>) -> Next {
        if world.epoch == self.epoch {
            world.held = false;
        }
        self.over(end)
    }

    fn over(self, end: Option<LandingEnd>) -> Next {
        Next::Ended { saga: self, end }
    }
}

/// Closes a window without a landing: only an intent that cannot come true any more is given up.
fn give_up(world: &mut World, window: usize) -> Result<(), Broken> {
    let Window { sha, expected, .. } = &world.windows[window];
    let arrives = world.repo.under_way.iter().any(|(from, to)| to == sha && *from == world.repo.main);
    if sha != expected && (arrives || world.repo.contains(sha, &world.repo.main)) {
        return Err(format!("I7: the intent to land {} was given up, and it lands", sha.short()));
    }
    world.windows[window].open = false;
    Ok(())
}
