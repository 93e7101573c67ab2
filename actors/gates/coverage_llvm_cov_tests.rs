//! The coverage gate with the real cargo-llvm-cov on a Rust package: a deleted test is sent back with the lines that it ran, and
//! lands when it is there again.

use orch_domain::event::CheckEnd;

use super::check_tests::World;
use crate::context::Commands;

impl World {
    /// A host with Rust and cargo-llvm-cov.
    async fn rust() -> Self {
        let tools = orch_test_support::measuring::cargo_llvm_cov();
        let mut world = Self::new(Commands::default()).await;
        // The tool chain itself, not rustup's shims, which would look into a home folder.
        let said = std::process::Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc runs");
        let toolchain = std::path::PathBuf::from(String::from_utf8(said.stdout).expect("a path").trim());
        world.path = format!("{}:{}:{}", tools.display(), toolchain.join("bin").display(), world.path);
        world.tools_read.extend([tools.parent().expect("a folder").to_owned(), toolchain]);
        for (name, tool) in [("LLVM_COV", "llvm-cov"), ("LLVM_PROFDATA", "llvm-profdata")] {
            world.env.insert(name.to_owned(), tools.join(tool).display().to_string());
        }
        world
    }
}

const LIB: &str =
    "pub fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n\npub fn sub(a: u32, b: u32) -> u32 {\n    a - b\n}\n";
const MANIFEST: &str = "[package]\nname = \"maths\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
const LOCK: &str = "version = 4\n\n[[package]]\nname = \"maths\"\nversion = \"0.1.0\"\n";
/// The LLVM tools that the tests install read names of functions only as they are.
const PLAIN_NAMES: &str = "[build]\nrustflags = [\"-Cllvm-args=-enable-name-compression=false\"]\n";

fn rust_test(what: &str, result: u32) -> String {
    format!("#[test]\nfn {what}s() {{\n    assert_eq!(maths::{what}(3, 2), {result});\n}}\n")
}

#[tokio::test]
async fn cargo_llvm_cov_measures_a_rust_package_in_the_run_of_its_tests() {
    let mut world = World::rust().await;
    world.settings.coverage.command = Some("cargo-llvm-cov".to_owned());
    // There are no doc tests, which it would not run.
    world.settings.coverage.runs_tests = Some(true);
    let files = [
        ("Cargo.toml", MANIFEST),
        ("Cargo.lock", LOCK),
        (".cargo/config.toml", PLAIN_NAMES),
        ("src/lib.rs", LIB),
        ("tests/add.rs", &rust_test("add", 5)),
        ("tests/sub.rs", &rust_test("sub", 1)),
    ];
    let base = world.commit("main", &files).await;
    let head = world.commit("first", &[("notes", "x")]).await;
    let CheckEnd::Passed { note, .. } = world.tests(&base, &head, "run1").await else { panic!("passes") };
    assert!(note.contains("cargo llvm-cov") && note.contains("2 tests"), "{note}");
    let jobs = world.jobs();
    let first = world.gate(&base, &head, "run2").await;
    assert_eq!(world.jobs(), jobs, "one run for both");
    assert!(first.note().contains("100.00 % (6 of 6 lines)"), "{}", first.note());
    let tools = &first.report.as_ref().expect("one").header.tools;
    assert!(tools.iter().any(|tool| tool.version.starts_with("cargo-llvm-cov 0.9.1, rustc ")), "{tools:?}");
    world.land(&head, first.landed).await;
    let gone = world.commit("gone", &[("tests/sub.rs", "")]).await;
    let answer = world.gate(&base, &gone, "run3").await;
    for said in ["50.00 % (3 of 6 lines) is below the baseline", "src/lib.rs: 5-7", "deletes tests: tests/sub.rs"] {
        assert!(answer.findings().contains(said), "{said}: {}", answer.findings());
    }
    let back = world.commit("gone", &[("tests/sub.rs", &rust_test("sub", 1))]).await;
    assert!(world.gate(&base, &back, "run4").await.note().contains("is not below the baseline"));
}

#[tokio::test]
async fn cargo_llvm_cov_without_the_tools_of_llvm_passes_loudly() {
    let mut world = World::rust().await;
    world.env.clear();
    world.settings.coverage.command = Some("cargo-llvm-cov".to_owned());
    let files =
        [("Cargo.toml", MANIFEST), ("Cargo.lock", LOCK), ("src/lib.rs", LIB), ("tests/add.rs", &rust_test("add", 5))];
    let base = world.commit("main", &files).await;
    let head = world.commit("task", &[("notes", "x")]).await;
    let answer = world.gate(&base, &head, "run1").await;
    assert!(answer.warnings()[0].contains("coverage was NOT measured"), "{:?}", answer.warnings());
}
