//! The windows and landings tables: irreversible steps, and what came of them.
//!
//! Owns the intent that is durable before anything irreversible is sent, and the proof line written in the transaction
//! that closes a landing. Invariants: one open window per (repository, kind, task); opening, changing and closing are
//! fenced by the lease's epoch; a land or deploy window is not opened under STOP, a rollback's is; one life lands at most
//! once; each proof line carries the hash of the one before it.

use orch_domain::coverage::Landed;
use orch_domain::ids::{CommitSha, Epoch, Generation, JobId, TaskId, WindowId};
use orch_domain::journal::Entry;
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::time::Timestamp;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Store;
use crate::coverage::{self, Ratcheted};
use crate::error::{StoreError, WindowError};
use crate::journal::{append, count_of, subject_of};
use crate::row::{
    all, execute, first, get, get_json_opt, get_parsed, get_parsed_opt, get_time, get_time_opt, json, read_json,
};
use crate::writer::{Tx, Urgency};

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WindowKind {
    /// Moving `main`.
    Land,
    /// Running the deploy command.
    Deploy,
    /// Rolling a deploy back.
    Rollback,
}

impl WindowKind {
    /// The word as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Land => "land",
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
        }
    }
}

/// A window to open: the intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWindow {
    /// Its id, minted by the caller.
    pub id: WindowId,
    /// What it is for.
    pub kind: WindowKind,
    /// The repository.
    pub repo: RepoName,
    /// The task.
    pub task: TaskId,
    /// The commit to land or deploy.
    pub sha: CommitSha,
    /// What `main` is expected to be before (landing).
    pub expected: Option<CommitSha>,
    /// The lease's epoch.
    pub epoch: Epoch,
    /// What its opener has to know again after a crash, in the opener's own words; the store only keeps it.
    pub detail: Value,
}

/// A window as stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Window {
    /// Its id.
    pub id: WindowId,
    /// What it is for.
    pub kind: WindowKind,
    /// The repository.
    pub repo: RepoName,
    /// The task.
    pub task: TaskId,
    /// The commit to land or deploy.
    pub sha: CommitSha,
    /// What `main` was expected to be before.
    pub expected: Option<CommitSha>,
    /// The lease's epoch when it was opened.
    pub epoch: Epoch,
    /// The job that carries it out, once there is one.
    pub job: Option<JobId>,
    /// When the intent was recorded.
    pub opened: Timestamp,
    /// When it was closed; `None`: under way.
    pub closed: Option<Timestamp>,
    /// What came of it.
    pub outcome: Option<Value>,
    /// What its opener noted; `None` for windows of earlier releases.
    pub detail: Option<Value>,
}

/// How a window ends.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowClose {
    /// Which.
    pub id: WindowId,
    /// The lease's present epoch: the caller's.
    pub epoch: Epoch,
    /// What came of it, for the one who asked and for people.
    pub outcome: Value,
    /// The proof line, when it landed.
    pub landing: Option<NewLanding>,
}

/// What closing did besides closing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// What the landing did to the coverage baseline, if coverage was measured.
    pub coverage: Option<Ratcheted>,
}

/// A proof line to append.
#[derive(Clone, Debug, PartialEq)]
pub struct NewLanding {
    /// The task.
    pub task: TaskId,
    /// The landed commit.
    pub sha: CommitSha,
    /// Its tree: the one that was tested.
    pub tree: CommitSha,
    /// What `main` was before.
    pub base: CommitSha,
    /// Gates with report hashes, switches that were off, remarks.
    pub proof: Value,
    /// What the coverage gate measured on that tree: moves the baseline in the same transaction.
    pub coverage: Option<Landed>,
}

/// A proof line as stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Landing {
    /// Its number over all repositories.
    pub id: i64,
    /// The repository.
    pub repo: RepoName,
    /// The task.
    pub task: TaskId,
    /// Its key.
    pub key: TaskKey,
    /// Its life.
    pub generation: Generation,
    /// The landed commit.
    pub sha: CommitSha,
    /// Its tree.
    pub tree: CommitSha,
    /// What `main` was before.
    pub base: CommitSha,
    /// Gates with report hashes, switches that were off, remarks.
    pub proof: Value,
    /// When it was verified.
    pub at: Timestamp,
    /// SHA-256 over the repository's previous chain value and this line.
    pub chain: String,
}

/// A landing that has no proof line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingLanding {
    /// Whose.
    pub key: TaskKey,
    /// Its life.
    pub generation: Generation,
    /// The commit that landed.
    pub sha: CommitSha,
    /// Its tree, as the task knows it.
    pub tree: Option<CommitSha>,
    /// What `main` was before, as its window knows it.
    pub base: Option<CommitSha>,
    /// When it landed.
    pub at: Timestamp,
}

impl Store {
    /// Records the intent of an irreversible step; only after this may it be sent.
    pub async fn open_window(&self, window: NewWindow, now: Timestamp) -> Result<(), WindowError> {
        self.write(Urgency::Ordinary, move |tx| {
            fence(tx.conn, &window.repo, window.epoch)?;
            let subject = subject_of(tx.conn, &window.task)?;
            let sql = "SELECT id FROM windows WHERE repo = ?1 AND kind = ?2 AND task = ?3 AND closed_at IS NULL";
            let names = (window.repo.as_str(), window.kind.as_str(), window.task.as_str());
            if let Some(id) = first(tx.conn, sql, names, |row| get_parsed(row, "id"))? {
                return Err(WindowError::AlreadyOpen { id });
            }
            let sql = "SELECT 1 AS stopped FROM tasks WHERE id = ?1 AND cancel_requested_at IS NOT NULL";
            let stopped = first(tx.conn, sql, [window.task.as_str()], |_| Ok(()))?.is_some();
            if stopped && window.kind != WindowKind::Rollback {
                return Err(WindowError::StopRecorded);
            }
            if window.kind == WindowKind::Land && landed(tx.conn, &window.task)? {
                return Err(WindowError::AlreadyLanded);
            }
            let sql = "INSERT INTO windows (id, kind, repo, task, sha, expected, lease_epoch, opened_at, detail)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
            let expected = window.expected.as_ref().map(CommitSha::as_str);
            let row = (window.id.as_str(), names.1, names.0, names.2, window.sha.as_str(), expected);
            let detail = json(&window.detail);
            execute(tx.conn, sql, (row.0, row.1, row.2, row.3, row.4, row.5, window.epoch.0, now.0, detail))?;
            let text = format!("{} window opened for {}", window.kind.as_str(), window.sha.short());
            append(tx, &subject, &[Entry::new("window-opened", text)], now)?;
            Ok(())
        })
        .await
    }

    /// Records which job carries a window out.
    pub async fn set_window_job(&self, id: &WindowId, epoch: Epoch, job: &JobId) -> Result<(), WindowError> {
        let (id, job) = (id.clone(), job.clone());
        self.write(Urgency::Needed, move |tx| {
            open_and_fenced(tx.conn, &id, epoch)?;
            execute(tx.conn, "UPDATE windows SET job = ?2 WHERE id = ?1", (id.as_str(), job.as_str()))?;
            Ok(())
        })
        .await
    }

    /// Closes a window with its outcome, and, when it landed, with proof line and baseline in the same transaction.
    pub async fn close_window(&self, close: WindowClose, now: Timestamp) -> Result<Closed, WindowError> {
        self.write(Urgency::Needed, move |tx| {
            let window = open_and_fenced(tx.conn, &close.id, close.epoch)?;
            let sql = "UPDATE windows SET closed_at = ?2, outcome = ?3 WHERE id = ?1";
            execute(tx.conn, sql, (close.id.as_str(), now.0, json(&close.outcome)))?;
            let landed = close.landing.as_ref().map(|landing| insert_landing(tx, &window.repo, landing, now));
            let coverage = landed.transpose()?.flatten();
            let text = format!("{} window closed for {}", window.kind.as_str(), window.sha.short());
            let entry = Entry::new("window-closed", text).with(close.outcome.clone());
            append(tx, &subject_of(tx.conn, &window.task)?, &[entry], now)?;
            Ok(Closed { coverage })
        })
        .await
    }

    /// A repository's windows under way.
    pub async fn open_windows(&self, repo: &RepoName) -> Result<Vec<Window>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| {
            let sql = "SELECT * FROM windows WHERE repo = ?1 AND closed_at IS NULL ORDER BY opened_at, id";
            all(conn, sql, [repo.as_str()], window)
        })
        .await
    }

    /// A task's windows, in the order of their opening, whatever the clock said.
    pub async fn windows_of(&self, task: &TaskId) -> Result<Vec<Window>, StoreError> {
        let task = task.clone();
        self.read(move |conn| {
            all(conn, "SELECT * FROM windows WHERE task = ?1 ORDER BY rowid", [task.as_str()], window)
        })
        .await
    }

    /// A repository's deploys since the last one that took effect, that one first, with the key of each task and whether
    /// it is closed for ever: what production may hold.
    pub async fn deploys_since_last(&self, repo: &RepoName) -> Result<Vec<(Window, TaskKey, bool)>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| {
            let sql = "SELECT windows.*, orig_key, done_at IS NOT NULL OR cancelled_at IS NOT NULL AS over
                       FROM windows JOIN tasks ON tasks.id = windows.task
                       WHERE windows.repo = ?1 AND kind = 'deploy' AND windows.rowid >= coalesce((
                         SELECT max(rowid) FROM windows
                         WHERE repo = ?1 AND kind = 'deploy' AND json_extract(outcome, '$.deployed') = 1), 0)
                         OR windows.repo = ?1 AND kind = 'deploy' AND closed_at IS NULL
                       ORDER BY windows.rowid";
            all(conn, sql, [repo.as_str()], |row| Ok((window(row)?, get_parsed(row, "orig_key")?, get(row, "over")?)))
        })
        .await
    }

    /// How often people asked for the task to go on: a number that only rises, and says which request a result is of.
    pub async fn retries_of(&self, task: &TaskId) -> Result<u64, StoreError> {
        let task = task.clone();
        self.read(move |conn| count_of(conn, &task, "retry-requested")).await
    }

    /// Appends a proof line without a window (a person merged it); `false`: the task has one already.
    pub async fn append_landing(
        &self,
        repo: &RepoName,
        landing: NewLanding,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let repo = repo.clone();
        self.write(Urgency::Needed, move |tx| match insert_landing(tx, &repo, &landing, now) {
            Ok(_) => Ok(true),
            Err(WindowError::AlreadyLanded) => Ok(false),
            Err(WindowError::Store(err)) => Err(err),
            Err(other) => Err(StoreError::Refused { why: other.to_string() }),
        })
        .await
    }

    /// A repository's proof lines, oldest first.
    pub async fn landings(&self, repo: &RepoName) -> Result<Vec<Landing>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| all(conn, "SELECT * FROM landings WHERE repo = ?1 ORDER BY id", [repo.as_str()], landing))
            .await
    }

    /// A repository's newest proof lines, newest first.
    pub async fn last_landings(&self, repo: &RepoName, limit: u32) -> Result<Vec<Landing>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| {
            let sql = "SELECT * FROM landings WHERE repo = ?1 ORDER BY id DESC LIMIT ?2";
            all(conn, sql, (repo.as_str(), limit), landing)
        })
        .await
    }

    /// Repositories in which something has landed, whether or not they are in the settings still.
    pub async fn landed_repos(&self) -> Result<Vec<RepoName>, StoreError> {
        self.read(|conn| {
            let sql = "SELECT DISTINCT repo FROM landings UNION SELECT DISTINCT repo FROM tasks
                       WHERE json_extract(body, '$.landed') IS NOT NULL ORDER BY repo";
            all(conn, sql, [], |row| get_parsed(row, "repo"))
        })
        .await
    }

    /// What a repository's tasks and windows say has landed though no proof line says so: lines are never taken away, so
    /// somebody has. Newest first.
    pub async fn missing_landings(&self, repo: &RepoName) -> Result<Vec<MissingLanding>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| {
            let sql =
                "SELECT orig_key, generation, body ->> '$.landed.sha' AS told, body ->> '$.landed.tree' AS told_tree,
                              body ->> '$.landed.at' AS told_at, windows.sha AS seen, expected, closed_at
                       FROM tasks LEFT JOIN windows
                         ON windows.task = tasks.id AND kind = 'land' AND json_extract(outcome, '$.landed') = 1
                       WHERE tasks.repo = ?1 AND NOT EXISTS (SELECT 1 FROM landings WHERE landings.task = tasks.id)
                         AND (told IS NOT NULL OR seen IS NOT NULL)
                       ORDER BY coalesce(closed_at, told_at) DESC, tasks.id DESC";
            all(conn, sql, [repo.as_str()], |row| {
                let told: Option<CommitSha> = get_parsed_opt(row, "told")?;
                let seen: Option<CommitSha> = get_parsed_opt(row, "seen")?;
                let missing = || StoreError::Damaged { what: "a landing".to_owned(), why: "no commit".to_owned() };
                Ok(MissingLanding {
                    key: get_parsed(row, "orig_key")?,
                    generation: Generation(get(row, "generation")?),
                    sha: told.or(seen).ok_or_else(missing)?,
                    tree: get_parsed_opt(row, "told_tree")?,
                    base: get_parsed_opt(row, "expected")?,
                    at: get_time_opt(row, "closed_at")?.or(get_time_opt(row, "told_at")?).unwrap_or_default(),
                })
            })
        })
        .await
    }

    /// A task's proof line.
    pub async fn landing_of(&self, task: &TaskId) -> Result<Option<Landing>, StoreError> {
        let task = task.clone();
        self.read(move |conn| first(conn, "SELECT * FROM landings WHERE task = ?1", [task.as_str()], landing)).await
    }

    /// Recomputes the chain over a repository's proof lines; the first line that does not fit, if any.
    pub async fn verify_landings(&self, repo: &RepoName) -> Result<Option<i64>, StoreError> {
        let lines = self.landings(repo).await?;
        let mut before = String::new();
        for line in lines {
            before = chain(&before, &line);
            if before != line.chain {
                return Ok(Some(line.id));
            }
        }
        Ok(None)
    }
}

fn fence(conn: &Connection, repo: &RepoName, epoch: Epoch) -> Result<(), WindowError> {
    let sql = "SELECT epoch, holder IS NOT NULL AS held FROM leases WHERE repo = ?1";
    let lease = first(conn, sql, [repo.as_str()], |row| Ok((get::<u64>(row, "epoch")?, get::<bool>(row, "held")?)))?;
    match lease.unwrap_or_default() {
        (current, true) if current == epoch.0 => Ok(()),
        (current, _) => Err(WindowError::StaleEpoch { current: Epoch(current) }),
    }
}

fn open_and_fenced(conn: &Connection, id: &WindowId, epoch: Epoch) -> Result<Window, WindowError> {
    let found = first(conn, "SELECT * FROM windows WHERE id = ?1", [id.as_str()], window)?
        .ok_or_else(|| StoreError::NotFound { what: "window", id: id.to_string() })?;
    fence(conn, &found.repo, epoch)?;
    if found.closed.is_some() {
        return Err(WindowError::AlreadyClosed);
    }
    Ok(found)
}

fn landed(conn: &Connection, task: &TaskId) -> Result<bool, StoreError> {
    Ok(first(conn, "SELECT 1 AS yes FROM landings WHERE task = ?1", [task.as_str()], |_| Ok(()))?.is_some())
}

fn insert_landing(
    tx: &Tx<'_>,
    repo: &RepoName,
    new: &NewLanding,
    now: Timestamp,
) -> Result<Option<Ratcheted>, WindowError> {
    if landed(tx.conn, &new.task)? {
        return Err(WindowError::AlreadyLanded);
    }
    let subject = subject_of(tx.conn, &new.task)?;
    let sql = "SELECT chain FROM landings WHERE repo = ?1 ORDER BY id DESC LIMIT 1";
    let before = first(tx.conn, sql, [repo.as_str()], |row| get::<String>(row, "chain"))?.unwrap_or_default();
    let missing = || StoreError::Damaged { what: format!("task {}", new.task), why: "it has no key".to_owned() };
    let mut line = Landing {
        id: 0,
        repo: repo.clone(),
        task: new.task.clone(),
        key: subject.key.clone().ok_or_else(missing)?,
        generation: subject.generation.ok_or_else(missing)?,
        sha: new.sha.clone(),
        tree: new.tree.clone(),
        base: new.base.clone(),
        proof: new.proof.clone(),
        at: now,
        chain: String::new(),
    };
    line.chain = chain(&before, &line);
    let sql = "INSERT INTO landings (repo, task, key, generation, sha, tree, base, proof, at, chain)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let row = (
        repo.as_str(),
        line.task.as_str(),
        line.key.as_str(),
        line.generation.0,
        line.sha.as_str(),
        line.tree.as_str(),
        line.base.as_str(),
        json(&line.proof),
        now.0,
        &line.chain,
    );
    execute(tx.conn, sql, row)?;
    let text = format!("landed as {}", line.sha.short());
    append(tx, &subject, &[Entry::new("landed", text).with(new.proof.clone())], now)?;
    let by = (&line.task, line.key.as_str());
    let measured = new.coverage.as_ref().map(|landed| coverage::land(tx, repo, by, &line.sha, landed, now));
    Ok(measured.transpose()?)
}

/// The chain value of a line: everything in it except its number, after the value before it.
fn chain(before: &str, line: &Landing) -> String {
    let fields = (
        before,
        line.repo.as_str(),
        (line.task.as_str(), line.key.as_str(), line.generation.0),
        (line.sha.as_str(), line.tree.as_str(), line.base.as_str()),
        &line.proof,
        line.at.0,
    );
    hex::encode(Sha256::digest(json(&fields).as_bytes()))
}

fn window(row: &Row<'_>) -> Result<Window, StoreError> {
    let kind: String = get(row, "kind")?;
    Ok(Window {
        id: get_parsed(row, "id")?,
        kind: read_json("window kind", &format!("\"{kind}\""))?,
        repo: get_parsed(row, "repo")?,
        task: get_parsed(row, "task")?,
        sha: get_parsed(row, "sha")?,
        expected: get_parsed_opt(row, "expected")?,
        epoch: Epoch(get(row, "lease_epoch")?),
        job: get_parsed_opt(row, "job")?,
        opened: get_time(row, "opened_at")?,
        closed: get_time_opt(row, "closed_at")?,
        outcome: get_json_opt(row, "outcome")?,
        detail: get_json_opt(row, "detail")?,
    })
}

fn landing(row: &Row<'_>) -> Result<Landing, StoreError> {
    Ok(Landing {
        id: get(row, "id")?,
        repo: get_parsed(row, "repo")?,
        task: get_parsed(row, "task")?,
        key: get_parsed(row, "key")?,
        generation: Generation(get(row, "generation")?),
        sha: get_parsed(row, "sha")?,
        tree: get_parsed(row, "tree")?,
        base: get_parsed(row, "base")?,
        proof: get_json_opt(row, "proof")?.unwrap_or_default(),
        at: get_time(row, "at")?,
        chain: get(row, "chain")?,
    })
}
