//! `orch serve` with nothing to do: processor time over twenty seconds, and resident memory.
//!
//! The children that it has waited for are counted in. Baseline: a bare runtime with one timer, as a process of its own.

#[path = "support/process.rs"]
mod process;
#[path = "support/report.rs"]
mod report;
#[path = "support/scratch.rs"]
mod scratch;
#[path = "support/served.rs"]
mod served;
#[path = "support/supervisor.rs"]
mod supervisor;

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ExitCode};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::time::interval;

use report::{Outcome, Samples};
use scratch::Scratch;
use served::Served;

/// How long is looked.
const WINDOW: Duration = Duration::from_secs(20);
/// Before it is: what belongs to the start is not idleness.
const SETTLE: Duration = Duration::from_secs(5);
/// The kernel's unit of processor time in `/proc`: a hundredth of a second on every Linux platform we build for.
const TICK: f64 = 0.01;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["child", "bare"] => child_bare(),
        _ => run(),
    };
    report::end(outcome)
}

fn run() -> Outcome {
    let scratch = Scratch::new("idle")?;
    let repo = supervisor::repository(scratch.path(), 100)?;
    let settings = scratch.path().join("orch.yaml");
    supervisor::settings(&settings, &scratch.path().join("data"), &repo)?;
    let served = Served::start(&settings)?;
    let ours = look(&served.child)?;
    served.end()?;
    let bare = watch_bare()?;

    report::heading("idle: orch serve with one repository and nothing to do, over 20 s");
    let one = |unit, value| Samples::of(unit, vec![value]);
    report::line("baseline", "bare runtime with a timer, processor", &one("%", bare.percent));
    report::line("baseline", "bare runtime with a timer, resident", &one("MiB", bare.mib));
    report::line("measured", "orch serve, processor", &one("%", ours.percent));
    report::line("measured", "orch serve, resident", &one("MiB", ours.mib));
    report::figure("idle processor time, %", ours.percent, "under 0.5", ours.percent < 0.5);
    report::figure("idle resident, MiB", ours.mib, "under 40", ours.mib < 40.0);
    Ok(())
}

/// What an idle process takes.
struct Seen {
    percent: f64,
    mib: f64,
}

/// The baseline: this program again, as a runtime with a timer.
fn watch_bare() -> Result<Seen, Box<dyn Error>> {
    let mut child = process::again(&["child", "bare"])?.spawn()?;
    let mut ready = String::new();
    BufReader::new(child.stdout.take().ok_or("the child has no output")?).read_line(&mut ready)?;
    let seen = match ready.trim() {
        "ready" => look(&child),
        other => Err(format!("the bare child said `{other}` instead of `ready`").into()),
    };
    // Its standard input closes: it ends by itself.
    drop(child.stdin.take());
    child.wait()?;
    seen
}

/// Lets a process settle, and looks at it twice.
fn look(child: &Child) -> Result<Seen, Box<dyn Error>> {
    let pid = child.id();
    pass(SETTLE);
    let (begun, before) = (Instant::now(), ticks(pid)?);
    pass(WINDOW);
    let (took, after) = (begun.elapsed().as_secs_f64(), ticks(pid)?);
    let percent = (after - before) * TICK / took * 100.0;
    Ok(Seen { percent, mib: process::resident(pid)? / 1_048_576.0 })
}

/// Lets time pass: here the time itself is what is waited for.
fn pass(time: Duration) {
    let (_hold, never) = mpsc::channel::<()>();
    // Nobody sends: it ends by its timeout.
    let _ = never.recv_timeout(time);
}

/// Processor time of a process and of the children it has waited for, in ticks.
fn ticks(pid: u32) -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything; what follows its closing parenthesis is plain: state first, times from the 12th on.
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no process name")?.1.split_whitespace().collect();
    let times = fields.get(11..15).ok_or("no processor times")?;
    times.iter().try_fold(0.0, |sum, t| Ok(sum + t.parse::<f64>()?))
}

fn child_bare() -> Outcome {
    Runtime::new()?.block_on(async {
        let timer = tokio::spawn(async {
            let mut clock = interval(Duration::from_secs(15));
            loop {
                clock.tick().await;
            }
        });
        let mut out = std::io::stdout();
        writeln!(out, "ready")?;
        out.flush()?;
        // Until the parent closes our standard input.
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        timer.abort();
        Ok(())
    })
}
