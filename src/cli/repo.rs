//! `orch repo ...`: the repositories, whether their lanes take work, and STOP of all tasks of one. A thin client.

use clap::{Args, Subcommand};
use orch_actors::api::{RepoStop, RepoView};
use orch_domain::gate::LANDING_GATES;
use orch_domain::names::RepoName;

use super::client::Client;
use super::engine::Sight;
use super::output::{CliError, Output};
use super::{Context, inside, show};
use crate::http::{Pause, Resume, percent_encode};

/// What to do with repositories.
#[derive(Subcommand, Clone, Debug)]
pub enum RepoVerb {
    /// List them
    List,
    /// Let nothing land on one until it is resumed
    Pause(PauseArgs),
    /// Let a paused one land again
    Resume(ResumeArgs),
    /// Stop every live task of one for good
    Stop(NameArgs),
}

/// A repository.
#[derive(Args, Clone, Debug)]
pub struct NameArgs {
    /// Its name in the settings
    pub repo: RepoName,
}

/// What is paused.
#[derive(Args, Clone, Debug)]
pub struct PauseArgs {
    /// Its name in the settings
    pub repo: RepoName,
    /// Why, for whoever waits
    #[arg(long, value_name = "TEXT")]
    pub why: String,
    /// Let what is being landed end first
    #[arg(long)]
    pub drain: bool,
}

/// What is resumed.
#[derive(Args, Clone, Debug)]
pub struct ResumeArgs {
    /// Its name in the settings
    pub repo: RepoName,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub why: String,
}

pub(super) async fn run(context: &Context, verb: &RepoVerb, out: &mut Output) -> Result<u8, CliError> {
    if let RepoVerb::Stop(_) = verb {
        inside::refuse(&context.env, "repo stop")?;
    }
    let client = match verb {
        RepoVerb::List => Client::reading(context, Sight::Repositories, out).await?,
        _ => Client::find(context)?,
    };
    let path = |repo: &RepoName, verb: &str| format!("/repos/{}/{verb}", percent_encode(repo.as_str()));
    match verb {
        RepoVerb::List => list(&client, out).await,
        RepoVerb::Pause(args) => {
            let body = Pause { why: args.why.clone(), drain: args.drain };
            one(&client.post(&path(&args.repo, "pause"), Some(&body)).await?, out)
        }
        RepoVerb::Resume(args) => {
            let body = Resume { why: args.why.clone() };
            one(&client.post(&path(&args.repo, "resume"), Some(&body)).await?, out)
        }
        RepoVerb::Stop(args) => stopped(&client.post(&path(&args.repo, "stop"), None::<&()>).await?, out),
    }
}

fn one(repo: &RepoView, out: &mut Output) -> Result<u8, CliError> {
    match out.json {
        true => out.json(repo)?,
        false => out.line(&format!("the lane of {} is {}", repo.name, repo.lane))?,
    }
    Ok(0)
}

fn stopped(answer: &RepoStop, out: &mut Output) -> Result<u8, CliError> {
    if out.json {
        out.json(answer)?;
        return Ok(0);
    }
    for one in &answer.stopped {
        out.line(&format!("{} {}: {}", one.task.key, super::task::recorded(one), one.task.doing))?;
    }
    out.line(&format!("{} tasks of {}; `orch receipt KEY` shows each proof", answer.stopped.len(), answer.repo))?;
    Ok(0)
}

async fn list(client: &Client, out: &mut Output) -> Result<u8, CliError> {
    let repos: Vec<RepoView> = client.get("/repos").await?;
    if out.json {
        out.json(&repos)?;
        return Ok(0);
    }
    let row = |r: &RepoView| {
        let main = r.main.clone().unwrap_or_else(|| "unknown".to_owned());
        let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
        let since = r.lane.since.map(show::time).unwrap_or_default();
        let lane = r.lane.mode.as_str().to_owned();
        let who = or_none(&r.lane.who);
        vec![r.name.to_string(), main, r.location.clone(), gates(r), lane, since, who, or_none(&r.lane.why)]
    };
    let rows: Vec<Vec<String>> = repos.iter().map(row).collect();
    out.block(&show::table(&["REPO", "MAIN", "WHERE", "GATES", "LANE", "SINCE", "BY", "WHY"], &rows))?;
    Ok(0)
}

/// The gates that main is kept by there, in a few letters.
fn gates(repo: &RepoView) -> String {
    match &repo.gates {
        None => "unknown".to_owned(),
        Some(none) if none.is_empty() => "none".to_owned(),
        Some(all) if all[..] == LANDING_GATES => "all".to_owned(),
        Some(some) => some.iter().map(|gate| gate.as_str()).collect::<Vec<_>>().join(","),
    }
}
