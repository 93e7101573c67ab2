//! What a stored task leaves out: whatever is as it is at the beginning.
//!
//! Owns the words that serde asks for it. Invariant: what is left out is read as what it was, by the defaults of its type.

use std::sync::{Arc, LazyLock};

use serde::Serializer;

use crate::pipeline::Pipeline;
use crate::policy::Policy;
use crate::task::Counters;

/// Counters by their names, without those that are zero: most are, for most of a task's life.
pub(crate) fn without_zeros<S: Serializer>(counters: &Counters, to: S) -> Result<S::Ok, S::Error> {
    // All by name: a new one does not compile before it is here.
    let Counters {
        runs,
        developer_retries,
        conflicts,
        interrupted,
        interrupted_checks,
        infrastructure,
        deferrals,
        main_moved,
        main_red,
    } = *counters;
    let all = [
        ("runs", runs),
        ("developer_retries", developer_retries),
        ("conflicts", conflicts),
        ("interrupted", interrupted),
        ("interrupted_checks", interrupted_checks),
        ("infrastructure", infrastructure),
        ("deferrals", deferrals),
        ("main_moved", main_moved),
        ("main_red", main_red),
    ];
    to.collect_map(all.into_iter().filter(|(_, count)| *count > 0))
}

/// Whether a value is what it would be read as if it were not there.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What stands in a task that was read and not filled in yet.
pub(crate) fn unfilled_pipeline() -> Arc<Pipeline> {
    static NONE: LazyLock<Arc<Pipeline>> =
        LazyLock::new(|| Arc::new(Pipeline { name: "unknown".to_owned(), stages: Vec::new() }));
    NONE.clone()
}

/// The same for its policy.
pub(crate) fn unfilled_policy() -> Arc<Policy> {
    static NONE: LazyLock<Arc<Policy>> = LazyLock::new(Arc::default);
    NONE.clone()
}
