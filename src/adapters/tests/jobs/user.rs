//! The same as an ordinary user: root's tests are run once more as one.

use orch_test_support::users;

/// What is run again: everything here but what runs it.
const AGAIN: [&str; 9] =
    ["zoo::", "loss::", "confinement::", "ends::", "defence::", "contract::", "earlier::", "output::", "runner::"];

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    users::pass_as_nobody(&AGAIN, 2, 60);
}
