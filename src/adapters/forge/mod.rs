//! Code hosts: where `main` lives and how it moves. Contents; the rules are in the files.

mod advance;
mod borrowed;
mod credential;
mod fake;
mod local;
mod note;
mod remote;

#[cfg(test)]
mod tests;

pub use borrowed::BorrowedForge;
pub use credential::credential_env;
pub use fake::{FakeForge, Fault};
pub use local::{ForgeSetupError, LocalForge, look_at};
pub use remote::{RemoteForge, check_url};
