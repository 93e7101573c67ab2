//! Which files tell of dependencies, and what reading one of them yields.
//!
//! Owns the table of file names and the shape of a reading: pins that can be asked about, and things that nobody can say
//! anything of. Refuses to fail: what cannot be read is an [`Unknown`] with its place. Bounded: see [`MOST_PINS`].

use std::fmt;

use sha2::{Digest, Sha256};

use super::package::{Ecosystem, Package, clip, shown};
use super::{cargo_lock, npm_lock, python_locks, requirements};

/// Most pins taken from one file; more leave an [`Unknown`].
pub const MOST_PINS: usize = 50_000;

/// A format that pins dependencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockKind {
    /// `Cargo.lock`.
    Cargo,
    /// `package-lock.json` and `npm-shrinkwrap.json`.
    Npm,
    /// `requirements*.txt` and what it includes.
    Requirements,
    /// `poetry.lock`.
    Poetry,
    /// `uv.lock`.
    Uv,
}

/// A file in which people name what they depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ManifestKind {
    /// `Cargo.toml`.
    Cargo,
    /// `package.json`.
    Npm,
    /// `pyproject.toml`.
    PyProject,
    /// `setup.py`.
    SetupPy,
    /// `setup.cfg`.
    SetupCfg,
    /// `Pipfile`.
    Pipfile,
}

/// What a file's name says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// Pins that are read.
    Lock(LockKind),
    /// Wishes, which a lock file has to pin.
    Manifest(ManifestKind),
    /// Pins in a format that is not read; whose manifests it would pin, where those are known.
    Unread(Option<Ecosystem>),
}

/// Lock files in formats that are not read: a change of one is never taken for clean.
const UNREAD: [(&str, Option<Ecosystem>); 16] = [
    ("yarn.lock", Some(Ecosystem::Npm)),
    ("pnpm-lock.yaml", Some(Ecosystem::Npm)),
    ("bun.lock", Some(Ecosystem::Npm)),
    ("bun.lockb", Some(Ecosystem::Npm)),
    ("deno.lock", Some(Ecosystem::Npm)),
    ("Pipfile.lock", Some(Ecosystem::PyPi)),
    ("pdm.lock", Some(Ecosystem::PyPi)),
    ("pylock.toml", Some(Ecosystem::PyPi)),
    ("conda-lock.yml", Some(Ecosystem::PyPi)),
    ("go.sum", None),
    ("Gemfile.lock", None),
    ("composer.lock", None),
    ("mix.lock", None),
    ("Package.resolved", None),
    ("gradle.lockfile", None),
    ("packages.lock.json", None),
];

impl LockKind {
    /// Which ecosystem it pins.
    #[must_use]
    pub const fn ecosystem(self) -> Ecosystem {
        match self {
            Self::Cargo => Ecosystem::CratesIo,
            Self::Npm => Ecosystem::Npm,
            Self::Requirements | Self::Poetry | Self::Uv => Ecosystem::PyPi,
        }
    }

    /// Reads a file of this format. Never fails: what is not understood is in [`Reading::unknown`].
    #[must_use]
    pub fn read(self, path: &str, bytes: &[u8]) -> Reading {
        let mut reading = match self {
            Self::Requirements => requirements::read(path, &String::from_utf8_lossy(bytes)),
            _ => match std::str::from_utf8(bytes) {
                Err(_) => Reading::broken(path, bytes, "it is not UTF-8"),
                Ok(text) => match self {
                    Self::Cargo => cargo_lock::read(path, text),
                    Self::Npm => npm_lock::read(path, text),
                    Self::Poetry => python_locks::read_poetry(path, text),
                    Self::Uv | Self::Requirements => python_locks::read_uv(path, text),
                },
            },
        };
        if reading.pins.len() > MOST_PINS {
            let why = format!("it holds {} pins; the first {MOST_PINS} are looked at", reading.pins.len());
            reading.pins.truncate(MOST_PINS);
            reading.unknown.push(Unknown::of_file(path, bytes, &why));
        }
        reading
    }
}

impl ManifestKind {
    /// Which ecosystem it draws on.
    #[must_use]
    pub const fn ecosystem(self) -> Ecosystem {
        match self {
            Self::Cargo => Ecosystem::CratesIo,
            Self::Npm => Ecosystem::Npm,
            Self::PyProject | Self::SetupPy | Self::SetupCfg | Self::Pipfile => Ecosystem::PyPi,
        }
    }
}

/// What the path of a file says; `None` for everything that has nothing to do with dependencies. What lies inside an
/// installed dependency (`node_modules`) is that dependency's own affair.
#[must_use]
pub fn kind_of(path: &str) -> Option<FileKind> {
    let mut parts = path.rsplit('/');
    let leaf = parts.next().unwrap_or_default();
    if parts.clone().any(|part| part == "node_modules") {
        return None;
    }
    let kind = match leaf {
        "Cargo.lock" => FileKind::Lock(LockKind::Cargo),
        "package-lock.json" | "npm-shrinkwrap.json" => FileKind::Lock(LockKind::Npm),
        "poetry.lock" => FileKind::Lock(LockKind::Poetry),
        "uv.lock" => FileKind::Lock(LockKind::Uv),
        "Cargo.toml" => FileKind::Manifest(ManifestKind::Cargo),
        "package.json" => FileKind::Manifest(ManifestKind::Npm),
        "pyproject.toml" => FileKind::Manifest(ManifestKind::PyProject),
        "setup.py" => FileKind::Manifest(ManifestKind::SetupPy),
        "setup.cfg" => FileKind::Manifest(ManifestKind::SetupCfg),
        "Pipfile" => FileKind::Manifest(ManifestKind::Pipfile),
        _ => match UNREAD.iter().find(|(name, _)| *name == leaf) {
            Some((_, ecosystem)) => FileKind::Unread(*ecosystem),
            None => {
                let stem = leaf.strip_suffix(".txt")?.to_ascii_lowercase();
                let named = stem.starts_with("requirements") || stem.ends_with("requirements");
                let housed = parts.next() == Some("requirements");
                return (named || housed).then_some(FileKind::Lock(LockKind::Requirements));
            }
        },
    };
    Some(kind)
}

/// Where something stands in the repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, from the root.
    pub path: String,
    /// Where in it.
    pub spot: Spot,
}

/// Where in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    /// The file as a whole.
    File,
    /// A line, counted from one.
    Line(u32),
    /// A key, in formats that are read without lines.
    Key(String),
}

impl Place {
    pub(super) fn file(path: &str) -> Self {
        Self { path: path.to_owned(), spot: Spot::File }
    }

    pub(super) fn line(path: &str, line: u32) -> Self {
        Self { path: path.to_owned(), spot: Spot::Line(line) }
    }

    pub(super) fn key(path: &str, key: &str) -> Self {
        Self { path: path.to_owned(), spot: Spot::Key(shown(key, 200)) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path is a branch's text.
        let path = clip(&self.path, 300);
        match &self.spot {
            Spot::File => f.write_str(&path),
            Spot::Line(line) => write!(f, "{path}:{line}"),
            Spot::Key(key) => write!(f, "{path} ({key})"),
        }
    }
}

/// A dependency at one version, and where it is pinned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// What.
    pub package: Package,
    /// Where.
    pub place: Place,
}

/// Something that may bring in code, of which nobody can say whether it is clean.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unknown {
    /// Where it stands.
    pub place: Place,
    /// What it is, safe to show.
    pub what: String,
    /// Why nothing is known.
    pub why: String,
    /// What makes it the same thing in another commit, wherever it stands there.
    pub key: String,
}

impl Unknown {
    /// A thing in a file; `identity` is what makes it the same elsewhere and is kept as a digest only, since it may hold
    /// what must not be shown.
    pub(super) fn new(place: Place, what: &str, why: &str, identity: &str) -> Self {
        let key = hex::encode(Sha256::digest(format!("{why}\0{identity}")));
        Self { place, what: shown(what, 120), why: why.to_owned(), key }
    }

    /// A file as a whole: the same only with the same content.
    pub(super) fn of_file(path: &str, bytes: &[u8], why: &str) -> Self {
        Self::new(Place::file(path), "the file", why, &hex::encode(Sha256::digest(bytes)))
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.what, self.why)
    }
}

/// Another file that a requirements file takes in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Include {
    /// Where it is taken in.
    pub place: Place,
    /// Its path from the root; `None` when it lies outside of the repository.
    pub path: Option<String>,
    /// Whether it only limits versions: what it does not pin is no dependency.
    pub limits_only: bool,
}

/// What a lock file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Dependencies with one version each.
    pub pins: Vec<Pin>,
    /// What nothing can be said about.
    pub unknown: Vec<Unknown>,
    /// Further files of the same kind.
    pub includes: Vec<Include>,
}

impl Reading {
    pub(super) fn broken(path: &str, bytes: &[u8], why: &str) -> Self {
        Self { unknown: vec![Unknown::of_file(path, bytes, why)], ..Self::default() }
    }

    /// Takes a pin, or says that the registry could not hold it.
    pub(super) fn pin(&mut self, ecosystem: Ecosystem, name: &str, version: &str, place: Place) {
        match Package::new(ecosystem, name, version) {
            Ok(package) => self.pins.push(Pin { package, place }),
            Err(error) => {
                let what = format!("{name} {version}");
                self.unknown.push(Unknown::new(place, &what, &error.to_string(), &what));
            }
        }
    }
}

/// Why a file in TOML is not understood: the place, and nothing of its text.
pub(super) fn toml_trouble(name: &str, text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| Lines::of(text).at(span.start));
    format!("it is no {name} (line {line})")
}

/// Finds lines by byte positions.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect())
    }

    pub(super) fn at(&self, position: usize) -> u32 {
        u32::try_from(self.0.partition_point(|end| *end < position) + 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_kind_wherever_the_file_lies() {
        use FileKind::{Lock, Manifest, Unread};
        let table = [
            ("Cargo.lock", Some(Lock(LockKind::Cargo))),
            ("a/b/Cargo.lock", Some(Lock(LockKind::Cargo))),
            ("web/package-lock.json", Some(Lock(LockKind::Npm))),
            ("npm-shrinkwrap.json", Some(Lock(LockKind::Npm))),
            ("requirements.txt", Some(Lock(LockKind::Requirements))),
            ("requirements-dev.txt", Some(Lock(LockKind::Requirements))),
            ("dev-Requirements.txt", Some(Lock(LockKind::Requirements))),
            ("requirements/base.txt", Some(Lock(LockKind::Requirements))),
            ("requirements/deep/base.txt", None),
            ("requirements.in", None),
            ("notes.txt", None),
            ("uv.lock", Some(Lock(LockKind::Uv))),
            ("poetry.lock", Some(Lock(LockKind::Poetry))),
            ("x/Cargo.toml", Some(Manifest(ManifestKind::Cargo))),
            ("setup.cfg", Some(Manifest(ManifestKind::SetupCfg))),
            ("yarn.lock", Some(Unread(Some(Ecosystem::Npm)))),
            ("go.sum", Some(Unread(None))),
            ("node_modules/a/package.json", None),
            ("src/Cargo.lock.rs", None),
            ("", None),
        ];
        for (path, kind) in table {
            assert_eq!(kind_of(path), kind, "{path:?}");
        }
    }

    #[test]
    fn lines_are_counted_from_one() {
        let lines = Lines::of("a\nbc\n\nd");
        let at: Vec<u32> = [0, 1, 2, 3, 4, 5, 6, 99].into_iter().map(|position| lines.at(position)).collect();
        assert_eq!(at, [1, 1, 2, 2, 2, 3, 4, 4]);
    }

    #[test]
    fn what_is_shown_holds_no_control_characters() {
        let unknown = Unknown::new(Place::line("a\u{1b}[2J.txt", 3), "x>=1", "it is odd", "id");
        let address = Unknown::new(Place::file("a"), "https://me:secret@x.invalid", "it is odd", "id");
        assert_eq!(address.to_string(), "a: (not shown): it is odd");
        assert_eq!(unknown.to_string(), "a [2J.txt:3: x>=1: it is odd");
    }
}
