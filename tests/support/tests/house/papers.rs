//! Rules about documents: decisions are listed, links lead somewhere, the pins of the image and of the tests are whole.

use std::path::Path;

use crate::{Page, at, none, tracked};

/// Relative targets of the Markdown links in a text, without their anchors; links in fenced code are examples.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") {
                found.push(file.to_owned());
            }
        }
    }
    found
}

fn dead_links(page: &Page) -> Vec<String> {
    let folder = Path::new(&page.path).parent().unwrap_or(Path::new(""));
    let dead = links(&page.text).into_iter().filter(|link| !at(".").join(folder).join(link).exists());
    dead.map(|link| format!("{}: the link to `{link}` leads nowhere", page.path)).collect()
}

/// What is not right between the decisions in a folder and their list: `decisions` are file names.
fn unlisted(list: &str, decisions: &[String]) -> Vec<String> {
    let mut found: Vec<String> = decisions
        .iter()
        .filter(|name| !list.contains(&format!("({name})")))
        .map(|name| format!("docs/adr/{name} is not listed in docs/adr/README.md"))
        .collect();
    for (i, name) in decisions.iter().enumerate() {
        if !name.starts_with(&format!("{:04}-", i + 1)) {
            found.push(format!("docs/adr/{name}: numbers run on without a gap, expected {:04}", i + 1));
        }
    }
    found
}

/// A decision tells four things, each under its own heading.
fn incomplete(name: &str, text: &str) -> Vec<String> {
    let missing =
        ["## Context", "## Choice", "## Rejected", "## Cost"].into_iter().filter(|heading| !text.contains(heading));
    missing.map(|heading| format!("docs/adr/{name}: no `{heading}`")).collect()
}

/// Each requirement of a list must have at least one hash, and one exact version.
fn unpinned(path: &str, text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let loose = lines.filter(|line| !line.contains("==") || !line.contains("--hash=sha256:"));
    loose.map(|line| format!("{path}: `{}` is not pinned by version and hash", line.trim())).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = tracked().into_iter().filter(|page| page.path.ends_with(".md"));
    none(pages.flat_map(|page| dead_links(&page)).collect());
}

#[test]
fn decisions_are_listed_and_complete() {
    let pages = tracked();
    let list =
        pages.iter().find(|page| page.path == "docs/adr/README.md").expect("docs/adr/README.md lists the decisions");
    let mut found = Vec::new();
    let mut names = Vec::new();
    for page in &pages {
        let Some(name) = page.path.strip_prefix("docs/adr/").filter(|name| *name != "README.md") else { continue };
        found.extend(incomplete(name, &page.text));
        names.push(name.to_owned());
    }
    names.sort();
    found.extend(unlisted(&list.text, &names));
    assert!(names.len() >= 5, "{names:?}");
    none(found);
}

#[test]
fn every_shipped_package_is_pinned_by_hash() {
    let pages = tracked();
    let lists: Vec<&Page> = pages
        .iter()
        .filter(|page| page.path.starts_with("docs/deploy/tools/") && page.path.ends_with(".txt"))
        .collect();
    assert_eq!(lists.len(), 3);
    none(lists.iter().flat_map(|page| unpinned(&page.path, &page.text)).collect());
}

#[test]
fn each_rule_sees_what_it_is_for() {
    let text = "[a](b.md#c) [d](http://e) ![f](g.png)\n```\n[h](i.md)\n```\n[j](#k)\n";
    assert_eq!(links(text), ["b.md", "g.png"]);
    let page = Page { path: "docs/testing.md".to_owned(), text: "[a](nothing-here.md) [b](../Cargo.toml)".to_owned() };
    assert_eq!(dead_links(&page).len(), 1);
    let names = ["0001-a.md".to_owned(), "0003-b.md".to_owned()];
    assert_eq!(unlisted("- [a](0001-a.md)\n", &names).len(), 2, "one is not listed, and 0002 is missing");
    assert_eq!(incomplete("0001-a.md", "## Context\n## Choice\n## Cost\n").len(), 1);
    assert_eq!(unpinned("a.txt", "# c\na==1 \\\n  --hash=sha256:00\nb==1\nc>=2 --hash=sha256:00\n").len(), 2);
}
