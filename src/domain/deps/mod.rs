//! The dependency audit, as far as it is pure: which pinned dependencies a branch adds, and what advisories make of it.
//!
//! Owns the reading of lock files, the comparison of two commits, and the judgement. Invariants: no input makes it panic;
//! every bound that cuts something off leaves an [`lockfile::Unknown`], never a silence; a dependency is clean only when
//! somebody answered for exactly its name and version.

pub mod advisory;
pub mod cargo_lock;
pub mod changes;
pub mod ignore;
pub mod judge;
pub mod lockfile;
pub mod manifest;
pub mod npm_lock;
pub mod package;
pub mod python_locks;
pub mod requirements;
pub mod words;
