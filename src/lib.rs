//! `orch`: door and wiring. A configuration goes in, a running system comes out.

pub mod cli;
pub mod config;
pub mod engine;
pub mod http;
pub mod telemetry;
