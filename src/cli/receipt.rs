//! `orch receipt`: the proof of a task's STOP, step by step. A thin client.

use clap::Args;
use orch_domain::stop::Receipt;

use super::client::Client;
use super::engine::Sight;
use super::output::{CliError, Output};
use super::{Context, show};

/// Which task.
#[derive(Args, Clone, Debug)]
pub struct ReceiptArgs {
    /// Key, KEY/LIFE or task id
    pub key: String,
}

pub(super) async fn run(context: &Context, args: &ReceiptArgs, out: &mut Output) -> Result<u8, CliError> {
    let answer: Receipt =
        Client::reading(context, Sight::Records, out).await?.get(&Client::task_path(&args.key, "/receipt")).await?;
    match out.json {
        true => out.json(&answer)?,
        false => out.block(&show::receipt(&answer))?,
    }
    Ok(0)
}
