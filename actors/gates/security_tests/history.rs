//! Secrets in thirty places of a real history: this repository's own.

use std::path::Path;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_secrets_in_a_real_history_are_found() {
    let scene = Scene::new().await;
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    scene.git(&["fetch", "--quiet", &top.to_string_lossy(), "HEAD"]);
    scene.git(&["checkout", "--quiet", "-B", "main", "FETCH_HEAD"]);
    let base = scene.branch();
    let files: Vec<String> = scene.git(&["ls-files"]).lines().map(str::to_owned).collect();
    assert!(files.len() > 200, "{} files", files.len());
    // Into existing files, at their beginning, middle and end, a commit each; every second one is taken out again at once.
    let mut planted = 0;
    for (number, path) in (60..84_u64).zip(files.iter().step_by(files.len() / 24)) {
        let Ok(text) = fs::read_to_string(scene.author().join(path)) else { continue };
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = match number % 3 {
            0 => 0,
            1 => lines.len() / 2,
            _ => lines.len(),
        };
        lines.insert(at, format!("// it = {}", token(number)));
        scene.write(path, lines.join("\n"));
        scene.commit(&format!("Touch {path}"));
        if number % 2 == 0 {
            scene.write(path, text);
            scene.commit("Take it out again");
        }
        planted += 1;
    }
    assert_eq!(planted, 24, "text files all");
    // A new file, a deep one, a name, two messages, and a merge.
    scene.write("new.txt", format!("{}\n", token(84)));
    scene.commit("New");
    scene.write("a/very/deep/folder/of/files/x", format!("{}\n", token(85)));
    scene.commit("Deep");
    scene.write(&format!("names/{}", token(86)), "x\n");
    scene.commit("Name");
    scene.commit(&format!("Say {}", token(87)));
    scene.commit(&format!("Say\n\nmore: {}\n", token(88)));
    scene.git(&["checkout", "--quiet", "-b", "side", base.as_str()]);
    scene.write("side.txt", "side\n");
    scene.commit("Side");
    scene.git(&["checkout", "--quiet", "work"]);
    scene.git(&["merge", "--quiet", "--no-commit", "side"]);
    scene.write("README.md", format!("{}\n", token(89)));
    scene.commit("Merge");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        let report = Scene::report(&answer);
        let secrets = report.header.counts.iter().find(|count| count.name == "secrets").expect("counted");
        assert_eq!(secrets.value, 30, "{engine:?}: {}", findings(&answer));
        for number in 60..90 {
            assert_silent(&answer, &token(number));
        }
    }
}
