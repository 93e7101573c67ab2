//! Which command measures, which runner it is, and what configuration files say, by tables.

use super::configuration::{self, Sort};
use super::rules::{self, By, Measuring};

fn with_files<T>(files: &[(&str, &str)], ask: impl FnOnce(crate::detect::Files<'_>) -> T) -> T {
    ask(&|path| files.iter().find(|(p, _)| *p == path).map(|(_, text)| (*text).to_owned()))
}

fn line(setting: Option<&str>, files: &[(&str, &str)], has_src: bool, packages: &[&str]) -> String {
    let packages: Vec<String> = packages.iter().map(|p| (*p).to_owned()).collect();
    match with_files(files, |files| rules::wanted(setting, files, has_src, &packages)) {
        rules::Wanted::Run(measuring) => measuring.line,
        rules::Wanted::Off => "off".to_owned(),
        rules::Wanted::Nothing => "nothing".to_owned(),
    }
}

#[test]
fn a_command_comes_from_the_settings_from_a_preset_or_from_what_the_repository_names() {
    let report = "--cov-report=json:\"$ORCH_COVERAGE_REPORT\"";
    let pytest = |sources: &str| format!("python3 -m pytest {sources} {report}");
    let named = ("requirements-dev.txt", "pytest\npytest-cov==7\n");
    assert_eq!(line(Some("make cov"), &[], false, &[]), "make cov");
    assert_eq!(line(Some(" none "), &[named], false, &[]), "off");
    assert_eq!(line(None, &[("pytest.ini", "")], true, &[]), "nothing", "pytest alone names no coverage");
    assert_eq!(line(None, &[named], false, &[]), pytest("--cov=."));
    assert_eq!(line(None, &[named], true, &["app"]), pytest("--cov=src"));
    assert_eq!(line(None, &[named], false, &["app", "lib"]), pytest("--cov=app --cov=lib"));
    assert_eq!(line(None, &[named, (".coveragerc", "[run]\nsource = app\n")], true, &[]), pytest("--cov"));
    assert_eq!(line(Some("pytest"), &[(".coveragerc", "[run]\nomit = x\n")], true, &[]), pytest("--cov=src"));
    assert_eq!(line(None, &[("requirements.txt", "# pytest-cov\n")], false, &[]), "nothing");
    let source = "[tool.hatch.version]\nsource = \"vcs\"\n[tool.coverage.paths]\nsource = [\"app\"]\n";
    assert_eq!(line(None, &[named, ("pyproject.toml", source)], false, &["app"]), pytest("--cov=app"), "not of `run`");
    let source = "[tool.coverage]\nrun.source_pkgs = [\"app\"]\n";
    assert_eq!(line(None, &[named, ("pyproject.toml", source)], false, &["app"]), pytest("--cov"));
    let source = "[coverage:paths]\nsource =\n  app\n[coverage:run] ; what\nomit =\n    source = x\n";
    assert_eq!(line(None, &[named, ("setup.cfg", source)], false, &["app"]), pytest("--cov=app"));
    let source = "[coverage:run] ; what\nSource : app\n";
    assert_eq!(line(None, &[named, ("setup.cfg", source)], false, &["app"]), pytest("--cov"));
    let asks = |line: &str, tool: &str| {
        line.contains(&format!("{tool} --version")) && line.contains("$ORCH_COVERAGE_DIR/tool")
    };
    let c8 = line(Some("c8"), &[], false, &[]);
    assert!(c8.contains("c8 --all --reporter=lcovonly") && asks(&c8, "c8"), "LCOV does not say which tool: {c8}");
    let llvm_cov = line(Some("cargo-llvm-cov"), &[], false, &[]);
    assert!(
        llvm_cov.contains("; cargo llvm-cov --workspace --lcov") && asks(&llvm_cov, "cargo llvm-cov"),
        "{llvm_cov}"
    );
    let package = r#"{"scripts":{"test":"mocha"},"devDependencies":{"c8":"^10"}}"#;
    assert!(line(None, &[("package.json", package)], false, &[]).contains("c8"));
    assert_eq!(line(None, &[("package.json", r#"{"devDependencies":{"c8":"1"}}"#)], false, &[]), "nothing");
    assert_eq!(line(None, &[("package.json", "{broken")], false, &[]), "nothing");
}

#[test]
fn a_command_stands_for_tests_of_the_same_runner_only() {
    let pytest = line(Some("pytest"), &[], false, &[]);
    let (c8, llvm_cov) = (line(Some("c8"), &[], false, &[]), line(Some("cargo-llvm-cov"), &[], false, &[]));
    let table = [
        (By::Detected, pytest.as_str(), "python3 -m pytest", true),
        (By::Preset, &pytest, "python3 -m pytest", true),
        (By::Detected, &pytest, "cargo test --workspace", false),
        (By::Detected, &pytest, "make test", false),
        (By::Detected, &c8, "npm test", true),
        (By::Detected, &c8, "pnpm test", true),
        (By::Detected, &c8, "python3 -m pytest", false),
        // Tests in documentation are not run by it.
        (By::Preset, &llvm_cov, "cargo test", false),
        // Somebody's own line is the test suite, unless it shows another.
        (By::Line, "make cov", "python3 -m pytest", true),
        (By::Line, "make cov", "make test", true),
        (By::Line, "tox -e cov", "cargo test", true),
        (By::Line, ".venv/bin/pytest --cov && npm run test", "npm test", true),
        (By::Line, ".venv/bin/pytest --cov", "npm test", false),
        (By::Line, "cargo +nightly llvm-cov --lcov", "cargo test", false),
    ];
    for (by, line, detected, stands) in table {
        let measuring = Measuring { line: line.to_owned(), by, why: String::new() };
        assert_eq!(rules::stands_for(&measuring, detected), stands, "{by:?} {line:?} for {detected:?}");
    }
}

fn force(files: &[(&str, &str)]) -> Vec<configuration::Part> {
    with_files(files, |files| configuration::in_force(files))
}

#[test]
fn only_what_decides_about_coverage_changes_the_configuration() {
    use Sort::{Own, Python, Shared};
    let base = [
        ("pyproject.toml", "[project]\nname = \"x\"\n[tool.coverage.run]\nomit = [\"a\"]\n\n[tool.black]\nx = 1\n"),
        ("package.json", r#"{"version":"1","c8":{"exclude":["x"]}}"#),
    ];
    let other_words = [
        ("pyproject.toml", "[project]\nname = \"y\"\n[tool.coverage.run]\nomit = [\"a\"]\n[tool.black]\nx = 2\n"),
        ("package.json", r#"{"version":"2","c8":{"exclude":["x"]}}"#),
    ];
    assert_eq!(force(&base), force(&other_words));
    type Case<'a> = (&'a [(&'a str, &'a str)], (&'a str, Sort));
    let jest = "module.exports = {\n  collectCoverageFrom: [\n    'src/**',\n  ],\n  setupFiles: ['./a'],\n};\n";
    let table: [Case<'_>; 12] = [
        (&[("pyproject.toml", "[tool.coverage.run]\nomit = [\"a\", \"b\"]\n"), base[1]], ("pyproject.toml", Python)),
        (
            &[("pyproject.toml", &format!("tool.coverage.run.omit = [\"b\"]\n{}", base[0].1)), base[1]],
            ("pyproject.toml", Python),
        ),
        (&[base[0], ("package.json", r#"{"c8":{"exclude":["x","y"]}}"#)], ("package.json", Shared)),
        (&[base[0], base[1], (".coveragerc", "")], (".coveragerc", Python)),
        (&[base[0], base[1], ("pytest.ini", "[pytest]\naddopts = --no-cov\n")], ("pytest.ini", Shared)),
        (&[base[0], base[1], ("setup.cfg", "[coverage:report]\nexclude_also = x\n")], ("setup.cfg", Python)),
        (
            &[base[0], base[1], ("tox.ini", "[pytest]\naddopts = --cov=less\n[testenv]\nx = --cov\n")],
            ("tox.ini", Shared),
        ),
        (&[base[0], base[1], (".c8rc.json", "{}")], (".c8rc.json", Own)),
        (&[base[0]], ("package.json", Shared)),
        (&[base[0], base[1], (".nycrc.yaml", "all: true")], (".nycrc.yaml", Own)),
        (&[base[0], base[1], ("nyc.config.cjs", "module.exports = {}")], ("nyc.config.cjs", Shared)),
        (&[base[0], base[1], ("jest.config.ts", jest)], ("jest.config.ts", Shared)),
    ];
    for (files, changed) in table {
        let (base, head) = (force(&base), force(files));
        assert_eq!(configuration::changed(&base, &head), [(changed.0.to_owned(), changed.1)], "{files:?}");
    }
    // A program's lines about other things are nothing.
    let of = |text: &str| force(&[("jest.config.ts", text)]);
    assert_eq!(of(jest), of(&jest.replace("./a", "./b")));
    assert_ne!(of(jest), of(&jest.replace("src", "lib")));
    assert_eq!(force(&[("vite.config.ts", "export default { plugins: [] }")]), []);
    let rules_of =
        |files: &[(&str, &str)]| with_files(files, |files| configuration::python_rules(files)).map(|(file, _)| file);
    assert_eq!(rules_of(&base), Some("pyproject.toml"));
    assert_eq!(rules_of(&[base[0], ("setup.cfg", "[coverage:run]\nomit = x\n")]), Some("setup.cfg"));
    assert_eq!(rules_of(&[base[0], (".coveragerc", "")]), Some(".coveragerc"), "empty as it is, coverage.py takes it");
    assert_eq!(rules_of(&[("pyproject.toml", "[project]\n")]), None);
}

#[test]
fn settings_are_seen_in_whatever_way_they_are_spelled() {
    let toml = [
        "[tool.coverage.run]\nomit = [\"a\"]\n",
        "[tool.coverage.run] # settings\nomit = [\"a\"] # more\n",
        "[tool]\ncoverage.run.omit = [\"a\"]\n",
        "tool.coverage.run.omit = [\n  \"a\",\n]\n",
        "[tool.\"coverage\".run]\nomit = [\"a\"]\n",
        "tool = { coverage = { run = { omit = [\"a\"] } } }\n",
        "[ tool . coverage . run ]\n'omit' = [\n# a comment\n\"a\"]\n",
    ];
    let plain = force(&[("pyproject.toml", toml[0])]);
    assert_eq!((plain.len(), plain[0].sort), (1, Sort::Python));
    for text in toml {
        assert_eq!(force(&[("pyproject.toml", text)]), plain, "{text:?}");
        let rules = with_files(&[("pyproject.toml", text)], |files| configuration::python_rules(files));
        assert_eq!(rules, Some(("pyproject.toml", text.to_owned())), "it is put in force");
        let other = force(&[("pyproject.toml", &text.replace("\"a\"", "\"b\""))]);
        assert_eq!(configuration::changed(&plain, &other), [("pyproject.toml".to_owned(), Sort::Python)], "{text:?}");
    }
    // What cannot be read is never the same as nothing.
    assert_eq!(force(&[("pyproject.toml", "[tool.coverage")])[0].sort, Sort::Python);
    assert_eq!(force(&[("package.json", "{broken")])[0].sort, Sort::Shared);
    let pytest = [
        "[tool.pytest.ini_options]\naddopts = \"-q --cov=less\"\n",
        "[tool.pytest]\naddopts = [\"-q\", \"--cov=less\"]\n",
        "tool.pytest.ini_options.addopts = \"\"\"\n--cov=less --cov-append\"\"\"\n",
    ];
    for text in pytest {
        let parts = force(&[("pyproject.toml", text)]);
        assert_eq!((parts.len(), parts[0].sort, parts[0].text.as_str()), (1, Sort::Shared, "--cov=less"), "{text:?}");
    }
    for text in ["[pytest]\naddopts=--cov=less\n", "[pytest] # x\naddopts =\n  -q\n  --cov=less --cov-report=xml\n"] {
        let parts = force(&[("pytest.ini", text)]);
        assert_eq!((parts.len(), parts[0].text.as_str()), (1, "--cov=less"), "{text:?}");
    }
    assert_eq!(force(&[("pytest.ini", "[pytest]\naddopts = --cov less -q\n")])[0].text, "--cov less");
    // How it is reported, added up or limited does not make measurements unlike.
    assert_eq!(force(&[("pytest.ini", "[pytest]\naddopts = --cov-append --cov-fail-under=9 --cov-report=xml\n")]), []);
    let ini = [
        "[coverage:run]\nomit = a\n",
        "[coverage:run] # settings\nomit = a\n",
        "  [coverage:run]\n  omit = a\n",
        "[metadata]\nname = x\n[coverage:run]\n# a comment\nomit = a\n",
    ];
    for text in ini {
        let parts = force(&[("setup.cfg", text)]);
        assert_eq!((parts.len(), parts.first().map(|part| part.sort)), (1, Some(Sort::Python)), "{text:?}");
        assert_ne!(parts, force(&[("setup.cfg", &text.replace("= a", "= b"))]), "{text:?}");
    }
    // Brackets in a value begin no section.
    let value = "[coverage:run]\nomit =\n    [metadata]\n    a\n";
    assert_ne!(force(&[("setup.cfg", value)]), force(&[("setup.cfg", &value.replace("    a", "    b"))]));
}
