//! Which file a name in a report means: one of the commit, or none; and what names and lines of no file may cost.

use super::*;

fn lcov_of(files: &[(&str, &str)]) -> String {
    let one = |(name, lines): &(&str, &str)| {
        let lines: String =
            lines.split(' ').filter(|line| !line.is_empty()).map(|line| format!("DA:{line}\n")).collect();
        format!("SF:{name}\n{lines}end_of_record\n")
    };
    files.iter().map(one).collect()
}

#[test]
fn only_files_of_the_commit_count_whatever_else_lies_in_the_checkout() {
    let home = Home::new();
    for generated in ["gen/g.py", ".venv/lib/p.py"] {
        let path = home.tree().join(generated);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, "x = 1\n".repeat(9)).expect("written");
    }
    let all = lcov_of(&[("app/core.py", "1,0"), ("gen/g.py", "1,1 2,1 3,1"), (".venv/lib/p.py", "1,1")]);
    let report = home.read(&all).expect("read");
    assert_eq!(report.coverage.totals(), Totals::new(0, 1).expect("possible"));
    assert!(report.notes[0].contains("2 measured files are not in the commit"), "{:?}", report.notes);
    // A committed file that the run has taken away is still of this commit.
    fs::remove_file(home.tree().join("app/core.py")).expect("removed");
    assert_eq!(core(&home.read(&lcov_of(&[("app/core.py", "900,1")])).expect("read")), [(900, true)]);
}

#[test]
fn steps_upwards_are_folded_below_the_root_and_nowhere_else() {
    let home = Home::new();
    let tree = home.tree().display().to_string();
    for name in ["app/../app/core.py", "build/../app/core.py", "./x/y/../../app/core.py"] {
        for name in [name.to_owned(), format!("{tree}/{name}")] {
            assert_eq!(core(&home.read(&lcov_of(&[(&name, "1,1")])).expect(&name)), [(1, true)], "{name}");
        }
    }
    for name in ["../app/core.py", "app/../../app/core.py", "app\\core.py"] {
        let refused = home.read(&lcov_of(&[(name, "1,1")])).expect_err(name);
        assert!(matches!(refused, CoverageError::Foreign { .. }), "{name}: {refused}");
    }
}

/// Most memory of this process so far, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") / 1_024
}

#[test]
fn names_that_are_deep_or_long_cost_neither_memory_nor_time() {
    let home = Home::new();
    let begun = std::time::Instant::now();
    let before = peak();
    let deep: Vec<String> = (0..2_000).map(|n| format!("{n:05}/{}f", "a/".repeat(487))).collect();
    let long: Vec<String> = (0..20_000).map(|n| format!("{n:08}{}", "x".repeat(3_968))).collect();
    for names in [deep, long] {
        let mut text = String::new();
        for name in &names {
            text.push_str(&format!("SF:{name}\nDA:1,1\nend_of_record\n"));
        }
        let size = text.len() as u64 >> 20;
        text.push_str("SF:app/core.py\nDA:1,1\nend_of_record\n");
        let made = peak();
        let report = home.read(&text).expect("read");
        assert_eq!(core(&report), [(1, true)]);
        assert!(report.notes[0].contains(&format!("{} measured files", names.len())), "{:?}", report.notes);
        assert!(peak() - made < 24, "{} MiB for {size} MiB, from {before}", peak() - made);
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}

fn cobertura_of(sources: &[&str], classes: &[(&str, &str)]) -> String {
    let sources: String = sources.iter().map(|source| format!("<source>{source}</source>")).collect();
    let class = |(name, hits): &(&str, &str)| {
        let lines = hits.chars().enumerate().map(|(n, hit)| format!("<line number='{}' hits='{hit}'/>", n + 1));
        format!("<class filename='{name}'><lines>{}</lines></class>", lines.collect::<String>())
    };
    let classes: String = classes.iter().map(class).collect();
    format!(
        "<coverage><sources>{sources}</sources><packages><package><classes>{classes}</classes></package></packages></coverage>"
    )
}

#[test]
fn a_name_below_two_sources_is_refused_unless_nothing_depends_on_which_it_is() {
    let mut home = Home::new();
    for name in ["app/__init__.py", "lib/__init__.py", "lib/more.py"] {
        home.commit(name, &"x = 1\n".repeat(9));
    }
    let both = cobertura_of(&["app", "lib"], &[("__init__.py", "100"), ("__init__.py", "011")]);
    let refused = home.read(&both).expect_err("which one is meant?");
    assert!(matches!(refused, CoverageError::Broken { .. }), "{refused}");
    for said in ["`__init__.py`", "app/__init__.py", "lib/__init__.py", "JSON or LCOV"] {
        assert!(refused.to_string().contains(said), "{refused}");
    }
    // Empty ones count for nothing, whichever they are; a name below one source alone is that file.
    let empty =
        cobertura_of(&["app", "lib"], &[("__init__.py", ""), ("__init__.py", ""), ("core.py", "10"), ("more.py", "1")]);
    let report = home.read(&empty).expect("read");
    assert_eq!(report.coverage.totals(), Totals::new(2, 3).expect("possible"));
    assert_eq!(core(&report), [(1, true), (2, false)]);
    let late = both.replace("</packages>", "</packages><sources><source>late</source></sources>");
    let late = late.replace("<source>app</source><source>lib</source>", "");
    let refused = home.read(&late).expect_err("names were read already");
    assert!(refused.to_string().contains("after the files"), "{refused}");
}

#[test]
fn a_source_is_read_with_its_references_and_its_plain_text() {
    let mut home = Home::new();
    home.commit("t&x/a.py", "x = 1\n");
    for source in ["t&amp;x", "t&#38;x", "t<![CDATA[&]]>x", "<![CDATA[t&x]]>"] {
        let report = home.read(&cobertura_of(&[source], &[("a.py", "1")])).expect(source);
        assert_eq!(report.coverage.totals(), Totals::new(1, 1).expect("possible"), "{source}");
    }
}

#[test]
fn a_few_files_with_impossible_lines_are_left_out_and_most_are_another_checkout() {
    let mut home = Home::new();
    for name in ["app/a.py", "app/b.py"] {
        home.commit(name, &"x = 1\n".repeat(9));
    }
    let few = lcov_of(&[("app/core.py", "1,1"), ("app/a.py", "1,1"), ("app/b.py", "1,1 900,1")]);
    let report = home.read(&few).expect("read");
    assert_eq!(report.coverage.files.len(), 2);
    assert!(report.notes[0].contains("line 900 of app/b.py, which has 54 bytes"), "{:?}", report.notes);
    let most = lcov_of(&[("app/core.py", "1,1"), ("app/a.py", "800,1"), ("app/b.py", "900,1")]);
    assert!(matches!(home.read(&most), Err(CoverageError::Foreign { .. })));
}

#[test]
fn excluded_lines_are_those_of_files_that_count_in_whatever_order_they_are_told() {
    let home = Home::new();
    let file = |name: &str, lists: &str| format!("\"{name}\": {{{lists}}}");
    let whole = |files: &[String]| format!("{{\"files\": {{{}}}}}", files.join(", "));
    let first = file("app/core.py", r#""excluded_lines": [2], "executed_lines": [1, 2], "missing_lines": [3]"#);
    let elsewhere = file("/usr/lib/x.py", r#""executed_lines": [], "missing_lines": [], "excluded_lines": [1, 2, 3]"#);
    let report = home.read(&whole(&[first, elsewhere])).expect("read");
    assert_eq!((core(&report), report.coverage.excluded), (vec![(1, true), (3, false)], Some(1)));
    for twice in [
        r#""executed_lines": [1], "executed_lines": [2]"#,
        r#""executed_lines": [1], "missing_lines": [], "missing_lines": []"#,
    ] {
        let refused = home.read(&whole(&[file("app/core.py", twice)])).expect_err("refused");
        assert!(matches!(refused, CoverageError::Broken { .. }), "{refused}");
    }
}

#[test]
fn lcov_of_which_nothing_can_be_read_is_broken_and_a_mark_of_byte_order_is_nothing() {
    let home = Home::new();
    let refused = home.read(&lcov_of(&[("app/core.py", "x,1 y,1 1,1")])).expect_err("refused");
    assert!(refused.to_string().contains("2 of 3 `DA` lines"), "{refused}");
    for text in [
        "SF:app/core.py\nDA:1,1\nend_of_record\n",
        r#"{"files": {"app/core.py": {"executed_lines": [1], "missing_lines": []}}}"#,
    ] {
        assert_eq!(core(&home.read(&format!("\u{feff}{text}")).expect(text)), [(1, true)]);
    }
}

#[test]
fn a_committed_file_with_the_name_of_a_report_stays_and_is_none_until_it_is_written() {
    let mut home = Home::new();
    home.commit("coverage.xml", COBERTURA);
    let places = home.places();
    fs::write(home.tree().join("lcov.info"), LCOV).expect("left by setup");
    let since = places.clear().expect("cleared");
    assert!(home.tree().join("coverage.xml").is_file(), "the tests may read it");
    assert!(!home.tree().join("lcov.info").exists());
    assert!(matches!(places.read(&since), Err(CoverageError::Missing { .. })));
    fs::write(home.tree().join("coverage.xml"), COBERTURA.replace("SOURCE", "app")).expect("written");
    assert_eq!(places.read(&since).expect("read").place, "`coverage.xml`");
    // A configured one is no other matter.
    let places = Places { configured: Some("coverage.xml".parse().expect("a path")), ..home.places() };
    let since = places.clear().expect("cleared");
    assert!(home.tree().join("coverage.xml").is_file());
    assert!(matches!(places.read(&since), Err(CoverageError::Missing { .. })));
}

#[test]
fn a_folder_that_became_a_link_is_not_gone_through() {
    let home = Home::new();
    let places = home.places();
    let far = home.0.path().join("far");
    fs::create_dir(&far).expect("made");
    let since = places.clear().expect("cleared");
    fs::write(far.join("report"), LCOV).expect("written");
    fs::remove_dir_all(&places.folder).expect("removed");
    symlink(&far, &places.folder).expect("linked");
    assert!(matches!(places.read(&since), Err(CoverageError::Missing { .. })));
    // Taken away and made anew, as some tools do with the folder that they are given, is fine.
    fs::remove_file(&places.folder).expect("removed");
    fs::create_dir(&places.folder).expect("made");
    fs::write(places.asked_for(), LCOV).expect("written");
    assert_eq!(core(&places.read(&since).expect("read")).len(), 5);
}
