//! The installer keeps its word: once, whole, checked, loud. These tests install small tools of their own; no network.

#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::Command;

use orch_test_support::install::{Bench, InstallError, Pin, Recipe, Shelf};

/// SHA-256 of `tool body\n`, as `sha256sum` says it.
const BODY_SHA256: &str = "cc1a4c27e6cdd6c799cfedc86347197ef526ac61eeb17792208ecb56847e89f0";

fn put(bench: &Bench<'_>, name: &str, text: &str) {
    fs::write(bench.folder.join(name), text).unwrap();
}

fn recipe<'a>(make: &'a dyn Fn(&Bench<'_>) -> Result<(), InstallError>) -> Recipe<'a> {
    Recipe { name: "tool", version: "1.0", inputs: "inputs".to_owned(), pins: Vec::new(), make }
}

/// Fails if it is ever asked: stands for "the network was touched".
fn must_not_run(_: &Bench<'_>) -> Result<(), InstallError> {
    panic!("the second call installed again")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_second_call_makes_nothing() {
    let room = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(room.path().join("deep/shelf"));
    let make = |bench: &Bench<'_>| {
        put(bench, "tool", "tool body\n");
        Ok(())
    };
    let first = shelf.install(&recipe(&make)).unwrap();
    let second = shelf.install(&recipe(&must_not_run)).unwrap();
    assert_eq!(first, second);
    assert_eq!(fs::read_to_string(second.join("tool")).unwrap(), "tool body\n");
}

#[test]
fn every_kind_of_damage_is_seen_and_mended() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 6] = [
        ("one byte, same length", |dir| fs::write(dir.join("tool"), "tool b0dy\n").unwrap()),
        ("file gone", |dir| fs::remove_file(dir.join("tool")).unwrap()),
        ("inventory gone", |dir| fs::remove_file(dir.join("installed.txt")).unwrap()),
        ("inventory emptied", |dir| fs::write(dir.join("installed.txt"), "").unwrap()),
        ("no longer executable", |dir| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            fs::set_permissions(dir.join("tool"), mode).unwrap();
        }),
        ("link bent", |dir| {
            fs::remove_file(dir.join("link")).unwrap();
            std::os::unix::fs::symlink("elsewhere", dir.join("link")).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let room = tempfile::tempdir().unwrap();
        let shelf = Shelf::at(room.path());
        let made = Cell::new(0);
        let make = |bench: &Bench<'_>| {
            made.set(made.get() + 1);
            put(bench, "tool", "tool body\n");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(bench.folder.join("tool"), mode).unwrap();
            std::os::unix::fs::symlink("tool", bench.folder.join("link")).unwrap();
            Ok(())
        };
        let folder = shelf.install(&recipe(&make)).unwrap();
        damage(&folder);
        shelf.install(&recipe(&make)).unwrap();
        assert_eq!(made.get(), 2, "{name}: not seen");
        assert_eq!(fs::read_to_string(folder.join("link")).unwrap(), "tool body\n", "{name}: not mended");
        shelf.install(&recipe(&must_not_run)).unwrap();
    }
}

#[test]
fn what_a_tool_writes_beside_itself_is_no_damage() {
    let room = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(room.path());
    let make = |bench: &Bench<'_>| {
        put(bench, "tool", "tool body\n");
        Ok(())
    };
    let folder = shelf.install(&recipe(&make)).unwrap();
    fs::create_dir(folder.join("__pycache__")).unwrap();
    fs::write(folder.join("__pycache__/tool.pyc"), "compiled").unwrap();
    fs::write(folder.join("cache"), "more").unwrap();
    shelf.install(&recipe(&must_not_run)).unwrap();
}

#[test]
fn changed_inputs_make_it_anew() {
    let room = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(room.path());
    let made = Cell::new(0);
    let make = |bench: &Bench<'_>| {
        made.set(made.get() + 1);
        put(bench, "tool", "tool body\n");
        Ok(())
    };
    shelf.install(&recipe(&make)).unwrap();
    shelf.install(&Recipe { inputs: "other".to_owned(), ..recipe(&make) }).unwrap();
    assert_eq!(made.get(), 2);
}

#[test]
fn a_wrong_hash_installs_nothing_and_says_both() {
    let room = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(room.path());
    let make = |bench: &Bench<'_>| {
        put(bench, "tool", "something else\n");
        Ok(())
    };
    let pins = vec![Pin { file: "tool".to_owned(), sha256: BODY_SHA256.to_owned() }];
    let error = shelf.install(&Recipe { pins: pins.clone(), ..recipe(&make) }).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, InstallError::WrongHash { .. }), "{text}");
    assert!(
        text.contains("tool 1.0") && text.contains(BODY_SHA256) && text.contains("Nothing was installed"),
        "{text}"
    );
    assert_eq!(names(room.path()), [".tool-1.0.lock"], "only the lock file may stay");

    let right = |bench: &Bench<'_>| {
        put(bench, "tool", "tool body\n");
        Ok(())
    };
    shelf.install(&Recipe { pins, ..recipe(&right) }).unwrap();
}

#[test]
fn a_pinned_file_that_is_missing_is_an_error() {
    let room = tempfile::tempdir().unwrap();
    let pins = vec![Pin { file: "tool".to_owned(), sha256: BODY_SHA256.to_owned() }];
    let error = Shelf::at(room.path()).install(&Recipe { pins, ..recipe(&|_| Ok(())) }).unwrap_err();
    assert!(matches!(error, InstallError::Disk { what: "read", .. }), "{error}");
}

#[test]
fn a_failing_or_missing_program_is_quoted() {
    let room = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(room.path());
    let fails = |bench: &Bench<'_>| bench.run(Command::new("sh").args(["-c", "echo reason >&2; exit 7"])).map(drop);
    let text = shelf.install(&recipe(&fails)).unwrap_err().to_string();
    assert!(text.contains("exit status: 7") && text.contains("reason"), "{text}");
    let missing = |bench: &Bench<'_>| bench.run(&mut Command::new("no-such-program-here")).map(drop);
    let text = shelf.install(&recipe(&missing)).unwrap_err().to_string();
    assert!(text.contains("install no-such-program-here"), "{text}");
    assert_eq!(names(room.path()), [".tool-1.0.lock"]);
}

#[test]
fn leftovers_of_a_killed_installation_are_swept() {
    let room = tempfile::tempdir().unwrap();
    fs::create_dir_all(room.path().join(".making-tool-1.0-killed/half")).unwrap();
    fs::create_dir_all(room.path().join("tool-1.0")).unwrap();
    let make = |bench: &Bench<'_>| {
        put(bench, "tool", "tool body\n");
        Ok(())
    };
    Shelf::at(room.path()).install(&recipe(&make)).unwrap();
    assert_eq!(names(room.path()), [".tool-1.0.lock", "tool-1.0"]);
}

#[test]
fn many_at_once_make_it_once() {
    let room = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(room.path());
    let made = std::sync::atomic::AtomicU32::new(0);
    let start = std::sync::Barrier::new(6);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let make = |bench: &Bench<'_>| {
                    made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    put(bench, "tool", "tool body\n");
                    Ok(())
                };
                start.wait();
                let folder = shelf.install(&recipe(&make)).unwrap();
                assert_eq!(fs::read_to_string(folder.join("tool")).unwrap(), "tool body\n");
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
}

#[test]
fn a_shelf_that_cannot_be_made_says_where() {
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Shelf::at(file.join("shelf")).install(&recipe(&|_| Ok(()))).unwrap_err();
    assert!(error.to_string().contains("file/shelf"), "{error}");
}
