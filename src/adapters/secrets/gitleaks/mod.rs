//! The engine `gitleaks`: the real binary, as a confined job.
//!
//! Owns its command line, what of its behaviour counts as an answer, and the way back from its report to our texts. It has
//! scanned only when it ended with 0 or 42, said nothing on its error channel but what is known to be harmless, wrote a
//! report that is an array, empty exactly when it ended with 0 -- and heard the planted token, which [`super::prove`] checks.
//! Everything else is an error, never silence. It runs without network or secrets to speak of, sees nothing but the folder
//! that was made for it, and that folder is gone afterwards, with everything in it.

mod find;
mod pieces;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use orch_domain::job::{JobEnd, JobKind, OnLoss};
use orch_domain::time::Millis;
use serde::Deserialize;

use super::builtin::path_finding;
use super::rules::{OwnRules, Seen};
use super::{Bounds, Found, Material, Ruleset, Scan, ScanError, Secret, SecretScanner};
use crate::git::{Exec, ExecOutput, Owner};
use crate::ports::{Confinement, JobError, JobLimits, JobSpec};
pub(crate) use find::locate;
pub use find::{GitleaksProgram, find_gitleaks};
use pieces::Pieces;

/// Its name in settings and reports.
const NAME: &str = "gitleaks";
/// Exit code for "found something": its own 1 means "failed", too.
const LEAKS: i32 = 42;
/// Most bytes of a report that are read.
const MAX_REPORT: u64 = 256 << 20;

/// The engine.
pub struct Gitleaks {
    /// What is run.
    pub program: GitleaksProgram,
    /// What runs it.
    pub exec: Arc<dyn Exec>,
    /// For whom.
    pub owner: Owner,
    /// Where folders for scans are made.
    pub scratch: PathBuf,
    /// The data folder, closed to the job but for its own folder; `None`: the job is not confined.
    pub data: Option<PathBuf>,
    /// Bounds of its job besides its time.
    pub limits: JobLimits,
}

impl std::fmt::Debug for Gitleaks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gitleaks").field("program", &self.program).finish_non_exhaustive()
    }
}

/// One finding in its report.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reported {
    #[serde(rename = "RuleID")]
    rule: String,
    description: String,
    start_line: i64,
    #[serde(rename = "Match")]
    matched: String,
    secret: String,
    file: String,
}

#[async_trait]
impl SecretScanner for Gitleaks {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn version(&self) -> Result<String, ScanError> {
        if let Some(version) = self.program.known_version() {
            return Ok(format!("{version} (sha256 {})", self.program.sha256));
        }
        let folder = self.folder()?;
        let output = self.run(folder.path(), &["version".to_owned()], Millis::from_secs(30)).await?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match (&output.exit.end, said.lines().count()) {
            (JobEnd::Exited { code: 0 }, 1) if said.len() < 60 => {
                Ok(format!("{said} (sha256 {})", self.program.sha256))
            }
            (end, _) => Err(tool(format!("`gitleaks version` says `{said:.60}` and {}", ended(end)))),
        }
    }

    async fn scan(
        &self,
        rules: &Arc<Ruleset>,
        material: &Arc<dyn Material>,
        bounds: &Bounds,
    ) -> Result<Scan, ScanError> {
        let folder = self.folder()?;
        let (root, with, what, within) = (folder.path().to_owned(), rules.clone(), material.clone(), bounds.clone());
        let pieces = blocking(move || write(&root, &with, what.as_ref(), &within)).await?;
        let left = bounds.deadline.saturating_duration_since(Instant::now());
        let wall = Millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
        let output = self.run(folder.path(), &arguments(folder.path()), wall).await?;
        bounds.check()?;
        let (root, with, what) = (folder.path().to_owned(), rules.clone(), material.clone());
        let scan = blocking(move || {
            let (reported, notes) = answer(&root, &output)?;
            let mut scan = found(&root, &pieces, reported, with.own(), what.as_ref())?;
            scan.found.extend(by_path_alone(with.own(), what.as_ref())?);
            scan.found.sort_by(|a, b| (a.item, a.line, &a.rule, &a.secret).cmp(&(b.item, b.line, &b.rule, &b.secret)));
            scan.found.dedup_by(|a, b| {
                (a.item, a.line, &a.rule, &a.secret) == (b.item, b.line, &b.rule, &b.secret) && a.places == b.places
            });
            Ok(Scan { notes, unopened: pieces.unopened, refused: pieces.refused, ..scan })
        });
        let scan = scan.await;
        // What lies in it are the texts themselves.
        let _ = tokio::task::spawn_blocking(move || folder.close()).await;
        scan
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ScanError> + Send + 'static,
) -> Result<T, ScanError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(tool(error.to_string())))
}

fn tool(why: String) -> ScanError {
    ScanError::Tool { tool: NAME.to_owned(), why }
}

fn texts(root: &Path) -> PathBuf {
    root.join("texts")
}

fn report(root: &Path) -> PathBuf {
    root.join("report.json")
}

fn config(root: &Path) -> PathBuf {
    root.join("rules.toml")
}

/// Writes rules and texts.
fn write(root: &Path, rules: &Ruleset, material: &dyn Material, bounds: &Bounds) -> Result<Pieces, ScanError> {
    let failed = |what: &Path| {
        let what = what.display().to_string();
        move |error: std::io::Error| ScanError::Read { what, why: error.to_string() }
    };
    for folder in [texts(root), root.join("home")] {
        std::fs::create_dir(&folder).map_err(failed(&folder))?;
    }
    std::fs::write(config(root), rules.for_binary()?).map_err(failed(&config(root)))?;
    let own = rules.own();
    Pieces::write(&texts(root), material, bounds, rules.look_at_beginnings(), &|place| own.leaves_out(place))
}

fn arguments(root: &Path) -> Vec<String> {
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut all: Vec<String> =
        ["dir", ".", "--no-banner", "--no-color", "--log-level", "warn"].map(str::to_owned).into();
    all.extend(["--ignore-gitleaks-allow", "--max-decode-depth", "5", "--report-format", "json"].map(str::to_owned));
    // No file of that name lies in the folder of texts.
    all.extend(["--gitleaks-ignore-path".to_owned(), path(root.join("home"))]);
    all.extend(["--exit-code".to_owned(), LEAKS.to_string()]);
    all.extend(["--config".to_owned(), path(config(root)), "--report-path".to_owned(), path(report(root))]);
    all
}

fn ended(end: &JobEnd) -> String {
    match end {
        JobEnd::Exited { code } => format!("ended with exit code {code}"),
        other => format!("did not end by itself: {other}"),
    }
}

impl Gitleaks {
    fn folder(&self) -> Result<tempfile::TempDir, ScanError> {
        let made = std::fs::create_dir_all(&self.scratch)
            .and_then(|()| tempfile::Builder::new().prefix("scan-").tempdir_in(&self.scratch));
        made.map_err(|error| ScanError::Read {
            what: format!("a folder in {}", self.scratch.display()),
            why: error.to_string(),
        })
    }

    async fn run(&self, root: &Path, arguments: &[String], wall: Millis) -> Result<ExecOutput, ScanError> {
        let cwd = if texts(root).is_dir() { texts(root) } else { root.to_owned() };
        let home = root.join("home").to_string_lossy().into_owned();
        let mut argv = vec![self.program.path.to_string_lossy().into_owned()];
        argv.extend_from_slice(arguments);
        let program = self.program.path.parent().map(Path::to_owned).into_iter().collect();
        let confinement = self.data.as_ref().map(|data| Confinement {
            enforced: true,
            write: vec![root.to_owned()],
            read: program,
            deny: vec![data.clone()],
            uid: None,
        });
        let id = crate::git::mint_job();
        let spec = JobSpec {
            id: id.clone(),
            kind: JobKind::Gate,
            task: self.owner.task.clone(),
            run: self.owner.run.clone(),
            epoch: self.owner.epoch,
            label: "gitleaks".to_owned(),
            argv,
            cwd,
            // Whole: neither GIT_* nor GITLEAKS_* of anybody reaches it.
            env: BTreeMap::from([
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
                ("LC_ALL".to_owned(), "C".to_owned()),
                ("TZ".to_owned(), "UTC".to_owned()),
                ("HOME".to_owned(), home.clone()),
                ("TMPDIR".to_owned(), home),
            ]),
            stdin: Vec::new(),
            limits: JobLimits { wall, stall: None, ..self.limits.clone() },
            confinement: confinement.unwrap_or_default(),
            on_loss: OnLoss::End,
        };
        self.exec.run(spec).await.map_err(|error| match error {
            JobError::Refused { why, .. } => ScanError::Cancelled(why),
            JobError::NotStarted { why, .. } | JobError::Unreachable { why, .. } => tool(why),
        })
    }
}

/// What it may say on its error channel in a run that counts.
const HARMLESS: [&str; 2] = ["leaks found:", "Disabled rule doesn't exist in extended config."];

/// Its report, if it has scanned at all; what it says besides.
fn answer(root: &Path, output: &ExecOutput) -> Result<(Vec<Reported>, Vec<String>), ScanError> {
    let code = match &output.exit.end {
        JobEnd::Exited { code } if [0, LEAKS].contains(code) => *code,
        JobEnd::TimedOut => return Err(ScanError::TimedOut),
        JobEnd::Cancelled => return Err(ScanError::Cancelled("its job was ended".to_owned())),
        other => {
            let said = crate::git::words(&without_colours(&output.stderr));
            return Err(tool(format!("it {}; it said: {said}", ended(other))));
        }
    };
    let mut notes = Vec::new();
    for line in String::from_utf8_lossy(&without_colours(&output.stderr)).lines().filter(|line| !line.trim().is_empty())
    {
        match HARMLESS.iter().position(|harmless| line.contains(harmless)) {
            Some(0) => {}
            Some(_) => notes.push(format!("gitleaks remarks: {}", line.trim())),
            None => return Err(tool(format!("it complains, so what it saw is not known: {}", line.trim()))),
        }
    }
    if output.exit.log_cut {
        return Err(tool("it said more than is kept".to_owned()));
    }
    let path = report(root);
    let length = std::fs::metadata(&path).map_err(|error| tool(format!("it left no report: {error}")))?.len();
    if length > MAX_REPORT {
        return Err(tool(format!("its report has {length} bytes; at most {MAX_REPORT} are read")));
    }
    let bytes = std::fs::read(&path).map_err(|error| tool(format!("its report cannot be read: {error}")))?;
    // The words of the reader could hold a piece of the report: line and column have to do.
    let broken = |error: serde_json::Error| {
        tool(format!("its report is no JSON array of findings (line {}, column {})", error.line(), error.column()))
    };
    let reported: Vec<Reported> = serde_json::from_slice(&bytes).map_err(broken)?;
    match (code, reported.is_empty()) {
        (0, true) | (LEAKS, false) => Ok((reported, notes)),
        (code, _) => Err(tool(format!("it ended with {code}, but its report holds {} findings", reported.len()))),
    }
}

/// Without the colours that it uses though it was told not to.
fn without_colours(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == 0x1b && behind.first() == Some(&b'[') {
            let end = behind.iter().position(|byte| byte.is_ascii_alphabetic()).map_or(behind.len(), |at| at + 1);
            rest = &behind[end..];
        } else {
            out.push(*first);
        }
    }
    out
}

/// From files back to texts; what the rules say about places is applied here.
fn found(
    root: &Path,
    pieces: &Pieces,
    reported: Vec<Reported>,
    own: &OwnRules,
    material: &dyn Material,
) -> Result<Scan, ScanError> {
    let mut scan = Scan::default();
    let mut reader = material.reader()?;
    for one in reported {
        let piece = pieces
            .of(&one.file)
            .ok_or_else(|| tool(format!("its report names a file that was not given to it: {:.80}", one.file)))?;
        let item = &material.items()[piece.item];
        if one.secret.is_empty() && one.matched.starts_with("file detected:") {
            let places = item
                .places
                .iter()
                .filter(|place| own.stands_at(&one.rule, place, nothing()))
                .cloned()
                .collect::<Vec<_>>();
            if !places.is_empty() {
                scan.found.push(path_finding(
                    piece.item,
                    &one.rule,
                    &one.description,
                    places,
                    &reader.read(piece.item)?,
                ));
            }
            continue;
        }
        let text = read_lines(root, &one);
        let seen = Seen { secret: one.secret.as_bytes(), matched: one.matched.as_bytes(), line: &text };
        let places = item.places.iter().map(|place| place.inside(&piece.member));
        let places: Vec<_> = places.filter(|place| own.stands_at(&one.rule, place, seen)).collect();
        if places.is_empty() {
            continue;
        }
        scan.found.push(Found {
            item: piece.item,
            places,
            rule: one.rule,
            description: one.description,
            line: u64::try_from(one.start_line.saturating_add(piece.lines_before)).unwrap_or(0).max(1),
            secret: Secret::new(one.secret.into_bytes()),
            wrapped: piece.wrapped.to_owned(),
        });
    }
    Ok(scan)
}

const fn nothing() -> Seen<'static> {
    Seen { secret: b"", matched: b"", line: b"" }
}

/// The lines of a match, for lists that look at them.
fn read_lines(root: &Path, one: &Reported) -> Vec<u8> {
    let text = pieces::read_back(&texts(root), &one.file);
    let from = usize::try_from(one.start_line).unwrap_or(1).saturating_sub(1);
    let lines = one.matched.matches('\n').count() + 1;
    text.split(|byte| *byte == b'\n').skip(from).take(lines).collect::<Vec<_>>().join(&b'\n')
}

/// The repository's own rules that look at nothing but the path.
fn by_path_alone(own: &OwnRules, material: &dyn Material) -> Result<Vec<Found>, ScanError> {
    let mut all = Vec::new();
    let mut reader = material.reader()?;
    for (id, rule) in own.rules.iter().filter(|(_, rule)| rule.path_only) {
        for (at, item) in material.items().iter().enumerate() {
            let here = |place: &&super::Place| rule.applies_at(place) && !own.leaves_out(place);
            let places: Vec<_> = item.places.iter().filter(here).cloned().collect();
            if !places.is_empty() {
                all.push(path_finding(at, id, &rule.description, places, &reader.read(at)?));
            }
        }
    }
    Ok(all)
}
