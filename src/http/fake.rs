//! A front desk with fixed answers, for the tests of `http` and `cli`. Views are made by the real domain code.

mod logs;
mod proofs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use orch_actors::api::{
    About, ActorView, AuditGap, AuditView, BaselineView, Control, ControlError, CoverageFailure, CoveragePoint,
    CoverageView, DeferredView, GateTally, GcItem, HandOver, JobView, LandingView, LaneView, LeaseView, LogPage,
    LogView, ModeView, ProofQuery, ProofView, QueueView, Readiness, RepoStop, RepoView, Restored, SalvageView,
    SecurityView, SetBaseline, Share, Slots, StopAnswer, StopBlock, StopPending, StopUnderWay, Submit, TaskFilter,
};
use orch_domain::agent::Usage;
use orch_domain::coverage::{CoverageMode, Format, Step as Moved, Totals};
use orch_domain::gate::InScope;
use orch_domain::ids::{CommitPrefix, CommitSha, Epoch, Generation, Seq};
use orch_domain::job::{Containment, Enforced, JobKind, JobStatus};
use orch_domain::journal::{Entry, Record};
use orch_domain::lane::LaneMode;
use orch_domain::names::RepoName;
use orch_domain::pipeline::Pipeline;
use orch_domain::policy::Policy;
use orch_domain::stop::{Receipt, ReceiptLine, StepResult, StopStep};
use orch_domain::task::{ApprovalOf, Blocked, Landed, NewTask, State, Status, Step, StopMark, Task};
use orch_domain::time::{Millis, Timestamp};
use orch_domain::turns::{LaneStatistics, Turn, TurnEnd, TurnFacts};
use orch_domain::view::{Holders, RunView, TaskDetail, TaskView, Why, why};
use tokio::sync::watch;

pub(crate) const NOW: Timestamp = Timestamp(1_763_931_769_123);

pub(crate) fn later(secs: i64) -> Timestamp {
    Timestamp(NOW.0 + secs * 1_000)
}

fn sha(digit: char) -> CommitSha {
    digit.to_string().repeat(40).parse().expect("hex")
}

fn paused() -> ModeView {
    let (who, why) = (Some("ann".to_owned()), Some("main is <red>".to_owned()));
    ModeView { mode: LaneMode::Paused, who, why, since: Some(later(80)) }
}

fn lane(lease: LeaseView) -> LaneView {
    let put_off = DeferredView {
        key: "ORC-9".parse().expect("valid"),
        available_at: later(500),
        why: "main moved 5 times while it was being landed".to_owned(),
    };
    let turn = Turn {
        task: "t004".parse().expect("valid"),
        key: "ORC-4".parse().expect("valid"),
        ready: later(290),
        queued: later(290),
        began: later(295),
        ended: later(299),
        end: TurnEnd::Landed,
        facts: TurnFacts { tests: 1, test_ms: Millis(3_000), ..TurnFacts::default() },
    };
    LaneView {
        lease,
        lane: paused(),
        landings: vec![LandingView { key: "ORC-4".parse().expect("valid"), sha: sha('a'), at: later(299) }],
        deferred: vec![put_off],
        statistics: LaneStatistics::of(&[turn]),
    }
}

#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) tasks: Vec<Task>,
    records: Vec<Record>,
    /// What was asked, in words, for assertions.
    pub(crate) asked: Vec<String>,
    pub(crate) intake_closed: bool,
    /// Whether reads of the inside fail.
    pub(crate) broken: bool,
    pub(crate) settle_submitted: bool,
    /// The newest request for a task.
    pub(crate) submitted: Option<Submit>,
}

pub(crate) struct FakeControl {
    pub(crate) desk: Mutex<Desk>,
    grown: watch::Sender<Seq>,
}

pub(crate) fn new_task(key: &str, title: &str, n: u32) -> Task {
    let new = NewTask {
        id: format!("t00{n}").parse().expect("valid"),
        key: key.parse().expect("valid"),
        generation: Generation(1),
        repo: "shop".parse().expect("valid"),
        title: title.to_owned(),
        body: "Please.".to_owned(),
        tracker_item: None,
        priority: 0,
        depends_on: Vec::new(),
        pipeline: Pipeline::built_in("lite").expect("built in"),
        policy: Policy::default(),
        agent: None,
    };
    Task::new(new, NOW)
}

impl FakeControl {
    /// Four tasks: queued, running, blocked, done.
    pub(crate) fn with_tasks() -> Arc<Self> {
        let queued = new_task("ORC-1", "Add a <b>button</b>\u{1b}[31m", 1);
        let mut running = new_task("ORC-2", "Sort the list", 2);
        running.state = State::Running { run: running.run_id(1), step: Step::Agent, since: later(60) };
        running.counters.runs = 1;
        let mut blocked = new_task("ORC-3", "Fix the tests", 3);
        let why = Blocked::RetriesSpent { findings: "test_a failed\nat line 3".to_owned() };
        blocked.state = State::Blocked { why, then: Step::Agent, since: later(120) };
        blocked.findings = Some("test_a failed\nat line 3".to_owned());
        blocked.counters.developer_retries = 3;
        let mut done = new_task("ORC-4", "Say hello", 4);
        done.state = State::Done { at: later(300) };
        done.landed = Some(Landed { sha: sha('a'), tree: sha('b'), at: later(299) });
        done.head = Some(sha('a'));
        done.base = Some(sha('c'));
        done.usage = Usage {
            input_tokens: Some(1_200),
            cached_tokens: None,
            output_tokens: Some(340),
            cost_micro_usd: Some(12_500),
        };
        let fake = Self { desk: Mutex::default(), grown: watch::channel(Seq(0)).0 };
        fake.desk.lock().expect("sound").tasks = vec![queued, running, blocked, done];
        for (at, key, text) in [(1, "ORC-1", "accepted"), (2, "ORC-2", "accepted"), (3, "ORC-2", "agent started")] {
            fake.push(key, at, text);
        }
        Arc::new(fake)
    }

    /// One more record of a task.
    pub(crate) fn push(&self, key: &str, secs: i64, text: &str) {
        let mut desk = self.desk.lock().expect("sound");
        let seq = Seq(desk.records.len() as u64 + 1);
        let task = desk.tasks.iter().find(|t| t.key.as_str() == key);
        let record = Record {
            seq,
            at: later(secs),
            task: task.map(|t| t.id.clone()),
            key: task.map(|t| t.key.clone()),
            generation: task.map(|t| t.generation),
            repo: task.map(|t| t.repo.clone()),
            stage: task.map(|t| t.stage.clone()),
            entry: Entry::new("noted", text),
        };
        desk.records.push(record);
        drop(desk);
        self.grown.send_replace(seq);
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.desk.lock().expect("sound").asked.clone()
    }

    fn find(&self, key: &str) -> Result<Task, ControlError> {
        let desk = self.desk.lock().expect("sound");
        if desk.broken {
            return Err(ControlError::Internal("secret inner cause".to_owned()));
        }
        let (name, life) = key.split_once('/').unwrap_or((key, "1"));
        let found = desk.tasks.iter().find(|t| (t.key.as_str() == name || t.id.as_str() == name) && life == "1");
        found.cloned().ok_or_else(|| ControlError::NotFound(format!("there is no task `{key}`")))
    }
}

#[async_trait]
impl Control for FakeControl {
    async fn submit(&self, submit: Submit, by: &str) -> Result<TaskView, ControlError> {
        let mut desk = self.desk.lock().expect("sound");
        if desk.intake_closed {
            return Err(ControlError::Unavailable("draining: no new work is taken".to_owned()));
        }
        desk.asked.push(format!("submit `{}` by {by}", submit.title));
        desk.submitted = Some(submit.clone());
        let key = submit.key.as_ref().map_or("ORC-5", |k| k.as_str()).to_owned();
        if desk.tasks.iter().any(|t| t.key.as_str() == key) {
            return Err(ControlError::Conflict(format!("`{key}` is live already")));
        }
        let mut task = new_task(&key, &submit.title, 5);
        if desk.settle_submitted {
            task.state = State::Done { at: later(9) };
            task.landed = Some(Landed { sha: sha('d'), tree: sha('e'), at: later(9) });
        }
        let view = TaskView::of(&task);
        desk.tasks.push(task);
        drop(desk);
        self.push(&key, 5, "accepted");
        Ok(view)
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<TaskView>, ControlError> {
        let desk = self.desk.lock().expect("sound");
        let wanted =
            |t: &&Task| (filter.closed || !t.is_terminal()) && filter.repo.as_ref().is_none_or(|r| *r == t.repo);
        Ok(desk.tasks.iter().filter(wanted).map(TaskView::of).collect())
    }

    async fn task(&self, key: &str, _all: bool) -> Result<Vec<TaskDetail>, ControlError> {
        let task = self.find(key)?;
        let runs = match task.state {
            State::Done { .. } => vec![RunView {
                run: task.run_id(1),
                stage: "development".parse().expect("valid"),
                kind: "agent".to_owned(),
                attempt: 1,
                started: later(10),
                ended: Some(later(200)),
                outcome: Some("finished".to_owned()),
                usage: task.usage,
            }],
            _ => Vec::new(),
        };
        Ok(vec![TaskDetail {
            task: TaskView::of(&task),
            body: task.body.clone(),
            why: why(&task, &Holders::default()),
            findings: task.findings.clone(),
            depends_on: Vec::new(),
            runs,
        }])
    }

    async fn journal(&self, key: &str, after: Seq, limit: usize) -> Result<Vec<Record>, ControlError> {
        let id = self.find(key)?.id;
        let desk = self.desk.lock().expect("sound");
        Ok(desk.records.iter().filter(|r| r.task.as_ref() == Some(&id) && r.seq > after).take(limit).cloned().collect())
    }

    async fn why(&self, key: &str) -> Result<Why, ControlError> {
        let held_by = (key == "ORC-1").then(|| "ORC-2 and one other".to_owned());
        Ok(why(&self.find(key)?, &Holders { held_by, ..Holders::default() }))
    }

    async fn receipt(&self, key: &str) -> Result<Receipt, ControlError> {
        let task = self.find(key)?;
        let line = |step, result| ReceiptLine { step, at: later(400), result };
        Ok(Receipt {
            task: task.id,
            key: task.key,
            generation: task.generation,
            requested: later(399),
            by: "cli:me".to_owned(),
            source: "cli".to_owned(),
            outcome: "stopping".to_owned(),
            lines: vec![
                line(StopStep::Recorded, StepResult::Done { proof: "row 7".to_owned() }),
                line(StopStep::Lease, StepResult::Nothing { proof: "held by nobody".to_owned() }),
                line(StopStep::RemoteBranch, StepResult::Pending { why: "the forge is away".to_owned() }),
            ],
        })
    }

    async fn logs(&self, key: &str) -> Result<Vec<LogView>, ControlError> {
        self.find(key)?;
        Ok(logs::all())
    }

    async fn log(&self, key: &str, run: Option<u32>, offset: u64, _max: usize) -> Result<LogPage, ControlError> {
        self.find(key)?;
        logs::page(key, run, offset)
    }

    async fn stop(&self, key: &str, by: &str, source: &str) -> Result<StopAnswer, ControlError> {
        let mut task = self.find(key)?;
        self.desk.lock().expect("sound").asked.push(format!("stop {key} by {by} from {source}"));
        task.stop = Some(StopMark { at: later(399), by: by.to_owned(), source: source.to_owned() });
        Ok(StopAnswer { task: TaskView::of(&task), first: true, receipt: format!("/tasks/{key}/receipt") })
    }

    async fn stop_repo(&self, repo: &RepoName, by: &str, source: &str) -> Result<RepoStop, ControlError> {
        if repo.as_str() != "shop" {
            return Err(ControlError::NotFound(format!("repository `{repo}` is not configured")));
        }
        self.desk.lock().expect("sound").asked.push(format!("stop all of {repo} by {by} from {source}"));
        let mut stopped = Vec::new();
        for task in self.tasks(TaskFilter::default()).await? {
            stopped.push(self.stop(task.key.as_str(), by, source).await?);
        }
        Ok(RepoStop { repo: repo.clone(), stopped })
    }

    async fn hand_over(&self, by: &str) -> Result<HandOver, ControlError> {
        self.desk.lock().expect("sound").asked.push(format!("hand over by {by}"));
        Ok(HandOver { agents: vec!["ORC-2".parse().expect("valid")], grace_ms: Millis::from_mins(5) })
    }

    async fn gc_plan(&self) -> Result<Vec<GcItem>, ControlError> {
        let gone = self.desk.lock().expect("sound").asked.iter().any(|asked| asked.starts_with("gc by"));
        let why = "closed long ago".to_owned();
        Ok(if gone { Vec::new() } else { vec![GcItem { kind: "job-folder".to_owned(), name: "j1".to_owned(), why }] })
    }

    async fn gc(&self, by: &str) -> Result<Vec<GcItem>, ControlError> {
        let items = self.gc_plan().await?;
        self.desk.lock().expect("sound").asked.push(format!("gc by {by}"));
        Ok(items)
    }

    async fn salvages(&self, repo: Option<&RepoName>) -> Result<Vec<SalvageView>, ControlError> {
        let shop: RepoName = "shop".parse().expect("valid");
        let of = |id: &str, files: Option<u64>, heads: Vec<CommitSha>| SalvageView {
            repo: shop.clone(),
            id: id.to_owned(),
            at: later(500),
            commit: sha('9'),
            files,
            bytes: files.map(|n| n * 100),
            heads,
            until: later(500 + 30 * 86_400),
            about: "Salvage of ORC-2\n".to_owned(),
        };
        match repo.is_none_or(|repo| *repo == shop) {
            true => Ok(vec![of("orc-2/1/t002r1", Some(3), Vec::new()), of("orc-2/1/t002r0", None, vec![sha('8')])]),
            false => Err(ControlError::NotFound("there is no such repository".to_owned())),
        }
    }

    async fn restore_salvage(&self, repo: &RepoName, id: &str, into: PathBuf) -> Result<Restored, ControlError> {
        let name = into.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.desk.lock().expect("sound").asked.push(format!("restore {id} of {repo} into {name}"));
        match into.is_absolute() {
            true => Ok(Restored { into, files: 3 }),
            false => Err(ControlError::Invalid(format!("`{}` is no absolute path", into.display()))),
        }
    }

    async fn retry(&self, key: &str, by: &str) -> Result<TaskView, ControlError> {
        let task = self.find(key)?;
        self.desk.lock().expect("sound").asked.push(format!("retry {key} by {by}"));
        match TaskView::of(&task) {
            view if view.status == Status::Blocked => Ok(view),
            _ => Err(ControlError::Conflict(format!("`{key}` is not blocked"))),
        }
    }

    async fn approve(
        &self,
        key: &str,
        what: ApprovalOf,
        sha: Option<CommitPrefix>,
        by: &str,
    ) -> Result<TaskView, ControlError> {
        let task = self.find(key)?;
        let sha = sha.map_or_else(|| "what waits".to_owned(), |s| s.to_string());
        self.desk.lock().expect("sound").asked.push(format!("approve {} of {key} at {sha} by {by}", what.as_str()));
        Ok(TaskView::of(&task))
    }

    async fn queue(&self) -> Result<QueueView, ControlError> {
        let tasks = self.tasks(TaskFilter::default()).await?;
        let count = |status: Status| tasks.iter().filter(|t| t.status == status).count();
        let by_status = BTreeMap::from([("queued".to_owned(), count(Status::Queued)), ("running".to_owned(), 1)]);
        Ok(QueueView {
            by_status,
            by_stage: BTreeMap::from([("development".to_owned(), tasks.len())]),
            running: tasks.iter().filter(|t| t.status == Status::Running).cloned().collect(),
            waiting: vec![self.why("ORC-1").await?],
            agents: Slots { used: 1, total: 2, waiting: 1 },
            gates: Slots { used: 0, total: 2, waiting: 0 },
            security: SecurityView {
                engine: "builtin".to_owned(),
                audit: Some(AuditView {
                    feed: "the OSV service https://osv.example".to_owned(),
                    whole: 2,
                    degraded: 1,
                    last_gap: Some(AuditGap { at: later(300), why: "the feed is away".to_owned() }),
                    ..AuditView::default()
                }),
                tally: GateTally { passed: 3, ..GateTally::default() },
            },
            merge: vec![lane(self.leases().await?.remove(0))],
            coverage: self.coverages().await?,
            stop: StopBlock {
                status_enabled: true,
                under_way: vec![StopUnderWay {
                    key: "ORC-6".parse().expect("valid"),
                    generation: Generation(2),
                    since: later(390),
                    by: "cli:me".to_owned(),
                    source: "cli".to_owned(),
                    doing: "stopping: deferred until the deploy ends".to_owned(),
                }],
                pending: vec![StopPending {
                    key: "ORC-7".parse().expect("valid"),
                    generation: Generation(1),
                    step: StopStep::RemoteBranch,
                    why: "the forge is away".to_owned(),
                    tried: later(350),
                    next: Some(later(410)),
                }],
            },
            refused_stale_writes: 2,
            intake: "open".to_owned(),
            standstill: None,
        })
    }

    async fn jobs(&self) -> Result<Vec<JobView>, ControlError> {
        Ok(vec![JobView {
            job: "j0001".parse().expect("valid"),
            kind: JobKind::Agent,
            task: Some("t002".parse().expect("valid")),
            label: "agent claude for ORC-2".to_owned(),
            status: JobStatus::Running,
            pid: 4711,
            containment: Containment::PidNamespace,
            enforced: Enforced { asked: true, landlock: 7, scoped: true, own_view: true, ..Enforced::default() },
            since: later(60),
            stands_still: false,
        }])
    }

    async fn leases(&self) -> Result<Vec<LeaseView>, ControlError> {
        Ok(vec![LeaseView {
            repo: "shop".parse::<RepoName>().expect("valid"),
            epoch: Epoch(3),
            holder: None,
            purpose: None,
            since: None,
            expires: None,
            queue: Vec::new(),
        }])
    }

    async fn repos(&self) -> Result<Vec<RepoView>, ControlError> {
        Ok(vec![RepoView {
            name: "shop".parse().expect("valid"),
            location: "/srv/shop".to_owned(),
            main: Some("main".to_owned()),
            lane: paused(),
            gates: Some(orch_domain::gate::LANDING_GATES.to_vec()),
        }])
    }

    async fn coverage(&self, repo: &RepoName) -> Result<CoverageView, ControlError> {
        let mut view = coverage();
        if *repo != view.repo {
            return Err(ControlError::NotFound(format!("there is no repository `{repo}`; known: {}", view.repo)));
        }
        view.failures.truncate(1);
        Ok(view)
    }

    async fn coverages(&self) -> Result<Vec<CoverageView>, ControlError> {
        Ok(vec![coverage()])
    }

    async fn coverage_history(
        &self,
        repo: &RepoName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<CoveragePoint>, ControlError> {
        let view = self.coverage(repo).await?;
        let below = |point: &CoveragePoint| before.is_none_or(|before| point.id < before);
        let most = if limit == 0 { usize::MAX } else { limit as usize };
        Ok(view.trend.into_iter().rev().filter(below).take(most).collect())
    }

    async fn set_baseline(&self, asked: SetBaseline, by: &str) -> Result<CoverageView, ControlError> {
        let view = self.coverage(&asked.repo).await?;
        let what = match (asked.covered, asked.total) {
            (Some(covered), Some(total)) => format!("{covered} of {total}"),
            _ => format!("last: {}", asked.last),
        };
        let text = format!("baseline of {} to {what}: `{}` by {by}", asked.repo, asked.reason);
        self.desk.lock().expect("sound").asked.push(text);
        Ok(view)
    }

    async fn set_lane_mode(
        &self,
        repo: &RepoName,
        mode: LaneMode,
        why: &str,
        by: &str,
    ) -> Result<RepoView, ControlError> {
        let mut view = self.repos().await?.remove(0);
        if *repo != view.name {
            return Err(ControlError::NotFound(format!("there is no repository `{repo}`; known: {}", view.name)));
        }
        self.desk.lock().expect("sound").asked.push(format!("lane of {repo} {}: `{why}` by {by}", mode.as_str()));
        let (who, why) = (Some(by.to_owned()), Some(why.to_owned()));
        view.lane = ModeView { mode, who, why, since: Some(later(90)) };
        Ok(view)
    }

    async fn proofs(&self, asked: ProofQuery) -> Result<Vec<ProofView>, ControlError> {
        if let Some(key) = &asked.task {
            self.find(key)?;
        }
        let of = |proof: &ProofView| asked.task.as_ref().is_none_or(|key| proof.key.as_str() == key);
        Ok(proofs::proofs(asked.verify).into_iter().filter(of).collect())
    }

    async fn actors(&self) -> Result<Vec<ActorView>, ControlError> {
        Ok(vec![ActorView {
            name: "task ORC-2/1".to_owned(),
            state: "waits for its run".to_owned(),
            at: later(61),
            restarts: 0,
        }])
    }

    async fn records_after(&self, after: Seq, limit: usize) -> Result<Vec<Record>, ControlError> {
        let desk = self.desk.lock().expect("sound");
        Ok(desk.records.iter().filter(|r| r.seq > after).take(limit).cloned().collect())
    }

    fn watch_records(&self) -> watch::Receiver<Seq> {
        self.grown.subscribe()
    }

    async fn ready(&self) -> Readiness {
        match self.desk.lock().expect("sound").intake_closed {
            false => Readiness { ready: true, reason: "ok".to_owned() },
            true => Readiness { ready: false, reason: "draining".to_owned() },
        }
    }

    fn about(&self) -> About {
        About {
            version: "0.1.0".to_owned(),
            started: NOW,
            uptime_ms: Millis(61_500),
            containment: vec!["shim".to_owned()],
        }
    }

    async fn backup(&self, to: PathBuf) -> Result<String, ControlError> {
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.desk.lock().expect("sound").asked.push(format!("backup {name}"));
        Ok("verified: 4 tasks".to_owned())
    }
}

fn share(covered: u64, total: u64) -> Share {
    Totals::new(covered, total).expect("possible").into()
}

fn coverage() -> CoverageView {
    let point = |id: i64, covered, step: Moved, task: Option<&str>| CoveragePoint {
        id,
        at: later(100 + id),
        share: share(covered, 200),
        sha: "a".repeat(40).parse().expect("valid"),
        task: task.map(|task| task.parse().expect("valid")),
        by: task.map_or("cli:ann", |_| "ORC-4").to_owned(),
        step,
        reason: "landed as aaaaaaaaaaaa".to_owned(),
        excluded: Some(3),
        format: Some(Format::CoveragePy),
        tool: Some("coverage.py 7.17.3".to_owned()),
        baseline: Some(share(180, 200)),
    };
    CoverageView {
        repo: "shop".parse().expect("valid"),
        scope: InScope::Yes,
        mode: CoverageMode::Baseline,
        min_basis_points: 0,
        epsilon_basis_points: 10,
        baseline: Some(BaselineView {
            revision: 2,
            share: share(180, 200),
            sha: "a".repeat(40).parse().expect("valid"),
            step: Moved::Raised,
            set_by: "ORC-4".to_owned(),
            reason: "landed as aaaaaaaaaaaa: covers more".to_owned(),
            at: later(102),
            tool: Some("coverage.py 7.17.3".to_owned()),
        }),
        last: Some(point(2, 180, Moved::Raised, Some("t004"))),
        trend: vec![point(1, 170, Moved::Set, None), point(2, 180, Moved::Raised, Some("t004"))],
        failures: vec![CoverageFailure {
            key: "ORC-3".parse().ok(),
            head: "b".repeat(40).parse().expect("valid"),
            at: later(99),
            why: "Line coverage: 80.00 % (160 of 200 lines) is below the baseline".to_owned(),
        }],
    }
}
