//! `orch demo`: the arguments. The story itself is told by the composition root, which has the real engine.

use clap::Args;

/// Runs the real engine on a throw-away repository with a scripted agent, and tells what happens.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct DemoArgs {
    /// Plain lines only; the last one is `demo: ok`
    #[arg(long)]
    pub headless: bool,
    /// Keep the folder and print it
    #[arg(long)]
    pub keep: bool,
}
