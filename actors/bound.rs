//! Tasks and the settings that they were handed in with.
//!
//! Owns the rule of `orch run`: its settings are those of one command line, and the next command line may say otherwise. A
//! task is worked on, judged and landed by the settings that it was handed in with, or not at all. Refuses to keep any
//! setting itself: only digests are kept, and the name of the branch.

use orch_domain::task::Task;

use crate::context::Context;

/// Which of the settings that a task was handed in with are others here, in words; `None`: it may be worked on. A task that
/// is being stopped always may: that takes no settings.
#[must_use]
pub fn others(ctx: &Context, task: &Task) -> Option<String> {
    let here = ctx.settings.as_deref()?;
    if task.is_terminal() || task.stop.is_some() || task.settings.as_deref() == Some(here) {
        return None;
    }
    Some(match &task.settings {
        Some(then) => differing(then, here),
        None => "settings that are not known any more".to_owned(),
    })
}

/// The names of parts that differ; a part is `name=digest`, that of the branch `main=NAME`.
fn differing(then: &str, here: &str) -> String {
    let value = |all: &str, name: &str| {
        let mut parts = all.split(' ').filter_map(|part| part.split_once('='));
        parts.find(|(part, _)| *part == name).map(|(_, value)| value.to_owned())
    };
    let names = [
        ("agent", "another agent"),
        ("tests", "other tests"),
        ("check", "another check"),
        ("main", "another branch to land on"),
        ("other", "other settings"),
    ];
    let mut found = Vec::new();
    for (name, words) in names {
        let (was, is) = (value(then, name), value(here, name));
        match (name, was) {
            (_, was) if was == is => {}
            ("main", Some(was)) => found.push(format!("{words} (`{was}`)")),
            _ => found.push(words.to_owned()),
        }
    }
    if found.is_empty() { "other settings".to_owned() } else { found.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let then = "agent=a1 tests=b1 check=c1 main=trunk other=d1";
        assert_eq!(differing(then, "agent=a1 tests=b2 check=c1 main=trunk other=d1"), "other tests");
        let all = differing(then, "agent=a2 tests=b1 check=c2 main=side other=d2");
        assert_eq!(all, "another agent, another check, another branch to land on (`trunk`), other settings");
        assert_eq!(differing("of another version", "agent=a1"), "another agent");
    }
}
