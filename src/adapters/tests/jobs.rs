//! Real shims and real processes: the zoo of escapes, every way to end, adoption, confinement, and the contract that
//! the fake placement shares. This test binary is its own shim program.

#[path = "jobs/support.rs"]
mod support;

#[path = "jobs/ends.rs"]
mod ends;
