//! The runner's order of steps, refusals of the ledger, and callers that go away.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use orch_adapters::jobs::Runner;
use orch_adapters::ports::{EndLevel, JobError, JobLedger, JobSpec};
use orch_domain::ids::JobId;
use orch_domain::job::{JobEnd, JobExit, JobKind, JobRecord};
use orch_domain::time::Millis;
use orch_shim::record::read_exit;

use crate::support::{World, animal_in, bounded, runs, until};

/// Writes down what it hears, and refuses one step.
#[derive(Default)]
struct Book {
    heard: Mutex<Vec<String>>,
    refuses: Option<&'static str>,
    fails_to_end: Mutex<u32>,
}

impl Book {
    fn hear(&self, step: &str, job: &JobId) -> Result<(), JobError> {
        self.heard.lock().expect("no panic").push(step.to_owned());
        let why = "STOP was recorded".to_owned();
        if self.refuses == Some(step) { Err(JobError::Refused { job: job.clone(), why }) } else { Ok(()) }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("no panic").clone()
    }
}

#[async_trait]
impl JobLedger for Book {
    async fn prepared(&self, record: JobRecord) -> Result<(), JobError> {
        self.hear("prepared", &record.identity.job)
    }

    async fn going(&self, job: &JobId) -> Result<(), JobError> {
        self.hear("going", job)
    }

    async fn ended(&self, job: &JobId, exit: &JobExit) -> Result<(), JobError> {
        {
            let mut left = self.fails_to_end.lock().expect("no panic");
            if *left > 0 {
                *left -= 1;
                return Err(JobError::Unreachable { job: job.clone(), why: "the store is busy".to_owned() });
            }
        }
        self.hear(if exit.started.is_some() { "ended" } else { "ended unstarted" }, job)
    }
}

fn runner(world: &World, book: &Arc<Book>) -> Runner {
    Runner::new(world.placement.clone(), book.clone())
}

#[tokio::test]
async fn every_step_is_recorded_in_order_even_by_a_busy_store() {
    let world = World::new();
    let book = Arc::new(Book { fails_to_end: Mutex::new(2), ..Book::default() });
    bounded(runner(&world, &book).run(world.sh("true"))).await.expect("ran");
    assert_eq!(book.heard(), ["prepared", "going", "ended"]);
}

#[tokio::test]
async fn a_refused_job_never_begins() {
    // Where both are one commit, a refusal does not tell whether anything of it is recorded: the end is told in any case,
    // and that of a job which is not recorded changes nothing.
    let cases = [
        (JobKind::Agent, "prepared", vec!["prepared"]),
        (JobKind::Agent, "going", vec!["prepared", "going", "ended unstarted"]),
        (JobKind::Gate, "prepared", vec!["prepared", "ended unstarted"]),
        (JobKind::Gate, "going", vec!["prepared", "going", "ended unstarted"]),
    ];
    for (kind, step, heard) in cases {
        let world = World::new();
        let book = Arc::new(Book { refuses: Some(step), ..Book::default() });
        let spec = JobSpec { kind, ..world.sh("echo ran > ran") };
        let dir = world.path("jobs").join(spec.id.as_str());
        assert!(matches!(bounded(runner(&world, &book).run(spec)).await, Err(JobError::Refused { .. })));
        let exit = until("the shim's record", || read_exit(&dir).expect("parses")).await;
        assert_eq!((exit.end, exit.started), (JobEnd::Cancelled, None));
        assert_eq!(book.heard(), heard);
        assert!(!world.path("ran").exists());
    }
}

#[tokio::test]
async fn dropping_a_run_ends_its_job_and_records_that() {
    let world = World::new();
    let book = Arc::new(Book::default());
    let mut spec = world.sh("trap '' TERM; echo $$ > pid; while :; do sleep 1000; done");
    spec.limits.grace = Millis(200);
    let id = spec.id.to_string();
    let dir = world.path("jobs").join(&id);
    let runner = runner(&world, &book);
    let pid = tokio::select! {
        ran = runner.run(spec) => panic!("it ended by itself: {ran:?}"),
        pid = async { animal_in(&world.path("pid"), &id).await } => pid,
    };
    let exit = until("its record", || read_exit(&dir).expect("parses")).await;
    assert_eq!(exit.end, JobEnd::Cancelled);
    assert!(!runs(pid));
    until("the ledger's entry", || (book.heard() == ["prepared", "going", "ended"]).then_some(())).await;
}

#[tokio::test]
async fn dropping_a_handle_changes_nothing() {
    let world = World::new();
    let book = Arc::new(Book::default());
    let job = runner(&world, &book).start(world.sh("until [ -e on ]; do sleep 0.01; done")).await.expect("started");
    let identity = job.identity.clone();
    drop(job);
    let again = runner(&world, &book).adopt(identity);
    assert!(!again.is_over());
    std::fs::write(world.path("on"), "").expect("written");
    assert_eq!(bounded(again.wait()).await.expect("over").exit.end, JobEnd::Exited { code: 0 });
    until("both entries", || (book.heard() == ["prepared", "going", "ended", "ended"]).then_some(())).await;
    again.end(EndLevel::Kill).await.expect("already over");
}

#[tokio::test]
async fn dropping_a_start_ends_what_nobody_heard_of() {
    let world = World::new();
    let book = Arc::new(Book::default());
    let spec = world.sh("exec sleep 1000");
    let dir = world.path("jobs").join(spec.id.as_str());
    let runner = runner(&world, &book);
    {
        let mut starting = Box::pin(runner.start(spec));
        assert!(futures::poll!(&mut starting).is_pending());
    }
    let exit = until("its record", || read_exit(&dir).expect("parses")).await;
    assert_eq!(exit.end, JobEnd::Cancelled);
    until("the ledger's entry", || (book.heard() == ["prepared", "going", "ended"]).then_some(())).await;
}
