//! Gates: who may run one now, and how a repository's command is judged.
//!
//! [`GatePool`] owns the slots; [`GatePoolHandle`] is how others ask. [`checks`] runs a repository's command on a commit;
//! each gate of the landing is a module of its own. What they share: a [`GateSubject`] is judged, a [`GateAnswer`] comes of
//! it, and `conclude` is the one way from what was found to a verdict that counts.
//! Work inside the pool hears by [`cancel`] that nobody wants it any more.

mod answer;
mod audit;
pub mod cancel;
pub mod checks;
mod command;
pub(crate) mod conclude;
pub mod coverage;
mod gate;
pub mod image;
pub mod merge;
mod output;
mod pool;
mod queue;
mod scratch;
pub mod security;
mod site;
pub mod testing;
mod verdict;

#[cfg(test)]
pub(crate) mod check_tests;
#[cfg(test)]
mod coverage_c8_tests;
#[cfg(test)]
mod coverage_lines_tests;
#[cfg(test)]
mod coverage_llvm_cov_tests;
#[cfg(test)]
mod coverage_pytest_tests;
#[cfg(test)]
mod coverage_settings_tests;
#[cfg(test)]
mod coverage_stands_tests;
#[cfg(test)]
mod coverage_tests;
#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod said_tests;
#[cfg(test)]
mod scratch_tests;
#[cfg(test)]
mod security_tests;

pub use answer::{Cause, GateAnswer, GateSubject, ReportRef};
pub use pool::{GatePool, GatePoolHandle, Order, PoolArgs, PoolMsg, PoolState};
pub use queue::{GateOrder, HeldSlot, PoolSnapshot, WaitingGate, Work};
