//! Real shims and real processes: the zoo of escapes, every way to end, adoption, confinement, and the contract that
//! the fake placement shares. This test binary is its own shim program.

#[path = "jobs/confinement.rs"]
mod confinement;
#[path = "jobs/contract.rs"]
mod contract;
#[path = "jobs/defence.rs"]
mod defence;
#[path = "jobs/earlier.rs"]
mod earlier;
#[path = "jobs/ends.rs"]
mod ends;
#[path = "jobs/loss.rs"]
mod loss;
#[path = "jobs/output.rs"]
mod output;
#[path = "jobs/runner.rs"]
mod runner;
#[path = "jobs/support.rs"]
mod support;
#[path = "jobs/user.rs"]
mod user;
#[path = "jobs/zoo.rs"]
mod zoo;
