//! The store against real SQLite files, through its public face only.
//!
//! One binary, one module per promise: fences, groups, kill -9, opening and refusing, backup and restore, a full disk, and
//! the tables one by one. Tests hand times in; nothing sleeps.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod as_user;
mod coverage;
mod disk;
mod fences;
mod groups;
mod kill;
mod lane;
mod opening;
mod prune;
mod support;
mod tables;
mod unreadable;
