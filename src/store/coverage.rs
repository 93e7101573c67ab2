//! The coverage_baseline and coverage_history tables: the mark that a repository is held to, and how it came to be.
//!
//! Owns the ratchet's place in a transaction: [`land`] runs inside the one that records a landing, asks the domain's rule
//! about the baseline as it is at that moment, and writes mark and history together or not at all. A person's mark is
//! set by compare-and-set on the revision. Invariants: one landing, one line of history; history is append-only. Whether a
//! measurement is better is the domain's question, not the store's.

use orch_domain::coverage::{Format, Landed, Mark, Standing, Step, Totals, ratchet};
use orch_domain::ids::{CommitSha, TaskId};
use orch_domain::journal::Entry;
use orch_domain::names::RepoName;
use orch_domain::time::Timestamp;
use rusqlite::{Connection, Row};
use serde::Serialize;

use crate::Store;
use crate::error::StoreError;
use crate::journal::{Subject, append};
use crate::row::{all, execute, first, get, get_parsed, get_parsed_opt, get_time};
use crate::writer::{Tx, Urgency};

/// A repository's coverage baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Baseline {
    /// Rises with each change; what a compare-and-set compares.
    pub revision: u64,
    /// Its numbers.
    #[serde(flatten)]
    pub totals: Totals,
    /// The commit it was measured on.
    pub sha: CommitSha,
    /// How it came to be.
    pub step: Step,
    /// Who set it: a task's key, or a person.
    pub set_by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// Hash of tool and configuration that measured it; `None`: compared with any.
    pub measured_by: Option<String>,
    /// Under which key its lines are kept.
    pub measurement: Option<String>,
    /// Lines that were told not to count, as far as the format tells.
    pub excluded: Option<u64>,
    /// The report's format.
    pub format: Option<Format>,
    /// The tool, as far as it says.
    pub tool: Option<String>,
    /// Hash of the configuration.
    pub configuration: Option<String>,
}

impl Baseline {
    /// As the ratchet sees it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing { revision: self.revision, totals: self.totals, measured_by: self.measured_by.clone() }
    }
}

/// A baseline that a person sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBaseline {
    /// The revision it replaces; `None`: there must be none yet.
    pub replaces: Option<u64>,
    /// Its numbers.
    pub totals: Totals,
    /// The commit it stands for.
    pub sha: CommitSha,
    /// Who sets it.
    pub set_by: String,
    /// Why.
    pub reason: String,
    /// The landing whose measurement it takes over, with its lines.
    pub taken: Option<HistoryLine>,
}

/// What came of setting a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaselineSet {
    /// It is set, at this revision.
    Set(u64),
    /// Another one was set in between; nothing changed.
    Moved(Option<u64>),
}

/// What a landing did to the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratcheted {
    /// Which step it took.
    pub step: Step,
    /// The baseline's revision afterwards; `None`: there is none.
    pub revision: Option<u64>,
}

/// One line of a repository's coverage history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryLine {
    /// Its number over all repositories, rising.
    pub id: i64,
    /// The repository.
    pub repo: RepoName,
    /// When.
    pub at: Timestamp,
    /// What became of the baseline.
    pub step: Step,
    /// What was measured, or set.
    #[serde(flatten)]
    pub totals: Totals,
    /// Lines that were told not to count, as far as the format tells.
    pub excluded: Option<u64>,
    /// On which commit.
    pub sha: CommitSha,
    /// By which task's landing; `None`: a person.
    pub task: Option<TaskId>,
    /// A task's key, or a person.
    pub set_by: String,
    /// Why.
    pub reason: String,
    /// The report's format.
    pub format: Option<Format>,
    /// The tool, as far as it says.
    pub tool: Option<String>,
    /// Hash of the configuration.
    pub configuration: Option<String>,
    /// The baseline's revision afterwards.
    pub revision: Option<u64>,
    /// Its numbers afterwards.
    pub baseline: Option<Totals>,
    /// Under which key its lines are kept.
    pub measurement: Option<String>,
}

impl Store {
    /// A repository's coverage baseline.
    pub async fn baseline(&self, repo: &RepoName) -> Result<Option<Baseline>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| find_baseline(conn, &repo)).await
    }

    /// Sets a repository's coverage baseline in a person's name, by compare-and-set.
    pub async fn set_baseline(
        &self,
        repo: &RepoName,
        new: NewBaseline,
        now: Timestamp,
    ) -> Result<BaselineSet, StoreError> {
        let repo = repo.clone();
        self.write(Urgency::Needed, move |tx| set_baseline(tx, &repo, &new, now)).await
    }

    /// A repository's newest lines of history below number `before` (`None`: from the newest), newest first.
    pub async fn coverage_history(
        &self,
        repo: &RepoName,
        before: Option<i64>,
        most: u32,
    ) -> Result<Vec<HistoryLine>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| {
            let sql = "SELECT * FROM coverage_history WHERE repo = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
            all(conn, sql, (repo.as_str(), before.unwrap_or(i64::MAX), most), history_line)
        })
        .await
    }

    /// The last line of a repository's history that is a landing.
    pub async fn last_measured_landing(&self, repo: &RepoName) -> Result<Option<HistoryLine>, StoreError> {
        let repo = repo.clone();
        self.read(move |conn| {
            let sql = "SELECT * FROM coverage_history WHERE repo = ?1 AND task IS NOT NULL ORDER BY id DESC LIMIT 1";
            first(conn, sql, [repo.as_str()], history_line)
        })
        .await
    }

    /// Keys of the measurements that baselines stand on, and of what landed last in each repository: whoever clears up
    /// keeps them.
    pub async fn kept_measurements(&self) -> Result<Vec<String>, StoreError> {
        self.read(|conn| {
            let sql = "SELECT measurement FROM coverage_baseline WHERE measurement IS NOT NULL
                       UNION
                       SELECT measurement FROM coverage_history WHERE measurement IS NOT NULL AND id IN (
                         SELECT max(id) FROM coverage_history WHERE task IS NOT NULL GROUP BY repo)";
            all(conn, sql, [], |row| get(row, "measurement"))
        })
        .await
    }
}

fn set_baseline(tx: &Tx<'_>, repo: &RepoName, new: &NewBaseline, now: Timestamp) -> Result<BaselineSet, StoreError> {
    let current = find_baseline(tx.conn, repo)?.map(|baseline| baseline.revision);
    if current != new.replaces {
        return Ok(BaselineSet::Moved(current));
    }
    let taken = new.taken.as_ref();
    let baseline = Baseline {
        revision: current.unwrap_or(0) + 1,
        totals: new.totals,
        sha: new.sha.clone(),
        step: Step::Set,
        set_by: new.set_by.clone(),
        reason: new.reason.clone(),
        at: now,
        // Compared with any.
        measured_by: None,
        measurement: taken.and_then(|line| line.measurement.clone()),
        excluded: taken.and_then(|line| line.excluded),
        format: taken.and_then(|line| line.format),
        tool: taken.and_then(|line| line.tool.clone()),
        configuration: taken.and_then(|line| line.configuration.clone()),
    };
    put(tx, repo, &baseline, now)?;
    let line = HistoryLine {
        id: 0,
        repo: repo.clone(),
        at: now,
        step: Step::Set,
        totals: new.totals,
        excluded: baseline.excluded,
        sha: new.sha.clone(),
        task: None,
        set_by: new.set_by.clone(),
        reason: new.reason.clone(),
        format: baseline.format,
        tool: baseline.tool,
        configuration: baseline.configuration,
        revision: Some(baseline.revision),
        baseline: Some(new.totals),
        measurement: baseline.measurement,
    };
    add_line(tx.conn, &line)?;
    Ok(BaselineSet::Set(baseline.revision))
}

/// Part of the transaction that records a landing: what was measured on it goes into the history, and the baseline moves
/// as the domain says.
pub(crate) fn land(
    tx: &Tx<'_>,
    repo: &RepoName,
    by: (&TaskId, &str),
    sha: &CommitSha,
    landed: &Landed,
    now: Timestamp,
) -> Result<Ratcheted, StoreError> {
    let (task, key) = by;
    let current = find_baseline(tx.conn, repo)?;
    let step = ratchet(current.as_ref().map(Baseline::standing).as_ref(), landed);
    let mut after = current.as_ref().map(|baseline| (baseline.revision, baseline.totals));
    let reason = reason(step, sha);
    if step != Step::Kept {
        let Mark { totals, sha: of, measurement } = landed.mark(step, sha);
        let own = of == *sha;
        let baseline = Baseline {
            revision: current.map_or(0, |baseline| baseline.revision) + 1,
            totals,
            sha: of,
            step,
            set_by: key.to_owned(),
            reason: reason.clone(),
            at: now,
            measured_by: Some(landed.measured_by.clone()),
            measurement: Some(measurement),
            excluded: landed.excluded.filter(|_| own),
            format: Some(landed.format),
            tool: landed.tool.clone(),
            configuration: Some(landed.configuration.clone()),
        };
        put(tx, repo, &baseline, now)?;
        after = Some((baseline.revision, baseline.totals));
    }
    let line = HistoryLine {
        id: 0,
        repo: repo.clone(),
        at: now,
        step,
        totals: landed.totals,
        excluded: landed.excluded,
        sha: sha.clone(),
        task: Some(task.clone()),
        set_by: key.to_owned(),
        reason,
        format: Some(landed.format),
        tool: landed.tool.clone(),
        configuration: Some(landed.configuration.clone()),
        revision: after.map(|(revision, _)| revision),
        baseline: after.map(|(_, totals)| totals),
        measurement: Some(landed.measurement.clone()),
    };
    add_line(tx.conn, &line)?;
    Ok(Ratcheted { step, revision: line.revision })
}

fn reason(step: Step, sha: &CommitSha) -> String {
    let landed = format!("landed as {}", sha.short());
    match step {
        Step::Kept => landed,
        Step::First => format!("{landed}: the first baseline"),
        Step::Raised | Step::Set => format!("{landed}: covers more"),
        Step::Removal => format!("{landed}: set anew by the removal rule"),
        Step::MeasuredAgain => format!("{landed}: set anew, tool or configuration had changed"),
    }
}

fn put(tx: &Tx<'_>, repo: &RepoName, new: &Baseline, now: Timestamp) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO coverage_baseline (repo, revision, covered, total, sha, set_by, reason, at, step, measured_by,
                 measurement, excluded, format, tool, configuration)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
               ON CONFLICT (repo) DO UPDATE SET revision = excluded.revision, covered = excluded.covered,
                 total = excluded.total, sha = excluded.sha, set_by = excluded.set_by, reason = excluded.reason,
                 at = excluded.at, step = excluded.step, measured_by = excluded.measured_by,
                 measurement = excluded.measurement, excluded = excluded.excluded, format = excluded.format,
                 tool = excluded.tool, configuration = excluded.configuration";
    let params = rusqlite::params![
        repo.as_str(),
        new.revision,
        new.totals.covered(),
        new.totals.total(),
        new.sha.as_str(),
        new.set_by,
        new.reason,
        new.at.0,
        new.step.as_str(),
        new.measured_by,
        new.measurement,
        new.excluded,
        new.format.map(Format::as_str),
        new.tool,
        new.configuration,
    ];
    execute(tx.conn, sql, params)?;
    let text = format!("coverage baseline is {}: {} ({})", new.totals, new.reason, new.set_by);
    append(tx, &Subject::repo(repo), &[Entry::new("baseline-set", text)], now)
}

fn add_line(conn: &Connection, line: &HistoryLine) -> Result<(), StoreError> {
    let sql = "INSERT INTO coverage_history (repo, at, step, covered, total, excluded, sha, task, set_by, reason, format, tool,
                 configuration, revision, baseline_covered, baseline_total, measurement)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
    let params = rusqlite::params![
        line.repo.as_str(),
        line.at.0,
        line.step.as_str(),
        line.totals.covered(),
        line.totals.total(),
        line.excluded,
        line.sha.as_str(),
        line.task.as_ref().map(TaskId::as_str),
        line.set_by,
        line.reason,
        line.format.map(Format::as_str),
        line.tool,
        line.configuration,
        line.revision,
        line.baseline.map(Totals::covered),
        line.baseline.map(Totals::total),
        line.measurement,
    ];
    execute(conn, sql, params)?;
    Ok(())
}

fn find_baseline(conn: &Connection, repo: &RepoName) -> Result<Option<Baseline>, StoreError> {
    first(conn, "SELECT * FROM coverage_baseline WHERE repo = ?1", [repo.as_str()], |row| {
        Ok(Baseline {
            revision: get(row, "revision")?,
            totals: totals(get(row, "covered")?, get(row, "total")?)?,
            sha: get_parsed(row, "sha")?,
            step: step(row)?,
            set_by: get(row, "set_by")?,
            reason: get(row, "reason")?,
            at: get_time(row, "at")?,
            measured_by: get(row, "measured_by")?,
            measurement: get(row, "measurement")?,
            excluded: get(row, "excluded")?,
            format: format(row)?,
            tool: get(row, "tool")?,
            configuration: get(row, "configuration")?,
        })
    })
}

fn history_line(row: &Row<'_>) -> Result<HistoryLine, StoreError> {
    let baseline = get::<Option<u64>>(row, "baseline_covered")?.zip(get::<Option<u64>>(row, "baseline_total")?);
    Ok(HistoryLine {
        id: get(row, "id")?,
        repo: get_parsed(row, "repo")?,
        at: get_time(row, "at")?,
        step: step(row)?,
        totals: totals(get(row, "covered")?, get(row, "total")?)?,
        excluded: get(row, "excluded")?,
        sha: get_parsed(row, "sha")?,
        task: get_parsed_opt(row, "task")?,
        set_by: get(row, "set_by")?,
        reason: get(row, "reason")?,
        format: format(row)?,
        tool: get(row, "tool")?,
        configuration: get(row, "configuration")?,
        revision: get(row, "revision")?,
        baseline: baseline.map(|(covered, total)| totals(covered, total)).transpose()?,
        measurement: get(row, "measurement")?,
    })
}

fn damaged(what: &str, why: impl ToString) -> StoreError {
    StoreError::Damaged { what: what.to_owned(), why: why.to_string() }
}

fn totals(covered: u64, total: u64) -> Result<Totals, StoreError> {
    Totals::new(covered, total).map_err(|error| damaged("coverage totals", error))
}

fn step(row: &Row<'_>) -> Result<Step, StoreError> {
    let word: String = get(row, "step")?;
    Step::from_word(&word).ok_or_else(|| damaged("coverage step", format!("`{word}` is none")))
}

fn format(row: &Row<'_>) -> Result<Option<Format>, StoreError> {
    let word: Option<String> = get(row, "format")?;
    let known =
        |word: String| Format::from_word(&word).ok_or_else(|| damaged("coverage format", format!("`{word}` is none")));
    word.map(known).transpose()
}
