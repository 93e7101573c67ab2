//! From `POST /tasks` to the agent's first act, beside a bare `git clone --shared` and a start of the same program.
//!
//! A repository of 3,000 files, a mirror that is warm, a free slot, confinement on. The agent's first act is to say what
//! time it is; both sides are measured from the call to that time. Each task is stopped, and its receipt awaited, before
//! the next one, so that only one thing happens at a time. Rounds take turns.

#[path = "support/report.rs"]
mod report;
#[path = "support/scratch.rs"]
mod scratch;
#[path = "support/served.rs"]
mod served;
#[path = "support/supervisor.rs"]
mod supervisor;

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use orch_domain::task::Status;
use orch_domain::view::TaskDetail;

use report::{Outcome, Samples};
use scratch::Scratch;
use served::Served;
use supervisor::FIRST_ACT;

/// Files of the repository.
const FILES: usize = 3_000;
/// Rounds that count; one more goes before them.
const ROUNDS: usize = 9;
/// Longest wait for anything.
const LONGEST: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    report::end(run())
}

fn run() -> Outcome {
    let scratch = Scratch::new("launch")?;
    let repo = supervisor::repository(scratch.path(), FILES)?;
    let settings = scratch.path().join("orch.yaml");
    supervisor::settings(&settings, &scratch.path().join("data"), &repo)?;
    let served = Served::start(&settings)?;
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let baseline = clone_and_start(&repo, &scratch.path().join(format!("clone{round}")))?;
        let launched = hand_in(&served, round)?;
        // The first round warms mirror and caches, for both.
        if round > 0 {
            bare.push(baseline);
            ours.push(launched);
        }
    }
    served.end()?;
    let ratio = Samples::of("times", ours.iter().zip(&bare).map(|(o, b)| o / b).collect());

    report::heading("launch: from POST /tasks to the agent's first act, 3,000 files");
    report::line("baseline", "git clone --shared, then the same program", &Samples::of("ms", bare));
    report::line("measured", "POST /tasks at orch serve", &Samples::of("ms", ours));
    report::line("ratio", "measured to baseline", &ratio);
    report::figure("launch to bare clone and start", ratio.median(), "at most 3", ratio.median() <= 3.0);
    Ok(())
}

fn now_ns() -> Result<i128, Box<dyn Error>> {
    Ok(i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

fn millis_between(begun: i128, stamp: &str) -> Result<f64, Box<dyn Error>> {
    let acted: i128 = stamp.trim().parse().map_err(|e| format!("`{}` is no time: {e}", stamp.trim()))?;
    Ok((acted - begun) as f64 / 1e6)
}

/// The baseline: a workspace made by hand, and the same program in it.
fn clone_and_start(repo: &Path, to: &Path) -> Result<f64, Box<dyn Error>> {
    let begun = now_ns()?;
    let (from, into) = (repo.to_string_lossy(), to.to_string_lossy());
    supervisor::git(repo, &["clone", "--quiet", "--shared", &from, &into])?;
    let mut agent = Command::new("sh").args(["-c", FIRST_ACT]).current_dir(to).stdout(Stdio::piped()).spawn()?;
    let mut stamp = String::new();
    let read = agent.stdout.take().map(|out| BufReader::new(out).read_line(&mut stamp));
    agent.kill()?;
    agent.wait()?;
    read.ok_or("the program's output is not there")??;
    std::fs::remove_dir_all(to)?;
    millis_between(begun, &stamp)
}

/// One task: handed in, its agent's first act, stopped, gone.
fn hand_in(served: &Served, round: usize) -> Result<f64, Box<dyn Error>> {
    let begun = now_ns()?;
    let task =
        served.ask("POST", "/tasks", &serde_json::json!({"title": format!("Add button {round}")}).to_string())?;
    let key = task["key"].as_str().ok_or("the answer names no key")?;
    // The time itself is what the agent said.
    let stamp = until(|| {
        let page = served.ask("GET", &format!("/tasks/{key}/log"), "")?;
        Ok(page["text"].as_str().and_then(|text| text.lines().next()).map(str::to_owned))
    });
    let stamp = stamp.map_err(|e| match served.ask("GET", &format!("/tasks/{key}"), "") {
        Ok(task) => format!("no agent: {e}: {task}"),
        Err(error) => format!("no agent: {e}: {error}"),
    })?;
    served.ask("POST", &format!("/tasks/{key}/stop"), "")?;
    until(|| {
        let task: TaskDetail = serde_json::from_value(served.ask("GET", &format!("/tasks/{key}"), "")?)?;
        Ok((task.task.status == Status::Cancelled).then_some(()))
    })?;
    millis_between(begun, &stamp)
}

/// Looks until there is something. Looking costs the supervisor time, so it is done seldom.
fn until<T>(mut look: impl FnMut() -> Result<Option<T>, Box<dyn Error>>) -> Result<T, Box<dyn Error>> {
    let (_hold, never) = mpsc::channel::<()>();
    let begun = Instant::now();
    while begun.elapsed() < LONGEST {
        if let Some(found) = look()? {
            return Ok(found);
        }
        // Nobody sends: it ends by its timeout.
        let _ = never.recv_timeout(Duration::from_millis(50));
    }
    Err(format!("nothing came in {} s", LONGEST.as_secs()).into())
}
