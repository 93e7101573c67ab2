//! Room `actors`: the supervision tree. Decisions come from domain, effects go to adapters.
//!
//! ```text
//! RootSupervisor            one for one, backoff, budget
//! ├─ LedgerActor            upkeep of the store
//! ├─ GatePool ─ GateActor   bounded slots, one kept for the lease holder
//! ├─ RepoLeaseActor / repo  the lane: lease, catch-up, landing, deploy
//! ├─ OutboxActor            committed effects to the outside
//! ├─ TaskRouter             events to tasks, slots, turns
//! │   └─ TaskActor / task   load, decide, commit, carry out
//! │       └─ AgentActor     one agent run
//! └─ Reconciler             recorded against seen
//! ```
//!
//! Handlers decide, side tasks do: no handler waits for a process, git, HTTP or a gate. [`System`](system::System) starts
//! and stops the whole; [`Control`](api::Control) is all that http and cli may ask.

pub mod agent;
pub mod api;
pub mod artefacts;
pub mod attempt;
pub mod bound;
pub mod checks;
pub mod context;
pub mod deploy;
pub mod directory;
pub mod disk;
pub mod gates;
pub mod handle;
pub mod ids;
pub mod intake;
pub mod landing;
pub mod lane;
pub mod lease;
pub mod ledger;
pub mod local_tracker;
pub mod logs;
mod merged;
pub mod outbox;
mod receipts;
pub mod reconciler;
pub mod restart;
pub mod root;
pub mod router;
mod run_rows;
pub mod settle;
pub mod snapshots;
pub mod standstill;
pub mod stop_saga;
#[cfg(test)]
mod stop_saga_tests;
pub mod system;
pub mod tally;
pub mod task;
pub mod turns;
pub mod upkeep;
