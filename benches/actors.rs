//! Ten thousand live idle TaskActors: what each holds resident, and how long a start takes that re-owns them all.
//!
//! Each measurement is a process of its own: this program again, with a whole supervisor in it (store, lanes, gate pool,
//! reconciler). The tasks are seeded through the store and wait for something that keeps no timer: for a person, or for
//! an agent slot where there is none. Baselines: the empty supervisor, as many bare actors, and reading as many rows.

#[path = "support/process.rs"]
mod process;
#[path = "support/report.rs"]
mod report;
#[path = "support/scratch.rs"]
mod scratch;
#[path = "support/seed.rs"]
mod seed;
#[path = "support/supervisor.rs"]
mod supervisor;

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use orch::engine::{self, Guard};
use orch_actors::api::Control as _;
use orch_actors::handle::Handle;
use orch_actors::router::RouterMsg;
use orch_domain::stop::Level;
use orch_domain::task::{Blocked, State, Step, WaitFor};
use orch_store::{Store, StoreConfig};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use report::{Outcome, Samples};
use scratch::Scratch;
use seed::NOW;

/// How many tasks.
const TASKS: usize = 10_000;
/// Runs of each measurement.
const RUNS: usize = 3;
/// Longest wait for anything.
const LONGEST: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["child", "supervisor", tasks, dir] => child_supervisor(tasks, Path::new(dir)),
        ["child", "bare"] => child_bare(),
        ["child", "rows", dir] => child_rows(Path::new(dir)),
        _ => run(),
    };
    report::end(outcome)
}

fn run() -> Outcome {
    let scratch = Scratch::new("actors")?;
    supervisor::repository(scratch.path(), 1)?;
    let blocked = State::Blocked { why: Blocked::InterruptedTooOften, then: Step::Agent, since: NOW };
    let queued = State::Waiting { on: WaitFor::Slot, then: Step::Agent, since: NOW };
    for (name, state) in [("blocked", &blocked), ("queued", &queued)] {
        let store = Store::open(&StoreConfig::new(scratch.path().join(name), NOW))?;
        Runtime::new()?.block_on(seed::seed(&store, TASKS, state)).map_err(|e| e.to_string())?;
        store.close();
    }
    let dir = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    let empty = measure(&["child", "supervisor", "0", &dir("empty")])?;
    let bare = measure(&["child", "bare"])?;
    let rows = measure(&["child", "rows", &dir("blocked")])?;

    report::heading("actors: 10,000 live idle TaskActors in one supervisor");
    let mib = |bytes: &[f64]| Samples::of("MiB", bytes.iter().map(|b| b / 1_048_576.0).collect());
    let none = Samples::of("MiB", empty.bytes.clone()).median();
    let each =
        |bytes: &[f64]| Samples::of("KiB each", bytes.iter().map(|b| (b - none) / 1024.0 / TASKS as f64).collect());
    report::line("baseline", "the empty supervisor, resident", &mib(&empty.bytes));
    report::line("baseline", "the empty supervisor, start", &Samples::of("ms", empty.millis));
    let bare_each = bare.bytes.iter().map(|b| b / 1024.0 / TASKS as f64).collect();
    report::line("baseline", "bare actors of the same library", &Samples::of("KiB each", bare_each));
    report::line("baseline", "bare actors, start", &Samples::of("ms", bare.millis));
    report::line("baseline", "reading 10,000 rows through the store", &Samples::of("ms", rows.millis));
    let (mut most, mut longest) = (f64::MIN, f64::MIN);
    for (name, what) in [("blocked", "waiting for a person"), ("queued", "waiting for a slot")] {
        let seen = measure(&["child", "supervisor", &TASKS.to_string(), &dir(name)])?;
        let (each, millis) = (each(&seen.bytes), Samples::of("ms", seen.millis));
        report::line("measured", &format!("{what}: resident over the empty one"), &each);
        report::line("measured", &format!("{what}: start until all are up"), &millis);
        most = most.max(each.median());
        longest = longest.max(millis.median());
    }
    report::figure("resident for each idle TaskActor, KiB", most, "at most 16", most <= 16.0);
    report::figure("start that re-owns 10,000 tasks, ms", longest, "at most 2000", longest <= 2_000.0);
    Ok(())
}

/// What children said.
#[derive(Default)]
struct Seen {
    millis: Vec<f64>,
    bytes: Vec<f64>,
}

fn measure(args: &[&str]) -> Result<Seen, Box<dyn Error>> {
    let mut seen = Seen::default();
    for _ in 0..RUNS {
        let out = process::again(args)?.output()?;
        let said = String::from_utf8_lossy(&out.stdout);
        let (Some((millis, bytes)), true) = (said.trim().split_once(' '), out.status.success()) else {
            return Err(format!("`{}` ended with {}: {}", args.join(" "), out.status, said.trim()).into());
        };
        seen.millis.push(millis.parse()?);
        seen.bytes.push(bytes.parse()?);
    }
    Ok(seen)
}

fn say(took: Duration, bytes: f64) -> Outcome {
    Ok(writeln!(std::io::stdout(), "{} {bytes}", took.as_secs_f64() * 1_000.0)?)
}

/// A supervisor over a seeded data folder.
fn child_supervisor(tasks: &str, dir: &Path) -> Outcome {
    let tasks: usize = tasks.parse()?;
    let repo = dir.parent().unwrap_or(dir).join("shop");
    let mut config = supervisor::settings(&dir.with_extension("yaml"), dir, &repo)?;
    // Nobody gets a slot: whoever waits for one goes on waiting.
    config.limits.max_concurrency = 0;
    Runtime::new()?.block_on(async {
        let begun = Instant::now();
        let guard = Guard { program: PathBuf::from(env!("CARGO_BIN_EXE_orch")), args: vec!["shim".to_owned()] };
        let running = engine::start(&config, &supervisor::env(), guard).await?;
        let handle = running.handle();
        all_up(&handle, tasks).await?;
        let took = begun.elapsed();
        say(took, resident_at_rest().await?)?;
        running.shutdown(Level::Kill, Duration::ZERO).await;
        Ok(())
    })
}

/// Returns once every task's actor has taken its task over and the router has heard what they asked for at once.
async fn all_up(handle: &Handle, tasks: usize) -> Outcome {
    // Looking costs the supervisor time: seldom enough not to count, often enough for two seconds.
    let mut clock = interval(Duration::from_millis(40));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = Instant::now();
    loop {
        let up = handle.actors().await?.iter().filter(|a| a.name.starts_with("task ")).count();
        if up >= tasks {
            break;
        }
        if begun.elapsed() > LONGEST {
            return Err(format!("{up} of {tasks} actors were up after {} s", LONGEST.as_secs()).into());
        }
        clock.tick().await;
    }
    let (reply, running) = oneshot::channel();
    if !handle.directory().tell_router(RouterMsg::Running { reply }) || running.await?.len() != tasks {
        return Err("the router does not know all tasks".into());
    }
    Ok(())
}

/// Resident memory of this process once it has stopped changing.
async fn resident_at_rest() -> Result<f64, Box<dyn Error>> {
    let mut clock = interval(Duration::from_millis(250));
    let (mut last, mut calm, begun) = (0.0_f64, 0, Instant::now());
    while calm < 6 && begun.elapsed() < Duration::from_secs(15) {
        clock.tick().await;
        let now = process::resident(std::process::id())?;
        calm = if (now - last).abs() <= last * 0.002 { calm + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

/// An actor that does nothing and knows nothing.
struct Bare;

impl Actor for Bare {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// As many bare actors below one parent; what they hold over the process without them.
fn child_bare() -> Outcome {
    Runtime::new()?.block_on(async {
        let (parent, _) = Actor::spawn(None, Bare, ()).await?;
        let before = process::resident(std::process::id())?;
        let begun = Instant::now();
        let mut children = Vec::with_capacity(TASKS);
        for _ in 0..TASKS {
            children.push(Actor::spawn_linked(None, Bare, (), parent.get_cell()).await?);
        }
        let took = begun.elapsed();
        say(took, resident_at_rest().await? - before)?;
        drop(children);
        Ok(())
    })
}

/// Reading the rows of all live tasks, and nothing else.
fn child_rows(dir: &Path) -> Outcome {
    let store = Store::open(&StoreConfig::new(dir, NOW))?;
    Runtime::new()?.block_on(async {
        let begun = Instant::now();
        let rows = store.live_tasks().await?;
        let took = begun.elapsed();
        if rows.len() != TASKS {
            return Err(format!("{} rows instead of {TASKS}", rows.len()).into());
        }
        say(took, process::resident(std::process::id())?)
    })
}
