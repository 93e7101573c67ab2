//! The coverage gate beside what it adds to, and its readers beside a bare read.
//!
//! First a repository of 5,000 measured files, as a task goes through it: the tests' own run measures too, and the gate takes
//! that. What coverage adds is what that run does besides its tests (it reads the commit's list of files and the report,
//! and keeps the measurement; timed by itself, since the checkout around it takes seconds that differ by more than that)
//! and the whole gate afterwards (comparison with a baseline of as many files, its own report). Beside it, pair by pair, the
//! whole run with coverage against the whole run without. Then reports of 200 MiB in each format, and two hostile ones, each
//! read in a process of its own, so that its memory is its own; against a process that reads the bytes and no more.

#[path = "support/report.rs"]
mod report;
#[path = "support/scratch.rs"]
mod scratch;
#[path = "support/supervisor.rs"]
mod supervisor;

use std::error::Error;
use std::fs;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use orch::config::Gates;
use orch::engine::{self, Guard, Running};
use orch_actors::context::Context;
use orch_actors::gates::checks::{CheckRequest, run_check};
use orch_actors::gates::{GateSubject, coverage};
use orch_adapters::reports::coverage::{CommitFiles, Places};
use orch_adapters::reports::put_parts;
use orch_domain::coverage::{About, Measurement};
use orch_domain::event::CheckEnd;
use orch_domain::ids::{CommitSha, Generation};
use orch_domain::names::RepoName;
use orch_domain::pipeline::{Pipeline, RepoCommand};
use orch_domain::policy::Policy;
use orch_domain::stop::Level;
use orch_domain::task::{NewTask, State, Task};
use orch_domain::time::{Millis, Timestamp};
use orch_store::NewLanding;

use report::{Outcome, Samples};
use scratch::Scratch;

/// Measured files.
const FILES: usize = 5_000;
/// Lines that count in each.
const LINES: usize = 40;
/// Rounds that count; one more goes before them.
const ROUNDS: usize = 7;
/// A large report.
const LARGE: u64 = 200 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["whole", files, lines, folder] => report::end(whole(files, lines, Path::new(folder))),
        ["read", how, folder, tree] => report::end(read(how, Path::new(folder), Path::new(tree))),
        ["gate"] => report::end(gate()),
        ["reports"] => report::end(reports()),
        _ => report::end(gate().and_then(|()| reports())),
    }
}

// -------------------------------------------------------------------------------------------------------------- the gate

/// What the tests of `commit` leave: two lines of each file are not covered, and one less in the first file of each round.
fn leave_lcov(repo: &Path, round: usize) -> Outcome {
    let mut text = String::new();
    for n in 0..FILES {
        text.push_str(&format!("TN:\nSF:part{:03}/step{n}.rs\n", n / 50));
        for line in 2..LINES + 2 {
            let ran = line > 3 || (n < round && line > 2);
            text.push_str(&format!("DA:{line},{}\n", usize::from(ran)));
        }
        text.push_str("end_of_record\n");
    }
    Ok(fs::write(repo.join("lcov.txt"), &text)?)
}

const PASSED: &str = "echo '5000 passed in 1.00s'";

fn gate() -> Outcome {
    let scratch = Scratch::new("coverage")?;
    let repo = supervisor::repository(scratch.path(), FILES)?;
    let mut heads = vec![head_of(&repo)?];
    for round in 0..=ROUNDS + 1 {
        leave_lcov(&repo, round)?;
        fs::write(repo.join("part000/step0.rs"), format!("// Round {round}.\n{}", "// x\n".repeat(LINES + 2)))?;
        supervisor::git(&repo, &["add", "--all"])?;
        supervisor::git(&repo, &["commit", "--quiet", "--message", &format!("Round {round}")])?;
        heads.push(head_of(&repo)?);
    }
    let mut config = supervisor::settings(&scratch.path().join("orch.yaml"), &scratch.path().join("data"), &repo)?;
    config.gates = Gates::for_all();
    for repo in config.repos.values_mut() {
        repo.no_tests = false;
        repo.commands.test = Some(format!("cp lcov.txt \"$TMPDIR/report\" && {PASSED}"));
        repo.commands.coverage = Some(format!("cp lcov.txt \"$ORCH_COVERAGE_REPORT\" && {PASSED}"));
        repo.commands.coverage_runs_tests = Some(true);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let running = runtime.block_on(engine::start(&config, &supervisor::env(), guard()))?;
    let seen = runtime.block_on(rounds(&running, &heads, &repo, scratch.path()));
    runtime.block_on(running.shutdown(Level::Drain, Duration::from_secs(20)));
    let Seen { tests, both, reading, gate } = seen?;
    let pairs = |one: &[f64], other: &[f64], of: fn(f64, f64) -> f64| {
        Samples::of("ms", one.iter().zip(other).map(|(one, other)| of(*one, *other)).collect())
    };
    let beyond = pairs(&reading, &gate, |reading, gate| reading + gate);
    let whole = pairs(&both, &tests, |both, tests| both - tests);
    report::heading("coverage: a head with a report of 5,000 files, compared with a baseline of 5,000 files");
    report::line("baseline", "the tests of that head, without coverage", &Samples::of("ms", tests));
    report::line("also", "the same run with coverage, beyond it, pair by pair", &whole);
    report::line("measured", "in that run: files, report, what is kept", &Samples::of("ms", reading));
    report::line("measured", "the gate afterwards, which runs nothing", &Samples::of("ms", gate));
    report::line("measured", "both", &beyond);
    report::figure("ms beyond the tests", beyond.median(), "under 300", beyond.median() < 300.0);
    Ok(())
}

/// Milliseconds, per round.
#[derive(Default)]
struct Seen {
    tests: Vec<f64>,
    both: Vec<f64>,
    reading: Vec<f64>,
    gate: Vec<f64>,
}

/// What the tests' run does besides, where it measures: by the same means.
async fn reading(
    ctx: &Context,
    repo: &Path,
    head: &CommitSha,
    about: &About,
    to: &Path,
) -> Result<f64, Box<dyn Error>> {
    let name: RepoName = "bench".parse()?;
    let git = &ctx.repo(&name).ok_or("no repository")?.git;
    let text = fs::read(repo.join("lcov.txt"))?;
    let begun = Instant::now();
    let files = git.files_named(head, |_| true, usize::MAX).await?;
    let files = CommitFiles::new(files.into_iter().map(|file| (file.path, file.plain)));
    let places = Places { checkout: repo.to_owned(), folder: to.join("run"), configured: None, files };
    let since = places.clear()?;
    let before = begun.elapsed();
    fs::write(places.asked_for(), text)?;
    let begun = Instant::now();
    let coverage = places.read(&since)?.coverage;
    if coverage.files.len() != FILES {
        return Err(format!("{} files", coverage.files.len()).into());
    }
    put_parts(&to.join("kept"), Measurement { about: about.clone(), coverage }.parts())?;
    Ok((before + begun.elapsed()).as_secs_f64() * 1e3)
}

fn guard() -> Guard {
    Guard { program: PathBuf::from(env!("CARGO_BIN_EXE_orch")), args: vec!["shim".to_owned()] }
}

fn head_of(repo: &Path) -> Result<CommitSha, Box<dyn Error>> {
    let out = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(repo).output()?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().parse()?)
}

async fn rounds(running: &Running, heads: &[CommitSha], repo: &Path, to: &Path) -> Result<Seen, Box<dyn Error>> {
    let handle = running.handle();
    let ctx = handle.context();
    let name: RepoName = "bench".parse()?;
    ctx.repo(&name).ok_or("no repository")?.git.fetch_branch(&"main".parse()?).await?;
    let task = task_of(&name, ctx.now())?;
    // Jobs, those of git too, are let go only for a task that exists.
    ctx.store.create_task(&task, Vec::new(), Vec::new(), None, ctx.now()).await?;
    // The first one lands: the baseline that all others are compared with, line by line.
    let slot = coverage::Slot::default();
    passed(coverage::run(ctx, &subject_of(ctx, &task, &heads[0], &heads[1], "bench0").await?, false, &slot).await.end)?;
    let landing = NewLanding {
        task: task.id.clone(),
        sha: heads[1].clone(),
        tree: heads[1].clone(),
        base: heads[0].clone(),
        proof: serde_json::Value::Null,
        coverage: slot.get().cloned(),
    };
    if !ctx.store.append_landing(&name, landing, ctx.now()).await? {
        return Err("the first one did not land".into());
    }
    let landed = slot.get().ok_or("nothing was measured")?;
    let about = About {
        repo: name.clone(),
        head: heads[1].clone(),
        tree: heads[1].clone(),
        format: landed.format,
        tool: None,
        measured_by: landed.measured_by.clone(),
        configuration: landed.configuration.clone(),
        report: "report".to_owned(),
        started: ctx.now(),
        duration: Millis(1),
        notes: Vec::new(),
    };
    let mut seen = Seen::default();
    for (round, head) in heads[2..].iter().enumerate() {
        let run = format!("bench{}", round + 1);
        let asked = subject_of(ctx, &task, &heads[1], head, &run).await?;
        let check = CheckRequest {
            subject: asked.clone(),
            what: RepoCommand::Test,
            no_tests: false,
            coverage: false,
            limit: None,
            silence: None,
            anew: false,
        };
        let timed = async |coverage: bool| -> Result<f64, Box<dyn Error>> {
            let begun = Instant::now();
            passed(run_check(ctx, &CheckRequest { coverage, ..check.clone() }).await.end)?;
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        };
        // They take turns in who is first.
        let (plain, both) = if round % 2 == 0 {
            let plain = timed(false).await?;
            (plain, timed(true).await?)
        } else {
            let both = timed(true).await?;
            (timed(false).await?, both)
        };
        git_show(repo, head)?;
        let read = reading(ctx, repo, head, &about, to).await?;
        let begun = Instant::now();
        passed(coverage::run(ctx, &asked, false, &coverage::Slot::default()).await.end)?;
        let took = begun.elapsed();
        if round > 0 {
            seen.tests.push(plain);
            seen.both.push(both);
            seen.reading.push(read);
            seen.gate.push(took.as_secs_f64() * 1e3);
        }
    }
    Ok(seen)
}

/// Brings the report of a commit back into the work tree.
fn git_show(repo: &Path, head: &CommitSha) -> Outcome {
    supervisor::git(repo, &["checkout", "--quiet", head.as_str(), "--", "lcov.txt"])
}

fn task_of(repo: &RepoName, now: Timestamp) -> Result<Task, Box<dyn Error>> {
    let new = NewTask {
        id: "bench".parse()?,
        key: "ORC-900".parse()?,
        generation: Generation(1),
        repo: repo.clone(),
        title: "Measure".to_owned(),
        body: String::new(),
        tracker_item: None,
        priority: 0,
        depends_on: Vec::new(),
        pipeline: Pipeline::built_in("lite").ok_or("a pipeline")?,
        policy: Policy::default(),
        agent: None,
    };
    // Over, so that no actor takes it up while it is measured.
    let mut task = Task::new(new, now);
    task.state = State::Done { at: now };
    Ok(task)
}

/// What a gate is asked, by the task's present owner.
async fn subject_of(
    ctx: &Context,
    task: &Task,
    base: &CommitSha,
    head: &CommitSha,
    run: &str,
) -> Result<GateSubject, Box<dyn Error>> {
    let owned = ctx.store.own_task(&task.id, ctx.now()).await?;
    Ok(GateSubject {
        task: task.id.clone(),
        key: task.key.clone(),
        generation: task.generation,
        run: run.parse()?,
        epoch: owned.epoch,
        repo: task.repo.clone(),
        base: Some(base.clone()),
        head: head.clone(),
    })
}

fn passed(end: CheckEnd) -> Outcome {
    match end {
        CheckEnd::Passed { .. } => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

// --------------------------------------------------------------------------------------------------------- large reports

type OneFile = fn(&mut dyn std::io::Write, &str, usize) -> std::io::Result<()>;

fn reports() -> Outcome {
    let scratch = Scratch::new("coverage-reports")?;
    let tree = scratch.path().join("tree");
    for n in 0..FILES {
        let folder = tree.join(format!("part{:03}", n / 50));
        fs::create_dir_all(&folder)?;
        // As long as it has to be for its lines, and empty on the disk.
        fs::File::create(folder.join(format!("step{n}.rs")))?.set_len(1 << 20)?;
    }
    let formats: [(&str, &str, &str, OneFile); 5] = [
        ("LCOV", "", "", lcov_file),
        ("LCOV with long names of nothing", "", "", long_names),
        ("LCOV with deep names of nothing", "", "", deep_names),
        (
            "coverage.py's JSON",
            "{\"meta\": {\"version\": \"7.17.3\"}, \"files\": {\"x\": {\"executed_lines\": [], \"missing_lines\": []}",
            "}}",
            python_file,
        ),
        (
            "Cobertura's XML",
            "<coverage><packages><package><classes>",
            "</classes></package></packages></coverage>",
            cobertura_file,
        ),
    ];
    report::heading("coverage: one report of 200 MiB about 5,000 files, read in a process of its own");
    for (what, begin, end, one) in formats {
        let folder = scratch.path().join(what.replace(' ', "-"));
        fs::create_dir_all(&folder)?;
        let size = write_large(&folder.join("large"), (begin, end), one)?;
        if size < LARGE {
            return Err(format!("{what}: {size} bytes").into());
        }
        let (plain, ours) = (apart("bytes", &folder, &tree)?, apart("report", &folder, &tree)?);
        report::line("baseline", &format!("{what}: its bytes alone, resident"), &Samples::of("MiB", vec![plain.0]));
        report::line("measured", &format!("{what}: read and taken over, resident"), &Samples::of("MiB", vec![ours.0]));
        report::line("also", &format!("{what}: bytes alone"), &Samples::of("s", vec![plain.1]));
        report::line("also", &format!("{what}: read and taken over"), &Samples::of("s", vec![ours.1]));
        report::figure(&format!("{what}: resident MiB"), ours.0, "under 100", ours.0 < 100.0);
        fs::remove_dir_all(&folder)?;
    }
    wholly(scratch.path())
}

/// Lines of each file with which 5,000 files make 204 MiB of LCOV.
const LARGE_LINES: usize = 4_400;

/// The whole gate in a supervisor of its own, compared with a baseline of the same size: with reports of that size, and with
/// some of a single line.
fn wholly(scratch: &Path) -> Outcome {
    let mut peaks = Vec::new();
    for (files, lines) in [(1, 1), (FILES, LARGE_LINES)] {
        let folder = scratch.join(format!("whole-{files}"));
        fs::create_dir_all(&folder)?;
        let mut command = Command::new(std::env::current_exe()?);
        let numbers = [files, lines].map(|number| number.to_string());
        peaks.push(numbers_of(command.arg("whole").args(numbers).arg(&folder))?.0);
        fs::remove_dir_all(&folder)?;
    }
    let [idle, peak] = peaks[..] else { return Err("two peaks".into()) };
    report::line("baseline", "a supervisor whose gate reads one line, resident", &Samples::of("MiB", vec![idle]));
    report::line("measured", "one whose gate reads 204 MiB of LCOV, and a baseline", &Samples::of("MiB", vec![peak]));
    report::figure("the whole gate: MiB for 204 MiB of LCOV", peak - idle, "under 100", peak - idle < 100.0);
    Ok(())
}

fn whole(files: &str, lines: &str, scratch: &Path) -> Outcome {
    let begun = Instant::now();
    let repo = supervisor::repository(scratch, FILES)?;
    for n in 0..FILES {
        fs::File::options().append(true).open(repo.join(format!("part{:03}/step{n}.rs", n / 50)))?.set_len(1 << 15)?;
    }
    supervisor::git(&repo, &["commit", "--quiet", "--all", "--message", "Longer files"])?;
    let base = head_of(&repo)?;
    let mut heads = vec![base];
    for text in ["x", "y"] {
        fs::write(repo.join("x.txt"), text)?;
        supervisor::git(&repo, &["add", "--all"])?;
        supervisor::git(&repo, &["commit", "--quiet", "--message", "A head"])?;
        heads.push(head_of(&repo)?);
    }
    let mut config = supervisor::settings(&scratch.join("orch.yaml"), &scratch.join("data"), &repo)?;
    config.gates = Gates::for_all();
    for repo in config.repos.values_mut() {
        let awk = format!(
            "awk 'BEGIN {{ for (f = 0; f < {files}; f++) {{ printf \"SF:part%03d/step%d.rs\\n\", f / 50, f; \
             for (l = 1; l <= {lines}; l++) print \"DA:\" l \",\" l % 7; print \"end_of_record\" }} }}'"
        );
        repo.commands.coverage = Some(format!("{awk} > \"$ORCH_COVERAGE_REPORT\" && {PASSED}"));
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let running = runtime.block_on(engine::start(&config, &supervisor::env(), guard()))?;
    let seen = runtime.block_on(async {
        let handle = running.handle();
        let ctx = handle.context();
        let name: RepoName = "bench".parse()?;
        ctx.repo(&name).ok_or("no repository")?.git.fetch_branch(&"main".parse()?).await?;
        let task = task_of(&name, ctx.now())?;
        ctx.store.create_task(&task, Vec::new(), Vec::new(), None, ctx.now()).await?;
        // The first one lands, and the second is compared with it, line by line.
        for (pair, run) in heads.windows(2).zip(["bench0", "bench1"]) {
            let asked = subject_of(ctx, &task, &pair[0], &pair[1], run).await?;
            let slot = coverage::Slot::default();
            passed(coverage::run(ctx, &asked, false, &slot).await.end)?;
            let landing = NewLanding {
                task: task.id.clone(),
                sha: pair[1].clone(),
                tree: pair[1].clone(),
                base: pair[0].clone(),
                proof: serde_json::Value::Null,
                coverage: slot.get().cloned(),
            };
            ctx.store.append_landing(&name, landing, ctx.now()).await?;
        }
        Ok(())
    });
    runtime.block_on(running.shutdown(Level::Drain, Duration::from_secs(20)));
    seen.and_then(|()| say_peak(begun))
}

fn lcov_file(to: &mut dyn std::io::Write, name: &str, lines: usize) -> std::io::Result<()> {
    writeln!(to, "TN:\nSF:{name}")?;
    (1..=lines).try_for_each(|line| writeln!(to, "DA:{line},{}", line % 7))?;
    writeln!(to, "LF:{lines}\nLH:1\nend_of_record")
}

/// One line that counts, and a hundred bytes a line in records of files that are in no commit.
fn hostile(
    to: &mut dyn std::io::Write,
    name: &str,
    lines: usize,
    other: impl Fn(usize) -> String,
) -> std::io::Result<()> {
    writeln!(to, "SF:{name}\nDA:1,1\nend_of_record")?;
    let (mut written, mut n) = (0, 0);
    while written < lines * 100 {
        let other = other(n);
        writeln!(to, "SF:{name}/{n}/{other}\nend_of_record")?;
        (written, n) = (written + other.len(), n + 1);
    }
    Ok(())
}

fn long_names(to: &mut dyn std::io::Write, name: &str, lines: usize) -> std::io::Result<()> {
    hostile(to, name, lines, |_| "x".repeat(3_950))
}

fn deep_names(to: &mut dyn std::io::Write, name: &str, lines: usize) -> std::io::Result<()> {
    hostile(to, name, lines, |_| "a/".repeat(480))
}

fn python_file(to: &mut dyn std::io::Write, name: &str, lines: usize) -> std::io::Result<()> {
    let list = |to: &mut dyn std::io::Write, even: bool| {
        let all = (1..=lines).filter(|line| (line % 2 == 0) == even);
        all.enumerate().try_for_each(|(n, line)| write!(to, "{}{line}", if n == 0 { "" } else { ", " }))
    };
    write!(to, ", \"{name}\": {{\"executed_lines\": [")?;
    list(to, true)?;
    write!(to, "], \"summary\": {{\"covered_lines\": 1}}, \"missing_lines\": [")?;
    list(to, false)?;
    write!(to, "], \"excluded_lines\": []}}")
}

fn cobertura_file(to: &mut dyn std::io::Write, name: &str, lines: usize) -> std::io::Result<()> {
    write!(to, "<class name=\"x\" filename=\"{name}\" line-rate=\"0.5\"><methods/><lines>")?;
    (1..=lines).try_for_each(|line| writeln!(to, "<line number=\"{line}\" hits=\"{}\"/>", line % 7))?;
    write!(to, "</lines></class>")
}

fn write_large(path: &Path, (begin, end): (&str, &str), one: OneFile) -> Result<u64, Box<dyn Error>> {
    // How many lines each file needs for the whole to be large enough: measured on one of them.
    let mut sample = Vec::new();
    one(&mut sample, "part000/step0.rs", 4_000)?;
    let lines = usize::try_from(LARGE)? / FILES * 4_000 / sample.len() + 40;
    let mut to = BufWriter::new(fs::File::create(path)?);
    to.write_all(begin.as_bytes())?;
    for n in 0..FILES {
        one(&mut to, &format!("part{:03}/step{n}.rs", n / 50), lines)?;
    }
    to.write_all(end.as_bytes())?;
    to.into_inner()?.sync_all()?;
    Ok(fs::metadata(path)?.len())
}

/// Most MiB resident and seconds of a process that reads the folder's report.
fn apart(how: &str, folder: &Path, tree: &Path) -> Result<(f64, f64), Box<dyn Error>> {
    numbers_of(Command::new(std::env::current_exe()?).args(["read", how]).args([folder, tree]))
}

fn numbers_of(command: &mut Command) -> Result<(f64, f64), Box<dyn Error>> {
    let out = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    let numbers: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [peak, seconds] => Ok((peak, seconds)),
        _ => Err(format!("the other process said: {said}").into()),
    }
}

/// The other process.
fn read(how: &str, folder: &Path, tree: &Path) -> Outcome {
    let begun = Instant::now();
    match how {
        "bytes" => {
            let (mut file, mut buffer, mut sum) = (fs::File::open(folder.join("large"))?, vec![0; 1 << 16], 0_u64);
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    n => sum += buffer[..n].iter().map(|byte| u64::from(*byte)).sum::<u64>(),
                }
            }
            std::hint::black_box(sum);
        }
        _ => {
            // Written before: put in place as a command would have written it now.
            let files = CommitFiles::new((0..FILES).map(|n| (format!("part{:03}/step{n}.rs", n / 50), true)));
            let places = Places { checkout: tree.to_owned(), folder: folder.join("run"), configured: None, files };
            let since = places.clear()?;
            fs::rename(folder.join("large"), places.asked_for())?;
            fs::File::options().append(true).open(places.asked_for())?.set_modified(std::time::SystemTime::now())?;
            let seen = places.read(&since)?;
            fs::rename(places.asked_for(), folder.join("large"))?;
            if seen.coverage.files.len() < FILES || !seen.notes.iter().all(|note| note.contains("not in the commit")) {
                return Err(format!("{} files, {:?}", seen.coverage.files.len(), seen.notes).into());
            }
        }
    }
    say_peak(begun)
}

fn say_peak(begun: Instant) -> Outcome {
    let seconds = begun.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak")?;
    let peak: f64 = peak.trim().trim_end_matches("kB").trim().parse()?;
    report::heading(&format!("{} {seconds}", peak / 1024.0));
    Ok(())
}
