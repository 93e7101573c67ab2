//! `orch salvage ...`: what is kept in the vaults, and how it is given back. A thin client.
//!
//! Owns the arguments and the layout. What is restored is somebody's untrusted work: it is written as plain files, and no
//! repository is made of it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use orch_actors::api::{Restored, SalvageView};
use orch_domain::names::RepoName;

use super::client::Client;
use super::engine::Sight;
use super::output::{CliError, Output};
use super::{Context, show};
use crate::http::{RestoreInto, percent_encode};

/// What to do with salvages.
#[derive(Subcommand, Clone, Debug)]
pub enum SalvageVerb {
    /// List them, newest first
    List(ListArgs),
    /// Everything about one
    Show(OneArgs),
    /// Write its files into a new folder on the supervisor's host
    Restore(RestoreArgs),
}

/// Which salvages.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Of this repository only
    #[arg(long, value_name = "NAME")]
    pub repo: Option<RepoName>,
}

/// One salvage.
#[derive(Args, Clone, Debug)]
pub struct OneArgs {
    /// As listed: KEY/LIFE/RUN
    pub id: String,
    /// Its repository; may be left out when the id is there once
    #[arg(long, value_name = "NAME")]
    pub repo: Option<RepoName>,
}

/// Where to.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// Which
    #[command(flatten)]
    pub one: OneArgs,
    /// A folder that does not exist yet, outside of the data folder
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
}

pub(super) async fn run(context: &Context, verb: SalvageVerb, out: &mut Output) -> Result<u8, CliError> {
    let client = Client::reading(context, Sight::Repositories, out).await?;
    match verb {
        SalvageVerb::List(args) => {
            let all = listed(&client, args.repo.as_ref()).await?;
            match out.json {
                true => out.json(&all)?,
                false => out.block(&table(&all))?,
            }
        }
        SalvageVerb::Show(args) => {
            let one = find(&client, &args).await?;
            match out.json {
                true => out.json(&one)?,
                false => out.block(&facts(&one))?,
            }
        }
        SalvageVerb::Restore(args) => {
            let one = find(&client, &args.one).await?;
            let into = std::path::absolute(&args.into).map_err(|e| CliError::CouldNot(format!("--into: {e}")))?;
            let path = format!("{}/restore", path_of(&one));
            let restored: Restored = client.take_out(&path, &RestoreInto { into }).await?;
            match out.json {
                true => out.json(&restored)?,
                false => {
                    out.line(&format!("{} files of {} are in {}", restored.files, one.id, restored.into.display()))?
                }
            }
        }
    }
    Ok(0)
}

async fn listed(client: &Client, repo: Option<&RepoName>) -> Result<Vec<SalvageView>, CliError> {
    let query = repo.map(|name| format!("?repo={}", percent_encode(name.as_str()))).unwrap_or_default();
    Ok(client.get(&format!("/salvages{query}")).await?)
}

async fn find(client: &Client, args: &OneArgs) -> Result<SalvageView, CliError> {
    let mut found = listed(client, args.repo.as_ref()).await?;
    found.retain(|salvage| salvage.id == args.id);
    match (found.pop(), found.pop()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(other)) => Err(CliError::Refused(format!(
            "`{}` is in {} and in {}; say which with --repo",
            args.id, one.repo, other.repo
        ))),
        (None, _) => {
            Err(CliError::Refused(format!("there is no salvage `{}`; `orch salvage list` names all", args.id)))
        }
    }
}

fn path_of(one: &SalvageView) -> String {
    format!("/salvages/{}/{}", percent_encode(one.repo.as_str()), percent_encode(&one.id))
}

fn holds(one: &SalvageView) -> String {
    match (one.files, one.bytes) {
        (Some(files), Some(bytes)) => format!("{files} files, {bytes} bytes"),
        (Some(files), None) => format!("{files} files"),
        (None, _) => format!("commits ({})", one.heads.len()),
    }
}

fn table(all: &[SalvageView]) -> String {
    if all.is_empty() {
        return "nothing is kept\n".to_owned();
    }
    let row = |s: &SalvageView| vec![s.repo.to_string(), s.id.clone(), show::time(s.at), holds(s), show::time(s.until)];
    show::table(&["REPO", "SALVAGE", "KEPT", "HOLDS", "UNTIL"], &all.iter().map(row).collect::<Vec<_>>())
}

fn facts(one: &SalvageView) -> String {
    let mut pairs = vec![
        ("salvage", one.id.clone()),
        ("repository", one.repo.to_string()),
        ("kept", show::time(one.at)),
        ("until", show::time(one.until)),
        ("holds", holds(one)),
        ("commit", one.commit.to_string()),
    ];
    pairs.extend(one.heads.iter().map(|head| ("head", head.to_string())));
    format!("{}\n{}", show::facts(&pairs), one.about)
}
