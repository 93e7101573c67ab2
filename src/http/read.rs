//! Inspection: one function per path, nothing changed.
//!
//! Owns the translation of paths and queries into questions to [`Control`](orch_actors::api::Control). Reads never wait
//! for an actor's work: the answers are snapshots and stored rows.

use std::sync::Arc;

use orch_actors::api::{ControlError, ProofQuery, TaskFilter};
use orch_domain::ids::Seq;
use serde_json::json;
use warp::http::StatusCode;

use super::Shared;
use super::reply::{Answer, ApiError, Query, json, ok, printable, repo_name, repo_of, salvage_of, task_key};

/// Most entries of one journal page.
const JOURNAL_PAGE: usize = 1_000;
/// Most bytes of one log page.
const LOG_PAGE: usize = 256 << 10;

/// `GET /healthz`: this process answers. Says nothing else.
pub(super) fn healthz() -> Answer {
    ok(&json!({"status": "ok"}))
}

/// `GET /readyz`: work can be taken; 503 when not.
pub(super) async fn readyz(shared: Arc<Shared>) -> Answer {
    let readiness = shared.control.ready().await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &readiness)
}

/// `GET /version`.
pub(super) fn version(shared: &Shared) -> Answer {
    ok(&shared.control.about())
}

/// `GET /queue`.
pub(super) async fn queue(shared: Arc<Shared>) -> Answer {
    ok(&shared.control.queue().await?)
}

/// `GET /tasks?repo=&closed=&limit=`.
pub(super) async fn tasks(shared: Arc<Shared>, raw: String) -> Answer {
    let query = Query::parse(&raw, &["repo", "closed", "limit"])?;
    let repo = query.text("repo").map(str::parse).transpose();
    let filter = TaskFilter {
        repo: repo.map_err(|e: orch_domain::names::NameError| ApiError::bad(e.to_string()))?,
        closed: query.switch("closed")?,
        limit: usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX).min(10_000),
    };
    ok(&shared.control.tasks(filter).await?)
}

/// `GET /tasks/{key}?all=`: the newest life, or a list of all.
pub(super) async fn task(shared: Arc<Shared>, part: String, raw: String) -> Answer {
    let query = Query::parse(&raw, &["all"])?;
    let all = query.switch("all")?;
    let key = task_key(&part)?;
    let mut lives = shared.control.task(&key, all).await?;
    if all {
        return ok(&lives);
    }
    match lives.is_empty() {
        true => Err(ControlError::NotFound(format!("there is no task `{key}`")).into()),
        false => ok(&lives.swap_remove(0)),
    }
}

/// `GET /tasks/{key}/journal?after=&limit=`.
pub(super) async fn journal(shared: Arc<Shared>, part: String, raw: String) -> Answer {
    let query = Query::parse(&raw, &["after", "limit"])?;
    let after = Seq(query.number("after")?.unwrap_or(0));
    let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let limit = if limit == 0 { JOURNAL_PAGE } else { limit.min(JOURNAL_PAGE) };
    ok(&shared.control.journal(&task_key(&part)?, after, limit).await?)
}

/// `GET /tasks/{key}/why`.
pub(super) async fn why(shared: Arc<Shared>, part: String) -> Answer {
    ok(&shared.control.why(&task_key(&part)?).await?)
}

/// `GET /tasks/{key}/receipt`.
pub(super) async fn receipt(shared: Arc<Shared>, part: String) -> Answer {
    ok(&shared.control.receipt(&task_key(&part)?).await?)
}

/// `GET /tasks/{key}/proof?verify=`: of every life that has landed.
pub(super) async fn proof(shared: Arc<Shared>, part: String, raw: String) -> Answer {
    let query = Query::parse(&raw, &["verify"])?;
    let asked = ProofQuery { repo: None, task: Some(task_key(&part)?), verify: query.switch("verify")? };
    ok(&shared.control.proofs(asked).await?)
}

/// `GET /proofs?repo=&verify=`.
pub(super) async fn proofs(shared: Arc<Shared>, raw: String) -> Answer {
    let query = Query::parse(&raw, &["repo", "verify"])?;
    let repo = query.text("repo").map(repo_name).transpose()?;
    let asked = ProofQuery { repo, task: None, verify: query.switch("verify")? };
    ok(&shared.control.proofs(asked).await?)
}

/// `GET /tasks/{key}/logs`.
pub(super) async fn logs(shared: Arc<Shared>, part: String) -> Answer {
    ok(&shared.control.logs(&task_key(&part)?).await?)
}

/// `GET /tasks/{key}/log?run=&offset=&max=`.
pub(super) async fn log(shared: Arc<Shared>, part: String, raw: String) -> Answer {
    let query = Query::parse(&raw, &["run", "offset", "max"])?;
    let run = query.number("run")?.map(|run| u32::try_from(run).unwrap_or(u32::MAX));
    let offset = query.number("offset")?.unwrap_or(0);
    let most = usize::try_from(query.number("max")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let most = if most == 0 { LOG_PAGE } else { most.min(LOG_PAGE) };
    ok(&shared.control.log(&task_key(&part)?, run, offset, most).await?)
}

/// `GET /gc`.
pub(super) async fn gc_plan(shared: Arc<Shared>) -> Answer {
    ok(&shared.control.gc_plan().await?)
}

/// `GET /salvages?repo=`.
pub(super) async fn salvages(shared: Arc<Shared>, raw: String) -> Answer {
    let query = Query::parse(&raw, &["repo"])?;
    let repo = query.text("repo").map(repo_name).transpose()?;
    ok(&shared.control.salvages(repo.as_ref()).await?)
}

/// `GET /salvages/{repo}/{id}`.
pub(super) async fn salvage(shared: Arc<Shared>, repo: String, id: String) -> Answer {
    let (repo, id) = salvage_of(&repo, &id)?;
    let found = shared.control.salvages(Some(&repo)).await?.into_iter().find(|salvage| salvage.id == id);
    let missing = || ControlError::NotFound(format!("{repo} has no salvage {}; see GET /salvages", printable(&id)));
    ok(&found.ok_or_else(missing)?)
}

/// `GET /actors`.
pub(super) async fn actors(shared: Arc<Shared>) -> Answer {
    ok(&shared.control.actors().await?)
}

/// `GET /leases`.
pub(super) async fn leases(shared: Arc<Shared>) -> Answer {
    ok(&shared.control.leases().await?)
}

/// `GET /jobs`.
pub(super) async fn jobs(shared: Arc<Shared>) -> Answer {
    ok(&shared.control.jobs().await?)
}

/// `GET /repos`.
pub(super) async fn repos(shared: Arc<Shared>) -> Answer {
    ok(&shared.control.repos().await?)
}

/// `GET /coverage`.
pub(super) async fn coverages(shared: Arc<Shared>) -> Answer {
    ok(&shared.control.coverages().await?)
}

/// `GET /coverage/{repo}`.
pub(super) async fn coverage(shared: Arc<Shared>, part: String) -> Answer {
    ok(&shared.control.coverage(&repo_of(&part)?).await?)
}

/// `GET /coverage/{repo}/history?before=&limit=`.
pub(super) async fn coverage_history(shared: Arc<Shared>, part: String, raw: String) -> Answer {
    let query = Query::parse(&raw, &["before", "limit"])?;
    let before = query.number("before")?.map(|before| i64::try_from(before).unwrap_or(i64::MAX));
    let asked = query.number("limit")?;
    if asked == Some(0) {
        return Err(ApiError::bad("query parameter `limit`: 0 lines are none; leave it out for a whole page"));
    }
    let limit = u32::try_from(asked.unwrap_or(0)).unwrap_or(u32::MAX);
    ok(&shared.control.coverage_history(&repo_of(&part)?, before, limit).await?)
}
