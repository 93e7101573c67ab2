//! Lets a test binary be its own shim program.
//!
//! Owns: a constructor that, when the program was started with [`ARGUMENT`] as its first argument, becomes the shim
//! before the test harness (and its threads) exist. So tests of every room can guard real processes without a built
//! binary lying somewhere. Only with the feature `self-exec`, which is for dev-dependencies; `orch` itself dispatches
//! `orch shim` in its `main`.

use std::path::PathBuf;

/// First argument that makes a test binary a shim.
pub const ARGUMENT: &str = "orch-shim-self-exec";

/// Program and arguments of a shim that is this very binary.
#[must_use]
pub fn command() -> (PathBuf, Vec<String>) {
    // Mentioning the constructor here makes the linker keep it in every binary that asks.
    std::hint::black_box(&CONSTRUCTOR);
    (PathBuf::from("/proc/self/exe"), vec![ARGUMENT.to_owned()])
}

#[used]
#[expect(unsafe_code, reason = "a constructor can only be placed by its section")]
// SAFETY: the C library calls every entry of this section with no preconditions on the callee.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = become_shim_if_asked;

extern "C" fn become_shim_if_asked() {
    if std::env::args().nth(1).as_deref() == Some(ARGUMENT) {
        let code = crate::main();
        let success = code == std::process::ExitCode::SUCCESS;
        std::process::exit(i32::from(!success));
    }
}
