//! Control: new tasks, STOP, retry, approval, lanes, backup, handover, giving a salvage back.
//!
//! Owns the bodies of these requests. Each is durable before it is answered: [`Control`](orch_actors::api::Control)
//! promises that, this file only hands on. Refuses unknown members of a body.

use std::path::PathBuf;
use std::sync::Arc;

use orch_actors::api::{SetBaseline, Submit};
use orch_domain::ids::CommitPrefix;
use orch_domain::lane::LaneMode;
use orch_domain::task::ApprovalOf;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::Shared;
use super::guard::Caller;
use super::reply::{Answer, ApiError, Sent, json, ok, percent_encode, repo_of, salvage_of, task_key};

/// Digest of the settings that a task asks to be worked on with.
pub const SETTINGS_HEADER: &str = "x-orch-settings";

/// The body of `POST /tasks/{key}/approve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// Landing or deploy.
    pub what: ApprovalOf,
    /// The commit, or the beginning of its id; the one that is waited for when left out.
    #[serde(default)]
    pub sha: Option<CommitPrefix>,
}

/// The body of `POST /backup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupTo {
    /// Absolute path of a file that does not exist yet, on the supervisor's host.
    pub to: PathBuf,
}

/// The body of `POST /repos/{name}/pause`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Why, for whoever waits.
    pub why: String,
    /// Whether what is under way may end by itself.
    #[serde(default)]
    pub drain: bool,
}

/// The body of `POST /repos/{name}/resume`; may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Why, for the journal.
    #[serde(default)]
    pub why: String,
}

/// The body of `POST /salvages/{repo}/{id}/restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreInto {
    /// Absolute path of a folder that does not exist yet, on the supervisor's host.
    pub into: PathBuf,
}

/// `POST /tasks`.
pub(super) async fn submit(shared: Arc<Shared>, caller: Caller, sent: Sent) -> Answer {
    let settings = same_settings(&shared, sent.headers());
    let submit: Submit = sent.json()?;
    if submit.title.trim().is_empty() {
        return Err(ApiError::bad("the title is empty; a task needs one line that says what to do"));
    }
    settings?;
    let task = shared.control.submit(submit, &caller.by).await?;
    let mut response = json(StatusCode::CREATED, &task)?;
    let path = format!("/tasks/{}", percent_encode(task.key.as_str()));
    if let Ok(value) = HeaderValue::from_str(&path) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    Ok(response)
}

/// Refuses a task that is to be worked on with other settings than ours: it would be built and tested as nobody asked.
fn same_settings(shared: &Shared, headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(SETTINGS_HEADER) {
        Some(asked) if shared.work_digest.as_ref().is_none_or(|own| own.as_bytes() != asked.as_bytes()) => {
            let text = "the orch that works on this repository was started with other settings (tests, checks, agent \
                        command, main, or orch.yaml differ); wait for its end, or give the same ones";
            Err(ApiError::new(StatusCode::CONFLICT, "other_settings", text))
        }
        _ => Ok(()),
    }
}

/// `POST /tasks/{key}/stop`.
pub(super) async fn stop(shared: Arc<Shared>, caller: Caller, part: String) -> Answer {
    let answer = shared.control.stop(&task_key(&part)?, &caller.by, caller.source).await?;
    let mut response = json(StatusCode::ACCEPTED, &answer)?;
    if let Ok(receipt) = HeaderValue::from_str(&answer.receipt) {
        response.headers_mut().insert(header::LOCATION, receipt);
    }
    after(&caller, response)
}

/// `POST /repos/{name}/stop`.
pub(super) async fn stop_repo(shared: Arc<Shared>, caller: Caller, part: String) -> Answer {
    let answer = shared.control.stop_repo(&repo_of(&part)?, &caller.by, caller.source).await?;
    json(StatusCode::ACCEPTED, &answer)
}

/// `POST /handover`.
pub(super) async fn hand_over(shared: Arc<Shared>, caller: Caller) -> Answer {
    json(StatusCode::ACCEPTED, &shared.control.hand_over(&caller.by).await?)
}

/// `POST /gc`.
pub(super) async fn gc(shared: Arc<Shared>, caller: Caller) -> Answer {
    json(StatusCode::ACCEPTED, &shared.control.gc(&caller.by).await?)
}

/// `POST /salvages/{repo}/{id}/restore`.
pub(super) async fn restore(shared: Arc<Shared>, repo: String, id: String, sent: Sent) -> Answer {
    let (repo, id) = salvage_of(&repo, &id)?;
    let RestoreInto { into } = sent.json()?;
    json(StatusCode::CREATED, &shared.control.restore_salvage(&repo, &id, into).await?)
}

/// `POST /tasks/{key}/retry`.
pub(super) async fn retry(shared: Arc<Shared>, caller: Caller, part: String) -> Answer {
    let task = shared.control.retry(&task_key(&part)?, &caller.by).await?;
    after(&caller, ok(&task)?)
}

/// `POST /tasks/{key}/approve`.
pub(super) async fn approve(shared: Arc<Shared>, caller: Caller, part: String, sent: Sent) -> Answer {
    let key = task_key(&part)?;
    let approve: Approve = match sent.field("what").filter(|_| caller.board) {
        Some(what) => {
            let form = json!({"what": what, "sha": sent.field("sha")});
            serde_json::from_value(form).map_err(|error| ApiError::bad(format!("the form does not fit: {error}")))?
        }
        None => sent.json()?,
    };
    let task = shared.control.approve(&key, approve.what, approve.sha, &caller.by).await?;
    after(&caller, ok(&task)?)
}

/// `POST /repos/{name}/pause`.
pub(super) async fn pause(shared: Arc<Shared>, caller: Caller, part: String, sent: Sent) -> Answer {
    let repo = repo_of(&part)?;
    let asked = match sent.field("why").filter(|_| caller.board) {
        Some(why) => Pause { why, drain: false },
        None => sent.json()?,
    };
    let mode = if asked.drain { LaneMode::Draining } else { LaneMode::Paused };
    let set = shared.control.set_lane_mode(&repo, mode, &asked.why, &caller.by).await?;
    after(&caller, ok(&set)?)
}

/// `POST /repos/{name}/resume`.
pub(super) async fn resume(shared: Arc<Shared>, caller: Caller, part: String, sent: Sent) -> Answer {
    let repo = repo_of(&part)?;
    let Resume { why } = sent.json_or_default()?;
    let set = shared.control.set_lane_mode(&repo, LaneMode::Running, &why, &caller.by).await?;
    after(&caller, ok(&set)?)
}

/// `POST /coverage/baseline`.
pub(super) async fn set_baseline(shared: Arc<Shared>, caller: Caller, sent: Sent) -> Answer {
    let asked: SetBaseline = sent.json()?;
    ok(&shared.control.set_baseline(asked, &caller.by).await?)
}

/// `POST /backup`.
pub(super) async fn backup(shared: Arc<Shared>, sent: Sent) -> Answer {
    let BackupTo { to } = sent.json()?;
    if !to.is_absolute() {
        return Err(ApiError::bad(format!("`{}` is no absolute path", to.display())));
    }
    // Not made: a disk for backups that is not mounted would go unnoticed, and the backup would lie on the store's own.
    if let Some(folder) = to.parent().filter(|folder| !folder.is_dir()) {
        let text = format!("there is no folder `{}`; make it, mount its disk, or name another file", folder.display());
        return Err(ApiError::bad(text));
    }
    if to.exists() {
        let text = format!("`{}` exists already; name a new file", to.display());
        return Err(ApiError::new(StatusCode::CONFLICT, "conflict", text));
    }
    let said = shared.control.backup(to.clone()).await?;
    json(StatusCode::CREATED, &json!({"path": to, "verified": said}))
}

/// The board's forms want to see the board again; programs get the answer.
fn after(caller: &Caller, response: warp::reply::Response) -> Answer {
    if caller.board {
        return super::board::to_board();
    }
    Ok(response)
}
