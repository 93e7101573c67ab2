//! From STOP to the last descendant's end, over the zoo of escapes, beside supervisord and pueue on the same trees.
//!
//! Ours: agents as the supervisor starts them, each under its guard, confined, in namespaces, with a control group where the
//! host has one. The last descendant is gone when the guard has seen it, which its record tells to the millisecond; told is
//! it when that record is on disk. An obeying tree is compared with the exit of its slowest process, as that process wrote
//! it down; one that ignores TERM with the grace. Rivals are asked for the same, and what they leave
//! alive is counted. Then a hundred jobs at once, the start of a job beside a bare one, and the guard by itself.

#[path = "support/report.rs"]
mod report;
#[path = "support/rival.rs"]
mod rival;
#[path = "support/scratch.rs"]
mod scratch;
#[path = "support/zoo.rs"]
mod zoo;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_adapters::jobs::{
    LocalPlacement, LocalPlacementConfig, Runner, RunningJob, UnrecordedLedger, become_subreaper,
};
use orch_adapters::ports::{Confinement, EndLevel, JobLimits, JobSpec, Placement as _};
use orch_domain::ids::Epoch;
use orch_domain::job::{JobKind, OnLoss};
use orch_domain::time::Millis;
use orch_shim::groups::Groups;
use orch_shim::spec::{Announcement, Beyond, Confine, Limits, ShimSpec};
use orch_test_support::rivals;

use report::{Outcome, Samples};
use rival::{Cage, Rival};
use scratch::Scratch;
use zoo::{Kind, MARK};

/// Rounds of each kind; the three that obey make 120 measurements, the others 160.
const ROUNDS: usize = 40;
/// Rounds of each kind under a rival.
const RIVAL_ROUNDS: usize = 5;
/// The grace for what ignores TERM.
const GRACE: Duration = Duration::from_millis(300);
/// Jobs that are stopped at once, and their grace.
const AT_ONCE: (usize, Duration) = (100, Duration::from_secs(1));
/// Starts of a job and of a guard.
const STARTS: usize = 100;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match args.as_slice() {
        [mode, kind, dir] if mode == "animal" => zoo::live(kind, Path::new(dir)),
        _ => report::end(run()),
    }
}

fn run() -> Outcome {
    become_subreaper()?;
    let scratch = Scratch::new("stop")?;
    // Built first: that takes minutes once, and none of it may fall into a measurement.
    let (supervisord, pueue) = (rivals::supervisord()?, rivals::pueue()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ours = Ours::new(scratch.path())?;
    let zoo = runtime.block_on(the_zoo(&ours))?;
    let theirs = [
        the_rival("supervisord", &scratch.path().join("sd"), |root, cages| {
            Rival::supervisord(&supervisord, root, cages)
        })?,
        the_rival("pueue", &scratch.path().join("pu"), |root, _| Rival::pueue(&pueue, root))?,
    ];
    say_zoo(&zoo, &theirs);
    runtime.block_on(at_once(&ours))?;
    runtime.block_on(starts(&ours, scratch.path()))?;
    guards(scratch.path())
}

/// The 99th of a hundred, by the nearest rank.
fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * 99).div_ceil(100);
    rank.checked_sub(1).and_then(|at| values.get(at)).copied().unwrap_or(f64::NAN)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Jobs as the supervisor starts its agents.
struct Ours {
    runner: Runner,
    root: PathBuf,
    program: PathBuf,
    sockets: PathBuf,
    made: std::sync::atomic::AtomicUsize,
}

impl Ours {
    fn new(root: &Path) -> Fallible<Self> {
        // Short, as the names of sockets have to be.
        let sockets = std::env::temp_dir().join(format!("orch-b{}", std::process::id()));
        let config = LocalPlacementConfig {
            shim_program: PathBuf::from(env!("CARGO_BIN_EXE_orch")),
            shim_args: vec!["shim".to_owned()],
            ..LocalPlacementConfig::new(root.join("jobs"), &sockets)
        };
        let placement = Arc::new(LocalPlacement::new(config)?);
        report::heading("stop: from STOP to the last descendant's end, and to the proof of it");
        for line in placement.capabilities() {
            report::heading(&format!("  host      {line}"));
        }
        let runner = Runner::new(placement, Arc::new(UnrecordedLedger));
        Ok(Self { runner, root: root.to_owned(), program: std::env::current_exe()?, sockets, made: Default::default() })
    }

    /// An animal's home, its mark and its job.
    fn job(&self, kind: &str, grace: Duration) -> Fallible<(PathBuf, String, JobSpec)> {
        let number = self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = format!("zoo{:05}x{number:05}", std::process::id());
        let dir = self.root.join("space").join(&id);
        fs::create_dir_all(&dir)?;
        let path = std::env::var("PATH")?;
        let spec = JobSpec {
            id: id.parse()?,
            kind: JobKind::Agent,
            task: None,
            run: None,
            epoch: Epoch(1),
            label: kind.to_owned(),
            argv: zoo::argv(kind, &dir)?,
            cwd: dir.clone(),
            env: BTreeMap::from([("PATH".to_owned(), path), (MARK.to_owned(), id.clone())]),
            stdin: Vec::new(),
            limits: JobLimits { grace: Millis(u64::try_from(grace.as_millis())?), ..JobLimits::default() },
            confinement: Confinement {
                enforced: true,
                write: vec![dir.clone()],
                read: self.program.parent().into_iter().map(Path::to_owned).collect(),
                deny: vec![self.root.clone()],
                uid: None,
            },
            on_loss: OnLoss::End,
        };
        Ok((dir, id, spec))
    }

    /// Starts an animal and waits until all of it is out.
    async fn let_out(&self, kind: Kind, grace: Duration) -> Fallible<Out> {
        let (dir, mark, spec) = self.job(kind.as_str(), grace)?;
        let job = self.runner.start(spec).await?;
        zoo::until_out(kind, &dir)?;
        Ok(Out { kind, dir, mark, job })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // Its sockets are gone with their jobs; the folder is outside of what is removed as a whole.
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

/// An animal that is out.
struct Out {
    kind: Kind,
    dir: PathBuf,
    mark: String,
    job: RunningJob,
}

/// One STOP as it was seen.
struct Seen {
    kind: Kind,
    /// From the call to the answer that all has ended, in milliseconds.
    took: f64,
    /// From the call until the last descendant was gone, as far as that is known apart from the answer.
    gone: f64,
    /// From the slowest process's own exit until then; of trees that obey.
    after_own_exit: Option<f64>,
    survivors: usize,
}

impl Out {
    async fn stop(self) -> Fallible<Seen> {
        let (begun, begun_ns) = (Instant::now(), zoo::now_ns());
        self.job.end(EndLevel::Term).await?;
        let finished = self.job.wait().await?;
        let took = millis(begun.elapsed());
        // The record has whole milliseconds: the next one counts.
        let gone = i128::from(finished.exit.ended.0 + 1) * 1_000_000;
        if !finished.exit.proven_gone {
            return Err(format!("the end of a {} is not proven: {:?}", self.kind.as_str(), finished.exit).into());
        }
        Ok(seen(self.kind, &self.dir, &self.mark, took, (begun_ns, gone)))
    }
}

fn seen(kind: Kind, dir: &Path, mark: &str, took: f64, (begun, gone): (i128, i128)) -> Seen {
    let own = kind.obeys().then(|| zoo::last_own_exit(dir)).flatten();
    let between = |from: i128| (gone - from) as f64 / 1e6;
    let survivors = zoo::survivors(kind, dir, mark);
    Seen { kind, took, gone: between(begun), after_own_exit: own.map(between), survivors }
}

async fn the_zoo(ours: &Ours) -> Fallible<Vec<Seen>> {
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        for kind in Kind::ALL {
            all.push(ours.let_out(kind, GRACE).await?.stop().await?);
        }
    }
    Ok(all)
}

/// What a rival did with the same trees.
struct Theirs {
    name: &'static str,
    all: Vec<Seen>,
}

fn the_rival(name: &'static str, root: &Path, begin: impl Fn(&Path, &[Cage]) -> Fallible<Rival>) -> Fallible<Theirs> {
    fs::create_dir_all(root)?;
    let mut cages = Vec::new();
    for round in 0..RIVAL_ROUNDS {
        for kind in Kind::ALL {
            cages.push(Cage::new(root, kind, format!("{}-{round}", kind.as_str()))?);
        }
    }
    let rival = begin(root, &cages)?;
    let mut all = Vec::new();
    for cage in &cages {
        let Cage { kind, dir, mark, .. } = cage;
        let handle = rival.start(cage)?;
        zoo::until_out(*kind, dir)?;
        let (begun, begun_ns) = (Instant::now(), zoo::now_ns());
        rival.stop(&handle)?;
        let (took, now) = (millis(begun.elapsed()), zoo::now_ns());
        // A moment more than it asked for: what is still on its way out does not count.
        zoo::pause(Duration::from_millis(200));
        all.push(seen(*kind, dir, mark, took, (begun_ns, now)));
        zoo::clear_away(dir, mark)?;
    }
    Ok(Theirs { name, all })
}

fn say_zoo(ours: &[Seen], theirs: &[Theirs]) {
    let of = |all: &[Seen], kind: Kind| -> (Vec<f64>, usize) {
        let those = || all.iter().filter(|seen| seen.kind == kind);
        (those().map(|seen| seen.took).collect(), those().map(|seen| seen.survivors).sum())
    };
    for kind in Kind::ALL {
        for rival in theirs {
            let (took, left) = of(&rival.all, kind);
            let what = format!("{}: {}, {left} survivors of {} STOPs", kind.as_str(), rival.name, took.len());
            report::line("baseline", &what, &Samples::of("ms", took));
        }
        let (took, left) = of(ours, kind);
        let what = format!("{}: ours, {left} survivors of {} STOPs", kind.as_str(), took.len());
        report::line("measured", &what, &Samples::of("ms", took));
    }
    let left: usize = ours.iter().map(|seen| seen.survivors).sum();
    report::figure("survivors, all kinds", left as f64, "0", left == 0);
    let after: Vec<f64> = ours.iter().filter_map(|seen| seen.after_own_exit).collect();
    for rival in theirs {
        let after = rival.all.iter().filter_map(|seen| seen.after_own_exit).collect();
        report::line(
            "baseline",
            &format!("obeying: {}, behind the slowest's own exit", rival.name),
            &Samples::of("ms", after),
        );
    }
    report::line("measured", "obeying: ours, behind the slowest's own exit", &Samples::of("ms", after.clone()));
    report::figure(
        "obeying, p99 behind the slowest's own exit, ms",
        p99(after.clone()),
        "at most 50",
        p99(after) <= 50.0,
    );
    let told: Vec<f64> = ours.iter().map(|seen| seen.took - seen.gone).collect();
    report::line("also", "all: ours, from the last one's end to the proof on disk", &Samples::of("ms", told));
    let late: Vec<f64> = ours.iter().filter(|seen| !seen.kind.obeys()).map(|seen| seen.gone - millis(GRACE)).collect();
    report::line("measured", "ignoring TERM: ours, behind the grace", &Samples::of("ms", late.clone()));
    report::figure("ignoring TERM, p99 behind the grace, ms", p99(late.clone()), "at most 100", p99(late) <= 100.0);
}

/// A hundred trees of all kinds, told to end in the same moment.
async fn at_once(ours: &Ours) -> Outcome {
    let (count, grace) = AT_ONCE;
    let mut out = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::DaemonExit).cycle().take(count) {
        out.push(ours.let_out(kind, grace).await?);
    }
    let places: Vec<_> = out.iter().map(|out| (out.kind, out.dir.clone(), out.mark.clone())).collect();
    let stops = out.into_iter().map(|out| async move {
        let begun = Instant::now();
        out.job.end(EndLevel::Term).await?;
        let finished = out.job.wait().await?;
        Fallible::Ok((millis(begun.elapsed()), finished.exit.proven_gone))
    });
    let ended = futures::future::try_join_all(stops).await?;
    let proven = ended.iter().filter(|(_, proven)| *proven).count();
    let left: usize = places.iter().map(|(kind, dir, mark)| zoo::survivors(*kind, dir, mark)).sum();
    let took: Vec<f64> = ended.iter().map(|(took, _)| *took).collect();
    let most = millis(grace) + 2_000.0;
    report::heading("stop: a hundred jobs at once, trees of all kinds, grace 1 s");
    report::line(
        "measured",
        &format!("{proven} of {count} proven gone, {left} survivors"),
        &Samples::of("ms", took.clone()),
    );
    let met = p99(took.clone()) < most && proven == count && left == 0;
    report::figure("a hundred at once, p99, ms", p99(took), "under 3000, all proven, none left", met);
    Ok(())
}

/// From the call to the program's first act, ours and bare; rounds take turns.
async fn starts(ours: &Ours, scratch: &Path) -> Outcome {
    let (mut bare, mut held) = (Vec::new(), Vec::new());
    for round in 0..=STARTS {
        let dir = scratch.join(format!("bare{round}"));
        fs::create_dir_all(&dir)?;
        let line = zoo::argv("stamp", &dir)?;
        let begun = zoo::now_ns();
        let mut child = Command::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        child.wait()?;
        let naked = acted(&dir, begun)?;
        let (dir, _, spec) = ours.job("stamp", GRACE)?;
        let begun = zoo::now_ns();
        let job = ours.runner.start(spec).await?;
        job.wait().await?;
        // The first round warms both.
        if round > 0 {
            bare.push(naked);
            held.push(acted(&dir, begun)?);
        }
    }
    let over: Vec<f64> = held.iter().zip(&bare).map(|(held, bare)| held - bare).collect();
    report::heading("stop: from the start of a job to its program's first act, landlock and namespaces included");
    report::line("baseline", "a bare start of the same program", &Samples::of("ms", bare));
    report::line("measured", "a job: guard, record, go, confined", &Samples::of("ms", held));
    let median = Samples::of("ms", over.clone()).median();
    report::line("also", "over a bare start, p99", &Samples::of("ms", vec![p99(over)]));
    report::figure("over a bare start, median, ms", median, "at most 15", median <= 15.0);
    Ok(())
}

fn acted(dir: &Path, begun: i128) -> Fallible<f64> {
    let at = zoo::written_ns(&dir.join("exec")).ok_or("the program has not acted")?;
    Ok((at - begun) as f64 / 1e6)
}

/// The guard alone: until it is ready for `go`, and what it takes for itself.
fn guards(scratch: &Path) -> Outcome {
    let (mut ready, mut memory) = (Vec::new(), Vec::new());
    // The first one stays: as a supervisor does, it shares the program's own pages with the others.
    let mut first = None;
    for number in 0..=STARTS {
        let dir = scratch.join(format!("guard{number}"));
        fs::create_dir_all(&dir)?;
        let begun = Instant::now();
        let mut shim = Command::new(env!("CARGO_BIN_EXE_orch"))
            .arg("shim")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        shim.stdin.take().ok_or("no input")?.write_all(&order(&dir)?.to_line()?)?;
        let mut said = String::new();
        BufReader::new(shim.stdout.take().ok_or("no output")?).read_line(&mut said)?;
        let took = millis(begun.elapsed());
        let announced: Announcement = serde_json::from_str(&said)?;
        if !matches!(announced, Announcement::Ready { .. }) {
            return Err(format!("the guard is not ready: {said}").into());
        }
        if first.is_none() {
            first = Some(shim);
            continue;
        }
        ready.push(took);
        // A guard lets nobody look into it but root.
        memory.extend(private_kib(shim.id()));
        shim.kill()?;
        shim.wait()?;
    }
    if let Some(mut first) = first {
        first.kill()?;
        first.wait()?;
    }
    report::heading("stop: the guard by itself");
    report::line("measured", "from its start until it is ready", &Samples::of("ms", ready.clone()));
    report::figure("a guard is ready, p99, ms", p99(ready.clone()), "under 10", p99(ready) < 10.0);
    let most = memory.iter().copied().fold(f64::NAN, f64::max);
    report::line("measured", "private memory", &Samples::of("KiB", memory));
    report::figure("private memory, most, KiB (root may look)", most, "under 3072", most < 3072.0);
    Ok(())
}

fn order(dir: &Path) -> Fallible<ShimSpec> {
    Ok(ShimSpec {
        versions: orch_shim::protocol::VERSIONS.to_vec(),
        job: "guard001".parse()?,
        dir: dir.to_owned(),
        socket: dir.join("s"),
        secret: "not one".to_owned(),
        go_within: Millis(60_000),
        argv: vec!["true".to_owned()],
        cwd: dir.to_owned(),
        env: BTreeMap::from([("PATH".to_owned(), std::env::var("PATH")?)]),
        stdin_len: 0,
        limits: Limits {
            wall: Millis(60_000),
            stall: None,
            grace: Millis(1_000),
            log_bytes: 1 << 20,
            beyond: Beyond::Cut,
            processes: None,
            memory_bytes: None,
            cpu_time: None,
            open_files: None,
            disk_bytes: None,
        },
        confinement: Confine { enforced: true, write: vec![dir.to_owned()], ..Confine::default() },
        namespaces: None,
        groups: Groups::default(),
        on_loss: OnLoss::End,
    })
}

fn private_kib(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let private = text.lines().filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"));
    private.map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum()
}
