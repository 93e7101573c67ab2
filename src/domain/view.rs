//! Views: what people and programs are shown of a task. Separate types from the state, so that storage may change.
//!
//! Owns the JSON of `GET /tasks`, `/tasks/{key}` and `/tasks/{key}/why`, and the one explanation of every wait (promise
//! P7): what is waited for, who holds it, since when, and which event or time ends it.

use serde::{Deserialize, Serialize};

use crate::agent::Usage;
use crate::ids::{CommitSha, Generation, RunId, TaskId};
use crate::names::{BranchName, RepoName, StageName, TaskKey};
use crate::task::{ApprovalOf, Counters, Landed, State, Status, Step, Task, WaitFor};
use crate::time::{Millis, Timestamp};

/// One task, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// The human key.
    pub key: TaskKey,
    /// Which life.
    pub generation: Generation,
    /// This life's id.
    pub id: TaskId,
    /// The repository.
    pub repo: RepoName,
    /// One line; untrusted text.
    pub title: String,
    /// The stage.
    pub stage: StageName,
    /// The status.
    pub status: Status,
    /// What it waits for or does, in words.
    pub doing: String,
    /// What a person can do about that, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The approval that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<WantedApproval>,
    /// Since when.
    pub since: Timestamp,
    /// When it was accepted.
    pub created: Timestamp,
    /// Higher goes first.
    pub priority: i32,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The branch of this life.
    pub branch: BranchName,
    /// The branch that it lands on; `None` while that is not known.
    #[serde(default)]
    pub main: Option<BranchName>,
    /// Which of the settings that it was handed in with are others here: then it is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_settings: Option<String>,
    /// The commit of `main` it began from.
    pub base: Option<CommitSha>,
    /// Its newest commit.
    pub head: Option<CommitSha>,
    /// What has landed.
    pub landed: Option<Landed>,
    /// Counted against ceilings.
    pub attempts: Counters,
    /// Tokens and money as reported; absent is unknown.
    pub usage: Usage,
    /// Wall time of agent runs together.
    pub agent_wall_ms: Millis,
    /// When a STOP was recorded.
    pub stop_requested: Option<Timestamp>,
}

/// An approval that a task waits for: of exactly this commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedApproval {
    /// Landing or deploy.
    pub what: ApprovalOf,
    /// The commit.
    pub sha: CommitSha,
}

/// One run of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// Its id.
    pub run: RunId,
    /// Its stage.
    pub stage: StageName,
    /// `agent`, `check`, `command`.
    pub kind: String,
    /// Which try at its stage it was, from 1.
    pub attempt: u32,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended, in words.
    pub outcome: Option<String>,
    /// What it spent, as reported.
    pub usage: Usage,
}

/// One task with everything about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDetail {
    /// As listed.
    #[serde(flatten)]
    pub task: TaskView,
    /// The description; untrusted text.
    pub body: String,
    /// What it waits for.
    pub why: Why,
    /// Why it was last sent back.
    pub findings: Option<String>,
    /// Tasks that must be terminal first.
    pub depends_on: Vec<TaskKey>,
    /// Its runs.
    pub runs: Vec<RunView>,
}

/// Why a task is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The task.
    pub key: TaskKey,
    /// Its status.
    pub status: Status,
    /// What it waits for, or what is being done.
    pub waits_for: String,
    /// What its run or landing does right now, where something runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<String>,
    /// Who or what holds that.
    pub held_by: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// Which event or time ends the wait.
    pub ends_by: String,
    /// What a person can do, if anything.
    pub hint: Option<String>,
}

/// What only the running system knows about a wait: who holds a slot, the lane, the turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Who holds what this task waits for.
    pub held_by: Option<String>,
    /// What its run or landing is doing right now.
    pub activity: Option<String>,
    /// The irreversible step of it that is under way, by name.
    pub window: Option<String>,
    /// Whether its check waits for a slot, or its landing for the lane; `None`: not known.
    pub queued: Option<bool>,
}

impl TaskView {
    /// The view of a task at a time.
    #[must_use]
    pub fn of(task: &Task) -> Self {
        let why = why(task, &Holders::default());
        let approval = match &task.state {
            State::Waiting { on: WaitFor::Approval { what, sha }, .. } if task.stop.is_none() => {
                Some(WantedApproval { what: *what, sha: sha.clone() })
            }
            _ => None,
        };
        Self {
            key: task.key.clone(),
            generation: task.generation,
            id: task.id.clone(),
            repo: task.repo.clone(),
            title: task.title.clone(),
            stage: task.stage.clone(),
            status: task.status(),
            doing: why.waits_for,
            hint: why.hint,
            approval,
            since: task.state.since(),
            created: task.created,
            priority: task.priority,
            pipeline: task.pipeline.name.clone(),
            branch: task.branch(),
            main: task.main.clone(),
            other_settings: None,
            base: task.base.clone(),
            head: task.head.clone(),
            landed: task.landed.clone(),
            attempts: task.counters,
            usage: task.usage,
            agent_wall_ms: task.agent_wall,
            stop_requested: task.stop.as_ref().map(|s| s.at),
        }
    }
}

/// Explains where a task is.
#[must_use]
pub fn why(task: &Task, holders: &Holders) -> Why {
    let (waits_for, ends_by, hint) = explain(task, holders);
    let waits_for = match &holders.activity {
        Some(activity) if !task.is_terminal() => format!("{waits_for} ({activity})"),
        _ => waits_for,
    };
    Why {
        key: task.key.clone(),
        status: task.status(),
        waits_for,
        activity: holders.activity.clone().filter(|_| !task.is_terminal()),
        held_by: holders.held_by.clone(),
        since: task.state.since(),
        ends_by,
        hint,
    }
}

fn explain(task: &Task, holders: &Holders) -> (String, String, Option<String>) {
    let key = &task.key;
    let window = holders.window.as_deref();
    if let (Some(stop), false) = (&task.stop, task.is_terminal()) {
        let waits = match (window, &task.state) {
            (Some(step), _) => format!("stopping: deferred until the {step} ends"),
            (None, State::Landing { .. }) => "stopping: until the lane's current step ends".to_owned(),
            (None, _) => "stopping: its jobs, workspace and branch are being cleared away".to_owned(),
        };
        let ends = format!("the last step of its STOP (recorded {} by {}); see `orch receipt {key}`", stop.at, stop.by);
        return (waits, ends, None);
    }
    match &task.state {
        State::Waiting { on, .. } => explain_wait(task, on),
        State::Running { step: Step::Agent, run, .. } => (
            format!("an agent works on {} (run {run})", task.stage),
            "the agent's exit, its time limit or its stall limit".to_owned(),
            Some(format!("orch logs {key} -f")),
        ),
        State::Running { step, .. } => {
            let (what, ends) = match step {
                Step::Check => ("the check of", "the command's exit or its time limit"),
                Step::Security => ("the security gate before", "the gate's verdict or its time limit"),
                _ => ("the command of", "the command's exit or its time limit"),
            };
            let (waits, ends) = match holders.queued {
                Some(true) => {
                    (format!("a gate slot, for {what} {}", task.stage), "another check, test or gate ending".to_owned())
                }
                Some(false) => (format!("{what} {} runs", task.stage), ends.to_owned()),
                None => (format!("{what} {} runs, or waits for a gate slot", task.stage), ends.to_owned()),
            };
            (waits, ends, Some(format!("orch logs {key} -f")))
        }
        State::Landing { step: Step::Deploy, .. } => {
            ("the lane deploys what has landed".to_owned(), "the deploy's exit and health check".to_owned(), None)
        }
        State::Landing { .. } if holders.queued == Some(true) => (
            format!("its turn in the lane of {}", task.repo),
            "the end of the landing or deploy that is before it".to_owned(),
            None,
        ),
        State::Landing { .. } => (
            match holders.queued {
                Some(_) => format!("the lane of {} lands it", task.repo),
                None => format!("the lane of {} lands it, or it waits there for its turn", task.repo),
            },
            "the lane's answer: landed, sent back, or come back later".to_owned(),
            None,
        ),
        State::Blocked { why, .. } => (
            format!("blocked: {}", why.text()),
            "a person: retry or stop".to_owned(),
            Some(format!("orch task retry {key}, or orch task stop {key}")),
        ),
        State::Done { at } => (format!("nothing: done at {at}"), "it is closed".to_owned(), None),
        State::Cancelled { at } => {
            (format!("nothing: cancelled at {at}"), "it is closed".to_owned(), Some(format!("orch receipt {key}")))
        }
    }
}

/// What a person types to approve what they have read, and nothing else that may wait by then.
#[must_use]
pub fn way_to_approve(key: &TaskKey, what: ApprovalOf, sha: &CommitSha) -> String {
    format!("orch task approve {key} {} --sha {}", what.as_str(), sha.short())
}

fn explain_wait(task: &Task, on: &WaitFor) -> (String, String, Option<String>) {
    let key = &task.key;
    match on {
        WaitFor::Slot => ("a free agent slot".to_owned(), "another task leaving its agent stage".to_owned(), None),
        WaitFor::Until { at, why } => (
            format!("a later try: {why}"),
            format!("the time {at}"),
            Some(format!("orch task retry {key} to go on at once")),
        ),
        WaitFor::Dependencies { open } => {
            let names: Vec<&str> = open.iter().map(TaskKey::as_str).collect();
            let ends = "the last of them becoming done or cancelled".to_owned();
            (format!("other tasks to end: {}", names.join(", ")), ends, None)
        }
        WaitFor::Turn => (
            format!("its turn: {} takes one task at a time past the first stage", task.repo),
            "the task in turn becoming done or cancelled".to_owned(),
            None,
        ),
        WaitFor::Approval { what, sha } => (
            format!("a person's approval to {} {}", what.as_str(), sha.short()),
            "an approval of exactly this commit".to_owned(),
            Some(way_to_approve(key, *what, sha)),
        ),
        WaitFor::PersonMerges { sha } => (
            format!("a person to merge {}", sha.short()),
            format!("{} containing that commit (looked at every minute)", task.main_name()),
            None,
        ),
    }
}
