//! The black-box tests of the whole: the real engine, real git, real processes; only the outside is faked.
//!
//! One binary, one file per behaviour; each test reads like a story told to the [`world`].

mod adopt;
mod after_landing;
mod as_user;
mod at_rest;
mod board;
mod by_hand;
mod chaos;
mod checks;
mod coverage;
mod crash;
mod dependencies;
mod deploy;
mod full;
mod image;
mod input;
mod interrupted;
mod lane;
mod lease;
mod merge_gate;
mod modes;
mod order;
mod pipeline;
mod proof;
mod race;
mod retries;
mod runs;
mod security;
mod standstill;
mod steps;
mod stop;
mod stop_crash;
mod stop_losses;
mod stop_moments;
mod stop_verbs;
mod stop_ways;
mod unfinished;
mod unreadable;
mod upkeep;
mod users;
mod verbs;
mod walls;
mod world;
