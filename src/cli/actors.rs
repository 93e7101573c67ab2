//! `orch actors`: each actor with its last word and when it was said. A thin client.

use orch_actors::api::ActorView;

use super::client::Client;
use super::output::{CliError, Output};
use super::{Context, show};

pub(super) async fn run(context: &Context, out: &mut Output) -> Result<u8, CliError> {
    let actors: Vec<ActorView> = Client::find(context)?.get("/actors").await?;
    if out.json {
        out.json(&actors)?;
        return Ok(0);
    }
    let row = |a: &ActorView| vec![a.name.clone(), a.restarts.to_string(), show::time(a.at), show::short(&a.state, 80)];
    let rows: Vec<Vec<String>> = actors.iter().map(row).collect();
    out.block(&show::table(&["ACTOR", "RESTARTS", "SAID AT", "STATE"], &rows))?;
    Ok(0)
}
