//! Room `adapters`: the ports and their implementations. They return facts, never verdicts.

pub mod advisories;
pub mod agents;
pub mod disk;
pub mod forge;
pub mod git;
pub mod images;
pub mod jobs;
pub mod notify;
pub mod ports;
pub mod reports;
pub mod secrets;
