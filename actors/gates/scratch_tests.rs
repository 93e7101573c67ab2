//! A gate's folder and the launch of the job in it, when whoever waited for the launch goes away.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use orch_adapters::jobs::Runner;
use orch_adapters::ports::{JobError, JobLedger};
use orch_domain::ids::JobId;
use orch_domain::job::{JobEnd, JobExit, JobRecord};
use orch_domain::pipeline::RepoCommand;
use tokio::sync::Notify;

use super::check_tests::{World, bounded, test_command, until};
use super::checks;

/// Records nothing; holds each launch until it is told to go on, and looks at the folder when the job has ended.
struct HeldLaunch {
    reached: Notify,
    go_on: Notify,
    folder: PathBuf,
    ended: Mutex<Option<(JobEnd, bool)>>,
}

#[async_trait]
impl JobLedger for HeldLaunch {
    async fn prepared(&self, _: JobRecord) -> Result<(), JobError> {
        Ok(())
    }

    async fn going(&self, _: &JobId) -> Result<(), JobError> {
        self.reached.notify_one();
        self.go_on.notified().await;
        Ok(())
    }

    async fn ended(&self, _: &JobId, exit: &JobExit) -> Result<(), JobError> {
        *self.ended.lock().expect("whole") = Some((exit.end.clone(), self.folder.is_dir()));
        Ok(())
    }
}

#[tokio::test]
async fn a_folder_outlives_a_launch_that_nobody_waits_for_any_more() {
    let mut world = World::new(test_command("exec tail -f /dev/null")).await;
    let base = world.commit("main", &[]).await;
    let held = Arc::new(HeldLaunch {
        reached: Notify::new(),
        go_on: Notify::new(),
        folder: world.paths().checkouts.join("run1-1/tree"),
        ended: Mutex::new(None),
    });
    world.runner = Runner::new(world.runner.placement.clone(), held.clone());
    let (ctx, request) = (world.context(), world.request(RepoCommand::Test, &base, &base, "run1"));
    let running = tokio::spawn(async move { checks::run_check(&ctx, &request).await });
    bounded(held.reached.notified()).await;
    running.abort();
    assert!(running.await.expect_err("aborted").is_cancelled());
    // Everything that does not wait for the launch comes to its end before the launch does.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    held.go_on.notify_one();
    until("its folder is gone", || world.nothing_left()).await;
    let ended = held.ended.lock().expect("whole").clone();
    assert_eq!(ended, Some((JobEnd::Cancelled, true)), "the job ran, and was ended before its folder went");
}
