//! Composition root.

pub mod config;
pub mod telemetry;
