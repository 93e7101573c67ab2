//! The same as an ordinary user: root's tests of opening a folder and of a full disk are run once more as one.

use orch_test_support::users;

#[test]
fn opening_refusing_and_a_full_disk_are_the_same_for_an_ordinary_user() {
    users::pass_as_nobody(&["opening::", "disk::"], 2, 15);
}
