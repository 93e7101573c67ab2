//! Rules about single source files: header, size, what a room may name, what no file may hold.

use crate::{Page, none, tracked};

/// The most production lines that a file may have.
const WALL: usize = 600;
/// The most lines of tests in one file.
const TEST_WALL: usize = 1200;

/// What a room must not name in its code, although its manifest would let it: `(folder, words, why)`. What a manifest can
/// forbid is forbidden there (see `packages.rs`).
const WALLS: &[(&str, &[&str], &str)] = &[
    (
        "src/domain/",
        &[
            "tokio",
            "rusqlite",
            "std::fs",
            "std::env",
            "std::net",
            "std::process",
            "SystemTime::now",
            "Instant::now",
            "Timestamp::now",
            "Zoned::now",
            "std::thread",
        ],
        "the domain is pure: time, files and settings are handed in",
    ),
    ("src/adapters/", &["orch_store", "orch_actors"], "adapters return facts, never verdicts"),
    ("src/shim/", &["tokio", "std::thread::spawn"], "the shim is one thread, so that fork is safe"),
    ("src/adapters/", &["\"ORCH_"], "what a job finds in its environment is named in src/domain/variables.rs"),
    (
        "actors/",
        &["warp", "clap", "rusqlite", "std::process::Command", "tokio::process", "println!", "\"ORCH_"],
        "actors decide; SQL is the store's, processes are the adapters', words are the command line's, names of variables \
         the domain's",
    ),
    (
        "src/http/",
        &["ractor", "ActorRef", "orch_store", "orch_adapters"],
        "HTTP speaks through the handle and shows views of the domain",
    ),
    (
        "src/cli/",
        &["ractor", "ActorRef", "orch_store", "orch_adapters"],
        "a command is a thin client of the handle or of HTTP; what needs more goes through the composition root",
    ),
];

/// One line of a file that counts as code, with its number; comments are cut off.
struct Line<'a> {
    number: usize,
    code: &'a str,
}

/// Whether the whole file is test code by its place or its name.
fn is_test_file(path: &str) -> bool {
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.trim_end_matches(".rs");
    folders.split('/').any(|part| matches!(part, "tests" | "benches" | "fuzz") || part.ends_with("_tests"))
        || matches!(stem, "tests" | "test")
        || stem.ends_with("_tests")
}

/// The number of lines before an inline test module, which is always the last thing in a file.
fn production_length(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let opens_module = |line: &&str| {
        let line = line.trim_start().trim_start_matches("pub(crate) ");
        line.starts_with("mod ") && line.contains('{')
    };
    let starts = lines.iter().enumerate().find(|(i, line)| {
        let marked = line.trim_start().starts_with("#[cfg(test") || line.trim_start().starts_with("#[cfg(all(test");
        marked && lines[i + 1..].iter().take(3).any(opens_module)
    });
    starts.map_or(lines.len(), |(i, _)| i)
}

/// Code of the lines `from..to` (counted from zero) without line comments. A `//` inside a string only shortens what is
/// looked at.
fn code(text: &str, from: usize, to: usize) -> Vec<Line<'_>> {
    let lines = text.lines().enumerate().skip(from).take(to.saturating_sub(from));
    lines.map(|(i, line)| Line { number: i + 1, code: line.split("//").next().unwrap_or_default() }).collect()
}

/// Production lines and test lines of a file.
fn halves<'a>(path: &str, text: &'a str) -> (Vec<Line<'a>>, Vec<Line<'a>>) {
    let split = if is_test_file(path) { 0 } else { production_length(text) };
    (code(text, 0, split), code(text, split, usize::MAX))
}

fn header(path: &str, text: &str) -> Vec<String> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{path}: open it with `//!`: what it owns, what it refuses, its invariants")]
}

fn size(path: &str, text: &str) -> Vec<String> {
    let (production, tests) = halves(path, text);
    let mut found = Vec::new();
    if production.len() > WALL {
        found.push(format!("{path}: {} production lines, the wall is {WALL}: split it by idea", production.len()));
    }
    if tests.len() > TEST_WALL {
        found.push(format!("{path}: {} lines of tests, the wall is {TEST_WALL}: split them by subject", tests.len()));
    }
    found
}

fn walls(path: &str, text: &str) -> Vec<String> {
    let (production, _) = halves(path, text);
    let rules = WALLS.iter().filter(|(folder, ..)| path.starts_with(folder));
    let hits = rules.flat_map(|(_, words, why)| {
        production.iter().flat_map(move |line| {
            let named = words.iter().filter(move |word| line.code.contains(*word));
            named.map(move |word| format!("{path}:{}: `{word}` must not be named here: {why}", line.number))
        })
    });
    hits.collect()
}

/// Words that stand for unfinished or careless work. Put together, so that this file does not find itself.
fn careless(path: &str, text: &str) -> Vec<String> {
    const EVERYWHERE: &[(&str, &str, &str)] = &[
        ("todo", "!(", "finish it or leave it out"),
        ("unimplemented", "!(", "finish it or leave it out"),
        ("dbg", "!(", "remove it"),
        ("#[ig", "nore]", "an ignored test needs a reason: #[ignore = \"...\"]"),
        ("#[all", "ow(", "use #[expect(.., reason = \"..\")]"),
        ("#![all", "ow(", "use #![expect(.., reason = \"..\")]"),
    ];
    const PRODUCTION: &[(&str, &str, &str)] =
        &[(".unw", "rap()", "use `expect` with the invariant, or return the error")];
    const TESTS: &[(&str, &str, &str)] = &[
        ("thread::sl", "eep(", "wait for the condition, with a bound"),
        ("time::sl", "eep(", "wait for the condition, with a bound"),
    ];
    let (production, tests) = halves(path, text);
    let mut found = Vec::new();
    let mut look = |lines: &[Line<'_>], rules: &[(&str, &str, &str)]| {
        for line in lines {
            for (head, tail, cure) in rules {
                let word = format!("{head}{tail}");
                if line.code.contains(&word) {
                    found.push(format!("{path}:{}: `{word}`: {cure}", line.number));
                }
            }
        }
    };
    look(&production, EVERYWHERE);
    look(&tests, EVERYWHERE);
    look(&production, PRODUCTION);
    look(&tests, TESTS);
    found
}

/// Paths of the machine that a line was written on. A path in a recorded stream is data, not a promise.
fn machine_paths(path: &str, text: &str) -> Vec<String> {
    const PLACES: &[(&str, &str)] =
        &[("/work", "/main"), ("/work", "/shared"), ("/root/", ".cargo"), ("/root/", ".rustup"), ("/root/", ".pyenv")];
    if path.starts_with("tests/fixtures/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for (head, tail) in PLACES {
            let place = format!("{head}{tail}");
            if line.contains(&place) {
                found.push(format!("{path}:{}: `{place}` is a path of somebody's machine", i + 1));
            }
        }
    }
    found
}

fn rust_files() -> Vec<Page> {
    tracked().into_iter().filter(|page| page.path.ends_with(".rs")).collect()
}

fn hold(pages: &[Page], rule: fn(&str, &str) -> Vec<String>) {
    none(pages.iter().flat_map(|page| rule(&page.path, &page.text)).collect());
}

#[test]
fn every_file_opens_with_its_header() {
    hold(&rust_files(), header);
}

#[test]
fn no_file_grows_over_the_wall() {
    hold(&rust_files(), size);
}

#[test]
fn no_room_names_what_it_must_not_know() {
    hold(&rust_files(), walls);
}

#[test]
fn nothing_careless_is_left() {
    hold(&rust_files(), careless);
}

#[test]
fn no_path_of_a_machine_is_written_down() {
    hold(&tracked(), machine_paths);
}

#[test]
fn the_walk_sees_the_repository() {
    let files = rust_files();
    assert!(files.iter().any(|page| page.path == "src/domain/lib.rs"), "{} files", files.len());
    assert!(files.iter().any(|page| page.path.ends_with("house/text.rs")));
}

#[test]
fn each_rule_sees_what_it_is_for() {
    assert_eq!(header("a.rs", "//! Owns a.\nfn a() {}\n").len(), 0);
    assert_eq!(header("a.rs", "\nfn a() {}\n").len(), 1);

    let long = "fn a() {}\n".repeat(WALL + 1);
    let tested = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(WALL + 1));
    assert_eq!((size("a.rs", &long).len(), size("a.rs", &tested).len(), size("tests/a.rs", &long).len()), (1, 0, 0));
    assert_eq!(size("tests/a.rs", &"\n".repeat(TEST_WALL + 1)).len(), 1);

    let pure = "// std::fs is not for us\nfn a() {}\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\n";
    assert_eq!(walls("src/domain/a.rs", pure).len(), 0, "comments and tests may name it");
    assert_eq!(walls("src/domain/a.rs", "use std::fs;\nlet x = Instant::now();\n").len(), 2);
    assert_eq!(walls("src/store/a.rs", "use std::fs;\n").len(), 0);
    assert_eq!(walls("src/http/a.rs", "use ractor::ActorRef;\n").len(), 2);

    let unwrapping = format!("let x = y{}{};\n", ".unw", "rap()");
    assert_eq!((careless("a.rs", &unwrapping).len(), careless("tests/a.rs", &unwrapping).len()), (1, 0));
    assert_eq!(careless("src/a_tests.rs", &unwrapping).len(), 0, "a file of tests beside the code");
    assert_eq!(careless("src/a_tests/b.rs", &unwrapping).len(), 0, "a folder of tests beside the code");
    let sleeping = format!("std::thread::sl{};\n", "eep(d)");
    assert_eq!((careless("a.rs", &sleeping).len(), careless("tests/a.rs", &sleeping).len()), (0, 1));
    assert_eq!(careless("a.rs", &format!("tod{}\n", "o!()")).len(), 1);

    let place = format!("see {}{}/x", "/work", "/main");
    assert_eq!((machine_paths("a.md", &place).len(), machine_paths("tests/fixtures/a", &place).len()), (1, 0));
}
