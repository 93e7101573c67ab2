//! Tombstones: the mark that frees a cancelled task's natural keys (tracker id, human key, branch) for its next life.
//!
//! Owns the form `<original>~cancelled~<task id>` and reading it back. Nothing is lost by it: the original is the text
//! before the last mark, whatever it holds itself, since a task id never holds a `~`. No living key can look like one:
//! task keys and branch names refuse `~`.

use crate::ids::TaskId;

/// What stands between the original and the task id.
pub const MARK: &str = "~cancelled~";

/// The tombstone of `original`, which belonged to `task`. Of a tombstone of the same task it is that tombstone itself, so
/// that the step may be repeated.
#[must_use]
pub fn tombstone(original: &str, task: &TaskId) -> String {
    match parse_tombstone(original) {
        Some((_, of)) if of == *task => original.to_owned(),
        _ => format!("{original}{MARK}{task}"),
    }
}

/// The original and the task, if `text` is a tombstone.
#[must_use]
pub fn parse_tombstone(text: &str) -> Option<(&str, TaskId)> {
    let (original, task) = text.rsplit_once(MARK)?;
    Some((original, task.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{BranchName, TaskKey};
    use proptest::prelude::*;

    fn id(text: &str) -> TaskId {
        text.parse().expect("a valid id")
    }

    #[test]
    fn the_form_is_that_of_the_design() {
        assert_eq!(tombstone("ORC-12", &id("task0001")), "ORC-12~cancelled~task0001");
        assert_eq!(parse_tombstone("ORC-12~cancelled~task0001"), Some(("ORC-12", id("task0001"))));
    }

    #[test]
    fn burying_twice_is_burying_once() {
        let once = tombstone("ORC-12", &id("task0001"));
        assert_eq!(tombstone(&once, &id("task0001")), once);
        assert_ne!(tombstone(&once, &id("task0002")), once);
    }

    #[test]
    fn a_tombstone_is_never_taken_for_a_living_name() {
        let buried = tombstone("ORC-12", &id("task0001"));
        assert!(buried.parse::<TaskKey>().is_err());
        assert!(buried.parse::<BranchName>().is_err());
        for text in ["", "ORC-12", "ORC-12~cancelled~", "ORC-12~cancelled~../x", "ORC-12~cancelled~UPPER1"] {
            assert_eq!(parse_tombstone(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_buried_can_be_read_back(original in any::<String>(), task in "[a-z0-9]{4,28}") {
            let task = id(&task);
            let buried = tombstone(&original, &task);
            let (read, of) = parse_tombstone(&buried).expect("a tombstone");
            prop_assert_eq!(of, task.clone());
            // A text that already is this task's tombstone stays; every other one comes back as it was.
            if parse_tombstone(&original).is_none_or(|(_, of)| of != task) {
                prop_assert_eq!(read, original);
            }
        }

        #[test]
        fn marks_within_the_original_survive(parts in proptest::collection::vec("[a-z~]{0,6}", 0..4), task in "[a-z0-9]{4,28}") {
            let original = parts.join(MARK);
            let buried = format!("{original}{MARK}{task}");
            prop_assert_eq!(parse_tombstone(&buried), Some((original.as_str(), id(&task))));
        }

        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _ = parse_tombstone(&text);
        }
    }
}
