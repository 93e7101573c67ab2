//! The coverage gate with the real c8 on a JavaScript package: a deleted test is sent back with the lines that it ran, and lands
//! when it is there again.

use orch_domain::event::CheckEnd;

use super::check_tests::World;
use crate::context::Commands;

impl World {
    /// A host with Node.js and npm; c8 comes into each checkout by `setup`, as `npm ci` would bring it.
    async fn javascript() -> Self {
        let (node, c8) = (orch_test_support::tools::nodejs(), orch_test_support::measuring::c8());
        let setup = format!("ln -s '{}' node_modules", c8.display());
        let mut world = Self::new(Commands { setup: Some(setup), ..Commands::default() }).await;
        world.path = format!("{}:{}", node.display(), world.path);
        world.tools_read.extend([node.parent().expect("a folder").to_owned(), c8]);
        world
    }
}

const MATHS: &str = "exports.add = (a, b) => {\n  return a + b;\n};\nexports.sub = (a, b) => {\n  return a - b;\n};\n";
const PACKAGE: &str =
    r#"{"name": "maths", "version": "1.0.0", "scripts": {"test": "node --test"}, "devDependencies": {"c8": "10.1.3"}}"#;

fn node_test(what: &str, result: u32) -> String {
    format!(
        "const test = require('node:test');\nconst assert = require('node:assert');\nconst maths = require('../maths.js');\n\
         test('{what}', () => assert.equal(maths.{what}(3, 2), {result}));\n"
    )
}

#[tokio::test]
async fn c8_measures_a_javascript_package_in_the_run_of_its_tests() {
    let world = World::javascript().await;
    let files = [
        ("package.json", PACKAGE),
        ("maths.js", MATHS),
        (".c8rc.json", "{\"include\": [\"maths.js\"]}"),
        ("test/add.test.js", &node_test("add", 5)),
        ("test/sub.test.js", &node_test("sub", 1)),
    ];
    let base = world.commit("main", &files).await;
    let head = world.commit("first", &[("notes", "x")]).await;
    let CheckEnd::Passed { note, .. } = world.tests(&base, &head, "run1").await else { panic!("passes") };
    assert!(note.contains("c8") && note.contains("2 tests"), "{note}");
    let jobs = world.jobs();
    let first = world.gate(&base, &head, "run2").await;
    assert_eq!(world.jobs(), jobs, "one run for both");
    assert!(first.note().contains("100.00 % (6 of 6 lines)"), "{}", first.note());
    let tools = &first.report.as_ref().expect("one").header.tools;
    assert!(tools.iter().any(|tool| tool.version == "10.1.3"), "LCOV does not say which tool: {tools:?}");
    world.land(&head, first.landed).await;

    let gone = world.commit("gone", &[("test/sub.test.js", "")]).await;
    assert!(matches!(world.tests(&base, &gone, "run3").await, CheckEnd::Passed { .. }), "the test that is left passes");
    let answer = world.gate(&base, &gone, "run4").await;
    for said in ["is below the baseline of 100.00 % (6 of 6 lines)", "maths.js: 5", "deletes tests: test/sub.test.js"] {
        assert!(answer.findings().contains(said), "{said}: {}", answer.findings());
    }
    let back = world.commit("gone", &[("test/sub.test.js", &node_test("sub", 1))]).await;
    assert!(world.gate(&base, &back, "run5").await.note().contains("is not below the baseline"));

    // A file that no test loads counts as well, and what the branch's own settings count of what it brings.
    let unloaded = "exports.half = (a) => {\n  return a / 2;\n};\n";
    let wide = "{\"include\": [\"*.js\"]}";
    let head = world.commit("wide", &[("more.js", unloaded), (".c8rc.json", wide)]).await;
    let answer = world.gate(&base, &head, "run6").await;
    assert!(answer.findings().contains("more.js: 1-3"), "{}", answer.findings());
    assert!(answer.has("it was judged by base's, and has 66.66 % (6 of 9 lines) by its own"));
    // What it loses is not hidden by settings that come with it, wherever they stand.
    let keys = PACKAGE.replace("\"scripts\"", "\"c8\": {\"exclude\": [\"maths.js\"], \"all\": true}, \"scripts\"");
    let hidden =
        [("test/sub.test.js", ""), ("package.json", keys.as_str()), (".c8rc.json", ""), ("x.js", "exports.x = 1;\n")];
    let head = world.commit("hidden", &hidden).await;
    let answer = world.gate(&base, &head, "run7").await;
    assert!(answer.findings().contains("maths.js: 5"), "{}", answer.findings());
}

#[tokio::test]
async fn c8_that_is_not_installed_passes_loudly() {
    let mut world = World::javascript().await;
    world.settings.commands.setup = None;
    let files = [("package.json", PACKAGE), ("maths.js", MATHS), ("test/add.test.js", &node_test("add", 5))];
    let base = world.commit("main", &files).await;
    let head = world.commit("task", &[("notes", "x")]).await;
    let answer = world.gate(&base, &head, "run1").await;
    assert!(answer.warnings()[0].contains("coverage was NOT measured"), "{:?}", answer.warnings());
}
