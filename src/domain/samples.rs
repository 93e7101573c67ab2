//! Samples: one representative task per kind of state, and one representative event per way an event can turn out.
//!
//! Owns what the state table and the tests are made of: every kind of state, wait and step that a task can be in, at its
//! ceilings too and under a recorded STOP; every kind of event with the outcomes that the rules tell apart. Refuses
//! randomness: the same build gives the same samples.

use std::sync::Arc;

use crate::agent::{AgentClaim, AgentReport, Usage};
use crate::event::{ArtefactFact, CheckEnd, DeployEnd, Event, LandingEnd, RunFacts};
use crate::ids::{CommitSha, Generation};
use crate::job::JobEnd;
use crate::landing::WorkFault;
use crate::left::Left;
use crate::names::{StageName, TaskKey};
use crate::pipeline::{Pipeline, Role, Work};
use crate::policy::{DeployMode, GatePlan, LandMode, Policy};
use crate::task::{ApprovalOf, Blocked, Counters, Landed, NewTask, State, Step, StopMark, Task, WaitFor};
use crate::time::{Millis, Timestamp};

/// The instant at which every sample stands.
pub const NOW: Timestamp = Timestamp(1_763_931_600_000);

/// A named representative task.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What state it is in, in words.
    pub name: &'static str,
    /// The task.
    pub task: Task,
}

/// A commit id made of one repeated hex digit.
///
/// # Panics
/// When `digit` is no lower-case hex digit.
#[must_use]
pub fn sha(digit: char) -> CommitSha {
    digit.to_string().repeat(40).parse().expect("forty equal lower-case hex digits are a commit id")
}

/// A task key.
///
/// # Panics
/// When `text` is no task key.
#[must_use]
pub fn key(text: &str) -> TaskKey {
    text.parse().expect("samples use valid keys")
}

/// What has landed in the samples.
#[must_use]
pub fn landed() -> Landed {
    Landed { sha: sha('c'), tree: sha('d'), at: NOW }
}

/// A new task of a built-in pipeline.
///
/// # Panics
/// When there is no such built-in pipeline.
#[must_use]
pub fn new_task(pipeline: &str, policy: Policy, depends_on: Vec<TaskKey>) -> Task {
    let new = NewTask {
        id: "task0001".parse().expect("a valid id"),
        key: key("ORC-1"),
        generation: Generation(1),
        repo: "shop".parse().expect("a valid name"),
        title: "Add a basket".to_owned(),
        body: "Customers want a basket.".to_owned(),
        tracker_item: None,
        priority: 0,
        depends_on,
        pipeline: Pipeline::built_in(pipeline).expect("a built-in pipeline"),
        policy,
        agent: None,
    };
    Task::new(new, NOW)
}

/// A task of the pipeline `full` in the named stage, after as many runs as it takes to be there.
///
/// # Panics
/// When `full` has no such stage.
#[must_use]
pub fn task_at(stage: &str, state: State) -> Task {
    let mut task = new_task("full", Policy::default(), Vec::new());
    let stage: StageName = stage.parse().expect("a valid stage name");
    assert!(task.pipeline.stage(&stage).is_some(), "samples use stages of `full`");
    task.stage = stage;
    if task.past_first_stage() {
        task.base = Some(sha('a'));
        task.head = Some(sha('b'));
        task.stage_head = Some(sha('b'));
    }
    task.counters.runs = 4;
    task.state = state;
    task
}

/// The state of waiting for `on`, with `then` to follow.
#[must_use]
pub fn waiting(on: WaitFor, then: Step) -> State {
    State::Waiting { on, then, since: NOW }
}

/// The state of run 4 being under way.
#[must_use]
pub fn running(step: Step) -> State {
    State::Running { run: "task0001r4".parse().expect("a valid id"), step, since: NOW }
}

fn until(then: Step) -> State {
    waiting(WaitFor::Until { at: NOW.after(Millis::from_secs(30)), why: "the lane is busy".to_owned() }, then)
}

fn blocked(why: Blocked, then: Step) -> State {
    State::Blocked { why, then, since: NOW }
}

fn with_policy(mut task: Task, change: impl FnOnce(&mut Policy)) -> Task {
    change(Arc::make_mut(&mut task.policy));
    task
}

fn with_landed(mut task: Task) -> Task {
    task.landed = Some(landed());
    task
}

fn at_ceilings(mut task: Task) -> Task {
    let policy = &task.policy;
    task.counters = Counters {
        runs: 4,
        developer_retries: policy.max_developer_retries,
        conflicts: policy.max_conflicts,
        interrupted: policy.max_interrupted,
        interrupted_checks: policy.max_interrupted_checks(),
        infrastructure: policy.infrastructure.tries,
        deferrals: policy.deferral.tries,
        main_moved: policy.lane.tries,
        main_red: policy.lane.tries,
    };
    task
}

fn stopped(mut task: Task) -> Task {
    task.stop = Some(StopMark { at: NOW, by: "ann".to_owned(), source: "http".to_owned() });
    task
}

/// Every kind of state, wait and step; the order of the table.
#[must_use]
pub fn states() -> Vec<Sample> {
    let mut all = live_states();
    let closing = [
        ("STOP recorded: waiting for a slot", stopped(task_at("development", waiting(WaitFor::Slot, Step::Agent)))),
        ("STOP recorded: agent runs", stopped(task_at("development", running(Step::Agent)))),
        ("STOP recorded: test command runs", stopped(task_at("testing", running(Step::Command)))),
        ("STOP recorded: landing", stopped(task_at("deploy", landing(Step::Land)))),
        ("STOP recorded: deploying", stopped(with_landed(task_at("deploy", landing(Step::Deploy))))),
        ("STOP recorded: blocked", stopped(task_at("testing", blocked(Blocked::InterruptedTooOften, Step::Command)))),
        ("done", with_landed(task_at("deploy", State::Done { at: NOW }))),
        ("cancelled", stopped(task_at("development", State::Cancelled { at: NOW }))),
    ];
    all.extend(closing.into_iter().map(|(name, task)| Sample { name, task }));
    all
}

fn secured(task: Task) -> Task {
    with_policy(task, |policy| policy.gates = GatePlan::everything())
}

fn landing(step: Step) -> State {
    State::Landing { step, since: NOW }
}

fn live_states() -> Vec<Sample> {
    let dependent = {
        let mut task = new_task("full", Policy::default(), vec![key("ORC-7"), key("ORC-8")]);
        task.counters.runs = 0;
        task
    };
    let approval = |what, sha, then| waiting(WaitFor::Approval { what, sha }, then);
    let approve_land = approval(ApprovalOf::Land, sha('b'), Step::Land);
    let approve_deploy = approval(ApprovalOf::Deploy, landed().sha, Step::Deploy);
    let failed = blocked(Blocked::LandedDeployFailed { why: "exit 1".to_owned() }, Step::Deploy);
    let unknown = blocked(Blocked::OutcomeUnknown { why: "the push was cut off".to_owned() }, Step::Land);
    let spent = blocked(Blocked::RetriesSpent { findings: "2 tests failed".to_owned() }, Step::Agent);
    let cancelled = blocked(Blocked::DependencyCancelled { key: key("ORC-7") }, Step::Agent);
    let all = [
        ("waiting for dependencies", dependent.clone()),
        (
            "waiting for dependencies, which may not be cancelled",
            with_policy(dependent.clone(), |p| {
                p.on_cancelled_dependency = crate::policy::OnCancelledDependency::Block;
            }),
        ),
        ("waiting for a slot", task_at("development", waiting(WaitFor::Slot, Step::Agent))),
        ("agent runs: analysis", task_at("analysis", running(Step::Agent))),
        ("agent runs: development", task_at("development", running(Step::Agent))),
        ("agent runs: review", task_at("review", running(Step::Agent))),
        ("agent runs, every counter at its ceiling", at_ceilings(task_at("development", running(Step::Agent)))),
        ("exit check runs", task_at("development", running(Step::Check))),
        ("exit check runs, every counter at its ceiling", at_ceilings(task_at("development", running(Step::Check)))),
        ("test command runs", task_at("testing", running(Step::Command))),
        ("security gate runs", secured(task_at("deploy", running(Step::Security)))),
        ("waiting for a time, then the security gate", secured(task_at("deploy", until(Step::Security)))),
        (
            "security gate runs, every counter at its ceiling",
            at_ceilings(secured(task_at("deploy", running(Step::Security)))),
        ),
        ("test command runs, the security gate is next", secured(task_at("deploy-staging", running(Step::Command)))),
        ("waiting for a time, then the agent", task_at("development", until(Step::Agent))),
        ("waiting for a time, then the check", task_at("development", until(Step::Check))),
        ("waiting for a time, then the command", task_at("testing", until(Step::Command))),
        ("waiting for a time, then landing", task_at("deploy", until(Step::Land))),
        ("waiting for a time, then the deploy", with_landed(task_at("deploy", until(Step::Deploy)))),
        (
            "waiting for its turn in a serial repository",
            with_policy(task_at("architecture", waiting(WaitFor::Turn, Step::Agent)), |p| p.serial = true),
        ),
        ("waiting for approval to land", with_policy(task_at("deploy", approve_land), |p| p.land = LandMode::Approval)),
        (
            "waiting for approval to deploy",
            with_policy(with_landed(task_at("deploy", approve_deploy)), |p| p.deploy = DeployMode::Approval),
        ),
        (
            "waiting for a person to merge",
            with_policy(task_at("deploy", waiting(WaitFor::PersonMerges { sha: sha('b') }, Step::Land)), |p| {
                p.land = LandMode::PrOnly;
            }),
        ),
        ("landing", task_at("deploy", landing(Step::Land))),
        ("landing, every counter at its ceiling", at_ceilings(task_at("deploy", landing(Step::Land)))),
        ("deploying what has landed", with_landed(task_at("deploy", landing(Step::Deploy)))),
        ("blocked: retries spent", task_at("development", spent)),
        ("blocked: a dependency was cancelled", Task { state: cancelled, ..dependent }),
        ("blocked: outcome unknown", task_at("deploy", unknown)),
        ("blocked: landed, deploy failed", with_landed(task_at("deploy", failed))),
    ];
    all.into_iter().map(|(name, task)| Sample { name, task }).collect()
}

/// Facts of a run of the task's current stage that left what the stage demands.
#[must_use]
pub fn good_facts(task: &Task) -> RunFacts {
    let role = match task.current().work {
        Work::Agent { role, .. } => role,
        Work::Command { .. } | Work::Land => Role::Developer,
    };
    let written = |status: &str, reviewed_head| ArtefactFact::Written {
        status: status.to_owned(),
        reviewed_head,
        text: "as asked".to_owned(),
    };
    let start = task.head.clone().or(Some(sha('a')));
    RunFacts {
        end: Some(JobEnd::Exited { code: 0 }),
        trouble: None,
        report: AgentReport {
            usage: Usage { input_tokens: Some(100), output_tokens: Some(10), ..Usage::default() },
            claim: Some(AgentClaim::Success),
            wall: Millis::from_secs(60),
            ..AgentReport::default()
        },
        main: Some("main".parse().expect("a branch")),
        base: Some(sha('a')),
        head: Some(if start == Some(sha('e')) { sha('f') } else { sha('e') }),
        unusable: None,
        left: Left::default(),
        foreign_paths: Vec::new(),
        artefact: match role {
            Role::Developer => ArtefactFact::NotAsked,
            Role::Analyst | Role::Architect => written("ready", None),
            Role::Reviewer => written("approved", start.clone()),
        },
        output_tail: String::new(),
        start,
    }
}

fn run_events(task: &Task) -> Vec<(&'static str, Event)> {
    let run = match &task.state {
        State::Running { run, .. } => run.clone(),
        _ => task.run_id(task.counters.runs),
    };
    let good = good_facts(task);
    let facts = |change: &dyn Fn(&mut RunFacts)| {
        let mut facts = good.clone();
        change(&mut facts);
        Event::RunEnded { run: run.clone(), facts: Box::new(facts) }
    };
    let check = |end| Event::CheckEnded { run: run.clone(), end };
    let why = || "the disk is full".to_owned();
    vec![
        ("run-ended: accepted", facts(&|_| {})),
        (
            "run-ended: left nothing",
            facts(&|f| {
                f.head.clone_from(&f.start);
                f.artefact = ArtefactFact::Missing { path: "docs/tasks/note.md".to_owned() };
            }),
        ),
        (
            "run-ended: asks for changes",
            facts(&|f| {
                f.artefact = ArtefactFact::Written {
                    status: "changes_requested".to_owned(),
                    reviewed_head: f.start.clone(),
                    text: "rename it".to_owned(),
                };
            }),
        ),
        ("run-ended: touched what it may not", facts(&|f| f.foreign_paths = vec!["src/main.rs".to_owned()])),
        ("run-ended: exit code 1", facts(&|f| f.end = Some(JobEnd::Exited { code: 1 }))),
        ("run-ended: timed out", facts(&|f| f.end = Some(JobEnd::TimedOut))),
        ("run-ended: no end event", facts(&|f| f.report.claim = None)),
        (
            "run-ended: rate limited",
            facts(&|f| f.report.claim = Some(AgentClaim::RateLimited { text: "come back later".to_owned() })),
        ),
        ("run-ended: could not run", facts(&|f| f.trouble = Some(why()))),
        (
            "run-ended: no such program",
            facts(&|f| f.end = Some(JobEnd::CouldNotStart { why: "no file `claude`".to_owned() })),
        ),
        (
            "run-ended: of another run",
            Event::RunEnded { run: task.run_id(task.counters.runs + 7), facts: Box::new(good.clone()) },
        ),
        ("check-ended: passed", check(CheckEnd::passed("412 tests"))),
        ("check-ended: failed", check(CheckEnd::Failed { findings: "2 tests failed".to_owned() })),
        ("check-ended: could not run", check(CheckEnd::CouldNotRun { why: why() })),
        ("check-ended: not configured", check(CheckEnd::NotConfigured { why: "name a test command".to_owned() })),
        (
            "check-ended: of another run",
            Event::CheckEnded { run: task.run_id(task.counters.runs + 7), end: CheckEnd::passed("") },
        ),
    ]
}

fn landing_events(task: &Task) -> Vec<(&'static str, Event)> {
    let asked = task.lane_asked;
    let why = || "the lane is busy".to_owned();
    let deployed = |deploy| LandingEnd::Landed { landed: landed(), deploy };
    let all = [
        ("landing-ended: landed, nothing to deploy", deployed(DeployEnd::NotConfigured)),
        ("landing-ended: landed and deployed", deployed(DeployEnd::Deployed { at: NOW })),
        (
            "landing-ended: landed, deployed with a newer one",
            deployed(DeployEnd::Held { sha: sha('d'), by: key("ORC-9"), at: NOW }),
        ),
        ("landing-ended: landed, deploy failed", deployed(DeployEnd::Failed { why: "exit 1".to_owned() })),
        ("landing-ended: landed, deploy awaits approval", deployed(DeployEnd::AwaitingApproval)),
        (
            "landing-ended: landed, deploy could not run",
            deployed(DeployEnd::CouldNotRun { why: "no checkout".to_owned() }),
        ),
        (
            "landing-ended: sent back, tests fail",
            LandingEnd::SentBack { fault: WorkFault::Tests, findings: "a::b failed".to_owned(), head: Some(sha('9')) },
        ),
        (
            "landing-ended: sent back, conflict",
            LandingEnd::SentBack { fault: WorkFault::Conflict, findings: "conflict in a.rs".to_owned(), head: None },
        ),
        (
            "landing-ended: sent back, a gate failed",
            LandingEnd::SentBack { fault: WorkFault::Gate, findings: "coverage fell".to_owned(), head: Some(sha('9')) },
        ),
        ("landing-ended: main is red", LandingEnd::MainRed { why: "a::b fails on main".to_owned() }),
        ("landing-ended: main moved", LandingEnd::MainMoved { why: "main moved 5 times".to_owned() }),
        ("landing-ended: deferred", LandingEnd::Deferred { why: why() }),
        ("landing-ended: could not run", LandingEnd::CouldNotRun { why: why() }),
        ("landing-ended: not configured", LandingEnd::NotConfigured { why: why() }),
        ("landing-ended: refused", LandingEnd::Refused { why: "the branch is protected".to_owned() }),
        ("landing-ended: awaiting approval", LandingEnd::AwaitingApproval { head: sha('9') }),
        ("landing-ended: awaiting merge", LandingEnd::AwaitingMerge { head: sha('9') }),
        (
            "landing-ended: outcome unknown",
            LandingEnd::OutcomeUnknown { why: "the push was cut off".to_owned(), landed: None },
        ),
        (
            "landing-ended: landed, deploy unknown",
            LandingEnd::OutcomeUnknown { why: "no exit record".to_owned(), landed: Some(landed()) },
        ),
        ("landing-ended: stopped", LandingEnd::Stopped),
    ];
    let earlier = LandingEnd::CouldNotRun { why: why() };
    let earlier = ("landing-ended: of an earlier request", Event::LandingEnded { asked: asked + 1, end: earlier });
    all.into_iter().map(|(name, end)| (name, Event::LandingEnded { asked, end })).chain([earlier]).collect()
}

/// Every kind of event, as it could reach this task at [`NOW`]; the order of the table.
#[must_use]
pub fn events(task: &Task) -> Vec<(&'static str, Event)> {
    let asked = match &task.state {
        State::Waiting { on: WaitFor::Approval { what, sha }, .. } => (*what, sha.clone()),
        _ => (ApprovalOf::Land, sha('b')),
    };
    let by = || "bob".to_owned();
    let seen = |open: &[&str], cancelled: &[&str]| Event::DependenciesSeen {
        open: open.iter().map(|k| key(k)).collect(),
        cancelled: cancelled.iter().map(|k| key(k)).collect(),
    };
    let mut all = vec![
        ("resumed", Event::Resumed { run_attached: false }),
        ("resumed: run attached", Event::Resumed { run_attached: true }),
        ("slot-granted", Event::SlotGranted),
    ];
    all.extend(run_events(task));
    all.extend(landing_events(task));
    all.extend([
        ("timer-fired", Event::TimerFired),
        ("dependencies-seen: all open", seen(&["ORC-7", "ORC-8"], &[])),
        ("dependencies-seen: one open", seen(&["ORC-8"], &[])),
        ("dependencies-seen: none open", seen(&[], &[])),
        ("dependencies-seen: one cancelled", seen(&[], &["ORC-7"])),
        ("turn-came", Event::TurnCame),
        ("approved", Event::Approved { what: asked.0, sha: asked.1, by: by() }),
        ("approved: another commit", Event::Approved { what: asked.0, sha: sha('0'), by: by() }),
        ("retry-requested", Event::RetryRequested { by: by() }),
        ("stop-requested", Event::StopRequested { by: by() }),
        ("stop-carried-out", Event::StopCarriedOut { finished: None }),
        ("stop-carried-out: nothing was left", Event::StopCarriedOut { finished: Some(landed()) }),
        ("crash-looped", Event::CrashLooped { why: "index out of bounds".to_owned() }),
    ]);
    all
}
