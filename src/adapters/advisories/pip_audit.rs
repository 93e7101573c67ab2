//! The tool pip-audit, as a confined job: packages of PyPI, asked of an OSV endpoint.
//!
//! Owns its command line and what counts as an answer: a JSON document in which a package has its list of advisories.
//! Exit codes say nothing (1 is "vulnerable" and "the feed is down" alike), a package that was skipped or left out is
//! unknown, and so is every package of a run that left no document. The tool reads a list that we write, never a file of
//! the branch; it installs and resolves nothing. It cannot take one name at two versions, so these go into runs of
//! their own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use orch_domain::deps::advisory::{Advisory, Answer, is_id};
use orch_domain::deps::package::{Ecosystem, Package, normal_name};
use orch_domain::gate::ToolVersion;
use orch_domain::job::{JobEnd, JobKind, OnLoss};
use orch_domain::time::Millis;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::{AdvisoryFeed, Answers, Asker, one_line};
use crate::git::{Exec, ExecOutput, mint_job};
use crate::jobs::env::{PrivateDirs, base_env_with_path};
use crate::ports::{Confinement, JobLimits, JobSpec};

/// Most packages of one run: each is a request of its own, one after the other.
const MOST_IN_A_RUN: usize = 200;
/// Seconds that the tool waits for one answer of the endpoint.
const TIMEOUT: &str = "15";
/// Warnings of this part of the tool mean that it passed over an advisory.
const PASSED_OVER: &str = "pip_audit._service";

/// How the tool is run.
pub struct Tooling {
    /// What runs it.
    pub exec: Arc<dyn Exec>,
    /// `PATH` of the job; a program that is a name is looked for along it.
    pub path: String,
    /// Further environment of the job, for a proxy or certificates.
    pub env: BTreeMap<String, String>,
    /// What it may read besides the system's folders: where it is installed.
    pub read: Vec<PathBuf>,
    /// The data folder, closed to the job but for its own folder; `None`: the job is not confined.
    pub data: Option<PathBuf>,
    /// Bounds of its job besides its time.
    pub limits: JobLimits,
}

/// The tool.
pub struct PipAudit {
    /// The program, by name or path.
    pub program: String,
    /// The OSV service, such as `https://api.osv.dev`.
    pub endpoint: String,
    /// How it is run.
    pub tooling: Tooling,
    /// What it says its version is, once it was asked.
    pub version: OnceCell<String>,
}

#[derive(Deserialize)]
struct Document {
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    version: Option<String>,
    skip_reason: Option<String>,
    vulns: Option<Vec<Hole>>,
}

#[derive(Deserialize)]
struct Hole {
    id: String,
    #[serde(default)]
    fix_versions: Vec<String>,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    description: String,
}

#[async_trait]
impl AdvisoryFeed for PipAudit {
    fn covers(&self, ecosystem: Ecosystem) -> bool {
        ecosystem == Ecosystem::PyPi
    }

    fn identity(&self) -> String {
        format!("pip-audit {} {}", self.program, self.endpoint)
    }

    async fn ask(&self, asker: &Asker, packages: &BTreeSet<Package>) -> Answers {
        let mut answers = Answers::default();
        for (number, round) in rounds(packages).iter().enumerate() {
            let share: BTreeSet<&Package> = round.iter().collect();
            match self.round(asker, number, round).await {
                Ok(found) => answers.join(found),
                Err(why) => answers.join(Answers::unknown(share, &format!("pip-audit: {why}"))),
            }
        }
        // Only said when the tool could be asked; its answers do not depend on it.
        let version = self.version.get_or_try_init(|| self.ask_version(asker)).await;
        let version = version.map_or_else(|why| format!("unknown ({why})"), Clone::clone);
        answers.tools.push(ToolVersion { name: "pip-audit".to_owned(), version });
        answers
    }
}

/// What a job must be able to read to run a program of Python: its virtual environment, and the installation that this
/// was made from. The system's own folders are open anyway.
#[must_use]
pub fn installation(program: &Path) -> Vec<PathBuf> {
    let Ok(real) = program.canonicalize() else { return Vec::new() };
    let Some(environment) = real.parent().and_then(Path::parent) else { return Vec::new() };
    let Ok(told) = std::fs::read_to_string(environment.join("pyvenv.cfg")) else { return Vec::new() };
    let home = told.lines().find_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == "home"));
    let base = home.and_then(|(_, bin)| Path::new(bin.trim()).parent());
    let base = base.filter(|base| base.is_absolute() && base.parent().is_some() && !base.starts_with("/usr"));
    std::iter::once(environment).chain(base).map(Path::to_owned).collect()
}

/// Groups in which no name occurs twice, none too large.
fn rounds(packages: &BTreeSet<Package>) -> Vec<Vec<Package>> {
    let mut rounds: Vec<Vec<Package>> = Vec::new();
    for package in packages {
        let fits = |round: &&mut Vec<Package>| {
            round.len() < MOST_IN_A_RUN && !round.iter().any(|other| other.same_name(package))
        };
        match rounds.iter_mut().find(fits) {
            Some(round) => round.push(package.clone()),
            None => rounds.push(vec![package.clone()]),
        }
    }
    rounds
}

impl PipAudit {
    async fn round(&self, asker: &Asker, number: usize, round: &[Package]) -> Result<Answers, String> {
        let folder = asker.scratch.join(format!("pip-audit-{number}"));
        let list = folder.join("requirements.txt");
        // Names and versions are checked where they are made: nothing in them can be another line or an option.
        let lines: String = round.iter().map(|p| format!("{}=={}\n", p.name(), p.version())).collect();
        let (made, file) = (folder.clone(), list.clone());
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&made)?;
            PrivateDirs::under(&made).create(None)?;
            std::fs::write(file, lines)
        });
        let failed = |error: &dyn std::fmt::Display| format!("no folder for it at {}: {error}", folder.display());
        written.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let url = format!("{}/v1/query", self.endpoint.trim_end_matches('/'));
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let cache = path(&folder.join("cache"));
        let list = path(&list);
        let arguments = [
            ["--requirement", &list],
            ["--vulnerability-service", "osv"],
            ["--osv-url", &url],
            ["--format", "json"],
            ["--progress-spinner", "off"],
            ["--timeout", TIMEOUT],
            ["--cache-dir", &cache],
            ["--no-deps", "--disable-pip"],
        ];
        let arguments: Vec<String> = arguments.concat().into_iter().map(str::to_owned).collect();
        let output = self.run(asker, &folder, arguments, &format!("pip-audit of {} packages", round.len())).await?;
        read(round, &output)
    }

    async fn ask_version(&self, asker: &Asker) -> Result<String, String> {
        let folder = asker.scratch.join("pip-audit-version");
        let made = folder.clone();
        let made = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&made)?;
            PrivateDirs::under(&made).create(None)
        });
        made.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let output = self.run(asker, &folder, vec!["--version".to_owned()], "version of pip-audit").await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let version =
            said.trim().strip_prefix("pip-audit ").filter(|version| version.len() < 40 && !version.contains('\n'));
        version.map(str::to_owned).ok_or_else(|| format!("`--version` said `{}`", one_line(&said, 40)))
    }

    async fn run(
        &self,
        asker: &Asker,
        folder: &Path,
        arguments: Vec<String>,
        label: &str,
    ) -> Result<ExecOutput, String> {
        let left = asker.deadline.saturating_duration_since(Instant::now());
        let wall = Millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
        let private = PrivateDirs::under(folder);
        let mut env = base_env_with_path(&private, &self.tooling.path);
        env.extend(self.tooling.env.clone());
        let confinement = self.tooling.data.as_ref().map(|data| Confinement {
            enforced: true,
            write: vec![folder.to_owned()],
            read: self.tooling.read.clone(),
            deny: vec![data.clone()],
            uid: None,
        });
        let spec = JobSpec {
            id: mint_job(),
            kind: JobKind::Gate,
            task: asker.owner.task.clone(),
            run: asker.owner.run.clone(),
            epoch: asker.owner.epoch,
            label: label.to_owned(),
            argv: std::iter::once(self.program.clone()).chain(arguments).collect(),
            cwd: folder.to_owned(),
            env,
            stdin: Vec::new(),
            limits: JobLimits { wall, ..self.tooling.limits.clone() },
            confinement: confinement.unwrap_or_default(),
            on_loss: OnLoss::End,
        };
        let output = self.tooling.exec.run(spec).await.map_err(|error| error.to_string())?;
        match &output.exit.end {
            JobEnd::Exited { .. } if output.exit.log_cut => Err("it said more than is kept".to_owned()),
            JobEnd::Exited { .. } => Ok(output),
            JobEnd::CouldNotStart { why } => Err(format!("it could not be started: {why}")),
            JobEnd::TimedOut => Err("it did not end in time".to_owned()),
            other => Err(format!("it did not end by itself: {other}")),
        }
    }
}

/// From what the tool left to answers. Its exit code is not looked at.
fn read(round: &[Package], output: &ExecOutput) -> Result<Answers, String> {
    let complaints = String::from_utf8_lossy(&output.stderr);
    let document: Document = serde_json::from_slice(&output.stdout).map_err(|_| {
        let last = complaints.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
        let said = if output.stdout.is_empty() { "no document" } else { "a document that is not understood" };
        format!("it left {said}, and said: {}", one_line(&shown(last), 200))
    })?;
    let passed_over = complaints.lines().find(|line| line.contains("WARNING") && line.contains(PASSED_OVER));
    let mut answers = Answers::unknown(round, "pip-audit did not answer for it");
    for dependency in document.dependencies {
        let Some(name) = normal_name(Ecosystem::PyPi, &dependency.name) else { continue };
        let Some(package) = round.iter().find(|package| package.name() == name) else { continue };
        let answer = match (&dependency.skip_reason, dependency.vulns) {
            (Some(why), _) => Answer::unknown(format!("pip-audit skipped it: {}", one_line(&shown(why), 200))),
            (None, None) => continue,
            (None, Some(_)) if !same_version(dependency.version.as_deref(), package.version()) => {
                Answer::unknown("pip-audit answered for another version")
            }
            (None, Some(holes)) => Answer {
                advisories: holes.into_iter().map(advisory).collect(),
                trouble: passed_over
                    .map(|line| format!("pip-audit passed over an advisory: {}", one_line(&shown(line), 200))),
            },
        };
        answers.by_package.insert(package.clone(), answer);
    }
    Ok(answers)
}

/// The tool writes versions in their normal form.
fn same_version(answered: Option<&str>, asked: &str) -> bool {
    let read = |text: &str| pep440_rs::Version::from_str(text).ok();
    answered
        .is_some_and(|answered| answered == asked || read(answered).is_some_and(|version| read(asked) == Some(version)))
}

fn advisory(hole: Hole) -> Advisory {
    let aliases = hole.aliases.into_iter().filter(|alias| is_id(alias) && *alias != hole.id);
    Advisory {
        aliases: aliases.collect(),
        summary: one_line(&hole.description, 200),
        severity: None,
        fixed: hole.fix_versions.iter().map(|version| one_line(version, 60)).collect(),
        informational: None,
        // What is no id is still an advisory.
        id: if is_id(&hole.id) { hole.id } else { "UNNAMED".to_owned() },
    }
}

/// A proxy's address may hold a password.
fn shown(line: &str) -> String {
    line.split_whitespace().filter(|word| !(word.contains("://") && word.contains('@'))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "pip_audit_tests.rs"]
mod tests;
