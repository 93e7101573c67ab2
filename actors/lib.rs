//! Room `actors`: the supervision tree. Decisions come from domain, effects go to adapters.

pub mod api;
