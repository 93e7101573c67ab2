//! The lane to main: landings per second beside a plain shell loop, a catch-up beside `git rebase` by hand, and how it gets
//! on while somebody else keeps moving main.
//!
//! Everything lands through `orch serve` as it is, with the merge gate on. The shell loop does what a person would script:
//! fetch, rebase, test, push. Rounds take turns. `queue`, `catch-up` or `pushes` as argument runs one of the three.

#[path = "support/report.rs"]
mod report;
#[path = "support/scratch.rs"]
mod scratch;
#[path = "support/served.rs"]
mod served;
#[path = "support/supervisor.rs"]
mod supervisor;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use orch::engine::{self, Guard};
use orch_adapters::git::CatchUpSpec;
use orch_domain::landing::account;
use orch_domain::stop::Level;
use orch_domain::time::Timestamp;
use serde_json::{Value, json};

use report::{Outcome, Samples};
use scratch::Scratch;
use served::Served;

/// Tasks that are ready at once.
const READY: usize = 20;
/// Rounds of the queue.
const ROUNDS: usize = 3;
/// Files of the repository of the catch-up.
const FILES: usize = 3_000;
/// Rounds of the catch-up that count; one more goes before them.
const CATCH_UPS: usize = 9;
/// Tasks that land while somebody else pushes.
const RACERS: usize = 8;
/// How long a test takes there.
const TEST: Duration = Duration::from_secs(2);
/// Longest wait for anything.
const LONGEST: Duration = Duration::from_secs(240);

/// One of the three.
type Part = fn() -> Outcome;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    let parts: [(&str, Part); 3] = [("queue", queue), ("catch-up", catch_up), ("pushes", pushes)];
    report::end(parts.into_iter().filter(|(name, _)| wanted(name)).try_for_each(|(_, part)| part()))
}

/// An agent that commits one file named after its task.
const AGENT: &str = "echo x > $ORCH_TASK.txt && git add -A && git commit -q -m \"Add $ORCH_TASK\" && echo done";

/// The same; two of them also write a half each, which together are red: who comes second goes back, finds the other half,
/// and takes its own away.
const PAIRED: &str = "case $ORCH_TASK in T-3|T-4) if test -e half-T-3 && test -e half-T-4; then git rm -q half-$ORCH_TASK; \
    else echo x > half-$ORCH_TASK; fi;; esac; echo x > $ORCH_TASK.txt && git add -A && git commit -q -m \"Add $ORCH_TASK\" && echo done";

/// A bare repository with one small commit; its test says that one test passed.
fn tiny(dir: &Path, test: &str) -> Result<PathBuf, Box<dyn Error>> {
    let (seed, bare) = (dir.join("seed"), dir.join("shop.git"));
    std::fs::create_dir_all(&seed)?;
    std::fs::write(seed.join("check.sh"), test)?;
    std::fs::write(seed.join("readme.txt"), "A shop.\n")?;
    supervisor::git(&seed, &["init", "--quiet", "--initial-branch", "main"])?;
    supervisor::git(&seed, &["add", "--all"])?;
    supervisor::git(&seed, &["commit", "--quiet", "--message", "Begin"])?;
    supervisor::git(dir, &["clone", "--quiet", "--bare", "seed", "shop.git"])?;
    Ok(bare)
}

/// Settings for one repository that tests with `check.sh`.
fn serve(dir: &Path, repo: &Path, test: &str, agent: &str) -> Result<Served, Box<dyn Error>> {
    let settings = dir.join("orch.yaml");
    let text = json!({
        "data_dir": dir.join("data"),
        "default_agent": "maker",
        "http": {"bind": "127.0.0.1:0"},
        "agents": {"maker": {"kind": "command", "command": agent}},
        "gates": {"merge": {"repos": ["*"]}},
        "limits": {"max_concurrency": 3, "gate_slots": 3, "deferral_delay": "1s"},
        "repos": {"shop": {"path": repo, "main": "main", "pipeline": "lite", "commands": {"test": test}}},
    });
    // JSON is YAML.
    std::fs::write(&settings, serde_json::to_vec(&text)?)?;
    Served::start(&settings)
}

/// Looks until there is something. Looking costs the supervisor time, so it is done seldom.
fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>, Box<dyn Error>>) -> Result<T, Box<dyn Error>> {
    let (_hold, never) = mpsc::channel::<()>();
    let begun = Instant::now();
    while begun.elapsed() < LONGEST {
        if let Some(found) = look()? {
            return Ok(found);
        }
        // Nobody sends: it ends by its timeout.
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
    Err(format!("{what} did not come in {} s", LONGEST.as_secs()).into())
}

fn add(served: &Served, n: usize) -> Result<(), Box<dyn Error>> {
    served.ask("POST", "/tasks", &json!({"title": format!("Add file {n}"), "key": format!("T-{n}")}).to_string())?;
    Ok(())
}

fn lane(served: &Served) -> Result<Value, Box<dyn Error>> {
    Ok(served.ask("GET", "/queue", "")?["merge"][0].take())
}

/// Everything that has landed, by the lane's own count.
fn landed(served: &Served) -> Result<u64, Box<dyn Error>> {
    Ok(lane(served)?["statistics"]["landed"].as_u64().unwrap_or_default())
}

/// Twenty tasks wait in a paused lane; it is resumed, and the time runs until the last of them has landed.
fn queue() -> Outcome {
    let (mut by_hand, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let scratch = Scratch::new(&format!("lane{round}"))?;
        by_hand.push(shell_loop(&scratch.path().join("hand"))?);
        ours.push(queue_of_tasks(&scratch.path().join("ours"))?);
        ratios.push(ours[round] / by_hand[round]);
    }
    let ratio = Samples::of("times", ratios);
    report::heading("lane: 20 ready tasks on a tiny repository with trivial tests");
    report::line("baseline", "shell loop of fetch, rebase, test, push", &Samples::of("landings/s", by_hand));
    report::line("measured", "orch serve, from resume to the last landing", &Samples::of("landings/s", ours));
    report::line("ratio", "measured to baseline", &ratio);
    report::figure("landings to those of the loop", ratio.median(), "at least 0.5", ratio.median() >= 0.5);
    Ok(())
}

const TRIVIAL: &str = "echo '1 passed, 0 failed'\n";

/// The baseline: as many branches, landed one after the other by a script.
fn shell_loop(dir: &Path) -> Result<f64, Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    let bare = tiny(dir, TRIVIAL)?;
    let work = dir.join("work");
    supervisor::git(dir, &["clone", "--quiet", &bare.to_string_lossy(), "work"])?;
    for n in 0..READY {
        supervisor::git(&work, &["checkout", "--quiet", "-b", &format!("task{n}"), "origin/main"])?;
        std::fs::write(work.join(format!("T-{n}.txt")), "x\n")?;
        supervisor::git(&work, &["add", "--all"])?;
        supervisor::git(&work, &["commit", "--quiet", "--message", &format!("Add T-{n}")])?;
    }
    let script = format!(
        "set -e; for n in $(seq 0 {}); do git fetch --quiet origin; git checkout --quiet task$n; \
         git rebase --quiet origin/main; sh check.sh >/dev/null; git push --quiet origin HEAD:main; done",
        READY - 1
    );
    let begun = Instant::now();
    let status = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&work)
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_COMMITTER_NAME", "Bench"), ("GIT_COMMITTER_EMAIL", "bench@localhost")])
        .status()?;
    let took = begun.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("the shell loop ended with {status}").into());
    }
    expect_files(&bare, READY)?;
    Ok(READY as f64 / took)
}

fn queue_of_tasks(dir: &Path) -> Result<f64, Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    let bare = tiny(dir, TRIVIAL)?;
    let served = serve(dir, &bare, "sh check.sh", AGENT)?;
    served.ask("POST", "/repos/shop/pause", &json!({"why": "to let them gather"}).to_string())?;
    for n in 0..READY {
        add(&served, n)?;
    }
    until("a full queue", || Ok((lane(&served)?["queue"].as_array().map_or(0, Vec::len) == READY).then_some(())))?;
    let begun = Instant::now();
    served.ask("POST", "/repos/shop/resume", "")?;
    // Main itself is looked at, not the supervisor: that costs it nothing.
    until("the last landing", || Ok((count_commits(&bare)? == READY + 1).then_some(())))?;
    let took = begun.elapsed().as_secs_f64();
    until("the last answer", || Ok((landed(&served)? == READY as u64).then_some(())))?;
    served.end()?;
    expect_files(&bare, READY)?;
    Ok(READY as f64 / took)
}

fn count_commits(bare: &Path) -> Result<usize, Box<dyn Error>> {
    Ok(said(bare, &["rev-list", "--count", "--first-parent", "main"])?.parse()?)
}

fn said(repo: &Path, args: &[&str]) -> Result<String, Box<dyn Error>> {
    let out = Command::new("git").args(args).current_dir(repo).env("GIT_CONFIG_NOSYSTEM", "1").output()?;
    match out.status.success() {
        true => Ok(String::from_utf8(out.stdout)?.trim().to_owned()),
        false => Err(format!("git {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr)).into()),
    }
}

/// What was asked for must be on main, or the time says nothing.
fn expect_files(bare: &Path, count: usize) -> Outcome {
    let listed = said(bare, &["ls-tree", "--name-only", "main"])?;
    let there: BTreeSet<&str> = listed.lines().collect();
    match (0..count).find(|n| !there.contains(format!("T-{n}.txt").as_str())) {
        None => Ok(()),
        Some(n) => Err(format!("T-{n}.txt is not on main").into()),
    }
}

/// A branch of three commits is brought on top of a main that has moved.
fn catch_up() -> Outcome {
    let scratch = Scratch::new("catch-up")?;
    let repo = supervisor::repository(scratch.path(), FILES)?;
    let git = |args: &[&str]| supervisor::git(&repo, args);
    git(&["checkout", "--quiet", "-b", "work"])?;
    for n in 0..3 {
        std::fs::write(repo.join(format!("part000/step{n}.rs")), format!("// Changed {n}.\n"))?;
        git(&["commit", "--quiet", "--all", "--message", &format!("Change step {n}")])?;
    }
    git(&["checkout", "--quiet", "main"])?;
    for n in 0..5 {
        std::fs::write(repo.join(format!("part01{n}/step{}.rs", 500 + n * 50)), "// Main moved.\n")?;
        git(&["commit", "--quiet", "--all", "--message", &format!("Move main {n}")])?;
    }
    let settings = scratch.path().join("orch.yaml");
    let config = supervisor::settings(&settings, &scratch.path().join("data"), &repo)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let guard = Guard { program: PathBuf::from(env!("CARGO_BIN_EXE_orch")), args: vec!["shim".to_owned()] };
    let running = runtime.block_on(engine::start(&config, &supervisor::env(), guard))?;
    let handle = running.handle();
    let lane = &handle.context().repos.values().next().ok_or("no repository")?.lane_git;
    let (head, main) = (said(&repo, &["rev-parse", "work"])?.parse()?, said(&repo, &["rev-parse", "main"])?.parse()?);
    runtime.block_on(lane.fetch_branch(&"main".parse()?))?;
    runtime.block_on(lane.fetch_branch(&"work".parse()?))?;
    let (mut by_hand, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=CATCH_UPS {
        let hand = worktree_and_rebase(&repo, &scratch.path().join(format!("tree{round}")))?;
        let begun = Instant::now();
        let spec = CatchUpSpec {
            task: "bench".parse()?,
            // Another date, other commits: nothing is found made.
            at: Timestamp(1_763_931_600_000 + i64::try_from(round)? * 1_000),
            merge_message: "Merge".to_owned(),
        };
        let caught_up = runtime.block_on(lane.catch_up(&head, &main, &spec))?;
        let orch_adapters::git::CatchUp::Rebased { head: new, .. } = &caught_up else {
            return Err(format!("not rebased: {caught_up:?}").into());
        };
        // Accounting for every commit belongs to it: the lane does neither without the other.
        let account = account(&runtime.block_on(lane.composition(&head, &main, new, &spec))?);
        let took = begun.elapsed().as_secs_f64() * 1_000.0;
        if account.kept != 3 || !account.balances() {
            return Err(format!("not all of it was kept: {account:?}").into());
        }
        if round > 0 {
            by_hand.push(hand);
            ours.push(took);
            ratios.push(took / hand);
        }
    }
    runtime.block_on(running.shutdown(Level::Drain, Duration::from_secs(20)));
    let ratio = Samples::of("times", ratios);
    report::heading("lane: catch-up of 3 commits on a repository of 3,000 files");
    report::line("baseline", "git worktree add, then git rebase", &Samples::of("ms", by_hand));
    report::line("measured", "the lane's catch-up, with its account of every commit", &Samples::of("ms", ours));
    report::line("ratio", "measured to baseline", &ratio);
    report::figure("catch-up to rebase by hand", ratio.median(), "at most 1.5", ratio.median() <= 1.5);
    Ok(())
}

fn worktree_and_rebase(repo: &Path, tree: &Path) -> Result<f64, Box<dyn Error>> {
    let path = tree.to_string_lossy();
    let begun = Instant::now();
    supervisor::git(repo, &["worktree", "add", "--quiet", "--detach", &path, "work"])?;
    supervisor::git(tree, &["rebase", "--quiet", "main"])?;
    let took = begun.elapsed().as_secs_f64() * 1_000.0;
    supervisor::git(repo, &["worktree", "remove", "--force", &path])?;
    Ok(took)
}

/// Eight tasks land while somebody pushes to main every three test times.
fn pushes() -> Outcome {
    let scratch = Scratch::new("pushes")?;
    let dir = scratch.path();
    let red = "if test -e half-T-3 && test -e half-T-4; then echo '0 passed, 1 failed'; exit 1; fi";
    let test = format!("sleep {}\n{red}\necho '1 passed, 0 failed'\n", TEST.as_secs());
    let bare = tiny(dir, &test)?;
    // So that it is known where main has been: a branch's earlier commits come with it, and nobody was ever given them.
    supervisor::git(&bare, &["config", "core.logAllRefUpdates", "always"])?;
    let served = serve(dir, &bare, "sh check.sh", PAIRED)?;
    served.ask("POST", "/repos/shop/pause", &json!({"why": "to let them gather"}).to_string())?;
    for n in 0..RACERS {
        add(&served, n)?;
    }
    until("a full queue", || Ok((lane(&served)?["queue"].as_array().map_or(0, Vec::len) == RACERS).then_some(())))?;
    let (over, pushed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let pusher = {
        let (dir, bare, over, pushed) = (dir.to_owned(), bare.clone(), over.clone(), pushed.clone());
        std::thread::spawn(move || push_on(&dir, &bare, &over, &pushed).map_err(|e| e.to_string()))
    };
    let begun = Instant::now();
    served.ask("POST", "/repos/shop/resume", "")?;
    let seen = until("everybody on main", || Ok((landed(&served)? == RACERS as u64).then_some(())));
    let took = begun.elapsed();
    over.store(true, Ordering::SeqCst);
    pusher.join().map_err(|_| "the pusher failed")??;
    let figures = lane(&served)?["statistics"].take();
    served.end()?;
    seen.map_err(|e| format!("{e}: {figures}"))?;
    expect_files(&bare, RACERS)?;
    // Two that are green alone and red together have met, or a red main would not have been possible.
    if figures["own_failures"].as_u64().unwrap_or_default() == 0 {
        return Err(format!("nothing was sent back: {figures}").into());
    }
    let red = red_commits(&bare, &dir.join("look"))?;
    let lost = figures["resets"]["main-moved"].as_u64().unwrap_or_default();
    let listed = said(&bare, &["ls-tree", "--name-only", "main"])?;
    let theirs = |n: usize| listed.lines().any(|name| name == format!("other{n}.txt"));
    let gone = (0..pushed.load(Ordering::SeqCst)).filter(|n| !theirs(*n)).count();
    let one = |unit, value| Samples::of(unit, vec![value]);
    report::heading("lane: 8 tasks while somebody pushes to main every 3 test times");
    report::line("also", "test time", &one("s", TEST.as_secs_f64()));
    report::line("also", "pushes by somebody else", &one("", pushed.load(Ordering::SeqCst) as f64));
    report::line("baseline", "8 test times, one after the other", &one("s", TEST.as_secs_f64() * RACERS as f64));
    report::line("measured", "from resume to the last landing", &one("s", took.as_secs_f64()));
    report::line("measured", "lost races, as the lane reports them", &one("", lost as f64));
    report::line(
        "measured",
        "sent back as red together",
        &one("", figures["own_failures"].as_f64().unwrap_or(f64::NAN)),
    );
    report::line("measured", "trees judged", &one("", figures["tests"].as_f64().unwrap_or(f64::NAN)));
    report::line(
        "measured",
        "landings in a thousand test times",
        &one("", figures["landings_per_1000_test_times"].as_f64().unwrap_or(f64::NAN)),
    );
    report::figure("landed, of 8", RACERS as f64, "8", true);
    report::figure("times that main was red", red as f64, "0", red == 0);
    report::figure("pushes of somebody else that main does not hold", gone as f64, "0", gone == 0);
    Ok(())
}

/// Somebody else: commits on top of main, and again when it has moved in between.
fn push_on(dir: &Path, bare: &Path, over: &AtomicBool, pushed: &AtomicUsize) -> Outcome {
    let clone = dir.join("somebody");
    supervisor::git(dir, &["clone", "--quiet", &bare.to_string_lossy(), "somebody"])?;
    let (_hold, never) = mpsc::channel::<()>();
    while !over.load(Ordering::SeqCst) {
        let n = pushed.load(Ordering::SeqCst);
        supervisor::git(&clone, &["fetch", "--quiet", "origin"])?;
        supervisor::git(&clone, &["reset", "--quiet", "--hard", "origin/main"])?;
        std::fs::write(clone.join(format!("other{n}.txt")), "x\n")?;
        supervisor::git(&clone, &["add", "--all"])?;
        supervisor::git(&clone, &["commit", "--quiet", "--message", &format!("Push {n}")])?;
        if supervisor::git(&clone, &["push", "--quiet", "origin", "HEAD:main"]).is_ok() {
            pushed.fetch_add(1, Ordering::SeqCst);
            // Every three test times; nobody sends.
            let _ = never.recv_timeout(TEST * 3);
        }
    }
    Ok(())
}

/// How often main was moved to a commit whose test fails.
fn red_commits(bare: &Path, tree: &Path) -> Result<usize, Box<dyn Error>> {
    let path = tree.to_string_lossy();
    supervisor::git(bare, &["worktree", "add", "--quiet", "--detach", &path, "main"])?;
    let mut red = 0;
    for commit in said(bare, &["reflog", "show", "--format=%H", "refs/heads/main"])?.lines() {
        supervisor::git(tree, &["checkout", "--quiet", commit])?;
        let script = std::fs::read_to_string(tree.join("check.sh"))?.replace("sleep", "true");
        let status = Command::new("sh").args(["-c", &script]).current_dir(tree).output()?.status;
        red += usize::from(!status.success());
    }
    Ok(red)
}
