//! Which command tests a repository, read from the files of one commit.
//!
//! Owns the order of what is looked for and the words that say why. Pure: files are handed in by a function, so that the
//! judge looks at the base commit and never at a branch. Refuses to guess: a file that only might have tests says nothing.

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// The shell line, for the repository's root.
    pub command: String,
    /// By which file, and what else was found and not taken.
    pub why: String,
}

/// Nothing was found; the text says what was looked for and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no test command was detected (looked for {looked_for}); name one, or say that there are no tests")]
pub struct NothingDetected {
    /// The files looked for.
    pub looked_for: &'static str,
}

const LOOKED_FOR: &str = "Cargo.toml, pytest in pytest.ini, pyproject.toml, setup.cfg or tox.ini, package.json with a test script, go.mod, a Makefile with a test target";

/// A file by its path from the root: its text, or `None` when the commit has none of that name.
pub type Files<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Finds the test command.
///
/// # Errors
/// [`NothingDetected`] when none of the known files tells one.
pub fn detect_test_command(files: Files<'_>) -> Result<Detected, NothingDetected> {
    let found: Vec<(String, String)> =
        [cargo(files), pytest(files), node(files), go(files), make(files)].into_iter().flatten().collect();
    let Some(((command, by), others)) = found.split_first() else {
        return Err(NothingDetected { looked_for: LOOKED_FOR });
    };
    let others: Vec<String> = others.iter().map(|(command, by)| format!("`{command}` by {by}")).collect();
    let why = match others.is_empty() {
        true => by.clone(),
        false => format!("{by}; not taken: {}", others.join(", ")),
    };
    Ok(Detected { command: command.clone(), why })
}

fn has_line(text: &str, wanted: &str) -> bool {
    text.lines().any(|l| l.trim() == wanted)
}

fn cargo(files: Files<'_>) -> Option<(String, String)> {
    let text = files("Cargo.toml")?;
    let command = if has_line(&text, "[workspace]") { "cargo test --workspace" } else { "cargo test" };
    Some((command.to_owned(), "Cargo.toml".to_owned()))
}

fn pytest(files: Files<'_>) -> Option<(String, String)> {
    let by = |file: &str| Some(("python3 -m pytest".to_owned(), file.to_owned()));
    if files("pytest.ini").is_some() {
        return by("pytest.ini");
    }
    if let Some(text) = files("pyproject.toml") {
        let section = text.lines().map(str::trim).any(|l| l.starts_with("[tool.pytest"));
        // Named among the dependencies: `"pytest>=8"`, `pytest = "^8"`.
        let named = text.lines().map(str::trim_start).filter(|l| !l.starts_with('#')).any(names_pytest);
        if section || named {
            return by("pyproject.toml");
        }
    }
    for (file, section) in [("setup.cfg", "[tool:pytest]"), ("tox.ini", "[pytest]")] {
        if files(file).is_some_and(|text| has_line(&text, section)) {
            return by(file);
        }
    }
    None
}

/// Whether a line names the package `pytest` itself, not one of its plug-ins.
fn names_pytest(line: &str) -> bool {
    let mut rest = line;
    while let Some(at) = rest.find("pytest") {
        let before = rest[..at].chars().next_back();
        let after = rest[at + "pytest".len()..].chars().next();
        let starts = before.is_none_or(|c| matches!(c, '"' | '\'' | ' ' | ',' | '['));
        let ends = after.is_none_or(|c| matches!(c, '"' | '\'' | ' ' | '=' | '>' | '<' | '~' | '!' | '[' | ';' | ','));
        if starts && ends {
            return true;
        }
        rest = &rest[at + "pytest".len()..];
    }
    false
}

fn node(files: Files<'_>) -> Option<(String, String)> {
    let package: serde_json::Value = serde_json::from_str(&files("package.json")?).ok()?;
    let script = package.get("scripts")?.get("test")?.as_str()?;
    // The text that `npm init` writes; it always fails.
    if script.trim().is_empty() || script.contains("no test specified") {
        return None;
    }
    let tools = [("pnpm-lock.yaml", "pnpm test"), ("yarn.lock", "yarn test"), ("bun.lock", "bun run test")];
    let command = tools.iter().find(|(lock, _)| files(lock).is_some()).map_or("npm test", |(_, command)| command);
    Some((command.to_owned(), "the test script of package.json".to_owned()))
}

fn go(files: Files<'_>) -> Option<(String, String)> {
    files("go.mod").map(|_| ("go test ./...".to_owned(), "go.mod".to_owned()))
}

fn make(files: Files<'_>) -> Option<(String, String)> {
    for file in ["GNUmakefile", "makefile", "Makefile"] {
        let Some(text) = files(file) else { continue };
        // A rule: `test:`, `check test: dep`, `test::`; not an assignment (`test := x`) and not a recipe line.
        let rule = |line: &str| {
            let Some((targets, rest)) = line.split_once(':') else { return false };
            !line.starts_with(['\t', ' ', '#', '.'])
                && !rest.trim_start_matches(':').starts_with('=')
                && targets.split_whitespace().any(|t| t == "test")
        };
        // GNU make reads the first of these files only.
        return text.lines().any(rule).then(|| ("make test".to_owned(), format!("the test target of {file}")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(files: &[(&str, &str)]) -> Result<Detected, NothingDetected> {
        detect_test_command(&|path| files.iter().find(|(p, _)| *p == path).map(|(_, text)| (*text).to_owned()))
    }

    fn command(files: &[(&str, &str)]) -> String {
        detect(files).map_or_else(|_| "nothing".to_owned(), |d| d.command)
    }

    #[test]
    fn each_known_file_tells_its_command() {
        let cases: [(&[(&str, &str)], &str); 16] = [
            (&[("Cargo.toml", "[package]\nname = \"x\"\n")], "cargo test"),
            (&[("Cargo.toml", "[workspace]\nmembers = []\n")], "cargo test --workspace"),
            (&[("pytest.ini", "")], "python3 -m pytest"),
            (&[("pyproject.toml", "[tool.pytest.ini_options]\n")], "python3 -m pytest"),
            (&[("pyproject.toml", "[dependency-groups]\ndev = [\"pytest>=8\"]\n")], "python3 -m pytest"),
            (&[("pyproject.toml", "[tool.poetry.dev]\npytest = \"^8\"\n")], "python3 -m pytest"),
            (&[("pyproject.toml", "dev = [\"pytest-cov\"]\n# pytest\n")], "nothing"),
            (&[("setup.cfg", "[tool:pytest]\n")], "python3 -m pytest"),
            (&[("setup.cfg", "[metadata]\n")], "nothing"),
            (&[("package.json", r#"{"scripts":{"test":"jest"}}"#)], "npm test"),
            (&[("package.json", r#"{"scripts":{"test":"jest"}}"#), ("yarn.lock", "")], "yarn test"),
            (&[("package.json", r#"{"scripts":{"test":"echo \"Error: no test specified\" && exit 1"}}"#)], "nothing"),
            (&[("package.json", "{broken")], "nothing"),
            (&[("go.mod", "module x\n")], "go test ./..."),
            (&[("Makefile", "all: x\n\ttest: no\ncheck test: dep\n")], "make test"),
            (&[("Makefile", "test := 3\n.PHONY: test\n# test:\n\ttest:\n")], "nothing"),
        ];
        for (files, expected) in cases {
            assert_eq!(command(files), expected, "{files:?}");
        }
    }

    #[test]
    fn the_first_is_taken_and_the_others_are_named() {
        let found = detect(&[("Makefile", "test:\n"), ("Cargo.toml", "")]).expect("found");
        assert_eq!(found.command, "cargo test");
        assert_eq!(found.why, "Cargo.toml; not taken: `make test` by the test target of Makefile");
    }

    #[test]
    fn nothing_is_an_answer_that_says_what_was_looked_for() {
        let err = detect(&[("README.md", "test")]).expect_err("nothing").to_string();
        assert!(err.contains("Cargo.toml") && err.contains("Makefile") && err.contains("name one"), "{err}");
    }
}
