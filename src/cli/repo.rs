//! `orch repo list`: the repositories and the mode of their lanes. A thin client.

use clap::Subcommand;
use orch_actors::api::RepoView;

use super::client::Client;
use super::output::{CliError, Output};
use super::{Context, show};

/// What to do with repositories.
#[derive(Subcommand, Clone, Debug)]
pub enum RepoVerb {
    /// List them
    List,
}

pub(super) async fn run(context: &Context, verb: &RepoVerb, out: &mut Output) -> Result<u8, CliError> {
    let RepoVerb::List = verb;
    let repos: Vec<RepoView> = Client::find(context)?.get("/repos").await?;
    if out.json {
        out.json(&repos)?;
        return Ok(0);
    }
    let row = |r: &RepoView| {
        let main = r.main.clone().unwrap_or_else(|| "unknown".to_owned());
        vec![r.name.to_string(), main, r.mode.clone(), r.location.clone(), r.mode_note.clone().unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> = repos.iter().map(row).collect();
    out.block(&show::table(&["REPO", "MAIN", "LANE", "WHERE", "NOTE"], &rows))?;
    Ok(0)
}
