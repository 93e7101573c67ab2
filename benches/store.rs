//! Durable state changes by 64 concurrent committers, beside one commit per change on the same disk.
//!
//! One change is what an actor commits: the whole task, a journal entry and an outgoing effect, flushed before it is
//! answered. Baselines: plain SQL with one transaction for each change, and the store with one committer that waits for
//! every answer. The faster of the two is what the figure is held against. Rounds take turns, so that a disk or a
//! neighbour that changes its mind meets all of them.

#[path = "support/report.rs"]
mod report;
#[path = "support/scratch.rs"]
mod scratch;
#[path = "support/seed.rs"]
mod seed;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use orch_domain::effect::Outgoing;
use orch_domain::ids::{Epoch, Version};
use orch_domain::journal::Entry;
use orch_domain::task::{Blocked, State, Step, Task};
use orch_store::{Change, DB_FILE, Store, StoreConfig};
use rusqlite::{Connection, params};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use report::{Outcome, Samples};
use scratch::Scratch;
use seed::NOW;

/// Committers at a time.
const COMMITTERS: usize = 64;
/// Rounds of each way.
const ROUNDS: usize = 5;
/// Length of one.
const ROUND: Duration = Duration::from_secs(2);

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    report::end(run())
}

fn run() -> Outcome {
    let runtime = Runtime::new()?;
    let scratch = Scratch::new("store")?;
    let (ours, plain) = (scratch.path().join("ours"), scratch.path().join("plain"));
    let store = open(&runtime, &ours)?;
    open(&runtime, &plain)?.close();
    let conn = connect(&plain)?;
    let owned = |n| own(&store, n);
    let mut owners: Vec<Owned> = (0..COMMITTERS).map(|n| runtime.block_on(owned(n))).collect::<Result<_, _>>()?;
    let mut by_hand = Owned { task: owners[0].task.clone(), version: Version(1), epoch: Epoch(0) };

    let (mut grouped, mut lone, mut bare, mut full) = (Vec::new(), Vec::new(), Vec::new(), (0, 0));
    for _ in 0..ROUNDS {
        bare.push(one_by_one(&conn, &mut by_hand).map_err(|e| e.to_string())?);
        lone.push(runtime.block_on(together(&store, &mut owners[..1])).map_err(|e| e.to_string())?);
        let before = store.stats();
        grouped.push(runtime.block_on(together(&store, &mut owners)).map_err(|e| e.to_string())?);
        let after = store.stats();
        full = (full.0 + after.groups - before.groups, full.1 + after.changes - before.changes);
    }
    let stats = store.stats();
    let ratios = |of: &[f64]| Samples::of("times", grouped.iter().zip(of).map(|(g, b)| g / b).collect());
    let (to_bare, to_lone) = (ratios(&bare), ratios(&lone));

    report::heading("store: durable state changes (task, journal entry and effect in one flushed transaction)");
    let size = serde_json::to_vec(&owners[0].task)?.len() as f64;
    report::line("also", "what a change rewrites of its task", &Samples::of("bytes", vec![size]));
    report::line("baseline", "plain SQL, one commit per change", &Samples::of("changes/s", bare));
    report::line("baseline", "Store::commit, one committer that waits", &Samples::of("changes/s", lone));
    report::line("measured", "Store::commit, 64 committers", &Samples::of("changes/s", grouped));
    report::line("also", "largest group", &Samples::of("changes", vec![stats.largest_group as f64]));
    let each = full.1 as f64 / full.0 as f64;
    report::line("also", "changes in a group, of 64 committers", &Samples::of("changes", vec![each]));
    report::line("ratio", "to plain SQL", &to_bare);
    report::line("ratio", "to one committer", &to_lone);
    let ratio = to_bare.median().min(to_lone.median());
    report::figure("64 committers to one commit per change", ratio, "at least 10", ratio >= 10.0);
    store.close();
    Ok(())
}

fn state() -> State {
    State::Blocked { why: Blocked::InterruptedTooOften, then: Step::Agent, since: NOW }
}

fn open(runtime: &Runtime, dir: &Path) -> Result<Store, Box<dyn Error>> {
    let store = Store::open(&StoreConfig::new(dir, NOW))?;
    runtime.block_on(seed::seed(&store, COMMITTERS, &state())).map_err(|e| e.to_string())?;
    Ok(store)
}

/// A task with what is needed to change it.
struct Owned {
    task: Task,
    version: Version,
    epoch: Epoch,
}

async fn own(store: &Store, n: usize) -> Result<Owned, Box<dyn Error>> {
    let id = seed::task(n, &state()).map_err(|e| e.to_string())?.id;
    let stored = store.own_task(&id, NOW).await?;
    Ok(Owned { task: stored.task, version: stored.version, epoch: stored.epoch })
}

fn entry() -> Entry {
    Entry::new("run-ended", "attempt ended without what it had to leave: the report is missing")
}

fn outgoing() -> Outgoing {
    Outgoing::Comment { text: "The attempt left no report; it is sent back to development.".to_owned() }
}

/// Changes per second when each owner commits one change after the other, all at once.
async fn together(store: &Store, owners: &mut [Owned]) -> Fallible<f64> {
    let mut hands = JoinSet::new();
    let begun = Instant::now();
    for owned in owners.iter_mut() {
        let (store, mut task) = (store.clone(), owned.task.clone());
        let (mut version, epoch) = (owned.version, owned.epoch);
        let id = task.id.clone();
        hands.spawn(async move {
            let mut count = 0_u64;
            while begun.elapsed() < ROUND {
                task.counters.runs += 1;
                let change = Change {
                    task: task.clone(),
                    version,
                    epoch,
                    entries: vec![entry()],
                    outgoing: vec![outgoing()],
                    forward: true,
                    now: NOW,
                };
                version = store.commit(change).await?;
                count += 1;
            }
            Fallible::Ok((id, version, count))
        });
    }
    let mut total = 0;
    while let Some(hand) = hands.join_next().await {
        let (id, version, count) = hand??;
        total += count;
        if let Some(owned) = owners.iter_mut().find(|o| o.task.id == id) {
            owned.version = version;
        }
    }
    Ok(total as f64 / begun.elapsed().as_secs_f64())
}

fn connect(dir: &Path) -> Result<Connection, rusqlite::Error> {
    let conn = Connection::open(dir.join(DB_FILE))?;
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    conn.set_prepared_statement_cache_capacity(16);
    Ok(conn)
}

/// Changes per second with plain SQL: the same rows, one transaction each.
fn one_by_one(conn: &Connection, owned: &mut Owned) -> Fallible<f64> {
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < ROUND {
        owned.task.counters.runs += 1;
        change_by_hand(conn, owned)?;
        owned.version = owned.version.next();
        count += 1;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

fn change_by_hand(conn: &Connection, owned: &Owned) -> Fallible<()> {
    let (task, out, entry) = (&owned.task, outgoing(), entry());
    let (body, effect) = (serde_json::to_string(task)?, serde_json::to_string(&out)?);
    let id = task.id.as_str();
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    conn.prepare_cached(
        "INSERT INTO journal (at, task, prev, key, generation, repo, stage, kind, text)
         VALUES (?1, ?2, (SELECT journal_last FROM tasks WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        NOW.0,
        id,
        task.key.as_str(),
        task.generation.0,
        task.repo.as_str(),
        task.stage.as_str(),
        entry.kind,
        entry.text
    ])?;
    let last = conn.last_insert_rowid();
    let changed = conn
        .prepare_cached(
            "UPDATE tasks SET stage = ?2, status = ?3, body = ?4, version = version + 1, updated_at = ?5, journal_last = ?8
             WHERE id = ?1 AND version = ?6 AND epoch = ?7 AND done_at IS NULL AND cancelled_at IS NULL
               AND cancel_requested_at IS NULL",
        )?
        .execute(params![
            id,
            task.stage.as_str(),
            task.status().as_str(),
            body,
            NOW.0,
            owned.version.0,
            owned.epoch.0,
            last
        ])?;
    if changed != 1 {
        return Err(format!("the row of {id} was changed {changed} times instead of once").into());
    }
    conn.prepare_cached("INSERT INTO outbox (key, task, kind, payload, created_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![out.key(&task.id, owned.version.next().0, 0), id, out.kind(), effect, NOW.0])?;
    conn.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}
