//! Room test support: what tests need from outside the project, pinned and installed on demand.
//!
//! Owns: the tools of [`tools`] and [`measuring`], the way they are installed ([`install`]), a driver for the headless browser
//! ([`browser`]), what STOP is measured against ([`rivals`]), real git servers ([`git_server`]) and an advisory service
//! ([`osv`]) on loopback, root's tests once more as an ordinary user ([`users`]). Refuses: to skip quietly.
//! A tool that cannot be had fails the test that asked for it, and says what to do.
//! Invariant: production code never depends on this crate (`tests/house.rs` keeps that).

pub mod browser;
pub mod git_server;
pub mod install;
pub mod measuring;
pub mod osv;
pub mod rivals;
pub mod tools;
pub mod users;
