//! The advisory feeds: the contract that all of them keep, and what each does when its source is away, lies or dawdles.
//! pip-audit is the real one, confined, under a real shim; this test binary is its own shim program.

#[path = "advisories/api.rs"]
mod api;
#[path = "advisories/contract.rs"]
mod contract;
#[path = "advisories/folder.rs"]
mod folder;
#[path = "advisories/support.rs"]
mod support;
