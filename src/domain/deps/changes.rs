//! What a branch changes about dependencies: two commits' files compared.
//!
//! Owns the sentence "only what the branch adds can fail it", as far as files go: pins of changed lock files that the
//! same file did not have before, unknown things that were nowhere before, and manifests whose wishes changed while no
//! lock file did. What base has of the same names comes along, so that an old advisory is told from a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::lockfile::{FileKind, Include, LockKind, ManifestKind, Pin, Reading, Unknown, kind_of};
use super::manifest::demands;
use super::package::{Ecosystem, Package};
use super::requirements::UNPINNED;

/// Most files that one requirements file may take in, directly or not.
pub const MOST_INCLUDED: usize = 500;

/// What is at the path of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Its bytes.
    Bytes(Arc<[u8]>),
    /// It is known to be there and was not read; the text says why.
    Unread(&'static str),
}

/// One file that tells of dependencies, at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Identity of its content: equal means unchanged.
    pub id: String,
    /// The content.
    pub content: Content,
}

/// The files of one commit that tell of dependencies, by path.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    files: BTreeMap<String, File>,
    /// Files that requirements files take in under names of no known kind; whether they only limit versions.
    included: BTreeMap<String, bool>,
    /// Files that are taken in and are not there.
    absent: BTreeSet<String>,
    /// Files that were asked what they take in.
    followed: BTreeSet<String>,
}

impl Snapshot {
    /// Adds a file.
    pub fn insert(&mut self, path: String, file: File) {
        self.files.insert(path, file);
    }

    /// Says that a file that is taken in does not exist.
    pub fn missing(&mut self, path: String) {
        self.absent.insert(path);
    }

    /// The files that requirements files take in and that nobody has looked for yet. Ask again after each answer, until
    /// there are none.
    pub fn wanted(&mut self) -> BTreeSet<String> {
        let mut wanted = BTreeSet::new();
        let mut named = Vec::new();
        for (path, file) in &self.files {
            let asked =
                lock_kind(&self.included, path) == Some(LockKind::Requirements) && self.followed.insert(path.clone());
            if let (true, Content::Bytes(bytes)) = (asked, &file.content) {
                named.extend(LockKind::Requirements.read(path, bytes).includes);
            }
        }
        for Include { path, limits_only, .. } in named {
            let Some(path) = path else { continue };
            if kind_of(&path) != Some(FileKind::Lock(LockKind::Requirements)) {
                if !self.included.contains_key(&path) && self.included.len() >= MOST_INCLUDED {
                    continue;
                }
                let only = self.included.entry(path.clone()).or_insert(limits_only);
                *only &= limits_only;
            }
            if !self.files.contains_key(&path) && !self.absent.contains(&path) {
                wanted.insert(path);
            }
        }
        wanted
    }

    /// Whether another snapshot holds the same files.
    #[must_use]
    pub fn same_files(&self, other: &Self) -> bool {
        let ids = |snapshot: &Self| -> Vec<(String, String)> {
            snapshot.files.iter().map(|(path, file)| (path.clone(), file.id.clone())).collect()
        };
        self.absent == other.absent && ids(self) == ids(other)
    }

    /// The format in which a path is to be read.
    fn lock_kind(&self, path: &str) -> Option<LockKind> {
        lock_kind(&self.included, path)
    }

    fn locks(&self) -> impl Iterator<Item = (&str, LockKind, &File)> {
        self.files.iter().filter_map(|(path, file)| Some((path.as_str(), self.lock_kind(path)?, file)))
    }

    fn read(&self, path: &str, kind: LockKind, file: &File) -> Reading {
        let bytes = match &file.content {
            Content::Bytes(bytes) => bytes,
            Content::Unread(why) => {
                return Reading::broken(path, file.id.as_bytes(), why);
            }
        };
        let mut reading = kind.read(path, bytes);
        if self.included.get(path).copied().unwrap_or_default() {
            reading.unknown.retain(|unknown| unknown.why != UNPINNED);
        }
        for Include { place, path: target, .. } in &reading.includes {
            let why = match target {
                None => "it takes in a file from outside of the repository",
                Some(target) if self.absent.contains(target) => "it takes in a file that is not there",
                Some(target) if !self.files.contains_key(target) => "it takes in more files than are followed",
                Some(_) => continue,
            };
            let what = target.as_deref().unwrap_or("a file");
            reading.unknown.push(Unknown::new(place.clone(), what, why, &format!("{path} {target:?}")));
        }
        reading
    }
}

fn lock_kind(included: &BTreeMap<String, bool>, path: &str) -> Option<LockKind> {
    match kind_of(path) {
        Some(FileKind::Lock(kind)) => Some(kind),
        _ if included.contains_key(path) => Some(LockKind::Requirements),
        _ => None,
    }
}

/// What a branch brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Pins that it adds, each package once, with the first place it stands at.
    pub added: Vec<Pin>,
    /// What base has of the same names, whichever file it stands in there.
    pub base: BTreeSet<Package>,
    /// What it adds and nobody can say anything about.
    pub unknown: Vec<Unknown>,
    /// Names whose versions at base are not all known, since a file there could not be read.
    pub base_unread: Vec<Unknown>,
    /// Lock files that differ, sorted.
    pub changed: Vec<String>,
}

impl Changes {
    /// Whether there is anything to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.unknown.is_empty()
    }

    /// Takes away what another comparison has brought already.
    pub fn without(&mut self, judged: &Self) {
        let pins: BTreeSet<&Package> = judged.added.iter().map(|pin| &pin.package).collect();
        let keys: BTreeSet<&str> = judged.unknown.iter().map(|unknown| unknown.key.as_str()).collect();
        self.added.retain(|pin| !pins.contains(&pin.package));
        self.unknown.retain(|unknown| !keys.contains(unknown.key.as_str()));
        let added = &self.added;
        self.base.retain(|package| added.iter().any(|pin| pin.package.same_name(package)));
    }

    /// What has to be asked about: what is added, and what base has of the same names.
    #[must_use]
    pub fn packages(&self) -> BTreeSet<Package> {
        self.added.iter().map(|pin| pin.package.clone()).chain(self.base.iter().cloned()).collect()
    }
}

/// Compares two commits.
#[must_use]
pub fn compare(base: &Snapshot, head: &Snapshot) -> Changes {
    let mut changes = Changes::default();
    let mut old_unknown = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut at_base = Vec::new();
    for (path, kind, file) in base.locks() {
        let reading = base.read(path, kind, file);
        old_unknown.extend(reading.unknown.iter().map(|unknown| unknown.key.clone()));
        if let Content::Unread(_) = file.content {
            changes.base_unread.extend(reading.unknown);
        }
        at_base.push((path, reading.pins));
    }
    for (path, kind, file) in head.locks() {
        let old = base.files.get(path);
        if old.is_some_and(|old| old.id == file.id) && base.lock_kind(path) == Some(kind) {
            continue;
        }
        changes.changed.push(path.to_owned());
        let before = at_base.iter().find(|(other, _)| *other == path).map_or(&[][..], |(_, pins)| pins);
        let before: BTreeSet<&Package> = before.iter().map(|pin| &pin.package).collect();
        let reading = head.read(path, kind, file);
        let new = reading.pins.into_iter().filter(|pin| !before.contains(&pin.package));
        changes.added.extend(new.filter(|pin| seen.insert(pin.package.clone())));
        changes.unknown.extend(reading.unknown.into_iter().filter(|unknown| !old_unknown.contains(&unknown.key)));
    }
    let names: BTreeSet<(Ecosystem, &str)> =
        changes.added.iter().map(|pin| (pin.package.ecosystem(), pin.package.name())).collect();
    let same = at_base.iter().flat_map(|(_, pins)| pins).map(|pin| &pin.package);
    changes.base = same.filter(|package| names.contains(&(package.ecosystem(), package.name()))).cloned().collect();
    drop(names);
    unread_formats(base, head, &mut changes);
    unlocked_manifests(base, head, &mut changes);
    removed_locks(base, head, &mut changes);
    changes
}

/// Whether the content at a path differs.
fn differs(base: &Snapshot, head: &Snapshot, path: &str) -> bool {
    base.files.get(path).map(|file| &file.id) != head.files.get(path).map(|file| &file.id)
}

fn unread_formats(base: &Snapshot, head: &Snapshot, changes: &mut Changes) {
    for (path, file) in &head.files {
        if matches!(kind_of(path), Some(FileKind::Unread(_))) && differs(base, head, path) {
            let why = "its format is not read by this audit";
            changes.unknown.push(Unknown::of_file(path, file.id.as_bytes(), why));
        }
    }
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether a file in `above` governs one in `below`: the same folder, or one around it.
fn governs(above: &str, below: &str) -> bool {
    above.is_empty() || below == above || below.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

/// The lock files, read or not, that pin what a manifest demands.
fn locks_of<'s>(snapshot: &'s Snapshot, manifest: &'s str, ecosystem: Ecosystem) -> impl Iterator<Item = &'s str> {
    let pins = move |path: &str| match kind_of(path) {
        Some(FileKind::Lock(kind)) => kind.ecosystem() == ecosystem,
        Some(FileKind::Unread(of)) => of == Some(ecosystem),
        _ => snapshot.included.contains_key(path) && ecosystem == Ecosystem::PyPi,
    };
    let governing = move |path: &&str| pins(path) && governs(folder(path), folder(manifest));
    snapshot.files.keys().map(String::as_str).filter(governing)
}

/// What a manifest demands; a manifest that could not be read demands its content.
fn wishes(file: Option<&File>, kind: ManifestKind) -> Option<String> {
    let file = file?;
    match &file.content {
        Content::Bytes(bytes) => demands(kind, bytes),
        Content::Unread(_) => Some(file.id.clone()),
    }
}

fn unlocked_manifests(base: &Snapshot, head: &Snapshot, changes: &mut Changes) {
    for (path, file) in &head.files {
        let Some(FileKind::Manifest(kind)) = kind_of(path) else { continue };
        if !differs(base, head, path) {
            continue;
        }
        let now = wishes(Some(file), kind);
        if now.is_none() || now == wishes(base.files.get(path), kind) {
            continue;
        }
        let locks: Vec<&str> = locks_of(head, path, kind.ecosystem()).collect();
        let why = match locks.iter().any(|lock| differs(base, head, lock)) {
            true => continue,
            false if locks.is_empty() => "it demands other dependencies than before, and no lock file pins them",
            false => "it demands other dependencies than before, and its lock file is as it was",
        };
        changes.unknown.push(Unknown::of_file(path, file.id.as_bytes(), why));
    }
}

/// A lock file that is gone leaves its manifests without pins.
fn removed_locks(base: &Snapshot, head: &Snapshot, changes: &mut Changes) {
    for (path, file) in &base.files {
        let ecosystem = match kind_of(path) {
            Some(FileKind::Lock(kind)) => kind.ecosystem(),
            Some(FileKind::Unread(Some(ecosystem))) => ecosystem,
            _ => continue,
        };
        if head.files.contains_key(path) {
            continue;
        }
        let left_alone = head.files.iter().any(|(manifest, file)| {
            let Some(FileKind::Manifest(kind)) = kind_of(manifest) else { return false };
            kind.ecosystem() == ecosystem
                && governs(folder(path), folder(manifest))
                && wishes(Some(file), kind).is_some()
                && locks_of(head, manifest, ecosystem).next().is_none()
        });
        if left_alone {
            let why = "it is removed, and nothing else pins what the manifests demand";
            changes.unknown.push(Unknown::of_file(path, file.id.as_bytes(), why));
        }
    }
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
