//! `orch ps`: what runs, what waits for what, and the live jobs. A thin client.

use orch_actors::api::{JobView, QueueView};
use orch_domain::lane::LaneMode;
use serde::Serialize;

use super::client::Client;
use super::engine::Sight;
use super::output::{CliError, Output};
use super::{Context, show};

#[derive(Serialize)]
struct Both {
    queue: QueueView,
    jobs: Vec<JobView>,
}

pub(super) async fn run(context: &Context, out: &mut Output) -> Result<u8, CliError> {
    let client = Client::reading(context, Sight::Records, out).await?;
    let both = Both { queue: client.get("/queue").await?, jobs: client.get("/jobs").await? };
    if out.json {
        out.json(&both)?;
        return Ok(0);
    }
    let Both { queue, jobs } = both;
    out.line(&format!(
        "agents {}/{} ({} waiting), gates {}/{} ({} waiting), intake {}",
        queue.agents.used,
        queue.agents.total,
        queue.agents.waiting,
        queue.gates.used,
        queue.gates.total,
        queue.gates.waiting,
        queue.intake
    ))?;
    for lane in queue.merge.iter().filter(|l| l.lane.mode != LaneMode::Running) {
        out.line(&format!("lane of {}: {}", lane.lease.repo, lane.lane))?;
    }
    if !queue.running.is_empty() {
        out.block(&format!("\n{}", show::tasks(&queue.running)))?;
    }
    if !queue.waiting.is_empty() {
        let row = |w: &orch_domain::view::Why| {
            let holder = w.held_by.clone().unwrap_or_else(|| "-".to_owned());
            vec![
                w.key.to_string(),
                w.status.as_str().to_owned(),
                show::short(&w.waits_for, 60),
                holder,
                show::time(w.since),
            ]
        };
        let rows: Vec<Vec<String>> = queue.waiting.iter().map(row).collect();
        out.block(&format!("\n{}", show::table(&["TASK", "STATUS", "WAITS FOR", "HELD BY", "SINCE"], &rows)))?;
    }
    let stop = &queue.stop;
    let stopping = stop.under_way.iter().map(|s| {
        vec![s.key.to_string(), "stopping".to_owned(), show::short(&s.doing, 60), s.by.clone(), show::time(s.since)]
    });
    let pending = stop.pending.iter().map(|s| {
        let next = s.next.map_or_else(|| "for the last time".to_owned(), |at| format!("again at {}", show::time(at)));
        let what = show::short(&format!("{}: {}", s.step.as_str(), s.why), 60);
        vec![s.key.to_string(), "pending".to_owned(), what, next, show::time(s.tried)]
    });
    let rows: Vec<Vec<String>> = stopping.chain(pending).collect();
    if !rows.is_empty() {
        out.block(&format!("\n{}", show::table(&["STOP OF", "STATUS", "WHAT", "BY OR NEXT", "SINCE"], &rows)))?;
    }
    if !jobs.is_empty() {
        let row = |j: &JobView| {
            vec![
                j.job.to_string(),
                j.kind.as_str().to_owned(),
                if j.stands_still { "stands still".to_owned() } else { j.status.as_str().to_owned() },
                j.pid.to_string(),
                format!("{}; {}", j.containment.as_str(), j.enforced),
                show::time(j.since),
                show::short(&j.label, 60),
            ]
        };
        let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
        out.block(&format!("\n{}", show::table(&["JOB", "KIND", "STATUS", "PID", "HELD BY", "SINCE", "WHAT"], &rows)))?;
    }
    Ok(0)
}
