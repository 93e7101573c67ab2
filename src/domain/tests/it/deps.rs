//! Random lock files: nothing makes the readers panic, what is written is read, and the comparison says no more than what
//! the files hold.

use std::collections::BTreeSet;

use orch_domain::deps::changes::{Changes, Content, File, Snapshot, compare};
use orch_domain::deps::ignore::ignores_in;
use orch_domain::deps::lockfile::{FileKind, LockKind, ManifestKind, Reading, kind_of};
use orch_domain::deps::manifest::demands;
use orch_domain::deps::package::{Ecosystem, Package};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

const KINDS: [LockKind; 5] = [LockKind::Cargo, LockKind::Npm, LockKind::Requirements, LockKind::Poetry, LockKind::Uv];
const MANIFESTS: [ManifestKind; 6] = [
    ManifestKind::Cargo,
    ManifestKind::Npm,
    ManifestKind::PyProject,
    ManifestKind::SetupPy,
    ManifestKind::SetupCfg,
    ManifestKind::Pipfile,
];

/// One whole file of each kind, in which every word that the readers know occurs.
const SEEDS: [&str; 8] = [
    "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"00\"\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\nsource = \"git+https://example.invalid/b#0\"\n",
    "{\"lockfileVersion\": 2, \"packages\": {\"\": {}, \"node_modules/a\": {\"version\": \"1.0.0\", \"resolved\": \"https://example.invalid/a/-/a-1.0.0.tgz\"}, \"node_modules/@s/b\": {\"name\": \"c\", \"version\": \"2.0.0\", \"link\": true}}, \"dependencies\": {\"a\": {\"version\": \"npm:b@1.0.0\", \"dependencies\": {\"x\": {\"version\": \"file:x.tgz\"}}}}}",
    "# c\nflask[async]==2.0 ; python_version < '3' --hash=sha256:00 \\\n  --hash=sha256:11\n-r ../base.txt\n-c limits.txt\n-e .\nx @ https://u:p@example.invalid/x.whl\ny>=1,==1.2\n./z.whl\n",
    "[[package]]\nname = \"a\"\nversion = \"1\"\n[package.source]\ntype = \"git\"\n[metadata]\nlock-version = \"2.1\"\n",
    "version = 1\n[[package]]\nname = \"a\"\nversion = \"1\"\nsource = { registry = \"https://example.invalid\" }\n[[package]]\nname = \"b\"\nsource = { editable = \".\" }\n",
    "[package]\nname = \"a\"\n[dependencies]\nb = { version = \"1\" }\n[target.'cfg(unix)'.dependencies]\nc = \"1\"\n[workspace.dependencies]\nd = \"1\"\n",
    "[options]\ninstall_requires =\n  a>=1\n[options.extras_require]\nx = b\n",
    "gates:\n  security:\n    dep_audit_ignore:\n      - {id: CVE-2024-1, reason: x, expires: 2027-01-31, package: a}\n",
];

/// A cut, a repetition, a stray piece or a flipped byte.
#[derive(Clone, Debug)]
enum Mutation {
    Cut(usize, usize),
    Repeat(usize, usize, usize),
    Insert(usize, Vec<u8>),
    Flip(usize, u8),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = 0..2_000_usize;
    let pieces = prop_oneof![
        Just(b"[[package]]\n".to_vec()),
        Just(b"\\\n".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"{".to_vec()),
        Just(b"==".to_vec()),
        Just(b"@".to_vec()),
        Just(b"[".to_vec()),
        Just(b" -".to_vec()),
        Just("\u{feff}\u{a0}\u{e9}".as_bytes().to_vec()),
        vec(any::<u8>(), 0..8),
    ];
    let one = prop_oneof![
        (at.clone(), 0..60_usize).prop_map(|(at, most)| Mutation::Cut(at, most)),
        (at.clone(), 0..60_usize, 1..50_usize).prop_map(|(at, most, times)| Mutation::Repeat(at, most, times)),
        (at.clone(), pieces).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        (at, any::<u8>()).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
    ];
    vec(one, 1..8)
}

fn mutate(seed: &str, mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = seed.as_bytes().to_vec();
    for mutation in mutations {
        let within = |at: usize, bytes: &[u8]| at % (bytes.len() + 1);
        match mutation {
            Mutation::Cut(at, most) => {
                let from = within(*at, &bytes);
                let to = (from + most).min(bytes.len());
                bytes.drain(from..to);
            }
            Mutation::Repeat(at, most, times) => {
                let from = within(*at, &bytes);
                let to = (from + most).min(bytes.len());
                let piece = bytes[from..to].repeat(*times);
                bytes.splice(to..to, piece);
            }
            Mutation::Insert(at, piece) => {
                let at = within(*at, &bytes);
                bytes.splice(at..at, piece.iter().copied());
            }
            Mutation::Flip(at, byte) if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] ^= byte;
            }
            Mutation::Flip(..) => {}
        }
    }
    bytes
}

/// Whatever was read may be shown, put into a request, and into a tool's file.
fn is_safe(reading: &Reading) -> Result<(), TestCaseError> {
    for pin in &reading.pins {
        for text in [pin.package.name(), pin.package.version()] {
            prop_assert!(
                !text.is_empty() && text.len() <= 214 && text.bytes().all(|b| b.is_ascii_graphic()),
                "{pin:?}"
            );
            prop_assert!(!text.contains([';', ' ', '#', '\\', '"', '$']), "{pin:?}");
        }
        prop_assert!(!pin.place.to_string().contains(char::is_control));
    }
    for unknown in &reading.unknown {
        let shown = unknown.to_string();
        prop_assert!(!shown.contains(char::is_control) && !shown.contains("u:p@"), "{shown:?}");
        prop_assert_eq!(unknown.key.len(), 64);
    }
    for include in reading.includes.iter().filter_map(|include| include.path.as_deref()) {
        let parts: Vec<&str> = include.split('/').collect();
        prop_assert!(parts.iter().all(|part| !matches!(*part, "" | "." | "..")), "{include:?}");
    }
    Ok(())
}

fn render(kind: LockKind, pins: &BTreeSet<(String, String)>) -> String {
    let each = |form: &dyn Fn(&str, &str) -> String| pins.iter().map(|(name, version)| form(name, version)).collect();
    match kind {
        LockKind::Cargo => each(&|name, version| {
            format!(
                "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n\n"
            )
        }),
        LockKind::Poetry => {
            each(&|name, version| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\n"))
        }
        LockKind::Uv => each(&|name, version| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = {{ registry = \"x\" }}\n\n")
        }),
        LockKind::Requirements => each(&|name, version| format!("{name}=={version}\n")),
        LockKind::Npm => {
            // One package may stand at several versions: each in a place of its own.
            let entries: Vec<String> = pins
                .iter()
                .enumerate()
                .map(|(n, (name, version))| {
                    format!("\"node_modules/p{n}/node_modules/{name}\": {{\"version\": \"{version}\"}}")
                })
                .collect();
            format!("{{\"lockfileVersion\": 3, \"packages\": {{{}}}}}", entries.join(", "))
        }
    }
}

const fn file_of(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Cargo => "Cargo.lock",
        LockKind::Npm => "package-lock.json",
        LockKind::Requirements => "requirements.txt",
        LockKind::Poetry => "poetry.lock",
        LockKind::Uv => "uv.lock",
    }
}

fn pins() -> impl Strategy<Value = BTreeSet<(String, String)>> {
    btree_set(("[a-e]{1,2}", "[0-3]\\.[0-3]\\.[0-3]"), 0..12)
}

fn snapshot(files: &[(&str, String)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (path, text) in files {
        let content = Content::Bytes(text.as_bytes().into());
        snapshot.insert((*path).to_owned(), File { id: text.clone(), content });
    }
    for path in snapshot.wanted() {
        snapshot.missing(path);
    }
    snapshot
}

fn packages(ecosystem: Ecosystem, pins: &BTreeSet<(String, String)>) -> BTreeSet<Package> {
    pins.iter().map(|(name, version)| Package::new(ecosystem, name, version).expect("valid")).collect()
}

fn added(changes: &Changes) -> BTreeSet<Package> {
    changes.added.iter().map(|pin| pin.package.clone()).collect()
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic_and_nothing_unsafe_comes_out(
        seed in 0..SEEDS.len(), changed in mutations(), stray in vec(any::<u8>(), 0..300),
    ) {
        for bytes in [mutate(SEEDS[seed], &changed), stray] {
            for kind in KINDS {
                is_safe(&kind.read("some/requirements.txt", &bytes))?;
            }
            for kind in MANIFESTS {
                let _ = demands(kind, &bytes);
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let _ = ignores_in(&text);
            let files: Vec<(&str, String)> = KINDS.iter().map(|kind| (file_of(*kind), text.clone())).collect();
            let (one, other) = (snapshot(&files), snapshot(&[]));
            prop_assert!(compare(&one, &one).is_empty());
            let _ = compare(&one, &other);
            let _ = compare(&other, &one);
        }
    }

    #[test]
    fn what_is_written_is_read(pins in pins()) {
        for kind in KINDS {
            let reading = kind.read("x", render(kind, &pins).as_bytes());
            prop_assert_eq!(&reading.unknown, &Vec::new(), "{:?}", kind);
            let read: BTreeSet<Package> = reading.pins.into_iter().map(|pin| pin.package).collect();
            prop_assert_eq!(read, packages(kind.ecosystem(), &pins), "{:?}", kind);
        }
    }

    #[test]
    fn added_is_head_without_base_and_base_comes_along_by_name(base in pins(), head in pins()) {
        for kind in KINDS {
            prop_assert_eq!(kind_of(file_of(kind)), Some(FileKind::Lock(kind)));
            let side = |pins| snapshot(&[(file_of(kind), render(kind, pins))]);
            let changes = compare(&side(&base), &side(&head));
            let (old, new) = (packages(kind.ecosystem(), &base), packages(kind.ecosystem(), &head));
            let expected: BTreeSet<Package> = new.difference(&old).cloned().collect();
            let names: BTreeSet<&str> = expected.iter().map(Package::name).collect();
            prop_assert_eq!(added(&changes), expected.clone());
            prop_assert_eq!(changes.added.len(), expected.len(), "each once");
            let same: BTreeSet<Package> = old.into_iter().filter(|package| names.contains(package.name())).collect();
            prop_assert_eq!(changes.base, same);
            prop_assert_eq!(changes.unknown, Vec::new());
        }
    }
}
