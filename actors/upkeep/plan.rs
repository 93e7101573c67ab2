//! The plan of upkeep: what the next round would remove, and why, without removing anything.
//!
//! Owns the list that people are shown before they ask for a round. It is made by the very questions that the round asks,
//! so it can be wrong only about what changes in between. Refuses to change anything.

use std::sync::Arc;

use orch_adapters::git::Owner;
use orch_domain::time::Timestamp;
use orch_store::{Keep, Life};

use super::{
    Doomed, closed_refs, collection_is_due, doomed_job_folders, doomed_quarantine, doomed_salvages, folders_in,
    life_of_run,
};
use crate::api::GcItem;
use crate::context::Context;
use crate::gates;

/// Asks what a round at `now` would remove.
///
/// # Errors
/// In words, when the store or a repository cannot be read: half a list would be taken for a whole one.
pub async fn plan(ctx: &Arc<Context>, now: Timestamp) -> Result<Vec<GcItem>, String> {
    let mut items = Vec::new();
    let mut add = |kind: &str, name: String, why: String| items.push(GcItem { kind: kind.to_owned(), name, why });
    let logs = "closed for longer than retention.logs";
    for folder in doomed_job_folders(ctx, now).await.map_err(|e| e.to_string())? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        add("job-folder", name, format!("nobody reads it any more, or its task was {logs}"));
    }
    for folder in folders_in(ctx.paths.workspaces.clone()).await {
        if !matches!(life_of_run(ctx, &folder.name).await.map_err(|e| e.to_string())?, Life::Live) {
            add("workspace", folder.name, "its task is closed, or there is none; its work is kept first".to_owned());
        }
    }
    for (folder, since) in doomed_quarantine(ctx, now).await.map_err(|e| e.to_string())? {
        add("put-aside", folder.name, format!("put aside at {since}, longer ago than retention.salvage"));
    }
    for path in gates::coverage::doomed(ctx, now).await? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        add("measurement", name, "older than retention.logs, and no coverage baseline stands on it".to_owned());
    }
    for folder in ctx.runner.placement.stale_folders() {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        add("runtime-folder", name, "the supervisor that had its sockets there was killed".to_owned());
    }
    for (name, repo) in &ctx.repos {
        let git = repo.git.for_owner(Owner::default());
        let Doomed { old, excess } = doomed_salvages(ctx, &git, now).await.map_err(|e| format!("{name}: {e}"))?;
        for salvage in old {
            add("salvage", format!("{name} {}", salvage.id), "kept for as long as retention.salvage says".to_owned());
        }
        for salvage in excess {
            add("salvage", format!("{name} {}", salvage.id), "beyond retention.salvage_size, the oldest".to_owned());
        }
        for task in closed_refs(ctx, &git, now).await.map_err(|e| format!("{name}: {e}"))? {
            add("refs", format!("{name} {task}"), format!("its task was {logs}"));
        }
        if collection_is_due(ctx, name, &git, now).await.map_err(|e| format!("{name}: {e}"))? {
            add("garbage", name.to_string(), "nobody borrows from its repositories; collected daily".to_owned());
        }
    }
    let keep = Keep { rows: ctx.retention.logs, journal: ctx.retention.journal };
    let rows = ctx.store.prunable(keep, now).await.map_err(|e| e.to_string())?;
    for (table, count) in rows.by_table().into_iter().filter(|(_, count)| *count > 0) {
        add("rows", format!("{count} of {table}"), "nobody asks for them any more".to_owned());
    }
    Ok(items)
}
