//! `orch why`: why a task is where it is: what it waits for, who holds that, since when, what ends it. A thin client.

use clap::Args;
use orch_domain::view::Why;

use super::client::Client;
use super::engine::Sight;
use super::output::{CliError, Output};
use super::{Context, show};

/// Which task.
#[derive(Args, Clone, Debug)]
pub struct WhyArgs {
    /// Key, KEY/LIFE or task id
    pub key: String,
}

pub(super) async fn run(context: &Context, args: &WhyArgs, out: &mut Output) -> Result<u8, CliError> {
    let answer: Why =
        Client::reading(context, Sight::Records, out).await?.get(&Client::task_path(&args.key, "/why")).await?;
    match out.json {
        true => out.json(&answer)?,
        false => out.block(&show::why(&answer))?,
    }
    Ok(0)
}
