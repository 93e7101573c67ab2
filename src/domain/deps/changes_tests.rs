//! Tests of the comparison: what a branch adds, and what it only seems to add.

use super::*;

fn snapshot(files: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let put = |snapshot: &mut Snapshot, path: &str, text: &str| {
        let content = match text {
            "<link>" => Content::Unread("it is a symbolic link"),
            text => Content::Bytes(text.as_bytes().into()),
        };
        snapshot.insert(path.to_owned(), File { id: text.to_owned(), content });
    };
    for (path, text) in files.iter().filter(|(path, _)| kind_of(path).is_some()) {
        put(&mut snapshot, path, text);
    }
    loop {
        let wanted = snapshot.wanted();
        if wanted.is_empty() {
            return snapshot;
        }
        for path in wanted {
            match files.iter().find(|(other, _)| *other == path) {
                Some((_, text)) => put(&mut snapshot, &path, text),
                None => snapshot.missing(path),
            }
        }
    }
}

/// Added packages, base's packages of the same names, and what is unknown.
fn between(base: &[(&str, &str)], head: &[(&str, &str)]) -> (Vec<String>, Vec<String>, Vec<String>) {
    let changes = compare(&snapshot(base), &snapshot(head));
    (
        changes.added.iter().map(|pin| format!("{} at {}", pin.package, pin.place)).collect(),
        changes.base.iter().map(ToString::to_string).collect(),
        changes.unknown.iter().map(ToString::to_string).collect(),
    )
}

fn cargo(pins: &[(&str, &str)]) -> String {
    let entry = |(name, version): &(&str, &str)| {
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n"
        )
    };
    pins.iter().map(entry).collect()
}

const NONE: Vec<String> = Vec::new();

#[test]
fn only_what_was_not_there_before_is_added() {
    let (base, head) =
        (cargo(&[("a", "1.0.0"), ("b", "1.0.0")]), cargo(&[("a", "1.0.1"), ("b", "1.0.0"), ("c", "1.0.0")]));
    let (added, old, unknown) = between(&[("Cargo.lock", &base)], &[("Cargo.lock", &head)]);
    assert_eq!(added, ["crates.io a 1.0.1 at Cargo.lock:2", "crates.io c 1.0.0 at Cargo.lock:10"]);
    assert_eq!(old, ["crates.io a 1.0.0"], "b is nobody's question");
    assert_eq!(unknown, NONE);
    assert_eq!(between(&[("Cargo.lock", &base)], &[("Cargo.lock", &base)]), (NONE, NONE, NONE));
}

#[test]
fn what_another_file_of_base_holds_is_known_as_old() {
    let (base, head) = ("jinja2==2.4.1\n", "flask==1.0\nJinja2==2.4.1\n");
    let (added, old, _) =
        between(&[("requirements.txt", base)], &[("requirements.txt", base), ("tools/requirements.txt", head)]);
    assert_eq!(added, ["PyPI flask 1.0 at tools/requirements.txt:1", "PyPI jinja2 2.4.1 at tools/requirements.txt:2"]);
    assert_eq!(old, ["PyPI jinja2 2.4.1"]);
}

#[test]
fn unpinned_lines_count_when_they_are_new() {
    let base = "flask>=1\njinja2==2.4.1\n";
    let (_, _, unknown) = between(&[("requirements.txt", base)], &[("requirements.txt", "jinja2==2.4.2\nflask>=1\n")]);
    assert_eq!(unknown, NONE, "it only moved to another line");
    let (_, _, unknown) = between(&[("requirements.txt", base)], &[("requirements.txt", "flask>=2\njinja2==2.4.1\n")]);
    assert_eq!(unknown, ["requirements.txt:1: flask>=2: it is not pinned to one version"]);
}

#[test]
fn files_that_are_taken_in_are_read_whatever_their_name() {
    let base = [("requirements.txt", "-r deps/base.pip\n"), ("deps/base.pip", "flask==1.0\n")];
    let head = [
        ("requirements.txt", "-r deps/base.pip\n"),
        ("deps/base.pip", "-r more.pip\n"),
        ("deps/more.pip", "flask==1.1\n"),
    ];
    let (added, old, unknown) = between(&base, &head);
    assert_eq!(added, ["PyPI flask 1.1 at deps/more.pip:1"]);
    assert_eq!(old, ["PyPI flask 1.0"]);
    assert_eq!(unknown, NONE);
    let (_, _, unknown) = between(&base, &[("requirements.txt", "-r gone.txt\n-r https://x.invalid/r\n")]);
    assert_eq!(
        unknown,
        [
            "requirements.txt:1: gone.txt: it takes in a file that is not there",
            "requirements.txt:2: a file: it takes in a file from outside of the repository",
        ]
    );
}

#[test]
fn files_that_take_each_other_in_end() {
    let files = [("requirements.txt", "-r a.pip\n"), ("a.pip", "-r a.pip\n-r requirements.txt\nx==1\n")];
    assert_eq!(between(&[], &files).0, ["PyPI x 1 at a.pip:3"]);
}

#[test]
fn limits_are_no_dependencies_unless_they_pin() {
    let head = [("requirements.txt", "-c limits.pip\n"), ("limits.pip", "a<2\nb==1.0\n")];
    let (added, _, unknown) = between(&[], &head);
    assert_eq!((added, unknown), (vec!["PyPI b 1.0 at limits.pip:2".to_owned()], NONE));
}

#[test]
fn a_manifest_needs_its_lock_file() {
    let lock = cargo(&[("a", "1.0.0")]);
    let newer = cargo(&[("a", "1.0.0"), ("b", "1.0.0")]);
    let (old, new) = ("[dependencies]\na = \"1\"\n", "[dependencies]\na = \"1\"\nb = \"1\"\n");
    let unknown = |base: &[(&str, &str)], head: &[(&str, &str)]| between(base, head).2;
    let base = [("Cargo.lock", lock.as_str()), ("x/Cargo.toml", old)];
    assert_eq!(
        unknown(&base, &[("Cargo.lock", &lock), ("x/Cargo.toml", new)]),
        ["x/Cargo.toml: the file: it demands other dependencies than before, and its lock file is as it was"]
    );
    assert_eq!(unknown(&base, &[("Cargo.lock", &newer), ("x/Cargo.toml", new)]), NONE);
    assert_eq!(unknown(&base, &[("Cargo.lock", &lock), ("x/Cargo.toml", &format!("{old}[lints]\n"))]), NONE);
    assert_eq!(
        unknown(&[("x/Cargo.toml", old)], &[("x/Cargo.toml", new)]),
        ["x/Cargo.toml: the file: it demands other dependencies than before, and no lock file pins them"]
    );
    let elsewhere = [("y/Cargo.lock", newer.as_str()), ("x/Cargo.toml", new)];
    assert_eq!(unknown(&[("x/Cargo.toml", old)], &elsewhere).len(), 1, "a lock file beside it does not govern it");
    assert_eq!(unknown(&base, &[("x/Cargo.toml", old)]).len(), 1, "the lock file is removed");
    assert_eq!(unknown(&base, &[]), NONE, "manifest and lock file are removed");
    assert_eq!(unknown(&[], &[("package.json", "{\"scripts\": {}}")]), NONE, "it demands nothing");
}

#[test]
fn formats_that_are_not_read_are_said_once() {
    let base = [("yarn.lock", "a"), ("package.json", "{\"dependencies\": {\"a\": \"1\"}}")];
    let head = [("yarn.lock", "b"), ("package.json", "{\"dependencies\": {\"a\": \"2\"}}")];
    let (added, _, unknown) = between(&base, &head);
    assert_eq!((added, unknown), (NONE, vec!["yarn.lock: the file: its format is not read by this audit".to_owned()]));
    assert_eq!(between(&base, &base).2, NONE);
}

#[test]
fn what_is_no_plain_file_is_unknown_where_it_is_new() {
    let link = [("Cargo.lock", "<link>")];
    assert_eq!(between(&[], &link).2, ["Cargo.lock: the file: it is a symbolic link"]);
    assert_eq!(between(&link, &link).2, NONE);
    let changes = compare(&snapshot(&link), &snapshot(&[("Cargo.lock", &cargo(&[("a", "1.0.0")]))]));
    assert_eq!((changes.added.len(), changes.base_unread.len()), (1, 1));
}

#[test]
fn a_broken_lock_file_is_unknown_in_each_of_its_versions() {
    let (_, _, unknown) = between(&[("Cargo.lock", "<<<")], &[("Cargo.lock", ">>>")]);
    assert_eq!(unknown.len(), 1, "{unknown:?}");
}
