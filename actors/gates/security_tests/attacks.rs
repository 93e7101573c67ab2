//! The measured ways past a scanner, each on both engines: found, refused, or known not to be findable.

use std::os::unix::ffi::OsStrExt as _;

use super::*;

/// What comes of a row.
enum Ends {
    /// The token of this number is found.
    Found(u64),
    /// It is found, but not by the binary, whose own lists leave it out.
    FoundByBuiltin(u64),
    /// Refused with these words.
    Refused(&'static str),
    /// No scanner of this kind finds it; said so in the docs.
    NotFindable,
}

/// Makes the branch of a row on a fresh repository, asks both engines, compares.
async fn row(name: &str, make: impl Fn(&Scene) -> CommitSha, ends: Ends) {
    let scene = Scene::new().await;
    let base = make(&scene);
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        let row = format!("{name} ({engine:?})");
        match &ends {
            Ends::FoundByBuiltin(_) if engine == EngineKind::Gitleaks => {
                assert!(matches!(answer.end, CheckEnd::Passed { .. }), "{row}: {answer:?}");
            }
            Ends::Found(number) | Ends::FoundByBuiltin(number) => {
                let CheckEnd::Failed { findings } = &answer.end else { panic!("{row} is not found: {answer:?}") };
                assert!(findings.contains("keyed hash"), "{row}: {findings}");
                assert_silent(&answer, &token(*number));
            }
            Ends::Refused(words) => {
                let CheckEnd::Failed { findings } = &answer.end else { panic!("{row} is not refused: {answer:?}") };
                assert!(findings.contains("Refused") && findings.contains(words), "{row}: {findings}");
            }
            Ends::NotFindable => {
                assert!(matches!(answer.end, CheckEnd::Passed { .. }), "{row} is found after all: {answer:?}");
            }
        }
    }
}

/// A line of code with a token.
fn line(number: u64) -> String {
    format!("const it = \"{}\";\n", token(number))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_branch_cannot_choose_its_judge() {
    for (name, file) in [
        ("allows everything", "[extend]\nuseDefault = true\n[[allowlists]]\npaths = ['.*']\n"),
        ("disables the rule", "[extend]\nuseDefault = true\ndisabledRules = ['github-pat', 'generic-api-key']\n"),
        ("overrides the pattern", "[extend]\nuseDefault = true\n[[rules]]\nid = 'github-pat'\nregex = 'nothing'\n"),
        ("empties the file", ""),
    ] {
        let make = |scene: &Scene| {
            scene.write(".gitleaks.toml", "[extend]\nuseDefault = true\n");
            scene.commit("Rules");
            let base = scene.branch();
            scene.write(".gitleaks.toml", file);
            scene.write("src/a.rs", line(1));
            scene.commit("Work");
            base
        };
        row(name, make, Ends::Found(1)).await;
    }
    let allow = |scene: &Scene| {
        let base = scene.branch();
        scene.write("src/a.rs", format!("const it = \"{}\"; // gitleaks:allow\n", token(2)));
        scene.write(".gitleaksignore", "src/a.rs:github-pat:1\n");
        scene.commit("Work");
        base
    };
    row("allow comment and ignore file", allow, Ends::Found(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_rules_is_told_and_has_no_effect() {
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write(".gitleaks.toml", "[extend]\nuseDefault = true\n");
    scene.write(".gitleaksignore", "x\n");
    scene.commit("Rules");
    let answer = scene.judge(&base, EngineKind::Builtin).await;
    passed(&answer);
    let report = Scene::report(&answer);
    assert!(report.header.notes.iter().any(|note| note.contains("changes `.gitleaks.toml`, `.gitleaksignore`")));
    assert!(report.body.contains("the branch changed about the rules: `.gitleaks.toml`, `.gitleaksignore`"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_lean_on_another_file_or_are_misspelt_stop_everything() {
    for (file, says) in [
        ("[extend]\npath = 'other.toml'\n", "extend.path"),
        ("[extend]\nuseDefault = true\n[[allowlistz]]\npaths = ['a']\n", "allowlistz"),
        ("[[rules]]\nid = 'x'\nregex = '(?=a)'\n", "rule `x`"),
    ] {
        let scene = Scene::new().await;
        scene.write(".gitleaks.toml", file);
        scene.commit("Rules");
        let base = scene.branch();
        scene.write("other.toml", "");
        scene.commit("Work");
        for engine in ENGINES {
            let answer = scene.judge(&base, engine).await;
            // What the engine in this process cannot compile, the binary panics on.
            assert!(why(&answer).contains(says) || engine == EngineKind::Gitleaks, "{says}: {answer:?}");
            assert_eq!(Scene::report(&answer).verdict.as_str(), "could_not_run");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_steers_diffs_hides_a_secret() {
    let binary = |attributes: &'static str| {
        move |scene: &Scene| {
            let base = scene.branch();
            scene.write(".gitattributes", attributes);
            scene.write("src/a.dat", [b"\0\0".as_slice(), line(3).as_bytes()].concat());
            scene.commit("Work");
            base
        }
    };
    row("NUL byte", binary(""), Ends::Found(3)).await;
    row("-diff", binary("*.dat -diff\n"), Ends::Found(3)).await;
    row("binary", binary("*.dat binary\n"), Ends::Found(3)).await;
    row("a broken attribute", binary("!x foo\n"), Ends::Found(3)).await;
    let local = |scene: &Scene| {
        let base = scene.branch();
        scene.write(".git/info/attributes", "*.rs -diff\n");
        for (key, value) in [("color.ui", "always"), ("log.showRoot", "false"), ("diff.x.textconv", "true")] {
            scene.git(&["config", key, value]);
        }
        scene.write(".gitattributes", "*.rs diff=x\n");
        scene.write("src/a.rs", line(3));
        scene.commit("Work");
        base
    };
    row("attributes and settings of the clone, text conversion", local, Ends::Found(3)).await;
    let refs = |scene: &Scene| {
        let base = scene.branch();
        scene.write("src/a.rs", line(3));
        scene.commit("Work");
        scene.git(&["tag", "origin/main"]);
        scene.git(&["branch", "origin/main"]);
        scene.git(&["update-ref", "refs/remotes/origin/main", "HEAD"]);
        let clean = scene.git(&["commit-tree", &format!("{base}^{{tree}}"), "-p", base.as_str(), "-m", "clean"]);
        scene.git(&["replace", "HEAD", &clean]);
        base
    };
    row("names like the remote's main, a moved remote branch, a replaced commit", refs, Ends::Found(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_shape_of_history_hides_a_secret() {
    let merge = |scene: &Scene| {
        let base = scene.branch();
        scene.write("a.txt", "a\n");
        scene.commit("One side");
        scene.git(&["checkout", "--quiet", "-b", "side", base.as_str()]);
        scene.write("b.txt", "b\n");
        scene.commit("Other side");
        scene.git(&["checkout", "--quiet", "work"]);
        scene.git(&["merge", "--quiet", "--no-commit", "--no-ff", "side"]);
        scene.write("a.txt", line(4));
        scene.commit("Merge");
        base
    };
    row("made in a merge", merge, Ends::Found(4)).await;
    let octopus = |scene: &Scene| {
        let base = scene.branch();
        for side in ["one", "two"] {
            scene.git(&["checkout", "--quiet", "-b", side, base.as_str()]);
            scene.write(&format!("{side}.txt"), side);
            scene.commit(side);
        }
        scene.git(&["checkout", "--quiet", "work"]);
        scene.git(&["merge", "--quiet", "--no-ff", "-m", "Octopus", "one", "two"]);
        base
    };
    row("octopus", octopus, Ends::Refused("merges 3 parents")).await;
    let removed = |scene: &Scene| {
        let base = scene.branch();
        scene.write("a.txt", line(4));
        scene.commit("Add");
        scene.write("a.txt", "nothing\n");
        scene.commit("Remove");
        base
    };
    row("added and removed", removed, Ends::Found(4)).await;
    let orphan = |scene: &Scene| {
        let base = scene.branch();
        scene.git(&["checkout", "--quiet", "--orphan", "other"]);
        scene.write("a.txt", line(4));
        scene.commit("Root");
        scene.git(&["checkout", "--quiet", "work"]);
        scene.git(&["merge", "--quiet", "--allow-unrelated-histories", "-m", "Join", "-s", "ours", "other"]);
        base
    };
    row("a root of its own, merged away", orphan, Ends::Found(4)).await;
    let renamed = |scene: &Scene| {
        let base = scene.branch();
        scene.git(&["mv", "README.md", "moved.md"]);
        scene.write("moved.md", format!("# shop\n{}", line(4)));
        scene.commit("Rename and add");
        base
    };
    row("renamed and added", renamed, Ends::Found(4)).await;
    let submodule = |scene: &Scene| {
        let base = scene.branch();
        let entry = format!("160000,{base},vendor/lib");
        scene.git(&["update-index", "--add", "--cacheinfo", &entry]);
        scene.git_with(&["commit", "--quiet", "-F", "-"], b"Submodule");
        base
    };
    row("submodule", submodule, Ends::Refused("links to another repository")).await;
    let symlink = |scene: &Scene| {
        let base = scene.branch();
        std::os::unix::fs::symlink(token(4), scene.author().join("link")).expect("linked");
        scene.commit("Link");
        base
    };
    row("target of a link", symlink, Ends::Found(4)).await;
    let notes = |scene: &Scene| {
        let base = scene.branch();
        scene.write("a.txt", "a\n");
        scene.commit("Work");
        scene.git(&["notes", "add", "-m", &token(4)]);
        scene.git(&["tag", "-a", "v1", "-m", &token(4)]);
        base
    };
    row("notes and tags, which do not land", notes, Ends::NotFindable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_in_two_halves_is_found_where_both_meet() {
    let scene = Scene::new().await;
    let base = scene.branch();
    let (one, other) = private_key();
    scene.write("key.pem", &one);
    scene.commit("Half");
    scene.write("key.pem", format!("{one}{other}"));
    scene.commit("Other half");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        assert!(findings(&answer).contains("private-key"), "{engine:?}: {answer:?}");
    }
    let scene = Scene::new().await;
    scene.write(
        ".gitleaks.toml",
        "[[rules]]\nid = 'id'\nregex = 'id-[0-9]{4}'\nkeywords = ['id-']\nskipReport = true\n[[rules]]\nid = 'pair'\n\
         regex = 'key-[a-z]{6}'\nkeywords = ['key-']\n[[rules.required]]\nid = 'id'\nwithinLines = 3\n",
    );
    scene.write("pair.txt", "id-1234\n");
    scene.commit("Half on main");
    let base = scene.branch();
    scene.write("pair.txt", "id-1234\nkey-abcdef\n");
    scene.commit("Other half");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        assert!(findings(&answer).contains("pair"), "{engine:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_are_opened() {
    let gzip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(bytes).expect("into memory");
        out.finish().expect("into memory")
    };
    let packed = |name: &'static str, bytes: Vec<u8>| {
        move |scene: &Scene| {
            let base = scene.branch();
            scene.write(name, &bytes);
            scene.commit("Pack");
            base
        }
    };
    row("gzip", packed("a.gz", gzip(line(5).as_bytes())), Ends::Found(5)).await;
    row("gzip without its name", packed("a.dat", gzip(line(5).as_bytes())), Ends::Found(5)).await;
    let mut tar = vec![0; 512];
    tar[..5].copy_from_slice(b"x.svg");
    tar[124..135].copy_from_slice(format!("{:011o}", line(5).len()).as_bytes());
    tar[257..262].copy_from_slice(b"ustar");
    tar.extend(line(5).as_bytes());
    tar.resize(2048, 0);
    row("tar in gzip, under a name that is left out by default", packed("a.tgz", gzip(&tar)), Ends::Found(5)).await;
    // Made by Python, as a person would: `zip` is not everywhere.
    let zipped = |scene: &Scene| {
        let base = scene.branch();
        scene.write("inner.txt", line(5));
        let script = "import zipfile; z = zipfile.ZipFile('a.zip', 'w', 8); z.write('inner.txt'); z.close()";
        let made = Program::new("python3").args(["-I", "-c", script]).current_dir(scene.author()).status();
        assert!(made.expect("python runs").success());
        fs::remove_file(scene.author().join("inner.txt")).expect("removed");
        scene.commit("Pack");
        base
    };
    row("zip", zipped, Ends::Found(5)).await;
    let nested = (0..6).fold(line(5).into_bytes(), |inner, _| gzip(&inner));
    row("nested too deep", packed("a.gz", nested), Ends::Refused("nested deeper")).await;
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("a.xz", b"\xfd7zXZ\0 and so on");
    scene.commit("Pack");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        assert!(passed(&answer).iter().any(|line| line.contains("a.xz") && line.contains("not opened")), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_texts_and_names_are_looked_at() {
    let message = |scene: &Scene| {
        let base = scene.branch();
        scene.commit(&format!("Work\n\nwith {}\n", token(6)));
        base
    };
    row("message", message, Ends::Found(6)).await;
    let author = |scene: &Scene| {
        let base = scene.branch();
        let name = format!("user.name={}", token(6));
        scene.git(&["-c", &name, "commit", "--quiet", "--allow-empty", "-m", "Work"]);
        base
    };
    row("author", author, Ends::Found(6)).await;
    let name = |scene: &Scene| {
        let base = scene.branch();
        scene.write(&format!("keys/{}.txt", token(6)), "x\n");
        scene.commit("Work");
        base
    };
    row("file name", name, Ends::Found(6)).await;
    let header = |scene: &Scene| {
        let base = scene.branch();
        let tree = scene.git(&["rev-parse", "HEAD^{tree}"]);
        let who = "a <a@example.org> 1700000000 +0000";
        let text = format!("tree {tree}\nparent {base}\nauthor {who}\ncommitter {who}\nx-note {}\n\nWork\n", token(6));
        let made = scene.git_with(&["hash-object", "-t", "commit", "-w", "--stdin"], text.as_bytes());
        scene.git(&["reset", "--quiet", "--hard", &made]);
        base
    };
    row("an extra header", header, Ends::Found(6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_and_what_is_large_is_read_to_its_end() {
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("big.txt", "x\n".repeat(60_000));
    scene.write("bigger.txt", "y\n".repeat(60_000));
    scene.commit("Big");
    for engine in ENGINES {
        let answer = scene.judge_with(&base, engine, |ctx| ctx.security.limits.file = 100_000).await;
        assert!(findings(&answer).contains("`big.txt` has 120000 bytes; at most 100000"), "{answer:?}");
        let answer = scene.judge_with(&base, engine, |ctx| ctx.security.limits.total = 200_000).await;
        assert!(findings(&answer).contains("more than 200000 bytes"), "{answer:?}");
        passed(&scene.judge(&base, engine).await);
    }
    // 20 MB in lines without a gap, the token over a seam of the binary's chunks, and one at the very end.
    let large = |scene: &Scene| {
        let base = scene.branch();
        let mut text = "0123456789 and some more, but nothing that is a secret\n".repeat(370_000).into_bytes();
        let end = line(7);
        text.extend_from_slice(end.as_bytes());
        scene.write("large.txt", text);
        scene.commit("Large");
        base
    };
    row("20 MB, at the end", large, Ends::Found(7)).await;
    let seam = |scene: &Scene| {
        let base = scene.branch();
        let mut text = "0123456789 and some more, but nothing that is a secret\n".repeat(6_000).into_bytes();
        let secret = line(7);
        let at = 125_000 - 20;
        text[at..at + secret.len()].copy_from_slice(secret.as_bytes());
        text[at - 1] = b'\n';
        scene.write("seam.txt", text);
        scene.commit("Seam");
        base
    };
    row("over the seam of chunks", seam, Ends::Found(7)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_is_left_out_but_by_the_rules_of_base() {
    let paths = [
        "logo.svg",
        "doc.pdf",
        "x.bin",
        "package-lock.json",
        "poetry.lock",
        "go.sum",
        "node_modules/a/index.js",
        "venv/lib/python3.11/a.py",
        "a-1.0.dist-info/RECORD",
        "static/jquery-3.min.js",
        "gitleaks.toml",
    ];
    let scene = Scene::new().await;
    let base = scene.branch();
    for (at, path) in (20..).zip(paths) {
        scene.write(path, line(at));
    }
    scene.commit("Everywhere");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        for path in paths {
            assert!(findings(&answer).contains(&format!("`{path}`, line 1")), "{path} ({engine:?}): {answer:?}");
        }
    }
    // A list of the repository itself does hold, and only where it says.
    let scene = Scene::new().await;
    scene.write(".gitleaks.toml", "[extend]\nuseDefault = true\n[[allowlists]]\npaths = ['^tests/fixtures/']\n");
    scene.commit("Rules");
    let base = scene.branch();
    scene.write("tests/fixtures/a.txt", line(8));
    scene.commit("Fixture");
    for engine in ENGINES {
        passed(&scene.judge(&base, engine).await);
    }
    scene.write("src/copy.txt", line(8));
    scene.commit("Copy");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        assert!(findings(&answer).contains("`src/copy.txt`"), "{engine:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrapped_secrets_are_found_as_far_as_a_scanner_can() {
    let text = |text: String| {
        move |scene: &Scene| {
            let base = scene.branch();
            scene.write("src/a.rs", &text);
            scene.commit("Work");
            base
        }
    };
    let secret = token(9);
    let hexed = hex::encode(&secret);
    row("hex", text(format!("x = \"{hexed}\"\n")), Ends::Found(9)).await;
    let base64 = |text: &str| {
        let signs = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for chunk in text.as_bytes().chunks(3) {
            let mut bits = 0_u32;
            for at in 0..3 {
                bits = bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0));
            }
            for at in 0..4 {
                let sign = signs[(bits >> (18 - 6 * at)) as usize & 63];
                out.push(if at <= chunk.len() { char::from(sign) } else { '=' });
            }
        }
        out
    };
    row("base64, twice", text(format!("x = \"{}\"\n", base64(&base64(&secret)))), Ends::Found(9)).await;
    let wide: Vec<u8> = line(9).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16 = |scene: &Scene| {
        let base = scene.branch();
        scene.write("a.txt", [b"\xff\xfe".as_slice(), &wide].concat());
        scene.commit("Work");
        base
    };
    row("UTF-16", utf16, Ends::Found(9)).await;
    // Binary by its first letters, for the binary.
    row("the first letters of a program", text(format!("MZ {}", line(9))), Ends::Found(9)).await;
    row("the first letters of a document", text(format!("%PDF-1.4 {}", line(9))), Ends::Found(9)).await;
    // What no scanner of this kind finds.
    let (one, other) = secret.split_at(20);
    row("split by a plus", text(format!("x = \"{one}\" + \"{other}\"\n")), Ends::NotFindable).await;
    row("reversed", text(format!("x = \"{}\"\n", secret.chars().rev().collect::<String>())), Ends::NotFindable).await;
    row("a sign without width inside", text(format!("x = \"{one}\u{200b}{other}\"\n")), Ends::NotFindable).await;
    let base32 = |text: &str| {
        let signs = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let bits: String = text.bytes().map(|byte| format!("{byte:08b}")).collect();
        let five = bits.as_bytes().chunks(5).map(|five| {
            let padded = format!("{:0<5}", String::from_utf8_lossy(five));
            char::from(signs[usize::from_str_radix(&padded, 2).expect("bits")])
        });
        five.collect::<String>()
    };
    row("base32", text(format!("x = \"{}\"\n", base32(&secret))), Ends::NotFindable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_binarys_own_lists_leave_out_our_engine_finds() {
    // Its default list has a pattern without a group, so that any secret with this word inside is left out.
    let part = &token(10)[4..];
    for (name, secret) in [
        ("a word inside", format!("ghp_{}false{}", &part[..16], &part[16..31])),
        ("the alphabet inside", format!("ghp_{}{}", "abcdefghijklmnopqrstuvwxyz", &part[..10])),
    ] {
        let make = |scene: &Scene| {
            let base = scene.branch();
            scene.write("src/a.rs", format!("const it = \"{secret}\";\n"));
            scene.commit("Work");
            base
        };
        row(name, make, Ends::FoundByBuiltin(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_names_and_texts_fool_nobody() {
    let names: [&[u8]; 8] = [
        b"with space",
        b"with\nnewline",
        b"quo\"te",
        b"back\\slash",
        b"a => b",
        b"\xff\xfe.txt",
        b"-dash",
        "\u{202e}txt.exe".as_bytes(),
    ];
    let scene = Scene::new().await;
    let base = scene.branch();
    for (at, name) in (30..).zip(names) {
        fs::write(scene.author().join(std::ffi::OsStr::from_bytes(name)), line(at)).expect("written");
    }
    scene.write("dev/null.py", line(40));
    scene.write("lines.txt", format!("@@ -1,1 +1,1 @@\r+{}\rdiff --git a/x b/x\r", token(41)));
    scene.commit("commit 0000\n\ndiff --git a/x b/x\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n\x1b[31m\n");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        let report = Scene::report(&answer);
        let secrets = report.header.counts.iter().find(|count| count.name == "secrets").expect("counted");
        assert_eq!(secrets.value, 10, "{engine:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_base_holds_is_nobodys_fault() {
    let scene = Scene::new().await;
    scene.write("old.txt", format!("first\n  {}", line(11)));
    scene.write("gone.txt", line(12));
    scene.commit("Sins of the past");
    let base = scene.branch();
    scene.git(&["mv", "old.txt", "renamed.txt"]);
    scene.commit("Rename");
    scene.write("renamed.txt", format!("first\nand more\n{}", line(11)));
    fs::remove_file(scene.author().join("gone.txt")).expect("removed");
    scene.commit("Indent anew, take out");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        passed(&answer);
        let held = Scene::report(&answer).header.counts.into_iter().find(|count| count.name == "held_by_base");
        assert_eq!(held.expect("counted").value, 1, "{engine:?}");
    }
    scene.write("renamed.txt", format!("first\nand more\n{}{}", line(11), line(13)));
    scene.commit("A new one beside it");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        assert!(findings(&answer).contains("1 secret in what"), "{engine:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_findings_say_rule_place_commit_and_that_history_has_to_be_rewritten() {
    let scene = Scene::new().await;
    let base = scene.branch();
    scene.write("src/a.rs", format!("first\n{}", line(14)));
    let first = scene.commit("Add");
    scene.write("src/a.rs", "first\n");
    scene.commit("Remove");
    for engine in ENGINES {
        let answer = scene.judge(&base, engine).await;
        let text = findings(&answer);
        for part in [
            "github-pat",
            "`src/a.rs`, line 2",
            first.short(),
            "no longer in the newest version",
            "rewritten",
            "keyed hash",
            "`ghp...`, 40 characters",
            base.short(),
        ] {
            assert!(text.contains(part), "{part} ({engine:?}): {text}");
        }
        assert_silent(&answer, &token(14));
        let report = Scene::report(&answer);
        assert!(report.body.contains("SHA-256"), "{}", report.body);
        let tool = &report.header.tools[1];
        let version = match engine {
            EngineKind::Gitleaks => "8.30.1 (sha256 ",
            _ => env!("CARGO_PKG_VERSION"),
        };
        assert!(tool.version.starts_with(version), "{tool:?}");
    }
}
