//! How coverage is measured for one subject: which command, by which configuration.
//!
//! Owns the order: the operator's settings, else what the files of base name. Invariants: coverage.py's settings are
//! base's, whatever the branch changed; what cannot be held to base is the branch's own and named; a plan is labelled with
//! what is in force where it is run, so two measurements under equal labels are comparable. Refuses to run anything.

use std::collections::BTreeSet;

use orch_adapters::git::{FileAt, GitError, RepoGit};
use orch_domain::coverage::Format;
use orch_domain::coverage::configuration::{self, Part, Sort};
use orch_domain::coverage::rules::{self, By, Measuring, Wanted};
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
    /// Hash of line, report and configuration in force on the head.
    pub(in crate::gates) configuration: String,
    /// The same for base, when it is measured for this head.
    of_base: String,
    /// coverage.py's settings at base, empty where it has none: file name and text. `None`: the command goes elsewhere
    /// before it starts the tool, which then reads other files.
    pub(super) python: Option<(String, String)>,
    /// Tools' own settings that the branch has otherwise: they are put into base's checkout when base is measured again.
    pub(super) overlay: Vec<(String, Option<String>)>,
    /// Files whose part about coverage the branch changes.
    pub(super) changed: Vec<(String, Sort)>,
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
        Wanted::Run(measuring) if no_tests && measuring.by == By::Detected => {
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
    let python = match measuring.by == By::Line && goes_elsewhere(&measuring.line) {
        true => None,
        false => {
            let own = with_files_at(git, base, |files| configuration::python_rules(files)).await?;
            // Without any, an empty file is what keeps the branch's from being read.
            Some(own.map_or_else(|| (".coveragerc".to_owned(), String::new()), |(file, text)| (file.to_owned(), text)))
        }
    };
    let own = changed.iter().filter(|(_, sort)| *sort == Sort::Own).map(|(file, _)| file);
    let of_head = |file: &String| at_head.iter().find(|part| part.file == *file).map(|part| part.text.clone());
    let overlay = own.map(|file| (file.clone(), of_head(file))).collect();
    let label = |in_force: Vec<Part>| pin_hash(&(&measuring.line, &settings.report, in_force));
    Ok(Planned::Measure(Box::new(Plan {
        configuration: label(configuration::measured_with(&at_base, &at_head)),
        of_base: label(configuration::measured_again_with(&at_base, &at_head)),
        measuring,
        runs_tests: settings.runs_tests,
        report: settings.report.clone(),
        limit: settings.limit,
        python,
        overlay,
        changed,
    })))
}

/// Whether a shell line works in another folder than the top of the checkout.
fn goes_elsewhere(line: &str) -> bool {
    let parts = line.split(|c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')'));
    parts.into_iter().any(|word| matches!(word, "cd" | "pushd"))
}

impl Plan {
    /// Under which key a measurement of a tree is kept.
    pub(in crate::gates) fn key(&self, repo: &RepoName, tree: &CommitSha, surroundings: &str) -> String {
        pin_hash(&("coverage", repo, tree, &self.configuration, surroundings))
    }

    /// By what something was measured: equal ones are comparable.
    pub(super) fn measured_by(&self, format: Format, tool: Option<&str>) -> String {
        pin_hash(&(format, tool, &self.configuration))
    }

    /// The same for base, measured for this head, under the label of what is in force there.
    pub(super) fn for_base(&self) -> Self {
        Self { configuration: self.of_base.clone(), ..self.clone() }
    }

    /// Whether base can be measured by the same settings as the head.
    pub(super) fn is_comparable(&self) -> bool {
        self.configuration == self.of_base
    }

    /// Files in which the branch says something else about coverage than base, and which cannot be put into base.
    pub(super) fn apart(&self) -> String {
        self.named(Sort::Shared).unwrap_or_default()
    }

    fn named(&self, sort: Sort) -> Option<String> {
        let files: Vec<&str> = self.changed.iter().filter(|(_, s)| *s == sort).map(|(file, _)| file.as_str()).collect();
        (!files.is_empty()).then(|| files.join(", "))
    }

    /// What the branch changes about coverage, a line each, for the reviewer.
    pub(super) fn remarks(&self) -> Vec<String> {
        let named = |sort: Sort| self.named(sort);
        let python = named(Sort::Python)
            .map(|files| format!("the branch changes coverage settings ({files}); it was measured with base's"));
        let own = named(Sort::Own).map(|files| {
            format!("the branch changes coverage settings ({files}); base was measured again with the same ones")
        });
        let shared = named(Sort::Shared).map(|files| {
            format!("the branch changes what its tests or scripts say about coverage ({files}); that cannot be held to base's")
        });
        [python, own, shared].into_iter().flatten().collect()
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
