//! Upkeep: what lets a supervisor run for months. Called by the ledger's clock, in a side task.
//!
//! Owns which folders and refs go, and when: folders of jobs, workspaces that were put aside, salvages, what was taken in
//! from workspaces, and the collecting of garbage in our repositories. Rows go by the store's own rules. Each step is its
//! own affair: one that fails is said and the others go on; everything is safe to repeat and to cut off. Refuses to touch
//! what belongs to a live task, to act on a name it does not understand, and reports, receipts and landings altogether.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_adapters::git::{Owner, RepoGit, Salvage};
use orch_domain::ids::{JobId, RunId, TaskId};
use orch_domain::job::{JobKind, JobStatus};
use orch_domain::journal::Entry;
use orch_domain::names::RepoName;
use orch_domain::reconcile::task_of_run;
use orch_domain::time::{Millis, Timestamp};
use orch_store::{JobTrace, Keep, Life, Pruned, StoreError, Subject};
use serde_json::json;

use crate::artefacts::discard;
use crate::context::{Context, RepoRuntime};
use crate::gates;
use crate::ledger::tell;

mod plan;
pub use plan::plan;

/// How long the folder of a job that nobody has recorded is left alone: its launch may be under way.
const UNKNOWN: Millis = Millis::from_mins(60);
/// Between two collections of garbage in one repository.
const COLLECT_EVERY: Millis = Millis::from_mins(24 * 60);
/// File beside a repository's rooms that says when garbage was collected last.
const COLLECTED: &str = "last-gc";
/// Ending of the name of a folder whose removal was begun.
const GONE: &str = ".gone";

/// How long what is over is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Job folders and imported commits of closed tasks, and rows that nobody asks for.
    pub logs: Millis,
    /// Salvages and workspaces that were put aside.
    pub salvage: Millis,
    /// Most bytes that one repository's salvages hold together.
    pub salvage_bytes: u64,
    /// Journals of closed tasks; `None`: for ever.
    pub journal: Option<Millis>,
}

impl Default for Retention {
    fn default() -> Self {
        let month = Millis::from_mins(30 * 24 * 60);
        Self { logs: month, salvage: month, salvage_bytes: 5 << 30, journal: None }
    }
}

/// What one round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Folders of jobs that went.
    pub job_folders: usize,
    /// Workspaces put aside that went.
    pub quarantined: usize,
    /// Salvages that were let go.
    pub salvages: usize,
    /// Refs of closed tasks that were dropped.
    pub refs: usize,
    /// Coverage measurements that went.
    pub measurements: usize,
    /// Repositories in which garbage was collected.
    pub collected: usize,
    /// Folders for sockets that killed supervisors had left.
    pub runtime_folders: usize,
    /// Rows that went.
    pub rows: Pruned,
    /// What could not be done, for people.
    pub troubles: Vec<String>,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "upkeep: removed {} job folders, {} workspaces put aside, {} salvages, {} refs, {} measurements, {} rows, {} \
             runtime folders; garbage collected in {} repositories",
            self.job_folders,
            self.quarantined,
            self.salvages,
            self.refs,
            self.measurements,
            self.rows.total(),
            self.runtime_folders,
            self.collected
        )?;
        match self.troubles.as_slice() {
            [] => Ok(()),
            troubles => write!(f, "; not done: {}", troubles.join("; ")),
        }
    }
}

/// Rounds are asked for by the clock and by people: one at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// One round, as of `now`.
pub async fn round(ctx: &Arc<Context>, now: Timestamp) -> Round {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut round = Round::default();
    // Folders before rows: the row says how long the folder is kept.
    match job_folders(ctx, now).await {
        Ok(count) => round.job_folders = count,
        Err(error) => round.troubles.push(format!("job folders: {error}")),
    }
    let keep = Keep { rows: ctx.retention.logs, journal: ctx.retention.journal };
    match ctx.store.prune(keep, now).await {
        Ok(pruned) => round.rows = pruned,
        Err(error) => round.troubles.push(format!("rows: {error}")),
    }
    match gates::coverage::forget(ctx, now).await {
        Ok(count) => round.measurements = count,
        Err(error) => round.troubles.push(format!("coverage measurements: {error}")),
    }
    match quarantined(ctx, now).await {
        Ok(count) => round.quarantined = count,
        Err(error) => round.troubles.push(format!("workspaces put aside: {error}")),
    }
    let placement = ctx.runner.placement.clone();
    round.runtime_folders =
        tokio::task::spawn_blocking(move || placement.clear_stale_folders()).await.unwrap_or_default();
    for (name, repo) in &ctx.repos {
        if let Err(error) = of_repository(ctx, name, repo, now, &mut round).await {
            round.troubles.push(format!("{name}: {error}"));
        }
    }
    round
}

async fn of_repository(
    ctx: &Arc<Context>,
    name: &RepoName,
    repo: &RepoRuntime,
    now: Timestamp,
    round: &mut Round,
) -> Result<(), String> {
    let git = repo.git.for_owner(Owner::default());
    round.salvages += salvages(ctx, name, &git, now).await?;
    for task in closed_refs(ctx, &git, now).await? {
        round.refs += git.drop_refs(&task).await.map_err(|e| e.to_string())?;
    }
    round.collected += usize::from(collect(ctx, name, &git, now).await?);
    Ok(())
}

/// Tasks whose refs may go.
async fn closed_refs(ctx: &Context, git: &RepoGit, now: Timestamp) -> Result<Vec<TaskId>, String> {
    let mut closed = Vec::new();
    for task in git.tasks_with_refs().await.map_err(|e| e.to_string())? {
        let life = ctx.store.life_of(&task).await.map_err(|e| e.to_string())?;
        // Refs of nobody were made by an older life of this data folder: there is no time from which to count.
        if let Some((_, Life::Closed(at))) = life
            && is_over(at, ctx.retention.logs, now)
        {
            closed.push(task);
        }
    }
    Ok(closed)
}

/// Whether something of then has been kept long enough.
fn is_over(then: Timestamp, kept: Millis, now: Timestamp) -> bool {
    then.after(kept) < now
}

// ------------------------------------------------------------------------------------------------------- job folders

/// Whether the folder of a recorded job may go.
fn may_go(trace: &JobTrace, kept: Millis, now: Timestamp) -> bool {
    let Some(ended) = trace.ended else { return false };
    if trace.status.is_live() {
        return false;
    }
    // What a command of ours said was read at once; its folder is only there because removing it was cut off.
    if trace.kind == JobKind::Git && trace.status == JobStatus::Ended && trace.succeeded {
        return is_over(ended, UNKNOWN, now);
    }
    match trace.life {
        Life::Live => false,
        Life::Closed(at) => is_over(at.max(ended), kept, now),
        Life::Nobodys => is_over(ended, kept, now),
    }
}

async fn job_folders(ctx: &Arc<Context>, now: Timestamp) -> Result<usize, StoreError> {
    Ok(remove(doomed_job_folders(ctx, now).await?).await)
}

async fn doomed_job_folders(ctx: &Context, now: Timestamp) -> Result<Vec<PathBuf>, StoreError> {
    let mut doomed = Vec::new();
    for folder in folders_in(ctx.paths.jobs.clone()).await {
        let goes = match folder.name.parse::<JobId>() {
            _ if folder.name.ends_with(GONE) => true,
            Ok(job) => match ctx.store.job_trace(&job).await? {
                Some(trace) => may_go(&trace, ctx.retention.logs, now),
                None => is_over(folder.changed, UNKNOWN, now),
            },
            Err(_) => false,
        };
        if goes {
            doomed.push(folder.path);
        }
    }
    Ok(doomed)
}

// -------------------------------------------------------------------------------------- workspaces that were put aside

async fn quarantined(ctx: &Arc<Context>, now: Timestamp) -> Result<usize, StoreError> {
    let mut count = 0;
    for (folder, since) in doomed_quarantine(ctx, now).await? {
        // Said first: should this be cut off, the next round removes what the journal has said to be gone.
        let text = format!("removed the workspace of run {} that was put aside at {since}: {KEPT_LONG}", folder.name);
        say(ctx, &folder.name, None, text, now).await?;
        count += remove(vec![folder.path]).await;
    }
    Ok(count)
}

/// Those that were kept long enough, each with since when.
async fn doomed_quarantine(ctx: &Context, now: Timestamp) -> Result<Vec<(Folder, Timestamp)>, StoreError> {
    let mut doomed = Vec::new();
    for folder in folders_in(ctx.paths.data.join("quarantine")).await {
        let since = match life_of_run(ctx, &folder.name).await? {
            Life::Live => continue,
            Life::Closed(at) => at.max(folder.changed),
            Life::Nobodys => folder.changed,
        };
        if is_over(since, ctx.retention.salvage, now) {
            doomed.push((folder, since));
        }
    }
    Ok(doomed)
}

const KEPT_LONG: &str = "it was kept for as long as retention.salvage says";

/// Whose a run's leftovers are.
async fn life_of_run(ctx: &Context, run: &str) -> Result<Life, StoreError> {
    match task_of_run(run) {
        Some(task) => Ok(ctx.store.life_of(&task).await?.map_or(Life::Nobodys, |(_, life)| life)),
        None => Ok(Life::Nobodys),
    }
}

/// Says what was removed in the journal of the run's task, or the repository's, or the supervisor's own.
async fn say(
    ctx: &Context,
    run: &str,
    repo: Option<&RepoName>,
    text: String,
    now: Timestamp,
) -> Result<(), StoreError> {
    let task = match task_of_run(run) {
        Some(id) => ctx.store.look_at_task(&id).await?.map(|stored| stored.task),
        None => None,
    };
    let subject = match (&task, repo) {
        (Some(task), _) => Subject::task(task),
        (None, Some(repo)) => Subject::repo(repo),
        (None, None) => Subject::default(),
    };
    let mut entry = Entry::new("removed", text);
    if let Ok(run) = run.parse::<RunId>() {
        entry = entry.with(json!({ "run": run }));
    }
    ctx.store.append(subject, vec![entry], now).await.map(drop)
}

// ------------------------------------------------------------------------------------------------------------ salvages

/// Salvages that may go.
struct Doomed {
    /// Kept long enough.
    old: Vec<Salvage>,
    /// Beyond the cap, oldest first.
    excess: Vec<Salvage>,
}

async fn doomed_salvages(ctx: &Context, git: &RepoGit, now: Timestamp) -> Result<Doomed, String> {
    let (mut old, mut kept) = (Vec::new(), Vec::new());
    // Newest first: what the cap leaves over is the newest.
    for salvage in git.list_salvage().await.map_err(|e| e.to_string())? {
        let life = life_of_run(ctx, salvage.run()).await.map_err(|e| e.to_string())?;
        let since = match life {
            Life::Closed(at) => at.max(salvage.at),
            Life::Live | Life::Nobodys => salvage.at,
        };
        if life != Life::Live && is_over(since, ctx.retention.salvage, now) {
            old.push(salvage);
        } else {
            kept.push((salvage, life == Life::Live));
        }
    }
    let excess = beyond(&kept, ctx.retention.salvage_bytes).into_iter().cloned().collect();
    Ok(Doomed { old, excess })
}

async fn salvages(ctx: &Context, name: &RepoName, git: &RepoGit, now: Timestamp) -> Result<usize, String> {
    let mut count = 0;
    let Doomed { old, excess } = doomed_salvages(ctx, git, now).await?;
    for salvage in &old {
        count += usize::from(forget(ctx, name, git, salvage, KEPT_LONG, now).await?);
    }
    if excess.is_empty() {
        return Ok(count);
    }
    let why = format!("the salvages of {name} hold more than the {} MiB of retention.salvage_size", {
        ctx.retention.salvage_bytes >> 20
    });
    let names: Vec<&str> = excess.iter().map(|salvage| salvage.id.as_str()).collect();
    tell(ctx, &format!("salvage-cap-{name}"), &format!("the oldest salvages of {name} go"), &{
        format!("{why}; let go: {}", names.join(", "))
    })
    .await;
    for salvage in &excess {
        count += usize::from(forget(ctx, name, git, salvage, &why, now).await?);
    }
    Ok(count)
}

/// The oldest salvages beyond a cap, of those (newest first, each with whether its task is live) that there are. Those of
/// live tasks count, and stay.
fn beyond(all: &[(Salvage, bool)], cap: u64) -> Vec<&Salvage> {
    let bytes = |salvage: &Salvage| salvage.bytes().unwrap_or(0);
    let mut total: u64 = all.iter().map(|(salvage, _)| bytes(salvage)).sum();
    let mut excess = Vec::new();
    for (salvage, live) in all.iter().rev() {
        if total > cap && !live {
            total -= bytes(salvage);
            excess.push(salvage);
        }
    }
    excess
}

async fn forget(
    ctx: &Context,
    name: &RepoName,
    git: &RepoGit,
    salvage: &Salvage,
    why: &str,
    now: Timestamp,
) -> Result<bool, String> {
    let text = format!("let go of salvage `{}` of {}: {why}", salvage.id, salvage.at);
    say(ctx, salvage.run(), Some(name), text, now).await.map_err(|e| e.to_string())?;
    git.forget_salvage(&salvage.id).await.map_err(|e| e.to_string())
}

// ------------------------------------------------------------------------------------------------------------- garbage

/// Collects garbage in a repository's rooms when nobody borrows from them, at most daily. Should a workspace be made
/// meanwhile, it loses nothing: upstream is only packed anew, and elsewhere nothing younger than two weeks goes.
async fn collect(ctx: &Context, name: &RepoName, git: &RepoGit, now: Timestamp) -> Result<bool, String> {
    if !collection_is_due(ctx, name, git, now).await? {
        return Ok(false);
    }
    let stamp = git.upstream().with_file_name(COLLECTED);
    git.gc().await.map_err(|e| format!("collecting garbage: {e}"))?;
    std::fs::write(&stamp, now.0.to_string()).map_err(|e| format!("{}: {e}", stamp.display()))?;
    Ok(true)
}

async fn collection_is_due(ctx: &Context, name: &RepoName, git: &RepoGit, now: Timestamp) -> Result<bool, String> {
    let stamp = git.upstream().with_file_name(COLLECTED);
    let last = std::fs::read_to_string(&stamp).ok().and_then(|text| text.trim().parse().ok()).map(Timestamp);
    Ok(last.is_none_or(|last| is_over(last, COLLECT_EVERY, now)) && !is_borrowed(ctx, name).await?)
}

/// Whether a workspace of this repository or any checkout is there, or its lane is at work.
async fn is_borrowed(ctx: &Context, name: &RepoName) -> Result<bool, String> {
    if !folders_in(ctx.paths.checkouts.clone()).await.is_empty() {
        return Ok(true);
    }
    let words = |error: StoreError| error.to_string();
    if ctx.store.lease(name).await.map_err(words)?.is_some() {
        return Ok(true);
    }
    let runs: BTreeSet<Option<TaskId>> =
        folders_in(ctx.paths.workspaces.clone()).await.iter().map(|folder| task_of_run(&folder.name)).collect();
    for task in runs {
        let of = match task {
            Some(task) => ctx.store.life_of(&task).await.map_err(words)?.map(|(repo, _)| repo),
            None => None,
        };
        // Nobody knows whose it is: it may be of this one.
        if of.is_none_or(|of| of == *name) {
            return Ok(true);
        }
    }
    Ok(false)
}

// ------------------------------------------------------------------------------------------------------------- folders

/// A folder of ours as seen on disk.
struct Folder {
    name: String,
    path: PathBuf,
    /// When it or something directly in it was last changed: written to, made, renamed.
    changed: Timestamp,
}

/// The folders directly in a folder; what is no folder or has no plain name is passed over.
async fn folders_in(dir: PathBuf) -> Vec<Folder> {
    let look = move || {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let folder = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            entry.file_type().ok()?.is_dir().then(|| Folder {
                name,
                changed: changed(&entry.path()),
                path: entry.path(),
            })
        };
        entries.filter_map(folder).collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// By the inode's own time, which a rename changes too and no program can set back.
fn changed(folder: &Path) -> Timestamp {
    let inside = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let times = inside.chain([folder.to_owned()]).filter_map(|path| std::fs::symlink_metadata(path).ok());
    let newest =
        times.map(|meta| meta.ctime().saturating_mul(1_000).saturating_add(meta.ctime_nsec() / 1_000_000)).max();
    // What cannot be looked at is as new as can be: it stays.
    Timestamp(newest.unwrap_or(i64::MAX))
}

/// Removes folders; tells how many are gone.
async fn remove(doomed: Vec<PathBuf>) -> usize {
    let work = move || {
        doomed.iter().for_each(|path| discard(path));
        doomed.iter().filter(|path| std::fs::symlink_metadata(path).is_err()).count()
    };
    tokio::task::spawn_blocking(work).await.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const KEPT: Millis = Millis(1_000_000_000);

    fn ago(millis: u64) -> Timestamp {
        Timestamp(NOW.0.saturating_sub_unsigned(millis))
    }

    fn trace(kind: JobKind, status: JobStatus, succeeded: bool, ended: u64, life: Life) -> JobTrace {
        JobTrace { kind, status, succeeded, ended: Some(ago(ended)), life }
    }

    #[test]
    fn a_jobs_folder_goes_by_its_task_its_kind_and_its_end() {
        use JobKind::{Agent, Deploy, Gate, Git, Push};
        use JobStatus::{Cancelled, Ended, Lost, Running};
        let (old, older) = (KEPT.0 + 1, KEPT.0 + 2);
        let cases = [
            ("an agent's of a live task", trace(Agent, Ended, true, older, Life::Live), false),
            ("an agent's, closed lately", trace(Agent, Ended, true, older, Life::Closed(ago(KEPT.0))), false),
            ("an agent's, closed long ago", trace(Agent, Ended, true, older, Life::Closed(ago(old))), true),
            ("a failed gate's, closed long ago", trace(Gate, Ended, false, older, Life::Closed(ago(old))), true),
            ("a deploy's that outlived its task", trace(Deploy, Lost, false, 5, Life::Closed(ago(old))), false),
            ("a push's of a live task", trace(Push, Ended, true, older, Life::Live), false),
            ("git, cut off after it was read", trace(Git, Ended, true, UNKNOWN.0 + 1, Life::Live), true),
            ("git, being read", trace(Git, Ended, true, 5, Life::Live), false),
            ("git that failed for a live task", trace(Git, Ended, false, older, Life::Live), false),
            ("git that failed for nobody, lately", trace(Git, Ended, false, 5, Life::Nobodys), false),
            ("git that failed for nobody, long ago", trace(Git, Ended, false, old, Life::Nobodys), true),
            ("git that was cancelled, long ago", trace(Git, Cancelled, false, old, Life::Nobodys), true),
            ("whatever still runs", trace(Git, Running, false, older, Life::Nobodys), false),
        ];
        for (what, trace, goes) in cases {
            assert_eq!(may_go(&trace, KEPT, NOW), goes, "{what}");
        }
        let open = JobTrace { ended: None, ..trace(Git, Cancelled, false, 0, Life::Nobodys) };
        assert!(!may_go(&open, KEPT, NOW), "no end is on record");
    }

    fn salvage(id: &str, about: &str) -> Salvage {
        let commit = "a".repeat(40).parse().unwrap_or_else(|_| panic!("a sha"));
        Salvage { id: id.to_owned(), commit, at: NOW, about: about.to_owned() }
    }

    #[test]
    fn beyond_the_cap_the_oldest_go_and_those_of_live_tasks_stay() {
        let all = [
            (salvage("newest", "bytes: 40"), false),
            (salvage("middle", "bytes: 40"), false),
            (salvage("of a live task", "bytes: 40"), true),
            (salvage("oldest", "bytes: 40"), false),
        ];
        let ids = |cap| -> Vec<String> { beyond(&all, cap).into_iter().map(|s| s.id.clone()).collect() };
        assert_eq!(ids(160), Vec::<String>::new(), "exactly the cap is within it");
        assert_eq!(ids(159), ["oldest"]);
        assert_eq!(ids(81), ["oldest", "middle"]);
        assert_eq!(ids(0), ["oldest", "middle", "newest"]);
    }

    #[tokio::test]
    async fn folders_are_found_with_their_age_and_removed_even_when_unwritable() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let job = dir.path().join("job1");
        std::fs::create_dir_all(job.join("sub")).expect("made");
        std::fs::write(dir.path().join("a-file"), "").expect("made");
        std::fs::set_permissions(job.join("sub"), std::fs::Permissions::from_mode(0o500)).expect("set");
        let found = folders_in(dir.path().to_owned()).await;
        assert_eq!(found.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["job1"], "files are none of ours");
        assert!(found[0].changed.0 > 1_600_000_000_000, "{}", found[0].changed);
        assert_eq!(remove(vec![job.clone()]).await, 1);
        assert!(!job.exists());
    }
}
