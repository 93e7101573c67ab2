//! What a branch brings, from our own repository: every new version of every file, each commit's own text, all new names.
//!
//! Owns the walk over `base..head` and the comparison of trees, object by object: no diff is made, so nothing that steers
//! diffs (attributes, text conversion, merges, modes) can hide anything. What base holds already is left out. What cannot
//! be looked at is refused by name: merges of three and more, links to other repositories, what is over a limit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use git2::{ObjectType, Oid, Repository, Tree};
use orch_domain::ids::CommitSha;

use super::{Found, Item, ItemReader, Material, Place, ScanError, Spot};
use crate::git::{Cut, GitError, RepoGit, commit_of, read};

/// Bounds of what is looked at; what is over one is refused, never passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectLimits {
    /// Longest file, in bytes.
    pub file: u64,
    /// Most bytes together.
    pub total: u64,
    /// Most commits.
    pub commits: usize,
}

impl Default for CollectLimits {
    fn default() -> Self {
        Self { file: 50 << 20, total: 1 << 30, commits: 20_000 }
    }
}

/// Files that say what is a secret and what is not: a change to one is told.
const RULE_FILES: [&str; 2] = [".gitleaks.toml", ".gitleaksignore"];

/// What to collect.
#[derive(Clone, Debug)]
pub struct CollectSpec {
    /// What the branch stands on; its objects are known.
    pub base: CommitSha,
    /// The branch.
    pub head: CommitSha,
    /// More commits whose objects are known: a newer `main` that was merged in, a head that was judged before.
    pub known: Vec<CommitSha>,
    /// Bounds.
    pub limits: CollectLimits,
}

/// What there is to look at.
pub struct Collected {
    /// Everything new.
    pub new: GitMaterial,
    /// What base held in place of it.
    pub old: GitMaterial,
    /// What must not be passed over: one line each.
    pub refused: Vec<String>,
    /// What is not here to be looked at, though nothing forbids it: one line each.
    pub elsewhere: Vec<String>,
    /// Which rule files the branch changes.
    pub rules_changed: Vec<String>,
    /// How many commits.
    pub commits: usize,
    /// How many new versions of files.
    pub blobs: usize,
    /// How many bytes together, commits' texts and names included.
    pub bytes: u64,
}

#[derive(Clone, Debug)]
enum Source {
    Blob(Oid),
    Text(Vec<u8>),
}

/// Texts that lie in a repository of ours.
pub struct GitMaterial {
    repo: PathBuf,
    items: Vec<Item>,
    sources: Vec<Source>,
}

impl Material for GitMaterial {
    fn items(&self) -> &[Item] {
        &self.items
    }

    fn reader(&self) -> Result<Box<dyn ItemReader + '_>, ScanError> {
        let failed = |error: GitError| ScanError::Read { what: "a repository".to_owned(), why: error.to_string() };
        Ok(Box::new(GitReader { of: self, repo: read::open(&self.repo).map_err(failed)? }))
    }
}

struct GitReader<'m> {
    of: &'m GitMaterial,
    repo: Repository,
}

impl ItemReader for GitReader<'_> {
    fn read(&mut self, at: usize) -> Result<Vec<u8>, ScanError> {
        match &self.of.sources[at] {
            Source::Text(text) => Ok(text.clone()),
            Source::Blob(oid) => {
                let failed = |error: git2::Error| ScanError::Read {
                    what: format!("object {oid}"),
                    why: error.message().to_owned(),
                };
                let odb = self.repo.odb().map_err(failed)?;
                Ok(odb.read(*oid).map_err(failed)?.data().to_vec())
            }
        }
    }
}

impl GitMaterial {
    /// Whether the text still stands at a place of a commit.
    fn stands(&self, repo: &Repository, head: &CommitSha, at: usize, place: &Place) -> Result<bool, GitError> {
        // A commit's own text is in the history as long as the commit is.
        let (Source::Blob(oid), Spot::File(path)) = (&self.sources[at], &place.spot) else { return Ok(false) };
        let path = path.split(|byte| *byte == b'!').next().unwrap_or_default();
        let mut tree = commit_of(repo, head)?.tree().map_err(GitError::read("the tree of the head"))?;
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let found = tree.get_name_bytes(name).map(|entry| entry.id());
            match (found, names.peek().is_some()) {
                (Some(found), false) => return Ok(found == *oid),
                (Some(found), true) => match repo.find_tree(found) {
                    Ok(below) => tree = below,
                    Err(_) => return Ok(false),
                },
                (None, _) => return Ok(false),
            }
        }
        Ok(false)
    }
}

impl GitMaterial {
    /// For findings in these texts: whether each still stands at the head.
    pub(super) fn still_there(&self, head: &CommitSha, findings: &[Found]) -> Result<Vec<bool>, GitError> {
        let repo = read::open(&self.repo)?;
        let one = |found: &Found| -> Result<bool, GitError> {
            for place in &found.places {
                if self.stands(&repo, head, found.item, place)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        findings.iter().map(one).collect()
    }
}

impl RepoGit {
    /// Collects what a branch brings.
    ///
    /// # Errors
    /// [`GitError::NoSuchCommit`], [`GitError::Read`].
    pub async fn collect(&self, spec: &CollectSpec) -> Result<Collected, GitError> {
        let (spec, path) = (spec.clone(), self.work());
        self.read(self.work(), move |repo| collect(repo, path, &spec)).await
    }
}

/// Work under way.
struct Walk<'r> {
    repo: &'r Repository,
    /// Per new object, where it stands.
    blobs: BTreeMap<Oid, Vec<Place>>,
    /// In order of their appearance.
    order: Vec<Oid>,
    /// What stood there before: of base, or of an earlier commit of the branch.
    before: HashSet<Oid>,
    before_at: HashMap<Oid, Vec<u8>>,
    links: BTreeSet<(Vec<u8>, Oid)>,
    names: Vec<Vec<u8>>,
}

fn collect(repo: &Repository, path: PathBuf, spec: &CollectSpec) -> Result<Collected, GitError> {
    let fail = || GitError::read(format!("the commits {}..{}", spec.base.short(), spec.head.short()));
    let tips: Vec<&CommitSha> = [&spec.base].into_iter().chain(&spec.known).collect();
    let cut = Cut::of(repo)?;
    let revisions = cut.range(repo, &spec.head, &tips)?;
    let mut walk = Walk {
        repo,
        blobs: BTreeMap::new(),
        order: Vec::new(),
        before: HashSet::new(),
        before_at: HashMap::new(),
        links: BTreeSet::new(),
        names: Vec::new(),
    };
    let mut refused = Vec::new();
    let mut texts: Vec<(Place, Vec<u8>)> = Vec::new();
    let mut commits = 0;
    for id in revisions {
        let commit = repo.find_commit(id).map_err(fail())?;
        commits += 1;
        if commits > spec.limits.commits {
            refused.push(format!("the branch has more than {} commits", spec.limits.commits));
            break;
        }
        let sha = read::sha(commit.id());
        if commit.parent_count() > 2 {
            let parents = commit.parent_count();
            refused.push(format!("commit {} merges {parents} parents at once; merge two at a time", sha.short()));
        }
        let tree = commit.tree().map_err(fail())?;
        let parents = cut.parents(&commit).into_iter().map(|id| repo.find_commit(id)?.tree());
        let parents: Vec<Tree<'_>> = parents.collect::<Result<_, _>>().map_err(fail())?;
        walk.names.clear();
        walk.compare(&sha, &tree, &parents, &[])?;
        let own = [commit.raw_header_bytes(), b"\n", commit.message_raw_bytes()].concat();
        texts.push((Place { commit: Some(sha.clone()), spot: Spot::Commit }, own));
        if !walk.names.is_empty() {
            texts.push((Place { commit: Some(sha), spot: Spot::FileNames }, walk.names.join(&b'\n')));
        }
    }
    let held = walk.held(&tips)?;
    Sorted { walk, held, texts, refused, commits }.finish(path, spec)
}

impl Walk<'_> {
    /// Compares a tree with those of the parents, at one path.
    fn compare(
        &mut self,
        commit: &CommitSha,
        tree: &Tree<'_>,
        parents: &[Tree<'_>],
        at: &[u8],
    ) -> Result<(), GitError> {
        if parents.iter().any(|parent| parent.id() == tree.id()) {
            return Ok(());
        }
        let fail = || GitError::read(format!("a tree of {}", commit.short()));
        for entry in tree {
            let name = entry.name_bytes();
            let path = if at.is_empty() { name.to_owned() } else { [at, b"/", name].concat() };
            let there: Vec<_> = parents.iter().filter_map(|parent| parent.get_name_bytes(name)).collect();
            if there.iter().any(|other| other.id() == entry.id() && other.kind() == entry.kind()) {
                continue;
            }
            match entry.kind() {
                Some(ObjectType::Tree) => {
                    let below: Vec<Tree<'_>> =
                        there.iter().filter_map(|other| self.repo.find_tree(other.id()).ok()).collect();
                    let tree = self.repo.find_tree(entry.id()).map_err(fail())?;
                    self.remember(&there, &path);
                    self.compare(commit, &tree, &below, &path)?;
                }
                Some(ObjectType::Commit) => {
                    self.links.insert((path.clone(), entry.id()));
                    self.names.push(path);
                }
                _ => {
                    self.remember(&there, &path);
                    let places = self.blobs.entry(entry.id()).or_default();
                    if places.is_empty() {
                        self.order.push(entry.id());
                    }
                    let place = Place::file(Some(commit.clone()), path.clone());
                    if !places.contains(&place) {
                        places.push(place);
                    }
                    self.names.push(path);
                }
            }
        }
        for parent in parents {
            let gone = parent.iter().filter(|other| tree.get_name_bytes(other.name_bytes()).is_none());
            for other in gone {
                let path =
                    if at.is_empty() { other.name_bytes().to_owned() } else { [at, b"/", other.name_bytes()].concat() };
                self.gone(other.id(), other.kind(), path)?;
            }
        }
        Ok(())
    }

    fn remember(&mut self, there: &[git2::TreeEntry<'_>], path: &[u8]) {
        for other in there.iter().filter(|other| other.kind() == Some(ObjectType::Blob)) {
            if self.before.insert(other.id()) {
                self.before_at.insert(other.id(), path.to_owned());
            }
        }
    }

    /// What a commit takes away: it may stand elsewhere afterwards.
    fn gone(&mut self, id: Oid, kind: Option<ObjectType>, path: Vec<u8>) -> Result<(), GitError> {
        if kind == Some(ObjectType::Tree) {
            let tree = self.repo.find_tree(id).map_err(GitError::read("a tree that was taken away"))?;
            for entry in &tree {
                self.gone(entry.id(), entry.kind(), [&path, b"/".as_slice(), entry.name_bytes()].concat())?;
            }
        } else if kind == Some(ObjectType::Blob) && self.before.insert(id) {
            self.before_at.insert(id, path);
        }
        Ok(())
    }

    /// Of all objects met, those that the known commits hold, and their links to other repositories.
    fn held(&self, tips: &[&CommitSha]) -> Result<HashSet<Oid>, GitError> {
        let mut wanted: HashSet<Oid> = self.blobs.keys().copied().chain(self.before.iter().copied()).collect();
        wanted.extend(self.links.iter().map(|(_, id)| *id));
        let mut held = HashSet::new();
        let mut seen = HashSet::new();
        for tip in tips {
            let tree = commit_of(self.repo, tip)?.tree().map_err(GitError::read("the tree of the base"))?;
            let mut open = vec![tree.id()];
            while let Some(id) = open.pop() {
                if held.len() == wanted.len() {
                    return Ok(held);
                }
                if !seen.insert(id) {
                    continue;
                }
                let tree = self.repo.find_tree(id).map_err(GitError::read("a tree of the base"))?;
                for entry in &tree {
                    if entry.kind() == Some(ObjectType::Tree) {
                        open.push(entry.id());
                    } else if wanted.contains(&entry.id()) {
                        held.insert(entry.id());
                    }
                }
            }
        }
        Ok(held)
    }
}

/// Everything that was met, to be sorted into new and old.
struct Sorted<'r> {
    walk: Walk<'r>,
    held: HashSet<Oid>,
    texts: Vec<(Place, Vec<u8>)>,
    refused: Vec<String>,
    commits: usize,
}

/// First words of a file that stands for another one elsewhere.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

impl Sorted<'_> {
    fn finish(mut self, repo: PathBuf, spec: &CollectSpec) -> Result<Collected, GitError> {
        let rules_changed = self.rules_changed(spec)?;
        let odb = self.walk.repo.odb().map_err(GitError::read("our repository"))?;
        let fail = |id: Oid| GitError::read(format!("object {id}"));
        let shown = |path: &[u8]| {
            String::from_utf8_lossy(path).chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>()
        };
        for (path, _) in self.walk.links.iter().filter(|(_, id)| !self.held.contains(id)) {
            let path = shown(path);
            self.refused
                .push(format!("`{path}` links to another repository (a submodule), whose content is not known here"));
        }
        let mut new = GitMaterial { repo: repo.clone(), items: Vec::new(), sources: Vec::new() };
        let (mut elsewhere, mut total) = (Vec::new(), 0_u64);
        let mut blobs = 0;
        for id in &self.walk.order {
            let Some(places) = self.walk.blobs.remove(id).filter(|_| !self.held.contains(id)) else { continue };
            let bytes = odb.read_header(*id).map_err(fail(*id))?.0 as u64;
            let first = shown(places[0].path().unwrap_or_default());
            if bytes > spec.limits.file {
                self.refused.push(format!("`{first}` has {bytes} bytes; at most {} are looked at", spec.limits.file));
                continue;
            }
            total += bytes;
            if total > spec.limits.total {
                self.refused.push(format!("the branch brings more than {} bytes of files", spec.limits.total));
                break;
            }
            if bytes < 1_024 && odb.read(*id).map_err(fail(*id))?.data().starts_with(LFS) {
                elsewhere.push(format!("`{first}` stands for a file that is kept elsewhere (Git LFS)"));
            }
            blobs += 1;
            new.items.push(Item { places, bytes });
            new.sources.push(Source::Blob(*id));
        }
        for (place, text) in self.texts {
            let bytes = text.len() as u64;
            total += bytes;
            new.items.push(Item { places: vec![place], bytes });
            new.sources.push(Source::Text(text));
        }
        let mut old = GitMaterial { repo, items: Vec::new(), sources: Vec::new() };
        let mut before: Vec<(&Oid, &Vec<u8>)> =
            self.walk.before_at.iter().filter(|(id, _)| self.held.contains(id)).collect();
        before.sort();
        for (id, path) in before {
            let bytes = odb.read_header(*id).map_err(fail(*id))?.0 as u64;
            if bytes <= spec.limits.file {
                old.items.push(Item { places: vec![Place::file(None, path.clone())], bytes });
                old.sources.push(Source::Blob(*id));
            }
        }
        let (refused, commits) = (self.refused, self.commits);
        Ok(Collected { new, old, refused, elsewhere, rules_changed, commits, blobs, bytes: total })
    }
}

impl Sorted<'_> {
    /// Which rule files differ between base and head.
    fn rules_changed(&self, spec: &CollectSpec) -> Result<Vec<String>, GitError> {
        let at = |sha: &CommitSha| commit_of(self.walk.repo, sha)?.tree().map_err(GitError::read("a tree"));
        let (base, head) = (at(&spec.base)?, at(&spec.head)?);
        let id = |tree: &Tree<'_>, name: &str| tree.get_name(name).map(|entry| entry.id());
        Ok(RULE_FILES.into_iter().filter(|name| id(&base, name) != id(&head, name)).map(str::to_owned).collect())
    }
}
