//! How coverage is measured for one subject: which command, by which configuration.
//!
//! Owns the order: the operator's settings, else what the files of base name. A branch is judged by base's settings: where it
//! changes what its files say about coverage, it is measured twice, once as it is (its own plan: what its tests run by, and
//! what main will be measured by when it has landed) and once with base's settings put in place (the held plan). Invariants:
//! a plan is labelled with what is in force where it is run, so two measurements under equal labels are comparable.
//! Refuses to run anything.

use std::collections::BTreeSet;

use orch_adapters::git::{FileAt, GitError, RepoGit};
use orch_domain::coverage::configuration::{self, Part, Sort};
use orch_domain::coverage::rules::{self, Measuring, Wanted};
use orch_domain::coverage::{Format, held};
use orch_domain::ids::CommitSha;
use orch_domain::names::{RepoName, RepoPath};
use orch_domain::policy::pin_hash;
use orch_domain::time::Millis;

use crate::context::RepoRuntime;
use crate::gates::answer::GateSubject;
use crate::gates::command::{with_any_files_at, with_files_at};

/// How a subject is measured.
#[derive(Clone, Debug)]
pub(in crate::gates) struct Plan {
    /// The command.
    pub(in crate::gates) measuring: Measuring,
    /// Whether it runs the whole test suite, where somebody says so.
    pub(in crate::gates) runs_tests: Option<bool>,
    /// Where it leaves its report, when that is configured.
    pub(super) report: Option<RepoPath>,
    /// Longest run, when it is another than the tests'.
    pub(super) limit: Option<Millis>,
    /// By which settings.
    by: By,
    /// The same with base's settings, where the branch has others.
    held: Option<Box<By>>,
    /// Files whose part about coverage the branch changes.
    pub(super) changed: Vec<String>,
    /// Those of them in which base's word cannot be written.
    unheld: Vec<String>,
}

/// Settings, and by what means they are in force.
#[derive(Clone, Debug)]
struct By {
    /// Hash of line, report and settings.
    configuration: String,
    /// coverage.py's settings, empty where there are none: file name and text. `None`: the command goes elsewhere before it
    /// starts the tool, which then reads other files.
    python: Option<(String, String)>,
    /// Files that are put into the checkout; without a text they are taken out of it.
    overlay: Vec<(String, Option<String>)>,
}

/// What comes of looking.
#[derive(Debug)]
pub(in crate::gates) enum Planned {
    /// Measure like this.
    Measure(Box<Plan>),
    /// Nothing is measured here; the text says why.
    NotApplicable(String),
}

/// Finds out how a subject is measured. `no_tests`: the repository is worked on without tests.
pub(in crate::gates) async fn plan(
    repo: &RepoRuntime,
    git: &RepoGit,
    subject: &GateSubject,
    no_tests: bool,
) -> Result<Planned, GitError> {
    let settings = &repo.settings.coverage;
    let (base, head) = (subject.rules_at(), &subject.head);
    let (has_src, packages) = folders(git, base).await?;
    let setting = settings.command.as_deref();
    let wanted = with_files_at(git, base, |files| rules::wanted(setting, files, has_src, &packages)).await?;
    let measuring = match wanted {
        Wanted::Run(measuring) if no_tests && measuring.by == rules::By::Detected => {
            let way = "name a command in `commands.coverage` to have coverage measured nevertheless";
            let why = format!("tests are switched off, and what would measure runs them ({}); {way}", measuring.why);
            return Ok(Planned::NotApplicable(why));
        }
        Wanted::Run(measuring) => measuring,
        Wanted::Off => {
            return Ok(Planned::NotApplicable("the settings say that no coverage is measured here".to_owned()));
        }
        Wanted::Nothing => {
            let way = "name one in `commands.coverage`, or name pytest-cov or c8 among the repository's requirements";
            return Ok(Planned::NotApplicable(format!("no coverage command is named, and none was detected ({way})")));
        }
    };
    // What is there and cannot be read is not the same as nothing: a change of it is a change.
    let odd = |odd: &FileAt| Some(format!("no file that can be read: {odd:?}"));
    let at_base = with_any_files_at(git, base, odd, |files| configuration::in_force(files)).await?;
    let at_head = with_any_files_at(git, head, odd, |files| configuration::in_force(files)).await?;
    let changed = configuration::changed(&at_base, &at_head);
    let label = |in_force: &[Part]| {
        let mut parts = in_force.to_vec();
        parts.sort();
        pin_hash(&(&measuring.line, &settings.report, parts))
    };
    let by = |at: &[Part], python| By { configuration: label(at), python, overlay: Vec::new() };
    let elsewhere = measuring.by == rules::By::Line && goes_elsewhere(&measuring.line);
    let of_base = by(&at_base, python_at(git, base, elsewhere).await?);
    let mut unheld = Vec::new();
    let (own, held) = match changed.is_empty() {
        true => (of_base, None),
        false => {
            let in_files = |sort| elsewhere || sort != Sort::Python;
            let files: Vec<_> = changed.iter().filter(|(_, sort)| in_files(*sort)).cloned().collect();
            let overlay = put_back(git, (base, head), &at_base, &files, &mut unheld).await?;
            (by(&at_head, python_at(git, head, elsewhere).await?), Some(Box::new(By { overlay, ..of_base })))
        }
    };
    let mut changed: Vec<String> = changed.into_iter().map(|(file, _)| file).collect();
    changed.dedup();
    let (runs_tests, report, limit) = (settings.runs_tests, settings.report.clone(), settings.limit);
    Ok(Planned::Measure(Box::new(Plan { measuring, runs_tests, report, limit, by: own, held, changed, unheld })))
}

/// coverage.py's settings at a commit, as they are put in force there. Without any, an empty file keeps others from being
/// read.
async fn python_at(git: &RepoGit, at: &CommitSha, elsewhere: bool) -> Result<Option<(String, String)>, GitError> {
    if elsewhere {
        return Ok(None);
    }
    let own = with_files_at(git, at, |files| configuration::python_rules(files)).await?;
    Ok(Some(own.map_or_else(|| (".coveragerc".to_owned(), String::new()), |(file, text)| (file.to_owned(), text))))
}

/// What is to be put into the head's checkout for base's word to hold there.
async fn put_back(
    git: &RepoGit,
    (base, head): (&CommitSha, &CommitSha),
    at_base: &[Part],
    changed: &[(String, Sort)],
    unheld: &mut Vec<String>,
) -> Result<Vec<(String, Option<String>)>, GitError> {
    let mut overlay = Vec::new();
    for (file, sort) in changed {
        let said = at_base.iter().find(|part| part.file == *file && part.sort == *sort);
        let before = with_files_at(git, base, |files| files(file)).await?;
        let now = with_files_at(git, head, |files| files(file)).await?;
        match held((file, *sort), said.map(|part| part.text.as_str()), before.as_deref(), now.as_deref()) {
            Ok(text) => overlay.push((file.clone(), text)),
            Err(_) => unheld.push(file.clone()),
        }
    }
    Ok(overlay)
}

/// Whether a shell line works in another folder than the top of the checkout.
fn goes_elsewhere(line: &str) -> bool {
    let parts = line.split(|c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')'));
    parts.into_iter().any(|word| matches!(word, "cd" | "pushd"))
}

impl Plan {
    /// Hash of line, report and settings in force.
    pub(in crate::gates) fn configuration(&self) -> &str {
        &self.by.configuration
    }

    /// What a verdict by this plan stands on.
    pub(super) fn settings(&self) -> (&str, Option<&str>) {
        (&self.by.configuration, self.held.as_ref().map(|by| by.configuration.as_str()))
    }

    /// coverage.py's settings, as they are put in force.
    pub(super) fn python(&self) -> Option<&(String, String)> {
        self.by.python.as_ref()
    }

    /// Files that are put into the checkout; without a text they are taken out of it.
    pub(super) fn overlay(&self) -> &[(String, Option<String>)] {
        &self.by.overlay
    }

    /// Under which key a measurement of a tree is kept.
    pub(in crate::gates) fn key(&self, repo: &RepoName, tree: &CommitSha, surroundings: &str) -> String {
        pin_hash(&("coverage", repo, tree, &self.by.configuration, surroundings))
    }

    /// By what something was measured: equal ones are comparable.
    pub(super) fn measured_by(&self, format: Format, tool: Option<&str>) -> String {
        pin_hash(&(format, tool, &self.by.configuration))
    }

    /// How base is measured: by its own settings.
    pub(super) fn for_base(&self) -> Self {
        let by = self.held.as_deref().unwrap_or(&self.by);
        self.with(By { overlay: Vec::new(), ..by.clone() })
    }

    /// How the head is measured by base's settings, where it has others. `Err`: which files stand in the way.
    pub(super) fn held(&self) -> Option<Result<Self, String>> {
        let by = self.held.as_deref()?;
        Some(match self.unheld.is_empty() {
            true => Ok(self.with(by.clone())),
            false => Err(format!("they cannot be written into {}", self.unheld.join(", "))),
        })
    }

    fn with(&self, by: By) -> Self {
        Self { by, held: None, ..self.clone() }
    }

    /// Files in which the branch says something else about coverage than base, in words.
    pub(super) fn changes(&self) -> Option<String> {
        (!self.changed.is_empty()).then(|| self.changed.join(", "))
    }
}

/// Whether there is Python below `src`, and which folders at the top are Python packages, except those of tests.
async fn folders(git: &RepoGit, at: &CommitSha) -> Result<(bool, Vec<String>), GitError> {
    let files = git.files_at(at, None).await?;
    let has_src = files.iter().any(|file| file.starts_with("src/") && file.ends_with(".py"));
    let package = |file: &String| {
        let folder = file.strip_suffix("/__init__.py")?;
        // It becomes a word of a shell line.
        let plain = folder.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (plain && !matches!(folder, "test" | "tests")).then(|| folder.to_owned())
    };
    let packages: BTreeSet<String> = files.iter().filter_map(package).collect();
    Ok((has_src, packages.into_iter().collect()))
}
