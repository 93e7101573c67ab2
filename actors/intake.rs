//! Intake: from a tracker's transition to a new life of a task. One way in, for the board, the HTTP interface and boot.
//!
//! Owns the rule that a move to "To Analyse" starts a life and that each transition does so at most once; that the level
//! of a state alone starts nothing; that STOP on the board stops the live task. Everything is durable before it is
//! acknowledged: an item that was put on the board but not taken up before a crash is taken up by the next pass.

use orch_adapters::git::Owner;
use orch_adapters::ports::TrackerState;
use orch_domain::ids::TaskId;
use orch_domain::journal::Entry;
use orch_domain::names::{RepoName, TaskKey};
use orch_domain::pipeline::{RepoCommand, Work};
use orch_domain::policy::pin_hash;
use orch_domain::task::{NewTask, StopMark, Task};
use orch_store::{
    BoardItem, BoardTransition, Change, CreateError, Delivered, Moved, NewBoardItem, StopRecorded, StoreError,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{ControlError, Submit};
use crate::bound;
use crate::context::Context;
use crate::directory::Directory;
use crate::gates::checks::untestable;
use crate::ids::mint;
use crate::router::RouterMsg;

/// Longest title in characters.
const TITLE: usize = 500;
/// Longest description in bytes.
const BODY: usize = 256 << 10;
/// How often a move is tried while the board is moved by others.
const MOVES: usize = 8;
/// Most dependencies of one task.
const DEPENDENCIES: usize = 50;

fn internal(error: impl std::fmt::Display) -> ControlError {
    ControlError::Internal(error.to_string())
}

fn store_error(error: StoreError) -> ControlError {
    match error {
        StoreError::DiskFull => ControlError::Unavailable(error.to_string()),
        other => internal(other),
    }
}

/// Puts a task on the board and starts it. Durable when this returns.
pub async fn submit(ctx: &Context, directory: &Directory, submit: Submit, by: &str) -> Result<Task, ControlError> {
    let plan = check(ctx, &submit).await?;
    let now = ctx.now();
    let item_id = match &submit.idempotency_key {
        Some(key) => format!("once-{}", &hex::encode(Sha256::digest(key.as_bytes()))[..24]),
        None => mint::<TaskId>("b").to_string(),
    };
    if submit.idempotency_key.is_some()
        && let Some(task) = newest_of_item(ctx, &item_id).await?
    {
        return Ok(task);
    }
    if let (true, Some(key)) = (submit.new_settings, &submit.key)
        && let Some(live) = live_of(ctx, key).await?
    {
        return take_over(ctx, directory, live, by).await;
    }
    let existing = existing_item(ctx, submit.key.as_ref()).await?;
    let key = match (&existing, submit.key) {
        (Some(item), _) => item.key.clone(),
        (None, Some(key)) => key,
        (None, None) => ctx.store.mint_key(&ctx.key_prefix).await.map_err(store_error)?,
    };
    let item = NewBoardItem {
        id: existing.as_ref().map_or_else(|| item_id.clone(), |item| item.id.clone()),
        key,
        title: submit.title.trim().to_owned(),
        body: submit.body,
        repo: plan.repo,
        state: TrackerState::ToAnalyse.name().to_owned(),
        priority: submit.priority,
        extra: plan.extra,
        by: by.to_owned(),
    };
    let transition = match existing {
        Some(existing) => move_again(ctx, &existing, item).await?,
        None => ctx.store.tracker_add_item(item, now).await.map_err(store_error)?,
    };
    let transitions = ctx.store.tracker_transitions_after(transition - 1, 1).await.map_err(store_error)?;
    let Some(transition) = transitions.into_iter().find(|t| t.id == transition) else {
        return Err(internal("the board's newest transition is not there"));
    };
    if !take_up(ctx, directory, &transition).await? {
        // A pass over the board has it in hand just now: whoever comes second waits for its life by beginning it too.
        act_on(ctx, directory, &transition).await?;
    }
    newest_of_item(ctx, &transition.item)
        .await?
        .ok_or_else(|| internal("the task was put on the board, but its life is not there"))
}

struct Planned {
    repo: RepoName,
    extra: Value,
}

/// Everything that can be wrong with a request, said before anything is stored.
async fn check(ctx: &Context, submit: &Submit) -> Result<Planned, ControlError> {
    let invalid = |text: String| Err(ControlError::Invalid(text));
    if submit.title.trim().is_empty() {
        return invalid("the title is empty: say in one line what is to be done".to_owned());
    }
    if submit.title.chars().count() > TITLE {
        return invalid(format!("the title has more than {TITLE} characters: put the details into the body"));
    }
    if submit.body.len() > BODY {
        return invalid(format!("the body has {} bytes; at most {BODY} are taken", submit.body.len()));
    }
    for (what, text) in [("title", &submit.title), ("body", &submit.body)] {
        if text.contains('\0') {
            return invalid(format!("the {what} holds a NUL character: remove it"));
        }
    }
    let names: Vec<&str> = ctx.repos.keys().map(RepoName::as_str).collect();
    let repo = match (&submit.repo, names.len()) {
        (Some(name), _) if ctx.repo(name).is_some() => name.clone(),
        (Some(name), _) => {
            return invalid(format!("repository `{name}` is not configured; known: {}", names.join(", ")));
        }
        (None, 1) => ctx.repos.keys().next().cloned().ok_or_else(|| internal("no repository"))?,
        (None, _) => return invalid(format!("say which repository: one of {}", names.join(", "))),
    };
    if let Some(name) = &submit.pipeline
        && !ctx.pipelines.contains_key(name)
    {
        let known: Vec<&str> = ctx.pipelines.keys().map(String::as_str).collect();
        return invalid(format!("pipeline `{name}` is not known; known: {}", known.join(", ")));
    }
    if let Some(name) = &submit.agent
        && !ctx.agents.contains_key(name)
    {
        let known: Vec<&str> = ctx.agents.keys().map(String::as_str).collect();
        return invalid(format!("agent `{name}` is not configured; known: {}", known.join(", ")));
    }
    if submit.depends_on.len() > DEPENDENCIES {
        return invalid(format!("{} dependencies; at most {DEPENDENCIES} are taken", submit.depends_on.len()));
    }
    if let Some(key) = &submit.key {
        refuse_cycle(ctx, key, &submit.depends_on).await?;
    }
    for key in &submit.depends_on {
        if ctx.store.tracker_item_by_key(key).await.map_err(store_error)?.is_none() {
            return invalid(format!("it is to wait for {key}, but there is no task `{key}`: hand that one in first"));
        }
    }
    if ctx.settings.is_some() {
        tests_are_there(ctx, &repo, submit.pipeline.as_deref()).await?;
    }
    let extra = json!({
        "pipeline": submit.pipeline, "agent": submit.agent, "depends_on": submit.depends_on, "settings": ctx.settings,
    });
    Ok(Planned { repo, extra })
}

/// Refuses a task whose tests nobody knows, before an agent is paid for it: of an `orch run`, whose settings are those of
/// its command line.
async fn tests_are_there(ctx: &Context, repo: &RepoName, pipeline: Option<&str>) -> Result<(), ControlError> {
    let Some(runtime) = ctx.repo(repo) else { return Ok(()) };
    let pipeline = ctx.pipelines.get(pipeline.unwrap_or(&runtime.settings.pipeline));
    let tests = Work::Command { command: RepoCommand::Test };
    if !pipeline.is_some_and(|pipeline| pipeline.stages.iter().any(|stage| stage.work == tests)) {
        return Ok(());
    }
    // What cannot be asked now is said when it is needed.
    let Ok(main) = runtime.main().await else { return Ok(()) };
    let git = runtime.git.for_owner(Owner::default());
    let Ok(base) = git.fetch_main(&main).await else { return Ok(()) };
    match untestable(ctx, runtime, &base).await {
        Some(why) => Err(ControlError::Invalid(why)),
        None => Ok(()),
    }
}

/// Refuses dependencies that lead back to the task itself.
async fn refuse_cycle(ctx: &Context, key: &TaskKey, depends_on: &[TaskKey]) -> Result<(), ControlError> {
    let live = ctx.store.live_tasks().await.map_err(store_error)?;
    let (mut open, mut seen) = (depends_on.to_vec(), std::collections::BTreeSet::new());
    while let Some(next) = open.pop() {
        if next == *key {
            return Err(ControlError::Invalid(format!(
                "the dependencies of {key} lead back to {key} itself; remove one of them"
            )));
        }
        if seen.insert(next.clone()) {
            let of_next = live.iter().filter(|s| s.task.key == next).flat_map(|s| s.task.depends_on.clone());
            open.extend(of_next);
        }
    }
    Ok(())
}

async fn existing_item(ctx: &Context, key: Option<&TaskKey>) -> Result<Option<BoardItem>, ControlError> {
    match key {
        Some(key) => ctx.store.tracker_item_by_key(key).await.map_err(store_error),
        None => Ok(None),
    }
}

/// A key that is on the board already begins a new life, if its last one is closed: with the words of this request.
async fn move_again(ctx: &Context, item: &BoardItem, revised: NewBoardItem) -> Result<i64, ControlError> {
    let lives = ctx.store.tasks_by_key(&item.key).await.map_err(store_error)?;
    if let Some(live) = lives.iter().find(|s| !s.task.is_terminal()) {
        return Err(ControlError::Conflict(format!(
            "{} is live ({} in {}); stop it first, or use another key",
            item.key,
            live.task.status().as_str(),
            live.task.stage
        )));
    }
    let (to, by, now) = (TrackerState::ToAnalyse.name(), revised.by.clone(), ctx.now());
    ctx.store.tracker_revise(revised, now).await.map_err(store_error)?;
    // What is shown of the life before may arrive just now: the board is read as it is then.
    let mut seen = item.state.clone();
    for _ in 0..MOVES {
        match ctx.store.tracker_move(&item.id, to, &by, Some(&seen), now).await.map_err(store_error)? {
            Moved::Moved(transition) => return Ok(transition),
            Moved::Elsewhere { state } if state != to => seen = state,
            Moved::AlreadyThere | Moved::Elsewhere { .. } => break,
        }
    }
    Err(ControlError::Conflict(format!("{} is being moved on the board just now; look again", item.key)))
}

async fn live_of(ctx: &Context, key: &TaskKey) -> Result<Option<Task>, ControlError> {
    let lives = ctx.store.tasks_by_key(key).await.map_err(store_error)?;
    Ok(lives.into_iter().map(|s| s.task).find(|t| !t.is_terminal()))
}

/// Gives a task that is left alone the settings of here, since a person says so. Its pins stay: pipeline and policy are
/// those that it was handed in with.
async fn take_over(ctx: &Context, directory: &Directory, task: Task, by: &str) -> Result<Task, ControlError> {
    let Some(others) = bound::others(ctx, &task) else {
        return Err(ControlError::Conflict(format!("{} is live, and with these very settings", task.key)));
    };
    // Nobody has it: what is left alone has no actor.
    let owned = ctx.store.own_task(&task.id, ctx.now()).await.map_err(store_error)?;
    let next = Task { settings: ctx.settings.clone(), ..owned.task };
    let text = format!("goes on with the settings of another run, as {by} wants it: {others}");
    let change = Change {
        task: next.clone(),
        version: owned.version,
        epoch: owned.epoch,
        entries: vec![Entry::new("settings-changed", text)],
        outgoing: Vec::new(),
        forward: true,
        now: ctx.now(),
    };
    ctx.store.commit(change).await.map_err(internal)?;
    directory.tell_router(RouterMsg::Start { task: next.id.clone() });
    Ok(next)
}

async fn newest_of_item(ctx: &Context, item: &str) -> Result<Option<Task>, ControlError> {
    let lives = ctx.store.tasks_by_item(item).await.map_err(store_error)?;
    Ok(lives.into_iter().map(|s| s.task).max_by_key(|t| t.generation))
}

/// Acts on one transition of the board, once. Returns whether it was this call: if not, another has it in hand or is done.
pub async fn take_up(ctx: &Context, directory: &Directory, transition: &BoardTransition) -> Result<bool, ControlError> {
    let now = ctx.now();
    let hash = format!("transition-{}", transition.id);
    let body = transition.id.to_string();
    let delivered = ctx.store.accept_delivery("board", &hash, &body, now).await.map_err(store_error)?;
    let Delivered::First { id } = delivered else { return Ok(false) };
    act_on(ctx, directory, transition).await?;
    ctx.store.inbox_done(id, "taken up", ctx.now()).await.map_err(store_error)?;
    Ok(true)
}

/// Acts on a transition; repeating is harmless, since a life consumes the transition that begins it.
pub async fn act_on(ctx: &Context, directory: &Directory, transition: &BoardTransition) -> Result<(), ControlError> {
    let Some(item) = ctx.store.tracker_item(&transition.item).await.map_err(store_error)? else { return Ok(()) };
    if transition.to == TrackerState::ToAnalyse.name() {
        return begin_life(ctx, directory, &item, transition).await;
    }
    if transition.to == TrackerState::Stop.name() && ctx.stop_status {
        for stored in ctx.store.tasks_by_item(&item.id).await.map_err(store_error)? {
            if !stored.task.is_terminal() {
                stop(ctx, directory, &stored.task, &transition.by, "tracker").await?;
            }
        }
    }
    Ok(())
}

async fn begin_life(
    ctx: &Context,
    directory: &Directory,
    item: &BoardItem,
    transition: &BoardTransition,
) -> Result<(), ControlError> {
    let Some(repo) = ctx.repo(&item.repo) else {
        return Err(ControlError::Invalid(format!("repository `{}` is not configured any more", item.repo)));
    };
    let text = |name: &str| item.extra.get(name).and_then(Value::as_str).map(str::to_owned);
    let settings = text("settings");
    if ctx.settings.is_some() && settings != ctx.settings {
        return Err(ControlError::Conflict(format!(
            "{} was handed in with other settings and is not begun with these; it waits on the board",
            item.key
        )));
    }
    let pipeline = text("pipeline").unwrap_or_else(|| repo.settings.pipeline.clone());
    let pipeline = ctx.pipelines.get(&pipeline).cloned().ok_or_else(|| {
        ControlError::Invalid(format!(
            "pipeline `{pipeline}` is not configured any more; {} waits on the board",
            item.key
        ))
    })?;
    let depends_on = item.extra.get("depends_on").cloned().map(serde_json::from_value).transpose().map_err(internal)?;
    loop {
        let generation = ctx.store.next_generation(&item.key).await.map_err(store_error)?;
        let mut task = Task::new(
            NewTask {
                id: mint("t"),
                key: item.key.clone(),
                generation,
                repo: item.repo.clone(),
                title: item.title.clone(),
                body: item.body.clone(),
                tracker_item: Some(item.id.clone()),
                priority: item.priority.saturating_add(repo.settings.priority),
                depends_on: depends_on.clone().unwrap_or_default(),
                pipeline: pipeline.clone(),
                policy: repo.settings.policy.clone(),
                agent: text("agent"),
            },
            ctx.now(),
        );
        task.main.clone_from(&repo.settings.main);
        task.settings.clone_from(&settings);
        let entry = Entry::new("submitted", format!("accepted from {}: {}", transition.by, item.title)).with(json!({
            "pipeline": task.pipeline.name, "pipeline_hash": pin_hash(&*task.pipeline), "policy_hash": pin_hash(&*task.policy),
            "transition": transition.id, "branch": task.branch(),
        }));
        let consume = Some(format!("board:{}", transition.id));
        match ctx.store.create_task(&task, vec![entry], Vec::new(), consume, ctx.now()).await {
            Ok(_) => {
                // Not heard while the router is being restarted: it starts every live task by itself.
                directory.tell_router(RouterMsg::Start { task: task.id });
                return Ok(());
            }
            // By an earlier try.
            Err(CreateError::AlreadyConsumed { .. }) => return Ok(()),
            // A second move to the same state starts nothing, now or when the live one has ended.
            Err(CreateError::AlreadyLive { .. }) => {
                let transition = format!("board:{}", transition.id);
                ctx.store.consume_transition(&transition, ctx.now()).await.map_err(store_error)?;
                return Ok(());
            }
            Err(CreateError::GenerationTaken { .. }) => {}
            Err(CreateError::Store(error)) => return Err(store_error(error)),
        }
    }
}

/// Records a STOP and begins to carry it out. Returns whether this was the first.
pub async fn stop(
    ctx: &Context,
    directory: &Directory,
    task: &Task,
    by: &str,
    source: &str,
) -> Result<bool, ControlError> {
    let mark = StopMark { at: ctx.now(), by: by.to_owned(), source: source.to_owned() };
    let recorded = ctx.store.record_stop(&task.id, mark).await.map_err(store_error)?;
    if recorded == StopRecorded::Terminal {
        return Ok(false);
    }
    // Durable now; should nobody hear this, the task's actor finds the mark when it resumes.
    directory.deliver(&task.id, orch_domain::event::Event::StopRequested { by: by.to_owned() });
    Ok(recorded == StopRecorded::First)
}
