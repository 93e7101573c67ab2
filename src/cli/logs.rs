//! `orch logs`: what the newest run of a task prints; with `-f` as it comes, across runs, until the task is closed or needs
//! a person; or another run of it, or all. A thin client.
//!
//! Owns saying which of the runs it shows. Standard output has what was printed and nothing else, but with `--all`.

use std::time::Duration;

use clap::Args;
use orch_actors::api::{LogPage, LogView};
use orch_domain::task::Status;
use orch_domain::view::TaskDetail;

use super::client::Client;
use super::engine::Sight;
use super::output::{CliError, Output, clean};
use super::{Context, show};

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
    /// Another run than the newest, by the number that is named below each log
    #[arg(long, value_name = "N")]
    pub run: Option<u32>,
    /// All runs, oldest first
    #[arg(long, conflicts_with_all = ["run", "follow"])]
    pub all: bool,
}

pub(super) async fn run(context: &Context, args: &LogsArgs, out: &mut Output) -> Result<u8, CliError> {
    let client = Client::reading(context, Sight::Records, out).await?;
    if args.all {
        return all(&client, args, out).await;
    }
    show_one(&client, args, args.run, out).await?;
    if !args.follow && !out.json {
        let runs = runs(&client, args).await?;
        if let Some(shown) = args.run.and_then(|n| runs.iter().find(|run| run.number == n)).or(runs.last()) {
            let others: Vec<String> = runs.iter().filter(|run| run.number != shown.number).map(named).collect();
            if !others.is_empty() {
                out.note(&format!("that was {}; others: {}; --run N, --all", named(shown), others.join(", ")));
            }
        }
    }
    Ok(0)
}

async fn runs(client: &Client, args: &LogsArgs) -> Result<Vec<LogView>, CliError> {
    Ok(client.get(&Client::task_path(&args.key, "/logs")).await?)
}

/// `2 (test of ORC-1 on 0123456789)`.
fn named(run: &LogView) -> String {
    format!("{} ({})", run.number, show::short(&run.label, 60))
}

/// Each log under a heading. One that is gone is named, and no reason not to show the others.
async fn all(client: &Client, args: &LogsArgs, out: &mut Output) -> Result<u8, CliError> {
    for run in runs(client, args).await? {
        if !out.json {
            let (at, status) = (show::time(run.at), run.status.as_str());
            out.line(&format!("== {}, {}, {at}, {status}", named(&run), run.kind.as_str()))?;
        }
        match show_one(client, args, Some(run.number), out).await {
            Err(CliError::Refused(why)) => out.note(&clean(&why)),
            other => other?,
        }
    }
    Ok(0)
}

/// Shows a log from its beginning to where it is, or for as long as it grows.
async fn show_one(client: &Client, args: &LogsArgs, number: Option<u32>, out: &mut Output) -> Result<(), CliError> {
    let which = number.map(|number| format!("&run={number}")).unwrap_or_default();
    let mut looks = tokio::time::interval(LOOK);
    let (mut run, mut offset) = (None, 0);
    loop {
        let path = Client::task_path(&args.key, &format!("/log?offset={offset}{which}"));
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
        if !args.follow || client.is_at_rest() || (page.ended && number.is_some()) {
            return Ok(());
        }
        if page.ended || run.is_none() {
            let detail: TaskDetail = client.get(&Client::task_path(&args.key, "")).await?;
            if matches!(detail.task.status, Status::Done | Status::Cancelled | Status::Blocked | Status::AwaitingPerson)
            {
                return Ok(());
            }
        }
        looks.tick().await;
    }
}
