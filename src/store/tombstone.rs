//! Tombstones: how a cancelled life gives its natural keys back.
//!
//! Owns the written form `<original>~cancelled~<task id>` and its reading. A key cannot hold `~`, a branch neither; a
//! tracker's id may, so the mark is looked for from the end.

use orch_domain::ids::TaskId;

const MARK: &str = "~cancelled~";

/// The tombstone of a natural key.
#[must_use]
pub fn tombstone(original: &str, task: &TaskId) -> String {
    format!("{original}{MARK}{task}")
}

/// Original and task of a tombstone; `None`: it is none.
#[must_use]
pub fn parse_tombstone(text: &str) -> Option<(&str, TaskId)> {
    let (original, task) = text.rsplit_once(MARK)?;
    Some((original, task.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_tombstone_can_be_read_back(original in ".{0,40}", id in "[a-z0-9]{4,20}") {
            let task: TaskId = id.parse().unwrap();
            let text = tombstone(&original, &task);
            prop_assert_eq!(parse_tombstone(&text), Some((original.as_str(), task)));
        }
    }

    #[test]
    fn what_is_no_tombstone_is_not_read_as_one() {
        for text in ["ORC-1", "orch/orc-1/1", "x~cancelled~", "x~cancelled~NOT AN ID", "~cancelled"] {
            assert_eq!(parse_tombstone(text), None, "{text}");
        }
        let twice = tombstone(&tombstone("ORC-1", &"aaaa".parse().unwrap()), &"bbbb".parse().unwrap());
        assert_eq!(
            parse_tombstone(&twice).map(|(original, _)| original.to_owned()),
            Some("ORC-1~cancelled~aaaa".into())
        );
    }
}
