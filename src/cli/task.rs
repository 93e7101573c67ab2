//! `orch task ...`: add, list, show, stop, retry, approve.
//!
//! Owns the arguments; everything else is the supervisor's. A thin client.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use orch_actors::api::{StopAnswer, Submit};
use orch_domain::ids::CommitPrefix;
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::stop::Receipt;
use orch_domain::task::{ApprovalOf, Status};
use orch_domain::view::{TaskDetail, TaskView};

use super::client::{Client, ClientError};
use super::engine::Sight;
use super::output::{CliError, Output};
use super::{Context, inside, show};
use crate::http::{Approve, percent_encode};

/// Between two looks at a receipt that grows.
const LOOK: Duration = Duration::from_millis(200);

/// What to do with tasks.
#[derive(Subcommand, Clone, Debug)]
pub enum TaskVerb {
    /// Hand a new task in
    Add(AddArgs),
    /// List tasks
    List(ListArgs),
    /// Everything about one task
    Show(ShowArgs),
    /// Stop a task for good; prints where its receipt grows
    Stop(StopArgs),
    /// Let a blocked or deferred task go on
    Retry(KeyArgs),
    /// Approve landing or deploy of a commit
    Approve(ApproveArgs),
}

/// A task.
#[derive(Args, Clone, Debug)]
pub struct KeyArgs {
    /// Key, KEY/LIFE or task id
    pub key: String,
}

/// Which task, and whether to wait.
#[derive(Args, Clone, Debug)]
pub struct StopArgs {
    /// Key, KEY/LIFE or task id
    pub key: String,
    /// Wait until it is closed and print the receipt; exit code 1 when a step is unproven
    #[arg(long, short)]
    pub wait: bool,
}

/// A new task.
#[derive(Args, Clone, Debug)]
pub struct AddArgs {
    /// One line that says what to do
    #[arg(long, value_name = "TEXT")]
    pub title: String,
    /// The description
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file")]
    pub body: Option<String>,
    /// The description from a file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub body_file: Option<PathBuf>,
    /// Repository by name; may be left out when there is one
    #[arg(long, value_name = "NAME")]
    pub repo: Option<RepoName>,
    /// Key of the task; minted when left out
    #[arg(long)]
    pub key: Option<TaskKey>,
    /// Pipeline by name
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Agent by name
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Higher goes first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i32,
    /// Task that must end first; may be repeated
    #[arg(long = "after", value_name = "KEY")]
    pub depends_on: Vec<TaskKey>,
    /// The same value answers with the same task again
    #[arg(long, value_name = "TEXT")]
    pub idempotency_key: Option<String>,
}

/// Which tasks.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Of this repository only
    #[arg(long, value_name = "NAME")]
    pub repo: Option<RepoName>,
    /// Closed ones too
    #[arg(long, short)]
    pub all: bool,
    /// At most this many
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub limit: usize,
}

/// One task.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// Key, KEY/LIFE or task id
    pub key: String,
    /// Every life of it
    #[arg(long, short)]
    pub all: bool,
}

/// What is approved.
#[derive(Args, Clone, Debug)]
pub struct ApproveArgs {
    /// Key, KEY/LIFE or task id
    pub key: String,
    /// What to approve
    pub what: What,
    /// The commit, or the beginning of its id; the one that is waited for when left out
    #[arg(long)]
    pub sha: Option<CommitPrefix>,
}

/// What can be approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Landing on main
    Land,
    /// Deploying what has landed
    Deploy,
}

/// Reads a description from a file, or from standard input for `-`.
pub(super) fn read_body(file: &std::path::Path) -> Result<String, CliError> {
    let failed = |e: std::io::Error| CliError::CouldNot(format!("--body-file {}: {e}", file.display()));
    let from: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(file).map_err(failed)?),
    };
    let mut bytes = Vec::new();
    from.take(MOST_BODY + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST_BODY {
        let text = format!("--body-file {}: more than {MOST_BODY} bytes; shorten it", file.display());
        return Err(CliError::CouldNot(text));
    }
    String::from_utf8(bytes).map_err(|_| CliError::CouldNot(format!("--body-file {}: not UTF-8", file.display())))
}

/// Most bytes of a description: as many as are taken when it is handed in.
const MOST_BODY: u64 = 256 << 10;

pub(super) async fn run(context: &Context, verb: TaskVerb, out: &mut Output) -> Result<u8, CliError> {
    match verb {
        TaskVerb::Add(args) => add(context, args, out).await,
        TaskVerb::List(args) => list(context, &args, out).await,
        TaskVerb::Show(args) => show(context, &args, out).await,
        TaskVerb::Stop(args) => stop(context, &args, out).await,
        TaskVerb::Retry(args) => {
            let task: TaskView =
                Client::find(context)?.post(&Client::task_path(&args.key, "/retry"), None::<&()>).await?;
            one(&task, out, "goes on")
        }
        TaskVerb::Approve(args) => {
            let what = match args.what {
                What::Land => ApprovalOf::Land,
                What::Deploy => ApprovalOf::Deploy,
            };
            let body = Approve { what, sha: args.sha };
            let path = Client::task_path(&args.key, "/approve");
            let task: TaskView = Client::find(context)?.post(&path, Some(&body)).await?;
            one(&task, out, "is approved")
        }
    }
}

fn one(task: &TaskView, out: &mut Output, what: &str) -> Result<u8, CliError> {
    match out.json {
        true => out.json(task)?,
        false => {
            out.line(&format!("{} {what}: {} in {}, {}", task.key, task.status.as_str(), task.stage, task.doing))?
        }
    }
    Ok(0)
}

async fn add(context: &Context, args: AddArgs, out: &mut Output) -> Result<u8, CliError> {
    let body = match (&args.body, &args.body_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => read_body(file)?,
        (None, None) => String::new(),
    };
    let submit = Submit {
        title: args.title,
        body,
        repo: args.repo,
        key: args.key,
        pipeline: args.pipeline,
        agent: args.agent,
        priority: args.priority,
        depends_on: args.depends_on,
        idempotency_key: args.idempotency_key,
        ..Submit::default()
    };
    let task: TaskView = Client::find(context)?.post("/tasks", Some(&submit)).await?;
    one(&task, out, "is accepted")
}

async fn list(context: &Context, args: &ListArgs, out: &mut Output) -> Result<u8, CliError> {
    let repo = args.repo.as_ref().map(|r| format!("&repo={}", percent_encode(r.as_str()))).unwrap_or_default();
    let path = format!("/tasks?closed={}&limit={}{repo}", args.all, args.limit);
    let tasks: Vec<TaskView> = Client::reading(context, Sight::Records, out).await?.get(&path).await?;
    match out.json {
        true => out.json(&tasks)?,
        false => out.block(&show::tasks(&tasks))?,
    }
    Ok(0)
}

async fn show(context: &Context, args: &ShowArgs, out: &mut Output) -> Result<u8, CliError> {
    let client = Client::reading(context, Sight::Records, out).await?;
    if args.all {
        let lives: Vec<TaskDetail> = client.get(&Client::task_path(&args.key, "?all=true")).await?;
        match out.json {
            true => out.json(&lives)?,
            false => out.block(&lives.iter().map(show::task).collect::<Vec<_>>().join("\n"))?,
        }
        return Ok(0);
    }
    let detail: TaskDetail = client.get(&Client::task_path(&args.key, "")).await?;
    match out.json {
        true => out.json(&detail)?,
        false => out.block(&show::task(&detail))?,
    }
    Ok(0)
}

/// Whether a STOP was the first, in words.
pub(super) fn recorded(answer: &StopAnswer) -> &'static str {
    match (answer.first, answer.task.status.is_closed()) {
        (true, _) => "STOP is recorded",
        (false, true) => "is closed",
        (false, false) => "STOP was recorded before",
    }
}

async fn stop(context: &Context, args: &StopArgs, out: &mut Output) -> Result<u8, CliError> {
    inside::refuse(&context.env, "task stop")?;
    let client = Client::find(context)?;
    let path = Client::task_path(&args.key, "/stop");
    let answer: StopAnswer = client.post(&path, None::<&()>).await?;
    if !(args.wait && out.json) {
        match out.json {
            true => out.json(&answer)?,
            false => out.line(&format!(
                "{} {}: {}; `orch receipt {}` shows the proof",
                answer.task.key,
                recorded(&answer),
                answer.task.doing,
                args.key
            ))?,
        }
    }
    match args.wait {
        true => wait_for_receipt(&client, &answer, out).await,
        false => Ok(0),
    }
}

/// Waits until a task is closed and its receipt has every line. A deferred STOP takes as long as what it waits for.
async fn wait_for_receipt(client: &Client, answer: &StopAnswer, out: &mut Output) -> Result<u8, CliError> {
    let id = answer.task.id.as_str();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let receipt: Receipt = match client.get(&Client::task_path(id, "/receipt")).await {
            Ok(receipt) => receipt,
            // Closed before anybody asked for a STOP: there is nothing to prove.
            Err(ClientError::Refused { status: 404, .. }) if answer.task.status.is_closed() => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        if receipt.outcome != Status::Stopping.as_str() && receipt.is_whole() {
            match out.json {
                true => out.json(&receipt)?,
                false => out.block(&format!("\n{}", show::receipt(&receipt)))?,
            }
            return Ok(u8::from(receipt.unproven().next().is_some()));
        }
    }
}
