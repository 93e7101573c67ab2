//! Gates: who may run one now, and how a repository's command is judged.
//!
//! [`GatePool`] owns the slots; [`GatePoolHandle`] is how others ask. [`checks`] runs a repository's command on a commit.
//! Work inside the pool hears by [`cancel`] that nobody wants it any more.

pub mod cancel;
pub mod checks;
mod command;
mod gate;
mod output;
mod pool;
mod queue;
mod scratch;
mod verdict;

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod pool_tests;

pub use pool::{GatePool, GatePoolHandle, Order, PoolArgs, PoolMsg, PoolState};
pub use queue::{GateOrder, HeldSlot, PoolSnapshot, WaitingGate, Work};
