//! Base's word about coverage, put into a branch's file: for a branch is judged by the settings that were there before it.
//!
//! Owns the rewriting of one file: of what is about nothing but coverage, and of programs, base's text as it is; of a file
//! about other things too (`package.json`, pytest's options) only the part that decides about coverage. Invariant: what is
//! handed out says about coverage exactly what base says, which is looked up in it again; else nothing is handed out.
//! Refuses to write coverage.py's settings among others': those are put in force from outside.

use serde_json::Value as Json;
use toml::{Table, Value};

use super::configuration::{NODE_KEYS, NODE_SCRIPTS, Sort, deciding, extract, lines_of, measuring_script, parted};

/// A file cannot be given base's word about coverage: it cannot be read, or is spelled in a way that we do not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("base's settings cannot be written into the branch's file")]
pub struct NotHeld;

/// What a file of the branch has to be for base's word to hold: its text, or `None` where it must not be there.
/// `said`: what base says in it in that sort of part (see [`super::configuration::Part`]).
///
/// # Errors
/// [`NotHeld`] where that cannot be done.
pub fn held(
    (file, sort): (&str, Sort),
    said: Option<&str>,
    base: Option<&str>,
    head: Option<&str>,
) -> Result<Option<String>, NotHeld> {
    let text = match (base, head) {
        (base, None) => base.map(str::to_owned),
        (base, Some(_)) if !is_mixed(file) => base.map(str::to_owned),
        _ if sort == Sort::Python => return Err(NotHeld),
        (base, Some(head)) => Some(match file {
            "package.json" => package(base, head).ok_or(NotHeld)?,
            _ if file.ends_with(".toml") => toml_options(base, head).ok_or(NotHeld)?,
            _ => ini_options(file, said, head),
        }),
    };
    let says = text.as_deref().and_then(|text| extract(file, text).into_iter().find(|part| part.sort == sort));
    (says.map(|part| part.text).as_deref() == said).then_some(text).ok_or(NotHeld)
}

/// Whether a file is about other things too, and no program.
fn is_mixed(file: &str) -> bool {
    matches!(
        file,
        "package.json"
            | "pytest.ini"
            | ".pytest.ini"
            | "pytest.toml"
            | ".pytest.toml"
            | "setup.cfg"
            | "tox.ini"
            | "pyproject.toml"
    )
}

fn package(base: Option<&str>, head: &str) -> Option<String> {
    let base: Json = base.map_or(Some(Json::Null), |text| serde_json::from_str(text).ok())?;
    let mut head: Json = serde_json::from_str(head).ok()?;
    let measuring = |package: &Json, name: &str| measuring_script(package, name).map(str::to_owned);
    let scripts = NODE_SCRIPTS.map(|name| (name, measuring(&base, name) != measuring(&head, name)));
    let package = head.as_object_mut()?;
    for name in NODE_KEYS {
        put(package, name, base.get(name));
    }
    for (name, _) in scripts.into_iter().filter(|(_, differs)| *differs) {
        let script = base.get("scripts").and_then(|scripts| scripts.get(name));
        let scripts = package.entry("scripts").or_insert_with(|| Json::Object(serde_json::Map::new()));
        put(scripts.as_object_mut()?, name, script);
    }
    serde_json::to_string_pretty(&head).ok()
}

fn put(into: &mut serde_json::Map<String, Json>, name: &str, value: Option<&Json>) {
    match value {
        Some(value) => into.insert(name.to_owned(), value.clone()),
        None => into.remove(name),
    };
}

/// Where pytest's options lie in a table.
const TABLES: [&[&str]; 3] = [&["tool", "pytest", "ini_options"], &["tool", "pytest"], &["pytest"]];

fn toml_options(base: Option<&str>, head: &str) -> Option<String> {
    let base: Table = base.map_or(Some(Table::new()), |text| text.parse().ok())?;
    let mut head: Table = head.parse().ok()?;
    let in_base = TABLES.iter().find_map(|path| Some((*path, words_of(at(&base, path)?.get("addopts")?))));
    for path in TABLES {
        if let Some(options) = at_mut(&mut head, path).and_then(|table| table.get_mut("addopts")) {
            without(options);
        }
    }
    let wanted: Vec<String> = match &in_base {
        Some((_, words)) => parted(words.iter().map(String::as_str)).0.into_iter().map(str::to_owned).collect(),
        None => Vec::new(),
    };
    if let Some((in_base, _)) = in_base.filter(|_| !wanted.is_empty()) {
        let path = TABLES.into_iter().find(|path| at(&head, path).is_some_and(|table| table.contains_key("addopts")));
        let path = path.or_else(|| TABLES.into_iter().find(|path| at(&head, path).is_some())).unwrap_or(in_base);
        let mut table = &mut head;
        for key in path {
            table = table.entry(*key).or_insert_with(|| Value::Table(Table::new())).as_table_mut()?;
        }
        match table.entry("addopts").or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(all) => all.extend(wanted.into_iter().map(Value::String)),
            Value::String(text) => *text = format!("{text} {}", wanted.join(" ")),
            _ => return None,
        }
    }
    toml::to_string(&head).ok()
}

fn at<'t>(table: &'t Table, path: &[&str]) -> Option<&'t Table> {
    path.iter().try_fold(table, |table, key| table.get(*key)?.as_table())
}

fn at_mut<'t>(table: &'t mut Table, path: &[&str]) -> Option<&'t mut Table> {
    path.iter().try_fold(table, |table, key| table.get_mut(*key)?.as_table_mut())
}

fn words_of(options: &Value) -> Vec<String> {
    match options {
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        other => other.as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
    }
}

fn without(options: &mut Value) {
    match options {
        Value::String(text) => *text = parted(text.split_whitespace()).1.join(" "),
        Value::Array(all) => {
            let words: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            let others = parted(words.into_iter()).1.into_iter().map(|word| Value::String(word.to_owned())).collect();
            *all = others;
        }
        _ => {}
    }
}

/// An INI file with other words among pytest's options.
fn ini_options(file: &str, said: Option<&str>, head: &str) -> String {
    let section = if file == "setup.cfg" { "tool:pytest" } else { "pytest" };
    let is_ours =
        |name: &str| name == section || file == "tox.ini" && name == "tool:pytest" || file.ends_with("pytest.ini");
    let all: Vec<_> = lines_of(head).collect();
    let mut lines: Vec<Option<String>> = head.lines().map(|line| Some(line.to_owned())).collect();
    let mut said = said;
    let mut begin = 0;
    while begin < all.len() {
        let goes_on = all[begin + 1..].iter().take_while(|line| line.goes_on).count();
        let (option, rest) = (&all[begin], &all[begin + 1..=begin + goes_on]);
        begin += goes_on + 1;
        let Some((key, value)) = option.text.split_once(['=', ':']) else { continue };
        let whole = rest.iter().fold(value.to_owned(), |all, line| format!("{all} {}", line.text));
        let is_option = !option.is_header && is_ours(option.section);
        let is_place = key.trim() == "addopts" && said.is_some();
        if !is_option || (deciding(&whole).is_none() && !is_place) {
            continue;
        }
        let mut words = parted(whole.split_whitespace()).1;
        words.extend(said.take_if(|_| is_place));
        lines[option.at] = Some(format!("{key}= {}", words.join(" ")));
        for line in rest {
            lines[line.at] = None;
        }
    }
    if let Some(said) = said {
        let options = format!("addopts = {said}");
        match all.iter().find(|line| line.is_header && line.section == section) {
            Some(header) => lines.insert(header.at + 1, Some(options)),
            None => lines.push(Some(format!("[{section}]\n{options}"))),
        }
    }
    let lines: Vec<String> = lines.into_iter().flatten().collect();
    format!("{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort_of(file: &str) -> Sort {
        if file.starts_with(".c8rc") { Sort::Own } else { Sort::Shared }
    }

    fn said(file: &str, text: Option<&str>) -> Option<String> {
        let parts = text.map(|text| extract(file, text)).unwrap_or_default();
        parts.into_iter().find(|part| part.sort != Sort::Python).map(|part| part.text)
    }

    /// What the branch's file becomes.
    fn hold(file: &str, base: Option<&str>, head: Option<&str>) -> Option<String> {
        held((file, sort_of(file)), said(file, base).as_deref(), base, head).expect("it can be held")
    }

    #[test]
    fn what_is_about_coverage_alone_is_base_s_and_of_the_rest_only_that_part() {
        assert_eq!(hold(".c8rc.json", Some("{}"), Some("{\"include\": []}")).as_deref(), Some("{}"));
        assert_eq!(hold(".c8rc.json", None, Some("{\"include\": []}")), None, "it must not be there");
        assert_eq!(hold(".c8rc.json", Some("{}"), None).as_deref(), Some("{}"));
        let (old, new) = ("module.exports = {\n  coverage: 1,\n};\n", "module.exports = {\n  coverage: 2,\n};\n");
        assert_eq!(hold("jest.config.js", Some(old), Some(new)).as_deref(), Some(old));
        let base = r#"{"version": "1", "scripts": {"test": "c8 mocha"}, "c8": {"include": ["a"]}, "nyc": {}}"#;
        let head = r#"{"version": "2", "scripts": {"test": "c8 --exclude b mocha", "lint": "x"}, "c8": {"include": []}, "jest": {}}"#;
        let text = hold("package.json", Some(base), Some(head)).expect("there");
        let package: Json = serde_json::from_str(&text).expect("JSON");
        let wanted = serde_json::json!({"version": "2", "scripts": {"test": "c8 mocha", "lint": "x"},
            "c8": {"include": ["a"]}, "nyc": {}});
        assert_eq!(package, wanted);
        let text = hold("package.json", Some(r#"{"c8": {}}"#), Some(r#"{"version": "2"}"#)).expect("there");
        assert!(text.contains("c8") && text.contains("version"), "{text}");
        // coverage.py's own file, where the command is not told of another; not what stands among other things.
        let python = |file, base, head| held((file, Sort::Python), base, base, head);
        assert_eq!(python(".coveragerc", Some("[run]"), Some("[run]\nomit = a")), Ok(Some("[run]".to_owned())));
        assert_eq!(python(".coveragerc", None, Some("[run]\nomit = a")), Ok(None));
        assert_eq!(python("setup.cfg", None, Some("[coverage:run]\nomit = a")), Err(NotHeld));
        // What nobody can read is not written anew.
        assert_eq!(
            held(
                ("package.json", Sort::Shared),
                said("package.json", Some(base)).as_deref(),
                Some(base),
                Some("{broken")
            ),
            Err(NotHeld)
        );
        assert_eq!(
            held(("package.json", Sort::Shared), Some("unreadable: {broken"), Some("{broken"), Some(head)),
            Err(NotHeld)
        );
    }

    #[test]
    fn of_pytests_options_only_those_about_coverage_are_base_s() {
        let ini = |words: &str| format!("# kept\n[pytest]\nmarkers =\n  slow\naddopts = -q {words}\n[other]\nx = 1\n");
        let words = ["", "--cov=app", "--cov app --no-cov", "--cov=app --cov-config=x --cov-append"];
        for base in words {
            for head in words {
                let (base, head) = (ini(base), ini(head));
                let text = hold("pytest.ini", Some(&base), Some(&head)).expect("there");
                assert!(text.starts_with("# kept\n[pytest]\nmarkers =\n  slow\naddopts"), "{text}");
                assert!(text.contains("-q") && text.ends_with("[other]\nx = 1\n"), "{text}");
                assert_eq!(
                    text.contains("--cov-append"),
                    head.contains("--cov-append"),
                    "no matter of settings: {text}"
                );
            }
        }
        let table = [
            ("pytest.ini", "[pytest]\naddopts =\n  -q\n  --cov=app\n", "[pytest]\npythonpath = .\n"),
            ("pytest.ini", "[pytest]\naddopts = --cov=app\n", "# nothing\n"),
            ("pytest.ini", "[pytest]\npythonpath = .\n", "[pytest]\naddopts =\n  --cov=app\n  -q\n"),
            ("setup.cfg", "[tool:pytest]\naddopts: --cov=app\n", "[metadata]\nname = x\n[coverage:run]\nomit = a\n"),
            ("setup.cfg", "[metadata]\nname = x\n", "[tool:pytest]\naddopts = --cov=less\n[metadata]\nname = y\n"),
            ("tox.ini", "[pytest]\naddopts = --cov=app\n", "[testenv]\nx = --cov\n[pytest]\naddopts = --no-cov\n"),
            ("pyproject.toml", "[tool.pytest.ini_options]\naddopts = \"-q --cov=app\"\n", "[tool.pytest]\nx = 1\n"),
            ("pyproject.toml", "[tool.pytest]\naddopts = [\"--cov\", \"app\"]\n", "[project]\nname = \"x\"\n"),
            (
                "pyproject.toml",
                "[project]\nname = \"x\"\n",
                "[tool.pytest.ini_options]\naddopts = [\"-m\", \"not slow\", \"--cov=app\"]\n",
            ),
            ("pytest.toml", "[pytest]\naddopts = [\"--cov=app\"]\n", "[pytest]\naddopts = [\"--no-cov\", \"-q\"]\n"),
        ];
        for (file, base, head) in table {
            let text = hold(file, Some(base), Some(head)).expect("there");
            let python = |text: &str| extract(file, text).into_iter().find(|part| part.sort == Sort::Python);
            assert_eq!(python(&text), python(head), "{file}: {text}");
            for kept in ["not slow", "-q", "name = y", "x = --cov", "pythonpath"] {
                assert!(text.contains(kept) || !head.contains(kept), "{kept} in {file}: {text}");
            }
        }
    }

    proptest::proptest! {
        /// Whatever stands there: what is handed out says what base says, or nothing is handed out.
        #[test]
        fn what_is_handed_out_says_what_base_says(
            file in proptest::sample::select(vec!["pytest.ini", "setup.cfg", "tox.ini", "pyproject.toml", "package.json"]),
            base in "(\\[(tool[:.])?pytest\\]\n)?(addopts ?= ?\"?)?[-a-z\\[\\]\n =:\"]{0,40}(--cov|--no-cov)?\"?\n?",
            head in "(\\[(tool[:.])?pytest\\]\n)?(addopts ?= ?\"?)?[-a-z\\[\\]\n =:\"]{0,40}(--cov|--no-cov)?\"?\n?",
        ) {
            let wanted = said(file, Some(&base));
            if let Ok(text) = held((file, Sort::Shared), wanted.as_deref(), Some(&base), Some(&head)) {
                proptest::prop_assert_eq!(said(file, text.as_deref()), wanted);
            }
        }
    }
}
