//! What each honest step of a script does.
//!
//! Owns the file edits, commands and commits. Refuses paths outside the workspace, inside `.git`, or through a link:
//! leaving the workspace is misbehaviour and has to be asked for as such.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use orch_domain::agent::{AgentClaim, Usage};
use orch_domain::names::RepoPath;

use super::run::{EXIT_PROMPT, EXIT_STEP, Run, emit};
use super::script::Step;
use super::{Event, misbehave};

/// How a run goes on after a step.
pub(super) enum After {
    /// With the next step.
    GoOn,
    /// Not at all, and without an end event.
    EndSilently,
    /// It ends with this claim and code.
    End {
        /// What the end event says.
        claim: AgentClaim,
        /// Exit code.
        code: u8,
    },
}

/// A failure: exit code and reason.
type Failure = (u8, String);

/// Does one step.
pub(super) fn perform(run: &mut Run, step: Step) -> Result<After, Failure> {
    match step {
        Step::ExpectPrompt(text) if !run.prompt.contains(&text) => {
            return Err((EXIT_PROMPT, format!("the prompt lacks `{text}`; it was:\n{}", run.prompt)));
        }
        Step::RefusePrompt(text) if run.prompt.contains(&text) => {
            return Err((
                EXIT_PROMPT,
                format!("the prompt holds `{text}`, which it should not; it was:\n{}", run.prompt),
            ));
        }
        Step::ExpectPrompt(_) | Step::RefusePrompt(_) => {}
        Step::Write { path, content } => write(run, &path, &content)?,
        Step::Append { path, content } => append(run, &path, &content)?,
        Step::Replace { path, from, to } => replace(run, &path, &from, &to)?,
        Step::Delete { path } => delete(run, &path)?,
        Step::Mkdir { path } => {
            let full = inside(run, &path)?;
            fs::create_dir_all(&full).map_err(|err| failed(&path, &err))?;
        }
        Step::Run { cmd, may_fail } => shell(run, &cmd, may_fail)?,
        Step::Commit { message, allow_empty } => commit(run, &message, allow_empty)?,
        Step::Say { text } => tell(&Event::Say { text })?,
        Step::Warn { text } => tell(&Event::Warn { text })?,
        Step::Tool { name, ms } => {
            let id = run.next_call();
            tell(&Event::ToolStart { id: id.clone(), what: name })?;
            thread::sleep(Duration::from_millis(ms));
            tell(&Event::ToolEnd { id, ok: true })?;
        }
        Step::Delay { ms } => thread::sleep(Duration::from_millis(ms)),
        Step::WaitFor { path } => wait_for(run, &path)?,
        Step::Usage { input_tokens, cached_tokens, output_tokens, cost_micro_usd } => {
            tell(&Event::Usage(Usage { input_tokens, cached_tokens, output_tokens, cost_micro_usd }))?;
        }
        Step::Artefact { file, front, body, dir } => {
            let path = artefact_path(run, &file, dir.as_deref())?;
            let mut text = "---\n".to_owned();
            for (key, value) in &front {
                let value = if value == "HEAD" { head(run)? } else { value.clone() };
                text.push_str(&format!("{key}: {value}\n"));
            }
            text.push_str(&format!("---\n{body}\n"));
            write(run, &path, &text)?;
        }
        Step::RateLimit { text } => return Ok(After::End { claim: AgentClaim::RateLimited { text }, code: 1 }),
        Step::Exit { code: 0 } => return Ok(After::End { claim: AgentClaim::Success, code: 0 }),
        Step::Exit { code } => {
            let text = format!("the script ends with code {code}");
            return Ok(After::End { claim: AgentClaim::Error { text }, code });
        }
        Step::Misbehave(how) => return misbehave::perform(run, how),
    }
    Ok(After::GoOn)
}

/// Writes one event; a closed stream is a failed step.
pub(super) fn tell(event: &Event) -> Result<(), Failure> {
    emit(event).map_err(|err| (EXIT_STEP, format!("the stream cannot be written: {err}")))
}

/// A failure at a path or command.
pub(super) fn failed(what: &str, err: &io::Error) -> Failure {
    (EXIT_STEP, format!("{what}: {err}"))
}

/// The full path of a file in the workspace; see the refusals at the top of this file.
fn inside(run: &Run, path: &str) -> Result<PathBuf, Failure> {
    let checked: RepoPath = path.parse().map_err(|err| (EXIT_STEP, format!("{err}")))?;
    let mut full = run.workspace.clone();
    for part in checked.as_str().split('/') {
        full.push(part);
        if fs::symlink_metadata(&full).is_ok_and(|meta| meta.file_type().is_symlink()) {
            return Err((EXIT_STEP, format!("path `{path}` goes through the link `{}`", full.display())));
        }
    }
    Ok(full)
}

fn write(run: &Run, path: &str, content: &str) -> Result<(), Failure> {
    let full = inside(run, path)?;
    let folder = full.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).and_then(|()| fs::write(&full, content)).map_err(|err| failed(path, &err))
}

fn append(run: &Run, path: &str, content: &str) -> Result<(), Failure> {
    let full = inside(run, path)?;
    let opened = fs::OpenOptions::new().append(true).create(true).open(full);
    opened.and_then(|mut file| file.write_all(content.as_bytes())).map_err(|err| failed(path, &err))
}

fn replace(run: &Run, path: &str, from: &str, to: &str) -> Result<(), Failure> {
    let full = inside(run, path)?;
    let text = fs::read_to_string(&full).map_err(|err| failed(path, &err))?;
    if from.is_empty() || !text.contains(from) {
        return Err((EXIT_STEP, format!("{path}: there is no `{from}` to replace")));
    }
    fs::write(&full, text.replace(from, to)).map_err(|err| failed(path, &err))
}

fn delete(run: &Run, path: &str) -> Result<(), Failure> {
    let full = inside(run, path)?;
    let removed = if full.is_dir() { fs::remove_dir_all(&full) } else { fs::remove_file(&full) };
    removed.map_err(|err| failed(path, &err))
}

/// Runs a shell line; its output goes to our standard error, since standard output is the event stream.
fn shell(run: &mut Run, cmd: &str, may_fail: bool) -> Result<(), Failure> {
    let id = run.next_call();
    tell(&Event::ToolStart { id: id.clone(), what: format!("sh: {cmd}") })?;
    let status = quiet(Command::new("sh").args(["-c", cmd]), run).map_err(|err| failed(cmd, &err))?;
    tell(&Event::ToolEnd { id, ok: status.success() })?;
    if status.success() || may_fail { Ok(()) } else { Err((EXIT_STEP, format!("`{cmd}` ended with {status}"))) }
}

/// Runs a command to its end, without input, its output on our standard error.
pub(super) fn quiet(command: &mut Command, run: &Run) -> io::Result<std::process::ExitStatus> {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    command.current_dir(&run.workspace).stdin(Stdio::null()).stdout(Stdio::from(stderr)).status()
}

/// A git command in the workspace; our identity only where the environment names none.
fn git(run: &Run) -> Command {
    let mut command = Command::new("git");
    command.current_dir(&run.workspace);
    command.args(["-c", "user.name=Scripted Agent", "-c", "user.email=agent@invalid", "-c", "commit.gpgsign=false"]);
    command
}

fn commit(run: &mut Run, message: &str, allow_empty: bool) -> Result<(), Failure> {
    let id = run.next_call();
    tell(&Event::ToolStart { id: id.clone(), what: format!("git commit: {message}") })?;
    let mut save = git(run);
    save.args(["commit", "-q", "-m", message]);
    if allow_empty {
        save.arg("--allow-empty");
    }
    let mut add = git(run);
    add.args(["add", "-A"]);
    for command in [&mut add, &mut save] {
        let status = quiet(command, run).map_err(|err| failed("git", &err))?;
        if !status.success() {
            tell(&Event::ToolEnd { id, ok: false })?;
            return Err((EXIT_STEP, format!("commit `{message}`: git ended with {status}")));
        }
    }
    tell(&Event::ToolEnd { id, ok: true })
}

/// The commit that the run was started at, as the prompt says; asked from git where it does not.
fn head(run: &Run) -> Result<String, Failure> {
    if let Some(head) = run.header("Head") {
        return Ok(head);
    }
    let output = git(run).args(["rev-parse", "HEAD"]).output().map_err(|err| failed("git rev-parse", &err))?;
    if !output.status.success() {
        return Err((EXIT_STEP, "git rev-parse HEAD fails: there is no commit".to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where an artefact goes: the named folder, else that of the artefact which the prompt names.
fn artefact_path(run: &Run, file: &str, dir: Option<&str>) -> Result<String, Failure> {
    if let Some(dir) = dir {
        return Ok(format!("{dir}/{file}"));
    }
    let named = run.header("Artefact");
    let folder = named.as_deref().and_then(|path| path.rsplit_once('/')).map(|(folder, _)| folder);
    match folder {
        Some(folder) => Ok(format!("{folder}/{file}")),
        None => Err((EXIT_STEP, format!("artefact `{file}`: the prompt names no folder for it; add `dir`"))),
    }
}

fn wait_for(run: &Run, path: &str) -> Result<(), Failure> {
    let full = if Path::new(path).is_absolute() { PathBuf::from(path) } else { inside(run, path)? };
    while !full.exists() {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
