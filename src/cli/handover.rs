//! `orch handover`: ends a supervisor for an upgrade and leaves its agents at work, for the next start to go on with.
//!
//! Owns the wait until nobody answers any more. A thin client otherwise. Refuses to be given by a job.

use std::time::{Duration, Instant};

use clap::Args;
use orch_actors::api::{About, HandOver};
use serde_json::json;

use super::client::{Client, ClientError};
use super::output::{CliError, Output};
use super::{Context, inside};

/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(200);

/// How long to wait.
#[derive(Args, Clone, Debug)]
pub struct HandoverArgs {
    /// Give up waiting after so many seconds; the handover goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    pub timeout: u64,
}

pub(super) async fn run(context: &Context, args: &HandoverArgs, out: &mut Output) -> Result<u8, CliError> {
    inside::refuse(&context.env, "handover")?;
    let client = Client::find(context)?;
    let before: About = client.get("/version").await?;
    let answer: HandOver = client.post("/handover", None::<&()>).await?;
    if !out.json {
        let keys: Vec<&str> = answer.agents.iter().map(|key| key.as_str()).collect();
        let left = match keys.is_empty() {
            true => "no agent is at work".to_owned(),
            false => format!("{} work on for at most {}", keys.join(", "), answer.grace_ms),
        };
        out.line(&format!("handing over: {left}; tests and landings under way end first"))?;
    }
    let begun = Instant::now();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        match client.get::<About>("/version").await {
            // Another start, on the same address already.
            Ok(about) if about.started != before.started => break,
            Err(ClientError::Unreachable(_)) => break,
            _ if begun.elapsed() > Duration::from_secs(args.timeout) => {
                let text = format!(
                    "it still serves after {} s; `orch ps` shows what it waits for, and the handover goes on",
                    args.timeout
                );
                return Err(CliError::CouldNot(text));
            }
            _ => {}
        }
    }
    match out.json {
        true => out.json(&json!({"ended": true, "agents": answer.agents, "grace_ms": answer.grace_ms}))?,
        false => out.line("it has ended; start the next one now, it goes on with the runs")?,
    }
    Ok(0)
}
