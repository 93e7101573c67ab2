//! Bad input, and what root may do anyway, as an ordinary user: root's tests are run once more as one.
//!
//! What is refused must not hang on who asks: root may write where a user may not, so one of the two alone proves half.

use orch_test_support::users;

/// What is run again, by the names of tests.
const AGAIN: [&str; 15] = [
    "at_rest::",
    "verbs::what_cannot_run",
    "verbs::settings_that_cannot_be_used",
    "verbs::serve_refuses",
    "verbs::inside_a_job",
    "verbs::run_ends_with",
    "runs::what_cannot_be_tested",
    "runs::a_repository_that_may_not_be_written",
    "runs::what_is_wrong_with",
    "runs::a_supervisor_that_refuses",
    "input::what_is_no_usable_repository",
    "input::names_from_outside",
    "interrupted::what_an_interrupted_run_left",
    "unreadable::",
    "stop_ways::what_its_own_modes_close",
];

#[test]
fn bad_input_is_refused_for_an_ordinary_user_as_it_is_for_root() {
    users::pass_as_nobody(&AGAIN, 2, 18);
}
