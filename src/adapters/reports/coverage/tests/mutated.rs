//! Reports, names and places of any sort: nothing panics, and nothing that is not a file of the commit comes out.

use orch_domain::coverage::{Lines, MOST_BLOCKS};
use proptest::prelude::*;

use super::*;

/// A report with some of its bytes changed, taken out, doubled or cut off.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let source = prop_oneof![Just("app"), Just("."), Just("t&amp;x"), Just("..")];
    let cobertura = source.prop_map(|source| COBERTURA.replace("SOURCE", source));
    let whole = prop_oneof![Just(PYTHON.to_owned()), Just(LCOV.to_owned()), cobertura];
    let change = (any::<proptest::sample::Index>(), any::<u8>(), 0..5_u8);
    (whole, proptest::collection::vec(change, 0..8)).prop_map(|(whole, changes)| {
        let mut bytes = whole.into_bytes();
        for (at, byte, how) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                3 => bytes.truncate(at),
                _ => {
                    let end = (at + usize::from(byte)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
        bytes
    })
}

/// Names as hostile tools write them: up, down, absolute, through links, deep, odd.
fn name(tree: String) -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => Just("app".to_owned()),
        4 => Just("core.py".to_owned()),
        2 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
        2 => Just("secret.py".to_owned()),
        1 => Just("way".to_owned()),
        1 => Just("linked.py".to_owned()),
        1 => Just("lib".to_owned()),
        1 => Just("a/".repeat(600)),
        1 => "[a-z.&-]{1,4}",
    ];
    let start = prop_oneof![Just(String::new()), Just("/".to_owned()), Just(tree + "/")];
    // A path of the commit behind any way there: else few names spell one in a way that is nearly right.
    let end = prop_oneof![Just(None), Just(Some("app/core.py")), Just(Some("lib/core.py"))];
    (start, proptest::collection::vec(part, 0..6), end).prop_map(|(start, mut parts, end)| {
        parts.extend(end.map(str::to_owned));
        start + &parts.join("/")
    })
}

/// A checkout with links to a secret beside it; the links are the commit's, what they lead to is not.
fn with_links() -> Home {
    let mut home = Home::new();
    home.commit("lib/core.py", "x = 1\n");
    fs::write(home.0.path().join("secret.py"), "x = 1\n").expect("written");
    fs::write(home.tree().join("app/secret.py"), "x = 1\n").expect("written");
    symlink(home.0.path(), home.tree().join("way")).expect("linked");
    symlink(home.0.path().join("secret.py"), home.tree().join("app/linked.py")).expect("linked");
    home
}

/// What a name means by the disk and the commit's list, as plainly as it can be said.
fn means(home: &Home, name: &str) -> Option<String> {
    let mut at = if name.starts_with('/') { PathBuf::from("/") } else { home.tree() };
    for part in Path::new(name).components() {
        match part {
            Component::ParentDir => drop(at.pop().then_some(())?),
            Component::Normal(part) => at.push(part),
            _ => {}
        }
    }
    let path = at.strip_prefix(home.tree()).ok()?.to_str()?.to_owned();
    home.1.contains(&path).then_some(path)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Whatever was done to the bytes, through the whole way from a place to a model.
    #[test]
    fn no_mutated_report_panics_or_leaves_the_commit(bytes in mutated(), bom in any::<bool>()) {
        let home = with_links();
        let places = home.places();
        let since = places.clear().expect("cleared");
        let bytes = if bom { [b"\xef\xbb\xbf".to_vec(), bytes].concat() } else { bytes };
        fs::write(places.asked_for(), &bytes).expect("written");
        match places.read(&since) {
            Ok(report) => {
                let known = |path: &RepoPath| home.1.iter().any(|name| name == path.as_str());
                prop_assert!(report.coverage.files.keys().all(known), "{:?}", report.coverage.files.keys());
                prop_assert!(report.coverage.totals().total() <= bytes.len() as u64);
                prop_assert!(report.notes.iter().all(|note| note.len() < 3_000 && !note.contains('\n')));
            }
            Err(error) => prop_assert!(error.to_string().len() < 4_000),
        }
    }

    /// A name means the file that its folded text names, if the commit has it, in every format; and nothing else.
    #[test]
    fn every_name_means_the_file_of_the_commit_that_it_spells_or_none(
        names in name("ROOT".to_owned()).prop_flat_map(|first| (Just(first), name("ROOT".to_owned()))),
    ) {
        let home = with_links();
        let tree = home.tree().display().to_string();
        let names = [names.0, names.1].map(|name| name.replace("ROOT", &tree));
        let mut expected: Vec<String> = names.iter().filter_map(|name| means(&home, name.trim())).collect();
        expected.sort_unstable();
        expected.dedup();
        let lcov: String = names.iter().map(|name| format!("SF:{name}\nDA:1,1\nend_of_record\n")).collect();
        let of = |name: &String| (name.clone(), serde_json::json!({"executed_lines": [1], "missing_lines": []}));
        let python = serde_json::json!({"files": names.iter().map(of).collect::<serde_json::Map<_, _>>()}).to_string();
        let class = |name: &String| {
            let name = quick_xml::escape::escape(name.as_str()).into_owned();
            format!("<class filename=\"{name}\"><line number=\"1\" hits=\"1\"/></class>")
        };
        let cobertura = format!("<coverage>{}</coverage>", names.iter().map(class).collect::<String>());
        for text in [lcov, python, cobertura] {
            match home.read(&text) {
                Ok(report) => {
                    let found: Vec<String> = report.coverage.files.keys().map(ToString::to_string).collect();
                    prop_assert_eq!(&found, &expected, "{}", text);
                }
                Err(CoverageError::Foreign { .. }) => prop_assert!(expected.is_empty(), "{text}"),
                Err(error) => prop_assert!(names.iter().any(|name| name.trim().is_empty()), "{error}: {text}"),
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let home = Home::new();
        let look = || owned::Look::new(&home.tree(), &home.files());
        let read = [
            lcov::read(&bytes[..], look()),
            coverage_py::read(&bytes[..], look()),
            cobertura::read(&bytes[..], look()),
        ];
        for gathered in read.into_iter().flatten() {
            if let Ok((coverage, _)) = gathered.take() {
                prop_assert!(coverage.totals().total() <= bytes.len() as u64);
                prop_assert!(coverage.files.values().map(Lines::blocks).sum::<usize>() <= MOST_BLOCKS);
            }
        }
        let _ = format_of(&bytes);
    }
}
