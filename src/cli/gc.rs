//! `orch gc`: what may go, and having it go now instead of at the supervisor's next clean-up. A thin client.
//!
//! Owns the list's layout and the wait until the list is empty. Refuses to remove anything itself.

use std::time::{Duration, Instant};

use clap::Args;
use orch_actors::api::GcItem;
use serde_json::json;

use super::client::Client;
use super::output::{CliError, Output};
use super::{Context, show};

/// Between two looks whether everything is gone.
const LOOK: Duration = Duration::from_millis(500);

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct GcArgs {
    /// Only show what may go
    #[arg(long)]
    pub dry_run: bool,
    /// Give up waiting after so many seconds; the removal goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

pub(super) async fn run(context: &Context, args: &GcArgs, out: &mut Output) -> Result<u8, CliError> {
    let client = Client::find(context)?;
    if args.dry_run {
        let items: Vec<GcItem> = client.get("/gc").await?;
        match out.json {
            true => out.json(&items)?,
            false => out.block(&table(&items, "may go"))?,
        }
        return Ok(0);
    }
    let items: Vec<GcItem> = client.post("/gc", None::<&()>).await?;
    let begun = Instant::now();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let left = loop {
        looks.tick().await;
        let now: Vec<GcItem> = client.get("/gc").await?;
        // What became due meanwhile is the next one's.
        let left: Vec<GcItem> = now.into_iter().filter(|item| item.kind != "rows" && items.contains(item)).collect();
        if left.is_empty() || begun.elapsed() > Duration::from_secs(args.timeout) {
            break left;
        }
    };
    match out.json {
        true => out.json(&json!({"asked": items, "left": left}))?,
        false => out.block(&table(&items, if left.is_empty() { "gone" } else { "asked for" }))?,
    }
    match left.len() {
        0 => Ok(0),
        n => Err(CliError::Refused(format!("{n} of them are still there; the supervisor's log says why"))),
    }
}

fn table(items: &[GcItem], word: &str) -> String {
    if items.is_empty() {
        return "nothing may go: everything there is belongs to a live task, or is kept (retention.*)\n".to_owned();
    }
    let row = |item: &GcItem| vec![item.kind.clone(), item.name.clone(), item.why.clone()];
    let rows: Vec<_> = items.iter().map(row).collect();
    format!("{}{} {word}\n", show::table(&["KIND", "NAME", "WHY"], &rows), items.len())
}
