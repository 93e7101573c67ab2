//! The port: how an agent program is started and how its event stream is read.
//!
//! Owns the two traits and the plain data that crosses them. Invariants: no secret is ever part of `argv`, `files` or
//! an error text; a parser never panics, whatever bytes come, and keeps bounded state.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use orch_domain::agent::{AgentEvent, AgentKind, AgentReport};
use orch_domain::job::JobEnd;
use orch_domain::time::Millis;

use crate::jobs::env::PrivateDirs;

/// One kind of agent program.
pub trait Agent: Send + Sync {
    /// Which program this is.
    fn kind(&self) -> AgentKind;

    /// How to start it for one run. Nothing is started or written; the caller does that.
    fn launch(&self, ctx: &LaunchContext) -> Result<LaunchLine, AgentSetupError>;

    /// A parser for one run's standard output. `model` is the one the run was launched with; streams that do not name
    /// their model are priced by it.
    fn parser(&self, model: Option<&str>) -> Box<dyn StreamParser>;
}

/// Reads the standard output of one run, line by line.
pub trait StreamParser: Send {
    /// Reads one line (without its newline) and tells what it means; most often one event, or none for an empty line.
    fn line(&mut self, line: &[u8]) -> Vec<AgentEvent>;

    /// Whether a tool call may be running now, so that silence is no stall.
    fn tool_running(&self) -> bool;

    /// What is known when the job is over. `end` matters to programs without an end event of their own: for those a
    /// clean exit is the claim.
    fn report(&self, end: &JobEnd, wall: Millis) -> AgentReport;
}

/// What one run is started with.
#[derive(Clone, Debug)]
pub struct LaunchContext {
    /// The whole prompt.
    pub prompt: String,
    /// The agent's clone; the job's working directory.
    pub workspace: PathBuf,
    /// Folder of this run alone, writable by the job: `HOME`, `TMPDIR` and the rest of [`PrivateDirs`] lie in it, and
    /// the program's settings.
    pub private: PathBuf,
    /// Model to ask for; the settings' own when absent.
    pub model: Option<String>,
    /// Environment that the operator allow-listed, with values; may hold secrets.
    pub env_allow: BTreeMap<String, String>,
}

/// How to start one run.
#[derive(Clone, PartialEq, Eq)]
pub struct LaunchLine {
    /// Program (an absolute path) and arguments; free of secrets.
    pub argv: Vec<String>,
    /// Additions to the base environment; may hold secrets.
    pub env: BTreeMap<String, String>,
    /// What the program reads on standard input before end of file.
    pub stdin: Vec<u8>,
    /// Files to be written, readable by the owner alone, before the launch; all under the private folder.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// What a confined job must be able to read for the program to start: where it is installed.
    pub read: Vec<PathBuf>,
}

impl std::fmt::Debug for LaunchLine {
    /// Shows names only of the environment, and sizes of prompt and files: values may be secret, prompts are long.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<_> = self.files.iter().map(|(path, bytes)| (path, bytes.len())).collect();
        f.debug_struct("LaunchLine")
            .field("argv", &self.argv)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("stdin_bytes", &self.stdin.len())
            .field("files", &files)
            .field("read", &self.read)
            .finish()
    }
}

impl LaunchLine {
    /// Makes the private folder ready: the folders that the environment names (mode 0700) and the files (mode 0600), all
    /// owned by the supervisor's own user. Refuses a path outside `private`, and never follows a link that lies in the way of a file.
    pub fn write_files(&self, private: &Path) -> io::Result<()> {
        PrivateDirs::under(private).create(None)?;
        for (path, bytes) in &self.files {
            let inside = path.strip_prefix(private).ok().filter(|rest| {
                rest.components().next().is_some() && rest.components().all(|part| matches!(part, Component::Normal(_)))
            });
            if inside.is_none() {
                let why = format!("{} is not inside {}", path.display(), private.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            if let Some(parent) = path.parent() {
                make_folder(parent)?;
            }
            // A file of an earlier attempt goes first: `create_new` then neither follows links nor keeps a wider mode.
            match fs::remove_file(path) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)?;
        }
        Ok(())
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Why an agent cannot be started as things are set up. All of these need a person; trying again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentSetupError {
    /// The program is not installed where jobs look.
    #[error("`{name}` is not in PATH ({searched}); {advice}")]
    ProgramMissing {
        /// The program.
        name: String,
        /// The folders that were looked at.
        searched: String,
        /// The way out.
        advice: String,
    },
    /// The variable with the API key is not among the allow-listed environment.
    #[error("agent {agent}: the API key variable `{variable}` is not set; {advice}")]
    KeyMissing {
        /// The agent's kind.
        agent: &'static str,
        /// The variable's name.
        variable: String,
        /// The way out.
        advice: &'static str,
    },
    /// A setting does not make sense.
    #[error("agent {agent}: setting `{setting}` is refused: {why}")]
    BadSetting {
        /// The agent's kind.
        agent: &'static str,
        /// The setting's name.
        setting: &'static str,
        /// What is wrong and what to do; never holds a secret.
        why: String,
    },
    /// The prompt cannot be handed over in the way that the settings ask for.
    #[error(
        "agent {agent}: the prompt cannot be an argument: {why}; use `{{prompt_file}}`, or neither to get it on standard input"
    )]
    PromptUnfit {
        /// The agent's kind.
        agent: &'static str,
        /// What is wrong with it.
        why: String,
    },
}
