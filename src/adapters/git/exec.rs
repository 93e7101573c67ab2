//! How a git command of ours is run: as a job, with a whole environment of its own and a deadline.
//!
//! Owns the port [`Exec`] (what makes git commands jobs), the settings, and the one environment that every command
//! gets: no prompts, no hooks, no configuration of the system or the user, no replace objects, no automatic garbage
//! collection, fixed locale, one allowed transport. Refuses secrets in arguments: a remote's secrets come as environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use orch_domain::ids::{Epoch, JobId, RunId, TaskId};
use orch_domain::job::{JobEnd, JobExit, JobKind};
use orch_domain::time::Millis;

use super::error::{GitError, words};
use super::push::shell_quote;
use crate::ports::{Confinement, JobError, JobLimits, JobSpec, Remote};

/// Runs one job to its end and gives its output. What git needs of the jobs room.
#[async_trait]
pub trait Exec: Send + Sync + 'static {
    /// Runs the job. An error means that it is not known to have run to its end.
    async fn run(&self, spec: JobSpec) -> Result<ExecOutput, JobError>;
}

/// What a finished job left.
#[derive(Clone, Debug)]
pub struct ExecOutput {
    /// How it ended.
    pub exit: JobExit,
    /// Its standard output, whole unless `exit.log_cut`.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// Settings of the git room.
#[derive(Clone, Debug)]
pub struct GitSettings {
    /// The git program, looked up in `path`.
    pub program: String,
    /// `PATH` of git commands.
    pub path: String,
    /// Longest run time of one git command.
    pub deadline: Millis,
    /// A transfer slower than this many bytes per second ...
    pub low_speed_bytes: u32,
    /// ... for this many seconds is given up.
    pub low_speed_secs: u32,
    /// Largest bundle that is taken from a workspace, in bytes.
    pub bundle_cap_bytes: u64,
    /// Most bytes of files that one salvage keeps.
    pub salvage_cap_bytes: u64,
    /// Most files that one salvage keeps.
    pub salvage_cap_files: usize,
    /// Name on commits that the supervisor makes.
    pub name: String,
    /// E-mail address on commits that the supervisor makes.
    pub email: String,
}

impl Default for GitSettings {
    fn default() -> Self {
        Self {
            program: "git".to_owned(),
            path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            deadline: Millis::from_mins(10),
            low_speed_bytes: 1_000,
            low_speed_secs: 60,
            bundle_cap_bytes: 512 << 20,
            salvage_cap_bytes: 1 << 30,
            salvage_cap_files: 100_000,
            name: "orch".to_owned(),
            email: "orch@localhost".to_owned(),
        }
    }
}

/// For whom git commands run: stamped on every job, so that STOP and stale epochs end the right ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Epoch of the owner.
    pub epoch: Epoch,
    /// The task worked for, if any.
    pub task: Option<TaskId>,
    /// The run it belongs to, if any.
    pub run: Option<RunId>,
}

/// What one git command says when it ran to its own end.
#[derive(Clone, Debug)]
pub(crate) struct GitOutput {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// One git command to be run.
#[derive(Clone, Debug)]
pub(crate) struct GitCommand {
    kind: JobKind,
    cwd: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    config: Vec<(String, String)>,
    stdin: Vec<u8>,
    stdin_file: Option<PathBuf>,
    then: Vec<Vec<String>>,
}

impl GitCommand {
    /// A command inside one of our repositories (its folder is the working directory).
    pub(crate) fn inside<S: Into<String>>(repo: &Path, args: impl IntoIterator<Item = S>) -> Self {
        Self {
            kind: JobKind::Git,
            cwd: repo.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            config: Vec::new(),
            stdin: Vec::new(),
            stdin_file: None,
            then: Vec::new(),
        }
    }

    /// Another command behind this one, in the same job: run only if everything before it has exited with 0. A job costs
    /// more than most commands of git.
    pub(crate) fn and_then<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.then.push(args.into_iter().map(Into::into).collect());
        self
    }

    /// A command that talks to `remote`: only that remote's transport is allowed, its environment is added.
    pub(crate) fn with_remote(mut self, remote: &Remote) -> Self {
        self.env.insert("GIT_ALLOW_PROTOCOL".to_owned(), transport(&remote.url).to_owned());
        self.env.extend(remote.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        self
    }

    pub(crate) fn kind(mut self, kind: JobKind) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn config(mut self, key: &str, value: impl Into<String>) -> Self {
        self.config.push((key.to_owned(), value.into()));
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Standard input from a file: for packs, which do not belong in memory.
    pub(crate) fn stdin_file(mut self, path: &Path) -> Self {
        self.stdin_file = Some(path.to_owned());
        self
    }

    /// The command for people: program and its first words, no paths, no secrets.
    fn label(&self) -> String {
        let verb: Vec<&str> =
            self.args.iter().map(String::as_str).take_while(|a| !a.starts_with('-')).take(2).collect();
        format!("git {}", if verb.is_empty() { "(command)".to_owned() } else { verb.join(" ") })
    }
}

/// The transport that a URL uses, as git's protocol policy names it.
fn transport(url: &str) -> &'static str {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("https") => "https",
        Some("http") => "http",
        Some("ssh" | "git+ssh" | "ssh+git") => "ssh",
        Some("git") => "git",
        Some("file") => "file",
        None if is_scp_like(url) => "ssh",
        None => "file",
        Some(_) => "none",
    }
}

/// Whether git reads `host:path` as ssh: a colon before the first slash.
fn is_scp_like(url: &str) -> bool {
    let colon = url.find(':');
    let slash = url.find('/');
    match (colon, slash) {
        (Some(colon), Some(slash)) => colon < slash,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Runs git commands for one owner. Cheap to clone.
#[derive(Clone)]
pub struct Git {
    exec: Arc<dyn Exec>,
    settings: Arc<GitSettings>,
    /// Private HOME of git commands; holds the only "global" configuration they see, which local servers
    /// (`upload-pack`, `receive-pack`) inherit too, unlike configuration by environment.
    home: PathBuf,
    owner: Owner,
}

impl std::fmt::Debug for Git {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Git").field("home", &self.home).field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Git {
    /// Commands with a private `home`, which is created by `Git::trust`.
    #[must_use]
    pub fn new(exec: Arc<dyn Exec>, settings: Arc<GitSettings>, home: PathBuf) -> Self {
        Self { exec, settings, home, owner: Owner::default() }
    }

    /// The same for another owner.
    #[must_use]
    pub fn for_owner(&self, owner: Owner) -> Self {
        Self { owner, ..self.clone() }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &GitSettings {
        &self.settings
    }

    /// Writes the private configuration: exactly these folders may belong to somebody else.
    pub(crate) fn trust(&self, folders: &[PathBuf]) -> Result<(), GitError> {
        std::fs::create_dir_all(&self.home).map_err(GitError::io("cannot create", &self.home))?;
        let mut text = String::from("# Written by orch at each start.\n[safe]\n");
        for folder in folders {
            text.push_str(&format!("\tdirectory = {}\n", quote_config(utf8(folder)?)));
        }
        let path = self.home.join("gitconfig");
        let fresh = self.home.join(format!("gitconfig.{}", mint_job()));
        std::fs::write(&fresh, text).map_err(GitError::io("cannot write", &fresh))?;
        std::fs::rename(&fresh, &path).map_err(GitError::io("cannot write", &path))
    }

    /// Runs a command to its own end, whatever its exit code.
    pub(crate) async fn run(&self, command: GitCommand) -> Result<GitOutput, GitError> {
        let label = command.label();
        let spec = self.job(command)?;
        let out = self.exec.run(spec).await.map_err(|err| match err {
            JobError::Refused { why, .. } => GitError::Stopped { command: label.clone(), why, began: false },
            JobError::NotStarted { why, .. } | JobError::Unreachable { why, .. } => {
                GitError::Interrupted { command: label.clone(), why }
            }
        })?;
        let interrupted = |why: String| Err(GitError::Interrupted { command: label.clone(), why });
        match out.exit.end {
            JobEnd::Exited { .. } if out.exit.log_cut => interrupted("its output was longer than is kept".to_owned()),
            // The launcher's own word for "no such program".
            JobEnd::Exited { code: 127 } => Err(GitError::NoGit { why: words(&out.stderr) }),
            JobEnd::Exited { code } => Ok(GitOutput { code, stdout: out.stdout, stderr: out.stderr }),
            JobEnd::CouldNotStart { why } => Err(GitError::NoGit { why }),
            JobEnd::Cancelled => {
                Err(GitError::Stopped { command: label, why: "it was cancelled".to_owned(), began: true })
            }
            JobEnd::Orphaned => {
                Err(GitError::Stopped { command: label, why: "its supervisor was gone".to_owned(), began: true })
            }
            JobEnd::TimedOut => interrupted(format!("it took longer than {}", self.settings.deadline)),
            JobEnd::Stalled => interrupted("it was silent for too long".to_owned()),
            JobEnd::OverLimit { what } => interrupted(format!("it went over a limit: {what}")),
            JobEnd::Signalled { signal } => interrupted(format!("signal {signal} ended it: {}", words(&out.stderr))),
            JobEnd::Lost => interrupted("how it ended is not known".to_owned()),
        }
    }

    /// Runs a command that has to exit with 0; gives its standard output.
    pub(crate) async fn ok(&self, command: GitCommand) -> Result<Vec<u8>, GitError> {
        let label = command.label();
        let out = self.run(command).await?;
        match out.code {
            0 => Ok(out.stdout),
            code => Err(GitError::Failed { command: label, code, why: words(&out.stderr) }),
        }
    }

    /// Several commands as one shell line, every word quoted.
    fn script(&self, command: &GitCommand) -> String {
        let line = |args: &Vec<String>| {
            let words = std::iter::once(&self.settings.program).chain(args).map(|word| shell_quote(word));
            words.collect::<Vec<_>>().join(" ")
        };
        std::iter::once(&command.args).chain(&command.then).map(line).collect::<Vec<_>>().join(" && ")
    }

    fn job(&self, command: GitCommand) -> Result<JobSpec, GitError> {
        let label = command.label();
        let mut argv = Vec::with_capacity(command.args.len() + 5);
        if let Some(file) = &command.stdin_file {
            argv.extend(["/bin/sh", "-c", "in=$1; shift; exec \"$@\" <\"$in\"", "sh", utf8(file)?].map(str::to_owned));
        }
        match command.then.is_empty() {
            true => {
                argv.push(self.settings.program.clone());
                argv.extend(command.args);
            }
            false => argv.extend(["/bin/sh".to_owned(), "-c".to_owned(), self.script(&command)]),
        }
        Ok(JobSpec {
            id: mint_job(),
            kind: command.kind,
            task: self.owner.task.clone(),
            run: self.owner.run.clone(),
            epoch: self.owner.epoch,
            label,
            argv,
            cwd: command.cwd,
            env: self.environment(command.env, command.config)?,
            stdin: command.stdin,
            limits: JobLimits { wall: self.settings.deadline, ..JobLimits::default() },
            confinement: Confinement::default(),
            on_loss: command.kind.on_loss(Millis(0)),
        })
    }

    /// The whole environment of a command: ours, then the command's own, then configuration, numbered anew so that
    /// neither replaces the other.
    fn environment(
        &self,
        extra: BTreeMap<String, String>,
        config: Vec<(String, String)>,
    ) -> Result<BTreeMap<String, String>, GitError> {
        let home = utf8(&self.home)?.to_owned();
        let mut env: BTreeMap<String, String> = [
            ("PATH", self.settings.path.as_str()),
            ("HOME", home.as_str()),
            ("XDG_CONFIG_HOME", home.as_str()),
            ("LC_ALL", "C"),
            ("LANGUAGE", ""),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_ADVICE", "0"),
            ("GIT_EDITOR", "false"),
            ("GIT_PAGER", "cat"),
            ("GIT_ALLOW_PROTOCOL", "file"),
            ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
            ("GIT_AUTHOR_NAME", self.settings.name.as_str()),
            ("GIT_AUTHOR_EMAIL", self.settings.email.as_str()),
            ("GIT_COMMITTER_NAME", self.settings.name.as_str()),
            ("GIT_COMMITTER_EMAIL", self.settings.email.as_str()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        env.insert("GIT_CONFIG_GLOBAL".to_owned(), format!("{home}/gitconfig"));
        let mut all = safe_config(&self.settings);
        all.extend(config);
        all.extend(taken_config(&extra));
        env.extend(extra.into_iter().filter(|(name, _)| !is_config_variable(name)));
        put_config(&mut env, &all);
        Ok(env)
    }
}

/// The configuration of every command; configuration by environment outranks that of a repository.
pub(crate) fn safe_config(settings: &GitSettings) -> Vec<(String, String)> {
    let low_bytes = settings.low_speed_bytes.to_string();
    let low_secs = settings.low_speed_secs.to_string();
    [
        ("core.hooksPath", "/dev/null"),
        ("core.fsmonitor", "false"),
        ("core.attributesFile", "/dev/null"),
        ("core.excludesFile", "/dev/null"),
        ("core.quotePath", "true"),
        ("core.autocrlf", "false"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("submodule.recurse", "false"),
        ("fetch.recurseSubmodules", "false"),
        ("push.recurseSubmodules", "no"),
        ("push.followTags", "false"),
        ("commit.gpgSign", "false"),
        ("push.gpgSign", "false"),
        ("credential.helper", ""),
        ("merge.conflictStyle", "merge"),
        ("log.showSignature", "false"),
        ("http.lowSpeedLimit", low_bytes.as_str()),
        ("http.lowSpeedTime", low_secs.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Writes configuration as `GIT_CONFIG_COUNT` and its pairs.
pub(crate) fn put_config(env: &mut BTreeMap<String, String>, config: &[(String, String)]) {
    env.insert("GIT_CONFIG_COUNT".to_owned(), config.len().to_string());
    for (at, (key, value)) in config.iter().enumerate() {
        env.insert(format!("GIT_CONFIG_KEY_{at}"), key.clone());
        env.insert(format!("GIT_CONFIG_VALUE_{at}"), value.clone());
    }
}

fn is_config_variable(name: &str) -> bool {
    name == "GIT_CONFIG_COUNT" || name.starts_with("GIT_CONFIG_KEY_") || name.starts_with("GIT_CONFIG_VALUE_")
}

/// The configuration that an environment carries.
fn taken_config(env: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let count = env.get("GIT_CONFIG_COUNT").and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    (0..count)
        .filter_map(|at| {
            let key = env.get(&format!("GIT_CONFIG_KEY_{at}"))?;
            let value = env.get(&format!("GIT_CONFIG_VALUE_{at}"))?;
            Some((key.clone(), value.clone()))
        })
        .collect()
}

/// A value of a configuration file, quoted.
pub(crate) fn quote_config(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// A path as text: what arguments, alternates and configuration can hold.
pub(crate) fn utf8(path: &Path) -> Result<&str, GitError> {
    let text = path.to_str().filter(|text| !text.contains(['\n', '\0']));
    text.ok_or_else(|| GitError::Invalid(format!("the path {path:?} is not plain text (UTF-8 without line breaks)")))
}

/// A new job id; only has to be unique.
pub(crate) fn mint_job() -> JobId {
    format!("g{}", random_hex()).parse().expect("a letter and 24 hex digits are a job id")
}

/// 24 random hex digits.
pub(crate) fn random_hex() -> String {
    let mut bytes = [0_u8; 12];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_transport_of_the_url_is_allowed() {
        for (url, expected) in [
            ("/srv/a b.git", "file"),
            ("/srv/a:b", "file"),
            ("file:///srv/a", "file"),
            ("https://host/x", "https"),
            ("http://host/x", "http"),
            ("ssh://git@host/x", "ssh"),
            ("git@host:x", "ssh"),
            ("git://host/x", "git"),
            ("ext::sh -c evil", "ssh"),
            ("foo://x", "none"),
        ] {
            assert_eq!(transport(url), expected, "{url}");
        }
    }

    #[test]
    fn a_remotes_configuration_is_added_to_ours_not_put_in_its_place() {
        struct Nobody;
        #[async_trait]
        impl Exec for Nobody {
            async fn run(&self, spec: JobSpec) -> Result<ExecOutput, JobError> {
                Err(JobError::NotStarted { job: spec.id, why: "test".to_owned() })
            }
        }
        let git = Git::new(Arc::new(Nobody), Arc::new(GitSettings::default()), PathBuf::from("/nowhere"));
        let mut extra = BTreeMap::new();
        put_config(&mut extra, &[("http.extraHeader".to_owned(), "Authorization: secret".to_owned())]);
        let env = git.environment(extra, vec![("a.b".to_owned(), "c".to_owned())]).expect("environment");
        let all = taken_config(&env);
        assert_eq!(all[0], ("core.hooksPath".to_owned(), "/dev/null".to_owned()));
        assert_eq!(all[all.len() - 1].1, "Authorization: secret");
        assert_eq!(all[all.len() - 2], ("a.b".to_owned(), "c".to_owned()));
    }

    #[test]
    fn configuration_values_are_quoted() {
        assert_eq!(quote_config("/a \"b\"\\c"), "\"/a \\\"b\\\"\\\\c\"");
    }
}
