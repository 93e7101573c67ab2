//! The secrets part of the security gate beside a bare gitleaks.
//!
//! First a branch of five commits on a real tree: rules, collection, scan with planted tokens and everything that the gate does,
//! against `gitleaks git` over the same range; rounds take turns. Then the engine alone over a tree of 500 MiB, against
//! `gitleaks dir`, both with the binary's own default rules and all cores; in a process of its own, so that its memory is
//! its own.

#[path = "support/report.rs"]
mod report;
#[path = "support/scratch.rs"]
mod scratch;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use orch_adapters::git::{GitRooms, GitSettings, Owner, RepoGit};
use orch_adapters::jobs::{LocalPlacement, LocalPlacementConfig, Runner, UnrecordedLedger, become_subreaper};
use orch_adapters::ports::{JobLimits, Remote};
use orch_adapters::secrets::{
    self, Bounds, Builtin, CollectLimits, CollectSpec, EngineKind, EngineSpec, ExpandLimits, HashKey, Item, ItemReader,
    Material, Place, RulesFrom, Ruleset, ScanError, SecretScanner,
};
use orch_test_support::tools;

use report::{Outcome, Samples};
use scratch::Scratch;

/// Rounds that count; one more goes before them.
const ROUNDS: usize = 9;
/// The tree's size.
const TREE: u64 = 500 << 20;
const RULES: &str = "[extend]\nuseDefault = true\n";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match args.as_slice() {
        [mode, tree, rules] if mode == "scan" => report::end(scan_tree(Path::new(tree), Path::new(rules))),
        _ => report::end(run()),
    }
}

fn run() -> Outcome {
    let scratch = Scratch::new("secrets")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(branch(scratch.path()))?;
    tree(scratch.path())
}

fn bounds() -> Bounds {
    Bounds {
        deadline: Instant::now() + Duration::from_secs(300),
        cancelled: Arc::new(AtomicBool::new(false)),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        expand: ExpandLimits::default(),
    }
}

fn git(repo: &Path, args: &[&str]) -> Result<String, Box<dyn Error>> {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"];
    let out = Command::new("git")
        .args(identity)
        .args(args)
        .current_dir(repo)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()?;
    if !out.status.success() {
        return Err(format!("git {args:?}: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// This repository's own tree with five commits of some 180 lines together on top; base and head.
fn make_branch(repo: &Path) -> Result<(String, String), Box<dyn Error>> {
    let top = env!("CARGO_MANIFEST_DIR");
    fs::create_dir_all(repo)?;
    git(repo, &["init", "--quiet", "--initial-branch=main"])?;
    git(repo, &["fetch", "--quiet", "--depth=1", &format!("file://{top}"), "HEAD"])?;
    git(repo, &["checkout", "--quiet", "-B", "main", "FETCH_HEAD"])?;
    fs::remove_file(repo.join(".git/shallow"))?;
    git(repo, &["checkout", "--quiet", "--orphan", "begin"])?;
    git(repo, &["commit", "--quiet", "-m", "Begin"])?;
    let base = git(repo, &["rev-parse", "HEAD"])?;
    for commit in 0..5 {
        let text: String = (0..36).map(|line| format!("fn number_{commit}_{line}() -> usize {{ {line} }}\n")).collect();
        let path = repo.join(format!("src/domain/extra{}.rs", commit % 3));
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, before + &text)?;
        git(repo, &["add", "--all"])?;
        git(repo, &["commit", "--quiet", "-m", &format!("Commit {commit}")])?;
    }
    Ok((base, git(repo, &["rev-parse", "HEAD"])?))
}

async fn branch(scratch: &Path) -> Outcome {
    become_subreaper()?;
    let repo = scratch.join("repo");
    let (base, head) = make_branch(&repo)?;
    let config = scratch.join("rules.toml");
    fs::write(&config, RULES)?;
    let jobs = LocalPlacementConfig {
        shim_program: PathBuf::from(env!("CARGO_BIN_EXE_orch")),
        shim_args: vec!["shim".to_owned()],
        ..LocalPlacementConfig::new(
            scratch.join("jobs"),
            std::env::temp_dir().join(format!("orch-b{}", std::process::id())),
        )
    };
    let runner = Runner::new(Arc::new(LocalPlacement::new(jobs)?), Arc::new(UnrecordedLedger));
    let rooms = GitRooms::new(scratch.join("repos"), Arc::new(runner.clone()), GitSettings::default());
    let remote = Remote { url: repo.to_string_lossy().into_owned(), env: BTreeMap::new() };
    let ours = rooms.open(&"bench".parse()?, remote).await?;
    ours.fetch_branch(&"begin".parse()?).await?;
    let spec =
        CollectSpec { base: base.parse()?, head: head.parse()?, known: Vec::new(), limits: CollectLimits::default() };
    let (mut bare, mut builtin, mut binary) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        let range = format!("--log-opts={base}..{head}");
        let status = Command::new(tools::gitleaks())
            .args(["git", "--no-banner", "--log-level", "error", "--config"])
            .arg(&config)
            .arg(range)
            .arg(&repo)
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(format!("gitleaks git ended with {status}").into());
        }
        let baseline = begun.elapsed();
        let one = inspect(&ours, &spec, &runner, scratch, EngineKind::Builtin, &config).await?;
        let other = inspect(&ours, &spec, &runner, scratch, EngineKind::Gitleaks, &config).await?;
        if round > 0 {
            for (all, took) in [(&mut bare, baseline), (&mut builtin, one), (&mut binary, other)] {
                all.push(took.as_secs_f64() * 1e3);
            }
        }
    }
    let ratio = |all: &[f64]| Samples::of("times", all.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect());
    let (one, other) = (ratio(&builtin), ratio(&binary));
    report::heading("secrets: a branch of 5 commits and 180 lines, everything that the gate does about secrets");
    report::line("measured", "the gate with builtin", &Samples::of("ms", builtin));
    report::line("measured", "the gate with gitleaks, confined", &Samples::of("ms", binary));
    report::line("baseline", "gitleaks git over the same range", &Samples::of("ms", bare));
    report::figure("builtin to bare gitleaks git", one.median(), "at most 0.5", one.median() <= 0.5);
    report::figure("gitleaks engine to bare gitleaks git", other.median(), "at most 1.5", other.median() <= 1.5);
    Ok(())
}

/// What the gate does: rules, engine, version, collection, scan.
async fn inspect(
    repo: &RepoGit,
    spec: &CollectSpec,
    runner: &Runner,
    scratch: &Path,
    kind: EngineKind,
    config: &Path,
) -> Result<Duration, Box<dyn Error>> {
    let begun = Instant::now();
    let rules = secrets::rules_for(repo, &RulesFrom::File(config.to_owned())).await?;
    let (engine, _) = secrets::choose(EngineSpec {
        kind,
        program: tools::gitleaks().to_string_lossy().into_owned(),
        path: String::new(),
        sha256: None,
        exec: Arc::new(runner.clone()),
        owner: Owner::default(),
        scratch: scratch.join("scans"),
        data: Some(scratch.to_owned()),
        limits: JobLimits::default(),
    })?;
    let version = engine.version().await?;
    let seen =
        secrets::inspect(repo, spec, rules, (engine.as_ref(), version), &bounds(), &HashKey::new(*b"bench")).await?;
    let took = begun.elapsed();
    if seen.commits != 5 || !seen.findings.is_empty() {
        return Err(format!("{} commits and {} findings", seen.commits, seen.findings.len()).into());
    }
    Ok(took)
}

/// The binary's default rules, out of the binary, so that both follow the same ones.
fn default_rules() -> Result<Vec<u8>, Box<dyn Error>> {
    let bytes = fs::read(tools::gitleaks())?;
    let mark = b"# This file has been auto-generated. Do not edit manually.";
    let start = bytes.windows(mark.len()).position(|window| window == mark).ok_or("no rules in the binary")?;
    let end = bytes[start..].iter().position(|byte| *byte == 0).ok_or("the rules do not end")?;
    Ok(bytes[start..start + end].to_vec())
}

/// Sources of packages, copied until there are 500 MiB.
fn make_tree(to: &Path) -> Result<u64, Box<dyn Error>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
        .ok_or("no home folder")?;
    let files = files_below(&home.join("registry/src"))?;
    let (mut size, mut round) = (0, 0);
    while size < TREE {
        let before = size;
        for (at, file) in files.iter().enumerate() {
            let leaf = file.file_name().ok_or("a name")?.to_string_lossy().into_owned();
            let folder = to.join(format!("{round}/{}", at / 200));
            if at % 200 == 0 {
                fs::create_dir_all(&folder)?;
            }
            size += fs::copy(file, folder.join(format!("{at}-{leaf}")))?;
            if size >= TREE {
                break;
            }
        }
        if size == before {
            return Err("the registry holds no sources: build something first".into());
        }
        round += 1;
    }
    Ok(size)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let (mut files, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => open.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

fn tree(scratch: &Path) -> Outcome {
    let (place, rules) = (scratch.join("tree"), scratch.join("default.toml"));
    let size = make_tree(&place)?;
    fs::write(&rules, default_rules()?)?;
    let mebibytes = size as f64 / f64::from(1 << 20);
    let (mut bare, mut ours, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=2 {
        let begun = Instant::now();
        let status = Command::new(tools::gitleaks())
            .args(["dir", ".", "--no-banner", "--log-level", "fatal", "--exit-code", "42", "--config"])
            .arg(&rules)
            .current_dir(&place)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if ![Some(0), Some(42)].contains(&status.code()) {
            return Err(format!("gitleaks dir ended with {status}").into());
        }
        let baseline = begun.elapsed().as_secs_f64();
        let arguments = ["scan", &place.to_string_lossy(), &rules.to_string_lossy()];
        let out = Command::new(std::env::current_exe()?).args(arguments).stderr(Stdio::inherit()).output()?;
        let said = String::from_utf8_lossy(&out.stdout);
        let numbers: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [seconds, peak, found] = numbers[..] else { return Err(format!("the scan said: {said}").into()) };
        if found < 1.0 {
            return Err("nothing was found in half a gigabyte of sources".into());
        }
        // The first round warms the disk's cache, for both.
        if round > 0 {
            bare.push(mebibytes / baseline);
            ours.push(mebibytes / seconds);
            memory.push(peak);
        }
    }
    let ratio = Samples::of("times", ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect());
    let memory = Samples::of("MiB", memory);
    report::heading("secrets: a tree of 500 MiB, the binary's 222 default rules, all cores");
    report::line("baseline", "gitleaks dir", &Samples::of("MiB/s", bare));
    report::line("measured", "builtin", &Samples::of("MiB/s", ours));
    report::line("also", "builtin, most memory resident", &memory);
    report::figure("builtin to gitleaks, throughput", ratio.median(), "at least 2", ratio.median() >= 2.0);
    report::figure("builtin, resident MiB", memory.median(), "under 200", memory.median() < 200.0);
    Ok(())
}

/// Files of a folder.
struct Folder {
    files: Vec<PathBuf>,
    items: Vec<Item>,
}

impl Material for Folder {
    fn items(&self) -> &[Item] {
        &self.items
    }

    fn reader(&self) -> Result<Box<dyn ItemReader + '_>, ScanError> {
        Ok(Box::new(Reader(self)))
    }
}

struct Reader<'f>(&'f Folder);

impl ItemReader for Reader<'_> {
    fn read(&mut self, at: usize) -> Result<Vec<u8>, ScanError> {
        fs::read(&self.0.files[at])
            .map_err(|error| ScanError::Read { what: "a file".to_owned(), why: error.to_string() })
    }
}

/// The other process: scans, and says seconds, MiB at most resident, findings.
fn scan_tree(place: &Path, rules: &Path) -> Outcome {
    let begun = Instant::now();
    let rules = Arc::new(Ruleset::read(Some(&fs::read(rules)?))?);
    let files = files_below(place)?;
    let item = |file: &PathBuf| -> Result<Item, Box<dyn Error>> {
        let path = file.strip_prefix(place)?.to_string_lossy().into_owned();
        Ok(Item { places: vec![Place::file(None, path)], bytes: fs::metadata(file)?.len() })
    };
    let items = files.iter().map(item).collect::<Result<_, _>>()?;
    let material: Arc<dyn Material> = Arc::new(Folder { files, items });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let scan = runtime.block_on(Builtin.scan(&rules, &material, &bounds()))?;
    let seconds = begun.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak")?;
    let peak: f64 = peak.trim().trim_end_matches("kB").trim().parse()?;
    report::heading(&format!("{seconds} {} {}", peak / 1024.0, scan.found.len()));
    Ok(())
}
