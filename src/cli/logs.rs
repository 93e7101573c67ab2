//! `orch logs`: what the newest run of a task prints; with `-f` as it comes, across runs, until the task is closed or needs
//! a person. A thin client.

use std::time::Duration;

use clap::Args;
use orch_actors::api::LogPage;
use orch_domain::task::Status;
use orch_domain::view::TaskDetail;

use super::Context;
use super::client::Client;
use super::output::{CliError, Output};

/// Pause between two looks at a log that may grow.
const LOOK: Duration = Duration::from_millis(500);

/// Which log.
#[derive(Args, Clone, Debug)]
pub struct LogsArgs {
    /// Key, KEY/LIFE or task id
    pub key: String,
    /// Follow it as it grows
    #[arg(long, short)]
    pub follow: bool,
}

pub(super) async fn run(context: &Context, args: &LogsArgs, out: &mut Output) -> Result<u8, CliError> {
    let client = Client::find(context)?;
    let mut looks = tokio::time::interval(LOOK);
    let (mut run, mut offset) = (None, 0);
    loop {
        let path = Client::task_path(&args.key, &format!("/log?offset={offset}"));
        let page: LogPage = client.get(&path).await?;
        if page.run != run && offset > 0 {
            // Another run has begun: its log is read from the start.
            (run, offset) = (page.run, 0);
            continue;
        }
        run.clone_from(&page.run);
        let grew = page.next_offset > offset;
        offset = page.next_offset;
        match out.json {
            true if grew || offset == 0 => out.json_line(&page)?,
            true => {}
            false => out.block(&page.text)?,
        }
        if grew {
            continue;
        }
        if !args.follow {
            return Ok(0);
        }
        if page.ended || run.is_none() {
            let detail: TaskDetail = client.get(&Client::task_path(&args.key, "")).await?;
            if matches!(detail.task.status, Status::Done | Status::Cancelled | Status::Blocked | Status::AwaitingPerson)
            {
                return Ok(0);
            }
        }
        looks.tick().await;
    }
}
