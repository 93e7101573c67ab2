//! Taking an agent's work out of its workspace: the job that does it, and the reading of what it says.
//!
//! The job runs inside the agent's confinement, since every git command in a repository that an agent could write may
//! run the agent's code. It commits leftovers and writes a bundle `base..HEAD` into a folder that it is given.
//! Refuses to believe: what the job says are claims, which the import checks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orch_domain::ids::CommitSha;
use orch_domain::job::JobKind;
use orch_domain::left::{NAMED, Several};
use orch_domain::names::BranchName;
use orch_domain::time::Millis;

use super::error::GitError;
use super::exec::{Owner, mint_job, put_config, safe_config, utf8};
use super::rooms::RepoGit;
use crate::ports::{Confinement, JobLimits, JobSpec};

const SCRIPT: &str = include_str!("capture.sh");

/// Name of the bundle in the folder that a capture is given.
pub(crate) const BUNDLE: &str = "work.bundle";

/// Longest name that is taken from a workspace, in characters.
const NAME: usize = 120;

/// What a capture needs.
#[derive(Clone, Debug)]
pub struct CaptureSpec {
    /// The workspace.
    pub workspace: PathBuf,
    /// An empty folder that the job may write, outside the workspace.
    pub out: PathBuf,
    /// Where the bundle begins: the base that the workspace was made with.
    pub base: CommitSha,
    /// The branch that was checked out for the agent.
    pub branch: BranchName,
    /// Message of the commit that holds leftovers.
    pub message: String,
    /// The agent's confinement, with `out` among what it may write.
    pub confinement: Confinement,
    /// The agent's environment; `PATH` and `HOME` are taken from it, git's own variables are set anew.
    pub env: BTreeMap<String, String>,
    /// For whom it runs.
    pub owner: Owner,
    /// Its bounds.
    pub limits: JobLimits,
}

/// What became of files that were changed but not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// There were none.
    None,
    /// They are in a commit of their own, the newest.
    Committed,
    /// Some are in a commit of their own; git refused others (over the cap, a repository without commits inside).
    Partly,
    /// The agent left conflicts unresolved: not committed, only salvage can keep them.
    Unmerged,
    /// None could be committed: only salvage can keep them.
    Failed,
}

/// What a capture said about a workspace. Claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureFacts {
    /// The commit that is handed over: what is checked out where that goes on from the task branch, else the task branch.
    pub head: CommitSha,
    /// The branch that is checked out, as the agent named it; `None` when detached.
    pub on: Option<String>,
    /// Where the task branch is, if it is still there.
    pub task_branch: Option<CommitSha>,
    /// A git operation that the agent began and did not end (`merge`, `rebase`, ...).
    pub unfinished: Option<String>,
    /// What became of leftovers.
    pub leftovers: Leftovers,
    /// Files with conflicts that were not resolved.
    pub unmerged: Option<Several>,
    /// Files that git refused to commit.
    pub refused: Option<Several>,
    /// Repositories inside the tree that were left out of the leftovers.
    pub nested: Option<Several>,
    /// Commits that are checked out and neither on the task branch nor on main, by their subjects.
    pub beside: Option<Several>,
    /// How many commits `base..head` has; the bundle is there if there is one.
    pub commits: usize,
}

impl RepoGit {
    /// The job that takes an agent's work out. Its standard output goes to [`read_capture`]; exit code 3 means that the
    /// workspace is no repository any more, 4 that no bundle could be made of it (over the cap, or objects missing), 5 that
    /// git itself could not look.
    ///
    /// # Errors
    /// [`GitError::Invalid`] when a path cannot be an argument.
    pub fn capture_spec(&self, spec: CaptureSpec) -> Result<JobSpec, GitError> {
        let settings = self.git.settings();
        let blocks = settings.bundle_cap_bytes.div_ceil(512).max(1).to_string();
        let text = [spec.base.as_str(), spec.branch.as_str(), &spec.message, utf8(&spec.out)?, &blocks];
        let argv = ["/bin/sh", "-c", SCRIPT, "orch-capture"].into_iter().chain(text).map(str::to_owned).collect();
        let mut env: BTreeMap<String, String> =
            spec.env.into_iter().filter(|(name, _)| !name.starts_with("GIT_")).collect();
        env.entry("PATH".to_owned()).or_insert_with(|| settings.path.clone());
        for (name, value) in [
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_EDITOR", "false"),
            ("GIT_ALLOW_PROTOCOL", "none"),
            ("GIT_AUTHOR_NAME", &settings.name),
            ("GIT_AUTHOR_EMAIL", &settings.email),
            ("GIT_COMMITTER_NAME", &settings.name),
            ("GIT_COMMITTER_EMAIL", &settings.email),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
        let mut config = safe_config(settings);
        // Inside the confinement, where the job may run as another user than the one who made the workspace.
        config.push(("safe.directory".to_owned(), "*".to_owned()));
        put_config(&mut env, &config);
        Ok(JobSpec {
            id: mint_job(),
            kind: JobKind::Capture,
            task: spec.owner.task,
            run: spec.owner.run,
            epoch: spec.owner.epoch,
            label: "take the work out of the workspace".to_owned(),
            argv,
            cwd: spec.workspace,
            env,
            stdin: Vec::new(),
            limits: JobLimits { log_bytes: 1 << 20, ..spec.limits },
            confinement: spec.confinement,
            on_loss: JobKind::Capture.on_loss(Millis(0)),
        })
    }
}

/// Where a capture leaves its bundle.
pub(crate) fn bundle_in(out: &Path) -> PathBuf {
    out.join(BUNDLE)
}

/// Reads what a capture said.
///
/// # Errors
/// A sentence naming what is missing or not understood: the capture did not run to its end, or was tampered with.
pub fn read_capture(stdout: &[u8]) -> Result<CaptureFacts, String> {
    let text = String::from_utf8_lossy(stdout);
    let all: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let get = |name: &str| all.get(name).copied().ok_or_else(|| format!("the capture did not say `{name}`"));
    let bad = |name: &str, value: &str| format!("the capture said `{name} {}`", value.escape_debug());
    if get("end")? != "capture" {
        return Err("the capture did not reach its end".to_owned());
    }
    let count = |name: &str, value: &str| value.parse::<usize>().map_err(|_| bad(name, value));
    let head = get("head")?;
    let leftovers = match get("leftovers")? {
        "none" => Leftovers::None,
        "committed" => Leftovers::Committed,
        "partly" => Leftovers::Partly,
        "unmerged" => Leftovers::Unmerged,
        "failed" => Leftovers::Failed,
        other => return Err(bad("leftovers", other)),
    };
    // Whatever else the names hold, each stays a short line.
    let short = |name: &str| name.chars().map(|c| if c.is_control() { '?' } else { c }).take(NAME).collect::<String>();
    let several = |name: &str| -> Result<Option<Several>, String> {
        let total = all.get(name).map_or(Ok(0), |value| count(name, value))?;
        let named = (1..=NAMED).map_while(|n| all.get(format!("{name}.{n}").as_str()));
        Ok(Several::of(total, named.map(|line| short(line)).collect()))
    };
    let nested = [several("nested")?, several("linked")?].into_iter().flatten().reduce(|a, b| Several {
        count: a.count.saturating_add(b.count),
        named: a.named.into_iter().chain(b.named).take(NAMED).collect(),
    });
    Ok(CaptureFacts {
        head: head.parse().map_err(|_| bad("head", head))?,
        on: Some(get("on")?).filter(|on| *on != "(detached)").map(str::to_owned),
        task_branch: get("task")?.parse().ok(),
        unfinished: Some(get("operation")?).filter(|operation| *operation != "none").map(str::to_owned),
        leftovers,
        unmerged: several("unmerged")?,
        refused: several("refused")?,
        nested,
        beside: several("beside")?,
        commits: count("commits", get("commits")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_and_a_cut_off_capture_is_none() {
        let sha = "b".repeat(40);
        let text = format!(
            "nested 7\nnested.1 in ner\nnested.2 \u{1b}[31m{}\nlinked 1\nlinked.1 sub\nhead {sha}\non orch/x/1\ntask none\n\
             operation rebase\nleftovers failed\ncommits 3\nend capture\n",
            "x".repeat(300)
        );
        let facts = read_capture(text.as_bytes()).expect("facts");
        assert_eq!((facts.commits, facts.leftovers), (3, Leftovers::Failed));
        let nested = facts.nested.expect("some");
        assert_eq!((nested.count, nested.named.len(), nested.named[0].as_str()), (8, 3, "in ner"));
        assert!(nested.named[1].starts_with("?[31mx") && nested.named[1].chars().count() == NAME, "{nested:?}");
        assert_eq!((facts.unmerged, facts.beside), (None, None));
        assert!(read_capture(text.replace("nested 7", "nested all").as_bytes()).is_err());
        assert_eq!(facts.unfinished.as_deref(), Some("rebase"));
        assert_eq!(facts.task_branch, None);
        assert!(read_capture(format!("head {sha}\n").as_bytes()).is_err());
        assert!(read_capture(text.replace(&sha, "HEAD").as_bytes()).is_err());
    }
}
