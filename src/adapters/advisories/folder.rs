//! Advisories from a folder on this machine, for places without a network.
//!
//! Owns its layout (`<folder>/<ecosystem>/all.zip` as the OSV project publishes it, or the unpacked `*.json`) and the age
//! beyond which it is old. Invariants: an ecosystem without data, or with data that cannot be read whole, makes its packages
//! unknown; entries that concern a package unclearly do too. Bounded: entries, their size, and all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use orch_domain::deps::advisory::Answer;
use orch_domain::deps::package::{Ecosystem, Package};
use orch_domain::gate::ToolVersion;
use orch_domain::time::{Millis, Timestamp};

use super::affected::{Concern, concern};
use super::osv::{Affected, Entry, comparable};
use super::{AdvisoryFeed, Answers, Asker};

const MOST_ENTRIES: usize = 2_000_000;
const MOST_ENTRY_BYTES: u64 = 4 << 20;
const MOST_BYTES: u64 = 16 << 30;

/// The folder.
#[derive(Clone, Debug)]
pub struct OsvFolder {
    /// Where it is.
    pub folder: PathBuf,
    /// Data older than this are told to be.
    pub stale_after: Millis,
}

#[async_trait]
impl AdvisoryFeed for OsvFolder {
    fn covers(&self, _: Ecosystem) -> bool {
        true
    }

    fn identity(&self) -> String {
        // Another download is another feed.
        let time = |ecosystem: &Ecosystem| {
            let folder = self.folder.join(ecosystem.as_str());
            let at = modified(&folder.join("all.zip")).or_else(|| modified(&folder));
            format!("{ecosystem} {}", at.map_or(0, |at| at.0))
        };
        let times: Vec<String> = Ecosystem::ALL.iter().map(time).collect();
        format!("folder {} ({})", self.folder.display(), times.join(", "))
    }

    async fn ask(&self, asker: &Asker, packages: &BTreeSet<Package>) -> Answers {
        let mut by_ecosystem: BTreeMap<Ecosystem, BTreeSet<Package>> = BTreeMap::new();
        for package in packages {
            by_ecosystem.entry(package.ecosystem()).or_default().insert(package.clone());
        }
        let mut answers = Answers::default();
        for (ecosystem, share) in by_ecosystem {
            let (folder, asked, deadline) = (self.folder.join(ecosystem.as_str()), share.clone(), asker.deadline);
            let looked = tokio::task::spawn_blocking(move || look(&folder, ecosystem, &asked, deadline)).await;
            let (found, at) = match looked {
                Ok(Ok(found)) => found,
                Ok(Err(why)) => {
                    answers.join(Answers::unknown(&share, &why));
                    continue;
                }
                Err(error) => {
                    answers.join(Answers::unknown(&share, &format!("the advisories were not read: {error}")));
                    continue;
                }
            };
            answers.join(found);
            answers.tools.push(ToolVersion { name: format!("osv-data {ecosystem}"), version: at.to_string() });
            let age = asker.now.since(at);
            if age > self.stale_after {
                answers.trouble.push(format!("the advisories for {ecosystem} are {age} old ({at})"));
            }
        }
        answers
    }
}

/// When something was put there.
fn modified(path: &Path) -> Option<Timestamp> {
    let at = path.metadata().and_then(|meta| meta.modified()).ok()?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

fn json_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)?.take(MOST_ENTRIES) {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// What the entries say about packages of one ecosystem, and when they were put there: the archive's time, or that of
/// the youngest file.
fn look(
    folder: &Path,
    ecosystem: Ecosystem,
    packages: &BTreeSet<Package>,
    deadline: Instant,
) -> Result<(Answers, Timestamp), String> {
    let mut names: BTreeMap<String, Vec<&Package>> = BTreeMap::new();
    for package in packages {
        names.entry(comparable(ecosystem, package.name())).or_default().push(package);
    }
    let none = |why: &dyn std::fmt::Display| format!("there are no advisories in {}: {why}", folder.display());
    let mut found = Found { ecosystem, names, answers: BTreeMap::new(), broken: 0, entries: 0, bytes: 0, deadline };
    let archive = folder.join("all.zip");
    let mut at = modified(&archive);
    if at.is_some() {
        read_archive(&archive, &mut found)?;
    } else {
        for path in json_files(folder).map_err(|error| none(&error))? {
            let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            found.read(file)?;
            at = at.max(modified(&path));
        }
    }
    let Some(at) = at.filter(|_| found.entries > 0) else { return Err(none(&"it is empty")) };
    let mut answers = Answers::default();
    if found.broken > 0 {
        answers.trouble.push(format!("{} advisories in {} cannot be read", found.broken, folder.display()));
    }
    for package in packages {
        let answer = found.answers.remove(package).unwrap_or_default();
        answers.by_package.insert(package.clone(), answer);
    }
    Ok((answers, at))
}

fn read_archive(path: &Path, found: &mut Found<'_>) -> Result<(), String> {
    let broken = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
    let file = File::open(path).map_err(|error| broken(&error))?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|error| broken(&error))?;
    for at in 0..archive.len() {
        let entry = archive.by_index(at).map_err(|error| broken(&error))?;
        let named = entry.name().is_ok_and(|name| name.ends_with(".json"));
        if entry.is_file() && named {
            found.read(entry)?;
        }
    }
    Ok(())
}

/// What was found so far.
struct Found<'p> {
    ecosystem: Ecosystem,
    names: BTreeMap<String, Vec<&'p Package>>,
    answers: BTreeMap<Package, Answer>,
    broken: usize,
    entries: usize,
    bytes: u64,
    deadline: Instant,
}

impl Found<'_> {
    fn read(&mut self, from: impl Read) -> Result<(), String> {
        let mut bytes = Vec::new();
        let length = from.take(MOST_ENTRY_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        self.entries += 1;
        self.bytes += length as u64;
        if self.entries > MOST_ENTRIES || self.bytes > MOST_BYTES {
            return Err(format!("there are more than {MOST_ENTRIES} advisories, or {MOST_BYTES} bytes of them"));
        }
        if Instant::now() >= self.deadline {
            return Err("the advisories could not be read in time".to_owned());
        }
        let entry = match Entry::read(&bytes) {
            Ok(entry) if length as u64 <= MOST_ENTRY_BYTES => entry,
            _ => {
                self.broken += 1;
                return Ok(());
            }
        };
        let named = |affected: &Affected| self.names.get(&affected.name_in(self.ecosystem)?);
        let asked: BTreeSet<&Package> = entry.affected.iter().filter_map(named).flatten().copied().collect();
        for package in asked {
            match concern(&entry, package) {
                Concern::No => {}
                Concern::Yes => {
                    let answer = self.answers.entry(package.clone()).or_default();
                    answer.advisories.extend(entry.about(package));
                }
                Concern::Unclear(why) => self.answers.entry(package.clone()).or_default().trouble = Some(why),
            }
        }
        Ok(())
    }
}
