//! Room `domain`: the rules, pure. No tokio, no clock, no files, no SQL, no randomness.
//!
//! Start with [`pipeline`] and [`decide`]; everything else is vocabulary.

pub mod agent;
pub mod artefact;
pub mod blocked;
pub mod coverage;
pub mod decide;
pub mod deploys;
pub mod deps;
pub mod detect;
pub mod effect;
pub mod event;
pub mod gate;
pub mod ids;
pub mod image;
pub mod job;
pub mod journal;
pub mod landing;
pub mod lane;
mod lean;
pub mod left;
pub mod names;
pub mod pipeline;
pub mod policy;
pub mod reconcile;
pub mod samples;
pub mod stop;
pub mod table;
pub mod task;
pub mod testcount;
pub mod testnames;
pub mod time;
pub mod tombstone;
pub mod turns;
pub mod variables;
pub mod view;
