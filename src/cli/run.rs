//! `orch run`: one task on a repository, here and now, without any service.
//!
//! Owns the data folder's hand-over: whoever owns it does the work, whoever comes second hands its task over and follows,
//! and takes the folder when the owner goes. Refuses to hand a task to an owner that would work on it with other settings,
//! and to go on unasked with what an interrupted run with other settings has left.
//! Exit codes: 0 done, 1 blocked, cancelled or waiting for a person, 2 could not run, 130 interrupted (the task stays and
//! goes on with the next run that has the same settings).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use orch_actors::api::{Submit, TaskFilter};
use orch_domain::names::{BranchName, TaskKey};
use orch_domain::stop::Level;
use orch_domain::task::Status;
use orch_domain::view::TaskDetail;

use super::client::Client;
use super::door::{Doorway, Signals};
use super::engine::{Engine, StartError};
use super::follow::{FollowEnd, Following, Lost, Source, is_settled};
use super::output::{CliError, Output};
use super::{Context, doctor, inside, serve, show, task};
use crate::config::{Config, EmbeddedRepo, LogFormat, Telemetry};
use crate::http::read_address;

/// How long work that is not ours to wait for may take to end.
const LAST: Duration = Duration::from_secs(15);
/// Times that an owner which neither answers nor goes is looked at again, half a second apart.
const LOOKS: u32 = 20;

/// What to do, where, and by whom.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The repository
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub repo: PathBuf,
    /// One line that says what to do
    #[arg(long, value_name = "TEXT", required_unless_present = "stop")]
    pub title: Option<String>,
    /// The description
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file")]
    pub body: Option<String>,
    /// The description from a file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub body_file: Option<PathBuf>,
    /// Agent: claude, codex, opencode, or one of the settings by name
    #[arg(long, value_name = "KIND", conflicts_with = "agent_cmd")]
    pub agent: Option<String>,
    /// Shell line to be the agent; the prompt comes on standard input
    #[arg(long, value_name = "CMD")]
    pub agent_cmd: Option<String>,
    /// Shell line that tests; detected when left out
    #[arg(long, value_name = "CMD", conflicts_with = "no_tests")]
    pub test_cmd: Option<String>,
    /// Work without tests
    #[arg(long)]
    pub no_tests: bool,
    /// Shell line that checks after each development
    #[arg(long, value_name = "CMD")]
    pub check_cmd: Option<String>,
    /// lite, full, one of the settings by name, or a file
    #[arg(long, value_name = "NAME|FILE")]
    pub pipeline: Option<String>,
    /// The branch to land on; the one that is checked out when left out
    #[arg(long, value_name = "BRANCH")]
    pub main: Option<BranchName>,
    /// Key of the task; minted when left out. A live task of that key is followed, a blocked one goes on
    #[arg(long)]
    pub key: Option<TaskKey>,
    /// With --key: the task goes on with the settings of this command instead of those that it was handed in with
    #[arg(long, requires = "key")]
    pub new_settings: bool,
    /// With --key: stop that task instead of working on it
    #[arg(long, requires = "key", conflicts_with = "new_settings")]
    pub stop: bool,
    /// Print the data folder at the end: it holds logs, notes and reports
    #[arg(long)]
    pub keep: bool,
}

pub(super) async fn run(context: &Context, args: &RunArgs, out: &mut Output) -> Result<u8, CliError> {
    if args.stop {
        inside::refuse(&context.env, "run --stop")?;
    } else if args.title.as_deref().unwrap_or_default().trim().is_empty() {
        return Err(CliError::Usage("--title is empty; write one line that says what to do".to_owned()));
    }
    let told = EmbeddedRepo {
        path: args.repo.clone(),
        by_origin: false,
        main: args.main.clone(),
        agent: args.agent.clone(),
        agent_command: args.agent_cmd.clone(),
        test_command: args.test_cmd.clone(),
        check_command: args.check_cmd.clone(),
        no_tests: args.no_tests,
        pipeline: args.pipeline.clone(),
    };
    let config = context.config()?.embedded_for(&told).map_err(|e| CliError::CouldNot(e.to_string()))?;
    if !args.stop {
        agent_is_there(context, &config)?;
    }
    quiet_logs(context, &config)?;
    let body = match (&args.body, &args.body_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => task::read_body(file)?,
        (None, None) => String::new(),
    };
    let mut bytes = [0_u8; 12];
    getrandom::fill(&mut bytes).map_err(|e| CliError::CouldNot(format!("no randomness: {e}")))?;
    let submit = Submit {
        title: args.title.clone().unwrap_or_default(),
        body,
        repo: config.only_repo().cloned(),
        key: args.key.clone(),
        new_settings: args.new_settings,
        // They go with the task: here they are what the settings say, and a later run, or an owner, may have others.
        pipeline: config.repos.values().next().map(|repo| repo.pipeline.clone()),
        agent: config.repos.values().next().map(|repo| repo.agent.as_ref().unwrap_or(&config.default_agent).clone()),
        // Handing the same request over twice, to an owner that goes and to its successor, makes one task.
        idempotency_key: Some(format!("run-{}", hex::encode(bytes))),
        ..Submit::default()
    };
    let mut one = OneRun { context, config, submit, stop: args.stop, following: None, signals: Signals::new()? };
    let ended = one.until_settled(out).await;
    let data = one.config.data_dir.display();
    match &ended {
        Ok(code) if !out.json && (args.keep || *code != 0) => {
            out.line(&format!("data     {data}"))?;
            if *code != 0 {
                out.line(
                    "         jobs/*/stdout.log and stderr.log: what each run printed; reports/: notes and verdicts",
                )?;
                let key = one.following.as_ref().map_or("KEY", |following| following.task());
                out.line(&format!("look     orch task show {key} --data {data}; also: why, logs, receipt, proof"))?;
            }
        }
        // Something was begun there, and somebody will want to know how far it came.
        Err(error) if !matches!(error, CliError::Closed) && one.following.is_some() => {
            out.note(&format!("what was recorded of it is in {data}; `orch task show KEY --data {data}` shows it"));
        }
        _ => {}
    }
    ended
}

/// Refuses an agent whose program is not installed: the task would be tried again and again for nothing.
fn agent_is_there(context: &Context, config: &Config) -> Result<(), CliError> {
    let name = config.repos.values().find_map(|repo| repo.agent.as_ref()).unwrap_or(&config.default_agent);
    match config.agents.get(name).and_then(|agent| doctor::missing_program(agent, &context.env)) {
        Some(program) => Err(CliError::CouldNot(format!(
            "agent `{name}`: its program `{program}` is not found in PATH; install it, name another with --agent, or give \
             a shell line with --agent-cmd"
        ))),
        None => Ok(()),
    }
}

/// Records tell the story here; logs below a warning would only be in the way unless they are asked for.
fn quiet_logs(context: &Context, config: &Config) -> Result<(), CliError> {
    let asked = context.env.get("ORCH_LOG").is_some_and(|l| !l.is_empty());
    let level = if asked { config.telemetry.level.clone() } else { "warn".to_owned() };
    let format = match config.telemetry.format {
        LogFormat::Auto => LogFormat::Text,
        other => other,
    };
    crate::telemetry::init(&Telemetry { format, level }).map_err(|e| CliError::CouldNot(e.to_string()))
}

struct OneRun<'a> {
    context: &'a Context,
    config: Config,
    submit: Submit,
    /// Whether the task is to be stopped instead.
    stop: bool,
    following: Option<Following>,
    signals: Signals,
}

/// What came of one go.
enum Went {
    /// The task is settled, or we were interrupted.
    Over(u8),
    /// The owner has gone, or has not told yet where it is: try again.
    Again,
}

impl OneRun<'_> {
    async fn until_settled(&mut self, out: &mut Output) -> Result<u8, CliError> {
        let mut looks = tokio::time::interval(Duration::from_millis(500));
        let mut left = LOOKS;
        loop {
            looks.tick().await;
            let went = match self.context.starter.start(self.config.clone()).await {
                Ok(engine) => self.here(engine.as_ref(), out).await?,
                Err(StartError::Refused(text)) => return Err(CliError::CouldNot(text)),
                Err(error @ StartError::Owned { .. }) => {
                    let went = self.there(out).await?;
                    if matches!(went, Went::Again) && self.following.is_none() {
                        left = left.saturating_sub(1);
                    }
                    if left == 0 {
                        let text = format!("{error}, which does not answer; end it, or wait for it");
                        return Err(CliError::CouldNot(text));
                    }
                    went
                }
            };
            if let Went::Over(code) = went {
                return Ok(code);
            }
        }
    }

    /// We own the folder.
    async fn here(&mut self, engine: &dyn Engine, out: &mut Output) -> Result<Went, CliError> {
        // Others hand their tasks over here, and `orch why` and `orch task stop` work meanwhile.
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let door = match Doorway::take(&self.config, bind, &self.context.env).await {
            Ok(doorway) => Some(doorway.open(engine.control())),
            Err(error) => {
                tracing::warn!(%error, "nobody can look into this run from outside");
                None
            }
        };
        self.say_what_is_left_alone(engine, out).await?;
        let source = Source::Here(engine.control());
        let went = tokio::select! {
            went = self.follow(&source, None, out) => Some(went),
            () = engine.handover_asked() => None,
        };
        let handed_over = went.is_none();
        let went = went.unwrap_or(Ok(Went::Over(130)));
        if handed_over {
            out.note("handing over: agents work on, and the next run on this repository goes on with them");
            serve::hand_over(engine, &mut self.signals, self.config.limits.drain_deadline.into()).await;
        } else if matches!(went, Ok(Went::Over(130))) {
            out.note("interrupted: what runs may end; once more to interrupt it too");
            serve::end(engine, &mut self.signals, self.config.limits.drain_deadline.into()).await;
        } else {
            // Tasks that others handed over go on with them: they take the folder when we are gone.
            engine.shutdown(Level::Cancel, LAST).await;
        }
        let said = match went {
            Ok(Went::Over(130)) => self.say_where_it_is_left(&source, out).await,
            _ => Ok(()),
        };
        if let Some(door) = door {
            door.close().await;
        }
        engine.shutdown(Level::Kill, LAST).await;
        said?;
        match went? {
            Went::Again => Err(CliError::CouldNot("the engine has ended; see its log".to_owned())),
            over @ Went::Over(_) => Ok(over),
        }
    }

    /// Tasks of earlier runs that were handed in with other settings: they wait, and nobody is to wonder about them.
    async fn say_what_is_left_alone(&self, engine: &dyn Engine, out: &mut Output) -> Result<(), CliError> {
        let tasks = engine.control().tasks(TaskFilter::default()).await;
        let tasks = tasks.map_err(|error| CliError::CouldNot(error.to_string()))?;
        for task in tasks.iter().filter(|task| self.submit.key.as_ref() != Some(&task.key)) {
            let Some(others) = &task.other_settings else { continue };
            out.note(&format!(
                "{} (`{}`, {} in {}) is left as it is: it was handed in with other settings than these (here: {others}); its \
                 own command with --key {} goes on with it, --key {} --stop stops it",
                task.key,
                show::short(&task.title, 60),
                task.status.as_str(),
                task.stage,
                task.key,
                task.key
            ));
        }
        Ok(())
    }

    /// Somebody else owns the folder.
    async fn there(&mut self, out: &mut Output) -> Result<Went, CliError> {
        let Some(url) = read_address(&self.config.addr_file()) else { return Ok(Went::Again) };
        let client = match Client::at(&url, &self.config, &self.context.env) {
            Ok(client) => client,
            // The owner is just writing its token.
            Err(_) if !self.config.token_file().exists() => return Ok(Went::Again),
            Err(error) => return Err(error),
        };
        let client = client.asking_for(&self.config);
        let note = format!("another orch works on this repository; the task is handed to it ({url})");
        let source = Source::There(client);
        let went = self.follow(&source, Some(&note), out).await?;
        if matches!(went, Went::Over(130)) {
            self.say_where_it_is_left(&source, out).await?;
        }
        Ok(went)
    }

    /// After an interruption: what became of the task meanwhile, where it is, and how it goes on or ends.
    async fn say_where_it_is_left(&mut self, source: &Source, out: &mut Output) -> Result<(), CliError> {
        let Some(following) = self.following.as_mut() else { return Ok(()) };
        if let Err(FollowEnd::Output(error)) = following.show_records(source, out).await {
            return Err(error);
        }
        // An owner that has gone meanwhile cannot say it, and there is nothing to be done about that here.
        let Ok(detail) = source.detail(&following.key).await else { return Ok(()) };
        let (key, task) = (&detail.task.key, &detail.task);
        if is_settled(task.status) || out.json {
            let (data, left_behind) = (self.config.data_dir.as_path(), following.left_behind.as_slice());
            return summary(&detail, &LastWords { stop: self.stop, data, left_behind, exit: Some(130) }, out).map(drop);
        }
        let is = format!("in {} ({})", task.stage, task.status.as_str());
        out.note(&match (source, self.stop) {
            (Source::Here(_), true) => {
                format!("{key} is left {is}: its STOP is recorded, and the same command goes on with that")
            }
            (Source::Here(_), false) => format!(
                "{key} is left {is}; the same command with --key {key} goes on with it, --key {key} --stop stops it"
            ),
            (Source::There(_), true) => format!("{key} is {is}: its STOP is recorded, and goes on without this command"),
            (Source::There(_), false) => format!(
                "{key} goes on without this command, {is}; the same command with --key {key} follows it again, --key {key} \
                 --stop stops it"
            ),
        });
        Ok(())
    }

    /// Hands the task in, if that was not done yet, says `taken`, and follows.
    async fn follow(&mut self, source: &Source, taken: Option<&str>, out: &mut Output) -> Result<Went, CliError> {
        if self.following.is_none() {
            match self.hand_in(source, out).await {
                Ok(following) => {
                    self.following = Some(following);
                    taken.into_iter().for_each(|note| out.note(note));
                }
                Err(FollowEnd::Lost(Lost::Gone)) => return Ok(Went::Again),
                Err(FollowEnd::Lost(Lost::Said(_, text))) => return Err(CliError::CouldNot(text)),
                Err(FollowEnd::Output(error)) => return Err(error),
            }
        }
        let following = self.following.as_mut().expect("set just above");
        let ended = tokio::select! {
            ended = following.until_settled(source, out) => Some(ended),
            _ = self.signals.next() => None,
        };
        match ended {
            None => Ok(Went::Over(130)),
            Some(Ok(detail)) => {
                let (data, left_behind) = (self.config.data_dir.as_path(), following.left_behind.as_slice());
                summary(&detail, &LastWords { stop: self.stop, data, left_behind, exit: None }, out).map(Went::Over)
            }
            Some(Err(FollowEnd::Lost(Lost::Gone))) => Ok(Went::Again),
            Some(Err(FollowEnd::Lost(Lost::Said(_, text)))) => Err(CliError::CouldNot(text)),
            Some(Err(FollowEnd::Output(error))) => Err(error),
        }
    }

    /// Hands the task in; a live task of the same key, left by an earlier run, is followed instead, and goes on if it
    /// was blocked.
    async fn hand_in(&self, source: &Source, out: &mut Output) -> Result<Following, FollowEnd> {
        let submit = &self.submit;
        if let (true, Some(key)) = (self.stop, &submit.key) {
            return Ok(Following::new(&source.stop(key.as_str()).await?));
        }
        if matches!(source, Source::There(_)) && submit.new_settings {
            let text = "another orch works on this repository; --new-settings has to wait for its end".to_owned();
            return Err(Lost::Said("conflict", text).into());
        }
        match (source.submit(submit, "orch run").await, &submit.key) {
            (Ok(task), Some(key)) if submit.new_settings && task.status == Status::Blocked => {
                Ok(Following::new(&source.retry(key.as_str(), "orch run").await?))
            }
            (Ok(task), _) => Ok(Following::new(&task)),
            (Err(Lost::Said("conflict", text)), Some(key)) => {
                let detail = source.detail(key.as_str()).await?;
                if matches!(detail.task.status, Status::Done | Status::Cancelled) {
                    return Err(Lost::Said("conflict", text).into());
                }
                if let Some(others) = &detail.task.other_settings {
                    let text = format!(
                        "{key} was handed in with other settings than these (here: {others}): repeat the command that it was \
                         handed in with, or add --new-settings to go on with these, or --stop to stop it"
                    );
                    return Err(Lost::Said("conflict", text).into());
                }
                let title = show::short(&detail.task.title, 60);
                if detail.task.status == Status::Blocked {
                    out.note(&format!("{key} is live already (`{title}`) and blocked; it goes on once more"));
                    return Ok(Following::new(&source.retry(key.as_str(), "orch run").await?));
                }
                out.note(&format!("{key} is live already (`{title}`); following it"));
                Ok(Following::new(&detail.task))
            }
            (Err(lost), _) => Err(lost.into()),
        }
    }
}

/// What the last words need besides the task.
struct LastWords<'a> {
    /// Whether it was to be stopped.
    stop: bool,
    /// The data folder.
    data: &'a Path,
    /// Folders whose files did not move with main, each with the line that brings them along.
    left_behind: &'a [(String, String)],
    /// The exit code, where an interruption has set it already.
    exit: Option<u8>,
}

/// The last words: what became of it, where, how long, at what price, what a person has to do now; and the exit code.
fn summary(detail: &TaskDetail, words: &LastWords<'_>, out: &mut Output) -> Result<u8, CliError> {
    let task = &detail.task;
    let wanted = if words.stop { Status::Cancelled } else { Status::Done };
    let code = words.exit.unwrap_or_else(|| u8::from(task.status != wanted));
    if out.json {
        out.json_line(&serde_json::json!({"kind": "summary", "exit": code, "data": words.data, "task": detail}))?;
        return Ok(code);
    }
    out.line("")?;
    match (&task.landed, task.status) {
        (Some(landed), Status::Done) => out.line(&format!("done     {}: {} landed", task.key, landed.sha))?,
        (None, Status::Done) => out.line(&format!("done     {}: nothing had to land", task.key))?,
        _ => {
            let mut why = detail.why.waits_for.lines();
            let first = why.next().unwrap_or_default();
            out.line(&format!("{:8} {}: {first}", task.status.as_str(), task.key))?;
            for line in why.take(show::FINDINGS_IN_SHORT) {
                out.line(&format!("         {line}"))?;
            }
        }
    }
    if let (Status::Blocked, Some(findings)) = (task.status, &detail.findings) {
        // Whoever reads these words has the cause before them, and need not look for the place where it is kept.
        for (n, line) in show::findings(findings, show::FINDINGS_IN_SHORT).iter().enumerate() {
            out.line(&format!("{:8} {line}", if n == 0 { "findings" } else { "" }))?;
        }
    }
    if let Some(landed) = &task.landed {
        out.line(&format!(
            "where    {} of {}, with the tree {} that its gates have judged",
            task.main.as_ref().map_or("main", BranchName::as_str),
            task.repo,
            landed.tree.short()
        ))?;
    }
    let took = task.since.since(task.created);
    let attempts = &task.attempts;
    out.line(&format!(
        "took     {took}, {} of agent time, {} runs, {} sent back",
        task.agent_wall_ms,
        attempts.runs,
        attempts.developer_retries + attempts.conflicts
    ))?;
    out.line(&format!("spent    {}", show::spent(&task.usage)))?;
    // Nobody serves this folder once we are gone, so the domain's hint (a client verb) would find nobody.
    if task.status == Status::Blocked {
        out.line(&format!("you can  repeat the command with --key {}: it goes on where it is", task.key))?;
    }
    for (folder, command) in words.left_behind {
        out.line(&format!("then     bring the files of {folder} along, before anything is committed there:"))?;
        out.line(&format!("         {command}"))?;
    }
    Ok(code)
}
