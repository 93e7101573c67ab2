//! The black-box tests of the whole: the real engine, real git, real processes; only the outside is faked.
//!
//! One binary, one file per behaviour; each test reads like a story told to the [`world`].

mod checks;
mod full;
mod pipeline;
mod retries;
mod world;
