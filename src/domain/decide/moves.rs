//! The moves a decision is made of: enter a stage, wait, send back, defer, block, close.
//!
//! Owns the ceilings: each move that repeats something counts it first and blocks when the ceiling is reached.

use serde_json::{Value, json};

use super::{Change, MERGE_POLL};
use crate::agent::Usage;
use crate::effect::{Effect, Outgoing, ShownState};
use crate::event::{DeployEnd, RunFacts};
use crate::ids::{CommitSha, RunId};
use crate::journal::Entry;
use crate::landing::FailureClass;
use crate::pipeline::Work;
use crate::policy::DeployMode;
use crate::task::{ApprovalOf, Blocked, Landed, State, Step, Task, WaitFor, first_line, headline};
use crate::time::{Millis, Timestamp};
use crate::view::way_to_approve;

impl Change {
    pub(super) fn entry(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        if !self.effects.contains(&effect) {
            self.effects.push(effect);
        }
    }

    pub(super) fn send(&mut self, outgoing: Outgoing) {
        self.outgoing.push(outgoing);
    }

    /// Adds what a run has spent.
    pub(super) fn account(&mut self, facts: &RunFacts) {
        self.task.usage = self.task.usage.plus(facts.report.usage);
        self.task.agent_wall = Millis(self.task.agent_wall.0.saturating_add(facts.report.wall.0));
    }

    /// Takes over what could be taken out of the workspace.
    pub(super) fn take_head(&mut self, facts: &RunFacts) {
        if facts.head.is_some() {
            self.task.head.clone_from(&facts.head);
        }
        if facts.base.is_some() {
            self.task.base.clone_from(&facts.base);
        }
        if facts.main.is_some() {
            self.task.main.clone_from(&facts.main);
        }
    }

    /// The same, unless the run changed what its role had no right to change: that is neither kept nor resumed from.
    pub(super) fn take_own_head(&mut self, facts: &RunFacts) {
        if facts.foreign_paths.is_empty() {
            self.take_head(facts);
        }
    }

    /// What is counted "in a row" begins anew: something conclusive has happened.
    pub(super) fn calm(&mut self) {
        self.task.counters.infrastructure = 0;
        self.task.counters.deferrals = 0;
        self.task.counters.main_moved = 0;
        self.task.counters.main_red = 0;
        self.task.counters.interrupted_checks = 0;
    }

    /// Waits; the effects that end the wait come with it.
    pub(super) fn wait(&mut self, on: WaitFor, then: Step, now: Timestamp) {
        let entry = Entry::new("waiting", wait_text(&on)).with(json!({"on": on}));
        self.entry(entry);
        for effect in effects_of_wait(&on, now, MERGE_POLL) {
            self.effect(effect);
        }
        self.task.state = State::Waiting { on, then, since: now };
    }

    /// Asks people to let a judged commit land; says so where they have approved another one before.
    pub(super) fn ask_to_land(&mut self, head: &CommitSha, now: Timestamp) {
        let before = self.task.asked.replace(head.clone()).filter(|before| before != head);
        let mut void = None;
        if let Some(before) = before
            && let Some(by) = self.task.approvals.iter().rfind(|a| a.what == ApprovalOf::Land && a.sha == before)
        {
            let text = format!(
                "the approval of {} by {} is void: {} has moved or the work has changed, and what would land now is {}",
                before.short(),
                by.by,
                self.task.main_name(),
                head.short()
            );
            self.entry(Entry::new("approval-void", text.clone()));
            void = Some(text);
        }
        self.ask_approval(ApprovalOf::Land, head, void, Step::Land, now);
    }

    /// Asks people to let what has landed be deployed.
    pub(super) fn ask_to_deploy(&mut self, landed: &CommitSha, now: Timestamp) {
        self.ask_approval(ApprovalOf::Deploy, landed, None, Step::Deploy, now);
    }

    fn ask_approval(&mut self, what: ApprovalOf, sha: &CommitSha, first: Option<String>, then: Step, now: Timestamp) {
        let key = &self.task.key;
        let title = format!("{key} waits for an approval to {} {}", what.as_str(), sha.short());
        let way = format!("`{}`", way_to_approve(key, what, sha));
        let body = first.map_or_else(|| way.clone(), |first| format!("{first}\n{way}"));
        self.send(Outgoing::Notify { needs_you: true, title, body });
        self.wait(WaitFor::Approval { what, sha: sha.clone() }, then, now);
    }

    /// Waits for a person to merge; looked at every minute, and told once.
    pub(super) fn ask_to_merge(&mut self, head: &CommitSha, now: Timestamp) {
        if self.task.asked.replace(head.clone()).as_ref() != Some(head) {
            let title = format!("{} waits for a person to merge {}", self.task.key, head.short());
            let body = format!("The gates have passed. It is on the branch {}.", self.task.branch());
            self.send(Outgoing::Notify { needs_you: true, title, body });
        }
        self.wait(WaitFor::PersonMerges { sha: head.clone() }, Step::Land, now);
    }

    /// Starts the next agent run.
    pub(super) fn start_run(&mut self, now: Timestamp) {
        self.task.counters.runs += 1;
        let run = self.task.run_id(self.task.counters.runs);
        let stage = self.task.stage.clone();
        let nth = self.task.agent_runs.entry(stage.clone()).or_insert(0);
        *nth += 1;
        let attempt = *nth;
        let text = format!("{stage}: attempt {attempt}");
        self.entry(Entry::new("run-started", text).with(json!({"run": run, "attempt": attempt})));
        self.effect(Effect::StartRun { run: run.clone(), stage, attempt });
        self.task.state = State::Running { run, step: Step::Agent, since: now };
    }

    /// Begins a step of the current stage.
    pub(super) fn begin(&mut self, step: Step, now: Timestamp) {
        match step {
            Step::Agent => self.wait(WaitFor::Slot, Step::Agent, now),
            Step::Check | Step::Command | Step::Security => self.start_check(step, now),
            // Whether it needs an approval is told by the lane, once it is known what would land and that it may.
            Step::Land => match &self.task.head {
                None => self.block_without_head(now),
                Some(_) => self.ask_lane(Step::Land, now),
            },
            Step::Deploy => match (&self.task.landed, self.task.policy.deploy) {
                (Some(Landed { sha, .. }), DeployMode::Approval) if !self.task.is_approved(ApprovalOf::Deploy, sha) => {
                    let sha = sha.clone();
                    self.ask_to_deploy(&sha, now);
                }
                _ => self.ask_lane(Step::Deploy, now),
            },
        }
    }

    /// Begins a step that a person asked for, behind whatever still has to be waited for: a block must be no way round
    /// the dependencies or the turn.
    pub(super) fn go_on(&mut self, then: Step, now: Timestamp) {
        if self.task.counters.runs == 0 && !self.task.depends_on.is_empty() {
            let open = self.task.depends_on.clone();
            self.wait(WaitFor::Dependencies { open }, then, now);
        } else if self.task.policy.serial && !self.task.has_turn && self.task.past_first_stage() {
            self.wait(WaitFor::Turn, then, now);
        } else {
            self.begin(then, now);
        }
    }

    fn ask_lane(&mut self, step: Step, now: Timestamp) {
        self.task.lane_asked = self.task.lane_asked.saturating_add(1);
        self.effect(Effect::AskLane { step });
        self.task.state = State::Landing { step, since: now };
    }

    /// Runs the stage's check or command on the head, under a run id of its own: a repetition never meets the record of
    /// the one before.
    fn start_check(&mut self, step: Step, now: Timestamp) {
        let Some(head) = self.task.head.clone() else {
            self.block_without_head(now);
            return;
        };
        self.task.counters.runs += 1;
        let run = self.task.run_id(self.task.counters.runs);
        self.effect(Effect::StartCheck { run: run.clone(), step, head });
        self.task.state = State::Running { run, step, since: now };
    }

    fn block_without_head(&mut self, now: Timestamp) {
        let why = format!("stage `{}` has no commit to work on; is an agent stage before it?", self.task.stage);
        self.block(Blocked::Infrastructure { why }, now);
    }

    /// After an accepted agent run: the exit check where there is one, else the next stage.
    pub(super) fn after_agent(&mut self, now: Timestamp) {
        match &self.task.current().work {
            Work::Agent { check: Some(_), .. } => self.begin(Step::Check, now),
            _ => self.advance(now),
        }
    }

    /// Enters the next stage, after its turn has come where the repository is serial.
    pub(super) fn advance(&mut self, now: Timestamp) {
        let Some(next) = self.task.pipeline.next(&self.task.stage) else {
            return;
        };
        let step = match next.work {
            Work::Agent { .. } => Step::Agent,
            Work::Command { .. } => Step::Command,
            Work::Land if self.task.policy.gates.security.is_asked() => Step::Security,
            Work::Land => Step::Land,
        };
        self.task.stage = next.name.clone();
        // Ceilings on interruptions and deferrals are per stage: a task that gets on may be interrupted again later.
        self.calm();
        self.task.counters.interrupted = 0;
        self.task.stage_head.clone_from(&self.task.head);
        let text = format!("entered {}", self.task.stage);
        self.entry(Entry::new("stage-entered", text).with(json!({"stage": self.task.stage, "head": self.task.head})));
        if self.task.policy.serial && !self.task.has_turn {
            self.wait(WaitFor::Turn, step, now);
        } else {
            self.begin(step, now);
        }
    }

    /// Sends the work back with the findings, verbatim; blocks when that has happened as often as allowed.
    pub(super) fn send_back(&mut self, findings: &str, to_developer: bool, now: Timestamp) {
        let (counted, most) = (self.task.counters.developer_retries, self.task.policy.max_developer_retries);
        if counted >= most {
            let blocked = Blocked::RetriesSpent { findings: findings.to_owned() };
            self.send_to_person(blocked, findings, to_developer, now);
            return;
        }
        self.task.counters.developer_retries += 1;
        self.back_to(counted + 1, most, findings, to_developer, now);
    }

    /// The same for what did not go together with `main`: that is counted by itself.
    pub(super) fn send_back_conflicted(&mut self, findings: &str, now: Timestamp) {
        let (counted, most) = (self.task.counters.conflicts, self.task.policy.max_conflicts);
        if counted >= most {
            let blocked = Blocked::ConflictedTooOften { findings: findings.to_owned() };
            self.send_to_person(blocked, findings, true, now);
            return;
        }
        self.task.counters.conflicts += 1;
        self.back_to(counted + 1, most, findings, true, now);
    }

    /// What a retry by a person begins with: the stage that would have had to mend it.
    fn send_to_person(&mut self, blocked: Blocked, findings: &str, to_developer: bool, now: Timestamp) {
        self.task.stage_head.clone_from(&self.task.head);
        self.calm();
        self.go_back(to_developer);
        self.task.findings = Some(findings.to_owned());
        self.block_at(blocked, Step::Agent, now);
    }

    fn back_to(&mut self, n: u32, most: u32, findings: &str, to_developer: bool, now: Timestamp) {
        let from = self.task.stage.clone();
        self.task.stage_head.clone_from(&self.task.head);
        self.calm();
        self.go_back(to_developer);
        self.task.findings = Some(findings.to_owned());
        let text = format!("sent back from {from} to {} ({n} of {most}): {}", self.task.stage, headline(findings));
        self.entry(Entry::new("sent-back", text).with(json!({"from": from, "findings": findings})));
        self.send(Outgoing::Comment { text: format!("Sent back from {from} ({n} of {most}):\n\n{findings}") });
        self.begin(Step::Agent, now);
    }

    fn go_back(&mut self, to_developer: bool) {
        if to_developer && let Some(target) = self.task.pipeline.rollback_target(&self.task.stage) {
            self.task.stage = target.name.clone();
        }
    }

    /// Resumes after an interruption, or blocks when that has happened as often as allowed. What runs no agent is
    /// interrupted by the end of its supervisor only: that is no fault of the work and costs no tokens. It has a ceiling of
    /// its own all the same, since a test may be what ends the supervisor each time.
    pub(super) fn interrupted(&mut self, why: &str, step: Step, now: Timestamp) {
        if step == Step::Agent {
            self.effect(Effect::GiveSlotBack);
        }
        let (policy, counters) = (&self.task.policy, &mut self.task.counters);
        let (counted, most) = match step {
            Step::Agent => (&mut counters.interrupted, policy.max_interrupted),
            _ => (&mut counters.interrupted_checks, policy.max_interrupted_checks()),
        };
        if *counted >= most {
            self.block_at(Blocked::InterruptedTooOften, step, now);
            return;
        }
        *counted += 1;
        let n = *counted;
        self.entry(Entry::new("interrupted", format!("interrupted ({n} of {most}), goes on: {why}")));
        if step == Step::Agent {
            self.task.interrupted_note = Some(why.to_owned());
        }
        self.begin(step, now);
    }

    /// Comes back later; costs no attempt, but is capped.
    pub(super) fn defer(&mut self, why: &str, then: Step, now: Timestamp) {
        let n = self.task.counters.deferrals + 1;
        match self.task.policy.deferral.delay(n) {
            Some(delay) => {
                self.task.counters.deferrals = n;
                self.wait(WaitFor::Until { at: now.after(delay), why: why.to_owned() }, then, now);
            }
            None => self.block_at(Blocked::DeferredTooOften { why: why.to_owned() }, then, now),
        }
    }

    /// Comes back to the lane later: it was busy, `main` kept moving, or was red. Each is counted by itself, none costs an
    /// attempt, all are capped.
    pub(super) fn put_off(&mut self, class: FailureClass, why: &str, then: Step, now: Timestamp) {
        let counters = &mut self.task.counters;
        let counter = match class {
            FailureClass::MainRed => &mut counters.main_red,
            FailureClass::MainMoved => &mut counters.main_moved,
            _ => &mut counters.deferrals,
        };
        let n = *counter + 1;
        let Some(delay) = self.task.policy.lane.spread(n, self.task.id.as_str()) else {
            let why = why.to_owned();
            let blocked = match class {
                FailureClass::MainRed => Blocked::MainIsRed { why },
                _ => Blocked::DeferredTooOften { why },
            };
            self.block_at(blocked, then, now);
            return;
        };
        *counter = n;
        let most = self.task.policy.lane.tries;
        let text = format!("{class} ({n} of {most}): {}", headline(why));
        self.entry(Entry::new("put-off", text).with(json!({"class": class, "why": why})));
        if class == FailureClass::MainRed && n == 1 {
            let title = format!("{} of {} is red: {} waits", self.task.main_name(), self.task.repo, self.task.key);
            self.send(Outgoing::Notify { needs_you: true, title, body: why.to_owned() });
        }
        self.wait(WaitFor::Until { at: now.after(delay), why: first_line(why).to_owned() }, then, now);
    }

    /// Something of ours could not run: repeat with backoff, then a person.
    pub(super) fn could_not_run(&mut self, why: &str, then: Step, now: Timestamp) {
        let n = self.task.counters.infrastructure + 1;
        match self.task.policy.infrastructure.delay(n) {
            Some(delay) => {
                self.task.counters.infrastructure = n;
                let most = self.task.policy.infrastructure.tries;
                self.entry(Entry::new("could-not-run", format!("could not run ({n} of {most}): {why}")));
                self.wait(WaitFor::Until { at: now.after(delay), why: why.to_owned() }, then, now);
            }
            None => self.block_at(Blocked::Infrastructure { why: why.to_owned() }, then, now),
        }
    }

    /// Stops where it is until a person acts.
    pub(super) fn block(&mut self, why: Blocked, now: Timestamp) {
        let then = match (&self.task.state, &self.task.landed) {
            (_, Some(_)) => Step::Deploy,
            (State::Waiting { then, .. } | State::Blocked { then, .. }, None) => *then,
            (State::Running { step, .. } | State::Landing { step, .. }, None) => *step,
            (State::Done { .. } | State::Cancelled { .. }, None) => Step::Agent,
        };
        self.block_at(why, then, now);
    }

    fn block_at(&mut self, why: Blocked, then: Step, now: Timestamp) {
        if matches!(self.task.state, State::Running { step: Step::Agent, .. }) {
            self.effect(Effect::GiveSlotBack);
        }
        let text = why.text();
        self.entry(Entry::new("blocked", text.clone()).with(json!({"code": why.code()})));
        self.send(Outgoing::Show { state: ShownState::Blocked });
        self.send(Outgoing::Comment { text: format!("Blocked: {text}") });
        self.send(Outgoing::Notify {
            needs_you: true,
            title: format!("{} is blocked ({})", self.task.key, why.code()),
            body: text,
        });
        self.task.state = State::Blocked { why, then, since: now };
    }

    /// Tells a person how a deploy of a stopped task ended, which the task itself will not ask about.
    pub(super) fn tell_of_deploy(&mut self, what: &str, why: &str) {
        let title = format!("{}: {what}", self.task.key);
        self.send(Outgoing::Notify { needs_you: true, title, body: why.to_owned() });
    }

    /// Closes the task as landed.
    pub(super) fn close_done(&mut self, now: Timestamp, text: &str) {
        self.task.state = State::Done { at: now };
        self.entry(Entry::new("done", text));
        self.send(Outgoing::Show { state: ShownState::Done });
        self.send(Outgoing::Notify {
            needs_you: false,
            title: format!("{} is done", self.task.key),
            body: text.to_owned(),
        });
        self.effect(Effect::Close);
    }
}

/// What ends a wait: repeated whenever the actor resumes.
pub(super) fn effects_of_wait(on: &WaitFor, now: Timestamp, merge_poll: Millis) -> Vec<Effect> {
    match on {
        WaitFor::Slot => vec![Effect::AskSlot],
        WaitFor::Until { at, .. } => vec![Effect::SetTimer { at: *at }],
        WaitFor::Dependencies { open } => vec![Effect::WatchDependencies { keys: open.clone() }],
        WaitFor::Turn => vec![Effect::AskTurn],
        WaitFor::Approval { .. } => Vec::new(),
        WaitFor::PersonMerges { .. } => vec![Effect::SetTimer { at: now.after(merge_poll) }],
    }
}

fn wait_text(on: &WaitFor) -> String {
    match on {
        WaitFor::Slot => "waits for an agent slot".to_owned(),
        WaitFor::Until { at, why } => format!("waits until {at}: {why}"),
        WaitFor::Dependencies { open } => {
            let names: Vec<&str> = open.iter().map(crate::names::TaskKey::as_str).collect();
            format!("waits for {}", names.join(", "))
        }
        WaitFor::Turn => "waits for its turn: the repository is serial".to_owned(),
        WaitFor::Approval { what, sha } => format!("waits for approval to {} {}", what.as_str(), sha.short()),
        WaitFor::PersonMerges { sha } => format!("waits for a person to merge {}", sha.short()),
    }
}

pub(super) fn deploy_text(deploy: &DeployEnd) -> String {
    match deploy {
        DeployEnd::NotConfigured => "nothing to deploy: no deploy command is configured".to_owned(),
        DeployEnd::Deployed { .. } => "deployed and healthy".to_owned(),
        DeployEnd::Held { sha, by, .. } => format!("already deployed with {} ({by})", sha.short()),
        DeployEnd::Failed { why } => format!("deploy failed: {why}"),
        DeployEnd::AwaitingApproval => "the deploy waits for approval".to_owned(),
        DeployEnd::CouldNotRun { why } => format!("the deploy could not be carried out now: {why}"),
    }
}

pub(super) fn run_data(task: &Task, run: &RunId, facts: &RunFacts) -> Value {
    json!({
        "run": run, "stage": task.stage, "end": facts.end, "head": facts.head, "base": facts.base,
        "usage": facts.report.usage, "wall_ms": facts.report.wall, "tool_calls": facts.report.tool_calls,
        "session": facts.report.session,
    })
}

/// Which ceiling is reached, if one is: with both numbers.
pub(super) fn over_budget(task: &Task) -> Option<String> {
    let (budget, from) = (task.policy.budget, &task.budget_from);
    let sum = |usage: &Usage| usage.input_tokens.unwrap_or(0).saturating_add(usage.output_tokens.unwrap_or(0));
    let tokens = sum(&task.usage).saturating_sub(sum(&from.usage));
    if let Some(most) = budget.tokens.filter(|most| tokens >= *most) {
        return Some(format!("{tokens} tokens of {most}"));
    }
    let cost = task.usage.cost_micro_usd.unwrap_or(0).saturating_sub(from.usage.cost_micro_usd.unwrap_or(0));
    if let Some(most) = budget.cost_micro_usd.filter(|most| cost >= *most) {
        return Some(format!("{cost} of {most} millionths of a dollar"));
    }
    let wall = Millis(task.agent_wall.0.saturating_sub(from.wall.0));
    if let Some(most) = budget.wall.filter(|most| wall >= *most) {
        return Some(format!("{wall} of {most} of agent time"));
    }
    None
}
