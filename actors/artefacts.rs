//! Artefacts and leftovers: what agents write for people, and what must not be lost when a workspace goes.
//!
//! Owns where a task's artefacts are, how they are read from a commit (never from a workspace), their copies in the data
//! folder, and the end of a workspace: discarded, salvaged, or quarantined by name.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use orch_adapters::git::{FileAt, RepoGit, SalvageSpec};
use orch_domain::artefact::{
    ANALYSIS_FILE, ARCHITECTURE_FILE, FrontMatter, MAX_FRONT_MATTER, REVIEW_FILE, Readiness, ReviewStatus,
    parse_front_matter,
};
use orch_domain::event::ArtefactFact;
use orch_domain::ids::{CommitSha, RunId, TaskId};
use orch_domain::job::JobStatus;
use orch_domain::journal::Entry;
use orch_domain::names::RepoPath;
use orch_domain::pipeline::Role;
use orch_domain::task::Task;
use orch_store::{JobRow, Subject};
use serde_json::json;

use crate::attempt::began_with;
use crate::context::Context;
use crate::settle::named;

/// Largest artefact that is read.
const MOST_BYTES: u64 = 256 << 10;
/// Longest time for a salvage: a workspace that takes longer is put aside whole.
const SALVAGE: Duration = Duration::from_secs(600);
/// Bytes of a review that go into findings.
const REVIEW_TEXT: usize = 16 << 10;

/// The task's own folder under the repository's artefact folder.
#[must_use]
pub fn folder(task: &Task) -> RepoPath {
    format!("{}/{}", task.policy.artefact_dir, task.key.slug())
        .parse()
        .expect("a valid path, a slash and a slug of letters, digits and `-` make a valid path")
}

fn file_in(task: &Task, name: &str) -> RepoPath {
    format!("{}/{name}", folder(task)).parse().expect("a valid path and a plain file name make a valid path")
}

async fn text_at(git: &RepoGit, commit: &CommitSha, path: &RepoPath) -> Result<Option<String>, String> {
    match git.read_file_at(commit, path, MOST_BYTES).await.map_err(|e| e.to_string())? {
        FileAt::Bytes(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        FileAt::Missing => Ok(None),
        FileAt::NotAFile => Err(format!("`{path}` is not a plain file")),
        FileAt::TooLarge { bytes } => Err(format!("`{path}` has {bytes} bytes; at most {MOST_BYTES} are read")),
    }
}

/// Reads the artefact that a role had to write, if this run wrote it: an older one of the same name does not count.
pub async fn read(
    git: &RepoGit,
    task: &Task,
    role: Role,
    start: &CommitSha,
    head: &CommitSha,
) -> Result<ArtefactFact, String> {
    let Some((name, _)) = role.artefact() else { return Ok(ArtefactFact::NotAsked) };
    let path = file_in(task, name);
    let changed = git.changed_paths(start, head).await.map_err(|e| e.to_string())?;
    if !changed.iter().any(|c| c.path == path.as_str()) {
        return Ok(ArtefactFact::Missing { path: path.to_string() });
    }
    let text = match text_at(git, head, &path).await {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(ArtefactFact::Missing { path: path.to_string() }),
        Err(why) => return Ok(ArtefactFact::Broken { why }),
    };
    let parsed = parse_front_matter(path.as_str(), &text, MAX_FRONT_MATTER)
        .and_then(|front| front.require(role, path.as_str()).map(|()| front));
    Ok(match parsed {
        Ok(front) => {
            let (status, reviewed_head) = status_of(role, &front);
            ArtefactFact::Written { status: status.to_owned(), reviewed_head, text: body_of(&text) }
        }
        Err(error) => ArtefactFact::Broken { why: error.to_string() },
    })
}

fn status_of(role: Role, front: &FrontMatter) -> (&'static str, Option<CommitSha>) {
    let ready = |status: Option<Readiness>| match status {
        Some(Readiness::Ready) => "ready",
        Some(Readiness::Blocked) | None => "blocked",
    };
    match role {
        Role::Analyst => (ready(front.analysis_status), None),
        Role::Architect => (ready(front.architecture_status), None),
        Role::Reviewer | Role::Developer => {
            let approved = front.review_status == Some(ReviewStatus::Approved);
            (if approved { "approved" } else { "changes_requested" }, front.reviewed_head.clone())
        }
    }
}

/// The text below the front matter, shortened.
fn body_of(text: &str) -> String {
    let after = text.split_once("\n---\n").map_or(text, |(_, rest)| rest);
    after.trim().chars().take(REVIEW_TEXT).collect()
}

/// Artefacts of earlier stages, for the next prompt.
pub async fn previous(git: &RepoGit, task: &Task, at: &CommitSha) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in [ANALYSIS_FILE, ARCHITECTURE_FILE, REVIEW_FILE] {
        if let Ok(Some(text)) = text_at(git, at, &file_in(task, name)).await {
            found.push((name.to_owned(), text));
        }
    }
    found
}

/// Copies the task's artefacts into the data folder, where they outlive branch and cancel. Best effort: the branch
/// still has them.
pub async fn keep_copies(ctx: &Context, git: &RepoGit, task: &Task, head: &CommitSha) {
    let dir = reports_dir(ctx, task);
    for (name, text) in previous(git, task, head).await {
        let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join(&name), text));
        if let Err(error) = written {
            tracing::warn!(task.id = %task.id, %error, "{name} could not be copied to {}", dir.display());
        }
    }
}

/// Where a life's reports and artefact copies are kept.
#[must_use]
pub fn reports_dir(ctx: &Context, task: &Task) -> PathBuf {
    ctx.paths.reports.join(task.key.slug()).join(task.generation.to_string())
}

/// Ending of the name of a folder that is being removed: whatever is found under such a name is nobody's.
const GONE: &str = ".gone";

/// Removes a folder with all that is in it; what an agent made unwritable is made writable first. It leaves its place in
/// one step: a removal that is cut off never looks like work from which somebody has deleted files.
pub fn discard(path: &Path) {
    if std::fs::symlink_metadata(path).is_err() {
        return;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.ends_with(GONE) {
        return remove(path);
    }
    let gone = path.with_file_name(format!("{name}{GONE}"));
    remove(&gone);
    match std::fs::rename(path, &gone) {
        Ok(()) => remove(&gone),
        Err(_) => remove(path),
    }
}

fn remove(path: &Path) {
    if std::fs::symlink_metadata(path).is_err() || std::fs::remove_dir_all(path).is_ok() {
        return;
    }
    open_up(path);
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!(%error, "{} could not be removed; the reconciler tries again", path.display());
    }
}

/// Makes the folders below (never through links) writable for their owner.
fn open_up(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let is_dir = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    if !is_dir || std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).is_err() {
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        open_up(&entry.path());
    }
}

/// What became of a workspace whose work could not be taken out in the ordinary way.
pub enum Kept {
    /// Its files are in the vault.
    Salvaged(String),
    /// The folder was put aside, under this name.
    Quarantined {
        /// Where it is now.
        path: PathBuf,
        /// Why it could not be salvaged.
        why: String,
    },
    /// It could not even be put aside and stays where it is.
    Stuck(String),
}

/// Keeps the files of a run's workspace in the vault and removes it; when that fails, puts the folder aside. Says so in
/// the task's journal either way.
pub async fn salvage_or_quarantine(
    ctx: &Context,
    git: &RepoGit,
    task: &Task,
    run: &RunId,
    root: &Path,
    why: &str,
) -> Kept {
    if let Some(doubt) = doubt(ctx, &task.id, run).await {
        return aside(ctx, task, run, root, why, quarantine(ctx, run, root, &doubt)).await;
    }
    let start = match beginning(ctx, git, task, run).await {
        Ok(start) => start,
        Err(error) => return aside(ctx, task, run, root, why, quarantine(ctx, run, root, &error)).await,
    };
    let spec = SalvageSpec {
        workspace: root.join("tree"),
        key: task.key.clone(),
        generation: task.generation,
        run: run.clone(),
        start,
        at: ctx.now(),
    };
    let kept = match tokio::time::timeout(SALVAGE, git.salvage(&spec)).await {
        Ok(Ok(salvaged)) => {
            discard(root);
            Kept::Salvaged(salvaged.id)
        }
        Ok(Err(error)) => quarantine(ctx, run, root, &error.to_string()),
        Err(_) => quarantine(ctx, run, root, &format!("its salvage took longer than {} s", SALVAGE.as_secs())),
    };
    aside(ctx, task, run, root, why, kept).await
}

/// Puts a run's workspace aside, whole, where nothing of it can be kept in a vault, and says so in the task's journal.
pub async fn put_aside(ctx: &Context, task: &Task, run: &RunId, root: &Path, why: &str, failed: &str) -> Kept {
    aside(ctx, task, run, root, why, quarantine(ctx, run, root, failed)).await
}

/// The same for a workspace of which no task is known any more: it may be somebody's work all the same.
pub fn put_aside_unknown(ctx: &Context, run: &RunId, root: &Path) {
    if let Kept::Stuck(error) = quarantine(ctx, run, root, "no task is known by its name") {
        tracing::warn!(run.id = %run, error, "a workspace of nobody stays at {}", root.display());
    }
}

/// Why something of a run may still live and write into its workspace: then nothing is taken out of it, or removed under
/// it. `None`: all its jobs are proven gone.
pub async fn doubt(ctx: &Context, task: &TaskId, run: &RunId) -> Option<String> {
    let jobs = match ctx.store.jobs_of(task).await {
        Ok(jobs) => jobs,
        Err(error) => return Some(format!("its jobs could not be read: {error}")),
    };
    let mut of_run = jobs.iter().filter(|job| job.record.run.as_ref() == Some(run));
    let unproven = |job: &&JobRow| match &job.exit {
        Some(exit) => !exit.proven_gone,
        None => job.status == JobStatus::Running,
    };
    let doubtful = of_run.find(unproven)?;
    Some(format!("nobody can say that nothing of {} is left in it", named(&doubtful.record)))
}

/// Says in the journal what became of a workspace.
async fn aside(ctx: &Context, task: &Task, run: &RunId, root: &Path, why: &str, kept: Kept) -> Kept {
    let text = match &kept {
        Kept::Salvaged(id) => format!("kept the files of run {run} as salvage `{id}`: {why}"),
        Kept::Quarantined { path, why: failed } => {
            format!(
                "put the workspace of run {run} aside at {}: {why}; it could not be salvaged: {failed}",
                path.display()
            )
        }
        Kept::Stuck(error) => format!("the workspace of run {run} stays at {}: {error}", root.display()),
    };
    let entry = Entry::new("salvaged", text).with(json!({"run": run}));
    if let Err(error) = ctx.store.append(Subject::task(task), vec![entry], ctx.now()).await {
        tracing::warn!(task.id = %task.id, %error, "a salvage could not be journaled");
    }
    kept
}

/// In a folder in quarantine: why it is there.
const WHY: &str = "why.txt";
/// Bytes of it that are read.
const MOST_WHY: u64 = 4 << 10;

fn quarantine_of(ctx: &Context, run: &RunId) -> PathBuf {
    ctx.paths.data.join("quarantine").join(run.as_str())
}

/// The workspace of a run in quarantine, and why it is there; `None`: it is not.
pub fn quarantined(ctx: &Context, run: &RunId) -> Option<(PathBuf, String)> {
    let aside = quarantine_of(ctx, run);
    std::fs::symlink_metadata(&aside).ok()?;
    let (place, mut why) = (aside.join(WHY), String::new());
    // An agent without confinement could have put a link there.
    let noted = std::fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_file());
    let read = |file: std::fs::File| file.take(MOST_WHY).read_to_string(&mut why);
    match noted && std::fs::File::open(&place).and_then(read).is_ok() {
        true => Some((aside, why)),
        false => Some((aside, "why was not noted".to_owned())),
    }
}

/// Beside the folders that the agent works in, and before they move: whoever finds it finds the reason.
fn note_why(root: &Path, error: &str) -> std::io::Result<()> {
    let place = root.join(WHY);
    let _ = std::fs::remove_file(&place);
    // Only a file that was not there before is written: never what a link leads to.
    std::fs::OpenOptions::new().write(true).create_new(true).open(place)?.write_all(error.as_bytes())
}

fn quarantine(ctx: &Context, run: &RunId, root: &Path, error: &str) -> Kept {
    let aside = quarantine_of(ctx, run);
    if let Err(error) = note_why(root, error) {
        tracing::warn!(run.id = %run, %error, "why a workspace is put aside could not be noted in it");
    }
    let moved = std::fs::create_dir_all(ctx.paths.data.join("quarantine")).and_then(|()| std::fs::rename(root, &aside));
    match moved {
        Ok(()) => {
            tracing::warn!(run.id = %run, error, "workspace of run {run} quarantined at {}", aside.display());
            Kept::Quarantined { path: aside, why: error.to_owned() }
        }
        Err(why) => Kept::Stuck(format!("{error}; and it could not be put aside: {why}")),
    }
}

/// The commit that a run's workspace began with: its files are kept even where they are ignored. Recorded with the run's
/// job, so that a forge that is away is not asked; a workspace without one has nothing of an agent yet, and whatever is
/// known of its task is near enough.
async fn beginning(ctx: &Context, git: &RepoGit, task: &Task, run: &RunId) -> Result<CommitSha, String> {
    let jobs = ctx.store.jobs_of(&task.id).await.map_err(|e| format!("its jobs could not be read: {e}"))?;
    if let Some(start) = began_with(run, &jobs) {
        return Ok(start);
    }
    if let Some(known) = task.head.clone().or_else(|| task.base.clone()) {
        return Ok(known);
    }
    let repo = ctx.repo(&task.repo).ok_or_else(|| format!("repository `{}` is not configured", task.repo))?;
    let main = repo.main().await.map_err(|e| e.to_string())?;
    git.fetch_main(&main).await.map_err(|e| e.to_string())
}
