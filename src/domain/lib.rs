//! Room `domain`: the rules, pure. No tokio, no clock, no files, no SQL, no randomness.
//!
//! Start with [`stage`](crate::pipeline) and [`decide`](crate::decide); everything else is vocabulary.

pub mod agent;
pub mod ids;
pub mod job;
pub mod names;
pub mod time;
