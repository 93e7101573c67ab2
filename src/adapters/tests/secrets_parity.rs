//! The two engines side by side: for rules that both have, the one in this process misses nothing that the binary finds.
//!
//! The corpus is made from the rules themselves: for each pattern some texts that match it. The binary's default rules are
//! taken out of the binary (they are not ours to keep here), so that both engines follow all of them word for word. Second
//! corpus: this repository's own history.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use orch_adapters::git::{DirectExec, GitRooms, GitSettings, Owner};
use orch_adapters::ports::{JobLimits, Remote};
use orch_adapters::secrets::{
    Bounds, Builtin, CollectLimits, CollectSpec, ExpandLimits, Gitleaks, Item, ItemReader, Material, Place, Ruleset,
    Scan, ScanError, Secret, find_gitleaks, prove,
};
use orch_test_support::tools;
use regex_syntax::hir::{Class, Hir, HirKind};

fn bounds() -> Bounds {
    Bounds {
        deadline: Instant::now() + Duration::from_secs(300),
        cancelled: Arc::new(AtomicBool::new(false)),
        threads: 2,
        expand: ExpandLimits::default(),
    }
}

fn gitleaks(scratch: &Path) -> Gitleaks {
    let program = tools::gitleaks().to_string_lossy().into_owned();
    Gitleaks {
        program: find_gitleaks(&program, "", None).expect("usable").expect("there"),
        exec: Arc::new(DirectExec),
        owner: Owner::default(),
        scratch: scratch.to_owned(),
        data: None,
        limits: JobLimits::default(),
    }
}

/// The default rules, out of the binary.
fn default_rules() -> Vec<u8> {
    let bytes = std::fs::read(tools::gitleaks()).expect("readable");
    let mark = b"# This file has been auto-generated. Do not edit manually.";
    let start = bytes.windows(mark.len()).position(|window| window == mark).expect("the rules are inside");
    let length = bytes[start..].iter().position(|byte| *byte == 0).expect("they end");
    bytes[start..start + length].to_vec()
}

/// Texts in memory.
struct Corpus(Vec<Item>, Vec<Vec<u8>>);

impl Corpus {
    fn of(texts: impl IntoIterator<Item = (String, Vec<u8>)>) -> Arc<dyn Material> {
        let (mut items, mut bytes) = (Vec::new(), Vec::new());
        for (path, text) in texts {
            items.push(Item { places: vec![Place::file(None, path)], bytes: text.len() as u64 });
            bytes.push(text);
        }
        Arc::new(Self(items, bytes))
    }
}

impl Material for Corpus {
    fn items(&self) -> &[Item] {
        &self.0
    }

    fn reader(&self) -> Result<Box<dyn ItemReader + '_>, ScanError> {
        Ok(Box::new(Reader(self)))
    }
}

struct Reader<'c>(&'c Corpus);

impl ItemReader for Reader<'_> {
    fn read(&mut self, at: usize) -> Result<Vec<u8>, ScanError> {
        Ok(self.0.1[at].clone())
    }
}

/// Makes texts that match a pattern. The same seed makes the same texts.
struct Maker(u64);

impl Maker {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % below.max(1)
    }

    fn write(&mut self, hir: &Hir, out: &mut Vec<u8>) {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(literal) => out.extend_from_slice(&literal.0),
            HirKind::Class(class) => out.push(self.sign(class)),
            HirKind::Repetition(repeated) => {
                // Above the least, but not for ever.
                let most = repeated.max.unwrap_or(repeated.min + 12).min(repeated.min + 12);
                let times = repeated.min as usize + self.next((most - repeated.min + 1) as usize);
                (0..times).for_each(|_| self.write(&repeated.sub, out));
            }
            HirKind::Capture(capture) => self.write(&capture.sub, out),
            HirKind::Concat(all) => all.iter().for_each(|one| self.write(one, out)),
            HirKind::Alternation(all) => {
                let at = self.next(all.len());
                self.write(&all[at], out);
            }
        }
    }

    fn sign(&mut self, class: &Class) -> u8 {
        let ranges: Vec<(u8, u8)> = match class {
            Class::Bytes(class) => class.ranges().iter().map(|range| (range.start(), range.end())).collect(),
            Class::Unicode(class) => {
                let ascii = class.ranges().iter().filter(|range| range.start().is_ascii());
                ascii.map(|range| (range.start() as u8, (range.end() as u32).min(0x7e) as u8)).collect()
            }
        };
        let plain: Vec<u8> = ranges
            .iter()
            .flat_map(|(from, to)| *from..=*to)
            .filter(|sign| sign.is_ascii_graphic() || *sign == b' ')
            .collect();
        match plain.is_empty() {
            true => ranges.first().map_or(b'x', |range| range.0),
            false => plain[self.next(plain.len())],
        }
    }
}

/// The rules of a file: id, pattern, path.
fn rules_of(file: &[u8]) -> Vec<(String, Option<String>, Option<String>)> {
    let table: toml::Table = toml::from_str(std::str::from_utf8(file).expect("UTF-8")).expect("TOML");
    let text = |rule: &toml::Value, key: &str| rule.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let rules = table["rules"].as_array().expect("a list");
    rules.iter().map(|rule| (text(rule, "id").expect("an id"), text(rule, "regex"), text(rule, "path"))).collect()
}

/// Some texts per rule, each in a file of its own, and each in a file with others.
fn corpus(rules: &[(String, Option<String>, Option<String>)]) -> Vec<(String, Vec<u8>)> {
    let mut maker = Maker(0x2545_f491_4f6c_dd1d);
    let mut texts = Vec::new();
    let mut together = Vec::new();
    for (at, (_, regex, path)) in rules.iter().enumerate() {
        let Some(regex) = regex else { continue };
        let parsed = regex_syntax::ParserBuilder::new().utf8(false).unicode(false).octal(true).build().parse(regex);
        let parsed = parsed.unwrap_or_else(|error| panic!("{regex}: {error}"));
        // Where a rule asks for a path, one that it likes.
        let ending = match path.as_deref() {
            Some(path) if path.contains("php") => "a.php",
            Some(path) if path.contains("tf") => "a.tf",
            Some(path) if path.contains("ya?ml") => "a.yml",
            Some(path) if path.contains("nuget") => "nuget.config",
            _ => "a.txt",
        };
        for number in 0..4 {
            let mut line = b"const it = ".to_vec();
            maker.write(&parsed, &mut line);
            line.extend_from_slice(b"\nthe end\n");
            together.extend_from_slice(&line);
            texts.push((format!("rule{at}/{number}/{ending}"), line));
        }
    }
    texts.push(("all/of/them.txt".to_owned(), together));
    texts
}

type Seen = BTreeSet<(usize, String, Secret)>;

fn seen(scan: &Scan) -> Seen {
    scan.found.iter().map(|found| (found.item, found.rule.clone(), found.secret.clone())).collect()
}

#[expect(clippy::print_stdout, reason = "the report of differences: shown with --nocapture, and when a test fails")]
/// Compares both over the same texts and tells the differences; gives how many findings they share.
async fn compare(rules: &Arc<Ruleset>, texts: Arc<dyn Material>, both_have: &dyn Fn(&str) -> bool) -> (Seen, usize) {
    let scratch = tempfile::tempdir().expect("a folder");
    let binary = prove(&gitleaks(scratch.path()), rules, texts.clone(), &bounds()).await.expect("scanned");
    let own = prove(&Builtin, rules, texts.clone(), &bounds()).await.expect("scanned");
    let (binary, own) = (seen(&binary), seen(&own));
    let missed: Vec<String> = binary
        .difference(&own)
        .filter(|(_, rule, _)| both_have(rule))
        .map(|(item, rule, secret)| format!("{rule} in {:?}: {secret:?}", texts.items()[*item].places[0]))
        .collect();
    assert!(missed.is_empty(), "{} of {} missed:\n{}", missed.len(), binary.len(), missed.join("\n"));
    let more: BTreeMap<&str, usize> = own.difference(&binary).fold(BTreeMap::new(), |mut more, (_, rule, _)| {
        *more.entry(rule.as_str()).or_default() += 1;
        more
    });
    let common = binary.intersection(&own).count();
    println!("binary {}, builtin {}, common {common}; only builtin: {more:?}", binary.len(), own.len());
    (binary, common)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_the_binarys_own_rules_nothing_is_missed() {
    let file = default_rules();
    let all = rules_of(&file);
    assert!(all.len() > 200, "{} rules", all.len());
    let rules = Arc::new(Ruleset::read(Some(&file)).expect("all of them compile"));
    let (found, common) = compare(&rules, Corpus::of(corpus(&all)), &|_| true).await;
    let fired: BTreeSet<&str> = found.iter().map(|(_, rule, _)| rule.as_str()).collect();
    assert!(fired.len() > 180 && common > 600, "a corpus that wakes few rules proves little: {} {common}", fired.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_the_default_rules_nothing_is_missed_by_a_rule_that_both_have() {
    let all = rules_of(&default_rules());
    let ours: BTreeSet<String> =
        rules_of(include_bytes!("../secrets/defaults.toml")).into_iter().map(|(id, _, _)| id).collect();
    let both: BTreeSet<String> = all.iter().map(|(id, _, _)| id.clone()).filter(|id| ours.contains(id)).collect();
    assert!(both.len() > 70, "{both:?}");
    let rules = Arc::new(Ruleset::read(None).expect("read"));
    let (found, _) = compare(&rules, Corpus::of(corpus(&all)), &|rule| both.contains(rule)).await;
    let fired: BTreeSet<&String> = found.iter().map(|(_, rule, _)| rule).filter(|rule| both.contains(*rule)).collect();
    assert!(
        fired.len() + 5 > both.len(),
        "not woken: {:?}",
        both.iter().filter(|id| !fired.contains(id)).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_this_repositorys_history_nothing_is_missed() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace");
    let git = |args: &[&str]| {
        let out = std::process::Command::new("git").arg("-C").arg(top).args(args).output().expect("git runs");
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let root = tempfile::tempdir().expect("a folder");
    // A bare copy with one branch: the forge of this test.
    let forge: PathBuf = root.path().join("forge.git");
    git(&["clone", "--quiet", "--bare", ".", &forge.to_string_lossy()]);
    let head = git(&["rev-parse", "HEAD"]);
    let at = |args: &[&str]| git(&[&["--git-dir", forge.to_str().expect("UTF-8")], args].concat());
    at(&["update-ref", "refs/heads/parity", &head]);
    let first = git(&["rev-list", "--max-parents=0", "HEAD"]).lines().last().expect("a first commit").to_owned();
    let rooms = GitRooms::new(root.path().join("repos"), Arc::new(DirectExec), GitSettings::default());
    let remote = Remote { url: forge.to_string_lossy().into_owned(), env: BTreeMap::new() };
    let repo = rooms.open(&"parity".parse().expect("a name"), remote).await.expect("opened");
    repo.fetch_branch(&"parity".parse().expect("a name")).await.expect("fetched");
    let spec = CollectSpec {
        base: first.parse().expect("a commit"),
        head: head.parse().expect("a commit"),
        known: Vec::new(),
        limits: CollectLimits::default(),
    };
    let collected = repo.collect(&spec).await.expect("collected");
    assert!(collected.commits > 10 && collected.blobs > 100, "{} {}", collected.commits, collected.blobs);
    assert!(collected.refused.is_empty(), "{:?}", collected.refused);
    let rules = Arc::new(Ruleset::read(Some(&default_rules())).expect("read"));
    compare(&rules, Arc::new(collected.new), &|_| true).await;
}
